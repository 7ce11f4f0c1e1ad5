"""The samples of the zoo's networks as data sets: what a network is calibrated on is never what it is evaluated on.

A data set of samples that are published for evaluation alone is divided: a part chosen by a fixed seed calibrates.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from qat.data import Dataset, Split
from qat.data.picture_rows import Paths, Pictures
from qat.data.readers.arrays import dataset_of, read_npz
from qat.errors import QatError
from qat.reading import read_text
from qat.vocabulary.ops import Array
from qat.zoo.places import Places

SEED = 0  #: of every division
QUARTER = 4  #: one of so many samples calibrates
PHOTOGRAPHS = 128  #: that calibrate
WORD_SCALE, WORD_ZERO_POINT = 0.5847029, 83  #: of the codes of keyword spotting's published input
FRAMES, MELS, WINDOW = (
    200,
    128,
    5,
)  #: of a recording of the anomaly detector, 128 mel bins each; of a sample of its network
ORDERS = 3  #: of the wake word's samples in its stream


def calibrating(count: int, chosen: int | None = None) -> Array:
    """Which samples of an evaluation set calibrate.

    Args:
        count: of all samples.
        chosen: of those that calibrate. None, the default: a quarter.

    Returns:
        bool (count,).

    >>> from qat.zoo.samples import calibrating
    >>> int(calibrating(500).sum()), bool((calibrating(500) == calibrating(500)).all())
    (125, True)
    """
    which = np.zeros(count, bool)
    which[np.random.default_rng(SEED).permutation(count)[: count // QUARTER if chosen is None else chosen]] = True
    return which


def digits(places: Places, other: Path | None) -> Dataset:
    """MNIST, with its own training images."""
    _refuse_other(other)
    return places.dataset("mnist")


def small_pictures(places: Places, other: Path | None) -> Dataset:
    """CIFAR-10, with its own training images."""
    _refuse_other(other)
    return places.dataset("cifar10")


def benchmark_pictures(places: Places, other: Path | None) -> Dataset:
    """Image classification: calibrated on CIFAR-10's training images, evaluated on MLPerf Tiny's of its test images."""
    train = places.dataset("cifar10").train
    x, y = _read(other or places.samples("ic01.npz"), (32, 32, 3), np.uint8)
    arrays = {"x_train": train.images, "y_train": train.labels, "x_test": x.transpose(0, 3, 1, 2), "y_test": y}
    return dataset_of("ic01.npz", "MLPerf Tiny's image classification", arrays, False)


def persons(places: Places, other: Path | None) -> Dataset:
    """Visual wake words: a quarter of the pictures calibrates."""
    return _divided(places, other, "vww01.npz", "MLPerf Tiny's visual wake words", (96, 96, 3), np.uint8)


def words(places: Places, other: Path | None) -> Dataset:
    """Keyword spotting: codes, with their scale and zero point; a quarter of the words calibrates."""
    return _divided(places, other, "kws01.npz", "MLPerf Tiny's keyword spotting", (49, 10, 1), np.int8)


def sounds(places: Places, other: Path | None) -> Dataset:
    """Anomalies: all windows of each recording, which is a group; a quarter of the recordings calibrates."""
    shape = (FRAMES * MELS,)
    x, y = _read(places.samples("ad01.npz"), shape, np.float32)
    first = calibrating(len(x))
    tested, labels = (x[~first], y[~first]) if other is None else _read(other, shape, np.float32)
    windows = FRAMES - WINDOW + 1
    arrays = {
        "x_train": _windows(x[first]),
        "x_test": _windows(tested),
        "y_test": np.repeat(labels, windows),
        "groups_test": np.repeat(np.arange(len(labels)), windows),
    }
    return dataset_of("ad01.npz", "MLPerf Tiny's anomaly detection", arrays, False)


def wake_words(places: Places, other: Path | None) -> Dataset:
    """Streaming wake word: (N, 30, 1, 40) as series of 40 channels; a quarter of the samples calibrates."""
    x, y = _specs(places.samples("calibration_samples.npz"))
    first = calibrating(len(x))
    tested, labels = (x[~first], y[~first]) if other is None else _specs(other)
    arrays = {"x_train": x[first], "y_train": y[first], "x_test": tested, "y_test": labels}
    return dataset_of("calibration_samples.npz", "MLPerf Tiny's streaming wake word", arrays, False)


def wake_word_stream(places: Places, dataset: Dataset) -> Split:
    """All samples of the wake word one after another, in several orders, and a window of 30 frames at each of the frames: the
    network has no state, and whoever runs it moves the window.
    """
    samples = _specs(places.samples("calibration_samples.npz"))[0].transpose(0, 2, 1)  # (N, frames, channels)
    rng, (count, frames, _) = np.random.default_rng(SEED), samples.shape
    windows = [
        np.lib.stride_tricks.sliding_window_view(np.concatenate(samples[rng.permutation(count)]), frames, axis=0)
        for _ in range(ORDERS)
    ]
    shape = dataset.test.images.shape[1:]  # type: ignore[union-attr]
    return Split(np.concatenate(windows).reshape(-1, *shape), None)


def photographs(places: Places, other: Path | None) -> Dataset:
    """Photographs of ImageNet with labels.csv: 128 calibrate, the others are evaluated."""
    files, labels = _labelled(places.samples("labels.csv"))
    first = calibrating(len(labels), PHOTOGRAPHS)
    if first.all():
        raise QatError(f"labels.csv: names {len(labels)} photographs, and {PHOTOGRAPHS} calibrate; give more of them")
    train = Split(files.chosen(first), labels[first])
    tested = Split(files.chosen(~first), labels[~first]) if other is None else Split(*_labelled(other))
    return Dataset("photographs of ImageNet", "photographs", train, tested)


def _labelled(path: Path) -> tuple[Pictures, Array]:
    """The photographs that a labels.csv of file,class_index names, in images/ beside it or in its own folder."""
    rows = list(csv.DictReader(io.StringIO(read_text(path, "give a .csv of file,class_index"))))
    if not rows or not {"file", "class_index"} <= rows[0].keys():
        raise QatError(f"{path}: has no columns file and class_index; give a .csv of file,class_index")
    numbers = [row["class_index"] or "" for row in rows]
    wrong = [number for number in numbers if not (number.isascii() and number.isdecimal())]
    if wrong:
        raise QatError(f"{path}: a class_index is {wrong[0][:20]!r}; give numbers from 0")
    folder = path.parent / "images" if (path.parent / "images").is_dir() else path.parent
    return Pictures.listed(Paths(folder, [row["file"] or "" for row in rows])), np.array(list(map(int, numbers)))


def _divided(
    places: Places, other: Path | None, name: str, what: str, shape: tuple[int, ...], dtype: type[np.generic]
) -> Dataset:
    """An evaluation set of pictures or codes, of which a quarter calibrates; other: is evaluated whole in its place."""
    x, y = _read(places.samples(name), shape, dtype)
    first = calibrating(len(x))
    tested, labels = (x[~first], y[~first]) if other is None else _read(other, shape, dtype)
    arrays = {"x_train": x[first], "y_train": y[first], "x_test": tested, "y_test": labels}
    arrays |= {name: x.transpose(0, 3, 1, 2) for name, x in arrays.items() if name.startswith("x")}
    codes = {"scale": WORD_SCALE, "zero_point": WORD_ZERO_POINT} if dtype is np.int8 else {}
    return dataset_of(name, what, arrays | codes, False)


def _read(path: Path, shape: tuple[int, ...], dtype: type[np.generic]) -> tuple[Array, Array]:
    """The arrays x (N, *shape) and y (N,) of an evaluation set."""
    arrays = read_npz(path)
    x, y = (_array(path, arrays, name) for name in ("x", "y"))
    if x.shape[1:] != shape or x.dtype != dtype or len(x) < QUARTER:
        raise QatError(
            f"{path}: its x is {x.dtype} {x.shape}, and this network's samples are {np.dtype(dtype)} (N, "
            f"{', '.join(map(str, shape))}), {QUARTER} or more; give samples of that form"
        )
    if y.shape != (len(x),):
        raise QatError(f"{path}: its y is {y.dtype} {y.shape} and it has {len(x)} samples; give a label for each")
    return x, y


def _specs(path: Path) -> tuple[Array, Array]:
    """The wake word's samples, float32 (N, channels, frames), and labels."""
    arrays = read_npz(path)
    x, y = (_array(path, arrays, name) for name in ("specs", "labels"))
    if x.ndim != 4 or x.shape[2] != 1 or y.shape != (len(x),) or len(x) < QUARTER:
        raise QatError(
            f"{path}: its specs are {x.shape} and its labels {y.shape}; give specs (N, 30, 1, 40) and labels (N,), "
            f"{QUARTER} or more"
        )
    return x[:, :, 0].transpose(0, 2, 1).astype(np.float32), y.astype(np.int64)


def _array(path: Path, arrays: Mapping[str, Array], name: str) -> Array:
    if name not in arrays:
        raise QatError(
            f"{path}: holds {', '.join(sorted(arrays)) or 'nothing'}, but no {name}; give samples of this form"
        )
    return arrays[name]


def _windows(recordings: Array) -> Any:
    """Windows of some frames, moved by one frame: (N windows, WINDOW MELS)."""
    frames = recordings.reshape(len(recordings), FRAMES, MELS)
    return np.lib.stride_tricks.sliding_window_view(frames, WINDOW, axis=1).swapaxes(2, 3).reshape(-1, WINDOW * MELS)


def _refuse_other(other: Path | None) -> None:
    if other is not None:
        raise QatError(
            f"--samples {other}: this network has test samples of its own, MNIST's or CIFAR-10's; leave it out"
        )
