"""The optimizers of every backend against a transcription of their algorithm."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest

import qat
from qat import registry
from qat.errors import QatError
from qat.optimizer import Optimizer

BACKENDS = {name: qat.backend(name) for name, entry in registry.BACKENDS.items() if registry.installed(entry)}
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


def test_an_unknown_optimizer_gives_the_list() -> None:
    with pytest.raises(QatError, match="optimizer 'rmsprop' is unknown: choose one of momentum, adam, amsgrad"):
        Optimizer("rmsprop")
