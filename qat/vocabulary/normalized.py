"""An activation that a batch normalisation normalises by its own statistics, before what comes next is known."""

from __future__ import annotations

from typing import Any, ClassVar

Tensor = Any  #: a backend's tensor, as in ``qat.vocabulary.ops``


class Normalized:
    """gamma (x - mean) / sqrt(variance + eps) + beta for each channel, by a batch's own mean and variance.

    A fake quantizer wants codes of it and its range, other cells want real numbers. This form computes the numbers and the rest
    of them; a backend's may go from x to codes at once.

    Attributes:
        waits: whether the numbers are computed only when they are asked for.
        mean: of x, (C,), without gradient.
        variance: of x, divided by n, (C,), without gradient.
    """

    waits: ClassVar[bool] = False

    def __init__(self, ops: Any, x: Tensor, scale: Tensor | None, gamma: Tensor, beta: Tensor, eps: float) -> None:
        self._ops = ops
        real = x if scale is None else x * ops.on_channel(scale, x)
        self._numbers, self.mean, self.variance = ops.batch_norm(real, gamma, beta, eps)

    @property
    def numbers(self) -> Any:
        """The result as real numbers, with the gradient of ``Ops.batch_norm``."""
        return self._numbers

    def rectified(self, bound: float) -> Any:
        """min(max(0, numbers), bound), as real numbers."""
        return self._ops.rectified(self.numbers, bound)

    def largest(self) -> Any:
        """The largest of the numbers, a scalar without gradient."""
        return self._ops.max(self._ops.stop_gradient(self.numbers))

    def smallest(self) -> Any:
        """The smallest of the numbers, a scalar without gradient."""
        return self._ops.min(self._ops.stop_gradient(self.numbers))

    def codes(self, multiplier: Tensor, low: Tensor | float, high: Tensor | float, *, open_low: bool) -> Any:
        """``Ops.requantize`` of the numbers; ``multiplier`` is a scalar."""
        return self._ops.requantize(self.numbers, multiplier, low, high, open_low=open_low)
