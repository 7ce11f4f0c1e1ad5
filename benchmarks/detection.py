"""The task of a detector: what each cell of the network ``detector`` should see, its loss, and how good boxes are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

import qat
from qat.errors import QatError
from qat.networks.detector import STRIDES
from qat.tasks import Metric
from qat.tasks.base import shapes_of
from qat.tasks.measures import average_precision
from qat.training.losses import binary_cross_entropy
from qat.vocabulary.ops import Array

NEAR = 0.75  #: strides: a cell whose centre is so near to that of a box, in both directions, is to see it
FINE = 24  #: pixels: boxes whose longer side is no longer are seen at the finer stride
LOW, SURE = 0.05, 0.5  #: scores below which a cell sees nothing, and from which F1 counts a box
OVERLAP = 0.5  #: intersection over union


@dataclass(frozen=True)
class Detection(qat.Task):
    """Labels are float32 (N, M, 5): class, left, top, right and bottom in pixels of up to M boxes; class -1: none.

    The loss of a stride is the binary cross entropy of the scores, plus the absolute error of the boxes where there are any,
    both a mean over the cells that are to see a box. Metrics: the mean over the classes of the average precision at an
    intersection over union of 0.5, and F1 of the boxes with a score of at least 0.5.
    """

    name = "detection"
    METRICS: ClassVar = {"mAP50": Metric(percent=True), "F1": Metric(percent=True)}

    def loss(self, ops: Any, outputs: Any, targets: Any) -> Any:
        total = 0.0
        for number in range(len(STRIDES)):
            boxes, scores = outputs[2 * number : 2 * number + 2]
            wanted, classes, there = targets[3 * number : 3 * number + 3]
            seen = ops.maximum(ops.mean(there), 1e-6)
            found = binary_cross_entropy(ops, scores, classes) * float(ops.channels(scores))
            total = total + (found + ops.mean(ops.abs(boxes - wanted) * there)) / seen
        return total

    def targets(self, graph: Any, images: Any, labels: Any) -> Any:
        """For each stride boxes (N, 4, H, W), classes (N, K, H, W), and whether a cell is to see something (N, 1, H, W)."""
        found: list[Array] = []
        for stride, (_, height, width), (classes, _, _) in _levels(graph):
            wanted = np.zeros((len(labels), 4, height, width), np.float32)
            scores = np.zeros((len(labels), classes, height, width), np.float32)
            y, x = (np.arange(height) + 0.5) * stride, (np.arange(width) + 0.5) * stride
            for sample, rows in enumerate(labels):
                for kind, left, top, right, bottom in rows:
                    if kind < 0 or (max(right - left, bottom - top) <= FINE) != (stride == STRIDES[0]):
                        continue
                    down, across = abs(y - (top + bottom) / 2), abs(x - (left + right) / 2)
                    near = ((down <= NEAR * stride)[:, None] & (across <= NEAR * stride)) | (
                        (down == down.min())[:, None] & (across == across.min())
                    )
                    sides = (x - left, y[:, None] - top, right - x, bottom - y[:, None])
                    for channel, side in enumerate(sides):
                        wanted[sample, channel][near] = np.broadcast_to(side / stride, near.shape)[near]
                    scores[sample, int(kind)][near] = 1.0
            found += [wanted, scores, scores.max(axis=1, keepdims=True)]
        return tuple(found)

    def check(self, graph: Any, split: Any, where: str) -> None:
        if len(shapes_of(graph)) != 2 * len(STRIDES):
            raise QatError(f"{where}: {graph.name} gives {shapes_of(graph)}; detection is of the network detector")
        self.check_labels((), split.labels, where, graph.name)

    def check_labels(self, shape: Any, labels: Any, where: str, network: str) -> None:
        if getattr(labels, "shape", ())[2:] != (5,):
            raise QatError(f"{where}: labels are no boxes; give float32 (N, M, 5): class, left, top, right, bottom")

    def outputs_needed(self, labels: Any, classes: int) -> int | None:
        return max(int(labels[..., 0].max(initial=0)) + 1, classes)

    def metrics(self, graph: Any, outputs: Any, split: Any) -> dict[str, float]:
        classes = _levels(graph)[0][2][0]
        found: list[Array] = []  # class, score, and whether a box is there
        for sample, labels in enumerate(split.labels):
            for kind in range(classes):
                boxes, scores = found_boxes(graph, [x[sample] for x in outputs], kind)
                overlaps = overlap(boxes, labels[labels[:, 0] == kind, 1:])
                for score, shares in zip(scores, overlaps, strict=True):
                    hit = shares.max(initial=0.0) >= OVERLAP
                    if hit:
                        overlaps[:, shares.argmax()] = 0.0  # each is found once
                    found.append(np.array([kind, score, hit]))
        kinds, scores, hits = np.array(found).reshape(-1, 3).T
        there = np.bincount(split.labels[..., 0][split.labels[..., 0] >= 0].astype(np.int64), minlength=classes)
        precisions = []
        for kind in np.flatnonzero(there):
            truth = hits[kinds == kind].astype(bool)
            share = truth.sum() / there[kind]  # of its boxes, that were found at all
            precisions.append(average_precision(scores[kinds == kind], truth) * share if share else 0.0)
        sure = scores >= SURE
        f1 = 2 * hits[sure].sum() / max(sure.sum() + there.sum(), 1)
        return {"mAP50": float(np.mean(precisions)), "F1": float(f1)}


def found_boxes(graph: Any, outputs: Any, kind: int) -> tuple[Array, Array]:
    """What the outputs of one sample say of a class: boxes (B, 4) in pixels and scores (B,), the surest first; of those that
    overlap the surest alone (non-maximum suppression).
    """
    parts = [(np.zeros((0, 4)), np.zeros(0))]
    for number, (stride, _, _) in enumerate(_levels(graph)):
        sides, logits = outputs[2 * number].astype(np.float64), outputs[2 * number + 1][kind].astype(np.float64)
        scores = 1 / (1 + np.exp(-logits))
        rows, columns = np.nonzero(scores >= LOW)
        left, top, right, bottom = sides[:, rows, columns]
        x, y = columns + 0.5, rows + 0.5
        parts.append((np.stack([x - left, y - top, x + right, y + bottom], 1) * stride, scores[rows, columns]))
    boxes, scores = (np.concatenate(each) for each in zip(*parts, strict=True))
    order = np.argsort(-scores, kind="stable")
    boxes, scores = boxes[order], scores[order]
    near, kept = overlap(boxes, boxes) >= OVERLAP, np.ones(len(boxes), bool)
    for index in range(len(boxes)):
        kept[index] = not (near[index, :index] & kept[:index]).any()
    return boxes[kept], scores[kept]


def overlap(a: Array, b: Array) -> Array:
    """Intersection over union of each box with each: (A, 4) and (B, 4) to (A, B); left, top, right, bottom."""
    common = np.maximum(np.minimum(a[:, None, 2:], b[:, 2:]) - np.maximum(a[:, None, :2], b[:, :2]), 0.0).prod(2)
    sizes = [np.maximum(x[:, 2:] - x[:, :2], 0.0).prod(1) for x in (a, b)]
    return common / np.maximum(sizes[0][:, None] + sizes[1] - common, 1e-9)


def _levels(graph: Any) -> list[tuple[int, Any, Any]]:
    """Each stride with the shapes of its boxes and of its scores."""
    shapes = shapes_of(graph)
    return [(stride, shapes[2 * k], shapes[2 * k + 1]) for k, stride in enumerate(STRIDES)]
