"""Cross-layer equalization: let the channels between two linear cells have weights of like size."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from qat.cells.base import Cell
from qat.cells.batch_norm import BatchNorm
from qat.cells.linear import LinearCell, WeightedCell
from qat.cells.normalization import running_affine
from qat.graph import Graph, Node, Params
from qat.passes.apply_masks import apply_masks
from qat.vocabulary.numpy_ops import NUMPY_OPS
from qat.vocabulary.ops import Array

MOST_ROUNDS = 100
CONVERGED = 1e-3  #: of log2 of a channel's factor
DEAD = 2.0**-12  #: of the largest channel; a smaller one only carries its bias, which would grow without bound


def equalize_channels(graph: Graph, params: Mapping[str, Array]) -> Params:
    """New parameters of the same float function whose weights lose less in quantization: cross-layer equalization.

    Nagel et al., arXiv 1906.04721, section 4.1, equations 9 to 11: with s_i = sqrt(r1_i r2_i) / r2_i, where r1_i is
    max|.| over output channel i of the first weight and r2_i over input channel i of the second (both with batch
    normalisation folded in), W1_i and b1_i are divided by s_i and W2_i is multiplied by it; over all pairs in turn,
    until nothing moves. ReLU keeps the function since f(s x) = s f(x) for s > 0. It helps weights of one scale for all
    channels (per_channel=False) most, and activations, which have one scale in any case.

    Pairs are:

    1. a linear cell with no activation or ReLU, whose output a single node takes,
    2. through cells that keep channels and f(s x) = s f(x): poolings, flattenings and dropouts,
    3. and a convolution (of any groups) or dense cell; both cells are used once.

    Where batch normalisation follows the first weight, gamma and beta are divided instead. A channel without weights
    is left alone.

    Args:
        graph: a float network.
        params: its parameters by full name.
    """
    result = {name: np.array(array) for name, array in apply_masks(graph, params).items()}
    pairs = _pairs(graph)
    for _ in range(MOST_ROUNDS):
        moved = max((_equalize(first, second, result) for first, second in pairs), default=0.0)
        if moved < CONVERGED:
            break
    return result


def _pairs(graph: Graph) -> list[tuple[Node, Node]]:
    uses = [node.cell_name for node in graph.nodes]
    pairs = []
    for first in graph.nodes:
        if not isinstance(first.cell, LinearCell) or first.cell.activation not in (None, "relu"):
            continue
        name, users = first.name, graph.consumers(first.name)
        while len(users) == 1 and name not in graph.outputs and _passes_scale(users[0].cell):
            name = users[0].name
            users = graph.consumers(name)
        if len(users) != 1 or name in graph.outputs:
            continue
        second = users[0]
        if not isinstance(second.cell, WeightedCell):
            continue
        groups = getattr(second.cell, "group", 1)
        if first.cell.out_channels % groups:  # behind a PixelUnshuffle, whose channels are parts of one
            continue
        if uses.count(first.cell_name) == uses.count(second.cell_name) == 1:
            pairs.append((first, second))
    return pairs


def _passes_scale(cell: Cell) -> bool:
    """A channel of its input that is multiplied by s > 0 leaves it multiplied by s, at the same place among the others."""
    return cell.arity == 1 and cell.keeps_sign and cell.output_channels == "kept"


def _equalize(first: Node, second: Node, params: Params) -> float:
    """Equalize one pair in place; returns the largest |log2 s|."""
    channels = first.cell.out_channels  # type: ignore[attr-defined]
    r1 = _folded_range(first, params)
    cell: Any = second.cell
    weight = cell.outputs_first(NUMPY_OPS, params[f"{second.cell_name}.weight"])
    shape, weight = weight.shape, np.abs(weight.astype(np.float64)) * _factor(second, params)
    # Axes: group, output within it, input channel within it, everything else (taps, or places of a flattened image).
    # A flattened image has its channels outermost, so that they split off in the same way.
    group = getattr(second.cell, "group", 1)
    r2 = weight.reshape(group, len(weight) // group, channels // group, -1).max(axis=(1, 3)).reshape(-1)
    alive = (r1 > DEAD * r1.max()) & (r2 > DEAD * r2.max())
    s = np.sqrt(np.divide(r1, r2, out=np.ones(channels), where=alive))
    for local in ("gamma", "beta") if first.cell.has_bn else ("weight", "bias"):  # type: ignore[attr-defined]
        name = f"{first.cell_name}.{local}"
        if name in params:
            array = first.cell.outputs_first(NUMPY_OPS, params[name]) if local == "weight" else params[name]  # type: ignore[attr-defined]
            array = (array / s.reshape((-1,) + (1,) * (array.ndim - 1))).astype(np.float32)
            params[name] = first.cell.as_stored(array) if local == "weight" else array  # type: ignore[attr-defined]
    name = f"{second.cell_name}.weight"
    split = cell.outputs_first(NUMPY_OPS, params[name]).reshape(group, len(weight) // group, channels // group, -1)
    split = split * s.reshape(group, 1, channels // group, 1)
    params[name] = cell.as_stored(split.reshape(shape).astype(np.float32))
    return float(np.abs(np.log2(s)).max(initial=0.0))


def _folded_range(node: Node, params: Params) -> Array:
    """max|w| of each output channel, with batch normalisation folded in, float64, (O,)."""
    cell: Any = node.cell
    if isinstance(cell, BatchNorm):
        return np.abs(_factor(node, params)).reshape(-1)
    weight = cell.outputs_first(NUMPY_OPS, params[f"{node.cell_name}.weight"])
    weight = np.abs(weight.astype(np.float64)) * _factor(node, params)
    largest: Array = weight.reshape(len(weight), -1).max(axis=1)
    return largest


def _factor(node: Node, params: Params) -> Array:
    """|gamma / sigma| of a cell's batch normalisation, shaped to multiply its weight; 1 where it has none."""
    cell: Any = node.cell
    if not cell.has_bn:
        return np.ones(1)
    own = {local: params[f"{node.cell_name}.{local}"] for local in cell.params()}
    factor = np.abs(running_affine(NUMPY_OPS, own, cell.eps)[0].astype(np.float64))
    return NUMPY_OPS.on_output(factor, np.empty(cell.weight_shape))
