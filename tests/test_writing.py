"""Commands that say what they would do, keep files of others, take samples without labels, and complete in the shell."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
from pathlib import Path

import numpy as np
import onnx
import pytest
from command import run

import qat
from qat.cli import main
from qat.commands import COMMANDS
from qat.data.pictures import write_pictures
from qat.networks import LeNet5
from qat.scripts.completion import SHELLS, flags_of
from qat.training.checkpoint import Checkpoint

NAMES = tuple(f"digit {number}" for number in range(10))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a float and a quantized checkpoint, an exported file, and pictures."""
    folder = tmp_path_factory.mktemp("writing")
    graph = LeNet5().graph()
    checkpoint = Checkpoint(graph, graph.initial_params(0), class_names=NAMES)
    checkpoint.save(folder / "net.ckpt")
    quantized = qat.convert_quant_network(graph)
    params = quantized.observed_params() | checkpoint.params
    checkpoint.derived(quantized, params).save(folder / "quant.ckpt")
    arguments = ["--ckpt_path", folder / "quant.ckpt", "--file_format", "ONNX", "--file_name", folder / "net"]
    assert main(["export", "--no_verify", *map(str, arguments)]) == 0
    images = np.random.default_rng(0).integers(0, 256, (6, 1, 32, 32), np.uint8)
    write_pictures(folder / "pictures", images, np.arange(6), NAMES)
    (folder / "plain").mkdir()
    for path in (folder / "pictures" / "images").iterdir():
        shutil.copy(path, folder / "plain")
    (folder / "plain" / "deeper").mkdir()
    shutil.copy(folder / "plain" / "00000.png", folder / "plain" / "deeper" / "again.png")
    np.savez(folder / "x.npz", x=images)
    np.save(folder / "x.npy", images)
    np.save(folder / "one.npy", images[2])
    return folder


def classes(capsys: pytest.CaptureFixture[str], *arguments: object) -> list[tuple[str, str]]:
    """The file and the class of each sample."""
    status, out, err = run(capsys, "run", *arguments, "--json")
    assert status == 0, err
    return [(Path(x["file"]).name, x["classes"][0]["class"]) for x in json.loads(out)["samples"]]


