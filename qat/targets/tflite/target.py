"""TensorFlow Lite: an integer graph, or a float network, written straight as a flatbuffer and run in LiteRT.

Activations are int8, NHWC. A code c of a grid [qmin, qmax] is stored as c - qmin - 128, so that the lowest code of every grid
is -128: a uint8 pixel p enters as p - 128, and 8-bit signed codes stay as they are. The file holds a batch of one; LiteRT's
``resize_tensor_input`` makes it larger. Inputs, outputs, weights and what nodes give have the network's names, and the
signature "serving_default" names inputs and outputs. ``predict`` takes what the network takes, (N, C, H, W), as every target
does, and returns real numbers.

With activations of more than 8 bits, in the fixed arithmetic, all of them are int16 and centred, behind an input of int8.

What a file takes and gives can be chosen (``qat.integer.ends``); these are the defaults. Real numbers, and codes of 16 bits,
that enter become codes by plain operators.

Of the two arithmetics (docs/numerics.md), "float" is LiteRT as it comes, with XNNPACK; "fixed" its reference kernels, and
there dense layers are written as convolutions.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import cast

import ai_edge_litert
import numpy as np

from qat.cells.input import Input
from qat.child import Child, ChildError
from qat.deploy.recipe import RECIPE
from qat.errors import QatError
from qat.files import write_atomically
from qat.graph import Graph
from qat.integer import IntegerGraph, IntegerTensor, require_integers
from qat.integer.ends import OWN, REAL, Ends, FileTensors
from qat.integer.widths import check_packing, require_bytes
from qat.registry import TARGETS
from qat.targets.common import METADATA, cannot_run, prefixed, to_chw, to_hwc
from qat.targets.float_graph import float_form, written_outputs
from qat.targets.tflite.described import describe
from qat.targets.tflite.ends import ends_in, float_ends, keep_ends
from qat.targets.tflite.file import DIGEST, File, check_runs, ends_of_others, load, pack_model, set_metadata
from qat.targets.tflite.float import TfliteOps, TfliteSymbol
from qat.targets.tflite.integer import IntegerWriter
from qat.targets.tflite.real_numbers import leave
from qat.targets.tflite.writer import Op, Writer, coded, permuted, quantization_of, stored_shape
from qat.vocabulary.arrays import Arrays, ArraySpec, as_arrays, batches_of, in_batches
from qat.vocabulary.ops import Array

NAME = "TFLITE"  #: under which ``qat.target`` knows it
SUFFIX, OPTIONS = TARGETS[NAME].suffix, TARGETS[NAME].options
ARITHMETICS: tuple[str, ...] = ("float", "fixed")
RUNS_CODE = False
BATCH = 100  #: images in one run of an interpreter
_LITERT = Child("qat.targets.tflite.run")


def export(
    graph: IntegerGraph,
    path: str | Path,
    *,
    arithmetic: str | None = None,
    packing: str = "packed",
    input_type: str = OWN,
    output_type: str = OWN,
) -> None:
    """Write an integer graph.

    Args:
        graph: the integers, as ``qat.to_integer`` gives them.
        path: the file, which appears or is replaced as a whole.
        arithmetic: "float" for LiteRT with XNNPACK, or "fixed" for reference kernels and microcontrollers (docs/numerics.md).
            None, the default: that of the graph.
        packing: "packed" stores weights of 4 bits and fewer as INT4, in the float arithmetic those of dense layers alone and
            those of 2 bits as INT2; "bytes" stores each in a byte.
        input_type: what the file takes, one of ``qat.integer.ends.TYPES``. "own", the default: codes of 8 bits as int8, else
            what the network takes.
        output_type: what the file gives, likewise. "own", the default: int8 codes; int16 where some have more than 8 bits.

    Raises:
        QatError: LiteRT does not compute a node exactly in that arithmetic, which the message names; an option is unknown, or
            the type of an input or output does not hold its codes.
    """
    require_integers(graph)
    packed, arithmetic = check_packing(packing), arithmetic or graph.arithmetic
    if arithmetic not in ARITHMETICS:
        raise QatError(f"{path}: arithmetic {arithmetic!r} is unknown; use one of {', '.join(ARITHMETICS)}")
    require_bytes(graph, f"LiteRT in the {arithmetic} arithmetic", weights_only=arithmetic == "fixed")
    writer = IntegerWriter(graph, arithmetic, packed, input_type, output_type)
    for node in graph.nodes:
        writer.add(node)
    outputs = [(x.name, leave(writer, x, end)) for x, end in zip(graph.outputs, writer.ends.outputs, strict=True)]
    model = writer.model(outputs, graph.name)
    set_metadata(model, METADATA + "arithmetic", arithmetic.encode())
    keep_ends(model, writer.ends)
    write_atomically(path, pack_model(model))


def arithmetic_of(path: str | Path) -> str:
    """The arithmetic that a file was exported for."""
    return _arithmetic(load(path))


def _arithmetic(file: File) -> str:
    return _entries(file).get("arithmetic", ARITHMETICS[0])


def _opened(path: str | Path, arithmetic: str | None) -> tuple[File, str]:
    """A file, and the arithmetic that it is run in: that of its export unless another is given."""
    file = load(path)
    arithmetic = arithmetic or _arithmetic(file)
    check_runs(path, file.model, arithmetic)
    return file, arithmetic


def export_float(graph: Graph, params: Mapping[str, Array], path: str | Path) -> None:
    """Write a float network. The file takes what the network takes, NHWC, and returns float32.

    Args:
        graph: a float network.
        params: its parameters by name, canonical arrays.
        path: the file, which appears or is replaced as a whole.

    Raises:
        QatError: the network is quantized, its parameters do not fit, or a cell has no form in TFLite.
    """
    graph, params = float_form(graph, params)
    writer = Writer()
    ops = TfliteOps(writer)
    tensors = {name: ops.parameter(params[name], param.kind, name) for name, param in graph.params.items()}
    samples = []
    for node in graph.inputs:
        cell = cast(Input, node.cell)
        shape, coded = stored_shape(cell.shape), cell.scale is not None
        quantization = quantization_of(cell.grid.scale, cell.zero_point) if coded else None
        writer.inputs.append(real := writer.tensor(shape, cell.dtype, quantization, node.name))
        if cell.dtype != REAL:
            real = writer.op(Op.CAST, [real], writer.tensor(shape, np.float32))
        samples.append(TfliteSymbol(writer, real, shape))
    results = written_outputs(graph, ops, tensors, tuple(samples))
    outputs = [(name, ops.apart(result).index) for name, result in zip(graph.outputs, results, strict=True)]
    model = writer.model(outputs, graph.name)
    keep_ends(model, float_ends(graph))
    write_atomically(path, pack_model(model))


def write_metadata(path: str | Path, metadata: Mapping[str, str]) -> None:
    """Set entries of the metadata, each key with "qat." before it; a recipe as TensorFlow Lite Metadata too, with the names of
    classes. Nothing that is computed changes.
    """
    model = load(path).model
    for key, value in prefixed(metadata).items():
        set_metadata(model, key, value.encode())
    if RECIPE in metadata:
        describe(model, json.loads(metadata[RECIPE]), ends_in(path, model))
    write_atomically(path, pack_model(model))


def read_metadata(path: str | Path) -> dict[str, str]:
    """The entries that ``write_metadata`` wrote, by key without "qat."."""
    return _entries(load(path))


def _entries(file: File) -> dict[str, str]:
    model = file.model
    entries = {entry.name.decode(): model.buffers[entry.buffer].data for entry in model.metadata or []}
    return {
        name.removeprefix(METADATA): bytes(data).decode()
        for name, data in entries.items()
        if name.startswith(METADATA) and name != DIGEST
    }


def tensors(path: str | Path) -> FileTensors:
    """The inputs and outputs of a file as it has them; names are those of its signature."""
    model = load(path).model
    subgraph = model.subgraphs[0]
    ends = (subgraph.inputs, subgraph.outputs)
    inputs, outputs = (tuple(subgraph.tensors[index].name.decode() for index in each) for each in ends)
    return FileTensors(ends_in(path, model), inputs, outputs, channels_last=True)


def input_specs(path: str | Path) -> list[ArraySpec]:
    """What the network takes, whatever the file's own inputs are."""
    return ends_in(path, load(path).model).specs


