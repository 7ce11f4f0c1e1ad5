"""The optimizer's settings and learning-rate schedules. The optimizers themselves are the frameworks' own."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from qat import hints
from qat.errors import QatError, shortened
from qat.vocabulary.fields import check_fields
from qat.vocabulary.ops import Array

OPTIMIZERS = ("momentum", "adam", "amsgrad")
SCHEDULES = ("cosine", "constant", "step", "halving", "plateau")
HALVING = 5000  #: steps between two halvings


@dataclass(frozen=True)
class Optimizer:
    """The settings of an optimizer.

    Args:
        name: "momentum" (SGD with momentum, the default), "adam", or "amsgrad": Adam with the largest second moment so
            far (Reddi et al., arXiv 1904.09237, algorithm 2).
        momentum: of SGD, 0 to below 1; 0.9 by default.
        weight_decay: L2, on weights only, not on biases and other vectors; 0 by default.
        clip_norm: where the gradient of all parameters together is longer than this (Euclidean), it is scaled to this length,
            before weight decay is added (Pascanu et al., arXiv 1211.5063, algorithm 1); 0, the default: never.
        accumulate: each batch is computed in so many parts, one after another, and their mean gradient is that of the step, so
            that the memory of a part is enough. What depends on a single batch depends on a single part instead: the mean and
            variance by which batch normalisation divides, and what its running statistics and the ranges of activations
            follow. 1 by default.
        ema: the networks that are evaluated and saved have averages of the weights in place of the last ones: after step t,
            average := d average + (1 - d) weight with d = min(ema, (1 + t) / (10 + t)), as TensorFlow's
            ExponentialMovingAverage; 0 to below 1; 0, the default: the last weights. All trained parameters are averaged, so
            learned scales too, and the running statistics of batch normalisation. Masks of pruning and the ranges of
            quantizers, which are means already, are the last ones.

    Raises:
        QatError: where a field is out of its range.

    >>> from qat.training.optimizer import Optimizer
    >>> Optimizer("adam", weight_decay=1e-4).name
    'adam'
    """

    name: str = "momentum"
    momentum: float = 0.9
    weight_decay: float = 0.0
    clip_norm: float = 0.0
    accumulate: int = 1
    ema: float = 0.0

    def __post_init__(self) -> None:
        check_fields(self)
        if self.name not in OPTIMIZERS:
            raise QatError(hints.unknown("optimizer", self.name, OPTIMIZERS))
        if not 0.0 <= self.momentum < 1.0:
            raise QatError(f"momentum is {self.momentum}; use a number from 0 to below 1")
        if not 0.0 <= self.weight_decay < math.inf:
            raise QatError(f"weight_decay is {self.weight_decay}; use 0 or a positive number")
        if not 0.0 <= self.clip_norm < math.inf:
            raise QatError(f"clip_norm is {self.clip_norm}; use the longest gradient, a positive number, or 0 for any")
        if self.accumulate < 1:
            raise QatError(f"accumulate is {self.accumulate}; use a number of parts of a batch, at least 1")
        if not 0.0 <= self.ema < 1.0:
            raise QatError(f"ema is {self.ema}; use a number from 0 to below 1, as 0.999")


def learning_rate(schedule: str, peak: float, step: int, steps: int, warmup: int = 0) -> float:
    """The learning rate of a step.

    Args:
        schedule: "constant"; "cosine": half a cosine from the peak to 0 (arXiv 1608.03983); "step": a tenth after half
            of the steps and a hundredth after three quarters (arXiv 1512.03385, section 4.2); "halving": halved every
            5000 steps; "plateau": constant here, lowered between epochs by ``qat.training.monitor.plateau_factor``.
        peak: the highest rate.
        step: from 0.
        steps: of the whole training.
        warmup: of the first so many steps, step t has (t + 1) / warmup of the schedule's rate; 0, the default: none.

    Returns:
        The rate.

    Raises:
        QatError: for another schedule.
    """
    if step < warmup:
        peak *= (step + 1) / warmup
    if schedule in ("constant", "plateau"):
        return peak
    if schedule == "cosine":
        return 0.5 * peak * (1.0 + math.cos(math.pi * step / steps))
    if schedule == "step":
        return peak * 0.1 ** ((2 * step >= steps) + (4 * step >= 3 * steps))
    if schedule == "halving":
        return peak * 0.5 ** (step // HALVING)
    raise QatError(hints.unknown("lr_schedule", schedule, SCHEDULES))


def ema_decay(ema: float, step: int) -> float:
    """The share of an average that is kept after step ``step``, from 1 (``Optimizer.ema``)."""
    return min(ema, (1 + step) / (10 + step))


def check_state(state: Mapping[str, Array], expected: Mapping[str, Array]) -> None:
    """Check the state of an optimizer that was read from a checkpoint.

    Args:
        state: arrays by name.
        expected: what the optimizer has now: the names, shapes and types that the state must have.

    Raises:
        QatError: for other names, shapes or types, and for numbers that are not finite.
    """
    missing = [name for name in expected if name not in state]
    unknown = [name for name in state if name not in expected]
    wrong = None
    if missing or unknown:
        wrong = f"lacks {shortened(missing[0])}" if missing else f"has {shortened(unknown[0])}"
    for name, own in {} if wrong else expected.items():
        array = state[name]
        if array.shape != own.shape or array.dtype != own.dtype:
            wrong = f"has {name!r} of {array.dtype} {array.shape}, not {own.dtype} {own.shape}"
        elif not np.isfinite(array).all():
            wrong = f"has {name!r} with numbers that are not finite"
    if wrong:
        raise QatError(
            f"the optimizer's state {wrong}, so it is of another training, or damaged; use another copy, or start anew"
        )
