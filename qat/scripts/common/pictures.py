"""What the commands that look at pictures share: a model of any kind, its accuracy, and the names of classes."""

from __future__ import annotations

import argparse
import json
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple, cast

import numpy as np

import qat
from qat import tasks
from qat.cells.base import Shape
from qat.console import note, result
from qat.data import Dataset, Preparation, Split, load
from qat.data.loading import exists
from qat.data.picture_rows import Paths, Pictures
from qat.data.pictures import check_picture_shape, find_pictures, read_class_names, read_picture
from qat.data.preparation import PLAIN
from qat.data.readers.class_folders import READER as CLASS_FOLDERS
from qat.data.rows import Samples
from qat.deploy.arithmetics import arithmetic_options, default_arithmetic, said_of
from qat.deploy.inference import predict
from qat.deploy.interfaces import RecordsMetadata, Target
from qat.errors import QatError
from qat.graph import Graph
from qat.reading import reading
from qat.registry import suffixed
from qat.scripts.common.files import check_file, trusted_target
from qat.scripts.common.flags import (
    add_arithmetic_argument,
    add_backend_arguments,
    add_preparation_arguments,
    add_trust_argument,
    chosen_preparation,
)
from qat.scripts.common.printing import print_arithmetic, print_metrics
from qat.scripts.common.tasks import print_classes
from qat.tasks import Classification, Task
from qat.training.checkpoint import Checkpoint, names_of_classes
from qat.vocabulary.arrays import Arrays, as_arrays, as_tuple
from qat.vocabulary.ops import Array

AT_ONCE = 256  #: pictures that are in memory together
SHOWN = 5  #: classes of one picture
NAMES_BESIDE = "class_names.txt"  #: the classes' names beside an index


class Classifier(NamedTuple):
    """A model of any kind, and how its pictures are prepared.

    Attributes:
        path: of the model.
        shape: of its input, (C, H, W).
        compute: its outputs, (N, classes), from pixels.
        names: of the classes; none where nobody has said them.
        preparation: how pictures become its input.
        task: what it is for.
        graph: of a checkpoint; None of an exported file.
        given: whether the names come from --class_names; else the model keeps them.
    """

    path: str
    shape: Shape
    compute: Callable[[Array], Arrays]
    names: list[str]
    preparation: Preparation
    task: Task
    graph: Graph | None
    given: bool = False

    def __call__(self, pixels: Array) -> Array:
        """The output, (N, classes). Raises QatError where it classifies nothing, or there are not as many names as classes."""
        outputs, *others = as_tuple(self.compute(pixels))
        if others or outputs.ndim != 2:
            raise QatError(
                f"{self.path}: is no classifier: {1 + len(others)} outputs, the first of shape {outputs.shape[1:]}"
            )
        if self.given and len(self.names) != outputs.shape[1]:
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
    parser.add_argument(
        "--class_names",
        metavar="FILE",
        help="the classes' names, one a line (default: those that the model keeps, or numbers)",
    )
    add_arithmetic_argument(parser, "that of the model")
    add_backend_arguments(parser)
    add_preparation_arguments(parser, "stretch, linear, as older releases trained")


def add_test_argument(container: argparse._ActionsContainer, *, required: bool) -> None:
    """--test_path."""
    container.add_argument(
        "--test_path",
        required=required,
        metavar="PATH",
        help="a text file of lines 'picture.png class', or what --data_path takes, as a folder of pictures for each class or a "
        ".csv of file,label",
    )


def load_classifier(args: argparse.Namespace) -> Classifier:
    """The model that the arguments name. Raises QatError where it has several inputs."""
    check_file(args.model, "give a checkpoint, or what export wrote")
    compute: Callable[[Array], Arrays]
    graph = None
    if suffixed(args.model) is None:
        checkpoint = Checkpoint.load(args.model)
        graph = _in_arithmetic(args, checkpoint.graph)
        model = qat.backend(args.backend).lower(graph, checkpoint.params, device_target=args.device_target)
        specs, preparation, task = [*graph.input_specs], checkpoint.preparation, checkpoint.task
        names = [*checkpoint.class_names]
        compute = partial(predict, model)
    else:
        target = trusted_target(args, args.model)
        specs, (preparation, task, names) = target.input_specs(args.model), recorded(target, args.model)
        arithmetic = args.arithmetic or default_arithmetic(target, args.model)
        running = arithmetic_options(target, arithmetic)
        said = said_of(args.model, target, arithmetic)

        def compute(pixels: Arrays) -> Arrays:
            nonlocal said
            outputs = target.predict(args.model, pixels, **running)
            if said:  # once, and not of what cannot be run so
                result(said, statements=[said])
                said = None
            return outputs

    if len(specs) != 1:
        raise QatError(f"{args.model}: has {len(specs)} inputs, but there is one picture; run it from Python")

    names = read_class_names(args.class_names) if args.class_names else names
    preparation = chosen_preparation(args, preparation, PLAIN, args.model)
    return Classifier(args.model, specs[0].shape, compute, names, preparation, task, graph, bool(args.class_names))


