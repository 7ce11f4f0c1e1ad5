"""The order in which training sees the samples, and reading ahead in worker processes, which grain runs."""

from __future__ import annotations

import gc
import shutil
import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import numpy as np

from qat.data.augment import Augmentation
from qat.errors import QatError
from qat.extras import how_to_install
from qat.vocabulary.arrays import Arrays, as_arrays
from qat.vocabulary.ops import Array
from qat.vocabulary.rows import Rows

T = TypeVar("T")
Labels = Array | Rows | tuple[Array | Rows, ...] | None  #: of ``Split.labels``
AHEAD = 2  #: results that each worker keeps ready
SHARED_FROM, SHARED_ROOM = 1 << 16, 1 << 30  #: bytes: of an array, and of all shared memory, that make it worth while
MOST_WORKERS = 64  #: a number above is a mistake: each is a process of 60 MB


class InWorkers(Rows):
    """Rows that worker processes read ahead, wherever they are taken batch by batch.

    Args:
        rows: what is read; it must be picklable.
        num_workers: how many processes; 0: this one reads.

    Raises:
        QatError: for a negative number of workers, or one of more than ``MOST_WORKERS``.
    """

    def __init__(self, rows: Rows, num_workers: int) -> None:
        check_workers(num_workers)
        self.rows, self.num_workers = rows, num_workers
        self.shape, self.dtype = rows.shape, rows.dtype

    def read(self, number: int) -> Array:
        return self.rows.read(number)

    def __getitem__(self, which: slice | Array) -> Array:
        return self.rows[which]

    def chosen(self, which: Array) -> InWorkers:
        return InWorkers(self.rows.chosen(which), self.num_workers)

    def batches(self, size: int) -> Iterator[Array]:
        """All rows in their order, so many at a time."""
        return ahead(_Slices(self.rows, size), range(-(-len(self) // size)), self.num_workers)


@dataclass(frozen=True)
class _Slices:
    """Batch number -> the rows of it."""

    rows: Rows
    size: int

    def __call__(self, number: int) -> Array:
        return self.rows[number * self.size : (number + 1) * self.size]


def in_workers(samples: T, num_workers: int) -> T:
    """What is read as it is needed, read by worker processes; arrays stay as they are.

    Args:
        samples: an array, Rows, or a tuple of them.
        num_workers: how many processes; 0: this one reads.

    Returns:
        The same samples.
    """
    if isinstance(samples, tuple):
        return tuple(in_workers(x, num_workers) for x in samples)  # type: ignore[return-value]
    if not isinstance(samples, Rows):
        return samples
    rows = samples.rows if isinstance(samples, InWorkers) else samples
    return InWorkers(rows, num_workers)  # type: ignore[return-value]


def check_workers(num_workers: int) -> None:
    """Raise QatError for a number of workers that makes no sense."""
    if not 0 <= num_workers <= MOST_WORKERS:
        raise QatError(
            f"num_workers is {num_workers}; use a number of processes from 1 to {MOST_WORKERS}, or 0 to read in this one"
        )


@dataclass(frozen=True, eq=False)
class TrainingBatches:
    """The batches of a training, step by step.

    The samples of a step, and what is drawn for them, depend on the seed and the number of the step alone: not on who
    reads them, nor on where the training began.

    Args:
        images: (N, ...) for each input.
        labels: (N, ...); a tuple of such for several outputs; None for none.
        targets: further arrays (N, ...).
        batch_size: samples in each batch; those that do not fill one are left out of an epoch.
        seed: of the training.
        augmentation: changes of the images; None for none.

    Raises:
        QatError: for an augmentation that does not suit the samples.
    """

    images: tuple[Array | Rows, ...]
    labels: Labels
    targets: tuple[Array, ...]
    batch_size: int
    seed: int
    augmentation: Augmentation | None = None
    steps: int = field(init=False)  #: of an epoch

    def __post_init__(self) -> None:
        object.__setattr__(self, "steps", len(self.images[0]) // self.batch_size)
        if self.augmentation is not None and not self.augmentation.changes:
            object.__setattr__(self, "augmentation", None)
        if self.augmentation is not None:
            self.augmentation.check(self.images, self.labels)

    def of(self, steps: range) -> Generator[tuple[Arrays, Arrays], None, None]:
        """The batches of some steps, which are counted from 0 over all epochs.

        Args:
            steps: their numbers, one after the other.

        Yields:
            Images; and labels, or a tuple of labels and further targets where there are some. Where images are mixed the
            labels are three: of the image, of the one mixed in, float32 (N,) the share of the first.
        """
        reader = self._reader
        outputs = self.labels if isinstance(self.labels, tuple) else (self.labels,)
        kinds = [x for x in (*self.images, *outputs) if isinstance(x, InWorkers)]
        workers = max((x.num_workers for x in kinds), default=0)
        with closing(ahead(reader, steps, workers)) as read:
            for step, (images, maps) in zip(steps, read, strict=True):
                which = reader.plan.samples(step)
                labels = _taken(self.labels, which) if maps is None else maps
                known: tuple[Any, ...] = (labels,)
                if self.augmentation is not None:
                    known = self.augmentation.mixed_labels(labels, self.images[0].shape, reader.plan.numbers(step))
                yield as_arrays(images), as_arrays((*known, *(x[which] for x in self.targets)))

    @property
    def _reader(self) -> _Reader:
        """What workers need: the labels only where they are read or changed with the images."""
        labels = None if isinstance(self.labels, tuple) else self.labels
        moved = self.augmentation is not None and self.augmentation.changes_maps
        together = isinstance(labels, Rows) or (moved and labels is not None and labels.ndim > 2)
        plan = _Plan(len(self.images[0]), self.batch_size, self.steps, self.seed, self.augmentation)
        return _Reader(plan, tuple(map(_inner, self.images)), _inner(labels) if together else None)


def _inner(x: T) -> T:
    return x.rows if isinstance(x, InWorkers) else x  # type: ignore[return-value]


def _taken(labels: Labels, which: Array) -> Any:
    """The labels of some samples."""
    if isinstance(labels, tuple):
        return tuple(_taken(x, which) for x in labels)
    return None if labels is None else labels[which]


@dataclass(frozen=True)
class _Plan:
    """Which samples each step takes."""

    count: int
    batch_size: int
    steps: int
    seed: int
    augmentation: Augmentation | None

    def numbers(self, step: int) -> tuple[int, int, int]:
        """(seed, epoch from 1, step in it from 0): what is drawn for a step is drawn from them."""
        epoch, index = divmod(step, self.steps)
        return self.seed, epoch + 1, index

    def samples(self, step: int) -> Array:
        """The samples of a step, (batch_size,)."""
        return self._of_epoch(step)[0]

    def shifts(self, step: int) -> tuple[Array, ...]:
        """What ``Augmentation.draw`` has drawn for a step."""
        return self._of_epoch(step)[1]

    def _of_epoch(self, step: int) -> tuple[Array, tuple[Array, ...]]:
        _, epoch, index = self.numbers(step)
        order, drawn = _epoch(self, epoch)
        return order[index * self.batch_size : (index + 1) * self.batch_size], drawn[index] if drawn else ()


@lru_cache(maxsize=2)
def _epoch(plan: _Plan, epoch: int) -> tuple[Array, Sequence[tuple[Array, ...]]]:
    """The order of an epoch, and what is drawn after it for each step."""
    rng = np.random.default_rng((plan.seed, epoch))
    order = rng.permutation(plan.count)
    if plan.augmentation is None:
        return order, ()
    return order, [plan.augmentation.draw(plan.batch_size, rng) for _ in range(plan.steps)]


@dataclass(frozen=True, eq=False)
class _Reader:
    """Step -> its images, and its labels where they are read with them: what workers do."""

    plan: _Plan
    images: tuple[Array | Rows, ...]
    labels: Array | Rows | None

    def __call__(self, step: int) -> tuple[tuple[Array, ...], Array | None]:
        which, change = self.plan.samples(step), self.plan.augmentation
        images = tuple(x[which] for x in self.images)
        labels = None if self.labels is None else self.labels[which]
        if change is not None:
            changed, labels = change.changed(images[0], labels, self.plan.shifts(step), self.plan.numbers(step))
            images = (changed,)
        return images, labels


def ahead(read: Callable[[int], T], numbers: range, num_workers: int) -> Generator[T, None, None]:
    """Read by number, in order, ahead of who takes the results.

    Args:
        read: from a number to arrays in tuples; it must be picklable.
        numbers: what is read, each after the one before.
        num_workers: processes that read; 0: this one does, when a result is asked for.

    Yields:
        Its results.

    Raises:
        QatError: that of ``read``; without grain; where ``read`` cannot be pickled; where a worker was killed.
    """
    workers = min(num_workers, len(numbers))
    if not workers or len(numbers) == 1:
        yield from map(read, numbers)
        return
    grain = _grain()
    _check_picklable(read)
    options = grain.experimental.DatasetOptions(min_shm_size=_smallest_shared())
    dataset = grain.MapDataset.range(numbers.start, numbers.stop).map(read)
    stream = dataset.to_iter_dataset(grain.ReadOptions(num_threads=0, prefetch_buffer_size=0))
    results: Any = iter(
        grain.experimental.WithOptionsIterDataset(stream, options).mp_prefetch(
            grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=AHEAD)
        )
    )
    found: Any = None
    try:
        with _lean_workers():
            found = next(results)
        for _ in numbers[1:]:
            yield _own(found)
            found = next(results)
        yield _own(found)
    except RuntimeError as error:
        if "terminated unexpectedly" not in str(error):
            raise
        code = str(error).partition("exit code ")[2].partition(".")[0]
        raise QatError(
            f"num_workers {num_workers}: a process that reads the data ended with exit code {code}: it was killed, or there "
            "is too little memory; use fewer, or 0 to read in this process"
        ) from None
    finally:
        results.close()
        found = results = None
        gc.collect()  # its cycles hold the last array of each worker: shared memory, whose leak is reported at the end


def _smallest_shared() -> int:
    """Bytes from which on an array comes in memory that is shared, which takes a fifth less time than a pipe in all; not where
    there is little of it, as the 64 MB of a container, since a worker is killed when it is full.
    """
    try:
        room = shutil.disk_usage("/dev/shm").free
    except OSError:  # another system, whose shared memory has no such limit
        return SHARED_FROM
    return SHARED_FROM if room >= SHARED_ROOM else sys.maxsize


def _own(found: Any) -> Any:
    """Plain arrays of what lies in memory that is shared with a worker, which is free again then."""
    if isinstance(found, tuple):
        return tuple(map(_own, found))
    return np.array(found) if isinstance(found, np.ndarray) else found


@contextmanager
def _lean_workers() -> Iterator[None]:
    """Processes that are started within run ``reader_process`` first, in place of the program's own main module: that may
    import a framework, and start a training where it has no guard.
    """
    main = sys.modules["__main__"]
    stand_in = ModuleType("__main__")
    stand_in.__file__ = str(Path(__file__).with_name("reader_process.py"))
    sys.modules["__main__"] = stand_in
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _grain() -> Any:
    """The library. Raises QatError where it is not installed."""
    try:
        from absl import logging

        verbosity = logging.get_verbosity()
        logging.set_verbosity(logging.ERROR)  # as in reader_process
        try:
            import grain
        finally:
            logging.set_verbosity(verbosity)
    except ModuleNotFoundError:
        raise QatError(
            f"num_workers: worker processes need grain, which is not installed: {how_to_install('data')} (Python 3.11 "
            "or later); or read in this process: --num_workers 0"
        ) from None
    return grain


def _check_picklable(read: Any) -> None:
    import cloudpickle  # comes with grain, which pickles by it

    try:
        cloudpickle.dumps(read)
    except Exception as error:
        raise QatError(
            f"num_workers: the data cannot be sent to worker processes ({type(error).__name__}: {error}); make the Rows "
            "picklable, without open files, or use 0 to read in this process"
        ) from None
