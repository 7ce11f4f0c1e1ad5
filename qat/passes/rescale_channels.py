"""Multiply channels of activations by factors, and divide by them in the weights behind: the same float function."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from qat.cells.batch_norm import BatchNorm
from qat.cells.facts import OutputChannels
from qat.cells.linear import LinearCell
from qat.cells.normalization import running_affine
from qat.graph import Graph, Node, Params
from qat.passes.apply_masks import apply_masks
from qat.passes.channel_units import ChannelUnits, DisjointSets
from qat.vocabulary.activations import HOMOGENEOUS
from qat.vocabulary.numpy_ops import NUMPY_OPS
from qat.vocabulary.ops import Array


class ScaledChannels:
    """Which channels of a graph have to be multiplied by one and the same factor, and which by none.

    Two channels have one factor where a cell that is not linear makes one of the other and f(s x) = s f(x) for s > 0
    (``Cell.keeps_scale``): activations, poolings, additions, concatenations, flattenings, fake quantizers. Weights end it: a
    linear cell takes channels with any factors and gives its own any. The factor is 1 for the network's inputs and outputs, and
    for what enters or leaves any other cell, as a softmax or a hard swish.

    Args:
        graph: a float graph, or a quantized one whose ranges are still to be found.

    Attributes:
        count: how many factors there are.
        of: the factors of each node's output channels, (C,), numbers from 0 to count - 1.
        free: whether a factor may be other than 1, bool (count,).
        groups: the free factors that some linear cell makes together, arrays of numbers, in the order of the graph.
    """

    def __init__(self, graph: Graph) -> None:
        units = ChannelUnits(graph, _how)
        for node in graph.nodes:
            if absorbs(node) and node.cell.activation not in (None, *HOMOGENEOUS):  # type: ignore[attr-defined]
                units.fix(node.name)
        found = {node.name: units.of(node.name) for node in graph.nodes}
        numbers = np.unique(np.concatenate(list(found.values())))
        self.count = len(numbers)
        self.of: dict[str, Array] = {name: np.searchsorted(numbers, own) for name, own in found.items()}
        self.free: Array = ~np.isin(numbers, list(units.fixed()))
        together = DisjointSets(self.count)
        makers = [node for node in graph.nodes if absorbs(node)]
        for node in makers:
            for number in self.of[node.name]:
                together.join(int(self.of[node.name][0]), int(number))
        groups: dict[int, dict[int, None]] = {}
        for node in makers:
            for number in map(int, self.of[node.name]):
                if self.free[number]:
                    groups.setdefault(together.find(number), {})[number] = None
        self.groups = [np.array(list(members)) for members in groups.values()]


def absorbs(node: Node) -> bool:
    """Whether a node's parameters can take up factors of its input and of its output."""
    return isinstance(node.cell, LinearCell) and bool(node.cell.float_params())


def _how(node: Node) -> OutputChannels:
    if absorbs(node):
        return "new"
    passes = node.cell.keeps_scale and node.cell.output_channels in ("kept", "joined")
    return node.cell.output_channels if passes else "fixed"


def rescale_channels(graph: Graph, params: Mapping[str, Array], channels: ScaledChannels, factors: Array) -> Params:
    """New parameters with which every channel is its factor times as large, and the outputs are the same.

    Of W x + b with factors s of its output and t of its input: W_oi s_o / t_i and b_o s_o. Where batch normalisation follows,
    gamma and beta are multiplied by s instead; one by itself has gamma s / t, beta s and moving_mean t. It is the same function
    but for float32's roundings, as long as no channel is moved across the bound of a ReLU6.

    Args:
        graph: of the parameters.
        params: by full name.
        channels: of the graph.
        factors: float64 (count,), above 0.
    """
    result = {name: np.array(array) for name, array in apply_masks(graph, params).items()}
    done = set()
    for node in graph.nodes:
        if not absorbs(node) or node.cell_name in done:
            continue
        done.add(node.cell_name)
        outputs, inputs = factors[channels.of[node.name]], factors[channels.of[node.inputs[0]]]
        own = {local: f"{node.cell_name}.{local}" for local in node.cell.float_params()}
        scaled = _scaled(node.cell, {local: result[name] for local, name in own.items()}, outputs, inputs)
        result |= {own[local]: array.astype(np.float32) for local, array in scaled.items()}
    return result


