"""Time of a training step: quantization-aware over float, and over a plain float network written by hand.

    python benchmarks/step_time.py --backend torch
    python benchmarks/step_time.py --backend torch --family --modes eager      # every quantizer, on LeNet-5

The steps alternate within one run, in blocks, so that a noisy machine disturbs all of them alike; printed are medians over
the blocks, and the medians of the ratios of neighbouring blocks.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from functools import partial
from pathlib import Path

import numpy as np

import qat
from qat.analysis.timing import alternate
from qat.cells.linear import LinearCell
from qat.cli import run_script
from qat.console import print_table
from qat.errors import QatError
from qat.networks import LeNet5, create
from qat.quantizers import FAMILY
from qat.scripts.common.flags import add_backend_arguments
from qat.training.optimizer import Optimizer

#: How training sees batch normalisation.
FOLDS = {
    "two convolutions": {"one_conv_fold": False},
    "one convolution": {"one_conv_fold": True},
    "frozen": {"bn_fold": True, "freeze_bn": 0},
    "not folded": {},
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_backend_arguments(parser)
    parser.add_argument("--network", default="lenet", help="which network")
    parser.add_argument(
        "--family", action="store_true", help="a step of every quantizer of qat.quantizers.FAMILY, on LeNet-5"
    )
    parser.add_argument("--batch_size", type=int, default=64, help="images a step")
    parser.add_argument("--blocks", type=int, default=300, help="how often each step is timed")
    parser.add_argument("--steps", type=int, default=2, help="steps in a block")
    parser.add_argument("--modes", nargs="+", choices=("eager", "compiled"), default=["eager", "compiled"])


def run(args: argparse.Namespace) -> None:
    sys.path.append(str(Path(__file__).parent))
    plain = importlib.import_module(f"plain_{args.backend}")
    backend = qat.backend(args.backend)
    graph = create(args.network).graph()
    networks = {"float": graph}
    if args.family:
        if args.network != "lenet":
            raise QatError(f"--network {args.network}: --family is measured on lenet; leave one of the two out")
        networks |= {
            name: qat.convert_quant_network(LeNet5(activation=pair.activation), **pair.settings("fc3"))
            for name, pair in FAMILY.items()
        }
    elif any(isinstance(node.cell, LinearCell) and node.cell.has_bn for node in graph.nodes):
        networks |= {f"QAT, {name}": qat.convert_quant_network(graph, **settings) for name, settings in FOLDS.items()}
    else:
        networks["QAT"] = qat.convert_quant_network(graph)
    generator = np.random.default_rng(0)
    x = generator.integers(0, 256, (args.batch_size, *graph.shapes[graph.inputs[0].name]), np.uint8)
    y = generator.integers(0, 10, args.batch_size)
    for mode in args.modes:
        compile = mode == "compiled"
        steps = {"plain": plain.make_step(args.network, compile=compile)}
        for name, one in networks.items():
            steps[name] = backend.make_step(backend.lower(one), Optimizer(), compile=compile)
        calls = {name: partial(step, x, y, 1e-4) for name, step in steps.items()}
        times = alternate(calls, blocks=args.blocks, repeats=args.steps, warm_up=10)
        rows = []
        for name, own in times.items():
            ratios = [f"{own.over(times[other]).median:.2f}" for other in ("plain", "float")]
            rows.append((name, f"{1000.0 * own.median:.2f} ms", *ratios))
        print_table(
            f"{graph.name}, batch {args.batch_size}, {backend.runtime()}, {mode}: one training step",
            ("step", "median", "over plain", "over float"),
            rows,
        )


if __name__ == "__main__":
    sys.exit(run_script(add_arguments, run, __doc__))
