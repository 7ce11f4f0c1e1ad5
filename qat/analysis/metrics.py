"""The cost of a network: multiply-accumulates (MACs), parameters, bit operations (BOPs) and bits, for float and
quantized graphs.

Most functions give a dict by node name in the order of the graph, without the nodes that cost nothing; ``measure``
gives all at once. ``params`` matter only to quantizers that learn their number of bits: with parameters it is the
learned number, without them ``num_bits``, the most that they may use.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from qat.cells.dequantize import Dequantize
from qat.cells.fake_quant import FakeQuant
from qat.cells.linear import LinearCell
from qat.graph import Graph, Network, as_graph
from qat.integer import FloatLayer, IntegerGraph, IntegerLinear, Shape
from qat.integer.widths import bits_of
from qat.integer.widths import weight_bits as bits_of_codes
from qat.quantizers import Quantizer
from qat.vocabulary.numpy_ops import NUMPY_OPS
from qat.vocabulary.ops import Array

FLOAT_BITS = 32


@dataclass(frozen=True)
class NodeMetrics:
    """The cost of one node. Fake quantizers have no entry of their own: they set the bits of the node before.

    Attributes:
        name: of the node.
        cell: the name of the cell's class.
        shape: of the output of one sample.
        parameters: trained numbers.
        macs: multiply-accumulates for one sample.
        bops: bit operations for one sample.
        weight_bits: bits of a weight; None where there is none.
        activation_bits: bits of the output, after its fake quantizer.
    """

    name: str
    cell: str
    shape: Shape
    parameters: int
    macs: int
    bops: int
    weight_bits: int | None
    activation_bits: int


def macs(network: Network | Graph, *, with_bias: bool = False) -> dict[str, int]:
    """Multiply-accumulates for one sample.

    A convolution has (output elements) * (I / group * kh * kw), a dense layer I * O. Nothing else counts: no
    activation, pooling, addition or softmax, nor a batch normalisation that stands alone.

    Args:
        network: a network or graph, float or quantized.
        with_bias: count the bias of a convolution (or the batch normalisation that becomes one) as one more for each
            output element. Dense layers stay at I * O.

    Returns:
        A number for each convolution, dense layer and matrix product, by node name.

    >>> import qat
    >>> from qat.networks import LeNet5
    >>> qat.metrics.macs(LeNet5())
    {'conv1': 117600, 'conv2': 240000, 'fc1': 48000, 'fc2': 10080, 'fc3': 840}
    """
    graph = as_graph(network)
    shapes = graph.shapes
    counts = {
        node.name: node.cell.products([shapes[name] for name in node.inputs], shapes[node.name], with_bias=with_bias)
        for node in graph.nodes
    }
    return {name: count for name, count in counts.items() if count}


def total_macs(network: Network | Graph, *, with_bias: bool = False) -> int:
    """The sum of ``macs``.

    Args:
        network: a network or graph, float or quantized.
        with_bias: as in ``macs``.

    Returns:
        Multiply-accumulates for one sample.
    """
    return sum(macs(network, with_bias=with_bias).values())


def parameters(network: Network | Graph) -> dict[str, int]:
    """Trained numbers of each node: weights, biases, gamma and beta, without those of quantizers.

    Args:
        network: a network or graph, float or quantized.

    Returns:
        A number for each node that has some. A cell that is used twice counts where it is used first.
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
    """Numbers of each node once batch normalisation is folded in: the weights, and a bias for each output that has one
    then.

    Args:
        network: a network or graph, float or quantized.

    Returns:
        A number for each layer with weights. A cell that is used twice counts where it is used first.
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
    """The number of bits that training has reached, for each quantizer that learns it.

    GTC's quantizers are not included, because their number of bits depends on the values themselves
    (``Quantizer.bits``).

    Args:
        network: a quantized network or graph.
        params: parameters and state by full name; None gives an empty dict.

    Returns:
        Bits by quantizer: "conv1.weight" for a weight, "conv1.fake_quant" for an activation.
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
    """The bits of every node's output.

    Args:
        network: a network or graph, float or quantized.
        params: parameters by full name, for learned bits.

    Returns:
        Bits by node: 8 for pixels and for the probabilities of a softmax, else those of the fake quantizer; 32 for what
        is not quantized, as everything in a float network and layers that are left in float.
    """
    graph = as_graph(network)
    return _activation_bits(graph, learned_bits(graph, params))


