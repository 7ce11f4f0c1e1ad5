"""What a network costs, layer by layer: parameters, multiply-accumulates, bit operations, bits, bytes, peak memory."""

from __future__ import annotations

import argparse
import sys

import qat
from qat.cli import run_script
from qat.errors import QatError
from qat.networks import create
from qat.scripts.common.quantization import QUANTIZATION, add_quantization_arguments, quantization_settings
from qat.scripts.common.report import print_summary
from qat.training.checkpoint import Checkpoint

SETTINGS = (*QUANTIZATION, "quant_config")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's flags."""
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--ckpt_path", help="checkpoint file of a float or quantized network")
    source.add_argument(
        "--network",
        help="a network without parameters, by name, or your own as package.module:Class, whose code is then run",
    )
    parser.add_argument(
        "--quantized",
        action="store_true",
        help="of a float network: as convert_quant_network makes it; any of the settings below says so too",
    )
    parser.add_argument(
        "--with_bias", action="store_true", help="count a convolution's bias as one MAC for each output"
    )
    add_quantization_arguments(parser)


def run(args: argparse.Namespace) -> None:
    """Run the command."""
    changed = [name for name in SETTINGS if name in args.given]
    if args.ckpt_path:
        checkpoint = Checkpoint.load(args.ckpt_path)
        graph, params = checkpoint.graph, checkpoint.params
    else:
        graph, params = create(args.network).graph(), {}
    if graph.is_quantized and (changed or args.quantized):
        flag = changed[0] if changed else "quantized"
        raise QatError(f"--{flag}: {args.ckpt_path} is quantized already, with settings of its own; leave it out")
    if not graph.is_quantized and (changed or args.quantized):
        graph = qat.convert_quant_network(graph, **quantization_settings(args))
        params = graph.observed_params() | params
    integers = qat.to_integer(graph, params) if graph.is_quantized else None
    print_summary(graph, params, integers, with_bias=args.with_bias)


if __name__ == "__main__":
    sys.exit(run_script(add_arguments, run, __doc__))
