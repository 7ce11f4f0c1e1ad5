"""Train YourNet, the project's own answer to the contest: float training, then quantization-aware training to int8.

Epochs 0 to 39 train the float network, whose last checkpoint is what the contest measures; 40 to 49 its int8 form, for C.
"""

from __future__ import annotations

import argparse
import sys

import qat
from qat.checkpoint import Checkpoint
from qat.cli import run_script
from qat.networks import CompactDigits
from qat.optimizer import Optimizer
from qat.scripts import contest
from qat.training import Recipe

FLOAT_EPOCHS, QUANTIZED_EPOCHS = 40, 10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    contest.add_training_arguments(parser, folder="checkpoints/YourNet", epochs=FLOAT_EPOCHS + QUANTIZED_EPOCHS)


def run(args: argparse.Namespace) -> None:
    graph = CompactDigits().graph()
    optimizer = Optimizer(weight_decay=1e-4)

    def quantized(last: Checkpoint | None) -> Checkpoint:
        assert last is not None, "the float epochs come before"
        converted = qat.convert_quant_network(last.graph, quant_delay=0, freeze_bn=0)
        return Checkpoint(converted, converted.initial_params(args.seed) | last.params, history=last.history)

    stages = [
        contest.Stage(
            Recipe(FLOAT_EPOCHS, args.batch_size, 0.1, seed=args.seed, optimizer=optimizer),
            lambda last: Checkpoint(graph, graph.initial_params(args.seed)),
        ),
        contest.Stage(Recipe(QUANTIZED_EPOCHS, args.batch_size, 0.01, seed=args.seed, optimizer=optimizer), quantized),
    ]
    contest.train_stages(args, graph, stages)


if __name__ == "__main__":
    sys.exit(run_script(add_arguments, run, __doc__))
