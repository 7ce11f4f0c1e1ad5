"""Arrays of samples: one for each input of a network, checked and cut into batches."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np

from qat.errors import QatError
from qat.tables import counted
from qat.vocabulary.ops import Array
from qat.vocabulary.rows import Rows, in_order

Arrays = Array | tuple[Array, ...]  #: one array for a network with one input (output), else a tuple
Key = TypeVar("Key")
PIXELS = "uint8"  #: the dtype of raw pixels
#: that the largest tensor of a batch may take where nobody says how many samples it has: about what a processor's caches hold
WORKING_BYTES = 16 << 20


class ArraySpec(NamedTuple):
    """What an array of samples has to be: the shape of one of them, (C, H, W), (C, L) or (F,), and its dtype.

    >>> from qat.vocabulary.arrays import ArraySpec
    >>> str(ArraySpec((1, 49, 10), "int8"))
    'int8 (N, 1, 49, 10)'
    """

    shape: tuple[int, ...]
    dtype: str = PIXELS

    def __str__(self) -> str:
        return f"{self.dtype} (N, {', '.join(map(str, self.shape))})"


def as_tuple(arrays: Arrays) -> tuple[Array, ...]:
    """The arrays as a tuple, with one element for each input."""
    return tuple(arrays) if isinstance(arrays, (tuple, list)) else (arrays,)


def as_arrays(arrays: tuple[Array, ...]) -> Arrays:
    """The inverse of ``as_tuple``."""
    return arrays[0] if len(arrays) == 1 else arrays


def in_batches(
    function: Callable[[tuple[Array, ...]], Mapping[Key, Array]],
    samples: Arrays,
    specs: Sequence[ArraySpec],
    batch_size: int,
    name: str,
) -> dict[Key, Array]:
    """Apply a function to samples batch by batch, and join the results along their first axis.

    Args:
        function: from a batch, a tuple with an array for each input, to results by key, (N, ...) each.
        samples: (N, ...), an array or ``Rows``; a tuple of them for a network with several inputs.
        specs: of each input.
        batch_size: samples in a batch.
        name: of the network or file, for messages.

    Returns:
        Results by key.

    Raises:
        QatError: where the samples do not have these shapes and dtypes or are not finite, there are none, or not equally
            many for each input.
    """
    parts = []
    for batch in batches_of(samples, specs, batch_size, name):
        parts.append(function(batch))
        rows = {(np.shape(x) or (0,))[0] for x in parts[-1].values()} - {len(batch[0])}
        if rows:
            raise QatError(
                f"{name}: gives {min(rows)} results for {len(batch[0])} samples, so it is damaged; export it again"
            )
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}


def samples_that_fit(shapes: Iterable[tuple[int, ...]], most: int, working_bytes: int = WORKING_BYTES) -> int:
    """How many samples to compute at a time: memory, and what moves through caches, grows with them.

    Args:
        shapes: of all tensors of one sample, held in float32.
        most: where all are small.
        working_bytes: that the largest tensor may take.

    Returns:
        At least 1.
    """
    return max(1, min(most, working_bytes // (4 * max((math.prod(shape) for shape in shapes), default=1))))


class Batches(Sequence[tuple[Array, ...]]):
    """Samples cut into batches, each of which is read when it is asked for."""

    def __init__(self, samples: tuple[Array | Rows, ...], specs: Sequence[ArraySpec], size: int, name: str) -> None:
        self._samples, self._specs, self._size, self._name = samples, specs, size, name

    def __len__(self) -> int:
        return -(-len(self._samples[0]) // self._size)

    def __getitem__(self, number: Any) -> Any:
        if not 0 <= number < len(self):
            raise IndexError(number)
        at = number * self._size
        return self._checked(tuple(x[at : at + self._size] for x in self._samples), at)

    def __iter__(self) -> Iterator[tuple[Array, ...]]:
        at = 0
        for batch in in_order(self._samples, self._size, self._name):
            yield self._checked(batch, at)
            at += len(batch[0])

    def _checked(self, batch: tuple[Array, ...], first: int) -> tuple[Array, ...]:
        for x, spec in zip(batch, self._specs, strict=True):
            check_finite(x, spec, self._name, first)
        return batch


def batches_of(samples: Arrays, specs: Sequence[ArraySpec], batch_size: int, name: str) -> Batches:
    """Check samples as ``in_batches`` does, and cut them into batches.

    Args:
        samples: (N, ...), an array or ``Rows``; a tuple of them for a network with several inputs.
        specs: of each input.
        batch_size: samples in a batch.
        name: of the network or file, for messages.

    Returns:
        Batches, read one by one; the last one may be smaller.

    Raises:
        QatError: as ``in_batches``; for numbers that are not finite where a batch is taken.
    """
    inputs = as_tuple(samples)
    check_samples(inputs, specs, (np.ndarray, Rows), name)
    if isinstance(batch_size, bool) or not isinstance(batch_size, (int, np.integer)) or batch_size < 1:
        raise QatError(f"batch_size is {batch_size!r}; use a whole number of at least 1")
    return Batches(inputs, specs, int(batch_size), name)


def check_finite(x: Array, spec: ArraySpec, name: str, first: int = 0) -> None:
    """Raise QatError where real numbers are infinite or NaN: runtimes would not agree about their codes.

    Args:
        x: (N, ...).
        spec: what it should be; whole numbers are not looked at.
        name: of the network or file.
        first: the number of its first sample among all, for the message.
    """
    if spec.dtype.startswith("float") and not np.isfinite(x).all():
        at = np.argwhere(~np.isfinite(x))[0]
        raise QatError(
            f"{name}: sample {first + int(at[0])} holds {x[tuple(at)]} at {at[1:].tolist()}, which has no code; mend or leave "
            "out such samples"
        )


def check_samples(inputs: Sequence[Any], specs: Sequence[ArraySpec], kind: type | tuple[type, ...], name: str) -> None:
    """Check that there is a tensor of samples for each input, with equally many samples and at least one.

    Nothing is converted, on any backend. Where a network takes pixels, a float could be a pixel, or a pixel divided by 255,
    or a normalised one, and while a pass is compiled its type is all that is known of it.

    Args:
        inputs: tensors.
        specs: of each input. Sizes of a tensor that are not known yet, None, fit, and so does an unknown rank.
        kind: the class of the framework's tensors, or several, the first of which messages name.
        name: of the network or file, for messages.

    Raises:
        QatError: saying what to do with the given tensors.
    """
    if len(inputs) != len(specs):
        inputs_of, arrays = counted(len(specs), "input"), counted(len(inputs), "array")
        raise QatError(f"{name}: has {inputs_of} but got {arrays}; give one for each, (N, C, H, W) or (N, F)")
    counts = []
    for spec, x in zip(specs, inputs, strict=True):
        found = _shape_of(x)
        if not isinstance(x, kind) or getattr(x, "dtype", None) is None:
            wanted = kind[0] if isinstance(kind, tuple) else kind
            raise _wrong(
                name,
                spec,
                f"a {type(x).__name__}",
                "give an array"
                if wanted is object
                else f"give a {wanted.__module__.partition('.')[0]} {wanted.__name__}",
            )
        check_dtype(x, spec, name)
        if found is None:
            continue
        if not _fits(found, spec):
            raise wrong_shape(name, spec, found)
        counts.append(found[0])
    known = [count for count in counts if count is not None]
    if any(count == 0 for count in known):
        raise empty_batch(name)
    if any(count != known[0] for count in known):
        raise QatError(f"{name}: its inputs hold {known} samples; give equally many of each")


def check_dtype(x: Any, spec: ArraySpec, name: str) -> None:
    """Raise QatError where an array, or a tensor of any framework, is of another dtype than the network or file takes."""
    if _dtype_name(x.dtype) != spec.dtype:
        raise _wrong(name, spec, f"{_shown(x.dtype)} {_shape_of(x)}", _of_dtype(x, spec))


def _fits(found: tuple[int | None, ...], spec: ArraySpec) -> bool:
    """Whether a batch has the right shape."""
    return len(found) == len(spec.shape) + 1 and all(a in (None, b) for a, b in zip(found[1:], spec.shape, strict=True))


def empty_batch(name: str) -> QatError:
    """The error for a batch without samples."""
    return QatError(f"{name}: there are no images, the batch is empty; give at least one")


def wrong_shape(name: str, spec: ArraySpec, found: tuple[int | None, ...]) -> QatError:
    """The error for samples of the right dtype and a wrong shape.

    Args:
        name: of the network or file.
        spec: what they should be.
        found: the shape of the batch.

    Returns:
        An error with advice, not raised.
    """
    return _wrong(name, spec, f"{spec.dtype} {found}", _of_shape(found, spec))


def _wrong(name: str, spec: ArraySpec, found: str, advice: str) -> QatError:
    what = "raw pixels, " if spec.dtype == PIXELS else ""
    return QatError(f"{name}: takes {what}{spec}, but got {found}; {advice}")


def _of_shape(found: tuple[int | None, ...], spec: ArraySpec) -> str:
    """What to do about samples of a wrong shape."""
    shape = spec.shape
    if len(shape) == 3 and found[1:] == (shape[1], shape[2], shape[0]):
        return "images are (N, C, H, W) here: transpose them by (0, 3, 1, 2)"
    if len(shape) == 3 and found[1:] == (shape[2], shape[0], shape[1]):
        return "images are (N, H, W, C) here: transpose them by (0, 2, 3, 1)"
    if found == shape:
        return "give a batch, also of one: images[None]"
    if len(shape) == 3 and len(found) == 4 and found[1] in (None, shape[0]):
        return f"resize the images to {shape[1]} x {shape[2]}; those of a data set: dataset.resized({shape})"
    return "give images as they were read, in the network's size"


def _of_dtype(x: Any, spec: ArraySpec) -> str:
    """What to do about samples of another dtype."""
    if spec.dtype != PIXELS:
        found = _shape_of(x)
        if found is not None and not _fits(found, spec):
            return "give samples that it takes, or the network or file that takes these"
        if spec.dtype.startswith("float"):
            of_tensor = spec.dtype == "float32" and hasattr(x, "float")
            return f"give real numbers as {spec.dtype}: {'x.float()' if of_tensor else f'x.astype(np.{spec.dtype})'}"
        return f"give the codes of its input as {spec.dtype}"
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


def _shown(dtype: Any) -> str:
    return str(getattr(dtype, "name", dtype))


def _dtype_name(dtype: Any) -> str:
    """Its name as NumPy's, whatever the framework calls it: "torch.uint8", "UInt8"."""
    return _shown(dtype).lower().rpartition(".")[2]
