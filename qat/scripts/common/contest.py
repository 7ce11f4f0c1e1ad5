"""What the four scripts of the LeNet-5 compression contest share: their flags, one checkpoint an epoch, the table."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

import qat
from qat.analysis import metrics
from qat.analysis.score import Measured
from qat.analysis.timing import alternate
from qat.console import Column, percent, print_table, result, wrote
from qat.data import Split, accuracy
from qat.deploy.floats import export_float
from qat.deploy.inference import predict
from qat.deploy.interfaces import StaysLoaded
from qat.errors import QatError
from qat.files import check_writable
from qat.graph import Graph
from qat.registry import backend_names
from qat.scripts.common.files import load_data
from qat.scripts.common.flags import seed
from qat.scripts.common.plan import add_writing_arguments, of_data, stop_if_dry
from qat.scripts.common.printing import print_arithmetic
from qat.tables import counted
from qat.tasks import Classification
from qat.training.checkpoint import Checkpoint
from qat.training.loop import evaluate_accuracy, train
from qat.training.recipe import Recipe
from qat.vocabulary.arrays import Arrays, as_arrays, as_tuple
from qat.vocabulary.ops import Array


def four_digits(value: float) -> str:
    """A number as the contest's table has it."""
    return f"{value:.4f}"


def millions(value: float) -> str:
    """The same in millions."""
    return four_digits(value / 1e6)


COLUMNS = (
    Column("model"),
    Column("accuracy", form=percent),
    Column("infer time (ms)", form=four_digits),
    Column("quartiles", later=True),
    Column("model alone (ms)", form=four_digits, later=True),
    Column("params (M)", "params", millions),
    Column("MACs (M)", "macs", millions),
    Column("BOPs (M)", "bops", millions, later=True),
)
ONNX = "onnx"
DEVICES = {"cpu": "CPU", "gpu": "GPU", "cuda": "GPU"}  #: the contest's word -> ours


@dataclass(frozen=True)
class Stage:
    """One part of a training: so many epochs (``recipe.epochs``) from what ``begin`` makes of the end of the part before
    (None: the first).
    """

    recipe: Recipe
    begin: Callable[[Checkpoint | None], Checkpoint]


def add_training_arguments(parser: argparse.ArgumentParser, *, folder: str, epochs: int) -> None:
    """The contest's flags for training, and ours for data and backend."""
    add_writing_arguments(parser, replaces=False)
    parser.add_argument(
        "--checkpoint-dir", default=folder, metavar="FOLDER", help="for one checkpoint an epoch: epoch-0.ckpt ..."
    )
    parser.add_argument(
        "--last-checkpoint", metavar="FILE", help="checkpoint to go on from, where --epoch-start is above 0"
    )
    parser.add_argument("--epoch-start", type=int, default=0, metavar="EPOCH", help="the first epoch to train, from 0")
    parser.add_argument("--epoch-end", type=int, default=epochs, metavar="EPOCH", help="the epoch to end before")
    parser.add_argument(
        "--hold_back",
        type=int,
        default=0,
        metavar="IMAGES",
        help="of training, in place of the test images: to choose by",
    )
    parser.add_argument("--seed", type=seed, default=0, help="of the initial weights and of the order of the images")
    add_common_arguments(parser)


def add_test_arguments(parser: argparse.ArgumentParser) -> None:
    """The contest's flags for testing, and ours."""
    parser.add_argument("--best-checkpoint", required=True, metavar="FILE", help="checkpoint to test")
    add_common_arguments(parser)
    add_timing_arguments(parser)


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """The contest's flags for training and testing alike, and ours for data and backend."""
    parser.add_argument("--device", choices=list(DEVICES), default="cpu", help="what computes")
    parser.add_argument("--batch-size", type=int, default=64, help="images a batch")
    parser.add_argument(
        "--data_path", default="MNIST_Data", metavar="FOLDER", help="MNIST; qat data mnist --out FOLDER fetches it"
    )
    parser.add_argument("--backend", choices=backend_names(), default="torch", help="the framework that computes")


