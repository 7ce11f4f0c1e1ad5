"""Losses, written over the vocabulary, so that each works on every backend."""

from __future__ import annotations

from collections.abc import Callable

from qat.ops import Ops, Tensor

Loss = Callable[[Ops, Tensor, Tensor], Tensor]  #: (ops, outputs of the network, targets) -> a scalar


def cross_entropy(ops: Ops, logits: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
    """Mean softmax cross entropy; logits (N, K), integer labels (N,). smoothing: see ``Recipe``."""
    return ops.softmax_cross_entropy(logits, labels, smoothing)


def mean_squared_error(ops: Ops, outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean of (output - target)^2 over all numbers; both (N, ...), float32."""
    error = outputs - targets
    return ops.mean(error * error)
