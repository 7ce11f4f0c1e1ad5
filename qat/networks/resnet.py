"""Residual networks for 32x32 colour images (He et al., arXiv 1512.03385, section 4.2)."""

from __future__ import annotations

import qat
from qat.cells.tracing import Traced
from qat.networks.taken import picture


class BasicBlock(qat.Network):
    """relu(conv(conv(x)) + shortcut(x)), two 3x3 convolutions with batch normalisation.

    The shortcut is the identity, or a 1x1 convolution where the shape changes.

    Args:
        in_channels: of the input.
        out_channels: of the output.
        stride: of the first convolution and the shortcut, in pixels.
        tiny: as in MLPerf Tiny: biases before the batch normalisations, and no batch normalisation after the shortcut.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, tiny: bool) -> None:
        self.conv1 = qat.Conv2dBnAct(
            in_channels, out_channels, 3, stride, has_bias=tiny, has_bn=True, activation="relu"
        )
        self.conv2 = qat.Conv2dBnAct(out_channels, out_channels, 3, has_bias=tiny, has_bn=True)
        self.shortcut = None
        if stride != 1 or in_channels != out_channels:
            self.shortcut = qat.Conv2dBnAct(in_channels, out_channels, 1, stride, has_bias=tiny, has_bn=not tiny)
        self.add = qat.Add(activation="relu")

    def construct(self, x: Traced) -> Traced:
        y = self.conv2(self.conv1(x))
        return self.add(y, x if self.shortcut is None else self.shortcut(x))


class ResNet(qat.Network):
    """A 3x3 convolution, three stages of blocks with 16, 32 and 64 channels, global average pooling, a dense layer.

    Args:
        blocks: in each stage.
        num_class: number of outputs.
        tiny: see ``BasicBlock``.
        input: what it is fitted to, in place of its own; None by default.
    """

    def __init__(self, blocks: int, num_class: int = 10, tiny: bool = False, *, input: qat.Input | None = None) -> None:
        own = qat.Input((3, 32, 32), mean=0.4734, std=0.2516)  # of CIFAR-10, over all channels
        self.inputs = picture(input, own)
        self.conv = qat.Conv2dBnAct(self.inputs.shape[0], 16, 3, has_bias=tiny, has_bn=True, activation="relu")
        self.blocks = []
        channels = 16
        for width in (16, 32, 64):
            for index in range(blocks):
                stride = 2 if width != 16 and index == 0 else 1
                self.blocks.append(BasicBlock(channels, width, stride, tiny))
                channels = width
        self.pool = qat.GlobalAvgPool2d()
        self.flatten = qat.Flatten()
        self.fc = qat.DenseBnAct(channels, num_class)

    def construct(self, x: Traced) -> Traced:
        x = self.conv(x)
        for block in self.blocks:
            x = block(x)
        return self.fc(self.flatten(self.pool(x)))


class ResNet8(ResNet):
    """One block a stage, as in MLPerf Tiny (arXiv 2106.07597): 78,666 numbers, 480 of them running statistics.

    Args:
        num_class: number of outputs; default 10.
        input: what it is fitted to, in place of its own; None by default.
    """

    def __init__(self, num_class: int = 10, *, input: qat.Input | None = None) -> None:
        super().__init__(1, num_class, tiny=True, input=input)


class ResNet20(ResNet):
    """Three blocks a stage (He et al., table 6, with 1x1 shortcuts: option B).

    Args:
        num_class: number of outputs; default 10.
        input: what it is fitted to, in place of its own; None by default.
    """

    def __init__(self, num_class: int = 10, *, input: qat.Input | None = None) -> None:
        super().__init__(3, num_class, input=input)
