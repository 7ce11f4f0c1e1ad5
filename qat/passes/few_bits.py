"""Settings that work at 2 to 4 bits without tuning: one table, from which library and commands take them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from qat.cells.linear import LinearCell
from qat.errors import QatError
from qat.graph import Graph, Network, as_graph
from qat.passes.quantizer_settings import Setting, pair
from qat.quantizers import LSQActivationQuantizer, LSQWeightQuantizer

WIDE = 8  #: bits of what leaves the network, of which a few codes would be a few answers, and of what is added


class FewBits(NamedTuple):
    """How a network of so few bits is quantized and trained.

    Attributes:
        lr: the peak learning rate of SGD with momentum 0.9, from a trained float network, batches of 64.
        edge_bits: of the weights of the first and the last layers.
        start: of learned scales of weights (``LSQWeightQuantizer``).
        freeze: the last threshold at which oscillating weights are frozen (``qat.Oscillations``); None: none is.
        ema: the decay of averaged weights (``qat.Optimizer``); 0: they are not averaged.
        reestimate_bn: over so many training images, or all, statistics of batch normalisation are estimated anew at the end; 0:
            the running ones are kept.
    """

    lr: float
    edge_bits: int
    start: str
    freeze: float | None
    ema: float
    reestimate_bn: int


#: By the number of bits, the fewer of weights and activations. Measured: docs/few_bits.md, benchmarks/few_bits.py.
TABLE: Mapping[int, FewBits] = {
    2: FewBits(lr=0.01, edge_bits=8, start="mean", freeze=None, ema=0.0, reestimate_bn=0),
    3: FewBits(lr=0.001, edge_bits=8, start="mse", freeze=None, ema=0.0, reestimate_bn=0),
    4: FewBits(lr=0.001, edge_bits=8, start="mse", freeze=None, ema=0.0, reestimate_bn=0),
}


def few_bits(num_bits: Setting) -> FewBits | None:
    """The row of ``TABLE`` for numbers of bits.

    Args:
        num_bits: one number, or (weights, activations).

    Returns:
        The row of the fewer bits, 1 as 2; None where both are more than the table has.
    """
    return TABLE.get(max(min(pair(num_bits)), min(TABLE)))


def few_bits_settings(
    network: Network | Graph,
    num_bits: Setting,
    *,
    edge_bits: int | None = None,
    per_channel: bool = True,
    narrow_range: bool = False,
    quant_delay: Setting = 0,
) -> dict[str, Any]:
    """Arguments for ``convert_quant_network`` that suit few bits.

    Weights and activations of at most 4 bits get learned scales (LSQ), others min/max quantizers. The first
    and the last layers, what is added and what leaves the network keep more (``edge_layers``).

    Args:
        network: the float network, or its graph.
        num_bits: one number, or (weights, activations).
        edge_bits: of the weights of the first and the last layers; None: as the table says; num_bits: as all others.
        per_channel: of weights: a scale for each output channel, the default, or one for all.
        narrow_range: of weights: leave the lowest code out; False by default.
        quant_delay: training steps before quantization sets in, one number or (weights, activations); 0 by default: learned
            scales follow the weights from the first step on.

    Returns:
        Keyword arguments.

    Raises:
        QatError: where neither number of bits is in the table.

    >>> import qat
    >>> from qat.networks import LeNet5
    >>> settings = qat.few_bits_settings(LeNet5(), 2)
    >>> print(settings["weight_quantizer"])
    LSQ, 2 bits, symmetric, per channel
    >>> {name: own["num_bits"] for name, own in settings["layers"].items()}
    {'conv1': (8, 2), 'fc2': (2, 8), 'fc3': (8, 8)}
    >>> qat.convert_quant_network(LeNet5(), **settings).is_quantized
    True
    """
    weights, activations = pair(num_bits)
    row = few_bits((weights, activations))
    if row is None:
        raise QatError(
            f"few_bits_settings: {weights} and {activations} bits need no other settings than convert_quant_network has; use "
            f"at most {max(TABLE)}"
        )
    settings: dict[str, Any] = {"num_bits": (weights, activations), "quant_delay": quant_delay}
    delays = pair(quant_delay)
    if weights in TABLE:
        settings["weight_quantizer"] = LSQWeightQuantizer(
            weights,
            narrow_range=narrow_range,
            quant_delay=delays[0],
            per_channel=per_channel,
            start=TABLE[weights].start,
        )
    if activations <= max(TABLE):
        settings["activation_quantizer"] = LSQActivationQuantizer(activations, quant_delay=delays[1])
    edge = row.edge_bits if edge_bits is None else edge_bits
    return settings | {"layers": edge_layers(as_graph(network), weights, activations, edge)}


def edge_layers(graph: Graph, weights: int, activations: int, edge_bits: int) -> dict[str, dict[str, Any]]:
    """``layers`` of ``convert_quant_network``: more bits where few of them cost most, and save least.

    1. The weights of the first and the last layers: convolutions and dense cells that none comes before, or none follows. Where
       all are either, as in a network of two layers, these have as many bits as were asked for. The lowest code is left out,
       which TFLite's weights of 8 bits do not have.
    2. What the last layers take, and what leaves the network: 8 bits.
    3. What is added or subtracted: 8 bits. Sums have one grid for all their parts, of both signs, which at 2 bits leaves a
       single code above 0: after a ReLU all numbers are then 0, or beyond the range, and no gradient passes.

    Args:
        graph: of the float network.
        weights, activations: numbers of bits of all others.
        edge_bits: of the weights of the first and the last layers; fewer than ``weights`` have no effect.
    """
    behind: dict[str, bool] = {}  # a linear cell comes before, or it is one
    for node in graph.nodes:
        behind[node.name] = isinstance(node.cell, LinearCell) or any(behind[name] for name in node.inputs)
    ahead: dict[str, bool] = dict.fromkeys(behind, False)  # a linear cell follows
    for node in reversed(graph.nodes):
        for name in node.inputs:
            ahead[name] = ahead[name] or ahead[node.name] or isinstance(node.cell, LinearCell)
    linear = [node for node in graph.nodes if isinstance(node.cell, LinearCell)]
    last = {n.cell_name for n in linear if not ahead[n.name]}
    edges = last | {n.cell_name for n in linear if not any(behind[name] for name in n.inputs)}
    if {n.cell_name for n in linear} == edges:
        edges = set()
    wide = _wide(graph, last, {name for name in behind if behind[name] and not ahead[name]})
    found: dict[str, dict[str, Any]] = {}
    for node in graph.nodes:
        bits = (
            max(weights, edge_bits) if node.cell_name in edges else weights,
            max(activations, WIDE) if node.name in wide else activations,
        )
        if bits != (weights, activations):
            own = found[node.cell_name if node.recurs else node.name] = {"num_bits": bits}
            if bits[0] > weights:  # TFLite has no -128 among weights of 8 bits
                own["narrow_range"] = (True, False)
    return found


def _wide(graph: Graph, last: set[str], outputs: set[str]) -> set[str]:
    """The nodes whose codes have ``WIDE`` bits. last: the cells of the last layers; outputs: the nodes behind them."""
    origins: dict[str, set[str]] = {}  # of each node, those that its codes come from
    groups: list[set[str]] = []  # that have one grid, and so as many bits
    wide: set[str] = set()
    for node in graph.nodes:
        sources = set().union(*(origins[name] for name in node.inputs))
        shares = len(node.inputs) > 1 and node.cell.one_grid
        if node.cell_name in last or (shares and not node.cell.keeps_grid):
            wide |= sources
        if shares:
            groups.append(sources)
        takes_bits = node.inputs and node.cell.wants_fake_quant
        origins[node.name] = sources if node.cell.keeps_grid else {node.name} if takes_bits else set()
        if takes_bits and node.name in outputs:
            wide.add(node.name)
    while any(group & wide and not group <= wide for group in groups):
        wide = wide.union(*(group for group in groups if group & wide))
    return wide
