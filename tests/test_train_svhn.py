"""The document's study from its commands: plan, trainings, pictures, report."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import xml.etree.ElementTree as ElementTree
from argparse import ArgumentParser, Namespace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import qat
from qat.cli import main
from qat.errors import QatError
from qat.pruning import count_zeros
from qat.reporting.page import Section, html_page
from qat.scripts import train_svhn
from qat.study.layers import layers_of
from qat.study.results import Fold, models_in, read_model, roc, short_name

SCRIPTS = Path(train_svhn.__file__).parent
SMALL = ["--data_path", "digits", "--folds", "2", "--filters", "4,4", "--dense=", "--epochs", "3"]
MIXED_WIDTHS = "bn_fold: false\nlayers:\n  blocks.*: {num_bits: [3, 6]}\n  output: {num_bits: [4, 8]}\n"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def arguments(*given: str) -> Namespace:
    parser = ArgumentParser()
    train_svhn.add_arguments(parser)
    return parser.parse_args(["--data_path", "digits", *given])


# -- the plan -----------------------------------------------------------------------------------------------------------


def test_every_width_begins_with_the_weights_of_the_one_before() -> None:
    tasks, _ = train_svhn.plan(arguments("--quantize", "--prune"))
    assert len(tasks) == 10 * 11 * 2  # folds, the float network and ten widths, pruned and not
    after = {task.name: task.after for task in tasks}
    assert after["full_3"] == ()
    assert after["quant_16bit_3"] == ("full_3",)
    assert after["quant_14bit_3"] == ("quant_16bit_3", "full_3")
    assert after["quant_1bit_3"] == ("quant_2bit_3", "full_3")
    assert after["pruned_quant_1bit_3"] == ("quant_1bit_3",)
    widths = [
        task.settings["label"]["weight_bits"]
        for task in tasks
        if task.name.startswith("quant") and task.name.endswith("_0")
    ]
    assert widths == [16, 14, 12, 10, 8, 6, 4, 3, 2, 1]


def test_the_flags_choose_what_is_trained() -> None:
    def names(*given: str) -> list[str]:
        return [task.name for task in train_svhn.plan(arguments(*given))[0]]

    assert names("--single") == ["full_0"]
    assert len(names()) == 10
    assert names("--single", "--prune=True") == names("--single", "--prune", "True") == ["full_0", "pruned_full_0"]
    assert names("--single", "--prune", "False") == ["full_0"]
    assert names("--folds=0", "--quantize", "--widths=4") == ["full_0", "quant_4bit_0"]


def test_autoq_is_one_more_model_that_begins_with_the_float_weights(tmp_path: Path) -> None:
    """As in its search; the last width's weights, binary perhaps, are others."""
    config = tmp_path / "autoq.yaml"
    config.write_text(MIXED_WIDTHS)
    given = ["--single", "--quantize", "--prune", "--widths=8,1", "--autoq_config", str(config)]
    tasks = {task.name: task for task in train_svhn.plan(arguments(*given))[0]}
    assert list(tasks)[-2:] == ["latest_aq_0", "pruned_latest_aq_0"]
    assert tasks["latest_aq_0"].after == ("full_0",)
    assert tasks["pruned_latest_aq_0"].after == ("latest_aq_0",)
    assert tasks["latest_aq_0"].settings["quantization"]["layers"]["blocks.*"] == {"num_bits": [3, 6]}
    assert tasks["latest_aq_0"].settings["label"]["weight_bits"] is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot be read (No such file or directory)"),
        ("layers: [", "cannot be read as YAML"),
        ("", "holds NoneType where names and values are expected"),
        ("bits: 3", "'bits' is not a setting, perhaps num_bits is meant; use num_bits, "),
        ("num_bits: [8, 99]", "ActivationQuantizer: num_bits is 99"),
        ("layers: {conv9: {num_bits: 4}}", "layers: pattern 'conv9' fits no cell of SvhnCnn that is quantized"),
        ("layers: {bn: {num_bits: 4}}", "pattern 'bn' fits no cell"),  # merged away before anything is quantized
    ],
)
def test_a_wrong_autoq_config_is_refused_before_anything_is_trained(
    text: str | None, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "autoq.yaml"
    if text is not None:
        config.write_text(text)
    command = ["train-svhn", "--data_path", "digits", "--single", "--models", str(tmp_path / "models")]
    assert main([*command, "--autoq_config", str(config)]) == 2
    error = capsys.readouterr().err
    assert str(config) in error
    assert message in error
    assert error.count("\n") == 1
    assert not list(tmp_path.glob("models/*.ckpt"))


def test_batches_get_smaller_and_pruning_earlier_where_the_data_are_few() -> None:
    tasks, batch_size = train_svhn.plan(arguments("--prune", "--single"))
    assert batch_size == 32  # 1,164 images: 36 steps
    pruner, epochs = tasks[1].settings["pruner"], tasks[1].settings["recipe"]["epochs"]
    assert 0 < pruner["begin"] < pruner["end"] <= 36 * epochs // 2
    assert (pruner["initial_sparsity"], pruner["final_sparsity"]) == (0.4, 0.5)
    assert train_svhn.pruner_settings(arguments(), 100_000) == {**pruner, "begin": 1000, "end": 8000, "frequency": 100}


def test_the_flag_file_holds_the_documents_settings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = (SCRIPTS / "svhn_cnn.cfg").read_text().splitlines()
    given = arguments(*(line for line in lines if line.startswith("--")))
    assert (given.filters, given.dense, given.optimizer, given.lr) == ([16, 16, 24], [42, 64], "amsgrad", 0.003)
    assert (given.batch_size, given.epochs, given.early_stopping, given.folds) == (1024, 100, 10, 10)
    assert main(["train-svhn", f"--flagfile={tmp_path / 'none.cfg'}"]) == 2
    error = capsys.readouterr().err
    assert "--flagfile '" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--folds", "1"], "--folds is 1; use 2 or more"),
        (["--validation_share", "1.5"], r"--validation_share is 1\.5"),
        (["--epochs", "0"], "epochs is 0"),
        (["--folds", "100000"], "digits: 100,000 folds of 141 images of its rarest label; use a number from 2 to 141"),
        (["--train_images", "12"], "digits: 10 folds of 1 image of its rarest label; use more images"),
        (["--train_images", "-1"], "--train_images is -1"),
        (["--quantize", "--widths", "40"], "--widths 40: use different numbers of bits from 1 .* to 16"),
        (["--quantize", "--widths", "0"], "--widths 0: use"),
        (["--quantize", "--widths", "4,4"], "--widths 4,4: use"),
        (["--quantize", "--widths", ""], "--widths : use"),
        (["--quantize", "--least_activation_bits", "40"], "--least_activation_bits 40: .* num_bits is 40"),
        (["--filters", "8,8,8,8,8"], "block 4 of 5 has nothing left of the image"),
        (["--filters", "8,8", "--kernels", "3,3,3"], r"got \[3, 3, 3\] for 2 blocks"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_trained(
    given: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["train-svhn", "--data_path", "digits", "--single", *given, "--models", str(tmp_path / "models")]
    assert main(command) == 2
    assert re.search(message, capsys.readouterr().err)
    assert not list(tmp_path.glob("models/*.ckpt"))


# -- a study ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study") / "models"
    config = folder.parent / "autoq.yaml"
    config.write_text(MIXED_WIDTHS)
    more = ["--quantize", "--prune", "--widths", "8,1", "--autoq_config", str(config)]
    more += ["--jobs", "2", "--models", str(folder)]
    assert main(["train-svhn", *SMALL, *more]) == 0
    return folder


def test_every_training_leaves_a_result_that_says_where_it_came_from(models: Path) -> None:
    assert models_in(models) == ["quant_1bit", "quant_8bit", "latest_aq", "full"]
    widths = [layer.cost.weight_bits for layer in layers_of(read_model(models / "latest_aq", "").folds[0].checkpoint())]
    assert widths == [3, 3, 4]
    for path in models.glob("*.json"):
        result = json.loads(path.read_text())
        assert result["data"].startswith("digits, fold ")
        assert result["codes_differ"] == (None if "full" in path.stem else 0)
        assert len(result["epochs"]) == 3
        losses = [epoch["validation_loss"] for epoch in result["epochs"]]
        pruned = path.stem.startswith("pruned_")
        if not pruned:
            assert result["best_epoch"] == 1 + int(np.argmin(losses))
    fold = read_model(models / "full", "BF").folds
    assert sum(len(one.labels) for one in fold) == 1437  # each image is tested once
    assert fold[0].accuracy == (fold[0].outputs.argmax(1) == fold[0].labels).mean()


@pytest.mark.parametrize("model", ["full", "quant_8bit", "quant_1bit", "latest_aq"])
def test_pruned_checkpoints_are_truly_at_their_final_sparsity(models: Path, model: str) -> None:
    """Binary weights too: what is pruned is 0 in the integers, neither -1 nor +1."""
    for fold in (0, 1):
        checkpoint = qat.Checkpoint.load(models / f"pruned_{model}_{fold}.ckpt")
        zeros, weights = count_zeros(checkpoint.graph, checkpoint.params)
        assert zeros >= 0.5 * weights - 3
        deployed = np.concatenate([layer.weights for layer in layers_of(checkpoint)])
        assert (deployed == 0).sum() >= zeros
        before = qat.Checkpoint.load(models / f"{model}_{fold}.ckpt")
        assert count_zeros(before.graph, before.params)[0] < 0.1 * weights


def test_the_pictures_are_drawn(models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    paths = f"{models}/quant_1bit;{models}/full"
    given = ["-m", paths, "--names", "B;BF/\\nBP", "--prefix", "quantized", "--extra", "", "--pruned"]
    assert main(["training-diagnostics", *given, "--out", str(tmp_path)]) == 0
    assert main(["training-diagnostics", "-m", str(models), "--out", str(tmp_path), "--extra", "_all"]) == 0
    two = f"{models}/full_0;{models}/pruned_full_0"
    given = ["-m", two, "--names", "BF model;BP model", "--kFold", "-w", "--doOPS"]
    assert main(["compare-models", *given, "--out", str(tmp_path)]) == 0
    assert "zeros in %" in capsys.readouterr().out
    stems = {path.stem for path in tmp_path.glob("*.png")}
    assert stems == {
        "quantized_accuracy",
        "quantized_accuracy_all",
        "compare_roc",
        "compare_weights",
        "compare_profile",
    }
    for stem in stems:
        with Image.open(tmp_path / f"{stem}.png") as image:
            pixels = np.asarray(image.convert("L"))
        assert min(pixels.shape) > 400
        assert 0.005 < (pixels < 200).mean() < 0.6, f"{stem} is empty, or all ink"
        ElementTree.parse(tmp_path / f"{stem}.svg")
    assert "<!-- AutoQ -->" in (tmp_path / "quantized_accuracy_all.svg").read_text()


def test_a_report_opens_without_a_network(models: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    report = tmp_path / "report.html"
    two = f"{models}/full_0;{models}/pruned_quant_1bit_0"
    given = ["-m", two, "--names", "BF;pruned <B>", "--kFold", "-w", "--doOPS", "--command", "qat train-svhn & more"]
    assert main(["compare-models", *given, "--out", str(tmp_path), "--report", str(report)]) == 0
    text = report.read_text()
    assert not re.search(r'(src|href)="(?!#)', text), "something is fetched from elsewhere"
    assert "pruned &lt;B&gt;" in text
    assert "qat train-svhn &amp; more" in re.sub("</?span>", "", text)
    assert "digits" in text
    assert "<td>latest_aq (AutoQ)</td>" in text.replace("<wbr>", "")
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids)), "two pictures share names"
    assert set(re.findall(r'href="#([^"]+)"', text)) <= set(ids)
    if CHROMIUM is None:
        pytest.skip("the rest needs Chromium")
    environment = os.environ | {"HOME": str(tmp_path)}
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--window-size=1200,5000", "--virtual-time-budget=4000"]
    blocked = "--host-resolver-rules=MAP * ~NOTFOUND"
    page = [*options, blocked, f"--user-data-dir={tmp_path / 'profile'}"]
    dom = subprocess.run(
        [CHROMIUM, *page, "--dump-dom", report.as_uri()],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    ).stdout
    assert dom.count("<svg") == text.count("<svg") == 4
    shot = tmp_path / "report.png"
    subprocess.run(
        [CHROMIUM, *page, f"--screenshot={shot}", report.as_uri()],
        env=environment,
        capture_output=True,
        timeout=120,
        check=True,
    )
    with Image.open(shot) as image:
        pixels = np.asarray(image.convert("RGB"), np.int64)
    blue = (np.abs(pixels - np.array([0x00, 0x72, 0xB2])).sum(axis=2) < 60).sum()
    assert blue > 500, "the curves are not drawn"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["-m", "{models}/quant_7bit"], "there is no result of such a training; there are full, "),
        (["-m", "{models}/full", "--names", "a;b"], "--names: 2 names for 1 model"),
        (["-m", ";"], "there is no model"),
    ],
)
def test_models_that_are_not_there_are_named(
    models: Path, given: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    given = [text.format(models=models) for text in given]
    assert main(["training-diagnostics", *given, "--out", str(tmp_path)]) == 2
    assert message in capsys.readouterr().err


# -- figures ------------------------------------------------------------------------------------------------------------


def fold(scores: np.ndarray, labels: np.ndarray) -> Fold:
    return Fold({"name": "made"}, scores, labels, Path("none.ckpt"))


def test_the_area_is_the_share_of_pairs_in_the_right_order() -> None:
    """Of a sample of the class and one of another, counted one by one (Hanley and McNeil, 1982)."""
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 3, 60)
    outputs = generator.normal(size=(60, 3)).astype(np.float32) + 0.7 * np.eye(3, dtype=np.float32)[labels]
    shares = np.exp(outputs) / np.exp(outputs).sum(1, keepdims=True)
    for label in range(3):
        positive, negative = shares[labels == label, label], shares[labels != label, label]
        order = (positive[:, None] > negative).mean() + 0.5 * (positive[:, None] == negative).mean()
        assert roc([fold(outputs, labels)], label).auc == pytest.approx(order, abs=1e-9)


def test_over_folds_there_are_mean_and_sigma() -> None:
    labels = np.arange(40) % 2
    perfect = np.eye(2, dtype=np.float32)[labels]
    both = roc([fold(perfect, labels), fold(-perfect, labels)], 1)
    assert (both.auc, both.auc_sigma) == (0.5, pytest.approx(np.sqrt(0.5)))
    assert both.rates[0] == 0.5
    with pytest.raises(QatError, match="has no test image of class 1"):
        roc([fold(perfect, np.zeros(40, int))], 1)


def test_models_have_the_documents_names() -> None:
    names = [short_name(name) for name in ("quant_1bit", "quant_2bit", "quant_12bit", "latest_aq", "full", "mine")]
    assert names == ["B", "T", "12", "AutoQ", "BF", "mine"]


def test_what_a_report_is_told_is_escaped() -> None:
    pytest.importorskip("jinja2")
    page = html_page("<t>", ["a & b"], [], [Section("s", "", ("c",), [("<script>",)])])
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
