"""Learned rounding: its formulas, codes are those chosen, errors fall, all backends and files have the same codes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from calibrations import PLAIN, calibrate
from frameworks import HERE

import qat
from qat.analysis import moment_rounding
from qat.cells.chosen_codes import weight_grid, with_codes, with_kept_scale, with_least_error
from qat.cli import main
from qat.errors import QatError, QatWarning
from qat.networks import ResNet8
from qat.passes.blocks import block_graph, blocks
from qat.training.forward import NodeLoop
from qat.training.soft_rounding import (
    Reconstruction,
    SoftWeight,
    beta_at,
    factor_at,
    rectified_sigmoid,
    regularizer,
    start_of,
)
from qat.vocabulary.numpy_ops import NUMPY_OPS
from qat.vocabulary.ops import Array

NORMAL = np.random.default_rng(3)


class Normalised(qat.Network):
    """Each channel has a mean of its own, where a convolution pads; a transposed convolution; a cell that is used twice."""

    def __init__(self) -> None:
        self.inputs = qat.Input((3, 8, 8), mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3))
        self.first = qat.Conv2dBnAct(3, 8, 3, stride=2, has_bn=True, activation="relu")
        self.up = qat.ConvTranspose2dBnAct(8, 6, 2, stride=2, has_bn=True, activation="relu6")
        self.pool, self.norm = qat.MaxPool2d(2, 2), qat.BatchNorm(6)
        self.depthwise = qat.Conv2dBnAct(6, 6, 3, group=6, activation="relu")
        self.again = qat.Conv2dBnAct(6, 6, 1, has_bias=True, activation="relu")
        self.flatten, self.fc = qat.Flatten(), qat.DenseBnAct(24, 4)

    def construct(self, x):  # type: ignore[no-untyped-def]
        x = self.norm(self.pool(self.up(self.first(x))))
        return self.fc(self.flatten(self.pool(self.again(self.again(self.depthwise(x))))))


class Small(qat.Network):
    """A convolution, a residual block, and a dense layer, with batch normalisations."""

    def __init__(self) -> None:
        self.inputs = qat.Input((3, 8, 8), mean=0.5, std=0.25)
        self.first = qat.Conv2dBnAct(3, 8, 3, has_bn=True, activation="relu")
        self.one = qat.Conv2dBnAct(8, 8, 3, has_bn=True, activation="relu")
        self.two = qat.Conv2dBnAct(8, 8, 3, has_bias=True)
        self.add, self.pool, self.flatten = qat.Add("relu"), qat.AvgPool2d(4, 4), qat.Flatten()
        self.fc = qat.DenseBnAct(32, 4)

    def construct(self, x):  # type: ignore[no-untyped-def]
        x = self.first(x)
        x = self.add(x, self.two(self.one(x)))
        return self.fc(self.flatten(self.pool(x)))


def trained_like(graph: qat.Graph, seed: int = 0) -> dict[str, Array]:
    """Parameters with batch normalisations that do something, negative factors among them."""
    random, params = np.random.default_rng(seed), graph.initial_params(seed)
    for name, array in params.items():
        if name.endswith("gamma"):
            params[name] = (random.uniform(0.5, 1.5, array.shape) * random.choice([-1, 1, 1], array.shape)).astype(
                np.float32
            )
        elif name.endswith("moving_variance"):
            params[name] = random.uniform(0.5, 2.0, array.shape).astype(np.float32)
        elif name.endswith(("beta", "moving_mean", "bias")):
            params[name] = random.normal(0, 0.3, array.shape).astype(np.float32)
    return params


PARAMS = trained_like(Small().graph())
#: Smooth pictures, so that channels depend on one another as those of photographs do.
IMAGES = np.clip(np.cumsum(np.random.default_rng(1).normal(0, 30, (256, 3, 8, 8)), axis=3) + 128, 0, 255).astype(
    np.uint8
)
ROUNDING = qat.LearnedRounding(iterations=100, batch_size=16, backend="torch")


def learned(rounding: qat.LearnedRounding = ROUNDING, **settings: Any) -> qat.Checkpoint:
    return calibrate(Small(), PARAMS, IMAGES, rounding=rounding, **{"num_bits": (2, 8), **settings})


@pytest.fixture(scope="module")
def checkpoint() -> qat.Checkpoint:
    return learned()


# -- formulas ---------------------------------------------------------------------------------------------------------


def test_soft_rounding_is_the_formula_of_the_paper() -> None:
    v = np.linspace(-6, 6, 101).astype(np.float32)
    expected = np.clip(1.2 / (1 + np.exp(-v.astype(np.float64))) - 0.1, 0, 1)
    h = rectified_sigmoid(NUMPY_OPS, v)
    assert np.abs(h - expected).max() < 1e-6
    assert h.min() == 0.0
    assert h.max() == 1.0
    for beta in (20.0, 7.0, 2.0):
        penalty = regularizer(NUMPY_OPS, h, np.float32(beta))
        assert np.abs(penalty - (1 - np.abs(2 * expected - 1) ** beta)).max() < 1e-5
    assert np.abs(penalty - (1 - np.abs(2 * expected - 1) ** 3.0)).max() > 0.1  # it tells other exponents


def test_soft_rounding_begins_with_the_float_weight() -> None:
    share = np.linspace(0, 1, 33)
    assert np.abs(rectified_sigmoid(NUMPY_OPS, start_of(share)) - share).max() < 1e-6


def test_the_exponent_is_annealed_from_20_to_2() -> None:
    assert [beta_at(share) for share in (0.0, 0.2, 0.5, 0.8, 1.0)] == pytest.approx([20.0, 20.0, 11.0, 2.0, 2.0])
    assert [factor_at(share) for share in (0.0, 0.19, 0.2, 0.5, 0.8, 1.0)] == pytest.approx([0, 0, 1, 10, 100, 100])


def test_the_gradient_of_the_objective_is_that_of_its_values() -> None:
    """By finite differences in float32, of V, with the penalty; what is fixed gets none."""
    import torch

    class Layer(qat.Network):
        def __init__(self) -> None:
            self.inputs = qat.Input((6,), dtype="float32")
            self.fc = qat.DenseBnAct(6, 3)

        def construct(self, x):  # type: ignore[no-untyped-def]
            return self.fc(x)

    graph, random = Layer().graph(), np.random.default_rng(0)
    step = random.uniform(0.2, 0.4, (3, 6)).astype(np.float32)
    step[0, 0] = 0.0
    soft = SoftWeight(random.normal(0, 1, (3, 6)).astype(np.float32), step, "dense_weight")
    objective = Reconstruction({"fc.weight": soft}, (0.5,))
    params = {"fc.weight": random.normal(0, 1, (3, 6)).astype(np.float32), "fc.bias": np.ones(3, np.float32)}
    x, y = random.normal(0, 1, (8, 6)).astype(np.float32), random.normal(0, 1, (8, 3)).astype(np.float32)
    rows = np.ones((8, 1), np.float32)

    def loss(v: Array) -> tuple[Any, Any]:
        model = qat.backend("torch").lower(graph, {**params, "fc.weight": v}).train()
        given = tuple(map(torch.from_numpy, (y, rows * 4, rows * 0.3)))
        terms, updates = model.terms(model.tensors, (torch.from_numpy(x),), given, phase=0, loss=objective)
        assert updates == {}
        return model, terms["loss"]

    model, value = loss(params["fc.weight"])
    value.backward()
    gradient = model.fc.weight.grad.numpy()
    assert model.fc.bias.grad is None
    for at in np.ndindex(3, 6):
        around = []
        for change in (-1e-2, 1e-2):
            v = params["fc.weight"].copy()
            v[at] += change
            around.append(loss(v)[1].item())
        # Of float32 losses near 1, whose second derivatives are below 10.
        assert gradient[at] == pytest.approx((around[1] - around[0]) / 2e-2, abs=2e-3)
    assert gradient[0, 0] == 0.0
    assert np.abs(gradient).max() > 0.05


# -- codes ------------------------------------------------------------------------------------------------------------

KINDS: dict[str, dict[str, Any]] = {
    "min/max": {},
    "one scale": {"per_channel": False},
    "affine": {"symmetric": (False, False)},
    "narrow, 8 bits": {"num_bits": 8, "narrow_range": True},
    "16 bits": {"num_bits": (16, 8)},
    "2 bits": {"num_bits": (2, 8)},
    "folded": {"bn_fold": True},
    "power of two": {"weight_quantizer": qat.WeightQuantizer(4, power_of_two=True)},
    "LSQ": {"weight_quantizer": qat.LSQWeightQuantizer(4, per_channel=True, narrow_range=True)},
    "LSQ, one scale": {"weight_quantizer": qat.LSQWeightQuantizer(3), "bn_fold": True},
}


def layers_of(graph: qat.Graph, params: dict[str, Array]) -> list[tuple[Any, dict[str, Array], str]]:
    return [
        (node.cell, {local: params[f"{node.cell_name}.{local}"] for local in node.cell.params()}, node.cell_name)
        for node in graph.nodes
        if isinstance(node.cell, qat.Cell) and getattr(node.cell, "weight_quantizer", None) is not None
    ]


@pytest.mark.parametrize("clipped", [False, True], ids=["", "clipped"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_moved_weight_has_the_codes_that_were_chosen(kind: str, clipped: bool) -> None:
    """Any choice of the code below or above: the integers of deployment are it, also with signs of gamma and folded weights."""
    before = calibrate(Small(), PARAMS, IMAGES[:8], **{"num_bits": (4, 8), **KINDS[kind]})
    random, after, chosen = np.random.default_rng(0), dict(before.params), {}
    scales = {
        node.name: node.inputs[0].grid.scale
        for node in qat.to_integer(before.graph, before.params).nodes
        if hasattr(node, "weight")
    }
    for cell, own, name in layers_of(before.graph, before.params):
        own = with_kept_scale(cell, own, scales[name])
        own = with_least_error(cell, own, scales[name]) if clipped else own
        grid = weight_grid(cell, own, scales[name])
        codes = np.floor(grid.position) + random.integers(0, 2, grid.position.shape)
        moved = with_codes(cell, own, scales[name], codes)
        after |= {f"{name}.{local}": array for local, array in moved.items()}
        chosen[name] = np.where(grid.free, codes, grid.codes)
        assert np.abs(chosen[name] - grid.position)[grid.free].max() <= 1.0
        assert np.abs(grid.codes - grid.position)[grid.free].max() <= 0.5 + 1e-2  # ties of a float32 product
        assert grid.free.mean() > 0.5
    integers = {node.name: node for node in qat.to_integer(before.graph, after).nodes if hasattr(node, "weight")}
    changed = 0
    for cell, own, name in layers_of(before.graph, after):
        node = integers[name]
        centred = node.weight - node.weight_zero_point.reshape(-1, *(1,) * (node.weight.ndim - 1))
        signs = np.ones(len(centred))
        if cell.has_bn and cell.bn_fold is None:
            signs = np.sign(own["gamma"])
        assert np.array_equal(centred * signs.reshape(-1, *(1,) * (centred.ndim - 1)), chosen[name]), name
        changed += np.count_nonzero(chosen[name] != weight_grid(cell, own, scales[name]).position)
    assert changed or kind == "2 bits"


def test_codes_that_a_quantizer_would_not_give_are_refused() -> None:
    cell = qat.DenseBnAct(512, 2, weight_quantizer=qat.WeightQuantizer(4))
    own = {
        "weight": np.random.default_rng(0).normal(0, 1, (2, 512)).astype(np.float32),
        "bias": np.zeros(2, np.float32),
    }
    codes = weight_grid(cell, own, 1.0).codes
    with pytest.raises(QatError, match="changes with the weights"):
        with_codes(cell, own, 1.0, codes * 0 + 30.0)
    for quantizer in (
        qat.TernaryWeightQuantizer(),
        qat.GTCWeightQuantizer(4),
        qat.DoReFaWeightQuantizer(4),
        qat.BinaryWeightQuantizer(),
    ):
        state = {f"weight_{name}": param.create(0, name) for name, param in quantizer.params((2, 512)).items()}
        with pytest.raises(QatError, match=f"a {type(quantizer).__name__} does not round"):
            weight_grid(replace(cell, weight_quantizer=quantizer), own | state, 1.0)


def test_a_range_with_the_least_error_is_no_worse_than_any_other() -> None:
    random = np.random.default_rng(0)
    weight = random.standard_t(3, (3, 200)).astype(np.float32)
    own = {"weight": weight, "bias": np.zeros(3, np.float32)}
    for quantizer in (qat.WeightQuantizer(3, per_channel=True), qat.LSQWeightQuantizer(3, per_channel=True)):
        cell = qat.DenseBnAct(200, 3, weight_quantizer=quantizer)
        own |= {f"weight_{name}": param.create(0, name) for name, param in quantizer.params((3, 200)).items()}
        found = with_least_error(cell, own, 1.0)
        _, _, coded, _ = cell.coded(cell.numpy_params(found), np.ones(1, np.float32))
        error = ((weight - coded.centred * coded.scale[:, None]) ** 2).sum(axis=1)
        for share in np.linspace(0.1, 1, 46):
            scale = share * np.abs(weight).max(axis=1) / 3
            other = np.clip(np.rint(weight / scale[:, None]), quantizer.qmin if quantizer.observes_once else -3, 3)
            assert (error <= ((weight - other * scale[:, None]) ** 2).sum(axis=1) * (1 + 1e-5)).all()


# -- blocks -----------------------------------------------------------------------------------------------------------


def test_residual_blocks_are_one_and_other_layers_by_themselves() -> None:
    graph = qat.convert_quant_network(Small())
    found = blocks(graph)
    assert [[node.name for node in block.layers] for block in found] == [["first"], ["one", "two"], ["fc"]]
    assert [name for block in found for name in [node.name for node in block.nodes]] == [
        n.name for n in graph.nodes[1:]
    ]
    assert found[1].inputs == ("first.fake_quant",)
    assert len(found[1].outputs) == 1


def test_the_blocks_of_a_residual_network() -> None:
    names = [len(block.layers) for block in blocks(qat.convert_quant_network(ResNet8())) if block.layers]
    assert names == [1, 2, 3, 3, 1]


def test_a_block_computes_what_the_graph_computes() -> None:
    """Of each block, with its inputs as real numbers: the same numbers as in the graph, one rounding of a product apart."""
    checkpoint = calibrate(Small(), PARAMS, IMAGES[:8])
    loop = NodeLoop(checkpoint.graph, NUMPY_OPS)
    context, values = loop.load(checkpoint.params, 0), loop.begin(loop.pixels((IMAGES[:4],)))
    for step in loop.steps:
        loop.advance(step, context, values)
    for block in blocks(checkpoint.graph):
        graph, own = block_graph(checkpoint.graph, checkpoint.params, block, frozenset())
        part = NodeLoop(graph, NUMPY_OPS)
        given = tuple(values[name].real(NUMPY_OPS) for name in block.inputs)
        for name, output in zip(block.outputs, part.run(part.load(own, 0), given), strict=True):
            expected = values[name].real(NUMPY_OPS)
            step_size = float(np.max(values[name].scale)) if values[name].scale is not None else 1e-5
            assert np.abs(output - expected).max() <= step_size * 1.001
            assert (np.abs(output - expected) > step_size * 0.5).mean() < 0.01


# -- the whole --------------------------------------------------------------------------------------------------------


def float_outputs(images: Array) -> Array:
    graph = Small().graph()
    return qat.backend("torch").predict(qat.backend("torch").lower(graph, PARAMS), images)


def test_the_error_falls_where_the_nearest_codes_lose(checkpoint: qat.Checkpoint) -> None:
    """On images that were not calibrated on."""
    images = np.clip(np.cumsum(np.random.default_rng(9).normal(0, 30, (64, 3, 8, 8)), axis=3) + 128, 0, 255).astype(
        np.uint8
    )
    wanted = float_outputs(images)
    nearest = calibrate(Small(), PARAMS, IMAGES, num_bits=(2, 8))
    errors = []
    for each in (nearest, checkpoint):
        outputs = qat.backend("torch").predict(qat.backend("torch").lower(each.graph, each.params), images)
        errors.append(float(((outputs - wanted) ** 2).mean()))
    assert errors[1] < 0.3 * errors[0]


def test_the_history_says_what_became_of_each_block(checkpoint: qat.Checkpoint) -> None:
    record = checkpoint.history[0]["rounding"]
    assert (record["iterations"], record["drop"], record["seed"]) == (100, 0.5, 0)
    assert [block["name"] for block in record["blocks"]] == ["first", "one .. two", "fc"]
    for block in record["blocks"]:
        assert block["after"] < block["before"]
        assert block["kept"] in ("learned", "moments")
        assert block["changed"] > 0.0


def test_codes_are_near_the_float_weight(checkpoint: qat.Checkpoint) -> None:
    """By the scale that the deployed file has, within its range; not all are next to it, since they make up for others."""
    nodes = [
        node for node in qat.to_integer(checkpoint.graph, checkpoint.params).nodes if f"{node.name}.weight" in PARAMS
    ]
    assert len(nodes) == 4
    moved = 0
    for node in nodes:
        weight = PARAMS[f"{node.name}.weight"].astype(np.float64)
        shape = (-1, *(1,) * (weight.ndim - 1))
        factor = np.ones(len(weight))
        if f"{node.name}.gamma" in PARAMS:
            own = {name: PARAMS[f"{node.name}.{name}"].astype(np.float64) for name in ("gamma", "moving_variance")}
            factor = own["gamma"] / np.sqrt(own["moving_variance"] + 1e-5)
        position = weight * (factor / node.weight_scale).reshape(shape)
        inside = np.abs(position) < 1.0
        off = np.abs(node.weight - position)[inside]
        assert off.max() < 2.0
        assert np.mean(off < 1.0) > 0.9
        moved += np.count_nonzero(off > 0.51)
    assert moved > 20


def test_other_cells_keep_the_codes_that_were_learned() -> None:
    """A normalised input with its further channel, stored layouts, poolings, cells used twice, batch normalisations alone."""
    graph = Normalised().graph()
    params = trained_like(graph)
    few = replace(ROUNDING, iterations=20)
    with pytest.warns(QatWarning, match="again: keeps the nearest codes .*, since its cell is used more than once"):
        found = calibrate(graph, params, IMAGES, num_bits=(3, 8), rounding=few, arithmetic="fixed")
    record = found.history[0]["rounding"]["blocks"]
    assert [block["name"] for block in record] == ["first", "up", "depthwise", "fc"]
    assert sum(block["kept"] in ("learned", "moments") for block in record) >= 3
    model = qat.backend("torch").lower(found.graph, found.params)
    wanted = qat.evaluate(qat.to_integer(found.graph, found.params), IMAGES)
    assert np.array_equal(qat.backend("torch").predict_codes(model, IMAGES), wanted)


def test_the_same_seed_gives_the_same_codes() -> None:
    few = replace(ROUNDING, iterations=20)
    once, again, other = learned(few), learned(few), learned(replace(few, seed=1))
    assert all(np.array_equal(again.params[name], array) for name, array in once.params.items())
    assert any(not np.array_equal(other.params[name], array) for name, array in once.params.items())


def test_a_block_for_which_learning_is_no_good_keeps_other_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Codes that are turned round after they are learned are worse on what is held back."""
    from qat.analysis import rounding

    codes = rounding._Learning._codes

    def wrong(self: Any, block: Any, params: Any, layers: Any) -> Any:
        chosen, done = codes(self, block, params, layers)
        return {layer.node.name: 2 * layer.down + 1 - chosen[layer.node.name] for layer in layers}, done

    monkeypatch.setattr(rounding._Learning, "_codes", wrong)
    found = learned(replace(ROUNDING, iterations=30), num_bits=(3, 8))
    assert all(block["kept"] in ("nearest", "moments") for block in found.history[0]["rounding"]["blocks"])


