"""Parameters of a file matched with those of a graph by order and shape, where their names say nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from qat.errors import QatError
from qat.graph import Graph
from qat.training.native import ABSENT, OF_NORM, graph_name, kept
from qat.vocabulary.ops import Array

AROUND = 2  #: layers before and after the place where two lists part, in messages
KINDS = {"weights": "layer with weights", "norm": "batch normalisation", "other": "other layer with parameters"}


class Layer(NamedTuple):
    """Arrays that belong together: the weight and bias of a layer, the four of a batch normalisation, or others.

    Attributes:
        name: the common beginning of their names.
        names: full names by what they are: "weight", "bias", "gamma" ...
        shapes: likewise.
    """

    name: str
    names: dict[str, str]
    shapes: dict[str, tuple[int, ...]]

    def fits(self, other: Layer) -> bool:
        """Whether what both have has the same shapes, and nothing is missing but what layers may be trained without."""
        needed = (self.shapes.keys() | other.shapes.keys()) - ABSENT.keys()
        both = self.shapes.keys() & other.shapes.keys()
        return all(self.shapes.get(role) == other.shapes.get(role) for role in needed | both)

    def __str__(self) -> str:
        shape = next(iter(self.shapes.values()))
        return f"{self.name} ({', '.join(map(str, shape))})"


def matched_by_order(graph: Graph, arrays: Mapping[str, Array], source: str) -> tuple[dict[str, str], list[str]]:
    """The names of a file's parameters in a graph: layers with weights, batch normalisations, and other layers are matched one
    by one, each kind in its order. What was trained in another order than the graph's has to have other shapes to be noticed.

    Args:
        graph: a float graph.
        arrays: what the file holds, by its own names, in its order.
        source: the file, for messages.

    Returns:
        Names in the file and in the graph, and the pairs of layers for people, "bn1 (16) -> conv1.bn".

    Raises:
        QatError: where numbers or shapes of layers differ, with both lists around the place, or a name says something else
            than the order.
    """
    theirs = _of_file(kept(arrays))
    ours = _of_graph(graph)
    renamed: dict[str, str] = {}
    pairs = []
    for kind, what in KINDS.items():
        given, needed = theirs[kind], ours[kind]
        both = list(zip(given, needed, strict=False))
        part = next((at for at, (a, b) in enumerate(both) if not a.fits(b)), len(both))
        if part < max(len(given), len(needed)):
            raise QatError(
                f"{source}: by order, {what} {part + 1} does not fit: the file has {_around(given, part)}; {graph.name} has "
                f"{_around(needed, part)}; give --rename, or a network of this order"
            )
        cells = {layer.name for layer in needed}
        for a, b in both:
            named = graph_name(f"{a.name}.weight").rpartition(".")[0] if kind == "weights" else a.name
            if named in cells and named != b.name:
                raise QatError(
                    f"{source}: by order, {a.name!r} is {b.name!r} of {graph.name}, which has a {named!r} too; the orders "
                    "differ, give --rename"
                )
            renamed |= {name: f"{b.name}.{role}" for role, name in a.names.items()}
            pairs.append(f"{a} -> {b.name}{'.bn' if kind == 'norm' else ''}")
    return renamed, pairs


def _of_file(arrays: Mapping[str, Array]) -> dict[str, list[Layer]]:
    """The layers of a file by kind."""
    modules: dict[str, dict[str, str]] = {}
    for name in arrays:
        module, _, local = name.rpartition(".")
        modules.setdefault(module, {})[local] = name
    found: dict[str, list[Layer]] = {kind: [] for kind in KINDS}
    for module, names in modules.items():
        roles = {OF_NORM.get(local, local) for local in names}
        kind = "norm" if {"moving_mean", "moving_variance"} <= roles else "other"
        if kind == "norm":
            names = {OF_NORM.get(local, local): name for local, name in names.items()}
        elif any(arrays[name].ndim > 1 for name in names.values()):
            kind = "weights"
        found[kind].append(Layer(module, names, {role: arrays[name].shape for role, name in names.items()}))
    return found


def _of_graph(graph: Graph) -> dict[str, list[Layer]]:
    """The layers of a graph by kind: a cell with weights and batch normalisation is one of each."""
    layers: dict[tuple[str, str], dict[str, str]] = {}
    for name in graph.params:
        cell, _, local = name.rpartition(".")
        kind = "norm" if local in OF_NORM.values() and f"{cell}.moving_mean" in graph.params else "other"
        if kind == "other" and f"{cell}.weight" in graph.params and local in ("weight", "bias"):
            kind = "weights"
        layers.setdefault((kind, cell), {})[local] = name
    found: dict[str, list[Layer]] = {kind: [] for kind in KINDS}
    for (kind, cell), names in layers.items():
        found[kind].append(Layer(cell, names, {role: graph.params[name].shape for role, name in names.items()}))
    return found


def _around(layers: list[Layer], at: int) -> str:
    """The layers around a place, for messages."""
    shown = layers[max(0, at - AROUND) : at + AROUND + 1]
    words = [*(["..."] if at > AROUND else []), *map(str, shown)]
    words += ["..."] if at + AROUND + 1 < len(layers) else ["and no more"]
    return ", ".join(words)
