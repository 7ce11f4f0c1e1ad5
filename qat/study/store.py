"""The study file: the tasks, what each needs, and its state. One SQLite file with one writer."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import time
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from qat.errors import QatError, shortened
from qat.names import check_name
from qat.reading import open_regular, reading
from qat.vocabulary.fields import build

FORMAT = 1
STATES = ("waiting", "running", "done", "failed")
SCHEMA = """
CREATE TABLE IF NOT EXISTS study (format INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS tasks (
    name TEXT PRIMARY KEY, settings TEXT NOT NULL, after TEXT NOT NULL, state TEXT NOT NULL,
    attempts INTEGER NOT NULL, started REAL, seconds REAL, error TEXT
);
"""


@dataclass(frozen=True)
class Task:
    """One piece of work.

    Args:
        name: unique in the study; its files' names begin with it.
        settings: what the work reads, JSON values; empty by default.
        after: names of tasks that have to be done before; none by default.

    Raises:
        QatError: for a name that cannot be part of a file's name.
    """

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    after: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_name(self.name, "task")
        if "/" in self.name:
            raise QatError(f"task {self.name}: its files cannot be in another folder; leave the / out of its name")


@dataclass(frozen=True)
class Row:
    """The state of a task.

    Args:
        task: whose state it is.
        state: one of STATES.
        attempts: how often it was started since the study was last started.
        started: when, in seconds since 1970; None where it never was.
        seconds: how long its last attempt took.
        error: one line where it failed.
    """

    task: Task
    state: str
    attempts: int
    started: float | None
    seconds: float | None
    error: str | None


class Study:
    """A study file, opened by the one process that runs it.

    Args:
        folder: where the tasks' files are; the study file is ``study.db`` in it.

    Raises:
        QatError: where another process runs the study, and where the file is not a study.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._db: Any = None
        self._lock = locked(self.folder, "study")
        try:
            check_database(self.folder / "study.db", "a study")
            with self._reading():
                self._db = sqlite3.connect(self.folder / "study.db", isolation_level=None)
                self._db.execute("PRAGMA journal_mode=WAL")  # others may read meanwhile
                self._db.executescript(SCHEMA)
                found = self._db.execute("SELECT format FROM study").fetchone()
                if found is None:
                    self._db.execute("INSERT INTO study VALUES (?)", (FORMAT,))
                elif found[0] != FORMAT:
                    raise QatError(
                        f"{self.folder / 'study.db'}: has format {shortened(found[0])} where this release reads "
                        f"{FORMAT}; choose another folder"
                    )
            self.rows()  # raises where the rows are damaged
        except QatError:
            self.close()
            raise

    def _reading(self) -> AbstractContextManager[None]:
        return reading(self.folder / "study.db", "a study", "choose another folder")

    def __enter__(self) -> Study:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Release the study."""
        if self._db is not None:
            self._db.close()
        self._lock.close()

    def add(self, tasks: Iterable[Task]) -> None:
        """Add tasks; those that exist already keep their state.

        Args:
            tasks: in an order in which each comes after those that it needs.

        Raises:
            QatError: where a task exists with other settings, or needs one that does not exist.
        """
        known = {row.task.name: row.task for row in self.rows()}
        new = []
        for task in tasks:
            missing = [name for name in task.after if name not in known]
            if missing:
                raise QatError(f"{task.name}: needs {missing[0]!r}, which is not a task before it in the study")
            task = Task(task.name, json.loads(json.dumps(task.settings)), task.after)  # as the file will return it
            before = known.setdefault(task.name, task)
            if before is task:
                new.append(task)
            elif before != task:
                changed = sorted(
                    key
                    for key in {*before.settings, *task.settings}
                    if before.settings.get(key) != task.settings.get(key)
                )
                raise QatError(
                    f"{self.folder}: {task.name} was begun with {_difference(before, task, changed)}; give the same arguments, "
                    "or another folder"
                )
        with self._db:
            self._db.execute("BEGIN")
            self._db.executemany(
                "INSERT INTO tasks VALUES (?, ?, ?, 'waiting', 0, NULL, NULL, NULL)",
                [(task.name, json.dumps(task.settings), json.dumps(task.after)) for task in new],
            )

    def rows(self) -> list[Row]:
        """The states of all tasks, in the order in which they were added."""
        columns = "name, settings, after, state, attempts, started, seconds, error"
        rows: list[Row] = []
        names: set[str] = set()
        with self._reading():
            for name, settings, after, *rest in self._db.execute(f"SELECT {columns} FROM tasks ORDER BY rowid"):
                task = build(Task, {"name": name, "settings": json.loads(settings), "after": tuple(json.loads(after))})
                values = dict(zip(("state", "attempts", "started", "seconds", "error"), rest, strict=True))
                rows.append(build(Row, {"task": task, **values}))
                if rows[-1].state not in STATES or not names.issuperset(task.after):
                    raise ValueError(f"{shortened(name)} has an unknown state, or needs a task that does not exist")
                names.add(task.name)
        return rows

    def reopen(self, is_done: Mapping[str, bool]) -> None:
        """Prepare the tasks for running the study again.

        Tasks whose results exist are done, also one that was running when the study was killed; all others wait.

        Args:
            is_done: whether its result exists, for each task.
        """
        with self._db:
            self._db.execute("BEGIN")
            for row in self.rows():
                done = is_done[row.task.name]
                self._db.execute(
                    "UPDATE tasks SET state = ?, attempts = 0, error = NULL WHERE name = ?",
                    ("done" if done else "waiting", row.task.name),
                )

    def ready(self, chosen: Iterable[str] | None = None) -> list[Task]:
        """The waiting tasks that do not have to wait for another task, in order.

        Args:
            chosen: names of tasks to choose from; None for all.

        Returns:
            Tasks.
        """
        rows = self.rows()
        done = {row.task.name for row in rows if row.state == "done"}
        among = {row.task.name for row in rows} if chosen is None else set(chosen)
        return [
            row.task
            for row in rows
            if row.state == "waiting" and row.task.name in among and done.issuperset(row.task.after)
        ]

    def start(self, name: str) -> int:
        """Record that a task starts; returns the number of the attempt, from 1."""
        self._db.execute(
            "UPDATE tasks SET state = 'running', attempts = attempts + 1, started = ? WHERE name = ?",
            (time.time(), name),
        )
        return int(self._db.execute("SELECT attempts FROM tasks WHERE name = ?", (name,)).fetchone()[0])

    def end(self, name: str, state: str, error: str | None = None) -> None:
        """Record that a task ended."""
        self._db.execute(
            "UPDATE tasks SET state = ?, seconds = ? - started, error = ? WHERE name = ?",
            (state, time.time(), error, name),
        )


def check_database(path: Path, what: str) -> None:
    """Raise QatError where an existing database holds more than plain tables: views and triggers can run SQL."""
    advice = "choose another folder"
    if not path.exists():
        return
    open_regular(path, advice).close()
    with (
        reading(path, what, advice),
        contextlib.closing(sqlite3.connect(path, isolation_level=None)) as database,
    ):
        found = database.execute("SELECT type, name FROM sqlite_master WHERE type NOT IN ('table', 'index')").fetchone()
        if found is not None:
            raise ValueError(f"it has the {found[0]} {shortened(found[1])}")


def locked(folder: Path, what: str) -> sqlite3.Connection:
    """Lock a folder, which is created where it does not exist, until the lock is closed or this process ends.

    Args:
        folder: to be locked.
        what: a word for the lock's file and for messages, as "study".

    Returns:
        The lock.

    Raises:
        QatError: where another process holds it, and where the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = sqlite3.connect(folder / f"{what}.lock", timeout=0.0, isolation_level=None)
        lock.execute("BEGIN EXCLUSIVE")
    except sqlite3.Error as error:
        if "locked" in str(error):
            raise QatError(
                f"{folder}: another process runs this {what}; wait for it, or choose another folder"
            ) from None
        raise QatError(f"{folder}: cannot be written ({error}); choose another folder") from None
    except OSError as error:
        raise QatError(f"{folder}: cannot be written ({error.strerror}); choose another folder") from None
    return lock


def _difference(before: Task, task: Task, changed: list[str]) -> str:
    if not changed:
        return f"after {', '.join(before.after)}, now it is after {', '.join(task.after)}"
    key = changed[0]
    old, new = before.settings.get(key), task.settings.get(key)
    if isinstance(old, dict) and isinstance(new, dict):
        inner = next(name for name in {**old, **new} if old.get(name) != new.get(name))
        key, old, new = f"{key}.{inner}", old.get(inner), new.get(inner)
    return f"{key} {_short(old)}, now it is {_short(new)}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
