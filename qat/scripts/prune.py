"""Remove channels and residual blocks from a float checkpoint, and save the smaller one.

qat train --ckpt_path fine-tunes it.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import qat
from qat import pruning
from qat.analysis import metrics
from qat.cli import run_script
from qat.console import print_table, result, wrote
from qat.data import Dataset
from qat.errors import QatError
from qat.graph import Graph
from qat.pruning.channels import SCOPES, Budget
from qat.pruning.importance import METHODS, Importance
from qat.scripts.common.files import check_checkpoint_path, load_checkpoint, load_data
from qat.scripts.common.flags import add_backend_arguments, add_checkpoint_argument, seed
from qat.scripts.common.plan import add_writing_arguments, check_outputs, of_data, of_graph, stop_if_dry
from qat.scripts.common.printing import print_metric, told
from qat.tasks import Task
from qat.training.checkpoint import Checkpoint
from qat.training.loop import check_labels, evaluate_metrics

SCOPE = {"slimming": "global", "l1": "layer", "taylor": "global"}  #: norms of weights say little across layers


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's flags."""
    add_checkpoint_argument(parser, "float network")
    parser.add_argument(
        "--data_path",
        help="folder of images, or 'digits': for the method taylor, and for the metric before and after",
    )
    add_backend_arguments(parser)
    channels = parser.add_argument_group("channels", "give one of --ratio, --max_macs, --max_params")
    channels.add_argument("--method", choices=METHODS, default="l1", help="what makes a channel important")
    channels.add_argument("--ratio", type=float, help="the share of the channels that goes, of those the method ranks")
    channels.add_argument("--max_macs", type=int, metavar="N", help="as many channels go as leave N products an image")
    channels.add_argument("--max_params", type=int, metavar="N", help="as many as leave N trained parameters")
    channels.add_argument("--scope", choices=SCOPES, help="rank all channels, or those of a layer (l1's default)")
    channels.add_argument("--minimum", type=int, default=1, metavar="N", help="channels that a layer keeps at least")
    channels.add_argument(
        "--multiple_of", type=int, default=1, metavar="N", help="a layer keeps a multiple of N channels"
    )
    blocks = parser.add_argument_group("residual blocks")
    blocks.add_argument("--drop_blocks", nargs="+", default=[], metavar="NAME", help="names of their additions")
    taylor = parser.add_argument_group("the method taylor", "on training images, which --data_path gives")
    taylor.add_argument("--batches", type=int, default=20, help="how many batches its gradients are taken from")
    taylor.add_argument("--batch_size", type=int, default=64, help="images a batch")
    taylor.add_argument("--seed", type=seed, default=0, help="seed of the choice of images")
    parser.add_argument("--save_path", help="checkpoint file to write (default: <ckpt_path>_pruned.ckpt)")
    add_writing_arguments(parser)


def run(args: argparse.Namespace) -> None:
    """Run the command."""
    limits = _limits(args)
    checkpoint = load_checkpoint(args.ckpt_path, quantized=False)
    source = Path(args.ckpt_path)
    path = Path(args.save_path or source.with_name(f"{source.stem}_pruned{source.suffix}"))
    check_checkpoint_path(path, {"--ckpt_path": args.ckpt_path}, "--save_path")
    check_outputs(args, path)
    dataset = None
    if args.data_path is not None:
        dataset = load_data(args.data_path, checkpoint, args)
        check_labels(checkpoint.graph, dataset, checkpoint.task)
    stop_if_dry(
        args,
        f"remove channels by {args.method}",
        reads=[
            (args.ckpt_path, of_graph(checkpoint.graph)),
            *([(args.data_path, of_data(dataset))] if dataset else []),
        ],
        writes=[path],
    )
    graph, params = pruning.drop_blocks(checkpoint.graph, checkpoint.params, args.drop_blocks)
    if limits:
        graph, params = pruning.prune_channels(
            graph,
            params,
            _importance(args, graph, params, dataset, checkpoint.task),
            scope=args.scope or SCOPE[args.method],
            minimum=args.minimum,
            multiple_of=args.multiple_of,
            **limits,
        )
    if graph == checkpoint.graph:
        raise QatError(f"{args.ckpt_path}: with these arguments nothing is removed; raise --ratio, or lower the limit")
    names = ("method", "ratio", "max_macs", "max_params", "scope", "minimum", "multiple_of", "drop_blocks", "batches")
    record = {"pruning": {name: getattr(args, name) for name in (*names, "batch_size", "seed")}}
    pruned = replace(checkpoint.derived(graph, params), history=(record | told(args), *checkpoint.past))
    pruned.save(path)
    _report(args, checkpoint, pruned, dataset)
    wrote(path)


def _limits(args: argparse.Namespace) -> dict[str, Any]:
    """How much goes, as ``prune_channels`` takes it. Raises QatError unless it is said once, or a block is named."""
    budgets: dict[str, Budget] = {
        "max_macs": (metrics.total_macs, args.max_macs),
        "max_params": (Graph.count_trainable, args.max_params),
    }
    given = [name for name in ("ratio", *budgets) if getattr(args, name) is not None]
    if len(given) > 1:
        raise QatError(f"--{given[0]} and --{given[1]}: both say how many channels go; give one of them")
    if not given:
        if not args.drop_blocks:
            raise QatError("nothing to remove: give --ratio, --max_macs, --max_params or --drop_blocks")
        return {}
    name = given[0]
    return {"ratio": args.ratio} if name == "ratio" else {"budget": budgets[name]}


def _importance(
    args: argparse.Namespace, graph: Graph, params: dict[str, Any], dataset: Dataset | None, task: Task
) -> Importance:
    if args.method == "slimming":
        return pruning.slimming_importance(graph, params)
    if args.method == "l1":
        return pruning.l1_importance(graph, params)
    if dataset is None:
        raise QatError("--method taylor: takes its gradients from training images; give --data_path")
    return pruning.taylor_importance(
        qat.backend(args.backend),
        graph,
        params,
        dataset.train,
        batches=args.batches,
        batch_size=args.batch_size,
        seed=args.seed,
        task=task,
        device_target=args.device_target,
    )


def _report(args: argparse.Namespace, before: Checkpoint, after: Checkpoint, dataset: Dataset | None) -> None:
    """What became smaller, and what that costs before any fine-tuning."""
    kept = {group.name: len(group) for group in pruning.channel_groups(after.graph)}
    rows = [(group.name, len(group), kept.get(group.name, "dropped")) for group in pruning.channel_groups(before.graph)]
    print_table("Channels", ("layer", "before", "after"), rows, "channels")
    counts = [(each.graph.count_trainable(), metrics.total_macs(each.graph)) for each in (before, after)]
    for what, old, new in zip(("parameters", "products an image"), *counts, strict=True):
        text = f"{what}: {old:,} -> {new:,} ({old / new:.2f} times fewer)"
        result(text, **{"parameters" if what == "parameters" else "macs": {"before": old, "after": new}})
    if dataset is not None:
        backend = qat.backend(args.backend)
        for when, each in (("before", before), ("after", after)):
            found = evaluate_metrics(backend, each, dataset.test, device_target=args.device_target)
            print_metric(each.task, found, f" {when}: ", "metrics_before" if when == "before" else "metrics")


if __name__ == "__main__":
    sys.exit(run_script(add_arguments, run, __doc__))
