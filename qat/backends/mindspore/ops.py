"""MindSpore: the vocabulary over its tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, TypeAlias

import numpy as np

from qat.backends.mindspore.setup import ms, ops
from qat.vocabulary.clip import TINY, reach
from qat.vocabulary.ops import Array, DType, Kind, Ops, Padding, Pair
from qat.vocabulary.rearrangement import Rearrangement

Tensor: TypeAlias = ms.Tensor


@cache
def _primitive(kind: type, **attributes: Any) -> Callable[..., Tensor]:
    """One instance of a primitive for each set of attributes."""
    primitive: Callable[..., Tensor] = kind(**attributes)
    return primitive


@cache
def _batch_norm(eps: float) -> ops.BatchNorm:
    """By a batch's own statistics: y, two that mean nothing, mean and variance.

    It would announce that it updates parameters; what a recorded function in a graph gets of such an operation is 0
    (MindSpore 2.10). Given tensors, it updates none.
    """
    normalize = ops.BatchNorm(is_training=True, epsilon=eps, momentum=0.0)
    normalize.set_signatures(())
    normalize.add_prim_attr("side_effect_mem", False)
    return normalize


def _int32(number: int) -> int:
    """The low 32 bits, signed."""
    return (number + 2**31) % 2**32 - 2**31


class MindSporeOps(Ops):
    """NCHW, as the canonical layout."""

    def __init__(self) -> None:
        self._draws = 0
        #: What ``drop`` draws from, an int32 scalar. In a compiled pass it is an input, set anew each call.
        self.key: Tensor = Tensor(np.int32(0))

    def seed(self, key: Any) -> None:
        """Start drawing anew."""
        self.key, self._draws = key, 0

    def from_numpy(self, array: Array, kind: Kind, dtype: DType = "float32") -> Tensor:
        return Tensor(np.array(array, dtype))

    def to_numpy(self, tensor: Tensor, kind: Kind) -> Array:
        return np.array(tensor.asnumpy())

    def on_channel(self, vector: Tensor, activation: Tensor) -> Tensor:
        return (
            vector
            if vector.ndim == 0 or activation.ndim == 2
            else vector.reshape((1, -1) + (1,) * (activation.ndim - 2))
        )

    def on_output(self, vector: Tensor, weight: Tensor) -> Tensor:
        return vector if vector.ndim == 0 else vector.reshape((-1,) + (1,) * (weight.ndim - 1))

    def mix_inputs(self, weight: Tensor, matrix: Array) -> Tensor:
        last = weight.ndim - 1
        mixed = ops.matmul(weight.transpose(0, *range(2, last + 1), 1), self.from_numpy(matrix, "vector"))
        return mixed.transpose(0, last, *range(1, last))

    def picture_weight(self, weight: Tensor) -> Tensor:
        return weight.expand_dims(2) if weight.ndim == 3 else weight

    def swap_channels(self, weight: Tensor, group: int) -> Tensor:
        first, second, *kernel = weight.shape
        swapped = weight.reshape(group, first // group, second, *kernel).swapaxes(1, 2)
        return swapped.reshape(group * second, first // group, *kernel)

    def phase_weight(self, weight: Tensor, rows: Sequence[int], columns: Sequence[int], stride: Pair) -> Tensor:
        (outputs, inputs, _, _), (down, across) = weight.shape, stride
        w = ops.pad(weight, (0, 1, 0, 1), mode="constant", value=0.0)
        w = ops.gather(ops.gather(w, Tensor(np.array(rows, np.int32)), 2), Tensor(np.array(columns, np.int32)), 3)
        taps = (len(rows) // down, len(columns) // across)
        w = w.reshape(outputs, inputs, down, taps[0], across, taps[1]).transpose(0, 2, 4, 1, 3, 5)
        return w.reshape(outputs * down * across, inputs, *taps)

    def cast(self, x: Tensor, dtype: DType) -> Tensor:
        return x.astype(getattr(ms, dtype))

    def shift_right(self, x: Tensor, bits: Tensor | int) -> Tensor:
        return ops.stop_gradient(ops.bitwise_right_shift(x, bits))  # it has no gradient function, not even one of none

    def conv2d(
        self,
        x: Tensor,
        w: Tensor,
        bias: Tensor | None,
        *,
        stride: Pair,
        padding: Padding,
        dilation: Pair,
        group: int,
        wide: bool = False,
    ) -> Tensor:
        if wide:
            return _wide_conv2d(x, w, bias, stride, padding, dilation, group)
        convolution = _primitive(
            ops.Conv2D,
            out_channel=w.shape[0],
            kernel_size=tuple(w.shape[2:]),
            pad_mode="pad",
            pad=padding,
            stride=stride,
            dilation=dilation,
            group=group,
        )
        y = convolution(x, w)
        return y if bias is None else ops.bias_add(y, bias)

    def dense(self, x: Tensor, w: Tensor, bias: Tensor | None, *, wide: bool = False) -> Tensor:
        dtype = x.dtype
        if wide:
            x, w = x.astype(ms.float64), w.astype(ms.float64)
        y = _primitive(ops.MatMul, transpose_b=True)(x, w)
        if bias is not None:
            y = y + bias.astype(ms.float64) if wide else ops.bias_add(y, bias)
        return y.astype(dtype) if wide else y

    def matmul(
        self, a: Tensor, b: Tensor, *, transpose: tuple[bool, bool] = (False, False), wide: bool = False
    ) -> Tensor:
        dtype = a.dtype
        if wide:
            a, b = a.astype(ms.float64), b.astype(ms.float64)
        y = _primitive(ops.BatchMatMul, transpose_a=transpose[0], transpose_b=transpose[1])(a, b)
        return y.astype(dtype) if wide else y

    def max_pool2d(self, x: Tensor, *, kernel: Pair, stride: Pair, padding: Padding) -> Tensor:
        x = _pad(x, padding, float("-inf"))
        return _primitive(ops.MaxPool, kernel_size=kernel, strides=stride, pad_mode="valid")(x)

    def sum_pool2d(self, x: Tensor, *, kernel: Pair, stride: Pair, padding: Padding) -> Tensor:
        n, channels, height, width = x.shape
        if kernel == (height, width) and not any(padding):
            return x.sum((2, 3), keepdims=True)
        # An average would be divided and multiplied back; the sum of integers has to be exact.
        ones = Tensor(np.ones((1, 1, *kernel), np.float32))
        images = x.reshape(n * channels, 1, height, width)
        y = self.conv2d(images, ones, None, stride=stride, padding=padding, dilation=(1, 1), group=1)
        return y.reshape(n, channels, *y.shape[2:])

    def concat(self, xs: Sequence[Tensor], axis: int = 0) -> Tensor:
        return ops.cat(tuple(xs), 1 + axis)

    def pick(self, x: Tensor, axis: int, places: Sequence[int]) -> Tensor:
        # Slices with steps have a wrong gradient on CPUs (MindSpore 2.6).
        return ops.gather(x, Tensor(np.array(places, np.int32)), 1 + axis)

    def pad(self, x: Tensor, widths: Sequence[Pair]) -> Tensor:
        return ops.pad(x, tuple(side for width in reversed(widths) for side in width), mode="constant", value=0.0)

    def rearrange(self, x: Tensor, how: Rearrangement) -> Tensor:
        for parts, axes in how.steps():
            x = x.reshape(-1, *parts).transpose(0, *(1 + axis for axis in axes))
        return x.reshape(-1, *how.shape)

    def take(self, table: Tensor, index: Tensor) -> Tensor:
        return ops.gather(table, index.astype(ms.int32), 0)

    def drop(self, x: Tensor, rate: float) -> Tensor:
        # MindSpore's own generators keep a state inside their kernels, which a resumed run cannot set. A number is
        # drawn for each element by hashing its index, the key and how many draws came before.
        start = _hash(self.key + _int32(self._draws * 0x85EBCA6B))
        self._draws += 1
        drawn = _hash(Tensor(_indices(x.shape)) + start)
        keep = drawn >= _int32(round(rate * 2**32) - 2**31) if rate > 0 else drawn == drawn
        return x * keep.astype(ms.float32)

    def flatten(self, x: Tensor) -> Tensor:
        return x.reshape(x.shape[0], -1)

    def maximum(self, x: Tensor, y: Tensor | float) -> Tensor:
        return ops.maximum(x, y)

    def minimum(self, x: Tensor, y: Tensor | float) -> Tensor:
        return ops.minimum(x, y)

    def sigmoid(self, x: Tensor) -> Tensor:
        return ops.sigmoid(x)

    def tanh(self, x: Tensor) -> Tensor:
        return ops.tanh(x)

    def exp(self, x: Tensor) -> Tensor:
        return ops.exp(x)

    def erf(self, x: Tensor) -> Tensor:
        return ops.erf(x)

    def softplus(self, x: Tensor) -> Tensor:
        return ops.softplus(x)

    def softmax(self, x: Tensor) -> Tensor:
        return ops.softmax(x, 1)

    def sqrt(self, x: Tensor) -> Tensor:
        return ops.sqrt(x)

    def log(self, x: Tensor) -> Tensor:
        return ops.log(x)

    def relu(self, x: Tensor) -> Tensor:
        return ops.relu(x)

    def abs(self, x: Tensor) -> Tensor:
        return ops.abs(x)

    def where(self, condition: Tensor, x: Tensor, y: Tensor) -> Tensor:
        return ops.where(condition, x, y)

    def isfinite(self, x: Tensor) -> Tensor:
        return ops.isfinite(x)

    def rint(self, x: Tensor) -> Tensor:
        return ops.round(x)

    def round_ste(self, x: Tensor) -> Tensor:
        return x + ops.stop_gradient(ops.round(x) - x)  # exact: the fraction is, and the sum is an integer

    def stop_gradient(self, x: Tensor) -> Tensor:
        return ops.stop_gradient(x)

    def channels(self, x: Tensor) -> int:
        return int(x.shape[1])

    def max(self, x: Tensor) -> Tensor:
        return x.max()

    def min(self, x: Tensor) -> Tensor:
        return x.min()

    def mean(self, x: Tensor) -> Tensor:
        return x.mean()

    def channel_max(self, x: Tensor) -> Tensor:
        return ops.amax(x, (0, *range(2, x.ndim)))

    def channel_min(self, x: Tensor) -> Tensor:
        return ops.amin(x, (0, *range(2, x.ndim)))

    def channel_mean(self, x: Tensor) -> Tensor:
        return ops.mean(x, (0, *range(2, x.ndim)))

    def max_over_channels(self, x: Tensor) -> Tensor:
        return ops.amax(x, 1, keepdims=True)

    def sum_over_channels(self, x: Tensor) -> Tensor:
        return x.sum(1, keepdims=True)

    def output_max(self, w: Tensor) -> Tensor:
        return ops.amax(w, tuple(range(1, w.ndim)))

    def output_min(self, w: Tensor) -> Tensor:
        return ops.amin(w, tuple(range(1, w.ndim)))

    def output_mean(self, w: Tensor) -> Tensor:
        return ops.mean(w, tuple(range(1, w.ndim)))

    def batch_norm(self, x: Tensor, gamma: Tensor, beta: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        """On a CPU one kernel in place of a dozen, and one for the gradient."""
        if ms.get_context("device_target") != "CPU" or not 0.0 < eps <= 1.0:  # elsewhere it gives other statistics
            return super().batch_norm(x, gamma, beta, eps)
        channels = x.shape[1]
        # The statistics that the kernel would update are its own; with the factor 0 they stay as they are.
        own = (Tensor(np.zeros(channels, np.float32)), Tensor(np.ones(channels, np.float32)))
        images = x if x.ndim == 4 else x.reshape(x.shape[0], channels, -1, 1)
        y, _, _, mean, variance = _batch_norm(eps)(images, gamma, beta, *own)
        return y.reshape(x.shape), ops.stop_gradient(mean), ops.stop_gradient(variance)

    def requantize(
        self,
        x: Tensor,
        multiplier: Tensor,
        low: Tensor | float | None = None,
        high: Tensor | float | None = None,
        *,
        open_low: bool = False,
    ) -> Tensor:
        """Five operations where the bounds are numbers: clamp's gradient is 1 at its bounds, so that an open one is moved
        to the next float32 inside (a normal one, for CPUs that take others for 0), and the rounding brings it back.
        """
        if not isinstance(low, float) or not isinstance(high, float):
            return super().requantize(x, multiplier, low, high, open_low=open_low)
        low, high = reach(low, high, open_low=open_low)
        if open_low:
            low = max(float(np.nextafter(np.float32(low), np.float32(np.inf))), TINY if low == 0 else low)
        return self.round_ste(ops.clamp(x * multiplier, low, high))

    def softmax_cross_entropy(self, logits: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
        classes = logits.shape[1]
        share = smoothing / classes
        on, off = (Tensor(np.float32(value)) for value in (1.0 - smoothing + share, share))
        # log_softmax by itself is off by 4e-6
        loss, _ = _primitive(ops.SoftmaxCrossEntropyWithLogits)(logits, ops.one_hot(labels, classes, on, off))
        return loss.mean()


def _pad(x: Tensor, padding: Padding, value: float) -> Tensor:
    top, bottom, left, right = padding
    return ops.pad(x, (left, right, top, bottom), mode="constant", value=value) if any(padding) else x


def _wide_conv2d(
    x: Tensor, w: Tensor, bias: Tensor | None, stride: Pair, padding: Padding, dilation: Pair, group: int
) -> Tensor:
    """A convolution in float64, which Conv2D has no kernel for: for each element of the kernel one matrix product."""
    dtype = x.dtype
    x = _pad(x, padding, 0.0).astype(ms.float64)
    n, channels, height, width = x.shape
    outputs, per_group, kernel_height, kernel_width = w.shape
    rows = (height - dilation[0] * (kernel_height - 1) - 1) // stride[0] + 1
    columns = (width - dilation[1] * (kernel_width - 1) - 1) // stride[1] + 1
    kernels = w.astype(ms.float64).reshape(group, outputs // group, per_group, kernel_height, kernel_width)
    total: Any = None
    for row in range(kernel_height):
        for column in range(kernel_width):
            top, left = row * dilation[0], column * dilation[1]
            part = x[
                :,
                :,
                top : top + (rows - 1) * stride[0] + 1 : stride[0],
                left : left + (columns - 1) * stride[1] + 1 : stride[1],
            ]
            part = part.reshape(n, group, channels // group, rows * columns)
            product = ops.matmul(kernels[:, :, :, row, column], part)  # (N, G, O/G, H' W')
            total = product if total is None else total + product
    y = total.reshape(n, outputs, rows, columns)
    if bias is not None:
        y = y + bias.astype(ms.float64).reshape(1, -1, 1, 1)
    return y.astype(dtype)


def _hash(x: Tensor) -> Tensor:
    """A permutation of int32 that mixes well (the "lowbias32" of github.com/skeeto/hash-prospector)."""
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B), (16, None)):
        shifted = ops.bitwise_right_shift(x, Tensor(np.int32(shift)))  # brings the sign along
        x = ops.bitwise_xor(x, ops.bitwise_and(shifted, Tensor(np.int32(2 ** (32 - shift) - 1))))
        if factor is not None:
            x = x * Tensor(np.int32(_int32(factor)))
    return x


@cache
def _indices(shape: tuple[int, ...]) -> Array:
    return (np.arange(np.prod(shape), dtype=np.uint64) * 0x9E3779B1).astype(np.uint32).view(np.int32).reshape(shape)


class ExactOps(MindSporeOps):
    """For evaluation: every sum of integers is exact.

    A GPU or an Ascend may round the factors of a convolution (TF32, fp16) or transform it; there it is computed in float64.
    """

    def __init__(self) -> None:
        super().__init__()
        self._wide = ms.get_context("device_target") != "CPU"

    def conv2d(self, x: Tensor, w: Tensor, bias: Tensor | None, *, wide: bool = False, **window: Any) -> Tensor:
        return super().conv2d(x, w, bias, wide=wide or self._wide, **window)

    def dense(self, x: Tensor, w: Tensor, bias: Tensor | None, *, wide: bool = False) -> Tensor:
        return super().dense(x, w, bias, wide=wide or self._wide)

    def matmul(
        self, a: Tensor, b: Tensor, *, transpose: tuple[bool, bool] = (False, False), wide: bool = False
    ) -> Tensor:
        return super().matmul(a, b, transpose=transpose, wide=wide or self._wide)
