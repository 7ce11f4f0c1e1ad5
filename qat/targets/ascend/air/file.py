"""Reads an AIR file and checks that everything in it fits together."""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from qat import wire
from qat.errors import QatError
from qat.names import check_stored
from qat.reading import read_file, reason_of
from qat.targets.ascend.air.model import DTYPES, ENTERING, SIGNATURES, VERSION, DamageError, Descriptor, Model, Operator
from qat.targets.ascend.air.run import compute
from qat.vocabulary.ops import Array


def load(path: str | Path) -> Model:
    """The model of a file. Raises QatError as ``parse``, and where the file cannot be read."""
    return parse(read_file(path, "give an exported .air file"), path)


def parse(content: bytes, path: str | Path) -> Model:
    """The model of a file. Raises QatError unless everything in it fits together."""
    try:
        model = _read_model(content)
        for number, operator in enumerate(model.operators):
            _check_operator(operator, {x.name: x for x in model.operators[:number]})
        _check_ends(model)
        _check_shapes(model)
        check_stored(path, (model.name, *(operator.name for operator in model.operators)))
    except (DamageError, ValueError, OverflowError) as error:
        reason = reason_of(error)
        raise QatError(f"{path}: is no AIR file of qat export, or a damaged one ({reason}); export it again") from None
    return model


def _read_model(content: bytes) -> Model:
    fields = wire.read(content)
    graphs = _blocks(fields, 7)
    if len(graphs) != 1 or fields.get(2) != [VERSION]:
        raise DamageError(f"it holds {len(graphs)} graphs, version {fields.get(2)}")
    graph = wire.read(graphs[0])
    operators = [_read_operator(wire.read(data), number) for number, data in enumerate(_blocks(graph, 6))]
    names = [operator.name for operator in operators]
    twice = next((name for name in names if names.count(name) > 1), None)
    if not names or twice is not None:
        raise DamageError(f"two operators are called {twice!r}" if names else "it has no operators")
    attributes = _read_map(fields, 11)
    if not all(isinstance(value, bytes) for value in attributes.values()):
        raise DamageError("an attribute of the model is no text")
    model = Model(_text(fields, 1), tuple(operators), attributes)
    ends = {4: [x.name for x in operators if x.type == "Data"], 5: model.outputs}
    for number, expected in ends.items():
        found = [str(data, "utf-8") for data in _blocks(graph, number)]
        if found != [f"{name}:0" for name in expected]:
            raise DamageError(f"the graph names {found} as its ends where its operators are {expected}")
    return model


def _read_operator(fields: wire.Fields, number: int) -> Operator:
    name, kind = _text(fields, 1), _text(fields, 2)
    if kind not in SIGNATURES:
        raise DamageError(f"operator {name!r} has type {kind!r}; known are {', '.join(SIGNATURES)}")
    if fields.get(21, [0]) != [number]:
        raise DamageError(f"operator {name!r} has id {fields.get(21)} in place {number}")
    takes, gives = (tuple(_read_descriptor(wire.read(x)) for x in _blocks(fields, number)) for number in (33, 34))
    sources = _blocks(fields, 5)
    if kind == "Data":
        if sources != [b""] or takes != gives:
            raise DamageError(f"operator {name!r} (Data) does not give what it is described to take")
        sources, takes = [], ()
    edges = []
    for data in sources:
        source, colon, port = str(data, "utf-8").rpartition(":")
        if not colon or port != "0":
            raise DamageError(f"operator {name!r} takes {str(data, 'utf-8')!r}, which is no output 0 of an operator")
        edges.append(source)
    attributes = _read_map(fields, 10)
    for key, expected in SIGNATURES[kind].naming(len(edges)).items():
        if attributes.pop(key, None) != expected:
            raise DamageError(f"operator {name!r} has another {key} than {expected}")
    return Operator(name, kind, tuple(edges), takes, gives, attributes)


def _read_descriptor(fields: wire.Fields) -> Descriptor:
    (dtype,) = fields.get(2, [0])
    if not isinstance(dtype, int) or dtype not in DTYPES:
        raise DamageError(f"a tensor has type {dtype!r}, known are {', '.join(map(str, DTYPES))}")
    (shape,) = _blocks(fields, 3) or [b""]
    sizes = [size for data in _blocks(wire.read(shape), 1) for size in wire.integers(data)]
    if any(size < 1 for size in sizes) or math.prod(sizes) > 1 << 31:
        raise DamageError(f"a tensor has shape {sizes}")
    return Descriptor(DTYPES[dtype], tuple(sizes))


def _read_map(fields: wire.Fields, number: int) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for data in _blocks(fields, number):
        entry = wire.read(data)
        key = _text(entry, 1)
        (value,) = _blocks(entry, 2) or [b""]
        if key in result:
            raise DamageError(f"attribute {key!r} stands twice")
        result[key] = _read_value(key, wire.read(value))
    return result


