"""Soft rounding: weights between two codes, with a penalty that drives them to one of both (AdaRound).

Nagel et al., "Up or Down? Adaptive Rounding for Post-Training Quantization", arXiv 2004.10568, section 3.3.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from qat.training.forward import TrainingPasses
from qat.training.losses import Objective
from qat.vocabulary.ops import Array, Kind, Ops, Tensor

ZETA, GAMMA = 1.1, -0.1  #: how far the sigmoid is stretched: the paper's, below equation 23
WARMUP, SETTLING = 0.2, 0.8  #: the shares of the iterations from which on there is a penalty, and it no longer changes
BETAS, FACTORS = (20.0, 2.0), (1.0, 100.0)  #: beta and lambda, first and last
SMALLEST = 1e-6  #: of what a logarithm is taken


def rectified_sigmoid(ops: Ops, v: Tensor) -> Tensor:
    """h(V) = clip(sigmoid(V) (zeta - gamma) + gamma, 0, 1): equation 23, with zeta = 1.1 and gamma = -0.1.

    Args:
        ops: the vocabulary.
        v: V.

    Returns:
        How much of a step is added to the lower code, 0 to 1, shaped like V. Its gradient is 0 where it is clipped.
    """
    return ops.minimum(ops.maximum(ops.sigmoid(v) * (ZETA - GAMMA) + GAMMA, 0.0), 1.0)


def start_of(share: Array) -> Array:
    """The V with h(V) = share: soft rounding begins with the float weight.

    Args:
        share: of a step, 0 to 1.

    Returns:
        V, float32, shaped like ``share``.

    >>> import numpy as np
    >>> from qat.training.soft_rounding import rectified_sigmoid, start_of
    >>> from qat.vocabulary.numpy_ops import NUMPY_OPS
    >>> rectified_sigmoid(NUMPY_OPS, start_of(np.array([0.0, 0.25, 1.0]))).round(6).tolist()
    [0.0, 0.25, 1.0]
    """
    stretched = (np.asarray(share, np.float64) - GAMMA) / (ZETA - GAMMA)
    return np.log(stretched / (1.0 - stretched)).astype(np.float32)


def regularizer(ops: Ops, h: Tensor, beta: Tensor) -> Tensor:
    """1 - |2 h - 1|^beta of each element: equation 24. 0 where h is 0 or 1, 1 where it is 1/2.

    Args:
        ops: the vocabulary.
        h: 0 to 1.
        beta: greater than 0, a scalar; the larger it is, the less does the penalty ask of elements near 1/2.

    Returns:
        A tensor shaped like ``h``.
    """
    size = ops.maximum(ops.abs(h * 2.0 - 1.0), SMALLEST)
    return 1.0 - ops.exp(ops.log(size) * beta)


def beta_at(share: float) -> float:
    """The exponent of the penalty: 20 in the first fifth, 2 in the last, between them along a straight line.

    Args:
        share: of all iterations, 0 to 1.

    Returns:
        beta.
    """
    first, last = BETAS
    return first + (last - first) * _annealed(share)


def factor_at(share: float) -> float:
    """The factor lambda of the penalty: 0 in the first fifth, 100 in the last, and growing from 1 between, by equal factors.

    The error is counted in multiples of that of the nearest codes and the penalty is a mean, so that 1 is about as much as the
    error, and with 100 hardly any weight stays between two codes. (The paper has a constant factor. With one of 1, after 200
    iterations many weights were still between two codes, and are then rounded without regard to the output.)

    Args:
        share: of all iterations, 0 to 1.

    Returns:
        lambda.
    """
    first, last = FACTORS
    return first * (last / first) ** _annealed(share) if share >= WARMUP else 0.0


def _annealed(share: float) -> float:
    """How much of the time between the warm-up and the settling is over, 0 to 1."""
    return min(1.0, max(0.0, (share - WARMUP) / (SETTLING - WARMUP)))


@dataclass(frozen=True, eq=False)
class SoftWeight:
    """A weight between two codes each: (low + h(V)) step where an element is free, else as it was.

    Attributes:
        fixed: the weight of elements that are not free, and low * step of the others, float32.
        step: of elements that are free, signed, else 0, float32.
        kind: what its axes mean.
    """

    fixed: Array
    step: Array
    kind: Kind

    def of(self, ops: Ops, v: Tensor) -> tuple[Tensor, Tensor]:
        """The weight, and h(V)."""
        h = rectified_sigmoid(ops, v)
        return ops.from_numpy(self.fixed, self.kind) + h * ops.from_numpy(self.step, self.kind), h


@dataclass(frozen=True, eq=False)
class Reconstruction(Objective):
    """The error of a block's outputs with softly rounded weights, and the penalty on what is between two codes.

    sum over outputs of E|y - y'|^2 / error + lambda mean(1 - |2 h(V) - 1|^beta): equations 21 and 25 of the paper, of a block
    as in Li et al., arXiv 2102.05426, section 3.2. The targets are the outputs of the float network, then beta and lambda as
    (N, 1) each, the same in every row: they change from step to step, and a step is compiled once.

    The trained parameter of a cell that ``weights`` has is V in place of its weight. No other parameter gets a gradient.

    Attributes:
        weights: by the parameter's full name.
        errors: of each output, by which its error is divided: that of the nearest codes.
        drop: the probability with which a number of an activation is not quantized (QDrop, arXiv 2203.05740, equation 12).
    """

    weights: Mapping[str, SoftWeight]
    errors: tuple[float, ...]
    drop: float = 0.0
    _free: Mapping[str, Array] = field(init=False, repr=False)

    keeps_state = True

    def __post_init__(self) -> None:
        count = max(1, sum(np.count_nonzero(each.step) for each in self.weights.values()))
        free = {name: ((each.step != 0.0) / count).astype(np.float32) for name, each in self.weights.items()}
        object.__setattr__(self, "_free", free)

    def terms(self, passes: TrainingPasses, targets: Any) -> dict[str, Tensor]:
        ops = passes.ops
        *wanted, betas, factors = targets
        beta, factor = ops.mean(betas), ops.mean(factors)
        soft, penalty = {}, None
        for name, weight in self.weights.items():
            soft[name], h = weight.of(ops, passes.params[name])
            each = regularizer(ops, h, beta) * ops.from_numpy(self._free[name], weight.kind)
            summed = ops.mean(each) * float(weight.step.size)
            penalty = summed if penalty is None else penalty + summed
        error = None
        for output, target, scale in zip(passes.outputs_with(soft, drop=self.drop), wanted, self.errors, strict=True):
            off = output - target
            summed = ops.mean(off * off) * (1.0 / scale)
            error = summed if error is None else error + summed
        return {"loss": error + penalty * factor, "error": error, "penalty": penalty}
