"""What the process of a test does (tests/test_reading.py)."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

_kept: list[int] = []


def answer(question: Mapping[str, Any], arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
    if question["do"] == "abort":
        os.abort()
    if question["do"] == "remember":
        _kept.append(question["number"])
    if question["do"] == "recall":
        return [np.array([_kept[-1], os.getpid()])]
    if question["do"] == "raise":
        raise ValueError("one\ntwo")
    if question["do"] == "grow":
        return [np.ones(1 << 40)]
    return [2 * array for array in arrays]
