"""What enters a Keras model and leaves it: (N, C, H, W) outside, channels last inside."""

from __future__ import annotations

import numpy as np

from qat.backends.keras.ops import AXES, Tensor
from qat.backends.keras.setup import keras, tf
from qat.vocabulary.arrays import ArraySpec
from qat.vocabulary.ops import Array


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


def channels_last(spec: ArraySpec) -> ArraySpec:
    """What Keras's own models take where the network takes that."""
    shape = spec.shape
    return spec._replace(shape=(*shape[1:], shape[0])) if len(shape) == 3 else spec


def own_spec(spec: ArraySpec) -> ArraySpec:
    """The same, as Keras is set."""
    return channels_last(spec) if keras.config.image_data_format() == "channels_last" else spec


def canonical(samples: tuple[Array, ...]) -> tuple[Array, ...]:
    """Samples as Keras's own models take them, as (N, C, H, W)."""
    if keras.config.image_data_format() != "channels_last":
        return samples
    return tuple(np.ascontiguousarray(np.moveaxis(x, -1, 1)) if x.ndim == 4 else x for x in samples)


def to_layout(inputs: tuple[Tensor, ...], *, own: bool = False) -> tuple[Tensor, ...]:
    """Raw pixels as float32 in this backend's layout. own: they have channels last already, else they are canonical."""
    tensors = tuple(tf.cast(x, tf.float32) for x in inputs)
    return tensors if own else tuple(transposed(x, AXES["activation"]) for x in tensors)


def from_layout(outputs: tuple[Tensor, ...], *, own: bool = False) -> tuple[Tensor, ...]:
    """The inverse: outputs as (N, C, H, W) or (N, F). own: with channels last."""
    return outputs if own else tuple(transposed(y, (0, 3, 1, 2)) for y in outputs)
