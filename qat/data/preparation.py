"""How a picture becomes an input: a recipe that the checkpoint and the exported file keep, so that every command follows it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from types import ModuleType
from typing import Any

import numpy as np

from qat.cells.base import Shape
from qat.data.resize import resize_bilinear
from qat.data.rows import Mapped, Reshaped, Samples
from qat.errors import QatError
from qat.extras import how_to_install
from qat.vocabulary.fields import check_fields
from qat.vocabulary.ops import Array
from qat.vocabulary.rows import Rows

NO_CLASS = 255  #: the label of pixels that do not count, as segmentation takes it by default
RESIZES = ("crop", "stretch", "pad")
LINEAR = "linear"
#: The names of Pillow's filters, which average where they reduce, by ours; beside them LINEAR.
FILTERS = {"bilinear": "BILINEAR", "bicubic": "BICUBIC", "nearest": "NEAREST", "area": "BOX"}
INTERPOLATIONS = (*FILTERS, LINEAR)
MOST_TIMES = 100  #: so many times as long as the network's side a side may become before it is cropped


@dataclass(frozen=True)
class Preparation:
    """How a picture becomes an input of a network, of height H and width W. One that has that size is taken as it is.

    Args:
        resize: "crop", the default: resized in proportion, then H x W are cut from its middle; "stretch": resized to H x W
            whatever its proportions; "pad": resized in proportion such that all of it fits, on black.
        resize_to: with "crop", the pixels that its shorter side gets first. None, the default: so many that H x W are
            ``crop_fraction`` of it, rounded down.
        crop_fraction: with "crop", the share of the resized picture's shorter side that is kept; 0.875 by default.
        interpolation: Pillow's "bilinear" (the default), "bicubic", "nearest" or "area", which average over all pixels where
            they reduce; or "linear", between the four nearest pixels alone, as OpenCV's INTER_LINEAR.

    Raises:
        QatError: for other values.

    >>> import qat
    >>> recipe = qat.data.Preparation(interpolation="bicubic")
    >>> recipe.plan((300, 400), (224, 224))  # the size it is resized to, and where the cut begins
    ((256, 341), (16, 58))
    >>> qat.data.Preparation.from_json(recipe.to_json()) == recipe
    True
    """

    resize: str = "crop"
    resize_to: int | None = None
    crop_fraction: float = 0.875
    interpolation: str = "bilinear"

    def __post_init__(self) -> None:
        check_fields(self)
        for name, known in (("resize", RESIZES), ("interpolation", INTERPOLATIONS)):
            if getattr(self, name) not in known:
                raise QatError(f"Preparation: {name} is {getattr(self, name)!r}; use one of {', '.join(known)}")
        if self.resize_to is not None and not 1 <= self.resize_to < 1 << 16:
            raise QatError(f"Preparation: resize_to is {self.resize_to}; use a number of pixels")
        if self.resize_to is not None and self.resize != "crop":
            raise QatError(f"Preparation: resize_to is of resize 'crop', not of {self.resize!r}; leave it out")
        if not 1 / MOST_TIMES <= self.crop_fraction <= 1:
            raise QatError(f"Preparation: crop_fraction is {self.crop_fraction}; use a share, 0.01 to 1")

    def to_json(self) -> dict[str, Any]:
        """The inverse of ``from_json``."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Any) -> Preparation:
        """A recipe from JSON values.

        Args:
            data: of a checkpoint's or file's metadata.

        Returns:
            The recipe.

        Raises:
            QatError: for anything else.
        """
        names = cls.__dataclass_fields__
        if not isinstance(data, Mapping) or not data.keys() <= names.keys():
            raise QatError(f"a preparation is {str(data)[:60]!r}; it has {', '.join(names)}")
        return cls(**data)

    def __str__(self) -> str:
        if self.resize == "crop":
            kept = f"to {self.resize_to} pixels, then crop" if self.resize_to else f"then crop {self.crop_fraction:g}"
            return f"resize {kept}, {self.interpolation}"
        return f"{self.resize}, {self.interpolation}"

    def plan(self, old: tuple[int, int], new: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
        """How a picture is resized and placed.

        Args:
            old: its (H, W).
            new: the network's (H, W).

        Returns:
            The (H, W) that it is resized to, and the row and column of it where the network's picture begins: negative
            where it is padded.

        Raises:
            QatError: where nothing of that size can be cut from it.
        """
        if old == new or self.resize == "stretch":
            return new, (0, 0)
        if self.resize == "pad":
            ratio = min(new[0] / old[0], new[1] / old[1])
            scaled = tuple(max(1, round(x * ratio)) for x in old)
            return (scaled[0], scaled[1]), (-((new[0] - scaled[0]) // 2), -((new[1] - scaled[1]) // 2))
        wanted = tuple(int(x / self.crop_fraction) for x in new)
        if self.resize_to is not None:
            wanted = (self.resize_to, self.resize_to)
        first = wanted[0] * old[1] >= wanted[1] * old[0]  # the axis that needs the larger factor gets what is wanted
        height = wanted[0] if first else int(wanted[1] * old[0] / old[1])
        width = int(wanted[0] * old[1] / old[0]) if first else wanted[1]
        if height < new[0] or width < new[1]:
            raise QatError(
                f"a picture of {old[1]}x{old[0]} is resized to {width}x{height}, of which {new[1]}x{new[0]} cannot be cut; "
                "use a larger --resize_to, or --resize stretch or pad"
            )
        if max(height / new[0], width / new[1]) > MOST_TIMES:
            raise QatError(
                f"a picture of {old[1]}x{old[0]} is more than {MOST_TIMES} times as long as wide once it is resized; cut it "
                "before, or use --resize stretch or pad"
            )
        # As torchvision's CenterCrop and Resize, to the pixel: int above, round here.
        return (height, width), (round((height - new[0]) / 2), round((width - new[1]) / 2))

    def apply(self, pixels: Array, new: tuple[int, int]) -> Array:
        """Prepare pixels.

        Args:
            pixels: uint8 (C, H, W).
            new: the network's (H, W).

        Returns:
            uint8 (C, *new).

        Raises:
            QatError: as ``plan``, and where Pillow is needed and not installed.
        """
        old = (pixels.shape[1], pixels.shape[2])
        if old == new:
            return pixels
        if self.interpolation != LINEAR:
            Image = pillow_image()  # noqa: N806
            if len(pixels) == 3:
                return self.apply_to_picture(Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0))), new)
            return np.concatenate([self.apply_to_picture(Image.fromarray(x), new) for x in pixels])
        scaled, (top, left) = self.plan(old, new)
        pixels = resize_bilinear(pixels[np.newaxis], scaled)[0]
        if self.resize == "pad":
            canvas = np.zeros((len(pixels), *new), np.uint8)
            canvas[:, -top : scaled[0] - top, -left : scaled[1] - left] = pixels
            return canvas
        return np.ascontiguousarray(pixels[:, top : top + new[0], left : left + new[1]])

    def apply_to_picture(self, picture: Any, new: tuple[int, int]) -> Array:
        """Prepare a picture of Pillow's. Where it is reduced, "linear" averages too, as Pillow's "bilinear".

        Args:
            picture: of mode "L" or "RGB".
            new: the network's (H, W).

        Returns:
            uint8 (C, *new), with 1 or 3 channels.

        Raises:
            QatError: as ``plan``.
        """
        old = (picture.height, picture.width)
        scaled, (top, left) = self.plan(old, new)
        if self.interpolation == LINEAR and scaled[0] >= old[0] and scaled[1] >= old[1]:
            return self.apply(channels_first(picture), new)
        if scaled != old:
            how = pillow_image().Resampling[FILTERS.get(self.interpolation, "BILINEAR")]
            picture = picture.resize((scaled[1], scaled[0]), how)
        if scaled != new:
            picture = picture.crop((left, top, left + new[1], top + new[0]))  # what lies outside is black
        return channels_first(picture)

    def apply_to_classes(self, classes: Array, new: tuple[int, int]) -> Array:
        """Prepare a map of classes, of which no mean can be taken; where its picture is padded no class counts.

        Args:
            classes: uint8 (H, W).
            new: the network's (H, W).

        Returns:
            uint8 new, ``NO_CLASS`` where the picture is padded.

        Raises:
            QatError: as ``apply``.
        """
        found: Array = replace(self, interpolation="nearest").apply(classes[np.newaxis], new)[0]
        if self.resize == "pad":
            (height, width), (top, left) = self.plan((classes.shape[0], classes.shape[1]), new)
            padded = np.ones(new, bool)
            padded[-top : height - top, -left : width - left] = False
            found = np.where(padded, np.uint8(NO_CLASS), found)
        return found


