"""TensorFlow Lite: an integer graph, or a float network, written straight as a flatbuffer and run in LiteRT.

Activations are int8, NHWC. A code c of a grid [qmin, qmax] is stored as c - qmin - 128, so that the lowest code of every grid
is -128: a uint8 pixel p enters as p - 128, and 8-bit signed codes stay as they are. The file holds a batch of one; LiteRT's
``resize_tensor_input`` makes it larger. ``predict`` takes raw uint8 pixels, (N, C, H, W), as every target does, and returns
real numbers.

Of the two profiles (docs/numerics.md), "float" is LiteRT as it comes, with XNNPACK; "fixed" its reference kernels, and
there dense layers are written as convolutions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from functools import singledispatchmethod
from pathlib import Path
from typing import Any, NamedTuple

import ai_edge_litert
import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from qat.arrays import Arrays, as_arrays, in_batches
from qat.cells.base import Shape
from qat.cells.window import output_size
from qat.errors import QatError
from qat.files import write_atomically
from qat.forward import Forward
from qat.graph import Graph
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
    sums_tie,
)
from qat.ops import Array, Kind, Padding, Pair
from qat.passes.fold_batch_norm import fold_batch_norm
from qat.widths import check_packing, pack, require_bytes, storage_bits

PROFILES = ("float", "fixed")
METADATA = "qat."  #: before our keys in the metadata
DIGEST = METADATA + "digest"  #: the SHA-256 of all of the file before it, its last 32 bytes
IDENTIFIER = b"TFL3"
BATCH = 100  #: images in one run of an interpreter
LARGEST_WEIGHT = 127
#: What XNNPACK takes; with others LiteRT falls back to kernels of the fixed profile.
MULTIPLIERS = (2.0**-32, 2.0**8)

Op, Type, Options = schema.BuiltinOperator, schema.TensorType, schema.BuiltinOptions
Fused, Pad = schema.ActivationFunctionType, schema.Padding
TYPES = {np.dtype(np.int8): Type.INT8, np.dtype(np.int32): Type.INT32, np.dtype(np.float32): Type.FLOAT32}
TYPES[np.dtype(np.uint8)] = Type.UINT8
PACKED = {4: Type.INT4, 2: Type.INT2}  #: bits of weights -> their type
#: The version of an operator from which on it takes int8.
VERSIONS = {
    Op.CONV_2D: 3,
    Op.DEPTHWISE_CONV_2D: 3,
    Op.FULLY_CONNECTED: 4,
    Op.MAX_POOL_2D: 2,
    Op.ADD: 2,
    Op.CONCATENATION: 2,
    Op.PAD: 2,
    Op.PADV2: 2,
    Op.TRANSPOSE: 2,
    Op.GATHER: 2,
    Op.MINIMUM: 2,
    Op.MAXIMUM: 2,
}


def export(graph: IntegerGraph, path: str | Path, *, profile: str = "float", packing: str = "packed") -> None:
    """Write an integer graph. Raises QatError for what LiteRT does not compute exactly in that profile.

    packing: "packed" stores weights of 4 bits and fewer as INT4, in the float profile those of dense layers alone and of 2
    bits as INT2; "bytes" does not.
    """
    packed = check_packing(packing)
    if profile not in PROFILES:
        raise QatError(f"{path}: profile {profile!r} is unknown; use one of {', '.join(PROFILES)}")
    require_bytes(graph, f"LiteRT in the {profile} profile")
    writer = _IntegerWriter(graph, profile, packed)
    for node in graph.nodes:
        writer.add(node)
    model = writer.model([writer.leave(x) for x in graph.outputs], graph.name)
    _set_metadata(model, METADATA + "profile", profile.encode())
    write_atomically(path, _pack(model))


def profile_of(path: str | Path) -> str:
    """The profile that a file was exported for."""
    return read_metadata(path).get("profile", PROFILES[0])


def export_float(graph: Graph, params: Mapping[str, Array], path: str | Path) -> None:
    """Write a float network; it takes uint8 pixels, NHWC, and returns float32."""
    if graph.is_quantized:
        raise QatError(f"{graph.name} is quantized: give the checkpoint of the float network it was made from")
    graph, params = fold_batch_norm(graph, params)
    writer = _Writer()
    ops = _TfliteOps(writer)
    tensors = {name: ops.from_numpy(params[name], param.kind) for name, param in graph.params.items()}
    pixels = []
    for node in graph.inputs:
        shape = _stored_shape(graph.shapes[node.name])
        writer.inputs.append(writer.tensor(shape, np.uint8, name=node.name))
        real = writer.op(Op.CAST, [writer.inputs[-1]], writer.tensor(shape, np.float32))
        pixels.append(_Symbol(writer, real, shape))
    results, _ = Forward(graph, ops)(tensors, tuple(pixels), training=False, phase=0)
    write_atomically(path, _pack(writer.model([result.index for result in results], graph.name)))


def write_metadata(path: str | Path, metadata: Mapping[str, str]) -> None:
    """Set entries of a file's metadata, each behind "qat."; nothing that is computed changes."""
    model = _load(path).model
    for key, value in metadata.items():
        _set_metadata(model, METADATA + key, value.encode())
    write_atomically(path, _pack(model))


