"""What the README of this package says: how long it is, its commands, and that LeNet-5's integers of JAX are those of NumPy."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest

import qat
from qat.cli import main
from qat.data import load
from qat.networks import LeNet5
from qat.training.checkpoint import Checkpoint
from qat.training.loop import Recipe, train
from qat.training.optimizer import Optimizer

HERE = Path(__file__).resolve().parents[1]
JAX = qat.backend("jax")
IMAGES = np.random.default_rng(0).integers(0, 256, (16, 1, 32, 32), np.uint8)
LABELS = np.random.default_rng(1).integers(0, 10, 16)


README = (HERE / "README.md").read_text(encoding="utf-8")


def test_jax_s_readme_states_how_many_lines_it_has() -> None:
    def lines(pattern: str) -> int:
        return sum(path.read_text(encoding="utf-8").count("\n") for path in HERE.glob(pattern))

    stated = re.search(
        r"(\d+) lines of Python.* (\d+) lines of `pyproject.toml`, and (\d+) of `tests/conformance_jax.py`",
        README,
        re.DOTALL,
    )
    assert stated is not None
    assert [lines(x) for x in ("qat_jax/*.py", "pyproject.toml", "tests/conformance_jax.py")] == [
        *map(int, stated.groups())
    ]
    assert int(stated[1]) <= 400


def test_jax_s_commands_run_as_its_readme_has_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    commands = [shlex.split(line) for line in re.findall(r"^    jax-env/bin/qat (.*)$", README, re.MULTILINE)]
    assert [name for name, *_ in commands] == ["train", "train-quant", "verify"]
    for arguments in commands:
        assert main(arguments) == 0, arguments
    assert re.search(r"^3,600 codes compared in JAX .*, 0 differ$", capsys.readouterr().out, re.MULTILINE)


def test_jax_trains_lenet5_whose_codes_are_numpy_s() -> None:
    """On real digits, beyond the step from which it is quantized."""
    graph = qat.convert_quant_network(LeNet5(), quant_delay=10)
    dataset = load("digits").resized(graph.shapes[graph.inputs[0].name])
    recipe = Recipe(epochs=1, lr=0.01)
    trained = train(JAX, Checkpoint(graph, graph.initial_params(0)), dataset, recipe)
    assert trained.step > 10
    images, model = dataset.test.images, JAX.lower(graph, trained.params)
    assert (JAX.predict(model, images).argmax(axis=1) == dataset.test.labels).mean() > 0.4
    codes = JAX.predict_codes(model, images)
    np.testing.assert_array_equal(codes, qat.evaluate(qat.to_integer(graph, trained.params), images))


def test_jax_trains_in_one_process_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    expected = (
        "^jax: there are 2 workers, started by torchrun, but this backend trains in one process, .* start one process"
    )
    with pytest.raises(qat.QatError, match=expected):
        JAX.make_step(JAX.lower(LeNet5()), Optimizer())


def test_jax_has_no_other_devices_than_it_says() -> None:
    with pytest.raises(qat.QatError, match="device_target 'GPU' is not there: jax sees no such device"):
        JAX.lower(LeNet5(), device_target="GPU")


def test_jax_draws_the_same_from_the_same_seed() -> None:
    class Dropping(qat.Network):
        inputs = qat.Input((1, 32, 32))

        def __init__(self) -> None:
            self.flatten, self.drop, self.fc = qat.Flatten(), qat.Dropout(0.5), qat.DenseBnAct(1024, 10)

        def construct(self, x):
            return self.fc(self.drop(self.flatten(x)))

    graph = Dropping().graph()

    def losses(*numbers: int) -> list[float]:
        step = JAX.make_step(JAX.lower(graph, graph.initial_params(0)), Optimizer())
        JAX.seed(*numbers)
        return [step(IMAGES, LABELS, 0.0) for _ in range(2)]

    first = losses(1, 2)
    assert first == losses(1, 2) != losses(1, 3)
    assert first[0] != first[1]


def test_jax_goes_on_after_an_error_in_a_step() -> None:
    def broken(ops, logits, labels):
        raise qat.QatError("no such loss")

    model = JAX.lower(LeNet5())
    with pytest.raises(qat.QatError, match="no such loss"):
        JAX.make_step(model, Optimizer(), broken)(IMAGES, LABELS, 0.1)
    assert model.step == 0
    assert np.isfinite(JAX.make_step(model, Optimizer())(IMAGES, LABELS, 0.1))
