"""Every quantizer of the family: its formula, value and gradient; what it promises; and that it deploys.

The formulas are transcribed in tests/quantizer_formulas.py; torch's autograd over the vocabulary has to give the same.
"""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from calibrations import calibrate
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from quantizer_formulas import Array, lsq, of_activation, of_weight

import qat
from qat.integer import trace_codes
from qat.networks import LeNet5
from qat.quantizers import (
    FAMILY,
    SMALLEST_SCALE,
    BaseActivationQuantizer,
    BaseWeightQuantizer,
    Quantizer,
    WeightCodes,
)
from qat.quantizers.few_bits_activations import FixedGrid
from qat.training.optimizer import Optimizer
from qat.vocabulary.numpy_ops import NUMPY_OPS
from qat.vocabulary.serial import Serializable, from_json
from qat.vocabulary.values import Value

F = np.float32
TORCH, ONNX = qat.backend("torch"), qat.target("ONNX")
OPS = TORCH.TorchOps()
TOLERANCE = 2e-6  #: of float32 products, relative to the largest magnitude

LSQ, DOREFA = qat.LSQWeightQuantizer, qat.DoReFaWeightQuantizer
TERNARY, BINARY = qat.TernaryWeightQuantizer, qat.BinaryWeightQuantizer
LSQ_A, PACT = qat.LSQActivationQuantizer, qat.PACTActivationQuantizer
DOREFA_A, BINARY_A = qat.DoReFaActivationQuantizer, qat.BinaryActivationQuantizer
Q_BITS, Q_TERNARY, Q_BINARY = (
    qat.QKerasBitsWeightQuantizer,
    qat.QKerasTernaryWeightQuantizer,
    qat.QKerasBinaryWeightQuantizer,
)
Q_BITS_A, Q_RELU = qat.QKerasBitsActivationQuantizer, qat.QKerasReLUActivationQuantizer
PO2, RELU_PO2 = qat.QKerasPo2WeightQuantizer, qat.QKerasReLUPo2ActivationQuantizer


def assert_near(found: Array, expected: Array, what: str) -> None:
    expected = np.asarray(expected)
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE * max(1.0, np.abs(expected).max()), err_msg=what)


# -- weights ----------------------------------------------------------------------------------------------------------


WEIGHT_QUANTIZERS = [
    *(LSQ(bits, per_channel=channels) for bits in (2, 3, 4, 8) for channels in (False, True)),
    LSQ(4, narrow_range=True),
    *(DOREFA(bits, per_channel=channels) for bits in (2, 4, 7) for channels in (False, True)),
    *(
        cls(per_channel=channels, scale=scale, clip=clip)
        for cls in (TERNARY, BINARY)
        for channels, scale, clip in ((False, "mean", True), (True, "mean", False), (False, "constant", True))
    ),
    *(qat.WeightQuantizer(4, power_of_two=True, per_channel=channels) for channels in (False, True)),
    *(
        Q_BITS(bits, symmetric, narrow, integer=integer, alpha=alpha)
        for bits, symmetric, narrow, integer, alpha in (
            (2, True, False, 0, None),
            (4, True, True, 1, 0.25),
            (8, True, False, -1, 1),
            (4, False, False, 0, None),
        )
    ),
    *(
        Q_BITS(bits, narrow_range=True, integer=integer, alpha=alpha, per_channel=channels)
        for bits, integer, alpha, channels in (
            (2, 0, "auto", True),
            (8, 1, "auto", False),
            (3, 0, "auto_po2", True),
            (4, -2, "auto_po2", False),
            (8, 1, "auto_po2", True),
        )
    ),
    *(
        cls(alpha=alpha, per_channel=channels)
        for cls in (Q_TERNARY, Q_BINARY)
        for alpha, channels in ((None, True), (0.5, False), ("auto", True), ("auto", False), ("auto_po2", True))
    ),
    *(qat.QKerasPo2WeightQuantizer(4, log2_rounding=each, quadratic_approximation=True) for each in ("rnd", "floor")),
    Q_TERNARY(threshold=0.75),
    *(Q_BINARY(use_01=True, alpha=alpha) for alpha in (None, 0.5, "auto", "auto_po2")),
    *(
        qat.QKerasPo2WeightQuantizer(bits, max_value=most, log2_rounding=rounding)
        for bits, most, rounding in (
            (2, None, "rnd"),
            (4, None, "floor"),
            (3, 1.0, "rnd"),
            (4, 0.7, "rnd"),
            (4, 3.0, "floor"),
        )
    ),
]
ACTIVATION_QUANTIZERS = [
    *(LSQ_A(bits, symmetric=symmetric) for bits in (2, 4, 8) for symmetric in (False, True)),
    LSQ_A(4, narrow_range=True),
    *(LSQ_A(bits, offset=True) for bits in (2, 4, 8)),
    *(PACT(bits, symmetric=symmetric, initial_alpha=1.5) for bits in (2, 4, 8) for symmetric in (False, True)),
    *(LSQ_A(1, offset=offset) for offset in (False, True)),
    PACT(1, initial_alpha=1.5),
    *(DOREFA_A(bits) for bits in (1, 2, 8)),
    *(BINARY_A(scale=scale, clip=clip) for scale, clip in (("constant", True), ("mean", True), ("mean", False))),
    Q_BITS_A(2),
    Q_BITS_A(6, narrow_range=True, integer=1),
    *(Q_BITS_A(bits, symmetric=False) for bits in (1, 4)),
    *(Q_RELU(bits, integer=integer) for bits, integer in ((1, 1), (4, 0), (8, 2))),
    *(Q_RELU(bits, integer=i, negative_slope=slope) for bits, i, slope in ((2, 0, 0.5), (4, 0, 0.25), (8, 2, 1.0))),
    *(
        qat.QKerasPo2ActivationQuantizer(bits, max_value=most, log2_rounding=rounding)
        for bits, most, rounding in ((3, None, "rnd"), (4, 0.9, "rnd"), (4, 3.0, "floor"))
    ),
    *(
        qat.QKerasReLUPo2ActivationQuantizer(bits, max_value=most, log2_rounding=rounding, negative_slope=slope)
        for bits, most, rounding, slope in ((2, None, "rnd", 0.0), (3, 0.9, "floor", 0.25), (3, 3.0, "rnd", 0.5))
    ),
    *(qat.LearnedWidthActivationQuantizer(bits, symmetric=symmetric) for bits in (2, 8) for symmetric in (False, True)),
]
#: Every activation quantizer with the numbers that it takes: such as are never negative, or of both signs.
ACTIVATION_CASES = [
    (quantizer, non_negative)
    for quantizer in ACTIVATION_QUANTIZERS
    for non_negative in (True, False)
    if not quantizer.refuses(non_negative)
]


