"""Arrays of samples: one for each input of a network, checked and cut into batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from qat.errors import QatError
from qat.vocabulary.ops import Array
from qat.vocabulary.rows import Rows

Arrays = Array | tuple[Array, ...]  #: one array for a network with one input (output), else a tuple
Key = TypeVar("Key")


def as_tuple(arrays: Arrays) -> tuple[Array, ...]:
    """The arrays as a tuple, with one element for each input."""
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
    """Apply a function to raw pixels batch by batch, and join the results along their first axis.

    Args:
        function: from a batch, a tuple with an array for each input, to results by key, (N, ...) each.
        pixels: uint8 (N, ...); a tuple of such arrays for a network with several inputs.
        shapes: of one sample of each input.
        batch_size: samples in a batch.
        name: of the network or file, for messages.

    Returns:
        Results by key.

    Raises:
        QatError: where the pixels are not uint8 of these shapes, there are no samples, or not equally many for each
            input.
    """
    parts = []
    for batch in batches_of(pixels, shapes, batch_size, name):
        parts.append(function(batch))
        rows = {(np.shape(x) or (0,))[0] for x in parts[-1].values()} - {len(batch[0])}
        if rows:
            raise QatError(
                f"{name}: gives {min(rows)} results for {len(batch[0])} samples, so it is damaged; export it again"
            )
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}


def batches_of(
    pixels: Arrays, shapes: Sequence[tuple[int, ...]], batch_size: int, name: str
) -> Iterator[tuple[Array, ...]]:
    """Check raw pixels as ``in_batches`` does, and cut them into batches.

    Args:
        pixels: uint8 (N, ...), an array or ``Rows``; a tuple of such for a network with several inputs.
        shapes: of one sample of each input.
        batch_size: samples in a batch.
        name: of the network or file, for messages.

    Returns:
        Batches, read one by one; the last one may be smaller.

    Raises:
        QatError: as ``in_batches``.
    """
    inputs = as_tuple(pixels)
    check_pixels(inputs, shapes, (np.ndarray, Rows), name)
    if isinstance(batch_size, bool) or not isinstance(batch_size, (int, np.integer)) or batch_size < 1:
        raise QatError(f"batch_size is {batch_size!r}; use a whole number of at least 1")
    return (tuple(x[at : at + batch_size] for x in inputs) for at in range(0, len(inputs[0]), batch_size))


def check_pixels(
    inputs: Sequence[Any], shapes: Sequence[tuple[int, ...]], kind: type | tuple[type, ...], name: str
) -> None:
    """Check that there is a tensor of raw pixels for each input, with equally many samples and at least one.

    Only uint8 is accepted, on every backend. A float could be a pixel, or a pixel divided by 255, or a normalised one,
    and while a pass is compiled its type is all that is known of it.

    Args:
        inputs: tensors.
        shapes: of one sample of each input. Sizes that are not known yet, None, fit, and so does an unknown rank.
        kind: the class of the framework's tensors, or several, the first of which is named in messages.
        name: of the network or file, for messages.

    Raises:
        QatError: saying what to do with the given tensors.
    """
    if len(inputs) != len(shapes):
        inputs_of, arrays = _counted(len(shapes), "input"), _counted(len(inputs), "array")
        raise QatError(f"{name}: has {inputs_of} but got {arrays}; give one for each, (N, C, H, W) or (N, F)")
    counts = []
    for shape, x in zip(shapes, inputs, strict=True):
        found = _shape_of(x)
        dtype = getattr(x, "dtype", None)
        if not isinstance(x, kind) or dtype is None:
            wanted = kind[0] if isinstance(kind, tuple) else kind
            raise _wrong(
                name,
                shape,
                f"a {type(x).__name__}",
                "give an array"
                if wanted is object
                else f"give a {wanted.__module__.partition('.')[0]} {wanted.__name__}",
            )
        if not _is_uint8(dtype):
            raise _wrong(name, shape, f"{_dtype_name(dtype)} {found}", _of_floats(x))
        if found is None:
            continue
        if len(found) != len(shape) + 1 or any(a not in (None, b) for a, b in zip(found[1:], shape, strict=True)):
            raise wrong_shape(name, shape, found)
        counts.append(found[0])
    known = [count for count in counts if count is not None]
    if any(count == 0 for count in known):
        raise empty_batch(name)
    if any(count != known[0] for count in known):
        raise QatError(f"{name}: its inputs hold {known} samples; give equally many of each")


def empty_batch(name: str) -> QatError:
    """The error for a batch without samples."""
    return QatError(f"{name}: there are no images, the batch is empty; give at least one")


def wrong_shape(name: str, shape: tuple[int, ...], found: tuple[int | None, ...]) -> QatError:
    """The error for uint8 pixels of a wrong shape.

    Args:
        name: of the network or file.
        shape: of one sample, as it should be.
        found: the shape of the batch.

    Returns:
        An error with advice, not raised.
    """
    return _wrong(name, shape, f"uint8 {found}", _of_shape(found, shape))


def _wrong(name: str, shape: tuple[int, ...], found: str, advice: str) -> QatError:
    return QatError(f"{name}: takes raw pixels, uint8 (N, {', '.join(map(str, shape))}), but got {found}; {advice}")


def _of_shape(found: tuple[int | None, ...], shape: tuple[int, ...]) -> str:
    """What to do about pixels of a wrong shape."""
    if len(shape) == 3 and found[1:] == (shape[1], shape[2], shape[0]):
        return "images are (N, C, H, W) here: transpose them by (0, 3, 1, 2)"
    if found == shape:
        return "give a batch, also of one: images[None]"
    if len(shape) == 3 and len(found) == 4 and found[1] in (None, shape[0]):
        return f"resize the images to {shape[1]} x {shape[2]}"
    return "give images as they were read, in the network's size"


def _of_floats(x: Any) -> str:
    """What to do about pixels of another type."""
    if (
        isinstance(x, np.ndarray)
        and x.dtype.kind == "f"
        and (finite := x[np.isfinite(x)]).size
        and (0.0 < finite.max() <= 1.0 or finite.min() < 0.0)
    ):
        return (
            "these look divided by 255 or normalised, which the network does itself: give the images as they were read"
        )
    return (
        "give images as they were read, whole numbers 0 to 255 as uint8: the network divides and normalises them itself"
    )


def _shape_of(x: Any) -> tuple[int | None, ...] | None:
    """The shape; None where the rank is not known."""
    shape = getattr(x, "shape", None)
    return None if shape is None or getattr(shape, "rank", 0) is None else tuple(shape)


def _dtype_name(dtype: Any) -> str:
    return str(getattr(dtype, "name", dtype))


def _is_uint8(dtype: Any) -> bool:
    return _dtype_name(dtype).lower().rpartition(".")[2] == "uint8"


def _counted(count: int, word: str) -> str:
    return f"{count} {word}{'s' * (count != 1)}"
