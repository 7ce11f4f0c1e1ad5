"""Accuracy of LeNet-5 at every width over several seeds, paired with the float network each began from.

    python benchmarks/widths.py --data_path MNIST_Data --seeds 0 1 2

For each seed a float network is trained, then from it, and taught by it, one of each width; the last epoch counts. Each is
exported and verified.
Everything stays in --out, and what is there is not trained again. --hold_back 5000 tests on as many training images that are
not trained on, instead of on the test images: to choose settings by.

8 bits have scales from minimum and maximum; fewer LSQ's learned ones, one for each output of a weight (one bit: XNOR-Net's).
The pixels and the logits have 8 bits at every width; at 1/1 so have the weights of the first layer and both sides of the last.
Binary weights are trained by Adam, whose steps do not shrink with a layer's weights, the others by SGD.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from statistics import mean

from pretrained import LENET, trained

import qat
from qat.cli import run_script
from qat.console import print_table
from qat.deploy.verify import export_verified
from qat.graph import Graph
from qat.networks import create
from qat.scripts.common.files import load_data
from qat.scripts.common.flags import add_backend_arguments, add_data_argument
from qat.training.checkpoint import Checkpoint
from qat.training.distillation import teach
from qat.training.loop import evaluate_accuracy
from qat.training.optimizer import Optimizer
from qat.training.recipe import Recipe

QUANTIZED = Recipe(15, 128, lr=0.03, optimizer=Optimizer(weight_decay=1e-4), augment_shift=1)
BINARY = Recipe(15, 64, lr=0.001, optimizer=Optimizer("adam"), augment_shift=1)
TEMPERATURE, WEIGHT = 2.0, 0.7  #: of the float network as the teacher
WIDTHS = ("8/8", "4/4", "3/3", "2/2", "1/2", "1/1")


def converted(graph: Graph, width: str) -> Graph:
    """The network with as many bits as ``width`` says: weights/activations."""
    weight_bits, activation_bits = map(int, width.split("/"))
    if weight_bits == 8:
        return qat.convert_quant_network(graph, num_bits=(weight_bits, activation_bits))
    weights = (
        qat.BinaryWeightQuantizer(per_channel=True)
        if weight_bits == 1
        else qat.LSQWeightQuantizer(weight_bits, per_channel=True)
    )
    eight = {
        "weight_quantizer": qat.LSQWeightQuantizer(8, per_channel=True),
        "activation_quantizer": qat.LSQActivationQuantizer(8),
    }
    logits = {"fc3": {"activation_quantizer": eight["activation_quantizer"]}}
    first_and_last = {"conv1": {"weight_quantizer": eight["weight_quantizer"]}, "fc2": logits["fc3"], "fc3": eight}
    return qat.convert_quant_network(
        graph,
        weight_quantizer=weights,
        activation_quantizer=qat.LSQActivationQuantizer(activation_bits),
        layers=first_and_last if width == "1/1" else logits,
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_data_argument(parser)
    add_backend_arguments(parser)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="one run of each width for each")
    parser.add_argument("--widths", nargs="+", choices=WIDTHS, default=list(WIDTHS), help="weights/activations")
    parser.add_argument("--hold_back", type=int, default=0, metavar="IMAGES", help="of training, to test on")
    parser.add_argument("--out", default="out/widths", help="folder for checkpoints and files")


def run(args: argparse.Namespace) -> int:
    backend, out = qat.backend(args.backend), Path(args.out)
    graph = create("lenet").graph()
    dataset = load_data(args.data_path, graph, args)
    if args.hold_back:
        dataset = dataset.held_back(args.hold_back)
    columns: dict[str, list[float]] = {name: [] for name in ("float", *args.widths)}
    differ = dict.fromkeys(args.widths, 0)
    for seed in args.seeds:
        start = Checkpoint(graph, graph.initial_params(seed))
        teacher = out / f"float_{seed}.ckpt"
        float_ = trained(teacher, start, dataset, replace(LENET, seed=seed), args)
        teaching = cache(partial(teach, backend, graph, str(teacher), dataset.train, TEMPERATURE, WEIGHT))
        columns["float"].append(evaluate_accuracy(backend, float_, dataset.test))
        for width in args.widths:
            quantized_graph = converted(graph, width)
            start = Checkpoint(
                quantized_graph, quantized_graph.params_from(float_.params, seed), history=float_.history
            )
            recipe = replace(BINARY if width.startswith("1/") else QUANTIZED, seed=seed)
            name = out / f"{width.replace('/', '_')}_{seed}.ckpt"
            quantized = trained(name, start, dataset, recipe, args, teaching)
            file = name.with_suffix(".onnx")
            certificate = export_verified(file, qat.target("ONNX"), backend, quantized, dataset.test, data=dataset.name)
            assert certificate.reference_top1 is not None, "there are labels"
            columns[width].append(certificate.reference_top1)
            differ[width] += sum(comparison.differ for comparison in certificate.comparisons)
    rows = []
    for name, top1s in columns.items():
        change = 100 * mean(a - b for a, b in zip(top1s, columns["float"], strict=True))
        shown = (f"{100 * top1:.2f}" for top1 in (*top1s, mean(top1s)))
        rows.append((name, *shown, *(("", "") if name == "float" else (f"{change:+.2f}", f"{differ[name]:,}"))))
    title = f"{graph.name} on {dataset.name}, top-1 in %, {QUANTIZED.epochs} quantized epochs, weights/activations"
    seeds = (f"seed {seed}" for seed in args.seeds)
    print_table(title, ("bits", *seeds, "mean", "less float", "codes that differ"), rows)
    return int(any(differ.values()))


if __name__ == "__main__":
    sys.exit(run_script(add_arguments, run, __doc__))
