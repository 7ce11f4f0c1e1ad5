"""A uniform quantizer whose number of bits is trained (Uhlich et al., Mixed Precision DNNs, arXiv 1905.11452)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from qat.ops import Ops, Tensor
from qat.param import Param, Shape, constant
from qat.quantizers.base import SMALLEST_SCALE, BaseWeightQuantizer, Tensors, WeightCodes

FEWEST = 2.0  #: bits; with one, a symmetric quantizer has no code but 0


@dataclass(frozen=True)
class LearnedWidthWeightQuantizer(BaseWeightQuantizer):
    """A symmetric quantizer by range that learns how many bits it takes (arXiv 1905.11452, section 2, parametrization U2).

    Q(w) = d rint(w / d), d = q_max / (2^(b-1) - 1). q_max is max|w|, taken anew each time, so that nothing is clipped, and b
    alone is trained: b = rint(share num_bits), within 2 .. num_bits, straight through the rounding and the bounds. Gradients:
    dQ/dw = 1; dQ/db = (rint(w / d) - w / d) dd/db, dd/db = -d ln 2 2^(b-1) / (2^(b-1) - 1).

    The share begins at 1. It is a share, not bits, so that a step of Adam, which is about the rate, moves b by num_bits times
    as much. Train with Adam: the paper finds that with SGD this parametrization's gradients are badly conditioned, and the
    one by d and q_max has no width to bound. Without a loss that asks for ``bits``, as ``SizeBudget``, nothing but the error of
    rounding moves b. num_bits: the most bits.

    Parameter: share, trained, one for the whole weight, also if per_channel.
    """

    fixed: ClassVar[dict[str, bool]] = {"symmetric": True, "narrow_range": True}
    label: ClassVar[str] = "learned width, at most"
    learns_bits: ClassVar[bool] = True

    narrow_range: bool = True

    def params(self, shape: Shape) -> dict[str, Param]:
        return {"share": Param((), "scalar", constant(1.0))}

    def bits(self, ops: Ops, x: Any, own: Tensors) -> Tensor:
        width = own["share"] * float(self.num_bits)
        within = ops.minimum(ops.maximum(ops.stop_gradient(width), FEWEST), float(self.num_bits))
        return ops.rint(within) + (width - ops.stop_gradient(width))

    def quantize(
        self, ops: Ops, weight: Tensor, floor: Tensor | None = None, own: Tensors | None = None
    ) -> WeightCodes:
        assert own is not None, "its share is a parameter"
        bits, size = self.bits(ops, weight, own), ops.abs(ops.stop_gradient(weight))
        largest = ops.output_absmax(size) if self.per_channel else ops.max(size)
        half = ops.power_of_two(bits - 1.0)
        levels = half * (1.0 + (bits - ops.stop_gradient(bits)) * math.log(2.0)) - 1.0
        scale = self._at_least(ops, ops.maximum(largest / levels, SMALLEST_SCALE), floor)
        return WeightCodes(ops.requantize(weight, ops.on_output(ops.reciprocal(scale), weight)), scale, None)
