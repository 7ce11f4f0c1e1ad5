"""What several commands print: accuracies and certificates."""

from __future__ import annotations

import argparse

import numpy as np

import qat
from qat.console import print_table
from qat.data import Dataset, Split
from qat.deploy.verify import REFERENCE, Certificate
from qat.training.checkpoint import Checkpoint
from qat.training.loop import evaluate_accuracy


def print_accuracies(args: argparse.Namespace, before: Checkpoint, after: Checkpoint, dataset: Dataset) -> None:
    """Of two checkpoints on the test images, in the backend that the arguments name."""
    backend = qat.backend(args.backend)
    for words, each in (("before: ", before), ("after:  ", after)):
        top1 = evaluate_accuracy(backend, each, dataset.test, device_target=args.device_target)
        print(f"Accuracy {words}{100 * top1:.2f}")


def note_if_guessing(top1: float, split: Split, name: str, remedy: str) -> None:
    """Say so where a network is no better than one that always answers the most frequent class. top1: its accuracy, 0 to 1."""
    guessed = float(np.bincount(split.labels).max()) / len(split)
    if top1 <= guessed < 1.0:
        print(
            f"note: {name} is no better than always answering the most frequent class, {100 * guessed:.2f} %: its training "
            f"has failed; {remedy}"
        )


def percent(top1: float | None) -> str:
    """An accuracy, 0 to 1, as text; nothing where there is none."""
    return "" if top1 is None else f"{100 * top1:.2f} %"


def print_certificate(certificate: Certificate) -> None:
    """A certificate as a table and, of more than two engines, the table of how many codes differ between each two."""
    several = certificate.top1_by_arithmetic  # then each engine is compared with NumPy's integers in its own
    references = several or {certificate.arithmetic: certificate.reference_top1}
    rows: list[tuple[str, ...]] = [(REFERENCE, name, "", "", "", percent(top1)) for name, top1 in references.items()]
    rows += [
        (x.engine, x.arithmetic, f"{x.codes:,}", f"{x.differ:,}", str(x.largest), percent(x.top1))
        for x in certificate.comparisons
    ]
    columns: tuple[str, ...] = ("engine", "arithmetic", "codes compared", "differ", "by at most", "top-1")
    if not several:
        columns, rows = columns[:1] + columns[2:], [row[:1] + row[2:] for row in rows]
    arithmetic = "" if certificate.arithmetic == "float" else f", arithmetic {certificate.arithmetic}"
    print_table(
        f"Certificate: {certificate.file}, {certificate.images:,} images ({certificate.data}){arithmetic}",
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
