"""Float and quantized accuracy of LeNet-5 over several seeds, each quantized network exported and verified.

    python benchmarks/accuracy.py --data_path MNIST_Data --seeds 0 1 2

Trains for --epochs float epochs and as many quantized ones and takes the last of each: nothing is selected on the test
images. A checkpoint and a file of each seed stay in --out.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from statistics import mean

import qat
from qat.cli import run_script
from qat.console import print_table
from qat.deploy.verify import export_verified
from qat.networks import create
from qat.scripts.common.files import load_data
from qat.scripts.common.flags import add_backend_arguments, add_data_argument
from qat.training.checkpoint import Checkpoint
from qat.training.loop import evaluate_accuracy, train
from qat.training.recipe import Recipe


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_data_argument(parser)
    add_backend_arguments(parser)
    parser.add_argument("--network", default="lenet", help="which network")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="one run for each")
    parser.add_argument("--epochs", type=int, default=10, help="of float training, and of quantized training again")
    parser.add_argument("--lr", type=float, nargs=2, default=[0.02, 0.01], help="peak rates, float and quantized")
    parser.add_argument("--num_bits", type=int, nargs="+", default=[8], help="of weights and activations")
    parser.add_argument("--out", default="out/accuracy", help="folder for checkpoints and files")


def run(args: argparse.Namespace) -> int:
    backend, target, out = qat.backend(args.backend), qat.target("ONNX"), Path(args.out)
    graph = create(args.network).graph()
    dataset = load_data(args.data_path, graph, args)
    rows, top1s, differ = [], [], 0
    for seed in args.seeds:
        recipe = Recipe(args.epochs, lr=args.lr[0], seed=seed)
        checkpoint = train(backend, Checkpoint(graph, graph.initial_params(seed)), dataset, recipe)
        quantized_graph = qat.convert_quant_network(graph, num_bits=args.num_bits, quant_delay=900)
        params = quantized_graph.params_from(checkpoint.params, seed)
        recipe = Recipe(args.epochs, lr=args.lr[1], seed=seed)
        quantized = train(backend, Checkpoint(quantized_graph, params, history=checkpoint.history), dataset, recipe)
        checkpoint.save(out / f"seed{seed}.ckpt")
        quantized.save(out / f"seed{seed}_quant.ckpt")
        file = out / f"seed{seed}.onnx"
        certificate = export_verified(file, target, backend, quantized, dataset.test, data=dataset.name)
        both = (evaluate_accuracy(backend, checkpoint, dataset.test), certificate.reference_top1)
        top1s.append(both)
        differ += sum(comparison.differ for comparison in certificate.comparisons)
        rows.append((str(seed), *(f"{100 * top1:.2f} %" for top1 in both), str(differ)))
        print(rows[-1], flush=True)
    means = [mean(column) for column in zip(*top1s, strict=True)]
    rows.append(("mean", *(f"{100 * top1:.2f} %" for top1 in means), str(differ)))
    columns = ("seed", "float", "quantized", "codes that differ")
    print_table(f"{graph.name} on {dataset.name}, {args.epochs} + {args.epochs} epochs", columns, rows)
    return int(differ > 0)


if __name__ == "__main__":
    sys.exit(run_script(add_arguments, run, __doc__))
