"""From the same parameters and batch, one training step on every backend ends with the same parameters and state."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial

import numpy as np
import pytest
import torch
from frameworks import HERE

import qat
from qat.integer import trace_codes
from qat.networks import LeNet5
from qat.quantizers import FAMILY
from qat.training.optimizer import Optimizer

FLOAT, QAT = 1e-5, 1e-4  #: the largest |a - b| / |b|, norms of a whole parameter or state
TABLES = 1e-3  #: where the last bits of silu and others differ, and a code beside a tie with them
RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 10, 16)
DIGITS = RNG.integers(0, 256, (16, 1, 32, 32), np.uint8)
IMAGES = RNG.integers(0, 256, (16, 3, 8, 8), np.uint8)


class Residual(qat.Network):
    """Batch normalisation, groups, residual addition, average pooling."""

    inputs = qat.Input((3, 8, 8), mean=0.5, std=0.25)

    def __init__(self) -> None:
        self.conv1 = qat.Conv2dBnAct(3, 8, 3, has_bn=True, activation="relu")
        self.conv2 = qat.Conv2dBnAct(8, 8, 3, group=4, has_bn=True, activation="relu")
        self.conv3 = qat.Conv2dBnAct(8, 8, 3, group=8, has_bn=True)
        self.add, self.pool, self.flatten = qat.Add("relu"), qat.AvgPool2d(2), qat.Flatten()
        self.fc = qat.DenseBnAct(128, 10)

    def construct(self, x):
        x = self.conv1(x)
        x = self.add(self.conv3(self.conv2(x)), x)
        return self.fc(self.flatten(self.pool(x)))


class Joined(qat.Network):
    """Branches of unlike numbers that are concatenated, twice."""

    inputs = qat.Input((3, 8, 8), mean=0.5, std=0.25)

    def __init__(self) -> None:
        self.conv1 = qat.Conv2dBnAct(3, 8, 3, has_bn=True, activation="relu")
        self.conv2 = qat.Conv2dBnAct(8, 4, 3)
        self.conv3 = qat.Conv2dBnAct(12, 4, 3, activation="relu")
        self.concat1, self.concat2, self.pool, self.flatten = (
            qat.Concat(),
            qat.Concat(),
            qat.MaxPool2d(4),
            qat.Flatten(),
        )
        self.fc = qat.DenseBnAct(64, 10)

    def construct(self, x):
        x = self.conv1(x)
        x = self.concat1(x, self.conv2(x))
        return self.fc(self.flatten(self.pool(self.concat2(x, self.conv3(x)))))


class Gated(qat.Network):
    """Squeeze and excitation, a product of two images, numbers, and functions that are tables."""

    inputs = qat.Input((3, 8, 8), mean=0.5, std=0.25)

    def __init__(self) -> None:
        self.conv = qat.Conv2dBnAct(3, 8, 3, has_bn=True, activation="silu")
        self.squeeze = qat.Conv2dBnAct(8, 4, 1, has_bias=True, activation="gelu")
        self.excite = qat.Conv2dBnAct(4, 8, 1, has_bias=True, activation="hard_sigmoid")
        self.mish, self.elu = qat.Activation("mish"), qat.Conv2dBnAct(8, 8, 3, has_bn=True, activation="elu")
        self.mean, self.fc = qat.GlobalAvgPool2d(), qat.DenseBnAct(8, 10)

    def construct(self, x):
        x = self.conv(x)
        x = x * self.excite(self.squeeze(self.mean(x)))
        x = self.mish(x) * self.elu(x)
        return self.fc(qat.Flatten()(self.mean(2.0 * x + 0.5)))


CASES = {
    "LeNet-5": (LeNet5, DIGITS, None),
    "LeNet-5, QAT": (LeNet5, DIGITS, {}),
    "residual": (Residual, IMAGES, None),
    "residual, QAT, two convolutions": (Residual, IMAGES, {"one_conv_fold": False}),
    "residual, QAT, one convolution": (Residual, IMAGES, {"one_conv_fold": True}),
    "residual, QAT, frozen": (Residual, IMAGES, {"bn_fold": True, "freeze_bn": 0}),
    "residual, QAT, not folded": (Residual, IMAGES, {}),
    "residual, QAT, LSQ+": (
        Residual,
        IMAGES,
        {
            "weight_quantizer": qat.LSQWeightQuantizer(3, per_channel=True),
            "activation_quantizer": qat.LSQActivationQuantizer(5, offset=True),
        },
    ),
    "residual, QAT, ternary, PACT": (
        Residual,
        IMAGES,
        {
            "weight_quantizer": qat.TernaryWeightQuantizer(per_channel=True),
            "activation_quantizer": qat.PACTActivationQuantizer(5, initial_alpha=2.0),
        },
    ),
    "joined, QAT": (Joined, IMAGES, {}),
    "gated": (Gated, IMAGES, None),
    "gated, QAT": (Gated, IMAGES, {}),
    "gated, QAT, fixed arithmetic": (Gated, IMAGES, {"arithmetic": "fixed"}),
    "residual, QAT, few bits, fixed arithmetic": (
        Residual,
        IMAGES,
        {
            "arithmetic": "fixed",
            "weight_quantizer": qat.LSQWeightQuantizer(3, per_channel=True),
            "activation_quantizer": qat.LSQActivationQuantizer(3),
        },
    ),
} | {
    f"LeNet-5, QAT, {name}": (partial(LeNet5, activation=pair.activation), DIGITS, pair.settings("fc3"))
    for name, pair in FAMILY.items()
}


@cache
def start(case: str) -> tuple[qat.Graph, dict[str, np.ndarray]]:
    """A network and its parameters after some steps, which are more ordinary numbers than zeros and ones."""
    network, images, settings = CASES[case]
    graph = network().graph() if settings is None else qat.convert_quant_network(network(), **settings)
    backend = qat.backend("torch")
    model = backend.lower(graph, graph.initial_params(3))
    step = backend.make_step(model, Optimizer())
    for _ in range(20):
        step(images, LABELS, 0.02)
    return graph, backend.read(model)


@cache
def after_one_step(backend_name: str, case: str, compile: bool = False) -> dict[str, np.ndarray]:
    """Parameters and state after one step of SGD."""
    backend = qat.backend(backend_name)
    graph, params = start(case)
    model = backend.lower(graph, params)
    step = backend.make_step(model, Optimizer(weight_decay=1e-3), compile=compile)
    step(CASES[case][1], LABELS, 0.05)
    return backend.read(model)


def distances(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> dict[str, float]:
    """|a - b| / |b|, or |a| where b is 0."""
    return {
        name: float(np.linalg.norm(found[name].astype(np.float64) - b) / (np.linalg.norm(b) or 1.0))
        for name, b in expected.items()
    }


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("backend", [name for name in HERE if name != "torch"])
def test_one_step_is_the_same(backend: str, case: str) -> None:
    """Keras and MindSpore run it as training does, compiled."""
    assert_near(case, after_one_step(backend, case))


@pytest.mark.parametrize("case", [case for case, (_, _, settings) in CASES.items() if settings is not None])
@pytest.mark.parametrize("backend", HERE)
def test_the_codes_are_the_same(backend: str, case: str) -> None:
    """Those of every node, in evaluation, are NumPy's."""
    graph, params = start(case)
    integers = qat.to_integer(graph, params)
    tensors = [node.output for node in integers.nodes]
    images = CASES[case][1]
    framework = qat.backend(backend)
    found = framework.trace(framework.lower(graph, params), images, tensors)
    for name, codes in trace_codes(integers, images, [tensor.name for tensor in tensors]).items():
        np.testing.assert_array_equal(found[name], codes, err_msg=name)


