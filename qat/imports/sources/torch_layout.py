"""Where the samples are in a tensor of PyTorch, which moves them to other axes, and joins them with others, as attention does.

A program is captured with a batch of N samples. What depends on its inputs has them along an axis of their own, or within
one, as (N * windows, tokens, channels) has. The rest of the axes, and of that one, are a sample's: with the samples in front of
them the value is canonical, and operations are read as those of canonical values.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from qat.imports.sources.places import Place, reshaped
from qat.imports.sources.torch_call import Call, Constant, Step, UnknownOperationError

#: Where an operation's arguments have axes.
AXES: Mapping[str, int] = {
    "softmax": 1, "_softmax": 1, "cat": 1, "concat": 1, "concatenate": 1, "mean": 1, "amax": 1, "select": 1, "slice": 1,
    "narrow": 1, "unbind": 1, "chunk": 2, "unsafe_chunk": 2, "split": 2, "unsafe_split": 2, "split_with_sizes": 2,
    "tensor_split": 2, "glu": 1, "roll": 2, "linalg_vector_norm": 2,
}  # fmt: skip
#: Operations of each number, or of a tensor's last axes alone.
LAST = {"linear": 1, "matmul": 2, "bmm": 2, "scaled_dot_product_attention": 2, "layer_norm": 1, "rms_norm": 1}
SPREAD = ("add", "sub", "rsub", "mul", "div", "maximum", "minimum")
ALONE = {
    "relu", "relu6", "hardtanh", "clamp", "clip", "clamp_min", "clamp_max", "sigmoid", "tanh", "hardsigmoid", "hardswish",
    "leaky_relu", "silu", "gelu", "mish", "elu", "celu", "selu", "softplus", "neg", "abs", "exp", "log", "log1p", "sqrt",
    "square", "reciprocal", "erf", "pow", "dropout", "to", "_to_copy", "type_as", "contiguous", "clone", "alias", "detach",
    "lift_fresh", "lift_fresh_copy", "expand", "expand_as",
}  # fmt: skip
RESHAPES = {
    "flatten", "unflatten", "view", "reshape", "_unsafe_view", "squeeze", "unsqueeze", "view_as", "reshape_as",
}  # fmt: skip
PERMUTES = {"permute", "transpose", "swapaxes", "swapdims", "movedim", "t"}


def order_of(call: Call) -> list[int]:
    """Of the axes, as a permutation has them."""
    rank = len(call.input_shape)
    order = list(range(rank))
    if call.target == "t":
        order.reverse()
    elif call.target in ("transpose", "swapaxes", "swapdims"):
        a, b = (int(call[place]) % rank for place in (1, 2))
        order[a], order[b] = b, a
    elif call.target == "permute":
        order = [int(axis) % rank for axis in call[1]]
    else:
        raise UnknownOperationError(f"aten.{call.target}")
    return order


def placed(call: Call, place: Place, batch: int) -> tuple[Call | Step, Place]:
    """An operation whose values have the samples elsewhere, or that moves them.

    Args:
        call: as PyTorch has it.
        place: of the samples in what it takes.
        batch: N.

    Returns:
        The call on canonical values, or what it is; and where the samples are in its result.

    Raises:
        UnknownOperationError: it is none that is known of such values.
    """
    target, shape = call.target, call.input_shape
    rank = len(shape)
    elsewhere = UnknownOperationError(f"aten.{target} of {tuple(shape)}, whose samples are along axis {place.axis}")
    if target in PERMUTES:
        order = order_of(call)
        after = place._replace(axis=order.index(place.axis))
        kept = place.kept(rank)
        axes = tuple(kept.index(axis) for axis in order if axis in kept)
        return Step("transpose", {"axes": axes}) if axes != tuple(sorted(axes)) else Step("identity"), after
    if target in RESHAPES:
        if math.prod(call.shape) != math.prod(shape):
            raise elsewhere
        found = reshaped(place, shape, call.shape, batch)
        if found is None:
            raise elsewhere
        return _canonical(call, place, found, batch, "reshape"), found
    if target in AXES:
        return _along(call, place, batch, elsewhere)
    last = LAST.get(target, 0)
    if target == "layer_norm":
        last = len(call[1])
    known = target in ALONE or target in SPREAD or last
    if not known or place.axis >= rank - last or len(call.shape) != rank:
        raise elsewhere
    constants = call.constants
    if target in SPREAD:
        constants = {at: _spread(given, place, rank, elsewhere) for at, given in constants.items()}
    return replace(_canonical(call, place, place, batch), constants=constants), place


def _along(call: Call, place: Place, batch: int, elsewhere: Exception) -> tuple[Call, Place]:
    """What is computed along some axes."""
    rank, at = len(call.shapes[0] or call.shape), AXES[call.target]
    given = call.arguments[at] if len(call.arguments) > at else 0
    own = [int(axis) % rank for axis in (given if isinstance(given, Sequence) else [given])]
    if place.axis in own:
        raise elsewhere
    axes: Any = [place.canonical_axis(axis, rank) for axis in own]
    arguments = list(call.arguments) + [None] * (at + 1 - len(call.arguments))
    arguments[at] = axes if isinstance(given, Sequence) else axes[0]
    gone = sum(axis < place.axis for axis in own) if len(call.shape) < rank else 0
    after = place._replace(axis=place.axis - gone)
    return replace(_canonical(call, place, after, batch), arguments=tuple(arguments)), after


def _spread(given: Constant, place: Place, rank: int, elsewhere: Exception) -> Constant:
    array, source = given
    if array.size == 1:
        return given
    try:
        return place.of_constant(array, rank), source
    except ValueError:
        raise elsewhere from None


def _canonical(call: Call, place: Place, after: Place, batch: int, target: str = "") -> Call:
    """With canonical shapes."""
    fixed = call.constants
    shapes = tuple(
        shape if shape is None or at in fixed else place.canonical_shape(shape, batch)
        for at, shape in enumerate(call.shapes)
    )
    return replace(call, target=target or call.target, shapes=shapes, shape=after.canonical_shape(call.shape, batch))
