"""What training at few bits begins with: the table of defaults, learned scales, wide edges and sums, small inputs."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from benchmark_scripts import loaded
from command import run

import qat
from qat.cli import run_script
from qat.data import Split
from qat.networks import LeNet5
from qat.passes.few_bits import TABLE, few_bits
from qat.passes.learn_scales import learn_scales
from qat.passes.unit_inputs import unit_inputs
from qat.scripts.common.few_bits import conditioned
from qat.scripts.common.files import load_data
from qat.vocabulary.numpy_ops import NUMPY_OPS

Array = npt.NDArray[Any]
F = np.float32
TORCH = qat.backend("torch")


class Residual(qat.Network):
    """Raw pixels, a sum, a concatenation with one of its parts, and three layers in a row."""

    def __init__(self) -> None:
        self.inputs = qat.Input((1, 6, 6), std=1 / 255)
        self.first = qat.Conv2dBnAct(1, 4, 3, activation="relu")
        self.left = qat.Conv2dBnAct(4, 4, 3, has_bn=True)
        self.add = qat.Add(activation="relu")
        self.right = qat.Conv2dBnAct(4, 4, 3, activation="relu")
        self.concat = qat.Concat()
        self.middle = qat.Conv2dBnAct(8, 4, 3, activation="relu")
        self.flatten = qat.Flatten()
        self.last = qat.DenseBnAct(144, 3)

    def construct(self, x):
        x = self.first(x)
        y = self.add(x, self.left(x))
        z = self.concat(self.right(y), self.right(y))
        return self.last(self.flatten(self.middle(z)))


def pixels(count: int = 40) -> Array:
    return np.random.default_rng(0).integers(0, 256, (count, 1, 6, 6), np.uint8)


def dataset() -> qat.Dataset:
    images = pixels()
    split = Split(images, (images.mean(axis=(1, 2, 3)) > 127).astype(np.int64))
    return qat.Dataset("noise", "from Python", split, split)


# -- the table -------------------------------------------------------------------------------------------------------


def test_the_fewer_bits_decide() -> None:
    assert few_bits(8) is few_bits((5, 16)) is None
    assert few_bits((2, 8)) is few_bits((8, 2)) is few_bits(2) is few_bits((4, 1)) is TABLE[2]
    assert few_bits((4, 8)) is TABLE[4]
    with pytest.raises(qat.QatError, match="8 and 8 bits need no other settings"):
        qat.few_bits_settings(LeNet5(), 8)


def test_edges_and_sums_are_wide() -> None:
    settings = qat.few_bits_settings(Residual(), (2, 3))
    found = {name: own["num_bits"] for name, own in settings["layers"].items()}
    assert found == {"first": (8, 8), "left": (2, 8), "middle": (2, 8), "last": (8, 8)}
    graph = qat.convert_quant_network(Residual(), **settings)
    cells: Any = {node.cell_name: node.cell for node in graph.nodes}
    assert [cells[name].weight_quantizer.num_bits for name in ("first", "left", "right", "middle", "last")] == [
        8,
        2,
        2,
        2,
        8,
    ]
    assert isinstance(cells["left"].weight_quantizer, qat.LSQWeightQuantizer)
    assert [cells[name].weight_quantizer.qmin for name in ("first", "left", "last")] == [
        -127,
        -2,
        -127,
    ]  # as TFLite wants it
    assert cells["add.fake_quant"].quantizer.num_bits == cells["right.fake_quant"].quantizer.num_bits == 3
    alike = qat.few_bits_settings(Residual(), (2, 3), edge_bits=2)["layers"]
    assert alike["last"] == {"num_bits": (2, 8)}  # what leaves the network


def test_parts_of_a_concatenation_are_as_wide_as_one_of_them() -> None:
    class Joined(Residual):
        def construct(self, x):
            x = self.first(x)
            y = self.add(x, self.left(x))
            z = self.concat(self.right(y), x)
            return self.last(self.flatten(self.middle(z)))

    layers = qat.few_bits_settings(Joined(), 2)["layers"]
    assert layers["right"] == {"num_bits": (2, 8)}
    assert qat.convert_quant_network(Joined(), **qat.few_bits_settings(Joined(), 2)).is_quantized


def test_a_network_of_two_layers_gets_the_bits_that_were_asked_for() -> None:
    class Two(qat.Network):
        def __init__(self) -> None:
            self.inputs = qat.Input((1, 6, 6))
            self.conv = qat.Conv2dBnAct(1, 4, 3, activation="relu")
            self.flatten = qat.Flatten()
            self.fc = qat.DenseBnAct(144, 3)

        def construct(self, x):
            return self.fc(self.flatten(self.conv(x)))

    assert qat.few_bits_settings(Two(), 2)["layers"] == {"conv": {"num_bits": (2, 8)}, "fc": {"num_bits": (2, 8)}}


def test_every_layer_learns_at_2_bits() -> None:
    """With narrow sums the gradient of all convolutions before them was 0, and training stayed at chance."""
    floats, params = unit_inputs(Residual().graph(), Residual().graph().initial_params(3))
    graph = qat.convert_quant_network(floats, **qat.few_bits_settings(floats, 2))
    begin = qat.Checkpoint(graph, graph.params_from(params))
    end = qat.train(TORCH, begin, dataset(), qat.Recipe(epochs=1, batch_size=10))
    for name in ("first", "left", "right", "middle", "last"):
        assert (end.params[f"{name}.weight"] != begin.params[f"{name}.weight"]).any(), name


# -- learned scales from the least squared error, and from a calibration -------------------------------------------------


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("num_bits", [2, 3, 4, 8])
def test_mse_starts_at_the_least_error(num_bits: int, per_channel: bool) -> None:
    """No other of 4,000 scales has a clearly smaller error, and LSQ's own start has a larger one."""
    weight = np.random.default_rng(0).normal(size=(4, 3, 3, 3)).astype(F)
    shape = (4,) if per_channel else (1,)
    own = {"initial_scale": np.zeros(shape, F), "scale_change": np.zeros(shape, F)}

    def error(scale: Any) -> Array:
        s = np.broadcast_to(scale, (4,)).reshape(4, 1, 1, 1).astype(np.float64)
        off = (np.clip(np.rint(weight / s), -(2 ** (num_bits - 1)), 2 ** (num_bits - 1) - 1) * s - weight) ** 2
        return off.mean(axis=(1, 2, 3)) if per_channel else off.mean()

    found = {
        start: qat.LSQWeightQuantizer(num_bits, per_channel=per_channel, start=start).observe(NUMPY_OPS, weight, own)
        for start in ("mean", "mse")
    }
    least = error(found["mse"]["initial_scale"])
    tried = np.array([error(scale) for scale in np.linspace(0.001, 4, 4000)])
    assert (least <= 1.05 * tried.min(axis=0)).all()
    assert (least < error(found["mean"]["initial_scale"])).all()


