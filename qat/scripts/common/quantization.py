"""Flags of convert_quant_network, and the settings that they give."""

from __future__ import annotations

import argparse
from typing import Any

from qat.cells.linear import NEVER
from qat.errors import QatError
from qat.graph import Graph
from qat.passes.named_quantizer import named_quantizer, quantizer_names
from qat.passes.quant_config import read_quant_config
from qat.passes.quantizer_settings import PAIRS, PROFILES, QUANTIZERS
from qat.scripts.common.flags import add_arithmetic_argument, arithmetic_settings, boolean, length
from qat.training.lengths import Length, Span

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
    "arithmetic",
    "weight_quantizer",
    "activation_quantizer",
)  #: of convert_quant_network; quant_delay is of training alone
DELAY = Length("10%", most=900)  #: after which quantization sets in, where nothing else is said


def add_quantization_arguments(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """The settings of convert_quant_network, but quant_delay; returns their group."""
    quantization = parser.add_argument_group("quantization", "one value, or two: of weights and of activations")
    quantization.add_argument("--quant_config", metavar="FILE.yaml", help="settings for all and for single layers")
    quantization.add_argument(
        "--profile",
        choices=PROFILES,
        default="default",
        help="ascend: what AIR and ASCEND_ONNX need ('qat help ascend')",
    )
    add_arithmetic_argument(quantization, "float; train in the one that will be deployed")
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
        metavar="BOOL",
        help="quantize weights with batch norm folded in (default: only those with one scale for all channels)",
    )
    quantization.add_argument(
        "--one_conv_fold", type=boolean, metavar="BOOL", help="fold it in, by one convolution (true) or by two (false)"
    )
    quantization.add_argument(
        "--freeze_bn",
        type=length,
        default=Length(str(NEVER)),
        metavar="LENGTH",
        help="before batch norm uses running statistics",
    )
    quantization.add_argument(
        "--ema_decay",
        type=float,
        default=0.99,
        metavar="DECAY",
        help="how slowly activation ranges follow the batches; 0: the range is that of the last batch",
    )
    for side in QUANTIZERS:
        quantization.add_argument(
            f"--{side}",
            metavar="NAME[:FIELD=VALUE,...]",
            help=f"{', '.join(quantizer_names(side))}, or a class of --import; has those of the settings above that are given",
        )
    return quantization


def add_delay_argument(group: argparse._ArgumentGroup) -> None:
    """--quant_delay, of commands that train."""
    group.add_argument(
        "--quant_delay",
        type=length,
        nargs="+",
        default=[DELAY],
        metavar="LENGTH",
        help="before quantization sets in: steps as 900, epochs as 2ep, or a share of the training",
    )


def quantization_settings(args: argparse.Namespace, span: Span | None = None) -> dict[str, Any]:
    """Keyword arguments of convert_quant_network; what --quant_config says goes before the other arguments.

    span: the training, where lengths may be given in epochs or as a share of it; None: in steps only.
    """

    def steps(name: str, written: Length) -> int:
        return written.within(span, name)

    settings = {name: getattr(args, name) for name in QUANTIZATION if name != "arithmetic"} | arithmetic_settings(args)
    settings["freeze_bn"] = steps("--freeze_bn", args.freeze_bn)
    if "quant_delay" in args:
        settings["quant_delay"] = [steps("--quant_delay", each) for each in args.quant_delay]
    for side in QUANTIZERS:
        if settings[side] is not None:
            given = {name: settings[name] for name in (*PAIRS, "ema_decay") if name in settings}
            settings[side] = named_quantizer(side, settings[side], given, args.given)
    if args.quant_config:
        said = read_quant_config(args.quant_config, lambda name, text: steps(name, Length(text)))
        if "arithmetic" in args.given and said.get("arithmetic", args.arithmetic) != args.arithmetic:
            raise QatError(
                f"--arithmetic {args.arithmetic}: {args.quant_config} says {said['arithmetic']}; leave one of the two out"
            )
        settings |= said
    return settings


def check_arithmetic(args: argparse.Namespace, path: str, graph: Graph) -> None:
    """Raise QatError where --arithmetic is not that of a network which is quantized already. path: of its checkpoint."""
    if args.arithmetic not in (None, graph.arithmetic):
        raise QatError(
            f"--arithmetic {args.arithmetic}: {path} was quantized in the {graph.arithmetic} arithmetic, and goes on in it; "
            "leave it out, or give the float checkpoint that it was made from"
        )
