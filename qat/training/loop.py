"""The training loop, the same for every backend."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from qat.data import Augmentation, Dataset, Split, accuracy
from qat.data.foreign import as_dataset
from qat.deploy.interfaces import Step, TrainingBackend, check_backend
from qat.errors import NotFiniteError, QatError
from qat.graph import Graph, Params
from qat.passes.apply_masks import apply_masks
from qat.passes.logits_graph import logits_graph
from qat.passes.track_oscillations import track_oscillations
from qat.passes.unlike_ranges import warn_of_unlike_ranges
from qat.passes.unreached_numbers import warn_of_unreached_numbers
from qat.pruning.training import PruningInTraining
from qat.registry import evaluation_ops
from qat.tasks import Classification, Loss, Task, evaluated_loss, main
from qat.training.checkpoint import Checkpoint
from qat.training.course import Course, course_of
from qat.training.dampening import Dampened
from qat.training.log import TrainingLog
from qat.training.losses import Objective
from qat.training.monitor import Epoch, Progress, best_epoch, plateau_factor, should_stop
from qat.training.objectives import for_task
from qat.training.optimizer import learning_rate
from qat.training.recipe import Recipe
from qat.training.reestimate import check_reestimation, reestimated
from qat.training.resuming import COMMAND, training_record
from qat.training.trackers import Tracker, check_trackers, flat
from qat.training.workers import this_worker
from qat.vocabulary.arrays import Arrays, as_arrays, as_tuple


def train(
    backend: TrainingBackend,
    start: Checkpoint,
    dataset: Dataset | Any,
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
    task: Task | None = None,
    loss: Loss | None = None,
    trackers: Iterable[Tracker] = (),
) -> Checkpoint:
    """Train a network on ``dataset.train``.

    A training that is continued ends with the same parameters as if it had never stopped, on the same backend, device and
    number of threads.

    Args:
        backend: of ``qat.backend``.
        start: the network and its parameters; where its step is above 0, this very training is continued from there.
        dataset: its images in the network's shape. Also a DataLoader, or what else ``qat.data.dataset_of`` takes, or a pair
            (train, test) of such: its samples are taken; size and order of the batches are the recipe's.
        recipe: how to train.
        device_target: the device that computes; None: the best that there is.
        compile: use the framework's compiler.
        log_every: steps after which a line is logged; 0: one line an epoch.
        log_path: a CSV file to which the log is appended.
        save: called with a checkpoint after each epoch, and at the end.
        save_every: steps after which ``save`` is called, too; 0: never.
        objective: what is minimised in place of the task's loss; what it needs beside the labels are ``Split.targets``.
        record: what else the result depends on, for the checkpoint's history.
        watch: called after each step with the number of steps done, the step, whose ``terms`` are the last ones, and the
            batch's labels (and targets).
        stop_after: end after that epoch, as if interrupted there, though the recipe has more.
        task: what the network is for (``qat.tasks``); None: what ``start`` has.
        loss: in place of the task's: a function of ops, outputs and the task's targets, over the vocabulary.
        trackers: what the log's numbers and the training's settings are sent to (``qat.trackers``), by the first of
            several workers; they are not closed.

    Returns:
        The checkpoint of the last step, or of the best epoch.

    Raises:
        NotFiniteError: where the loss is no longer finite, or what would be saved (looked at after each epoch in any case);
            it names the step. What was saved before stays.
        QatError: where the data do not suit the network or the recipe, and where ``start`` is of another training.
    """
    check_backend(backend)
    trackers = check_trackers(trackers) if not this_worker().rank else ()
    dataset = as_dataset(dataset, getattr(recipe, "batch_size", None))
    for value, kind in ((start, Checkpoint), (dataset, Dataset), (recipe, Recipe)):
        if not isinstance(value, kind):
            raise QatError(
                f"train: got a {type(value).__name__} in place of a {kind.__name__}; give backend, start, dataset, recipe"
            )
    start = start if task is None else replace(start, task=task)
    if recipe.oscillations is not None:
        graph, params = track_oscillations(start.graph, start.params, recipe.oscillations.tracker)
        start = replace(start, graph=graph, params=params)
    task = start.task
    check_labels(start.graph, dataset, task)
    device_target = device_target or backend.devices()[0]
    entry = training_record(backend, dataset, recipe, device_target, compile, task, loss)
    if objective is not None:
        if loss is not None:
            raise QatError(f"{type(objective).__name__} with a loss of your own: only one is minimised; leave one out")
        objective = for_task(objective, task)
        fields = asdict(objective)  # type: ignore[call-overload]
        entry["objective"] = {"type": type(objective).__name__, **{k: v for k, v in fields.items() if k != "task"}}
    entry |= record or {}
    held = dataset.held_back(recipe.validation, recipe.seed) if recipe.validation else dataset
    course = course_of(start, held, recipe, entry, stop_after)
    if start.step and COMMAND in start.history[0]:  # that which began it
        entry[COMMAND] = start.history[0][COMMAND]
    check_reestimation(start.graph, recipe.reestimate_bn, len(held.train))
    to_finish = (recipe.keep_best or recipe.reestimate_bn) and course.whole
    if start.progress.finished or (start.step >= course.end and not to_finish):
        return start
    run = _Run(
        backend,
        start,
        course,
        held,
        history=(entry, *(start.history[1:] if start.step else start.history)),
        device_target=device_target,
        compile=compile,
        loss=loss,
        objective=objective,
        hooks=_Hooks(save, save_every, watch),
    )
    for tracker in trackers:
        tracker.log_params(flat({"network": start.graph.name, **entry}))
    own_log = TrainingLog(recipe.epochs, course.steps, log_every, log_path, recipe.batch_size, trackers=trackers)
    with own_log as log, closing(run.batches):
        while run.done < course.end and not run.stopped_early():
            run.epoch(log)
    result = run.result()
    warn_of_unlike_ranges(result.graph, result.params)
    warn_of_unreached_numbers(result.graph, result.params)
    return result


@dataclass(frozen=True)
class _Hooks:
    """What ``train`` was asked to call.

    Attributes:
        save: with a checkpoint; None: nothing is saved.
        save_every: steps after which ``save`` is called, beside the end of each epoch; 0: none.
        watch: after each step.
    """

    save: Callable[[Checkpoint], None] | None
    save_every: int
    watch: Callable[[int, Step, Arrays], None] | None

    def saves(self, done: int, steps: int) -> bool:
        """Whether a checkpoint is saved after so many steps."""
        return self.save is not None and (done % steps == 0 or (bool(self.save_every) and done % self.save_every == 0))


class _Run:
    """A training under way.

    Attributes:
        done: the steps that are done.
        progress: the epochs that are done, and the losses of the one under way.
        best: the parameters of the best epoch so far, where they are kept.
    """

    def __init__(
        self,
        backend: TrainingBackend,
        start: Checkpoint,
        course: Course,
        data: Dataset,
        *,
        history: tuple[Mapping[str, Any], ...],
        device_target: str,
        compile: bool,
        loss: Loss | None,
        objective: Objective | None,
        hooks: _Hooks,
    ) -> None:
        recipe = course.recipe
        self.backend, self.device_target, self.graph, self.course, self.recipe, self.data = (
            backend,
            device_target,
            start.graph,
            course,
            recipe,
            data,
        )
        self.history, self.hooks, self.task, self.loss = history, hooks, start.task, loss
        self.done, self.preparation, self.class_names = start.step, start.preparation, start.class_names
        self.progress, self.best = (start.progress, start.best) if start.step else (Progress(), {})
        if recipe.keep_best and not self.best and self._best_epoch() is not None:
            raise QatError(
                "--resume: the checkpoint lacks the parameters of its best epoch; use another copy, or start anew"
            )
        augmentation = Augmentation(recipe.augment_shift, recipe.augment_flip, recipe.augment)
        other = objective or loss or (None if isinstance(self.task, Classification) else self.task)
        if augmentation.mixes and other is not None:
            raise QatError(
                f"augment {' '.join(recipe.augment)}: mixed images have two labels, which the loss, "
                f"{getattr(other, '__name__', type(other).__name__)}, does not know of; leave mixup and cutmix out"
            )
        batches = data.train.training(recipe.batch_size, recipe.seed, augmentation)
        self.batches = batches.of(
            range(start.step, max(course.end, start.step))
        )  # one reading of all epochs: workers stay
        self.model = backend.lower(logits_graph(self.graph), start.params, device_target=device_target, step=start.step)
        self.pruning = PruningInTraining(backend, self.model, self.graph, recipe.slimming)
        loss_function = objective or loss or self.task.smoothed(recipe.label_smoothing).loss
        if recipe.oscillations is not None and recipe.oscillations.dampen:
            loss_function = Dampened(loss_function)
        self.step: Step = backend.make_step(self.model, recipe.optimizer, loss_function, compile=compile)
        if start.step:
            self.step.load_state(start.optimizer)
        self._saved: Checkpoint | None = None  # of the last step, where it was saved

    def stopped_early(self) -> bool:
        """Whether so many epochs have brought nothing that the recipe stops."""
        return should_stop(self.progress.epochs, self.recipe.early_stopping, self.course.counts_from)

    def epoch(self, log: TrainingLog) -> None:
        """Train to the end of the epoch that the last step belongs to, or to that of the next one."""
        steps, recipe = self.course.steps, self.recipe
        factor = 1.0
        if recipe.lr_schedule == "plateau":
            factor = plateau_factor(self.progress.epochs, self.course.counts_from)
        for images, given in islice(self.batches, steps - self.done % steps):
            targets = self._targets(images, given)
            lr = factor * learning_rate(recipe.lr_schedule, recipe.lr, self.done, self.course.total, recipe.warmup)
            self._train_step(images, targets, lr, log)
            ended, saves = self.done % steps == 0, self.hooks.saves(self.done, steps)
            if ended or saves:
                self._check_finite(images)
            if ended:
                self._end_epoch(lr, log)
            if saves:
                self._saved = self._snapshot()
                self._save(self._saved)

    def result(self) -> Checkpoint:
        """The checkpoint that the training ends with."""
        last = self._saved or self._snapshot()
        if not (self.recipe.keep_best or self.recipe.early_stopping or self.recipe.reestimate_bn):
            return last
        if self.done < self.course.total and not self.stopped_early():
            return last  # interrupted
        params = apply_masks(self.graph, last.params)
        last = replace(last, params=params, progress=replace(self.progress, finished=True))
        if self.recipe.keep_best:
            chosen = self._best_epoch()
            assert chosen is not None, "the last epoch counts"
            step = self.progress.epochs[chosen].step
            last = replace(last, params=self.best, best={}, optimizer={}, step=step, epoch=chosen + 1)
        if self.recipe.reestimate_bn:
            ops = evaluation_ops(self.backend.NAME, self.device_target)
            last = reestimated(
                replace(last, optimizer={}), self.data.train, self.recipe.reestimate_bn, self.recipe.seed, ops
            )
        self._save(last)
        return last

    def _train_step(self, images: Arrays, targets: Arrays, lr: float, log: TrainingLog) -> None:
        """Train on one batch. Raises NotFiniteError where the loss is not finite."""
        epoch, index = divmod(self.done, self.course.steps)
        if self.graph.is_random:
            self.backend.seed(self.recipe.seed, self.done)
        self.pruning.before_step(self.done)
        if self.recipe.oscillations is not None:
            begun, delay = self.done - self.graph.quant_delay, self.graph.quant_delay
            own = self.recipe.oscillations.scalars(self.graph, begun, self.course.total - delay)
            self.backend.write(self.model, own)
        loss = self.step(images, targets, lr)
        self.pruning.after_step(lr)
        if not math.isfinite(loss):
            raise self._diverged(f"the loss is {loss}", self.done)
        self.done += 1
        self._saved = None
        self.progress = replace(self.progress, loss_sum=self.progress.loss_sum + loss)
        log.step(epoch + 1, index + 1, loss, lr)
        if self.hooks.watch is not None:
            self.hooks.watch(self.done, self.step, targets)

    def _end_epoch(self, lr: float, log: TrainingLog) -> None:
        """Evaluate the images that are held back, and keep the parameters where they are the best so far."""
        ended = Epoch(self.done, self.progress.loss_sum / self.course.steps, lr)
        if self.recipe.validation:
            with self._averaged():
                metric, figures = self._validated()
                held_loss, value = self.step.means(figures)
            ended = replace(ended, validation_loss=held_loss, validation_metric=value, metric=metric)
            log.validation(ended, self.task)
        self.progress = Progress((*self.progress.epochs, ended))
        if self.recipe.keep_best and self._best_epoch() == len(self.progress.epochs) - 1:
            self.best = apply_masks(self.graph, self._params())

    def _targets(self, images: Arrays, given: Arrays) -> Arrays:
        """What the loss is given: the task's targets, and behind them what ``Split.targets`` holds."""
        labels, *more = given if self.data.train.targets else (given,)
        own = self.task.targets(self.graph, images, labels)
        return as_arrays((*as_tuple(own), *more))

    def _validated(self) -> tuple[str, tuple[float, float]]:
        """The main metric's name, and loss and metric of the images that are held back."""
        held_back, task = self.data.test, self.task
        outputs = self.backend.predict(self.model, held_back.images)
        metric, value = main(task.metrics(self.graph, outputs, held_back))
        return metric, (evaluated_loss(task, self.graph, outputs, held_back, self.loss), value)

    def _best_epoch(self) -> int | None:
        return best_epoch(self.progress.epochs, self.course.counts_from)

    def _save(self, checkpoint: Checkpoint) -> None:
        if self.hooks.save is not None:
            self.hooks.save(checkpoint)

    def _snapshot(self) -> Checkpoint:
        """What is done so far. Once all is done, what masks hide is 0."""
        params = self._params()
        if self.done == self.course.total:
            params = apply_masks(self.graph, params)
        return Checkpoint(
            self.graph,
            params,
            step=self.done,
            epoch=self.done // self.course.steps,
            optimizer=self.step.state(),
            history=self.history,
            progress=self.progress,
            best=self.best,
            preparation=self.data.preparation or self.preparation,
            task=self.task,
            class_names=self.data.class_names or self.class_names,
        )

    def _params(self) -> Params:
        """What is evaluated and saved: averages where the optimizer keeps them (``Optimizer.ema``)."""
        params = self.backend.read(self.model)
        return params | self.step.averages() if self.recipe.optimizer.ema else params

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        """The model with what ``_params`` has."""
        if not self.recipe.optimizer.ema:
            yield
            return
        averages, last = self.step.averages(), self.backend.read(self.model)
        last = {name: np.array(last[name]) for name in averages}
        self.backend.write(self.model, averages)
        try:
            yield
        finally:
            self.backend.write(self.model, last)

    def _check_finite(self, images: Arrays) -> None:
        """Raise NotFiniteError where parameters or outputs are not finite.

        A step may ruin the parameters though its loss, which is that before the step, was finite. They may also stay finite
        and be too large for the outputs; those of integers are not.
        """
        wrong = Checkpoint(self.graph, self.backend.read(self.model), optimizer=self.step.state()).not_finite()
        of_integers = self.graph.is_quantized and self.graph.in_float.isdisjoint(self.graph.outputs)
        if wrong is None and not of_integers:
            outputs = np.concatenate([y.ravel() for y in as_tuple(self.backend.predict(self.model, images))])
            found = outputs[~np.isfinite(outputs)]
            wrong = f"the outputs hold {found[0]} from then on" if found.size else None
        if wrong:
            raise self._diverged(wrong, self.done - 1)

    def _diverged(self, what: str, step: int) -> NotFiniteError:
        """step: the one that went wrong, counted from 0."""
        epoch, index = divmod(step, self.course.steps)
        return NotFiniteError(
            f"training stopped at epoch {epoch + 1}, step {index + 1}: {what}, so the parameters are lost; what was saved "
            f"before is unharmed; use a smaller --lr than {self.recipe.lr:g}"
        )


