"""Importance of channels: criteria that give a number for every output channel of every cell with parameters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from qat.cells.linear import LinearCell, WeightedCell
from qat.data import Split
from qat.deploy.interfaces import TrainingBackend, check_backend
from qat.errors import QatError
from qat.graph import Graph, Params
from qat.passes.apply_masks import apply_masks
from qat.passes.logits_graph import logits_graph
from qat.pruning.groups import require_float
from qat.tasks import Classification, Loss, Task
from qat.training.optimizer import Optimizer
from qat.vocabulary.arrays import Arrays
from qat.vocabulary.numpy_ops import NUMPY_OPS
from qat.vocabulary.ops import Array

Importance = dict[str, Array]  #: cell -> a number for each of its output channels, float64 (O,)
METHODS = ("slimming", "l1", "taylor")


def slimming_importance(graph: Graph, params: Mapping[str, Array]) -> Importance:
    """|gamma| of each channel's batch normalisation (network slimming, Liu et al., arXiv 1708.06519, section 3.2).

    Train with a sparsity loss on gamma first (``Recipe.slimming``). Cells without batch normalisation get no
    importance.

    Args:
        graph: a float graph.
        params: its parameters.

    Returns:
        float64 (O,) by cell.

    Raises:
        QatError: for a network without any batch normalisation, or a quantized one.
    """
    require_float(graph)
    found = {
        name: np.abs(params[f"{name}.gamma"].astype(np.float64)) for name, cell in _linear_cells(graph) if cell.has_bn
    }
    if not found:
        raise QatError(
            f"{graph.name} has no batch normalisation, whose scales network slimming needs; use the method l1 or taylor"
        )
    return found


def l1_importance(graph: Graph, params: Mapping[str, Array]) -> Importance:
    """sum |w| over the weights of each output channel (Li et al., arXiv 1608.08710, section 3.1).

    Args:
        graph: a float graph.
        params: its parameters.

    Returns:
        float64 (O,) by cell.
    """
    require_float(graph)
    params = apply_masks(graph, params)
    return {
        name: np.abs(_by_output(cell, "weight", params[f"{name}.weight"])).sum(axis=1)
        for name, cell in _linear_cells(graph)
        if isinstance(cell, WeightedCell)
    }


def taylor_importance(
    backend: TrainingBackend,
    graph: Graph,
    params: Mapping[str, Array],
    split: Split,
    *,
    task: Task | None = None,
    loss: Loss | None = None,
    batches: int = 20,
    batch_size: int = 64,
    seed: int = 0,
    device_target: str | None = None,
) -> Importance:
    """The squared first-order change of the loss if a channel were removed, a mean over batches.

    (sum of g w over the channel's parameters)^2: Molchanov et al., arXiv 1906.10771, section 3, for a group of
    parameters. The parameters are weights and bias, or gamma and beta where batch normalisation follows: the loss does
    not depend on the size of weights that are normalised, so the sum over them is 0. The gradient g comes from one step
    of plain gradient descent with a rate of 1, g = before - after, so that any backend can give it.

    Args:
        backend: takes the steps.
        graph: a float graph.
        params: its parameters.
        split: training images and labels.
        task: what the network is for; None, the default: classification.
        loss: in place of the task's.
        batches: how many; 20 by default.
        batch_size: samples in each; 64 by default.
        seed: of the choice of batches.
        device_target: "CPU", "GPU" or "Ascend"; None, the default: the backend's first.

    Returns:
        float64 (O,) by cell.

    Raises:
        QatError: where the images do not fill a batch, a gradient is not finite, or the network is quantized.
    """
    check_backend(backend)
    require_float(graph)
    if batches < 1 or batch_size < 1 or len(split) < batch_size:
        raise QatError(
            f"{graph.name}: Taylor importance needs a full batch, but there are {len(split)} images, and batch_size is "
            f"{batch_size}, batches {batches}; use a smaller batch_size, and at least one batch"
        )
    task = task or Classification()
    before = {name: np.asarray(array) for name, array in apply_masks(graph, params).items()}
    model = backend.lower(logits_graph(graph), before, device_target=device_target)
    step = backend.make_step(model, Optimizer("momentum", momentum=0.0), loss or task.loss)
    total = {name: np.zeros(cell.out_channels) for name, cell in _linear_cells(graph)}
    for index, (images, labels) in enumerate(_some(split, batches, batch_size, seed)):
        if graph.is_random:
            backend.seed(seed, index)
        step(images, task.targets(graph, images, labels), 1.0)
        after = backend.read(model)
        backend.write(model, before)
        for name, cell in _linear_cells(graph):
            total[name] += _first_order(name, cell, before, after) ** 2
    wrong = [name for name, scores in total.items() if not np.isfinite(scores).all()]
    if wrong:
        raise QatError(f"{wrong[0]}: its gradient is not finite, so that no channel can be ranked by it; train it anew")
    return {name: scores / batches for name, scores in total.items()}


def _first_order(name: str, cell: LinearCell, before: Params, after: Params) -> Array:
    """sum g w over the parameters of each output channel, (O,)."""
    locals_ = ("gamma", "beta") if cell.has_bn else ("weight", "bias")
    result = np.zeros(cell.out_channels)
    for local in locals_:
        full = f"{name}.{local}"
        if full in before:
            w, stepped = (_by_output(cell, local, each[full]) for each in (before, after))
            result += ((w - stepped) * w).sum(axis=1)
    return result


def _by_output(cell: LinearCell, local: str, array: Array) -> Array:
    """A parameter's numbers for each output channel, float64 (O, n)."""
    array = cell.outputs_first(NUMPY_OPS, array) if local == "weight" else array
    return array.astype(np.float64).reshape(cell.out_channels, -1)


def _some(split: Split, batches: int, batch_size: int, seed: int) -> Iterator[tuple[Arrays, Arrays]]:
    """``batches`` batches, from the start again where the images end."""
    epoch = 0
    while batches:
        epoch += 1
        for batch in split.batches(batch_size, seed, epoch):
            if not batches:
                return
            batches -= 1
            yield batch


def _linear_cells(graph: Graph) -> list[tuple[str, LinearCell]]:
    """The cells with parameters, by their names, each once."""
    return list({node.cell_name: node.cell for node in graph.nodes if isinstance(node.cell, LinearCell)}.items())
