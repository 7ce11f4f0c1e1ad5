"""Train LeNet-GTC: one set of weights as a network of high precision (HP) and as one of powers of two (LP).

Writes into BASEDIRECTORY/NAME: training_model_final.ckpt (HP, a float network), int_model_final.ckpt (LP, quantized),
which every other command takes; config.json; last.ckpt, from which --resume goes on; and TensorBoard's logs. Several processes
train it together as they do with train.py; the first of them speaks, of batches by its share of them.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import qat
from qat.cli import run_script
from qat.console import make_console, percent, print_line, print_table, result, wrote
from qat.data import Split, accuracy
from qat.deploy.interfaces import Step
from qat.errors import QatError
from qat.files import check_writable, write_atomically
from qat.graph import Graph
from qat.integer.fixed_point import ARITHMETICS
from qat.networks import LeNetGTC
from qat.scripts.common.files import load_data
from qat.scripts.common.flags import add_arithmetic_argument, add_backend_arguments, seed
from qat.scripts.common.plan import add_writing_arguments, of_data, of_graph, stop_if_dry
from qat.scripts.common.printing import note_if_guessing
from qat.scripts.common.training import add_tracker_argument
from qat.tables import counted
from qat.training import trackers
from qat.training.checkpoint import Checkpoint
from qat.training.forward import Forward
from qat.training.loop import evaluate_accuracy, train
from qat.training.losses import step_terms
from qat.training.objectives import BIT_FORMULAS, GTCLoss
from qat.training.optimizer import SCHEDULES, Optimizer
from qat.training.recipe import Recipe
from qat.training.workers import this_worker
from qat.vocabulary.arrays import as_tuple
from qat.vocabulary.numpy_ops import NUMPY_OPS

EVERY = 100  #: batches between two lines of figures
BATCH = 500  #: test images at a time
FIGURES = (
    "total_loss",
    "bit_loss",
    "document_bit_loss",
    "distillation_loss",
    "hp_cross_entropy",
    "regularization_term",
)

NO_SETTINGS = ("given", "quiet", "json", "dry_run")  #: arguments that say nothing of the training


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's flags."""
    add_writing_arguments(parser, replaces=False)
    parser.add_argument("--basedirectory", default="gtc", help="folder that holds one folder for each experiment")
    parser.add_argument("--name_of_experiment", help="folder of this one (default: made of the three lambdas)")
    parser.add_argument("--data_path", default="MNIST_Data", help="folder of MNIST, as 'qat data mnist' makes it")
    parser.add_argument("--num_epochs", type=int, default=5, help="passes over the training images")
    parser.add_argument("--batch_size", type=int, default=64, help="images a step")
    parser.add_argument("--learning_rate", type=float, default=0.002, help="peak learning rate of Adam")
    parser.add_argument(
        "--lr_schedule", choices=SCHEDULES, default="cosine", help="how the rate falls; the document's is halving"
    )
    parser.add_argument("--lambda_bit_loss", type=float, default=GTCLoss.lambda_bit_loss, help="weight of sum 2^bits")
    parser.add_argument(
        "--lambda_distillation_loss",
        type=float,
        default=GTCLoss.lambda_distillation_loss,
        help="weight of the cross entropy of LP against HP",
    )
    parser.add_argument(
        "--lambda_regularization", type=float, default=GTCLoss.lambda_regularization, help="weight of sum |w|^2 / 2"
    )
    parser.add_argument(
        "--bit_formula",
        choices=BIT_FORMULAS,
        default=GTCLoss.bit_formula,
        help="how the loss counts bits: mended, a zero as one level, or the document's, a zero as some twenty octaves",
    )
    parser.add_argument("--num_bits", type=int, default=4, help="the most bits of a code, 2 to 5; 4 fit into int8")
    add_arithmetic_argument(parser, "float; that of LP, which HP has no use for")
    parser.add_argument("--print_layers_bits", action="store_true", help="print each layer's bits at every epoch, too")
    parser.add_argument("--seed", type=seed, default=0, help="seed of the weights and of the order of the images")
    parser.add_argument("--resume", action="store_true", help="go on from last.ckpt of this experiment, if it is there")
    add_tracker_argument(parser)
    add_backend_arguments(parser)


