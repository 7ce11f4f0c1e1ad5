"""How pictures become inputs: the recipe itself, where it is kept, and that every command follows it."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from calibrations import PLAIN_FLAGS
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import qat
from qat.cli import main
from qat.data import Preparation, load
from qat.data.pictures import read_picture
from qat.data.preparation import INTERPOLATIONS, PLAIN, RESIZES
from qat.data.resize import resize_bilinear
from qat.registry import TARGETS, installed
from qat.scripts.common.flags import chosen_preparation
from qat.scripts.common.pictures import recorded
from qat.scripts.common.training import _teaching

RNG = np.random.default_rng(0)


def torchvision(picture: Image.Image, size: int, short: int, how: Image.Resampling) -> np.ndarray:
    """Resize(short), CenterCrop(size), as torchvision.transforms.functional writes them for Pillow's pictures."""
    width, height = picture.size
    new = (short, int(short * height / width)) if width <= height else (int(short * width / height), short)
    picture = picture.resize(new, how)
    top, left = round((new[1] - size) / 2.0), round((new[0] - size) / 2.0)
    return np.asarray(picture.crop((left, top, left + size, top + size)))


@pytest.mark.parametrize("shape", [(300, 400), (401, 257), (256, 256), (20, 31), (224, 500)])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "nearest"])
def test_crop_is_what_users_of_imagenet_do_to_the_pixel(
    shape: tuple[int, int], interpolation: str, tmp_path: Path
) -> None:
    pixels = RNG.integers(0, 256, (*shape, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "x.png")
    expected = torchvision(Image.fromarray(pixels), 56, 64, Image.Resampling[interpolation.upper()])
    for recipe in (Preparation(interpolation=interpolation), Preparation(resize_to=64, interpolation=interpolation)):
        found, changes = read_picture(tmp_path / "x.png", (3, 56, 56), recipe)
        np.testing.assert_array_equal(found.transpose(1, 2, 0), expected)
        np.testing.assert_array_equal(found, recipe.apply(pixels.transpose(2, 0, 1), (56, 56)))
        assert changes == [f"resized from {shape[1]}x{shape[0]} to 56x56 ({recipe})"]


@settings(derandomize=True, deadline=None, max_examples=150)
@given(
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.tuples(st.integers(1, 24), st.integers(1, 24)),
    st.sampled_from(RESIZES),
    st.sampled_from(INTERPOLATIONS),
    st.sampled_from([1, 2, 3]),
)
def test_every_recipe_gives_the_networks_size(
    old: tuple[int, int], new: tuple[int, int], resize: str, interpolation: str, channels: int
) -> None:
    pixels = np.full((channels, *old), 200, np.uint8)
    recipe = Preparation(resize, interpolation=interpolation)
    found = recipe.apply(pixels, new)
    assert (found.shape, found.dtype) == ((channels, *new), np.uint8)
    (height, width), _ = recipe.plan(old, new)
    if resize == "pad":
        assert (found == 200).sum() == channels * height * width
        assert (found == 0).sum() == found.size - channels * height * width
        assert height == new[0] or width == new[1]
    else:
        assert (found == 200).all()


@pytest.mark.parametrize("resize", RESIZES)
@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_a_picture_of_the_networks_size_is_taken_as_it_is(resize: str, interpolation: str) -> None:
    pixels = RNG.integers(0, 256, (3, 9, 7), np.uint8)
    np.testing.assert_array_equal(Preparation(resize, interpolation=interpolation).apply(pixels, (9, 7)), pixels)


def test_data_sets_in_memory_are_resized_as_they_always_were() -> None:
    before, after = load("digits"), load("digits").resized((1, 32, 32))
    np.testing.assert_array_equal(after.test.images, resize_bilinear(before.test.images, (32, 32)))
    assert after.preparation == PLAIN
    one = PLAIN.apply(before.test.images[0], (20, 32))
    np.testing.assert_array_equal(one, resize_bilinear(before.test.images[:1], (20, 32))[0])
    other = before.resized((1, 32, 32), Preparation("stretch", interpolation="bicubic"))
    assert (other.test.images != after.test.images).any()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"resize": "squash"}, "resize is 'squash'; use one of crop, stretch, pad"),
        ({"interpolation": "lanczos"}, "use one of bilinear"),
        ({"resize_to": 0}, "resize_to is 0"),
        ({"resize": "pad", "resize_to": 9}, "resize_to is of resize 'crop'"),
        ({"crop_fraction": 1.5}, "crop_fraction is 1.5"),
        ({"crop_fraction": "x"}, "crop_fraction is 'x'"),
        ({"mean": 0.5}, "a preparation is"),
    ],
)
def test_recipes_that_are_none(fields: dict[str, object], message: str) -> None:
    with pytest.raises(qat.QatError, match=message):
        Preparation.from_json(fields)
    with pytest.raises(qat.QatError, match="a preparation is"):
        Preparation.from_json([1])


