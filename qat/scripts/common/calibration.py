"""Flags of post-training quantization, and the calibration that they ask for."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from qat.analysis.calibration import calibrate
from qat.analysis.choosing import FEWEST, check_percentile
from qat.analysis.ranges import METHODS
from qat.console import print_table
from qat.data import Dataset
from qat.errors import QatError
from qat.registry import evaluation_ops
from qat.scripts.common.flags import boolean
from qat.training.checkpoint import Checkpoint
from qat.vocabulary.arrays import as_arrays, as_tuple

AUTO = "auto"  #: of --method: chosen


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
        ("equalize", "equalize weights from channel to channel before"),
    ):
        calibration.add_argument(
            f"--{name}",
            type=boolean,
            nargs="?",
            const=True,
            metavar="BOOL",
            help=f"{text} (default: where the outputs err less with it)",
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


def calibrated(args: argparse.Namespace, checkpoint: Checkpoint, dataset: Dataset, **settings: Any) -> Checkpoint:
    """A float checkpoint quantized as the arguments say. settings: of convert_quant_network."""
    check_calibration(args, dataset)
    chosen = np.sort(np.random.default_rng(args.seed).permutation(len(dataset.train))[: args.images])
    result = calibrate(
        checkpoint.graph,
        checkpoint.params,
        as_arrays(tuple(x[chosen] for x in as_tuple(dataset.train.images))),
        method=None if args.method == AUTO else args.method,
        percentile=args.percentile,
        bias_correction=args.bias_correction,
        equalize=args.equalize,
        ops=evaluation_ops(args.backend, args.device_target),
        **settings,
    )
    record = {"calibration": result.history[0]["calibration"] | {"seed": args.seed}}
    print_decisions(record["calibration"])
    return replace(
        result,
        history=(record, *checkpoint.history),
        preparation=dataset.preparation or checkpoint.preparation,
        task=checkpoint.task,
    )


def print_decisions(record: Mapping[str, Any]) -> None:
    """What a calibration chose by itself, and by what. record: as it stands in a checkpoint's history."""
    if record["decisions"]:
        rows = [
            (
                decision["setting"],
                name,
                "exact" if sqnr is None else f"{sqnr:.2f}",
                "chosen" * (name == decision["chosen"]),
            )
            for decision in record["decisions"]
            for name, sqnr in decision["sqnr"].items()
        ]
        images = f"{record['held_back']:,} of {record['images']:,} images"
        print_table(f"Chosen by the outputs' SQNR on {images}", ("setting", "value", "SQNR in dB", ""), rows)
    elif record["images"] < FEWEST:
        print(
            f"{record['images']} images are too few to choose settings by; of {FEWEST} and more some would be held back"
        )
