"""What the targets do alike: names in a file, refusals, the order of pixels, and which nodes take a node's codes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from qat.cells.base import Shape
from qat.errors import QatError
from qat.integer import IntegerGraph, IntegerNode
from qat.vocabulary.ops import Array

METADATA = "qat."  #: before our keys in a file's metadata


def prefixed(metadata: Mapping[str, str]) -> dict[str, str]:
    """Entries of metadata under the keys that they have in a file."""
    return {METADATA + key: value for key, value in metadata.items()}


def unprefixed(entries: Mapping[str, str]) -> dict[str, str]:
    """The inverse of ``prefixed``; entries of others are left out."""
    return {key.removeprefix(METADATA): value for key, value in entries.items() if key.startswith(METADATA)}


def end_names(what: str, count: int) -> list[str]:
    """The names of a file's inputs or outputs: "input" where there is one, else "input0", "input1", ..."""
    return [what] if count == 1 else [f"{what}{i}" for i in range(count)]


def codes_name(name: str) -> str:
    """The name of a node's codes in the file; a node of the network that is called "fc.q" becomes "fc.q.q"."""
    return f"{name}.q"


def no_form(node: IntegerNode, target: str) -> QatError:
    """The refusal of a node whose kind a target does not write: the default case of a target's ``add``.

    Args:
        node: the node.
        target: the name of the file format.
    """
    return QatError(f"{node.name}: {target} has no form for {node.kind}; export to another format")


def cannot_run(path: str | Path, runtime: str, reason: str) -> QatError:
    """The refusal of a file that a runtime does not load or run."""
    return QatError(f"{path}: {runtime} cannot run it as a file of qat export ({reason}); export it anew")


def used_only_by(graph: IntegerGraph, kind: type[IntegerNode]) -> set[str]:
    """The names of nodes that are no outputs and whose codes only nodes of this kind take."""
    found = {node.name for node in graph.nodes} - {x.name for x in graph.outputs}
    for node in graph.nodes:
        if not isinstance(node, kind):
            found -= {x.name for x in node.inputs}
    return found


# -- channels last: HWC or LC, as TFLite and C have samples, where everything else here has CHW or CL -----------------


def same_in_hwc(shape: Shape) -> bool:
    """True where the numbers of one sample have the same order in HWC as in CHW."""
    return len(shape) < 2 or shape[0] == 1 or math.prod(shape[1:]) == 1


def to_hwc(x: Array) -> Array:
    """(N, C, H, W) to (N, H, W, C), (N, C, L) to (N, L, C); (N, F) as it is."""
    return np.ascontiguousarray(np.moveaxis(x, 1, -1)) if x.ndim > 2 else x


def to_chw(x: Array) -> Array:
    """(N, H, W, C) to (N, C, H, W), (N, L, C) to (N, C, L); (N, F) as it is."""
    return np.ascontiguousarray(np.moveaxis(x, -1, 1)) if x.ndim > 2 else x


def columns_in_hwc(weight: Array, shape: Shape) -> Array:
    """A dense weight (O, C H W) with its columns in the order of HWC; shape: (C, H, W)."""
    return to_hwc(weight.reshape(-1, *shape)).reshape(weight.shape)
