"""The penalty that draws weights to the middle of their codes, so that they oscillate less."""

from __future__ import annotations

import math
from typing import Any

from qat.cells.base import Quantized
from qat.cells.weight_codes import weight_codes
from qat.training.forward import TrainingPasses
from qat.training.losses import Loss, Objective
from qat.vocabulary.ops import Ops, Tensor


class Dampened(Objective):
    """What a training minimises, plus the penalty of ``qat.Oscillations`` on all weights that are dampened.

    Terms: those of what it was, the first one with the penalty added; and "dampening", the penalty.

    Args:
        inner: a loss or an objective.
    """

    def __init__(self, inner: Loss | Objective) -> None:
        self.inner = inner

    def terms(self, passes: TrainingPasses, targets: Any) -> dict[str, Tensor]:
        if isinstance(self.inner, Objective):
            found = dict(self.inner.terms(passes, targets))
        else:
            found = {"loss": self.inner(passes.ops, passes.outputs, targets)}
        penalty = None
        for each in passes.quantized.values():
            if "dampening" in each.own:
                own = dampening(passes.ops, each) * each.own["dampening"]
                penalty = own if penalty is None else penalty + own
        if penalty is None:  # the quantizers are idle yet
            return found
        first = next(iter(found))
        return found | {first: found[first] + penalty, "dampening": penalty}


def dampening(ops: Ops, weight: Quantized) -> Tensor:
    """sum (v - w)^2 over the weights w inside their quantizer's range, v the value of w's code (arXiv 2203.11086, equation 6).

    The paper clips w to the range, so that those outside neither count nor get a gradient. Codes and scale get none.

    Args:
        ops: the vocabulary.
        weight: what a cell quantized.

    Returns:
        A scalar.
    """
    quantizer, x = weight.quantizer, weight.x
    codes = weight_codes(ops, quantizer, x, None, weight.own)  # type: ignore[arg-type]  # of weights
    scale = ops.on_output(ops.stop_gradient(codes.scale), x)
    steps = ops.stop_gradient(x) / scale
    inside = (steps >= float(quantizer.qmin)) & (steps <= float(quantizer.qmax))
    error = ops.where(inside, x - ops.stop_gradient(codes.centred) * scale, ops.stop_gradient(x) * 0.0)
    return ops.mean(error * error) * float(math.prod(x.shape))
