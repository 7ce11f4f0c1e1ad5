"""A small vision transformer: float and quantized accuracy, and the codes of every file against those of training.

    python benchmarks/vision_transformer.py --data_path digits
    python benchmarks/vision_transformer.py --data_path MNIST_Data --train_images 20000 --batch_size 100 --epochs 4 1

Trains for --epochs float epochs and then quantized ones, and takes the last of each: nothing is selected on the test images.
Exits with 1 where a code of a file differs, or quantized accuracy is more than --margin points below that in float.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import qat
from qat.cli import run_script
from qat.console import print_table
from qat.deploy.verify import export_verified
from qat.networks import create
from qat.scripts.common.files import load_data
from qat.scripts.common.flags import add_backend_arguments, add_data_argument
from qat.study.training import study_images
from qat.training.checkpoint import Checkpoint
from qat.training.loop import evaluate_accuracy, train
from qat.training.recipe import Recipe

FILES = {"ONNX": "net.onnx", "TFLITE": "net.tflite", "C": "net.c"}
NETWORK = "vision_transformer"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_data_argument(parser)
    add_backend_arguments(parser)
    parser.add_argument("--train_images", type=int, default=0, metavar="N", help="only so many, at random; 0: all")
    parser.add_argument("--epochs", type=int, nargs=2, default=[60, 10], help="of float and of quantized training")
    parser.add_argument("--lr", type=float, nargs=2, default=[0.003, 0.0003], help="peak rates of both")
    parser.add_argument("--batch_size", type=int, default=64, help="images of a step")
    parser.add_argument("--margin", type=float, default=0.3, help="points of accuracy that 8 bits may cost")
    parser.add_argument("--out", default="out/vision_transformer", help="folder for checkpoints and files")


def run(args: argparse.Namespace) -> int:
    backend, out = qat.backend(args.backend), Path(args.out)
    data = study_images(args.data_path, args.train_images, folds=0, seed=0)
    graph = create(NETWORK, data).graph()
    dataset = load_data(data, graph, args)
    recipes = [
        Recipe(epochs, args.batch_size, lr=lr, optimizer=qat.Optimizer("adam"))
        for epochs, lr in zip(args.epochs, args.lr, strict=True)
    ]
    checkpoint = train(backend, Checkpoint(graph, graph.initial_params(0)), dataset, recipes[0])
    quantized_graph = qat.convert_quant_network(graph)
    params = quantized_graph.initial_params(0) | checkpoint.params
    quantized = train(backend, Checkpoint(quantized_graph, params, history=checkpoint.history), dataset, recipes[1])
    checkpoint.save(out / "float.ckpt")
    quantized.save(out / "quantized.ckpt")
    top1, rows, wrong = 100 * evaluate_accuracy(backend, checkpoint, dataset.test), [], False
    for name, file in FILES.items():
        certificate = export_verified(out / file, qat.target(name), backend, quantized, dataset.test, data=dataset.name)
        differ = sum(comparison.differ for comparison in certificate.comparisons)
        found = 100 * (certificate.reference_top1 or 0.0)
        wrong |= differ > 0 or found < top1 - args.margin
        rows.append((name, f"{top1:.2f} %", f"{found:.2f} %", str(differ)))
        print(rows[-1], flush=True)
    print_table(f"{graph.name} on {dataset.name}", ("target", "float", "8 bits", "codes that differ"), rows)
    return int(wrong)


if __name__ == "__main__":
    sys.exit(run_script(add_arguments, run, __doc__))
