"""Make a checkpoint, float or quantized, ready for a target: what export does, and of a float network its float file."""

from __future__ import annotations

import argparse
import sys

import qat
from qat.cli import run_script
from qat.deploy.interfaces import HoldsFloats
from qat.errors import QatError
from qat.registry import target_names
from qat.scripts import export
from qat.training.checkpoint import Checkpoint


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument(
        "--input_path", required=True, metavar="CKPT", help="checkpoint of a float or quantized network"
    )
    names = [name.lower() for name in target_names()]
    parser.add_argument("--target", choices=names, required=True, help="what it shall run as")
    parser.add_argument(
        "--output_path", required=True, metavar="FILE", help="file to write; its ending may be left out"
    )
    export.add_options(parser)


def run(args: argparse.Namespace) -> int:
    """``export``, with --float where the network is a float one."""
    args.file_format, args.arduino = args.target, None
    target = qat.target(args.target)  # or its QatError, before the checkpoint is read
    args.ckpt_path, args.file_name = args.input_path, args.output_path
    args.float = not Checkpoint.load(args.input_path).graph.is_quantized
    if args.float and not isinstance(target, HoldsFloats):
        raise QatError(
            f"{args.input_path}: holds a float network, and files of {args.target} hold integers; quantize it first (compress "
            "--data_path, calibrate or train-quant), or use --target onnx or tflite"
        )
    return export.run(args)


if __name__ == "__main__":
    sys.exit(run_script(add_arguments, run, __doc__))
