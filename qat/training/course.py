"""How far a training goes, and whether it can go there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from qat.data import Dataset
from qat.errors import QatError
from qat.pruning.magnitude import pruners
from qat.tables import counted
from qat.training.checkpoint import Checkpoint
from qat.training.lengths import steps_of_epoch
from qat.training.recipe import Recipe
from qat.training.resuming import check_continues, check_progress


@dataclass(frozen=True)
class Course:
    """How far a training goes.

    Attributes:
        recipe: how to train.
        steps: of an epoch.
        end: the number of steps done where this call ends.
        counts_from: the number of steps done from which on an epoch may be the best; before, weights are pruned.
    """

    recipe: Recipe
    steps: int
    end: int
    counts_from: int

    @property
    def total(self) -> int:
        """The steps of all epochs."""
        return self.recipe.epochs * self.steps

    @property
    def whole(self) -> bool:
        """True where this call goes to the last epoch."""
        return self.end == self.total


def course_of(
    start: Checkpoint, held: Dataset, recipe: Recipe, record: Mapping[str, Any], stop_after: int | None
) -> Course:
    """How far training goes. Raises QatError where it cannot go there, or cannot go on from ``start``."""
    steps = steps_of_epoch(len(held.train), recipe.batch_size, held.source)
    if start.step:
        check_continues(start, record)
        check_progress(start, recipe, steps)
    total = recipe.epochs * steps
    trained = f"{counted(recipe.epochs, 'epoch')} {'has' if recipe.epochs == 1 else 'have'} {counted(total, 'step')}"
    if recipe.warmup >= total:
        raise QatError(
            f"warmup: the rate rises for {counted(recipe.warmup, 'step')}, but {trained}, so that it "
            "would never reach --lr; give fewer, as 5%"
        )
    counts_from = 1 + max((pruner.last for pruner in pruners(start.graph).values()), default=-1)
    if recipe.keep_best and counts_from > total:
        raise QatError(
            f"keep_best: weights are pruned until step {counts_from}, but {trained}; train "
            "more epochs, or let the pruning end before"
        )
    if start.step and start.progress.finished and start.history[0].get("epochs") != recipe.epochs:
        raise QatError(
            f"--resume: this training ended, with the best epoch, early or with statistics estimated anew, so that its "
            f"{start.history[0].get('epochs')} epochs cannot become {recipe.epochs}; leave --resume out to start anew"
        )
    return Course(recipe, steps, total if stop_after is None else min(stop_after * steps, total), counts_from)
