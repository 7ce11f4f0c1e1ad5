"""What a network costs: products and parameters, of the graph alone."""

from __future__ import annotations

import math

from qat.cells.linear import BatchNorm, LinearCell
from qat.graph import Graph


def macs(graph: Graph) -> int:
    """Products of one sample: of each convolution and dense layer, the weights times the places they are applied to.

    Biases, batch normalisations (which are folded), activations and poolings are not counted.
    """
    return sum(
        math.prod(node.cell.weight_shape) * math.prod(graph.shapes[node.name][1:])
        for node in graph.nodes
        if isinstance(node.cell, LinearCell) and not isinstance(node.cell, BatchNorm)
    )
