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
from qat.data import Augmentation, Split, load
from qat.errors import QatError
from qat.networks import create
from qat.training.loop import train
from qat.training.recipe import Recipe


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
    graph, digits = create("lenet").graph(), load("digits")
    start = qat.Checkpoint(graph, graph.initial_params())
    dataset = digits.resized((1, 32, 32))
    recipe = Recipe(epochs=2, augment_shift=2, augment_flip=True)
    backend = qat.backend("torch")
    kept: list[qat.Checkpoint] = []
    whole = train(backend, start, dataset, recipe, save=kept.append, save_every=7)
    resumed = train(backend, kept[0], dataset, recipe)
    assert all(np.array_equal(whole.params[name], resumed.params[name]) for name in whole.params)
    plain = train(backend, start, dataset, Recipe(epochs=2))
    assert any(not np.array_equal(whole.params[name], plain.params[name]) for name in whole.params)


def test_a_training_from_before_there_was_augmentation_goes_on() -> None:
    graph, backend = create("lenet").graph(), qat.backend("torch")
    dataset, recipe, kept = load("digits").resized((1, 32, 32)), Recipe(epochs=1), list[qat.Checkpoint]()
    train(backend, qat.Checkpoint(graph, graph.initial_params()), dataset, recipe, save=kept.append, save_every=7)
    (entry,) = kept[0].history
    older = replace(kept[0], history=({name: x for name, x in entry.items() if not name.startswith("augment_")},))
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
