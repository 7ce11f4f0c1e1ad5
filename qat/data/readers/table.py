"""Tables in text, comma-separated values (RFC 4180): their rows with line numbers, and what their label columns mean."""

from __future__ import annotations

import contextlib
import csv
import io
import math
import os
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from qat.data.readers.base import PARTS, named
from qat.errors import QatError, QatWarning
from qat.reading import open_regular, reading
from qat.vocabulary.ops import Array

ADVICE = "give a table with the same number of columns on each line"
DELIMITERS = ",;\t"
WHOLE = re.compile(r"\d{1,15}")


@dataclass(frozen=True)
class Labels:
    """Label columns of one table: for each row its line and its cells. names: of the columns, or none."""

    path: str
    names: tuple[str, ...]
    lines: Sequence[int]
    cells: Sequence[Sequence[str]]


def rows_of(path: str) -> Iterator[tuple[int, list[str]]]:
    """The rows of a table with the numbers of their lines; blank lines are left out.

    Raises QatError where the file is no text, or a row has another number of columns than the first.
    """
    with open_regular(path, ADVICE) as file, reading(path, "a table", ADVICE):
        text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
        first = text.readline(1 << 16)
        text.seek(0)
        reader = csv.reader(text, delimiter=max(DELIMITERS, key=first.count), strict=True)
        columns = 0
        while True:
            try:
                row = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                raise QatError(f"{path}, line {reader.line_num}: {error}; {ADVICE}") from None
            if not any(cell.strip() for cell in row):
                continue
            columns = columns or len(row)
            if len(row) != columns:
                raise QatError(
                    f"{path}, line {reader.line_num}: has {len(row)} columns where the first line has {columns}; correct it or "
                    "leave it out"
                )
            yield reader.line_num, [cell.strip() for cell in row]


def first_rows(path: str) -> list[list[str]]:
    """The first two rows, as far as there are such."""
    found: list[list[str]] = []
    with contextlib.suppress(QatError):
        found.extend(row for _, row in islice(rows_of(path), 2))
    return found


def tables(path: str) -> dict[str, str]:
    """The table at a path, as "train"; or those of a folder, train.csv, val.csv and test.csv; by part."""
    if os.path.isdir(path):
        files = {part: os.path.join(path, f"{part}.csv") for part in PARTS}
        found = {part: file for part, file in files.items() if os.path.isfile(file)}
        return found if "train" in found else {}
    return {"train": path} if path.lower().endswith((".csv", ".tsv")) and os.path.isfile(path) else {}


def is_number(text: str) -> bool:
    """Whether it is a number, NaN among them."""
    try:
        float(text)
    except ValueError:
        return False
    return "_" not in text


def number(path: str, line: int, text: str) -> float:
    """A finite number of float32's range. Raises QatError with the line for anything else."""
    value = float(text) if is_number(text) else None
    if value is None or not math.isfinite(value) or abs(value) > float(np.finfo(np.float32).max):
        what = "no number" if value is None else "no finite float32 number"
        raise QatError(f"{path}, line {line}: {text[:40]!r} is {what}; correct it or leave the line out")
    return value


def labels_of(parts: dict[str, Labels]) -> tuple[dict[str, Array], tuple[str, ...]]:
    """What the label columns of all parts of a data set say.

    1. Strings are classes, sorted.
    2. Whole numbers from 0 in one column are classes; a second column of strings has their names.
    3. 0 and 1 in several columns: which of the labels a sample has, int64 (N, K), called as the columns.
    4. Other numbers are values of a regression, float32 (N,) or (N, K).

    Args:
        parts: tables by part; "train" is the first.

    Returns:
        Labels by part, and names of classes, perhaps none.

    Raises:
        QatError: with the line that does not fit the first one.
    """
    train = next(iter(parts.values()))
    first = train.cells[0]
    if any(len(part.cells[0]) != len(first) for part in parts.values()):
        raise QatError(f"{train.path}: the parts have different numbers of columns; give all the same")
    numeric = [is_number(cell) for cell in first]
    if len(first) == 1 and not numeric[0]:
        return _strings(parts)
    if numeric == [True, False]:
        return _named_classes(parts)
    if not all(numeric):
        raise QatError(
            f"{train.path}, line {train.lines[0]}: labels are {named(first)}; give one column of classes, a column of whole "
            "numbers and one of their names, or several columns of numbers"
        )
    whole = all(WHOLE.fullmatch(cell) for part in parts.values() for row in part.cells for cell in row)
    binary = (
        whole and len(first) > 1 and {c for part in parts.values() for row in part.cells for c in row} <= {"0", "1"}
    )
    if whole and (len(first) == 1 or binary):
        kind: type = np.int64
    else:
        kind = np.float32
    found = {}
    for name, part in parts.items():
        values = [[number(part.path, line, x) for x in row] for line, row in zip(part.lines, part.cells, strict=True)]
        array: Array = np.array(values, kind)
        found[name] = array[:, 0] if len(first) == 1 else array
    return found, train.names if binary else ()


def _strings(parts: dict[str, Labels]) -> tuple[dict[str, Array], tuple[str, ...]]:
    for part in parts.values():
        for line, row in zip(part.lines, part.cells, strict=True):
            if not row[0]:
                raise QatError(f"{part.path}, line {line}: has no label; add it or leave the line out")
    names = sorted({row[0] for part in parts.values() for row in part.cells})
    path = next(iter(parts.values())).path
    warnings.warn(
        f"{path}: labels are strings; they become the classes 0 to {len(names) - 1}, sorted: {named(names)}",
        QatWarning,
        stacklevel=4,
    )
    numbers = {name: label for label, name in enumerate(names)}
    found = {key: np.array([numbers[row[0]] for row in part.cells], np.int64) for key, part in parts.items()}
    return found, tuple(names)


def _named_classes(parts: dict[str, Labels]) -> tuple[dict[str, Array], tuple[str, ...]]:
    known: dict[int, str] = {}
    found = {}
    for key, part in parts.items():
        labels = []
        for line, (text, name) in zip(part.lines, part.cells, strict=True):
            if not WHOLE.fullmatch(text) or int(text) > 1 << 20:
                raise QatError(f"{part.path}, line {line}: {text[:40]!r} is no number of a class; correct it")
            if known.setdefault(int(text), name) != name:
                raise QatError(
                    f"{part.path}, line {line}: class {text} is {name!r} here and {known[int(text)]!r} before; correct one"
                )
            labels.append(int(text))
        found[key] = np.array(labels, np.int64)
    return found, tuple(known.get(label, str(label)) for label in range(max(known) + 1))
