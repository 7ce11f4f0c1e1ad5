"""A float .tflite file as plain operations; constants behind a DEQUANTIZE are real numbers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from qat.errors import QatError
from qat.imports.program import Operation, Program
from qat.reading import read_file as read_bytes
from qat.reading import reading
from qat.vocabulary.arrays import ArraySpec
from qat.vocabulary.ops import Array

LARGEST = 1 << 31  #: bytes of a file
DTYPES = {0: np.float32, 1: np.float16, 2: np.int32, 3: np.uint8, 4: np.int64, 9: np.int8, 7: np.int16}
NAMES = {value: name for name, value in vars(schema.BuiltinOperator).items() if isinstance(value, int)}
FUSED: dict[int, tuple[str, dict[str, Any]] | None] = {
    0: None,
    1: ("clip", {"low": 0.0, "high": None}),
    3: ("clip", {"low": 0.0, "high": 6.0}),
    4: ("activation", {"function": "tanh"}),
}
Step = tuple[str, dict[str, Any], dict[str, Array]]


def read_file(path: str | Path, name: str | None = None) -> Program:
    """The operations of a float file's first subgraph.

    Raises:
        QatError: it is no .tflite file, or its inputs are not real numbers.
    """
    content = read_bytes(path, "give a .tflite file", limit=LARGEST)
    with reading(path, "a .tflite file", "convert it again"):
        model = schema.ModelT.InitFromPackedBuf(content, 0)
        return _Reader(model, name or Path(path).stem).program()


class _Reader:
    def __init__(self, model: Any, name: str) -> None:
        self.model, self.graph, self.name = model, model.subgraphs[0], name
        self.constants: dict[int, Array] = {}
        for index, tensor in enumerate(self.graph.tensors):
            data = model.buffers[tensor.buffer].data
            if data is not None and len(data) and tensor.type in DTYPES:
                array = np.frombuffer(bytes(data), DTYPES[tensor.type]).reshape(tuple(tensor.shape))
                self.constants[index] = array
        self.operations: list[Operation] = []
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.values: dict[int, str] = {}

    def program(self) -> Program:
        inputs = {}
        for index in self.graph.inputs:
            tensor = self.graph.tensors[index]
            if DTYPES.get(tensor.type) is not np.float32:
                raise QatError(
                    f"{self.name}: its input {tensor.name.decode()!r} is no float32, so that the file is quantized; give a float one"
                )
            value = self._value(index)
            inputs[value] = ArraySpec(self.shapes[value], "float32")
        for operator in self.graph.operators:
            self._operator(operator)
        return Program(
            self.name, inputs, tuple(self.operations), tuple(self._value(i) for i in self.graph.outputs), self.shapes
        )

    def _value(self, index: int) -> str:
        if index not in self.values:
            tensor = self.graph.tensors[index]
            name = tensor.name.decode() or f"tensor{index}"
            while name in self.shapes:
                name += "_"
            sizes = tuple(int(x) for x in (() if tensor.shape is None else tensor.shape))[1:]
            self.shapes[name] = (sizes[2], *sizes[:2]) if len(sizes) == 3 else sizes
            self.values[index] = name
        return self.values[index]

    def _constant(self, index: int) -> Array | None:
        """A constant; int8 ones that a float kernel takes ("dynamic range quantization") as real numbers."""
        array, tensor = self.constants.get(index), self.graph.tensors[index]
        quantization = tensor.quantization
        scaled = quantization is not None and quantization.scale is not None and len(quantization.scale)
        return _dequantized(tensor, array) if array is not None and array.dtype == np.int8 and scaled else array

    def _operator(self, operator: Any) -> None:
        code = self.model.operatorCodes[operator.opcodeIndex]
        kind = NAMES.get(max(code.builtinCode, code.deprecatedBuiltinCode), "CUSTOM")
        if kind == "DEQUANTIZE" and operator.inputs[0] in self.constants:
            self.constants[operator.outputs[0]] = _dequantized(
                self.graph.tensors[operator.inputs[0]], self.constants[operator.inputs[0]]
            )
            return
        given = [None if i < 0 else self._constant(i) for i in operator.inputs]
        rank = [len(self.graph.tensors[i].shape) for i in operator.inputs if i >= 0]
        reader = _READERS.get(kind)
        steps = [("unknown", {"of": kind}, {})] if reader is None else reader(operator.builtinOptions, given, rank)
        fused = FUSED.get(
            getattr(operator.builtinOptions, "fusedActivationFunction", 0) or 0,
            ("unknown", {"of": f"{kind} with that activation"}),
        )
        if fused is not None and reader is not None:
            steps = [*steps, (*fused, {})]
        taken = tuple(self._value(i) for i, x in zip(operator.inputs, given, strict=True) if i >= 0 and x is None)
        result = self._value(operator.outputs[0])
        for number, (step, attributes, constants) in enumerate(steps):
            last = number == len(steps) - 1
            value = result if last else f"{result}/{number}"
            self.shapes.setdefault(value, self.shapes[result])
            self.operations.append(Operation(step, _layer(result), taken, value, dict(attributes), constants))
            taken = (value,)


def _layer(name: str) -> str:
    """The layer that a tensor's name tells of: that of the last of several, which the converter joined by ";"."""
    *others, last = name.split(";")
    last = last.partition(":")[0]
    return last.rpartition("/")[0] if others and "/" in last else last


