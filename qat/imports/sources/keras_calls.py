"""What a front end for Keras tells its layers, and what these give back: values, calls and steps, and the order of axes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np

from qat.vocabulary.ops import Array

BEFORE = ""  #: among the inputs of a step: what the step before it gives


@dataclass(frozen=True)
class Layout:
    """How Keras orders the axes of a network's values; the canonical order is (N, C, H, W).

    Values of rank 3, (N, L, C), are canonical (N, C, L, 1), so that convolutions along one axis are those of images.

    Attributes:
        channels_first: as its layers' ``data_format`` says.
    """

    channels_first: bool

    def axis(self, axis: int, rank: int) -> int:
        """The canonical place of an axis of a value with ``rank`` axes, the batch's included."""
        axis %= rank
        if self.channels_first or rank < 3 or axis == 0:
            return axis
        return 1 if axis == rank - 1 else axis + 1

    def shape(self, sizes: Sequence[int]) -> tuple[int, ...]:
        """The canonical shape of one sample."""
        moved = tuple(sizes) if self.channels_first or len(sizes) < 2 else (sizes[-1], *sizes[:-1])
        return (*moved, 1) if len(moved) == 2 else moved

    def canonical(self, x: Array) -> Array:
        """A batch of samples, brought into the canonical order."""
        moved = x if self.channels_first or x.ndim < 3 else np.moveaxis(x, -1, 1)
        return np.ascontiguousarray(moved[..., None] if moved.ndim == 3 else moved)

    def original(self, x: Array, sizes: Sequence[int]) -> Array:
        """A batch of canonical samples, brought into the order of values with these sizes."""
        x = x.reshape(x.shape[:3]) if len(sizes) == 2 else x
        return np.ascontiguousarray(x if self.channels_first or x.ndim < 3 else np.moveaxis(x, 1, -1))

    def constant(self, constant: Any, rank: int) -> Array | None:
        """What is added to a value of this rank, or multiplied with it, as it is spread over one sample in the canonical order;
        None where samples have other ones.
        """
        array = np.asarray(keras.ops.convert_to_numpy(constant), np.float32)
        if array.size == 1:
            return array.reshape(())
        if array.ndim > rank:
            return None
        sizes = (1,) * (rank - array.ndim) + array.shape
        if sizes[0] != 1:
            return None
        found: Array = self.canonical(array.reshape(sizes))[0]
        return found


@dataclass(frozen=True)
class Value:
    """A value of the network: its name, and its sizes in Keras without the batch's."""

    name: str
    sizes: tuple[int, ...]

    @property
    def rank(self) -> int:
        """Axes, the batch's included."""
        return len(self.sizes) + 1


@dataclass(frozen=True)
class Call:
    """A layer or operation, called.

    Attributes:
        operation: of Keras.
        taken: the values that it takes.
        given: the sizes of what it gives.
        arguments: all arguments by position, values in place of tensors.
        layout: of the network.
    """

    operation: Any
    taken: tuple[Value, ...]
    given: tuple[int, ...]
    arguments: tuple[Any, ...]
    layout: Layout

    @property
    def name(self) -> str:
        """Of its class."""
        return type(self.operation).__name__


@dataclass(frozen=True)
class Step:
    """A plain operation.

    Attributes:
        kind: one of ``qat.imports.program.KINDS``.
        attributes: of the kind.
        constants: by their names in the kind: their names in the layer, and the arrays.
        inputs: names of values, of parts of steps before, or ``BEFORE``; None: what the layer takes, and after its first step
            ``BEFORE``.
        part: a name for it within its layer.
        shape: of what it gives, canonical, where that is another than the layer's.
    """

    kind: str
    attributes: Mapping[str, Any] = field(default_factory=dict)
    constants: Mapping[str, tuple[str, Array]] = field(default_factory=dict)
    inputs: tuple[str, ...] | None = None
    part: str = ""
    shape: tuple[int, ...] | None = None


Steps = Iterator[Step]
Reader = Callable[[Call], Steps]


def unknown(of: str) -> Step:
    """What nothing is known of, and its name for the message."""
    return Step("unknown", {"of": of})


def array_of(variable: Any) -> Array:
    """The numbers of a variable of Keras."""
    return np.asarray(keras.ops.convert_to_numpy(variable), np.float32)


def own_class(operation: Any) -> type | None:
    """The class of Keras that computes a layer or operation; None where a class of the user's does."""
    cls = type(operation)
    own: Any = next((each for each in cls.__mro__ if each.__module__.partition(".")[0] == "keras"), None)
    return own if own is not None and cls.call is own.call and cls.__call__ is own.__call__ else None
