"""How long a study takes with one and with two processes.

    python benchmarks/study_jobs.py --data_path MNIST_Data

Four folds of a float network, each training single-threaded; starting Python and reading the data count.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time

from qat.cli import run_script
from qat.scripts.common.flags import add_data_argument


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_data_argument(parser, prepared=False)
    parser.add_argument("--train_images", type=int, default=6000, help="of the data set")
    parser.add_argument("--epochs", type=int, default=10, help="of each training")
    parser.add_argument("--jobs", type=int, nargs="+", default=[1, 2], help="numbers of processes")


def run(args: argparse.Namespace) -> None:
    command = [sys.executable, "-m", "qat.cli", "train-svhn", "--data_path", args.data_path, "--folds", "4"]
    command += ["--train_images", str(args.train_images), "--epochs", str(args.epochs), "--early_stopping", "0"]
    first = 0.0
    for jobs in args.jobs:
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            subprocess.run([*command, "--models", folder, "--jobs", str(jobs)], check=True, stdout=subprocess.DEVNULL)
            seconds = time.perf_counter() - start
        first = first or seconds
        print(f"{jobs} processes: {seconds:.1f} s, {seconds / first:.2f} of the first")


if __name__ == "__main__":
    sys.exit(run_script(add_arguments, run, __doc__))