def own_params(quantizer: BaseWeightQuantizer, w: Array, scale: Array | None = None) -> dict[str, Array]:
    """As fresh, or with a learned scale of which a quarter is change."""
    own = {
        name: np.asarray(param.initial(np.random.default_rng(0), param.shape), F)
        for name, param in quantizer.params(w.shape).items()
    }
    if own and scale is not None:
        own = {"scale_change": F(0.25) * scale, "initial_scale": F(0.75) * scale}
        own = {name: array.reshape(quantizer.params(w.shape)[name].shape) for name, array in own.items()}
    return own


def quantize(
    quantizer: BaseWeightQuantizer, w: Array, own: dict[str, Array], floor: Array | None = None
) -> WeightCodes:
    kinds = {name: param.kind for name, param in quantizer.params(w.shape).items()}
    tensors = {name: NUMPY_OPS.from_numpy(array, kinds[name]) for name, array in own.items()}
    return quantizer.quantize(NUMPY_OPS, w, floor, tensors | quantizer.observe(NUMPY_OPS, w, tensors))


def real(codes: WeightCodes) -> Array:
    return codes.centred * NUMPY_OPS.on_output(codes.scale, codes.centred)


@pytest.mark.parametrize("shape", [(4, 3, 3, 3), (6, 20)], ids=str)
@pytest.mark.parametrize("quantizer", WEIGHT_QUANTIZERS, ids=str)
def test_a_weight_has_the_value_and_gradients_of_the_formula(
    quantizer: BaseWeightQuantizer, shape: tuple[int, ...]
) -> None:
    rng = np.random.default_rng(len(shape))
    w, g = rng.normal(0, 0.7, shape).astype(F), rng.normal(size=shape).astype(F)
    channels = shape[:1] if quantizer.per_channel else (1,)
    scale = rng.uniform(0.2, 0.4, channels).astype(F)
    own = own_params(quantizer, w, scale)
    if own:
        scale = np.asarray(own["initial_scale"] + own["scale_change"]).reshape(channels)
    expected = of_weight(quantizer, w, scale, g)
    assert_near(real(quantize(quantizer, w, own)), expected.value, "value, NumPy")
    tensors = {name: torch.tensor(array, requires_grad=True) for name, array in {"w": w, **own}.items()}
    leaves = {name: tensors[name] for name in tensors if name != "initial_scale"}
    codes = quantizer.quantize(OPS, tensors["w"], None, tensors)
    value = codes.centred * OPS.on_output(codes.scale, tensors["w"])
    (value * torch.tensor(g)).sum().backward()
    assert_near(value.detach().numpy(), expected.value, "value, torch")
    assert leaves.keys() == expected.gradients.keys()
    for name, gradient in expected.gradients.items():
        assert_near(leaves[name].grad.numpy(), gradient, f"gradient of {name}")


def test_a_wrong_gradient_would_be_noticed() -> None:
    w = np.random.default_rng(0).normal(size=(4, 5)).astype(F)
    right = lsq(w, 0.3, 4, 3, np.ones_like(w), w.size).gradients["scale_change"]
    wrong = lsq(w, 0.3, 4, 3, np.ones_like(w), w.size + 1).gradients["scale_change"]
    with pytest.raises(AssertionError, match="scale"):
        assert_near(wrong, right, "scale")


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_a_learned_scale_of_weights_begins_at_twice_their_mean(bits: int, per_channel: bool) -> None:
    w = np.random.default_rng(bits).normal(size=(4, 3, 2, 2)).astype(F)
    quantizer = LSQ(bits, per_channel=per_channel)
    own = {name: np.atleast_1d(array) for name, array in own_params(quantizer, w).items()}
    mean = np.abs(w).mean(axis=(1, 2, 3) if per_channel else None)
    expected = np.atleast_1d(2 * mean / np.sqrt(2 ** (bits - 1) - 1))
    found = quantizer.observe(NUMPY_OPS, w, own)["initial_scale"]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    np.testing.assert_array_equal(quantize(quantizer, w, own).scale, found)  # before its first step, too
    later = quantizer.observe(NUMPY_OPS, 3 * w, own | {"initial_scale": found})["initial_scale"]
    np.testing.assert_array_equal(later, found)


# -- activations ------------------------------------------------------------------------------------------------------


