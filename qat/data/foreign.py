"""Data as users of frameworks have them - arrays, tensors, a DataLoader, a map-style data set - found by what they can do."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from qat.data.dataset import Dataset, Split
from qat.errors import QatError, one_line, shortened
from qat.vocabulary.arrays import as_arrays
from qat.vocabulary.ops import Array
from qat.vocabulary.rows import Rows

TAKES = "give a qat.data.Dataset, a DataLoader, a data set whose samples are pairs (x, y), or batches of such; or (train, test)"


def is_array(x: Any) -> bool:
    """Whether it is an array, or a tensor of any framework."""
    return hasattr(x, "shape") and hasattr(x, "dtype")


def as_numpy(x: Any, what: str) -> Array:
    """A tensor of any framework, on any device, as an array: by methods that frameworks have for it.

    Raises:
        QatError: it cannot be read as one; what: it is, for the message.
    """
    if isinstance(x, np.ndarray):
        return x
    try:
        # TensorFlow's have a cpu that is deprecated, and says so, but nothing to detach.
        for method in ("detach", "cpu", "asnumpy") if hasattr(x, "detach") else ("asnumpy",):
            move: Callable[[], Any] | None = getattr(x, method, None)
            x = x if move is None else move()
        return np.asarray(x)
    except Exception as error:  # of a framework's own kinds
        raise QatError(f"{what}: {type(x).__name__} cannot be read as a NumPy array ({error}); give arrays") from None


def dataset_of(train: Any, test: Any = None, *, class_names: Sequence[str] = ()) -> Dataset:
    """A data set of what other frameworks' loops take.

    Of a DataLoader its data set is taken, and not the batches: their size and order are those of the ``Recipe``, so that a
    training can be repeated and resumed. A data set that can be indexed is read sample by sample, when they are needed, with
    its transforms, which may be random: then each epoch sees others, and a repeated training is not the same to the bit.
    Anything else that gives batches is read once and kept in memory.

    Args:
        train: a DataLoader; a data set with ``len`` and indices, whose samples are (x, y), or (x1, x2, y) for several inputs;
            or anything that gives batches of such. x is what the network takes, channels first; y a class, or the numbers of a
            regression.
        test: likewise; None, the default: there is no test part.
        class_names: what the classes are called; none by default.

    Returns:
        The data set.

    Raises:
        QatError: it gives something else.

    >>> import numpy as np, qat
    >>> batches = [(np.zeros((8, 1, 4, 4), np.uint8), np.arange(8) % 3) for _ in range(5)]
    >>> qat.data.dataset_of(batches).train
    Split of 40 samples of 1 x 4 x 4
    """
    own = _split(train, "train")
    nothing = np.zeros(0, np.int64)
    other = own.chosen(nothing) if test is None else _split(test, "test")
    name = type(train).__name__
    return Dataset(name, f"a {name}", own, other, class_names=tuple(class_names))


def as_dataset(given: Any, batch_size: int | None) -> Any:
    """What a training is given, as a data set where it is a DataLoader or the like, or a pair of such (``dataset_of``).

    Args:
        given: a data set, which stays as it is, as does what is no data.
        batch_size: that of the recipe.

    Raises:
        QatError: a DataLoader has batches of another size, which would not count.
    """
    pair = given if isinstance(given, tuple) and len(given) == 2 else (given, None)
    gives = any(hasattr(pair[0], name) for name in ("dataset", "__iter__", "__getitem__"))
    if isinstance(given, Dataset) or isinstance(pair[0], (str, bytes, dict)) or is_array(pair[0]) or not gives:
        return given
    size = getattr(pair[0], "batch_size", None)
    if isinstance(size, int) and batch_size is not None and size != batch_size:
        raise QatError(
            f"train: the DataLoader has batches of {size}, but the recipe of {batch_size}, which counts; give "
            f"qat.Recipe(batch_size={size}, ...)"
        )
    return dataset_of(*pair)


def _split(given: Any, what: str) -> Split:
    if isinstance(given, Split):
        return given
    loader = hasattr(given, "dataset") and not hasattr(given, "__getitem__")  # a part of a data set has both
    items = given.dataset if loader else given
    of_samples = hasattr(items, "__getitem__") and hasattr(items, "__len__") and not isinstance(items, (list, tuple))
    if loader and of_samples:
        _check_order(given, what)
    # Of a class that derives from torch's, samples may be something else than the tensors' rows.
    tensors = getattr(items, "tensors", None) if type(items).__name__ == "TensorDataset" else None
    if isinstance(tensors, tuple) and len(tensors) > 1 and all(map(is_array, tensors)):
        *images, labels = (as_numpy(x, what) for x in tensors)
        return Split(as_arrays(tuple(images)), labels)
    if isinstance(given, (str, bytes, dict)) or is_array(given):
        raise QatError(f"{what} is {shortened(given)}; {TAKES}")
    if of_samples and len(items):
        return _indexed(items, what)
    if not isinstance(given, Iterable):
        raise QatError(f"{what} is {shortened(given)}; {TAKES}")
    return _gathered(given, what)


def _check_order(loader: Any, what: str) -> None:
    """Raise QatError where a DataLoader gives other samples than its data set, or makes something else of them."""
    sampler, collate = getattr(loader, "sampler", None), getattr(loader, "collate_fn", None)
    plain = sampler is None or type(sampler).__name__ in ("SequentialSampler", "RandomSampler")
    count = getattr(sampler, "num_samples", None)
    if not plain or (count is not None and count != len(loader.dataset)):
        found = f"its {type(sampler).__name__} chooses"
    elif collate is not None and getattr(collate, "__name__", "") != "default_collate":
        found = f"its collate_fn {getattr(collate, '__name__', type(collate).__name__)} makes"
    else:
        return
    raise QatError(
        f"{what} is a DataLoader, of which the data set is taken; but {found} other samples than the data set has; give a "
        "data set that has them, as torch.utils.data.Subset, or all batches as a list, list(loader)"
    )


def _indexed(items: Any, what: str) -> Split:
    """The samples of a data set that can be indexed; they are read when they are needed."""
    images, label = _parts(items[0], what)
    rows: tuple[Any, ...] = tuple(_Items(items, place, x, what) for place, x in enumerate(images))
    known = _known_labels(items)
    # What the data set gives counts, where it makes other labels of those that it has at hand.
    if known is not None and not np.array_equal(known[0], label):
        known = None
    if known is None:
        if label.ndim:
            raise QatError(
                f"{what}: a label is an array {label.shape}, which would be read apart from its image, and a random transform "
                "would change the two differently; give arrays, qat.Split(images, labels)"
            )
        known = np.array([_parts(items[number], what)[1] for number in range(len(items))])
    return Split(as_arrays(rows), known)


class _Items(Rows):
    """One part of the samples of a data set."""

    def __init__(self, items: Any, place: int, first: Array, what: str) -> None:
        self._items, self._place, self._what = items, place, what
        self.shape, self.dtype = (len(items), *first.shape), first.dtype

    def read(self, number: int) -> Array:
        found = _parts(self._items[number], self._what)[0][self._place]
        if found.shape != self.shape[1:]:
            raise QatError(
                f"{self._what}: sample {number} has shape {found.shape}, but the first one {self.shape[1:]}; give "
                "samples of one shape"
            )
        return found


def _known_labels(items: Any) -> Array | None:
    """The classes of all samples where the data set has them at hand, as those of torchvision and subsets of them have."""
    inner, indices = getattr(items, "dataset", None), getattr(items, "indices", None)
    if inner is not None and indices is not None:
        of_all = _known_labels(inner)
        return None if of_all is None else of_all[np.asarray(indices)]
    if getattr(items, "target_transform", None) is not None:
        return None
    found = getattr(items, "targets", None)
    labels = None if found is None else as_numpy(found, "targets")
    fits = labels is not None and labels.shape == (len(items),) and labels.dtype.kind in "iu"
    return labels if fits else None


def _gathered(batches: Iterable[Any], what: str) -> Split:
    """All batches, in memory."""
    found = [_parts(batch, what) for batch in batches]
    if not found:
        raise QatError(f"{what} gives no batch (it may have been read to its end before); give at least one")
    try:
        images = tuple(np.concatenate(parts) for parts in zip(*(images for images, _ in found), strict=True))
        return Split(as_arrays(images), np.concatenate([labels for _, labels in found]))
    except ValueError as error:
        raise QatError(
            f"{what} gives batches that do not fit together ({one_line(error)}); give samples of one shape, with labels"
        ) from None


def _parts(sample: Any, what: str) -> tuple[tuple[Array, ...], Array]:
    """Inputs and label of a sample, or of a batch."""
    parts = list(sample) if isinstance(sample, (tuple, list)) else [sample]
    if parts and isinstance(parts[0], (tuple, list)):
        parts = [*parts[0], *parts[1:]]
    wrong = next((x for x in parts[:-1] if not is_array(x)), None)
    if len(parts) < 2 or wrong is not None:
        found = shortened(sample if wrong is None else wrong)
        raise QatError(f"{what} gives {found}, but pairs (x, y) of arrays or tensors are needed; {TAKES}")
    *images, label = parts
    return tuple(as_numpy(x, what) for x in images), as_numpy(label, what)
