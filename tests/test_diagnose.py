"""Where accuracy goes: the numbers of a diagnosis against NumPy, its advice, the command."""

from __future__ import annotations

import csv
import math
from dataclasses import fields, replace
from pathlib import Path

import every_cell
import numpy as np
import pytest
from calibrations import calibrate
from command import run
from frameworks import BACKENDS
from graphs import Traced
from transcription import expected_weight

import qat
from qat.analysis.agreement import Agreement, Channels, Codes, decibels
from qat.analysis.diagnosed import Diagnosis, Layer
from qat.errors import QatWarning
from qat.integer import evaluation
from qat.networks import LeNet5
from qat.passes.rescale_channels import rescaled_like
from qat.quantizers import FAMILY
from qat.registry import evaluation_ops
from qat.training.forward import IDLE, NodeLoop
from qat.vocabulary.arrays import as_tuple
from qat.vocabulary.numpy_ops import NUMPY_OPS

F = np.float32
RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (24, 16), np.uint8)


def rows(**cells: qat.Cell) -> qat.Graph:
    """Dense cells one after another, of 16 pixels."""
    return Traced(
        lambda self, x: [x := getattr(self, name)(x) for name in cells][-1], qat.Input((16,)), **cells
    ).graph()


def two_layers() -> qat.Graph:
    return rows(a=qat.DenseBnAct(16, 6, activation="relu", has_bias=False), b=qat.DenseBnAct(6, 3, has_bias=False))


