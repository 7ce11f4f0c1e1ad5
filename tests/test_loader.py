"""Reading ahead in worker processes: the same batches as in this process, and how it ends."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest

import qat
from qat.data import Augmentation, Dataset, Split, loader
from qat.data.loader import InWorkers, TrainingBatches, ahead, in_workers
from qat.errors import QatError
from qat.networks import LeNet5
from qat.training.checkpoint import Checkpoint
from qat.training.loop import train
from qat.training.recipe import Recipe
from qat.vocabulary.rows import Rows, in_order

pytest.importorskip("grain", reason="grain has no release for Python 3.10")
COUNT = 40


class Pictures(Rows):
    """Rows of an array, one of which may be unreadable."""

    def __init__(self, array: np.ndarray, wrong: int | None = None) -> None:
        self.array, self.wrong = array, wrong
        self.shape, self.dtype = array.shape, array.dtype

    def read(self, number: int) -> np.ndarray:
        if number == self.wrong:
            raise QatError(f"{number:05d}.jpg: cannot be read; leave it out")
        return self.array[number]


def images(count: int = COUNT, shape: tuple[int, ...] = (3, 8, 9)) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, *shape), np.uint8)


def equal(one: object, other: object) -> bool:
    """Whether batches are equal, element by element and in type."""
    if isinstance(one, (tuple, list)):
        return isinstance(other, (tuple, list)) and len(one) == len(other) and all(map(equal, one, other))
    assert isinstance(one, np.ndarray)
    assert isinstance(other, np.ndarray)
    return one.dtype == other.dtype and type(one) is type(other) and np.array_equal(one, other)


def split(pictures: np.ndarray | Rows, workers: int = 0) -> Split:
    labels = np.arange(len(pictures)) % 10
    return Split(in_workers(pictures, workers), labels, targets=(np.arange(len(pictures)) * 0.5,))


def batches(of: Split, steps: range, augmentation: Augmentation | None = None) -> list:
    return [*of.training(6, 3, augmentation).of(steps)]


KINDS = ("crop", "flip", "color", "randaugment", "mixup", "cutmix")


@pytest.mark.parametrize(
    "augmentation", [None, Augmentation(2, True), Augmentation(1, True, KINDS)], ids=["no", "old", "all"]
)
def test_who_reads_and_where_it_begins_change_nothing(augmentation: Augmentation | None) -> None:
    steps = range(14)  # of 6 an epoch
    whole = batches(split(images()), steps, augmentation)
    assert len(whole) == 14
    assert not equal(whole[0], whole[6])
    assert equal(whole, batches(split(Pictures(images())), steps, augmentation))
    workers = 2 if augmentation and augmentation.kinds else 0  # (which take a second to start)
    assert equal(whole[9:], batches(split(Pictures(images()), workers), range(9, 14), augmentation))
    assert equal(whole[6:12], [*split(images()).batches(6, 3, 2, augmentation)])


def test_the_order_and_draws_are_those_of_earlier_releases() -> None:
    rng, augmentation, found = np.random.default_rng((3, 2)), Augmentation(2, True), []
    order = rng.permutation(COUNT)
    for start in range(0, COUNT - 5, 6):
        which = order[start : start + 6]
        flip = rng.random((6, 1)) < 0.5
        down, across = rng.integers(0, 5, (6, 1)), rng.integers(0, 5, (6, 1))
        padded = np.pad(images()[which], ((0, 0), (0, 0), (2, 2), (2, 2)))
        moved = [
            x[:, d : d + 8, c : c + 9][:, :, ::-1] if f else x[:, d : d + 8, c : c + 9]
            for x, f, d, c in zip(padded, flip[:, 0], down[:, 0], across[:, 0], strict=True)
        ]
        found.append((which, flip, np.stack(moved)))
    for (which, flip, moved), (given, (labels, _)) in zip(
        found, split(images()).batches(6, 3, 2, augmentation), strict=True
    ):
        assert np.array_equal(labels, which % 10)
        # a mirrored image is shifted in the mirrored direction: columns are mirrored first
        straight = ~flip[:, 0]
        assert np.array_equal(given[straight], moved[straight])


def test_label_maps_are_read_and_moved_with_their_images() -> None:
    pictures = images()
    maps = pictures[:, 0].astype(np.int64)
    for labels in (maps, Pictures(maps)):
        read = TrainingBatches((Pictures(pictures),), labels, (), 6, 0, Augmentation(0, True, ("crop", "flip")))
        for given, own in read.of(range(4)):
            assert own.dtype == np.int64
            assert own.shape == (6, 8, 9)
            flat = np.unique(np.concatenate([given[:, 0].ravel(), own.ravel()]))
            assert len(flat) > 10
    flipped = TrainingBatches((pictures,), maps, (), 6, 0, Augmentation(0, True))
    assert all(np.array_equal(given[:, 0], own) for given, own in flipped.of(range(12)))


@pytest.mark.parametrize("smallest", [0, sys.maxsize], ids=["shared", "pipes"])
def test_rows_are_read_in_order_by_workers(smallest: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "_smallest_shared", lambda: smallest)
    rows = InWorkers(Pictures(images()), 2)
    assert equal([*rows.batches(16)], [images()[:16], images()[16:32], images()[32:]])
    chosen = rows.chosen(np.array([3, 1, 2]))
    assert isinstance(chosen, InWorkers)
    assert equal([*chosen.batches(3)], [images()[[3, 1, 2]]])
    both = [*in_order((rows.rows, np.arange(COUNT)), 25, "net")]
    assert equal(both, [(images()[:25], np.arange(25)), (images()[25:], np.arange(25, COUNT))])


def test_a_training_from_workers_ends_with_the_same_bits() -> None:
    pictures, backend = images(80, (1, 32, 32)), qat.backend("torch")
    recipe, saved = Recipe(epochs=2, batch_size=16), []
    graph = LeNet5().graph()
    start = Checkpoint(graph, graph.initial_params(0))

    def run(workers: int, begin: Checkpoint) -> Checkpoint:
        data = split(Pictures(pictures), workers)
        data = replace(data, targets=())
        return train(backend, begin, Dataset("p", "p", data, data), recipe, save=saved.append, save_every=3)

    whole = run(0, start)
    (kept,) = [x for x in saved if x.step == 3]
    found = run(2, kept)
    assert found.params.keys() == whole.params.keys()
    assert all(np.array_equal(x, whole.params[name]) for name, x in found.params.items())


def test_an_unreadable_picture_is_named_and_nothing_is_left() -> None:
    before = len(psutil.Process().children())
    data = split(Pictures(images(), wrong=17), 2)
    with pytest.raises(QatError, match=r"00017\.jpg: cannot be read"):
        batches(data, range(6))
    started = split(Pictures(images()), 2).training(6, 3).of(range(600))
    next(started)
    assert len(psutil.Process().children()) >= before + 2
    started.close()
    assert len([x for x in psutil.Process().children() if "resource_tracker" not in " ".join(x.cmdline())]) <= before


def _squared(number: int) -> int:
    if number == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    return number * number


def test_a_killed_worker_is_one_line() -> None:
    with pytest.raises(QatError, match="num_workers 2: a process that reads the data ended with exit code -9"):
        list(ahead(_squared, range(9), 2))


def test_what_cannot_be_sent_and_numbers_that_make_no_sense() -> None:
    lock = threading.Lock()
    with pytest.raises(QatError, match="cannot be sent to worker processes"):
        list(ahead(lambda number: (lock, number), range(3), 2))
    with pytest.raises(QatError, match="num_workers is -1"):
        in_workers(Pictures(images()), -1)
    with pytest.raises(QatError, match="num_workers is 65"):
        in_workers(Pictures(images()), 65)
    array = images()
    assert in_workers(array, 4) is array


SCRIPT = """
    import os, sys, time
    import numpy as np
    from qat.data.loader import ahead  # no guard: workers must not run this again

    def read(number):
        frameworks = sorted({"torch", "tensorflow", "mindspore"} & set(sys.modules))
        return number, os.getpid(), frameworks, os.environ["OMP_NUM_THREADS"]

    sys.modules["torch"] = sys  # a framework in the main process
    with open(sys.argv[1], "a") as file:
        for number, pid, frameworks, threads in ahead(read, range(1000), 2):
            if number < 4:
                print(number, pid, frameworks, threads, file=file, flush=True)
            if number == 4:
                time.sleep(60)
