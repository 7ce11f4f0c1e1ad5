"""Losses, written over the vocabulary, so that each works on every backend."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

from qat.training.forward import Forward, TrainingPasses, single
from qat.vocabulary.ops import Ops, Tensor

Loss = Callable[[Ops, Tensor, Tensor], Tensor]  #: (ops, outputs of the network, targets) -> a scalar


def cross_entropy(ops: Ops, logits: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
    """Mean softmax cross entropy; logits (N, K), integer labels (N,). smoothing: see ``Recipe``."""
    return ops.softmax_cross_entropy(logits, labels, smoothing)


def mean_squared_error(ops: Ops, outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean of (output - target)^2 over all numbers; both (N, ...), float32."""
    error = outputs - targets
    return ops.mean(error * error)


def soft_cross_entropy(ops: Ops, logits: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """Mean over the batch of - sum_k p_k log softmax(z / T)_k, p = softmax(t / T): Hinton et al., arXiv 1503.02531, section 2.

    logits: z, (N, K). teacher: t, (N, K), through which the gradient flows too.
    """
    share = ops.softmax(teacher * (1.0 / temperature))
    classes = logits.shape[-1]
    return ops.mean(share * ops.log_softmax(logits * (1.0 / temperature))) * -float(classes)


class Objective(ABC):
    """What is minimised where a loss of the outputs is not all: other passes, the quantizers, the weights.

    A subclass is a frozen dataclass of numbers and strings, which a checkpoint's history records.
    """

    @abstractmethod
    def terms(self, passes: TrainingPasses, targets: Any) -> dict[str, Tensor]:
        """By name, first the scalar that is minimised, then whatever else is to be reported.

        targets: integer labels (N,); a tuple of them and more where the training data have more targets.
        """


def step_terms(
    forward: Forward,
    loss: Loss | Objective,
    params: Mapping[str, Tensor],
    inputs: tuple[Tensor, ...],
    targets: Any,
    *,
    phase: int,
    training: bool = True,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """What is minimised in one training step, and with an Objective its other terms, by name, the former first; and the new
    values of state by full name. Not ``training``: of fake-quantized evaluation.
    """
    if isinstance(loss, Objective):
        passes = TrainingPasses(forward, params, inputs, phase, training)
        return loss.terms(passes, targets), passes.updates
    outputs, updates = forward(params, inputs, training=training, phase=phase)
    return {"loss": loss(forward.ops, single(outputs), targets)}, updates
