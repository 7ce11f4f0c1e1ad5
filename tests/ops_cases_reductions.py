"""Cases of the conformance suite: reductions, losses and running state."""

from __future__ import annotations

import numpy as np
from conformance import FLOAT32_SUM, Argument, Case
from ops_cases import IMAGE, KERNELS, activation, adder, conv_weight, dense_weight, f32, integers, scalar, vector

INF = np.inf

CASES: list[Case] = []
add = adder(CASES)

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
for _shape in ((2, 3, 4, 5), (2, 3)):
    add(
        f"channels, of {_shape}",
        lambda ops, x: x * float(ops.channels(x)),
        [activation(np.ones(_shape))],
        "activation",
        np.full(_shape, 3.0),
        cotangent=np.ones(_shape),
        gradients=[np.full(_shape, 3.0)],
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


def add_normalized(name, x, scale, gamma, beta, eps) -> None:
    """In float64, as ``add_batch_norm``; the gradient of a clip is that of what it leaves as it is, and of a rounding 1."""
    axes, per_sample = (0, *range(2, np.ndim(x))), (1, -1) + (1,) * (np.ndim(x) - 2)
    x64, scale64, gamma64, beta64 = (f32(each).astype(np.float64) for each in (x, scale, gamma, beta))
    each_scale = scale64.reshape(per_sample if scale64.ndim else ())
    z = x64 * each_scale
    mean, variance = z.mean(axis=axes), z.var(axis=axes)
    sigma = np.sqrt(variance + eps)
    normal = (z - mean.reshape(per_sample)) / sigma.reshape(per_sample)
    y = normal * gamma64.reshape(per_sample) + beta64.reshape(per_sample)
    cotangent = integers(48, x64.shape, -3, 3).astype(np.float64)
    inputs = [activation(x), (vector if scale64.ndim else scalar)(scale), vector(gamma), vector(beta)]

    def gradients(g):
        through = g - g.mean(axis=axes, keepdims=True) - normal * (g * normal).mean(axis=axes, keepdims=True)
        of_z = through * (gamma64 / sigma).reshape(per_sample)
        of_scale = (of_z * x64).sum(axis=axes)
        of_scale = of_scale if scale64.ndim else of_scale.sum()
        return [of_z * each_scale, of_scale, (g * normal).sum(axis=axes), g.sum(axis=axes)]

    def add_form(what, form, value, g, further=(), of_further=()) -> None:
        add(
            f"normalized {name}: {what}",
            lambda ops, x, scale, gamma, beta, *own: form(ops.normalized(x, scale, gamma, beta, eps), *own),
            [*inputs, *further],
            "activation",
            value,
            cotangent=cotangent,
            gradients=[*gradients(g), *of_further],
            tolerance=FLOAT32_SUM,
            gradient_tolerance=FLOAT32_SUM,
        )

    add_form("numbers", lambda found: found.numbers, y, cotangent)
    add_form("ReLU", lambda found: found.rectified(np.inf), np.maximum(y, 0.0), cotangent * (y > 0.0))
    inside = (y > 0.0) & (y < 0.8)
    add_form("ReLU up to 0.8", lambda found: found.rectified(0.8), np.clip(y, 0.0, 0.8), cotangent * inside)
    u, g = y * 7.3, cotangent * (y > 0.0) * (y * 7.3 < 6.0)
    codes = np.clip(np.rint(u), 0.0, 6.0)
    add_form(
        "codes",
        lambda found, multiplier: found.codes(multiplier, 0.0, 6.0, open_low=True),
        codes,
        g * 7.3,
        [scalar(7.3)],
        [(g * y).sum()],
    )
    for what, value in (("mean", mean), ("variance", variance)):
        add(
            f"normalized {name}: {what}",
            lambda ops, x, scale, gamma, beta, what=what: getattr(ops.normalized(x, scale, gamma, beta, eps), what),
            inputs,
            "vector",
            value,
            tolerance=FLOAT32_SUM,
        )
    for what, value in (("largest", y.max()), ("smallest", y.min())):
        add(
            f"normalized {name}: {what}",
            lambda ops, x, scale, gamma, beta, what=what: getattr(ops.normalized(x, scale, gamma, beta, eps), what)(),
            inputs,
            "scalar",
            np.array(value),
            tolerance=FLOAT32_SUM,
        )


SUMS = integers(49, (4, 3, 6, 5), -9, 9)
add_normalized("of images, in steps of one scale", SUMS, 0.125, [1.5, -0.7, 0.4], [0.25, -0.5, 0.125], 0.25)
add_normalized(
    "of images, each channel in its own", SUMS, [0.125, 0.0625, 0.25], [1.5, 0.7, 0.4], [0.25, -0.5, 1], 0.25
)
add_normalized("of rows", SUMS[:, :, 0, 0], [0.125, 0.5, 0.25], [-1.5, -0.7, -0.4], [0.25, -0.5, 1], 0.25)

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
