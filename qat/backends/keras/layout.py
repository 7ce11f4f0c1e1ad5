"""What enters a Keras model and leaves it: (N, C, H, W) or (N, C, L) outside, channels last inside."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qat.backends.keras.ops import AXES, Tensor
from qat.backends.keras.setup import keras, tf
from qat.cells.base import Shape
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


def channels_last(x: Tensor) -> Tensor:
    """A canonical batch in this backend's layout."""
    axes = AXES.get(("activation", len(x.shape)))
    return x if axes is None else tf.transpose(x, axes)


def spec_in_layout(spec: ArraySpec) -> ArraySpec:
    """What Keras's own models take where the network takes that: channels last."""
    return spec._replace(shape=(*spec.shape[1:], spec.shape[0]))


def own_spec(spec: ArraySpec) -> ArraySpec:
    """The same, as Keras is set."""
    return spec_in_layout(spec) if keras.config.image_data_format() == "channels_last" else spec


def canonical(samples: tuple[Array, ...]) -> tuple[Array, ...]:
    """Samples as Keras's own models take them, as (N, C, H, W) or (N, C, L)."""
    if keras.config.image_data_format() != "channels_last":
        return samples
    return tuple(np.ascontiguousarray(np.moveaxis(x, -1, 1)) for x in samples)


def to_layout(inputs: tuple[Tensor, ...], *, own: bool = False) -> tuple[Tensor, ...]:
    """Raw pixels as float32 in this backend's layout. own: they have channels last already, else they are canonical."""
    tensors = tuple(tf.cast(x, tf.float32) for x in inputs)
    return tensors if own else tuple(channels_last(x) for x in tensors)


def from_layout(outputs: tuple[Tensor, ...], *, own: bool = False) -> tuple[Tensor, ...]:
    """The inverse: outputs as (N, C, H, W), (N, C, L) or (N, F). own: with channels last."""
    return outputs if own else tuple(_channels_first(y) for y in outputs)


def targets_in_layout(targets: tuple[Array, ...], outputs: Sequence[Shape]) -> tuple[Tensor, ...]:
    """Targets of an activation in this backend's layout; three axes may also be classes of pixels. outputs: their shapes."""
    series = {shape for shape in outputs if len(shape) == 2}
    moved = [np.ndim(x) == 4 or np.shape(x)[1:] in series for x in targets]
    return tuple(
        channels_last(tf.constant(x)) if last else tf.constant(x) for x, last in zip(targets, moved, strict=True)
    )


def _channels_first(y: Tensor) -> Tensor:
    rank = len(y.shape)
    return tf.transpose(y, (0, rank - 1, *range(1, rank - 1))) if rank > 2 else y