def read_metadata(path: str | Path) -> dict[str, str]:
    """What ``write_metadata`` wrote."""
    model = _load(path).model
    entries = {entry.name.decode(): model.buffers[entry.buffer].data for entry in model.metadata or []}
    return {
        name.removeprefix(METADATA): bytes(data).decode()
        for name, data in entries.items()
        if name.startswith(METADATA) and name != DIGEST
    }


def input_shapes(path: str | Path) -> list[Shape]:
    """The shapes of its inputs, (C, H, W) or (F,)."""
    subgraph = _load(path).model.subgraphs[0]
    return [_canonical_shape(subgraph.tensors[index].shape[1:]) for index in subgraph.inputs]


def predict(path: str | Path, pixels: Arrays, *, profile: str = "float") -> Arrays:
    """Real outputs (N, ...), float32, of raw pixels (N, C, H, W), computed by LiteRT from the file as it is.

    A network with several inputs takes a tuple of arrays, one with several outputs returns a tuple.
    """
    file = _load(path, profile)
    outputs = file.model.subgraphs[0].outputs
    found = _infer(path, file.content, list(range(len(outputs))), pixels, profile)
    real = []
    for position, index in enumerate(outputs):
        x, quantization = found[position], file.model.subgraphs[0].tensors[index].quantization
        if x.dtype == np.int8:
            x = (x.astype(np.float32) - np.float32(quantization.zeroPoint[0])) * np.float32(quantization.scale[0])
        real.append(_canonical(x))
    return as_arrays(tuple(real))


def trace(
    path: str | Path, pixels: Arrays, tensors: Collection[IntegerTensor], *, profile: str = "float"
) -> dict[str, Array]:
    """Codes of the named tensors, from a copy of the file that has them as further outputs.

    LiteRT's own way of keeping intermediate tensors would switch XNNPACK off.
    """
    model = _load(path, profile).model
    subgraph = model.subgraphs[0]
    shapes = {
        operator.outputs[0]: subgraph.tensors[operator.inputs[0]].shape
        for operator in subgraph.operators
        if len(operator.inputs)
    }
    inputs = set(subgraph.inputs)
    indices = {
        tensor.name.decode(): index
        for index, tensor in enumerate(subgraph.tensors)
        if tensor.name and index not in inputs
    }
    wanted = {x.name: x for x in tensors if x.name in indices or _permuted(x.name) in indices}
    if not wanted:  # nothing but the network's inputs
        return {}
    subgraph.outputs = [indices.get(name, indices.get(_permuted(name))) for name in wanted]
    found = _infer(path, _pack(model), list(range(len(wanted))), pixels, profile)
    result = {}
    for position, (name, x) in enumerate(wanted.items()):
        codes = found[position]
        if name not in indices:  # flattened in HWC order
            codes = codes.reshape(-1, *shapes[indices[_permuted(name)]][1:])
            codes = codes.transpose(0, 3, 1, 2).reshape(len(codes), -1)
        codes = _canonical(codes).reshape(len(codes), *x.shape)
        result[name] = codes.astype(np.int32) - _offset(x.grid)
    return result


def runtime(profile: str = "float") -> str:
    """What ``predict`` runs in, with its version and options."""
    version = getattr(ai_edge_litert, "__version__", "")
    kernels = "default options, XNNPACK" if profile == "float" else "reference kernels"
    return f"LiteRT {version} ({kernels})"


# -- files ------------------------------------------------------------------------------------------------------------


class _File(NamedTuple):
    content: bytes
    model: Any


def _load(path: str | Path, profile: str = "float") -> _File:
    """A file whose content is what was written; LiteRT may crash on any other. profile: that it is to be run in."""
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
    if profile == "fixed" and any(code.builtinCode == Op.FULLY_CONNECTED for code in model.operatorCodes):
        raise QatError(
            f"{path}: was exported for the float profile: its dense layers are of a kind that LiteRT's reference kernels round "
            "otherwise; export it with --profile fixed"
        )
    return _File(content, model)


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


def _set_metadata(model: Any, name: str, data: bytes) -> None:
    model.metadata = model.metadata or []
    for entry in model.metadata:
        if entry.name in (name, name.encode()):
            model.buffers[entry.buffer].data = data
            return
    entry = schema.MetadataT(name=name, buffer=len(model.buffers))
    model.metadata.append(entry)
    model.buffers.append(schema.BufferT(data=data))


def _pack(model: Any) -> bytes:
    """The bytes of a model, sealed with a digest.

    A flatbuffer grows from its end, so that what is written first stands last: the data of the digest.
    """
    _set_metadata(model, DIGEST, bytes(32))
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


