"""What a network is for: the loss that trains it, the labels that it needs, and the metrics that say how good it is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np

from qat.errors import QatError
from qat.tasks.measures import Table
from qat.vocabulary.arrays import Arrays, as_arrays, as_tuple
from qat.vocabulary.numpy_ops import NUMPY_OPS
from qat.vocabulary.ops import Array, Ops, Tensor
from qat.vocabulary.serial import Serializable

if TYPE_CHECKING:
    from qat.data import Split
    from qat.graph import Graph
    from qat.integer import IntegerGraph

Shape = tuple[int, ...]
Loss = Callable[[Ops, Any, Any], Tensor]  #: (ops, outputs, targets) -> a scalar; a tensor each, or tuples of several
MOST_NUMBERS = 1 << 24  #: outputs of so many numbers are evaluated at a time


class Metric(NamedTuple):
    """How a metric is read and written.

    Attributes:
        higher: True where a higher value is better.
        percent: True where it is a share, 0 to 1, that is written in percent.
    """

    higher: bool = True
    percent: bool = False


@dataclass(frozen=True)
class Task(Serializable, ABC):
    """A task of networks with one output.

    A subclass is a frozen dataclass of numbers, strings and tuples, which checkpoints keep. Files name it by its class, so
    that one of your own is known once its module is imported (commands: ``--import MODULE``).

    >>> from dataclasses import dataclass
    >>> import qat
    >>> from qat.tasks import Metric, Regression
    >>> @dataclass(frozen=True)
    ... class Bounded(Regression):
    ...     name = "bounded"
    ...     METRICS = {"largest error": Metric(higher=False)}
    ...     def measures(self, outputs, targets):
    ...         return {"largest error": float(abs(outputs - targets).max())}
    >>> isinstance(Bounded(), qat.Task), Bounded().words("largest error", 0.25)
    (True, 'largest error 0.25')
    """

    name: ClassVar[str] = ""  #: under which --task knows it
    METRICS: ClassVar[Mapping[str, Metric]] = {}  #: by name; those that are not here are better the higher they are

    uses_images: ClassVar[bool] = False  #: whether ``targets`` needs the images, which may have to be read for it

    # -- what a task states -----------------------------------------------------------------------------------------

    @abstractmethod
    def loss(self, ops: Ops, outputs: Any, targets: Any) -> Tensor:
        """What training minimises: a mean over the samples.

        Args:
            ops: the vocabulary.
            outputs: of the network, (N, ...), logits where it ends in a softmax.
            targets: as ``targets`` gives them.

        Returns:
            A scalar.
        """

    @abstractmethod
    def check_labels(self, shape: Shape, labels: Any, where: str, network: str) -> None:
        """Raise QatError, in one line, unless labels fit an output.

        Args:
            shape: of the output, without N.
            labels: of a split.
            where: the data set, for the message.
            network: its name, for the message.
        """

    def targets(self, graph: Graph, images: Arrays, labels: Any) -> Any:
        """From a batch to what ``loss`` takes: float32 of the outputs' shape, or whatever the loss needs.

        Args:
            graph: the network.
            images: of the batch; not given in evaluations unless ``uses_images``.
            labels: of the batch; a tuple where the loader mixes samples.

        Returns:
            An array, or a tuple of arrays, each with one row for each sample.
        """
        return labels

    def outputs_needed(self, labels: Any, classes: int) -> int | None:
        """How many outputs a network needs for such labels, for networks that are fitted to data.

        Args:
            labels: of a split.
            classes: how many have names; 0 where none have.

        Returns:
            The number; None where labels do not tell, or do not suit the task, which ``check_labels`` then says.
        """
        return None

    @abstractmethod
    def metrics(self, graph: Graph | IntegerGraph, outputs: Any, split: Split) -> dict[str, float]:
        """How good outputs are, in NumPy.

        Args:
            graph: the network, float, quantized or its integers.
            outputs: real numbers, (N, ...); of integers their codes times the scale.
            split: its images and labels.

        Returns:
            Values by the metric's name, the main one first.
        """

    def smoothed(self, share: float) -> Task:
        """The task with its targets spread over all classes by this share, in training alone. Raises QatError where it has no
        classes.
        """
        if share:
            raise QatError(
                f"label_smoothing is {share:g}, but {self.name} has no classes to spread a target over; leave it out"
            )
        return self

    def weighted(self, weights: tuple[float, ...]) -> Task:
        """The task with a weight for each class. Raises QatError where it takes none."""
        raise QatError(
            f"class_weights: {self.name} takes none; they are of classification and segmentation, leave them out"
        )

    def per_class(self, outputs: Any, labels: Any) -> list[Table]:
        """Figures of each class. Raises QatError where the task has none."""
        raise QatError(f"--per_class: {self.name} has no classes; leave it out")

    def confusion(self, outputs: Any, labels: Any) -> Array:
        """How often each class was taken for each, int64 (K, K), a row for each true class. Raises QatError where the task has
        no classes that exclude one another.
        """
        raise QatError(f"--confusion: {self.name} has no classes that exclude one another; leave it out")

    def answer(self, outputs: Any) -> Table:
        """What is said of one sample: the numbers of the output. outputs: (1, ...)."""
        numbers = outputs.reshape(-1)
        return Table("", "number", ("output",), tuple(map(str, range(len(numbers)))), [(f"{x:.6g}",) for x in numbers])

    # -- what follows -----------------------------------------------------------------------------------------------

    def check(self, graph: Graph | IntegerGraph, split: Split, where: str) -> None:
        """Raise QatError unless the network has one output, and the labels fit it.

        Args:
            graph: the network, or its integers.
            split: with the labels.
            where: the data set, for the message.
        """
        shapes = shapes_of(graph)
        if len(shapes) != 1:
            each = " ".join(f"{name}=..." for name in output_names(graph))
            raise QatError(
                f"{where}: {graph.name} has {len(shapes)} outputs, but {self.name} is of one; give each its task: --task {each}"
            )
        self.check_output(graph, 0, split, where)

    def check_output(self, graph: Graph | IntegerGraph, number: int, split: Split, where: str) -> None:
        """Raise QatError unless one of the network's outputs, and its labels, suit the task.

        Args:
            graph: the network, or its integers.
            number: of the output.
            split: with the labels of this output alone.
            where: the data set, and of several outputs the output, for the message.
        """
        self.check_labels(shapes_of(graph)[number], split.labels, where, graph.name)

    def higher_is_better(self, metric: str) -> bool:
        """Whether a higher value of this metric is better."""
        return self.METRICS.get(metric, Metric()).higher

    def value(self, metric: str, value: float) -> str:
        """A value as text, without its name: "98.21 %", "0.132"."""
        return f"{100 * value:.2f} %" if self.is_percent(metric) else f"{value:.4g}"

    def words(self, metric: str, value: float) -> str:
        """A value as text, with its name: "top-1 98.21 %", "MAE 0.132"."""
        return f"{metric} {self.value(metric, value)}"

    def label(self, metric: str, *, short: bool = False) -> str:
        """What a metric is called where commands print it. short: within a line."""
        return metric

    def lost(self, metric: str, before: float, after: float) -> float:
        """How much worse ``after`` is than ``before``; negative where it is better."""
        return before - after if self.higher_is_better(metric) else after - before

    def is_percent(self, metric: str) -> bool:
        """Whether it is a share that is written in percent."""
        return self.METRICS.get(metric, Metric()).percent


def main(metrics: Mapping[str, float]) -> tuple[str, float]:
    """The main metric, which is the first.

    Args:
        metrics: of ``Task.metrics``.

    Returns:
        Its name and its value.
    """
    return next(iter(metrics.items()))


def shapes_of(graph: Graph | IntegerGraph) -> list[Shape]:
    """The shapes of a network's outputs, without N."""
    shapes = getattr(graph, "shapes", None)  # (an integer graph's tensors know their own)
    outputs: Sequence[Any] = graph.outputs
    return [x.shape if shapes is None else shapes[x] for x in outputs]