#: What data sets in memory have always been resized by; published results depend on it.
PLAIN = Preparation("stretch", interpolation=LINEAR)


def channels_first(picture: Any) -> Array:
    """The pixels of a picture of mode "L" or "RGB", uint8 (C, H, W)."""
    pixels = np.asarray(picture, np.uint8)
    return pixels[np.newaxis] if pixels.ndim == 2 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def pillow_image() -> ModuleType:
    """Pillow's module of images. Raises QatError where it is not installed."""
    try:
        import PIL.Image
    except ModuleNotFoundError:
        raise QatError(f"pictures need Pillow, which is not installed: {how_to_install('image')}") from None
    module: ModuleType = PIL.Image
    return module


class Preparable(Rows):
    """Rows of pictures, or of maps of classes that belong to them, which a recipe brings into a network's shape as they are
    read. ``usual``: the recipe where nobody gives one.
    """

    usual: Preparation = Preparation()

    def prepared(self, shape: Shape, preparation: Preparation) -> Preparable:
        """The same rows in another shape. Raises QatError where they cannot have it."""
        raise NotImplementedError


class Resized(Preparable):
    """Rows of pixels, which are resized as they are read."""

    usual = PLAIN

    def __init__(self, rows: Rows, shape: Shape, preparation: Preparation) -> None:
        self._rows, self._preparation = rows, preparation
        self.shape, self.dtype = (len(rows), *shape), rows.dtype

    def read(self, number: int) -> Array:
        """One picture."""
        return self._preparation.apply(self._rows.read(number), (self.shape[2], self.shape[3]))

    def chosen(self, which: Array) -> Resized:
        """Some of the rows, which are not read yet."""
        return Resized(self._rows.chosen(which), self.shape[1:], self._preparation)

    def prepared(self, shape: Shape, preparation: Preparation) -> Resized:
        """The same pictures in another size."""
        return Resized(self._rows, shape, preparation)


