"""Give the weights of a quantized network a tracker of oscillations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from qat.cells.linear import WeightedCell
from qat.cells.oscillation import STATES, OscillationTracker
from qat.cells.weight_codes import OF_QUANTIZER
from qat.errors import QatError
from qat.graph import Graph, Params
from qat.vocabulary.ops import Array


def track_oscillations(
    graph: Graph, params: Mapping[str, Array], tracker: OscillationTracker | None
) -> tuple[Graph, Params]:
    """The same network with a tracker in each convolution and dense cell whose weight is quantized.

    1. A cell that has this very tracker keeps its state.
    2. A cell with another one, or none, begins anew: nothing is counted or frozen yet.
    3. A cell without a quantizer has none.

    Args:
        graph: a quantized graph.
        params: its parameters.
        tracker: for all weights; None: they lose theirs, and frozen codes are frozen no longer.

    Returns:
        The graph and its parameters, with the tracker's state.

    Raises:
        QatError: for a network without quantized weights, and a quantizer whose codes cannot be frozen.
    """
    nodes, found = [], False
    for node in graph.nodes:
        cell = node.cell
        if isinstance(cell, WeightedCell) and cell.weight_quantizer is not None:
            refusal = cell.weight_quantizer.refuses_freezing if tracker else None
            if refusal:
                raise QatError(
                    f"{node.cell_name}: oscillations of a {type(cell.weight_quantizer).__name__} cannot be tracked: {refusal}; "
                    "use a symmetric WeightQuantizer or LSQWeightQuantizer (--weight_quantizer minmax or lsq), or leave "
                    "freezing and dampening out"
                )
            found = True
            node = replace(node, cell=replace(cell, tracker=tracker))
        nodes.append(node)
    if tracker and not found:
        raise QatError(
            f"{graph.name}: has no quantized weights whose codes could oscillate; convert it with convert_quant_network first"
        )
    tracked = replace(graph, nodes=tuple(nodes))
    if tracked == graph:
        return graph, dict(params)
    own = {f"{OF_QUANTIZER}{name}" for name in STATES}
    kept = {name: array for name, array in params.items() if name.rpartition(".")[2] not in own}
    return tracked, {name: kept.get(name, array) for name, array in tracked.initial_params().items()}
