"""What a network has to take and to give, by the data that it is made for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from qat.cells.base import Shape
from qat.cells.input import CODES, REAL, Input
from qat.data import Dataset
from qat.errors import QatError
from qat.tasks import Task
from qat.vocabulary.arrays import PIXELS, as_tuple
from qat.vocabulary.ops import Array

AUTO = "auto"  #: a mean or std that is measured
MEASURED = 2000  #: training pictures that it is measured on, evenly among all
AT_ONCE = 50
MEAN, STD = 0.5, 0.25  #: of pixels, where nobody says them
LARGEST = 4096  #: pixels of a side

Given = float | Sequence[float] | str | None  #: a mean or a std: for all channels, for each, AUTO, or as is usual


def input_for(
    dataset: Dataset,
    own: Input | None,
    any_size: bool,
    mean: Given = None,
    std: Given = None,
    input_size: int | None = None,
) -> Input:
    """The input of a network for a data set's samples.

    Args:
        dataset: whose samples have one array each.
        own: what the network takes by itself; None where it has to be told.
        any_size: True: pictures keep the data's size; False: they get that of ``own``.
        mean, std: of pixels scaled to 0..1; None: those of ``own`` where it takes as many channels, else 0.5 and 0.25.
        input_size: height and width of pictures, before any other.

    Returns:
        Pixels, codes of the data's scale and zero point, or real numbers. Series (N, C, L) enter as (C, 1, L), or as
        they are where ``own`` is (C, L).

    Raises:
        QatError: where the samples are nothing that a network takes, or the arguments are not of such samples.
    """
    images = as_tuple(dataset.train.images)[0]
    shape, dtype = tuple(images.shape[1:]), str(images.dtype)
    own_shape = None if own is None else own.shape
    if dtype not in (*CODES, REAL):
        raise QatError(f"{dataset.source}: samples are {dtype}, but networks take {', '.join((*CODES, REAL))}")
    pixels = dtype == PIXELS and dataset.scale is None
    picture = pixels and len(shape) == 3
    _check_arguments(dataset, dtype, pixels, picture, mean, std, input_size)
    if picture:
        kept = any_size or own_shape is None or len(own_shape) != 3
        size = (input_size, input_size) if input_size is not None else shape[1:] if kept else own_shape[1:]  # type: ignore[index]
        found: Shape = (shape[0], *size)
    else:
        found = _entering(dataset.source, shape, own_shape)
    if not pixels:
        return Input(found, dtype=dtype, **_grid(dataset, dtype))
    usual = own if own is not None and own.dtype == PIXELS and own.scale is None else None
    if usual is not None and len(found) == 3 and usual.shape[0] != found[0]:
        usual = None
    usual_mean, usual_std = (MEAN, STD) if usual is None else (usual.mean, usual.std)
    if AUTO in (mean, std):
        measured = measured_pixels(images)
        mean, std = (measured[k] if given == AUTO else given for k, given in enumerate((mean, std)))
    return Input(found, mean=_numbers(mean, usual_mean), std=_numbers(std, usual_std))


def measured_pixels(images: Array) -> tuple[tuple[float, ...] | float, tuple[float, ...] | float]:
    """Mean and std of pixels scaled to 0..1: of each channel of pictures, else of all.

    Args:
        images: uint8 (N, C, H, W) or (N, ...), an array or ``Rows``.

    Returns:
        The means and the stds, one number where there is one channel; a std is at least a step of grey.
    """
    chosen = np.unique(np.linspace(0, len(images) - 1, min(len(images), MEASURED)).astype(np.int64))
    channels = images.shape[1] if len(images.shape) == 4 else 1
    count, total, squares = 0, np.zeros(channels), np.zeros(channels)
    for start in range(0, len(chosen), AT_ONCE):
        part = images[chosen[start : start + AT_ONCE]]
        values = part.reshape(len(part), channels, -1).astype(np.float64) / 255.0
        count += values.shape[0] * values.shape[2]
        total += values.sum(axis=(0, 2))
        squares += (values * values).sum(axis=(0, 2))
    mean = total / count
    std = np.maximum(np.sqrt(np.maximum(squares / count - mean * mean, 0.0)), 1 / 255)
    found = tuple(tuple(round(float(x), 4) for x in each) for each in (mean, std))
    return (found[0], found[1]) if channels > 1 else (found[0][0], found[1][0])


def outputs_for(dataset: Dataset, task: Task) -> int | None:
    """How many outputs a task needs for the labels of a data set; None where they do not tell."""
    needed = [task.outputs_needed(split.labels, len(dataset.class_names)) for split in (dataset.train, dataset.test)]
    known = [each for each in needed if each is not None]
    return max(known) if known else None


def _numbers(given: Given, usual: float | tuple[float, ...]) -> float | tuple[float, ...]:
    """One number, or a tuple of several."""
    if given is None or isinstance(given, str):
        return usual
    if isinstance(given, (int, float)):
        return float(given)
    return float(given[0]) if len(given) == 1 else tuple(float(x) for x in given)


def _entering(source: str, shape: Shape, own: Shape | None) -> Shape:
    """The shape in which samples that are no pictures enter: rows as they are, series (C, L) as (C, 1, L), unless the network
    takes series by itself, or with another axis of 1.
    """
    if not 1 <= len(shape) <= 3:
        raise QatError(f"{source}: its samples are {shape}, but networks take (F,), (C, L) and (C, H, W); reshape them")
    if len(shape) != 2 or (own is not None and len(own) == 2):
        return shape
    if own is not None and [axis for axis in own if axis != 1] == list(shape):
        return own
    return (shape[0], 1, shape[1])


def _grid(dataset: Dataset, dtype: str) -> dict[str, Any]:
    """Scale and zero point of codes; nothing of real numbers."""
    if dtype == REAL:
        return {}
    if dataset.scale is None:
        raise QatError(
            f"{dataset.source}: its samples are {dtype} without a scale, so that what their codes stand for is unknown; put "
            "scale and zero_point beside them in the .npz, or save them as float32 numbers"
        )
    zero_point = dataset.zero_point or 0.0
    if zero_point != math.floor(zero_point):
        raise QatError(f"{dataset.source}: zero_point is {zero_point}, but it is the code of 0; give a whole number")
    return {"scale": dataset.scale, "zero_point": int(zero_point)}


def _check_arguments(
    dataset: Dataset, dtype: str, pixels: bool, picture: bool, mean: Given, std: Given, input_size: int | None
) -> None:
    """Raise QatError for an argument of pictures where samples are none."""
    found = f"the samples of {dataset.source} are {dtype} {tuple(as_tuple(dataset.train.images)[0].shape[1:])}"
    if input_size is not None and not picture:
        raise QatError(f"--input_size {input_size}: {found}, and only pictures are resized; leave it out")
    if input_size is not None and not 1 <= input_size <= LARGEST:
        raise QatError(f"--input_size {input_size}: use a number of pixels, 1 to {LARGEST}")
    for name, given in (("mean", mean), ("std", std)):
        if given is not None and not pixels:
            raise QatError(
                f"--{name}: is of pixels, but {found}; leave it out: batch normalisation and calibration find their range"
            )
