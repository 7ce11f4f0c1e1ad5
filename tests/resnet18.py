"""ResNet-18 as torchvision has it, where torchvision is not installed: the same modules, names and operations."""

from __future__ import annotations

import sys
from itertools import pairwise
from types import ModuleType, SimpleNamespace

import pytest
import torch
from torch import nn


class BasicBlock(nn.Module):
    """Two convolutions and a way around them."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        identity = x if self.downsample is None else self.downsample(x)
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        y += identity
        return self.relu(y)


class ResNet(nn.Module):
    """He et al., arXiv 1512.03385, table 1."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, padding=1)
        sizes = (64, 64, 128, 256, 512)
        for number, (inputs, outputs) in enumerate(pairwise(sizes), 1):
            blocks = nn.Sequential(BasicBlock(inputs, outputs, 1 + (number > 1)), BasicBlock(outputs, outputs, 1))
            setattr(self, f"layer{number}", blocks)
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(512, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(torch.flatten(self.avgpool(x), 1))


def resnet18(*, weights: object = None, num_classes: int = 1000) -> nn.Module:
    """With fresh weights, whatever is asked for: tests download none."""
    torch.manual_seed(0)
    try:
        from torchvision.models import resnet18 as original
    except (ImportError, RuntimeError):  # of another release of torch it has no operators
        return ResNet(num_classes)
    return original(weights=None, num_classes=num_classes)


def install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let ``torchvision.models.resnet18`` be this one."""
    module = ModuleType("torchvision")
    module.models = SimpleNamespace(resnet18=resnet18)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torchvision", module)
