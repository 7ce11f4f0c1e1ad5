"""Activation functions, written once over the vocabulary of operations.

ReLU and ReLU6 are clamps, which the clip of the next quantizer performs (docs/numerics.md). The others are deployed as
tables with one entry for each code of the fake quantizer before them.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from qat.errors import QatError
from qat.vocabulary.ops import Ops, Tensor

RELU_BOUNDS = {"relu": math.inf, "relu6": 6.0}  #: the upper bound of each


def _hsigmoid(ops: Ops, x: Tensor, alpha: float) -> Tensor:
    return (6.0 - ops.relu(6.0 - ops.relu(x + 3.0))) / 6.0


#: name -> f(ops, x, alpha). hsigmoid and hswish: Howard et al., arXiv 1905.02244, section 5.2.
TABLES: dict[str, Callable[[Ops, Tensor, float], Tensor]] = {
    "leaky_relu": lambda ops, x, alpha: ops.relu(x) - ops.relu(-x) * alpha,
    "sigmoid": lambda ops, x, alpha: ops.sigmoid(x),
    "tanh": lambda ops, x, alpha: ops.tanh(x),
    "hsigmoid": _hsigmoid,
    "hswish": lambda ops, x, alpha: x * _hsigmoid(ops, x, alpha),
}
NON_NEGATIVE = ("relu", "relu6", "sigmoid", "hsigmoid")


def check_activation(name: str | None, owner: str) -> None:
    """Raise QatError where ``name`` is not a known activation.

    Args:
        name: None for no activation.
        owner: the cell, for the message.

    Raises:
        QatError: listing the known ones.
    """
    if name is not None and name not in RELU_BOUNDS and name not in TABLES:
        known = ", ".join((*RELU_BOUNDS, *TABLES))
        raise QatError(f"{owner}: activation {name!r} is unknown; use None or one of {known}")
