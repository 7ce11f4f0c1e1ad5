"""Classify pictures with a checkpoint or an exported file: the best five classes of one, the accuracy on many."""

from __future__ import annotations

import argparse
import sys

import numpy as np

from qat.cli import run_script
from qat.console import print_table
from qat.data.pictures import read_picture
from qat.scripts.common import pictures
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
    shares = _softmax(classifier(pixels[np.newaxis])[0])
    best = np.argsort(-shares, kind="stable")[: pictures.SHOWN]
    names = classifier.names
    rows = [(names[label] if names else str(label), f"{100 * shares[label]:.2f} %") for label in best]
    print_table(args.image, ("class", "probability"), rows)


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
