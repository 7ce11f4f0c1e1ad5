"""Pooling cells."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from qat.cells.base import Cell, Scope, Shape, pair
from qat.cells.series import (
    AXES,
    along,
    as_before,
    as_picture,
    like,
    of_series,
    picture_codes,
    picture_shape,
    series_nodes,
    sides,
)
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
    Pending,
    Requantize,
    require_codes,
)
from qat.vocabulary.ops import Array, Padding, Pair, Tensor
from qat.vocabulary.values import Value


class Pool(Cell, abstract=True):
    """What the poolings share: a window that slides over (C, H, W), or over (C, L) as a picture of one row."""

    kernel_size: Any
    stride: Any
    pad_mode: str
    padding: Any
    ceil_mode: bool

    rank: ClassVar[int] = 3  #: of the samples that it takes: 3 or 2

    output_channels = "kept"
    non_negative = False
    random = False

    def __post_init__(self) -> None:
        super().__post_init__()
        owner = type(self).__name__
        kernel, stride = self._geometry
        top, bottom, left, right = check_window(owner, self.pad_mode, self._declared, kernel, stride, (1, 1))
        if max(top, bottom) >= kernel[0] or max(left, right) >= kernel[1]:
            raise QatError(f"{owner}: padding {self.padding} is as large as the kernel {kernel}; use less")
        if self.ceil_mode and self.pad_mode == "same":
            raise QatError(
                f"{owner}: ceil_mode has no effect with pad_mode 'same', which reads every pixel; leave it out"
            )

    @property
    def _geometry(self) -> tuple[Pair, Pair]:
        """Kernel and stride, over pictures."""
        spread = pair if self.rank == 3 else along
        kernel = spread(self.kernel_size)
        return kernel, kernel if self.stride is None else spread(self.stride)

    @property
    def _declared(self) -> int | Pair | Padding:
        """The padding, over pictures."""
        declared: int | Pair | Padding = self.padding if self.rank == 3 else sides(self.padding)
        return declared

    def _padding(self, x_shape: Shape) -> Padding:
        """As it is declared."""
        (kernel, stride), (_, height, width) = self._geometry, picture_shape(x_shape)
        explicit = check_window(type(self).__name__, self.pad_mode, self._declared, kernel, stride, (1, 1))
        return window_padding((height, width), kernel, stride, (1, 1), self.pad_mode, explicit)

    def window(self, x_shape: Shape) -> dict[str, Any]:
        """kernel, stride and padding over pictures for an input of this shape, what the last windows reach beyond included."""
        kernel, stride = self._geometry
        padding = self._padding(x_shape)
        if self.ceil_mode:
            (top, bottom, left, right), (_, height, width) = padding, picture_shape(x_shape)
            bottom += overhang(height, kernel[0], stride[0], top, bottom)
            right += overhang(width, kernel[1], stride[1], left, right)
            padding = (top, bottom, left, right)
        return {"kernel": kernel, "stride": stride, "padding": padding}

    def output_shape(self, *shapes: Shape) -> Shape:
        (x,) = shapes
        check_rank(x, self.rank)
        window = self.window(x)
        size = checked_output_size(picture_shape(x), window["kernel"], window["stride"], (1, 1), window["padding"])
        if min(size) < 1:
            kernel = window["kernel"] if self.rank == 3 else self.kernel_size
            raise QatError(f"its {kernel} window does not fit into its input {x}; use a smaller kernel")
        return like(x, (x[0], *size))


class MaxPool(Pool, abstract=True):
    """The largest number of each window."""

    output_numbers = "moved"

    def forward(self, scope: Scope, *inputs: Value) -> Value:
        (x,), (shape,), ops = inputs, scope.input_shapes, scope.ops
        y = ops.max_pool2d(as_picture(ops, x.data, shape), **self.window(shape))
        return x.with_data(as_before(ops, y, shape, self.output_shape(shape)) if self.rank == 2 else y)

    def to_integer(
        self, builder: IntegerBuilder, name: str, params: Mapping[str, Array], *inputs: Any
    ) -> IntegerTensor:
        x = require_codes(name, inputs[0])
        picture = picture_codes(builder, name, x) if self.rank == 2 else x
        output = IntegerTensor(name, picture_shape(self.output_shape(x.shape)), x.grid)
        node = IntegerMaxPool2d(name, (picture,), output, **self.window(x.shape))
        return [builder.add(each) for each in (series_nodes(node) if self.rank == 2 else (node,))][-1]


@dataclass(frozen=True)
class MaxPool2d(MaxPool):
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


class AvgPool(Pool, abstract=True):
    """The mean of each window."""

    count_include_pad: bool

    output_numbers = "averaged"

    def counts(self, x_shape: Shape) -> tuple[list[int], list[int]]:
        """How many rows the windows of each row of outputs count, and how many columns those of each column."""
        _, height, width = picture_shape(self.output_shape(x_shape))
        (kernel, stride), (top, bottom, left, right) = self._geometry, self._padding(x_shape)
        _, rows, columns = picture_shape(x_shape)
        found = []
        for size, count, k, s, before, after in (
            (rows, height, kernel[0], stride[0], top, bottom),
            (columns, width, kernel[1], stride[1], left, right),
        ):
            low, high = (-before, size + after) if self.count_include_pad else (0, size)
            starts = range(-before, count * s - before, s)
            found.append([min(start + k, high) - max(start, low) for start in starts])
        return found[0], found[1]

    def _shares(self, x_shape: Shape) -> list[list[float]]:
        """1 / how many pixels each window counts, as ``shares_of`` has it."""
        return shares_of(*self.counts(x_shape))

    def forward(self, scope: Scope, *inputs: Value) -> Value:
        shape, shares = scope.input_shapes[0], self._shares(scope.input_shapes[0])
        share: Tensor = shares[0][0]
        if len(shares) > 1 or len(shares[0]) > 1:
            share = scope.ops.from_numpy(np.array([[shares]], np.float32), "activation")
        return _averaged(scope, inputs[0], share, self.output_shape(shape), **self.window(shape))

    def to_integer(self, builder: IntegerBuilder, name: str, params: Mapping[str, Array], *inputs: Any) -> Pending:
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

        pending = Accumulator(finish, name, self.output_shape(x.shape), x.grid.scale * scale, None)
        return of_series(pending, picture_codes(builder, name, x)) if self.rank == 2 else pending


@dataclass(frozen=True)
class AvgPool2d(AvgPool):
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


class GlobalAvgPool(Cell, abstract=True):
    """The mean of each channel."""

    output_numbers = "averaged"
    output_channels = "kept"
    non_negative = False
    random = False

    rank: ClassVar[int] = 3  #: of the samples that it takes: 3 or 2

    def output_shape(self, *shapes: Shape) -> Shape:
        check_rank(shapes[0], self.rank)
        return (shapes[0][0], *(1,) * (self.rank - 1))

    def forward(self, scope: Scope, *inputs: Value) -> Value:
        # No cell is made here: compilers trace a forward pass, the checks of a cell's fields and all.
        (shape,) = scope.input_shapes
        _, *size = picture_shape(shape)
        window: dict[str, Any] = {"kernel": tuple(size), "stride": tuple(size), "padding": (0, 0, 0, 0)}
        return _averaged(scope, inputs[0], 1.0 / math.prod(size), self.output_shape(shape), **window)

    def to_integer(self, builder: IntegerBuilder, name: str, params: Mapping[str, Array], *inputs: Any) -> Pending:
        shape = require_codes(name, inputs[0]).shape
        pool: AvgPool = AvgPool1d(shape[1]) if self.rank == 2 else AvgPool2d((shape[1], shape[2]))
        return pool.to_integer(builder, name, params, *inputs)


@dataclass(frozen=True)
class GlobalAvgPool2d(GlobalAvgPool):
    """The mean over the whole image: (C, H, W) to (C, 1, 1)."""


@dataclass(frozen=True)
class MaxPool1d(MaxPool):
    """The largest number of each window of a series; padding never wins.

    Input: (C, L), output: (C, L').

    Args:
        kernel_size: in steps.
        stride: in steps. Default: None, the kernel's size.
        pad_mode: "valid", "same" or "pad", as in Conv1dBnAct. Default: "valid".
        padding: in steps; one number, or (left, right). Default: 0.
        ceil_mode: as in MaxPool2d. Default: False.

    Example:
        >>> import qat
        >>> qat.MaxPool1d(2).output_shape((6, 100))
        (6, 50)
    """

    kernel_size: int
    stride: int | None = None
    pad_mode: str = "valid"
    padding: int | Pair = 0
    ceil_mode: bool = False

    rank = 2


@dataclass(frozen=True)
class AvgPool1d(AvgPool):
    """The mean of each window of a series; padding counts as zeros, or not at all: AvgPool2d of one dimension.

    Input: (C, L), output: (C, L').

    Args:
        kernel_size, stride, pad_mode, padding, ceil_mode: as in MaxPool1d.
        count_include_pad: as in AvgPool2d. Default: True.

    Example:
        >>> import qat
        >>> qat.AvgPool1d(4, 2).output_shape((6, 100))
        (6, 49)
    """

    kernel_size: int
    stride: int | None = None
    pad_mode: str = "valid"
    padding: int | Pair = 0
    ceil_mode: bool = False
    count_include_pad: bool = True

    rank = 2


@dataclass(frozen=True)
class GlobalAvgPool1d(GlobalAvgPool):
    """The mean over the whole series: (C, L) to (C, 1).

    Example:
        >>> import qat
        >>> qat.GlobalAvgPool1d().output_shape((6, 100))
        (6, 1)
    """

    rank = 2


def shares_of(rows: Sequence[int], columns: Sequence[int]) -> list[list[float]]:
    """1 / how many pixels each window counts: n rows of m, or one of one where all count alike.

    Python's own numbers: a compiled pass computes NumPy's in its graph, where nothing can be decided by them.
    """
    if len(set(rows)) == 1 == len(set(columns)):
        rows, columns = rows[:1], columns[:1]
    return [[1.0 / (row * column) for column in columns] for row in rows]


def check_rank(shape: Shape, rank: int) -> None:
    """Raise QatError where samples have another number of axes."""
    if len(shape) != rank:
        other = {2: "use the cell that takes series, of one dimension", 3: "use the cell that takes pictures"}
        hint = other.get(len(shape), "move it before the Flatten")
        raise QatError(f"takes {AXES[rank]} but gets {shape}; {hint}")


def _averaged(
    scope: Scope, x: Value, share: Tensor, made: Shape, *, kernel: Pair, stride: Pair, padding: Padding
) -> Value:
    """The sum of each window times ``share``, a number or one for each place of a picture; samples of shape ``made``."""
    ops, (shape,) = scope.ops, scope.input_shapes
    x = x.settled(ops)
    total = ops.sum_pool2d(as_picture(ops, x.data, shape), kernel=kernel, stride=stride, padding=padding)
    scale, step = x.scale, None
    if scale is None or not isinstance(share, float):
        total = total * share
    else:
        scale = scale * share
    if scale is not None and not isinstance(share, float):
        step = as_before(ops, share * scale, shape, (1, *made[1:]))
    return Value(as_before(ops, total, shape, made), scale, step=step)
