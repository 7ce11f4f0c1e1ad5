"""Equalization: let the channels of weights and of activations be of like size, by factors that cancel."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from qat.graph import Graph, Node, Params
from qat.passes.channel_noise import ChannelNoise, ChannelRanges, Layer, Rounded, Weight
from qat.passes.rescale_channels import ScaledChannels, absorbs, by_input, folded_weight, rescale_channels
from qat.vocabulary.ops import Array

MOST_ROUNDS = 100
CONVERGED = 1e-3  #: of log2 of a channel's factor
DEAD = 2.0**-12  #: of the largest channel; a smaller one only carries its bias, which would grow without bound
LARGEST = 1.0 / DEAD  #: factor
SIGMAS = 10.0  #: batch normalisation is taken to let a channel reach beta + SIGMAS |gamma|
SHARES = (0.25, 0.5, 0.75, 1.0)  #: of a channel's distance to the largest one that are tried
NOISE_ROUNDS = 5
REFINED = 6  #: times that the best factors for given steps are computed, which move the steps
BETTER = 0.99  #: of the error that factors have to leave at most, to be taken


class Equalized(NamedTuple):
    """Parameters whose channels are equalized.

    Attributes:
        params: float32 by full name.
        factors: by which each node's output channels were multiplied, float64 (C,), by name.
    """

    params: Params
    factors: Mapping[str, Array]


def equalize_channels(graph: Graph, params: Mapping[str, Array]) -> Params:
    """New parameters of the same float function whose weights lose less in quantization: cross-layer equalization.

    Channel i of an activation is multiplied by s_i > 0 in the weights that make it, and divided by it in those that take it
    (``rescale_channels``). With r1_i the largest max|w| of output channel i over the weights that make it, batch normalisation
    folded in, and r2_i that of input channel i over the weights that take it, s_i = sqrt(r2_i / r1_i), group by group of
    channels (``ScaledChannels``) until nothing moves: Nagel et al., arXiv 1906.04721, section 4.1, equations 9 to 11, there for
    one weight on either side. It helps weights of one scale for all channels (per_channel=False) most.

    The factor goes through everything for which f(s x) = s f(x): ReLU, leaky ReLU, PReLU, poolings, flattenings, padding with
    0; additions, all of whose terms have the same s_i; concatenations. A depthwise convolution or a batch normalisation takes
    one factor and gives another. It is 1 at the network's inputs and outputs, and beside functions that do not keep it, as hard
    swish, softmax and layer normalisation, and ReLU6, of whose bound more has to be known. A channel without weights is left
    alone.

    Args:
        graph: a float network, or a quantized one whose ranges are to be found anew.
        params: its parameters by full name.
    """
    return equalize_weights(graph, params).params


def equalize_weights(graph: Graph, params: Mapping[str, Array]) -> Equalized:
    """``equalize_channels`` with its factors."""
    channels = ScaledChannels(graph)
    factors = _balanced(graph, params, channels, _limits(graph, params, channels, {}, None))
    return _rescaled(graph, params, channels, factors)


def equalize_activations(
    graph: Graph, params: Mapping[str, Array], ranges: Mapping[str, ChannelRanges], margin: float | None = None
) -> Equalized:
    """New parameters of the same float function, of which rounding activations and weights loses less.

    As ``equalize_channels``, with other factors: for each group of channels those with which the error that rounding causes in
    the layers' outputs (``ChannelNoise``) is the smallest. Tried are

    1. none;
    2. the channel's distance to the largest one to the power of 1/4, 1/2, 3/4 or 1, which lets activations have like ranges
       (Meller et al., arXiv 1902.01917, section 4; the power is the migration strength of Xiao et al., arXiv 2211.10438,
       equation 4);
    3. the balance of weights of ``equalize_channels``;
    4. from three of these, the factors at which the error is stationary for given steps.

    With a scale for each output channel the weights before take up any factor without loss, as do depthwise ones behind.

    ReLU6 keeps a factor up to its bound, and stays an ordinary ReLU6. With a margin, a channel gets one if it did not reach 6:
    it is taken to reach ``margin`` times as far as measured, and beta + 10 |gamma| of its batch normalisation, and no factor
    moves that beyond 6. What is kept then is the function of all images on which no such channel reaches farther; on others
    that channel is clipped at another number. A channel that did reach 6 stays.

    Args:
        graph: the quantized network, whose quantizers say what is rounded how; their ranges are to be found anew.
        params: its parameters by full name.
        ranges: of the float numbers of each node, by name, from some images; those of fake quantizers may be missing.
        margin: at least 1; None: channels of a ReLU6 stay as they are, and the function is kept for all inputs.

    Returns:
        The parameters and the factors.
    """
    channels = ScaledChannels(graph)
    noise = ChannelNoise(graph, params, channels, ranges)
    limits = _limits(graph, params, channels, ranges, margin)
    limits = np.where(noise.alive(channels.groups, DEAD), limits, 0.0)
    starts = (np.ones(channels.count), _balanced(graph, params, channels, limits))
    found = [_quietest(noise, start, channels, limits) for start in starts]
    factors = min(found, key=lambda each: noise.error(each, noise.layers))
    return _rescaled(graph, params, channels, factors)


def _rescaled(graph: Graph, params: Mapping[str, Array], channels: ScaledChannels, factors: Array) -> Equalized:
    changed = rescale_channels(graph, params, channels, factors)
    return Equalized(changed, {name: factors[own] for name, own in channels.of.items()})


def _limits(
    graph: Graph,
    params: Mapping[str, Array],
    channels: ScaledChannels,
    ranges: Mapping[str, ChannelRanges],
    margin: float | None,
) -> Array:
    """The largest factor of each channel, (count,); 0 where it has to be 1."""
    largest = np.where(channels.free, LARGEST, 0.0)
    for node in graph.nodes:
        bound = node.cell.bound
        if not np.isfinite(bound):
            continue
        room = np.zeros(len(channels.of[node.name]))
        if margin is not None:
            high = np.maximum(ranges[node.name].high, 0.0)
            reach = np.maximum(margin * high, _statistical_reach(node, params))
            room = np.where((high < bound) & (reach < bound), bound / np.maximum(reach, bound / LARGEST), 0.0)
        np.minimum.at(largest, channels.of[node.name], room)
    return largest


def _statistical_reach(node: Node, params: Mapping[str, Array]) -> Array | float:
    """How far batch normalisation is taken to let a node's channels reach, (C,); 0 where it has none."""
    if not absorbs(node) or not node.cell.has_bn:  # type: ignore[attr-defined]
        return 0.0
    gamma, beta = (params[f"{node.cell_name}.{local}"].astype(np.float64) for local in ("gamma", "beta"))
    reach: Array = beta + SIGMAS * np.abs(gamma)
    return reach