@pytest.mark.parametrize("model", ["quant.ckpt", "net.onnx"])
def test_samples_without_labels_are_run(
    model: str, made: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(made)
    folder = classes(capsys, "--model", model, "--image", "plain")
    assert [name for name, _ in folder] == [*(f"0000{number}.png" for number in range(6)), "again.png"]
    assert folder[6][1] == folder[0][1]
    assert all(name in NAMES for _, name in folder), "the model keeps the names of its classes"
    answers = [name for _, name in folder[:6]]
    assert len({*answers}) > 1
    for path in ("x.npz", "x.npy"):
        found = classes(capsys, "--model", model, "--image", path)
        assert found == [(f"{path}[{number}]", name) for number, name in enumerate(answers)]
    assert classes(capsys, "--model", model, "--image", "one.npy") == [("one.npy[0]", answers[2])]
    assert classes(capsys, "--model", model, "--test_path", "plain") == folder
    status, out, _ = run(
        capsys, "run", "--model", model, "--image", "plain/00001.png", "x.npy", "--csv_path", "out.csv"
    )
    assert status == 0
    assert "7 samples" in out
    lines = Path("out.csv").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "sample,class,number,probability"
    assert [line.split(",")[1] for line in lines[1:]] == [*answers, answers[1]]
    assert [NAMES[int(line.split(",")[2])] for line in lines[1:]] == [*answers, answers[1]]


def test_what_holds_no_samples_is_named(
    made: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(made)
    for path, text in ((tmp_path, "has no pictures"), ("none.png", "cannot be read"), ("net.ckpt", "not a picture")):
        status, _, err = run(capsys, "run", "--model", "net.ckpt", "--image", path)
        assert (status, err.count("\n")) == (2, 1)
        assert text in err


def test_evaluate_needs_no_names(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Those that the model keeps, those beside the index, or numbers."""
    monkeypatch.chdir(tmp_path)
    kept = Checkpoint.load(made / "quant.ckpt")
    Checkpoint(kept.graph, kept.params).save("nameless.ckpt")
    index = made / "pictures" / "index.txt"
    found = set()
    for model in (made / "quant.ckpt", "nameless.ckpt"):
        status, out, err = run(capsys, "evaluate", "--input_path", model, "--test_path", index, "--per_class")
        assert (status, err) == (0, "")
        assert "digit 3" in out
        found.add(out)
    assert len(found) == 1
    shutil.copytree(made / "pictures", "numbered")
    Path("numbered/class_names.txt").unlink()
    lines = [f"images/0000{number}.png {number}\n" for number in range(6)]
    Path("numbered/index.txt").write_text("".join(lines), encoding="utf-8")
    status, out, _ = run(capsys, "evaluate", "--input_path", "nameless.ckpt", "--test_path", "numbered/index.txt")
    assert (status, out.splitlines()) == (0, found.pop().splitlines()[:1])


DRY = {
    "train": ["train", "--data_path", "digits", "--save_path", "sub/new.ckpt"],
    "train-quant": ["train-quant", "--data_path", "digits", "--ckpt_path", "net.ckpt", "--save_path", "new.ckpt"],
    "calibrate": ["calibrate", "--data_path", "digits", "--ckpt_path", "net.ckpt", "--save_path", "new.ckpt"],
    "compress": ["compress", "--input_path", "net.ckpt", "--bits", "4", "--output_path", "new.ckpt"],
    "prune": ["prune", "--ckpt_path", "net.ckpt", "--method", "l1", "--ratio", "0.5", "--save_path", "new.ckpt"],
    "export": ["export", "--ckpt_path", "quant.ckpt", "--data_path", "digits", "--file_name", "new.onnx"],
    "compile": ["compile", "--input_path", "net.ckpt", "--target", "onnx", "--output_path", "new.onnx"],
    "export-params": ["export-params", "--backend", "torch", "--ckpt_path", "net.ckpt", "--file", "new.pt"],
    "data": ["data", "mnist", "--out", "new"],
    "create-data": ["create-data", "--data_path", "digits", "--out", "new"],
    "train-gtc": ["train-gtc", "--data_path", "digits", "--basedirectory", "new"],
    "train-lenet5": ["train-lenet5", "--data_path", "digits", "--checkpoint-dir", "new", "--epoch-end", "2"],
    "demo": ["demo", "--data_path", "digits", "--out", "new"],
    "zoo fetch": ["zoo", "fetch", "mnist_cnn", "--out", "new.ckpt"],
    "zoo make": ["zoo", "make", "ic01", "--out", "new"],
    "search": ["search", "--ckpt_path", "net.ckpt", "--data_path", "digits", "--out", "new"],
    "train-svhn": ["train-svhn", "--data_path", "digits", "--models", "new"],
    "train-and-quantize": ["train-and-quantize", "--data_path", "digits", "--save-model-name", "new"],
}


@pytest.mark.parametrize("name", DRY)
def test_a_dry_run_says_what_it_would_do_and_does_nothing(
    name: str, made: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(made)
    before = {path: path.stat().st_mtime_ns for path in made.rglob("*")}
    status, out, err = run(capsys, *DRY[name], "--dry_run")
    assert (status, err) == (0, ""), err
    lines = out.splitlines()
    assert lines[-1] == "nothing was done (--dry_run)"
    assert [line for line in lines if line.startswith("would write") and "new" in line]
    assert {path: path.stat().st_mtime_ns for path in made.rglob("*")} == before
    document = json.loads(run(capsys, *DRY[name], "--dry_run", "--json")[1])
    assert document["dry_run"] is True
    assert not any(x["replaces"] for x in document["writes"])


def test_a_dry_run_finds_mistakes(
    made: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(made)
    for name, more in (("train", ["--lr", "-1"]), ("calibrate", ["--images", "0"]), ("export", ["--packing", "no"])):
        status, _, err = run(capsys, *DRY[name], *more, "--dry_run")
        assert (status, err.count("\n")) == (2, 1), err
    status, out, _ = run(capsys, *DRY["train"][:3], "--save_path", "net.ckpt", "--dry_run")
    assert status == 0
    assert "would write net.ckpt, in place of what is there" in out


def test_a_file_of_the_user_s_is_replaced_with_yes_alone(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And one that qat wrote without a question."""
    monkeypatch.chdir(tmp_path)
    own = [b"mine", b"\x08\x07"]
    for name, content in zip(("mine.ckpt", "mine.onnx"), own, strict=True):
        Path(name).write_bytes(content)
    quant, net = made / "quant.ckpt", made / "net.ckpt"
    compress = ["compress", "--input_path", net, "--bits", 4, "--output_path", "mine.ckpt"]
    export = ["export", "--no_verify", "--ckpt_path", quant, "--file_name", "mine.onnx"]
    for arguments, name, content in ((compress, "mine.ckpt", own[0]), (export, "mine.onnx", own[1])):
        for more in ([], ["--dry_run"]):
            status, _, err = run(capsys, *arguments, *more)
            assert (status, err.count("\n")) == (2, 1)
            assert f"{name}: is there already, and is not what qat wrote, and would be lost; give --yes" in err
            assert Path(name).read_bytes() == content
        assert run(capsys, *arguments, "--yes")[0] == 0
        assert Path(name).read_bytes() != content
        assert run(capsys, *arguments)[0] == 0, "now it is one of qat's"
    params = ["export-params", "--backend", "torch", "--ckpt_path", net, "--file", "mine.pt"]
    assert run(capsys, *params)[0] == 0
    status, _, err = run(capsys, *params)
    assert (status, "mine.pt: is there already, and would be lost; give --yes" in err) == (2, True)
    assert run(capsys, *params, "--yes")[0] == 0


def onnx_of_others(path: Path) -> None:
    """A model of somebody who has the word in it."""
    names = [onnx.helper.make_tensor_value_info(x, onnx.TensorProto.FLOAT, [1, 4]) for x in ("x", "y")]
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "my_qat_net", names[:1], names[1:])
    onnx.save(onnx.helper.make_model(graph, producer_name="qat-converter"), path)


def test_the_word_qat_in_a_file_does_not_make_it_one_of_qat_s(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    onnx_of_others(Path("net.onnx"))
    Path("lenet.h").write_text("/* The interface of my qat net. */\n")
    Path("deep.c").write_text("/* my notes on qat */\n")
    Path("weights.bin").write_bytes(b"mine")
    Path("lib").mkdir()
    Path("lib/library.properties").write_text("name=mine\nsentence=what qat export makes\n")
    before = {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}
    quant, in_c = ["export", "--no_verify", "--ckpt_path", made / "quant.ckpt"], ["--file_format", "C", "--file_name"]
    for arguments, named in (
        ([*quant, "--file_name", "net.onnx"], "net.onnx"),
        (["export", "--float", "--ckpt_path", made / "net.ckpt", "--file_name", "net.onnx"], "net.onnx"),
        ([*quant, *in_c, "lenet"], "lenet.h"),
        ([*quant, *in_c, "deep"], "deep.c"),
        ([*quant, *in_c, "weights", "--weights_file"], "weights.bin"),
        ([*quant, *in_c, "new", "--arduino", "lib"], "lib/library.properties"),
        (["zoo", "fetch", "mnist_cnn", "--out", "lenet.c"], "lenet.h"),
    ):
        status, _, err = run(capsys, *arguments)
        assert (status, err.count("\n")) == (2, 1), err
        assert f"{named}: is there already, and is not what qat wrote" in err
        assert {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()} == before


def test_what_qat_wrote_is_replaced_without_a_question_until_it_is_changed(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    quant, in_c = ["export", "--no_verify", "--ckpt_path", made / "quant.ckpt"], ["--file_format", "C", "--file_name"]
    floats = ["export", "--float", "--ckpt_path", made / "net.ckpt", "--file_name"]
    whole = [*quant, *in_c, "a", "--arduino", "lib"]
    for arguments in (whole, [*quant, *in_c, "b", "--weights_file"], [*floats, "f.onnx"]):
        for _ in range(2):
            assert run(capsys, *arguments)[0] == 0
    Path("a.c").unlink()
    assert run(capsys, *whole)[0] == 0, "its header says that qat wrote it"
    sketch = Path("lib/examples/a/a.ino")
    sketch.write_text(sketch.read_text().replace("delay(1000)", "delay(10)"))
    status, _, err = run(capsys, *whole)
    assert (status, f"{sketch}: is there already, and is not what qat wrote" in err) == (2, True)
    assert "delay(10)" in sketch.read_text()


def test_export_refuses_data_that_are_not_there_though_it_reads_none(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for more in (["--no_verify", "--ckpt_path", made / "quant.ckpt"], ["--float", "--ckpt_path", made / "net.ckpt"]):
        command = ["export", *more, "--file_name", "net", "--data_path"]
        status, out, err = run(capsys, *command, "nowhere")
        assert (status, out, err.count("\n"), [*tmp_path.iterdir()]) == (2, "", 1, [])
        assert "nowhere: there is nothing here" in err
        assert run(capsys, *command, "digits")[0] == 0
        for path in tmp_path.iterdir():
            path.unlink()


@pytest.mark.parametrize("shell", SHELLS)
def test_completion_is_a_script_that_the_shell_takes(
    shell: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, _ = run(capsys, "completion", shell)
    assert status == 0
    assert all(name in out for name in COMMANDS)
    if shutil.which(shell):
        (tmp_path / "script").write_text(out, encoding="utf-8")
        done = subprocess.run([shell, "-n", tmp_path / "script"], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not here")
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("qat sens", ["sensitivity"]),
        ("qat train --data_path x --ba", ["--backend", "--batch_size"]),
        ("qat train --backend m", ["mindspore"]),
        ("qat export --file_format T", ["TFLITE"]),
        ("qat zoo ", ["list", "fetch", "make", "table"]),
        ("qat eval --ckpt_path ", []),
    ],
)
def test_bash_completes(words: str, expected: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script = run(capsys, "completion", "bash")[1]
    typed = words.split(" ")
    asked = (
        f"COMP_WORDS=({' '.join(map(shlex.quote, typed))}); COMP_CWORD={len(typed) - 1}; _qat; echo ${{COMPREPLY[@]}}"
    )
    done = subprocess.run(
        ["bash", "-c", f"{script}\n{asked}"], capture_output=True, text=True, check=True, env={**os.environ}
    )
    assert done.stdout.split() == expected


def test_completion_knows_the_flags_of_every_command() -> None:
    for name in COMMANDS:
        names = {flag for each in flags_of(name) for flag in each.names}
        assert {"--help", "--json", "--quiet", "--import"} <= names
