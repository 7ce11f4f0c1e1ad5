"""qat import: from a source to a checkpoint that the other commands take, what its flags say of the input, and mistakes."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from calibrations import PLAIN_FLAGS
from command import run

import qat
from qat.data import Preparation

#: A module of a user's own.
MINE = """
import torch

def small():
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 3, padding=1, bias=False), torch.nn.BatchNorm2d(4), torch.nn.ReLU6(),
        torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(4, 10),
    )

def broken():
    raise RuntimeError("there are no weights")

def recurrent():
    return torch.nn.Sequential(torch.nn.GRU(4, 4))

number = 5
"""


@pytest.fixture(autouse=True)
def _mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    name = f"mine_{tmp_path.name}"  # modules stay imported
    Path(f"{name}.py").write_text(MINE, encoding="utf-8")
    Path("mine").write_text(name, encoding="utf-8")


def mine(function: str) -> str:
    return f"{Path('mine').read_text(encoding='utf-8')}:{function}"


def imported(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[qat.Checkpoint, str]:
    status, out, err = run(
        capsys,
        "import",
        "--model",
        mine("small"),
        "--input_shape",
        "1",
        "8",
        "8",
        "--ckpt_path",
        "net.ckpt",
        *arguments,
    )
    assert (status, err) == (0, "")
    return qat.Checkpoint.load("net.ckpt"), out


def test_from_the_users_module_to_a_verified_file(capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint, out = imported(capsys, "--mean", "0.3", "--std", "0.4", "--data_path", "digits")
    assert checkpoint.graph.inputs[0].cell == qat.Input((1, 8, 8), mean=(0.3,), std=(0.4,))
    assert out.splitlines()[0] == "Sequential: takes uint8 (N, 1, 8, 8), gives 10"
    assert "of the largest output) on 8 samples" in out
    data = ("--data_path", "digits")
    status, out, err = run(capsys, "calibrate", "--ckpt_path", "net.ckpt", *data, *PLAIN_FLAGS)
    assert (status, err) == (0, "")
    status, out, err = run(
        capsys, "export", "--ckpt_path", "net_calibrated.ckpt", "--file_format", "ONNX", "--file_name", "net", *data
    )
    assert (status, err) == (0, "")
    assert "0 differ" in out


@pytest.mark.parametrize(
    ("flags", "cell"),
    [
        ([], qat.Input((1, 8, 8), dtype="float32")),
        (["--raw_pixels"], qat.Input((1, 8, 8), mean=0.0, std=0.00392157)),
        (["--mean", "0.2"], qat.Input((1, 8, 8), mean=0.2, std=1.0)),
        (
            ["--input_dtype", "int8", "--input_scale", "0.5", "--input_zero_point", "3"],
            qat.Input((1, 8, 8), dtype="int8", scale=0.5, zero_point=3),
        ),
    ],
)
def test_what_the_network_takes(flags: list[str], cell: qat.Input, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint, out = imported(capsys, *flags)
    assert checkpoint.graph.inputs[0].cell == cell
    assert "on 4 random samples" in out


def test_the_checkpoint_keeps_task_and_preparation(capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint, _ = imported(
        capsys, "--task", "multilabel", "--resize", "crop", "--crop_fraction", "0.8", "--raw_pixels"
    )
    assert type(checkpoint.task).__name__ == "Multilabel"
    assert checkpoint.preparation == Preparation(resize="crop", crop_fraction=0.8)
    assert imported(capsys)[0].preparation is None


def test_an_exported_program_and_a_cut(capsys: pytest.CaptureFixture[str]) -> None:
    module = torch.nn.Sequential(torch.nn.Linear(6, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2)).eval()
    torch.export.save(torch.export.export(module, (torch.zeros(1, 6),)), "net.pt2")
    status, out, err = run(capsys, "import", "--model", "net.pt2", "--ckpt_path", "whole.ckpt")
    assert (status, err) == (0, "")
    assert "gives 2" in out
    status, out, err = run(capsys, "import", "--model", "net.pt2", "--ckpt_path", "cut.ckpt", "--outputs", "1")
    assert (status, err) == (0, "")
    assert "gives 4" in out
    params = qat.Checkpoint.load("cut.ckpt").params
    np.testing.assert_array_equal(params["0.weight"], module[0].weight.detach().numpy())


@pytest.mark.parametrize(
    ("model", "flags", "message"),
    [
        ("small", [], "give what its forward takes, .* or the shape of one sample"),
        ("broken", [], "cannot be made .RuntimeError: there are no weights.; give a function that takes no arguments"),
        ("number", [], "is a int; give a function that returns the network"),
        ("nothing", [], "which has no 'nothing'"),
        ("recurrent", ["--input_shape", "5", "4"], "aten.gru.*Known are conv2d"),
        (
            "small",
            ["--input_shape", "1", "8", "8", "--raw_pixels", "--mean", "0"],
            "--mean and --raw_pixels: say different",
        ),
        ("small", ["--input_shape", "1", "8", "8", "--mean", "0", "0"], "--mean: has 2 numbers, but .* has 1 channels"),
        ("small", ["--input_shape", "1", "8", "8", "--mean", "2"], "mean must lie within 0..1"),
        ("small", ["--input_shape", "1", "8", "8", "--input_dtype", "int8"], "give scale"),
        ("small", ["--input_shape", "1", "8", "8", "--input_scale", "0.5"], "are of codes; give --input_dtype too"),
        ("small", ["--input_shape", "1", "8", "8", "--tolerance", "-1"], "give 0 or more"),
        ("small", ["--input_shape", "1", "8", "8", "--outputs", "7"], "no operation '7'"),
        ("small", ["--input_shape", "1", "8", "8", "--tolerance", "0"], "but 0 is the most"),
        ("small", ["--input_shape", "1", "8"], ""),
    ],
)
def test_mistakes(model: str, flags: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = run(capsys, "import", "--model", mine(model), "--ckpt_path", "net.ckpt", *flags)
    assert (status, out) == (2, "")
    (line,) = err.splitlines()
    assert re.search(message, line), line
    assert not Path("net.ckpt").exists()


def test_files_that_are_none(capsys: pytest.CaptureFixture[str]) -> None:
    for model in ("net.onnx", "net.tflite", "net.h5", "net.keras", "net.pt2", "net.txt", "net"):
        status, out, err = run(capsys, "import", "--model", model, "--ckpt_path", "net.ckpt")
        assert (status, out) == (2, "")
        assert err.startswith(f"qat import: error: {model}: ")
        assert err.count("\n") == 1
