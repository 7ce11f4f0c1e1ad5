"""What a cell knows of the construct that is being traced: where its call becomes a node."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from qat.vocabulary.param import Shape


class Traced(Protocol):
    """What stands for a tensor inside ``construct``, for annotations of it; ``qat.graph.Symbol`` is one.

    >>> import qat
    >>> class Net(qat.Network):
    ...     def __init__(self) -> None:
    ...         self.inputs = qat.Input((1, 4, 4))
    ...         self.flatten = qat.Flatten()
    ...     def construct(self, x: qat.Traced) -> qat.Traced:
    ...         return self.flatten(x)
    """

    @property
    def name(self) -> str:
        """Of the node whose output it is."""

    @property
    def shape(self) -> Shape:
        """Of one sample: (C, H, W), (C, L) or (F,)."""

    def __add__(self, other: Any) -> Traced:
        """The node that adds both, or a number."""

    def __radd__(self, other: Any) -> Traced:
        """The node that adds a number."""

    def __sub__(self, other: Any) -> Traced:
        """The node that subtracts the other, or a number."""

    def __rsub__(self, other: Any) -> Traced:
        """The node that subtracts it from a number."""

    def __mul__(self, other: Any) -> Traced:
        """The node that multiplies both, or by a number."""

    def __rmul__(self, other: Any) -> Traced:
        """The node that multiplies by a number."""

    def __matmul__(self, other: Traced) -> Traced:
        """The node that multiplies matrices, ``MatMul``."""

    def __neg__(self) -> Traced:
        """The node that multiplies by -1."""

    def __getitem__(self, key: Any) -> Traced:
        """A part, by slices: ``x[:, :4]`` the first four channels, ``x[..., ::2]`` every other column."""

    def split(self, sizes: int | Sequence[int], dim: int = 1) -> tuple[Traced, ...]:
        """Parts of that size, or of these sizes, along an axis of the batch, as PyTorch's: 1 is that of the channels."""

    def reshape(self, *shape: Any) -> Traced:
        """Another shape of the batch, as PyTorch's: the first size is -1, that of the samples; another one may be -1."""

    def view(self, *shape: Any) -> Traced:
        """As ``reshape``."""

    def flatten(self, start_dim: int = 1) -> Traced:
        """One row of features, ``Flatten``; or from a later axis of the batch on."""

    def transpose(self, *dims: Any) -> Traced:
        """Two axes of the batch exchanged, as PyTorch's; or all of them in another order, as NumPy's."""

    def permute(self, *dims: Any) -> Traced:
        """All axes of the batch in another order, the samples first."""

    def mean(self, dim: int | Sequence[int], keepdim: bool = False) -> Traced:
        """The mean over axes of the batch, as PyTorch's: 1 is that of the channels."""

    def amax(self, dim: int | Sequence[int], keepdim: bool = False) -> Traced:
        """The largest number over axes of the batch, likewise."""

    def chunk(self, chunks: int, dim: int = 1) -> tuple[Traced, ...]:
        """So many parts, likewise; of equal sizes as far as they can be."""


class Tracer(Protocol):
    """What gathers the nodes of a graph."""

    def add(self, cell: Any, inputs: tuple[Any, ...], default_name: str) -> Traced:
        """Append a node."""


tracers: list[Tracer] = []  #: innermost last; ``construct`` may not start another trace, so it holds at most one
