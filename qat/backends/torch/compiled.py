"""PyTorch: compiled functions, and what they are written with because the code that torch.compile makes of the rest is slow."""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType
from typing import Any

import torch

Tensor = torch.Tensor


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, compiled by itself: torch counts compilations for each code object, here a new one each time, and after
    eight of one it would compile no more, whatever network they were of.
    """

    def call(*arguments: Any) -> Any:
        return function(*arguments)

    own = FunctionType(call.__code__.replace(), call.__globals__, call.__name__, None, call.__closure__)
    return torch.compile(own, dynamic=False)


class Clipped(torch.autograd.Function):
    """rint(clip(u, low, high)), straight through the rounding; for compiled passes.

    Where the clip changes nothing is kept as bytes. Booleans, as a comparison gives them, are written one by one by code that
    PyTorch 2.13 generates for a CPU, forty times as slowly.
    """

    @staticmethod
    def forward(ctx: Any, u: Tensor, low: Tensor | float, high: Tensor | float) -> Tensor:
        """The codes."""
        clipped = torch.clamp(u, low, high)  # type: ignore[arg-type]
        ctx.save_for_backward((1.0 - (u - clipped).sign().abs()).to(torch.int8))
        return clipped.round()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """The gradient of u."""
        (inside,) = ctx.saved_tensors
        return gradient * inside, None, None


class _Settled(torch.autograd.Function):
    """The same, as a view: torch's compiler stores what a view by strides is of, where it would write the operations of an
    expression out wherever it is used.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.as_strided(x.shape, x.stride())

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


def settled(x: Tensor) -> Tensor:
    """A number, or one for each channel, that much is computed with. Compiled code computes it once; by itself it would divide
    and round anew for every few elements of an activation, which takes most of a fake quantizer's time.
    """
    return _Settled.apply(x) if torch.compiler.is_compiling() else x  # type: ignore[no-untyped-call]
