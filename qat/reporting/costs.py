"""The bytes of a network, layer by layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from qat.analysis.metrics import FLOAT_BITS, NodeMetrics
from qat.deploy.interfaces import CountsBytes, CountsMemory
from qat.integer import FloatLayer, IntegerGraph
from qat.registry import target


def stored_bytes(
    layers: Sequence[NodeMetrics], integers: IntegerGraph | None, packing: str = "packed"
) -> dict[str, int]:
    """The bytes of each layer's constants: of integers as the C target stores them, of float numbers four each.

    Args:
        layers: of ``measure``.
        integers: of a quantized network; None for a float one.
        packing: of the C target.

    Returns:
        Bytes by the name of the node; tables of fake quantizers that belong to no layer are among them by their own name.
    """
    if integers is None:
        return {x.name: x.parameters * FLOAT_BITS // 8 for x in layers if x.parameters}
    counting = target("C")
    assert isinstance(counting, CountsBytes)
    floats = {x.name: x.numbers * FLOAT_BITS // 8 for x in integers.nodes if isinstance(x, FloatLayer) and x.numbers}
    return floats | counting.storage(integers.without_float_layers, packing=packing)


def arena_bytes(integers: IntegerGraph, packing: str = "packed") -> int | None:
    """The static memory of its C file; None where it has layers that are left in float, which C does not hold."""
    if integers.float_layers:
        return None
    memory = target("C")
    assert isinstance(memory, CountsMemory)
    return memory.arena_bytes(integers, packing=packing)


def by_layer(layers: Sequence[NodeMetrics], amounts: Mapping[str, int]) -> tuple[dict[str, int], int]:
    """Amounts of the layers, and the sum of those that belong to none, as tables of fake quantizers."""
    known = {x.name for x in layers}
    return {name: x for name, x in amounts.items() if name in known}, sum(
        x for name, x in amounts.items() if name not in known
    )
