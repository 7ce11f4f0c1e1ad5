"""ONNX: the standard QDQ form of an integer graph, and the plain form of a float network, run in ONNX Runtime.

The file takes raw uint8 pixels "input", (N, C, H, W), and returns real numbers "output", float32. Activations are uint8
codes and weights int8; ONNX Runtime fuses every DequantizeLinear - operation - QuantizeLinear into one integer kernel.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import singledispatchmethod
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from qat.cells.base import Shape
from qat.errors import QatError
from qat.files import write_atomically
from qat.graph import Graph, as_float_graph
from qat.integer import (
    Grid,
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
)
from qat.integer.widths import check_packing, pack, require_bytes, storage_bits
from qat.passes.fold_batch_norm import fold_batch_norm
from qat.reading import reading, reason_of
from qat.registry import TARGETS
from qat.targets.onnx.model import check_operators, load_model, set_metadata, shapes_of_inputs
from qat.training.forward import Forward
from qat.vocabulary.arrays import Arrays, as_arrays, as_tuple, in_batches
from qat.vocabulary.ops import Array, Kind, Padding, Pair

OPSET, IR_VERSION = 17, 8  #: old enough for every runtime of the last years; QDQ with an axis needs opset 13
NAME = "ONNX"  #: under which ``qat.target`` knows it
SUFFIX, OPTIONS = TARGETS[NAME].suffix, TARGETS[NAME].options
ARITHMETICS: tuple[str, ...] = ("float",)
RUNS_CODE = False
#: Bits of packed weights -> opset and IR version of their types, and the types: signed, unsigned.
PACKED = {
    4: (21, 10, TensorProto.INT4, TensorProto.UINT4),
    2: (25, 13, TensorProto.INT2, TensorProto.UINT2),
}
WEIGHTS = ("int8", "uint8")  #: what they are multiplied as
BATCH = 1000  #: images in one run of a session


def export(graph: IntegerGraph, path: str | Path, *, weights: str = "int8", packing: str = "packed") -> None:
    """Write the QDQ form of an integer graph.

    weights: "int8", or "uint8" for x86 CPUs without VNNI. There ONNX Runtime multiplies u8 by s8 with an instruction that
    saturates sums of two products at 16 bits; of u8 by u8 it takes another, which does not. The codes are the same.
    packing: "packed" stores weights of 4 and of 2 bits as INT4 and INT2, which ask for opset 21 and 25; "bytes" does not.
    """
    packed = check_packing(packing)
    if weights not in WEIGHTS:
        raise QatError(f"--weights {weights!r} is unknown: choose one of {', '.join(WEIGHTS)}")
    require_bytes(graph, "ONNX Runtime")
    writer = _QdqWriter(weights == "uint8", packed)
    writer.enter(graph.inputs)
    for node in graph.nodes:
        writer.add(node)
    for x, name in zip(graph.outputs, _names("output", len(graph.outputs)), strict=True):
        writer.dequantize(x, name)
    _write(writer.model(graph.name, [x.shape for x in graph.inputs], [x.shape for x in graph.outputs]), path)


def export_float(graph: Graph, params: Mapping[str, Array], path: str | Path) -> None:
    """Write a float network, with the same input and output as its quantized form."""
    graph, params = fold_batch_norm(as_float_graph(graph, params), params)
    writer = _Writer()
    ops = _OnnxOps(writer)
    tensors = {name: ops.from_numpy(params[name], param.kind) for name, param in graph.params.items()}
    pixels = tuple(
        _Symbol(writer, writer.node("Cast", [name], to=TensorProto.FLOAT))
        for name in _names("input", len(graph.inputs))
    )
    results, _ = Forward(graph, ops)(tensors, pixels, training=False, phase=0)
    for result, name in zip(results, _names("output", len(results)), strict=True):
        writer.node("Identity", [result.name], output=name)
    shapes = [[graph.shapes[name] for name in names] for names in ((x.name for x in graph.inputs), graph.outputs)]
    _write(writer.model(graph.name, *shapes), path)


def write_metadata(path: str | Path, metadata: Mapping[str, str]) -> None:
    """Set entries of a file's metadata_props, each behind "qat."; nothing else in the file changes."""
    model = _load(path)
    set_metadata(model, metadata)
    _write(model, path)


def input_shapes(path: str | Path) -> list[Shape]:
    """The shapes of its inputs, (C, H, W) or (F,)."""
    return shapes_of_inputs(_load(path))


