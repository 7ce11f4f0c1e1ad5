"""Early stopping, lowering the rate on a plateau, and the best epoch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from frameworks import HERE, but_long
from hypothesis import given
from hypothesis import strategies as st

import qat
from qat.cli import main
from qat.data import load
from qat.errors import QatError
from qat.networks import LeNet5
from qat.pruning import MagnitudePruner, count_zeros, prune_weights
from qat.tasks import Classification, evaluated_loss
from qat.training.loop import train
from qat.training.monitor import Epoch, Progress, best_epoch, plateau_factor, should_stop
from qat.training.optimizer import Optimizer
from qat.training.recipe import Recipe

TORCH = qat.backend("torch")
LOSSES = st.lists(st.integers(0, 40).map(lambda n: n / 16), max_size=40)


def epochs(losses: list[float]) -> tuple[Epoch, ...]:
    return tuple(Epoch(10 * (i + 1), 1.0, 0.1, loss, 0.5) for i, loss in enumerate(losses))


@given(LOSSES, st.integers(0, 300))
def test_the_best_epoch_has_the_lowest_loss_of_those_that_count(losses: list[float], from_step: int) -> None:
    found = best_epoch(epochs(losses), from_step)
    counting = [loss for i, loss in enumerate(losses) if 10 * (i + 1) >= from_step]
    if not counting:
        assert found is None
        return
    assert found is not None
    assert losses[found] == min(counting)
    assert all(loss > losses[found] for i, loss in enumerate(losses[:found]) if 10 * (i + 1) >= from_step)


@given(LOSSES)
def test_the_rate_falls_as_in_keras(losses: list[float]) -> None:
    """A transcription of keras.callbacks.ReduceLROnPlateau(factor=0.1, patience=5, min_delta=1e-4)."""
    rate, best, wait = 1.0, np.inf, 0
    for loss in losses:
        if loss < best - 1e-4:
            best, wait = loss, 0
        else:
            wait += 1
            if wait >= 5:
                rate, wait = rate * 0.1, 0
    assert plateau_factor(epochs(losses)) == rate


def test_no_epoch_before_the_end_of_pruning_lowers_the_rate() -> None:
    """Their losses rise with every weight that is taken away."""
    losses = [1.0, *[2.0] * 12, 1.5]
    assert plateau_factor(epochs(losses)) == 0.1 * 0.1
    assert plateau_factor(epochs(losses), 10 * 12) == 1.0
    assert plateau_factor(epochs([*losses, *[1.6] * 5]), 10 * 12) == 0.1


@given(LOSSES, st.integers(1, 10))
def test_training_stops_as_in_keras(losses: list[float], patience: int) -> None:
    """keras.callbacks.EarlyStopping(patience, min_delta=0): at the end of the first epoch at which wait >= patience."""
    best, wait, end = np.inf, 0, None
    for index, loss in enumerate(losses):
        wait += 1
        if loss < best:
            best, wait = loss, 0
        elif wait >= patience:
            end = index
            break
    stops = [i for i in range(len(losses)) if should_stop(epochs(losses[: i + 1]), patience)]
    assert (stops[0] if stops else None) == end


def validation_loss(graph: qat.Graph, outputs: np.ndarray, split: qat.Split) -> float:
    return evaluated_loss(Classification(), graph, outputs, split)


def test_the_loss_is_torchs() -> None:
    import torch

    generator = np.random.default_rng(0)
    logits, labels = generator.normal(0, 30, (50, 10)).astype(np.float32), generator.integers(0, 10, 50)
    expected = torch.nn.functional.cross_entropy(torch.from_numpy(logits).double(), torch.from_numpy(labels))
    split = qat.Split(np.zeros((50, 1), np.uint8), labels)
    assert validation_loss(LeNet5().graph(), logits, split) == pytest.approx(float(expected), rel=1e-12)


RECIPE = Recipe(
    epochs=30,
    lr=0.05,
    lr_schedule="plateau",
    optimizer=Optimizer("amsgrad"),
    validation=200,
    early_stopping=4,
    keep_best=True,
)


@pytest.fixture(scope="module")
def stopped() -> tuple[qat.Checkpoint, list[qat.Checkpoint]]:
    """A training that its plan stops early, and what it saved."""
    graph, saved = qat.convert_quant_network(LeNet5()), []
    dataset = load("digits").resized((1, 32, 32))
    end = train(TORCH, qat.Checkpoint(graph, graph.initial_params()), dataset, RECIPE, save=saved.append)
    return end, saved


def test_what_is_kept_is_truly_the_best_epoch(stopped: tuple[qat.Checkpoint, list[qat.Checkpoint]]) -> None:
    end, saved = stopped
    losses = [epoch.validation_loss for epoch in end.progress.epochs]
    assert 4 < len(losses) < RECIPE.epochs
    assert len(losses) - 1 - int(np.argmin(losses)) == 4
    assert end.epoch == int(np.argmin(losses)) + 1
    held = load("digits").resized((1, 32, 32)).held_back(200).test
    again = TORCH.predict(TORCH.lower(end.graph, end.params), held.images)
    assert validation_loss(end.graph, again, held) == min(losses)
    for name, array in saved[end.epoch - 1].params.items():
        np.testing.assert_array_equal(end.params[name], array)
    assert not end.best
    assert end.progress.finished


def test_the_rate_of_each_epoch_follows_from_those_before(stopped: tuple[qat.Checkpoint, list[qat.Checkpoint]]) -> None:
    ended = stopped[0].progress.epochs
    for index, epoch in enumerate(ended):
        assert epoch.lr == 0.05 * plateau_factor(ended[:index])


@pytest.mark.parametrize("at", [0, 5, -2, -1])
def test_a_resumed_training_decides_alike(
    stopped: tuple[qat.Checkpoint, list[qat.Checkpoint]], at: int, tmp_path: Path
) -> None:
    end, saved = stopped
    saved[at].save(tmp_path / "a.ckpt")
    dataset = load("digits").resized((1, 32, 32))
    again = train(TORCH, qat.Checkpoint.load(tmp_path / "a.ckpt"), dataset, RECIPE)
    assert (again.step, again.epoch, again.progress) == (end.step, end.epoch, end.progress)
    for name, array in end.params.items():
        np.testing.assert_array_equal(again.params[name], array, err_msg=name)


def test_in_the_middle_of_an_epoch_its_loss_so_far_is_kept() -> None:
    graph, saved = LeNet5().graph(), []
    dataset = load("digits").resized((1, 32, 32))
    recipe = Recipe(epochs=1, validation=100)
    end = train(TORCH, qat.Checkpoint(graph, graph.initial_params()), dataset, recipe, save=saved.append, save_every=9)
    assert saved[0].step == 9
    assert train(TORCH, saved[0], dataset, recipe).progress == end.progress


@pytest.mark.parametrize("name", but_long(HERE, lambda name: name == "mindspore"))
def test_epochs_before_quant_delay_are_validated_as_deployed(name: str) -> None:
    """A learned scale, which begins with the first batch that is quantized, watches until then."""
    backend = qat.backend(name)
    dataset = load("digits").resized((1, 32, 32))
    quantizers = {
        "weight_quantizer": qat.LSQWeightQuantizer(4, quant_delay=30),
        "activation_quantizer": qat.LSQActivationQuantizer(4, offset=True, quant_delay=30),
    }
    graph, saved = qat.convert_quant_network(LeNet5(), **quantizers), []
    start = qat.Checkpoint(graph, graph.initial_params())
    recipe = Recipe(epochs=3, batch_size=64, validation=200, keep_best=True)
    end = train(backend, start, dataset, recipe, save=saved.append)
    assert saved[0].step < 30 < saved[1].step
    held = dataset.held_back(200).test
    for checkpoint, epoch in zip(saved, end.progress.epochs, strict=False):
        codes = qat.evaluate(qat.to_integer(checkpoint.graph, checkpoint.params), held.images)
        (output,) = qat.to_integer(checkpoint.graph, checkpoint.params).outputs
        assert validation_loss(graph, output.grid.dequantize(codes), held) == epoch.validation_loss


def test_pruned_only_epochs_at_the_final_sparsity_count() -> None:
    """So much is pruned that the epochs before are better."""
    graph = LeNet5().graph()
    dataset = load("digits").resized((1, 32, 32))
    start = qat.Checkpoint(graph, graph.initial_params())
    plan = {"epochs": 4, "lr": 0.03, "lr_schedule": "constant", "validation": 200, "keep_best": True}
    steps = train(TORCH, start, dataset, Recipe(**plan)).progress.epochs[0].step

    def pruned(end: int) -> qat.Checkpoint:
        schedule = MagnitudePruner(0.999, begin=0, end=end, frequency=5)
        return train(TORCH, qat.Checkpoint(*prune_weights(graph, start.params, schedule)), dataset, Recipe(**plan))

    later = pruned(2 * steps + 3)
    losses = [epoch.validation_loss for epoch in later.progress.epochs]
    assert min(losses[:2]) < min(losses[2:])
    assert later.epoch == 3 + int(np.argmin(losses[2:]))
    zeros, weights = count_zeros(later.graph, later.params)
    assert zeros == pytest.approx(0.999 * weights, abs=5)
    assert pruned(steps - 1).epoch == 1 + int(np.argmin([e.validation_loss for e in pruned(steps - 1).progress.epochs]))
    with pytest.raises(QatError, match=f"pruned until step {4 * steps + 1}, but 4 epochs have {4 * steps} steps"):
        pruned(4 * steps)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--keep_best"], "keep_best decides by training images that are held back, but validation is 0"),
        (["--early_stopping", "3"], "early_stopping decides by"),
        (["--lr_schedule", "plateau"], "lr_schedule plateau decides by"),
        (["--validation", "-1"], "validation is -1; use 0 or a positive number"),
        (["--validation", "5000"], "5000 images cannot be held back of 1437 training images"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["train", "--data_path", "digits", "--save_path", str(tmp_path / "a.ckpt"), *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_the_command_keeps_the_best_and_says_what_it_saw(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.ckpt"
    command = [
        "train",
        "--data_path",
        "digits",
        "--epochs",
        "2",
        "--validation",
        "200",
        "--keep_best",
        "--save_path",
        str(path),
    ]
    assert main(command) == 0
    assert "Validation: loss: [" in capsys.readouterr().out
    checkpoint = qat.Checkpoint.load(path)
    assert checkpoint.progress.finished
    assert best_epoch(checkpoint.progress.epochs) == checkpoint.epoch - 1
    before = path.read_bytes()
    assert main([*command, "--resume"]) == 0
    assert path.read_bytes() == before


@pytest.mark.parametrize("data", [{}, {"epochs": [{"what": 1}], "loss_sum": 0, "finished": False}, {"epochs": 3}])
def test_a_damaged_record_is_refused(data: dict) -> None:
    with pytest.raises(QatError, match="its record of epochs is damaged"):
        Progress.from_json(data)
