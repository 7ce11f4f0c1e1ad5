"""The rounding of the fixed arithmetic in training, over the finer functions of the vocabulary."""

from __future__ import annotations

from typing import Any


def twice_rounded(ops: Any, x: Any, multiplier: Any, low: Any, high: Any) -> Any:
    """clip(x multiplier, low, high) in integers, rounded as the fixed arithmetic does.

    With multiplier = fraction 2^exponent, 1/2 <= fraction < 1: floor(x fraction + 1/2), then this times 2^exponent to
    nearest, ties away from 0; where the exponent is positive, x is multiplied by its power of two first. The product is
    one of float32, so that next to a tie an integer may differ by one from ``FixedMultiplier``.

    Args:
        ops: the vocabulary.
        x: accumulators, a tensor without gradient, as all of these.
        multiplier: broadcast against x.
        low: the lowest result, a tensor or a number.
        high: the highest.

    Returns:
        Integers in float32, shaped like x.
    """
    power = ops.power_of_two_above(multiplier)
    power = ops.where(power > multiplier, power, power * 2.0)  # a power of two is one half of the next
    product = x * (multiplier / power * ops.maximum(power, 1.0))
    nearest = ops.rint(product)
    first = ops.where(product - nearest >= 0.5, nearest + 1.0, nearest)
    # A quarter moves ties away from 0, and nothing else across them.
    y = ops.rint(ops.where(x < 0.0, first - 0.25, first + 0.25) * ops.minimum(power, 1.0))
    return ops.minimum(ops.maximum(y, low), high)
