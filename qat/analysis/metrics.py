"""What a network costs: multiply-accumulates, parameters, bit operations, bits of its codes. Of float and quantized graphs.

Per node, as dicts by name in the order of the graph; a node that costs nothing is not in them. ``sum(macs(graph).values())``
is the total, and ``measure`` gives all at once. Where a function takes ``params``, quantizers that learn their bits have
what they have come to in these parameters, and without them their num_bits, the most they may take.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from qat.cells.fake_quant import FakeQuant
from qat.cells.linear import LinearCell
from qat.graph import Graph, Network, as_graph
from qat.integer import IntegerGraph, IntegerLinear, Shape
from qat.integer.widths import bits_of
from qat.integer.widths import weight_bits as bits_of_codes
from qat.quantizers import Quantizer
from qat.vocabulary.numpy_ops import NUMPY_OPS
from qat.vocabulary.ops import Array

FLOAT_BITS = 32


@dataclass(frozen=True)
class NodeMetrics:
    """Of one node; a fake quantizer has none of its own, it gives its bits to the node before it."""

    name: str
    cell: str  #: its class
    shape: Shape  #: of its output, of one sample
    parameters: int
    macs: int
    bops: int
    weight_bits: int | None  #: None where it has no weight
    activation_bits: int  #: of its output, after its fake quantizer


def macs(network: Network | Graph, *, with_bias: bool = False) -> dict[str, int]:
    """Multiply-accumulates of one sample.

    Of a convolution: output elements * (I / group * kh * kw), with_bias: + 1 in the bracket where it has a bias, or batch
    normalisation, which becomes one. Of a dense layer: I * O in either case. Nothing else counts: no activation, pooling,
    addition, softmax, nor a batch normalisation by itself.
    """
    graph = as_graph(network)
    counts = {node.name: node.cell.macs(graph.shapes[node.name], with_bias=with_bias) for node in graph.nodes}
    return {name: count for name, count in counts.items() if count}


def total_macs(network: Network | Graph, *, with_bias: bool = False) -> int:
    """The sum of ``macs``."""
    return sum(macs(network, with_bias=with_bias).values())


def parameters(network: Network | Graph) -> dict[str, int]:
    """Trained numbers of each node: weights, biases, gamma and beta; not those of quantizers. A cell that is used twice counts
    where it is used first.
    """
    counts: dict[str, int] = {}
    seen: set[str] = set()
    for node in as_graph(network).nodes:
        params = {} if node.cell_name in seen else node.cell.float_params()
        seen.add(node.cell_name)
        own = sum(math.prod(param.shape) for param in params.values() if param.trainable)
        if own:
            counts[node.name] = own
    return counts


def deployed_parameters(network: Network | Graph) -> dict[str, int]:
    """Numbers of each node that are left once batch normalisation is folded in: weights, and a bias for each output where
    there is a bias or a batch normalisation. A cell that is used twice counts where it is used first.
    """
    counts: dict[str, int] = {}
    seen: set[str] = set()
    for node in as_graph(network).nodes:
        own = 0 if node.cell_name in seen else node.cell.deployed_parameters()
        seen.add(node.cell_name)
        if own:
            counts[node.name] = own
    return counts


def learned_bits(network: Network | Graph, params: Mapping[str, Array] | None) -> dict[str, int]:
    """The bits that training has come to, of each quantizer that learns them, by name: "conv1.weight", "conv1.fake_quant".

    params: by full name. Not in it: GTC's quantizers, whose octaves depend on the numbers themselves (``Quantizer.bits``).
    """
    bits: dict[str, int] = {}
    if params is None:
        return bits
    for node in as_graph(network).nodes:
        cell, name = node.cell, node.cell_name
        if isinstance(cell, FakeQuant):
            quantizer: Quantizer = cell.quantizer
            shares = [f"{each}.share" for each in (name, *cell.shares)]
        elif isinstance(cell, LinearCell) and cell.weight_quantizer is not None:
            quantizer, name, shares = cell.weight_quantizer, f"{name}.weight", [f"{name}.weight_share"]
        else:
            continue
        if quantizer.learns_bits:
            own, *shared = ({"share": NUMPY_OPS.from_numpy(params[each], "scalar")} for each in shares)
            learned: Any = quantizer.bits(NUMPY_OPS, None, own, shared)
            bits[name] = int(learned[0])
    return bits


def activation_bits(network: Network | Graph, params: Mapping[str, Array] | None = None) -> dict[str, int]:
    """The bits of every node's output: 8 of pixels and of a softmax's probabilities, those of its fake quantizer, else 32.

    In a float network all have 32.
    """
    graph = as_graph(network)
    return _activation_bits(graph, learned_bits(graph, params))


def _activation_bits(graph: Graph, learned: Mapping[str, Any]) -> dict[str, Any]:
    bits: dict[str, Any] = {}
    for node in graph.nodes:
        cell = node.cell
        if not graph.is_quantized:
            bits[node.name] = FLOAT_BITS
        elif cell.output_numbers == "coded":
            bits[node.name] = learned.get(node.cell_name, cell.code_bits)
        elif cell.keeps_grid:
            bits[node.name] = bits[node.inputs[0]]  # what is concatenated has one grid
        else:
            bits[node.name] = FLOAT_BITS  # an accumulator, or a real number
    return bits


def bops(network: Network | Graph, params: Mapping[str, Array] | None = None) -> dict[str, int]:
    """Bit operations of one sample, BOPs = MACs b_w b_a: MACs without bias, b_w bits of a weight, b_a of the input's codes (van
    Baalen et al., "Bayesian Bits", arXiv 2005.07093). What is not quantized has 32 bits.
    """
    graph = as_graph(network)
    return bops_of(graph, learned_bits(graph, params))


def bops_of(graph: Graph, learned: Mapping[str, Any]) -> dict[str, Any]:
    """``bops`` where some quantizers have other bits than num_bits. learned: by the names of ``learned_bits``, whole numbers
    or scalar tensors, whose gradient it has.
    """
    inputs = {node.name: node.inputs for node in graph.nodes}
    own, bits = _weight_bits(graph, learned), _activation_bits(graph, learned)
    return {name: bits[inputs[name][0]] * own.get(name, FLOAT_BITS) * count for name, count in macs(graph).items()}


def weight_bits(network: Network | Graph, params: Mapping[str, Array] | None = None) -> dict[str, int]:
    """The bits of every weight: those of its quantizer, else 32. A batch normalisation by itself has one too."""
    graph = as_graph(network)
    return _weight_bits(graph, learned_bits(graph, params))


def _weight_bits(graph: Graph, learned: Mapping[str, Any]) -> dict[str, Any]:
    return {
        node.name: FLOAT_BITS
        if node.cell.weight_quantizer is None
        else learned.get(f"{node.cell_name}.weight", node.cell.weight_quantizer.num_bits)
        for node in graph.nodes
        if isinstance(node.cell, LinearCell)
    }


def measure(
    network: Network | Graph, params: Mapping[str, Array] | None = None, *, with_bias: bool = False
) -> tuple[NodeMetrics, ...]:
    """All of it, in the order of the graph, without the fake quantizers. with_bias: of the MACs."""
    graph = as_graph(network)
    counts, own, operations, of_weights, bits = (
        macs(graph, with_bias=with_bias),
        parameters(graph),
        bops(graph, params),
        weight_bits(graph, params),
        activation_bits(graph, params),
    )
    quantized = {node.inputs[0]: bits[node.name] for node in graph.nodes if isinstance(node.cell, FakeQuant)}
    return tuple(
        NodeMetrics(
            node.name,
            type(node.cell).__name__,
            graph.shapes[node.name],
            own.get(node.name, 0),
            counts.get(node.name, 0),
            operations.get(node.name, 0),
            of_weights.get(node.name),
            quantized.get(node.name, bits[node.name]),
        )
        for node in graph.nodes
        if not isinstance(node.cell, FakeQuant)
    )


def information_bits(graph: IntegerGraph) -> dict[str, int]:
    """The bits that the codes of each layer's weight and bias need where nothing is wasted: how many, times the bits of one.

    A weight of a single value, as of an average pooling, says nothing.
    """
    return {
        node.name: node.weight.size * bits_of_codes(node.weight)
        + (node.bias.size * bits_of(int(node.bias.min()), int(node.bias.max())) if node.bias.any() else 0)
        for node in graph.nodes
        if isinstance(node, IntegerLinear) and node.weight.min() != node.weight.max()
    }
