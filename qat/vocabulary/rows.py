"""Samples that are read when they are asked for, in place of an array that holds them all."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

import numpy as np

from qat.vocabulary.ops import Array

T = TypeVar("T")


class Rows(ABC):
    """The first axis of an array without the array: larger than memory, or slow to read.

    A subclass says shape, dtype and what one row is; whoever slices it gets an array. It is picklable, since worker
    processes read from copies.

    Attributes:
        shape: of the whole, (N, ...), as an array's.
        dtype: of the numbers, as an array's.

    >>> import numpy as np
    >>> from qat.vocabulary.rows import Rows
    >>> class Squares(Rows):
    ...     shape, dtype = (4, 1), np.dtype(np.int64)
    ...     def read(self, number):
    ...         return np.array([number**2])
    >>> Squares()[1:3]
    array([[1],
           [4]])
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @abstractmethod
    def read(self, number: int) -> Array:
        """One row, an array of ``shape[1:]`` and ``dtype``."""

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, which: slice | Array) -> Array:
        """The rows of a slice, or of an index of whole numbers or booleans, as one array."""
        numbers = np.arange(len(self))[which]
        found = np.empty((len(numbers), *self.shape[1:]), self.dtype)
        for row, number in enumerate(numbers):
            found[row] = self.read(int(number))
        return found

    def batches(self, size: int) -> Iterator[Array]:
        """All rows in their order, so many at a time; the last time there may be fewer. Others may read ahead in it."""
        return _slices(self, size)

    def chosen(self, which: Array) -> Rows:
        """Some of the rows, which are not read yet."""
        return _Chosen(self, np.arange(len(self))[which])


class _Chosen(Rows):
    """Some rows of others."""

    def __init__(self, rows: Rows, numbers: Array) -> None:
        self._rows, self._numbers = rows, numbers
        self.shape, self.dtype = (len(numbers), *rows.shape[1:]), rows.dtype

    def read(self, number: int) -> Array:
        return self._rows.read(int(self._numbers[number]))

    def chosen(self, which: Array) -> Rows:
        return _Chosen(self._rows, self._numbers[which])


#: (parts, samples in all, samples of a part, name, what is counted) -> the same parts, while it is shown how many are done.
Watch = Callable[[Iterable[Any], int, Callable[[Any], int], str, str], Iterator[Any]]
_WATCH: ContextVar[Watch | None] = ContextVar("watch", default=None)


@contextmanager
def showing(watch: Watch | None) -> Iterator[None]:
    """Within, ``in_order`` shows how far it is, as commands do; None, as outside: a library prints nothing."""
    token = _WATCH.set(watch)
    try:
        yield
    finally:
        _WATCH.reset(token)


def shown_by() -> Watch | None:
    """What shows how far ``in_order`` is; None: nothing does."""
    return _WATCH.get()


def in_order(samples: Sequence[Array | Rows], size: int, name: str) -> Iterator[tuple[Array, ...]]:
    """All samples batch by batch, read ahead where they can be, while commands show how far it is.

    Args:
        samples: (N, ...) of each input.
        size: samples in a batch; the last one may have fewer.
        name: of the network or file that gets them, for what is shown.

    Yields:
        Batches.
    """
    parts = [x.batches(size) if isinstance(x, Rows) else _slices(x, size) for x in samples]
    yield from watched(zip(*parts, strict=True), len(samples[0]), lambda batch: len(batch[0]), name)


def watched(parts: Iterable[T], total: int, size: Callable[[T], int], name: str, unit: str = "samples") -> Iterator[T]:
    """The same parts, while commands show how many of ``total`` are done; size: of a part; name: as of ``in_order``; unit: what
    is counted.
    """
    watch = _WATCH.get()
    yield from parts if watch is None else watch(parts, total, size, name, unit)


def _slices(samples: Array | Rows, size: int) -> Iterator[Array]:
    for at in range(0, len(samples), size):
        yield samples[at : at + size]