def run(args: argparse.Namespace) -> None:
    """Run the command."""
    recipe = Recipe(
        epochs=args.num_epochs,
        batch_size=args.batch_size,
        lr=args.learning_rate,
        lr_schedule=args.lr_schedule,
        seed=args.seed,
        optimizer=Optimizer("adam"),
    )
    objective = GTCLoss(
        args.lambda_distillation_loss, args.lambda_bit_loss, args.lambda_regularization, args.bit_formula
    )
    backend = qat.backend(args.backend)
    float_graph = LeNetGTC().graph()
    graph = qat.convert_quant_network(
        float_graph,
        weight_quantizer=qat.GTCWeightQuantizer(args.num_bits),
        layers={"fc1": {"activation_quantizer": qat.GTCActivationQuantizer(args.num_bits)}},
        arithmetic=args.arithmetic or ARITHMETICS[0],
    )
    dataset = load_data(args.data_path, graph)
    folder = Path(args.basedirectory) / (args.name_of_experiment or _name(objective))
    last = folder / "last.ckpt"
    stop_if_dry(
        args,
        f"train {counted(recipe.epochs, 'epoch')}",
        reads=[("LeNet-GTC", of_graph(graph)), (args.data_path, of_data(dataset))],
        writes=[folder],
    )
    check_writable(last)
    speaks = not this_worker().rank
    settings = {name: value for name, value in vars(args).items() if name not in NO_SETTINGS}
    if speaks:
        write_atomically(folder / "config.json", json.dumps(settings, indent=2, sort_keys=True).encode() + b"\n")
    start = Checkpoint(graph, graph.initial_params(args.seed))
    if args.resume and last.exists():
        start = Checkpoint.load(last)
        if start.graph != graph:
            raise QatError(f"{last}: holds another network than these arguments give; leave --resume out")

    def accuracies(checkpoint: Checkpoint) -> dict[str, float]:
        both = {"lp_accuracy": checkpoint, "hp_accuracy": _high(checkpoint, float_graph)}
        device = args.device_target
        return {name: evaluate_accuracy(backend, x, dataset.test, device_target=device) for name, x in both.items()}

    with trackers.opened(args.log_to if speaks else []) as others:
        logs = (trackers.TensorBoard(folder / "logs"), *others) if speaks else ()
        report = _Report(graph, objective, logs, len(dataset.train) // args.batch_size) if speaks else None
        for other in others:
            other.log_params({name: value for name, value in settings.items() if name != "log_to"})

        def save(checkpoint: Checkpoint) -> None:
            checkpoint.save(last)
            if report is None:
                return
            report.epoch(checkpoint, accuracies(checkpoint), dataset.test)
            if args.print_layers_bits:
                report.bits(checkpoint, dataset.test)

        end = train(
            backend,
            start,
            dataset,
            recipe,
            device_target=args.device_target,
            objective=objective,
            save=save,
            watch=None if report is None else report.step,
        )
        if report is not None:
            report.bits(end, dataset.test)
    low, high = folder / "int_model_final.ckpt", folder / "training_model_final.ckpt"
    end.derived(graph, end.params).save(low)
    _high(end, float_graph).save(high)
    found = accuracies(end)
    result("   ".join(f"{name}: {percent(value)}" for name, value in found.items()), metrics=found)
    note_if_guessing(
        {"top-1": min(found.values())},
        dataset.test,
        "LP or HP",
        "use a smaller --lambda_bit_loss or --lambda_distillation_loss",
    )
    wrote(low, more=" (LP)")
    wrote(high, more=" (HP)")


def _name(objective: GTCLoss) -> str:
    """Another one wherever a lambda is."""
    return (
        f"lambda_bit_{objective.lambda_bit_loss:g}_distillation_{objective.lambda_distillation_loss:g}_"
        f"regularization_{objective.lambda_regularization:g}"
    )


def _high(checkpoint: Checkpoint, graph: Graph) -> Checkpoint:
    """The float network that the same weights are."""
    return checkpoint.derived(graph, {name: checkpoint.params[name] for name in graph.params})


class _Report:
    """What the document prints, of batches and of the test images, also for trackers."""

    def __init__(self, graph: Graph, objective: GTCLoss, logs: Sequence[trackers.Tracker], steps: int) -> None:
        self.forward, self.objective, self.logs, self.steps = Forward(graph, NUMPY_OPS), objective, logs, steps
        self.console = make_console()
        self.terms: dict[str, float] = {}  #: of the test images, averages

    def step(self, done: int, step: Step, labels: Any) -> None:
        """Each hundredth batch, of which several workers have each a share."""
        if done % EVERY:
            return
        terms, labels = step.terms(), this_worker().share(labels)
        found = {f"{head}_accuracy": accuracy(terms[f"{head}_logits"], labels) for head in ("lp", "hp")}
        epoch, batch = divmod(done - 1, self.steps)
        self._show(f"epoch {epoch + 1}, batch {batch + 1}", found | {name: float(terms[name]) for name in FIGURES})
        self._track(done, {f"train/{name}": value for name, value in found.items()})
        self._track(done, {f"train/{name}": float(terms[name]) for name in FIGURES})

    def epoch(self, checkpoint: Checkpoint, accuracies: Mapping[str, float], test: Split) -> None:
        """Averages over the test images, and the bits."""
        self.measure(checkpoint, test)
        figures = dict(accuracies) | {name: self.terms[name] for name in FIGURES}
        self._show(f"epoch {checkpoint.epoch}, test", figures)
        bits = {name: value for name, value in self.terms.items() if "bits:" in name}
        self._track(checkpoint.step, {f"test/{name}": value for name, value in figures.items()})
        self._track(checkpoint.step, {name.replace(":", "/"): value for name, value in bits.items()})

    def measure(self, checkpoint: Checkpoint, test: Split) -> None:
        """The terms of fake-quantized evaluation, averaged over the test images (what counts codes, over the batches)."""
        kinds = checkpoint.graph.params
        params = {name: NUMPY_OPS.from_numpy(array, kinds[name].kind) for name, array in checkpoint.params.items()}
        phase = self.forward.phase(checkpoint.step)
        (images,) = as_tuple(test.images)
        sums: dict[str, float] = {}
        for start in range(0, len(test), BATCH):
            pixels = images[start : start + BATCH].astype(np.float32)
            labels = test.labels[start : start + BATCH]
            terms, _ = step_terms(self.forward, self.objective, params, (pixels,), labels, phase=phase, training=False)
            for name, value in terms.items():
                if value.size == 1:
                    sums[name] = sums.get(name, 0.0) + float(value[0]) * len(labels) / len(test)
        self.terms = sums

    def bits(self, checkpoint: Checkpoint, test: Split) -> None:
        """A table of what each quantizer takes."""
        if not self.terms:  # a training that had ended before
            self.measure(checkpoint, test)
        mended = {name.partition(":")[2]: bits for name, bits in self.terms.items() if name.startswith("bits:")}
        rows = []
        for name, bits in mended.items():
            joint = "_" if f"{name}_slope" in checkpoint.params else "."  # of a weight, or of a fake quantizer
            slope, intercept = (float(checkpoint.params[name + joint + what]) for what in ("slope", "intercept"))
            document = self.terms[f"document_bits:{name}"]
            rows.append((name, f"{bits:.3g}", f"{document:.3g}", f"{slope:.4f}", f"{intercept:.4f}"))
        total = (f"{self.terms[name]:.2f}" for name in ("bit_loss", "document_bit_loss"))
        print_table(
            "Bits of each layer, on the test images",
            ("quantizer", "bits", "bits by the document's formula", "slope", "intercept"),
            [*rows, ("sum of 2^bits", *total, "", "")],
        )

    def _track(self, step: int, numbers: Mapping[str, float]) -> None:
        for log in self.logs:
            log.log_metrics(numbers, step)

    def _show(self, where: str, figures: Mapping[str, float]) -> None:
        numbers = ", ".join(f"{name}: {value:.4f}" for name, value in figures.items())
        print_line(self.console, f"{where}: {numbers}")


if __name__ == "__main__":
    sys.exit(run_script(add_arguments, run, __doc__))
