"""TensorFlow Lite Metadata of a file: what Google's tools, Android Studio and viewers show of its inputs and outputs.

The layout is that of metadata_schema.fbs of TensorFlow Lite Support, version 1.0.0: tables of a flatbuffer of its own, whose
fields have the numbers that stand here, in a buffer of the model. Names of classes are a text file in a zip archive behind the
model, which the archive's comment seals (``qat.targets.tflite.file.pack_model``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flatbuffers

from qat.deploy.recipe import formula_of, in_words
from qat.integer.ends import REAL, Ends, FileInput
from qat.targets.tflite.file import LABELS, OFFICIAL, names_in, set_metadata

IDENTIFIER = b"M001"
VERSION = "1.0.0"  #: of the parser that is needed
NORMALIZATION, IMAGE = 1, 2  #: members of the schema's unions of options and contents
AXIS_LABELS = 2  #: the kind of a file of names
COLOUR_SPACES = {"RGB": 1, "grayscale": 2}
MATRIX = 2  #: axes of an output of classes


def describe(model: Any, recipe: Mapping[str, Any], ends: Ends) -> None:
    """Set a model's TensorFlow Lite Metadata.

    Args:
        model: of the schema's class; its entries of metadata are set already.
        recipe: as ``qat.deploy.recipe.recipe_of`` gives it.
        ends: of the file.
    """
    name = model.subgraphs[0].name
    name = name.decode() if isinstance(name, bytes) else name
    set_metadata(model, OFFICIAL, metadata_of(name, recipe, ends, bool(names_in(model))))


def metadata_of(name: str, recipe: Mapping[str, Any], ends: Ends, named: bool) -> bytes:
    """The flatbuffer.

    Args:
        name: of the network.
        recipe: of the file.
        ends: of the file.
        named: whether the file has names of classes, which are those of the last axis of an only output.
    """
    b = flatbuffers.Builder(1024)
    picture = recipe.get("picture")
    inputs = [_input(b, x, end, picture) for x, end in zip(recipe["inputs"], ends.inputs, strict=True)]
    outputs = [_output(b, x, named and len(recipe["outputs"]) == 1) for x in recipe["outputs"]]
    graph = _table(b, 4, {0: _text(b, name), 2: _offsets(b, inputs), 3: _offsets(b, outputs)})
    description, version = _text(b, "\n".join(in_words(recipe))), _text(b, VERSION)
    model = _table(b, 8, {0: _text(b, name), 1: description, 3: _offsets(b, [graph]), 7: version})
    b.Finish(model, file_identifier=IDENTIFIER)
    return bytes(b.Output())


def _input(b: flatbuffers.Builder, entry: Mapping[str, Any], end: FileInput, picture: Mapping[str, Any] | None) -> int:
    fields = {0: _text(b, entry["name"]), 1: _text(b, formula_of(entry))}
    if picture:
        size = _table(b, 2, {}, {0: ("Uint32", picture["width"]), 1: ("Uint32", picture["height"])})
        properties = _table(b, 2, {1: size}, {0: ("Int8", COLOUR_SPACES[picture["channels"]])})
        fields[3] = _table(b, 3, {1: properties}, {0: ("Uint8", IMAGE)})
        if end.low < end.high and end.multiplier is None:
            # (pixel - mean) / std is the real number, which the input's scale and zero point quantize.
            mean, std = _floats(b, [float(end.offset)]), _floats(b, [1.0 / end.scale])
            options = _table(b, 2, {0: mean, 1: std})
            fields[4] = _offsets(b, [_table(b, 2, {1: options}, {0: ("Uint8", NORMALIZATION)})])
        if end.stored != REAL:
            least, most = (0.0, 255.0) if end.stored == "uint8" else (-128.0, 127.0)
            fields[5] = _table(b, 2, {0: _floats(b, [most]), 1: _floats(b, [least])})
    return _table(b, 7, fields)


def _output(b: flatbuffers.Builder, entry: Mapping[str, Any], named: bool) -> int:
    fields = {0: _text(b, entry["name"]), 1: _text(b, formula_of(entry))}
    if named and len(entry["shape"]) == MATRIX:
        file = _table(b, 5, {0: _text(b, LABELS), 1: _text(b, "names of the classes")}, {2: ("Int8", AXIS_LABELS)})
        fields[6] = _offsets(b, [file])
    return _table(b, 7, fields)


def _table(
    b: flatbuffers.Builder, count: int, offsets: Mapping[int, int], numbers: Mapping[int, tuple[str, int]] | None = None
) -> int:
    """A table of so many fields: offsets and numbers, with their types, by the number of the field."""
    b.StartObject(count)
    for field, offset in offsets.items():
        b.PrependUOffsetTRelativeSlot(field, offset, 0)
    for field, (kind, number) in (numbers or {}).items():
        getattr(b, f"Prepend{kind}Slot")(field, number, 0)
    place: int = b.EndObject()
    return place


def _text(b: flatbuffers.Builder, text: str) -> int:
    place: int = b.CreateString(text)
    return place


def _vector(b: flatbuffers.Builder, size: int, values: Sequence[Any], prepend: Callable[[Any], None]) -> int:
    b.StartVector(size, len(values), size)
    for value in reversed(values):
        prepend(value)
    place: int = b.EndVector()
    return place


def _offsets(b: flatbuffers.Builder, places: Sequence[int]) -> int:
    return _vector(b, 4, places, b.PrependUOffsetTRelative)


def _floats(b: flatbuffers.Builder, numbers: Sequence[float]) -> int:
    return _vector(b, 4, numbers, b.PrependFloat32)
