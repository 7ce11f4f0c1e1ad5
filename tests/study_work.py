"""Work for the tests of studies: cheap tasks that count, fail, hang or lose their process."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from qat.errors import QatError
from qat.files import write_atomically
from qat.study import Task


def count(folder: Path, task: Task) -> None:
    """Counts to ``settings["to"]``, and takes up where it was killed; every number counted is a line of counted.log."""
    if task.settings.get("fails"):
        raise QatError("this task always fails")
    if task.settings.get("breaks"):
        raise RuntimeError("a framework's own error")
    once = folder / f"{task.name}.died"
    if task.settings.get("dies") and not once.exists():
        once.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    needed = [int((folder / f"{name}.txt").read_text()) for name in task.after]  # raises where one is not done
    state = folder / f"{task.name}.state"
    at = int(state.read_text()) if state.exists() else 0
    while at < task.settings["to"]:
        time.sleep(task.settings.get("pause", 0.0))
        at += 1
        write_atomically(state, str(at).encode())
        _note(folder / "counted.log", f"{task.name} {at}")
    print(f"counted to {at}")
    write_atomically(folder / f"{task.name}.txt", str(at + sum(needed)).encode())
    _note(folder / "ended.log", task.name)


def is_counted(folder: Path, task: Task) -> bool:
    return (folder / f"{task.name}.txt").exists()


def _note(path: Path, line: str) -> None:
    """One write to the end of the file, so that several processes can."""
    with path.open("ab", buffering=0) as file:
        file.write(line.encode() + b"\n")