def train_stages(args: argparse.Namespace, graph: Graph, stages: Sequence[Stage]) -> Checkpoint:
    """Train from --epoch-start to --epoch-end, an epoch of a later stage counting on from the stages before; returns the
    last checkpoint. graph: of the first stage, for the images' shape. Raises QatError where --last-checkpoint does not
    fit --epoch-start.
    """
    backend, folder = qat.backend(args.backend), Path(args.checkpoint_dir)
    total = sum(stage.recipe.epochs for stage in stages)
    if args.epoch_start >= args.epoch_end:
        raise QatError(
            f"--epoch-start {args.epoch_start} --epoch-end {args.epoch_end}: nothing lies between them; let the end be larger"
        )
    if args.epoch_start < 0 or args.epoch_end > total:
        raise QatError(
            f"--epoch-start {args.epoch_start} --epoch-end {args.epoch_end}: use 0 <= start < end <= {total}"
        )
    if (args.epoch_start > 0) != (args.last_checkpoint is not None):
        raise QatError(
            f"--epoch-start {args.epoch_start}: with a start of N + 1 give --last-checkpoint {folder}/epoch-N.ckpt, with 0 none"
        )
    dataset = load_data(args.data_path, graph)
    if args.hold_back:
        dataset = dataset.held_back(args.hold_back)
    stop_if_dry(
        args,
        f"train epochs {args.epoch_start} to {args.epoch_end - 1}",
        reads=[(args.data_path, of_data(dataset))],
        writes=[folder / f"epoch-{epoch}.ckpt" for epoch in range(args.epoch_start, args.epoch_end)],
    )
    check_writable(folder / "epoch-0.ckpt")
    last = Checkpoint.load(args.last_checkpoint) if args.last_checkpoint else None
    first, before = 0, None  # the epoch that the stage begins with; the epochs of the stage before
    for stage in stages:
        end = first + stage.recipe.epochs
        if first < args.epoch_end and end > args.epoch_start:
            inside = first < args.epoch_start
            if last is not None and inside and last.epoch != args.epoch_start - first:
                raise QatError(
                    f"{args.last_checkpoint}: is of epoch {first + last.epoch - 1}, but --epoch-start {args.epoch_start} "
                    f"goes on from epoch-{args.epoch_start - 1}.ckpt"
                )
            if last is not None and args.epoch_start == first and before is not None and last.epoch != before:
                raise QatError(
                    f"{args.last_checkpoint}: has {counted(last.epoch, 'epoch')} of its part of the training, but "
                    f"--epoch-start {args.epoch_start} goes on from epoch-{args.epoch_start - 1}.ckpt, which has {before}"
                )
            start = last if last is not None and inside else stage.begin(last)

            def save(checkpoint: Checkpoint, first: int = first) -> None:
                checkpoint.save(folder / f"epoch-{first + checkpoint.epoch - 1}.ckpt")

            last = train(
                backend,
                start,
                dataset,
                stage.recipe,
                device_target=DEVICES[args.device],
                save=save,
                stop_after=args.epoch_end - first,
            )
        first, before = end, stage.recipe.epochs
    assert last is not None, "there is an epoch to train"
    top1 = evaluate_accuracy(backend, last, dataset.test, device_target=DEVICES[args.device])
    result(f"Accuracy: {percent(top1)}", metrics={"top-1": top1})
    wrote(f"{folder}/epoch-{args.epoch_end - 1}.ckpt")
    return last


def add_timing_arguments(parser: argparse.ArgumentParser) -> None:
    """--runtime and --blocks."""
    parser.add_argument(
        "--runtime",
        choices=(ONNX, *backend_names()),
        default=ONNX,
        help="what times are taken in: ONNX Runtime with one thread, or a framework's evaluation pass",
    )
    parser.add_argument("--blocks", type=int, default=30, help="test passes that are timed of each model, in turn")


