"""What a file takes and gives, which is chosen when it is exported: real numbers or codes of some type.

A caller has what the network takes, pixels, codes or real numbers, and wants real outputs; a file may take and give something
else. Each end of a file says how the two belong together, and is kept in the file's metadata, so that whoever runs it need not
know how it was exported.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from qat.errors import QatError, shortened
from qat.integer.entry import IntegerInput
from qat.integer.graph import IntegerGraph
from qat.integer.grid import Grid, IntegerTensor, Requantize
from qat.vocabulary.arrays import ArraySpec
from qat.vocabulary.fields import build, check_fields
from qat.vocabulary.numpy_ops import NUMPY_OPS
from qat.vocabulary.ops import Array

OWN = "own"  #: an input as the network takes it, an output as real numbers
REAL = "float32"
TYPES = (OWN, REAL, "int8", "uint8", "int16")  #: of an input or an output of a file
METADATA = "ends"  #: the key of a file's metadata
LARGEST = 1 << 20  #: characters of that entry
LARGEST_CODE = 1 << 16  #: bounds, zero points and offsets of codes of 16 bits are no larger
DTYPES = (REAL, "int8", "uint8", "int16", "uint16")  #: of arrays


@dataclass(frozen=True)
class FileInput:
    """One input of a file.

    Attributes:
        shape: of one sample, as the network takes it.
        dtype: of what the network takes.
        stored: dtype of what the file takes.
        scale: of the network's codes there.
        zero_point: of the codes that the file takes; where it takes others, 0.
        low: the lowest centred code.
        high: the highest centred code.
        multiplier: m of y = clip(rint(f32((x - offset) m)), low, high), which makes centred codes of what the network takes;
            None where it takes codes.
        offset: likewise; of codes that the network takes, their zero point.
    """

    shape: tuple[int, ...]
    dtype: str
    stored: str
    scale: float
    zero_point: int
    low: int
    high: int
    multiplier: float | None
    offset: int

    def __post_init__(self) -> None:
        check_fields(self)
        scales = (self.scale,) if self.multiplier is None else (self.scale, self.multiplier)
        _check(scales, (self.dtype, self.stored), (self.zero_point, self.low, self.high, self.offset))
        if self.low > self.high:
            raise ValueError(f"an input has codes from {self.low} to {self.high}")
        if self.stored not in (self.dtype, REAL):
            _check_fits(self.low + self.zero_point, self.high + self.zero_point, self.stored)

    @classmethod
    def as_it_is(cls, shape: tuple[int, ...], dtype: str) -> FileInput:
        """Of a file that takes what its network takes, where nothing has to be encoded."""
        return cls(shape, dtype, dtype, 1.0, 0, 0, 0, None, 0)

    @property
    def spec(self) -> ArraySpec:
        """Shape and dtype of what the network takes."""
        return ArraySpec(self.shape, self.dtype)

    @property
    def quantizes(self) -> tuple[Requantize, int] | None:
        """What the file has to compute of what it takes, and the offset that is taken away before; None where it takes codes,
        which are centred by ``zero_point``.
        """
        if self.stored == self.dtype and self.multiplier is not None:
            multiplier, offset = np.float32(self.multiplier), self.offset
        elif self.stored == REAL:
            multiplier, offset = np.float32(1.0) / np.float32(self.scale), 0
        else:
            return None
        return Requantize(np.full(1, multiplier, np.float32), self.low, self.high), offset

    def encode(self, x: Array) -> Array:
        """What the network takes as what the file takes: (N, ...) of dtype ``stored``."""
        if self.stored == self.dtype:
            return x
        centred = x.astype(np.float32) - np.float32(self.offset)
        if self.multiplier is not None:
            with np.errstate(over="ignore"):  # of numbers far beyond the range: clipped like any other
                centred = NUMPY_OPS.requantize(centred, np.full(1, self.multiplier, np.float32), self.low, self.high)
        if self.stored == REAL:
            return centred * np.float32(self.scale)
        stored: Array = (centred + self.zero_point).astype(self.stored)
        return stored


@dataclass(frozen=True)
class FileOutput:
    """One output of a file.

    Attributes:
        shape: of one sample.
        stored: dtype of what the file gives: "float32" for real numbers, else codes.
        scale: of the codes.
        zero_point: of the codes that the file gives; of real numbers 0.
    """

    shape: tuple[int, ...]
    stored: str
    scale: float
    zero_point: int

    def __post_init__(self) -> None:
        check_fields(self)
        _check((self.scale,), (self.stored,), (self.zero_point,))

    @classmethod
    def real(cls, shape: tuple[int, ...]) -> FileOutput:
        """Of real numbers whose codes do not matter."""
        return cls(shape, REAL, 1.0, 0)

    def decode(self, y: Array) -> Array:
        """Real numbers, float32 (N, ...)."""
        if self.stored == REAL:
            return y
        real: Array = (y.astype(np.float32) - np.float32(self.zero_point)) * np.float32(self.scale)
        return real


def _check(scales: tuple[float, ...], dtypes: tuple[str, ...], codes: tuple[int, ...]) -> None:
    """Raise ValueError for scales, dtypes or codes that no end has."""
    with np.errstate(over="ignore"):
        if not all(0.0 < np.float32(scale) < np.inf for scale in scales):
            raise ValueError(f"a scale is no positive float32 but one of {shortened(scales)}")
    if not set(dtypes) <= set(DTYPES):
        raise ValueError(f"an input or output has dtypes {shortened(dtypes)}")
    if max(map(abs, codes)) > LARGEST_CODE:
        raise ValueError(f"an input or output has codes {codes}, which 16 bits do not hold")


def _check_fits(low: int, high: int, stored: str) -> None:
    """Raise ValueError where an integer type does not hold the codes from low to high."""
    info = np.iinfo(stored)
    if not info.min <= low <= high <= info.max:
        raise ValueError(f"codes from {low} to {high} are no {stored}")


@dataclass(frozen=True)
class Ends:
    """The inputs and outputs of a file, in its order.

    >>> from qat.integer.ends import Ends, FileInput, FileOutput
    >>> ends = Ends((FileInput((2,), "uint8", "int8", 0.5, -128, 0, 255, None, 0),), (FileOutput((3,), "float32", 1.0, 0),))
    >>> Ends.from_json(ends.to_json()) == ends
    True
    """

    inputs: tuple[FileInput, ...]
    outputs: tuple[FileOutput, ...]

    @property
    def specs(self) -> list[ArraySpec]:
        """Shape and dtype of what the network takes."""
        return [end.spec for end in self.inputs]

    def encode(self, samples: Sequence[Array]) -> tuple[Array, ...]:
        """Of a batch: what the network takes as what the file takes."""
        return tuple(end.encode(x) for end, x in zip(self.inputs, samples, strict=True))

    def decode(self, outputs: Sequence[Array]) -> tuple[Array, ...]:
        """Of a batch: what the file gives as real numbers."""
        return tuple(end.decode(y) for end, y in zip(self.outputs, outputs, strict=True))

    def to_json(self) -> str:
        """As the metadata of a file hold it, under the key ``METADATA``."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Ends:
        """The inverse of ``to_json``. Raises QatError, ValueError, TypeError or KeyError for anything else."""
        if len(text) > LARGEST:
            raise ValueError(f"its inputs and outputs take more than {LARGEST:,} characters")
        data = json.loads(text)
        return cls(*(tuple(build(kind, entry) for entry in data[key]) for key, kind in _KINDS.items()))


