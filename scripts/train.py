"""Train a float network and save its checkpoint."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import qat
from qat.cli import run_script
from qat.networks import NETWORKS, create
from qat.scripts import common
from qat.training import evaluate_accuracy, train


def add_arguments(parser: argparse.ArgumentParser) -> None:
    common.add_data_argument(parser)
    parser.add_argument(
        "--network", default="lenet", help=f"one of {', '.join(NETWORKS)}, or your own as package.module:Class"
    )
    common.add_backend_arguments(parser)
    common.add_training_arguments(parser, lr=0.02, save_path="checkpoint_<network>.ckpt")


def run(args: argparse.Namespace) -> None:
    graph = create(args.network).graph()
    backend = qat.backend(args.backend)
    recipe = common.recipe(args)
    dataset = common.load_data(args.data_path, graph)
    path = Path(args.save_path or f"checkpoint_{args.network.rpartition(':')[2]}.ckpt")
    checkpoint = train(
        backend,
        graph,
        graph.initial_params(args.seed),
        dataset,
        recipe,
        device_target=args.device_target,
        compile=args.compile,
        log_every=args.log_every,
        save=lambda checkpoint: checkpoint.save(path),
    )
    top1 = evaluate_accuracy(backend, checkpoint, dataset.test, device_target=args.device_target)
    print(f"Accuracy: {100 * top1:.2f}")
    print(f"saved {path}")


if __name__ == "__main__":
    sys.exit(run_script(add_arguments, run, __doc__))
