"""The optimizers of every backend against a transcription of their algorithm."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest
from frameworks import HERE

import qat
from qat.errors import QatError
from qat.training.optimizer import Optimizer

BACKENDS = {name: qat.backend(name) for name in HERE}
CLOSE = 2e-4  #: of the way gone: frameworks put Adam's epsilon in different places


class Linear(qat.Network):
    def __init__(self) -> None:
        self.inputs = qat.Input((1, 2, 2))
        self.flatten = qat.Flatten()
        self.fc = qat.DenseBnAct(4, 3)

    def construct(self, x):
        return self.fc(self.flatten(x))


def batches() -> list[tuple[np.ndarray, np.ndarray]]:
    """Bright images first, then dark ones, so that the second moments fall."""
    generator = np.random.default_rng(0)
    limits = [256] * 20 + [9] * 150
    return [(generator.integers(0, limit, (6, 1, 2, 2), np.uint8), generator.integers(0, 3, 6)) for limit in limits]


def transcribed(weight: np.ndarray, bias: np.ndarray, amsgrad: bool, lr: float) -> tuple[np.ndarray, np.ndarray]:
    """Kingma and Ba, arXiv 1412.6980, algorithm 1, with the largest second moment so far if ``amsgrad``."""
    theta = np.concatenate([weight, bias[:, None]], axis=1).astype(np.float64)
    m, v, largest = (np.zeros_like(theta) for _ in range(3))
    for t, (images, labels) in enumerate(batches(), 1):
        x = np.concatenate([images.reshape(6, 4) / 255.0, np.ones((6, 1))], axis=1)
        logits = x @ theta.T
        p = np.exp(logits - logits.max(1, keepdims=True))
        p /= p.sum(1, keepdims=True)
        gradient = (p - np.eye(3)[labels]).T @ x / 6
        m = 0.9 * m + 0.1 * gradient
        v = 0.999 * v + 0.001 * gradient**2
        largest = np.maximum(largest, v) if amsgrad else v
        theta -= lr * (m / (1 - 0.9**t)) / (np.sqrt(largest / (1 - 0.999**t)) + 1e-8)
    return theta[:, :4], theta[:, 4]


@pytest.mark.parametrize("name", ["adam", "amsgrad"])
@pytest.mark.parametrize("backend", BACKENDS.values(), ids=BACKENDS)
def test_adam_and_amsgrad_are_those_of_their_papers(backend: ModuleType, name: str) -> None:
    graph = Linear().graph()
    params = graph.initial_params(1)
    step = backend.make_step(backend.lower(graph, params), Optimizer(name))
    for images, labels in batches():
        step(images, labels, 0.05)
    found = backend.read(step.model)
    ends = {
        kind: transcribed(params["fc.weight"], params["fc.bias"], kind == "amsgrad", 0.05)
        for kind in ("adam", "amsgrad")
    }
    for index, parameter in enumerate(("fc.weight", "fc.bias")):
        gone = np.abs(ends[name][index] - params[parameter]).max()
        np.testing.assert_allclose(found[parameter], ends[name][index], rtol=0, atol=CLOSE * gone)
    weights = [ends[kind][0] for kind in ("adam", "amsgrad")]
    assert np.abs(weights[0] - weights[1]).max() > 10 * CLOSE * gone, "too near to be told apart"


@pytest.mark.parametrize("name", ["momentum", "adam", "amsgrad"])
@pytest.mark.parametrize("backend", BACKENDS.values(), ids=BACKENDS)
def test_single_numbers_are_trained_too_and_resumed(backend: ModuleType, name: str) -> None:
    """A learned scale is a parameter without axes."""
    quantizers = {"weight_quantizer": qat.LSQWeightQuantizer(4), "activation_quantizer": qat.LSQActivationQuantizer(4)}
    graph = qat.convert_quant_network(Linear(), **quantizers)

    def steps(step: Any, chosen: slice) -> None:
        for images, labels in batches()[chosen]:
            step(images, labels, 0.01)

    whole = backend.make_step(backend.lower(graph), Optimizer(name))
    steps(whole, slice(0, 6))
    half = backend.make_step(backend.lower(graph), Optimizer(name))
    steps(half, slice(0, 3))
    other = backend.make_step(backend.lower(graph, backend.read(half.model), step=3), Optimizer(name))
    other.load_state(half.state())
    steps(other, slice(3, 6))
    found, expected = backend.read(other.model), backend.read(whole.model)
    begun = graph.initial_params()
    scalars = [full for full, param in graph.params.items() if param.trainable and not param.shape]
    assert scalars
    for full, array in expected.items():
        np.testing.assert_array_equal(found[full], array, err_msg=full)
    assert all(expected[full] != begun[full] for full in scalars)


def test_an_unknown_optimizer_gives_the_list() -> None:
    with pytest.raises(QatError, match="optimizer 'rmsprop' is unknown: choose one of momentum, adam, amsgrad"):
        Optimizer("rmsprop")


@pytest.mark.parametrize("name", ["momentum", "amsgrad"])
@pytest.mark.parametrize("backend", BACKENDS.values(), ids=BACKENDS)
def test_a_state_that_does_not_fit_is_refused_in_one_line(backend: ModuleType, name: str) -> None:
    graph = Linear().graph()
    step, other = (backend.make_step(backend.lower(graph, graph.initial_params(1)), Optimizer(name)) for _ in range(2))
    step(*batches()[0], 0.01)
    state = step.state()
    other.load_state(state)
    slot = next(key for key, array in state.items() if array.shape == (3, 4))
    damaged = {
        "lacks": {key: array for key, array in state.items() if key != slot},
        "has 'nowhere.m'": state | {"nowhere.m": state[slot]},
        r"float32 \(4, 3\), not float32 \(3, 4\)": state | {slot: state[slot].T},
        "of float64": state | {slot: state[slot].astype(np.float64)},
        "not finite": state | {slot: state[slot] * np.float32(np.nan)},
    }
    if sum(key.startswith("fc.weight.") for key in state) == 1:  # no gradient, no state
        del damaged["lacks"]
    for message, wrong in damaged.items():
        with pytest.raises(QatError, match=f"the optimizer's state .*{message}"):
            other.load_state(wrong)
