"""The certificate: what a verification found."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from qat import tasks

REFERENCE = "NumPy integers"


@dataclass(frozen=True)
class Comparison:
    """One engine against the reference.

    Attributes:
        engine: Its name, version and options.
        codes: How many output codes were compared.
        differ: How many of them differ.
        largest: The largest difference of two codes.
        metrics: Of the network's task, by name, the main one first; none where the labels are not those of the task.
        divergence: Where they differ first, node, image and element; None where they do not.
        arithmetic: The engine's, "float" or "fixed", and that of the reference that it was compared with.
    """

    engine: str
    codes: int
    differ: int
    largest: int
    metrics: Mapping[str, float]
    divergence: str | None
    arithmetic: str = "float"

    @property
    def top1(self) -> float | None:
        """Accuracy, 0 to 1; None where the task is none with a top-1."""
        return self.metrics.get("top-1")


@dataclass(frozen=True)
class Certificate:
    """What ``verify`` found.

    Attributes:
        file: The exported file, or "".
        network: The name of the graph.
        data: What the images are.
        images: How many.
        reference_metrics: Of the reference, as ``Comparison.metrics``.
        comparisons: One for each engine.
        matrix: Codes that differ, pair by pair: the reference, then the engines in order.
        arithmetic: Of the reference, "float" or "fixed".
        metrics_by_arithmetic: Of the reference in each arithmetic, where the engines have several; else empty.
        task: What the network is for: by it metrics are written.
    """

    file: str
    network: str
    data: str
    images: int
    reference_metrics: Mapping[str, float]
    comparisons: tuple[Comparison, ...]
    matrix: tuple[tuple[int, ...], ...]
    arithmetic: str = "float"
    metrics_by_arithmetic: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    task: tasks.Task = field(default_factory=tasks.Classification)

    @property
    def reference_top1(self) -> float | None:
        """Accuracy of the reference, 0 to 1; None where the task is none with a top-1."""
        return self.reference_metrics.get("top-1")

    @property
    def passed(self) -> bool:
        """True where no code differs."""
        return all(comparison.differ == 0 for comparison in self.comparisons)

    def summary(self) -> str:
        """One line for each engine, and where one differs, the first difference."""
        lines = []
        for number, comparison in enumerate(self.comparisons, 1):
            line = f"{comparison.codes:,} codes compared in {comparison.engine}, {comparison.differ:,} differ"
            if comparison.differ:
                line += f" (by at most {comparison.largest}); {comparison.divergence}"
            if comparison.arithmetic != self.arithmetic:
                others = self.matrix[0][number]
                line += (
                    f" from the {comparison.arithmetic} arithmetic, {others:,} from the {self.arithmetic} arithmetic"
                )
            lines.append(line)
        return "\n".join(lines)

    def to_json(self) -> str:
        """For the exported file's metadata, which name the task elsewhere."""
        return json.dumps({name: value for name, value in asdict(self).items() if value != {} and name != "task"})
