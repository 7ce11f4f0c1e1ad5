"""What a reader of data sets is, and what several of them need."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from qat.data.dataset import Dataset, Split
from qat.errors import QatError
from qat.vocabulary.ops import Array

SHARE, SEED = 0.2, 0  #: of the samples that are held back where a data set has no test part; and of their choice
SHOWN = 4  #: names in a message
PARTS = ("train", "val", "test")  #: of a data set


@dataclass(frozen=True)
class Reader:
    """One kind of data set.

    Attributes:
        looks_for: what it recognises a folder or a file by, in a few words, for the message about one that nobody recognises;
            nothing where it reads neither.
        recognizes: whether a path is one for it. It looks at names, and at a file's first lines, and raises nothing.
        read: the data set of a path; the second argument is ``for_folds`` of ``qat.data.load``.
    """

    looks_for: str
    recognizes: Callable[[str], bool]
    read: Callable[[str, bool], Dataset]


def with_test(dataset: Dataset, for_folds: bool) -> Dataset:
    """A data set of training samples alone, of which a share becomes the test.

    About the same share of each class, chosen by a seed; of groups whole ones. For folds, nothing is held back.

    Raises:
        QatError: where there are too few.
    """
    train = dataset.train
    empty = train.chosen(np.arange(0))
    if for_folds:
        return replace(dataset, test=empty)
    if len(train) < 2:
        raise QatError(
            f"{dataset.source}: there is {len(train)} sample, too few to train on some and test with others; add more"
        )
    if train.classes is None or train.groups is not None:
        held = replace(dataset, test=empty).held_back(max(1, int(SHARE * len(train))), SEED)
        return replace(held, name=_name(dataset.name, len(held.test)))
    rng = np.random.default_rng(SEED)
    test: list[Array] = []
    for label in np.unique(train.classes):
        members = rng.permutation(np.flatnonzero(train.classes == label))
        if len(members) < 2:
            named = label < len(dataset.class_names)
            name = repr(dataset.class_names[label]) if named else str(label)
            raise QatError(
                f"{dataset.source}: class {name} has 1 sample, too few to train on some and test with others; add samples, "
                "or give a test part of its own"
            )
        test.append(members[: max(1, round(SHARE * len(members)))])
    held_back = np.sort(np.concatenate(test))
    kept = np.setdiff1d(np.arange(len(train)), held_back)
    name = _name(dataset.name, len(held_back))
    return replace(dataset, name=name, train=train.chosen(kept), test=train.chosen(held_back))


def _name(name: str, held_back: int) -> str:
    return f"{name}, {held_back:,} held back as test"


def named(paths: Iterable[str]) -> str:
    """A few names for a message."""
    names = list(paths)
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else "")


def name_of(path: str) -> str:
    """What a data set is called: the last part of its path, without an ending."""
    return os.path.splitext(os.path.basename(os.path.abspath(path)))[0] or path


def check_samples(source: str, split: Split, part: str) -> None:
    """Raise QatError where there is nothing in it."""
    if not len(split):
        raise QatError(f"{source}: its {part} part holds no samples; add some, or leave it out")


def of_parts(
    source: str,
    name: str,
    parts: dict[str, Split],
    for_folds: bool,
    class_names: Sequence[str] = (),
) -> Dataset:
    """A data set from its parts: "train", and "test" or "val", which accuracy is measured on.

    Args:
        source: where it is from.
        name: what it is.
        parts: by name.
        for_folds: of ``qat.data.load``.
        class_names: what the labels mean.

    Returns:
        The data set; where there is neither test nor val, a share is held back.
    """
    for part, split in parts.items():
        check_samples(source, split, part)
    measured = next((part for part in ("test", "val") if part in parts), None)
    train = parts["train"]
    if measured is None:
        return with_test(Dataset(name, source, train, train, tuple(class_names)), for_folds)
    name = f"{name}, tested on val" if measured == "val" else name
    return Dataset(name, source, train, parts[measured], tuple(class_names))
