"""Real numbers become the same codes everywhere: NumPy, the training backends, ONNX Runtime, LiteRT in both arithmetics, C.

    python benchmarks/real_inputs.py --windows 100000

A network of series (3, 32) is calibrated on numbers of the size --largest, and fed random windows; windows of all ties, the
numbers whose products with the scale's inverse are halves, with their neighbours in float32 on both sides; and extreme ones.
The codes of the input and of the output are compared with NumPy's integers in the same arithmetic. Exit status 1 where one
differs.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import qat
from qat.cli import run_script
from qat.console import print_table
from qat.integer import IntegerGraph, IntegerInput, trace_codes
from qat.networks import Cnn1d
from qat.registry import BACKENDS, TARGETS, backend_names, installed
from qat.vocabulary.ops import Array

F = np.float32
SHAPE = (3, 1, 32)
CALIBRATED = 1000  #: windows
FILES = ("ONNX", "TFLITE", "C")


class Row(NamedTuple):
    """What an engine computed: codes of the input and of the output, and how many of them differ."""

    engine: str
    arithmetic: str
    codes: int
    differ: int


def ties(multiplier: np.float32, low: int, high: int) -> Array:
    """Windows of every number whose product with the multiplier is a half, or next to it, from below the lowest code to beyond
    the highest, and of extreme numbers.
    """
    halves = ((np.arange(low - 2, high + 2) + 0.5) / np.float64(multiplier)).astype(F)
    largest, tiny, least = np.finfo(F).max, np.finfo(F).tiny, np.finfo(F).smallest_subnormal
    extreme = np.array([largest, -largest, tiny, -tiny, least, -least, 0.0, -0.0], F)
    found = np.concatenate([halves, np.nextafter(halves, F(np.inf)), np.nextafter(halves, F(-np.inf)), extreme])
    size = int(np.prod(SHAPE))
    return np.resize(found, (-(-len(found) // size), *SHAPE))


def samples_for(integers: IntegerGraph, windows: int, largest: float, seed: int) -> Array:
    """Random windows and those of all ties."""
    entry = integers.nodes[0]
    assert isinstance(entry, IntegerInput)
    assert entry.requantize is not None, "real numbers become codes at the input"
    grid = entry.output.grid
    random = (np.random.default_rng(seed + 1).normal(0, largest / 3, (windows, *SHAPE))).astype(F)
    return np.concatenate([random, ties(F(entry.requantize.multiplier[0]), grid.low, grid.high)])


def compared(windows: int, largest: float, seed: int, backends: list[str], files: list[str]) -> Iterator[Row]:
    """A row for each engine and arithmetic.

    Args:
        windows: random ones.
        largest: the size of the numbers: three standard deviations.
        seed: of weights and windows.
        backends: training backends.
        files: formats of exported files.

    Yields:
        The rows.
    """
    network = Cnn1d(qat.Input(SHAPE, dtype="float32"), outputs=4, width=4)
    params = network.graph().initial_params(seed)
    known = np.random.default_rng(seed).normal(0, largest / 3, (CALIBRATED, *SHAPE)).astype(F)
    checkpoint = qat.calibrate(network, params, known, method="minmax", equalize=False, bias_correction=False)
    integers = qat.to_integer(checkpoint.graph, checkpoint.params)
    samples = samples_for(integers, windows, largest, seed)
    tensors = [integers.nodes[0].output, integers.output]
    names = [x.name for x in tensors]
    expected = {way: trace_codes(integers, samples, names, arithmetic=way) for way in ("float", "fixed")}

    def row(engine: str, arithmetic: str, found: dict[str, Array]) -> Row:
        assert found.keys() == set(names), f"{engine} gives {sorted(found)}"
        differ = sum(int(np.count_nonzero(found[name] != expected[arithmetic][name])) for name in names)
        return Row(engine, arithmetic, sum(found[name].size for name in names), differ)

    for name in backends:
        backend = qat.backend(name)
        model: Any = backend.lower(checkpoint.graph, checkpoint.params)
        yield row(name, "float", backend.trace(model, samples, tensors))
    with tempfile.TemporaryDirectory() as folder:
        for name in files:
            target = qat.target(name)
            for arithmetic in target.ARITHMETICS:
                options = {"arithmetic": arithmetic} if len(target.ARITHMETICS) > 1 else {}
                path = Path(folder) / f"net_{arithmetic}{TARGETS[name].suffix}"
                target.export(integers, path, **options)
                yield row(name, arithmetic, target.trace(path, samples, tensors, **options))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--windows", type=int, default=100_000, help="random ones, beside those of ties")
    parser.add_argument(
        "--largest", type=float, nargs="+", default=[1e-3, 1.0, 3e4], help="sizes of the numbers, one after another"
    )
    parser.add_argument("--seed", type=int, default=0, help="of weights and windows")


def run(args: argparse.Namespace) -> int:
    backends = [name for name in backend_names() if name not in BACKENDS or installed(BACKENDS[name])]
    files = [name for name in FILES if installed(TARGETS[name])]
    rows = [
        (f"{largest:g}", *row)
        for largest in args.largest
        for row in compared(args.windows, largest, args.seed, backends, files)
    ]
    print_table(
        f"{args.windows:,} random windows of {' x '.join(map(str, SHAPE))} real numbers, and all ties",
        ("size", "engine", "arithmetic", "codes compared", "differ"),
        [(size, engine, way, f"{codes:,}", f"{differ:,}") for size, engine, way, codes, differ in rows],
    )
    return int(any(differ for *_, differ in rows))


if __name__ == "__main__":
    sys.exit(run_script(add_arguments, run, __doc__))
