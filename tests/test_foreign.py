"""What loops of other frameworks take, trained by ``qat.train``: DataLoaders, map-style data sets, batches."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Subset, TensorDataset

import qat
from qat.data.foreign import as_numpy
from qat.errors import QatError

RNG = np.random.default_rng(0)
IMAGES, LABELS = RNG.integers(0, 256, (40, 1, 4, 4), np.uint8), RNG.integers(0, 3, 40)
TENSORS = TensorDataset(torch.from_numpy(IMAGES), torch.from_numpy(LABELS))


class Linear(qat.Network):
    def __init__(self) -> None:
        self.inputs = qat.Input((1, 4, 4))
        self.flatten = qat.Flatten()
        self.fc = qat.DenseBnAct(16, 3)

    def construct(self, x: qat.Traced) -> qat.Traced:
        return self.fc(self.flatten(x))


class Folder(torch.utils.data.Dataset[Any]):
    """As torchvision's: samples are read when they are asked for, labels are at hand."""

    def __init__(self, targets: Any = None) -> None:
        self.read: list[int] = []
        if targets is not None:
            self.targets = targets

    def __len__(self) -> int:
        return len(IMAGES)

    def __getitem__(self, number: int) -> tuple[Any, int]:
        self.read.append(number)
        return torch.from_numpy(IMAGES[number]), int(LABELS[number])


def trained(data: Any, **settings: Any) -> qat.Checkpoint:
    graph = Linear().graph()
    start = qat.Checkpoint(graph, graph.initial_params(seed=0))
    return qat.train(qat.backend("torch"), start, data, qat.Recipe(**({"epochs": 2, "batch_size": 8} | settings)))


@pytest.mark.parametrize(
    "data",
    [
        TENSORS,
        DataLoader(TENSORS, batch_size=8),
        list(DataLoader(TENSORS, batch_size=40)),
        DataLoader(Folder(LABELS.tolist()), batch_size=8, shuffle=True),
        Folder(),
        DataLoader(Subset(Folder(torch.from_numpy(LABELS)), range(40)), batch_size=8),
        [(IMAGES[at : at + 16], LABELS[at : at + 16]) for at in (0, 16, 32)],
        [((torch.from_numpy(IMAGES),), torch.from_numpy(LABELS))],
    ],
    ids=["tensors", "loader", "list", "labels at hand", "samples alone", "subset", "batches", "nested"],
)
def test_all_of_them_train_as_arrays_do(data: Any) -> None:
    split = qat.Split(IMAGES, LABELS)
    expected = trained(qat.Dataset("arrays", "here", split, split))
    found = trained(data)
    assert found.step == 10
    for name, array in expected.params.items():
        np.testing.assert_array_equal(found.params[name], array)


def test_what_is_read_when_it_is_needed_is_not_read_before() -> None:
    folder = Folder(LABELS)
    dataset = qat.data.dataset_of(DataLoader(folder), class_names=("a", "b", "c"))
    assert folder.read == [0]
    assert repr(dataset.train) == "Split of 40 samples of 1 x 4 x 4"
    assert dataset.class_names == ("a", "b", "c")
    np.testing.assert_array_equal(dataset.train.images[3:5], IMAGES[3:5])
    assert folder.read == [0, 3, 4]
    part = qat.data.dataset_of(Subset(folder, [7, 2]))
    np.testing.assert_array_equal(part.train.labels, LABELS[[7, 2]])


def test_a_pair_is_training_and_test_part() -> None:
    history = trained((DataLoader(TENSORS, batch_size=8), None), validation=8)
    assert len(history.progress.epochs) == 2
    dataset = qat.data.dataset_of(TENSORS, [(IMAGES[:5], LABELS[:5])])
    assert (len(dataset.train), len(dataset.test)) == (40, 5)
    split = qat.Split(IMAGES, LABELS)
    assert qat.data.dataset_of(split).train is split


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            DataLoader(TENSORS, batch_size=16),
            r"^train: the DataLoader has batches of 16, but the recipe of 8, which counts",
        ),
        ([IMAGES], r"^train gives .*, but pairs \(x, y\) of arrays or tensors are needed"),
        ([("a", 1)], r"^train gives 'a', but pairs"),
        (iter([]), r"^train gives no batch"),
        ([(IMAGES, LABELS), (IMAGES[:, :, :2], LABELS)], r"^train gives batches that do not fit together"),
        (
            DataLoader(TENSORS, batch_size=8, sampler=torch.utils.data.SubsetRandomSampler(range(9))),
            r"^train is a DataLoader, .* its SubsetRandomSampler chooses other samples .*Subset, or all batches as a list",
        ),
        (
            DataLoader(TENSORS, batch_size=8, sampler=torch.utils.data.RandomSampler(TENSORS, num_samples=8)),
            r"its RandomSampler chooses other samples",
        ),
        (DataLoader(TENSORS, batch_size=8, collate_fn=tuple), r"its collate_fn tuple makes other samples"),
        (DataLoader(TensorDataset(torch.from_numpy(IMAGES)), batch_size=8), r"^train gives .*, but pairs"),
    ],
)
def test_what_gives_no_pairs_is_refused(data: Any, message: str) -> None:
    with pytest.raises(QatError, match=message):
        trained(data)


def test_labels_that_a_random_transform_could_part_from_their_images_are_refused() -> None:
    class Maps(Folder):
        def __getitem__(self, number: int) -> Any:
            return torch.from_numpy(IMAGES[number]), torch.from_numpy(IMAGES[number, 0])

    with pytest.raises(QatError, match=r"a label is an array \(4, 4\), which would be read apart from its image"):
        trained(Maps())


class Mirrored(TensorDataset):
    """What it gives is not what it holds."""

    def __getitem__(self, number: int) -> tuple[torch.Tensor, ...]:
        x, y = super().__getitem__(number)
        return x.flip(-1), 2 - y


class Other(Folder):
    def __getitem__(self, number: int) -> tuple[Any, int]:
        x, y = super().__getitem__(number)
        return x, 2 - y if y != 1 else 0


def test_what_a_data_set_gives_counts_and_not_what_it_holds() -> None:
    mirrored = qat.data.dataset_of(Mirrored(torch.from_numpy(IMAGES), torch.from_numpy(LABELS))).train
    np.testing.assert_array_equal(np.asarray(mirrored.images[:]), IMAGES[..., ::-1])
    np.testing.assert_array_equal(mirrored.labels, 2 - LABELS)
    np.testing.assert_array_equal(
        qat.data.dataset_of(Other(LABELS.tolist())).train.labels, np.where(LABELS == 1, 0, 2 - LABELS)
    )


def test_a_method_that_tensorflow_deprecates_is_not_called() -> None:
    class Eager:
        def cpu(self) -> object:
            raise AssertionError("deprecated")

        def __array__(self, *_: object, **__: object) -> np.ndarray:
            return np.arange(3)

    assert as_numpy(Eager(), "images").tolist() == [0, 1, 2]
    assert as_numpy(torch.arange(3.0, requires_grad=True), "images").tolist() == [0, 1, 2]
