"""Removing whole residual blocks: the value on the shortcut goes on unchanged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from qat.cells.elementwise import Activation, Add
from qat.errors import QatError
from qat.graph import Graph, Network, Node, Params, as_graph
from qat.pruning.groups import require_float
from qat.vocabulary.ops import Array


@dataclass(frozen=True)
class ResidualBlock:
    """A residual block x + f(x).

    Attributes:
        name: of the node that adds.
        identity: the node whose output x is.
        branch: the nodes of f, which nothing else uses.
    """

    name: str
    identity: str
    branch: tuple[str, ...]


def residual_blocks(network: Network | Graph) -> tuple[ResidualBlock, ...]:
    """The residual blocks that can be removed.

    Each is an addition of x and f(x) where nothing else uses the cells of f. A block with a convolution on its shortcut
    is not among them, because the shape changes there.

    Args:
        network: a network or graph.

    Returns:
        Blocks in the order of the graph.

    >>> import qat
    >>> from qat.networks import ResNet8
    >>> [block.name for block in qat.pruning.residual_blocks(ResNet8())]
    ['blocks.0.add']
    """
    graph = as_graph(network)
    blocks = []
    for node in graph.nodes:
        if not isinstance(node.cell, Add):
            continue
        for identity, end in (node.inputs, node.inputs[::-1]):
            if graph.shapes[identity] != graph.shapes[node.name]:  # one pixel that is added to all others
                continue
            branch = _branch(graph, node, identity, end)
            if branch:
                blocks.append(ResidualBlock(node.name, identity, branch))
                break
    return tuple(blocks)


def drop_blocks(network: Network | Graph, params: Mapping[str, Array], names: Sequence[str]) -> tuple[Graph, Params]:
    """Remove residual blocks from a float network.

    The result computes what the network would compute if the branches gave 0. The ReLU of the addition stays as a cell
    of its own, ``<addition>.relu``, unless the value on the shortcut is never negative.

    Args:
        network: a float network or graph.
        params: its parameters.
        names: of the blocks, as ``residual_blocks`` lists them.

    Returns:
        The smaller graph and its parameters.

    Raises:
        QatError: for a quantized network, and for a name that is not a block of it.
    """
    graph = as_graph(network)
    require_float(graph)
    graph.check_params(params)
    known = {block.name: block for block in residual_blocks(graph)}
    for name in names:
        if name not in known:
            found = f"those are {', '.join(known)}" if known else "it has none"
            raise QatError(f"{name!r} is not a residual block of {graph.name} that can be dropped; {found}")
    dropped = {name: known[name] for name in names}
    gone = {node for block in dropped.values() for node in block.branch}
    nodes: list[Node] = []
    instead: dict[str, str] = {}  # a removed addition -> the node whose output takes its place
    for node in graph.nodes:
        if node.name in gone:  # an inner block of one that is removed
            continue
        node = replace(node, inputs=tuple(instead.get(name, name) for name in node.inputs))
        block = dropped.get(node.name)
        if block is not None:
            source = instead.get(block.identity, block.identity)
            activation = node.cell.activation if isinstance(node.cell, Add) else None
            if activation is None or (activation == "relu" and _non_negative(source, nodes)):
                instead[node.name] = source
            else:
                instead[node.name] = name = f"{node.name}.{activation}"
                nodes.append(Node(name, Activation(activation), (source,), name))
        else:
            nodes.append(node)
    smaller = replace(graph, nodes=tuple(nodes), outputs=tuple(instead.get(name, name) for name in graph.outputs))
    return smaller, {name: array for name, array in params.items() if name in smaller.params}


def _branch(graph: Graph, add: Node, identity: str, end: str) -> tuple[str, ...]:
    """The nodes on the way from ``identity`` to ``end``, or none where they have other inputs or other users."""
    by_name = {node.name: node for node in graph.nodes}
    branch: list[str] = []
    waiting = [end]
    while waiting:
        name = waiting.pop()
        if name == identity or name in branch:
            continue
        if not by_name[name].inputs or name in graph.outputs:  # it comes from elsewhere, or leaves the network
            return ()
        branch.append(name)
        waiting += by_name[name].inputs
    inside = {*branch, add.name}
    if any(user.name not in inside for name in branch for user in graph.consumers(name)):
        return ()
    return tuple(node.name for node in graph.nodes if node.name in branch)


def _non_negative(name: str, nodes: Sequence[Node]) -> bool:
    """No number of this node's output is ever negative."""
    by_name = {node.name: node for node in nodes}
    node = by_name[name]
    if node.cell.keeps_sign:
        return all(_non_negative(source, nodes) for source in node.inputs)
    return node.cell.non_negative
