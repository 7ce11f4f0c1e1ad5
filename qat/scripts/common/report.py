"""The report on a network that several commands print."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

from qat.analysis.metrics import FLOAT_BITS, information_bits, measure
from qat.console import print_table
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

    def number(value: int | None) -> str:
        return f"{value:,}" if value else ""

    rows = []
    for x in layers:
        shape = dimensions(x.shape)
        counts = (
            x.parameters,
            x.macs,
            x.bops,
            x.weight_bits,
            x.activation_bits,
            information.get(x.name),
            stored.get(x.name),
        )
        rows.append((x.name, x.cell, shape, *map(number, counts)))
    other = by_layer(layers, stored)[1]
    rows += [("tables of fake quantizers", "", "", "", "", "", "", "", "", number(other))] if other else []
    total = (
        sum(x.parameters for x in layers),
        sum(x.macs for x in layers),
        sum(x.bops for x in layers),
    )
    rows.append(
        ("total", "", "", *map(number, total), "", "", number(sum(information.values())), number(sum(stored.values())))
    )
    if integers is None:
        kind = "float"
    else:
        own = "" if integers.arithmetic == "float" else f", {integers.arithmetic} arithmetic"
        kind = f"quantized{own} (bytes: the constants of its C file)"
    macs = "MACs with bias" if with_bias else "MACs"
    bits = ("weight bits", "activation bits", "information bits")
    columns = ("layer", "cell", "output", "parameters", macs, "BOPs", *bits, "bytes")
    print_table(f"{graph.name}, {kind}", columns, rows)
    if integers is None:
        largest = max(prod(x.shape) for x in layers) * FLOAT_BITS // 8
        print(f"largest activation: {largest:,} bytes of float32")
    else:
        alone = f"peak memory of activations: {activation_memory(integers).size:,} bytes, inputs included"
        arena = arena_bytes(integers, packing)
        if arena is None:
            print(alone)
        else:
            print(
                f"arena of its C file: {arena:,} bytes, with scratch memory and without inputs that are read in place; {alone}"
            )