def _in_arithmetic(args: argparse.Namespace, graph: Graph) -> Graph:
    """The network of a checkpoint in the arithmetic that --arithmetic asks for; which one it is is said where it is not
    obvious.
    """
    if args.arithmetic in (None, graph.arithmetic) or not graph.is_quantized:
        if args.arithmetic is not None and not graph.is_quantized:
            raise QatError(f"--arithmetic: {args.model} is a float network, whose sums become no codes; leave it out")
        print_arithmetic(graph)
        return graph
    text = f"{args.model} is computed in the {args.arithmetic} arithmetic, where training evaluated the {graph.arithmetic} one"
    result(text, statements=[text], arithmetic=args.arithmetic)
    return replace(graph, arithmetic=args.arithmetic)


def recorded(target: Target, path: str) -> tuple[Preparation | None, Task, list[str]]:
    """What an exported file says of itself: how pictures become its input, what it is for, the names of its classes; None, a
    classification, as the first releases wrote, and no names where it says nothing.
    """
    metadata = target.read_metadata(path) if isinstance(target, RecordsMetadata) else {}
    preparation, task = metadata.get("preparation"), metadata.get("task")
    with reading(path, "an exported file: its preparation is damaged", "export it again"):
        prepared = None if preparation is None else Preparation.from_json(json.loads(preparation))
    with reading(path, "an exported file: its task is damaged", "export it again"):
        purpose = Classification() if task is None else tasks.read(task)
    with reading(path, "an exported file: its names of classes are damaged", "export it again"):
        return prepared, purpose, [*names_of_classes(metadata.get("class_names"))]


def print_accuracy(classifier: Classifier, test_path: str, args: argparse.Namespace | None = None) -> None:
    """Of the pictures of a data set: how often the best class, and one of the best five, is right; of a network for another
    task its metrics. args: with those of ``qat.scripts.common.tasks.add_class_arguments``; None where there are none.
    """
    if not isinstance(classifier.task, Classification):
        _print_metrics(classifier, test_path, args)
        return
    split, names, by_order = _test_samples(classifier, test_path)
    outputs, changes = [], Counter[str]()
    if not isinstance(split.images, Pictures):
        outputs.append(classifier(cast(Any, split.images)))
    for start in range(0, 0 if outputs else len(split), AT_ONCE):
        pixels = _read_noting(split.images, start, min(start + AT_ONCE, len(split)), changes)
        outputs.append(classifier(pixels))
        if by_order and outputs[0].shape[1] != len(names):
            find_pictures(test_path, classifier.names)  # raises: which of the model's classes they are is not known
    print_changes([f"{count:,} of {len(split):,} pictures {change}" for change, count in merged(changes).items()])
    found = np.concatenate(outputs)
    if split.labels.max() >= found.shape[1]:
        raise QatError(
            f"{test_path}: its classes reach {split.labels.max()} but {classifier.path} gives {found.shape[1]} numbers, for "
            f"classes 0 to {found.shape[1] - 1}; correct the index, or give the model of these classes"
        )
    what = "pictures" if _is_pictures(split) else "samples"
    result(model=classifier.path, task=classifier.task.name, samples=len(split))
    metrics = classifier.task.metrics(cast(Any, classifier.graph), found, split)
    print_metrics(classifier.task, metrics, f" on {len(split):,} {what}")
    if args is not None:
        print_classes(args, classifier.task, found, split.labels, classifier.names, names)


