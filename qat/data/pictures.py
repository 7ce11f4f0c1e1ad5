"""Image files: a single one, a folder with a folder for each class, or an index file with a name and a class on each
line.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from qat.cells.base import Shape
from qat.data.preparation import PLAIN, Preparation, pillow_image
from qat.errors import QatError
from qat.files import write_atomically
from qat.reading import read_file, read_text, reading, without_warnings
from qat.vocabulary.ops import Array

MODES = {1: "L", 3: "RGB"}  #: channels -> Pillow's mode
#: The formats that Pillow may recognise, whatever the file's name: not EPS, which runs Ghostscript, nor rare ones.
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "PPM", "WEBP")
MOST_PIXELS = 50_000_000  #: of one picture; a file of a few bytes could declare more than fits into memory
LARGEST = 1 << 28  #: bytes of a picture's file
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".pgm", ".ppm", ".webp")


def read_picture(path: str | Path, shape: Shape, preparation: Preparation = PLAIN) -> tuple[Array, list[str]]:
    """Read an image file in the shape that a network takes. Colours are converted.

    Args:
        path: of the file.
        shape: (C, H, W), with 1 or 3 channels.
        preparation: how it is brought to that size; by default stretched, as data sets in memory are.

    Returns:
        Pixels, uint8 of that shape, and what was changed, in words.

    Raises:
        QatError: where the file is no picture, or the shape is not one of a picture.
    """
    check_picture_shape(str(path), shape)
    changes: list[str] = []
    size = (shape[1], shape[2])
    with _loaded(path) as picture:
        mode = MODES[shape[0]]
        if picture.mode.startswith(("I", "F")):
            raise QatError(
                f"{path}: has {picture.mode} pixels of more than 8 bits; save it with 8 bits for each channel"
            )
        if picture.has_transparency_data:
            changes.append("laid on white where it is transparent")
            picture = picture.convert("RGBA")
            white = pillow_image().new("RGBA", picture.size, "white")
            picture = pillow_image().alpha_composite(white, picture).convert("RGB")
        if picture.mode != mode:
            changes.append(f"converted from {picture.mode} to {mode}")
            picture = picture.convert(mode)
        if picture.size != size[::-1]:
            words = "" if preparation == PLAIN else f" ({preparation})"
            changes.append(f"resized from {picture.size[0]}x{picture.size[1]} to {size[1]}x{size[0]}{words}")
        return preparation.apply_to_picture(picture, size), changes


def read_mask(
    path: str | Path, picture_size: tuple[int, ...], size: tuple[int, int], preparation: Preparation
) -> Array:
    """Read an image file of class indices, uint8 (H, W).

    Args:
        path: of the file.
        picture_size: (H, W) of the picture that it belongs to.
        size: (H, W) that it is brought to.
        preparation: how.

    Returns:
        The class of each pixel.

    Raises:
        QatError: where the file is no picture, one of colours, or of another size than its picture.
    """
    with _loaded(path) as picture:
        if picture.mode not in ("L", "P", "1"):
            raise QatError(
                f"{path}: is a mask with {picture.mode} pixels, but each pixel of one is the number of a class, 0 to 255; save "
                "it as PNG with one channel of 8 bits"
            )
        if picture.size != picture_size[::-1]:
            raise QatError(
                f"{path}: is a mask of {picture.width}x{picture.height}, but its picture has "
                f"{picture_size[1]}x{picture_size[0]}; make them of one size"
            )
        indices = np.asarray(picture).astype(np.uint8)  # of "P" the indices, not the colours
        return preparation.apply_to_classes(indices, size)


def check_picture_shape(source: str, shape: Shape) -> None:
    """Raise QatError where a network's input is no picture."""
    if len(shape) != 3 or shape[0] not in MODES:
        raise QatError(
            f"{source}: the network takes {shape}, which is not an image of 1 or 3 channels; give it arrays, as a .npz or from "
            "Python"
        )


def picture_shape(path: str | Path) -> Shape:
    """(C, H, W) of an image file by its header: 1 channel for shades of grey, else 3. Raises as ``read_picture``."""
    with _recognised(path) as picture:
        channels = 1 if picture.mode in ("1", "L", "LA") else 3
        return channels, picture.height, picture.width


@contextmanager
def _loaded(path: str | Path) -> Iterator[Any]:
    """A picture with its pixels."""
    with _recognised(path) as picture:
        picture.load()
        yield picture


@contextmanager
def _recognised(path: str | Path) -> Iterator[Any]:
    """A picture whose header is read; every error of what is done with it names the file."""
    Image = _pillow(path)  # noqa: N806
    content = read_file(path, "give another file", limit=LARGEST)
    with (
        reading(path, "a picture", "give another file"),
        without_warnings(),
        _opened(Image, path, content) as picture,
    ):
        if picture.width * picture.height > MOST_PIXELS:
            raise QatError(
                f"{path}: has {picture.width} x {picture.height} pixels, but at most {MOST_PIXELS:,} are read; "
                "make it smaller"
            )
        yield picture


