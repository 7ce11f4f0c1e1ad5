"""A table of picture files and their labels, one a line; or train.csv, val.csv and test.csv of such."""

from __future__ import annotations

import os

from qat.data.dataset import Dataset, Split
from qat.data.picture_rows import Paths, Pictures
from qat.data.pictures import SUFFIXES
from qat.data.readers.base import Reader, name_of, of_parts
from qat.data.readers.table import Labels, first_rows, labels_of, rows_of, tables
from qat.errors import QatError


def _is_file(cell: str) -> bool:
    return cell.lower().endswith(SUFFIXES)


def _recognizes(path: str) -> bool:
    found = tables(path)
    return bool(found) and any(_is_file(row[0]) for row in first_rows(found["train"]))


def _read(path: str, for_folds: bool) -> Dataset:
    files, tables_of = {}, {}
    for part, table in tables(path).items():
        files[part], tables_of[part] = _columns(table)
    labels, names = labels_of(tables_of)
    shape, usual = Pictures.listed(files["train"]).shape[1:], Pictures.usual
    splits = {part: Split(Pictures(files[part], shape, usual), labels[part]) for part in files}
    kind = f"{len(names):,} classes" if names else "a table"
    return of_parts(path, f"{name_of(path)}, {kind} of pictures", splits, for_folds, names)


def _columns(path: str) -> tuple[Paths, Labels]:
    """The files of a table, which are not opened, and its labels."""
    files: list[str] = []
    names: tuple[str, ...] = ()
    lines, cells = [], []
    for line, row in rows_of(path):
        if len(row) < 2:
            raise QatError(f"{path}, line {line}: has no label; write file,label on each line")
        if not files and not names and not _is_file(row[0]):
            names = tuple(row[1:])
            continue
        if not _is_file(row[0]):
            raise QatError(
                f"{path}, line {line}: {row[0][:60]!r} is no file of a picture ({', '.join(x[1:] for x in SUFFIXES)}); correct "
                "it or leave the line out"
            )
        files.append(row[0])
        lines.append(line)
        cells.append(row[1:])
    if not files:
        raise QatError(f"{path}: names no pictures; write file,label on each line")
    return Paths(_folder(path, files[0]), files), Labels(path, names, lines, cells)


def _folder(path: str, first: str) -> str:
    """The folder that the names are relative to: the table's, or images/ beside it where the first file is there."""
    folder = os.path.dirname(path)
    inner = os.path.join(folder, "images")
    return (
        inner
        if not os.path.exists(os.path.join(folder, first)) and os.path.exists(os.path.join(inner, first))
        else folder
    )


READER = Reader("a .csv of file,label", _recognizes, _read)