def predict(path: str | Path, pixels: Arrays) -> Arrays:
    """Real outputs (N, ...) of raw pixels (N, C, H, W), computed by ONNX Runtime from the file as it is.

    A network with several inputs takes a tuple of arrays, one with several outputs returns a tuple.
    """
    model = _load(path)
    outputs = [output.name for output in model.graph.output]
    found = _infer(path, model, outputs, pixels)
    return as_arrays(tuple(found[name] for name in outputs))


def trace(path: str | Path, pixels: Arrays, tensors: Collection[IntegerTensor]) -> dict[str, Array]:
    """Codes of the named tensors, from a copy of the file that has them as further outputs."""
    model = _load(path)
    present = {name for node in model.graph.node for name in node.output}
    wanted = {_codes(tensor.name): tensor for tensor in tensors if _codes(tensor.name) in present}
    if not wanted:  # nothing but the network's inputs
        return {}
    for name in wanted:
        model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.UINT8, None))
    found = _infer(path, model, list(wanted), pixels)
    return {x.name: found[name].astype(np.int32) - _offset(x.grid) for name, x in wanted.items()}


def runtime() -> str:
    """What ``predict`` runs in, with its version and options."""
    cpu = ", x86 without VNNI: needs --weights uint8" if _lacks_vnni() else ""
    return f"ONNX Runtime {onnxruntime.__version__} (CPUExecutionProvider, default options{cpu})"


def _lacks_vnni() -> bool:
    """True on an x86 CPU that is known to have no VNNI."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return False
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        return False
    return "avx_vnni" not in flags and "avx512_vnni" not in flags


def _load(path: str | Path) -> onnx.ModelProto:
    model = load_model(path)
    with reading(path, "an ONNX file of qat export", "export it again"):
        check_operators(model)
    return model


def opened(path: str | Path, *, threads: int = 1) -> Callable[[Arrays], Arrays]:
    """``predict`` with the file loaded once, for its time to be taken. threads: of the runtime."""
    model = _load(path)
    outputs = [output.name for output in model.graph.output]
    session = _session(path, model, threads)
    inputs = [x.name for x in session.get_inputs()]

    def compute(pixels: Arrays) -> Arrays:
        return as_arrays(tuple(session.run(outputs, dict(zip(inputs, as_tuple(pixels), strict=True)))))

    return compute


def _session(path: str | Path, model: onnx.ModelProto, threads: int = 0) -> onnxruntime.InferenceSession:
    """threads: 0 is the runtime's own choice."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # errors come back as exceptions
    options.intra_op_num_threads = threads
    try:
        return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise _cannot_run(path, error) from None


def _cannot_run(path: str | Path, error: Exception) -> QatError:
    """Of any exception of the runtime: they share no base class of their own."""
    return QatError(f"{path}: ONNX Runtime cannot run it as a file of qat export ({reason_of(error)}); export it anew")


def _infer(path: str | Path, model: onnx.ModelProto, outputs: list[str], pixels: Arrays) -> dict[str, Array]:
    session = _session(path, model)
    inputs = [x.name for x in session.get_inputs()]

    def run(batch: tuple[Array, ...]) -> dict[str, Array]:
        feed = dict(zip(inputs, batch, strict=True))
        return dict(zip(outputs, session.run(outputs, feed), strict=True))

    try:
        return in_batches(run, pixels, shapes_of_inputs(model), BATCH, str(path))
    except QatError:
        raise
    except Exception as error:
        raise _cannot_run(path, error) from None


def _write(model: onnx.ModelProto, path: str | Path) -> None:
    onnx.checker.check_model(model, full_check=True)
    write_atomically(path, model.SerializeToString())


def _offset(grid: Grid) -> int:
    """What is added to a code to make it a uint8 of the file."""
    return 128 if grid.qmin < 0 else 0


def _names(name: str, count: int) -> list[str]:
    """What inputs or outputs are called: "input" where there is one, else "input0", "input1", ..."""
    return [name] if count == 1 else [f"{name}{i}" for i in range(count)]


def _codes(name: str) -> str:
    """What the codes of a node are called in the file: no name of a network's own can be equal to another's, or to
    those of inputs and outputs."""
    return f"{name}.q"