def test_a_size_that_cannot_be_cut_is_refused_with_the_file(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((30, 40), np.uint8)).save(tmp_path / "x.png")
    with pytest.raises(
        qat.QatError, match=r"x\.png: a picture of 40x30 is resized to 26x20, of which 24x24 cannot be cut"
    ):
        read_picture(tmp_path / "x.png", (1, 24, 24), Preparation(resize_to=20))
    Image.fromarray(np.zeros((2, 4000), np.uint8)).save(tmp_path / "x.png")
    with pytest.raises(qat.QatError, match=r"x\.png: a picture of 4000x2 is more than 100 times as long as wide"):
        read_picture(tmp_path / "x.png", (1, 24, 24), Preparation())


class Small(qat.Network):
    inputs = qat.Input((3, 6, 5), mean=0.5, std=0.3)

    def __init__(self) -> None:
        self.flatten, self.fc = qat.Flatten(), qat.DenseBnAct(90, 4)

    def construct(self, x):
        return self.fc(self.flatten(x))


RECIPE = Preparation("pad", interpolation="area")


def quantized() -> qat.Checkpoint:
    graph = qat.convert_quant_network(Small(), profile="ascend")
    return qat.Checkpoint(graph, graph.observed_params(), preparation=RECIPE)


def test_a_checkpoint_keeps_its_recipe_and_an_old_one_has_none(tmp_path: Path) -> None:
    made = quantized()
    made.save(tmp_path / "a.ckpt")
    assert qat.Checkpoint.load(tmp_path / "a.ckpt").preparation == RECIPE
    assert made.derived(made.graph, made.params).preparation == RECIPE
    replace(made, preparation=None).save(tmp_path / "b.ckpt")
    assert qat.Checkpoint.load(tmp_path / "b.ckpt").preparation is None


@pytest.mark.parametrize("name", [name for name, entry in TARGETS.items() if installed(entry) and name != "C"])
def test_an_exported_file_keeps_its_recipe(name: str, tmp_path: Path) -> None:
    quantized().save(tmp_path / "a.ckpt")
    file = tmp_path / f"net{TARGETS[name].suffix}"
    arguments = (
        "--ckpt_path",
        str(tmp_path / "a.ckpt"),
        "--file_format",
        name,
        "--file_name",
        str(file),
        "--no_verify",
    )
    assert main(["export", *arguments]) == 0
    target = qat.target(name)
    assert recorded(target, str(file))[0] == RECIPE
    target.write_metadata(file, {"preparation": json.dumps({"resize": "squash"})})
    with pytest.raises(qat.QatError, match=f"{file.name}: .*resize is 'squash'"):
        recorded(target, str(file))


