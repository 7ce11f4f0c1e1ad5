"""The study of quantized and pruned networks of arXiv 2101.05108: k-fold cross-validation, a scan of bit widths, pruning.

Each training leaves <models>/<model>_<fold>.ckpt, .npz (outputs on the fold's test images) and .json (accuracy, losses), and
<models>/study.db says what is done: killed and called again, it goes on. Models are full, quant_<bits>bit and, with
--autoq_config, latest_aq, which pictures and reports call AutoQ; pruned ones begin with pruned_.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np

import qat
from qat.analysis.merge_batch_norm import merge_batch_norm
from qat.cells.pruner import MagnitudePruner
from qat.cli import run_script
from qat.console import print_table
from qat.data import cross_validation
from qat.errors import QatError, one_line
from qat.graph import Graph
from qat.integer.fixed_point import ARITHMETICS
from qat.networks import SvhnCnn
from qat.passes.quant_config import read_quant_config
from qat.scripts.common.flags import (
    add_arithmetic_argument,
    add_backend_arguments,
    add_data_argument,
    arithmetic_settings,
    boolean,
    seed,
)
from qat.scripts.common.plan import add_writing_arguments, stop_if_dry
from qat.study import Study, Task, run_study
from qat.study.executors import Executor, LocalExecutor, RayExecutor
from qat.study.results import MIXED, table_name
from qat.study.store import Row
from qat.study.training import is_trained, progress_of, read_result, study_images, train_task
from qat.training.optimizer import OPTIMIZERS, SCHEDULES, Optimizer
from qat.training.recipe import Recipe
from qat.vocabulary.arrays import as_tuple

STEPS = 20  #: an epoch has at least so many: on small data the batches get smaller
BY_RANGE = 5  #: bits from which on a scale follows from a range instead of being learned
LOGITS_BITS = 8  #: of the logits and of the input's pixels, at every width


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's flags."""
    parser.add_argument("--flagfile", metavar="FILE.cfg", help="arguments from a file, as scripts/svhn_cnn.cfg")
    add_data_argument(parser, prepared=False)
    parser.add_argument("--models", default="models", help="folder of the study: checkpoints, results, study.db")
    add_backend_arguments(parser)
    what = parser.add_argument_group("what is trained")
    what.add_argument("--single", action="store_true", help="the first fold only")
    what.add_argument("--quantize", **FLAG, help="scan the widths")
    what.add_argument("--prune", **FLAG, help="prune the trained models; with --quantize at every width")
    what.add_argument("--folds", type=int, default=10, help="of cross-validation; 0: the data set's own test images")
    what.add_argument("--train_images", type=int, default=0, metavar="N", help="only so many, at random; 0: all")
    what.add_argument(
        "--widths", type=numbers, default=[16, 14, 12, 10, 8, 6, 4, 3, 2, 1], help="bits; 2: ternary, 1: binary"
    )
    what.add_argument(
        "--least_activation_bits",
        type=int,
        default=4,
        metavar="BITS",
        help="activations have a width's bits, but these at least",
    )
    what.add_argument(
        "--autoq_config",
        metavar="FILE.yaml",
        help="also a model AutoQ, with the mixed widths that run_autoq.py wrote; it begins with the float weights",
    )
    add_arithmetic_argument(what, "float; of all models of a study")
    network = parser.add_argument_group("network")
    network.add_argument("--filters", type=numbers, default=[16, 16, 24], help="of each convolution")
    network.add_argument("--kernels", type=numbers, default=[3], help="size in each convolution, or one for all")
    network.add_argument("--dense", type=numbers, default=[42, 64], help="outputs of the hidden dense layers")
    network.add_argument("--dropout", type=float, default=0.0, help="rate before each dense layer")
    training = parser.add_argument_group("training")
    training.add_argument("--epochs", type=int, default=100, help="at most")
    training.add_argument("--batch_size", type=int, default=1024, help=f"less where an epoch had not {STEPS} steps")
    training.add_argument("--lr", type=float, default=0.003, help="learning rate")
    training.add_argument("--lr_schedule", choices=SCHEDULES, default="plateau", help="how the rate falls")
    training.add_argument("--optimizer", choices=OPTIMIZERS, default="amsgrad", help="which")
    training.add_argument("--early_stopping", type=int, default=10, metavar="EPOCHS", help="patience; 0: never")
    training.add_argument(
        "--validation_share", type=float, default=0.1, help="of a fold's training images, to choose by"
    )
    training.add_argument("--seed", type=seed, default=0, help="of the folds, the weights and the order of images")
    pruning = parser.add_argument_group("pruning")
    pruning.add_argument("--initial_sparsity", type=float, default=0.4, help="share of weights that are 0 at first")
    pruning.add_argument("--final_sparsity", type=float, default=0.5, help="and in the end")
    pruning.add_argument("--prune_begin", type=int, default=1000, metavar="STEP", help="of the polynomial schedule")
    pruning.add_argument("--prune_end", type=int, default=8000, metavar="STEP", help="at most half of all steps")
    pruning.add_argument("--prune_frequency", type=int, default=100, metavar="STEPS", help="between two prunings")
    add_executor_arguments(parser)
    add_writing_arguments(parser, replaces=False)