@dataclass(frozen=True)
class FileTensors:
    """The inputs and outputs of a file as it has them.

    Attributes:
        ends: what they are.
        inputs: the names of the inputs, in the file's order.
        outputs: of the outputs.
        channels_last: whether the file has channels last, (H, W, C); else first, (C, H, W).
        outputs_first: whether its outputs have them first all the same.
    """

    ends: Ends
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    channels_last: bool = False
    outputs_first: bool = False


_KINDS = {"inputs": FileInput, "outputs": FileOutput}


def ends_of(graph: IntegerGraph, input_type: str = OWN, output_type: str = OWN, *, own_codes: str = REAL) -> Ends:
    """The inputs and outputs of a file of an integer graph.

    Args:
        graph: the integers.
        input_type: one of ``TYPES``. "own", the default: what the network takes. "float32": real numbers, which the file makes
            codes of. An integer type: codes, which the caller makes (docs/numerics.md has the formula).
        output_type: one of ``TYPES``. "own", the default, and "float32": real numbers. An integer type: codes.
        own_codes: what "own" means of an output that has codes, one that is left in float has none. Default: real numbers.

    Returns:
        The ends.

    Raises:
        QatError: a type is unknown, or does not hold the codes, or the codes of the file would not be those of training.
    """
    for name, value in (("input_type", input_type), ("output_type", output_type)):
        if value not in TYPES:
            raise QatError(f"--{name} {value!r} is unknown: choose one of {', '.join(TYPES)}")
    nodes = {node.name: node for node in graph.nodes if isinstance(node, IntegerInput)}
    return Ends(
        tuple(_input(nodes[x.name], input_type) for x in graph.inputs),
        tuple(_output(x, output_type, own_codes) for x in graph.outputs),
    )


