"""A .tflite file: a flatbuffer that is sealed with a digest, with metadata."""

from __future__ import annotations

import hashlib
import io
import math
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import flatbuffers
from ai_edge_litert import schema_py_generated as schema

from qat.errors import QatError
from qat.names import check_stored
from qat.reading import check_sample, check_tables, read_file, reading
from qat.targets.common import METADATA
from qat.training.checkpoint import names_of_classes
from qat.vocabulary.ops import Array

DIGEST = METADATA + "digest"  #: the SHA-256 of all of the file before it, its last 32 bytes
NAMES = METADATA + "class_names"
IDENTIFIER = b"TFL3"
OFFICIAL = "TFLITE_METADATA"  #: the entry that holds TensorFlow Lite Metadata
LABELS = "labels.txt"  #: the file in the archive behind the model that has the names of classes, one a line
LONG_AGO = (1980, 1, 1, 0, 0, 0)  #: when that file was written, so that equal models are equal files

Op = schema.BuiltinOperator
Type = schema.TensorType

#: What the target writes. Others could ask for any memory or time.
#: Each with its version that files name: the first that takes int8, where it computes codes.
OPERATORS = {
    Op.ABS: 1,
    Op.ADD: 2,
    Op.BATCH_MATMUL: 2,
    Op.CAST: 1,
    Op.CONCATENATION: 2,
    Op.CONV_2D: 3,
    Op.DEPTHWISE_CONV_2D: 3,
    Op.DEQUANTIZE: 3,
    Op.DIV: 1,
    Op.EXP: 1,
    Op.FULLY_CONNECTED: 4,
    Op.GATHER: 2,
    Op.LOG: 1,
    Op.LOGISTIC: 1,
    Op.MAXIMUM: 2,
    Op.MAX_POOL_2D: 2,
    Op.MINIMUM: 2,
    Op.MUL: 3,
    Op.PAD: 2,
    Op.PADV2: 2,
    Op.QUANTIZE: 2,
    Op.REDUCE_MAX: 1,
    Op.RELU: 1,
    Op.RESHAPE: 1,
    Op.SOFTMAX: 1,
    Op.SQRT: 1,
    Op.STRIDED_SLICE: 2,
    Op.SUB: 2,
    Op.SUM: 1,
    Op.TANH: 1,
    Op.TRANSPOSE: 2,
    Op.TRANSPOSE_CONV: 3,
}
#: Types of inputs and outputs.
ENDS = (Type.UINT8, Type.INT8, Type.INT16, Type.UINT16, Type.FLOAT32)
CODED = (Type.INT8, Type.INT16)  #: of these, those that always have a scale


class File(NamedTuple):
    """A file that was checked.

    Args:
        content: its bytes.
        model: the model, as the schema unpacks it.
    """

    content: bytes
    model: Any


def load(path: str | Path) -> File:
    """A file whose content is what was written; LiteRT may crash on any other."""
    content = read_file(path, "give an exported .tflite file")
    if content[4:8] != IDENTIFIER:
        raise QatError(
            f"{path}: is no .tflite file: bytes 4 to 7 are {content[4:8]!r}, not {IDENTIFIER!r}; export it again"
        )
    if hashlib.sha256(content[:-32]).digest() != content[-32:]:
        raise QatError(
            f"{path}: its content is not what its digest says: it is damaged, or was not written by qat export; export it "
            "again"
        )
    with reading(path, "a .tflite file of qat export", "export it again"):
        check_tables(schema.Model.GetRootAs(content), len(content))
        model = schema.ModelT.InitFromPackedBuf(content)
        # Older schemas have no external buffers.
        if getattr(model, "externalBuffers", None) or getattr(model, "externalBufferGroups", None):
            raise QatError(
                f"{path}: has data in another file, and only what the file itself holds is read; export it again"
            )
        _check_model(model)
        check_stored(path, (tensor.name for tensor in model.subgraphs[0].tensors if tensor.name))
    return File(content, model)


class EndOfOthers(NamedTuple):
    """What a file that others have made takes or gives.

    Args:
        shape: of one sample.
        dtype: "float32", "int8" or "uint8".
        scale, zero_point: of codes.
    """

    shape: tuple[int, ...]
    dtype: str
    scale: float
    zero_point: int