@pytest.mark.parametrize("backend", HERE)
def test_every_backend_learns(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the nearest codes, where there are no moments to begin at, to much better ones."""
    monkeypatch.setattr(moment_rounding, "MOST_INPUTS", 0)
    found = learned(replace(ROUNDING, backend=backend, iterations=20))
    record = found.history[0]["rounding"]["blocks"]
    assert [block["name"] for block in record] == ["first", "one .. two", "fc"]
    assert any(block["kept"] == "learned" and block["after"] < 0.9 * block["before"] for block in record)
    assert all(block["kept"] in ("learned", "nearest, clipped", "nearest") for block in record)


def test_learning_begins_at_the_codes_by_moments() -> None:
    """With one iteration they hardly change, and they are far better than the nearest ones."""
    found = learned(replace(ROUNDING, iterations=1), num_bits=(3, 8))
    for block in found.history[0]["rounding"]["blocks"]:
        assert block["after"] < 0.8 * block["before"]


def test_the_codes_are_the_same_on_every_backend_and_in_every_file(checkpoint: qat.Checkpoint, tmp_path: Path) -> None:
    wanted = qat.evaluate(qat.to_integer(checkpoint.graph, checkpoint.params), IMAGES)
    for name in HERE:
        backend = qat.backend(name)
        model = backend.lower(checkpoint.graph, checkpoint.params)
        assert np.array_equal(backend.predict_codes(model, IMAGES), wanted), name
        if name == "torch":
            for suffix in ("net.onnx", "net.tflite", "net.c"):
                assert qat.export(model, tmp_path / suffix, images=IMAGES).passed


def test_training_goes_on_from_it(checkpoint: qat.Checkpoint) -> None:
    backend = qat.backend("torch")
    model = backend.lower(checkpoint.graph, checkpoint.params)
    step = backend.make_step(model, qat.Optimizer("adam"))
    labels = np.arange(16) % 4
    losses = [step(IMAGES[:16], labels, 1e-3) for _ in range(10)]
    assert losses[-1] < losses[0]


def test_bias_correction_comes_after_it() -> None:
    few = replace(ROUNDING, iterations=20)
    alone, both = learned(few), learned(few, bias_correction=True)
    for name, array in alone.params.items():
        if name.endswith("weight"):
            assert np.array_equal(both.params[name], array)
    assert not np.array_equal(both.params["fc.bias"], alone.params["fc.bias"])
    nearest = calibrate(Small(), PARAMS, IMAGES, num_bits=(2, 8), bias_correction=True)
    assert not np.array_equal(both.params["fc.bias"], nearest.params["fc.bias"])


# -- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"iterations": 0}, "iterations is 0"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"drop": 1.5}, "drop is 1.5"),
        ({"seed": -1}, "seed is -1"),
        ({"iterations": 2.5}, "iterations"),
    ],
)
def test_wrong_fields_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(QatError, match=message):
        qat.LearnedRounding(**fields)


def test_one_image_is_too_few() -> None:
    with pytest.raises(QatError, match="at least 2"):
        calibrate(Small(), PARAMS, IMAGES[:1], rounding=ROUNDING)


def test_quantizers_without_one_scale_are_refused_by_name() -> None:
    with pytest.raises(QatError, match="first: a TernaryWeightQuantizer does not round"):
        learned(weight_quantizer=qat.TernaryWeightQuantizer(per_channel=True))


def test_layers_that_keep_the_nearest_codes_are_named() -> None:
    with pytest.warns(QatWarning, match="fc: keeps the nearest codes, since a GTCWeightQuantizer"):
        found = learned(replace(ROUNDING, iterations=2), layers={"fc": {"weight_quantizer": qat.GTCWeightQuantizer(4)}})
    assert [block["name"] for block in found.history[0]["rounding"]["blocks"]] == ["first", "one .. two"]


def test_another_backend_than_there_is_is_refused() -> None:
    with pytest.raises(QatError, match="backend 'nothing' is unknown"):
        learned(replace(ROUNDING, backend="nothing"))


def test_the_command_learns_and_says_what_became_of_the_blocks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez(
        tmp_path / "data.npz", x_train=IMAGES, y_train=np.arange(256) % 4, x_test=IMAGES, y_test=np.arange(256) % 4
    )
    qat.Checkpoint(Small().graph(), PARAMS).save(tmp_path / "float.ckpt")
    flags = ["calibrate", "--ckpt_path", str(tmp_path / "float.ckpt"), "--data_path", str(tmp_path / "data.npz")]
    assert main([*flags, "--rounding", "learned", "--rounding_iterations", "20", "--num_bits", "2", "8"]) == 0
    assert "one .. two" in capsys.readouterr().out
    record = qat.Checkpoint.load(tmp_path / "float_calibrated.ckpt").history[0]
    assert record["rounding"]["iterations"] == 20
    assert record["calibration"]["images"] == 256
    assert main([*flags, "--rounding_iterations", "20"]) == 2
    assert "--rounding learned" in capsys.readouterr().err
    assert main([*flags, "--rounding", "learned", "--rounding_iterations", "0"]) == 2


def test_a_prepared_model_has_learned_codes(checkpoint: qat.Checkpoint) -> None:
    model = qat.prepare(
        qat.Checkpoint(Small().graph(), PARAMS),
        None,
        IMAGES,
        backend="torch",
        num_bits=(2, 8),
        **(PLAIN | {"rounding": replace(ROUNDING, backend=None)}),
    )
    found = qat.backend("torch").read(model)
    assert all(np.array_equal(found[name], array) for name, array in checkpoint.params.items())
