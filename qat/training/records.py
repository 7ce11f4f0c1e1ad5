"""Records of a checkpoint's history in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qat.errors import shortened
from qat.tables import counted

#: What a record is about, by the name in it.
TITLES = {"calibration": "Calibrated", "pruning": "Pruned", "import": "Imported", "compression": "Compressed"}
#: Of a calibration: what is said of it in a line, and how what is on or off is called.
SAID = {"method": "", "equalize": "equalized", "rounding": "rounding", "bias_correction": "biases corrected"}


def title(record: Mapping[str, Any]) -> str:
    """What a record of the history is about."""
    for key, words in TITLES.items():
        if key in record:
            return words
    if "epochs" in record and "backend" in record:
        return "Trained"
    return next(iter(record), "Made").replace("_", " ").capitalize()


def line(record: Mapping[str, Any]) -> str:
    """A record in a line: what was done, and of a training and a calibration the most of how.

    >>> from qat.training.records import line
    >>> line({"backend": "torch", "data": "MNIST", "epochs": 2, "batch_size": 64, "seed": 0})
    'Trained 2 epochs on MNIST with torch'
    >>> line({"calibration": {"images": 512, "method": "mse", "rounding": "moments", "bias_correction": True}})
    'Calibrated on 512 images: mse, rounding moments, biases corrected'
    """
    about = title(record)
    if about == "Trained":
        where = f" on {record['data']}" if isinstance(record.get("data"), str) else ""
        return f"Trained {_counted(record['epochs'], 'epoch')}{where} with {record['backend']}"
    settings = record.get("calibration")
    if not isinstance(settings, Mapping):
        return about
    said = [_setting(words, settings.get(key)) for key, words in SAID.items()]
    how = ", ".join(filter(None, said))
    return f"Calibrated on {_counted(settings.get('images'), 'image')}" + (f": {how}" if how else "")


def _setting(words: str, value: Any) -> str:
    return f"{words} {value}".strip() if isinstance(value, str) else words if value is True else ""


def _counted(number: Any, what: str) -> str:
    """A file may hold anything here."""
    return counted(number, what) if isinstance(number, int) else f"{shortened(number)} {what}s"
