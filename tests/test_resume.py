"""Stopped and resumed, training ends as if it had never stopped."""

from __future__ import annotations

import csv
import re
import subprocess
import sys
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from frameworks import HERE, but_long
from safetensors import safe_open
from safetensors.numpy import save_file

import qat
from qat.cli import main
from qat.data import load
from qat.training.loop import train
from qat.training.objectives import Distillation
from qat.training.optimizer import Optimizer
from qat.training.recipe import Recipe

TORCH = qat.backend("torch")
KILL_AND_RESUME = Path(__file__).parent.parent / "benchmarks" / "kill_and_resume.py"


class Small(qat.Network):
    """Batch normalisation and dropout: state and random numbers beside the weights."""

    def __init__(self) -> None:
        self.inputs = qat.Input((1, 8, 8), mean=0.3, std=0.3)
        self.conv = qat.Conv2dBnAct(1, 8, 3, has_bn=True, activation="relu")
        self.dropout = qat.Dropout(0.2)
        self.flatten = qat.Flatten()
        self.fc = qat.DenseBnAct(512, 10)

    def construct(self, x):
        return self.fc(self.flatten(self.dropout(self.conv(x))))


def test_ending_after_an_epoch_is_an_interruption() -> None:
    graph = Small().graph()
    start, dataset, recipe = qat.Checkpoint(graph, graph.initial_params()), load("digits"), Recipe(epochs=3)
    end = train(TORCH, start, dataset, recipe)
    halfway = train(TORCH, start, dataset, recipe, stop_after=2)
    assert (halfway.epoch, end.epoch) == (2, 3)
    assert any((halfway.params[name] != end.params[name]).any() for name in end.params)
    assert train(TORCH, halfway, dataset, recipe, stop_after=2) is halfway
    for name, array in train(TORCH, halfway, dataset, recipe).params.items():
        np.testing.assert_array_equal(array, end.params[name])


def test_a_training_at_a_constant_rate_may_be_made_longer_afterwards() -> None:
    graph = Small().graph()
    start, dataset = qat.Checkpoint(graph, graph.initial_params()), load("digits")
    short, long = (Recipe(epochs=epochs, lr_schedule="constant") for epochs in (1, 2))
    end, longer = train(TORCH, start, dataset, long), train(TORCH, train(TORCH, start, dataset, short), dataset, long)
    assert longer.history == end.history
    for name, array in longer.params.items():
        np.testing.assert_array_equal(array, end.params[name])
    ended = train(TORCH, start, dataset, Recipe(epochs=1, lr_schedule="constant", validation=100, keep_best=True))
    with pytest.raises(qat.QatError, match="this training ended, with the best epoch, early"):
        train(TORCH, ended, dataset, Recipe(epochs=2, lr_schedule="constant", validation=100, keep_best=True))
    falling = train(TORCH, start, dataset, Recipe(epochs=1))
    with pytest.raises(qat.QatError, match="--resume: the checkpoint was trained with epochs 1, now it is 2"):
        train(TORCH, falling, dataset, Recipe(epochs=2))


def test_what_a_training_was_told_to_minimise_cannot_be_left_out_when_it_is_resumed() -> None:
    graph = qat.convert_quant_network(Small())
    start, dataset, recipe = qat.Checkpoint(graph, graph.initial_params()), load("digits"), Recipe(epochs=2)
    with_teacher = {"objective": Distillation(own_teacher=True), "record": {"teacher": "self"}}
    half = train(TORCH, start, dataset, recipe, stop_after=1, **with_teacher)
    with pytest.raises(
        qat.QatError, match=r"--resume: the checkpoint was trained with (objective|teacher) .*, now it is None"
    ):
        train(TORCH, half, dataset, recipe)
    train(TORCH, half, dataset, recipe, **with_teacher)


@pytest.mark.parametrize(
    ("name", "quantized", "optimizer"),
    but_long(
        product(HERE, [False, True], ["momentum", "adam"]),
        lambda name, quantized, optimizer: name == "mindspore" and (quantized, optimizer) != (True, "adam"),
    ),
)
def test_continuing_from_any_checkpoint_gives_the_same_bits(
    name: str, quantized: bool, optimizer: str, tmp_path: Path
) -> None:
    backend = qat.backend(name)
    graph = Small().graph()
    if quantized:
        graph = qat.convert_quant_network(graph, quant_delay=30)
    dataset, recipe = load("digits"), Recipe(epochs=2, lr=0.01, optimizer=Optimizer(optimizer))
    start = qat.Checkpoint(graph, graph.initial_params())
    saved: list[qat.Checkpoint] = []
    end = train(backend, start, dataset, recipe, save=saved.append, save_every=7)
    assert [checkpoint.step for checkpoint in saved] == [7, 14, 21, 22, 28, 35, 42, 44]
    for checkpoint in (saved[0], saved[3], saved[5]):
        checkpoint.save(tmp_path / "stopped.ckpt")
        again = train(backend, qat.Checkpoint.load(tmp_path / "stopped.ckpt"), dataset, recipe)
        assert (again.step, again.epoch, again.history) == (end.step, end.epoch, end.history)
        for mine, theirs in ((again.params, end.params), (again.optimizer, end.optimizer)):
            assert mine.keys() == theirs.keys()
            for name, array in mine.items():
                np.testing.assert_array_equal(array, theirs[name], err_msg=name)


