"""Segmentation: images/ and masks/ with the same names; such folders under train/, val/ and test/."""

from __future__ import annotations

import os

from qat.data.dataset import Dataset, Split
from qat.data.picture_rows import Masks, Paths, Pictures, shape_of_first
from qat.data.readers.base import PARTS, Reader, name_of, of_parts
from qat.data.readers.class_folders import pictures_in
from qat.errors import QatError
from qat.reading import reading


def _recognizes(path: str) -> bool:
    return any(
        os.path.isdir(os.path.join(path, *place, "images")) and os.path.isdir(os.path.join(path, *place, "masks"))
        for place in ((), ("train",))
    )


def _read(path: str, for_folds: bool) -> Dataset:
    with reading(path, "folders of pictures and masks", "give images/ and masks/ with files of the same names"):
        inner = os.path.isdir(os.path.join(path, "train"))
        parts = [part for part in PARTS if os.path.isdir(os.path.join(path, part))] if inner else []
        found = {part: _part(os.path.join(path, part)) for part in parts} or {"train": _part(path)}
        shape = shape_of_first(found["train"][0])
        splits = {
            part: Split(Pictures(images, shape, Pictures.usual), Masks(masks, shape[1:], Masks.usual, beside=images))
            for part, (images, masks) in found.items()
        }
        return of_parts(path, f"{name_of(path)}, pictures with masks", splits, for_folds)


def _part(path: str) -> tuple[Paths, Paths]:
    """The pictures and the masks of one part, listed but not opened."""
    folders = [os.path.join(path, name) for name in ("images", "masks")]
    for folder in folders:
        if not os.path.isdir(folder):
            raise QatError(f"{path}: has no folder {os.path.basename(folder)}/; a part holds images/ and masks/")
    images, masks = ({os.path.splitext(file)[0]: file for file in pictures_in(folder)} for folder in folders)
    lonely = sorted(images.keys() ^ masks.keys())
    if lonely:
        there = "images" if lonely[0] in images else "masks"
        missing = "masks" if there == "images" else "images"
        raise QatError(
            f"{path}: {there}/{(images | masks)[lonely[0]]} has no counterpart in {missing}/ ({len(lonely):,} such files); "
            "add it, or remove the file"
        )
    if not images:
        raise QatError(f"{path}: images/ and masks/ hold no pictures; add some")
    stems = sorted(images)
    return Paths(folders[0], (images[x] for x in stems)), Paths(folders[1], (masks[x] for x in stems))


READER = Reader("images/ and masks/", _recognizes, _read)
