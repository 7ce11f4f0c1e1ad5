"""What each operation of keras.ops computes, as functional models record them: plain operations, channels first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from qat.imports.sources import keras_layers as layers
from qat.imports.sources import keras_moves
from qat.imports.sources.keras_calls import Call, Reader, Step, Steps, Value, unknown


def _arithmetic(kind: str) -> Reader:
    """+, -, x and / of keras.ops: of two values, or of one and a constant on either side."""

    def read(call: Call) -> Steps:
        left, right = call.arguments[:2]
        if isinstance(left, Value) and isinstance(right, Value):
            yield from _elementwise(kind)(call) if kind == "div" else layers.joined(kind)(call)
        elif kind == "div" and isinstance(right, Value):
            yield from _elementwise(kind)(call)
        else:
            number = np.asarray(keras.ops.convert_to_numpy(right if isinstance(left, Value) else left), np.float64)
            if kind == "sub" and isinstance(right, Value):
                yield from layers.affine(call, ("mul", -1.0), ("add", number))
            elif kind in ("sub", "div"):
                yield from layers.affine(call, ("add", -number) if kind == "sub" else ("mul", 1.0 / number))
            else:
                yield from layers.affine(call, (kind, number))

    return read


def _elementwise(function: str) -> Reader:
    """What is computed of single numbers and has no cell, but may be a part of a spelled-out activation."""

    def read(call: Call) -> Steps:
        numbers = [each for each in call.arguments if not isinstance(each, Value) and each is not None]
        if any(np.size(each) != 1 for each in numbers) or any(each.sizes != call.given for each in call.taken):
            yield unknown(f"{call.name} of different shapes")
            return
        constants = {"other": ("", np.asarray(numbers[0], np.float32).reshape(()))} if numbers else {}
        first = bool(numbers) and not isinstance(call.arguments[0], Value)
        yield Step("elementwise", {"function": function} | ({"constant_first": True} if first else {}), constants)

    return read


def _bounds(low: Any, high: Any) -> Step:
    return Step("clip", {"low": None if low is None else float(low), "high": None if high is None else float(high)})


def _bound(function: str) -> Reader:
    """The larger or smaller one of two values, or of a value and a number: a clip."""

    def read(call: Call) -> Steps:
        numbers = [each for each in call.arguments if not isinstance(each, Value)]
        if numbers and np.size(numbers[0]) == 1:
            yield _bounds(*((numbers[0], None) if function == "maximum" else (None, numbers[0])))
        elif numbers:
            yield from _elementwise(function)(call)
        else:
            yield from layers.joined(function)(call)

    return read


def _clip(call: Call) -> Steps:
    low, high = call.operation.x_min, call.operation.x_max
    if any(np.size(each) != 1 for each in (low, high) if each is not None):
        yield unknown("Clip to an array")
    else:
        yield _bounds(low, high)


def _pad(call: Call) -> Steps:
    operation, rank = call.operation, call.taken[0].rank
    widths = list(operation.pad_width)
    value = call.arguments[1] if len(call.arguments) > 1 else None
    if value is not None and np.size(value) != 1:
        yield unknown("Pad with several values")
    else:
        yield from keras_moves.padded(
            call, widths * rank if len(widths) == 1 else widths, float(value or 0.0), operation.mode
        )


def _named(name: str) -> Reader:
    """An activation function of keras.ops with no options."""
    return lambda call: iter([layers.function_of(name) or unknown(f"activation {name}")])


OPERATIONS: Mapping[str, Reader] = {
    "Add": _arithmetic("add"),
    "Subtract": _arithmetic("sub"),
    "Multiply": _arithmetic("mul"),
    "Divide": _arithmetic("div"),
    "TrueDivide": _arithmetic("div"),
    "Negative": lambda call: layers.affine(call, ("mul", -1.0)),
    **keras_moves.OPERATIONS,
    "Clip": _clip,
    "Maximum": _bound("maximum"),
    "Minimum": _bound("minimum"),
    **{
        name: _elementwise(function)
        for name, function in {
            "Power": "pow",
            "Exp": "exp",
            "Log": "log",
            "Log1p": "log1p",
            "Sqrt": "sqrt",
            "Square": "square",
            "Reciprocal": "reciprocal",
            "Absolute": "abs",
            "Erf": "erf",
        }.items()
    },
    "Relu": _named("relu"),
    "Relu6": _named("relu6"),
    "HardTanh": _named("hard_tanh"),
    "Sigmoid": _named("sigmoid"),
    "Tanh": _named("tanh"),
    "Silu": _named("silu"),
    "HardSigmoid": _named("hard_sigmoid"),
    "HardSilu": _named("hard_silu"),
    "Mish": _named("mish"),
    "Softplus": _named("softplus"),
    "Softsign": _named("softsign"),
    "Selu": _named("selu"),
    "Elu": lambda call: iter([layers.elu(call.operation.alpha)]),
    "Gelu": lambda call: iter(
        [Step("activation", {"function": "gelu_tanh" if call.operation.approximate else "gelu"})]
    ),
    "LeakyRelu": lambda call: iter([layers.relu("LeakyRelu", call.operation.negative_slope, None, 0.0)]),
    "Softmax": lambda call: layers.softmax(call, call.operation.axis),
    "Concatenate": layers.concatenate,
    "Pad": _pad,
    "MaxPool": layers.pool("max_pool2d"),
    "AveragePool": layers.pool("avg_pool2d"),
}
