"""Accuracy with weights of few bits without training: nearest codes, codes by moments and learned rounding.

    python benchmarks/rounding.py --ckpt_path ic01.ckpt --data_path ic01.npz --bits 4 8 --bits 3 8

Calibrates a float checkpoint on --images training images in each way, and prints the main metric of its task on the test
samples (of --test_path, if given), with the seconds that the calibration took.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import replace
from typing import Any

import numpy as np

import qat
from qat.cli import run_script
from qat.console import print_table
from qat.registry import evaluation_ops
from qat.scripts.common.files import load_checkpoint, load_data
from qat.scripts.common.flags import add_backend_arguments, add_checkpoint_argument, add_data_argument
from qat.tasks import main
from qat.training.loop import evaluate_metrics
from qat.vocabulary.arrays import as_arrays, as_tuple

WAYS = ("minmax", "mse + bias", "moments, mse + bias", "learned, mse + bias")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_checkpoint_argument(parser, "float network")
    add_data_argument(parser, workers=True)
    add_backend_arguments(parser)
    parser.add_argument("--test_path", metavar="DATA", help="whose test samples are evaluated (default: --data_path)")
    parser.add_argument("--images", type=int, default=1000, help="training images to calibrate with, at most all")
    parser.add_argument("--bits", type=int, nargs=2, action="append", help="of weights and activations (default: 4 8)")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS, help="which")
    parser.add_argument("--iterations", type=int, nargs="+", default=[1000], help="of each block, at most")
    parser.add_argument("--drop", type=float, nargs="+", default=[0.5], help="of QDrop")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="of learned rounding")


def run(args: argparse.Namespace) -> None:
    checkpoint = load_checkpoint(args.ckpt_path, quantized=False)
    dataset = load_data(args.data_path, checkpoint, args)
    test = load_data(args.test_path, checkpoint, args).test if args.test_path else dataset.test
    backend, ops = qat.backend(args.backend), evaluation_ops(args.backend, args.device_target)
    chosen = np.sort(np.random.default_rng(0).permutation(len(dataset.train))[: args.images])
    images = as_arrays(tuple(x[chosen] for x in as_tuple(dataset.train.images)))

    def figure(of: qat.Checkpoint) -> str:
        name, value = main(evaluate_metrics(backend, of, test, device_target=args.device_target))
        return checkpoint.task.value(name, value)

    rows = [("float", "", "", figure(checkpoint), "")]
    for bits in args.bits or [[4, 8]]:
        for way in args.ways:
            combined = "mse" in way
            settings: dict[str, Any] = {"method": "mse" if combined else "minmax", "bias_correction": combined}
            roundings: list[qat.LearnedRounding | str] = ["moments" if "moments" in way else "nearest"]
            if "learned" in way:
                roundings = [
                    qat.LearnedRounding(iterations, drop=drop, seed=seed, backend=args.backend)
                    for iterations in args.iterations
                    for drop in args.drop
                    for seed in args.seeds
                ]
            for rounding in roundings:
                begin = time.process_time()
                found = qat.calibrate(
                    checkpoint.graph,
                    checkpoint.params,
                    images,
                    num_bits=tuple(bits),
                    rounding=rounding,
                    ops=ops,
                    **settings,
                )
                seconds = time.process_time() - begin
                words = ""
                if isinstance(rounding, qat.LearnedRounding):
                    words = f"{rounding.iterations}, {rounding.drop:g}, {rounding.seed}"
                value = figure(replace(found, task=checkpoint.task))
                rows.append((f"{bits[0]}/{bits[1]}", way, words, value, f"{seconds:.0f} s"))
                print(" | ".join(rows[-1]), flush=True)
    columns = ("bits", "", "iterations, drop, seed", "metric", "processor")
    print_table(f"{checkpoint.graph.name}, calibrated on {len(chosen)} of {args.data_path}", columns, rows)


if __name__ == "__main__":
    sys.exit(run_script(add_arguments, run, __doc__))
