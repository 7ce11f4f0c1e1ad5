"""Rounding by moments: what a weight loses by its rounding is made up for by the weights after it (GPTQ's update)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from qat.analysis.ranges import Batches, in_steps
from qat.cells.chosen_codes import weight_grid, with_codes, with_kept_scale, with_least_error
from qat.cells.linear import LinearCell
from qat.errors import QatError
from qat.graph import Graph, Node, Params
from qat.training.forward import IDLE, NodeLoop
from qat.vocabulary.ops import Array, Ops

DAMPING = 1e-2  #: of the mean second moment, added to each; more where the moments are of few numbers
COLUMNS = 128  #: of weights between two updates of all that follow
MOST_INPUTS = 1 << 12  #: of a layer; with more the matrices would be slow and large, and it keeps the nearest codes
MOST_IMAGES = 128  #: that moments are found on
PLACES = 1 << 8  #: of an image


class Moments:
    """What layers take in the float network, by its second moments, and weights rounded by them.

    Nearest codes have the smallest error of the weights, but not of the outputs: inputs go together, most of all neighbouring
    pixels, and then errors of weights add up. With H the mean of x x^T over images and places in the float network, weights are
    rounded one after another, and those that follow change by -(w_j - q_j) / U_jj U_j, U the upper triangular matrix with
    U^T U = H^-1 (Frantar et al., arXiv 2210.17323, equations 2 and 3 and section 3.3). Each scale is that of the whole range
    of its weights or that which leaves them the smallest squared error, whichever changes what the layer gives less:
    e H e^T, e the error of an output's weights. Then the float weight is moved to the middle of its code
    (``qat.cells.chosen_codes``).

    Left alone are layers whose codes are not the nearest multiples of a scale, that are used more than once, that have more
    than 4,096 inputs an output, or whose input is not quantized, and cells that do not say what their outputs are sums of
    (``LinearCell.input_rows``).

    Args:
        graph: quantized.
        params: of it, whose weights are those of the float network.
        batches: of what the network takes; the first 128 images are used.
        ops: the vocabulary that computes.
    """

    def __init__(self, graph: Graph, params: Mapping[str, Array], batches: Batches, ops: Ops) -> None:
        self._loop = NodeLoop(graph, ops)
        uses = [node.cell_name for node in graph.nodes]
        self._layers = {
            node.name: node for node in graph.nodes if _may_choose(node) and uses.count(node.cell_name) == 1
        }
        self._one = tuple(x[:1] for x in next(iter(batches)))
        self._found: dict[str, Moment] = {}
        self._add(params, batches)

    def _add(self, params: Mapping[str, Array], batches: Batches) -> None:
        loop, seen = self._loop, 0
        context = loop.load(params, IDLE)
        for batch in batches:
            taken = tuple(x[: MOST_IMAGES - seen] for x in batch)
            if not len(taken[0]):
                break
            seen += len(taken[0])
            for node, values in in_steps(loop, context, loop.begin(loop.pixels(taken))):
                if node.name in self._layers:
                    (name,), cell = node.inputs, self._layers[node.name].cell
                    assert isinstance(cell, LinearCell)
                    x = loop.ops.to_numpy(values[name].real(loop.ops), "activation")
                    rows = cell.input_rows(x, loop.graph.shapes[name], PLACES)
                    if rows is not None and rows.shape[2] <= MOST_INPUTS:
                        self._found.setdefault(node.name, Moment()).add(rows)

    def rounded(self, params: Mapping[str, Array]) -> Params:
        """Parameters with ranges, their weights moved to the middle of the chosen codes.

        Args:
            params: as ``Moments`` has them, ranges known.
        """
        found = dict(params)
        scales = self._input_scales(params)
        for name in scales.keys() & self._found.keys():
            node = self._layers[name]
            try:
                chosen = with_moments(node.cell, node.own(params), scales[name], self._found[name])
            except QatError:  # its codes are not ours to choose
                continue
            found |= node.full(chosen)
        return found

    def _input_scales(self, params: Mapping[str, Array]) -> dict[str, float]:
        """Of the codes that each layer takes; layers that take none are left out."""
        loop, found = self._loop, {}
        context = loop.load(params, max(loop.graph.phase_starts))
        for node, values in in_steps(loop, context, loop.begin(loop.pixels(self._one))):
            if node.name in self._layers and values[node.inputs[0]].codes:
                scale: Any = values[node.inputs[0]].scale
                found[node.name] = float(loop.ops.to_numpy(scale, "scalar").reshape(()))
        return found


def compensated_codes(
    position: Array, free: Array, fixed: Array, first: Array, last: Array, moments: Array, damping: float = DAMPING
) -> Array:
    """Whole numbers near to weights, such that sum over inputs of (weight - code) x is small.

    Args:
        position: the weights in steps, float64 (groups, outputs, inputs).
        free: whether a weight's code may be chosen, likewise.
        fixed: the codes of the others.
        first: the smallest code of each.
        last: the largest one.
        moments: the mean of x x^T of each group, float64 (groups, inputs, inputs).
        damping: in shares of the mean of its diagonal, added to that.

    Returns:
        The codes, float64 (groups, outputs, inputs).

    >>> import numpy as np
    >>> position = np.array([[[0.4, 0.4, 0.4, 0.4]]])  # each rounds to 0
    >>> everything = np.ones((1, 4, 4))  # four inputs that are always alike: only the sum of codes counts, 1.6
    >>> one = np.ones_like(position)
    >>> compensated_codes(position, one > 0, 0 * one, -7 * one, 7 * one, everything).sum()
    2.0
    """
    inputs = position.shape[2]
    diagonal = np.trace(moments, axis1=1, axis2=2).reshape(-1, 1, 1) / inputs
    damped = np.where(diagonal > 0.0, moments + damping * diagonal * np.eye(inputs), np.eye(inputs))
    factor = np.swapaxes(
        np.linalg.cholesky(np.linalg.inv(damped)), 1, 2
    )  # upper: its transpose times it is the inverse
    left, codes = position.copy(), np.empty_like(position)
    for start in range(0, inputs, COLUMNS):
        stop = min(start + COLUMNS, inputs)
        errors = np.empty((*position.shape[:2], stop - start))
        for j in range(start, stop):
            nearest = np.clip(np.rint(left[:, :, j]), first[:, :, j], last[:, :, j])
            codes[:, :, j] = np.where(free[:, :, j], nearest, fixed[:, :, j])
            error = (left[:, :, j] - codes[:, :, j]) / factor[:, j, j, np.newaxis]
            left[:, :, j + 1 : stop] -= error[:, :, np.newaxis] * factor[:, np.newaxis, j, j + 1 : stop]
            errors[:, :, j - start] = error
        left[:, :, stop:] -= errors @ factor[:, start:stop, stop:]
    return codes


@dataclass
class Moment:
    """The sum of x x^T of each group over so many rows."""

    total: Array | float = 0.0
    rows: int = 0

    def add(self, rows: Array) -> None:
        """Count rows of what a layer takes, (groups, rows, inputs)."""
        self.total = self.total + (np.swapaxes(rows, 1, 2) @ rows).astype(np.float64)
        self.rows += rows.shape[1]


def _may_choose(node: Node) -> bool:
    cell = node.cell
    return isinstance(cell, LinearCell) and cell.weight_quantizer is not None and "weight" in cell.float_params()


def with_moments(cell: Any, own: Mapping[str, Array], scale: float, moment: Moment) -> dict[str, Array]:
    """A layer's parameters with codes that are chosen as ``Moments`` says.

    Args:
        cell: of a quantized graph.
        own: its parameters and state, canonical, by local name.
        scale: of the codes of its input.
        moment: of its input.

    Raises:
        QatError: its codes are not ours to choose.
    """
    whole = with_kept_scale(cell, own, scale)
    narrow = with_least_error(cell, whole, scale)
    codes, errors = _compensated(cell, whole, own["weight"], scale, moment)
    if any(not np.array_equal(narrow[name], whole[name]) for name in whole):
        other, less = _compensated(cell, narrow, own["weight"], scale, moment)
        better = less < errors
        if not cell.weight_quantizer.per_channel:  # one scale for all
            better = np.full(errors.shape, less.sum() < errors.sum())
        codes = np.where(_of_outputs(better, codes), other, codes)
        whole = {name: np.where(_of_outputs(better, array), narrow[name], array) for name, array in whole.items()}
    return with_codes(cell, whole, scale, codes)


def _compensated(cell: Any, own: dict[str, Array], weight: Array, scale: float, moment: Moment) -> tuple[Array, Array]:
    """Codes for a weight, on the grid of ``own``, and of each output the mean square of what they change it by, in float64."""
    grid = weight_grid(cell, own, scale)
    groups, inputs = np.shape(moment.total)[:2]
    wanted = np.divide(weight, grid.step, out=np.zeros(weight.shape), where=grid.step != 0.0)
    position, free, fixed, first, last, step = (
        np.reshape(x, (groups, -1, inputs)) for x in (wanted, grid.free, grid.codes, grid.first, grid.last, grid.step)
    )
    damping = DAMPING * (1.0 + inputs / moment.rows)
    mean = np.asarray(moment.total) / moment.rows
    codes = compensated_codes(position, free, fixed, first, last, mean, damping)
    off = (position - codes) * step
    return codes.reshape(grid.codes.shape), ((off @ mean) * off).sum(axis=2).reshape(-1)


def _of_outputs(chosen: Array, array: Array) -> Array:
    """One truth for each output, shaped to go with an array of as many rows; of another array the same for all."""
    return chosen.reshape(-1, *(1,) * (array.ndim - 1)) if len(array) == len(chosen) else chosen[:1]
