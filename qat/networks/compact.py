"""Compact networks: blocks of depthwise convolutions, and two small families for 28x28 digits made of them."""

from __future__ import annotations

import qat
from qat.cells.tracing import Traced
from qat.networks.taken import picture


class DepthwiseSeparable(qat.Network):
    """A depthwise convolution, then a 1x1 one, each with batch normalisation and ReLU (Howard et al., arXiv 1704.04861, 3.1).

    Args:
        in_channels: of the input.
        out_channels: of the output.
        stride: of the depthwise convolution, in pixels.
        kernel_size: of the depthwise convolution, in pixels.
        has_bias: biases before the batch normalisations, as MLPerf Tiny has them.
        depthwise_activation: in place of the first ReLU; None: none.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int = 1,
        kernel_size: int = 3,
        *,
        has_bias: bool = False,
        depthwise_activation: str | None = "relu",
    ) -> None:
        self.depthwise = qat.Conv2dBnAct(
            in_channels,
            in_channels,
            kernel_size,
            stride,
            group=in_channels,
            has_bias=has_bias,
            has_bn=True,
            activation=depthwise_activation,
        )
        self.pointwise = qat.Conv2dBnAct(
            in_channels, out_channels, 1, has_bias=has_bias, has_bn=True, activation="relu"
        )

    def construct(self, x: Traced) -> Traced:
        return self.pointwise(self.depthwise(x))


class InvertedResidual(qat.Network):
    """A 1x1 convolution to ``expansion`` times the channels, a depthwise one, and a linear 1x1 one back; plus the input,
    where shape and channels stay (Sandler et al., arXiv 1801.04381, section 3.3).

    All with batch normalisation; ReLU6 after the first two.

    Args:
        in_channels: of the input.
        out_channels: of the output.
        stride: of the depthwise convolution, in pixels.
        expansion: how many times as many channels the depthwise convolution has.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1, expansion: int = 4) -> None:
        hidden = in_channels * expansion
        self.expand = qat.Conv2dBnAct(in_channels, hidden, 1, has_bn=True, activation="relu6")
        self.depthwise = qat.Conv2dBnAct(hidden, hidden, 3, stride, group=hidden, has_bn=True, activation="relu6")
        self.project = qat.Conv2dBnAct(hidden, out_channels, 1, has_bn=True)
        self.add = qat.Add() if stride == 1 and in_channels == out_channels else None

    def construct(self, x: Traced) -> Traced:
        y = self.project(self.depthwise(self.expand(x)))
        return y if self.add is None else self.add(x, y)


class _Compact(qat.Network):
    """A 3x3 convolution of stride 2, blocks, global average pooling, a dense layer. Input: 28x28 pixels, as MNIST's."""

    def __init__(
        self,
        stem: int,
        blocks: list[qat.Network],
        last: int,
        num_class: int,
        channel: int,
        input: qat.Input | None,
    ) -> None:
        self.inputs = picture(input, qat.Input((channel, 28, 28), mean=0.1307, std=0.3081))
        self.conv = qat.Conv2dBnAct(self.inputs.shape[0], stem, 3, 2, has_bn=True, activation="relu")
        self.blocks = blocks
        self.pool = qat.GlobalAvgPool2d()
        self.flatten = qat.Flatten()
        self.fc = qat.DenseBnAct(last, num_class)

    def construct(self, x: Traced) -> Traced:
        x = self.conv(x)
        for block in self.blocks:
            x = block(x)
        return self.fc(self.flatten(self.pool(x)))


class CompactSeparable(_Compact):
    """Three depthwise-separable blocks; width multiplies all channels. At width 8: 2,370 parameters, 127,720 products.

    Args:
        num_class: number of outputs; default 10.
        channel: number of input channels; default 1.
        width: channels of the first convolution; the others are multiples of it; default 8.
        input: what it is fitted to, in place of its own; None by default.
    """

    def __init__(
        self, num_class: int = 10, channel: int = 1, width: int = 8, *, input: qat.Input | None = None
    ) -> None:
        blocks: list[qat.Network] = [
            DepthwiseSeparable(width, 2 * width),
            DepthwiseSeparable(2 * width, 3 * width, 2),
            DepthwiseSeparable(3 * width, 4 * width),
        ]
        super().__init__(width, blocks, 4 * width, num_class, channel, input)


class CompactResidual(_Compact):
    """Four inverted-residual blocks, two of them with a residual path; width multiplies all channels. At width 8: 6,802
    parameters, 426,912 products.

    Args:
        num_class: number of outputs; default 10.
        channel: number of input channels; default 1.
        width: channels of the first convolution; the others are multiples of it; default 8.
        input: what it is fitted to, in place of its own; None by default.
    """

    def __init__(
        self, num_class: int = 10, channel: int = 1, width: int = 8, *, input: qat.Input | None = None
    ) -> None:
        blocks: list[qat.Network] = [
            InvertedResidual(width, width),
            InvertedResidual(width, 2 * width, 2),
            InvertedResidual(2 * width, 2 * width),
            InvertedResidual(2 * width, 2 * width, 2, expansion=2),
        ]
        super().__init__(width, blocks, 2 * width, num_class, channel, input)


class CompactDigits(qat.Network):
    """A 5x5 convolution of stride 2, two depthwise-separable blocks and a depthwise convolution over what is left, for 28x28
    digits. width multiplies all channels. At width 8: 1,194 parameters once batch normalisation is folded in, 98,304 products.

    The depthwise convolutions have no ReLU: with so few channels it would cost more than it gives.

    Args:
        num_class: number of outputs; default 10.
        channel: number of input channels; default 1.
        width: channels of the first convolution; the others are multiples of it; default 8.
        input: what it is fitted to, in place of its own; None by default.
    """

    def __init__(
        self, num_class: int = 10, channel: int = 1, width: int = 8, *, input: qat.Input | None = None
    ) -> None:
        wide = 2 * width
        self.inputs = picture(input, qat.Input((channel, 28, 28), mean=0.1307, std=0.3081))
        channel, *sides = self.inputs.shape
        height, breadth = (max((side + 1) // 2 // 2 // 2 - 2, 1) for side in sides)  # what the last convolution leaves
        self.conv = qat.Conv2dBnAct(channel, width, 5, 2, has_bn=True, activation="relu")
        self.blocks = [
            DepthwiseSeparable(width, wide, depthwise_activation=None),
            DepthwiseSeparable(wide, wide, depthwise_activation=None),
        ]
        self.last = qat.Conv2dBnAct(wide, wide, 3, pad_mode="valid", group=wide, has_bn=True)
        self.pool = qat.MaxPool2d(2)
        self.flatten = qat.Flatten()
        self.fc = qat.DenseBnAct(wide * height * breadth, num_class)

    def construct(self, x: Traced) -> Traced:
        first, second = self.blocks
        x = self.pool(first(self.conv(x)))
        return self.fc(self.flatten(self.last(self.pool(second(x)))))
