"""The values that flow along the edges of a graph in training."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

from qat.vocabulary.normalized import Normalized
from qat.vocabulary.ops import Ops, Tensor


@dataclass(frozen=True)
class Value:
    """Real numbers, or integers with a scale, and perhaps a ReLU that is still to be applied.

    The real number is ``data * scale``, then ``min(max(0, .), relu)`` where ``relu`` is set. With a scale, ``data`` are
    integers held in float32: centred codes (code - zero point) after a fake quantizer, accumulators after a
    convolution. The scale is multiplied in once, at the next quantizer, not between cells (docs/numerics.md). Where a
    Concat joins codes of different scales, as after a Dropout, they are converted to one scale and need not be
    integers.

    The ReLU is delayed because the clip of the next quantizer performs it at no cost, and because a max pooling may
    come first: both are monotone, and scales are positive.

    Args:
        data: float32.
        scale: a scalar, or (C,); None: ``data`` are real numbers.
        codes: ``data`` are centred codes with a scalar scale, which a linear cell can use as they are.
        relu: the upper bound of the pending ReLU: infinity for ReLU, 6 for ReLU6; None for none.
        step: of accumulators that ``data`` are only near to, as where a batch's own statistics normalise them: the real number
            that one of them stands for in deployment, as ``scale`` or of the shape of one sample (1, ...), without gradient.
        fixed: the fixed arithmetic makes codes of them, where they are accumulators.
        entering: ``data`` are words of 16 bits that enter, of which both arithmetics make codes by a float32 product.
    """

    data: Tensor
    scale: Tensor | None = None
    codes: bool = False
    relu: float | None = None
    step: Tensor | None = None
    fixed: bool = False
    entering: bool = False

    @staticmethod
    def of(normalized: Normalized, *, relu: float | None = None, step: Tensor | None = None) -> Value:
        """The value of a batch normalisation."""
        if normalized.waits:
            return NormalizedValue(normalized, relu=relu, step=step)
        return Value(normalized.numbers, relu=relu, step=step)

    def real(self, ops: Ops) -> Tensor:
        """The real numbers, with scale and ReLU applied."""
        x = self._unrectified(ops)
        return x if self.relu is None else ops.rectified(x, self.relu)

    def _unrectified(self, ops: Ops) -> Tensor:
        return self.data if self.scale is None else self.data * ops.on_channel(self.scale, self.data)

    def in_steps_of(self, ops: Ops, scale: Tensor) -> Tensor:
        """The codes as multiples of another scale; they need not be integers."""
        own: Tensor = self.scale
        return self.data * ops.on_channel(own / scale, self.data)

    def largest(self, ops: Ops) -> Tensor:
        """The largest real number, a scalar without gradient."""
        # Scales are positive: the largest of a channel times its scale is the largest real number there.
        x = ops.stop_gradient(self.data)
        y = ops.max(x) if self.scale is None else ops.max(ops.channel_max(x) * ops.stop_gradient(self.scale))
        return self._rectified(ops, y)

    def smallest(self, ops: Ops) -> Tensor:
        """The smallest real number, a scalar without gradient."""
        x = ops.stop_gradient(self.data)
        y = ops.min(x) if self.scale is None else ops.min(ops.channel_min(x) * ops.stop_gradient(self.scale))
        return self._rectified(ops, y)

    def _rectified(self, ops: Ops, x: Tensor) -> Tensor:
        if self.relu is None:
            return x
        x = ops.maximum(x, 0.0)
        return x if math.isinf(self.relu) else ops.minimum(x, self.relu)

    def settled(self, ops: Ops) -> Value:
        """Codes unchanged; anything else as real numbers, for a cell that needs one scale for all channels."""
        return self if self.codes else Value(self.real(ops))

    def rectified(self, ops: Ops) -> Value:
        """As real numbers, with scale and ReLU applied, that still round in steps of their accumulators."""
        return Value(self.real(ops), step=self.scale if self.step is None else self.step, fixed=self._rounds_twice)

    @property
    def _rounds_twice(self) -> bool:
        """The fixed arithmetic makes codes of these numbers: they are accumulators."""
        return self.fixed and not (self.codes or self.entering or (self.scale is None and self.step is None))

    def multiplier(self, ops: Ops, scale: Tensor) -> Tensor:
        """The factor that turns ``data`` into multiples of a scale."""
        return ops.on_channel(ops.reciprocal(scale) if self.scale is None else self.scale / scale, self.data)

    def requantized(
        self, ops: Ops, scale: Tensor, low: Tensor | float, high: Tensor | float, *, open_low: bool = False
    ) -> Value:
        """Centred codes of a scale, clip(rint(x m), low, high), with the gradients of ``Ops.requantize``.

        Of accumulators, where the network is trained in the fixed arithmetic, they are its codes, with the same gradients.
        """
        codes = ops.requantize(self.data, self.multiplier(ops, scale), low, high, open_low=open_low)
        if self._rounds_twice:
            step = ops.stop_gradient(self.scale if self.step is None else self.step)
            step = step if len(step.shape) > 1 else ops.on_channel(step, self.data)
            numbers = ops.stop_gradient(self.data if self.step is None else self._unrectified(ops) / step)
            fixed = ops.requantize_fixed(numbers, step / ops.stop_gradient(scale), low, high)
            codes = codes + ops.stop_gradient(fixed - codes)  # exact: these are small integers
        return Value(codes, scale, codes=True)

    def in_fixed_arithmetic(self) -> Value:
        """The same, of which the fixed arithmetic makes codes."""
        return replace(self, fixed=True)

    def with_data(self, data: Tensor) -> Value:
        """The same scale and ReLU with other data, as pooled or reshaped ones."""
        by_place = self.step is not None and len(self.step.shape) > 1  # and the places are others now
        return replace(self, data=data, step=None if by_place else self.step)


class NormalizedValue(Value):
    """Real numbers of a batch normalisation, computed when they are asked for: a fake quantizer makes codes without them.

    ``dataclasses.replace`` would ask for them and refuses: use ``rectified`` or ``with_data``.

    Args:
        normalized: the batch normalisation of an activation.
        relu: as in ``Value``.
        step: as in ``Value``.
    """

    normalized: Normalized

    def __init__(self, normalized: Normalized, *, relu: float | None = None, step: Tensor | None = None) -> None:
        # ``data`` is not set here, and so found below.
        own = {"scale": None, "codes": False, "relu": relu, "step": step, "fixed": False, "entering": False}
        self.__dict__.update(own, normalized=normalized)

    @cached_property
    def data(self) -> Tensor:
        """The real numbers."""
        return self.normalized.numbers

    def real(self, ops: Ops) -> Tensor:
        """As in ``Value``; computed once for all that ask."""
        return self._real

    @cached_property
    def _real(self) -> Tensor:
        return self.data if self.relu is None else self.normalized.rectified(self.relu)

    def largest(self, ops: Ops) -> Tensor:
        """As in ``Value``."""
        return self._rectified(ops, self.normalized.largest())

    def smallest(self, ops: Ops) -> Tensor:
        """As in ``Value``."""
        return self._rectified(ops, self.normalized.smallest())

    def requantized(
        self, ops: Ops, scale: Tensor, low: Tensor | float, high: Tensor | float, *, open_low: bool = False
    ) -> Value:
        """As in ``Value``."""
        codes = self.normalized.codes(ops.reciprocal(scale), low, high, open_low=open_low)
        return Value(codes, scale, codes=True)

    def in_fixed_arithmetic(self) -> Value:
        """As in ``Value``."""
        return Value(self.data, relu=self.relu, step=self.step, fixed=True)

    def with_data(self, data: Tensor) -> Value:
        """As in ``Value``."""
        return Value(data, relu=self.relu, step=self.step).with_data(data)
