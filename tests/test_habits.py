"""Clipping, accumulation, averages of weights and warm-up: against their formulas, on every backend, and resumed to the bit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from frameworks import HERE, but_long

import qat
from qat.data import load
from qat.errors import QatError
from qat.pruning.magnitude import count_zeros, prune_weights
from qat.training.loop import evaluate_accuracy, train
from qat.training.optimizer import Optimizer, ema_decay, learning_rate
from qat.training.recipe import Recipe

BACKENDS = {name: qat.backend(name) for name in HERE}
TORCH = qat.backend("torch")
RNG = np.random.default_rng(0)
IMAGES, LABELS = RNG.integers(0, 256, (12, 1, 4, 4), np.uint8), RNG.integers(0, 3, 12)
NEAR = 2e-6  #: float sums in another order


class Linear(qat.Network):
    def __init__(self) -> None:
        self.inputs = qat.Input((1, 4, 4))
        self.flatten = qat.Flatten()
        self.fc = qat.DenseBnAct(16, 3)

    def construct(self, x):
        return self.fc(self.flatten(x))


class Normalised(Linear):
    """With running statistics and two cells whose weights can be pruned."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = qat.Conv2dBnAct(1, 4, 3, has_bn=True, activation="relu")
        self.fc = qat.DenseBnAct(64, 3)

    def construct(self, x):
        return self.fc(self.flatten(self.conv(x)))


def after(
    backend: ModuleType, optimizer: Optimizer, graph: qat.Graph, steps: int = 1, lr: float = 1.0
) -> dict[str, np.ndarray]:
    """The parameters after some steps with all images."""
    step = backend.make_step(backend.lower(graph, graph.initial_params(1)), optimizer)
    for _ in range(steps):
        step(IMAGES, LABELS, lr)
    assert step.model.step == steps
    return backend.read(step.model)


@pytest.mark.parametrize("backend", BACKENDS.values(), ids=BACKENDS)
def test_a_gradient_that_is_too_long_is_scaled_before_weight_decay_is_added(backend: ModuleType) -> None:
    graph = Linear().graph()
    begun = graph.initial_params(1)
    free = after(backend, Optimizer(momentum=0.0), graph)
    gradient = {name: begun[name] - free[name] for name in begun}
    norm = float(np.sqrt(sum((g.astype(np.float64) ** 2).sum() for g in gradient.values())))
    assert norm > 0.1
    for limit, factor in ((norm / 4, 0.25), (norm * 2, 1.0)):
        found = after(backend, Optimizer(momentum=0.0, weight_decay=0.1, clip_norm=limit), graph)
        for name, start in begun.items():
            decay = 0.1 * start if start.ndim > 1 else 0.0
            np.testing.assert_allclose(found[name], start - factor * gradient[name] - decay, rtol=0, atol=NEAR)


@pytest.mark.parametrize("backend", BACKENDS.values(), ids=BACKENDS)
def test_a_batch_in_parts_is_the_step_of_the_batch(backend: ModuleType) -> None:
    """Quantized from the second step on, by quantizers that look at no batch; not clipped, as the sum of the parts would be."""
    quantizer = qat.PACTActivationQuantizer(8, initial_alpha=0.5, quant_delay=1)
    graph = qat.convert_quant_network(Linear(), quant_delay=1, activation_quantizer=quantizer)
    trained = [name for name, param in graph.params.items() if param.trainable]
    whole, parts = (
        after(backend, Optimizer(accumulate=count, clip_norm=2.0), graph, steps=3, lr=0.1) for count in (1, 4)
    )
    begun = graph.initial_params(1)
    for name in trained:
        assert np.abs(whole[name] - begun[name]).max() > 1e-3
        np.testing.assert_allclose(parts[name], whole[name], rtol=0, atol=1e-5, err_msg=name)
    with pytest.raises(QatError, match=r"12 samples cannot be computed in 5 equal parts, .* a multiple of 5"):
        after(backend, Optimizer(accumulate=5), graph)


