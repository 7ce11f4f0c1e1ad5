"""One conformance suite for the vocabulary ``qat.vocabulary.ops.Ops``, over every implementation.

``ops_cases_*.py`` say what goes in and what must come out. Integers must be equal; floats are compared within a named
tolerance. ``conformance.py`` says how an implementation is run: to add a backend, add it there.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import ops_cases_elementwise
import ops_cases_fixed
import ops_cases_linear
import ops_cases_products
import ops_cases_reductions
import pytest
from conformance import (
    ADAPTERS,
    DEFAULTS,
    EXACT,
    FLOAT32_SUM,
    Adapter,
    Case,
    Result,
    assert_conforms,
    assert_same,
    with_defaults,
)
from ops_cases import activation, f32, integers, vector
from ops_cases_linear import WIDE_ROWS, WIDE_WEIGHT

from qat.vocabulary.numpy_ops import NumpyOps
from qat.vocabulary.ops import EXACT_INTEGERS, Ops

ALL = ADAPTERS | DEFAULTS
INF = np.inf
CASES = [
    *ops_cases_elementwise.CASES,
    *ops_cases_reductions.CASES,
    *ops_cases_linear.CASES,
    *ops_cases_products.CASES,
    *ops_cases_fixed.CASES,
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("adapter", ALL.values(), ids=ALL)
def test_value_and_gradients(adapter: Adapter, case: Case) -> None:
    (result,) = adapter.run([case])
    assert_conforms(case, result, differentiates=adapter.differentiates)


#: What is compiled: what cells and quantizers are made of, once or twice, since each case takes a second to compile.
COMPILED = (
    "+ - * /",
    "on_channel broadcasts a vector over the channels",
    "maximum and minimum broadcast",
    "relu",
    "round_ste",
    "channel_max of images",
    "output_absmax, conv",
    "output_mean, conv",
    "mean of images",
    "conv2d stride, uneven padding",
    "conv2d with sums just below 2^24",
    "conv2d wide: sums",
    "dense with sums just below 2^24",
    "dense wide, without bias",
    "max_pool2d 2x2, halving with",
    "max_pool2d uneven",
    "sum_pool2d uneven",
    "concat of images, along the channels",
    "concat of images, along their rows",
    "pick of channels",
    "pick of rows",
    "pick of features",
    "pad of every",
    "rearrange: channels",
    "rearrange: rows",
    "channel_mean of images",
    "sigmoid",
    "softmax of images",
    "max_over_channels of images",
    "sum_over_channels of images",
    "tanh",
    "softplus",
    "exp, to 1",
    "erf",
    "log_softmax",
    "log of",
    "power_of_two:",
    "ceil_ste",
    "sqrt of 0",
    "take: table",
    "batch_norm of images: y",
    "batch_norm of images: variance",
    "batch_norm of rows: y",
    "softmax_cross_entropy smoothed, of",
    "softmax_cross_entropy of logits whose",
    "moving_average: new",
    "requantize mask includes both",
    "requantize mask leaves 0 out",
    "requantize with a number and a tensor",
    "requantize with bounds for each output",
    "requantize real numbers",
    "int64: products",
    "shift_right floors, by bits",
    "cast of int64",
    "dense of float64",
    "conv2d of float64",
    "matmul of float64",
    "requantize_fixed rounds twice",
    "requantize_fixed next to ties",
    "int64: FixedMultiplier",
    "rounded_product: a FixedMultiplier",
)


def test_every_name_in_the_list_of_compiled_cases_names_one() -> None:
    for start in COMPILED:
        assert [case.name.startswith(start) for case in CASES].count(True) == 1, start


@pytest.mark.parametrize("name", [name for name, adapter in ADAPTERS.items() if adapter.compiles])
def test_compiled_values_and_gradients(name: str) -> None:
    """Many cases in one compiled function, as training compiles a whole step; a wrong case is reported by its name."""
    cases = [case for case in CASES if case.name.startswith(COMPILED)]
    failures = []
    for case, result in zip(cases, ADAPTERS[name].run(cases, compiled=True), strict=True):
        try:
            assert_conforms(case, result, differentiates=True)
        except AssertionError as error:
            failures.append(str(error))
    assert not failures, "\n".join(failures)


KINDS = {
    "activation": (2, 3, 4, 5),
    "conv_weight": (4, 3, 2, 5),
    "dense_weight": (4, 3),
    "vector": (5,),
    "scalar": (),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("adapter", ADAPTERS.values(), ids=ADAPTERS)
def test_from_numpy_and_back_keeps_every_bit(adapter: Adapter, kind: str) -> None:
    """Also of -0, of the smallest subnormal number and of infinity, and of an array that is not contiguous."""
    shape = KINDS[kind]
    array = np.random.default_rng(40).normal(size=(*shape, 2)).astype(np.float32)[..., 0]
    for special in (-0.0, 1e-45, INF, 16777215.0):
        array[(0,) * len(shape)] = special
        back = adapter.ops.to_numpy(adapter.ops.from_numpy(array, kind), kind)
        assert back.dtype == np.float32
        assert back.shape == shape
        assert back.tobytes() == np.ascontiguousarray(array).tobytes()


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int32])
@pytest.mark.parametrize("adapter", ADAPTERS.values(), ids=ADAPTERS)
def test_from_numpy_makes_float32_of_integers(adapter: Adapter, dtype: type[np.integer]) -> None:
    """Weight and bias codes of an integer graph come in as integers."""
    codes = np.array([[0, 1], [127, 64]], dtype)
    assert_same(
        adapter.ops.to_numpy(adapter.ops.from_numpy(codes, "dense_weight"), "dense_weight"), codes, EXACT, "codes"
    )


@pytest.mark.parametrize("stride", [(2, 2), (1, 2)], ids=str)
@pytest.mark.parametrize("adapter", ADAPTERS.values(), ids=ADAPTERS)
def test_the_gradient_of_equal_elements_in_a_pooling_window_goes_to_the_first(
    adapter: Adapter, stride: tuple[int, int]
) -> None:
    """Row by row, in every framework: codes are often equal, and training would depend on the framework."""
    rng = np.random.default_rng(0)
    x = rng.integers(0, 3, (2, 2, 8, 6)).astype(np.float32)
    rows, columns = ((size - 2) // step + 1 for size, step in zip(x.shape[2:], stride, strict=True))
    g = rng.integers(1, 9, (2, 2, rows, columns)).astype(np.float32)
    y, gradient = np.empty_like(g), np.zeros_like(x)
    for n, c, i, j in np.ndindex(g.shape):
        top, left = i * stride[0], j * stride[1]
        window = x[n, c, top : top + 2, left : left + 2]
        y[n, c, i, j] = window.max()
        row, column = np.unravel_index(window.argmax(), window.shape)  # argmax gives the first
        gradient[n, c, top + row, left + column] += g[n, c, i, j]
    case = Case(
        "ties",
        lambda ops, x: ops.max_pool2d(x, kernel=(2, 2), stride=stride, padding=(0, 0, 0, 0)),
        (activation(x),),
        "activation",
        y,
        g,
        (gradient,),
    )
    (result,) = adapter.run([case])
    assert_conforms(case, result, differentiates=adapter.differentiates)


RATES = (0.0, 0.25, 0.9)


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("adapter", ALL.values(), ids=ALL)
def test_drop_leaves_out_its_share_and_nothing_else(adapter: Adapter, rate: float) -> None:
    """Elements that stay are equal, not rescaled; the gradient goes to them alone. Not the same ones are left out twice,
    and no whole channel or image is.

    Of 60,000 elements the share is the rate within six standard deviations: a right one fails once in 5e8 runs.
    """
    x = np.random.default_rng(48).uniform(1, 2, (20, 3, 20, 50)).astype(np.float32)
    g = integers(49, x.shape, 1, 9)
    case = Case("drop", lambda ops, x: ops.drop(x, rate), (activation(x),), "activation", x, g, (None,))
    first, second = (adapter.run([case])[0] for _ in range(2))
    margin = 6 * (rate * (1 - rate) / x.size) ** 0.5
    for result in (first, second):
        assert_same(result.value, np.where(result.value == 0, 0, x), EXACT, "elements that stay")
        assert abs((result.value == 0).mean() - rate) <= margin
        if adapter.differentiates:
            assert_same(result.gradients[0], np.where(result.value == 0, 0, g), EXACT, "gradient")
    if rate > 0:
        dropped, again = first.value == 0, second.value == 0
        # Independent draws agree in rate^2 + (1 - rate)^2 of the elements.
        agree = rate**2 + (1 - rate) ** 2
        assert abs((dropped == again).mean() - agree) <= 6 * (agree * (1 - agree) / x.size) ** 0.5
        for axis in range(4):
            shares = dropped.mean(axis=tuple(i for i in range(4) if i != axis))
            assert (abs(shares - rate) <= margin * shares.size**0.5).all(), f"axis {axis}"


# -- the defaults of ``Ops`` against what overrides them --------------------------------------------------------------


def test_with_defaults_takes_every_override_away() -> None:
    assert vars(NumpyOps)["requantize"] is not Ops.requantize
    for adapter in DEFAULTS.values():
        for name in ("requantize", "moving_average", "output_absmax", "batch_norm", "reciprocal"):
            assert getattr(type(adapter.ops), name) is getattr(Ops, name)


@pytest.mark.parametrize("bounds", [(None, None, False), (-100.0, 27.0, False), (0.0, 27.0, True)])
@pytest.mark.parametrize("name", ADAPTERS)
def test_requantize_computes_what_its_default_computes(
    name: str, bounds: tuple[float | None, float | None, bool]
) -> None:
    """Equal values and gradients of accumulators and of a multiplier for each channel, whose sums are exact here."""
    low, high, open_low = bounds
    acc = integers(41, (4, 3, 5, 5), -300, 300)
    case = Case(
        "requantize",
        lambda ops, x, m: ops.requantize(x, ops.on_channel(m, x), low, high, open_low=open_low),
        (activation(acc), vector([0.5, 0.25, 0.371])),
        "activation",
        acc,
        integers(42, acc.shape, -9, 9),
        (None, None),
    )
    (own,) = ADAPTERS[name].run([case])
    (default,) = DEFAULTS[f"{name}, defaults"].run([case])
    assert_same(own.value, default.value, EXACT, "value")
    assert len(own.gradients) == len(default.gradients) == (2 if ADAPTERS[name].differentiates else 0)
    for found, expected in zip(own.gradients, default.gradients, strict=True):
        assert_same(found, expected, EXACT, "gradient")


@pytest.mark.parametrize("shape", [(8, 4), (5, 4, 7, 6), (1, 4, 3, 3), (64, 4, 1, 1)], ids=str)
@pytest.mark.parametrize("name", ADAPTERS)
def test_batch_norm_computes_what_its_default_computes(name: str, shape: tuple[int, ...]) -> None:
    """Value, mean, variance, and gradients within the tolerance of float sums; a channel has gamma 0."""
    rng = np.random.default_rng(50)
    x, g = rng.normal(0.5, 1.5, shape), integers(51, shape, -3, 3)
    inputs = (activation(x), vector([1.5, -0.7, 0, 1]), vector([0.25, -1, 3, 0]))
    each = f32([1, 2, 3, 4])
    for position, (output, like) in enumerate((("activation", g), ("vector", each), ("vector", each))):
        case = Case(
            "batch_norm",
            lambda ops, x, gamma, beta, position=position: ops.batch_norm(x, gamma, beta, 1e-5)[position],
            inputs,
            output,
            like,
            like,
            (None, None, None),
        )
        (own,), (default,) = ADAPTERS[name].run([case]), DEFAULTS[f"{name}, defaults"].run([case])
        assert_same(own.value, default.value, FLOAT32_SUM, f"result {position}")
        assert len(own.gradients) == len(default.gradients) == (3 if ADAPTERS[name].differentiates else 0)
        for found, expected in zip(own.gradients, default.gradients, strict=True):
            assert_same(found, expected, FLOAT32_SUM, f"gradient of result {position}")


# -- the suite itself can fail ----------------------------------------------------------------------------------------


def test_the_wide_cases_are_wrong_without_wide() -> None:
    """Otherwise they would not tell whether ``wide`` does anything."""
    exact = (WIDE_ROWS.astype(np.int64)[:, None, :] * WIDE_WEIGHT.astype(np.int64)[None, :, :]).sum(axis=2)
    narrow = np.zeros(exact.shape, np.float32)
    for i in range(WIDE_ROWS.shape[1]):
        narrow += WIDE_ROWS[:, i, None] * WIDE_WEIGHT[None, :, i]
    assert exact.min() > EXACT_INTEGERS
    assert (narrow != exact.astype(np.float32)).any()
    for case in CASES:
        if "wide" in case.name:
            assert np.abs(case.value).max() > EXACT_INTEGERS, case.name


def _wrong_results() -> dict[str, tuple[Case, Result]]:
    """Results that are wrong in one way each."""
    case = next(case for case in CASES if case.name.startswith("requantize mask includes both"))
    value, gradients = case.value.astype(np.float32), tuple(g.copy() for g in case.gradients)
    off, inexact, nan = value.copy(), value.copy(), value.copy()
    off[3] += 1
    inexact[3] = np.nextafter(inexact[3], np.float32(INF))
    nan[3] = np.nan
    exclusive = gradients[0].copy()
    exclusive[1] = 0  # the mask without the lower bound
    good = Result(value, gradients)
    real = next(case for case in CASES if case.name.startswith("softmax_cross_entropy of moderate"))
    loss, loss_gradients = real.value.astype(np.float32), (real.gradients[0], None)
    return {
        "a code off by one": (case, replace(good, value=off)),
        "a code that is no integer": (case, replace(good, value=inexact)),
        "NaN": (case, replace(good, value=nan)),
        "float64": (case, replace(good, value=value.astype(np.float64))),
        "another shape": (case, replace(good, value=value[:, None])),
        "a scalar for a vector": (case, replace(good, value=value[0])),
        "a mask without its bound": (case, replace(good, gradients=(exclusive, gradients[1]))),
        "another gradient to the multiplier": (case, replace(good, gradients=(gradients[0], gradients[1] + 1))),
        "a missing gradient": (case, replace(good, gradients=gradients[:1])),
        "a gradient of None": (case, replace(good, gradients=(gradients[0], None))),
        "a loss beyond the tolerance": (real, Result(loss + np.float32(4e-6), loss_gradients)),
        "a loss gradient beyond the tolerance": (real, Result(loss, (loss_gradients[0] * np.float32(1.00001), None))),
    }


@pytest.mark.parametrize("what", _wrong_results())
def test_a_wrong_result_fails(what: str) -> None:
    case, result = _wrong_results()[what]
    with pytest.raises((AssertionError, ValueError)):
        assert_conforms(case, result, differentiates=True)


def test_the_right_result_passes() -> None:
    """So that the test above fails for the reason it names."""
    for case, _ in _wrong_results().values():
        right = Result(case.value.astype(np.float32), case.gradients)
        assert_conforms(case, right, differentiates=True)


def test_a_backend_with_a_wrong_function_fails() -> None:
    """The whole way: an implementation that rounds ties away from 0, as C's round() does, conforms nowhere they matter."""

    class TiesAway(with_defaults(NumpyOps)):
        def rint(self, x):
            return np.trunc(x + np.copysign(np.float32(0.5), x))

        round_ste = rint

    adapter = type(ADAPTERS["numpy"])(TiesAway())
    failed = set()
    for case in CASES:
        try:
            assert_conforms(case, adapter.run([case])[0], differentiates=False)
        except AssertionError:
            failed.add(case.name.partition(" ")[0].rstrip(":"))
    assert failed == {"rint", "round_ste", "requantize", "codes"}
