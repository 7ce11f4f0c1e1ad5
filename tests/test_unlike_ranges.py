"""Values of unlike ranges on one grid: said where ranges become known, and nowhere else."""

from __future__ import annotations

import re
import warnings

import numpy as np
import pytest
from calibrations import PLAIN, calibrate
from frameworks import HERE

import qat
from qat.errors import QatWarning
from qat.integer import evaluate
from qat.passes.unlike_ranges import unlike_ranges
from qat.training.loop import train
from qat.training.optimizer import Optimizer
from qat.training.recipe import Recipe

IMAGES = np.random.default_rng(0).integers(0, 256, (8, 3, 6, 6), np.uint8)


class Detector(qat.Network):
    """Boxes beside scores, as one output or as two; ``join`` may be an addition."""

    inputs = qat.Input((3, 6, 6))

    def __init__(self, *join: qat.Cell, activation: str | None = "relu") -> None:
        self.boxes, self.scores = (qat.Conv2dBnAct(3, 2, 3, activation=activation) for _ in range(2))
        self.pool, self.join = qat.MaxPool2d(2), list(join)

    def construct(self, x):
        boxes, scores = self.pool(self.boxes(x)), self.pool(self.scores(x))
        return self.join[0](boxes, scores) if self.join else (boxes, scores)


def observed(network: qat.Network, ratio: float, **settings) -> tuple[qat.Graph, dict[str, np.ndarray]]:
    """A converted network whose boxes' range is ``ratio`` times that of its scores, which is 1."""
    graph = qat.convert_quant_network(network, **settings)
    params = graph.observed_params()
    for name, high in (("boxes", ratio), ("scores", 1.0)):
        params[f"{name}.fake_quant.max"] = np.array(high, np.float32)
    return graph, params


@pytest.mark.parametrize("bits", [2, 4, 8, 16])
def test_it_is_said_where_more_than_half_of_the_bits_are_lost(bits: int) -> None:
    most = 2.0 ** (bits / 2)
    assert unlike_ranges(*observed(Detector(qat.Concat()), most * 0.99, num_bits=(8, bits))) == []
    (text,) = unlike_ranges(*observed(Detector(qat.Concat()), most * 1.01, num_bits=(8, bits)))
    assert text.startswith("join.0: ")


def test_it_names_both_ranges_and_what_remains() -> None:
    (text,) = unlike_ranges(*observed(Detector(qat.Concat()), 51.0))
    assert text == (
        "join.0: puts unlike ranges on one grid, scores.fake_quant from 0 to 1 and boxes.fake_quant from 0 to 51: of the "
        "former's 256 codes about 5 remain, and what is below 0.1 becomes 0; make them outputs of their own, scale them alike "
        "in the float network, or use more activation bits"
    )
    (text,) = unlike_ranges(*observed(Detector(qat.Concat()), 640.0))
    assert "at most one remains" in text


def test_what_it_says_is_so() -> None:
    """What is below half a step has the code of 0."""
    graph, params = observed(Detector(qat.Concat()), 640.0)
    weights = {f"{name}.weight": params[f"{name}.weight"] * f for name, f in (("boxes", 100), ("scores", 0.3))}
    with pytest.warns(QatWarning, match="join"):
        integers = qat.to_integer(graph, params | weights)
    codes = evaluate(integers, IMAGES)
    (text,) = unlike_ranges(graph, params)
    below = float(re.search(r"below ([\d.]+) becomes", text).group(1))
    assert below == pytest.approx(640 / 255 / 2, rel=0.01)
    assert codes[:, :2].any()
    assert not codes[:, 2:].any()


@pytest.mark.parametrize("network", [Detector(qat.Add()), Detector()], ids=["an addition", "outputs of their own"])
def test_nothing_is_said_where_nothing_is_read_apart(network: qat.Network) -> None:
    assert unlike_ranges(*observed(network, 640.0)) == []


def test_nothing_is_said_of_float_networks_of_zeros_of_signs_and_of_ranges_that_nobody_knows_yet() -> None:
    network = Detector(qat.Concat())
    assert unlike_ranges(network.graph(), network.graph().initial_params()) == []
    graph, params = observed(network, 640.0)
    assert unlike_ranges(graph, params | {"scores.fake_quant.max": np.array(0.0, np.float32)}) == []
    assert unlike_ranges(graph, graph.initial_params()) == []
    signs = Detector(qat.Concat(), activation=None)
    graph = qat.convert_quant_network(signs, activation_quantizer=qat.BinaryActivationQuantizer(scale="mean"))
    params = graph.observed_params()
    states = [name for name in params if name.startswith("boxes.fake_quant.")]
    params |= {name: params[name] * 640 for name in states}
    assert states
    assert unlike_ranges(graph, params) == []


