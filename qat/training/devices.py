"""The devices that a network can be computed on, under MindSpore's names, and the threads of a CPU."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from qat import hints
from qat.errors import QatError

DEVICES = ("CPU", "GPU", "Ascend")
#: What the frameworks read when they are imported: PyTorch and MindSpore the first, TensorFlow the other.
THREAD_VARIABLES = ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS")


def choose_device(asked: str | None, available: Sequence[str], backend: str) -> str:
    """The device to compute on.

    Args:
        asked: "CPU", "GPU" or "Ascend"; None for the best one available.
        available: what the backend finds on this machine, the best first.
        backend: its name, for the message.

    Returns:
        One of ``available``.

    Raises:
        QatError: where the backend does not find the device.
    """
    if asked is None:
        return available[0]
    if asked not in available:
        problem = (
            f"is unknown{hints.perhaps(asked, DEVICES, hints.VALUES)}"
            if asked not in DEVICES
            else f"is not there: {backend} sees no such device on this machine"
        )
        raise QatError(f"device_target {asked!r} {problem}; use --device_target {' or '.join(available)}")
    return asked


def available_cores() -> int:
    """The cores that this process may use, by its affinity and the quota of its container."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for quota, period in (("cpu.max", None), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        try:
            words = (Path("/sys/fs/cgroup") / quota).read_text(encoding="ascii").split()
            if period is not None:
                words += (Path("/sys/fs/cgroup") / period).read_text(encoding="ascii").split()
            share = int(words[0]) / int(words[1])
        except (OSError, ValueError, IndexError, ZeroDivisionError):  # no such file, or "max"
            continue
        if share > 0:
            cores = min(cores, max(int(share), 1))
    return cores


def busy_cores() -> int:
    """How many cores others keep busy just now, as far as the system says it: what is runnable, without this process.

    Linux's load average would still speak of a command that ended a moment ago.
    """
    found = []
    for _ in range(5):
        try:
            running = Path("/proc/loadavg").read_text(encoding="ascii").split()[3].partition("/")[0]
            found.append(int(running) - 1)
        except (OSError, ValueError, IndexError):
            return 0
        time.sleep(0.01)
    return max(round(median(found)), 0)


def free_cores() -> int:
    """Those of ``available_cores`` that others leave, at least 1.

    Threads that wait for one another on busy cores make a step many times slower: with two cores and seven other processes,
    LeNet-5 took 42 ms a step on one thread and 521 ms on two.
    """
    return min(available_cores(), max((os.cpu_count() or 1) - busy_cores(), 1))


def use_threads(count: int) -> None:
    """Have frameworks that are imported from now on compute with so many threads, and child processes too.

    Args:
        count: at least 1.

    Raises:
        QatError: for a smaller one.
    """
    if count < 1:
        raise QatError(f"threads is {count}; use a number of at least 1")
    for name in THREAD_VARIABLES:
        os.environ[name] = str(count)


def threads_in_use() -> int | None:
    """The number that was set, here or before; None where the frameworks choose."""
    text = os.environ.get(THREAD_VARIABLES[0], "")
    return int(text) if text.isdecimal() else None
