"""JAX: the vocabulary over its arrays, on the CPU."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from qat.vocabulary.clip import reach
from qat.vocabulary.ops import Array, DType, Kind, Ops, Padding, Pair
from qat.vocabulary.rearrangement import Rearrangement

jax.config.update("jax_enable_x64", True)  # wide sums are in float64; everything else names its type

Tensor: TypeAlias = jax.Array
CPU = jax.devices("cpu")[0]


class JaxOps(Ops):
    """NCHW, as the canonical layout."""

    sigmoid, tanh, sqrt, log = map(staticmethod, (jax.nn.sigmoid, jnp.tanh, jnp.sqrt, jnp.log))
    exp, erf, softplus = map(staticmethod, (jnp.exp, jax.scipy.special.erf, jax.nn.softplus))
    relu, abs, where, isfinite = map(staticmethod, (jax.nn.relu, jnp.abs, jnp.where, jnp.isfinite))
    maximum, minimum, rint = map(staticmethod, (jnp.maximum, jnp.minimum, jnp.rint))
    max, min, mean, stop_gradient = map(staticmethod, (jnp.max, jnp.min, jnp.mean, lax.stop_gradient))

    def __init__(self) -> None:
        #: What ``drop`` draws from. In a compiled step it is an argument, set anew in each call.
        self.key = jax.random.key(0)

    def from_numpy(self, array: Array, kind: Kind, dtype: DType = "float32") -> Tensor:
        return jax.device_put(np.array(array, dtype), CPU)

    def to_numpy(self, tensor: Tensor, kind: Kind) -> Array:
        return np.array(tensor)

    def on_channel(self, vector: Tensor, activation: Tensor) -> Tensor:
        return (
            vector if vector.ndim == 0 or activation.ndim == 2 else vector.reshape((-1,) + (1,) * (activation.ndim - 2))
        )

    def on_output(self, vector: Tensor, weight: Tensor) -> Tensor:
        return vector if vector.ndim == 0 else vector.reshape((-1,) + (1,) * (weight.ndim - 1))

    def mix_inputs(self, weight: Tensor, matrix: Array) -> Tensor:
        return jnp.einsum("oi...,ij->oj...", weight, self.from_numpy(matrix, "vector"))

    def picture_weight(self, weight: Tensor) -> Tensor:
        return weight[:, :, None] if weight.ndim == 3 else weight

    def swap_channels(self, weight: Tensor, group: int) -> Tensor:
        first, second, *kernel = weight.shape
        swapped = weight.reshape(group, first // group, second, *kernel).swapaxes(1, 2)
        return swapped.reshape(group * second, first // group, *kernel)

    def phase_weight(self, weight: Tensor, rows: Sequence[int], columns: Sequence[int], stride: Pair) -> Tensor:
        (outputs, inputs, _, _), (down, across) = weight.shape, stride
        w = jnp.pad(weight, ((0, 0), (0, 0), (0, 1), (0, 1))).take(np.array(rows), 2).take(np.array(columns), 3)
        w = w.reshape(outputs, inputs, down, -1, across, len(columns) // across).transpose(0, 2, 4, 1, 3, 5)
        return w.reshape(outputs * down * across, inputs, *w.shape[4:])

    def cast(self, x: Tensor, dtype: DType) -> Tensor:
        return x.astype(dtype)

    def shift_right(self, x: Tensor, bits: Tensor | int) -> Tensor:
        return x >> bits

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
        sums = jnp.float64 if wide else jnp.float32
        y = lax.conv_general_dilated(
            x.astype(sums),
            w.astype(sums),
            stride,
            (padding[:2], padding[2:]),
            rhs_dilation=dilation,
            feature_group_count=group,
        )
        return (y if bias is None else y + self.on_channel(bias, y)).astype(x.dtype)

    def dense(self, x: Tensor, w: Tensor, bias: Tensor | None, *, wide: bool = False) -> Tensor:
        sums = jnp.float64 if wide else jnp.float32
        y = x.astype(sums) @ w.astype(sums).T
        return (y if bias is None else y + bias).astype(x.dtype)

    def matmul(
        self, a: Tensor, b: Tensor, *, transpose: tuple[bool, bool] = (False, False), wide: bool = False
    ) -> Tensor:
        sums = jnp.float64 if wide else jnp.float32
        turned = (x.swapaxes(-1, -2) if swap else x for x, swap in zip((a, b), transpose, strict=True))
        first, second = (x.astype(sums) for x in turned)
        return (first @ second).astype(a.dtype)

    def max_pool2d(self, x: Tensor, *, kernel: Pair, stride: Pair, padding: Padding) -> Tensor:
        return _pooled(lax.max, -np.inf, x, kernel, stride, padding)

    def sum_pool2d(self, x: Tensor, *, kernel: Pair, stride: Pair, padding: Padding) -> Tensor:
        return _pooled(lax.add, 0.0, x, kernel, stride, padding)

    def concat(self, xs: Sequence[Tensor], axis: int = 0) -> Tensor:
        return jnp.concatenate(list(xs), 1 + axis)

    def pick(self, x: Tensor, axis: int, places: Sequence[int]) -> Tensor:
        return jnp.take(x, jnp.array(places), axis=1 + axis)

    def pad(self, x: Tensor, widths: Sequence[Pair]) -> Tensor:
        return jnp.pad(x, ((0, 0), *widths))

    def rearrange(self, x: Tensor, how: Rearrangement) -> Tensor:
        for parts, axes in how.steps():
            x = x.reshape(-1, *parts).transpose(0, *(1 + axis for axis in axes))
        return x.reshape(-1, *how.shape)

    def take(self, table: Tensor, index: Tensor) -> Tensor:
        return table[index.astype(jnp.int32)]

    def drop(self, x: Tensor, rate: float) -> Tensor:
        self.key, key = jax.random.split(self.key)
        return x * (jax.random.uniform(key, x.shape, jnp.float32) >= rate)

    def flatten(self, x: Tensor) -> Tensor:
        return x.reshape(x.shape[0], -1)

    def softmax(self, x: Tensor) -> Tensor:
        return jax.nn.softmax(x, 1)

    def round_ste(self, x: Tensor) -> Tensor:
        return _round_ste(x)

    def channel_max(self, x: Tensor) -> Tensor:
        return x.max((0, *range(2, x.ndim)))

    def channel_min(self, x: Tensor) -> Tensor:
        return x.min((0, *range(2, x.ndim)))

    def channel_mean(self, x: Tensor) -> Tensor:
        return x.mean((0, *range(2, x.ndim)))

    def max_over_channels(self, x: Tensor) -> Tensor:
        return x.max(1, keepdims=True)

    def sum_over_channels(self, x: Tensor) -> Tensor:
        return x.sum(1, keepdims=True)

    def output_max(self, w: Tensor) -> Tensor:
        return w.max(tuple(range(1, w.ndim)))

    def output_min(self, w: Tensor) -> Tensor:
        return w.min(tuple(range(1, w.ndim)))

    def output_mean(self, w: Tensor) -> Tensor:
        return w.mean(tuple(range(1, w.ndim)))

    def softmax_cross_entropy(self, logits: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
        target = jax.nn.one_hot(labels, logits.shape[1], dtype=jnp.float32) * (1.0 - smoothing)
        target += smoothing / logits.shape[1]
        return -(target * jax.nn.log_softmax(logits, 1)).sum(1).mean()

    def requantize(
        self,
        x: Tensor,
        multiplier: Tensor,
        low: Tensor | float | None = None,
        high: Tensor | float | None = None,
        *,
        open_low: bool = False,
    ) -> Tensor:
        low, high = (-np.inf, np.inf) if low is None or high is None else (low, high)
        return _requantize(x, multiplier, *(jnp.asarray(bound, jnp.float32) for bound in (low, high)), open_low)


def _pooled(function: Any, start: float, x: Tensor, kernel: Pair, stride: Pair, padding: Padding) -> Tensor:
    sides = ((0, 0), (0, 0), padding[:2], padding[2:])
    return lax.reduce_window(x, np.float32(start), function, (1, 1, *kernel), (1, 1, *stride), sides)


# XLA may compute a product and a difference as one operation, rounded once, so that no straight-through gradient here is
# written as a difference that should be 0.


@jax.custom_jvp  # type: ignore[untyped-decorator]
def _round_ste(x: Tensor) -> Tensor:
    return jnp.rint(x)


_round_ste.defjvps(lambda dx, y, x: dx)


@partial(jax.custom_jvp, nondiff_argnums=(4,))
def _requantize(x: Tensor, multiplier: Tensor, low: Tensor, high: Tensor, open_low: bool) -> Tensor:
    return jnp.clip(jnp.rint(x * multiplier), low, high)


@_requantize.defjvp  # type: ignore[untyped-decorator]
def _requantize_jvp(open_low: bool, primals: tuple[Tensor, ...], tangents: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    x, multiplier, low, high = primals
    u = x * multiplier
    below, above = reach(low, high, open_low=open_low)
    inside = (u > below if open_low else u >= below) & (u <= above)
    change = tangents[0] * multiplier + x * tangents[1]
    return _requantize(*primals, open_low), jnp.where(inside, change, 0.0)
