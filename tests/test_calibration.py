"""Post-training quantization: ranges against their definitions, corrections against what they promise, the whole path."""

from __future__ import annotations

import math
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from calibrations import calibrate
from frameworks import HERE

import qat
from qat.analysis.bias_correction import (
    GROUPS,
    ChannelMean,
    correct_biases,
    float_means,
    shrunk_mean,
    watching,
)
from qat.analysis.paused_pass import Kept
from qat.analysis.ranges import BINS, CANDIDATES, ENTROPY_BINS, METHODS, Histogram, Observed, entropy_range, mse_range
from qat.cells.linear import LinearCell
from qat.cli import main
from qat.data import Split
from qat.deploy.c_array import c_array, c_identifier, is_c_array
from qat.deploy.verify import export_verified
from qat.integer.memory import activation_memory
from qat.networks import LeNet5, MnistCnn, ResNet8
from qat.networks.lenet5 import LeNet5BN
from qat.passes.equalize_channels import equalize_channels
from qat.registry import evaluation_ops
from qat.training.checkpoint import Checkpoint
from qat.training.forward import IDLE, NodeLoop
from qat.training.optimizer import Optimizer
from qat.vocabulary.arrays import batches_of
from qat.vocabulary.numpy_ops import NUMPY_OPS
from qat.vocabulary.ops import Array, Ops
from qat.vocabulary.rows import showing
from qat.vocabulary.values import Value

UNSIGNED = qat.FakeQuant(qat.ActivationQuantizer(), non_negative=True)
AFFINE = qat.FakeQuant(qat.ActivationQuantizer())
SYMMETRIC = qat.FakeQuant(qat.ActivationQuantizer(symmetric=True))
TORCH = qat.backend("torch")


def pixels(network: qat.Network, count: int, seed: int = 0) -> Array:
    graph = network.graph()
    return np.random.default_rng(seed).integers(0, 256, (count, *graph.shapes[graph.inputs[0].name]), np.uint8)


def histogram_of(numbers: Array, parts: int = 3, ops: Ops = NUMPY_OPS) -> Histogram:
    histogram = Histogram()
    for part in np.array_split(numbers, parts):  # as batches come
        histogram.reach(float(part.min()), float(part.max()))
        histogram.add(ops, ops.from_numpy(part.reshape(-1, 1), "activation"))
    return histogram


def fake_quantized(cell: qat.FakeQuant, low: float, high: float, numbers: Array) -> Array:
    """clip(rint(x / s), qmin - z, qmax - z) s, written out."""
    quantizer = cell.quantizer
    if quantizer.symmetric:
        scale, zero_point = max(-low, high) / quantizer.qmax, 0.0
    else:
        low = 0.0 if cell.non_negative else low
        scale = (high - low) / (quantizer.qmax - quantizer.qmin)
        zero_point = np.rint(quantizer.qmin - low / scale)
    return np.clip(np.rint(numbers / scale), quantizer.qmin - zero_point, quantizer.qmax - zero_point) * scale


# -- ranges -----------------------------------------------------------------------------------------------------------


class OneLayer(qat.Network):
    """y = relu(W p), then W' of it."""

    def __init__(self) -> None:
        self.inputs = qat.Input((7,), std=1 / 255)
        self.first = qat.DenseBnAct(7, 5, activation="relu")
        self.second = qat.DenseBnAct(5, 3, has_bias=False)

    def construct(self, x):  # type: ignore[no-untyped-def]
        return self.second(self.first(x))


def test_minmax_is_the_smallest_and_the_largest_number_of_all_batches() -> None:
    images, params = pixels(OneLayer(), 25), OneLayer().graph().initial_params(1)
    found = calibrate(OneLayer(), params, images, batch_size=10).params
    first = np.maximum(images.astype(np.float32) @ params["first.weight"].T + params["first.bias"], 0)
    second = first @ params["second.weight"].T
    assert "first.fake_quant.min" not in found  # after a ReLU only the upper end exists
    # Float sums of seven products in another order.
    for name, value in (
        ("first.fake_quant.max", first.max()),
        ("second.fake_quant.min", second.min()),
        ("second.fake_quant.max", second.max()),
    ):
        assert found[name] == pytest.approx(value, rel=1e-6)


