"""A MobileNetV3, a U-Net and a detector, trained in float and in 8 bits, and run everywhere: how good, how many codes differ.

    python benchmarks/todays_networks.py --data_path MNIST_Data --network mobilenet_v3 unet detector

mobilenet_v3 tells digits, or what else --data_path has; unet and detector find digits on canvases with pieces of others
(scenes.py), by their pixels and by their boxes. Each is trained in float, then on with 8 bits, both times to the last epoch,
and exported to ONNX, TFLite and C. The metrics are of --test samples of the test part, float and int8; of --compared of these
all output codes of all engines, in each arithmetic that they have, are compared with NumPy's integers. Exit status 1 where one
differs.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from detection import Detection
from scenes import scenes

import qat
from qat.cli import run_script
from qat.console import print_table
from qat.data import Dataset, Split
from qat.deploy.certificate import Certificate
from qat.deploy.verify import Engine, backend_engine, compare, file_engine
from qat.errors import QatError
from qat.networks import Detector, MobileNetV3, UNet
from qat.registry import TARGETS, installed
from qat.scripts.common.flags import add_backend_arguments, add_data_argument
from qat.tasks import Classification, Segmentation, Task
from qat.tasks.base import main as main_metric
from qat.training.checkpoint import Checkpoint
from qat.training.loop import evaluate_metrics, train
from qat.training.optimizer import Optimizer
from qat.training.recipe import Recipe

FORMATS = ("ONNX", "TFLITE", "C")
CLASSES = 10
RARE = -math.log(99)  #: the logit of 0.01, since most cells see nothing (Lin et al., arXiv 1708.02002, section 4.1)


class Case(NamedTuple):
    """A network with its task, and how much of what is needed for ten minutes on one core.

    Attributes:
        network: from its input to it.
        task: of it.
        size: pixels of a canvas; 0: the data are taken as they are.
        train: samples that are trained on.
        test: samples that are tested on.
        compared: of the test samples, those whose codes are compared.
        recipes: float, quantized.
        biases: initial ones that are not 0.
    """

    network: Callable[[qat.Input], qat.Network]
    task: Task
    size: int
    train: int
    test: int
    compared: int
    recipes: tuple[Recipe, Recipe]
    biases: Mapping[str, float] = MappingProxyType({})


def adam(epochs: int, batch_size: int, lr: float) -> Recipe:
    return Recipe(epochs, batch_size, lr=lr, optimizer=Optimizer("adam"))


CASES = {
    "mobilenet_v3": Case(
        lambda x: MobileNetV3(CLASSES, width=0.5, input=x),
        Classification(),
        size=0,
        train=12_000,
        test=10_000,
        compared=1000,
        recipes=(adam(3, 32, 0.003), adam(1, 32, 0.0005)),
    ),
    "unet": Case(
        UNet,
        Segmentation(),
        size=48,
        train=4000,
        test=500,
        compared=50,
        recipes=(adam(3, 16, 0.003), adam(1, 16, 0.0005)),
    ),
    "detector": Case(
        lambda x: Detector(x, outputs=CLASSES),
        Detection(),
        size=64,
        train=8000,
        test=1000,
        compared=200,
        recipes=(adam(6, 32, 0.003), adam(1, 32, 0.0005)),
        biases={f"scores.{k}.bias": RARE for k in range(2)},
    ),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_data_argument(parser)
    add_backend_arguments(parser)
    parser.add_argument("--network", nargs="+", choices=list(CASES), default=list(CASES), help="one after another")
    parser.add_argument("--train", type=int, help="samples to train on (default: by network)")
    parser.add_argument("--test", type=int, help="samples of the metrics (default: by network)")
    parser.add_argument("--compared", type=int, help="samples whose codes are compared (default: by network)")
    parser.add_argument("--epochs", type=int, nargs=2, help="float and quantized ones (default: by network)")
    parser.add_argument("--seed", type=int, default=0, help="of canvases, weights and the order of samples")
    parser.add_argument("--out", default="out/todays_networks", help="folder for checkpoints and files")


def dataset_of(case: Case, source: Dataset, seed: int) -> Dataset:
    """The samples of a case: those of a data set, or canvases with its digits."""
    parts = []
    for split, count in ((source.train, case.train), (source.test, case.test)):
        images, labels = np.asarray(split.images[:]), np.asarray(split.labels)
        if not case.size:
            parts.append(Split(images[:count], labels[:count]))
            continue
        drawn = scenes(images, labels, count, case.size, seed + len(parts))
        parts.append(Split(drawn.images, drawn.masks if isinstance(case.task, Segmentation) else drawn.boxes))
    name = source.name if not case.size else f"canvases of {source.name}"
    return Dataset(name, source.source, *parts)


def engines_of(name: str, quantized: Checkpoint, args: argparse.Namespace) -> list[Engine]:
    """The backend's evaluation pass, and each exported file in each arithmetic."""
    integers = qat.to_integer(quantized.graph, quantized.params)
    engines = [backend_engine(qat.backend(args.backend), quantized, args.device_target)]
    for file_format in (each for each in FORMATS if installed(TARGETS[each])):
        target = qat.target(file_format)
        for arithmetic in target.ARITHMETICS:
            options = {"arithmetic": arithmetic} if len(target.ARITHMETICS) > 1 else {}
            path = Path(args.out) / f"{name}_{arithmetic}{target.SUFFIX}"
            target.export(integers, path, **options)
            engines.append(file_engine(path, target, integers, arithmetic))
    return engines