def test_a_start_of_another_name_is_refused() -> None:
    with pytest.raises(qat.QatError, match="start is 'median'; use one of 'mean', 'mse'"):
        qat.LSQWeightQuantizer(4, start="median")


@pytest.mark.parametrize("symmetric", [False, True])
def test_calibrated_ranges_are_kept(symmetric: bool) -> None:
    """All codes of activations before and after, of weights whose codes do not change: those of 8 bits."""
    graph = Residual().graph()
    checkpoint = qat.calibrate(
        graph, graph.initial_params(1), pixels(), method="mse", num_bits=(8, 4), symmetric=(True, symmetric)
    )
    learned, params = learn_scales(checkpoint.graph, checkpoint.params)
    assert not any(isinstance(x, qat.ActivationQuantizer) for x in _quantizers(learned))
    before, after = (
        TORCH.lower(*each).infer_codes((pixels(),))
        for each in ((checkpoint.graph, checkpoint.params), (learned, params))
    )
    real = qat.to_integer(learned, params)
    scales = {
        node.name: float(node.output.grid.scale) for node in qat.to_integer(checkpoint.graph, checkpoint.params).nodes
    }
    for node in real.nodes:
        assert float(node.output.grid.scale) == pytest.approx(scales[node.name], rel=1e-6)
        assert np.abs(before[node.name] - after[node.name]).max() <= 1  # of a zero point that falls on a tie


