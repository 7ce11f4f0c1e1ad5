"""Any number of classes for each sample."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from qat.errors import QatError
from qat.tasks.base import Metric, Shape, Task, check_rows, described, output_names
from qat.tasks.measures import Table, average_precision, f1, found_table
from qat.training.losses import binary_cross_entropy
from qat.vocabulary.arrays import Arrays
from qat.vocabulary.ops import Ops, Tensor

if TYPE_CHECKING:
    from qat.data import Split
    from qat.graph import Graph
    from qat.integer import IntegerGraph


@dataclass(frozen=True)
class Multilabel(Task):
    """Labels are (N, K), 1 where the sample has that property and else 0; the output is a logit for each, (N, K).

    The loss is the binary cross entropy of the logits. A property counts as found where its logit is above 0, a probability
    above one half. Metrics: F1 over all decisions (micro), the mean of the properties' F1 (macro), and mAP, the mean of their
    average precisions, without properties that no sample has.

    >>> import numpy as np, qat
    >>> split = qat.Split(np.zeros((2, 1), np.uint8), np.array([[1, 0], [1, 1]]))
    >>> qat.tasks.Multilabel().metrics(None, np.array([[2.0, -1.0], [3.0, -0.5]]), split)
    {'F1 micro': 0.8, 'F1 macro': 0.5, 'mAP': 1.0}
    """

    name = "multilabel"
    METRICS: ClassVar = {"F1 micro": Metric(), "F1 macro": Metric(), "mAP": Metric()}

    def loss(self, ops: Ops, outputs: Any, targets: Any) -> Tensor:
        return binary_cross_entropy(ops, outputs, targets)

    def targets(self, graph: Graph, images: Arrays, labels: Any) -> Any:
        return np.asarray(labels, np.float32)

    def check_output(self, graph: Graph | IntegerGraph, number: int, split: Split, where: str) -> None:
        super().check_output(graph, number, split, where)
        cells = {node.name: getattr(node, "cell", None) for node in getattr(graph, "nodes", ())}
        last = cells.get(output_names(graph)[number])
        if "sigmoid" in (getattr(last, "activation", None), getattr(last, "function", None)):
            raise QatError(
                f"{where}: {graph.name} ends in a sigmoid, which the loss of multilabel has already; leave it out, so that it "
                "gives logits"
            )

    def check_labels(self, shape: Shape, labels: Any, where: str, network: str) -> None:
        check_rows(self, labels, where)
        if len(labels.shape) != 2 or labels.dtype.kind not in "biuf":
            raise QatError(
                f"{where}: labels are {described(labels)}, but multilabel takes (N, K), a 0 or a 1 for each of K properties; "
                "correct them, or give another --task"
            )
        if tuple(shape) != labels.shape[1:]:
            raise QatError(
                f"{where}: has {labels.shape[1]} labels a sample, but {network} gives {shape}; it needs one output of "
                f"({labels.shape[1]},)"
            )
        values = np.asarray(labels[:])
        wrong = values[(values != 0) & (values != 1)]
        if wrong.size:
            raise QatError(
                f"{where}: a label is {wrong[0]}, but multilabel takes 0 and 1; correct it, or give another --task"
            )

    def outputs_needed(self, labels: Any, classes: int) -> int | None:
        shape: Shape = getattr(labels, "shape", ())
        return int(shape[1]) if len(shape) == 2 else None

    def metrics(self, graph: Graph | IntegerGraph, outputs: Any, split: Split) -> dict[str, float]:
        labels: Any = split.labels
        truth, found = np.asarray(labels[:]).astype(bool), outputs > 0
        hits, guessed, wanted = (truth & found).sum(0), found.sum(0), truth.sum(0)
        present = np.flatnonzero(wanted)
        scores = [average_precision(outputs[:, k], truth[:, k]) for k in present]
        return {
            "F1 micro": float(f1(hits.sum(), guessed.sum(), wanted.sum())),
            "F1 macro": float(f1(hits, guessed, wanted).mean()),
            "mAP": float(np.mean(scores)) if scores else 0.0,
        }

    def answer(self, outputs: Any) -> Table:
        """The probability of each label, the highest first."""
        shares = 1.0 / (1.0 + np.exp(-outputs[0].astype(np.float64)))
        order = np.argsort(-shares, kind="stable")
        rows = [(f"{100 * shares[k]:.2f} %",) for k in order]
        return Table("", "label", ("probability",), tuple(map(str, order)), rows)

    def per_class(self, outputs: Any, labels: Any) -> list[Table]:
        truth, found = np.asarray(labels[:]).astype(bool), outputs > 0
        return [found_table("Each label", "label", (truth & found).sum(0), found.sum(0), truth.sum(0))]
