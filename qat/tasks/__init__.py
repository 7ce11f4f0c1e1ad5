"""Tasks: the loss that trains a network, the labels that it needs, the metrics that say how good it is. One in a file."""

from qat.tasks.base import Loss, Metric, Task, evaluated_loss, main
from qat.tasks.classification import Classification
from qat.tasks.measures import balanced_weights
from qat.tasks.multilabel import Multilabel
from qat.tasks.named import ADDED, TASKS, create, own_loss, read, written
from qat.tasks.reconstruction import Reconstruction
from qat.tasks.regression import Regression
from qat.tasks.segmentation import Segmentation
from qat.tasks.several import OutputTask, Several

__all__ = [
    "ADDED",
    "TASKS",
    "Classification",
    "Loss",
    "Metric",
    "Multilabel",
    "OutputTask",
    "Reconstruction",
    "Regression",
    "Segmentation",
    "Several",
    "Task",
    "balanced_weights",
    "create",
    "evaluated_loss",
    "main",
    "own_loss",
    "read",
    "written",
]
