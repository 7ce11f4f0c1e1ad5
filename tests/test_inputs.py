"""What enters a network: pixels normalised by channel, codes of a given grid, wide codes, real numbers. NumPy and the backends;
each target has a test of its own.
"""

from __future__ import annotations

import warnings
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest
from calibrations import calibrate
from frameworks import HERE, but_long

import qat
from qat.analysis.compression import weight_sizes
from qat.errors import QatWarning
from qat.integer import Entering, Grid, IntegerInput, trace_codes
from qat.integer.ends import TYPES, Ends, FileInput, ends_of
from qat.pruning import MagnitudePruner, prune_weights, updated_masks
from qat.study.layers import costs_of, layers_of
from qat.training.optimizer import Optimizer
from qat.vocabulary.arrays import ArraySpec

F = np.float32
TORCH = qat.backend("torch")
SHAPE = (3, 8, 8)
RNG = np.random.default_rng(0)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PIXELS = RNG.integers(0, 256, (40, *SHAPE), np.uint8)
PIXELS[0], PIXELS[1] = 0, 255


class Net(qat.Network):
    """A convolution and a dense layer."""

    def __init__(self, has_bn: bool = True, pad_mode: str = "same", **options: Any) -> None:
        self.inputs = qat.Input(SHAPE, **options)
        self.conv = qat.Conv2dBnAct(3, 4, 3, pad_mode=pad_mode, has_bn=has_bn, activation="relu")
        self.flatten = qat.Flatten()
        self.fc = qat.DenseBnAct(4 * (64 if pad_mode == "same" else 36), 3)

    def construct(self, x):
        return self.fc(self.flatten(self.conv(x)))


class Flat(qat.Network):
    """A dense layer behind a Flatten."""

    def __init__(self, **options: Any) -> None:
        self.inputs, self.flatten, self.fc = qat.Input(SHAPE, **options), qat.Flatten(), qat.DenseBnAct(192, 3)

    def construct(self, x):
        return self.fc(self.flatten(x))


class Pooled(qat.Network):
    """What takes the pixels has no weights."""

    def __init__(self, **options: Any) -> None:
        self.inputs, self.pool, self.flatten = qat.Input(SHAPE, **options), qat.MaxPool2d(2, 2), qat.Flatten()
        self.fc = qat.DenseBnAct(48, 3)

    def construct(self, x):
        return self.fc(self.flatten(self.pool(x)))


#: Inputs, and samples for them.
INPUTS: dict[str, tuple[dict[str, Any], Any]] = {
    "pixels": ({"mean": 0.45, "std": 0.22}, PIXELS),
    "uint8 codes": ({"dtype": "uint8", "scale": 0.1, "zero_point": 7}, PIXELS),
    "int8 codes": (
        {"dtype": "int8", "scale": 0.58470290, "zero_point": 83},
        RNG.integers(-128, 128, (40, *SHAPE), np.int8),
    ),
    "int16 words": (
        {"dtype": "int16", "scale": 0.001, "zero_point": -3},
        RNG.integers(-32768, 32768, (40, *SHAPE), np.int16),
    ),
    "uint16 words": (
        {"dtype": "uint16", "scale": 0.001, "zero_point": 9},
        RNG.integers(0, 65536, (40, *SHAPE), np.uint16),
    ),
    "real numbers": ({"dtype": "float32"}, RNG.normal(0.3, 1.0, (40, *SHAPE)).astype(F)),
}
every_input = pytest.mark.parametrize("what", INPUTS)


def trained(network: qat.Network, samples: Any, **settings: Any) -> qat.Checkpoint:
    """A calibrated network with running statistics that are not the initial ones."""
    params = network.graph().initial_params(1)
    for name, array in params.items():
        if name.endswith("moving_mean"):
            params[name] = RNG.normal(0, 1, array.shape).astype(F)
        if name.endswith("moving_variance"):
            params[name] = RNG.uniform(0.5, 2, array.shape).astype(F)
    return calibrate(network, params, samples, **settings)


