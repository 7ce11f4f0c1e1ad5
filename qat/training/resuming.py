"""Whether a training may go on from a checkpoint: what its result depends on, and how far it has come."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from qat.data import Dataset
from qat.data.preparation import PLAIN
from qat.deploy.interfaces import TrainingBackend
from qat.errors import QatError
from qat.files import absolute
from qat.tasks import Classification, Loss, Task
from qat.training.checkpoint import Checkpoint
from qat.training.devices import threads_in_use
from qat.training.optimizer import Optimizer
from qat.training.recipe import Recipe

COMMAND = "command"  #: of a record: the command line that made it, on which nothing depends
LENGTHLESS = ("constant", "halving", "plateau")  #: schedules whose rates do not depend on the number of epochs


def training_record(
    backend: TrainingBackend,
    dataset: Dataset,
    recipe: Recipe,
    device_target: str,
    compile: bool,
    task: Task,
    loss: Loss | None,
) -> dict[str, Any]:
    """What the checkpoint's history keeps of a training: all that its result depends on."""
    source = Path(dataset.source)
    own: dict[str, Any] = {} if task == Classification() else {"task": task.to_json()}
    if loss is not None:
        own["loss"] = f"{getattr(loss, '__module__', '')}:{getattr(loss, '__qualname__', type(loss).__name__)}"
    # PLAIN is what every release before recipes of pictures did, whose records do not say it.
    pictures = dataset.preparation
    prepared = {} if pictures is None or pictures == PLAIN else {"preparation": pictures.to_json()}
    return own | {
        "backend": backend.NAME,
        "device_target": device_target,
        "compile": compile,
        "data": dataset.name,
        "data_path": absolute(source) if source.exists() else dataset.source,
        **prepared,
        **asdict(recipe),
        "augment": [*recipe.augment],  # as JSON gives it back
        **({} if threads_in_use() is None else {"threads": threads_in_use()}),
    }


def check_continues(start: Checkpoint, record: Mapping[str, Any]) -> None:
    """Raise QatError unless the checkpoint was made by the training that ``record`` describes."""
    # What a recipe could not say yet when the checkpoint was made had its default.
    before = {**asdict(Recipe()), "augment": [], **start.history[0]} if start.history else {}
    if isinstance(before.get("optimizer"), dict):
        before["optimizer"] = {**asdict(Optimizer()), **before["optimizer"]}
    any_length = record["lr_schedule"] in LENGTHLESS  # what was done does not depend on how much was to follow
    keys = [key for key in {**before, **record} if key != COMMAND and not (any_length and key == "epochs")]
    if "threads" not in before or "threads" not in record:  # then nothing is known of them
        keys = [key for key in keys if key != "threads"]
    changed = [key for key in keys if before.get(key) != record.get(key)]
    if changed:
        key = changed[0]
        raise QatError(
            f"--resume: the checkpoint was trained with {key} {before.get(key)!r}, now it is {record.get(key)!r}; give the "
            "same arguments, or leave --resume out to start anew"
        )


def check_progress(start: Checkpoint, recipe: Recipe, steps: int) -> None:
    """Raise QatError unless the checkpoint's record fits the training of ``recipe``, of so many steps an epoch.

    The first releases kept none, so that it may begin with any epoch where nothing is decided by it: nothing is held back.
    """
    epochs = start.progress.epochs
    last = len(epochs) if start.progress.finished else start.step // steps
    first = 1 if recipe.validation else last - len(epochs) + 1
    held_back = [epoch.validation_loss is not None and epoch.validation_metric is not None for epoch in epochs]
    wrong = None
    if [epoch.step for epoch in epochs] != [steps * number for number in range(first, last + 1)]:
        wrong = f"it has {len(epochs)} epochs for {start.step:,} steps of {steps:,} an epoch"
    elif recipe.validation and not all(held_back):
        wrong = "it has epochs without an evaluation of held-back images"
    if wrong:
        raise QatError(
            f"--resume: the checkpoint's record of epochs is damaged: {wrong}; use another copy, or start anew"
        )
