"""What rounding costs a quantized graph, predicted from the ranges of its channels."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from qat.cells.fake_quant import FakeQuant
from qat.graph import Graph, Node
from qat.passes.rescale_channels import ScaledChannels, absorbs, by_input, folded_weight
from qat.passes.share_grids import grid_groups
from qat.quantizers import BaseActivationQuantizer
from qat.vocabulary.ops import Array

SMALLEST = 2.0**-100  #: what is divided by, at least


class ChannelRanges(NamedTuple):
    """Of the float numbers of a node's output, by channel, over some images; float64, (C,).

    Attributes:
        low: the smallest.
        high: the largest.
        mean_square: the mean of their squares.
    """

    low: Array
    high: Array
    mean_square: Array


@dataclass(frozen=True, eq=False)
class Rounded:
    """Activations on one grid.

    Attributes:
        factors: the numbers of their channels' factors, (K,).
        low, high: of these channels, at most 0 and at least 0, (K,).
        quantizer: of all of them.
    """

    factors: Array
    low: Array
    high: Array
    quantizer: BaseActivationQuantizer

    def step(self, factors: Array) -> float:
        """Between two codes, with these factors."""
        own = factors[self.factors]
        low, high = float((own * self.low).min(initial=0.0)), float((own * self.high).max(initial=0.0))
        extent = 2.0 * max(high, -low) if self.quantizer.symmetric else high - low
        return extent / (self.quantizer.qmax - self.quantizer.qmin)

    def room(self, factors: Array) -> Array:
        """How many times as large each of its channels may be until it reaches the ends of the grid, (K,)."""
        own = factors[self.factors]
        reach: Array = np.maximum(own * self.high, -own * self.low)
        room: Array = reach.max(initial=0.0) / np.maximum(reach, SMALLEST)
        return room


@dataclass(frozen=True, eq=False)
class Weight:
    """Of a linear cell, batch normalisation folded in; G groups.

    Attributes:
        outputs, inputs: the numbers of its channels' factors, (O,) and (I,).
        largest: |w| over the taps, float64, (G, O / G, I / G).
    """

    outputs: Array
    inputs: Array
    largest: Array

    @classmethod
    def of(cls, node: Node, weight: Array, channels: ScaledChannels) -> Weight:
        """weight: of ``by_input``."""
        largest: Array = np.abs(weight).max(axis=3)
        inputs = channels.of[node.inputs[0]]  # raw pixels may have a further channel, of ones
        return cls(channels.of[node.name], inputs[: len(largest) * largest.shape[2]], largest)

    def scaled(self, factors: Array) -> Array:
        """``largest`` with these factors."""
        groups, outputs, _ = self.largest.shape
        rows = factors[self.outputs].reshape(groups, outputs, 1)
        scaled: Array = self.largest * rows / factors[self.inputs].reshape(groups, 1, -1)
        return scaled


@dataclass(frozen=True, eq=False)
class Layer(Weight):
    """A linear cell with a quantized weight, and what its error counts.

    Attributes:
        squares: of its weight, summed over the taps, (G, O / G, I / G).
        numbers: the mean square of its input channels times the number of taps, (G, I / G).
        sources: the grids on which its input was rounded, once or, through additions, several times.
        gain: what an error of an output channel of variance 1 counts, (G, O / G).
        per_channel: whether each output has a scale of its own.
        reach: the largest code of a weight.
    """

    squares: Array
    numbers: Array
    sources: tuple[int, ...]
    gain: Array
    per_channel: bool
    reach: float

    def scales(self, factors: Array) -> Array:
        """Of its weight, over the outputs' factors: in numbers of the outputs as they are without, (G, O / G)."""
        largest = self.scaled(factors).max(axis=2)
        if not self.per_channel:
            largest = np.full_like(largest, largest.max())
        found: Array = largest / (self.reach * factors[self.outputs].reshape(largest.shape))
        return found


