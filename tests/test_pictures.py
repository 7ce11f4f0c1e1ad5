"""Pictures: read, resized, classified by every kind of model, and refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import qat
from qat.cli import main
from qat.data.pictures import FORMATS, find_pictures, read_class_names, read_picture, write_pictures
from qat.registry import TARGETS, installed

RNG = np.random.default_rng(0)


class Small(qat.Network):
    inputs = qat.Input((3, 6, 5), mean=0.5, std=0.3)

    def __init__(self) -> None:
        self.conv, self.flatten, self.fc = (
            qat.Conv2dBnAct(3, 4, 3, activation="relu"),
            qat.Flatten(),
            qat.DenseBnAct(120, 7),
        )

    def construct(self, x):
        return self.fc(self.flatten(self.conv(x)))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkpoint, class names, and three pictures a class in folders."""
    graph = qat.convert_quant_network(Small(), profile="ascend")
    qat.Checkpoint(graph, graph.observed_params()).save(tmp_path / "net.ckpt")
    (tmp_path / "names.txt").write_text("ant\nbee\ncat\ndog\nelk\nfox\ngnu\n")
    for name in ("bee", "fox"):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for number in range(3):
            pixels = RNG.integers(0, 256, (6, 5, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "pictures" / name / f"{number}.png")
    return tmp_path


def command(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    status = main(["run", *(str(argument) for argument in arguments)])
    return status, *capsys.readouterr()


def test_a_picture_of_the_right_size_is_read_as_it_is(folder: Path) -> None:
    file = folder / "pictures" / "bee" / "0.png"
    pixels, changes = read_picture(file, (3, 6, 5))
    np.testing.assert_array_equal(pixels.transpose(1, 2, 0), np.asarray(Image.open(file)))
    assert changes == []


def test_what_is_converted_and_resized_is_said(tmp_path: Path) -> None:
    Image.fromarray(RNG.integers(0, 256, (9, 4, 4), np.uint8), "RGBA").save(tmp_path / "x.png")
    pixels, changes = read_picture(tmp_path / "x.png", (1, 6, 5))
    assert (pixels.shape, pixels.dtype) == ((1, 6, 5), np.uint8)
    assert changes == [
        "laid on white where it is transparent",
        "converted from RGB to L",
        "resized from 4x9 to 5x6",
    ]


def test_every_kind_of_model_gives_the_same_classes(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = qat.Checkpoint.load(folder / "net.ckpt")
    integers = qat.to_integer(checkpoint.graph, checkpoint.params)
    models = [folder / "net.ckpt"]
    for name, entry in TARGETS.items():
        if installed(entry):
            models.append(folder / f"net{entry.suffix}")
            qat.target(name).export(integers, models[-1])
    picture = folder / "pictures" / "bee" / "0.png"
    answers = set()
    for model in models:
        arguments = ("--trust", "--model", model, "--class_names", folder / "names.txt")
        status, one, _ = command(capsys, *arguments, "--image", picture)
        assert status == 0
        assert one.count(" %") == 5
        status, many, _ = command(capsys, *arguments, "--test_path", folder / "pictures")
        assert status == 0
        assert "on 6 pictures" in many
        answers.add((one, many))
    assert len(models) > 1
    assert len(answers) == 1


def test_an_index_file_is_what_the_folders_are(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = read_class_names(folder / "names.txt")
    files = find_pictures(folder / "pictures", names)
    assert [label for _, label in files] == [1, 1, 1, 5, 5, 5]
    lines = [f"{file.relative_to(folder)} {label}" for file, label in files]
    (folder / "index.txt").write_text("\n".join(lines).replace(" 1", " bee") + "\n\n")
    assert find_pictures(folder / "index.txt", names) == files
    common = ("--model", folder / "net.ckpt", "--class_names", folder / "names.txt", "--test_path")
    assert command(capsys, *common, folder / "index.txt") == command(capsys, *common, folder / "pictures")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "none.onnx", "--image", "a.png"], "there is no such file"),
        (["--model", "net.ckpt", "--image", "none.png"], "cannot be read"),
        (["--model", "net.ckpt", "--image", "names.txt"], "is not a picture in a supported format"),
        (["--model", "net.ckpt", "--image", "x.png", "--class_names", "none"], "none: cannot be read"),
        (["--model", "net.ckpt", "--image", "pictures/bee/0.png", "--class_names", "two.txt"], "holds 2 names but"),
        (["--model", "net.ckpt", "--test_path", "pictures"], "'bee' is neither a class name nor a number"),
        (["--model", "net.ckpt", "--test_path", "names.txt"], "line 1: 'ant' has no class"),
        (["--model", "net.ckpt", "--test_path", "empty"], "holds nothing, but no data set"),
        (["--model", "net.ckpt", "--test_path", "large.txt"], "its classes reach 9 but"),
    ],
)
def test_mistakes_give_one_line(
    folder: Path,
    arguments: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(folder)
    (folder / "two.txt").write_text("a\nb\n")
    (folder / "empty").mkdir()
    (folder / "large.txt").write_text("pictures/bee/0.png 9\n")
    status, out, err = command(capsys, *arguments)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert message in err


def test_a_transparent_picture_is_laid_on_white(tmp_path: Path) -> None:
    pixels = np.zeros((6, 5, 4), np.uint8)
    pixels[2, 3, 3] = 255  # one black dot, the rest is nothing
    Image.fromarray(pixels, "RGBA").save(tmp_path / "x.png")
    found, changes = read_picture(tmp_path / "x.png", (1, 6, 5))
    assert changes == ["laid on white where it is transparent", "converted from RGB to L"]
    assert found[0, 2, 3] == 0
    assert (found == 255).sum() == 29


def test_pictures_of_more_than_8_bits_are_refused(tmp_path: Path) -> None:
    Image.fromarray(RNG.integers(0, 65536, (6, 5), np.uint16)).save(tmp_path / "x.png")
    with pytest.raises(qat.QatError, match=r"pixels of more than 8 bits"):
        read_picture(tmp_path / "x.png", (1, 6, 5))


@pytest.mark.parametrize("kind", FORMATS)
def test_pictures_of_every_format_that_is_read(kind: str, tmp_path: Path) -> None:
    pixels = np.full((6, 5, 3), 128, np.uint8)
    Image.fromarray(pixels).save(tmp_path / "x", kind)
    found, _ = read_picture(tmp_path / "x", (3, 6, 5))
    assert np.abs(found.astype(int) - 128).max() <= 1


@pytest.mark.parametrize("kind", ["EPS", "TIFF", "PCX", "ICO"])
def test_other_formats_are_refused_whatever_their_name_and_ghostscript_is_not_run(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(tmp_path / "x", kind)
    (tmp_path / "x").rename(tmp_path / "x.png")
    (tmp_path / "gs").write_text(f"#!/bin/sh\ntouch {tmp_path}/called\n")
    (tmp_path / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(qat.QatError, match=r"x\.png: is not a picture in a supported format; give one of PNG, JPEG"):
        read_picture(tmp_path / "x.png", (3, 16, 16))
    assert not (tmp_path / "called").exists()


def test_pictures_that_are_replaced_only_in_part_have_no_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An old index would give new pictures old labels."""
    images = np.zeros((3, 1, 4, 4), np.uint8)
    index = write_pictures(tmp_path, images, np.array([0, 1, 0]), ["a", "b"])
    assert len(find_pictures(index, ["a", "b"])) == 3
    save, saved = Image.Image.save, []

    def stopped(picture: Image.Image, path: Path) -> None:
        if saved:
            raise KeyboardInterrupt
        saved.append(path)
        save(picture, path)

    monkeypatch.setattr(Image.Image, "save", stopped)
    with pytest.raises(KeyboardInterrupt):
        write_pictures(tmp_path, images + 9, np.array([1, 0, 1]), ["a", "b"])
    assert not index.exists()


def test_a_class_is_a_name_or_an_ordinary_number(tmp_path: Path) -> None:
    (tmp_path / "index.txt").write_text("a.png \u00b2\n", encoding="utf-8")
    with pytest.raises(qat.QatError, match="line 1: '\u00b2' is neither a class name nor a number"):
        find_pictures(tmp_path / "index.txt", [])


def test_a_model_keeps_the_names_of_its_classes(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From the data that it is trained on to the file, where a class whose pictures are missing shifts no other."""
    names = tuple(read_class_names(folder / "names.txt"))
    start = qat.Checkpoint.load(folder / "net.ckpt")
    assert start.class_names == ()
    split = qat.Split(RNG.integers(0, 256, (20, *start.graph.input_specs[0].shape), np.uint8), np.arange(20) % 7)
    data = qat.Dataset("pictures", "from Python", split, split, names)
    trained = qat.train(qat.backend("torch"), start, data, qat.Recipe(epochs=1, batch_size=10))
    assert trained.class_names == trained.derived(trained.graph, trained.params).class_names == names
    trained.save(folder / "named.ckpt")
    assert qat.Checkpoint.load(folder / "named.ckpt").class_names == names
    models = [folder / "named.ckpt"]
    if installed(TARGETS["ONNX"]):
        models.append(folder / "named.onnx")
        qat.verify.export_verified(
            models[-1], qat.target("ONNX"), qat.backend("torch"), trained, split, data="pictures"
        )
    capsys.readouterr()
    for model in models:
        common = ("--model", model, "--test_path", folder / "pictures")
        with_names = command(capsys, *common, "--class_names", folder / "names.txt")
        assert command(capsys, *common)[:2] == with_names[:2], "as with the names given"
        _, one, _ = command(capsys, "--model", model, "--image", folder / "pictures" / "bee" / "0.png")
        assert sum(name in one for name in names) == 5