def activation_case(quantizer: BaseActivationQuantizer, non_negative: bool) -> tuple[dict[str, Array], Array, Array]:
    """Parameters, numbers and a gradient of the value."""
    rng = np.random.default_rng(quantizer.num_bits)
    x, g = rng.normal(0, 1, (4, 3, 5, 5)).astype(F), rng.normal(size=(4, 3, 5, 5)).astype(F)
    values = {
        "alpha": 1.25,
        "mean": 0.75,
        "scale_change": 0.05,
        "initial_scale": 0.15,
        "offset_change": -0.1,
        "initial_offset": -0.45,
        "share": 0.55,
        "min": -0.9,
        "max": 1.1,
    }
    own = {name: F(values[name]) for name in quantizer.params(non_negative)}
    return own, np.maximum(x, 0) if non_negative else x, g


@pytest.mark.parametrize(("quantizer", "non_negative"), ACTIVATION_CASES, ids=str)
def test_an_activation_has_the_value_and_gradients_of_the_formula(
    quantizer: BaseActivationQuantizer, non_negative: bool
) -> None:
    own, x, g = activation_case(quantizer, non_negative)
    features = 75
    expected = of_activation(quantizer, own, x, g, non_negative, features)
    tensors = {name: torch.tensor(array, requires_grad=True) for name, array in own.items()}
    data = torch.tensor(x, requires_grad=True)
    y = quantizer.quantize(OPS, Value(data), tensors, [], non_negative, features)
    value = y.data * y.scale
    (value * torch.tensor(g)).sum().backward()
    assert_near(value.detach().numpy(), expected.value, "value")
    params = quantizer.params(non_negative)
    leaves = {"w": data} | {name: tensor for name, tensor in tensors.items() if params[name].trainable}
    assert leaves.keys() == expected.gradients.keys()
    for name, gradient in expected.gradients.items():
        unit = quantizer.num_bits if name == "share" else 1  # in bits: whole units of float32 are that much coarser
        assert_near(leaves[name].grad.numpy() / unit, gradient / unit, f"gradient of {name}")
    of_numpy = {name: np.atleast_1d(array) for name, array in own.items()}
    same = quantizer.quantize(NUMPY_OPS, Value(x), of_numpy, [], non_negative, features)
    np.testing.assert_array_equal(same.data, y.data.detach().numpy())


def observed(quantizer: BaseActivationQuantizer, x: Array, non_negative: bool) -> dict[str, Array]:
    own = {
        name: NUMPY_OPS.from_numpy(param.create(0, name), param.kind)
        for name, param in quantizer.params(non_negative).items()
    }
    return own | quantizer.observe(NUMPY_OPS, Value(x), own, non_negative, phase=0)


@pytest.mark.parametrize(("non_negative", "q_p"), [(True, 15), (False, 7)])
def test_a_learned_scale_of_activations_begins_with_the_first_batch(non_negative: bool, q_p: int) -> None:
    x = np.random.default_rng(0).uniform(0 if non_negative else -1, 1, (8, 5)).astype(F)
    quantizer = LSQ_A(4)
    own = observed(quantizer, x, non_negative)
    np.testing.assert_allclose(own["initial_scale"], 2 * np.abs(x).mean() / np.sqrt(q_p), rtol=1e-6)
    assert quantizer.observe(NUMPY_OPS, Value(9 * x), own, non_negative, phase=1) == {}
    again = quantizer.observe(NUMPY_OPS, Value(9 * x), own, non_negative, phase=0)
    np.testing.assert_array_equal(again["initial_scale"], own["initial_scale"])


@pytest.mark.parametrize("offset", [False, True])
def test_before_quant_delay_a_learned_scale_is_what_each_batch_says(offset: bool) -> None:
    """It begins with the first batch after, as without a delay; what a checkpoint knows stays."""
    x = np.random.default_rng(0).uniform(-1, 1, (8, 5)).astype(F)
    quantizer = LSQ_A(4, offset=offset, quant_delay=2)

    def looked(own: dict[str, Array], x: Array, phase: int) -> dict[str, Array]:
        return own | quantizer.observe(NUMPY_OPS, Value(x), own, False, phase=phase)

    def grid(own: dict[str, Array]) -> list[float]:
        scale, zero_point = quantizer.grid(NUMPY_OPS, own, [], False)
        return [float(scale[0]), float(np.max(zero_point))]

    fresh = {name: np.full(1, -np.inf if name == "initial_scale" else 0.0, F) for name in quantizer.params(False)}
    assert quantizer.unseen(fresh)
    expected = {size: observed(LSQ_A(4, offset=offset), F(size) * x, False) for size in (1, 2, 3)}
    own = fresh
    for size in (1, 2):
        own = looked(own, F(size) * x, 0)
        assert not quantizer.unseen(own)
        assert grid(own) == grid(expected[size])
    own = looked(own, F(3) * x, 2)
    for name, value in expected[3].items():
        np.testing.assert_array_equal(own[name], value, err_msg=name)
    for phase in (0, 2, 3):
        assert grid(looked(own, F(4) * x, phase)) == grid(own)


def test_a_learned_offset_begins_with_the_range_of_the_first_batch() -> None:
    x = np.array([[-0.5, 0.25, 1.0]], F)
    own = observed(LSQ_A(2, offset=True), x, False)
    assert own["initial_scale"] == 0.5
    assert own["initial_offset"] == -0.5


# -- what holds for every weight and every activation -----------------------------------------------------------------

