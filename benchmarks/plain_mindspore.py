"""Networks as one writes them by hand in MindSpore: what the lowered ones are measured against."""

from __future__ import annotations

from collections.abc import Callable

import mindspore as ms
import numpy as np
from mindspore import nn, ops

from qat.backends.mindspore import network as mindspore_backend  # noqa: F401  so that both run the same convolution kernels


class PlainLeNet5(nn.Cell):
    """Takes pixels normalised beforehand, which is the least that any user's loop has to do."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 6, 5, pad_mode="valid")
        self.conv2 = nn.Conv2d(6, 16, 5, pad_mode="valid")
        self.fc1 = nn.Dense(400, 120)
        self.fc2 = nn.Dense(120, 84)
        self.fc3 = nn.Dense(84, 10)
        self.pool = nn.MaxPool2d(2, 2)
        self.loss = nn.SoftmaxCrossEntropyWithLogits(sparse=True, reduction="mean")

    def construct(self, x: ms.Tensor, y: ms.Tensor) -> ms.Tensor:
        x = (x.astype(ms.float32) / 255.0 - 0.1307) / 0.3081
        x = self.pool(ops.relu(self.conv1(x)))
        x = self.pool(ops.relu(self.conv2(x)))
        x = x.reshape(-1, 400)
        x = ops.relu(self.fc1(x))
        x = ops.relu(self.fc2(x))
        return self.loss(self.fc3(x), y)


class BasicBlock(nn.Cell):
    """Two 3x3 convolutions and the input, which a 1x1 convolution brings to their shape where it is another."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, has_bias=True)
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, has_bias=True)
        self.norm2 = nn.BatchNorm2d(channels)
        same = stride == 1 and in_channels == channels
        self.shortcut = nn.Identity() if same else nn.Conv2d(in_channels, channels, 1, stride, has_bias=True)

    def construct(self, x: ms.Tensor) -> ms.Tensor:
        y = ops.relu(self.norm1(self.conv1(x)))
        return ops.relu(self.norm2(self.conv2(y)) + self.shortcut(x))


class PlainResNet8(nn.Cell):
    """As qat.networks.ResNet8 has it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 16, 3, has_bias=True), nn.BatchNorm2d(16)
        self.blocks = nn.SequentialCell(BasicBlock(16, 16, 1), BasicBlock(16, 32, 2), BasicBlock(32, 64, 2))
        self.fc = nn.Dense(64, 10)
        self.loss = nn.SoftmaxCrossEntropyWithLogits(sparse=True, reduction="mean")

    def construct(self, x: ms.Tensor, y: ms.Tensor) -> ms.Tensor:
        x = (x.astype(ms.float32) / 255.0 - 0.4734) / 0.2516
        x = self.blocks(ops.relu(self.norm(self.conv(x))))
        return self.loss(self.fc(x.mean((2, 3))), y)


NETWORKS = {"lenet": PlainLeNet5, "resnet8": PlainResNet8}


class PlainStep(nn.Cell):
    """Forward pass, gradient and optimizer in one graph."""

    def __init__(self, network: nn.Cell, optimizer: nn.Optimizer) -> None:
        super().__init__(auto_prefix=False)
        self.network, self.optimizer = network, optimizer
        self.weights = optimizer.parameters
        self.gradient = ops.GradOperation(get_by_list=True)

    @ms.jit
    def construct(self, x: ms.Tensor, y: ms.Tensor) -> ms.Tensor:
        loss = self.network(x, y)
        gradients = self.gradient(self.network, self.weights)(x, y)
        return ops.depend(loss, self.optimizer(gradients))


def make_step(network: str, *, compile: bool) -> Callable[[np.ndarray, np.ndarray, float], float]:
    """One step of SGD with momentum on raw pixels, as ``backend.make_step`` gives it.

    compile: the whole step as one graph; else in PYNATIVE mode.
    """
    model = NETWORKS[network]().set_train()
    optimizer = nn.Momentum(model.trainable_params(), 0.0, 0.9)
    whole = PlainStep(model, optimizer)
    weights = list(optimizer.parameters)

    gradient = ms.value_and_grad(model, None, weights)

    def step(x: np.ndarray, y: np.ndarray, lr: float) -> float:
        ops.assign(optimizer.learning_rate, ms.Tensor(np.float32(lr)))
        images, labels = ms.Tensor(x), ms.Tensor(y.astype(np.int32))
        if compile:
            return float(whole(images, labels).asnumpy())
        loss, gradients = gradient(images, labels)
        optimizer(gradients)
        return float(loss.asnumpy())

    return step
