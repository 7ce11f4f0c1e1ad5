"""Leave out the softmax at the end, whose loss is taken from the logits."""

from __future__ import annotations

from dataclasses import replace

from qat.cells.softmax import Softmax
from qat.graph import Graph


def logits_graph(graph: Graph) -> Graph:
    """The graph that is trained: each output that a Softmax makes is replaced by what enters that Softmax.

    A cross entropy takes logits: the softmax is inside it. The parameters are the same. A Softmax that other cells use
    stays.
    """
    ends = {node.name: node.inputs[0] for node in graph.nodes if isinstance(node.cell, Softmax) and not node.cell.axis}
    ends = {name: source for name, source in ends.items() if name in graph.outputs and not graph.consumers(name)}
    nodes = tuple(node for node in graph.nodes if node.name not in ends)
    return replace(graph, nodes=nodes, outputs=tuple(ends.get(name, name) for name in graph.outputs))
