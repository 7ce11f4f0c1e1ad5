"""Networks for timing that are larger than those of qat.networks: MobileNetV2 and ResNet-18, with torchvision's layers.

python benchmarks/c_time.py --networks larger_networks:MobileNetV2 larger_networks:ResNet18
"""

from __future__ import annotations

import qat
from qat.cells.tracing import Traced
from qat.networks.compact import InvertedResidual
from qat.networks.resnet import BasicBlock


class MobileNetV2(qat.Network):
    """Sandler et al., arXiv 1801.04381, table 2; images of 96x96 pixels."""

    inputs = (qat.Input((3, 96, 96), mean=0.45, std=0.225),)

    #: expansion, channels, blocks and the stride of the first of them
    STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))

    def __init__(self, num_class: int = 1000) -> None:
        self.conv = qat.Conv2dBnAct(3, 32, 3, 2, has_bn=True, activation="relu6")
        self.blocks = []
        channels = 32
        for expansion, width, blocks, stride in self.STAGES:
            for index in range(blocks):
                self.blocks.append(InvertedResidual(channels, width, stride if index == 0 else 1, expansion))
                channels = width
        self.last = qat.Conv2dBnAct(channels, 1280, 1, has_bn=True, activation="relu6")
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

    def __init__(self, num_class: int = 1000) -> None:
        self.conv = qat.Conv2dBnAct(3, 64, 7, 2, pad_mode="pad", padding=3, has_bn=True, activation="relu")
        self.largest = qat.MaxPool2d(3, 2, pad_mode="pad", padding=1)
        self.blocks = []
        channels = 64
        for width in (64, 128, 256, 512):
            for index in range(2):
                stride = 2 if width != 64 and index == 0 else 1
                self.blocks.append(BasicBlock(channels, width, stride, tiny=False))
                channels = width
        self.pool, self.flatten = qat.GlobalAvgPool2d(), qat.Flatten()
        self.fc = qat.DenseBnAct(channels, num_class)

    def construct(self, x: Traced) -> Traced:
        x = self.largest(self.conv(x))
        for block in self.blocks:
            x = block(x)
        return self.fc(self.flatten(self.pool(x)))


NETWORKS: dict[str, type[qat.Network]] = {"resnet18": ResNet18, "mobilenetv2": MobileNetV2}
