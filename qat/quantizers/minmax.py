"""Quantizers by range, as MindSpore's ``FakeQuantWithMinMaxObserver``.

The scheme is that of Jacob et al. (arXiv 1712.05877, section 2.1): real = scale * (code - zero_point), where 0 always
has a code.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from qat.errors import QatError
from qat.quantizers.base import BaseActivationQuantizer, BaseWeightQuantizer, Bounds, Tensors, WeightCodes
from qat.vocabulary.ops import Array, Ops, Tensor
from qat.vocabulary.param import Param, constant
from qat.vocabulary.serial import check_share
from qat.vocabulary.values import Value

UNSEEN = {"min": np.inf, "max": -np.inf}  #: the ends of a range before anything was observed


@dataclass(frozen=True)
class WeightQuantizer(BaseWeightQuantizer):
    """Quantizes a weight by its range, which is measured anew in each step.

    Symmetric: scale = max|w| / qmax. Affine: scale = (max(w, 0) - min(w, 0)) / (qmax - qmin) and a zero point. The
    range contains every weight, so the gradient is 1 everywhere, for the extreme weights too.

    Args:
        power_of_two: round the scale up to a power of two, so that rescaling is a bit shift; symmetric only. False by
            default.

    Raises:
        QatError: for ``power_of_two`` without ``symmetric``.

    >>> import numpy as np, qat
    >>> from qat.vocabulary.numpy_ops import NUMPY_OPS
    >>> codes = qat.WeightQuantizer(4).quantize(NUMPY_OPS, np.array([[0.5, -1.75, 0.1]], np.float32))
    >>> codes.centred.tolist(), float(codes.scale[0])
    ([[2.0, -7.0, 0.0]], 0.25)
    """

    power_of_two: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.power_of_two and not self.symmetric:
            raise QatError(
                "WeightQuantizer: power_of_two needs symmetric=True; an affine scale follows from both ends of its range"
            )

    def quantize(
        self, ops: Ops, weight: Tensor, floor: Tensor | None = None, own: Tensors | None = None
    ) -> WeightCodes:
        fixed = ops.stop_gradient(weight)
        if self.symmetric:
            largest = ops.output_absmax(fixed)
            largest = largest if self.per_channel else ops.max(largest)
            scale = self._at_least(ops, self.symmetric_scale(ops, largest), floor)
            # No clip: the largest weight lies on the bound, where the clips of frameworks disagree about the gradient.
            bounds: tuple[float | None, float | None] = (None, None)
            if self.power_of_two:  # power_of_two_above gives at most 2^64, so larger weights have to be clipped
                scale, bounds = ops.power_of_two_above(scale), (-float(self.qmax), float(self.qmax))
            multiplier = ops.on_output(ops.reciprocal(scale), weight)
            return WeightCodes(ops.requantize(weight, multiplier, *bounds), scale, None)
        low, high = (
            (ops.output_min(fixed), ops.output_max(fixed)) if self.per_channel else (ops.min(fixed), ops.max(fixed))
        )
        low, high = ops.minimum(low, 0.0), ops.maximum(high, 0.0)
        scale = self._at_least(ops, self.affine_scale(ops, high - low), floor)
        zero_point = self.zero_point(ops, low, scale)
        # The zero point is rounded, so one end of the range lies up to half a code beyond its code and the other end as much
        # inside: a mask would take the gradient from the extreme weight there. The clip only matters for ties.
        codes = ops.rint(fixed * ops.on_output(ops.reciprocal(scale), weight))
        codes = ops.maximum(codes, ops.on_output(float(self.qmin) - zero_point, weight))
        codes = ops.minimum(codes, ops.on_output(float(self.qmax) - zero_point, weight))
        return WeightCodes(self._straight_through(ops, codes, scale, weight), scale, zero_point)

    def refuses_batch_norm(self, *, folded: bool) -> str | None:
        if self.power_of_two and not folded:
            return "its scales would no longer be powers of two once gamma is multiplied into them"
        return None

    @property
    def refuses_freezing(self) -> str | None:
        return None if self.symmetric else "its zero point follows the range of the weight"


@dataclass(frozen=True)
class ActivationQuantizer(BaseActivationQuantizer):
    """Quantizes an activation by a range that follows the batches as an exponential moving average.

    The first batch sets the range; after that, range = ema_decay * range + (1 - ema_decay) * range of the batch. The
    states "min" and "max" are infinite as long as nothing was observed; where activations are never negative there is
    "max" alone.

    Args:
        ema_decay: weight of the old range in each step, 0 to 1; 0.99 by default.
        power_of_two: round the scale up to a power of two, as the Ascend profile does (docs/ascend.md); symmetric only.
            False by default.

    Raises:
        QatError: for ``power_of_two`` without ``symmetric``, or a decay out of range.

    >>> import qat
    >>> print(qat.ActivationQuantizer(4, quant_delay=100))
    4 bits, affine, from step 100
    """

    ema_decay: float = 0.99
    power_of_two: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_share(self, "ema_decay")
        if self.power_of_two and not self.symmetric:
            raise QatError(
                "ActivationQuantizer: power_of_two needs symmetric=True; an affine scale follows from both ends of its range"
            )

    @property
    def keep_scale(self) -> bool:
        return self.power_of_two

    def symmetric_scale(self, ops: Ops, largest: Tensor, bounds: Bounds | None = None) -> Tensor:
        scale = super().symmetric_scale(ops, largest, bounds)
        return ops.power_of_two_above(scale) if self.power_of_two else scale

    def params(self, non_negative: bool) -> dict[str, Param]:
        ends = ("max",) if non_negative else ("min", "max")
        return {name: Param((), "scalar", constant(UNSEEN[name]), trainable=False) for name in ends}

    def observe(self, ops: Ops, x: Value, own: Tensors, non_negative: bool, *, phase: int) -> dict[str, Tensor]:
        return {
            name: ops.moving_average(own[name], x.smallest(ops) if name == "min" else x.largest(ops), self.ema_decay)
            for name in UNSEEN
            if name in own
        }

    def observe_again(
        self, ops: Ops, x: Value, before: Tensors, own: Tensors, non_negative: bool, *, phase: int
    ) -> dict[str, Tensor]:
        """As if all uses were one batch: a moving average grows with what is averaged, so the extreme one has the batch's."""
        found = self.observe(ops, x, before, non_negative, phase=phase)
        widest = {"min": ops.minimum, "max": ops.maximum}
        return {name: widest[name](own[name], end) for name, end in found.items()}

    def unseen(self, own: Mapping[str, Array]) -> bool:
        return any(own[name] == UNSEEN[name] for name in UNSEEN if name in own)

    def calibrated(self, low: float, high: float, non_negative: bool) -> dict[str, float]:
        return {"max": high} if non_negative else {"min": low, "max": high}

    def grid(
        self, ops: Ops, own: Tensors, shared: Sequence[Tensors], non_negative: bool, features: int = 1
    ) -> tuple[Tensor, Tensor | float]:
        """The common range is the union of all."""
        bounds = self.bounds(ops, own, shared, non_negative)
        lows = [each["min"] for each in (own, *shared) if "min" in each]
        high = own["max"]
        for other in shared:
            high = ops.maximum(high, other["max"])
        if not lows:
            if self.symmetric:
                return self.symmetric_scale(ops, high, bounds), 0.0
            return self.affine_scale(ops, high, bounds), float(self.qmin)
        low, high = ops.minimum(lows[0], 0.0), ops.maximum(high, 0.0)
        for other_low in lows[1:]:
            low = ops.minimum(low, other_low)
        if self.symmetric:
            return self.symmetric_scale(ops, ops.maximum(-low, high), bounds), 0.0
        scale = self.affine_scale(ops, high - low, bounds)
        return scale, self.zero_point(ops, low, scale, bounds)
