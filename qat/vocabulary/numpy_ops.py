"""The vocabulary in NumPy: the reference for the backends, the means by which deployed parameters are derived, and
what the integer graph is evaluated with. It has no gradients.

A scalar is a vector of one element, because NumPy 1 would promote a 0-d array beside a Python number to float64.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from qat.vocabulary.ops import Array, DType, Kind, Ops, Padding, Pair
from qat.vocabulary.rearrangement import Rearrangement


class NumpyOps(Ops):
    """The vocabulary over float32 arrays in canonical layouts."""

    def from_numpy(self, array: Array, kind: Kind, dtype: DType = "float32") -> Array:
        array = np.asarray(array, dtype)
        return array.reshape(1) if kind == "scalar" else array

    def to_numpy(self, tensor: Array, kind: Kind) -> Array:
        return tensor.reshape(()) if kind == "scalar" else tensor

    def on_channel(self, vector: Array, activation: Array) -> Array:
        return vector.reshape((1, -1) + (1,) * (activation.ndim - 2))

    def on_output(self, vector: Array, weight: Array) -> Array:
        return vector.reshape((-1,) + (1,) * (weight.ndim - 1))

    def mix_inputs(self, weight: Array, matrix: Array) -> Array:
        mixed: Array = np.einsum("oi...,ij->oj...", weight, matrix.astype(np.float32))
        return mixed

    def picture_weight(self, weight: Array) -> Array:
        return weight[:, :, np.newaxis] if weight.ndim == 3 else weight

    def swap_channels(self, weight: Array, group: int) -> Array:
        first, second, *kernel = weight.shape
        swapped = weight.reshape(group, first // group, second, *kernel).swapaxes(1, 2)
        return np.ascontiguousarray(swapped.reshape(group * second, first // group, *kernel))

    def phase_weight(self, weight: Array, rows: Sequence[int], columns: Sequence[int], stride: Pair) -> Array:
        (outputs, inputs, _, _), (down, across) = weight.shape, stride
        w = np.pad(weight, ((0, 0), (0, 0), (0, 1), (0, 1))).take(rows, axis=2).take(columns, axis=3)
        w = w.reshape(outputs, inputs, down, -1, across, len(columns) // across).transpose(0, 2, 4, 1, 3, 5)
        return np.ascontiguousarray(w.reshape(outputs * down * across, inputs, *w.shape[4:]))

    def cast(self, x: Array, dtype: DType) -> Array:
        return x.astype(dtype)

    def shift_right(self, x: Array, bits: Array | int) -> Array:
        shifted: Array = x >> bits
        return shifted

    def conv2d(
        self,
        x: Array,
        w: Array,
        bias: Array | None,
        *,
        stride: Pair,
        padding: Padding,
        dilation: Pair,
        group: int,
        wide: bool = False,
    ) -> Array:
        y = convolve(x, w, bias, stride, padding, dilation, group, np.dtype(np.float64 if wide else np.float32))
        return np.ascontiguousarray(y, dtype=_result(x))

    def dense(self, x: Array, w: Array, bias: Array | None, *, wide: bool = False) -> Array:
        dtype = np.float64 if wide else np.float32
        y: Array = np.matmul(x.astype(dtype, copy=False), w.astype(dtype, copy=False).T)
        if bias is not None:
            y += bias
        return y.astype(_result(x), copy=False)

    def matmul(self, a: Array, b: Array, *, transpose: tuple[bool, bool] = (False, False), wide: bool = False) -> Array:
        dtype = np.float64 if wide else np.float32
        pairs = zip((a, b), transpose, strict=True)
        first, second = ((np.swapaxes(x, -1, -2) if turned else x).astype(dtype, copy=False) for x, turned in pairs)
        product: Array = np.matmul(first, second)
        return product.astype(_result(a), copy=False)

    def max_pool2d(self, x: Array, *, kernel: Pair, stride: Pair, padding: Padding) -> Array:
        windows = _windows(x, kernel, stride, padding, (1, 1), -np.inf)
        y = windows[..., 0, 0]
        for row in range(kernel[0]):
            for column in range(kernel[1]):
                y = np.maximum(y, windows[..., row, column])
        return y

    def sum_pool2d(self, x: Array, *, kernel: Pair, stride: Pair, padding: Padding) -> Array:
        y: Array = _windows(x, kernel, stride, padding, (1, 1), 0.0).sum(axis=(4, 5))
        return y

    def concat(self, xs: Sequence[Array], axis: int = 0) -> Array:
        return np.concatenate(xs, axis=1 + axis)

    def pick(self, x: Array, axis: int, places: Sequence[int]) -> Array:
        return x.take(places, axis=1 + axis)

    def pad(self, x: Array, widths: Sequence[Pair]) -> Array:
        return np.pad(x, ((0, 0), *widths))

    def rearrange(self, x: Array, how: Rearrangement) -> Array:
        for parts, axes in how.steps():
            x = x.reshape(len(x), *parts).transpose(0, *(1 + axis for axis in axes))
        return x.reshape(len(x), *how.shape)

    def take(self, table: Array, index: Array) -> Array:
        y: Array = table[index.astype(np.intp)]
        return y

    def drop(self, x: Array, rate: float) -> Array:
        return x * (np.random.default_rng().random(x.shape) >= rate)

    def flatten(self, x: Array) -> Array:
        return x.reshape(len(x), -1)

    def maximum(self, x: Array, y: Array | float) -> Array:
        return np.maximum(x, y)

    def minimum(self, x: Array, y: Array | float) -> Array:
        return np.minimum(x, y)

    def sigmoid(self, x: Array) -> Array:
        y: Array = 0.5 + 0.5 * np.tanh(0.5 * x)  # 1 / (1 + exp(-x)), which would overflow
        return y

    def tanh(self, x: Array) -> Array:
        return np.tanh(x)

    def exp(self, x: Array) -> Array:
        y: Array = np.exp(x)
        return y

    def erf(self, x: Array) -> Array:
        y: Array = _erf(x).astype(x.dtype)
        return y

    def softplus(self, x: Array) -> Array:
        y: Array = np.logaddexp(x, x.dtype.type(0.0))
        return y

    def softmax(self, x: Array) -> Array:
        e = np.exp(x - x.max(axis=1, keepdims=True))
        y: Array = e / e.sum(axis=1, keepdims=True)
        return y

    def sqrt(self, x: Array) -> Array:
        return np.sqrt(x)

    def log(self, x: Array) -> Array:
        # The last bit of a logarithm differs between processors. Computed in float64 and rounded to float32 it does not.
        return np.log(x.astype(np.float64)).astype(np.float32)

    def relu(self, x: Array) -> Array:
        return np.maximum(x, 0)

    def abs(self, x: Array) -> Array:
        return np.abs(x)

    def where(self, condition: Array, x: Array, y: Array) -> Array:
        return np.where(condition, x, y)

    def isfinite(self, x: Array) -> Array:
        return np.isfinite(x)

    def rint(self, x: Array) -> Array:
        return np.rint(x)

    def round_ste(self, x: Array) -> Array:
        return np.rint(x)

    def stop_gradient(self, x: Array) -> Array:
        return x

    def channels(self, x: Array) -> int:
        return int(x.shape[1])

    def max(self, x: Array) -> Array:
        y: Array = x.max().reshape(1)
        return y

    def min(self, x: Array) -> Array:
        y: Array = x.min().reshape(1)
        return y

    def mean(self, x: Array) -> Array:
        y: Array = x.mean(dtype=x.dtype).reshape(1)  # of float64, as losses of an evaluation are, more is kept
        return y

    def channel_max(self, x: Array) -> Array:
        y: Array = x.max(axis=(0, *range(2, x.ndim)))
        return y

    def channel_min(self, x: Array) -> Array:
        y: Array = x.min(axis=(0, *range(2, x.ndim)))
        return y

    def channel_mean(self, x: Array) -> Array:
        y: Array = x.mean(axis=(0, *range(2, x.ndim)), dtype=np.float32)
        return y

    def max_over_channels(self, x: Array) -> Array:
        y: Array = x.max(axis=1, keepdims=True)
        return y

    def sum_over_channels(self, x: Array) -> Array:
        y: Array = x.sum(axis=1, keepdims=True)
        return y

    def output_max(self, w: Array) -> Array:
        y: Array = w.max(axis=tuple(range(1, w.ndim)))
        return y

    def output_min(self, w: Array) -> Array:
        y: Array = w.min(axis=tuple(range(1, w.ndim)))
        return y

    def output_mean(self, w: Array) -> Array:
        y: Array = w.mean(axis=tuple(range(1, w.ndim)), dtype=w.dtype)
        return y

    def softmax_cross_entropy(self, logits: Array, labels: Array, smoothing: float = 0.0) -> Array:
        shifted = logits - logits.max(axis=1, keepdims=True)
        log_sum = np.log(np.exp(shifted).sum(axis=1))
        picked = shifted[np.arange(len(labels)), labels]
        target = (1.0 - smoothing) * picked + smoothing * shifted.mean(axis=1)
        loss: Array = (log_sum - target).mean(dtype=logits.dtype).reshape(1)
        return loss

    def requantize(
        self,
        x: Array,
        multiplier: Array,
        low: Array | float | None = None,
        high: Array | float | None = None,
        *,
        open_low: bool = False,
    ) -> Array:
        y = x * multiplier
        np.rint(y, out=y)
        if low is not None and high is not None:
            np.clip(y, low, high, out=y)
        return y


_erf = np.vectorize(math.erf, otypes=[np.float64])  # NumPy has none

NUMPY_OPS = NumpyOps()


def _result(x: Array) -> type[np.floating[Any]]:
    """The type of sums of products with x."""
    return np.float64 if x.dtype == np.float64 else np.float32


def _windows(x: Array, kernel: Pair, stride: Pair, padding: Padding, dilation: Pair, fill: float) -> Array:
    """A view of every window of a padded NCHW array: (N, C, H', W', kh, kw)."""
    top, bottom, left, right = padding
    if any(padding):
        x = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)), constant_values=fill)
    reach = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    # NumPy's type hints allow a single axis only.
    windows: Array = np.lib.stride_tricks.sliding_window_view(x, reach, axis=(2, 3))  # type: ignore[call-overload]
    return windows[:, :, :: stride[0], :: stride[1], :: dilation[0], :: dilation[1]]


def convolve(
    x: Array,
    w: Array,
    bias: Array | None,
    stride: Pair,
    padding: Padding,
    dilation: Pair,
    group: int,
    dtype: np.dtype[Any],
) -> Array:
    """``Ops.conv2d`` computed in a floating ``dtype`` and left in it: (N, O, H', W'), not contiguous."""
    windows = _windows(x.astype(dtype, copy=False), (w.shape[2], w.shape[3]), stride, padding, dilation, 0.0)
    n, channels, height, width = windows.shape[:4]
    outputs, per_group = w.shape[0], w.shape[1]
    # (N, C, H, W, kh, kw) -> (G, N*H*W, C/G*kh*kw): one matrix product for each group
    taps = per_group * w.shape[2] * w.shape[3]
    patches = windows.reshape(n, group, channels // group, height, width, *w.shape[2:])
    patches = patches.transpose(1, 0, 3, 4, 2, 5, 6).reshape(group, n * height * width, taps)
    kernels = w.astype(dtype, copy=False).reshape(group, outputs // group, taps)
    y: Array = np.matmul(patches, kernels.transpose(0, 2, 1))  # (G, N*H*W, O/G)
    if bias is not None:
        y += bias.reshape(group, 1, outputs // group)
    return (
        y.reshape(group, n, height, width, outputs // group).transpose(1, 0, 4, 2, 3).reshape(n, outputs, height, width)
    )
