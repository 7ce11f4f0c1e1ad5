"""Normalisation of every place over its channels, and of groups of channels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from qat.cells.base import Cell, Param, Scope, Shape, check_counts, constant
from qat.errors import QatError
from qat.integer import IntegerBuilder, Norm, require_codes
from qat.vocabulary.ops import Array
from qat.vocabulary.rearrangement import by_group
from qat.vocabulary.values import Value


@dataclass(frozen=True)
class _Channels:
    """The field that they begin with."""

    channels: int


@dataclass(frozen=True)
class _Groups(_Channels):
    """And that of groups behind it."""

    num_groups: int


@dataclass(frozen=True)
class _ChannelNorm(Cell, _Channels, abstract=True):
    """What they share."""

    eps: float = 1e-5

    output_numbers = "computed"
    output_channels = "fixed"
    non_negative = False
    random = False

    _centred: ClassVar[bool]

    def __post_init__(self) -> None:
        super().__post_init__()
        check_counts(type(self).__name__, channels=self.channels)
        if not self.eps > 0.0:
            raise QatError(f"{type(self).__name__}: eps is {self.eps!r}; give a number above 0")

    @property
    def _num_groups(self) -> int | None:
        """Of channels, which are normalised over all places; None where each place is."""
        return None

    def float_params(self) -> dict[str, Param]:
        gamma = {"gamma": Param((self.channels,), "vector", constant(1.0))}
        return gamma | ({"beta": Param((self.channels,), "vector", constant(0.0))} if self._centred else {})

    def output_shape(self, *shapes: Shape) -> Shape:
        (x,) = shapes
        if x[0] != self.channels:
            raise QatError(
                f"normalises over {self.channels} channels but gets {x}, whose first axis they are; change channels, or "
                "transpose before it"
            )
        return x

    def macs(self, output: Shape, *, with_bias: bool) -> int:
        return 0  # as a batch normalisation

    def deployed_parameters(self) -> int:
        return 2 * self.channels

    def with_channels(self, outputs: int, inputs: int) -> Cell:
        return self

    def sliced(self, local: str, array: Array, outputs: Array, inputs: Array) -> Array:
        return array

    def forward(self, scope: Scope, *inputs: Value) -> Value:
        ops, x, shape = scope.ops, inputs[0].real(scope.ops), scope.input_shapes[0]
        how = None if self._num_groups is None else by_group(shape, self._num_groups)
        x = x if how is None else ops.rearrange(x, how)
        share = 1.0 / (shape if how is None else how.shape)[0]
        if self._centred:
            x = x - ops.sum_over_channels(x) * share
        y = x / ops.sqrt(ops.sum_over_channels(x * x) * share + self.eps)
        y = y if how is None else ops.rearrange(y, how.back)
        y = y * ops.on_channel(scope.param("gamma"), y)
        return Value(y + ops.on_channel(scope.param("beta"), y) if self._centred else y)

    def to_integer(self, builder: IntegerBuilder, name: str, params: Mapping[str, Array], *inputs: Any) -> Norm:
        gamma = params["gamma"].astype(np.float64)
        beta = params["beta"].astype(np.float64) if self._centred else gamma * 0.0
        return Norm(name, require_codes(name, inputs[0]), gamma, beta, self.eps, self._centred, self._num_groups)


@dataclass(frozen=True)
class LayerNorm(_ChannelNorm):
    """gamma_c (x_c - mean) / sqrt(variance + eps) + beta_c, mean and variance over the channels (Ba et al., arXiv 1607.06450).

    Of (C, H, W) and (C, L) every place is normalised by itself, as a transformer's tokens are. Parameters: gamma, beta, (C,).

    Args:
        channels: C.
        eps: what is added to a variance. Default: 1e-5.

    Raises:
        QatError: for fewer than one channel, or an eps that is not above 0.

    Example:
        >>> import qat
        >>> qat.LayerNorm(32).output_shape((32, 7, 7))
        (32, 7, 7)
    """

    _centred = True


@dataclass(frozen=True)
class RMSNorm(_ChannelNorm):
    """gamma_c x_c / sqrt(mean of squares + eps), over the channels (Zhang and Sennrich, arXiv 1910.07467).

    Parameter: gamma, (C,).

    Args:
        channels: C.
        eps: what is added to a mean of squares. Default: 1e-5.

    Raises:
        QatError: as of ``LayerNorm``.

    Example:
        >>> import qat
        >>> qat.RMSNorm(32).output_shape((32, 49))
        (32, 49)
    """

    _centred = False


@dataclass(frozen=True)
class GroupNorm(_ChannelNorm, _Groups):
    """gamma_c (x - mean) / sqrt(variance + eps) + beta_c, over each group of channels and all places.

    Wu and He, arXiv 1803.08494. With as many groups as channels it is an instance normalisation. Parameters: gamma, beta, (C,).

    Args:
        channels: C.
        num_groups: which divide the channels.
        eps: what is added to a variance. Default: 1e-5.

    Raises:
        QatError: as of ``LayerNorm``, and where the groups do not divide the channels.

    Example:
        >>> import qat
        >>> qat.GroupNorm(32, 4).output_shape((32, 7, 7))
        (32, 7, 7)
    """

    _centred = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_counts("GroupNorm", num_groups=self.num_groups)
        if self.channels % self.num_groups:
            raise QatError(
                f"GroupNorm: {self.num_groups} groups do not divide {self.channels} channels; use a number that does"
            )

    @property
    def _num_groups(self) -> int | None:
        return self.num_groups