FLAG: dict[str, Any] = {"nargs": "?", "const": True, "default": False, "type": boolean, "metavar": "BOOL"}


def add_executor_arguments(parser: argparse.ArgumentParser) -> None:
    """--jobs and --ray."""
    where = parser.add_argument_group("where it runs")
    where.add_argument("--jobs", type=int, default=1, help="trainings at a time, in processes of one thread each")
    where.add_argument(
        "--ray",
        nargs="?",
        const="local",
        metavar="ADDRESS",
        help="as tasks of Ray, on a cluster or (without address) here",
    )


def numbers(text: str) -> list[int]:
    """Whole numbers with commas between them, or none."""
    try:
        return [int(part) for part in text.split(",")] if text.strip() else []
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of whole numbers, as 16,16,24") from None


def run(args: argparse.Namespace) -> int:
    """Run the command. Returns the exit status."""
    tasks, batch_size = plan(args)
    folder = Path(args.models)
    models = list(dict.fromkeys(task.settings["label"]["model"] for task in tasks))
    print(f"{len(tasks)} trainings of {len(models)} models in batches of {batch_size}: {', '.join(models)}")
    runner = executor(args, folder)  # refuses what it cannot do before there is a folder
    stop_if_dry(
        args, f"train {len(tasks)} times", reads=[(args.data_path, f"{len(models)} models' data")], writes=[folder]
    )
    with Study(folder) as study:
        rows = run_study(study, tasks, runner, is_trained, progress=progress_of)
    return report(folder, rows)


def executor(args: argparse.Namespace, folder: Path) -> Executor:
    """Where the trainings run."""
    if args.ray is None:
        return LocalExecutor(train_task, folder, args.jobs)
    return RayExecutor(train_task, folder, args.jobs, None if args.ray == "local" else args.ray)


