"""Writes a float network by running its forward pass over symbols: what the targets that hold float networks share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, TypeVar, cast

import numpy as np

from qat.errors import QatError
from qat.graph import Graph, as_float_graph
from qat.integer import FloatLayer
from qat.passes.fold_batch_norm import fold_batch_norm
from qat.training.forward import Forward
from qat.vocabulary.ops import Array, Ops

Operation = Literal["Add", "Sub", "Mul", "Div"]
S = TypeVar("S", bound="Symbol")


class Symbol(ABC):
    """A float tensor of the file that is being written; arithmetic on it appends operators."""

    @abstractmethod
    def binary(self: S, operation: Operation, left: S | float, right: S | float) -> S:
        """Append an operation of two tensors, or of a tensor and a number."""

    def __add__(self: S, other: S | float) -> S:
        return self.binary("Add", self, other)

    def __radd__(self: S, other: float) -> S:
        return self.binary("Add", other, self)

    def __sub__(self: S, other: S | float) -> S:
        return self.binary("Sub", self, other)

    def __rsub__(self: S, other: float) -> S:
        return self.binary("Sub", other, self)

    def __mul__(self: S, other: S | float) -> S:
        return self.binary("Mul", self, other)

    def __rmul__(self: S, other: float) -> S:
        return self.binary("Mul", other, self)

    def __truediv__(self: S, other: S | float) -> S:
        return self.binary("Div", self, other)

    def __neg__(self: S) -> S:
        return self.binary("Sub", 0.0, self)


class FloatOps:
    """The part of the vocabulary that a float forward pass uses; running it writes the file.

    It is no subclass of ``Ops``: whatever is not here cannot be written, and says so.

    Attributes:
        target: the name of the file format.
    """

    target: ClassVar[str]

    def picture_weight(self, weight: Any) -> Any:
        """The weight itself: that of a convolution over series is made one of pictures when it is read."""
        return weight

    def rectified(self, x: Any, bound: float) -> Any:
        """As in ``Ops``."""
        return Ops.rectified(cast(Ops, self), x, bound)

    @staticmethod
    def stored_weight(array: Array) -> Array:
        """A convolution's weight as the file holds it: (O, I, 1, k) of (O, I, k)."""
        return array[:, :, np.newaxis] if array.ndim == 3 else array

    def __getattr__(self, name: str) -> Any:
        raise QatError(
            f"the {self.target} form of a float network has no operation {name!r}; export it quantized instead"
        )


def float_form(graph: Graph, params: Mapping[str, Array]) -> tuple[Graph, Mapping[str, Array]]:
    """What is written of a float network: it and its parameters, checked, with batch normalisations folded.

    Raises:
        QatError: the network is quantized, or its parameters do not fit.
    """
    return fold_batch_norm(as_float_graph(graph, params), params)


def written_outputs(
    graph: Graph, ops: FloatOps, tensors: Mapping[str, Any], pixels: tuple[Symbol, ...]
) -> tuple[Any, ...]:
    """Write all of a float network's nodes; its outputs.

    Args:
        graph: the network, without quantizers.
        ops: the vocabulary that writes.
        tensors: the network's parameters by name, as ``ops.from_numpy`` gave them.
        pixels: its inputs, as float tensors.
    """
    # FloatOps has what a float forward pass uses, and refuses the rest of Ops by name.
    results, _ = Forward(graph, cast(Ops, ops))(tensors, pixels, training=False, phase=0)
    return results


def written_layer(node: FloatLayer, ops: FloatOps, tensors: Mapping[str, Any], inputs: Sequence[Symbol]) -> Any:
    """Write a layer of an integer graph that is left in float; its real numbers.

    Args:
        node: the layer.
        ops: the vocabulary that writes.
        tensors: the layer's parameters by name, as ``ops.from_numpy`` gave them.
        inputs: the real numbers of its inputs.

    Raises:
        QatError: the vocabulary has not all that it computes.
    """
    try:
        return node.compute(cast(Ops, ops), tensors, *inputs)
    except QatError as error:
        raise QatError(f"{node.name}: is left in float, but {error}") from None
