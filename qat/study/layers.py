"""What the layers of a trained network hold and cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from qat.analysis.metrics import activation_bits, bops, macs, weight_bits
from qat.cells.batch_norm import BatchNorm
from qat.cells.linear import LinearCell
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
    """Of a convolution or dense layer, for one sample. weights: how many. input_bits: of its input's codes; 32 in a float
    network.
    """

    name: str
    weights: int
    macs: int
    bops: int
    weight_bits: int
    input_bits: int

    @property
    def size(self) -> int:
        """Bits of the weights."""
        return self.weights * self.weight_bits

    @property
    def energy(self) -> float:
        """An estimate in nJ: products and sums, and each weight read once from an SRAM of 8 kB."""
        return (self.bops * PRODUCT_PJ + self.macs * SUM_PJ + self.size * READ_PJ) / 1000.0


@dataclass(frozen=True, eq=False)
class Layer:
    """A layer's cost, and its weights as deployed: real, flat, float32."""

    cost: Cost
    weights: Array

    @property
    def zeros(self) -> float:
        """The share of weights that are 0."""
        return float((self.weights == 0).mean())


def costs_of(graph: Graph, params: Mapping[str, Array] | None = None) -> list[Cost]:
    """Of the convolutions and dense layers of a float or quantized graph, in order. params: as in ``qat.metrics``."""
    counts, operations = macs(graph), bops(graph, params)
    widths, bits = weight_bits(graph, params), activation_bits(graph, params)
    costs = []
    for node in graph.nodes:
        cell = node.cell
        if isinstance(cell, LinearCell) and not isinstance(cell, BatchNorm):
            name, weights, input_bits = node.name, int(np.prod(cell.weight_shape)), bits[node.inputs[0]]
            costs.append(Cost(name, weights, counts[name], operations[name], widths[name], input_bits))
    return costs


def layers_of(checkpoint: Checkpoint) -> list[Layer]:
    """Of a float or quantized network, in order; batch normalisations by themselves are not counted."""
    graph, params = checkpoint.graph, apply_masks(checkpoint.graph, checkpoint.params)
    real = {node.name: params.get(f"{node.cell_name}.weight") for node in graph.nodes}
    if graph.is_quantized:
        for integer in to_integer(graph, params).nodes:
            if isinstance(integer, IntegerLinear):
                across = (-1,) + (1,) * (integer.weight.ndim - 1)
                centred = integer.weight.astype(np.float32) - integer.weight_zero_point.reshape(across)
                real[integer.name] = centred * integer.weight_scale.reshape(across)
    layers = []
    costs = costs_of(graph, params)
    if not costs:
        raise QatError(f"{graph.name}: has no convolution or dense layer, so there is nothing to compare; leave it out")
    for cost in costs:
        weights = real[cost.name]
        assert weights is not None, "a convolution or dense layer has a weight"
        layers.append(Layer(cost, weights.reshape(-1).astype(np.float32)))
    return layers
