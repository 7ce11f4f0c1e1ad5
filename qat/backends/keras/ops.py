"""Keras 3 over TensorFlow: the vocabulary over its tensors."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np

from qat.backends.keras.fused import BatchNorm, KerasNormalized, summed, to_codes
from qat.backends.keras.setup import tf
from qat.training.devices import choose_device
from qat.training.workers import this_worker
from qat.vocabulary.normalized import Normalized
from qat.vocabulary.ops import Array, DType, Kind, Ops, Padding, Pair
from qat.vocabulary.rearrangement import Rearrangement, as_slice

DEVICES = {"CPU": "/CPU:0", "GPU": "/GPU:0"}  #: device target -> TensorFlow's name
Tensor: TypeAlias = tf.Tensor
#: From the canonical layout to this backend's, by kind and rank: NHWC, NLC, HWIO and LIO. All others are as they are.
AXES = {
    ("activation", 4): (0, 2, 3, 1),
    ("activation", 3): (0, 2, 1),
    ("conv_weight", 4): (2, 3, 1, 0),
    ("conv_weight", 3): (2, 1, 0),
}


class KerasOps(Ops):
    """NHWC and HWIO, as TensorFlow convolves on a CPU; dense weights stay OI."""

    def from_numpy(self, array: Array, kind: Kind, dtype: DType = "float32") -> Tensor:
        array = np.asarray(array, dtype)
        axes = AXES.get((kind, array.ndim))
        return tf.constant(array if axes is None else array.transpose(axes))

    def to_numpy(self, tensor: Tensor, kind: Kind) -> Array:
        array = tensor.numpy()
        axes = AXES.get((kind, array.ndim))
        return np.array(array if axes is None else array.transpose(np.argsort(axes)), order="C")

    def on_channel(self, vector: Tensor, activation: Tensor) -> Tensor:
        return vector  # channels are the last axis

    def on_output(self, vector: Tensor, weight: Tensor) -> Tensor:
        return tf.reshape(vector, (-1, 1)) if len(vector.shape) and len(weight.shape) == 2 else vector

    def mix_inputs(self, weight: Tensor, matrix: Array) -> Tensor:
        return tf.einsum("...io,ij->...jo", weight, tf.constant(matrix, tf.float32))

    def picture_weight(self, weight: Tensor) -> Tensor:
        return weight[tf.newaxis] if len(weight.shape) == 3 else weight

    def swap_channels(self, weight: Tensor, group: int) -> Tensor:
        *kernel, second, first = weight.shape
        w = tf.transpose(tf.reshape(weight, (*kernel, second, group, first // group)), (0, 1, 4, 3, 2))
        return tf.reshape(w, (*kernel, first // group, group * second))

    def phase_weight(self, weight: Tensor, rows: Sequence[int], columns: Sequence[int], stride: Pair) -> Tensor:
        (_, _, inputs, outputs), (down, across) = weight.shape, stride
        w = tf.pad(weight, [[0, 1], [0, 1], [0, 0], [0, 0]])
        w = tf.gather(tf.gather(w, tf.constant(rows), axis=0), tf.constant(columns), axis=1)
        taps = (len(rows) // down, len(columns) // across)
        w = tf.transpose(tf.reshape(w, (down, taps[0], across, taps[1], inputs, outputs)), (1, 3, 4, 5, 0, 2))
        return tf.reshape(w, (*taps, inputs, outputs * down * across))

    def cast(self, x: Tensor, dtype: DType) -> Tensor:
        return tf.cast(x, dtype)

    def shift_right(self, x: Tensor, bits: Tensor | int) -> Tensor:
        return tf.bitwise.right_shift(x, tf.cast(bits, tf.int64))

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
            exact = KerasOps.conv2d(
                self,
                tf.cast(x, tf.float64),
                tf.cast(w, tf.float64),
                None if bias is None else tf.cast(bias, tf.float64),
                stride=stride,
                padding=padding,
                dilation=dilation,
                group=group,
            )
            return tf.cast(tf.round(exact), x.dtype)  # an algorithm that transforms is put right
        if dilation != (1, 1):
            w = _dilated(w, dilation)
        if 1 < group == x.shape[-1]:
            w = tf.reshape(w, (*w.shape[:2], group, w.shape[3] // group))
            both = stride if stride[0] == stride[1] else (1, 1)  # it has no others
            x, within = _within(x, w.shape[:2], both, padding)
            y = tf.nn.depthwise_conv2d(x, w, (1, *both, 1), within)
            y = y if both == stride else y[:, :: stride[0], :: stride[1]]
        else:
            x, within = _within(x, w.shape[:2], stride, padding)
            if group == 1:
                y = tf.nn.conv2d(x, w, stride, within)
            else:
                pairs = zip(tf.split(x, group, axis=-1), tf.split(w, group, axis=-1), strict=True)
                y = tf.concat([tf.nn.conv2d(x, w, stride, within) for x, w in pairs], axis=-1)
        return y if bias is None else tf.nn.bias_add(y, bias)

    def dense(self, x: Tensor, w: Tensor, bias: Tensor | None, *, wide: bool = False) -> Tensor:
        if wide:
            wide_bias = None if bias is None else tf.cast(bias, tf.float64)
            exact = KerasOps.dense(self, tf.cast(x, tf.float64), tf.cast(w, tf.float64), wide_bias)
            return tf.cast(tf.round(exact), x.dtype)
        y = tf.matmul(x, w, transpose_b=True)
        return y if bias is None else tf.nn.bias_add(y, bias)

    def matmul(
        self, a: Tensor, b: Tensor, *, transpose: tuple[bool, bool] = (False, False), wide: bool = False
    ) -> Tensor:
        if wide:
            exact = KerasOps.matmul(self, tf.cast(a, tf.float64), tf.cast(b, tf.float64), transpose=transpose)
            return tf.cast(tf.round(exact), a.dtype)
        if len(a.shape) == 3:  # of (M, K) the transpose is stored, and so is that of the product, B' A'
            return tf.matmul(b, a, transpose_a=transpose[1], transpose_b=transpose[0])
        a, b = (tf.transpose(x, (0, 3, 1, 2)) for x in (a, b))
        y = tf.matmul(a, b, transpose_a=transpose[0], transpose_b=transpose[1])
        return tf.transpose(y, (0, 2, 3, 1))

    def max_pool2d(self, x: Tensor, *, kernel: Pair, stride: Pair, padding: Padding) -> Tensor:
        x, within = _within(x, kernel, stride, padding, -np.inf)
        return tf.nn.max_pool2d(x, kernel, stride, within)

    def sum_pool2d(self, x: Tensor, *, kernel: Pair, stride: Pair, padding: Padding) -> Tensor:
        channels = x.shape[-1]
        ones = tf.ones((*kernel, 1, channels), x.dtype)
        return self.conv2d(x, ones, None, stride=stride, padding=padding, dilation=(1, 1), group=channels)

    def concat(self, xs: Sequence[Tensor], axis: int = 0) -> Tensor:
        return tf.concat(list(xs), axis=_axis(axis))

    def pick(self, x: Tensor, axis: int, places: Sequence[int]) -> Tensor:
        part = as_slice(places)
        if part is None:
            return tf.gather(x, tf.constant(places), axis=_axis(axis))
        return x[(slice(None),) * axis + (part,)] if axis else x[..., part]

    def pad(self, x: Tensor, widths: Sequence[Pair]) -> Tensor:
        channels, *others = widths
        return tf.pad(x, [(0, 0), *others, channels])

    def rearrange(self, x: Tensor, how: Rearrangement) -> Tensor:
        for parts, axes in how.steps_channels_last():
            x = tf.transpose(tf.reshape(x, (-1, *parts)), (0, *(1 + axis for axis in axes)))
        return tf.reshape(x, (-1, *how.shape[1:], how.shape[0]))

    def take(self, table: Tensor, index: Tensor) -> Tensor:
        return tf.gather(table, tf.cast(index, tf.int32))

    def drop(self, x: Tensor, rate: float) -> Tensor:
        return x * tf.cast(_random().uniform(tf.shape(x)) >= rate, x.dtype)

    def flatten(self, x: Tensor) -> Tensor:
        rank = len(x.shape)
        if rank > 2:
            x = tf.transpose(x, (0, rank - 1, *range(1, rank - 1)))
        return tf.reshape(x, (-1, int(np.prod(x.shape[1:]))))

    def maximum(self, x: Tensor, y: Tensor | float) -> Tensor:
        return tf.maximum(x, y)

    def minimum(self, x: Tensor, y: Tensor | float) -> Tensor:
        return tf.minimum(x, y)

    def sigmoid(self, x: Tensor) -> Tensor:
        return tf.sigmoid(x)

    def tanh(self, x: Tensor) -> Tensor:
        return tf.tanh(x)

    def exp(self, x: Tensor) -> Tensor:
        return tf.exp(x)

    def erf(self, x: Tensor) -> Tensor:
        return tf.math.erf(x)

    def softplus(self, x: Tensor) -> Tensor:
        return tf.math.softplus(x)

    def softmax(self, x: Tensor) -> Tensor:
        return tf.nn.softmax(x)

    def sqrt(self, x: Tensor) -> Tensor:
        return tf.sqrt(x)

    def log(self, x: Tensor) -> Tensor:
        return tf.math.log(x)

    def relu(self, x: Tensor) -> Tensor:
        return tf.nn.relu(x)

    def rectified(self, x: Tensor, bound: float) -> Tensor:
        return tf.nn.relu6(x) if bound == 6.0 else super().rectified(x, bound)

    def abs(self, x: Tensor) -> Tensor:
        return tf.abs(x)

    def where(self, condition: Tensor, x: Tensor, y: Tensor) -> Tensor:
        return tf.where(condition, x, y)

    def isfinite(self, x: Tensor) -> Tensor:
        return tf.math.is_finite(x)

    def rint(self, x: Tensor) -> Tensor:
        return tf.round(x)  # ties to even

    def round_ste(self, x: Tensor) -> Tensor:
        return tf.grad_pass_through(tf.round)(x)

    def stop_gradient(self, x: Tensor) -> Tensor:
        return tf.stop_gradient(x)

    def max(self, x: Tensor) -> Tensor:
        return tf.reduce_max(x)

    def min(self, x: Tensor) -> Tensor:
        return tf.reduce_min(x)

    def mean(self, x: Tensor) -> Tensor:
        return tf.reduce_mean(x)

    def channel_max(self, x: Tensor) -> Tensor:
        return tf.reduce_max(x, tuple(range(len(x.shape) - 1)))

    def channel_min(self, x: Tensor) -> Tensor:
        return tf.reduce_min(x, tuple(range(len(x.shape) - 1)))

    def channel_mean(self, x: Tensor) -> Tensor:
        return tf.reduce_mean(x, tuple(range(len(x.shape) - 1)))

    def max_over_channels(self, x: Tensor) -> Tensor:
        return tf.reduce_max(x, -1, keepdims=True)

    def sum_over_channels(self, x: Tensor) -> Tensor:
        return tf.reduce_sum(x, -1, keepdims=True)

    def output_max(self, w: Tensor) -> Tensor:
        return tf.reduce_max(w, _inputs(w))

    def output_min(self, w: Tensor) -> Tensor:
        return tf.reduce_min(w, _inputs(w))

    def output_mean(self, w: Tensor) -> Tensor:
        return tf.reduce_mean(w, _inputs(w))

    def softmax_cross_entropy(self, logits: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
        if not smoothing:
            return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits))
        classes = logits.shape[-1]
        share = smoothing / classes
        target = tf.one_hot(labels, classes, on_value=1.0 - smoothing + share, off_value=share)
        return tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits(target, logits))

    def channels(self, x: Tensor) -> int:
        return int(x.shape[-1])

    def refuse_single(self, x: Tensor, message: str) -> None:
        """``fit`` traces a pass for batches of any size, and then only the pass itself can tell (not with XLA, which leaves
        assertions out).
        """
        if x.shape[0] is not None:
            super().refuse_single(x, message)
        else:
            tf.debugging.assert_greater(tf.shape(x)[0] * this_worker().count, 1, message)

    def batch_norm(self, x: Tensor, gamma: Tensor, beta: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        found = BatchNorm(x, gamma, beta, eps)
        return found.y, found.mean, found.variance

    def normalized(self, x: Tensor, scale: Tensor | None, gamma: Tensor, beta: Tensor, eps: float) -> Normalized:
        return KerasNormalized(self, x, scale, gamma, beta, eps)

    def requantize(
        self,
        x: Tensor,
        multiplier: Tensor,
        low: Tensor | float | None = None,
        high: Tensor | float | None = None,
        *,
        open_low: bool = False,
    ) -> Tensor:
        @tf.custom_gradient  # type: ignore[untyped-decorator]
        def straight_through(x: Tensor, multiplier: Tensor) -> Any:
            codes, through = to_codes(x * multiplier, low, high, open_low=open_low)

            def gradient(g: Tensor) -> tuple[Tensor, Tensor]:
                g = through(g)
                return g * multiplier, summed(g * x, multiplier)

            return codes, gradient

        return straight_through(x, multiplier)


def _inputs(w: Tensor) -> Any:
    """The axes of a weight but that of its outputs: the last of a convolution's, the first of a dense one."""
    return tuple(range(len(w.shape) - 1)) if len(w.shape) > 2 else 1


