"""Unstructured pruning by magnitude: masks that grow during training, computed on the host for every backend alike."""

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
    """Give cells a pruner, which sets their smallest weights to 0 during training.

    Cells that were pruned before keep their masks. With a constant schedule from step 0, ``updated_masks(graph, params,
    0)`` prunes without training.

    Args:
        network: a float or quantized network or graph.
        params: its parameters.
        pruner: the schedule.
        layers: patterns of cell names, with * and ?; all convolutions and dense cells by default.

    Returns:
        The graph and its parameters, with masks.

    Raises:
        QatError: where a pattern fits no convolution or dense cell.

    >>> import qat
    >>> from qat.networks import LeNet5
    >>> graph = LeNet5().graph()
    >>> pruner = qat.pruning.MagnitudePruner(0.5, schedule="constant", begin=0)
    >>> graph, params = qat.pruning.prune_weights(graph, graph.initial_params(0), pruner)
    >>> params |= qat.pruning.updated_masks(graph, params, 0)
    >>> qat.pruning.count_zeros(graph, params)
    (30735, 61470)
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
    pruned = replace(graph, nodes=tuple(nodes))
    return pruned, pruned.initial_params() | dict(params)


def updated_masks(graph: Graph, params: Mapping[str, Array], step: int) -> Params:
    """The masks that grow before a training step, and the weights behind them.

    Args:
        graph: with pruners.
        params: its parameters and masks.
        step: the training step, from 0.

    Returns:
        New values by full name; empty where nothing changes.
    """
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
    """A mask without the smallest |w|: round(sparsity * size) zeros, or more where it had more.

    Zeros stay zeros; of equal sizes the earlier weight in memory goes first.

    Args:
        weight: float32.
        mask: 1 where a weight is kept, else 0; shaped like the weight.
        sparsity: the share of zeros, 0 to 1.

    Returns:
        float32, shaped like the weight.
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
    """The cells that have not reached the final sparsity of their pruner."""
    masks = {name: params[f"{name}.weight_mask"] for name in pruners(graph)}
    return [
        name
        for name, pruner in pruners(graph).items()
        if (masks[name] == 0).sum() < round(pruner.final_sparsity * masks[name].size)
    ]


def count_zeros(graph: Graph, params: Mapping[str, Array]) -> tuple[int, int]:
    """Count the zeros among the weights of convolutions and dense cells.

    Args:
        graph: float or quantized.
        params: its parameters.

    Returns:
        How many weights are 0, and how many there are.
    """
    params = apply_masks(graph, params)
    names = {f"{node.cell_name}.weight" for node in graph.nodes if isinstance(node.cell, WeightedCell)}
    return sum(int((params[name] == 0).sum()) for name in names), sum(params[name].size for name in names)
