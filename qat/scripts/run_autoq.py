"""Search for the width of every layer: accuracy against size or energy, as AutoQKeras trades them.

From a trained float network; each trial quantizes it with widths of its own, one for outputs that are added or concatenated,
and trains it on. The score is the validation accuracy (1 + delta log_rate(stress reference / trial)), where the reference has
--reference_bits wherever a trial chooses. The best widths are written as YAML for train_svhn.py --autoq_config and
train_quant.py --quant_config. Killed and called again, it goes on.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import yaml

import qat
from qat.analysis.merge_batch_norm import merge_batch_norm
from qat.cells.linear import WeightedCell
from qat.cli import run_script
from qat.console import print_table, result, wrote
from qat.errors import QatError
from qat.files import check_writable, write_atomically
from qat.graph import Graph
from qat.passes.share_grids import grid_groups
from qat.scripts.common.files import load_checkpoint
from qat.scripts.common.flags import add_arithmetic_argument, add_checkpoint_argument, arithmetic_settings
from qat.scripts.common.plan import of_data, of_graph, stop_if_dry
from qat.scripts.search_architecture import add_search_arguments, fixed, prepared
from qat.scripts.train_svhn import numbers, width_settings
from qat.study.layers import costs_of
from qat.study.search import SAMPLERS, Search, adjusted_accuracy, good_words, goodness, metric_of, train_trial
from qat.study.training import MERGED_BY
from qat.tables import counted
from qat.tasks import Task
from qat.training.checkpoint import Checkpoint

GOALS = ("size", "energy")
FIXED_BITS = 8  #: of what is not chosen


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's flags."""
    add_checkpoint_argument(parser, "float network, as models/full_0.ckpt")
    add_search_arguments(parser, out="autoq", epochs=10, trials=30)
    add_widths_arguments(parser)
    parser.add_argument("--tuner", choices=SAMPLERS, default="bayesian", help="how widths are chosen")
    parser.add_argument(
        "--goal", choices=GOALS, default="energy", help="bits of the weights, or an estimate of the energy"
    )
    parser.add_argument("--delta", type=float, default=0.08, help="share of accuracy for a cost of 1/rate")
    parser.add_argument("--rate", type=float, default=2.0, help="base of the logarithm")
    parser.add_argument("--stress", type=float, default=1.0, help="factor of the reference's cost")
    parser.add_argument("--reference_bits", type=int, default=8, help="of the network that costs are compared with")
    parser.add_argument("--yaml", default="autoq.yaml", metavar="FILE.yaml", help="where the best widths are written")


def add_widths_arguments(parser: argparse.ArgumentParser) -> None:
    """What widths there are to choose from."""
    parser.add_argument(
        "--weight_bits", type=numbers, default=[1, 2, 3, 4, 6, 8], help="to choose from; 2: ternary, 1: binary"
    )
    parser.add_argument("--activation_bits", type=numbers, default=[3, 4, 6, 8], help="to choose from")
    add_arithmetic_argument(parser, "float")


def quantized_layers(graph: Graph) -> list[str]:
    """The layers whose widths are chosen."""
    return [n.name for n in graph.nodes if isinstance(n.cell, WeightedCell)]


Widths = dict[str, tuple[int | None, int]]  #: node -> bits of its weights (None: it has none) and of its output


def chosen_widths(graph: Graph, choose: Callable[[str, str], int]) -> Widths:
    """The widths of each layer of a float graph, and of the additions that share a layer's grid.

    choose: gives the bits of "weights" or "activations" of a layer. Outputs that meet in an addition or a concatenation have
    one grid, whose bits are chosen once, by the name of the first layer among them. The logits keep ``FIXED_BITS``, and so
    does what meets them or the network's input.
    """
    names = quantized_layers(graph)
    widths: Widths = {name: (choose("weights", name), FIXED_BITS) for name in names}
    known = {node.name for node in graph.nodes}
    for group in grid_groups(qat.convert_quant_network(graph, **settings_of({}))):
        nodes = [name.removesuffix(".fake_quant") for name in group]
        layers = [name for name in nodes if name in widths]
        if not layers or names[-1] in nodes or not known.issuperset(nodes):
            continue
        bits = choose("activations", layers[0])
        widths |= {name: (widths.get(name, (None,))[0], bits) for name in nodes}
    return widths


def suggested_widths(trial: Any, graph: Graph, args: argparse.Namespace) -> Widths:
    """``chosen_widths``, as a trial suggests them."""
    choices = {"weights": args.weight_bits, "activations": args.activation_bits}
    return chosen_widths(graph, lambda what, layer: trial.suggest_categorical(f"{what} {layer}", choices[what]))


