"""Anything else: package.module:function, a function of the user's own, which is imported and called."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import replace

from qat.data.dataset import Dataset
from qat.data.readers.arrays import dataset_of
from qat.data.readers.base import Reader, with_test
from qat.errors import QatError, one_line
from qat.plugins import own_object, working_directory_last

FORM = "package.module:function"
PATTERN = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")
GIVES = "a qat.data.Dataset, a pair (x, y), or (x_train, y_train, x_test, y_test)"


def _recognizes(path: str) -> bool:
    return PATTERN.fullmatch(path) is not None and not os.path.exists(path)


def _read(path: str, for_folds: bool) -> Dataset:
    function = own_object(path, "data", FORM)
    if not callable(function):
        raise QatError(f"{path}: is a {type(function).__name__}, no function; give one that returns {GIVES}")
    try:
        with working_directory_last():  # for what it imports
            found = function()
    except QatError:
        raise
    except Exception as error:  # whatever the user's code may raise
        raise QatError(
            f"{path}: the function failed ({type(error).__name__}: {one_line(error)}); correct it"
        ) from error
    if isinstance(found, Dataset):
        dataset = replace(found, source=path)  # by which a checkpoint remembers what it was trained on
        return with_test(dataset, for_folds) if not len(dataset.test) else dataset
    if isinstance(found, tuple) and len(found) == 2 and all(isinstance(x, tuple) and len(x) == 2 for x in found):
        found = (*found[0], *found[1])  # as Keras's data sets
    names = {2: ("x", "y"), 4: ("x_train", "y_train", "x_test", "y_test")}
    if isinstance(found, (tuple, list)) and len(found) in names:
        found = dict(zip(names[len(found)], found, strict=True))
    if not isinstance(found, Mapping):
        raise QatError(f"{path}: the function returns a {type(found).__name__}; it has to return {GIVES}")
    arrays = {str(name): array for name, array in found.items() if array is not None}
    return dataset_of(path, path, arrays, for_folds)


READER = Reader("", _recognizes, _read)
