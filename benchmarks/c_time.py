"""Time of one image in C, LiteRT and ONNX Runtime: batch 1, one thread, the same network, in one alternated run.

    python benchmarks/c_time.py

It writes the files that ``qat bench`` takes, and compares them as that command does: medians over blocks that alternate, and
medians of the ratios of neighbouring blocks. C is compiled with -O3 -march=native, and then $CFLAGS; exit status 1 where it
computes another code than NumPy.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

import numpy as np
from cortex_m import NETWORKS as SMALL
from cortex_m import fresh

import qat
from qat.cli import run_script
from qat.console import print_table
from qat.integer.fixed_point import ARITHMETICS
from qat.networks import create
from qat.scripts.bench import File, alternated

NETWORKS = (*SMALL, "larger_networks:MobileNetV2", "larger_networks:ResNet18")
FORMATS = {"C": ("int8",), "TFLITE": ("int8", "float"), "ONNX": ("int8", "float")}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), help=f"default: {' '.join(NETWORKS)}")
    parser.add_argument("--arithmetic", choices=ARITHMETICS, default="fixed", help="of C; default: fixed")
    parser.add_argument("--blocks", type=int, default=200, help="how often each file's turn comes")


def run(args: argparse.Namespace) -> int:
    wrong = 0
    os.environ["CFLAGS"] = f"-O3 -march=native {os.environ.get('CFLAGS', '')}".strip()
    for network in args.networks:
        integers, x = fresh(network, 1, args.arithmetic)
        with tempfile.TemporaryDirectory() as name:
            files = exported(network, args.arithmetic, Path(name))
            expected = integers.output.grid.dequantize(qat.evaluate(integers, x))
            wrong += int(np.count_nonzero(qat.target("C").predict(files["C, int8"].path, x) != expected))
            times = dict(zip(files, alternated(list(files.values()), args.blocks), strict=True))
            arena = qat.target("C").arena_bytes(integers)
        rows = []
        for key, own in times.items():
            taken, ratio = own.scaled(1e6), own.over(times["C, int8"]).median
            rows.append((key, f"{taken.median:.1f} us", f"{taken.seconds.min():.1f} us", f"{ratio:.2f}"))
        print_table(f"{integers.name}, {arena:,} bytes of arena in C", ("file", "median", "least", "over C"), rows)
    print(f"{wrong:,} codes of C differ")
    return int(wrong > 0)


def exported(network: str, arithmetic: str, folder: Path) -> dict[str, File]:
    """The files of a network with fresh weights, by format and kind; of C in that arithmetic, others in the float one."""
    graph = create(network).graph()
    files = {}
    for name, kinds in FORMATS.items():
        target = qat.target(name)
        integers, x = fresh(network, 1, arithmetic if name == "C" else "float")
        for kind in kinds:
            path = folder / f"{kind}{target.SUFFIX}"
            if kind == "int8":
                target.export(integers, path)
            else:
                target.export_float(graph, graph.initial_params(), path)
            files[f"{name}, {kind}"] = File(str(path), target, x)
    return files


if __name__ == "__main__":
    sys.exit(run_script(add_arguments, run, __doc__))