NUMBERS = st.floats(-4, 4, width=32) | st.sampled_from([0.0, -0.0, 2.0**-100, 2.0**80, -(2.0**80)])
WEIGHTS = arrays(np.float32, array_shapes(min_dims=2, max_dims=4, max_side=4), elements=NUMBERS.map(F))
ANY_WEIGHT_QUANTIZER = st.sampled_from(WEIGHT_QUANTIZERS)
ANY_ACTIVATION_QUANTIZER = st.sampled_from(ACTIVATION_QUANTIZERS)


@settings(max_examples=200, deadline=None)
@given(WEIGHTS, ANY_WEIGHT_QUANTIZER, st.booleans())
def test_weight_codes_are_whole_numbers_within_the_range(
    weight: Array, quantizer: BaseWeightQuantizer, with_floor: bool
) -> None:
    floor = np.abs(weight).reshape(len(weight), -1).max(axis=1) / F(3) if with_floor else None
    codes, scale, zero_point = quantize(quantizer, weight, own_params(quantizer, weight), floor)
    assert zero_point is None if quantizer.symmetric else not zero_point.any()
    assert (codes == np.rint(codes)).all()
    assert codes.min() >= quantizer.qmin
    assert codes.max() <= quantizer.qmax
    assert scale.shape == ((len(weight),) if quantizer.per_channel else (1,))
    assert (np.isfinite(scale) & (scale >= F(SMALLEST_SCALE))).all()
    assert codes.dtype == scale.dtype == F
    if floor is not None:
        assert (scale >= (floor if quantizer.per_channel else floor.max())).all()


HAVE_ZERO = [q for q in WEIGHT_QUANTIZERS if not isinstance(q, (DOREFA, BINARY, Q_BINARY, PO2))]


@settings(max_examples=200, deadline=None)
@given(WEIGHTS, st.sampled_from(HAVE_ZERO))
def test_zero_stays_zero(weight: Array, quantizer: BaseWeightQuantizer) -> None:
    weight = weight.copy()
    weight[..., 0] = 0.0
    assert (quantize(quantizer, weight, own_params(quantizer, weight)).centred[..., 0] == 0).all()


def is_idempotent(quantizer: BaseWeightQuantizer) -> bool:
    """QKeras's alpha is multiplied to what was rounded, and its least squares are not quite that of equal numbers."""
    if isinstance(quantizer, Q_BITS):
        return quantizer.alpha in (None, 1, "auto")
    return not isinstance(quantizer, Q_TERNARY) or quantizer.alpha is None


@settings(max_examples=200, deadline=None)
@given(WEIGHTS, st.sampled_from([quantizer for quantizer in HAVE_ZERO if is_idempotent(quantizer)]))
def test_what_was_quantized_stays_as_it_is(weight: Array, quantizer: BaseWeightQuantizer) -> None:
    """On its own scale, where that is a parameter."""
    own = own_params(quantizer, weight)
    if own:
        of_numpy = {name: np.atleast_1d(array) for name, array in own.items()}
        own |= quantizer.observe(NUMPY_OPS, weight, of_numpy)
    first = quantize(quantizer, weight, own)
    again = quantize(quantizer, real(first), own)
    if not isinstance(quantizer, qat.WeightQuantizer):  # whose power of two may shrink, with the values unchanged
        np.testing.assert_array_equal(again.centred, first.centred)
    np.testing.assert_allclose(real(again), real(first), rtol=1e-6)  # a mean of equal numbers is rounded


@pytest.mark.parametrize("quantizer", [DOREFA(3), BINARY(), Q_BINARY(), Q_BINARY(alpha="auto_po2")], ids=str)
def test_some_have_no_code_for_zero(quantizer: BaseWeightQuantizer) -> None:
    codes = quantize(quantizer, np.zeros((2, 3), F), {}).centred
    assert (np.abs(codes) == 1).all()


def zero_code(quantizer: BaseActivationQuantizer) -> float:
    """Of the number 0: signs and powers of two have none, and give 1."""
    return float(quantizer.by_sign or isinstance(quantizer, (qat.QKerasPo2ActivationQuantizer, RELU_PO2)))


@settings(max_examples=200, deadline=None)
@given(
    arrays(np.float32, (8,), elements=st.floats(-100, 100, width=32)),
    ANY_ACTIVATION_QUANTIZER,
    st.booleans(),
    st.floats(2.0**-20, 2.0**20, width=32),
)
def test_activation_codes_are_within_the_range_and_stay_as_they_are(
    x: Array, quantizer: BaseActivationQuantizer, non_negative: bool, size: float
) -> None:
    assume(not quantizer.refuses(non_negative))
    x = np.concatenate([x, np.zeros(1, F)]).reshape(1, -1)
    x = np.abs(x) if non_negative else x
    names = quantizer.params(non_negative)
    own = {name: np.full(1, size * (-1 if "offset" in name else 1), F) for name in names}
    grid = qat.FakeQuant(quantizer, non_negative).grid("x", {name: array[0] for name, array in own.items()})
    y = quantizer.quantize(NUMPY_OPS, Value(x), own, [], non_negative, 9)
    assert y.scale == grid.scale
    assert (y.data == np.rint(y.data)).all()
    assert y.data.min() >= grid.low
    assert y.data.max() <= grid.high
    assert y.data[0, -1] == zero_code(quantizer)
    assert grid.qmin + 256 * (quantizer.symmetric or quantizer.qmin < 0) >= 0
    assert grid.qmax <= quantizer.qmax
    if getattr(quantizer, "negative_slope", 0):
        return  # the slope would be applied again
    again = quantizer.quantize(NUMPY_OPS, Value(y.data * y.scale), own, [], non_negative, 9)
    np.testing.assert_array_equal(again.data, y.data)


