"""Trainings whose end is kept in a folder, so that a benchmark that is called again goes on from what is there."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import qat
from qat.data import Dataset
from qat.training.checkpoint import Checkpoint
from qat.training.distillation import Teaching
from qat.training.loop import train
from qat.training.optimizer import Optimizer
from qat.training.recipe import Recipe

#: Of LeNet-5 in float.
LENET = Recipe(20, 64, lr=0.02, optimizer=Optimizer(weight_decay=5e-4), augment_shift=1)


def trained(
    path: Path,
    start: Checkpoint,
    dataset: Dataset,
    recipe: Recipe,
    args: argparse.Namespace,
    teaching: Callable[[], Teaching] | None = None,
) -> Checkpoint:
    """``start`` trained, or what lies at ``path``. args: backend and device_target. teaching: only asked where it trains."""
    if not path.exists():
        lesson: dict[str, Any] = {}
        if teaching is not None:
            taught = teaching()
            dataset = replace(dataset, train=replace(dataset.train, targets=taught.targets))
            lesson = {"objective": taught.objective, "record": taught.record}
        backend = qat.backend(args.backend)
        train(backend, start, dataset, recipe, compile=True, device_target=args.device_target, **lesson).save(path)
    return Checkpoint.load(path)
