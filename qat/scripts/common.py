"""Arguments and steps that several commands share."""

from __future__ import annotations

import argparse
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import qat
from qat import data
from qat.analysis.calibration import METHODS, calibrate, check_percentile
from qat.cells.linear import NEVER
from qat.console import print_table
from qat.data import Dataset, Split
from qat.data.dataset import READERS
from qat.deploy.interfaces import ParameterFiles, Target, TrainingBackend
from qat.deploy.verify import REFERENCE, Certificate
from qat.errors import QatError
from qat.files import check_writable
from qat.graph import Graph
from qat.integer.fixed_point import ARITHMETICS
from qat.networks.catalogue import ADDED
from qat.passes import convert_quant_network as conversion
from qat.passes.quant_config import read_quant_config
from qat.registry import BACKENDS, backend_names, formats, suffixed, target_of
from qat.scripts import sparsity
from qat.training.checkpoint import Checkpoint
from qat.training.devices import DEVICES
from qat.training.distillation import OWN, Teaching, teach
from qat.training.loop import Recipe, evaluate_accuracy, train
from qat.training.losses import Objective
from qat.training.objectives import Distillation
from qat.training.optimizer import OPTIMIZERS, SCHEDULES, Optimizer
from qat.training.workers import this_worker
from qat.vocabulary.arrays import as_arrays, as_tuple

QUANTIZATION = (
    "num_bits",
    "per_channel",
    "symmetric",
    "narrow_range",
    "bn_fold",
    "one_conv_fold",
    "freeze_bn",
    "ema_decay",
    "profile",
)  #: of convert_quant_network; quant_delay is of training alone


def add_backend_arguments(parser: argparse.ArgumentParser) -> None:
    """--backend and --device_target."""
    parser.add_argument("--backend", choices=backend_names(), default="torch", help="the framework that computes")
    add_device_argument(parser)


def add_network_argument(parser: argparse.ArgumentParser) -> None:
    """--network."""
    parser.add_argument(
        "--network",
        default="lenet",
        help=f"one of {', '.join(ADDED.names())}, or your own as package.module:Class, whose code is then run",
    )


def with_files() -> list[str]:
    """The backends whose frameworks have files of named arrays; those of other packages, which may have some, among them."""
    return [name for name in backend_names() if name not in BACKENDS or BACKENDS[name].suffix]


def parameter_files(name: str) -> ParameterFiles:
    """A backend whose framework has files of named arrays. Raises QatError where it has none."""
    backend = qat.backend(name)
    if not isinstance(backend, ParameterFiles):
        raise QatError(f"--backend {backend.NAME}: its framework has no files of parameters; choose another")
    return backend


def add_device_argument(parser: argparse.ArgumentParser) -> None:
    """--device_target."""
    parser.add_argument(
        "--device_target", choices=DEVICES, help="the device it computes on (default: the best that there is)"
    )


def add_data_argument(
    parser: argparse.ArgumentParser, *, required: bool = True, otherwise: str = "what the checkpoint was trained on"
) -> None:
    """--data_path. otherwise: what is taken where it is not required and left out."""
    text = "folder of MNIST (IDX files in train/ and test/), CIFAR-10 (.bin) or SVHN (.mat), or 'digits' for scikit-learn's"
    text += "".join(f", or {name}:..." for name in READERS.names()).replace("%", "%%")
    if required:
        parser.add_argument("--data_path", required=True, help=text)
    else:
        parser.add_argument("--data_path", default=None, help=f"{text} (default: {otherwise})")


def add_arithmetic_argument(parser: argparse.ArgumentParser) -> None:
    """--arithmetic."""
    parser.add_argument(
        "--arithmetic",
        choices=ARITHMETICS,
        help="how sums become codes: by a float32 multiplication, or by integers alone, as TFLite's reference kernels and C "
        "files (default: the file's own; for export float, or fixed where a format has nothing else)",
    )


def add_trust_argument(parser: argparse.ArgumentParser) -> None:
    """--trust."""
    parser.add_argument(
        "--trust",
        action="store_true",
        help="also run files that hold code, as .c: only where you exported them yourself, or trust who did",
    )