def test_a_range_is_that_of_the_numbers_before_a_pooling() -> None:
    """Training pools first (``pool_before_quantize``); then small numbers would be missing here."""

    class Pooled(qat.Network):
        def __init__(self) -> None:
            self.inputs = qat.Input((1, 6, 6), mean=128 / 255, std=0.25)
            self.conv = qat.Conv2dBnAct(1, 2, 3, has_bias=False)
            self.pool = qat.MaxPool2d(2)

        def construct(self, x):  # type: ignore[no-untyped-def]
            return self.pool(self.conv(x))

    images, params = pixels(Pooled(), 10), Pooled().graph().initial_params(1)
    checkpoint = calibrate(Pooled(), params, images)
    real = (images.astype(np.float32) / 255 - 128 / 255) / 0.25
    outputs = NUMPY_OPS.conv2d(
        real, params["conv.weight"], None, stride=(1, 1), padding=(1, 1, 1, 1), dilation=(1, 1), group=1
    )
    pooled = NUMPY_OPS.max_pool2d(outputs, kernel=(2, 2), stride=(2, 2), padding=(0, 0, 0, 0))
    assert checkpoint.params["conv.fake_quant.min"] == pytest.approx(outputs.min(), rel=1e-5)
    assert pooled.min() > 0.9 * outputs.min()  # (both are below 0)


@pytest.mark.parametrize("percentile", [100.0, 99.9, 99.0, 75.0])
@pytest.mark.parametrize("rectified", [True, False])
def test_percentiles_are_those_of_the_numbers(percentile: float, rectified: bool) -> None:
    numbers = np.random.default_rng(0).standard_normal(30_000).astype(np.float32) + 0.3
    numbers = np.maximum(numbers, 0.0) if rectified else numbers
    low, high = histogram_of(numbers).percentile_range(percentile)
    expected = np.percentile(numbers, [100.0 - percentile, percentile])
    # A bin, and the distance of neighbours where they are few: with 30,000 numbers below 0.02 up to the 99.9th percentile.
    assert (low, high) == pytest.approx(tuple(expected), abs=0.02)
    assert high != pytest.approx(expected[1] + 0.05, abs=0.02)


def test_a_percentile_of_zeros_is_zero() -> None:
    numbers = np.zeros(1000, np.float32)
    numbers[:50] = np.linspace(1.0, 2.0, 50)
    assert histogram_of(numbers).percentile_range(90.0) == (0.0, 0.0)
    assert histogram_of(numbers).percentile_range(97.0)[1] == pytest.approx(1.4, abs=0.03)


@pytest.mark.parametrize("bits", [8, 4, 2])
@pytest.mark.parametrize("cell", [UNSIGNED, SYMMETRIC], ids=["non_negative", "symmetric"])
def test_mse_takes_the_best_threshold(cell: qat.FakeQuant, bits: int) -> None:
    cell = qat.FakeQuant(qat.ActivationQuantizer(bits, cell.quantizer.symmetric), cell.non_negative)
    numbers = np.random.default_rng(1).laplace(size=5000)
    numbers = (np.abs(numbers) if cell.non_negative else numbers).astype(np.float32)
    largest = np.abs(numbers).max()

    def error(threshold: float) -> float:
        real = fake_quantized(cell, max(numbers.min(), -threshold), min(numbers.max(), threshold), numbers)
        return float(((real - numbers) ** 2).mean())

    errors = {k: error(largest * k / CANDIDATES) for k in range(1, CANDIDATES + 1)}
    low, high = mse_range(cell, histogram_of(numbers))
    # Bins stand for their centres: where two thresholds are all but equal, either may be found.
    assert error(max(-low, high)) <= min(errors.values()) * 1.002
    assert bits == 8 or error(largest) > min(errors.values()) * 1.2


def test_mse_moves_the_ends_of_an_affine_range_apart_from_each_other() -> None:
    """A lone outlier below is not worth codes, the numbers above are."""
    numbers = np.random.default_rng(2).uniform(-1.0, 3.0, 20_000).astype(np.float32)
    numbers[0] = -8.0
    cell = qat.FakeQuant(qat.ActivationQuantizer(4))
    low, high = mse_range(cell, histogram_of(numbers))
    assert -1.4 < low < -0.7
    assert 2.7 < high < 3.2

    def error(ends: tuple[float, float]) -> float:
        return float(((fake_quantized(cell, *ends, numbers) - numbers) ** 2).mean())

    grid = [(a, b) for a in np.linspace(-1.6, -0.6, 21) for b in np.linspace(2.6, 3.2, 13)]
    assert error((low, high)) <= min(map(error, grid)) * 1.02  # two ends in turn against all pairs


def tensorrt_threshold(counts: list[int], levels: int, width: float) -> int:
    """The pseudo-code of Migacz's slides, for numbers from 0 up: how many bins are kept.

    Bins go to their nearest code, as the engine's quantizer has it (its scale is float32, which decides ties), where the
    slides cut them into equal groups. width: of a bin.
    """
    best, result = math.inf, 0
    for keep in range(levels, len(counts) + 1):
        p = [float(count) for count in counts[:keep]]
        p[-1] += sum(counts[keep:])
        step = float(np.float32(keep * width) / np.float32(levels - 1))
        groups: dict[int, list[int]] = {}
        for i in range(keep):
            groups.setdefault(min(round((i + 0.5) * width / step), levels - 1), []).append(i)
        q = [0.0] * keep
        for members in groups.values():
            filled = [i for i in members if p[i] > 0]
            for i in filled:
                q[i] = sum(counts[j] for j in members) / len(filled)
        total_p, total_q, divergence = sum(p), sum(q), 0.0
        for a, b in zip(p, q, strict=True):
            if a > 0:
                divergence += a / total_p * math.log(a / total_p / (b / total_q)) if b > 0 else math.inf
        if divergence < best:
            best, result = divergence, keep
    return result