def _read_value(key: str, fields: wire.Fields) -> Any:
    if len(fields) != 1 or len(next(iter(fields.values()))) != 1:
        raise DamageError(f"attribute {key!r} has {len(fields)} values")
    ((number, (value,)),) = fields.items()
    if isinstance(value, int) and number in (3, 5):
        return bool(value) if number == 5 else wire.signed(value)
    if isinstance(value, bytes):
        if number == 2:
            return value
        if number == 4 and len(value) == 4:
            return float(struct.unpack("<f", value)[0])
        if number == 1:
            items = wire.read(value)
            return _blocks(items, 2) or [x for data in _blocks(items, 3) for x in wire.integers(data)]
        if number == 12:
            return _read_tensor(key, wire.read(value))
    raise DamageError(f"attribute {key!r} has a value of kind {number}, which none has")


def _read_tensor(key: str, fields: wire.Fields) -> Array:
    described, data = _blocks(fields, 1), _blocks(fields, 2)
    if len(described) != 1 or len(data) != 1:
        raise DamageError(f"tensor {key!r} has {len(described)} descriptions and {len(data)} contents")
    dtype, shape = _read_descriptor(wire.read(described[0]))
    if len(data[0]) != math.prod(shape) * dtype.itemsize:
        raise DamageError(f"tensor {key!r} of {dtype.name} {shape} has {len(data[0])} bytes")
    return np.frombuffer(data[0], dtype).reshape(shape)


def _blocks(fields: wire.Fields, number: int) -> list[bytes]:
    values = fields.get(number, [])
    found = [value for value in values if isinstance(value, bytes)]
    if len(found) != len(values):
        raise DamageError(f"field {number} is a number where text or a message is expected")
    return found


def _text(fields: wire.Fields, number: int) -> str:
    values = _blocks(fields, number)
    if len(values) != 1 or not values[0]:
        raise DamageError(f"field {number} stands {len(values)} times, or is empty, where a name is expected")
    return str(values[0], "utf-8")


def _check_operator(operator: Operator, before: Mapping[str, Operator]) -> None:
    """Raise DamageError unless inputs, types and attributes are those of its signature."""
    signature, who = SIGNATURES[operator.type], f"operator {operator.name!r} ({operator.type})"
    kinds = signature.inputs * (len(operator.inputs) if signature.many else 1)
    if len(operator.inputs) != len(kinds) or len(operator.takes) != len(kinds) or (signature.many and not kinds):
        raise DamageError(f"{who} has {len(operator.inputs)} inputs and {len(operator.takes)} descriptions of them")
    for source, described, (name, dtype) in zip(operator.inputs, operator.takes, kinds, strict=True):
        if source not in before:
            raise DamageError(f"{who} takes {source!r}, which is no operator before it")
        if before[source].gives != (described,):
            given = ", ".join(map(str, before[source].gives)) or "nothing"
            raise DamageError(f"{who} takes {described} where {source!r} gives {given}")
        if dtype not in (None, described.dtype):
            raise DamageError(f"{who} takes {described.dtype.name} as {name}, which is {dtype}")
    if len(operator.gives) != (operator.type != "NetOutput"):
        raise DamageError(f"{who} describes {len(operator.gives)} outputs")
    if signature.output is not None and operator.gives[0].dtype != signature.output:
        raise DamageError(f"{who} gives {operator.gives[0].dtype.name}, not {signature.output.name}")
    if operator.attributes.keys() != signature.attributes.keys():
        raise DamageError(f"{who} has attributes {sorted(operator.attributes)}, not {sorted(signature.attributes)}")
    for key, expected in signature.attributes.items():
        value = operator.attributes[key]
        fits = expected(value) if callable(expected) else type(value) is type(expected) and value == expected
        if not fits:
            raise DamageError(f"{who} has {key} {value!r}, which is out of place")


def _check_ends(model: Model) -> None:
    kinds = [operator.type for operator in model.operators]
    if kinds.count("NetOutput") != 1 or kinds[-1] != "NetOutput":
        raise DamageError("its last operator is no NetOutput, or there are several")
    numbers = [operator.attributes["index"] for operator in model.inputs]
    if not numbers or numbers != list(range(len(numbers))):
        raise DamageError(f"its inputs are numbered {numbers}")
    for operator in model.inputs:
        if operator.gives[0].dtype not in ENTERING or operator.gives[0].shape[:1] != (1,):
            raise DamageError(
                f"its input {operator.name!r} is {operator.gives[0]}, not one sample of what networks take"
            )


def _check_shapes(model: Model) -> None:
    """Raise DamageError unless every operator gives what its description says: they are run on no image at all."""
    values = {x.name: np.zeros((0, *x.gives[0].shape[1:]), x.gives[0].dtype) for x in model.inputs}
    for operator in model.operators[:-1]:
        described, batch = operator.gives[0], () if operator.type == "Const" else (1,)
        if operator.name not in values:
            try:
                with np.errstate(all="ignore"):
                    values[operator.name] = compute(operator, [values[name] for name in operator.inputs])
            except Exception as error:  # whatever NumPy makes of sizes that do not fit
                raise DamageError(f"operator {operator.name!r} ({operator.type}): {error}") from None
        made = values[operator.name]
        found = Descriptor(made.dtype, batch + made.shape[len(batch) :])
        if found != described:
            raise DamageError(f"operator {operator.name!r} gives {found}, but is described as {described}")
