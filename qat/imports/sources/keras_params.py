"""The variables of the layers of a keras.Model, by the names of layers and of their attributes: "conv1/kernel"."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import keras
import numpy as np

from qat.cells import Flatten
from qat.graph import Graph
from qat.vocabulary.ops import Array


def device_target(model: Any) -> str | None:
    """Keras places its variables itself."""
    return None


def arrays(model: Any) -> dict[str, Array]:
    """All of them, as they are now."""
    return {name: np.asarray(variable) for name, variable in _variables(model).items()}


def layouts(graph: Graph, name: str, array: Array, shape: tuple[int, ...]) -> Iterator[Array]:
    """A parameter of the graph as a layer may have it: kernels are HWIO and IO, and the numbers that a flattened image has
    are in the order of HWC.
    """
    if graph.params[name].kind == "dense_weight":
        image = _flattened(graph, name.rpartition(".")[0])
        if image is not None:
            yield array.reshape(len(array), *image).transpose(0, 2, 3, 1).reshape(len(array), -1).T.reshape(shape)
    if array.ndim > 1:
        yield array.transpose(2, 3, 1, 0).reshape(shape) if array.ndim == 4 else array.T.reshape(shape)
    else:
        yield array.reshape(shape)


def write(model: Any, found: Mapping[str, Array]) -> None:
    """Set some of them."""
    variables = _variables(model)
    for name, array in found.items():
        variables[name].assign(array)


def frozen(model: Any) -> set[str]:
    """The names of those that no optimizer changes."""
    return {name for name, variable in _variables(model).items() if not variable.trainable}


def freeze(model: Any, names: Iterable[str]) -> None:
    """Let variables of a lowered network be none that are trained."""
    tensors = model.tensors
    for name in names:
        tensors[name].trainable = False


def _variables(model: Any, prefix: str = "") -> dict[str, Any]:
    """Those of a model within the model have the name of that one before theirs."""
    found: dict[str, Any] = {}
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            found |= _variables(layer, f"{prefix}{layer.name}/")
            continue
        own = {id(variable) for variable in layer.weights}
        found |= {f"{prefix}{layer.name}/{key.lstrip('_')}": x for key, x in vars(layer).items() if id(x) in own}
    return found


def _flattened(graph: Graph, cell_name: str) -> tuple[int, ...] | None:
    """(C, H, W) of the image whose numbers a dense cell takes; None where it takes others."""
    nodes = {node.name: node for node in graph.nodes}
    node = nodes[next(node.inputs[0] for node in graph.nodes if node.cell_name == cell_name)]
    while node.inputs and not isinstance(node.cell, Flatten) and len(node.inputs) == 1:
        if graph.shapes[node.name] != graph.shapes[node.inputs[0]]:
            return None
        node = nodes[node.inputs[0]]
    if not isinstance(node.cell, Flatten):
        return None
    shape = graph.shapes[node.inputs[0]]
    return shape if len(shape) == 3 else None
