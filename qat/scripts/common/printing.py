"""What several commands print: metrics and certificates; and what they keep of themselves."""

from __future__ import annotations

import argparse
from collections.abc import Mapping

import numpy as np

import qat
from qat.console import print_table
from qat.data import Dataset, Split
from qat.deploy.certificate import REFERENCE, Certificate
from qat.errors import one_line
from qat.graph import Graph
from qat.integer.fixed_point import ARITHMETICS
from qat.tasks import Task, main
from qat.training.checkpoint import Checkpoint
from qat.training.loop import evaluate_metrics
from qat.training.resuming import COMMAND


def told(args: argparse.Namespace) -> dict[str, str]:
    """The command line, for the history of what it makes; nothing where a function was called."""
    line = getattr(args, "command_line", None)
    return {} if line is None else {COMMAND: line}


def print_accuracies(args: argparse.Namespace, before: Checkpoint, after: Checkpoint, dataset: Dataset) -> None:
    """Of two checkpoints on the test images, in the backend that the arguments name."""
    backend = qat.backend(args.backend)
    print_arithmetic(after.graph)
    for words, each in (("before: ", before), ("after:  ", after)):
        metrics = evaluate_metrics(backend, each, dataset.test, device_target=args.device_target)
        print_metric(each.task, metrics, f" {words}")


def print_metric(task: Task, metrics: Mapping[str, float], words: str = ": ") -> None:
    """The main metric in one line, as "Accuracy: 98.21", or with other words than the colon, "Accuracy before: 98.21"."""
    name, value = main(metrics)
    print(f"{task.label(name)}{words}{task.figure(name, value)}")


def print_metrics(task: Task, metrics: Mapping[str, float]) -> None:
    """A line for each metric."""
    for metric in metrics.items():
        print_metric(task, dict([metric]))


def print_arithmetic(graph: Graph, words: str = "") -> None:
    """In which arithmetic a quantized network's metrics are, where it is not the float one, which it has by itself. words:
    before it.
    """
    if graph.is_quantized and graph.arithmetic != ARITHMETICS[0]:
        print(f"{words}arithmetic: {graph.arithmetic}")


def note_if_guessing(metrics: Mapping[str, float], split: Split, name: str, remedy: str) -> None:
    """Say so where a classifier is no better than one that always answers the most frequent class, or a regression than one
    that always answers the mean.
    """
    if metrics.get("R2", 1.0) <= 0.0:
        print(f"note: {name} is no better than always answering the mean label: its training has failed; {remedy}")
    if "top-1" not in metrics:
        return
    top1 = metrics["top-1"]
    guessed = float(np.bincount(split.labels).max()) / len(split)
    if top1 <= guessed < 1.0:
        print(
            f"note: {name} is no better than always answering the most frequent class, {100 * guessed:.2f} %: its training "
            f"has failed; {remedy}"
        )


def main_value(task: Task, metrics: Mapping[str, float]) -> str:
    """The main metric as text, without its name; nothing where there is none."""
    return task.value(*main(metrics)) if metrics else ""


def print_arithmetics(certificate: Certificate) -> None:
    """What has to be the first line of a command's output: which file computes another arithmetic than training."""
    for text in certificate.arithmetic_statements:
        print(one_line(text))


def print_certificate(certificate: Certificate) -> None:
    """A certificate as a table and, of more than two engines, the table of how many codes differ between each two."""
    several = certificate.metrics_by_arithmetic  # then each engine is compared with NumPy's integers in its own
    references = several or {certificate.arithmetic: certificate.reference_metrics}
    task, known = certificate.task, certificate.reference_metrics
    rows: list[tuple[str, ...]] = [
        (REFERENCE, name, "", "", "", main_value(task, metrics)) for name, metrics in references.items()
    ]
    rows += [
        (x.engine, x.arithmetic, f"{x.codes:,}", f"{x.differ:,}", str(x.largest), main_value(task, x.metrics))
        for x in certificate.comparisons
    ]
    columns: tuple[str, ...] = (
        "engine",
        "arithmetic",
        "codes compared",
        "differ",
        "by at most",
        main(known)[0] if known else "top-1",
    )
    if not several:
        columns, rows = columns[:1] + columns[2:], [row[:1] + row[2:] for row in rows]
    arithmetic = "" if certificate.arithmetic == "float" else f", arithmetic {certificate.arithmetic}"
    print_table(
        f"Certificate: {certificate.file}, {certificate.images:,} samples ({certificate.data}){arithmetic}",
        columns,
        rows,
    )
    if len(certificate.comparisons) > 2:
        names = [f"{REFERENCE}, {certificate.arithmetic}" if several else REFERENCE]
        names += [x.engine for x in certificate.comparisons]
        print_table(
            "Codes that differ, pair by pair" + (": two arithmetics round some codes otherwise" if several else ""),
            ("", *map(str, range(len(names)))),
            [
                (f"{i} {name}", *(f"{n:,}" for n in row))
                for i, (name, row) in enumerate(zip(names, certificate.matrix, strict=True))
            ],
        )
    print(certificate.summary())
