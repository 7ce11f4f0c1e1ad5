"""Pictures that an index.txt names, 'picture.png class' on each line, as create-data writes them."""

from __future__ import annotations

import os

import numpy as np

from qat.data.dataset import Dataset, Split
from qat.data.picture_rows import Paths, Pictures
from qat.data.pictures import find_pictures, read_class_names
from qat.data.readers.base import Reader, name_of, with_test


def _recognizes(path: str) -> bool:
    return os.path.isfile(os.path.join(path, "index.txt"))


def _read(path: str, for_folds: bool) -> Dataset:
    listed = os.path.join(path, "class_names.txt")
    names = read_class_names(listed) if os.path.isfile(listed) else []
    files = find_pictures(path, names)
    rows = Pictures.listed(Paths(path, (os.path.relpath(file, path) for file, _ in files)))
    split = Split(rows, np.array([label for _, label in files]))
    words = f"{name_of(path)}, pictures of index.txt"
    return with_test(Dataset(words, path, split, split, tuple(names)), for_folds)


READER = Reader("index.txt of pictures", _recognizes, _read)
