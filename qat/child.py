"""A separate process for a library that may crash, or allocate any amount of memory, on a file from elsewhere.

Questions and answers are a line of JSON and raw arrays: nothing that comes from the process is executed.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import json
import math
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from qat.reading import reason_of
from qat.vocabulary.ops import Array

MEMORY = 8 << 30  #: bytes of address space of such a process
#: Python puts the working directory first in sys.path; only sys, which is built in, is imported before that is undone.
PROGRAM = "import sys; sys.path[:] = sys.argv[2:]; from qat.child import serve; serve(sys.argv[1])"


class ChildError(Exception):
    """An error in the process, on one line."""


class Child:
    """The process. It starts with the first question, and again after it has ended.

    Args:
        module: its function ``answer(question, arrays)`` returns arrays.
    """

    def __init__(self, module: str) -> None:
        self._module = module
        self._process: subprocess.Popen[bytes] | None = None
        self._inherited: list[subprocess.Popen[bytes]] = []  #: processes of the parent, where this one is a fork
        self._lock = threading.RLock()
        atexit.register(self.close)
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._forked)

    @contextlib.contextmanager
    def session(self) -> Iterator[None]:
        """Keep other threads from asking in between, for questions that belong together."""
        with self._lock:
            yield

    def ask(self, question: Mapping[str, Any], arrays: Sequence[Array]) -> list[Array]:
        """Send a question and wait for the answer.

        Args:
            question: JSON values.
            arrays: that go with it.

        Returns:
            The arrays of the answer.

        Raises:
            ChildError: with the error that was raised there, or how the process ended.
        """
        with self._lock:
            process = self._running()
            assert process.stdin is not None
            assert process.stdout is not None
            try:
                with contextlib.suppress(BrokenPipeError):  # it has ended: reading says so
                    _send(process.stdin, question, arrays)
                found = _receive(process.stdout)
            except BaseException:  # after half a question the next one would not be understood
                process.kill()
                self.close()
                raise
            if found is None:
                raise ChildError(f"the process that computes it ended: {_ending(self.close())}")
        words, answers = found
        if "error" in words:
            raise ChildError(str(words["error"]))
        return answers

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            command = [sys.executable, "-c", PROGRAM, self._module, *_paths()]
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            )
        return self._process

    def close(self) -> int:
        """End the process, where it runs; returns its exit status."""
        with self._lock:
            process, self._process = self._process, None
            if process is None:
                return 0
            with contextlib.suppress(OSError, ValueError, subprocess.TimeoutExpired):
                process.communicate(timeout=5.0)  # closes its input, after which it ends
            if process.poll() is None:
                process.kill()
                process.wait()
            return process.returncode

    def _forked(self) -> None:
        """In a fork: let go of the parent's process, so that the fork starts its own and does not keep the other's input open.

        The lock is made anew, because a thread of the parent that does not exist here may have held it.
        """
        self._lock = threading.RLock()
        process, self._process = self._process, None
        if process is not None and process.stdin is not None and process.stdout is not None:
            with open(os.devnull, "r+b") as nothing:
                os.dup2(nothing.fileno(), process.stdin.fileno(), inheritable=False)
                os.dup2(nothing.fileno(), process.stdout.fileno(), inheritable=False)
            process.returncode = 0  # the parent waits for it
            self._inherited.append(process)


def _paths() -> list[str]:
    """Where the process looks for modules: as this one, without relative paths, whose meaning changes with the directory."""
    return [*filter(os.path.isabs, sys.path), str(Path(__file__).resolve().parent.parent)]


def _ending(status: int) -> str:
    with contextlib.suppress(ValueError):
        return signal.Signals(-status).name
    return f"exit status {status}"


def serve(module: str) -> None:
    """The main function of the process: answer questions until its input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole process group; the asking process decides
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not get between the answers
    answer = importlib.import_module(module).answer
    while (found := _receive(sys.stdin.buffer)) is not None:
        try:
            _send(answers, {}, answer(*found))
        except Exception as error:
            _send(answers, {"error": reason_of(error)}, [])


def _send(pipe: IO[bytes], words: Mapping[str, Any], arrays: Sequence[Array]) -> None:
    described = [[array.dtype.str, list(array.shape)] for array in arrays]
    pipe.write(json.dumps({"words": words, "arrays": described}).encode() + b"\n")
    for array in arrays:
        pipe.write(np.ascontiguousarray(array).data.cast("B") if array.size else b"")
    pipe.flush()


def _receive(pipe: IO[bytes]) -> tuple[dict[str, Any], list[Array]] | None:
    """Read a message; None at the end of the pipe."""
    line = pipe.readline()
    if not line.endswith(b"\n"):
        return None
    head = json.loads(line)
    arrays: list[Array] = []
    for kind, shape in head["arrays"]:
        dtype = np.dtype(kind)
        content = pipe.read(math.prod(shape) * dtype.itemsize)
        if len(content) < math.prod(shape) * dtype.itemsize:
            return None
        arrays.append(np.frombuffer(content, dtype).reshape(shape))
    return head["words"], arrays
