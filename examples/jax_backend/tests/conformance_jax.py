"""How the conformance suite drives JAX."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from conformance import Adapter, Array, Case, Result
from qat_jax.ops import JaxOps


class JaxAdapter(Adapter):
    """JAX operation by operation, and in jax.jit, as training runs."""

    def labels(self, array: Array) -> jax.Array:
        return jnp.asarray(array)

    def run(self, cases: Sequence[Case], *, compiled: bool = False) -> list[Result]:
        inputs = [self.tensors(case) for case in cases]
        cotangents = [
            None if case.cotangent is None else self.ops.from_numpy(case.cotangent, case.output) for case in cases
        ]

        def compute(inputs: list[list[Any]]) -> tuple[jax.Array, list[jax.Array]]:
            outputs = [case.function(self.ops, *tensors) for case, tensors in zip(cases, inputs, strict=True)]
            # One backward pass for all cases, as a training step has one.
            ends = [(y * g).sum() for y, g in zip(outputs, cotangents, strict=True) if g is not None]
            return sum(ends, jnp.float32(0.0)), outputs

        differentiate = jax.grad(compute, has_aux=True, allow_int=True)
        gradients, outputs = (jax.jit(differentiate) if compiled else differentiate)(inputs)
        return [
            Result(
                self.ops.to_numpy(output, case.output),
                ()
                if case.cotangent is None
                else self.gradient_arrays(case, [None if g.dtype == jax.dtypes.float0 else g for g in found]),
            )
            for case, output, found in zip(cases, outputs, gradients, strict=True)
        ]


ADAPTER = JaxAdapter(JaxOps())
