"""The digit network of Himax's WE-I Plus examples, for microcontrollers: 16,842 parameters, 203,552 products an image."""

from __future__ import annotations

import qat
from qat.cells.tracing import Traced
from qat.networks.taken import picture


class MnistCnn(qat.Network):
    """Two valid 3x3 convolutions with ReLU and max pooling, a valid 5x5 one without, two dense layers.

    Input: 28x28 pixels. The code of a pixel is pixel - 128, as its document prescribes. Mean 128/255 is the zero point 128;
    std 128/255 makes the network see (pixel - 128) / 128, which trains far better than the document's scale of 1
    (docs/calibration.md).

    Args:
        num_class: number of outputs.
        channel: number of input channels.
        input: what it is fitted to, in place of its own; None by default.
    """

    def __init__(self, num_class: int = 10, channel: int = 1, *, input: qat.Input | None = None) -> None:
        self.inputs = picture(input, qat.Input((channel, 28, 28), mean=128 / 255, std=128 / 255))
        channel, *sides = self.inputs.shape
        height, width = (max(((side - 2) // 2 - 2) // 2 - 4, 1) for side in sides)  # after three valid convolutions
        self.conv1 = qat.Conv2dBnAct(channel, 8, 3, pad_mode="valid", has_bias=True, activation="relu")
        self.conv2 = qat.Conv2dBnAct(8, 16, 3, pad_mode="valid", has_bias=True, activation="relu")
        self.conv3 = qat.Conv2dBnAct(16, 32, 5, pad_mode="valid", has_bias=True)
        self.fc1 = qat.DenseBnAct(32 * height * width, 64, activation="relu")
        self.fc2 = qat.DenseBnAct(64, num_class)
        self.max_pool2d = qat.MaxPool2d(kernel_size=2, stride=2)
        self.flatten = qat.Flatten()

    def construct(self, x: Traced) -> Traced:
        x = self.max_pool2d(self.conv1(x))
        x = self.max_pool2d(self.conv2(x))
        x = self.flatten(self.conv3(x))
        return self.fc2(self.fc1(x))
