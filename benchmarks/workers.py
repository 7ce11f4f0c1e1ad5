"""Time of a training step of several processes over one process with its share of the batch.

    torchrun --nproc_per_node 2 benchmarks/workers.py
    torchrun --nproc_per_node 2 benchmarks/workers.py --network mobilenetv2 --batch_size 16

PyTorch, on the machine or machines of ``torchrun``. The steps alternate within one run, in blocks; the steps of one process are
those of the first one, while the others wait. Printed are medians over the blocks, and the medians of the ratios of
neighbouring blocks: 1.00 beside the step of a share would be processes that cost one another nothing.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from larger_networks import NETWORKS

import qat
from qat.analysis.timing import alternate
from qat.cli import run_script
from qat.console import print_table
from qat.errors import QatError
from qat.graph import Graph
from qat.training.optimizer import Optimizer
from qat.training.workers import this_worker

BACKEND = qat.backend("torch")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--network", choices=tuple(NETWORKS), default="resnet18", help="which network")
    parser.add_argument("--batch_size", type=int, default=32, help="images of a joint step")
    parser.add_argument("--blocks", type=int, default=20, help="how often each step is timed")
    parser.add_argument("--float", action="store_true", help="the float network, not the quantized one")


@contextmanager
def alone() -> Iterator[None]:
    """What is made inside trains in one process."""
    hidden = {name: os.environ.pop(name) for name in ("RANK", "WORLD_SIZE")}
    try:
        yield
    finally:
        os.environ.update(hidden)


def make_step(graph: Graph) -> Callable[[np.ndarray, np.ndarray, float], float]:
    """A step as the commands train with it."""
    return BACKEND.make_step(BACKEND.lower(graph), Optimizer())


def run(args: argparse.Namespace) -> None:
    worker = this_worker()
    if worker.count == 1:
        raise QatError(
            "one process has nothing to share; start several: torchrun --nproc_per_node 2 benchmarks/workers.py"
        )
    graph = NETWORKS[args.network]().graph()
    graph = graph if args.float else qat.convert_quant_network(graph)
    generator = np.random.default_rng(0)
    shape = graph.shapes[graph.inputs[0].name]
    x = generator.integers(0, 256, (args.batch_size, *shape), np.uint8)
    y = generator.integers(0, 1000, args.batch_size)
    share = args.batch_size // worker.count
    with alone():
        one = make_step(graph)
    together = make_step(graph)

    def by_the_first(count: int) -> None:
        if worker.rank == 0:
            one(x[:count], y[:count], 1e-4)
        dist.barrier()

    names = f"one process, {share} images", f"one process, {args.batch_size}", f"{worker.count} processes, {share} each"
    calls = (partial(by_the_first, share), partial(by_the_first, args.batch_size), partial(together, x, y, 1e-4))
    times = alternate(dict(zip(names, calls, strict=True)), blocks=args.blocks, warm_up=3)
    if worker.rank == 0:
        of_share, of_all = (times[name] for name in names[:2])
        print_table(
            f"{graph.name}, {torch.get_num_threads()} threads a process, {'float' if args.float else 'QAT'}: one step",
            ("step", "median", "over a share alone", "over all images alone"),
            [
                (name, f"{1000.0 * t.median:.1f} ms", f"{t.over(of_share).median:.2f}", f"{t.over(of_all).median:.2f}")
                for name, t in times.items()
            ],
        )


if __name__ == "__main__":
    sys.path.append(str(Path(__file__).parent))
    sys.exit(run_script(add_arguments, run, __doc__))
