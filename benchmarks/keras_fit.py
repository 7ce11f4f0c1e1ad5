"""Time of Keras's own ``fit``: of lowered networks over that of a network written by hand.

    python benchmarks/keras_fit.py --network resnet18 --batch_size 32
    python benchmarks/keras_fit.py --network mobilenetv2 --batch_size 16 --jit_compile

Each network is compiled with the same optimizer and loss and trained on the same arrays, uint8 images with their channels last.
Epochs of a few steps alternate within one run; printed are medians, and the medians of the ratios of neighbouring epochs.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path

import numpy as np
import step_time

import qat
from qat.analysis.timing import alternate
from qat.cli import run_script
from qat.console import print_table

BACKEND = "keras"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--network", default="resnet18", help="as for step_time.py")
    parser.add_argument("--batch_size", type=int, default=32, help="images a step")
    parser.add_argument("--steps", type=int, default=3, help="steps in an epoch")
    parser.add_argument("--epochs", type=int, default=15, help="how many epochs of each network are timed")
    parser.add_argument("--jit_compile", action="store_true", help="compile with XLA")
    parser.add_argument(
        "--folds", nargs="+", choices=tuple(step_time.FOLDS), default=["not folded"], help="of batch normalisation"
    )


def run(args: argparse.Namespace) -> None:
    import keras
    from plain_keras import NETWORKS

    from qat.backends.keras.network import to_own_layout

    backend, plain = qat.backend(BACKEND), NETWORKS[args.network]
    rescaling = keras.layers.Rescaling(1.0 / (255.0 * plain.std), -plain.mean / plain.std)
    models = {step_time.PLAIN: keras.Sequential([rescaling, plain.make()])}
    for name, graph in step_time.networks(argparse.Namespace(**vars(args), family=False)).items():
        models[name] = backend.lower(graph)
        to_own_layout(models[name])
    few = argparse.Namespace(**vars(args) | {"batch_size": args.batch_size * args.steps})
    x, y = step_time.batch(few)
    x = np.ascontiguousarray(np.moveaxis(x, 1, -1))
    epochs = {}
    for name, model in models.items():
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.SGD(1e-4, momentum=0.9), loss, jit_compile=args.jit_compile)
        epochs[name] = partial(model.fit, x, y, batch_size=args.batch_size, verbose=0)
    times = alternate(epochs, blocks=args.epochs, warm_up=2)
    rows = []
    for name, own in times.items():
        ratios = [f"{own.over(times[other]).median:.2f}" for other in (step_time.PLAIN, "float")]
        rows.append((name, f"{1000.0 * own.median / args.steps:.2f} ms", *ratios))
    print_table(
        f"{args.network}, batch {args.batch_size}, {backend.runtime()}, fit{' with XLA' * args.jit_compile}: one training step",
        ("network", "median", "over plain", "over float"),
        rows,
    )


if __name__ == "__main__":
    sys.path.append(str(Path(__file__).parent))
    sys.exit(run_script(add_arguments, run, __doc__))
