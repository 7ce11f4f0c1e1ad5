"""Ascend's deploy form of ONNX, as its own quantization tool writes it, and its execution emulated on any host.

The file takes what the network takes, "input", (N, C, H, W), and returns real numbers "output", float32. AscendQuant and
AscendDequant stand in the default domain; between them Conv and Gemm take int8 codes and weights and give int32. No runtime
but Ascend's knows these, so ``predict`` runs the file in onnx.reference with operators of our own (unit.py).
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import onnx

from qat.integer import IntegerGraph, IntegerTensor
from qat.registry import TARGETS
from qat.targets.ascend import lower as ascend
from qat.targets.ascend.onnx.file import load, write
from qat.targets.ascend.onnx.run import infer
from qat.targets.ascend.onnx.writer import node_of
from qat.targets.onnx.ends import ends_in
from qat.targets.onnx.form import Form
from qat.targets.onnx.writer import model_of
from qat.vocabulary.arrays import Arrays, ArraySpec
from qat.vocabulary.ops import Array

OPSET, IR_VERSION = 17, 8  #: Ascend's offline compiler reads no newer ones
NAME = "ASCEND_ONNX"  #: under which ``qat.target`` knows it
SUFFIX, OPTIONS = TARGETS[NAME].suffix, TARGETS[NAME].options
ARITHMETICS: tuple[str, ...] = ("float",)
RUNS_CODE = False
_FORM = Form(load, write, infer)
write_metadata, read_metadata = _FORM.write_metadata, _FORM.read_metadata
tensors, input_specs, predict = _FORM.tensors, _FORM.input_specs, _FORM.predict


def export(graph: IntegerGraph, path: str | Path) -> None:
    """Write the deploy form.

    Args:
        graph: the integers, as ``qat.to_integer`` gives them.
        path: the file, which appears or is replaced as a whole.

    Raises:
        QatError: a node does not keep to the profile "ascend", or has no form there; the message names it.
    """
    steps = ascend.lower(graph, NAME)
    initializers: dict[str, onnx.TensorProto] = {}
    nodes = [node_of(step, initializers) for step in steps if step.kind != "input"]
    ends = graph.input_specs, [ArraySpec(x.shape, "float32") for x in graph.outputs]
    write(model_of(graph.name, nodes, list(initializers.values()), *ends, OPSET, IR_VERSION), path)


def trace(path: str | Path, pixels: Arrays, tensors: Collection[IntegerTensor]) -> dict[str, Array]:
    """Codes of single tensors, as far as the file computes them, in the same emulation."""
    model = load(path)
    names = ascend.tensors_of(tensors, {name for node in model.graph.node for name in node.output})
    found = infer(path, model, ends_in(path, model), list(names.values()), pixels) if names else {}
    return {x.name: ascend.codes_of(found[names[x.name]], x.grid) for x in tensors if x.name in names}


def runtime() -> str:
    """What ``predict`` runs in: an emulation."""
    return f"emulated: onnx.reference {onnx.__version__} with Ascend's operators in NumPy, not an Ascend"
