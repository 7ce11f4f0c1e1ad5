"""MindSpore in several processes that train one network together (msrun)."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import cache

from qat.backends.mindspore.ops import MindSporeOps, Tensor
from qat.backends.mindspore.setup import ms, ops
from qat.errors import QatError
from qat.training.workers import MSRUN, JointOps, this_worker


@cache
def join() -> None:
    """Join the group of workers; msrun's scheduler waits here for their end, and ends with them. Raises QatError where the
    others cannot be reached.
    """
    if this_worker().count == 1:  # the scheduler of a worker that trains alone, and joins nobody
        sys.exit(0)
    try:
        ms.communication.init()
    except RuntimeError as error:
        reason = str(error).strip().partition("\n")[0][:200]
        raise QatError(f"the workers do not find one another ({reason}); start them with msrun") from None
    if this_worker().rank < 0:
        sys.exit(0)
    # All workers have to exchange in the same order. With several threads, branches of a compiled graph take turns by chance.
    ms.runtime.dispatch_threads_num(1)


@cache
def _all_reduce() -> ops.AllReduce:
    """The sum. On a CPU MindSpore has nothing else."""
    return ops.AllReduce()


class WorkerOps(JointOps, MindSporeOps):
    """For training."""

    def sum_over_workers(self, x: Tensor) -> Tensor:
        if x.dtype != ms.float64:
            return _all_reduce()(x)
        high = x.astype(ms.float32)  # AllReduce has no float64: two halves of its digits
        low = (x - high.astype(ms.float64)).astype(ms.float32)
        return self._of_all(ops.stack([high, low])).astype(ms.float64).sum((0, 1))

    def largest_over_workers(self, x: Tensor) -> Tensor:
        return ops.amax(self._of_all(x), 0)

    @staticmethod
    def _of_all(x: Tensor) -> Tensor:
        """The tensors of all workers, (workers, ...)."""
        worker, nothing = this_worker(), ops.zeros_like(x)
        return _all_reduce()(ops.stack([x if rank == worker.rank else nothing for rank in range(worker.count)]))


def training_ops() -> MindSporeOps:
    """The vocabulary that trains; with several workers, one that reduces over all of them."""
    if not this_worker().started_by(MSRUN):
        return MindSporeOps()
    return WorkerOps()


def means_over_workers(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Of each tensor, in one exchange. No gradient."""
    joint = _all_reduce()(ops.cat([x.reshape(-1) for x in tensors])) / float(this_worker().count)
    parts = ops.split(joint, [x.size for x in tensors])
    return [part.reshape(x.shape) for part, x in zip(parts, tensors, strict=True)]
