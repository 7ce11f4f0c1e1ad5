"""Cross-validation: the training images in folds of which each is once the test."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from qat.data.dataset import Dataset
from qat.errors import QatError


def cross_validation(dataset: Dataset, count: int = 10, seed: int = 0) -> list[Dataset]:
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
    split = dataset.train
    labels, groups = split.labels, split.groups
    available = int(np.bincount(labels)[np.unique(labels)].min()) if groups is None else len(np.unique(groups))
    if not 2 <= count <= available:
        what = "images of its rarest label" if groups is None else "groups of images"
        raise QatError(f"{dataset.source}: {count} folds of {available} {what}; use a number from 2 to {available}")
    kind = StratifiedKFold if groups is None else StratifiedGroupKFold
    parts = kind(count, shuffle=True, random_state=seed).split(np.zeros(len(labels)), labels, groups)
    return [
        replace(
            dataset,
            name=f"{dataset.name}, fold {number} of {count}",
            train=split.chosen(train),
            test=split.chosen(test),
        )
        for number, (train, test) in enumerate(parts, 1)
    ]