def _axis(axis: int) -> int:
    """Of a sample's axis, the one in a batch with its channels last."""
    return axis or -1


def _within(
    x: Tensor, kernel: Sequence[int], stride: Pair, padding: Padding, outside: float = 0.0
) -> tuple[Tensor, str]:
    """What TensorFlow's windows go over, and how it calls that: "SAME" where it pads alike, else x that is padded already.

    Given paddings in numbers, it leaves its fast kernels (of a ResNet-18 that takes five times as long), and its optimizer of
    graphs may abort the process.
    """
    if padding == tuple(itertools.chain(*map(_same, x.shape[1:3], kernel, stride))):
        return x, "SAME"
    return _padded(x, padding, outside), "VALID"


def _same(size: int | None, kernel: int, stride: int) -> Pair | tuple[()]:
    """The zeros before and behind an axis that TensorFlow calls "SAME"; nothing where the size is not known."""
    if size is None:
        return ()
    missing = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return missing // 2, missing - missing // 2


def _dilated(w: Tensor, dilation: Pair) -> Tensor:
    """A kernel with zeros between its elements: TensorFlow has no gradient of a dilated convolution on every CPU."""
    height, width, *channels = w.shape
    rows, columns = dilation
    w = tf.pad(w[:, None, :, None], [[0, 0], [0, rows - 1], [0, 0], [0, columns - 1], [0, 0], [0, 0]])
    w = tf.reshape(w, (height * rows, width * columns, *channels))
    return w[: (height - 1) * rows + 1, : (width - 1) * columns + 1]


