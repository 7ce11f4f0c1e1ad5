"""Cells of what is computed number by number: of two values, of a value and a constant, of one."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from qat.cells import Activation, Add, Maximum, Minimum, Mul, Normalize, PReLU, Slice, Sub
from qat.cells.base import Cell, Shape
from qat.imports.activations import activation_of, called
from qat.imports.fusion import Fusion
from qat.imports.make_linear import goes_into_dense
from qat.imports.make_moves import spread
from qat.imports.program import Operation, RefusedError
from qat.vocabulary.activations import RELU_BOUNDS
from qat.vocabulary.ops import Array

MOST_CONSTANTS = 2**19  #: numbers of a constant that differs from place to place


def add(fusion: Fusion, each: Operation) -> None:
    """An Add with the ReLU behind it; or of a constant, what ``affine`` makes."""
    if len(each.inputs) != 2:
        affine(fusion, each)
        return
    inputs = _joint(fusion, each)
    value, activation = fusion.activated(each.output, RELU_BOUNDS)
    _computed(fusion, each, Add(activation.get("activation")), inputs, value)


def mul(fusion: Fusion, each: Operation) -> None:
    """A Mul; or of a constant, what ``affine`` makes."""
    if len(each.inputs) == 2:
        _made(fusion, each, Mul())
    else:
        affine(fusion, each)


def of_two(cell: Cell) -> Callable[[Fusion, Operation], None]:
    """A cell of two values."""
    return lambda fusion, each: _made(fusion, each, cell)


def _made(fusion: Fusion, each: Operation, cell: Cell) -> None:
    _computed(fusion, each, cell, _joint(fusion, each), each.output)


def _computed(fusion: Fusion, each: Operation, cell: Cell, sources: Sequence[str], value: str) -> None:
    """A cell that computes number by number, of values of any number of axes."""
    fusion.through(sources, lambda *it: fusion.node(each, cell, *it[:-1], value=it[-1]), value, each)


def _joint(fusion: Fusion, each: Operation) -> list[str]:
    """Both values of one shape, or one of them (C, 1, 1) beside (C, H, W); others are spread to that."""
    shapes = [fusion.shape(value) for value in each.inputs]
    if len({len(shape) for shape in shapes}) > 1:
        raise RefusedError(each, f"{called(each)} of {shapes[0]} and {shapes[1]}, of other numbers of axes")
    try:
        joint: Shape = np.broadcast_shapes(*shapes)
    except ValueError:
        raise RefusedError(each, f"{called(each)} of {shapes[0]} and {shapes[1]}, which do not fit") from None
    gate = (joint[0], 1, 1)
    fits = [shape == joint or (shape == gate and joint in shapes) for shape in shapes]
    return [
        value if fit else spread(fusion, each, value, joint, f"{each.output}@{number}")
        for number, (value, fit) in enumerate(zip(each.inputs, fits, strict=True))
    ]


def affine(fusion: Fusion, each: Operation) -> None:
    """Constants that no layer before takes: of a row, part of the dense layer behind it; one number a function, one for each
    channel a Normalize; others one of what is moved until they are of channels.
    """
    source, shape = each.inputs[0], fusion.shape(each.inputs[0])
    if len(shape) == 1 and _constant(each, shape).size in (1, *shape) and goes_into_dense(fusion, each):
        return
    one = np.ones((1,) * len(shape), np.float32)
    factor, shift, value, after = one, 0.0 * one, each.output, each
    while True:
        number = _constant(after, shape)
        if after.kind == "mul":
            factor, shift = factor * number, shift * number
        else:
            shift = shift + number
        following = fusion.alone.get(value)
        if following is None or following.kind not in ("mul", "add") or len(following.inputs) != 1:
            break
        after, value = following, fusion.taken(following)
    if factor.size == shift.size == 1:
        cell: Cell = Activation("linear", float(factor.reshape(())), float(shift.reshape(())))
        _computed(fusion, each, cell, [source], value)
        return
    factor, shift = np.broadcast_arrays(factor, shift)
    put_off = fusion.turned(source)
    if put_off is None:
        _normalized(fusion, each, factor, shift, source, value)
        return
    given, inner = fusion.shape(put_off.source), f"{value}@inner"
    factor, shift = (put_off.undone(np.broadcast_to(array, shape), given) for array in (factor, shift))
    _normalized(fusion, each, factor, shift, put_off.source, inner)
    fusion.moves[value] = (each, replace(put_off, source=inner))
    fusion.shapes[value] = shape


def _normalized(fusion: Fusion, each: Operation, factor: Array, shift: Array, source: str, value: str) -> None:
    """A Normalize by what differs along some axes; of the channels where nothing differs."""
    shape = fusion.shape(source)
    own = [axis for axis in range(factor.ndim) if any((x != x.take([0], axis)).any() for x in (factor, shift))] or [0]
    factor, shift = (np.broadcast_to(array, (shape[0], *array.shape[1:])) for array in (factor, shift))
    at = tuple(slice(None) if axis in own else slice(1) for axis in range(factor.ndim))
    factor, shift = factor[at], shift[at]
    if factor.size > MOST_CONSTANTS:
        raise RefusedError(each, f"{called(each)} of {factor.size} constants, more than {MOST_CONSTANTS}")
    cell = Normalize(tuple(factor.ravel().tolist()), tuple(shift.ravel().tolist()))
    if own == [0] and len(shape) <= 3:
        fusion.node(each, cell, fusion.image(each, source), value=fusion.back_of(value, shape))
        if len(shape) < 3:
            fusion.reshaped(each, fusion.back_of(value, shape), shape, value)
    else:
        _of_axes(fusion, each, cell, own, source, value)


def _of_axes(fusion: Fusion, each: Operation, cell: Normalize, own: list[int], source: str, value: str) -> None:
    """Constants that differ along some axes, which become the channels meanwhile."""
    shape = fusion.shape(source)
    count = len(cell.factor)
    order = (*own, *(axis for axis in range(len(shape)) if axis not in own))
    turned = fusion.transposed(each, source, order, f"{value}@turned")
    image = fusion.reshaped(each, turned, (count, math.prod(shape) // count, 1), f"{value}@image")
    fusion.node(each, cell, image, value=f"{value}@computed")
    back = fusion.reshaped(each, f"{value}@computed", tuple(shape[axis] for axis in order), f"{value}@back")
    fusion.transposed(each, back, tuple(np.argsort(order).tolist()), value)


def _constant(each: Operation, shape: Shape) -> Array:
    """The constant, of as many axes as a sample has; one number has none of them longer than 1."""
    other = each.constants["other"]
    if other.ndim == len(shape) + 1 and len(other) == 1:
        other = other[0]
    if other.size == 1:
        return np.asarray(other, np.float32).reshape((1,) * len(shape))
    sizes = (1,) * (len(shape) - other.ndim) + other.shape
    if len(sizes) != len(shape) or any(a not in (1, b) for a, b in zip(sizes, shape, strict=True)):
        raise RefusedError(each, f"{called(each)} of a constant {other.shape} to {shape}, which does not fit")
    return np.asarray(other, np.float32).reshape(sizes)


def activation(fusion: Fusion, each: Operation) -> None:
    """An Activation."""
    cell = activation_of(each)
    if cell is None:
        if each.kind == "clip":  # without bounds
            fusion.same(each, each.inputs[0], each.output)
            return
        raise RefusedError(each, called(each))
    _computed(fusion, each, cell, each.inputs, each.output)


def prelu(fusion: Fusion, each: Operation) -> None:
    """A PReLU; one slope for all becomes one for each channel."""
    slope = each.constants["slope"].reshape(-1)
    channels = fusion.shape(each.inputs[0])[0]
    if slope.size not in (1, channels):
        raise RefusedError(each, f"a PReLU of {slope.size} slopes for {channels} channels")
    node = fusion.node(each, PReLU(channels), each.inputs[0])
    fusion.params[f"{node}.slope"] = np.array(np.broadcast_to(slope, (channels,)), np.float32)
    if slope.size == channels and (source := each.sources.get("slope")):
        fusion.sources[f"{node}.slope"] = source


def glu(fusion: Fusion, each: Operation) -> None:
    """One half times the sigmoid of the other."""
    source, shape = each.inputs[0], fusion.shape(each.inputs[0])
    axis = each.attributes["axis"] % (len(shape) + 1) - 1
    if axis < 0 or shape[axis] % 2:
        raise RefusedError(each, f"a GLU of {shape} along axis {each.attributes['axis']}")
    half, gate = shape[axis] // 2, f"{each.output}@gate"
    fusion.node(each, Slice(axis, 0, half), source, value=f"{each.output}@half", name=f"{fusion.named(each)}.half")
    names = [f"{fusion.named(each)}.other", f"{fusion.named(each)}.gate"]
    fusion.node(each, Slice(axis, half, 2 * half), source, value=f"{each.output}@other", name=names[0])
    fusion.node(each, Activation("sigmoid"), f"{each.output}@other", value=gate, name=names[1])
    fusion.node(each, Mul(), f"{each.output}@half", gate)


MAKERS: Mapping[str, Callable[[Fusion, Operation], None]] = {
    "activation": activation,
    "clip": activation,
    "prelu": prelu,
    "add": add,
    "mul": mul,
    "sub": of_two(Sub()),
    "maximum": of_two(Maximum()),
    "minimum": of_two(Minimum()),
    "glu": glu,
}