def weights(seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {"a.weight": rng.normal(0, 0.3, (6, 16)).astype(F), "b.weight": rng.normal(0, 0.3, (3, 6)).astype(F)}


def diagnosed(graph: qat.Graph, params: dict[str, np.ndarray], pixels: np.ndarray, **settings: object) -> Diagnosis:
    """Of a calibrated network, compared with the float one, whose channels are equalized where its are."""
    quantized = calibrate(graph, params, pixels, ops=NUMPY_OPS, **settings)
    floats = rescaled_like(graph, params, quantized.params) if settings.get("equalize") else params
    return qat.diagnose(quantized.graph, quantized.params, pixels, float_params=floats, ops=NUMPY_OPS)


# -- numbers -----------------------------------------------------------------------------------------------------------


def sqnr(f: np.ndarray, q: np.ndarray) -> float:
    f, q = f.astype(np.float64), q.astype(np.float64)
    return 10 * math.log10((f**2).sum() / ((f - q) ** 2).sum())


def rounded(x: np.ndarray, grid: qat.integer.Grid) -> np.ndarray:
    return np.clip(np.rint(x / grid.scale), grid.low, grid.high) * grid.scale


def test_the_numbers_are_those_of_their_formulas() -> None:
    """A network of two dense layers, 4-bit weights of one scale, 3-bit activations, on other images than it was calibrated on,
    so that some numbers are clipped.
    """
    params = weights()
    quantized = calibrate(two_layers(), params, PIXELS[:8], ops=NUMPY_OPS, num_bits=(4, 3), per_channel=(False, False))
    found = qat.diagnose(quantized.graph, quantized.params, PIXELS, ops=NUMPY_OPS, batch_size=7)
    integers = qat.to_integer(quantized.graph, quantized.params)
    grids = [node.output.grid for node in integers.nodes if node.name in ("a", "b")]
    codes = evaluation.trace_codes(integers, PIXELS, ["a", "b"])
    q = [grid.dequantize(codes[name]) for name, grid in zip("ab", grids, strict=True)]

    x = PIXELS / 255.0
    of_codes = []
    for weight in params.values():
        expected = expected_weight(weight, 4, True, False, False, np.zeros(len(weight), F))
        of_codes.append(expected.codes * expected.scale)
    relu = lambda y: np.maximum(y, 0)  # noqa: E731
    a, b = params.values()
    f = [relu(x @ a.T), relu(x @ a.T) @ b.T]
    by_weights = [relu(x @ of_codes[0].T), f[0] @ of_codes[1].T]
    inherited = [f[0], q[0] @ b.T]
    for index, layer in enumerate(found.layers):
        grid = grids[index]
        assert layer.name == layer.weights[0] == "ab"[index]
        assert (layer.weight_bits, layer.activation_bits, layer.per_channel) == (4, 3, False)
        assert layer.sqnr == pytest.approx(sqnr(f[index], q[index]), rel=1e-4)
        cosine = (f[index] * q[index]).sum() / math.sqrt((f[index] ** 2).sum() * (q[index] ** 2).sum())
        assert layer.cosine == pytest.approx(cosine, rel=1e-5)
        assert layer.weight == pytest.approx(sqnr(f[index], by_weights[index]), rel=1e-4)
        assert layer.activation == pytest.approx(sqnr(f[index], rounded(f[index], grid)), rel=1e-4)
        assert layer.own == pytest.approx(sqnr(f[index], rounded(by_weights[index], grid)), rel=1e-4)
        steps = f[index] / grid.scale
        assert layer.clipped == ((steps > grid.high + 0.5) | (steps < grid.low - 0.5)).mean()
        assert layer.codes_used == len(np.unique(codes["ab"[index]])) / 8
        largest = np.abs(params[f"{layer.name}.weight"]).max(axis=1)
        assert layer.worst == pytest.approx(
            max((largest / np.median(largest)).max(), (np.median(largest) / largest).max())
        )
        assert layer.dead == (np.ptp(q[index], axis=0) == 0).sum()
        errors = ((f[index] - by_weights[index]) ** 2).sum(), ((f[index] - rounded(f[index], grid)) ** 2).sum()
        assert layer.weight_share == pytest.approx(errors[0] / sum(errors), rel=1e-4)
        means = (q[index] - f[index]).mean(axis=0)
        assert layer.bias_share == pytest.approx(24 * (means**2).sum() / ((q[index] - f[index]) ** 2).sum(), rel=1e-4)
    assert any(layer.clipped > 0 for layer in found.layers), "or these images say nothing about clipping"
    assert found.layers[0].inherited == math.inf
    assert found.layers[1].inherited == pytest.approx(sqnr(f[1], inherited[1]), rel=1e-4)
    alone = [rounded(by_weights[0], grids[0]) @ b.T, rounded(by_weights[1], grids[1])]
    blame = np.array([((y - f[1]) ** 2).sum() for y in alone])
    assert [layer.blame for layer in found.layers] == pytest.approx(list(blame / blame.sum()), rel=1e-4)
    (output,) = found.outputs
    assert output.sqnr == found.layers[1].sqnr
    assert output.agreement == (f[1].argmax(axis=1) == q[1].argmax(axis=1)).mean()
    assert found.samples == 24


def test_batches_do_not_matter() -> None:
    quantized = calibrate(two_layers(), weights(), PIXELS, num_bits=4, ops=NUMPY_OPS)
    one, many = (
        qat.diagnose(quantized.graph, quantized.params, PIXELS, batch_size=size, ops=NUMPY_OPS) for size in (24, 5)
    )
    for a, b in zip(one.layers, many.layers, strict=True):
        for each in fields(Layer):
            x, y = getattr(a, each.name), getattr(b, each.name)
            assert x == (pytest.approx(y, rel=1e-5) if isinstance(y, float) else y), each.name


@pytest.mark.parametrize("name", BACKENDS)
def test_every_backend_finds_the_same(name: str) -> None:
    images = RNG.integers(0, 256, (6, 1, 32, 32), np.uint8)
    quantized = calibrate(LeNet5(), LeNet5().graph().initial_params(), images, num_bits=(4, 4), ops=NUMPY_OPS)
    here, there = (
        qat.diagnose(quantized.graph, quantized.params, images, ops=ops) for ops in (NUMPY_OPS, evaluation_ops(name))
    )
    for a, b in zip(here.layers, there.layers, strict=True):
        assert (a.sqnr, a.own, a.blame) == pytest.approx((b.sqnr, b.own, b.blame), rel=0.02), a.name
        assert a.codes_used == b.codes_used


@pytest.mark.parametrize("arithmetic", ["float", "fixed"])
@pytest.mark.parametrize("cell", every_cell.EXAMPLES.values(), ids=lambda cell: type(cell).__name__)
def test_every_cell_is_measured(cell: qat.Cell, arithmetic: str) -> None:
    """The outputs are those of the integers and of the idle network; what each layer costs is a share of their error."""
    graph, params = every_cell.quantized(cell, arithmetic=arithmetic)
    pixels = RNG.integers(0, 256, (4, *every_cell.entry_shape(cell)), np.uint8)
    found = qat.diagnose(graph, params, pixels, ops=NUMPY_OPS)
    integers = qat.to_integer(graph, params)
    loop = NodeLoop(graph, NUMPY_OPS)
    floats = loop.run(loop.load(params, IDLE), loop.pixels((pixels,)))
    for output, tensor, f, codes in zip(
        found.outputs, integers.outputs, floats, as_tuple(qat.evaluate(integers, pixels)), strict=True
    ):
        agreement = Agreement()
        agreement.add(f, tensor.grid.dequantize(codes))
        assert output.sqnr == pytest.approx(agreement.sqnr, rel=1e-5)
    assert sum(x.blame for x in found.layers) == pytest.approx(1.0)
    assert not any(
        math.isnan(getattr(x, each.name)) for x in found.layers for each in fields(x) if each.type == "float"
    )


@pytest.mark.parametrize("name", FAMILY)
def test_every_quantizer_is_measured(name: str) -> None:
    """The integers' error is near that of the training pass with all quantizers on, whichever they are."""
    pair = FAMILY[name]
    images = RNG.integers(0, 256, (4, 1, 32, 32), np.uint8)
    network = LeNet5(activation=pair.activation)
    quantized = calibrate(network, network.graph().initial_params(), images, ops=NUMPY_OPS, **pair.settings("fc3"))
    found = qat.diagnose(quantized.graph, quantized.params, images, ops=NUMPY_OPS)
    loop = NodeLoop(quantized.graph, NUMPY_OPS)
    f, q = (loop.run(loop.load(quantized.params, phase), loop.pixels((images,)))[0] for phase in (IDLE, 0))
    assert found.outputs[0].sqnr == pytest.approx(sqnr(f, q), abs=0.5)
    assert sum(x.blame for x in found.layers) == pytest.approx(1.0)
    fixed = {
        node.cell_name
        for node in quantized.graph.nodes
        if isinstance(node.cell, qat.FakeQuant) and not node.cell.params()
    }
    of_fixed = [x for x in found.layers if f"{x.name}.fake_quant" in fixed]
    assert all((x.halved, x.doubled) == (1.0, 1.0) for x in of_fixed), "what has no range is advised no other one"


def test_more_bits_are_nearer_and_each_layer_is_named() -> None:
    graph = two_layers()
    of_bits = [diagnosed(graph, weights(), PIXELS, num_bits=bits) for bits in (2, 4, 8, 16)]
    levels = [found.outputs[0].sqnr for found in of_bits]
    assert levels == sorted(levels)
    assert levels[-1] > 75
    for layers in zip(*(found.layers for found in of_bits), strict=True):
        owns = [layer.own for layer in layers]
        assert owns == sorted(owns)
    assert [x.what for x in of_bits[-1].advice] == ["nothing"]


def test_a_layer_left_in_float_has_no_error_of_its_own() -> None:
    graph = rows(a=qat.DenseBnAct(16, 6, activation="relu"), b=qat.DenseBnAct(6, 6), c=qat.DenseBnAct(6, 3))
    params = graph.initial_params()
    quantized = calibrate(graph, params, PIXELS, num_bits=3, layers={"b": {"quantize": False}}, ops=NUMPY_OPS)
    found = {x.name: x for x in qat.diagnose(quantized.graph, quantized.params, PIXELS, ops=NUMPY_OPS).layers}
    assert set(found) == {"a", "b", "c"}
    assert (found["b"].weights, found["b"].weight, found["b"].weight_bits) == ((), math.inf, 0)
    assert found["b"].own == found["b"].activation
    assert found["b"].inherited < math.inf
    quantized = calibrate(graph, params, PIXELS, num_bits=3, layers={"c": {"quantize": False}}, ops=NUMPY_OPS)
    last = qat.diagnose(quantized.graph, quantized.params, PIXELS, ops=NUMPY_OPS)
    assert [x.name for x in last.layers] == ["a", "b"]
    assert last.outputs[0].sqnr < 30


def test_several_inputs_and_outputs_and_a_recurrence() -> None:
    class Two(qat.Network):
        def __init__(self) -> None:
            self.inputs = (qat.Input((5, 3)), qat.Input((4,)))
            self.gru, self.a, self.b = qat.GRU(5, 4), qat.DenseBnAct(4, 3), qat.DenseBnAct(4, 2)

        def construct(self, series: qat.Traced, row: qat.Traced) -> tuple[qat.Traced, ...]:
            last = self.gru(series)
            return self.a(last), self.b(last + row)

    graph = Two().graph()
    images = tuple(RNG.integers(0, 256, (9, *node.cell.shape), np.uint8) for node in graph.inputs)
    quantized = calibrate(graph, graph.initial_params(), images, num_bits=4, ops=NUMPY_OPS)
    found = qat.diagnose(quantized.graph, quantized.params, images, ops=NUMPY_OPS)
    assert [x.name for x in found.outputs] == list(graph.outputs)
    assert len({x.name for x in found.layers}) == len(found.layers)
    assert sum(x.blame for x in found.layers) == pytest.approx(1.0)


def test_the_float_network_it_came_from() -> None:
    """Its parameters in place of the quantized network's own, with the biases that calibration has added."""
    params = weights()
    quantized = calibrate(two_layers(), params, PIXELS, num_bits=3, bias_correction=True, ops=NUMPY_OPS)
    assert "a.bias" in quantized.params
    own = qat.diagnose(quantized.graph, quantized.params, PIXELS, ops=NUMPY_OPS)
    floats = qat.diagnose(quantized.graph, quantized.params, PIXELS, float_params=params, ops=NUMPY_OPS)
    loop = NodeLoop(two_layers(), NUMPY_OPS)
    (f,) = loop.run(loop.load(params, IDLE), loop.pixels((PIXELS,)))
    integers = qat.to_integer(quantized.graph, quantized.params)
    q = integers.output.grid.dequantize(qat.evaluate(integers, PIXELS))
    assert floats.outputs[0].sqnr == pytest.approx(sqnr(f, q), rel=1e-5)
    assert own.outputs[0].sqnr != floats.outputs[0].sqnr


# -- advice ------------------------------------------------------------------------------------------------------------


def what(found: Diagnosis) -> dict[str, tuple[str, ...]]:
    return {advice.what: advice.layers for advice in found.advice}


def far_apart() -> dict[str, np.ndarray]:
    """Weights of which one channel is a hundred times the others, which the next layer takes back."""
    params = weights()
    params["a.weight"][2] *= 100
    params["b.weight"][:, 2] /= 100
    return params


def test_one_channel_far_from_the_others_in_a_scale_of_all() -> None:
    fine = {"layers": {"b": {"num_bits": (16, 16)}}}
    settings = {"per_channel": (False, False), "num_bits": (8, 16), **fine}
    found = diagnosed(two_layers(), far_apart(), PIXELS, **settings)
    assert what(found)["per_channel"] == ("a",)
    assert found.layers[0].far == 1
    assert 50 < found.layers[0].worst < 200
    for remedy in ({"num_bits": (8, 16), **fine}, {**settings, "equalize": True}):
        better = diagnosed(two_layers(), far_apart(), PIXELS, **remedy)
        assert "per_channel" not in what(better)
        assert better.outputs[0].sqnr > found.outputs[0].sqnr + 10


def test_a_channel_without_weights_is_not_far_from_the_others() -> None:
    """As training leaves them where batch normalisation has decayed: 1e-30, or 0."""
    params = weights()
    params["a.weight"][0] *= F(1e-30)
    params["a.weight"][1] = 0
    found = diagnosed(two_layers(), params, PIXELS, per_channel=(False, False))
    assert (found.layers[0].far, found.layers[0].dead) == (0, 2)
    assert found.layers[0].worst < 8


@pytest.mark.parametrize(("bits", "guilty"), [((16, 8), "a"), ((8, 16), "b")])
def test_activations_far_apart_on_one_grid(bits: tuple[int, int], guilty: str) -> None:
    """They lose their small channels, or the next layer's weights those of the large one, small as these are."""
    found = diagnosed(two_layers(), far_apart(), PIXELS, num_bits=bits)
    assert what(found)["equalize"] == (guilty,)
    better = diagnosed(two_layers(), far_apart(), PIXELS, num_bits=bits, equalize=True)
    assert "equalize" not in what(better)
    assert better.outputs[0].sqnr > found.outputs[0].sqnr + 10


def test_a_range_that_one_image_has_widened() -> None:
    pixels = RNG.integers(0, 80, (3000, 16)).astype(np.uint8)
    pixels[0] = np.where(weights()["a.weight"].sum(axis=0) > 0, 255, 0)
    found = diagnosed(two_layers(), weights(), pixels, num_bits=(8, 4))
    assert "a" in what(found)["range"]
    with pytest.warns(QatWarning, match="ranges of the method mse"):  # that image errs more than it did
        better = diagnosed(two_layers(), weights(), pixels, num_bits=(8, 4), method="mse")
    assert "a" not in what(better).get("range", ())
    assert better.layers[0].activation > found.layers[0].activation + 1


def test_a_range_that_clips_too_much() -> None:
    quantized = calibrate(two_layers(), weights(), PIXELS, ops=NUMPY_OPS)
    params = {**quantized.params, "a.fake_quant.max": F(0.3) * quantized.params["a.fake_quant.max"]}
    found = qat.diagnose(quantized.graph, params, PIXELS, ops=NUMPY_OPS)
    assert what(found)["range"] == ("a",)
    assert found.layers[0].clipped > 0.2


def test_errors_that_are_the_same_on_all_images() -> None:
    pixels = RNG.integers(195, 206, (64, 16)).astype(np.uint8)
    graph = two_layers()
    found = diagnosed(graph, weights(), pixels, num_bits=(3, 16))
    assert "a" in what(found)["bias_correction"]
    better = diagnosed(graph, weights(), pixels, num_bits=(3, 16), bias_correction=True)
    assert better.outputs[0].sqnr > found.outputs[0].sqnr
    assert "b" not in what(better).get("bias_correction", ())


def test_few_bits_and_training() -> None:
    graph = two_layers()
    found = what(diagnosed(graph, weights(), PIXELS, num_bits=(3, 8)))
    assert set(found["weight_bits"]) == {"a", "b"}
    assert "activation_bits" not in found
    found = what(diagnosed(graph, weights(), PIXELS, num_bits=(8, 3)))
    assert set(found["activation_bits"]) == {"a", "b"}
    assert "weight_bits" not in found
    assert "train" in what(diagnosed(graph, weights(), PIXELS, num_bits=2))
    assert "train" not in what(diagnosed(graph, weights(), PIXELS))


# -- what is summed up -------------------------------------------------------------------------------------------------


def test_a_network_for_which_nothing_was_chosen_is_to_be_calibrated_plainly_first() -> None:
    """Of a checkpoint that says so, before any training; not where something was chosen, asked for, or trained since."""
    graph, params = two_layers(), weights()
    plain = calibrate(graph, params, PIXELS, ops=NUMPY_OPS, num_bits=(2, 2))
    advised = [x.what for x in qat.diagnose(plain, PIXELS, ops=NUMPY_OPS).advice]
    assert advised[-2:] == ["calibrate", "train"]
    assert "without --method" in qat.diagnose(plain, PIXELS, ops=NUMPY_OPS).advice[-2].text
    chosen = qat.calibrate(graph, params, PIXELS, ops=NUMPY_OPS, num_bits=(2, 2))
    asked = calibrate(graph, params, PIXELS, ops=NUMPY_OPS, num_bits=(2, 2), bias_correction=True)
    others = (chosen, asked, replace(plain, step=1), replace(plain, history=()))
    for other in others:
        assert "calibrate" not in {x.what for x in qat.diagnose(other, PIXELS, ops=NUMPY_OPS).advice}
    assert "calibrate" not in what(qat.diagnose(plain.graph, plain.params, PIXELS, ops=NUMPY_OPS))


def test_extremes_of_the_measures() -> None:
    assert decibels(1.0, 0.0) == decibels(0.0, 0.0) == math.inf
    assert decibels(0.0, 1.0) == -math.inf
    assert decibels(100.0, 1.0) == pytest.approx(20.0)
    zeros, ones = np.zeros((2, 3)), np.ones((2, 3))
    for f, q, cosine in ((zeros, zeros, 1.0), (zeros, ones, 0.0), (ones, zeros, 0.0), (ones, 2 * ones, 1.0)):
        agreement = Agreement()
        agreement.add(f, q)
        assert agreement.cosine == pytest.approx(cosine)
    channels = Channels()
    channels.add(np.zeros((1, 3)), np.zeros((1, 3)))
    assert channels.dead == 0, "of a single number nothing is known"
    channels.add(np.zeros((1, 3)), np.array([[0.0, 1.0, 0.0]]))
    assert (channels.dead, list(channels.largest())) == (2, [0.0, 1.0, 0.0])


def test_what_half_a_range_would_leave_is_what_it_leaves() -> None:
    """The estimate from a histogram against the numbers themselves, of 6 bits."""
    x = RNG.laplace(0, 1, 20000)
    scale = float(np.abs(x).max() / 31)

    def error(step: float) -> float:
        return float(((x - np.clip(np.rint(x / step), -31, 31) * step) ** 2).sum())

    codes = Codes(scale, -31, 31)
    codes.add(x, np.clip(np.rint(x / scale), -31, 31))
    assert codes.halved_error(error(scale)) == pytest.approx(error(scale / 2), rel=0.05)
    assert codes.clipped == 0


# -- refusals and the command --------------------------------------------------------------------------------------------


def test_a_checkpoint_and_a_prepared_model_are_diagnosed_as_they_are() -> None:
    """As what they hold; the tensors and batches that a model takes in training are images too."""
    torch = pytest.importorskip("torch")
    quantized = calibrate(two_layers(), weights(), PIXELS, ops=NUMPY_OPS, num_bits=(4, 3))
    wanted = qat.diagnose(quantized.graph, quantized.params, PIXELS, ops=NUMPY_OPS).layers
    assert qat.diagnose(quantized, PIXELS, ops=NUMPY_OPS).layers == wanted
    assert qat.diagnose(quantized, images=PIXELS, ops=NUMPY_OPS).layers == wanted
    model = qat.backend("torch").lower(quantized.graph, quantized.params)
    pixels = torch.from_numpy(PIXELS)
    for images in (PIXELS, pixels, [(pixels[:10], torch.zeros(10)), (pixels[10:], torch.zeros(14))]):
        assert qat.diagnose(model, images, ops=NUMPY_OPS).layers == wanted


def test_a_model_of_keras_takes_its_own_images() -> None:
    """Channels last, as in its user's loop; and a changed weight is seen."""
    keras = pytest.importorskip("keras")
    images = RNG.normal(size=(20, 6, 5, 2)).astype(F)
    network = keras.Sequential(
        [keras.Input((6, 5, 2)), keras.layers.Conv2D(3, 3, activation="relu"), keras.layers.Flatten()]
    )
    model = qat.prepare(network, calibration_images=images, num_bits=4)
    checkpoint = qat.checkpoint_of(model)
    wanted = qat.diagnose(checkpoint.graph, checkpoint.params, images.transpose(0, 3, 1, 2).copy(), ops=NUMPY_OPS)
    found = qat.diagnose(model, images, ops=NUMPY_OPS)
    assert found.layers == wanted.layers
    with pytest.raises(qat.QatError, match="takes float32"):
        qat.diagnose(model, images.transpose(0, 3, 1, 2), ops=NUMPY_OPS)


def test_wrong_questions_are_refused() -> None:
    graph = two_layers()
    quantized = calibrate(graph, weights(), PIXELS, ops=NUMPY_OPS)
    with pytest.raises(qat.QatError, match="is a float network, which loses nothing"):
        qat.diagnose(graph, weights(), PIXELS)
    with pytest.raises(
        qat.QatError, match=r"a network alone has no parameters: give diagnose\(network, params, images\)"
    ):
        qat.diagnose(quantized.graph, PIXELS)
    for wrong in ((quantized.params, PIXELS), ()):
        with pytest.raises(qat.QatError, match="have their own parameters: give diagnose"):
            qat.diagnose(quantized, *wrong)
    with pytest.raises(qat.QatError, match="no prepared model"):
        qat.diagnose(object(), PIXELS)
    with pytest.raises(qat.QatError, match="there are no images"):
        qat.diagnose(quantized.graph, quantized.params, PIXELS[:0])
    with pytest.raises(qat.QatError, match="these are not the float parameters that Traced was made from"):
        qat.diagnose(quantized.graph, quantized.params, PIXELS, float_params={"c.weight": weights()["a.weight"]})
    large = {**quantized.params, "b.weight": np.full((3, 6), 3e38, F)}
    with pytest.raises(qat.QatError, match=r"b.*: gives numbers that are not finite in the float network"):
        qat.diagnose(quantized.graph, quantized.params, PIXELS, float_params=large, ops=NUMPY_OPS)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LeNet-5 with fresh weights, float, at 8 and at 2 bits."""
    folder = tmp_path_factory.mktemp("diagnose")
    graph = LeNet5().graph()
    params = graph.initial_params()
    qat.Checkpoint(graph, params).save(folder / "float.ckpt")
    images = qat.data.load("digits").resized((1, 32, 32)).train.images[:32]
    for bits in (8, 2):
        calibrate(graph, params, images, num_bits=bits).save(folder / f"{bits}.ckpt")
    equal = calibrate(graph, params, images, equalize=True, per_channel=(False, False))
    history = ({"calibration": {"equalize": True}},)
    qat.Checkpoint(equal.graph, equal.params, history=history).save(folder / "equal.ckpt")
    return folder


def test_the_command(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["diagnose", "--data_path", "digits", "--images", 20, "--ckpt_path", files / "2.ckpt"]
    status, out, err = run(capsys, *arguments, "--csv_path", files / "2.csv", "--top", 3)
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert max(map(len, lines)) <= 100
    assert lines[0].startswith("fc3: SQNR ")
    assert "the first 3 of 5 layers" in lines[1]
    table = [line.split("│") for line in lines if line.startswith("│")]
    assert len(table) == 3
    blames = [float(row[3]) for row in table]
    assert blames == sorted(blames, reverse=True)
    assert "advice: an output has " in out
    with (files / "2.csv").open() as text:
        found = list(csv.DictReader(text))
    assert [row["name"] for row in found] == ["conv1", "conv2", "fc1", "fc2", "fc3"]
    assert list(found[0]) == [each.name for each in fields(Layer)]
    assert max(float(row["blame"]) for row in found) == pytest.approx(blames[0] / 100, abs=1e-3)


def test_the_picture(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    arguments = ["diagnose", "--data_path", "digits", "--images", 8, "--ckpt_path", files / "8.ckpt"]
    status, _, err = run(capsys, *arguments, "--picture_path", files / "8.svg")
    assert (status, err) == (0, "")
    assert (files / "8.svg").read_text().count("<svg") == 1
    status, out, err = run(capsys, *arguments, "--picture_path", files / "8.jpeg")
    assert (status, out) == (2, "")
    assert "ends in .png or .svg" in err


def test_an_equalized_network_is_compared_with_the_equalized_float_one(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["diagnose", "--data_path", "digits", "--images", 8, "--ckpt_path", files / "equal.ckpt"]
    status, out, err = run(capsys, *arguments, "--float_ckpt", files / "float.ckpt")
    assert (status, err) == (0, "")
    assert out == run(capsys, *arguments)[1]
    params = LeNet5().graph().initial_params()
    assert not np.array_equal(qat.Checkpoint.load(files / "equal.ckpt").params["conv1.weight"], params["conv1.weight"])


def test_mistakes_are_one_line(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = ["diagnose", "--data_path", "digits", "--ckpt_path"]
    for arguments, message in (
        ([files / "float.ckpt"], "is not quantized yet; run calibrate"),
        ([files / "8.ckpt", "--images", 0], "--images 0: there are 360 test images; use a number from 1 to that"),
        ([files / "8.ckpt", "--top", 0], "--top 0: use a number of rows, at least 1"),
        ([files / "8.ckpt", "--float_ckpt", files / "2.ckpt"], "holds the quantized network LeNet5 where a float one"),
        ([files / "8.ckpt", "--csv_path", files], "is a folder"),
    ):
        status, out, err = run(capsys, *base, *arguments)
        assert (status, out, err.count("\n")) == (2, "", 1), arguments
        assert message in err
