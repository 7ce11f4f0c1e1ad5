"""What the layers of a trained network hold and cost."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from qat.cells.linear import BatchNorm, LinearCell
from qat.checkpoint import Checkpoint
from qat.integer import IntegerLinear
from qat.ops import Array
from qat.passes.to_integer import to_integer

FLOAT_BITS = 32
#: Energies in 45 nm at 0.9 V, in pJ (Horowitz, ISSCC 2014, figure 1.1.9): an integer product of 8 bits takes 0.2 and one of
#: 32 bits 3.1, which is proportional to the bits of both factors; an addition of 32 bits; one bit from an SRAM of 8 kB.
PRODUCT_PJ, SUM_PJ, READ_PJ = 0.2 / 64, 0.1, 10.0 / 64


@dataclass(frozen=True, eq=False)
class Layer:
    """A convolution or dense layer as deployed.

    weights: real, flat, float32. macs: products of one sample. weight_bits, input_bits: of the codes; 32 in a float network.
    """

    name: str
    weights: Array
    macs: int
    weight_bits: int
    input_bits: int

    @property
    def zeros(self) -> float:
        """The share of weights that are 0."""
        return float((self.weights == 0).mean())

    @property
    def bops(self) -> int:
        """Bit operations: products times the bits of both factors (Baskin et al., arXiv 1804.10969, section 4.2, without
        the additions).
        """
        return self.macs * self.weight_bits * self.input_bits

    @property
    def size(self) -> int:
        """Bits of the weights."""
        return self.weights.size * self.weight_bits

    @property
    def energy(self) -> float:
        """An estimate in nJ for one sample: its products and sums, and each weight read once from an SRAM of 8 kB."""
        return (self.macs * (self.weight_bits * self.input_bits * PRODUCT_PJ + SUM_PJ) + self.size * READ_PJ) / 1000.0


def layers_of(checkpoint: Checkpoint) -> list[Layer]:
    """Of a float or quantized network, in order; batch normalisations by themselves are not counted."""
    graph, params = checkpoint.graph, checkpoint.params
    deployed = {}
    if graph.is_quantized:
        deployed = {node.name: node for node in to_integer(graph, params).nodes if isinstance(node, IntegerLinear)}
    layers = []
    for node in graph.nodes:
        cell = node.cell
        if not isinstance(cell, LinearCell) or isinstance(cell, BatchNorm):
            continue
        places = math.prod(graph.shapes[node.name][1:])
        weights, bits, input_bits = params[f"{node.cell_name}.weight"], FLOAT_BITS, FLOAT_BITS
        if node.name in deployed and cell.weight_quantizer is not None:
            integer = deployed[node.name]
            across = (-1,) + (1,) * (integer.weight.ndim - 1)
            centred = integer.weight.astype(np.float32) - integer.weight_zero_point.reshape(across)
            weights = centred * integer.weight_scale.reshape(across)
            bits = cell.weight_quantizer.num_bits
            grid = integer.inputs[0].grid
            input_bits = math.ceil(math.log2(grid.qmax - grid.qmin + 1))
        flat = weights.reshape(-1).astype(np.float32)
        layers.append(Layer(node.name, flat, places * flat.size, bits, input_bits))
    return layers
