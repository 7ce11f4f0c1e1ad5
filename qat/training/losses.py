"""Losses, written over the vocabulary of operations, so that each works on every backend."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np

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


def one_hot(ops: Ops, labels: Tensor, logits: Tensor) -> Tensor:
    """1 at the label's channel and 0 elsewhere, of the logits' shape.

    Args:
        ops: the vocabulary.
        labels: whole numbers as float32, (N, 1) or (N, 1, H, W); one below 0 is nowhere.
        logits: (N, K) or (N, K, H, W).

    Returns:
        float32, without gradient.
    """
    distance = ops.abs(labels + ops.on_channel(-ops.from_numpy(np.arange(ops.channels(logits)), "vector"), logits))
    return ops.where(distance < 0.5, distance * 0.0 + 1.0, distance * 0.0)


def weighted_cross_entropy(
    ops: Ops,
    logits: Tensor,
    targets: Any,
    weights: tuple[float, ...] = (),
    smoothing: float = 0.0,
    *,
    masked: bool = False,
) -> Tensor:
    """Softmax cross entropy with a weight for each class, of samples or of their pixels: the mean of - w_y sum_k t_k log p_k.

    It is divided by how many count, not by the sum of their weights, so that the loss of a sample does not depend on the
    others of its batch (as Keras has it; PyTorch divides by the weights). Without weights both are the same.

    Args:
        ops: the vocabulary.
        logits: (N, K) or (N, K, H, W).
        targets: labels as float32, (N, 1) or (N, 1, H, W); or of mixed samples (labels, other labels, share of the
            first), each so (Zhang et al., arXiv 1710.09412).
        weights: w, a factor for each class; empty, the default: all 1.
        smoothing: t is 1 - smoothing at the label, plus smoothing / K everywhere; 0 by default.
        masked: labels below 0 count for nothing; False by default: there are none.

    Returns:
        A scalar.
    """
    logarithms = ops.log_softmax(logits)
    shares = [(targets, None)]
    if isinstance(targets, tuple):
        one, other, share = targets
        shares = [(one, share), (other, 1.0 - share)]
    total = counted = None
    for labels, share in shares:
        chosen = one_hot(ops, labels, logits)
        there = ops.sum_over_channels(chosen)  # 0 where the label counts for nothing
        target = chosen * (1.0 - smoothing) + there * (smoothing / ops.channels(logits)) if smoothing else chosen
        entropy = -ops.sum_over_channels(target * logarithms)
        if weights:
            factors = ops.on_channel(ops.from_numpy(np.asarray(weights), "vector"), logits)
            entropy = entropy * ops.sum_over_channels(chosen * factors)
        part = entropy if share is None else entropy * share
        total = part if total is None else total + part
        counted = there
    mean = ops.mean(total)
    return mean / ops.maximum(ops.mean(counted), 1e-12) if masked else mean


def binary_cross_entropy(ops: Ops, logits: Tensor, targets: Tensor) -> Tensor:
    """Mean over all numbers of - t log sigmoid(z) - (1 - t) log(1 - sigmoid(z)).

    Args:
        ops: the vocabulary.
        logits: z, (N, ...).
        targets: t, 0 to 1, float32, shaped like the logits.

    Returns:
        A scalar.
    """
    fixed = ops.stop_gradient(logits)
    # max(z, 0) - z t + log(1 + exp(-|z|)) overflows nowhere, but has no gradient of its own at 0.
    value = ops.relu(fixed) - fixed * targets - ops.log(ops.sigmoid(ops.abs(fixed)))
    return ops.mean(value + (ops.sigmoid(fixed) - targets) * (logits - fixed))


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

    tasks: ClassVar[tuple[str, ...]] = ()  #: names of the tasks that it is for; none: any
    keeps_state: ClassVar[bool] = (
        False  #: True: ranges and running statistics stay, and no training pass is computed for them
    )

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
        return loss.terms(passes, targets), {} if loss.keeps_state else passes.updates
    outputs, updates = forward(params, inputs, training=training, phase=phase)
    return {"loss": loss(forward.ops, single(outputs), targets)}, updates
