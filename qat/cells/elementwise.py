"""Cells that compute each number by itself: the sum of two inputs, and activation functions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from qat.cells.base import Cell, Scope, Shape
from qat.errors import QatError
from qat.integer import Function, IntegerBuilder, Sum, require_codes
from qat.vocabulary.activations import NON_NEGATIVE, RELU_BOUNDS, TABLES, check_activation
from qat.vocabulary.numpy_ops import NUMPY_OPS
from qat.vocabulary.ops import Array
from qat.vocabulary.values import Value


@dataclass(frozen=True)
class Add(Cell):
    """The sum of two inputs of one shape; ``a + b`` in a construct is ``Add()(a, b)``.

    In integers both inputs have one grid: convert_quant_network lets the fake quantizers before it share.

    Args:
        activation: of the sum: None, "relu" or "relu6". Default: None.

    Raises:
        QatError: for another activation.
    """

    activation: str | None = None

    arity = 2
    output_numbers = "computed"
    output_channels = "kept"
    random = False
    one_grid = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.activation is not None and self.activation not in RELU_BOUNDS:
            raise QatError(f"Add: activation is {self.activation!r}; use None or one of {', '.join(RELU_BOUNDS)}")

    @property
    def non_negative(self) -> bool:  # type: ignore[override]
        """By its activation."""
        return self.activation is not None

    def output_shape(self, *shapes: Shape) -> Shape:
        a, b = shapes
        if a != b:
            raise QatError(f"adds equal shapes, but gets {a} and {b}; make them equal, by a 1x1 convolution perhaps")
        return a

    def forward(self, scope: Scope, *inputs: Value) -> Value:
        a, b = inputs
        return Value(a.real(scope.ops) + b.real(scope.ops), relu=RELU_BOUNDS.get(self.activation or ""))

    def to_integer(self, builder: IntegerBuilder, name: str, params: Mapping[str, Array], *inputs: Any) -> Sum:
        a, b = (require_codes(name, x) for x in inputs)
        return Sum(name, (a, b), RELU_BOUNDS.get(self.activation or ""))


@dataclass(frozen=True)
class Activation(Cell):
    """An activation function by itself. In integers it is a table with one entry for each code of its input.

    Args:
        function: a name of ``qat.vocabulary.activations``, such as "relu", "hswish" or "tanh".
        alpha: the slope of "leaky_relu" below 0. Default: 0.2.
    """

    function: str
    alpha: float = 0.2

    output_numbers = "computed"
    output_channels = "kept"
    random = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_activation(self.function or "None", "Activation")

    @property
    def non_negative(self) -> bool:  # type: ignore[override]
        """By its function."""
        return self.function in NON_NEGATIVE

    def output_shape(self, *shapes: Shape) -> Shape:
        return shapes[0]

    def forward(self, scope: Scope, *inputs: Value) -> Value:
        x = Value(inputs[0].real(scope.ops))
        if self.function in TABLES:
            return Value(TABLES[self.function](scope.ops, x.data, self.alpha))
        return Value(x.data, relu=RELU_BOUNDS[self.function])

    def to_integer(self, builder: IntegerBuilder, name: str, params: Mapping[str, Array], *inputs: Any) -> Function:
        x = require_codes(name, inputs[0])

        def function(real: Array) -> Array:
            if self.function in TABLES:
                result: Array = TABLES[self.function](NUMPY_OPS, real, self.alpha)
                return result
            return NUMPY_OPS.minimum(NUMPY_OPS.relu(real), RELU_BOUNDS[self.function])

        return Function(name, x, function)
