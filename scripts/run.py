"""Classify pictures with a checkpoint or an exported file: the best five classes of one, the accuracy on many."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

import qat
from qat.arrays import Arrays, as_tuple
from qat.cells.base import Shape
from qat.checkpoint import Checkpoint
from qat.cli import run_script
from qat.console import print_table
from qat.data import accuracy
from qat.data.pictures import find_pictures, read_class_names, read_picture, read_pictures
from qat.errors import QatError
from qat.inference import predict
from qat.ops import Array
from qat.registry import suffixed, target_of
from qat.scripts import common
from qat.verify import default_profile, profile_options

SHOWN = 5  #: classes of one picture


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", required=True, metavar="FILE", help="checkpoint, or a file that export wrote")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--image", metavar="FILE", help="a picture: its best classes are printed")
    what.add_argument(
        "--test_path",
        metavar="PATH",
        help="a folder with one folder of pictures for each class, or a text file of lines 'picture.png class': the accuracy",
    )
    parser.add_argument("--class_names", metavar="FILE", help="the classes' names, one a line (default: numbers)")
    common.add_profile_argument(parser)
    common.add_backend_arguments(parser)


def run(args: argparse.Namespace) -> None:
    shape, compute = _model(args)
    names = read_class_names(args.class_names) if args.class_names else []
    if args.test_path:
        split, changes = read_pictures(find_pictures(args.test_path, names), shape)
    else:
        pixels, changes = read_picture(args.image, shape)
        changes = [f"{args.image} was {change}" for change in changes]
    for change in changes:
        print(f"note: {change}", file=sys.stderr)
    outputs = compute(split.images if args.test_path else pixels[np.newaxis])
    if names and len(names) != outputs.shape[1]:
        raise QatError(
            f"{args.class_names}: holds {len(names)} names but {args.model} gives {outputs.shape[1]} numbers; they belong to "
            "different networks"
        )
    if args.test_path:
        if split.labels.max() >= outputs.shape[1]:
            raise QatError(
                f"{args.test_path}: its classes reach {split.labels.max()} but {args.model} gives {outputs.shape[1]} numbers"
            )
        print(f"Accuracy: {100 * accuracy(outputs, split.labels):.2f} on {len(split):,} pictures")
        return
    shares = _softmax(outputs[0])
    best = np.argsort(-shares, kind="stable")[:SHOWN]
    rows = [(names[label] if names else str(label), f"{100 * shares[label]:.2f} %") for label in best]
    print_table(args.image, ("class", "probability"), rows)


def _model(args: argparse.Namespace) -> tuple[Shape, Callable[[Array], Array]]:
    """The shape of its input, and what computes its output, (N, classes)."""
    if not Path(args.model).is_file():
        raise QatError(f"{args.model}: there is no such file; give a checkpoint, or what export wrote")
    compute: Callable[[Array], Arrays]
    if suffixed(args.model) is None:
        checkpoint = Checkpoint.load(args.model)
        graph = checkpoint.graph
        model = qat.backend(args.backend).lower(graph, checkpoint.params, device_target=args.device_target)
        shapes = [graph.shapes[node.name] for node in graph.inputs]
        compute = partial(predict, model)
    else:
        target = target_of(args.model)
        shapes = target.input_shapes(args.model)
        compute = partial(
            target.predict, args.model, **profile_options(target, args.profile or default_profile(target, args.model))
        )
    if len(shapes) != 1:
        raise QatError(f"{args.model}: has {len(shapes)} inputs, but there is one picture; run it from Python")

    def classify(pixels: Array) -> Array:
        first, *others = as_tuple(compute(pixels))
        if others or first.ndim != 2:
            raise QatError(
                f"{args.model}: is no classifier: {1 + len(others)} outputs, the first of shape {first.shape[1:]}"
            )
        return first

    return shapes[0], classify


def _softmax(logits: Array) -> Array:
    """Probabilities; such as are none already."""
    logits = logits.astype(np.float64)
    if (
        logits.min() >= 0.0 and abs(logits.sum() - 1.0) < 0.02
    ):  # the file ends in a softmax, whose codes are 1/256 apart
        return logits
    e = np.exp(logits - logits.max())
    return e / e.sum()


if __name__ == "__main__":
    sys.exit(run_script(add_arguments, run, __doc__))
