"""Quantizers whose scale, or clip, is trained beside the weights.

A scale that is to begin from data cannot be one trained number, since training on any framework takes its beginning from
a file. It is the sum of two: a state that the first batch sets, and a trained change that begins at 0. The gradient to the
change is that to the scale, so that the steps of any optimizer are those of one trained scale.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from qat.errors import QatError
from qat.quantizers.base import (
    SMALLEST_SCALE,
    BaseActivationQuantizer,
    BaseWeightQuantizer,
    Bounds,
    Tensors,
    WeightCodes,
    steps_of,
    unbounded,
)
from qat.vocabulary.ops import Array, Ops, Tensor
from qat.vocabulary.param import Param, Shape, constant
from qat.vocabulary.values import Value

LEAST_SHARE = 2.0**-10  #: of its initial value that a learned scale keeps, however far its training goes astray


def learned_scale(ops: Ops, initial: Tensor, change: Tensor, factor: float) -> Tensor:
    """initial + change, at least LEAST_SHARE of initial, with ``factor`` times the gradient to change.

    The gradient flows on where it is raised, so that it can grow again. One sum carries value and gradient: these are small
    tensors, and what they cost is the number of operations.
    """
    scale = ops.maximum(initial + ops.stop_gradient(change), initial * LEAST_SHARE)
    moved = change * factor
    return scale + (moved - ops.stop_gradient(moved))


def positive(ops: Ops, x: Tensor, least: Tensor | float) -> Tensor:
    """max(x, least) through which the gradient flows on, so that x can grow again."""
    # No constant stands beside the difference: TensorFlow would add it to x first, and lose it there.
    return ops.stop_gradient(ops.maximum(x, least)) + (x - ops.stop_gradient(x))


def scaled_gradient(ops: Ops, x: Tensor, factor: float) -> Tensor:
    """x with ``factor`` times its gradient."""
    scaled = x * factor
    return ops.stop_gradient(x) + (scaled - ops.stop_gradient(scaled))


def larger(ops: Ops, own: Tensor, other: Tensor) -> Tensor:
    """The larger, and of equals ``own``: those that share a grid may well begin alike, and frameworks share out the gradient
    of a maximum of equals as they like.
    """
    return ops.where(own >= other, own, other)


def _one_bit(quantizer: BaseActivationQuantizer) -> str | None:
    """Why an activation quantizer whose zero point lies in the middle cannot take numbers of both signs."""
    return "1 bit has no code above a zero point in the middle" if quantizer.num_bits == 1 else None


@dataclass(frozen=True)
class LSQWeightQuantizer(BaseWeightQuantizer):
    """LSQ of a weight: its scale s is learned (Esser et al., arXiv 1902.08153).

    Codes (equations 1 and 2): c = rint(clip(w / s, -Q_N, Q_P)), value c s, Q_N = 2^(b-1) (one less if narrow_range),
    Q_P = 2^(b-1) - 1. Gradients: d(c s)/ds = c - w/s inside, -Q_N or Q_P outside (equation 3); d(c s)/dw = 1 inside, 0
    outside (equation 5). The gradient of s is multiplied by 1 / sqrt(N Q_P), N weights to a scale; s begins at
    2 mean|w| / sqrt(Q_P) (section 2.1 and 2.2), of the weights of the first step that quantizes.

    Parameters: scale_change, trained; initial_scale, state, 0 as long as no step was taken. Shape (O,) if per_channel.
    """

    fixed: ClassVar[dict[str, bool]] = {"symmetric": True}
    label: ClassVar[str] = "LSQ"
    observes_once: ClassVar[bool] = True

    @property
    def phase_starts(self) -> tuple[int, ...]:
        """Its first step looks at the mean, the others need not."""
        return (self.quant_delay, self.quant_delay + 1)

    def params(self, shape: Shape) -> dict[str, Param]:
        of = (shape[:1], "vector") if self.per_channel else ((), "scalar")
        return {
            "scale_change": Param(*of, constant(0.0)),  # type: ignore[arg-type]
            "initial_scale": Param(*of, constant(0.0), trainable=False),  # type: ignore[arg-type]
        }

    def observe(self, ops: Ops, weight: Tensor, own: Tensors) -> dict[str, Tensor]:
        known, size = own["initial_scale"], ops.abs(ops.stop_gradient(weight))
        mean = self._mean(ops, size, own)
        start = ops.maximum(mean * (2.0 / math.sqrt(self.qmax)), SMALLEST_SCALE)
        return {"initial_scale": ops.where(known > 0.0, known, start)}

    def quantize(
        self, ops: Ops, weight: Tensor, floor: Tensor | None = None, own: Tensors | None = None
    ) -> WeightCodes:
        assert own is not None, "its scale is a parameter"
        initial = own["initial_scale"]
        count = math.prod(weight.shape) / (initial.shape[0] if self.per_channel else 1)
        factor = 1.0 / math.sqrt(count * self.qmax)
        scale = self._at_least(ops, learned_scale(ops, initial, own["scale_change"], factor), floor)
        multiplier = ops.on_output(ops.reciprocal(scale), weight)
        return WeightCodes(ops.requantize(weight, multiplier, float(self.qmin), float(self.qmax)), scale, None)

    def refuses_batch_norm(self, *, folded: bool) -> str | None:
        if not folded and not self.narrow_range:
            return "a negative gamma would take its lowest code out of the range; or use narrow_range=True"
        return None


@dataclass(frozen=True)
class LSQActivationQuantizer(BaseActivationQuantizer):
    """LSQ of an activation: its scale s is learned (Esser et al., arXiv 1902.08153, equations 1 to 5).

    As LSQWeightQuantizer, over the numbers of one sample (N) and with Q_N = 0, Q_P = 2^b - 1 where numbers are never
    negative, else Q_N = 2^(b-1), Q_P = 2^(b-1) - 1. (Without ``symmetric`` the codes are stored unsigned, with a fixed zero
    point of 0 or 2^(b-1).) s begins at 2 mean|x| / sqrt(Q_P) of the first batch that is quantized.

    offset: LSQ+ (Bhalgat et al., arXiv 2004.09576, section 3): where numbers can be negative, the lowest code stands
    for a learned beta, and Q_P = 2^b - 1. d(value)/d(beta) = 1 outside the range and 0 inside. Since 0 must have a code, the
    zero point is rint(-beta / s), straight through. s and beta begin with the range of the first batch.

    Before quant_delay each batch says where they would begin, so that the network can be evaluated; what begins is what the
    first batch after it says.

    Parameters: scale_change and offset_change, trained; initial_scale, state, -infinity as long as nothing was observed, and
    negative as long as it has not begun; initial_offset, state.
    """

    offset: bool = False

    label: ClassVar[str] = "LSQ"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.offset and self.symmetric:
            raise QatError("LSQActivationQuantizer: offset needs symmetric=False; symmetric codes have zero point 0")

    def refuses(self, non_negative: bool) -> str | None:
        return None if non_negative or self.offset else _one_bit(self)

    @property
    def phase_starts(self) -> tuple[int, ...]:
        """Its first step looks at the mean, the others need not."""
        return (self.quant_delay, self.quant_delay + 1)

    def _has_offset(self, own: Tensors) -> bool:
        return self.offset and "offset_change" in own

    def _zero(self, non_negative: bool) -> float:
        """The zero point where it is fixed."""
        if self.symmetric:
            return 0.0
        return float(self.qmin if non_negative else 1 << (self.num_bits - 1))

    def params(self, non_negative: bool) -> dict[str, Param]:
        params = {
            "scale_change": Param((), "scalar", constant(0.0)),
            "initial_scale": Param((), "scalar", constant(-np.inf), trainable=False),
        }
        if self.offset and not non_negative:
            params["offset_change"] = Param((), "scalar", constant(0.0))
            params["initial_offset"] = Param((), "scalar", constant(0.0), trainable=False)
        return params

    def observe(self, ops: Ops, x: Value, own: Tensors, non_negative: bool, *, phase: int) -> dict[str, Tensor]:
        if phase > self.quant_delay:
            return {}
        begun, sign = own["initial_scale"] > 0.0, -1.0 if phase < self.quant_delay else 1.0
        if self._has_offset(own):
            low, high = ops.minimum(x.smallest(ops), 0.0), ops.maximum(x.largest(ops), 0.0)
            return {
                "initial_scale": ops.where(begun, own["initial_scale"], self.affine_scale(ops, high - low) * sign),
                "initial_offset": ops.where(begun, own["initial_offset"], low),
            }
        positive_codes = float(self.qmax) - self._zero(non_negative)
        mean = ops.mean(ops.abs(ops.stop_gradient(x.real(ops))))
        start = ops.maximum(mean * (2.0 / math.sqrt(positive_codes)), SMALLEST_SCALE)
        return {"initial_scale": ops.where(begun, own["initial_scale"], start * sign)}

    def unseen(self, own: Mapping[str, Array]) -> bool:
        return not np.isfinite(own["initial_scale"])

    def calibrated(self, low: float, high: float, non_negative: bool) -> dict[str, float]:
        """A scale with which the range from low to high has just room."""
        low, high = min(low, 0.0), max(high, 0.0)
        zero = self._zero(non_negative)
        found = {"scale_change": 0.0, "initial_scale": max(high / (self.qmax - zero), SMALLEST_SCALE)}
        if self.offset and not non_negative:
            extent = (high - low) / (self.qmax - self.qmin)
            return found | {
                "initial_scale": max(extent, SMALLEST_SCALE),
                "offset_change": 0.0,
                "initial_offset": low,
            }
        if not non_negative:
            found["initial_scale"] = max(found["initial_scale"], -low / (zero - self.qmin))
        return found

    def _scale(self, ops: Ops, own: Tensors, factor: float) -> Tensor:
        initial = own["initial_scale"]
        initial = ops.where(ops.isfinite(initial), ops.abs(initial), ops.maximum(initial, SMALLEST_SCALE))
        return learned_scale(ops, initial, own["scale_change"], factor)

    def _learned(
        self, ops: Ops, own: Tensors, shared: Sequence[Tensors], non_negative: bool, features: int
    ) -> tuple[Tensor, Tensor | None]:
        """Scale and offset: of several fake quantizers, the largest scale and the lowest offset."""
        lowest = float(self.qmin) if self._has_offset(own) else self._zero(non_negative)
        factor = 1.0 / math.sqrt(features * (self.qmax - lowest))
        scale = self._scale(ops, own, factor)
        for other in shared:
            scale = larger(ops, scale, self._scale(ops, other, factor))
        if not self._has_offset(own):
            return scale, None
        offsets = [
            each["initial_offset"] + scaled_gradient(ops, each["offset_change"], factor) for each in (own, *shared)
        ]
        offset = offsets[0]
        for other_offset in offsets[1:]:
            offset = -larger(ops, -offset, -other_offset)
        return scale, offset

    def grid(
        self, ops: Ops, own: Tensors, shared: Sequence[Tensors], non_negative: bool, features: int = 1
    ) -> tuple[Tensor, Tensor | float]:
        scale, offset = self._learned(ops, own, shared, non_negative, features)
        if offset is None:
            return scale, self._zero(non_negative)
        return scale, self.zero_point(ops, ops.stop_gradient(offset), ops.stop_gradient(scale))

    def quantize(
        self, ops: Ops, x: Value, own: Tensors, shared: Sequence[Tensors], non_negative: bool, features: int
    ) -> Value:
        x = unbounded(ops, x, non_negative)
        y = super().quantize(ops, x, own, shared, non_negative, features)
        scale, offset = (
            self._learned(ops, own, shared, non_negative, features) if self._has_offset(own) else (None, None)
        )
        if offset is None:
            return y
        zero_point = self.zero_point(ops, ops.stop_gradient(offset), ops.stop_gradient(scale))
        u = steps_of(ops, x, scale)
        nothing = ops.stop_gradient(y.data) * 0.0
        inside = (u >= float(self.qmin) - zero_point) & (u <= float(self.qmax) - zero_point)
        shift = offset / scale
        outside = ops.where(inside, nothing, nothing + 1.0)
        return Value(y.data + outside * (shift - ops.stop_gradient(shift)), y.scale, codes=True)


@dataclass(frozen=True)
class PACTActivationQuantizer(BaseActivationQuantizer):
    """PACT: an activation is clipped at a learned alpha (Choi et al., arXiv 1805.06085).

    y = clip(x, 0, alpha) (equation 1), quantized with s = alpha / (2^b - 1) (equation 2). Gradients (equation 3 and the text
    above it): dy/dalpha = 1 where x >= alpha, else 0; dy/dx = 1 inside, 0 outside. Where numbers can be negative, which the
    paper has not, it is clip(x, -alpha, alpha) with s = alpha / (2^(b-1) - 1), and dy/dalpha = -1 where x <= -alpha.

    initial_alpha: where alpha begins. The paper lets weight decay draw alpha down; here only weights decay.
    Parameter: alpha, trained.
    """

    initial_alpha: float = 10.0

    label: ClassVar[str] = "PACT"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.initial_alpha > 0.0:
            raise QatError(
                f"PACTActivationQuantizer: initial_alpha is {self.initial_alpha!r}; use a number greater than 0"
            )

    def refuses(self, non_negative: bool) -> str | None:
        return None if non_negative else _one_bit(self)

    def bounds(self, ops: Ops, own: Tensors, shared: Sequence[Tensors], non_negative: bool) -> Bounds:
        """As many codes above the zero point as below it, where there are any below."""
        return float(self.qmin if non_negative else self.qmax - 2 * self._levels(False)), float(self.qmax)

    def _zero(self, non_negative: bool) -> int:
        return 0 if self.symmetric else self.qmin if non_negative else 1 << (self.num_bits - 1)

    def _levels(self, non_negative: bool) -> int:
        """The code of alpha, less the zero point."""
        return self.qmax - self._zero(non_negative)

    def params(self, non_negative: bool) -> dict[str, Param]:
        return {"alpha": Param((), "scalar", constant(self.initial_alpha))}

    def observe(self, ops: Ops, x: Value, own: Tensors, non_negative: bool, *, phase: int) -> dict[str, Tensor]:
        return {}

    def unseen(self, own: Mapping[str, Array]) -> bool:
        return False

    def calibrated(self, low: float, high: float, non_negative: bool) -> dict[str, float]:
        return {"alpha": max(high, 0.0 if non_negative else -low, self.qmax * SMALLEST_SCALE)}

    def _alpha(self, ops: Ops, own: Tensors, shared: Sequence[Tensors]) -> Tensor:
        """Of several fake quantizers the largest."""
        least = self.qmax * SMALLEST_SCALE
        alpha = positive(ops, own["alpha"], least)
        for other in shared:
            alpha = larger(ops, alpha, positive(ops, other["alpha"], least))
        return alpha

    def grid(
        self, ops: Ops, own: Tensors, shared: Sequence[Tensors], non_negative: bool, features: int = 1
    ) -> tuple[Tensor, Tensor | float]:
        """Without gradient: what alpha learns comes through the codes that are clipped, not through the scale."""
        alpha = ops.stop_gradient(self._alpha(ops, own, shared))
        return alpha / float(self._levels(non_negative)), float(self._zero(non_negative))

    def quantize(
        self, ops: Ops, x: Value, own: Tensors, shared: Sequence[Tensors], non_negative: bool, features: int
    ) -> Value:
        x = unbounded(ops, x, non_negative)
        y = super().quantize(ops, x, own, shared, non_negative, features)
        levels = float(self._levels(non_negative))
        u = steps_of(ops, x, y.scale)
        nothing = ops.stop_gradient(y.data) * 0.0
        clipped = ops.where(u >= levels, nothing + 1.0, nothing)
        if not non_negative:
            clipped = clipped - ops.where(u <= -levels, nothing + 1.0, nothing)
        top = self._alpha(ops, own, shared) / y.scale
        return Value(y.data + clipped * (top - ops.stop_gradient(top)), y.scale, codes=True)
