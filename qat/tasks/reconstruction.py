"""The input itself: what a network cannot give back is unusual."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from qat.errors import QatError
from qat.tasks.base import MOST_NUMBERS, Metric, Shape, Task, described, shapes_of
from qat.tasks.measures import group_means, ranked_auc
from qat.training.losses import mean_squared_error
from qat.vocabulary.arrays import Arrays, as_tuple
from qat.vocabulary.ops import Array, Ops, Tensor

if TYPE_CHECKING:
    from qat.data import Split
    from qat.graph import Graph
    from qat.integer import IntegerGraph


@dataclass(frozen=True)
class Reconstruction(Task):
    """The target is the input, in the real numbers that the network computes with; the loss is the mean squared error.

    Labels may be None. Where those of the test samples are 0 (usual) and 1 (an anomaly), the metric is the AUC of the error,
    the mean over the samples of a recording (``Split.groups``) where there are such; else the error itself.

    >>> import numpy as np, qat
    >>> qat.tasks.Reconstruction().words("AUC", 0.9051)
    'AUC 0.9051'
    """

    name = "reconstruction"
    uses_images = True
    METRICS: ClassVar = {"AUC": Metric(), "error": Metric(higher=False)}

    def loss(self, ops: Ops, outputs: Any, targets: Any) -> Tensor:
        return mean_squared_error(ops, outputs, targets)

    def targets(self, graph: Graph, images: Arrays, labels: Any) -> Any:
        (real,) = real_inputs(graph, images)
        return real

    def check_output(self, graph: Graph | IntegerGraph, number: int, split: Split, where: str) -> None:
        shape = shapes_of(graph)[number]
        inputs = [x.shape[1:] for x in as_tuple(split.images)]
        if inputs != [shape]:
            raise QatError(
                f"{where}: {graph.name} takes {' and '.join(map(str, inputs))} and gives {shape}, but reconstruction compares "
                "the output with the one input; give a network whose output has the input's shape"
            )
        self.check_labels(shape, split.labels, where, graph.name)
        _recordings(split)

    def check_labels(self, shape: Shape, labels: Any, where: str, network: str) -> None:
        if labels is not None and (
            isinstance(labels, tuple) or len(labels.shape) != 1 or labels.dtype.kind not in "biu"
        ):
            raise QatError(
                f"{where}: labels are {described(labels)}, but reconstruction takes none, or (N,): 0, and 1 for an anomaly"
            )

    def metrics(self, graph: Graph | IntegerGraph, outputs: Any, split: Split) -> dict[str, float]:
        (images,) = as_tuple(split.images)
        size = max(MOST_NUMBERS // max(outputs[0].size, 1), 1)
        errors = np.empty(len(outputs))
        for start in range(0, len(outputs), size):
            (real,) = real_inputs(graph, images[start : start + size])
            errors[start : start + size] = sample_errors(outputs[start : start + size], real)
        return self.of_errors(errors, split)

    @staticmethod
    def of_errors(errors: Array, split: Split) -> dict[str, float]:
        """The metrics of each sample's error. errors: float64 (N,). Raises QatError where a recording has both labels."""
        found = {"error": float(errors.mean())}
        anomalous = _recordings(split)
        if anomalous is None:
            return found
        scores, _ = group_means(errors, split.groups)
        return {"AUC": ranked_auc(scores, anomalous), **found}


def _recordings(split: Split) -> Array | None:
    """Whether each recording is an anomaly, booleans (G,); None where labels do not say both of some.

    Raises QatError where one is both.
    """
    labels: Any = split.labels
    if labels is None or set(np.unique(labels).tolist()) != {0, 1}:
        return None
    shares, first = group_means(labels.astype(np.float64), split.groups)
    mixed = np.flatnonzero((shares != 0.0) & (shares != 1.0))
    if len(mixed):
        assert split.groups is not None, "each sample has one label"
        raise QatError(
            f"group {split.groups[first[mixed[0]]]}: some of its samples are labelled 0 and some 1, but a recording has one "
            "label; correct them"
        )
    anomalous: Array = shares > 0.0
    return anomalous


def sample_errors(outputs: Array, real: Array) -> Array:
    """The mean squared error of each sample, float64 (N,). outputs, real: (N, ...)."""
    difference = outputs.astype(np.float64) - real
    errors: Array = (difference * difference).reshape(len(outputs), -1).mean(axis=1)
    return errors


def real_inputs(graph: Graph | IntegerGraph, images: Arrays) -> tuple[Array, ...]:
    """The real numbers that a network computes with, float32, of what it is fed: those of ``Input.real_numbers``.

    Args:
        graph: the network, or its integers.
        images: a batch for each input.

    Returns:
        An array for each input.
    """
    known: Any = graph  # of an exported file, something that has no inputs
    entries = getattr(known, "entries", None) or tuple(node.cell for node in known.inputs or ())
    arrays = as_tuple(images)
    if entries:
        return tuple(entry.real_numbers(x) for entry, x in zip(entries, arrays, strict=True))
    if all(x.dtype.kind == "f" for x in arrays):
        return arrays
    raise QatError(
        f"{graph.name}: an exported file does not say which real numbers its input stands for, so that its output cannot "
        "be compared with them; give the checkpoint, whose integers it computes"
    )
