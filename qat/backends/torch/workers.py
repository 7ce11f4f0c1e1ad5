"""PyTorch in several processes that train one network together (torchrun)."""

from __future__ import annotations

import atexit
import os
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist

from qat.backends.torch.ops import Tensor, TorchOps
from qat.errors import QatError
from qat.reading import reason_of
from qat.training.workers import TORCHRUN, JointOps, this_worker


def join() -> None:
    """Join the group of workers, once. Raises QatError where the others cannot be reached."""
    if dist.is_initialized():
        return
    gpu = torch.cuda.is_available()
    if gpu:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
    try:
        dist.init_process_group("nccl" if gpu else "gloo")
    except (RuntimeError, ValueError) as error:
        raise QatError(f"the workers do not find one another ({reason_of(error)}); start them with torchrun") from None
    atexit.register(leave)


def leave() -> None:
    """Leave the group of workers and end its threads. A thread that still lets go of a tensor while Python ends would abort
    the process.
    """
    if dist.is_initialized():
        dist.destroy_process_group()


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return _summed(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _summed(gradient)


def _summed(x: Tensor, operation: Any = dist.ReduceOp.SUM) -> Tensor:
    x = x.clone()
    dist.all_reduce(x, operation)
    return x


class WorkerOps(JointOps, TorchOps):
    """For training."""

    def sum_over_workers(self, x: Tensor) -> Tensor:
        total: Tensor = _Sum.apply(x)  # type: ignore[no-untyped-call]
        return total

    def largest_over_workers(self, x: Tensor) -> Tensor:
        return _summed(x, dist.ReduceOp.MAX)


def training_ops(device: torch.device | str) -> TorchOps:
    """The vocabulary that trains; with several workers, one that reduces over all of them."""
    if not this_worker().started_by(TORCHRUN):
        return TorchOps(device)
    join()
    return WorkerOps(device)


def means_over_workers(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Of each tensor, in one exchange. No gradient."""
    joint = _summed(torch.cat([x.reshape(-1) for x in tensors])).div_(this_worker().count)
    parts = joint.split([x.numel() for x in tensors])  # type: ignore[no-untyped-call]
    return [part.view_as(x) for part, x in zip(parts, tensors, strict=True)]
