"""PyTorch's functions that normalise and make codes at once: as in finer operations, and so their gradients."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

import qat
from qat.backends.torch.fused import FEWEST_PLACES, TorchNormalized, statistics
from qat.backends.torch.ops import TorchOps
from qat.quantizers.base import SMALLEST_SCALE
from qat.vocabulary.ops import Ops
from qat.vocabulary.values import NormalizedValue, Value

OPS = TorchOps()
#: Of the largest number of a tensor. The finer operations lose digits where they subtract; float64 tells which is nearer.
TOLERANCE = 2e-5
SHAPES = [(4, 3, 8, 8), (5, 3, 2, 2), (6, 3, 40), (40, 3)]  # pictures, small ones, series, rows
SCALES = {"real": None, "one": 0.01, "each": [0.01, 0.02, 0.001]}
GAMMAS = {"positive": [1.0, 0.5, 2.0], "negative": [-1.0, -0.5, -2.0], "mixed": [1.0, -0.5, 2.0]}


class InFloat64(TorchOps):
    """The finer operations in float64."""

    def from_numpy(self, array: Any, kind: Any, dtype: Any = "float64") -> Any:
        return super().from_numpy(array, kind, "float64")


def inputs(shape: tuple[int, ...], scale: Any, gamma: list[float], mean: float = 30.0) -> list[Any]:
    """x, scale, gamma, beta and a multiplier."""
    x = (torch.randn(shape, generator=torch.Generator().manual_seed(1)) * 100.0 + mean).round()
    others = (scale, gamma, [0.1, 0.2, -0.3], 20.0)
    return [x, *(None if other is None else torch.tensor(other) for other in others)]


def results(tensors: list[Any], fused: bool, form: str, dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    """What a batch normalisation gives, and the gradients of its inputs."""
    x, scale, gamma, beta, multiplier = (
        None if tensor is None else tensor.to(dtype).requires_grad_() for tensor in tensors
    )
    ops = OPS if fused else InFloat64() if dtype == torch.float64 else OPS
    normalized = (TorchOps.normalized if fused else Ops.normalized)(ops, x, scale, gamma, beta, 1e-2)
    assert isinstance(normalized, TorchNormalized) == fused
    y = {
        "numbers": lambda: normalized.numbers,
        "relu": lambda: normalized.rectified(math.inf),
        "relu6": lambda: normalized.rectified(0.5),
        "codes": lambda: normalized.codes(multiplier, 0.0, 40.0, open_low=True),
        "signed codes": lambda: normalized.codes(multiplier, torch.tensor(-17.0), torch.tensor(14.0), open_low=False),
    }[form]()
    weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(2)).to(dtype)
    given = {"x": x, "scale": scale, "gamma": gamma, "beta": beta}
    given |= {"multiplier": multiplier} if "codes" in form else {}
    given = {name: tensor for name, tensor in given.items() if tensor is not None}
    found = torch.autograd.grad((y * weights).sum(), list(given.values()))
    named = {f"gradient of {name}": gradient for name, gradient in zip(given, found, strict=True)}
    ends = {"largest": normalized.largest(), "smallest": normalized.smallest()}
    return {form: y.detach(), "mean": normalized.mean, "variance": normalized.variance, **ends, **named}


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a.double() - b.double()).abs().max() / b.double().abs().max().clamp_min(1e-30))


@pytest.mark.parametrize("gamma", GAMMAS.values(), ids=GAMMAS)
@pytest.mark.parametrize("scale", SCALES.values(), ids=SCALES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("form", ["numbers", "relu", "relu6", "codes", "signed codes"])
def test_the_function_and_its_gradients_are_those_of_the_finer_operations(
    form: str, shape: tuple[int, ...], scale: Any, gamma: list[float]
) -> None:
    tensors = inputs(shape, scale, gamma)
    expected, found = results(tensors, False, form, torch.float64), results(tensors, True, form)
    assert expected.keys() == found.keys()
    for name, tensor in found.items():
        assert tensor.dtype == torch.float32
        assert distance(tensor, expected[name]) < TOLERANCE, name
    wrong = results([tensors[0] + 1.0, *tensors[1:3], tensors[3] + 0.01, tensors[4]], True, form)
    assert max(distance(wrong[name], expected[name]) for name in found) > 100 * TOLERANCE


def test_statistics_are_those_of_the_batch_however_far_the_mean_lies_from_0() -> None:
    generator = torch.Generator().manual_seed(3)
    for mean in (0.0, 1.0, 50.0, 1e4, 9.9):
        x = torch.randn((8, 3, 16, 16), generator=generator) + mean
        if mean == 9.9:  # a large picture of two numbers, whose squares round in the same direction
            x = torch.randint(0, 2, (2, 3, 256, 256), generator=generator) * 2.0 - 1.0 + mean
        assert x[0, 0].numel() >= FEWEST_PLACES
        own = x.double()
        found = statistics(x)
        assert distance(found[0], own.mean((0, 2, 3))) < 1e-6
        assert distance(found[1], own.var((0, 2, 3), correction=0)) < 2e-5


@pytest.mark.parametrize("number", [math.inf, -math.inf, math.nan, 3e38])  # a sum of the last one is infinite
def test_numbers_that_are_not_finite_stay_so_without_a_warning(number: float) -> None:
    x, _, gamma, beta, _ = inputs((4, 3, 8, 8), None, GAMMAS["mixed"])
    x[1, 0], x[2, 0] = number, number / 2.0
    normalized = OPS.normalized(x, None, gamma, beta, 1e-2)
    assert not normalized.variance[0].isfinite()
    assert normalized.variance[1:].isfinite().all()
    assert not normalized.largest().isfinite()


def test_a_channel_of_one_number_has_no_variance() -> None:
    mean, variance = statistics(torch.full((4, 2, 8, 8), 3.3))
    assert mean.tolist() == pytest.approx([3.3, 3.3])
    assert (variance >= 0.0).all()
    assert (variance < 1e-9).all()


@pytest.mark.parametrize("as_tensors", [False, True])
@pytest.mark.parametrize("open_low", [False, True])
def test_codes_and_gradients_at_the_bounds(open_low: bool, as_tensors: bool) -> None:
    """x that lie on the bounds, inside and beyond, with a multiplier for each channel, which has a gradient too."""
    x = [each for end in (-3.0, 4.0) for each in (end * (1.0 - 2.0**-16), end, end * (1.0 + 2.0**-16))]
    x = torch.tensor([*x, -7.2, -2.5, 0.5, 1.5, 3.6, 9.0] * 2).reshape(2, 2, 2, 3)
    low, high = (torch.tensor(end) if as_tensors else end for end in (-3.0, 4.0))
    found = []
    for requantize in (TorchOps.requantize, Ops.requantize):
        own, multiplier = x.clone().requires_grad_(), torch.ones(1, 2, 1, 1, requires_grad=True)
        y = requantize(OPS, own, multiplier, low, high, open_low=open_low)
        gradients = torch.autograd.grad((y * torch.arange(24.0).reshape(x.shape)).sum(), (own, multiplier))
        found.append((y, *gradients, own))
    for a, b in zip(*found, strict=True):
        assert torch.equal(a.detach(), b.detach())
    assert torch.equal(found[0][-1].detach(), x)  # it works in place, but not on its input
    assert (found[0][1] == 0.0).any()


def test_a_fake_quantizer_makes_codes_without_the_numbers_between() -> None:
    """A training step never computes what a batch normalisation gives where codes of it are wanted."""

    class Net(qat.Network):
        inputs = qat.Input((3, 8, 8), mean=0.5, std=0.25)

        def __init__(self) -> None:
            self.conv = qat.Conv2dBnAct(3, 6, 3, has_bn=True, activation="relu6")
            self.fc = qat.DenseBnAct(6 * 64, 4)

        def construct(self, x: Any) -> Any:
            return self.fc(qat.Flatten()(self.conv(x)))

    graph = qat.convert_quant_network(Net(), bn_fold=False)
    backend = qat.backend("torch")
    asked = []

    class Watched(TorchNormalized):
        @property
        def numbers(self) -> torch.Tensor:  # type: ignore[override]
            asked.append(self)
            return super().numbers

    original = TorchOps.normalized
    TorchOps.normalized = lambda self, *given: Watched(self, *given)  # type: ignore[method-assign,assignment]
    try:
        step = backend.make_step(backend.lower(graph), qat.training.optimizer.Optimizer())
        x = np.random.default_rng(0).integers(0, 256, (8, 3, 8, 8), np.uint8)
        assert np.isfinite(step(x, np.arange(8) % 4, 0.1))
        assert not asked
    finally:
        TorchOps.normalized = original  # type: ignore[method-assign]


def test_a_value_that_waits_is_the_value_of_its_numbers() -> None:
    x, scale, gamma, beta, _ = inputs((4, 3, 8, 8), 0.01, GAMMAS["mixed"])
    normalized = OPS.normalized(x, scale, gamma, beta, 1e-2)
    waiting, plain = (
        make(normalized) for make in (lambda n: Value.of(n, relu=0.7), lambda n: Value(n.numbers, relu=0.7))
    )
    assert isinstance(waiting, NormalizedValue)
    for method in ("real", "largest", "smallest"):
        torch.testing.assert_close(getattr(waiting, method)(OPS), getattr(plain, method)(OPS))
    halved = waiting.with_data(waiting.data[:2])
    assert torch.equal(halved.real(OPS), plain.real(OPS)[:2])
    assert waiting.in_fixed_arithmetic().fixed
    assert torch.equal(waiting.in_fixed_arithmetic().data, plain.data)


def test_a_second_derivative_is_refused_and_not_wrong() -> None:
    x, _, gamma, beta, multiplier = inputs((4, 3, 8, 8), None, GAMMAS["mixed"])
    x.requires_grad_()
    y = OPS.normalized(x, None, gamma, beta, 1e-2).codes(multiplier, 0.0, 40.0, open_low=True)
    (first,) = torch.autograd.grad((y * y).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()


def test_a_channel_of_zeros_has_the_gradients_of_any_other() -> None:
    """Its weights are all 0, and so its scale is the smallest one, times that of the input, which is trained as well."""
    x, _, gamma, beta, multiplier = inputs((4, 3, 8, 8), None, GAMMAS["mixed"])
    x[:, 1] = 0.0
    found = []
    for normalized in (TorchOps.normalized, Ops.normalized):
        own = [tensor.clone().requires_grad_() for tensor in (x, torch.tensor(1e-4), gamma, beta)]
        scale = own[1] * torch.tensor([1e-3, SMALLEST_SCALE, 2e-3])
        y = normalized(OPS, own[0], scale, *own[2:], 1e-5).codes(multiplier, -128.0, 127.0, open_low=False)
        found.append(torch.autograd.grad((y * torch.linspace(0.0, 1.0, y.numel()).reshape(y.shape)).sum(), own))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-3 * float(b.abs().max()))
    dead, expected = (gradients[0][:, 1] for gradients in found)
    assert (expected != 0.0).any()  # by which its weights may come back
    torch.testing.assert_close(dead, expected, rtol=1e-4, atol=0.0)


def test_real_numbers_that_two_cells_use_are_computed_once() -> None:
    x, scale, gamma, beta, _ = inputs((4, 3, 8, 8), 0.01, GAMMAS["mixed"])
    value = Value.of(OPS.normalized(x, scale, gamma, beta, 1e-2), relu=6.0)
    assert value.real(OPS) is value.real(OPS)