def ties(multiplier: np.float32, low: int, high: int) -> Any:
    """Numbers whose products with a multiplier are halves, or next to them by one step of float32, and extreme ones."""
    halves = np.arange(low - 2, high + 2) + 0.5
    near = (halves / np.float64(multiplier)).astype(F)
    found = [near, np.nextafter(near, F(np.inf)), np.nextafter(near, F(-np.inf))]
    extreme = np.array([np.finfo(F).max, np.finfo(F).min, np.finfo(F).tiny, 1e-45, -1e-45, 0.0, -0.0], F)
    return np.concatenate([*found, extreme])


# -- equal codes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("what", "backend"),
    but_long(
        product(INPUTS, HERE), lambda what, backend: backend == "mindspore" and what in ("pixels", "uint16 words")
    ),
)
def test_backends_compute_the_codes_of_numpy_and_train(what: str, backend: str) -> None:
    options, samples = INPUTS[what]
    checkpoint, module = trained(Net(**options), samples), qat.backend(backend)
    integers = qat.to_integer(checkpoint.graph, checkpoint.params)
    model = module.lower(checkpoint.graph, checkpoint.params)
    tensors = [node.output for node in integers.nodes]
    expected = trace_codes(integers, samples, [x.name for x in tensors])
    for name, codes in module.trace(model, samples, tensors).items():
        np.testing.assert_array_equal(codes, expected[name], err_msg=name)
    floats = module.predict(
        module.lower(Net(**options), {n: checkpoint.params[n] for n in Net().graph().params}), samples
    )
    assert np.abs(floats - integers.output.grid.dequantize(expected["fc"])).max() < 0.1 * np.abs(floats).max()
    step = module.make_step(model, Optimizer())
    losses = [step(samples, np.arange(len(samples)) % 3, 0.01) for _ in range(5)]
    assert losses[-1] < losses[0], losses


