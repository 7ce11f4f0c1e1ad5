"""Arguments of pruning while training, which both training commands take."""

from __future__ import annotations

import argparse
from dataclasses import replace

from qat.cells.pruner import SCHEDULES, MagnitudePruner
from qat.errors import QatError
from qat.pruning.magnitude import count_zeros, prune_weights, pruners, unfinished
from qat.training.checkpoint import Checkpoint

NAMES = ("initial", "schedule", "begin", "end", "frequency", "layers")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """--sparsity and what belongs to it."""
    group = parser.add_argument_group("pruning of single weights", "the smallest become 0 and stay 0 (docs/pruning.md)")
    group.add_argument("--sparsity", type=float, metavar="SHARE", help="the share of weights that is 0 in the end")
    group.add_argument(
        "--sparsity_initial", type=float, default=0.0, metavar="SHARE", help="the share at the beginning"
    )
    group.add_argument("--sparsity_schedule", choices=SCHEDULES, default="polynomial", help="how the share grows")
    group.add_argument("--sparsity_begin", type=int, default=1000, metavar="STEP", help="where pruning begins")
    group.add_argument(
        "--sparsity_end", type=int, default=8000, metavar="STEP", help="where the final share is reached"
    )
    group.add_argument(
        "--sparsity_frequency", type=int, default=100, metavar="STEPS", help="steps from pruning to pruning"
    )
    group.add_argument(
        "--sparsity_layers", nargs="+", default=["*"], metavar="PATTERN", help="names of the cells that are pruned"
    )


def with_pruner(args: argparse.Namespace, start: Checkpoint) -> Checkpoint:
    """Where training starts, with a pruner if the arguments ask for one. Raises QatError for half a request."""
    if args.sparsity is None:
        for name in NAMES:
            if f"sparsity_{name}" in args.given:
                raise QatError(f"--sparsity_{name}: says how weights are pruned, but not how many; give --sparsity too")
        return start
    pruner = MagnitudePruner(
        final_sparsity=args.sparsity,
        initial_sparsity=args.sparsity_initial,
        begin=args.sparsity_begin,
        end=args.sparsity_end,
        frequency=args.sparsity_frequency,
        schedule=args.sparsity_schedule,
    )
    graph, params = prune_weights(start.graph, start.params, pruner, tuple(args.sparsity_layers))
    return replace(start, graph=graph, params=params)


def report(checkpoint: Checkpoint) -> None:
    """Say how many weights are 0, where there is a pruner, and whether its schedule came to its end."""
    found = pruners(checkpoint.graph).values()
    if not found:
        return
    if unfinished(checkpoint.graph, checkpoint.params):
        last = max(pruner.last for pruner in found)
        print(f"note: {checkpoint.step} steps were trained, but pruning ends at step {last}; lower --sparsity_end")
    zeros, weights = count_zeros(checkpoint.graph, checkpoint.params)
    print(f"Sparsity: {100 * zeros / weights:.2f} % of {weights:,} weights are 0")
