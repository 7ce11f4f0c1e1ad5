"""Train the contest's reference network, LeNet-5 with 3x3 convolutions, as its document says: SGD at a rate of 0.01."""

from __future__ import annotations

import argparse
import sys

from qat.cli import run_script
from qat.networks import LeNet3x3
from qat.scripts.common import contest
from qat.training.checkpoint import Checkpoint
from qat.training.optimizer import Optimizer
from qat.training.recipe import Recipe


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's flags."""
    contest.add_training_arguments(parser, folder="checkpoints/LeNet5", epochs=7)


def run(args: argparse.Namespace) -> None:
    """Run the command."""
    graph = LeNet3x3().graph()
    recipe = Recipe(
        epochs=max(args.epoch_end, 1),
        batch_size=args.batch_size,
        lr=0.01,
        lr_schedule="constant",
        seed=args.seed,
        optimizer=Optimizer(momentum=0.0),
    )
    begin = contest.Stage(recipe, lambda last: Checkpoint(graph, graph.initial_params(args.seed)))
    contest.train_stages(args, graph, [begin])


if __name__ == "__main__":
    sys.exit(run_script(add_arguments, run, __doc__))