"""


@pytest.fixture
def reading(tmp_path: Path) -> Iterator[tuple[subprocess.Popen, list[psutil.Process]]]:
    """A program that reads in two workers and waits, and its workers."""
    script, log = tmp_path / "script.py", tmp_path / "log"
    script.write_text(textwrap.dedent(SCRIPT), encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "3"}
    program = subprocess.Popen(
        [sys.executable, script, log], env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    end = time.monotonic() + 30
    while (not log.exists() or len(log.read_text().splitlines()) < 4) and time.monotonic() < end:
        time.sleep(0.02)
    lines = [line.split(maxsplit=2) for line in log.read_text().splitlines()]
    assert [(number, rest) for number, _, rest in lines] == [(str(number), "[] 1") for number in range(4)]
    assert len({pid for _, pid, _ in lines}) == 2
    yield program, [psutil.Process(int(pid)) for pid in {pid for _, pid, _ in lines}]
    if program.poll() is None:
        program.kill()
        program.communicate()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT], ids=["killed", "ctrl-c"])
def test_workers_end_with_their_parent(
    reading: tuple[subprocess.Popen, list[psutil.Process]], number: signal.Signals
) -> None:
    program, workers = reading
    if number == signal.SIGKILL:
        program.kill()
    else:
        os.killpg(program.pid, number)  # as a terminal does
    _, alive = psutil.wait_procs(workers, timeout=5)
    assert alive == []
    error = program.communicate()[1]
    assert "Process grain" not in error
    assert "absl" not in error


def test_memory_is_shared_where_there_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    for free, expected in ((64 << 20, sys.maxsize), (8 << 30, loader.SHARED_FROM)):
        monkeypatch.setattr(loader.shutil, "disk_usage", lambda _, free=free: argparse.Namespace(free=free))
        assert loader._smallest_shared() == expected


def test_shared_memory_is_free_again_at_the_end(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(
            """
            import gc, sys
            import numpy as np
            from qat.data import loader

            def read(number):
                return (np.full(99, number),)

            gc.disable()
            loader._smallest_shared = lambda: 0
            print(sum(int(x[0]) for (x,) in loader.ahead(read, range(6), 2)))
            """
        ),
        encoding="utf-8",
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    program = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, timeout=60)
    assert (program.stdout, program.returncode) == ("15\n", 0)
    assert "leaked" not in program.stderr
