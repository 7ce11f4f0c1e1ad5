"""Weights that are pruned become 0 in the parameters too."""

from __future__ import annotations

from collections.abc import Mapping

from qat.cells.linear import LinearCell
from qat.graph import Graph, Params
from qat.vocabulary.ops import Array


def apply_masks(graph: Graph, params: Mapping[str, Array]) -> Params:
    """The same function, with weight * weight_mask in place of each weight that has a pruner.

    Forward passes and integers mask anyway; while training goes on, what stands behind a mask may be any number.
    """
    result = dict(params)
    for node in graph.nodes:
        if isinstance(node.cell, LinearCell) and node.cell.pruner is not None:
            weight, mask = (f"{node.cell_name}.{local}" for local in ("weight", "weight_mask"))
            result[weight] = params[weight] * params[mask]
    return result