@pytest.mark.parametrize("backend", HERE)
@pytest.mark.parametrize("largest", [1e-3, 1.0, 3e4])
def test_ties_of_real_numbers(largest: float, backend: str) -> None:
    """One float32 product, rounded half to even, clipped: ``np.rint`` of the product itself."""
    samples = (INPUTS["real numbers"][1] * largest).astype(F)
    checkpoint, module = trained(Net(dtype="float32"), samples), qat.backend(backend)
    integers = qat.to_integer(checkpoint.graph, checkpoint.params)
    entry, grid = integers.nodes[0], integers.nodes[0].output.grid
    assert isinstance(entry, IntegerInput)
    assert entry.requantize is not None
    numbers = ties(entry.requantize.multiplier[0], grid.low, grid.high)
    with np.errstate(over="ignore", invalid="ignore"):  # of the largest numbers
        assert (np.abs(numbers * (F(1.0) / grid.scale)) % 1 == 0.5).sum() > 200
        numbers = np.resize(numbers, (-(-len(numbers) // 192), *SHAPE))
        steps = numbers * (F(1.0) / grid.scale)
    expected = (np.clip(np.rint(steps), grid.low, grid.high) + grid.zero_point).astype(np.int32)
    np.testing.assert_array_equal(trace_codes(integers, numbers, ["input"])["input"], expected)
    found = module.trace(module.lower(checkpoint.graph, checkpoint.params), numbers, [integers.nodes[0].output])
    np.testing.assert_array_equal(found["input"], expected)


def test_the_range_of_real_numbers_is_calibrated_and_has_eight_bits_at_least() -> None:
    samples = INPUTS["real numbers"][1]
    for settings, bits in (({}, 8), ({"num_bits": 4}, 8), ({"num_bits": (8, 12)}, 12)):
        checkpoint = trained(Net(dtype="float32"), samples, **settings)
        cell = next(node.cell for node in checkpoint.graph.nodes if node.name == "input.fake_quant")
        assert isinstance(cell, qat.FakeQuant)
        assert cell.quantizer.num_bits == bits
        assert checkpoint.params["input.fake_quant.max"] == samples.max()
        assert checkpoint.params["input.fake_quant.min"] == samples.min()
    graph = qat.convert_quant_network(Net(dtype="float32"), layers={"input": {"num_bits": 5}})
    assert next(n.cell.quantizer.num_bits for n in graph.nodes if n.name == "input.fake_quant") == 5  # type: ignore[attr-defined]


@every_input
def test_a_graph_in_a_file_keeps_its_inputs(what: str) -> None:
    graph = qat.convert_quant_network(Net(**INPUTS[what][0]))
    assert qat.Graph.from_json(graph.to_json()) == graph
    assert graph.input_specs == (ArraySpec(SHAPE, str(INPUTS[what][1].dtype)),)


# -- a mean and std for each channel ----------------------------------------------------------------------------------

NORMALISED: dict[str, tuple[Any, dict[str, Any]]] = {
    "padded": (Net, {}),
    "padded, no batch normalisation": (Net, {"has_bn": False}),
    "not padded": (Net, {"pad_mode": "valid"}),
    "flattened": (Flat, {}),
    "pooled": (Pooled, {}),
}
EACH: dict[str, dict[str, Any]] = {
    "as ImageNet": {"mean": MEAN, "std": STD},
    "half a pixel": {"mean": (0.5,) * 3, "std": 0.5},
    "std alone": {"mean": 0.0, "std": STD},
}


def by_hand(each: dict[str, Any]) -> Any:
    """The normalised picture, float32."""
    mean, std = (np.array(each[name]).reshape(-1, 1, 1) for name in ("mean", "std"))
    return ((PIXELS / 255.0 - mean) / std).astype(F)


@pytest.mark.parametrize("each", EACH)
@pytest.mark.parametrize("kind", NORMALISED)
@pytest.mark.filterwarnings("ignore::qat.errors.QatWarning")
def test_channels_are_normalised_as_by_hand(kind: str, each: str) -> None:
    """The float network to float32's rounding; with 16 bits to that of the codes, borders included."""
    make, options = NORMALISED[kind]
    network, params = make(**options, **EACH[each]), make(**options).graph().initial_params(3)
    torch = qat.backend("torch")
    expected = torch.predict(torch.lower(make(**options, dtype="float32"), params), by_hand(EACH[each]))
    largest = np.abs(expected).max()
    assert np.abs(torch.predict(torch.lower(network, params), PIXELS) - expected).max() < 1e-5 * largest
    checkpoint = calibrate(network, params, PIXELS, num_bits=16)
    integers = qat.to_integer(checkpoint.graph, checkpoint.params)
    found = integers.output.grid.dequantize(qat.evaluate(integers, PIXELS))
    assert np.abs(found - expected).max() < 2e-4 * largest
    wrong = {**EACH[each], "std": tuple(np.array((*STD,)) * (1.0, 1.001, 1.0))}  # the tolerance sees a wrong factor
    other = torch.predict(torch.lower(make(**options, dtype="float32"), params), by_hand(wrong))
    assert np.abs(other - expected).max() > 2e-4 * largest


@pytest.mark.parametrize(
    ("kind", "backend"),
    but_long(
        product(NORMALISED, HERE), lambda kind, backend: backend == "mindspore" and kind not in ("padded", "pooled")
    ),
)
@pytest.mark.filterwarnings("ignore::qat.errors.QatWarning")
def test_normalised_channels_have_equal_codes(kind: str, backend: str) -> None:
    make, options = NORMALISED[kind]
    network, module = make(**options, **EACH["as ImageNet"]), qat.backend(backend)
    folded = make is Net and backend == "torch" and options.get("has_bn", True)
    for settings in ({"one_conv_fold": False}, {"one_conv_fold": True}, {}) if folded else ({},):
        checkpoint = trained(network, PIXELS, **settings)
        integers = qat.to_integer(checkpoint.graph, checkpoint.params)
        model = module.lower(checkpoint.graph, checkpoint.params)
        np.testing.assert_array_equal(module.predict_codes(model, PIXELS), qat.evaluate(integers, PIXELS))
        step = module.make_step(model, Optimizer())
        losses = [step(PIXELS, np.arange(len(PIXELS)) % 3, 0.01) for _ in range(4)]
        assert losses[-1] < losses[0], losses


def test_where_the_normalisation_goes() -> None:
    def names(make: Any, each: str, **options: Any) -> list[str]:
        return [node.name for node in qat.convert_quant_network(make(**options, **EACH[each])).nodes]

    assert "input.constant_channel" in names(Net, "as ImageNet")
    assert "input.constant_channel" not in names(Net, "as ImageNet", pad_mode="valid")
    assert "input.constant_channel" not in names(Net, "std alone"), "a factor alone needs no further channel"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert names(Flat, "as ImageNet") == ["input", "flatten", "fc", "fc.fake_quant"]
    with pytest.warns(
        QatWarning, match=r"^Pooled: the normalisation of input, .* becomes a layer of its own, input\.norm"
    ):
        assert "input.normalize" in names(Pooled, "as ImageNet")


def test_the_further_channel_costs_what_metrics_say() -> None:
    graph = qat.convert_quant_network(Net(**EACH["as ImageNet"]))
    assert qat.metrics.macs(graph)["conv"] == 64 * 4 * 4 * 9
    assert qat.metrics.deployed_parameters(graph)["conv"] == 4 * 4 * 9 + 4
    assert qat.metrics.macs(Net(**EACH["as ImageNet"]))["conv"] == 64 * 4 * 3 * 9
    checkpoint = trained(Net(**EACH["as ImageNet"]), PIXELS)
    assert [layer.weights.size for layer in layers_of(checkpoint)] == [each.weights for each in costs_of(graph)]
    assert [size.numbers for size in weight_sizes(graph, checkpoint.params)] == [4 * 4 * 9, 4 * 64 * 3]


def test_a_pruned_weight_stays_zero_behind_a_normalised_input() -> None:
    network, pruner = Net(**EACH["as ImageNet"]), MagnitudePruner(0.5, schedule="constant", begin=0)
    graph, params = prune_weights(network, network.graph().initial_params(0), pruner)
    params |= updated_masks(graph, params, 0)
    checkpoint = calibrate(graph, params, PIXELS)
    conv = next(node for node in qat.to_integer(checkpoint.graph, checkpoint.params).nodes if node.name == "conv")
    mask = checkpoint.params["conv.weight_mask"]
    assert (conv.centred_weight[:, :3][mask == 0] == 0).all()  # type: ignore[attr-defined]
    assert (mask == 0).sum() >= 54 - 1


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "float64"}, "dtype is 'float64'; use one of uint8, int8, uint16, int16, float32"),
        ({"dtype": "int8"}, "dtype int8 without scale: what a code stands for is unknown; give scale and zero_point"),
        ({"dtype": "float32", "scale": 0.1}, "float32 with scale or zero_point: real numbers are no codes"),
        ({"dtype": "float32", "mean": 0.5}, "mean and std are those of pixels, but the numbers are float32; normalise"),
        ({"dtype": "int8", "scale": -1.0}, "scale -1.0 must be a positive number"),
        ({"dtype": "int8", "scale": 1.0, "zero_point": 200}, "zero_point 200 a code of int8, -128 to 127"),
        ({"zero_point": 3}, "zero_point is given without scale"),
        ({"mean": (0.1, 0.2)}, r"mean is \(0.1, 0.2\), 2 numbers, but its shape \(3, 8, 8\) has 3 channels"),
        ({"std": (1.0, 0.0, 1.0)}, "std be a positive number of ordinary size"),
    ],
)
def test_an_input_that_makes_no_sense(options: dict[str, Any], message: str) -> None:
    with pytest.raises(qat.QatError, match=f"^Input: .*{message}"):
        qat.Input(SHAPE, **options)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_number_that_is_not_finite_is_named(bad: float) -> None:
    samples = INPUTS["real numbers"][1].copy()
    checkpoint = trained(Net(dtype="float32"), samples)
    samples[33, 2, 1, 4] = bad
    integers = qat.to_integer(checkpoint.graph, checkpoint.params)
    with pytest.raises(qat.QatError, match=rf"^Net: sample 33 holds {bad} at \[2, 1, 4\], which has no code"):
        qat.evaluate(integers, samples, batch_size=8)
    with pytest.raises(qat.QatError, match=r"^Net: sample 33 holds"):
        calibrate(Net(dtype="float32"), Net().graph().initial_params(), samples)
    step = TORCH.make_step(TORCH.lower(checkpoint.graph, checkpoint.params), Optimizer())
    with pytest.raises(qat.QatError, match=r"^Net: sample 33 holds"):
        step(samples, np.zeros(len(samples), np.int64), 0.01)


