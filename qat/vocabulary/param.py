"""The declaration of a parameter: its shape and its initial value."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from qat.vocabulary.ops import Array, Kind

Shape = tuple[int, ...]  #: of one sample, without the batch: (C, H, W), (C, L) or (F,)
Initializer = Callable[[np.random.Generator, Shape], Array]


@dataclass(frozen=True)
class Param:
    """A parameter of a cell or of a quantizer.

    Args:
        shape: in the canonical layout.
        kind: what its axes mean.
        initial: makes the initial value.
        trainable: True, the default; False: state that the forward pass updates, as ranges and running statistics.
    """

    shape: Shape
    kind: Kind
    initial: Initializer
    trainable: bool = True

    def create(self, seed: int, name: str) -> Array:
        """The initial value. It depends on seed and name alone, not on other cells.

        Args:
            seed: of the network.
            name: the parameter's full name.

        Returns:
            float32.
        """
        generator = np.random.default_rng((seed, zlib.crc32(name.encode())))
        return np.asarray(self.initial(generator, self.shape), np.float32)


def constant(value: float) -> Initializer:
    """Every element has this value."""
    return partial(_constant, value)


def he_uniform(fan_in: int) -> Initializer:
    """U(-b, b) with b = sqrt(6 / fan_in), for cells followed by a ReLU (He et al., arXiv 1502.01852, eq. 10)."""
    return partial(_uniform, float(np.sqrt(6.0 / fan_in)))


def _constant(value: float, generator: np.random.Generator, shape: Shape) -> Array:
    return np.full(shape, value, np.float32)


def _uniform(bound: float, generator: np.random.Generator, shape: Shape) -> Array:
    return generator.uniform(-bound, bound, shape)
