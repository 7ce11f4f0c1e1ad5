"""PyTorch in several processes that train one network together (torchrun): what is reduced over a batch is over all workers.

Each takes its share of every joint batch. Statistics of batch normalisation and ranges are those of the joint batch, and so
are the gradients: their mean over the workers, which this vocabulary's reductions are made for.
"""

from __future__ import annotations

import os
from typing import Any

import torch
import torch.distributed as dist

from qat.backends.torch_backend import TorchOps
from qat.errors import QatError
from qat.ops import Ops
from qat.workers import this_worker

Tensor = torch.Tensor


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
        reason = " ".join(str(error).split())[:200]
        raise QatError(f"the workers do not find one another ({reason}); start them with torchrun") from None


class _Mean(torch.autograd.Function):
    """The mean over the workers. A share's gradient is what all workers' losses have, divided by their number."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return mean_over_workers(x.clone())

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return mean_over_workers(gradient.clone())


def mean_over_workers(x: Tensor) -> Tensor:
    """In place."""
    dist.all_reduce(x)
    return x.div_(this_worker().count)


def _largest_over_workers(x: Tensor) -> Tensor:
    x = x.clone()
    dist.all_reduce(x, dist.ReduceOp.MAX)
    return x


class WorkerOps(TorchOps):
    """For training. Weights are equal on all workers, so that reducing what follows from them changes nothing."""

    def mean(self, x: Tensor) -> Tensor:
        return _Mean.apply(super().mean(x))

    def channel_mean(self, x: Tensor) -> Tensor:
        return _Mean.apply(super().channel_mean(x))

    def max(self, x: Tensor) -> Tensor:
        return _largest_over_workers(super().max(x))

    def min(self, x: Tensor) -> Tensor:
        return -_largest_over_workers(-super().min(x))

    def channel_max(self, x: Tensor) -> Tensor:
        return _largest_over_workers(super().channel_max(x))

    def channel_min(self, x: Tensor) -> Tensor:
        return -_largest_over_workers(-super().channel_min(x))

    batch_norm = Ops.batch_norm  # by channel_mean; PyTorch's own has the statistics of one share
