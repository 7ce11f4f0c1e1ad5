"""What removing channels, and fewer bits, leave of the bytes of each file and of the time of an image: batch 1, one thread.

    python benchmarks/pruned_sizes.py --networks lenet_3x3 resnet8 --ratios 0 0.5 0.75 0.9

Of each layer the given share of the channels goes, those of the least L1 norm. Weights are those that a training begins with:
bytes and times do not depend on what they are. (--ckpt_path takes a trained float network instead.) Times are medians of the
ratios of neighbouring blocks to those of the first ratio, in one alternated run.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np

import qat
from qat import pruning
from qat.analysis import metrics
from qat.cli import run_script
from qat.console import print_table
from qat.networks import create
from qat.scripts.bench import File, alternated
from qat.training.checkpoint import Checkpoint

COLUMNS = (
    "channels less",
    "parameters",
    "MACs",
    ".onnx float",
    ".onnx int8",
    ".tflite int8",
    "C 8 bits",
    "C 4 bits",
    "ONNX Runtime, float",
    "ONNX Runtime, int8",
    "C",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--networks", nargs="+", default=["lenet_3x3", "resnet8"], help="float networks")
    parser.add_argument("--ckpt_path", help="a float checkpoint in place of them")
    parser.add_argument("--ratios", type=float, nargs="+", default=[0.0, 0.5, 0.75, 0.9], help="channels that go")
    parser.add_argument("--blocks", type=int, default=100, help="how often each is timed")


def run(args: argparse.Namespace) -> None:
    if args.ckpt_path:
        checkpoints = [Checkpoint.load(args.ckpt_path)]
    else:
        graphs = [create(name).graph() for name in args.networks]
        checkpoints = [Checkpoint(graph, graph.initial_params()) for graph in graphs]
    for checkpoint in checkpoints:
        checkpoint.require(args.ckpt_path or checkpoint.graph.name, quantized=False)
        with tempfile.TemporaryDirectory() as name:
            _table(checkpoint, Path(name), args)


def _table(checkpoint: Checkpoint, folder: Path, args: argparse.Namespace) -> None:
    rows: dict[float, list[str]] = {}
    files: dict[str, File] = {}
    for ratio in args.ratios:
        own = folder / str(ratio)
        own.mkdir()
        rows[ratio] = _sizes(checkpoint, ratio, own, files)
    times = dict(zip(files, alternated(list(files.values()), args.blocks), strict=True))
    for ratio, row in rows.items():
        for engine in COLUMNS[-3:]:
            taken = times[_of(ratio, engine)]
            over = taken.over(times[_of(args.ratios[0], engine)]).median
            row.append(f"{over:.2f} ({1e6 * taken.median:.1f} us)")
    print_table(checkpoint.graph.name, COLUMNS, [tuple(row) for row in rows.values()])


def _of(ratio: float, engine: str) -> str:
    return f"{engine}, {ratio} less"


def _sizes(checkpoint: Checkpoint, ratio: float, folder: Path, files: dict[str, File]) -> list[str]:
    """The first cells of a row; what is to be timed goes into ``files``."""
    graph, params = checkpoint.graph, dict(checkpoint.params)
    if ratio:
        importance = pruning.l1_importance(graph, params)
        graph, params = pruning.prune_channels(graph, params, importance, ratio=ratio, scope="layer")
    pixels = np.random.default_rng(0).integers(0, 256, (1, *graph.shapes[graph.inputs[0].name]), np.uint8)
    integers = {}
    for bits in (8, 4):
        quantized = qat.convert_quant_network(graph, num_bits=(bits, 8))
        integers[bits] = qat.to_integer(quantized, quantized.observed_params() | params)
    onnx, tflite, c = map(qat.target, ("ONNX", "TFLITE", "C"))
    onnx.export_float(graph, params, folder / "float.onnx")
    onnx.export(integers[8], folder / "int8.onnx")
    tflite.export(integers[8], folder / "int8.tflite")
    c.export(integers[8], folder / "net.c")
    for engine, target, name in zip(COLUMNS[-3:], (onnx, onnx, c), ("float.onnx", "int8.onnx", "net.c"), strict=True):
        files[_of(ratio, engine)] = File(str(folder / name), target, pixels)
    counts = [sum(metrics.deployed_parameters(graph).values()), metrics.total_macs(graph)]
    counts += [(folder / name).stat().st_size for name in ("float.onnx", "int8.onnx", "int8.tflite")]
    counts += [sum(c.storage(integers[bits]).values()) for bits in (8, 4)]
    return [f"{100 * ratio:g} %", *(f"{count:,}" for count in counts)]


if __name__ == "__main__":
    sys.exit(run_script(add_arguments, run, __doc__))
