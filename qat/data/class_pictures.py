"""Writing pictures in a folder for each class."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

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
    Image = pillow_image()  # noqa: N806
    names = [name.replace("/", "_").replace("\\", "_").lstrip(".") or "_" for name in class_names]
    if len({name.casefold() for name in names}) < len(names):
        raise QatError(f"{folder}: two of the classes would have one folder; rename them")
    try:
        if folder.is_dir() and any(folder.iterdir()):
            raise QatError(
                f"{folder}: holds files already, which would be mixed with these; remove it, or choose another"
            )
        for label in sorted(set(labels.tolist())):
            (folder / names[label]).mkdir(parents=True, exist_ok=True)
        for number, (pixels, label) in enumerate(zip(images, labels.tolist(), strict=True)):
            picture = Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))
            picture.save(folder / names[label] / f"{number:05d}.{picture_format}", **FORMATS[picture_format])
    except OSError as error:
        raise QatError(f"{folder}: cannot be written ({error.strerror or error}); choose another place") from None
