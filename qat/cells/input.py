"""Where data enters a graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from qat.cells.base import Cell, Scope, Shape
from qat.errors import QatError, shortened
from qat.integer import Grid, IntegerBuilder, IntegerInput, IntegerTensor
from qat.integer.widths import bits_of
from qat.vocabulary.ops import Array
from qat.vocabulary.values import Value


@dataclass(frozen=True)
class Input(Cell):
    """An image of raw uint8 pixels, normalised inside the network.

    The real number of a pixel code is ``(pixel - zero_point) * scale`` with ``scale = 1 / (255 std)`` and
    ``zero_point = rint(255 mean)``: the usual ``(pixel / 255 - mean) / std`` with the mean moved to the nearest pixel
    value, at most 1/510 away. So the pixel *is* the code, float and quantized networks see the same input, and the
    deployed file takes raw pixels.

    Args:
        shape: (C, H, W) of one image.
        mean: of pixels scaled to 0..1, one number for all channels. Default: 0.
        std: standard deviation of pixels scaled to 0..1, likewise. Default: 1.

    Raises:
        QatError: for sizes that are not positive, and for a mean or std that does not fit the channels.

    Example:
        >>> import qat
        >>> qat.Input((1, 28, 28), mean=0.1307, std=0.3081).grid.zero_point
        33
    """

    shape: Shape
    mean: float = 0.0
    std: float = 1.0

    arity = 0
    output_numbers = "coded"
    output_channels = "fixed"
    non_negative = False
    random = False

    def __post_init__(self) -> None:
        for name in ("mean", "std"):
            value = getattr(self, name)
            if isinstance(value, (tuple, list, np.ndarray)):
                raise QatError(
                    f"Input: {name} is {shortened(value)}, but it is one number for all channels, since all pixels of an input "
                    "have one scale and zero point; use their mean"
                )
        super().__post_init__()
        if not self.shape or min(self.shape) < 1:
            raise QatError(f"Input: shape is {self.shape!r}; give the positive sizes of one sample, as (1, 32, 32)")
        if not 0.0 <= self.mean <= 1.0 or not 1e-6 < self.std < 1e6:
            raise QatError(
                f"Input: mean {self.mean!r} and std {self.std!r} are those of pixels scaled to 0..1; mean must lie "
                "within 0..1 and std be a positive number of ordinary size"
            )

    @property
    def grid(self) -> Grid:
        """Scale and zero point of a pixel."""
        scale = np.float32(1.0 / (255.0 * self.std))
        return Grid(scale, zero_point=int(np.rint(255.0 * self.mean)), qmin=0, qmax=255)

    @property
    def code_bits(self) -> int:
        return bits_of(self.grid.qmin, self.grid.qmax)

    def output_shape(self, *shapes: Shape) -> Shape:
        return self.shape

    def forward(self, scope: Scope, *inputs: Value) -> Value:
        """``inputs``: the pixels, (N, C, H, W), whole numbers 0 to 255 held in float32."""
        (pixels,) = inputs
        scale = scope.ops.from_numpy(np.asarray(self.grid.scale), "scalar")
        return Value(pixels.data - float(self.grid.zero_point), scale, codes=True)

    def to_integer(
        self, builder: IntegerBuilder, name: str, params: Mapping[str, Array], *inputs: IntegerTensor
    ) -> IntegerTensor:
        return builder.add(IntegerInput(name, (), IntegerTensor(name, self.shape, self.grid)))
