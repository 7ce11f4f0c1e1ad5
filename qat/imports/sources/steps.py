"""What the readers of files share: an operation of a file as steps of plain operations, in whichever layout the file has it.

An image is (N, C, H, W) here, "channels first". A file that has (N, H, W, C), or that transposes from one to the other, means
the same values: they are listed channels first, and axes, constants and the columns of a dense layer are brought into that
order.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from qat.cells.window import window_padding
from qat.imports.windows import NO_PADDING
from qat.vocabulary.ops import Array

Shape = tuple[int, ...]
MINUS_ONE = np.float32(-1.0).reshape(())
TO_FIRST, TO_LAST = (0, 3, 1, 2), (0, 2, 3, 1)  #: transpositions of (N, H, W, C) and of (N, C, H, W) to the other
END = 2**31 - 1  #: a bound of a slice; this and larger ones are the end, wherever that is


@dataclass(frozen=True)
class Call:
    """An operation of a file.

    Attributes:
        of: what it is called there, as "Conv".
        given: its inputs that are constants, None for the others.
        inputs: the names of its inputs there; "" for one that is left out.
        names: of its constants, where the file itself holds them as they are; else "".
        shapes: of its inputs with the samples' axis, as the file has them; None where they are not known.
        result: the shape of what it gives, likewise.
        last: its images have channels last.
        options: its attributes.
        gives_last: what it gives has channels last, where it is an image and what it takes does not tell.
    """

    of: str
    given: tuple[Array | None, ...]
    inputs: tuple[str, ...]
    names: tuple[str, ...]
    shapes: tuple[Shape | None, ...]
    result: Shape | None
    last: bool
    options: Any
    gives_last: bool = False

    def constant(self, place: int) -> Array | None:
        """An input, where it is a constant."""
        return self.given[place] if place < len(self.given) else None

    def computed(self, place: int) -> bool:
        """Whether there is such an input, and it is no constant."""
        return place < len(self.given) and self.given[place] is None and bool(self.inputs[place])

    def shape(self, place: int = 0) -> Shape:
        """Of an input; () where it is not known."""
        found = self.shapes[place] if place < len(self.shapes) else None
        return found or ()

    def image(self, place: int = 0) -> tuple[int, int]:
        """Height and width of an input that is an image; of a series one row."""
        _, *sizes = first_shape(self.shape(place), self.last)
        return sizes[1], sizes[2]


@dataclass(frozen=True)
class Step:
    """A plain operation: its kind, attributes and constants, with their names in the file."""

    kind: str
    attributes: Mapping[str, Any] = field(default_factory=dict)
    constants: Mapping[str, Array] = field(default_factory=dict)
    sources: Mapping[str, str] = field(default_factory=dict)


Steps = list[Step]
Reader = Callable[[Call], Steps]


def unknown(of: str) -> Steps:
    """An operation that no plain one computes. of: what it is."""
    return [Step("unknown", {"of": of})]


def one(kind: str, **attributes: Any) -> Reader:
    """A reader of what has no options."""
    return lambda call: [Step(kind, attributes)]


def function(name: str, **options: Any) -> Reader:
    """A reader of an activation."""
    return one("activation", function=name, **options)


# -- layouts ----------------------------------------------------------------------------------------------------------


def first_shape(shape: Shape, last: bool) -> Shape:
    """A shape with the samples' axis, channels first."""
    return tuple(shape[axis] for axis in TO_FIRST) if last and len(shape) == 4 else shape


def first_axis(axis: int, rank: int, last: bool) -> int:
    """Where an axis is, channels first; counted from the end where negative."""
    axis %= rank
    return TO_FIRST.index(axis) if last and rank == 4 else axis


def to_first(array: Array, last: bool) -> Array:
    """Values of a file, channels first, as float32."""
    placed = array.transpose(TO_FIRST) if last and array.ndim == 4 else array
    return np.ascontiguousarray(placed, np.float32)


def to_file(array: Array, last: bool, dtype: np.dtype[Any]) -> Array:
    """Samples (N, ...), channels first, as a file takes them."""
    placed = array.transpose(TO_LAST) if last and array.ndim == 4 else array
    return np.ascontiguousarray(np.rint(placed) if dtype.kind in "iu" else placed, dtype)


def spread_over(other: Array, shape: Shape, last: bool) -> Array | None:
    """A constant as it is spread over one sample, channels first, with as many axes; None where samples have other ones.

    shape: of what it is spread over, with the samples, as the file has it.
    """
    if other.size == 1:
        return np.asarray(other, np.float32).reshape(())
    sizes = (1,) * (len(shape) - other.ndim) + other.shape
    if len(sizes) != len(shape) or sizes[0] != 1:
        return None
    found: Array = to_first(other.reshape(sizes), last)[0]
    return found


