"""Backends and targets by name, imported on first use."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from qat.errors import QatError, shortened


class Entry(NamedTuple):
    """Where a backend or target lives and what it needs."""

    module: str  #: under qat
    packages: tuple[str, ...]  #: what it imports
    extra: str  #: the pip extra that installs them
    suffix: str = ""  #: of the files that a target writes, or that a framework keeps parameters in
    options: tuple[str, ...] = ()  #: what a target's export can be told beside graph and path


BACKENDS = {
    "torch": Entry("backends.torch.network", ("torch",), "torch", ".pt"),
    "keras": Entry("backends.keras.network", ("keras", "tensorflow"), "keras"),
    "mindspore": Entry("backends.mindspore.network", ("mindspore",), "mindspore", ".ckpt"),
}
TARGETS = {
    "ONNX": Entry("targets.onnx.target", ("onnx", "onnxruntime"), "onnx", ".onnx", ("weights", "packing")),
    "TFLITE": Entry("targets.tflite.target", ("ai_edge_litert", "flatbuffers"), "tflite", ".tflite", ("packing",)),
    "ASCEND_ONNX": Entry("targets.ascend.onnx.target", ("onnx",), "onnx", ".ascend.onnx"),
    "MINDIR": Entry("targets.mindir.target", ("mindspore",), "mindspore", ".mindir"),
    "AIR": Entry("targets.ascend.air.target", (), "", ".air"),
    "C": Entry("targets.c.target", (), "", ".c", ("packing",)),
}


def missing_packages(entry: Entry) -> list[str]:
    """Those that it imports and that are not installed; nothing is imported to find out."""
    return [package for package in entry.packages if importlib.util.find_spec(package) is None]


def installed(entry: Entry) -> bool:
    """True where every package that it imports is installed."""
    return not missing_packages(entry)


def backend(name: str) -> ModuleType:
    """The training backend of that name: a module that is a ``qat.deploy.interfaces.TrainingBackend``."""
    return _load(name, BACKENDS, "backend")


def target(file_format: str) -> ModuleType:
    """The deployment target that writes that format: a module that is a ``qat.deploy.interfaces.Target``."""
    return _load(file_format, TARGETS, "file format")


def target_of(path: str | Path) -> ModuleType:
    """The deployment target that a file belongs to, by its suffix; the longest that fits counts."""
    name = suffixed(path)
    if name is None:
        suffix = Path(path).suffix
        known = ", ".join(entry.suffix for entry in TARGETS.values())
        raise QatError(
            f"{path}: {suffix or 'a file without an ending'!r} is no format that can be run; known are {known}"
        )
    return target(name)


def suffixed(path: str | Path) -> str | None:
    """The name of the target whose suffix is the longest that the file's name has after something else."""
    name = Path(path).name.lower()
    fits = [key for key, entry in TARGETS.items() if name.endswith(entry.suffix) and name != entry.suffix]
    return max(fits, key=lambda key: len(TARGETS[key].suffix), default=None)


def _load(name: str, entries: dict[str, Entry], what: str) -> ModuleType:
    if not isinstance(name, str) or name not in entries:
        meant = [known for known in entries if isinstance(name, str) and known.lower() == name.lower()]
        advice = f"perhaps {meant[0]!r} is meant" if meant else f"choose one of {', '.join(entries)}"
        raise QatError(f"{what} {shortened(name)} is unknown: {advice}")
    entry = entries[name]
    missing = missing_packages(entry)
    if missing:
        raise QatError(
            f"{what} {name!r} needs the package {missing[0]!r}, which is not installed: pip install 'qat-engine[{entry.extra}]'"
        )
    return importlib.import_module(f"qat.{entry.module}")
