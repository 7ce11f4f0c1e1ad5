"""Factors of channels: the float function stays, rounding loses less, and what may not be moved is not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from calibrations import calibrate
from hypothesis import HealthCheck, given, seed, settings
from test_zoo import Setup, setups

import qat
from qat.analysis.equalization import MARGIN, channel_ranges, equalized
from qat.passes.channel_noise import ChannelNoise
from qat.passes.equalize_channels import equalize_activations, equalize_channels
from qat.passes.rescale_channels import ScaledChannels, rescale_channels, rescaled_like
from qat.registry import evaluation_ops
from qat.training.forward import IDLE, NodeLoop
from qat.vocabulary.numpy_ops import NUMPY_OPS
from qat.vocabulary.ops import Array

IMAGES = np.random.default_rng(0).integers(0, 256, (16, 3, 8, 8), np.uint8)


class Bottlenecks(qat.Network):
    """Linear bottlenecks with ReLU6 and a residual addition, as EfficientNet-Lite0 has them, and a concatenation."""

    def __init__(self, activation: str = "relu6") -> None:
        self.inputs = qat.Input((3, 8, 8), mean=0.5, std=0.3)
        self.stem = qat.Conv2dBnAct(3, 8, 3, has_bn=True, activation=activation)
        self.project1 = qat.Conv2dBnAct(8, 6, 1, has_bn=True)
        self.expand = qat.Conv2dBnAct(6, 12, 1, has_bn=True, activation=activation)
        self.depthwise = qat.Conv2dBnAct(12, 12, 3, group=12, has_bias=True, activation=activation)
        self.project2 = qat.Conv2dBnAct(12, 6, 1, has_bias=True)
        self.branch = qat.Conv2dBnAct(6, 4, 1, has_bias=True)
        self.slopes = qat.PReLU(4)
        self.concat = qat.Concat()
        self.norm = qat.BatchNorm(10)
        self.pool = qat.GlobalAvgPool2d()
        self.flatten = qat.Flatten()
        self.last = qat.DenseBnAct(10, 5)

    def construct(self, x: Any) -> Any:
        stream = self.project1(self.stem(x))
        stream = stream + self.project2(self.depthwise(self.expand(stream)))
        joined = self.concat(stream, self.slopes(self.branch(stream)))
        return self.last(self.flatten(self.pool(self.norm(joined))))


def uneven(graph: qat.Graph, seed: int, spread: float = 1.0) -> dict[str, Array]:
    """Parameters of which the output channels of linear cells differ in size by up to 10^(2 spread)."""
    generator, params = np.random.default_rng(seed), graph.initial_params(seed)
    for node in graph.nodes:
        own = {local: f"{node.cell_name}.{local}" for local in node.cell.float_params()}
        if "moving_variance" in own:
            params[own["moving_variance"]] = generator.uniform(0.5, 2.0, params[own["gamma"]].shape).astype(np.float32)
        scaled = [own[local] for local in (("gamma", "beta") if "gamma" in own else ("weight", "bias")) if local in own]
        if scaled and node.name not in graph.outputs:
            factor = 10.0 ** generator.uniform(-spread, spread, params[scaled[-1]].shape[0])
            for name in scaled:
                array = params[name] + (generator.normal(0, 0.2, params[name].shape) if params[name].ndim == 1 else 0.0)
                if len(array) != len(factor):  # of a transposed convolution, whose inputs come first
                    continue
                params[name] = (array * factor.reshape((-1,) + (1,) * (array.ndim - 1))).astype(np.float32)
    return params


def outputs(graph: qat.Graph, params: dict[str, Array], images: Any = IMAGES, phase: int = IDLE) -> list[Array]:
    loop = NodeLoop(graph, NUMPY_OPS)
    batch = images if isinstance(images, tuple) else (images,)
    return [NUMPY_OPS.to_numpy(y, "activation") for y in loop.run(loop.load(params, phase), loop.pixels(batch))]


def error(graph: qat.Graph, params: dict[str, Array], found: dict[str, Array], **options: Any) -> float:
    """Of the integers, relative to the float outputs of params."""
    quantized = calibrate(graph, found, IMAGES, **options)
    (expected,), (y,) = outputs(graph, params), outputs(quantized.graph, quantized.params, phase=0)
    return float(((y - expected) ** 2).sum() / (expected**2).sum())


def measured(graph: qat.Graph, params: dict[str, Array], images: Array = IMAGES) -> Any:
    return channel_ranges(graph, params, [(images,)])


# -- the function ------------------------------------------------------------------------------------------------------


class Drawn(qat.Network):
    """Cells that keep factors, give or take them, in any order, with additions and concatenations."""

    def __init__(self, number: int) -> None:
        draw = np.random.default_rng(number)
        self.inputs = qat.Input((3, 8, 8), mean=0.5, std=0.3)
        self.cells: list[Any] = []
        self.steps: list[tuple[int, tuple[int, ...]]] = []  # cell and values that it takes; value 0 is the input
        shapes = [(3, 8, 8)]

        def use(cell: Any, *values: int) -> int:
            self.cells.append(cell)
            self.steps.append((len(self.cells) - 1, values))
            shapes.append(cell.output_shape(*(shapes[value] for value in values)))
            return len(shapes) - 1

        def linear(value: int) -> int:
            channels, activation = shapes[value][0], str(draw.choice(["relu", "relu6", "leaky_relu", "none"]))
            options: dict[str, Any] = {"activation": None if activation == "none" else activation}
            options["has_bn"] = bool(draw.integers(2))
            options["has_bias"] = not options["has_bn"]
            kind = draw.integers(5)
            if kind == 0:
                return use(qat.Conv2dBnAct(channels, channels, 3, group=channels, **options), value)
            if kind == 1:
                return use(qat.BatchNorm(channels, activation=options["activation"]), value)
            if kind == 2:
                return use(qat.ConvTranspose2dBnAct(channels, 4, 3, padding=1, **options), value)
            group = 2 if channels % 2 == 0 and kind == 3 else 1
            return use(qat.Conv2dBnAct(channels, int(draw.choice([4, 6])), 3, group=group, **options), value)

        value = linear(linear(0))
        for _ in range(7):
            channels = shapes[value][0]
            one = draw.integers(8)
            if one == 0:
                cell = draw.choice(
                    [qat.MaxPool2d(3, stride=1, pad_mode="same"), qat.AvgPool2d(3, stride=1, pad_mode="same")]
                )
                value = use(cell, value)
            elif one == 1:
                value = use(qat.PReLU(channels), value)
            elif one == 2:
                value = use(qat.Activation(str(draw.choice(["relu", "relu6", "leaky_relu"]))), value)
            elif one in (3, 4):
                others = [i for i in range(1, len(shapes)) if shapes[i] == shapes[value] and i != value]
                cell = draw.choice([qat.Add(), qat.Add("relu6"), qat.Sub(), qat.Maximum(), qat.Concat()])
                value = use(cell, value, int(draw.choice(others))) if others else linear(value)
            else:
                value = linear(value)
        if draw.integers(2):
            value = use(qat.GlobalAvgPool2d(), value)
        value = use(qat.Flatten(), value)
        use(qat.DenseBnAct(shapes[value][0], 5), value)

    def construct(self, x: Any) -> Any:
        values = [x]
        for cell, taken in self.steps:
            values.append(self.cells[cell](*(values[i] for i in taken)))
        return values[-1]


def check_powers_of_two(graph: qat.Graph, params: dict[str, Array], images: Any) -> int:
    """Multiply by any, as far as ReLU6 lets: the float outputs keep every bit. Returns how many factors there were."""
    channels = ScaledChannels(graph)
    ranges = channel_ranges(graph, params, [images if isinstance(images, tuple) else (images,)])
    exponents = np.where(channels.free, np.random.default_rng(channels.count).integers(-3, 4, channels.count), 0)
    for node in graph.nodes:  # what ReLU6 clips stays, and nothing else comes to its bound
        if np.isfinite(node.cell.bound):
            high, own = ranges[node.name].high, channels.of[node.name]
            room = np.floor(np.log2(node.cell.bound / np.maximum(high, 1e-6)) - 1e-3)
            np.minimum.at(exponents, own, room.astype(int))
    for node in graph.nodes:
        if np.isfinite(node.cell.bound):
            exponents[channels.of[node.name][ranges[node.name].high >= node.cell.bound]] = 0
    changed = rescale_channels(graph, params, channels, 2.0**exponents)
    for y, expected in zip(outputs(graph, changed, images), outputs(graph, params, images), strict=True):
        np.testing.assert_array_equal(y, expected)
    return int((exponents != 0).sum())


def test_powers_of_two_leave_every_bit_of_the_float_outputs() -> None:
    """A power of two goes through every float32 operation without rounding."""
    kinds: set[str] = set()
    for number in range(40):
        graph = qat.convert_quant_network(Drawn(number)) if number % 2 else Drawn(number).graph()
        params = graph.params_from(uneven(Drawn(number).graph(), number, spread=0.3))
        assert check_powers_of_two(graph, params, IMAGES[:2]) > 4
        channels = ScaledChannels(graph)
        kinds |= {type(node.cell).__name__ for node in graph.nodes if channels.free[channels.of[node.name]].any()}
    assert kinds >= {"Add", "Sub", "Maximum", "Concat", "PReLU", "Activation", "MaxPool2d", "AvgPool2d", "Flatten"}
    assert kinds >= {"BatchNorm", "ConvTranspose2dBnAct", "Conv2dBnAct", "FakeQuant", "GlobalAvgPool2d"}


@seed(0)
@settings(max_examples=15, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(setups())
def test_and_those_of_networks_of_all_cells(setup: Setup) -> None:
    check_powers_of_two(setup.graph, setup.params, setup.pixels)


@pytest.mark.parametrize("number", range(10))
def test_chosen_factors_keep_the_float_function(number: int) -> None:
    """Of drawn networks; to 1e-4 of the largest output, through some ten layers of float32 sums."""
    graph = Drawn(number).graph()
    params = uneven(graph, number, spread=0.5)
    quantized = qat.convert_quant_network(graph, per_channel=(number % 2 == 0, False))
    own = quantized.params_from(params)
    (expected,) = outputs(graph, params)
    found = equalize_activations(quantized, own, measured(quantized, own), 1.0)
    for changed in (found.params, equalize_channels(graph, params)):
        (y,) = outputs(graph, {name: changed[name] for name in params})
        np.testing.assert_allclose(y, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("number", range(3))
def test_equalization_keeps_the_float_function(number: int) -> None:
    graph = Bottlenecks().graph()
    params = uneven(graph, number)
    quantized = qat.convert_quant_network(graph)
    own = quantized.params_from(params)
    (expected,) = outputs(graph, params)
    tolerance = 1e-5 * np.abs(expected).max()  # float32 sums of other numbers
    ranges = measured(quantized, own)
    for margin in (None, 1.0, MARGIN):
        found = equalize_activations(quantized, own, ranges, margin)
        np.testing.assert_allclose(outputs(quantized, found.params)[0], expected, rtol=0, atol=tolerance)
        assert any((factor != 1.0).any() for factor in found.factors.values())
    np.testing.assert_allclose(outputs(graph, equalize_channels(graph, params))[0], expected, rtol=0, atol=tolerance)
    wrong = found.params | {"project2.weight": found.params["project2.weight"] * np.float32(1.001)}
    assert np.abs(outputs(quantized, wrong)[0] - expected).max() > tolerance


def test_the_factors_between_two_networks_are_found_again() -> None:
    """Also where biases were corrected and codes were moved meanwhile: the function stays in any case."""
    graph = Bottlenecks("relu").graph()
    params = uneven(graph, 0)
    changed = equalize_channels(graph, params)
    found = rescaled_like(graph, params, changed)
    for name in params:
        np.testing.assert_allclose(found[name], changed[name], rtol=1e-5, atol=1e-7)
    moved = {name: array * np.float32(1.01) + np.float32(0.01) for name, array in changed.items()}
    (expected,), (y,) = outputs(graph, params), outputs(graph, rescaled_like(graph, params, moved))
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    assert not np.array_equal(rescaled_like(graph, params, moved)["expand.gamma"], params["expand.gamma"])


def test_which_channels_have_one_factor() -> None:
    graph = Bottlenecks().graph()
    channels = ScaledChannels(graph)
    of = {name.removesuffix("_1"): own for name, own in channels.of.items()}
    add = next(node.name for node in graph.nodes if isinstance(node.cell, qat.Add))
    for name in ("project2", add):  # all terms of a sum
        np.testing.assert_array_equal(of["project1"], of[name])
    np.testing.assert_array_equal(of["concat"], np.concatenate([of[add], of["slopes"]]))
    np.testing.assert_array_equal(of["slopes"], of["branch"])
    np.testing.assert_array_equal(of["norm"], of["flatten"])
    for one, other in (("expand", "depthwise"), ("concat", "norm"), ("stem", "project1")):
        assert not np.isin(of[one], of[other]).any()
    fixed = ~channels.free
    assert fixed[of["input"]].all()
    assert fixed[of["last"]].all()
    assert [len(group) for group in channels.groups] == [8, 6, 12, 12, 4, 10]


@pytest.mark.parametrize("activation", ["hswish", "sigmoid", "gelu", "elu"])
def test_beside_a_function_that_does_not_keep_a_factor_it_is_1(activation: str) -> None:
    graph = Bottlenecks(activation).graph()
    for each in (graph, qat.convert_quant_network(graph)):
        channels = ScaledChannels(each)
        for name in ("stem", "expand", "depthwise"):
            assert not channels.free[channels.of[name]].any()
        assert channels.free[channels.of["project1"]].all()
    params = uneven(graph, 0)
    found = equalize_channels(graph, params)
    np.testing.assert_array_equal(found["depthwise.bias"], params["depthwise.bias"])
    np.testing.assert_allclose(outputs(graph, found)[0], outputs(graph, params)[0], rtol=1e-4, atol=1e-4)


def test_a_cell_that_is_used_twice_is_scaled_once() -> None:
    class Twice(qat.Network):
        def __init__(self) -> None:
            self.inputs = qat.Input((3, 8, 8))
            self.first = qat.Conv2dBnAct(3, 6, 3)
            self.same = qat.Conv2dBnAct(6, 6, 3, group=6, has_bias=True, activation="relu")
            self.last = qat.Conv2dBnAct(6, 2, 3)

        def construct(self, x: Any) -> Any:
            x = self.first(x)
            return self.last(self.same(x) + self.same(x))

    graph = Twice().graph()
    params = uneven(graph, 1)
    found = equalize_channels(graph, params)
    assert not np.array_equal(found["same.weight"], params["same.weight"])
    (expected,), (y,) = outputs(graph, params), outputs(graph, found)
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


# -- ReLU6 -------------------------------------------------------------------------------------------------------------


def bounded() -> tuple[qat.Graph, dict[str, Array]]:
    """A network in which some channels of a ReLU6 reach 6, and some do not."""
    graph = Bottlenecks().graph()
    params = uneven(graph, 0, spread=0.0)
    params["expand.gamma"][:] = np.array([30.0] * 4 + [0.02] * 8)
    params["expand.beta"][:] = np.array([6.0] * 4 + [0.05] * 8)
    params["project2.weight"][:, 4:] *= 100.0  # so that the small ones matter
    return graph, params


def test_a_channel_that_reaches_6_stays_and_no_other_comes_to_it() -> None:
    graph, params = bounded()
    quantized = qat.convert_quant_network(graph)
    own = quantized.params_from(params)
    ranges = measured(quantized, own)
    assert (ranges["expand"].high[:4] == 6.0).all()
    assert (ranges["expand"].high[4:] < 1.0).all()
    fixed = equalize_activations(quantized, own, ranges)
    assert (fixed.factors["expand"] == 1.0).all()
    found = equalize_activations(quantized, own, ranges, MARGIN)
    assert (found.factors["expand"][:4] == 1.0).all()
    assert (found.factors["expand"][4:] > 4.0).all()  # it is free: the depthwise weights have a scale each
    reach = 0.05 + 10.0 * 0.02  # by batch normalisation
    limit = 6.0 / np.maximum(MARGIN * ranges["expand"].high, reach)[4:]
    assert (found.factors["expand"][4:] <= limit * (1 + 1e-6)).all()
    assert (measured(quantized, found.params)["expand"].high[4:] < 6.0).all()
    (expected,), (y,) = outputs(quantized, own), outputs(quantized, found.params)
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    assert error(graph, params, {name: found.params[name] for name in params}) < 0.7 * error(graph, params, params)


def test_a_margin_that_other_images_pass_is_not_taken() -> None:
    """Held-back images on which a channel reaches much farther speak against it."""
    graph, params = bounded()
    params["expand.moving_variance"][4:] = 1e-4  # which is not that of the bright images
    dark, bright = IMAGES // 128 + 127, IMAGES
    quantized = qat.convert_quant_network(graph)
    own = quantized.params_from(params)
    (expected,) = outputs(quantized, own)
    moved = equalize_activations(quantized, own, measured(quantized, own, dark), MARGIN)
    tolerance = 1e-5 * np.abs(expected).max()
    assert np.abs(outputs(quantized, moved.params)[0] - expected).max() > 100 * tolerance
    chosen = equalized(quantized, own, [(dark,), (dark,), (dark,), (bright,)])
    np.testing.assert_allclose(outputs(quantized, chosen)[0], expected, rtol=0, atol=tolerance)


# -- what it brings ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("number", range(2))
def test_rounding_loses_less(number: int, per_channel: bool) -> None:
    """Across additions, concatenations and batch normalisation; with a scale for each channel, activations alone gain."""
    graph = Bottlenecks("relu").graph()
    params = uneven(graph, number)
    options = {"per_channel": (per_channel, False)}
    before, after = (error(graph, params, params, equalize=on, **options) for on in (False, True))
    assert after < 0.5 * before


def test_the_predicted_error_is_near_the_real_one_and_falls() -> None:
    """Of one layer, whose inputs and weight are rounded: within a factor of 2."""

    class One(qat.Network):
        def __init__(self) -> None:
            self.inputs = qat.Input((3, 8, 8), mean=0.5, std=0.3)
            self.first = qat.Conv2dBnAct(3, 16, 3)
            self.last = qat.Conv2dBnAct(16, 8, 1)

        def construct(self, x: Any) -> Any:
            return self.last(self.first(x))

    graph = One().graph()
    params = uneven(graph, 3)
    quantized = qat.convert_quant_network(graph, layers={"last": {"num_bits": (6, 16)}, "first": {"num_bits": (16, 6)}})
    own = quantized.params_from(params)
    ranges, channels = measured(quantized, own), ScaledChannels(quantized)
    noise = ChannelNoise(quantized, own, channels, ranges)
    found = equalize_activations(quantized, own, ranges)
    factors = np.ones(channels.count)
    for name, own_factors in found.factors.items():
        factors[channels.of[name]] = own_factors
    layers = {"layers": {"last": {"num_bits": (6, 16)}, "first": {"num_bits": (16, 6)}}}
    for each, changed in ((np.ones(channels.count), own), (factors, found.params)):
        predicted = noise.error(each, noise.layers)
        real = error(graph, params, {name: changed[name] for name in params}, **layers)
        assert 0.5 < predicted / real < 2.0
    assert noise.error(factors, noise.layers) < 0.5 * noise.error(np.ones(channels.count), noise.layers)


def test_nothing_is_changed_where_nothing_helps() -> None:
    """A factor of the only channel of an activation changes no code."""

    class Narrow(qat.Network):
        def __init__(self) -> None:
            self.inputs = qat.Input((3, 8, 8))
            self.first = qat.Conv2dBnAct(3, 1, 3, activation="relu")
            self.last = qat.Conv2dBnAct(1, 4, 3)

        def construct(self, x: Any) -> Any:
            return self.last(self.first(x))

    quantized = qat.convert_quant_network(Narrow())
    own = quantized.params_from(uneven(Narrow().graph(), 0))
    chosen = equalized(quantized, own, [(IMAGES,)])
    for name, array in own.items():
        np.testing.assert_array_equal(chosen[name], array)


def test_dead_channels_and_zero_weights_are_left_alone() -> None:
    graph = Bottlenecks("relu").graph()
    params = uneven(graph, 0)
    params["expand.gamma"][2] = params["expand.beta"][2] = 0.0  # gives zeros
    params["project2.weight"][:, 5] = 0.0  # takes nothing
    params["branch.weight"][:] = 0.0
    params["branch.bias"][:] = 0.0
    quantized = qat.convert_quant_network(graph)
    own = quantized.params_from(params)
    found = equalize_activations(quantized, own, measured(quantized, own))
    assert found.factors["expand"][2] == 1.0
    assert (found.factors["branch"] == 1.0).all()
    for changed in (found.params, equalize_channels(graph, params), equalized(quantized, own, [(IMAGES,)])):
        assert all(np.isfinite(changed[name]).all() for name in params)
        (expected,), (y,) = outputs(graph, params), outputs(graph, {name: changed[name] for name in params})
        np.testing.assert_allclose(y, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


# -- backends and files ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["torch", "keras", "mindspore"])
def test_every_backend_measures_the_same_ranges(backend: str) -> None:
    graph = Bottlenecks().graph()
    quantized = qat.convert_quant_network(graph)
    own = quantized.params_from(uneven(graph, 0))
    expected, found = (
        channel_ranges(quantized, own, [(IMAGES[:7],), (IMAGES[7:],)], ops)
        for ops in (NUMPY_OPS, evaluation_ops(backend))
    )
    assert list(found) == list(expected)
    for name, ranges in found.items():
        for mine, others in zip(ranges, expected[name], strict=True):
            np.testing.assert_allclose(mine, others, rtol=1e-4, atol=1e-5 * np.abs(others).max())


def test_the_integers_of_an_equalized_network_are_equal_everywhere(tmp_path: Any) -> None:
    graph = Bottlenecks().graph()
    checkpoint = calibrate(graph, uneven(graph, 0), IMAGES, equalize=True, method="mse", bias_correction=True)
    for target in ("ONNX", "TFLITE"):
        module: Any = qat.target(target)
        certificate = qat.export(checkpoint, tmp_path / f"net{module.SUFFIX}", images=IMAGES)
        assert certificate.passed


def test_numbers_that_are_not_finite_are_refused() -> None:
    graph = Bottlenecks().graph()
    params = uneven(graph, 0)
    params["project1.beta"][0] = np.inf
    quantized = qat.convert_quant_network(replace(graph, name="odd"))
    with pytest.raises(qat.QatError, match="not finite"), np.errstate(all="ignore"):
        equalized(quantized, quantized.params_from(params), [(IMAGES,)])


def test_numbers_whose_squares_are_not_finite_are_taken() -> None:
    """float32 holds no square of a number beyond 1.8e19."""

    class Large(qat.Network):
        def __init__(self) -> None:
            self.inputs = qat.Input((2,), dtype="float32")
            self.dense = qat.DenseBnAct(2, 3)

        def construct(self, x: Any) -> Any:
            return self.dense(x)

    quantized = qat.convert_quant_network(Large())
    own = quantized.params_from(Large().graph().initial_params(0))
    ranges = channel_ranges(quantized, own, [(np.array([[-3e25, 1.0], [2e25, 2.0]], np.float32),)])
    np.testing.assert_allclose(ranges["input"].mean_square, (9e50, 2.5), rtol=1e-6)
