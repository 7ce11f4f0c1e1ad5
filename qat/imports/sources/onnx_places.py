"""Operations of ONNX on values whose samples are no first axis, as those of canonical values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from qat.imports.sources.onnx_operations import RESHAPES
from qat.imports.sources.places import FIRST, Place, of_one, reshaped
from qat.imports.sources.steps import Call, Step, Steps, shown, unknown
from qat.vocabulary.ops import Array

#: Operations of each number, of one value or of several alike.
EACH = frozenset(
    {
        "Abs",
        "Add",
        "Cast",
        "Clip",
        "Div",
        "Dropout",
        "Elu",
        "Erf",
        "Exp",
        "Gelu",
        "HardSigmoid",
        "HardSwish",
        "Identity",
    }
    | {
        "LeakyRelu",
        "Log",
        "Max",
        "Min",
        "Mish",
        "Mul",
        "Neg",
        "Pow",
        "Reciprocal",
        "Relu",
        "Selu",
        "Sigmoid",
        "Softplus",
    }
    | {"Softsign", "Sqrt", "Sub", "Sum", "Tanh"}
)
ALONG = frozenset({"Concat", "Gather", "LayerNormalization", "Softmax", "Split"})  #: along the axis that an option says


def is_moving(call: Call) -> bool:
    """Whether an operation on values with the samples in front gives one with these elsewhere."""
    if call.of == "Transpose":
        return bool(_order(call)[:1] != (0,))
    moves = call.of in RESHAPES and call.result is not None
    return bool(moves and call.shape() and (call.result or ())[:1] != call.shape()[:1])


def placed(call: Call, place: Place, batch: int) -> tuple[Call | Steps, Place]:
    """An operation on values that all have their samples in one place.

    Args:
        call: as the file has it.
        place: of the samples in what it takes.
        batch: how many there are.

    Returns:
        The call on canonical values, or what it is; and where the samples are in its result.
    """
    shape = next((call.shape(at) for at in range(len(call.given)) if call.computed(at)), ())
    result = call.result
    rank = len(shape)
    elsewhere = unknown(f"{call.of} of {shown(shape)}, whose samples are along axis {place.axis}"), FIRST
    if not rank or result is None or call.last:
        return elsewhere
    if call.of == "Transpose":
        order, kept = _order(call), place.kept(rank)
        if sorted(order) != list(range(rank)):
            return elsewhere
        axes = tuple(kept.index(axis) for axis in order if axis in kept)
        moves = axes != tuple(sorted(axes))
        after = place._replace(axis=order.index(place.axis))
        return [Step("transpose", {"axes": axes}) if moves else Step("identity")], after
    if call.of in RESHAPES:
        found = of_one(result) if batch == 1 else reshaped(place, shape, result, batch)
        if found is None:
            return elsewhere
        wanted = found.canonical_shape(result, batch)[1:]
        before = place.canonical_shape(shape, batch)[1:]
        return [Step("reshape", {"shape": wanted}) if before != wanted else Step("identity")], found
    if call.of in EACH or (call.of in ("Gemm", "MatMul") and place.axis < rank - 1 - call.computed(1)):
        if len(result) != rank or (constants := _constants(call, place, rank)) is None:
            return elsewhere
        return replace(_canonical(call, place, place, batch), given=constants), place
    if call.of in ALONG:
        given = call.constant(1) if call.of == "Gather" else None
        axis = int(call.options.get("axis", 0 if call.of in ("Gather", "Split") else -1)) % rank
        joins = call.of == "LayerNormalization" and axis < place.axis
        if axis == place.axis or joins or (call.of == "Gather" and given is None):
            return elsewhere
        gone = given is not None and given.ndim == 0
        after = place._replace(axis=place.axis - (gone and axis < place.axis))
        options = {**call.options, "axis": place.canonical_axis(axis, rank)}
        return replace(_canonical(call, place, after, batch), options=options), after
    starts, chosen = call.constant(1), call.constant(3)
    if call.of == "Slice" and len(call.given) > 2 and starts is not None:
        count = starts.size
        own = list(range(count)) if chosen is None else [int(each) % rank for each in np.ravel(chosen)]
        if place.axis in own:
            return elsewhere
        canonical = np.array([place.canonical_axis(axis, rank) for axis in own], np.int64)
        rest = call.given[4:] or (None,)
        found_call = _canonical(call, place, place, batch)
        return replace(found_call, given=(*call.given[:3], canonical, *rest), inputs=_padded(call, 5)), place
    return elsewhere


def settled(steps: Steps, place: Place, shape: tuple[int, ...] | None, batch: int) -> tuple[Steps, Place]:
    """Steps and where they leave the samples; one sample is always in the same place of a shape."""
    if batch != 1 or not shape or steps[0].kind == "unknown":
        return steps, place
    after = of_one(shape)
    wanted = after.canonical_shape(shape, batch)
    same = place.canonical_shape(shape, batch) == wanted
    return (steps if same else [*steps, Step("reshape", {"shape": wanted[1:]})]), after


def _order(call: Call) -> tuple[int, ...]:
    given: Sequence[int] = call.options.get("perm", range(len(call.shape()))[::-1])
    return tuple(int(axis) for axis in given)


def _padded(call: Call, count: int) -> tuple[str, ...]:
    return (*call.inputs, *("",) * (count - len(call.inputs)))


def _constants(call: Call, place: Place, rank: int) -> tuple[Array | None, ...] | None:
    """The constants that are spread over a value, as over the canonical one; None: samples have others."""
    if call.of not in ("Add", "Sub", "Mul", "Div"):
        return call.given
    found: list[Array | None] = []
    for array in call.given:
        try:
            found.append(array if array is None or array.size == 1 else place.of_constant(array, rank))
        except ValueError:
            return None
    return tuple(found)


def _canonical(call: Call, place: Place, after: Place, batch: int) -> Call:
    """With canonical shapes of its values."""
    shapes = tuple(
        shape if shape is None or array is not None else place.canonical_shape(shape, batch)
        for shape, array in zip(call.shapes, call.given, strict=True)
    )
    return replace(call, shapes=shapes, result=after.canonical_shape(call.result or (), batch))
