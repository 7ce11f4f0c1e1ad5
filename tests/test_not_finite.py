"""Numbers that became infinite or NaN are never saved over good ones, and never read in silence."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from frameworks import HERE

import qat
from qat.cli import main
from qat.data import load
from qat.errors import NotFiniteError
from qat.training.loop import train
from qat.training.recipe import Recipe

RUINOUS = 3e38  #: a rate with which the first step leaves float32
DATA = load("digits")
ONE_STEP = len(DATA.train)  #: a batch of all training images


class Small(qat.Network):
    inputs = qat.Input((1, 8, 8), mean=0.3, std=0.3)

    def __init__(self) -> None:
        self.conv = qat.Conv2dBnAct(1, 4, 3, has_bn=True, activation="relu")
        self.flatten, self.fc = qat.Flatten(), qat.DenseBnAct(256, 10)

    def construct(self, x):
        return self.fc(self.flatten(self.conv(x)))


def start(quantized: bool = False) -> qat.Checkpoint:
    graph = Small().graph()
    graph = qat.convert_quant_network(graph) if quantized else graph
    params = graph.initial_params()
    params["fc.weight"] *= 100  # large gradients
    return qat.Checkpoint(graph, params)


@pytest.mark.parametrize("backend", HERE)
@pytest.mark.parametrize("quantized", [False, True])
def test_a_last_step_that_ruins_the_parameters_is_not_saved(backend: str, quantized: bool, tmp_path: Path) -> None:
    """Its loss is finite: it is that before the step."""
    path = tmp_path / "net.ckpt"
    good = start(quantized)
    good.save(path)
    before = path.read_bytes()
    recipe = Recipe(epochs=1, batch_size=ONE_STEP, lr=RUINOUS, lr_schedule="constant")
    with pytest.raises(
        NotFiniteError, match=r"^training stopped at epoch 1, step 1: '.*' holds .*; use a smaller --lr"
    ):
        train(qat.backend(backend), good, DATA, recipe, save=lambda checkpoint: checkpoint.save(path))
    assert path.read_bytes() == before


@pytest.mark.parametrize("options", [{"save_every": 1}, {}], ids=["every step", "every epoch"])
@pytest.mark.parametrize("keep_best", [False, True])
def test_the_last_good_checkpoint_stays(options: dict[str, int], keep_best: bool, tmp_path: Path) -> None:
    path, saved = tmp_path / "net.ckpt", []

    def save(checkpoint: qat.Checkpoint) -> None:
        checkpoint.save(path)
        saved.append(checkpoint)

    good = Recipe(epochs=1, lr_schedule="constant", validation=100, keep_best=keep_best)
    train(qat.backend("torch"), start(), DATA, good, save=save, stop_after=1)
    before, count = path.read_bytes(), len(saved)
    with pytest.raises(NotFiniteError, match=r"epoch 1, step [12]: "):
        train(qat.backend("torch"), start(), DATA, replace(good, lr=RUINOUS), save=save, **options)
    assert path.read_bytes() == before
    assert len(saved) == count
    assert bool(qat.Checkpoint.load(path).not_finite()) is False


def test_finite_parameters_whose_outputs_are_not_are_not_saved() -> None:
    saved: list[qat.Checkpoint] = []
    recipe = Recipe(epochs=1, batch_size=ONE_STEP, lr=1e36, lr_schedule="constant")
    with pytest.raises(NotFiniteError, match="step 1: the outputs hold"):
        train(qat.backend("torch"), start(), DATA, recipe, save=saved.append)
    assert not saved


def test_what_is_looked_at(tmp_path: Path) -> None:
    """Parameters, state, the best epoch and the optimizer; a range that nothing was observed for is as it should be."""
    checkpoint = start(quantized=True)
    assert checkpoint.not_finite() is None
    for name, value in (
        ("conv.weight", np.nan),
        ("conv.moving_variance", np.inf),
        ("conv.fake_quant.max", np.inf),
        ("fc.fake_quant.min", -np.inf),
        ("fc.fake_quant.min", np.nan),
    ):
        ruined = checkpoint.params | {name: np.full_like(checkpoint.params[name], value)}
        for changed in (replace(checkpoint, params=ruined), replace(checkpoint, best=ruined)):
            assert changed.not_finite() == f"{name!r} holds {value}"
    slot = {"fc.bias.exp_avg_sq": np.array([0.0, np.inf], np.float32), "fc.bias.step": np.array(3)}
    changed = replace(checkpoint, optimizer=slot)
    assert changed.not_finite() == "the optimizer's 'fc.bias.exp_avg_sq' holds inf"
    with pytest.raises(
        NotFiniteError,
        match=r"net\.ckpt: the optimizer's 'fc\.bias\.exp_avg_sq' holds inf, so the checkpoint is not saved: ",
    ):
        changed.save(tmp_path / "net.ckpt")
    assert not list(tmp_path.iterdir())


def test_a_training_that_diverges_ends_with_one_line_and_status_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "net.ckpt"
    for lr in ("1e9", "3e38"):
        arguments = ["train", "--data_path", "digits", "--epochs", "1", "--lr", lr, "--save_path", str(path)]
        assert main(arguments) == 1
        err = capsys.readouterr().err
        assert "error: training stopped at epoch 1, step " in err
        assert "use a smaller --lr than" in err
        assert len(err.strip().splitlines()) == 1
        assert not path.exists()


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("conv1.weight", ["eval", "--data_path", "digits", "--ckpt_path"]),
        ("conv1.weight", ["evaluate", "--test_path", ".", "--model"]),
        ("conv1.weight", ["calibrate", "--data_path", "digits", "--ckpt_path"]),
        ("conv1.weight", ["train-quant", "--data_path", "digits", "--ckpt_path"]),
        ("conv1.fake_quant.max", ["eval-quant", "--data_path", "digits", "--ckpt_path"]),
        ("conv1.fake_quant.max", ["export", "--file_name", "net", "--ckpt_path"]),
    ],
)
def test_a_file_that_holds_them_is_refused_by_name(
    name: str,
    command: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    graph = qat.networks.LeNet5().graph()
    graph = qat.convert_quant_network(graph) if "fake_quant" in name else graph
    params = graph.observed_params()
    params[name] = np.full_like(params[name], np.inf)
    path = tmp_path / "ruined.ckpt"
    with monkeypatch.context() as patch:
        patch.setattr(qat.Checkpoint, "not_finite", lambda self: None)
        qat.Checkpoint(graph, params).save(path)
    monkeypatch.chdir(tmp_path)
    status, err = main([*command, str(path)]), capsys.readouterr().err
    assert f"{name!r} holds inf" in err
    assert status == 2
    assert len(err.strip().splitlines()) == 1
    assert [entry.name for entry in tmp_path.iterdir()] == ["ruined.ckpt"]


@pytest.mark.parametrize("backend", HERE)
@pytest.mark.parametrize(("name", "value"), [("conv.weight", np.nan), ("fc.fake_quant.max", np.inf)])
def test_they_are_never_lowered_or_made_integers(backend: str, name: str, value: float) -> None:
    """A range that has observed nothing is lowered."""
    graph = start(quantized=True).graph
    qat.backend(backend).lower(graph, graph.initial_params())
    params = graph.observed_params()
    params[name] = np.full_like(params[name], value)
    for function in (qat.backend(backend).lower, qat.to_integer):
        with pytest.raises(qat.QatError, match=rf"^params: '{name}' holds {value}, [^\n]*$"):
            function(graph, params)


@pytest.mark.parametrize("backend", HERE)
def test_what_is_written_is_checked_before_anything_is(backend: str) -> None:
    graph, module = start().graph, qat.backend(backend)
    model = module.lower(graph)
    before = module.read(model)
    for name, array, said in (
        ("fc.wieght", np.zeros((10, 256)), "Small has no parameter 'fc.wieght'"),
        ("fc.bias", np.zeros((1,)), r"'fc.bias' has shape \(1,\) but Small needs \(10,\)"),
        ("fc.bias", np.zeros((1, 10)), r"'fc.bias' has shape \(1, 10\) but Small needs \(10,\)"),
        ("fc.bias", "zeros", "'fc.bias' is a str, not numbers"),
    ):
        with pytest.raises(qat.QatError, match=rf"^write: {said}[^\n]*$"):
            module.write(model, {"conv.weight": np.ones((4, 1, 3, 3)), name: array})
    for name, array in module.read(model).items():
        np.testing.assert_array_equal(array, before[name], err_msg=name)
    module.write(model, {"fc.bias": np.ones(10)})
    np.testing.assert_array_equal(module.read(model)["fc.bias"], np.ones(10, np.float32))