class _Writer:
    """Gathers nodes and initializers; equal initializers are stored once."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.opset, self.ir_version = OPSET, IR_VERSION
        self._initializers: dict[tuple[str, Shape, bytes], onnx.TensorProto] = {}

    def node(self, op: str, inputs: list[str], output: str | None = None, **attributes: Any) -> str:
        """Append a node; returns the name of its output."""
        output = output or f"@{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [output], **attributes))
        return output

    def constant(self, array: Array) -> str:
        """The name of an initializer that holds the array."""
        array = np.asarray(array, order="C")
        key = (array.dtype.name, array.shape, array.tobytes())
        if key not in self._initializers:
            self._initializers[key] = numpy_helper.from_array(array, f"#{len(self._initializers)}")
        return self._initializers[key].name

    def packed(self, codes: Array, bits: int) -> str:
        """The name of an initializer that holds codes of so few bits several to a byte, cast to int8 or uint8.

        A Cast is folded when the file is loaded, after which it is as one of bytes. A DequantizeLinear of INT4 itself would
        not be fused: ONNX Runtime would compute the layer in float.
        """
        opset, ir_version, signed, unsigned = PACKED[bits]
        self.opset, self.ir_version = max(self.opset, opset), max(self.ir_version, ir_version)
        kind = signed if codes.dtype == np.int8 else unsigned
        key = (f"{kind}", codes.shape, codes.tobytes())
        if key not in self._initializers:
            name = f"#{len(self._initializers)}"
            data = pack(codes, bits)
            self._initializers[key] = helper.make_tensor(name, kind, codes.shape, data, raw=True)
        to = TensorProto.INT8 if codes.dtype == np.int8 else TensorProto.UINT8
        return self.node("Cast", [self._initializers[key].name], to=to)

    def model(self, name: str, inputs: Sequence[Shape], outputs: Sequence[Shape]) -> onnx.ModelProto:
        """The finished model; inputs, outputs: their shapes."""

        def described(what: str, kind: int, shapes: Sequence[Shape]) -> list[onnx.ValueInfoProto]:
            pairs = zip(_names(what, len(shapes)), shapes, strict=True)
            return [helper.make_tensor_value_info(name, kind, ["N", *shape]) for name, shape in pairs]

        graph = helper.make_graph(
            self.nodes,
            name,
            described("input", TensorProto.UINT8, inputs),
            described("output", TensorProto.FLOAT, outputs),
            list(self._initializers.values()),
        )
        opsets = [helper.make_opsetid("", self.opset)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=self.ir_version, producer_name="qat-engine")


class _QdqWriter(_Writer):
    """Writes the nodes of an integer graph."""

    def __init__(self, unsigned: bool, packed: bool) -> None:
        super().__init__()
        self.unsigned, self.widths = unsigned, tuple(PACKED) if packed else ()
        self._names: dict[str, str] = {}  # tensor of codes -> its name in the file
        self._real: dict[str, str] = {}  # tensor of codes -> its dequantized form
        self._reductions: list[onnx.NodeProto] = []  # that lack their axes

    def enter(self, inputs: Sequence[IntegerTensor]) -> None:
        """Name the inputs."""
        self._names |= {x.name: name for x, name in zip(inputs, _names("input", len(inputs)), strict=True)}

    def dequantize(self, x: IntegerTensor, output: str | None = None) -> str:
        """The real numbers of a tensor of codes."""
        if output is not None or x.name not in self._real:
            made = self.node("DequantizeLinear", [self._names[x.name], *self._grid(x.grid)], output)
            self._real.setdefault(x.name, made)
            return made
        return self._real[x.name]

    def _grid(self, grid: Grid) -> list[str]:
        return [self.constant(grid.scale), self.constant(np.uint8(grid.zero_point + _offset(grid)))]

    def _quantize(self, real: str, node: IntegerNode, low: int | None = None, high: int | None = None) -> None:
        """Real numbers to the node's codes, clipped to the centred codes [low, high] where that is less than uint8."""
        grid = node.output.grid
        zero = grid.zero_point + _offset(grid)
        bounds = (zero + (grid.low if low is None else low), zero + (grid.high if high is None else high))
        full = bounds == (0, 255) or low is None
        codes = self.node("QuantizeLinear", [real, *self._grid(grid)], _codes(node.name) if full else None)
        if not full:
            limits = [self.constant(np.uint8(bound)) for bound in bounds]
            self.node("Clip", [codes, *limits], _codes(node.name))
        self._names[node.name] = _codes(node.name)

    @singledispatchmethod
    def add(self, node: IntegerNode) -> None:
        """Append a node of the integer graph."""
        raise QatError(f"{node.name}: ONNX has no form for {type(node).__name__}; export to another format")

    @add.register
    def _(self, node: IntegerInput) -> None:
        assert node.name in self._names, "inputs are named before any node is added"

    @add.register
    def _(self, node: IntegerConv2d) -> None:
        top, bottom, left, right = node.padding
        self._linear(
            node,
            "Conv",
            kernel_shape=node.weight.shape[2:],
            strides=node.stride,
            pads=[top, left, bottom, right],
            dilations=node.dilation,
            group=node.group,
        )

    @add.register
    def _(self, node: IntegerDense) -> None:
        self._linear(node, "Gemm", transB=1)

    def _linear(self, node: IntegerLinear, op: str, **attributes: Any) -> None:
        x = node.inputs[0]
        scale, weight, zero = node.weight_scale, node.weight, node.weight_zero_point
        if weight.dtype == np.int8 and self.unsigned:
            offset = 1 << (storage_bits(weight, self.widths) - 1)
            weight, zero = (weight.astype(np.int32) + offset).astype(np.uint8), zero + offset
        inputs = [self.dequantize(x), self._constant_codes(weight, scale, zero.astype(weight.dtype))]
        if node.bias.any():
            inputs.append(self._constant_codes(node.bias, x.grid.scale * scale, np.zeros(len(scale), np.int32)))
        real = self.node(op, inputs, **attributes)
        self._quantize(real, node, node.requantize.low, node.requantize.high)

    def _constant_codes(self, codes: Array, scale: Array, zero: Array) -> str:
        """The real numbers of constant codes; one scale and zero point stand for many equal ones."""
        if (scale == scale[0]).all() and (zero == zero[0]).all():
            scale, zero, axis = scale[0], zero[0], {}
        else:
            axis = {"axis": 0}
        bits = storage_bits(codes, self.widths)
        stored = self.packed(codes, bits) if bits in PACKED and codes.dtype != np.int32 else self.constant(codes)
        names = [stored, self.constant(scale)]
        if codes.dtype != np.int32:  # a bias needs none; without a weight's ONNX Runtime does not fuse its Gemm
            names.append(self.constant(zero))
        return self.node("DequantizeLinear", names, **axis)

    @add.register
    def _(self, node: IntegerMaxPool2d) -> None:
        top, bottom, left, right = node.padding
        pads = [top, left, bottom, right]
        real = self.dequantize(node.inputs[0])
        pooled = self.node("MaxPool", [real], kernel_shape=node.kernel, strides=node.stride, pads=pads)
        self._quantize(pooled, node)

    @add.register
    def _(self, node: IntegerFlatten) -> None:
        self._quantize(self.node("Flatten", [self.dequantize(node.inputs[0])]), node)

    @add.register
    def _(self, node: IntegerAdd) -> None:
        real = self.node("Add", [self.dequantize(x) for x in node.inputs])
        self._quantize(real, node, node.requantize.low, node.requantize.high)

    @add.register
    def _(self, node: IntegerConcat) -> None:
        self._quantize(self.node("Concat", [self.dequantize(x) for x in node.inputs], axis=1), node)

    @add.register
    def _(self, node: IntegerTable) -> None:
        source, grid = node.inputs[0].grid, node.output.grid
        table = np.zeros(256, np.uint8)
        first = source.qmin + _offset(source)
        table[first : first + len(node.table)] = node.table + grid.zero_point + _offset(grid)
        index = self.node("Cast", [self._names[node.inputs[0].name]], to=TensorProto.INT32)
        self._names[node.name] = self.node("Gather", [self.constant(table), index], _codes(node.name), axis=0)

    @add.register
    def _(self, node: IntegerSoftmax) -> None:
        """Integers in int32 and float32, as ``IntegerSoftmax.evaluate``: no runtime's own softmax is exact."""
        (x,) = node.inputs
        codes = self.node("Cast", [self._names[x.name]], to=TensorProto.INT32)
        largest = self._largest(codes)
        e = self.node("Gather", [self.constant(node.table), self.node("Sub", [largest, codes])], axis=0)
        total = self.node("ReduceSum", [e, self.constant(np.array([1]))], keepdims=1)
        share = self.node("Div", [self.constant(np.float32(256.0)), total])
        scaled = self.node("Mul", [e, share])
        one, zero = self.constant(np.float32(1.0)), self.constant(np.uint8(0))
        self._names[node.name] = self.node("QuantizeLinear", [scaled, one, zero], _codes(node.name))

    def _largest(self, x: str) -> str:
        """Over the channels. Opset 18 made an input of the attribute; which one it is, ``model`` knows at the end."""
        output = self.node("ReduceMax", [x], keepdims=1)
        self._reductions.append(self.nodes[-1])
        return output

    def model(self, name: str, inputs: Sequence[Shape], outputs: Sequence[Shape]) -> onnx.ModelProto:
        for node in self._reductions:
            if self.opset < 18:
                node.attribute.append(helper.make_attribute("axes", [1]))
            else:
                node.input.append(self.constant(np.array([1])))
        return super().model(name, inputs, outputs)


