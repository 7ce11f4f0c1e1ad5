"""A table of numbers, features and a label on each line; or train.csv, val.csv and test.csv of such."""

from __future__ import annotations

from array import array

import numpy as np

from qat.data.dataset import Dataset, Split
from qat.data.pictures import SUFFIXES
from qat.data.readers.base import Reader, name_of, of_parts
from qat.data.readers.table import Labels, first_rows, is_number, labels_of, number, rows_of, tables
from qat.errors import QatError
from qat.vocabulary.ops import Array

LABELS = ("label", "target", "y")  #: names of the column of labels, where it is not the last


def _is_header(row: list[str]) -> bool:
    """Whether a first row has names. One with a number among its features has none: a damaged row is no header."""
    return any(cell.lower() in LABELS for cell in row) or not any(is_number(cell) for cell in row[:-1])


def _recognizes(path: str) -> bool:
    """Whatever table is not one of pictures, damaged ones too, so that the message names what is wrong with them."""
    found = tables(path)
    return bool(found) and not any(row[0].lower().endswith(SUFFIXES) for row in first_rows(found["train"]))


def _read(path: str, for_folds: bool) -> Dataset:
    features, tables_of = {}, {}
    for part, table in tables(path).items():
        features[part], tables_of[part] = _columns(table)
    labels, names = labels_of(tables_of)
    splits = {part: Split(features[part], labels[part]) for part in features}
    if len({x.shape[1] for x in features.values()}) > 1:
        raise QatError(f"{path}: its parts have different numbers of columns; give all the same")
    words = f"{name_of(path)}, a table of {features['train'].shape[1]:,} numbers a line"
    return of_parts(path, words, splits, for_folds, names)


def _columns(path: str) -> tuple[Array, Labels]:
    """The features, float32 (N, F), and the labels of a table."""
    numbers = array("f")
    names: tuple[str, ...] = ()
    at = -1
    lines: list[int] = []
    cells: list[list[str]] = []
    for line, row in rows_of(path):
        if not lines and not names and _is_header(row):
            names = tuple(row)
            at = next((i for i, name in enumerate(row) if name.lower() in LABELS), -1)
            continue
        label = row.pop(at)
        if not row:
            raise QatError(f"{path}, line {line}: has one column; give features and a label on each line")
        numbers.extend([number(path, line, cell) for cell in row])
        lines.append(line)
        cells.append([label])
    if not lines:
        raise QatError(f"{path}: holds no numbers; write features and a label on each line")
    return np.array(numbers, np.float32).reshape(len(lines), -1), Labels(path, names[at:][:1], lines, cells)


READER = Reader("a .csv of numbers", _recognizes, _read)