def plan(args: argparse.Namespace) -> tuple[list[Task], int]:
    """The trainings that the arguments ask for, each after those it builds on, and the batch size."""
    if args.folds < 0 or args.folds == 1:
        raise QatError(f"--folds is {args.folds}; use 2 or more, or 0 for the data set's own test images")
    if args.train_images < 0:
        raise QatError(f"--train_images is {args.train_images}; use a number of images, or 0 for all")
    if not 0.0 < args.validation_share < 1.0:
        raise QatError(f"--validation_share is {args.validation_share}; use a share of the training images, as 0.1")
    dataset = study_images(args.data_path, args.train_images, args.folds, args.seed)
    count = len(dataset.train)
    if args.folds:
        count = min(len(train) for train, _ in cross_validation(dataset, args.folds, args.seed).parts)
    validation = max(round(count * args.validation_share), 1)
    batch_size = args.batch_size
    while batch_size > 1 and (count - validation) // batch_size < STEPS:
        batch_size //= 2
    recipe = {
        "epochs": args.epochs,
        "batch_size": batch_size,
        "lr": args.lr,
        "lr_schedule": args.lr_schedule,
        "seed": args.seed,
        "optimizer": {"name": args.optimizer},
        "validation": validation,
        "early_stopping": args.early_stopping,
        "keep_best": True,
    }
    Recipe(
        **recipe | {"optimizer": Optimizer(args.optimizer)}
    )  # raises for a wrong argument before anything is trained
    channel = as_tuple(dataset.train.images)[0].shape[1]
    if not args.kernels:
        raise QatError("--kernels: there are no numbers; give one for all convolutions, or one for each")
    kernels = args.kernels if len(args.kernels) > 1 else args.kernels[0]
    graph = SvhnCnn(
        channel=channel, filters=args.filters, kernels=kernels, dense=args.dense, dropout=args.dropout
    ).graph()
    models: dict[str, Any] = {"full": None}
    widths, most = args.widths if args.quantize else [], qat.WeightQuantizer.widths[1]
    if args.quantize and not (widths and len(set(widths)) == len(widths) and set(widths) <= set(range(1, most + 1))):
        raise QatError(
            f"--widths {','.join(map(str, widths))}: use different numbers of bits from 1 (binary) and 2 (ternary) to "
            f"{most}, as 8,4,2,1"
        )
    for bits in widths:
        try:
            models[f"quant_{bits}bit"] = quantization(bits, args.least_activation_bits) | arithmetic_settings(args)
        except QatError as error:
            raise QatError(f"--least_activation_bits {args.least_activation_bits}: {error}") from None
    if args.autoq_config:
        models[MIXED] = mixed_widths(args.autoq_config, graph, **arithmetic_settings(args))
    data = {"data_path": args.data_path, "shape": list(graph.shapes[graph.inputs[0].name]), "images": args.train_images}
    data |= {"folds": args.folds, "seed": args.seed}
    if args.folds and not len(dataset.test):
        data["undivided"] = True  # an earlier release left a fifth out, whose folds must not be mixed with these
    tasks = []
    for fold in range(1 if args.single or not args.folds else args.folds):
        common_settings = {"data": {**data, "fold": fold}, "backend": args.backend, "device_target": args.device_target}
        before = None
        for model, settings in models.items():
            label = {"model": model, "fold": fold, "weight_bits": bits_of(model), "pruned": False}
            if model == MIXED:  # as in its search, where no trial began with the weights of a width
                before = "full"
            needed = {"start": f"{before}_{fold}" if before else None, "float": f"full_{fold}" if before else None}
            tasks.append(
                task(
                    f"{model}_{fold}",
                    common_settings,
                    recipe,
                    label,
                    needed,
                    quantization=settings,
                    graph=graph.to_json(),
                )
            )
            if args.prune:
                pruner = pruner_settings(args, (count - validation) // batch_size * args.epochs)
                MagnitudePruner(**pruner)  # raises now, not after the float trainings
                needed = {"start": f"{model}_{fold}", "float": None}
                label = {**label, "model": f"pruned_{model}", "pruned": True}
                tasks.append(task(f"pruned_{model}_{fold}", common_settings, recipe, label, needed, pruner=pruner))
            before = model
    return tasks, batch_size


def mixed_widths(path: str, graph: Graph, **others: str) -> dict[str, Any]:
    """Settings from run_autoq.py's file. Raises QatError, before hours of training, where they are not of this network.

    graph: the float network. Its batch normalisations are merged before it is quantized, so that the names of its layers
    are those that are left. others: settings of all models of the study.
    """
    settings = others | read_quant_config(path)
    own, wanted = (each.get("arithmetic", ARITHMETICS[0]) for each in (settings, others))
    if own != wanted:
        raise QatError(
            f"--autoq_config {path}: is of the {own} arithmetic, but the study's other models are of the {wanted} one; give "
            f"--arithmetic {own}"
        )
    image = np.zeros((1, *graph.shapes[graph.inputs[0].name]), np.uint8)
    merged, _ = merge_batch_norm(graph, graph.initial_params(), image)
    try:
        qat.convert_quant_network(merged, **settings)
    except QatError as error:
        raise QatError(f"--autoq_config {path}: {error}") from None
    return settings


def task(
    name: str,
    common_settings: dict[str, Any],
    recipe: dict[str, Any],
    label: Any,
    needed: dict[str, str | None],
    **own: Any,
) -> Task:
    """One training."""
    settings = {"graph": None, "quantization": None, "pruner": None} | own
    settings |= {**common_settings, **needed, "recipe": recipe, "label": label}
    if needed["start"] is not None:
        settings["graph"] = None
    return Task(name, settings, tuple(dict.fromkeys(other for other in needed.values() if other)))


def quantization(bits: int, least_activation_bits: int) -> dict[str, Any]:
    """Settings of a width. Batch normalisation is not folded into what is quantized."""
    logits = {"activation_quantizer": qat.ActivationQuantizer(LOGITS_BITS, symmetric=False).to_json()}
    return {**width_settings(bits, max(bits, least_activation_bits)), "layers": {"output": logits}, "bn_fold": False}


def width_settings(weight_bits: int, activation_bits: int) -> dict[str, Any]:
    """The two quantizers, a scale for each output channel of a weight. Of five bits and more by the range of the numbers: there
    a scale is smaller than a step of Adam, which takes no account of LSQ's gradient scale. Of three and four LSQ's learned
    scales; weights of two bits threshold ternary (TWN's), of one bit XNOR-Net's.
    """
    weights: Any
    activations: Any
    if weight_bits == 1:
        weights = qat.BinaryWeightQuantizer(per_channel=True)
    elif weight_bits == 2:
        weights = qat.TernaryWeightQuantizer(per_channel=True)
    elif weight_bits < BY_RANGE:
        weights = qat.LSQWeightQuantizer(weight_bits, per_channel=True, narrow_range=True)
    else:
        weights = qat.WeightQuantizer(weight_bits, per_channel=True)
    if activation_bits < BY_RANGE:
        activations = qat.LSQActivationQuantizer(activation_bits)
    else:
        activations = qat.ActivationQuantizer(activation_bits, symmetric=False)
    return {"weight_quantizer": weights.to_json(), "activation_quantizer": activations.to_json()}


def bits_of(model: str) -> int | None:
    """The width in a model's name."""
    return int(model.removeprefix("quant_").removesuffix("bit")) if model.startswith("quant_") else None


def pruner_settings(args: argparse.Namespace, steps: int) -> dict[str, Any]:
    """The schedule, within the first half of a training's steps, so that epochs at the final sparsity follow."""
    end = min(args.prune_end, max(steps // 2, 2))
    begin = min(args.prune_begin, end // 8)
    frequency = max(min(args.prune_frequency, (end - begin) // 10), 1)
    return {
        "initial_sparsity": args.initial_sparsity,
        "final_sparsity": args.final_sparsity,
        "begin": begin,
        "end": end,
        "frequency": frequency,
    }


def report(folder: Path, rows: list[Row]) -> int:
    """Print the accuracies; returns the exit status."""
    by_model: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        if row.state == "done":
            result, _, _ = read_result(folder / f"{row.task.name}.json")
            by_model.setdefault(result["label"]["model"], []).append(result)
    shown = []
    for model, results in by_model.items():
        top1 = [100 * result["accuracy"] for result in results]
        mean = sum(top1) / len(top1)
        sigma = (sum((x - mean) ** 2 for x in top1) / max(len(top1) - 1, 1)) ** 0.5
        differ = [result["codes_differ"] for result in results if result["codes_differ"] is not None]
        shown.append(
            (
                table_name(model),
                str(len(top1)),
                f"{mean:.2f}",
                f"{sigma:.2f}" if len(top1) > 1 else "",
                f"{min(top1):.2f}",
                f"{max(top1):.2f}",
                str(sum(differ)) if differ else "",
            )
        )
    if shown:
        data = next(iter(by_model.values()))[0]["data"]
        print_table(
            f"Top-1 in %, on {data.partition(', fold')[0]}",
            ("model", "folds", "mean", "sigma", "lowest", "highest", "codes that differ"),
            shown,
        )
    failed = [row for row in rows if row.state == "failed"]
    for row in failed:
        print(one_line(f"{row.task.name} failed: {row.error}"))
    left = sum(row.state == "waiting" for row in rows)
    if left:
        print(f"{left} trainings wait for those that failed; called again, the study tries them once more")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(run_script(add_arguments, run, __doc__))
