"""Run a checkpoint or an exported file: the best classes of pictures or other samples, or with labels the accuracy (or other
metrics).
"""

from __future__ import annotations

import argparse
import csv
import io
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from qat.cli import run_script
from qat.console import Column, percent, print_table, result, wrote
from qat.errors import QatError
from qat.files import check_writable, write_atomically
from qat.scripts.common import pictures
from qat.scripts.common.unlabelled import has_no_labels, samples_of
from qat.tables import counted, named
from qat.tasks import Classification, OutputTask, Several
from qat.vocabulary.arrays import as_tuple
from qat.vocabulary.ops import Array


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's flags."""
    pictures.add_arguments(parser, "--model", "--input_path")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--image",
        nargs="+",
        metavar="PATH",
        help="samples without labels, whose best classes are printed: pictures, folders of pictures, .npz or .npy files",
    )
    pictures.add_test_argument(what, required=False)
    parser.add_argument(
        "--csv_path", metavar="FILE.csv", help="of --image: also write the best class of each sample as CSV"
    )


def run(args: argparse.Namespace) -> None:
    """Run the command."""
    if args.csv_path:
        check_writable(args.csv_path)
    classifier = pictures.load_classifier(args)
    if args.test_path and not has_no_labels(args.test_path):
        if args.csv_path:
            raise QatError("--csv_path: is of samples without labels; give them as --image, or leave it out")
        pictures.print_accuracy(classifier, args.test_path)
        return
    paths = args.image or [args.test_path]
    result(model=classifier.path, task=classifier.task.name)
    if isinstance(classifier.task, Classification):
        _classify(args, classifier, paths)
        return
    if args.csv_path:
        raise QatError(f"--csv_path: is of classifiers, and {args.model} is for {classifier.task.name}; leave it out")
    for names, samples in samples_of(paths, classifier):
        for name, sample in zip(names, samples, strict=True):
            _print_answers(name, classifier, sample)


def _classify(args: argparse.Namespace, classifier: pictures.Classifier, paths: Sequence[str]) -> None:
    """The best classes of each sample: of a single one a table of five, of several a line each."""
    found: list[dict[str, Any]] = []
    for names, samples in samples_of(paths, classifier):
        for name, logits in zip(names, classifier(samples), strict=True):
            shares = _softmax(logits)
            best = np.argsort(-shares, kind="stable")[: pictures.SHOWN]
            found.append(
                {"file": name, "classes": [(_name(classifier, x), float(shares[x]), int(x)) for x in best.tolist()]}
            )
    columns = (Column("class"), Column("probability", form=percent), Column("", "number", None))
    result(samples=[{"file": x["file"], "classes": named(columns, x["classes"])} for x in found])
    if len(found) == 1:
        print_table(found[0]["file"], columns, found[0]["classes"], None)
    else:
        rows = [(x["file"], *x["classes"][0]) for x in found]
        print_table(counted(len(found), "sample"), (Column("sample"), *columns), rows, None)
    if args.csv_path:
        text = io.StringIO()
        write = csv.writer(text, lineterminator="\n").writerow
        write(("sample", "class", "number", "probability"))
        for x in found:
            name, share, number = x["classes"][0]
            write((x["file"], name, number, f"{share:.6g}"))
        write_atomically(args.csv_path, text.getvalue().encode())
        wrote(args.csv_path, "wrote")


def _name(classifier: pictures.Classifier, label: int) -> str:
    return classifier.names[label] if label < len(classifier.names) else str(label)


def _print_answers(image: str, classifier: pictures.Classifier, pixels: Array) -> None:
    """What a network that is no classifier says of a sample, a table for each output."""
    task = classifier.task
    parts = task.parts if isinstance(task, Several) else (OutputTask("", task),)
    for part, output in zip(parts, as_tuple(classifier.compute(pixels[np.newaxis])), strict=True):
        table, names = part.task.answer(output), classifier.names
        shown = [names[int(k)] if int(k) < len(names) else k for k in table.names]
        rows = [(name, *row) for name, row in zip(shown, table.rows, strict=True)]
        print_table(f"{image}{': ' * bool(part.output)}{part.output}", (table.what, *table.columns), rows)


def _softmax(logits: Array) -> Array:
    """Probabilities; such as are none already."""
    logits = logits.astype(np.float64)
    if (
        logits.min() >= 0.0 and abs(logits.sum() - 1.0) < 0.02
    ):  # the file ends in a softmax, whose codes are 1/256 apart
        return logits
    e = np.exp(logits - logits.max())
    shares: Array = e / e.sum()
    return shares


if __name__ == "__main__":
    sys.exit(run_script(add_arguments, run, __doc__))
