"""Ascend's deploy form of ONNX, as its own quantization tool writes it, and its execution emulated on any host.

The file takes raw uint8 pixels "input", (N, C, H, W), and returns real numbers "output", float32. AscendQuant and
AscendDequant stand in the default domain; between them Conv and Gemm take int8 codes and weights and give int32. No runtime
but Ascend's knows these, so ``predict`` runs the file in onnx.reference with operators of our own (lower.py).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from qat.cells.base import Shape
from qat.errors import QatError
from qat.files import write_atomically
from qat.integer import IntegerGraph, IntegerTensor
from qat.reading import reading, reason_of
from qat.registry import TARGETS
from qat.targets.ascend import lower as ascend
from qat.targets.ascend.lower import Step
from qat.targets.onnx.model import check_operators, load_model, set_metadata, shapes_of_inputs
from qat.vocabulary.arrays import Arrays, as_arrays, in_batches
from qat.vocabulary.ops import Array

OPSET, IR_VERSION = 17, 8  #: Ascend's offline compiler reads no newer ones
NAME = "ASCEND_ONNX"  #: under which ``qat.target`` knows it
SUFFIX, OPTIONS = TARGETS[NAME].suffix, TARGETS[NAME].options
ARITHMETICS: tuple[str, ...] = ("float",)
RUNS_CODE = False
BATCH = 128  #: images at a time
OWN = ("AscendQuant", "AscendDequant")  #: operators that ONNX does not know


def export(graph: IntegerGraph, path: str | Path) -> None:
    """Write the deploy form. Raises QatError, naming the node, where the graph does not keep to the profile."""
    steps = ascend.lower(graph, "ASCEND_ONNX")
    initializers: dict[str, onnx.TensorProto] = {}
    nodes = [_node(step, initializers) for step in steps if step.kind != "input"]
    shapes = {step.name: ["N", *step.shape] for step in steps}
    entries, results = ascend.names("input", len(graph.inputs)), ascend.names("output", len(graph.outputs))
    made = helper.make_graph(
        nodes,
        graph.name,
        [helper.make_tensor_value_info(name, TensorProto.UINT8, shapes[name]) for name in entries],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shapes[name]) for name in results],
        list(initializers.values()),
    )
    opsets = [helper.make_opsetid("", OPSET)]
    _write(helper.make_model(made, opset_imports=opsets, ir_version=IR_VERSION, producer_name="qat-engine"), path)


def write_metadata(path: str | Path, metadata: Mapping[str, str]) -> None:
    """Set entries of a file's metadata_props, each behind "qat."; nothing else in the file changes."""
    model = _load(path)
    set_metadata(model, metadata)
    _write(model, path)


def input_shapes(path: str | Path) -> list[Shape]:
    """The shapes of its inputs, (C, H, W) or (F,)."""
    return shapes_of_inputs(_load(path))


def predict(path: str | Path, pixels: Arrays) -> Arrays:
    """Real outputs (N, ...) of raw pixels (N, C, H, W), emulated; tuples of them where there are several."""
    model = _load(path)
    outputs = [output.name for output in model.graph.output]
    found = _infer(path, model, outputs, pixels)
    return as_arrays(tuple(found[name] for name in outputs))


def trace(path: str | Path, pixels: Arrays, tensors: Collection[IntegerTensor]) -> dict[str, Array]:
    """Codes of the named tensors, as far as the file computes them."""
    model = _load(path)
    names = ascend.tensors_of(tensors, {name for node in model.graph.node for name in node.output})
    found = _infer(path, model, list(names.values()), pixels) if names else {}
    return {x.name: ascend.codes_of(found[names[x.name]], x.grid) for x in tensors if x.name in names}


def runtime() -> str:
    """What ``predict`` runs in, with its version."""
    return f"emulated: onnx.reference {onnx.__version__} with Ascend's operators in NumPy, not an Ascend"


# -- reading and running ----------------------------------------------------------------------------------------------


class AscendQuant(OpRun):
    """Real numbers to int8 codes."""

    op_domain = ""

    def _run(self, x: Array, scale: float, offset: float, dst_type: str) -> tuple[Array]:
        return (ascend.quantize(x, scale, offset),)


class AscendDequant(OpRun):
    """int32 accumulators to real numbers."""

    op_domain = ""

    def _run(self, x: Array, scale: Array, dtype: int) -> tuple[Array]:
        return (ascend.dequantize(x, scale),)


class Conv(OpRun):
    """The convolution of int8 codes; ONNX's own knows floating types only."""

    op_domain = ""

    def _run(
        self,
        x: Array,
        w: Array,
        b: Array,
        dilations: Any,
        group: int,
        kernel_shape: Any,
        pads: Any,
        strides: Any,
        **_: Any,
    ) -> tuple[Array]:
        padding = (pads[0], pads[2], pads[1], pads[3])
        geometry = {"stride": tuple(strides), "dilation": tuple(dilations), "group": group}
        return (ascend.convolve(x, w, b, padding=padding, **geometry),)


