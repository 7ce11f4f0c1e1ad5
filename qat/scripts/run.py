"""Run a checkpoint or an exported file on pictures: the best five classes of one, the accuracy on many (or other metrics)."""

from __future__ import annotations

import argparse
import sys

import numpy as np

from qat.cli import run_script
from qat.console import print_table
from qat.data.pictures import read_picture
from qat.scripts.common import pictures
from qat.tasks import Classification, OutputTask, Several
from qat.vocabulary.arrays import as_tuple
from qat.vocabulary.ops import Array


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's flags."""
    pictures.add_arguments(parser, "--model", "--input_path")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--image", metavar="FILE", help="a picture: its best classes are printed")
    pictures.add_test_argument(what, required=False)


def run(args: argparse.Namespace) -> None:
    """Run the command."""
    classifier = pictures.load_classifier(args)
    if args.test_path:
        pictures.print_accuracy(classifier, args.test_path)
        return
    pixels, changes = read_picture(args.image, classifier.shape, classifier.preparation)
    pictures.print_changes([f"{args.image} was {change}" for change in changes])
    if not isinstance(classifier.task, Classification):
        _print_answers(args.image, classifier, pixels)
        return
    shares = _softmax(classifier(pixels[np.newaxis])[0])
    best = np.argsort(-shares, kind="stable")[: pictures.SHOWN]
    names = classifier.names
    shown = [names[label] if label < len(names) else str(label) for label in best]
    rows = [(name, f"{100 * shares[label]:.2f} %") for name, label in zip(shown, best, strict=True)]
    print_table(args.image, ("class", "probability"), rows)


def _print_answers(image: str, classifier: pictures.Classifier, pixels: Array) -> None:
    """What a network that is no classifier says of a picture, a table for each output."""
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