@pytest.mark.parametrize(
    "quantizer",
    [*WEIGHT_QUANTIZERS, *ACTIVATION_QUANTIZERS, qat.GTCWeightQuantizer(3), qat.GTCActivationQuantizer(5)],
    ids=str,
)
def test_a_quantizer_survives_json(quantizer: Quantizer) -> None:
    assert from_json(json.loads(json.dumps(quantizer.to_json())), Quantizer) == quantizer


@pytest.mark.parametrize("scale", [-1.0, 0.0])
def test_a_learned_scale_stays_positive_and_can_come_back(scale: float) -> None:
    """Training may carry it below 0; its gradient still flows."""
    change = torch.tensor(scale - 0.5, requires_grad=True)
    own = {"scale_change": change, "initial_scale": torch.tensor(0.5)}
    codes = LSQ(4).quantize(OPS, torch.ones(2, 3), None, own)
    assert codes.scale.item() == 0.5 * 2.0**-10
    (codes.centred * codes.scale).sum().backward()
    assert change.grad > 0


# -- deployment -------------------------------------------------------------------------------------------------------

RNG = np.random.default_rng(0)
IMAGES, LABELS = RNG.integers(0, 256, (32, 1, 32, 32), np.uint8), RNG.integers(0, 10, 32)
COLOURS = RNG.integers(0, 256, (32, 3, 8, 8), np.uint8)


class Residual(qat.Network):
    """Batch normalisation, a shared grid, a table, negative numbers and a ReLU6."""

    inputs = qat.Input((3, 8, 8), mean=0.5, std=0.25)

    def __init__(self) -> None:
        self.norm = qat.BatchNorm(3)
        self.conv1 = qat.Conv2dBnAct(3, 8, 3, has_bn=True, activation="relu6")
        self.conv2 = qat.Conv2dBnAct(8, 8, 3, has_bn=True, has_bias=True)
        self.conv3 = qat.Conv2dBnAct(8, 8, 1, has_bn=True, activation="hswish")
        self.add, self.pool, self.flatten = qat.Add("relu"), qat.MaxPool2d(2), qat.Flatten()
        self.fc = qat.DenseBnAct(128, 10)

    def construct(self, x):
        x = self.conv1(self.norm(x))
        x = self.pool(self.add(self.conv2(x), x))
        return self.fc(self.flatten(self.conv3(x)))


@cache
def trained(network: type[qat.Network], weights: Quantizer | None, activations: Quantizer | None, bn_fold: bool):
    graph = qat.convert_quant_network(
        network(), weight_quantizer=weights, activation_quantizer=activations, bn_fold=bn_fold
    )
    model = TORCH.lower(graph)
    step = TORCH.make_step(model, Optimizer(name="adam"))
    images = IMAGES if network is LeNet5 else COLOURS
    losses = [step(images, LABELS, 2e-3) for _ in range(12)]
    assert np.isfinite(losses).all()
    return graph, TORCH.read(model), model, images, losses


def assert_deploys(graph, params, model, images: Array, folder: Path) -> None:
    """Every code of every node: NumPy, torch, ONNX Runtime."""
    integers = qat.to_integer(graph, params)
    tensors = [node.output for node in integers.nodes]
    reference = trace_codes(integers, images, [tensor.name for tensor in tensors])
    ONNX.export(integers, folder / "net.onnx")
    by_torch = TORCH.trace(model, images, tensors)
    by_onnx = ONNX.trace(folder / "net.onnx", images, tensors)
    assert len(by_onnx) == len(tensors) - 1  # all but the input
    for name, codes in reference.items():
        np.testing.assert_array_equal(by_torch[name], codes, err_msg=f"torch, {name}")
        if name in by_onnx:
            np.testing.assert_array_equal(by_onnx[name], codes, err_msg=f"ONNX Runtime, {name}")
    final = integers.output.grid.codes_of(ONNX.predict(folder / "net.onnx", images))
    np.testing.assert_array_equal(final, reference[integers.output.name])


DEPLOYED = [
    (LSQ(4, per_channel=True), LSQ_A(4), True),
    (LSQ(2), LSQ_A(3, offset=True), True),
    (LSQ(3, narrow_range=True), LSQ_A(8, symmetric=True), False),
    (DOREFA(3), PACT(4), False),
    (DOREFA(7), PACT(8, symmetric=True), False),
    (TERNARY(per_channel=True), PACT(5), True),
    (TERNARY(scale="constant"), None, False),
    (BINARY(per_channel=True), LSQ_A(4), True),
    (BINARY(scale="constant"), None, False),
    (qat.WeightQuantizer(4, power_of_two=True), LSQ_A(2), True),
    (qat.GTCWeightQuantizer(), qat.GTCActivationQuantizer(), True),
    (qat.LearnedWidthWeightQuantizer(5, per_channel=True), qat.LearnedWidthActivationQuantizer(6), True),
    (None, qat.LearnedWidthActivationQuantizer(5, symmetric=True), False),
    (qat.GTCWeightQuantizer(3), qat.GTCActivationQuantizer(2), False),
]


@pytest.mark.parametrize("network", [LeNet5, Residual])
@pytest.mark.parametrize(("weights", "activations", "bn_fold"), DEPLOYED, ids=str)
def test_a_trained_network_deploys_with_equal_codes(
    network, weights, activations, bn_fold: bool, tmp_path: Path
) -> None:
    graph, params, model, images, _ = trained(network, weights, activations, bn_fold)
    assert_deploys(graph, params, model, images, tmp_path)
    quantizers = [(node.name, node.cell.weight_quantizer) for node in graph.nodes if node.cell.params().get("weight")]
    for name, quantizer in quantizers:
        (node,) = (node for node in qat.to_integer(graph, params).nodes if node.name == name)
        assert quantizer == (weights or qat.WeightQuantizer(per_channel=True))
        assert quantizer.qmin <= node.weight.min() <= node.weight.max() <= quantizer.qmax


