"""Networks as one writes them by hand in Keras: what the lowered networks are measured against."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import keras
import numpy as np
import tensorflow as tf
from keras import layers
from larger_networks import MobileNetV2, Plain, ResNet18


def plain_lenet5(has_bn: bool = False) -> keras.Model:
    """Takes pixels normalised beforehand, which is the least that any user's loop has to do."""

    def convolution(channels: int) -> list[layers.Layer]:
        norm = [layers.BatchNormalization()] if has_bn else []
        return [layers.Conv2D(channels, 5, use_bias=False), *norm, layers.ReLU(), layers.MaxPooling2D()]

    return keras.Sequential(
        [
            keras.Input((32, 32, 1)),
            *convolution(6),
            *convolution(16),
            layers.Flatten(),
            layers.Dense(120, activation="relu"),
            layers.Dense(84, activation="relu"),
            layers.Dense(10),
        ]
    )


def _normalised(
    x: keras.KerasTensor, channels: int, kernel: int, stride: int = 1, *, depthwise: bool = False
) -> keras.KerasTensor:
    """A convolution without bias and its batch normalisation. depthwise: over the channels that x has."""
    settings = {"kernel_size": kernel, "strides": stride, "padding": "same", "use_bias": False}
    layer = layers.DepthwiseConv2D(**settings) if depthwise else layers.Conv2D(channels, **settings)
    return layers.BatchNormalization()(layer(x))


def plain_resnet18(num_class: int = 1000) -> keras.Model:
    """``larger_networks.ResNet18``."""
    inputs = keras.Input((64, 64, 3))
    x = layers.MaxPooling2D(3, 2, padding="same")(layers.ReLU()(_normalised(inputs, 64, 7, 2)))
    for _, width, stride, _ in ResNet18.BLOCKS:
        shortcut = x if stride == 1 else _normalised(x, width, 1, stride)
        x = layers.ReLU()(_normalised(x, width, 3, stride))
        x = layers.ReLU()(layers.Add()([_normalised(x, width, 3), shortcut]))
    return keras.Model(inputs, layers.Dense(num_class)(layers.GlobalAveragePooling2D()(x)))


def plain_mobilenet_v2(num_class: int = 1000) -> keras.Model:
    """``larger_networks.MobileNetV2``."""
    inputs = keras.Input((96, 96, 3))
    x = layers.ReLU(6)(_normalised(inputs, 32, 3, 2))
    for channels, width, stride, expansion in MobileNetV2.BLOCKS:
        before = x
        x = layers.ReLU(6)(_normalised(x, channels * expansion, 1))
        x = layers.ReLU(6)(_normalised(x, channels * expansion, 3, stride, depthwise=True))
        x = _normalised(x, width, 1)
        x = layers.Add()([before, x]) if stride == 1 and channels == width else x
    x = layers.ReLU(6)(_normalised(x, 1280, 1))
    return keras.Model(inputs, layers.Dense(num_class)(layers.GlobalAveragePooling2D()(x)))


NETWORKS = {
    "lenet": Plain(plain_lenet5),
    "lenet_bn": Plain(partial(plain_lenet5, has_bn=True)),
    "resnet18": Plain(plain_resnet18, 0.45, 0.225),
    "mobilenetv2": Plain(plain_mobilenet_v2, 0.45, 0.225),
}


def make_step(network: str, *, compile: bool) -> Callable[[np.ndarray, np.ndarray, float], float]:
    """One step of SGD with momentum on raw pixels, as ``backend.make_step`` gives it."""
    plain = NETWORKS[network]
    model = plain.make()
    optimizer = keras.optimizers.SGD(0.0, momentum=0.9)
    optimizer.build(model.trainable_variables)

    @tf.function(jit_compile=compile or None)
    def run(x: tf.Tensor, y: tf.Tensor, lr: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            x = tf.transpose((tf.cast(x, tf.float32) / 255.0 - plain.mean) / plain.std, (0, 2, 3, 1))
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(y, model(x, training=True))
            loss = tf.reduce_mean(losses)
        optimizer.learning_rate = lr
        optimizer.apply(tape.gradient(loss, model.trainable_variables), model.trainable_variables)
        return loss

    def step(x: np.ndarray, y: np.ndarray, lr: float) -> float:
        return float(run(tf.constant(x), tf.constant(y), tf.constant(lr, tf.float32)))

    return step
