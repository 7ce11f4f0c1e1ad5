"""Arrays of samples: one for each input of a network, worked through in batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

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
    pixels: Arrays,
    shapes: Sequence[tuple[int, ...]],
    batch_size: int,
    name: str,
) -> dict[Key, Array]:
    """What ``function`` makes of raw pixels, ``batch_size`` samples at a time, joined along their first axis.

    shapes: of one sample of each input. name: of the network or file, for messages. Raises QatError where the arrays are no
    uint8 pixels of these shapes, where there are no samples, or not equally many of each input.
    """
    inputs = as_tuple(pixels)
    check_pixels(inputs, shapes, np.ndarray, name)
    counts = [len(x) for x in inputs]
    if not all(counts):
        raise QatError(f"{name}: there are no images to evaluate; give at least one")
    if len(set(counts)) != 1:
        raise QatError(f"{name}: its inputs hold {counts} samples; give equally many of each")
    parts = []
    for batch in _batches(inputs, batch_size):
        parts.append(function(batch))
        rows = {np.shape(x)[:1] for x in parts[-1].values()}
        if rows - {(len(batch[0]),)}:
            raise QatError(
                f"{name}: gives {rows} results for {len(batch[0])} samples, so it is damaged; export it again"
            )
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}


def check_pixels(inputs: Sequence[Any], shapes: Sequence[tuple[int, ...]], kind: type, name: str) -> None:
    """Raise QatError unless there is a tensor of raw pixels, uint8 of one of these shapes a sample, for each input.

    kind: the class of a framework's tensors. A size that is not known yet, None, fits.
    """
    if len(inputs) != len(shapes):
        raise QatError(f"{name}: has {len(shapes)} inputs but got {len(inputs)}; give one for each")
    for shape, x in zip(shapes, inputs, strict=True):
        dtype = getattr(x, "dtype", None) if isinstance(x, kind) else None
        if dtype is not None and "uint8" in str(dtype).lower() and _fits(tuple(x.shape)[1:], shape):
            continue
        found = f"a {type(x).__name__}" if dtype is None else f"{dtype} {tuple(x.shape)}"
        raise QatError(
            f"{name}: takes raw pixels, uint8 (N, {', '.join(map(str, shape))}), but got {found}; give images as they were "
            "read, since the network normalises them itself"
        )


def _fits(found: tuple[int | None, ...], shape: tuple[int, ...]) -> bool:
    return len(found) == len(shape) and all(a in (None, b) for a, b in zip(found, shape, strict=True))


def _batches(inputs: tuple[Array, ...], batch_size: int) -> Iterator[tuple[Array, ...]]:
    for start in range(0, len(inputs[0]), batch_size):
        yield tuple(x[start : start + batch_size] for x in inputs)