def trusted_target(args: argparse.Namespace, path: str) -> Target:
    """The target of a file that was handed in. Raises QatError where to run it is to run code, and --trust is not given."""
    target = target_of(path)
    if target.RUNS_CODE and not args.trust:
        raise QatError(
            f"{path}: holds code, which would be compiled and run here with all your rights, and its digest does not say who "
            "wrote it; give --trust, but only if you exported it yourself or trust who did"
        )
    return target


def add_checkpoint_argument(parser: argparse.ArgumentParser, what: str) -> None:
    """--ckpt_path."""
    parser.add_argument("--ckpt_path", required=True, help=f"checkpoint file of the {what}")


def add_training_arguments(parser: argparse.ArgumentParser, *, lr: float, save_path: str) -> None:
    """What both training commands take."""
    parser.add_argument("--epochs", type=int, default=10, help="passes over the training images")
    parser.add_argument("--batch_size", type=int, default=64, help="images a step")
    parser.add_argument("--lr", type=float, default=lr, help="peak learning rate")
    parser.add_argument(
        "--lr_schedule",
        choices=SCHEDULES,
        default="cosine",
        help="how the rate falls; plateau: to a tenth after 5 epochs without gain",
    )
    parser.add_argument(
        "--optimizer", choices=OPTIMIZERS, default="momentum", help="SGD with momentum, Adam, or Adam's AMSGrad"
    )
    parser.add_argument("--momentum", type=float, default=0.9, help="momentum of SGD")
    parser.add_argument("--weight_decay", type=float, default=0.0, help="L2 penalty on weights")
    parser.add_argument("--label_smoothing", type=float, default=0.0, help="share of a target spread over all classes")
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of the initial weights and of the order of the images"
    )
    parser.add_argument(
        "--augment_shift",
        type=int,
        default=0,
        metavar="PIXELS",
        help="move training images at random by up to so many pixels",
    )
    parser.add_argument("--augment_flip", action="store_true", help="mirror half of the training images, left to right")
    parser.add_argument(
        "--validation",
        type=int,
        default=0,
        metavar="IMAGES",
        help="so many training images are held back and evaluated after each epoch: the next two, and --lr_schedule plateau, "
        "decide by them",
    )
    parser.add_argument(
        "--early_stopping",
        type=int,
        default=0,
        metavar="EPOCHS",
        help="stop where the validation loss has not fallen for so many epochs; 0: never",
    )
    parser.add_argument(
        "--keep_best",
        action="store_true",
        help="save the epoch with the lowest validation loss at the end, not the last",
    )
    parser.add_argument("--compile", action="store_true", help="compile the step with the framework's compiler")
    parser.add_argument(
        "--dataset_sink_mode", type=boolean, default=False, metavar="BOOL", help="MindSpore's data sink, on Ascend"
    )
    parser.add_argument("--log_every", type=int, default=0, metavar="STEPS", help="also log each STEPS steps; 0: never")
    parser.add_argument("--log_path", metavar="FILE.csv", help="also append the log to a CSV file")
    parser.add_argument(
        "--save_every", type=int, default=0, metavar="STEPS", help="also save each STEPS steps; 0: never"
    )
    parser.add_argument("--resume", action="store_true", help="go on from the file at --save_path, if it is there")
    parser.add_argument("--save_path", help=f"checkpoint file to write, after each epoch (default: {save_path})")
    distillation = parser.add_argument_group("distillation", "learn from another network's outputs, too")
    distillation.add_argument(
        "--teacher_ckpt",
        metavar="FILE",
        help=f"checkpoint of the teacher, any network for the same classes, or {OWN!r}: the trained network without its "
        "quantizers",
    )
    distillation.add_argument(
        "--distill_temperature", type=float, metavar="T", help="what logits are divided by (default: 4)"
    )
    distillation.add_argument(
        "--distill_weight", type=float, metavar="W", help="share of the teacher in the loss, 0 to 1 (default: 0.5)"
    )


