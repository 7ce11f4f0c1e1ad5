"""The LeNet of Generalized Ternary Connect: 28x28 digits, no biases, 82,034 weights."""

from __future__ import annotations

import qat
from qat.cells.tracing import Traced
from qat.networks.taken import picture


class LeNetGTC(qat.Network):
    """Two 5x5 convolutions with padding and three dense layers, ReLU between them (Parajuli et al., arXiv 1811.04985).

    Input: 28x28 pixels, scaled to 0..1.

    Args:
        num_class: number of outputs.
        channel: number of input channels.
        input: what it is fitted to, in place of its own; None by default.
    """

    def __init__(self, num_class: int = 10, channel: int = 1, *, input: qat.Input | None = None) -> None:
        self.inputs = picture(input, qat.Input((channel, 28, 28)))
        channel, height, width = self.inputs.shape
        self.conv1 = qat.Conv2dBnAct(channel, 6, 5, activation="relu")
        self.conv2 = qat.Conv2dBnAct(6, 10, 5, activation="relu")
        self.fc1 = qat.DenseBnAct(10 * (height // 4) * (width // 4), 128, has_bias=False, activation="relu")
        self.fc2 = qat.DenseBnAct(128, 128, has_bias=False, activation="relu")
        self.fc3 = qat.DenseBnAct(128, num_class, has_bias=False)
        self.max_pool2d = qat.MaxPool2d(kernel_size=2, stride=2)
        self.flatten = qat.Flatten()

    def construct(self, x: Traced) -> Traced:
        x = self.max_pool2d(self.conv1(x))
        x = self.max_pool2d(self.conv2(x))
        x = self.flatten(x)
        return self.fc3(self.fc2(self.fc1(x)))
