"""Networks that are fitted to data: what they take and give, and what is refused in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command import run
from PIL import Image

import qat
from qat.data import Dataset, Split
from qat.networks import NETWORKS, create
from qat.networks.fitting import measured_pixels
from qat.tasks import Multilabel, Reconstruction, Regression, Segmentation
from qat.vocabulary.arrays import ArraySpec

RNG = np.random.default_rng(0)
BASE = ["--backend", "torch", "--device_target", "CPU", "--epochs", 1, "--batch_size", 8]


def data(shape: tuple[int, ...], dtype: str = "uint8", labels: Any = None, **fields: Any) -> Dataset:
    """Zeros, of 5 classes unless something else is said."""
    labels = np.arange(20) % 5 if labels is None else labels
    split = Split(np.zeros((20, *shape), dtype), labels)
    return Dataset("zeros", "zeros.npz", split, split, **fields)


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_a_network_on_data_like_its_own_is_the_network_itself(name: str) -> None:
    """MNIST's LeNet is the same one as ever."""
    own = create(name).graph()
    spec, outputs = own.input_specs[0], own.shapes[own.outputs[0]]
    labels = np.arange(20) % own.shapes[own.outputs[-1]][0]  # of several outputs the last one gives scores
    task: Any = None
    if len(outputs) > 1 and len(own.outputs) == 1:
        labels, task = np.tile(labels[:, None, None], (1, *outputs[1:])).astype(np.uint8), Segmentation()
    elif name == "autoencoder":
        labels, task = None, Reconstruction()
    split = Split(np.zeros((20, *spec.shape), spec.dtype), labels)
    assert create(name, Dataset("zeros", "zeros", split, split), task).graph() == own


@pytest.mark.parametrize(
    ("name", "dataset", "task", "taken", "given"),
    [
        ("lenet", data((1, 28, 28)), None, ArraySpec((1, 32, 32)), (5,)),
        ("lenet", data((3, 64, 64)), None, ArraySpec((3, 32, 32)), (5,)),
        ("lenet", data((2, 40, 30), "float32"), None, ArraySpec((2, 40, 30), "float32"), (5,)),
        ("resnet8", data((1, 96, 96)), None, ArraySpec((1, 32, 32)), (5,)),
        ("ds_cnn", data((49, 10), "int8", scale=0.5, zero_point=83.0), None, ArraySpec((1, 49, 10), "int8"), (5,)),
        ("ds_cnn", data((1, 61, 12), "int16", scale=0.5), None, ArraySpec((1, 61, 12), "int16"), (5,)),
        ("cnn", data((3, 8, 11)), None, ArraySpec((3, 8, 11)), (5,)),
        ("cnn", data((4, 30, 20), "uint16", scale=0.01), None, ArraySpec((4, 30, 20), "uint16"), (5,)),
        ("cnn1d", data((3, 128), "float32"), None, ArraySpec((3, 1, 128), "float32"), (5,)),
        ("cnn1d", data((50,), "int8", scale=0.1), None, ArraySpec((1, 1, 50), "int8"), (5,)),
        ("ds_cnn1d", data((10, 49), "int8", scale=0.5, zero_point=83.0), None, ArraySpec((10, 49), "int8"), (5,)),
        ("ds_cnn1d", data((3, 128), "float32"), None, ArraySpec((3, 128), "float32"), (5,)),
        ("mlp", data((7,), "float32"), None, ArraySpec((7,), "float32"), (5,)),
        ("mlp", data((3, 9, 9)), None, ArraySpec((3, 9, 9)), (5,)),
        ("mlp", data((7,), "float32", RNG.normal(size=20)), Regression(), ArraySpec((7,), "float32"), (1,)),
        ("mlp", data((7,), "float32", RNG.normal(size=(20, 3))), Regression(), ArraySpec((7,), "float32"), (3,)),
        ("mlp", data((7,), "float32", np.eye(20, 4, dtype=int)), Multilabel(), ArraySpec((7,), "float32"), (4,)),
        ("autoencoder", data((3, 16), "float32"), Reconstruction(), ArraySpec((48,), "float32"), (48,)),
        ("segmenter", data((3, 9, 7), labels=np.full((20, 9, 7), 3)), Segmentation(), ArraySpec((3, 9, 7)), (4, 9, 7)),
        ("unet", data((3, 16, 8), labels=np.full((20, 16, 8), 3)), Segmentation(), ArraySpec((3, 16, 8)), (4, 16, 8)),
        ("detector", data((3, 32, 48)), None, ArraySpec((3, 32, 48)), (4, 4, 6)),
        ("mobilenet_v3", data((1, 28, 28)), None, ArraySpec((1, 28, 28)), (5,)),
        ("mlp", data((7,), "float32", class_names=tuple("abcdef")), None, ArraySpec((7,), "float32"), (6,)),
    ],
    ids=lambda x: x if isinstance(x, str) else None,
)
def test_what_it_takes_and_gives_follows_from_the_data(
    name: str, dataset: Dataset, task: Any, taken: ArraySpec, given: tuple[int, ...]
) -> None:
    graph = create(name, dataset, task).graph()
    assert graph.input_specs == (taken,) or list(graph.input_specs) == [taken]
    assert graph.shapes[graph.outputs[0]] == given
    cell: Any = graph.inputs[0].cell
    assert (cell.scale, cell.zero_point) == (dataset.scale, dataset.zero_point or 0)
    fitted = dataset.resized(taken.shape)
    assert fitted.train.images.shape == (20, *taken.shape)


