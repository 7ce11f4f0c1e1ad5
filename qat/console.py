"""What commands print: log lines, a progress bar on a terminal, tables. Names and paths are printed without effect on
the terminal.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from qat.errors import QatError, one_line
from qat.training.monitor import Epoch


class LastingOutput:
    """A stream that never fails: after the first write that does (a full disk, a closed pipe) further output is
    dropped, so that no work is lost because of it.

    Args:
        stream: to write to.

    Attributes:
        lost: the exception of that write; None as long as all were written.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.lost: OSError | None = None

    def write(self, text: str) -> int:
        """Write to the stream, if it still works."""
        self._try(lambda: self._stream.write(text))
        return len(text)

    def flush(self) -> None:
        """Flush the stream, if it still works."""
        self._try(self._stream.flush)

    def _try(self, act: Callable[[], Any]) -> None:
        if self.lost is None:
            try:
                act()
            except OSError as error:
                self.lost = error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class PlainOutput:
    """A stream that escapes control characters line by line, and characters that its encoding does not have.

    ``make_console`` alone writes to the stream behind it, to which it sends styles.

    Args:
        stream: to write to.
    """

    def __init__(self, stream: TextIO | LastingOutput) -> None:
        self.behind = stream
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")

    def write(self, text: str) -> int:
        """Write the escaped text."""
        return self.behind.write("\n".join(one_line(line.expandtabs()) for line in text.split("\n")))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.behind, name)


def make_console() -> Console:
    """A console on standard output; plain text without styles or wrapping where that is no terminal, or a dumb one.

    Text from elsewhere, as names and paths, has to be given to it through ``shown``.
    """
    file = getattr(sys.stdout, "behind", None)
    console = Console(highlight=False, file=file)
    if console.is_terminal and not console.is_dumb_terminal:
        return console
    return Console(highlight=False, file=file, width=200, color_system=None, force_terminal=False)


def shown(text: str, style: str = "") -> Text:
    """A text on one line for a console: brackets are not markup, and control characters are escaped."""
    return Text(one_line(text), style=style)


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table below its title; all columns but the first are aligned to the right.

    Nothing is cut off: where the terminal is narrow the headings are broken at spaces, and lines may wrap.

    Args:
        title: above the table.
        columns: the headings.
        rows: a text for each column.
    """
    rows = [*rows]
    console = make_console()
    table = _table(columns, rows)
    if _width(console, table) > console.width:
        table = _table([column.replace(" ", "\n") for column in columns], rows)
        console.width = max(console.width, _width(console, table))
    console.print(shown(title, "bold"), soft_wrap=True)  # a table's own title would wrap at its width
    console.print(table)


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = Table()
    for index, column in enumerate(columns):
        table.add_column(Text(column), justify="left" if index == 0 else "right", no_wrap=True)
    for row in rows:
        table.add_row(*map(shown, row))
    return table


def _width(console: Console, table: Table) -> int:
    return console.measure(table, options=console.options.update(max_width=1000)).maximum


class TrainingLog:
    """Log lines in the format of MindSpore's tutorial, and on a terminal a progress bar below them.

        Epoch: [ 1/ 10], step: [ 937/ 937], loss: [0.0113], avg loss: [0.0223], time: [4.3ms]

    "loss" is that of the step, "avg loss" the mean over the epoch so far, "time" the mean of a step since the last
    line.

    Args:
        epochs: of the training.
        steps: in an epoch.
        every: log also after so many steps; 0, the default: at the end of each epoch only.
        csv_path: a file to which the same numbers and the learning rate are appended; None for none.

    Raises:
        QatError: for a negative ``every``.
    """

    COLUMNS = ("epoch", "step", "loss", "avg_loss", "lr", "ms_per_step")

    def __init__(self, epochs: int, steps: int, every: int = 0, csv_path: str | Path | None = None) -> None:
        if every < 0:
            raise QatError(f"log_every is {every}; use a number of steps, or 0 for the ends of epochs only")
        self.epochs, self.steps, self.every, self.csv_path = epochs, steps, every, csv_path
        self._console = make_console()
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
        self._task = self._progress.add_task("", total=steps)
        self._total, self._seen, self._unlogged, self._since = 0.0, 0, 0, time.perf_counter()

    def __enter__(self) -> TrainingLog:
        self._progress.start()
        self._since = time.perf_counter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
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
        self._progress.update(self._task, completed=step, description=f"epoch {epoch}/{self.epochs}  loss {loss:.4f}")
        if step == self.steps or (self.every and step % self.every == 0):
            now = time.perf_counter()
            milliseconds = (now - self._since) * 1000.0 / self._unlogged
            average = self._total / self._seen
            self._console.print(
                f"Epoch: [{epoch:2d}/{self.epochs:3d}], step: [{step:4d}/{self.steps:4d}], loss: [{loss:.4f}], "
                f"avg loss: [{average:.4f}], time: [{milliseconds:.1f}ms]",
                markup=False,
                soft_wrap=True,
            )
            if self.csv_path is not None:
                self._append(f"{epoch},{step},{loss:.6g},{average:.6g},{lr:.6g},{milliseconds:.4g}")
            self._unlogged, self._since = 0, time.perf_counter()

    def validation(self, epoch: Epoch) -> None:
        """Report loss and accuracy of the held-back images at the end of an epoch."""
        loss, accuracy = epoch.validation_loss, epoch.validation_accuracy
        assert loss is not None, "images were held back"
        assert accuracy is not None, "images were held back"
        self._console.print(
            f"{'Validation:':>{len('Epoch: [ 1/ 10],')}} loss: [{loss:.4f}], accuracy: [{100 * accuracy:.2f}]",
            markup=False,
            soft_wrap=True,
        )

    def _append(self, line: str) -> None:
        assert self.csv_path is not None
        try:
            with Path(self.csv_path).open("a", encoding="utf-8") as file:
                if not file.tell():
                    file.write(",".join(self.COLUMNS) + "\n")
                file.write(line + "\n")
        except OSError as error:
            raise QatError(
                f"{self.csv_path}: cannot be written ({error.strerror}); choose another --log_path"
            ) from None