def add_quantization_arguments(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """The settings of convert_quant_network, but quant_delay; returns their group."""
    quantization = parser.add_argument_group("quantization", "one value, or two: of weights and of activations")
    quantization.add_argument("--quant_config", metavar="FILE.yaml", help="settings for all and for single layers")
    quantization.add_argument(
        "--profile",
        choices=conversion.PROFILES,
        default="default",
        help="ascend: what AIR and ASCEND_ONNX need (docs/ascend.md)",
    )
    quantization.add_argument(
        "--num_bits", type=int, nargs="+", default=[8], metavar="BITS", help="2 to 16, of activations 1 to 16"
    )
    for name, default, text in (
        ("per_channel", [True, False], "a scale for each output channel"),
        ("symmetric", [True, False], "signed codes around 0, else a zero point"),
        ("narrow_range", [False], "leave the lowest code out"),
    ):
        quantization.add_argument(f"--{name}", type=boolean, nargs="+", default=default, metavar="BOOL", help=text)
    quantization.add_argument(
        "--bn_fold",
        type=boolean,
        default=True,
        metavar="BOOL",
        help="quantize weights with batch norm folded in",
    )
    quantization.add_argument(
        "--one_conv_fold", type=boolean, default=False, metavar="BOOL", help="fold by one convolution, not two"
    )
    quantization.add_argument(
        "--freeze_bn", type=int, default=NEVER, metavar="STEPS", help="steps before batch norm uses running statistics"
    )
    quantization.add_argument(
        "--ema_decay",
        type=float,
        default=0.99,
        metavar="DECAY",
        help="how slowly activation ranges follow the batches; 0: the range is that of the last batch",
    )
    return quantization


def quantization_settings(args: argparse.Namespace) -> dict[str, Any]:
    """Keyword arguments of convert_quant_network; what --quant_config says goes before the other arguments."""
    settings = {name: getattr(args, name) for name in QUANTIZATION}
    return settings | (read_quant_config(args.quant_config) if args.quant_config else {})


def recipe(args: argparse.Namespace) -> Recipe:
    """How to train, from the arguments."""
    optimizer = Optimizer(args.optimizer, args.momentum, args.weight_decay)
    return Recipe(
        args.epochs,
        args.batch_size,
        args.lr,
        args.lr_schedule,
        args.seed,
        optimizer,
        args.label_smoothing,
        getattr(args, "slimming", 0.0),
        args.validation,
        args.early_stopping,
        args.keep_best,
        args.augment_shift,
        args.augment_flip,
    )


def boolean(text: str) -> bool:
    """An argument that is true or false, in words: bool("False") would be True."""
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")
    return text.lower() == "true"


def load_data(data_path: str, graph: Graph) -> Dataset:
    """The data set, its images in the shape that the network takes."""
    if len(graph.inputs) != 1:
        raise QatError(
            f"{graph.name} has {len(graph.inputs)} inputs, but a data set of --data_path has one image a sample; train and "
            "verify it from Python, with a tuple of arrays as Split.images"
        )
    return data.load(data_path).resized(graph.shapes[graph.inputs[0].name])


def output_path(name: str, suffix: str) -> Path:
    """The file to write, with its ending added where it is missing. Raises QatError for a folder or another ending."""
    where = f"the file to write, {name!r}:"
    path = Path(name)
    if not path.name or os.path.isdir(path):
        raise QatError(f"{where} is a folder, or nothing; give the name of a file")
    found = suffixed(path)
    if found is not None and formats()[found].suffix == suffix:
        return path
    if found is not None:
        raise QatError(f"{where} ends as another format's file, not as {suffix}; change the name or the format")
    return path.with_name(path.name + suffix)


def check_file(path: str, advice: str) -> None:
    """Raise QatError where there is no such file."""
    if not os.path.isfile(path):
        found = "it is a folder, a pipe or a device" if os.path.exists(path) else "there is no such file"
        raise QatError(f"{path or repr(path)}: {found}; {advice}")


def load_checkpoint(path: str, *, quantized: bool) -> Checkpoint:
    """A checkpoint of the kind that the command needs."""
    checkpoint = Checkpoint.load(path)
    checkpoint.require(path, quantized=quantized)
    return checkpoint


def add_calibration_arguments(parser: argparse.ArgumentParser) -> None:
    """How ranges are found without training."""
    calibration = parser.add_argument_group("calibration", "on training images, never on test images")
    calibration.add_argument("--images", type=int, default=1000, help="how many, chosen at random")
    calibration.add_argument("--method", choices=METHODS, default="minmax", help="how an activation's range is found")
    calibration.add_argument(
        "--percentile", type=float, default=99.99, metavar="PERCENT", help="of the method of that name"
    )
    calibration.add_argument(
        "--bias_correction", action="store_true", help="take the mean error of each channel out of its bias"
    )
    calibration.add_argument("--equalize", action="store_true", help="equalize weights from channel to channel before")


def check_calibration(args: argparse.Namespace, dataset: Dataset) -> None:
    """Raise QatError where the arguments ask for what is not there, before anything is trained."""
    if not 1 <= args.images <= len(dataset.train):
        raise QatError(
            f"--images {args.images}: {dataset.source} has {len(dataset.train)} training images; use a number from 1 to that"
        )
    check_percentile(args.percentile)


def calibrated(args: argparse.Namespace, checkpoint: Checkpoint, dataset: Dataset, **settings: Any) -> Checkpoint:
    """A float checkpoint quantized as the arguments say. settings: of convert_quant_network."""
    check_calibration(args, dataset)
    chosen = np.sort(np.random.default_rng(args.seed).permutation(len(dataset.train))[: args.images])
    result = calibrate(
        checkpoint.graph,
        checkpoint.params,
        as_arrays(tuple(x[chosen] for x in as_tuple(dataset.train.images))),
        method=args.method,
        percentile=args.percentile,
        bias_correction=args.bias_correction,
        equalize=args.equalize,
        **settings,
    )
    names = ("images", "seed", "method", "percentile", "bias_correction", "equalize")
    record = {"calibration": {name: getattr(args, name) for name in names}}
    return replace(result, history=(record, *checkpoint.history))


def print_accuracies(args: argparse.Namespace, before: Checkpoint, after: Checkpoint, dataset: Dataset) -> None:
    """Of two checkpoints on the test images, in the backend that the arguments name."""
    backend = qat.backend(args.backend)
    for words, each in (("before: ", before), ("after:  ", after)):
        top1 = evaluate_accuracy(backend, each, dataset.test, device_target=args.device_target)
        print(f"Accuracy {words}{100 * top1:.2f}")


def train_and_save(
    args: argparse.Namespace, start: Checkpoint, data_path: str, path: Path, objective: Objective | None = None
) -> Checkpoint:
    """What both training commands do: train ``start`` further as the arguments say, save, print the accuracy. objective: in
    place of the cross entropy. Returns what was saved.
    """
    backend = qat.backend(args.backend)
    if args.dataset_sink_mode:
        raise QatError(
            "--dataset_sink_mode true: the commands feed every batch from NumPy; MindSpore's data sink belongs to "
            "its own loop on an Ascend: mindspore.train.Model(qat.backend('mindspore').lower(network), ...).train(..., "
            "dataset_sink_mode=True); leave it out"
        )
    if suffixed(path) is not None:
        raise QatError(f"--save_path {path}: ends as an exported file, but a checkpoint is written; name it *.ckpt")
    check_writable(path)
    if args.log_path:
        check_writable(args.log_path)
    plan = recipe(args)
    dataset = load_data(data_path, start.graph)
    if args.resume and not path.exists():
        print(f"note: there is no {path} to resume: the training begins at its first step")
    elif args.resume:
        saved = Checkpoint.load(path)
        if saved.graph != start.graph:
            raise QatError(
                f"{path}: holds another network than {start.graph.name} as asked for; leave --resume out, or change it"
            )
        start = saved
    teaching = _teaching(args, backend, start.graph, data_path)
    if teaching is not None:
        if objective is not None:
            raise QatError(
                "--teacher_ckpt with --bits_per_weight or --max_bops: only one at a time; leave one of them out"
            )
        objective = teaching.objective
        dataset = replace(dataset, train=replace(dataset.train, targets=teaching.targets))
    checkpoint = train(
        backend,
        start,
        dataset,
        plan,
        objective=objective,
        record=None if teaching is None else teaching.record,
        device_target=args.device_target,
        compile=args.compile,
        log_every=args.log_every,
        log_path=None if this_worker().rank else args.log_path,
        save=lambda checkpoint: checkpoint.save(path),
        save_every=args.save_every,
    )
    top1 = evaluate_accuracy(backend, checkpoint, dataset.test, device_target=args.device_target)
    delay = start.graph.quant_delay
    if 0 < delay >= checkpoint.step:
        print(
            f"note: {checkpoint.step} steps were trained, but quantization sets in after {delay}; lower --quant_delay"
        )
    sparsity.report(checkpoint)
    print(f"Accuracy: {100 * top1:.2f}")
    note_if_guessing(top1, dataset.test, start.graph.name, f"use another --lr than {args.lr:g}, or more --epochs")
    print(f"saved {path}")
    return checkpoint


def _teaching(args: argparse.Namespace, backend: TrainingBackend, student: Graph, data_path: str) -> Teaching | None:
    """What --teacher_ckpt asks for."""
    given = {"temperature": args.distill_temperature, "weight": args.distill_weight}
    if args.teacher_ckpt is None:
        unused = [name for name, value in given.items() if value is not None]
        if unused:
            raise QatError(f"--distill_{unused[0]}: there is no teacher; give --teacher_ckpt, or leave it out")
        return None
    images = None
    if args.teacher_ckpt != OWN:
        images = load_data(data_path, Checkpoint.load(args.teacher_ckpt).graph).train
    chosen = {name: getattr(Distillation, name) if value is None else value for name, value in given.items()}
    return teach(
        backend,
        student,
        args.teacher_ckpt,
        images,
        **chosen,
        smoothing=args.label_smoothing,
        device_target=args.device_target,
    )


def note_if_guessing(top1: float, split: Split, name: str, remedy: str) -> None:
    """Say so where a network is no better than one that always answers the most frequent class. top1: its accuracy, 0 to 1."""
    guessed = float(np.bincount(split.labels).max()) / len(split)
    if top1 <= guessed < 1.0:
        print(
            f"note: {name} is no better than always answering the most frequent class, {100 * guessed:.2f} %: its training "
            f"has failed; {remedy}"
        )


def print_certificate(certificate: Certificate) -> None:
    """The certificate as a table, and its lines."""

    def percent(top1: float | None) -> str:
        return "" if top1 is None else f"{100 * top1:.2f} %"

    several = certificate.top1_by_arithmetic  # then each engine is compared with NumPy's integers in its own
    references = several or {certificate.arithmetic: certificate.reference_top1}
    rows = [(REFERENCE, name, "", "", "", percent(top1)) for name, top1 in references.items()]
    rows += [
        (x.engine, x.arithmetic, f"{x.codes:,}", f"{x.differ:,}", str(x.largest), percent(x.top1))
        for x in certificate.comparisons
    ]
    columns = ("engine", "arithmetic", "codes compared", "differ", "by at most", "top-1")
    if not several:
        columns, rows = columns[:1] + columns[2:], [row[:1] + row[2:] for row in rows]
    arithmetic = "" if certificate.arithmetic == "float" else f", arithmetic {certificate.arithmetic}"
    print_table(
        f"Certificate: {certificate.file}, {certificate.images:,} images ({certificate.data}){arithmetic}",
        columns,
        rows,
    )
    if len(certificate.comparisons) > 2:
        names = [f"{REFERENCE}, {certificate.arithmetic}" if several else REFERENCE]
        names += [x.engine for x in certificate.comparisons]
        print_table(
            "Codes that differ, pair by pair" + (": two arithmetics round some codes otherwise" if several else ""),
            ("", *map(str, range(len(names)))),
            [
                (f"{i} {name}", *(f"{n:,}" for n in row))
                for i, (name, row) in enumerate(zip(names, certificate.matrix, strict=True))
            ],
        )
    print(certificate.summary())
