"""How often numbers fall into equal bins around 0."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def counts_of(numbers: Array, factor: float, bins: int) -> tuple[Array, int]:
    """Of how many numbers floor(x factor) is -bins, ..., bins - 1; and how many are 0, which are not counted among these.

    Args:
        numbers: float32, within these bins.
        factor: a power of two, so that the product is exact.
        bins: on either side of 0.

    Returns:
        int64 (2 bins,), and a number.
    """
    index = np.floor(numbers * np.float32(factor)).astype(np.intp).ravel()
    counts, zeros = np.bincount(index + bins, minlength=2 * bins), numbers.size - int(np.count_nonzero(numbers))
    counts[bins] -= zeros
    return counts, zeros