def test_learned_scales_are_ranges_too() -> None:
    graph = qat.convert_quant_network(Detector(qat.Concat()), activation_quantizer=qat.LSQActivationQuantizer(8))
    params = graph.observed_params()
    assert unlike_ranges(graph, params) == []
    params["boxes.fake_quant.initial_scale"] = params["boxes.fake_quant.initial_scale"] * 40
    (text,) = unlike_ranges(graph, params)
    assert "scores.fake_quant from 0" in text


def test_nested_joins_are_looked_through() -> None:
    class Nested(qat.Network):
        inputs = qat.Input((3, 6, 6))

        def __init__(self) -> None:
            self.boxes, self.scores, self.third = (qat.Conv2dBnAct(3, 2, 3, activation="relu") for _ in range(3))
            self.flatten, self.flatten2 = qat.Flatten(), qat.Flatten()
            self.inner, self.outer = qat.Concat(), qat.Concat()

        def construct(self, x):
            inner = self.inner(self.boxes(x), self.third(x))
            return self.outer(self.flatten(inner), self.flatten2(self.scores(x)))

    graph, params = observed(Nested(), 640.0)
    params["third.fake_quant.max"] = np.array(600.0, np.float32)
    (text,) = unlike_ranges(graph, params)
    assert re.match(r"outer: .* scores\.fake_quant from 0 to 1 and boxes\.fake_quant", text)


def test_pixels_beside_something_else() -> None:
    """The grid of what enters is brought to the common one by a fake quantizer, which has a range as others."""

    class Beside(qat.Network):
        inputs = qat.Input((3, 6, 6))

        def __init__(self) -> None:
            self.conv, self.join = qat.Conv2dBnAct(3, 2, 1, activation="relu"), qat.Concat()

        def construct(self, x):
            return self.join(x, self.conv(x))

    network = Beside()
    params = network.graph().initial_params()
    params["conv.weight"] = params["conv.weight"] * 0 + 100.0
    with pytest.warns(
        QatWarning, match=r"^join: .* join\.input0_fake_quant from 0 to 1 and conv\.fake_quant from 0 to 300"
    ):
        calibrate(network, params, IMAGES * 0 + 255)


def test_calibration_conversion_and_training_say_it_and_evaluation_does_not() -> None:
    network, words = Detector(qat.Concat()), r"^join\.0: puts unlike ranges on one grid, scores\.fake_quant"
    params = network.graph().initial_params()
    params["boxes.weight"] *= 500
    with pytest.warns(QatWarning, match=words) as found:
        checkpoint = qat.calibrate(network, params, IMAGES, **PLAIN)
    assert found[0].filename == __file__
    with pytest.warns(QatWarning, match=words) as found:
        qat.to_integer(checkpoint.graph, checkpoint.params)
    assert found[0].filename == __file__
    backend = qat.backend(HERE[0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = backend.lower(checkpoint.graph, checkpoint.params)
        backend.predict(model, IMAGES)
        step = backend.make_step(model, Optimizer(), lambda ops, outputs, targets: ops.mean(outputs))
        step(IMAGES, np.zeros(len(IMAGES), np.int32), 0.0)
        backend.predict(model, IMAGES)


def test_training_says_it_at_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    class Classifier(qat.Network):
        inputs = qat.Input((1, 8, 8))

        def __init__(self) -> None:
            self.flatten, self.large, self.small = qat.Flatten(), qat.DenseBnAct(64, 4), qat.DenseBnAct(64, 4)
            self.join, self.last = qat.Concat(), qat.DenseBnAct(8, 10)

        def construct(self, x):
            x = self.flatten(x)
            return self.last(self.join(self.large(x), self.small(x)))

    graph = qat.convert_quant_network(Classifier())
    params = graph.initial_params()
    params["large.weight"] *= 1000
    dataset = qat.data.load("digits")
    with pytest.warns(QatWarning, match=r"^join: puts unlike ranges on one grid, small\.fake_quant") as found:
        train(qat.backend(HERE[0]), qat.Checkpoint(graph, params), dataset, Recipe(epochs=2, lr=1e-6, batch_size=500))
    assert [warning.filename for warning in found] == [__file__]
