"""Activations that are clamps: the next quantizer's clip performs them (docs/numerics.md)."""

from __future__ import annotations

import math

from qat.errors import QatError

RELU_BOUNDS = {"relu": math.inf, "relu6": 6.0}  #: the upper bound of each


def check_activation(name: str | None, owner: str) -> None:
    """Raise QatError where ``name`` is no known activation."""
    if name is not None and name not in RELU_BOUNDS:
        raise QatError(f"{owner}: activation {name!r} is unknown; use None or one of {', '.join(RELU_BOUNDS)}")
