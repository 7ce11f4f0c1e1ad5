"""Pooling cells."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from qat.cells.base import Cell, Scope, Shape, pair
from qat.cells.window import check_window, checked_output_size, window_padding
from qat.errors import QatError
from qat.integer import (
    Accumulator,
    IntegerBuilder,
    IntegerConv2d,
    IntegerLinear,
    IntegerMaxPool2d,
    IntegerTensor,
    Requantize,
    require_codes,
)
from qat.vocabulary.ops import Array, Padding, Pair
from qat.vocabulary.values import Value


class _Pool2d(Cell, abstract=True):
    """What the poolings share: a window that slides over (C, H, W)."""

    kernel_size: int | Pair
    stride: int | Pair | None
    pad_mode: str
    padding: int | Pair | Padding

    output_channels = "kept"
    non_negative = False
    random = False

    def __post_init__(self) -> None:
        super().__post_init__()
        owner = type(self).__name__
        kernel, stride = self._geometry
        top, bottom, left, right = check_window(owner, self.pad_mode, self.padding, kernel, stride, (1, 1))
        if max(top, bottom) >= kernel[0] or max(left, right) >= kernel[1]:
            raise QatError(f"{owner}: padding {self.padding} is as large as the kernel {kernel}; use less")

    @property
    def _geometry(self) -> tuple[Pair, Pair]:
        kernel = pair(self.kernel_size)
        return kernel, kernel if self.stride is None else pair(self.stride)

    def window(self, x_shape: Shape) -> dict[str, Any]:
        """kernel, stride and padding for an input of this shape."""
        kernel, stride = self._geometry
        explicit = check_window(type(self).__name__, self.pad_mode, self.padding, kernel, stride, (1, 1))
        padding = window_padding((x_shape[1], x_shape[2]), kernel, stride, (1, 1), self.pad_mode, explicit)
        return {"kernel": kernel, "stride": stride, "padding": padding}

    def output_shape(self, *shapes: Shape) -> Shape:
        (x,) = shapes
        if len(x) != 3:
            raise QatError(f"takes (C, H, W) but gets {x}; move it before the Flatten")
        window = self.window(x)
        size = checked_output_size(x, window["kernel"], window["stride"], (1, 1), window["padding"])
        if min(size) < 1:
            raise QatError(f"its {window['kernel']} window does not fit into its input {x}; use a smaller kernel")
        return (x[0], *size)


@dataclass(frozen=True)
class MaxPool2d(_Pool2d):
    """The largest number of each window; padding never wins.

    Input: (C, H, W), output: (C, H', W').

    Args:
        kernel_size: in pixels; one number, or (height, width).
        stride: in pixels; one number, or (height, width). Default: None, the kernel's size.
        pad_mode: "valid", "same" or "pad", as in Conv2dBnAct. Default: "valid".
        padding: in pixels, as in Conv2dBnAct. Default: 0.

    Example:
        >>> import qat
        >>> qat.MaxPool2d(2).output_shape((6, 28, 28))
        (6, 14, 14)
    """

    kernel_size: int | Pair
    stride: int | Pair | None = None
    pad_mode: str = "valid"
    padding: int | Pair | Padding = 0

    output_numbers = "moved"

    def forward(self, scope: Scope, *inputs: Value) -> Value:
        (x,) = inputs
        return x.with_data(scope.ops.max_pool2d(x.data, **self.window(scope.input_shapes[0])))

    def to_integer(
        self, builder: IntegerBuilder, name: str, params: Mapping[str, Array], *inputs: Any
    ) -> IntegerTensor:
        x = require_codes(name, inputs[0])
        output = IntegerTensor(name, self.output_shape(x.shape), x.grid)
        return builder.add(IntegerMaxPool2d(name, (x,), output, **self.window(x.shape)))


@dataclass(frozen=True)
class AvgPool2d(_Pool2d):
    """The mean of each window; padding counts as zeros.

    In integers it is a depthwise convolution with weight codes of 1 and the scale 1 / (kh kw): the runtimes' own average
    poolings round differently, their convolutions do not (docs/numerics.md). Input: (C, H, W), output: (C, H', W').

    Args:
        kernel_size, stride, pad_mode, padding: as in MaxPool2d.
    """

    kernel_size: int | Pair
    stride: int | Pair | None = None
    pad_mode: str = "valid"
    padding: int | Pair | Padding = 0

    output_numbers = "averaged"

    def forward(self, scope: Scope, *inputs: Value) -> Value:
        return _averaged(scope, inputs[0], **self.window(scope.input_shapes[0]))

    def to_integer(self, builder: IntegerBuilder, name: str, params: Mapping[str, Array], *inputs: Any) -> Accumulator:
        x = require_codes(name, inputs[0])
        window, channels = self.window(x.shape), x.shape[0]
        kernel = window["kernel"]
        scale = np.full(channels, 1.0 / (kernel[0] * kernel[1]), np.float32)

        def finish(requantize: Requantize, output: IntegerTensor) -> IntegerLinear:
            return IntegerConv2d(
                name=name,
                inputs=(x,),
                output=output,
                weight=np.ones((channels, 1, *kernel), np.int8),
                bias=np.zeros(channels, np.int32),
                weight_scale=scale,
                weight_zero_point=np.zeros(channels, np.int32),
                requantize=requantize,
                stride=window["stride"],
                padding=window["padding"],
                group=channels,
            )

        return Accumulator(finish, name, self.output_shape(x.shape), x.grid.scale * scale, None)


@dataclass(frozen=True)
class GlobalAvgPool2d(Cell):
    """The mean over the whole image: (C, H, W) to (C, 1, 1)."""

    output_numbers = "averaged"
    output_channels = "kept"
    non_negative = False
    random = False

    def _pool(self, x: Shape) -> AvgPool2d:
        if len(x) != 3:
            raise QatError(f"takes (C, H, W) but gets {x}; move it before the Flatten")
        return AvgPool2d((x[1], x[2]))

    def output_shape(self, *shapes: Shape) -> Shape:
        return self._pool(shapes[0]).output_shape(*shapes)

    def forward(self, scope: Scope, *inputs: Value) -> Value:
        # No cell is made here: compilers trace a forward pass, the checks of a cell's fields and all.
        _, height, width = scope.input_shapes[0]
        return _averaged(scope, inputs[0], kernel=(height, width), stride=(height, width), padding=(0, 0, 0, 0))

    def to_integer(self, builder: IntegerBuilder, name: str, params: Mapping[str, Array], *inputs: Any) -> Accumulator:
        return self._pool(require_codes(name, inputs[0]).shape).to_integer(builder, name, params, *inputs)


def _averaged(scope: Scope, x: Value, *, kernel: Pair, stride: Pair, padding: Padding) -> Value:
    """The mean of each window."""
    ops = scope.ops
    x = x.settled(ops)
    total = ops.sum_pool2d(x.data, kernel=kernel, stride=stride, padding=padding)
    share = 1.0 / (kernel[0] * kernel[1])
    return Value(total * share) if x.scale is None else Value(total, x.scale * share)
