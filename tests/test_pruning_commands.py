"""Pruning as a user types it: one chain of commands, each step a checkpoint, and the mistakes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from command import run

import qat
from qat.analysis.metrics import total_macs
from qat.cli import main
from qat.pruning import channel_groups, count_zeros
from qat.training.checkpoint import Checkpoint


@pytest.fixture(scope="module")
def slim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LeNet-5 with batch normalisation, trained on the digits with a penalty on its scales."""
    path = tmp_path_factory.mktemp("slim") / "slim.ckpt"
    arguments = ["train", "--network", "lenet_bn", "--data_path", "digits", "--epochs", "2", "--slimming", "0.01"]
    assert main([*arguments, "--save_path", str(path)]) == 0
    return path


def test_pruned_tuned_quantized_and_certified(slim: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small, tuned, quant = (tmp_path / f"{name}.ckpt" for name in ("small", "tuned", "quant"))
    chosen = ["--method", "slimming", "--ratio", "0.5", "--minimum", "2", "--data_path", "digits"]
    status, out, _ = run(capsys, "prune", "--ckpt_path", slim, *chosen, "--save_path", small)
    assert status == 0
    before, after = Checkpoint.load(slim), Checkpoint.load(small)
    assert sum(map(len, channel_groups(before.graph))) - sum(map(len, channel_groups(after.graph))) == 11
    assert f"{before.graph.count_trainable():,} -> {after.graph.count_trainable():,}" in out
    assert f"{total_macs(before.graph):,} -> {total_macs(after.graph):,}" in out
    assert "Accuracy before: " in out
    assert after.history[0]["pruning"]["method"] == "slimming"
    assert after.history[1:] == before.past

    common = ["--data_path", "digits", "--epochs", "2"]
    sparsity = ["--sparsity", "0.5", "--sparsity_begin", "4", "--sparsity_end", "30", "--sparsity_frequency", "8"]
    status, out, _ = run(capsys, "train", "--ckpt_path", small, *common, *sparsity, "--save_path", tuned)
    assert status == 0
    zeros, weights = count_zeros(*(getattr(Checkpoint.load(tuned), name) for name in ("graph", "params")))
    assert zeros / weights == pytest.approx(0.5, abs=0.001)
    assert f"Sparsity: {100 * zeros / weights:.2f} % of {weights:,} weights are 0" in out
    assert "note" not in out

    status, out, _ = run(
        capsys, "train-quant", "--ckpt_path", tuned, *common, "--quant_delay", "10", "--save_path", quant
    )
    assert status == 0
    assert f"Sparsity: {100 * zeros / weights:.2f} %" in out
    assert "note" not in out
    float_, quantized = Checkpoint.load(tuned), Checkpoint.load(quant)
    for name in (n for n in float_.params if n.endswith("mask")):
        np.testing.assert_array_equal(quantized.params[name], float_.params[name])
    files = [tmp_path / f"net{suffix}" for suffix in (".onnx", ".tflite", ".c")]
    for file, form in zip(files, ("ONNX", "TFLITE", "C"), strict=True):
        status, out, _ = run(capsys, "export", "--ckpt_path", quant, "--file_format", form, "--file_name", file)
        assert status == 0
        assert out.count(", 0 differ") == 2
    assert files[0].stat().st_size < 61_728


@pytest.mark.parametrize("method", ["l1", "taylor"])
def test_the_other_methods_meet_a_budget(
    method: str, slim: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "small.ckpt"
    limits = ["--max_params", "20000", "--multiple_of", "2", "--scope", "layer", "--batches", "3"]
    arguments = ["--ckpt_path", slim, "--method", method, "--data_path", "digits", "--save_path", path]
    status, _, _ = run(capsys, "prune", *arguments, *limits)
    assert status == 0
    graph = Checkpoint.load(path).graph
    assert 14_000 < graph.count_trainable() <= 20_000
    assert all(len(group) % 2 == 0 for group in channel_groups(graph))


def test_blocks_are_dropped_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    graph = qat.networks.create("resnet20").graph()
    Checkpoint(graph, graph.initial_params()).save(tmp_path / "net.ckpt")
    chosen = ["--ckpt_path", tmp_path / "net.ckpt", "--drop_blocks", "blocks.1.add", "blocks.4.add"]
    status, out, _ = run(capsys, "prune", *chosen)
    assert status == 0
    assert "dropped" in out
    smaller = Checkpoint.load(tmp_path / "net_pruned.ckpt").graph
    assert not [node.name for node in smaller.nodes if node.name.startswith(("blocks.1.", "blocks.4."))]


def test_an_unfinished_schedule_is_mentioned(slim: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--ckpt_path", slim, "--data_path", "digits", "--epochs", "1", "--save_path", tmp_path / "x.ckpt"]
    status, _, err = run(capsys, "train", *arguments, "--sparsity", "0.5", "--sparsity_end", "8000")
    assert status == 0
    assert "note: 22 steps were trained, but pruning ends at step 8000; lower --sparsity_end" in err
    status, out, _ = run(
        capsys,
        "train",
        *arguments,
        *("--sparsity", "0.25", "--sparsity_schedule", "constant", "--sparsity_begin", "0", "--sparsity_layers", "fc*"),
    )
    assert status == 0
    assert "note" not in out
    masks = [n for n in Checkpoint.load(tmp_path / "x.ckpt").params if n.endswith("mask")]
    assert masks == ["fc1.weight_mask", "fc2.weight_mask", "fc3.weight_mask"]


@pytest.mark.parametrize(
    ("command", "arguments", "message"),
    [
        ("prune", [], "nothing to remove: give --ratio"),
        ("prune", ["--ratio", "1.4"], "ratio is 1.4"),
        ("prune", ["--ratio", "0.0001"], "nothing is removed; raise --ratio"),
        ("prune", ["--ratio", "0.5", "--max_macs", "9"], "--ratio and --max_macs: both say"),
        ("prune", ["--max_macs", "9"], "the budget is 9, but with all removable channels removed"),
        ("prune", ["--ratio", "0.5", "--minimum", "0"], "minimum is 0"),
        ("prune", ["--ratio", "0.5", "--method", "taylor"], "give --data_path"),
        ("prune", ["--ratio", "0.5", "--method", "taylor", "--data_path", "digits", "--batches", "0"], "batches 0"),
        ("prune", ["--ratio", "0.5", "--method", "hessian"], "invalid choice: 'hessian'"),
        ("prune", ["--drop_blocks", "conv1"], "'conv1' is not a residual block of LeNet5BN"),
        ("train", ["--data_path", "digits", "--network", "resnet8"], "the network is that of --ckpt_path"),
        ("train", ["--data_path", "digits", "--slimming", "-1"], "slimming is -1.0"),
        ("train", ["--data_path", "digits", "--sparsity", "1"], "final_sparsity is 1.0"),
        ("train", ["--data_path", "digits", "--sparsity_end", "9"], "give --sparsity too"),
        ("train", ["--data_path", "digits", "--sparsity", "0.5", "--sparsity_layers", "x"], "'x' fits no convolution"),
        ("train-quant", ["--data_path", "digits", "--sparsity", "0.5", "--sparsity_end", "9"], "let it end after"),
    ],
)
def test_a_mistake_gives_one_line_and_status_2(
    command: str, arguments: list[str], message: str, slim: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(slim.parent.iterdir())
    status, _, err = run(capsys, command, "--ckpt_path", slim, *arguments)
    assert status == 2
    assert message in err
    assert "Traceback" not in err
    assert sorted(slim.parent.iterdir()) == before


def test_a_quantized_checkpoint_is_not_pruned(slim: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    graph = qat.convert_quant_network(Checkpoint.load(slim).graph)
    Checkpoint(graph, graph.observed_params()).save(tmp_path / "quant.ckpt")
    for command, more in (("prune", ["--ratio", "0.5"]), ("train", ["--data_path", "digits"])):
        status, _, err = run(capsys, command, "--ckpt_path", tmp_path / "quant.ckpt", *more)
        assert status == 2
        assert "where a float one is needed" in err
