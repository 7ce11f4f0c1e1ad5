"""Samples without labels, as ``run`` takes them: pictures, folders of them, arrays in .npz and .npy files."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, cast

import numpy as np

from qat.data import load
from qat.data.pictures import SUFFIXES, read_picture
from qat.data.readers.arrays import dataset_of, read_npy
from qat.errors import QatError
from qat.reading import reading
from qat.scripts.common.pictures import AT_ONCE, Classifier, merged, print_changes
from qat.vocabulary.arrays import as_tuple
from qat.vocabulary.ops import Array

ARRAYS = (".npz", ".npy")
ADVICE = "give a picture, a folder of pictures, or a .npz or .npy file of samples"


def samples_of(paths: Sequence[str], classifier: Classifier) -> Iterator[tuple[list[str], Array]]:
    """All samples in the shape that a model takes, some at a time; what was done to pictures is noted at the end.

    Args:
        paths: of pictures, folders of pictures at any depth, .npz files with an array x, x_test or x_train, or .npy files
            of samples (N, ...) or of one sample.
        classifier: the model.

    Yields:
        Names, as "folder/a.png" or "x.npz[3]", and samples (N, ...).

    Raises:
        QatError: where there are no samples.
    """
    pictures: list[str] = []
    for path in paths:
        if path.lower().endswith(ARRAYS) and os.path.isfile(path):
            images = _array(path, classifier)
            for start in range(0, len(images), AT_ONCE):
                part = images[start : start + AT_ONCE]
                yield [f"{path}[{start + number}]" for number in range(len(part))], part
        else:
            pictures += pictures_below(path)
    changes = Counter[str]()
    for start in range(0, len(pictures), AT_ONCE):
        names, pixels = pictures[start : start + AT_ONCE], []
        for name in names:
            one, changed = read_picture(name, classifier.shape, classifier.preparation)
            pixels.append(one)
            changes.update(changed)
        yield names, np.stack(pixels)
    if len(pictures) == 1:
        print_changes([f"{pictures[0]} was {change}" for change in changes])
    else:
        found = merged(changes).items()
        print_changes([f"{count:,} of {len(pictures):,} pictures {change}" for change, count in found])


def pictures_below(path: str) -> list[str]:
    """The pictures in a folder and in those below it, sorted, but for hidden ones; of a file itself."""
    if not os.path.isdir(path):
        return [path]
    found: list[str] = []
    with reading(path, "a folder of pictures", ADVICE):
        for folder, below, names in os.walk(path):
            below[:] = sorted(name for name in below if not name.startswith("."))
            shown = [name for name in names if name.lower().endswith(SUFFIXES) and not name.startswith(".")]
            found += [os.path.join(folder, name) for name in sorted(shown)]
    if not found:
        raise QatError(f"{path}: has no pictures ({', '.join(SUFFIXES)}) in it or in folders below; {ADVICE}")
    return found


def has_no_labels(path: str) -> bool:
    """Whether it is a picture, or a folder of pictures that lie in it without a list, so that nothing says what they show."""
    if os.path.isfile(path):
        return path.lower().endswith(SUFFIXES)
    try:
        names = os.listdir(path)
    except OSError:
        return False
    listed = any(name == "index.txt" or name.endswith(".csv") for name in names)
    return not listed and any(name.lower().endswith(SUFFIXES) for name in names)


def _array(path: str, classifier: Classifier) -> Any:
    if path.lower().endswith(".npy"):
        array = read_npy(path)
        array = array[np.newaxis] if array.shape == classifier.shape else array
        dataset = dataset_of(path, path, {"x": array}, True)
    else:
        dataset = load(path, for_folds=True)
    dataset = dataset.resized(classifier.shape, classifier.preparation)
    split = dataset.test if len(dataset.test) else dataset.train
    return as_tuple(cast(Any, split.images))[0]
