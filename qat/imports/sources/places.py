"""Where the samples are in a value of a source that moves them to other axes, or joins them with others.

Recurrent layers take (L, N, C), and attention has (N * heads, tokens, channels). The rest of the axes, and of the one of the
samples, are a sample's: with the samples in front of them the value is canonical, and operations are read as those of
canonical values.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from qat.vocabulary.ops import Array


class Place(NamedTuple):
    """Of the samples.

    Attributes:
        axis: along which they are.
        outer: how many numbers of a sample stand around them in this axis, as (windows, N) has.
        inner: how many stand within them, as (N, windows) has.
    """

    axis: int
    outer: int = 1
    inner: int = 1

    @property
    def alone(self) -> bool:
        """Whether they have the axis for themselves."""
        return self.outer == self.inner == 1

    def kept(self, rank: int) -> list[int]:
        """The axes of a tensor that a sample has too, in order."""
        return [axis for axis in range(rank) if not (self.alone and axis == self.axis)]

    def canonical_axis(self, axis: int, rank: int) -> int:
        """Where an axis is in the canonical value."""
        axis %= rank
        return 0 if self.alone and axis == self.axis else 1 + self.kept(rank).index(axis)

    def canonical_shape(self, shape: Sequence[int], batch: int) -> tuple[int, ...]:
        """(N, axes of a sample)."""
        sizes = [self.outer * self.inner if axis == self.axis else shape[axis] for axis in self.kept(len(shape))]
        return batch, *sizes

    def canonical(self, array: Array, batch: int) -> Array:
        """A value with the samples in front."""
        at = self.axis
        shape = array.shape
        parts = array.reshape(*shape[:at], self.outer, batch, self.inner, *shape[at + 1 :])
        moved: Array = np.moveaxis(parts, at + 1, 0).reshape(self.canonical_shape(shape, batch))
        return moved

    def of_constant(self, array: Array, rank: int) -> Array:
        """What is spread over a value, as over the canonical one. Raises ValueError where samples have their own."""
        aligned = array.reshape((1,) * (rank - array.ndim) + array.shape)
        if self.alone:
            return np.expand_dims(np.squeeze(aligned, self.axis), 0)
        return aligned[np.newaxis]


FIRST = Place(0)


def of_one(shape: Sequence[int]) -> Place:
    """Of one sample, which any axis of size 1 may be, and which is anywhere within the others."""
    alone = [axis for axis, size in enumerate(shape) if size == 1]
    return Place(alone[0]) if alone else Place(0, shape[0])


def reshaped(place: Place, before: Sequence[int], after: Sequence[int], batch: int) -> Place | None:
    """Where the samples are after a reshape. None: in several axes."""
    inner = place.inner * math.prod(before[place.axis + 1 :])
    if after and after[0] == batch and math.prod(after[1:]) == inner:
        return FIRST
    ends = [math.prod(after[axis + 1 :]) for axis in range(len(after))]
    alone = [axis for axis, size in enumerate(after) if size == batch and ends[axis] == inner]
    if alone:
        return Place(alone[0])
    for axis, (size, end) in enumerate(zip(after, ends, strict=True)):
        if end <= inner < end * size and inner % end == 0 and size % (batch * (inner // end)) == 0:
            within = inner // end
            return Place(axis, size // (batch * within), within)
    return None
