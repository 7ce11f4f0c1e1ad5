"""Put the normalisation of each channel of an input into the cells that take it, where that costs no layer."""

from __future__ import annotations

import math
import warnings
from dataclasses import replace

import numpy as np

from qat.cells.base import Cell
from qat.cells.conv1d import Conv1dBnAct
from qat.cells.conv2d import Conv2dBnAct
from qat.cells.convolving import Convolution
from qat.cells.dense import DenseBnAct
from qat.cells.input import Input
from qat.cells.input_normalization import InputNormalization
from qat.cells.normalize import Normalize
from qat.cells.shape import ConstantChannel, Flatten
from qat.errors import QatError, QatWarning
from qat.graph import Graph, Node


def place_normalization(graph: Graph, *, into_weights: bool = True) -> Graph:
    """Replace the normalisation of each input whose channels differ, (p - 255 mean_c) / (255 std_c), by raw codes of one scale.

    - A convolution of one group, and a dense cell behind a Flatten or by itself, take it into weights and bias
      (``InputNormalization``): nothing is computed anew.
    - So does a convolution that pads, by a further channel of the picture (``ConstantChannel``) for all of them.
    - Anything else gets a layer of its own, ``<input>.normalize``, and a warning says so.

    Args:
        graph: a float network.
        into_weights: False: every input gets a layer, as where its codes are brought to another grid before.

    Returns:
        The network over raw codes, the same numbers but for rounding.

    Raises:
        QatError: for a row of features that something else than a dense cell takes.
    """
    for node in graph.inputs:
        cell = node.cell
        if isinstance(cell, Input) and cell.normalizes_channels and not cell.placed:
            graph = _placed(graph, node, cell, into_weights)
    return graph


def _placed(graph: Graph, source: Node, cell: Input, into_weights: bool) -> Graph:
    factor, shift = (tuple(each.tolist()) for each in cell.affine)
    takers = _takers(graph, source) if into_weights else None
    raw = replace(source, cell=replace(cell, placed=True))
    if takers is None:
        return _with_layer(graph, raw, factor, shift)
    padded = [node.name for node in takers if any(shift) and _pads(graph, node)]
    value, further = _constant(cell, shift), f"{source.name}.constant_channel"
    nodes = []
    for node in graph.nodes:
        if node.name == source.name:
            nodes.append(raw)
            if padded:
                nodes.append(Node(further, ConstantChannel(value * float(cell.grid.scale)), (source.name,), further))
            continue
        if node.name in padded:
            normalization = InputNormalization(factor, shift, value * float(cell.grid.scale))
            node = replace(node, cell=replace(_linear(node), input_normalization=normalization), inputs=(further,))
        elif any(node.name == taker.name for taker in takers):
            node = replace(node, cell=replace(_linear(node), input_normalization=InputNormalization(factor, shift)))
        nodes.append(node)
    return replace(graph, nodes=tuple(nodes))


def _linear(node: Node) -> Convolution | DenseBnAct:
    assert isinstance(node.cell, (Convolution, DenseBnAct))
    return node.cell


def _takers(graph: Graph, source: Node) -> list[Node] | None:
    """The linear nodes that take an input, directly or behind a Flatten; None where anything else does."""
    found = []
    for node in graph.consumers(source.name):
        if isinstance(node.cell, Flatten) and node.name in graph.outputs:
            return None
        found += graph.consumers(node.name) if isinstance(node.cell, Flatten) else [node]
    one_use = all(sum(other.cell_name == node.cell_name for other in graph.nodes) == 1 for node in found)
    fits = all(_fits(node.cell) for node in found)
    return found if found and one_use and fits and source.name not in graph.outputs else None


def _fits(cell: Cell) -> bool:
    if isinstance(cell, Convolution):
        return type(cell) in (Conv1dBnAct, Conv2dBnAct) and cell.group == 1
    return type(cell) is DenseBnAct


def _pads(graph: Graph, node: Node) -> bool:
    """Whether the node's window may lie beyond the picture."""
    return isinstance(node.cell, Convolution) and node.cell.pads(graph.shapes[node.inputs[0]])


def _constant(cell: Input, shift: tuple[float, ...]) -> int:
    """The centred code of the further channel: as small as it may be with weights no larger than the others, since its own
    rounding is multiplied by it. |w_v| = |sum_c w_c t_c| / (v s) = |sum_c (w_c a_c) d_c| / v <= max |w a| for v = sum |d_c|,
    where d_c = t_c / (a_c s) is how far the channel's mean lies from the zero point, in codes.
    """
    grid = cell.grid
    distances = np.abs(np.array(shift) / (cell.affine[0] * float(grid.scale)))
    wanted = max(1, math.ceil(float(distances.sum())))
    return min(wanted, grid.high) if grid.high >= -grid.low else max(-wanted, grid.low)


def _with_layer(graph: Graph, source: Node, factor: tuple[float, ...], shift: tuple[float, ...]) -> Graph:
    """The graph with a layer behind an input that normalises each channel."""
    shape = graph.shapes[source.name]
    takers = ", ".join(node.name for node in graph.consumers(source.name)) or "nothing"
    if len(shape) == 1:
        raise QatError(
            f"{source.name}: has a mean and std for each of its {shape[0]} features, but {takers} takes it, which is no dense "
            "cell; normalise the features by one mean and std, or before the network"
        )
    name = f"{source.name}.normalize"
    warnings.warn(
        f"{graph.name}: the normalisation of {source.name}, a mean and std for each channel, becomes a layer of its own, "
        f"{name}, since {takers} cannot take it into its weights; one mean and std for all channels would cost nothing",
        QatWarning,
        stacklevel=2,
    )
    nodes: list[Node] = []
    for node in graph.nodes:
        if node.name == source.name:
            nodes += [source, Node(name, Normalize(factor, shift), (source.name,), name)]
        else:
            inputs = tuple(name if each == source.name else each for each in node.inputs)
            nodes.append(replace(node, inputs=inputs))
    outputs = tuple(name if each == source.name else each for each in graph.outputs)
    return replace(graph, nodes=tuple(nodes), outputs=outputs)
