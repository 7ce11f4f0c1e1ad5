"""Time of one image in C, LiteRT and ONNX Runtime: batch 1, one thread, the same network, in one alternated run.

    python benchmarks/c_time.py

The C file is compiled with -O3 -march=native into a shared library, which times itself; LiteRT and ONNX Runtime are called as
often in a loop, which costs them about a microsecond a call. Blocks of calls alternate, so that a noisy machine disturbs
all alike; printed are medians over the blocks, and the medians of the ratios of neighbouring blocks.
"""

from __future__ import annotations

import argparse
import ctypes
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import onnxruntime
from ai_edge_litert.interpreter import Interpreter

import qat
from qat.cli import run_script
from qat.console import print_table
from qat.integer import IntegerGraph
from qat.memory import activation_memory
from qat.networks import LeNet5
from qat.ops import Array

OPTIONS = ("-std=c99", "-O3", "-march=native")
CLOCK = """
#define _POSIX_C_SOURCE 199309L
#include <time.h>
#include "net.h"
double seconds(const uint8_t *pixels, void *codes, int count)
{
    struct timespec a, b;
    clock_gettime(CLOCK_MONOTONIC, &a);
    for (int i = 0; i < count; i++)
        net_run(pixels, codes);
    clock_gettime(CLOCK_MONOTONIC, &b);
    return (double)(b.tv_sec - a.tv_sec) + 1e-9 * (double)(b.tv_nsec - a.tv_nsec);
}
"""


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
            times: dict[str, list[float]] = {engine: [] for engine in engines}
            for block in range(-10, args.blocks):  # the first ones warm up
                for engine, seconds in engines.items():
                    taken = seconds() / args.calls
                    if block >= 0:
                        times[engine].append(taken)
        rows = []
        for engine, own in times.items():
            ratio = median(a / b for a, b in zip(own, times["C"], strict=True))
            rows.append((engine, f"{1e6 * median(own):.1f} us", f"{1e6 * min(own):.1f} us", f"{ratio:.2f}"))
        arena = activation_memory(integers).size
        print_table(
            f"{graph.name}, {arena:,} bytes of activations",
            ("engine", "median", "least", "over C"),
            rows,
        )


def _engines(
    graph: qat.Graph, params: dict[str, Array], integers: IntegerGraph, pixels: Array, folder: Path, calls: int
) -> dict[str, Callable[[], float]]:
    """What computes the image so many times and says how many seconds that took."""
    floats = {name: params[name] for name in graph.params}
    files = {"int8": folder / "net", "float": folder / "float"}
    engines = {"C": _compiled(integers, pixels, folder, calls)}
    for format_, suffix in (("TFLITE", ".tflite"), ("ONNX", ".onnx")):
        qat.target(format_).export(integers, files["int8"].with_suffix(suffix))
        qat.target(format_).export_float(graph, floats, files["float"].with_suffix(suffix))
    for kind, file in files.items():
        engines[f"LiteRT, {kind}"] = _litert(file.with_suffix(".tflite"), calls)
        engines[f"ONNX Runtime, {kind}"] = _onnxruntime(file.with_suffix(".onnx"), pixels, calls)
    return engines


def _compiled(integers: IntegerGraph, pixels: Array, folder: Path, calls: int) -> Callable[[], float]:
    qat.target("C").export(integers, folder / "net.c")
    (folder / "clock.c").write_text(CLOCK, encoding="utf-8")
    library = folder / "net.so"
    subprocess.run(["cc", *OPTIONS, "-shared", "-fPIC", "net.c", "clock.c", "-o", library], cwd=folder, check=True)
    seconds = ctypes.CDLL(str(library)).seconds
    seconds.restype = ctypes.c_double
    image = np.ascontiguousarray(pixels[0].transpose(1, 2, 0))
    codes = np.zeros(integers.output.shape, integers.output.grid.dtype)

    def timed() -> float:
        taken: float = seconds(ctypes.c_void_p(image.ctypes.data), ctypes.c_void_p(codes.ctypes.data), calls)
        return taken

    timed()
    np.testing.assert_array_equal(codes[None], qat.evaluate(integers, pixels, arithmetic="fixed"))
    return timed


def _litert(file: Path, calls: int) -> Callable[[], float]:
    interpreter = Interpreter(str(file), num_threads=1)
    interpreter.allocate_tensors()

    def timed() -> float:
        start = time.perf_counter()
        for _ in range(calls):
            interpreter.invoke()
        return time.perf_counter() - start

    return timed


def _onnxruntime(file: Path, pixels: Array, calls: int) -> Callable[[], float]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    binding = session.io_binding()  # no copies between Python and the session
    binding.bind_cpu_input(session.get_inputs()[0].name, pixels)
    binding.bind_output(session.get_outputs()[0].name)

    def timed() -> float:
        start = time.perf_counter()
        for _ in range(calls):
            session.run_with_iobinding(binding)
        return time.perf_counter() - start

    return timed


if __name__ == "__main__":
    sys.exit(run_script(add_arguments, run, __doc__))
