"""Cells that compute each number by itself: the sum of two inputs, and activation functions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from qat.cells.base import Cell, Scope, Shape
from qat.errors import QatError
from qat.integer import Function, IntegerBuilder, Sum, require_codes, require_one_grid
from qat.integer.fixed_point import ADD_SHIFT
from qat.vocabulary.activations import HOMOGENEOUS, NON_NEGATIVE, RELU_BOUNDS, TABLES, apply_table, check_function
from qat.vocabulary.numpy_ops import NUMPY_OPS
from qat.vocabulary.ops import Array, Tensor
from qat.vocabulary.values import Value


def joint_shape(what: str, a: Shape, b: Shape) -> Shape:
    """The shape of what two inputs give, number by number, where one may be (C, 1, 1) beside (C, H, W).

    Args:
        what: is done, for the message: "multiplies".
        a: the first shape.
        b: the second shape.

    Raises:
        QatError: they fit neither way.
    """
    if a == b:
        return a
    for whole, gate in ((a, b), (b, a)):
        if len(whole) == len(gate) == 3 and gate == (whole[0], 1, 1):
            return whole
    remedy = "make them equal, by a 1x1 convolution perhaps"
    for whole, gate in ((a, b), (b, a)):
        if len(whole) == 3 and gate == whole[:1]:
            remedy = f"write reshape(-1, {gate[0]}, 1, 1) of the {gate}"
    raise QatError(f"{what} equal shapes, or (C, H, W) and (C, 1, 1), but gets {a} and {b}; {remedy}")


def step_of_sum(a: Value, b: Value) -> Tensor | None:
    """``Value.step`` of the sum or difference of codes, which are shifted to the left first; None where there are none yet."""
    scale = a.scale if a.codes and b.codes else None
    return None if scale is None else scale * 2.0 ** (1 - ADD_SHIFT)


@dataclass(frozen=True)
class Add(Cell):
    """The sum of two inputs of one shape, or of (C, H, W) and (C, 1, 1); ``a + b`` in a construct is ``Add()(a, b)``.

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

    @property
    def keeps_scale(self) -> bool:
        return True

    def output_shape(self, *shapes: Shape) -> Shape:
        return joint_shape("adds", *shapes)

    def forward(self, scope: Scope, *inputs: Value) -> Value:
        a, b = inputs
        relu = RELU_BOUNDS.get(self.activation or "")
        return Value(a.real(scope.ops) + b.real(scope.ops), relu=relu, step=step_of_sum(a, b))

    def to_integer(self, builder: IntegerBuilder, name: str, params: Mapping[str, Array], *inputs: Any) -> Sum:
        a, b = require_one_grid(name, *inputs)
        return Sum(name, (a, b), RELU_BOUNDS.get(self.activation or ""))


@dataclass(frozen=True)
class Activation(Cell):
    """An activation function by itself. In integers it is a table with one entry for each code of its input.

    Args:
        function: a name of ``qat.vocabulary.activations``: relu, relu6, leaky_relu, sigmoid, tanh, hsigmoid, hswish, silu,
            gelu (with the error function), gelu_tanh (its approximation), mish, elu, selu, softplus, exp, hard_sigmoid
            (alpha x + beta clipped to 0..1), clip (to low..high) or linear (alpha x + beta).
        alpha: of leaky_relu and elu, below 0; of hard_sigmoid and linear the slope. Default: None, the function's own: 0.2 of
            leaky_relu and hard_sigmoid, else 1.
        beta: of hard_sigmoid and linear, what is added. Default: None: 0.5 and 0.
        low: of clip. Default: None, no bound.
        high: of clip. Default: None, no bound.

    Raises:
        QatError: for an unknown function, and parameters that it does not have.

    Example:
        >>> import qat
        >>> qat.Activation("clip", low=-1.0, high=2.0).non_negative
        False
    """

    function: str
    alpha: float | None = None
    beta: float | None = None
    low: float | None = None
    high: float | None = None

    output_numbers = "computed"
    output_channels = "kept"
    random = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_function(self.function, "Activation", self._parameters)

    @property
    def _parameters(self) -> dict[str, float | None]:
        return {"alpha": self.alpha, "beta": self.beta, "low": self.low, "high": self.high}

    @property
    def non_negative(self) -> bool:  # type: ignore[override]
        """By its function."""
        return self.function in NON_NEGATIVE or (self.low is not None and self.low >= 0.0)

    @property
    def keeps_scale(self) -> bool:
        return self.function in HOMOGENEOUS

    @property
    def bound(self) -> float:
        return RELU_BOUNDS.get(self.function, math.inf)

    def output_shape(self, *shapes: Shape) -> Shape:
        return shapes[0]

    def forward(self, scope: Scope, *inputs: Value) -> Value:
        x = Value(inputs[0].real(scope.ops))
        if self.function in TABLES:
            return Value(apply_table(scope.ops, self.function, x.data, self._parameters))
        return Value(x.data, relu=RELU_BOUNDS[self.function])

    def to_integer(self, builder: IntegerBuilder, name: str, params: Mapping[str, Array], *inputs: Any) -> Function:
        x = require_codes(name, inputs[0])

        def function(real: Array) -> Array:
            if self.function in TABLES:
                with np.errstate(over="ignore"):  # what is infinite gets the highest code
                    result: Array = apply_table(NUMPY_OPS, self.function, real, self._parameters)
                return result
            return NUMPY_OPS.minimum(NUMPY_OPS.relu(real), RELU_BOUNDS[self.function])

        return Function(name, x, function)
