"""Three of the four networks of MLPerf Tiny (Banbury et al., arXiv 2106.07597, github.com/mlcommons/tiny); ResNet8 is the
other.

As published, with biases before the batch normalisations. Their last layers give logits.
"""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import qat
from qat.cells.tracing import Traced
from qat.networks.compact import DepthwiseSeparable
from qat.networks.taken import picture


class DSCNN(qat.Network):
    """Keyword spotting: a 10x4 convolution and four depthwise-separable blocks of 64 channels (Zhang et al., arXiv 1711.07128).

    24,908 numbers, 1,152 of them running statistics; 2,656,768 products. Input: 49 frames of 10 cepstral coefficients,
    stored as bytes. The last pooling leaves the 25th row out, as the published one does.

    Args:
        num_class: number of outputs; default 12.
        channel: number of input channels; default 1.
        input: what it is fitted to, in place of its own; None by default.
    """

    def __init__(self, num_class: int = 12, channel: int = 1, *, input: qat.Input | None = None) -> None:
        self.inputs = picture(input, qat.Input((channel, 49, 10), mean=0.5, std=0.25))
        channel, *sides = self.inputs.shape
        rows, columns = ((side + 1) // 2 for side in sides)
        self.conv = qat.Conv2dBnAct(channel, 64, (10, 4), 2, has_bias=True, has_bn=True, activation="relu")
        self.dropout = qat.Dropout(0.2)
        self.blocks = [DepthwiseSeparable(64, 64, has_bias=True) for _ in range(4)]
        self.last_dropout = qat.Dropout(0.4)
        self.pool = qat.AvgPool2d((24 if rows == 25 else rows, columns))
        self.flatten = qat.Flatten()
        self.fc = qat.DenseBnAct(64, num_class)

    def construct(self, x: Traced) -> Traced:
        x = self.dropout(self.conv(x))
        for block in self.blocks:
            x = block(x)
        return self.fc(self.flatten(self.pool(self.last_dropout(x))))


class MobileNetV1(qat.Network):
    """Visual wake words: MobileNet of a quarter of the width (Howard et al., arXiv 1704.04861, table 1), 96x96 colour images.

    221,794 numbers, 5,472 of them running statistics; 7,489,664 products.

    Args:
        num_class: number of outputs; default 2.
        channel: number of input channels; default 3.
        input: what it is fitted to, in place of its own; None by default.
    """

    STAGES = ((16, 1), (32, 2), (32, 1), (64, 2), (64, 1), (128, 2), *[(128, 1)] * 5, (256, 2), (256, 1))

    def __init__(self, num_class: int = 2, channel: int = 3, *, input: qat.Input | None = None) -> None:
        self.inputs = picture(input, qat.Input((channel, 96, 96), mean=0.5, std=0.25))
        channel = self.inputs.shape[0]
        self.conv = qat.Conv2dBnAct(channel, 8, 3, 2, has_bias=True, has_bn=True, activation="relu")
        self.blocks = []
        channels = 8
        for width, stride in self.STAGES:
            self.blocks.append(DepthwiseSeparable(channels, width, stride, has_bias=True))
            channels = width
        self.pool = qat.GlobalAvgPool2d()
        self.flatten = qat.Flatten()
        self.fc = qat.DenseBnAct(channels, num_class)

    def construct(self, x: Traced) -> Traced:
        x = self.conv(x)
        for block in self.blocks:
            x = block(x)
        return self.fc(self.flatten(self.pool(x)))


class Autoencoder(qat.Network):
    """Anomaly detection: dense layers 640 - 128 (4 times) - 8 - 128 (4 times) - 640 that give back what they are fed.

    269,992 numbers, 2,064 of them running statistics; 264,192 products. Input: five frames of 128 mel bands, stored as
    bytes, or any other row of numbers. Its targets are its inputs, normalised (``qat.training.losses.mean_squared_error``);
    the error of a sample says how unusual it is.

    Args:
        features: numbers of a sample, in and out; default 640.
        input: what it is fitted to, in place of pixels, as one row of numbers; None by default.
    """

    def __init__(self, features: int = 640, *, input: qat.Input | None = None) -> None:
        features = features if input is None else math.prod(input.shape)
        own = qat.Input((features,), mean=0.5, std=0.25)
        self.inputs = own if input is None else replace(input, shape=(features,))
        widths = (features, 128, 128, 128, 128, 8, 128, 128, 128, 128)
        self.layers = [
            qat.DenseBnAct(before, after, has_bn=True, activation="relu") for before, after in pairwise(widths)
        ]
        self.reconstruction = qat.DenseBnAct(128, features)

    def construct(self, x: Traced) -> Traced:
        for layer in self.layers:
            x = layer(x)
        return self.reconstruction(x)
