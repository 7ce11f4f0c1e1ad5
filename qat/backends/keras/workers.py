"""Keras in several processes that train one network together, each with its TF_CONFIG: tf.distribute's collectives.

Every process has variables of its own, which stay equal because all make the same step. The strategy gives the group of
processes, and its replica context the sums over them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from qat.backends.keras.ops import KerasOps, Tensor
from qat.backends.keras.setup import tf
from qat.errors import QatError
from qat.reading import reason_of
from qat.training.workers import TF_CONFIG, JointOps, this_worker


@cache
def join() -> tf.distribute.Strategy:
    """Join the group of workers. Raises QatError where the others cannot be reached, TensorFlow has computed before, or a
    worker has several devices.
    """
    try:
        strategy = tf.distribute.MultiWorkerMirroredStrategy()
    except (RuntimeError, ValueError, tf.errors.OpError) as error:
        raise QatError(
            f"the workers of TF_CONFIG do not come together ({reason_of(error)}); start all of them, and lower the network "
            "before anything else is computed with TensorFlow"
        ) from None
    count, devices = this_worker().count, strategy.num_replicas_in_sync
    if devices != count:
        raise QatError(
            f"the {count} workers of TF_CONFIG have {devices} devices, but each of them computes on one; start one worker for "
            "each GPU, with CUDA_VISIBLE_DEVICES set to that one"
        )
    return strategy


def jointly(compute: Callable[..., Any], *arguments: Any) -> Any:
    """``compute(*arguments)`` on this worker's share, where the functions below may be used."""
    return join().run(compute, arguments)


class WorkerOps(JointOps, KerasOps):
    """For training, within ``jointly``. Elsewhere, as in evaluation, this process is the only one."""

    def sum_over_workers(self, x: Tensor) -> Tensor:
        return _context().all_reduce(tf.distribute.ReduceOp.SUM, x)

    def largest_over_workers(self, x: Tensor) -> Tensor:
        return tf.reduce_max(_context().all_gather(x[None], 0), 0)


def training_ops() -> KerasOps:
    """The vocabulary that trains; with several workers, one that reduces over all of them."""
    if not this_worker().started_by(TF_CONFIG):
        return KerasOps()
    join()
    return WorkerOps()


def means_over_workers(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Of each tensor, in one exchange. No gradient."""
    means: list[Tensor] = _context().all_reduce(tf.distribute.ReduceOp.MEAN, list(tensors))
    return means


def _context() -> tf.distribute.ReplicaContext:
    return tf.distribute.get_replica_context()
