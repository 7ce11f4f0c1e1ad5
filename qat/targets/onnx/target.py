"""ONNX: the standard QDQ form of an integer graph, and the plain form of a float network, run in ONNX Runtime.

The file takes raw uint8 pixels "input", (N, C, H, W), and returns real numbers "output", float32. Activations are uint8
codes and weights int8; ONNX Runtime fuses every DequantizeLinear - operation - QuantizeLinear into one integer kernel.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

import numpy as np
import onnxruntime
from onnx import TensorProto, helper

from qat.errors import QatError
from qat.graph import Graph
from qat.integer import IntegerGraph, IntegerTensor
from qat.integer.widths import check_packing, require_bytes
from qat.registry import TARGETS
from qat.targets.common import codes_name, end_names
from qat.targets.float_graph import float_form, written_outputs
from qat.targets.onnx.file import load, write
from qat.targets.onnx.float import OnnxOps, OnnxSymbol
from qat.targets.onnx.form import Form
from qat.targets.onnx.integer import QdqWriter, offset_of
from qat.targets.onnx.run import infer, session_of
from qat.targets.onnx.writer import Writer
from qat.vocabulary.arrays import Arrays, as_arrays, as_tuple
from qat.vocabulary.ops import Array

NAME = "ONNX"  #: under which ``qat.target`` knows it
SUFFIX, OPTIONS = TARGETS[NAME].suffix, TARGETS[NAME].options
ARITHMETICS: tuple[str, ...] = ("float",)
RUNS_CODE = False
WEIGHTS = ("int8", "uint8")  #: what they are multiplied as
_FORM = Form(load, write, infer)
write_metadata, read_metadata = _FORM.write_metadata, _FORM.read_metadata
input_shapes, predict = _FORM.input_shapes, _FORM.predict


def export(graph: IntegerGraph, path: str | Path, *, weights: str = "int8", packing: str = "packed") -> None:
    """Write the QDQ form of an integer graph.

    Args:
        graph: the integers, as ``qat.to_integer`` gives them.
        path: the file, which appears or is replaced as a whole.
        weights: what weights are multiplied as: "int8", or "uint8" for x86 CPUs without VNNI. There ONNX Runtime multiplies u8
            by s8 with an instruction that saturates sums of two products at 16 bits; of u8 by u8 it takes another, which does
            not. The codes are the same.
        packing: "packed" stores weights of 4 and of 2 bits as INT4 and INT2, which need opset 21 and 25; "bytes" stores each in
            a byte.

    Raises:
        QatError: ONNX Runtime does not compute a node exactly, which the message names, or an option is unknown.
    """
    packed = check_packing(packing)
    if weights not in WEIGHTS:
        raise QatError(f"--weights {weights!r} is unknown: choose one of {', '.join(WEIGHTS)}")
    require_bytes(graph, "ONNX Runtime")
    writer = QdqWriter(weights == "uint8", packed)
    writer.enter(graph.inputs)
    for node in graph.nodes:
        writer.add(node)
    for x, name in zip(graph.outputs, end_names("output", len(graph.outputs)), strict=True):
        writer.dequantize(x, name)
    write(writer.model(graph.name, [x.shape for x in graph.inputs], [x.shape for x in graph.outputs]), path)


def export_float(graph: Graph, params: Mapping[str, Array], path: str | Path) -> None:
    """Write a float network, with the same input and output as its quantized form.

    Args:
        graph: a float network.
        params: its parameters by name, canonical arrays.
        path: the file, which appears or is replaced as a whole.

    Raises:
        QatError: the network is quantized, its parameters do not fit, or a cell has no form in ONNX.
    """
    graph, params = float_form(graph, params)
    writer = Writer()
    ops = OnnxOps(writer)
    tensors = {name: ops.from_numpy(params[name], param.kind) for name, param in graph.params.items()}
    pixels = tuple(
        OnnxSymbol(writer, writer.node("Cast", [name], to=TensorProto.FLOAT))
        for name in end_names("input", len(graph.inputs))
    )
    results = written_outputs(graph, ops, tensors, pixels)
    for result, name in zip(results, end_names("output", len(results)), strict=True):
        writer.node("Identity", [result.name], output=name)
    shapes = [[graph.shapes[name] for name in names] for names in ((x.name for x in graph.inputs), graph.outputs)]
    write(writer.model(graph.name, *shapes), path)


def trace(path: str | Path, pixels: Arrays, tensors: Collection[IntegerTensor]) -> dict[str, Array]:
    """Codes of single tensors, from a copy of the file that has them as further outputs."""
    model = load(path)
    present = {name for node in model.graph.node for name in node.output}
    wanted = {codes_name(tensor.name): tensor for tensor in tensors if codes_name(tensor.name) in present}
    if not wanted:  # nothing but the network's inputs
        return {}
    for name in wanted:
        model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.UINT8, None))
    found = infer(path, model, list(wanted), pixels)
    return {x.name: found[name].astype(np.int32) - offset_of(x.grid) for name, x in wanted.items()}


def runtime() -> str:
    """The name, version and options of what ``predict`` runs in."""
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


def opened(path: str | Path, *, threads: int = 1) -> Callable[[Arrays], Arrays]:
    """Load a file once, to measure how long its runs take.

    Args:
        path: an exported file.
        threads: of the runtime.

    Returns:
        A function from pixels to outputs, as ``predict`` has them, without its checks and its batches.

    Raises:
        QatError: the file is not one of ``export``, or ONNX Runtime does not load it.
    """
    model = load(path)
    outputs = [output.name for output in model.graph.output]
    session = session_of(path, model, threads)
    inputs = [x.name for x in session.get_inputs()]

    def compute(pixels: Arrays) -> Arrays:
        return as_arrays(tuple(session.run(outputs, dict(zip(inputs, as_tuple(pixels), strict=True)))))

    return compute
