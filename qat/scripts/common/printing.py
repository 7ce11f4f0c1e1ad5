"""What several commands print: metrics and certificates; and what they keep of themselves."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

import qat
from qat.console import Column, count, note, print_table, result
from qat.data import Dataset, Split
from qat.deploy.certificate import REFERENCE, Certificate
from qat.graph import Graph
from qat.integer.fixed_point import ARITHMETICS
from qat.tables import counted
from qat.tasks import Task, main
from qat.training.checkpoint import Checkpoint
from qat.training.loop import evaluate_metrics
from qat.training.resuming import COMMAND

MUCH = 0.05  #: of the accuracy, as a share: what nobody wants to lose by quantization


def told(args: argparse.Namespace) -> dict[str, str]:
    """The command line, for the history of what it makes; nothing where a function was called."""
    line = getattr(args, "command_line", None)
    return {} if line is None else {COMMAND: line}


def print_accuracies(args: argparse.Namespace, before: Checkpoint, after: Checkpoint, dataset: Dataset) -> None:
    """Of two checkpoints on the test images, in the backend that the arguments name; and what to do where much is lost."""
    backend, found = qat.backend(args.backend), []
    print_arithmetic(after.graph)
    for words, each, key in (("before: ", before, "metrics_before"), ("after:  ", after, "metrics")):
        metrics = evaluate_metrics(backend, each, dataset.test, device_target=args.device_target)
        print_metric(each.task, metrics, f" {words}", key)
        found.append(metrics.get("top-1", 0.0))
    if found[0] - found[1] > MUCH:
        note(
            f"{100 * (found[0] - found[1]):.2f} points of accuracy are lost; diagnose says in which layers, calibrate "
            "--target_drop gives the fewest of them more bits, train-quant adapts the weights"
        )


def print_metric(task: Task, metrics: Mapping[str, float], words: str = ": ", key: str = "metrics") -> None:
    """Give all metrics, and print the main one in a line, as "Accuracy: 98.21 %", or with other words than the colon,
    "Accuracy before: 98.21 %". key: in the JSON document.
    """
    name, value = main(metrics)
    result(f"{task.label(name)}{words}{task.value(name, value)}", **{key: dict(metrics)})


def print_metrics(task: Task, metrics: Mapping[str, float], more: str = "") -> None:
    """A line for each metric. more: behind the first one."""
    for name, value in metrics.items():
        result(f"{task.label(name)}: {task.value(name, value)}{more}", metrics={name: value})
        more = ""


def print_arithmetic(graph: Graph, words: str = "") -> None:
    """In which arithmetic a quantized network's metrics are, where it is not the float one, which it has by itself. words:
    before it.
    """
    if graph.is_quantized:
        own = graph.arithmetic == ARITHMETICS[0]
        result("" if own else f"{words}arithmetic: {graph.arithmetic}", arithmetic=graph.arithmetic)


def note_if_guessing(metrics: Mapping[str, float], split: Split, name: str, remedy: str) -> None:
    """Say so where a classifier is no better than one that always answers the most frequent class, or a regression than one
    that always answers the mean.
    """
    if metrics.get("R2", 1.0) <= 0.0:
        note(f"{name} is no better than always answering the mean label: its training has failed; {remedy}")
    if "top-1" not in metrics:
        return
    top1 = metrics["top-1"]
    guessed = float(np.bincount(split.labels).max()) / len(split)
    if top1 <= guessed < 1.0:
        note(
            f"{name} is no better than always answering the most frequent class, {100 * guessed:.2f} %: its training "
            f"has failed; {remedy}"
        )


def main_value(task: Task, metrics: Mapping[str, float]) -> str:
    """The main metric as text, without its name; nothing where there is none."""
    return task.value(*main(metrics)) if metrics else ""


def print_arithmetics(certificate: Certificate) -> None:
    """What has to be the first line of a command's output: which file computes another arithmetic than training."""
    for text in certificate.arithmetic_statements:
        result(text, statements=[text])


def print_certificate(certificate: Certificate) -> None:
    """A certificate as a table and, of more than two engines, the table of how many codes differ between each two."""
    several = certificate.metrics_by_arithmetic  # then each engine is compared with NumPy's integers in its own
    references = several or {certificate.arithmetic: certificate.reference_metrics}
    task, known = certificate.task, certificate.reference_metrics
    rows: list[tuple[Any, ...]] = [
        (REFERENCE, name, None, None, None, main_value(task, metrics), dict(metrics))
        for name, metrics in references.items()
    ]
    rows += [
        (x.engine, x.arithmetic, x.codes, x.differ, x.largest, main_value(task, x.metrics), dict(x.metrics))
        for x in certificate.comparisons
    ]
    columns = [
        Column("engine"),
        Column("arithmetic", form=str if several else None),
        Column("codes compared", "codes", count),
        Column("differ", form=count),
        Column("by at most", "largest"),
        Column(main(known)[0] if known else "top-1", "shown"),
        Column("", "metrics", None),
    ]
    arithmetic = "" if certificate.arithmetic == "float" else f", arithmetic {certificate.arithmetic}"
    result(certificate=json.loads(certificate.to_json()), passed=certificate.passed)
    print_table(
        f"Certificate: {certificate.file}, {counted(certificate.images, 'sample')} ({certificate.data}){arithmetic}",
        columns,
        rows,
        "engines",
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
            None,
        )
    result(certificate.summary())
