"""The fixed arithmetic: int32 multipliers and shifts, as TFLite's reference kernels round them.

A real multiplier is a 31-bit fraction and a power of two, m = multiplier 2^-31 2^shift, after Jacob et al., "Quantization
and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference" (arXiv 1712.05877), section 2.2 and
appendix B: a rounding doubling high multiplication, then a rounding right shift, so that a product is rounded twice. This
is the only place that knows how; what generates code for another machine takes the integers from here. Its formulas are over
the vocabulary, in int64: whoever evaluates a node gives ``apply`` accumulators and the ``constants`` as tensors. Where float64
holds all that is computed, it is faster, and gives the same integers (``in_float64``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from qat.errors import QatError
from qat.vocabulary.ops import Array, Ops, Tensor

ARITHMETICS = ("float", "fixed")  #: how an accumulator is multiplied: by a float32, or by an integer and a shift
LARGEST = 2**30  #: no int32 intermediate result may pass it, nor a layer's sum reach it: a zero point has room
ADD_SHIFT, LONG_ADD_SHIFT = 20, 15  #: by how many bits an addition shifts its inputs to the left; of more than 8 bits
LARGEST_LONG = 2**47  #: an accumulator that a LongMultiplier takes


def check_arithmetic(arithmetic: str, name: str) -> None:
    """Raise QatError, for the network of that name, unless there is such an arithmetic."""
    if arithmetic not in ARITHMETICS:
        raise QatError(f"{name}: arithmetic {arithmetic!r} is unknown; use one of {', '.join(ARITHMETICS)}")


class FixedMultiplier(NamedTuple):
    """m = multiplier 2^-31 2^shift.

    Attributes:
        multiplier: int32, 2^30 to 2^31 - 1, or 0.
        shift: int32, of the same shape; negative: to the right.
    """

    multiplier: Array
    shift: Array

    def constants(self) -> dict[str, Array]:
        """What ``apply`` computes with, int64: the factor, the shift of the product to the right, and what is added before that
        to all products, and taken from those of numbers below 0.
        """
        left, right = (np.maximum(side, 0).astype(np.int64) for side in (self.shift, -self.shift))
        half = (1 << right) >> 1
        return {
            "factor": self.multiplier.astype(np.int64) << left,
            "right": 31 + right,
            "half": (1 << 30) + (half << 31),
            "below": np.minimum(half, 1) << 31,
        }

    def apply(self, ops: Ops, constants: Mapping[str, Tensor], x: Tensor) -> Tensor:
        """x m of integers, int64; x 2^shift has to fit int32 where the shift is to the left.

        It is rounded twice. First the high half of 2 x factor, h = floor(x factor / 2^31 + 1/2): the reference adds 2^30 to a
        product, or 1 - 2^30 to a negative one, and divides with truncation, which is the same; what does not fit, -2^31 twice,
        cannot occur, since multipliers are positive. Then h / 2^right to nearest, ties away from 0, which is
        floor((h + half - 1) / 2^right) below 0 and floor((h + half) / 2^right) else; where x is below 0 and h is 0, both are 0.
        The floor of a floor is that of the whole, so that one shift does both.
        """
        below = ops.shift_right(x, 63) * constants["below"]  # times -1 of negative numbers, else 0
        product = x * constants["factor"]
        product += constants["half"]  # in place where tensors can be changed: memory is what this takes
        product += below
        return ops.shift_right(product, constants["right"])


class LongMultiplier(NamedTuple):
    """m = multiplier 2^-shift, for accumulators of int64, of layers with codes of more than 8 bits.

    The multiplier keeps 15 bits, so that products fit into int64, and they are rounded once, half up (TFLite's
    MultiplyByQuantizedMultiplier of an int64).

    Attributes:
        multiplier: int32, 2^14 to 2^15 - 1.
        shift: int32, of the same shape, to the right, 8 to 46.
    """

    multiplier: Array
    shift: Array

    def constants(self) -> dict[str, Array]:
        """What ``apply`` computes with, int64."""
        right = self.shift.astype(np.int64)
        return {"factor": self.multiplier.astype(np.int64), "right": right, "half": (1 << right) >> 1}

    def apply(self, ops: Ops, constants: Mapping[str, Tensor], x: Tensor) -> Tensor:
        """x m of integers |x| < 2^47, rounded once, half up, int64."""
        product = x * constants["factor"]
        product += constants["half"]
        return ops.shift_right(product, constants["right"])


class FixedSum(NamedTuple):
    """y = m_y (m_x (a 2^left) + m_x (b 2^left)): the sum of two centred codes of one scale.

    Attributes:
        operand: m_x, of either input: its share of twice the larger scale, which is one half.
        result: m_y.
        left: 20, or 15 where codes have more than 8 bits.
    """

    operand: FixedMultiplier
    result: FixedMultiplier
    left: int

    def constants(self) -> dict[str, Array]:
        """What ``apply`` computes with, int64: m_x is one half, and shifted codes are even, so that m_x (a 2^left) +
        m_x (b 2^left) is (a + b) 2^(left - 1).
        """
        own = self.result.constants()
        return {**own, "factor": own["factor"] << (self.left - 1)}

    def apply(self, ops: Ops, constants: Mapping[str, Tensor], x: Tensor) -> Tensor:
        """Centred codes before the clip, int64, of x = a + b."""
        return self.result.apply(ops, constants, x)


def in_float64(constants: Mapping[str, Array], bound: Array, low: int, high: int) -> dict[str, Array] | None:
    """What ``apply`` computes, as a product and a sum of float64, which processors are several times faster in.

    With the integer constants of ``apply``, y = floor((x factor + half - below [x < 0]) 2^-right). These products and sums are
    multiples of some g = 2^k, so that y = rint((x factor + half - below [x < 0]) 2^-right - 1/2 + g / 2). As long as float64
    holds multiples of g / 2 up to where codes are clipped, that is exact; beyond, it is rounded, which crosses no bound.

    Args:
        constants: of ``apply``, int64.
        bound: of |x|, one number or one for each multiplier.
        low: the lowest result that counts; lower ones are clipped to it.
        high: the highest.

    Returns:
        "factor", "offset", and, where numbers below 0 are rounded otherwise, "below", float64: what ``Ops.rounded_product``
        takes. None where float64 does not hold all that counts.
    """
    factor, half, right = (constants[name] for name in ("factor", "half", "right"))
    below = constants["below"] if low < 0 and "below" in constants else np.zeros_like(half)
    unit, grain = 2.0**-right, factor | half | below
    grain = (grain & -grain).astype(np.float64)  # g 2^right
    product = bound.astype(np.float64) * factor
    counting = np.minimum(product + half + below, (max(-low, high) + 2) / unit)
    idle = product * unit < 0.25  # every y is 0
    if not (idle | (counting < grain * 2.0**51)).all():
        return None
    found = {"factor": factor * unit, "offset": half * unit - 0.5 + grain * unit / 2.0, "below": below * unit}
    found = {name: np.where(idle, 0.0, array) for name, array in found.items()}
    return {name: array for name, array in found.items() if name != "below" or array.any()}


def quantize_multiplier(real: Array) -> FixedMultiplier:
    """The multiplier and shift of positive float64 numbers.

    The fraction is rounded to 31 bits, half away from 0. A number below 2^-32 becomes 0.
    """
    fraction, exponent = np.frexp(real)
    multiplier = np.floor(fraction * 2.0**31 + 0.5).astype(np.int64)
    full = multiplier == 2**31
    multiplier, exponent = np.where(full, 2**30, multiplier), np.where(full, exponent + 1, exponent)
    tiny = exponent < -31
    multiplier, exponent = np.where(tiny, 0, multiplier), np.where(tiny, 0, exponent)
    return FixedMultiplier(multiplier.astype(np.int32), exponent.astype(np.int32))


def linear_multiplier(
    name: str, x_scale: np.float32, w_scale: Array, y_scale: np.float32, bound: int, *, long: bool = False
) -> FixedMultiplier | LongMultiplier:
    """s_x s_w / s_y of a linear node, (O,). Raises QatError where an accumulator, shifted to the left, leaves int32.

    The float32 scales of the file are multiplied and divided in float64. bound: of the accumulators. long: they are int64, and
    the result is a LongMultiplier, since a code of the layer has more than 8 bits.
    """
    fixed = quantize_multiplier(w_scale.astype(np.float64) * np.float64(x_scale) / np.float64(y_scale))
    if long:
        return _long_multiplier(name, fixed, bound)
    left = int(max(fixed.shift.max(), 0))
    if bound << left >= LARGEST:  # twice a sum is an int32 too (SMMULR of Arm)
        raise QatError(
            f"{name}: its accumulator may reach {bound} and its multiplier is above 2^{left - 1}, so that the fixed arithmetic "
            "would overflow int32; its output's range is far too small for its inputs, train it further, or use "
            "--arithmetic float"
        )
    return fixed


def product_multiplier(name: str, multiplier: Array, bound: int) -> FixedMultiplier:
    """Of a product of two tensors, (1,). Raises QatError where a product, shifted to the left, leaves int32.

    multiplier: s_a s_b / s_y in float32, as LiteRT computes it. bound: of the products of codes.
    """
    fixed = quantize_multiplier(multiplier.astype(np.float64))
    if bound << max(int(fixed.shift[0]), 0) > LARGEST:
        raise QatError(
            f"{name}: the products of its codes may reach {bound}, times {multiplier[0]:g}, so that the fixed arithmetic would "
            "overflow int32; use fewer bits, symmetric activations, or --arithmetic float"
        )
    return fixed


def _long_multiplier(name: str, fixed: FixedMultiplier, bound: int) -> LongMultiplier:
    """The long form of a multiplier. Raises QatError where a result would leave int32, or where nothing is left of it."""
    left, product = int(fixed.shift.max()), bound * float((fixed.multiplier * 2.0 ** (fixed.shift - 31.0)).max())
    if bound >= LARGEST_LONG or left > 7 or product > LARGEST or not fixed.multiplier.all():
        raise QatError(
            f"{name}: its accumulator may reach {bound} and its multipliers lie below 2^{left}, which the fixed arithmetic's "
            "accumulators of 64 bits do not express; its output's range does not suit its inputs': train it further, use "
            "fewer bits, or --arithmetic float"
        )
    short = np.where(fixed.multiplier < 0x7FFF0000, (fixed.multiplier.astype(np.int64) + (1 << 15)) >> 16, 0x7FFF)
    return LongMultiplier(short.astype(np.int32), (15 - fixed.shift).astype(np.int32))


def sum_multipliers(name: str, x_scale: np.float32, y_scale: np.float32, *, long: bool = False) -> FixedSum:
    """Of an addition of two tensors of one scale. Raises QatError where the result's multiplier is not below 1.

    Inputs are multiplied by s_x / (2 s_x), the sum by 2 s_x / (2^left s_y), in float64. long: codes have more than 8
    bits, and are shifted by fewer.
    """
    left = LONG_ADD_SHIFT if long else ADD_SHIFT
    twice = 2.0 * np.float64(x_scale)
    result = twice / (2.0**left * np.float64(y_scale))
    if result >= 1.0:
        raise QatError(
            f"{name}: its inputs have scale {x_scale:g} and its output {y_scale:g}, over 2^{left - 1} times smaller, which "
            "TFLite's addition cannot express; its output's range is far too small, train it further"
        )
    operand, total = (quantize_multiplier(np.array([real])) for real in (np.float64(x_scale) / twice, result))
    return FixedSum(operand, total, left)
