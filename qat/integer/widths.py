"""How many bits the codes of an integer graph have: refused where they are more than a byte, packed where they are fewer."""

from __future__ import annotations

import numpy as np

from qat.errors import QatError
from qat.integer import IntegerGraph, IntegerLinear, IntegerNode, require_integers
from qat.vocabulary.ops import Array

BYTE = 8
PACKINGS = ("packed", "bytes")  #: weights of 4 bits and fewer: several to a byte, or one


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
    require_integers(graph)
    for node in graph.nodes:
        if isinstance(node, IntegerLinear) and node.weight.dtype.itemsize > 1:
            what, bits = "weights", weight_bits(node.weight)
        elif not weights_only and node.output.grid.wide:
            what, bits = "activations", activation_bits(node)
        else:
            continue
        raise QatError(
            f"{node.name}: its {what} have codes of {bits} bits, where {target} computes exactly with at most 8; export to "
            "C, or where only activations have more to TFLITE with --arithmetic fixed, or train it with fewer bits"
        )


def storage_bits(codes: Array, types: tuple[int, ...]) -> int:
    """Of the widths that a format packs, the smallest that holds these codes; else 8 or more, those of their NumPy type.

    A weight of a single value, as of an average pooling, is not packed: it would only ask for a newer runtime.
    """
    low, high = int(codes.min()), int(codes.max())
    signed = np.issubdtype(codes.dtype, np.signedinteger)
    for bits in sorted(types):
        least, most = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed else (0, (1 << bits) - 1)
        if low < high and least <= low and high <= most:
            return bits
    return codes.dtype.itemsize * BYTE


def pack(codes: Array, bits: int) -> bytes:
    """Codes of 1, 2 or 4 bits, several to a byte, the first one in the lowest bits; the last byte is filled up with 0."""
    per_byte = BYTE // bits
    flat = codes.ravel().astype(np.int64) & ((1 << bits) - 1)
    rows = np.pad(flat, (0, -len(flat) % per_byte)).reshape(-1, per_byte)
    packed: Array = (rows << (bits * np.arange(per_byte))).sum(axis=1)
    return packed.astype(np.uint8).tobytes()


def check_packing(packing: str) -> bool:
    """True where a target's option ``packing`` asks for packed weights. Raises QatError for an unknown one."""
    if packing not in PACKINGS:
        raise QatError(f"--packing {packing!r} is unknown: choose one of {', '.join(PACKINGS)}")
    return packing == PACKINGS[0]