class _Symbol:
    """A tensor of the ONNX graph that is being written; arithmetic on it appends nodes."""

    def __init__(self, writer: _Writer, name: str) -> None:
        self.writer, self.name = writer, name

    def _binary(self, op: str, left: _Symbol | float, right: _Symbol | float) -> _Symbol:
        names = [x.name if isinstance(x, _Symbol) else self.writer.constant(np.float32(x)) for x in (left, right)]
        return _Symbol(self.writer, self.writer.node(op, names))

    def __add__(self, other: _Symbol | float) -> _Symbol:
        return self._binary("Add", self, other)

    def __sub__(self, other: _Symbol | float) -> _Symbol:
        return self._binary("Sub", self, other)

    def __rsub__(self, other: float) -> _Symbol:
        return self._binary("Sub", other, self)

    def __mul__(self, other: _Symbol | float) -> _Symbol:
        return self._binary("Mul", self, other)

    def __truediv__(self, other: _Symbol | float) -> _Symbol:
        return self._binary("Div", self, other)

    def __neg__(self) -> _Symbol:
        return self._binary("Sub", 0.0, self)


class _OnnxOps:
    """The part of the vocabulary that a float forward pass uses; running it writes the ONNX graph.

    It is no subclass of ``Ops``: whatever is not here cannot be written, and says so.
    """

    def __init__(self, writer: _Writer) -> None:
        self.writer = writer

    def __getattr__(self, name: str) -> Any:
        raise QatError(
            f"the ONNX form of a float network has no operation {name!r}; export the quantized network instead"
        )

    def _node(self, op: str, *inputs: _Symbol | None, **attributes: Any) -> _Symbol:
        return _Symbol(self.writer, self.writer.node(op, [x.name for x in inputs if x is not None], **attributes))

    def from_numpy(self, array: Array, kind: Kind) -> _Symbol:
        return _Symbol(self.writer, self.writer.constant(np.asarray(array, np.float32)))

    def on_channel(self, vector: _Symbol, activation: _Symbol) -> _Symbol:
        return vector  # in a float network only the input has a scale, and that is a scalar

    def conv2d(
        self,
        x: _Symbol,
        w: _Symbol,
        bias: _Symbol | None,
        *,
        stride: Pair,
        padding: Padding,
        dilation: Pair,
        group: int,
    ) -> _Symbol:
        top, bottom, left, right = padding
        pads = [top, left, bottom, right]
        return self._node("Conv", x, w, bias, strides=stride, pads=pads, dilations=dilation, group=group)

    def dense(self, x: _Symbol, w: _Symbol, bias: _Symbol | None) -> _Symbol:
        return self._node("Gemm", x, w, bias, transB=1)

    def max_pool2d(self, x: _Symbol, *, kernel: Pair, stride: Pair, padding: Padding) -> _Symbol:
        top, bottom, left, right = padding
        return self._node("MaxPool", x, kernel_shape=kernel, strides=stride, pads=[top, left, bottom, right])

    def flatten(self, x: _Symbol) -> _Symbol:
        return self._node("Flatten", x)

    def relu(self, x: _Symbol) -> _Symbol:
        return self._node("Relu", x)

    def sigmoid(self, x: _Symbol) -> _Symbol:
        return self._node("Sigmoid", x)

    def tanh(self, x: _Symbol) -> _Symbol:
        return self._node("Tanh", x)

    def softmax(self, x: _Symbol) -> _Symbol:
        return self._node("Softmax", x, axis=1)

    def concat(self, xs: Sequence[_Symbol]) -> _Symbol:
        return self._node("Concat", *xs, axis=1)

    def sum_pool2d(self, x: _Symbol, *, kernel: Pair, stride: Pair, padding: Padding) -> _Symbol:
        top, bottom, left, right = padding
        pads = [top, left, bottom, right]
        mean = self._node("AveragePool", x, kernel_shape=kernel, strides=stride, pads=pads, count_include_pad=1)
        return mean * float(kernel[0] * kernel[1])
