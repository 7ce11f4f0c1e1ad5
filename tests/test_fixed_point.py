"""The fixed arithmetic against its definition in unbounded integers and fractions."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from math import ceil, floor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sequential import Chain, calibrated

import qat
from qat.integer import IntegerAdd, IntegerGraph, IntegerLinear, Requantize, evaluate
from qat.integer.fixed_point import (
    FixedMultiplier,
    LongMultiplier,
    in_float64,
    quantize_multiplier,
    sum_multipliers,
)
from qat.vocabulary.numpy_ops import NUMPY_OPS

INT32 = st.integers(-(2**31) + 1, 2**31 - 1)
EDGES = [0, 1, -1, 2**30, -(2**30), 2**30 + 1, 2**31 - 1, -(2**31) + 1, 3, -3, 7, -7, 2**15, -(2**15)]


def nearest(value: Fraction, negative_ties_up: bool = False) -> int:
    """The nearest integer, ties away from 0, or for negative ones up."""
    if value >= 0 or negative_ties_up:
        return floor(value + Fraction(1, 2))
    return ceil(value - Fraction(1, 2))


def applied(fixed, x: np.ndarray) -> np.ndarray:
    """The integers x, requantized in NumPy."""
    return fixed.apply(NUMPY_OPS, fixed.constants(), x.astype(np.int64))


@given(
    st.sampled_from(EDGES) | INT32, st.integers(2**30, 2**31 - 1) | st.sampled_from([0, 2**30]), st.integers(-31, 20)
)
def test_a_multiplier_rounds_the_high_half_of_the_product_and_then_its_shift(
    x: int, multiplier: int, shift: int
) -> None:
    left, right = max(shift, 0), max(-shift, 0)
    x >>= left
    fixed = FixedMultiplier(np.array([multiplier], np.int32), np.array([shift], np.int32))
    high = nearest(Fraction((x << left) * multiplier, 2**31), negative_ties_up=True)
    assert int(applied(fixed, np.array([x]))[0]) == nearest(Fraction(high, 2**right))


@given(st.floats(2.0**-31, 2.0**20))
def test_a_multiplier_is_rounded_to_31_bits(real: float) -> None:
    fixed = quantize_multiplier(np.array([real]))
    assert fixed.multiplier.dtype == fixed.shift.dtype == np.int32
    multiplier, shift = int(fixed.multiplier[0]), int(fixed.shift[0])
    assert 2**30 <= multiplier < 2**31
    value = Fraction(multiplier) * Fraction(2) ** (shift - 31)
    assert abs(value - Fraction(real)) <= Fraction(2) ** (shift - 32)


@pytest.mark.parametrize(
    ("real", "multiplier", "shift"),
    [(0.5, 2**30, 0), (1.0, 2**30, 1), (1 - 2.0**-40, 2**30, 1), (0.75, 3 * 2**29, 0), (2.0**-33, 0, 0)],
)
def test_multipliers_by_hand(real: float, multiplier: int, shift: int) -> None:
    fixed = quantize_multiplier(np.array([real]))
    assert (int(fixed.multiplier[0]), int(fixed.shift[0])) == (multiplier, shift)


@pytest.mark.parametrize("long", [False, True])
def test_float64_gives_the_same_integers_or_is_not_taken(long: bool) -> None:
    """Over multipliers, bounds of accumulators and clips as layers have them, at and beside ties, at 0 and at the bounds."""
    rng, taken = np.random.default_rng(0), 0
    for _ in range(300):
        real = np.exp2(rng.uniform(-24.0, 1.0, 4))
        fixed = quantize_multiplier(real)
        if long:
            fixed = LongMultiplier(
                rng.integers(2**14, 2**15, 4).astype(np.int32), rng.integers(8, 40, 4).astype(np.int32)
            )
        low = int(rng.choice([-128, 0, -255, -32768]))
        high, bound = low + int(rng.choice([255, 65535, 15])), np.full(4, 2 ** int(rng.integers(8, 25)))
        constants = fixed.constants()
        found = in_float64(constants, bound, low, high)
        if found is None:
            continue
        taken += 1
        x = rng.integers(-bound, bound + 1, (200, 4))
        scale = fixed.multiplier / 2.0 ** (fixed.shift if long else 31 - fixed.shift)
        ties = np.rint((rng.integers(low - 2, high + 3, (200, 4)) + 0.5) / np.maximum(scale, 1e-9)).astype(np.int64)
        beside = ties + rng.integers(-1, 2, ties.shape)
        x = np.clip(np.concatenate([x, ties, beside, rng.integers(-3, 4, (50, 4)), [bound, -bound]]), -bound, bound)
        codes = NUMPY_OPS.rounded_product(
            x.astype(np.float64), found["factor"], found["offset"], found.get("below"), float(low), float(high)
        )
        np.testing.assert_array_equal(codes, np.clip(applied(fixed, x), low, high))
    assert taken > 200  # of 300


def test_float64_is_not_taken_where_it_would_round() -> None:
    """A product of 55 bits, of which every one counts, since the clip is far."""
    constants = quantize_multiplier(np.array([0.75 + 2.0**-31])).constants()
    assert in_float64(constants, np.array([2**20]), -(2**25), 2**25) is not None
    assert in_float64(constants, np.array([2**24]), -(2**25), 2**25) is None
    assert in_float64(constants, np.array([2**24]), -128, 127) is not None


def test_a_product_is_rounded_twice() -> None:
    """3.6 / 8 becomes 4 / 8 and then 1, though it is nearer to 0."""
    fixed = quantize_multiplier(np.array([0.9 / 8]))
    assert (int(fixed.shift[0]), applied(fixed, np.array([3, 4, -4, 5])).tolist()) == (-3, [0, 1, -1, 1])


def test_both_operands_of_a_sum_are_halved_exactly() -> None:
    fixed = sum_multipliers("add", np.float32(0.1), np.float32(0.3))
    a, b = np.meshgrid(np.arange(-255, 256), np.arange(-255, 256))
    by_definition = applied(fixed.operand, a << fixed.left) + applied(fixed.operand, b << fixed.left)
    np.testing.assert_array_equal(applied(fixed, a + b), applied(fixed.result, by_definition))


def test_a_sum_whose_output_is_far_too_fine_is_refused() -> None:
    with pytest.raises(qat.QatError, match=r"^add: its inputs have scale 1 and its output 1e-06, over 2\^19 times"):
        sum_multipliers("add", np.float32(1.0), np.float32(1e-6))


class Adds(qat.Network):
    """A convolution, an addition and a dense layer."""

    inputs = qat.Input((2, 5, 5), mean=0.5, std=0.25)

    def __init__(self) -> None:
        self.a, self.b = qat.Conv2dBnAct(2, 3, 3, has_bias=True, activation="relu"), qat.Conv2dBnAct(2, 3, 1)
        self.add, self.flatten, self.fc = qat.Add("relu"), qat.Flatten(), qat.DenseBnAct(75, 4)

    def construct(self, x):
        return self.fc(self.flatten(self.add(self.a(x), self.b(x))))


def test_every_requantizing_node_states_its_integers() -> None:
    """Multipliers near those of the float arithmetic; nodes that only move codes have none."""
    graph = calibrated(Adds()).integer
    for node in graph.nodes:
        if isinstance(node, IntegerLinear):
            real = node.fixed.multiplier * 2.0 ** (node.fixed.shift - 31.0)
            np.testing.assert_allclose(real, node.requantize.multiplier, rtol=2.0**-22)
        elif isinstance(node, IntegerAdd):
            real = node.fixed.result.multiplier * 2.0 ** (node.fixed.result.shift - 31.0) * 2.0**19
            np.testing.assert_allclose(real, node.requantize.multiplier, rtol=2.0**-22)
        else:
            assert node.fixed is None


def test_the_fixed_arithmetic_is_near_the_float_arithmetic_but_not_equal() -> None:
    setup = calibrated(Adds(), images=64)
    by_float, by_fixed = (
        evaluate(setup.integer, setup.pixels, arithmetic=arithmetic) for arithmetic in ("float", "fixed")
    )
    off = by_float.astype(int) - by_fixed
    assert 0 < np.count_nonzero(off) < 0.2 * off.size
    assert np.abs(off).max() <= 2


def test_wide_accumulators_are_exact_in_the_fixed_arithmetic() -> None:
    """Partial sums beyond 2^24, where float32 holds no odd number; with a multiplier of 1 the sum itself is seen."""
    network = Chain(qat.Input((2048,)), fc=qat.DenseBnAct(2048, 3, has_bias=False))
    graph = calibrated(network).integer
    node, grid = graph.nodes[1], graph.output.grid
    weight = np.full_like(node.weight, 127)
    weight[:, 1024:] *= -1
    bias = np.array([1, -3, 5], np.int32)
    one = np.float32(grid.scale / graph.input.grid.scale)  # the weight scale that has the multiplier 1

    def with_scale(scale: np.float32) -> IntegerGraph:
        multiplier = np.full(3, graph.input.grid.scale * scale / grid.scale, np.float32)
        fields = {"weight": weight, "bias": bias, "weight_scale": np.full(3, scale, np.float32)}
        changed = replace(node, **fields, requantize=Requantize(multiplier, grid.low, grid.high))
        assert changed.wide
        return replace(graph, nodes=(graph.nodes[0], changed))

    pixels = np.full((1, 2048), 255, np.uint8)
    sums = NUMPY_OPS.dense(np.full((1, 2048), 255.0), np.full((1, 2048), 127.0), np.array([7.0]), wide=True)
    assert int(sums[0, 0]) == 2048 * 255 * 127 + 7
    codes = evaluate(with_scale(one), pixels, arithmetic="fixed")
    np.testing.assert_array_equal(codes.astype(int) - grid.zero_point, [[1, -3, 5]])
    with pytest.raises(qat.QatError, match=r"^fc: its accumulator may reach \d+ .*would overflow int32"):
        evaluate(with_scale(np.float32(100) * one), pixels, arithmetic="fixed")


def test_an_unknown_arithmetic_is_refused() -> None:
    setup = calibrated(Adds())
    with pytest.raises(qat.QatError, match="arithmetic 'fast' is unknown; use one of float, fixed"):
        evaluate(setup.integer, setup.pixels, arithmetic="fast")
