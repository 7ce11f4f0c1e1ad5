"""A data set: samples and their labels, in memory or read when they are asked for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from qat.cells.base import Shape
from qat.data.augment import Augmentation
from qat.data.loader import TrainingBatches
from qat.data.preparation import PLAIN, Preparation, prepared
from qat.data.rows import Samples, chosen_of, in_memory
from qat.errors import QatError
from qat.tables import counted
from qat.vocabulary.arrays import Arrays, as_arrays, as_tuple
from qat.vocabulary.listing import Listed, Listing, Row, dimensions
from qat.vocabulary.ops import Array
from qat.vocabulary.rows import Rows

PARTS = ("part", "count", "each", "type")  #: columns of what a data set prints


@dataclass(frozen=True, eq=False)
class Split(Listed):
    """Samples and their labels: the training part or the test part of a data set.

    Args:
        images: the samples, (N, ...) of any type of number: uint8 (N, C, H, W) are raw pixels. An array, or ``Rows``, which
            are read when they are sliced; for a network with several inputs a tuple of such.
        labels: what a task wants to be found. Integers (N,) are classes, from 0; real numbers (N,) or (N, K) the values of a
            regression; 0 and 1, integers (N, K), which of K labels a sample has; integers (N, H, W), an array or ``Rows``, the
            class of each pixel. A tuple of such for several outputs; None where there are none.
        groups: int64 (N,): samples with the same number show the same thing, as crops of one photograph do, and stay on
            the same side of every division. None, the default: each sample stands for itself.
        targets: further arrays that an objective needs beside the labels, one row for each sample; none by default.

    Raises:
        QatError: where the arrays have other types or lengths.

    >>> import numpy as np, qat
    >>> qat.data.Split(np.zeros((60, 1, 28, 28), np.uint8), np.arange(60) % 10)
    Split of 60 samples of 1 x 28 x 28
    >>> windows = np.zeros((60, 3, 128), np.float32)
    >>> qat.data.Split(windows, windows.mean(axis=(1, 2)))
    Split of 60 samples of 3 x 128
    """

    images: Samples | tuple[Samples, ...]
    labels: Any  # Samples, a tuple of them, or None
    groups: Array | None = None
    targets: tuple[Array, ...] = ()

    def __post_init__(self) -> None:
        images, labels = as_tuple(self.images), self.outputs
        wrong = [x for x in (*images, *labels) if not isinstance(x, (np.ndarray, Rows))]
        if wrong or not images:
            found = f"a {type(wrong[0]).__name__}" if wrong else "no images"
            raise QatError(f"Split: got {found}; give NumPy arrays of images and of labels")
        for x in labels:
            if not x.shape or x.dtype.kind not in "iufb":
                raise QatError(
                    f"Split: labels are {x.dtype} {x.shape}; give whole or real numbers, a row for each sample"
                )
        counts = [len(x) for x in images]
        if any(len(x) != counts[0] for x in (*images, *labels)):
            of_labels = ", ".join(str(len(x)) for x in labels)
            raise QatError(
                f"Split: there are {', '.join(map(str, counts))} images and {of_labels or 'no'} labels; give as many of each"
            )
        for x in labels:
            if isinstance(x, np.ndarray) and x.ndim == 1 and x.dtype.kind in "iu" and len(x) and x.min() < 0:
                raise QatError(
                    f"Split: a label is {x.min()}; classes count from 0, and a regression takes real numbers"
                )

    @property
    def outputs(self) -> tuple[Samples, ...]:
        """The labels of each output; none where there are no labels."""
        return () if self.labels is None else as_tuple(self.labels)

    @property
    def classes(self) -> Array | None:
        """The labels, where they are one class for each sample; else None."""
        labels = self.labels
        one = isinstance(labels, np.ndarray) and labels.ndim == 1 and labels.dtype.kind in "iu"
        return labels if one else None

    def __repr__(self) -> str:
        shapes = " and ".join(dimensions(x.shape[1:]) for x in as_tuple(self.images))
        return f"Split of {counted(len(self), 'sample')} of {shapes}"

    @property
    def _listing(self) -> Listing:
        return Listing(repr(self), PARTS, tuple(self._rows("samples")))

    def _rows(self, part: str) -> list[Row]:
        """One for each array: of the samples, and of the labels."""
        arrays = [(part, x) for x in as_tuple(self.images)] + [("labels", x) for x in self.outputs]
        return [Row((name, f"{len(x):,}", dimensions(x.shape[1:]), str(x.dtype))) for name, x in arrays]

    def __len__(self) -> int:
        return len(as_tuple(self.images)[0])

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
            A split of copies; ``Rows`` are not read yet.
        """
        groups = None if self.groups is None else self.groups[which]
        return Split(
            as_arrays(tuple(chosen_of(x, which) for x in as_tuple(self.images))),
            None if self.labels is None else as_arrays(tuple(chosen_of(x, which) for x in self.outputs)),
            groups,
            tuple(x[which] for x in self.targets),
        )

    def in_memory(self) -> Split:
        """The same samples as arrays: all ``Rows`` are read."""
        images = as_arrays(tuple(in_memory(x) for x in as_tuple(self.images)))
        labels = None if self.labels is None else as_arrays(tuple(in_memory(x) for x in self.outputs))
        return replace(self, images=images, labels=labels)


