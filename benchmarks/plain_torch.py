"""LeNet-5 as one writes it by hand in PyTorch: what the lowered network is measured against."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn


class PlainLeNet5(nn.Module):
    """Takes pixels normalised beforehand, which is the least that any user's loop has to do."""

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


NETWORKS = {"lenet": PlainLeNet5, "lenet_bn": lambda: PlainLeNet5(has_bn=True)}


def make_step(network: str, *, compile: bool) -> Callable[[np.ndarray, np.ndarray, float], float]:
    """One step of SGD with momentum on raw pixels, as ``backend.make_step`` gives it."""
    model = NETWORKS[network]().train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0, momentum=0.9)

    def plain_loss(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(model((x.float() / 255.0 - 0.1307) / 0.3081), y)

    loss_function = torch.compile(plain_loss) if compile else plain_loss

    def step(x: np.ndarray, y: np.ndarray, lr: float) -> float:
        for group in optimizer.param_groups:
            group["lr"] = lr
        loss = loss_function(torch.from_numpy(x), torch.from_numpy(y))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step
