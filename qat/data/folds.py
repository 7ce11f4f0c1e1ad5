"""Cross-validation: the training images in folds of which each is once the test."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import overload

import numpy as np

from qat.data.dataset import Dataset
from qat.errors import QatError
from qat.vocabulary.ops import Array


@dataclass(frozen=True, eq=False)
class Folds(Sequence[Dataset]):
    """A data set once for each fold, made when it is asked for, so that only that one's images are copied.

    parts: of each fold the numbers of the samples to train on, and of those to test with.
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
    """The data set ``count`` times, a different fold of its training images standing in place of the test images.

    Every fold has about the same share of each label. Where the samples have groups, no group is parted. Which samples a
    fold has depends on the seed alone. Raises QatError where there are too few samples, or groups, and without
    scikit-learn.
    """
    try:
        from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold
    except ModuleNotFoundError:
        raise QatError(
            "cross-validation needs scikit-learn, which is not installed: pip install 'qat-engine[study]'"
        ) from None
    labels, groups = dataset.train.labels, dataset.train.groups
    available, what = int(np.bincount(labels)[np.unique(labels)].min()), "images of its rarest label"
    if groups is not None and len(np.unique(groups)) < available:
        available, what = len(np.unique(groups)), "groups of images"
    if not 2 <= count <= available:
        use = f"a number from 2 to {available}" if available >= 2 else "more images"
        raise QatError(f"{dataset.source}: {count} folds of {available} {what}; use {use}")
    kind = StratifiedKFold if groups is None else StratifiedGroupKFold
    parts = kind(count, shuffle=True, random_state=seed).split(np.zeros(len(labels)), labels, groups)
    return Folds(dataset, tuple(parts))
