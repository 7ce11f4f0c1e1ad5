"""Arguments of pruning while training, which both training commands take."""

from __future__ import annotations

import argparse
from dataclasses import replace

from qat.cells.pruner import SCHEDULES, MagnitudePruner
from qat.console import note, result
from qat.errors import QatError
from qat.pruning.magnitude import count_zeros, prune_weights, pruners, unfinished
from qat.scripts.common.flags import length
from qat.tables import counted
from qat.training.checkpoint import Checkpoint
from qat.training.lengths import Length, Span

NAMES = ("initial", "schedule", "begin", "end", "frequency", "layers")
LENGTHS = {
    "begin": (Length("10%", most=1000), "after which pruning begins"),
    "end": (Length("75%", most=8000), "after which the final share is reached"),
    "frequency": (Length("1%", most=100), "from pruning to pruning"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """--sparsity and what belongs to it."""
    group = parser.add_argument_group(
        "pruning of single weights", "the smallest become 0 and stay 0 ('qat help pruning')"
    )
    group.add_argument("--sparsity", type=float, metavar="SHARE", help="the share of weights that is 0 in the end")
    group.add_argument(
        "--sparsity_initial", type=float, default=0.0, metavar="SHARE", help="the share at the beginning"
    )
    group.add_argument("--sparsity_schedule", choices=SCHEDULES, default="polynomial", help="how the share grows")
    for name, (default, text) in LENGTHS.items():
        group.add_argument(f"--sparsity_{name}", type=length, default=default, metavar="LENGTH", help=text)
    group.add_argument(
        "--sparsity_layers", nargs="+", default=["*"], metavar="PATTERN", help="names of the cells that are pruned"
    )


def with_pruner(args: argparse.Namespace, start: Checkpoint, span: Span) -> Checkpoint:
    """Where training starts, with a pruner if the arguments ask for one. Raises QatError for half a request."""
    if args.sparsity is None:
        for name in NAMES:
            if f"sparsity_{name}" in args.given:
                raise QatError(f"--sparsity_{name}: says how weights are pruned, but not how many; give --sparsity too")
        return start
    begin, end = (getattr(args, f"sparsity_{name}").within(span) for name in ("begin", "end"))
    if begin >= span.steps:
        raise QatError(
            f"--sparsity_begin {args.sparsity_begin}: that is {begin} steps, but the training has {span}, so that nothing "
            "would be pruned; give less, as 10%"
        )
    pruner = MagnitudePruner(
        final_sparsity=args.sparsity,
        initial_sparsity=args.sparsity_initial,
        begin=begin,
        end=span.steps - 1 if end == span.steps > begin + 1 else end,  # before the last step: none follows the end
        frequency=args.sparsity_frequency.within(span, least=1),
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
        note(f"{checkpoint.step} steps were trained, but pruning ends at step {last}; lower --sparsity_end")
    zeros, weights = count_zeros(checkpoint.graph, checkpoint.params)
    result(
        f"Sparsity: {100 * zeros / weights:.2f} % of {counted(weights, 'weight')} are 0", zeros=zeros, weights=weights
    )
