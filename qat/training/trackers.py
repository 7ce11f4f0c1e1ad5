"""Where the numbers of a training go beside the log: TensorBoard, MLflow, Weights & Biases, or a tracker of one's own.

A tracker has three methods (``Tracker``). Those of other services use the package of the service, which is imported when one
is made. A package of another can add one: its entry point in the group ``qat.trackers`` is called with the text behind the
colon, "" where there is none, and returns a tracker.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from qat import hints
from qat.errors import QatError, one_line, shortened
from qat.extras import how_to_install
from qat.plugins import Group, own_object
from qat.training.event_file import EventFile

__all__ = ["MLflow", "TellsFailure", "TensorBoard", "Tracker", "WandB", "create", "opened"]

METHODS = ("log_params", "log_metrics", "close")
LONGEST = 500  #: characters of a setting; MLflow takes no more in all its releases


@runtime_checkable
class Tracker(Protocol):
    """What the numbers of a training are sent to."""

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Settings of a training, by name; called before its first step."""

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Numbers by name ("train/loss"); step: how many training steps were done."""

    def close(self) -> None:
        """Nothing more comes."""


@runtime_checkable
class TellsFailure(Protocol):
    """What a tracker has beside that shows whether a training came to its end."""

    def fail(self) -> None:
        """In place of ``close``: nothing more comes, since the training ended by an error or was interrupted."""


class TensorBoard:
    """Event files, written without TensorBoard.

    Args:
        folder: where to write; TensorBoard is given this folder, or one above.

    Raises:
        QatError: it is empty, or cannot be written to.

    >>> import qat
    >>> tracker = qat.trackers.TensorBoard("logs")
    >>> tracker.log_metrics({"train/loss": 0.5}, step=100)
    """

    def __init__(self, folder: str | Path) -> None:
        if not str(folder):
            raise QatError("--log_to tensorboard: needs a folder to write to; give tensorboard:runs/first")
        self._file = EventFile(folder)

    def log_params(self, params: Mapping[str, Any]) -> None:
        """As ``Tracker`` has it: a text, "settings", with a line for each."""
        self._file.text("settings", "\n".join(f"    {name}: {value}" for name, value in params.items()))

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """As ``Tracker`` has it."""
        self._file.scalars(step, metrics)

    def close(self) -> None:
        """As ``Tracker`` has it: each number is in the file already."""


class MLflow:
    """A run of MLflow, where its own settings say (MLFLOW_TRACKING_URI): the active one, or a new one.

    Args:
        experiment: its name; "": MLflow's own choice.

    Raises:
        QatError: MLflow is not installed, or refuses.
    """

    def __init__(self, experiment: str = "") -> None:
        try:
            import mlflow
        except ModuleNotFoundError:
            raise _missing("mlflow", "mlflow") from None
        self._mlflow = mlflow
        with _of_service("mlflow", "look at MLFLOW_TRACKING_URI"):
            active = mlflow.active_run()
            if active is None and experiment:
                mlflow.set_experiment(experiment)
            self._own = active is None
            self.run_id: str = (active or mlflow.start_run()).info.run_id

    def log_params(self, params: Mapping[str, Any]) -> None:
        """As ``Tracker`` has it. What is longer than MLflow takes is cut short."""
        with _of_service("mlflow", "leave --log_to out"):
            self._mlflow.log_params({name: str(value)[:LONGEST] for name, value in params.items()}, run_id=self.run_id)

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """As ``Tracker`` has it."""
        with _of_service("mlflow", "leave --log_to out"):
            self._mlflow.log_metrics(dict(metrics), step=step, run_id=self.run_id)

    def close(self) -> None:
        """As ``Tracker`` has it: ends the run, unless it was active before."""
        if self._own:
            self._mlflow.end_run()

    def fail(self) -> None:
        """As ``TellsFailure`` has it: the run's status is FAILED, unless it was active before."""
        if self._own:
            self._mlflow.end_run("FAILED")


