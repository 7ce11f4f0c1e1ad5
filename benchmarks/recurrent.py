"""A GRU and an LSTM over the rows of digits, float and quantized to 8 bits, exported and compared, whole and step by step.

    python benchmarks/recurrent.py --data_path MNIST_Data --epochs 5

The rows of a picture are the steps of a series. Each network is trained in float for --epochs and, quantized, for
--quant_epochs more, and the last of each is taken. The codes of all test pictures in NumPy are compared with those of the
training backend, ONNX Runtime, LiteRT and C; and with those of a file of one step, whose states go out and in. Exit status 1
where one differs.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import qat
from qat.cli import run_script
from qat.console import print_table
from qat.integer import IntegerGraph, evaluate
from qat.registry import TARGETS, installed
from qat.scripts.common.files import load_data
from qat.scripts.common.flags import add_backend_arguments, add_data_argument
from qat.training.checkpoint import Checkpoint
from qat.training.loop import evaluate_accuracy, train
from qat.training.recipe import Recipe
from qat.vocabulary.arrays import Array

KINDS = {"gru": qat.GRU, "lstm": qat.LSTM}
FILES = ("ONNX", "TFLITE", "C")
PLAIN = {"method": "minmax", "equalize": False, "bias_correction": False}  #: of the calibration


class Rows(qat.Network):
    """The rows of a picture (1, H, W), one after another, and a dense layer behind the last state."""

    def __init__(self, kind: str, shape: tuple[int, ...], units: int) -> None:
        self.inputs = qat.Input(shape)
        self.rnn = KINDS[kind](shape[-1], units)
        self.head = qat.DenseBnAct(units, 10)

    def construct(self, x: qat.Traced) -> Any:
        _, height, width = x.shape
        return self.head(self.rnn(x.reshape(-1, height, width).transpose(1, 2)))


class Row(Rows):
    """One step of it: a row and the states give the logits so far and the states."""

    def __init__(self, kind: str, shape: tuple[int, ...], units: int) -> None:
        super().__init__(kind, shape, units)
        states = (qat.Input((units,), dtype="float32") for _ in range(self.rnn.states))
        self.inputs = (qat.Input((shape[-1],)), *states)

    def construct(self, x: qat.Traced, *state: qat.Traced) -> Any:
        new = self.rnn.step(x, *state)
        return (self.head(new[0]), *new)


def compared(
    checkpoint: Checkpoint, step: IntegerGraph, images: Array, backend: Any, out: Path
) -> Iterator[tuple[str, int, int]]:
    """What computed the codes, how many, and how many differ from NumPy's integers in its arithmetic."""
    integers = qat.to_integer(checkpoint.graph, checkpoint.params)
    expected = {way: evaluate(integers, images, arithmetic=way) for way in ("float", "fixed")}

    def row(name: str, way: str, codes: Array) -> tuple[str, int, int]:
        return name, codes.size, int(np.count_nonzero(codes != expected[way]))

    model = backend.lower(checkpoint.graph, checkpoint.params)
    yield row("backend", "float", backend.predict_codes(model, images))
    for name in FILES:
        if not installed(TARGETS[name]):
            continue
        target = qat.target(name)
        way = target.ARITHMETICS[0]
        path = out / f"{integers.name}{TARGETS[name].suffix}"
        target.export(integers, path)
        yield row(name, way, integers.output.grid.codes_of(target.predict(path, images)))
        path = out / f"{step.name}_step{TARGETS[name].suffix}"
        target.export(step, path, input_type="int8", output_type="int8")
        state = tuple(np.zeros((len(images), *x.shape), np.float32) for x in step.inputs[1:])
        for at in range(images.shape[2]):
            logits, *state = target.predict(path, (np.ascontiguousarray(images[:, 0, at]), *state))
        yield row(f"{name}, step by step", way, integers.output.grid.codes_of(logits))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_data_argument(parser)
    add_backend_arguments(parser)
    parser.add_argument("--cells", nargs="+", choices=sorted(KINDS), default=sorted(KINDS), help="which recurrences")
    parser.add_argument("--units", type=int, default=64, help="of the state")
    parser.add_argument("--epochs", type=int, default=5, help="of float training")
    parser.add_argument("--quant_epochs", type=int, default=1, help="of quantized training")
    parser.add_argument("--batch_size", type=int, default=128, help="of training")
    parser.add_argument("--seed", type=int, default=0, help="of the parameters and the order of the pictures")
    parser.add_argument("--out", default="out/recurrent", help="folder for checkpoints and files")


def run(args: argparse.Namespace) -> int:
    backend, rows, wrong = qat.backend(args.backend), [], 0
    for kind in args.cells:
        out = Path(args.out) / kind
        out.mkdir(parents=True, exist_ok=True)
        dataset = load_data(args.data_path, Rows(kind, (1, 28, 28), args.units).graph(), args)
        shape = dataset.train.images.shape[1:]
        graph = Rows(kind, shape, args.units).graph()
        recipe = Recipe(args.epochs, args.batch_size, 0.003, seed=args.seed, optimizer=qat.Optimizer("adam"))
        trained = train(backend, Checkpoint(graph, graph.initial_params(args.seed)), dataset, recipe, log_every=100)
        trained.save(out / "float.ckpt")
        checkpoint = qat.calibrate(graph, trained.params, dataset.train.images[:1000], **PLAIN)
        accuracies = [evaluate_accuracy(backend, each, dataset.test) for each in (trained, checkpoint)]
        recipe = Recipe(args.quant_epochs, args.batch_size, 0.0005, seed=args.seed, optimizer=qat.Optimizer("adam"))
        checkpoint = train(backend, checkpoint, dataset, recipe, log_every=100)
        checkpoint.save(out / "quant.ckpt")
        accuracies.append(evaluate_accuracy(backend, checkpoint, dataset.test))
        one = qat.convert_quant_network(Row(kind, shape, args.units))
        step = qat.to_integer(one, qat.step_params(one, checkpoint.graph, checkpoint.params))
        shown = [f"{100 * accuracy:.2f} %" for accuracy in accuracies]
        for name, codes, differ in compared(checkpoint, step, dataset.test.images, backend, out):
            rows.append((kind, *shown, name, f"{codes:,}", f"{differ:,}"))
            print(rows[-1], flush=True)
            wrong += differ
    print_table(
        f"{args.units} units over the rows of {dataset.name}, seed {args.seed}",
        ("cell", "float", "calibrated", "trained", "codes of", "compared", "differ"),
        rows,
    )
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(run_script(add_arguments, run, __doc__))
