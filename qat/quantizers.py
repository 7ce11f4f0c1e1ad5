"""Uniform quantizers, written once over the vocabulary.

Scheme of Jacob et al. (arXiv 1712.05877, section 2.1): real = scale * (code - zero_point), with 0 always representable.
Parameters and their meaning follow MindSpore's ``FakeQuantWithMinMaxObserver``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from qat.errors import QatError
from qat.ops import Ops, Tensor
from qat.serial import Serializable, check_finite, check_flags, check_steps

#: Of an all-zero channel or a dead activation. Two of them multiplied are still a normal number.
SMALLEST_SCALE = 2.0**-60


class WeightCodes(NamedTuple):
    """A quantized weight. ``centred``: code - zero_point, integers in float32, shaped like the weight."""

    centred: Tensor
    scale: Tensor  #: (O,) or a scalar
    zero_point: Tensor | None  #: like scale; None where it is 0 everywhere


@dataclass(frozen=True)
class Quantizer(Serializable):
    """The integers of a uniform quantizer.

    num_bits: 2 to 8. symmetric: signed codes around zero point 0, else unsigned codes 0 .. 2^num_bits - 1 with a zero
    point. narrow_range: leave the lowest code out. quant_delay: in training, pass through for so many steps; in
    evaluation it always quantizes.
    """

    num_bits: int = 8
    symmetric: bool = True
    narrow_range: bool = False
    quant_delay: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.num_bits, bool) or not isinstance(self.num_bits, int) or not 2 <= self.num_bits <= 8:
            raise QatError(f"{type(self).__name__}: num_bits is {self.num_bits!r}; use a whole number from 2 to 8")
        check_steps(self, "quant_delay")
        check_flags(self, "symmetric", "narrow_range")

    def __str__(self) -> str:
        words = [f"{self.num_bits} bits", "symmetric" if self.symmetric else "affine"]
        words += ["per channel"] if getattr(self, "per_channel", False) else []
        words += ["power of two"] if getattr(self, "power_of_two", False) else []
        words += ["narrow"] if self.narrow_range else []
        words += [f"from step {self.quant_delay}"] if self.quant_delay else []
        return ", ".join(words)

    @property
    def qmin(self) -> int:
        """The lowest code."""
        return (-(1 << (self.num_bits - 1)) if self.symmetric else 0) + self.narrow_range

    @property
    def qmax(self) -> int:
        """The highest code."""
        return (1 << (self.num_bits - 1 if self.symmetric else self.num_bits)) - 1

    def symmetric_scale(self, ops: Ops, largest: Tensor) -> Tensor:
        """scale = max|x| / qmax; ``largest``: max|x|, a scalar or (O,)."""
        return ops.maximum(largest / float(self.qmax), SMALLEST_SCALE)

    def affine_scale(self, ops: Ops, extent: Tensor) -> Tensor:
        """scale = (high - low) / (qmax - qmin); ``extent``: high - low, with low <= 0 <= high."""
        return ops.maximum(extent / float(self.qmax - self.qmin), SMALLEST_SCALE)

    def zero_point(self, ops: Ops, low: Tensor, scale: Tensor) -> Tensor:
        """rint(qmin - low / scale): the code of 0 when ``low`` has the lowest code. Within qmin .. qmax."""
        nearest = ops.rint(float(self.qmin) - low / scale)
        return ops.minimum(ops.maximum(nearest, float(self.qmin)), float(self.qmax))


@dataclass(frozen=True)
class WeightQuantizer(Quantizer):
    """Quantizes a weight by its range, taken anew each time.

    per_channel: one scale for each output, else one for the whole weight. A symmetric range contains every weight, so
    no code is ever clipped and the gradient is 1 everywhere.
    """

    per_channel: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_flags(self, "per_channel")

    def quantize(self, ops: Ops, weight: Tensor, floor: Tensor | None = None) -> WeightCodes:
        """``floor``: the smallest scale allowed, (O,) or a scalar."""
        fixed = ops.stop_gradient(weight)
        if self.symmetric:
            largest = ops.output_absmax(fixed) if self.per_channel else ops.max(ops.abs(fixed))
            scale = self._at_least(ops, self.symmetric_scale(ops, largest), floor)
            return WeightCodes(ops.requantize(weight, ops.on_output(ops.reciprocal(scale), weight)), scale, None)
        low, high = (
            (ops.output_min(fixed), ops.output_max(fixed)) if self.per_channel else (ops.min(fixed), ops.max(fixed))
        )
        low, high = ops.minimum(low, 0.0), ops.maximum(high, 0.0)
        scale = self._at_least(ops, self.affine_scale(ops, high - low), floor)
        zero_point = self.zero_point(ops, low, scale)
        centred = ops.requantize(
            weight,
            ops.on_output(ops.reciprocal(scale), weight),
            ops.on_output(float(self.qmin) - zero_point, weight),
            ops.on_output(float(self.qmax) - zero_point, weight),
        )
        return WeightCodes(centred, scale, zero_point)

    def _at_least(self, ops: Ops, scale: Tensor, floor: Tensor | None) -> Tensor:
        if floor is None:
            return scale
        return ops.maximum(scale, floor if self.per_channel else ops.max(floor))


@dataclass(frozen=True)
class ActivationQuantizer(Quantizer):
    """Quantizes an activation by a range that follows what passes, as an exponential moving average.

    The first batch sets the range; from then on range = ema_decay * range + (1 - ema_decay) * batch range.
    power_of_two: round the scale up to a power of two, as the Ascend profile does (qat/ascend.py); symmetric only.
    """

    symmetric: bool = False
    ema_decay: float = 0.99
    power_of_two: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_finite(self, "ema_decay")
        check_flags(self, "power_of_two")
        if self.power_of_two and not self.symmetric:
            raise QatError("ActivationQuantizer: power_of_two needs symmetric=True; an affine range has an end to meet")
        if not 0.0 <= self.ema_decay <= 1.0:
            raise QatError(f"{type(self).__name__}: ema_decay is {self.ema_decay!r}; use a number from 0 to 1")

    def symmetric_scale(self, ops: Ops, largest: Tensor) -> Tensor:
        scale = super().symmetric_scale(ops, largest)
        return ops.power_of_two_above(scale) if self.power_of_two else scale
