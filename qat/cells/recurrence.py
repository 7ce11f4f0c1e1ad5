"""Cells of recurrences: where a state begins, and how it is carried from one step to the next."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from qat.cells.base import Cell, Scope, Shape, check_counts
from qat.errors import QatError
from qat.integer import Function, IntegerBuilder, IntegerPick, IntegerTensor, require_codes, require_one_grid
from qat.vocabulary.ops import Array
from qat.vocabulary.values import Value


@dataclass(frozen=True)
class ZeroState(Cell):
    """Zeros, (units,), with which the state of a recurrence begins. Of its input, a row, only the number of samples counts.

    Args:
        units: how many.

    Raises:
        QatError: for no units.

    Example:
        >>> import qat
        >>> qat.ZeroState(16).output_shape((8,))
        (16,)
    """

    units: int

    output_numbers = "computed"
    output_channels = "new"
    non_negative = True
    random = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_counts("ZeroState", units=self.units)

    def with_channels(self, outputs: int, inputs: int) -> ZeroState:
        return replace(self, units=outputs)

    def output_shape(self, *shapes: Shape) -> Shape:
        (x,) = shapes
        if len(x) != 1:
            raise QatError(f"takes a row, (F,), but gets {x}; put a Flatten before it")
        return (self.units,)

    def forward(self, scope: Scope, *inputs: Value) -> Value:
        x = inputs[0].settled(scope.ops)
        return Value(scope.ops.pick(x.data, 0, (0,) * self.units) * 0.0)

    def to_integer(self, builder: IntegerBuilder, name: str, params: Mapping[str, Array], *inputs: Any) -> Function:
        x = require_codes(name, inputs[0])
        picked = builder.add(IntegerPick.of(f"{name}.places", x, {0: (0,) * self.units}))
        return Function(name, picked, np.zeros_like)


@dataclass(frozen=True)
class OneGrid(Cell):
    """The first of its inputs, whose codes have the grid of the others.

    The state of a recurrence goes from one step to the next in codes: ``OneGrid()(state, previous)`` lets both have one grid,
    so that a network of one step can be given, as its input, the codes that it gave before.

    Example:
        >>> import qat
        >>> qat.OneGrid().output_shape((16,), (16,))
        (16,)
    """

    arity = None
    output_numbers = "moved"
    output_channels = "kept"
    non_negative = False
    random = False
    one_grid = True

    def output_shape(self, *shapes: Shape) -> Shape:
        different = [shape for shape in shapes if shape != shapes[0]]
        if different:
            raise QatError(f"takes states of one shape, but gets {shapes[0]} and {different[0]}; make them equal")
        return shapes[0]

    def forward(self, scope: Scope, *inputs: Value) -> Value:
        return inputs[0].settled(scope.ops)

    def to_integer(
        self, builder: IntegerBuilder, name: str, params: Mapping[str, Array], *inputs: Any
    ) -> IntegerTensor:
        return require_one_grid(name, *inputs)[0]
