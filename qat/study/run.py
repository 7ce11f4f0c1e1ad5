"""Running a study: tasks that are ready go to the executor, their ends are recorded, and a table shows the progress."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path

from rich.live import Live
from rich.table import Table

from qat.console import make_console, print_line, shown
from qat.study.executors import Executor
from qat.study.store import Row, Study, Task

MOST_ATTEMPTS = 5  #: of a task whose process dies
REFRESH = 0.5  #: seconds


def run_study(
    study: Study,
    tasks: Iterable[Task],
    executor: Executor,
    is_done: Callable[[Path, Task], bool],
    *,
    progress: Callable[[Path, Task], str] | None = None,
) -> list[Row]:
    """Run tasks, and those that they need, until none is left that can run.

    A task whose process dies is started again, MOST_ATTEMPTS times at most. A task that fails is not, and those that
    need it keep waiting. The study may be killed at any time; called again, it continues.

    Args:
        study: the study file.
        tasks: to be run.
        executor: where they run.
        is_done: whether the result of a task is in the folder.
        progress: a few words on a running task, for the table; None for none.

    Returns:
        The state of each task.
    """
    tasks = list(tasks)
    study.add(tasks)
    study.reopen({row.task.name: is_done(study.folder, row.task) for row in study.rows()})
    wanted = _with_needed({row.task.name: row.task for row in study.rows()}, tasks)
    table = _Table(study, wanted, progress)
    running: set[str] = set()
    try:
        with table:
            while True:
                for task in study.ready(wanted)[: executor.jobs - len(running)]:
                    study.start(task.name)
                    executor.submit(task)
                    running.add(task.name)
                if not running:
                    break
                for ended in executor.wait(REFRESH):
                    running.remove(ended.name)
                    table.note(ended.name, _note(study, ended.name, ended.error, ended.lost))
                table.refresh()
    finally:
        executor.close()
    return [row for row in study.rows() if row.task.name in wanted]


def _note(study: Study, name: str, error: str | None, lost: bool) -> str:
    """Record how a task ended; returns its state, in words."""
    attempts = next(row.attempts for row in study.rows() if row.task.name == name)
    if lost and attempts < MOST_ATTEMPTS:
        study.end(name, "waiting", error)
        return "lost, begun again"
    study.end(name, "done" if error is None else "failed", error)
    return "done" if error is None else f"failed: {error}"


def _with_needed(known: dict[str, Task], tasks: Iterable[Task]) -> set[str]:
    wanted: set[str] = set()
    left = [task.name for task in tasks]
    while left:
        name = left.pop()
        if name not in wanted:
            wanted.add(name)
            left += known[name].after
    return wanted


class _Table:
    """A live table on a terminal; elsewhere a line for each task that ends."""

    def __init__(self, study: Study, wanted: set[str], progress: Callable[[Path, Task], str] | None) -> None:
        self._study, self._wanted, self._progress = study, wanted, progress
        self._console = make_console()
        self._live = Live(console=self._console, auto_refresh=False, transient=True)
        self._drawn = 0.0

    def __enter__(self) -> _Table:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def note(self, name: str, state: str) -> None:
        """A line that stays."""
        rows = [row for row in self._study.rows() if row.task.name in self._wanted]
        count = sum(row.state == "done" for row in rows)
        seconds = next(row.seconds for row in rows if row.task.name == name) or 0.0
        print_line(self._console, f"[{count:3d}/{len(rows):3d}] {name}: {state} ({duration(seconds)})")

    def refresh(self) -> None:
        if self._console.is_terminal and time.monotonic() - self._drawn > REFRESH:
            self._drawn = time.monotonic()
            self._live.update(self._drawing(), refresh=True)

    def _drawing(self) -> Table:
        rows = [row for row in self._study.rows() if row.task.name in self._wanted]
        counts = {state: sum(row.state == state for row in rows) for state in ("done", "running", "waiting", "failed")}
        title = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
        table = Table(title=shown(f"{self._study.folder}: {title}"), title_justify="left", title_style="bold")
        for column in ("training", "so far", "for", "attempt"):
            table.add_column(column, justify="left" if column in ("training", "so far") else "right")
        for row in rows:
            if row.state == "running":
                done = self._progress(self._study.folder, row.task) if self._progress else ""
                elapsed = duration(time.time() - (row.started or time.time()))
                table.add_row(*map(shown, (row.task.name, done, elapsed, str(row.attempts))))
        return table


def duration(seconds: float) -> str:
    """A time in words, as "3.2 s", "4 min 05 s", "2 h 07 min"."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
