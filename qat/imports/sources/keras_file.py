"""A .keras or .h5 file as a Keras model, without anything of the file being executed or allocated unseen.

What a file declares is checked before Keras builds it: classes are Keras's own and bring no code, HDF5 links stay in the file,
and no layer is larger than the weights that the file holds.
"""

from __future__ import annotations

import io
import json
import math
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import h5py
import keras
from keras.src.backend.common import global_state

from qat.errors import QatError
from qat.graph.graph import MOST_PARAMETERS
from qat.reading import LARGEST_JSON, check_zip, most_unpacked, open_regular, reading, without_warnings

ADVICE = "save it again with model.save, as .keras or .h5"
CONFIG, WEIGHTS = "config.json", "model.weights.h5"  #: entries of a .keras archive
MOST_OBJECTS, DEEPEST = 100_000, 64  #: groups and datasets of an HDF5 file, and levels of groups and of JSON
#: Classes that run code which the file brings or names.
EXECUTING = ("Lambda", "__lambda__", "TFSMLayer", "TorchModuleWrapper", "JaxLayer", "FlaxLayer")
#: Where Keras writes that its own classes are.
OWN = ("keras", "builtins", "numpy")
MODELS = ("Functional", "Model", "Sequential")


class _DepthwiseConv2D(keras.layers.DepthwiseConv2D):  # type: ignore[misc]
    """As Keras 2 saved it, with a field that Keras 3 does not take."""

    def __init__(self, *args: Any, groups: int = 1, **options: Any) -> None:
        del groups
        super().__init__(*args, **options)


def load(path: str | Path) -> Any:
    """The model in a file.

    Args:
        path: of a .keras file, or of an .h5 file that holds a whole model.

    Returns:
        A Keras model that is not compiled.

    Raises:
        QatError: the file cannot be read, or holds classes that are not Keras's own or bring code.
    """
    suffix = Path(path).suffix.lower()
    with open_regular(path, ADVICE) as file:
        if suffix == ".keras":
            check_zip(path, file, ADVICE)
            with reading(path, "a .keras file", ADVICE):
                config, version = _of_archive(file)
        elif suffix in (".h5", ".hdf5"):
            with reading(path, "a Keras .h5 file", ADVICE):
                config, version = _of_hdf5(file)
        else:
            raise QatError(f"{path}: is neither a .keras nor an .h5 file; {ADVICE}")
    with reading(path, "a Keras model", ADVICE):
        _check_classes(config)
        _check_version(config, version)
        _check_sizes(path)
        return _loaded(path)


def _loaded(path: str | Path) -> Any:
    with without_warnings():
        return keras.models.load_model(
            path, compile=False, safe_mode=True, custom_objects={"DepthwiseConv2D": _DepthwiseConv2D}
        )


def _check_sizes(path: str | Path) -> None:
    """Raise QatError where the layers declare more parameters than any network has: before Keras allocates them.

    In a stateless scope variables have shapes but no memory, and loading compares these with the arrays of the file.
    """
    waiting = global_state.get_global_attribute("uninitialized_variables")
    global_state.set_global_attribute("uninitialized_variables", [])
    try:
        with keras.StatelessScope(initialize_variables=False):
            parameters = sum(math.prod(each.shape) for each in _loaded(path).variables)
    finally:
        global_state.set_global_attribute("uninitialized_variables", waiting or [])
    if parameters > MOST_PARAMETERS:
        raise QatError(f"has {parameters:,} parameters, but {MOST_PARAMETERS:,} are the most; use fewer channels")


def _of_archive(file: IO[bytes]) -> tuple[Any, str]:
    """The configuration in a .keras archive, and the version of Keras that wrote it."""
    with zipfile.ZipFile(file) as archive:
        for name in (CONFIG, WEIGHTS):
            if name not in archive.namelist():
                raise QatError(f"its archive holds no {name}, so that it is no whole model")
        if archive.getinfo(CONFIG).file_size > LARGEST_JSON:
            raise QatError(f"its {CONFIG} has more than {LARGEST_JSON:,} bytes")
        config = json.loads(archive.read(CONFIG))
        weights = archive.read(WEIGHTS)
    with h5py.File(io.BytesIO(weights), "r") as group:
        _check_links(group, len(weights))
    return config, "3"


def _of_hdf5(file: IO[bytes]) -> tuple[Any, str]:
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    with h5py.File(file, "r") as group:
        _check_links(group, size)
        config, version = group.attrs.get("model_config"), group.attrs.get("keras_version", "")
        if config is None:
            raise QatError(
                "it holds weights alone, without the network; load them into its model in Keras, and give that"
            )
        version = version.decode() if isinstance(version, bytes) else str(version)
        return json.loads(config), version