def _print_metrics(classifier: Classifier, test_path: str, args: argparse.Namespace | None) -> None:
    """How good a network of any task is on a data set, and figures of its classes."""
    dataset, split = _tested(classifier, test_path)
    task, images = classifier.task, cast(Any, split.images)
    outputs = as_tuple(classifier.compute(images))
    known = [SimpleNamespace(name=str(number), shape=x.shape[1:]) for number, x in enumerate(outputs)]
    graph: Any = classifier.graph or SimpleNamespace(name=classifier.path, outputs=known, inputs=None)
    task.check(graph, split, test_path)
    found = as_arrays(outputs)
    result(model=classifier.path, task=task.name, samples=len(split))
    print_metrics(task, task.metrics(graph, found, split))
    if args is not None:
        print_classes(args, task, found, split.labels, classifier.names, dataset.class_names)


def _test_samples(classifier: Classifier, test_path: str) -> tuple[Split, Sequence[str], bool]:
    """What is tested with, in the model's shape; the names of its classes; whether these are known by their order alone."""
    folder, names = os.path.isdir(test_path), classifier.names
    plain = folder and not os.path.isdir(os.path.join(test_path, "train")) and CLASS_FOLDERS.recognizes(test_path)
    by_order = plain and not names and not any(name.isdecimal() for name in os.listdir(test_path))
    indexed = os.path.isfile(os.path.join(test_path, "index.txt")) or not exists(test_path)
    if (plain and not by_order) or indexed:
        files, known = _indexed(test_path, names)
        check_picture_shape(classifier.path, classifier.shape)
        rows = Pictures(Paths("", (str(file) for file, _ in files)), classifier.shape, classifier.preparation)
        return Split(rows, np.array([label for _, label in files])), known, False
    dataset, split = _tested(classifier, test_path)
    if split.classes is None:
        raise QatError(
            f"{test_path}: its labels are not classes, whose accuracy is measured; give a data set of classes"
        )
    if names and dataset.class_names:
        unknown = [name for name in dataset.class_names if name not in names]
        if not unknown:
            of_model = np.array([names.index(name) for name in dataset.class_names])
            split = replace(split, labels=of_model[split.classes])
        else:
            source = "in --class_names" if classifier.given else f"one of {classifier.path}"
            note(f"class {unknown[0]!r} of {test_path} is not {source}, so its classes count by their order")
    return split, dataset.class_names, by_order


def _indexed(test_path: str, names: Sequence[str]) -> tuple[list[tuple[Path, int]], Sequence[str]]:
    """The pictures of an index or of folders with their labels, and the names of the classes. Where the model keeps none,
    these are the names beside the index, as create-data writes them.
    """
    folder = Path(test_path) if os.path.isdir(test_path) else Path(test_path).parent
    beside = folder / NAMES_BESIDE
    if not names and beside.is_file():
        names = read_class_names(beside)
    return find_pictures(test_path, names), names


def _tested(classifier: Classifier, test_path: str) -> tuple[Dataset, Split]:
    """A data set in the model's shape, and its part for testing; where it has none, all of it, with a note."""
    dataset = load(test_path, for_folds=True).resized(classifier.shape, classifier.preparation)
    if len(dataset.test):
        return dataset, dataset.test
    if not os.path.isdir(test_path):
        print_changes(
            [
                f"{test_path} has no part for testing: all of its {len(dataset.train):,} samples are taken, those of a "
                "training with it among them"
            ]
        )
    return dataset, dataset.train


def _is_pictures(split: Split) -> bool:
    shape = as_tuple(split.images)[0].shape[1:]
    return as_tuple(split.images)[0].dtype == np.uint8 and len(shape) == 3


def merged(changes: Counter[str]) -> Counter[str]:
    """The same, in one line for all sizes where there are more than a few."""
    sizes = [change for change in changes if change.startswith("resized from ")]
    if len(sizes) <= SHOWN:
        return changes
    merged = Counter({change: count for change, count in changes.items() if change not in sizes})
    merged[f"resized from {len(sizes)} sizes to {sizes[0].partition(' to ')[2]}"] = sum(changes[x] for x in sizes)
    return merged


def _read_noting(images: Samples, start: int, stop: int, changes: Counter[str]) -> Array:
    """Some of the samples; what was done to pictures is counted."""
    if not isinstance(images, Pictures):
        pixels: Array = images[start:stop]
        return pixels
    found = []
    for number in range(start, stop):
        pixels, changed = read_picture(images.paths[number], images.shape[1:], images.preparation)
        found.append(pixels)
        changes.update(changed)
    stacked: Array = np.stack(found)
    return stacked


def print_changes(changes: Sequence[str]) -> None:
    """What was done to pictures, on standard error."""
    for change in changes:
        note(change)
