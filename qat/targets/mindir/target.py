"""MINDIR: the integer graph as MindSpore's own model file, run in MindSpore (and a source for its Lite converter).

The file takes what the network takes, (N, C, H, W), and returns real numbers, float32; N is free. Weights are stored as int8,
biases as int32; the arithmetic is that of ``qat.integer`` on integers held in float32. It is written directly: an export by
MindSpore itself compiles the network and adds some 20 kB of names and attributes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path

import numpy as np

from qat.backends.mindspore.setup import ms
from qat.deploy.arithmetics import require_arithmetic
from qat.integer import IntegerGraph, IntegerTensor
from qat.integer.widths import require_bytes
from qat.registry import TARGETS
from qat.targets.common import codes_name, prefixed, unprefixed
from qat.targets.mindir.file import load, set_outputs, specs_of_inputs, write
from qat.targets.mindir.integer import IntegerWriter
from qat.targets.mindir.run import clocked, infer
from qat.vocabulary.arrays import Arrays, ArraySpec, as_arrays
from qat.vocabulary.ops import Array

NAME = "MINDIR"  #: under which ``qat.target`` knows it
SUFFIX, OPTIONS = TARGETS[NAME].suffix, TARGETS[NAME].options
ARITHMETICS: tuple[str, ...] = ("float",)
RUNS_CODE = False


def export(graph: IntegerGraph, path: str | Path) -> None:
    """Write an integer graph.

    Args:
        graph: the integers, as ``qat.to_integer`` gives them.
        path: the file, which appears or is replaced as a whole.

    Raises:
        QatError: codes have more than 8 bits, or a node has no form in MINDIR; the message names it.
    """
    require_bytes(graph, "a MINDIR file")
    require_arithmetic(graph, NAME, ARITHMETICS)
    writer = IntegerWriter(graph.name)
    for x, spec in zip(graph.inputs, graph.input_specs, strict=True):
        writer.enter(x.name, spec)
    for node in graph.nodes:
        writer.add(node)
    outputs = [(writer.node("Mul", [writer.names[x.name], writer.number(x.grid.scale)]), x) for x in graph.outputs]
    writer.leave([(name, x.shape) for name, x in outputs])
    writer.check()
    write(writer.model, path)


def write_metadata(path: str | Path, metadata: Mapping[str, str]) -> None:
    """Set entries of user_info, each key with "qat." before it; nothing else in the file changes."""
    model = load(path)
    for key, value in prefixed(metadata).items():
        model.user_info[key] = value
    write(model, path)


def read_metadata(path: str | Path) -> dict[str, str]:
    """The entries that ``write_metadata`` wrote, by key without "qat."."""
    return unprefixed(load(path).user_info)


def input_specs(path: str | Path) -> list[ArraySpec]:
    """Shape and dtype of what the network takes."""
    return specs_of_inputs(load(path))


def predict(path: str | Path, pixels: Arrays) -> Arrays:
    """Real outputs, computed by MindSpore from the file as it is."""
    found = infer(path, load(path), pixels)
    return as_arrays(tuple(found[i] for i in range(len(found))))


def trace(path: str | Path, pixels: Arrays, tensors: Collection[IntegerTensor]) -> dict[str, Array]:
    """Codes of single tensors, from a copy of the file that has them as outputs."""
    model = load(path)
    present = {name for node in model.graph.node for name in node.output}
    wanted = [tensor for tensor in tensors if codes_name(tensor.name) in present]
    if not wanted:
        return {}
    set_outputs(model, [(codes_name(tensor.name), tensor.shape) for tensor in wanted])
    found = infer(path, model, pixels)
    return {x.name: found[i].astype(np.int32) + x.grid.zero_point for i, x in enumerate(wanted)}


def runtime() -> str:
    """The version of MindSpore, and its device."""
    return f"MindSpore {ms.__version__} (nn.GraphCell, {ms.get_context('device_target')})"


@contextlib.contextmanager
def timed(path: str | Path, samples: Arrays) -> Iterator[Callable[[int], float]]:
    """Seconds of so many runs of a graph cell (``qat.deploy.measuring.IsTimed``)."""
    with clocked(path, load(path), samples) as seconds:
        yield seconds


def timed_runtime() -> str:
    """What ``timed`` runs in, with its version."""
    return runtime()
