"""Flags of convert_quant_network, and the settings that they give."""

from __future__ import annotations

import argparse
from typing import Any

from qat.cells.linear import NEVER
from qat.passes.quant_config import read_quant_config
from qat.passes.quantizer_settings import PROFILES
from qat.scripts.common.flags import boolean

QUANTIZATION = (
    "num_bits",
    "per_channel",
    "symmetric",
    "narrow_range",
    "bn_fold",
    "one_conv_fold",
    "freeze_bn",
    "ema_decay",
    "profile",
)  #: of convert_quant_network; quant_delay is of training alone  #: of convert_quant_network; quant_delay is of training alone


def add_quantization_arguments(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """The settings of convert_quant_network, but quant_delay; returns their group."""
    quantization = parser.add_argument_group("quantization", "one value, or two: of weights and of activations")
    quantization.add_argument("--quant_config", metavar="FILE.yaml", help="settings for all and for single layers")
    quantization.add_argument(
        "--profile",
        choices=PROFILES,
        default="default",
        help="ascend: what AIR and ASCEND_ONNX need (docs/ascend.md)",
    )
    quantization.add_argument(
        "--num_bits", type=int, nargs="+", default=[8], metavar="BITS", help="2 to 16, of activations 1 to 16"
    )
    for name, default, text in (
        ("per_channel", [True, False], "a scale for each output channel"),
        ("symmetric", [True, False], "signed codes around 0, else a zero point"),
        ("narrow_range", [False], "leave the lowest code out"),
    ):
        quantization.add_argument(f"--{name}", type=boolean, nargs="+", default=default, metavar="BOOL", help=text)
    quantization.add_argument(
        "--bn_fold",
        type=boolean,
        default=True,
        metavar="BOOL",
        help="quantize weights with batch norm folded in",
    )
    quantization.add_argument(
        "--one_conv_fold", type=boolean, default=False, metavar="BOOL", help="fold by one convolution, not two"
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
    return quantization


def quantization_settings(args: argparse.Namespace) -> dict[str, Any]:
    """Keyword arguments of convert_quant_network; what --quant_config says goes before the other arguments."""
    settings = {name: getattr(args, name) for name in QUANTIZATION}
    return settings | (read_quant_config(args.quant_config) if args.quant_config else {})
