"""A .tflite file: checked, unpacked and packed; and the layers that its names tell of."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from qat.errors import QatError
from qat.reading import check_tables

IDENTIFIER = b"TFL3"
Type = schema.TensorType
#: Of the types that are read. Those of few bits and of texts are not.
DTYPES: dict[int, type[np.generic]] = {Type.FLOAT32: np.float32, Type.FLOAT16: np.float16, Type.BOOL: np.bool_}
DTYPES |= {Type.INT8: np.int8, Type.UINT8: np.uint8, Type.INT16: np.int16, Type.INT32: np.int32, Type.INT64: np.int64}
CODES = (Type.INT8, Type.UINT8, Type.INT16, Type.INT4)  #: what quantized files compute with
NAMES = {value: name for name, value in vars(schema.BuiltinOperator).items() if isinstance(value, int)}
#: The last parts of names that TensorFlow gives: of an operation, not of the layer that it belongs to.
OPERATIONS = {
    "Conv2D",
    "convolution",
    "depthwise",
    "MatMul",
    "BiasAdd",
    "add",
    "AddV2",
    "Relu",
    "Relu6",
    "LeakyRelu",
    "Softmax",
}
OPERATIONS |= {
    "FusedBatchNormV3",
    "AvgPool",
    "MaxPool",
    "Mean",
    "Reshape",
    "concat",
    "Sigmoid",
    "Tanh",
    "mul",
    "sub",
    "Pad",
}
OPERATIONS |= {
    "Add",
    "AvgPool2d",
    "MaxPool2d",
    "LeakyRelu",
    "Softmax",
    "Squeeze",
    "transpose",
    "Max",
    "truediv",
    "batchnorm",
}
VARIABLES = {"ReadVariableOp", "resource"}
WHOLE = {"Identity", "StatefulPartitionedCall", "PartitionedCall"}  #: what it calls the result of a whole network
#: Of an operator with weights: how TensorFlow calls what it computes.
LINEAR = {"CONV_2D": ("Conv2D", "convolution"), "DEPTHWISE_CONV_2D": ("depthwise",), "FULLY_CONNECTED": ("MatMul",)}


def unpacked(path: str | Path, content: bytes) -> Any:
    """The model of a file. Raises QatError or ValueError where it is none, or has several functions."""
    root = schema.Model.GetRootAs(content)
    if root.SubgraphsLength() > 1:
        raise QatError(
            f"{path}: has {root.SubgraphsLength()} subgraphs, for control flow or several signatures; convert one function "
            "without control flow"
        )
    check_tables(root, len(content))
    model = schema.ModelT.InitFromPackedBuf(content)
    _check(model)
    return model


def packed(model: Any) -> bytes:
    """The bytes of a model."""
    model.buffers = [_Buffer(buffer.data) for buffer in model.buffers]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), file_identifier=IDENTIFIER)
    return bytes(builder.Output())


class _Buffer(schema.BufferT):  # type: ignore[misc]
    """A buffer whose data begin at a multiple of 16, as the schema demands and its Python form forgets."""

    def __init__(self, data: Any) -> None:
        super().__init__(data=data)

    def Pack(self, builder: flatbuffers.Builder) -> int:  # noqa: N802
        place = None if self.data is None else _aligned(builder, bytes(self.data))
        schema.BufferStart(builder)
        if place is not None:
            schema.BufferAddData(builder, place)
        packed: int = schema.BufferEnd(builder)
        return packed


def _aligned(builder: flatbuffers.Builder, data: bytes) -> int:
    """A vector of bytes that begins at a multiple of 16."""
    builder.StartVector(1, len(data), 16)
    builder.head -= len(data)
    builder.Bytes[builder.head : builder.head + len(data)] = data
    place: int = builder.EndVector()
    return place


def _check(model: Any) -> None:
    """Raise ValueError where numbers of tensors, buffers and codes name none, or sizes are none."""
    graph = model.subgraphs[0]
    tensors, buffers, codes = len(graph.tensors), len(model.buffers), len(model.operatorCodes)
    if getattr(model, "externalBuffers", None) or getattr(model, "externalBufferGroups", None):
        raise ValueError("it has data in another file")
    for operator in graph.operators:
        if not 0 <= operator.opcodeIndex < codes:
            raise ValueError("an operator has no code")
        if any(not -1 <= index < tensors for index in (*operator.inputs, *operator.outputs)):
            raise ValueError("it names tensors that are not there")
    if not all(0 <= index < tensors for index in (*graph.inputs, *graph.outputs)):
        raise ValueError("it names tensors that are not there")
    for tensor in graph.tensors:
        if not 0 <= tensor.buffer < buffers:
            raise ValueError("it names buffers that are not there")
        if any(size < 0 for size in vector_of(tensor.shape)):
            raise ValueError(f"a tensor has the shape {list(tensor.shape)}")


def vector_of(vector: Any) -> Any:
    """A vector of the schema, which has None for an empty one."""
    return () if vector is None else vector


def text_of(name: Any) -> str:
    """A name of the schema."""
    return name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name or "")


def layer_of(kind: str, names: Sequence[str]) -> str:
    """The layer that an operator belongs to, as far as names of its weights and its result tell: TensorFlow joins those of all
    that it has fused, as "model/relu/Relu;model/bn/FusedBatchNormV3;model/conv/Conv2D".
    """
    parts = [part.partition(":")[0] for name in names for part in name.split(";")]
    ends = LINEAR.get(kind, ())
    own = [part for part in parts if part.rpartition("/")[2].rstrip("0123456789_") in ends]
    chosen = own[0] if own else names[-1].split(";")[-1].partition(":")[0]
    if chosen.rstrip("0123456789_") in WHOLE:
        return kind.lower()
    words = chosen.split("/")
    while len(words) > 1 and words[-1] in VARIABLES:
        words.pop()
    if len(words) > 1 and words[-1].rstrip("0123456789_") in OPERATIONS:
        words.pop()
    return "/".join(words)


def common_prefix(names: Sequence[str]) -> str:
    """The name of the model, with which TensorFlow begins those of all layers, as "model/"; "" where they differ."""
    first = {part.partition("/")[0] for name in names for part in name.split(";") if part.count("/") > 1}
    return f"{first.pop()}/" if len(first) == 1 else ""
