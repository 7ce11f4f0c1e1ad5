"""Functions of one number as tables of codes, and the softmax."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from qat.errors import QatError
from qat.integer.grid import Grid, IntegerTensor
from qat.integer.node import IntegerNode, Pending
from qat.vocabulary.ops import EXACT_INTEGERS, Array, Kind, Ops, Tensor


@dataclass(frozen=True, eq=False)
class IntegerTable(IntegerNode):
    """y = table[x_q - qmin]: any function of one number. table: centred codes, int32, one for each code of the input."""

    kind: ClassVar[str] = "a table of codes"
    table: Array

    def constants(self) -> dict[str, tuple[Array, Kind]]:
        return {"table": (self.table, "vector")}

    def evaluate(self, ops: Ops, constants: Mapping[str, Tensor], *inputs: Tensor) -> Tensor:
        return ops.take(constants["table"], inputs[0] - float(self.inputs[0].grid.low))


@dataclass(frozen=True, eq=False)
class IntegerChannelTable(IntegerNode):
    """y = table[c, x_q - qmin]: a function of one number for each channel. table: centred codes, int32, (C, codes)."""

    kind: ClassVar[str] = "a table of codes for each channel"
    table: Array

    @property
    def first(self) -> Array:
        """Where the code 0 around the zero point stands in the tables, one behind another, (C,)."""
        channels, codes = self.table.shape
        return np.arange(channels, dtype=np.int32) * codes - self.inputs[0].grid.low

    def constants(self) -> dict[str, tuple[Array, Kind]]:
        return {"table": (self.table.ravel(), "vector"), "first": (self.first, "vector")}

    def evaluate(self, ops: Ops, constants: Mapping[str, Tensor], *inputs: Tensor) -> Tensor:
        (x,) = inputs
        return ops.take(constants["table"], x + ops.on_channel(constants["first"], x))

    def check_range(self) -> None:
        if self.table.size > EXACT_INTEGERS:
            raise QatError(
                f"{self.name}: its tables have {self.table.size} entries, more than float32 counts; use fewer channels"
            )


@dataclass(frozen=True)
class Function(Pending):
    """A function of one number, applied to each code of a tensor: a table, once its output has a grid.

    Attributes:
        name: of the node that it becomes.
        input: the tensor of codes.
        function: from real numbers to real numbers, float64; to (C, numbers) where each channel has a function of its own.
    """

    name: str
    input: IntegerTensor
    function: Callable[[Array], Array]

    def requantized(self, grid: Grid) -> IntegerTable | IntegerChannelTable:
        source = self.input.grid
        real = np.arange(source.low, source.high + 1) * float(source.scale)
        table = np.clip(np.rint(self.function(real) / float(grid.scale)), grid.low, grid.high)
        output = IntegerTensor(self.name, self.input.shape, grid)
        node = IntegerTable if table.ndim == 1 else IntegerChannelTable
        return node(self.name, (self.input,), output, table.astype(np.int32))

    def clipped(self) -> IntegerTable | IntegerChannelTable:
        signs = replace(self, function=lambda real: np.sign(self.function(real)))
        return signs.requantized(Grid(np.float32(1.0), zero_point=0, qmin=-1, qmax=1))


@dataclass(frozen=True, eq=False)
class IntegerSoftmax(IntegerNode):
    """y = min(rint(e_c * f32(256 / sum_k e_k)), 255), e_c = table[max_k x_k - x_c], over the channels.

    table: rint(2^t exp(-d s_x)) for d = 0, 1, ..., float32, (number of input codes,); its sums stay exact. The scale of y
    is 1/256 and its zero point 0, as TFLite's softmax has them (with -128 for int8).
    """

    kind: ClassVar[str] = "a softmax"
    table: Array

    def constants(self) -> dict[str, tuple[Array, Kind]]:
        return {"table": (self.table, "vector")}

    def evaluate(self, ops: Ops, constants: Mapping[str, Tensor], *inputs: Tensor) -> Tensor:
        (x,) = inputs
        e = ops.take(constants["table"], ops.max_over_channels(x) - x)
        share = 256.0 / ops.sum_over_channels(e)
        return ops.minimum(ops.rint(e * share), 255.0)
