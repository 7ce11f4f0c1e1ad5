"""How many bits the codes of an integer graph have, and the refusal of targets that hold 8 of them."""

from __future__ import annotations

import numpy as np

from qat.errors import QatError
from qat.integer import IntegerGraph, IntegerLinear, IntegerNode
from qat.ops import Array

BYTE = 8


def bits_of(low: int, high: int) -> int:
    """The bits of a two's complement (where low is negative) or unsigned number from low to high; at least 1."""
    signed = low < 0
    return max(max(high, 0).bit_length(), (-low - 1).bit_length() if signed else 1) + signed


def weight_bits(codes: Array) -> int:
    """The bits of the codes of a weight; 1 where they are -1 and 1, as those of a binary weight."""
    if (np.abs(codes.astype(np.int64)) == 1).all():
        return 1
    return bits_of(int(codes.min()), int(codes.max()))


def activation_bits(node: IntegerNode) -> int:
    """The bits of a node's output codes."""
    return bits_of(node.output.grid.qmin, node.output.grid.qmax)


def require_bytes(graph: IntegerGraph, target: str, *, weights_only: bool = False) -> None:
    """Raise QatError, for a target of that name, where a code has more than 8 bits.

    weights_only: the target takes wider activations.
    """
    for node in graph.nodes:
        if isinstance(node, IntegerLinear) and node.weight.dtype.itemsize > 1:
            what, bits = "weights", weight_bits(node.weight)
        elif not weights_only and node.output.grid.wide:
            what, bits = "activations", activation_bits(node)
        else:
            continue
        raise QatError(
            f"{node.name}: its {what} have codes of {bits} bits, where {target} computes exactly with at most 8; export to "
            "C, or where only activations have more to TFLITE with --profile fixed, or train it with fewer bits"
        )