def measured(name: str, case: Case, source: Dataset, args: argparse.Namespace) -> tuple[str, float, float, Certificate]:
    """Trains, exports and runs a network: the name of its metric, float and int8, and the comparison of all codes."""
    backend = qat.backend(args.backend)
    dataset = dataset_of(case, source, args.seed)
    graph = case.network(qat.Input(dataset.train.images.shape[1:], mean=0.1307, std=0.3081)).graph()
    params = graph.initial_params(args.seed)
    params |= {name: np.full_like(params[name], value) for name, value in case.biases.items()}
    start = Checkpoint(graph, params, task=case.task)
    recipes = [replace(recipe, seed=args.seed) for recipe in case.recipes]
    float_ = train(backend, start, dataset, recipes[0], device_target=args.device_target)
    converted = qat.convert_quant_network(graph, quant_delay=0)
    start = Checkpoint(
        converted, converted.params_from(float_.params, args.seed), history=float_.history, task=case.task
    )
    quantized = train(backend, start, dataset, recipes[1], device_target=args.device_target)
    for kind, checkpoint in (("float", float_), ("int8", quantized)):
        checkpoint.save(Path(args.out) / f"{name}_{kind}.ckpt")
    metric, of_float = main_metric(evaluate_metrics(backend, float_, dataset.test, device_target=args.device_target))
    _, of_int8 = main_metric(evaluate_metrics(backend, quantized, dataset.test, device_target=args.device_target))
    few = Split(dataset.test.images[: case.compared], dataset.test.labels[: case.compared])
    integers = qat.to_integer(quantized.graph, quantized.params)
    certificate = compare(engines_of(name, quantized, args), integers, few, data=dataset.name, task=case.task)
    return metric, of_float, of_int8, certificate


def time_used() -> float:
    """Seconds of processors, of this process and of those that it has started and that have ended."""
    return sum(os.times()[:4])


def run(args: argparse.Namespace) -> int:
    for name in ("train", "test", "compared"):
        if (count := getattr(args, name)) is not None and count < 1:
            raise QatError(f"--{name} is {count}; give 1 or more")
    source = qat.data.load(args.data_path)
    Path(args.out).mkdir(parents=True, exist_ok=True)
    rows, differ = [], 0
    for name in args.network:
        case = CASES[name]
        given = {each: getattr(args, each) for each in ("train", "test", "compared") if getattr(args, each)}
        if args.epochs:
            recipes = zip(case.recipes, args.epochs, strict=True)
            given["recipes"] = tuple(replace(recipe, epochs=epochs) for recipe, epochs in recipes)
        began = time_used()
        metric, of_float, of_int8, certificate = measured(name, case._replace(**given), source, args)
        print(certificate.summary(), flush=True)
        for arithmetic, metrics in certificate.metrics_by_arithmetic.items():
            said = case.task.words(*main_metric(metrics))
            print(f"{name}, the samples that are compared, in the {arithmetic} arithmetic: {said}", flush=True)
        differing = sum(comparison.differ for comparison in certificate.comparisons)
        codes = certificate.comparisons[0].codes
        shares = (f"{100 * share:.2f}" for share in (of_float, of_int8))
        minutes = f"{(time_used() - began) / 60:.1f}"
        rows.append((name, metric, *shares, f"{codes:,}", str(len(certificate.comparisons)), f"{differing:,}", minutes))
        differ += differing
    columns = ("network", "metric", "float in %", "int8 in %", "codes", "engines", "codes that differ", "CPU minutes")
    print_table(f"{source.name}, seed {args.seed}", columns, rows)
    return int(differ > 0)


if __name__ == "__main__":
    sys.exit(run_script(add_arguments, run, __doc__))
