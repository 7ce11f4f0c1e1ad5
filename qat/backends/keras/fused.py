"""Keras over TensorFlow: batch normalisation and the making of codes in few passes over an activation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from qat.backends.keras.setup import tf
from qat.vocabulary.clip import TINY, reach
from qat.vocabulary.normalized import Normalized

Tensor: TypeAlias = tf.Tensor


def to_codes(
    u: Tensor, low: Tensor | float | None, high: Tensor | float | None, *, open_low: bool
) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """clip(rint(u), low, high), and the function that makes the gradient of u from that of the codes.

    What lies inside the bounds is what the clip leaves as it is: one comparison makes the mask, and this, a byte for each
    number, is all that is kept for the gradient. Bounds reach a little further than the codes, and an open one is moved up by
    the least that matters; the rounding brings both back.
    """
    if low is None or high is None:
        return tf.round(u), lambda g: g
    low, high = reach(low, high, open_low=open_low)
    if open_low:
        low = tf.maximum(low + TINY, low * (1.0 + 2.0**-22)) if isinstance(low, tf.Tensor) or low else TINY
    clipped = _clipped(u, low, high)
    inside = u == clipped
    return tf.round(clipped), lambda g: tf.where(inside, g, 0.0)


def _clipped(u: Tensor, low: Tensor | float, high: Tensor | float) -> Tensor:
    """u within bounds; those that are the same for all numbers take one pass in place of two."""
    if any(isinstance(bound, tf.Tensor) and len(bound.shape) for bound in (low, high)):
        return tf.minimum(tf.maximum(u, low), high)
    return tf.raw_ops.ClipByValue(t=u, clip_value_min=low, clip_value_max=high)


class BatchNorm:
    """A batch normalisation by the batch's own statistics, in TensorFlow's fused kernels.

    Attributes:
        y: the result, with its gradient.
        mean: of each channel of x, without gradient.
        variance: of each channel of x, divided by n, without gradient.
    """

    def __init__(self, x: Tensor, gamma: Tensor, beta: Tensor, eps: float) -> None:
        self._eps, self._images = eps, {4: x, 3: x[:, None], 2: x[:, None, None]}[len(x.shape)]
        self._found = tf.raw_ops.FusedBatchNormV3(
            x=self._images, scale=gamma, offset=beta, mean=[], variance=[], epsilon=eps, is_training=True
        )
        self.y = tf.reshape(self._found.y, tf.shape(x))
        count = tf.cast(tf.size(x) // x.shape[-1], tf.float32)
        self.mean = tf.stop_gradient(self._found.batch_mean)
        self.variance = tf.stop_gradient(self._found.batch_variance * ((count - 1.0) / count))  # it divides by n - 1

    def gradients(self, g: Tensor, gamma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of x, gamma and beta, from that of y; with another gamma, whose product the first one is."""
        found = tf.raw_ops.FusedBatchNormGradV3(
            y_backprop=tf.reshape(g, tf.shape(self._images)),
            x=self._images,
            scale=gamma,
            reserve_space_1=self._found.reserve_space_1,
            reserve_space_2=self._found.reserve_space_2,
            reserve_space_3=self._found.reserve_space_3,
            epsilon=self._eps,
            is_training=True,
        )
        return tf.reshape(found.x_backprop, tf.shape(g)), found.scale_backprop, found.offset_backprop


class KerasNormalized(Normalized):
    """See ``Normalized``. Codes have one gradient for scale, normalisation and multiplier: the one of the normalisation, whose
    gamma takes the other factors.
    """

    waits = True

    def __init__(self, ops: Any, x: Tensor, scale: Tensor | None, gamma: Tensor, beta: Tensor, eps: float) -> None:
        self._ops, self._given, self._eps = ops, (x, scale, gamma, beta), eps
        self._norm = BatchNorm(x if scale is None else x * scale, gamma, beta, eps)
        self._numbers, self.mean, self.variance = self._norm.y, self._norm.mean, self._norm.variance

    def codes(self, multiplier: Tensor, low: Tensor | float, high: Tensor | float, *, open_low: bool) -> Tensor:
        norm, eps = self._norm, self._eps
        x, scale, gamma, beta = self._given
        if scale is None:
            return super().codes(multiplier, low, high, open_low=open_low)

        @tf.custom_gradient  # type: ignore[untyped-decorator]
        def straight_through(x: Tensor, scale: Tensor, gamma: Tensor, beta: Tensor, multiplier: Tensor) -> Any:
            codes, through = to_codes(norm.y * multiplier, low, high, open_low=open_low)

            def gradient(g: Tensor) -> tuple[Tensor, ...]:
                of_x, of_gamma, of_beta = norm.gradients(through(g), gamma * multiplier * scale)
                of_multiplier = tf.reduce_sum(of_gamma * gamma + of_beta * beta)
                of_gamma, of_beta = of_gamma * multiplier, of_beta * multiplier
                # A normalisation undoes the scale but for eps: d ln(1 / sqrt(variance + eps / scale^2)) / d ln(scale) is
                # eps / (variance of scale x + eps).
                of_scale = of_gamma * gamma * eps / ((norm.variance + eps) * scale)
                return of_x, summed(of_scale, scale), of_gamma, of_beta, of_multiplier

            return codes, gradient

        return straight_through(x, scale, gamma, beta, multiplier)


def summed(g: Tensor, like: Tensor) -> Tensor:
    """The gradient of what was broadcast: ``g`` summed over the axes that ``like`` lacks or has once."""
    lead = len(g.shape) - len(like.shape)
    once = [lead + i for i, size in enumerate(like.shape) if size == 1]
    return tf.reshape(tf.reduce_sum(g, [*range(lead), *once]), tf.shape(like))