@pytest.mark.parametrize("seed", range(3))
def test_entropy_takes_the_threshold_of_its_source(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qat.analysis.ranges.ENTROPY_BINS", 128)
    numbers = np.abs(np.random.default_rng(seed).standard_normal(4000)).astype(np.float32)
    numbers[:5] = 9.0 + seed  # outliers that it should leave out
    cell = qat.FakeQuant(qat.ActivationQuantizer(4), non_negative=True)
    histogram = histogram_of(numbers)
    _, high = entropy_range(cell, histogram)
    counts, _, width = histogram.merged(128)
    expected = tensorrt_threshold([int(count) for count in counts], 16, width)
    assert high == pytest.approx(expected * width)
    assert 2.0 < high < 5.0


def test_entropy_keeps_a_range_that_is_used_evenly() -> None:
    assert ENTROPY_BINS == 2048
    numbers = np.linspace(-2.0, 2.0, 40_001).astype(np.float32)
    assert entropy_range(AFFINE, histogram_of(numbers)) == pytest.approx((-2.0, 2.0), rel=0.01)


@pytest.mark.parametrize("method", METHODS)
def test_a_dead_activation_has_a_range_too(method: str) -> None:
    """fc1 gives nothing but zeros."""
    params = OneLayer().graph().initial_params(1)
    params["first.weight"] = -np.abs(params["first.weight"])
    found = calibrate(OneLayer(), params, pixels(OneLayer(), 20), method=method)
    assert found.params["first.fake_quant.max"] == 0.0
    qat.evaluate(qat.to_integer(found.graph, found.params), pixels(OneLayer(), 3))


#: Relative. Float sums of another order move ends and numbers by less than 1e-5, and those next to the edge of a bin into the
#: next one. Of "mse", candidates are a hundredth apart, and neighbours may be equally good.
NEAR = {"minmax": 1e-5, "percentile": 1e-4, "mse": 0.05}


#: Relative. Last bits of float sums make another code of a number next to a tie; a mean over few images shows it.
FLIPPED = 1e-2


@pytest.mark.parametrize("backend", HERE)
def test_ranges_are_nearly_those_of_numpy_on_every_backend(backend: str) -> None:
    images, params = pixels(LeNet5BN(), 30), LeNet5BN().graph().initial_params()
    for method, tolerance in NEAR.items():
        ours = calibrate(LeNet5BN(), params, images, method=method, ops=NUMPY_OPS).params
        theirs = calibrate(LeNet5BN(), params, images, method=method, ops=evaluation_ops(backend)).params
        assert set(ours) == set(theirs)
        for name, array in ours.items():
            np.testing.assert_allclose(theirs[name], array, rtol=tolerance, err_msg=name)


@pytest.mark.parametrize("backend", HERE)
def test_corrected_biases_are_those_of_numpy_on_every_backend(backend: str) -> None:
    """With the same ranges: within FLIPPED of the largest."""
    images, params = pixels(ResNet8(), 12), ResNet8().graph().initial_params(3)
    found = calibrate(ResNet8(), params, images, num_bits=(4, 8), ops=NUMPY_OPS)
    batches = batches_of(images, found.graph.input_specs, 5, "ResNet8")
    means = float_means(found.graph)
    Observed(found.graph, found.params, counting=False).add(NUMPY_OPS, batches, watching(NUMPY_OPS, means))
    ours = correct_biases(found.graph, found.params, batches, means)
    theirs = correct_biases(found.graph, found.params, batches, means, evaluation_ops(backend))
    moved = [name for name, array in ours.items() if not np.array_equal(array, found.params[name])]
    assert len(moved) == len(means)
    for name in moved:
        np.testing.assert_allclose(
            theirs[name], ours[name], rtol=0, atol=FLIPPED * np.abs(ours[name]).max(), err_msg=name
        )


def test_the_first_backend_that_is_installed_calibrates(monkeypatch: pytest.MonkeyPatch) -> None:
    assert type(evaluation_ops()) is type(evaluation_ops("torch"))
    monkeypatch.setattr("qat.registry.installed", lambda entry: False)
    assert evaluation_ops() is NUMPY_OPS
    with pytest.raises(qat.QatError, match="device_target 'Ascend'"):
        evaluation_ops("torch", "Ascend")


@pytest.mark.parametrize("ops", [NUMPY_OPS, evaluation_ops("torch")], ids=["numpy", "torch"])
def test_a_histogram_does_not_depend_on_batches(ops: Ops) -> None:
    """Numbers grow, so that bins are joined now and then."""
    numbers = np.random.default_rng(3).standard_normal(20_000).astype(np.float32) * np.geomspace(1e-4, 30.0, 20_000)
    numbers[::7] = 0.0
    numbers = numbers.astype(np.float32)
    whole = histogram_of(numbers, 1)
    for parts in (2, 37, 400):
        found = histogram_of(numbers, parts, ops)
        np.testing.assert_array_equal(found.all_counts, whole.all_counts)
        assert (found.ends, found.width, found.zeros) == (whole.ends, whole.width, whole.zeros)
    assert whole.zeros == (numbers == 0.0).sum()
    np.testing.assert_array_equal(whole.counts, np.histogram(numbers[numbers != 0.0], bins_of(whole))[0])
    assert BINS / 2 < max(-whole.low, whole.high) / whole.width < BINS


def bins_of(histogram: Histogram) -> Array:
    """The edges, with the numbers at the very end inside."""
    edges = histogram.edges
    edges[-1] = np.nextafter(edges[-1], np.inf)
    return edges


@pytest.mark.parametrize(("method", "corrected"), [*((method, False) for method in NEAR), ("minmax", True)])
def test_batches_do_not_change_a_calibration(method: str, corrected: bool) -> None:
    """But for the last bits of float sums, which may depend on how many images a product of matrices has, and their codes."""
    images, params = pixels(ResNet8(), 9), ResNet8().graph().initial_params(3)
    whole, parts = (
        calibrate(
            ResNet8(), params, images, method=method, bias_correction=corrected, batch_size=size, ops=NUMPY_OPS
        ).params
        for size in (9, 2)
    )
    for name, array in whole.items():
        near = FLIPPED if name.endswith(("bias", "beta")) else 1e-5
        np.testing.assert_allclose(parts[name], array, rtol=0, atol=near * np.abs(array).max(), err_msg=name)


def test_what_waits_for_a_correction_is_the_same_afterwards() -> None:
    codes = np.arange(-200, 56, dtype=np.float32).reshape(2, 128)
    for data, coded in ((codes, True), (codes * 300.0, True), (codes + 0.5, True), (codes, False)):
        value = Value(data, np.float32([0.1]), codes=coded, relu=6.0)
        kept = Kept.of(NUMPY_OPS, value)
        assert kept.data.dtype == (np.uint8 if data is codes and coded else np.float32)
        again = kept.value(NUMPY_OPS)
        np.testing.assert_array_equal(again.data, data)
        assert (again.codes, again.relu, again.scale) == (coded, 6.0, value.scale)


def test_a_calibration_says_how_far_it_is_to_commands_alone(capsys: pytest.CaptureFixture[str]) -> None:
    watched: list[tuple[int, str]] = []

    def watch(parts, total, size, name, unit):  # type: ignore[no-untyped-def]
        for part in parts:
            yield part
            watched.append((size(part), name))

    images, params = pixels(LeNet5(), 7), LeNet5().graph().initial_params()
    plain = calibrate(LeNet5(), params, images, bias_correction=True, batch_size=4)
    assert not watched
    with showing(watch):
        shown = calibrate(LeNet5(), params, images, bias_correction=True, batch_size=4)
    assert watched[:2] == [(4, "LeNet5"), (3, "LeNet5")]
    assert [each for each in watched if "biases" in each[1]] == [(7, "LeNet5, biases")] * 5
    assert capsys.readouterr().out == ""
    assert all(np.array_equal(plain.params[name], array) for name, array in shown.params.items())


# -- corrections ------------------------------------------------------------------------------------------------------


def channel_means(checkpoint: Checkpoint, params: Mapping[str, Array], images: Array, phase: int) -> dict[str, Array]:
    """The mean output of every linear cell, before its activation."""
    loop, means = NodeLoop(checkpoint.graph, NUMPY_OPS), {}
    context, values = loop.load(params, phase), loop.begin(loop.pixels((images,)))
    counts = np.bincount(np.arange(len(images)) % GROUPS)
    for step in loop.steps:
        loop.advance(step, context, values)
        if isinstance(step.node.cell, LinearCell):
            mean = ChannelMean()
            mean.add(NUMPY_OPS, values[step.node.name])
            means[step.node.name] = np.average(mean.groups, axis=0, weights=counts)
    return means


@pytest.mark.parametrize("network", [LeNet5, LeNet5BN, ResNet8])
def test_bias_correction_takes_the_mean_shift_of_every_channel(network: type[qat.Network]) -> None:
    images, params = pixels(network(), 24), network().graph().initial_params(3)
    settings = {"num_bits": (4, 8)}
    plain = calibrate(network(), params, images, **settings)
    corrected = calibrate(network(), params, images, bias_correction=True, batch_size=10, **settings)
    real = channel_means(plain, plain.params, images, IDLE)
    before = channel_means(plain, plain.params, images, 0)
    after = channel_means(corrected, corrected.params, images, 0)
    assert set(real) == set(after)
    for name, mean in real.items():
        shift = np.abs(before[name] - mean).mean()
        # What is left is what one step of Newton's method leaves, and what is shrunk.
        assert np.abs(after[name] - mean).mean() < 0.2 * shift, name


def test_bias_correction_gives_a_bias_to_a_cell_without_and_leaves_batch_norm_in_place() -> None:
    plain = LeNet5().graph()
    images = pixels(LeNet5(), 10)
    found = calibrate(plain, plain.initial_params(), images, bias_correction=True)
    assert all(node.cell.has_bias for node in found.graph.nodes if isinstance(node.cell, LinearCell))
    assert found.params["conv1.bias"].shape == (6,)
    assert found.params["conv1.bias"].any()
    normed = LeNet5BN().graph()
    found = calibrate(normed, normed.initial_params(), images, bias_correction=True)
    assert "conv1.bias" not in found.params
    assert found.params["conv1.beta"].any()
    assert found.graph == qat.convert_quant_network(normed)


def test_a_correction_shrinks_as_far_as_it_is_noise() -> None:
    generator = np.random.default_rng(0)
    sure = 2.0 + 0.1 * generator.standard_normal((16, 1))
    noise = generator.standard_normal((16, 200))
    noise -= noise.mean(axis=0) * (generator.random(200) < 0.5)  # half of them with no mean at all
    np.testing.assert_allclose(shrunk_mean(sure), sure.mean(axis=0), rtol=0.01)
    assert (np.abs(shrunk_mean(noise)) <= np.abs(noise.mean(axis=0))).all()
    assert (shrunk_mean(noise) ** 2).sum() < 0.5 * (noise.mean(axis=0) ** 2).sum()
    one = np.array([[1.0, -3.0], [2.0, -2.0]])  # means 1.5 and -2.5, both with the standard error 0.5
    np.testing.assert_allclose(shrunk_mean(one), [1.5 * (1 - 0.25 / 2.25), -2.5 * (1 - 0.25 / 6.25)])
    np.testing.assert_array_equal(shrunk_mean(one[:1]), one[0])


class Chain(qat.Network):
    """What equalization goes through: groups, poolings, batch normalisation, flattening."""

    def __init__(self) -> None:
        self.inputs = qat.Input((3, 12, 12), mean=0.5, std=0.3)
        self.a = qat.Conv2dBnAct(3, 8, 3, has_bn=True, activation="relu")
        self.depthwise = qat.Conv2dBnAct(8, 8, 3, group=8, has_bias=True, activation="relu")
        self.pool = qat.AvgPool2d(2)
        self.grouped = qat.Conv2dBnAct(8, 6, 3, group=2, has_bias=True, has_bn=True)
        self.max = qat.MaxPool2d(2)
        self.flatten = qat.Flatten()
        self.b = qat.DenseBnAct(6 * 9, 10, activation="relu")
        self.drop = qat.Dropout(0.1)
        self.c = qat.DenseBnAct(10, 7, activation="hswish")
        self.d = qat.DenseBnAct(7, 4)

    def construct(self, x):  # type: ignore[no-untyped-def]
        x = self.grouped(self.pool(self.depthwise(self.a(x))))
        x = self.b(self.flatten(self.max(x)))
        return self.d(self.c(self.drop(x)))


def uneven(network: type[qat.Network], seed: int) -> dict[str, Array]:
    """Parameters whose channels differ in size by a hundred times."""
    generator, params = np.random.default_rng(seed), network().graph().initial_params(seed)
    for name, array in params.items():
        factor = 10.0 ** generator.uniform(-1.0, 1.0, array.shape[:1])
        if name.endswith("variance"):
            params[name] = generator.uniform(0.5, 2.0, array.shape).astype(np.float32)
        elif name.endswith(("bias", "beta", "mean")):
            params[name] = generator.normal(0, 0.3, array.shape).astype(np.float32)
        elif array.ndim:
            params[name] = (array * factor.reshape((-1,) + (1,) * (array.ndim - 1))).astype(np.float32)
    return params


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("network", [Chain, LeNet5, LeNet5BN, MnistCnn])
def test_equalization_keeps_the_float_function(network: type[qat.Network], seed: int) -> None:
    graph, params, images = network().graph(), uneven(network, seed), pixels(network(), 8, seed)
    equalized = equalize_channels(graph, params)
    expected = TORCH.predict(TORCH.lower(graph, params), images)
    found = TORCH.predict(TORCH.lower(graph, equalized), images)
    tolerance = 2e-5 * np.abs(expected).max()  # float32 sums of other numbers: about a hundred roundings
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance)
    moved = [name for name, array in params.items() if not np.array_equal(array, equalized[name])]
    assert len(moved) > 4
    wrong = equalized | {moved[-1]: equalized[moved[-1]] * np.float32(1.01)}
    assert np.abs(TORCH.predict(TORCH.lower(graph, wrong), images) - expected).max() > tolerance


