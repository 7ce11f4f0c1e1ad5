"""What a network's inputs take: what its user says, or what it begins with."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np

from qat.cells import Input
from qat.errors import QatError
from qat.imports.program import Operation, Program
from qat.tables import counted
from qat.vocabulary.ops import Array

Inputs: TypeAlias = Input | Sequence[Input] | None  #: one for each input, or the one of a network with one
REAL = "float32"
#: Of a source that takes whole numbers: the Input whose real numbers are these.
CODED: Mapping[str, dict[str, Any]] = {
    "uint8": {"mean": 0.0, "std": 1.0 / 255.0},
    "int8": {"dtype": "int8", "scale": 1.0},
}
#: Numbers by which pixels scaled to 0..1 are normalised: means and standard deviations of photographs, and halves. A network
#: that begins with another factor was made for other numbers, as those of a sensor.
USUAL_MEAN, USUAL_STD = (0.2, 0.8), (0.1, 1.0)
WHOLE = 0.01  #: or the pixels are divided by 255, or 256, alone: that near to 1


@dataclass(frozen=True)
class Entry:
    """A program, and what its inputs take.

    Attributes:
        program: without the normalisation that the inputs hold now.
        cells: of each input, in order.
        taken: likewise, Inputs whose ``real_numbers`` are what the source itself takes.
        notes: what was found, a line each.
    """

    program: Program
    cells: tuple[Input, ...] = ()
    taken: tuple[Input, ...] = ()
    notes: list[str] = field(default_factory=list)


def entered(program: Program, inputs: Inputs = None) -> Entry:
    """Decide what each input takes, and put the normalisation that a network begins with into it.

    Real numbers are what an input takes by default. Where it begins with a normalisation that is one of raw pixels, as
    ``(x - 127.5) / 127.5``, it takes pixels, uint8, and ``Input.mean`` and ``std`` hold it.

    Args:
        program: of a front end.
        inputs: an Input whose ``real_numbers`` are what the source takes, one for each input; None: as above.

    Returns:
        The program and its inputs.

    Raises:
        QatError: an Input of another shape, or not one for each.
    """
    absent: list[Input | None] = [None] * len(program.inputs)
    given: Sequence[Input | None] = [inputs] if isinstance(inputs, Input) else inputs or absent
    if len(given) != len(program.inputs):
        raise QatError(
            f"{program.name}: has {counted(len(program.inputs), 'input')} ({', '.join(program.inputs)}), but {len(given)} are "
            "described; give one qat.Input for each"
        )
    entry = Entry(program)
    for (name, spec), cell in zip(program.inputs.items(), given, strict=True):
        if cell is not None and cell.shape != spec.shape:
            raise QatError(
                f"{program.name}: its input {name} takes samples of shape {spec.shape}, but the Input given for it has "
                f"{cell.shape}; give that shape (channels first), or another input_shape"
            )
        taken = cell or Input(spec.shape, **CODED.get(spec.dtype, {"dtype": REAL}))
        entry = _entered(entry, name, taken, automatic=cell is None and spec.dtype not in CODED)
    return entry


def _entered(entry: Entry, name: str, cell: Input, *, automatic: bool) -> Entry:
    pixels = cell.dtype == "uint8" and cell.scale is None
    if not (pixels or automatic):
        return replace(entry, cells=(*entry.cells, cell), taken=(*entry.taken, cell))
    raw = cell if pixels else Input(cell.shape, mean=0.0, std=1.0 / 255.0)
    program, found, count = _normalised(entry.program, name, raw)
    if not count or (automatic and not _is_usual(found)):
        return replace(entry, cells=(*entry.cells, cell), taken=(*entry.taken, cell))
    notes = [
        f"{name} takes raw pixels, uint8: the normalisation that {entry.program.name} begins with is in its Input "
        f"(mean {_shown(found.mean)}, std {_shown(found.std)} of pixels scaled to 0..1)"
    ]
    return Entry(program, (*entry.cells, found), (*entry.taken, raw), [*entry.notes, *notes])


def _is_usual(cell: Input) -> bool:
    """Whether its normalisation is one of raw pixels, beyond doubt."""
    mean, std = _normalization(cell)
    if len(cell.shape) != 3 or cell.shape[0] not in (1, 3):
        return False
    divided = not mean.any() and (np.abs(std - 1.0) <= WHOLE).all()
    within = ((mean >= USUAL_MEAN[0]) & (mean <= USUAL_MEAN[1]) & (std >= USUAL_STD[0]) & (std <= USUAL_STD[1])).all()
    return bool(divided or within)


def _normalised(program: Program, name: str, cell: Input) -> tuple[Program, Input, int]:
    """The program without the factors and shifts that its input meets first, the Input that has them, and how many."""
    channels = cell.shape[0]
    mean, std = _normalization(cell)
    value, gone, count = name, set(), 0
    while len(takers := program.consumers(value)) == 1 and value not in program.outputs:
        after = takers[0]
        number = per_channel(after, channels, len(cell.shape))
        if after.kind == "identity":  # as a cast of pixels to real numbers
            gone.add(after.output)
            value = after.output
            continue
        if number is None or after.kind not in ("mul", "add") or after.output in program.outputs:
            break
        if after.kind == "mul" and not (number > 0).all():
            break
        if after.kind == "mul":
            std = std / number
        else:
            mean = mean - number * std
        gone.add(after.output)
        value, count = after.output, count + 1
    if not count or not ((mean >= -1e-9).all() and (mean <= 1 + 1e-9).all() and np.isfinite(std).all()):
        return program, cell, 0
    found = pixels(cell.shape, np.clip(mean, 0.0, 1.0), std)
    kept = [
        replace(each, inputs=tuple(name if given == value else given for given in each.inputs))
        for each in program.operations
        if each.output not in gone
    ]
    outputs = tuple(name if each == value else each for each in program.outputs)
    return replace(program, operations=tuple(kept), outputs=outputs), found, count


def _normalization(cell: Input) -> tuple[Array, Array]:
    """Mean and std of each channel, as the Input computes with them: one for all is that of the nearest pixel value."""
    mean = cell.mean if cell.normalizes_channels else cell.grid.zero_point / 255.0
    channels = (cell.shape[0],)
    return np.full(channels, mean, np.float64), np.full(channels, cell.std, np.float64)


def pixels(shape: tuple[int, ...], mean: Sequence[float] | Array, std: Sequence[float] | Array) -> Input:
    """An Input of pixels that holds a normalisation exactly: one mean and std for all channels only where that is a code.

    Args:
        shape: (C, H, W) of one sample.
        mean: Of pixels scaled to 0..1, of each channel or one for all.
        std: Likewise.

    Returns:
        The Input.
    """
    means, stds = (
        [float(f"{value:.6g}") for value in np.broadcast_to(np.asarray(each, np.float64), (shape[0],))]
        for each in (mean, std)  # those that are computed from constants of float32 have no more digits
    )
    code = 255.0 * means[0]
    if len(set(means)) == len(set(stds)) == 1 and math.isclose(code, round(code), abs_tol=1e-3):
        return Input(shape, mean=round(code) / 255.0, std=stds[0])
    return Input(shape, mean=tuple(means), std=tuple(stds))


def per_channel(each: Operation, channels: int, rank: int) -> Array | None:
    """The constant of an addition or multiplication.

    Args:
        each: the operation.
        channels: of what it takes.
        rank: of one sample of that: 3 of (C, H, W). A constant is spread over the last axes, as NumPy does it.

    Returns:
        Float32, one number for each channel; None where the operation has none, or another one.
    """
    other = each.constants.get("other")
    if other is None or len(each.inputs) != 1:
        return None
    if other.size == 1:
        return np.full(channels, float(other.reshape(())), np.float32)
    of_channels = (channels, *(1,) * (rank - 1))
    return other.reshape(-1) if other.shape in (of_channels, (1, *of_channels)) else None


def _shown(value: float | tuple[float, ...]) -> str:
    return " ".join(f"{each:.4g}" for each in (value if isinstance(value, tuple) else (value,)))