def _activation_bits(graph: Graph, learned: Mapping[str, Any]) -> dict[str, Any]:
    bits: dict[str, Any] = {}
    for node in graph.nodes:
        cell = node.cell
        if not graph.is_quantized or node.name in graph.in_float:
            bits[node.name] = FLOAT_BITS
        elif cell.output_numbers == "coded":
            bits[node.name] = learned.get(node.cell_name, cell.code_bits)
        elif cell.keeps_grid:
            bits[node.name] = bits[node.inputs[0]]  # what is concatenated has one grid
        else:
            bits[node.name] = FLOAT_BITS  # an accumulator, or a real number
    return bits


def bops(network: Network | Graph, params: Mapping[str, Array] | None = None) -> dict[str, int]:
    """Bit operations for one sample: BOPs = MACs b_w b_a (van Baalen et al., "Bayesian Bits", arXiv 2005.07093).

    The MACs are without bias; b_w are the bits of a weight, b_a those of the input's codes, each 32 where it is not
    quantized.

    Args:
        network: a network or graph, float or quantized.
        params: parameters by full name, for learned bits.

    Returns:
        A number for each convolution and dense layer, by node name.
    """
    graph = as_graph(network)
    return bops_of(graph, learned_bits(graph, params))


def bops_of(graph: Graph, learned: Mapping[str, Any]) -> dict[str, Any]:
    """``bops`` with given numbers of bits in place of ``num_bits``.

    Args:
        graph: float or quantized.
        learned: bits by quantizer as ``learned_bits`` names them: integers, or scalar tensors with a gradient.

    Returns:
        A number, or a scalar tensor with a gradient, for each convolution and dense layer.
    """
    inputs = {node.name: node.inputs for node in graph.nodes}
    own, bits = _weight_bits(graph, learned), _activation_bits(graph, learned)

    def of_other(name: str) -> Any:
        """The bits of a weight, or of the second input that a matrix product has instead."""
        return own.get(name, FLOAT_BITS) if len(inputs[name]) < 2 else bits[inputs[name][1]]

    return {name: bits[inputs[name][0]] * of_other(name) * count for name, count in macs(graph).items()}


def weight_bits(network: Network | Graph, params: Mapping[str, Array] | None = None) -> dict[str, int]:
    """The bits of every weight; a batch normalisation that stands alone has one too.

    Args:
        network: a network or graph, float or quantized.
        params: parameters by full name, for learned bits.

    Returns:
        Bits by node: those of the weight's quantizer, or 32.
    """
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
    """All costs of every node, in the order of the graph, without fake quantizers and what stands before float layers.

    Args:
        network: a network or graph, float or quantized.
        params: parameters by full name, for learned bits.
        with_bias: as in ``macs``.

    Returns:
        An entry for each node.

    >>> import qat
    >>> from qat.networks import LeNet5
    >>> conv1 = qat.metrics.measure(LeNet5())[1]
    >>> conv1.name, conv1.parameters, conv1.macs, conv1.activation_bits
    ('conv1', 150, 117600, 32)
    """
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
            name=node.name,
            cell=type(node.cell).__name__,
            shape=graph.shapes[node.name],
            parameters=own.get(node.name, 0),
            macs=counts.get(node.name, 0),
            bops=operations.get(node.name, 0),
            weight_bits=of_weights.get(node.name),
            activation_bits=quantized.get(node.name, bits[node.name]),
        )
        for node in graph.nodes
        if not isinstance(node.cell, (FakeQuant, Dequantize))
    )


def information_bits(graph: IntegerGraph) -> dict[str, int]:
    """The least number of bits that store the weight and bias of each layer at one width per array; 32 for each number of a
    layer that is left in float.

    Args:
        graph: an integer graph.

    Returns:
        Bits by node: the number of codes times the bits of one. A weight with a single value, as that of an average
        pooling, is left out, since it carries no information.
    """
    of_floats = {node.name: node.numbers * FLOAT_BITS for node in graph.nodes if isinstance(node, FloatLayer)}
    of_codes = {
        node.belongs_to: node.weight.size * bits_of_codes(node.weight)
        + (node.bias.size * bits_of(int(node.bias.min()), int(node.bias.max())) if node.bias.any() else 0)
        for node in graph.nodes
        if isinstance(node, IntegerLinear) and node.weight.min() != node.weight.max()
    }
    return of_codes | {name: bits for name, bits in of_floats.items() if bits}