@pytest.mark.parametrize("stopped_at", [14, 22])
def test_a_checkpoint_without_a_record_of_its_epochs_is_continued(stopped_at: int, tmp_path: Path) -> None:
    """As the first releases wrote them."""
    graph, dataset, recipe = Small().graph(), load("digits"), Recipe(epochs=3)
    saved: dict[int, qat.Checkpoint] = {}
    start = qat.Checkpoint(graph, graph.initial_params())
    end = train(TORCH, start, dataset, recipe, save=lambda each: saved.update({each.step: each}), save_every=7)
    path = tmp_path / "early.ckpt"
    saved[stopped_at].save(path)
    with safe_open(path, "numpy") as file:
        metadata, arrays = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    del metadata["progress"]
    save_file(arrays, path, metadata)
    halfway = train(TORCH, qat.Checkpoint.load(path), dataset, recipe, stop_after=2)
    halfway.save(path)
    again = train(TORCH, qat.Checkpoint.load(path), dataset, recipe)
    assert again.progress.epochs[-1] == end.progress.epochs[-1]
    for name, array in again.params.items():
        np.testing.assert_array_equal(array, end.params[name], err_msg=name)


def test_a_record_that_lacks_epochs_is_refused_where_they_decide() -> None:
    graph, dataset, recipe = Small().graph(), load("digits"), Recipe(epochs=3, validation=100, keep_best=True)
    half = train(TORCH, qat.Checkpoint(graph, graph.initial_params()), dataset, recipe, stop_after=2)
    for epochs in ((), half.progress.epochs[1:]):
        lacking = replace(half, progress=replace(half.progress, epochs=epochs))
        with pytest.raises(
            qat.QatError, match=f"record of epochs is damaged: it has {len(epochs)} epochs for 40 steps of"
        ):
            train(TORCH, lacking, dataset, recipe)


def test_a_record_of_other_steps_is_refused() -> None:
    graph, dataset, recipe = Small().graph(), load("digits"), Recipe(epochs=3)
    half = train(TORCH, qat.Checkpoint(graph, graph.initial_params()), dataset, recipe, stop_after=2)
    first, second = half.progress.epochs
    for epochs in ((first,), (first, replace(second, step=second.step + 1))):
        with pytest.raises(qat.QatError, match="record of epochs is damaged"):
            train(TORCH, replace(half, progress=replace(half.progress, epochs=epochs)), dataset, recipe)


def test_a_finished_training_is_left_as_it_is() -> None:
    graph = Small().graph()
    dataset, recipe = load("digits"), Recipe(epochs=1)
    end = train(TORCH, qat.Checkpoint(graph, graph.initial_params()), dataset, recipe)
    again = train(TORCH, end, dataset, recipe)
    np.testing.assert_array_equal(again.params["fc.weight"], end.params["fc.weight"])
    assert again.step == end.step


def test_another_training_is_not_continued() -> None:
    graph = Small().graph()
    dataset = load("digits")
    end = train(TORCH, qat.Checkpoint(graph, graph.initial_params()), dataset, Recipe(epochs=1))
    with pytest.raises(qat.QatError, match=r"--resume: the checkpoint was trained with lr 0\.02, now it is 0\.1"):
        train(TORCH, end, dataset, Recipe(epochs=1, lr=0.1))


def test_the_command_resumes_and_refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.ckpt"
    arguments = ["train", "--data_path", "digits", "--epochs", "1", "--save_path", str(path), "--resume"]
    assert main([*arguments, "--log_path", str(tmp_path / "log.csv"), "--log_every", "10"]) == 0
    with (tmp_path / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["10", "20", "22"]
    before = path.read_bytes()
    assert main(arguments) == 0
    assert path.read_bytes() == before
    capsys.readouterr()
    assert main([*arguments[:-1], "--batch_size", "32", "--resume"]) == 2
    assert "--resume: the checkpoint was trained with batch_size 64" in capsys.readouterr().err
    assert main([*arguments, "--network", "resnet8"]) == 2


@pytest.mark.parametrize("kills", [1, pytest.param(3, marks=pytest.mark.sweep)])
def test_killed_by_sigkill_and_resumed_it_ends_with_the_same_bits(kills: int) -> None:
    """A few kills; benchmarks/kill_and_resume.py alone does fifty."""
    command = [sys.executable, KILL_AND_RESUME, "--kills", str(kills), "--epochs", "20", "--longest", "0.4"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "equal, bit for bit" in result.stdout
    steps = [int(step) for step in re.findall(r"\d+", result.stdout.partition("at steps ")[2].partition(";")[0])]
    assert any(0 < step < steps[-1] for step in steps[:-1]), "no kill fell into the training"
