"""AIR, the form that Ascend's offline compiler takes from MindSpore, written and checked on any host.

The file is a serialized ``ge.proto.ModelDef``: one graph of operators ("Data", "Conv2D", ...), each naming its inputs as
"operator:port" and describing every tensor. It takes raw uint8 pixels, (1, C, H, W), and returns real numbers, float32.
``predict`` runs the parsed file in NumPy (unit.py), over any number of images.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np

from qat.files import write_atomically
from qat.integer import IntegerGraph, IntegerTensor, Shape
from qat.registry import TARGETS
from qat.targets.ascend import lower as ascend
from qat.targets.ascend.air.file import load, parse
from qat.targets.ascend.air.model import Model
from qat.targets.ascend.air.run import run_operators, shapes_of_inputs
from qat.targets.ascend.air.writer import operators_of, write_model
from qat.targets.common import end_names, prefixed
from qat.vocabulary.arrays import Arrays, as_arrays, in_batches
from qat.vocabulary.ops import Array

NAME = "AIR"  #: under which ``qat.target`` knows it
SUFFIX, OPTIONS = TARGETS[NAME].suffix, TARGETS[NAME].options
ARITHMETICS: tuple[str, ...] = ("float",)
RUNS_CODE = False
BATCH = 128  #: images at a time


def export(graph: IntegerGraph, path: str | Path) -> None:
    """Write the file, after checking it as a reader does.

    Args:
        graph: the integers, as ``qat.to_integer`` gives them.
        path: the file, which appears or is replaced as a whole.

    Raises:
        QatError: a node does not keep to the profile "ascend", or has no form there; the message names it.
    """
    steps = ascend.lower(graph, NAME)
    content = write_model(graph.name, operators_of(steps, end_names("output", len(graph.outputs))), {})
    parse(content, path)
    write_atomically(path, content)


def write_metadata(path: str | Path, metadata: Mapping[str, str]) -> None:
    """Set attributes of the model; nothing else in the file changes.

    Args:
        path: an exported file, which is replaced as a whole.
        metadata: texts by key; each is stored under the key with "qat." before it.

    Raises:
        QatError: the file cannot be read, or is not one of ``export``.
    """
    model = load(path)
    attributes = model.attributes | {key: value.encode() for key, value in prefixed(metadata).items()}
    write_atomically(path, write_model(model.name, model.operators, attributes))


def input_shapes(path: str | Path) -> list[Shape]:
    """The shapes of a file's inputs.

    Args:
        path: an exported file.

    Returns:
        For each input the shape of one sample, (C, H, W) or (F,).

    Raises:
        QatError: the file cannot be read, or is not one of ``export``.
    """
    return shapes_of_inputs(load(path))


def predict(path: str | Path, pixels: Arrays) -> Arrays:
    """Run a file in an emulation of Ascend.

    Args:
        path: an exported file.
        pixels: raw pixels, uint8, (N, C, H, W) or (N, F); one array for each input, as a tuple, where there are several.

    Returns:
        Real outputs, float32, (N, ...); a tuple of arrays where the network has several.

    Raises:
        QatError: the file is not one of ``export``, cannot be run, or takes other pixels.
    """
    model = load(path)
    found = _infer(path, model, model.outputs, pixels)
    return as_arrays(tuple(found[name] for name in model.outputs))


def trace(path: str | Path, pixels: Arrays, tensors: Collection[IntegerTensor]) -> dict[str, Array]:
    """The codes of single nodes, in the same emulation.

    Args:
        path: an exported file.
        pixels: raw pixels, uint8, (N, C, H, W) or (N, F); one array for each input, as a tuple, where there are several.
        tensors: the tensors, as ``node.output`` of the integer graph's nodes.

    Returns:
        Codes, int32, (N, ...), by the tensor's name. Tensors that the file does not compute, as its inputs, are left out.

    Raises:
        QatError: the file is not one of ``export``, cannot be run, or takes other pixels.
    """
    model = load(path)
    names = ascend.tensors_of(tensors, {operator.name for operator in model.operators})
    found = _infer(path, model, list(names.values()), pixels) if names else {}
    return {x.name: ascend.codes_of(found[names[x.name]], x.grid) for x in tensors if x.name in names}


def runtime() -> str:
    """What ``predict`` runs in, and its version."""
    return f"AIR: structure validated, execution emulated in NumPy {np.__version__}; not run on an Ascend"


def _infer(path: str | Path, model: Model, names: Sequence[str], pixels: Arrays) -> dict[str, Array]:
    """What the named operators give, by name."""

    def run(batch: tuple[Array, ...]) -> dict[str, Array]:
        values = run_operators(model, batch)
        return {name: values[name] for name in names}

    return in_batches(run, pixels, shapes_of_inputs(model), BATCH, str(path))
