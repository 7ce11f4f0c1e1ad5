"""The commands as a user types them, on the embedded digits: the whole path, and the mistakes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from calibrations import PLAIN_FLAGS
from command import run

import qat
from qat.cli import main
from qat.commands import COMMANDS
from qat.networks import LeNet5, lenet5
from qat.scripts import train
from qat.training.checkpoint import Checkpoint

SCRIPTS = Path(__file__).parent.parent / "scripts"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a float and a quantized checkpoint of LeNet-5, briefly trained on the digits."""
    folder = tmp_path_factory.mktemp("trained")
    common = ["--data_path", "digits", "--epochs", "2"]
    assert main(["train", *common, "--save_path", str(folder / "lenet.ckpt")]) == 0
    assert main(["train-quant", *common, "--quant_delay", "10", "--ckpt_path", str(folder / "lenet.ckpt")]) == 0
    return folder


def test_the_document_s_commands_lead_from_pixels_to_a_certificate(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, _ = run(capsys, "eval", "--data_path", "digits", "--ckpt_path", trained / "lenet.ckpt")
    assert status == 0
    assert float(out.removeprefix("Accuracy: ").removesuffix(" %\n")) > 60.0
    status, out, _ = run(capsys, "eval-quant", "--data_path", "digits", "--ckpt_path", trained / "lenet_quant.ckpt")
    assert status == 0
    assert float(out.removeprefix("Accuracy: ").removesuffix(" %\n")) > 60.0

    file = tmp_path / "lenet.onnx"
    arguments = [
        "--ckpt_path",
        trained / "lenet_quant.ckpt",
        "--file_format",
        "ONNX",
        "--file_name",
        tmp_path / "lenet",
    ]
    status, out, _ = run(capsys, "export", *arguments)
    assert status == 0
    assert "3,600 codes compared in ONNX Runtime" in out
    assert out.count("0 differ") == 2
    status, out, _ = run(
        capsys, "verify", "--model", file, "--ckpt_path", trained / "lenet_quant.ckpt", "--data_path", "digits"
    )
    assert status == 0
    assert out.count("0 differ") == 2

    model = onnx.load(file)
    onnx.checker.check_model(model, full_check=True)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    certificate = json.loads(metadata["qat.certificate"])
    assert [comparison["differ"] for comparison in certificate["comparisons"]] == [0, 0]


def test_each_module_of_scripts_is_a_command() -> None:
    """What commands share lies in scripts/common."""
    folder = Path(qat.__file__).parent / "scripts"
    assert {path.stem for path in folder.glob("*.py")} == {module for module, _ in COMMANDS.values()} | {"__init__"}


@pytest.mark.parametrize(("lr", "failed"), [(0.02, False), (10, True)])
def test_a_training_that_fails_says_so(
    lr: float, failed: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--data_path", "digits", "--epochs", 1, "--lr", lr, "--save_path", tmp_path / "a.ckpt"]
    status, _, err = run(capsys, "train", *arguments)
    assert status == 0
    assert ("note: LeNet5 is no better than always answering the most frequent class, 10.28 %" in err) is failed


@pytest.mark.parametrize("arithmetic", ["float", "fixed"])
def test_tflite_is_certified_in_both_arithmetics(
    arithmetic: str, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the fixed one the training backend, which evaluates the other, is compared with the reference of its own."""
    file, checkpoint = tmp_path / "lenet.tflite", trained / "lenet_quant.ckpt"
    chosen = ["--ckpt_path", checkpoint, "--arithmetic", arithmetic]
    status, out, _ = run(capsys, "export", *chosen, "--file_format", "TFLITE", "--file_name", tmp_path / "lenet")
    assert status == 0
    assert "3,600 codes compared in LiteRT" in out
    assert out.count(" 0 differ") == 2
    assert ("0 differ from the float arithmetic" in out) == (arithmetic == "fixed")
    rows = [line.split("│")[1:4] for line in out.splitlines() if line.startswith("│ NumPy integers")]
    assert [row[1].strip() for row in rows if row[1].strip() in ("float", "fixed")] == (
        ["fixed", "float"] if arithmetic == "fixed" else []
    ), "a row of NumPy's integers for each arithmetic that an engine is compared in"
    kept = qat.target("TFLITE").read_metadata(file)
    assert json.loads(kept["certificate"])["comparisons"][0]["differ"] == 0
    status, again, _ = run(capsys, "verify", *chosen, "--model", file, "--data_path", "digits")
    assert status == 0
    assert again.splitlines()[-2:] == out.splitlines()[-2:]


def test_an_export_derives_its_integers_once(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside those that the backend's evaluation pass derives for itself, which the certificate compares."""
    derived = []

    def counted(*arguments: object) -> qat.IntegerGraph:
        derived.append(arguments)
        return qat.passes.to_integer.to_integer(*arguments)

    for place in ("qat.to_integer", "qat.verify.to_integer"):
        monkeypatch.setattr(place, counted)
    checkpoint = trained / "lenet_quant.ckpt"
    status, out, _ = run(capsys, "export", "--ckpt_path", checkpoint, "--file_name", tmp_path / "lenet")
    assert status == 0
    assert out.count(" 0 differ") == 2
    assert len(derived) == 1


def test_c_is_certified_in_both_arithmetics(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chosen = ["--ckpt_path", trained / "lenet_quant.ckpt"]
    status, out, _ = run(capsys, "export", *chosen, "--file_format", "C", "--file_name", tmp_path / "own")
    assert status == 0
    assert "arithmetic fixed" not in " ".join(out.split())
    assert len(re.findall(r"3,600 codes compared in .*, 0 differ$", out, re.MULTILINE)) == 2  # in C, and in training
    wanted = ["--file_format", "C", "--arithmetic", "fixed", "--file_name", tmp_path / "lenet"]
    status, out, _ = run(capsys, "export", *chosen, *wanted)
    assert status == 0
    assert "arithmetic fixed" in " ".join(out.split())  # a title is wrapped
    assert re.search(r"3,600 codes compared in C, .*, 0 differ", out)
    file = tmp_path / "lenet.c"
    status, again, _ = run(capsys, "verify", "--trust", *chosen, "--model", file, "--data_path", "digits")
    assert status == 0
    assert again.splitlines()[-2:] == out.splitlines()[-2:]
    status, _, err = run(
        capsys, "verify", "--trust", *chosen, "--model", file, "--data_path", "digits", "--arithmetic", "float"
    )
    assert status == 2
    assert "was exported for the fixed arithmetic and computes no other" in err
    qat.target("ONNX").export(
        qat.to_integer(*(getattr(Checkpoint.load(chosen[1]), name) for name in ("graph", "params"))),
        tmp_path / "x.onnx",
    )
    status, both, _ = run(
        capsys,
        "verify",
        "--trust",
        *chosen,
        "--model",
        file,
        tmp_path / "x.onnx",
        "--data_path",
        "digits",
        "--backend",
        "torch",
    )
    assert status == 0  # each file in an arithmetic that it has
    assert both.count(", 0 differ") == 3


def test_verify_names_the_first_code_that_differs_and_exits_with_1(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One weight of the file is changed by hand: the certificate must fail and point at that layer."""
    checkpoint = Checkpoint.load(trained / "lenet_quant.ckpt")
    params = dict(checkpoint.params)
    params["conv2.weight"] = params["conv2.weight"].copy()
    params["conv2.weight"][3] *= -1.0
    file = tmp_path / "wrong.onnx"
    qat.target("ONNX").export(qat.to_integer(checkpoint.graph, params), file)
    status, out, err = run(
        capsys, "verify", "--model", file, "--ckpt_path", trained / "lenet_quant.ckpt", "--data_path", "digits"
    )
    assert status == 1
    assert err == ""
    assert "first at conv2, image 0, element [3, " in out
    assert "where the reference has" in out


def test_quantized_onnx_is_a_quarter_of_the_float_one(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(capsys, "export", "--ckpt_path", trained / "lenet.ckpt", "--float", "--file_name", tmp_path / "float")
    run(capsys, "export", "--ckpt_path", trained / "lenet_quant.ckpt", "--file_name", tmp_path / "int8")
    assert (tmp_path / "float.onnx").stat().st_size / (tmp_path / "int8.onnx").stat().st_size > 3.6


def test_float_onnx_computes_what_the_backend_computes(trained: Path, tmp_path: Path) -> None:
    from qat.data import load

    checkpoint = Checkpoint.load(trained / "lenet.ckpt")
    images = load("digits").resized((1, 32, 32)).test.images[:50]
    file = tmp_path / "float.onnx"
    qat.target("ONNX").export_float(checkpoint.graph, checkpoint.params, file)
    torch = qat.backend("torch")
    expected = torch.predict(torch.lower(checkpoint.graph, checkpoint.params), images)
    # Float convolutions add in another order: 1e-4 of logits of about 10.
    np.testing.assert_allclose(qat.target("ONNX").predict(file, images), expected, rtol=0, atol=1e-4)
    assert np.abs(qat.target("ONNX").predict(file, images + 1) - expected).max() > 1e-4


@pytest.mark.parametrize(
    "name",
    [
        *("train", "eval", "calibrate", "train_quant", "train_and_quantize", "eval_quant", "export", "verify", "demo"),
        *("compress", "compile", "evaluate", "create_data", "run"),
    ],
)
def test_every_script_runs_from_its_own_file(name: str) -> None:
    result = subprocess.run(
        [sys.executable, SCRIPTS / f"{name}.py", "--help"], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith(f"usage: {name}.py")


BACKGROUND = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.SIG_IGN)  # as a shell does for a background job
from qat.cli import run_script

def run(args):
    print("running", flush=True)
    time.sleep(60)

sys.exit(run_script(lambda parser: None, run, None, []))
"""


def test_a_job_in_the_background_can_be_ended() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", BACKGROUND], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"running\n"
        process.terminate()
        _, error = process.communicate(timeout=30)
    assert process.returncode == 130
    assert b"interrupted" in error


def test_help_lists_the_commands_and_imports_nothing_slow() -> None:
    """No framework, so that it answers at once."""
    code = "import sys; from qat.cli import main; main([]); print(sorted(sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert all(command in out for command in COMMANDS)
    assert "'argparse'" in out
    assert not [name for name in ("torch", "tensorflow", "mindspore", "onnx") if f"'{name}'" in out]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["frobnicate"], "there is no command 'frobnicate'"),
        (["trian"], "there is no command 'trian', perhaps train is meant"),
        (["train-gtc", "--epochs", "3"], "unknown argument --epochs, perhaps --num_epochs is meant"),
        (["train", "--data_path", "digits", "--epochs", "many"], "argument --epochs: invalid int value: 'many'"),
        (
            ["train", "--data_path", "digits", "--network", "lenet", "--ckpt_path", "a.ckpt"],
            "--network lenet: the network is",
        ),
        (
            ["train", "--data_path", "digits", "--sparsity_begin", "1000"],
            "--sparsity_begin: says how weights are pruned",
        ),
        (["train-svhn", "--flagfile"], "--flagfile '': there is no such file"),
        (["train-svhn", "--flagfile", "none.cfg"], "--flagfile 'none.cfg': there is no such file"),
        (["train"], "--data_path"),
        (["train", "--data_path", "digits", "--backend", "abacus"], "invalid choice: 'abacus'"),
        (["train", "--data_path", "digits", "--network", "alexnet"], "network 'alexnet' is unknown"),
        (["train", "--data_path", "digits", "--network", "nowhere:Net"], "cannot be imported"),
        (["train", "--data_path", "nowhere"], "nowhere: there is nothing here"),
        (["train", "--data_path", "digits", "--device_target", "Ascend"], "device_target 'Ascend'"),
        (["train", "--data_path", "digits", "--device_target", "GPU"], "use --device_target CPU"),
        (["train", "--data_path", "digits", "--epochs", "0"], "epochs is 0"),
        (["train", "--data_path", "digits", "--lr", "nan"], "lr is nan"),
        (["train", "--data_path", "digits", "--momentum", "-1"], "momentum is -1.0"),
        (["train", "--data_path", "digits", "--weight_decay", "nan"], "weight_decay is nan"),
        (
            ["train", "--data_path", "digits", "--seed", "-1"],
            "argument --seed: '-1' is no seed; use a whole number, 0 or more",
        ),
        (["train", "--data_path", "digits", "--save_path", "."], "is a folder"),
        (
            ["train", "--data_path", "digits", "--dataset_sink_mode", "true"],
            "--backend is torch, which has no data sink",
        ),
        (["train", "--data_path", ""], "--data_path is empty"),
        (["export", "--ckpt_path", "x.ckpt", "--file_name", ""], "is a folder, or nothing"),
        (["export", "--ckpt_path", "x.ckpt", "--file_name", "x.tflite"], "ends as another format's file"),
        (["train", "--data_path", "digits", "--batch_size", "5000"], "larger than the 1,437 training images"),
        (["eval", "--data_path", "digits", "--ckpt_path", "none.ckpt"], "cannot be read (No such file or directory)"),
        (
            ["train-quant", "--data_path", "digits", "--ckpt_path", "x", "--symmetric", "maybe"],
            "neither true nor false",
        ),
        (["verify", "--model", "none.onnx", "--ckpt_path", "x", "--data_path", "digits"], "there is no such file"),
    ],
)
def test_a_mistake_gives_one_line_and_status_2(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    status, _, err = run(capsys, *arguments)
    assert status == 2
    assert message in err
    assert len(err.strip().splitlines()) == 1
    assert not list(tmp_path.glob("*.ckpt"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"--fodls=3\n", "unknown argument --fodls=3 in flags.cfg, perhaps --folds is meant"),
        (b"folds 2\n", "unknown argument folds 2 in flags.cfg"),
        (b"\x89PNG\x00\xff", "--flagfile flags.cfg: cannot be read"),
        (b"--flagfile=none.cfg\n", "--flagfile flags.cfg: cannot be read"),
    ],
)
def test_a_mistake_in_a_flag_file_names_the_file(
    content: bytes, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "flags.cfg").write_bytes(content)
    status, _, err = run(capsys, "train-svhn", "--data_path", "digits", "--flagfile", "flags.cfg")
    assert status == 2
    assert message in err
    assert "Traceback" not in err


def test_a_choice_may_be_in_small_letters(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--ckpt_path", trained / "lenet_quant.ckpt", "--file_name", tmp_path / "a", "--no_verify"]
    assert run(capsys, "export", "--file_format", "onnx", *arguments)[0] == 0
    assert (tmp_path / "a.onnx").is_file()


def test_an_argument_with_the_value_of_its_default_is_given_all_the_same(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, _ = run(capsys, "summary", "--network", "lenet", "--num_bits", "8")
    assert (status, out) == (0, run(capsys, "summary", "--network", "lenet", "--num_bits", "8", "8")[1])
    assert out != run(capsys, "summary", "--network", "lenet")[1]
    more = ["--data_path", "digits", "--ckpt_path", trained / "lenet_quant.ckpt", "--save_path", tmp_path / "b.ckpt"]
    status, _, err = run(capsys, "train-quant", *more, "--num_bits", "8")
    assert status == 2
    assert "--num_bits: " in err
    assert "is quantized already" in err


def test_an_exported_file_is_no_checkpoint(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    exported = ["--ckpt_path", trained / "lenet_quant.ckpt", "--file_name", tmp_path / "a", "--no_verify"]
    assert run(capsys, "export", *exported)[0] == 0
    status, _, err = run(capsys, "eval", "--data_path", "digits", "--ckpt_path", tmp_path / "a.onnx")
    assert status == 2
    assert "a.onnx: is an exported file, not a checkpoint; run, evaluate and verify take such files" in err


def test_a_checkpoint_of_the_library_says_nothing_of_images(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = Checkpoint.load(trained / "lenet_quant.ckpt")
    Checkpoint(made.graph, made.params).save(tmp_path / "made.ckpt")
    status, _, err = run(capsys, "export", "--ckpt_path", tmp_path / "made.ckpt", "--file_name", tmp_path / "a")
    assert status == 2
    assert "made.ckpt: does not say what it was trained on, and the certificate needs images" in err


def test_a_calibrated_checkpoint_is_certified_on_what_its_float_network_was_trained_on(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    calibrated = tmp_path / "calibrated.ckpt"
    arguments = [
        "--data_path",
        "digits",
        "--ckpt_path",
        trained / "lenet.ckpt",
        "--save_path",
        calibrated,
        "--images",
        100,
    ]
    assert run(capsys, "calibrate", *arguments, *PLAIN_FLAGS)[0] == 0
    status, out, err = run(capsys, "export", "--ckpt_path", calibrated, "--file_name", tmp_path / "a")
    assert (status, err) == (0, "")
    assert "(digits, test samples)" in out


def test_much_lost_accuracy_has_a_note_of_what_to_do(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--data_path", "digits", "--ckpt_path", trained / "lenet.ckpt", "--images", 100, *PLAIN_FLAGS]
    for bits, noted in (("8", False), ("2", True)):
        status, out, err = run(
            capsys, "calibrate", *given, "--num_bits", bits, "--save_path", tmp_path / f"{bits}.ckpt"
        )
        before, after = (float(x) for x in re.findall(r"Accuracy (?:before|after): +([\d.]+) %", out))
        assert status == 0
        assert (before - after > 5.0) == noted
        text = " ".join(err.split())
        assert (
            f"note: {before - after:.2f} points of accuracy are lost; diagnose says in which layers" in text
        ) == noted


def test_checkpoints_of_the_wrong_kind_are_refused(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    float_, quantized = trained / "lenet.ckpt", trained / "lenet_quant.ckpt"
    for command, file, message in (
        ("eval-quant", float_, "not quantized yet"),
        ("eval", quantized, "or eval_quant.py"),
    ):
        status, _, err = run(capsys, command, "--data_path", "digits", "--ckpt_path", file)
        assert status == 2
        assert message in err
    status, _, err = run(capsys, "export", "--ckpt_path", float_, "--file_name", tmp_path / "x")
    assert status == 2
    assert "not quantized yet" in err
    fixed = ["--arithmetic", "fixed", "--file_name", tmp_path / "x"]
    for arguments, message in (
        (["--ckpt_path", quantized], "files of ONNX have no such arithmetic"),
        (["--ckpt_path", quantized, "--no_verify"], "files of ONNX have no such arithmetic"),
        (["--ckpt_path", float_, "--float", "--file_format", "TFLITE"], "has no integers, and so no choice of it"),
    ):
        status, _, err = run(capsys, "export", *arguments, *fixed)
        assert status == 2
        assert message in err
    status, _, err = run(capsys, "verify", "--model", float_, "--ckpt_path", quantized, "--data_path", "digits")
    assert status == 2
    assert "no format that can be run" in err
    (tmp_path / "broken.onnx").write_bytes(b"\x08\x08broken")
    status, _, err = run(
        capsys, "verify", "--model", tmp_path / "broken.onnx", "--ckpt_path", quantized, "--data_path", "digits"
    )
    assert status == 2
    assert "broken.onnx" in err


def test_a_log_that_cannot_be_written_is_refused_before_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "log.csv").mkdir()
    arguments = [
        "train",
        "--data_path",
        "digits",
        "--log_path",
        tmp_path / "log.csv",
        "--save_path",
        tmp_path / "a.ckpt",
    ]
    status, out, err = run(capsys, *arguments)
    assert (status, out) == (2, "")
    assert "log.csv: is a folder" in err


@pytest.mark.parametrize("network", ["LENET", "qat.networks.lenet5:lenet"])
def test_a_checkpoint_is_named_as_the_network_is_registered_whatever_was_typed(
    network: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(lenet5, "lenet", LeNet5, raising=False)
    monkeypatch.setattr(train, "train_and_save", lambda args, start, data_path, path: print(path))
    assert run(capsys, "train", "--data_path", "digits", "--network", network) == (0, "checkpoint_lenet.ckpt\n", "")
