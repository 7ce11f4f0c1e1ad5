"""What enters a Keras model and leaves it: (N, C, H, W) outside, channels last inside."""

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


def transposed(x: Tensor, axes: tuple[int, ...]) -> Tensor:
    """The axes of a tensor of four in that order; others as they are."""
    return tf.transpose(x, axes) if len(x.shape) == 4 else x


def to_layout(inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Raw canonical pixels as float32 in this backend's layout."""
    return tuple(transposed(tf.cast(x, tf.float32), AXES["activation"]) for x in inputs)


def from_layout(outputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The inverse: outputs as (N, C, H, W) or (N, F)."""
    return tuple(transposed(y, (0, 3, 1, 2)) for y in outputs)
