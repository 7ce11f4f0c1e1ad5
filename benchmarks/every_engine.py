"""The same network in every engine that has its arithmetic: output codes that differ from NumPy's integers.

    python benchmarks/every_engine.py --arithmetic fixed
    python benchmarks/every_engine.py --arithmetic float

LeNet-5, ResNet-8, MobileNetV2 (96x96) and a detector after YOLOv8, with fresh weights and ranges of random images, on random
images: the evaluation of each training backend, the exported files in ONNX Runtime and LiteRT, C by several compilers on this
machine, and C on emulated Cortex-M processors. Exit status 1 where a code differs.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

import qat
from qat.cli import run_script
from qat.console import print_table
from qat.deploy.arithmetics import arithmetic_options
from qat.graph import Graph, Params
from qat.integer import IntegerGraph
from qat.integer.fixed_point import ARITHMETICS
from qat.networks import create
from qat.registry import formats
from qat.targets.c.cortex_m.cores import CORES
from qat.targets.c.cortex_m.measure import measure
from qat.vocabulary.arrays import as_tuple
from qat.vocabulary.ops import Array

NETWORKS = ("lenet", "resnet8", "larger_networks:MobileNetV2", "detector")
BACKENDS = ("torch", "keras", "mindspore")
FORMATS = ("ONNX", "TFLITE")
#: Of the C file, on this machine; those that are not installed are left out, and named.
COMPILERS = (
    *(f"gcc {options}" for options in ("-O0", "-O2", "-Os", "-O3 -march=haswell", "-O3 -march=native")),
    *(f"clang {options}" for options in ("-O0", "-O3 -march=native")),
    "i686-linux-gnu-gcc -static -O2 -msse2 -mfpmath=sse",
    "i686-linux-gnu-gcc -static -O2 -march=i686 -mfpmath=387",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--arithmetic", choices=ARITHMETICS, default="fixed", help="default: fixed")
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), help=f"default: {' '.join(NETWORKS)}")
    parser.add_argument("--backends", nargs="*", default=list(BACKENDS), help=f"default: {' '.join(BACKENDS)}")
    parser.add_argument("--cores", nargs="*", default=["m4", "m4f", "m7", "m33f", "m55"], choices=[*CORES])
    parser.add_argument("--images", type=int, default=10, help="on this machine; on cores one; default: 10")


def run(args: argparse.Namespace) -> int:
    rows, wrong, compilers = [], 0, [x for x in COMPILERS if shutil.which(x.split()[0])]
    for name in args.networks:
        graph = qat.convert_quant_network(create(name).graph(), arithmetic=args.arithmetic)
        params = graph.observed_params()
        integers = qat.to_integer(graph, params)
        (spec,) = integers.input_specs
        images = np.random.default_rng(1).integers(0, 256, (args.images, *spec.shape), np.uint8)
        expected = as_tuple(qat.evaluate(integers, images))
        for engine, found in engines(args, graph, params, integers, images, compilers):
            compared = [x[: len(y)] for x, y in zip(expected, found, strict=True)]
            differ = sum(int(np.count_nonzero(x != y)) for x, y in zip(compared, found, strict=True))
            wrong += differ
            rows.append((integers.name, engine, f"{sum(x.size for x in compared):,}", f"{differ:,}"))
    print_table(f"{args.arithmetic} arithmetic", ("network", "engine", "codes", "differ"), rows)
    left_out = [x for x in COMPILERS if x not in compilers]
    print(f"{wrong:,} codes differ" + (f"; not installed: {', '.join(left_out)}" if left_out else ""))
    return int(wrong > 0)


def engines(
    args: argparse.Namespace, graph: Graph, params: Params, integers: IntegerGraph, images: Array, compilers: list[str]
) -> Iterator[tuple[str, tuple[Array, ...]]]:
    """Each engine's name, and its output codes."""
    grids = [x.grid for x in integers.outputs]
    for name in args.backends:
        backend = qat.backend(name)
        yield backend.runtime(), as_tuple(backend.predict_codes(backend.lower(graph, params), images))
    with tempfile.TemporaryDirectory() as folder:
        for name in FORMATS:
            target = qat.target(name)
            if args.arithmetic not in target.ARITHMETICS or name not in formats():
                continue
            path = Path(folder) / f"net{target.SUFFIX}"
            target.export(integers, path)
            real = as_tuple(target.predict(path, images))
            runtime = target.runtime(**arithmetic_options(target, args.arithmetic))
            yield runtime, tuple(grid.codes_of(x) for grid, x in zip(grids, real, strict=True))
        path = Path(folder) / "net.c"
        qat.target("C").export(integers, path)
        for compiler in compilers:
            command, *options = compiler.split()
            os.environ |= {"CC": command, "CFLAGS": " ".join(options)}
            real = as_tuple(qat.target("C").predict(path, images))
            yield f"C, {compiler}", tuple(grid.codes_of(x) for grid, x in zip(grids, real, strict=True))
        for core in args.cores:
            yield f"C, {CORES[core].name}", measure(path, images[:1], core).outputs


if __name__ == "__main__":
    sys.exit(run_script(add_arguments, run, __doc__))