def test_equalized_channels_are_equal_and_dead_ones_are_left_alone() -> None:
    graph, params = MnistCnn().graph(), uneven(MnistCnn, 0)
    params["fc1.weight"][5] = 0.0
    found = equalize_channels(graph, params)
    r1 = np.abs(found["fc1.weight"]).max(axis=1)
    r2 = np.abs(found["fc2.weight"]).max(axis=0)
    alive = np.arange(64) != 5
    np.testing.assert_allclose(r1[alive], r2[alive], rtol=1e-2)  # until nothing moves by a thousandth of an octave
    assert found["fc1.bias"][5] == params["fc1.bias"][5]
    assert all(np.isfinite(array).all() for array in found.values())
    assert not np.allclose(
        np.abs(params["fc1.weight"]).max(axis=1)[alive], np.abs(params["fc2.weight"]).max(axis=0)[alive]
    )


def test_equalization_helps_weights_of_one_scale() -> None:
    graph, params, images = LeNet5().graph(), uneven(LeNet5, 5), pixels(LeNet5(), 40)
    expected = TORCH.predict(TORCH.lower(graph, params), images)

    def error(equalize: bool) -> float:
        found = calibrate(graph, params, images, equalize=equalize, per_channel=False)
        return float(np.abs(TORCH.predict(TORCH.lower(found.graph, found.params), images) - expected).mean())

    assert error(True) < 0.5 * error(False)