@every_input
def test_arrays_of_another_dtype_are_refused(what: str) -> None:
    options, samples = INPUTS[what]
    integers = qat.to_integer(*(lambda c: (c.graph, c.params))(trained(Net(**options), samples)))
    for dtype in {"uint8", "int8", "int16", "uint16", "float32", "float64"} - {str(samples.dtype)}:
        with pytest.raises(qat.QatError, match=rf"takes .*{samples.dtype} \(N, 3, 8, 8\), but got {dtype}"):
            qat.evaluate(integers, np.zeros((2, *SHAPE), dtype))


# -- the ends of a file ------------------------------------------------------------------------------------------------


@every_input
@pytest.mark.parametrize("stored", TYPES)
def test_what_a_file_takes_stands_for_the_same_codes(what: str, stored: str) -> None:
    options, samples = INPUTS[what]
    checkpoint = trained(Net(**options), samples)
    integers = qat.to_integer(checkpoint.graph, checkpoint.params)
    if stored == "float32" and "words" in what:
        with pytest.raises(qat.QatError, match="rounds them anew"):
            ends_of(integers, stored)
        return
    ends = ends_of(integers, stored, stored)
    assert Ends.from_json(ends.to_json()) == ends
    (end,), (taken,) = ends.inputs, ends.encode((samples,))
    assert str(taken.dtype) == end.stored == (str(samples.dtype) if stored == "own" else stored)
    centred = taken.astype(F) - F(end.zero_point)
    if end.quantizes is not None:
        (multiplier, low, high), offset = end.quantizes
        centred = np.clip(np.rint((taken.astype(F) - F(offset)) * multiplier), low, high)
    expected = trace_codes(integers, samples, ["input", "fc"])
    np.testing.assert_array_equal(centred + integers.nodes[0].output.grid.zero_point, expected["input"])
    (out,), grid = ends.outputs, integers.output.grid
    real = grid.dequantize(expected["fc"])
    if out.stored != "float32":
        given = (expected["fc"].astype(np.int32) - grid.zero_point + out.zero_point).astype(out.stored)
        np.testing.assert_array_equal(out.decode(given), real)


