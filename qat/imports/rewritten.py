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
        found = REWRITTEN.get(str(function), _as_it_is)(each)
        operations += found
        for part in found[:-1]:
            if each.output in shapes:
                shapes[part.output] = shapes[each.output]
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
