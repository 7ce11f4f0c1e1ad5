"""LeNet-5 as one writes it by hand in Keras: what the lowered network is measured against."""

from __future__ import annotations

from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf
from keras import layers


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


NETWORKS = {"lenet": plain_lenet5, "lenet_bn": lambda: plain_lenet5(has_bn=True)}


def make_step(network: str, *, compile: bool) -> Callable[[np.ndarray, np.ndarray, float], float]:
    """One step of SGD with momentum on raw pixels, as ``backend.make_step`` gives it."""
    model = NETWORKS[network]()
    optimizer = keras.optimizers.SGD(0.0, momentum=0.9)
    optimizer.build(model.trainable_variables)

    @tf.function(jit_compile=compile or None)
    def run(x: tf.Tensor, y: tf.Tensor, lr: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            x = tf.transpose((tf.cast(x, tf.float32) / 255.0 - 0.1307) / 0.3081, (0, 2, 3, 1))
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(y, model(x, training=True))
            loss = tf.reduce_mean(losses)
        optimizer.learning_rate = lr
        optimizer.apply(tape.gradient(loss, model.trainable_variables), model.trainable_variables)
        return loss

    def step(x: np.ndarray, y: np.ndarray, lr: float) -> float:
        return float(run(tf.constant(x), tf.constant(y), tf.constant(lr, tf.float32)))

    return step
