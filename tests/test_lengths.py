"""Lengths in steps, epochs and shares of a training; quantizers named by a flag; flags with - for _."""

from __future__ import annotations

from pathlib import Path

import pytest
from calibrations import PLAIN_FLAGS
from command import run

import qat
from qat.cli import main
from qat.data import load
from qat.errors import QatError
from qat.passes.named_quantizer import named_quantizer, quantizer_names
from qat.scripts.common.quantization import DELAY
from qat.scripts.common.sparsity import LENGTHS
from qat.training.checkpoint import Checkpoint
from qat.training.lengths import Length, Span, span_of
from qat.training.recipe import Recipe

SMALL, MNIST = Span(22, epochs=2), Span(937, epochs=10)


@pytest.mark.parametrize(
    ("text", "steps"),
    [("0", 0), ("900", 900), ("2ep", 44), ("0.5ep", 11), ("10%", 4), ("2.5%", 1), ("100%", 44), ("0%", 0)],
)
def test_a_length_in_steps(text: str, steps: int) -> None:
    assert Length(text).within(SMALL) == steps
    assert str(Length(text)) == text


def test_a_small_share_is_at_least_what_is_asked_for() -> None:
    assert [Length(text).within(SMALL, least=1) for text in ("1%", "0%", "0", "50%")] == [1, 0, 0, 22]


@pytest.mark.parametrize("text", ["", "-1", "1.5", "10 %", "2 epochs", "1e3", "ep", "%", "101%", "9" * 13, "nan"])
def test_what_is_no_length_is_refused(text: str) -> None:
    with pytest.raises(QatError, match="give steps as 900, epochs as 2ep, or a share of the training as 10%"):
        Length(text)


def test_the_defaults_of_long_trainings_are_the_steps_that_they_were() -> None:
    assert DELAY.within(MNIST) == 900
    assert [default.within(Span(937, epochs=12)) for default, _ in LENGTHS.values()] == [1000, 8000, 100]
    assert [default.within(SMALL, least=1) for default, _ in (*LENGTHS.values(), (DELAY, ""))] == [4, 33, 1, 4]


