"""A file in Ascend's deploy form of ONNX: read, checked and written."""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import TensorProto, helper

from qat.files import write_atomically
from qat.reading import reading
from qat.targets.onnx.file import check_operators, load_model

OWN = ("AscendQuant", "AscendDequant")  #: operators that ONNX does not know


def load(path: str | Path) -> onnx.ModelProto:
    """The model of a file. Raises QatError where it cannot be read, or is not one of ``export``."""
    model = load_model(path)
    with reading(path, "an ONNX file of qat export", "export it again"):
        _check(model)
        check_operators(_known(model))
    return model


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


def write(model: onnx.ModelProto, path: str | Path) -> None:
    """Write a model as a file, after ONNX's checker has passed it."""
    _check(model)
    write_atomically(path, model.SerializeToString())