def predict(path: str | Path, pixels: Arrays, *, arithmetic: str | None = None) -> Arrays:
    """Real outputs, computed by LiteRT from the file as it is. arithmetic: None, the default: that of its export."""
    file, arithmetic = _opened(path, arithmetic)
    ends = ends_in(path, file.model)
    found = _infer(path, file.content, ends, pixels, arithmetic)
    return as_arrays(ends.decode([to_chw(x) for x in found.values()]))


def trace(
    path: str | Path, pixels: Arrays, tensors: Collection[IntegerTensor], *, arithmetic: str | None = None
) -> dict[str, Array]:
    """Codes of single tensors, from a copy of the file that has them as further outputs.

    LiteRT's own way of keeping intermediate tensors would switch XNNPACK off.
    """
    file, arithmetic = _opened(path, arithmetic)
    model = file.model
    subgraph, ends = model.subgraphs[0], ends_in(path, model)
    shapes = {
        operator.outputs[0]: subgraph.tensors[operator.inputs[0]].shape
        for operator in subgraph.operators
        if len(operator.inputs)
    }
    model.signatureDefs = None  # it names the outputs as they were
    inputs = {subgraph.tensors[index].name for index in subgraph.inputs}
    indices = {
        tensor.name.decode(): index
        for index, tensor in enumerate(subgraph.tensors)
        if tensor.name and tensor.name not in inputs and not tensor.buffer
    }
    wanted = {
        x.name: (x, stored)
        for x in tensors
        for stored in (x.name, permuted(x.name), coded(x.name))
        if stored in indices
    }
    if not wanted:  # nothing but the network's inputs
        return {}
    subgraph.outputs = [indices[stored] for _, stored in wanted.values()]
    found = _infer(path, pack_model(model), ends, pixels, arithmetic)
    result = {}
    for (name, (x, stored)), index, codes in zip(wanted.items(), subgraph.outputs, found.values(), strict=True):
        if stored == permuted(name):  # flattened in HWC order
            codes = codes.reshape(-1, *shapes[index][1:])
            codes = to_chw(codes).reshape(len(codes), -1)
        codes = to_chw(codes).reshape(len(codes), *x.shape)
        if codes.dtype == np.float32:  # an output of real numbers
            result[name] = x.grid.codes_of(codes)
        else:
            zero_point = int(subgraph.tensors[index].quantization.zeroPoint[0])
            result[name] = codes.astype(np.int32) - zero_point + x.grid.zero_point
    return result