def _quantizers(graph: qat.Graph) -> list[Any]:
    return [node.cell.quantizer for node in graph.nodes if isinstance(node.cell, qat.FakeQuant)]


def test_weights_learn_too_and_others_stay() -> None:
    graph = Residual().graph()
    calibrated = qat.calibrate(graph, graph.initial_params(1), pixels(), num_bits=2)
    learned, params = learn_scales(calibrated.graph, calibrated.params)
    cells: Any = {node.cell_name: node.cell for node in learned.nodes}
    assert cells["left"].weight_quantizer == qat.LSQWeightQuantizer(
        2, narrow_range=True, per_channel=True, start=TABLE[2].start
    )
    assert not cells["right"].weight_quantizer.narrow_range
    learned.check_params(params)
    same = learn_scales(calibrated.graph, calibrated.params, weights=False, activations=False)
    assert same[0] is calibrated.graph
    eight = qat.calibrate(graph, graph.initial_params(1), pixels())
    assert learn_scales(eight.graph, eight.params)[0] is eight.graph


@pytest.mark.parametrize("start", ["mean", "mse"])
def test_training_keeps_the_learned_scales_of_a_calibration(start: str) -> None:
    """The first step neither observes activations anew nor starts weights elsewhere than the calibrated integers had them."""
    graph, rate = Residual().graph(), 1e-12
    settings = qat.few_bits_settings(graph, 4)
    settings["weight_quantizer"] = qat.LSQWeightQuantizer(4, per_channel=True, start=start)
    begin = qat.calibrate(graph, graph.initial_params(1), pixels(), method="mse", **settings)
    end = qat.train(TORCH, begin, dataset(), qat.Recipe(epochs=1, batch_size=20, lr=rate))
    for name, array in begin.params.items():
        if name.endswith("fake_quant.initial_scale"):
            np.testing.assert_array_equal(end.params[name], array)
    before, after = (
        {node.name: getattr(node, "weight_scale", None) for node in qat.to_integer(x.graph, x.params).nodes}
        for x in (begin, end)
    )
    for name in ("right", "middle", "last"):
        np.testing.assert_allclose(after[name], before[name], rtol=1e-6)


# -- inputs ----------------------------------------------------------------------------------------------------------


def test_small_inputs_are_the_same_function() -> None:
    graph = Residual().graph()
    params = graph.initial_params(2)
    small, changed = unit_inputs(graph, params)
    assert small.inputs[0].cell.std == pytest.approx(256 / 255)  # type: ignore[attr-defined]
    np.testing.assert_array_equal(changed["first.weight"], params["first.weight"] * 256)
    outputs = [TORCH.lower(*each).infer((pixels(),))[0] for each in ((graph, params), (small, changed))]
    np.testing.assert_array_equal(*outputs)
    usual = LeNet5().graph()
    assert unit_inputs(usual, usual.initial_params())[0] is usual


@pytest.mark.parametrize("quantizer", [None, qat.LSQWeightQuantizer(num_bits=4, per_channel=True)])
def test_small_inputs_have_the_same_integers(quantizer: Any) -> None:
    """What was calibrated is trained on as it is."""
    settings = {} if quantizer is None else {"weight_quantizer": quantizer}
    found = qat.calibrate(Residual().graph(), Residual().graph().initial_params(2), pixels(), num_bits=4, **settings)
    small, changed = unit_inputs(found.graph, found.params)
    assert small.inputs[0].cell.std == pytest.approx(256 / 255)  # type: ignore[attr-defined]
    codes = [qat.evaluate(qat.to_integer(*each), pixels()) for each in ((found.graph, found.params), (small, changed))]
    np.testing.assert_array_equal(*codes)


