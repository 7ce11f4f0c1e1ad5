"""Random changes of training images that leave their labels true."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from qat.errors import QatError
from qat.vocabulary.fields import check_fields
from qat.vocabulary.ops import Array


@dataclass(frozen=True)
class Augmentation:
    """What is drawn anew for each image each time it is seen.

    shift: the image is moved by -shift to shift pixels down and across, and what moves in is 0 (random cropping of the padded
    image: He et al., arXiv 1512.03385, section 4.2). flip: it is mirrored left to right, in half of the cases.
    """

    shift: int = 0
    flip: bool = False

    def __post_init__(self) -> None:
        check_fields(self)
        if self.shift < 0:
            raise QatError(f"augment_shift is {self.shift}; use a number of pixels, 0 for none")

    @property
    def changes(self) -> bool:
        """Whether anything is drawn at all."""
        return self.shift > 0 or self.flip

    def __call__(self, images: Array, rng: np.random.Generator) -> Array:
        """Changed images, (N, C, H, W) as they were given."""
        count, _, height, width = images.shape
        rows = np.arange(height) + np.zeros((count, 1), np.int64)
        columns = np.arange(width) + np.zeros((count, 1), np.int64)
        if self.flip:
            columns = np.where(rng.random((count, 1)) < 0.5, columns[:, ::-1], columns)
        if self.shift:
            if self.shift >= min(height, width):
                raise QatError(
                    f"augment_shift is {self.shift}, but the images have {height} x {width} pixels, so that nothing could "
                    "be left of one; use a smaller number"
                )
            margin = ((0, 0), (0, 0), (self.shift, self.shift), (self.shift, self.shift))
            images = np.pad(images, margin)
            rows = rows + rng.integers(0, 2 * self.shift + 1, (count, 1))
            columns = columns + rng.integers(0, 2 * self.shift + 1, (count, 1))
        # Integers apart by a slice put their axis first: (N, H, W, C).
        found = images[np.arange(count)[:, np.newaxis, np.newaxis], :, rows[:, :, np.newaxis], columns[:, np.newaxis]]
        return np.ascontiguousarray(found.transpose(0, 3, 1, 2))
