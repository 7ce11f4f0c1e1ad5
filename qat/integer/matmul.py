"""The matrix product of two tensors of codes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np

from qat.errors import QatError
from qat.integer.fixed_point import FixedMultiplier, product_multiplier
from qat.integer.grid import Grid, IntegerTensor, Requantize, Shape, clip_bounds
from qat.integer.linear import EXACT_LONG, INT32_MAX
from qat.integer.mul import LARGEST_MULTIPLIER
from qat.integer.node import Pending, Requantizing
from qat.vocabulary.ops import EXACT_INTEGERS, Array, Ops, Tensor

Flags = tuple[bool, bool]


@dataclass(frozen=True, eq=False)
class IntegerMatMul(Requantizing):
    """y = clip(rint(f32(sum_k a_ik b_kj) m)) with m = f32(f32(s_a s_b) / s_y), or 255 where that is larger.

    Attributes:
        requantize: the multiplier, one number, and the clip.
        transpose: whether the last two axes of either input are exchanged first.
    """

    kind: ClassVar[str] = "a matrix product"
    requantize: Requantize
    transpose: Flags

    @property
    def length(self) -> int:
        """The number of products of a sum."""
        return self.inputs[0].shape[-2 if self.transpose[0] else -1]

    @property
    def bound(self) -> int:
        """No sum of products, in whatever order, is larger."""
        a, b = (max(-x.grid.low, x.grid.high) for x in self.inputs)
        return self.length * a * b

    @property
    def bounds(self) -> Array:
        return np.array([self.bound])

    @property
    def wide(self) -> bool:
        return self.bound > EXACT_INTEGERS

    @property
    def saturates(self) -> bool:
        """Every sum but 0 becomes a bound."""
        return not self.output.grid.wide and bool(self.requantize.multiplier[0] >= LARGEST_MULTIPLIER)

    def check_range(self) -> None:
        long = any(x.grid.wide for x in self.inputs)
        if self.bound > (EXACT_LONG if long else INT32_MAX):
            raise QatError(
                f"{self.name}: adds {self.length} products of codes, which may reach {self.bound}, more than an accumulator "
                "holds; use fewer bits, or shorter rows"
            )

    def accumulate(self, ops: Ops, constants: Mapping[str, Tensor], *inputs: Tensor) -> Tensor:
        return ops.matmul(*inputs, transpose=self.transpose, wide=self.wide)

    @cached_property
    def fixed(self) -> FixedMultiplier:
        """The multiplier of the fixed arithmetic: a float32 product of scales, divided in float64, as LiteRT has it."""
        if self.output.grid.wide or any(x.grid.wide for x in self.inputs):
            raise QatError(
                f"{self.name}: multiplies matrices of codes of more than 8 bits, which the fixed arithmetic does not; use "
                "8 bits, or use --arithmetic float"
            )
        multiplier = self.requantize.multiplier.astype(np.float64)
        if not self.saturates:
            a, b = self.inputs
            multiplier = np.float64(a.grid.scale * b.grid.scale) / np.full(1, self.output.grid.scale, np.float64)
        return product_multiplier(self.name, multiplier, self.bound)


@dataclass(frozen=True)
class MatrixProduct(Pending):
    """The matrix product of two tensors.

    Attributes:
        name: of the node that it becomes.
        inputs: the tensors that are multiplied.
        shape: of the product.
        transpose: as of ``IntegerMatMul``.
    """

    name: str
    inputs: tuple[IntegerTensor, IntegerTensor]
    shape: Shape
    transpose: Flags

    @property
    def scale(self) -> np.float32:
        """Of the products of two codes."""
        a, b = self.inputs
        return np.float32(a.grid.scale * b.grid.scale)

    def requantized(self, grid: Grid) -> IntegerMatMul:
        ratio = self.scale / grid.scale
        multiplier = np.full(1, ratio if grid.wide else min(ratio, LARGEST_MULTIPLIER), np.float32)
        output = IntegerTensor(self.name, self.shape, grid)
        requantize = Requantize(multiplier, *clip_bounds(grid, None))
        return IntegerMatMul(self.name, self.inputs, output, requantize, self.transpose)

    def clipped(self) -> IntegerMatMul:
        return self.requantized(Grid(self.scale, zero_point=0, qmin=-1, qmax=1))
