"""How the conformance suite drives Keras over TensorFlow."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf
from conformance import Adapter, Array, Case, Result

from qat.backends.keras.ops import KerasOps


class KerasAdapter(Adapter):
    """TensorFlow eager, and in a tf.function, as training runs."""

    def labels(self, array: Array) -> tf.Tensor:
        return tf.constant(array)

    def run(self, cases: Sequence[Case], *, compiled: bool = False) -> list[Result]:
        functions = [case.function for case in cases]
        inputs = [self.tensors(case) for case in cases]
        cotangents = [
            None if case.cotangent is None else self.ops.from_numpy(case.cotangent, case.output) for case in cases
        ]

        def compute(
            inputs: list[list[tf.Tensor]], cotangents: list[tf.Tensor | None]
        ) -> tuple[list[tf.Tensor], list[list[tf.Tensor | None]]]:
            with tf.GradientTape() as tape:
                tape.watch([t for tensors in inputs for t in tensors if t.dtype.is_floating])
                outputs = [function(self.ops, *tensors) for function, tensors in zip(functions, inputs, strict=True)]
                # One backward pass for all cases, as a compiled training step has one.
                ends = [tf.reduce_sum(y * g) for y, g in zip(outputs, cotangents, strict=True) if g is not None]
                end = tf.add_n(ends) if ends else tf.constant(0.0)
            return outputs, tape.gradient(end, inputs)

        run = tf.function(compute, autograph=False) if compiled else compute
        outputs, gradients = run(inputs, cotangents)
        return [
            Result(
                self.ops.to_numpy(output, case.output),
                () if case.cotangent is None else self.gradient_arrays(case, found),
            )
            for case, output, found in zip(cases, outputs, gradients, strict=True)
        ]


ADAPTER = KerasAdapter(KerasOps())
