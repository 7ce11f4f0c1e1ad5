"""Split a quantized graph into blocks whose outputs are reconstructed one after another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from qat.cells.elementwise import Add
from qat.cells.fake_quant import FakeQuant
from qat.cells.input import REAL, Input
from qat.cells.linear import LinearCell
from qat.graph import Graph, Node, Params
from qat.quantizers import ActivationQuantizer
from qat.vocabulary.ops import Array

MOST_LAYERS = 6  #: of a residual block; where there are more between, an addition joins what is far apart


@dataclass(frozen=True)
class Block:
    """Nodes of a graph that follow one another.

    Attributes:
        nodes: in the graph's order.
        inputs: the names of the nodes before it that it reads.
        outputs: the names of its nodes that later ones read, or that are outputs of the graph.
    """

    nodes: tuple[Node, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    @property
    def layers(self) -> list[Node]:
        """Those with a quantized weight."""
        return [node for node in self.nodes if _is_layer(node)]

    @property
    def name(self) -> str:
        """Its layer, or the first and the last of them."""
        names = [node.name for node in self.layers]
        return names[0] if len(names) == 1 else f"{names[0]} .. {names[-1]}"


def blocks(graph: Graph) -> list[Block]:
    """The blocks of a quantized graph, in order; together they have all nodes but the inputs.

    1. A block begins with each cell that has a quantized weight, and ends before the next one: what comes between, as fake
       quantizers and poolings, belongs to the layer before it. What comes before the first layer is a block without layers.
    2. The blocks between an addition and the last node that all its inputs depend on are one: a residual block
       (Li et al., arXiv 2102.05426, section 3.2), unless they have more than ``MOST_LAYERS`` layers.

    Args:
        graph: quantized.

    Returns:
        The blocks.

    >>> import qat
    >>> from qat.networks import ResNet8
    >>> from qat.passes.blocks import blocks
    >>> [block.name for block in blocks(qat.convert_quant_network(ResNet8())) if block.layers][:2]
    ['conv', 'blocks.0.conv1 .. blocks.0.conv2']
    """
    nodes = [node for node in graph.nodes if not isinstance(node.cell, Input)]
    starts = [0, *(at for at, node in enumerate(nodes) if _is_layer(node) and at)]
    number = {node.name: sum(start <= at for start in starts) - 1 for at, node in enumerate(nodes)}
    joined = list(range(len(starts)))  # the first block that each one is joined with
    for first, last in _residual(graph, nodes, number):
        first = joined[first]
        if sum(_is_layer(nodes[starts[each]]) for each in range(first, last + 1)) <= MOST_LAYERS:
            joined[first : last + 1] = [first] * (last + 1 - first)
    ends = [*starts[1:], len(nodes)]
    spans: dict[int, tuple[int, int]] = {}
    for each, (start, end) in enumerate(zip(starts, ends, strict=True)):
        begun = spans.get(joined[each], (start, end))[0]
        spans[joined[each]] = (begun, end)
    return [_block(graph, tuple(nodes[start:end])) for start, end in spans.values()]


def block_graph(
    graph: Graph, params: Mapping[str, Array], block: Block, in_float: frozenset[str]
) -> tuple[Graph, Params]:
    """A block as a network of its own, which takes real numbers.

    Args:
        graph: the quantized graph.
        params: its parameters, ranges known.
        block: of it.
        in_float: the cells whose weights are real numbers there.

    Returns:
        The graph, and its parameters. A fake quantizer whose grid depends on others outside keeps it by a range of its own.
    """
    # The cell of an input has another name than the node: a cell of the block, used before too, may be called as that is.
    nodes = [Node(name, Input(graph.shapes[name], dtype=REAL), (), f"{name}.entering") for name in block.inputs]
    inside = {node.cell_name for node in block.nodes}
    changed: Params = {}
    for node in block.nodes:
        cell: Any = node.cell
        if node.cell_name in in_float:
            cell = replace(cell, weight_quantizer=None)
        elif isinstance(cell, FakeQuant) and not inside.issuperset(cell.shares):
            own = node.own(params)
            grid = cell.grid(node.name, own, params)
            quantizer = ActivationQuantizer(_bits(grid.qmax - grid.qmin), quant_delay=0)
            cell = FakeQuant(quantizer)
            low, high = (float(grid.scale) * end for end in (grid.low, grid.low + quantizer.qmax))
            changed |= {f"{node.cell_name}.min": np.array(low), f"{node.cell_name}.max": np.array(high)}
        nodes.append(replace(node, cell=cell))
    own_graph = Graph(tuple(nodes), block.outputs, graph.name, graph.arithmetic)
    return own_graph, {name: np.asarray(changed.get(name, params.get(name)), np.float32) for name in own_graph.params}


def _bits(steps: int) -> int:
    return max(1, steps.bit_length())


def _is_layer(node: Node) -> bool:
    return isinstance(node.cell, LinearCell) and node.cell.weight_quantizer is not None


def _block(graph: Graph, nodes: tuple[Node, ...]) -> Block:
    own = {node.name for node in nodes}
    inputs = dict.fromkeys(name for node in nodes for name in node.inputs if name not in own)
    outside = {name for node in graph.nodes if node.name not in own for name in node.inputs} | set(graph.outputs)
    return Block(nodes, tuple(inputs), tuple(node.name for node in nodes if node.name in outside))


def _residual(graph: Graph, nodes: list[Node], number: Mapping[str, int]) -> list[tuple[int, int]]:
    """The first and the last block of what each addition adds, those that stand in one of another left out."""
    at = {node.name: place for place, node in enumerate(graph.nodes)}
    dominators: list[
        set[int]
    ] = []  # of each node those that every path from an input to it goes through, itself included
    for place, node in enumerate(graph.nodes):
        before = [dominators[at[name]] for name in node.inputs]
        dominators.append({place} | (set.intersection(*before) if before else set()))
    found = []
    for node in nodes:
        if isinstance(node.cell, Add):
            common = dominators[at[node.name]] - {at[node.name]}
            if common:
                start = graph.nodes[max(common)].name
                layers = [
                    number[each.name] for each in nodes if at[start] < at[each.name] < at[node.name] and _is_layer(each)
                ]
                if layers:
                    found.append((min(layers), max(max(layers), number[node.name])))
    return found
