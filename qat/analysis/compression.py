"""Quantizing weights after training: of a float network by rounding, of a quantized network by another quantizer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

from qat.analysis.metrics import FLOAT_BITS, weight_bits
from qat.cells.linear import WeightedCell
from qat.graph import Graph
from qat.passes.quantizer_settings import chosen_fold
from qat.quantizers import BaseWeightQuantizer, WeightQuantizer
from qat.training.checkpoint import Checkpoint
from qat.vocabulary.numpy_ops import NUMPY_OPS
from qat.vocabulary.ops import Array


class WeightSize(NamedTuple):
    """The size of one weight.

    Attributes:
        name: of the cell.
        numbers: how many weights.
        bits: of each.
        beside: how many numbers of 32 bits come with them, scales and zero points.
    """

    name: str
    numbers: int
    bits: int
    beside: int

    @property
    def total_bits(self) -> int:
        """The bits of all numbers, packed without gaps."""
        return self.numbers * self.bits + self.beside * FLOAT_BITS


def compress(checkpoint: Checkpoint, quantizer: WeightQuantizer) -> Checkpoint:
    """The same network with its weights quantized anew, without training.

    In a float network every weight of a convolution or dense cell becomes the nearest value that the quantizer has, in
    float32; the graph stays a float one with real activations. In a quantized network every such cell gets this
    quantizer in place of its own, and activations keep their codes and ranges. Biases and batch normalisation stay as
    they are; it is folded before the weight is quantized where the quantizer has one scale for all channels.

    Args:
        checkpoint: of a float or quantized network.
        quantizer: for all weights.

    Returns:
        A checkpoint of step 0.

    Raises:
        QatError: where a cell cannot take the quantizer.
    """
    graph, params = checkpoint.graph, dict(checkpoint.params)
    nodes = []
    for node in graph.nodes:
        cell = node.cell
        if isinstance(cell, WeightedCell):
            if not graph.is_quantized:
                name = f"{node.cell_name}.weight"
                params[name] = rounded_weight(quantizer, cell, checkpoint.params[name])
            elif cell.weight_quantizer is not None:  # else it is left in float
                fold = cell.bn_fold or (chosen_fold(quantizer, None) if cell.has_bn else None)
                cell = cell.quantized(quantizer, fold, cell.freeze_bn)
        nodes.append(replace(node, cell=cell))
    graph = replace(graph, nodes=tuple(nodes))
    return checkpoint.derived(graph, {name: params[name] for name in graph.params})


def rounded(quantizer: BaseWeightQuantizer, weight: Array) -> Array:
    """The real values of a weight's codes.

    Args:
        quantizer: one without parameters of its own.
        weight: float32, output channels first.

    Returns:
        float32, shaped like the weight.
    """
    codes = quantizer.quantize(NUMPY_OPS, weight)
    values: Array = codes.centred * NUMPY_OPS.on_output(codes.scale, weight)
    return values


def rounded_weight(quantizer: BaseWeightQuantizer, cell: WeightedCell, weight: Array) -> Array:
    """``rounded`` of a weight as the parameters of a cell hold it."""
    return cell.as_stored(rounded(quantizer, cell.outputs_first(NUMPY_OPS, weight)))


def weight_sizes(
    graph: Graph, params: Mapping[str, Array], quantizer: WeightQuantizer | None = None
) -> list[WeightSize]:
    """The sizes of all weights of convolution and dense cells.

    Args:
        graph: float or quantized.
        params: parameters by full name.
        quantizer: of a float network that was compressed: the one that was used. A cell's own quantizer goes first.

    Returns:
        An entry for each cell, in the order of the graph.
    """
    sizes, seen, bits = [], set(), weight_bits(graph, params)
    for node in graph.nodes:
        cell = node.cell
        if not isinstance(cell, WeightedCell) or node.cell_name in seen:
            continue
        seen.add(node.cell_name)
        own = cell.weight_quantizer or quantizer
        numbers = cell.deployed_weights
        unfolded = cell.weight_quantizer is not None and cell.has_bn and cell.bn_fold is None  # gamma is in its scales
        scales = 0 if own is None else cell.out_channels if own.per_channel or unfolded else 1
        beside = scales * (1 if own is None or own.symmetric else 2)
        width = bits[node.name] if cell.weight_quantizer or own is None else own.num_bits
        sizes.append(WeightSize(node.cell_name, numbers, width, beside))
    return sizes
