"""Cases of the conformance suite: convolution, dense, pooling, flattening and requantize."""

from __future__ import annotations

import numpy as np
from conformance import FLOAT32_SUM, Case
from ops_cases import IMAGE, activation, adder, conv_weight, dense_weight, f32, integers, scalar, vector

from qat.quantizers import WeightQuantizer
from qat.vocabulary.ops import EXACT_INTEGERS
from qat.vocabulary.rearrangement import Rearrangement, Step, reshaping
from qat.vocabulary.transposed import transposed

INF = np.inf

CASES: list[Case] = []
add = adder(CASES)

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
# What TensorFlow calls SAME: more padding behind than before.
add_conv2d(
    "halving, padded as little as that takes",
    integers(27, (2, 2, 6, 5), -9, 9),
    integers(28, (3, 2, 3, 2), -9, 9),
    stride=(2, 2),
    padding=(0, 1, 0, 1),
)
add_conv2d(
    "depthwise and halving, padded as little as that takes",
    integers(29, (2, 3, 6, 5), -9, 9),
    integers(30, (3, 1, 3, 3), -9, 9),
    group=3,
    stride=(2, 2),
    padding=(0, 1, 1, 1),
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


add(
    "picture_weight: a kernel over series as one of one row",
    lambda ops, w: ops.picture_weight(w),
    [conv_weight([[[1, 2], [3, 4]], [[5, 6], [7, 8]], [[9, 10], [11, 12]]])],
    "conv_weight",
    [[[[1, 2]], [[3, 4]]], [[[5, 6]], [[7, 8]]], [[[9, 10]], [[11, 12]]]],
    cotangent=np.arange(12).reshape(3, 2, 1, 2),
    gradients=[np.arange(12).reshape(3, 2, 2)],
)
add(
    "picture_weight: a kernel over pictures as it is",
    lambda ops, w: ops.picture_weight(w),
    [conv_weight(np.arange(12).reshape(3, 1, 2, 2))],
    "conv_weight",
    np.arange(12).reshape(3, 1, 2, 2),
    cotangent=np.arange(12).reshape(3, 1, 2, 2),
    gradients=[np.arange(12).reshape(3, 1, 2, 2)],
)
add(
    "mix_inputs of a kernel over series",
    lambda ops, w: ops.mix_inputs(w, np.array([[1, 0, 2], [0, 1, 3]], np.float32)),
    [conv_weight([[[1, 2, 3], [4, 5, 6]]])],
    "conv_weight",
    [[[1, 2, 3], [4, 5, 6], [14, 19, 24]]],
    cotangent=[[[1, 2, 4], [8, 16, 32], [64, 128, 256]]],
    gradients=[[[[129, 258, 516], [200, 400, 800]]]],
)
for name in ("output_max", "output_min", "output_mean"):
    add(
        f"{name} of a kernel over series",
        lambda ops, w, name=name: getattr(ops, name)(w),
        [conv_weight([[[1, 2], [3, 6]], [[-5, 6], [7, 8]], [[9, 10], [11, 30]]])],
        "vector",
        {"output_max": [6, 8, 30], "output_min": [1, -5, 9], "output_mean": [3, 4, 15]}[name],
    )


EACH = np.arange(4 * 2 * 1 * 2).reshape(4, 2, 1, 2)  # two groups of two inputs and two outputs each
SWAPPED = [[EACH[2 * (o // 2) + i, o % 2] for i in range(2)] for o in range(4)]
add(
    "swap_channels: outputs for inputs, in each of two groups",
    lambda ops, w: ops.swap_channels(w, 2),
    [conv_weight(EACH)],
    "conv_weight",
    SWAPPED,
    cotangent=EACH,
    gradients=[SWAPPED],
)
add(
    "phase_weight: two phases of rows, one of columns; an element of the kernel that is taken twice, and one beyond it",
    lambda ops, w: ops.phase_weight(w, (1, 0, 0, 2), (1, 0), (2, 1)),
    [conv_weight([[[[1, 2], [3, 4]]], [[[5, 6], [7, 8]]]])],
    "conv_weight",
    [[[[4, 3], [2, 1]]], [[[2, 1], [0, 0]]], [[[8, 7], [6, 5]]], [[[6, 5], [0, 0]]]],
    cotangent=np.arange(16).reshape(4, 1, 2, 2),
    gradients=[[[[[3 + 5, 2 + 4], [1, 0]]], [[[11 + 13, 10 + 12], [9, 8]]]]],
)
HOW = transposed((2, 2), (3, 2), (2, 1), (1, 0, 0, 1), (1, 0), (1, 1))
#: Every pixel times the kernel, added where it lies, and the edges cut.
FULL = np.zeros((6, 3))
for row in range(2):
    for column in range(2):
        FULL[2 * row : 2 * row + 3, column : column + 2] += (1 + 2 * row + column) * np.arange(1, 7).reshape(3, 2)
add(
    "conv_transpose2d: cut above and at the right, a row more behind",
    lambda ops, x, w, b: ops.conv_transpose2d(x, w, b, how=HOW, outputs=1, group=1),
    [activation([[[[1, 2], [3, 4]]]]), conv_weight([[[[1, 2], [3, 4], [5, 6]]]]), vector([10])],
    "activation",
    (FULL[1:6, :2] + 10)[np.newaxis, np.newaxis],
    cotangent=np.ones((1, 1, 5, 2)),
    gradients=[
        [[[[3 + 5 + 4 + 6, 3 + 5], [1 + 3 + 5 + 2 + 4 + 6, 1 + 3 + 5]]]],
        [[[[3 + 4, 3], [1 + 2 + 3 + 4, 1 + 3], [1 + 2 + 3 + 4, 1 + 3]]]],
        [10],
    ],
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
add_max_pool2d(
    "3x3, halving, padded as little as that takes", DISTINCT, kernel=(3, 3), stride=(2, 2), padding=(1, 1, 0, 1)
)
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
    "concat of images, along their rows",
    lambda ops, x, y: ops.concat([x, y], 1),
    [activation(IMAGE), activation(IMAGE[:, :, :1] * 2)],
    "activation",
    [[[*IMAGE[n, c], IMAGE[n, c, 0] * 2] for c in range(3)] for n in range(2)],
    cotangent=np.arange(2 * 3 * 3 * 2).reshape(2, 3, 3, 2),
    gradients=[
        [[np.arange(4).reshape(2, 2) + 18 * n + 6 * c for c in range(3)] for n in range(2)],
        [[[[4 + 18 * n + 6 * c, 5 + 18 * n + 6 * c]] for c in range(3)] for n in range(2)],
    ],
)
add(
    "concat of images, along their columns",
    lambda ops, x, y: ops.concat([x, y], 2),
    [activation(IMAGE), activation(IMAGE[:, :, :, :1] * 2)],
    "activation",
    [[[[*IMAGE[n, c, y], IMAGE[n, c, y, 0] * 2] for y in range(2)] for c in range(3)] for n in range(2)],
    cotangent=np.arange(2 * 3 * 2 * 3).reshape(2, 3, 2, 3),
    gradients=[
        [[[[k, k + 1] for k in (18 * n + 6 * c, 18 * n + 6 * c + 3)] for c in range(3)] for n in range(2)],
        [[[[k + 2] for k in (18 * n + 6 * c, 18 * n + 6 * c + 3)] for c in range(3)] for n in range(2)],
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
    "pick of channels that are equally far apart",
    lambda ops, x: ops.pick(x, 0, (0, 2)),
    [activation(IMAGE)],
    "activation",
    IMAGE[:, ::2],
    cotangent=np.arange(16).reshape(2, 2, 2, 2),
    gradients=[np.insert(np.arange(16).reshape(2, 2, 2, 2), 1, 0, axis=1)],
)
add(
    "pick of rows, the last first and twice",
    lambda ops, x: ops.pick(x, 1, (1, 0, 1)),
    [activation(IMAGE)],
    "activation",
    IMAGE[:, :, [1, 0, 1]],
    cotangent=np.arange(36).reshape(2, 3, 3, 2),
    gradients=[
        [[[[6 * p + 2, 6 * p + 3], [12 * p + 4, 12 * p + 6]] for p in range(3 * n, 3 * n + 3)] for n in range(2)]
    ],
)
add(
    "pick of one column",
    lambda ops, x: ops.pick(x, 2, range(1, 2)),
    [activation(IMAGE)],
    "activation",
    IMAGE[:, :, :, 1:],
    cotangent=np.arange(12).reshape(2, 3, 2, 1),
    gradients=[np.insert(np.arange(12).reshape(2, 3, 2, 1), 0, 0, axis=3)],
)
add(
    "pick of features, backwards",
    lambda ops, x: ops.pick(x, 0, (2, 1, 0)),
    [activation([[1, 2, 3], [4, 5, 6]])],
    "activation",
    [[3, 2, 1], [6, 5, 4]],
    cotangent=[[1, 2, 4], [8, 16, 32]],
    gradients=[[[4, 2, 1], [32, 16, 8]]],
)
add(
    "pad of every axis of images, each side by another number",
    lambda ops, x: ops.pad(x, ((0, 1), (2, 0), (1, 1))),
    [activation(IMAGE)],
    "activation",
    [
        [[[0] * 4, [0] * 4, *([0, *IMAGE[n, c, y], 0] for y in range(2))] for c in range(3)] + [[[0] * 4] * 4]
        for n in range(2)
    ],
    cotangent=np.arange(2 * 4 * 4 * 4).reshape(2, 4, 4, 4),
    gradients=[np.arange(2 * 4 * 4 * 4).reshape(2, 4, 4, 4)[:, :3, 2:, 1:3]],
)
#: (3, 2, 2) as six places of two columns: the places of a channel and of a row change their order.
TURNED = Rearrangement((3, 2, 2), Step((3, 2, 2), (1, 0, 2)), (2, 3, 2))
add(
    "rearrange: channels become rows",
    lambda ops, x: ops.rearrange(x, TURNED),
    [activation(IMAGE)],
    "activation",
    [[[IMAGE[n, c, y] for c in range(3)] for y in range(2)] for n in range(2)],
    cotangent=np.arange(24).reshape(2, 2, 3, 2),
    gradients=[[[[[k + 12 * n, k + 12 * n + 1] for k in (2 * c, 6 + 2 * c)] for c in range(3)] for n in range(2)]],
)
add(
    "rearrange: images to another shape that has no sides in common",
    lambda ops, x: ops.rearrange(x, reshaping((3, 2, 2), (2, 3, 2))),
    [activation(IMAGE)],
    "activation",
    [[[IMAGE[n].ravel()[6 * c + 2 * y : 6 * c + 2 * y + 2] for y in range(3)] for c in range(2)] for n in range(2)],
    cotangent=np.arange(24).reshape(2, 2, 3, 2),
    gradients=[np.arange(24).reshape(2, 3, 2, 2)],
)
add(
    "rearrange: rows of features to images",
    lambda ops, x: ops.rearrange(x, reshaping((8,), (2, 2, 2))),
    [activation([[0, 1, 2, 3, 4, 5, 6, 7]])],
    "activation",
    [[[[0, 1], [2, 3]], [[4, 5], [6, 7]]]],
    cotangent=[[[[8, 7], [6, 5]], [[4, 3], [2, 1]]]],
    gradients=[[[8, 7, 6, 5, 4, 3, 2, 1]]],
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
#: Whether a number is on its bound, or a rounding beside it, depends on the order of a sum: it has a gradient either way.
for kind, low, high in (("numbers", -128.0, 127.0), ("tensors", scalar(-128), scalar(127))):
    add(
        f"requantize what lies a rounding beside its bound, or a little more; bounds are {kind}",
        lambda ops, x, m, *ends, numbers=(low, high): ops.requantize(x, m, *(ends or numbers)),
        [vector([-128.00002, -128.01, 127.00001, 127.01, 3]), scalar(1), *([low, high] if kind == "tensors" else [])],
        "vector",
        [-128, -128, 127, 127, 3],
        cotangent=[1, 2, 3, 4, 5],
        gradients=[[1, 0, 3, 0, 5], -128.00002 + 3 * 127.00001 + 15, *([0, 0] if kind == "tensors" else [])],
        gradient_tolerance=FLOAT32_SUM,
    )
add(
    "requantize beside an open bound, whose zero has no gradient",
    lambda ops, x, m: ops.requantize(x, m, 0.0, 255.0, open_low=True),
    [vector([-1e-6, 0, 1e-6, 255.00003, 255.01]), scalar(1)],
    "vector",
    [0, 0, 0, 255, 255],
    cotangent=[1, 2, 3, 4, 5],
    gradients=[[0, 0, 3, 4, 0], 3e-6 + 4 * 255.00003],
    gradient_tolerance=FLOAT32_SUM,
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

# Steps of 0.0625 and 0.5, zero points rint(3.3) and 0: -0.20625 is 3.3 steps below 0, a third of one below the lowest code.
add(
    "an affine weight quantizer: gradient 1 to every weight, also to the extreme ones that are rounded into the range",
    lambda ops, w: WeightQuantizer(4, symmetric=False, per_channel=True).quantize(ops, w).centred,
    [dense_weight([[-0.20625, 0.73125, 0.1, -0.05], [7.5, 0.1, 2.2, 5.3]])],
    "dense_weight",
    [[-3, 12, 2, -1], [15, 0, 4, 11]],
    cotangent=[[1, 2, 3, 4], [5, 6, 7, 8]],
    gradients=[[[16, 32, 48, 64], [10, 12, 14, 16]]],
    gradient_tolerance=FLOAT32_SUM,
)
