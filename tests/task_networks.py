"""Small networks for tests of tasks, and a loss and a task of one's own; commands find them as task_networks:Name."""

from __future__ import annotations

from dataclasses import dataclass

import qat
from qat.tasks import Regression


class Numbers(qat.Network):
    """Some numbers of six pixels."""

    def __init__(self, outputs: int = 1) -> None:
        self.inputs = qat.Input((6,), mean=0.5, std=0.3)
        self.hidden, self.fc = qat.DenseBnAct(6, 16, activation="relu"), qat.DenseBnAct(16, outputs)

    def construct(self, x):
        return self.fc(self.hidden(x))


class Four(Numbers):
    """Four of them."""

    def __init__(self) -> None:
        super().__init__(4)


class Same(Numbers):
    """As many as there are pixels."""

    def __init__(self) -> None:
        super().__init__(6)


class Pixels(qat.Network):
    """Three logits for each pixel of an image of two channels."""

    def __init__(self) -> None:
        self.inputs = qat.Input((2, 4, 5), mean=0.5, std=0.3)
        self.hidden, self.conv = qat.Conv2dBnAct(2, 6, 3, activation="relu"), qat.Conv2dBnAct(6, 3, 1)

    def construct(self, x):
        return self.conv(self.hidden(x))


class Two(qat.Network):
    """Four logits and a number."""

    def __init__(self) -> None:
        self.inputs = qat.Input((6,), mean=0.5, std=0.3)
        self.hidden = qat.DenseBnAct(6, 16, activation="relu")
        self.kind, self.size = qat.DenseBnAct(16, 4), qat.DenseBnAct(16, 1)

    def construct(self, x):
        x = self.hidden(x)
        return self.kind(x), self.size(x)


def mean_absolute_error(ops, outputs, targets):
    """A loss of one's own."""
    return ops.mean(ops.abs(outputs - targets))


def failing(ops, outputs, targets):
    """A loss with a mistake."""
    return {}["width"]


def each_error(ops, outputs, targets):
    """No loss, but one for each sample."""
    return ops.abs(outputs - targets)


@dataclass(frozen=True)
class Largest(Regression):
    """A task of one's own: a regression that is judged by its largest error."""

    name = "largest"

    def measures(self, outputs, targets):
        return {"largest error": float(abs(outputs - targets).max())}

    def higher_is_better(self, metric):
        return False


class Picture(qat.Network):
    """A number of a picture."""

    def __init__(self) -> None:
        self.inputs = qat.Input((1, 8, 8), mean=0.5, std=0.3)
        self.flatten, self.fc = qat.Flatten(), qat.DenseBnAct(64, 1)

    def construct(self, x):
        return self.fc(self.flatten(x))