def runtime(arithmetic: str = "float") -> str:
    """The version of LiteRT, and the kernels that an arithmetic runs in."""
    version = getattr(ai_edge_litert, "__version__", "")
    kernels = "default options, XNNPACK" if arithmetic == "float" else "reference kernels"
    return f"LiteRT {version} ({kernels})"


def _infer(path: str | Path, content: bytes, ends: Ends, samples: Arrays, arithmetic: str) -> dict[int, Array]:
    """What LiteRT computes for each of the outputs, by position, as the file stores it."""
    try:
        with _LITERT.session():  # of two threads, each would have its pixels computed from the other's file
            _LITERT.ask({"reference": arithmetic == "fixed"}, [np.frombuffer(content, np.uint8)])

            def run(batch: tuple[Array, ...]) -> dict[int, Array]:
                return dict(enumerate(_LITERT.ask({}, [to_hwc(x) for x in ends.encode(batch)])))

            return in_batches(run, samples, ends.specs, BATCH, str(path))
    except ChildError as error:
        raise cannot_run(path, "LiteRT", str(error)) from None


def predict_of_others(path: str | Path, numbers: Array) -> Array:
    """What LiteRT computes from a file that others have made (``qat.deploy.interfaces.RunsFilesOfOthers``), a sample at a time,
    since such a file may hold sizes for one.
    """
    content, ends = ends_of_others(path)
    taken, given = ends
    stored = to_hwc(numbers)
    if stored[0].size != math.prod(taken.shape):
        raise QatError(
            f"{path}: takes {' x '.join(map(str, taken.shape))} numbers, and a sample has {stored[0].size}: they do not belong "
            "together; give the file as it was published"
        )
    stored = stored.reshape(len(numbers), *taken.shape)
    if taken.dtype != REAL:
        limits = np.iinfo(taken.dtype)
        codes = np.rint(stored / np.float32(taken.scale)) + taken.zero_point
        stored = np.clip(codes, limits.min, limits.max).astype(taken.dtype)
    try:
        with _LITERT.session():
            _LITERT.ask({"reference": False}, [np.frombuffer(content, np.uint8)])
            found = np.concatenate([_LITERT.ask({}, [stored[i : i + 1]])[0] for i in range(len(stored))])
    except ChildError as error:
        raise QatError(f"{path}: LiteRT cannot run it ({error}); give the file as it was published") from None
    if given.dtype != REAL:
        found = ((found.astype(np.int32) - given.zero_point) * np.float32(given.scale)).astype(np.float32)
    return to_chw(found)


@contextlib.contextmanager
def timed(path: str | Path, samples: Arrays) -> Iterator[Callable[[int], float]]:
    """Seconds of so many runs of an interpreter of one thread (``qat.deploy.measuring.IsTimed``), with its default kernels."""
    file, litert = (
        load(path),
        Child("qat.targets.tflite.run"),
    )  # one of its own, since several files may be timed in turn
    ends = ends_in(path, file.model)
    (batch,) = batches_of(samples, ends.specs, 1, str(path))

    def seconds(count: int) -> float:
        try:
            return float(litert.ask({"repeat": count}, [])[0][0])
        except ChildError as error:
            raise cannot_run(path, "LiteRT", str(error)) from None

    try:
        litert.ask({"reference": False, "threads": 1}, [np.frombuffer(file.content, np.uint8)])
        litert.ask({}, [to_hwc(x) for x in ends.encode(batch)])
        yield seconds
    except ChildError as error:
        raise cannot_run(path, "LiteRT", str(error)) from None
    finally:
        litert.close()


def timed_runtime() -> str:
    """What ``timed`` runs in, with its version."""
    return runtime()