def _opened(module: ModuleType, path: str | Path, content: bytes) -> Any:
    try:
        return module.open(io.BytesIO(content), formats=FORMATS)
    except module.UnidentifiedImageError:
        raise QatError(f"{path}: is not a picture in a supported format; give one of {', '.join(FORMATS)}") from None


def write_pictures(folder: str | Path, images: Array, labels: Array, class_names: Sequence[str]) -> Path:
    """Write images as PNG files, with index.txt and class_names.txt; existing files of these names are replaced.

    ``find_pictures`` and ``read_class_names`` read them back without loss. The old index is removed first and the new
    one is written last, so that an index never names a picture that is missing or is another one.

    Args:
        folder: where to write.
        images: uint8 (N, C, H, W).
        labels: integers (N,).
        class_names: a name for each label.

    Returns:
        The path of the index.

    Raises:
        QatError: where a file cannot be written, and without Pillow.
    """
    folder = Path(folder)
    index = folder / "index.txt"
    Image = _pillow(folder)  # noqa: N806
    lines = []
    try:
        index.unlink(missing_ok=True)
    except OSError as error:
        raise QatError(f"{index}: cannot be replaced ({error.strerror}); choose another place") from None
    for number, (pixels, label) in enumerate(zip(images, labels, strict=True)):
        name = f"images/{number:05d}.png"
        picture = Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))
        try:
            (folder / "images").mkdir(parents=True, exist_ok=True)
            # On some file systems truncating an old file takes ten times as long as removing it.
            (folder / name).unlink(missing_ok=True)
            picture.save(folder / name)
        except OSError as error:
            raise QatError(f"{folder / name}: cannot be written ({error.strerror}); choose another place") from None
        lines.append(f"{name} {class_names[label]}")
    write_atomically(folder / "class_names.txt", "".join(f"{name}\n" for name in class_names).encode())
    write_atomically(index, "".join(f"{line}\n" for line in lines).encode())
    return index


def _pillow(path: str | Path) -> ModuleType:
    """Pillow's module of images. Raises QatError, with what was to be read or written, where it is not installed."""
    try:
        return pillow_image()
    except QatError as error:
        raise QatError(f"{path}: {error}") from None


def read_class_names(path: str | Path) -> list[str]:
    """The names of classes from a text file, one on each line, in the order of the network's outputs."""
    text = read_text(path, "give a text file of class names, one a line")
    names = [line.strip() for line in text.splitlines()]
    names = [name for name in names if name]
    if not names:
        raise QatError(f"{path}: holds no class names; write one on each line")
    return names


def find_pictures(path: str | Path, class_names: Sequence[str]) -> list[tuple[Path, int]]:
    """List image files with their labels.

    Args:
        path: a folder with a folder for each class, called by its name or number; or an index file with a path,
            relative to the index, and a class on each line; or a folder with such a file, index.txt.
        class_names: in the order of the labels; may be empty where classes are given by number.

    Returns:
        Pairs of path and label.

    Raises:
        QatError: naming the line or the folder that cannot be understood.
    """
    path = Path(path)
    labels = {name: label for label, name in enumerate(class_names)}
    spaced = [name for name in class_names if " " in name]

    def label_of(text: str, where: str) -> int:
        if text in labels:
            return labels[text]
        if text.isdecimal() and text.isascii() and len(text) < 10:
            return int(text)
        known = (
            f"; correct it, or --class_names, whose first are {', '.join(class_names[:5])}"
            if class_names
            else "; give --class_names"
        )
        raise QatError(f"{where}: {text[:60]!r} is neither a class name nor a number{known}")

    found = []
    path = path / "index.txt" if (path / "index.txt").is_file() else path
    if path.is_dir():
        with reading(path, "a folder of pictures", "give one folder for each class, or an index file"):
            for folder in sorted(child for child in path.iterdir() if child.is_dir()):
                files = sorted(file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES)
                found += [(file, label_of(folder.name, str(folder))) for file in files]
        if not found:
            raise QatError(f"{path}: has no folders with pictures; give one folder for each class, or an index file")
        return found
    lines = read_text(path, "give an index with 'picture.png class' on each line").splitlines()
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        ends = [name for name in spaced if line.strip().endswith(f" {name}")]
        label = max(ends, key=len) if ends else line.strip().rpartition(" ")[2]
        name = line.strip().removesuffix(label)
        if not name:
            raise QatError(f"{path}, line {number}: {line[:60]!r} has no class; write 'picture.png class'")
        found.append((path.parent / name.strip(), label_of(label, f"{path}, line {number}")))
    if not found:
        raise QatError(f"{path}: names no pictures; write 'picture.png class' on each line")
    return found