def test_a_cell_that_is_used_twice_keeps_its_parameters() -> None:
    class Twice(qat.Network):
        def __init__(self) -> None:
            self.inputs = qat.Input((4,))
            self.same = qat.DenseBnAct(4, 4, activation="relu")
            self.last = qat.DenseBnAct(4, 2)

        def construct(self, x):  # type: ignore[no-untyped-def]
            return self.last(self.same(self.same(x)))

    graph, params = Twice().graph(), Twice().graph().initial_params()
    found = calibrate(graph, params, pixels(Twice(), 10), bias_correction=True, equalize=True).params
    for name in ("same.weight", "same.bias", "last.weight"):
        np.testing.assert_array_equal(found[name], params[name])
    assert not np.array_equal(found["last.bias"], params["last.bias"])


# -- what comes of it -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("network", [LeNet5BN, MnistCnn, ResNet8])
def test_every_engine_computes_the_same_codes(network: type[qat.Network], method: str, tmp_path: Path) -> None:
    images, params = pixels(network(), 12), network().graph().initial_params(4)
    found = calibrate(network(), params, images, method=method, bias_correction=True, equalize=True)
    found.save(tmp_path / "net.ckpt")
    loaded = Checkpoint.load(tmp_path / "net.ckpt")
    split = Split(images, np.zeros(len(images), np.int64))
    onnx = qat.target("ONNX")
    certificate = export_verified(tmp_path / "net.onnx", onnx, TORCH, loaded, split, data="random")
    assert certificate.passed
    assert [comparison.codes for comparison in certificate.comparisons] == [120, 120]


