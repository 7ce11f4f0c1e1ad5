"""Arrays of samples: one for each input of a network, worked through in batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

import numpy as np

from qat.errors import QatError
from qat.ops import Array

Arrays = Array | tuple[Array, ...]  #: one array where a network has one input (output), else one for each
Key = TypeVar("Key")


def as_tuple(arrays: Arrays) -> tuple[Array, ...]:
    """One array for each input, also where there is one."""
    return tuple(arrays) if isinstance(arrays, (tuple, list)) else (arrays,)


def as_arrays(arrays: tuple[Array, ...]) -> Arrays:
    """The inverse of ``as_tuple``."""
    return arrays[0] if len(arrays) == 1 else arrays


def in_batches(
    function: Callable[[tuple[Array, ...]], Mapping[Key, Array]],
    inputs: tuple[Array, ...],
    batch_size: int,
    name: str,
) -> dict[Key, Array]:
    """What ``function`` makes of the samples, ``batch_size`` at a time, joined along their first axis.

    name: of the network, for messages. Raises QatError where there are no samples, or not equally many of each input.
    """
    counts = [len(x) for x in inputs]
    if not all(counts):
        raise QatError(f"{name}: there are no images to evaluate; give at least one")
    if len(set(counts)) != 1:
        raise QatError(f"{name}: its inputs hold {counts} samples; give equally many of each")
    parts = [function(batch) for batch in _batches(inputs, batch_size)]
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}


def _batches(inputs: tuple[Array, ...], batch_size: int) -> Iterator[tuple[Array, ...]]:
    for start in range(0, len(inputs[0]), batch_size):
        yield tuple(x[start : start + batch_size] for x in inputs)
