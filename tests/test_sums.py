"""Differences, sums with one pixel for all, the larger and the smaller of two: every pair of codes, in every target."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from frameworks import FILES_HERE
from graphs import Traced
from test_prelu import Slopes
from test_products import KINDS, SqueezeAndExcite, differing, pairs
from test_zoo import after_numpy_step

import qat
from qat.integer import (
    Adjustments,
    Grid,
    IntegerAdd,
    IntegerGraph,
    IntegerInput,
    IntegerMaximum,
    IntegerMinimum,
    IntegerNode,
    IntegerSub,
    IntegerTensor,
    Sum,
    evaluate,
    sums_tie,
)
from qat.passes.convert_quant_network import convert_quant_network

F = np.float32
NODES: dict[str, type[IntegerNode]] = {
    "sum": IntegerAdd,
    "difference": IntegerSub,
    "larger": IntegerMaximum,
    "smaller": IntegerMinimum,
}


def joined(what: str, kind: str, multiplier: float, zero: int) -> IntegerGraph:
    """Two inputs of one grid and the node; ``multiplier``: of a sum or difference, whose scale keeps away from ties."""
    grid = Grid(F(0.0371), zero, 0, 255)
    a, b = (IntegerTensor(name, shape, grid) for name, shape in zip("ab", KINDS[kind], strict=True))
    inputs, node = tuple(IntegerInput(x.name, (), x) for x in (a, b)), NODES[what]
    if what in ("larger", "smaller"):
        made: IntegerNode = node("y", (a, b), IntegerTensor("y", (256, 256, 1) if kind != "equal" else a.shape, grid))
        return IntegerGraph((*inputs, made), (a, b), (made.output,))
    pending, output = Sum("y", (a, b), None, node), Grid(F(grid.scale / F(multiplier)), 7, -128, 127)  # type: ignore[arg-type]
    while True:
        wanted = Adjustments()
        pending.adjust(output, "y", wanted, keep_scale=False)
        if not wanted.floors and not wanted.nudges:
            break
        output = output._replace(scale=wanted.floors.get("y", F(output.scale * F(1 + 2.0**-16))))
    made = pending.requantized(output)
    return IntegerGraph((*inputs, made), (a, b), (made.output,))


@pytest.mark.parametrize("what", NODES)
@pytest.mark.parametrize(("engine", "arithmetic"), FILES_HERE)
def test_every_pair_of_codes(engine: str, arithmetic: str, what: str, tmp_path: Path) -> None:
    cases = [("equal", 0.503, 128), ("gate right", 3.71, 0), ("gate left", 0.0313, 255), ("equal", 300.0, 77)]
    for kind, multiplier, zero in cases[: 3 if "er" in what[-2:] else 4]:
        graph = joined(what, kind, multiplier, zero)
        x = pairs(graph, kind)
        a, b = (each.astype(np.int64) - zero for each in x)
        y, found = graph.output.grid, evaluate(graph, x)
        exact = {"sum": a + b, "difference": a - b, "larger": np.maximum(a, b), "smaller": np.minimum(a, b)}[what]
        if what in ("sum", "difference"):
            exact = np.clip(np.rint(exact * np.float64(F(graph.inputs[0].grid.scale / y.scale))), y.low, y.high)
        np.testing.assert_array_equal(found, exact + y.zero_point)
        assert differing(graph, engine, arithmetic, x, tmp_path / f"net{qat.target(engine).SUFFIX}") == 0


@pytest.mark.sweep
@pytest.mark.parametrize(("engine", "arithmetic"), FILES_HERE)
def test_every_pair_for_many_multipliers(engine: str, arithmetic: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for index in range(20 if engine == "MINDIR" else 60):  # its runtime compiles each file for a second
        kind = list(KINDS)[index % 3]
        graph = joined("difference", kind, 2.0 ** rng.uniform(-12, 17), int(rng.integers(0, 256)))
        assert (
            differing(graph, engine, arithmetic, pairs(graph, kind), tmp_path / f"net{qat.target(engine).SUFFIX}") == 0
        )


def test_ties_of_differences_are_not_those_of_sums() -> None:
    """Codes 0 to 255 with a step of 1.002 sums of 2.004: only sums reach 510, only differences are negative."""
    source = Grid(F(1.0), 0, 0, 255)
    assert sums_tie(source, Grid(F(2.0), 0, 0, 255), 1)
    assert sums_tie(source, Grid(F(2.0), 0, 0, 255), -1)
    upper = Grid(F(1.0 / 1.5), -390, 0, 255)  # codes 390 to 645: half codes there, of sums 260 to 430 alone
    assert sums_tie(source, upper, 1)
    assert not sums_tie(source, upper, -1)


class Differences(qat.Network):
    """Of images and of one pixel, and extremes, behind a Dropout, whose growth moves a scale."""

    inputs = qat.Input((3, 8, 8), mean=0.5, std=0.25)

    def __init__(self) -> None:
        self.a, self.b = (qat.Conv2dBnAct(3, 6, 3, has_bn=True) for _ in range(2))
        self.mean, self.drop, self.fc = qat.GlobalAvgPool2d(), qat.Dropout(0.3), qat.DenseBnAct(6, 4)

    def construct(self, x):
        a, b = self.a(x), self.b(x)
        x = (a - b) - self.mean(a)
        x = qat.Maximum()(self.drop(x), qat.Minimum()(a, b)) + self.mean(b)
        return self.fc(qat.Flatten()(self.mean(1.0 - x)))


IMAGES = np.random.default_rng(0).integers(0, 256, (30, 3, 8, 8), np.uint8)


@pytest.mark.parametrize("settings", [{}, {"symmetric": True}, {"num_bits": (8, 12), "symmetric": True}], ids=str)
def test_a_network(settings: dict[str, Any], tmp_path: Path) -> None:
    graph = convert_quant_network(Differences(), **settings)
    params = after_numpy_step(graph, graph.initial_params(), (IMAGES,))
    integers, torch = qat.to_integer(graph, params), qat.backend("torch")
    found = torch.predict_codes(torch.lower(graph, params), IMAGES)
    np.testing.assert_array_equal(found, evaluate(integers, IMAGES))
    wide = "num_bits" in settings
    for engine, arithmetic in FILES_HERE:
        if not wide or arithmetic == "fixed":
            assert differing(integers, engine, arithmetic, (IMAGES,), tmp_path / f"n{qat.target(engine).SUFFIX}") == 0


def test_training_sees_what_is_deployed() -> None:
    """Without a Dropout, the numbers of a training pass are those of the integers but for ties."""
    network = Traced(
        lambda self, x: qat.Maximum()(self.a(x), qat.Minimum()(self.b(x), self.a(x) - self.b(x))),
        qat.Input((3, 8, 8)),
        a=qat.Conv2dBnAct(3, 6, 3),
        b=qat.Conv2dBnAct(3, 6, 3),
    )
    graph = convert_quant_network(network)
    params = after_numpy_step(graph, graph.initial_params(), (IMAGES,))
    torch, integers = qat.backend("torch"), qat.to_integer(graph, params)
    model = torch.lower(graph, params)
    real = torch.predict(model, IMAGES)
    np.testing.assert_array_equal(integers.output.grid.codes_of(real), evaluate(integers, IMAGES))


@pytest.mark.parametrize("target", ["ONNX", "TFLITE"])
@pytest.mark.parametrize("network", [Differences, SqueezeAndExcite, Slopes], ids=lambda network: network.__name__)
def test_float_files(network: type[qat.Network], target: str, tmp_path: Path) -> None:
    """Within 1e-4 of PyTorch."""
    graph, torch = network().graph(), qat.backend("torch")
    params, module, path = graph.initial_params(1), qat.target(target), tmp_path / f"n{qat.target(target).SUFFIX}"
    images = np.random.default_rng(0).integers(0, 256, (9, *graph.shapes["input"]), np.uint8)
    module.export_float(graph, params, path)
    expected = torch.predict(torch.lower(graph, params), images)
    np.testing.assert_allclose(module.predict(path, images), expected, rtol=0, atol=1e-4)


def test_scales_that_give_way_without_end_are_an_error_that_names_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """The output of a multiplier of 1/2, where each odd sum is a tie; one round is not enough for it."""
    network = Traced(
        lambda self, x: self.add(self.a(x), self.b(x)),
        a=qat.Conv2dBnAct(1, 2, 1),
        b=qat.Conv2dBnAct(1, 2, 1),
        add=qat.Add(),
    )
    graph = convert_quant_network(network)
    params = graph.observed_params()
    params |= {f"add.fake_quant.{end}": F(2 * params[f"add.fake_quant.{end}"]) for end in ("min", "max")}
    integers = qat.to_integer(graph, params)
    assert not sums_tie(integers.nodes[-1].inputs[0].grid, integers.output.grid)
    monkeypatch.setattr("qat.passes.to_integer.MOST_ROUNDS", 1)
    with pytest.raises(
        qat.QatError, match=r"^Traced: after 1 rounds the scales of add\.fake_quant still have to give way to ties"
    ):
        qat.to_integer(graph, params)
