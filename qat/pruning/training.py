"""Pruning between the steps of training, on the host, so that it is the same for every backend."""

from __future__ import annotations

from typing import Any

import numpy as np

from qat.deploy.interfaces import TrainingBackend
from qat.errors import QatError
from qat.graph import Graph, Params
from qat.pruning.groups import channel_groups
from qat.pruning.magnitude import pruners, updated_masks
from qat.vocabulary.ops import Array


class PruningInTraining:
    """Updates masks by their schedules, and shrinks gammas for network slimming.

    Network slimming minimises loss + lambda sum |gamma| (Liu et al., arXiv 1708.06519, equation 1) over the batch
    normalisations whose channels can be removed. The L1 term is not differentiated, as in the paper, but minimised
    after each step by its proximal operator, gamma := sign(gamma) max(|gamma| - lr lambda, 0) (Beck and Teboulle, 2009,
    SIAM J. Imaging Sciences 2(1), equation 1.5). So gammas become exactly 0, and the logged loss is that of the network
    alone.

    Args:
        backend: that trains.
        model: lowered by it.
        graph: of the model.
        slimming: lambda; 0 for none.

    Raises:
        QatError: where there is no gamma to shrink.
    """

    def __init__(self, backend: TrainingBackend, model: Any, graph: Graph, slimming: float) -> None:
        self._backend, self._model, self._graph, self._slimming = backend, model, graph, slimming
        self._pruners = pruners(graph)
        self._gammas = prunable_gammas(graph) if slimming else []

    def before_step(self, step: int) -> None:
        """Prune weights where a schedule says so; steps count from 0."""
        if any(pruner.prunes_at(step) for pruner in self._pruners.values()):
            self._backend.write(self._model, updated_masks(self._graph, self._backend.read(self._model), step))

    def after_step(self, lr: float) -> None:
        """Shrink the gammas by the learning rate times lambda."""
        if self._gammas:
            params = self._backend.read(self._model)
            shrunk: Params = {name: shrink(params[name], lr * self._slimming) for name in self._gammas}
            self._backend.write(self._model, shrunk)


def shrink(gamma: Array, threshold: float) -> Array:
    """sign(gamma) max(|gamma| - threshold, 0), float32 (C,)."""
    size: Array = np.maximum(np.abs(gamma) - np.float32(threshold), np.float32(0.0))
    return np.copysign(size, gamma)


def prunable_gammas(graph: Graph) -> list[str]:
    """The full names of the gammas whose channels can be removed. Raises QatError where there are none."""
    names = {name for group in channel_groups(graph) for unit in group.units for name in unit}
    found = [f"{node.cell_name}.gamma" for node in graph.nodes if node.name in names]
    found = list(dict.fromkeys(name for name in found if name in graph.params))
    if not found:
        raise QatError(
            f"{graph.name}: slimming shrinks the scales of batch normalisations, but it has none whose channels can be "
            "removed; leave --slimming out, or take a network with batch normalisation"
        )
    return found
