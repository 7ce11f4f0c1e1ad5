"""One conformance suite for the vocabulary ``qat.ops.Ops``, over every implementation.

Each case states what goes in and what must come out: values written out by hand or computed by plain loops over int64 or
float64, never by ``NumpyOps``, and the gradients that the docstrings of ``Ops`` promise. Integers must be equal; floats
are compared within a named tolerance. ``conformance.py`` says how an implementation is run: to add a backend, add it there.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from conformance import (
    ADAPTERS,
    DEFAULTS,
    EXACT,
    FLOAT32_SUM,
    Adapter,
    Argument,
    Array,
    Case,
    Result,
    assert_conforms,
    assert_same,
    with_defaults,
)

from qat.numpy_ops import NumpyOps
from qat.ops import EXACT_INTEGERS, Ops

ALL = ADAPTERS | DEFAULTS
INF = np.inf


def f32(values: object) -> Array:
    return np.array(values, np.float32)


def activation(values: object) -> Argument:
    return Argument(f32(values), "activation")


def conv_weight(values: object) -> Argument:
    return Argument(f32(values), "conv_weight")


def dense_weight(values: object) -> Argument:
    return Argument(f32(values), "dense_weight")


def vector(values: object) -> Argument:
    return Argument(f32(values), "vector")


def scalar(value: float) -> Argument:
    return Argument(f32(value), "scalar")


def integers(seed: int, shape: tuple[int, ...], low: int, high: int) -> Array:
    """Integers from low to high, both included."""
    return np.random.default_rng(seed).integers(low, high + 1, shape).astype(np.float32)


CASES: list[Case] = []


def add(name, function, inputs, output, value, cotangent=None, gradients=(), **tolerances) -> None:
    """Append a case; arrays may be given as lists."""
    as_array = [None if g is None else f32(g) for g in gradients]
    CASES.append(
        Case(
            name,
            function,
            tuple(inputs),
            output,
            np.asarray(value),
            None if cotangent is None else f32(cotangent),
            tuple(as_array),
            **tolerances,
        )
    )


# -- arithmetic and broadcasting --------------------------------------------------------------------------------------

add(
    "+ - * / and unary minus, with tensors and with numbers on either side",
    lambda ops, x, y: (1.0 + x + y) * 2.0 - x / 4.0 - (-y) * y + (3.0 - y) + 0.5 * x,
    [vector([1, -2, 8]), vector([2, 0.5, -4])],
    "vector",
    # 2 + 2x + 2y - x/4 + y^2 + 3 - y + x/2
    [2 + 2 + 4 - 0.25 + 4 + 3 - 2 + 0.5, 2 - 4 + 1 + 0.5 + 0.25 + 3 - 0.5 - 1, 2 + 16 - 8 - 2 + 16 + 3 + 4 + 4],
    cotangent=[1, 2, 4],
    gradients=[[2.25, 4.5, 9.0], [5.0, 4.0, -28.0]],  # 2.25 g, (2 + 2y - 1) g
)
add(
    "quotient of tensors, and reciprocal",
    lambda ops, x, y: x / y + 1.0 / y,
    [vector([1, -7, 9]), vector([4, 2, -8])],
    "vector",
    [0.5, -3.0, -1.25],
    cotangent=[1, 2, 4],
    gradients=[[0.25, 1.0, -0.5], [-0.125, 3.0, -0.625]],  # g / y, -g (x + 1) / y^2
)

IMAGE = integers(1, (2, 3, 2, 2), -9, 9)
IMAGE_COTANGENT = integers(2, (2, 3, 2, 2), -9, 9)
CHANNELS = f32([2, -1, 0.5])
add(
    "on_channel broadcasts a vector over the channels of an image",
    lambda ops, x, v: x * ops.on_channel(v, x),
    [activation(IMAGE), vector(CHANNELS)],
    "activation",
    np.stack([IMAGE[:, 0] * 2, IMAGE[:, 1] * -1, IMAGE[:, 2] * 0.5], axis=1),
    cotangent=IMAGE_COTANGENT,
    gradients=[
        np.stack([IMAGE_COTANGENT[:, 0] * 2, IMAGE_COTANGENT[:, 1] * -1, IMAGE_COTANGENT[:, 2] * 0.5], axis=1),
        [(IMAGE_COTANGENT[:, c] * IMAGE[:, c]).sum() for c in range(3)],
    ],
)
add(
    "on_channel broadcasts a vector over the features of a row",
    lambda ops, x, v: x * ops.on_channel(v, x),
    [activation([[1, 2, 3], [4, 5, 6]]), vector(CHANNELS)],
    "activation",
    [[2, -2, 1.5], [8, -5, 3]],
    cotangent=[[1, 1, 2], [1, -1, 2]],
    gradients=[[[2, -1, 1], [2, 1, 1]], [5, -3, 18]],
)
add(
    "on_channel broadcasts a scalar over an image",
    lambda ops, x, s: x * ops.on_channel(s, x),
    [activation(IMAGE), scalar(4)],
    "activation",
    IMAGE * 4,
    cotangent=IMAGE_COTANGENT,
    gradients=[IMAGE_COTANGENT * 4, (IMAGE_COTANGENT * IMAGE).sum()],
)
KERNELS = integers(3, (3, 2, 1, 2), -9, 9)
KERNELS_COTANGENT = integers(4, (3, 2, 1, 2), -9, 9)
add(
    "on_output broadcasts a vector over the outputs of a convolution's weight",
    lambda ops, w, v: w * ops.on_output(v, w),
    [conv_weight(KERNELS), vector(CHANNELS)],
    "conv_weight",
    np.stack([KERNELS[0] * 2, KERNELS[1] * -1, KERNELS[2] * 0.5]),
    cotangent=KERNELS_COTANGENT,
    gradients=[
        np.stack([KERNELS_COTANGENT[0] * 2, KERNELS_COTANGENT[1] * -1, KERNELS_COTANGENT[2] * 0.5]),
        [(KERNELS_COTANGENT[o] * KERNELS[o]).sum() for o in range(3)],
    ],
)
add(
    "on_output broadcasts a vector over the outputs of a dense weight",
    lambda ops, w, v: w * ops.on_output(v, w),
    [dense_weight([[1, 2], [3, 4], [5, 6]]), vector(CHANNELS)],
    "dense_weight",
    [[2, 4], [-3, -4], [2.5, 3]],
    cotangent=[[1, 1], [1, -1], [2, 2]],
    gradients=[[[2, 2], [-1, 1], [1, 1]], [3, -1, 22]],
)
add(
    "on_output broadcasts a scalar over a weight",
    lambda ops, w, s: w * ops.on_output(s, w),
    [dense_weight([[1, 2], [3, 4]]), scalar(-2)],
    "dense_weight",
    [[-2, -4], [-6, -8]],
    cotangent=[[1, 0], [2, 1]],
    gradients=[[[-2, 0], [-4, -2]], 1 + 6 + 4],
)

# -- elementwise ------------------------------------------------------------------------------------------------------

add(
    "maximum of tensors: the gradient goes to the larger",
    lambda ops, x, y: ops.maximum(x, y),
    [vector([-3, 2, 5, -1]), vector([-2, 1, 7, -4])],
    "vector",
    [-2, 2, 7, -1],
    cotangent=[1, 2, 3, 4],
    gradients=[[0, 2, 0, 4], [1, 0, 3, 0]],
)
add(
    "maximum with a number",
    lambda ops, x: ops.maximum(x, -1.5),
    [vector([-3, -1, 5, -2])],
    "vector",
    [-1.5, -1, 5, -1.5],
    cotangent=[1, 2, 3, 4],
    gradients=[[0, 2, 3, 0]],
)
add(
    "minimum of tensors: the gradient goes to the smaller",
    lambda ops, x, y: ops.minimum(x, y),
    [vector([-3, 2, 5, -1]), vector([-2, 1, 7, -4])],
    "vector",
    [-3, 1, 5, -4],
    cotangent=[1, 2, 3, 4],
    gradients=[[1, 0, 3, 0], [0, 2, 0, 4]],
)
add(
    "minimum with a number",
    lambda ops, x: ops.minimum(x, 2.5),
    [vector([-3, 2, 5, 3])],
    "vector",
    [-3, 2, 2.5, 2.5],
    cotangent=[1, 2, 3, 4],
    gradients=[[1, 2, 0, 0]],
)
add(
    "maximum and minimum broadcast a scalar tensor",
    lambda ops, x, low, high: ops.minimum(ops.maximum(x, low), high),
    [vector([-3, 2, 5, 3]), scalar(-1), scalar(4)],
    "vector",
    [-1, 2, 4, 3],
    cotangent=[1, 2, 3, 4],
    gradients=[[0, 2, 0, 4], 1, 3],
)
add(
    "relu: gradient 0 at 0 and at -0",
    lambda ops, x: ops.relu(x),
    [vector([-2, -0.0, 0, 1e-30, 3])],
    "vector",
    f32([0, 0, 0, 1e-30, 3]),
    cotangent=[1, 2, 3, 4, 5],
    gradients=[[0, 0, 0, 4, 5]],
)
add(
    "abs",
    lambda ops, x: ops.abs(x),
    [vector([-2, -0.5, 3])],
    "vector",
    [2, 0.5, 3],
    cotangent=[1, 2, 3],
    gradients=[[-1, -2, 3]],
)
add(
    "sqrt",
    lambda ops, x: ops.sqrt(x),
    [vector([0.25, 1, 9, 16])],
    "vector",
    [0.5, 1, 3, 4],
    cotangent=[1, 2, 3, 4],
    gradients=[[1, 1, 0.5, 0.5]],  # g / (2 sqrt(x))
)
add(
    "sqrt of 0, and of numbers at both ends of the range",
    lambda ops, x: ops.sqrt(x),
    [vector([0, 2.0**-126, 2.0**126])],
    "vector",
    f32([0, 2.0**-63, 2.0**63]),
)
add(
    "reciprocal",
    lambda ops, x: ops.reciprocal(x),
    [vector([4, -0.5, 2.0**-60])],
    "vector",
    f32([0.25, -2, 2.0**60]),
    cotangent=[16, 3, 2.0**-100],
    gradients=[[-1, -12, -(2.0**20)]],  # -g / x^2
)
_x = np.array([-100, -8, -1.5, -0.25, 0, 0.25, 1.5, 8, 100])  # the ends overflow exp in float32
_g = np.arange(1, 10)
_sigmoid = 1 / (1 + np.exp(-_x))
add(
    "sigmoid",
    lambda ops, x: ops.sigmoid(x),
    [vector(_x)],
    "vector",
    _sigmoid,
    cotangent=_g,
    gradients=[_g * _sigmoid * (1 - _sigmoid)],
    tolerance=FLOAT32_SUM,
    gradient_tolerance=FLOAT32_SUM,
)
_logits = np.array([[3.0, -1.0, 0.5], [200.0, 199.0, -300.0]])  # exp overflows in float32 where nothing is subtracted
_shares = np.exp(_logits - _logits.max(axis=1, keepdims=True))
_shares /= _shares.sum(axis=1, keepdims=True)
_cotangent = np.array([[1.0, 2.0, -4.0], [3.0, -2.0, 1.0]])
_gradient = _shares * (_cotangent - (_shares * _cotangent).sum(axis=1, keepdims=True))
for _what, _axes in (("rows", (2, 3)), ("images", (2, 3, 1, 1))):
    add(
        f"softmax of {_what}",
        lambda ops, x: ops.softmax(x),
        [activation(_logits.reshape(_axes))],
        "activation",
        _shares.reshape(_axes),
        cotangent=_cotangent.reshape(_axes),
        gradients=[_gradient.reshape(_axes)],
        tolerance=FLOAT32_SUM,
        gradient_tolerance=FLOAT32_SUM,
    )
_rows = np.array([[1.5, -2.0, 0.25], [60.0, -70.0, 59.0], [-3.0, -3.0, -3.0]])
_weighted = np.array([[1.0, 2.0, -0.5], [3.0, 1.0, 0.5], [0.0, 4.0, -2.0]])
_log_shares = _rows - np.log(np.exp(_rows).sum(axis=1, keepdims=True))
add(
    "log_softmax, also of shares that float32 does not hold",
    lambda ops, x: ops.log_softmax(x),
    [activation(_rows)],
    "activation",
    _log_shares,
    cotangent=_weighted,
    gradients=[_weighted - np.exp(_log_shares) * _weighted.sum(axis=1, keepdims=True)],
    tolerance=FLOAT32_SUM,
    gradient_tolerance=FLOAT32_SUM,
)
_positive = f32([1, 2.0**-126, 0.75, 1.0000001, 2.0**120, 1e-6, 40])
add(
    "log of numbers small and large",
    lambda ops, x: ops.log(x),
    [vector(_positive)],
    "vector",
    np.log(_positive.astype(np.float64)),
    cotangent=[1, 2.0**-126, 3, -1, 2.0**120, 1e-6, 8],
    gradients=[f32([1, 1, 4, f32(-1) / _positive[3], 1, 1, 0.2])],
    tolerance=FLOAT32_SUM,
    gradient_tolerance=FLOAT32_SUM,
)
add(
    "power_of_two: exact, from the smallest to the largest",
    lambda ops, x: ops.power_of_two(x),
    [vector(np.arange(-126, 128))],
    "vector",
    f32([np.ldexp(1.0, k) for k in range(-126, 128)]),
)
add(
    "ceil_ste: up, straight through",
    lambda ops, x: ops.ceil_ste(x),
    [vector([-1.5, -1, -0.25, 0, 0.25, 2, 2.5, 2.9999998, 7.0000005])],
    "vector",
    [-1, -1, 0, 0, 1, 2, 3, 3, 8],
    cotangent=[1, 2, 3, 4, 5, 6, 7, 8, 9],
    gradients=[[1, 2, 3, 4, 5, 6, 7, 8, 9]],
)
add(
    "tanh",
    lambda ops, x: ops.tanh(x),
    [vector(_x)],
    "vector",
    np.tanh(_x),
    cotangent=_g,
    gradients=[_g * (1 - np.tanh(_x) ** 2)],
    tolerance=FLOAT32_SUM,
    gradient_tolerance=FLOAT32_SUM,
)
add(
    "take: table[index] for each element of an image",
    lambda ops, table, x: ops.take(table, x),
    [vector([-7, 5, 0.5, 16777215]), activation([[[[3, 0], [1, 1]], [[2, 3], [0, 2]]]])],
    "activation",
    f32([[[[16777215, -7], [5, 5]], [[0.5, 16777215], [-7, 0.5]]]]),
)
add(
    "take of rows",
    lambda ops, table, x: ops.take(table, x),
    [vector([-7, 5, 3]), activation([[2, 0, 2], [1, 1, 0]])],
    "activation",
    [[3, -7, 3], [5, 5, -7]],
)
add(
    "where and isfinite: infinities and NaN give way",
    lambda ops, x, y: ops.where(ops.isfinite(x), x * 2.0, y),
    [vector([1, INF, -INF, np.nan, -3e38 / 4]), vector([5, 6, 7, 8, 9])],
    "vector",
    f32([2, 6, 7, 8, -3e38 / 2]),
    cotangent=[1, 2, 3, 4, 5],
    gradients=[[2, 0, 0, 0, 10], [0, 2, 3, 4, 0]],
)

#: Ties go to even; the largest float below 1/2 goes down; 2^22 + 1/2 is the largest kind of tie that float32 holds.
TO_ROUND = f32(
    [-2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 3.5, 0.49999997, -0.50000006, 4194304.5, 4194305.5, 8388609.0, 2.0**30]
)
ROUNDED = f32([-2, -2, 0, 0, 2, 2, 4, 0, -1, 4194304, 4194306, 8388609, 2.0**30])
TO_ROUND_COTANGENT = np.arange(1, 14)
add(
    "rint: ties to even, gradient 0",
    lambda ops, x: ops.rint(x),
    [vector(TO_ROUND)],
    "vector",
    ROUNDED,
    cotangent=TO_ROUND_COTANGENT,
    gradients=[np.zeros(13)],
)
add(
    "round_ste: ties to even, gradient straight through",
    lambda ops, x: ops.round_ste(x),
    [vector(TO_ROUND)],
    "vector",
    ROUNDED,
    cotangent=TO_ROUND_COTANGENT,
    gradients=[TO_ROUND_COTANGENT],
)
add(
    "stop_gradient: half of a square",
    lambda ops, x: x * ops.stop_gradient(x),
    [vector([-2, 3])],
    "vector",
    [4, 9],
    cotangent=[1, 2],
    gradients=[[-2, 6]],
)

# -- reductions -------------------------------------------------------------------------------------------------------

NEGATIVE = integers(5, (2, 3, 2, 2), -90, -1)  # without a positive number, so that no zero may slip in
add("max", lambda ops, x: ops.max(x), [activation(NEGATIVE)], "scalar", np.array(max(NEGATIVE.flat)))
add("min", lambda ops, x: ops.min(x), [activation(-NEGATIVE)], "scalar", np.array(min((-NEGATIVE).flat)))
add("max of a row", lambda ops, x: ops.max(x), [activation([[-3, -1, -2]])], "scalar", np.array(-1))
add("max of a weight", lambda ops, w: ops.max(w), [conv_weight(KERNELS)], "scalar", np.array(max(KERNELS.flat)))
add(
    "channel_max of images",
    lambda ops, x: ops.channel_max(x),
    [activation(NEGATIVE)],
    "vector",
    [max(NEGATIVE[:, c].flat) for c in range(3)],
)
add(
    "channel_min of images",
    lambda ops, x: ops.channel_min(x),
    [activation(-NEGATIVE)],
    "vector",
    [min((-NEGATIVE)[:, c].flat) for c in range(3)],
)
ROWS = [[-4, 2, -9], [-3, -5, -1]]
add(
    "max_over_channels of images",
    lambda ops, x: ops.max_over_channels(x),
    [activation(IMAGE)],
    "activation",
    IMAGE.max(axis=1, keepdims=True),
)
add(
    "max_over_channels of rows",
    lambda ops, x: ops.max_over_channels(x),
    [activation([[-3, -7], [2, 9]])],
    "activation",
    [[-3], [9]],
)
_large = integers(12, (2, 255, 2, 1), 0, 65536)  # their sums come near 2^24
_large[0, :, 0, 0] = 65793
add(
    "sum_over_channels of images, exact",
    lambda ops, x: ops.sum_over_channels(x),
    [activation(_large)],
    "activation",
    _large.astype(np.int64).sum(axis=1, keepdims=True),
    cotangent=integers(13, (2, 1, 2, 1), -9, 9),
    gradients=[np.broadcast_to(integers(13, (2, 1, 2, 1), -9, 9), _large.shape)],
)
add(
    "sum_over_channels of rows",
    lambda ops, x: ops.sum_over_channels(x),
    [activation([[-3, -7], [2, 9]])],
    "activation",
    [[-10], [11]],
    cotangent=[[2], [-3]],
    gradients=[[[2, 2], [-3, -3]]],
)
add("channel_max of rows", lambda ops, x: ops.channel_max(x), [activation(ROWS)], "vector", [-3, 2, -1])
add("channel_min of rows", lambda ops, x: ops.channel_min(x), [activation(ROWS)], "vector", [-4, -5, -9])
add(
    "channel_mean of images",
    lambda ops, x: ops.channel_mean(x),
    [activation(IMAGE * 8)],
    "vector",
    [sum(IMAGE[:, c].flat) for c in range(3)],  # eight elements each: exact
    cotangent=[8, -16, 4],
    gradients=[np.broadcast_to(f32([1, -2, 0.5]).reshape(1, 3, 1, 1), (2, 3, 2, 2))],
)
add(
    "channel_mean of rows",
    lambda ops, x: ops.channel_mean(x),
    [activation(ROWS)],
    "vector",
    [-3.5, -1.5, -5],
    cotangent=[1, 2, 4],
    gradients=[[[0.5, 1, 2], [0.5, 1, 2]]],
)
WEIGHTS = {"conv": conv_weight(KERNELS), "dense": dense_weight([[1, -9, 2], [-3, -4, -5], [0, 6, 7]])}
add(
    "mean of images",
    lambda ops, x: ops.mean(x),
    [activation(IMAGE * 24)],
    "scalar",
    np.array(sum(IMAGE.flat)),
    cotangent=48.0,
    gradients=[np.full_like(IMAGE, 2.0)],
)
add(
    "mean of a vector",
    lambda ops, x: ops.mean(x),
    [vector([1, -3, 0.5, 8])],
    "scalar",
    np.array(1.625),
    cotangent=2.0,
    gradients=[[0.5] * 4],
)
for _kind, _weight in WEIGHTS.items():
    _outputs = [list(_weight.array[o].flat) for o in range(3)]
    add(f"output_max, {_kind}", lambda ops, w: ops.output_max(w), [_weight], "vector", [max(o) for o in _outputs])
    _means = [sum(o) / len(o) for o in _outputs]
    add(
        f"output_mean, {_kind}",
        lambda ops, w: ops.output_mean(w),
        [_weight],
        "vector",
        _means,
        tolerance=FLOAT32_SUM,
    )
    add(f"output_min, {_kind}", lambda ops, w: ops.output_min(w), [_weight], "vector", [min(o) for o in _outputs])
    add(
        f"output_absmax, {_kind}",
        lambda ops, w: ops.output_absmax(w),
        [_weight],
        "vector",
        [max(max(o), -min(o)) for o in _outputs],
    )

# -- convolution and dense --------------------------------------------------------------------------------------------


def conv2d_by_loops(x, w, bias, cotangent, *, stride, padding, dilation, group):
    """Value and gradients (to x, w, bias) of a convolution of integers, one product at a time, in int64."""
    x, w = x.astype(np.int64), w.astype(np.int64)
    top, bottom, left, right = padding
    images, _, height, width = x.shape
    outputs, per_group, kernel_height, kernel_width = w.shape
    out_height = (height + top + bottom - dilation[0] * (kernel_height - 1) - 1) // stride[0] + 1
    out_width = (width + left + right - dilation[1] * (kernel_width - 1) - 1) // stride[1] + 1
    y = np.zeros((images, outputs, out_height, out_width), np.int64)
    g = np.ones_like(y) if cotangent is None else cotangent(y.shape).astype(np.int64)
    dx, dw = np.zeros_like(x), np.zeros_like(w)
    for n, o, row, column in np.ndindex(y.shape):
        if bias is not None:
            y[n, o, row, column] = int(bias[o])
        for i, ky, kx in np.ndindex(per_group, kernel_height, kernel_width):
            c = o // (outputs // group) * per_group + i
            iy = row * stride[0] - top + ky * dilation[0]
            ix = column * stride[1] - left + kx * dilation[1]
            if 0 <= iy < height and 0 <= ix < width:  # zeros outside
                y[n, o, row, column] += x[n, c, iy, ix] * w[o, i, ky, kx]
                dx[n, c, iy, ix] += g[n, o, row, column] * w[o, i, ky, kx]
                dw[o, i, ky, kx] += g[n, o, row, column] * x[n, c, iy, ix]
    return y, g, dx, dw, g.sum(axis=(0, 2, 3))


def add_conv2d(name, x, w, bias=None, *, wide=False, gradients=True, **geometry) -> None:
    geometry = {"stride": (1, 1), "padding": (0, 0, 0, 0), "dilation": (1, 1), "group": 1} | geometry
    y, g, *expected = conv2d_by_loops(
        x, w, bias, (lambda shape: integers(9, shape, -3, 3)) if gradients else None, **geometry
    )
    inputs = [activation(x), conv_weight(w)]
    if bias is None:
        function = lambda ops, x, w: ops.conv2d(x, w, None, wide=wide, **geometry)  # noqa: E731
    else:
        function = lambda ops, x, w, b: ops.conv2d(x, w, b, wide=wide, **geometry)  # noqa: E731
        inputs.append(vector(bias))
    backward = {"cotangent": g, "gradients": expected[: len(inputs)]} if gradients else {}
    # Rounding once from the exact sum is what ``wide`` promises; below 2^24 the conversion changes nothing.
    add(f"conv2d {name}", function, inputs, "activation", y.astype(np.float32), **backward)


add_conv2d("plain, with bias", integers(10, (2, 3, 5, 4), -9, 9), integers(11, (4, 3, 3, 3), -9, 9), f32([7, -8, 0, 5]))
add_conv2d("1x1 with stride", integers(12, (2, 3, 5, 4), -9, 9), integers(13, (2, 3, 1, 1), -9, 9), stride=(2, 3))
add_conv2d(
    "equal padding on opposite sides",
    integers(14, (1, 2, 4, 5), -9, 9),
    integers(15, (3, 2, 3, 2), -9, 9),
    padding=(1, 1, 2, 2),
)
SKEW = {"stride": (2, 1), "padding": (0, 3, 2, 1), "dilation": (1, 2)}
add_conv2d(
    "stride, uneven padding and dilation together, in groups",
    integers(16, (2, 4, 5, 6), -9, 9),
    integers(17, (6, 2, 3, 2), -9, 9),
    integers(18, (6,), -9, 9),
    group=2,
    **SKEW,
)
add_conv2d(
    "depthwise with two outputs for each channel",
    integers(19, (1, 3, 4, 4), -9, 9),
    integers(20, (6, 1, 2, 2), -9, 9),
    group=3,
    padding=(0, 1, 0, 1),
)
# 504 products of up to 255 x 127 come close to 2^24 and stay below: exact in any order of direct summation, and wrong as
# soon as a convolution is transformed (Winograd, FFT) or computed in TF32 or bfloat16.
add_conv2d(
    "with sums just below 2^24",
    integers(21, (1, 56, 5, 5), 200, 255),
    integers(22, (2, 56, 3, 3), 100, 127),
    f32([EXACT_INTEGERS - 255 * 127 * 504, 0]),
    padding=(1, 1, 1, 1),
    gradients=False,
)
add_conv2d(
    "wide: sums far beyond 2^24, rounded once",
    integers(23, (1, 160, 4, 5), 200, 255),
    integers(24, (4, 80, 3, 2), 100, 127),
    f32([8388607, -8388607, 3, 0]),
    wide=True,
    gradients=False,
    group=2,
    **SKEW,
)
add_conv2d(
    "wide, without bias",
    integers(25, (1, 640, 2, 2), 200, 255),
    integers(26, (2, 640, 2, 2), 100, 127),
    wide=True,
    gradients=False,
)


def add_dense(name, x, w, bias=None, *, wide=False, gradients=True) -> None:
    """The expected value is a matrix product of int64, which NumPy computes without BLAS."""
    x64, w64 = x.astype(np.int64), w.astype(np.int64)
    y = (x64[:, None, :] * w64[None, :, :]).sum(axis=2) + (0 if bias is None else bias.astype(np.int64))
    g = integers(27, y.shape, -3, 3)
    inputs = [activation(x), dense_weight(w)]
    if bias is None:
        function = lambda ops, x, w: ops.dense(x, w, None, wide=wide)  # noqa: E731
    else:
        function = lambda ops, x, w, b: ops.dense(x, w, b, wide=wide)  # noqa: E731
        inputs.append(vector(bias))
    expected = [g @ w, g.T @ x, g.sum(axis=0)][: len(inputs)]
    backward = {"cotangent": g, "gradients": expected} if gradients else {}
    add(f"dense {name}", function, inputs, "activation", y.astype(np.float32), **backward)


add_dense("with bias", integers(28, (3, 5), -9, 9), integers(29, (4, 5), -9, 9), f32([7, -8, 0, 5]))
add_dense("without bias", integers(30, (3, 5), -9, 9), integers(31, (4, 5), -9, 9))
add_dense(
    "with sums just below 2^24",
    integers(32, (3, 518), 200, 255),
    integers(33, (2, 518), 100, 127),
    f32([EXACT_INTEGERS - 255 * 127 * 518, 0]),
    gradients=False,
)
WIDE_ROWS, WIDE_WEIGHT = integers(34, (3, 3001), 0, 255), integers(35, (2, 3001), 1, 127)
add_dense("wide", WIDE_ROWS, WIDE_WEIGHT, f32([8388607, -5]), wide=True, gradients=False)
add_dense("wide, without bias", WIDE_ROWS, WIDE_WEIGHT, wide=True, gradients=False)

# -- pooling and flattening -------------------------------------------------------------------------------------------


def add_max_pool2d(name, x, *, kernel, stride, padding) -> None:
    """Elements of ``x`` are distinct, so that the gradient has one place to go to."""
    top, bottom, left, right = padding
    images, channels, height, width = x.shape
    out_height = (height + top + bottom - kernel[0]) // stride[0] + 1
    out_width = (width + left + right - kernel[1]) // stride[1] + 1
    y = np.zeros((images, channels, out_height, out_width), np.float32)
    g = integers(36, y.shape, -3, 3)
    dx = np.zeros_like(x)
    for n, c, row, column in np.ndindex(y.shape):
        window = [
            (x[n, c, iy, ix], iy, ix)
            for iy in range(row * stride[0] - top, row * stride[0] - top + kernel[0])
            for ix in range(column * stride[1] - left, column * stride[1] - left + kernel[1])
            if 0 <= iy < height and 0 <= ix < width
        ]
        y[n, c, row, column], iy, ix = max(window)
        dx[n, c, iy, ix] += g[n, c, row, column]
    add(
        f"max_pool2d {name}",
        lambda ops, x: ops.max_pool2d(x, kernel=kernel, stride=stride, padding=padding),
        [activation(x)],
        "activation",
        y,
        cotangent=g,
        gradients=[dx],
    )


#: Distinct and negative: zeros in the padding would win, and must not.
DISTINCT = -1.0 - np.random.default_rng(37).permutation(2 * 3 * 5 * 6).reshape(2, 3, 5, 6).astype(np.float32)
add_max_pool2d(
    "2x2, odd row and column left out", DISTINCT[:, :, :, :5], kernel=(2, 2), stride=(2, 2), padding=(0, 0, 0, 0)
)
add_max_pool2d("2x2, halving", DISTINCT[:, :, :4], kernel=(2, 2), stride=(2, 2), padding=(0, 0, 0, 0))
add_max_pool2d("2x2, halving with padding", DISTINCT, kernel=(2, 2), stride=(2, 2), padding=(0, 1, 1, 1))
add_max_pool2d("overlapping windows", DISTINCT, kernel=(3, 2), stride=(1, 1), padding=(0, 0, 0, 0))
add_max_pool2d("uneven padding and stride", DISTINCT, kernel=(3, 3), stride=(2, 1), padding=(0, 2, 1, 0))


def add_sum_pool2d(name, x, *, kernel, stride, padding) -> None:
    """Sums of integers, one element at a time, in int64; what a window reaches outside counts as 0."""
    top, bottom, left, right = padding
    images, channels, height, width = x.shape
    out_height = (height + top + bottom - kernel[0]) // stride[0] + 1
    out_width = (width + left + right - kernel[1]) // stride[1] + 1
    y = np.zeros((images, channels, out_height, out_width), np.int64)
    g = integers(43, y.shape, -3, 3)
    dx = np.zeros_like(x)
    for n, c, row, column, ky, kx in np.ndindex(*y.shape, *kernel):
        iy, ix = row * stride[0] - top + ky, column * stride[1] - left + kx
        if 0 <= iy < height and 0 <= ix < width:
            y[n, c, row, column] += int(x[n, c, iy, ix])
            dx[n, c, iy, ix] += g[n, c, row, column]
    add(
        f"sum_pool2d {name}",
        lambda ops, x: ops.sum_pool2d(x, kernel=kernel, stride=stride, padding=padding),
        [activation(x)],
        "activation",
        y,
        cotangent=g,
        gradients=[dx],
    )


CODES = integers(44, (2, 3, 5, 6), -255, 255)
add_sum_pool2d("2x2", CODES, kernel=(2, 2), stride=(2, 2), padding=(0, 0, 0, 0))
add_sum_pool2d("of the whole image", CODES, kernel=(5, 6), stride=(5, 6), padding=(0, 0, 0, 0))
add_sum_pool2d("overlapping windows", CODES, kernel=(3, 2), stride=(1, 1), padding=(0, 0, 0, 0))
add_sum_pool2d("windows with gaps between them", CODES, kernel=(1, 2), stride=(2, 3), padding=(0, 0, 0, 0))
add_sum_pool2d("uneven padding and stride", CODES, kernel=(3, 3), stride=(2, 1), padding=(0, 2, 1, 0))
add_sum_pool2d("with sums just below 2^24", CODES[:1, :1] + 559000, kernel=(5, 6), stride=(1, 1), padding=(0, 0, 0, 0))
MORE = integers(45, (2, 2, 2, 2), -9, 9)
add(
    "concat of images, along the channels",
    lambda ops, x, y: ops.concat([x, y, x]),
    [activation(IMAGE), activation(MORE)],
    "activation",
    [[*IMAGE[n], *MORE[n], *IMAGE[n]] for n in range(2)],
    cotangent=np.arange(2 * 8 * 4).reshape(2, 8, 2, 2),
    # Image n starts at 32 n: channels 0 to 2 and 5 to 7 are x, 3 and 4 are y.
    gradients=[
        np.arange(12).reshape(1, 3, 2, 2) * 2 + 20 + np.array([0, 64]).reshape(2, 1, 1, 1),
        np.arange(12, 20).reshape(1, 2, 2, 2) + np.array([0, 32]).reshape(2, 1, 1, 1),
    ],
)
add(
    "concat of rows",
    lambda ops, x, y: ops.concat((x, y)),
    [activation([[1, 2], [3, 4]]), activation([[5], [6]])],
    "activation",
    [[1, 2, 5], [3, 4, 6]],
    cotangent=[[1, 2, 3], [4, 5, 6]],
    gradients=[[[1, 2], [4, 5]], [[3], [6]]],
)
add(
    "flatten: features in CHW order",
    lambda ops, x: ops.flatten(x),
    [activation(IMAGE)],
    "activation",
    [[IMAGE[n, c, y, x] for c in range(3) for y in range(2) for x in range(2)] for n in range(2)],
    cotangent=np.arange(24).reshape(2, 12),
    gradients=[np.arange(24).reshape(2, 3, 2, 2)],
)

# -- losses and running state -----------------------------------------------------------------------------------------


def add_cross_entropy(name, logits, labels, smoothing=None) -> None:
    """smoothing: None leaves the argument out."""
    logits64 = np.array(logits, np.float64)
    shifted = np.exp(logits64 - logits64.max(axis=1, keepdims=True))
    softmax = shifted / shifted.sum(axis=1, keepdims=True)
    log_softmax = logits64 - logits64.max(axis=1, keepdims=True) - np.log(shifted.sum(axis=1, keepdims=True))
    rows = np.arange(len(labels))
    target = np.full_like(softmax, (smoothing or 0) / softmax.shape[1])
    target[rows, labels] += 1 - (smoothing or 0)
    options = {} if smoothing is None else {"smoothing": smoothing}
    add(
        f"softmax_cross_entropy {name}",
        lambda ops, x, y: ops.softmax_cross_entropy(x, y, **options),
        [activation(logits), Argument(np.array(labels, np.int64), "labels")],
        "scalar",
        np.array(-(target * log_softmax).sum(axis=1).mean()),
        cotangent=2.0,
        gradients=[2.0 * (softmax - target) / len(labels), None],
        tolerance=FLOAT32_SUM,
        gradient_tolerance=FLOAT32_SUM,
    )


add_cross_entropy("of moderate logits", [[0.5, -1.25, 2], [3, 0, -2], [1, 1, 1], [-0.5, 0.25, 0.125]], [2, 1, 0, 1])
add_cross_entropy("of logits whose exponentials overflow", [[1000, 0, 999], [-1000, -2000, 500]], [0, 1])

add_cross_entropy("smoothed by 0", [[0.5, -1.25, 2], [3, 0, -2]], [2, 1], smoothing=0.0)
add_cross_entropy(
    "smoothed", [[0.5, -1.25, 2], [3, 0, -2], [1, 1, 1], [-0.5, 0.25, 0.125]], [2, 1, 0, 1], smoothing=0.1
)
add_cross_entropy("smoothed, of large logits", [[1000, 0, 999, 998], [-1000, -2000, 500, 3]], [0, 1], smoothing=0.25)
add_cross_entropy("smoothed until all classes are one", [[0.5, -1.25, 2], [3, 0, -2]], [2, 1], smoothing=1.0)


def add_batch_norm(name, x, gamma, beta, eps) -> None:
    """In float64, with the gradient written out:

    dx = gamma / sigma (g - mean(g) - n mean(g n)) with n = (x - mean) / sigma, dgamma = sum g n, dbeta = sum g.
    """
    axes = (0, *range(2, np.ndim(x)))
    shape = (1, -1) + (1,) * (np.ndim(x) - 2)
    x64, gamma64, beta64 = f32(x).astype(np.float64), f32(gamma).astype(np.float64), f32(beta).astype(np.float64)
    mean = x64.mean(axis=axes)
    variance = ((x64 - mean.reshape(shape)) ** 2).mean(axis=axes)
    sigma = np.sqrt(variance + eps)
    normal = (x64 - mean.reshape(shape)) / sigma.reshape(shape)
    g = integers(46, x64.shape, -3, 3).astype(np.float64)
    through = g - g.mean(axis=axes, keepdims=True) - normal * (g * normal).mean(axis=axes, keepdims=True)
    inputs = [activation(x), vector(gamma), vector(beta)]
    add(
        f"batch_norm {name}: y",
        lambda ops, x, gamma, beta: ops.batch_norm(x, gamma, beta, eps)[0],
        inputs,
        "activation",
        normal * gamma64.reshape(shape) + beta64.reshape(shape),
        cotangent=g,
        gradients=[
            through * (gamma64 / sigma).reshape(shape),
            (g * normal).sum(axis=axes),
            g.sum(axis=axes),
        ],
        tolerance=FLOAT32_SUM,
        gradient_tolerance=FLOAT32_SUM,
    )
    for what, position, value in (("mean", 1, mean), ("variance", 2, variance)):
        add(
            f"batch_norm {name}: {what}, without a gradient",
            lambda ops, x, gamma, beta, position=position: ops.batch_norm(x, gamma, beta, eps)[position],
            inputs,
            "vector",
            value,
            cotangent=np.arange(1, len(mean) + 1),
            gradients=[np.zeros_like(x64), np.zeros_like(mean), np.zeros_like(mean)],
            tolerance=FLOAT32_SUM,
        )


NORMAL = np.random.default_rng(47).normal((0.5, -2, 1), (1, 0.3, 2), (4, 5, 6, 3)).transpose(0, 3, 1, 2)
add_batch_norm("of images", NORMAL, [1.5, -0.7, 0], [0.25, -1, 3], 1e-5)
add_batch_norm("of rows", NORMAL[:, :, 0, 0], [1.5, -0.7, 1e-9], [0.25, -1, 3], 1e-3)
#: A channel that is constant, one of two numbers, and one whose spread eps outweighs.
FLAT = np.stack([np.full((2, 2, 2), 3.0), np.resize([-1.0, 3.0], (2, 2, 2)), NORMAL[:2, 1, :2, :2] * 1e-3], axis=1)
add_batch_norm("of a constant channel and of a nearly constant one", FLAT, [2, 0.5, 1], [1, -1, 0.5], 0.01)

add(
    "moving_average: new + decay (old - new), and new where nothing was averaged yet",
    lambda ops, old, new: ops.moving_average(old, new, 0.75),
    [vector([4, -8, INF, -INF, np.nan, 0]), vector([8, -4, 3, -5, 7, 0])],
    "vector",
    [5, -7, 3, -5, 7, 0],
)
add(
    "moving_average of scalars",
    lambda ops, old, new: ops.moving_average(old, new, 0.99),
    [scalar(3.5), scalar(-1.25)],
    "scalar",
    np.array(0.99 * 3.5 + 0.01 * -1.25),
    tolerance=FLOAT32_SUM,
)

# -- requantize -------------------------------------------------------------------------------------------------------

ACC = f32([-9, -8, -7, -3, -1, 0, 1, 3, 5, 7, 8, 9, 15])
ACC_HALVES = f32([-4, -4, -4, -2, 0, 0, 0, 2, 2, 4, 4, 4, 8])  # rint(ACC / 2): every odd number is a tie
GRADIENT = np.arange(1, 14)


def add_requantize(name, low, high, value, inside, *, open_low=False) -> None:
    """ACC / 2, with bounds as numbers; ``inside``: the mask, written out."""
    masked = GRADIENT * np.array(inside)
    add(
        f"requantize {name}",
        lambda ops, x, m: ops.requantize(x, m, low, high, open_low=open_low),
        [vector(ACC), scalar(0.5)],
        "vector",
        value,
        cotangent=GRADIENT,
        gradients=[masked * 0.5, (masked * ACC).sum()],
    )


add_requantize("without bounds: straight through everywhere", None, None, ACC_HALVES, np.ones(13))
add_requantize(
    "mask includes both bounds, and leaves out -4.5 and 4.5, which round onto them",
    -4.0,
    4.0,
    [-4, -4, -4, -2, 0, 0, 0, 2, 2, 4, 4, 4, 4],
    [0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0],
)
add_requantize(
    "mask includes 0 where the lower bound is closed",
    0.0,
    4.0,
    [0, 0, 0, 0, 0, 0, 0, 2, 2, 4, 4, 4, 4],
    [0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 0, 0],
)
add_requantize(
    "mask leaves 0 out where the lower bound is open, and keeps 0.5, which rounds to it",
    0.0,
    4.0,
    [0, 0, 0, 0, 0, 0, 0, 2, 2, 4, 4, 4, 4],
    [0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 0, 0],
    open_low=True,
)
add(
    "requantize with a number and a tensor as bounds, as a ReLU6 has them",
    lambda ops, x, m, high: ops.requantize(x, m, 0.0, high, open_low=True),
    [vector(ACC), scalar(0.5), scalar(4)],
    "vector",
    [0, 0, 0, 0, 0, 0, 0, 2, 2, 4, 4, 4, 4],
    cotangent=GRADIENT,
    gradients=[0.5 * GRADIENT * (ACC > 0) * (ACC <= 8), 7 * 1 + 8 * 3 + 9 * 5 + 10 * 7 + 11 * 8, 0],
)
add(
    "requantize with bounds for each output, as affine weights have them: no gradient into the bounds",
    lambda ops, w, m, low, high: ops.requantize(w, ops.on_output(m, w), ops.on_output(low, w), ops.on_output(high, w)),
    [dense_weight([[-5, -3, 1, 4], [-5, -3, 1, 4]]), vector([0.5, 2]), vector([-1, -6]), vector([2, 1])],
    "dense_weight",
    [[-1, -1, 0, 2], [-6, -6, 1, 1]],
    cotangent=[[1, 2, 3, 4], [5, 6, 7, 8]],
    gradients=[[[0, 0, 1.5, 2], [0, 12, 0, 0]], [3 * 1 + 4 * 4, 6 * -3], [0, 0], [0, 0]],
)
REAL = np.random.default_rng(38).normal(0, 40, (2, 3, 4, 5)).astype(np.float32)
REAL_MULTIPLIER = f32([0.731, 1.913, 0.0371])
REAL_COTANGENT = integers(39, REAL.shape, -3, 3)
_u = REAL * REAL_MULTIPLIER.reshape(1, 3, 1, 1)  # one float32 product, rounded alike everywhere
_inside = (_u >= -100) & (_u <= 27)
add(
    "requantize real numbers with a multiplier for each channel",
    lambda ops, x, m: ops.requantize(x, ops.on_channel(m, x), -100.0, 27.0),
    [activation(REAL), vector(REAL_MULTIPLIER)],
    "activation",
    np.clip(np.rint(_u), -100, 27),
    cotangent=REAL_COTANGENT,
    gradients=[
        REAL_COTANGENT * _inside * REAL_MULTIPLIER.reshape(1, 3, 1, 1),
        (REAL_COTANGENT * _inside * REAL.astype(np.float64)).sum(axis=(0, 2, 3)),
    ],
    gradient_tolerance=FLOAT32_SUM,
)
add(
    "requantize a product far beyond int32 to the bound",
    lambda ops, x, m: ops.requantize(x, m, -128.0, 127.0),
    [vector([3e30, -3e30, 2.0**31, -(2.0**31)]), scalar(4)],
    "vector",
    [127, -128, 127, -128],
    cotangent=[1, 2, 3, 4],
    gradients=[[0, 0, 0, 0], 0],
)

# -- the suite --------------------------------------------------------------------------------------------------------


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
    "concat of images",
    "channel_mean of images",
    "sigmoid",
    "softmax of images",
    "max_over_channels of images",
    "sum_over_channels of images",
    "tanh",
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
    assert failed == {"rint", "round_ste", "requantize"}