def test_codes_that_a_type_does_not_hold_are_refused() -> None:
    options, samples = INPUTS["real numbers"]
    checkpoint = trained(Net(**options), samples, num_bits=(8, 12))
    integers = qat.to_integer(checkpoint.graph, checkpoint.params)
    with pytest.raises(
        qat.QatError, match=r"^input: --input_type int8: its codes, .* do not fit; use int16 or float32"
    ):
        ends_of(integers, "int8")
    with pytest.raises(qat.QatError, match=r"^fc: --output_type uint8: its codes"):
        ends_of(integers, "own", "uint8")
    with pytest.raises(qat.QatError, match=r"^--input_type 'int4' is unknown: choose one of own, float32"):
        ends_of(integers, "int4")


@pytest.mark.parametrize(
    "wrong",
    [
        {"dtype": "float64"},
        {"stored": "int32"},
        {"scale": 0.0},
        {"multiplier": float("nan")},
        {"multiplier": -1.0},
        {"multiplier": 1e39},
        {"low": 1 << 17},
        {"low": 1, "high": 0},
        {"zero_point": -127},
    ],
)
def test_an_end_that_no_file_has_is_refused_whatever_the_format(wrong: dict[str, Any]) -> None:
    end = FileInput(SHAPE, "float32", "int8", 0.5, -128, 0, 255, 2.0, 0)
    with pytest.raises((ValueError, qat.QatError), match=r"scale|dtypes|codes|multiplier"):
        replace(end, **wrong)


@pytest.mark.parametrize(("scale", "exponent"), [(1.0, -126), (2.0**-126, 1)])
def test_products_that_runtimes_take_for_zero_are_refused(scale: float, exponent: int) -> None:
    """Some take numbers below 2^-126 for 0: that is their code as long as their products are below 1/2."""
    entering = Entering("input", ArraySpec(SHAPE, "float32"), F(scale), 0)
    with pytest.raises(qat.QatError, match=r"^input: its codes have scale .* far too large or too small"):
        entering.requantized(Grid(F(2.0**exponent), 0, 0, 255))
    largest = Entering("input", ArraySpec(SHAPE, "float32"), F(1.0), 0).requantized(Grid(F(2.0**-125), 0, 0, 255))
    assert largest.requantize is not None
    assert np.rint(np.nextafter(F(2.0**-126), F(0.0)) * largest.requantize.multiplier[0]) == 0.0
