"""One class of several for each sample."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from qat.data import accuracy
from qat.errors import QatError, shortened
from qat.tasks.base import Metric, Shape, Task, check_rows, described
from qat.tasks.measures import Table, confusion, found_table
from qat.training.losses import cross_entropy, weighted_cross_entropy
from qat.vocabulary.arrays import Arrays
from qat.vocabulary.ops import Array, Ops, Tensor

if TYPE_CHECKING:
    from qat.data import Split
    from qat.graph import Graph
    from qat.integer import IntegerGraph

BEST = 5  #: outputs that count in the second metric, where there are more than twice as many classes


class OfClasses(Task):
    """What tasks share whose loss is the cross entropy of classes: a weight for each, and smoothed labels. They state the two
    fields themselves, each in its own order.
    """

    class_weights: tuple[float, ...]
    label_smoothing: float

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 <= self.label_smoothing < 1.0:
            raise QatError(f"label_smoothing is {self.label_smoothing}; use a number from 0 to below 1")
        check_weights(self.class_weights)

    def smoothed(self, share: float) -> Task:
        return replace(self, label_smoothing=share) if share else self  # type: ignore[call-arg]

    def weighted(self, weights: tuple[float, ...]) -> Task:
        return replace(self, class_weights=weights)  # type: ignore[call-arg]


@dataclass(frozen=True)
class Classification(OfClasses):
    """Labels are whole numbers (N,), the class of each sample; the output is a logit for each class, (N, K).

    The loss is the softmax cross entropy, mean over the samples of - w_y log softmax(z)_y.

    Args:
        class_weights: w, a factor for each class; empty, the default: all 1.
        label_smoothing: the share of a target that is spread evenly over all classes, 0 to below 1; 0 by default.

    Raises:
        QatError: for a share or weights out of their range.

    >>> import numpy as np, qat
    >>> split = qat.Split(np.zeros((2, 1), np.uint8), np.array([1, 0]))
    >>> qat.tasks.Classification().metrics(None, np.array([[0.2, 0.8], [0.4, 0.6]]), split)
    {'top-1': 0.5}
    """

    class_weights: tuple[float, ...] = ()
    label_smoothing: float = 0.0

    name = "classification"
    METRICS: ClassVar = {"top-1": Metric(percent=True), "top-5": Metric(percent=True)}

    def loss(self, ops: Ops, outputs: Any, targets: Any) -> Tensor:
        if not isinstance(targets, tuple) and not self.class_weights:
            return cross_entropy(ops, outputs, targets, self.label_smoothing)
        return weighted_cross_entropy(ops, outputs, targets, self.class_weights, self.label_smoothing)

    def targets(self, graph: Graph, images: Arrays, labels: Any) -> Any:
        """Labels as they are; where classes have weights, and where samples are mixed, float32 (N, 1), the latter as
        (labels, other labels, share of the first).
        """
        if isinstance(labels, tuple):
            one, other, share = (np.asarray(x, np.float32) for x in labels)
            return one[:, None], other[:, None], np.broadcast_to(share.reshape(-1, 1), (len(one), 1)).copy()
        return labels.astype(np.float32)[:, None] if self.class_weights else labels

    def check_labels(self, shape: Shape, labels: Any, where: str, network: str) -> None:
        check_rows(self, labels, where)
        if len(labels.shape) != 1 or labels.dtype.kind not in "iu":
            raise QatError(
                f"{where}: labels are {described(labels)}, but classification takes whole numbers (N,), the class of each "
                f"sample; give {suggested(labels)}"
            )
        largest = int(labels.max(initial=-1))
        if len(shape) != 1 or largest >= shape[0]:
            raise QatError(
                f"{where}: its labels reach {largest}, but {network} gives {shape}; it needs one output of "
                f"({largest + 1},) or more, unless the labels are damaged"
            )
        if labels.min(initial=0) < 0:
            raise QatError(f"{where}: a label is {labels.min()}; classes count from 0")
        check_classes(self.class_weights, shape[0])

    def outputs_needed(self, labels: Any, classes: int) -> int | None:
        if len(getattr(labels, "shape", ())) != 1 or labels.dtype.kind not in "iu":
            return None
        return max(classes, int(labels.max(initial=0)) + 1)

    def metrics(self, graph: Graph | IntegerGraph, outputs: Any, split: Split) -> dict[str, float]:
        found = {"top-1": accuracy(outputs, split.labels)}
        if outputs.shape[1] > 2 * BEST:
            found["top-5"] = accuracy(outputs, split.labels, best=BEST)
        return found

    def label(self, metric: str, *, short: bool = False) -> str:
        names = {"top-1": "accuracy", "top-5": "top 5"}
        name = names.get(metric, metric)
        return name if short else name.capitalize()

    def per_class(self, outputs: Any, labels: Any) -> list[Table]:
        counts = self.confusion(outputs, labels)
        return [found_table("Each class", "class", np.diag(counts), counts.sum(0), counts.sum(1))]

    def confusion(self, outputs: Any, labels: Any) -> Array:
        return confusion(labels, _best(outputs), outputs.shape[1])


def _best(outputs: Array) -> Array:
    """The class of each sample; of equal outputs the first, as in ``accuracy``."""
    best: Array = outputs.argmax(axis=1)
    return best


def suggested(labels: Any) -> str:
    """What --task labels of a kind that classification does not take may be meant for."""
    if labels.dtype.kind == "f":
        return "--task regression"
    return "--task segmentation" if len(labels.shape) >= 3 else "--task multilabel, or regression"


def check_weights(weights: tuple[float, ...]) -> None:
    """Raise QatError for a weight that is negative, and where all are 0."""
    if weights and (min(weights) < 0.0 or max(weights) == 0.0):
        raise QatError(f"class_weights are {shortened(weights)}; use numbers of at least 0, not all of them 0")


def check_classes(weights: tuple[float, ...], classes: int) -> None:
    """Raise QatError unless there is a weight for each class, or none at all."""
    if weights and len(weights) != classes:
        raise QatError(f"class_weights: there are {len(weights)} for {classes} classes; give one for each")