def rescaled_like(graph: Graph, params: Mapping[str, Array], other: Mapping[str, Array]) -> Params:
    """``params`` with the factors by which ``other``, made of them by ``rescale_channels``, differ from them.

    What else was changed meanwhile, as biases that were corrected, does not count: the factors are those of gamma, or with
    which the weights are nearest to the others, sum |W' t - W s|^2.

    Args:
        graph: of the float network.
        params: by full name.
        other: likewise; what is missing in ``params`` is left out.
    """
    channels = ScaledChannels(graph)
    factors, known = np.ones(channels.count), ~channels.free
    for node in graph.nodes:
        if absorbs(node):
            own = channels.of[node.name]
            found = np.where(
                known[own], factors[own], _factors_between(node, params, other, factors[channels.of[node.inputs[0]]])
            )
            factors[own], known[own] = found, True
    return rescale_channels(graph, params, channels, factors)


def _factors_between(node: Node, params: Mapping[str, Array], other: Mapping[str, Array], inputs: Array) -> Array:
    """Of a node's output channels, (O,); 1 where it has only zeros."""
    cell: Any = node.cell
    before, after = (each[f"{node.cell_name}.{'gamma' if cell.has_bn else 'weight'}"] for each in (params, other))
    if cell.has_bn:
        before, after = (each.astype(np.float64).reshape(-1, 1) for each in (before, after))
        after = after * inputs.reshape(len(after), -1) if isinstance(cell, BatchNorm) else after
    else:
        before, after = (cell.outputs_first(NUMPY_OPS, each).astype(np.float64) for each in (before, after))
        split = by_input(cell, after)
        after = (split * inputs.reshape(len(split), 1, -1, 1)).reshape(len(before), -1)
        before = before.reshape(len(before), -1)
    products, squares = (before * after).sum(axis=1), (before**2).sum(axis=1)
    return np.divide(products, squares, out=np.ones(len(squares)), where=(squares > 0.0) & (products > 0.0))


def _scaled(cell: Any, params: Mapping[str, Array], outputs: Array, inputs: Array) -> Params:
    """The parameters that change, float64, by local name."""
    changed: Params = {}
    if isinstance(cell, BatchNorm):
        outputs, means = outputs / inputs, inputs
        if (means != 1.0).any():
            changed["moving_mean"] = params["moving_mean"] * means
        if (outputs != 1.0).any():
            changed["gamma"] = params["gamma"] * outputs
        if (outputs * means != 1.0).any():
            changed["beta"] = params["beta"] * (outputs * means)
        return changed
    of_weight = 1.0 if cell.has_bn else outputs
    if (outputs != 1.0).any():
        for local in ("gamma", "beta") if cell.has_bn else ("bias",):
            if local in params:
                changed[local] = params[local] * outputs
    if (inputs != 1.0).any() or np.any(of_weight != 1.0):
        weight = cell.outputs_first(NUMPY_OPS, params["weight"]).astype(np.float64)
        weight = weight * NUMPY_OPS.on_output(np.asarray(of_weight), weight) if np.ndim(of_weight) else weight
        if (inputs != 1.0).any():
            split = by_input(cell, weight)
            weight = (split / inputs.reshape(len(split), 1, -1, 1)).reshape(weight.shape)
        changed["weight"] = cell.as_stored(weight)
    return changed


def by_input(cell: Any, weight: Array) -> Array:
    """A weight, outputs first, as (group, outputs within it, input channels within it, taps)."""
    group = cell.channels if isinstance(cell, BatchNorm) else getattr(cell, "group", 1)
    return weight.reshape(group, len(weight) // group, weight.shape[1], -1)


def folded_weight(node: Node, params: Mapping[str, Array]) -> Array:
    """A linear cell's weight with batch normalisation folded in, outputs first, float64."""
    cell: Any = node.cell
    if isinstance(cell, BatchNorm):
        weight = np.ones(cell.weight_shape)
    else:
        weight = cell.outputs_first(NUMPY_OPS, params[f"{node.cell_name}.weight"]).astype(np.float64)
    if not cell.has_bn:
        return weight
    own = {local: params[f"{node.cell_name}.{local}"] for local in cell.float_params()}
    factor = running_affine(NUMPY_OPS, own, cell.eps)[0].astype(np.float64)
    return weight * NUMPY_OPS.on_output(factor, weight)
