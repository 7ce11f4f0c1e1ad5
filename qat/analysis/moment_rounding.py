"""Rounding by moments: the codes of weights are chosen by what goes into their layer, in both networks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from qat.analysis.compensation import Compensation, damped
from qat.analysis.paused_pass import PausedPass, code_ends
from qat.analysis.ranges import Batches
from qat.cells.chosen_codes import narrowing, weight_grid, with_codes, with_kept_scale
from qat.cells.linear import LinearCell
from qat.errors import QatError
from qat.graph import Graph, Node, Params
from qat.training.forward import IDLE, NodeLoop
from qat.vocabulary.ops import Array, Ops
from qat.vocabulary.param import Shape
from qat.vocabulary.rows import watched
from qat.vocabulary.values import Value

CAUTIONS = (0.03, 0.1, 0.3, 1.0, 3.0)  #: c, in shares of the mean second moment, that are tried
SHARES = tuple(share / 20 for share in range(20, 9, -1))  #: of a range, that are tried: 1.0, 0.95 to 0.5
DAMPINGS = (1.0, 0.1, 0.01)  #: of moments, that are tried
OUTPUTS = 64  #: of a layer, that these are tried on
MOST_INPUTS = 1 << 12  #: of a layer; with more the matrices would be slow and large, and it keeps the nearest codes
MOST_IMAGES = 1 << 10  #: that moments are found on
ROWS = 1 << 16  #: of all images together: of many images few places of each are taken
MOST_NUMBERS = 1 << 26  #: in rows at a time, where they are of several images
WAITING_BYTES = 1 << 30  #: of activations of both networks; of more images the first ones are taken


def rounded_by_moments(graph: Graph, params: Mapping[str, Array], batches: Batches, ops: Ops) -> Params:
    """Choose the codes of all weights so that layers give what they give in the float network.

    Nearest codes have the smallest error of the weights, but not of the outputs: inputs go together, most of all neighbouring
    pixels, and then errors of weights add up. Layer after layer, with x what it takes in the float network and x' what it takes
    in the quantized one, whose earlier layers have their codes already, weights W' are found in three steps:

    1. What is lost before the layer is made up for: W' = W + W E[(x - x') x'^T] (H + c I)^-1, with H = E[x' x'^T] over images
       and places, minimises E|W x - W' x'|^2 + c |W' - W|^2 (after Li et al., arXiv 2504.02692, who have no c). Of several c,
       shares of the mean of H's diagonal, that is taken with which weights of one half of the images make the error of the
       other half smallest, and W' = W where none makes it smaller.
    2. Weights are rounded one after another, that with the largest moment first, and those that follow change by
       -(w_j - q_j) / U_jj U_j, U the upper triangular matrix with U^T U = H^-1 (Frantar et al., arXiv 2210.17323, equations 2
       and 3 and section 3.3). To H's diagonal a share of its mean is added, that of ``DAMPINGS`` with which the codes that one
       half of the images choose change the other half's outputs least.

    3. Each code is chosen once more, given all others, until none changes (Behdin et al., arXiv 2309.01885): the second step
       leaves what the last weights lose to nobody.

    Each scale is that of the share of its weights' range, from all to a half, with which the second step changes the layer's
    outputs least: e H e^T, e the error of an output's weights. Then the float weight is moved to the middle of its code
    (``qat.cells.chosen_codes``).

    Left alone are layers whose codes are not the nearest multiples of a scale, that are used more than once, that have more
    than 4,096 inputs an output, or whose input is not quantized, and cells that do not say what their outputs are sums of
    (``LinearCell.input_rows``).

    Args:
        graph: quantized.
        params: of it, ranges known; the weights are those of the float network.
        batches: of what the network takes; the first 1,024 images are used, fewer where 1 GiB would not hold their activations.
        ops: the vocabulary that computes.

    Returns:
        The parameters, weights moved to the middle of the chosen codes.
    """
    loop, own = NodeLoop(graph, ops), dict(params)
    places = [
        at
        for at, step in enumerate(loop.steps)
        if _may_choose(step.node) and step.node.cell_name not in graph.shared_cells
    ]
    some = _first(batches, _images_that_wait(loop))
    quantizing = loop.load(own, max(graph.phase_starts))
    tensors = dict(quantizing.params)
    real = PausedPass(loop, loop.load(own, IDLE), some)
    coded = PausedPass(loop, replace(quantizing, params=tensors), some, code_ends(graph, own))
    count = sum(len(batch[0]) for batch in some)
    for place in watched(places, len(places) * count, lambda _: count, f"{graph.name}, rounding"):
        node = loop.steps[place].node
        cell: Any = node.cell
        (name,), moment = node.inputs, Moment()
        for x, taken in zip(real.until(place), coded.until(place), strict=True):
            moment.add_inputs(node, graph.shapes[name], (x[name], taken[name]), places_of(count), ops)
        if not moment.rows:
            continue
        try:
            chosen = node.full(with_moments(cell, node.own(own), moment))
        except QatError:  # its codes are not ours to choose
            continue
        own |= chosen
        tensors.update({key: ops.from_numpy(own[key], graph.params[key].kind) for key in chosen})
    return own


def _first(batches: Batches, most: int) -> list[tuple[Array, ...]]:
    """The first images, in batches."""
    found: list[tuple[Array, ...]] = []
    left = most
    for batch in batches:
        found.append(tuple(x[:left] for x in batch))
        left -= len(found[-1][0])
        if left <= 0:
            break
    return found


def places_of(images: int) -> int:
    """How many places of each image are enough."""
    return -(-ROWS // images)


def _images_that_wait(loop: NodeLoop) -> int:
    """How many images' activations, float32 and codes of one byte, there is memory for."""
    waiting, most = {node.name for node in loop.graph.inputs}, 1
    for step, ended in zip(loop.steps, loop.last_uses, strict=True):
        waiting.add(step.node.name)
        most = max(most, sum(math.prod(loop.graph.shapes[name]) for name in waiting))
        waiting.difference_update(ended)
    return max(1, min(MOST_IMAGES, WAITING_BYTES // (5 * most)))


@dataclass
class Sums:
    """Over rows of what a layer takes.

    Attributes:
        taken: x' x'^T, x' in the quantized network; float64 (groups, inputs, inputs).
        missing: x' (x - x')^T, x in the float network, likewise.
    """

    taken: Array = field(default_factory=lambda: np.zeros(()))
    missing: Array = field(default_factory=lambda: np.zeros(()))

    def add(self, real: Array, coded: Array) -> None:
        """Count rows of both networks, (groups, rows, inputs)."""
        transposed = np.swapaxes(coded, 1, 2)
        self.taken = self.taken + (transposed @ coded).astype(np.float64)
        self.missing = self.missing + (transposed @ (real - coded)).astype(np.float64)


@dataclass
class Moment:
    """What a layer takes in both networks, by sums over rows of each group.

    Attributes:
        parts: the sums over the rows of one half of the images and of the other.
        rows: how many there are; 0: the layer takes no codes, or does not say what its outputs are sums of.
        scale: of the codes that it takes.
    """

    parts: tuple[Sums, Sums] = field(default_factory=lambda: (Sums(), Sums()))
    rows: int = 0
    scale: float = 1.0
    _odd: bool = False

    @property
    def all(self) -> Sums:
        """The sums over all rows."""
        one, other = self.parts
        return Sums(one.taken + other.taken, one.missing + other.missing)

    def add(self, real: Array, coded: Array, samples: int) -> None:
        """Count what a layer takes in the float network and in the quantized one.

        Args:
            real: rows, (groups, rows, inputs), as many of each sample.
            coded: likewise.
            samples: how many there are.
        """
        cut = (samples + self._odd) // 2 * (coded.shape[1] // samples)  # of single ones every other
        for part, which in zip(self.parts, (slice(None, cut), slice(cut, None)), strict=True):
            part.add(real[:, which], coded[:, which])
        self.rows += coded.shape[1]
        self._odd = not self._odd

    def add_inputs(self, node: Node, shape: Shape, values: tuple[Value, Value], places: int, ops: Ops) -> None:
        """Count what a node takes.

        Args:
            node: the layer.
            shape: of one sample that it takes.
            values: of some images in the float network, and of the same ones in the quantized network.
            places: of each image, about at most.
            ops: the vocabulary that computed them.
        """
        cell: Any = node.cell
        coded, inputs = values[1], math.prod(cell.weight_shape[1:])
        if not coded.codes or inputs > MOST_INPUTS:
            return
        scale: Any = coded.scale
        self.scale = float(ops.to_numpy(scale, "scalar").reshape(()))
        # In steps, but for a factor below 2, so that float32 holds the squares; a power of two changes no codes.
        unit = np.float32(math.ldexp(1.0, -math.frexp(self.scale)[1]))
        real, taken = (ops.to_numpy(x.real(ops), "activation") * unit for x in values)
        size = max(1, MOST_NUMBERS // (inputs * min(places, math.prod(cell.output_shape(shape)[1:]))))
        for at in range(0, len(taken), size):
            some = real[at : at + size], taken[at : at + size]
            of_real, of_taken = (cell.input_rows(x, shape, places) for x in some)
            if of_real is not None:
                self.add(of_real, of_taken, len(some[0]))


def _may_choose(node: Node) -> bool:
    cell = node.cell
    return isinstance(cell, LinearCell) and cell.weight_quantizer is not None and "weight" in cell.float_params()


def with_moments(cell: LinearCell, own: Mapping[str, Array], moment: Moment) -> dict[str, Array]:
    """A layer's parameters with codes that are chosen as ``rounded_by_moments`` says.

    Args:
        cell: of a quantized graph.
        own: its parameters and state, canonical, by local name; the weight is that of the float network.
        moment: of its input.

    Raises:
        QatError: its codes are not ours to choose.
    """
    found = compensated(cell, own, moment)
    return with_codes(cell, found.params, moment.scale, found.codes)


def made_up_for(weight: Array, moment: Moment) -> Array:
    """What is added to weights so that they make up for what is lost before the layer, as ``rounded_by_moments`` says.

    Args:
        weight: float64 (groups, outputs, inputs).
        moment: of the layer's input.

    Returns:
        W' - W, likewise.
    """
    one, other = (_Lost.of(weight, sums) for sums in moment.parts)
    gains = [other.gain(one.added(caution)) + one.gain(other.added(caution)) for caution in CAUTIONS]
    if not np.max(gains) > 0.0:  # nor where they are no numbers
        return np.zeros(weight.shape)
    return _Lost.of(weight, moment.all).added(CAUTIONS[int(np.argmax(gains))])


class _Lost(NamedTuple):
    """What is lost before a layer, on some images.

    Attributes:
        taken: the sum of x' x'^T, x' what the layer takes in the quantized network (groups, inputs, inputs).
        lost: that of W (x - x') x'^T (groups, outputs, inputs).
    """

    taken: Array
    lost: Array

    @classmethod
    def of(cls, weight: Array, sums: Sums) -> _Lost:
        return cls(sums.taken, weight @ np.swapaxes(sums.missing, 1, 2))

    def added(self, caution: float) -> Array:
        """W' - W."""
        return np.swapaxes(np.linalg.solve(damped(self.taken, caution), np.swapaxes(self.lost, 1, 2)), 1, 2)

    def gain(self, added: Array) -> float:
        """By how much the outputs' squared error falls with W + added."""
        return float((2.0 * added * self.lost - (added @ self.taken) * added).sum())


class Compensated(NamedTuple):
    """A layer whose codes are chosen, before its weight is moved.

    Attributes:
        params: by local name; the ranges are those that the codes belong to.
        codes: shaped as the stored weight.
        position: what was rounded, in steps, likewise.
    """

    params: dict[str, Array]
    codes: Array
    position: Array


def compensated(cell: LinearCell, own: Mapping[str, Array], moment: Moment) -> Compensated:
    """The codes that ``with_moments`` moves the weight to. Args and Raises: as there."""
    quantizer: Any = cell.weight_quantizer
    mean = moment.all.taken / moment.rows
    groups, inputs = mean.shape[:2]

    def in_steps(params: Mapping[str, Array], made_up: Any) -> tuple[tuple[Array, ...], Array]:
        """What ``Compensation.codes`` takes with the ranges of these parameters, and the scales."""
        grid = weight_grid(cell, params, moment.scale)
        wanted = np.divide(own["weight"], grid.step, out=np.zeros(grid.step.shape), where=grid.step != 0.0)
        position, free, fixed, first, last, scale = (
            np.reshape(x, (groups, -1, inputs))
            for x in (wanted, grid.free, grid.codes, grid.first, grid.last, grid.scale)
        )
        return (position + made_up / scale, free, fixed, first, last), scale

    best = whole = with_kept_scale(cell, own, moment.scale)
    narrowed = narrowing(cell, whole, moment.scale)
    (position, *_), scale = in_steps(whole, 0.0)
    made_up, least = made_up_for(position * scale, moment), np.empty(0)
    compensation = Compensation(mean, steadiest(*in_steps(whole, made_up), moment))
    for share in SHARES:
        params = whole if share == 1.0 else narrowed(share)
        weights, scale = in_steps(params, made_up)
        off = (weights[0] - compensation.codes(*weights).codes) * scale
        errors = ((off @ mean) * off).sum(axis=2).reshape(-1)
        if share == 1.0:
            least = errors
            continue
        better = errors < least
        if not quantizer.per_channel:  # one scale for all
            better = np.full(errors.shape, errors.sum() < least.sum())
        least = np.where(better, errors, least)
        best = {name: np.where(_of_outputs(better, array), params[name], array) for name, array in best.items()}
    weights, _ = in_steps(best, made_up)
    rounded = compensation.chosen(*weights)
    return Compensated(best, *(x.reshape(own["weight"].shape) for x in rounded))


def steadiest(weights: tuple[Array, ...], scale: Array, moment: Moment) -> float:
    """The damping with which codes that are chosen by one half of the images change the other half's outputs least.

    Args:
        weights: as ``Compensation.codes`` takes them.
        scale: of each weight.
        moment: of the layer's input.

    Returns:
        One of ``DAMPINGS``; the largest where the halves do not tell.
    """
    which = np.unique(np.linspace(0, scale.shape[1] - 1, OUTPUTS).astype(np.int64))
    some, scale = tuple(x[:, which] for x in weights), scale[:, which]
    errors = dict.fromkeys(DAMPINGS, 0.0)
    for here, there in (moment.parts, moment.parts[::-1]):
        for damping in DAMPINGS:
            off = (some[0] - Compensation(here.taken, damping).chosen(*some).codes) * scale
            errors[damping] += float(((off @ there.taken) * off).sum())
    return min(DAMPINGS, key=lambda damping: errors[damping])


def _of_outputs(chosen: Array, array: Array) -> Array:
    """One truth for each output, shaped to go with an array of as many rows; of another one, as a single scale, the first."""
    per_output = array.ndim > 0 and len(array) == len(chosen)
    return chosen.reshape(-1, *(1,) * (array.ndim - 1)) if per_output else chosen[0]
