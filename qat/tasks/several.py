"""Networks with several outputs, each with a task and a weight of its own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from qat.errors import QatError
from qat.tasks.base import Metric, Shape, Task, described, output_names
from qat.tasks.measures import Table
from qat.vocabulary.arrays import Arrays, as_tuple
from qat.vocabulary.ops import Array, Ops, Tensor
from qat.vocabulary.serial import Serializable

if TYPE_CHECKING:
    from qat.data import Split
    from qat.graph import Graph
    from qat.integer import IntegerGraph


@dataclass(frozen=True)
class OutputTask(Serializable):
    """The task of one output.

    Args:
        output: its name in the graph.
        task: of it.
        weight: of its loss in the sum, greater than 0; 1 by default.

    Raises:
        QatError: for another weight.
    """

    output: str
    task: Task
    weight: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 < self.weight < math.inf:
            raise QatError(f"--task {self.output}: its weight is {self.weight}; use a positive number")


@dataclass(frozen=True)
class Several(Task):
    """The loss is the weighted sum of the outputs' losses. Labels are a tuple, in the order of the outputs; the metrics are
    those of each output, behind its name, the main one that of the first.

    Args:
        parts: one for each output of the network, in their order.

    Raises:
        QatError: for less than two parts, or two of one output.

    >>> from qat.tasks import Classification, OutputTask, Regression, Several
    >>> task = Several((OutputTask("digit", Classification()), OutputTask("slant", Regression(), weight=0.5)))
    >>> task.words("slant MAE", 0.25)
    'slant MAE 0.25'
    """

    parts: tuple[OutputTask, ...]

    name = "several"

    def __post_init__(self) -> None:
        super().__post_init__()
        names = [part.output for part in self.parts]
        if len(names) < 2 or len(set(names)) < len(names):
            raise QatError(
                f"--task {' '.join(names)}: give each of several outputs one task, as a=classification b=regression"
            )

    @property
    def uses_images(self) -> bool:  # type: ignore[override]
        """Whether a part does."""
        return any(part.task.uses_images for part in self.parts)

    def loss(self, ops: Ops, outputs: Any, targets: Any) -> Tensor:
        total = None
        for part, output, own in zip(self.parts, outputs, targets, strict=True):
            term = part.task.loss(ops, output, own) * part.weight
            total = term if total is None else total + term
        return total

    def targets(self, graph: Graph, images: Arrays, labels: Any) -> Any:
        return tuple(
            part.task.targets(graph, images, own) for part, own in zip(self.parts, as_tuple(labels), strict=True)
        )

    def check(self, graph: Graph | IntegerGraph, split: Split, where: str) -> None:
        names = output_names(graph)
        own = [part.output for part in self.parts]
        if len(names) != len(own) or (hasattr(graph, "shapes") and not all(map(_is_of, names, own))):
            raise QatError(
                f"--task {' '.join(own)}: {graph.name} has the outputs {', '.join(names)}; give each of these its task, in any "
                "order"
            )
        labels = split.labels
        if not isinstance(labels, tuple) or len(labels) != len(own):
            raise QatError(
                f"{where}: labels are {described(labels)}, but {graph.name} has {len(own)} outputs; give a tuple of labels, in "
                "the order of the outputs"
            )
        for number, (part, own_labels) in enumerate(zip(self.parts, labels, strict=True)):
            part.task.check_output(graph, number, replace(split, labels=own_labels), f"{where}, output {part.output}")

    def check_labels(self, shape: Shape, labels: Any, where: str, network: str) -> None:
        raise QatError(f"{where}: {network}: several tasks cannot be that of one output; give it a task of its own")

    def metrics(self, graph: Graph | IntegerGraph, outputs: Any, split: Split) -> dict[str, float]:
        found = {}
        for part, output, labels in zip(self.parts, outputs, as_tuple(split.labels), strict=True):
            for name, value in part.task.metrics(graph, output, replace(split, labels=labels)).items():
                found[f"{part.output} {name}"] = value
        return found

    def ordered(self, outputs: Sequence[str]) -> Several:
        """The same in the order of a graph's outputs. Raises QatError where these are others."""
        own = {part.output: part for part in self.parts}
        found = [next((part for part in self.parts if _is_of(name, part.output)), None) for name in outputs]
        parts = tuple(part for part in found if part is not None)
        if len(outputs) != len(own) or len(set(parts)) < len(own):
            raise QatError(
                f"--task: there are tasks of {', '.join(own)}, but the network's outputs are {', '.join(outputs)}; give "
                "each of these one"
            )
        return replace(self, parts=parts)

    def smoothed(self, share: float) -> Task:
        """Spread over the classes of those parts that have such."""
        if not share:
            return self
        kept = [hasattr(part.task, "label_smoothing") for part in self.parts]
        if not any(kept):
            return super().smoothed(share)
        return replace(
            self,
            parts=tuple(
                replace(part, task=part.task.smoothed(share)) if has else part
                for part, has in zip(self.parts, kept, strict=True)
            ),
        )

    def per_class(self, outputs: Any, labels: Any) -> list[Table]:
        return [
            table._replace(title=f"{part.output}: {table.title}")
            for part, output, own in zip(self.parts, outputs, labels, strict=True)
            for table in part.task.per_class(output, own)
        ]

    def confusion(self, outputs: Any, labels: Any) -> Array:
        """Of the first output."""
        return self.parts[0].task.confusion(outputs[0], labels[0])

    def _of(self, metric: str) -> tuple[Task, str] | None:
        for part in self.parts:
            if metric.startswith(f"{part.output} "):
                return part.task, metric.removeprefix(f"{part.output} ")
        return None

    def higher_is_better(self, metric: str) -> bool:
        own = self._of(metric)
        return Metric().higher if own is None else own[0].higher_is_better(own[1])

    def is_percent(self, metric: str) -> bool:
        own = self._of(metric)
        return own is not None and own[0].is_percent(own[1])

    def label(self, metric: str, *, short: bool = False) -> str:
        own = self._of(metric)
        return metric if own is None else f"{metric.removesuffix(own[1])}{own[0].label(own[1], short=True)}"

    def value(self, metric: str, value: float) -> str:
        own = self._of(metric)
        return super().value(metric, value) if own is None else own[0].value(own[1], value)


def _is_of(name: str, output: str) -> bool:
    """Whether an output is that of a cell: quantization makes "fc.tanh.fake_quant" of "fc"."""
    return name == output or name.startswith(f"{output}.")
