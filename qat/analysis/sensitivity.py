"""How much accuracy each layer costs when its weights alone are quantized, without training."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from qat.analysis.compression import rounded
from qat.cells.conv2d import Conv2dBnAct
from qat.cells.dense import DenseBnAct
from qat.errors import QatError
from qat.graph import Graph, Network, Params, as_graph
from qat.passes.fold_batch_norm import fold_batch_norm
from qat.quantizers import BaseWeightQuantizer, BinaryWeightQuantizer, WeightQuantizer

BITS = (8, 4, 3, 2, 1)


@dataclass(frozen=True)
class Sensitivity:
    """baseline: the accuracy of the float network, 0 to 1. accuracy: by layer and by bits, with that layer alone quantized."""

    baseline: float
    accuracy: Mapping[str, Mapping[int, float]]

    def lost(self, layer: str, bits: int) -> float:
        """The accuracy lost, 0 to 1; below 0 where it grew."""
        return self.baseline - self.accuracy[layer][bits]


def quantizer_of(bits: int, per_channel: bool) -> BaseWeightQuantizer:
    """Symmetric, by the range of the weights; of 1 bit -1 and 1 times their mean size."""
    if bits == 1:
        return BinaryWeightQuantizer(per_channel=per_channel)
    return WeightQuantizer(bits, per_channel=per_channel)


def sensitivity(
    network: Network | Graph,
    params: Params,
    accuracy: Callable[[Graph, Params], float],
    *,
    bits: Sequence[int] = BITS,
    per_channel: bool = True,
) -> Sensitivity:
    """Quantize the weights of one layer at a time and ask for the accuracy.

    network, params: float; batch normalisation is folded into the weights first, as deployment does. accuracy: of a graph
    with parameters, 0 to 1. bits: 1 to 16 each. Biases and activations stay float. Raises QatError for a quantized network
    and for other bits.
    """
    graph = as_graph(network)
    if graph.is_quantized:
        raise QatError(f"{graph.name} is quantized already: give the float network it was made from")
    wrong = [width for width in bits if not 1 <= width <= 16]
    if wrong or len(set(bits)) < len(bits) or not bits:
        raise QatError(f"bits {' '.join(map(str, bits)) or '(none)'}: give different whole numbers from 1 to 16")
    graph, params = fold_batch_norm(graph, params)
    found: dict[str, dict[int, float]] = {}
    for node in graph.nodes:
        if not isinstance(node.cell, (Conv2dBnAct, DenseBnAct)) or node.cell_name in found:
            continue
        name = f"{node.cell_name}.weight"
        found[node.cell_name] = {
            width: accuracy(graph, {**params, name: rounded(quantizer_of(width, per_channel), params[name])})
            for width in bits
        }
    return Sensitivity(accuracy(graph, params), found)
