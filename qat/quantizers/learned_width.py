"""Uniform quantizers that learn their number of bits (Uhlich et al., Mixed Precision DNNs, arXiv 1905.11452)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from qat.quantizers.base import (
    SMALLEST_SCALE,
    BaseWeightQuantizer,
    Bounds,
    Tensors,
    WeightCodes,
)
from qat.quantizers.clipping import steps_of, unbounded
from qat.quantizers.learned import larger
from qat.quantizers.minmax import ActivationQuantizer
from qat.vocabulary.ops import Ops, Tensor
from qat.vocabulary.param import Param, Shape, constant
from qat.vocabulary.values import Value

FEWEST = 2.0  #: bits; with one bit a symmetric narrow quantizer has no code but 0
LN2 = math.log(2.0)


class _LearnedWidth:
    """b = rint(share num_bits), within 2 .. num_bits, with a straight-through gradient over rounding and bounds.

    The share starts at 1. A share is trained rather than b itself, because the size of Adam's steps is about the
    learning rate; so b moves by num_bits times as much in a step. Train with Adam: according to the paper the gradients
    of this parametrization are badly conditioned with SGD, and the parametrization by step and range has no width to
    bound. Without a loss that uses ``bits``, as ``SizeBudget`` and ``BopsBudget`` do, only the rounding error moves b.
    """

    num_bits: int

    label: ClassVar[str] = "learned width"
    limit: ClassVar[str] = "at most "
    learns_bits: ClassVar[bool] = True

    def bits(self, ops: Ops, x: Any, own: Tensors, shared: Sequence[Tensors] = ()) -> Tensor:
        """Of fake quantizers that share a grid, the most bits."""
        share = own["share"]
        for other in shared:
            share = larger(ops, share, other["share"])
        width = share * float(self.num_bits)
        within = ops.minimum(ops.maximum(ops.stop_gradient(width), FEWEST), float(self.num_bits))
        return ops.rint(within) + (width - ops.stop_gradient(width))


@dataclass(frozen=True)
class LearnedWidthWeightQuantizer(_LearnedWidth, BaseWeightQuantizer):
    """A symmetric quantizer by range that learns its number of bits b (arXiv 1905.11452, section 2, U2).

    Q(w) = d rint(w / d), d = q_max / (2^(b-1) - 1). q_max is max|w|, measured anew in each step, so that nothing is
    clipped and b alone is trained. Gradients: dQ/dw = 1; dQ/db = (rint(w / d) - w / d) dd/db, dd/db = -d ln 2 2^(b-1) /
    (2^(b-1) - 1).

    b = rint(share num_bits), where the trained parameter "share" starts at 1; there is one for the whole weight, also
    if ``per_channel``. Train with Adam and an objective that asks for few bits (``SizeBudget``, ``BopsBudget``).

    Args:
        num_bits: the most bits, 2 to 16; 8 by default.
        narrow_range: always True.

    >>> import qat
    >>> print(qat.LearnedWidthWeightQuantizer(6))
    learned width, at most 6 bits, symmetric, narrow
    """

    fixed: ClassVar[dict[str, bool]] = {"symmetric": True, "narrow_range": True}

    narrow_range: bool = True

    def params(self, shape: Shape) -> dict[str, Param]:
        return _share()

    def quantize(
        self, ops: Ops, weight: Tensor, floor: Tensor | None = None, own: Tensors | None = None
    ) -> WeightCodes:
        assert own is not None, "its share is a parameter"
        bits, size = self.bits(ops, weight, own), ops.abs(ops.stop_gradient(weight))
        largest = ops.output_absmax(size) if self.per_channel else ops.max(size)
        # power_of_two comes from a table and has no gradient, so that of 2^(b-1) is multiplied in by a factor of 1.
        half = ops.power_of_two(bits - 1.0)
        levels = half * (1.0 + (bits - ops.stop_gradient(bits)) * LN2) - 1.0
        scale = self._at_least(ops, ops.maximum(largest / levels, SMALLEST_SCALE), floor)
        return WeightCodes(ops.requantize(weight, ops.on_output(ops.reciprocal(scale), weight)), scale, None)


@dataclass(frozen=True)
class LearnedWidthActivationQuantizer(_LearnedWidth, ActivationQuantizer):
    """An ActivationQuantizer, whose range follows the batches, that learns its number of bits b.

    Q(x) = d clip(rint(x / d), ..), d = range / levels, levels = 2^b - 1, or 2^(b-1) - 1 if symmetric: U2 of arXiv
    1905.11452 (section 2) with an observed range. Gradients: dQ/dx = 1 inside the range, 0 outside; dQ/db = (rint(x /
    d) - x / d) dd/db inside, dd/db = -d ln 2 (levels + 1) / levels, and 0 outside, where Q is the end of the range
    whatever b is.

    b = rint(share num_bits), where the trained parameter "share" starts at 1. Fake quantizers that share a grid take
    the most bits of all. The range is the state of ActivationQuantizer.

    Args:
        num_bits: the most bits, 2 to 16; 8 by default.

    >>> import qat
    >>> print(qat.LearnedWidthActivationQuantizer(5))
    learned width, at most 5 bits, affine
    """

    fixed: ClassVar[dict[str, bool]] = {"narrow_range": False, "power_of_two": False}
    widths: ClassVar[tuple[int, int]] = (2, 16)

    def params(self, non_negative: bool) -> dict[str, Param]:
        return _share() | super().params(non_negative)

    def calibrated(self, low: float, high: float, non_negative: bool) -> dict[str, float]:
        return {"share": 1.0} | super().calibrated(low, high, non_negative)

    def bounds(self, ops: Ops, own: Tensors, shared: Sequence[Tensors], non_negative: bool) -> Bounds:
        numbers = ops.power_of_two(self.bits(ops, None, own, shared))
        return (numbers * -0.5, numbers * 0.5 - 1.0) if self.symmetric else (0.0, numbers - 1.0)

    def quantize(
        self, ops: Ops, x: Value, own: Tensors, shared: Sequence[Tensors], non_negative: bool, features: int
    ) -> Value:
        x = unbounded(ops, x, non_negative)
        y = super().quantize(ops, x, own, shared, non_negative, features)
        scale, zero_point = self.grid(ops, own, shared, non_negative, features)
        first, last = self.bounds(ops, own, shared, non_negative)
        u = steps_of(ops, x, scale)
        # The scale has no gradient here, so dQ/db = (rint(x / d) - x / d) dd/db is added as a term whose value is 0.
        error = ops.stop_gradient(y.data) - u
        error = ops.where((u >= first - zero_point) & (u <= last - zero_point), error, error * 0.0)
        bits = self.bits(ops, x, own, shared)
        relative = (bits - ops.stop_gradient(bits)) * ((last + 1.0) / last * -LN2)  # 0, with the gradient of log d to b
        return Value(y.data + error * relative, y.scale, codes=True)


def _share() -> dict[str, Param]:
    return {"share": Param((), "scalar", constant(1.0))}