# -- steps ------------------------------------------------------------------------------------------------------------


def elementwise(kind: str, inverse_of: str = "") -> Reader:
    """A reader of "add" or "mul"; of their inverses, "sub" and "div", of which ``kind`` is what they are with a constant."""

    def read(call: Call) -> Steps:
        places = [place for place, array in enumerate(call.given) if array is not None]
        if not places:
            if len(call.shape(0)) != len(call.shape(1)):
                return unknown(f"{call.of} of shapes {shown(call.shape(0))} and {shown(call.shape(1))}")
            return [Step("elementwise", {"function": inverse_of}) if inverse_of else Step(kind)]
        constant = call.given[places[0]]
        assert constant is not None
        value = 1 - places[0]
        other = spread_over(constant, call.shape(value), call.last)
        if other is None or call.result is None or len(call.result) != len(call.shape(value)):
            return unknown(f"{call.of} with a constant of shape {shown(constant.shape)}")
        if call.result != call.shape(value):  # the value is spread too
            wide = replace(call, shapes=(call.result, call.result), result=call.result)
            return [Step("expand", {"shape": first_shape(call.result, call.last)[1:]}), *read(wide)]
        source = {"other": call.names[places[0]]}
        if not inverse_of:
            return [Step(kind, {}, {"other": other}, source)]
        if value == 0:
            return [Step(kind, {}, {"other": -other if kind == "add" else _inverse(other)})]
        if kind == "add":  # a constant less the value
            return [Step("mul", {}, {"other": MINUS_ONE}), Step(kind, {}, {"other": other}, source)]
        return [Step("elementwise", {"function": inverse_of, "constant_first": True}, {"other": other}, source)]

    return read


def single(name: str) -> Reader:
    """A reader of what is computed of each number, and has no cell: part of an activation, perhaps."""
    return one("elementwise", function=name)


def bounded(name: str, bound: str) -> Reader:
    """A reader of "maximum" or "minimum": with one number it is a clip. bound: of the clip."""

    def read(call: Call) -> Steps:
        found = [array for array in call.given if array is not None]
        if len(call.given) != 2 or any(array.size != 1 for array in found):
            return unknown(f"{call.of} of values")
        if not found:
            return [Step("elementwise", {"function": name})]
        return [Step("clip", {"low": None, "high": None, bound: float(found[0].reshape(()))})]

    return read


def power(call: Call) -> Steps:
    """To a power that is one number."""
    exponent = call.constant(1)
    if exponent is None or exponent.size != 1:
        return unknown(f"{call.of} to computed powers")
    return [Step("elementwise", {"function": "pow"}, {"other": np.asarray(exponent, np.float32).reshape(())})]


def takes_all(size: Any, start: Any = None, stop: Any = None) -> bool:
    """Whether a slice of the samples is all of them, however many there are, and not the first few, which these may all be."""
    return start in (None, 0) and (stop is None or stop == size or (isinstance(stop, int) and stop >= END))


def prelu(call: Call) -> Steps:
    """A leaky ReLU whose slopes are constants: one number, or one for each channel."""
    slope = call.constant(1)
    rank = len(call.shape())
    if slope is None or not rank:
        return unknown(f"{call.of} of computed slopes")
    if len(set(np.ravel(slope).tolist())) == 1:
        return function("leaky_relu", alpha=float(np.ravel(slope)[0]))(call)
    found = spread_over(slope, call.shape(), call.last)
    if found is None or (found.ndim and found.size != found.shape[0]):
        return unknown(f"{call.of} whose slopes differ from place to place")
    return [Step("prelu", {}, {"slope": found.reshape(-1)}, {"slope": call.names[1] if slope.ndim == 1 else ""})]


def negated(call: Call) -> Steps:
    """With the other sign."""
    return [Step("mul", {}, {"other": MINUS_ONE})]


def _inverse(other: Array) -> Array:
    """What to multiply by, to divide."""
    with np.errstate(divide="ignore", over="ignore"):
        found = np.asarray(1.0 / other.astype(np.float64), np.float32)
    if not np.isfinite(found).all():
        raise ValueError("it divides by zero")
    return found


def joined(call: Call, axis: int) -> Steps:
    """A concatenation."""
    if any(array is not None for array in call.given):
        return unknown(f"{call.of} with a constant")
    if len(call.given) == 1:
        return [Step("identity")]
    if not call.shape():
        return unknown(f"{call.of} of a size that is not known")
    return [Step("concat", {"axis": first_axis(axis, len(call.shape()), call.last)})]


