"""Losses, written over the vocabulary, so that each works on every backend."""

from __future__ import annotations

from collections.abc import Callable

from qat.ops import Ops, Tensor

Loss = Callable[[Ops, Tensor, Tensor], Tensor]  #: (ops, outputs of the network, targets) -> a scalar


def cross_entropy(ops: Ops, logits: Tensor, labels: Tensor) -> Tensor:
    """Mean softmax cross entropy; logits (N, K), integer labels (N,)."""
    return ops.softmax_cross_entropy(logits, labels)