class ChannelNoise:
    """The mean squared error that rounding causes in the outputs of all layers, each relative to the layer's numbers.

    A number that is rounded to a step d errs by d^2 / 12 in the mean square (Widrow and Kollar, "Quantization Noise", 2008,
    section 1.2). With factors s of its input and output channels, the output o of a linear layer, divided by s_o, has

        sum_i W_oi^2 d_x^2 / (12 s_i^2)  +  d_o^2 / (12 s_o^2) sum_i s_i^2 E[x_i^2],

    d_x being the step of each grid on which its input was rounded, and d_o that of the weight. They follow from the factors
    too: d_o is proportional to max_i |W_oi| s_o / s_i, the largest of all o where one scale serves all. The sum over the
    outputs has weights proportional to the square of what later layers multiply them by, sum_r W_ro^2 and so on to the
    network's outputs, and for each layer as large in all as to make them relative to E[y^2].

    Args:
        graph: the quantized graph.
        params: of the float network, by full name.
        channels: of the graph.
        ranges: of the nodes.
    """

    def __init__(
        self, graph: Graph, params: Mapping[str, Array], channels: ScaledChannels, ranges: Mapping[str, ChannelRanges]
    ) -> None:
        self.grids, on_grid = _grids(graph, channels, ranges)
        sources = _sources(graph, on_grid)
        weights = {node.name: by_input(node.cell, folded_weight(node, params)) for node in graph.nodes if absorbs(node)}
        squares = {name: (weight**2).sum(axis=3) for name, weight in weights.items()}
        gains = _gains(graph, squares, ranges)
        self.layers: list[Layer] = []
        for node in graph.nodes:
            cell: Any = node.cell
            if node.name not in weights or cell.weight_quantizer is None:
                continue
            weight, numbers = weights[node.name], ranges[node.inputs[0]].mean_square
            groups, outputs, of_group, taps = weight.shape
            if cell.input_normalization is not None:  # what the weight takes is normalised pixels
                numbers = np.ones(groups * of_group)
            self.layers.append(
                Layer(
                    **vars(Weight.of(node, weight, channels)),
                    squares=squares[node.name],
                    numbers=taps * numbers.reshape(groups, of_group),
                    sources=sources[node.inputs[0]],
                    gain=gains[node.name].reshape(groups, outputs),
                    per_channel=cell.weight_quantizer.per_channel,
                    reach=(cell.weight_quantizer.qmax - cell.weight_quantizer.qmin) / 2.0,
                )
            )
        self._count = channels.count

    def alive(self, groups: Sequence[Array], smallest: float) -> Array:
        """The factors, bool (count,), of channels that have more than that share of the largest number of their group."""
        reach = np.zeros(self._count)
        for grid in self.grids:
            np.maximum.at(reach, grid.factors, np.maximum(grid.high, -grid.low))
        alive = np.zeros(self._count, bool)
        for group in groups:
            alive[group] = reach[group] > smallest * reach[group].max()
        return alive

    def touched(self, group: Array) -> tuple[list[Layer], list[Rounded]]:
        """The layers whose error the factors of a group change, and the grids that they change."""
        inside = np.zeros(self._count, bool)
        inside[group] = True
        changed = {number for number, grid in enumerate(self.grids) if inside[grid.factors].any()}
        layers = [
            layer
            for layer in self.layers
            if inside[layer.outputs].any() or inside[layer.inputs].any() or not changed.isdisjoint(layer.sources)
        ]
        return layers, [self.grids[number] for number in sorted(changed)]

    def error(self, factors: Array, layers: Sequence[Layer]) -> float:
        """The sum over these layers."""
        return sum(self._error(layer, factors) for layer in layers)

    def rounding(self, layer: Layer, factors: Array) -> float:
        """12 times the error of each number that enters a layer."""
        return sum(self.grids[number].step(factors) ** 2 for number in layer.sources)

    def stationary(self, group: Array, layers: Sequence[Layer], factors: Array) -> Array:
        """The factors of a group at which the error is the smallest while every step stays as it is with ``factors``.

        It is a_i / s_i^2 + b_i s_i^2, so that s_i = (a_i / b_i)^(1/4). A weight of which each scale belongs to one input
        channel, as a depthwise one with a scale for each channel, takes part in a alone: its step follows the factor.
        """
        a, b = np.zeros(self._count), np.zeros(self._count)
        for layer in layers:
            groups, _, of_group = layer.squares.shape
            of_outputs = np.einsum("go,goi->gi", layer.gain, layer.squares)
            np.add.at(a, layer.inputs, self.rounding(layer, factors) * of_outputs.reshape(-1))
            error = layer.gain * layer.scales(factors) ** 2
            if not (layer.per_channel and of_group == 1):
                np.add.at(b, layer.inputs, (error.sum(axis=1)[:, None] * layer.numbers).reshape(-1))
            if not layer.per_channel:
                inputs = (factors[layer.inputs] ** 2).reshape(groups, of_group) * layer.numbers
                error = error * factors[layer.outputs].reshape(error.shape) ** 2 * inputs.sum(axis=1)[:, None]
                np.add.at(a, layer.outputs, error.reshape(-1))
        some = (a[group] > 0.0) & (b[group] > 0.0)
        found: Array = np.divide(a[group], b[group], out=np.ones(len(group)), where=some) ** 0.25
        return np.where(a[group] > 0.0, np.where(b[group] > 0.0, found, np.inf), 1.0)

    def _error(self, layer: Layer, factors: Array) -> float:
        inputs = (factors[layer.inputs] ** 2).reshape(len(layer.squares), -1)
        of_outputs = np.einsum("go,goi->gi", layer.gain, layer.squares)
        of_inputs = self.rounding(layer, factors) * float((of_outputs / inputs).sum())
        of_weights = float(
            (layer.gain * layer.scales(factors) ** 2 * (inputs * layer.numbers).sum(axis=1)[:, None]).sum()
        )
        return (of_inputs + of_weights) / 12.0


