"""The accuracy, or another metric, lost with the weights of each layer alone at few bits, without training.

A table, a CSV file, a picture.
"""

from __future__ import annotations

import argparse
import csv
import io
import sys

import numpy as np

import qat
from qat.analysis.figures import check_picture, heat_map
from qat.analysis.metrics import parameters
from qat.analysis.sensitivity import BITS, Sensitivity, sensitivity
from qat.cli import run_script
from qat.console import Column, count, print_table, result, wrote
from qat.errors import QatError
from qat.files import check_writable, write_atomically
from qat.graph import Graph, Params
from qat.scripts.common.files import load_checkpoint, load_data
from qat.scripts.common.flags import add_backend_arguments, add_checkpoint_argument, add_data_argument, boolean
from qat.tables import counted
from qat.tasks import main
from qat.training.checkpoint import Checkpoint
from qat.training.loop import check_labels, evaluate_metrics


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's flags."""
    add_checkpoint_argument(parser, "float network")
    add_data_argument(parser, workers=True)
    add_backend_arguments(parser)
    parser.add_argument(
        "--bits", type=int, nargs="+", default=list(BITS), metavar="BITS", help="widths to try, 1 to 16"
    )
    parser.add_argument(
        "--per_channel", type=boolean, default=True, metavar="BOOL", help="a scale for each output channel"
    )
    parser.add_argument(
        "--split",
        choices=("test", "train"),
        default="test",
        help="the images; train where widths are to be chosen by the result",
    )
    parser.add_argument("--images", type=int, metavar="N", help="the first N of them alone (default: all)")
    parser.add_argument("--csv_path", metavar="FILE.csv", help="also write the accuracies as CSV")
    parser.add_argument("--picture_path", metavar="FILE.png", help="also draw the losses (needs matplotlib)")


def run(args: argparse.Namespace) -> None:
    """Run the command."""
    checkpoint = load_checkpoint(args.ckpt_path, quantized=False)
    if args.csv_path:
        check_writable(args.csv_path)
    if args.picture_path:
        check_picture(args.picture_path)
    backend, task = qat.backend(args.backend), checkpoint.task
    dataset = load_data(args.data_path, checkpoint, args)
    check_labels(checkpoint.graph, dataset, task)
    split = getattr(dataset, args.split)
    samples = len(split) if args.images is None else args.images
    if not 1 <= samples <= len(split):
        raise QatError(f"--images {samples}: there are {len(split)} {args.split} images; use a number from 1 to that")
    split = split.chosen(np.arange(samples)).in_memory()
    metric, _ = main(evaluate_metrics(backend, checkpoint, split, device_target=args.device_target))

    def measured(graph: Graph, params: Params) -> float:
        each = Checkpoint(graph, params, task=task)
        return evaluate_metrics(backend, each, split, device_target=args.device_target)[metric]

    found = sensitivity(
        checkpoint.graph,
        checkpoint.params,
        measured,
        bits=args.bits,
        per_channel=args.per_channel,
        higher_is_better=task.higher_is_better(metric),
    )
    name, percent = task.label(metric, short=True), task.is_percent(metric)
    factor, unit = (100.0, "percentage points") if percent else (1.0, "its own unit")
    title = f"{checkpoint.graph.name}: {name} lost with one layer's weights at few bits, in {unit}"
    data = f"float {task.value(metric, found.baseline)}, {samples:,} {args.split} images"
    counts = parameters(checkpoint.graph)
    digits = "+.2f" if percent else "+.4g"
    rows = [(layer, counts[layer], *(found.lost(layer, bits) for bits in args.bits)) for layer in found.accuracy]
    columns = [Column("layer"), Column("parameters", form=count)]
    for bits in args.bits:
        heading = counted(bits, "bit")
        columns.append(Column(heading, f"lost_{bits}_bits", lambda lost: f"{factor * lost:{digits}}"))
    result(network=checkpoint.graph.name, metric=metric, baseline=found.baseline, samples=samples)
    print_table(f"{title} ({data})", columns, rows, "layers")
    if args.csv_path:
        write_atomically(args.csv_path, _csv(found, args.bits, name).encode())
        wrote(args.csv_path, "wrote")
    if args.picture_path:
        losses = [[factor * found.lost(layer, bits) for bits in args.bits] for layer in found.accuracy]
        picture = heat_map(
            losses,
            list(found.accuracy),
            list(map(str, args.bits)),
            title=f"{checkpoint.graph.name}: sensitivity of single layers\n{data}",
            x_label="bits of the layer's weights",
            y_label="layer",
            unit=f"{name} lost ({unit})",
        )
        picture.write(args.picture_path)
        wrote(args.picture_path, "wrote")


def _csv(result: Sensitivity, bits: list[int], name: str = "accuracy") -> str:
    """One line for each layer and width; accuracies from 0 to 1."""
    text = io.StringIO()
    write = csv.writer(text, lineterminator="\n").writerow
    write(("layer", "bits", name, "lost"))
    write(("", "float", f"{result.baseline:.6g}", "0"))
    for layer, found in result.accuracy.items():
        for width in bits:
            write((layer, width, f"{found[width]:.6g}", f"{result.lost(layer, width):.6g}"))
    return text.getvalue()


if __name__ == "__main__":
    sys.exit(run_script(add_arguments, run, __doc__))
