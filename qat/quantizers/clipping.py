"""What learned scales and clips look at: how far a number lies beyond the range, of whatever it is given."""

from __future__ import annotations

import math

from qat.vocabulary.ops import Ops, Tensor
from qat.vocabulary.values import Value


def unbounded(ops: Ops, x: Value, non_negative: bool) -> Value:
    """The activation with the upper bound of a pending ReLU6 applied, or unchanged where there is no such bound.

    A code that this bound clips says nothing about the scale, so a learned scale must not get a gradient from it.
    """
    if x.relu is not None and (not math.isinf(x.relu) or not non_negative):
        return x.rectified(ops)
    return x


def steps_of(ops: Ops, x: Value, scale: Tensor) -> Tensor:
    """x / scale, neither rounded nor clipped, without gradient; ``scale`` is a scalar."""
    return ops.stop_gradient(x.data * x.multiplier(ops, scale))