def test_the_family_is_complete() -> None:
    known = (cls for cls in Serializable.registry.values() if issubclass(cls, Quantizer) and "Base" not in cls.__name__)
    classes = {
        cls for cls in known if cls is not Quantizer and not cls.__name__.startswith("_") and cls is not FixedGrid
    }
    assert classes == {type(quantizer) for pair in FAMILY.values() for quantizer in pair[:2]}


def test_every_class_of_the_family_is_compared_with_its_formula() -> None:
    classes = {type(quantizer) for pair in FAMILY.values() for quantizer in pair[:2]}
    elsewhere = {
        qat.ActivationQuantizer,  # test_quantizers.py
        *(qat.GTCWeightQuantizer, qat.GTCActivationQuantizer),  # test_gtc.py
        qat.LearnedWidthWeightQuantizer,  # test_objectives.py
    }
    assert classes - elsewhere == {type(quantizer) for quantizer in (*WEIGHT_QUANTIZERS, *ACTIVATION_QUANTIZERS)}


@pytest.mark.parametrize("name", FAMILY)
def test_every_pair_of_the_family_trains_and_deploys(name: str, tmp_path: Path) -> None:
    graph = qat.convert_quant_network(LeNet5(activation=FAMILY[name].activation), **FAMILY[name].settings("fc3"))
    model = TORCH.lower(graph)
    step = TORCH.make_step(model, Optimizer(name="adam"))
    losses = [step(IMAGES, LABELS, 2e-3) for _ in range(12)]
    assert losses[-1] < losses[0]
    assert_deploys(graph, TORCH.read(model), model, IMAGES, tmp_path)


@pytest.mark.parametrize("name", FAMILY)
def test_every_pair_of_the_family_deploys_while_it_is_idle(name: str, tmp_path: Path) -> None:
    """After a single step before quant_delay, when nothing was ever quantized."""
    pair = FAMILY[name]
    pair = pair._replace(**{side: replace(getattr(pair, side), quant_delay=9) for side in ("weights", "activations")})
    graph = qat.convert_quant_network(LeNet5(activation=pair.activation), **pair.settings("fc3"), quant_delay=9)
    model = TORCH.lower(graph)
    TORCH.make_step(model, Optimizer())(IMAGES, LABELS, 1e-3)
    assert_deploys(graph, TORCH.read(model), model, IMAGES, tmp_path)


def test_learned_scales_are_learned_and_begin_once() -> None:
    graph, params, _, images, losses = trained(LeNet5, LSQ(4, per_channel=True), LSQ_A(4), True)
    assert losses[-1] < losses[0]
    changes = [name for name in params if name.endswith("scale_change")]
    assert len(changes) == 10
    assert all(params[name].any() for name in changes)
    step = TORCH.make_step(TORCH.lower(graph, params), Optimizer())
    step(images, LABELS, 0.1)
    for name in params:
        if "initial" in name:
            np.testing.assert_array_equal(TORCH.read(step.model)[name], params[name])


def test_a_power_of_two_deploys_as_one() -> None:
    graph, params, *_ = trained(LeNet5, qat.WeightQuantizer(4, power_of_two=True), LSQ_A(2), True)
    for node in qat.to_integer(graph, params).nodes:
        if hasattr(node, "weight_scale"):
            assert (np.frexp(node.weight_scale)[0] == 0.5).all()


@pytest.mark.parametrize(
    "activations",
    [
        LSQ_A(4),
        LSQ_A(4, offset=True),
        PACT(4),
        qat.GTCActivationQuantizer(),
        qat.LearnedWidthActivationQuantizer(6),
    ],
    ids=str,
)
def test_calibration_sets_what_a_quantizer_would_learn(activations: Quantizer, tmp_path: Path) -> None:
    """Without training: the grid has just room for what was seen."""
    network = Residual().graph()
    checkpoint = calibrate(network, network.initial_params(), COLOURS, activation_quantizer=activations)
    assert_deploys(
        checkpoint.graph, checkpoint.params, TORCH.lower(checkpoint.graph, checkpoint.params), COLOURS, tmp_path
    )


def test_a_grid_that_has_seen_nothing_is_an_error() -> None:
    graph = qat.convert_quant_network(LeNet5(), activation_quantizer=LSQ_A(4))
    with pytest.raises(qat.QatError, match=r"conv1\.fake_quant has never seen data"):
        qat.to_integer(graph, graph.initial_params())


# -- conversion -------------------------------------------------------------------------------------------------------


def weight_quantizers(graph: qat.Graph) -> dict[str, Quantizer]:
    found = {node.name: getattr(node.cell, "weight_quantizer", None) for node in graph.nodes}
    return {name: quantizer for name, quantizer in found.items() if quantizer is not None}


def test_layers_change_the_quantizer_that_they_would_have() -> None:
    graph = qat.convert_quant_network(
        LeNet5(),
        weight_quantizer=LSQ(4),
        activation_quantizer=PACT(4),
        layers={
            "conv1": {"num_bits": (8, 6)},
            "fc*": {"weight_quantizer": BINARY()},
            "fc3": {"weight_quantizer": None, "activation_quantizer": None},
        },
    )
    expected = {"conv1": LSQ(8), "conv2": LSQ(4), "fc1": BINARY(), "fc2": BINARY()}
    assert weight_quantizers(graph) == expected | {"fc3": qat.WeightQuantizer(per_channel=True)}
    cells = {node.name: node.cell for node in graph.nodes}
    assert cells["conv1.fake_quant"].quantizer == PACT(6)
    assert cells["fc2.fake_quant"].quantizer == PACT(4)
    assert cells["fc3.fake_quant"].quantizer == qat.ActivationQuantizer()
    assert qat.Graph.from_json(graph.to_json()) == graph