def check_labels(graph: Graph, dataset: Dataset, task: Task | None = None) -> None:
    """Raise QatError unless there is something to train on, and the labels are those that the task needs for this network.

    task: None, the default, for classification.
    """
    if not len(dataset.train):
        raise QatError(f"{dataset.source}: there are no images to train on")
    for split in (dataset.train, dataset.test):
        if len(split):
            (task or Classification()).check(graph, split, dataset.source)


def evaluate_metrics(
    backend: TrainingBackend, checkpoint: Checkpoint, split: Split, *, device_target: str | None = None
) -> dict[str, float]:
    """The metrics of a network's task: of its deployed integers where it is quantized.

    Args:
        backend: of ``qat.backend``.
        checkpoint: the network, and its task.
        split: images and labels, the images in the network's shape.
        device_target: the device that computes; None: the best that there is.

    Returns:
        Values by the metric's name, the main one first.

    >>> import numpy as np, qat
    >>> from qat.networks import LeNet5
    >>> graph = LeNet5().graph()
    >>> split = qat.Split(np.zeros((4, 1, 32, 32), np.uint8), np.arange(4))
    >>> list(qat.evaluate_metrics(qat.backend("torch"), qat.Checkpoint(graph, graph.initial_params()), split))
    ['top-1']
    """
    check_backend(backend)
    model = backend.lower(checkpoint.graph, checkpoint.params, device_target=device_target)
    return checkpoint.task.metrics(checkpoint.graph, backend.predict(model, split.images), split)


def evaluate_accuracy(
    backend: TrainingBackend, checkpoint: Checkpoint, split: Split, *, device_target: str | None = None
) -> float:
    """The accuracy of a classifier: of its deployed integers where it is quantized.

    Args:
        backend: of ``qat.backend``.
        checkpoint: the network.
        split: images and labels, the images in the network's shape.
        device_target: the device that computes; None: the best that there is.

    Returns:
        The share of images whose largest output is that of the label, 0 to 1.
    """
    check_backend(backend)
    model = backend.lower(checkpoint.graph, checkpoint.params, device_target=device_target)
    (outputs,) = as_tuple(backend.predict(model, split.images))
    return accuracy(outputs, split.labels)
