"""Real numbers for each sample."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from qat.errors import QatError
from qat.tasks.base import Metric, Shape, Task, check_rows, described, real_numbers
from qat.tasks.measures import Table
from qat.training.losses import mean_squared_error
from qat.vocabulary.arrays import Arrays
from qat.vocabulary.ops import Array, Ops, Tensor

if TYPE_CHECKING:
    from qat.data import Split
    from qat.graph import Graph
    from qat.integer import IntegerGraph


@dataclass(frozen=True)
class Regression(Task):
    """Labels are numbers, (N,) for an output of (N, 1), else of the output's shape; the loss is the mean squared error.

    Metrics over all numbers: MAE, the mean of |output - label|; RMSE, the root of the mean of its square; R2, the mean over
    the outputs of 1 - sum (output - label)^2 / sum (label - mean label)^2.

    >>> import numpy as np, qat
    >>> split = qat.Split(np.zeros((2, 1), np.uint8), np.array([1.0, 3.0]))
    >>> qat.tasks.Regression().metrics(None, np.array([[1.5], [3.0]]), split)["R2"]
    0.875
    """

    name = "regression"
    METRICS: ClassVar = {"MAE": Metric(higher=False), "RMSE": Metric(higher=False), "R2": Metric()}

    def loss(self, ops: Ops, outputs: Any, targets: Any) -> Tensor:
        return mean_squared_error(ops, outputs, targets)

    def targets(self, graph: Graph, images: Arrays, labels: Any) -> Any:
        return real_numbers(labels, labels.shape[1:] or (1,), len(labels))

    def check_labels(self, shape: Shape, labels: Any, where: str, network: str) -> None:
        check_rows(self, labels, where)
        if labels.dtype.kind not in "iuf":
            raise QatError(f"{where}: labels are {described(labels)}, but regression takes numbers; give those")
        wanted = tuple(labels.shape[1:]) or (1,)
        if tuple(shape) != wanted:
            raise QatError(
                f"{where}: labels are {described(labels)}, but {network} gives {shape}; it needs one output of {wanted}"
            )
        if labels.dtype.kind == "f" and not np.isfinite(np.asarray(labels[:])).all():
            raise QatError(f"{where}: a label is not a finite number; correct it, or leave its sample out")

    def outputs_needed(self, labels: Any, classes: int) -> int | None:
        shape = (*getattr(labels, "shape", ()), 1)
        return int(shape[1]) if len(shape) in (2, 3) else None

    def metrics(self, graph: Graph | IntegerGraph, outputs: Any, split: Split) -> dict[str, float]:
        labels: Any = split.labels
        return self.measures(outputs.astype(np.float64), np.asarray(labels[:], np.float64).reshape(outputs.shape))

    def per_class(self, outputs: Any, labels: Any) -> list[Table]:
        """Of each output."""
        real = outputs.reshape(len(outputs), -1).astype(np.float64)
        wanted = np.asarray(labels[:], np.float64).reshape(real.shape)
        found = [self.measures(real[:, [k]], wanted[:, [k]]) for k in range(real.shape[1])]
        rows = [tuple(self.value(name, value) for name, value in each.items()) for each in found]
        return [Table("Each output", "output", tuple(found[0]), tuple(map(str, range(len(rows)))), rows)]

    def measures(self, outputs: Array, targets: Array) -> dict[str, float]:
        """The metrics. outputs, targets: float64 (N, ...)."""
        error = (outputs - targets).reshape(len(outputs), -1)
        spread = (targets - targets.mean(axis=0)).reshape(error.shape)
        left, all_of_it = (error * error).sum(0), (spread * spread).sum(0)
        # As scikit-learn has it where all labels are equal: 1 for a perfect output, else 0.
        r2 = np.where(all_of_it > 0, 1.0 - left / np.where(all_of_it > 0, all_of_it, 1.0), (left == 0).astype(float))
        return {
            "MAE": float(np.abs(error).mean()),
            "RMSE": float(np.sqrt((error * error).mean())),
            "R2": float(r2.mean()),
        }
