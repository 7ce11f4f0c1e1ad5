"""What operations on an activation cost on a CPU, over the cheapest: reading it once, for its largest number.

    OMP_NUM_THREADS=1 python benchmarks/passes.py

It is why PyTorch's functions in qat/backends/torch/fused.py are written as they are.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

import torch

from qat.analysis.timing import alternate
from qat.backends.torch.fused import statistics
from qat.cli import run_script
from qat.console import print_table

Call = Callable[[], object]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--shape", nargs=4, type=int, default=[16, 96, 48, 48], help="samples, channels, rows, columns")
    parser.add_argument("--blocks", type=int, default=40, help="how often each operation is timed")


def operations(shape: tuple[int, ...]) -> dict[str, Call]:
    """What a training step does with an activation, and what may take its place."""
    x, gradient, own = (torch.randn(shape) for _ in range(3))
    gamma, beta, mean, variance = (torch.full((shape[1],), value) for value in (1.0, 0.0, 0.0, 1.0))
    normalise = torch.native_batch_norm
    backward = torch.ops.aten.native_batch_norm_backward
    masked = torch.ops.aten.hardtanh_backward
    one = torch.tensor(1.0)
    return {
        "largest number of each channel": lambda: x.amax(0).flatten(1).amax(1),
        "statistics from sums": lambda: statistics(x),
        "statistics, PyTorch's own": lambda: torch.batch_norm_update_stats(x, None, None, 0.0),
        "normalise by given statistics": lambda: normalise(x, gamma, beta, mean, variance, False, 0.0, 0.0),
        "batch normalisation": lambda: normalise(x, gamma, beta, None, None, True, 0.0, 1e-5),
        "its gradient": lambda: backward(
            gradient, x, gamma, None, None, mean, variance, True, 1e-5, [True, True, True]
        ),
        "ReLU": lambda: torch.relu(x),
        "multiply": lambda: x * one,
        "multiply in place": lambda: own.mul_(one),
        "round in place": lambda: own.round_(),
        "clip in place": lambda: own.clamp_(-3.0, 3.0),
        "gradient of a clip": lambda: masked(gradient, x, -3.0, 3.0),
        "gradient of a clip, in place": lambda: masked.grad_input(gradient, own, -3.0, 3.0, grad_input=own),
        "fake_quantize_per_tensor_affine": lambda: torch.fake_quantize_per_tensor_affine(x, 1.0, 0, 0, 255),
    }


def run(args: argparse.Namespace) -> None:
    calls = operations(tuple(args.shape))
    times = alternate(calls, blocks=args.blocks)
    first = next(iter(times.values()))
    rows = [(name, f"{1000.0 * own.median:.2f} ms", f"{own.over(first).median:.1f}") for name, own in times.items()]
    shape = " x ".join(map(str, args.shape))
    print_table(f"{shape}, PyTorch, {torch.get_num_threads()} threads", ("operation", "median", "over the first"), rows)


if __name__ == "__main__":
    sys.exit(run_script(add_arguments, run, __doc__))
