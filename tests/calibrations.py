"""The calibration of tests that are not about its choices: fast, and the same whatever is chosen by default."""

from __future__ import annotations

from typing import Any

import qat

PLAIN: dict[str, Any] = {"method": "minmax", "equalize": False, "bias_correction": False, "rounding": "nearest"}
#: the same, of commands
PLAIN_FLAGS = ("--method", "minmax", "--equalize", "false", "--bias_correction", "false", "--rounding", "nearest")


def calibrate(network: Any, params: Any, images: Any, **settings: Any) -> qat.Checkpoint:
    """``qat.calibrate`` with ranges from the smallest to the largest number and nothing else, unless ``settings`` say so."""
    return qat.calibrate(network, params, images, **(PLAIN | settings))