def _dequantized(tensor: Any, array: Array) -> Array:
    if array.dtype == np.float16:
        return array.astype(np.float32)
    q = tensor.quantization
    shape = [1] * array.ndim
    shape[q.quantizedDimension] = -1
    scale, zero = (np.asarray(x).reshape(shape) if len(x) > 1 else np.asarray(x)[0] for x in (q.scale, q.zeroPoint))
    real: Array = ((array.astype(np.float32) - zero) * scale).astype(np.float32)
    return real


def _padding(options: Any) -> Any:
    return "same" if options.padding == 0 else (0, 0, 0, 0)


def _bias(given: list[Any]) -> dict[str, Array]:
    return {"bias": given[2].astype(np.float32)} if len(given) > 2 and given[2] is not None else {}


def _conv(options: Any, given: list[Any], rank: list[int]) -> list[Step]:
    attributes = {
        "stride": (options.strideH, options.strideW),
        "padding": _padding(options),
        "dilation": (options.dilationHFactor, options.dilationWFactor),
        "groups": 1,
    }
    return [("conv2d", attributes, {"weight": given[1].transpose(0, 3, 1, 2), **_bias(given)})]


def _depthwise(options: Any, given: list[Any], rank: list[int]) -> list[Step]:
    weight = given[1].transpose(3, 0, 1, 2)
    attributes = {
        "stride": (options.strideH, options.strideW),
        "padding": _padding(options),
        "dilation": (options.dilationHFactor, options.dilationWFactor),
        "groups": weight.shape[0] // options.depthMultiplier,
    }
    return [("conv2d", attributes, {"weight": weight, **_bias(given)})]


def _dense(options: Any, given: list[Any], rank: list[int]) -> list[Step]:
    return [("dense", {}, {"weight": given[1], **_bias(given)})]


def _pool(kind: str) -> Callable[[Any, list[Any], list[int]], list[Step]]:
    def read(options: Any, given: list[Any], rank: list[int]) -> list[Step]:
        attributes = {
            "kernel": (options.filterHeight, options.filterWidth),
            "stride": (options.strideH, options.strideW),
            "padding": _padding(options),
            "counts_padding": False,
        }
        return [(kind, attributes, {})]

    return read


def _elementwise(
    kind: str, change: Callable[[Array], Array] | None = None
) -> Callable[[Any, list[Any], list[int]], list[Step]]:
    def read(options: Any, given: list[Any], rank: list[int]) -> list[Step]:
        other = next((x for x in given if x is not None), None)
        if other is None:
            return [(kind, {}, {})] if change is None else [("unknown", {"of": "SUB or DIV of two values"}, {})]
        return [(kind, {}, {"other": np.asarray(other if change is None else change(other), np.float32)})]

    return read


def _mean(options: Any, given: list[Any], rank: list[int]) -> list[Step]:
    axes = tuple(sorted(int(x) % rank[0] for x in np.ravel(given[1])))
    placed = {1: 2, 2: 3, 3: 1} if rank[0] == 4 else {1: 1}
    return [("mean", {"axes": tuple(sorted(placed.get(x, x) for x in axes)), "keepdims": bool(options.keepDims)}, {})]


def _reshape(options: Any, given: list[Any], rank: list[int]) -> list[Step]:
    wanted = list(np.ravel(given[1])) if len(given) > 1 and given[1] is not None else list(options.newShape)
    if len(wanted) == 2:
        return [("flatten", {"channels_last": True}, {})]
    return [("unknown", {"of": f"RESHAPE to {[int(x) for x in wanted]}"}, {})]


def _pad(options: Any, given: list[Any], rank: list[int]) -> list[Step]:
    rows = [tuple(int(x) for x in pair) for pair in given[1]]
    return [("pad", {"widths": (rows[0], rows[3], rows[1], rows[2]), "value": 0.0}, {})]


def _one(kind: str, **attributes: Any) -> Callable[[Any, list[Any], list[int]], list[Step]]:
    return lambda options, given, rank: [(kind, attributes, {})]


_READERS: dict[str, Callable[[Any, list[Any], list[int]], list[Step]]] = {
    "CONV_2D": _conv,
    "DEPTHWISE_CONV_2D": _depthwise,
    "FULLY_CONNECTED": _dense,
    "AVERAGE_POOL_2D": _pool("avg_pool2d"),
    "MAX_POOL_2D": _pool("max_pool2d"),
    "ADD": _elementwise("add"),
    "SUB": _elementwise("add", np.negative),
    "MUL": _elementwise("mul"),
    "DIV": _elementwise("mul", np.reciprocal),
    "MEAN": _mean,
    "RESHAPE": _reshape,
    "PAD": _pad,
    "CONCATENATION": lambda o, g, rank: [("concat", {"axis": 1 if o.axis in (-1, rank[0] - 1) else o.axis}, {})],
    "SOFTMAX": _one("softmax", axis=1),
    "LOGISTIC": _one("activation", function="sigmoid"),
    "TANH": _one("activation", function="tanh"),
    "HARD_SWISH": _one("activation", function="hswish"),
    "RELU": _one("clip", low=0.0, high=None),
    "RELU6": _one("clip", low=0.0, high=6.0),
    "LEAKY_RELU": lambda o, g, rank: [("activation", {"function": "leaky_relu", "alpha": float(o.alpha)}, {})],
}