def _padded(x: Tensor, padding: Padding, value: float = 0.0) -> Tensor:
    top, bottom, left, right = padding
    return tf.pad(x, [[0, 0], [top, bottom], [left, right], [0, 0]], constant_values=value) if any(padding) else x


class ExactOps(KerasOps):
    """For evaluation: every sum of integers is exact.

    On a CPU TensorFlow sums directly. A GPU may transform a convolution or round its factors (TF32): it computes in
    float64, whose transforms err by less than half an integer, and rounds back.
    """

    def __init__(self, device: str) -> None:
        self._wide = device != DEVICES["CPU"]

    def conv2d(self, x: Tensor, w: Tensor, bias: Tensor | None, *, wide: bool = False, **window: Any) -> Tensor:
        return super().conv2d(x, w, bias, wide=wide or self._wide, **window)

    def dense(self, x: Tensor, w: Tensor, bias: Tensor | None, *, wide: bool = False) -> Tensor:
        return super().dense(x, w, bias, wide=wide or self._wide)

    def matmul(
        self, a: Tensor, b: Tensor, *, transpose: tuple[bool, bool] = (False, False), wide: bool = False
    ) -> Tensor:
        return super().matmul(a, b, transpose=transpose, wide=wide or self._wide)


def devices() -> list[str]:
    """The device targets that TensorFlow can use here, the best first."""
    return ["GPU", "CPU"] if tf.config.list_physical_devices("GPU") else ["CPU"]


def evaluation_ops(device_target: str | None = None) -> ExactOps:
    """The vocabulary that evaluates."""
    return ExactOps(DEVICES[choose_device(device_target, devices(), "keras")])


_generator: tf.random.Generator | None = None


def _random() -> tf.random.Generator:
    """What ``drop`` draws from; made on first use, since importing must not start TensorFlow's devices."""
    global _generator
    if _generator is None:
        with tf.init_scope():
            _generator = tf.random.Generator.from_non_deterministic_state()
    return _generator


def seed(*numbers: int) -> None:
    """Seed what ``ops.drop`` draws from; every worker draws its own."""
    _random().reset_from_seed(int(np.random.default_rng(this_worker().own(numbers)).integers(1 << 63)))
