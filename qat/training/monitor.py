"""Decisions by the loss of held-back images: when to lower the learning rate, when to stop, which epoch is best.

They follow from the list of epochs alone, so a resumed training decides as one that never stopped.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

from qat.errors import QatError
from qat.vocabulary.fields import build, check_type

LEAST_GAIN = 1e-4  #: how much the loss has to fall to count as an improvement, as in Keras
PLATEAU_PATIENCE = 5  #: epochs without improvement after which the rate falls
PLATEAU_FACTOR = 0.1  #: the factor by which it falls


@dataclass(frozen=True)
class Epoch:
    """The record of one epoch.

    Args:
        step: training steps until its end.
        loss: mean over its steps.
        lr: learning rate of its last step.
        validation_loss: the task's loss of the held-back images, evaluated as deployed; None where none are held back.
        validation_metric: the task's main metric of the same images, as an accuracy from 0 to 1; None likewise.
        metric: its name; None likewise.
    """

    step: int
    loss: float
    lr: float
    validation_loss: float | None = None
    validation_metric: float | None = None
    metric: str | None = None


def best_epoch(epochs: Sequence[Epoch], from_step: int = 0) -> int | None:
    """The epoch with the lowest validation loss, the first of equal ones.

    Args:
        epochs: in their order.
        from_step: only epochs that end at this step or later count.

    Returns:
        Its index; None where there is none.
    """
    candidates = [i for i, epoch in enumerate(epochs) if epoch.step >= from_step and epoch.validation_loss is not None]
    return min(candidates, key=lambda i: epochs[i].validation_loss, default=None)  # type: ignore[arg-type,return-value]


def should_stop(epochs: Sequence[Epoch], patience: int, from_step: int = 0) -> bool:
    """Whether ``patience`` epochs have followed the best one.

    Args:
        epochs: in their order.
        patience: 0 for never.
        from_step: only epochs that end at this step or later can be the best.

    Returns:
        True where training should stop.
    """
    best = best_epoch(epochs, from_step)
    return bool(patience) and best is not None and len(epochs) - 1 - best >= patience


def plateau_factor(epochs: Sequence[Epoch], from_step: int = 0) -> float:
    """The factor by which the "plateau" schedule multiplies the peak learning rate in the next epoch.

    It is multiplied by PLATEAU_FACTOR each time the validation loss has not fallen by LEAST_GAIN for PLATEAU_PATIENCE
    epochs.

    Args:
        epochs: in their order, with validation losses.
        from_step: only epochs that end at this step or later count: while weights are pruned the loss does not fall,
            and a low rate would keep the network from recovering afterwards.

    Returns:
        1 or less.
    """
    factor, best, waited = 1.0, math.inf, 0
    for epoch in epochs:
        if epoch.step < from_step:
            continue
        assert epoch.validation_loss is not None, "a recipe with this schedule holds images back"
        if epoch.validation_loss < best - LEAST_GAIN:
            best, waited = epoch.validation_loss, 0
            continue
        waited += 1
        if waited == PLATEAU_PATIENCE:
            factor, waited = factor * PLATEAU_FACTOR, 0
    return factor


@dataclass(frozen=True)
class Progress:
    """How far a training has come.

    Args:
        epochs: the epochs that ended.
        loss_sum: the sum of the losses of the current epoch's steps.
        finished: True: nothing is left to train, and the parameters are the final ones.
    """

    epochs: tuple[Epoch, ...] = ()
    loss_sum: float = 0.0
    finished: bool = False

    def to_json(self) -> dict[str, Any]:
        """A JSON object with the fields."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Any) -> Progress:
        """The inverse of ``to_json``.

        Args:
            data: a JSON value; None for a checkpoint without a record of its training.

        Returns:
            The progress.

        Raises:
            QatError: where the data are damaged.
        """
        if data is None:
            return cls()
        try:
            check_type("it", data, dict)
            check_type("epochs", data.get("epochs"), list)
            for entry in data["epochs"]:
                check_type("an epoch", entry, dict)
            epochs = tuple(build(Epoch, _renamed(entry), finite=False) for entry in data["epochs"])
            progress = build(cls, {**data, "epochs": epochs}, finite=False)
            if any(later.step <= before.step for before, later in pairwise([Epoch(0, 0.0, 0.0), *epochs])):
                raise QatError("its epochs do not follow one another")
        except QatError as error:
            raise QatError(f"its record of epochs is damaged ({error}); use another copy") from None
        return progress


def _renamed(entry: dict[str, Any]) -> dict[str, Any]:
    """An epoch's record as it is written now: the first releases knew no metric but the accuracy."""
    if "validation_accuracy" not in entry:
        return entry
    accuracy = entry["validation_accuracy"]
    others = {name: value for name, value in entry.items() if name != "validation_accuracy"}
    return others | {"validation_metric": accuracy, "metric": None if accuracy is None else "top-1"}
