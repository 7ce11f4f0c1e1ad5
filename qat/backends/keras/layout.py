"""What enters a Keras model and leaves it: (N, C, H, W) or (N, C, L) outside, channels last inside."""

from __future__ import annotations

from qat.backends.keras.ops import AXES, Tensor
from qat.backends.keras.setup import tf
from qat.vocabulary.arrays import ArraySpec


def ensured(x: Tensor, spec: ArraySpec) -> Tensor:
    """Pixels whose sizes, as far as they are not known while a function is traced, are looked at where it runs."""
    x = tf.ensure_shape(x, (None, *spec.shape))
    if x.shape[0] is not None:
        return x
    # XLA leaves assertions out, but refuses a slice beyond the end; without XLA a slice that nobody reads is left out.
    first = tf.slice(x, [0] * x.shape.rank, [1, *spec.shape])
    with tf.control_dependencies([tf.debugging.assert_positive(tf.shape(x)[0], "the batch is empty"), first]):
        return tf.identity(x)


def channels_last(x: Tensor) -> Tensor:
    """A canonical batch in this backend's layout."""
    axes = AXES.get(("activation", len(x.shape)))
    return x if axes is None else tf.transpose(x, axes)


def to_layout(inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Raw canonical pixels as float32 in this backend's layout."""
    return tuple(channels_last(tf.cast(x, tf.float32)) for x in inputs)


def from_layout(outputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The inverse: outputs as (N, C, H, W), (N, C, L) or (N, F)."""
    ranks = [len(y.shape) for y in outputs]
    orders = [(0, rank - 1, *range(1, rank - 1)) for rank in ranks]
    return tuple(tf.transpose(y, axes) if rank > 2 else y for y, rank, axes in zip(outputs, ranks, orders, strict=True))
