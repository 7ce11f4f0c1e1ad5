"""Which channels can only be removed together, read from the graph."""

from __future__ import annotations

from dataclasses import dataclass

from qat.errors import QatError
from qat.graph import Graph, Network, Node, as_graph
from qat.passes.channel_units import ChannelUnits, DisjointSets

Channels = dict[str, tuple[int, ...]]  #: node -> positions among its output channels


@dataclass(frozen=True)
class ChannelGroup:
    """The channels of one or several nodes that make up one width of the network.

    Args:
        name: of the first convolution or dense node whose outputs they are.
        units: what can be removed, one by one; a unit holds the channels that have to go together, their positions by
            node.
    """

    name: str
    units: tuple[Channels, ...]

    def __len__(self) -> int:
        return len(self.units)


def channel_groups(network: Network | Graph) -> tuple[ChannelGroup, ...]:
    """The groups of channels that can be removed from a float network.

    Two channels belong to one unit where one cannot go without the other:

    1. an addition: channel i of both inputs and of the output;
    2. a depthwise convolution or a batch normalisation: an input channel and the output channels made of it;
    3. a grouped convolution: the channels at one place in every group, of the input and likewise of the output, so that
       all groups stay equally large;
    4. a flattening: a channel and all its features;
    5. a concatenation: each input channel and the output channel that it becomes;
    6. a cell that is used twice: the channels at one place in each use, since there is one weight for both;
    7. poolings, dropouts and activations: a channel of the input and the same one of the output.

    A cell states in ``output_channels`` which of these it is. Never removed are channels of the network's inputs and outputs,
    and those that enter or leave a cell that states "fixed", as a Softmax, whose sum they enter. Units are in one group where
    some cell makes both.

    Args:
        network: a float network or graph.

    Returns:
        Groups in the order of the graph.

    Raises:
        QatError: for a quantized network.

    >>> import qat
    >>> from qat.networks import LeNet5
    >>> [(group.name, len(group)) for group in qat.pruning.channel_groups(LeNet5())]
    [('conv1', 6), ('conv2', 16), ('fc1', 120), ('fc2', 84)]
    """
    graph = as_graph(network)
    require_float(graph)
    units = ChannelUnits(graph)
    members: dict[int, dict[str, list[int]]] = {}
    for node in graph.nodes:
        for position, unit in enumerate(units.of(node.name)):
            members.setdefault(unit, {}).setdefault(node.name, []).append(position)
    fixed = units.fixed()
    together = DisjointSets(units.count)  # units made by one cell
    makers = [node for node in graph.nodes if makes_channels(node)]
    for node in makers:
        own = units.of(node.name)
        for unit in own:
            together.join(int(own[0]), int(unit))
    groups: dict[int, list[int]] = {}
    names: dict[int, str] = {}
    for node in makers:
        for unit in map(int, units.of(node.name)):
            root = together.find(unit)
            names.setdefault(root, node.name)
            group = groups.setdefault(root, [])
            if unit not in fixed and unit not in group:
                group.append(unit)
    return tuple(
        ChannelGroup(names[root], tuple({n: tuple(p) for n, p in members[unit].items()} for unit in group))
        for root, group in groups.items()
        if group
    )


def require_float(graph: Graph) -> None:
    """Raise QatError for a quantized network, whose ranges and codes depend on all of its channels."""
    if graph.is_quantized:
        raise QatError(
            f"{graph.name} is quantized, and channels are removed from float networks; prune the float network it was made "
            "from, fine-tune it, and quantize it then"
        )


def makes_channels(node: Node) -> bool:
    """Whether a node's output channels are new ones, rather than those of its input."""
    return node.cell.output_channels in ("new", "grouped")
