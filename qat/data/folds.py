"""Cross-validation: the training images are divided into folds, and each fold is the test once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import overload

import numpy as np

from qat.data.dataset import Dataset
from qat.errors import QatError
from qat.extras import how_to_install
from qat.tables import counted
from qat.vocabulary.ops import Array


@dataclass(frozen=True, eq=False)
class Folds(Sequence[Dataset]):
    """A data set for each fold. Each is made when it is asked for, so that images of one fold at a time are copied.

    Args:
        dataset: the data set whose training images are divided.
        parts: for each fold the numbers of the samples to train on, and of those to test with.
    """

    dataset: Dataset
    parts: tuple[tuple[Array, Array], ...]

    def __len__(self) -> int:
        return len(self.parts)

    @overload
    def __getitem__(self, number: int) -> Dataset: ...
    @overload
    def __getitem__(self, number: slice) -> Sequence[Dataset]: ...
    def __getitem__(self, number: int | slice) -> Dataset | Sequence[Dataset]:
        if isinstance(number, slice):
            return [self[i] for i in range(*number.indices(len(self)))]
        train, test = self.parts[number]
        return replace(
            self.dataset,
            name=f"{self.dataset.name}, fold {range(len(self))[number] + 1} of {len(self)}",
            train=self.dataset.train.chosen(train),
            test=self.dataset.train.chosen(test),
        )


def cross_validation(dataset: Dataset, count: int = 10, seed: int = 0) -> Folds:
    """Divide the training images into folds, each of which takes the place of the test images once.

    Every fold has about the same share of each label where labels are classes, and groups are kept whole.

    Args:
        dataset: what is divided; its own test images are not used.
        count: how many folds; 10 by default.
        seed: which samples a fold has depends on it alone.

    Returns:
        ``count`` data sets.

    Raises:
        QatError: where there are too few samples, or groups, and where scikit-learn is not installed.
    """
    try:
        from sklearn.model_selection import GroupKFold, KFold, StratifiedGroupKFold, StratifiedKFold
    except ModuleNotFoundError:
        raise QatError(
            f"cross-validation needs scikit-learn, which is not installed: {how_to_install('study')}"
        ) from None
    labels, groups = dataset.train.classes, dataset.train.groups
    available, what = len(dataset.train), "sample"
    if labels is not None:
        available, what = int(np.bincount(labels)[np.unique(labels)].min()), "image of its rarest label"
    if groups is not None and len(np.unique(groups)) < available:
        available, what = len(np.unique(groups)), "group of images"
    if not 2 <= count <= available:
        thing, _, more = what.partition(" of ")
        of = counted(available, thing) + (more and f" of {more}")
        use = f"a number from 2 to {available}" if available >= 2 else "more images"
        raise QatError(f"{dataset.source}: {counted(count, 'fold')} of {of}; use {use}")
    rows = np.zeros(len(dataset.train))
    if labels is None and groups is not None:
        parts = GroupKFold(count).split(rows, None, groups)
    elif labels is None:
        parts = KFold(count, shuffle=True, random_state=seed).split(rows)
    else:
        kind = StratifiedKFold if groups is None else StratifiedGroupKFold
        parts = kind(count, shuffle=True, random_state=seed).split(rows, labels, groups)
    return Folds(dataset, tuple(parts))