def settings_of(widths: Widths, **others: str) -> dict[str, Any]:
    """Settings of convert_quant_network for widths of some nodes; the others have ``FIXED_BITS``. others: further settings."""
    layers = {}
    for name, (weights, activations) in widths.items():
        layers[name] = width_settings(weights or FIXED_BITS, activations)
        if weights is None:
            del layers[name]["weight_quantizer"]
    return {**width_settings(FIXED_BITS, FIXED_BITS), "bn_fold": False, "layers": layers, **others}


def merged(checkpoint: Checkpoint, dataset: Any) -> Checkpoint:
    """A float network in the form that is quantized."""
    graph, params = merge_batch_norm(checkpoint.graph, checkpoint.params, dataset.train.images[:MERGED_BY])
    return checkpoint.derived(graph, params)


def cost_of(graph: Graph, goal: str) -> float:
    """Bits of all weights, or nJ for one sample."""
    return float(sum(cost.size if goal == "size" else cost.energy for cost in costs_of(graph)))


def run(args: argparse.Namespace) -> None:
    """Run the command."""
    checkpoint = load_checkpoint(args.ckpt_path, quantized=False)
    check_writable(args.yaml)
    for name in ("delta", "stress"):
        if not getattr(args, name) > 0.0:
            raise QatError(f"--{name} is {getattr(args, name)}; use a positive number")
    if not args.rate > 1.0:
        raise QatError(f"--rate is {args.rate}; use a number above 1")
    dataset, recipe = prepared(args, checkpoint.graph.shapes[checkpoint.graph.inputs[0].name])
    backend, folder = qat.backend(args.backend), Path(args.out)
    stop_if_dry(
        args,
        f"try {counted(args.trials, 'time')}, {counted(args.epochs, 'epoch')} each",
        reads=[(args.ckpt_path, of_graph(checkpoint.graph)), (args.data_path, of_data(dataset))],
        writes=[folder],
    )
    start = merged(checkpoint, dataset)
    bits = args.reference_bits
    same = chosen_widths(start.graph, lambda what, layer: bits)
    reference = cost_of(qat.convert_quant_network(start.graph, **settings_of(same)), args.goal)

    def objective(trial: Any) -> float:
        widths = suggested_widths(trial, start.graph, args)
        graph = qat.convert_quant_network(start.graph, **settings_of(widths, **arithmetic_settings(args)))
        trial.set_user_attr("cost", cost_of(graph, args.goal))
        own = start.derived(graph, graph.params_from(start.params, args.seed))
        ended = train_trial(trial, folder, backend, own, dataset, recipe, device_target=args.device_target)
        trial.set_user_attr("accuracy", goodness(ended))
        trial.set_user_attr("metric", metric_of(ended))
        return adjusted_accuracy(
            goodness(ended),
            trial.user_attrs["cost"],
            reference,
            delta=args.delta,
            rate=args.rate,
            stress=args.stress,
        )

    others = ("goal", "delta", "rate", "stress", "reference_bits", "weight_bits", "activation_bits", "tuner")
    settings = fixed(args, *others, "ckpt_path") | arithmetic_settings(args)
    with Search(
        folder, ["maximize"], sampler=args.tuner, epochs=args.epochs, seed=args.seed, settings=settings
    ) as search:
        trials = search.run(objective, args.trials, lambda trial: _described(trial, args.goal, start.task))
    if not trials:
        raise QatError(f"{folder}: no trial completed; try more of them, or longer trainings")
    best = max(trials, key=lambda trial: trial.value)
    widths = suggested_widths(search.optuna.trial.FixedTrial(best.params), start.graph, args)
    write_atomically(
        args.yaml, yaml.safe_dump(settings_of(widths, **arithmetic_settings(args)), sort_keys=False).encode()
    )
    unit = "bits" if args.goal == "size" else "nJ"
    found = _described(best, args.goal, start.task)
    result(
        f"Trial {best.number}: {found}; with {bits} bits in place of each choice {reference:,.1f} {unit}",
        trial=best.number,
    )
    print_table(
        "The best widths",
        ("layer", "weight bits", "activation bits"),
        [(name, str(weights or ""), str(activations)) for name, (weights, activations) in widths.items()],
    )
    wrote(args.yaml)


def _described(trial: Any, goal: str, task: Task) -> str:
    unit = "bits" if goal == "size" else "nJ"
    found = good_words(task, float(np.float64(trial.user_attrs["accuracy"])), trial.user_attrs.get("metric"))
    return f"{found}, {trial.user_attrs['cost']:,.1f} {unit}, score {trial.value:.4f}"


if __name__ == "__main__":
    sys.exit(run_script(add_arguments, run, __doc__))
