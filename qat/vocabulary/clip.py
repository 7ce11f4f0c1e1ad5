"""Where the gradient of a clip ends."""

from __future__ import annotations

from typing import Any

import numpy as np

#: How far beyond a bound a number still counts as inside, relative to the bound: a few last bits. Where the range is that of
#: the batch, as in a first step, its largest number stands on the bound or some roundings beside it, and would have a
#: gradient or none by chance, on one backend and not on another.
BESIDE = 2.0**-18
#: Just above 0: some processors, and TensorFlow, take the subnormal numbers below it for 0.
TINY = float(np.finfo(np.float32).tiny)


def reach(low: Any, high: Any, *, open_low: bool) -> tuple[Any, Any]:
    """The bounds of the numbers that have a gradient, from those of the codes: numbers or tensors. An open one stays."""
    return low if open_low else low - abs(low) * BESIDE, high + abs(high) * BESIDE
