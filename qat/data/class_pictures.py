"""Writing pictures in a folder for each class, or beside their maps of classes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from qat.data.preparation import pillow_image
from qat.errors import QatError
from qat.vocabulary.ops import Array

FORMATS: dict[str, dict[str, int]] = {"png": {}, "jpeg": {"quality": 95}}  #: how Pillow saves each


def write_class_folders(
    folder: Path, images: Array, labels: Array, class_names: Sequence[str], picture_format: str
) -> None:
    """Write images as <folder>/<class>/<number>.<format>; a folder that holds anything is not written into.

    Args:
        folder: which must not exist, or be empty: what another data set left there would be read as this one's.
        images: uint8 (N, C, H, W), with 1 or 3 channels.
        labels: integers (N,).
        class_names: a name for each label.
        picture_format: one of ``FORMATS``.

    Raises:
        QatError: where a file cannot be written, and without Pillow.
    """
    pillow_image()  # raises without it, before a folder is made
    names = [name.replace("/", "_").replace("\\", "_").lstrip(".") or "_" for name in class_names]
    if len({name.casefold() for name in names}) < len(names):
        raise QatError(f"{folder}: two of the classes would have one folder; rename them")
    with _written_into(folder):
        for label in sorted(set(labels.tolist())):
            (folder / names[label]).mkdir(parents=True, exist_ok=True)
        for number, (pixels, label) in enumerate(zip(images, labels.tolist(), strict=True)):
            _save(pixels, folder / names[label] / f"{number:05d}.{picture_format}", FORMATS[picture_format])


def write_with_masks(folder: Path, images: Array, maps: Array) -> None:
    """Write images as <folder>/images/<number>.png, and the class of each pixel as <folder>/masks/<number>.png.

    Args:
        folder: which must not exist, or be empty.
        images: uint8 (N, C, H, W), with 1 or 3 channels.
        maps: whole numbers from 0 to 255 (N, H, W).

    Raises:
        QatError: where a file cannot be written, and without Pillow.
    """
    with _written_into(folder):
        for name in ("images", "masks"):
            (folder / name).mkdir(parents=True)
        for number, (pixels, classes) in enumerate(zip(images, maps, strict=True)):
            _save(pixels, folder / "images" / f"{number:05d}.png", {})
            _save(classes.astype(np.uint8)[np.newaxis], folder / "masks" / f"{number:05d}.png", {})


def _save(pixels: Array, path: Path, options: dict[str, int]) -> None:
    found = pixels[0] if len(pixels) == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0))
    pillow_image().fromarray(found).save(path, **options)


@contextmanager
def _written_into(folder: Path) -> Iterator[None]:
    """Raise QatError where the folder holds anything, or cannot be written."""
    try:
        if folder.is_dir() and any(folder.iterdir()):
            raise QatError(
                f"{folder}: holds files already, which would be mixed with these; remove it, or choose another"
            )
        yield
    except OSError as error:
        raise QatError(f"{folder}: cannot be written ({error.strerror or error}); choose another place") from None