def _input(node: IntegerInput, wanted: str) -> FileInput:
    grid, stored, zero_point = node.output.grid, node.dtype if wanted == OWN else wanted, 0
    if grid.real:
        if stored != node.dtype:
            raise QatError(
                f"{node.name}: --input_type {wanted}: its numbers are left in float, as {node.dtype} has them, and become no "
                "codes; leave --input_type out"
            )
        return FileInput.as_it_is(*node.spec)
    multiplier, offset = None, grid.zero_point
    if node.requantize is not None:
        multiplier, offset = float(node.requantize.multiplier[0]), node.offset
    if stored == REAL and node.dtype != REAL and multiplier is not None:
        raise QatError(
            f"{node.name}: --input_type float32, but the network takes codes, {node.dtype}, and rounds them anew: from real "
            "numbers a file would round some of them otherwise; leave --input_type out, or use int8"
        )
    if stored != REAL and (multiplier is None or stored != node.dtype):
        zero_point = _stored_zero(node.name, "input", grid, stored)
    low, high = (grid.low, grid.high) if node.requantize is None else (node.requantize.low, node.requantize.high)
    scale = float(grid.scale)
    return FileInput(node.output.shape, node.dtype, stored, scale, zero_point, low, high, multiplier, offset)


def _output(x: IntegerTensor, wanted: str, own_codes: str) -> FileOutput:
    stored = own_codes if wanted == OWN else wanted
    if x.grid.real:
        if wanted not in (OWN, REAL):
            raise QatError(
                f"{x.name}: --output_type {wanted}: this output is left in float and has no codes; leave --output_type out"
            )
        return FileOutput.real(x.shape)
    zero_point = 0 if stored == REAL else _stored_zero(x.name, "output", x.grid, stored)
    return FileOutput(x.shape, stored, float(x.grid.scale), zero_point)


def _stored_zero(name: str, what: str, grid: Grid, stored: str) -> int:
    """The zero point of codes in a type: int16 holds them centred, the others from the type's lowest number on."""
    info = np.iinfo(stored)
    zero_point = 0 if stored == "int16" else int(info.min) - grid.low
    if grid.low + zero_point < info.min or grid.high + zero_point > info.max:
        raise QatError(
            f"{name}: --{what}_type {stored}: its codes, {grid.low} to {grid.high} around the zero point, do not fit; use "
            "int16 or float32"
        )
    return zero_point
