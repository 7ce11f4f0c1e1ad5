"""Pictures of a data set that are decoded when they are asked for."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from qat.cells.base import Shape
from qat.data.pictures import check_picture_shape, picture_shape, read_mask, read_picture
from qat.data.preparation import Preparable, Preparation
from qat.errors import QatError
from qat.vocabulary.ops import Array


class Paths:
    """The paths of many files: their names in one buffer, since a Python string each would take several times as much.

    Args:
        folder: which all names are relative to.
        names: of the files.
    """

    def __init__(self, folder: str | Path, names: Iterable[str]) -> None:
        self.folder = str(folder)
        encoded = [os.fsencode(name) for name in names]
        ends = np.cumsum([len(name) for name in encoded], dtype=np.int64)
        self._names, self._ends = b"".join(encoded), ends
        self._starts = ends - np.array([len(name) for name in encoded], np.int64)

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, number: int) -> str:
        name = os.fsdecode(self._names[self._starts[number] : self._ends[number]])
        return os.path.join(self.folder, name)

    def chosen(self, which: Array) -> Paths:
        """Some of them; the buffer of names is shared."""
        some = Paths(self.folder, ())
        some._names, some._starts, some._ends = self._names, self._starts[which], self._ends[which]
        return some


class _Files(Preparable):
    """Rows that are files."""

    def __init__(self, paths: Paths, shape: Shape, preparation: Preparation) -> None:
        self.paths, self.preparation = paths, preparation
        self.shape, self.dtype = (len(paths), *shape), np.dtype(np.uint8)

    def chosen(self, which: Array) -> _Files:
        """Some of the rows, which are not read yet."""
        return type(self)(self.paths.chosen(np.arange(len(self))[which]), self.shape[1:], self.preparation)

    def unreadable(self) -> list[tuple[int, str]]:
        """The numbers of the files that cannot be read, and why; all are read for that."""
        found = []
        for number in range(len(self)):
            try:
                self.read(number)
            except QatError as error:
                found.append((number, str(error)))
        return found


class Pictures(_Files):
    """Image files, uint8 (N, C, H, W).

    Args:
        paths: of the files.
        shape: of one picture as it is given, (C, H, W).
        preparation: how it gets that size.
    """

    @classmethod
    def listed(cls, paths: Paths) -> Pictures:
        """Files that nobody has said a size for: that of the first that can be read. Raises QatError where there is none."""
        return cls(paths, shape_of_first(paths), cls.usual)

    def read(self, number: int) -> Array:
        """One picture. Raises QatError that names the file where it cannot be read."""
        return read_picture(self.paths[number], self.shape[1:], self.preparation)[0]

    def prepared(self, shape: Shape, preparation: Preparation) -> Pictures:
        """The same pictures in another shape."""
        check_picture_shape(self.paths.folder, shape)
        return Pictures(self.paths, shape, preparation)


def shape_of_first(paths: Paths) -> Shape:
    """(C, H, W) of the first picture that can be read. Raises the first one's QatError where there is none."""
    first: QatError | None = None
    for number in range(len(paths)):
        try:
            return picture_shape(paths[number])
        except QatError as error:
            first = first or error
    assert first is not None, "readers refuse a data set without files"
    raise first


class Masks(_Files):
    """Image files of the class of each pixel, uint8 (N, H, W).

    Args:
        paths: of the files.
        shape: of one map as it is given, (H, W).
        preparation: how it gets that size.
        beside: the pictures they belong to, each of its mask's size.
    """

    def __init__(self, paths: Paths, shape: Shape, preparation: Preparation, *, beside: Paths) -> None:
        super().__init__(paths, shape, preparation)
        self.beside = beside

    def read(self, number: int) -> Array:
        """One map. Raises QatError that names the file where it cannot be read, or is of another size than the picture."""
        path = self.paths[number]
        size = picture_shape(self.beside[number])[1:]
        return read_mask(path, size, (self.shape[1], self.shape[2]), self.preparation)

    def chosen(self, which: Array) -> Masks:
        """Some of the rows, which are not read yet."""
        which = np.arange(len(self))[which]
        return Masks(self.paths.chosen(which), self.shape[1:], self.preparation, beside=self.beside.chosen(which))

    def prepared(self, shape: Shape, preparation: Preparation) -> Masks:
        """The same maps in another size, each pixel the class of the nearest one."""
        return Masks(self.paths, shape, preparation, beside=self.beside)
