"""Comparing times on a noisy machine: the calls to be compared alternate within one run."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np

from qat.vocabulary.ops import Array


@dataclass(frozen=True, eq=False)
class Times:
    """The times of one call.

    Args:
        seconds: float64 (B,), of one call in each block, in the order of the blocks; ratios where it comes from
            ``over``.
    """

    seconds: Array

    @property
    def median(self) -> float:
        """The median, in seconds."""
        return float(np.median(self.seconds))

    @property
    def quartiles(self) -> tuple[float, float]:
        """The first and the third quartile, in seconds; their distance is the spread."""
        first, third = np.percentile(self.seconds, (25, 75))
        return float(first), float(third)

    def scaled(self, factor: float) -> Times:
        """The times multiplied by a factor: of a part of a call, or in another unit."""
        return Times(self.seconds * factor)

    def over(self, other: Times) -> Times:
        """The ratios of neighbouring blocks; a disturbance that slows both calls cancels."""
        return Times(self.seconds / other.seconds)


def alternate(
    calls: Mapping[str, Callable[[], object]], *, blocks: int, repeats: int = 1, warm_up: int = 3
) -> dict[str, Times]:
    """Measure calls in turn: each is called ``repeats`` times, which is one block, then the next call follows.

    Args:
        calls: by name; each has to wait for its device before it returns.
        blocks: how many blocks of each call are measured.
        repeats: calls in a block; 1 by default.
        warm_up: blocks before the measurement; 3 by default.

    Returns:
        The times of each call, by name.
    """
    timed = {name: partial(_seconds, call) for name, call in calls.items()}
    return alternate_timed(timed, blocks=blocks, repeats=dict.fromkeys(calls, repeats), warm_up=warm_up)


def alternate_timed(
    timed: Mapping[str, Callable[[int], float]], *, blocks: int, repeats: Mapping[str, int], warm_up: int = 3
) -> dict[str, Times]:
    """As ``alternate``, for what measures itself.

    Args:
        timed: by name; computes so many times and returns the seconds of all.
        blocks: how many blocks of each are measured.
        repeats: of each, how often it computes in a block.
        warm_up: blocks before the measurement; 3 by default.

    Returns:
        The times of one computation, by name.
    """
    seconds: dict[str, list[float]] = {name: [] for name in timed}
    # Alternating blocks: a slow second of the machine meets all calls alike.
    for block in range(-warm_up, blocks):
        for name, compute in timed.items():
            taken = compute(repeats[name]) / repeats[name]
            if block >= 0:
                seconds[name].append(taken)
    return {name: Times(np.array(own)) for name, own in seconds.items()}


def _seconds(call: Callable[[], object], count: int) -> float:
    start = time.perf_counter()
    for _ in range(count):
        call()
    return time.perf_counter() - start
