"""SVHN's .mat files, and folds of cross-validation."""

import io
import sys

import numpy as np
import pytest
import scipy.io
from hypothesis import given, settings
from hypothesis import strategies as st

from qat.data import Dataset, Split, cross_validation, load
from qat.data.readers.svhn import read_svhn
from qat.errors import QatError
from qat.study.training import study_data


def mat(count, seed=0, **changes):
    """An SVHN file of random crops, and its arrays as the reader should give them."""
    random = np.random.default_rng(seed)
    images = random.integers(0, 256, (count, 3, 32, 32), np.uint8)
    labels = random.integers(0, 10, count)
    arrays = {"X": images.transpose(2, 3, 1, 0), "y": np.where(labels == 0, 10, labels)[:, None].astype(np.uint8)}
    file = io.BytesIO()
    scipy.io.savemat(file, {**arrays, **changes}, do_compression=bool(seed % 2))
    return file.getvalue(), images, labels


@pytest.mark.parametrize("seed", [0, 1])
def test_crops_and_labels_are_read_and_ten_is_zero(tmp_path, seed):
    for part, count in (("train", 30), ("extra", 5), ("test", 7)):
        (tmp_path / f"{part}_32x32.mat").write_bytes(mat(count, seed)[0])
    dataset = load(str(tmp_path))
    assert dataset.name == "SVHN with its extra images"
    _, images, labels = mat(30, seed)
    assert len(dataset.train) == 35
    np.testing.assert_array_equal(dataset.train.images[:30], images)
    np.testing.assert_array_equal(dataset.train.labels[:30], labels)
    assert (labels == 0).any()
    np.testing.assert_array_equal(dataset.test.images, mat(7, seed)[1])
    assert dataset.test.labels.dtype == np.int64


def test_without_a_test_file_whole_photographs_are_held_back(tmp_path):
    (tmp_path / "train_32x32.mat").write_bytes(mat(50)[0])
    source = np.repeat(np.arange(1, 18), 3)[:50].astype(np.int32)
    np.save(tmp_path / "train_32x32.source_image.npy", source)
    dataset = load(str(tmp_path))
    assert dataset.name == f"SVHN without its test file, {len(dataset.test)} training images held back"
    assert 10 <= len(dataset.test) <= 12
    assert len(dataset.train) + len(dataset.test) == 50
    assert not set(dataset.train.groups) & set(dataset.test.groups)
    folds = load(str(tmp_path), for_folds=True)
    assert (len(folds.train), len(folds.test)) == (50, 0), "each fold is a test"
    settings = {"data_path": str(tmp_path), "shape": (3, 32, 32), "images": 0, "folds": 2, "seed": 0}
    for fold in (0, 1):
        found = study_data({**settings, "fold": fold})
        assert len(found.train) + len(found.test) == 50


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot be read"),
        (b"no matlab file at all", "cannot be read"),
        (mat(9)[0][:2000], "cannot be read"),
        (mat(9, X=np.zeros((28, 28, 3, 9), np.uint8))[0], "holds no X of uint8"),
        (mat(9, X=np.zeros((32, 32, 3, 9)))[0], "holds no X of uint8"),
        (mat(9, y=np.ones((8, 1), np.uint8))[0], "holds no y of one whole number for each of its 9 images"),
        (mat(9, y=np.ones((9, 1)))[0], "holds no y"),
        (mat(9, y=np.full((9, 1), 11, np.uint8))[0], "image 0 has label 11"),
        (mat(9, y=np.zeros((9, 1), np.uint8))[0], "image 0 has label 0"),
    ],
)
def test_a_damaged_file_is_named_with_what_is_wrong(tmp_path, content, message):
    path = tmp_path / "train_32x32.mat"
    path.write_bytes(content)
    with pytest.raises(QatError, match=message) as caught:
        load(str(tmp_path))
    assert str(path) in str(caught.value)


