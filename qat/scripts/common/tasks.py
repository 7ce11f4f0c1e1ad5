"""Flags of tasks: which one, its loss, the weights of its classes, and figures of each class."""

from __future__ import annotations

import argparse
import csv
import io
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from qat import tasks
from qat.console import print_table, result, wrote
from qat.data import Dataset
from qat.data.class_names import class_names
from qat.errors import QatError, one_line, shortened
from qat.files import check_writable, write_atomically
from qat.graph import Graph
from qat.reading import read_text
from qat.tasks.base import output_names, shapes_of
from qat.training.checkpoint import Checkpoint
from qat.training.loop import check_labels
from qat.vocabulary.arrays import as_arrays
from qat.vocabulary.ops import Array

BALANCED = "balanced"
MOST_SHOWN = 12  #: classes whose confusion matrix fits a terminal


def add_task_argument(parser: argparse.ArgumentParser, otherwise: str = "the checkpoint's") -> None:
    """--task. otherwise: what it is where it is left out."""
    names = ", ".join(tasks.ADDED.names())
    parser.add_argument(
        "--task",
        nargs="+",
        metavar="TASK",
        help=f"what the network is for: {names}, or your own as package.module:Class; of several outputs one for each, as "
        f"a=classification b=regression:0.5, with the weight of its loss (default: {otherwise})",
    )


def add_loss_arguments(parser: argparse.ArgumentParser) -> None:
    """--loss and --class_weights."""
    parser.add_argument(
        "--loss",
        metavar="MODULE:FUNCTION",
        help="a loss of your own in place of the task's, whose module is then run: from (ops, outputs, targets) to a scalar",
    )
    parser.add_argument(
        "--class_weights",
        nargs="+",
        metavar="WEIGHT",
        help=f"a factor of the loss for each class: numbers, a text file with one a line, or {BALANCED!r}, by how rare it is",
    )


def with_task(args: argparse.Namespace, checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint with the task that --task names, or its own."""
    if args.task is None:
        return checkpoint
    task = tasks.create(args.task)
    if isinstance(task, tasks.Several):
        task = task.ordered(output_names(checkpoint.graph))
    return replace(checkpoint, task=task)


def with_weights(args: argparse.Namespace, task: tasks.Task, graph: Graph, dataset: Dataset) -> tasks.Task:
    """The task with the class weights that --class_weights asks for, or its own."""
    if args.class_weights is None:
        return task
    if args.class_weights == [BALANCED]:
        task.weighted(())  # raises for a task without classes, before labels are counted
        task.check(graph, dataset.train, dataset.source)
        classes = shapes_of(graph)[0][0]
        return task.weighted(tasks.balanced_weights(dataset.train.labels, classes, getattr(task, "ignored", None)))
    return task.weighted(read_weights(args.class_weights))


def read_weights(texts: Sequence[str]) -> tuple[float, ...]:
    """The numbers that --class_weights gives, or the file that it names. Raises QatError where they are none."""
    where = ""
    if len(texts) == 1 and not _is_number(texts[0]):
        where = f" {texts[0]}"
        texts = read_text(texts[0], "give --class_weights numbers, a text file of such, or 'balanced'").split()
    wrong = [text for text in texts if not _is_number(text)]
    if wrong or not texts:
        found = f"{shortened(wrong[0])} is no number" if wrong else "there is no number"
        raise QatError(f"--class_weights{where}: {found}; give one for each class")
    return tuple(map(float, texts))


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def loss_of(args: argparse.Namespace, task: tasks.Task, graph: Graph, dataset: Dataset) -> tasks.Loss | None:
    """The loss that --loss names, tried on two samples, since a step may fail over it in a framework's words; or None.

    Raises QatError where it fails, or gives no scalar.
    """
    if not args.loss:
        return None
    loss = tasks.own_loss(args.loss)
    check_labels(graph, dataset, task)
    some = dataset.train.chosen(np.arange(len(dataset.train))[:2]).in_memory()
    outputs = as_arrays(tuple(np.zeros((len(some), *shape), np.float32) for shape in shapes_of(graph)))
    try:
        with np.errstate(all="ignore"):
            tasks.evaluated_loss(task, graph, outputs, some, loss)
    except Exception as error:  # whatever the user's code may raise
        raise QatError(
            f"--loss {args.loss}: failed on two samples ({type(error).__name__}: {one_line(error)}); it has to make a scalar "
            "of (ops, outputs, targets) by what ops offers"
        ) from error
    return loss


def add_class_arguments(parser: argparse.ArgumentParser) -> None:
    """--per_class and --confusion."""
    parser.add_argument("--per_class", action="store_true", help="also a table of each class (or output)")
    parser.add_argument(
        "--confusion",
        metavar="FILE.csv",
        help=f"also how often each class was taken for each, as CSV; of up to {MOST_SHOWN} classes it is printed, too",
    )


def check_class_arguments(args: argparse.Namespace) -> None:
    """Raise QatError where the confusion matrix cannot be written."""
    if args.confusion:
        check_writable(args.confusion)


def print_classes(args: argparse.Namespace, task: tasks.Task, outputs: Any, labels: Any, *known: Sequence[str]) -> None:
    """What --per_class and --confusion ask for. known: names of the classes, as ``class_names`` takes them."""
    if args.per_class:
        for table in task.per_class(outputs, labels):
            names = class_names(table.names, *known)
            rows = [(name, *row) for name, row in zip(names, table.rows, strict=True)]
            print_table(table.title, (table.what, *table.columns), rows, "per_class")
    if args.confusion:
        counts = task.confusion(outputs, labels)
        names = class_names(len(counts), *known)
        result(confusion={"classes": names, "counts": counts})
        write_atomically(args.confusion, _csv(counts, names).encode())
        if len(counts) <= MOST_SHOWN:
            rows = [(name, *(f"{n:,}" for n in row)) for name, row in zip(names, counts.tolist(), strict=True)]
            print_table("Confusion matrix: a row for each true class", ("taken for", *names), rows, None)
        wrote(args.confusion, "wrote")


def _csv(counts: Array, names: Sequence[str]) -> str:
    text = io.StringIO()
    write = csv.writer(text, lineterminator="\n").writerow
    write(("true class", *names))
    for name, row in zip(names, counts.tolist(), strict=True):
        write((name, *row))
    return text.getvalue()
