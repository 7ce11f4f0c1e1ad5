"""Tasks from the command line: trained, calibrated, evaluated, exported and verified."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from calibrations import PLAIN_FLAGS
from command import run

import qat
from qat.tasks import Classification, Multilabel, Regression, Segmentation

RNG = np.random.default_rng(0)
BASE = ["--backend", "torch", "--device_target", "CPU"]
TRAINING = [*BASE, "--epochs", 30, "--batch_size", 32, "--lr", 0.05, "--optimizer", "adam"]


def pixels(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Six pixels, and a number that they determine."""
    found = RNG.integers(0, 256, (count, 6), np.uint8)
    return found, (found.astype(np.float32) @ np.arange(6) / 1000).astype(np.float32)


def written(path: Path, labels: object) -> str:
    """A data set of pixels; labels: from pixels and number to what is learned."""
    (x, y), (x_test, y_test) = pixels(320), pixels(100)
    np.savez(path, x_train=x, y_train=labels(x, y), x_test=x_test, y_test=labels(x_test, y_test))
    return str(path)


@pytest.fixture
def numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    return written(tmp_path / "numbers.npz", lambda x, y: y)


def test_a_regression_from_the_command_line(numbers: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Its task is asked for by name once; checkpoints and files keep it."""
    network = ["--network", "task_networks:Numbers"]
    status, _, err = run(capsys, "train", "--data_path", numbers, *network, *TRAINING)
    assert status == 2
    assert "classification takes whole numbers (N,), the class of each sample; give --task regression" in err
    arguments = [*TRAINING, "--task", "regression", "--validation", 64, "--keep_best", "--save_path", "f.ckpt"]
    status, out, err = run(capsys, "train", "--data_path", numbers, *network, *arguments)
    assert (status, err) == (0, "")
    assert "MAE: [" in out
    name, value = next(line.split(": ") for line in out.splitlines() if line.startswith("MAE: "))
    status, out, _ = run(capsys, "eval", "--data_path", numbers, "--ckpt_path", "f.ckpt", *BASE, "--per_class")
    lines = out.splitlines()
    assert lines[0] == f"{name}: {value}"
    assert [line.split(":")[0] for line in lines[:3]] == ["MAE", "RMSE", "R2"]
    assert "Each output" in out
    status, out, _ = run(
        capsys, "calibrate", "--data_path", numbers, "--ckpt_path", "f.ckpt", *BASE, "--images", 100, *PLAIN_FLAGS
    )
    assert f"MAE before: {value}" in out
    assert "MAE after:  0." in out
    quantized = ["--ckpt_path", "f_calibrated.ckpt"]
    tuned = [*TRAINING[:-6], "--lr", 0.001, "--quant_delay", 0]
    status, out, err = run(capsys, "train-quant", "--data_path", numbers, "--ckpt_path", "f.ckpt", *tuned)
    assert (status, err) == (0, "")
    assert "R2: 0.9" in out
    assert qat.Checkpoint.load("f_quant.ckpt").task == Regression()
    for file in ("x.onnx", "x.tflite"):
        export = ["--file_format", file[2:].upper(), "--file_name", file, "--data_path", numbers]
        status, out, err = run(capsys, "export", *quantized, *export, *BASE)
        assert status == 0, err
        assert "MAE" in out
        assert "top-1" not in out
        status, out, err = run(capsys, "verify", *quantized, "--model", file, "--data_path", numbers)
        assert status == 0, err
        assert "MAE" in out
        status, out, err = run(capsys, "evaluate", "--model", file, "--test_path", numbers, "--per_class")
        assert status == 0, err
        assert out.startswith("MAE: 0.")
    status, out, _ = run(capsys, "eval-quant", "--data_path", numbers, *quantized, *BASE, "--confusion", "c.csv")
    assert status == 2
    assert not Path("c.csv").exists()
    status, out, err = run(
        capsys, "sensitivity", "--data_path", numbers, "--ckpt_path", "f.ckpt", "--csv_path", "s.csv"
    )
    assert status == 0, err
    assert f"MAE lost with one layer's weights at few bits, in its own unit (float {value}" in out
    rows = [line.split(",") for line in Path("s.csv").read_text().splitlines()]
    assert rows[0] == ["layer", "bits", "MAE", "lost"]
    assert float(rows[-1][3]) == pytest.approx(float(rows[-1][2]) - float(rows[1][2]), rel=1e-4)
    assert float(rows[-1][3]) > 0  # one bit is worse
    status, out, err = run(capsys, "prune", "--data_path", numbers, "--ckpt_path", "f.ckpt", "--ratio", 0.2, *BASE)
    assert status == 0, err
    assert f"MAE before: {value}" in out
    status, _, err = run(capsys, "score", "--reference", "f.ckpt", "--model", "f.ckpt", "--data_path", numbers)
    assert status == 2
    assert "f.ckpt: is of the task regression, but the contest scores accuracies" in err


def test_what_is_said_of_a_failed_regression_and_of_data_without_a_test_part(
    numbers: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A training that failed is named; evaluate says that it takes all samples, where there is no part for testing."""
    train = ["train", "--data_path", numbers, "--network", "mlp", "--task", "regression", *BASE, "--epochs", 1]
    status, _, err = run(capsys, *train, "--lr", 1e-9, "--save_path", "x.ckpt")
    assert status == 0
    assert (
        "note: Mlp is no better than always answering the mean label: its training has failed; use another --lr" in err
    )
    status, _, err = run(capsys, "evaluate", "--model", "x.ckpt", "--test_path", numbers, *BASE)
    assert (status, err) == (0, "")
    x, y = pixels(50)
    np.savez("all.npz", x=x, y=y)
    status, _, err = run(capsys, "evaluate", "--model", "x.ckpt", "--test_path", "all.npz", *BASE)
    assert (status, err.count("\n")) == (0, 1)
    assert "note: all.npz has no part for testing: all of its 50 samples are taken" in err


def test_a_loss_and_a_task_of_ones_own(numbers: str, capsys: pytest.CaptureFixture[str]) -> None:
    common = ["train", "--data_path", numbers, "--network", "task_networks:Numbers", *TRAINING[:5], 2]
    loss = ["--loss", "task_networks:mean_absolute_error"]
    status, out, err = run(capsys, *common, "--task", "task_networks:Largest", *loss, "--save_path", "x.ckpt")
    assert (status, err) == (0, "")
    assert "largest error: " in out
    checkpoint = qat.Checkpoint.load("x.ckpt")
    assert type(checkpoint.task).__name__ == "Largest"
    assert checkpoint.history[0]["loss"] == "task_networks:mean_absolute_error"
    for flags, message in (
        (["--loss", "mean_absolute_error"], "package.module:function"),
        (["--loss", "task_networks:nothing"], "has no 'nothing'"),
        (["--loss", "task_networks:__name__"], "not a function"),
        (["--task", "regression", "--loss", "task_networks:failing"], "failed on two samples (KeyError: 'width')"),
        (
            ["--task", "regression", "--loss", "task_networks:each_error"],
            "failed on two samples (ValueError: cannot reshape",
        ),
        (["--task", "regression", "--loss", "task_networks:Numbers"], "failed on two samples (TypeError:"),
        (["--task", "regresion"], "perhaps"),
        (["--task", "regression", "--class_weights", 1], "regression takes none"),
        (["--task", "regression", "--label_smoothing", 0.1], "regression has no classes"),
        (["--task", "a=regression", "b=regression"], "the network's outputs are fc"),
    ):
        status, _, err = run(capsys, *common, *flags)
        assert status == 2
        assert message in err
        assert err.count("\n") == 1


def test_multilabel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    path = written(tmp_path / "many.npz", lambda x, _: (x[:, :4] > 100).astype(np.int64))
    arguments = ["--network", "task_networks:Four", "--task", "multilabel", "--save_path", "x.ckpt"]
    status, out, err = run(capsys, "train", "--data_path", path, *arguments, *TRAINING)
    assert (status, err) == (0, "")
    assert "F1 micro: 0.9" in out
    assert qat.Checkpoint.load("x.ckpt").task == Multilabel()
    status, out, _ = run(capsys, "eval", "--data_path", path, "--ckpt_path", "x.ckpt", *BASE, "--per_class")
    assert [line.split(":")[0] for line in out.splitlines()[:3]] == ["F1 micro", "F1 macro", "mAP"]
    assert "precision" in out
    status, _, err = run(capsys, "eval", "--data_path", path, "--ckpt_path", "x.ckpt", "--confusion", "c.csv")
    assert status == 2
    assert "multilabel has no classes that exclude one another" in err


def test_segmentation_with_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    images = RNG.integers(0, 256, (120, 2, 4, 5), np.uint8)
    maps = np.where(images[:, 0] > 200, 2, images[:, 1] > 100).astype(np.uint8)
    maps[:, 0, 0] = 255
    np.savez("maps.npz", x_train=images[:80], y_train=maps[:80], x_test=images[80:], y_test=maps[80:])
    arguments = ["--network", "task_networks:Pixels", "--task", "segmentation", "--class_weights", "balanced"]
    status, out, err = run(capsys, "train", "--data_path", "maps.npz", *arguments, *TRAINING, "--save_path", "x.ckpt")
    assert (status, err) == (0, "")
    assert float(out.partition("mean IoU: ")[2].split()[0]) > 70
    task = qat.Checkpoint.load("x.ckpt").task
    assert isinstance(task, Segmentation)
    counts = np.bincount(maps[:80][maps[:80] != 255], minlength=3)
    assert task.class_weights == pytest.approx(counts.sum() / (3 * counts))
    status, out, err = run(
        capsys, "eval", "--data_path", "maps.npz", "--ckpt_path", "x.ckpt", "--per_class", "--confusion", "c.csv", *BASE
    )
    assert status == 0, err
    assert "IoU in %" in out
    lines = Path("c.csv").read_text().splitlines()
    assert lines[0] == "true class,0,1,2"
    counts = np.array([[int(x) for x in line.split(",")[1:]] for line in lines[1:]])
    np.testing.assert_array_equal(counts.sum(axis=1), np.bincount(maps[80:][maps[80:] != 255]))
    assert f"pixel accuracy: {100 * np.trace(counts) / counts.sum():.2f} %" in out


def test_classes_of_a_classification(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is printed of the accuracy stays as it was; weights from numbers and from a file are the same."""
    monkeypatch.chdir(tmp_path)
    path = written(tmp_path / "kinds.npz", lambda _, y: np.digitize(y, [1.3, 1.8, 2.4]))
    Path("weights.txt").write_text("1\n2\n0.5\n3\n")
    train = ["train", "--data_path", path, "--network", "task_networks:Four", *TRAINING[:5], 3, *TRAINING[6:]]
    for name, weights in (("a", [1, 2, 0.5, 3]), ("b", ["weights.txt"])):
        status, out, err = run(capsys, *train, "--class_weights", *weights, "--save_path", f"{name}.ckpt")
        assert (status, err) == (0, "")
    a, b = (qat.Checkpoint.load(f"{name}.ckpt") for name in "ab")
    assert a.task == b.task == Classification((1.0, 2.0, 0.5, 3.0))
    for name, array in a.params.items():
        np.testing.assert_array_equal(b.params[name], array)
    status, out, err = run(capsys, "eval", "--data_path", path, "--ckpt_path", "a.ckpt", *BASE)
    assert out.startswith("Accuracy: ")
    assert out.count("\n") == 1
    status, out, err = run(
        capsys, "eval", "--data_path", path, "--ckpt_path", "a.ckpt", *BASE, "--confusion", "c.csv", "--per_class"
    )
    assert (status, err) == (0, "")
    assert "Confusion matrix" in out
    assert out.rstrip().endswith("wrote c.csv")
    names = ("nil", "low", "middle", "high")
    replace(a, class_names=names).save("named.ckpt")  # the data name no classes, and this checkpoint does
    replace(a, class_names=names[:2]).save("few.ckpt")
    for checkpoint, expected in (("named.ckpt", names), ("few.ckpt", tuple("0123"))):
        arguments = ["--ckpt_path", checkpoint, *BASE, "--confusion", "c.csv", "--per_class", "--json"]
        status, out, _ = run(capsys, "eval", "--data_path", path, *arguments)
        found = json.loads(out)
        assert tuple(found["confusion"]["classes"]) == expected
        assert tuple(row["class"] for row in found["per_class"]) == expected
    for weights, message in (
        ([1, 2], "there are 2 for 4 classes"),
        ([1, "x"], "'x' is no number"),
        ([1, "nan", 1, 1], "'nan' is no number"),
        (["y.txt"], "y.txt"),
    ):
        status, _, err = run(capsys, *train, "--class_weights", *weights)
        assert status == 2
        assert message in err


def test_a_picture_of_a_regression_is_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from PIL import Image

    monkeypatch.chdir(tmp_path)
    pictures = RNG.integers(0, 256, (64, 1, 8, 8), np.uint8)
    np.savez("x.npz", x_train=pictures, y_train=pictures.mean((1, 2, 3)), x_test=pictures, y_test=np.zeros(64))
    arguments = ["--network", "task_networks:Picture", "--task", "regression", "--save_path", "x.ckpt"]
    status, _, err = run(capsys, "train", "--data_path", "x.npz", *arguments, *TRAINING[:5], 1, "--batch_size", 32)
    assert status == 0, err
    Image.fromarray(pictures[0, 0]).save("x.png")
    status, out, err = run(capsys, "run", "--model", "x.ckpt", "--image", "x.png", *BASE)
    assert (status, err) == (0, "")
    checkpoint = qat.Checkpoint.load("x.ckpt")
    torch = qat.backend("torch")
    found = torch.predict(torch.lower(checkpoint.graph, checkpoint.params), pictures[:1])
    assert f"{found[0, 0]:.6g}" in out
    assert "probability" not in out
