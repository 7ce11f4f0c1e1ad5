"""Pooling cells."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from qat.cells.base import Cell, Scope, Shape, pair
from qat.cells.window import check_window, checked_output_size, overhang, window_padding
from qat.errors import QatError
from qat.integer import (
    Accumulator,
    IntegerBuilder,
    IntegerConv2d,
    IntegerMaxPool2d,
    IntegerMeans,
    IntegerNode,
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
    ceil_mode: bool

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
        if self.ceil_mode and self.pad_mode == "same":
            raise QatError(
                f"{owner}: ceil_mode has no effect with pad_mode 'same', which reads every pixel; leave it out"
            )

    @property
    def _geometry(self) -> tuple[Pair, Pair]:
        kernel = pair(self.kernel_size)
        return kernel, kernel if self.stride is None else pair(self.stride)

    def _padding(self, x_shape: Shape) -> Padding:
        """As it is declared."""
        kernel, stride = self._geometry
        explicit = check_window(type(self).__name__, self.pad_mode, self.padding, kernel, stride, (1, 1))
        return window_padding((x_shape[1], x_shape[2]), kernel, stride, (1, 1), self.pad_mode, explicit)

    def window(self, x_shape: Shape) -> dict[str, Any]:
        """kernel, stride and padding for an input of this shape; the padding holds what the last windows reach beyond."""
        kernel, stride = self._geometry
        padding = self._padding(x_shape)
        if self.ceil_mode:
            top, bottom, left, right = padding
            bottom += overhang(x_shape[1], kernel[0], stride[0], top, bottom)
            right += overhang(x_shape[2], kernel[1], stride[1], left, right)
            padding = (top, bottom, left, right)
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
        ceil_mode: True: a window more where pixels would be left over, one that reaches beyond the padding (as PyTorch's).
            Default: False.

    Example:
        >>> import qat
        >>> qat.MaxPool2d(2).output_shape((6, 28, 28))
        (6, 14, 14)
    """

    kernel_size: int | Pair
    stride: int | Pair | None = None
    pad_mode: str = "valid"
    padding: int | Pair | Padding = 0
    ceil_mode: bool = False

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
    """The mean of each window; padding counts as zeros, or not at all.

    In integers it is a depthwise convolution with weight codes of 1 and the scale 1 / (kh kw): the runtimes' own average
    poolings round differently, their convolutions do not (docs/numerics.md). Where windows count different numbers of pixels,
    each position has a multiplier of its own. Input: (C, H, W), output: (C, H', W').

    Args:
        kernel_size, stride, pad_mode, padding, ceil_mode: as in MaxPool2d. What a window of ceil_mode has beyond the padding
            never counts.
        count_include_pad: False: means are over the pixels of the image alone, as TensorFlow's are. Default: True.

    Example:
        >>> import qat
        >>> rows, columns = qat.AvgPool2d(3, 2, "pad", 1, count_include_pad=False).counts((1, 6, 6))
        >>> rows
        [2, 3, 3]
    """

    kernel_size: int | Pair
    stride: int | Pair | None = None
    pad_mode: str = "valid"
    padding: int | Pair | Padding = 0
    ceil_mode: bool = False
    count_include_pad: bool = True

    output_numbers = "averaged"

    def counts(self, x_shape: Shape) -> tuple[list[int], list[int]]:
        """How many rows the windows of each row of outputs count, and how many columns those of each column."""
        _, height, width = self.output_shape(x_shape)
        (kernel, stride), (top, bottom, left, right) = self._geometry, self._padding(x_shape)
        found = []
        for size, count, k, s, before, after in (
            (x_shape[1], height, kernel[0], stride[0], top, bottom),
            (x_shape[2], width, kernel[1], stride[1], left, right),
        ):
            low, high = (-before, size + after) if self.count_include_pad else (0, size)
            starts = range(-before, count * s - before, s)
            found.append([min(start + k, high) - max(start, low) for start in starts])
        return found[0], found[1]

    def _shares(self, x_shape: Shape) -> list[list[float]]:
        """1 / how many pixels each window counts: H' rows of W', or one of one where all count alike.

        Python's own numbers: a compiled pass computes NumPy's in its graph, where nothing can be decided by them.
        """
        rows, columns = self.counts(x_shape)
        if len(set(rows)) == 1 == len(set(columns)):
            rows, columns = rows[:1], columns[:1]
        return [[1.0 / (row * column) for column in columns] for row in rows]

    def forward(self, scope: Scope, *inputs: Value) -> Value:
        window, shares = self.window(scope.input_shapes[0]), self._shares(scope.input_shapes[0])
        if len(shares) == 1 == len(shares[0]):
            return _averaged(scope, inputs[0], shares[0][0], **window)
        ops, x = scope.ops, inputs[0].settled(scope.ops)
        means = ops.sum_pool2d(x.data, **window) * ops.from_numpy(np.array([[shares]], np.float32), "activation")
        return Value(means, x.scale)

    def to_integer(self, builder: IntegerBuilder, name: str, params: Mapping[str, Array], *inputs: Any) -> Accumulator:
        x = require_codes(name, inputs[0])
        window, channels, shares = self.window(x.shape), x.shape[0], np.array(self._shares(x.shape), np.float32)
        uniform = shares.size == 1
        scale = np.full(channels, shares[0, 0], np.float32) if uniform else shares.reshape(-1)

        def finish(requantize: Requantize, output: IntegerTensor) -> IntegerNode:
            if not uniform:
                return IntegerMeans(name, (x,), output, **window, weight_scale=scale, requantize=requantize)
            return IntegerConv2d(
                name=name,
                inputs=(x,),
                output=output,
                weight=np.ones((channels, 1, *window["kernel"]), np.int8),
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
        share = 1.0 / (height * width)
        return _averaged(scope, inputs[0], share, kernel=(height, width), stride=(height, width), padding=(0, 0, 0, 0))

    def to_integer(self, builder: IntegerBuilder, name: str, params: Mapping[str, Array], *inputs: Any) -> Accumulator:
        return self._pool(require_codes(name, inputs[0]).shape).to_integer(builder, name, params, *inputs)


def _averaged(scope: Scope, x: Value, share: float, *, kernel: Pair, stride: Pair, padding: Padding) -> Value:
    """The sum of each window times ``share``."""
    ops = scope.ops
    x = x.settled(ops)
    total = ops.sum_pool2d(x.data, kernel=kernel, stride=stride, padding=padding)
    return Value(total * share) if x.scale is None else Value(total, x.scale * share)
