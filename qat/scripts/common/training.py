"""Flags of training, and the training that they ask for."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np

import qat
from qat.console import note, result, wrote
from qat.data import Dataset
from qat.data.augment import KINDS
from qat.deploy.interfaces import DataSink, TrainingBackend
from qat.errors import QatError
from qat.graph import Graph
from qat.passes.track_oscillations import track_oscillations
from qat.scripts.common import few_bits, sparsity
from qat.scripts.common.files import check_checkpoint_path, load_data, read_data
from qat.scripts.common.flags import PREPARATION, boolean, length, print_fitted, seed
from qat.scripts.common.plan import add_writing_arguments, check_outputs, of_data, of_graph, stop_if_dry
from qat.scripts.common.printing import note_if_guessing, print_arithmetic, print_metrics, told
from qat.scripts.common.tasks import add_loss_arguments, add_task_argument, loss_of, with_task, with_weights
from qat.tables import counted
from qat.training import trackers
from qat.training.checkpoint import Checkpoint
from qat.training.devices import available_cores, threads_in_use, use_threads
from qat.training.distillation import OWN, Teaching, teach
from qat.training.lengths import Length, Span, span_of
from qat.training.loop import check_labels, evaluate_metrics, train
from qat.training.losses import Objective
from qat.training.objectives import Distillation
from qat.training.optimizer import OPTIMIZERS, SCHEDULES, Optimizer
from qat.training.recipe import Recipe
from qat.training.workers import this_worker


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
        "--seed", type=seed, default=0, help="seed of the initial weights and of the order of the images"
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
        "--augment",
        nargs="+",
        choices=KINDS,
        default=[],
        metavar="KIND",
        help=f"change training pictures at random by {', '.join(KINDS)}: one or several",
    )
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
        "--dataset_sink_mode", type=boolean, default=False, metavar="BOOL", help="MindSpore's data sink"
    )
    parser.add_argument(
        "--log_every", type=length, default=Length("0"), metavar="LENGTH", help="log also so often; 0: never"
    )
    parser.add_argument("--log_path", metavar="FILE.csv", help="also append the log to a CSV file")
    add_tracker_argument(parser)
    parser.add_argument(
        "--save_every", type=length, default=Length("0"), metavar="LENGTH", help="save also so often; 0: never"
    )
    habits = parser.add_argument_group("how weights follow gradients")
    habits.add_argument(
        "--warmup",
        type=length,
        default=Length("0"),
        metavar="LENGTH",
        help="in which the rate rises from 0: steps as 500, epochs as 1ep, or a share of the training as 5%%",
    )
    habits.add_argument(
        "--clip_norm", type=float, default=0.0, metavar="NORM", help="the longest gradient of a step; 0: any"
    )
    habits.add_argument(
        "--accumulate",
        type=int,
        default=1,
        metavar="PARTS",
        help="compute each batch in so many parts, one after another, for batches that do not fit into memory",
    )
    habits.add_argument(
        "--ema", type=float, default=0.0, metavar="DECAY", help="evaluate and save averages of the weights, as 0.999"
    )
    parser.add_argument("--resume", action="store_true", help="go on from the file at --save_path, if it is there")
    parser.add_argument("--save_path", help=f"checkpoint file to write, after each epoch (default: {save_path})")
    add_writing_arguments(parser)
    add_task_argument(parser)
    add_loss_arguments(parser)
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


def add_tracker_argument(parser: argparse.ArgumentParser) -> None:
    """Where else numbers go."""
    parser.add_argument(
        "--log_to",
        nargs="+",
        default=[],
        metavar="TRACKER",
        help="also send numbers and settings to tensorboard:FOLDER, mlflow[:EXPERIMENT], wandb[:PROJECT], a tracker that a "
        "package adds, or package.module:Class; one or several",
    )


def recipe(args: argparse.Namespace) -> Recipe:
    """How to train, from the arguments, but for --warmup, whose steps are known when there are data."""
    return Recipe(
        epochs=args.epochs,
        batch_size=args.batch_size,
        lr=args.lr,
        lr_schedule=args.lr_schedule,
        seed=args.seed,
        optimizer=Optimizer(
            args.optimizer, args.momentum, args.weight_decay, args.clip_norm, args.accumulate, args.ema
        ),
        label_smoothing=args.label_smoothing,
        slimming=getattr(args, "slimming", 0.0),  # (a flag of train alone)
        validation=args.validation,
        early_stopping=args.early_stopping,
        keep_best=args.keep_best,
        augment_shift=args.augment_shift,
        augment_flip=args.augment_flip,
        augment=tuple(args.augment),
        oscillations=few_bits.oscillations(args)
        if "dampen" in args
        else None,  # (a flag of train-quant alone, as some below)
    )


def opened(args: argparse.Namespace, path: Path) -> Dataset:
    """The data as they are; before they are loaded, what can be wrong with the arguments.

    Args:
        args: of ``add_training_arguments``, and data_path.
        path: of the checkpoint that will be written.
    """
    _check_output(args, path)
    recipe(args)
    return read_data(args.data_path, args)


def prepared(args: argparse.Namespace, start: Checkpoint, dataset: Dataset) -> tuple[Dataset, Span]:
    """What a network is trained on, and how long that takes.

    Args:
        args: of ``add_training_arguments``, and data_path.
        start: the network, float or quantized.
        dataset: as ``opened`` gives it.
    """
    dataset = load_data(dataset, start, args)
    return dataset, span_of(dataset, recipe(args))


def train_and_save(
    args: argparse.Namespace, start: Checkpoint, dataset: Dataset, path: Path, objective: Objective | None = None
) -> Checkpoint:
    """Train further as the arguments say, save, print the metrics: what both training commands do.

    Args:
        args: of ``add_training_arguments``, and backend and device_target.
        start: what is trained.
        dataset: as ``prepared`` gives it.
        path: of the checkpoint that is written, and from which --resume goes on.
        objective: what is minimised in place of the task's loss.

    Returns:
        What was saved.
    """
    _settle_threads(args, path)
    plan = recipe(args)
    start = with_task(args, start)
    task = with_weights(args, start.task, start.graph, dataset)
    loss = loss_of(args, task, start.graph, dataset)
    if isinstance(dataset.train.labels, np.ndarray):  # others are in files, and looked at once, when training begins
        check_labels(start.graph, dataset, task)
    span = span_of(dataset, plan)
    plan = replace(plan, warmup=args.warmup.within(span))
    if "reestimate_bn" in args:
        held_back = len(dataset.train) - plan.validation
        plan = replace(plan, reestimate_bn=few_bits.reestimated_images(args, start.graph, held_back))
    delay = start.graph.quant_delay
    if start.graph.is_quantized and delay >= span.steps:
        raise QatError(
            f"quantization sets in after {delay} steps, but the training has {span}, so that nothing would be trained "
            "quantized; lower --quant_delay, as 10%, or train more epochs"
        )
    backend = qat.backend(
        args.backend
    )  # imports the framework, which takes seconds: not before what can be wrong is looked at
    start = _resumed(path, start) if args.resume else start
    if args.dry_run:
        backend.lower(start.graph, start.params, device_target=args.device_target)  # or its QatError, as for a device
    stop_if_dry(
        args,
        f"train {counted(plan.epochs, 'epoch')} of {counted(span.steps // max(plan.epochs, 1), 'step')} on {args.backend}, "
        f"batches of {plan.batch_size}, lr {plan.lr:g}" + (f", from epoch {start.epoch + 1}" if start.epoch else ""),
        reads=[(args.ckpt_path or args.network, of_graph(start.graph)), (args.data_path, of_data(dataset))],
        writes=[path, *filter(None, [args.log_path])],
    )
    teaching = _teaching(args, backend, start.graph, args.data_path)
    if teaching is not None:
        if objective is not None:
            raise QatError(
                "--teacher_ckpt with --bits_per_weight or --max_bops: only one at a time; leave one of them out"
            )
        objective = teaching.objective
        dataset = replace(dataset, train=replace(dataset.train, targets=teaching.targets))
    if "network" in args and args.ckpt_path is None:
        print_fitted(start.graph, dataset)
    with trackers.opened([] if this_worker().rank else args.log_to) as tracking:
        checkpoint = train(
            backend,
            start,
            dataset,
            plan,
            objective=objective,
            record={**({} if teaching is None else teaching.record), **told(args)},
            device_target=args.device_target,
            compile=args.compile,
            log_every=args.log_every.within(span, least=1),
            log_path=None if this_worker().rank else args.log_path,
            save=lambda checkpoint: checkpoint.save(path),
            save_every=args.save_every.within(span, least=1),
            task=task,
            loss=loss,
            trackers=tracking,
        )
        metrics = evaluate_metrics(backend, checkpoint, dataset.test, device_target=args.device_target)
        for tracker in tracking:
            tracker.log_metrics({f"test/{name}": value for name, value in metrics.items()}, checkpoint.step)
    if 0 < delay >= checkpoint.step:  # it stopped early, or an early epoch was the best
        note(f"{checkpoint.step} steps were trained, but quantization sets in after {delay}; lower --quant_delay")
    sparsity.report(checkpoint)
    few_bits.report(checkpoint)
    print_arithmetic(checkpoint.graph)
    print_metrics(task, metrics)
    note_if_guessing(metrics, dataset.test, start.graph.name, f"use another --lr than {args.lr:g}, or more --epochs")
    result(network=checkpoint.graph.name, epochs=checkpoint.epoch, steps=checkpoint.step, samples=len(dataset.test))
    wrote(path)
    return checkpoint


def _settle_threads(args: argparse.Namespace, path: Path) -> None:
    """Resume with the threads of before, since the bits depend on them; else say how many were chosen, where they were."""
    if args.chosen_threads is None:
        return
    history = Checkpoint.load(path).history if args.resume and path.exists() else ()
    before = history[0].get("threads") if history else None
    if isinstance(before, int):
        use_threads(before)
    print(f"threads: {threads_in_use()} (of {available_cores()} cores; --threads changes it)")


def _check_output(args: argparse.Namespace, path: Path) -> None:
    """Raise QatError where nothing could be written there, or for a flag that the commands do not serve."""
    if args.dataset_sink_mode:
        backend = qat.backend(args.backend)
        if not isinstance(backend, DataSink):
            raise QatError(
                f"--dataset_sink_mode true: --backend is {args.backend}, which has no data sink; leave it out, or choose "
                "--backend mindspore"
            )
        note(f"--dataset_sink_mode true: {backend.data_sink()}")
    check_checkpoint_path(path, {"--ckpt_path": args.ckpt_path, "--teacher_ckpt": args.teacher_ckpt}, "--save_path")
    check_outputs(args, path)
    if args.log_path:
        check_outputs(args, args.log_path)


def _resumed(path: Path, start: Checkpoint) -> Checkpoint:
    """What --resume goes on from: the file at ``path``, or ``start`` where there is none."""
    if not path.exists():
        note(f"there is no {path} to resume: the training begins at its first step")
        return start
    saved = Checkpoint.load(path)
    if _untracked(saved) != _untracked(start):  # training gives them their trackers
        if replace(saved.graph, arithmetic=start.graph.arithmetic) == start.graph:
            raise QatError(
                f"{path}: was begun in the {saved.graph.arithmetic} arithmetic; give --arithmetic {saved.graph.arithmetic} to "
                "go on, or leave --resume out"
            )
        raise QatError(
            f"{path}: holds another network than {start.graph.name}, or other settings of its quantizers, than asked for; give "
            "what it was begun with, or leave --resume out"
        )
    return saved


def _untracked(checkpoint: Checkpoint) -> Graph:
    """Its graph without trackers of oscillations."""
    return track_oscillations(checkpoint.graph, checkpoint.params, None)[0]


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
        teacher, flags = Checkpoint.load(args.teacher_ckpt), vars(args)
        if teacher.preparation is not None:  # it sees pictures as it learnt them; the flags are of the student
            flags = flags | dict.fromkeys(PREPARATION)
        images = load_data(data_path, teacher, argparse.Namespace(**flags)).train
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
