"""Where data enters a graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from qat.cells.base import Cell, Scope, Shape
from qat.cells.facts import OutputNumbers
from qat.errors import QatError, shortened
from qat.integer import Entering, Grid, IntegerBuilder, IntegerInput, IntegerTensor
from qat.integer.widths import bits_of
from qat.vocabulary.arrays import ArraySpec
from qat.vocabulary.ops import Array
from qat.vocabulary.values import Value

CODES = ("uint8", "int8", "uint16", "int16")  #: dtypes whose numbers are codes
REAL = "float32"  #: the dtype of real numbers


@dataclass(frozen=True)
class Input(Cell):
    """Samples as they are measured or stored: pixels, codes or real numbers. What normalises them is part of the network, so
    that float and quantized networks, and the deployed file, take the same arrays.

    - Raw pixels, the default: uint8, and the pixel *is* the code. Its real number is ``(pixel - zero_point) * scale`` with
      ``scale = 1 / (255 std)`` and ``zero_point = rint(255 mean)``: the usual ``(pixel / 255 - mean) / std`` with the mean
      moved to the nearest pixel value, at most 1/510 away.
      A tuple, with a number for each channel, is kept exactly; convert_quant_network puts it into the weights of the cell
      that takes the pixels (``qat.passes.place_normalization``).
    - Codes of a given ``scale`` and ``zero_point``, of dtype uint8 or int8, as the words of an analog-digital converter or
      features that a microcontroller computes: ``(code - zero_point) * scale``. Those of 16 bits, int16 or uint16, are
      quantized as real numbers are.
    - Real numbers, float32: ``convert_quant_network`` puts a fake quantizer after the input, whose range calibration or
      training finds as that of any activation (docs/numerics.md, "The input").

    Args:
        shape: (C, H, W), (C, L) or (F,) of one sample.
        mean: of pixels scaled to 0..1: one number for all channels, or one for each. Default: 0.
        std: standard deviation of pixels scaled to 0..1, likewise. Default: 1.
        dtype: of the arrays: "uint8", "int8", "uint16", "int16" or "float32". Default: "uint8".
        scale: the real number that one step of a code stands for; needed for whole numbers that are no pixels. Default: None.
        zero_point: the code of the real number 0. Default: 0.
        placed: set by convert_quant_network: a normalisation of each channel is in the weights of the cells after it, so that
            the input's codes have one scale and zero point. Default: False.

    Raises:
        QatError: for sizes that are not positive, for a mean or std that does not fit the channels, and for arguments that do
            not go together, as a scale of real numbers.

    Example:
        >>> import qat
        >>> qat.Input((1, 28, 28), mean=0.1307, std=0.3081).grid.zero_point
        33
        >>> qat.Input((1, 49, 10), dtype="int8", scale=0.5847, zero_point=83).spec
        ArraySpec(shape=(1, 49, 10), dtype='int8')
    """

    shape: Shape
    mean: float | tuple[float, ...] = 0.0
    std: float | tuple[float, ...] = 1.0
    dtype: str = "uint8"
    scale: float | None = None
    zero_point: int = 0
    placed: bool = False

    arity = 0
    output_channels = "fixed"
    non_negative = False
    random = False

    @property
    def output_numbers(self) -> OutputNumbers:  # type: ignore[override]
        """Codes of up to 8 bits are codes of the network as they are (where channels differ, once the network is converted)."""
        return "coded" if self.dtype in ("uint8", "int8") else "computed"

    def __post_init__(self) -> None:
        for name in ("mean", "std"):
            if isinstance(getattr(self, name), np.ndarray):
                object.__setattr__(self, name, getattr(self, name).tolist())
        super().__post_init__()
        if not self.shape or min(self.shape) < 1:
            raise QatError(f"Input: shape is {self.shape!r}; give the positive sizes of one sample, as (1, 32, 32)")
        if self.dtype not in (*CODES, REAL):
            raise QatError(f"Input: dtype is {self.dtype!r}; use one of {', '.join((*CODES, REAL))}")
        if self.dtype == REAL or self.scale is not None:
            self._check_numbers()
            return
        if self.dtype != "uint8":
            raise QatError(
                f"Input: dtype {self.dtype} without scale: what a code stands for is unknown; give scale and zero_point"
            )
        if self.zero_point:
            raise QatError(
                "Input: zero_point is given without scale; pixels have mean and std, other codes both of them"
            )
        for name in ("mean", "std"):
            value = getattr(self, name)
            if isinstance(value, tuple) and len(value) != self.shape[0]:
                raise QatError(
                    f"Input: {name} is {shortened(value)}, {len(value)} numbers, but its shape {self.shape} has "
                    f"{self.shape[0]} channels; give one number for each, or one for all"
                )
        # Not of each channel: a damaged file may declare more of them than there is memory.
        means, stds = (value if isinstance(value, tuple) else (value,) for value in (self.mean, self.std))
        if not all(0.0 <= mean <= 1.0 for mean in means) or not all(1e-6 < std < 1e6 for std in stds):
            raise QatError(
                f"Input: mean {self.mean!r} and std {self.std!r} are those of pixels scaled to 0..1; mean must lie "
                "within 0..1 and std be a positive number of ordinary size"
            )

    def _each(self, value: float | tuple[float, ...]) -> tuple[float, ...]:
        """A number for each channel."""
        return value if isinstance(value, tuple) else (value,) * self.shape[0]

    @property
    def normalizes_channels(self) -> bool:
        """Whether each channel of pixels has a mean and std of its own, which is kept exactly."""
        return isinstance(self.mean, tuple) or isinstance(self.std, tuple)

    def _check_numbers(self) -> None:
        """Raise QatError where codes of a given scale, or real numbers, are described wrongly."""
        if self.mean != 0.0 or self.std != 1.0:
            raise QatError(
                f"Input: mean and std are those of pixels, but the numbers are {self.dtype}"
                f"{'' if self.scale is None else ' of a given scale'}; normalise them before, or begin with a BatchNorm cell"
            )
        if self.dtype == REAL:
            if self.scale is not None or self.zero_point:
                raise QatError(
                    "Input: float32 with scale or zero_point: real numbers are no codes, and calibration or training finds "
                    "their range; leave them out, or set dtype to that of the codes"
                )
            return
        info = np.iinfo(self.dtype)
        if not 1e-18 < float(self.scale or 0.0) < 1e18 or not info.min <= self.zero_point <= info.max:
            raise QatError(
                f"Input: scale {self.scale!r} must be a positive number of ordinary size, and zero_point {self.zero_point!r} "
                f"a code of {self.dtype}, {info.min} to {info.max}"
            )

    @property
    def spec(self) -> ArraySpec:
        """Shape and dtype of the arrays that it takes."""
        return ArraySpec(self.shape, self.dtype)

    @property
    def grid(self) -> Grid:
        """What its codes stand for. Raises QatError for real numbers."""
        if self.dtype == REAL:
            raise QatError(
                "Input: real numbers have no grid of their own; that of the fake quantizer after it is meant"
            )
        info = np.iinfo(self.dtype)
        if self.scale is not None:
            return Grid(np.float32(self.scale), self.zero_point, int(info.min), int(info.max))
        # Of channels that differ: between them, so that what the weights have to make up for is small.
        # (Without NumPy's functions: torch.compile traces this.)
        mean = sorted(self.mean)[len(self.mean) // 2] if isinstance(self.mean, tuple) else self.mean
        std = sum(self.std) / len(self.std) if isinstance(self.std, tuple) else self.std
        return Grid(np.float32(1.0 / (255.0 * std)), zero_point=int(np.rint(255.0 * mean)), qmin=0, qmax=255)

    @property
    def affine(self) -> tuple[Array, Array]:
        """(a, t), float64, one each for each channel: the real number of a pixel is a x + t where ``grid`` gives it x."""
        grid, pixel = self.grid, 1.0 / (255.0 * np.array(self._each(self.std)))
        return pixel / float(grid.scale), (grid.zero_point - 255.0 * np.array(self._each(self.mean))) * pixel

    def real_numbers(self, samples: Array) -> Array:
        """What samples stand for, as the float network takes them: float32 (N, ...).

        >>> import numpy as np, qat
        >>> qat.Input((2,), mean=(0.5, 0.0), std=(0.5, 1.0)).real_numbers(np.array([[255, 255]], np.uint8)).tolist()
        [[1.0, 1.0]]
        """
        if self.dtype == REAL:
            return samples
        real = self.grid.dequantize(samples)
        if not self.normalizes_channels:
            return real
        factor, shift = (each.reshape(-1, *(1,) * (len(self.shape) - 1)) for each in self.affine)
        normalised: Array = (real * factor + shift).astype(np.float32)
        return normalised

    @property
    def code_bits(self) -> int:
        return bits_of(self.grid.qmin, self.grid.qmax)

    def output_shape(self, *shapes: Shape) -> Shape:
        return self.shape

    def forward(self, scope: Scope, *inputs: Value) -> Value:
        """``inputs``: the samples as ``spec`` has them, held in float32."""
        (x,) = inputs
        if self.dtype == REAL:
            return x
        scale = scope.ops.from_numpy(np.asarray(self.grid.scale), "scalar")
        if self.normalizes_channels and not self.placed:
            factor, shift = (scope.ops.from_numpy(each, "vector") for each in self.affine)
            real = (x.data - float(self.grid.zero_point)) * scale
            return Value(real * scope.ops.on_channel(factor, real) + scope.ops.on_channel(shift, real))
        # Wide codes are quantized next: as codes of a linear cell their sums would leave float32's exact integers.
        coded = self.output_numbers == "coded"
        return Value(x.data - float(self.grid.zero_point), scale, codes=coded, entering=not coded)

    def to_integer(
        self, builder: IntegerBuilder, name: str, params: Mapping[str, Array], *inputs: Any
    ) -> IntegerTensor | Entering:
        if self.output_numbers == "coded":
            output = IntegerTensor(name, self.shape, self.grid)
            return builder.add(IntegerInput(name, (), output, self.dtype, meaning=self.real_numbers))
        if self.dtype == REAL:
            return Entering(name, self.spec, np.float32(1.0), 0, self.real_numbers)
        return Entering(name, self.spec, self.grid.scale, self.grid.zero_point, self.real_numbers)
