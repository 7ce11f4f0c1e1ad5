"""Ascend's int8 unit emulated in NumPy: the operations that both Ascend formats hold.

Where the reference multiplies an accumulator once, y = clip(rint(f32(acc m))) with m = s_x s_w / s_y, Ascend multiplies
twice:

    AscendDequant   d = f32(f32(acc) s_x s_w)
    AscendQuant     y = clip(rint(f32(f32(d / s_y) + offset)), -128, 127)
"""

from __future__ import annotations

from typing import Any

import numpy as np

from qat.vocabulary.numpy_ops import NUMPY_OPS
from qat.vocabulary.numpy_ops import convolve as convolve_in
from qat.vocabulary.ops import EXACT_INTEGERS, Array, Padding, Pair

LOW, HIGH = -128, 127  #: of int8


def quantize(x: Array, scale: float, offset: float) -> Array:
    """AscendQuant: int8 codes of real numbers, clip(rint(x scale + offset)) in float32; ``scale`` is 1 / s."""
    y = x.astype(np.float32) * np.float32(scale)
    y += np.float32(offset)
    codes: Array = np.clip(np.rint(y), LOW, HIGH).astype(np.int8)
    return codes


def dequantize(x: Array, scale: Array) -> Array:
    """AscendDequant: float32 numbers of int32 accumulators, f32(x) scale; ``scale``: uint64, (C,) or (1,), each with the
    bits of a float32 in its lower half.
    """
    factors = (scale & np.uint64(0xFFFFFFFF)).astype(np.uint32).view(np.float32)
    y: Array = x.astype(np.float32) * NUMPY_OPS.on_channel(factors, x)
    return y


def convolve(
    x: Array, weight: Array, bias: Array | None, *, stride: Pair, padding: Padding, dilation: Pair, group: int
) -> Array:
    """int32 accumulators (N, O, H', W') of int8 codes (N, I, H, W) and weights (O, I / group, kh, kw), int32 bias (O,)."""
    y = convolve_in(x, weight, None, stride, padding, dilation, group, _exact_in(weight))
    return _accumulators(y, bias)


def multiply(x: Array, weight: Array, bias: Array | None) -> Array:
    """int32 accumulators (N, O) of int8 codes (N, I) and weights (O, I), int32 bias (O,)."""
    dtype = _exact_in(weight)
    return _accumulators(np.matmul(x.astype(dtype), weight.astype(dtype).T), bias)


def max_pool(x: Array, *, kernel: Pair, stride: Pair, padding: Padding) -> Array:
    """The largest number of each window, float32."""
    return NUMPY_OPS.max_pool2d(x.astype(np.float32, copy=False), kernel=kernel, stride=stride, padding=padding)


def _exact_in(weight: Array) -> np.dtype[Any]:
    """The type in which sums of int8 products are exact in any order."""
    largest = int(np.abs(weight.astype(np.int64)).reshape(len(weight), -1).sum(axis=1).max(initial=0)) * -LOW
    return np.dtype(np.float32 if largest <= EXACT_INTEGERS else np.float64)


def _accumulators(y: Array, bias: Array | None) -> Array:
    accumulators: Array = np.ascontiguousarray(y).astype(np.int32)
    if bias is not None:
        accumulators += NUMPY_OPS.on_channel(bias, accumulators)
    return accumulators
