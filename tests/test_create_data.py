"""Pictures in class folders, made by a command."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from qat.cli import main
from qat.data import load


def command(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    status = main(["create-data", *(str(argument) for argument in arguments)])
    return status, *capsys.readouterr()


def test_synthetic_shapes_in_class_folders_are_a_data_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a", "b"):
        arguments = ("--data_path", "shapes", "--class_folders", "--count", 40, "--size", 24)
        assert command(capsys, *arguments, "--out", tmp_path / name)[0] == 0
    one, other = load(str(tmp_path / "a")), load(str(tmp_path / "b"))
    assert (len(one.train), len(one.test), one.train.images.shape) == (40, 40, (40, 3, 24, 24))
    assert one.class_names == ("circle", "cross", "square", "triangle")
    np.testing.assert_array_equal(one.train.images[:], other.train.images[:])
    assert set(one.train.labels) == {0, 1, 2, 3}
    assert one.train.images[:].std() > 20


def test_a_data_set_in_class_folders_keeps_pixels_and_labels(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("--data_path", "digits", "--class_folders", "--split", "test", "--out", tmp_path / "p")
    assert command(capsys, *arguments)[0] == 0
    before, after = load("digits").test, load(str(tmp_path / "p" / "test"), for_folds=True).train
    for label in range(10):
        found, expected = after.images[:][after.labels == label], before.images[before.labels == label]
        np.testing.assert_array_equal(found, expected)


def test_pictures_with_masks_are_a_data_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of shapes, and of arrays with maps of classes; the mask of a shape is that shape."""
    shapes = ("--data_path", "shapes", "--masks", "--count", 12, "--size", 24, "--out", tmp_path / "shapes")
    assert command(capsys, *shapes)[0] == 0
    dataset = load(str(tmp_path / "shapes"))
    assert (len(dataset.train), len(dataset.test), dataset.train.images.shape) == (12, 12, (12, 3, 24, 24))
    maps, images = dataset.train.labels[:], dataset.train.images[:].astype(int)
    assert set(np.unique(maps)) == {0, 1, 2, 3, 4}
    for one, picture in zip(maps, images, strict=True):
        assert len(np.unique(one)) == 2
        assert picture[:, one > 0].min(axis=1).mean() > picture[:, one == 0].max(axis=1).mean() - 60
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (6, 1, 9, 8), np.uint8), rng.integers(0, 7, (6, 9, 8))
    np.savez(tmp_path / "maps.npz", x_train=x, y_train=y, x_test=x[:2], y_test=y[:2])
    assert command(capsys, "--data_path", tmp_path / "maps.npz", "--masks", "--out", tmp_path / "m")[0] == 0
    written = load(str(tmp_path / "m")).train
    np.testing.assert_array_equal(written.images[:], x)
    np.testing.assert_array_equal(written.labels[:], y)


def test_size_and_format(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("--data_path", "digits", "--class_folders", "--count", 20, "--size", 16, "--picture_format", "jpeg")
    assert command(capsys, *arguments, "--out", tmp_path / "p")[0] == 0
    files = sorted((tmp_path / "p").rglob("*.jpeg"))
    assert len(files) == 40
    with Image.open(files[0]) as picture:
        assert (picture.size, picture.mode, picture.format) == ((16, 16), "L", "JPEG")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data_path", "digits", "--class_folders", "--out", "."], "train: holds files already"),
        (["--data_path", "digits", "--size", "0", "--out", "p"], "--size 0"),
        (["--data_path", "digits", "--picture_format", "jpeg", "--out", "p"], "give --class_folders too"),
        (["--data_path", "digits", "--masks", "--out", "p"], "holds no pictures with a class for each pixel"),
        (["--data_path", "shapes", "--masks", "--class_folders", "--out", "p"], "leave one of them out"),
        (["--data_path", "shapes", "--masks", "--out", "."], "train: holds files already"),
        (["--data_path", "table.csv", "--out", "p"], "table.csv: holds no pictures of classes"),
    ],
)
def test_mistakes_give_one_line(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "file").touch()
    (tmp_path / "table.csv").write_text("1,2,0\n1,3,0\n2,3,1\n2,2,1\n")
    status, out, err = command(capsys, *arguments)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert message in err