def test_classes_of_the_test_part_and_pixels_that_do_not_count() -> None:
    x = np.zeros((4, 6), np.float32)
    dataset = Dataset("x", "x", Split(x, np.array([0, 1, 0, 1])), Split(x, np.array([0, 1, 2, 6])))
    assert create("mlp", dataset).graph().shapes["fc"] == (7,)
    maps = np.full((20, 8, 8), 255)
    maps[0, 0, 0] = 2
    assert create("segmenter", data((3, 8, 8), labels=maps), Segmentation()).graph().shapes["classes"] == (3, 8, 8)


def test_mean_std_and_size() -> None:
    images = RNG.integers(0, 256, (30, 3, 10, 12), np.uint8) // np.array([1, 2, 4], np.uint8)[:, None, None]
    split = Split(images, np.arange(30) % 2)
    dataset = Dataset("x", "x", split, split)
    real = images / 255.0
    network = create("cnn", dataset, mean="auto", std="auto", input_size=16)
    cell: Any = network.inputs
    assert cell.shape == (3, 16, 16)
    np.testing.assert_allclose(cell.mean, real.mean(axis=(0, 2, 3)), atol=6e-5)
    np.testing.assert_allclose(cell.std, real.std(axis=(0, 2, 3)), atol=6e-5)
    cell = create("lenet", dataset, mean=[0.1, 0.2, 0.3], std=0.4).inputs
    assert (cell.shape, cell.mean, cell.std) == ((3, 32, 32), (0.1, 0.2, 0.3), 0.4)
    mean, std = measured_pixels(np.full((5, 1, 8, 8), 51, np.uint8))
    assert mean == 0.2
    assert std == pytest.approx(1 / 255, abs=1e-4)  # of one colour alone: no division by 0


class Own(qat.Network):
    """One that is fitted, and has no defaults for it."""

    def __init__(self, input: qat.Input, outputs: int, width: int = 4) -> None:
        self.inputs, self.flatten = input, qat.Flatten()
        size = int(np.prod(input.shape))
        self.layers = [qat.DenseBnAct(size, width, activation="relu"), qat.DenseBnAct(width, outputs)]

    def construct(self, x):
        for layer in self.layers if len(self.inputs.shape) == 1 else [self.flatten, *self.layers]:
            x = layer(x)
        return x


class Fixed(Own):
    """One that is not."""

    def __init__(self) -> None:
        super().__init__(qat.Input((6,), dtype="float32"), 5)


def test_a_network_of_ones_own_with_and_without_parameters() -> None:
    graph = create("test_networks_fitted:Own", data((3, 20, 30))).graph()
    assert graph.input_specs[0] == ArraySpec((3, 20, 30))
    assert graph.shapes[graph.outputs[0]] == (5,)
    assert create("test_networks_fitted:Fixed", data((3, 20, 30))).graph().input_specs[0] == ArraySpec((6,), "float32")
    with pytest.raises(qat.QatError, match="defaults for all arguments but input and outputs"):
        create("test_networks_fitted:Own")
    with pytest.raises(qat.QatError, match="has an input of its own; leave it out"):
        create("test_networks_fitted:Fixed", data((3, 20, 30)), mean=0.5)


# -- traps ------------------------------------------------------------------------------------------------------------


def folders(path: Path, count: int = 3) -> None:
    for name in ("a", "b"):
        (path / name).mkdir(parents=True)
        for number in range(count):
            pixels = RNG.integers(0, 256, (64, 64, 3), np.uint8)
            Image.fromarray(pixels).save(path / name / f"{number}.png")


