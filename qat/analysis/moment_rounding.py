"""Second-moment rounding: what one weight's rounding takes from a sum, the weights that are rounded after it give back."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from qat.analysis.ranges import Batches, in_steps
from qat.cells.base import Context, Scope
from qat.cells.linear import LinearCell, WeightedCell
from qat.cells.weight_codes import weight_grid, with_codes, with_kept_scale
from qat.errors import QatError
from qat.graph import Graph, Node, Params
from qat.training.forward import IDLE, NodeLoop
from qat.vocabulary.numpy_ops import NUMPY_OPS
from qat.vocabulary.ops import Array, Ops
from qat.vocabulary.values import Value

IMAGES = 64  #: whose moments are taken, at most
PLACES = 256  #: of an image, at most, chosen at random
MOST_INPUTS = 2048  #: of one output: the moments of a layer with more would take too much time and memory
DAMPING = 0.01  #: of the mean second moment, added to each, as in the source


def round_by_moments(
    graph: Graph, params: Mapping[str, Array], batches: Batches, held: Batches, ops: Ops
) -> tuple[Params, tuple[str, ...]]:
    """Parameters of a quantized graph whose weights lie in the middle of codes that are chosen for their layer's sums.

    The error of a layer's sums is d^T H d for each output, with d the errors of its weights and H = E[x x^T] the second moments
    of what it takes. Of the weights w of an output, in steps of their scale, one after another is rounded, and those after it
    make up for its error (Frantar et al., "GPTQ", arXiv 2210.17323, equations 2 and 3, in the Cholesky form of its section 3):

        q_j = rint(w_j),   w_k -= (w_j - q_j) U_jk / U_jj for k > j,   U^T U = (H + damping)^-1

    but each q_j is one of the two codes beside the weight that it began with. A layer keeps the codes only where d^T H d,
    summed over its outputs, is smaller with the moments of images that are held back. Scales stay as they are, and so do the
    weights of a cell that is used more than once, or whose quantizer does not round to the nearest multiple of a scale (as
    signs and powers of two).

    Args:
        graph: the quantized graph.
        params: its parameters, with ranges.
        batches: images whose moments are taken, the first ``IMAGES`` of them.
        held: those that are held back.
        ops: the vocabulary that computes.

    Returns:
        All parameters, the changed weights among them, and the names of the layers that changed.
    """
    loop, own = NodeLoop(graph, ops), dict(params)
    scales = _input_scales(loop, own, batches[0])
    uses = [node.cell_name for node in graph.nodes]
    moments = {
        node.name: Moments(node)
        for node in graph.nodes
        if isinstance(node.cell, WeightedCell)
        and node.name in scales
        and uses.count(node.cell_name) == 1
        and math.prod(node.cell.weight_shape[1:]) <= MOST_INPUTS
    }
    for each, known in ((batches, True), (held, False)):
        _observe(loop, own, each, moments, known)
    changed = []
    for name, found in moments.items():
        node = found.node
        local = {key: own[f"{node.cell_name}.{key}"] for key in node.cell.params()}
        try:
            moved = _rounded(found, local, scales[name])
        except QatError:  # its quantizer has no such codes
            continue
        if moved is not None:
            own |= {f"{node.cell_name}.{key}": array for key, array in moved.items()}
            changed.append(name)
    return own, tuple(changed)


@dataclass(eq=False)
class Moments:
    """Sums of x x^T over places and images, with x what one output of a layer is a sum over.

    Args:
        node: of the layer.

    Attributes:
        known: of the images that codes are chosen by, float64, (groups, inputs, inputs).
        held: of those that are held back.
    """

    node: Node
    known: Array = field(default_factory=lambda: np.zeros(()))
    held: Array = field(default_factory=lambda: np.zeros(()))

    def add(self, ops: Ops, x: Value, shape: tuple[int, ...], *, known: bool) -> None:
        """Count what the layer takes; shape: of one sample of it."""
        rows = _taken(ops, self.node.cell, x, shape)
        product = np.matmul(rows, rows.transpose(0, 2, 1)).astype(np.float64)
        if known:
            self.known = self.known + product
        else:
            self.held = self.held + product


def _taken(ops: Ops, cell: Any, x: Value, shape: tuple[int, ...]) -> Array:
    """Of a sample, at up to ``PLACES`` places, the numbers that an output is a sum over, float32, (groups, inputs, places).

    They are what the cell itself gives where its weights are an identity matrix.
    """
    groups, inputs = getattr(cell, "group", 1), math.prod(cell.weight_shape[1:])
    probe = replace(
        cell,
        out_channels=groups * inputs,
        has_bias=False,
        has_bn=False,
        activation=None,
        weight_quantizer=None,
        bn_fold=None,
        pruner=None,
    )
    identity = np.tile(np.eye(inputs, dtype=np.float32), (groups, 1)).reshape(probe.weight_shape)
    kind = probe.params()["weight"].kind
    weights = {"weight": ops.from_numpy(probe.as_stored(identity), kind)}
    context = Context(ops, weights, training=False, phase=IDLE, updates={})
    y = probe.forward(Scope(context, "", ("weight",), (shape,)), x).real(ops)
    rows = ops.to_numpy(y, "activation").reshape(len(x.data), groups, inputs, -1)
    if rows.shape[-1] > PLACES:
        rows = rows[..., np.random.default_rng(0).permutation(rows.shape[-1])[:PLACES]]
    found: Array = np.moveaxis(rows, 0, 2).reshape(groups, inputs, -1)
    return found


def _observe(
    loop: NodeLoop, params: Params, batches: Iterable[tuple[Array, ...]], moments: Mapping[str, Moments], known: bool
) -> None:
    """Add the moments of up to ``IMAGES`` images in the float network."""
    context, count = loop.load(params, IDLE), 0
    for batch in batches:
        begun = loop.begin(loop.pixels(tuple(x[: IMAGES - count] for x in batch)))
        count += len(batch[0])
        for node, values in in_steps(loop, context, begun):
            found = moments.get(node.name)
            if found is not None:
                (name,) = node.inputs
                x = values[name].settled(loop.ops)
                for row in range(len(x.data)):  # the probe's output may be many times as large as the cell's
                    one = x.with_data(x.data[row : row + 1])
                    found.add(loop.ops, one, loop.graph.shapes[name], known=known)
        if count >= IMAGES:
            break


def _input_scales(loop: NodeLoop, params: Params, batch: tuple[Array, ...]) -> dict[str, float]:
    """Of each linear cell that takes codes their scale."""
    context, scales = loop.load(params, max(loop.graph.phase_starts)), {}
    values = loop.begin(loop.pixels(tuple(x[:1] for x in batch)))
    for step in loop.steps:
        if isinstance(step.node.cell, LinearCell):
            x = values[step.node.inputs[0]]
            if x.codes:
                scales[step.node.name] = float(loop.ops.to_numpy(x.scale, "scalar").reshape(-1)[0])
        loop.advance(step, context, values)
    return scales


def _rounded(moments: Moments, params: dict[str, Array], scale: float) -> dict[str, Array] | None:
    """A layer's parameters with other codes, by local name; None where the nearest ones are better."""
    cell: Any = moments.node.cell
    own = with_kept_scale(cell, params, scale)
    grid = weight_grid(cell, own, scale)
    groups, inputs = moments.known.shape[:2]
    position, nearest, free = (
        cell.outputs_first(NUMPY_OPS, x).reshape(groups, -1, inputs) for x in (grid.position, grid.codes, grid.free)
    )
    codes = _codes(position, nearest, free, moments.known)
    if _error(codes - position, moments.held) >= _error(nearest - position, moments.held):
        return None
    return with_codes(cell, own, scale, cell.as_stored(codes.astype(np.float32).reshape(cell.weight_shape)))


