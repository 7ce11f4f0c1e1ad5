"""What a lowered model remembers of how it was made, the checkpoint that it is, and the samples that it takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from qat.data.gathering import Gathered, gathered
from qat.deploy.interfaces import OwnLayout, TrainingBackend
from qat.graph import Graph, Params
from qat.registry import backend_of
from qat.tasks import Classification, Task
from qat.training.checkpoint import Checkpoint
from qat.training.oscillations import Oscillations
from qat.vocabulary.arrays import check_samples
from qat.vocabulary.ops import Array


@dataclass(frozen=True, eq=False)
class Origin:
    """What a prepared model remembers of how it was made. Nothing in it changes; copies of the model share it.

    Attributes:
        graph: The float network.
        task: What it is for.
        images: Some that it was calibrated on, canonical, an array for each input; none where it was not.
        sources: Of each parameter that is an array of the source, its name there and the number of its layout among those that
            the source may have it in.
        unplaced: Parameters of the float network that are none, as they were.
        joined: The arrays of the source that some of these were computed of, as they were; empty where they are plain
            constants, as the factor 1 of a batch normalisation that has none.
        history: Of its checkpoint: how it was calibrated, where it was.
        oscillations: What is done about them, where they are counted.
    """

    graph: Graph
    task: Task
    images: tuple[Array, ...] = ()
    sources: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    unplaced: Params = field(default_factory=dict)
    joined: Params = field(default_factory=dict)
    history: tuple[Mapping[str, Any], ...] = ()
    oscillations: Oscillations | None = None

    def __deepcopy__(self, memo: Any) -> Origin:
        return self


def checkpoint_of(model: Any) -> Checkpoint:
    """A prepared model as a checkpoint, which the commands go on with, and every backend.

    Args:
        model: What ``qat.prepare`` returned, or a backend's ``lower``, trained since or not.

    Returns:
        The checkpoint: graph, parameters as they are now, and the number of training steps. Its history says how
        ``qat.prepare`` calibrated the model, where it did.

    Raises:
        QatError: It is no such model.

    >>> import qat
    >>> from qat.networks import LeNet5
    >>> model = qat.prepare(LeNet5(), backend="torch")
    >>> qat.checkpoint_of(model).save("lenet.ckpt")
    """
    backend, origin = backend_of(model), origin_of(model)
    return Checkpoint(model.graph, backend.read(model), step=model.step, history=origin.history, task=origin.task)


def origin_of(model: Any) -> Origin:
    """What a lowered model remembers; of one that ``prepare`` did not make, its graph."""
    found = vars(model).get("_origin")
    return found if isinstance(found, Origin) else Origin(model.graph, Classification())


def taken(chosen: TrainingBackend, given: Any, graph: Graph, what: str, *, own: bool) -> Gathered:
    """Gathered of a user, canonical.

    Args:
        chosen: The backend of their model.
        given: As ``gathered`` takes them.
        graph: What takes them.
        what: The argument, for messages.
        own: They are as the framework's own models take them, else canonical.

    Returns:
        The samples.

    Raises:
        QatError: As ``gathered``; or they are not what the model takes, in its user's layout.
    """
    if not (own and isinstance(chosen, OwnLayout)):
        return gathered(given, graph.input_specs, graph.name, what)
    specs = [chosen.own_spec(spec) for spec in graph.input_specs]
    samples = gathered(given, specs, graph.name, what)
    check_samples(samples.images, specs, np.ndarray, graph.name)
    return samples._replace(images=chosen.canonical(samples.images))
