"""GRU, LSTM and Bidirectional of Keras, whose values (N, L, C) are canonical (N, C, L, 1)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from qat.imports.sources.keras_calls import Call, Reader, Step, Steps, array_of, own_class, unknown
from qat.vocabulary.ops import Array

JOINED = {"concat": "concat", "sum": "add", "mul": "mul", "ave": "add"}  #: how both directions become one value


def _why_not(call: Call, layer: Any) -> str:
    """What a layer has that the cells do not compute; "": nothing."""
    cls = own_class(layer)
    if cls is None or cls.__name__ not in ("GRU", "LSTM"):
        return f"{call.name} of {type(layer).__name__}"
    usual = layer.activation is keras.activations.tanh and layer.recurrent_activation is keras.activations.sigmoid
    if not usual:
        names = (getattr(each, "__name__", each) for each in (layer.activation, layer.recurrent_activation))
        return f"{call.name} with the activations {' and '.join(map(str, names))}, not tanh and sigmoid"
    if layer.stateful or len(call.taken) > 1 or call.taken[0].rank != 3 or call.layout.channels_first:
        return f"{call.name} that is stateful, or gets states or a mask"
    return ""


def _constants(layer: Any, path: str) -> dict[str, tuple[str, Array]]:
    """The weights, as ``params_of`` takes those of Keras, with their names."""
    cell = layer.cell
    found = {"input_weight": "kernel", "state_weight": "recurrent_kernel"}
    constants = {local: (f"{path}{name}", array_of(getattr(cell, name))) for local, name in found.items()}
    if cell.use_bias:
        bias = array_of(cell.bias)
        rows = bias if bias.ndim == 2 else bias[None]
        constants |= {
            local: (f"{path}bias", row) for local, row in zip(("input_bias", "state_bias"), rows, strict=False)
        }
    return constants


def _states(call: Call, layer: Any, path: str, part: str, *, turned: bool = False) -> Steps:
    """The states of all steps, or the last one, as the layer gives them. turned: in the order of the steps in any case."""
    kind = type(layer).__name__.lower()
    _, length, _ = call.layout.shape(call.taken[0].sizes)
    features, units = call.taken[0].sizes[-1], layer.units
    reverse = bool(layer.go_backwards)
    options = {"layout": "keras", "units": units, "reverse": reverse, "axis": 1}
    options |= {"reset_after": bool(layer.reset_after)} if kind == "gru" else {}
    yield Step(
        "reshape",
        {"shape": (features, length)},
        inputs=(call.taken[0].name,),
        part=f"{part}series",
        shape=(features, length),
    )
    yield Step(kind, options, _constants(layer, path), part=f"{part}states", shape=(units, length))
    if not layer.return_sequences:
        last = {"axis": 2, "index": 0 if reverse else length - 1}
        yield Step("select", last, part=part, shape=(units,))
    elif reverse and not turned:  # Keras gives the states in the order in which it computed them
        rows = tuple(f"{part}{place}" for place in range(length))
        for place, row in enumerate(rows):
            yield Step(
                "select", {"axis": 2, "index": length - 1 - place}, inputs=(f"{part}states",), part=row, shape=(units,)
            )
        yield Step("stack", {"axis": 2}, inputs=rows, part=f"{part}stack", shape=(units, length))
        yield Step("reshape", {"shape": (units, length, 1)}, part=part, shape=(units, length, 1))
    else:
        yield Step("reshape", {"shape": (units, length, 1)}, part=part, shape=(units, length, 1))


def _one_way(call: Call) -> Steps:
    if why := _why_not(call, call.operation):
        yield unknown(why)
    else:
        yield from _states(call, call.operation, "cell/", "")


def _both_ways(call: Call) -> Steps:
    layer = call.operation
    ways = {"forward": layer.forward_layer, "backward": layer.backward_layer}
    why = next((why for each in ways.values() if (why := _why_not(call, each))), "")
    if why or layer.merge_mode not in JOINED:
        yield unknown(why or f"{call.name} with merge_mode {layer.merge_mode}")
        return
    for way, each in ways.items():
        yield from _states(call, each, f"{way}_layer/cell/", way, turned=True)
    kind = JOINED[layer.merge_mode]
    yield Step(kind, {"axis": 1} if kind == "concat" else {}, inputs=tuple(ways))
    if layer.merge_mode == "ave":
        yield Step("mul", {}, {"other": ("", np.float32(0.5).reshape(()))})


LAYERS: Mapping[str, Reader] = {"GRU": _one_way, "LSTM": _one_way, "Bidirectional": _both_ways}
