"""How the conformance suite drives one implementation of ``qat.vocabulary.ops.Ops``, and how it compares results.

To add a backend, write ``conformance_<backend>.py`` with an ``Adapter`` (some twenty lines, as ``conformance_torch.py``)
called ``ADAPTER``: every case of ``ops_cases_*.py`` then runs over it, eager and compiled, and also over its
``with_defaults`` form. Of a backend in another package the file has to be on the path (``examples/jax_backend/tests``).
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from frameworks import HERE

from qat.vocabulary.numpy_ops import NumpyOps
from qat.vocabulary.ops import Kind, Ops

Array = npt.NDArray[Any]

EXACT = 0.0  #: the tolerance of integers, and of floats that every framework computes alike
FLOAT32_SUM = 2e-6  #: of float sums, quotients, exponentials and logarithms: some 16 units in the last place

EXPONENTIAL = 4e-5  #: of exp of numbers up to 80, relatively: so much MindSpore's is off

# -- what is computed -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Argument:
    """One input of a case: a canonical array; "labels" are class numbers and stay integers."""

    array: Array
    kind: Kind | Literal["labels"]


@dataclass(frozen=True)
class Case:
    """A function of the vocabulary with its expected value, and with its expected gradients if there are any.

    function: (ops, *tensors) -> tensor. output: what the axes of the result mean. cotangent: what is propagated back,
    shaped like the result; None: the function has no gradients to compare. gradients: one for each input; None for an
    input whose gradient is nobody's business.
    """

    name: str
    function: Callable[..., Any]
    inputs: tuple[Argument, ...]
    output: Kind
    value: Array
    cotangent: Array | None = None
    gradients: tuple[Array | None, ...] = ()
    tolerance: float = EXACT
    gradient_tolerance: float = EXACT


@dataclass(frozen=True)
class Result:
    """What an implementation made of a case, as canonical arrays. A gradient that does not flow is an array of zeros."""

    value: Array
    gradients: tuple[Array | None, ...]


# -- who computes it --------------------------------------------------------------------------------------------------


class Adapter(ABC):
    """One implementation of the vocabulary, and how its framework differentiates and compiles."""

    differentiates = True
    compiles = True

    def __init__(self, ops: Ops) -> None:
        self.ops = ops

    @abstractmethod
    def labels(self, array: Array) -> Any:
        """The framework's tensor of integer class numbers."""

    @abstractmethod
    def run(self, cases: Sequence[Case], *, compiled: bool = False) -> list[Result]:
        """Values and gradients of all the cases; compiled: as one compiled function."""

    def tensors(self, case: Case) -> list[Any]:
        """The inputs of a case."""
        return [
            self.labels(argument.array)
            if argument.kind == "labels"
            else self.ops.from_numpy(argument.array, argument.kind)
            for argument in case.inputs
        ]

    def gradient_arrays(self, case: Case, gradients: Sequence[Any]) -> tuple[Array | None, ...]:
        """Canonical arrays of the framework's gradients, where its None stands for zeros."""
        return tuple(
            np.zeros_like(argument.array, np.float32) if g is None else self.ops.to_numpy(g, argument.kind)
            for argument, g in zip(case.inputs, gradients, strict=True)
        )


class NumpyAdapter(Adapter):
    """The reference: values only."""

    differentiates = False
    compiles = False

    def labels(self, array: Array) -> Array:
        return array

    def run(self, cases: Sequence[Case], *, compiled: bool = False) -> list[Result]:
        assert not compiled, "NumPy compiles nothing"
        return [
            Result(self.ops.to_numpy(case.function(self.ops, *self.tensors(case)), case.output), ()) for case in cases
        ]


def with_defaults(ops_type: type[Ops]) -> type[Ops]:
    """The same implementation, overriding nothing that ``Ops`` itself implements."""
    defaults = {
        name: function
        for name, function in vars(Ops).items()
        if callable(function) and not name.startswith("_") and not getattr(function, "__isabstractmethod__", False)
    }
    return type(f"{ops_type.__name__}WithDefaults", (ops_type,), defaults)


#: Of every backend that is installed; ``test_packaging.py`` says when all of them have to be.
ADAPTERS: dict[str, Adapter] = {"numpy": NumpyAdapter(NumpyOps())} | {
    name: importlib.import_module(f"conformance_{name}").ADAPTER for name in HERE
}

#: Backends that override nothing of what ``Ops`` implements: they have to compute the same.
DEFAULTS: dict[str, Adapter] = {
    f"{name}, defaults": type(adapter)(with_defaults(type(adapter.ops))()) for name, adapter in ADAPTERS.items()
}


# -- how it is compared -----------------------------------------------------------------------------------------------


def assert_same(found: Array, expected: Array, tolerance: float, what: str) -> None:
    """Fail unless ``found`` is float32, shaped like ``expected`` and equal to it within ``tolerance``.

    tolerance: the largest difference, relative to the largest magnitude expected (1 at least); EXACT: elements are equal.
    """
    assert found.dtype == np.float32, f"{what}: dtype is {found.dtype}, not float32"
    assert found.shape == expected.shape, f"{what}: shape is {found.shape}, not {expected.shape}"
    assert np.isfinite(expected).all(), f"{what}: nothing can be compared with {expected}"
    # float64 holds every float32 and every integer in use, so that the comparison itself rounds nothing away
    difference = np.abs(found.astype(np.float64) - expected.astype(np.float64))
    allowed = tolerance * max(1.0, float(np.abs(expected).max(initial=0.0)))
    wrong = ~(difference <= allowed)  # NaN is wrong too
    assert not wrong.any(), (
        f"{what}: {wrong.sum()} of {wrong.size} elements differ by more than {allowed:g}, the first at "
        f"{tuple(int(i) for i in np.argwhere(wrong)[0])}: {found[wrong][0]!r} instead of {expected[wrong][0]!r}"
    )


def assert_conforms(case: Case, result: Result, *, differentiates: bool) -> None:
    """Fail unless the value and, where there are any, all gradients are the expected ones."""
    assert_same(result.value, case.value, case.tolerance, f"{case.name}: value")
    if case.cotangent is None or not differentiates:
        return
    for position, (found, expected) in enumerate(zip(result.gradients, case.gradients, strict=True)):
        if expected is not None:
            assert found is not None, f"{case.name}: gradient of input {position} is missing"
            assert_same(found, expected, case.gradient_tolerance, f"{case.name}: gradient of input {position}")
