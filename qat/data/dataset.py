"""A data set in memory: raw uint8 pixels and labels."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np

from qat.cells.base import Shape
from qat.data.augment import Augmentation
from qat.data.cifar import CLASS_NAMES, find_batches, read_batches
from qat.data.digits import read_digits
from qat.data.idx import find_idx, read_idx
from qat.data.loader import TrainingBatches
from qat.data.svhn import find_svhn, read_source_images, read_svhn
from qat.errors import QatError
from qat.plugins import Group
from qat.vocabulary.arrays import Arrays, as_arrays, as_tuple
from qat.vocabulary.ops import Array
from qat.vocabulary.rows import Rows

DIGITS = "digits"  #: the --data_path of the digits that come with scikit-learn
#: Readers of other packages: functions from the text after "name:" in a --data_path to a Dataset.
READERS = Group("qat.data", "data reader")


@dataclass(frozen=True, eq=False)
class Split:
    """Images and their labels: the training part or the test part of a data set.

    Args:
        images: uint8 (N, C, H, W), raw pixels; for a network with several inputs a tuple of such arrays.
        labels: integers (N,), the class of each sample, from 0.
        groups: int64 (N,): samples with the same number show the same thing, as crops of one photograph do, and stay on
            the same side of every division. None, the default: each sample stands for itself.
        targets: further arrays that an objective needs beside the labels, one row for each sample; none by default.

    Raises:
        QatError: where the arrays have other types or lengths.

    >>> import numpy as np, qat
    >>> qat.data.Split(np.zeros((60, 1, 28, 28), np.uint8), np.arange(60) % 10)
    Split of 60 samples of 1 x 28 x 28
    """

    images: Arrays
    labels: Array
    groups: Array | None = None
    targets: tuple[Array, ...] = ()

    def __post_init__(self) -> None:
        images = as_tuple(self.images)
        arrays = (*images, self.labels)
        wrong = [x for x in arrays if not isinstance(x, (np.ndarray, Rows))]
        if wrong:
            raise QatError(f"Split: got a {type(wrong[0]).__name__}; give NumPy arrays of images and of labels")
        if self.labels.ndim != 1 or self.labels.dtype.kind not in "iu":
            found = f"{self.labels.dtype} {self.labels.shape}"
            raise QatError(f"Split: labels are {found}; give whole numbers (N,), the class of each sample")
        if any(len(x) != len(self.labels) for x in images):
            counts = ", ".join(str(len(x)) for x in images)
            raise QatError(f"Split: there are {counts} images and {len(self.labels)} labels; give as many of each")
        if len(self.labels) and self.labels.min() < 0:
            raise QatError(f"Split: a label is {self.labels.min()}; classes count from 0")

    def __repr__(self) -> str:
        shapes = " and ".join(" x ".join(map(str, x.shape[1:])) for x in as_tuple(self.images))
        return f"Split of {len(self):,} samples of {shapes}"

    def __len__(self) -> int:
        return len(self.labels)

    def batches(
        self, batch_size: int, seed: int, epoch: int, augmentation: Augmentation | None = None
    ) -> Iterator[tuple[Arrays, Arrays]]:
        """Shuffled batches of one epoch; samples that do not fill a batch are left out.

        The order, and what ``augmentation`` draws, depends on seed and epoch alone.

        Args:
            batch_size: samples in each batch.
            seed: of the training.
            epoch: number of the epoch.
            augmentation: changes of the images; None for none. Targets stay those of the unchanged image.

        Returns:
            Images and labels, or where there are targets images and a tuple of labels and targets.

        Raises:
            QatError: for an augmentation of samples with several images.
        """
        steps = len(self) // batch_size
        batches = self.training(batch_size, seed, augmentation)
        return batches.of(range((epoch - 1) * steps, epoch * steps))

    def training(self, batch_size: int, seed: int, augmentation: Augmentation | None = None) -> TrainingBatches:
        """The batches of all epochs, as ``batches`` gives them for one.

        Args:
            batch_size: samples in each batch.
            seed: of the training.
            augmentation: changes of the images; None for none.

        Returns:
            Batches by the numbers of steps.
        """
        return TrainingBatches(as_tuple(self.images), self.labels, self.targets, batch_size, seed, augmentation)

    def chosen(self, which: Array) -> Split:
        """The samples with these numbers.

        Args:
            which: integers or booleans, an index into the samples.

        Returns:
            A split of copies.
        """
        groups = None if self.groups is None else self.groups[which]
        images = as_arrays(tuple(x.chosen(which) if isinstance(x, Rows) else x[which] for x in as_tuple(self.images)))
        return Split(images, self.labels[which], groups, tuple(x[which] for x in self.targets))


@dataclass(frozen=True, eq=False)
class Dataset:
    """Training and test images.

    Args:
        name: what it is, for logs.
        source: where it was read from, for error messages.
        train: what is trained on.
        test: what accuracy is measured on.
        class_names: what the labels mean, in their order; the ten digits by default.

    >>> import numpy as np, qat
    >>> split = qat.data.Split(np.zeros((60, 1, 28, 28), np.uint8), np.arange(60) % 10)
    >>> dataset = qat.data.Dataset("zeros", "from Python", split, split)
    >>> dataset.held_back(10).train
    Split of 50 samples of 1 x 28 x 28
    """

    name: str
    source: str
    train: Split
    test: Split
    class_names: tuple[str, ...] = tuple("0123456789")

    def held_back(self, count: int, seed: int = 0) -> Dataset:
        """Hold back some training images, to choose a model by: they take the place of the test images.

        Which images depends on the seed alone. Groups are kept whole, so it may be a few more.

        Args:
            count: how many images.
            seed: of the choice.

        Returns:
            A data set that trains on the remaining images.

        Raises:
            QatError: where none would be left to train on.
        """
        if not 0 < count < len(self.train):
            raise QatError(
                f"{self.source}: {count} images cannot be held back of {len(self.train)} training images; use a number "
                f"from 1 to {len(self.train) - 1}"
            )
        order = np.random.default_rng(seed).permutation(len(self.train))
        held = np.isin(np.arange(len(self.train)), order[:count])
        if self.train.groups is not None:
            held = _whole_groups(self.train.groups, order, count)
        train, test = self.train.chosen(np.flatnonzero(~held)), self.train.chosen(np.flatnonzero(held))
        return replace(self, name=f"{self.name}, {len(test):,} training images held back", train=train, test=test)

    def resized(self, shape: Shape) -> Dataset:
        """The same images in another size, by bilinear interpolation.

        Args:
            shape: (C, H, W) of an image.

        Returns:
            A data set of uint8 images.

        Raises:
            QatError: where the images have another number of channels.
        """
        train, test = self.train.images, self.test.images
        if isinstance(train, tuple) or isinstance(test, tuple):
            raise QatError(f"{self.source}: holds several images a sample, which are not resized; resize them before")
        channels = train.shape[1]
        if channels != shape[0]:
            raise QatError(
                f"{self.source}: its images have {channels} channels but the network takes {shape[0]}; choose a network "
                "for such images, or another data set"
            )
        size = (shape[1], shape[2])
        return replace(
            self,
            train=replace(self.train, images=resize_bilinear(train, size)),
            test=replace(self.test, images=resize_bilinear(test, size)),
        )


def load(data_path: str, *, for_folds: bool = False) -> Dataset:
    """Read a data set from a folder, or by a reader of another package.

    Args:
        data_path: a folder with MNIST's IDX files, CIFAR-10's binary files or SVHN's .mat files; or "digits" for the
            1,797 digits that come with scikit-learn; or "name:..." for the reader that another package registers under
            this name in the entry point group ``qat.data``, which gets the text after the colon.
        for_folds: True: for cross-validation, which needs no test images; a data set without some then has an empty
            test split, where by default a part of the training images becomes the test split.

    Returns:
        The data set, with raw uint8 pixels.

    Raises:
        QatError: naming the file that is missing, damaged or does not belong to the others.

    >>> import qat
    >>> dataset = qat.data.load("digits")  # needs scikit-learn
    >>> dataset.train, dataset.test
    (Split of 1,437 samples of 1 x 8 x 8, Split of 360 samples of 1 x 8 x 8)
    >>> qat.data.load("MNIST_Data")
    Traceback (most recent call last):
        ...
    qat.errors.QatError: MNIST_Data: there is nothing here, but --data_path takes the folder that holds MNIST, ...
    """
    if data_path == DIGITS:
        images, labels = read_digits()
        # The last fifth comes from writers of its own (sklearn keeps the original order), as a test set should.
        cut = len(labels) - len(labels) // 5 - 1
        return Dataset("digits", DIGITS, Split(images[:cut], labels[:cut]), Split(images[cut:], labels[cut:]))
    reader = _reader_of(data_path)
    if reader is not None:
        return _read_by(reader, data_path)
    folder = Path(data_path)
    if not data_path:
        raise QatError("--data_path is empty; give the folder of a data set, or the word 'digits'")
    if not os.path.isdir(folder):
        found = "a file" if os.path.exists(folder) else "nothing"
        others = "".join(f", or {name}:..." for name in READERS.names())
        raise QatError(
            f"{data_path}: there is {found} here, but --data_path takes the folder that holds MNIST, CIFAR-10 or SVHN, or "
            f"the word {DIGITS!r}{others}; qat data mnist --out MNIST_Data downloads MNIST"
        )
    train, test = find_batches(folder)
    if train or test:
        if not (train and test):
            raise QatError(
                f"{data_path}: holds CIFAR-10's {'training' if train else 'test'} files but no "
                f"{'test_batch.bin' if train else 'data_batch_1.bin'}; download the missing ones"
            )
        return Dataset("CIFAR-10", data_path, Split(*read_batches(train)), Split(*read_batches(test)), CLASS_NAMES)
    parts = find_svhn(folder)
    if parts:
        return _read_svhn(data_path, parts, for_folds)
    return Dataset("MNIST", data_path, _read_split(folder, "train", "train"), _read_split(folder, "test", "t10k"))


def exists(data_path: str) -> bool:
    """Whether there is something for ``load`` to read."""
    return data_path == DIGITS or os.path.isdir(data_path) or _reader_of(data_path) is not None


def _reader_of(data_path: str) -> str | None:
    """The reader that a path names before its first colon; None where that is none, as in C:/data."""
    name, colon, _ = str(data_path).partition(":")
    return READERS.meant(name) if colon else None


def _read_by(reader: str, data_path: str) -> Dataset:
    """What a reader of another package makes of what follows the colon."""
    read = READERS.load(reader)
    try:
        dataset = read(data_path.partition(":")[2])
    except QatError:
        raise
    except Exception as error:  # whatever the code of another package may raise
        raise QatError(
            f"{data_path}: data reader {reader!r} of {READERS.version(reader)} failed ({type(error).__name__}: {error}); "
            "give it what it reads, or use another release of it"
        ) from error
    if not isinstance(dataset, Dataset):
        raise QatError(
            f"{data_path}: data reader {reader!r} of {READERS.version(reader)} gives a {type(dataset).__name__}, no "
            "qat.data.Dataset; use a release of it that does"
        )
    return replace(dataset, source=data_path)  # by which a checkpoint remembers what it was trained on


def _read_split(folder: Path, part: str, prefix: str) -> Split:
    images_file = find_idx(folder, part, f"{prefix}-images", "idx3-ubyte")
    labels_file = find_idx(folder, part, f"{prefix}-labels", "idx1-ubyte")
    images, labels = read_idx(images_file, 3), read_idx(labels_file, 1)
    if len(images) != len(labels):
        raise QatError(
            f"{labels_file}: holds {len(labels)} labels but {images_file.name} {len(images)} images; the two files do not "
            "belong together, download them again"
        )
    if not len(images) or not images.size:
        raise QatError(f"{images_file}: holds no images; download it again")
    return Split(images[:, np.newaxis], labels.astype(np.int64))


def _read_svhn(source: str, parts: Mapping[str, Path], for_folds: bool) -> Dataset:
    """Train on the train file, and on extra where it exists. Without a test file a fifth of the training images is the test,
    unless it is for folds; the name says so.
    """
    if "train" not in parts:
        raise QatError(
            f"{source}: holds SVHN's {next(iter(parts.values())).name} but no train_32x32.mat; download it too"
        )
    splits = {}
    for part, path in parts.items():
        images, labels = read_svhn(path)
        splits[part] = Split(images, labels, read_source_images(path, len(labels)))
    train, name = splits["train"], "SVHN"
    if "extra" in splits:
        extra = splits["extra"]
        both = np.concatenate([train.images, extra.images])
        train = Split(both, np.concatenate([train.labels, extra.labels]))
        name = "SVHN with its extra images"
    if "test" in splits:
        return Dataset(name, source, train, splits["test"])
    if for_folds:
        return Dataset(f"{name} without its test file", source, train, train.chosen(np.arange(0)))
    return Dataset(f"{name} without its test file", source, train, train).held_back(max(len(train) // 5, 1))


def accuracy(outputs: Array, labels: Array, *, best: int = 1) -> float:
    """The share of samples whose label is among the largest outputs; of equal outputs the first counts as the larger.

    Args:
        outputs: (N, K), real numbers or codes.
        labels: integers (N,).
        best: how many of the largest outputs count; 1 by default, 5 for top-5 accuracy.

    Returns:
        0 to 1.

    >>> import numpy as np, qat
    >>> outputs = np.array([[0.1, 0.9], [0.8, 0.2]])
    >>> qat.data.accuracy(outputs, np.array([1, 1]))
    0.5
    """
    ranked = np.argsort(-outputs.astype(np.float64), axis=1, kind="stable")[:, :best]
    return float((ranked == labels[:, np.newaxis]).any(axis=1).mean())


def resize_bilinear(images: Array, size: tuple[int, int]) -> Array:
    """Resize images by bilinear interpolation with pixel centres aligned, as OpenCV's INTER_LINEAR; ties round to even.

    Args:
        images: uint8 (N, C, H, W).
        size: the new (H, W).

    Returns:
        uint8 (N, C, *size).
    """
    if images.shape[2:] == size:
        return images
    down, across = _interpolation(images.shape[2], size[0]), _interpolation(images.shape[3], size[1])
    parts = []
    for start in range(0, len(images), 1024):  # float32 copies of a whole data set would not be small
        part = np.matmul(down, images[start : start + 1024].astype(np.float32))
        parts.append(np.rint(np.matmul(part, across.T)).astype(np.uint8))
    return np.concatenate(parts)


def _whole_groups(groups: Array, order: Array, count: int) -> Array:
    """Which samples to hold back, bool (N,): whole groups in the order of ``order`` until they have ``count`` samples."""
    first = np.unique(groups[order], return_index=True)[1]
    chosen: list[int] = []
    size = 0
    for group in groups[order][np.sort(first)]:
        if size >= count:
            break
        chosen.append(group)
        size += int((groups == group).sum())
    held: Array = np.isin(groups, chosen)
    return held


@lru_cache
def _interpolation(old: int, new: int) -> Array:
    """The (new, old) matrix that interpolates one axis."""
    # Pixel i covers i to i + 1, so its centre is at i + 1/2 in both sizes.
    at = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
    left = np.minimum(at.astype(int), max(old - 2, 0))
    matrix = np.zeros((new, old), np.float32)
    rows = np.arange(new)
    matrix[rows, left] = 1 - (at - left)
    matrix[rows, np.minimum(left + 1, old - 1)] += at - left
    return matrix
