"""The values that flow along the edges of a graph in training."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

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
    """

    data: Tensor
    scale: Tensor | None = None
    codes: bool = False
    relu: float | None = None

    def real(self, ops: Ops) -> Tensor:
        """The real numbers, with scale and ReLU applied."""
        x = self.data if self.scale is None else self.data * ops.on_channel(self.scale, self.data)
        if self.relu is None:
            return x
        x = ops.relu(x)
        return x if math.isinf(self.relu) else ops.minimum(x, self.relu)

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

    def with_data(self, data: Tensor) -> Value:
        """The same scale and ReLU with other data, as pooled or reshaped ones."""
        return replace(self, data=data)
