"""Where the tasks of a study run: in local processes, or on Ray."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from multiprocessing import connection
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from qat.errors import QatError
from qat.extras import how_to_install
from qat.reading import reason_of
from qat.study.store import Task

#: A task's work, called with (folder, task). It writes its result to the folder all at once, and continues from what an
#: earlier attempt left.
Work = Callable[[Path, Task], None]

#: Each training uses one core, because several share the machine.
ONE_THREAD = dict.fromkeys(
    (
        "OMP_NUM_THREADS",
        "MKL_NUM_THREADS",
        "OPENBLAS_NUM_THREADS",
        "TF_NUM_INTRAOP_THREADS",
        "TF_NUM_INTEROP_THREADS",
    ),
    "1",
)


class Ended(NamedTuple):
    """A task that no longer runs.

    Attributes:
        name: of the task.
        error: one line where it failed; None where it succeeded.
        lost: its process died, which was not the task's fault.
    """

    name: str
    error: str | None = None
    lost: bool = False


class Executor(Protocol):
    """Where the tasks of a study run.

    Attributes:
        jobs: how many tasks run at a time.
    """

    jobs: int

    def submit(self, task: Task) -> None:
        """Start a task."""

    def wait(self, timeout: float) -> list[Ended]:
        """Wait for tasks to end.

        Args:
            timeout: in seconds.

        Returns:
            The tasks that ended, as soon as there is one; an empty list after the timeout.
        """

    def close(self) -> None:
        """Stop what still runs."""


class LocalExecutor(Executor):
    """Single-threaded processes on this machine. A process that dies is replaced, and its task counts as lost.

    Args:
        work: what a task does.
        folder: of the study.
        jobs: how many processes.

    Raises:
        QatError: for fewer than one process.
    """

    def __init__(self, work: Work, folder: Path, jobs: int) -> None:
        if jobs < 1:
            raise QatError(f"--jobs is {jobs}; use a number of processes of at least 1")
        self.jobs, self._work, self._folder = jobs, work, folder
        self._context = multiprocessing.get_context("spawn")
        self._idle: list[_Process] = []
        self._busy: list[_Process] = []

    def submit(self, task: Task) -> None:
        process = self._living()
        process.task = task
        process.pipe.send(task)
        self._busy.append(process)

    def _living(self) -> _Process:
        """An idle process, or a new one. Idle ones that have died are dropped."""
        while self._idle:
            process = self._idle.pop()
            if process.process.is_alive():
                return process
            process.pipe.close()
        return _Process(self._context, self._work, self._folder)

    def wait(self, timeout: float) -> list[Ended]:
        connection.wait([process.pipe for process in self._busy], timeout)
        ended = []
        for process in list(self._busy):
            assert process.task is not None, "a busy process has a task"
            if not process.pipe.poll():
                continue
            self._busy.remove(process)
            try:
                error = process.pipe.recv()
            except (EOFError, OSError):
                process.process.join()
                code = process.process.exitcode
                ended.append(Ended(process.task.name, f"its process ended with exit code {code}", lost=True))
                continue
            ended.append(Ended(process.task.name, error))
            process.task = None
            self._idle.append(process)
        return ended

    def close(self) -> None:
        for process in (*self._idle, *self._busy):
            process.process.terminate()
        for process in (*self._idle, *self._busy):
            process.process.join()
            process.pipe.close()
        self._idle, self._busy = [], []


class _Process:
    """A worker process, which takes one task after another."""

    def __init__(self, context: Any, work: Work, folder: Path) -> None:
        self.pipe, theirs = context.Pipe()
        self.task: Task | None = None
        self.process = context.Process(target=_serve, args=(theirs, work, folder), daemon=True)
        with _environment():
            self.process.start()
        theirs.close()  # so that the pipe ends when the process does


@contextlib.contextmanager
def _environment() -> Iterator[None]:
    """Set the environment of a worker, which multiprocessing starts by python -c.

    Without PYTHONSAFEPATH that would import from the working directory first.
    """
    own = ONE_THREAD | {"PYTHONSAFEPATH": "1"}  # without effect in Python 3.10
    before = {name: os.environ.get(name) for name in own}
    os.environ.update(own)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _serve(pipe: Any, work: Work, folder: Path) -> None:
    """The main function of a worker: it ends with its pipe, and at once where the process that runs the study has died."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole process group; the study decides
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    while True:
        try:
            task = pipe.recv()
        except EOFError:
            return
        pipe.send(perform(work, folder, task))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None, "workers are started by the study"
    parent.join()
    os._exit(1)


def perform(work: Work, folder: Path, task: Task) -> str | None:
    """Do a task; what it prints goes to ``logs/<name>.log``.

    Args:
        work: what a task does.
        folder: of the study.
        task: to be done.

    Returns:
        One line where it failed, else None.
    """
    log = folder / "logs" / f"{task.name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8", buffering=1) as file, contextlib.redirect_stdout(file):
        try:
            work(folder, task)
        except QatError as error:
            print(f"error: {error}")
            return str(error)
        except Exception as error:  # no exception of a framework may end the study
            print(traceback.format_exc())
            return f"{reason_of(error)} (see {log})"
    return None


class RayExecutor(Executor):
    """Tasks on Ray, with one CPU each, on a cluster or on this machine.

    Args:
        work: what a task does.
        folder: of the study; it has to be the same on all machines.
        jobs: how many CPUs to use on this machine; a cluster has its own number.
        address: of the cluster, as ray.init takes it ("auto", "ray://host:10001"); None, the default: this machine.

    Raises:
        QatError: where Ray is not installed or does not start.
    """

    def __init__(self, work: Work, folder: Path, jobs: int, address: str | None = None) -> None:
        try:
            import ray
        except ModuleNotFoundError:
            raise QatError(f"--ray needs Ray, which is not installed: {how_to_install('ray')}") from None
        self._ray: Any = ray
        own = {"num_cpus": jobs, "include_dashboard": False} if address is None else {}
        try:
            self._ray.init(address=address or "local", log_to_driver=False, logging_level="ERROR", **own)
        except Exception as error:  # its errors have no common class
            raise QatError(
                f"--ray {address or ''}: Ray does not start ({reason_of(error)}); is the address right?"
            ) from None
        self.jobs = jobs if address is None else max(int(self._ray.cluster_resources().get("CPU", 1)), 1)
        # The study itself restarts a lost task, so that it counts the attempts.
        options = {"num_cpus": 1, "max_retries": 0, "runtime_env": {"env_vars": dict(ONE_THREAD)}}
        self._remote = self._ray.remote(**options)(perform)
        self._work, self._folder = work, folder.absolute()
        self._running: dict[Any, str] = {}

    def submit(self, task: Task) -> None:
        self._running[self._remote.remote(self._work, self._folder, task)] = task.name

    def wait(self, timeout: float) -> list[Ended]:
        if not self._running:
            return []
        done, _ = self._ray.wait(list(self._running), num_returns=1, timeout=timeout)
        ended = []
        for reference in done:
            name = self._running.pop(reference)
            try:
                ended.append(Ended(name, self._ray.get(reference)))
            except self._ray.exceptions.RayError as error:
                ended.append(Ended(name, f"its worker died: {reason_of(error)}", lost=True))
        return ended

    def close(self) -> None:
        for reference in self._running:
            self._ray.cancel(reference, force=True)
        self._running = {}
        self._ray.shutdown()
