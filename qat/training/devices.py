"""The devices that a network can be computed on, under MindSpore's names."""

from __future__ import annotations

from collections.abc import Sequence

from qat import hints
from qat.errors import QatError

DEVICES = ("CPU", "GPU", "Ascend")


def choose_device(asked: str | None, available: Sequence[str], backend: str) -> str:
    """The device to compute on.

    Args:
        asked: "CPU", "GPU" or "Ascend"; None for the best one available.
        available: what the backend finds on this machine, the best first.
        backend: its name, for the message.

    Returns:
        One of ``available``.

    Raises:
        QatError: where the backend does not find the device.
    """
    if asked is None:
        return available[0]
    if asked not in available:
        problem = (
            f"is unknown{hints.perhaps(asked, DEVICES, hints.VALUES)}"
            if asked not in DEVICES
            else f"is not there: {backend} sees no such device on this machine"
        )
        raise QatError(f"device_target {asked!r} {problem}; use --device_target {' or '.join(available)}")
    return asked
