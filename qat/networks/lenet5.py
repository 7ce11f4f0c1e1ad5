"""LeNet-5 as MindSpore's quantization tutorial has it: 32x32 digits, 61,684 parameters."""

from __future__ import annotations

import qat
from qat.cells.tracing import Traced
from qat.networks.taken import picture


def _left(size: int, kernel: int) -> int:
    """What two valid convolutions, with a pooling after each, leave of a side; at least 1, so that the convolution that has
    nothing left says so.
    """
    for _ in range(2):
        size = (size - kernel + 1) // 2
    return max(size, 1)


class LeNet5(qat.Network):
    """Two valid 5x5 convolutions and three dense layers (LeCun et al., 1998, with ReLU and max pooling).

    Input: 32x32 pixels, normalised as MNIST.

    Args:
        num_class: number of outputs.
        channel: number of input channels.
        has_bn: batch normalisation after each convolution.
        activation: of every layer but the last; None for binary activation quantizers, which are a sign function themselves.
        input: what it is fitted to, in place of its own; None by default.
    """

    def __init__(
        self,
        num_class: int = 10,
        channel: int = 1,
        *,
        has_bn: bool = False,
        activation: str | None = "relu",
        input: qat.Input | None = None,
    ) -> None:
        self.inputs = picture(input, qat.Input((channel, 32, 32), mean=0.1307, std=0.3081))
        channel, height, width = self.inputs.shape
        self.conv1 = qat.Conv2dBnAct(channel, 6, 5, pad_mode="valid", has_bn=has_bn, activation=activation)
        self.conv2 = qat.Conv2dBnAct(6, 16, 5, pad_mode="valid", has_bn=has_bn, activation=activation)
        self.fc1 = qat.DenseBnAct(16 * _left(height, 5) * _left(width, 5), 120, activation=activation)
        self.fc2 = qat.DenseBnAct(120, 84, activation=activation)
        self.fc3 = qat.DenseBnAct(84, num_class)
        self.max_pool2d = qat.MaxPool2d(kernel_size=2, stride=2)
        self.flatten = qat.Flatten()

    def construct(self, x: Traced) -> Traced:
        x = self.conv1(x)
        x = self.max_pool2d(x)
        x = self.conv2(x)
        x = self.max_pool2d(x)
        x = self.flatten(x)
        x = self.fc1(x)
        x = self.fc2(x)
        return self.fc3(x)


class LeNet5BN(LeNet5):
    """LeNet5 with batch normalisation after each convolution: 61,728 parameters."""

    def __init__(self, num_class: int = 10, channel: int = 1, *, input: qat.Input | None = None) -> None:
        super().__init__(num_class, channel, has_bn=True, input=input)


class LeNet3x3(qat.Network):
    """LeNet-5 with valid 3x3 convolutions for 28x28 digits: 60,074 parameters, 199,968 products (205,960 with the biases of
    convolutions, as its document counts).

    Args:
        num_class: number of outputs.
        channel: number of input channels.
        input: what it is fitted to, in place of its own; None by default.
    """

    def __init__(self, num_class: int = 10, channel: int = 1, *, input: qat.Input | None = None) -> None:
        self.inputs = picture(input, qat.Input((channel, 28, 28), mean=0.1307, std=0.3081))
        channel, height, width = self.inputs.shape
        self.conv1 = qat.Conv2dBnAct(channel, 6, 3, pad_mode="valid", has_bias=True, activation="relu")
        self.conv2 = qat.Conv2dBnAct(6, 16, 3, pad_mode="valid", has_bias=True, activation="relu")
        self.fc1 = qat.DenseBnAct(16 * _left(height, 3) * _left(width, 3), 120, activation="relu")
        self.fc2 = qat.DenseBnAct(120, 84, activation="relu")
        self.fc3 = qat.DenseBnAct(84, num_class)
        self.max_pool2d = qat.MaxPool2d(kernel_size=2, stride=2)
        self.flatten = qat.Flatten()

    def construct(self, x: Traced) -> Traced:
        x = self.max_pool2d(self.conv1(x))
        x = self.max_pool2d(self.conv2(x))
        x = self.flatten(x)
        return self.fc3(self.fc2(self.fc1(x)))
