"""Weights whose codes oscillate: counted by the paper's formula, frozen and dampened, on every backend and in every file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from command import run
from frameworks import HERE

import qat
from qat.cells.base import Quantized
from qat.cells.oscillation import FREE, OscillationTracker
from qat.data import Split
from qat.deploy.verify import verify
from qat.passes.track_oscillations import track_oscillations
from qat.training.dampening import Dampened, dampening
from qat.training.optimizer import Optimizer
from qat.training.oscillations import Oscillations, oscillating, tracked_cells
from qat.vocabulary.numpy_ops import NUMPY_OPS

Array = npt.NDArray[Any]
F = np.float32
TORCH = qat.backend("torch")
SCALE = F(0.25)


class Small(qat.Network):
    """A convolution, a depthwise one with batch normalisation and a dense layer."""

    def __init__(self) -> None:
        self.inputs = qat.Input((1, 6, 6), mean=0.3, std=0.3)
        self.conv = qat.Conv2dBnAct(1, 4, 3, has_bn=True, activation="relu")
        self.depthwise = qat.Conv2dBnAct(4, 4, 3, 2, group=4, has_bias=True, activation="relu")
        self.flatten = qat.Flatten()
        self.fc = qat.DenseBnAct(36, 3)

    def construct(self, x):
        return self.fc(self.flatten(self.depthwise(self.conv(x))))


class One(qat.Network):
    """A single dense layer, whose codes the tests choose."""

    def __init__(self) -> None:
        self.inputs = qat.Input((2, 1, 1))
        self.flatten = qat.Flatten()
        self.fc = qat.DenseBnAct(2, 3)

    def construct(self, x):
        return self.fc(self.flatten(x))


def samples(shape: tuple[int, ...], count: int = 32) -> tuple[Array, Array]:
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (count, *shape), np.uint8), rng.integers(0, 3, count)


def dataset() -> qat.Dataset:
    split = Split(*samples((1, 6, 6)))
    return qat.Dataset("noise", "from Python", split, split)


def start(weights: Any = None, **settings: Any) -> qat.Checkpoint:
    weights = weights or qat.LSQWeightQuantizer(3, per_channel=True, narrow_range=True)
    graph = qat.convert_quant_network(
        Small(), weight_quantizer=weights, activation_quantizer=qat.LSQActivationQuantizer(4), **settings
    )
    return qat.Checkpoint(graph, graph.params_from(Small().graph().initial_params(1)))


def one(tracker: OscillationTracker) -> tuple[qat.Graph, dict[str, Array]]:
    """The dense layer with a learned scale of 1/4 in its weights."""
    graph = qat.convert_quant_network(One(), weight_quantizer=qat.LSQWeightQuantizer(4))
    graph, params = track_oscillations(graph, graph.observed_params(), tracker)
    return graph, params | {"fc.weight_initial_scale": np.array(SCALE)}


def codes_over_time(steps: int) -> Array:
    """Codes -7 to 7 of six weights: one that stays, one that grows, one that jumps to and fro, others at random."""
    rng = np.random.default_rng(1)
    codes = rng.integers(-7, 8, (steps, 3, 2))
    codes[:, 0, 0] = 3
    codes[:, 0, 1] = np.arange(steps) // 4 - 2
    codes[:, 1, 0] = np.arange(steps) % 2
    return codes


class Transcription:
    """Nagel et al., arXiv 2203.11086, section 2.3, equation 4 and algorithm 1, weight by weight in float32."""

    def __init__(self, codes: Array, m: float) -> None:
        self.m = F(m)
        self.last, self.direction = codes.astype(F), np.zeros(codes.shape, F)
        self.f, self.mean, self.frozen = np.zeros(codes.shape, F), codes.astype(F), np.full(codes.shape, F(FREE))

    def step(self, codes: Array, threshold: float) -> None:
        for at in np.ndindex(codes.shape):
            code = F(codes[at]) if self.frozen[at] == FREE else self.frozen[at]
            change = np.sign(code - self.last[at])
            o = F(change != 0 and change == -self.direction[at])
            self.f[at] = self.f[at] + (o - self.f[at]) * self.m
            self.mean[at] = self.mean[at] + (code - self.mean[at]) * self.m
            if change != 0:
                self.direction[at] = change
            self.last[at] = code
            if self.f[at] > F(threshold) and self.frozen[at] == FREE:
                self.frozen[at] = np.rint(self.mean[at])

    def state(self) -> dict[str, Array]:
        return {
            "last_code": self.last,
            "last_direction": self.direction,
            "frequency": self.f,
            "mean_code": self.mean,
            "frozen_code": self.frozen,
        }


# -- counting and freezing -------------------------------------------------------------------------------------------


def test_the_formula_is_the_paper_s() -> None:
    tracker, codes = OscillationTracker(0.1, freezes=True), codes_over_time(40)
    expected = Transcription(codes[0], 0.1)
    shape = codes.shape[1:]
    own = {name: param.create(0, name) for name, param in tracker.params(shape, "dense_weight").items()}
    own = {name: NUMPY_OPS.from_numpy(array, "dense_weight" if array.ndim else "scalar") for name, array in own.items()}
    own["freeze_threshold"] = np.array([0.3], F)
    for step, each in enumerate(codes):
        seen = np.where(own["frozen_code"] < FREE, own["frozen_code"], each.astype(F))
        own |= tracker.follow(NUMPY_OPS, seen, own)
        if step:
            expected.step(each, 0.3)
        for name, array in expected.state().items():
            np.testing.assert_array_equal(own[name], array, err_msg=f"{name}, step {step}")
    assert own["frozen_code"][1, 0] in (0, 1)  # to and fro
    assert (own["frozen_code"][0] == FREE).all()  # that stays, that grows
    assert own["frequency"][0, 0] == own["frequency"][0, 1] == 0.0


@pytest.mark.parametrize("name", HERE)
def test_every_backend_counts_and_freezes_the_same(name: str) -> None:
    """The host moves the weights, so that the codes are known; the state is equal in all bits."""
    backend, tracker = qat.backend(name), OscillationTracker(0.1, freezes=True)
    graph, params = one(tracker)
    codes = codes_over_time(12)
    model = backend.lower(graph, params, device_target="CPU")
    step = backend.make_step(model, Optimizer())
    x, y = samples((2, 1, 1), 4)
    expected = Transcription(codes[0], 0.1)
    for number, each in enumerate(codes):
        told = {"fc.weight": each.astype(F) * SCALE, "fc.weight_freeze_threshold": np.array(0.25, F)}
        backend.write(model, told)
        step(x, y, 0.0)
        if number:
            expected.step(each, 0.25)
    found = backend.read(model)
    for local, array in expected.state().items():
        np.testing.assert_array_equal(found[f"fc.weight_{local}"], array, err_msg=local)
    frozen = expected.frozen < FREE
    assert frozen.any()
    assert not frozen.all()
    deployed = {node.name: node for node in model.integers().nodes}["fc"].weight
    np.testing.assert_array_equal(deployed[frozen], expected.frozen[frozen])
    np.testing.assert_array_equal(deployed[~frozen], codes[-1][~frozen])


def test_frozen_codes_stay_whatever_weight_and_scale_do() -> None:
    """In training, in the integers, and in a file, whose every code is compared."""
    graph, params = one(OscillationTracker(freezes=True))
    frozen = np.array([[5, FREE], [FREE, -3], [0, FREE]], F)
    rng = np.random.default_rng(2)
    for scale in (0.01, 0.25, 3.0):
        own = params | {
            "fc.weight_frozen_code": frozen,
            "fc.weight": rng.normal(size=(3, 2)).astype(F),
            "fc.weight_initial_scale": np.array(scale, F),
        }
        weight = {node.name: node for node in qat.to_integer(graph, own).nodes}["fc"].weight
        np.testing.assert_array_equal(weight[frozen < FREE], [5, -3, 0])


def test_a_frozen_weight_gets_no_gradient_and_its_scale_does() -> None:
    import torch

    graph, params = one(OscillationTracker(freezes=True))
    model = TORCH.lower(graph, params | {"fc.weight_frozen_code": np.array([[5, FREE]] * 3, F)}, device_target="CPU")
    x, _ = samples((2, 1, 1), 4)
    model.train()(torch.from_numpy(x)).sum().backward()
    tensors: Any = model.tensors
    gradient = tensors["fc.weight"].grad.numpy()
    assert (gradient[:, 0] == 0.0).all()
    assert (gradient[:, 1] != 0.0).all()
    assert float(tensors["fc.weight_scale_change"].grad) != 0.0


@pytest.mark.parametrize("weights", [None, qat.WeightQuantizer(3), qat.WeightQuantizer(4, per_channel=True)])
def test_training_freezes_and_the_file_has_the_codes(weights: Any, tmp_path: Path) -> None:
    """Batch normalisation folded (one scale) and not; a threshold that is exceeded at once."""
    settings = Oscillations(freeze=0.005, freeze_from=0.005, momentum=0.01)
    recipe = qat.Recipe(epochs=6, batch_size=8, lr=0.05, oscillations=settings)
    end = qat.train(TORCH, start(weights), dataset(), recipe)
    found = oscillating(end.graph, end.params)
    assert [each.name for each in found] == ["conv", "depthwise", "fc"]
    assert sum(each.frozen for each in found) > 0
    nodes: Any = {node.name: node for node in qat.to_integer(end.graph, end.params).nodes}
    frozen = end.params["fc.weight_frozen_code"]
    np.testing.assert_array_equal(nodes["fc"].weight[frozen < FREE], frozen[frozen < FREE])
    path = tmp_path / "net.onnx"
    target = qat.target("ONNX")
    integers = qat.to_integer(end.graph, end.params)
    target.export(integers, path)
    images = dataset().test.images
    certificate = verify(path, target, TORCH, end, dataset().test, data="noise")
    assert certificate.passed
    assert len(images) == 32


def test_resuming_repeats(tmp_path: Path) -> None:
    settings = Oscillations(freeze=0.005, freeze_from=0.02, dampen=1e-3)
    recipe = qat.Recipe(epochs=4, batch_size=8, lr=0.05, oscillations=settings)
    end = qat.train(TORCH, start(), dataset(), recipe)
    half = qat.train(TORCH, start(), dataset(), recipe, stop_after=2)
    half.save(tmp_path / "half.ckpt")
    resumed = qat.train(TORCH, qat.Checkpoint.load(tmp_path / "half.ckpt"), dataset(), recipe)
    for name, array in end.params.items():
        np.testing.assert_array_equal(resumed.params[name], array, err_msg=name)
    assert any((half.params[name] != end.params[name]).any() for name in end.params)
    other = replace(recipe, oscillations=Oscillations(freeze=0.006, freeze_from=0.02, dampen=1e-3))
    with pytest.raises(qat.QatError, match="trained with oscillations"):
        qat.train(TORCH, half, dataset(), other)


def test_without_it_nothing_is_there() -> None:
    end = qat.train(TORCH, start(), dataset(), qat.Recipe(epochs=1, batch_size=16))
    assert tracked_cells(end.graph) == []
    assert not any("frequency" in name or "code" in name for name in end.params)


def test_counting_changes_no_bit_of_the_training() -> None:
    recipe = qat.Recipe(epochs=5, batch_size=8, lr=0.1)
    plain = qat.train(TORCH, start(), dataset(), recipe)
    counted = qat.train(TORCH, start(), dataset(), replace(recipe, oscillations=Oscillations()))
    for name, array in plain.params.items():
        np.testing.assert_array_equal(counted.params[name], array, err_msg=name)
    assert sum(each.oscillating for each in oscillating(counted.graph, counted.params)) > 0


@pytest.mark.parametrize(
    "weights",
    [qat.TernaryWeightQuantizer(), qat.WeightQuantizer(4, symmetric=False), qat.LearnedWidthWeightQuantizer(4)],
)
def test_other_quantizers_are_refused_by_name(weights: Any) -> None:
    with pytest.raises(qat.QatError, match=f"conv: oscillations of a {type(weights).__name__} cannot be tracked"):
        qat.train(TORCH, start(weights), dataset(), qat.Recipe(epochs=1, oscillations=Oscillations()))


def test_a_float_network_has_none() -> None:
    graph = Small().graph()
    with pytest.raises(qat.QatError, match="has no quantized weights"):
        track_oscillations(graph, graph.initial_params(), OscillationTracker())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"freeze": 0.0}, "freeze_oscillations is 0.0"),
        ({"freeze": 1.5}, "freeze_oscillations is 1.5"),
        ({"freeze_from": 0.1}, "freeze says nothing"),
        ({"freeze": 0.2, "freeze_from": 0.1}, "falls to 0.2"),
        ({"dampen": -1.0}, "dampen is -1.0"),
        ({"momentum": 0.0}, "momentum is 0.0"),
    ],
)
def test_wrong_settings_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(qat.QatError, match=message):
        Oscillations(**fields)


def test_parts_of_a_batch_are_no_steps() -> None:
    with pytest.raises(qat.QatError, match="counted once in a pass, but accumulate is 2"):
        qat.Recipe(optimizer=Optimizer(accumulate=2), oscillations=Oscillations())


def test_the_schedules_are_half_cosines() -> None:
    settings = Oscillations(freeze=0.02, freeze_from=0.06, dampen=2.0)
    assert [settings.threshold(step, 8) for step in (-5, 0, 4, 8, 9)] == pytest.approx([0.06, 0.06, 0.04, 0.02, 0.02])
    assert [settings.weight(step, 8) for step in (-5, 0, 4, 8, 9)] == pytest.approx([0.0, 0.0, 1.0, 2.0, 2.0])


# -- dampening -------------------------------------------------------------------------------------------------------


def penalty(weight: Array, scale: float) -> float:
    """Equation 6 by hand: 3-bit codes -4 to 3 of one scale."""
    codes = np.clip(np.rint(weight / scale), -4, 3)
    return float(np.sum((codes * scale - np.clip(weight, -4 * scale, 3 * scale)) ** 2))


@pytest.mark.parametrize("name", HERE)
def test_dampening_and_its_gradient(name: str) -> None:
    """The value by hand, and the gradient 2 (w - v) inside the range, 0 outside: read from one step of plain SGD."""
    backend, rate, factor = qat.backend(name), F(0.5), F(0.25)
    graph = qat.convert_quant_network(One(), weight_quantizer=qat.LSQWeightQuantizer(3))
    graph, params = track_oscillations(graph, graph.observed_params(), OscillationTracker(dampens=True))
    weight = np.array([[0.1, -0.9], [-2.0, 0.6], [0.95, 1.2]], F)  # -2.0 and 1.2 lie outside
    params |= {"fc.weight": weight, "fc.weight_initial_scale": np.array(SCALE), "fc.weight_dampening": np.array(factor)}
    model = backend.lower(graph, params, device_target="CPU")
    step = backend.make_step(
        model, Optimizer(momentum=0.0), Dampened(lambda ops, outputs, labels: ops.mean(outputs) * 0.0)
    )
    loss = step(*samples((2, 1, 1), 4), float(rate))
    moved = backend.read(model)["fc.weight"] - weight
    assert loss == pytest.approx(factor * penalty(weight, SCALE), rel=1e-5)
    assert step.terms()["dampening"] == pytest.approx(loss, rel=1e-6)
    codes = np.clip(np.rint(weight / SCALE), -4, 3) * SCALE
    inside = (weight >= -4 * SCALE) & (weight <= 3 * SCALE)
    np.testing.assert_allclose(moved, -rate * factor * 2 * (weight - codes) * inside, atol=1e-6)


def test_the_gradient_of_dampening_numerically() -> None:
    weight = np.random.default_rng(3).normal(0, 0.5, (4, 5)).astype(np.float64)
    own = {"scale_change": np.zeros(1, F), "initial_scale": np.array([0.25], F)}
    quantizer = qat.LSQWeightQuantizer(3)

    def value(w: Array) -> float:
        return float(dampening(NUMPY_OPS, Quantized(quantizer, w.astype(F), own, w.size))[()].item())

    assert value(weight) == pytest.approx(penalty(weight, 0.25), rel=1e-5)
    assert value(weight) != pytest.approx(penalty(weight, 0.3), rel=1e-2)
    inside = (weight > -0.99) & (weight < 0.74)
    at = tuple(np.argwhere(inside)[0])
    change = np.zeros_like(weight)
    change[at] = 1e-3
    slope = (value(weight + change) - value(weight - change)) / 2e-3
    code = np.clip(np.rint(weight[at] / 0.25), -4, 3)
    assert slope == pytest.approx(2 * (weight[at] - code * 0.25), abs=2e-3)


def test_dampening_goes_with_another_objective() -> None:
    settings = Oscillations(dampen=1e-2)
    recipe = qat.Recipe(epochs=2, batch_size=8, lr=0.01, oscillations=settings)
    seen: list[dict[str, Array]] = []
    qat.train(
        TORCH,
        start(),
        dataset(),
        recipe,
        objective=qat.Distillation(own_teacher=True),
        watch=lambda done, step, labels: seen.append(step.terms()),
    )
    assert list(seen[-1]) == ["loss", "cross_entropy", "distillation_loss", "dampening"]
    assert seen[0]["dampening"] == 0.0 < seen[-1]["dampening"]  # lambda rises from 0


# -- commands --------------------------------------------------------------------------------------------------------


def test_the_command_freezes_and_reports(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    source, path = tmp_path / "float.ckpt", tmp_path / "quant.ckpt"
    status, _, error = run(
        capsys, "train", "--network", "lenet", "--data_path", "digits", "--epochs", 1, "--save_path", source
    )
    assert status == 0, error
    command = ["train-quant", "--ckpt_path", source, "--data_path", "digits", "--num_bits", 3, "--save_path", path]
    status, out, error = run(capsys, *command, "--epochs", 2, "--freeze_oscillations", 0.005, "--dampen", 0.001)
    assert status == 0, error
    assert "oscillations: frequency above 0.005" in out
    assert "3/3: learned scales (LSQ)" in out
    saved = qat.Checkpoint.load(path)
    assert saved.history[0]["oscillations"]["freeze"] == 0.005
    status, out, error = run(
        capsys, *command, "--epochs", 2, "--freeze_oscillations", 0.005, "--dampen", 0.001, "--resume"
    )
    assert status == 0, error
    status, _, error = run(capsys, *command, "--epochs", 1, "--count_oscillations", "--symmetric", "false")
    assert (status, "cannot be tracked" in error) == (2, True)
