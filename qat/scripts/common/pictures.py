"""What the commands that look at pictures share: a model of any kind, its accuracy, and the names of classes."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import qat
from qat.cells.base import Shape
from qat.data import accuracy
from qat.data.pictures import find_pictures, read_class_names, read_pictures
from qat.deploy.inference import predict
from qat.deploy.verify import arithmetic_options, default_arithmetic
from qat.errors import QatError, one_line
from qat.registry import suffixed
from qat.scripts.common.files import check_file, trusted_target
from qat.scripts.common.flags import add_arithmetic_argument, add_backend_arguments, add_trust_argument
from qat.training.checkpoint import Checkpoint
from qat.vocabulary.arrays import Arrays, as_tuple
from qat.vocabulary.ops import Array

SHOWN = 5  #: classes of one picture, and how many count as found in the second figure of many


class Classifier(NamedTuple):
    """shape: of its input, (C, H, W). compute: its output, (N, classes), from pixels. names: of the classes, or none."""

    path: str
    shape: Shape
    compute: Callable[[Array], Array]
    names: list[str]

    def __call__(self, pixels: Array) -> Array:
        """The output, (N, classes). Raises QatError where there are not as many names as classes."""
        outputs = self.compute(pixels)
        if self.names and len(self.names) != outputs.shape[1]:
            raise QatError(
                f"--class_names: holds {len(self.names)} names but {self.path} gives {outputs.shape[1]} numbers; they belong "
                "to different networks"
            )
        return outputs


def add_arguments(parser: argparse.ArgumentParser, *names: str) -> None:
    """The model, under the given names, and what it is run with."""
    parser.add_argument(
        *names,
        dest="model",
        required=True,
        metavar="FILE",
        help="checkpoint, or a file that export or compile wrote",
    )
    add_trust_argument(parser)
    parser.add_argument("--class_names", metavar="FILE", help="the classes' names, one a line (default: numbers)")
    add_arithmetic_argument(parser)
    add_backend_arguments(parser)


def add_test_argument(container: argparse._ActionsContainer, *, required: bool) -> None:
    """--test_path."""
    container.add_argument(
        "--test_path",
        required=required,
        metavar="PATH",
        help="a text file of lines 'picture.png class', or a folder with one folder of pictures for each class",
    )


def load_classifier(args: argparse.Namespace) -> Classifier:
    """The model that the arguments name. Raises QatError where it classifies no pictures."""
    check_file(args.model, "give a checkpoint, or what export wrote")
    compute: Callable[[Array], Arrays]
    if suffixed(args.model) is None:
        checkpoint = Checkpoint.load(args.model)
        graph = checkpoint.graph
        model = qat.backend(args.backend).lower(graph, checkpoint.params, device_target=args.device_target)
        specs = [*graph.input_specs]
        compute = partial(predict, model)
    else:
        target = trusted_target(args, args.model)
        specs = target.input_specs(args.model)
        running = arithmetic_options(target, args.arithmetic or default_arithmetic(target, args.model))

        def compute(pixels: Arrays) -> Arrays:
            return target.predict(args.model, pixels, **running)

    if len(specs) != 1:
        raise QatError(f"{args.model}: has {len(specs)} inputs, but there is one picture; run it from Python")

    def classify(pixels: Array) -> Array:
        first, *others = as_tuple(compute(pixels))
        if others or first.ndim != 2:
            raise QatError(
                f"{args.model}: is no classifier: {1 + len(others)} outputs, the first of shape {first.shape[1:]}"
            )
        return first

    names = read_class_names(args.class_names) if args.class_names else []
    return Classifier(args.model, specs[0].shape, classify, names)


def print_accuracy(classifier: Classifier, test_path: str) -> None:
    """Of the pictures that an index or folders name: how often the best class, and one of the best five, is right."""
    split, changes = read_pictures(find_pictures(test_path, classifier.names), classifier.shape)
    print_changes(changes)
    assert not isinstance(split.images, tuple)
    outputs = classifier(split.images)
    if split.labels.max() >= outputs.shape[1]:
        raise QatError(
            f"{test_path}: its classes reach {split.labels.max()} but {classifier.path} gives {outputs.shape[1]} numbers, for "
            f"classes 0 to {outputs.shape[1] - 1}; correct the index, or give the model of these classes"
        )
    print(f"Accuracy: {100 * accuracy(outputs, split.labels):.2f} on {len(split):,} pictures")
    if outputs.shape[1] > SHOWN:
        print(f"Top {SHOWN}: {100 * accuracy(outputs, split.labels, best=SHOWN):.2f}")


def print_changes(changes: Sequence[str]) -> None:
    """What was done to pictures, on standard error."""
    for change in changes:
        print(one_line(f"note: {change}"), file=sys.stderr)
