"""What all cells that convolve share: pictures, and series as pictures of one row."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from qat.cells.base import Shape, check_counts
from qat.cells.facts import OutputChannels
from qat.cells.linear import LinearCell, WeightedCell
from qat.cells.series import AXES, as_before, as_picture, like, of_series, picture_codes, picture_shape
from qat.cells.window import check_window, checked_output_size, window_padding
from qat.errors import QatError
from qat.integer import IntegerBuilder, IntegerConv2d, IntegerLinear, IntegerTensor, Pending
from qat.vocabulary.ops import Array, Ops, Padding, Pair, Tensor


class ConvolvingCell(LinearCell, abstract=True):
    """A linear cell that is a convolution over (C, H, W), and over (C, L) one over (C, 1, L)."""

    weight_kind = "conv_weight"

    @abstractmethod
    def window(self, x_shape: Shape) -> dict[str, Any]:
        """stride, padding, dilation and group for an input of this shape, as a picture."""

    def apply(self, ops: Ops, x: Tensor, x_shape: Shape, w: Tensor, bias: Tensor | None) -> Tensor:
        picture = as_picture(ops, x, x_shape)
        y = ops.conv2d(picture, ops.picture_weight(w), bias, **self.window(x_shape))
        return as_before(ops, y, x_shape, self.output_shape(x_shape)) if len(x_shape) == 2 else y

    def integer_node(self, x_shape: Shape, **fields: Any) -> IntegerLinear:
        weight = fields.pop("weight")
        weight = weight[:, :, np.newaxis] if weight.ndim == 3 else weight
        return IntegerConv2d(**fields, weight=weight, **self.window(x_shape))

    def to_integer(self, builder: IntegerBuilder, name: str, params: Mapping[str, Array], *inputs: Any) -> Pending:
        pending, (x,) = super().to_integer(builder, name, params, *inputs), inputs
        if not isinstance(x, IntegerTensor) or len(x.shape) == 3:
            return pending
        return of_series(pending, picture_codes(builder, name, x))


class Convolution(ConvolvingCell, WeightedCell, abstract=True):
    """A convolution with a trained weight, of pictures or of series; the fields are described in Conv2dBnAct."""

    if (
        TYPE_CHECKING
    ):  # fields come from a second base, and what is said here would hide their types from the check of fields
        kernel_size: Any
        stride: Any
        pad_mode: str
        padding: Any
        dilation: Any
        group: int

    rank: ClassVar[int]  #: of the samples that it takes: 3 or 2

    @property
    @abstractmethod
    def geometry(self) -> tuple[Pair, Pair, Pair]:
        """Kernel, stride and dilation, over pictures."""

    @property
    @abstractmethod
    def declared(self) -> tuple[str, int | Pair | Padding]:
        """pad_mode and padding, over pictures."""

    @property
    def output_channels(self) -> OutputChannels:  # type: ignore[override]
        """By its groups: one is "new", one for each input channel "kept", any other number "grouped"."""
        if self.is_depthwise:
            return "kept"
        return "grouped" if self.group > 1 else "new"

    @property
    def is_depthwise(self) -> bool:
        """Every input channel has output channels of its own."""
        return 1 < self.group == self.in_channels

    def __post_init__(self) -> None:
        super().__post_init__()
        owner = type(self).__name__
        check_counts(owner, in_channels=self.in_channels, out_channels=self.out_channels, group=self.group)
        check_window(owner, *self.declared, *self.geometry)
        if self.in_channels % self.group or self.out_channels % self.group:
            raise QatError(
                f"{owner}: group {self.group} divides {self.in_channels} input and {self.out_channels} output channels "
                "unevenly; both must be multiples of it"
            )

    def pads(self, x_shape: Shape) -> bool:
        """Whether a window over an input of this shape may lie beyond it."""
        return any(self.window(x_shape)["padding"])

    def window(self, x_shape: Shape) -> dict[str, Any]:
        (kernel, stride, dilation), (pad_mode, padding) = self.geometry, self.declared
        explicit = check_window(type(self).__name__, pad_mode, padding, kernel, stride, dilation)
        _, height, width = picture_shape(x_shape)
        padding = window_padding((height, width), kernel, stride, dilation, pad_mode, explicit)
        return {"stride": stride, "padding": padding, "dilation": dilation, "group": self.group}

    def input_rows(self, x: Array, x_shape: Shape, places: int) -> Array:
        kernel, stride, dilation = self.geometry
        top, bottom, left, right = self.window(x_shape)["padding"]
        x = np.pad(x.reshape(-1, *picture_shape(x_shape)), ((0, 0), (0, 0), (top, bottom), (left, right)))
        reach = (dilation[0] * (kernel[0] - 1) + 1, dilation[1] * (kernel[1] - 1) + 1)
        x = x[:, : self.in_channels]
        windows = np.lib.stride_tricks.sliding_window_view(x, reach, axis=(2, 3))  # type: ignore[call-overload]
        windows = windows[:, :, :: stride[0], :: stride[1], :: dilation[0], :: dilation[1]]
        every = math.ceil(math.sqrt(math.prod(windows.shape[2:4]) / places))
        windows = windows[:, :, ::every]
        across = max(
            every, math.ceil(math.prod(windows.shape[2:4]) / places)
        )  # more where there are few rows, as in a series
        windows = windows[:, :, :, ::across]
        count, _, rows, columns, *_ = windows.shape
        split = windows.reshape(count, self.group, -1, rows, columns, *kernel).transpose(1, 0, 3, 4, 2, 5, 6)
        return np.ascontiguousarray(split).reshape(self.group, count * rows * columns, -1)

    @property
    def _channels_taken(self) -> int:
        """``in_channels``, and the further one of a normalised input."""
        return self.in_channels + (self.input_normalization.further if self.input_normalization else 0)

    @property
    def weight_shape(self) -> Shape:
        return (self.out_channels, self.in_channels // self.group, *self.geometry[0][3 - self.rank :])

    def output_shape(self, *shapes: Shape) -> Shape:
        (x,) = shapes
        channels = self._channels_taken
        if len(x) != self.rank or x[0] != channels:
            wanted = AXES[self.rank].replace("C", str(channels))
            raise QatError(f"takes {wanted} but gets {x}; change in_channels or the cell before it")
        kernel, stride, dilation = self.geometry
        size = checked_output_size(picture_shape(x), kernel, stride, dilation, self.window(x)["padding"])
        if min(size) < 1:
            kernel_size = kernel if self.rank == 3 else kernel[1]
            raise QatError(
                f"its {kernel_size} kernel does not fit into its input {x}; use a smaller kernel or more padding"
            )
        return like(x, (self.out_channels, *size))

    def macs(self, output: Shape, *, with_bias: bool) -> int:
        bias = with_bias and (self.has_bias or self.has_bn)
        taken = self._channels_taken // self.group * math.prod(self.weight_shape[2:])
        return math.prod(output) * (taken + bias)

    def with_channels(self, outputs: int, inputs: int) -> Convolution:
        group = inputs if self.is_depthwise else self.group
        counts: dict[str, Any] = {"in_channels": inputs, "out_channels": outputs, "group": group}
        return replace(self, **counts)

    def sliced(self, local: str, array: Array, outputs: Array, inputs: Array) -> Array:
        array = array[outputs]
        if array.ndim < 2 or self.is_depthwise:
            return array
        inputs = inputs[: self.in_channels // self.group]  # the same places in every group
        return np.ascontiguousarray(array[:, inputs])
