"""Searches: resumable, and with the document's score."""

from __future__ import annotations

import math
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

import qat
from qat.cli import main
from qat.errors import QatError
from qat.networks import CompactResidual, ResNet8, SvhnCnn
from qat.scripts.run_autoq import chosen_widths, quantized_layers, settings_of
from qat.scripts.search import pareto_front
from qat.study.layers import costs_of
from qat.study.search import Search, adjusted_accuracy

pytest.importorskip("optuna")
SMALL = ["--data_path", "digits", "--train_images", "300", "--batch_size", "60"]


def search(folder: Path, **changes: Any) -> Search:
    arguments = {"sampler": "bayesian", "epochs": 9, "seed": 0, "settings": {"lr": 0.1}} | changes
    return Search(folder, ["maximize"], **arguments)


def quadratic(trial: Any) -> float:
    return -((trial.suggest_float("x", -1.0, 1.0) - 0.3) ** 2)


def test_a_search_called_again_goes_on_where_it_was(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with search(tmp_path) as first:
        assert len(first.run(quadratic, 5, lambda trial: f"{trial.value:.3f}")) == 5
    with search(tmp_path) as second:
        trials = second.run(quadratic, 8, lambda trial: f"{trial.value:.3f}")
    assert len(trials) == 8
    assert len({trial.params["x"] for trial in trials}) == 8, "a proposal was repeated"
    assert "[  8/  8] trial 7: " in capsys.readouterr().out
    with pytest.raises(QatError, match=r"the search was begun with lr 0\.1, now it is 0\.2; give the same arguments"):
        search(tmp_path, settings={"lr": 0.2})


def test_a_trial_that_was_killed_is_tried_again_first_and_not_counted(tmp_path: Path) -> None:
    with search(tmp_path) as first:
        first.run(quadratic, 1, str)
        killed = first.study.ask()
        value = killed.suggest_float("x", -1.0, 1.0)
    with search(tmp_path) as second:
        trials = second.run(quadratic, 3, str)
    assert [trial.params["x"] for trial in trials].count(value) == 1
    assert trials[1].params["x"] == value
    assert len(trials) == 3


def test_a_trial_that_cannot_be_is_given_up_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def objective(trial: Any) -> float:
        if trial.number == 1:
            raise QatError("a block has nothing left; use fewer")
        return quadratic(trial)

    with search(tmp_path) as one:
        assert len(one.run(objective, 3, str)) == 2
    assert "trial 1: given up: a block has nothing left\n" in capsys.readouterr().out


def test_what_a_trial_warns_of_and_raises_is_its_own(tmp_path: Path) -> None:
    def objective(trial: Any) -> float:
        if trial.number == 1:
            warnings.warn("of a training", UserWarning, stacklevel=1)
            raise ZeroDivisionError("of a training")
        return quadratic(trial)

    with search(tmp_path) as one:
        with (
            pytest.raises(ZeroDivisionError, match=r"^of a training$"),
            pytest.warns(UserWarning, match="of a training"),
        ):
            one.run(objective, 3, str)
        assert [trial.state.name for trial in one.study.trials] == ["COMPLETE", "FAIL"]
        assert len(one.run(objective, 3, str)) == 2


def test_two_processes_do_not_search_in_one_folder(tmp_path: Path) -> None:
    with search(tmp_path), pytest.raises(QatError, match="another process runs this search"):
        search(tmp_path)


def test_without_optuna_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(QatError, match=r"need Optuna.*pip install .*search"):
        search(tmp_path)


@given(st.floats(0.0, 1.0), st.floats(1.0, 1e9), st.floats(1.0, 1e9))
def test_the_score_is_autoqkeras_s(accuracy: float, cost: float, reference: float) -> None:
    """A transcription of its ForgivingFactor.delta, where delta_p = delta_n = 8 %, rate = 2 and stress = 1."""
    delta = 8.0 / 100.0 * (math.log(reference * 1.0 / cost) / math.log(2.0))
    assert adjusted_accuracy(accuracy, cost, reference) == pytest.approx(accuracy * (1.0 + delta), abs=1e-9)


def test_half_the_cost_is_worth_the_delta() -> None:
    assert adjusted_accuracy(0.9, 50.0, 100.0, delta=0.05) == pytest.approx(0.9 * 1.05)
    assert adjusted_accuracy(0.9, 100.0, 100.0, stress=0.25, rate=4.0) == pytest.approx(0.9 * 0.92)


class Trial:
    def __init__(self, accuracy: float, cost: float) -> None:
        self.values = [accuracy, cost]


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=30))
def test_the_pareto_front_is_what_nothing_beats(points: list[tuple[int, int]]) -> None:
    front = {tuple(trial.values) for trial in pareto_front([Trial(*point) for point in points])}
    beaten = {(a, c) for a, c in points if any((x >= a and y < c) or (x > a and y <= c) for x, y in points)}
    assert front == set(points) - beaten


def test_costs_are_those_of_the_widths() -> None:
    graph = SvhnCnn().graph()
    costs = costs_of(graph)
    assert sum(cost.macs for cost in costs) == 840_832
    assert {cost.weight_bits for cost in costs} == {cost.input_bits for cost in costs} == {32}
    quantized = qat.convert_quant_network(graph, **settings_of({cost.name: (4, 6) for cost in costs}))
    for cost, before in zip(costs_of(quantized), costs, strict=True):
        assert cost.size == 4 * before.weights
        assert cost.bops == before.macs * 4 * cost.input_bits
        pj = before.macs * (4 * cost.input_bits * 0.2 / 64 + 0.1) + cost.size * 10 / 64
        assert cost.energy == pytest.approx(pj / 1000)


