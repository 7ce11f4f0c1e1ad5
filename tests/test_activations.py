"""Activation functions: values and gradients are PyTorch's own, on every backend; their parameters; their tables everywhere."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conformance import ADAPTERS, FLOAT32_SUM, Adapter, Case, assert_conforms
from frameworks import HERE
from graphs import Traced
from ops_cases import activation
from test_zoo import after_numpy_step

import qat
from qat.integer import evaluate
from qat.vocabulary.activations import PARAMETERS, RELU_BOUNDS, TABLES, apply_table
from qat.vocabulary.numpy_ops import NUMPY_OPS

#: name -> PyTorch's own, and the parameters that it is compared with.
OWN: dict[str, tuple[Callable[[torch.Tensor], torch.Tensor], dict[str, float]]] = {
    "leaky_relu": (lambda x: F.leaky_relu(x, 0.3), {"alpha": 0.3}),
    "sigmoid": (torch.sigmoid, {}),
    "tanh": (torch.tanh, {}),
    "hsigmoid": (F.hardsigmoid, {}),
    "hswish": (F.hardswish, {}),
    "silu": (F.silu, {}),
    "gelu": (F.gelu, {}),
    "gelu_tanh": (lambda x: F.gelu(x, approximate="tanh"), {}),
    "mish": (F.mish, {}),
    "elu": (lambda x: F.elu(x, 1.5), {"alpha": 1.5}),
    "selu": (F.selu, {}),
    "softplus": (lambda x: F.softplus(x, threshold=500.0), {}),
    "exp": (torch.exp, {}),
    "hard_sigmoid": (lambda x: (0.3 * x + 0.4).clamp(0.0, 1.0), {"alpha": 0.3, "beta": 0.4}),
    "clip": (lambda x: x.clamp(-1.25, 2.5), {"low": -1.25, "high": 2.5}),
    "linear": (lambda x: -0.75 * x + 2.0, {"alpha": -0.75, "beta": 2.0}),
}
TOLERANCES = {("mindspore", "tanh"): 1e-5}  #: its tanh is 1 or -1 from 5 on
MODERATE = np.array([-20, -6.5, -3.25, -1.5, -0.7, -0.1, -1e-6, 1e-6, 0.1, 0.9, 1.75, 3.5, 7, 20], np.float32)
LARGE = np.array([-1e12, -1e6, -1e3, 1e3, 1e6, 1e12], np.float32)


def case_of(name: str, numbers: np.ndarray) -> Case:
    """A function's value and gradient, as PyTorch computes both in float64."""
    own, parameters = OWN[name]
    x = torch.tensor(numbers.astype(np.float64).reshape(1, -1), requires_grad=True)
    y = own(x)
    y.sum().backward()
    assert x.grad is not None
    return Case(
        name,
        lambda ops, x: apply_table(ops, name, x, parameters),
        (activation(numbers.reshape(1, -1)),),
        "activation",
        y.detach().numpy(),
        np.ones_like(x.grad.numpy(), np.float32),
        (x.grad.numpy(),),
        tolerance=FLOAT32_SUM,
        gradient_tolerance=FLOAT32_SUM,
    )


def test_every_function_is_compared() -> None:
    assert set(OWN) == set(TABLES)


@pytest.mark.parametrize("name", [name for name in OWN if name != "exp"])
@pytest.mark.parametrize("backend", ADAPTERS)
def test_values_and_gradients_are_those_of_pytorch(backend: str, name: str) -> None:
    """Large numbers each by itself, since the tolerance is relative to the largest."""
    adapter, tolerance = ADAPTERS[backend], TOLERANCES.get((backend, name), FLOAT32_SUM)
    for numbers in (MODERATE[:4], MODERATE[4:], *LARGE.reshape(-1, 1)):
        case = replace(case_of(name, numbers), tolerance=tolerance, gradient_tolerance=tolerance)
        (result,) = adapter.run([case])
        assert_conforms(case, result, differentiates=adapter.differentiates)


@pytest.mark.parametrize("adapter", ADAPTERS.values(), ids=ADAPTERS)
def test_a_wrong_parameter_is_noticed(adapter: Adapter) -> None:
    case = case_of("elu", MODERATE[:4])
    (result,) = adapter.run([replace(case, function=lambda ops, x: apply_table(ops, "elu", x, {}))])
    with pytest.raises(AssertionError, match="elu: value"):
        assert_conforms(case, result, differentiates=adapter.differentiates)


