"""Numbers in another order or shape, as a source has it in any number of steps and axes, and the cells that amount to it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np

from qat.cells import ChannelShuffle, Flatten, PixelShuffle, PixelUnshuffle, Reshape, Transpose
from qat.cells.base import Cell, Shape
from qat.cells.shape import LARGEST_RANK
from qat.vocabulary.ops import Array

Part = tuple[tuple[int, ...], int]  #: where it stands in the source, as a key that sorts, and its size


@dataclass(frozen=True)
class Movement:
    """A sample whose numbers were moved.

    Attributes:
        source: the value that they come from.
        parts: the axes that the source has to be cut into, in the order of now; none of size 1, none that could be one.
        shape: of now, with any number of axes.
    """

    source: str
    parts: tuple[Part, ...]
    shape: Shape

    @classmethod
    def none(cls, source: str, shape: Shape) -> Movement:
        """Of a value as it is."""
        return cls(source, _joined([((0,), math.prod(shape))]), shape)

    def reshaped(self, shape: Shape) -> Movement | None:
        """In another shape, as ``transposed`` can go on with it. None: it cuts across what was moved before."""
        return None if _grouped(self.parts, shape) is None else Movement(self.source, self.parts, shape)

    def transposed(self, axes: Sequence[int]) -> Movement:
        """With the axes of a sample in another order."""
        groups = _grouped(self.parts, self.shape)
        assert groups is not None
        parts = _joined([part for axis in axes for part in groups[axis]])
        return Movement(self.source, parts, tuple(self.shape[axis] for axis in axes))

    def part(self, axis: int, count: int) -> tuple[Shape, Movement] | None:
        """Some places along an axis, cut from the source: its shape as (around, axis, within), and how what is left is moved.

        None: the axis is no one part of the source.
        """
        groups = _grouped(self.parts, self.shape)
        if groups is None or len(groups[axis]) != 1:
            return None
        ((key, size),) = groups[axis]
        order = sorted(part for group in groups for part in group)
        around, within = (
            math.prod(size for other, size in order if (other < key) == first and other != key)
            for first in (True, False)
        )
        groups[axis] = [(key, count)]
        shape = tuple(count if at == axis else size for at, size in enumerate(self.shape))
        left = _joined([part for group in groups for part in group])
        return (around, size, within), Movement(self.source, left, shape)

    def undone(self, array: Array, given: Shape) -> Array:
        """What has a number for each of the moved sample, as it is for the source, of that shape."""
        order = [key for key, _ in self.parts]
        parts = array.reshape([size for _, size in self.parts])
        return np.ascontiguousarray(parts.transpose([order.index(key) for key in sorted(order)]).reshape(given))

    def cells(self, given: Shape) -> list[Cell] | None:
        """What makes this of a source of that shape. None: samples have more axes than any cell takes."""
        if len(self.shape) > LARGEST_RANK or len(given) > LARGEST_RANK:
            return None
        if len(self.parts) <= 1:
            return [] if given == self.shape else [reshape(self.shape)]
        return self._known(given) or self._turned(given)

    def turns(self, given: Shape) -> bool:
        """Whether it costs transpositions, and is no shuffle."""
        return any(isinstance(cell, Transpose) for cell in self.cells(given) or ())

    def _known(self, given: Shape) -> list[Cell] | None:
        """The one cell that does it, if there is one."""
        start, rank = Movement.none(self.source, given), len(given)
        for axes in permutations(range(rank)):
            if start.transposed(axes) == self:
                return [Transpose(axes)]
        if rank != 3 or len(self.shape) != 3:
            return None
        shuffles: list[tuple[Cell, Sequence[int], Sequence[int]]] = []
        groups = sorted(self.parts)[0][1]
        channels, height, width = given
        if given == self.shape and channels % groups == 0:
            shuffles.append((ChannelShuffle(groups), (groups, channels // groups, height, width), (1, 0, 2, 3)))
        r = self.shape[1] // height
        if r and self.shape == (channels // (r * r), height * r, width * r):
            shuffles += [
                (PixelShuffle(r), (channels // (r * r), r, r, height, width), (0, 3, 1, 4, 2)),
                (PixelShuffle(r, "dcr"), (r, r, channels // (r * r), height, width), (2, 3, 0, 4, 1)),
            ]
        r = height // self.shape[1]
        if r and (height, width) == (r * self.shape[1], r * self.shape[2]):
            parts = (channels, height // r, r, width // r, r)
            shuffles += [
                (PixelUnshuffle(r), parts, (0, 2, 4, 1, 3)),
                (PixelUnshuffle(r, "dcr"), parts, (2, 4, 0, 1, 3)),
            ]
        for cell, sizes, order in shuffles:
            cut = start.reshaped(tuple(sizes))
            if cut is not None and cut.transposed(order).reshaped(self.shape) == self:
                return [cell]
        return None

    def _turned(self, given: Shape) -> list[Cell]:
        """Transpositions of three axes: each brings one part to the front, the last one first."""
        cells: list[Cell] = []
        shape = given

        def to(wanted: Shape) -> None:
            nonlocal shape
            if shape != wanted:
                cells.append(reshape(wanted))
                shape = wanted

        sizes = tuple(size for _, size in sorted(self.parts))
        if len(sizes) <= LARGEST_RANK:
            places = [key for key, _ in sorted(self.parts)]
            axes = tuple(places.index(key) for key, _ in self.parts)
            to(sizes)
            cells.append(Transpose(axes))
            shape = tuple(sizes[axis] for axis in axes)
        else:
            order = sorted(self.parts)
            for part in reversed(self.parts):
                place = order.index(part)
                if place:
                    before, after = (
                        math.prod(size for _, size in some) for some in (order[:place], order[place + 1 :])
                    )
                    to((before, part[1], after))
                    cells.append(Transpose((1, 0, 2)))
                    shape = (part[1], before, after)
                    order.insert(0, order.pop(place))
        to(self.shape)
        return cells


def reshape(shape: Shape) -> Cell:
    """The cell for a shape."""
    return Flatten() if len(shape) == 1 else Reshape(shape)


def _grouped(parts: Sequence[Part], shape: Shape) -> list[list[Part]] | None:
    """The parts of each axis, cut where it is necessary. None: an axis would end within a part that cannot be cut there."""
    rest, groups = list(parts), []
    for size in shape:
        group: list[Part] = []
        while size > 1:
            if not rest:
                return None
            key, found = rest.pop(0)
            if size % found == 0:
                group.append((key, found))
                size //= found
            elif found % size == 0:
                group.append(((*key, 0), size))
                rest.insert(0, ((*key, 1), found // size))
                size = 1
            else:
                return None
        groups.append(group)
    return None if rest else groups


def _joined(parts: Sequence[Part]) -> tuple[Part, ...]:
    """Parts that follow one another in the source too as one, numbered by their places there."""
    ranks = {key: rank for rank, key in enumerate(sorted(key for key, size in parts if size > 1))}
    runs: list[list[int]] = []
    for key, size in parts:
        if size == 1:
            continue
        if runs and runs[-1][1] + 1 == ranks[key]:
            runs[-1][1:] = [ranks[key], runs[-1][2] * size]
        else:
            runs.append([ranks[key], ranks[key], size])
    places = {first: (number,) for number, first in enumerate(sorted(run[0] for run in runs))}
    return tuple((places[first], size) for first, _, size in runs)
