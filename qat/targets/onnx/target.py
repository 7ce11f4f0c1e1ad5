"""ONNX: the standard QDQ form of an integer graph, and the plain form of a float network, run in ONNX Runtime.

The file takes "input", (N, C, H, W), as the network takes it, and returns real numbers "output", float32, unless another type
is chosen for either; what is not uint8 codes yet becomes such at its beginning, in float32 (docs/numerics.md). Activations are
uint8 codes and weights int8; ONNX Runtime fuses every DequantizeLinear - operation - QuantizeLinear into one integer kernel.
"""

from __future__ import annotations

import contextlib
import platform
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path

import numpy as np
import onnxruntime
from onnx import TensorProto, helper

from qat.deploy.arithmetics import require_arithmetic
from qat.errors import QatError
from qat.graph import Graph
from qat.integer import IntegerGraph, IntegerTensor
from qat.integer.ends import OWN, REAL, ends_of
from qat.integer.widths import check_packing, require_bytes
from qat.registry import TARGETS
from qat.targets.common import codes_name, end_names
from qat.targets.float_graph import float_form, written_outputs
from qat.targets.onnx.ends import ends_in, keep_ends, specs_of
from qat.targets.onnx.file import load, write
from qat.targets.onnx.float import OnnxOps, OnnxSymbol
from qat.targets.onnx.form import Form
from qat.targets.onnx.integer import QdqWriter, offset_of
from qat.targets.onnx.run import clocked, infer, session_of
from qat.targets.onnx.writer import Writer
from qat.vocabulary.arrays import Arrays, ArraySpec, as_arrays, as_tuple
from qat.vocabulary.ops import Array

NAME = "ONNX"  #: under which ``qat.target`` knows it
SUFFIX, OPTIONS = TARGETS[NAME].suffix, TARGETS[NAME].options
ARITHMETICS: tuple[str, ...] = ("float",)
RUNS_CODE = False
WEIGHTS = ("int8", "uint8")  #: what they are multiplied as
_FORM = Form(load, write, infer)
write_metadata, read_metadata = _FORM.write_metadata, _FORM.read_metadata
tensors, input_specs, predict = _FORM.tensors, _FORM.input_specs, _FORM.predict


def export(
    graph: IntegerGraph,
    path: str | Path,
    *,
    weights: str = "int8",
    packing: str = "packed",
    input_type: str = OWN,
    output_type: str = OWN,
) -> None:
    """Write the QDQ form of an integer graph.

    Args:
        graph: the integers, as ``qat.to_integer`` gives them.
        path: the file, which appears or is replaced as a whole.
        weights: what weights are multiplied as: "int8", or "uint8" for x86 CPUs without VNNI. There ONNX Runtime multiplies u8
            by s8 with an instruction that saturates sums of two products at 16 bits; of u8 by u8 it takes another, which does
            not. The codes are the same.
        packing: "packed" stores weights of 4 and of 2 bits as INT4 and INT2, which need opset 21 and 25; "bytes" stores each in
            a byte.
        input_type: what the file takes, as ``qat.integer.ends.ends_of`` has it: "own", what the network takes; "float32", real
            numbers, which the file quantizes; an integer type, codes.
        output_type: what the file gives: real numbers, "own" or "float32"; or codes of an integer type.

    Raises:
        QatError: ONNX Runtime does not compute a node exactly, which the message names, or an option is unknown, or a type
            does not hold the codes.
    """
    packed = check_packing(packing)
    if weights not in WEIGHTS:
        raise QatError(f"--weights {weights!r} is unknown: choose one of {', '.join(WEIGHTS)}")
    require_bytes(graph, "ONNX Runtime")
    require_arithmetic(graph, NAME, ARITHMETICS)
    ends = ends_of(graph, input_type, output_type)
    writer = QdqWriter(weights == "uint8", packed)
    writer.enter(graph.inputs, ends.inputs)
    for node in graph.nodes:
        writer.add(node)
    for x, end, name in zip(graph.outputs, ends.outputs, end_names("output", len(graph.outputs)), strict=True):
        writer.leave(x, end, name)
    model = writer.model(graph.name, specs_of(ends.inputs), specs_of(ends.outputs))
    keep_ends(model, ends)
    write(model, path)


def export_float(graph: Graph, params: Mapping[str, Array], path: str | Path) -> None:
    """Write a float network, which takes what its quantized form takes, and gives real numbers.

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
    names = end_names("input", len(graph.inputs))
    samples = tuple(
        OnnxSymbol(
            writer,
            name if x.dtype == REAL else writer.node("Cast", [name], to=TensorProto.FLOAT),
            rank=len(x.shape) + 1,
        )
        for name, x in zip(names, graph.input_specs, strict=True)
    )
    results = written_outputs(graph, ops, tensors, samples)
    for result, name in zip(results, end_names("output", len(results)), strict=True):
        writer.node("Identity", [result.name], output=name)
    outputs = [ArraySpec(graph.shapes[name], REAL) for name in graph.outputs]
    write(writer.model(graph.name, graph.input_specs, outputs), path)


def trace(path: str | Path, pixels: Arrays, tensors: Collection[IntegerTensor]) -> dict[str, Array]:
    """Codes of single tensors, from a copy of the file that has them as further outputs."""
    model = load(path)
    ends = ends_in(path, model)
    present = {name for node in model.graph.node for name in node.output}
    wanted = {codes_name(tensor.name): tensor for tensor in tensors if codes_name(tensor.name) in present}
    if not wanted:  # nothing but the network's inputs
        return {}
    for name in wanted:
        model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.UINT8, None))
    found = infer(path, model, ends, list(wanted), pixels)
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
        A function from what the network takes to outputs, as ``predict`` has them, without its checks and its batches.

    Raises:
        QatError: the file is not one of ``export``, or ONNX Runtime does not load it.
    """
    model = load(path)
    outputs = [output.name for output in model.graph.output]
    ends, session = ends_in(path, model), session_of(path, model, threads)
    inputs = [x.name for x in session.get_inputs()]

    def compute(pixels: Arrays) -> Arrays:
        feed = dict(zip(inputs, ends.encode(as_tuple(pixels)), strict=True))
        return as_arrays(ends.decode(session.run(outputs, feed)))

    return compute


@contextlib.contextmanager
def timed(path: str | Path, samples: Arrays) -> Iterator[Callable[[int], float]]:
    """Seconds of so many runs of a session of one thread (``qat.deploy.measuring.IsTimed``)."""
    model = load(path)
    with clocked(path, model, ends_in(path, model), samples) as seconds:
        yield seconds


def timed_runtime() -> str:
    """What ``timed`` runs in, with its version."""
    return f"ONNX Runtime {onnxruntime.__version__} (CPUExecutionProvider)"
