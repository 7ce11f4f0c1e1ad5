"""The 1,797 real handwritten digits that scikit-learn ships (UCI optdigits): nothing to download."""

from __future__ import annotations

import numpy as np

from qat.data.dataset import Dataset, Split
from qat.data.readers.base import Reader
from qat.data.readers.idx import DIGIT_NAMES
from qat.errors import QatError
from qat.extras import how_to_install
from qat.vocabulary.ops import Array

DIGITS = "digits"  #: the --data_path of the digits that come with scikit-learn


def read_digits() -> tuple[Array, Array]:
    """uint8 images (1797, 1, 8, 8) and int64 labels (1797,). Raises QatError without scikit-learn."""
    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError:
        raise QatError(
            f"--data_path digits needs scikit-learn, which is not installed: {how_to_install('study')}"
        ) from None
    data = load_digits()
    images = np.rint(data.images * (255.0 / 16.0)).astype(np.uint8)  # grey values 0 to 16
    return images[:, np.newaxis], data.target.astype(np.int64)


def _read(path: str, for_folds: bool) -> Dataset:
    images, labels = read_digits()
    # The last fifth comes from writers of its own (sklearn keeps the original order), as a test set should.
    cut = len(labels) - len(labels) // 5 - 1
    parts = Split(images[:cut], labels[:cut]), Split(images[cut:], labels[cut:])
    return Dataset("digits", DIGITS, *parts, DIGIT_NAMES)


READER = Reader("", lambda path: path == DIGITS, _read)
