"""Writes the operations of an integer graph as an AIR file: a serialized ``ge.proto.ModelDef``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from qat import wire
from qat.targets.ascend.air.model import DTYPES, NCHW, SIGNATURES, VERSION, Descriptor, Operator
from qat.targets.ascend.lower import Step

#: The kind of a step -> the type of its operator.
TYPES = {
    "input": "Data",
    "cast": "Cast",
    "subtract": "Sub",
    "multiply": "Mul",
    "quantize": "AscendQuant",
    "conv2d": "Conv2D",
    "dense": "MatMulV2",
    "dequantize": "AscendDequant",
    "relu": "Relu",
    "clip": "ClipByValue",
    "max_pool": "MaxPool",  # MaxPoolV3 where it is padded
    "flatten": "Flatten",
    "add": "Add",
    "concat": "ConcatD",
}


def operators_of(steps: Sequence[Step], outputs: Sequence[str]) -> tuple[Operator, ...]:
    """The operators of the steps in order: each step's constants, then itself; at last what gathers the outputs."""
    made: dict[str, Operator] = {}
    inputs = 0

    def add(name: str, kind: str, sources: Sequence[str], gives: Sequence[Descriptor], **attributes: Any) -> None:
        takes = tuple(made[source].gives[0] for source in sources)
        made[name] = Operator(name, kind, tuple(sources), takes, tuple(gives), attributes)

    for step in _with_relu_flags(steps):
        constants = []
        for key, array in step.constants.items():
            constants.append(f"{step.name}/{key}")
            add(constants[-1], "Const", (), [Descriptor(array.dtype, array.shape)], value=array)
        kind, attributes = _form(step, inputs)
        inputs += step.kind == "input"
        gives = Descriptor(np.dtype(step.dtype), (1, *step.shape))
        add(step.name, kind, (*step.inputs, *constants), [gives], **attributes)
    add("net_output", "NetOutput", outputs, [])
    return tuple(made.values())


def _with_relu_flags(steps: Sequence[Step]) -> list[Step]:
    """Let AscendDequant do the ReLU that follows it."""
    dequantized = {step.name: step for step in steps if step.kind == "dequantize"}
    done = {step.inputs[0]: step.name for step in steps if step.kind == "relu" and step.inputs[0] in dequantized}
    result = []
    for step in steps:
        if step.name in done:
            step = replace(step, name=done[step.name], attributes={"relu": True})
        elif step.name in done.values():
            continue
        result.append(step)
    return result


def _form(step: Step, inputs: int) -> tuple[str, dict[str, Any]]:
    """The operator's type and those of its attributes whose values are not always the same.

    inputs: how many there were before.
    """
    given = step.attributes
    kind = TYPES[step.kind]
    own: dict[str, Any] = {}
    match step.kind:
        case "input":
            own = {"index": inputs}
        case "quantize":
            own = {"scale": given["scale"]}
        case "dequantize":
            own = {"relu_flag": given.get("relu", False)}
        case "conv2d":
            own = {
                "strides": [1, 1, *given["stride"]],
                "pads": list(given["padding"]),
                "dilations": [1, 1, *given["dilation"]],
                "groups": given["group"],
            }
        case "max_pool":
            own = {"ksize": [1, 1, *given["kernel"]], "strides": [1, 1, *given["stride"]]}
            if any(given["padding"]):
                kind, own = "MaxPoolV3", own | {"pads": list(given["padding"])}
        case "concat":
            own = {"N": len(step.inputs), "concat_dim": given["axis"]}
    fixed = {key: value for key, value in SIGNATURES[kind].attributes.items() if not callable(value)}
    return kind, fixed | own


def write_model(name: str, operators: Sequence[Operator], attributes: Mapping[str, bytes]) -> bytes:
    """The content of a file. attributes: of the model."""
    graph = wire.block(1, name)
    graph += b"".join(wire.block(4, f"{x.name}:0") for x in operators if x.type == "Data")
    graph += b"".join(wire.block(5, f"{name}:0") for name in operators[-1].inputs)
    graph += b"".join(wire.block(6, _write_operator(x, i)) for i, x in enumerate(operators))
    model = wire.block(1, name) + wire.integer(2, VERSION) + wire.block(7, graph)
    return model + b"".join(_write_entry(11, key, value) for key, value in attributes.items())


def _write_operator(operator: Operator, number: int) -> bytes:
    signature = SIGNATURES[operator.type]
    # Where data enter, an operator has an input too, which nothing in the graph feeds.
    entry = [wire.block(5, ""), wire.block(33, _write_descriptor(operator.gives[0]))] if operator.type == "Data" else []
    attributes = dict(operator.attributes) | signature.naming(len(operator.inputs))
    return b"".join(
        [
            wire.block(1, operator.name),
            wire.block(2, operator.type),
            *(wire.block(5, f"{name}:0") for name in operator.inputs),
            *entry,
            *(_write_entry(10, key, value) for key, value in attributes.items()),
            wire.integer(20, True),
            wire.integer(21, number),
            *(wire.block(33, _write_descriptor(x)) for x in operator.takes),
            *(wire.block(34, _write_descriptor(x)) for x in operator.gives),
        ]
    )


def _write_descriptor(descriptor: Descriptor, weight_size: int = 0) -> bytes:
    """A TensorDescriptor; weight_size: bytes of a constant's data."""
    # The other fields are left at their defaults, which are those of a tensor of fixed shape on the device.
    number = next(key for key, dtype in DTYPES.items() if dtype == descriptor.dtype)
    shape = b"".join(map(wire.varint, descriptor.shape))
    return b"".join(
        [
            wire.integer(2, number),
            wire.block(3, wire.block(1, shape) if shape else b""),
            wire.block(4, NCHW if len(descriptor.shape) == 4 else b"ND"),
            wire.integer(9, True) + wire.integer(11, weight_size) if weight_size else b"",
        ]
    )


def _write_entry(number: int, key: str, value: Any) -> bytes:
    """An entry of a map from names to AttrDef."""
    return wire.block(number, wire.block(1, key) + wire.block(2, _write_value(value)))


def _write_value(value: Any) -> bytes:
    """An AttrDef."""
    if isinstance(value, bool):
        return wire.integer(5, value)
    if isinstance(value, int):
        return wire.integer(3, value)
    if isinstance(value, float):
        return wire.real(4, value)
    if isinstance(value, bytes):
        return wire.block(2, value)
    if isinstance(value, list):
        if isinstance(value[0], bytes):
            return wire.block(1, b"".join(wire.block(2, x) for x in value) + wire.integer(20, 1))
        return wire.block(1, wire.block(3, b"".join(map(wire.varint, value))) + wire.integer(20, 2))
    data = np.ascontiguousarray(value).tobytes()
    descriptor = _write_descriptor(Descriptor(value.dtype, value.shape), len(data))
    return wire.block(12, wire.block(1, descriptor) + wire.block(2, data))
