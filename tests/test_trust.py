"""Files that hold code are run by commands only where --trust says so; nothing of them is run before that."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from command import run as command
from PIL import Image

import qat
from qat.networks import LeNet5
from qat.registry import TARGETS, installed


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A quantized LeNet-5 and its C files, a picture with its index, and a compiler that leaves a mark where it is called."""
    graph = qat.convert_quant_network(LeNet5())
    checkpoint = qat.Checkpoint(graph, graph.observed_params())
    checkpoint.save(tmp_path / "net.ckpt")
    for name in ("net.c", "NET.C"):
        qat.target("C").export(qat.to_integer(graph, checkpoint.params), tmp_path / name)
    Image.fromarray(np.zeros((32, 32), np.uint8)).save(tmp_path / "a.png")
    (tmp_path / "index.txt").write_text("a.png 1\n")
    compiler = tmp_path / "compiler"
    compiler.write_text(f'#!/bin/sh\ntouch {tmp_path}/called\nexec cc "$@"\n')
    compiler.chmod(0o755)
    monkeypatch.setenv("CC", str(compiler))
    monkeypatch.chdir(tmp_path)
    return tmp_path


COMMANDS = {
    "verify": ("verify", "--ckpt_path", "net.ckpt", "--data_path", "digits", "--model"),
    "run": ("run", "--image", "a.png", "--model"),
    "evaluate": ("evaluate", "--test_path", "index.txt", "--model"),
}


@pytest.mark.parametrize("model", ["net.c", "NET.C", "./net.c"])
@pytest.mark.parametrize("name", COMMANDS)
def test_c_is_refused_unless_it_is_trusted(
    name: str, model: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, err = command(capsys, *COMMANDS[name], model)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert f"{model}: holds code, which would be compiled and run here" in err
    assert "give --trust, but only if" in err
    assert not (folder / "called").exists()
    status, _, err = command(capsys, *COMMANDS[name], model, "--trust")
    assert (status, err) == (0, "")
    assert (folder / "called").exists()


def test_c_among_other_files_is_refused_before_any_is_run(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "net.onnx").write_bytes(b"no model")
    status, out, err = command(capsys, *COMMANDS["verify"], "net.onnx", "net.c")
    assert (status, out) == (2, "")
    assert "net.c: holds code" in err


def test_what_a_command_has_written_itself_it_verifies_without_being_asked(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("--ckpt_path", "net.ckpt", "--file_format", "C", "--file_name", "own", "--data_path", "digits")
    assert command(capsys, "export", *arguments)[0] == 0
    assert (folder / "called").exists()


@pytest.mark.parametrize("name", [name for name, entry in TARGETS.items() if installed(entry)])
def test_of_all_formats_c_alone_is_run_as_code(name: str) -> None:
    assert getattr(qat.target(name), "RUNS_CODE", False) is (name == "C")
