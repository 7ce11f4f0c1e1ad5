"""What an ONNX file takes and gives: an entry of its metadata where that is not what the network takes and gives.

A file without it takes what its network takes and gives real numbers: its inputs say all.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import onnx
from onnx import helper

from qat.integer.ends import METADATA, REAL, Ends, FileInput, FileOutput
from qat.reading import reading
from qat.targets.common import prefixed
from qat.targets.onnx.file import set_metadata
from qat.vocabulary.arrays import ArraySpec

(ENTRY,) = prefixed({METADATA: ""})  #: its key in a file


def specs_of(ends: Iterable[FileInput | FileOutput]) -> list[ArraySpec]:
    """Shape and dtype of what a file takes, or gives."""
    return [ArraySpec(end.shape, end.stored) for end in ends]


def keep_ends(model: onnx.ModelProto, ends: Ends) -> None:
    """Set the entry, where the file is not as its network."""
    if specs_of(ends.inputs) != ends.specs or any(end.stored != REAL for end in ends.outputs):
        set_metadata(model, {METADATA: ends.to_json()})


def ends_in(path: str | Path, model: onnx.ModelProto) -> Ends:
    """What the file takes and gives. Raises QatError where that is not what its metadata say, or what no export writes."""
    with reading(path, "an ONNX file of qat export", "export it again"):
        found = [_declared(values) for values in (model.graph.input, model.graph.output)]
        entry = {entry.key: entry.value for entry in model.metadata_props}.get(ENTRY)
        if entry is None:
            ends = Ends(
                tuple(FileInput.as_it_is(*x) for x in found[0]), tuple(FileOutput.real(y.shape) for y in found[1])
            )
        else:
            ends = Ends.from_json(entry)
        for specs, wanted in zip(found, (specs_of(ends.inputs), specs_of(ends.outputs)), strict=True):
            if specs != wanted:
                expected, has = (", ".join(map(str, each)) for each in (wanted, specs))
                raise ValueError(f"it should have {expected} where it has {has}")
    return ends


def _declared(values: Iterable[onnx.ValueInfoProto]) -> list[ArraySpec]:
    """Shape, of one sample, and dtype of a model's inputs or outputs."""
    types = [x.type.tensor_type for x in values]
    dtypes = [helper.tensor_dtype_to_np_dtype(own.elem_type).name for own in types]
    shapes = [tuple(size.dim_value for size in own.shape.dim[1:]) for own in types]
    return [ArraySpec(*pair) for pair in zip(shapes, dtypes, strict=True)]
