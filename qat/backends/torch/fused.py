"""PyTorch: normalising by a batch's own statistics and making codes, each as one function with a gradient of its own.

Of the time of a training step on a CPU, convolutions apart, nearly all is spent on bringing activations through memory, and
most of that on memory that is new. So these functions write one new tensor, work in place on it, and keep nothing but their
input and a few vectors: the backward pass computes again what the gradient needs. Compiled passes do without them: there the
compiler does it.
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch.autograd.function import once_differentiable

from qat.vocabulary.clip import TINY, reach
from qat.vocabulary.normalized import Normalized

Tensor = torch.Tensor

#: Sums give the variance as a difference, mean(x^2) - mean(x)^2. Where mean(x)^2 is so many times the variance, float32 has too
#: few digits for it: the larger a picture, the more, as its sums round by steps that grow with them.
LARGEST_SQUARED_MEAN = 10.0
FEWEST_PLACES = 16  #: of a channel, in a sample, from which on it is faster to sum rows


class Bounds:
    """A lowest and a highest code. What is rounded to one of them has a gradient, what lies beyond has none."""

    def __init__(self, low: Tensor | float, high: Tensor | float, *, open_low: bool) -> None:
        self.low, self.high = (float(x.detach() if isinstance(x, Tensor) else x) for x in (low, high))
        below, above = reach(self.low, self.high, open_low=open_low)
        # hardtanh's gradient is 0 at its bounds.
        self.below, self.above = below if open_low else below - TINY, above + TINY

    def clipped(self, u: Tensor) -> Tensor:
        """In place."""
        return u.clamp_(self.low, self.high)

    def masked(self, gradient: Tensor, u: Tensor) -> Tensor:
        """The gradient of u, in its memory."""
        return torch.ops.aten.hardtanh_backward.grad_input(gradient, u, self.below, self.above, grad_input=u)  # type: ignore[no-any-return]


def suits(x: Tensor, *bounds: Tensor | float) -> bool:
    """Whether these functions may be used: bounds are single numbers, and where they are tensors a GPU would have to be waited
    for.
    """
    recorded = torch.compiler.is_compiling() or torch.jit.is_tracing()  # type: ignore[attr-defined,no-untyped-call]
    return not recorded and not any(isinstance(bound, Tensor) and (bound.ndim or not x.is_cpu) for bound in bounds)


class Requantized(torch.autograd.Function):
    """``Ops.requantize`` between two bounds."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, multiplier: Tensor, bounds: Bounds) -> Tensor:
        """The codes."""
        ctx.save_for_backward(x, multiplier)
        ctx.bounds = bounds
        return bounds.clipped(x * multiplier).round_()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients of x and of the multiplier."""
        x, multiplier = ctx.saved_tensors
        gradient = ctx.bounds.masked(gradient, x * multiplier)
        of_multiplier = (gradient * x).sum_to_size(multiplier.shape) if ctx.needs_input_grad[1] else None
        return gradient.mul_(multiplier) if ctx.needs_input_grad[0] else None, of_multiplier, None


@np.errstate(over="ignore", invalid="ignore")  # of a training that diverges PyTorch would not warn either
def statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of each channel, the latter divided by n.

    From sums, which is several times as fast as PyTorch's own way. NumPy computes with vectors: its calls take less time.
    """
    if not x.is_cpu or x.ndim == 2 or math.prod(x.shape[2:]) < FEWEST_PLACES:
        return torch.batch_norm_update_stats(x, None, None, 0.0)
    rows = x.flatten(2)
    count = rows.shape[0] * rows.shape[2]
    mean = rows.sum(2).numpy().sum(axis=0, dtype=np.float64) / count
    norms = torch.linalg.vector_norm(rows, dim=2).numpy().astype(np.float64)
    square = mean * mean
    variance = (norms * norms).sum(axis=0) / count - square
    if (square > LARGEST_SQUARED_MEAN * variance).any():
        return torch.batch_norm_update_stats(x, None, None, 0.0)
    return torch.from_numpy(mean.astype(np.float32)), torch.from_numpy(variance.astype(np.float32))


