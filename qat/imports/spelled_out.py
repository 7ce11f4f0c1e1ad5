"""Activations that a source spells out in several operations, recognised by their numbers.

However a source writes a hard swish, as ``x * clip(x + 3, 0, 6) / 6`` or ``(x * clip(x + 3, 0, 6)) * 0.16667``, the operations
are functions of single numbers: together they are one function f(x). So every run of such operations that ends in one value and
begins with one is computed on a grid of numbers and compared with the functions that have a name. Two names are of families:
a hard sigmoid of any slope, ``clip(slope x + offset, 0, 1)``, and a leaky ReLU of any.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from qat.imports.program import Operation, Program
from qat.vocabulary.activations import PARAMETERS, TABLES, apply_table
from qat.vocabulary.numpy_ops import NUMPY_OPS
from qat.vocabulary.ops import Array

Numbers = Callable[..., Array]

_ERF = np.frompyfunc(math.erf, 1, 1)


def _erf(x: Array) -> Array:
    result: Array = _ERF(x).astype(np.float64)
    return result


def _softplus(x: Array) -> Array:
    return np.asarray(np.logaddexp(0.0, x))


def _sigmoid(x: Array) -> Array:
    return np.asarray(np.exp(-np.logaddexp(0.0, -x)))


#: What is computed of single numbers, beside additions, multiplications, clips and activations, and has no cell.
ELEMENTWISE: Mapping[str, Numbers] = {
    "sub": np.subtract,
    "div": np.divide,
    "pow": np.power,
    "maximum": np.maximum,
    "minimum": np.minimum,
    "neg": np.negative,
    "abs": np.abs,
    "exp": np.exp,
    "log": np.log,
    "log1p": np.log1p,
    "sqrt": np.sqrt,
    "rsqrt": lambda x: 1.0 / np.sqrt(x),
    "square": np.square,
    "reciprocal": np.reciprocal,
    "erf": _erf,
}

#: Activations that have a name; those that no cell computes are refused by it.
NAMED: Mapping[str, Numbers] = {
    "relu": lambda x: np.maximum(x, 0.0),
    "relu6": lambda x: np.clip(x, 0.0, 6.0),
    "sigmoid": _sigmoid,
    "tanh": np.tanh,
    "hsigmoid": lambda x: np.clip(x / 6.0 + 0.5, 0.0, 1.0),
    "hswish": lambda x: x * np.clip(x / 6.0 + 0.5, 0.0, 1.0),
    "silu": lambda x: x * _sigmoid(x),
    "gelu": lambda x: 0.5 * x * (1.0 + _erf(x / math.sqrt(2.0))),
    "gelu_tanh": lambda x: 0.5 * x * (1.0 + np.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3))),
    "quick_gelu": lambda x: x * _sigmoid(1.702 * x),
    "mish": lambda x: x * np.tanh(_softplus(x)),
    "softplus": _softplus,
    "softsign": lambda x: x / (1.0 + np.abs(x)),
    "elu": lambda x: np.where(x > 0.0, x, np.expm1(np.minimum(x, 0.0))),
    "selu": lambda x: 1.0507009873554805 * np.where(x > 0.0, x, 1.6732632423543772 * np.expm1(np.minimum(x, 0.0))),
}
#: How people write them, for messages.
WRITTEN = {"silu": "SiLU", "gelu": "GELU", "gelu_tanh": "GELU by tanh", "quick_gelu": "quick GELU", "elu": "ELU"} | {
    "selu": "SELU", "celu": "CELU", "prelu": "PReLU", "mish": "Mish", "hsigmoid": "hard sigmoid", "hswish": "hard swish",
    "hard_sigmoid": "hard sigmoid", "hard_swish": "hard swish",
}  # fmt: skip

#: Far out a bound may be, as in min(max(x, 0), 100), which is no ReLU; there exp overflows, and what is not finite is left out.
FAR = np.array([-1e5, -1e3, -1e2, 1e2, 1e3, 1e5])
GRID = np.concatenate([FAR, np.arange(-12.0, 12.0, 1 / 64), [-30.0, 30.0]])  #: numbers on which functions are compared
TOLERANCE = 5e-5  #: relative, of large ones: people write 0.16667, and GELU differs from its tanh by 5e-4
LONGEST = 16  #: operations that a spelled-out activation has at most


def recognised(program: Program) -> Program:
    """The same network with spelled-out activations as one operation each.

    The longest run that is an activation is taken, from the network's end to its beginning.

    Args:
        program: of a front end.

    Returns:
        The program.
    """
    runs = Runs(program, _is_elementwise)
    changed: dict[str, Operation] = {}
    gone: set[str] = set()
    for each in reversed(program.operations):
        if each.output not in gone and (found := _activation(runs, each)) is not None:
            changed[each.output], inner = found
            gone |= inner
    kept = [changed.get(each.output, each) for each in program.operations if each.output not in gone]
    return program.with_operations(kept)


class Runs:
    """Runs of operations of some kinds in one program.

    Attributes:
        made: the operations that give values, by these.
    """

    def __init__(self, program: Program, is_part: Callable[[Operation], bool]) -> None:
        self.made = {each.output: each for each in program.operations if is_part(each)}
        self.takers: dict[str, set[str]] = {name: {""} for name in program.outputs}
        for each in program.operations:
            for name in each.inputs:
                self.takers.setdefault(name, set()).add(each.output)

    def roots(self, each: Operation) -> list[str]:
        """The values in which a run that ends in an operation could begin, nearest first: it has at most ``LONGEST``."""
        found, front, steps = [], list(dict.fromkeys(each.inputs)), 0
        seen: set[str] = set()
        while front and steps < 2 * LONGEST:
            value = front.pop(0)
            steps += 1
            if value not in seen:
                seen.add(value)
                found.append(value)
                front += self.made[value].inputs if value in self.made else ()
        return found

    def between(self, root: str, each: Operation) -> set[str] | None:
        """The values from a root, without it, to an operation, with it; None: something else comes in, or leaves."""
        inside, front = {each.output}, list(each.inputs)
        while front:
            value = front.pop()
            if value == root or value in inside:
                continue
            if value not in self.made or len(inside) >= LONGEST:
                return None
            inside.add(value)
            front += self.made[value].inputs
        if any(not self.takers.get(value, set()) <= inside for value in inside - {each.output}):
            return None
        return inside


def _activation(runs: Runs, each: Operation) -> tuple[Operation, set[str]] | None:
    """The activation that ends in an operation, and the values inside of it; None: it ends none."""
    if each.output not in runs.made:
        return None
    for root in reversed(runs.roots(each)):
        inside = runs.between(root, each)
        if inside is None or len(inside) < 2:
            continue
        with np.errstate(all="ignore"):
            attributes = _name_of(_numbers(runs, each.output, {root: GRID}))
        if attributes is not None:
            found = {"spelled_out": True} | attributes
            operation = replace(each, kind="activation", inputs=(root,), attributes=found, constants={}, sources={})
            return operation, inside - {each.output}
    return None


def _numbers(runs: Runs, value: str, known: dict[str, Array]) -> Array:
    """What a value is where the root is the grid."""
    if value not in known:
        each = runs.made[value]
        known[value] = _computed(each, [_numbers(runs, name, known) for name in each.inputs])
    return known[value]


def _is_elementwise(each: Operation) -> bool:
    """Whether it computes each number of its output from the number there, in the same way everywhere."""
    if any(array.size != 1 for array in each.constants.values()):
        return False
    if each.kind == "activation":
        function = each.attributes["function"]
        parameters = each.attributes.keys() - {"function", "spelled_out"}
        return (function in TABLES or function in NAMED) and parameters <= PARAMETERS.get(function, {}).keys()
    return each.kind in ("add", "mul", "clip", "elementwise")


def _computed(each: Operation, inputs: Sequence[Array]) -> Array:
    """An operation in float64."""
    constants = [float(array.reshape(())) for array in each.constants.values()]
    attributes = each.attributes
    if each.kind in ("add", "mul"):
        both: list[Any] = [*inputs, *constants]
        return np.asarray(both[0] + both[1] if each.kind == "add" else both[0] * both[1])
    if each.kind == "clip":
        low, high = attributes["low"], attributes["high"]
        return np.clip(inputs[0], -math.inf if low is None else low, math.inf if high is None else high)
    function = attributes["function"]
    if each.kind == "elementwise":
        given = (*constants, *inputs) if attributes.get("constant_first") else (*inputs, *constants)
        return np.asarray(ELEMENTWISE[function](*given))
    if function in NAMED and "alpha" not in attributes:
        return NAMED[function](inputs[0])
    return np.asarray(apply_table(NUMPY_OPS, function, inputs[0], attributes))


def _name_of(y: Array) -> dict[str, Any] | None:
    """The attributes of the activation that has these numbers on the grid."""
    if not np.isfinite(y[len(FAR) :]).all():
        return None
    for name, function in NAMED.items():
        if _equal(y, function(GRID)):
            return {"function": name}
    if (slope := _hard_sigmoid(y)) is not None:
        return {"function": "hard_sigmoid", **slope}
    zero = GRID == 0.0
    gate = np.divide(y, GRID, out=np.zeros_like(y), where=~zero)
    gate[zero] = np.interp(0.0, GRID[~zero], gate[~zero])
    if (slope := _hard_sigmoid(gate)) is not None and _equal(y, GRID * gate):
        return {"function": "hard_swish", **slope}
    alpha = float(y[-2] / GRID[-2])
    if 0.0 < alpha < 1.0 and _equal(y, np.where(GRID > 0.0, GRID, alpha * GRID)):
        return {"function": "leaky_relu", "alpha": float(f"{alpha:.7g}")}
    return None


def _hard_sigmoid(y: Array) -> dict[str, float] | None:
    """Slope (alpha) and offset (beta) where y is clip(slope x + offset, 0, 1)."""
    inner = (y > 0.01) & (y < 0.99)
    if inner.sum() < 2 or abs(y[-1] - 1.0) > TOLERANCE or abs(y[-2]) > TOLERANCE:
        return None
    slope, offset = np.polyfit(GRID[inner], y[inner], 1)
    if slope <= 0.0 or not _equal(y, np.clip(slope * GRID + offset, 0.0, 1.0)):
        return None
    return {"alpha": float(f"{slope:.7g}"), "beta": float(f"{offset:.7g}")}


def _equal(a: Array, b: Array) -> bool:
    """Whether two functions are the same, as far as the first is finite."""
    return bool(((np.abs(a - b) <= TOLERANCE * np.maximum(1.0, np.abs(b))) | ~np.isfinite(a)).all())


def described(each: Operation) -> str:
    """An activation as people call it, for messages."""
    name = str(each.attributes["function"])
    slope = f" of slope {each.attributes['alpha']:g}" if name.startswith("hard_") else ""
    return f"{WRITTEN.get(name, name)}{slope}{', spelled out' if each.attributes.get('spelled_out') else ''}"
