"""The certificate: what a verification found."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from qat import tasks
from qat.tables import counted
from qat.vocabulary.listing import Listed, Listing, Row

REFERENCE = "NumPy integers"


def statement(
    file: str | Path, arithmetic: str, trained: str, counted: tuple[int, int] | None, samples: str = "on the samples"
) -> str:
    """What is to be said of a file that computes another arithmetic than training.

    Args:
        file: Its name.
        arithmetic: What it computes.
        trained: What training evaluated.
        counted: How many codes differ, and how many there are; None where nobody has counted them.
        samples: What they were counted on, after "codes differ".

    Returns:
        One line.
    """
    found = (
        "the codes are not compared, verify counts those that differ"
        if counted is None
        else f"{counted[0]:,} of {counted[1]:,} codes differ {samples}"
    )
    return f"{file} computes the {arithmetic} arithmetic, where training evaluated the {trained} one: {found}"


@dataclass(frozen=True)
class Apart:
    """How far the two arithmetics of one network are apart on the samples, both computed by NumPy.

    Attributes:
        trained: The network's own, in which training evaluated it.
        codes: How many output codes were compared.
        differ: How many of them are other ones in the other arithmetic.
    """

    trained: str
    codes: int
    differ: int


@dataclass(frozen=True)
class FloatNumbers:
    """What layers that are left in float gave in one engine, against the reference's, from the engine's own codes before them.

    Attributes:
        tolerance: As a share of the largest number that such a layer gives.
        compared: How many numbers were compared.
        beyond: How many were further off.
        largest: The largest difference, as such a share; of codes, the least that explains them.
    """

    tolerance: float
    compared: int
    beyond: int
    largest: float


@dataclass(frozen=True)
class Comparison:
    """One engine against the reference.

    Attributes:
        engine: Its name, version and options.
        codes: How many output codes were compared; with float layers, codes that enter them too.
        differ: How many of them differ.
        largest: The largest difference of two codes.
        metrics: Of the network's task, by name, the main one first; none where the labels are not those of the task.
        divergence: Where they differ first, node, image and element; None where they do not.
        arithmetic: The engine's, "float" or "fixed", and that of the reference that it was compared with.
        floats: Of layers that are left in float; None where there are none. Codes behind them are then compared with those
            that the reference computes from what the engine had there.
        file: The exported file that the engine runs; "" where it runs none.
    """

    engine: str
    codes: int
    differ: int
    largest: int
    metrics: Mapping[str, float]
    divergence: str | None
    arithmetic: str = "float"
    floats: FloatNumbers | None = None
    file: str = ""

    @property
    def passed(self) -> bool:
        """True where no code differs, and no number of a float layer by more than the tolerance."""
        return self.differ == 0 and (self.floats is None or self.floats.beyond == 0)

    @property
    def top1(self) -> float | None:
        """Accuracy, 0 to 1; None where the task is none with a top-1."""
        return self.metrics.get("top-1")


@dataclass(frozen=True)
class Certificate(Listed):
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
        float_layers: The layers that are left in float, behind which equality is not promised; empty where there are none.
        apart: How many codes are other than those of training, where a file computes another arithmetic; None where none does.
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
    float_layers: tuple[str, ...] = ()
    apart: Apart | None = None

    def __repr__(self) -> str:
        codes, differ = (sum(getattr(x, name) for x in self.comparisons) for name in ("codes", "differ"))
        of = self.file or self.network
        compared = f"{counted(codes, 'code')} compared, {differ:,} differ{'s' * (differ == 1)}"
        return f"Certificate of {of}, {counted(self.images, 'sample')}, {compared}"

    def __str__(self) -> str:
        return self.summary()

    @property
    def _listing(self) -> Listing:
        several = self.metrics_by_arithmetic  # then each engine is compared with NumPy's integers in its own
        references = several or {self.arithmetic: self.reference_metrics}
        rows = [Row((REFERENCE, name, "", "", "", self._main(metrics))) for name, metrics in references.items()] + [
            Row(
                (x.engine, x.arithmetic, f"{x.codes:,}", f"{x.differ:,}", str(x.largest), self._main(x.metrics)),
                x.divergence or "",
            )
            for x in self.comparisons
        ]
        columns = ("engine", "arithmetic", "codes compared", "differ", "by at most", "metric")
        return Listing(f"{self!r} ({self.data})", columns, tuple(rows))

    def _main(self, metrics: Mapping[str, float]) -> str:
        return self.task.words(*tasks.main(metrics)) if metrics else ""

    def of_file(self, draft: Path, path: Path) -> Certificate:
        """The same of a file that has moved.

        Args:
            draft: Where it was.
            path: Where it is.

        Returns:
            The certificate.
        """
        comparisons = [replace(x, file=str(path)) if x.file == str(draft) else x for x in self.comparisons]
        return replace(self, file=str(path), comparisons=tuple(comparisons))

    @property
    def arithmetic_statements(self) -> tuple[str, ...]:
        """One line for each file that computes another arithmetic than training."""
        if self.apart is None:
            return ()
        counted = self.apart.differ, self.apart.codes
        others = [x for x in self.comparisons if x.file and x.arithmetic != self.apart.trained]
        return tuple(statement(x.file, x.arithmetic, self.apart.trained, counted) for x in others)

    @property
    def reference_top1(self) -> float | None:
        """Accuracy of the reference, 0 to 1; None where the task is none with a top-1."""
        return self.reference_metrics.get("top-1")

    @property
    def passed(self) -> bool:
        """True where no code differs, and no number of a float layer by more than the tolerance."""
        return all(comparison.passed for comparison in self.comparisons)

    @property
    def float_statement(self) -> str | None:
        """What is not promised of a network with layers that are left in float; None of any other."""
        floats = next((x.floats for x in self.comparisons if x.floats is not None), None)
        if floats is None:
            return None
        return (
            f"left in float: {', '.join(self.float_layers)}. Behind them equality is not promised: their numbers are compared "
            f"within {floats.tolerance:g} of the largest one, codes behind them with those that follow from the engine's own"
        )

    def summary(self) -> str:
        """Which file computes another arithmetic than training, if any; what is not promised, if anything; one line for each
        engine, and where one differs, the first difference.
        """
        lines = [*self.arithmetic_statements, *filter(None, [self.float_statement])]
        for number, comparison in enumerate(self.comparisons, 1):
            line = f"{counted(comparison.codes, 'code')} compared in {comparison.engine}, {comparison.differ:,} differ"
            line += "s" * (comparison.differ == 1)
            if comparison.differ:
                line += f" (by at most {comparison.largest})"
            if comparison.floats is not None:
                floats = comparison.floats
                line += f"; {floats.compared:,} numbers of float layers, {floats.beyond:,} beyond the tolerance, "
                line += f"by at most {floats.largest:.2g}"
            if comparison.divergence is not None:
                line += f"; {comparison.divergence}"
            if comparison.arithmetic != self.arithmetic:
                others = self.matrix[0][number]
                line += (
                    f" from the {comparison.arithmetic} arithmetic, {others:,} from the {self.arithmetic} arithmetic"
                )
            lines.append(line)
        return "\n".join(lines)

    def to_json(self) -> str:
        """For the exported file's metadata, which name the task elsewhere."""
        entries = {
            name: value for name, value in asdict(self).items() if value not in ({}, (), None) and name != "task"
        }
        for comparison in entries["comparisons"]:
            for name in ("floats", "file"):
                if not comparison[name]:
                    del comparison[name]
        stated = {"arithmetics": "; ".join(self.arithmetic_statements), "not_promised": self.float_statement}
        return json.dumps({name: text for name, text in stated.items() if text} | entries)
