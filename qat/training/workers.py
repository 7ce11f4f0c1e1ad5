"""Training in several processes: which one this is, and a vocabulary that reduces over all of them."""

from __future__ import annotations

import json
import os
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from qat.errors import QatError
from qat.vocabulary.arrays import Arrays, as_arrays, as_tuple
from qat.vocabulary.ops import Ops, Tensor

TORCHRUN, TF_CONFIG, MSRUN = "torchrun", "TF_CONFIG", "msrun"  #: what starts the workers of each framework


@dataclass(frozen=True)
class Worker:
    """One of the processes that train a network together.

    Args:
        rank: from 0; -1 for msrun's scheduler, which only connects the others and takes no samples.
        count: how many workers there are.
        launcher: what started them; "" where this process is alone.
    """

    rank: int
    count: int
    launcher: str = ""

    def started_by(self, launcher: str) -> bool:
        """Whether this process is one of several, or a scheduler, that this launcher started."""
        return self.launcher == launcher

    def share(self, batch: Arrays) -> Arrays:
        """This worker's samples of a joint batch: every count-th.

        Args:
            batch: arrays (N, ...).

        Returns:
            Arrays (N / count, ...).

        Raises:
            QatError: where N is not a multiple of count.
        """
        if self.count == 1:
            return batch
        arrays = as_tuple(batch)
        if len(arrays[0]) % self.count:
            raise QatError(
                f"a batch of {len(arrays[0])} samples cannot be shared by {self.count} workers, whose gradients would not be "
                f"those of the batch; use a batch_size that is a multiple of {self.count}"
            )
        return as_arrays(tuple(array[self.rank :: self.count] for array in arrays))

    def own(self, numbers: tuple[int, ...]) -> tuple[int, ...]:
        """A seed for this worker, made of the common one: for what must differ between workers, as dropout."""
        return numbers if self.count == 1 else (*numbers, max(self.rank, 0))


def this_worker() -> Worker:
    """This process, by the variables of torchrun (RANK, WORLD_SIZE), TF_CONFIG or msrun (MS_ROLE, MS_WORKER_NUM,
    RANK_ID).

    Returns:
        The worker; the only one where no variable is set.

    Raises:
        QatError: where the variables contradict one another.
    """
    for launcher, found in ((TORCHRUN, _torchrun), (TF_CONFIG, _tf_config), (MSRUN, _msrun)):
        rank, count = found(os.environ)
        if count > 1 or rank < 0:
            return Worker(rank, count, launcher)
    return Worker(0, 1)


def _torchrun(environment: Mapping[str, str]) -> tuple[int, int]:
    try:
        rank, count = int(environment.get("RANK", 0)), int(environment.get("WORLD_SIZE", 1))
    except ValueError:
        rank, count = -1, 0
    if not 0 <= rank < count:
        raise QatError(
            f"RANK is {environment.get('RANK')!r} and WORLD_SIZE {environment.get('WORLD_SIZE')!r}, which fit no worker; start "
            "the workers with torchrun, or unset both"
        )
    return rank, count


def _tf_config(environment: Mapping[str, str]) -> tuple[int, int]:
    text = environment.get("TF_CONFIG") or "{}"
    try:
        config = json.loads(text)
        cluster, task = config.get("cluster", {}), config.get("task", {})
        chiefs, workers = (len(cluster.get(kind, ())) for kind in ("chief", "worker"))
        kind, index = task.get("type", "worker"), int(task.get("index", 0))
        limit = {"chief": chiefs, "worker": workers}[kind]
        if cluster and not 0 <= index < limit:
            raise ValueError
    except (ValueError, KeyError, TypeError, AttributeError):
        raise QatError(
            f"TF_CONFIG is {text[:120]!r}, which fits no worker; give its cluster's addresses and its task, as "
            '{"cluster": {"worker": ["host0:2222", "host1:2222"]}, "task": {"type": "worker", "index": 0}}, or unset it'
        ) from None
    return index + (chiefs if kind == "worker" else 0), max(chiefs + workers, 1)


