"""Samples of two axes, (C, L), as pictures of one row, (C, 1, L): what is computed over pictures is computed over series.

Nothing is moved: channels first or last, the numbers stay in their order.
"""

from __future__ import annotations

from dataclasses import replace

from qat.cells.base import Shape
from qat.integer import IntegerBuilder, IntegerNode, IntegerRearrange, IntegerTensor, Pending, Staged
from qat.vocabulary.ops import Ops, Padding, Pair, Tensor
from qat.vocabulary.rearrangement import reshaping

AXES = {2: "(C, L)", 3: "(C, H, W)"}  #: what shapes of so many sizes are called


def picture_shape(shape: Shape) -> Shape:
    """(C, 1, L) of (C, L); that of a picture itself."""
    return (shape[0], 1, shape[1]) if len(shape) == 2 else shape


def like(shape: Shape, picture: Shape) -> Shape:
    """Of an output (C, 1, L) for an input of that shape: (C, L) if this is a series."""
    return (picture[0], *picture[2:]) if len(shape) == 2 else picture


def as_picture(ops: Ops, x: Tensor, shape: Shape) -> Tensor:
    """The samples of that shape as pictures."""
    return ops.rearrange(x, reshaping(shape, picture_shape(shape))) if len(shape) == 2 else x


def as_before(ops: Ops, y: Tensor, shape: Shape, made: Shape) -> Tensor:
    """What was made of pictures, samples of shape ``made`` where a series of that shape came in."""
    return ops.rearrange(y, reshaping(picture_shape(made), made)) if len(shape) == 2 else y


def along(value: int) -> Pair:
    """One number of a window over series as (vertical, horizontal)."""
    return (1, value)


def sides(padding: int | Pair) -> Padding:
    """A padding of series, one number or (left, right), as that of pictures."""
    left, right = (padding, padding) if isinstance(padding, int) else padding
    return (0, 0, left, right)


def picture_codes(builder: IntegerBuilder, name: str, x: IntegerTensor) -> IntegerTensor:
    """The codes of a series as a picture, for node ``name``: what they were made of, where that was one."""
    shape = picture_shape(x.shape)
    made = next(node for node in reversed(builder.nodes) if node.name == x.name)
    if isinstance(made, IntegerRearrange) and made.inputs[0].shape == shape and not made.rearrangement.steps():
        return made.inputs[0]
    taken = IntegerTensor(f"{name}@row", shape, x.grid)  # no node's own name has an @
    return builder.add(IntegerRearrange(taken.name, (x,), taken, reshaping(x.shape, shape)))


def series_nodes(node: IntegerNode) -> tuple[IntegerNode, IntegerNode]:
    """A node that makes pictures of one row, and what makes series of these and takes over its name."""
    picture = node.output
    inner = picture._replace(name=f"{node.name}@picture")
    output = picture._replace(shape=like((1, 1), picture.shape))
    reshaped = IntegerRearrange(node.name, (inner,), output, reshaping(picture.shape, output.shape))
    return replace(node, name=inner.name, output=inner), reshaped


def of_series(pending: Pending, picture: IntegerTensor) -> Pending:
    """What is pending over a series, computed over the picture that it is."""

    def stages(node: IntegerNode) -> tuple[IntegerNode, ...]:
        output = node.output._replace(shape=picture_shape(node.output.shape))
        return series_nodes(replace(node, inputs=(picture,), output=output))

    return Staged(pending, stages)
