"""A checkpoint's history in words: what was trained on what, the oldest first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from qat.errors import shortened
from qat.training.checkpoint import COURSE, Checkpoint
from qat.training.records import title
from qat.training.resuming import COMMAND

#: Of a training: what is said of it, by the name in its record, in this order; what is at its default is left out.
SAID: dict[str, tuple[str, Any]] = {
    "data": ("data", None),
    "data_path": ("read from", None),
    "backend": ("backend", None),
    "device_target": ("device", None),
    "epochs": ("epochs", None),
    "batch_size": ("batch size", None),
    "lr": ("peak learning rate", None),
    "lr_schedule": ("schedule", None),
    "optimizer": ("optimizer", None),
    "seed": ("seed", None),
    "validation": ("held-back samples", 0),
    "early_stopping": ("early stopping", 0),
    "keep_best": ("keeps the best epoch", False),
    "label_smoothing": ("label smoothing", 0.0),
    "slimming": ("slimming", 0.0),
    "augment_shift": ("shifted by up to", 0),
    "augment_flip": ("mirrored", False),
    "augment": ("augmentation", []),
    "warmup": ("steps of warmup", 0),
    "oscillations": ("oscillations", None),
    "reestimate_bn": ("samples for new statistics", 0),
    "teacher": ("teacher", None),
    "loss": ("loss", None),
    "threads": ("threads", None),
}
USUAL = {"accumulate": 1}  #: of an optimizer: what goes without saying
#: Of a calibration: what counts only where another setting has this value.
COUNTS = {"percentile": ("method", "percentile")}
MOST = 8  #: settings of a record that is not one of a training


def stages(checkpoint: Checkpoint) -> list[tuple[str, list[tuple[str, str]], str]]:
    """What was done to a network, the oldest first: a title, what is said of it, and the command where it is known."""
    found = []
    for record in reversed(checkpoint.history):
        found.append((title(record), _settings(record), str(record.get(COMMAND, ""))))
    return found


def course_names(checkpoint: Checkpoint) -> list[str]:
    """What the trainings of ``Checkpoint.courses`` are called, in their order."""
    records = [record for record in reversed(checkpoint.history) if COURSE in record]
    count = len(records) + bool(checkpoint.progress.epochs)
    if count < 2:
        return ["training"] * count
    last = "quantization-aware training" if checkpoint.progress.epochs else f"training {count}"
    return [*("float training" if k == 0 else f"training {k + 1}" for k in range(count - 1)), last]


def _settings(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    if title(record) == "Trained":
        return [
            (words, _value(record[key]))
            for key, (words, default) in SAID.items()
            if key in record
            and record[key] != default
            and record[key] is not None
            and not (key == "data_path" and COMMAND in record)
        ]
    flat: list[tuple[str, str]] = []
    for key, value in record.items():
        if key in (COURSE, COMMAND):
            continue
        inner = value if isinstance(value, Mapping) else {key: value}
        flat += [
            (name.replace("_", " "), _value(x)) for name, x in inner.items() if _is_said(x) and _counts(name, inner)
        ]
    return flat[:MOST]


def _is_said(value: Any) -> bool:
    return value not in (None, [], {}, (), "") and not _is_long(value)


def _counts(name: str, settings: Mapping[str, Any]) -> bool:
    other, value = COUNTS.get(name, ("", None))
    return settings.get(other) == value


def _is_long(value: Any) -> bool:
    """Whether it is a list of records, as the decisions of a calibration, which the command has printed."""
    return isinstance(value, Sequence) and not isinstance(value, str) and any(isinstance(x, Mapping) for x in value)


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, Mapping):
        named = [str(x) for key, x in value.items() if key in ("name", "type")]
        rest = [
            f"{key.replace('_', ' ')} {_value(x)}"
            for key, x in value.items()
            if key not in ("name", "type") and x and x != USUAL.get(key)
        ]
        return ", ".join([*named, *rest])
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_value, value))
    return value if isinstance(value, str) and len(value) <= 200 else shortened(value)
