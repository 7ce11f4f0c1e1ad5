"""Accuracy after post-training quantization, by every method, of LeNet-5 and of the microcontroller network.

    python benchmarks/calibration.py --data_path MNIST_Data

Trains each network for --epochs, calibrates it on --images training images in every way, and prints one table a network.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from pathlib import Path
from statistics import mean

import numpy as np

import qat
from qat.analysis.ranges import METHODS
from qat.cli import run_script
from qat.console import print_table
from qat.networks import create
from qat.scripts.common.files import load_data
from qat.scripts.common.flags import add_backend_arguments, add_data_argument
from qat.training.checkpoint import Checkpoint
from qat.training.loop import evaluate_accuracy, train
from qat.training.optimizer import Optimizer
from qat.training.recipe import Recipe

#: network -> peak learning rate and optimizer, as train and train-and-quantize have them
NETWORKS = {"lenet": (0.02, "momentum"), "mnist_cnn": (0.003, "adam")}
#: column -> settings of convert_quant_network
SETTINGS = {
    "8 bits": {"num_bits": 8},
    "4-bit weights": {"num_bits": (4, 8)},
    "8 bits, one weight scale": {"num_bits": 8, "per_channel": False},
    "4-bit weights, one scale": {"num_bits": (4, 8), "per_channel": False},
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_data_argument(parser)
    add_backend_arguments(parser)
    parser.add_argument("--networks", nargs="+", choices=list(NETWORKS), default=list(NETWORKS), help="which")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="one training for each; the table has means")
    parser.add_argument("--epochs", type=int, default=5, help="of float training")
    parser.add_argument("--images", type=int, default=1000, help="training images to calibrate with")
    parser.add_argument("--out", default="out/calibration", help="folder of the float checkpoints, used again if there")


def run(args: argparse.Namespace) -> None:
    backend = qat.backend(args.backend)
    for name in args.networks:
        graph = create(name).graph()
        dataset = load_data(args.data_path, graph, args)
        trained = []
        for seed in args.seeds:
            path = Path(args.out) / f"{name}_{args.epochs}_{seed}.ckpt"
            if not path.exists():
                lr, optimizer = NETWORKS[name]
                recipe = Recipe(args.epochs, lr=lr, seed=seed, optimizer=Optimizer(optimizer))
                train(backend, Checkpoint(graph, graph.initial_params(seed)), dataset, recipe).save(path)
            trained.append(Checkpoint.load(path))
        chosen = np.random.default_rng(0).permutation(len(dataset.train))[: args.images]
        images = dataset.train.images[chosen]
        rows = [("float", "", f"{100 * mean(evaluate_accuracy(backend, x, dataset.test) for x in trained):.2f} %")]
        rows[0] += ("",) * (len(SETTINGS) - 1) + ("",)
        for method, equalize, bias_correction in itertools.product(METHODS, (False, True), (False, True)):
            options = {"method": method, "equalize": equalize, "bias_correction": bias_correction}
            seconds, cells = 0.0, []
            for settings in SETTINGS.values():
                begin = time.perf_counter()
                found = [qat.calibrate(graph, x.params, images, **options, **settings) for x in trained]
                seconds += time.perf_counter() - begin
                cells.append(f"{100 * mean(evaluate_accuracy(backend, x, dataset.test) for x in found):.2f} %")
            extras = " + ".join(["equalized"] * equalize + ["bias corrected"] * bias_correction)
            rows.append((method, extras, *cells, f"{seconds / len(SETTINGS) / len(trained):.1f} s"))
            print(" | ".join(rows[-1]), flush=True)
        columns = ("method", "", *SETTINGS, "a calibration")
        print_table(f"{graph.name} on {dataset.name}, test images, {len(trained)} seeds", columns, rows)


if __name__ == "__main__":
    sys.exit(run_script(add_arguments, run, __doc__))
