"""Transposed convolution, fused with batch normalisation and activation."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from qat.cells.base import Shape, check_counts, pair
from qat.cells.facts import OutputChannels
from qat.cells.linear import Channels, WeightedCell
from qat.cells.phases import phase_node, phase_stages
from qat.cells.window import LARGEST_INPUT, check_window
from qat.errors import QatError
from qat.integer import (
    IntegerBuilder,
    IntegerLinear,
    Pending,
    Staged,
)
from qat.vocabulary.numpy_ops import NUMPY_OPS
from qat.vocabulary.ops import Array, Ops, Padding, Pair, Tensor
from qat.vocabulary.transposed import Transposed, transposed


@dataclass(frozen=True)
class TransposedGeometry(Channels):
    """The fields that a transposed convolution begins with."""

    kernel_size: int | Pair
    stride: int | Pair = 1
    padding: int | Pair | Padding = 0
    output_padding: int | Pair = 0
    dilation: int | Pair = 1
    group: int = 1


@dataclass(frozen=True)
class ConvTranspose2dBnAct(WeightedCell, TransposedGeometry):
    """Transposed convolution (PyTorch's ConvTranspose2d), batch normalisation and activation in one cell.

    Input: (in_channels, H, W), output: (out_channels, H', W') with H' = (H - 1) stride - padding above and below
    + dilation (kernel - 1) + 1 + output_padding. Parameters: weight (in, out / group, kh, kw), as PyTorch's; the others as in
    Conv2dBnAct. In integers it is one convolution that makes all phases of the output, stride x stride of them, as channels, of
    which blocks of pixels are made (docs/numerics.md).

    Args:
        in_channels: of its input.
        out_channels: of its output.
        kernel_size: in pixels; one number, or (height, width).
        stride: how many times as large the output is; one number, or (vertical, horizontal). Default: 1.
        padding: in pixels, what is cut off at the edges; one number, (vertical, horizontal) or (top, bottom, left, right).
            Default: 0.
        output_padding: rows and columns more at the bottom and the right; one number, or (vertical, horizontal). Default: 0.
        dilation: distance of kernel elements in pixels; one number, or (height, width). Default: 1.
        group: number of groups of channels. Default: 1.
        has_bias, has_bn, momentum, eps, activation, alpha, after_fake: as in Conv2dBnAct.
        weight_quantizer: as in Conv2dBnAct. A scale for each output channel is one for all phases.
        bn_fold, freeze_bn, pruner, tracker: as in Conv2dBnAct.
        input_normalization: None; a normalisation of raw pixels is a layer before it.

    Raises:
        QatError: where a field is out of its range, or fields do not go together.

    Example:
        >>> import qat
        >>> qat.ConvTranspose2dBnAct(32, 16, 4, stride=2, padding=1, has_bn=True).output_shape((32, 14, 14))
        (16, 28, 28)
    """

    weight_kind = "conv_weight"

    @property
    def output_channels(self) -> OutputChannels:  # type: ignore[override]
        """By its groups, as those of a convolution."""
        if self._is_depthwise:
            return "kept"
        return "grouped" if self.group > 1 else "new"

    @property
    def _is_depthwise(self) -> bool:
        return 1 < self.group == self.in_channels

    def __post_init__(self) -> None:
        super().__post_init__()
        owner = type(self).__name__
        check_counts(owner, in_channels=self.in_channels, out_channels=self.out_channels, group=self.group)
        kernel, stride, dilation, more = self._geometry
        cut = self._cut
        if self.in_channels % self.group or self.out_channels % self.group:
            raise QatError(
                f"{owner}: group {self.group} divides {self.in_channels} input and {self.out_channels} output channels "
                "unevenly; both must be multiples of it"
            )
        for (before, after), k, d, s, further in zip((cut[:2], cut[2:]), kernel, dilation, stride, more, strict=True):
            if max(before, after) > d * (k - 1):
                raise QatError(
                    f"{owner}: padding {self.padding} cuts off more than the {d * (k - 1)} places that a kernel of {k} with "
                    f"dilation {d} reaches beyond; use less, and a Slice for the rest"
                )
            if not 0 <= further < max(s, d):
                raise QatError(
                    f"{owner}: output_padding is {self.output_padding}; use numbers from 0 to below stride or dilation"
                )

    @property
    def _geometry(self) -> tuple[Pair, Pair, Pair, Pair]:
        """Kernel, stride, dilation and output_padding."""
        return pair(self.kernel_size), pair(self.stride), pair(self.dilation), pair(self.output_padding)

    @property
    def _cut(self) -> Padding:
        """The padding as (top, bottom, left, right)."""
        kernel, stride, dilation, _ = self._geometry
        return check_window(type(self).__name__, "pad", self.padding, kernel, stride, dilation)

    def _how(self, x_shape: Shape) -> Transposed:
        kernel, stride, dilation, more = self._geometry
        return transposed((x_shape[1], x_shape[2]), kernel, stride, self._cut, more, dilation)

    @property
    def weight_shape(self) -> Shape:
        return (self.out_channels, self.in_channels // self.group, *self._geometry[0])

    @property
    def stored_shape(self) -> Shape:
        return (self.in_channels, self.out_channels // self.group, *self._geometry[0])

    def outputs_first(self, ops: Ops, weight: Tensor) -> Tensor:
        return ops.swap_channels(weight, self.group)

    def as_stored(self, weight: Array) -> Array:
        return NUMPY_OPS.swap_channels(weight, self.group)

    def output_shape(self, *shapes: Shape) -> Shape:
        (x,) = shapes
        if len(x) != 3 or x[0] != self.in_channels:
            raise QatError(f"takes ({self.in_channels}, H, W) but gets {x}; change in_channels or the cell before it")
        kernel, stride, dilation, more = self._geometry
        ends = zip(x[1:], kernel, stride, dilation, more, (self._cut[:2], self._cut[2:]), strict=True)
        height, width = ((n - 1) * s - sum(cut) + d * (k - 1) + 1 + further for n, k, s, d, further, cut in ends)
        if min(height, width) < 1:
            raise QatError(f"cuts all of its output for an input {x}; use less padding")
        if self.out_channels * height * width > LARGEST_INPUT:
            raise QatError(
                f"makes {self.out_channels * height * width:,} numbers of one sample {x}, but {LARGEST_INPUT:,} are the most; "
                "use a smaller image or stride"
            )
        return (self.out_channels, height, width)

    def macs(self, output: Shape, *, with_bias: bool) -> int:
        kernel, stride, dilation, more = self._geometry
        ends = zip(output[1:], kernel, stride, dilation, more, (self._cut[:2], self._cut[2:]), strict=True)
        taken: int = math.prod((n + sum(cut) - d * (k - 1) - 1 - further) // s + 1 for n, k, s, d, further, cut in ends)
        bias = with_bias and (self.has_bias or self.has_bn)
        return taken * math.prod(self.weight_shape) + bias * math.prod(output)

    @property
    def deployed_weights(self) -> int:
        """Those of all phases, with the zeros that stand where a phase has fewer elements than another."""
        how = self._how((self.in_channels, 1, 1))
        return self.out_channels * self.weight_shape[1] * len(how.rows.places) * len(how.columns.places)

    def deployed_parameters(self) -> int:
        has_bias = self.has_bias or self.has_bn
        return self.deployed_weights + has_bias * self.out_channels * math.prod(self._geometry[1])

    def with_channels(self, outputs: int, inputs: int) -> ConvTranspose2dBnAct:
        group = inputs if self._is_depthwise else self.group
        return replace(self, in_channels=inputs, out_channels=outputs, group=group)

    def sliced(self, local: str, array: Array, outputs: Array, inputs: Array) -> Array:
        if array.ndim < 2:
            return array[outputs]
        array = array[inputs]
        if self._is_depthwise:
            return array
        return np.ascontiguousarray(
            array[:, outputs[: self.out_channels // self.group]]
        )  # the same places in every group

    def apply(self, ops: Ops, x: Tensor, x_shape: Shape, w: Tensor, bias: Tensor | None) -> Tensor:
        return ops.conv_transpose2d(x, w, bias, how=self._how(x_shape), outputs=self.out_channels, group=self.group)

    def integer_node(self, x_shape: Shape, **fields: Any) -> IntegerLinear:
        """The convolution that makes all phases."""
        return phase_node(fields, self._how(x_shape), self.group)

    def to_integer(self, builder: IntegerBuilder, name: str, params: Mapping[str, Array], *inputs: Any) -> Pending:
        pending = super().to_integer(builder, name, params, *inputs)
        how = self._how(inputs[0].shape)
        return Staged(pending, lambda node: phase_stages(how, node))