@pytest.mark.parametrize("backend", BACKENDS.values(), ids=BACKENDS)
def test_averages_are_those_of_the_recursion_and_go_on_after_a_stop(backend: ModuleType) -> None:
    graph = qat.convert_quant_network(Normalised(), quant_delay=1)
    begun = graph.initial_params(1)
    step = backend.make_step(backend.lower(graph, begun), Optimizer(ema=0.25))
    expected = {name: begun[name].astype(np.float64) for name in step.averages()}
    assert set(expected) == {
        *(name for name, param in graph.params.items() if param.trainable),
        *("conv.moving_mean", "conv.moving_variance"),
    }
    for number in (1, 2, 3, 4):
        step(IMAGES, LABELS, 0.1)
        decay = {1: 2 / 11, 2: 0.25, 3: 0.25, 4: 0.25}[number]
        assert ema_decay(0.25, number) == decay
        last = backend.read(step.model)
        expected = {name: decay * old + (1 - decay) * last[name] for name, old in expected.items()}
        if number == 2:  # what a checkpoint holds: averages as parameters, the last ones in the optimizer's state
            other = backend.make_step(backend.lower(graph, last | step.averages(), step=2), Optimizer(ema=0.25))
            other.load_state(step.state())
    averages = step.averages()
    for name, array in expected.items():
        np.testing.assert_allclose(averages[name], array, rtol=0, atol=NEAR, err_msg=name)
        assert name == "fc.bias" or np.abs(averages[name] - last[name]).max() > 10 * NEAR, "too near to be told apart"
    for _ in range(2):
        other(IMAGES, LABELS, 0.1)
    for mine, theirs in (
        (other.averages(), averages),
        (backend.read(other.model), last),
        (other.state(), step.state()),
    ):
        assert mine.keys() == theirs.keys()
        for name, array in theirs.items():
            np.testing.assert_array_equal(mine[name], array, err_msg=name)


class OfDigits(qat.Network):
    def __init__(self) -> None:
        self.inputs = qat.Input((1, 8, 8), mean=0.3, std=0.3)
        self.conv = qat.Conv2dBnAct(1, 8, 3, has_bn=True, activation="relu")
        self.dropout = qat.Dropout(0.2)
        self.flatten = qat.Flatten()
        self.fc = qat.DenseBnAct(512, 10)

    def construct(self, x):
        return self.fc(self.flatten(self.dropout(self.conv(x))))


ALL = Optimizer("adam", clip_norm=0.5, accumulate=2, ema=0.9)


@pytest.mark.parametrize("name", but_long(HERE, lambda name: name != "torch"))
def test_with_all_of_them_a_resumed_training_ends_with_the_same_bits(name: str, tmp_path: Path) -> None:
    backend = qat.backend(name)
    graph = qat.convert_quant_network(OfDigits(), quant_delay=10)
    pruner = qat.pruning.MagnitudePruner(0.5, begin=5, end=30, frequency=5)
    graph, params = prune_weights(graph, graph.initial_params(), pruner)
    recipe = Recipe(epochs=2, lr=0.003, optimizer=ALL, warmup=8, validation=200, keep_best=True)
    dataset, saved = load("digits"), []
    end = train(backend, qat.Checkpoint(graph, params), dataset, recipe, save=saved.append, save_every=7)
    assert end.history[0]["optimizer"] == {
        "name": "adam",
        "momentum": 0.9,
        "weight_decay": 0.0,
        "clip_norm": 0.5,
        "accumulate": 2,
        "ema": 0.9,
    }
    assert end.history[0]["warmup"] == 8
    for checkpoint in (saved[0], next(each for each in saved if each.epoch == 1)):
        checkpoint.save(tmp_path / "stopped.ckpt")
        again = train(backend, qat.Checkpoint.load(tmp_path / "stopped.ckpt"), dataset, recipe)
        assert (again.progress, again.history) == (end.progress, end.history)
        for full, array in end.params.items():
            np.testing.assert_array_equal(again.params[full], array, err_msg=full)
    zeros, weights = count_zeros(graph, end.params)
    assert zeros == round(0.5 * weights), "masks are no averages"
    for cell in ("conv", "fc"):
        assert set(np.unique(end.params[f"{cell}.weight_mask"])) == {0.0, 1.0}
    assert end.progress.epochs[-1].validation_metric == evaluate_accuracy(backend, end, dataset.held_back(200).test), (
        "the averages were evaluated"
    )
    assert evaluate_accuracy(backend, end, dataset.test) > 0.6
    other = replace(recipe, optimizer=replace(ALL, ema=0.99))
    with pytest.raises(QatError, match="--resume: the checkpoint was trained with optimizer"):
        train(backend, saved[0], dataset, other)


