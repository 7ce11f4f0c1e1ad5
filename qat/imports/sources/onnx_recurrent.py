"""GRU and LSTM of ONNX, whose values are (L, N, C), and (N, L, C) with layout=1."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from qat.imports.sources.places import FIRST, Place
from qat.imports.sources.steps import Call, Shape, Step
from qat.vocabulary.ops import Array

KINDS = {"GRU": ("gru", 3, ("Sigmoid", "Tanh")), "LSTM": ("lstm", 4, ("Sigmoid", "Tanh", "Tanh"))}
USUAL = {"hidden_size", "direction", "linear_before_reset", "layout", "activations", "input_forget"}


def why_not(call: Call, place: Place) -> str:
    """What a layer has that the cells do not compute; "": nothing. place: of the samples in what it takes."""
    _, gates, functions = KINDS[call.of]
    weights = call.constant(1), call.constant(2)
    layout, directions = int(call.options.get("layout", 0)), _directions(call)
    if len(call.shape()) != 3 or any(x is None or x.ndim != 3 or len(x) != len(directions) for x in weights):
        return f"{call.of} whose weights are computed, or of {len(call.shape())} axes"
    names = [
        x.decode("ascii", "replace") if isinstance(x, bytes) else str(x) for x in call.options.get("activations", ())
    ]
    if names not in ([], list(functions) * len(directions)) or call.options.get("input_forget", 0):
        return f"{call.of} with the activations {', '.join(names)}"
    if call.options.keys() - USUAL:
        return f"{call.of} with {', '.join(sorted(call.options.keys() - USUAL))}"
    if place != (FIRST if layout else Place(1)):
        return f"{call.of} of {call.shape()}, whose samples are along axis {place.axis}"
    length = call.shape()[1 if layout else 0]
    computed = [at for at in range(3, len(call.given)) if call.computed(at)]
    lengths = call.constant(4)
    zeros = all(not np.any(array) for at in (5, 6, 7) if (array := call.constant(at)) is not None)
    if computed or not zeros or (lengths is not None and (np.ravel(lengths) != length).any()):
        return f"{call.of} with states to begin with, lengths or peepholes"
    units = weights[1].shape[-1] if weights[1] is not None else 0
    sizes = [x.shape[1] == gates * units for x in weights if x is not None]
    return "" if all(sizes) and units else f"{call.of} whose weights do not fit"


def _directions(call: Call) -> tuple[str, ...]:
    found = call.options.get("direction", "forward")
    name = found.decode("ascii", "replace") if isinstance(found, bytes) else str(found)
    return ("forward", "reverse") if name == "bidirectional" else (name,)


def length_of(call: Call) -> int:
    """How many steps there are."""
    return call.shape()[1 if call.options.get("layout", 0) else 0]


def states(call: Call) -> dict[str, tuple[Step, Shape]]:
    """The states of all steps in each direction: (L, units) of a sample."""
    kind, _, _ = KINDS[call.of]
    found: dict[str, tuple[Step, Shape]] = {}
    for number, direction in enumerate(_directions(call)):
        weight, recurrent = call.given[1], call.given[2]
        assert weight is not None
        assert recurrent is not None
        constants: dict[str, Array] = {"input_weight": weight[number], "state_weight": recurrent[number]}
        sources = {"input_weight": call.names[1], "state_weight": call.names[2]}
        if (bias := call.constant(3)) is not None:
            constants["input_bias"], constants["state_bias"] = np.split(bias[number], 2)
            sources["input_bias"] = call.names[3]
        units = recurrent.shape[-1]
        options: dict[str, Any] = {"layout": "onnx", "units": units, "reverse": direction == "reverse", "axis": 0}
        options |= {"reset_after": bool(call.options.get("linear_before_reset", 0))} if kind == "gru" else {}
        named = {local: f"{source}[{number}]" for local, source in sources.items() if source}
        step = Step(kind, options, {local: np.asarray(x, np.float32) for local, x in constants.items()}, named)
        found[direction] = step, (length_of(call), units)
    return found


def result_place(call: Call, result: int) -> Place:
    """Where the samples are in a result: of Y, (L, D, N, units) or (N, L, D, units), or of Y_h."""
    return FIRST if call.options.get("layout", 0) else Place(2 if result == 0 else 1)


def joined(call: Call, result: int, names: Mapping[str, str]) -> list[tuple[str, list[Step], tuple[str, ...], Shape]]:
    """What makes a result of the directions' states: a name, steps, what they take and the shape of each.

    The last one is the result. names: of the states.
    """
    length = length_of(call)
    parts: list[tuple[str, list[Step], tuple[str, ...], Shape]] = []
    for direction, value in names.items():
        units = call.given[2].shape[-1] if call.given[2] is not None else 0
        if result == 0:
            shape: Shape = (length, 1, units)
            steps = [Step("reshape", {"shape": shape})]
        else:
            last = 0 if direction == "reverse" else length - 1
            steps = [Step("select", {"axis": 1, "index": last})]
            shape = (units,)
        parts.append((f"{value}/{result}", steps, (value,), shape))
    values = tuple(part[0] for part in parts)
    if result == 0:
        parts.append(("", [Step("concat", {"axis": 2})], values, (length, len(values), units)))
    else:
        parts.append(("", [Step("stack", {"axis": 1})], values, (len(values), units)))
    return parts
