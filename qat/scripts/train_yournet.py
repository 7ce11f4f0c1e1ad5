"""Train YourNet, the project's own answer to the contest: float training, then quantization-aware training to int8.

Epochs 0 to 59 train the float network, whose last checkpoint is what the contest measures; 60 to 69 its int8 form, for C. The
images are moved at random by up to a pixel.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace

import qat
from qat.cli import run_script
from qat.networks import CompactDigits
from qat.scripts.common import contest
from qat.training.checkpoint import Checkpoint
from qat.training.optimizer import Optimizer
from qat.training.recipe import Recipe

FLOAT_EPOCHS, QUANTIZED_EPOCHS = 60, 10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's flags."""
    contest.add_training_arguments(parser, folder="checkpoints/YourNet", epochs=FLOAT_EPOCHS + QUANTIZED_EPOCHS)


def run(args: argparse.Namespace) -> None:
    """Run the command."""
    graph = CompactDigits().graph()
    recipe = Recipe(
        FLOAT_EPOCHS, args.batch_size, 0.1, seed=args.seed, optimizer=Optimizer(weight_decay=1e-5), augment_shift=1
    )

    def quantized(last: Checkpoint | None) -> Checkpoint:
        assert last is not None, "the float epochs come before"
        converted = qat.convert_quant_network(last.graph, quant_delay=0, freeze_bn=0)
        return last.derived(converted, converted.params_from(last.params, args.seed))

    stages = [
        contest.Stage(recipe, lambda last: Checkpoint(graph, graph.initial_params(args.seed))),
        contest.Stage(replace(recipe, epochs=QUANTIZED_EPOCHS, lr=0.01), quantized),
    ]
    contest.train_stages(args, graph, stages)


if __name__ == "__main__":
    sys.exit(run_script(add_arguments, run, __doc__))
