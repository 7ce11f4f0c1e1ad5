"""A .mindir file: read, checked, changed and written, with a digest."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from qat.backends.mindspore.setup import mind_ir_pb2 as proto
from qat.cells.base import Shape
from qat.errors import QatError, shortened
from qat.files import write_atomically
from qat.names import check_stored
from qat.reading import messages, read_file, reading
from qat.targets.common import METADATA
from qat.vocabulary.arrays import ArraySpec
from qat.vocabulary.ops import Array

DIGEST = METADATA + "digest"  #: of graph and primitives: MindSpore may abort the process over a damaged file
OUTPUTS = "@outputs"  #: the node that gathers several outputs
Attribute = proto.AttributeProto
TYPES: dict[np.dtype[Any], int] = {
    np.dtype(np.float32): proto.TensorProto.FLOAT,
    np.dtype(np.uint8): proto.TensorProto.UINT8,
    np.dtype(np.int8): proto.TensorProto.INT8,
    np.dtype(np.int16): proto.TensorProto.INT16,
    np.dtype(np.uint16): proto.TensorProto.UINT16,
    np.dtype(np.int32): proto.TensorProto.INT32,
    np.dtype(np.float64): proto.TensorProto.DOUBLE,
}


def load(path: str | Path) -> proto.ModelProto:
    """The model of a file. Raises QatError where it cannot be read, is damaged, or holds what no export writes."""
    model = proto.ModelProto()
    content = read_file(path, "give an exported .mindir file")
    with reading(path, "a MINDIR file", "export it again"):
        model.ParseFromString(content)
    if model.user_info.get(DIGEST) != digest_of(model):
        raise QatError(f"{path}: is no MINDIR file of qat export, or a damaged one; export it again")
    _check_alone(model, path)
    check_stored(path, (x.name for x in (*model.graph.input, *model.graph.parameter)))
    check_stored(path, (name for node in model.graph.node for name in node.output))
    return model


def _check_alone(model: proto.ModelProto, path: str | Path) -> None:
    """Raise QatError for what no export writes and what may read, load or run other files."""
    known = {"Constant", *(f"REF::{x.name}" for x in model.primitives if x.op_type in OPERATIONS)}
    unknown = [x.op_type for x in model.primitives if x.op_type not in OPERATIONS]
    unknown += [x.op_type for x in model.graph.node if x.op_type not in known]
    if unknown or model.functions or model.HasField("preprocessor"):
        found = f"the operation {shortened(unknown[0])}" if unknown else "a function or a preprocessor"
        raise QatError(f"{path}: holds {found}, which no export writes; export it again")
    if not all(len(x.tensor) == 1 and x.tensor[0].data_type in TYPES.values() for x in model.graph.input):
        raise QatError(f"{path}: takes what no export takes; export it again")
    if next(messages(model, proto.TensorProto.ExternalDataProto), None) is not None:
        raise QatError(
            f"{path}: has data in another file, and only what the file itself holds is read; export it again"
        )


def specs_of_inputs(model: proto.ModelProto) -> list[ArraySpec]:
    """Shape and dtype of each input's arrays."""
    dtypes = {kind: dtype.name for dtype, kind in TYPES.items()}
    return [ArraySpec(tuple(x.tensor[0].dims[1:]), dtypes[x.tensor[0].data_type]) for x in model.graph.input]


def digest_of(model: proto.ModelProto) -> str:
    """The SHA-256 of graph and primitives, hexadecimal."""
    content = hashlib.sha256(model.graph.SerializeToString(deterministic=True))
    for primitive in model.primitives:
        content.update(primitive.SerializeToString(deterministic=True))
    return content.hexdigest()


def write(model: proto.ModelProto, path: str | Path) -> None:
    """Write a model as a file, with its digest."""
    model.user_info[DIGEST] = digest_of(model)
    write_atomically(path, model.SerializeToString(deterministic=True))


def value_of(name: str, value: Any) -> proto.AttributeProto:
    """An attribute of a bool, an integer, a string, or a tuple of integers."""
    attribute = Attribute(name=name)
    if isinstance(value, bool):
        attribute.type, attribute.i = Attribute.BOOL, int(value)
    elif isinstance(value, int):
        attribute.type, attribute.i = Attribute.INT64, value
    elif isinstance(value, str):
        attribute.type, attribute.s = Attribute.STRING, value.encode()
    else:
        attribute.type = Attribute.TUPLE
        attribute.values.extend(Attribute(type=Attribute.INT64, ints=[i]) for i in value)
    return attribute


def tensor_of(array: Array, name: str) -> proto.TensorProto:
    """An array as a message."""
    array = np.asarray(array, order="C")
    return proto.TensorProto(dims=array.shape, data_type=TYPES[array.dtype], name=name, raw_data=array.tobytes())


def described(name: str, shape: Shape, kind: int) -> proto.ValueInfoProto:
    """The declaration of an input or output. shape: of one sample. kind: of TensorProto."""
    return proto.ValueInfoProto(name=name, tensor=[proto.TensorProto(dims=(-1, *shape), data_type=kind)])


def set_outputs(model: proto.ModelProto, outputs: Sequence[tuple[str, Shape]]) -> None:
    """Make the named float32 tensors the outputs; the shapes are of one sample."""
    graph = model.graph
    if graph.node[-1].name == OUTPUTS:
        del graph.node[-1]
    del graph.output[:]
    if len(outputs) == 1:
        graph.output.append(described(*outputs[0], proto.TensorProto.FLOAT))
        return
    add_primitive(model, "MakeTuple", "MakeTuple", {})
    graph.node.add(op_type="REF::MakeTuple", name=OUTPUTS, input=[name for name, _ in outputs], output=[OUTPUTS])
    graph.output.add(name=OUTPUTS, denotation="Tuple").attr_info.CopyFrom(
        Attribute(
            type=Attribute.TUPLE,
            values=[
                Attribute(
                    type=Attribute.TENSORS,
                    tensors=[proto.TensorProto(dims=(-1, *shape), data_type=proto.TensorProto.FLOAT)],
                )
                for _, shape in outputs
            ],
        )
    )


def add_primitive(model: proto.ModelProto, name: str, op: str, attributes: Mapping[str, Any]) -> None:
    """Declare an operation under a name that nodes refer to, unless the model has it."""
    assert op in OPERATIONS, op
    if all(primitive.name != name for primitive in model.primitives):
        model.primitives.add(
            name=name,
            op_type=op,
            attribute=[value_of(key, value) for key, value in attributes.items()],
            prim_type=proto.PrimitiveProto.PRIMITIVE if op in OBJECTS else proto.PrimitiveProto.PRIMITIVE_FUNCTION,
        )


#: All that are written, and so all that are run: MindSpore knows some that load libraries.
OPERATIONS = {
    *(
        "Add",
        "BatchMatMul",
        "BiasAdd",
        "Cast",
        "Concat",
        "Conv2D",
        "Div",
        "Floor",
        "Gather",
        "MakeTuple",
        "MatMul",
        "Sqrt",
    ),
    *(
        "MaxPool",
        "Maximum",
        "Minimum",
        "Mul",
        "PadV3",
        "ReduceMax",
        "ReduceSum",
        "Reshape",
        "Round",
        "Sub",
        "Transpose",
    ),
}
#: Operations whose settings are attributes; of the others they are inputs.
OBJECTS = ("Conv2D", "MaxPool", "MakeTuple")