def test_small_inputs_of_a_transposed_convolution() -> None:
    """The outputs are the second axis of its weight."""

    class Up(qat.Network):
        def __init__(self) -> None:
            self.inputs = qat.Input((2, 4, 4), std=1 / 255)
            self.first = qat.ConvTranspose2dBnAct(2, 5, 2, stride=2, activation="relu")
            self.flatten = qat.Flatten()
            self.last = qat.DenseBnAct(320, 3)

        def construct(self, x):
            return self.last(self.flatten(self.first(x)))

    images = np.random.default_rng(0).integers(0, 256, (20, 2, 4, 4), np.uint8)
    learned = qat.LSQWeightQuantizer(num_bits=4, per_channel=True)
    found = qat.calibrate(Up().graph(), Up().graph().initial_params(1), images, num_bits=4, weight_quantizer=learned)
    small, changed = unit_inputs(found.graph, found.params)
    np.testing.assert_array_equal(changed["first.weight"], 256 * found.params["first.weight"])
    codes = [qat.evaluate(qat.to_integer(*each), images) for each in ((found.graph, found.params), (small, changed))]
    np.testing.assert_array_equal(*codes)


def test_inputs_stay_where_codes_would_change() -> None:
    """DoReFa's codes are those of tanh(w)."""
    graph = qat.convert_quant_network(Residual(), weight_quantizer=qat.DoReFaWeightQuantizer(num_bits=4))
    params = graph.observed_params(2)
    assert unit_inputs(graph, params)[0] is graph


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize(
    ("task", "flag", "changes"), [(None, None, True), ("own", None, False), (None, "reconstruction", False)]
)
def test_inputs_that_have_to_be_given_back_stay(task: str | None, flag: str | None, changes: bool, bits: int) -> None:
    """Targets of a reconstruction are the input's real numbers, which would become 256 times as small."""
    graph = Residual().graph()
    own = {} if task is None else {"task": qat.tasks.Reconstruction()}
    args = Namespace(num_bits=(bits, bits), quant_config=None, profile=None, task=flag)
    found, _ = conditioned(args, qat.Checkpoint(graph, graph.initial_params(), **own))
    assert (found != graph) == changes


# -- commands --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lenet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LeNet-5 of one epoch of digits."""
    path = tmp_path_factory.mktemp("few_bits") / "float.ckpt"
    graph = LeNet5().graph()
    data = load_data("digits", graph)
    qat.train(TORCH, qat.Checkpoint(graph, graph.initial_params()), data, qat.Recipe(epochs=3, lr=0.02)).save(path)
    return path


def test_defaults_are_said_and_flags_win(capsys: pytest.CaptureFixture[str], lenet: Path, tmp_path: Path) -> None:
    path = tmp_path / "quant.ckpt"
    base = ["train-quant", "--ckpt_path", lenet, "--data_path", "digits", "--epochs", 1, "--save_path", path]
    status, out, error = run(capsys, *base, "--num_bits", 4)
    assert status == 0, error
    assert out.startswith("4/4: learned scales (LSQ) of weights and activations")
    assert "no delay (--quant_delay)" in out
    saved = qat.Checkpoint.load(path)
    expected = qat.convert_quant_network(LeNet5(), **qat.few_bits_settings(LeNet5(), 4))
    assert saved.graph == expected
    assert saved.history[0]["lr"] == TABLE[4].lr
    options = ["--weight_quantizer", "minmax", "--activation_quantizer", "minmax", "--lr", 0.001, "--quant_delay", 3]
    status, out, error = run(capsys, *base, "--num_bits", 4, *options)
    assert (status, "learned scales" in out) == (0, False), error
    saved = qat.Checkpoint.load(path)
    assert saved.graph == qat.convert_quant_network(LeNet5(), num_bits=4, quant_delay=3)
    assert saved.history[0]["lr"] == 0.001


def test_eight_bits_are_as_ever(capsys: pytest.CaptureFixture[str], lenet: Path, tmp_path: Path) -> None:
    path = tmp_path / "quant.ckpt"
    status, out, error = run(
        capsys, "train-quant", "--ckpt_path", lenet, "--data_path", "digits", "--epochs", 1, "--save_path", path
    )
    assert (status, "few bits" in out, "learned scales" in out) == (0, False, False), error
    assert qat.Checkpoint.load(path).graph == qat.convert_quant_network(LeNet5(), quant_delay=2)


