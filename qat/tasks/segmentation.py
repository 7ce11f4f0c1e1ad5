"""A class for each pixel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from qat.errors import QatError
from qat.tasks.base import Metric, Shape, check_rows, described
from qat.tasks.classification import OfClasses, check_classes
from qat.tasks.measures import Table, confusion, found_table
from qat.training.losses import weighted_cross_entropy
from qat.vocabulary.arrays import Arrays
from qat.vocabulary.ops import Array, Ops, Tensor

if TYPE_CHECKING:
    from qat.data import Split
    from qat.graph import Graph
    from qat.integer import IntegerGraph

ROWS = 64  #: label maps that are looked at at a time: they may be read from files


@dataclass(frozen=True)
class Segmentation(OfClasses):
    """Labels are maps, whole numbers (N, H, W), the class of each pixel; the output is a logit for each class, (N, K, H, W).

    The loss is the softmax cross entropy of a pixel, - w_y log softmax(z)_y, mean over the pixels that count. Metrics: the
    mean over the classes of the intersection over the union, TP / (TP + FP + FN), without classes that neither labels nor
    outputs have, and the share of the pixels that are right.

    Args:
        ignored: the label of pixels that count for nothing; 255 by default.
        class_weights: w, a factor for each class; empty, the default: all 1.
        label_smoothing: the share of a target that is spread evenly over all classes, 0 to below 1; 0 by default.

    Raises:
        QatError: for a share or weights out of their range.

    >>> import numpy as np, qat
    >>> split = qat.Split(np.zeros((1, 1, 1, 2), np.uint8), np.array([[[1, 255]]]))
    >>> qat.tasks.Segmentation().metrics(None, np.array([[[[0.0, 0.0]], [[1.0, 1.0]]]]), split)
    {'mean IoU': 1.0, 'pixel accuracy': 1.0}
    """

    ignored: int = 255
    class_weights: tuple[float, ...] = ()
    label_smoothing: float = 0.0

    name = "segmentation"
    METRICS: ClassVar = {"mean IoU": Metric(percent=True), "pixel accuracy": Metric(percent=True)}

    def loss(self, ops: Ops, outputs: Any, targets: Any) -> Tensor:
        return weighted_cross_entropy(ops, outputs, targets, self.class_weights, self.label_smoothing, masked=True)

    def targets(self, graph: Graph, images: Arrays, labels: Any) -> Any:
        """float32 (N, 1, H, W); -1 where a pixel counts for nothing."""
        maps = np.asarray(labels).astype(np.float32)
        return np.where(maps == self.ignored, np.float32(-1.0), maps)[:, None]

    def check_labels(self, shape: Shape, labels: Any, where: str, network: str) -> None:
        check_rows(self, labels, where)
        if len(labels.shape) != 3 or labels.dtype.kind not in "iu":
            raise QatError(
                f"{where}: labels are {described(labels)}, but segmentation takes maps of whole numbers (N, H, W), the class "
                "of each pixel; give those, or another --task"
            )
        if len(shape) != 3 or tuple(shape[1:]) != tuple(labels.shape[1:]):
            height, width = labels.shape[1:]
            raise QatError(
                f"{where}: its label maps are {height} x {width}, but {network} gives {shape}; it needs one output of "
                f"(classes, {height}, {width}), as the network segmenter has"
            )
        for start in range(0, len(labels), ROWS):
            part = labels[start : start + ROWS]
            wrong = part[((part < 0) | (part >= shape[0])) & (part != self.ignored)]
            if wrong.size:
                raise QatError(
                    f"{where}: a pixel's label is {wrong[0]}, but {network} gives {shape[0]} classes; they are 0 to "
                    f"{shape[0] - 1}, and {self.ignored} for pixels that count for nothing"
                )
        check_classes(self.class_weights, shape[0])

    def outputs_needed(self, labels: Any, classes: int) -> int | None:
        """As many as there are classes in all the maps, which are read for it where they are files."""
        if len(getattr(labels, "shape", ())) != 3 or labels.dtype.kind not in "iu":
            return None
        parts = (np.asarray(labels[start : start + ROWS]) for start in range(0, len(labels), ROWS))
        return max([classes, *(int(x.max(initial=0, where=x != self.ignored)) + 1 for x in parts)])

    def metrics(self, graph: Graph | IntegerGraph, outputs: Any, split: Split) -> dict[str, float]:
        counts = self.confusion(outputs, split.labels)
        iou, there = self.intersections(counts)
        right = int(np.trace(counts))
        return {
            "mean IoU": float(iou[there].mean()) if there.any() else 0.0,
            "pixel accuracy": right / max(int(counts.sum()), 1),
        }

    @staticmethod
    def intersections(counts: Array) -> tuple[Array, Array]:
        """Intersection over union of each class, and whether labels or outputs have it. counts: of ``confusion``."""
        hits = np.diag(counts).astype(np.float64)
        union = counts.sum(0) + counts.sum(1) - hits
        return hits / np.maximum(union, 1), union > 0

    def answer(self, outputs: Any) -> Table:
        """The share of the pixels that each class has, the largest first, without those that have none."""
        shares = np.bincount(outputs[0].argmax(axis=0).ravel(), minlength=outputs.shape[1]) / outputs[0, 0].size
        order = [k for k in np.argsort(-shares, kind="stable").tolist() if shares[k]]
        return Table("", "class", ("pixels",), tuple(map(str, order)), [(f"{100 * shares[k]:.2f} %",) for k in order])

    def per_class(self, outputs: Any, labels: Any) -> list[Table]:
        counts = self.confusion(outputs, labels)
        iou, _ = self.intersections(counts)
        table = found_table("Pixels of each class", "class", np.diag(counts), counts.sum(0), counts.sum(1))
        rows = [(*row, f"{100 * share:.2f}") for row, share in zip(table.rows, iou.tolist(), strict=True)]
        return [table._replace(columns=(*table.columns, "IoU in %"), rows=rows)]

    def confusion(self, outputs: Any, labels: Any) -> Array:
        classes = outputs.shape[1]
        counts = np.zeros((classes, classes), np.int64)
        for start in range(0, len(outputs), ROWS):
            maps, best = labels[start : start + ROWS], outputs[start : start + ROWS].argmax(axis=1)
            counted = maps != self.ignored
            counts += confusion(maps[counted], best[counted], classes)
        return counts
