"""Time of one image in C, LiteRT and ONNX Runtime: batch 1, one thread, the same network, in one alternated run.

    python benchmarks/c_time.py

Blocks of calls alternate, so that a noisy machine disturbs all alike; printed are medians over the blocks, and the medians of
the ratios of neighbouring blocks.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from engines import compiled_c, litert, onnxruntime_session

import qat
from qat.analysis.timing import alternate
from qat.cli import run_script
from qat.console import print_table
from qat.integer import IntegerGraph
from qat.integer.memory import activation_memory
from qat.networks import LeNet5
from qat.vocabulary.ops import Array


class SmallCNN(qat.Network):
    """Three convolutions, two dense layers: an MNIST network of a microcontroller's size."""

    inputs = (qat.Input((1, 28, 28), mean=0.1307, std=0.3081),)

    def __init__(self) -> None:
        self.conv1 = qat.Conv2dBnAct(1, 8, 3, pad_mode="same", has_bias=True, activation="relu")
        self.conv2 = qat.Conv2dBnAct(8, 16, 3, pad_mode="same", has_bias=True, activation="relu")
        self.conv3 = qat.Conv2dBnAct(16, 32, 5, pad_mode="valid", has_bias=True, activation="relu")
        self.pool, self.flatten = qat.MaxPool2d(2), qat.Flatten()
        self.fc1 = qat.DenseBnAct(32 * 3 * 3, 64, activation="relu")
        self.fc2 = qat.DenseBnAct(64, 10)

    def construct(self, x):  # type: ignore[no-untyped-def]
        x = self.pool(self.conv2(self.pool(self.conv1(x))))
        return self.fc2(self.fc1(self.flatten(self.conv3(x))))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--blocks", type=int, default=200, help="how often each engine is timed")
    parser.add_argument("--calls", type=int, default=50, help="images in a block")


def run(args: argparse.Namespace) -> None:
    for network in (LeNet5(), SmallCNN()):
        graph = network.graph()
        quantized = qat.convert_quant_network(graph)
        params = quantized.observed_params()
        integers = qat.to_integer(quantized, params)
        rng = np.random.default_rng(0)
        pixels = rng.integers(0, 256, (1, *integers.input.shape), np.uint8)
        with tempfile.TemporaryDirectory() as name:
            engines = _engines(graph, params, integers, pixels, Path(name), args.calls)
            times = alternate(engines, blocks=args.blocks, warm_up=10)
        rows = []
        for engine, own in times.items():
            taken = own.scaled(1e6 / args.calls)
            ratio = own.over(times["C"]).median
            rows.append((engine, f"{taken.median:.1f} us", f"{taken.seconds.min():.1f} us", f"{ratio:.2f}"))
        arena = activation_memory(integers).size
        print_table(
            f"{graph.name}, {arena:,} bytes of activations",
            ("engine", "median", "least", "over C"),
            rows,
        )


def _engines(
    graph: qat.Graph, params: dict[str, Array], integers: IntegerGraph, pixels: Array, folder: Path, calls: int
) -> dict[str, Callable[[], None]]:
    """What computes the image so many times."""
    floats = {name: params[name] for name in graph.params}
    files = {"int8": folder / "net", "float": folder / "float"}
    engines = {"C": compiled_c(integers, pixels, folder, calls)}
    for format_, suffix in (("TFLITE", ".tflite"), ("ONNX", ".onnx")):
        qat.target(format_).export(integers, files["int8"].with_suffix(suffix))
        qat.target(format_).export_float(graph, floats, files["float"].with_suffix(suffix))
    for kind, file in files.items():
        engines[f"LiteRT, {kind}"] = litert(file.with_suffix(".tflite"), calls)
        engines[f"ONNX Runtime, {kind}"] = onnxruntime_session(file.with_suffix(".onnx"), pixels, calls)
    return engines


if __name__ == "__main__":
    sys.exit(run_script(add_arguments, run, __doc__))
