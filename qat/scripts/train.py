"""Train a float network and save its checkpoint.

--ckpt_path: fine-tune that one, a pruned one perhaps, instead of starting anew.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from qat.cli import run_script
from qat.errors import QatError
from qat.networks.catalogue import ADDED
from qat.scripts.common import sparsity
from qat.scripts.common.files import load_checkpoint
from qat.scripts.common.flags import (
    add_backend_arguments,
    add_data_argument,
    add_network_argument,
    fitted_network,
)
from qat.scripts.common.training import add_training_arguments, opened, prepared, recipe, train_and_save
from qat.training.checkpoint import Checkpoint


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's flags."""
    add_data_argument(parser, workers=True)
    add_network_argument(parser, fitted=True)
    add_backend_arguments(parser)
    add_training_arguments(
        parser, lr=0.02, save_path="checkpoint_<network>.ckpt, or <ckpt_path without its ending>_tuned.ckpt"
    )
    parser.add_argument("--ckpt_path", help="checkpoint file of the float network to go on with, in place of --network")
    parser.add_argument(
        "--slimming",
        type=float,
        default=0.0,
        metavar="LAMBDA",
        help="L1 penalty on the scales of batch normalisations, for prune --method slimming; 0: none",
    )
    sparsity.add_arguments(parser)


def run(args: argparse.Namespace) -> None:
    """Run the command."""
    recipe(args)  # raises for a wrong argument before anything is made with it
    if args.ckpt_path is None:
        path = Path(args.save_path or f"checkpoint_{_short(args.network)}.ckpt")
        dataset = opened(args, path)
        graph = fitted_network(args, dataset)
        start = Checkpoint(graph, graph.initial_params(args.seed))
    else:
        start = _start(args)
        source = Path(args.ckpt_path)
        path = Path(args.save_path or source.with_name(f"{source.stem}_tuned{source.suffix}"))
        dataset = opened(args, path)
    dataset, span = prepared(args, start, dataset)
    train_and_save(args, sparsity.with_pruner(args, start, span), dataset, path)


def _short(network: str) -> str:
    """The name as it is registered, whatever its capitals; of a user's own network that of its class."""
    return ADDED.meant(network) or network.rpartition(":")[2]


def _start(args: argparse.Namespace) -> Checkpoint:
    """Where fine-tuning starts. Raises QatError where --network, or a flag of its input, says something else."""
    for name in ("network", "mean", "std", "input_size"):
        if name in args.given:
            remedy = "give one of them" if Path(args.ckpt_path).exists() else "a new checkpoint is named by --save_path"
            raise QatError(
                f"--{name} {getattr(args, name)}: the network is that of --ckpt_path {args.ckpt_path}; {remedy}"
            )
    checkpoint = load_checkpoint(args.ckpt_path, quantized=False)
    return checkpoint.derived(checkpoint.graph, checkpoint.params)


if __name__ == "__main__":
    sys.exit(run_script(add_arguments, run, __doc__))
