"""The report on a network that several commands print."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

from qat.analysis.metrics import FLOAT_BITS, information_bits, measure
from qat.console import Column, count, print_table, result
from qat.graph import Graph
from qat.integer import IntegerGraph
from qat.integer.memory import activation_memory
from qat.reporting.costs import arena_bytes, by_layer, stored_bytes
from qat.vocabulary.listing import dimensions
from qat.vocabulary.ops import Array


def print_summary(
    graph: Graph,
    params: Mapping[str, Array],
    integers: IntegerGraph | None,
    *,
    with_bias: bool = False,
    packing: str = "packed",
) -> None:
    """A table of one row for each layer and one of totals, and below it the memory of activations.

    params: whose learned numbers of bits are counted. integers: of a quantized graph; with them come information bits, and
    bytes as the C target stores them, of layers that are left in float those of their numbers.
    """
    layers = measure(graph, params, with_bias=with_bias)
    stored = stored_bytes(layers, integers, packing)
    information = {name: size * 8 for name, size in stored.items()} if integers is None else information_bits(integers)

    rows: list[tuple[Any, ...]] = []
    for x in layers:
        costs = (x.parameters, x.macs, x.bops, x.weight_bits, x.activation_bits)
        rows.append((x.name, x.cell, x.shape, *costs, information.get(x.name), stored.get(x.name)))
    other = by_layer(layers, stored)[1]
    rows += [("tables of fake quantizers", *[None] * 8, other)] if other else []
    total = {
        "parameters": sum(x.parameters for x in layers),
        "macs": sum(x.macs for x in layers),
        "bops": sum(x.bops for x in layers),
        "information_bits": sum(information.values()),
        "bytes": sum(stored.values()),
    }
    *counts, bits, size = total.values()
    result(network=graph.name, quantized=integers is not None, total=total)
    if integers is not None:
        result(arithmetic=integers.arithmetic)
    rows.append(("total", None, None, *counts, None, None, bits, size))
    if integers is None:
        kind = "float"
    else:
        own = "" if integers.arithmetic == "float" else f", {integers.arithmetic} arithmetic"
        kind = f"quantized{own} (bytes: the constants of its C file)"
    macs = "MACs with bias" if with_bias else "MACs"
    columns = [
        Column("layer"),
        Column("cell", later=True),
        Column("output", form=dimensions, later=True),
        Column("parameters", form=_count),
        Column(macs, "macs", _count),
        Column("BOPs", form=_count, later=True),
        Column("weight bits", form=_count),
        Column("activation bits", form=_count),
        Column("information bits", form=_count, later=True),
        Column("bytes", form=_count),
    ]
    print_table(f"{graph.name}, {kind}", columns, rows, "layers")
    if integers is None:
        largest = max(prod(x.shape) for x in layers) * FLOAT_BITS // 8
        result(f"largest activation: {largest:,} bytes of float32", largest_activation_bytes=largest)
    else:
        peak = activation_memory(integers).size
        alone = f"peak memory of activations: {peak:,} bytes, inputs included"
        arena = arena_bytes(integers, packing)
        if arena is None:
            result(alone, peak_bytes=peak)
        else:
            result(
                f"arena of its C file: {arena:,} bytes, with scratch memory and without inputs that are read in place; {alone}",
                arena_bytes=arena,
                peak_bytes=peak,
            )


def _count(value: int) -> str:
    return count(value) if value else ""
