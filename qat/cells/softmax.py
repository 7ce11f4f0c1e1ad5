"""Probabilities."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from qat.cells.base import Cell, Scope, Shape
from qat.cells.shape import axis_of, check_axis
from qat.integer import Grid, IntegerBuilder, IntegerRearrange, IntegerSoftmax, IntegerTensor, require_codes
from qat.integer.widths import bits_of
from qat.vocabulary.ops import EXACT_INTEGERS, Array
from qat.vocabulary.rearrangement import Rearrangement, Step
from qat.vocabulary.values import Value

GRID = Grid(np.float32(1 / 256), zero_point=0, qmin=0, qmax=255)  #: of probabilities, as TFLite has it
FINEST = 2.0**16  #: how many parts e^0 has at most in the table


@dataclass(frozen=True)
class Softmax(Cell):
    """exp(x_c) / sum_k exp(x_k) over the channels, or along another axis; (K,), (C, L) or (C, H, W) to the same.

    As the last cell it turns logits into probabilities; training takes its loss from the logits (``logits_graph``). In
    integers: a table of exponentials of x_c - max_k x_k, their exact sum, one division, and codes of scale 1/256.

    Args:
        axis: of one sample: 0, the default, are the channels, 1 rows, 2 columns; of scores (heads, L, L) it is 2.

    Raises:
        QatError: for an axis that no sample has.

    Example:
        >>> import qat
        >>> qat.Softmax(axis=2).output_shape((4, 49, 49))
        (4, 49, 49)
    """

    axis: int = 0

    output_numbers = "coded"
    output_channels = "fixed"
    non_negative = True
    random = False

    @property
    def code_bits(self) -> int:
        return bits_of(GRID.qmin, GRID.qmax)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_axis("Softmax", self.axis)

    def output_shape(self, *shapes: Shape) -> Shape:
        axis_of(self.axis, shapes[0])
        return shapes[0]

    def _turned(self, shape: Shape) -> Rearrangement:
        """The axis and that of the channels exchanged; done twice, it is as before."""
        axes = list(range(len(shape)))
        axes[0], axes[self.axis] = self.axis, 0
        step = Step(shape, tuple(axes))
        return Rearrangement(shape, step, step.turned)

    def forward(self, scope: Scope, *inputs: Value) -> Value:
        ops = scope.ops
        x = inputs[0].real(ops)
        if self.axis:
            how = self._turned(scope.input_shapes[0])
            y = ops.rearrange(ops.softmax(ops.rearrange(x, how)), how.back)
        else:
            y = ops.softmax(x)
        if not inputs[0].codes:
            return Value(y)
        scale = ops.from_numpy(np.asarray(GRID.scale), "scalar")
        return Value(ops.requantize(y, ops.reciprocal(scale), float(GRID.low), float(GRID.high)), scale, codes=True)

    def to_integer(
        self, builder: IntegerBuilder, name: str, params: Mapping[str, Array], *inputs: Any
    ) -> IntegerTensor:
        x = require_codes(name, inputs[0])
        if self.axis:  # no node's own name has an @
            how = self._turned(x.shape)
            taken = IntegerTensor(f"{name}@turned", how.shape, x.grid)
            y = self._over_channels(
                builder, f"{name}@softmax", builder.add(IntegerRearrange(taken.name, (x,), taken, how))
            )
            output = IntegerTensor(name, x.shape, GRID)
            return builder.add(IntegerRearrange(name, (y,), output, how.back))
        return self._over_channels(builder, name, x)

    @staticmethod
    def _over_channels(builder: IntegerBuilder, name: str, x: IntegerTensor) -> IntegerTensor:
        parts = min(FINEST, EXACT_INTEGERS / 2.0 ** int(np.ceil(np.log2(x.shape[0]))))
        differences = np.arange(x.grid.qmax - x.grid.qmin + 1) * float(x.grid.scale)
        table = np.rint(parts * np.exp(-differences)).astype(np.float32)
        return builder.add(IntegerSoftmax(name, (x,), IntegerTensor(name, x.shape, GRID), table))
