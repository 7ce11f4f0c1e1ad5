"""The training loop, the same for every backend."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from qat.console import TrainingLog
from qat.data import Augmentation, Dataset, Split, accuracy
from qat.deploy.interfaces import Step, TrainingBackend
from qat.errors import NotFiniteError, QatError
from qat.graph import Graph
from qat.passes.apply_masks import apply_masks
from qat.passes.logits_graph import logits_graph
from qat.pruning.magnitude import pruners
from qat.pruning.training import PruningInTraining
from qat.training.checkpoint import Checkpoint
from qat.training.losses import Objective, cross_entropy
from qat.training.monitor import Epoch, Progress, best_epoch, mean_cross_entropy, plateau_factor, should_stop
from qat.training.optimizer import Optimizer, learning_rate
from qat.vocabulary.arrays import Arrays, as_tuple
from qat.vocabulary.fields import check_fields

LENGTHLESS = ("constant", "halving", "plateau")  #: schedules whose rates do not depend on the number of epochs


@dataclass(frozen=True)
class Recipe:
    """How to train. lr: the peak rate of the schedule. seed: of the order of the data and of dropout. label_smoothing: the
    share of each target that is spread over all classes (Szegedy et al., arXiv 1512.00567, section 7). slimming: lambda of
    the penalty on the scales of batch normalisations (``qat.pruning.training``), of float networks only.

    validation: so many training images are held back, and evaluated after each epoch. early_stopping: stop where so many
    epochs have followed the one with the lowest validation loss; 0: never. keep_best: end with the parameters of that epoch
    instead of the last. Where weights are pruned, only epochs at the final sparsity count for both, and for the schedule
    plateau.

    augment_shift, augment_flip: how training images are changed at random each time they are seen (``qat.data.Augmentation``).
    """

    epochs: int = 10
    batch_size: int = 64
    lr: float = 0.02
    lr_schedule: str = "cosine"
    seed: int = 0
    optimizer: Optimizer = field(default_factory=Optimizer)
    label_smoothing: float = 0.0
    slimming: float = 0.0
    validation: int = 0
    early_stopping: int = 0
    keep_best: bool = False
    augment_shift: int = 0
    augment_flip: bool = False

    def __post_init__(self) -> None:
        check_fields(self)
        for name, value in (("epochs", self.epochs), ("batch_size", self.batch_size)):
            if value < 1:
                raise QatError(f"{name} is {value}; use a whole number of at least 1")
        if not 0.0 < self.lr < math.inf:
            raise QatError(f"lr is {self.lr}; use a positive number")
        if self.seed < 0:
            raise QatError(f"seed is {self.seed}; use 0 or a positive number")
        if not 0.0 <= self.label_smoothing < 1.0:
            raise QatError(f"label_smoothing is {self.label_smoothing}; use a number from 0 to below 1")
        if not 0.0 <= self.slimming < math.inf:
            raise QatError(f"slimming is {self.slimming}; use 0 or a positive number")
        learning_rate(self.lr_schedule, self.lr, 0, 1)  # raises for an unknown schedule
        Augmentation(self.augment_shift, self.augment_flip)  # raises for a negative shift
        for name, value in (
            ("validation", self.validation),
            ("early_stopping", self.early_stopping),
        ):
            if value < 0:
                raise QatError(f"{name} is {value}; use 0 or a positive number")
        needs = [name for name in ("early_stopping", "keep_best") if getattr(self, name)]
        needs += ["lr_schedule plateau"] if self.lr_schedule == "plateau" else []
        if needs and not self.validation:
            raise QatError(
                f"{needs[0]} decides by training images that are held back, but validation is 0; give --validation a number of "
                "images, as 1000"
            )


def train(
    backend: TrainingBackend,
    start: Checkpoint,
    dataset: Dataset,
    recipe: Recipe,
    *,
    device_target: str | None = None,
    compile: bool = False,
    log_every: int = 0,
    log_path: str | Path | None = None,
    save: Callable[[Checkpoint], None] | None = None,
    save_every: int = 0,
    objective: Objective | None = None,
    record: Mapping[str, Any] | None = None,
    watch: Callable[[int, Step, Arrays], None] | None = None,
    stop_after: int | None = None,
) -> Checkpoint:
    """Train a network on ``dataset.train``; returns the checkpoint of the last step, or of the best epoch.

    backend: of ``qat.backend``. start: what to train; where its step is above 0, this very training is continued from
    there, and ends with the same parameters as if it had never stopped (on the same backend, device and number of
    threads). dataset: already in the network's shape. compile: use the framework's compiler. log_path: a CSV file of the
    log lines. save: called with a checkpoint after each epoch, and each ``save_every`` steps where that is above 0.
    objective: what is minimised in place of the cross entropy; what it needs beside the labels are ``Split.targets``.
    record: what else the result depends on, for the history. watch: called after each step with the number of steps done,
    the step, whose ``terms`` are the last ones, and the batch's labels (and targets). stop_after: end after that epoch, as if
    it were interrupted there, though the recipe has more.

    Raises NotFiniteError, naming the step, where the loss is no longer finite, or what would be saved (looked at after each
    epoch in any case): what was saved before stays. Raises QatError where ``start`` is of another training.
    """
    for value, kind in ((start, Checkpoint), (dataset, Dataset), (recipe, Recipe)):
        if not isinstance(value, kind):
            raise QatError(
                f"train: got a {type(value).__name__} in place of a {kind.__name__}; give backend, start, dataset, recipe"
            )
    graph = start.graph
    check_labels(graph, dataset)
    device_target = device_target or backend.devices()[0]
    entry = _record(backend, dataset, recipe, device_target, compile)
    if objective is not None:
        entry["objective"] = {"type": type(objective).__name__, **asdict(objective)}  # type: ignore[call-overload]
    entry |= record or {}
    held = dataset.held_back(recipe.validation, recipe.seed) if recipe.validation else dataset
    steps = len(held.train) // recipe.batch_size
    if not steps:
        raise QatError(
            f"batch_size {recipe.batch_size} is larger than the {len(held.train)} training images of {held.source}; use a "
            "smaller one"
        )
    if start.step:
        _check_continues(start, entry)
        _check_progress(start, recipe, steps)
    augmentation = Augmentation(recipe.augment_shift, recipe.augment_flip)
    total = recipe.epochs * steps
    counts_from = 1 + max((pruner.last for pruner in pruners(graph).values()), default=-1)
    if recipe.keep_best and counts_from > total:
        raise QatError(
            f"keep_best: weights are pruned until step {counts_from}, but {recipe.epochs} epochs have {total} steps; train "
            "more epochs, or let the pruning end before"
        )
    end = total if stop_after is None else min(stop_after * steps, total)
    if start.step and start.progress.finished and start.history[0].get("epochs") != recipe.epochs:
        raise QatError(
            f"--resume: this training ended, with the best epoch or early, so that its {start.history[0].get('epochs')} epochs "
            f"cannot become {recipe.epochs}; leave --resume out to start anew"
        )
    if start.progress.finished or (start.step >= end and not (recipe.keep_best and end == total)):
        return start
    history = (entry, *(start.history[1:] if start.step else start.history))
    progress, best = (start.progress, start.best) if start.step else (Progress(), {})
    if recipe.keep_best and not best and best_epoch(progress.epochs, counts_from) is not None:
        raise QatError(
            "--resume: the checkpoint lacks the parameters of its best epoch; use another copy, or start anew"
        )
    model = backend.lower(logits_graph(graph), start.params, device_target=device_target, step=start.step)
    pruning = PruningInTraining(backend, model, graph, recipe.slimming)
    loss_function = objective or partial(cross_entropy, smoothing=recipe.label_smoothing)
    step = backend.make_step(model, recipe.optimizer, loss_function, compile=compile)
    if start.step:
        step.load_state(start.optimizer)
    done = start.step

    def snapshot() -> Checkpoint:
        """Once it is finished, nothing is left behind masks."""
        params = backend.read(model)
        params = apply_masks(graph, params) if done == total else params
        return Checkpoint(graph, params, done, done // steps, step.state(), history, progress, best)

    def check_finite(images: Arrays) -> None:
        """A step may ruin the parameters though its loss, which is that before the step, was finite. They may also stay finite
        and be too large for the outputs; those of integers are not.
        """
        wrong = Checkpoint(graph, backend.read(model), optimizer=step.state()).not_finite()
        if wrong is None and not graph.is_quantized:
            outputs = np.concatenate([y.ravel() for y in as_tuple(backend.predict(model, images))])
            found = outputs[~np.isfinite(outputs)]
            wrong = f"the outputs hold {found[0]} from then on" if found.size else None
        if wrong:
            raise _diverged(f"step {(done - 1) % steps + 1}: {wrong}", (done - 1) // steps + 1, recipe.lr)

    def stopped_early() -> bool:
        return should_stop(progress.epochs, recipe.early_stopping, counts_from)

    saved: Checkpoint | None = None
    with TrainingLog(recipe.epochs, steps, log_every, log_path) as log:
        while done < end and not stopped_early():
            epoch = done // steps + 1
            factor = plateau_factor(progress.epochs, counts_from) if recipe.lr_schedule == "plateau" else 1.0
            batches = held.train.batches(recipe.batch_size, recipe.seed, epoch, augmentation)
            for images, targets in islice(batches, done % steps, None):
                if graph.is_random:
                    backend.seed(recipe.seed, done)
                lr = factor * learning_rate(recipe.lr_schedule, recipe.lr, done, total)
                pruning.before_step(done)
                loss = step(images, targets, lr)
                pruning.after_step(lr)
                if not math.isfinite(loss):
                    raise _diverged(f"step {done % steps + 1}: the loss is {loss}", epoch, recipe.lr)
                done += 1
                progress = replace(progress, loss_sum=progress.loss_sum + loss)
                log.step(epoch, (done - 1) % steps + 1, loss, lr)
                if watch is not None:
                    watch(done, step, targets)
                saved = None
                wanted = save is not None and bool(save_every) and done % save_every == 0
                if done % steps == 0 or wanted:
                    check_finite(images)
                if done % steps == 0:
                    ended = Epoch(done, progress.loss_sum / steps, lr)
                    if recipe.validation:
                        held_loss, top1 = step.means(_validated(backend, model, held.test))
                        ended = replace(ended, validation_loss=held_loss, validation_accuracy=top1)
                        log.validation(ended)
                    progress = Progress((*progress.epochs, ended))
                    if recipe.keep_best and best_epoch(progress.epochs, counts_from) == len(progress.epochs) - 1:
                        best = apply_masks(graph, backend.read(model))
                if save is not None and (done % steps == 0 or wanted):
                    saved = snapshot()
                    save(saved)
    last = saved or snapshot()
    if not (recipe.keep_best or recipe.early_stopping) or (done < total and not stopped_early()):
        return last
    last = replace(last, params=apply_masks(graph, last.params), progress=replace(progress, finished=True))
    chosen = best_epoch(progress.epochs, counts_from)
    if recipe.keep_best:
        assert chosen is not None, "the last epoch counts"
        last = replace(last, params=best, best={}, optimizer={}, step=progress.epochs[chosen].step, epoch=chosen + 1)
    if save is not None:
        save(last)
    return last


def _diverged(what: str, epoch: int, lr: float) -> NotFiniteError:
    return NotFiniteError(
        f"training stopped at epoch {epoch}, {what}, so the parameters are lost; what was saved before is unharmed; use a "
        f"smaller --lr than {lr:g}"
    )


def _validated(backend: TrainingBackend, model: Any, held_back: Split) -> tuple[float, float]:
    """Loss and accuracy of the held-back images."""
    (outputs,) = as_tuple(backend.predict(model, held_back.images))
    return mean_cross_entropy(outputs, held_back.labels), accuracy(outputs, held_back.labels)


def _record(
    backend: TrainingBackend, dataset: Dataset, recipe: Recipe, device_target: str, compile: bool
) -> dict[str, Any]:
    """What the checkpoint's history keeps of a training: all that its result depends on."""
    source = Path(dataset.source)
    return {
        "backend": backend.NAME,
        "device_target": device_target,
        "compile": compile,
        "data": dataset.name,
        "data_path": str(source.absolute()) if source.exists() else dataset.source,
        **asdict(recipe),
    }


