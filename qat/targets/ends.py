"""The entry of a file's metadata that says what the file takes and gives, where that is not what the network takes and gives.

A file without it takes what its network takes and gives real numbers: its inputs say all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from qat.cells.input import CODES, REAL
from qat.integer.ends import METADATA, Ends, FileInput, FileOutput
from qat.targets.common import prefixed
from qat.vocabulary.arrays import ArraySpec

(ENTRY,) = prefixed({METADATA: ""})  #: its key in a file


def entry_of(ends: Ends) -> dict[str, str]:
    """The entry, without the prefix of a file's keys; nothing where the file is as its network."""
    own = all(x.stored == x.dtype for x in ends.inputs) and all(y.stored == REAL for y in ends.outputs)
    return {} if own else {METADATA: ends.to_json()}


def read_ends(entries: Mapping[str, str], inputs: Sequence[ArraySpec], outputs: Sequence[ArraySpec]) -> Ends:
    """What a file takes and gives.

    Args:
        entries: its metadata, with the keys that they have in a file.
        inputs: its own inputs, (C, H, W) or (F,) of one sample.
        outputs: its own outputs, likewise.

    Returns:
        As the entry says; without one, as the file's inputs and outputs are.

    Raises:
        QatError, ValueError, TypeError or KeyError: the entry does not fit the file, or no export takes or gives such arrays.
    """
    if ENTRY not in entries:
        takes = tuple(FileInput(x.shape, x.dtype, x.dtype, 1.0, 0, 0, 0, None, 0) for x in inputs)
        ends = Ends(takes, tuple(FileOutput(y.shape, REAL, 1.0, 0) for y in outputs))
    else:
        ends = Ends.from_json(entries[ENTRY])
        for end in ends.inputs:
            if end.stored == end.dtype or end.stored == REAL:
                continue
            info = np.iinfo(end.stored)
            if not info.min <= end.low + end.zero_point <= end.high + end.zero_point <= info.max:
                raise ValueError(f"codes from {end.low} to {end.high} around {end.zero_point} are no {end.stored}")
    for found, end_specs in (
        (list(inputs), [ArraySpec(end.shape, end.stored) for end in ends.inputs]),
        (list(outputs), [ArraySpec(end.shape, end.stored) for end in ends.outputs]),
    ):
        if found != end_specs:
            expected, has = (", ".join(map(str, specs)) for specs in (end_specs, found))
            raise ValueError(f"its metadata speak of {expected} where it has {has}")
    unknown = [x.dtype for x in ends.specs if x.dtype not in (*CODES, REAL)]
    if unknown:
        raise ValueError(f"it takes {unknown[0]}, which no network does")
    return ends
