"""Random changes of training images under which their labels stay true, or change by a known share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from qat import hints
from qat.data.pictures_augmented import ONE_BY_ONE, changed_one_by_one
from qat.errors import QatError
from qat.vocabulary.arrays import as_tuple
from qat.vocabulary.fields import check_fields
from qat.vocabulary.listing import dimensions
from qat.vocabulary.ops import Array
from qat.vocabulary.rows import Rows

MIXES = ("mixup", "cutmix")
KINDS = (*ONE_BY_ONE, *MIXES)
ON_MAPS = ("crop", "flip", "color")  #: kinds that leave no pixel without a label
MIXUP_ALPHA = 0.2  #: of the Beta distribution of shares (Zhang et al., arXiv 1710.09412, for ImageNet); cutmix has 1


@dataclass(frozen=True)
class Augmentation:
    """Random changes, drawn anew for each image each time training sees it.

    Args:
        shift: move the image by -shift to shift pixels down and across, filling up with 0: a random crop of the padded
            image (He et al., arXiv 1512.03385, section 4.2). 0 by default: no shift.
        flip: mirror every other image, on average, left to right; False by default.
        kinds: further changes, of ``KINDS``; none by default. All but the last two are albumentations' (the extra
            "augment"). crop: a part of 8 to 100 % of the area, resized (Szegedy et al., arXiv 1409.4842, section 6);
            flip: as above; color: brightness, contrast, saturation and hue; randaugment: two of fourteen changes of medium
            strength (Cubuk et al., arXiv 1909.13719); trivialaugment: one of them of any strength (Müller and Hutter, arXiv
            2103.10158); mixup: a batch is mixed with itself in reverse order (Zhang et al., arXiv 1710.09412); cutmix: a
            part of each image comes from the other one (Yun et al., arXiv 1905.04899). With both one is drawn for each
            batch.

    Raises:
        QatError: for a negative shift, and for an unknown kind.

    >>> import numpy as np, qat
    >>> augmentation = qat.data.Augmentation(shift=2, flip=True)
    >>> images = np.zeros((16, 3, 32, 32), np.uint8)
    >>> augmentation(images, np.random.default_rng(0)).shape
    (16, 3, 32, 32)
    """

    shift: int = 0
    flip: bool = False
    kinds: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_fields(self)
        if self.shift < 0:
            raise QatError(f"augment_shift is {self.shift}; use a number of pixels, 0 for none")
        for kind in self.kinds:
            if kind not in KINDS:
                raise QatError(f"augment: there is no {kind!r}{hints.perhaps(kind, KINDS, hints.VALUES)}")

    @property
    def changes(self) -> bool:
        """Whether there is anything to draw."""
        return self.shift > 0 or self.flip or bool(self.kinds)

    @property
    def mixes(self) -> bool:
        """Whether images are mixed, so that a sample has two labels."""
        return any(kind in MIXES for kind in self.kinds)

    @property
    def changes_maps(self) -> bool:
        """Whether it moves pixels, and with them a label for each pixel."""
        return self.flip or any(kind in ("crop", "flip") for kind in self.kinds)

    def check(self, images: Sequence[Array | Rows], labels: Any) -> None:
        """Raise QatError where the samples cannot be changed so.

        Args:
            images: (N, ...) for each input.
            labels: (N,), (N, K), or (N, H, W) with a label for each pixel; a tuple of such for several outputs; None for none.
        """
        if len(images) != 1:
            raise QatError(
                f"augmentation: a sample has {len(images)} images, which might need different changes; leave it out"
            )
        what = f"augment {' '.join(self.kinds)}" if self.kinds else "augmentation"
        shape, dtype = images[0].shape, images[0].dtype
        if len(shape) != 4 or dtype != np.uint8:
            found = dimensions(shape[1:])
            raise QatError(
                f"{what}: changes pictures, uint8 (N, C, H, W), but a sample is {dtype} {found}; leave it out"
            )
        if self.shift >= min(shape[2:]):
            raise QatError(
                f"augment_shift is {self.shift}, but the images have {shape[2]} x {shape[3]} pixels, so nothing would be "
                "left of an image; use a smaller number"
            )
        colored = [kind for kind in self.kinds if kind in ("color", "randaugment", "trivialaugment")]
        if colored and shape[1] not in (1, 3):
            raise QatError(
                f"augment {colored[0]}: changes colours, of 1 or 3 channels, but the images have {shape[1]}; leave it out"
            )
        wrong = ["augment_shift"] * (self.shift > 0)
        wrong += [f"augment {kind}" for kind in self.kinds if kind not in ON_MAPS]
        maps = [x for x in as_tuple(labels) if x is not None and len(x.shape) > 2]
        if maps and isinstance(labels, tuple) and self.changes_maps:
            raise QatError(
                f"{what}: each pixel has a label in one of several outputs, which would not move with the image; leave it out"
            )
        if maps and wrong:
            raise QatError(
                f"{wrong[0]}: each pixel has a label here, and it gives pixels that have none, or two; use crop, flip and "
                "color"
            )

    def draw(self, count: int, rng: np.random.Generator) -> tuple[Array, ...]:
        """What flip and shift draw for a batch.

        Args:
            count: images in it.
            rng: what is drawn from.

        Returns:
            An array (count, 1) for each of: whether it is mirrored, pixels down, pixels across; as far as they are drawn.
        """
        drawn: tuple[Array, ...] = ()
        if self.flip:
            drawn += (rng.random((count, 1)) < 0.5,)
        if self.shift:
            drawn += tuple(rng.integers(0, 2 * self.shift + 1, (count, 1)) for _ in range(2))
        return drawn

    def __call__(self, images: Array, rng: np.random.Generator) -> Array:
        """Flip and shift images.

        Args:
            images: uint8 (N, C, H, W).
            rng: what the changes are drawn from.

        Returns:
            Images of the same shape and type.

        Raises:
            QatError: where the shift is as large as an image.
        """
        self.check((images,), np.zeros(len(images), np.int64))
        return self._moved(images, self.draw(len(images), rng))

    def changed(
        self, images: Array, maps: Array | None, drawn: tuple[Array, ...], numbers: tuple[int, int, int]
    ) -> tuple[Array, Array | None]:
        """Change the images of a step of training.

        Args:
            images: uint8 (N, C, H, W).
            maps: a label for each pixel (N, H, W), moved with the images; None for none.
            drawn: by ``draw``.
            numbers: seed, epoch and step, which all else is drawn from.

        Returns:
            Images and maps.
        """
        if drawn:
            images = self._moved(images, drawn)
            maps = maps if maps is None else self._moved(maps[:, np.newaxis], drawn)[:, 0]
        own = tuple(kind for kind in self.kinds if kind in ONE_BY_ONE)
        if own:
            # A generator's seed is filled up with zeros: the 1 and 2 at the ends keep all draws apart.
            seeds = np.random.default_rng((*numbers, 1)).integers(0, 1 << 31, len(images))
            images, maps = changed_one_by_one(own, images, maps, seeds)
        if self.mixes:
            images = self._mixed(images, numbers)
        return images, maps

    def mixed_labels(self, labels: Array, shape: tuple[int, ...], numbers: tuple[int, int, int]) -> tuple[Array, ...]:
        """The labels of the images of a step: (labels,), or where they are mixed also those of the other images, and
        float32 (N,) the share of the first.

        Args:
            labels: (N, ...).
            shape: of the images, (..., H, W).
            numbers: as ``changed`` takes them.

        Returns:
            One array or three.
        """
        if not self.mixes:
            return (labels,)
        share = self._drawn_mix(shape, numbers)[0]
        return labels, labels[::-1].copy(), np.full(len(labels), share, np.float32)

    def _drawn_mix(
        self, shape: tuple[int, ...], numbers: tuple[int, int, int]
    ) -> tuple[float, tuple[slice, slice] | None]:
        """The share of each image, and the box that cutmix takes from the other one; None for mixup."""
        rng = np.random.default_rng((*numbers, 2))
        kinds = [kind for kind in self.kinds if kind in MIXES]
        if kinds[int(rng.integers(len(kinds)))] == "mixup":
            return float(np.float32(rng.beta(MIXUP_ALPHA, MIXUP_ALPHA))), None
        edge = np.sqrt(1.0 - rng.random())  # a share from Beta(1, 1), which is uniform
        box, cut = [], 1.0
        for length in shape[-2:]:
            middle, half = int(rng.integers(length)), int(length * edge) // 2
            box.append(slice(max(middle - half, 0), min(middle + half, length)))
            cut *= (box[-1].stop - box[-1].start) / length
        return 1.0 - cut, (box[0], box[1])

    def _mixed(self, images: Array, numbers: tuple[int, int, int]) -> Array:
        """The batch mixed with itself in reverse order."""
        share, box = self._drawn_mix(images.shape, numbers)
        if box is not None:
            cut = images.copy()
            cut[:, :, box[0], box[1]] = images[::-1, :, box[0], box[1]]
            return cut
        mixed = images * np.float32(share) + images[::-1] * np.float32(1.0 - share)
        return np.rint(mixed).astype(np.uint8)

    def _moved(self, images: Array, drawn: tuple[Array, ...]) -> Array:
        """Flip and shift images (N, C, H, W) as it was drawn."""
        count, _, height, width = images.shape
        rows = np.arange(height) + np.zeros((count, 1), np.int64)
        columns = np.arange(width) + np.zeros((count, 1), np.int64)
        if self.flip:
            columns = np.where(drawn[0], columns[:, ::-1], columns)
        if self.shift:
            margin = ((0, 0), (0, 0), (self.shift, self.shift), (self.shift, self.shift))
            images = np.pad(images, margin)
            rows, columns = rows + drawn[-2], columns + drawn[-1]
        # NumPy puts the axes of index arrays that a slice separates first: (N, H, W, C).
        found = images[np.arange(count)[:, np.newaxis, np.newaxis], :, rows[:, :, np.newaxis], columns[:, np.newaxis]]
        return np.ascontiguousarray(found.transpose(0, 3, 1, 2))
