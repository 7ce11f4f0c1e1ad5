"""MINDIR: the integer graph as MindSpore's own model file, run in MindSpore (and a source for its Lite converter).

The file takes raw uint8 pixels, (N, C, H, W), and returns real numbers, float32; N is free. Weights are stored as int8,
biases as int32; the arithmetic is that of ``qat.integer`` on integers held in float32. It is written directly: an export by
MindSpore itself compiles the network and adds some 20 kB of names and attributes.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import singledispatchmethod
from pathlib import Path
from typing import Any

import numpy as np

from qat.backends.messages import messages
from qat.backends.mindspore.setup import mind_ir_pb2 as proto
from qat.backends.mindspore.setup import ms
from qat.cells.base import Shape
from qat.errors import QatError, shortened
from qat.files import write_atomically
from qat.integer import (
    IntegerAdd,
    IntegerConcat,
    IntegerConv2d,
    IntegerDense,
    IntegerFlatten,
    IntegerGraph,
    IntegerInput,
    IntegerLinear,
    IntegerMaxPool2d,
    IntegerNode,
    IntegerSoftmax,
    IntegerTable,
    IntegerTensor,
    Requantize,
)
from qat.integer.widths import require_bytes
from qat.names import check_stored
from qat.reading import read_file, reading
from qat.registry import TARGETS
from qat.vocabulary.arrays import Arrays, as_arrays, in_batches
from qat.vocabulary.ops import EXACT_INTEGERS, Array, Padding

NAME = "MINDIR"  #: under which ``qat.target`` knows it
SUFFIX, OPTIONS = TARGETS[NAME].suffix, TARGETS[NAME].options
ARITHMETICS: tuple[str, ...] = ("float",)
RUNS_CODE = False
METADATA = "qat."  #: before our keys in user_info
DIGEST = METADATA + "digest"  #: of graph and primitives: MindSpore may abort the process over a damaged file
BATCH = 500  #: images in one run
VERSION = "2.6.0"  #: of MindSpore, which the file says it was written by
INT32, FLOAT32, FLOAT64 = 34, 43, 44  #: kNumberType... of mindspore/core/include/ir/dtype/type_id.h: what Cast takes
OUTPUTS = "@outputs"  #: the node that gathers several outputs
Attribute = proto.AttributeProto
TYPES = {
    np.dtype(np.float32): proto.TensorProto.FLOAT,
    np.dtype(np.uint8): proto.TensorProto.UINT8,
    np.dtype(np.int8): proto.TensorProto.INT8,
    np.dtype(np.int32): proto.TensorProto.INT32,
    np.dtype(np.float64): proto.TensorProto.DOUBLE,
}


def export(graph: IntegerGraph, path: str | Path) -> None:
    """Write an integer graph. Raises QatError for codes of more than 8 bits."""
    require_bytes(graph, "a MINDIR file")
    writer = _Writer(graph.name)
    for x in graph.inputs:
        writer.enter(x)
    for node in graph.nodes:
        writer.add(node)
    outputs = [(writer.node("Mul", [writer.names[x.name], writer.number(x.grid.scale)]), x) for x in graph.outputs]
    writer.leave([(name, x.shape) for name, x in outputs])
    writer.check()
    _write(writer.model, path)


def write_metadata(path: str | Path, metadata: Mapping[str, str]) -> None:
    """Set entries of a file's user_info, each behind "qat."; nothing else in the file changes."""
    model = _load(path)
    for key, value in metadata.items():
        model.user_info[METADATA + key] = value
    _write(model, path)


def input_shapes(path: str | Path) -> list[Shape]:
    """The shapes of its inputs, (C, H, W) or (F,)."""
    return _shapes(_load(path))


def predict(path: str | Path, pixels: Arrays) -> Arrays:
    """Real outputs (N, ...) of raw pixels (N, C, H, W), computed by MindSpore from the file as it is.

    A network with several inputs takes a tuple of arrays, one with several outputs returns a tuple.
    """
    found = _infer(path, _load(path), pixels)
    return as_arrays(tuple(found[i] for i in range(len(found))))


