"""Flags of training at few bits, and the defaults that a number of bits has (``qat.passes.few_bits.TABLE``)."""

from __future__ import annotations

import argparse
from typing import Any

from qat.cells.linear import LinearCell
from qat.console import Column, count, percent, print_table
from qat.errors import QatError
from qat.graph import Graph, Params
from qat.graph.graph import quantizers_of
from qat.passes.few_bits import FewBits, edge_layers, few_bits, few_bits_settings
from qat.passes.learn_scales import learn_scales
from qat.passes.quantizer_settings import QUANTIZERS, pair
from qat.passes.unit_inputs import unit_inputs
from qat.scripts.common.tasks import with_task
from qat.training.checkpoint import Checkpoint
from qat.training.lengths import Length
from qat.training.oscillations import OSCILLATES, Oscillating, Oscillations, oscillating

#: Flags that mean a min/max quantizer of a side, since a learned scale has no such field.
OF_MINMAX = {"weight_quantizer": {"symmetric"}, "activation_quantizer": {"symmetric", "ema_decay"}}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags, whose defaults ``settle`` gives."""
    group = parser.add_argument_group("few bits", "2 to 4 bits have defaults of their own: 'qat help few_bits'")
    group.add_argument(
        "--edge_bits",
        type=int,
        metavar="BITS",
        help="of the weights of the first and the last layers; what these take, sums and what leaves the network have 8 then",
    )
    group.add_argument(
        "--freeze_oscillations",
        type=float,
        metavar="THRESHOLD",
        help="freeze weights whose codes oscillate more often than that in the end, as 0.01; 0: none",
    )
    group.add_argument(
        "--dampen",
        type=float,
        default=0.0,
        metavar="LAMBDA",
        help="the final weight of a penalty that draws weights to their codes, as 0.001",
    )
    group.add_argument(
        "--count_oscillations", action="store_true", help="count weights whose codes oscillate, without freezing any"
    )
    group.add_argument(
        "--reestimate_bn",
        type=int,
        metavar="IMAGES",
        help="at the end, estimate the statistics of batch norm anew over so many training images; 0: keep the running ones",
    )


def settle(args: argparse.Namespace, graph: Graph) -> None:
    """Give the arguments of training that were not given the defaults of their number of bits.

    Args:
        args: of train-quant; changed.
        graph: of the checkpoint, float or quantized.

    Raises:
        QatError: for --edge_bits where it has no effect.
    """
    if args.edge_bits is not None and not 1 <= args.edge_bits <= 16:
        raise QatError(f"--edge_bits {args.edge_bits}: weights have 1 to 16 bits; use a number of these")
    if "edge_bits" in args.given and (graph.is_quantized or args.quant_config):
        why = f"{args.ckpt_path} is quantized already" if graph.is_quantized else f"{args.quant_config} says all of it"
        raise QatError(f"--edge_bits: says how a float network is quantized, but {why}; leave it out")
    row = _row(args, graph)
    if row is None:
        return
    for name in ("lr", "ema"):
        if name not in args.given:
            setattr(args, name, getattr(row, name))
    if not graph.is_quantized and "quant_delay" not in args.given:
        args.quant_delay = [Length("0")]
    own_weights = not graph.is_quantized and "weight_quantizer" not in args.given and "symmetric" not in args.given
    if own_weights and args.freeze_oscillations is None and not args.count_oscillations and args.accumulate == 1:
        args.freeze_oscillations = row.freeze


def conditioned(args: argparse.Namespace, checkpoint: Checkpoint) -> tuple[Graph, Params]:
    """The network from which training starts: raw pixels enter as small numbers (``unit_inputs``), unless they are what it has
    to give back: targets would become as small, and the outputs not.
    """
    graph, params = checkpoint.graph, checkpoint.params
    if with_task(args, checkpoint).task.uses_images:
        return graph, params
    result = unit_inputs(graph, params)
    if result[0] != graph:
        print("weights over raw pixels are as much larger as pixels are made smaller: the same function, trainable")
    return result


def converting(args: argparse.Namespace, graph: Graph, settings: dict[str, Any]) -> dict[str, Any]:
    """Arguments of convert_quant_network, with those that suit few bits where no flag says otherwise.

    Args:
        args: of train-quant.
        graph: of the float network.
        settings: what the flags say.
    """
    weights, activations = pair(args.num_bits)
    row, found = _row(args, graph), dict(settings)
    if row is not None:
        own = few_bits_settings(
            graph,
            (weights, activations),
            per_channel=bool(pair(args.per_channel)[0]),
            narrow_range=bool(pair(args.narrow_range)[0]),
            quant_delay=settings["quant_delay"],
        )
        found |= {side: own[side] for side in _learned(args) if side in own}
    edge = args.edge_bits if args.edge_bits is not None else None if row is None else row.edge_bits
    if edge is not None and (args.edge_bits is not None or not _named(args)):
        found["layers"] = edge_layers(graph, weights, activations, edge)
    return found


def learning(args: argparse.Namespace, checkpoint: Checkpoint) -> tuple[Graph, Params]:
    """Graph and parameters with which training goes on from a quantized network.

    One that was calibrated gets learned scales in place of its min/max quantizers of few bits (``learn_scales``), unless a flag
    says minmax; any other stays as it is.
    """
    if not (checkpoint.history and "calibration" in checkpoint.history[0]):
        return checkpoint.graph, checkpoint.params
    graph, params = conditioned(args, checkpoint)
    free = {side: getattr(args, side) is None for side in QUANTIZERS}
    learned = learn_scales(graph, params, weights=free["weight_quantizer"], activations=free["activation_quantizer"])
    if learned[0] != graph:
        print(
            "few bits: learned scales (LSQ) in place of min/max quantizers, from the ranges of the calibration "
            "(--weight_quantizer minmax, --activation_quantizer minmax keep them)"
        )
    return learned


def oscillations(args: argparse.Namespace) -> Oscillations | None:
    """What the flags ask for."""
    if not (args.freeze_oscillations or args.dampen or args.count_oscillations):
        return None
    return Oscillations(freeze=args.freeze_oscillations or None, dampen=args.dampen)


def reestimated_images(args: argparse.Namespace, graph: Graph, images: int) -> int:
    """Over how many of so many training images the statistics of batch normalisation are estimated anew."""
    if args.reestimate_bn is not None:
        return int(args.reestimate_bn)
    row = _row(args, graph)
    return min(row.reestimate_bn, images) if row is not None and _has_batch_norm(graph) else 0


def report(checkpoint: Checkpoint) -> None:
    """How many weights oscillate, by layer, where they were counted."""
    rows = oscillating(checkpoint.graph, checkpoint.params)
    if not rows:
        return
    rows.append(Oscillating("all", *(sum(numbers) for numbers in zip(*(row[1:] for row in rows), strict=True))))
    shares = [(x.name, x.weights, x.oscillating / x.weights, x.frozen / x.weights) for x in rows]
    columns = [Column("layer"), Column("weights", form=count)]
    columns += [Column(name, form=percent) for name in ("oscillating", "frozen")]
    print_table(f"oscillations: frequency above {OSCILLATES}", columns, shares, "oscillations")


def _row(args: argparse.Namespace, graph: Graph) -> FewBits | None:
    """The defaults of the number of bits; None where it has none, or a file or a profile says what is meant."""
    if not graph.is_quantized:
        return None if args.quant_config or args.profile == "ascend" else few_bits(args.num_bits)
    return few_bits(min(quantizer.num_bits for node in graph.nodes for quantizer in quantizers_of(node.cell)))


def _named(args: argparse.Namespace) -> bool:
    """Whether a flag names a quantizer, which may not have as many bits as edges have."""
    return any(getattr(args, side) is not None for side in QUANTIZERS)


def _learned(args: argparse.Namespace) -> list[str]:
    """The sides for which no flag asks for another quantizer."""
    return [side for side in QUANTIZERS if getattr(args, side) is None and not OF_MINMAX[side] & args.given]


def _has_batch_norm(graph: Graph) -> bool:
    return any(isinstance(node.cell, LinearCell) and node.cell.has_bn for node in graph.nodes)


def say(args: argparse.Namespace, graph: Graph) -> None:
    """One line where the bits are few: what ``settle`` and ``converting`` chose, and the flags that change it."""
    row, words = _row(args, graph), []
    if row is None:
        return
    if not graph.is_quantized:
        learned = {"weight_quantizer": "weights", "activation_quantizer": "activations"}
        sides = [learned[side] for side in _learned(args) if side in few_bits_settings(graph, args.num_bits)]
        if sides:
            words.append(f"learned scales (LSQ) of {' and '.join(sides)} (--weight_quantizer, --activation_quantizer)")
        if args.edge_bits is None and not _named(args) and row.edge_bits > pair(args.num_bits)[0]:
            words.append(f"{row.edge_bits} bits in the first and last layers and in sums (--edge_bits)")
        if "quant_delay" not in args.given:
            words.append("no delay (--quant_delay)")
    words += [f"lr {row.lr:g} (--lr)"] if "lr" not in args.given else []
    words += [f"averages of {row.ema:g} (--ema)"] if "ema" not in args.given and row.ema else []
    if args.freeze_oscillations and "freeze_oscillations" not in args.given:
        words.append(f"oscillating weights frozen from {row.freeze:g} on (--freeze_oscillations)")
    if args.reestimate_bn is None and row.reestimate_bn and _has_batch_norm(graph):
        words.append(f"statistics of batch norm from {row.reestimate_bn:,} images (--reestimate_bn)")
    if words:
        bits = "few bits" if graph.is_quantized else "/".join(map(str, pair(args.num_bits)))
        print(f"{bits}: {', '.join(words)}")