def test_fake_quantizers_that_share_a_grid_have_the_union_of_their_ranges() -> None:
    found = calibrate(ResNet8(), ResNet8().graph().initial_params(4), pixels(ResNet8(), 8))
    shared = [node for node in found.graph.nodes if isinstance(node.cell, qat.FakeQuant) and node.cell.shares]
    assert shared
    for node in shared:
        own = {local: found.params[f"{node.name}.{local}"] for local in node.cell.params()}  # type: ignore[union-attr]
        members = (node.name, *node.cell.shares)  # type: ignore[union-attr]
        largest = max(float(found.params[f"{name}.max"]) for name in members)
        grid = node.cell.grid(node.name, own, found.params)  # type: ignore[union-attr]
        assert grid.scale * grid.high == pytest.approx(largest, rel=0.01)


def test_training_goes_on_from_the_result() -> None:
    images, params = pixels(MnistCnn(), 32), MnistCnn().graph().initial_params(2)
    found = calibrate(MnistCnn(), params, images, method="percentile")
    step = TORCH.make_step(TORCH.lower(found.graph, found.params), Optimizer())
    labels = np.arange(32) % 10
    losses = [step(images, labels, 0.001) for _ in range(8)]
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0]
    after = TORCH.read(step.model)
    assert after["conv1.fake_quant.max"] == pytest.approx(found.params["conv1.fake_quant.max"], rel=0.1)


