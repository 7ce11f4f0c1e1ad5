"""The product of two tensors of codes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np

from qat.integer.fixed_point import FixedMultiplier, product_multiplier
from qat.integer.grid import Grid, IntegerTensor, Requantize, Shape, clip_bounds
from qat.integer.node import Adjustments, Pending, Requantizing
from qat.vocabulary.ops import EXACT_INTEGERS, Array, Ops, Tensor

#: Runtimes that multiply real numbers round up to five times, by 2^-24 of the result each, and then add a zero point of up to
#: 255 before they round to a code, which takes 2^-17 of a code.
TIE_MARGIN, TIE_MARGIN_RELATIVE = 2.0**-16, 6.0 * 2.0**-24
#: With this multiplier, as with any larger one, every product but 0 becomes a bound; runtimes take none of 2^8 and more.
LARGEST_MULTIPLIER = np.float32(255.0)
MOST_NUDGES = 200  #: that are tried at once; where it is hardest every fourth scale will do (docs/numerics.md)


@dataclass(frozen=True, eq=False)
class IntegerMul(Requantizing):
    """y = clip(rint(f32(f32(a b) m))) with m = f32(f32(s_a s_b) / s_y), or 255 where that is larger.

    One of both may be (C, 1, 1) beside (C, H, W).
    Up to 8 bits |a b| is at most 255^2, which float32 holds.
    """

    kind: ClassVar[str] = "a product"
    requantize: Requantize

    @property
    def saturates(self) -> bool:
        """Every product but 0 becomes a bound."""
        return not self.output.grid.wide and bool(self.requantize.multiplier[0] >= LARGEST_MULTIPLIER)

    @property
    def bound(self) -> int:
        """No product of codes is larger."""
        a, b = (max(-x.grid.low, x.grid.high) for x in self.inputs)
        return a * b

    @property
    def bounds(self) -> Array:
        return np.array([self.bound])

    @property
    def wide(self) -> bool:
        return self.bound > EXACT_INTEGERS

    def accumulate(self, ops: Ops, constants: Mapping[str, Tensor], *inputs: Tensor) -> Tensor:
        return inputs[0] * inputs[1]

    @cached_property
    def fixed(self) -> FixedMultiplier:
        """The multiplier of the fixed arithmetic."""
        return product_multiplier(self.name, self.requantize.multiplier, self.bound)


@dataclass(frozen=True)
class Product(Pending):
    """The product of two tensors.

    Attributes:
        name: of the node that it becomes.
        inputs: the tensors that are multiplied.
        shape: of the product.
    """

    name: str
    inputs: tuple[IntegerTensor, IntegerTensor]
    shape: Shape

    @property
    def scale(self) -> np.float32:
        """Of the products of two codes."""
        a, b = self.inputs
        return np.float32(a.grid.scale * b.grid.scale)

    def adjust(self, grid: Grid, group: str, wanted: Adjustments, *, keep_scale: bool) -> None:
        wide = grid.wide or any(x.grid.wide for x in self.inputs)
        if keep_scale or wide:
            return
        tensors = [*self.inputs, IntegerTensor(self.name, self.shape, grid)]
        groups = [*(wanted.groups.get(x.name) for x in self.inputs), group]
        shared = [each == group for each in groups]
        # Where one input shares the output's scale, as in x + x g, the multiplier is the scale of the other one.
        yields = groups[shared.index(False)] if sum(shared) == 2 else group
        nudges = 0
        while yields is not None and nudges < MOST_NUDGES and products_tie((tensors[0], tensors[1]), tensors[2].grid):
            nudges += 1
            tensors = [_raised(x) if each == yields else x for x, each in zip(tensors, groups, strict=True)]
        if yields is not None and nudges:
            wanted.nudges[yields] += nudges

    def requantized(self, grid: Grid) -> IntegerMul:
        ratio = self.scale / grid.scale
        multiplier = np.full(1, ratio if grid.wide else min(ratio, LARGEST_MULTIPLIER), np.float32)
        output = IntegerTensor(self.name, self.shape, grid)
        return IntegerMul(self.name, self.inputs, output, Requantize(multiplier, *clip_bounds(grid, None)))

    def clipped(self) -> IntegerMul:
        return self.requantized(Grid(self.scale, zero_point=0, qmin=-1, qmax=1))


def _raised(x: IntegerTensor) -> IntegerTensor:
    """The same tensor with a scale of one nudge more."""
    return x._replace(grid=x.grid._replace(scale=np.float32(x.grid.scale * np.float32(1.0 + 2.0**-16))))


def products_tie(inputs: tuple[IntegerTensor, ...], grid: Grid) -> bool:
    """True where the product of some two codes lands on, or very near, half a code of ``grid``.

    A runtime may multiply (a s_a) (b s_b) / s_y, and would round such a product either way (docs/numerics.md).
    """
    a, b = (np.arange(x.grid.low, x.grid.high + 1, dtype=np.float64) for x in inputs)
    codes = np.abs(np.outer(a, b)) * (float(inputs[0].grid.scale) * float(inputs[1].grid.scale) / float(grid.scale))
    codes = codes[codes < max(grid.high, -grid.low) + 1]
    return bool((np.abs(codes - np.floor(codes) - 0.5) <= TIE_MARGIN + codes * TIE_MARGIN_RELATIVE).any())
