"""Cells that move numbers without changing them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from qat.cells.base import Cell, Scope, Shape, pair
from qat.cells.window import check_window, output_size, window_padding
from qat.errors import QatError
from qat.integer import IntegerBuilder, IntegerFlatten, IntegerMaxPool2d, IntegerTensor
from qat.ops import Array, Padding, Pair
from qat.values import Value


def integer_input(name: str, x: Any) -> IntegerTensor:
    """``x`` if it is codes. Raises QatError where it is an accumulator without a fake quantizer."""
    if not isinstance(x, IntegerTensor):
        raise QatError(
            f"{name}: its input {x.name} has no fake quantizer, so that it has no codes; keep after_fake=True on {x.name}"
        )
    return x


@dataclass(frozen=True)
class MaxPool2d(Cell):
    """The largest number of each window; padding never wins.

    kernel_size, stride (default: the kernel's): one integer or (height, width). pad_mode, padding: as in Conv2dBnAct.
    Input (C, H, W), output (C, H', W').
    """

    kernel_size: int | Pair
    stride: int | Pair | None = None
    pad_mode: str = "valid"
    padding: int | Pair | Padding = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        kernel, stride = self._geometry
        top, bottom, left, right = check_window("MaxPool2d", self.pad_mode, self.padding, kernel, stride, (1, 1))
        if max(top, bottom) >= kernel[0] or max(left, right) >= kernel[1]:
            raise QatError(f"MaxPool2d: padding {self.padding} is as large as the kernel {kernel}; use less")

    @property
    def _geometry(self) -> tuple[Pair, Pair]:
        kernel = pair(self.kernel_size, "MaxPool2d: kernel_size")
        return kernel, kernel if self.stride is None else pair(self.stride, "MaxPool2d: stride")

    def window(self, x_shape: Shape) -> dict[str, Any]:
        """kernel, stride and padding for an input of this shape."""
        kernel, stride = self._geometry
        explicit = check_window("MaxPool2d", self.pad_mode, self.padding, kernel, stride, (1, 1))
        padding = window_padding((x_shape[1], x_shape[2]), kernel, stride, (1, 1), self.pad_mode, explicit)
        return {"kernel": kernel, "stride": stride, "padding": padding}

    def output_shape(self, *shapes: Shape) -> Shape:
        (x,) = shapes
        if len(x) != 3:
            raise QatError(f"takes (C, H, W) but gets {x}; move it before the Flatten")
        window = self.window(x)
        size = output_size((x[1], x[2]), window["kernel"], window["stride"], (1, 1), window["padding"])
        if min(size) < 1:
            raise QatError(f"its {window['kernel']} window does not fit into its input {x}; use a smaller kernel")
        return (x[0], *size)

    def forward(self, scope: Scope, *inputs: Value) -> Value:
        (x,) = inputs
        return x.with_data(scope.ops.max_pool2d(x.data, **self.window(scope.input_shapes[0])))

    def to_integer(
        self, builder: IntegerBuilder, name: str, params: Mapping[str, Array], *inputs: Any
    ) -> IntegerTensor:
        x = integer_input(name, inputs[0])
        output = IntegerTensor(name, self.output_shape(x.shape), x.grid)
        return builder.add(IntegerMaxPool2d(name, (x,), output, **self.window(x.shape)))


@dataclass(frozen=True)
class Flatten(Cell):
    """(C, H, W) to (C H W), in that order."""

    def output_shape(self, *shapes: Shape) -> Shape:
        return (math.prod(shapes[0]),)

    def forward(self, scope: Scope, *inputs: Value) -> Value:
        x = inputs[0].settled(scope.ops)
        return x.with_data(scope.ops.flatten(x.data))

    def to_integer(
        self, builder: IntegerBuilder, name: str, params: Mapping[str, Array], *inputs: Any
    ) -> IntegerTensor:
        x = integer_input(name, inputs[0])
        return builder.add(IntegerFlatten(name, (x,), IntegerTensor(name, self.output_shape(x.shape), x.grid)))