def trace(path: str | Path, pixels: Arrays, tensors: Collection[IntegerTensor]) -> dict[str, Array]:
    """Codes of the named tensors, from a copy of the file that has them as outputs."""
    model = _load(path)
    present = {name for node in model.graph.node for name in node.output}
    wanted = [tensor for tensor in tensors if _codes(tensor.name) in present]
    if not wanted:
        return {}
    _set_outputs(model, [(_codes(tensor.name), tensor.shape) for tensor in wanted])
    found = _infer(path, model, pixels)
    return {x.name: found[i].astype(np.int32) + x.grid.zero_point for i, x in enumerate(wanted)}


def runtime() -> str:
    """What ``predict`` runs in, with its version and options."""
    return f"MindSpore {ms.__version__} (nn.GraphCell, {ms.get_context('device_target')})"


def _load(path: str | Path) -> proto.ModelProto:
    model = proto.ModelProto()
    content = read_file(path, "give an exported .mindir file")
    with reading(path, "a MINDIR file", "export it again"):
        model.ParseFromString(content)
    if model.user_info.get(DIGEST) != _digest(model):
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
    if next(messages(model, proto.TensorProto.ExternalDataProto), None) is not None:
        raise QatError(
            f"{path}: has data in another file, and only what the file itself holds is read; export it again"
        )


def _shapes(model: proto.ModelProto) -> list[Shape]:
    return [tuple(x.tensor[0].dims[1:]) for x in model.graph.input]


def _digest(model: proto.ModelProto) -> str:
    content = hashlib.sha256(model.graph.SerializeToString(deterministic=True))
    for primitive in model.primitives:
        content.update(primitive.SerializeToString(deterministic=True))
    return content.hexdigest()


def _write(model: proto.ModelProto, path: str | Path) -> None:
    model.user_info[DIGEST] = _digest(model)
    write_atomically(path, model.SerializeToString(deterministic=True))


def _infer(path: str | Path, model: proto.ModelProto, pixels: Arrays) -> dict[int, Array]:
    """All outputs by number."""
    try:
        run = _runner(model)

        def outputs(batch: tuple[Array, ...]) -> dict[int, Array]:
            found = run(*(ms.Tensor(np.ascontiguousarray(x)) for x in batch))
            return dict(enumerate(x.asnumpy() for x in (found if isinstance(found, tuple) else (found,))))

        return in_batches(outputs, pixels, _shapes(model), BATCH, str(path))
    except (RuntimeError, TypeError, ValueError) as error:
        if isinstance(error, QatError):
            raise
        reason = str(error).strip().partition("\n")[0]
        raise QatError(f"{path}: MindSpore cannot run it as a file of qat export ({reason}); export it anew") from None


