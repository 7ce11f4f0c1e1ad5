"""How the C target stores a layer's weights: bytes, or indices of 4, 2 or 1 bits into a table of the layer's few values."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from qat.integer.widths import pack
from qat.targets.c.kernels.head import BLOCK
from qat.targets.c.text import word_count
from qat.vocabulary.ops import Array

BYTES = 8  #: bits of a weight that is not packed
INT8_MIN, INT8_MAX = -128, 127  #: what a stored weight may be


class StoredWeights(NamedTuple):
    """A layer's weights as they are stored.

    Args:
        codes: what is multiplied, int64, like the centred weight but less ``excess``.
        excess: what the centred weights of each output are more, int64, (O,).
        bits: 8, or those of an index.
        values: what the indices stand for, int64, (2^bits,); empty for bytes.
        filled: True where there is no 0 among the values, so that what fills up the last word of a row has to meet inputs
            of 0.
    """

    codes: Array
    excess: Array
    bits: int
    values: Array
    filled: bool

    def indices(self, codes: Array) -> Array:
        """What is stored for codes: an index for each, or the code itself where it is a byte."""
        if self.bits == BYTES:
            return codes
        found: Array = np.searchsorted(self.values[: len(np.unique(self.values))], codes)
        return found


def stored_weights(weight: Array, zero_point: Array, run: int, *, packed: bool) -> StoredWeights:
    """The smallest form.

    weight: centred, (O, ...). zero_point: (O,). run: how many inputs of a row lie beside one another; where they do not fill
    words of four, weights of 0 do, or else inputs of 0. packed: false for bytes in any case.
    """
    rows = weight.reshape(len(weight), -1).astype(np.int64)
    zero_point = zero_point.astype(np.int64)
    choices = [_excess(rows)]
    if packed and zero_point.any():
        # Before their zero points are subtracted, the codes of an affine weight may be fewer. They have no more bits than a
        # byte, but unsigned ones pass int8, so that all are stored less by as much.
        highest = int((rows + zero_point[:, None]).max())
        choices.append(-zero_point + max(highest - INT8_MAX, 0))
    best: StoredWeights | None = None
    for excess in choices:
        codes = weight - excess.reshape((-1,) + (1,) * (weight.ndim - 1))
        values = np.unique(codes)
        bits, filled = _index_bits(values, run) if packed else (BYTES, False)
        if bits == BYTES:
            values, filled = values[:0], False
        elif not filled and run % 4:
            values = np.unique([*values, 0])
        if best is None or bits < best.bits:
            table = np.concatenate([values, np.full((1 << bits) - len(values), values[-1])]) if len(values) else values
            best = StoredWeights(codes, excess, bits, table, filled)
    assert best is not None, "there is always the form of bytes"
    return best


def _index_bits(values: Array, run: int) -> tuple[int, bool]:
    """The bits of an index into these values, and whether rows are filled up by inputs of 0."""
    plain, with_zero = (
        next((b for b in (1, 2, 4) if n <= 1 << b), BYTES) for n in (len(values), len({*values.tolist(), 0}))
    )
    filled = run % 4 > 0 and plain < with_zero
    return (plain if filled or run % 4 == 0 else with_zero), filled


def _excess(rows: Array) -> Array:
    """What has to be subtracted from each row of centred weights to make it fit into int8, (O,); mostly 0."""
    high, low = rows.max(axis=1), rows.min(axis=1)
    off: Array = np.maximum(high - INT8_MAX, 0) + np.minimum(low - INT8_MIN, 0)
    return off


def blocks(stored: StoredWeights, rows: int, inputs: int, groups: int) -> Array:
    """The bytes of a layer's blocks: in each, for every word of four inputs, the words of its up to BLOCK outputs."""
    outputs = len(stored.codes)
    padded = np.zeros((outputs, rows, word_count(inputs) * 4), np.int64)
    padded[:, :, :inputs] = stored.indices(stored.codes.reshape(outputs, rows, inputs))
    if stored.bits < BYTES and not stored.filled:
        padded[:, :, inputs:] = stored.indices(np.zeros(1, np.int64)) if inputs % 4 else 0
    words = padded.reshape(outputs, -1, 4)
    per_group = outputs // groups
    parts = []
    for group in range(groups):
        for first in range(0, per_group, BLOCK):
            block = words[group * per_group + first : group * per_group + min(first + BLOCK, per_group)].transpose(
                1, 0, 2
            )
            if stored.bits == BYTES:
                parts.append(block.ravel())
                continue
            if stored.bits == 1 and block.shape[1] % 2:  # a byte has the words of two outputs
                block = np.pad(block, ((0, 0), (0, 1), (0, 0)))
            parts.append(np.frombuffer(pack(block, stored.bits), np.uint8).astype(np.int64))
    return np.concatenate(parts)


# -- what the kernels meet in these bytes -----------------------------------------------------------------------------


def in_blocks(stored: StoredWeights, data: Array, rows: int, inputs: int, groups: int) -> Array:
    """The centred weights (O, rows, inputs) of ``blocks``, as ``multiply`` reads them; what fills up words is left out.

    Raises ValueError where that is no weight of 0, though inputs meet it.
    """
    outputs, quads = len(stored.codes), word_count(inputs)
    per_group = outputs // groups
    found: Array = np.empty((outputs, rows, quads * 4), np.int64)
    at = 0
    for group in range(0, outputs, per_group):
        for first in range(group, group + per_group, BLOCK):
            count = min(BLOCK, group + per_group - first)
            size = rows * quads * -(-count * 4 * stored.bits // 8)
            words = _numbers(stored, data[at : at + size]).reshape(rows, quads, -1, 4)[:, :, :count]
            found[first : first + count] = words.transpose(2, 0, 1, 3).reshape(count, rows, quads * 4)
            at += size
    if at != data.size or (not stored.filled and found[:, :, inputs:].any()):
        raise ValueError("bytes are left, or inputs meet what fills up words")
    centred: Array = found[:, :, :inputs] + stored.excess[:, None, None]
    return centred


def in_taps(stored: StoredWeights, data: Array) -> Array:
    """The centred weights (C, taps) of a depthwise convolution, block by block and tap by tap, as its kernel reads them."""
    channels, taps = stored.codes.shape
    found: Array = np.empty((channels, taps), np.int64)
    at = 0
    for first in range(0, channels, BLOCK):
        count = min(BLOCK, channels - first)
        size = -(-taps * count * stored.bits // 8)
        found[first : first + count] = _numbers(stored, data[at : at + size])[: taps * count].reshape(taps, count).T
        at += size
    if at != data.size:
        raise ValueError("bytes are left")
    found += stored.excess[:, None]
    return found


def _numbers(stored: StoredWeights, data: Array) -> Array:
    """The codes in bytes: they themselves, or what their indices stand for, the first one in the lowest bits."""
    if stored.bits == BYTES:
        return data.astype(np.int8)
    indices = data.astype(np.uint8)[:, None] >> np.arange(0, 8, stored.bits, dtype=np.uint8)
    numbers: Array = stored.values.astype(np.int8)[indices.ravel() & ((1 << stored.bits) - 1)]
    return numbers
