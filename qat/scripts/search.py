"""Search for how many channels and bits every layer needs under a budget of bytes, MACs or BOPs: the Pareto front.

From a trained float network. Each trial removes channels, the smallest filters first, chooses a width for each layer, and
trains on; what is over the budget is not trained. Written: <out>/pareto.png and .svg, <out>/pareto.csv, and a checkpoint for
each network of the front. Killed and called again, it goes on.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import qat
from qat.analysis.figures import COLOURS, Picture, plain_text
from qat.analysis.metrics import bops, macs
from qat.cli import run_script
from qat.console import print_table, wrote
from qat.errors import QatError
from qat.files import write_atomically
from qat.graph import Graph
from qat.pruning import channel_groups, l1_importance, prune_channels
from qat.scripts.common.files import load_checkpoint
from qat.scripts.common.flags import add_checkpoint_argument, arithmetic_settings
from qat.scripts.common.plan import of_data, of_graph, stop_if_dry
from qat.scripts.run_autoq import add_widths_arguments, merged, settings_of, suggested_widths
from qat.scripts.search_architecture import add_search_arguments, fixed, prepared
from qat.study.layers import costs_of
from qat.study.search import Search, good_words, goodness, metric_of, train_trial
from qat.tables import counted
from qat.tasks import Task
from qat.training.checkpoint import Checkpoint

BUDGETS = {"bytes": "bytes of weights", "macs": "MACs", "bops": "BOPs"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's flags."""
    add_checkpoint_argument(parser, "float network")
    add_search_arguments(parser, out="search", epochs=5, trials=40)
    parser.add_argument("--budget", choices=BUDGETS, default="bytes", help="what is limited, and traded for accuracy")
    parser.add_argument(
        "--limit", type=float, metavar="N", help="the most of it (default: a quarter of the network at 8 bits)"
    )
    parser.add_argument("--least_share", type=float, default=0.25, help="of a layer's channels that stay, at least")
    add_widths_arguments(parser)


def cost_of(graph: Graph, budget: str) -> float:
    """Bytes of all weights, or products or bit operations for one sample."""
    if budget == "bytes":
        return sum(cost.size for cost in costs_of(graph)) / 8
    return float(sum((macs if budget == "macs" else bops)(graph).values()))


def run(args: argparse.Namespace) -> None:
    """Run the command."""
    checkpoint = load_checkpoint(args.ckpt_path, quantized=False)
    if not 0.0 < args.least_share <= 1.0:
        raise QatError(f"--least_share is {args.least_share}; use a share of the channels, above 0 to 1")
    if args.limit is not None and args.limit <= 0:
        raise QatError(f"--limit is {args.limit:g}; use a number of {BUDGETS[args.budget]} above 0")
    dataset, recipe = prepared(args, checkpoint.graph.shapes[checkpoint.graph.inputs[0].name])
    backend, folder = qat.backend(args.backend), Path(args.out)
    stop_if_dry(
        args,
        f"try {counted(args.trials, 'time')}, {counted(args.epochs, 'epoch')} each",
        reads=[(args.ckpt_path, of_graph(checkpoint.graph)), (args.data_path, of_data(dataset))],
        writes=[folder],
    )
    start = merged(checkpoint, dataset)
    importance = l1_importance(start.graph, start.params)
    sizes = {group.name: len(group.units) for group in channel_groups(start.graph)}
    known = start.task.METRICS.values()
    worst = 0.0 if known and all(metric.higher for metric in known) else -1e30
    limit = args.limit or cost_of(qat.convert_quant_network(start.graph), args.budget) / 4

    def objective(trial: Any) -> tuple[float, float]:
        keep = {
            name: max(round(size * trial.suggest_float(f"share {name}", args.least_share, 1.0, step=0.125)), 1)
            for name, size in sizes.items()
        }
        fewer = {name: count for name, count in keep.items() if count < sizes[name]}
        graph, params = start.graph, start.params
        if fewer:
            graph, params = prune_channels(graph, params, importance, keep=fewer)
        widths = suggested_widths(trial, graph, args)
        graph = qat.convert_quant_network(graph, **settings_of(widths, **arithmetic_settings(args)))
        cost = cost_of(graph, args.budget)
        trial.set_user_attr("over", cost - limit)
        if cost > limit:
            return worst, cost  # nothing of the search prefers it to what is within the limit
        own = start.derived(graph, graph.params_from(params, args.seed))
        ended = train_trial(
            trial, folder, backend, own, dataset, recipe, device_target=args.device_target, can_be_pruned=False
        )
        trial.set_user_attr("metric", metric_of(ended))
        return goodness(ended), cost

    settings = fixed(args, "budget", "limit", "least_share", "weight_bits", "activation_bits", "ckpt_path")
    settings |= arithmetic_settings(args)
    with Search(
        folder,
        ["maximize", "minimize"],
        sampler="",
        epochs=args.epochs,
        seed=args.seed,
        settings=settings,
    ) as search:
        trials = search.run(objective, args.trials, lambda trial: _described(trial, args.budget, limit, start.task))
    within = [trial for trial in trials if trial.user_attrs["over"] <= 0.0]
    if not within:
        raise QatError(f"--limit {limit:,.0f}: no trial was within it; raise it, lower --least_share, or try more")
    front = pareto_front(within)
    rows = []
    for trial in front:
        path = folder / f"pareto_{trial.number}.ckpt"
        Checkpoint.load(trial.user_attrs["checkpoint"]).save(path)
        rows.append((f"{trial.values[1]:,.0f}", _figure(start.task, trial), str(trial.number), str(path)))
    name = _name(front[0])
    print(f"{name[0].upper()}{name[1:]} of {recipe.validation:,} held-back training images of {dataset.name}")
    in_percent = " in %" if start.task.is_percent(name) else ""
    print_table("Pareto front", (BUDGETS[args.budget], f"{name}{in_percent}", "trial", "checkpoint"), rows)
    lines = [
        f"{trial.number},{trial.values[1]:g},{_own(start.task, trial):.6f}"
        for trial in sorted(within, key=lambda t: t.number)
    ]
    write_atomically(
        folder / "pareto.csv",
        "\n".join([f"trial,{args.budget},{start.task.label(name, short=True)}", *lines, ""]).encode(),
    )
    for path in [
        folder / "pareto.csv",
        *_picture(within, front, limit, args.budget, dataset.name, start.task).save(folder / "pareto"),
    ]:
        wrote(path)


