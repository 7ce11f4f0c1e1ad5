"""Train a float network and save its checkpoint."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from qat.checkpoint import Checkpoint
from qat.cli import run_script
from qat.networks import create
from qat.scripts import common


def add_arguments(parser: argparse.ArgumentParser) -> None:
    common.add_data_argument(parser)
    common.add_network_argument(parser)
    common.add_backend_arguments(parser)
    common.add_training_arguments(parser, lr=0.02, save_path="checkpoint_<network>.ckpt")


def run(args: argparse.Namespace) -> None:
    common.recipe(args)  # raises for a wrong argument before anything is made with it
    graph = create(args.network).graph()
    start = Checkpoint(graph, graph.initial_params(args.seed))
    path = Path(args.save_path or f"checkpoint_{args.network.rpartition(':')[2]}.ckpt")
    common.train_and_save(args, start, args.data_path, path)


if __name__ == "__main__":
    sys.exit(run_script(add_arguments, run, __doc__))
