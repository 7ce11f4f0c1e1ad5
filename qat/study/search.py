"""Hyperparameter searches with Optuna: trials in one SQLite file, resumable after a kill, each a training that may be
pruned early.
"""

from __future__ import annotations

import hashlib
import json
import math
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, redirect_stdout
from pathlib import Path
from typing import Any

from qat.data import Dataset
from qat.deploy.interfaces import TrainingBackend
from qat.errors import QatError, shortened
from qat.extras import how_to_install
from qat.reading import reading
from qat.study.store import check_database, locked
from qat.tables import counted
from qat.tasks import Task
from qat.training.checkpoint import Checkpoint
from qat.training.loop import train
from qat.training.optimizer import Optimizer
from qat.training.recipe import Recipe
from qat.vocabulary.fields import check_type

SAMPLERS = ("hyperband", "bayesian")


class Search:
    """A search in a folder, with Optuna's storage in ``search.db``, which Optuna's dashboard can read, and the trials'
    checkpoints.

    Args:
        folder: of the search.
        directions: "maximize" or "minimize" for each value that a trial returns.
        sampler: "hyperband": random settings, whose trainings are stopped by successive halving (Li et al., arXiv
            1603.06560, factor 3); "bayesian": Optuna's TPE. With several values NSGA-II in either case.
        epochs: of the longest training.
        seed: of the sampler.
        settings: what must be the same when the search is continued; JSON values.

    Raises:
        QatError: without Optuna, for other settings than before, and where another process searches in the folder.
    """

    def __init__(
        self,
        folder: str | Path,
        directions: Sequence[str],
        *,
        sampler: str,
        epochs: int,
        seed: int,
        settings: Mapping[str, Any],
    ) -> None:
        try:
            import optuna
        except ModuleNotFoundError:
            raise QatError(f"searches need Optuna, which is not installed: {how_to_install('search')}") from None
        self.optuna: Any = optuna
        optuna.logging.set_verbosity(optuna.logging.ERROR)  # a line on each trial is printed here
        self.folder = Path(folder)
        self._lock: sqlite3.Connection = locked(self.folder, "search")
        try:
            self._open(directions, json.loads(json.dumps(settings)))
        except QatError:
            self._lock.close()
            raise
        many = len(directions) > 1
        # A sampler that starts again with the same seed would repeat its proposals.
        seed += len(self.study.trials)
        if many:
            self.study.sampler = optuna.samplers.NSGAIISampler(seed=seed, population_size=12)
        elif sampler == "bayesian":
            self.study.sampler = optuna.samplers.TPESampler(seed=seed)
        else:
            self.study.sampler = optuna.samplers.RandomSampler(seed=seed)
        if sampler == "hyperband" and not many:
            self.study.pruner = optuna.pruners.HyperbandPruner(1, epochs, 3)
        else:
            self.study.pruner = optuna.pruners.NopPruner()

    def _open(self, directions: Sequence[str], own: dict[str, Any]) -> None:
        path = self.folder / "search.db"
        check_database(path, "a search")
        with self._reading():
            self.study = self.optuna.create_study(
                storage=f"sqlite:///{path.absolute()}",
                study_name="search",
                directions=list(directions),
                load_if_exists=True,
            )
            found = [direction.name.lower() for direction in self.study.directions]
            if found != list(directions):
                raise ValueError(f"its directions are {', '.join(found)}, not {', '.join(directions)}")
            before = self.study.user_attrs.get("settings")
            if before is None:
                self.study.set_user_attr("settings", before := own)
            check_type("settings", before, dict)
        key = next((key for key in {**before, **own} if before.get(key) != own.get(key)), None)
        if key is not None:
            old, new = (shortened(each.get(key)) for each in (before, own))
            raise QatError(
                f"{self.folder}: the search was begun with {key} {old}, now it is {new}; give the same arguments, or "
                "another folder"
            )
        with self._reading():
            self._begin_killed_again()

    def _reading(self) -> AbstractContextManager[None]:
        """Turn errors of SQLAlchemy and Optuna into errors of the file; not used around the objective."""
        return reading(self.folder / "search.db", "a search", "choose another folder")

    def close(self) -> None:
        """Release the folder."""
        self._lock.close()

    def __enter__(self) -> Search:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def run(self, objective: Callable[[Any], Any], trials: int, show: Callable[[Any], str]) -> list[Any]:
        """Run trials until a number of them has ended, those of earlier calls included.

        Args:
            objective: as Optuna takes it; a QatError ends one trial only, as a pruned one.
            trials: how many.
            show: the text to print for a completed trial.

        Returns:
            The completed trials.
        """
        with self._reading():
            ended = len(self._ended())
        while ended < trials:
            with self._reading():
                trial = self.study.ask()
            values, state = self._attempt(objective, trial)
            with self._reading():
                self.study.tell(trial, values, state)
                *others, last = self._ended()
                text = show(last) if last.state.name == "COMPLETE" else "given up"
                if reason := last.user_attrs.get("reason"):
                    text += f": {reason}"
            print(f"[{ended + 1:3d}/{trials:3d}] trial {last.number}: {text}", flush=True)
            ended = len(others) + 1
        with self._reading():
            completed = [trial for trial in self.study.trials if trial.state.name == "COMPLETE"]
            for trial in completed:
                show(trial)  # raises where a damaged file lacks what is shown
                check_type("values", tuple(trial.values), tuple[float, ...])
            return completed

    def _attempt(self, objective: Callable[[Any], Any], trial: Any) -> tuple[Any, Any]:
        """The values of a trial, or the state in which it ended. An error that ends the search is recorded first."""
        states = self.optuna.trial.TrialState
        try:
            return objective(trial), None
        except QatError as error:
            trial.set_user_attr("reason", str(error).partition(";")[0])
            return None, states.PRUNED
        except self.optuna.TrialPruned:
            return None, states.PRUNED
        except Exception:
            self.study.tell(trial, state=states.FAIL)
            raise
        except KeyboardInterrupt:  # it does not count as failed
            trial.set_user_attr("killed", True)
            if trial.params:
                self.study.enqueue_trial(trial.params)
            self.study.tell(trial, state=states.FAIL)
            raise

    def _ended(self) -> list[Any]:
        ended = [t for t in self.study.trials if t.state.is_finished() and not t.user_attrs.get("killed")]
        return sorted(ended, key=lambda trial: trial.datetime_complete)

    def _begin_killed_again(self) -> None:
        """Trials still marked as running were killed: their settings are tried again first, from their checkpoints."""
        states = self.optuna.trial.TrialState
        for trial in self.study.get_trials(deepcopy=False, states=(states.RUNNING,)):
            self.study._storage.set_trial_user_attr(trial._trial_id, "killed", True)
            self.study.tell(trial.number, state=states.FAIL)
            if trial.params:
                self.study.enqueue_trial(trial.params)