def _check_continues(start: Checkpoint, record: Mapping[str, Any]) -> None:
    """Raise QatError unless the checkpoint was made by the training that ``record`` describes."""
    # What a recipe could not say yet when the checkpoint was made had its default.
    before = {**asdict(Recipe()), **start.history[0]} if start.history else {}
    any_length = record["lr_schedule"] in LENGTHLESS  # what was done does not depend on how much was to follow
    keys = [key for key in {**before, **record} if not (any_length and key == "epochs")]
    changed = [key for key in keys if before.get(key) != record.get(key)]
    if changed:
        key = changed[0]
        raise QatError(
            f"--resume: the checkpoint was trained with {key} {before.get(key)!r}, now it is {record.get(key)!r}; give the "
            "same arguments, or leave --resume out to start anew"
        )


def _check_progress(start: Checkpoint, recipe: Recipe, steps: int) -> None:
    """Raise QatError unless the checkpoint's record fits the training of ``recipe``, of so many steps an epoch.

    The first releases kept none, so that it may begin with any epoch where nothing is decided by it: nothing is held back.
    """
    epochs = start.progress.epochs
    last = len(epochs) if start.progress.finished else start.step // steps
    first = 1 if recipe.validation else last - len(epochs) + 1
    held_back = [epoch.validation_loss is not None and epoch.validation_accuracy is not None for epoch in epochs]
    wrong = None
    if [epoch.step for epoch in epochs] != [steps * number for number in range(first, last + 1)]:
        wrong = f"it has {len(epochs)} epochs for {start.step:,} steps of {steps:,} an epoch"
    elif recipe.validation and not all(held_back):
        wrong = "it has epochs without an evaluation of held-back images"
    if wrong:
        raise QatError(
            f"--resume: the checkpoint's record of epochs is damaged: {wrong}; use another copy, or start anew"
        )


def check_labels(graph: Graph, dataset: Dataset) -> None:
    """Raise QatError unless the network has one output with a number for every label."""
    shapes = [graph.shapes[name] for name in graph.outputs]
    classes = shapes[0][0] if len(shapes) == 1 and len(shapes[0]) == 1 else 0
    if not len(dataset.train):
        raise QatError(f"{dataset.source}: there are no images to train on")
    largest = max(int(split.labels.max()) for split in (dataset.train, dataset.test) if len(split))
    if largest >= classes:
        found = ", ".join(map(str, shapes))
        raise QatError(
            f"{dataset.source}: its labels reach {largest}, but {graph.name} gives {found}; it needs one output of "
            f"({largest + 1},) or more, unless the labels are damaged"
        )


def evaluate_accuracy(
    backend: TrainingBackend, checkpoint: Checkpoint, split: Split, *, device_target: str | None = None
) -> float:
    """Accuracy of a network in evaluation: of its deployed integers where it is quantized."""
    model = backend.lower(checkpoint.graph, checkpoint.params, device_target=device_target)
    (outputs,) = as_tuple(backend.predict(model, split.images))
    return accuracy(outputs, split.labels)
