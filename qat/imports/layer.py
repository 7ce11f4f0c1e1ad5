"""A convolution, dense layer or batch normalisation on its way into a cell, and what it takes of the operations after it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from qat.cells.base import Cell
from qat.imports.entry import per_channel
from qat.imports.program import Operation
from qat.vocabulary.numpy_ops import NUMPY_OPS
from qat.vocabulary.ops import Array

#: How a parameter of a batch normalisation is called in a cell.
OF_NORMALIZATION = {"gamma": "gamma", "beta": "beta", "mean": "moving_mean", "variance": "moving_variance"}
MISSING = {
    "gamma": 1.0,
    "beta": 0.0,
    "mean": 0.0,
    "variance": 1.0,
}  #: what a batch normalisation without one computes with


@dataclass
class Layer:
    """A convolution or dense layer, and what it has taken of the operations after it.

    own: its parameters by local name. sources: of those that are arrays of the source as they are. origin: the names of all
    arrays that went into them. inputs_first: of a transposed convolution the number of its groups, in each of which its weight
    has inputs before outputs; 0: of all others.
    """

    own: dict[str, Array]
    sources: dict[str, str]
    origin: dict[str, str]
    fields: dict[str, Any] = field(default_factory=dict)
    inputs_first: int = 0

    @classmethod
    def of(cls, each: Operation, inputs_first: int = 0) -> Layer:
        """With weight and bias of an operation."""
        own = {local: array for local, array in each.constants.items() if local in ("weight", "bias")}
        return cls(own, dict(each.sources), dict(each.sources), inputs_first=inputs_first)

    @property
    def channels(self) -> int:
        """Of its output."""
        weight = self.own["weight"]
        return weight.shape[1] * self.inputs_first if self.inputs_first else len(weight)

    @property
    def has_bn(self) -> bool:
        """Whether it has taken a batch normalisation."""
        return "gamma" in self.own

    def takes(self, after: Operation, rank: int) -> bool:
        """Take a batch normalisation, or a constant of each channel, into it. False: it is something else.

        rank: axes of a sample that it gives.
        """
        channel = per_channel(after, self.channels, rank)
        if after.kind == "batch_norm" and not self.has_bn:
            self.normalized(after)
        elif after.kind == "add" and channel is not None:
            place = "beta" if self.has_bn else "bias"
            shift = self.own.get(place, np.zeros(self.channels, np.float32))
            self._changed(**{place: shift + channel})
            if place not in self.origin and (source := after.sources.get("other")):
                self.sources[place] = self.origin[place] = source
        elif after.kind == "mul" and channel is not None and self.has_bn:
            self._changed(gamma=self.own["gamma"] * channel, beta=self.own["beta"] * channel)
        elif after.kind == "mul" and channel is not None:
            self._changed(weight=self._scaled(self.own["weight"], channel))
            if "bias" in self.own:
                self._changed(bias=self.own["bias"] * channel)
        else:
            return False
        return True

    def normalized(self, each: Operation) -> None:
        """Take the parameters of a batch normalisation."""
        for name, local in OF_NORMALIZATION.items():
            array = each.constants.get(name)
            self.own[local] = np.full(self.channels, MISSING[name], np.float32) if array is None else array
            if source := each.sources.get(name):
                self.sources[local] = self.origin[local] = source
        self.fields |= {name: each.attributes[name] for name in ("eps", "momentum") if name in each.attributes}

    def _scaled(self, weight: Array, channel: Array) -> Array:
        """The weight with each output multiplied by a number."""
        if self.inputs_first:
            outputs_first = NUMPY_OPS.swap_channels(weight, self.inputs_first)
            return NUMPY_OPS.swap_channels(outputs_first * NUMPY_OPS.on_output(channel, weight), self.inputs_first)
        return weight * NUMPY_OPS.on_output(channel, weight)

    def _changed(self, **arrays: Array) -> None:
        """Set parameters to what is no array of the source."""
        for local, array in arrays.items():
            self.own[local] = array
            self.sources.pop(local, None)


@dataclass
class Use:
    """The first use of a layer: its node, its cell and its parameters."""

    node: str
    cell: Cell
    layer: Layer

    def is_same(self, other: Use) -> bool:
        """Whether both uses can be one cell."""
        return (
            self.cell == other.cell
            and self.layer.origin == other.layer.origin
            and all(np.array_equal(self.layer.own[local], array) for local, array in other.layer.own.items())
        )


def unlike(a: Use, b: Use) -> str:
    """In what two layers differ, in words."""
    for local in ("weight", "bias", "gamma"):
        if a.layer.origin.get(local) != b.layer.origin.get(local):
            return "batch normalisation" if local == "gamma" else local
    return (
        "activation"
        if getattr(a.cell, "activation", None) != getattr(b.cell, "activation", None)
        else "stride or padding"
    )


def factor_and_shift(each: Operation, channels: int, rank: int) -> tuple[Array, Array]:
    """What a batch normalisation, a multiplication or an addition multiplies by and adds, of each channel, float32.

    rank: of a sample of what it takes.
    """
    one, zero = np.ones(channels, np.float32), np.zeros(channels, np.float32)
    if each.kind == "batch_norm":
        own = {name: np.full(channels, number, np.float64) for name, number in MISSING.items()}
        own |= {name: array.astype(np.float64) for name, array in each.constants.items()}
        factor = own["gamma"] / np.sqrt(own["variance"] + each.attributes["eps"])
        return factor.astype(np.float32), (own["beta"] - own["mean"] * factor).astype(np.float32)
    number = per_channel(each, channels, rank)
    assert number is not None
    return (number, zero) if each.kind == "mul" else (one, number)
