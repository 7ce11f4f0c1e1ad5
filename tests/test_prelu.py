"""A leaky ReLU with trained slopes: PyTorch's own in training, one table for each channel in every target."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from calibrations import calibrate
from conformance import ADAPTERS, FLOAT32_SUM, Case, assert_conforms
from frameworks import FILES_HERE, HERE
from graphs import Traced
from ops_cases import activation, vector
from test_products import differing
from test_zoo import after_numpy_step

import qat
from qat.cells.base import Context, Scope
from qat.integer import IntegerChannelTable, evaluate, trace_codes
from qat.training.optimizer import Optimizer
from qat.vocabulary.values import Value

TORCH = qat.backend("torch")
SLOPES = np.array([0.25, -0.6, 0.0, 1.7, 0.01, -1.0], np.float32)
IMAGES = np.random.default_rng(0).integers(0, 256, (30, 3, 8, 8), np.uint8)
LABELS = np.random.default_rng(1).integers(0, 4, 30)


class Slopes(qat.Network):
    """Of images and of rows."""

    inputs = qat.Input((3, 8, 8), mean=0.5, std=0.25)

    def __init__(self) -> None:
        self.conv, self.images = qat.Conv2dBnAct(3, 6, 3, has_bn=True), qat.PReLU(6)
        self.fc, self.rows, self.last = qat.DenseBnAct(6 * 64, 5), qat.PReLU(5), qat.DenseBnAct(5, 4)

    def construct(self, x):
        return self.last(self.rows(self.fc(qat.Flatten()(self.images(self.conv(x))))))


@pytest.mark.parametrize("slope", [0.25, -0.6, 0.0, 1.7, 0.1])
def test_of_equal_slopes_it_is_a_leaky_relu(slope: float) -> None:
    """To the last bit in float, and code by code: imports of ONNX and TFLite take it for one."""

    def network(cell: qat.Cell) -> qat.Graph:
        conv, end = qat.Conv2dBnAct(3, 6, 3, has_bias=True), qat.Conv2dBnAct(6, 4, 1)
        return Traced(
            lambda self, x: self.end(self.act(self.conv(x))), Slopes.inputs, conv=conv, act=cell, end=end
        ).graph()

    alpha = float(np.float32(slope))
    found = []
    for cell in (qat.PReLU(6), qat.Activation("leaky_relu", alpha)):
        graph = network(cell)
        params = graph.initial_params(0)
        params |= {"act.slope": np.full(6, slope, np.float32)} if "act.slope" in params else {}
        checkpoint = calibrate(graph, params, IMAGES)
        integers = qat.to_integer(checkpoint.graph, checkpoint.params)
        traced = trace_codes(integers, IMAGES, [node.name for node in integers.nodes])
        found.append((TORCH.predict(TORCH.lower(graph, params), IMAGES), *traced.values()))
    assert len(found[0]) == len(found[1]) > 3
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("backend", ADAPTERS)
@pytest.mark.parametrize("shape", [(4, 6, 5, 3), (9, 6)])
def test_value_and_gradients_are_those_of_pytorch(backend: str, shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(2)
    numbers, cotangent = (rng.normal(0, 2, shape).astype(np.float32) for _ in range(2))
    x, slope = (torch.tensor(each.astype(np.float64), requires_grad=True) for each in (numbers, SLOPES))
    y = torch.nn.functional.prelu(x, slope)
    y.backward(torch.from_numpy(cotangent.astype(np.float64)))
    assert x.grad is not None
    assert slope.grad is not None

    def compute(ops: Any, x: Any, slope: Any) -> Any:
        context = Context(ops, {"p.slope": slope}, training=True, phase=0, updates={})
        return qat.PReLU(6).forward(Scope(context, "p.", ("slope",), (shape[1:],)), Value(x)).data

    case = Case(
        "prelu",
        compute,
        (activation(numbers), vector(SLOPES)),
        "activation",
        y.detach().numpy(),
        cotangent,
        (x.grad.numpy(), slope.grad.numpy()),
        tolerance=FLOAT32_SUM,
        gradient_tolerance=FLOAT32_SUM,
    )
    adapter = ADAPTERS[backend]
    assert_conforms(case, adapter.run([case])[0], differentiates=adapter.differentiates)


@pytest.mark.parametrize("settings", [{}, {"symmetric": True}, {"num_bits": (8, 5)}], ids=str)
def test_trained_and_deployed(settings: dict[str, Any], tmp_path: Path) -> None:
    """Slopes are trained, and 0 codes differ in PyTorch and in every target that computes them."""
    backend, graph = qat.backend("torch"), qat.convert_quant_network(Slopes(), **settings)
    params = graph.initial_params() | {"images.slope": SLOPES}
    step = backend.make_step(backend.lower(graph, params), Optimizer())
    for _ in range(5):
        assert np.isfinite(step(IMAGES, LABELS, 0.05))
    params = backend.read(step.model)
    assert (params["images.slope"] != SLOPES).all()
    integers = qat.to_integer(graph, params)
    tables = [node for node in integers.nodes if isinstance(node, IntegerChannelTable)]
    assert [node.table.shape[0] for node in tables] == [6, 5]
    source, grid = tables[0].inputs[0].grid, tables[0].output.grid
    real = np.arange(source.low, source.high + 1) * np.float64(source.scale)
    exact = np.where(real > 0, real, params["images.slope"].astype(np.float64)[:, None] * real) / np.float64(grid.scale)
    np.testing.assert_array_equal(tables[0].table, np.clip(np.rint(exact), grid.low, grid.high))
    np.testing.assert_array_equal(backend.predict_codes(step.model, IMAGES), evaluate(integers, IMAGES))
    for engine, arithmetic in FILES_HERE:
        assert differing(integers, engine, arithmetic, (IMAGES,), tmp_path / f"n{qat.target(engine).SUFFIX}") == 0


@pytest.mark.parametrize("backend", HERE)
def test_every_backend_evaluates_it_alike(backend: str) -> None:
    graph = qat.convert_quant_network(Slopes())
    params = after_numpy_step(graph, graph.initial_params() | {"images.slope": SLOPES}, (IMAGES,))
    module = qat.backend(backend)
    found = module.predict_codes(module.lower(graph, params), IMAGES)
    np.testing.assert_array_equal(found, evaluate(qat.to_integer(graph, params), IMAGES))


def test_wide_codes_are_refused() -> None:
    graph = qat.convert_quant_network(Slopes(), num_bits=(8, 12))
    with pytest.raises(qat.QatError, match="images: its input has codes of more than 8 bits"):
        qat.to_integer(graph, graph.observed_params())


def test_another_number_of_channels_is_refused() -> None:
    with pytest.raises(qat.QatError, match=r"PReLU\) has slopes for 3 channels but gets \(1, 8, 8\)"):
        Traced(lambda self, x: self.p(x), p=qat.PReLU(3)).graph()
