"""Networks as one writes them by hand in PyTorch: what the lowered ones are measured against."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from larger_networks import MobileNetV2, Plain, ResNet18
from torch import nn


class PlainLeNet5(nn.Module):
    """LeNet-5, with batch normalisations or without."""

    def __init__(self, has_bn: bool = False) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(6) if has_bn else nn.Identity()
        self.norm2 = nn.BatchNorm2d(16) if has_bn else nn.Identity()
        self.conv1 = nn.Conv2d(1, 6, 5, bias=False)
        self.conv2 = nn.Conv2d(6, 16, 5, bias=False)
        self.fc1 = nn.Linear(400, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.max_pool2d(F.relu(self.norm1(self.conv1(x))), 2)
        x = F.max_pool2d(F.relu(self.norm2(self.conv2(x))), 2)
        x = x.flatten(1)
        x = F.relu(self.fc1(x))
        x = F.relu(self.fc2(x))
        return self.fc3(x)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and the input, which a 1x1 convolution brings to their shape where it is another."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)
        self.shortcut = nn.Identity()
        if stride != 1 or in_channels != channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(y)) + self.shortcut(x))


class PlainResNet8(nn.Module):
    """As qat.networks.ResNet8 has it."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, 16, 3, 1, 1), nn.BatchNorm2d(16), nn.ReLU()]
        for in_channels, channels, stride in ((16, 16, 1), (16, 32, 2), (32, 64, 2)):
            block = BasicBlock(in_channels, channels, stride)
            if in_channels != channels:
                block.shortcut = nn.Conv2d(in_channels, channels, 1, stride)
            layers.append(block)
        self.layers = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


class PlainResNet18(nn.Module):
    """As benchmarks/larger_networks.py has it."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [
            nn.Conv2d(3, 64, 7, 2, 3, bias=False),
            nn.BatchNorm2d(64),
            nn.ReLU(),
            nn.MaxPool2d(3, 2, 1),
        ]
        layers += [BasicBlock(block.in_channels, block.channels, block.stride) for block in ResNet18.BLOCKS]
        self.layers = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 1000))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


def _normed(in_channels: int, channels: int, kernel: int, stride: int = 1, group: int = 1) -> list[nn.Module]:
    return [
        nn.Conv2d(in_channels, channels, kernel, stride, kernel // 2, groups=group, bias=False),
        nn.BatchNorm2d(channels),
    ]


class InvertedResidual(nn.Module):
    """An expanding, a depthwise and a linear convolution, and the input where the shape stays."""

    def __init__(self, in_channels: int, channels: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = in_channels * expansion
        self.layers = nn.Sequential(
            *_normed(in_channels, hidden, 1),
            nn.ReLU6(),
            *_normed(hidden, hidden, 3, stride, hidden),
            nn.ReLU6(),
            *_normed(hidden, channels, 1),
        )
        self.adds = stride == 1 and in_channels == channels

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.layers(x)
        return x + y if self.adds else y


class PlainMobileNetV2(nn.Module):
    """As benchmarks/larger_networks.py has it."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [*_normed(3, 32, 3, 2), nn.ReLU6()]
        layers += [InvertedResidual(*block) for block in MobileNetV2.BLOCKS]
        layers += [*_normed(320, 1280, 1), nn.ReLU6()]
        self.layers = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1280, 1000))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


NETWORKS = {
    "lenet": Plain(PlainLeNet5),
    "lenet_bn": Plain(partial(PlainLeNet5, has_bn=True)),
    "resnet8": Plain(PlainResNet8, 0.4734, 0.2516),
    "resnet18": Plain(PlainResNet18, 0.45, 0.225),
    "mobilenetv2": Plain(PlainMobileNetV2, 0.45, 0.225),
}


def make_step(network: str, *, compile: bool, device: str = "cpu") -> Callable[[np.ndarray, np.ndarray, float], float]:
    """One step of SGD with momentum on raw pixels, as ``backend.make_step`` gives it."""
    plain = NETWORKS[network]
    model = plain.make().train().to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0, momentum=0.9)

    def plain_loss(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(model((x.float() / 255.0 - plain.mean) / plain.std), y)

    loss_function = torch.compile(plain_loss) if compile else plain_loss

    def step(x: np.ndarray, y: np.ndarray, lr: float) -> float:
        for group in optimizer.param_groups:
            group["lr"] = lr
        loss = loss_function(torch.from_numpy(x).to(device), torch.from_numpy(y).to(device))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step