def test_the_length_of_a_training_leaves_out_what_is_held_back() -> None:
    dataset = load("digits")
    assert span_of(dataset, Recipe(epochs=3)) == Span(22, 3)
    plan = Recipe(epochs=1, validation=200)
    held = dataset.held_back(200, plan.seed)
    assert span_of(dataset, plan) == Span(len(held.train) // 64, 1)
    with pytest.raises(QatError, match="batch_size 5000 is larger than the 1,437 training images"):
        span_of(dataset, Recipe(batch_size=5000))
    with pytest.raises(QatError, match="2000 images cannot be held back"):
        span_of(dataset, Recipe(validation=2000))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("lengths") / "lenet.ckpt"
    assert main(["train", "--data-path", "digits", "--epochs=1", "--batch-size=64", "--save-path", str(path)]) == 0
    return path


def test_on_small_data_the_defaults_quantize_and_prune(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "quant.ckpt"
    given = ["--data_path", "digits", "--ckpt_path", trained, "--save_path", path, "--epochs", "1", "--sparsity", "0.5"]
    status, out, err = run(capsys, "train-quant", *given, "--freeze_bn", "50%", "--warmup", "1ep", "--warmup=10%")
    assert (status, err) == (0, "")
    assert "Sparsity: 50.00 % of" in out
    assert "note" not in out
    checkpoint = Checkpoint.load(path)
    assert checkpoint.graph.quant_delay == 2
    assert checkpoint.history[0]["warmup"] == 2
    pruner = next(node.cell.pruner for node in checkpoint.graph.nodes if node.name == "fc1")
    assert (pruner.begin, pruner.end, pruner.frequency) == (2, 16, 1)


def test_lengths_in_a_file_of_settings(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config, path = tmp_path / "q.yaml", tmp_path / "quant.ckpt"
    text = "quant_delay: [10%, 0.5ep]\nfreeze_bn: 50%\nlayers: {fc1: {quant_delay: 7}, fc2: {quant_delay: 50%}}\n"
    text += "activation_quantizer: {type: LSQActivationQuantizer, quant_delay: 20%}\n"
    config.write_text(text)
    given = ["--ckpt_path", trained, "--quant_config", config, "--save_path", path, "--data_path", "digits"]
    assert run(capsys, "train-quant", *given, "--epochs", "1")[0] == 0
    cells = {node.name: node.cell for node in Checkpoint.load(path).graph.nodes}
    assert [cells[name].weight_quantizer.quant_delay for name in ("conv1", "fc1", "fc2")] == [2, 7, 11]
    assert [cells[f"{name}.fake_quant"].quantizer.quant_delay for name in ("conv1", "fc1", "fc2")] == [4, 7, 11]
    status, _, err = run(capsys, "calibrate", *given)
    assert status == 2
    assert "10% depends on the length of a training, but nothing is trained here; give steps" in err
    config.write_text("quant_delay: 10 percent\n")
    status, _, err = run(capsys, "train-quant", *given)
    assert (status, err.count("\n")) == (2, 1)
    assert "q.yaml: '10 percent' is no length" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--quant_delay", "22"], "sets in after 22 steps, but the training has 22 steps, 1 epoch of 22"),
        (["--quant_delay", "100%"], "quantization sets in after 22 steps"),
        (["--quant_delay", "soon"], "argument --quant_delay: 'soon' is no length; give steps as 900"),
        (["--sparsity", "0.5", "--sparsity_begin", "1ep"], "--sparsity_begin 1ep: that is 22 steps, but"),
        (["--sparsity", "0.5", "--sparsity_frequency", "0"], "frequency is 0"),
        (["--warmup", "1ep"], "the rate rises for 22 steps"),
        (["--weight_quantizer", "lqs"], "--weight_quantizer 'lqs' is unknown, perhaps lsq is meant: choose one of"),
        (["--weight_quantizer", "pact"], "choose one of"),
        (
            ["--weight_quantizer", "lsq:bits=4"],
            "'bits=4' sets no field of LSQWeightQuantizer, perhaps num_bits is meant",
        ),
        (["--weight_quantizer", "lsq:num_bits=four"], "'lsq:num_bits=four': LSQWeightQuantizer: num_bits is 'four'"),
        (["--weight_quantizer", "ternary", "--num_bits", "4"], "TernaryWeightQuantizer: num_bits is 4; use 2"),
        (["--clip_norm", "-1"], "clip_norm is -1.0"),
        (["--ema", "1"], "ema is 1.0"),
        (["--accumulate", "5"], "64 samples cannot be computed in 5 equal parts"),
    ],
)
def test_mistakes_are_one_line(
    trained: Path, tmp_path: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "none.ckpt"
    given = ["--data_path", "digits", "--epochs", "1", "--ckpt_path", trained, "--save_path", path]
    status, _, err = run(capsys, "train-quant", *given, *arguments)
    assert (status, err.count("\n")) == (2, 1)
    assert message in err
    assert not path.exists()


def test_quantizers_by_their_names(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "quant.ckpt"
    given = ["--ckpt_path", trained, "--data_path", "digits", "--save_path", path, "--num-bits", "4", "6"]
    named = ["--weight_quantizer", "lsq:per_channel=true", "--activation-quantizer", "PACT:initial_alpha=6"]
    assert run(capsys, "train-quant", *given, *named, "--epochs", "1")[0] == 0
    cells = {node.name: node.cell for node in Checkpoint.load(path).graph.nodes}
    assert cells["fc1"].weight_quantizer == qat.LSQWeightQuantizer(4, per_channel=True)
    expected = qat.PACTActivationQuantizer(6, initial_alpha=6.0)
    assert cells["fc1.fake_quant"].quantizer == expected
    named = ["--activation_quantizer", "LSQActivationQuantizer"]
    assert run(capsys, "calibrate", *given[:-2], "8", *named, *PLAIN_FLAGS)[0] == 0
    cells = {node.name: node.cell for node in Checkpoint.load(path).graph.nodes}
    assert cells["fc1.fake_quant"].quantizer == qat.LSQActivationQuantizer(8)
    other = ["--data_path", "digits", "--save_path", tmp_path / "other.ckpt", "--ckpt_path", path]
    status, _, err = run(capsys, "train-quant", *other, *named)
    assert status == 2
    assert "is quantized already" in err


@pytest.mark.parametrize("side", ["weight_quantizer", "activation_quantizer"])
def test_every_quantizer_has_a_short_name(side: str) -> None:
    suffix = {"weight_quantizer": "WeightQuantizer", "activation_quantizer": "ActivationQuantizer"}[side]
    public = [name for name in dir(qat.quantizers) if name.endswith(suffix) and not name.startswith(("_", "Base"))]
    names = quantizer_names(side)
    assert len(public) > 5
    for name in public:
        short = name.removesuffix(suffix).lower() or "minmax"
        assert short in names
        settings = {"num_bits": 3, "per_channel": (True, False), "symmetric": (True, False), "quant_delay": [5]}
        found = named_quantizer(side, short, settings, ())
        assert type(found) is getattr(qat.quantizers, name)
        assert found.quant_delay == 5
        bits = 3 if short == "minmax" else getattr(qat.quantizers, name)().num_bits
        assert found.num_bits == bits
    assert named_quantizer(side, "MinMax:num_bits=5", settings, ()).num_bits == 5


def test_a_command_takes_both_spellings_of_its_flags(capsys: pytest.CaptureFixture[str]) -> None:
    for flag in ("--data_path=nowhere", "--data-path=nowhere"):
        status, _, err = run(capsys, "train", flag)
        assert status == 2
        assert "nowhere" in err
        assert "unknown argument" not in err
    status, _, err = run(capsys, "train-lenet5", "--epoch_end", "none")
    assert "argument --epoch-end: invalid int value: 'none'" in err