def test_commands_follow_the_recipe_from_training_to_the_exported_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Wide pictures whose middle says nothing of the class: cut, they cannot be told apart; stretched, they can."""
    monkeypatch.chdir(tmp_path)

    def command(*arguments: str) -> tuple[str, str]:
        assert main([*arguments]) == 0, capsys.readouterr()
        out, err = capsys.readouterr()
        return out, err

    rng = np.random.default_rng(0)
    for part, count in (("train", 40), ("test", 10)):
        for label, name in enumerate(("left", "right")):
            Path(f"data/{part}/{name}").mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 60, (32, 96), np.uint8)
                pixels[:, 76 * label : 76 * label + 20] += 190
                Image.fromarray(pixels).save(f"data/{part}/{name}/{number}.png")
    common = ("--data_path", "data", "--backend", "torch")
    out, _ = command(
        "train", *common, "--epochs", "8", "--batch_size", "8", "--resize", "stretch", "--save_path", "a.ckpt"
    )
    assert "Accuracy: 100.00" in out
    kept = qat.Checkpoint.load("a.ckpt")
    assert kept.preparation == Preparation("stretch")
    assert kept.history[0]["data"] == "data, 2 classes of pictures"
    again = ("train", *common, "--epochs", "8", "--batch_size", "8", "--save_path", "a.ckpt", "--resume")
    assert main([*again]) == 2
    assert "the checkpoint was trained with preparation {'resize': 'stretch'" in capsys.readouterr().err
    out, err = command("eval", *common, "--ckpt_path", "a.ckpt")
    assert ("Accuracy: 100.00" in out, err) == (True, "")
    out, err = command("eval", *common, "--ckpt_path", "a.ckpt", "--resize", "crop")
    assert "Accuracy: 100.00" not in out
    assert (
        "note: pictures are prepared as the flags say (resize then crop 0.875, bilinear), but a.ckpt was made with"
        in err
    )
    command("calibrate", *common, "--ckpt_path", "a.ckpt", "--images", "20", "--save_path", "q.ckpt", *PLAIN_FLAGS)
    out, _ = command("export", "--ckpt_path", "q.ckpt", "--file_name", "net.onnx", "--data_path", "data")
    assert "data, 2 classes of pictures, test samples" in out
    for model in ("q.ckpt", "net.onnx"):
        out, err = command("evaluate", "--model", model, "--test_path", "data")
        assert "Accuracy: 100.00 % on 20 pictures" in out
        assert "resized from 96x32 to 32x32 (stretch, bilinear)" in err
        out, _ = command("evaluate", "--model", model, "--test_path", "data", "--resize", "crop")
        assert "Accuracy: 100.00" not in out
    (tmp_path / "names.txt").write_text("right\nleft\n")
    out, _ = command("evaluate", "--model", "net.onnx", "--test_path", "data", "--class_names", "names.txt")
    assert "Accuracy: 0.00 % on 20" in out, "names say which class is which"
    out, _ = command("run", "--model", "net.onnx", "--image", "data/test/right/0.png")
    assert next(line for line in out.splitlines() if "%" in line).split()[1] == "1"


def test_labels_of_pixels_that_are_no_bytes_are_refused_where_they_would_be_resized() -> None:
    """They would be cut to eight bits: a depth of 2.5 to 2, class 300 to 44."""
    images = np.zeros((2, 3, 8, 10), np.uint8)
    classes = np.full((2, 8, 10), 250, np.int64)
    for wrong in (np.full((2, 8, 10), 2.5, np.float32), classes + 50, classes - 251):
        split = qat.Split(images, wrong)
        dataset = qat.data.Dataset("x", "maps.npz", split, split)
        with pytest.raises(qat.QatError, match=r"maps\.npz: a label for each pixel is .* only classes from 0 to 255"):
            dataset.resized((3, 6, 5))
        assert dataset.resized((3, 8, 10)).train.labels is wrong
    split = qat.Split(images, classes)
    assert (qat.data.Dataset("x", "x", split, split).resized((3, 6, 5)).train.labels == np.full((2, 6, 5), 250)).all()


def test_a_share_that_has_no_say_is_refused() -> None:
    def chosen(kept: Preparation | None, **given: object) -> Preparation:
        return chosen_preparation(argparse.Namespace(**given), kept, Preparation(), "a.ckpt")

    assert chosen(Preparation(resize_to=64), crop_fraction=0.5) == Preparation(crop_fraction=0.5)
    assert chosen(PLAIN, crop_fraction=0.5, resize="crop").crop_fraction == 0.5
    for kept, others in (
        (PLAIN, {}),
        (None, {"resize": "pad"}),
        (None, {"resize_to": 64}),
    ):
        with pytest.raises(qat.QatError, match=r"--crop_fraction 0\.5: has no say in"):
            chosen(kept, crop_fraction=0.5, **others)


def test_a_teacher_sees_pictures_as_its_own_checkpoint_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(4):
        path = tmp_path / "data" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(RNG.integers(0, 256, (9, 16, 3), np.uint8)).save(path)
    quantized().save(tmp_path / "teacher.ckpt")
    seen = []
    monkeypatch.setattr("qat.scripts.common.training.teach", lambda *arguments, **_: seen.append(arguments[3]))
    flags = {"distill_temperature": None, "distill_weight": None, "label_smoothing": 0.0, "device_target": None}
    args = argparse.Namespace(teacher_ckpt=str(tmp_path / "teacher.ckpt"), resize="stretch", **flags)
    _teaching(args, qat.backend("torch"), quantized().graph, str(tmp_path / "data"))
    expected = load(str(tmp_path / "data")).resized((3, 6, 5), RECIPE).train.images[:]
    np.testing.assert_array_equal(seen[0].images[:], expected)
    assert capsys.readouterr().err == ""


def test_evaluate_names_classes_and_says_where_it_cannot_match_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for number in range(4):
        path = Path("data") / ("ant", "bee", "cat", "dog")[number] / "0.png"
        path.parent.mkdir(parents=True)
        Image.fromarray(RNG.integers(0, 256, (6, 5, 3), np.uint8)).save(path)
    lines = [f"data/{name}/0.png,{name}" for name in ("ant", "bee", "cat", "dog")]
    Path("table.csv").write_text("\n".join(lines))
    Path("names.txt").write_text("dog\ncat\nbee\nant\n")
    Path("others.txt").write_text("Ant\nBee\nCat\nDog\n")
    quantized().save("a.ckpt")
    base = ["evaluate", "--model", "a.ckpt", "--backend", "torch", "--device_target", "CPU", "--test_path"]
    assert main([*base, "data", "--per_class"]) == 0
    assert "ant" in capsys.readouterr().out
    assert main([*base, "table.csv", "--class_names", "names.txt"]) == 0
    assert "not in --class_names" not in capsys.readouterr().err
    assert main([*base, "table.csv", "--class_names", "others.txt"]) == 0
    assert "note: class 'ant' of table.csv is not in --class_names, so its classes count by" in capsys.readouterr().err


def test_where_a_picture_is_padded_no_class_counts() -> None:
    classes = np.arange(6, dtype=np.uint8).reshape(2, 3)
    for resize in ("pad", "stretch"):
        found = Preparation(resize, interpolation="nearest").apply_to_classes(classes, (6, 6))
        expected = np.repeat(np.repeat(classes, 2 if resize == "pad" else 3, 0), 2, 1)
        if resize == "pad":
            expected = np.pad(expected, ((1, 1), (0, 0)), constant_values=255)
        np.testing.assert_array_equal(found, expected)
