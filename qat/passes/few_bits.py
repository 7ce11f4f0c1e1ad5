"""Settings that work at 2 to 4 bits without tuning: one table, from which library and commands take them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from qat.cells.linear import LinearCell
from qat.errors import QatError
from qat.graph import Graph, Network, as_graph
from qat.passes.quantizer_settings import Setting, pair
from qat.quantizers import LSQActivationQuantizer, LSQWeightQuantizer

OUTPUT_BITS = 8  #: of what leaves the network: a few codes would give a few answers


class FewBits(NamedTuple):
    """How a network of so few bits is quantized and trained.

    Attributes:
        lr: the peak learning rate of SGD with momentum 0.9, from a trained float network, batches of 64.
        edge_bits: of the weights of the first and the last layers.
        freeze: the last threshold at which oscillating weights are frozen (``qat.Oscillations``); None: none is.
        ema: the decay of averaged weights (``qat.Optimizer``); 0: they are not averaged.
        reestimate_bn: over so many training images, or all, statistics of batch normalisation are estimated anew at the end.
    """

    lr: float
    edge_bits: int
    freeze: float | None
    ema: float
    reestimate_bn: int


#: By the number of bits, the fewer of weights and activations. Measured: docs/few_bits.md, benchmarks/few_bits.py.
TABLE: Mapping[int, FewBits] = {
    2: FewBits(lr=0.01, edge_bits=8, freeze=None, ema=0.0, reestimate_bn=2000),
    3: FewBits(lr=0.01, edge_bits=8, freeze=None, ema=0.0, reestimate_bn=2000),
    4: FewBits(lr=0.01, edge_bits=8, freeze=None, ema=0.0, reestimate_bn=2000),
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

    Weights and activations of at most 4 bits get learned scales (LSQ), those of weights from the least mean squared error;
    others min/max quantizers. The weights of the first and the last layers keep more bits, and what leaves the network 8.

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
    >>> sorted(settings["layers"])
    ['conv1', 'fc3']
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
            weights, narrow_range=narrow_range, quant_delay=delays[0], per_channel=per_channel, start="mse"
        )
    if activations <= max(TABLE):
        settings["activation_quantizer"] = LSQActivationQuantizer(activations, quant_delay=delays[1])
    edge = row.edge_bits if edge_bits is None else edge_bits
    return settings | {"layers": edge_layers(as_graph(network), weights, activations, edge)}


def edge_layers(graph: Graph, weights: int, activations: int, edge_bits: int) -> dict[str, dict[str, Any]]:
    """``layers`` of ``convert_quant_network``: more bits for the first and the last layers, and for what leaves the network.

    First is a convolution or dense cell that none comes before, last one that none follows; where all are either, as in a
    network of two layers, their weights have as many bits as were asked for.

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
    edges = [n.cell_name for n in linear if not ahead[n.name] or not any(behind[name] for name in n.inputs)]
    if {n.cell_name for n in linear} == set(edges):
        edges = []
    found: dict[str, dict[str, Any]] = {}
    for node in graph.nodes:
        name = node.cell_name if node.recurs else node.name
        leaves = node.inputs and not ahead[node.name] and behind[node.name] and node.cell.wants_quantizer
        bits = (
            max(weights, edge_bits) if node.cell_name in edges else weights,
            max(activations, OUTPUT_BITS) if leaves else activations,
        )
        if bits != (weights, activations):
            found[name] = {"num_bits": bits}
    return found
