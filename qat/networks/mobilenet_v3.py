"""MobileNetV3-Small: inverted residuals with squeeze and excitation, and hard swish (Howard et al., arXiv 1905.02244)."""

from __future__ import annotations

import qat
from qat.cells.tracing import Traced
from qat.networks.taken import picture

DIVISOR = 8  #: of numbers of channels


def rounded(channels: float) -> int:
    """The multiple of 8 next to it, none more than a tenth below it."""
    found = max(DIVISOR, int(channels + DIVISOR / 2) // DIVISOR * DIVISOR)
    return found + DIVISOR if found < 0.9 * channels else found


class SqueezeExcitation(qat.Network):
    """Each channel multiplied by a number of 0 to 1 that is computed from the means of all of them (Hu et al., arXiv
    1709.01507, section 3), here with a ReLU and a hard sigmoid.

    Args:
        channels: of input and output.
        squeezed: channels between the two 1x1 convolutions.
    """

    def __init__(self, channels: int, squeezed: int) -> None:
        self.pool = qat.GlobalAvgPool2d()
        self.reduce = qat.Conv2dBnAct(channels, squeezed, 1, has_bias=True, activation="relu")
        self.expand = qat.Conv2dBnAct(squeezed, channels, 1, has_bias=True, activation="hsigmoid")

    def construct(self, x: Traced) -> Traced:
        return x * self.expand(self.reduce(self.pool(x)))


class Bottleneck(qat.Network):
    """A 1x1 convolution to ``hidden`` channels, a depthwise one, squeeze and excitation, a linear 1x1 convolution; plus the
    input, where shape and channels stay (figure 4).

    Args:
        in_channels: of the input.
        hidden: channels of the depthwise convolution.
        out_channels: of the output.
        kernel_size: of the depthwise convolution, in pixels.
        stride: of the depthwise convolution, in pixels.
        excited: whether there is a squeeze and excitation, with a quarter of the hidden channels.
        activation: after the first two convolutions: "relu" or "hswish".
    """

    def __init__(
        self,
        in_channels: int,
        hidden: int,
        out_channels: int,
        kernel_size: int,
        stride: int,
        *,
        excited: bool,
        activation: str,
    ) -> None:
        self.widen = None
        if hidden != in_channels:
            self.widen = qat.Conv2dBnAct(in_channels, hidden, 1, has_bn=True, activation=activation)
        self.depthwise = qat.Conv2dBnAct(
            hidden, hidden, kernel_size, stride, group=hidden, has_bn=True, activation=activation
        )
        self.excitation = SqueezeExcitation(hidden, rounded(hidden / 4)) if excited else None
        self.project = qat.Conv2dBnAct(hidden, out_channels, 1, has_bn=True)
        self.residual = stride == 1 and in_channels == out_channels

    def construct(self, x: Traced) -> Traced:
        y = self.depthwise(x if self.widen is None else self.widen(x))
        y = self.project(y if self.excitation is None else self.excitation(y))
        return x + y if self.residual else y


class MobileNetV3(qat.Network):
    """MobileNetV3-Small of table 2. width multiplies all channels but the last dense layer's.

    A side is halved five times, but never below 4 pixels, as the published one leaves 7 of 224: small pictures keep something
    to look at. At width 1 with 1,000 outputs: 2,542,856 parameters.

    Args:
        num_class: number of outputs; default 10.
        channel: number of input channels; default 3.
        width: the published channels times this; default 1.
        input: what it is fitted to, in place of its own 32 x 32 pixels; None by default.
    """

    any_size = True
    #: kernel size, hidden channels, output channels, squeeze and excitation, activation, stride
    BLOCKS = (
        (3, 16, 16, True, "relu", 2),
        (3, 72, 24, False, "relu", 2),
        (3, 88, 24, False, "relu", 1),
        (5, 96, 40, True, "hswish", 2),
        (5, 240, 40, True, "hswish", 1),
        (5, 240, 40, True, "hswish", 1),
        (5, 120, 48, True, "hswish", 1),
        (5, 144, 48, True, "hswish", 1),
        (5, 288, 96, True, "hswish", 2),
        (5, 576, 96, True, "hswish", 1),
        (5, 576, 96, True, "hswish", 1),
    )
    SMALLEST = 4  #: pixels of a side

    def __init__(
        self, num_class: int = 10, channel: int = 3, width: float = 1.0, *, input: qat.Input | None = None
    ) -> None:
        self.inputs = picture(input, qat.Input((channel, 32, 32), mean=0.5, std=0.25))
        side = min(self.inputs.shape[1:])

        def halved(stride: int) -> int:
            """The stride that is left of it."""
            nonlocal side
            if stride == 1 or (side + 1) // 2 < self.SMALLEST:
                return 1
            side = (side + 1) // 2
            return stride

        channels = rounded(16 * width)
        self.conv = qat.Conv2dBnAct(self.inputs.shape[0], channels, 3, halved(2), has_bn=True, activation="hswish")
        self.blocks = []
        for kernel_size, hidden, out, excited, activation, stride in self.BLOCKS:
            wide, after = rounded(hidden * width), rounded(out * width)
            block = Bottleneck(
                channels, wide, after, kernel_size, halved(stride), excited=excited, activation=activation
            )
            self.blocks.append(block)
            channels = after
        last = rounded(576 * width)
        self.last = qat.Conv2dBnAct(channels, last, 1, has_bn=True, activation="hswish")
        self.pool = qat.GlobalAvgPool2d()
        self.fc1 = qat.DenseBnAct(last, 1024, activation="hswish")
        self.dropout = qat.Dropout(0.2)
        self.fc2 = qat.DenseBnAct(1024, num_class)

    def construct(self, x: Traced) -> Traced:
        x = self.conv(x)
        for block in self.blocks:
            x = block(x)
        x = self.pool(self.last(x)).flatten()
        return self.fc2(self.dropout(self.fc1(x)))
