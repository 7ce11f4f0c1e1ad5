"""A .tflite file: a flatbuffer that is sealed with a digest, with metadata."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, NamedTuple

import flatbuffers
from ai_edge_litert import schema_py_generated as schema

from qat.errors import QatError
from qat.names import check_stored
from qat.ops import Array

METADATA = "qat."  #: before our keys in the metadata
DIGEST = METADATA + "digest"  #: the SHA-256 of all of the file before it, its last 32 bytes
IDENTIFIER = b"TFL3"

Op = schema.BuiltinOperator


class File(NamedTuple):
    content: bytes
    model: Any


def load(path: str | Path, arithmetic: str = "float") -> File:
    """A file whose content is what was written; LiteRT may crash on any other. arithmetic: that it is to be run in."""
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise QatError(f"{path}: cannot be read ({error.strerror}); give an exported .tflite file") from None
    if content[4:8] != IDENTIFIER:
        raise QatError(
            f"{path}: is no .tflite file: bytes 4 to 7 are {content[4:8]!r}, not {IDENTIFIER!r}; export it again"
        )
    if hashlib.sha256(content[:-32]).digest() != content[-32:]:
        raise QatError(
            f"{path}: its content is not what its digest says: it is damaged, or was not written by qat export; export it "
            "again"
        )
    model = schema.ModelT.InitFromPackedBuf(content)
    if getattr(model, "externalBuffers", None) or getattr(
        model, "externalBufferGroups", None
    ):  # older schemas have none
        raise QatError(
            f"{path}: has data in another file, and only what the file itself holds is read; export it again"
        )
    check_stored(path, (tensor.name for tensor in model.subgraphs[0].tensors if tensor.name))
    if arithmetic == "fixed" and any(code.builtinCode == Op.FULLY_CONNECTED for code in model.operatorCodes):
        raise QatError(
            f"{path}: was exported for the float arithmetic: its dense layers are of a kind that LiteRT's reference kernels "
            "round otherwise; export it with --arithmetic fixed"
        )
    return File(content, model)


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
    model.metadata = model.metadata or []
    for entry in model.metadata:
        if entry.name in (name, name.encode()):
            model.buffers[entry.buffer].data = data
            return
    entry = schema.MetadataT(name=name, buffer=len(model.buffers))
    model.metadata.append(entry)
    model.buffers.append(schema.BufferT(data=data))


def pack_model(model: Any) -> bytes:
    """The bytes of a model, sealed with a digest.

    A flatbuffer grows from its end, so that what is written first stands last: the data of the digest.
    """
    set_metadata(model, DIGEST, bytes(32))
    builder = _Builder()
    place = _vector(builder, bytes(32))
    (digest,) = (entry.buffer for entry in model.metadata if entry.name in (DIGEST, DIGEST.encode()))
    buffers = model.buffers
    model.buffers = [
        _PlacedBuffer(place) if index == digest else _AlignedBuffer(data=buffer.data)
        for index, buffer in enumerate(buffers)
    ]
    builder.Finish(model.Pack(builder), file_identifier=IDENTIFIER)
    model.buffers = buffers
    content = bytes(builder.Output())[:-32]
    return content + hashlib.sha256(content).digest()