@pytest.mark.parametrize(
    ("images", "options", "message"),
    [
        (np.zeros((0, 1, 32, 32), np.uint8), {}, "there are no images"),
        (np.zeros((4, 1, 28, 28), np.uint8), {}, r"uint8 \(N, 1, 32, 32\), but got uint8 \(4, 1, 28, 28\)"),
        (np.zeros((4, 1, 32, 32), np.float32), {}, "but got float32"),
        ([[0]], {}, "but got a list; give a numpy ndarray"),
        ((np.zeros((4, 1, 32, 32), np.uint8),) * 2, {}, "has 1 input but got 2 arrays"),
        (None, {"method": "kl"}, "method 'kl' is unknown: choose one of minmax, percentile, mse, entropy"),
        (None, {"percentile": 50.0}, "percentile is 50.0"),
        (None, {"percentile": 100.1}, "percentile is 100.1"),
        (None, {"percentile": math.nan}, "percentile is nan"),
        (None, {"batch_size": 0}, "batch_size is 0"),
        (None, {"num_bits": 17}, "num_bits is 17"),
    ],
)
def test_a_mistake_is_one_line(images: object, options: dict[str, object], message: str) -> None:
    given = pixels(LeNet5(), 4) if images is None else images
    with pytest.raises(qat.QatError, match=message) as caught:
        calibrate(LeNet5(), LeNet5().graph().initial_params(), given, **options)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_networks_that_cannot_be_calibrated_are_named() -> None:
    images, params = pixels(LeNet5(), 4), LeNet5().graph().initial_params()
    quantized = calibrate(LeNet5(), params, images)
    for corrected in (False, True):
        with pytest.raises(qat.QatError, match="LeNet5 is quantized already"):
            calibrate(quantized.graph, quantized.params, images, bias_correction=corrected)
    with pytest.raises(qat.QatError, match=r"they lack 'conv1.weight'"):
        calibrate(LeNet5(), {}, images)
    params["conv2.weight"] = np.full_like(params["conv2.weight"], np.inf)
    with pytest.raises(qat.QatError, match="conv2: gives numbers that are not finite"):
        calibrate(LeNet5(), params, images)


# -- commands ---------------------------------------------------------------------------------------------------------


def test_the_command_calibrates_on_training_images_and_training_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen = []

    def spy(graph, params, images, **options):  # type: ignore[no-untyped-def]
        seen.append(images)
        return calibrate(graph, params, images, **options)

    monkeypatch.setattr("qat.scripts.common.calibration.calibrate", spy)
    float_, result = tmp_path / "lenet.ckpt", tmp_path / "lenet_calibrated.ckpt"
    data = ["--data_path", "digits"]
    assert main(["train", *data, "--epochs", "2", "--save_path", str(float_)]) == 0
    arguments = ["--ckpt_path", str(float_), "--images", "200", "--method", "percentile", "--bias_correction"]
    assert main(["calibrate", *data, *arguments, "--equalize", "--num_bits", "5", "8"]) == 0
    out = capsys.readouterr().out
    before, after = (float(found) for found in re.findall(r"Accuracy (?:before|after): +([\d.]+)", out))
    assert abs(before - after) < 10.0

    (images,) = seen
    dataset = qat.data.load("digits").resized((1, 32, 32))
    training = {image.tobytes() for image in dataset.train.images}
    assert len(images) == 200
    assert all(image.tobytes() in training for image in images)
    assert not {image.tobytes() for image in images} & {image.tobytes() for image in dataset.test.images}

    checkpoint = Checkpoint.load(result)
    assert [entry.get("calibration", {}).get("method") for entry in checkpoint.history] == ["percentile", None]
    assert main(["eval-quant", *data, "--ckpt_path", str(result)]) == 0
    assert f"Accuracy: {after:.2f}" in capsys.readouterr().out
    assert main(["train-quant", *data, "--ckpt_path", str(result), "--epochs", "1"]) == 0
    trained = Checkpoint.load(tmp_path / "lenet_calibrated_quant.ckpt")
    assert trained.graph == checkpoint.graph
    assert trained.step == 22
    assert main(["train-quant", *data, "--ckpt_path", str(result), "--num_bits", "8", "4"]) == 2
    assert "is quantized already, with settings of its own" in capsys.readouterr().err
    assert main(["calibrate", *data, "--ckpt_path", str(float_), "--images", "5000"]) == 2
    assert "has 1437 training images" in capsys.readouterr().err
    assert main(["calibrate", *data, "--ckpt_path", str(result)]) == 2
    assert "where a float one is needed" in capsys.readouterr().err