def _codes(position: Array, nearest: Array, free: Array, moments: Array) -> Array:
    """The formula of ``round_by_moments``.

    Args:
        position: the weights in steps, (groups, outputs, inputs).
        nearest: their nearest codes.
        free: whether another one may be taken.
        moments: H times the number of samples, (groups, inputs, inputs).
    """
    inputs = moments.shape[1]
    mean = np.trace(moments, axis1=1, axis2=2) / inputs
    damping = DAMPING * np.where(mean > 0.0, mean, 1.0)[:, None, None] * np.eye(inputs)
    upper = np.linalg.cholesky(np.linalg.inv(moments + damping)).transpose(0, 2, 1)
    wanted, down = position.copy(), np.floor(position)
    codes = np.empty_like(position)
    for j in range(inputs):
        rounded = np.clip(np.rint(wanted[:, :, j]), down[:, :, j], down[:, :, j] + 1.0)
        codes[:, :, j] = np.where(free[:, :, j], rounded, nearest[:, :, j])
        off = (wanted[:, :, j] - codes[:, :, j]) / upper[:, None, j, j]
        wanted[:, :, j + 1 :] -= off[:, :, None] * upper[:, None, j, j + 1 :]
    return codes


def _error(off: Array, moments: Array) -> float:
    """d^T H d, summed over outputs. off: d, (groups, outputs, inputs)."""
    return float(np.einsum("goi,gij,goj->", off, moments, off, optimize=True))