def test_a_quantizer_may_be_given_in_its_json_form() -> None:
    """As a YAML file has it."""
    graph = qat.convert_quant_network(LeNet5(), weight_quantizer={"type": "LSQWeightQuantizer", "num_bits": 3})
    assert set(weight_quantizers(graph).values()) == {LSQ(3)}


def test_a_batch_normalisation_by_itself_keeps_its_range() -> None:
    graph = qat.convert_quant_network(Residual(), weight_quantizer=BINARY())
    assert weight_quantizers(graph)["norm"] == qat.WeightQuantizer(per_channel=True)


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ({"weight_quantizer": PACT()}, "is not a quantizer of weights"),
        ({"activation_quantizer": LSQ()}, "is not a quantizer of activations"),
        ({"weight_quantizer": 4}, "is not a quantizer of weights"),
        ({"weight_quantizer": LSQ(4), "profile": "ascend"}, "profile 'ascend' has quantizers of its own"),
        ({"weight_quantizer": DOREFA(4), "bn_fold": True}, "conv1: .*DoReFaWeightQuantizer needs bn_fold=False"),
        (
            {"weight_quantizer": BINARY(scale="constant"), "one_conv_fold": True},
            "BinaryWeightQuantizer needs bn_fold=False",
        ),
        ({"weight_quantizer": LSQ(4), "bn_fold": False}, "narrow_range=True"),
        ({"weight_quantizer": qat.WeightQuantizer(power_of_two=True), "bn_fold": False}, "no longer be powers of two"),
        ({"weight_quantizer": BINARY(), "layers": {"fc": {"num_bits": 8}}}, "num_bits is 8; use 1"),
        ({"layers": {"conv1": {"activation_quantizer": LSQ_A()}}}, "shares its grid with"),
        ({"weight_quantizer": Q_TERNARY(), "bn_fold": True}, "its scale is a constant whatever gamma is"),
        ({"weight_quantizer": Q_BITS(4), "bn_fold": False}, "narrow_range=True"),
        (
            {"layers": {"fc": {"activation_quantizer": LSQ_A(1)}}},
            r"fc\.fake_quant: its numbers may be negative, .* 1 bit cannot",
        ),
    ],
    ids=str,
)
def test_a_setting_that_cannot_be_is_refused_in_one_line(settings_: dict[str, object], message: str) -> None:
    with pytest.raises(qat.QatError, match=message) as raised:
        qat.convert_quant_network(Residual(), **settings_)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DOREFA(16), "num_bits is 16; use a whole number from 2 to 15"),
        (lambda: TERNARY(num_bits=3), "num_bits is 3; use 2"),
        (lambda: BINARY_A(num_bits=2), "num_bits is 2; use 1"),
        (lambda: BINARY_A(scale="none"), "scale is 'none'; use one of 'constant', 'mean'"),
        (lambda: BINARY_A(ema_decay=2.0), "ema_decay is 2.0; use a number from 0 to 1"),
        (lambda: qat.ActivationQuantizer(1, symmetric=True), "symmetric codes of 1 bit would be -1 and 0"),
        (lambda: DOREFA_A(17), "num_bits is 17; use a whole number from 1 to 16"),
        (lambda: Q_BITS(4, alpha="auto"), "use symmetric=True and narrow_range=True"),
        (lambda: Q_BITS(4, alpha="best"), "alpha is 'best'; use 'auto', 'auto_po2', a number greater than 0, or None"),
        (lambda: Q_BINARY(alpha=-1.0), "alpha is -1.0; use"),
        (lambda: Q_BITS(4, integer=0.5), "integer is 0.5; use a whole number"),
        (lambda: Q_BITS_A(4, symmetric=False, narrow_range=True), "narrow_range applies to signed codes"),
        (lambda: Q_TERNARY(threshold=0.0), "threshold is 0.0; use a number greater than 0"),
        (lambda: BINARY(scale="none"), "scale is 'none'; use one of 'mean', 'constant'"),
        (lambda: LSQ(symmetric=False), "symmetric is False, but its formula requires True"),
        (lambda: LSQ_A(symmetric=True, offset=True), "offset needs symmetric=False"),
        (lambda: PACT(initial_alpha=0.0), "initial_alpha is 0.0; use a number greater than 0"),
        (lambda: qat.WeightQuantizer(symmetric=False, power_of_two=True), "power_of_two needs symmetric=True"),
        (lambda: replace(LSQ(), num_bits=17), "LSQWeightQuantizer: num_bits is 17; use a whole number from 2 to 16"),
    ],
)
def test_a_wrong_field_is_refused_in_one_line(make, message: str) -> None:
    with pytest.raises(qat.QatError, match=message) as raised:
        make()
    assert "\n" not in str(raised.value)


# -- QKeras's own expected values -------------------------------------------------------------------------------------

FLOOR: dict[str, Any] = {"log2_rounding": "floor"}
QUADRATIC = FLOOR | {"quadratic_approximation": True}