def output_names(graph: Graph | IntegerGraph) -> list[str]:
    """The names of a network's outputs, alike for a float network and the quantized one that is made of it."""
    outputs: Sequence[Any] = graph.outputs
    return [getattr(output, "name", output).removesuffix(".fake_quant") for output in outputs]


def described(labels: Any) -> str:
    """Labels in words, for messages."""
    if labels is None:
        return "none"
    if isinstance(labels, tuple):
        return f"a tuple of {len(labels)}"
    return f"{labels.dtype} {tuple(labels.shape)}"


def rows_of(labels: Any, start: int, stop: int) -> Any:
    """Some rows of labels or images: an array, ``Rows``, a tuple of them, or None."""
    if labels is None:
        return None
    return as_arrays(tuple(x[start:stop] for x in as_tuple(labels)))


def evaluated_loss(task: Task, graph: Graph, outputs: Arrays, split: Split, loss: Loss | None = None) -> float:
    """The loss of real outputs in NumPy: float64, except where the vocabulary rounds.

    Args:
        task: whose loss, and whose targets.
        graph: the network.
        outputs: (N, ...), a tuple where it has several.
        split: its images and labels.
        loss: in place of the task's.

    Returns:
        The mean over the samples.
    """
    function = loss or task.loss
    found = as_tuple(outputs)
    count = len(found[0])
    size = max(MOST_NUMBERS // max(sum(x[0].size for x in found), 1), 1) if count else 1
    total = 0.0
    for start in range(0, count, size):
        stop = min(start + size, count)
        real = as_arrays(tuple(x[start:stop].astype(np.float64) for x in found))
        images: Any = rows_of(split.images, start, stop) if task.uses_images else None
        targets = task.targets(graph, images, rows_of(split.labels, start, stop))
        mean = float(np.asarray(function(NUMPY_OPS, real, targets)).reshape(()))
        total += mean if count == stop - start else mean * (stop - start) / count
    return total


def real_numbers(array: Any, shape: Shape, count: int) -> Array:
    """Labels as float32 of the outputs' shape: (N,) becomes (N, 1)."""
    return np.asarray(array, np.float32).reshape(count, *shape)


def check_rows(task: Task, labels: Any, where: str) -> None:
    """Raise QatError unless the labels are an array."""
    if labels is None:
        raise QatError(
            f"{where}: has no labels, which {task.name} needs; give data with labels, or --task reconstruction"
        )
    if isinstance(labels, tuple):
        raise QatError(
            f"{where}: has {len(labels)} kinds of labels, but {task.name} is of one output; give each output its task, as "
            "--task a=classification b=regression"
        )
