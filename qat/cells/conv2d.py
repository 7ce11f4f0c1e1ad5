"""Convolution, fused with batch normalisation and activation."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from qat.cells.base import Shape, check_counts, pair
from qat.cells.facts import OutputChannels
from qat.cells.linear import Channels, WeightedCell
from qat.cells.window import check_window, checked_output_size, window_padding
from qat.errors import QatError
from qat.integer import IntegerConv2d, IntegerLinear
from qat.vocabulary.ops import Array, Ops, Padding, Pair, Tensor


@dataclass(frozen=True)
class ConvGeometry(Channels):
    """The fields that a convolution begins with."""

    kernel_size: int | Pair
    stride: int | Pair = 1
    pad_mode: str = "same"
    padding: int | Pair | Padding = 0
    dilation: int | Pair = 1
    group: int = 1


@dataclass(frozen=True)
class Conv2dBnAct(WeightedCell, ConvGeometry):
    """Convolution, batch normalisation and activation in one cell; its quantized form keeps accumulators as integers.

    Input: (in_channels, H, W), output: (out_channels, H', W'). Parameters: weight (out, in / group, kh, kw), and like
    it weight_mask, 0 or 1, if it has a pruner; bias (out,) if has_bias; gamma, beta, moving_mean, moving_variance
    (out,) if has_bn.

    Args:
        in_channels: of its input.
        out_channels: of its output.
        kernel_size: in pixels; one number, or (height, width).
        stride: in pixels; one number, or (height, width). Default: 1.
        pad_mode: "same", as TensorFlow pads; "valid", no padding; or "pad", as ``padding`` says. Default: "same".
        padding: in pixels; one number, (vertical, horizontal) or (top, bottom, left, right). Default: 0.
        dilation: distance of kernel elements in pixels; one number, or (height, width). Default: 1.
        group: number of groups of channels. Default: 1.
        has_bias: whether a bias is added. Default: False.
        has_bn: whether batch normalisation comes before the activation. Default: False.
        momentum: of the running statistics, momentum * running + (1 - momentum) * batch, 0 to 1. Default: 0.9.
        eps: what is added to a variance before its square root. Default: 1e-5.
        activation: None or a name of ``qat.vocabulary.activations``. Default: None.
        alpha: the activation's own, as of ``Activation``. Default: None: 0.2 of "leaky_relu", 1 of "elu".
        after_fake: let convert_quant_network put a fake quantizer after it. Default: True.
        weight_quantizer: set by convert_quant_network. Default: None, a float cell.
        bn_fold: set by convert_quant_network (``LinearCell``). Default: None.
        freeze_bn: set by convert_quant_network: the training step from which on running statistics normalise.
        pruner: set by ``qat.pruning.prune_weights``. Default: None.
        input_normalization: set by convert_quant_network, of a cell that takes raw pixels. Default: None.

    Raises:
        QatError: where a field is out of its range, or fields do not go together.

    Example:
        >>> import qat
        >>> qat.Conv2dBnAct(3, 16, 3, stride=2, has_bn=True, activation="relu").output_shape((3, 32, 32))
        (16, 16, 16)
    """

    weight_kind = "conv_weight"

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
        check_counts("Conv2dBnAct", in_channels=self.in_channels, out_channels=self.out_channels, group=self.group)
        check_window("Conv2dBnAct", self.pad_mode, self.padding, *self._geometry)
        if self.in_channels % self.group or self.out_channels % self.group:
            raise QatError(
                f"Conv2dBnAct: group {self.group} divides {self.in_channels} input and {self.out_channels} output channels "
                "unevenly; both must be multiples of it"
            )

    @property
    def _geometry(self) -> tuple[Pair, Pair, Pair]:
        return (
            pair(self.kernel_size),
            pair(self.stride),
            pair(self.dilation),
        )

    def pads(self, x_shape: Shape) -> bool:
        """Whether a window over an input of this shape may lie beyond it."""
        return any(self._window(x_shape)["padding"])

    def _window(self, x_shape: Shape) -> dict[str, Any]:
        """stride, padding, dilation and group for an input of this shape."""
        kernel, stride, dilation = self._geometry
        explicit = check_window("Conv2dBnAct", self.pad_mode, self.padding, kernel, stride, dilation)
        padding = window_padding((x_shape[1], x_shape[2]), kernel, stride, dilation, self.pad_mode, explicit)
        return {"stride": stride, "padding": padding, "dilation": dilation, "group": self.group}

    @property
    def _channels_taken(self) -> int:
        """``in_channels``, and the further one of a normalised input."""
        return self.in_channels + (self.input_normalization.further if self.input_normalization else 0)

    @property
    def weight_shape(self) -> Shape:
        return (self.out_channels, self.in_channels // self.group, *self._geometry[0])

    def output_shape(self, *shapes: Shape) -> Shape:
        (x,) = shapes
        channels = self._channels_taken
        if len(x) != 3 or x[0] != channels:
            raise QatError(f"takes ({channels}, H, W) but gets {x}; change in_channels or the cell before it")
        kernel, stride, dilation = self._geometry
        size = checked_output_size(x, kernel, stride, dilation, self._window(x)["padding"])
        if min(size) < 1:
            raise QatError(f"its {kernel} kernel does not fit into its input {x}; use a smaller kernel or more padding")
        return (self.out_channels, *size)

    def macs(self, output: Shape, *, with_bias: bool) -> int:
        bias = with_bias and (self.has_bias or self.has_bn)
        taken = self._channels_taken // self.group * math.prod(self.weight_shape[2:])
        return math.prod(output) * (taken + bias)

    def with_channels(self, outputs: int, inputs: int) -> Conv2dBnAct:
        group = inputs if self.is_depthwise else self.group
        return replace(self, in_channels=inputs, out_channels=outputs, group=group)

    def sliced(self, local: str, array: Array, outputs: Array, inputs: Array) -> Array:
        array = array[outputs]
        if array.ndim < 2 or self.is_depthwise:
            return array
        inputs = inputs[: self.in_channels // self.group]  # the same places in every group
        return np.ascontiguousarray(array[:, inputs])

    def apply(self, ops: Ops, x: Tensor, x_shape: Shape, w: Tensor, bias: Tensor | None) -> Tensor:
        return ops.conv2d(x, w, bias, **self._window(x_shape))

    def integer_node(self, x_shape: Shape, **fields: Any) -> IntegerLinear:
        return IntegerConv2d(**fields, **self._window(x_shape))
