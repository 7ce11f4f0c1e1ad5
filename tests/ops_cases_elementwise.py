"""Cases of the conformance suite: arithmetic, broadcasting and what is computed element by element."""

from __future__ import annotations

import math

import numpy as np
from conformance import EXPONENTIAL, FLOAT32_SUM, Case
from ops_cases import IMAGE, KERNELS, activation, adder, conv_weight, dense_weight, f32, integers, scalar, vector

INF = np.inf

CASES: list[Case] = []
add = adder(CASES)

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
MIXED_COTANGENT = integers(5, (3, 3, 1, 2), -9, 9)
add(
    "mix_inputs makes a convolution's weight one over linear combinations of its inputs",
    lambda ops, w: ops.mix_inputs(w, np.array([[1.0, 0.0, 2.0], [0.0, -1.0, 0.5]])),
    [conv_weight(KERNELS)],
    "conv_weight",
    np.stack([KERNELS[:, 0], -KERNELS[:, 1], 2.0 * KERNELS[:, 0] + 0.5 * KERNELS[:, 1]], axis=1),
    cotangent=MIXED_COTANGENT,
    gradients=[
        np.stack(
            [
                MIXED_COTANGENT[:, 0] + 2.0 * MIXED_COTANGENT[:, 2],
                0.5 * MIXED_COTANGENT[:, 2] - MIXED_COTANGENT[:, 1],
            ],
            axis=1,
        )
    ],
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
    "rectified without an upper bound: gradient 0 at 0",
    lambda ops, x: ops.rectified(x, np.inf),
    [vector([-2, -0.0, 0, 1e-30, 3])],
    "vector",
    f32([0, 0, 0, 1e-30, 3]),
    cotangent=[1, 2, 3, 4, 5],
    gradients=[[0, 0, 0, 4, 5]],
)
add(
    "rectified up to 6",
    lambda ops, x: ops.rectified(x, 6.0),
    [vector([-2, 0, 5.5, 6.5, 100])],
    "vector",
    [0, 0, 5.5, 6, 6],
    cotangent=[1, 2, 3, 4, 5],
    gradients=[[0, 0, 3, 0, 0]],
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
add(
    "softplus: no overflow, and its gradient is sigmoid, at 0 too",
    lambda ops, x: ops.softplus(x),
    [vector(_x)],
    "vector",
    np.logaddexp(_x, 0),
    cotangent=_g,
    gradients=[_g * _sigmoid],
    tolerance=FLOAT32_SUM,
    gradient_tolerance=FLOAT32_SUM,
)
_moderate = np.array([-100, -9, -2, -0.5, -0.01, 0, 0.01, 0.5, 2, 9, 80])
for _what, _some in (("to 1", [-100, -9, -2, -0.5, -0.01, 0]), ("of 9", [9]), ("of 80", [80])):
    add(
        f"exp, {_what}",
        lambda ops, x: ops.exp(x),
        [vector(_some)],
        "vector",
        [math.exp(x) for x in _some],
        cotangent=np.ones(len(_some)),
        gradients=[[math.exp(x) for x in _some]],
        tolerance=FLOAT32_SUM if _what == "to 1" else EXPONENTIAL,
        gradient_tolerance=FLOAT32_SUM if _what == "to 1" else EXPONENTIAL,
    )
_e = np.arange(1, 12)
add(
    "erf, also where it is 1 or -1",
    lambda ops, x: ops.erf(x),
    [vector(_moderate)],
    "vector",
    [math.erf(x) for x in _moderate],
    cotangent=_e,
    gradients=[_e * 2 / math.sqrt(math.pi) * np.exp(-(_moderate**2))],
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
ABOVE = [
    np.nextafter(np.float32(2.0**k), np.float32(to)) for k in (-59, -1, 0, 1, 24, 126) for to in (0, 2.0**k, np.inf)
]
add(
    "power_of_two_above: the smallest that is not below, exactly",
    lambda ops, x: ops.power_of_two_above(x),
    [vector([np.ldexp(1.0, -60), *ABOVE, np.ldexp(1.0, 127)])],
    "vector",
    f32([np.ldexp(1.0, k) for k in (-60, *(k + up for k in (-59, -1, 0, 1, 24, 126) for up in (0, 0, 1)), 127)]),
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
