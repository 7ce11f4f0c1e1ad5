"""CIFAR-10's binary format: records of one label byte and 3072 pixel bytes (CHW)."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from qat.data.dataset import Dataset, Split
from qat.data.readers.base import Reader
from qat.errors import QatError
from qat.reading import read_unpacked
from qat.vocabulary.ops import Array

RECORD = 1 + 3 * 32 * 32
CLASS_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
CLASSES = len(CLASS_NAMES)
LARGEST = 100_000  #: records in all files that are read at once


def find_batches(folder: Path) -> tuple[list[Path], list[Path]]:
    """The training and the test files of a folder, plain or .gz; two empty lists where it holds no CIFAR-10."""
    names = [f"data_batch_{i}.bin" for i in range(1, 6)]
    for place in (folder, folder / "cifar-10-batches-bin"):
        train = [path for name in names for path in _present(place / name)]
        test = _present(place / "test_batch.bin")
        if train or test:
            return train, test
    return [], []


def _present(path: Path) -> list[Path]:
    found = [candidate for candidate in (path, path.with_name(path.name + ".gz")) if os.path.isfile(candidate)]
    return found[:1]


def read_batches(paths: list[Path]) -> tuple[Array, Array]:
    """uint8 images (N, 3, 32, 32) and int64 labels (N,). Raises QatError where a file is unreadable or cut short."""
    parts: list[Array] = []
    for path in paths:
        parts.append(_records(path, LARGEST - sum(map(len, parts))))
    records = np.concatenate(parts)
    return records[:, 1:].reshape(-1, 3, 32, 32), records[:, 0].astype(np.int64)


def _records(path: Path, most: int) -> Array:
    """Its records, (N, RECORD), of which there may be ``most``."""
    content = read_unpacked(path, "download it again", limit=most * RECORD)
    if not content or len(content) % RECORD:
        raise QatError(
            f"{path}: holds {len(content):,} bytes, not a multiple of the {RECORD:,} of a CIFAR-10 record; it is cut short or "
            "another file, download it again"
        )
    records = np.frombuffer(content, np.uint8).reshape(-1, RECORD)
    wrong = np.flatnonzero(records[:, 0] >= CLASSES)
    if len(wrong):
        raise QatError(
            f"{path}: image {wrong[0]} has label {records[wrong[0], 0]}, but CIFAR-10 has {CLASSES} classes; it is damaged or "
            "another file, download it again"
        )
    return records


def _read_set(path: str, for_folds: bool) -> Dataset:
    train, test = find_batches(Path(path))
    if not (train and test):
        raise QatError(
            f"{path}: holds CIFAR-10's {'training' if train else 'test'} files but no "
            f"{'test_batch.bin' if train else 'data_batch_1.bin'}; download the missing ones"
        )
    return Dataset("CIFAR-10", path, Split(*read_batches(train)), Split(*read_batches(test)), CLASS_NAMES)


READER = Reader("CIFAR-10's data_batch_1.bin", lambda path: any(find_batches(Path(path))), _read_set)
