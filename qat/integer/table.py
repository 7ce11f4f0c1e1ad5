"""Functions of one number as tables of codes, and the softmax."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from qat.integer.grid import Grid, IntegerTensor
from qat.integer.node import IntegerNode, Pending
from qat.vocabulary.ops import Array, Kind, Ops, Tensor


@dataclass(frozen=True, eq=False)
class IntegerTable(IntegerNode):
    """y = table[x_q - qmin]: any function of one number. table: centred codes, int32, one for each code of the input."""

    kind: ClassVar[str] = "a table of codes"
    table: Array

    def constants(self) -> dict[str, tuple[Array, Kind]]:
        return {"table": (self.table, "vector")}

    def evaluate(self, ops: Ops, constants: Mapping[str, Tensor], *inputs: Tensor) -> Tensor:
        return ops.take(constants["table"], inputs[0] - float(self.inputs[0].grid.low))


@dataclass(frozen=True)
class Function(Pending):
    """A function of one number, applied to each code of a tensor: a table, once its output has a grid.

    Attributes:
        name: of the node that it becomes.
        input: the tensor of codes.
        function: from real numbers to real numbers, float64.
    """

    name: str
    input: IntegerTensor
    function: Callable[[Array], Array]

    def requantized(self, grid: Grid) -> IntegerTable:
        source = self.input.grid
        real = np.arange(source.low, source.high + 1) * float(source.scale)
        table = np.clip(np.rint(self.function(real) / float(grid.scale)), grid.low, grid.high)
        output = IntegerTensor(self.name, self.input.shape, grid)
        return IntegerTable(self.name, (self.input,), output, table.astype(np.int32))

    def clipped(self) -> IntegerTable:
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
