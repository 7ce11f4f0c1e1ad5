"""Quantizers whose scale or clip is trained together with the weights.

A scale that starts from data cannot be a single trained number: in every framework a trained variable starts from a
value in a file. So the scale is a sum of two: a state that the first batch sets, and a trained change that starts at 0.
The gradient to the change is the gradient to the scale, so any optimizer takes the steps that it would take with one
trained scale.
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
)
from qat.quantizers.clipping import steps_of, unbounded
from qat.vocabulary.ops import Array, Ops, Tensor
from qat.vocabulary.param import Param, Shape, constant
from qat.vocabulary.values import Value

STARTS = ("mean", "mse")  #: what the scale of a weight starts from
CANDIDATES = 20  #: scales that "mse" tries
REFINEMENTS = 3  #: of the best of them
LEAST_SHARE = 2.0**-10  #: lower bound of a learned scale, relative to its initial value: training may diverge


def learned_scale(ops: Ops, initial: Tensor, change: Tensor, factor: float) -> Tensor:
    """initial + change, at least LEAST_SHARE of initial, with ``factor`` times the gradient to change.

    Where the bound holds the scale up, the gradient still flows, so that the scale can grow again. Value and gradient
    are in one sum, because the tensors are small and the number of operations decides their cost.

    Args:
        ops: the vocabulary.
        initial: the state that the first batch set, a scalar or (O,).
        change: the trained change, shaped like ``initial``.
        factor: LSQ's gradient scale.

    Returns:
        The scale, shaped like ``initial``.
    """
    scale = ops.maximum(initial + ops.stop_gradient(change), initial * LEAST_SHARE)
    moved = change * factor
    return scale + (moved - ops.stop_gradient(moved))


def positive(ops: Ops, x: Tensor, least: Tensor | float) -> Tensor:
    """max(x, least), with the gradient of x also where the bound holds, so that x can grow again."""
    # No constant is added to the difference: TensorFlow would add it to x first, and round it away.
    return ops.stop_gradient(ops.maximum(x, least)) + (x - ops.stop_gradient(x))


def scaled_gradient(ops: Ops, x: Tensor, factor: float) -> Tensor:
    """x with ``factor`` times its gradient."""
    scaled = x * factor
    return ops.stop_gradient(x) + (scaled - ops.stop_gradient(scaled))


def larger(ops: Ops, own: Tensor, other: Tensor) -> Tensor:
    """The larger of two tensors, and ``own`` where they are equal.

    Fake quantizers that share a grid often start equal, and frameworks distribute the gradient of a maximum over equal
    arguments in different ways; this choice makes them agree.
    """
    return ops.where(own >= other, own, other)


def _mean_size(ops: Ops, x: Tensor) -> Tensor:
    """mean|x|, without gradient, the same in whatever order a backend adds: in float64, rounded once.

    A first batch's range is that of its accumulators, so that many of them are ties of the grid, all of which go one way
    or the other by the last bit of a scale.
    """
    return ops.cast(ops.mean(ops.cast(ops.abs(ops.stop_gradient(x)), "float64")), "float32")


def _one_bit(quantizer: BaseActivationQuantizer) -> str | None:
    """Why an activation quantizer whose zero point lies in the middle cannot take numbers of both signs."""
    return "1 bit has no code above a zero point in the middle" if quantizer.num_bits == 1 else None


@dataclass(frozen=True)
class LSQWeightQuantizer(BaseWeightQuantizer):
    """Learned step size quantization (LSQ) of a weight (Esser et al., arXiv 1902.08153).

    Codes (equations 1 and 2): c = rint(clip(w / s, -Q_N, Q_P)), value c s, with Q_N = 2^(b-1) (one less if
    ``narrow_range``) and Q_P = 2^(b-1) - 1. Gradients: d(c s)/ds = c - w/s inside the range, -Q_N or Q_P outside
    (equation 3); d(c s)/dw = 1 inside, 0 outside (equation 5). The gradient of s is multiplied by 1 / sqrt(N Q_P), with
    N weights for each scale. s starts at 2 mean|w| / sqrt(Q_P) (sections 2.1 and 2.2), with the weights of the first
    step that quantizes; with ``start`` "mse" at the scale whose codes have the least mean squared error, as LSQ+ does
    (Bhalgat et al., arXiv 2004.09576, section 3.2).

    Parameters: "scale_change", trained, and the state "initial_scale", which is 0 before the first step; both (O,) if
    ``per_channel``.

    Args:
        start: "mean", the default, or "mse": the best of 20 scales up to max|w| / Q_P, moved three times to sum(w c) /
            sum(c c), the best scale for the codes c of the one before.

    Raises:
        QatError: for another ``start``.

    >>> import qat
    >>> print(qat.LSQWeightQuantizer(4, per_channel=True))
    LSQ, 4 bits, symmetric, per channel
    """

    start: str = "mean"

    fixed: ClassVar[dict[str, bool]] = {"symmetric": True}
    label: ClassVar[str] = "LSQ"
    observes_once: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.start not in STARTS:
            raise QatError(f"LSQWeightQuantizer: start is {self.start!r}; use one of {', '.join(map(repr, STARTS))}")

    @property
    def phase_starts(self) -> tuple[int, ...]:
        """Only the first step that quantizes looks at the mean."""
        return (self.quant_delay, self.quant_delay + 1)

    def params(self, shape: Shape) -> dict[str, Param]:
        of = (shape[:1], "vector") if self.per_channel else ((), "scalar")
        return {
            "scale_change": Param(*of, constant(0.0)),  # type: ignore[arg-type]
            "initial_scale": Param(*of, constant(0.0), trainable=False),  # type: ignore[arg-type]
        }

    def observe(self, ops: Ops, weight: Tensor, own: Tensors) -> dict[str, Tensor]:
        known, fixed = own["initial_scale"], ops.cast(ops.stop_gradient(weight), "float64")  # see ``_mean_size``
        if self.start == "mse":
            start = ops.cast(self._least_error(ops, fixed), "float32")
        else:
            wide = {"mask": ops.cast(own["mask"], "float64")} if "mask" in own else {}
            mean = ops.cast(self._mean(ops, ops.abs(fixed), wide), "float32")
            start = mean * (2.0 / math.sqrt(self.qmax))
        return {"initial_scale": ops.where(known > 0.0, known, ops.maximum(start, SMALLEST_SCALE))}

    def _least_error(self, ops: Ops, weight: Tensor) -> Tensor:
        """The scale with the least mean squared error, float64, of a float64 weight. Pruned weights have no error."""
        largest = ops.output_absmax(weight)
        largest = ops.maximum(largest if self.per_channel else ops.max(largest), SMALLEST_SCALE)

        def codes(scale: Tensor) -> Tensor:
            rounded = ops.rint(weight / ops.on_output(scale, weight))
            return ops.minimum(ops.maximum(rounded, float(self.qmin)), float(self.qmax))

        def error(scale: Tensor) -> Tensor:
            off = codes(scale) * ops.on_output(scale, weight) - weight
            return self._mean(ops, off * off)

        best = largest * (1.0 / self.qmax)
        least = error(best)
        for share in range(1, CANDIDATES):
            scale = largest * (share / CANDIDATES / self.qmax)
            found = error(scale)
            best, least = ops.where(found < least, scale, best), ops.minimum(found, least)
        for _ in range(REFINEMENTS):  # the error never grows: the codes of the new scale are the nearest ones
            c = codes(best)
            size = self._mean(ops, c * c)
            best = ops.where(size > 0.0, self._mean(ops, weight * c) / ops.maximum(size, 1e-12), best)
        return best

    def calibrated(self, largest: Array) -> dict[str, Array]:
        """The smallest scale at which the range is not clipped."""
        scale = np.maximum(largest / self.qmax, SMALLEST_SCALE)
        return {"initial_scale": scale, "scale_change": np.zeros_like(scale)}

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

    @property
    def refuses_freezing(self) -> str | None:
        return None

    def rescaled(self, own: Mapping[str, Array], factor: Array) -> dict[str, Array]:
        if not self.per_channel:
            return {}
        return {name: (own[name] * factor).astype(np.float32) for name in ("initial_scale", "scale_change")}


@dataclass(frozen=True)
class LSQActivationQuantizer(BaseActivationQuantizer):
    """Learned step size quantization (LSQ) of an activation (Esser et al., arXiv 1902.08153, equations 1 to 5).

    As LSQWeightQuantizer, where N counts the numbers of one sample; Q_N = 0 and Q_P = 2^b - 1 where activations are
    never negative, else Q_N = 2^(b-1) and Q_P = 2^(b-1) - 1. Without ``symmetric`` the codes are stored unsigned, with
    a fixed zero point of 0 or 2^(b-1). s starts at 2 mean|x| / sqrt(Q_P) of the first batch that is quantized.

    LSQ+ (Bhalgat et al., arXiv 2004.09576, section 3), chosen by ``offset``: where activations can be negative, the
    lowest code stands for a learned beta, and Q_P = 2^b - 1. d(value)/d(beta) = 1 outside the range and 0 inside. Since
    0 must have a code, the zero point is rint(-beta / s), with a straight-through gradient. s and beta start with the
    range of the first batch.

    In the steps before ``quant_delay`` each batch sets these starting values anew, so that the network can be
    evaluated; training starts from those of the first batch after the delay.

    Parameters: "scale_change" and "offset_change", trained. State: "initial_scale", -infinity as long as nothing was
    observed and negative during the delay; "initial_offset".

    Args:
        offset: learn the lower end of the range too (LSQ+); needs symmetric=False. False by default.

    Raises:
        QatError: for ``offset`` with ``symmetric``.

    >>> import qat
    >>> print(qat.LSQActivationQuantizer(4, offset=True))
    LSQ, 4 bits, affine
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
        """Only the first step that quantizes looks at the mean."""
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
        # A negative initial scale is a proposal of the delay: the next batch may replace it, and ``_scale`` uses its size.
        begun, sign = own["initial_scale"] > 0.0, -1.0 if phase < self.quant_delay else 1.0
        if self._has_offset(own):
            low, high = ops.minimum(x.smallest(ops), 0.0), ops.maximum(x.largest(ops), 0.0)
            return {
                "initial_scale": ops.where(begun, own["initial_scale"], self.affine_scale(ops, high - low) * sign),
                "initial_offset": ops.where(begun, own["initial_offset"], low),
            }
        positive_codes = float(self.qmax) - self._zero(non_negative)
        start = ops.maximum(_mean_size(ops, x.real(ops)) * (2.0 / math.sqrt(positive_codes)), SMALLEST_SCALE)
        return {"initial_scale": ops.where(begun, own["initial_scale"], start * sign)}

    def unseen(self, own: Mapping[str, Array]) -> bool:
        return not np.isfinite(own["initial_scale"])

    def calibrated(self, low: float, high: float, non_negative: bool) -> dict[str, float]:
        """The smallest scale at which the range from low to high is not clipped."""
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
        # Another quantizer that shares the grid may have observed nothing yet: its -infinity must not win, nor give NaN.
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
        # The base class's clip gives the scale its gradient; what the offset gets outside the range is added as a term
        # whose value is 0.
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

    y = clip(x, 0, alpha) (equation 1), quantized with s = alpha / (2^b - 1) (equation 2). Gradients (equation 3 and the
    text above it): dy/dalpha = 1 where x >= alpha, else 0; dy/dx = 1 inside, 0 outside. Where activations can be
    negative, which the paper does not treat, it is clip(x, -alpha, alpha) with s = alpha / (2^(b-1) - 1), and dy/dalpha
    = -1 where x <= -alpha.

    Parameter: "alpha", trained. The paper applies weight decay to alpha; here weights alone decay.

    Args:
        initial_alpha: the value with which alpha starts, greater than 0; 10 by default.

    Raises:
        QatError: for an ``initial_alpha`` that is not positive.

    >>> import qat
    >>> print(qat.PACTActivationQuantizer(4, initial_alpha=6.0))
    PACT, 4 bits, affine
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
        """As many codes below the zero point as above it, where there are any below."""
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
        """Without gradient: alpha learns through the codes that are clipped, not through the scale."""
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
        # 0, with the gradient of alpha: a clipped code moves with alpha, in steps of the scale.
        top = self._alpha(ops, own, shared) / y.scale
        return Value(y.data + clipped * (top - ops.stop_gradient(top)), y.scale, codes=True)
