"""Statistics of batch normalisation estimated anew, with all weights fixed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from qat.cells.base import Cell, Context
from qat.cells.linear import LinearCell
from qat.cells.normalization import STATISTICS
from qat.cells.weight_codes import OF_QUANTIZER
from qat.data import Split
from qat.errors import QatError
from qat.graph import Graph, Params
from qat.passes.delays import with_delays
from qat.registry import evaluation_ops
from qat.tables import counted
from qat.training.checkpoint import Checkpoint
from qat.training.forward import NodeLoop
from qat.vocabulary.arrays import Arrays, as_tuple, batches_of
from qat.vocabulary.ops import Array, Ops

ROUNDS_FOLDED = 2  #: where weights of one scale are folded by the statistics before they are quantized


def reestimate_batch_norm(
    checkpoint: Checkpoint, images: Arrays, *, batch_size: int = 128, ops: Ops | None = None
) -> Checkpoint:
    """Estimate the running statistics of all batch normalisations anew, with weights, scales and ranges fixed.

    At few bits a small step of a weight changes its code, and with it the statistics, which running averages follow too
    slowly; those of oscillating weights are never right (Nagel et al., arXiv 2203.11086, section 2.2). So the network runs
    over some images as in training: each batch is normalised by its own mean and variance. Over all of them, of n_i images
    each with N together, mean = sum n_i mean_i / N and variance = sum n_i (variance_i + mean_i^2) / N - mean^2, in float64:
    of the first batch normalisation exactly those of all images.

    Where normalisation is folded into weights before they are quantized (``LinearCell``), the weights depend on the
    statistics. Where each output has a scale, it goes along, so that all codes stay; learned scales are changed for that. One
    scale for all outputs cannot, and codes change: there it runs twice, the second time with codes by the first result. What
    is deployed follows from the statistics that are returned, as ever, so that training, evaluation and files agree.

    Args:
        checkpoint: a trained network, quantized or float.
        images: uint8 (N, C, H, W), or what the network takes, a tuple of arrays for several inputs; take training images, a
            few thousand.
        batch_size: images at a time, at most; 128 by default. They are divided into batches of almost equal size.
        ops: the vocabulary that computes, as ``qat.registry.evaluation_ops("keras")``; None: of the first backend that is
            installed, without any NumPy's. The statistics depend on it in the last bits.

    Returns:
        The checkpoint with other statistics, and with learned scales that fit them.

    Raises:
        QatError: for a network without batch normalisation, fewer than two images, and images that it does not take.

    >>> import numpy as np, qat
    >>> from qat.vocabulary.numpy_ops import NUMPY_OPS
    >>> class Small(qat.Network):
    ...     inputs = qat.Input((1, 4, 4))
    ...     def __init__(self):
    ...         self.norm = qat.BatchNorm(1)
    ...     def construct(self, x):
    ...         return self.norm(x)
    >>> images = np.arange(160, dtype=np.uint8).reshape(10, 1, 4, 4)
    >>> start = qat.Checkpoint(Small().graph(), Small().graph().initial_params())
    >>> end = qat.reestimate_batch_norm(start, images, ops=NUMPY_OPS)
    >>> [round(float(end.params[f"norm.moving_{name}"][0] * 255**n), 2) for n, name in ((1, "mean"), (2, "variance"))]
    [79.5, 2133.25]
    """
    graph = checkpoint.graph
    cells: dict[str, Any] = {node.cell_name: node.cell for node in graph.nodes if _normalises(node.cell)}
    count = len(as_tuple(images)[0])
    check_reestimation(graph, max(count, 1), count)
    parts = -(-count // max(2, batch_size))
    batches = batches_of(images, graph.input_specs, -(-count // parts), graph.name)
    folded = {
        name: cell for name, cell in cells.items() if cell.bn_fold is not None and cell.weight_quantizer is not None
    }
    moves = any(not cell.weight_quantizer.per_channel for cell in folded.values())
    loop = NodeLoop(_fixed(graph), evaluation_ops() if ops is None else ops)
    params = dict(checkpoint.params)
    for _ in range(ROUNDS_FOLDED if moves else 1):
        found = _statistics(loop, params, batches, list(cells))
        for name, cell in folded.items():
            old, new = (np.sqrt(x[f"{name}.{STATISTICS[1]}"] + np.float32(cell.eps)) for x in (params, found))
            prefix = f"{name}.{OF_QUANTIZER}"
            own = {each.removeprefix(prefix): array for each, array in params.items() if each.startswith(prefix)}
            found |= {f"{prefix}{local}": a for local, a in cell.weight_quantizer.rescaled(own, old / new).items()}
        params |= found
    return replace(checkpoint, params=params)


def _statistics(loop: NodeLoop, params: Params, batches: Any, cells: list[str]) -> Params:
    """One pass over all batches: the statistics by full name."""
    sums = {name: np.zeros((3, *params[f"{name}.{STATISTICS[0]}"].shape)) for name in cells}
    evaluating = loop.load(params, 0)
    learning = replace(evaluating, training=True)
    for batch in batches:
        for name, mean, variance in _found(loop, evaluating, learning, batch):
            n = len(batch[0])
            sums[name] += (np.full_like(mean, n), n * mean, n * (variance + mean * mean))
    found: Params = {}
    for name, (n, first, second) in sums.items():
        mean = first / n
        variance = np.maximum(second / n - mean * mean, 0.0)
        found |= {
            f"{name}.{local}": a.astype(np.float32) for local, a in zip(STATISTICS, (mean, variance), strict=True)
        }
    return found


def _found(
    loop: NodeLoop, evaluating: Context, learning: Context, batch: tuple[Array, ...]
) -> Iterator[tuple[str, Array, Array]]:
    """The statistics of one batch, of each use of a cell; what has none runs as in evaluation: a Dropout drops nothing."""
    values = loop.begin(loop.pixels(batch))
    for step, ended in zip(loop.steps, loop.last_uses, strict=True):
        name, normalises = step.node.cell_name, _normalises(step.node.cell)
        loop.advance(step, learning if normalises else evaluating, values)
        if normalises:
            mean, variance = (learning.updates[f"{name}.{local}"] for local in STATISTICS)
            learning.updates.clear()  # else a second use of the cell would begin with these
            mean, variance = (loop.ops.to_numpy(x, "vector").astype(np.float64) for x in (mean, variance))
            yield name, mean, variance
        for last in ended:
            values.pop(last, None)


def _normalises(cell: Cell) -> bool:
    return isinstance(cell, LinearCell) and cell.has_bn


def _fixed(graph: Graph) -> Graph:
    """The same graph, all quantizers of which quantize at once, and whose running statistics are those of the last batch."""
    nodes = []
    for node in with_delays(graph, quant_delay=0, freeze_bn=1).nodes:
        cell: Any = node.cell
        nodes.append(replace(node, cell=replace(cell, momentum=0.0) if _normalises(cell) else cell))
    return replace(graph, nodes=tuple(nodes))


def check_reestimation(graph: Graph, count: int, images: int) -> None:
    """Raise QatError unless ``Recipe.reestimate_bn``, a number of training images, can be served."""
    if count and not any(_normalises(node.cell) for node in graph.nodes):
        raise QatError(
            f"{graph.name}: has no batch normalisation whose statistics could be estimated anew; leave --reestimate_bn out"
        )
    if count and not 2 <= count <= images:
        raise QatError(
            f"statistics of batch normalisation cannot be estimated over {count} of {counted(images, 'image')}: two are the "
            "fewest that have a variance, and some thousands are enough (--reestimate_bn)"
        )


def reestimated(checkpoint: Checkpoint, split: Split, count: int, seed: int, ops: Ops) -> Checkpoint:
    """``reestimate_batch_norm`` over so many samples of a split, chosen by the seed."""
    chosen = np.sort(np.random.default_rng(seed).permutation(len(split))[:count])
    return reestimate_batch_norm(checkpoint, split.chosen(chosen).images, ops=ops)