@dataclass(frozen=True, eq=False)
class Dataset(Listed):
    """Training and test samples.

    Args:
        name: what it is, for logs.
        source: where it was read from, for error messages.
        train: what is trained on.
        test: what accuracy is measured on.
        class_names: what the labels mean, in their order; none by default.
        preparation: how pictures become an input; None where samples are taken as they are, or nobody has said it yet.
        scale, zero_point: of samples that are codes of real numbers, (code - zero_point) * scale; None, the default, where
            they are none, or nobody has said it.

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
    class_names: tuple[str, ...] = ()
    preparation: Preparation | None = None
    scale: float | None = None
    zero_point: float | None = None

    def __repr__(self) -> str:
        shapes = " and ".join(dimensions(x.shape[1:]) for x in as_tuple(self.train.images))
        classes = f", {len(self.class_names):,} classes" if self.class_names else ""
        return f"Dataset {self.name}, {len(self.train):,} + {counted(len(self.test), 'sample')} of {shapes}{classes}"

    @property
    def _listing(self) -> Listing:
        rows = (*self.train._rows("training"), *self.test._rows("test"))
        return Listing(repr(self), PARTS, rows)

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
            if held.all():
                raise QatError(
                    f"{self.source}: its groups are kept whole, and holding back {count} of {len(held)} samples takes all of "
                    "them; give more groups, or a test part of its own"
                )
        train, test = self.train.chosen(np.flatnonzero(~held)), self.train.chosen(np.flatnonzero(held))
        return replace(
            self, name=f"{self.name}, {counted(len(test), 'training image')} held back", train=train, test=test
        )

    def resized(self, shape: Shape, preparation: Preparation | None = None) -> Dataset:
        """The same samples in the shape that a network takes.

        Pictures that are read from files are prepared when they are read. Pixels in memory are resized; samples of any other
        kind have to have that shape, but for an axis of 1 that may be missing.

        Args:
            shape: of one sample, (C, H, W) of an image.
            preparation: how pictures become an input; None, the default: as the data set says, or as is usual for it.

        Returns:
            A data set whose ``preparation`` is the one that was used.

        Raises:
            QatError: where the samples cannot have that shape.
        """
        train, test = self.train.images, self.test.images
        if isinstance(train, tuple) or isinstance(test, tuple):
            raise QatError(f"{self.source}: holds several images a sample, which are not resized; resize them before")
        usual: Preparation = getattr(train, "usual", PLAIN)
        used = preparation or self.preparation or usual
        splits = []
        for split in (self.train, self.test):
            (images, *maps), changed = prepared(self.source, split.images, split.outputs, shape, used)
            labels = as_arrays(tuple(maps)) if maps else None
            splits.append(replace(split, images=images, labels=labels))
        return replace(self, train=splits[0], test=splits[1], preparation=used if changed else None)


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
