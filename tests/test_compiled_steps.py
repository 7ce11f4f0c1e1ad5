"""torch.compile of a training step: however many there are, in every phase, of every quantizer and folding."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from frameworks import but_long

import qat
from qat.networks import LeNet5
from qat.quantizers import FAMILY
from qat.training.optimizer import Optimizer

BACKEND = qat.backend("torch")
RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 10, 16)
IMAGES = RNG.integers(0, 256, (16, 3, 8, 8), np.uint8)
NEAR = 1e-4  #: the largest distance of a parameter from the eager step's, relative to its change in a step, both norms
LAST_BIT = 2.0**-23  #: of a float32, relative: a parameter that hardly changes is rounded all the same
#: All of torch.compile but the code that it generates: decomposed, and what the backward pass recomputes chosen.
UNGENERATED = "aot_eager_decomp_partition"
FOLDS = {
    "two convolutions": {"one_conv_fold": False},
    "one convolution": {"one_conv_fold": True},
    "not folded": {"bn_fold": False},
}


class Small(qat.Network):
    """Two layers, the first with batch normalisation or without."""

    inputs = qat.Input((3, 8, 8), mean=0.5, std=0.25)

    def __init__(self, activation: str | None = "relu", has_bn: bool = False) -> None:
        self.conv = qat.Conv2dBnAct(3, 4, 3, stride=2, has_bn=has_bn, activation=activation)
        self.fc = qat.DenseBnAct(64, 10)

    def construct(self, x):
        return self.fc(qat.Flatten()(self.conv(x)))


def assert_same_steps(graph: qat.Graph, steps: int, images: np.ndarray = IMAGES) -> None:
    """Each step of a compiled training begins where the eager one is, and ends where it does."""
    eager, compiled = (BACKEND.lower(graph, graph.initial_params(1)) for _ in range(2))
    step = BACKEND.make_step(eager, Optimizer(weight_decay=1e-3))
    compiled_step = BACKEND.make_step(compiled, Optimizer(weight_decay=1e-3), compile=True)
    for number in range(steps):
        before = BACKEND.read(eager)
        losses = [each(images, LABELS, 0.02) for each in (step, compiled_step)]
        assert losses[1] == pytest.approx(losses[0], rel=1e-5), number
        found, expected = BACKEND.read(compiled), BACKEND.read(eager)
        for name, was in before.items():
            # A range that has seen nothing is infinite: it does not change by a number.
            change = expected[name] - np.where(np.isfinite(was), was, 0.0)
            limit = NEAR * np.linalg.norm(change) + LAST_BIT * np.linalg.norm(expected[name])
            far = np.linalg.norm(found[name] - expected[name])
            assert far <= limit, (number, name, far, limit)
        BACKEND.write(compiled, expected)
        compiled_step.load_state(step.state())


class Dense(qat.Network):
    inputs = qat.Input((3, 8, 8))

    def __init__(self) -> None:
        self.fc = qat.DenseBnAct(192, 10)

    def construct(self, x):
        return self.fc(qat.Flatten()(x))


def test_as_many_steps_are_compiled_as_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one network after another, and for a last batch that is smaller: nothing falls back to eager."""
    compilations: list[list[torch.Tensor]] = []

    def count(module: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Any:
        compilations.append(inputs)
        return module.forward

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=count))
    graph = qat.convert_quant_network(Dense())
    for number in range(1, 10):  # it would be eager from the ninth on
        step = BACKEND.make_step(BACKEND.lower(graph), Optimizer(), compile=True)
        sizes = (16, 4, 16) if number == 1 else (16, 16)
        for size in sizes:
            step(IMAGES[:size], LABELS[:size], 0.01)
        assert len(compilations) == number + 1


@pytest.mark.sweep
@pytest.mark.parametrize("name", FAMILY)
def test_every_phase_of_every_quantizer(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the delay, in the first step that quantizes, and after it."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=UNGENERATED))
    pair = FAMILY[name]
    settings = pair.settings("fc") | {"quant_delay": 1}
    assert_same_steps(qat.convert_quant_network(Small(pair.activation), **settings), 3)


@pytest.mark.parametrize("fold", but_long(FOLDS, lambda fold: fold != "not folded"))
def test_every_folding_and_frozen_statistics(fold: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=UNGENERATED))
    graph = qat.convert_quant_network(Small(has_bn=True), **FOLDS[fold], freeze_bn=1)
    assert_same_steps(graph, 2)


@pytest.mark.sweep
def test_the_first_step_of_learned_scales() -> None:
    """With generated code. Its ranges are those of the batch, so that codes at the bounds and at ties are many."""
    pair = FAMILY["LSQ+"]
    graph = qat.convert_quant_network(LeNet5(activation=pair.activation), **pair.settings("fc3"))
    assert_same_steps(graph, 1, RNG.integers(0, 256, (16, 1, 32, 32), np.uint8))
