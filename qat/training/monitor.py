"""Held-back images watch a training: when to lower its rate, when to stop, which epoch was the best.

All of it follows from the list of epochs alone, so that a resumed training decides as one that never stopped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from qat.errors import QatError
from qat.vocabulary.fields import build, check_type
from qat.vocabulary.ops import Array

LEAST_GAIN = 1e-4  #: by how much a loss has to fall for the rate to stay, as Keras counts
PLATEAU_PATIENCE = 5  #: epochs without such a gain after which the rate falls
PLATEAU_FACTOR = 0.1  #: to this share of what it was


@dataclass(frozen=True)
class Epoch:
    """What is known at the end of an epoch. step: trained so far. loss: mean over its steps. lr: of its last step.

    validation_loss: mean cross entropy, and validation_accuracy, 0 to 1, of the held-back images, evaluated as deployed; None
    where none are held back.
    """

    step: int
    loss: float
    lr: float
    validation_loss: float | None = None
    validation_accuracy: float | None = None


def best_epoch(epochs: Sequence[Epoch], from_step: int = 0) -> int | None:
    """The index of the epoch with the lowest validation loss, the first of equal ones, among those that end at
    ``from_step`` or later; None where there is none.
    """
    candidates = [i for i, epoch in enumerate(epochs) if epoch.step >= from_step and epoch.validation_loss is not None]
    return min(candidates, key=lambda i: epochs[i].validation_loss, default=None)  # type: ignore[arg-type,return-value]


def should_stop(epochs: Sequence[Epoch], patience: int, from_step: int = 0) -> bool:
    """True once ``patience`` epochs have followed the best one (0: never)."""
    best = best_epoch(epochs, from_step)
    return bool(patience) and best is not None and len(epochs) - 1 - best >= patience


def plateau_factor(epochs: Sequence[Epoch], from_step: int = 0) -> float:
    """What the peak rate is multiplied by in the next epoch: by PLATEAU_FACTOR each time that the validation loss has not
    fallen by LEAST_GAIN for PLATEAU_PATIENCE epochs. Only those that end at ``from_step`` or later count: while weights are
    pruned the loss does not fall, and a low rate would keep the network from recovering afterwards.
    """
    factor, best, waited = 1.0, np.inf, 0
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


def mean_cross_entropy(logits: Array, labels: Array) -> float:
    """Mean softmax cross entropy, in float64. logits (N, K), labels (N,)."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    return float((np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(len(labels)), labels]).mean())


@dataclass(frozen=True)
class Progress:
    """How a training went so far. epochs: those that ended. loss_sum: of the steps of the one that has not.

    finished: nothing is left to be trained, and the parameters beside it are those asked for.
    """

    epochs: tuple[Epoch, ...] = ()
    loss_sum: float = 0.0
    finished: bool = False

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: Any) -> Progress:
        """Raises QatError where the data are none. None: of a checkpoint that says nothing of its training."""
        if data is None:
            return cls()
        try:
            check_type("it", data, dict)
            check_type("epochs", data.get("epochs"), list)
            for entry in data["epochs"]:
                check_type("an epoch", entry, dict)
            epochs = tuple(build(Epoch, entry, finite=False) for entry in data["epochs"])
            progress = build(cls, {**data, "epochs": epochs}, finite=False)
            if any(later.step <= before.step for before, later in pairwise([Epoch(0, 0.0, 0.0), *epochs])):
                raise QatError("its epochs do not follow one another")
        except QatError as error:
            raise QatError(f"its record of epochs is damaged ({error}); use another copy") from None
        return progress
