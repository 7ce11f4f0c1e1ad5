"""Quantizers: their formulas against a direct transcription in NumPy, and what must hold for every input."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from transcription import expected_weight

import qat
from qat.quantizers import SMALLEST_SCALE, ActivationQuantizer, Quantizer, WeightCodes, WeightQuantizer
from qat.vocabulary.numpy_ops import NUMPY_OPS
from qat.vocabulary.serial import from_json

Array = npt.NDArray[np.float32]
F = np.float32

#: A code may be this much further than half a step from the number it stands for: the product w * (1 / s) is rounded twice
#: to float32, at a magnitude of 255 at most.
ROUNDING = 255 * 2**-22

BITS, ACTIVATION_BITS = st.integers(2, 8), st.integers(1, 8)
#: Everything from subnormal numbers to 1e30, zeros of both signs, and all of it at once.
NUMBERS = (
    st.floats(-(2.0**100), 2.0**100, width=32) | st.floats(-4, 4, width=32) | st.sampled_from([0.0, -0.0, 2.0**-100])
)
WEIGHTS = arrays(np.float32, array_shapes(min_dims=2, max_dims=4, max_side=4), elements=NUMBERS.map(F))
WEIGHT_QUANTIZERS = st.builds(
    WeightQuantizer, BITS, symmetric=st.booleans(), narrow_range=st.booleans(), per_channel=st.booleans()
)
ACTIVATION_QUANTIZERS = st.builds(
    ActivationQuantizer, BITS, symmetric=st.booleans(), narrow_range=st.booleans()
) | st.builds(ActivationQuantizer, ACTIVATION_BITS)


def quantize(quantizer: WeightQuantizer, weight: Array, floor: Array | None = None) -> WeightCodes:
    return quantizer.quantize(NUMPY_OPS, weight, floor)


def by_output(values: Array, weight: Array) -> Array:
    """(O,) or (1,), shaped to broadcast over the outputs of a weight."""
    return values.reshape((-1,) + (1,) * (weight.ndim - 1))


def grid(quantizer: ActivationQuantizer, low: float, high: float) -> tuple[np.float32, float]:
    """Scale and zero point that a FakeQuant cell deploys for a range."""
    deployed = qat.FakeQuant(quantizer).grid("x.fake_quant", {"min": np.array(low, F), "max": np.array(high, F)})
    assert (deployed.qmin, deployed.qmax) == (quantizer.qmin, quantizer.qmax)
    return deployed.scale, float(deployed.zero_point)


def fake_quantize(quantizer: ActivationQuantizer, x: Array, scale: np.float32, zero_point: float) -> Array:
    """Centred codes of real numbers, as a FakeQuant cell makes them."""
    bounds = (quantizer.qmin - zero_point, quantizer.qmax - zero_point)
    return NUMPY_OPS.requantize(x, np.array([1 / scale], F), *bounds)


# -- the formulas, transcribed ----------------------------------------------------------------------------------------


@settings(max_examples=200)
@given(WEIGHTS, WEIGHT_QUANTIZERS, st.booleans())
def test_weight_codes_scale_and_zero_point_are_those_of_the_formula(
    weight: Array, quantizer: WeightQuantizer, with_floor: bool
) -> None:
    # A third of each output's largest magnitude: a floor that takes effect, but not everywhere
    floor = np.abs(weight).reshape(len(weight), -1).max(axis=1) / F(3) if with_floor else None
    found = quantize(quantizer, weight, floor)
    settings_ = (quantizer.num_bits, quantizer.symmetric, quantizer.narrow_range, quantizer.per_channel)
    expected = expected_weight(weight, *settings_, np.zeros(len(weight), F) if floor is None else floor)
    np.testing.assert_array_equal(found.centred, expected.codes)
    np.testing.assert_array_equal(found.scale, expected.scale)
    assert found.centred.dtype == found.scale.dtype == F
    assert (found.zero_point is None) == quantizer.symmetric
    if found.zero_point is not None:
        np.testing.assert_array_equal(found.zero_point, expected.zero_point)


@pytest.mark.parametrize(
    ("quantizer", "low", "high"),
    [
        (Quantizer(8), -128, 127),
        (Quantizer(8, narrow_range=True), -127, 127),
        (Quantizer(8, symmetric=False), 0, 255),
        (Quantizer(8, symmetric=False, narrow_range=True), 1, 255),
        (Quantizer(4), -8, 7),
        (Quantizer(2, narrow_range=True), -1, 1),
        (Quantizer(2, symmetric=False), 0, 3),
    ],
)
def test_range_of_codes(quantizer: Quantizer, low: int, high: int) -> None:
    assert (quantizer.qmin, quantizer.qmax) == (low, high)


@pytest.mark.parametrize(
    ("quantizer", "low", "high", "scale", "zero_point"),
    [
        (ActivationQuantizer(8), -1.0, 1.55, F(2.55) / F(255), 100),
        (ActivationQuantizer(8), 0.0, 510.0, 2.0, 0),
        (ActivationQuantizer(8), -510.0, 0.0, 2.0, 255),
        (ActivationQuantizer(8), 10.0, 510.0, 2.0, 0),  # widened down to 0
        (ActivationQuantizer(8), -510.0, -10.0, 2.0, 255),  # widened up to 0
        (ActivationQuantizer(8), -1.0, 509.0, 2.0, 0),  # -(-1 / 2) is a tie, which goes to even
        (ActivationQuantizer(8), -3.0, 507.0, 2.0, 2),  # as is 1.5
        (ActivationQuantizer(8, narrow_range=True), -2.0, 252.0, 1.0, 3),
        (ActivationQuantizer(2), -1.0, 2.0, 1.0, 1),
        (ActivationQuantizer(8, symmetric=True), -254.0, 3.0, 2.0, 0),
        (ActivationQuantizer(8, symmetric=True), -3.0, 254.0, 2.0, 0),
        (ActivationQuantizer(4, symmetric=True, narrow_range=True), -3.5, 1.0, 0.5, 0),
        (ActivationQuantizer(8), 0.0, 0.0, SMALLEST_SCALE, 0),
        (ActivationQuantizer(8, symmetric=True), 0.0, 0.0, SMALLEST_SCALE, 0),
    ],
)
def test_scale_and_zero_point_of_a_range(
    quantizer: ActivationQuantizer, low: float, high: float, scale: float, zero_point: int
) -> None:
    assert grid(quantizer, low, high) == (F(scale), zero_point)


# -- what holds for every weight --------------------------------------------------------------------------------------


@settings(max_examples=200)
@given(WEIGHTS, WEIGHT_QUANTIZERS)
@example(np.array([[1.0, -1.0]], F), WeightQuantizer(8, per_channel=True))
@example(np.array([[2.0**100, 1e-30]], F), WeightQuantizer(2, symmetric=False))
def test_weight_codes_are_whole_numbers_within_the_range(weight: Array, quantizer: WeightQuantizer) -> None:
    """Symmetric codes are never clipped: the range contains every weight, so they stay within +-qmax."""
    codes, _, zero_point = quantize(quantizer, weight)
    raw = codes if zero_point is None else codes + by_output(zero_point, weight)
    lowest = -quantizer.qmax if quantizer.symmetric else quantizer.qmin
    assert (raw == np.rint(raw)).all()
    assert raw.min() >= lowest
    assert raw.max() <= quantizer.qmax
    if zero_point is not None:
        assert (zero_point == np.rint(zero_point)).all()
        assert ((zero_point >= quantizer.qmin) & (zero_point <= quantizer.qmax)).all()


@settings(max_examples=200)
@given(WEIGHTS, WEIGHT_QUANTIZERS)
def test_scales_are_positive_normal_numbers(weight: Array, quantizer: WeightQuantizer) -> None:
    """Their reciprocals are finite then, too."""
    scale = quantize(quantizer, weight).scale
    assert scale.shape == ((len(weight),) if quantizer.per_channel else (1,))
    assert (scale >= F(SMALLEST_SCALE)).all()
    assert np.isfinite(scale).all()


def test_the_product_of_the_two_smallest_scales_is_a_normal_number() -> None:
    """As SMALLEST_SCALE says of itself: runtimes may take subnormal numbers (below 2^-126) for 0."""
    assert F(SMALLEST_SCALE) * F(SMALLEST_SCALE) >= np.finfo(F).tiny


@settings(max_examples=200)
@given(WEIGHTS, WEIGHT_QUANTIZERS, st.booleans())
def test_zero_stays_zero(weight: Array, quantizer: WeightQuantizer, negative: bool) -> None:
    weight = weight.copy()
    weight[..., 0] = -0.0 if negative else 0.0
    assert (quantize(quantizer, weight).centred[..., 0] == 0).all()


@settings(max_examples=200)
@given(WEIGHTS, WEIGHT_QUANTIZERS)
def test_a_code_stands_for_a_number_at_most_half_a_step_away(weight: Array, quantizer: WeightQuantizer) -> None:
    """One step where the range is affine: rounding its zero point shifts the ends by up to half a step."""
    codes, scale, _ = quantize(quantizer, weight)
    steps = np.abs(weight.astype(np.float64) / by_output(scale, weight).astype(np.float64) - codes)
    assert steps.max() <= (0.5 if quantizer.symmetric else 1.0) + ROUNDING


@settings(max_examples=200)
@given(WEIGHTS, BITS, st.booleans())
def test_quantizing_what_was_quantized_changes_no_code(weight: Array, bits: int, per_channel: bool) -> None:
    """Symmetric weights find their own range again. (An affine range whose zero point was a tie may shrink by a code.)"""
    quantizer = WeightQuantizer(bits, per_channel=per_channel)
    codes, scale, _ = quantize(quantizer, weight)
    again = quantize(quantizer, codes * by_output(scale, weight))
    np.testing.assert_array_equal(again.centred, codes)


@settings(max_examples=200)
@given(WEIGHTS, BITS, st.booleans(), st.sampled_from([0.0, 1e-30, 0.125, 2.0**60]))
def test_no_scale_is_below_its_floor(weight: Array, bits: int, symmetric: bool, least: float) -> None:
    floor = F(least) * np.arange(1, len(weight) + 1, dtype=F)
    by_channel = WeightQuantizer(bits, symmetric, per_channel=True)
    found = quantize(by_channel, weight, floor).scale
    np.testing.assert_array_equal(found, np.maximum(quantize(by_channel, weight).scale, floor))
    whole = replace(by_channel, per_channel=False)
    found = quantize(whole, weight, floor).scale
    np.testing.assert_array_equal(found, np.maximum(quantize(whole, weight).scale, floor.max()))


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("smallest", [0.0, 1e-45, 1e-38, -1e-30])
def test_a_dead_channel_has_codes_0_and_leaves_the_others_alone(smallest: float, symmetric: bool) -> None:
    quantizer = WeightQuantizer(8, symmetric, per_channel=True)
    weight = np.array([[0.5, -1.0, 0.25], [smallest, 0.0, smallest]], F)
    found = quantize(quantizer, weight)
    alone = quantize(quantizer, weight[:1])
    assert (found.centred[1] == 0).all()
    assert found.scale[1] == F(SMALLEST_SCALE)
    np.testing.assert_array_equal(found.centred[0], alone.centred[0])
    assert found.scale[0] == alone.scale[0]


def test_scales_by_channel_quantize_each_output_as_if_alone() -> None:
    quantizer = WeightQuantizer(8, per_channel=True)
    weight = np.random.default_rng(0).normal(size=(5, 3, 2, 2)).astype(F) * F(
        [[[[1]]], [[[9]]], [[[1e-3]]], [[[4]]], [[[7]]]]
    )
    found = quantize(quantizer, weight)
    for o in range(5):
        alone = quantize(replace(quantizer, per_channel=False), weight[o : o + 1])
        np.testing.assert_array_equal(found.centred[o], alone.centred[0])
        assert found.scale[o] == alone.scale[0]


# -- what holds for every activation ----------------------------------------------------------------------------------

RANGES = st.tuples(NUMBERS, NUMBERS).map(sorted)
VALUES = arrays(np.float32, (8,), elements=st.floats(-2, 2, width=32))


@settings(max_examples=200)
@given(RANGES, ACTIVATION_QUANTIZERS)
def test_a_range_has_a_positive_scale_and_a_zero_point_among_the_codes(
    ends: list[float], quantizer: ActivationQuantizer
) -> None:
    scale, zero_point = grid(quantizer, *ends)
    assert SMALLEST_SCALE <= scale < np.inf
    assert zero_point == int(zero_point)
    assert quantizer.qmin <= zero_point <= quantizer.qmax
    assert not quantizer.symmetric or zero_point == 0


@settings(max_examples=200)
@given(RANGES, ACTIVATION_QUANTIZERS)
def test_a_range_reaches_to_its_ends(ends: list[float], quantizer: ActivationQuantizer) -> None:
    """The lowest and the highest code stand for the ends, half a step off at most (of the end further from 0, if symmetric)."""
    scale, zero_point = grid(quantizer, *ends)
    low, high = min(ends[0], 0.0), max(ends[1], 0.0)
    if quantizer.symmetric:
        assert max(-low, high) / float(scale) <= quantizer.qmax + ROUNDING
    else:
        assert low / float(scale) >= quantizer.qmin - zero_point - 0.5 - ROUNDING
        assert high / float(scale) <= quantizer.qmax - zero_point + 0.5 + ROUNDING


@settings(max_examples=200)
@given(RANGES, ACTIVATION_QUANTIZERS, VALUES)
def test_fake_quantizing_an_activation_twice_changes_no_code(
    ends: list[float], quantizer: ActivationQuantizer, values: Array
) -> None:
    """On one grid, where all codes are within the range and 0 has the code of 0; values reach beyond the range."""
    scale, zero_point = grid(quantizer, *ends)
    x = np.concatenate([values * F(max(-ends[0], ends[1], 1e-30)), np.zeros(1, F)])
    codes = fake_quantize(quantizer, x, scale, zero_point)
    assert codes.min() >= quantizer.qmin - zero_point
    assert codes.max() <= quantizer.qmax - zero_point
    assert codes[-1] == 0
    np.testing.assert_array_equal(fake_quantize(quantizer, codes * scale, scale, zero_point), codes)


# -- settings ---------------------------------------------------------------------------------------------------------

QUANTIZERS = [Quantizer, WeightQuantizer, ActivationQuantizer]


@pytest.mark.parametrize("cls", QUANTIZERS)
@pytest.mark.parametrize("num_bits", [17, 0, -8, 8.0, "8", True, None])
def test_a_wrong_number_of_bits_is_refused_in_one_line(cls: type[Quantizer], num_bits: object) -> None:
    with pytest.raises(qat.QatError) as raised:
        cls(num_bits=num_bits)
    allowed = f" from {cls.widths[0]} to 16" if type(num_bits) is int else ""
    assert str(raised.value) == f"{cls.__name__}: num_bits is {num_bits!r}; use a whole number{allowed}"


def test_one_bit_is_of_activations_and_needs_both_of_its_codes() -> None:
    for cls in (Quantizer, WeightQuantizer):
        with pytest.raises(qat.QatError, match="num_bits is 1; use a whole number from 2 to 16"):
            cls(1)
    quantizer = ActivationQuantizer(1)
    assert (quantizer.qmin, quantizer.qmax) == (0, 1)
    for settings_, message in (
        ({"symmetric": True}, "would be -1 and 0"),
        ({"narrow_range": True}, "a single code of 1 bit"),
    ):
        with pytest.raises(qat.QatError, match=message):
            ActivationQuantizer(1, **settings_)


@pytest.mark.parametrize("cls", QUANTIZERS)
@pytest.mark.parametrize("quant_delay", [-1, 2.5, "3", False, None])
def test_a_wrong_quant_delay_is_refused_in_one_line(cls: type[Quantizer], quant_delay: object) -> None:
    with pytest.raises(qat.QatError) as raised:
        cls(quant_delay=quant_delay)
    allowed = "number of steps, 0 or more" if type(quant_delay) is int else "whole number"
    assert str(raised.value) == f"{cls.__name__}: quant_delay is {quant_delay!r}; use a {allowed}"


@pytest.mark.parametrize("num_bits", range(2, 9))
@pytest.mark.parametrize("cls", QUANTIZERS)
def test_two_to_eight_bits_and_any_delay_are_accepted(cls: type[Quantizer], num_bits: int) -> None:
    quantizer = cls(num_bits=num_bits, quant_delay=900)
    assert quantizer.qmax - quantizer.qmin == 2**num_bits - 1
    assert quantizer.quant_delay == 900


@settings(max_examples=50)
@given(WEIGHT_QUANTIZERS | ACTIVATION_QUANTIZERS)
def test_a_quantizer_survives_json(quantizer: Quantizer) -> None:
    assert from_json(json.loads(json.dumps(quantizer.to_json())), Quantizer) == quantizer
