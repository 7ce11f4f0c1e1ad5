"""Quantizers by range become quantizers with learned scales, which begin with the ranges that were found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from qat.cells.fake_quant import FakeQuant
from qat.cells.linear import WeightedCell
from qat.graph import Graph, Params
from qat.passes.few_bits import TABLE
from qat.quantizers import ActivationQuantizer, LSQActivationQuantizer, LSQWeightQuantizer, WeightQuantizer
from qat.vocabulary.ops import Array

MOST_BITS = max(TABLE)


def learn_scales(
    graph: Graph, params: Mapping[str, Array], *, weights: bool = True, activations: bool = True
) -> tuple[Graph, Params]:
    """A calibrated network with learned scales (LSQ) in place of min/max quantizers of at most 4 bits, before it is trained.

    Ranges that follow the batches run away at few bits: a number beyond the range gets no gradient, so that nothing holds
    activations that grow, and the range grows with them. A learned scale has a gradient of its own there.

    1. A fake quantizer's scale begins with the range that calibration found; where numbers are negative too and the zero point
       is free, its lower end is learned as well (LSQ+).
    2. A symmetric weight's scale begins as few bits do (``qat.passes.few_bits.TABLE``), in the first step. Behind a batch
       normalisation that is not folded its lowest code is left out, which range and sign of gamma had left out, too.
    3. Others stay as they are: powers of two, weights with a zero point, more bits, other kinds.

    Args:
        graph: a quantized graph.
        params: its parameters.
        weights: whether weights get learned scales; True by default.
        activations: likewise.

    Returns:
        The graph and its parameters; the same where nothing changes.
    """
    nodes, changed = [], dict[str, Array]()
    cells: dict[str, Any] = {node.cell_name: node.cell for node in graph.nodes}
    for node in graph.nodes:
        cell: Any = node.cell
        if weights and isinstance(cell, WeightedCell) and _few(cell.weight_quantizer, WeightQuantizer):
            own: Any = cell.weight_quantizer
            if own.symmetric:
                learned = LSQWeightQuantizer(
                    own.num_bits,
                    narrow_range=own.narrow_range or (cell.has_bn and cell.bn_fold is None),
                    quant_delay=own.quant_delay,
                    per_channel=own.per_channel,
                    start=TABLE[own.num_bits].start,
                )
                cell = cell.quantized(learned, cell.bn_fold, cell.freeze_bn)
        elif activations and isinstance(cell, FakeQuant) and _few(cell.quantizer, ActivationQuantizer):
            group = {name: cells[name] for name in (node.cell_name, *cell.shares)}
            found = [{local: params[f"{name}.{local}"] for local in own.params()} for name, own in group.items()]
            if not any(cell.quantizer.unseen(each) for each in found):
                cell, state = _learned(cell, group, found)
                changed |= {f"{node.cell_name}.{local}": np.array(value, np.float32) for local, value in state.items()}
        nodes.append(replace(node, cell=cell))
    result = replace(graph, nodes=tuple(nodes))
    if result == graph:
        return graph, dict(params)
    return result, {name: (dict(params) | changed).get(name, array) for name, array in result.initial_params().items()}


def _few(quantizer: Any, kind: type[Any]) -> bool:
    """Whether it is of that very class, of few bits, and its scales are free."""
    return type(quantizer) is kind and quantizer.num_bits <= MOST_BITS and not quantizer.power_of_two


def _learned(
    cell: FakeQuant, group: Mapping[str, FakeQuant], found: list[dict[str, Array]]
) -> tuple[FakeQuant, dict[str, float]]:
    """The fake quantizer with a learned scale, and the state that gives it the range that it had, with all that share it."""
    own = cell.quantizer
    low = min(float(each.get("min", np.float32(0.0))) for each in found)
    high = max(float(each["max"]) for each in found)
    non_negative = all(each.non_negative for each in group.values())
    quantizer = LSQActivationQuantizer(
        own.num_bits,
        symmetric=own.symmetric,
        narrow_range=own.narrow_range,
        quant_delay=own.quant_delay,
        offset=not (own.symmetric or non_negative),
    )
    learned = replace(cell, quantizer=quantizer, non_negative=non_negative)
    return learned, quantizer.calibrated(low, high, non_negative)