def _infer(path: str | Path, content: bytes, outputs: list[int], pixels: Arrays, profile: str) -> dict[int, Array]:
    """What LiteRT computes for each of the outputs, by position, as the file stores it."""
    resolver = OpResolverType.BUILTIN_REF if profile == "fixed" else OpResolverType.AUTO
    try:
        interpreter = Interpreter(model_content=content, experimental_op_resolver_type=resolver)
        inputs, results = interpreter.get_input_details(), interpreter.get_output_details()
    except (ValueError, RuntimeError) as error:
        raise _cannot_run(path, error) from None
    shapes = [_canonical_shape(x["shape"][1:].tolist()) for x in inputs]
    rows = None

    def run(batch: tuple[Array, ...]) -> dict[int, Array]:
        nonlocal rows
        if len(batch[0]) != rows:
            rows = len(batch[0])
            for entry in inputs:
                interpreter.resize_tensor_input(entry["index"], [rows, *entry["shape"][1:]])
            interpreter.allocate_tensors()
        for entry, x in zip(inputs, batch, strict=True):
            stored = _stored(x)
            interpreter.set_tensor(
                entry["index"], (stored ^ 0x80).view(np.int8) if entry["dtype"] == np.int8 else stored
            )
        interpreter.invoke()
        return {position: interpreter.get_tensor(results[position]["index"]) for position in outputs}

    try:
        return in_batches(run, pixels, shapes, BATCH, str(path))
    except (ValueError, RuntimeError) as error:
        raise _cannot_run(path, error) from None


def _cannot_run(path: str | Path, error: Exception) -> QatError:
    reason = " ".join(str(error).split())
    return QatError(f"{path}: LiteRT cannot run it as a file of qat export ({reason}); export it anew")


# -- layouts ----------------------------------------------------------------------------------------------------------


def _stored_shape(shape: Shape) -> Shape:
    """Of one sample: (C, H, W) is stored as (1, H, W, C)."""
    return (1, *shape[1:], shape[0]) if len(shape) == 3 else (1, *shape)


def _canonical_shape(stored: Sequence[int]) -> Shape:
    """(C, H, W) of (H, W, C)."""
    shape = tuple(int(size) for size in stored)
    return (shape[2], *shape[:2]) if len(shape) == 3 else shape


def _stored(x: Array) -> Array:
    return np.ascontiguousarray(x.transpose(0, 2, 3, 1)) if x.ndim == 4 else x


def _canonical(x: Array) -> Array:
    return np.ascontiguousarray(x.transpose(0, 3, 1, 2)) if x.ndim == 4 else x


def _offset(grid: Grid) -> int:
    """What is added to a code to make it an int8 of the file."""
    return -128 - grid.qmin


def _permuted(name: str) -> str:
    """What the codes of a Flatten are called that are stored in HWC order."""
    return f"{name}@hwc"


# -- writing ----------------------------------------------------------------------------------------------------------