COMPILED = (
    "LeNet-5, QAT",
    "gated, QAT, fixed arithmetic",
    "residual",
    "residual, QAT, not folded",
    "LeNet-5, QAT, LSQ",
)


#: Whose long formulas PyTorch's code generator takes minutes, or longer, for: compiled up to there, by "aot_eager".
LONG = ("LeNet-5, QAT, powers of two", "LeNet-5, QAT, QKeras bits, auto_po2", "LeNet-5, QAT, QKeras binary")


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=() if case in COMPILED else pytest.mark.sweep) for case in CASES]
)
def test_one_compiled_step_is_the_same(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch._dynamo.reset()  # after eight networks it would compile no more
    if case in LONG:
        monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    assert_near(case, after_one_step("torch", case, compile=True))


def test_a_compiled_pass_goes_backwards_by_the_state_that_it_began_with(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a step of ours, and where the user compiles the model. Everything of torch.compile but the code that it generates."""
    case, compile = "residual, QAT, LSQ+", partial(torch.compile, backend="aot_eager")
    torch._dynamo.reset()
    with monkeypatch.context() as patch:
        patch.setattr(torch, "compile", compile)
        assert_near(case, after_one_step.__wrapped__("torch", case, compile=True))

    def gradients(compile: Callable[[torch.nn.Module], torch.nn.Module]) -> dict[str, np.ndarray]:
        model = qat.backend("torch").lower(*start(case)).train()
        outputs = compile(model)(torch.from_numpy(IMAGES))
        torch.nn.functional.cross_entropy(outputs, torch.from_numpy(LABELS)).backward()
        return {name: parameter.grad.numpy() for name, parameter in model.named_parameters()}

    far = distances(gradients(compile), gradients(lambda model: model))
    assert max(far.values()) <= QAT


def assert_near(case: str, found: dict[str, np.ndarray]) -> None:
    limit = TABLES if case.startswith("gated, QAT") else QAT if "QAT" in case else FLOAT
    far = distances(found, after_one_step("torch", case))
    assert not {name: distance for name, distance in far.items() if not distance <= limit}  # NaN is far, too


class Dense(qat.Network):
    inputs = qat.Input((1, 4, 4), mean=0.5, std=0.25)

    def __init__(self) -> None:
        self.flatten, self.fc1, self.fc2 = qat.Flatten(), qat.DenseBnAct(16, 8), qat.DenseBnAct(8, 10)

    def construct(self, x):
        return self.fc2(self.fc1(self.flatten(x)))


@pytest.mark.parametrize("backend_name", HERE)
def test_a_learned_clip_that_training_carried_below_0_goes_on(backend_name: str) -> None:
    """Every activation before the last is 0 then."""
    graph = qat.convert_quant_network(Dense(), **FAMILY["DoReFa, PACT"].settings("fc2"))
    params = graph.initial_params() | {"fc1.fake_quant.alpha": np.float32(-2.0)}
    backend = qat.backend(backend_name)
    model = backend.lower(graph, params)
    loss = backend.make_step(model, Optimizer())(IMAGES[:, :1, :4, :4], LABELS, 0.05)
    assert loss == pytest.approx(np.log(10), abs=1e-3)
    assert all(np.isfinite(array).all() for array in backend.read(model).values())


def test_another_step_is_not_the_same() -> None:
    """The comparison notices a parameter that is a thousandth off, and one that is no number."""
    expected = after_one_step("torch", "LeNet-5, QAT")
    for factor in (1.001, np.nan):
        with pytest.raises(AssertionError, match=r"fc3\.bias"):
            assert_near("LeNet-5, QAT", expected | {"fc3.bias": expected["fc3.bias"] * np.float32(factor)})
