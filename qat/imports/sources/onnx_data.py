"""Reads an ONNX model with the data that it keeps in other files, which must be beside it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO, Any

import numpy as np
import onnx
from onnx import helper

from qat.errors import QatError, shortened
from qat.files import LARGEST
from qat.imports.sources.steps import Shape
from qat.reading import messages, open_regular, read_file, reading
from qat.vocabulary.ops import Array

ADVICE = "export it again"
WHOLE = "put it beside the model, or save the model as one file (onnx.save)"

#: The first opset of which ONNX's reference computes an operation, which older ones define alike.
EVALUATED = {"DequantizeLinear": 19}
#: What an input may hold, and as what the network takes it.
TAKEN = {"float32": "float32", "float16": "float32", "float64": "float32", "uint8": "uint8", "int8": "int8"}
#: Through these an input that has channels last goes before it is transposed.
EACH = frozenset({"Add", "Cast", "Clip", "Div", "Identity", "Mul", "Neg", "Relu", "Sub"})
#: What is computed at once where all that it takes are constants: none can loop, read files or make numbers of nothing.
FOLDED = frozenset(
    {
        "Abs",
        "Add",
        "And",
        "Cast",
        "Ceil",
        "Concat",
        "ConstantOfShape",
        "DequantizeLinear",
        "Div",
        "Equal",
        "Exp",
        "Expand",
    }
    | {
        "Flatten",
        "Floor",
        "Gather",
        "Greater",
        "GreaterOrEqual",
        "Identity",
        "Less",
        "LessOrEqual",
        "Log",
        "MatMul",
        "Max",
    }
    | {"Min", "Mod", "Mul", "Neg", "Not", "Or", "Pow", "Range", "Reciprocal", "ReduceMax", "ReduceMean", "ReduceMin"}
    | {
        "ReduceProd",
        "ReduceSum",
        "Reshape",
        "Round",
        "ScatterND",
        "Sigmoid",
        "Slice",
        "Split",
        "Sqrt",
        "Squeeze",
        "Sub",
    }
    | {"Sum", "Tile", "Transpose", "Unsqueeze", "Where"}
)
#: What quantized files are made of.
QUANTIZED = frozenset(
    {"ConvInteger", "DequantizeLinear", "DynamicQuantizeLinear", "MatMulInteger", "QLinearConv", "QLinearMatMul"}
    | {"QuantizeLinear"}
)
CONTROL = frozenset({"If", "Loop", "Scan", "SequenceMap"})


def load_model(path: str | Path) -> Any:
    """The model of a file, whose tensors all have their data.

    Raises:
        QatError: it is none, is too large, or keeps data where they are not read: outside its own folder.
    """
    content = read_file(path, "give an .onnx file")
    with reading(path, "an ONNX file", ADVICE):
        model = onnx.load_model_from_string(content)
        if not model.HasField("graph") or not model.graph.node:
            raise ValueError("it has no graph")
        if model.graph.sparse_initializer:
            raise ValueError("it has sparse constants")
        files = _Files(path, len(content))
        for tensor in messages(model, onnx.TensorProto):
            if tensor.data_location != onnx.TensorProto.DEFAULT or tensor.external_data:
                files.load(tensor)
            elif tensor.segment.ByteSize():
                raise ValueError(f"its tensor {shortened(tensor.name)} is in segments")
    return model


class _Files:
    """The files that a model keeps data in."""

    def __init__(self, path: str | Path, size: int) -> None:
        self.path, self.size = path, size
        self.folder = Path(path).parent

    def load(self, tensor: Any) -> None:
        """Put the data of a tensor into it."""
        entries = {entry.key: entry.value for entry in tensor.external_data}
        location = entries.get("location", "")
        file = self._place(tensor.name, location)
        wanted = math.prod(tensor.dims) * helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
        offset, length = int(entries.get("offset", 0)), int(entries.get("length", wanted))
        if min(offset, length, *tensor.dims) < 0 or length != wanted:
            raise ValueError(
                f"its tensor {shortened(tensor.name)} has {wanted} bytes, but {length} in {shortened(location)}"
            )
        self.size += length
        if self.size > LARGEST:
            raise ValueError(f"it has more than {LARGEST:,} bytes with its data")
        with open_regular(file, WHOLE) as opened:
            tensor.raw_data = _piece(opened, offset, length, file)
        tensor.ClearField("external_data")
        tensor.data_location = onnx.TensorProto.DEFAULT

    def _place(self, name: str, location: str) -> Path:
        """Where the data are: a file in the model's folder or below."""
        parts = PurePosixPath(location).parts
        outside = not location or "\0" in location or ".." in (*parts, *PureWindowsPath(location).parts)
        outside = outside or PurePosixPath(location).is_absolute() or bool(PureWindowsPath(location).drive)
        file = self.folder / location
        if outside or not file.resolve().is_relative_to(self.folder.resolve()):
            raise QatError(
                f"{self.path}: the data of its tensor {shortened(name)} are in {shortened(location)}, outside the model's "
                f"folder, and only what is beside a model is read; {WHOLE}"
            )
        if not file.exists():
            raise QatError(f"{self.path}: its data are in {shortened(location)}, which is missing; {WHOLE}")
        return file


def _piece(file: IO[bytes], offset: int, length: int, path: Path) -> bytes:
    file.seek(offset)
    found = file.read(length)
    if len(found) != length:
        raise QatError(f"{path}: ends before the data that the model says are there; {WHOLE}")
    return found


def attributes_of(node: Any) -> dict[str, Any]:
    """The attributes of a node by name."""
    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}


def sizes_of(kind: Any) -> tuple[int | None, ...] | None:
    """The sizes of a tensor's type, None for each that is open; None where it has no shape."""
    if not kind.HasField("shape"):
        return None
    return tuple(
        size.dim_value if size.HasField("dim_value") and size.dim_value >= 0 else None for size in kind.shape.dim
    )


def is_own(node: Any) -> bool:
    """Whether an operation is one of ONNX itself."""
    return node.domain in ("", "ai.onnx")


def measured(kind: str, shape: Shape, options: Mapping[str, Any]) -> Array:
    """What Shape and Size give."""
    if kind == "Size":
        return np.asarray(math.prod(shape), np.int64)
    return np.asarray(shape[int(options.get("start", 0)) : options.get("end")], np.int64)
