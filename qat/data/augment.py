"""Random changes of training images under which their labels stay true."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from qat.errors import QatError
from qat.vocabulary.fields import check_fields
from qat.vocabulary.ops import Array


@dataclass(frozen=True)
class Augmentation:
    """Random changes, drawn anew for each image each time training sees it.

    Args:
        shift: move the image by -shift to shift pixels down and across, filling up with 0: a random crop of the padded
            image (He et al., arXiv 1512.03385, section 4.2). 0 by default: no shift.
        flip: mirror every other image, on average, left to right; False by default.

    Raises:
        QatError: for a negative shift.

    >>> import numpy as np, qat
    >>> augmentation = qat.data.Augmentation(shift=2, flip=True)
    >>> images = np.zeros((16, 3, 32, 32), np.uint8)
    >>> augmentation(images, np.random.default_rng(0)).shape
    (16, 3, 32, 32)
    """

    shift: int = 0
    flip: bool = False

    def __post_init__(self) -> None:
        check_fields(self)
        if self.shift < 0:
            raise QatError(f"augment_shift is {self.shift}; use a number of pixels, 0 for none")

    @property
    def changes(self) -> bool:
        """Whether there is anything to draw."""
        return self.shift > 0 or self.flip

    def __call__(self, images: Array, rng: np.random.Generator) -> Array:
        """Change images.

        Args:
            images: uint8 (N, C, H, W).
            rng: what the changes are drawn from.

        Returns:
            Images of the same shape and type.

        Raises:
            QatError: where the shift is as large as an image.
        """
        count, _, height, width = images.shape
        rows = np.arange(height) + np.zeros((count, 1), np.int64)
        columns = np.arange(width) + np.zeros((count, 1), np.int64)
        if self.flip:
            columns = np.where(rng.random((count, 1)) < 0.5, columns[:, ::-1], columns)
        if self.shift:
            if self.shift >= min(height, width):
                raise QatError(
                    f"augment_shift is {self.shift}, but the images have {height} x {width} pixels, so nothing would be "
                    "left of an image; use a smaller number"
                )
            margin = ((0, 0), (0, 0), (self.shift, self.shift), (self.shift, self.shift))
            images = np.pad(images, margin)
            rows = rows + rng.integers(0, 2 * self.shift + 1, (count, 1))
            columns = columns + rng.integers(0, 2 * self.shift + 1, (count, 1))
        # NumPy puts the axes of index arrays that a slice separates first: (N, H, W, C).
        found = images[np.arange(count)[:, np.newaxis, np.newaxis], :, rows[:, :, np.newaxis], columns[:, np.newaxis]]
        return np.ascontiguousarray(found.transpose(0, 3, 1, 2))
