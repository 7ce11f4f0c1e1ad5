"""Where accuracy goes: a quantized checkpoint's integers against float, layer by layer, and what to do about it.

A table with the layers most to blame first, advice, a CSV file, a picture.
"""

from __future__ import annotations

import argparse
import csv
import io
import sys
from dataclasses import asdict

import numpy as np

from qat.analysis.choosing import NEAREST
from qat.analysis.diagnosed import Diagnosis, Layer
from qat.analysis.diagnosed import decibels as _db
from qat.analysis.diagnosis import diagnose
from qat.analysis.figures import COLOURS, Picture, check_picture, plain_text
from qat.analysis.float_outputs import calibrated_with, float_params
from qat.cli import run_script
from qat.console import note, print_table, result, wrote
from qat.data import Split
from qat.errors import QatError
from qat.files import check_writable, write_atomically
from qat.graph import Params
from qat.registry import evaluation_ops
from qat.scripts.common.files import load_checkpoint, load_data
from qat.scripts.common.flags import add_backend_arguments, add_checkpoint_argument, add_data_argument, seed
from qat.scripts.common.printing import print_arithmetic
from qat.tables import counted
from qat.training.checkpoint import Checkpoint

IMAGES = 128
COLUMNS = (
    "layer",
    "bits",
    "blame\n%",
    "SQNR\ndB",
    "own\ndB",
    "before\ndB",
    "cosine",
    "clip\n%",
    "codes\n%",
    "far",
    "dead",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's flags."""
    add_checkpoint_argument(parser, "quantized network")
    add_data_argument(parser, workers=True)
    add_backend_arguments(parser)
    parser.add_argument(
        "--float_ckpt",
        metavar="CKPT",
        help="the float checkpoint that it came from, to compare with (default: its own parameters in float)",
    )
    parser.add_argument("--split", choices=("test", "train"), default="test", help="the images")
    parser.add_argument(
        "--images", type=int, metavar="N", default=IMAGES, help="how many, at most all, chosen at random"
    )
    parser.add_argument("--seed", type=seed, default=0, help="seed of the choice of images")
    parser.add_argument("--top", type=int, metavar="N", default=20, help="rows of the table")
    parser.add_argument("--csv_path", metavar="FILE.csv", help="also write all that was measured as CSV")
    parser.add_argument("--picture_path", metavar="FILE.svg", help="also draw it, as .svg or .png (needs matplotlib)")


def run(args: argparse.Namespace) -> None:
    """Run the command."""
    checkpoint = load_checkpoint(args.ckpt_path, quantized=True)
    if args.top < 1:
        raise QatError(f"--top {args.top}: use a number of rows, at least 1")
    if args.csv_path:
        check_writable(args.csv_path)
    if args.picture_path:
        check_picture(args.picture_path)
    floats = _float_params(args.float_ckpt, checkpoint) if args.float_ckpt else None
    split = _chosen(args, getattr(load_data(args.data_path, checkpoint, args), args.split))
    ops = evaluation_ops(args.backend, args.device_target)
    found = diagnose(checkpoint, split.images, float_params=floats, ops=ops)
    data = f"{found.samples:,} {args.split} images"
    print_arithmetic(checkpoint.graph)
    moved = calibrated_with(checkpoint, "rounding") - {NEAREST, None}
    if floats is None and (moved or True in calibrated_with(checkpoint, "bias_correction")):
        what = "weights" if moved else "biases"
        note(
            f"its {what} were changed for its integers, so that in float it is not the network that it came from; "
            "give that as --float_ckpt"
        )
    for x in found.outputs:
        agrees = "" if x.agreement is None else f", same largest number {100 * x.agreement:.1f} %"
        result(f"{x.name}: SQNR {_db(x.sqnr)} dB, cosine {x.cosine:.5f}{agrees}", outputs=[asdict(x)])
    rows = found.by_blame
    shown = "" if len(rows) <= args.top else f", the first {args.top} of {counted(len(rows), 'layer')}"
    title = f"{found.network}: integers against float, {data}{shown}"
    print_table(title, COLUMNS, map(_row, rows[: args.top]), None)
    result(network=found.network, samples=found.samples, layers=[asdict(x) for x in rows])
    for advice in found.advice:
        result(f"advice: {advice.text}", advice=[advice.text])
    if args.csv_path:
        write_atomically(args.csv_path, _csv(found).encode())
        wrote(args.csv_path, "wrote")
    if args.picture_path:
        _picture(found, data).write(args.picture_path)
        wrote(args.picture_path, "wrote")


def _chosen(args: argparse.Namespace, split: Split) -> Split:
    if "images" not in args.given:
        args.images = min(args.images, len(split))
    if not 1 <= args.images <= len(split):
        raise QatError(
            f"--images {args.images}: there are {len(split)} {args.split} images; use a number from 1 to that"
        )
    return split.chosen(np.sort(np.random.default_rng(args.seed).permutation(len(split))[: args.images]))


def _float_params(path: str, quantized: Checkpoint) -> Params:
    """Of the float checkpoint, for the quantized one's graph."""
    checkpoint = load_checkpoint(path, quantized=False)
    try:
        return float_params(checkpoint, quantized)
    except QatError as error:
        raise QatError(f"--float_ckpt {path}: {error}") from None


def _row(x: Layer) -> tuple[str, ...]:
    return (
        x.name,
        f"{x.weight_bits or '-'}/{x.activation_bits}",
        f"{100 * x.blame:.1f}",
        _db(x.sqnr),
        _db(x.own),
        _db(x.inherited),
        f"{x.cosine:.4f}",
        f"{100 * x.clipped:.1f}",
        f"{100 * x.codes_used:.0f}",
        f"{x.far}:{x.worst:.0f}x" if x.far else "",
        str(x.dead) if x.dead else "",
    )


def _csv(found: Diagnosis) -> str:
    """All fields of all layers, in the order of the network, shares from 0 to 1."""
    text = io.StringIO()
    rows = [asdict(x) | {"weights": " ".join(x.weights)} for x in found.layers]
    write = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    write.writeheader()
    write.writerows({key: f"{x:.6g}" if isinstance(x, float) else x for key, x in row.items()} for row in rows)
    return text.getvalue()


def _picture(found: Diagnosis, data: str) -> Picture:
    """By layer, in the order of the network: SQNR of the integers, of the layer alone and of what it inherits; and blame."""
    layers = found.layers
    picture = Picture(9.0, 1.8 + 0.28 * len(layers), 1, 2, sharey=True, gridspec_kw={"width_ratios": [2, 1]})
    with picture:
        left, right = picture.axes[0]
        places = np.arange(len(layers))
        lines = {"integers": "sqnr", "its own": "own", "inherited": "inherited"}
        for (label, name), colour in zip(lines.items(), COLOURS, strict=False):
            values = np.array([getattr(x, name) for x in layers])
            finite = np.isfinite(values)
            left.plot(values[finite], places[finite], "o-", color=colour, label=label, markersize=4, linewidth=1)
        left.set_yticks(places, [plain_text(x.name) for x in layers])
        left.set_ylim(len(layers) - 0.5, -0.5)
        left.set(xlabel="SQNR in dB", title=plain_text(f"{found.network}: integers against float\n{data}"))
        left.legend(loc="best")
        right.barh(places, [100 * x.blame for x in layers], color=COLOURS[1], height=0.7)
        right.set(xlabel="blame in %")
        right.grid(axis="y", visible=False)
    return picture


if __name__ == "__main__":
    sys.exit(run_script(add_arguments, run, __doc__))
