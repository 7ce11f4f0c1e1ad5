"""Training in several processes at once, as torchrun starts them: who this process is."""

from __future__ import annotations

import os
from dataclasses import dataclass

from qat.arrays import Arrays, as_arrays, as_tuple
from qat.errors import QatError


@dataclass(frozen=True)
class Worker:
    """One of ``count`` processes that train one network together; rank counts from 0."""

    rank: int
    count: int

    def share(self, batch: Arrays) -> Arrays:
        """This worker's samples of a joint batch (N, ...): every count-th. Raises QatError where shares are not equal."""
        if self.count == 1:
            return batch
        arrays = as_tuple(batch)
        if len(arrays[0]) % self.count:
            raise QatError(
                f"a batch of {len(arrays[0])} samples cannot be shared by {self.count} workers, whose gradients would not be "
                f"those of the batch; use a batch_size that is a multiple of {self.count}"
            )
        return as_arrays(tuple(array[self.rank :: self.count] for array in arrays))


def this_worker() -> Worker:
    """From RANK and WORLD_SIZE, which torchrun sets; one alone where they are not there."""
    try:
        rank, count = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    except ValueError:
        rank, count = -1, 0
    if not 0 <= rank < count:
        raise QatError(
            f"RANK is {os.environ.get('RANK')!r} and WORLD_SIZE {os.environ.get('WORLD_SIZE')!r}, which fit no worker; start "
            "the workers with torchrun, or unset both"
        )
    return Worker(rank, count)


def require_alone(backend: str) -> None:
    """Raise QatError where this is one of several workers, for a backend that trains in one process."""
    count = this_worker().count
    if count > 1:
        raise QatError(
            f"{backend}: there are {count} workers, but this backend trains in one process, and each would train alone; use "
            "--backend torch, or start one process"
        )