@pytest.mark.parametrize(
    ("quantizer", "x", "expected"),
    [
        (PO2(3, max_value=0.5, **FLOOR), [-7, -0.12, -0.03, 0.01, 5], [-0.5, -0.0625, -0.0625, 0.0625, 0.5]),
        (PO2(4, **FLOOR), [-16, -7, -0.12, -0.03, 0, 0.01, 5, 10], [-8, -4, -0.0625, -0.0625, 0.0625, 0.0625, 4, 8]),
        (PO2(4, max_value=4.0, **FLOOR), [-7, -0.12, -0.03, 0, 0.01, 5], [-4, -0.0625, -0.0625, 0.0625, 0.0625, 4]),
        (
            PO2(4, **QUADRATIC),
            [0.01, 0.03, 0.06, 0.5, 1, 2, 5, 10, 16, 32],
            [0.00390625, 0.015625, 0.015625, 0.25, 1, 1, 4, 4, 16, 16],
        ),
        (
            PO2(4, **QUADRATIC),
            [-32, -16, -10, -5, -2, -1, -0.5, -0.03, -0.01],
            [-16, -16, -4, -4, -1, -1, -0.25, -0.015625, -0.00390625],
        ),
        (
            RELU_PO2(3, **QUADRATIC),
            [-10.0, -0.25, 0.25, 1.0, 1.99, 2.01, 5.0, 10.0, 16.0, 32.0],
            [0.0625, 0.0625, 0.25, 1.0, 1.0, 1.0, 4.0, 4.0, 16.0, 16.0],
        ),
        (RELU_PO2(3, max_value=4.0, **FLOOR), [-7.0, -0.12, -0.03, 0, 0.01, 5.0], [*[0.0625] * 5, 4.0]),
        (RELU_PO2(3, **FLOOR), [-16.0, -7.0, -0.12, -0.03, 0, 0.01, 5.0, 10.0], [*[0.0625] * 6, 4.0, 8.0]),
        (RELU_PO2(2, max_value=0.5, **FLOOR), [-7.0, -0.12, -0.03, 0.01, 5.0], [*[0.0625] * 4, 0.5]),
        (
            RELU_PO2(3, **QUADRATIC),
            [0.01, 0.03, 0.06, 0.5, 1, 2, 5, 10, 16, 32],
            [0.00390625, 0.015625, 0.015625, 0.25, 1, 1, 4, 4, 16, 16],
        ),
        (Q_BINARY(use_01=True, alpha=5.0), [-11.0, -7.0, -4.0, -0.2, 0.0, 0.3, 1, 4, 10], [0, 0, 0, 0, 5, 5, 5, 5, 5]),
    ],
    ids=str,
)
def test_qkeras_has_these_values(quantizer: Any, x: list[float], expected: list[float]) -> None:
    """Those of its tests whose powers integers can hold."""
    given = np.array([x], F)
    if isinstance(quantizer, BaseWeightQuantizer):
        found = real(quantizer.quantize(NUMPY_OPS, given))
    else:
        found = quantizer.quantize(NUMPY_OPS, Value(given), {}, [], False, len(x)).real(NUMPY_OPS)
    np.testing.assert_array_equal(found[0], np.array(expected, F))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PO2(8), r"^QKerasPo2WeightQuantizer: 8 bits .* from 2\^-64 to 2\^63, .* at most 14 octaves"),
        (lambda: PO2(5), "at most 14 octaves"),
        (lambda: PO2(3, max_value=0.001), r"from 2\^-4 to 2\^-10"),
        (lambda: PO2(3, max_value=0.0), "max_value is 0.0"),
        (lambda: PO2(3, log2_rounding="up"), "log2_rounding is 'up'"),
        (lambda: RELU_PO2(2, negative_slope=0.3), "negative_slope is 0.3"),
        (
            lambda: Q_RELU(4, negative_slope=0.0625),
            "negative_slope is 0.0625; use 0, or a power of two from 0.125 to 1",
        ),
        (lambda: Q_RELU(1, negative_slope=1.0), "1 bit with a negative_slope"),
    ],
)
def test_what_integers_cannot_hold_of_qkeras_is_refused(make: Any, message: str) -> None:
    with pytest.raises(qat.QatError, match=message):
        make()


# -- extreme weights --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("narrow_range", [False, True])
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("bits", [2, 3, 4, 8, 16])
def test_every_weight_within_its_own_range_has_the_gradient_that_pytorch_gives_it(
    bits: int, symmetric: bool, narrow_range: bool, per_channel: bool
) -> None:
    """1, the extreme weights of each channel included, whose numbers in steps lie beyond the last code by up to a half."""
    rng = np.random.default_rng(bits)
    w = (rng.normal(size=(200, 16)) * rng.lognormal(size=(200, 1)) + rng.normal(size=(200, 1))).astype(F)
    quantizer = qat.WeightQuantizer(bits, symmetric, narrow_range, per_channel=per_channel)
    ours, theirs = (torch.tensor(w, requires_grad=True) for _ in range(2))
    codes = quantizer.quantize(OPS, ours)
    (codes.centred * OPS.on_output(codes.scale, ours)).sum().backward()
    np.testing.assert_allclose(ours.grad.numpy(), 1.0, rtol=0, atol=TOLERANCE)
    zero_point = codes.scale * 0 if codes.zero_point is None else codes.zero_point
    scales, zeros = (x.detach().expand(len(w)).contiguous() for x in (codes.scale, zero_point))
    limits = (quantizer.qmin, quantizer.qmax)
    torch.fake_quantize_per_channel_affine(theirs, scales, zeros, 0, *limits).sum().backward()
    # Where a tie brings an extreme weight to a code more than there are, PyTorch masks it.
    assert (theirs.grad == ours.grad.round()).float().mean() >= 0.999
