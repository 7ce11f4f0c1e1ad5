"""How much accuracy, or another metric, each layer loses when its weights alone are quantized, without training."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from qat.analysis.compression import rounded_weight
from qat.cells.linear import WeightedCell
from qat.errors import QatError
from qat.graph import Graph, Network, Params, as_graph
from qat.passes.fold_batch_norm import fold_batch_norm
from qat.quantizers import BaseWeightQuantizer, BinaryWeightQuantizer, WeightQuantizer

BITS = (8, 4, 3, 2, 1)


@dataclass(frozen=True)
class Sensitivity:
    """The accuracies that ``sensitivity`` measured, or the values of another metric.

    Args:
        baseline: of the float network, 0 to 1.
        accuracy: by layer and number of bits, with that layer alone quantized.
        higher_is_better: False for an error, as MAE; True by default.
    """

    baseline: float
    accuracy: Mapping[str, Mapping[int, float]]
    higher_is_better: bool = True

    def lost(self, layer: str, bits: int) -> float:
        """How much worse it became, of an accuracy 0 to 1; negative where it became better."""
        lost = self.baseline - self.accuracy[layer][bits]
        return lost if self.higher_is_better else -lost


def quantizer_of(bits: int, per_channel: bool) -> BaseWeightQuantizer:
    """The quantizer of a number of bits: symmetric by range, and for 1 bit signs times the mean size of the weights."""
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
    higher_is_better: bool = True,
) -> Sensitivity:
    """Quantize the weights of one layer at a time and measure the accuracy, or another metric.

    Biases and activations stay float.

    Args:
        network: a float network or graph.
        params: its parameters; batch normalisation is folded into the weights first, as in deployment.
        accuracy: called with a graph and parameters; returns 0 to 1, or the value of another metric.
        bits: the numbers of bits to try, 1 to 16 each.
        per_channel: one scale for each output channel, the default, or one for each weight.
        higher_is_better: False where the metric is an error; True by default.

    Returns:
        The accuracies.

    Raises:
        QatError: for a quantized network, and for other numbers of bits.
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
        if not isinstance(node.cell, WeightedCell) or node.cell_name in found:
            continue
        name = f"{node.cell_name}.weight"
        found[node.cell_name] = {
            width: accuracy(
                graph, {**params, name: rounded_weight(quantizer_of(width, per_channel), node.cell, params[name])}
            )
            for width in bits
        }
    return Sensitivity(accuracy(graph, params), found, higher_is_better)
