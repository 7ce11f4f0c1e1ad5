"""Let a max pooling go before the fake quantizer that feeds it, in training."""

from __future__ import annotations

from dataclasses import replace

from qat.cells.fake_quant import FakeQuant
from qat.cells.pooling import MaxPool
from qat.cells.series import picture_shape
from qat.graph import Graph, Node


def pool_before_quantize(graph: Graph) -> Graph:
    """``FakeQuant -> MaxPool2d`` becomes ``MaxPool2d -> FakeQuant``: the same codes from a quarter of the work.

    max(clip(rint(x m), low, high)) = clip(rint(max(x) m), low, high), since rounding and clipping never decrease and
    m > 0. Left alone:
    1. a fake quantizer whose output something else uses too, or which is an output of the graph;
    2. a pooling that does not see every number (its windows leave some out), since the range would not see them either.
    A range with a free lower end becomes that of the pooled numbers, which is all that anything ever reads.
    """
    pools = {node.name for node in graph.nodes if _sees_everything(node, graph)}
    nodes, outputs = list(graph.nodes), graph.outputs
    for name in (node.name for node in graph.nodes if isinstance(node.cell, FakeQuant)):
        while name not in outputs:
            users = [node for node in nodes if name in node.inputs]
            if len(users) != 1 or users[0].name not in pools:
                break
            (pool,) = users
            index, at = next(i for i, node in enumerate(nodes) if node.name == name), nodes.index(pool)
            quant = nodes[index]
            # The quantizer takes the pooling's place, so that everything between them still comes first.
            rest = [_reading(node, pool.name, name) for node in nodes[at + 1 :]]
            pooled = [replace(pool, inputs=quant.inputs), replace(quant, inputs=(pool.name,))]
            nodes = [*nodes[:index], *nodes[index + 1 : at], *pooled, *rest]
            outputs = tuple(name if output == pool.name else output for output in outputs)
    return replace(graph, nodes=tuple(nodes), outputs=outputs)


def _reading(node: Node, old: str, new: str) -> Node:
    """The same, with another input in place of one."""
    if old not in node.inputs:
        return node
    return replace(node, inputs=tuple(new if source == old else source for source in node.inputs))


def _sees_everything(node: Node, graph: Graph) -> bool:
    if not isinstance(node.cell, MaxPool):
        return False
    shape = picture_shape(graph.shapes[node.inputs[0]])
    window = node.cell.window(shape)
    ends = zip(window["padding"][::2], window["padding"][1::2], strict=True)
    covered = (
        step <= kernel and (size + before + after - kernel) % step <= after
        for size, kernel, step, (before, after) in zip(shape[1:], window["kernel"], window["stride"], ends, strict=True)
    )
    return all(covered)