class TorchNormalized(Normalized):
    """See ``Normalized``. Real numbers and codes are computed of x when they are asked for.

    With x in steps of ``scale``, gamma (scale x - mean) / sqrt(variance + eps) is gamma r (x - mean(x)), where r is
    scale / sqrt(variance + eps): x itself need not be multiplied. A channel whose weights are all 0 has a scale near 2^-60,
    of which float32 holds neither the cube nor eps / scale^2, but r.
    """

    waits = True

    def __init__(self, ops: Any, x: Tensor, scale: Tensor | None, gamma: Tensor, beta: Tensor, eps: float) -> None:
        self._ops, self._x, self._scale, self._gamma, self._beta, self._eps = ops, x, scale, gamma, beta, eps
        with torch.no_grad():
            self._mean, variance = statistics(x)
            self.mean = self._mean if scale is None else self._mean * scale
            self.variance = variance if scale is None else variance * scale.square()
            self._r = (self.variance + eps).rsqrt() * (1.0 if scale is None else scale)

    def _apply(self, multiplier: Tensor | None = None, bounds: Bounds | None = None) -> Tensor:
        found: Tensor = _Normalized.apply(  # type: ignore[no-untyped-call]
            self._x, self._scale, self._gamma, self._beta, multiplier, self._mean, self._r, self._eps, bounds
        )
        return found

    @cached_property
    def numbers(self) -> Tensor:
        return self._apply()

    def rectified(self, bound: float) -> Tensor:
        return self._apply(bounds=Bounds(0.0, bound, open_low=True))

    def codes(self, multiplier: Tensor, low: Tensor | float, high: Tensor | float, *, open_low: bool) -> Tensor:
        if not suits(self._x, low, high):
            codes: Tensor = super().codes(multiplier, low, high, open_low=open_low)
            return codes
        return self._apply(multiplier, Bounds(low, high, open_low=open_low))

    def largest(self) -> Tensor:
        return self._extreme(1.0)

    def smallest(self) -> Tensor:
        return -self._extreme(-1.0)

    @torch.no_grad()
    @np.errstate(over="ignore", invalid="ignore")
    def _extreme(self, sign: float) -> Tensor:
        """The largest of the numbers times a sign. Where a channel's factor is negative, its smallest x gives its largest."""
        if not self._x.is_cpu:  # a comparison that decides what is computed would wait for it
            factor = sign * self._gamma * self._r
            ends = torch.where(factor >= 0.0, self._ops.channel_max(self._x), self._ops.channel_min(self._x))
            return torch.addcmul(sign * self._beta - self._mean * factor, ends, factor).amax()
        gamma, beta, mean, r = (v.detach().numpy() for v in (self._gamma, self._beta, self._mean, self._r))
        factor = sign * gamma * r
        rising = factor >= 0.0
        largest = self._ops.channel_max(self._x).numpy() if rising.any() else 0.0
        smallest = self._ops.channel_min(self._x).numpy() if not rising.all() else 0.0
        found = (np.where(rising, largest, smallest) - mean) * factor + sign * beta
        return torch.tensor(found.max())


class _Normalized(torch.autograd.Function):
    """(x - mean) r gamma + beta, clipped where there are bounds; with a multiplier its codes."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        scale: Tensor | None,
        gamma: Tensor,
        beta: Tensor,
        multiplier: Tensor | None,
        mean: Tensor,
        r: Tensor,
        eps: float,
        bounds: Bounds | None,
    ) -> Tensor:
        ctx.eps, ctx.bounds = eps, bounds
        u = _normalized(x, gamma, beta, multiplier, mean, r)
        u = u if bounds is None else bounds.clipped(u)
        u = u if multiplier is None else u.round_()
        # Clipped numbers tell where the gradient is 0, and whatever comes behind keeps them in any case; codes do not tell.
        clipped = u if bounds is not None and multiplier is None else None
        ctx.save_for_backward(x, scale, gamma, beta, multiplier, mean, r, clipped)
        return u

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, scale, gamma, beta, multiplier, mean, r, clipped = ctx.saved_tensors
        if clipped is not None:
            gradient = torch.ops.aten.hardtanh_backward(gradient, clipped, ctx.bounds.low, ctx.bounds.high)
        elif ctx.bounds is not None:
            gradient = ctx.bounds.masked(gradient, _normalized(x, gamma, beta, multiplier, mean, r))
        weight = gamma if multiplier is None else gamma * multiplier
        of_x, of_weight, of_bias = torch.ops.aten.native_batch_norm_backward(
            gradient, x, weight, None, None, mean, r, True, 0.0, [ctx.needs_input_grad[0], True, True]
        )
        of_scale = of_multiplier = None
        if ctx.needs_input_grad[1]:  # d(ln r) / d(ln scale) = eps / (variance + eps) = eps (r / scale)^2
            of_scale = (weight * of_weight * ctx.eps * (r / scale).square() / scale).sum_to_size(scale.shape)
        if multiplier is not None:
            if ctx.needs_input_grad[4]:
                of_multiplier = (of_weight * gamma + of_bias * beta).sum()
            of_weight, of_bias = of_weight * multiplier, of_bias * multiplier
        return of_x, of_scale, of_weight, of_bias, of_multiplier, None, None, None, None


def _normalized(x: Tensor, gamma: Tensor, beta: Tensor, multiplier: Tensor | None, mean: Tensor, r: Tensor) -> Tensor:
    if multiplier is not None:
        gamma, beta = gamma * multiplier, beta * multiplier
    return torch.native_batch_norm(x, gamma * r, beta, mean, torch.ones_like(mean), False, 0.0, 0.0)[0]