def _msrun(environment: Mapping[str, str]) -> tuple[int, int]:
    role = environment.get("MS_ROLE")
    if role is None:
        return 0, 1
    rank, count = environment.get("RANK_ID") or environment.get("MS_NODE_ID"), environment.get("MS_WORKER_NUM")
    try:
        number = -1 if role == "MS_SCHED" else int(rank or "")
        if number >= (-1 if role == "MS_SCHED" else 0) and int(count or "") > max(number, 0):
            return number, int(count or "")
    except ValueError:
        pass
    raise QatError(
        f"MS_ROLE is {role!r}, RANK_ID {rank!r} and MS_WORKER_NUM {count!r}, which fit no worker; start the workers with "
        "msrun, on several machines with --node_rank, or unset MS_ROLE"
    )


def training_worker(launcher: str | None, backend: str, *, compile: bool = False) -> Worker:
    """This worker, checked for a training.

    Args:
        launcher: what starts several workers of the backend; None: it trains in one process only.
        backend: its name, for messages.
        compile: whether the step is to be compiled.

    Returns:
        The worker.

    Raises:
        QatError: where another launcher started it, and where one of several is to compile its step.
    """
    worker = this_worker()
    if worker.launcher not in ("", launcher):
        number = f"there are {worker.count} workers" if worker.count > 1 else "this is the scheduler of one worker"
        here = f"this backend's are started by {launcher}" if launcher else "this backend trains in one process"
        advice = "start them so" if launcher else "start one process"
        raise QatError(
            f"{backend}: {number}, started by {worker.launcher}, but {here}, and each would train alone; {advice}, or choose "
            "another --backend"
        )
    if compile and worker.count > 1:
        raise QatError(
            f"--compile with {worker.count} workers: their communication cannot be compiled; leave --compile out"
        )
    return worker


class JointOps(Ops):
    """Reductions over the joint batch of all workers. A mixin, to be put before a backend's vocabulary for training.

    Each worker computes its share of the batch, and the gradients are averaged over the workers. The weights are equal
    on all of them, so a reduction over weights alone gives the same result on each.
    """

    @abstractmethod
    def sum_over_workers(self, x: Tensor) -> Tensor:
        """The sum of all workers' tensors; its gradient is the sum of their gradients."""

    @abstractmethod
    def largest_over_workers(self, x: Tensor) -> Tensor:
        """The elementwise largest of all workers' tensors. Used on stopped tensors only."""

    @property
    def _own(self) -> Any:
        """The vocabulary over this worker's share."""
        return super()

    def _mean_over_workers(self, x: Tensor) -> Tensor:
        """The mean over the workers; a share gets the gradients of all workers' losses, divided by their number."""
        return self.sum_over_workers(x) / float(this_worker().count)

    def mean(self, x: Tensor) -> Tensor:
        """As in ``Ops``, over the joint batch."""
        return self._mean_over_workers(self._own.mean(x))

    def channel_mean(self, x: Tensor) -> Tensor:
        """As in ``Ops``, over the joint batch."""
        return self._mean_over_workers(self._own.channel_mean(x))

    def max(self, x: Tensor) -> Tensor:
        """As in ``Ops``, over the joint batch."""
        return self.largest_over_workers(self._own.max(x))

    def min(self, x: Tensor) -> Tensor:
        """As in ``Ops``, over the joint batch."""
        return -self.largest_over_workers(-self._own.min(x))

    def channel_max(self, x: Tensor) -> Tensor:
        """As in ``Ops``, over the joint batch."""
        return self.largest_over_workers(self._own.channel_max(x))

    def channel_min(self, x: Tensor) -> Tensor:
        """As in ``Ops``, over the joint batch."""
        return -self.largest_over_workers(-self._own.channel_min(x))

    def batch_size(self, x: Tensor) -> int:
        """As in ``Ops``, over the joint batch."""
        return int(self._own.batch_size(x)) * this_worker().count

    # Made of channel_mean: the framework's own would use the statistics of one share.
    batch_norm = Ops.batch_norm
    normalized = Ops.normalized
