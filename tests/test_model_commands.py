"""The commands around a model: create-data, compress, compile, evaluate, run, on float, quantized and compressed ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from calibrations import PLAIN_FLAGS
from command import run as command
from PIL import Image

import qat
from qat import data
from qat.analysis.compression import compress, rounded, weight_sizes
from qat.cli import main
from qat.data.pictures import find_pictures, read_class_names, read_picture
from qat.networks import LeNet5
from qat.quantizers import WeightQuantizer
from qat.registry import TARGETS, installed


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A float checkpoint of LeNet-5, briefly trained on the digits, and their test images as pictures."""
    folder = tmp_path_factory.mktemp("models")
    assert main(["train", "--data_path", "digits", "--epochs", "2", "--save_path", str(folder / "lenet.ckpt")]) == 0
    assert main(["create-data", "--data_path", "digits", "--out", str(folder / "pictures")]) == 0
    return folder


def evaluated(capsys: pytest.CaptureFixture[str], folder: Path, model: str | Path, *options: str) -> str:
    """What evaluate prints."""
    pictures = folder / "pictures"
    index = ("--test_path", pictures / "index.txt", "--class_names", pictures / "class_names.txt")
    status, out, _ = command(capsys, "evaluate", "--trust", "--input_path", model, *index, *options)
    assert status == 0
    return out


def test_pictures_of_a_data_set_are_read_back_pixel_by_pixel(folder: Path) -> None:
    names = read_class_names(folder / "pictures" / "class_names.txt")
    files = find_pictures(folder / "pictures" / "index.txt", names)
    test = data.load("digits").test
    found = [read_picture(file, (1, 8, 8)) for file, _ in files]
    np.testing.assert_array_equal(np.stack([pixels for pixels, _ in found]), test.images)
    np.testing.assert_array_equal([label for _, label in files], test.labels)
    assert not any(changes for _, changes in found)


def test_pictures_are_enlarged_as_data_sets_are(folder: Path) -> None:
    names = read_class_names(folder / "pictures" / "class_names.txt")
    files = find_pictures(folder / "pictures" / "index.txt", names)[:20]
    found = [read_picture(file, (1, 32, 32)) for file, _ in files]
    expected = data.load("digits").resized((1, 32, 32)).test.images[:20]
    np.testing.assert_array_equal(np.stack([pixels for pixels, _ in found]), expected)
    assert [changes for _, changes in found] == [["resized from 8x8 to 32x32"]] * 20


