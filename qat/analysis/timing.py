"""Times that can be compared on a noisy machine: what is compared alternates within one run."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from qat.vocabulary.ops import Array


@dataclass(frozen=True, eq=False)
class Times:
    """seconds: float64, (B,), of one call in each block, in the order of the blocks. (Of ``over``: ratios.)"""

    seconds: Array

    @property
    def median(self) -> float:
        """Seconds."""
        return float(np.median(self.seconds))

    @property
    def quartiles(self) -> tuple[float, float]:
        """The first and the third, in seconds: their distance is the spread."""
        first, third = np.percentile(self.seconds, (25, 75))
        return float(first), float(third)

    def scaled(self, factor: float) -> Times:
        """Of a part of a call, or in another unit."""
        return Times(self.seconds * factor)

    def over(self, other: Times) -> Times:
        """The ratios of neighbouring blocks, which a disturbance of both leaves as they are."""
        return Times(self.seconds / other.seconds)


def alternate(
    calls: Mapping[str, Callable[[], object]], *, blocks: int, repeats: int = 1, warm_up: int = 3
) -> dict[str, Times]:
    """Time of each call, by name. One after another is called ``repeats`` times, which makes a block, ``warm_up`` blocks
    uncounted and then ``blocks`` counted. A call has to wait for its device before it returns.
    """
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for block in range(-warm_up, blocks):
        for name, call in calls.items():
            start = time.perf_counter()
            for _ in range(repeats):
                call()
            if block >= 0:
                seconds[name].append((time.perf_counter() - start) / repeats)
    return {name: Times(np.array(own)) for name, own in seconds.items()}
