"""Let a max pooling go before the fake quantizer that feeds it, in training."""

from __future__ import annotations

from dataclasses import replace

from qat.cells.fake_quant import FakeQuant
from qat.cells.pooling import MaxPool2d
from qat.graph import Graph, Node


def pool_before_quantize(graph: Graph) -> Graph:
    """``FakeQuant -> MaxPool2d`` becomes ``MaxPool2d -> FakeQuant``: the same codes from a quarter of the work.

    max(clip(rint(x m), low, high)) = clip(rint(max(x) m), low, high), since rounding and clipping never decrease and
    m > 0. Left alone:
    1. a fake quantizer whose output something else uses too, or which is an output of the graph;
    2. a pooling that does not see every number (its windows leave some out), since the range would not see them either.
    A range with a free lower end becomes that of the pooled numbers, which is all that anything ever reads.
    """
    nodes = list(graph.nodes)
    for index, quant in enumerate(nodes):
        if not isinstance(quant.cell, FakeQuant) or quant.name in graph.outputs:
            continue
        users = graph.consumers(quant.name)
        if len(users) != 1 or not _sees_everything(users[0], graph):
            continue
        pool = users[0]
        at = nodes.index(pool)
        # The quantizer takes the pooling's place, so that everything between them still comes first.
        rest = [
            replace(node, inputs=tuple(quant.name if name == pool.name else name for name in node.inputs))
            for node in nodes[at + 1 :]
        ]
        pooled = replace(pool, inputs=quant.inputs)
        nodes = [*nodes[:index], *nodes[index + 1 : at], pooled, replace(quant, inputs=(pool.name,)), *rest]
        outputs = tuple(quant.name if name == pool.name else name for name in graph.outputs)
        return pool_before_quantize(Graph(tuple(nodes), outputs, graph.name))
    return graph


def _sees_everything(node: Node, graph: Graph) -> bool:
    if not isinstance(node.cell, MaxPool2d):
        return False
    shape = graph.shapes[node.inputs[0]]
    window = node.cell.window(shape)
    ends = zip(window["padding"][::2], window["padding"][1::2], strict=True)
    covered = (
        step <= kernel and (size + before + after - kernel) % step <= after
        for size, kernel, step, (before, after) in zip(shape[1:], window["kernel"], window["stride"], ends, strict=True)
    )
    return all(covered)
