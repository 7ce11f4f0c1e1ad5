"""The devices that a network can be computed on, by MindSpore's names."""

from __future__ import annotations

from collections.abc import Sequence

from qat.errors import QatError

DEVICES = ("CPU", "GPU", "Ascend")


def choose_device(asked: str | None, available: Sequence[str], backend: str) -> str:
    """``asked``, or the best of those available (best first) where it is None.

    Raises QatError, naming what there is, where the backend has no such device here.
    """
    if asked is None:
        return available[0]
    if asked not in available:
        problem = (
            "is unknown" if asked not in DEVICES else f"is not there: {backend} sees no such device on this machine"
        )
        raise QatError(f"device_target {asked!r} {problem}; use --device_target {' or '.join(available)}")
    return asked