def pareto_front(trials: list[Any]) -> list[Any]:
    """The trials than which none is both as accurate and cheaper, or more accurate and as cheap; the cheapest first."""
    front: list[Any] = []
    for trial in sorted(trials, key=lambda trial: (trial.values[1], -trial.values[0])):
        if not front or trial.values[0] > front[-1].values[0]:
            front.append(trial)
    return front


def _name(trial: Any) -> str:
    """Of the metric."""
    return str(trial.user_attrs.get("metric", "top-1"))


def _own(task: Task, trial: Any) -> float:
    """The metric itself, which is negative where an error is to be maximised."""
    value: float = trial.values[0]
    return value if task.higher_is_better(_name(trial)) else -value


def _figure(task: Task, trial: Any) -> str:
    """The metric as text, without its unit."""
    return task.value(_name(trial), _own(task, trial)).removesuffix(" %")


def _picture(trials: list[Any], front: list[Any], limit: float, budget: str, data: str, task: Task) -> Picture:
    name = _name(front[0])
    factor, unit = (100, " in %") if task.is_percent(name) else (1, "")
    with (picture := Picture(6.0, 4.2)):
        axis = picture.axes[0, 0]
        others = [trial for trial in trials if trial not in front]
        axis.plot(
            [trial.values[1] for trial in others],
            [factor * _own(task, trial) for trial in others],
            "o",
            color="#999999",
            markersize=4,
            label="other trials",
        )
        costs = [trial.values[1] for trial in front]
        axis.plot(
            costs,
            [factor * _own(task, trial) for trial in front],
            "o-",
            color=COLOURS[0],
            drawstyle="steps-post",
            markersize=5,
            label="Pareto front",
        )
        axis.axvline(limit, color=COLOURS[1], linestyle="--", linewidth=1.0, label="limit")
        axis.set_xlabel(BUDGETS[budget][0].upper() + BUDGETS[budget][1:])
        axis.set_ylabel(f"{name[0].upper()}{name[1:]} of held-back images{unit}")
        axis.set_title(plain_text(data), fontsize=9, color="#555555")
        axis.legend(loc="upper left")
    return picture


def _described(trial: Any, budget: str, limit: float, task: Task) -> str:
    value, cost = trial.values
    if cost > limit:
        return f"{cost:,.0f} {BUDGETS[budget]}, over the limit of {limit:,.0f}"
    return f"{good_words(task, value, _name(trial))}, {cost:,.0f} {BUDGETS[budget]}"


if __name__ == "__main__":
    sys.exit(run_script(add_arguments, run, __doc__))
