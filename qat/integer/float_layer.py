"""Layers that are left in float inside an integer graph, and the step from their real numbers back to codes.

Behind such a layer codes are no longer equal everywhere: runtimes add in other orders, and a sum beside the boundary of two
codes may become either. ``IntegerQuantize.error`` says how far apart the sums were (docs/numerics.md, "Layers left in float").
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from qat.integer.entry import LARGEST_MULTIPLIER
from qat.integer.grid import REAL_NUMBERS, Grid, IntegerTensor, Requantize, Shape, clip_bounds
from qat.integer.node import IntegerNode, Pending
from qat.vocabulary.ops import Array, Kind, Ops, Tensor

#: Of the largest number that a layer gives: how far those of two engines may be apart. Rounding errors of float32 are a hundred
#: to a thousand times smaller, errors of half a code of 8 bits twenty times larger.
TOLERANCE = 1e-4


@dataclass(frozen=True, eq=False)
class FloatLayer(IntegerNode):
    """One cell that is computed in float32, of the real numbers that its inputs' codes stand for.

    Attributes:
        compute: from a vocabulary, the arrays of ``constants()`` and the real numbers of each input, as this vocabulary's
            tensors, to the cell's real numbers. Targets call it with the vocabulary that writes their file.
        params: of the cell, batch normalisation folded in.
    """

    compute: Callable[..., Tensor]
    params: Mapping[str, tuple[Array, Kind]]

    kind: ClassVar[str] = "a layer that is left in float (quantize: false)"

    @classmethod
    def of(
        cls,
        name: str,
        inputs: tuple[IntegerTensor, ...],
        shape: Shape,
        compute: Callable[..., Tensor],
        params: Mapping[str, tuple[Array, Kind]],
    ) -> FloatLayer:
        """The layer of a node; shape: of its output."""
        return cls(name, inputs, IntegerTensor(name, shape, REAL_NUMBERS), compute, params)

    @property
    def numbers(self) -> int:
        """How many its parameters are."""
        return sum(array.size for array, _ in self.params.values())

    def constants(self) -> dict[str, tuple[Array, Kind]]:
        return dict(self.params)

    def evaluate(self, ops: Ops, constants: Mapping[str, Tensor], *inputs: Tensor) -> Tensor:
        """Real numbers, as everything else computes them but for rounding."""
        real = [x if of.grid.real else x * float(of.grid.scale) for x, of in zip(inputs, self.inputs, strict=True)]
        return self.compute(ops, constants, *real)


@dataclass(frozen=True, eq=False)
class IntegerQuantize(IntegerNode):
    """y = clip(rint(f32(x m)), low, high): centred codes of real numbers. requantize: with m = 1 / s_y, (1,)."""

    requantize: Requantize

    kind: ClassVar[str] = "codes of real numbers"

    def constants(self) -> dict[str, tuple[Array, Kind]]:
        return {"multiplier": (self.requantize.multiplier, "scalar")}

    def evaluate(self, ops: Ops, constants: Mapping[str, Tensor], *inputs: Tensor) -> Tensor:
        low, high = float(self.requantize.low), float(self.requantize.high)
        with np.errstate(over="ignore"):  # an infinite product is clipped to a bound
            return ops.requantize(inputs[0], constants["multiplier"], low, high)

    def error(self, real: Array, codes: Array) -> Array:
        """How far real numbers are at least from those that have been made these centred codes; 0 where they have the codes."""
        step = np.float64(1.0) / np.float64(self.requantize.multiplier[0])
        below = np.where(codes <= self.requantize.low, np.inf, real - (codes - 0.5) * step)
        above = np.where(codes >= self.requantize.high, np.inf, (codes + 0.5) * step - real)
        outside: Array = np.maximum(np.maximum(-below, -above), 0.0)
        return outside


@dataclass(frozen=True)
class RealNumbers(Pending):
    """The real numbers of a layer that is left in float, for the fake quantizer after it.

    Attributes:
        name: of the node that it becomes.
        input: the tensor of real numbers.
    """

    name: str
    input: IntegerTensor

    def requantized(self, grid: Grid) -> IntegerQuantize:
        multiplier = np.full(1, np.float32(1.0) / grid.scale, np.float32)
        output = IntegerTensor(self.name, self.input.shape, grid)
        requantize = Requantize(multiplier, *clip_bounds(grid, None))
        return IntegerQuantize(self.name, (self.input,), output, requantize)

    def clipped(self) -> IntegerQuantize:
        grid = Grid(np.float32(1.0 / LARGEST_MULTIPLIER), zero_point=0, qmin=-1, qmax=1)
        output = IntegerTensor(f"{self.name}.sign", self.input.shape, grid)
        requantize = Requantize(np.full(1, LARGEST_MULTIPLIER, np.float32), -1, 1)
        return IntegerQuantize(output.name, (self.input,), output, requantize)
