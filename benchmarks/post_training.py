"""Post-training quantization beside other tools: ONNX Runtime's and Sony's Model Compression Toolkit.

    python benchmarks/post_training.py --ckpt_path lite0.ckpt --photographs ImageNetSample
    python benchmarks/post_training.py --ckpt_path kws01.ckpt --data_path kws01.npz --widths 8/8 4/8

--ckpt_path is a float network, as ``qat import`` saves it. All tools get the same: its layers as PyTorch's own
(``plain_module``), for ONNX Runtime exported by torch.onnx, with a softmax at the end left out; --images training images to
calibrate with, and the test images to evaluate. With --photographs, a folder with labels.csv, --images of them are chosen by
--seed to calibrate with, and all others are evaluated.

A row for each tool, setting and width (bits of weights/activations): the metric of the network's task, how often the
largest output is that of the float network, the SQNR of the outputs, the bytes of the file, and the CPU seconds of the
calibration, imports left out, over those of qat's with default settings at the same width. The Model Compression Toolkit's
file holds float numbers, so its bytes are left out. A tool that is not installed has a row that says so.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import itertools
import json
import math
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from other_tools import Result, Task, Way, by_mct, by_onnxruntime, in_batches
from plain_module import plain_module

import qat
from qat.analysis.agreement import Agreement
from qat.cli import run_script
from qat.console import print_table
from qat.data import Split
from qat.errors import QatError
from qat.passes.logits_graph import logits_graph
from qat.scripts.common.files import load_checkpoint, load_data
from qat.scripts.common.flags import add_backend_arguments, add_data_argument
from qat.training.checkpoint import Checkpoint
from qat.training.devices import threads_in_use

WIDTHS = {"8/8": ((8, 8), True), "8/8 per tensor": ((8, 8), False), "4/8": ((4, 8), True)}  #: bits, per_channel
COLUMNS = ("tool", "settings", "width", "metric", "agrees", "SQNR", "bytes", "calibration")
PACKAGES = {"onnxruntime": ("onnxruntime", "onnx"), "mct": ("model_compression_toolkit",)}  #: of each tool
INSTALL = {"onnxruntime": "onnxruntime onnx onnxscript", "mct": "model-compression-toolkit"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--ckpt_path", required=True, help="a float network with one input and one output")
    add_data_argument(parser, required=False, otherwise="--photographs")
    parser.add_argument("--photographs", help="a folder with labels.csv (file, class_index) and images/")
    add_backend_arguments(parser)
    parser.add_argument("--tools", nargs="+", choices=list(TOOLS), default=list(TOOLS), help="which")
    parser.add_argument("--widths", nargs="+", choices=list(WIDTHS), default=list(WIDTHS), help="weights/activations")
    parser.add_argument("--only", nargs="+", default=[""], metavar="SETTINGS", help="ways whose settings begin so")
    parser.add_argument("--images", type=int, default=128, help="to calibrate with")
    parser.add_argument("--evaluated", type=int, help="test images at most, evenly chosen (default: all)")
    parser.add_argument("--seed", type=int, default=0, help="chooses the images")
    parser.add_argument("--keep", help="a .json file of what was measured: what is in it is not measured again")
    parser.add_argument("--epochs", type=int, default=20, help="of the toolkit's gradient-based quantization")


def run(args: argparse.Namespace) -> None:
    torch.set_num_threads(threads_in_use() or 1)
    with tempfile.TemporaryDirectory() as folder:
        compare(args, Path(folder))


def compare(args: argparse.Namespace, out: Path) -> None:
    """Print the table."""
    checkpoint = load_checkpoint(args.ckpt_path, quantized=False)
    if args.photographs:
        split_photographs(Path(args.photographs), out, args.images, args.seed)
    elif not args.data_path:
        raise QatError("there are no images: give --data_path or --photographs")
    dataset = load_data(str(out) if args.photographs else args.data_path, checkpoint, args)
    chosen = np.sort(np.random.default_rng(args.seed).permutation(len(dataset.train))[: args.images])
    images, test = np.asarray(dataset.train.images[chosen]), dataset.test
    if args.evaluated:
        test = test.chosen(np.linspace(0, len(test) - 1, min(args.evaluated, len(test))).astype(int))
    tested = np.asarray(test.images[:])
    graph = logits_graph(checkpoint.graph)
    params = {name: checkpoint.params[name] for name in graph.params}
    entry: Any = graph.inputs[0].cell
    module = plain_module(graph, params)
    task = Task(graph, params, module, images, entry.real_numbers(images), out, args)
    backend = qat.backend(args.backend)
    floats = backend.predict(backend.lower(graph, params), tested)
    plain = in_batches(module, entry.real_numbers(tested))
    if sqnr(floats, plain) < 80.0:
        raise QatError(f"{graph.name}: PyTorch's layers give other outputs, {sqnr(floats, plain):.1f} dB")

    kept = Kept(args.keep, [graph.name, len(images), len(tested), args.seed])
    rows: list[tuple[str, ...]] = []

    def report(*row: str) -> None:
        rows.append(row)
        print(" | ".join(row), flush=True)

    size = sum(array.nbytes for array in params.values())
    report("float", "", "32/32", *measured(checkpoint, test, floats, floats), f"{size:,}", "")
    for width, tool in itertools.product(args.widths, args.tools):
        missing = [name for name in PACKAGES.get(tool, ()) if importlib.util.find_spec(name) is None]
        if missing:
            report(tool, f"not installed: pip install {INSTALL[tool]}", width, *["-"] * 5)
            continue
        for settings, calibrate in TOOLS[tool](task, *WIDTHS[width]):
            key = f"{tool} | {settings} | {width}"
            if not settings.startswith(tuple(args.only)):
                continue
            if key not in kept.rows:
                begin = time.process_time()
                finish = calibrate()
                seconds = time.process_time() - begin
                result = finish()
                agreement = measured(checkpoint, test, floats, result.predict(tested))
                kept.add(key, [*agreement, "-" if result.bytes is None else f"{result.bytes:,}", seconds])
            *found, seconds = kept.rows[key]
            ours = kept.rows.get(f"qat | {DEFAULTS} | {width}")
            report(tool, settings, width, *found, f"{seconds / ours[-1]:.2f}" if ours else f"{seconds:.1f} s")
    title = f"{graph.name}: {len(images)} images calibrate, {len(tested)} are evaluated; times over qat's defaults"
    print_table(title, COLUMNS, rows)


class Kept:
    """What was measured, in a file where there is one: a list for each row. of: what the figures belong to."""

    def __init__(self, path: str | None, of: list[Any]) -> None:
        self.path, self.of, self.rows = path and Path(path), of, dict[str, list[Any]]()
        if self.path and self.path.exists():
            text = json.loads(self.path.read_text(encoding="utf-8"))
            if text["of"] != of:
                raise QatError(f"{path}: was measured of {text['of']}, not of {of}; give another file")
            self.rows = text["rows"]

    def add(self, key: str, row: list[Any]) -> None:
        self.rows[key] = row
        if self.path:
            self.path.write_text(json.dumps({"of": self.of, "rows": self.rows}, indent=1), encoding="utf-8")


def measured(checkpoint: Checkpoint, test: Split, floats: np.ndarray, outputs: np.ndarray) -> tuple[str, str, str]:
    """The main metric of the task, how often the largest outputs agree, where they are classes, and the SQNR."""
    name, value = next(iter(checkpoint.task.metrics(logits_graph(checkpoint.graph), outputs, test).items()))
    decibels, top = sqnr(floats, outputs), name == "top-1"
    return (
        f"{100 * value:.2f} %" if top else f"{value:.4f} {name}",
        f"{100 * np.mean(outputs.argmax(1) == floats.argmax(1)):.2f} %" if top else "-",
        "-" if math.isinf(decibels) else f"{decibels:.2f} dB",
    )


def split_photographs(folder: Path, out: Path, count: int, seed: int) -> None:
    """Lists of photographs: ``count`` to calibrate with in train.csv, the others in test.csv."""
    pictures = folder / "images" if (folder / "images").is_dir() else folder
    with open(folder / "labels.csv", encoding="utf-8", newline="") as file:
        lines = [f"{(pictures / row['file']).resolve()},{row['class_index']}" for row in csv.DictReader(file)]
    chosen = set(np.random.default_rng(seed).permutation(len(lines))[:count].tolist())
    for name, calibrates in (("train", True), ("test", False)):
        part = [line for number, line in enumerate(lines) if (number in chosen) == calibrates]
        (out / f"{name}.csv").write_text("\n".join(["file,class", *part]) + "\n", encoding="utf-8")


def sqnr(floats: np.ndarray, outputs: np.ndarray) -> float:
    agreement = Agreement()
    agreement.add(floats, outputs)
    return agreement.sqnr


DEFAULTS = "defaults"


def by_qat(task: Task, bits: tuple[int, int], per_channel: bool) -> Iterator[Way]:
    """Ours: the integers, and the bytes of their ONNX file; with defaults, and with these but for the codes of weights."""

    def calibrated(**options: Any) -> Callable[[], Result]:
        settings = {"num_bits": bits, "per_channel": (per_channel, False)}
        found = qat.calibrate(task.graph, task.params, task.images, **settings, **options)
        return partial(deployed, found)

    def deployed(found: Checkpoint) -> Result:
        backend, path = qat.backend(task.args.backend), task.out / "qat.onnx"
        if importlib.util.find_spec("onnx"):
            qat.target("onnx").export(qat.to_integer(found.graph, found.params), path)
        predict = partial(backend.predict, backend.lower(found.graph, found.params))
        return Result(predict, path.stat().st_size if path.exists() else None)

    yield DEFAULTS, calibrated
    yield "nearest codes", partial(calibrated, rounding="nearest")
    plain = {"method": "minmax", "equalize": False, "bias_correction": False, "rounding": "nearest"}
    yield "min/max", partial(calibrated, **plain)
    yield "learned rounding", lambda: calibrated(rounding=qat.LearnedRounding())


TOOLS = {"qat": by_qat, "onnxruntime": by_onnxruntime, "mct": by_mct}

if __name__ == "__main__":
    sys.exit(run_script(add_arguments, run, __doc__))