def test_defaults() -> None:
    """Those of PyTorch, but for leaky_relu's and hard_sigmoid's, which are MindSpore's and ONNX's; alike in linear cells."""
    x = np.array([[-2.0, 0.5, 3.0]], np.float32)
    for name, expected in {
        "elu": [np.exp(-2) - 1, 0.5, 3],
        "leaky_relu": [-0.4, 0.5, 3],
        "hard_sigmoid": [0.1, 0.6, 1],
        "linear": [-2, 0.5, 3],
    }.items():
        for given in ({}, {"alpha": None, "beta": None}):
            np.testing.assert_allclose(apply_table(NUMPY_OPS, name, x, given), [expected], rtol=0, atol=1e-6)
    assert set(PARAMETERS) == {name for name, (_, parameters) in OWN.items() if parameters}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"function": "swish"}, "'swish' is unknown; use None or one of relu, relu6, leaky_relu"),
        ({"function": "silu", "beta": 1.0}, "beta is 1.0, but 'silu' has no such parameter .it has none."),
        ({"function": "elu", "low": 1.0}, "low is 1.0, but 'elu' has no such parameter .it has alpha."),
        ({"function": "relu", "high": 1.0}, "high is 1.0, but 'relu' has no such parameter"),
        ({"function": "clip"}, "neither low nor high"),
        ({"function": "clip", "low": 1.0, "high": 1.0}, "low is 1.0 and high 1.0; low has to be less"),
        ({"function": "clip", "low": float("nan")}, "low is nan; use a finite number or None"),
    ],
)
def test_parameters_that_do_not_fit(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(qat.QatError, match=message):
        qat.Activation(**fields)


def test_a_linear_cell_has_no_bounds_for_a_clip() -> None:
    with pytest.raises(qat.QatError, match=r"DenseBnAct: activation 'clip' has bounds .* put qat.Activation\('clip'"):
        qat.DenseBnAct(2, 2, activation="clip")


def test_which_are_never_negative() -> None:
    assert qat.Activation("clip", low=0.0).non_negative
    assert not qat.Activation("clip", low=-0.5, high=3.0).non_negative
    for name in (*RELU_BOUNDS, *TABLES):
        if name != "clip":
            x = np.linspace(-9, 9, 500, dtype=np.float32).reshape(1, -1)
            least = x.clip(0).min() if name in RELU_BOUNDS else apply_table(NUMPY_OPS, name, x, {}).min()
            assert qat.Activation(name).non_negative == (least >= 0.0), name


@pytest.mark.parametrize("name", OWN)
def test_the_table_has_the_nearest_codes(name: str) -> None:
    """Of real numbers from -4 to 4: each code is the one next to PyTorch's own float64 value."""
    own, parameters = OWN[name]
    network = Traced(
        lambda self, x: self.f(x), qat.Input((1, 1, 16), dtype="float32"), f=qat.Activation(name, **parameters)
    )
    graph = qat.convert_quant_network(network)
    params = graph.initial_params()
    for node in graph.nodes:
        low, high = (-4.0, 4.0) if node.name == "input.fake_quant" else (-3.0, 5.0)
        for local in node.cell.params():
            params[f"{node.cell_name}.{local}"] = np.array({"min": low, "max": high}[local], np.float32)
    integers = qat.to_integer(graph, params)
    samples = np.linspace(-4.2, 4.2, 512, dtype=np.float32).reshape(-1, 1, 1, 16)
    first, last = integers.nodes[-2].output.grid, integers.output.grid
    entered = first.dequantize(np.clip(np.rint(samples / first.scale) + first.zero_point, first.qmin, first.qmax))
    exact = own(torch.from_numpy(entered.astype(np.float64))).numpy() / np.float64(last.scale)
    found = evaluate(integers, samples).astype(np.int64) - last.zero_point
    assert (np.abs(found - np.clip(exact, last.low, last.high)) <= 0.5 + 1e-6).all()
    assert len(np.unique(found)) > 20


@pytest.mark.parametrize("target", ["ONNX", "TFLITE"])
def test_float_files_compute_them_all(target: str, tmp_path: Path) -> None:
    """One after another: within 1e-5 of PyTorch. TFLite has no error function, and says so."""
    samples = np.random.default_rng(0).normal(0, 3, (50, 6)).astype(np.float32)
    for name, (own, parameters) in OWN.items():
        network = Traced(
            lambda self, x: self.f(x), qat.Input((6,), dtype="float32"), f=qat.Activation(name, **parameters)
        )
        path = tmp_path / f"{name}{qat.registry.TARGETS[target].suffix}"
        if (target, name) == ("TFLITE", "gelu"):
            with pytest.raises(qat.QatError, match="has no operation 'erf'; export it quantized instead"):
                qat.target(target).export_float(network.graph(), {}, path)
            continue
        qat.target(target).export_float(network.graph(), {}, path)
        expected = own(torch.from_numpy(samples)).numpy()
        found = qat.target(target).predict(path, samples)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5, err_msg=name)


def test_evaluation_takes_the_codes_of_the_table_on_every_backend() -> None:
    """Not the framework's own function, whose last bits differ: the tables are made once, in NumPy."""
    images = np.random.default_rng(0).integers(0, 256, (8, 1, 16, 16), np.uint8)

    def construct(self: Any, x: Any) -> Any:
        for cell in self.functions:
            x = cell(x)
        return x

    functions = [qat.Activation(name, **OWN[name][1]) for name in ("gelu", "mish", "elu", "softplus", "linear", "silu")]
    network = Traced(construct, qat.Input((1, 16, 16), mean=0.5, std=0.25), functions=functions)
    graph = qat.convert_quant_network(network)
    params = after_numpy_step(graph, graph.initial_params(), (images,))
    expected = evaluate(qat.to_integer(graph, params), images)
    assert len(np.unique(expected)) > 20
    for name in HERE:
        backend = qat.backend(name)
        np.testing.assert_array_equal(
            backend.predict_codes(backend.lower(graph, params), images), expected, err_msg=name
        )
