"""Modules of PyTorch that are imported in tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import qat

torch = pytest.importorskip("torch")
nn, F = torch.nn, torch.nn.functional
EQUAL = 2e-6  #: of the largest relative difference: float32 sums in another order
X = torch.zeros(2, 3, 8, 8)


def ready(module: Any, seed: int = 0) -> Any:
    """In evaluation mode, with batch normalisations that are not the identity."""
    torch.manual_seed(seed)
    for each in module.modules():
        if isinstance(each, nn.modules.batchnorm._BatchNorm):
            for tensor in (each.weight.data, each.running_var):
                tensor.uniform_(0.5, 1.5)
            each.bias.data.normal_()
            each.running_mean.normal_()
    return module.eval()


class Calls(nn.Module):
    """A module whose forward is a function of itself and its inputs."""

    def __init__(self, function: Callable[..., Any], **members: Any) -> None:
        super().__init__()
        self.function = function
        for name, member in members.items():
            if isinstance(member, torch.Tensor) and not isinstance(member, nn.Parameter):
                self.register_buffer(name, member)
            else:
                setattr(self, name, member)

    def forward(self, *inputs: Any) -> Any:
        return self.function(self, *inputs)


def kinds(found: Any) -> list[str]:
    return [type(node.cell).__name__ for node in found.graph.nodes if not isinstance(node.cell, qat.Input)]


class Block(nn.Module):
    def __init__(self, given: int, channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(given, channels, 3, stride, 1, bias=False), nn.BatchNorm2d(channels)
        self.conv2, self.bn2 = (
            nn.Conv2d(channels, channels, 3, 1, 1, bias=False),
            nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01),
        )
        self.relu = nn.ReLU(inplace=True)
        self.down = (
            nn.Sequential(nn.Conv2d(given, channels, 1, stride, bias=False), nn.BatchNorm2d(channels))
            if stride > 1
            else None
        )

    def forward(self, x: Any) -> Any:
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        y += x if self.down is None else self.down(x)
        return self.relu(y)


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU6())
        self.pool = nn.MaxPool2d(3, 2, 1, ceil_mode=True)
        self.layer1 = nn.Sequential(Block(8, 8), Block(8, 12, 2))
        self.dw = nn.Conv2d(12, 12, 3, 1, 1, groups=12)
        self.fc, self.drop = nn.Linear(24, 5), nn.Dropout(0.2)

    def forward(self, x: Any) -> Any:
        x = self.layer1(self.pool(self.stem(x)))
        x = torch.cat([x, F.hardswish(self.dw(x))], 1)
        return self.fc(self.drop(x.mean((2, 3))))
