"""Inputs of large numbers, as pixels of 0 to 255, become small ones, and weights as much larger: the same function."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from qat.cells.input import Input
from qat.cells.linear import WeightedCell
from qat.cells.weight_codes import OF_QUANTIZER
from qat.graph import Graph, Params
from qat.integer import evaluate
from qat.passes.to_integer import to_integer
from qat.vocabulary.arrays import as_arrays, as_tuple
from qat.vocabulary.ops import Array

LARGEST = 16.0  #: real numbers up to this size stay: pixels that are normalised reach 3
IMAGES = 4  #: on which the integers of both are compared


def unit_inputs(graph: Graph, params: Mapping[str, Array]) -> tuple[Graph, Params]:
    """A network whose pixels enter as real numbers of at most 1 where they reached more than 16.

    With w x = (w f) (x / f) nothing changes but rounding. Gradient descent does: a weight that is f times as small has a
    gradient that is f times as large, so that at a usual learning rate one step throws weights over raw pixels far off.

    1. An input of pixels with one mean and standard deviation for all channels, whose numbers reach more than ``LARGEST``, and
       which only convolutions and dense cells without such inputs beside it take: the standard deviation grows by f.
    2. The weights of the cells that take it grow by f, a power of two, so that no number is rounded.
    3. Scales that quantizers of these weights keep grow by f. All else stays as it is, and a quantized network's integers do;
       one whose quantizers would give other codes stays as it is.

    Args:
        graph: of a network, float or quantized.
        params: its parameters.

    Returns:
        The graph and its parameters; the same where nothing changes.
    """
    changed: Params = dict(params)
    nodes = {node.name: node for node in graph.nodes}
    for node in graph.inputs:
        cell: Any = node.cell
        takers = graph.consumers(node.name)
        factor = _factor(cell)
        cells = {taker.cell_name for taker in takers}
        uses = [other for other in graph.nodes if other.cell_name in cells]
        only = all(isinstance(taker.cell, WeightedCell) and taker.inputs == (node.name,) for taker in uses)
        if factor == 1.0 or not only or node.name in graph.outputs:
            continue
        nodes[node.name] = replace(node, cell=replace(cell, std=cell.std * factor))
        for taker in takers:
            changed |= taker.full(_grown(taker.cell, taker.own(params), np.float32(factor)))
    if nodes == {node.name: node for node in graph.nodes}:
        return graph, dict(params)
    found = replace(graph, nodes=tuple(nodes.values()))
    if graph.is_quantized and not _same_integers((graph, params), (found, changed)):
        return graph, dict(params)
    return found, changed


def _grown(cell: Any, own: Mapping[str, Array], factor: Any) -> dict[str, Array]:
    """The weight of a cell, and the scales of its quantizer, times a factor."""
    found = {"weight": own["weight"] * factor}
    if cell.weight_quantizer is not None:
        state = {name.removeprefix(OF_QUANTIZER): array for name, array in own.items() if name.startswith(OF_QUANTIZER)}
        factors = np.full(1, factor)  # one for all outputs, whichever axis of the weight they are
        found |= {f"{OF_QUANTIZER}{name}": a for name, a in cell.weight_quantizer.rescaled(state, factors).items()}
    return found


def _same_integers(one: tuple[Graph, Mapping[str, Array]], other: tuple[Graph, Mapping[str, Array]]) -> bool:
    """Whether two quantized networks give the same codes for some random pixels."""
    rng = np.random.default_rng(0)
    samples = tuple(rng.integers(0, 256, (IMAGES, *spec.shape)).astype(spec.dtype) for spec in one[0].input_specs)
    outputs = [as_tuple(evaluate(to_integer(*each), as_arrays(samples))) for each in (one, other)]
    return all(np.array_equal(x, y) for x, y in zip(*outputs, strict=True))


def _factor(cell: Input) -> float:
    """The power of two by which the input's numbers are divided, at most 1 beyond the one that brings them to 1; 1: none."""
    if cell.dtype != "uint8" or cell.scale is not None or cell.normalizes_channels:
        return 1.0
    assert isinstance(cell.mean, float)
    assert isinstance(cell.std, float)
    reach = max(cell.mean, 1.0 - cell.mean) / cell.std
    return 1.0 if reach <= LARGEST else float(2.0 ** np.ceil(np.log2(reach)))
