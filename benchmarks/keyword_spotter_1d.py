"""A keyword spotter of causal convolutions over (C, L), trained in float and quantized, and its files compared code by code.

    python benchmarks/keyword_spotter_1d.py --words kws01.npz --teacher kws_ref_model_float32.tflite --digits MNIST_Data

DSCNN1d of qat.networks. --words: 500 words of the evaluation set of MLPerf Tiny (github.com/mlcommons/tiny), 49 frames of 10
cepstral coefficients, int8 codes. Every fifth one is a test, at each of nine places in time. The others are trained on, moved
in time at random and mixed with one another, which is little to learn from; with --teacher the published network, which was
trained on many more, says what each of these mixtures is. --digits: MNIST, row after row, 28 steps of 28 pixels.

Exit status 1 where a code of a file differs, or a backend's.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import qat
from qat.cli import run_script
from qat.console import print_table
from qat.data import Dataset, Split
from qat.deploy.verify import export_verified
from qat.errors import QatError
from qat.graph import Graph
from qat.networks import create
from qat.reading import reading
from qat.registry import TARGETS
from qat.scripts.common.flags import add_backend_arguments
from qat.training.checkpoint import Checkpoint
from qat.training.distillation import Teaching, teach
from qat.training.loop import evaluate_accuracy, train
from qat.training.optimizer import Optimizer
from qat.training.recipe import Recipe
from qat.vocabulary.ops import Array

SCALE, ZERO_POINT = 0.5847029, 83  #: of the codes of words
CODES: dict[str, Any] = {"dtype": "int8", "scale": SCALE, "zero_point": ZERO_POINT}
EVERY = 5  #: of so many words one is a test
PLACES = range(-4, 5)  #: frames that tests are moved by
MOVED, COPIES = 5, 24  #: frames that trained words are moved by at most; mixtures of each
TEMPERATURE, WEIGHT = 2.0, 0.95  #: of the published network as the teacher
ADAM = Optimizer("adam")
FILES = ("ONNX", "TFLITE", "C")


class Trained(NamedTuple):
    """How a network is trained in float, and then quantized."""

    first: Recipe
    then: Recipe


WORDS = Trained(Recipe(12, lr=0.004, optimizer=ADAM), Recipe(3, lr=0.0005, optimizer=ADAM))
DIGITS = Trained(Recipe(2, 128, lr=0.005, optimizer=ADAM), Recipe(1, 128, lr=0.0005, optimizer=ADAM))


class Row(NamedTuple):
    """Accuracies in percent, and codes of the output that were compared and that differ, in a file or a backend."""

    float_accuracy: float
    int8_accuracy: float
    engine: str
    codes: int
    differ: int


def moved(words: Array, by: Array) -> Array:
    """Words (N, 10, 49), each moved in time by so many frames; the first or last one stands for what is not there."""
    frames = np.clip(np.arange(words.shape[2]) - by[:, None], 0, words.shape[2] - 1)
    return np.take_along_axis(words, frames[:, None], axis=2)


def words_of(path: Path, copies: int = COPIES, seed: int = 0) -> Dataset:
    """Words to train on, moved and mixed, and words to test, at all of ``PLACES``.

    Args:
        path: of kws01.npz: x, int8 (N, 49, 10, 1), and y.
        copies: mixtures of each word that is trained on, which is the larger part of them and gives the label.
        seed: of the mixtures.

    Returns:
        The data set, samples (10, 49).

    Raises:
        QatError: the file has no such words.
    """
    advice = "give kws01.npz: x, int8 (N, 49, 10, 1), and y"
    with reading(path, "an archive of words", advice), np.load(path) as given:
        words, labels = given["x"][..., 0].transpose(0, 2, 1), given["y"]
    tested = np.arange(len(words)) % EVERY == 0
    known, rng = words[~tested], np.random.default_rng(seed)
    count = copies * len(known)
    first, second = np.arange(count) % len(known), rng.integers(0, len(known), count)
    parts = [moved(known[each], rng.integers(-MOVED, MOVED + 1, count)) for each in (first, second)]
    share = rng.beta(0.5, 0.5, (count, 1, 1))
    share = np.maximum(share, 1 - share)
    mixed = np.rint(parts[0] * share + parts[1] * (1 - share)).astype(np.int8)
    tests = [moved(words[tested], np.full(tested.sum(), by)) for by in PLACES]
    return Dataset(
        "words",
        str(path),
        Split(mixed, labels[~tested][first]),
        Split(np.concatenate(tests), np.tile(labels[tested], len(PLACES))),
        scale=SCALE,
        zero_point=ZERO_POINT,
    )


def digits_of(path: str) -> Dataset:
    """MNIST as series: each row of a picture is a step, its pixels are the channels."""

    def rows(split: Split) -> Split:
        return replace(split, images=np.ascontiguousarray(np.asarray(split.images)[:, 0].transpose(0, 2, 1)))

    dataset = qat.data.load(path)
    return replace(dataset, train=rows(dataset.train), test=rows(dataset.test))


def taught_by(backend: Any, teacher: Path, student: Graph, dataset: Dataset) -> Teaching:
    """What the published network, which takes words as pictures (1, 49, 10), says of the training part."""
    shape = (1, *dataset.train.images.shape[:0:-1])
    imported = qat.import_model(str(teacher), inputs=qat.Input(shape, **CODES))
    pictures = np.asarray(dataset.train.images).transpose(0, 2, 1).reshape(-1, *shape)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "teacher.ckpt"
        Checkpoint(imported.graph, imported.params).save(path)
        return teach(backend, student, str(path), replace(dataset.train, images=pictures), TEMPERATURE, WEIGHT)


def measured(
    graph: Graph, dataset: Dataset, how: Trained, out: Path, args: argparse.Namespace, teacher: Path | None = None
) -> Iterator[Row]:
    """Train, export, compare.

    Args:
        graph: the float network.
        dataset: of series.
        how: the recipes.
        out: where files are written.
        args: backend and device_target.
        teacher: the published network's file; None: labels alone.

    Yields:
        A row for each of ``FILES``, and one for the backend's evaluation pass.
    """
    backend, lesson = qat.backend(args.backend), {}
    if teacher is not None:
        teaching = taught_by(backend, teacher, graph, dataset)
        dataset = replace(dataset, train=replace(dataset.train, targets=teaching.targets))
        lesson = {"objective": teaching.objective, "record": teaching.record}

    def trained(start: Checkpoint, recipe: Recipe) -> Checkpoint:
        return train(backend, start, dataset, recipe, device_target=args.device_target, **lesson)

    as_float = trained(Checkpoint(graph, graph.initial_params(how.first.seed)), how.first)
    accuracy = 100 * evaluate_accuracy(backend, as_float, dataset.test)
    converted = qat.convert_quant_network(graph)
    quantized = trained(as_float.derived(converted, converted.params_from(as_float.params)), how.then)
    for name in FILES:
        target = qat.target(name)
        path = out / f"{dataset.name}{TARGETS[name].suffix}"
        certificate = export_verified(path, target, backend, quantized, dataset.test, data=dataset.name)
        of_file, of_backend = certificate.comparisons
        for found, shown in ((of_file, True), (of_backend, name == FILES[0])):  # the backend's is the same each time
            if shown:
                yield Row(accuracy, 100 * found.metrics["top-1"], found.engine, found.codes, found.differ)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_backend_arguments(parser)
    parser.add_argument("--words", metavar="FILE", help="kws01.npz, 500 words of MLPerf Tiny's evaluation set")
    parser.add_argument("--teacher", metavar="FILE", help="kws_ref_model_float32.tflite, of which words are learnt too")
    parser.add_argument("--digits", metavar="FOLDER", help="of MNIST")
    parser.add_argument("--out", help="folder for files (default: a temporary one)")


def run(args: argparse.Namespace) -> int:
    if not (args.words or args.digits):
        raise QatError("nothing to train on; give --words, --digits or both")
    chosen = [(words_of(Path(args.words)), WORDS, args.teacher)] if args.words else []
    chosen += [(digits_of(args.digits), DIGITS, None)] if args.digits else []
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        out = Path(args.out or temporary)
        out.mkdir(parents=True, exist_ok=True)
        for dataset, how, teacher in chosen:
            graph = create("ds_cnn1d", dataset).graph()
            for row in measured(graph, dataset, how, out, args, Path(teacher) if teacher else None):
                rows.append((dataset.name, row))
                print(dataset.name, *row, flush=True)
    print_table(
        "DSCNN1d, causal convolutions over (C, L); accuracies on the test part in %",
        ("data", "engine", "float", "int8", "codes compared", "differ"),
        [
            (name, x.engine, f"{x.float_accuracy:.2f}", f"{x.int8_accuracy:.2f}", f"{x.codes:,}", f"{x.differ:,}")
            for name, x in rows
        ],
    )
    return int(any(row.differ for _, row in rows))


if __name__ == "__main__":
    sys.exit(run_script(add_arguments, run, __doc__))
