"""What a network takes: its own input, or one that it is fitted to."""

from __future__ import annotations

import qat
from qat.errors import QatError


def picture(given: qat.Input | None, default: qat.Input) -> qat.Input:
    """The input of a network of pictures.

    Args:
        given: what it is fitted to; None for its own.
        default: its own, (C, H, W).

    Returns:
        One of them.

    Raises:
        QatError: where the given one has no height and width.
    """
    if given is None:
        return default
    if len(given.shape) != 3:
        raise QatError(f"it takes (C, H, W), as {default.shape}, but the samples are {given.shape}")
    return given
