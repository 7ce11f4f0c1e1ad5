"""The smallest networks that reach an accuracy on MNIST, in bytes of constants as the C target stores them.

    python benchmarks/smallest.py --data_path MNIST_Data
    python benchmarks/smallest.py --data_path MNIST_Data --test 98 99

``CompactDigits`` of several widths are trained in float and then with few bits, both taught by a LeNet-5, with 5,000 training
images held back; the table's accuracies are on these: to choose by. --test says of the chosen ones (CHOSEN) what they reach on
the test images, exports them to C, and verifies. Everything stays in --out, and what is there is not trained again.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

from pretrained import LENET, trained

import qat
from qat.analysis.metrics import deployed_parameters
from qat.cli import run_script
from qat.console import print_table
from qat.data import Dataset
from qat.deploy.verify import export_verified
from qat.graph import Graph
from qat.networks import CompactDigits, LeNet5
from qat.scripts.common.files import load_data
from qat.scripts.common.flags import add_backend_arguments, add_data_argument
from qat.training.checkpoint import Checkpoint
from qat.training.distillation import Teaching, teach
from qat.training.loop import evaluate_accuracy
from qat.training.optimizer import Optimizer
from qat.training.recipe import Recipe

HELD_BACK = 5000
FLOAT = Recipe(40, 128, lr=0.1, optimizer=Optimizer(weight_decay=1e-5), augment_shift=1)
QUANTIZED = Recipe(20, 128, lr=0.001, optimizer=Optimizer("adam"), augment_shift=1)
TEMPERATURE, WEIGHT = 4.0, 0.9


class Candidate(NamedTuple):
    """width: of ``CompactDigits``. bits: of its weights, one scale for each layer's; activations have 8."""

    width: int
    bits: int

    @property
    def name(self) -> str:
        return f"width {self.width}, {self.bits} bits"


CANDIDATES = tuple(Candidate(width, bits) for width, bits in ((8, 4), (12, 4), (12, 6), (12, 8)))
CHOSEN = {"98": Candidate(8, 4), "99": Candidate(12, 6)}  #: what --test evaluates


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_data_argument(parser)
    add_backend_arguments(parser)
    parser.add_argument("--seed", type=int, default=0, help="of the initial weights and of the order of the images")
    parser.add_argument("--test", nargs="+", choices=list(CHOSEN), help="evaluate the choice on the test images")
    parser.add_argument("--out", default="out/smallest", help="folder for checkpoints and files")


class Trainer:
    """Trains with images held back, or takes what lies in ``out``."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.out = args, Path(args.out)
        self.backend = qat.backend(args.backend)
        self.whole = load_data(args.data_path, CompactDigits().graph(), args)
        self.dataset = self.whole.held_back(HELD_BACK)

    def quantized(self, candidate: Candidate) -> Checkpoint:
        graph = CompactDigits(width=candidate.width).graph()
        path = self.out / f"float_{candidate.width}.ckpt"
        start = Checkpoint(graph, graph.initial_params(self.args.seed))
        float_ = self._taught(path, start, FLOAT)
        converted = qat.convert_quant_network(
            graph,
            weight_quantizer=qat.LSQWeightQuantizer(candidate.bits, per_channel=False),
            activation_quantizer=qat.LSQActivationQuantizer(8),
        )
        params = converted.params_from(float_.params, self.args.seed)
        start = Checkpoint(converted, params, history=float_.history)
        return self._taught(self.out / f"{candidate.bits}_bits_{candidate.width}.ckpt", start, QUANTIZED)

    def _taught(self, path: Path, start: Checkpoint, recipe: Recipe) -> Checkpoint:
        return self._trained(path, start, self.dataset, recipe, partial(self._lesson, start.graph))

    def _lesson(self, student: Graph) -> Teaching:
        """Of a LeNet-5."""
        graph, path = LeNet5().graph(), self.out / "teacher.ckpt"
        dataset = load_data(self.args.data_path, graph, self.args).held_back(HELD_BACK)
        self._trained(path, Checkpoint(graph, graph.initial_params(self.args.seed)), dataset, LENET)
        return teach(self.backend, student, str(path), dataset.train, TEMPERATURE, WEIGHT)

    def _trained(
        self,
        path: Path,
        start: Checkpoint,
        dataset: Dataset,
        recipe: Recipe,
        teaching: Callable[[], Teaching] | None = None,
    ) -> Checkpoint:
        return trained(path, start, dataset, replace(recipe, seed=self.args.seed), self.args, teaching)


def run(args: argparse.Namespace) -> None:
    trainer = Trainer(args)
    if args.test:
        rows = [_tested(trainer, name) for name in args.test]
        print_table("MNIST, test images", ("at least", "network", "bytes", "top-1", "codes that differ"), rows)
        return
    rows = []
    for candidate in CANDIDATES:
        checkpoint = trainer.quantized(candidate)
        top1 = evaluate_accuracy(trainer.backend, checkpoint, trainer.dataset.test)
        parameters = sum(deployed_parameters(checkpoint.graph).values())
        rows.append((candidate.name, f"{parameters:,}", f"{_bytes(checkpoint):,}", f"{100 * top1:.2f}"))
    print_table(trainer.dataset.name, ("network", "parameters", "bytes in C", "top-1 in %"), rows)


def _bytes(checkpoint: Checkpoint) -> int:
    """Weights, biases and scales."""
    return sum(qat.target("C").storage(qat.to_integer(checkpoint.graph, checkpoint.params)).values())


def _tested(trainer: Trainer, name: str) -> tuple[str, ...]:
    checkpoint, path = trainer.quantized(CHOSEN[name]), trainer.out / f"digits_{name}.c"
    test = trainer.whole.test
    certificate = export_verified(path, qat.target("C"), trainer.backend, checkpoint, test, data=trainer.whole.name)
    assert certificate.reference_top1 is not None, "there are labels"
    differ = sum(comparison.differ for comparison in certificate.comparisons)
    return (
        f"{name} %",
        CHOSEN[name].name,
        f"{_bytes(checkpoint):,}",
        f"{100 * certificate.reference_top1:.2f}",
        str(differ),
    )


if __name__ == "__main__":
    sys.exit(run_script(add_arguments, run, __doc__))