def _runner(model: proto.ModelProto) -> Callable[..., Any]:
    """The model as MindSpore loads it."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "model.mindir")
        file.write_bytes(model.SerializeToString())
        return ms.nn.GraphCell(ms.load(str(file)))


def _codes(name: str) -> str:
    """What the codes of a node are called in the file, less their zero point."""
    return f"{name}.q"


def _value(name: str, value: Any) -> proto.AttributeProto:
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


def _tensor(array: Array, name: str) -> proto.TensorProto:
    array = np.asarray(array, order="C")
    return proto.TensorProto(dims=array.shape, data_type=TYPES[array.dtype], name=name, raw_data=array.tobytes())


def _described(name: str, shape: Shape, kind: int) -> proto.ValueInfoProto:
    return proto.ValueInfoProto(name=name, tensor=[proto.TensorProto(dims=(-1, *shape), data_type=kind)])


def _set_outputs(model: proto.ModelProto, outputs: Sequence[tuple[str, Shape]]) -> None:
    """Make the named float32 tensors the outputs; the shapes are of one sample."""
    graph = model.graph
    if graph.node[-1].name == OUTPUTS:
        del graph.node[-1]
    del graph.output[:]
    if len(outputs) == 1:
        graph.output.append(_described(*outputs[0], proto.TensorProto.FLOAT))
        return
    _primitive(model, "MakeTuple", "MakeTuple", {})
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


def _primitive(model: proto.ModelProto, name: str, op: str, attributes: Mapping[str, Any]) -> None:
    assert op in OPERATIONS, op
    if all(primitive.name != name for primitive in model.primitives):
        model.primitives.add(
            name=name,
            op_type=op,
            attribute=[_value(key, value) for key, value in attributes.items()],
            prim_type=proto.PrimitiveProto.PRIMITIVE if op in OBJECTS else proto.PrimitiveProto.PRIMITIVE_FUNCTION,
        )


#: All that are written, and so all that are run: MindSpore knows some that load libraries.
OPERATIONS = {
    *("Add", "BiasAdd", "Cast", "Concat", "Conv2D", "Div", "Floor", "Gather", "MakeTuple", "MatMul"),
    *("MaxPool", "Maximum", "Minimum", "Mul", "PadV3", "ReduceMax", "ReduceSum", "Reshape", "Round", "Sub"),
}
#: Operations whose settings are attributes; of the others they are inputs.
OBJECTS = ("Conv2D", "MaxPool", "MakeTuple")


class _Writer:
    """Writes the nodes of an integer graph. Equal constants are stored once."""

    def __init__(self, name: str) -> None:
        self.model = proto.ModelProto(
            ir_version="1.1", producer_name="qat-engine", model_version=VERSION, little_endian=True, mind_ir_version=3
        )
        self.graph = self.model.graph
        self.graph.name = name
        self.names: dict[str, str] = {}  # tensor of codes -> its name in the file
        self._constants: dict[Any, str] = {}

    def node(self, op: str, inputs: Sequence[str], output: str | None = None, **attributes: Any) -> str:
        """Append a node; returns the name of its output."""
        name = op if not attributes else f"{op}{len(self.model.primitives)}"
        _primitive(self.model, name, op, attributes)
        output = output or f"@{len(self.graph.node)}"
        self.graph.node.add(op_type=f"REF::{name}", name=output, input=inputs, output=[output])
        return output

    def constant(self, value: Any) -> str:
        """The name of a constant: a bool, an integer or a tuple of integers."""
        return self._constant((type(value), value), lambda: _value("value", value))

    def number(self, value: Any, dtype: Any = np.float32) -> str:
        """The name of a constant scalar."""
        array = np.asarray(value, dtype)
        return self._constant(
            (array.dtype, array.item()),
            lambda: Attribute(name="value", type=Attribute.TENSORS, tensors=[_tensor(array, "v")]),
        )

    def _constant(self, key: Any, make: Callable[[], proto.AttributeProto]) -> str:
        if key not in self._constants:
            name = self._constants[key] = f"#{len(self._constants)}"
            self.graph.node.add(op_type="Constant", name=name, output=[name], attribute=[make()])
        return self._constants[key]

    def parameter(self, name: str, array: Array) -> str:
        """The name of a stored array."""
        stored = _tensor(array, name)
        stored.ref_key = name
        self.graph.parameter.append(stored)
        return name

    def cast(self, x: str, kind: int, output: str | None = None) -> str:
        return self.node("Cast", [x, self.constant(kind)], output)

    def enter(self, x: IntegerTensor) -> None:
        """Declare an input."""
        self.graph.input.append(_described(x.name, x.shape, TYPES[np.dtype(x.grid.dtype)]))

    def leave(self, outputs: Sequence[tuple[str, Shape]]) -> None:
        """Declare the outputs."""
        _set_outputs(self.model, outputs)

    def check(self) -> None:
        """Raise QatError where an input is called as what belongs to a node: as "fc.weight" is the weight of "fc"."""
        made = {x.name for x in self.graph.parameter} | {name for node in self.graph.node for name in node.output}
        for x in self.graph.input:
            if x.name in made:
                raise QatError(
                    f"{x.name}: an input of this name is what MINDIR calls a part of another node; rename it"
                )

    @singledispatchmethod
    def add(self, node: IntegerNode) -> None:
        """Append a node of the integer graph."""
        raise QatError(f"{node.name}: MINDIR has no form for {type(node).__name__}; export to another format")

    def _finish(self, node: IntegerNode, x: str, op: str | None = None, *others: str, **attributes: Any) -> None:
        """Make ``op`` of x the node's codes, or x itself."""
        if op is not None:
            x = self.node(op, [x, *others], _codes(node.name), **attributes)
        self.names[node.name] = x

    @add.register
    def _(self, node: IntegerInput) -> None:
        x = self.cast(node.name, FLOAT32)
        self._finish(node, x, "Sub", self.number(node.output.grid.zero_point))

    def _requantize(self, node: IntegerNode, acc: str, requantize: Requantize, rank: int) -> None:
        multiplier = requantize.multiplier
        if (multiplier == multiplier[0]).all():
            by = self.number(multiplier[0])
        else:
            by = self.parameter(f"{node.name}.multiplier", multiplier.reshape((1, -1) + (1,) * (rank - 1)))
        rounded = self.node("Round", [self.node("Mul", [acc, by]), self.constant(0)])
        raised = self.node("Maximum", [rounded, self.number(requantize.low)])
        self._finish(node, raised, "Minimum", self.number(requantize.high))

    @add.register
    def _(self, node: IntegerConv2d) -> None:
        top, bottom, left, right = node.padding
        self._linear(
            node,
            lambda x, w: self.node(
                "Conv2D",
                [x, w],
                kernel_size=node.weight.shape[2:],
                mode=1,
                out_channel=len(node.weight),
                pad=(top, bottom, left, right),
                pad_mode="pad",
                format="NCHW",
                pad_list=(top, bottom, left, right),
                groups=node.group,
                group=node.group,
                stride=(1, 1, *node.stride),
                dilation=(1, 1, *node.dilation),
            ),
        )

    @add.register
    def _(self, node: IntegerDense) -> None:
        flags = [self.constant(False), self.constant(True)]
        self._linear(node, lambda x, w: self.node("MatMul", [x, w, *flags]))

    def _linear(self, node: IntegerLinear, product: Callable[[str, str], str]) -> None:
        x = self.names[node.inputs[0].name]
        w = self.cast(self.parameter(f"{node.name}.weight", node.weight), FLOAT32)
        if node.weight_zero_point.any():
            zero = node.weight_zero_point.astype(np.float32).reshape((-1,) + (1,) * (node.weight.ndim - 1))
            w = self.node("Sub", [w, self.parameter(f"{node.name}.weight_zero_point", zero)])
        acc = self._wide(node, x, w, product) if node.wide else product(x, w)
        if node.bias.any():
            bias = self.parameter(f"{node.name}.bias", node.bias)
            if node.wide:
                bias = self.node("Reshape", [bias, self.constant((1, -1) + (1,) * (node.weight.ndim - 2))])
                acc = self.node("Add", [acc, self.cast(bias, FLOAT64)])
            else:
                acc = self.node("BiasAdd", [acc, self.cast(bias, FLOAT32), self.constant(0)])
        if node.wide:
            acc = self.cast(acc, FLOAT32)
        self._requantize(node, acc, node.requantize, len(node.output.shape))

    def _wide(self, node: IntegerLinear, x: str, w: str, product: Callable[[str, str], str]) -> str:
        """Accumulators beyond 2^24, float64: MindSpore's convolutions add in float32, so that the weights are split.

        w = w_0 + 2^b w_1 + 4^b w_2 ... with 0 <= w_i < 2^b but for the last: the sums of each part stay exact.
        """
        bits, parts = _split(node)
        total, factor = "", 1.0
        for part in range(parts):
            digits = w
            if part < parts - 1:
                rest = self.node("Floor", [self.node("Mul", [w, self.number(2.0**-bits)])])
                digits, w = self.node("Sub", [w, self.node("Mul", [rest, self.number(2.0**bits)])]), rest
            acc = self.cast(product(x, digits), FLOAT64)
            if part:
                acc = self.node("Mul", [acc, self.number(factor, np.float64)])
            total = self.node("Add", [total, acc]) if total else acc
            factor *= 2.0**bits
        return total

    @add.register
    def _(self, node: IntegerMaxPool2d) -> None:
        x = self.names[node.inputs[0].name]
        if any(node.padding):
            x = self._pad(x, node.padding, node.inputs[0].grid.low)  # the least code: it never wins
        self._finish(
            node,
            x,
            "MaxPool",
            kernel_size=(1, 1, *node.kernel),
            strides=(1, 1, *node.stride),
            pad_mode="VALID",
            format="NCHW",
        )

    def _pad(self, x: str, padding: Padding, value: float) -> str:
        top, bottom, left, right = padding
        sides = self.constant((left, right, top, bottom))
        return self.node("PadV3", [x, sides, self.number(value)], mode="constant", paddings_contiguous=True)

    @add.register
    def _(self, node: IntegerFlatten) -> None:
        x = self.names[node.inputs[0].name]
        self._finish(node, x, "Reshape", self.constant((-1, *node.output.shape)))

    @add.register
    def _(self, node: IntegerAdd) -> None:
        total = self.node("Add", [self.names[x.name] for x in node.inputs])
        self._requantize(node, total, node.requantize, len(node.output.shape))

    @add.register
    def _(self, node: IntegerConcat) -> None:
        together = self.node("MakeTuple", [self.names[x.name] for x in node.inputs])
        self._finish(node, together, "Concat", self.constant(1))

    def _take(self, table: str, index: str, output: str | None = None) -> str:
        index, zero = self.cast(index, INT32), self.constant(0)
        return self.node("Gather", [table, index, zero, zero], output)

    @add.register
    def _(self, node: IntegerTable) -> None:
        dtype = np.int8 if node.table.min() >= -128 and node.table.max() <= 127 else np.int32
        table = self.cast(self.parameter(f"{node.name}.table", node.table.astype(dtype)), FLOAT32)
        x = self.names[node.inputs[0].name]
        index = self.node("Sub", [x, self.number(node.inputs[0].grid.low)])
        self._finish(node, self._take(table, index, _codes(node.name)))

    @add.register
    def _(self, node: IntegerSoftmax) -> None:
        """As ``IntegerSoftmax.evaluate``."""
        x, axis, keep = self.names[node.inputs[0].name], self.constant((1,)), self.constant(True)
        largest = self.node("ReduceMax", [x, axis, keep])
        e = self._take(self.parameter(f"{node.name}.table", node.table), self.node("Sub", [largest, x]))
        total = self.node("ReduceSum", [e, axis, keep, self.constant(False)])
        share = self.node("Div", [self.number(256.0), total])
        rounded = self.node("Round", [self.node("Mul", [e, share]), self.constant(0)])
        self._finish(node, rounded, "Minimum", self.number(255.0))


def _split(node: IntegerLinear) -> tuple[int, int]:
    """How many bits a part of the weights has, and how many parts there are, so that float32 holds every sum of each."""
    grid = node.inputs[0].grid
    low, high = min(grid.low, 0), max(grid.high, 0)

    def exact(w: Array) -> bool:
        w = w.reshape(len(w), -1).astype(np.int64)
        sums = [np.maximum(sign * w * high, sign * w * low).sum(axis=1).max() for sign in (1, -1)]
        return max(sums) <= EXACT_INTEGERS

    for bits in (6, 4, 3, 2, 1):
        rest, parts = node.centred_weight, 1
        while not exact(rest) and exact(rest & (2**bits - 1)) and parts < 10:
            rest, parts = rest >> bits, parts + 1
        if exact(rest):
            return bits, parts
    raise QatError(f"{node.name}: has too many inputs for MINDIR to add them exactly; use fewer channels")
