"""Time of the NumPy evaluation of a quantized checkpoint's integers over all test images.

python benchmarks/numpy_integers.py --ckpt_path checkpoint_lenet_quant.ckpt --data_path MNIST_Data
"""

from __future__ import annotations

import argparse
import sys
import time

import qat
from qat.cli import run_script
from qat.data import accuracy
from qat.scripts.common.files import load_checkpoint, load_data
from qat.scripts.common.flags import add_checkpoint_argument, add_data_argument


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_checkpoint_argument(parser, "quantized network")
    add_data_argument(parser)
    parser.add_argument("--repeat", type=int, default=5, help="runs, of which the fastest and the slowest are printed")


def run(args: argparse.Namespace) -> None:
    checkpoint = load_checkpoint(args.ckpt_path, quantized=True)
    test = load_data(args.data_path, checkpoint, args).test
    integers = qat.to_integer(checkpoint.graph, checkpoint.params)
    times = []
    for _ in range(args.repeat):
        start = time.perf_counter()
        codes = qat.evaluate(integers, test.images)
        times.append(time.perf_counter() - start)
    print(
        f"{len(test):,} images, accuracy {100 * accuracy(codes, test.labels):.2f} %: {min(times):.2f} to {max(times):.2f} s"
    )


if __name__ == "__main__":
    sys.exit(run_script(add_arguments, run, __doc__))