def prepared(
    source: str, images: Samples, labels: Sequence[Samples], shape: Shape, preparation: Preparation
) -> tuple[list[Samples], bool]:
    """Samples in the shape that a network takes, and with pictures the maps of classes that belong to them.

    Args:
        source: for messages.
        images: the samples.
        labels: of each output.
        shape: of one sample.
        preparation: of pictures.

    Returns:
        Samples and labels; and whether they are pictures, on which the recipe had a say.

    Raises:
        QatError: where they cannot have that shape.
    """
    if isinstance(images, Preparable):
        maps = [x.prepared(shape[1:], preparation) if isinstance(x, Preparable) else x for x in labels]
        return [images.prepared(shape, preparation), *maps], True
    found = images.shape[1:]
    if images.dtype == np.uint8 and len(found) == 3 and len(shape) == 3:
        return _of_pixels(source, images, labels, shape, preparation), True
    if found == shape:
        return [images, *labels], False
    if _without_ones(found) == _without_ones(shape) or shape == (math.prod(found),):
        rows = Mapped(images) if isinstance(images, np.memmap) else images
        reshaped = Reshaped(rows, shape) if isinstance(rows, Rows) else rows.reshape(len(rows), *shape)
        return [reshaped, *labels], False
    raise QatError(
        f"{source}: its samples are {images.dtype} {found} but the network takes {shape}; choose a network for such samples, "
        "or give them in that shape (only pictures are resized)"
    )


def _without_ones(shape: Sequence[int]) -> list[int]:
    return [axis for axis in shape if axis != 1]


def _of_pixels(
    source: str, images: Samples, labels: Sequence[Samples], shape: Shape, preparation: Preparation
) -> list[Samples]:
    """Pixels of an array, or of one that is memory-mapped."""
    channels, size = images.shape[1], (shape[1], shape[2])
    if channels != shape[0]:
        raise QatError(
            f"{source}: its images have {channels} channels but the network takes {shape[0]}; choose a network "
            "for such images, or another data set"
        )
    if images.shape[2:] == size:
        return [images, *labels]
    maps = [_resized_maps(source, x, size, preparation) if x.shape[1:] == images.shape[2:] else x for x in labels]
    if isinstance(images, (Rows, np.memmap)):
        rows = images if isinstance(images, Rows) else Mapped(images)
        return [Resized(rows, shape, preparation), *maps]
    if preparation == PLAIN:
        return [resize_bilinear(images, size), *maps]
    return [np.stack([preparation.apply(x, size) for x in images]) if len(images) else images, *maps]


def _resized_maps(source: str, maps: Samples, size: tuple[int, int], preparation: Preparation) -> Samples:
    """Maps of classes (N, H, W), in memory."""
    found = []
    for each in maps[:]:
        classes = each.astype(np.uint8)
        if not np.array_equal(classes, each):
            raise QatError(
                f"{source}: a label for each pixel is {maps.dtype}, but with its picture only classes from 0 to 255 are "
                "resized; resize both to the network's size before"
            )
        found.append(preparation.apply_to_classes(classes, size))
    return np.stack(found)
