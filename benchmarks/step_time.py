"""Time of a training step: quantization-aware over float, and over a plain float network written by hand.

    python benchmarks/step_time.py --backend torch
    python benchmarks/step_time.py --backend torch --network resnet18 --batch_size 32 --blocks 20 --steps 1 --memory
    python benchmarks/step_time.py --backend torch --network mobilenetv2 --batch_size 16 --blocks 20 --steps 1 --memory
    python benchmarks/step_time.py --backend torch --family --modes eager      # every quantizer, on LeNet-5
    python benchmarks/step_time.py --backend mindspore --network resnet8 --modes compiled --against torch

The steps alternate within one run, in blocks, so that a noisy machine disturbs all of them alike; printed are medians over
the blocks, and the medians of the ratios of neighbouring blocks. With --memory each step also runs in a process of its own,
whose peak of memory is printed, less what it held before the step was made: network, optimizer and activations.
OMP_NUM_THREADS is the number of threads. With --against each step also alternates with the eager one of another backend.
"""

from __future__ import annotations

import argparse
import importlib
import multiprocessing
import re
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from larger_networks import NETWORKS

import qat
from qat.analysis.timing import alternate
from qat.cells.linear import LinearCell
from qat.cli import run_script
from qat.console import print_table
from qat.errors import QatError
from qat.graph import Graph
from qat.networks import LeNet5, create
from qat.quantizers import FAMILY
from qat.scripts.common.flags import add_backend_arguments
from qat.training.optimizer import Optimizer

#: How training sees batch normalisation.
FOLDS = {
    "two convolutions": {"bn_fold": True, "one_conv_fold": False},
    "one convolution": {"bn_fold": True, "one_conv_fold": True},
    "frozen": {"bn_fold": True, "freeze_bn": 0},
    "not folded": {"bn_fold": False},
}
PLAIN = "plain"  #: the framework's own layers, by hand

Step = Callable[[np.ndarray, np.ndarray, float], float]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_backend_arguments(parser)
    parser.add_argument(
        "--network", default="lenet", help=f"which network: one of qat.networks, or {', '.join(NETWORKS)}"
    )
    parser.add_argument(
        "--family", action="store_true", help="a step of every quantizer of qat.quantizers.FAMILY, on LeNet-5"
    )
    parser.add_argument("--batch_size", type=int, default=64, help="images a step")
    parser.add_argument("--blocks", type=int, default=300, help="how often each step is timed")
    parser.add_argument("--steps", type=int, default=2, help="steps in a block")
    parser.add_argument("--modes", nargs="+", choices=("eager", "compiled"), default=["eager", "compiled"])
    parser.add_argument("--folds", nargs="+", choices=tuple(FOLDS), default=list(FOLDS), help="of batch normalisation")
    parser.add_argument("--against", metavar="BACKEND", help="another backend, whose eager steps are timed too")
    parser.add_argument("--memory", action="store_true", help="also measure each step's peak of memory")


def network(name: str) -> Graph:
    """A network by its name, as a graph."""
    return (NETWORKS[name]() if name in NETWORKS else create(name)).graph()


def networks(args: argparse.Namespace) -> dict[str, Graph]:
    """What is trained beside the plain network, by name."""
    graph = network(args.network)
    found = {"float": graph}
    if args.family:
        if args.network != "lenet":
            raise QatError(f"--network {args.network}: --family is measured on lenet; leave one of the two out")
        return found | {
            name: qat.convert_quant_network(LeNet5(activation=pair.activation), **pair.settings("fc3"))
            for name, pair in FAMILY.items()
        }
    if any(isinstance(node.cell, LinearCell) and node.cell.has_bn for node in graph.nodes):
        return found | {
            f"QAT, {name}": qat.convert_quant_network(graph, **settings)
            for name, settings in FOLDS.items()
            if name in args.folds
        }
    return found | {"QAT": qat.convert_quant_network(graph)}


def make_step(args: argparse.Namespace, name: str, *, compile: bool) -> Step:
    """The training step of one of ``networks``, or of the plain network."""
    if name == PLAIN:
        step: Step = importlib.import_module(f"plain_{args.backend}").make_step(args.network, compile=compile)
        return step
    backend = qat.backend(args.backend)
    return backend.make_step(backend.lower(networks(args)[name]), Optimizer(), compile=compile)


def batch(args: argparse.Namespace) -> tuple[np.ndarray, np.ndarray]:
    """Random pixels and labels."""
    graph = network(args.network)
    generator = np.random.default_rng(0)
    shape = graph.shapes[graph.inputs[0].name]
    return generator.integers(0, 256, (args.batch_size, *shape), np.uint8), generator.integers(0, 10, args.batch_size)


def peak(args: argparse.Namespace, name: str, *, compile: bool) -> float:
    """MiB that a process takes for a step, at most, beyond the framework; in a process that has done nothing else."""
    x, y = batch(args)
    make_step(argparse.Namespace(**vars(args) | {"network": "lenet", "family": False}), PLAIN, compile=False)
    before = _held_at_most()
    step = make_step(args, name, compile=compile)
    for _ in range(3):
        step(x, y, 1e-4)
    return _held_at_most() - before


def _held_at_most() -> float:
    """MiB that this process has held at most so far, which getrusage would mix with those of the one that started it."""
    return int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024.0


def run(args: argparse.Namespace) -> None:
    names = [PLAIN, *networks(args)]
    x, y = batch(args)
    for mode in args.modes:
        compile = mode == "compiled"
        calls = {name: partial(make_step(args, name, compile=compile), x, y, 1e-4) for name in names}
        if args.against:
            other = argparse.Namespace(**vars(args) | {"backend": args.against})
            calls |= {
                f"{args.against}: {name}": partial(make_step(other, name, compile=False), x, y, 1e-4) for name in names
            }
        times = alternate(calls, blocks=args.blocks, repeats=args.steps, warm_up=min(10, 2 + args.blocks // 10))
        peaks: dict[str, float] = {}
        if args.memory:
            for name in names:
                with multiprocessing.get_context("spawn").Pool(1) as pool:
                    peaks[name] = pool.apply(peak, (args, name), {"compile": compile})
        rows = []
        for name, own in times.items():
            row = [name, f"{1000.0 * own.median:.2f} ms"]
            row += [f"{own.over(times[other]).median:.2f}" for other in (PLAIN, "float")]
            if args.against:
                other = f"{args.against}: {name}"
                row.append(f"{own.over(times[other]).median:.2f}" if other in times else "")
            if name in peaks:
                row += [f"{peaks[name]:.0f} MiB", f"{peaks[name] / peaks['float']:.2f}"]
            rows.append(tuple(row))
        against = [f"over {args.against}"] if args.against else []
        columns = ("step", "median", "over plain", "over float", *against, *(("peak", "over float") if peaks else ()))
        print_table(
            f"{args.network}, batch {args.batch_size}, {qat.backend(args.backend).runtime()}, {mode}: one training step",
            columns,
            rows,
        )


if __name__ == "__main__":
    sys.path.append(str(Path(__file__).parent))
    sys.exit(run_script(add_arguments, run, __doc__))
