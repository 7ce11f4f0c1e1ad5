"""Write a checkpoint as a file for deployment, and certify that its runtime computes the integers of training."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import qat
from qat.cli import run_script
from qat.deploy.verify import arithmetic_options, default_arithmetic, export_verified
from qat.errors import QatError
from qat.integer.widths import PACKINGS
from qat.registry import TARGETS
from qat.scripts.common.files import load_checkpoint, load_data, output_path
from qat.scripts.common.flags import (
    add_arithmetic_argument,
    add_backend_arguments,
    add_checkpoint_argument,
    add_data_argument,
)
from qat.scripts.common.printing import print_certificate
from qat.scripts.common.report import print_summary
from qat.training.checkpoint import Checkpoint

OPTIONS = ("weights", "packing")  #: of single formats


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_checkpoint_argument(parser, "quantized network (with --float: float network)")
    parser.add_argument("--file_format", choices=list(TARGETS), default="ONNX", help="what to write")
    parser.add_argument("--file_name", required=True, help="file to write; its ending may be left out")
    parser.add_argument("--float", action="store_true", help="write a float network as it is, to compare with")
    add_options(parser)


def add_options(parser: argparse.ArgumentParser) -> None:
    """How a file is written and verified."""
    add_arithmetic_argument(parser)
    parser.add_argument(
        "--weights",
        choices=("int8", "uint8"),
        help="of ONNX: how weights are stored; uint8 for x86 CPUs without VNNI, elsewhere up to twice slower (default: int8)",
    )
    parser.add_argument(
        "--packing",
        choices=PACKINGS,
        help="of ONNX, TFLITE and C: weights of 4 bits and fewer several to a byte, or one as older runtimes want it "
        "(default: packed)",
    )
    parser.add_argument("--no_verify", action="store_true", help="write the file without a certificate")
    add_data_argument(parser, required=False)
    add_backend_arguments(parser)


def run(args: argparse.Namespace) -> int:
    target = qat.target(args.file_format)
    options = {name: getattr(args, name) for name in OPTIONS if getattr(args, name) is not None}
    for name in options:
        if name not in TARGETS[args.file_format].options:
            raise QatError(f"--{name}: format {args.file_format} has no such choice; leave it out")
    path = output_path(args.file_name, TARGETS[args.file_format].suffix)
    if args.float:
        if args.arithmetic not in (None, "float"):
            raise QatError(
                "--arithmetic: a float network (--float) has no integers, and so no choice of it; leave one of the two out"
            )
        if options or not hasattr(target, "export_float"):
            what = (
                f"--{next(iter(options))} is of quantized networks" if options else "it holds quantized networks only"
            )
            raise QatError(f"--float: {args.file_format}: {what}; leave it out, or choose --file_format ONNX")
        checkpoint = load_checkpoint(args.ckpt_path, quantized=False)
        target.export_float(checkpoint.graph, checkpoint.params, path)
        print(f"wrote {path}, {path.stat().st_size:,} bytes, float")
        return 0
    checkpoint = load_checkpoint(args.ckpt_path, quantized=True)
    integers = qat.to_integer(checkpoint.graph, checkpoint.params)
    if args.no_verify:
        options |= arithmetic_options(target, args.arithmetic or default_arithmetic(target))
        target.export(integers, path, **options)
        print(f"wrote {path}, {path.stat().st_size:,} bytes, not verified")
        print_summary(checkpoint.graph, checkpoint.params, integers, packing=args.packing or PACKINGS[0])
        return 0
    backend = qat.backend(args.backend)
    dataset = load_data(args.data_path or _trained_on(args.ckpt_path, checkpoint), checkpoint.graph)
    certificate = export_verified(
        path,
        target,
        backend,
        checkpoint,
        dataset.test,
        data=f"{dataset.name}, test images",
        device_target=args.device_target,
        arithmetic=args.arithmetic,
        options=options,
        integers=integers,
    )
    print(f"wrote {path}, {path.stat().st_size:,} bytes")
    print_summary(checkpoint.graph, checkpoint.params, integers, packing=args.packing or PACKINGS[0])
    print_certificate(certificate)
    return 0 if certificate.passed else 1


def _trained_on(ckpt_path: str, checkpoint: Checkpoint) -> str:
    """The data path that the checkpoint remembers. Raises QatError where it is gone."""
    for record in checkpoint.history:
        data_path = record.get("data_path")
        if isinstance(data_path, str) and data_path and (data_path == "digits" or Path(data_path).is_dir()):
            return str(data_path)
    remembers = any("data_path" in record for record in checkpoint.history)
    found = (
        "the images it was trained on are not where they were" if remembers else "does not say what it was trained on"
    )
    raise QatError(
        f"{ckpt_path}: {found}, and the certificate needs images; give --data_path, or --no_verify to do without a certificate"
    )


if __name__ == "__main__":
    sys.exit(run_script(add_arguments, run, __doc__))