def test_what_is_saved_is_the_average() -> None:
    graph, dataset, last = OfDigits().graph(), load("digits"), {}
    start = qat.Checkpoint(graph, graph.initial_params())
    recipe = Recipe(epochs=1, lr=0.01, optimizer=Optimizer(ema=0.95))

    def watch(done: int, step: object, labels: object) -> None:
        last[done] = {name: array.copy() for name, array in TORCH.read(step.model).items()}

    end = train(TORCH, start, dataset, recipe, watch=watch)
    expected = start.params["fc.weight"].astype(np.float64)
    for done in range(1, end.step + 1):
        decay = min(0.95, (1 + done) / (10 + done))
        expected = decay * expected + (1 - decay) * last[done]["fc.weight"]
    np.testing.assert_allclose(end.params["fc.weight"], expected, rtol=0, atol=NEAR)
    assert np.abs(end.params["fc.weight"] - last[end.step]["fc.weight"]).max() > 100 * NEAR


def test_checkpoints_from_before_the_new_settings_are_continued() -> None:
    graph, dataset, recipe = OfDigits().graph(), load("digits"), Recipe(epochs=2)
    half = train(TORCH, qat.Checkpoint(graph, graph.initial_params()), dataset, recipe, stop_after=1)
    entry = {name: value for name, value in half.history[0].items() if name != "warmup"}
    entry["optimizer"] = {"name": "momentum", "momentum": 0.9, "weight_decay": 0.0}
    assert train(TORCH, replace(half, history=(entry,)), dataset, recipe).epoch == 2


def test_the_rate_rises_to_that_of_the_schedule() -> None:
    rates = [learning_rate("constant", 0.4, step, 100, warmup=4) for step in range(6)]
    assert rates == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.4, 0.4])
    whole, warm = ([learning_rate("cosine", 0.4, step, 100, warmup) for step in (0, 1, 4, 50)] for warmup in (0, 4))
    assert warm == pytest.approx([whole[0] / 4, whole[1] / 2, *whole[2:]])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"clip_norm": -1.0}, "clip_norm is -1.0; use the longest gradient"),
        ({"clip_norm": float("nan")}, "clip_norm is nan"),
        ({"accumulate": 0}, "accumulate is 0; use a number of parts"),
        ({"ema": 1.0}, "ema is 1.0; use a number from 0 to below 1"),
        ({"accumulate": 2.0}, "accumulate is 2.0; use a whole number"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(QatError, match=message):
        Optimizer(**settings)


def test_a_warm_up_that_never_ends_is_refused() -> None:
    graph = OfDigits().graph()
    start = qat.Checkpoint(graph, graph.initial_params())
    with pytest.raises(QatError, match="warmup is -1"):
        Recipe(warmup=-1)
    with pytest.raises(QatError, match="the rate rises for 22 steps, but 1 epoch has 22 steps"):
        train(TORCH, start, load("digits"), Recipe(epochs=1, warmup=22))