class WandB:
    """A run of Weights & Biases, as its own settings say (WANDB_MODE=offline: without its server).

    Args:
        project: its name; "": that of its own settings.

    Raises:
        QatError: wandb is not installed, or refuses.
    """

    def __init__(self, project: str = "") -> None:
        try:
            import wandb
        except ModuleNotFoundError:
            raise _missing("wandb", "wandb") from None
        with _of_service("wandb", "call 'wandb login', or set WANDB_MODE=offline"):
            self.run: Any = wandb.init(project=project or None)

    def log_params(self, params: Mapping[str, Any]) -> None:
        """As ``Tracker`` has it."""
        self.run.config.update(dict(params), allow_val_change=True)

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """As ``Tracker`` has it."""
        self.run.log(dict(metrics), step=step)

    def close(self) -> None:
        """As ``Tracker`` has it."""
        self.run.finish()

    def fail(self) -> None:
        """As ``TellsFailure`` has it: the run is shown as failed."""
        self.run.finish(exit_code=1)


TRACKERS: dict[str, Any] = {"tensorboard": TensorBoard, "mlflow": MLflow, "wandb": WandB}
ADDED = Group("qat.trackers", "tracker", tuple(TRACKERS))  #: our own, and those of other packages


def create(text: str) -> Tracker:
    """A tracker by its name.

    Args:
        text: "tensorboard:FOLDER", "mlflow", "mlflow:EXPERIMENT", "wandb", "wandb:PROJECT"; the name of an entry point of the
            group ``qat.trackers``, with or without a text behind a colon; or "package.module:Class", whose code is then run.

    Returns:
        The tracker.

    Raises:
        QatError: there is none of that name, or what it needs is not installed.

    >>> import qat
    >>> qat.trackers.create("tensorboard:logs").log_metrics({"train/loss": 0.5}, step=100)
    """
    name, colon, argument = text.partition(":")
    known = ADDED.meant(name)
    if known is None:
        if not (colon and argument.isidentifier()):
            raise QatError(
                f"--log_to: {hints.unknown(ADDED.what, name, ADDED.names())}; for a class of yours give package.module:Class"
            )
        form = f"{', '.join(ADDED.names())}, with what follows behind a colon, or package.module:Class"
        tracker = own_object(text, "--log_to: tracker", form)()
    else:
        tracker = (TRACKERS.get(known) or ADDED.load(known))(argument)
    return check_trackers([tracker])[0]


@contextlib.contextmanager
def opened(texts: Sequence[str]) -> Iterator[tuple[Tracker, ...]]:
    """Trackers by their names, closed at the end. One that can tell (``TellsFailure``) is told where that came by an error.

    Args:
        texts: as ``create`` takes them.

    Yields:
        The trackers.

    Raises:
        QatError: as ``create``; those that were made before are closed.

    >>> import qat
    >>> with qat.trackers.opened(["tensorboard:logs"]) as tracking:
    ...     tracking[0].log_metrics({"train/loss": 0.5}, step=100)
    """
    with contextlib.ExitStack() as stack:
        yield tuple(stack.enter_context(_closing(create(text))) for text in texts)


@contextlib.contextmanager
def _closing(tracker: Tracker) -> Iterator[Tracker]:
    try:
        yield tracker
    except BaseException:
        with contextlib.suppress(Exception):  # what ended the training is what has to be said
            (tracker.fail if isinstance(tracker, TellsFailure) else tracker.close)()
        raise
    tracker.close()


def check_trackers(trackers: Iterable[Tracker]) -> tuple[Tracker, ...]:
    """The same. Raises QatError for what is no tracker, as its name."""
    found = tuple(trackers)
    for each in found:
        if isinstance(each, str):
            raise QatError(f"trackers: {shortened(each)} is a name; give qat.trackers.create({each!r})")
        missing = [name for name in METHODS if not callable(getattr(each, name, None))]
        if missing:
            raise QatError(f"trackers: a {type(each).__name__} has no {missing[0]}; a tracker has {', '.join(METHODS)}")
    return found


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Settings that hold settings, as one level: {"optimizer": {"ema": 0.9}} becomes {"optimizer.ema": 0.9}."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        own = f"{prefix}{name}"
        found |= flat(value, f"{own}.") if isinstance(value, Mapping) else {own: value}
    return found


def _missing(name: str, extra: str) -> QatError:
    return QatError(f"--log_to {name}: needs the package {name!r}, which is not installed: {how_to_install(extra)}")


@contextlib.contextmanager
def _of_service(name: str, advice: str) -> Iterator[None]:
    """What a service's package raises, in a line."""
    try:
        yield
    except Exception as error:  # of the package's own kinds
        raise QatError(f"--log_to {name}: refused ({type(error).__name__}: {one_line(error)}); {advice}") from error