def measure(
    paths: Sequence[str],
    data_path: str,
    *,
    runtime: str,
    batch_size: int,
    blocks: int,
    device_target: str | None = None,
    flags: argparse.Namespace | None = None,
) -> list[Measured]:
    """Measure checkpoints, float or quantized, on the test images, and print the contest's table.

    The time of an image is that of the whole test pass, from raw pixels in memory, over the number of images; and of the
    model alone, with one batch again and again. All models take turns. flags: how pictures are prepared.
    """
    if batch_size < 1 or blocks < 1:
        raise QatError(f"batch size {batch_size} and --blocks {blocks}: use numbers of at least 1")
    found = []
    with tempfile.TemporaryDirectory() as folder:
        opened = [_opened(path, runtime, Path(folder) / f"{i}.onnx", device_target) for i, path in enumerate(paths)]
        for path, (checkpoint, _) in zip(paths, opened, strict=True):
            print_arithmetic(checkpoint.graph, f"{path}: ")
        splits = [load_data(data_path, checkpoint, flags).test.in_memory() for checkpoint, _ in opened]
        passes, alone = {}, {}
        for path, (_, compute), split in zip(paths, opened, splits, strict=True):
            passes[path] = partial(_test_pass, compute, split, batch_size)
            alone[path] = partial(compute, _batch(split, 0, batch_size))
        whole, single = alternate(passes, blocks=blocks), alternate(alone, blocks=blocks, repeats=20)
        rows = []
        for path, (checkpoint, compute), split in zip(paths, opened, splits, strict=True):
            top1 = accuracy(_test_pass(compute, split, batch_size), split.labels)
            times = whole[path].scaled(1000.0 / len(split))
            graph, params = checkpoint.graph, checkpoint.params
            costs = (metrics.deployed_parameters(graph), _macs(graph), metrics.bops(graph, params))
            counts = [sum(cost.values()) for cost in costs]
            found.append(Measured(path, top1, times, counts[0], counts[1]))
            quartiles = " to ".join(f"{quartile:.4f}" for quartile in times.quartiles)
            alone_ms = single[path].scaled(1000.0 / min(batch_size, len(split))).median
            row = (Path(path).stem, top1, times.median, quartiles, alone_ms)
            rows.append((*row, *counts))
    words = "ONNX Runtime, one thread" if runtime == ONNX else runtime
    print_table(f"{words}, batch {batch_size}, {counted(len(splits[0]), 'image')}", COLUMNS, rows, "models")
    return found


_macs = partial(metrics.macs, with_bias=True)  # as the contest counts


def _opened(
    path: str, runtime: str, file: Path, device_target: str | None
) -> tuple[Checkpoint, Callable[[Arrays], Arrays]]:
    """A checkpoint, and what computes its outputs."""
    checkpoint = Checkpoint.load(path)
    graph, params = checkpoint.graph, checkpoint.params
    if checkpoint.task.name != Classification.name:
        raise QatError(
            f"{path}: is of the task {checkpoint.task.name}, but the contest scores accuracies; give a classifier"
        )
    if runtime != ONNX:
        return checkpoint, partial(predict, qat.backend(runtime).lower(graph, params, device_target=device_target))
    target = qat.target("ONNX")
    if graph.arithmetic not in target.ARITHMETICS:
        raise QatError(
            f"{path}: was trained in the {graph.arithmetic} arithmetic, and ONNX Runtime would compute other codes, and so "
            "another accuracy; give --runtime torch, which computes both"
        )
    assert isinstance(target, StaysLoaded)
    if graph.is_quantized:
        target.export(qat.to_integer(graph, params), file)
    else:
        export_float(target, graph, params, file)
    return checkpoint, target.opened(file)


def _batch(split: Split, start: int, size: int) -> Arrays:
    return as_arrays(tuple(x[start : start + size] for x in as_tuple(split.images)))


def _test_pass(compute: Callable[[Arrays], Arrays], split: Split, batch_size: int) -> Array:
    parts = [compute(_batch(split, start, batch_size)) for start in range(0, len(split), batch_size)]
    return np.concatenate(parts)


def test(args: argparse.Namespace) -> None:
    """What both test scripts do: the table's row of one checkpoint."""
    measure(
        [args.best_checkpoint],
        args.data_path,
        runtime=args.runtime,
        batch_size=args.batch_size,
        blocks=args.blocks,
        device_target=None if args.runtime == ONNX else DEVICES[args.device],
    )