class Gemm(OpRun):
    """The matrix product of int8 codes with a transposed weight."""

    op_domain = ""

    def _run(self, x: Array, w: Array, b: Array, **_: Any) -> tuple[Array]:
        return (ascend.multiply(x, w, b),)


class MaxPool(OpRun):
    """ONNX's own in plain NumPy is slow."""

    op_domain = ""

    def _run(self, x: Array, kernel_shape: Any, pads: Any, strides: Any, **_: Any) -> tuple[Array]:
        padding = (pads[0], pads[2], pads[1], pads[3])
        return (ascend.max_pool(x, kernel=tuple(kernel_shape), stride=tuple(strides), padding=padding),)


def _load(path: str | Path) -> onnx.ModelProto:
    model = load_model(path)
    with reading(path, "an ONNX file of qat export", "export it again"):
        _check(model)
        check_operators(_known(model))
    return model


def _infer(path: str | Path, model: onnx.ModelProto, outputs: list[str], pixels: Arrays) -> dict[str, Array]:
    try:
        evaluator = ReferenceEvaluator(model, new_ops=[AscendQuant, AscendDequant, Conv, Gemm, MaxPool])
        inputs = [x.name for x in model.graph.input]

        def run(batch: tuple[Array, ...]) -> dict[str, Array]:
            return dict(zip(outputs, evaluator.run(outputs, dict(zip(inputs, batch, strict=True))), strict=True))

        with np.errstate(all="ignore"):
            return in_batches(run, pixels, shapes_of_inputs(model), BATCH, str(path))
    except QatError:
        raise
    except Exception as error:  # whatever its operators raise
        raise QatError(
            f"{path}: cannot be emulated as a file of qat export ({reason_of(error)}); export it anew"
        ) from None


# -- writing ----------------------------------------------------------------------------------------------------------


def _node(step: Step, initializers: dict[str, onnx.TensorProto]) -> onnx.NodeProto:
    """The ONNX node of a step; its constants become initializers."""
    attributes: dict[str, Any] = {}
    given = step.attributes
    match step.kind:
        case "cast":
            op, attributes = "Cast", {"to": TensorProto.FLOAT}
        case "subtract":
            op = "Sub"
        case "multiply":
            op = "Mul"
        case "quantize":
            op, attributes = "AscendQuant", {"scale": given["scale"], "offset": given["offset"], "dst_type": "INT8"}
        case "dequantize":
            op, attributes = "AscendDequant", {"dtype": 0}
        case "conv2d":
            op = "Conv"
            attributes = {
                "kernel_shape": step.constants["weight"].shape[2:],
                "strides": given["stride"],
                "pads": _pads(given["padding"]),
                "dilations": given["dilation"],
                "group": given["group"],
            }
        case "dense":
            op, attributes = "Gemm", {"transB": 1}
        case "max_pool":
            op = "MaxPool"
            attributes = {
                "kernel_shape": given["kernel"],
                "strides": given["stride"],
                "pads": _pads(given["padding"]),
            }
        case "concat":
            op, attributes = "Concat", {"axis": 1}
        case kind:
            op = {"relu": "Relu", "clip": "Clip", "flatten": "Flatten", "add": "Add"}[kind]
    inputs = [*step.inputs]
    for key, array in step.constants.items():
        inputs.append(f"{step.name}/{key}")
        initializers[inputs[-1]] = numpy_helper.from_array(np.asarray(array, order="C"), inputs[-1])
    return helper.make_node(op, inputs, [step.name], **attributes)


def _pads(padding: tuple[int, int, int, int]) -> list[int]:
    top, bottom, left, right = padding
    return [top, left, bottom, right]


def _check(model: onnx.ModelProto) -> None:
    """ONNX's checker, to which the operators that it does not know are those of another domain."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for node in copy.graph.node:
        if node.op_type in OWN:
            node.domain = "ascend"
    copy.opset_import.append(helper.make_opsetid("ascend", 1))
    onnx.checker.check_model(copy)


def _known(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which a Cast, whose result has the same shape, stands for each operator that ONNX does not know."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for node in copy.graph.node:
        if node.op_type in OWN:
            kind = TensorProto.INT8 if node.op_type == OWN[0] else TensorProto.FLOAT
            node.CopyFrom(helper.make_node("Cast", node.input[:1], node.output, to=kind))
    return copy


def _write(model: onnx.ModelProto, path: str | Path) -> None:
    _check(model)
    write_atomically(path, model.SerializeToString())
