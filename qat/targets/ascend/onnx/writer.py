"""Writes the operations of an integer graph as nodes of ONNX."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from qat.targets.ascend.lower import Step
from qat.targets.onnx.writer import pads_of


def node_of(step: Step, initializers: dict[str, onnx.TensorProto]) -> onnx.NodeProto:
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
                "pads": pads_of(given["padding"]),
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
                "pads": pads_of(given["padding"]),
            }
        case "concat":
            op, attributes = "Concat", {"axis": given["axis"]}
        case kind:
            op = {"relu": "Relu", "clip": "Clip", "flatten": "Flatten", "add": "Add"}[kind]
    inputs = [*step.inputs]
    for key, array in step.constants.items():
        inputs.append(f"{step.name}/{key}")
        initializers[inputs[-1]] = numpy_helper.from_array(np.asarray(array, order="C"), inputs[-1])
    return helper.make_node(op, inputs, [step.name], **attributes)
