"""Flags of post-training quantization, and the calibration that they ask for."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from qat.analysis.calibration import calibrate
from qat.analysis.choosing import FEWEST, LEARNED, ROUNDINGS, check_percentile
from qat.analysis.ranges import METHODS
from qat.analysis.rounding import LearnedRounding
from qat.console import Column, print_table
from qat.data import Dataset
from qat.errors import QatError
from qat.registry import evaluation_ops
from qat.scripts.common.flags import boolean
from qat.scripts.common.printing import told
from qat.tables import counted
from qat.training.checkpoint import Checkpoint
from qat.vocabulary.arrays import Arrays, as_arrays, as_tuple

AUTO = "auto"  #: of --method and --rounding: chosen


def add_calibration_arguments(parser: argparse.ArgumentParser) -> None:
    """How ranges are found without training."""
    calibration = parser.add_argument_group("calibration", "on training images, never on test images")
    calibration.add_argument("--images", type=int, default=1000, help="how many, at most all, chosen at random")
    calibration.add_argument(
        "--method",
        choices=(AUTO, *METHODS),
        default=AUTO,
        help="how an activation's range is found; auto: it is chosen",
    )
    calibration.add_argument(
        "--percentile", type=float, default=99.99, metavar="PERCENT", help="of the method of that name"
    )
    for name, text in (
        ("bias_correction", "take the mean error of each channel out of its bias"),
        ("equalize", "equalize channels before, by factors that cancel"),
    ):
        calibration.add_argument(
            f"--{name}",
            type=boolean,
            nargs="?",
            const=True,
            metavar="BOOL",
            help=f"{text} (default: where the outputs err less with it)",
        )
    calibration.add_argument(
        "--rounding",
        choices=(AUTO, *ROUNDINGS),
        default=AUTO,
        help="of weights: to the nearest code, by the moments of what layers take, or learned block by block; auto: one of "
        "the first two, where the outputs err less with it",
    )
    calibration.add_argument(
        "--rounding_iterations",
        type=int,
        default=LearnedRounding.iterations,
        metavar="N",
        help="of each block, where rounding is learned",
    )


def check_calibration(args: argparse.Namespace, dataset: Dataset) -> None:
    """Raise QatError where the arguments ask for what is not there, before anything is trained."""
    if "images" not in args.given:
        args.images = min(args.images, len(dataset.train))
    if not 1 <= args.images <= len(dataset.train):
        raise QatError(
            f"--images {args.images}: {dataset.source} has {len(dataset.train)} training images; use a number from 1 to that"
        )
    check_percentile(args.percentile)
    if "percentile" in args.given and args.method not in (AUTO, "percentile"):
        raise QatError("--percentile is of the method of that name; add --method percentile, or leave it out")
    if args.rounding == LEARNED:
        learned_rounding(args)
    elif "rounding_iterations" in args.given:
        raise QatError("--rounding_iterations is of learned rounding; add --rounding learned, or leave it out")


def learned_rounding(args: argparse.Namespace) -> LearnedRounding:
    """What the arguments ask for. Raises QatError where they are out of range."""
    return LearnedRounding(args.rounding_iterations, seed=args.seed, backend=args.backend)


def calibration_images(args: argparse.Namespace, dataset: Dataset) -> Arrays:
    """The training images that calibrate, chosen at random."""
    chosen = np.sort(np.random.default_rng(args.seed).permutation(len(dataset.train))[: args.images])
    return as_arrays(tuple(x[chosen] for x in as_tuple(dataset.train.images)))


def wanted(value: str) -> str | None:
    """What ``calibrate`` is given for a flag; None where it is to choose."""
    return None if value == AUTO else value


def calibrated(args: argparse.Namespace, checkpoint: Checkpoint, dataset: Dataset, **settings: Any) -> Checkpoint:
    """A float checkpoint quantized as the arguments say. settings: of convert_quant_network."""
    check_calibration(args, dataset)
    result = calibrate(
        checkpoint.graph,
        checkpoint.params,
        calibration_images(args, dataset),
        method=wanted(args.method),
        percentile=args.percentile,
        bias_correction=args.bias_correction,
        equalize=args.equalize,
        rounding=learned_rounding(args) if args.rounding == LEARNED else wanted(args.rounding),
        ops=evaluation_ops(args.backend, args.device_target),
        **settings,
    )
    record: dict[str, Any] = dict(result.history[0])
    record["calibration"] |= {"seed": args.seed}
    print_calibration(record)
    return replace(
        result,
        history=(record | told(args), *checkpoint.past),
        preparation=dataset.preparation or checkpoint.preparation,
        task=checkpoint.task,
    )


def print_calibration(record: Mapping[str, Any]) -> None:
    """What a calibration chose and learned. record: the first one of the checkpoint's history."""
    print_decisions(record["calibration"])
    if "rounding" in record:
        title = "learned rounding: squared error of a block's outputs, in % of them squared"
        print_table(title, *rounded_rows(record["rounding"]), key="rounding")


def rounded_rows(record: Mapping[str, Any]) -> tuple[list[Column], list[Sequence[Any]]]:
    """What became of each block, as the columns and rows of a table. record: of a checkpoint's history."""
    columns = [
        Column("block"),
        Column("nearest", form=lambda share: f"{100 * share:.3f}"),
        Column("learned", form=lambda share: f"{100 * share:.3f}"),
        Column("kept"),
        Column("changed", form=lambda share: f"{100 * share:.1f} %"),
        Column("iterations"),
    ]
    keys = ("name", "before", "after", "kept", "changed", "iterations")
    return columns, [tuple(block[key] for key in keys) for block in record["blocks"]]


def print_decisions(record: Mapping[str, Any]) -> None:
    """What a calibration chose by itself, and by what. record: as it stands in a checkpoint's history."""
    if record["decisions"]:
        rows = [
            (decision["setting"], name, "exact" if sqnr is None else sqnr, name == decision["chosen"])
            for decision in record["decisions"]
            for name, sqnr in decision["sqnr"].items()
        ]
        images = f"{record['held_back']:,} of {counted(record['images'], 'image')}"
        columns = [
            Column("setting"),
            Column("value"),
            Column("SQNR in dB", form=lambda sqnr: sqnr if isinstance(sqnr, str) else f"{sqnr:.2f}"),
            Column("", "chosen", lambda chosen: "chosen" * chosen),
        ]
        print_table(f"Chosen by the outputs' SQNR on {images}", columns, rows, "decisions")
    elif record["images"] < FEWEST:
        few = f"{counted(record['images'], 'image')} {'is' if record['images'] == 1 else 'are'}"
        print(f"{few} too few to choose settings by; of {FEWEST} and more some would be held back")
