"""Losses, written over the vocabulary of operations, so that each works on every backend."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

from qat.training.forward import Forward, TrainingPasses, single
from qat.vocabulary.ops import Ops, Tensor

Loss = Callable[[Ops, Tensor, Tensor], Tensor]  #: (ops, outputs of the network, targets) -> a scalar


def cross_entropy(ops: Ops, logits: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
    """Mean softmax cross entropy.

    Args:
        ops: the vocabulary.
        logits: (N, K).
        labels: integers (N,).
        smoothing: the share of the target that is spread evenly over all classes, 0 to below 1; 0 by default.

    Returns:
        A scalar.
    """
    return ops.softmax_cross_entropy(logits, labels, smoothing)


def mean_squared_error(ops: Ops, outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean of (output - target)^2 over all numbers.

    Args:
        ops: the vocabulary.
        outputs: (N, ...).
        targets: float32, shaped like the outputs.

    Returns:
        A scalar.
    """
    error = outputs - targets
    return ops.mean(error * error)


def soft_cross_entropy(ops: Ops, logits: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """Cross entropy with the probabilities of a teacher (Hinton et al., arXiv 1503.02531, section 2).

    The mean over the batch of - sum_k p_k log softmax(z / T)_k with p = softmax(t / T).

    Args:
        ops: the vocabulary.
        logits: z, (N, K).
        teacher: t, the logits of the teacher, (N, K); the gradient flows into them too.
        temperature: T; 1 by default.

    Returns:
        A scalar.
    """
    share = ops.softmax(teacher * (1.0 / temperature))
    classes = logits.shape[-1]
    return ops.mean(share * ops.log_softmax(logits * (1.0 / temperature))) * -float(classes)


def mixed(loss: Loss) -> Loss:
    """A loss of mixed images: that of both labels, each by its share (Zhang et al., arXiv 1710.09412, section 2).

    Args:
        loss: of targets that are labels.

    Returns:
        The same of targets (labels of the first images, labels of the others, share of the first (N,), equal in a batch).
    """

    def both(ops: Ops, outputs: Tensor, targets: Any) -> Tensor:
        first, other, shares = targets
        share = ops.mean(shares)
        return loss(ops, outputs, first) * share + loss(ops, outputs, other) * (1.0 - share)

    return both


class Objective(ABC):
    """What training minimises where a loss of outputs and labels is not enough.

    An objective may use other passes of the network, the quantizers and the weights. A subclass is a frozen dataclass
    of numbers and strings, which are recorded in the checkpoint's history.

    >>> from dataclasses import dataclass
    >>> from qat.training.losses import Objective, cross_entropy
    >>> @dataclass(frozen=True)
    ... class Halved(Objective):
    ...     def terms(self, passes, targets):
    ...         return {"loss": cross_entropy(passes.ops, passes.outputs, targets) * 0.5}
    >>> Halved()
    Halved()
    """

    @abstractmethod
    def terms(self, passes: TrainingPasses, targets: Any) -> dict[str, Tensor]:
        """The terms of one step: first the scalar that is minimised, then whatever is to be reported.

        Args:
            passes: gives outputs and more; what is not asked for is not computed.
            targets: integer labels (N,), or a tuple of them and ``Split.targets``.

        Returns:
            Tensors by name.
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
    """One forward pass of training, up to the loss.

    Args:
        forward: the loop over the graph's nodes.
        loss: a loss or an objective.
        params: parameters and state by full name.
        inputs: a tensor for each input of the network.
        targets: as ``Objective.terms`` takes them.
        phase: which form the pass has (``Forward.phase``).
        training: True, the default; False: quantized as in training, but with the running statistics.

    Returns:
        The terms by name, the one that is minimised first; and the new values of the state by full name.
    """
    if isinstance(loss, Objective):
        passes = TrainingPasses(forward, params, inputs, phase, training)
        return loss.terms(passes, targets), passes.updates
    outputs, updates = forward(params, inputs, training=training, phase=phase)
    return {"loss": loss(forward.ops, single(outputs), targets)}, updates
