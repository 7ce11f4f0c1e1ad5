"""Backends and targets by name, imported on first use."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import inspect
import re
import sys
from pathlib import Path
from typing import Any, NamedTuple, cast

from qat import hints
from qat.deploy.interfaces import SWITCH, Evaluates, Option, Target, TrainingBackend
from qat.errors import QatError, shortened
from qat.extras import how_to_install
from qat.integer.ends import TYPES
from qat.integer.fixed_point import ARITHMETICS
from qat.integer.widths import PACKINGS
from qat.plugins import Group
from qat.vocabulary.numpy_ops import NUMPY_OPS
from qat.vocabulary.ops import Ops


class Entry(NamedTuple):
    """What is known of a backend or target before it is imported.

    Attributes:
        module: Where it lives, under qat; of another package, the package.
        packages: What it imports.
        extra: The pip extra that installs these.
        suffix: Of the files that a target writes, or in which a framework keeps parameters.
        options: Of a target's export.
    """

    module: str
    packages: tuple[str, ...]
    extra: str
    suffix: str = ""
    options: tuple[Option, ...] = ()


_WEIGHTS = Option(
    "weights",
    ("int8", "uint8"),
    "how weights are stored; uint8 for x86 CPUs without VNNI, elsewhere up to twice slower",
)
_INPUT = Option(
    "input_type",
    TYPES,
    "what the file takes: what the network takes, real numbers that it quantizes itself, or codes that the caller makes",
)
_OUTPUT = Option(
    "output_type",
    TYPES,
    "what the file gives: real numbers or codes; its own are codes in TFLITE and C, else real numbers",
)
_PACKING = Option(
    "packing", PACKINGS, "weights of 4 bits and fewer several to a byte, or one as older runtimes want it"
)
_WEIGHTS_FILE = Option(
    "weights_file", SWITCH, "weights in a file .bin beside the source, which GCC and Clang take in: compiles faster"
)
BACKENDS = {
    "torch": Entry("backends.torch.network", ("torch",), "torch", ".pt"),
    "keras": Entry("backends.keras.network", ("keras", "tensorflow"), "keras"),
    "mindspore": Entry("backends.mindspore.network", ("mindspore",), "mindspore", ".ckpt"),
}  #: our own; ``backend_names`` has those of other packages too
# What a target of our own states about its files stands here and not in its module, which reads it from here: exports'
# help, doctor and the search for a file's target need it of every format, and must not import onnx or LiteRT for that.
TARGETS = {
    "ONNX": Entry(
        "targets.onnx.target", ("onnx", "onnxruntime"), "onnx", ".onnx", (_WEIGHTS, _PACKING, _INPUT, _OUTPUT)
    ),
    "TFLITE": Entry(
        "targets.tflite.target", ("ai_edge_litert", "flatbuffers"), "tflite", ".tflite", (_PACKING, _INPUT, _OUTPUT)
    ),
    "ASCEND_ONNX": Entry("targets.ascend.onnx.target", ("onnx",), "onnx", ".ascend.onnx"),
    "MINDIR": Entry("targets.mindir.target", ("mindspore",), "mindspore", ".mindir"),
    "AIR": Entry("targets.ascend.air.target", (), "", ".air"),
    "C": Entry("targets.c.target", (), "", ".c", (_PACKING, _INPUT, _OUTPUT, _WEIGHTS_FILE)),
}  #: our own; ``target_names`` has those of other packages too
ADDED_BACKENDS = Group("qat.backends", "backend", tuple(BACKENDS))
ADDED_TARGETS = Group("qat.targets", "file format", tuple(TARGETS))


def missing_packages(entry: Entry) -> list[str]:
    """The packages that a backend or target imports and that are not installed; nothing is imported to find out."""
    return [package for package in entry.packages if importlib.util.find_spec(package) is None]


def installed(entry: Entry) -> bool:
    """True where every package that a backend or target imports is installed."""
    return not missing_packages(entry)


def backend_names() -> list[str]:
    """The names of all backends: our own, and those of other packages that are installed.

    Returns:
        As "torch".

    >>> import qat
    >>> qat.backend_names()[:3]
    ['torch', 'keras', 'mindspore']
    """
    return ADDED_BACKENDS.names()


def target_names() -> list[str]:
    """The names of all file formats: our own, and those of other packages that are installed.

    Returns:
        As "ONNX".

    >>> import qat
    >>> "ONNX" in qat.target_names()
    True
    """
    return ADDED_TARGETS.names()


def backend(name: str) -> TrainingBackend:
    """The training backend of that name.

    Args:
        name: One of ``qat.backend_names()``, in capitals or small letters.

    Returns:
        A module with the functions of ``qat.deploy.interfaces.TrainingBackend``.

    Raises:
        QatError: there is none of that name, or what it needs is not installed.

    >>> import qat
    >>> qat.backend("nothing")
    Traceback (most recent call last):
        ...
    qat.errors.QatError: backend 'nothing' is unknown: ...
    """
    return cast(TrainingBackend, _load(name, ADDED_BACKENDS, BACKENDS, TrainingBackend))


def training_backend(name: str | None = None) -> TrainingBackend:
    """The training backend of that name, or a default.

    Args:
        name: One of ``qat.backend_names()``; None: the first of our own that is installed.

    Returns:
        As ``backend``.

    Raises:
        QatError: As ``backend``; or none is installed.
    """
    name = name or next((key for key, entry in BACKENDS.items() if installed(entry)), None)
    if name is None:
        raise QatError(f"no backend is installed that could train: {how_to_install(next(iter(BACKENDS)))}")
    return backend(name)


def evaluation_ops(name: str | None = None, device_target: str | None = None) -> Ops:
    """The vocabulary in which a backend evaluates.

    Args:
        name: One of ``qat.backend_names()``; None: the first of our own that is installed.
        device_target: "CPU", "GPU" or "Ascend"; by default the best that there is.

    Returns:
        Its vocabulary; NumPy's where nothing is installed, or the backend, of another package, offers none.

    Raises:
        QatError: As ``backend``; or there is no such device.
    """
    if name is None:
        name = next((key for key, entry in BACKENDS.items() if installed(entry)), None)
    module = None if name is None else backend(name)
    return module.evaluation_ops(device_target) if isinstance(module, Evaluates) else NUMPY_OPS


def backend_of(model: Any) -> TrainingBackend:
    """The training backend that lowered a model.

    Raises:
        QatError: The model is none that a backend's ``lower`` returned.
    """
    for cls in type(model).__mro__:
        name = getattr(sys.modules.get(cls.__module__), "NAME", None)
        if isinstance(name, str) and hasattr(cls, "integers") and name in backend_names():
            return backend(name)
    inner = next((key for key in ("module", "_orig_mod") if hasattr(getattr(model, key, None), "integers")), None)
    advice = "call qat.prepare first, and give what it returned" if inner is None else f"give its .{inner}"
    raise QatError(f"a {type(model).__name__} is no prepared model, since it has no codes; {advice}")


def target(file_format: str) -> Target:
    """The deployment target that writes a file format.

    Args:
        file_format: One of ``qat.target_names()``, in capitals or small letters.

    Returns:
        A module with the functions of ``qat.deploy.interfaces.Target``.

    Raises:
        QatError: there is none of that name, or what it needs is not installed.

    >>> import qat
    >>> qat.target("C").NAME  # needs no runtime
    'C'
    """
    found = cast(Target, _load(file_format, ADDED_TARGETS, TARGETS, Target))
    if found.NAME not in TARGETS:
        _check_target(found)
    return found


def target_of(path: str | Path) -> Target:
    """The deployment target that a file belongs to, by its suffix; the longest that fits counts.

    Raises:
        QatError: no target has such files, or what it needs is not installed.
    """
    name = suffixed(path)
    if name is None:
        suffix = Path(path).suffix
        known = ", ".join(entry.suffix for entry in formats().values())
        raise QatError(
            f"{path}: {suffix or 'a file without an ending'!r} is no format that can be run; known are {known}: give "
            "what export wrote"
        )
    return target(name)


def suffixed(path: str | Path) -> str | None:
    """The name of the target whose suffix is the longest that the file's name has after something else."""
    name = Path(path).name.lower()
    fits = {
        key: entry.suffix for key, entry in formats().items() if name.endswith(entry.suffix) and name != entry.suffix
    }
    return max(fits, key=lambda key: len(fits[key]), default=None)


