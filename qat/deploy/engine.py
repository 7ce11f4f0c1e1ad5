"""What computes a network's codes, as verification sees it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from qat.integer import IntegerTensor
from qat.vocabulary.arrays import Arrays
from qat.vocabulary.ops import Array

Tracer = Callable[[Arrays, Collection[IntegerTensor]], Mapping[str, Array]]


@dataclass(frozen=True)
class Engine:
    """What computes a network's codes: an exported file in its runtime, or a backend's evaluation pass.

    Attributes:
        name: Its name, with version and options.
        codes: From what the network takes to output codes, int32, one array an output.
        trace: From that and tensors to the codes of these tensors by name, as far as it can give them.
        arithmetic: What it computes in, "float" or "fixed" (docs/numerics.md).
        file: The exported file that it runs; "" where it runs none.
    """

    name: str
    codes: Callable[[Arrays], tuple[Array, ...]]
    trace: Tracer
    arithmetic: str = "float"
    file: str = ""
