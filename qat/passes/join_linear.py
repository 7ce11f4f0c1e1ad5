"""Let factors and shifts that follow one another be one, so that numbers are rounded once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from qat.cells.elementwise import Activation
from qat.graph import Graph, Node
from qat.vocabulary.activations import PARAMETERS


def join_linear(graph: Graph, alike: Callable[[Node, Node], bool] = lambda first, second: True) -> Graph:
    """``x * 2.0 + 1.0`` becomes one node: linear of linear, beta + alpha (b + a x), is linear.

    Left alone is a first one that something else uses too, which is an output of the graph, or whose codes are to be of
    another kind.

    Args:
        graph: of floats.
        alike: whether the codes of the first and of the second are to be of one kind; by default all are.
    """
    nodes: dict[str, Node] = {}
    for node in graph.nodes:
        first = nodes.get(node.inputs[0]) if node.inputs else None
        if first and _is_linear(first) and _is_linear(node) and first.name not in graph.outputs:
            users = [user for user in graph.nodes if first.name in user.inputs]
            if len(users) == 1 and alike(first, node):
                (a, b), (alpha, beta) = _factors(first), _factors(node)
                cell = Activation("linear", alpha * a, alpha * b + beta)
                del nodes[first.name]
                node = replace(
                    node, cell=cell, inputs=first.inputs, cell_name=node.cell_name if node.recurs else node.name
                )
        nodes[node.name] = node
    return replace(graph, nodes=tuple(nodes.values()))


def _is_linear(node: Node) -> bool:
    return isinstance(node.cell, Activation) and node.cell.function == "linear"


def _factors(node: Node) -> tuple[Any, Any]:
    """Its factor and its shift."""
    cell, defaults = node.cell, PARAMETERS["linear"]
    assert isinstance(cell, Activation)
    alpha = defaults["alpha"] if cell.alpha is None else cell.alpha
    return alpha, defaults["beta"] if cell.beta is None else cell.beta
