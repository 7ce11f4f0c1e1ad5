"""What the cases of the conformance suite are written with; ``ops_cases_*.py`` are the cases.

Each states what goes in and what must come out: values written out by hand or computed by plain loops over int64 or float64,
never by ``NumpyOps``, and the gradients that the docstrings of ``Ops`` promise.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from conformance import Argument, Array, Case


def f32(values: object) -> Array:
    return np.array(values, np.float32)


def activation(values: object) -> Argument:
    return Argument(f32(values), "activation")


def conv_weight(values: object) -> Argument:
    return Argument(f32(values), "conv_weight")


def dense_weight(values: object) -> Argument:
    return Argument(f32(values), "dense_weight")


def vector(values: object) -> Argument:
    return Argument(f32(values), "vector")


def scalar(value: float) -> Argument:
    return Argument(f32(value), "scalar")


def integers(seed: int, shape: tuple[int, ...], low: int, high: int) -> Array:
    """Integers from low to high, both included."""
    return np.random.default_rng(seed).integers(low, high + 1, shape).astype(np.float32)


def adder(cases: list[Case]) -> Callable[..., None]:
    """A function that appends a case; arrays may be given as lists."""

    def add(name, function, inputs, output, value, cotangent=None, gradients=(), **tolerances) -> None:
        as_array = [None if g is None else f32(g) for g in gradients]
        cases.append(
            Case(
                name,
                function,
                tuple(inputs),
                output,
                np.asarray(value),
                None if cotangent is None else f32(cotangent),
                tuple(as_array),
                **tolerances,
            )
        )

    return add


IMAGE = integers(1, (2, 3, 2, 2), -9, 9)
KERNELS = integers(3, (3, 2, 1, 2), -9, 9)