@settings(max_examples=60, deadline=None)
@given(at=st.integers(0, 4000), byte=st.integers(0, 255), cut=st.booleans())
def test_any_damage_gives_a_qaterror_or_a_valid_data_set(tmp_path_factory, at, byte, cut):
    content = bytearray(mat(1)[0])
    at %= len(content)
    content[at] = byte
    path = tmp_path_factory.mktemp("mat") / "train_32x32.mat"
    path.write_bytes(bytes(content[:at] if cut else content))
    try:
        images, labels = read_svhn(path)
    except QatError:
        return
    assert images.shape == (len(labels), 3, 32, 32)
    assert set(labels.tolist()) <= set(range(10))


def test_a_file_without_train_is_refused(tmp_path):
    (tmp_path / "test_32x32.mat").write_bytes(mat(3)[0])
    with pytest.raises(QatError, match=r"test_32x32\.mat but no train_32x32\.mat"):
        load(str(tmp_path))


@pytest.mark.parametrize("content", [b"junk", None])
def test_source_images_that_do_not_fit_are_refused(tmp_path, content):
    (tmp_path / "train_32x32.mat").write_bytes(mat(5)[0])
    beside = tmp_path / "train_32x32.source_image.npy"
    if content is None:
        np.save(beside, np.arange(4))
    else:
        beside.write_bytes(content)
    with pytest.raises(QatError, match=r"source_image\.npy"):
        load(str(tmp_path))


def test_without_scipy_the_extra_is_named(tmp_path, monkeypatch):
    (tmp_path / "train_32x32.mat").write_bytes(mat(3)[0])
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    with pytest.raises(QatError, match=r"needs SciPy.*pip install .*study"):
        load(str(tmp_path))


# -- folds ---------------------------------------------------------------------------------------------------------------


def numbered(labels, groups=None):
    images = np.arange(len(labels), dtype=np.uint8).reshape(-1, 1, 1, 1)
    split = Split(images, np.asarray(labels), groups)
    return Dataset("made", "/some/where", split, Split(images[:0], np.asarray(labels)[:0]))


def test_every_sample_is_tested_once_and_never_while_trained_on():
    folds = cross_validation(numbered(np.arange(60) % 3), 10)
    assert len(folds) == 10
    tested = np.concatenate([fold.test.images.reshape(-1) for fold in folds])
    assert sorted(tested.tolist()) == list(range(60))
    for number, fold in enumerate(folds, 1):
        assert fold.name == f"made, fold {number} of 10"
        assert sorted([*fold.train.images.reshape(-1), *fold.test.images.reshape(-1)]) == list(range(60))
        assert np.bincount(fold.test.labels).tolist() == [2, 2, 2]


def test_folds_follow_the_seed():
    first, again, other = (cross_validation(numbered(np.arange(60) % 3), 5, seed) for seed in (0, 0, 1))
    assert all((a.test.images == b.test.images).all() for a, b in zip(first, again, strict=True))
    assert any((a.test.images != b.test.images).any() for a, b in zip(first, other, strict=True))


def test_no_photograph_is_parted():
    random = np.random.default_rng(0)
    groups = random.integers(0, 40, 200)
    folds = cross_validation(numbered(random.integers(0, 10, 200), groups), 10)
    for fold in folds:
        assert not set(fold.train.groups) & set(fold.test.groups)
    assert sum(len(fold.test) for fold in folds) == 200


@pytest.mark.parametrize(
    ("groups", "count", "message"),
    [
        (None, 1, "1 fold of 20 images of its rarest label; use a number from 2 to 20"),
        (None, 21, "21 folds of 20 images"),
        (np.arange(60) // 20, 4, "4 folds of 3 groups of images"),
        (np.arange(60), 21, "21 folds of 20 images of its rarest label"),
    ],
)
def test_too_few_or_too_many_folds_are_refused(groups, count, message):
    with pytest.raises(QatError, match=message):
        cross_validation(numbered(np.arange(60) % 3, groups), count)
