"""The arithmetic as a setting: chosen where a network is quantized, kept by its checkpoint, the default of its files, and where
a file has another one, said in the first line.
"""

from __future__ import annotations

import json
from argparse import ArgumentParser
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import safetensors
from calibrations import calibrate
from command import run
from graphs import chain, conv

import qat
from qat.cells import Flatten
from qat.deploy.arithmetics import default_arithmetic
from qat.errors import QatError
from qat.passes.quant_config import read_quant_config
from qat.registry import TARGETS, installed
from qat.scripts import train_svhn

FLOAT_ALONE = [name for name in ("ONNX", "MINDIR", "AIR", "ASCEND_ONNX") if installed(TARGETS[name])]
DIGITS = qat.data.load("digits")
CODES = 10 * len(DIGITS.test)


def command(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """As ``run``, without the lines that say how far a slow machine is."""
    status, out, err = run(capsys, *arguments)
    return status, "".join(line for line in out.splitlines(True) if not line.endswith(" samples/s\n")), err


def network() -> qat.Graph:
    """Ten numbers of a digit, of random weights."""
    cells = conv(1, 4, 3, activation="relu"), Flatten(), qat.DenseBnAct(256, 10)
    graph: qat.Graph = chain(*cells)
    return graph


def quantized(arithmetic: str) -> qat.Checkpoint:
    """That network with codes of 4 bits, many of which two arithmetics round otherwise."""
    graph = network()
    found = calibrate(
        graph, graph.initial_params(0), DIGITS.train.images[:50], num_bits=4, symmetric=True, arithmetic=arithmetic
    )
    return replace(found, history=({"data_path": "digits"},))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """real.ckpt, a float network; float.ckpt and fixed.ckpt, quantized in either arithmetic."""
    folder = tmp_path_factory.mktemp("arithmetic")
    graph = network()
    qat.Checkpoint(graph, graph.initial_params(0)).save(folder / "real.ckpt")
    for arithmetic in ("float", "fixed"):
        quantized(arithmetic).save(folder / f"{arithmetic}.ckpt")
    return folder


def differ() -> int:
    """How many codes of the test samples differ between the arithmetics."""
    checkpoint = quantized("float")
    integers = qat.to_integer(checkpoint.graph, checkpoint.params)
    a, b = (qat.evaluate(integers, DIGITS.test.images, arithmetic=name) for name in ("float", "fixed"))
    return int((a != b).sum())


def stated(path: Path, arithmetic: str, trained: str, rest: str | None = None) -> str:
    """The line that says so."""
    rest = rest or f"{differ():,} of {CODES:,} codes differ on the samples"
    return f"{path} computes the {arithmetic} arithmetic, where training evaluated the {trained} one: {rest}"


# -- where it is chosen, and who keeps it -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        ("calibrate", "--ckpt_path", "--save_path", "--images", "50"),
        ("compress", "--input_path", "--output_path", "--images", "50", "--bits", "4"),
        ("train-quant", "--ckpt_path", "--save_path", "--epochs", "1", "--batch_size", "128"),
    ],
    ids=lambda arguments: arguments[0],
)
@pytest.mark.parametrize("arithmetic", ["fixed", "float", None])
def test_commands_that_quantize_take_it(
    arguments: tuple[str, ...],
    arithmetic: str | None,
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    name, source, destination, *others = arguments
    chosen = () if arithmetic is None else ("--arithmetic", arithmetic)
    path = tmp_path / "made.ckpt"
    given = (source, folder / "real.ckpt", destination, path, "--data_path", "digits", *others, *chosen)
    status, out, err = command(capsys, name, *given)
    assert (status, "Traceback" in err) == (0, False)
    assert qat.Checkpoint.load(path).graph.arithmetic == (arithmetic or "float")
    assert ("arithmetic: fixed" in out.splitlines()) == (arithmetic == "fixed")


def test_a_file_of_settings_says_it_and_must_not_contradict_the_flag(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, wrong, path = tmp_path / "fixed.yaml", tmp_path / "wrong.yaml", tmp_path / "made.ckpt"
    config.write_text("arithmetic: fixed\n")
    wrong.write_text("arithmetic: fixd\n")
    given = (
        "calibrate",
        "--ckpt_path",
        folder / "real.ckpt",
        "--data_path",
        "digits",
        "--images",
        "9",
        "--save_path",
        path,
    )
    assert command(capsys, *given, "--quant_config", config)[0] == 0
    assert qat.Checkpoint.load(path).graph.arithmetic == "fixed"
    assert command(capsys, *given, "--quant_config", config, "--arithmetic", "fixed")[0] == 0
    status, _, err = command(capsys, *given, "--quant_config", config, "--arithmetic", "float")
    assert (status, err.splitlines()) == (
        2,
        [f"qat calibrate: error: --arithmetic float: {config} says fixed; leave one of the two out"],
    )
    with pytest.raises(QatError, match=r"wrong\.yaml: .*arithmetic 'fixd' is unknown; use one of float, fixed"):
        read_quant_config(wrong)


@pytest.mark.parametrize("command_line", ["train-quant --epochs 1 --ckpt_path", "compress --bits 3 --input_path"])
def test_a_quantized_network_keeps_it(
    command_line: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name, *others = command_line.split()
    path = tmp_path / "made.ckpt"
    to = "--save_path" if name == "train-quant" else "--output_path"
    data = ("--data_path", "digits") if name == "train-quant" else ()
    given = (name, *others, folder / "fixed.ckpt", to, path, *data)
    for agreeing in ((), ("--arithmetic", "fixed")):
        assert command(capsys, *given, *agreeing)[0] == 0
        assert qat.Checkpoint.load(path).graph.arithmetic == "fixed"
        path.unlink()
    status, out, err = command(capsys, *given, "--arithmetic", "float")
    assert (status, out, len(err.splitlines()), path.exists()) == (2, "", 1, False)
    assert "fixed.ckpt was quantized in the fixed arithmetic, and goes on in it; leave it out, or give the float" in err


def test_activations_that_stay_real_have_none(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ("--input_path", folder / "real.ckpt", "--bits", "4", "--arithmetic", "fixed")
    status, _, err = command(capsys, "compress", *given)
    assert status == 2
    assert "--arithmetic: activations stay real numbers without --data_path" in err


def test_a_training_goes_on_in_it(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "made.ckpt"
    given = ("train-quant", "--ckpt_path", folder / "real.ckpt", "--data_path", "digits", "--epochs", "1")
    given = (*given, "--batch_size", "128", "--save_path", path, "--resume")  # type: ignore[assignment]
    assert command(capsys, *given, "--arithmetic", "fixed")[0] == 0
    status, _, err = command(capsys, *given)
    assert status == 2
    assert "made.ckpt: was begun in the fixed arithmetic; give --arithmetic fixed to go on" in err
    assert command(capsys, *given, "--arithmetic", "fixed")[0] == 0


def test_studies_take_it_for_all_their_models(tmp_path: Path) -> None:
    def quantizations(*given: str) -> list[Any]:
        parser = ArgumentParser()
        train_svhn.add_arguments(parser)
        args = parser.parse_args(["--data_path", "digits", "--single", "--quantize", "--widths=8,4", *given])
        return [task.settings["quantization"] for task in train_svhn.plan(args)[0] if task.settings["quantization"]]

    config = tmp_path / "autoq.yaml"
    config.write_text("bn_fold: false\narithmetic: fixed\n")
    assert [found.get("arithmetic") for found in quantizations()] == [
        None,
        None,
    ]  # as studies of earlier releases have it
    found = quantizations("--arithmetic", "fixed", "--autoq_config", str(config))
    assert [each["arithmetic"] for each in found] == ["fixed"] * 3
    config.write_text("bn_fold: false\n")
    assert quantizations("--arithmetic", "fixed", "--autoq_config", str(config))[2]["arithmetic"] == "fixed"
    config.write_text("bn_fold: false\narithmetic: fixed\n")
    with pytest.raises(QatError, match="is of the fixed arithmetic, but the study's other models are of the float one"):
        quantizations("--autoq_config", str(config))


def test_checkpoints_of_earlier_releases_are_of_the_float_one(folder: Path, tmp_path: Path) -> None:
    """Which do not name it; and as long as nobody chooses another, neither do those of this one."""
    for name in ("real", "float"):
        with safetensors.safe_open(folder / f"{name}.ckpt", framework="numpy") as file:
            assert "arithmetic" not in json.loads(file.metadata()["graph"])
        assert qat.Checkpoint.load(folder / f"{name}.ckpt").graph.arithmetic == "float"
    assert qat.Checkpoint.load(folder / "fixed.ckpt").graph.arithmetic == "fixed"


def test_who_evaluates_says_it(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = {}
    for name in ("float", "fixed"):
        status, out, _ = command(capsys, "eval-quant", "--ckpt_path", folder / f"{name}.ckpt", "--data_path", "digits")
        assert status == 0
        found[name] = out.splitlines()
        assert ("fixed arithmetic" in command(capsys, "summary", "--ckpt_path", folder / f"{name}.ckpt")[1]) == (
            name == "fixed"
        )
    assert [len(found[name]) for name in ("float", "fixed")] == [1, 2]
    assert found["fixed"][0] == "arithmetic: fixed"
    assert found["fixed"][1].startswith("Accuracy: ")


def test_checkpoints_are_evaluated_in_the_other_one_where_it_is_asked_for(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def lines(name: str, *given: str) -> list[str]:
        status, out, _ = command(
            capsys, "evaluate", "--input_path", folder / f"{name}.ckpt", "--test_path", "digits", *given
        )
        assert status == 0
        return out.splitlines()

    said, *measured = lines("float", "--arithmetic", "fixed")
    assert said.endswith("float.ckpt is computed in the fixed arithmetic, where training evaluated the float one")
    assert lines("fixed") == ["arithmetic: fixed", *measured]
    given = ("evaluate", "--input_path", folder / "real.ckpt", "--test_path", "digits", "--arithmetic", "fixed")
    status, _, err = command(capsys, *given)
    assert status == 2
    assert "real.ckpt is a float network, whose sums become no codes; leave it out" in err


# -- files --------------------------------------------------------------------------------------------------------------


def exported(
    capsys: pytest.CaptureFixture[str], checkpoint: Path, path: Path, *given: str
) -> tuple[int, list[str], list[str]]:
    """Exit status and lines of ``export``."""
    target = next(name for name, entry in TARGETS.items() if path.name == f"net{entry.suffix}")
    where = ("--ckpt_path", checkpoint, "--file_name", path, "--file_format", target)
    status, out, err = command(capsys, "export", *where, *given)
    return status, out.splitlines(), err.splitlines()


@pytest.mark.parametrize("arithmetic", ["float", "fixed"])
def test_a_file_has_that_of_its_network(
    arithmetic: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target, path = qat.target("TFLITE"), tmp_path / "net.tflite"
    for given in ((), ("--no_verify",)):
        status, out, _ = exported(capsys, folder / f"{arithmetic}.ckpt", path, *given)
        assert status == 0
        assert out[0].startswith(f"wrote {path}")
        assert default_arithmetic(target, path) == arithmetic
        metadata = target.read_metadata(path)  # type: ignore[attr-defined]
        assert "trained_arithmetic" not in metadata
    status, out, _ = exported(capsys, folder / f"{arithmetic}.ckpt", path)
    assert [line for line in out if "codes compared in" in line and line.endswith(" 0 differ")] == out[-2:]
    checkpoint = quantized(arithmetic)
    target.export(qat.to_integer(checkpoint.graph, checkpoint.params), path)  # likewise, and run in the same one
    assert default_arithmetic(target, path) == arithmetic
    grid = qat.to_integer(checkpoint.graph, checkpoint.params).output.grid
    expected = qat.evaluate(qat.to_integer(checkpoint.graph, checkpoint.params), DIGITS.test.images)
    np.testing.assert_array_equal(grid.codes_of(target.predict(path, DIGITS.test.images)), expected)
    assert qat.export(checkpoint, tmp_path / "of_python.tflite", images=DIGITS.test.images).arithmetic == arithmetic


@pytest.mark.parametrize("arithmetic", ["float", "fixed"])
def test_c_has_that_of_its_network(
    arithmetic: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "net.c"
    status, out, _ = exported(capsys, folder / f"{arithmetic}.ckpt", path)
    assert status == 0
    assert out[0].startswith(f"wrote {path}")
    assert default_arithmetic(qat.target("C"), path) == arithmetic
    assert [line.endswith(" 0 differ") for line in out[-2:]] == [True, True]
    given = ("evaluate", "--input_path", path, "--test_path", "digits", "--trust")
    assert command(capsys, *given)[1].startswith("Accuracy: ")


@pytest.mark.parametrize("name", FLOAT_ALONE)
def test_a_format_without_it_refuses(
    name: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = (
        f"was trained in the fixed arithmetic, but what runs files of {name} computes the float one; use --file_format TFLITE "
        "or C, or --arithmetic float to export it nonetheless, with some codes other than those of training"
    )
    path = tmp_path / f"net{TARGETS[name].suffix}"
    for given in ((), ("--no_verify",)):
        status, out, err = exported(capsys, folder / "fixed.ckpt", path, *given)
        assert (status, out, len(err), list(tmp_path.iterdir())) == (2, [], 1, [])
        assert err[0].endswith(said)
    checkpoint = quantized("fixed")
    for attempt in (
        lambda: qat.target(name).export(qat.to_integer(checkpoint.graph, checkpoint.params), path),
        lambda: qat.export(checkpoint, path, images=DIGITS.test.images),
    ):
        with pytest.raises(QatError, match="was trained in the fixed arithmetic, but what runs files"):
            attempt()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("suffix", "trained", "other"), [(".onnx", "fixed", "float"), (".c", "float", "fixed")])
def test_the_first_line_says_that_a_file_has_another(
    suffix: str, trained: str, other: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint, path = folder / f"{trained}.ckpt", tmp_path / f"net{suffix}"
    assert 0 < differ() < CODES
    status, out, _ = exported(capsys, checkpoint, path, "--arithmetic", other)
    assert status == 0
    assert out[0] == stated(path, other, trained)
    assert any("fixed arithmetic (bytes" in line for line in out) == (other == "fixed")  # the costs are the file's
    target: Any = qat.target(suffix.removeprefix(".").upper())
    kept = json.loads(target.read_metadata(path)["certificate"])
    assert kept["arithmetics"] == stated(path, other, trained)
    assert kept["apart"] == {"trained": trained, "codes": CODES, "differ": differ()}
    assert [each["differ"] for each in kept["comparisons"]] == [0, 0]
    verifying = ("verify", "--model", path, "--ckpt_path", checkpoint, "--data_path", "digits", "--trust")
    status, text, _ = command(capsys, *verifying)
    assert (status, text.splitlines()[0]) == (0, stated(path, other, trained))
    counted = f"{differ():,} of {CODES:,} codes differ on its certificate's samples"
    given = ("evaluate", "--input_path", path, "--test_path", "digits", "--trust")
    assert command(capsys, *given)[1].splitlines()[0] == stated(path, other, trained, counted)
    status, out, _ = exported(capsys, checkpoint, path, "--arithmetic", other, "--no_verify")
    unknown = stated(path, other, trained, "the codes are not compared, verify counts those that differ")
    assert (status, out[0]) == (0, unknown)
    assert command(capsys, *given)[1].splitlines()[0] == unknown
    picture = tmp_path / "picture"
    assert command(capsys, "create-data", "--data_path", "digits", "--out", picture, "--count", "1")[0] == 0
    given = ("run", "--model", path, "--image", picture / "images" / "00000.png", "--trust")
    assert command(capsys, *given)[1].splitlines()[0] == unknown


def test_each_file_of_several_is_compared_in_its_own(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And only the one that has another than the network is spoken of."""
    for name, arithmetic in (("net.onnx", "float"), ("net.c", "fixed")):
        assert exported(capsys, folder / "fixed.ckpt", tmp_path / name, "--arithmetic", arithmetic)[0] == 0
    models = (tmp_path / "net.onnx", tmp_path / "net.c")
    given = ("--ckpt_path", folder / "fixed.ckpt", "--data_path", "digits", "--trust")
    status, out, _ = command(capsys, "verify", "--model", *models, *given)
    assert status == 0
    lines = out.splitlines()
    assert lines[0] == stated(tmp_path / "net.onnx", "float", "fixed")
    assert not [line for line in lines if line.startswith(str(tmp_path / "net.c"))]
    assert lines[1].startswith("Certificate: ")
    assert (
        exported(capsys, folder / "fixed.ckpt", tmp_path / "net.onnx", "--arithmetic", "float", "--no_verify")[0] == 0
    )
    (tmp_path / "again.onnx").write_bytes((tmp_path / "net.onnx").read_bytes())
    status, out, _ = command(capsys, "verify", "--model", tmp_path / "net.onnx", tmp_path / "again.onnx", *given)
    assert status == 0
    for name in ("net.onnx", "again.onnx"):  # of one runtime, told apart
        assert f"codes compared in {name}, ONNX Runtime" in out


def test_verify_follows_the_network_where_there_is_no_file(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = command(capsys, "verify", "--ckpt_path", folder / "fixed.ckpt", "--data_path", "digits")
    assert status == 0
    assert out.splitlines()[0].endswith("(digits, test samples), arithmetic fixed")


def test_a_file_that_cannot_be_run_in_another_is_not_said_to_compute_it(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "net.tflite"
    assert exported(capsys, folder / "float.ckpt", path)[0] == 0
    given = ("evaluate", "--input_path", path, "--test_path", "digits", "--arithmetic", "fixed")
    status, out, err = command(capsys, *given)
    assert (status, out, len(err.splitlines())) == (2, "", 1)
    assert "was exported for the float arithmetic" in err


def test_score_asks_for_a_runtime_that_has_it(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ("score", "--reference", folder / "real.ckpt", "--model", folder / "fixed.ckpt", "--data_path", "digits")
    status, out, err = command(capsys, *given, "--blocks", "1")
    assert (status, out) == (2, "")
    assert "fixed.ckpt: was trained in the fixed arithmetic, and ONNX Runtime would compute other codes" in err
    status, out, _ = command(capsys, *given, "--blocks", "1", "--runtime", "torch")
    assert status in (0, 1)  # 1: it scores 0
    assert out.splitlines()[0] == f"{folder / 'fixed.ckpt'}: arithmetic: fixed"


@pytest.mark.parametrize(
    ("own", "trained", "expected"),
    [
        (("float",), "float", "float"),
        (("float", "fixed"), "float", "float"),
        (("float", "fixed"), "fixed", "fixed"),
        (("fixed",), "fixed", "fixed"),
        (("fixed",), "float", "fixed"),  # which a network is in where nobody chose; its certificate says so
    ],
)
def test_the_default_of_a_target(own: tuple[str, ...], trained: str, expected: str) -> None:
    target: Any = SimpleNamespace(NAME="BOXED", ARITHMETICS=own, export=None)
    graph: Any = SimpleNamespace(name="net", arithmetic=trained)
    assert default_arithmetic(target, graph=graph) == expected
    assert default_arithmetic(target) == own[0]


def test_a_prepared_model_has_it(tmp_path: Path) -> None:
    graph = network()
    images = DIGITS.train.images[:40]
    model = qat.prepare(graph, None, images, backend="torch", num_bits=4, symmetric=True, arithmetic="fixed")
    assert qat.checkpoint_of(model).graph.arithmetic == "fixed"
    assert qat.export(model, tmp_path / "net.tflite").arithmetic == "fixed"
    with pytest.raises(QatError, match="was trained in the fixed arithmetic"):
        qat.export(model, tmp_path / "net.onnx")
    certificate = qat.export(model, tmp_path / "net.onnx", arithmetic="float")
    assert (
        certificate.summary()
        .splitlines()[0]
        .startswith(f"{tmp_path / 'net.onnx'} computes the float arithmetic, where ")
    )
