"""The sum of two tensors of codes, and their difference."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import ClassVar

import numpy as np

from qat.integer.fixed_point import ADD_SHIFT, LONG_ADD_SHIFT, FixedSum, sum_multipliers
from qat.integer.grid import Grid, IntegerTensor, Requantize, clip_bounds
from qat.integer.node import Adjustments, Pending, Requantizing
from qat.vocabulary.ops import Array, Ops, Tensor

TIE_MARGIN = 2.0**-12  #: of a code: runtimes round a s + b s differently by less


@dataclass(frozen=True, eq=False)
class IntegerSum(Requantizing):
    """Base of the nodes y = clip(rint(f32(a + sign b) m)) of two tensors of one grid, m = s / s_y.

    One of both may be (C, 1, 1) beside (C, H, W).
    """

    requantize: Requantize

    @property
    @abstractmethod
    def sign(self) -> int:
        """1 of a sum, -1 of a difference."""

    @property
    def bounds(self) -> Array:
        return np.array([sum(max(-x.grid.low, x.grid.high) for x in self.inputs)])

    def accumulate(self, ops: Ops, constants: Mapping[str, Tensor], *inputs: Tensor) -> Tensor:
        a, b = inputs
        return a + b if self.sign > 0 else a - b

    @cached_property
    def fixed(self) -> FixedSum:
        """The multipliers of the fixed arithmetic."""
        a, y = self.inputs[0].grid, self.output.grid
        return sum_multipliers(self.name, a.scale, y.scale, long=a.wide or y.wide)


@dataclass(frozen=True, eq=False)
class IntegerAdd(IntegerSum):
    """y = clip(rint(f32(a + b) m)): the sum of two tensors of one grid."""

    kind: ClassVar[str] = "addition"
    sign = 1


@dataclass(frozen=True, eq=False)
class IntegerSub(IntegerSum):
    """y = clip(rint(f32(a - b) m)): the difference of two tensors of one grid."""

    kind: ClassVar[str] = "subtraction"
    sign = -1


@dataclass(frozen=True)
class Sum(Pending):
    """The sum, or difference, of two tensors of one grid.

    Attributes:
        name: of the node that it becomes.
        inputs: the tensors that are added.
        relu: the upper bound of the ReLU that is still to be applied; None: no ReLU.
        node: the class of the node.
    """

    name: str
    inputs: tuple[IntegerTensor, IntegerTensor]
    relu: float | None
    node: type[IntegerSum] = IntegerAdd

    def ties(self, grid: Grid) -> bool:
        """As ``sums_tie``, where the sum has that grid."""
        return sums_tie(self.inputs[0].grid, grid, -1 if self.node is IntegerSub else 1)

    def adjust(self, grid: Grid, group: str, wanted: Adjustments, *, keep_scale: bool) -> None:
        # ONNX Runtime converts a sum to int32 before it clips, and TFLite shifts one by 20 bits, or 15: a dead output's
        # scale must not make them overflow.
        source = self.inputs[0].grid
        wide = grid.wide or source.wide
        smallest = np.float32(source.scale * np.float32(2.0 ** (2 - (LONG_ADD_SHIFT if wide else ADD_SHIFT))))
        if grid.scale < smallest:
            wanted.floors[group] = smallest
        elif not (keep_scale or wide) and self.ties(grid):  # of the many sums of wide codes some are always next to one
            wanted.nudges[group] += 1

    def requantized(self, grid: Grid) -> IntegerSum:
        a, b = self.inputs
        multiplier = np.full(1, a.grid.scale / grid.scale, np.float32)
        output = IntegerTensor(self.name, max(a.shape, b.shape, key=prod), grid)
        return self.node(self.name, self.inputs, output, Requantize(multiplier, *clip_bounds(grid, self.relu)))

    def clipped(self) -> IntegerSum:
        return self.requantized(Grid(self.inputs[0].grid.scale, zero_point=0, qmin=-1, qmax=1))


def sums_tie(source: Grid, grid: Grid, sign: int = 1) -> bool:
    """True where the sum of some two codes of ``source``, or with sign -1 their difference, lands on, or very near, half a code
    of ``grid``.

    A runtime may compute a s + b s before it divides, and would round such a sum either way (docs/numerics.md).
    """
    second = sorted((sign * source.low, sign * source.high))
    codes = np.arange(source.low + second[0], source.high + second[1] + 1) * (float(source.scale) / float(grid.scale))
    codes = codes[(codes > grid.low - 1) & (codes < grid.high + 1)]
    return bool((np.abs(codes - np.floor(codes) - 0.5) < TIE_MARGIN).any())
