"""Gathered as users of a framework have them - arrays, tensors, a DataLoader, a tf.data.Dataset - as NumPy arrays."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from qat.data.foreign import as_numpy, is_array
from qat.errors import QatError, shortened
from qat.tables import counted
from qat.vocabulary.arrays import ArraySpec, check_dtype
from qat.vocabulary.ops import Array

MOST = 512  #: samples that are taken of an iterable; an array is in memory already and is taken whole


class Gathered(NamedTuple):
    """Some samples.

    Attributes:
        images: an array for each input, (N, ...).
        labels: the arrays that came with them, (N, ...) each; what is no array is left out.
    """

    images: tuple[Array, ...]
    labels: tuple[Array, ...] = ()

    def first(self, count: int) -> Gathered:
        """So many of them, in memory of their own."""
        return Gathered(*(tuple(x[:count].copy() for x in arrays) for arrays in self))


def gathered(given: Any, specs: Sequence[ArraySpec], name: str, what: str) -> Gathered:
    """Gathered from whatever gives them.

    Args:
        given: an array or tensor (N, ...); a tuple of arrays, one for each input, with or without labels behind them; or
            anything that gives such when it is iterated over, one batch after another.
        specs: of the network's inputs, by whose number a tuple is understood.
        name: of the network, for messages.
        what: the argument, for messages.

    Returns:
        All of an array, the first ``MOST`` of batches. Shapes are not looked at.

    Raises:
        QatError: it gives no arrays, or those of another dtype, or nothing at all.
    """
    if is_array(given) or isinstance(given, tuple):
        return _batch(given, specs, name, what)
    if not isinstance(given, Iterable) or isinstance(given, (str, bytes, dict)):
        raise _refused(given, specs, name, what)
    batches: list[Gathered] = []
    count = 0
    for batch in given:
        batches.append(_batch(batch, specs, name, what))
        count += len(batches[-1].images[0])
        if count >= MOST:
            break
    if not batches:
        raise QatError(
            f"{name}: {what} gives no batch (it may have been read to its end before); give at least one image"
        )
    try:
        joined = Gathered(*(_joined([batch[place] for batch in batches]) for place in (0, 1)))
    except ValueError as error:
        raise QatError(
            f"{name}: {what} gives batches that do not fit together ({error}); give samples of one shape"
        ) from None
    return joined if count <= MOST else joined.first(MOST)


def first_of(given: Any) -> Array | None:
    """The first sample of what ``gathered`` takes for one input, (1, ...); None where it gives none, or only once."""
    while not is_array(given):
        again = isinstance(given, Iterable) and not isinstance(given, (str, bytes, dict)) and iter(given) is not given
        if not again or (given := next(iter(given), None)) is None:
            return None
    return as_numpy(given[:1], "first_of: the first sample") if len(given.shape) else None


def _joined(batches: Sequence[tuple[Array, ...]]) -> tuple[Array, ...]:
    """The batches of each array behind one another; without arrays that some batches do not have."""
    return tuple(np.concatenate(parts) for parts in zip(*batches, strict=False))


def _batch(batch: Any, specs: Sequence[ArraySpec], name: str, what: str) -> Gathered:
    """One array, or as many as there are inputs, which may be a tuple of their own, and labels behind them."""
    inputs = len(specs)
    parts = list(batch) if isinstance(batch, (tuple, list)) else [batch]
    if parts and isinstance(parts[0], (tuple, list)):
        parts = [*parts[0], *parts[1:]]
    wrong = next((x for x in parts[:inputs] if not is_array(x) or not len(x.shape)), None)
    if wrong is not None or len(parts) < inputs:
        found = f"{len(parts)} arrays" if wrong is None else shortened(wrong)
        raise QatError(
            f"{name}: {what} gives {found}, but the network takes {counted(inputs, 'input')}; give arrays or tensors "
            "(N, ...), or tuples of them with labels behind"
        )
    for x, spec in zip(parts, specs, strict=False):
        check_dtype(x, spec, name)  # a tensor's own words; as an array it would be told what arrays do
    images, labels = (
        tuple(as_numpy(x, f"{name}: {what}") for x in half if is_array(x)) for half in (parts[:inputs], parts[inputs:])
    )
    if len({len(x) for x in images}) > 1:
        raise QatError(
            f"{name}: {what} gives {', '.join(str(len(x)) for x in images)} samples; give equally many for each input"
        )
    fit = len(labels) == len(parts) - inputs and all(x.shape[:1] == images[0].shape[:1] for x in labels)
    return Gathered(images, labels if fit else ())


def _refused(given: Any, specs: Sequence[ArraySpec], name: str, what: str) -> QatError:
    wanted = ", ".join(map(str, specs))
    return QatError(
        f"{name}: {what} is {shortened(given)}; give an array or tensor {wanted}, or batches of them, as a DataLoader gives"
    )
