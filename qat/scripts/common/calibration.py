"""Flags of post-training quantization, and the calibration that they ask for."""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import Any

import numpy as np

from qat.analysis.calibration import calibrate, check_percentile
from qat.analysis.ranges import METHODS
from qat.data import Dataset
from qat.errors import QatError
from qat.registry import evaluation_ops
from qat.training.checkpoint import Checkpoint
from qat.vocabulary.arrays import as_arrays, as_tuple


def add_calibration_arguments(parser: argparse.ArgumentParser) -> None:
    """How ranges are found without training."""
    calibration = parser.add_argument_group("calibration", "on training images, never on test images")
    calibration.add_argument("--images", type=int, default=1000, help="how many, at most all, chosen at random")
    calibration.add_argument("--method", choices=METHODS, default="minmax", help="how an activation's range is found")
    calibration.add_argument(
        "--percentile", type=float, default=99.99, metavar="PERCENT", help="of the method of that name"
    )
    calibration.add_argument(
        "--bias_correction", action="store_true", help="take the mean error of each channel out of its bias"
    )
    calibration.add_argument("--equalize", action="store_true", help="equalize channels before, by factors that cancel")


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
        method=args.method,
        percentile=args.percentile,
        bias_correction=args.bias_correction,
        equalize=args.equalize,
        ops=evaluation_ops(args.backend, args.device_target),
        **settings,
    )
    names = ("images", "seed", "method", "percentile", "bias_correction", "equalize")
    record = {"calibration": {name: getattr(args, name) for name in names}}
    return replace(
        result,
        history=(record, *checkpoint.history),
        preparation=dataset.preparation or checkpoint.preparation,
        task=checkpoint.task,
    )
