"""Operations that one cell does not compute, but others do: an absolute value, a hard swish of any slope, a square, ..."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from qat.imports.program import Operation, Program

QUICK_GELU = 1.702  #: x sigmoid(1.702 x): Hendrycks and Gimpel, arXiv 1606.08415, section 2


def rewritten(program: Program) -> Program:
    """The same network in operations that cells compute, as far as there are some.

    Args:
        program: of a front end, spelled-out activations recognised.

    Returns:
        The program.
    """
    operations: list[Operation] = []
    shapes = dict(program.shapes)
    for each in program.operations:
        function = each.attributes.get("function") if each.kind in ("elementwise", "activation") else None
        if (parts := OF_SHAPES.get(each.kind)) is not None:
            found = parts(each, shapes)
        else:
            found = REWRITTEN.get(str(function), _as_it_is)(each)
        operations += found
        for part in found[:-1]:
            if each.output in shapes:
                shapes.setdefault(part.output, shapes[each.output])
    return replace(program, operations=tuple(operations), shapes=shapes)


def _as_it_is(each: Operation) -> list[Operation]:
    return [each]


def _by(each: Operation, kind: str, number: float, x: str, output: str) -> Operation:
    """x plus or times a number."""
    constants = {"other": np.float32(number).reshape(())}
    return replace(each, kind=kind, inputs=(x,), output=output, attributes={}, constants=constants, sources={})


def _function(each: Operation, function: str, x: str, output: str, **more: Any) -> Operation:
    """An activation of x."""
    attributes = {"function": function, **more}
    return replace(each, kind="activation", inputs=(x,), output=output, attributes=attributes, constants={}, sources={})


def _extreme(kind: str, bound: str) -> Callable[[Operation], list[Operation]]:
    """Of two values; with one number it is a clip."""

    def parts(each: Operation) -> list[Operation]:
        if len(each.inputs) == 2:
            return [replace(each, kind=kind, attributes={})]
        (number,) = each.constants.values()
        attributes = {"low": None, "high": None, bound: float(number.reshape(()))}
        return [replace(each, kind="clip", attributes=attributes, constants={}, sources={})]

    return parts


def _difference(each: Operation) -> list[Operation]:
    """Of two values; of a constant and a value it is the sum with the negative value."""
    if len(each.inputs) == 2:
        return [replace(each, kind="sub", attributes={})]
    if not each.attributes.get("constant_first"):
        negative = {"other": -each.constants["other"]}
        return [replace(each, kind="add", attributes={}, constants=negative, sources={})]
    negative_x = f"{each.output}@negative"
    return [
        _by(each, "mul", -1.0, each.inputs[0], negative_x),
        replace(each, kind="add", inputs=(negative_x,), attributes={}),
    ]


def _square(each: Operation) -> list[Operation]:
    (x,) = each.inputs
    exponent = [float(array.reshape(())) for array in each.constants.values()]
    if exponent not in ([], [2.0]) or each.attributes.get("constant_first"):  # 2^x is another function
        return [each]
    return [replace(each, kind="mul", inputs=(x, x), attributes={}, constants={}, sources={})]


def _hard_swish(each: Operation) -> list[Operation]:
    (x,), gate = each.inputs, f"{each.output}@gate"
    slope = {name: each.attributes[name] for name in ("alpha", "beta")}
    return [_function(each, "hard_sigmoid", x, gate, **slope), _times(each, x, gate)]


def _quick_gelu(each: Operation) -> list[Operation]:
    (x,), gate = each.inputs, f"{each.output}@gate"
    steeper = f"{each.output}@steeper"
    return [_by(each, "mul", QUICK_GELU, x, steeper), _function(each, "sigmoid", steeper, gate), _times(each, x, gate)]


def _times(each: Operation, *inputs: str) -> Operation:
    return replace(each, kind="mul", inputs=inputs, attributes={}, constants={}, sources={})


Shapes = dict[str, tuple[int, ...]]


def _with_constants(each: Operation, shapes: Shapes) -> list[Operation]:
    """A concatenation with constants: the others with zeros around them, and the constants added there."""
    if not each.constants:
        return [each]
    places = [int(place) for place in each.constants]
    values = sorted(set(range(len(each.inputs) + len(places))) - set(places))
    shape, axis = shapes[each.output], each.attributes["axis"] % (len(shapes[each.output]) + 1)
    if values != list(range(values[0], values[-1] + 1)):
        return [replace(each, kind="unknown", attributes={"of": "a concatenation with constants between values"})]
    operations, (source, *others) = [], each.inputs
    if others:
        joined = replace(each, output=f"{each.output}@values", constants={}, sources={})
        operations, source = [joined], joined.output
    arrays = {place: each.constants[str(place)] for place in places}
    before = sum(array.shape[axis - 1] for place, array in arrays.items() if place < values[0])
    after = sum(array.shape[axis - 1] for place, array in arrays.items() if place > values[0])
    shapes[source] = (*shape[: axis - 1], shape[axis - 1] - before - after, *shape[axis:])
    widths = tuple((before, after) if at == axis else (0, 0) for at in range(len(shape) + 1))
    attributes = {"widths": widths, "value": 0.0}
    padded = f"{each.output}@padded"
    operations.append(
        replace(each, kind="pad", inputs=(source,), output=padded, attributes=attributes, constants={}, sources={})
    )
    first = [array for place, array in sorted(arrays.items()) if place < values[0]]
    last = [array for place, array in sorted(arrays.items()) if place > values[0]]
    constant = np.concatenate([*first, np.zeros(shapes[source], np.float32), *last], axis - 1)
    return [*operations, replace(each, kind="add", inputs=(padded,), attributes={}, constants={"other": constant})]


def _attention(each: Operation, shapes: Shapes) -> list[Operation]:
    """softmax(scale Q K^T + mask) V."""
    q, k, v, *added = each.inputs
    names = [f"{each.output}@{part}" for part in ("products", "scores", "masked", "weights")]
    for name in names:
        shapes[name] = (*shapes[q][:-1], shapes[k][-2])
    plain = replace(each, attributes={}, constants={}, sources={})
    both = {"transpose_a": False, "transpose_b": True}
    operations = [
        replace(plain, kind="matmul", inputs=(q, k), output=names[0], attributes=both),
        _by(each, "mul", each.attributes["scale"], names[0], names[1]),
    ]
    scores = names[1]
    if added or "mask" in each.constants:
        constants = {"other": each.constants["mask"]} if not added else {}
        operations.append(replace(plain, kind="add", inputs=(scores, *added), output=names[2], constants=constants))
        scores = names[2]
    softmax = replace(plain, kind="softmax", inputs=(scores,), output=names[3], attributes={"axis": -1})
    return [*operations, softmax, replace(plain, kind="matmul", inputs=(names[3], v))]


def _group_norm(each: Operation, shapes: Shapes) -> list[Operation]:
    """A layer normalisation of each group, and a factor and shift of each channel."""
    (x,), shape, groups = each.inputs, shapes[each.inputs[0]], each.attributes["groups"]
    if groups == shape[0]:
        parts: tuple[int, ...] = shape
    else:
        parts = (groups, shape[0] // groups, *shape[1:])
    grouped, normal, back = (f"{each.output}@{part}" for part in ("groups", "normal", "channels"))
    shapes |= {grouped: parts, normal: parts, back: shape}
    plain = replace(each, attributes={}, constants={}, sources={})
    options = {"axes": tuple(range(2, len(parts) + 1)), "eps": each.attributes["eps"]}
    operations = [
        replace(plain, kind="reshape", inputs=(x,), output=grouped, attributes={"shape": parts}),
        replace(plain, kind="layer_norm", inputs=(grouped,), output=normal, attributes=options),
        replace(plain, kind="reshape", inputs=(normal,), output=back, attributes={"shape": shape}),
    ]
    for name, kind in (("gamma", "mul"), ("beta", "add")):
        if (array := each.constants.get(name)) is not None:
            channels = array.reshape(-1, *(1,) * (len(shape) - 1))
            before = operations[-1].output
            output = f"{each.output}@{name}"
            shapes[output] = shape
            constants, sources = {"other": channels}, {"other": each.sources.get(name, "")}
            operations.append(
                replace(plain, kind=kind, inputs=(before,), output=output, constants=constants, sources=sources)
            )
    operations[-1] = replace(operations[-1], output=each.output)
    return operations


#: By kind, of what has to know shapes.
OF_SHAPES: Mapping[str, Callable[[Operation, Shapes], list[Operation]]] = {
    "concat": _with_constants,
    "attention": _attention,
    "group_norm": _group_norm,
}

#: By what an "elementwise" operation or an activation computes.
REWRITTEN: Mapping[str, Callable[[Operation], list[Operation]]] = {
    "neg": lambda each: [_by(each, "mul", -1.0, each.inputs[0], each.output)],
    "sub": _difference,
    "maximum": _extreme("maximum", "low"),
    "minimum": _extreme("minimum", "high"),
    "square": _square,
    "pow": _square,
    "exp": lambda each: [_function(each, "exp", each.inputs[0], each.output)],
    "abs": lambda each: [_function(each, "leaky_relu", each.inputs[0], each.output, alpha=-1.0)],
    "hard_swish": _hard_swish,
    "quick_gelu": _quick_gelu,
}