class _Writer:
    """Gathers tensors and operators; equal constants are stored once."""

    def __init__(self) -> None:
        self.inputs: list[int] = []
        self.tensors: list[Any] = []
        self._buffers: list[Any] = [schema.BufferT()]  # the first one is empty, by convention
        self._operators: list[Any] = []
        self._codes: dict[int, int] = {}
        self._known: dict[tuple[Any, ...], int] = {}

    def tensor(self, shape: Shape, dtype: Any, quantization: Any = None, name: str = "", buffer: int = 0) -> int:
        """Append a tensor; returns its index."""
        self.tensors.append(
            schema.TensorT(
                shape=np.array(shape, np.int32),
                type=TYPES[np.dtype(dtype)],
                buffer=buffer,
                name=name or None,
                quantization=quantization,
            )
        )
        return len(self.tensors) - 1

    def constant(
        self, array: Array, scale: Array | None = None, zero_point: int = 0, axis: int = 0, bits: int | None = None
    ) -> int:
        """The index of a constant tensor; scale: (1,) or (O,), float32, along ``axis``; bits: of what is packed."""
        array = np.asarray(array, order="C")
        scales = b"" if scale is None else scale.tobytes()
        key = (array.dtype.name, array.shape, array.tobytes(), scales, zero_point, axis, bits)
        if key not in self._known:
            data = array.tobytes() if bits is None else pack(array, bits)
            self._buffers.append(schema.BufferT(data=data))
            quantization = None if scale is None else _quantization(scale, zero_point, axis)
            index = self.tensor(array.shape, array.dtype, quantization, buffer=len(self._buffers) - 1)
            if bits is not None:
                self.tensors[index].type = PACKED[bits]
            self._known[key] = index
        return self._known[key]

    def op(self, op: int, inputs: list[int], output: int, options: Any = None) -> int:
        """Append an operator; returns its output."""
        kind = 0 if options is None else getattr(Options, type(options).__name__.removesuffix("T"))
        operator = schema.OperatorT(
            opcodeIndex=self._codes.setdefault(op, len(self._codes)),
            inputs=np.array(inputs, np.int32),
            outputs=np.array([output], np.int32),
            builtinOptionsType=kind,
            builtinOptions=options,
        )
        self._operators.append(operator)
        return output

    @staticmethod
    def _mode(size: Pair, kernel: Pair, stride: Pair, dilation: Pair, padding: Padding) -> int | None:
        """SAME or VALID where one of them reads what the explicit padding reads, else None."""
        top, bottom, left, right = padding
        axes = list(zip(size, kernel, stride, dilation, ((top, bottom), (left, right)), strict=True))
        valid, same = True, True
        for length, k, s, d, (before, after) in axes:
            reach = d * (k - 1) + 1
            count = (length + before + after - reach) // s + 1
            valid &= before == 0 and count == (length - reach) // s + 1
            outputs = -(-length // s)
            same &= count == outputs and before == max((outputs - 1) * s + reach - length, 0) // 2
        return Pad.VALID if valid else Pad.SAME if same else None

    def _padded(self, x: int, padding: Padding, lowest: bool) -> int:
        """Explicit padding of rows and columns: by zeros, or by the lowest number of all."""
        top, bottom, left, right = padding
        tensor = self.tensors[x]
        n, height, width, channels = tensor.shape
        shape = (n, height + top + bottom, width + left + right, channels)
        integer = tensor.type == Type.INT8
        output = self.tensor(shape, np.int8 if integer else np.float32, tensor.quantization)
        widths = self.constant(np.array([[0, 0], [top, bottom], [left, right], [0, 0]], np.int32))
        if not lowest or (integer and tensor.quantization.zeroPoint[0] == -128):
            return self.op(Op.PAD, [x, widths], output, schema.PadOptionsT())
        if integer:
            scale, zero = tensor.quantization.scale, tensor.quantization.zeroPoint[0]
            value = self.constant(np.array([-128], np.int8), scale, zero)
        else:
            value = self.constant(np.array([-np.inf], np.float32))
        return self.op(Op.PADV2, [x, widths, value], output, schema.PadV2OptionsT())

    def window(
        self, x: int, kernel: Pair, stride: Pair, padding: Padding, dilation: Pair = (1, 1), lowest: bool = False
    ) -> tuple[int, int]:
        """The tensor that a window slides over, padded explicitly where need be, and SAME or VALID."""
        _, height, width, _ = self.tensors[x].shape
        mode = self._mode((height, width), kernel, stride, dilation, padding)
        return (x, mode) if mode is not None else (self._padded(x, padding, lowest), Pad.VALID)

    def model(self, outputs: list[int], name: str) -> Any:
        """The finished model."""
        codes = [
            schema.OperatorCodeT(deprecatedBuiltinCode=min(op, 127), version=VERSIONS.get(op, 1), builtinCode=op)
            for op in self._codes
        ]
        subgraph = schema.SubGraphT(
            tensors=self.tensors,
            inputs=np.array(self.inputs, np.int32),
            outputs=np.array(outputs, np.int32),
            operators=self._operators,
            name=name,
        )
        return schema.ModelT(version=3, operatorCodes=codes, subgraphs=[subgraph], buffers=self._buffers)


def _quantization(scale: Array, zero_point: int, axis: int = 0) -> Any:
    return schema.QuantizationParametersT(
        scale=np.asarray(scale, np.float32).reshape(-1),
        zeroPoint=np.full(np.size(scale), zero_point, np.int64),
        quantizedDimension=axis,
    )


class _IntegerWriter(_Writer):
    """Writes the nodes of an integer graph."""

    def __init__(self, graph: IntegerGraph, profile: str, packed: bool) -> None:
        super().__init__()
        self.profile = profile
        self.packed = packed
        self._index: dict[str, int] = {}  # tensor of codes -> its index in the file
        self._hwc: dict[str, Shape] = {}  # Flatten in HWC order -> (C, H, W)
        self._points: dict[str, int] = {}  # row of features -> its index as (1, 1, 1, F)
        readers: dict[str, list[IntegerNode]] = {node.name: [] for node in graph.nodes}
        for node in graph.nodes:
            for x in node.inputs:
                readers[x.name].append(node)
        outputs = {x.name for x in graph.outputs}
        #: Where a dense layer's weight can follow the file's order of features.
        self._free = {
            name
            for name, nodes in readers.items()
            if name not in outputs and all(isinstance(node, IntegerDense) for node in nodes)
        }
        self._entries = {x.name for x in graph.inputs}

    def codes(self, x: IntegerTensor, name: str | None = None, shape: Shape | None = None) -> int:
        """A new tensor for codes of that grid, and of that shape in the file."""
        grid = x.grid
        quantization = _quantization(np.array([grid.scale]), grid.zero_point + _offset(grid))
        shape = _stored_shape(x.shape) if shape is None else shape
        return self.tensor(shape, np.int8, quantization, x.name if name is None else name)

    def of(self, x: IntegerTensor) -> int:
        """The index of the codes of a tensor."""
        if x.name not in self._index:
            self._index[x.name] = self._reshape(self._points[x.name], self.codes(x, ""))
        return self._index[x.name]

    def _point(self, x: IntegerTensor) -> int:
        """The index of the codes of a row of features, as an image of one pixel."""
        if x.name not in self._points:
            self._points[x.name] = self._reshape(self.of(x), self.codes(x, "", (1, 1, 1, *x.shape)))
        return self._points[x.name]

    def _reshape(self, x: int, output: int) -> int:
        shape = self.constant(np.array([-1, *self.tensors[output].shape[1:]], np.int32))
        return self.op(Op.RESHAPE, [x, shape], output, schema.ReshapeOptionsT())

    def leave(self, x: IntegerTensor) -> int:
        """The index of an output. An input that is one too is copied, since LiteRT's may not be both."""
        if x.name not in self._entries:
            return self.of(x)
        return self._reshape(self.of(x), self.codes(x, ""))

    def _clipped(
        self, node: IntegerLinear | IntegerAdd, shape: Shape | None = None
    ) -> tuple[int, int, list[tuple[int, int]]]:
        """How a node's clip is written: its fused activation, its output tensor, and what follows of (operator, bound)."""
        grid = node.output.grid
        zero = grid.zero_point + _offset(grid)
        low, high = zero + node.requantize.low, zero + node.requantize.high
        six = 6.0 / float(grid.scale)
        forms = {Fused.NONE: (-128, 127), Fused.RELU: (zero, 127)}
        if np.rint(six - 1e-3) == np.rint(six + 1e-3):  # else runtimes round it differently
            forms[Fused.RELU6] = (zero, min(127, zero + int(np.rint(six))))
        best: tuple[int, list[tuple[int, int]]] | None = None
        for fused, (lowest, highest) in forms.items():
            if lowest <= low and high <= highest:
                rest = [(Op.MAXIMUM, low)] * (lowest < low) + [(Op.MINIMUM, high)] * (high < highest)
                if best is None or len(rest) < len(best[1]):
                    best = fused, rest
        assert best is not None, "NONE holds every clip"
        return best[0], self.codes(node.output, "" if best[1] else None, shape), best[1]

    def _finish(self, node: IntegerNode, index: int, clips: Sequence[tuple[int, int]] = ()) -> None:
        """Name ``index`` as the node's codes, after the clips."""
        grid = node.output.grid
        shape = tuple(self.tensors[index].shape)
        for position, (op, bound) in enumerate(clips):
            output = self.codes(node.output, None if position == len(clips) - 1 else "", shape)
            limit = self.constant(np.array([bound], np.int8), np.array([grid.scale]), grid.zero_point + _offset(grid))
            index = self.op(op, [index, limit], output, schema.MaximumMinimumOptionsT())
        places = self._index if len(shape) == 1 + len(node.output.shape) else self._points
        places[node.name] = index

    @singledispatchmethod
    def add(self, node: IntegerNode) -> None:
        """Append a node of the integer graph."""
        raise QatError(f"{node.name}: TFLite has no form for {type(node).__name__}; export to another format")

    @add.register
    def _(self, node: IntegerInput) -> None:
        self._index[node.name] = self.codes(node.output)
        self.inputs.append(self._index[node.name])

    def _check_multiplier(self, node: IntegerLinear) -> None:
        """Raises QatError where LiteRT's kernels of the profile refuse the multiplier."""
        if self.profile == "fixed":
            _ = node.fixed  # or its QatError
            return
        multiplier = node.inputs[0].grid.scale * node.moderate_weight_scale / node.output.grid.scale
        if not (multiplier >= MULTIPLIERS[0]).all() or not (multiplier < MULTIPLIERS[1]).all():
            raise QatError(
                f"{node.name}: multiplies by {multiplier.min():g} to {multiplier.max():g} to requantize, and XNNPACK takes "
                f"{MULTIPLIERS[0]:g} to {MULTIPLIERS[1]:g}, so that LiteRT would round otherwise; its output's range does not "
                "suit its input's: train it further, or export to ONNX"
            )

    def _packed_widths(self, node: IntegerLinear) -> tuple[int, ...]:
        """The widths in which LiteRT computes a layer's packed weight as it does one of int8."""
        if not self.packed:
            return ()
        if self.profile == "fixed":
            return (4,)
        if not isinstance(node, IntegerDense):
            return ()  # LiteRT's own kernel would take it, which rounds otherwise
        return tuple(
            bits for bits in PACKED if node.weight.shape[1] % (8 // bits) == 0
        )  # likewise: rows end with a byte

    def _constants(self, node: IntegerLinear, weight: Array, axis: int) -> list[int]:
        """The weight (centred codes, in the file's layout) and the bias."""
        if np.abs(weight).max() > LARGEST_WEIGHT:
            raise QatError(
                f"{node.name}: its weights have zero point {int(node.weight_zero_point[0])} and then codes of up to "
                f"{int(np.abs(weight).max())}, but TFLite stores int8 weights without a zero point; train it with "
                "symmetric=(True, ...), or export to ONNX"
            )
        scale = node.moderate_weight_scale
        weight = weight.astype(np.int8)
        bits = storage_bits(weight, self._packed_widths(node))
        packed = bits if bits in PACKED else None
        if packed != 2 and (scale == scale[0]).all():  # XNNPACK takes INT2 with one scale for each output only
            scale, axis = scale[:1], 0  # one stands for many equal ones
        constants = [self.constant(weight, scale, axis=axis, bits=packed)]
        return [*constants, self.constant(node.bias, node.inputs[0].grid.scale * scale)]

    @add.register
    def _(self, node: IntegerConv2d) -> None:
        self._check_multiplier(node)
        kernel = (node.weight.shape[2], node.weight.shape[3])
        x, mode = self.window(self.of(node.inputs[0]), kernel, node.stride, node.padding, node.dilation)
        fused, output, clips = self._clipped(node)
        options: dict[str, Any] = {
            "padding": mode,
            "strideH": node.stride[0],
            "strideW": node.stride[1],
            "dilationHFactor": node.dilation[0],
            "dilationWFactor": node.dilation[1],
            "fusedActivationFunction": fused,
        }
        channels = node.inputs[0].shape[0]
        if node.group == channels > 1:
            weight = self._constants(node, node.centred_weight.transpose(1, 2, 3, 0), 3)
            options["depthMultiplier"] = len(node.weight) // channels
            self.op(Op.DEPTHWISE_CONV_2D, [x, *weight], output, schema.DepthwiseConv2DOptionsT(**options))
        else:
            weight = self._constants(node, node.centred_weight.transpose(0, 2, 3, 1), 0)
            self.op(Op.CONV_2D, [x, *weight], output, schema.Conv2DOptionsT(**options))
        self._finish(node, output, clips)

    @add.register
    def _(self, node: IntegerDense) -> None:
        """In the fixed profile a 1x1 convolution: LiteRT's fully connected kernel rounds once, its convolutions twice, as
        those for microcontrollers do in all layers.
        """
        self._check_multiplier(node)
        weight = node.centred_weight
        if node.inputs[0].name in self._hwc:
            shape = self._hwc[node.inputs[0].name]
            weight = weight.reshape(-1, *shape).transpose(0, 2, 3, 1).reshape(weight.shape)
        if self.profile == "fixed":
            fused, output, clips = self._clipped(node, (1, 1, 1, len(weight)))
            inputs = [self._point(node.inputs[0]), *self._constants(node, weight.reshape(len(weight), 1, 1, -1), 0)]
            window = schema.Conv2DOptionsT(padding=Pad.VALID, strideH=1, strideW=1, fusedActivationFunction=fused)
            self._finish(node, self.op(Op.CONV_2D, inputs, output, window), clips)
            return
        fused, output, clips = self._clipped(node)
        options = schema.FullyConnectedOptionsT(fusedActivationFunction=fused)
        inputs = [self.of(node.inputs[0]), *self._constants(node, weight, 0)]
        self._finish(node, self.op(Op.FULLY_CONNECTED, inputs, output, options), clips)

    @add.register
    def _(self, node: IntegerMaxPool2d) -> None:
        x, mode = self.window(self.of(node.inputs[0]), node.kernel, node.stride, node.padding, lowest=True)
        options = _pool_options(node.kernel, node.stride, mode)
        self._finish(node, self.op(Op.MAX_POOL_2D, [x], self.codes(node.output), options))

    @add.register
    def _(self, node: IntegerFlatten) -> None:
        x, shape = self.of(node.inputs[0]), node.inputs[0].shape
        ordered = len(shape) < 3 or shape[0] == 1 or shape[1:] == (1, 1)
        name = None
        if not ordered and node.name in self._free:
            self._hwc[node.name], name = shape, _permuted(node.name)
        elif not ordered:
            order = self.constant(np.array([0, 3, 1, 2], np.int32))
            turned = self.tensor((1, *shape), np.int8, self.tensors[x].quantization)
            x = self.op(Op.TRANSPOSE, [x, order], turned, schema.TransposeOptionsT())
        self._finish(node, self._reshape(x, self.codes(node.output, name)))

    @add.register
    def _(self, node: IntegerAdd) -> None:
        """Where the multiplier is 2^8 or more, every sum but 0 becomes a bound, as with 255.75. XNNPACK leaves such an
        addition to LiteRT's own kernel, which overflows; so it is written with an output scale of that multiplier, and a
        copy has the right scale. (Below 2^-10, which XNNPACK does not take either, LiteRT's kernel gives 0, as it must.)
        """
        _ = node.fixed  # or its QatError
        if self.profile == "float" and sums_tie(node.inputs[0].grid, node.output.grid):
            raise QatError(
                f"{node.name}: the sums of some codes lie half way between two of its own, as powers of two make them, and "
                "XNNPACK rounds such to the other side; export with --profile fixed, to ONNX or MINDIR, or convert without "
                "profile 'ascend'"
            )
        inputs = [self.of(x) for x in node.inputs]
        if node.requantize.multiplier[0] < MULTIPLIERS[1]:
            fused, output, clips = self._clipped(node)
            options = schema.AddOptionsT(fusedActivationFunction=fused)
            self._finish(node, self.op(Op.ADD, inputs, output, options), clips)
            return
        grid = node.output.grid
        zero = grid.zero_point + _offset(grid)
        larger = _quantization(node.inputs[0].grid.scale / np.float32(255.75), zero)
        total = self.tensor(_stored_shape(node.output.shape), np.int8, larger)
        self.op(Op.ADD, inputs, total, schema.AddOptionsT())
        bounds = [(Op.MAXIMUM, zero + node.requantize.low), (Op.MINIMUM, zero + node.requantize.high)]
        clips = [bound for bound, open_end in zip(bounds, (-128, 127), strict=True) if bound[1] != open_end]
        self._finish(node, self._reshape(total, self.codes(node.output, "" if clips else None)), clips)

    @add.register
    def _(self, node: IntegerConcat) -> None:
        options = schema.ConcatenationOptionsT(axis=len(node.output.shape))
        inputs = [self.of(x) for x in node.inputs]
        self._finish(node, self.op(Op.CONCATENATION, inputs, self.codes(node.output), options))

    def _integers(self, x: IntegerTensor) -> int:
        """The codes of a tensor as int32, from -128 on."""
        return self.op(Op.CAST, [self.of(x)], self.tensor(_stored_shape(x.shape), np.int32), schema.CastOptionsT())

    @add.register
    def _(self, node: IntegerTable) -> None:
        """A table of one entry for each code, indexed by code - qmin; no function of LiteRT's own is exact."""
        (x,) = node.inputs
        grid = node.output.grid
        table = (node.table + grid.zero_point + _offset(grid)).astype(np.int8)
        scale, zero = np.array([grid.scale]), grid.zero_point + _offset(grid)
        index = self.tensor(_stored_shape(x.shape), np.int32)
        self.op(Op.ADD, [self._integers(x), self.constant(np.array([128], np.int32))], index, schema.AddOptionsT())
        entries = self.constant(table, scale, zero)
        self._finish(node, self.op(Op.GATHER, [entries, index], self.codes(node.output), schema.GatherOptionsT()))

    @add.register
    def _(self, node: IntegerSoftmax) -> None:
        """Integers in int32 and float32, as ``IntegerSoftmax.evaluate``: LiteRT's own softmax is not exact."""
        (x,) = node.inputs
        shape = _stored_shape(x.shape)
        one = (*shape[:-1], 1)
        axis = self.constant(np.array([len(shape) - 1], np.int32))

        def step(op: int, inputs: list[int], options: Any = None, of: Shape = shape, dtype: Any = np.float32) -> int:
            return self.op(op, inputs, self.tensor(of, dtype), options)

        def number(value: float) -> int:
            return self.constant(np.array([value], np.float32))

        codes = self._integers(x)
        keep = schema.ReducerOptionsT(keepDims=True)
        largest = step(Op.REDUCE_MAX, [codes, axis], keep, one, np.int32)
        behind = step(Op.SUB, [largest, codes], schema.SubOptionsT(), dtype=np.int32)
        e = step(Op.GATHER, [self.constant(node.table), behind], schema.GatherOptionsT())
        total = step(Op.SUM, [e, axis], keep, one)
        share = step(Op.DIV, [number(256.0), total], schema.DivOptionsT(), one)
        scaled = step(Op.MUL, [e, share], schema.MulOptionsT())
        # The reference kernels have no ROUND; adding 1.5 2^23 leaves float32 no bit for a fraction, ties to even.
        raised = step(Op.ADD, [scaled, number(1.5 * 2.0**23)], schema.AddOptionsT())
        rounded = step(Op.SUB, [raised, number(1.5 * 2.0**23)], schema.SubOptionsT())
        clipped = step(Op.MINIMUM, [rounded, number(255.0)], schema.MaximumMinimumOptionsT())
        shifted = step(Op.SUB, [clipped, number(128.0)], schema.SubOptionsT())
        self._finish(node, self.op(Op.CAST, [shifted], self.codes(node.output), schema.CastOptionsT()))


def _pool_options(kernel: Pair, stride: Pair, mode: int) -> Any:
    return schema.Pool2DOptionsT(
        padding=mode, strideH=stride[0], strideW=stride[1], filterHeight=kernel[0], filterWidth=kernel[1]
    )


# -- float networks ---------------------------------------------------------------------------------------------------


class _Symbol:
    """A float tensor of the file that is being written; arithmetic on it appends operators."""

    def __init__(self, writer: _Writer, index: int, shape: Shape) -> None:
        self.writer, self.index, self.shape = writer, index, shape

    def _binary(self, op: int, options: Any, left: _Symbol | float, right: _Symbol | float) -> _Symbol:
        both = [
            x if isinstance(x, _Symbol) else _Symbol(self.writer, self.writer.constant(np.array([x], np.float32)), (1,))
            for x in (left, right)
        ]
        shape = np.broadcast_shapes(*(x.shape for x in both))
        output = self.writer.tensor(shape, np.float32)
        return _Symbol(self.writer, self.writer.op(op, [x.index for x in both], output, options), shape)

    def __add__(self, other: _Symbol | float) -> _Symbol:
        return self._binary(Op.ADD, schema.AddOptionsT(), self, other)

    def __sub__(self, other: _Symbol | float) -> _Symbol:
        return self._binary(Op.SUB, schema.SubOptionsT(), self, other)

    def __rsub__(self, other: float) -> _Symbol:
        return self._binary(Op.SUB, schema.SubOptionsT(), other, self)

    def __mul__(self, other: _Symbol | float) -> _Symbol:
        return self._binary(Op.MUL, schema.MulOptionsT(), self, other)

    def __truediv__(self, other: _Symbol | float) -> _Symbol:
        return self._binary(Op.DIV, schema.DivOptionsT(), self, other)

    def __neg__(self) -> _Symbol:
        return self._binary(Op.SUB, schema.SubOptionsT(), 0.0, self)


class _TfliteOps:
    """The part of the vocabulary that a float forward pass uses; running it writes the file.

    It is no subclass of ``Ops``: whatever is not here cannot be written, and says so.
    """

    def __init__(self, writer: _Writer) -> None:
        self.writer = writer

    def __getattr__(self, name: str) -> Any:
        raise QatError(
            f"the TFLite form of a float network has no operation {name!r}; export the quantized network instead"
        )

    def _op(self, op: int, inputs: list[int], shape: Shape, options: Any = None) -> _Symbol:
        output = self.writer.tensor(shape, np.float32)
        return _Symbol(self.writer, self.writer.op(op, inputs, output, options), shape)

    def from_numpy(self, array: Array, kind: Kind) -> Any:
        array = np.asarray(array, np.float32)
        if kind in ("conv_weight", "dense_weight"):
            return array  # its place in the file depends on how it is used
        array = array.reshape(1) if kind == "scalar" else array
        return _Symbol(self.writer, self.writer.constant(array), array.shape)

    def on_channel(self, vector: _Symbol, activation: _Symbol) -> _Symbol:
        return vector  # the channels are the last axis

    def conv2d(
        self,
        x: _Symbol,
        w: Array,
        bias: _Symbol | None,
        *,
        stride: Pair,
        padding: Padding,
        dilation: Pair,
        group: int,
    ) -> _Symbol:
        kernel = (w.shape[2], w.shape[3])
        index, mode = self.writer.window(x.index, kernel, stride, padding, dilation)
        options: dict[str, Any] = {"padding": mode, "strideH": stride[0], "strideW": stride[1]}
        options |= {"dilationHFactor": dilation[0], "dilationWFactor": dilation[1]}
        depthwise = group == x.shape[3] > 1
        weight = self.writer.constant(w.transpose((1, 2, 3, 0) if depthwise else (0, 2, 3, 1)))
        inputs = [index, weight, self._bias(bias, len(w))]
        shape = (1, *output_size((x.shape[1], x.shape[2]), kernel, stride, dilation, padding), len(w))
        if depthwise:
            options["depthMultiplier"] = len(w) // group
            return self._op(Op.DEPTHWISE_CONV_2D, inputs, shape, schema.DepthwiseConv2DOptionsT(**options))
        return self._op(Op.CONV_2D, inputs, shape, schema.Conv2DOptionsT(**options))

    def _bias(self, bias: _Symbol | None, outputs: int) -> int:
        return self.writer.constant(np.zeros(outputs, np.float32)) if bias is None else bias.index

    def dense(self, x: _Symbol, w: Array, bias: _Symbol | None) -> _Symbol:
        inputs = [x.index, self.writer.constant(w), self._bias(bias, len(w))]
        return self._op(Op.FULLY_CONNECTED, inputs, (1, len(w)), schema.FullyConnectedOptionsT())

    def max_pool2d(self, x: _Symbol, *, kernel: Pair, stride: Pair, padding: Padding) -> _Symbol:
        index, mode = self.writer.window(x.index, kernel, stride, padding, lowest=True)
        shape = (1, *output_size((x.shape[1], x.shape[2]), kernel, stride, (1, 1), padding), x.shape[3])
        return self._op(Op.MAX_POOL_2D, [index], shape, _pool_options(kernel, stride, mode))

    def sum_pool2d(self, x: _Symbol, *, kernel: Pair, stride: Pair, padding: Padding) -> _Symbol:
        """A depthwise convolution with weights of 1: TFLite's average pooling leaves padding out of its count."""
        ones = np.ones((x.shape[3], 1, *kernel), np.float32)
        return self.conv2d(x, ones, None, stride=stride, padding=padding, dilation=(1, 1), group=x.shape[3])

    def flatten(self, x: _Symbol) -> _Symbol:
        if len(x.shape) == 4:
            n, height, width, channels = x.shape
            order = self.writer.constant(np.array([0, 3, 1, 2], np.int32))
            x = self._op(Op.TRANSPOSE, [x.index, order], (n, channels, height, width), schema.TransposeOptionsT())
        features = int(np.prod(x.shape[1:]))
        row = self.writer.constant(np.array([-1, features], np.int32))
        return self._op(Op.RESHAPE, [x.index, row], (1, features), schema.ReshapeOptionsT())

    def concat(self, xs: Sequence[_Symbol]) -> _Symbol:
        shape = (*xs[0].shape[:-1], sum(x.shape[-1] for x in xs))
        options = schema.ConcatenationOptionsT(axis=len(shape) - 1)
        return self._op(Op.CONCATENATION, [x.index for x in xs], shape, options)

    def relu(self, x: _Symbol) -> _Symbol:
        return self._op(Op.RELU, [x.index], x.shape)

    def sigmoid(self, x: _Symbol) -> _Symbol:
        return self._op(Op.LOGISTIC, [x.index], x.shape)

    def tanh(self, x: _Symbol) -> _Symbol:
        return self._op(Op.TANH, [x.index], x.shape)

    def softmax(self, x: _Symbol) -> _Symbol:
        return self._op(Op.SOFTMAX, [x.index], x.shape, schema.SoftmaxOptionsT(beta=1.0))
