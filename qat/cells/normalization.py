"""Batch normalisation inside linear cells: its parameters, its statistics and its affine form.

y = gamma (x - mean) / sigma + beta with sigma = sqrt(variance + eps) (Ioffe and Szegedy, arXiv 1502.03167). Variances are
those of the batch itself (divided by n, not by n - 1).
"""

from __future__ import annotations

from collections.abc import Mapping

from qat.cells.base import Param, Scope, constant
from qat.vocabulary.ops import Ops, Tensor

#: Folded factors below this are taken for dead: dividing a statistic by them would only amplify rounding.
SMALLEST_FACTOR = 1e-6
STATISTICS = ("moving_mean", "moving_variance")  #: state that follows the batches


def batch_norm_params(channels: int) -> dict[str, Param]:
    """gamma and beta, trained, and the running statistics."""
    return {
        "gamma": Param((channels,), "vector", constant(1.0)),
        "beta": Param((channels,), "vector", constant(0.0)),
        "moving_mean": Param((channels,), "vector", constant(0.0), trainable=False),
        "moving_variance": Param((channels,), "vector", constant(1.0), trainable=False),
    }


def running_sigma(ops: Ops, params: Mapping[str, Tensor], eps: float) -> Tensor:
    """sqrt(moving_variance + eps), (C,)."""
    return ops.sqrt(params["moving_variance"] + eps)


def running_affine(ops: Ops, params: Mapping[str, Tensor], eps: float) -> tuple[Tensor, Tensor]:
    """(factor, shift) with BN(W x + b) = factor (W x) + shift, by the running statistics; ``b`` if params have a bias."""
    factor = params["gamma"] / running_sigma(ops, params, eps)
    bias = params.get("bias")
    centre = params["moving_mean"] if bias is None else params["moving_mean"] - bias
    return factor, params["beta"] - centre * factor


def channel_statistics(ops: Ops, x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of each channel over a batch, (C,); gradients flow through both."""
    mean = ops.channel_mean(x)
    centred = x - ops.on_channel(mean, x)
    return mean, ops.channel_mean(centred * centred)


def follow_statistics(scope: Scope, momentum: float, mean: Tensor, variance: Tensor) -> None:
    """moving = momentum * moving + (1 - momentum) * batch, as MindSpore counts."""
    for name, batch in zip(STATISTICS, (mean, variance), strict=True):
        old = scope.param(name)
        scope.update(name, old + (scope.ops.stop_gradient(batch) - old) * (1.0 - momentum))
