"""An ONNX file as plain operations (opset 9 on; constants folded, shapes known)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper, shape_inference
from onnx.reference import ReferenceEvaluator

from qat.errors import QatError
from qat.imports.program import Operation, Program
from qat.reading import read_file as read_bytes
from qat.reading import reading
from qat.vocabulary.arrays import ArraySpec
from qat.vocabulary.ops import Array

LARGEST = 1 << 31  #: bytes of a file
Call = tuple[str, dict[str, Any], dict[str, int]]


def read_file(path: str | Path, name: str | None = None) -> Program:
    """The operations of a file, which holds all of its data itself.

    Raises:
        QatError: it is no ONNX file, has data elsewhere, or sizes that are not known.
    """
    content = read_bytes(path, "give an .onnx file", limit=LARGEST)
    with reading(path, "an ONNX file", "export it again"):
        model = onnx.load_model_from_string(content)
    if any(x.data_location == onnx.TensorProto.EXTERNAL for x in model.graph.initializer):
        raise QatError(
            f"{path}: its weights are in another file; save it as one (onnx.save with save_as_external_data=False)"
        )
    return read_model(model, name or Path(path).stem)


def read_model(model: Any, name: str) -> Program:
    """The operations of a model."""
    graph = shape_inference.infer_shapes(model).graph
    constants: dict[str, Array] = {x.name: numpy_helper.to_array(x) for x in graph.initializer}
    shapes = {
        x.name: tuple(d.dim_value for d in x.type.tensor_type.shape.dim[1:])
        for x in (*graph.input, *graph.value_info, *graph.output)
        if x.type.tensor_type.HasField("shape")
    }
    inputs = {}
    for x in graph.input:
        if x.name in constants:
            continue
        if not shapes[x.name] or min(shapes[x.name]) < 1:
            raise QatError(
                f"{name}: input {x.name} has sizes that are not known; fix them (onnxruntime.tools.make_dynamic_shape_fixed)"
            )
        dtype = helper.tensor_dtype_to_np_dtype(x.type.tensor_type.elem_type)
        inputs[x.name] = ArraySpec(shapes[x.name], str(dtype))
    operations = []
    for node in graph.node:
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        if node.op_type == "Constant":
            constants[node.output[0]] = numpy_helper.to_array(attributes["value"])
            continue
        if node.input and all(x in constants or not x for x in node.input):  # what depends on constants alone is one
            folded = ReferenceEvaluator(node).run(None, {x: constants[x] for x in node.input if x})
            constants |= dict(zip(node.output, folded, strict=True))
            continue
        operations.append(_operation(node, attributes, constants, shapes))
    return Program(name, inputs, tuple(operations), tuple(x.name for x in graph.output), shapes)


def _operation(
    node: Any, attributes: dict[str, Any], constants: Mapping[str, Array], shapes: Mapping[str, Any]
) -> Operation:
    reader = _READERS.get(node.op_type)
    given = [constants.get(x) for x in node.input]
    kind, options, arrays = reader(attributes, given) if reader else ("unknown", {"of": node.op_type}, {})
    found, sources = {}, {}
    for local, place in arrays.items():
        if place < len(given) and given[place] is not None:
            array = given[place]
            if kind == "dense" and local == "weight" and not options.pop("transposed"):
                array = array.T
            found[local] = np.asarray(array, np.float32)
            sources[local] = node.input[place]
    taken = tuple(x for x in node.input if x and x not in constants)
    name = node.name.strip("/").replace("/", ".") or node.output[0]
    return Operation(kind, name, taken, node.output[0], options, found, sources, "")


def _padding(a: Mapping[str, Any]) -> Any:
    auto = a.get("auto_pad", b"NOTSET").decode()
    if auto == "SAME_UPPER":
        return "same"
    top, left, bottom, right = a.get("pads", (0, 0, 0, 0))
    return (top, bottom, left, right)


def _conv(a: Mapping[str, Any], given: list[Any]) -> Call:
    if given[1] is None or given[1].ndim != 4 or a.get("auto_pad", b"").decode() == "SAME_LOWER":
        return "unknown", {"of": "Conv of another kind"}, {}
    options = {
        "stride": tuple(a.get("strides", (1, 1))),
        "padding": _padding(a),
        "dilation": tuple(a.get("dilations", (1, 1))),
        "groups": a.get("group", 1),
    }
    return "conv2d", options, {"weight": 1, "bias": 2}


def _gemm(a: Mapping[str, Any], given: list[Any]) -> Call:
    plain = a.get("alpha", 1.0) == 1.0 and a.get("beta", 1.0) == 1.0 and not a.get("transA", 0)
    if given[1] is None or not plain:
        return "unknown", {"of": "Gemm of another kind"}, {}
    return "dense", {"transposed": bool(a.get("transB", 0))}, {"weight": 1, "bias": 2}


def _matmul(a: Mapping[str, Any], given: list[Any]) -> Call:
    if given[1] is None or given[1].ndim != 2:
        return "unknown", {"of": "MatMul of two values"}, {}
    return "dense", {"transposed": False}, {"weight": 1}


def _clip(a: Mapping[str, Any], given: list[Any]) -> Call:
    low = a.get("min", None if len(given) < 2 or given[1] is None else float(given[1]))
    high = a.get("max", None if len(given) < 3 or given[2] is None else float(given[2]))
    return "clip", {"low": low, "high": high}, {}


def _pool(kind: str) -> Callable[[Mapping[str, Any], list[Any]], Call]:
    def read(a: Mapping[str, Any], given: list[Any]) -> Call:
        kernel = tuple(a["kernel_shape"])
        return (
            kind,
            {
                "kernel": kernel,
                "stride": tuple(a.get("strides", (1, 1))),
                "padding": _padding(a),
                "ceil": bool(a.get("ceil_mode", 0)),
                "counts_padding": bool(a.get("count_include_pad", 0)),
            },
            {},
        )

    return read


def _reduce_mean(a: Mapping[str, Any], given: list[Any]) -> Call:
    axes = a.get("axes", None if len(given) < 2 or given[1] is None else given[1].tolist())
    if axes is None:
        return "unknown", {"of": "ReduceMean over all axes"}, {}
    return "mean", {"axes": tuple(sorted(x % 4 for x in axes)), "keepdims": bool(a.get("keepdims", 1))}, {}


def _elementwise(
    kind: str, change: Callable[[Array], Array] | None = None
) -> Callable[[Mapping[str, Any], list[Any]], Call]:
    def read(a: Mapping[str, Any], given: list[Any]) -> Call:
        place = next((i for i, x in enumerate(given) if x is not None), None)
        if place is None:
            return (kind, {}, {}) if change is None else ("unknown", {"of": f"{kind} inverse"}, {})
        if change is not None:
            if place == 0:
                return "unknown", {"of": "a constant less or over a value"}, {}
            given[place] = change(given[place])
        return kind, {}, {"other": place}

    return read


def _reshape(a: Mapping[str, Any], given: list[Any]) -> Call:
    wanted = None if given[1] is None else given[1].tolist()
    if wanted is not None and len(wanted) == 2 and wanted[1] != 0:
        return "flatten", {}, {}
    return "unknown", {"of": f"Reshape to {wanted}"}, {}


def _one(kind: str, **options: Any) -> Callable[[Mapping[str, Any], list[Any]], Call]:
    return lambda a, given: (kind, dict(options), {})


_READERS: dict[str, Callable[[Mapping[str, Any], list[Any]], Call]] = {
    "Conv": _conv,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "BatchNormalization": lambda a, given: (
        "batch_norm",
        {"eps": float(a.get("epsilon", 1e-5))},
        {"gamma": 1, "beta": 2, "mean": 3, "variance": 4},
    ),
    "Relu": _one("clip", low=0.0, high=None),
    "Clip": _clip,
    "Sigmoid": _one("activation", function="sigmoid"),
    "Tanh": _one("activation", function="tanh"),
    "HardSigmoid": lambda a, given: (
        ("activation", {"function": "hsigmoid"}, {})
        if np.isclose(a.get("alpha", 0.2), 1 / 6) and a.get("beta", 0.5) == 0.5
        else ("unknown", {"of": "HardSigmoid of another slope"}, {})
    ),
    "HardSwish": _one("activation", function="hswish"),
    "LeakyRelu": lambda a, given: ("activation", {"function": "leaky_relu", "alpha": float(a.get("alpha", 0.01))}, {}),
    "Add": _elementwise("add"),
    "Sub": _elementwise("add", np.negative),
    "Mul": _elementwise("mul"),
    "Div": _elementwise("mul", np.reciprocal),
    "MaxPool": _pool("max_pool2d"),
    "AveragePool": _pool("avg_pool2d"),
    "GlobalAveragePool": _one("mean", axes=(2, 3), keepdims=True),
    "ReduceMean": _reduce_mean,
    "Flatten": lambda a, given: ("flatten", {}, {}) if a.get("axis", 1) == 1 else ("unknown", {"of": "Flatten"}, {}),
    "Reshape": _reshape,
    "Concat": lambda a, given: ("concat", {"axis": int(a["axis"])}, {}),
    "Softmax": lambda a, given: ("softmax", {"axis": int(a.get("axis", -1))}, {}),
    "Dropout": _one("dropout", rate=0.0),
    "Identity": _one("identity"),
}
