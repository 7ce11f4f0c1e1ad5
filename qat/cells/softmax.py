"""Probabilities."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from qat.cells.base import Cell, Scope, Shape
from qat.integer import Grid, IntegerBuilder, IntegerSoftmax, IntegerTensor, require_codes
from qat.integer.widths import bits_of
from qat.vocabulary.ops import EXACT_INTEGERS, Array
from qat.vocabulary.values import Value

GRID = Grid(np.float32(1 / 256), zero_point=0, qmin=0, qmax=255)  #: of probabilities, as TFLite has it
FINEST = 2.0**16  #: how many parts e^0 has at most in the table


@dataclass(frozen=True)
class Softmax(Cell):
    """exp(x_c) / sum_k exp(x_k) over the channels; (K,) or (C, H, W) to the same.

    As the last cell it turns logits into probabilities; training takes its loss from the logits (``logits_graph``). In
    integers: a table of exponentials of x_c - max_k x_k, their exact sum, one division, and codes of scale 1/256.
    """

    output_numbers = "coded"
    output_channels = "fixed"
    non_negative = True
    random = False

    @property
    def code_bits(self) -> int:
        return bits_of(GRID.qmin, GRID.qmax)

    def output_shape(self, *shapes: Shape) -> Shape:
        return shapes[0]

    def forward(self, scope: Scope, *inputs: Value) -> Value:
        ops = scope.ops
        y = ops.softmax(inputs[0].real(ops))
        if not inputs[0].codes:
            return Value(y)
        scale = ops.from_numpy(np.asarray(GRID.scale), "scalar")
        return Value(ops.requantize(y, ops.reciprocal(scale), float(GRID.low), float(GRID.high)), scale, codes=True)

    def to_integer(
        self, builder: IntegerBuilder, name: str, params: Mapping[str, Array], *inputs: Any
    ) -> IntegerTensor:
        x = require_codes(name, inputs[0])
        parts = min(FINEST, EXACT_INTEGERS / 2.0 ** int(np.ceil(np.log2(x.shape[0]))))
        differences = np.arange(x.grid.qmax - x.grid.qmin + 1) * float(x.grid.scale)
        table = np.rint(parts * np.exp(-differences)).astype(np.float32)
        return builder.add(IntegerSoftmax(name, (x,), IntegerTensor(name, x.shape, GRID), table))
