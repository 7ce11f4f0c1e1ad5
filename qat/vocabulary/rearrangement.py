"""Numbers of a sample in another order: what reshaping and transposing do, also where channels are stored last."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

Sizes = tuple[int, ...]


def as_slice(places: Sequence[int]) -> slice | None:
    """The slice that takes these places; None where they are not equally far apart, one after another."""
    step = places[1] - places[0] if len(places) > 1 else 1
    if step < 1 or any(b - a != step for a, b in itertools.pairwise(places)):
        return None
    return slice(places[0], places[-1] + 1, step)


class Step(NamedTuple):
    """The numbers reshaped to these parts, and the parts put into the order of these axes."""

    parts: Sizes
    axes: Sizes

    @property
    def turned(self) -> Sizes:
        """The sizes in the new order."""
        return tuple([self.parts[axis] for axis in self.axes])

    def simple(self) -> Step:
        """The same with as few parts as do: without those of one number, and those that stay side by side as one."""
        runs: list[list[int]] = []
        for axis in self.axes:
            if self.parts[axis] == 1:
                continue
            if runs and runs[-1][-1] < axis and max(self.parts[runs[-1][-1] + 1 : axis], default=1) == 1:
                runs[-1].append(axis)
            else:
                runs.append([axis])
        order = sorted(runs)  # by where they begin
        parts = []
        for run in order:  # no comprehension of comprehensions, which torch.compile does not trace
            size = 1
            for axis in run:
                size *= self.parts[axis]
            parts.append(size)
        return Step(tuple(parts), tuple([order.index(run) for run in runs]))


@dataclass(frozen=True)
class Rearrangement:
    """Reshaped to parts, whose axes are put into another order, reshaped again; of one sample, canonical.

    Attributes:
        source: the shape that it takes.
        step: the parts and their order.
        shape: the shape that it gives.
    """

    source: Sizes
    step: Step
    shape: Sizes

    @property
    def back(self) -> Rearrangement:
        """What undoes it."""
        axes = self.step.axes
        return Rearrangement(
            self.shape, Step(self.step.turned, tuple([axes.index(n) for n in range(len(axes))])), self.source
        )

    def steps(self) -> tuple[Step, ...]:
        """What is to be done to a canonical sample before it is reshaped to ``shape``; none where its order stays."""
        return _needed([self.step])

    def steps_channels_last(self) -> tuple[Step, ...]:
        """Likewise to a sample that is stored with its channels last, (H, W, C), for a result stored so.

        It is one where every axis consists of parts. Else, as where (2, 3, 4) becomes (4, 3, 2), the channels go to the front
        first, and to the end at last.
        """
        parts, axes = self.step
        taken, given = _groups(self.source, parts), _groups(self.shape, self.step.turned)
        if taken is not None and given is not None:
            stored = [part for group in (*taken[1:], taken[0]) for part in group]
            wanted = [axes[place] for group in (*given[1:], given[0]) for place in group]
            step = Step(tuple([parts[part] for part in stored]), tuple([stored.index(part) for part in wanted]))
            return _needed([step])
        first, last = len(self.source) - 1, tuple(range(1, len(self.shape)))
        to_front = Step((*self.source[1:], self.source[0]), (first, *range(first)))
        return _needed([to_front, self.step, Step(self.shape, (*last, 0))])


def reshaping(source: Sizes, shape: Sizes) -> Rearrangement:
    """The same numbers in the same order, canonical. Its parts are what both shapes have in common, if anything."""
    ends = sorted({math.prod(each[axis:]) for each in (source, shape) for axis in range(len(each))} | {1}, reverse=True)
    parts = tuple(a // b for a, b in itertools.pairwise(ends) if a % b == 0)
    if math.prod(parts) != math.prod(source):
        parts = source
    return Rearrangement(source, Step(parts, tuple(range(len(parts)))), shape)


def by_group(source: Sizes, groups: int) -> Rearrangement:
    """(C, ...) to (K, groups): beside one another the K numbers of each of so many groups of channels."""
    parts = (groups, source[0] // groups, *source[1:])
    step = Step(parts, (*range(1, len(parts)), 0))
    return Rearrangement(source, step, (math.prod(parts[1:]), groups))


def _needed(steps: Sequence[Step]) -> tuple[Step, ...]:
    simple = [step.simple() for step in steps]
    return tuple([step for step in simple if len(step.parts) > 1])


def _groups(shape: Sizes, parts: Sizes) -> list[list[int]] | None:
    """For each axis the parts that it consists of; None where they do not divide the axes."""
    groups: list[list[int]] = []
    first = 0
    for size in shape:
        last, product = first, 1
        while product < size and last < len(parts):
            product *= parts[last]
            last += 1
        if product != size:
            return None
        groups.append(list(range(first, last)))
        first = last
    groups[-1] += range(first, len(parts))  # of one number each
    return groups
