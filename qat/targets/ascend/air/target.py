"""AIR, the form that Ascend's offline compiler takes from MindSpore, written and checked on any host.

The file is a serialized ``ge.proto.ModelDef``: one graph of operators ("Data", "Conv2D", ...), each naming its inputs as
"operator:port" and describing every tensor. It takes what the network takes, (1, C, H, W), and returns real numbers, float32.
``predict`` runs the parsed file in NumPy (unit.py), over any number of images.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np

from qat.deploy.recipe import RECIPE
from qat.files import write_atomically
from qat.integer import IntegerGraph, IntegerTensor
from qat.registry import TARGETS
from qat.targets.ascend import lower as ascend
from qat.targets.ascend.air.file import load, parse
from qat.targets.ascend.air.model import Model
from qat.targets.ascend.air.run import run_operators, specs_of_inputs
from qat.targets.ascend.air.writer import operators_of, write_model
from qat.targets.common import end_names, prefixed, unprefixed
from qat.vocabulary.arrays import Arrays, ArraySpec, as_arrays, in_batches
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
    """Set attributes of the model, each key with "qat." before it; nothing else in the file changes. A recipe is left out: the
    file takes what its network takes, as its Data operators describe it, "preparation" says the rest, and only this library
    reads attributes of such a file.
    """
    model = load(path)
    kept = {key: value for key, value in metadata.items() if key != RECIPE}
    attributes = model.attributes | {key: value.encode() for key, value in prefixed(kept).items()}
    write_atomically(path, write_model(model.name, model.operators, attributes))


def read_metadata(path: str | Path) -> dict[str, str]:
    """The entries that ``write_metadata`` wrote, by key without "qat."."""
    attributes = load(path).attributes
    return unprefixed({key: value.decode(errors="replace") for key, value in attributes.items()})


def input_specs(path: str | Path) -> list[ArraySpec]:
    """Shape and dtype of what the network takes."""
    return specs_of_inputs(load(path))


def predict(path: str | Path, pixels: Arrays) -> Arrays:
    """Real outputs, emulated on this machine."""
    model = load(path)
    found = _infer(path, model, model.outputs, pixels)
    return as_arrays(tuple(found[name] for name in model.outputs))


def trace(path: str | Path, pixels: Arrays, tensors: Collection[IntegerTensor]) -> dict[str, Array]:
    """Codes of single tensors, as far as the file computes them, in the same emulation."""
    model = load(path)
    names = ascend.tensors_of(tensors, {operator.name for operator in model.operators})
    found = _infer(path, model, list(names.values()), pixels) if names else {}
    return {x.name: ascend.codes_of(found[names[x.name]], x.grid) for x in tensors if x.name in names}


def runtime() -> str:
    """What ``predict`` runs in: an emulation."""
    return f"AIR: structure validated, execution emulated in NumPy {np.__version__}; not run on an Ascend"


def _infer(path: str | Path, model: Model, names: Sequence[str], pixels: Arrays) -> dict[str, Array]:
    """What the named operators give, by name."""

    def run(batch: tuple[Array, ...]) -> dict[str, Array]:
        values = run_operators(model, batch)
        return {name: values[name] for name in names}

    return in_batches(run, pixels, specs_of_inputs(model), BATCH, str(path))
