"""The training loop, the same for every backend."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from qat.checkpoint import Checkpoint
from qat.console import TrainingLog
from qat.data import Dataset, Split, accuracy
from qat.errors import QatError
from qat.graph import Graph, Params
from qat.optimizer import Optimizer, learning_rate


@dataclass(frozen=True)
class Recipe:
    """How to train. lr: the peak rate of the schedule. seed: of the order of the data."""

    epochs: int = 10
    batch_size: int = 64
    lr: float = 0.02
    lr_schedule: str = "cosine"
    seed: int = 0
    optimizer: Optimizer = field(default_factory=Optimizer)

    def __post_init__(self) -> None:
        for name, value in (("epochs", self.epochs), ("batch_size", self.batch_size)):
            if value < 1:
                raise QatError(f"{name} is {value}; use a whole number of at least 1")
        if not 0.0 < self.lr < math.inf:
            raise QatError(f"lr is {self.lr}; use a positive number")
        if self.seed < 0:
            raise QatError(f"seed is {self.seed}; use 0 or a positive number")
        learning_rate(self.lr_schedule, self.lr, 0, 1)  # raises for an unknown schedule


def train(
    backend: ModuleType,
    graph: Graph,
    params: Params,
    dataset: Dataset,
    recipe: Recipe,
    *,
    device_target: str = "CPU",
    compile: bool = False,
    log_every: int = 0,
    history: tuple[Mapping[str, Any], ...] = (),
    save: Callable[[Checkpoint], None] | None = None,
) -> Checkpoint:
    """Train a graph on ``dataset.train``; returns the checkpoint of the last epoch.

    backend: of ``qat.backend``. dataset: already in the network's shape. compile: use the framework's compiler.
    history: of the parameters, for the checkpoint. save: called with a checkpoint after each epoch. Raises QatError
    where the loss is no longer finite, naming the step; checkpoints saved before stay.
    """
    check_labels(graph, dataset)
    steps = len(dataset.train) // recipe.batch_size
    if not steps:
        raise QatError(
            f"batch_size {recipe.batch_size} is larger than the {len(dataset.train)} training images of {dataset.source}; use "
            "a smaller one"
        )
    model = backend.lower(graph, params, device_target=device_target)
    step = backend.make_step(model, recipe.optimizer, compile=compile)
    record = {"backend": backend.__name__.rpartition(".")[2].removesuffix("_backend"), "data": dataset.name}
    record |= {
        "data_path": str(Path(dataset.source).absolute()) if Path(dataset.source).exists() else dataset.source,
        "device_target": device_target,
        **asdict(recipe),
    }
    done = 0
    with TrainingLog(recipe.epochs, steps, log_every) as log:
        for epoch in range(1, recipe.epochs + 1):
            for index, (images, labels) in enumerate(dataset.train.batches(recipe.batch_size, recipe.seed, epoch), 1):
                lr = learning_rate(recipe.lr_schedule, recipe.lr, done, recipe.epochs * steps)
                loss = step(images, labels, lr)
                if not math.isfinite(loss):
                    raise QatError(
                        f"training stopped at epoch {epoch}, step {index}: the loss is {loss}, so the parameters are lost; use "
                        f"a smaller --lr than {recipe.lr:g}"
                    )
                done += 1
                log.step(epoch, index, loss)
            result = Checkpoint(graph, backend.read(model), done, epoch, step.state(), (record, *history))
            if save is not None:
                save(result)
    return result


def check_labels(graph: Graph, dataset: Dataset) -> None:
    """Raise QatError unless the network has one output with a number for every label."""
    shapes = [graph.shapes[name] for name in graph.outputs]
    classes = shapes[0][0] if len(shapes) == 1 and len(shapes[0]) == 1 else 0
    largest = int(max(dataset.train.labels.max(), dataset.test.labels.max()))
    if largest >= classes:
        found = ", ".join(map(str, shapes))
        raise QatError(
            f"{dataset.source}: its labels reach {largest}, but {graph.name} gives {found}; it needs one output of "
            f"({largest + 1},) or more, unless the labels are damaged"
        )


def evaluate_accuracy(
    backend: ModuleType, checkpoint: Checkpoint, split: Split, *, device_target: str = "CPU"
) -> float:
    """Accuracy of a network in evaluation: of its deployed integers where it is quantized."""
    model = backend.lower(checkpoint.graph, checkpoint.params, device_target=device_target)
    return accuracy(backend.predict(model, split.images), split.labels)