def test_train_and_quantize_writes_a_verified_file_and_its_c_array(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("ai_edge_litert")
    monkeypatch.chdir(tmp_path)
    arguments = ["--epochs=3", "--batch-size=32", "--save-model-name=digits_cnn", "--data_path", "digits"]
    assert main(["train-and-quantize", *arguments, "--images", "200", "--qat_epochs", "1"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"3,600 codes compared in LiteRT .*, 0 differ", out)
    assert re.search(r"peak bytes of activations +│ +6,760", out)
    assert "accuracy lost" in out
    content = (tmp_path / "digits_cnn.tflite").read_bytes()
    source = (tmp_path / "digits_cnn.cc").read_text(encoding="ascii")
    assert bytes(int(byte, 16) for byte in re.findall(r"0x(..)", source)) == content
    assert Checkpoint.load(tmp_path / "digits_cnn.ckpt").graph.is_quantized
    again = ["train-and-quantize", *arguments, "--images", "200", "--dry_run"]
    assert main(again) == 0, "all four files are qat's own, and may be replaced"
    for name in ("digits_cnn.h", "digits_cnn.cc"):
        was = Path(name).read_text()
        Path(name).write_text(f"{was}// mine, beside what qat wrote\n")
        capsys.readouterr()
        assert main(again) == 2
        assert f"{name}: is there already, and is not what qat wrote" in capsys.readouterr().err
        Path(name).write_text(was)
    for mistake, message in (
        (["--qat_epochs", "-1"], "--qat_epochs is -1"),
        (["--save-model-name", ""], "is a folder, or nothing"),
        (["--images", "2000", "--epochs", "1"], "has 1437 training images"),
    ):
        assert main(["train-and-quantize", "--data_path", "digits", *mistake]) == 2
        assert message in capsys.readouterr().err


def test_c_array_is_what_xxd_writes_and_a_compiler_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    content = bytes(range(25))
    header, source = c_array(content, "net-1.tflite", "net-1.h")
    assert c_identifier("net-1.tflite") == "net_1_tflite"
    assert c_identifier("1.tflite") == "__1_tflite"
    assert "#ifndef NET_1_H_" in header
    assert "extern const unsigned int net_1_tflite_len;" in header
    assert c_array(bytes(9), "net-1.tflite", "net-1.h")[0] == header  # which a source of another export may include
    assert source.splitlines()[:2] == ['#include "net-1.h"', "// net-1.tflite, 25 bytes"]
    assert source.splitlines()[2:] == [
        "alignas(16) const unsigned char net_1_tflite[] = {",
        "  0x00, 0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x07, 0x08, 0x09, 0x0a, 0x0b,",
        "  0x0c, 0x0d, 0x0e, 0x0f, 0x10, 0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17,",
        "  0x18};",
        "const unsigned int net_1_tflite_len = 25;",
    ]
    for text in (header, source):
        Path("net-1.h").write_text(text)
        assert is_c_array(Path("net-1.h"), "net-1.tflite", "net-1.h")
        assert not is_c_array(Path("net-1.h"), "net-2.tflite", "net-1.h")
        Path("net-1.h").write_text(text.replace("extern", "static").replace("0x17", "0x16", 1).replace("= 25", "= 24"))
        assert not is_c_array(Path("net-1.h"), "net-1.tflite", "net-1.h")
    with pytest.raises(qat.QatError, match="is empty"):
        c_array(b"", "net.tflite", "net.h")


@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler here")
def test_c_array_compiles_to_the_bytes(tmp_path: Path) -> None:
    content = np.random.default_rng(0).integers(0, 256, 1000, np.uint8).tobytes()
    header, source = c_array(content, "net.tflite", "net.h")
    (tmp_path / "net.h").write_text(header, encoding="ascii")
    (tmp_path / "net.cc").write_text(source, encoding="ascii")
    (tmp_path / "main.cc").write_text(
        '#include <cstdio>\n#include <cstdint>\n#include "net.h"\nint main() {\n'
        "  if (reinterpret_cast<std::uintptr_t>(net_tflite) % 16) return 1;\n"
        "  return std::fwrite(net_tflite, 1, net_tflite_len, stdout) != net_tflite_len;\n}\n",
        encoding="ascii",
    )
    program = tmp_path / "net"
    subprocess.run(["g++", "-Wall", "-Werror", tmp_path / "net.cc", tmp_path / "main.cc", "-o", program], check=True)
    assert subprocess.run([program], capture_output=True, check=True).stdout == content


def test_peak_of_the_microcontroller_network() -> None:
    """Its first convolution, 26 x 26 x 8 codes, and the pooling after it, 13 x 13 x 8."""
    found = calibrate(MnistCnn(), MnistCnn().graph().initial_params(), pixels(MnistCnn(), 4))
    assert activation_memory(qat.to_integer(found.graph, found.params)).size == 26 * 26 * 8 + 13 * 13 * 8
