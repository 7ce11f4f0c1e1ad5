"""Import a network of another framework, or of a file, with its parameters."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from qat.cells import Normalize
from qat.errors import QatError, shortened
from qat.extras import how_to_install
from qat.imports.compare import TOLERANCE
from qat.imports.entry import Inputs, entered
from qat.imports.fuse import fuse
from qat.imports.imported import Imported
from qat.imports.program import Program
from qat.imports.source import Opened
from qat.registry import Entry, missing_packages
from qat.vocabulary.arrays import Arrays


class Source(NamedTuple):
    """A kind of source, before its front end is imported.

    Attributes:
        entry: Its front end, and what that imports. It has ``open_file(path, input_shape, name)`` where there are suffixes,
            and ``open_model(model, example, input_shape, name)`` where there is a framework.
        suffixes: Of its files.
        framework: The package whose classes its models are of, and the name of the backend.
        params: What reads and writes the parameters of these models.
        by_example: Its models are read by running them on an example.
        setup: What imports the framework as the backend does, with what it needs to find set; imported before the front end.
    """

    entry: Entry
    suffixes: tuple[str, ...] = ()
    framework: str = ""
    params: str = ""
    by_example: bool = False
    setup: str = ""


SOURCES: Mapping[str, Source] = {
    "PyTorch": Source(
        Entry("imports.sources.torch_export", ("torch",), "torch"),
        (".pt2",),
        "torch",
        "imports.sources.torch_params",
        True,
    ),
    "Keras": Source(
        Entry("imports.sources.keras_model", ("tensorflow", "keras"), "keras"),
        (".keras", ".h5"),
        "keras",
        "imports.sources.keras_params",
        False,
        "backends.keras.setup",
    ),
    "MindSpore": Source(
        Entry("imports.sources.mindspore_cell", ("mindspore", "onnx", "onnxruntime"), "mindspore,onnx"),
        (),
        "mindspore",
        "imports.sources.mindspore_params",
        True,
        "backends.mindspore.setup",
    ),
    "ONNX": Source(Entry("imports.sources.onnx_file", ("onnx", "onnxruntime"), "onnx"), (".onnx",)),
    "TFLite": Source(Entry("imports.sources.tflite_file", ("ai_edge_litert", "flatbuffers"), "tflite"), (".tflite",)),
}

#: Endings of files that hold parameters without their network.
OF_PARAMETERS = (".pt", ".pth", ".safetensors", ".ckpt", ".bin", ".npz")
#: Endings of files that can be imported.
SUFFIXES = tuple(suffix for each in SOURCES.values() for suffix in each.suffixes)


def import_model(
    source: Any,
    example: Any = None,
    *,
    inputs: Inputs = None,
    input_shape: Sequence[int] | None = None,
    outputs: Sequence[str] | None = None,
    images: Arrays | None = None,
    tolerance: float = TOLERANCE,
    name: str | None = None,
) -> Imported:
    """Import a float network of another framework: a graph of our cells, and its parameters.

    Convolutions and dense layers are joined with their biases, batch normalisations and activations to cells, names are those
    of the source, channels come first. The source and the graph are then run on the same samples, and have to agree.

    Args:
        source: A ``torch.nn.Module`` in evaluation mode, a ``keras.Model``, a ``mindspore.nn.Cell`` that MindSpore can write as
            ONNX, or a file: .pt2 (``torch.export.save``), .keras, .h5, .onnx or .tflite. Or what ``open_source`` gave.
        example: What a torch module or a MindSpore cell takes, a tensor or array, or a tuple of them; of any batch size.
        inputs: What its inputs will take, a ``qat.Input`` each: its ``real_numbers`` are what the source takes, as
            ``qat.Input((3, 224, 224), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))`` for one that takes normalised
            pixels. By default real numbers, float32; where the network begins with a normalisation of raw pixels, these.
        input_shape: (C, H, W) or (F,) of one sample, where the source leaves it open.
        outputs: Names of its operations to end at, as "layer4"; by default its own outputs. What comes after them is not
            imported.
        images: What the graph takes, (N, ...), a tuple of arrays for several inputs: samples to compare on. By default 4 random
            ones.
        tolerance: The largest relative difference between the outputs of source and graph.
        name: Of the network; by default that of its class or file.

    Returns:
        The graph, its parameters, and the difference that was found.

    Raises:
        QatError: The source has operations that no cell computes (all are named), cannot be read, or the graph computes other
            numbers than the source.

    >>> import qat
    >>> qat.import_model("net.txt")
    Traceback (most recent call last):
        ...
    qat.errors.QatError: net.txt: is no network that can be imported; give a file .pt2, .keras, .h5, .onnx or .tflite, ...
    """
    opened = source if isinstance(source, Opened) else open_source(source, example, input_shape, name)
    opened = opened if outputs is None else opened.cut(outputs)
    entry = entered(opened.program, inputs)
    imported = fuse(entry.program, entry.cells)
    imported.notes[:0] = [*opened.notes, *entry.notes, *_trained_otherwise(imported, entry.program)]
    imported.opened, imported.entries = opened, entry.taken
    imported.compare(images, tolerance=tolerance)
    return imported


def _trained_otherwise(imported: Imported, program: Program) -> list[str]:
    """What training changes here and not in the source, or the other way round, a line each."""
    own = {"gamma": 1.0, "beta": 0.0}
    made = [
        name
        for name, array in imported.params.items()
        if name.rpartition(".")[2] in own
        and name not in imported.sources
        and (array == own[name.rpartition(".")[2]]).all()
    ]
    layers = {node.name for node in imported.graph.nodes if isinstance(node.cell, Normalize)}
    fixed = [
        source
        for each in program.operations
        if each.name in layers and (source := each.sources.get("other")) is not None
    ]
    notes = []
    if made:
        notes.append(
            f"{_some(made)}: the source's batch normalisations have none, here they are trained from "
            "1 and 0; export_params refuses them once they are"
        )
    if fixed:
        notes.append(
            f"{_some(fixed)}: a factor or shift that no layer before takes is a constant here: it is not trained"
        )
    return notes


def _some(names: Sequence[str]) -> str:
    """The first few names."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def open_source(
    source: Any, example: Any = None, input_shape: Sequence[int] | None = None, name: str | None = None
) -> Opened:
    """Read a source, without making cells of it: what it takes stands in ``program.inputs``.

    Args:
        source: As ``import_model`` takes it; likewise what follows.
        example: What a torch module takes.
        input_shape: Of one sample.
        name: Of the network.

    Returns:
        Its operations.

    Raises:
        QatError: It cannot be read.
    """
    shape = None if input_shape is None else tuple(int(size) for size in input_shape)
    front_end = _front_end(source_of(source))
    if isinstance(source, (str, Path)):
        opened: Opened = front_end.open_file(source, shape, name or _name_of(source))
        return opened
    captured: Opened = front_end.open_model(source, example, shape, name)
    return captured