def _grids(
    graph: Graph, channels: ScaledChannels, known: Mapping[str, ChannelRanges]
) -> tuple[list[Rounded], dict[str, int]]:
    """Every grid of activations, and that of each fake quantizer."""
    nodes: dict[str, list[Node]] = {}
    for node in graph.nodes:
        if isinstance(node.cell, FakeQuant):
            nodes.setdefault(node.cell_name, []).append(node)
    grids: list[Rounded] = []
    on_grid: dict[str, int] = {}
    for cells in grid_groups(graph):
        members = [node for cell in cells for node in nodes[cell]]
        on_grid |= {node.name: len(grids) for node in members}
        ranges = [known[node.name] for node in members]
        quantizer: Any = members[0].cell
        grids.append(
            Rounded(
                np.concatenate([channels.of[node.name] for node in members]),
                np.minimum(np.concatenate([each.low for each in ranges]), 0.0),
                np.maximum(np.concatenate([each.high for each in ranges]), 0.0),
                quantizer.quantizer,
            )
        )
    return grids, on_grid


def _sources(graph: Graph, on_grid: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
    """Of each node's output, the grids of the fake quantizers whose rounding is in it, back to the layers before."""
    quantizers: dict[str, frozenset[str]] = {}
    for node in graph.nodes:
        own = {node.name} if node.name in on_grid else set()
        before = [] if absorbs(node) else [quantizers[name] for name in node.inputs]
        quantizers[node.name] = frozenset(own).union(*before)
    return {name: tuple(sorted(on_grid[each] for each in found)) for name, found in quantizers.items()}


def _gains(graph: Graph, squares: Mapping[str, Array], known: Mapping[str, ChannelRanges]) -> dict[str, Array]:
    """For each linear node, what an error of variance 1 in each output channel counts, relative to its numbers, (O,)."""
    behind = {node.name: np.zeros(graph.shapes[node.name][0]) for node in graph.nodes}
    for name in graph.outputs:
        behind[name] += 1.0
    gains = {}
    for node in reversed(graph.nodes):
        own = behind[node.name]
        if node.name in squares:
            weight = squares[node.name]
            alive = (known[node.name].high > 0.0) | (known[node.name].low < 0.0)
            size = float((own * alive * known[node.name].mean_square).sum())
            own = own * alive / size if math.isfinite(size) and size > SMALLEST else np.zeros(len(own))
            gains[node.name] = own
            taken = np.einsum("go,goi->gi", own.reshape(weight.shape[:2]), weight).reshape(-1)
            given = behind[node.inputs[0]]
            given[: len(taken)] += taken[: len(given)]
            continue
        start = 0
        for name in node.inputs:
            given = behind[name]
            if node.cell.output_channels == "joined":
                given += own[start : start + len(given)]
                start += len(given)
            elif len(own) % len(given) == 0 and node.cell.output_channels == "kept":
                given += own.reshape(len(given), -1).sum(axis=1)
            else:
                given += own.mean()
    return gains
