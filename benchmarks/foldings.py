"""Accuracy of the integers, by how training sees batch normalisation: every folding, over several seeds.

    OMP_NUM_THREADS=1 python benchmarks/foldings.py --data_path CIFAR10 --networks resnet8 mobilenet resnet20
    OMP_NUM_THREADS=1 python benchmarks/foldings.py --data_path CIFAR10 --networks mobilenet --start nothing

For each seed a network is trained in float, and then, from its parameters, quantized by each folding, over the same images in
the same order; "nothing" trains each folding from the first weights, as long as the float network and as fast. "frozen" keeps
the float network's statistics, or those of half the training. The last epoch counts, and what counts are the integers that are
deployed. 8 bits have ranges from minimum and maximum, fewer LSQ's learned scales; weights have one for each output, the logits
8 bits at every width. Seconds are the processor's.

What is measured stays in --out, results in results.json as soon as they are there, so that a call that was interrupted goes on.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from step_time import FOLDS

import qat
from qat.cli import run_script
from qat.console import print_table
from qat.data import Dataset
from qat.files import write_atomically
from qat.graph import Graph
from qat.networks import create
from qat.scripts.common.files import load_data
from qat.scripts.common.flags import add_backend_arguments, add_data_argument
from qat.training.checkpoint import Checkpoint
from qat.training.lengths import Length, span_of
from qat.training.loop import evaluate_accuracy, train
from qat.training.optimizer import Optimizer
from qat.training.recipe import Recipe

WIDTHS = ("8/8", "4/4")
STARTS = ("float", "nothing")
OPTIMIZER = Optimizer(weight_decay=5e-4)
DELAY = Length("10%", most=900)  #: as of the commands; from nothing there is none, as MindSpore has it
LAST = "fc"  #: the layer that gives the logits, of all three networks


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_data_argument(parser)
    add_backend_arguments(parser)
    parser.add_argument("--networks", nargs="+", default=["resnet8", "mobilenet", "resnet20"], help="names of networks")
    parser.add_argument("--widths", nargs="+", choices=WIDTHS, default=list(WIDTHS), help="weights/activations")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="one run for each")
    parser.add_argument("--start", choices=STARTS, default="float", help="what the quantized training begins with")
    parser.add_argument("--epochs", type=int, nargs=2, default=[12, 3], help="of float and of quantized training")
    parser.add_argument("--lr", type=float, nargs=2, default=[0.05, 0.01], help="peak rates, float and quantized")
    parser.add_argument("--images", type=int, nargs=2, default=[20_000, 20_000], help="the first so many, likewise")
    parser.add_argument("--test_images", type=int, default=10_000, help="the first so many are tested on")
    parser.add_argument("--out", default="out/foldings", help="folder for float checkpoints and results.json")


def converted(graph: Graph, width: str, delay: int, settings: dict[str, Any]) -> Graph:
    """The network with as many bits as ``width`` says, weights/activations, from step ``delay`` on."""
    weights, activations = map(int, width.split("/"))
    if weights == 8:
        return qat.convert_quant_network(graph, num_bits=(weights, activations), quant_delay=delay, **settings)
    return qat.convert_quant_network(
        graph,
        weight_quantizer=qat.LSQWeightQuantizer(weights, per_channel=True, narrow_range=True, quant_delay=delay),
        activation_quantizer=qat.LSQActivationQuantizer(activations, quant_delay=delay),
        layers={LAST: {"activation_quantizer": qat.LSQActivationQuantizer(8, quant_delay=delay)}},
        **settings,
    )


@dataclass(frozen=True)
class Bench:
    """What all trainings of a network share.

    Attributes:
        network: its name.
        graph: in float.
        data: of float training and of quantized training; both test on the same images.
        recipes: likewise, of seed 0.
        args: those of the script.
    """

    network: str
    graph: Graph
    data: tuple[Dataset, Dataset]
    recipes: tuple[Recipe, Recipe]
    args: argparse.Namespace

    def measured(self, seed: int, width: str | None, folding: str | None) -> dict[str, float]:
        """Accuracy, and seconds of the processor that training took: in float, or quantized at that width by that folding.

        Looked up in results.json, by a name that says all that it depends on, and written there.
        """
        path = Path(self.args.out) / "results.json"
        known = json.loads(path.read_text()) if path.exists() else {}
        name = f"{self.network}, seed {seed}, {self._told(0)}"
        if folding is not None:
            name += f"; {width} {folding} from {self.args.start}" + ("" if self.from_nothing else f", {self._told(1)}")
        name += f"; {len(self.data[0].test):,} tested"
        if name not in known:
            known[name] = self._trained(seed, width, folding)
            print(f"{name}: {100 * known[name]['accuracy']:.2f} %", flush=True)
            write_atomically(path, json.dumps(known, indent=1).encode())
        found: dict[str, float] = known[name]
        return found

    @property
    def from_nothing(self) -> bool:
        """Whether quantized training begins with the first weights."""
        return bool(self.args.start == "nothing")

    def _told(self, part: int) -> str:
        recipe = self.recipes[part]
        return f"{recipe.epochs} epochs of {len(self.data[part].train):,} images at {recipe.lr:g}"

    def _trained(self, seed: int, width: str | None, folding: str | None) -> dict[str, float]:
        backend, device = qat.backend(self.args.backend), self.args.device_target
        quantized = folding is not None and not self.from_nothing
        recipe, data = replace(self.recipes[quantized], seed=seed), self.data[quantized]
        start = Checkpoint(self.graph, self.graph.initial_params(seed))
        path = Path(self.args.out) / f"{self.network}_{seed} {self._told(0)}.ckpt"
        if folding is not None:
            steps = span_of(data, recipe).steps
            settings = dict(FOLDS[folding])
            if self.from_nothing and "freeze_bn" in settings:
                settings["freeze_bn"] = steps // 2
            graph = converted(
                self.graph, width, 0 if self.from_nothing else DELAY.within(span_of(data, recipe)), settings
            )
            params = start.params if self.from_nothing else Checkpoint.load(path).params
            start = Checkpoint(graph, graph.params_from(params, seed))
        begun = time.process_time()
        trained = train(backend, start, data, recipe, device_target=device)
        seconds = time.process_time() - begun
        if folding is None:
            trained.save(path)
        return {"accuracy": evaluate_accuracy(backend, trained, data.test, device_target=device), "seconds": seconds}


def run(args: argparse.Namespace) -> None:
    Path(args.out).mkdir(parents=True, exist_ok=True)
    read = qat.data.load(args.data_path)
    recipes = [Recipe(epochs, lr=lr, optimizer=OPTIMIZER) for epochs, lr in zip(args.epochs, args.lr, strict=True)]
    for network in args.networks:
        graph = create(network, read, input_size=read.train.images.shape[-1]).graph()
        whole = load_data(read, graph, args)
        test = whole.test.chosen(slice(args.test_images))
        data = [replace(whole, train=whole.train.chosen(slice(count)), test=test) for count in args.images]
        bench = Bench(network, graph, (data[0], data[1]), (recipes[0], recipes[1]), args)
        for width in args.widths:
            columns: dict[str, list[dict[str, float]]] = {name: [] for name in ("float", *FOLDS)}
            for seed in args.seeds:
                for name, column in columns.items():
                    column.append(bench.measured(seed, width, None if name == "float" else name))
            print_columns(f"{graph.name} on {whole.name}, {width} from {args.start}, {len(args.seeds)} seeds", columns)


def print_columns(title: str, columns: dict[str, list[dict[str, float]]]) -> None:
    """Means and standard deviations over the seeds; of the differences to the first folding, too, seed by seed."""
    base = columns[next(iter(FOLDS))]
    rows = []
    for name, found in columns.items():
        top1s = [100 * each["accuracy"] for each in found]
        less = [top1 - 100 * each["accuracy"] for top1, each in zip(top1s, base, strict=True)]
        seconds = mean(each["seconds"] for each in found)
        rows.append((name, spread(top1s), spread(less, "+"), f"{seconds:.0f}"))
    print_table(title, ("folding", "top-1 in %", "less two convolutions", "seconds of training"), rows)


def spread(numbers: list[float], sign: str = "") -> str:
    """Mean and standard deviation."""
    return f"{mean(numbers):{sign}.2f} ± {stdev(numbers) if len(numbers) > 1 else 0:.2f}"


if __name__ == "__main__":
    sys.exit(run_script(add_arguments, run, __doc__))