def _balanced(graph: Graph, params: Mapping[str, Array], channels: ScaledChannels, limits: Array) -> Array:
    """Factors with which the weights before and behind each channel are equally large."""
    factors = np.ones(channels.count)
    makers = [node for node in graph.nodes if absorbs(node)]
    weights = [Weight.of(node, by_input(node.cell, folded_weight(node, params)), channels) for node in makers]
    beside = [
        [w for w in weights if np.isin(w.outputs, g).any() or np.isin(w.inputs, g).any()] for g in channels.groups
    ]
    for _ in range(MOST_ROUNDS):
        moved = 0.0
        for group, own in zip(channels.groups, beside, strict=True):
            new = _balance(group, own, factors, limits)
            moved = max(moved, float(np.abs(np.log2(new[group] / factors[group])).max(initial=0.0)))
            factors = new
        if moved < CONVERGED:
            break
    return factors


def _balance(group: Array, weights: Sequence[Weight], factors: Array, limits: Array) -> Array:
    """The factors with those of a group changed so that its weights are balanced."""
    before, behind = np.zeros(len(factors)), np.zeros(len(factors))
    for weight in weights:
        scaled = weight.scaled(factors)
        np.maximum.at(before, weight.outputs, scaled.max(axis=2).reshape(-1))
        np.maximum.at(behind, weight.inputs, scaled.max(axis=1).reshape(-1))
    r1, r2 = before[group], behind[group]
    alive = (r1 > DEAD * r1.max()) & (r2 > DEAD * r2.max())
    wanted = factors[group] * np.sqrt(np.divide(r2, r1, out=np.ones(len(group)), where=alive))
    return _changed(factors, group, wanted, limits)


def _changed(factors: Array, group: Array, wanted: Array, limits: Array) -> Array:
    """The factors with those of a group changed, as far as they may."""
    new = factors.copy()
    new[group] = np.where(limits[group] > 0.0, np.minimum(wanted, limits[group]), 1.0)
    return new


def _quietest(noise: ChannelNoise, start: Array, channels: ScaledChannels, limits: Array) -> Array:
    """Factors with the smallest error that changing them group by group finds."""
    factors = start
    groups = [(group, *noise.touched(group)) for group in channels.groups if (limits[group] > 0.0).any()]
    for _ in range(NOISE_ROUNDS):
        moved = False
        for group, layers, grids in groups:
            limit = BETTER * noise.error(factors, layers)
            tried = _candidates(noise, group, layers, grids, factors, limits)
            error, best = min(((noise.error(each, layers), each) for each in tried), key=lambda pair: pair[0])
            if error < limit:
                factors, moved = best, True
        if not moved:
            break
    return factors


def _candidates(
    noise: ChannelNoise,
    group: Array,
    layers: Sequence[Layer],
    grids: Sequence[Rounded],
    factors: Array,
    limits: Array,
) -> Iterator[Array]:
    """Factors that may be better: those of the docstring's second point, for one group."""
    none = _changed(factors, group, np.ones(len(group)), limits)
    room = np.full(len(factors), LARGEST)
    for grid in grids:
        np.minimum.at(room, grid.factors, np.maximum(grid.room(none), 1.0))
    yield none
    for share in SHARES:
        yield _changed(factors, group, room[group] ** share, limits)
    yield _balance(group, layers, none, limits)
    for share in (0.0, 0.5, 1.0):
        found = _changed(factors, group, room[group] ** share, limits)
        for _ in range(REFINED):
            wanted = np.minimum(noise.stationary(group, layers, found), room[group])
            found = _changed(factors, group, np.sqrt(found[group] * wanted), limits)
            yield found
