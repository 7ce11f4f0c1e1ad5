"""Quantization-aware training: start from a float checkpoint, insert fake quantizers, train on, save."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import qat
from qat.cells.linear import NEVER
from qat.checkpoint import Checkpoint
from qat.cli import run_script
from qat.passes.convert_quant_network import PROFILES
from qat.quant_config import read_quant_config
from qat.scripts import common

SETTINGS = (
    "num_bits",
    "per_channel",
    "symmetric",
    "narrow_range",
    "quant_delay",
    "bn_fold",
    "one_conv_fold",
    "freeze_bn",
    "ema_decay",
    "profile",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    common.add_data_argument(parser)
    common.add_checkpoint_argument(parser, "float network")
    common.add_backend_arguments(parser)
    common.add_training_arguments(parser, lr=0.01, save_path="<ckpt_path>_quant.ckpt")
    quantization = parser.add_argument_group("quantization", "one value, or two: of weights and of activations")
    quantization.add_argument("--quant_config", metavar="FILE.yaml", help="settings for all and for single layers")
    quantization.add_argument(
        "--profile", choices=PROFILES, default="default", help="ascend: what AIR and ASCEND_ONNX need (docs/ascend.md)"
    )
    quantization.add_argument("--num_bits", type=int, nargs="+", default=[8], metavar="BITS", help="2 to 8")
    for name, default, text in (
        ("per_channel", [True, False], "a scale for each output channel"),
        ("symmetric", [True, False], "signed codes around 0, else a zero point"),
        ("narrow_range", [False], "leave the lowest code out"),
    ):
        quantization.add_argument(
            f"--{name}", type=common.boolean, nargs="+", default=default, metavar="BOOL", help=text
        )
    quantization.add_argument(
        "--bn_fold",
        type=common.boolean,
        default=True,
        metavar="BOOL",
        help="quantize weights with batch norm folded in",
    )
    quantization.add_argument(
        "--one_conv_fold", type=common.boolean, default=False, metavar="BOOL", help="fold by one convolution, not two"
    )
    quantization.add_argument(
        "--freeze_bn", type=int, default=NEVER, metavar="STEPS", help="steps before batch norm uses running statistics"
    )
    quantization.add_argument(
        "--ema_decay",
        type=float,
        default=0.99,
        metavar="DECAY",
        help="how slowly activation ranges follow the batches; 0: the range is that of the last batch",
    )
    quantization.add_argument(
        "--quant_delay", type=int, nargs="+", default=[900], metavar="STEPS", help="steps before quantization sets in"
    )


def run(args: argparse.Namespace) -> None:
    checkpoint = common.load_checkpoint(args.ckpt_path, quantized=False)
    settings = {name: getattr(args, name) for name in SETTINGS}
    if args.quant_config:
        settings |= read_quant_config(args.quant_config)
    graph = qat.convert_quant_network(checkpoint.graph, **settings)
    qat.to_integer(graph, graph.observed_params())  # raises now, not after hours, where something has no quantizer
    source = Path(args.ckpt_path)
    path = Path(args.save_path or source.with_name(f"{source.stem}_quant{source.suffix}"))
    start = Checkpoint(graph, graph.initial_params(args.seed) | checkpoint.params, history=checkpoint.history)
    common.train_and_save(args, start, args.data_path, path)


if __name__ == "__main__":
    sys.exit(run_script(add_arguments, run, __doc__))
