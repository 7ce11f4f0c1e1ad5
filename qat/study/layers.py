"""The weights and costs of the layers of a trained network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from qat.analysis.metrics import activation_bits, bops, macs, weight_bits
from qat.cells.linear import WeightedCell
from qat.errors import QatError
from qat.graph import Graph
from qat.integer import IntegerLinear
from qat.passes.apply_masks import apply_masks
from qat.passes.to_integer import to_integer
from qat.training.checkpoint import Checkpoint
from qat.vocabulary.ops import Array

#: Energies in 45 nm at 0.9 V, in pJ (Horowitz, ISSCC 2014, figure 1.1.9): an integer product of 8 bits takes 0.2 and one of
#: 32 bits 3.1, which is proportional to the bits of both factors; an addition of 32 bits; one bit from an SRAM of 8 kB.
PRODUCT_PJ, SUM_PJ, READ_PJ = 0.2 / 64, 0.1, 10.0 / 64


@dataclass(frozen=True)
class Cost:
    """The cost of a convolution or dense layer for one sample.

    Args:
        name: of the node.
        weights: how many weights.
        macs: multiply-accumulates.
        bops: bit operations.
        weight_bits: bits of a weight; 32 in a float network.
        input_bits: bits of the input's codes; 32 in a float network.
    """

    name: str
    weights: int
    macs: int
    bops: int
    weight_bits: int
    input_bits: int

    @property
    def size(self) -> int:
        """Bits of all weights."""
        return self.weights * self.weight_bits

    @property
    def energy(self) -> float:
        """An estimate in nJ: products and sums, and reading each weight once from an SRAM of 8 kB."""
        return (self.bops * PRODUCT_PJ + self.macs * SUM_PJ + self.size * READ_PJ) / 1000.0


@dataclass(frozen=True, eq=False)
class Layer:
    """A layer of a trained network.

    Args:
        cost: for one sample.
        weights: the real values as deployed, flat, float32.
    """

    cost: Cost
    weights: Array

    @property
    def zeros(self) -> float:
        """The share of weights that are 0."""
        return float((self.weights == 0).mean())


def costs_of(graph: Graph, params: Mapping[str, Array] | None = None) -> list[Cost]:
    """The costs of all convolutions and dense layers, in the order of the graph.

    Args:
        graph: float or quantized.
        params: parameters by full name, for learned bits.

    Returns:
        A cost for each layer.
    """
    counts, operations = macs(graph), bops(graph, params)
    widths, bits = weight_bits(graph, params), activation_bits(graph, params)
    costs = []
    for node in graph.nodes:
        cell = node.cell
        if isinstance(cell, WeightedCell):
            name, weights, input_bits = node.name, cell.deployed_weights, bits[node.inputs[0]]
            costs.append(Cost(name, weights, counts[name], operations[name], widths[name], input_bits))
    return costs


def layers_of(checkpoint: Checkpoint) -> list[Layer]:
    """The convolutions and dense layers of a network, in the order of the graph.

    Args:
        checkpoint: of a float or quantized network.

    Returns:
        A layer for each; batch normalisations that stand alone are left out.

    Raises:
        QatError: for a network without such layers.
    """
    graph, params = checkpoint.graph, apply_masks(checkpoint.graph, checkpoint.params)
    real = {node.name: params.get(f"{node.cell_name}.weight") for node in graph.nodes}
    if graph.is_quantized:
        for integer in to_integer(graph, params).nodes:
            if isinstance(integer, IntegerLinear):
                across = (-1,) + (1,) * (integer.weight.ndim - 1)
                centred = integer.weight.astype(np.float32) - integer.weight_zero_point.reshape(across)
                real[integer.belongs_to] = centred * integer.weight_scale.reshape(across)
    layers = []
    costs = costs_of(graph, params)
    if not costs:
        raise QatError(f"{graph.name}: has no convolution or dense layer, so there is nothing to compare; leave it out")
    for cost in costs:
        weights = real[cost.name]
        assert weights is not None, "a convolution or dense layer has a weight"
        layers.append(Layer(cost, weights.reshape(-1).astype(np.float32)))
    return layers
