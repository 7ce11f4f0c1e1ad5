"""Training images changed at random, with their labels still true."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from command import run
from hypothesis import given
from hypothesis import strategies as st

import qat
from qat.data import Augmentation, Dataset, Split, load
from qat.data.augment import KINDS, MIXES
from qat.errors import QatError
from qat.networks import create
from qat.tasks import Classification
from qat.training.loop import train
from qat.training.losses import cross_entropy
from qat.training.objectives import Distillation
from qat.training.recipe import Recipe
from qat.vocabulary.numpy_ops import NumpyOps


def _pictures(count: int = 6, channels: int = 2, height: int = 5, width: int = 7) -> np.ndarray:
    return np.random.default_rng(3).integers(1, 256, (count, channels, height, width)).astype(np.uint8)


@given(st.integers(0, 4), st.booleans(), st.integers(0, 99))
def test_each_image_is_moved_and_mirrored_as_a_whole(shift: int, flip: bool, seed: int) -> None:
    images = _pictures()
    found = Augmentation(shift, flip)(images, np.random.default_rng(seed))
    assert found.shape == images.shape
    assert found.dtype == images.dtype
    for image, changed in zip(images, found, strict=True):
        padded = np.pad(image, ((0, 0), (shift, shift), (shift, shift)))
        choices = [
            window[:, :, ::direction]
            for direction in ((1, -1) if flip else (1,))
            for window in (padded[:, y : y + 5, x : x + 7] for y in range(2 * shift + 1) for x in range(2 * shift + 1))
        ]
        assert any(np.array_equal(changed, choice) for choice in choices)


def test_every_shift_and_both_sides_occur() -> None:
    image = np.zeros((2000, 1, 5, 5), np.uint8)
    image[:, 0, 2, 1] = 1
    found = Augmentation(1, True)(image, np.random.default_rng(0))
    places = {tuple(np.argwhere(x[0])[0].tolist()) for x in found}
    assert places == {(y, x) for y in (1, 2, 3) for x in (0, 1, 2, 3, 4)}


def test_nothing_asked_for_changes_nothing() -> None:
    images = _pictures()
    assert not Augmentation().changes
    assert np.array_equal(Augmentation()(images, np.random.default_rng(0)), images)


def test_batches_depend_on_seed_and_epoch_alone() -> None:
    split = Split(_pictures(), np.arange(6))
    augmentation = Augmentation(2, True)
    runs = [list(split.batches(2, seed, epoch, augmentation)) for seed, epoch in ((0, 1), (0, 1), (0, 2), (1, 1))]
    pixels = [np.concatenate([images for images, _ in run]) for run in runs]
    assert np.array_equal(pixels[0], pixels[1])
    assert not np.array_equal(pixels[0], pixels[2])
    assert not np.array_equal(pixels[0], pixels[3])
    plain = [labels.tolist() for _, labels in split.batches(2, 0, 1)]
    assert [labels.tolist() for _, labels in runs[0]] == plain, "the order is that of images that are not changed"


def test_a_training_that_is_interrupted_sees_the_same_images() -> None:
    graph, dataset = Dense().graph(), some_digits()
    start = qat.Checkpoint(graph, graph.initial_params())
    recipe = Recipe(epochs=2, batch_size=16, augment_shift=2, augment_flip=True)
    backend = qat.backend("torch")
    kept: list[qat.Checkpoint] = []
    whole = train(backend, start, dataset, recipe, save=kept.append, save_every=7)
    resumed = train(backend, kept[0], dataset, recipe)
    assert all(np.array_equal(whole.params[name], resumed.params[name]) for name in whole.params)
    plain = train(backend, start, dataset, Recipe(epochs=2, batch_size=16))
    assert any(not np.array_equal(whole.params[name], plain.params[name]) for name in whole.params)


def test_a_training_from_before_there_was_augmentation_goes_on() -> None:
    graph, backend = create("lenet").graph(), qat.backend("torch")
    dataset, recipe, kept = load("digits").resized((1, 32, 32)), Recipe(epochs=1), list[qat.Checkpoint]()
    train(backend, qat.Checkpoint(graph, graph.initial_params()), dataset, recipe, save=kept.append, save_every=7)
    (entry,) = kept[0].history
    older = replace(kept[0], history=({name: x for name, x in entry.items() if not name.startswith("augment")},))
    resumed = train(backend, older, dataset, recipe)
    assert all(np.array_equal(kept[-1].params[name], resumed.params[name]) for name in resumed.params)
    with pytest.raises(QatError, match="trained with augment_shift 0, now it is 2"):
        train(backend, older, dataset, replace(recipe, augment_shift=2))


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(QatError, match="augment_shift is -1"):
        Recipe(augment_shift=-1)
    with pytest.raises(QatError, match="augment_shift is 5, but the images have 5 x 7 pixels"):
        Augmentation(5)(_pictures(), np.random.default_rng(0))
    several = Split((_pictures(), _pictures()), np.arange(6))
    with pytest.raises(QatError, match="a sample has 2 images"):
        next(several.batches(2, 0, 1, Augmentation(flip=True)))


def test_the_command_says_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.ckpt"
    status, _, err = run(capsys, "train", "--data_path", "digits", "--augment_shift", -2, "--save_path", path)
    assert status == 2
    assert "augment_shift is -2" in err
    assert not path.exists()


class Dense(qat.Network):
    """The smallest network for the digits."""

    def __init__(self) -> None:
        self.inputs = qat.Input((1, 8, 8))
        self.flatten = qat.Flatten()
        self.fc = qat.DenseBnAct(64, 10)

    def construct(self, x):
        return self.fc(self.flatten(x))


def some_digits() -> Dataset:
    dataset = load("digits")
    return replace(dataset, train=dataset.train.chosen(np.arange(160)))


def pictures(channels: int = 3, count: int = 6) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (count, channels, 12, 10), np.uint8)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_changes_pictures_by_the_numbers_alone(kind: str, channels: int) -> None:
    augmentation, images = Augmentation(kinds=(kind,)), pictures(channels)
    first, maps = augmentation.changed(images, None, (), (0, 1, 2))
    assert maps is None
    assert (first.dtype, first.shape) == (images.dtype, images.shape)
    assert np.array_equal(images, pictures(channels)), "it works on copies"
    assert np.array_equal(first, augmentation.changed(images, None, (), (0, 1, 2))[0])
    others = [augmentation.changed(images, None, (), numbers)[0] for numbers in ((1, 1, 2), (0, 2, 2), (0, 1, 3))]
    assert any(not np.array_equal(first, images) for first in (first, *others))
    assert any(not np.array_equal(first, other) for other in others)


def test_maps_are_cut_and_mirrored_as_their_pictures() -> None:
    images = np.zeros((8, 3, 12, 10), np.uint8)
    images[:, :, :, 5:], images[:, :, 6:] = 200, 100  # three regions, which nearest pixels keep apart
    maps = images[:, 0].astype(np.int64)
    changed, moved = Augmentation(kinds=("crop", "flip")).changed(images, maps, (), (0, 1, 0))
    assert moved is not None
    assert moved.dtype == np.int64
    assert not np.array_equal(moved, maps)
    assert set(np.unique(moved)) <= {0, 100, 200}
    close = np.abs(changed[:, 0].astype(int) - moved) <= 0.5 * 200
    assert close.mean() > 0.9


def test_mixed_images_have_the_shares_that_their_labels_say() -> None:
    images, labels = np.zeros((4, 1, 10, 20), np.uint8), np.arange(4)
    images[:2] = 200  # the reverse order mixes each with the other kind
    for kind in ("mixup", "cutmix"):
        shares = set()
        for step in range(20):
            numbers = (0, 1, step)
            augmentation = Augmentation(kinds=(kind,))
            mixed, _ = augmentation.changed(images, None, (), numbers)
            first, other, share = augmentation.mixed_labels(labels, images.shape, numbers)
            assert (first.tolist(), other.tolist(), share.dtype) == ([0, 1, 2, 3], [3, 2, 1, 0], np.float32)
            means = mixed.reshape(4, -1).mean(axis=1) / 200
            expected = np.where(labels < 2, share, 1 - share)
            assert np.abs(means - expected).max() <= (0.51 / 200 if kind == "mixup" else 1e-6)
            assert len(np.unique(mixed)) <= 2
            shares.add(float(share[0]))
        assert len(shares) > 15
    both = {len(np.unique(Augmentation(kinds=MIXES).changed(images, None, (), (0, 1, n))[0][0])) for n in range(20)}
    assert both == {1, 2}, "either of the two is drawn for a batch"


def test_the_loss_of_mixed_images_is_that_of_both_labels_by_their_shares() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(4, 5)).astype(np.float32)
    first, other, share = np.array([0, 1, 2, 3]), np.array([3, 2, 1, 4]), np.full(4, 0.25, np.float32)
    task, graph, ops = Classification(), Dense().graph(), NumpyOps()
    images = np.zeros((4, 1), np.uint8)
    found = task.loss(ops, logits, task.targets(graph, images, (first, other, share)))
    one, two = (cross_entropy(ops, logits, labels) for labels in (first, other))
    assert np.isclose(found, 0.25 * one + 0.75 * two, rtol=1e-6)
    assert not np.isclose(one, two, rtol=0.1), "so that an exchange would be seen"


@pytest.mark.parametrize("backend", ["torch", "keras", "mindspore"])
def test_every_backend_trains_with_mixed_images(backend: str) -> None:
    digits = some_digits()
    recipe = Recipe(epochs=1, batch_size=32, augment=("flip", "mixup", "cutmix"))
    graph = Dense().graph()
    found = train(qat.backend(backend), qat.Checkpoint(graph, graph.initial_params(0)), digits, recipe)
    assert found.step == 5
    assert found.history[0]["augment"] == ["flip", "mixup", "cutmix"]
    with pytest.raises(
        QatError, match="augment flip mixup cutmix: mixed images have two labels, which the loss, Distillation, does"
    ):
        train(
            qat.backend(backend),
            qat.Checkpoint(graph, graph.initial_params(0)),
            digits,
            recipe,
            objective=Distillation(),
        )


def test_kinds_that_do_not_suit_the_samples_are_refused_by_name() -> None:
    labels, maps = np.zeros(6, np.int64), np.zeros((6, 12, 10), np.int64)
    windows = np.zeros((6, 3, 128), np.float32)
    with pytest.raises(QatError, match=r"there is no 'mixupp', perhaps mixup is meant"):
        Augmentation(kinds=("mixupp",))
    with pytest.raises(QatError, match=r"augment crop: changes pictures, .* but a sample is float32 3 x 128"):
        Augmentation(kinds=("crop",)).check((windows,), labels)
    with pytest.raises(QatError, match="augmentation: changes pictures"):
        Augmentation(flip=True).check((windows,), labels)
    with pytest.raises(QatError, match="augment color: changes colours, of 1 or 3 channels, but the images have 5"):
        Augmentation(kinds=("color",)).check((pictures(5),), labels)
    Augmentation(kinds=("crop", "flip")).check((pictures(5),), labels)
    for kind in ("mixup", "cutmix", "randaugment", "trivialaugment"):
        with pytest.raises(QatError, match=f"augment {kind}: each pixel has a label here"):
            Augmentation(kinds=("crop", kind)).check((pictures(),), maps)
    with pytest.raises(QatError, match="augment_shift: each pixel has a label here"):
        Augmentation(shift=1).check((pictures(),), maps)
    Augmentation(flip=True, kinds=("crop", "flip", "color")).check((pictures(),), maps)


def test_a_resumed_training_checks_the_kinds(tmp_path: Path) -> None:
    digits, graph, path = some_digits(), Dense().graph(), tmp_path / "one.ckpt"
    recipe = Recipe(epochs=1, batch_size=32, augment=("flip",))
    backend, saved = qat.backend("torch"), list[qat.Checkpoint]()
    start = qat.Checkpoint(graph, graph.initial_params(0))
    train(backend, start, digits, recipe, save=saved.append, save_every=2)
    saved[0].save(path)
    kept = qat.Checkpoint.load(path)
    with pytest.raises(QatError, match=r"trained with augment \['flip'\], now it is \[\]"):
        train(backend, kept, digits, replace(recipe, augment=()))
    end = train(backend, kept, digits, recipe)
    assert all(np.array_equal(x, saved[-1].params[name]) for name, x in end.params.items())


@pytest.mark.parametrize(
    "augmentation", [Augmentation(flip=True), Augmentation(shift=1), Augmentation(kinds=("flip",))]
)
def test_series_of_real_numbers_are_not_mirrored(augmentation: Augmentation) -> None:
    """They enter as (N, C, 1, L), which no change of a picture suits."""
    with pytest.raises(
        qat.QatError, match=r"changes pictures, uint8 \(N, C, H, W\), but a sample is float32 3 x 1 x 100"
    ):
        augmentation.check((np.zeros((4, 3, 1, 100), np.float32),), np.zeros(4, np.int64))
