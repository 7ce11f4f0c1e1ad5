"""How long, and with how much memory, compilers take for the C files of networks from small to large.

    python benchmarks/c_compile.py

The weights are random ones. Printed are the size of the source, what the export itself takes, and of each compiler at -O2 the
least of several times and the largest memory of any of its processes. Times are those of the processor, which other processes
disturb little.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import qat
from qat.cells.tracing import Traced
from qat.cli import run_script
from qat.console import print_table
from qat.integer import IntegerGraph
from qat.networks import LeNet5, ResNet8
from qat.networks.resnet import BasicBlock


class ResNet18(qat.Network):
    """For images of 64 x 64 (He et al., arXiv 1512.03385, table 1): 11.2 million weights."""

    inputs = (qat.Input((3, 64, 64), mean=0.5, std=0.25),)

    def __init__(self) -> None:
        self.conv = qat.Conv2dBnAct(3, 64, 7, 2, has_bn=True, activation="relu")
        self.largest = qat.MaxPool2d(3, 2, pad_mode="same")
        self.blocks = [
            BasicBlock(before if first else width, width, 2 if first and width > 64 else 1, tiny=False)
            for before, width in ((64, 64), (64, 128), (128, 256), (256, 512))
            for first in (True, False)
        ]
        self.pool, self.flatten = qat.GlobalAvgPool2d(), qat.Flatten()
        self.fc = qat.DenseBnAct(512, 10)

    def construct(self, x: Traced) -> Traced:
        x = self.largest(self.conv(x))
        for block in self.blocks:
            x = block(x)
        return self.fc(self.flatten(self.pool(x)))


NETWORKS = {"LeNet-5": LeNet5, "ResNet-8": ResNet8, "ResNet-18": ResNet18}


#: In a process of its own, which is small: what a process had before it became a compiler counts as the compiler's.
MEASURE = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(used.ru_utime + used.ru_stime, used.ru_maxrss)
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS), help="which")
    parser.add_argument(
        "--compilers", nargs="+", default=["gcc", "clang"], help="which; those that are not installed are left out"
    )
    parser.add_argument("--times", type=int, default=3, help="how often each file is compiled")


def run(args: argparse.Namespace) -> None:
    rows = []
    for name in args.networks:
        graph = qat.convert_quant_network(NETWORKS[name]())
        integers = qat.to_integer(graph, graph.observed_params(0))
        for form, weights_file in (("literals", "no"), ("--weights_file", "yes")):
            with tempfile.TemporaryDirectory() as folder:
                rows.append((name, form, *_measured(integers, Path(folder), weights_file, args)))
    header = ("network", "weights", "source", "export", *filter(shutil.which, args.compilers))
    print_table("one file, compiled at -O2", header, rows)


def _measured(integers: IntegerGraph, folder: Path, weights_file: str, args: argparse.Namespace) -> list[str]:
    """The cells of a row."""
    source = folder / "net.c"
    start = time.process_time()
    qat.target("C").export(integers, source, weights_file=weights_file)
    cells = [f"{source.stat().st_size / 1e6:.2f} MB", f"{time.process_time() - start:.1f} s"]
    for compiler in filter(shutil.which, args.compilers):
        found = [compiled([compiler, "-std=c99", "-O2", "-c", "net.c"], folder) for _ in range(args.times)]
        cells.append(f"{min(seconds for seconds, _ in found):.2f} s, {max(size for _, size in found) / 1e6:.0f} MB")
    return cells


def compiled(command: list[str], folder: Path) -> tuple[float, int]:
    """Seconds of the processor, and bytes of the largest of the processes."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, *command], cwd=folder, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise qat.QatError(f"{' '.join(command)}: cannot be measured ({done.stderr.strip()}); look at the compiler")
    seconds, kilobytes = done.stdout.split()
    return float(seconds), int(kilobytes) * 1024


if __name__ == "__main__":
    sys.exit(run_script(add_arguments, run, __doc__))
