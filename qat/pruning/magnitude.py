"""Unstructured pruning by magnitude: masks that grow with the steps of training, on the host, for every backend alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from qat.cells.linear import WeightedCell
from qat.cells.pruner import MagnitudePruner
from qat.errors import QatError
from qat.graph import Graph, Network, Params, as_graph
from qat.names import fits
from qat.passes.apply_masks import apply_masks
from qat.vocabulary.ops import Array


def prune_weights(
    network: Network | Graph, params: Mapping[str, Array], pruner: MagnitudePruner, layers: tuple[str, ...] = ("*",)
) -> tuple[Graph, Params]:
    """Let a pruner make weights of a float or quantized network 0 while it is trained; returns graph and parameters.

    layers: patterns of the names of cells. Cells that were pruned before keep their masks. With a constant schedule that
    begins at step 0, ``updated_masks(graph, params, 0)`` prunes without training. Raises QatError where no convolution or
    dense cell fits a pattern.
    """
    graph = as_graph(network)
    names = [node.cell_name for node in graph.nodes if isinstance(node.cell, WeightedCell)]
    for pattern in layers:
        if not any(fits(name, pattern) for name in names):
            raise QatError(
                f"prune_weights: {pattern!r} fits no convolution or dense cell of {graph.name}; those are "
                f"{', '.join(dict.fromkeys(names))}"
            )
    nodes = []
    for node in graph.nodes:
        cell: Any = node.cell
        if isinstance(cell, WeightedCell) and any(fits(node.cell_name, p) for p in layers):
            node = replace(node, cell=replace(cell, pruner=pruner))
        nodes.append(node)
    pruned = Graph(tuple(nodes), graph.outputs, graph.name)
    return pruned, pruned.initial_params() | dict(params)


def updated_masks(graph: Graph, params: Mapping[str, Array], step: int) -> Params:
    """What changes before training step ``step``, by full name: the masks that grow, and the weights behind them."""
    changed: Params = {}
    for cell_name, pruner in pruners(graph).items():
        if not pruner.prunes_at(step):
            continue
        weight, mask = (params[f"{cell_name}.{local}"] for local in ("weight", "weight_mask"))
        new = smaller_mask(weight, mask, pruner.sparsity(step))
        if not np.array_equal(new, mask):
            changed |= {f"{cell_name}.weight_mask": new, f"{cell_name}.weight": weight * new}
    return changed


def smaller_mask(weight: Array, mask: Array, sparsity: float) -> Array:
    """The mask of the least |w|, float32 like the weight, with round(sparsity * size) zeros, or with those it had.

    Zeros stay; of equal sizes the earlier weight in memory goes first.
    """
    count = round(sparsity * weight.size)
    size = np.where(mask.reshape(-1) == 0, -1.0, np.abs(weight.reshape(-1)))
    new = mask.astype(np.float32).reshape(-1).copy()
    new[np.argsort(size, kind="stable")[:count]] = 0
    return new.reshape(mask.shape)


def pruners(graph: Graph) -> dict[str, MagnitudePruner]:
    """The pruners of a graph, by cell."""
    return {
        node.cell_name: node.cell.pruner
        for node in graph.nodes
        if isinstance(node.cell, WeightedCell) and node.cell.pruner is not None
    }


def unfinished(graph: Graph, params: Mapping[str, Array]) -> list[str]:
    """The cells that have not reached their pruner's final sparsity."""
    masks = {name: params[f"{name}.weight_mask"] for name in pruners(graph)}
    return [
        name
        for name, pruner in pruners(graph).items()
        if (masks[name] == 0).sum() < round(pruner.final_sparsity * masks[name].size)
    ]


def count_zeros(graph: Graph, params: Mapping[str, Array]) -> tuple[int, int]:
    """Weights that are 0, and all weights, of convolutions and dense cells."""
    params = apply_masks(graph, params)
    names = {f"{node.cell_name}.weight" for node in graph.nodes if isinstance(node.cell, WeightedCell)}
    return sum(int((params[name] == 0).sum()) for name in names), sum(params[name].size for name in names)
