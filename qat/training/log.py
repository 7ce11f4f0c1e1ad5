"""The log of a training: lines, a progress bar on a terminal or in a notebook, and a CSV file of the same numbers."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType

from qat.console import SILENCE, Bar, Pulse, make_console, print_line
from qat.errors import QatError, QatWarning, one_line
from qat.tasks import Task
from qat.training.monitor import Epoch
from qat.training.trackers import Tracker
from qat.vocabulary.rows import showing, shown_by


@contextmanager
def progress() -> Iterator[None]:
    """Within, long work shows how far it is, as commands do: samples of how many, and samples a second.

    A calibration, learned rounding, a diagnosis, a repair, an export or an evaluation has a bar on a terminal or in a notebook
    (with ipywidgets), and elsewhere prints a line each 10 seconds. Outside they print nothing. A training has its own lines and
    its bar.

    Returns:
        A context manager.

    >>> import numpy as np, qat
    >>> images = np.random.default_rng(0).integers(0, 256, (100, 1, 32, 32), np.uint8)
    >>> graph = qat.networks.LeNet5().graph()
    >>> with qat.progress():
    ...     checkpoint = qat.calibrate(graph, graph.initial_params(seed=0), images, method="minmax")
    """
    with showing(Pulse().watched):
        yield


class TrainingLog:
    """Log lines in the format of MindSpore's tutorial, and on a terminal or in a notebook a progress bar beside them.

        Epoch: [ 1/ 10], step: [ 937/ 937], loss: [0.0113], avg loss: [0.0223], time: [4.3ms]

    "loss" is that of the step, "avg loss" the mean over the epoch so far, "time" the mean of a step since the last
    line. Off a terminal there is such a line after the first step that ends ``SILENCE`` seconds after the last one, too.

    Args:
        epochs: of the training.
        steps: in an epoch.
        every: log also after so many steps; 0, the default: at the end of each epoch only.
        csv_path: a file to which the numbers of these lines and the learning rate are appended, but not of those that
            come by the clock; None for none.
        trackers: they get the same numbers (``qat.trackers``); none by default. One that fails gets no more, and a
            QatWarning says so: a service that does not answer ends no training.
        batch_size: samples in a step, for the samples a second that the bar shows; 0, the default: it shows none.
        clock: gives seconds; tests have one of their own.

    Raises:
        QatError: for a negative ``every``.
    """

    COLUMNS = ("epoch", "step", "loss", "avg_loss", "lr", "ms_per_step")

    def __init__(
        self,
        epochs: int,
        steps: int,
        every: int = 0,
        csv_path: str | Path | None = None,
        batch_size: int = 0,
        clock: Callable[[], float] = time.perf_counter,
        trackers: Sequence[Tracker] = (),
    ) -> None:
        if every < 0:
            raise QatError(f"log_every is {every}; use a number of steps, or 0 for the ends of epochs only")
        self.epochs, self.steps, self.every, self.csv_path = epochs, steps, every, csv_path
        self._batch_size, self._clock, self._quiet, self._trackers = batch_size, clock, ExitStack(), trackers
        self._console = make_console()
        # That of the command where there is one: when the training is over, silence counts from its last line there, too.
        outer = getattr(shown_by(), "__self__", None)
        self._pulse = outer if isinstance(outer, Pulse) else Pulse(clock)
        self._progress = Bar(self._console, clock)
        self._task = self._progress.add_task("", total=steps, rate="")
        self._total, self._seen, self._unlogged, self._since = 0.0, 0, 0, clock()

    def __enter__(self) -> TrainingLog:
        self._progress.start()
        if not self._progress.disable:
            self._quiet.enter_context(showing(None))  # the bar of the training is there already
        elif shown_by() is not None:
            self._quiet.enter_context(showing(self._pulse.watched))  # silence counts from the training's own lines
        self._since = self._clock()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._quiet.close()
        self._progress.stop()

    def step(self, epoch: int, step: int, loss: float, lr: float) -> None:
        """Report a step.

        Args:
            epoch: from 1.
            step: in the epoch, from 1.
            loss: of the step.
            lr: learning rate of the step.
        """
        if step == 1:
            self._total, self._seen = 0.0, 0
        self._total += loss
        self._seen += 1
        self._unlogged += 1
        passed = self._clock() - self._since
        self._progress.show(
            self._task,
            completed=step,
            description=f"epoch {epoch}/{self.epochs}  loss {loss:.4f}",
            rate=f"{self._unlogged * self._batch_size / passed:,.0f} samples/s" if passed and self._batch_size else "",
        )
        asked = step == self.steps or bool(self.every and step % self.every == 0)
        if asked or (self._progress.disable and passed >= SILENCE):
            now = self._clock()
            milliseconds = (now - self._since) * 1000.0 / self._unlogged
            average = self._total / self._seen
            line = (
                f"Epoch: [{epoch:2d}/{self.epochs:3d}], step: [{step:4d}/{self.steps:4d}], loss: [{loss:.4f}], "
                f"avg loss: [{average:.4f}], time: [{milliseconds:.1f}ms]"
            )
            if len(line) > self._console.width:  # narrower, with the same words
                line = (
                    f"Epoch:[{epoch:{len(str(self.epochs))}d}/{self.epochs}], "
                    f"step:[{step:{len(str(self.steps))}d}/{self.steps}], loss:[{loss:.4f}], avg loss:[{average:.4f}], "
                    f"time:[{milliseconds:.1f}ms]"
                )
            print_line(self._console, line)
            if asked and self.csv_path is not None:
                self._append(f"{epoch},{step},{loss:.6g},{average:.6g},{lr:.6g},{milliseconds:.4g}")
            if asked:
                numbers = {"loss": loss, "avg_loss": average, "lr": lr, "ms_per_step": milliseconds}
                self._track("train", numbers, (epoch - 1) * self.steps + step)
            self._unlogged, self._since = 0, self._clock()
            self._pulse.printed()

    def validation(self, epoch: Epoch, task: Task) -> None:
        """Report loss and the task's main metric of the held-back images at the end of an epoch."""
        loss, metric, value = epoch.validation_loss, epoch.metric, epoch.validation_metric
        assert loss is not None, "images were held back"
        assert metric is not None, "images were held back"
        assert value is not None, "images were held back"
        print_line(
            self._console,
            f"{'Validation:':>{len('Epoch: [ 1/ 10],')}} loss: [{loss:.4f}], {task.label(metric, short=True)}: "
            f"[{task.value(metric, value)}]",
        )
        self._track("validation", {"loss": loss, metric: value}, epoch.step)

    def _track(self, what: str, numbers: Mapping[str, float], step: int) -> None:
        for tracker in self._trackers:
            try:
                tracker.log_metrics({f"{what}/{name}": value for name, value in numbers.items()}, step)
            except Exception as error:  # of a service's own kinds
                self._trackers = [each for each in self._trackers if each is not tracker]
                warnings.warn(
                    f"{type(tracker).__name__}: took no numbers at step {step} ({one_line(error)}), and gets no more; the "
                    "training goes on",
                    QatWarning,
                    stacklevel=2,
                )

    def _append(self, line: str) -> None:
        assert self.csv_path is not None
        try:
            Path(self.csv_path).parent.mkdir(parents=True, exist_ok=True)
            with Path(self.csv_path).open("a", encoding="utf-8") as file:
                if not file.tell():
                    file.write(",".join(self.COLUMNS) + "\n")
                file.write(line + "\n")
        except OSError as error:
            raise QatError(
                f"{self.csv_path}: cannot be written ({error.strerror}); choose another --log_path"
            ) from None
