"""An .onnx file: read, checked and written."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx
from onnx import helper

from qat.deploy.recipe import formula_of, in_words
from qat.errors import QatError, shortened
from qat.files import write_atomically
from qat.names import check_stored
from qat.reading import check_sample, messages, read_file, reading
from qat.targets.common import prefixed

#: What the two targets write. Others could loop for ever, fill the memory from a few bytes, or read other files.
OPERATORS = {"Add", "AveragePool", "Cast", "Clip", "Concat", "Conv", "ConvTranspose", "DequantizeLinear", "Div", "Erf"}
OPERATORS |= {"Exp", "Flatten", "Gather", "Gemm", "Identity", "Max", "MaxPool", "Min", "Mul", "Pad", "QuantizeLinear"}
OPERATORS |= {"ReduceMax", "ReduceSum", "Relu", "Reshape", "Sigmoid", "Slice", "Softmax", "Softplus", "Sub", "Tanh"}
OPERATORS |= {"MatMul", "QLinearMatMul", "Round", "Sqrt", "Transpose"}


def load_model(path: str | Path) -> onnx.ModelProto:
    """A file that has everything in itself. Raises QatError for what is no ONNX file, for tensors whose data are in other
    files, which a foreign file could choose among all of this machine, and for names that no export gives.
    """
    content = read_file(path, "give an exported .onnx file")
    with reading(path, "an ONNX file", "export it again"):
        model = onnx.load_model_from_string(content)
    for tensor in messages(model, onnx.TensorProto):
        if tensor.data_location != onnx.TensorProto.DEFAULT or tensor.external_data:
            raise QatError(
                f"{path}: the data of its tensor {shortened(tensor.name)} are in another file, and only what the file itself "
                "holds is read; export it again"
            )
    graph = model.graph
    check_stored(path, (graph.name, *(x.name for x in (*graph.input, *graph.output, *graph.initializer))))
    check_stored(path, (name for node in graph.node for name in node.output))
    return model


def set_metadata(model: onnx.ModelProto, metadata: Mapping[str, str]) -> None:
    """Set entries of metadata_props, each behind "qat."; nothing else changes."""
    entries = {entry.key: entry.value for entry in model.metadata_props}
    helper.set_model_props(model, entries | prefixed(metadata))


def describe(model: onnx.ModelProto, recipe: Mapping[str, Any]) -> None:
    """Tell in a model's descriptions, and in those of its inputs and outputs, which viewers show, how it is fed and read."""
    for values, entries in ((model.graph.input, recipe["inputs"]), (model.graph.output, recipe["outputs"])):
        for value, entry in zip(values, entries, strict=True):
            value.doc_string = f"{entry['layout']}, {formula_of(entry)}"
    model.doc_string = "\n".join(in_words(recipe))


def check_operators(model: onnx.ModelProto) -> None:
    """Raise ValueError where an operator is none that export writes, or gives what has no shape, or where one sample takes
    more numbers than any network's: a few bytes could ask for any memory. Sizes that are free, as N, count as 1.
    """
    for node in model.graph.node:
        if node.op_type not in OPERATORS or node.domain:
            raise ValueError(f"its operator {node.domain}{node.op_type!r} is none that qat export writes")
        if node.op_type == "Pad":
            _check_pads(model, node)
    known = {x.name: x.type.tensor_type for x in onnx.shape_inference.infer_shapes(model).graph.value_info}
    known |= {x.name: x.type.tensor_type for x in (*model.graph.input, *model.graph.output)}
    numbers = 0
    for node in model.graph.node:
        for name in node.output:
            if not known[name].HasField("shape"):
                raise ValueError(f"its {node.op_type} {name!r} has no shape")
            numbers += math.prod(max(size.dim_value, 1) for size in known[name].shape.dim)
    check_sample(numbers)


def _check_pads(model: onnx.ModelProto, node: onnx.NodeProto) -> None:
    """Raise ValueError where a Pad could add to the samples, whose number no shape tells: its pads must be constant."""
    pads = [onnx.numpy_helper.to_array(x) for x in model.graph.initializer if x.name in node.input[1:2]]
    if len(node.input) != 3 or len(pads) != 1 or pads[0].ndim != 1 or pads[0].reshape(2, -1)[:, 0].any():
        raise ValueError(f"its Pad {node.output[0]!r} is none that qat export writes")


def load(path: str | Path) -> onnx.ModelProto:
    """The model of a file. Raises QatError where it cannot be read, or is not one of ``export``."""
    model = load_model(path)
    with reading(path, "an ONNX file of qat export", "export it again"):
        check_operators(model)
    return model


def write(model: onnx.ModelProto, path: str | Path) -> None:
    """Write a model as a file, after ONNX's checker has passed it."""
    onnx.checker.check_model(model, full_check=True)
    write_atomically(path, model.SerializeToString())
