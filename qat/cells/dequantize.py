"""Where codes become real numbers, for layers that are left in float."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from qat.cells.base import Cell, Scope, Shape
from qat.integer import Entering, IntegerBuilder, IntegerTensor, require_codes
from qat.vocabulary.ops import Array
from qat.vocabulary.values import Value


@dataclass(frozen=True)
class Dequantize(Cell):
    """The real numbers that codes stand for.

    ``convert_quant_network`` puts it before the cells that are left in float (``layers={"conv2": {"quantize": False}}``), which
    then compute in float32 until the next fake quantizer.

    Example:
        >>> import qat
        >>> from qat.networks import LeNet5
        >>> graph = qat.convert_quant_network(LeNet5(), layers={"fc3": {"quantize": False}})
        >>> [node.name for node in graph.nodes if isinstance(node.cell, qat.Dequantize)], sorted(graph.in_float)
        (['fc2.dequantize'], ['fc2.dequantize', 'fc3'])
    """

    output_numbers = "computed"
    output_channels = "kept"
    non_negative = False
    random = False

    @property
    def keeps_scale(self) -> bool:
        return True

    def output_shape(self, *shapes: Shape) -> Shape:
        return shapes[0]

    def forward(self, scope: Scope, *inputs: Value) -> Value:
        return Value(inputs[0].real(scope.ops))

    def to_integer(
        self, builder: IntegerBuilder, name: str, params: Mapping[str, Array], *inputs: Any
    ) -> IntegerTensor:
        """The codes themselves: each layer that takes them multiplies by their scale. Of an input of real numbers, these."""
        (x,) = inputs
        return builder.add(x.real()) if isinstance(x, Entering) else require_codes(name, x)
