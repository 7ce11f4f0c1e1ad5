"""Samples in memory or not: choosing and reading them alike."""

from __future__ import annotations

from typing import Any

import numpy as np

from qat.vocabulary.ops import Array
from qat.vocabulary.rows import Rows

#: An array or ``Rows``: what has shape, dtype and len, and gives an array where it is sliced. Any, so that what takes an array,
#: and slices it, is not told apart by type checkers.
Samples = Any


class Mapped(Rows):
    """The rows of an array that is memory-mapped: what is chosen of them is not read yet."""

    def __init__(self, array: Array) -> None:
        self._array, self.shape, self.dtype = array, array.shape, array.dtype

    def read(self, number: int) -> Array:
        """One row."""
        return np.asarray(self._array[number])


class Reshaped(Rows):
    """Rows of other rows' numbers in another shape."""

    def __init__(self, rows: Rows, shape: tuple[int, ...]) -> None:
        self._rows, self.shape, self.dtype = rows, (len(rows), *shape), rows.dtype

    def read(self, number: int) -> Array:
        """One row."""
        return self._rows.read(number).reshape(self.shape[1:])

    def __getitem__(self, which: slice | Array) -> Array:
        """The rows of a slice or an index as one array."""
        found = self._rows[which]
        return found.reshape(len(found), *self.shape[1:])


def chosen_of(samples: Samples, which: Array) -> Samples:
    """The samples of these numbers: a copy of an array's, the unread rows of what is not in memory."""
    if isinstance(samples, np.memmap):
        samples = Mapped(samples)
    return samples.chosen(which) if isinstance(samples, Rows) else samples[which]


def in_memory(samples: Samples) -> Array:
    """All samples as an array."""
    return samples[:] if isinstance(samples, Rows) else samples