@pytest.mark.parametrize("split", ["train", "test"])
def test_pictures_are_as_many_as_asked_for(split: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for count in (5, 3):  # the second time over the files of the first
        arguments = ("--data_path", "digits", "--out", tmp_path, "--split", split, "--count", count)
        status, out, _ = command(capsys, "create-data", *arguments)
        assert status == 0
        assert f"wrote {count} pictures" in out
    lines = (tmp_path / "index.txt").read_text().splitlines()
    labels = getattr(data.load("digits"), split).labels[:3]
    assert lines == [f"images/0000{i}.png {label}" for i, label in enumerate(labels)]


def test_colours_and_names_of_classes_are_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = np.random.default_rng(0).integers(0, 256, (2, 3073), np.uint8)
    record[:, 0] = [9, 0]
    for name in ("data_batch_1.bin", "test_batch.bin"):
        (tmp_path / name).write_bytes(record.tobytes())
    assert command(capsys, "create-data", "--data_path", tmp_path, "--out", tmp_path / "p")[0] == 0
    assert (tmp_path / "p" / "index.txt").read_text() == "images/00000.png truck\nimages/00001.png airplane\n"
    pixels = np.asarray(Image.open(tmp_path / "p" / "images" / "00000.png"))
    np.testing.assert_array_equal(pixels.transpose(2, 0, 1).reshape(-1), record[0, 1:])


def test_evaluate_prints_what_eval_prints(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = evaluated(capsys, folder, folder / "lenet.ckpt")
    _, expected, _ = command(capsys, "eval", "--data_path", "digits", "--ckpt_path", folder / "lenet.ckpt")
    assert out == f"{expected.strip()} on 360 pictures\n"
    pictures = ("--test_path", folder / "pictures" / "index.txt")
    assert command(capsys, "run", "--model", folder / "lenet.ckpt", *pictures)[1] == out


def test_a_folder_with_an_index_is_evaluated_by_it(folder: Path) -> None:
    names = read_class_names(folder / "pictures" / "class_names.txt")
    assert find_pictures(folder / "pictures", names) == find_pictures(folder / "pictures" / "index.txt", names)


def test_the_best_five_are_counted_and_of_equal_outputs_the_first() -> None:
    outputs = np.array([[5, 4, 3, 2, 1, 0], [0, 0, 0, 0, 0, 0], [0, 1, 2, 3, 4, 5]])
    assert data.accuracy(outputs, np.array([0, 1, 0])) == pytest.approx(1 / 3)
    assert data.accuracy(outputs, np.array([4, 4, 0]), best=5) == pytest.approx(2 / 3)
    assert data.accuracy(outputs, np.array([5, 5, 0]), best=5) == 0.0


@pytest.mark.parametrize("quantizer", ["symmetric", "asymmetric", "power_of_two"])
def test_weights_alone_are_compressed_without_data(
    quantizer: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It stays a float network, whose weights have 2^5 values for each scale."""
    file, source = tmp_path / "small.ckpt", folder / "lenet.ckpt"
    chosen = ["--bits", "5", "--quantizer", quantizer, "--per_channel", "--output_path", file]
    status, out, _ = command(capsys, "compress", "--input_path", source, *chosen)
    assert status == 0
    beside = 236 * 32 * (2 if quantizer == "asymmetric" else 1)  # a scale, or scale and zero point, for each output
    assert f"weights: {61470 * 32:,} bits -> {61470 * 5 + beside:,} bits" in out
    before, after = qat.Checkpoint.load(source), qat.Checkpoint.load(file)
    assert after.graph == before.graph
    for name, array in after.params.items():
        if name.endswith("weight"):
            assert max(len(np.unique(output)) for output in array) <= 32
            error = np.abs(array - before.params[name])
            steps = (
                np.ptp(before.params[name].reshape(len(array), -1), axis=1) / 15
            )  # of a power of two up to twice that
            assert (error.reshape(len(array), -1).max(axis=1) <= 2 * steps).all()
            assert error.any()
        else:
            np.testing.assert_array_equal(array, before.params[name])
    assert "on 360 pictures" in evaluated(capsys, folder, file)
    assert command(capsys, "calibrate", "--data_path", "digits", "--ckpt_path", file, *PLAIN_FLAGS)[0] == 0


def test_with_data_the_activations_get_8_bits(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "small.ckpt"
    chosen = ["--bits", "4", "--data_path", "digits", "--images", "100", "--output_path", file]
    status, out, _ = command(capsys, "compress", "--input_path", folder / "lenet.ckpt", *chosen)
    assert status == 0
    assert "Accuracy after:" in out
    graph = qat.Checkpoint.load(file).graph
    cells = {node.name: node.cell for node in graph.nodes}
    assert cells["conv1"].weight_quantizer == WeightQuantizer(4)
    assert cells["conv1.fake_quant"].quantizer == qat.ActivationQuantizer(8)
    again = tmp_path / "smaller.ckpt"
    status, out, _ = command(capsys, "compress", "--input_path", file, "--bits", 3, "--output_path", again)
    assert status == 0
    assert "activations stay real" not in out
    assert f"weights: {61470 * 4 + 5 * 32:,} bits -> {61470 * 3 + 5 * 32:,} bits" in out
    before, after = qat.Checkpoint.load(file), qat.Checkpoint.load(again)
    assert {name: before.params[name].tobytes() for name in before.params} == {
        name: after.params[name].tobytes() for name in after.params
    }


def test_a_quantizer_with_parameters_of_its_own_gives_way() -> None:
    graph = qat.convert_quant_network(LeNet5(), weight_quantizer=qat.LSQWeightQuantizer(4))
    checkpoint = compress(qat.Checkpoint(graph, graph.observed_params()), WeightQuantizer(2))
    checkpoint.graph.check_params(checkpoint.params)
    qat.to_integer(checkpoint.graph, checkpoint.params)
    assert [size.bits for size in weight_sizes(checkpoint.graph, checkpoint.params)] == [2] * 5


def test_a_compressed_weight_has_the_nearest_values() -> None:
    weight = np.array([[0.9, -0.2, 0.5], [0.1, 0.0, -0.4]], np.float32)
    expected = np.array([[0.9, -0.3, 0.6], [0.0, 0.0, -0.3]], np.float32)  # steps of 0.9 / 3
    np.testing.assert_allclose(rounded(WeightQuantizer(3), weight), expected, rtol=1e-6)


@pytest.mark.parametrize("kind", ["float", "compressed", "quantized"])
@pytest.mark.parametrize("target", ["onnx", "tflite", "mindir", "c"])
def test_every_kind_is_compiled_and_evaluated(
    target: str, kind: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The file gives the accuracy of its checkpoint; what holds integers only refuses a float network."""
    if not installed(TARGETS[target.upper()]):
        pytest.skip(f"{target} is not installed")
    model, file = folder / "lenet.ckpt", tmp_path / f"lenet.{target}"
    if kind != "float":
        model = tmp_path / "small.ckpt"
        with_data = ["--data_path", "digits"] if kind == "quantized" else []
        chosen = ["--bits", "5", "--output_path", model, *with_data]
        assert command(capsys, "compress", "--input_path", folder / "lenet.ckpt", *chosen)[0] == 0
    arguments = ("--input_path", model, "--target", target, "--output_path", file, "--data_path", "digits")
    status, out, err = command(capsys, "compile", *arguments)
    if kind != "quantized" and target in ("mindir", "c"):
        assert (status, out, err.count("\n")) == (2, "", 1)
        assert "holds a float network" in err
        return
    assert status == 0
    assert ("0 differ" in out) == (kind == "quantized")
    assert ("float" in out.splitlines()[0]) == (kind != "quantized")
    assert evaluated(capsys, folder, file) == evaluated(capsys, folder, model)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["compile", "--input_path", "none.ckpt", "--target", "onnx", "--output_path", "x"],
            "none.ckpt: cannot be read",
        ),
        (["compile", "--input_path", "lenet.ckpt", "--target", "exe", "--output_path", "x"], "invalid choice: 'exe'"),
        (
            ["compile", "--input_path", "lenet.ckpt", "--target", "onnx", "--output_path", "x.tflite"],
            "another format's",
        ),
        (["compress", "--input_path", "lenet.ckpt", "--bits", "0"], "num_bits is 0; use a whole number from 2"),
        (["compress", "--input_path", "lenet.ckpt", "--bits", "40"], "num_bits is 40; use a whole number from 2"),
        (["compress", "--input_path", "lenet.ckpt", "--bits", "4", "--output_path", "lenet.ckpt"], "the same file"),
        (["compress", "--input_path", "lenet.ckpt", "--bits", "4", "--data_path", "nowhere"], "there is nothing here"),
        (["evaluate", "--input_path", "none", "--test_path", "pictures/index.txt"], "there is no such file"),
        (
            ["evaluate", "--input_path", "lenet.ckpt", "--test_path", "none.txt"],
            "none.txt: cannot be read (No such file",
        ),
        (["evaluate", "--input_path", "lenet.ckpt", "--test_path", "empty.txt"], "names no pictures"),
        (["evaluate", "--input_path", "lenet.ckpt", "--test_path", "missing.txt"], "nowhere.png: cannot be read"),
        (["evaluate", "--input_path", "lenet.ckpt", "--test_path", "outside.txt"], "its classes reach 10 but"),
        (["evaluate", "--input_path", "lenet.ckpt", "--test_path", "unknown.txt"], "line 1: 'cat' is neither"),
        (["evaluate", "--input_path", "lenet.ckpt"], "--test_path"),
        (["create-data", "--data_path", "digits", "--out", "p", "--count", "0"], "use a number from 1"),
        (["create-data", "--data_path", "digits", "--out", "p", "--count", "361"], "has 360 test images"),
        (["create-data", "--data_path", "digits", "--out", "lenet.ckpt"], "lenet.ckpt"),
    ],
)
def test_a_mistake_gives_one_line_and_status_2(
    arguments: list[str],
    message: str,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(folder)
    picture = "pictures/images/00000.png"
    for name, text in (
        ("empty.txt", "\n"),
        ("missing.txt", "nowhere.png 1\n"),
        ("outside.txt", f"{picture} 10\n"),
        ("unknown.txt", f"{picture} cat\n"),
    ):
        (folder / name).write_text(text)
    before = (folder / "lenet.ckpt").read_bytes()
    status, out, err = command(capsys, *arguments)
    assert (status, out) == (2, "")
    assert message in err
    assert "Traceback" not in err
    assert (folder / "lenet.ckpt").read_bytes() == before
