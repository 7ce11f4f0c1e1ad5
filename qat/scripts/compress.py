"""Quantize the weights of a checkpoint to few bits after training, and save a checkpoint that every other command takes.

Of a float network the weights alone become values of so many bits, and it stays a float network; with --data_path its
activations get 8 bits, calibrated on training images, so that it can be deployed in integers. A quantized network keeps its
activations.
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path

from qat.analysis.compression import compress, weight_sizes
from qat.cli import run_script
from qat.console import print_table, result, wrote
from qat.errors import QatError
from qat.quantizers import WeightQuantizer
from qat.scripts.common.calibration import add_calibration_arguments, calibrated
from qat.scripts.common.files import check_checkpoint_path, load_data
from qat.scripts.common.flags import (
    add_arithmetic_argument,
    add_backend_arguments,
    add_data_argument,
    arithmetic_settings,
    seed,
)
from qat.scripts.common.plan import add_writing_arguments, check_outputs, of_data, of_graph, stop_if_dry
from qat.scripts.common.printing import print_accuracies
from qat.scripts.common.quantization import check_arithmetic
from qat.training.checkpoint import Checkpoint

CALIBRATING = ("images", "method", "percentile", "bias_correction", "equalize", "rounding", "rounding_iterations")
QUANTIZERS = ("symmetric", "asymmetric", "power_of_two")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's flags."""
    parser.add_argument(
        "--input_path", required=True, metavar="CKPT", help="checkpoint of a float or quantized network"
    )
    parser.add_argument("--bits", type=int, required=True, help="of each weight")
    parser.add_argument(
        "--quantizer",
        choices=QUANTIZERS,
        default="symmetric",
        help="codes around 0, codes from the smallest to the largest weight, or codes around 0 with a power of two as scale",
    )
    parser.add_argument("--per_channel", action="store_true", help="a scale for each output channel")
    parser.add_argument(
        "--output_path", metavar="CKPT", help="checkpoint to write (default: <input_path>_compressed.ckpt)"
    )
    add_data_argument(parser, required=False, otherwise="none: activations stay as they are", workers=True)
    add_backend_arguments(parser)
    parser.add_argument("--seed", type=seed, default=0, help="seed of the choice of images")
    add_arithmetic_argument(parser, "that of the checkpoint; of a float one float")
    add_calibration_arguments(parser)
    add_writing_arguments(parser)


def run(args: argparse.Namespace) -> None:
    """Run the command."""
    if args.bits == 1:
        raise QatError(
            "--bits 1: only training gets along with one bit; use 2 to 16, or train-quant --weight_quantizer binary"
        )
    quantizer = WeightQuantizer(
        args.bits,
        symmetric=args.quantizer != "asymmetric",
        per_channel=args.per_channel,
        power_of_two=args.quantizer == "power_of_two",
    )
    checkpoint = Checkpoint.load(args.input_path)
    if checkpoint.graph.is_quantized:
        check_arithmetic(args, args.input_path, checkpoint.graph)
    elif args.arithmetic is not None and not args.data_path:
        raise QatError(
            "--arithmetic: activations stay real numbers without --data_path, and their sums become no codes; give it, or "
            "leave --arithmetic out"
        )
    if not args.data_path:
        unused = [name for name in CALIBRATING if name in args.given]
        if unused:
            raise QatError(
                f"--{unused[0]}: says how activations are calibrated, on images; give --data_path, or leave it out"
            )
    source = Path(args.input_path)
    path = Path(args.output_path or source.with_name(f"{source.stem}_compressed{source.suffix}"))
    check_checkpoint_path(path, {"--input_path": args.input_path}, "--output_path")
    check_outputs(args, path)
    dataset = load_data(args.data_path, checkpoint, args) if args.data_path else None
    stop_if_dry(
        args,
        f"quantize weights: {quantizer}" + ("" if dataset is None else ", and calibrate activations"),
        reads=[
            (args.input_path, of_graph(checkpoint.graph)),
            *([(args.data_path, of_data(dataset))] if dataset else []),
        ],
        writes=[path],
    )
    if dataset is None or checkpoint.graph.is_quantized:
        found = compress(checkpoint, quantizer)
    else:
        found = calibrated(args, checkpoint, dataset, weight_quantizer=quantizer, **arithmetic_settings(args))
    found.save(path)
    print_sizes(checkpoint, found, quantizer)
    if dataset is not None:
        print_accuracies(args, checkpoint, found, dataset)
    elif not found.graph.is_quantized:
        print("activations stay real numbers; with --data_path they get 8 bits, and the network can run in integers")
    wrote(path)


def print_sizes(before: Checkpoint, after: Checkpoint, quantizer: WeightQuantizer) -> None:
    """A table of the weights' bits and bytes; bytes count what is stored beside a layer's codes, too."""
    old = weight_sizes(before.graph, before.params)
    new = weight_sizes(after.graph, after.params, quantizer)

    def stored(bits: int) -> str:
        return f"{math.ceil(bits / 8):,}"

    rows: list[tuple[str, ...]] = [
        (a.name, f"{a.numbers:,}", str(a.bits), str(b.bits), stored(a.total_bits), stored(b.total_bits))
        for a, b in zip(old, new, strict=True)
    ]
    totals = [sum(size.total_bits for size in sizes) for sizes in (old, new)]
    rows.append(("all", f"{sum(size.numbers for size in old):,}", "", "", *map(stored, totals)))
    print_table(
        f"Weights, {quantizer}", ("layer", "weights", "bits before", "after", "bytes before", "after, packed"), rows
    )
    text = f"weights: {totals[0]:,} bits -> {totals[1]:,} bits, {totals[0] / totals[1]:.2f} times smaller"
    result(text, weight_bits_before=totals[0], weight_bits=totals[1])


if __name__ == "__main__":
    sys.exit(run_script(add_arguments, run, __doc__))