@pytest.fixture
def traps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folders(tmp_path / "pictures", 10)
    folders(tmp_path / "few", 1)
    x, y = RNG.normal(size=(40, 3, 32)).astype(np.float32), np.arange(40) % 4
    nan = x.copy()
    nan[7, 1, 2] = np.nan
    codes = (x * 100).astype(np.int16)
    two = RNG.integers(0, 256, (40, 2, 12, 12), np.uint8)
    for name, arrays in {
        "good": {"x": x, "y": y},
        "nan": {"x": nan, "y": y},
        "unscaled": {"x": codes, "y": y},
        "fraction": {"x": codes, "y": y, "scale": 0.1, "zero_point": 0.5},
        "scaled": {"x": codes, "y": y, "scale": 0.01},
        "other": {"x": codes, "y": y, "scale": 0.02},
        "two": {"x": two, "y": y},
        "real": {"x": x, "y": x.mean(axis=(1, 2))},
        "strings": {"x": x, "y": np.array(["left", "right", "up", "down"])[y]},
        "without": {"x": x},
        "axes": {"x": x.reshape(40, 1, 3, 4, 8), "y": y},
    }.items():
        np.savez(f"{name}.npz", **arrays)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("pictures --task segmentation", "but segmentation takes maps of whole numbers (N, H, W)"),
        ("pictures --task reconstruction", "give a network whose output has the input's shape"),
        (
            "pictures --network ds_cnn1d",
            "takes series (C, L), L at least 4; pictures are for cnn, anything else for mlp",
        ),
        ("pictures --network cnn1d", "pictures are for cnn, anything else for mlp"),
        ("pictures --network cnn --mean 0.5 0.5", "mean is (0.5, 0.5), 2 numbers"),
        ("pictures --network cnn --mean auto 0.5", "takes 'auto' alone"),
        ("pictures --network cnn --input_size 4", "sides of at least 8"),
        ("pictures --network cnn --input_size 0", "use a number of pixels"),
        ("few --network cnn", "class 'a' has 1 sample, too few to train on some and test with others"),
        ("good.npz", "do not suit the network 'lenet'"),
        ("good.npz --network cnn", "choose another: cnn is for pictures, cnn1d for series (C, L), mlp for anything"),
        ("good.npz --network mlp --input_size 32", "only pictures are resized; leave it out"),
        ("good.npz --network mlp --std auto", "--std: is of pixels, but the samples of good.npz are float32 (3, 32)"),
        ("good.npz --network mlp --batch_size 64", "32"),
        ("real.npz --network mlp", "give --task regression"),
        ("without.npz --network mlp", "give data with labels, or --task reconstruction"),
        ("nan.npz --network mlp", "holds nan in row 7"),
        ("unscaled.npz --network mlp", "put scale and zero_point beside them in the .npz"),
        ("fraction.npz --network mlp", "zero_point is 0.5, but it is the code of 0; give a whole number"),
        ("axes.npz --network mlp", "networks take (F,), (C, L) and (C, H, W); reshape them"),
        ("two.npz --network test_networks_fitted:Fixed", "the network takes (6,)"),
    ],
)
@pytest.mark.usefixtures("traps")
def test_a_mistake_is_one_line(arguments: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = run(capsys, "train", *BASE, "--num_workers", 0, "--data_path", *arguments.split())
    assert (status, err.count("\n")) == (2, 1), err
    assert message in err
    assert "saved" not in out
    assert not list(Path().glob("*.ckpt"))


@pytest.mark.usefixtures("traps")
def test_what_is_no_mistake(capsys: pytest.CaptureFixture[str]) -> None:
    """Pictures in another size and colour, of two channels, and labels that are strings, with a note."""
    for arguments, takes, note in (
        (
            "pictures",
            "pictures, 2 classes of pictures, 4 held back as test: takes uint8 (N, 3, 32, 32), gives 2",
            "",
        ),
        ("two.npz", "takes uint8 (N, 2, 32, 32), gives 4", ""),
        (
            "strings.npz --network cnn1d",
            "takes float32 (N, 3, 1, 32), gives 4",
            "labels are strings; they become the classes",
        ),
        ("scaled.npz --network cnn1d --save_path scaled.ckpt", "takes int16 (N, 3, 1, 32), gives 4", ""),
    ):
        status, out, err = run(capsys, "train", *BASE, "--num_workers", 0, "--data_path", *arguments.split())
        assert status == 0, err
        assert takes in out
        notes = [
            line for line in err.splitlines() if "no better than always answering" not in line
        ]  # few steps are trained
        assert (note in err) if note else not notes
    status, _, err = run(capsys, "eval", "--data_path", "other.npz", "--ckpt_path", "scaled.ckpt")
    assert (status, err.count("\n")) == (2, 1)
    assert "its codes have scale 0.02 and zero point 0, but Cnn1d takes scale 0.01 and zero point 0" in err