def source_of(source: Any) -> Source:
    """The kind of a source.

    Args:
        source: A model of a framework, or a path.

    Returns:
        Its row of ``SOURCES``.

    Raises:
        QatError: There is none.
    """
    if isinstance(source, (str, Path)):
        ends = str(source).lower()
        found = [each for each in SOURCES.values() if any(ends.endswith(suffix) for suffix in each.suffixes)]
    else:
        packages = {each.__module__.partition(".")[0] for each in type(source).__mro__}
        found = [each for each in SOURCES.values() if each.framework in packages]
    if found:
        return found[0]
    what = str(source) if isinstance(source, (str, Path)) else shortened(source)
    *suffixes, last = SUFFIXES
    if what.lower().endswith(OF_PARAMETERS) or isinstance(source, Mapping):
        raise QatError(
            f"{what}: holds parameters, which are no network; give the network with them loaded (on the command "
            "line a function that returns it, package.module:function), or use import-params for a network written here"
        )
    raise QatError(
        f"{what}: is no network that can be imported; give a file {', '.join(suffixes)} or {last}, a torch.nn.Module, a "
        "keras.Model or a mindspore.nn.Cell"
    )


def holder_of(module: Any) -> Any:
    """What reads and writes the parameters of a framework's models by the names of the source.

    Args:
        module: Anything.

    Returns:
        A module as ``qat.imports.sources.torch_params``; None for what is no model of a framework.
    """
    try:
        source = None if isinstance(module, (str, Path)) else source_of(module)
    except QatError:
        return None
    return None if source is None else importlib.import_module(f"qat.{source.params}")


def _name_of(path: str | Path) -> str:
    """A network's name from that of its file."""
    stem = Path(path).stem
    return "".join(c if c.isalnum() or c in "_-" else "_" for c in stem).lstrip("+-") or "network"


def _front_end(source: Source) -> Any:
    missing = missing_packages(source.entry)
    if missing:
        raise QatError(
            f"importing such a network needs the package {missing[0]!r}, which is not installed: "
            f"{how_to_install(source.entry.extra)}"
        )
    if source.setup:
        importlib.import_module(f"qat.{source.setup}")
    return importlib.import_module(f"qat.{source.entry.module}")
