"""Quantization-aware training: start from a float checkpoint, insert fake quantizers, train on, save.

A quantized checkpoint, as calibrate writes one, is trained further as it is.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import qat
from qat.analysis.metrics import learned_bits
from qat.cli import run_script
from qat.console import result
from qat.errors import QatError
from qat.graph import Graph
from qat.passes.named_quantizer import MINMAX
from qat.passes.quantizer_settings import QUANTIZERS
from qat.scripts.common import few_bits, sparsity
from qat.scripts.common.flags import add_backend_arguments, add_checkpoint_argument, add_data_argument
from qat.scripts.common.quantization import (
    QUANTIZATION,
    add_delay_argument,
    add_quantization_arguments,
    check_arithmetic,
    quantization_settings,
)
from qat.scripts.common.training import add_training_arguments, opened, prepared, train_and_save
from qat.training.checkpoint import Checkpoint
from qat.training.lengths import Span
from qat.training.losses import Objective
from qat.training.objectives import BopsBudget, SizeBudget

CONVERTING = (*QUANTIZATION, "quant_delay", "quant_config")  #: what a quantized checkpoint has settled already


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's flags."""
    add_data_argument(parser, workers=True)
    add_checkpoint_argument(parser, "float network, or of a quantized one to go on with")
    add_backend_arguments(parser)
    add_training_arguments(parser, lr=0.01, save_path="<ckpt_path without its ending>_quant.ckpt")
    quantization = add_quantization_arguments(parser)
    add_delay_argument(quantization)
    few_bits.add_arguments(parser)
    sparsity.add_arguments(parser)
    budget = parser.add_argument_group(
        "budget",
        "for quantizers that learn their bits (LearnedWidthWeightQuantizer, LearnedWidthActivationQuantizer); one of the two",
    )
    budget.add_argument("--bits_per_weight", type=float, metavar="BITS", help="the mean that weights may take")
    budget.add_argument(
        "--lambda_size", type=float, default=1.0, metavar="L", help="weight of the square of what they take beyond it"
    )
    budget.add_argument("--max_bops", type=float, metavar="BOPS", help="bit operations that one image may take")
    budget.add_argument(
        "--lambda_bops", type=float, default=1.0, metavar="L", help="weight of the square of what it takes beyond them"
    )


def run(args: argparse.Namespace) -> None:
    """Run the command."""
    checkpoint = Checkpoint.load(args.ckpt_path)
    source = Path(args.ckpt_path)
    path = Path(args.save_path or source.with_name(f"{source.stem}_quant{source.suffix}"))
    few_bits.settle(args, checkpoint.graph)
    dataset, span = prepared(args, checkpoint, opened(args, path))
    start = _quantized(args, checkpoint) if checkpoint.graph.is_quantized else _converted(args, checkpoint, span)
    few_bits.say(args, checkpoint.graph)
    end = train_and_save(args, sparsity.with_pruner(args, start, span), dataset, path, _budget(args, start.graph))
    learned = learned_bits(end.graph, end.params)
    if learned:
        result("bits learned: " + ", ".join(f"{name} {bits}" for name, bits in learned.items()), bits_learned=learned)


def _budget(args: argparse.Namespace, graph: Graph) -> Objective | None:
    """What --bits_per_weight or --max_bops asks for."""
    given = [name for name in ("bits_per_weight", "max_bops") if getattr(args, name) is not None]
    if not given:
        return None
    if len(given) > 1:
        raise QatError("--bits_per_weight and --max_bops: only one budget at a time; leave one of them out")
    learning = learned_bits(graph, graph.initial_params())
    if not any(name.endswith(".weight") or args.max_bops is not None for name in learning):
        raise QatError(
            f"--{given[0]}: no quantizer of this network learns its bits; give --quant_config a file with "
            "weight_quantizer: {type: LearnedWidthWeightQuantizer}"
        )
    if args.max_bops is not None:
        return BopsBudget(args.max_bops, args.lambda_bops, args.label_smoothing)
    return SizeBudget(args.bits_per_weight, args.lambda_size, args.label_smoothing)


def _converted(args: argparse.Namespace, checkpoint: Checkpoint, span: Span) -> Checkpoint:
    """Where training starts from a float network."""
    floats, params = few_bits.conditioned(args, checkpoint)
    graph = qat.convert_quant_network(floats, **few_bits.converting(args, floats, quantization_settings(args, span)))
    qat.to_integer(graph, graph.observed_params())  # raises now, not after hours, where something has no quantizer
    return checkpoint.derived(graph, graph.params_from(params, args.seed))


def _quantized(args: argparse.Namespace, checkpoint: Checkpoint) -> Checkpoint:
    """Where training starts from a quantized network. Raises QatError for a setting of the conversion it went through."""
    check_arithmetic(args, args.ckpt_path, checkpoint.graph)
    for name in CONVERTING:
        kept = name in QUANTIZERS and getattr(args, name) == MINMAX  # which few_bits.learning takes
        if name in args.given and name != "arithmetic" and not kept:
            raise QatError(
                f"--{name}: {args.ckpt_path} is quantized already, with settings of its own; leave it out, or give the float "
                "checkpoint that it was made from"
            )
    return checkpoint.derived(*few_bits.learning(args, checkpoint))


if __name__ == "__main__":
    sys.exit(run_script(add_arguments, run, __doc__))