def ends_of_others(path: str | Path) -> tuple[bytes, tuple[EndOfOthers, EndOfOthers]]:
    """A file that others have made: its content, its input and its output. Its operators are left to LiteRT."""
    advice = "give a .tflite file with one input and one output"
    content = read_file(path, advice)
    if content[4:8] != IDENTIFIER:
        raise QatError(f"{path}: is no .tflite file: bytes 4 to 7 are {content[4:8]!r}, not {IDENTIFIER!r}; {advice}")
    with reading(path, "a .tflite file", advice):
        root = schema.Model.GetRootAs(content)
        check_tables(root, len(content))
        graph = schema.ModelT.InitFromPackedBuf(content).subgraphs[0]
        if len(graph.inputs) != 1 or len(graph.outputs) != 1:
            raise ValueError(f"it has {len(graph.inputs)} inputs and {len(graph.outputs)} outputs")
        tensors = [graph.tensors[index] for index in (graph.inputs[0], graph.outputs[0])]
        taken, given = (_end_of_others(tensor) for tensor in tensors)
    return content, (taken, given)


def _end_of_others(tensor: Any) -> EndOfOthers:
    """Raises ValueError where it is neither real numbers nor codes of 8 bits with one scale."""
    shape = tuple(int(size) for size in tensor.shape)[1:]
    if tensor.type == Type.FLOAT32:
        return EndOfOthers(shape, "float32", 1.0, 0)
    dtypes = {Type.INT8: "int8", Type.UINT8: "uint8"}
    found = tensor.quantization
    if tensor.type not in dtypes or found is None or len(_some(found.scale)) != 1:
        raise ValueError(f"an input or output has type {tensor.type}, or no scale")
    return EndOfOthers(shape, dtypes[tensor.type], float(found.scale[0]), int(found.zeroPoint[0]))


def check_runs(path: str | Path, model: Any, arithmetic: str) -> None:
    """Raise QatError where LiteRT's kernels of the arithmetic compute other codes than those of the file."""
    if arithmetic == "fixed" and _has_codes_of(model, Op.FULLY_CONNECTED):
        raise QatError(
            f"{path}: was exported for the float arithmetic: its dense layers are of a kind that LiteRT's reference kernels "
            "round otherwise; export it with --arithmetic fixed"
        )
    if arithmetic == "float" and _has_codes_of(model, Op.BATCH_MATMUL):
        raise QatError(
            f"{path}: was exported for the fixed arithmetic: its matrix products are of codes, which XNNPACK leaves to a "
            "kernel that rounds otherwise; export it with --arithmetic float"
        )


def _has_codes_of(model: Any, kind: int) -> bool:
    """Whether an operator of this kind computes codes; those of layers that are left in float do not."""
    graph = model.subgraphs[0]
    kinds = {index for index, code in enumerate(model.operatorCodes) if code.builtinCode == kind}
    made = [operator.outputs[0] for operator in graph.operators if operator.opcodeIndex in kinds]
    return any(graph.tensors[index].type != Type.FLOAT32 for index in made)


def _check_model(model: Any) -> None:
    """Raise ValueError where operators are none that export writes, numbers of tensors and buffers name none, or one sample
    takes more numbers than any network's.
    """
    graph = model.subgraphs[0]
    tensors, buffers, codes = len(graph.tensors), len(model.buffers), len(model.operatorCodes)
    operators = graph.operators
    if any(code.builtinCode not in OPERATORS for code in model.operatorCodes):
        raise ValueError("it has an operator that qat export does not write")
    if any(not 0 <= operator.opcodeIndex < codes for operator in operators):
        raise ValueError("an operator has no code")
    taken = [index for operator in operators for index in operator.inputs if index != -1]
    given = [index for operator in operators for index in operator.outputs]
    ends = [*graph.inputs, *graph.outputs]
    if not len(graph.inputs) or not len(graph.outputs):
        raise ValueError("it has no inputs or no outputs")
    if not all(0 <= index < tensors for index in (*ends, *taken, *given)):
        raise ValueError("it names tensors that are not there")
    holders = [*graph.tensors, *(model.metadata or [])]
    if not all(0 <= holder.buffer < buffers for holder in holders):
        raise ValueError("it names buffers that are not there")
    if any(entry.name is None or model.buffers[entry.buffer].data is None for entry in model.metadata or []):
        raise ValueError("an entry of its metadata is empty")
    for entry in model.metadata or []:
        if entry.name.decode().startswith(METADATA) and entry.name.decode() != DIGEST:
            bytes(model.buffers[entry.buffer].data).decode()
    numbers = 0
    for tensor in graph.tensors:
        if tensor.shape is None or any(size < 0 for size in tensor.shape):
            raise ValueError(f"a tensor has the shape {tensor.shape}")
        numbers += math.prod(int(size) for size in tensor.shape)
    check_sample(numbers)
    for index in ends:
        tensor = graph.tensors[index]
        if tensor.type not in ENDS or len(tensor.shape) not in (2, 3, 4) or tensor.shape[0] != 1:
            raise ValueError(f"an input or output has type {tensor.type} and shape {list(tensor.shape)}")
        found = tensor.quantization
        scales = (len(_some(found.scale)), len(_some(found.zeroPoint))) if found else (0, 0)
        if scales != (1, 1) and (scales != (0, 0) or tensor.type in CODED):
            raise ValueError("an input or output of codes has no scale")


