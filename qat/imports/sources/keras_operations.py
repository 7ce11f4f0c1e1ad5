"""What each operation of keras.ops computes, as functional models record them: plain operations, channels first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from qat.imports.sources import keras_layers as layers
from qat.imports.sources.keras_calls import Call, Reader, Step, Steps, Value, unknown


def _arithmetic(kind: str) -> Reader:
    """+, -, x and / of keras.ops: of two values, or of one and a constant on either side."""

    def read(call: Call) -> Steps:
        left, right = call.arguments[:2]
        if isinstance(left, Value) and isinstance(right, Value):
            both = {"add": layers.total, "mul": layers.product}.get(kind)
            yield from both(call) if both else iter([unknown(f"{call.name} of two values")])
        elif kind == "div" and isinstance(right, Value):
            yield unknown(f"{call.name} by a value")
        else:
            number = np.asarray(keras.ops.convert_to_numpy(right if isinstance(left, Value) else left), np.float64)
            if kind == "sub" and isinstance(right, Value):
                yield from layers.affine(call, ("mul", "", -1.0), ("add", "", number))
            elif kind in ("sub", "div"):
                yield from layers.affine(call, ("add", "", -number) if kind == "sub" else ("mul", "", 1.0 / number))
            else:
                yield from layers.affine(call, (kind, "", number))

    return read


def _mean(call: Call) -> Steps:
    operation, (x,) = call.operation, call.taken
    axes = range(1, x.rank) if operation.axis is None else operation.axis
    found = tuple(sorted(call.layout.axis(axis, x.rank) for axis in axes))
    if x.rank == 3 and found == (2,):
        found = (2, 3)
    if found == (2, 3) and operation.axis is not None:
        yield Step("mean", {"axes": found, "keepdims": bool(operation.keepdims)})
    else:
        yield unknown(f"mean over axes {operation.axis} of {x.rank}")


def _bounds(call: Call, low: Any, high: Any) -> Steps:
    numbers = [each for each in (low, high) if each is not None]
    if any(isinstance(each, Value) or np.size(each) != 1 for each in numbers):
        yield unknown(f"{call.name} of two values")
    else:
        yield Step("clip", {"low": None if low is None else float(low), "high": None if high is None else float(high)})


def _bound(low: bool) -> Reader:
    def read(call: Call) -> Steps:
        left, right = call.arguments[:2]
        other = right if isinstance(left, Value) else left
        yield from _bounds(call, other if low else None, None if low else other)

    return read


def _pad(call: Call) -> Steps:
    operation, rank = call.operation, call.taken[0].rank
    widths = [tuple(each) for each in operation.pad_width]
    widths = widths * rank if len(widths) == 1 else widths
    value = call.arguments[1] if len(call.arguments) > 1 else None
    placed = {call.layout.axis(axis, rank): width for axis, width in enumerate(widths)}
    if (
        rank not in (3, 4)
        or operation.mode != "constant"
        or any(map(any, (placed[0], placed[1])))
        or value not in (None, 0)
    ):
        yield unknown(f"Pad of mode {operation.mode}, widths {operation.pad_width} and value {value}")
    else:
        yield Step("pad", {"widths": (*(placed[axis] for axis in range(rank)), (0, 0))[:4], "value": 0.0})


def _named(name: str) -> Reader:
    """An activation function of keras.ops with no options."""
    return lambda call: iter([layers.function_of(name) or unknown(f"activation {name}")])


OPERATIONS: Mapping[str, Reader] = {
    "Add": _arithmetic("add"),
    "Subtract": _arithmetic("sub"),
    "Multiply": _arithmetic("mul"),
    "Divide": _arithmetic("div"),
    "TrueDivide": _arithmetic("div"),
    "Negative": lambda call: layers.affine(call, ("mul", "", -1.0)),
    "Mean": _mean,
    "Clip": lambda call: _bounds(call, call.operation.x_min, call.operation.x_max),
    "Maximum": _bound(low=True),
    "Minimum": _bound(low=False),
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
    **dict.fromkeys(("Reshape", "ExpandDims", "Squeeze"), layers.reshape),
    "Pad": _pad,
    "MaxPool": layers.pool("max_pool2d"),
    "AveragePool": layers.pool("avg_pool2d"),
}