class Meeting(qat.Network):
    """Its input meets one layer's output, two others meet by way of poolings, and one is alone."""

    inputs = qat.Input((2, 8, 8))

    def __init__(self) -> None:
        self.first = qat.Conv2dBnAct(2, 4, 3)
        self.second = qat.Conv2dBnAct(6, 8, 3, activation="relu")
        self.third = qat.Conv2dBnAct(6, 8, 3, activation="tanh")
        self.both, self.all, self.pool, self.flatten = qat.Add(), qat.Concat(), qat.MaxPool2d(2), qat.Flatten()
        self.alone, self.logits = qat.DenseBnAct(128, 16, activation="relu"), qat.DenseBnAct(16, 10)

    def construct(self, x):
        x = self.all(x, self.first(x))
        x = self.both(self.pool(self.second(x)), self.pool(self.third(x)))
        return self.logits(self.alone(self.flatten(x)))


@pytest.mark.parametrize("network", [ResNet8, CompactResidual, Meeting, SvhnCnn])
def test_every_choice_of_widths_converts(network: type[qat.Network]) -> None:
    """Outputs that meet in an addition or a concatenation share one grid, also by way of other additions."""
    graph, generator = network().graph(), np.random.default_rng(0)
    chosen: dict[str, int] = {}

    def choose(what: str, layer: str) -> int:
        chosen[f"{what} {layer}"] = bits = int(
            generator.choice([1, 2, 3, 4, 6, 8] if what == "weights" else [3, 4, 6, 8])
        )
        return bits

    for _ in range(30):
        quantized = qat.convert_quant_network(graph, **settings_of(chosen_widths(graph, choose)))
        cells = {node.name: node.cell for node in quantized.nodes}
        for key, bits in chosen.items():
            what, layer = key.split()
            quantizer = cells[layer].weight_quantizer if what == "weights" else cells[f"{layer}.fake_quant"].quantizer
            assert quantizer.num_bits == bits
    layers = quantized_layers(graph)
    free = sum(f"activations {layer}" in chosen for layer in layers)
    assert free == {"ResNet8": 6, "CompactResidual": 11, "Meeting": 2, "SvhnCnn": len(layers) - 1}[network.__name__]
    assert f"activations {layers[-1]}" not in chosen


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small float network."""
    folder = tmp_path_factory.mktemp("float")
    study = ["--folds", "0", "--filters", "4,4", "--dense", "16", "--epochs", "1", "--models", str(folder)]
    assert main(["train-svhn", "--data_path", "digits", *study]) == 0
    return folder / "full_0.ckpt"


def test_the_commands_run_to_their_end_and_write_what_they_found(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    few = [*SMALL, "--epochs", "1", "--trials", "2"]
    few += ["--arithmetic", "fixed"]
    assert main(["run-autoq", "--ckpt_path", str(trained), *few]) == 0
    widths = yaml.safe_load(Path("autoq.yaml").read_text())
    assert widths["arithmetic"] == "fixed"
    assert qat.convert_quant_network(qat.Checkpoint.load(trained).graph, **widths).is_quantized
    pytest.importorskip("matplotlib")
    assert main(["search", "--ckpt_path", str(trained), *few, "--limit", "5000"]) == 0
    assert "Pareto front" in capsys.readouterr().out
    rows = Path("search/pareto.csv").read_text().splitlines()
    assert rows[0] == "trial,bytes,accuracy"
    for path in Path("search").glob("pareto_*.ckpt"):
        checkpoint = qat.Checkpoint.load(path)
        assert checkpoint.graph.arithmetic == "fixed"
        assert sum(cost.size for cost in costs_of(checkpoint.graph)) / 8 <= 5000
        images = np.zeros((1, *checkpoint.graph.shapes[checkpoint.graph.inputs[0].name]), np.uint8)
        assert qat.evaluate(qat.to_integer(checkpoint.graph, checkpoint.params), images).shape == (1, 10)
    assert main(["search", "--ckpt_path", str(trained), *few, "--limit", "1", "--out", "tight"]) == 2
    assert "--limit 1: no trial was within it" in capsys.readouterr().err
    assert main(["search", "--ckpt_path", str(trained), *few, "--limit", "-5", "--out", "negative"]) == 2
    assert "--limit is -5; use a number of bytes of weights above 0" in capsys.readouterr().err
    assert not Path("negative").exists()


def test_no_trial_on_a_residual_network_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    graph = CompactResidual().graph()
    qat.Checkpoint(graph, graph.initial_params(0)).save("residual.ckpt")
    few = [*SMALL, "--epochs", "1", "--trials", "3", "--ckpt_path", "residual.ckpt"]
    assert main(["run-autoq", *few, "--reference_bits", "4"]) == 0
    widths = yaml.safe_load(Path("autoq.yaml").read_text())
    assert qat.convert_quant_network(graph, **widths).is_quantized
    pytest.importorskip("matplotlib")
    assert main(["search", *few, "--limit", "100000"]) == 0
    assert "given up" not in capsys.readouterr().out


def test_architectures_are_searched(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["search-architecture", *SMALL, "--epochs", "1", "--out", str(tmp_path), "--tuner", "bayesian"]
    assert main([*command, "--trials", "1"]) == 0
    assert main([*command, "--trials", "2"]) == 0
    out = capsys.readouterr().out
    assert "[  1/  1] trial 0" in out
    assert "[  2/  2] trial 1" in out
    assert "Top-1 of 60 held-back training images of digits, 300 of 1,437 training images" in out
