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
        values: what the indices stand for, int64, ascending, (2^bits,); empty for bytes.
        filled: True where there is no 0 among the values, so that what fills up the last word of a row has to meet inputs
            of 0.
    """

    codes: Array
    excess: Array
    bits: int
    values: Array
    filled: bool

    @property
    def step(self) -> int:
        """Between each of the values and the next, which are a progression; 0 where they are none."""
        steps = np.unique(np.diff(np.unique(self.values)))
        return int(steps[0]) if len(steps) == 1 else int(len(steps) == 0)

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
            table = _table(values, bits) if len(values) else values
            best = StoredWeights(codes, excess, bits, table, filled)
    assert best is not None, "there is always the form of bytes"
    return best


def _table(values: Array, bits: int) -> Array:
    """What indices stand for: a progression where one holds all values, which spares looking them up; else these."""
    count, step = 1 << bits, max(int(np.gcd.reduce(np.diff(values))), 1)
    if (int(values[-1]) - int(values[0])) // step < count:
        values = values[0] + step * np.arange(count)
        values = values[values <= INT8_MAX]
    return np.concatenate([values, np.full(count - len(values), values[-1])])


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
            last = min(first + BLOCK, per_group)
            block = words[group * per_group + first : group * per_group + last].transpose(1, 0, 2)
            if stored.bits == BYTES:
                parts.append(block.ravel())
            else:
                parts += _packed(block, stored.bits)
    return np.concatenate(parts)


def _packed(block: Array, bits: int) -> list[Array]:
    """The bytes of indices (quads, outputs, 4): first as many quads together as fill words of 32 bits, in each byte those of
    its place in the quads; then quad by quad.
    """
    together = BYTES // bits
    whole = len(block) // together * together
    filled = block[:whole].reshape(-1, together, block.shape[1], 4)
    places = bits * np.arange(together).reshape(-1, 1, 1)
    rest = block[whole:]
    if bits == 1 and block.shape[1] % 2:  # a byte has the words of two outputs
        rest = np.pad(rest, ((0, 0), (0, 1), (0, 0)))
    return [(filled << places).sum(axis=1).ravel(), np.frombuffer(pack(rest, bits), np.uint8).astype(np.int64)]


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
            together = BYTES // stored.bits  # words of four inputs in one of the words that lie first
            whole = rows * quads // together * together
            left, of_word = rows * quads - whole, -(-count * 4 * stored.bits // 8)
            rest = left * of_word
            size = whole * count * 4 // together
            words = _numbers(stored, data[at : at + size]).reshape(-1, count, 4, together).transpose(0, 3, 1, 2)
            tail = _numbers(stored, data[at + size : at + size + rest]).reshape(left, of_word * 2 // stored.bits, 4)[
                :, :count
            ]
            words = np.concatenate([words.reshape(whole, count, 4), tail])
            found[first : first + count] = words.transpose(1, 0, 2).reshape(count, rows, quads * 4)
            at += size + rest
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
