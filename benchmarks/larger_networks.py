"""Networks for timing that are larger than those of qat.networks: MobileNetV2 and ResNet-18, with torchvision's layers.

python benchmarks/c_time.py --networks larger_networks:MobileNetV2 larger_networks:ResNet18
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import qat
from qat.cells.tracing import Traced
from qat.networks.compact import InvertedResidual
from qat.networks.resnet import BasicBlock


class Block(NamedTuple):
    """Of residual blocks that follow one another, one."""

    in_channels: int
    channels: int
    stride: int
    expansion: int = 1


def in_stages(in_channels: int, *stages: tuple[int, int, int, int]) -> tuple[Block, ...]:
    """The blocks of stages: expansion, channels, blocks and the stride of the first of them."""
    found = []
    for expansion, channels, blocks, first in stages:
        for index in range(blocks):
            found.append(Block(in_channels, channels, first if index == 0 else 1, expansion))
            in_channels = channels
    return tuple(found)


class MobileNetV2(qat.Network):
    """Sandler et al., arXiv 1801.04381, table 2; images of 96x96 pixels."""

    inputs = (qat.Input((3, 96, 96), mean=0.45, std=0.225),)

    BLOCKS = in_stages(
        32, (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)
    )

    def __init__(self, num_class: int = 1000) -> None:
        self.conv = qat.Conv2dBnAct(3, 32, 3, 2, has_bn=True, activation="relu6")
        self.blocks = [InvertedResidual(*block) for block in self.BLOCKS]
        self.last = qat.Conv2dBnAct(320, 1280, 1, has_bn=True, activation="relu6")
        self.pool, self.flatten = qat.GlobalAvgPool2d(), qat.Flatten()
        self.fc = qat.DenseBnAct(1280, num_class)

    def construct(self, x: Traced) -> Traced:
        x = self.conv(x)
        for block in self.blocks:
            x = block(x)
        return self.fc(self.flatten(self.pool(self.last(x))))


class ResNet18(qat.Network):
    """He et al., arXiv 1512.03385, table 1; images of 64x64 pixels."""

    inputs = (qat.Input((3, 64, 64), mean=0.45, std=0.225),)
    BLOCKS = in_stages(64, (1, 64, 2, 1), (1, 128, 2, 2), (1, 256, 2, 2), (1, 512, 2, 2))

    def __init__(self, num_class: int = 1000) -> None:
        self.conv = qat.Conv2dBnAct(3, 64, 7, 2, pad_mode="pad", padding=3, has_bn=True, activation="relu")
        self.largest = qat.MaxPool2d(3, 2, pad_mode="pad", padding=1)
        self.blocks = [BasicBlock(b.in_channels, b.channels, b.stride, tiny=False) for b in self.BLOCKS]
        self.pool, self.flatten = qat.GlobalAvgPool2d(), qat.Flatten()
        self.fc = qat.DenseBnAct(512, num_class)

    def construct(self, x: Traced) -> Traced:
        x = self.largest(self.conv(x))
        for block in self.blocks:
            x = block(x)
        return self.fc(self.flatten(self.pool(x)))


class Plain(NamedTuple):
    """A network by hand, in a framework's layers, and the mean and standard deviation of pixels that it takes normalised."""

    make: Callable[[], Any]
    mean: float = 0.1307
    std: float = 0.3081


NETWORKS: dict[str, type[qat.Network]] = {"resnet18": ResNet18, "mobilenetv2": MobileNetV2}