def padded(call: Call, widths: Sequence[tuple[int, int]], value: float, mode: str = "constant") -> Steps:
    """A padding, or a crop. widths: before and after, for each axis of the file."""
    rows = [(int(before), int(after)) for before, after in widths]
    if not any(any(pair) for pair in rows):
        return [Step("identity")]
    placed = [rows[axis] for axis in TO_FIRST] if call.last and len(rows) == 4 else rows
    return [Step("pad", {"widths": tuple(placed), "value": float(value), "mode": mode})]


def normalised(call: Call, axis: int, *, joins: bool = False) -> Steps:
    """A softmax. joins: over the axis and all behind it together."""
    shape = call.shape()
    if not shape:
        return unknown(f"{call.of} of a size that is not known")
    behind = shape[axis % len(shape) + 1 :]
    if joins and math.prod(behind) != 1:
        return unknown(f"{call.of} over the axes from {axis % len(shape)} on together (opset < 13)")
    return [Step("softmax", {"axis": first_axis(axis, len(shape), call.last)})]


def dense(call: Call, weight: Array, bias: Array | None, sources: Mapping[str, str]) -> Steps:
    """A dense layer over the last axis. weight: (outputs, inputs)."""
    rank = len(call.shape())
    constants = {"weight": np.asarray(weight, np.float32)}
    if bias is not None:
        spread = np.broadcast_to(np.asarray(bias, np.float32).reshape(-1), (len(weight),))
        constants["bias"] = np.ascontiguousarray(spread)
    if rank == 4 and call.last:  # at each place of an image
        constants["weight"] = constants["weight"][:, :, None, None]
        return [
            Step("conv2d", {"stride": (1, 1), "padding": (0,) * 4, "dilation": (1, 1), "groups": 1}, constants, sources)
        ]
    return [Step("dense", {}, constants, sources)] if rank else unknown(f"{call.of} of a size that is not known")


def multiplied(call: Call, *, transpose_a: bool = False, transpose_b: bool = False) -> Steps:
    """The product of two values, as equally many matrices each."""
    ranks = {len(call.shape(place)) for place in (0, 1)}
    if not all(call.computed(place) for place in (0, 1)) or len(ranks) > 1 or min(ranks) < 3:
        return unknown(f"{call.of} of two values {shown(call.shape(0))} and {shown(call.shape(1))}")
    last = {"channels_last": True} if call.last and ranks == {4} else {}
    return [Step("matmul", {"transpose_a": transpose_a, "transpose_b": transpose_b, **last})]


def pooled(call: Call, kind: str, window: Mapping[str, Any], *, ceil: bool = False, counts: bool = False) -> Steps:
    """A pooling.

    Args:
        call: it.
        kind: "max_pool2d" or "avg_pool2d".
        window: kernel, stride, padding ("same", "same lower" or widths), dilation.
        ceil: a last window may begin within the image and end beyond its padding.
        counts: padding counts in means.
    """
    if len(call.shape()) not in (3, 4):
        return unknown(f"{call.of} of {shown(call.shape())}")
    kernel, stride, dilation = window["kernel"], window["stride"], window.get("dilation", (1, 1))
    padding = window["padding"]
    if isinstance(padding, str):
        padding = same_padding(call.image(), kernel, stride, dilation, lower=padding == "same lower")
    attributes = {"kernel": kernel, "stride": stride, "padding": tuple(padding)} | ({"ceil": True} if ceil else {})
    if kind == "max_pool2d":
        return [Step(kind, attributes if dilation == (1, 1) else attributes | {"dilation": dilation})]
    return [Step(kind, attributes | {"counts_padding": counts or not any(padding)})]


def same_padding(
    image: tuple[int, int],
    kernel: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
    *,
    lower: bool = False,
) -> tuple[int, int, int, int]:
    """(top, bottom, left, right) of the padding that gives ceil(size / stride). lower: an odd one more is before the image."""
    size, width, step, spread = [(each[0], each[1]) for each in (image, kernel, stride, dilation)]
    top, bottom, left, right = window_padding(size, width, step, spread, "same", NO_PADDING)
    return (bottom, top, right, left) if lower else (top, bottom, left, right)


def shown(sizes: Sequence[int]) -> str:
    """Sizes for a message."""
    listed = ", ".join(str(int(size)) for size in sizes[:8])
    return f"({listed}, ...)" if len(sizes) > 8 else f"({listed})"