def train_trial(
    trial: Any,
    folder: Path,
    backend: TrainingBackend,
    start: Checkpoint,
    dataset: Dataset,
    recipe: Recipe,
    *,
    device_target: str | None = None,
    can_be_pruned: bool = True,
) -> Checkpoint:
    """Train for a trial, continuing an earlier attempt with the same settings that was killed.

    The validation metric of each epoch is reported to Optuna, as ``goodness``; where it prunes the trial, TrialPruned is
    raised.

    Args:
        trial: Optuna's.
        folder: of the search.
        backend: that trains.
        start: where the training starts.
        dataset: to train on.
        recipe: of the training.
        device_target: "CPU", "GPU" or "Ascend"; None, the default: the backend's first.
        can_be_pruned: whether to report epochs; False where a search has several values, which Optuna does not prune.

    Returns:
        The trained checkpoint.
    """
    digest = hashlib.sha256((start.graph.to_json() + json.dumps(trial.params, sort_keys=True)).encode()).hexdigest()[
        :16
    ]
    path = folder / "trials" / f"{digest}.ckpt"
    trial.set_user_attr("checkpoint", str(path))
    if path.exists() and (saved := Checkpoint.load(path)).graph == start.graph:
        start = saved

    def save(checkpoint: Checkpoint) -> None:
        checkpoint.save(path)
        epochs = checkpoint.progress.epochs
        if can_be_pruned and not checkpoint.progress.finished:
            trial.report(goodness(checkpoint), len(epochs))
            if trial.should_prune():
                import optuna

                words = good_words(checkpoint.task, goodness(checkpoint), epochs[-1].metric)
                trial.set_user_attr("reason", f"{words} after {counted(len(epochs), 'epoch')}")
                raise optuna.TrialPruned

    log = folder / "trials" / f"{digest}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as file, redirect_stdout(file):
        return train(backend, start, dataset, recipe, device_target=device_target, save=save)


def goodness(checkpoint: Checkpoint) -> float:
    """The validation metric of the epoch whose parameters the checkpoint has, to be maximised: an error is negative."""
    epoch = checkpoint.progress.epochs[checkpoint.epoch - 1]
    value, metric = epoch.validation_metric, epoch.metric
    assert value is not None, "trials hold images back"
    assert metric is not None, "trials hold images back"
    return value if checkpoint.task.higher_is_better(metric) else -value


def metric_of(checkpoint: Checkpoint) -> str:
    """The name of the validation metric."""
    return checkpoint.progress.epochs[checkpoint.epoch - 1].metric or next(iter(checkpoint.task.METRICS), "")


def good_words(task: Task, value: float, metric: str | None) -> str:
    """A ``goodness`` as text, as "98.21 %" or "MAE 0.132"."""
    metric = metric or "top-1"
    own = value if task.higher_is_better(metric) else -value
    return task.value(metric, own) if task.is_percent(metric) else task.words(metric, own)


def adjusted_accuracy(
    accuracy: float, cost: float, reference: float, *, delta: float = 0.08, rate: float = 2.0, stress: float = 1.0
) -> float:
    """accuracy (1 + delta log_rate(stress reference / cost)): AutoQKeras's score (arXiv 2006.10159, section 5, with
    its defaults). A ``goodness`` below 0, an error, is divided by that factor instead.

    Args:
        accuracy: 0 to 1, or the goodness of another task.
        cost: of the network.
        reference: cost of the reference network.
        delta: the relative accuracy that a network of 1 / rate of the cost may lose.
        rate: the base of the logarithm.
        stress: share of the reference cost that is aimed at.

    Returns:
        The score, to be maximised.
    """
    factor = 1.0 + delta * math.log(stress * reference / cost, rate)
    return accuracy * factor if accuracy >= 0.0 else accuracy / max(factor, 1e-6)


def trial_recipe(
    epochs: int, batch_size: int, lr: float, seed: int, validation: int, early_stopping: int = 0
) -> Recipe:
    """The recipe of a trial: AMSGrad, a rate that falls on a plateau, the best epoch's parameters."""
    return Recipe(
        epochs,
        batch_size,
        lr,
        "plateau",
        seed,
        Optimizer("amsgrad"),
        validation=validation,
        early_stopping=early_stopping,
        keep_best=True,
    )