def _some(vector: Any) -> Any:
    return () if vector is None else vector


class _AlignedBuffer(schema.BufferT):  # type: ignore[misc]
    """A buffer whose data begin at a multiple of 16, as the schema demands and its Python form forgets."""

    def Pack(self, builder: flatbuffers.Builder) -> int:  # noqa: N802
        data = None if self.data is None else _vector(builder, bytes(self.data))
        return _buffer(builder, data)


class _PlacedBuffer(schema.BufferT):  # type: ignore[misc]
    """A buffer whose data are in the file already."""

    def __init__(self, place: int) -> None:
        super().__init__()
        self.place = place

    def Pack(self, builder: flatbuffers.Builder) -> int:  # noqa: N802
        return _buffer(builder, self.place)


class _Builder(flatbuffers.Builder):  # type: ignore[misc]
    """Writes equal vectors of numbers once: the zero points of weights and biases, mostly."""

    def __init__(self) -> None:
        super().__init__(1024)
        self._written: dict[tuple[str, bytes], int] = {}

    def CreateNumpyVector(self, x: Array) -> int:  # noqa: N802
        key = (x.dtype.str, x.tobytes())
        if key not in self._written:
            self._written[key] = super().CreateNumpyVector(x)
        return self._written[key]


def _vector(builder: flatbuffers.Builder, data: bytes) -> int:
    """A vector of bytes that begins at a multiple of 16."""
    builder.StartVector(1, len(data), 16)
    builder.head -= len(data)
    builder.Bytes[builder.head : builder.head + len(data)] = data
    place: int = builder.EndVector()
    return place


def _buffer(builder: flatbuffers.Builder, data: int | None) -> int:
    schema.BufferStart(builder)
    if data is not None:
        schema.BufferAddData(builder, data)
    place: int = schema.BufferEnd(builder)
    return place


def set_metadata(model: Any, name: str, data: bytes) -> None:
    """Set one entry of the metadata, which replaces an entry of that name."""
    model.metadata = model.metadata or []
    for entry in model.metadata:
        if entry.name in (name, name.encode()):
            model.buffers[entry.buffer].data = data
            return
    entry = schema.MetadataT(name=name, buffer=len(model.buffers))
    model.metadata.append(entry)
    model.buffers.append(schema.BufferT(data=data))


def names_in(model: Any) -> tuple[str, ...]:
    """The names of classes that a model's metadata hold; none where they hold none, or something else under that key."""
    found = [entry.buffer for entry in model.metadata or [] if entry.name in (NAMES, NAMES.encode())]
    try:
        return names_of_classes(bytes(model.buffers[found[0]].data).decode()) if found else ()
    except (ValueError, RecursionError):
        return ()


def pack_model(model: Any) -> bytes:
    """The bytes of a model, sealed with a digest of all before it.

    A flatbuffer grows from its end, so that what is written first stands last: the data of the digest. Where TensorFlow Lite
    Metadata name the classes, their file is in a zip archive behind the flatbuffer, whose comment the digest is then.
    """
    entries = {entry.name.decode() if isinstance(entry.name, bytes) else entry.name for entry in model.metadata or []}
    names = names_in(model) if OFFICIAL in entries else ()
    if names:
        model.metadata = [entry for entry in model.metadata if entry.name not in (DIGEST, DIGEST.encode())]
        content = _with_labels(_packed(model), names)
    else:
        set_metadata(model, DIGEST, bytes(32))
        content = _packed(model)
    return content[:-32] + hashlib.sha256(content[:-32]).digest()


def _packed(model: Any) -> bytes:
    """The flatbuffer of a model; the data of its digest, where it has one, stand last."""
    builder = _Builder()
    found = [entry.buffer for entry in model.metadata or [] if entry.name in (DIGEST, DIGEST.encode())]
    place = _vector(builder, bytes(32)) if found else 0
    buffers = model.buffers
    model.buffers = [
        _PlacedBuffer(place) if index in found else _AlignedBuffer(data=buffer.data)
        for index, buffer in enumerate(buffers)
    ]
    builder.Finish(model.Pack(builder), file_identifier=IDENTIFIER)
    model.buffers = buffers
    return bytes(builder.Output())


def _with_labels(content: bytes, names: Sequence[str]) -> bytes:
    """A model with an archive of the names of its classes behind it, and room for the digest in the archive's comment."""
    file = io.BytesIO(content)
    text = "".join(" ".join(name.split()) + "\n" for name in names)
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr(zipfile.ZipInfo(LABELS, LONG_AGO), text.encode(errors="replace"))
        archive.comment = bytes(32)
    return file.getvalue()
