"""Backends and targets by name, imported on first use."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from qat.errors import QatError


class Entry(NamedTuple):
    """Where a backend or target lives and what it needs."""

    module: str  #: under qat.backends
    packages: tuple[str, ...]  #: what it imports
    extra: str  #: the pip extra that installs them
    suffix: str = ""  #: of the files that a target writes


BACKENDS = {"torch": Entry("torch_backend", ("torch",), "torch")}
TARGETS = {
    "ONNX": Entry("onnx_target", ("onnx", "onnxruntime"), "onnx", ".onnx"),
    "TFLITE": Entry("tflite_target", ("ai_edge_litert", "flatbuffers"), "tflite", ".tflite"),
}


def installed(entry: Entry) -> bool:
    """True where every package that it imports is installed; nothing is imported to find out."""
    return all(importlib.util.find_spec(package) is not None for package in entry.packages)


def backend(name: str) -> ModuleType:
    """The training backend of that name: ``ops, lower, read, make_step, predict, predict_codes``."""
    return _load(name, BACKENDS, "backend")


def target(file_format: str) -> ModuleType:
    """The deployment target that writes that format: ``export, run, ...``."""
    return _load(file_format, TARGETS, "file format")


def target_of(path: str | Path) -> ModuleType:
    """The deployment target that a file belongs to, by its suffix."""
    suffix = Path(path).suffix
    for name, entry in TARGETS.items():
        if entry.suffix == suffix:
            return target(name)
    known = ", ".join(entry.suffix for entry in TARGETS.values())
    raise QatError(f"{path}: {suffix or 'a file without an ending'!r} is no format that can be run; known are {known}")


def _load(name: str, entries: dict[str, Entry], what: str) -> ModuleType:
    if name not in entries:
        raise QatError(f"{what} {name!r} is unknown: choose one of {', '.join(entries)}")
    entry = entries[name]
    try:
        return importlib.import_module(f"qat.backends.{entry.module}")
    except ModuleNotFoundError as error:
        missing = error.name or entry.module
        if missing.partition(".")[0] == "qat":
            raise
        raise QatError(
            f"{what} {name!r} needs the package {missing!r}, which is not installed: pip install 'qat-engine[{entry.extra}]'"
        ) from None
