"""SVHN's cropped digits (https://ufldl.stanford.edu/housenumbers): MATLAB files of X (32, 32, 3, N) and y (N, 1)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from qat.errors import QatError
from qat.ops import Array

PARTS = ("train", "extra", "test")
SHAPE = (32, 32, 3)  #: height, width, colours of one crop
TEN = 10  #: the label of the digit 0


def find_svhn(folder: Path) -> dict[str, Path]:
    """The files of a folder by part; empty where it holds no SVHN."""
    paths = {part: folder / f"{part}_32x32.mat" for part in PARTS}
    return {part: path for part, path in paths.items() if path.is_file()}


def read_svhn(path: Path) -> tuple[Array, Array]:
    """uint8 images (N, 3, 32, 32) and int64 labels (N,), 0 to 9, of one file.

    Raises QatError where it is unreadable, or holds anything else, and without SciPy.
    """
    try:
        from scipy.io import loadmat
    except ModuleNotFoundError:
        raise QatError(
            f"{path}: reading SVHN's .mat files needs SciPy, which is not installed: pip install 'qat-engine[study]'"
        ) from None
    try:
        content = loadmat(str(path), variable_names=["X", "y"], appendmat=False)
    except Exception as error:  # of a damaged file SciPy raises whatever its parser ran into
        raise QatError(f"{path}: cannot be read ({type(error).__name__}: {error}); download it again") from None
    images, labels = content.get("X"), content.get("y")
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8 or images.shape[:3] != SHAPE or images.ndim != 4:
        raise QatError(f"{path}: holds no X of uint8 (32, 32, 3, N), so it is no file of SVHN's cropped digits")
    count = images.shape[3]
    if not isinstance(labels, np.ndarray) or labels.dtype.kind not in "ui" or labels.shape != (count, 1) or not count:
        raise QatError(f"{path}: holds no y of one whole number for each of its {count} images; download it again")
    wrong = np.flatnonzero((labels < 1) | (labels > TEN))
    if len(wrong):
        raise QatError(
            f"{path}: image {wrong[0]} has label {labels[wrong[0], 0]}, but SVHN's are 1 to 10 (10 is the digit 0); it is "
            "damaged, download it again"
        )
    return np.ascontiguousarray(images.transpose(3, 2, 0, 1)), labels[:, 0].astype(np.int64) % TEN


def read_source_images(path: Path, count: int) -> Array | None:
    """int64 (N,): which photograph each crop of an SVHN file comes from, of ``<file without .mat>.source_image.npy``
    beside it; None where there is no such file. Raises QatError where it does not fit.
    """
    beside = path.with_name(f"{path.stem}.source_image.npy")
    if not beside.is_file():
        return None
    try:
        numbers = np.load(beside, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise QatError(f"{beside}: cannot be read ({error}); mend it, or take it away") from None
    if not isinstance(numbers, np.ndarray) or numbers.shape != (count,) or numbers.dtype.kind not in "ui":
        raise QatError(
            f"{beside}: holds no whole number for each of the {count} images of {path.name}; mend it, or take it away"
        )
    return numbers.astype(np.int64)