def test_a_calibrated_network_of_2_bits_does_not_collapse(
    capsys: pytest.CaptureFixture[str], lenet: Path, tmp_path: Path
) -> None:
    """By ranges that follow the batches it did: LeNet-5 on MNIST fell to 9.8 %. Here the loss must fall, and no scale grow."""
    middle, path = tmp_path / "calibrated.ckpt", tmp_path / "quant.ckpt"
    base = ["--data_path", "digits", "--save_path"]
    status, _, error = run(
        capsys, "calibrate", "--ckpt_path", lenet, *base, middle, "--num_bits", 2, 2, "--method", "mse", "--images", 200
    )
    assert status == 0, error
    command = ["train-quant", "--ckpt_path", middle, *base, path, "--epochs", 3]
    status, out, error = run(capsys, *command)
    assert status == 0, error
    assert "learned scales (LSQ) in place of min/max quantizers" in out
    saved, before = qat.Checkpoint.load(path), qat.Checkpoint.load(middle)
    assert saved.progress.epochs[-1].loss < 0.8 * saved.progress.epochs[0].loss
    for name in ("conv1", "conv2", "fc1", "fc2"):
        own = f"{name}.fake_quant."
        grown = (
            (saved.params[f"{own}initial_scale"] + saved.params[f"{own}scale_change"]) * 3 / before.params[f"{own}max"]
        )
        assert 0.5 < grown < 2.0, name
    kept = ["--weight_quantizer", "minmax", "--activation_quantizer", "minmax"]
    status, out, error = run(capsys, *command, *kept)
    assert (status, "in place of" in out) == (0, False), error
    assert qat.Checkpoint.load(path).graph == before.graph
    status, _, error = run(capsys, *command, "--weight_quantizer", "lsq")
    assert (status, "is quantized already" in error) == (2, True)


@pytest.mark.parametrize("extra", [["--quant_config", "{file}"], []])
def test_edge_bits_without_effect_is_refused(
    capsys: pytest.CaptureFixture[str], lenet: Path, tmp_path: Path, extra: list[str]
) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("num_bits: 2\n")
    source = lenet
    if not extra:
        source = tmp_path / "quant.ckpt"
        graph = qat.convert_quant_network(LeNet5(), num_bits=2)
        qat.Checkpoint(graph, graph.observed_params()).save(source)
    arguments = [each.format(file=file) for each in extra]
    status, _, error = run(
        capsys, "train-quant", "--ckpt_path", source, "--data_path", "digits", "--edge_bits", 8, *arguments
    )
    assert (status, "--edge_bits: says how a float network is quantized" in error) == (2, True), error


def test_the_benchmark_measures_and_goes_on(lenet: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script = loaded("few_bits")
    arguments = ["--data_path", "digits", "--ckpt_path", lenet, "--widths", "2/2", "--variants", "defaults", "freeze"]
    arguments += ["--seeds", 0, "--epochs", 1, "--images", 128, "--test_images", 64, "--out", tmp_path]
    command = [str(each) for each in arguments]
    assert run_script(script.add_arguments, script.run, script.__doc__, command) == 0
    first = capsys.readouterr().out
    assert "LeNet5 2/2 freeze 0.01 seed 0; 1 epochs of 128 images at 0.01; 64 tested" in first
    assert run_script(script.add_arguments, script.run, script.__doc__, command) == 0
    assert "seed 0; 1 epochs" not in capsys.readouterr().out  # nothing is trained again


@pytest.mark.parametrize("bits", [-1, 0, 17])
def test_edge_bits_that_no_weight_has_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], bits: int
) -> None:
    graph = LeNet5().graph()
    source = tmp_path / "float.ckpt"
    qat.Checkpoint(graph, graph.initial_params(0)).save(source)
    asked = ("--num_bits", 2, 2, f"--edge_bits={bits}")
    status, out, error = run(capsys, "train-quant", "--ckpt_path", source, "--data_path", "digits", *asked)
    assert (status, out, error.count("\n")) == (2, "", 1)
    assert f"--edge_bits {bits}: weights have 1 to 16 bits" in error