def _check_links(root: Any, size: int) -> None:
    """Raise QatError where something in an HDF5 file is not in this file, or declares more than it holds."""
    seen: set[Any] = set()
    waiting, declared = [(root, 0)], 0
    while waiting:
        group, depth = waiting.pop()
        if depth > DEEPEST or len(seen) > MOST_OBJECTS:
            raise QatError("its groups are nested too deeply, or too many")
        for name in group:
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                raise QatError(f"its entry {name!r} is a link to another place, which Keras never writes")
            found = group[name]
            address = h5py.h5o.get_info(found.id).addr
            if address in seen:
                continue
            seen.add(address)
            if isinstance(found, h5py.Group):
                waiting.append((found, depth + 1))
            elif isinstance(found, h5py.Dataset):
                if found.external or found.is_virtual or found.dtype.hasobject:
                    raise QatError(f"its array {name!r} is kept in another file, or holds no numbers")
                declared += math.prod(found.shape or (0,)) * found.dtype.itemsize
    if declared > most_unpacked(size):
        raise QatError(f"its arrays declare {declared:,} bytes, but the file holds {size:,}")


def _objects(config: Any, depth: int = 0) -> Iterator[dict[str, Any]]:
    """Every object that a configuration names, each after what holds it; not what is for training alone."""
    if depth > 4 * DEEPEST:
        raise QatError("its configuration is nested too deeply")
    if isinstance(config, dict):
        if "class_name" in config:
            yield config
        for key, value in config.items():
            if key != "compile_config":
                yield from _objects(value, depth + 1)
    elif isinstance(config, list):
        for value in config:
            yield from _objects(value, depth + 1)


def _check_classes(config: Any) -> None:
    """Raise QatError, naming all layers that bring code, or are of classes that are not Keras's."""
    if not isinstance(config, dict) or "class_name" not in config:
        raise QatError("its configuration names no model")
    executing, foreign = [], []
    name = ""
    for each in _objects(config):
        kind = str(each["class_name"])
        inner = each.get("config")
        name = (isinstance(inner, dict) and inner.get("name")) or name
        if kind in EXECUTING:
            executing.append(f"{name} ({kind})")
        elif not _is_own(each, kind):
            function = inner.get("function") if isinstance(inner, dict) else None
            foreign.append(f"{name} ({kind}{f' of {function}' if isinstance(function, str) else ''})")
    if executing:
        raise QatError(
            f"its layers {_listed(executing)} bring code of their own, and nothing in a file is executed; write them with "
            "Keras's own layers or keras.ops, and save again, or load it yourself if you trust it, and give the model"
        )
    if foreign:
        raise QatError(
            f"its layers {_listed(foreign)} are of classes that are not Keras's own, and whose code a file does not hold; load "
            "it in Python with custom_objects and give the model, or write them with Keras's own layers (an .h5 file has no "
            "place for operations of keras.ops: save a model with them as .keras)"
        )


def _is_own(each: dict[str, Any], kind: str) -> bool:
    """Whether a class is Keras's: by its module, or, as Keras 2 has none, by its name among the layers."""
    registered = each.get("registered_name")
    if isinstance(registered, str) and ">" in registered:
        return False
    module = each.get("module")
    if module is not None:
        return str(module).partition(".")[0] in OWN
    layer = isinstance(each.get("config"), dict) and ("inbound_nodes" in each or "trainable" in each["config"])
    return not layer or kind in MODELS or hasattr(keras.layers, kind)


def _check_version(config: Any, version: str) -> None:
    """Raise QatError where Keras 3 computes something else of the same name than the Keras that wrote the file."""
    if version[:2] not in ("1.", "2."):
        return
    found = [
        str(each["config"].get("name"))
        for each in _objects(config)
        if isinstance(each.get("config"), dict)
        and "hard_sigmoid" in (each["config"].get("activation"), each["config"].get("recurrent_activation"))
    ]
    if found:
        raise QatError(
            f"its layers {_listed(found)} have Keras 2's hard_sigmoid, clip(0.2 x + 0.5), and Keras 3's is clip(x / 6 + 0.5), "
            "so that the network would compute something else; train it again with Keras 3, or write the function out"
        )


def _listed(names: list[str]) -> str:
    unique = list(dict.fromkeys(names))
    return ", ".join(unique[:5]) + (f" and {len(unique) - 5} more" if len(unique) > 5 else "")