def formats() -> dict[str, Entry]:
    """What is known of all file formats by name: of our own from the table, so that none is imported, of others from their
    modules, those left out that cannot be used.
    """
    found = dict(TARGETS)
    for name in target_names()[len(TARGETS) :]:
        with contextlib.suppress(QatError):  # it is one for whoever asks for that format, by name
            found[name] = added_entry(name, target(name), ADDED_TARGETS)
    return found


def added_entry(name: str, module: Any, group: Group) -> Entry:
    """What the table would say of a backend or target that another package adds."""
    names = getattr(module, "SUFFIX", ""), getattr(module, "OPTIONS", ())
    return Entry(group.version(name), getattr(module, "PACKAGES", ()), "", *names)


def _load(name: str, group: Group, own: dict[str, Entry], protocol: type) -> Any:
    known = group.meant(name)
    if known is None:
        raise QatError(hints.unknown(group.what, name, group.names()))
    if known not in own:
        module = group.load(known)
        wanted = [
            *protocol.__annotations__,
            *(key for key, value in vars(protocol).items() if inspect.isfunction(value)),
        ]
        missing = [key for key in wanted if not key.startswith("_") and not hasattr(module, key)]
        if missing:
            raise QatError(
                f"{group.what} {known!r} of {group.version(known)} has no {', '.join(missing)}, which "
                f"qat.deploy.interfaces.{protocol.__name__} asks for; add them to it, or use a release that has them"
            )
        if known != module.NAME:
            raise QatError(
                f"{group.what} {known!r} of {group.version(known)} calls itself {shortened(module.NAME)}, but files record "
                "that name; give its entry point and its NAME the same one"
            )
        return module
    entry = own[known]
    missing = missing_packages(entry)
    if missing:
        raise QatError(
            f"{group.what} {known!r} needs the package {missing[0]!r}, which is not installed: {how_to_install(entry.extra)}"
        )
    return importlib.import_module(f"qat.{entry.module}")


def _check_target(module: Target) -> None:
    """Raise QatError where what a target of another package declares would be of harm to others: every command that exports
    reads it.
    """
    where = f"file format {module.NAME!r} of {ADDED_TARGETS.version(module.NAME)}"
    taken = [name for name, entry in TARGETS.items() if entry.suffix == module.SUFFIX]
    if taken or not (isinstance(module.SUFFIX, str) and re.fullmatch(r"(\.[a-z0-9_-]+)+", module.SUFFIX)):
        found = f"is that of {taken[0]}" if taken else "is no ending of a file"
        raise QatError(f"{where}: its SUFFIX {shortened(module.SUFFIX)} {found}; choose another, as '.net' or '.x.net'")
    if not isinstance(module.OPTIONS, tuple) or not all(isinstance(option, Option) for option in module.OPTIONS):
        raise QatError(
            f"{where}: its OPTIONS are {shortened(module.OPTIONS)}; give a tuple of qat.deploy.interfaces.Option"
        )
    own = module.ARITHMETICS
    if not own or not isinstance(own, tuple) or not all(name in ARITHMETICS for name in own):
        raise QatError(f"{where}: its ARITHMETICS are {shortened(own)}; give a tuple of {' or '.join(ARITHMETICS)}")
