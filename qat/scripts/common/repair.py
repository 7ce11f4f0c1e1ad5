"""Flags of the automatic repair of a calibrated network, the search that they ask for, and what it prints."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from qat.analysis.candidates import WEIGHTS
from qat.analysis.choosing import NEAREST
from qat.analysis.deciding import amount
from qat.analysis.repair import FEWEST as CHOICES
from qat.analysis.repair import chosen_in, repair
from qat.analysis.repaired import Raised, Repair, TargetMissedError
from qat.console import print_table, result, silent
from qat.data import Dataset
from qat.errors import QatError
from qat.registry import evaluation_ops, target_names
from qat.scripts.common.calibration import AUTO, calibrated, calibration_images, check_calibration, print_calibration
from qat.tables import counted
from qat.training.checkpoint import Checkpoint

TARGETS = ("target_drop", "target_sqnr")  #: one of which asks for a repair
DECIDE_IMAGES = 1000
WIDTH = 80  #: characters of a line of the table; names of layers are cut where they would make it longer
FEWEST = 12  #: characters of such a name


def add_repair_arguments(parser: argparse.ArgumentParser) -> None:
    """--target_drop and what belongs to it."""
    group = parser.add_argument_group(
        "repair", "the fewest layers get more bits until the network loses no more than a target ('qat help diagnosis')"
    )
    group.add_argument(
        "--target_drop",
        type=float,
        metavar="POINTS",
        help="the most that the task's main metric may lose against float on training images: of one in percent in "
        "percentage points, else in its own unit",
    )
    group.add_argument("--target_sqnr", type=float, metavar="DB", help="in its place: the least SQNR of every output")
    group.add_argument("--size_budget", type=int, metavar="BYTES", help="of all weights with their scales, at most")
    group.add_argument("--bops_budget", type=int, metavar="N", help="bit operations for one sample, at most")
    group.add_argument(
        "--fewest", choices=CHOICES, default=CHOICES[0], help="what is to be few, as far as budgets allow it"
    )
    group.add_argument(
        "--targets",
        nargs="+",
        choices=target_names(),
        default=[],
        metavar="FORMAT",
        help="file formats that it is for; where all of them take activations of 16 bits, these are tried, too",
    )
    group.add_argument(
        "--decide_images",
        type=int,
        default=DECIDE_IMAGES,
        metavar="N",
        help="training images to decide on, at most all, chosen at random; those that calibrate where there are too few "
        "others",
    )


def wants_repair(args: argparse.Namespace) -> bool:
    """Whether a target was given. Raises QatError where only what belongs to it was."""
    if any(getattr(args, name) is not None for name in TARGETS):
        return True
    alone = next(
        (x for x in ("size_budget", "bops_budget", "fewest", "targets", "decide_images") if x in args.given), None
    )
    if alone:
        raise QatError(f"--{alone} is of a repair, which nothing asks for; add --target_drop, or leave it out")
    return False


def repaired(args: argparse.Namespace, checkpoint: Checkpoint, dataset: Dataset, settings: dict[str, Any]) -> Repair:
    """A float checkpoint calibrated as the arguments say, with the fewest layers raised, and a table of these.

    Raises:
        TargetMissedError: behind the table of the best that was found.
        QatError: for wrong arguments.
    """
    check_calibration(args, dataset)
    count = len(dataset.train)
    most = args.decide_images if "decide_images" in args.given else min(args.decide_images, count)
    if not 1 <= most <= count:
        raise QatError(
            f"--decide_images {most}: {dataset.source} has {count} training images; use a number from 1 to that"
        )
    order = np.random.default_rng(args.seed).permutation(count)  # whose first ones calibrate
    decide_on = dataset.train.chosen(np.sort(order[count - most :])).in_memory()
    both = max(0, most + args.images - count)
    print(f"deciding on {counted(most, 'training image')}" + (f", {both:,} of which calibrate too" if both else ""))
    found = _Calibrations(args, checkpoint, dataset)
    if found.refines:
        print(
            'searching with nearest codes and one choice of calibration; "as it is saved": calibrated as the flags say'
        )
    try:
        result = repair(
            checkpoint,
            calibration_images(args, dataset),
            decide_on=decide_on,
            target_drop=args.target_drop,
            target_sqnr=args.target_sqnr,
            size_budget=args.size_budget,
            bops_budget=args.bops_budget,
            fewest=args.fewest,
            targets=args.targets,
            quantize=found.quantize,
            refine=found.refine if found.refines else None,
            ops=evaluation_ops(args.backend, args.device_target),
            progress=lambda line: print(line, flush=True),
            **settings,
        )
    except TargetMissedError as error:
        print_repair(error.best, bops=args.bops_budget is not None)
        raise TargetMissedError(f"--{error}; nothing was written", error.best) from None
    print_calibration(result.checkpoint.history[0])
    print_repair(result, bops=args.bops_budget is not None)
    return result


class _Calibrations:
    """What ``calibrated`` makes of settings, silently: in the search alike in all that is chosen, and with nearest codes."""

    def __init__(self, args: argparse.Namespace, checkpoint: Checkpoint, dataset: Dataset) -> None:
        self._args, self._checkpoint, self._dataset = args, checkpoint, dataset
        self._alike = argparse.Namespace(**vars(args))
        self._alike.rounding = NEAREST
        self._alike.given = {name for name in args.given if not name.startswith("rounding")}
        chooses = args.method == AUTO or None in (args.equalize, args.bias_correction)
        self.refines = chooses or args.rounding != NEAREST

    def quantize(self, **settings: Any) -> Checkpoint:
        """For the search."""
        found = self._calibrated(self._alike, settings)
        for name, value in chosen_in(found).items():
            setattr(self._alike, name, value)
        return found

    def refine(self, **settings: Any) -> Checkpoint:
        """For the result: as all arguments say, so that the command repeats it with the same settings."""
        return self._calibrated(self._args, settings)

    def _calibrated(self, args: argparse.Namespace, settings: dict[str, Any]) -> Checkpoint:
        with silent():
            return calibrated(args, self._checkpoint, self._dataset, **settings)


def print_repair(found: Repair, *, bops: bool = False) -> None:
    """The layers that were raised and why, and what it costs."""
    unit = found.unit or "its own unit"
    measured = "missing" if found.measure == "SQNR" else "drop"
    columns = (
        "layer",
        "from\nbits",
        "to\nbits",
        "blame\n%",
        "bytes\nafter",
        *(("BOPs\nafter",) if bops else ()),
        f"{measured}\nafter",
    )
    rows = [_row(x, found.unit, bops) for x in found.raised]
    widths = [max(map(len, [*heading.split("\n"), *cells])) for heading, *cells in zip(columns, *rows, strict=True)]
    longest = max(FEWEST, WIDTH - sum(width + 3 for width in widths[1:]) - 4)
    rows = [(x[0] if len(x[0]) <= longest else f"..{x[0][2 - longest :]}", *x[1:]) for x in rows]
    if rows:
        title = f"{found.checkpoint.graph.name}: raised, one after another ({measured} in {unit})"
        print_table(title, columns, rows, None)
    else:
        result("nothing raised: the target is met without")
    keys = ("layer", "what", "before", "after", "blame", "weight_bytes", "bops", "drop")
    result(raised=[{key: getattr(x, key) for key in keys} for x in found.raised])
    drop = f"{amount(found.drop, found.unit)} {found.unit}".rstrip()
    without = f"{amount(found.drop_before, found.unit)} with nothing raised"
    error = "" if found.standard_error is None else f", standard error {amount(found.standard_error, found.unit)}"
    result(
        f"{measured}: {drop} on {counted(found.samples, 'training image')}{error}; {without}",
        drop=found.drop,
        drop_before=found.drop_before,
        drop_unit=found.unit or None,
    )
    others = (
        f"; {found.weight_bytes_before:,} with nothing raised, {found.weight_bytes_most:,} with all that may be"
        if rows
        else ""
    )
    result(f"weights: {found.weight_bytes:,} bytes{others}", weight_bytes=found.weight_bytes)


def _row(x: Raised, unit: str, bops: bool) -> tuple[str, ...]:
    letter = "w" if x.what == WEIGHTS else "a"
    return (
        x.layer,
        f"{letter} {_short(x.before)}",
        _short(x.after),
        f"{100 * x.blame:.1f}",
        f"{x.weight_bytes:,}",
        *((f"{x.bops:,}",) if bops else ()),
        "" if x.drop is None else amount(x.drop, unit),
    )


def _short(level: str) -> str:
    """A level below a heading that says that these are bits."""
    return level.replace(" bits", "").replace(",", "")


def config_path(path: Path) -> Path:
    """Of the settings that repeat a repair: beside its checkpoint."""
    return path.with_name(f"{path.stem}_quant.yaml")
