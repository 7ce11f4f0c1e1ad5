"""AIR, the form that Ascend's offline compiler takes from MindSpore, written and checked on any host.

The file is a serialized ``ge.proto.ModelDef``: one graph of operators ("Data", "Conv2D", ...), each naming its inputs as
"operator:port" and describing every tensor. It takes raw uint8 pixels, (1, C, H, W), and returns real numbers, float32.
``predict`` runs the parsed file in NumPy (lower.py), over any number of images.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from qat.deploy import wire
from qat.errors import QatError
from qat.files import write_atomically
from qat.integer import IntegerGraph, IntegerTensor, Shape
from qat.names import check_stored
from qat.reading import read_file, reason_of
from qat.registry import TARGETS
from qat.targets.ascend import lower as ascend
from qat.targets.ascend.lower import Step
from qat.vocabulary.arrays import Arrays, as_arrays, in_batches
from qat.vocabulary.ops import Array, Padding

NAME = "AIR"  #: under which ``qat.target`` knows it
SUFFIX, OPTIONS = TARGETS[NAME].suffix, TARGETS[NAME].options
ARITHMETICS: tuple[str, ...] = ("float",)
RUNS_CODE = False
BATCH = 128  #: images at a time
VERSION = 1  #: of ModelDef
METADATA = "qat."  #: before our keys in the model's attributes
NCHW = b"NCHW"
#: ge.proto.DataType, in descriptors. Integer attributes have another numbering: CAST_TO.
DTYPES = {1: np.dtype("<f4"), 3: np.dtype("i1"), 4: np.dtype("u1"), 7: np.dtype("<i4"), 10: np.dtype("<u8")}
FLOAT, INT8, INT32, UINT64 = (np.dtype(name) for name in ("<f4", "i1", "<i4", "<u8"))
CAST_TO_FLOAT, CAST_TO_INT8 = 0, 2


def export(graph: IntegerGraph, path: str | Path) -> None:
    """Write the file, checked. Raises QatError, naming the node, where the graph does not keep to the profile."""
    steps = ascend.lower(graph, "AIR")
    content = _write_model(graph.name, _operators(steps, ascend.names("output", len(graph.outputs))), {})
    _parse(content, path)
    write_atomically(path, content)


def write_metadata(path: str | Path, metadata: Mapping[str, str]) -> None:
    """Set attributes of the model, each behind "qat."; nothing else in the file changes."""
    model = _load(path)
    attributes = model.attributes | {METADATA + key: value.encode() for key, value in metadata.items()}
    write_atomically(path, _write_model(model.name, model.operators, attributes))


def input_shapes(path: str | Path) -> list[Shape]:
    """The shapes of its inputs, (C, H, W) or (F,)."""
    return _shapes(_load(path))


def predict(path: str | Path, pixels: Arrays) -> Arrays:
    """Real outputs (N, ...) of raw pixels (N, C, H, W), emulated; tuples of them where there are several."""
    model = _load(path)
    found = _infer(path, model, model.outputs, pixels)
    return as_arrays(tuple(found[name] for name in model.outputs))


def trace(path: str | Path, pixels: Arrays, tensors: Collection[IntegerTensor]) -> dict[str, Array]:
    """Codes of the named tensors, as far as the file computes them."""
    model = _load(path)
    names = ascend.tensors_of(tensors, {operator.name for operator in model.operators})
    found = _infer(path, model, list(names.values()), pixels) if names else {}
    return {x.name: ascend.codes_of(found[names[x.name]], x.grid) for x in tensors if x.name in names}


def runtime() -> str:
    """What ``predict`` runs in."""
    return f"AIR: structure validated, execution emulated in NumPy {np.__version__}; not run on an Ascend"


# -- what a file holds ------------------------------------------------------------------------------------------------


class Descriptor(NamedTuple):
    """Type and shape of a tensor; the first of its sizes is a batch of 1, except for constants."""

    dtype: np.dtype[Any]
    shape: Shape

    def __str__(self) -> str:
        return f"{self.dtype.name} {list(self.shape)}"


@dataclass(frozen=True, eq=False)
class Operator:
    """One operator with one output. inputs: names of operators. attributes: bytes, int, float, bool, lists, an array."""

    name: str
    type: str
    inputs: tuple[str, ...]
    takes: tuple[Descriptor, ...]
    gives: tuple[Descriptor, ...]  #: one; none for the operator that gathers the outputs
    attributes: Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Model:
    """A checked file."""

    name: str
    operators: tuple[Operator, ...]
    attributes: dict[str, bytes]

    @property
    def inputs(self) -> list[Operator]:
        return sorted((x for x in self.operators if x.type == "Data"), key=lambda x: int(x.attributes["index"]))

    @property
    def outputs(self) -> list[str]:
        return list(self.operators[-1].inputs)


@dataclass(frozen=True)
class Signature:
    """How an operator must look.

    inputs: name and type of each (None: any); ``many``: any number of one kind, "x0", "x1", ... output: its type, None for
    any. attributes: what each must be, or a test of it. optional: inputs that it has and we leave out.
    """

    inputs: tuple[tuple[str, np.dtype[Any] | None], ...] = ()
    output: np.dtype[Any] | None = None
    attributes: Mapping[str, Any] = field(default_factory=dict)
    optional: tuple[bytes, ...] = ()
    many: bool = False

    def naming(self, count: int) -> dict[str, list[Any]]:
        """The attributes that tell so many inputs apart. The one input or output of an operator needs no telling: Ascend's
        registry of operators has its name."""
        if count < 2:
            return {}
        names = {"_input_name_key": self._names(count), "_input_name_value": list(range(count))}
        return names | ({"_opt_input": list(self.optional)} if self.optional else {})

    def _names(self, count: int) -> list[bytes]:
        """What the operator calls its inputs."""
        if self.many:
            return [f"{self.inputs[0][0]}{i}".encode() for i in range(count)]
        return [name.encode() for name, _ in self.inputs]


def _is(kind: type) -> Callable[[Any], bool]:
    return lambda value: type(value) is kind


def _sizes(value: Any) -> bool:
    """[1, 1, height, width]"""
    return isinstance(value, list) and len(value) == 4 and value[:2] == [1, 1] and min(value) >= 1


def _pads(value: Any) -> bool:
    """[top, bottom, left, right]"""
    return isinstance(value, list) and len(value) == 4 and min(value) >= 0


def _positive(value: Any) -> bool:
    return type(value) is int and value >= 1


def _binary() -> Signature:
    return Signature((("x1", FLOAT), ("x2", FLOAT)), FLOAT)


SIGNATURES = {
    "Data": Signature(attributes={"index": lambda value: type(value) is int and value >= 0}),
    "Const": Signature(attributes={"value": _is(np.ndarray)}),
    "Cast": Signature((("x", None),), FLOAT, {"dst_type": CAST_TO_FLOAT}),
    "Sub": _binary(),
    "Mul": _binary(),
    "Add": _binary(),
    "AscendQuant": Signature(
        (("x", FLOAT),),
        INT8,
        {
            "scale": lambda value: type(value) is float and 0.0 < value < math.inf,
            "offset": 0.0,
            "sqrt_mode": False,
            "round_mode": b"Round",
            "dst_type": CAST_TO_INT8,
        },
    ),
    "AscendDequant": Signature(
        (("x", INT32), ("deq_scale", UINT64)),
        FLOAT,
        {"sqrt_mode": False, "relu_flag": _is(bool), "dtype": CAST_TO_FLOAT},
    ),
    "Conv2D": Signature(
        (("x", INT8), ("filter", INT8), ("bias", INT32)),
        INT32,
        {
            "strides": _sizes,
            "pads": _pads,
            "dilations": _sizes,
            "groups": _positive,
            "data_format": NCHW,
            "offset_x": 0,
        },
        optional=(b"bias", b"offset_w"),
    ),
    "MatMulV2": Signature(
        (("x1", INT8), ("x2", INT8), ("bias", INT32)),
        INT32,
        {"transpose_x1": False, "transpose_x2": True, "offset_x": 0},
        optional=(b"bias", b"offset_w"),
    ),
    "Relu": Signature((("x", FLOAT),), FLOAT),
    "ClipByValue": Signature((("x", FLOAT), ("clip_value_min", FLOAT), ("clip_value_max", FLOAT)), FLOAT),
    "MaxPool": Signature(
        (("x", FLOAT),), FLOAT, {"ksize": _sizes, "strides": _sizes, "padding": b"VALID", "data_format": NCHW}
    ),
    "MaxPoolV3": Signature(
        (("x", FLOAT),),
        FLOAT,
        {
            "ksize": _sizes,
            "strides": _sizes,
            "padding_mode": b"CALCULATED",
            "pads": _pads,
            "data_format": NCHW,
            "global_pooling": False,
            "ceil_mode": False,
        },
    ),
    "Flatten": Signature((("x", INT8),), INT8, {"axis": 1}),
    "ConcatD": Signature((("x", INT8),), INT8, {"concat_dim": 1, "N": _positive}, many=True),
    "NetOutput": Signature((("x", FLOAT),), many=True),
}


# -- writing ----------------------------------------------------------------------------------------------------------


def _operators(steps: Sequence[Step], outputs: Sequence[str]) -> tuple[Operator, ...]:
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
    match step.kind:
        case "input":
            kind, own = "Data", {"index": inputs}
        case "quantize":
            kind, own = "AscendQuant", {"scale": given["scale"]}
        case "dequantize":
            kind, own = "AscendDequant", {"relu_flag": given.get("relu", False)}
        case "conv2d":
            kind, own = (
                "Conv2D",
                {
                    "strides": [1, 1, *given["stride"]],
                    "pads": list(given["padding"]),
                    "dilations": [1, 1, *given["dilation"]],
                    "groups": given["group"],
                },
            )
        case "max_pool":
            kind, own = "MaxPool", {"ksize": [1, 1, *given["kernel"]], "strides": [1, 1, *given["stride"]]}
            if any(given["padding"]):
                kind, own = "MaxPoolV3", own | {"pads": list(given["padding"])}
        case "concat":
            kind, own = "ConcatD", {"N": len(step.inputs)}
        case other:
            own = {}
            kind = {
                "cast": "Cast",
                "subtract": "Sub",
                "multiply": "Mul",
                "dense": "MatMulV2",
                "relu": "Relu",
                "clip": "ClipByValue",
                "flatten": "Flatten",
                "add": "Add",
            }[other]
    fixed = {key: value for key, value in SIGNATURES[kind].attributes.items() if not callable(value)}
    return kind, fixed | own


def _write_model(name: str, operators: Sequence[Operator], attributes: Mapping[str, bytes]) -> bytes:
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


# -- reading and checking ---------------------------------------------------------------------------------------------


class _DamageError(Exception):
    """What is wrong with a file."""


def _load(path: str | Path) -> Model:
    return _parse(read_file(path, "give an exported .air file"), path)


def _parse(content: bytes, path: str | Path) -> Model:
    """The model of a file. Raises QatError unless everything in it fits together."""
    try:
        model = _read_model(content)
        for number, operator in enumerate(model.operators):
            _check_operator(operator, {x.name: x for x in model.operators[:number]})
        _check_ends(model)
        _check_shapes(model)
        check_stored(path, (model.name, *(operator.name for operator in model.operators)))
    except (_DamageError, ValueError, OverflowError) as error:
        reason = reason_of(error)
        raise QatError(f"{path}: is no AIR file of qat export, or a damaged one ({reason}); export it again") from None
    return model


def _read_model(content: bytes) -> Model:
    fields = wire.read(content)
    graphs = _blocks(fields, 7)
    if len(graphs) != 1 or fields.get(2) != [VERSION]:
        raise _DamageError(f"it holds {len(graphs)} graphs, version {fields.get(2)}")
    graph = wire.read(graphs[0])
    operators = [_read_operator(wire.read(data), number) for number, data in enumerate(_blocks(graph, 6))]
    names = [operator.name for operator in operators]
    twice = next((name for name in names if names.count(name) > 1), None)
    if not names or twice is not None:
        raise _DamageError(f"two operators are called {twice!r}" if names else "it has no operators")
    attributes = _read_map(fields, 11)
    if not all(isinstance(value, bytes) for value in attributes.values()):
        raise _DamageError("an attribute of the model is no text")
    model = Model(_text(fields, 1), tuple(operators), attributes)
    ends = {4: [x.name for x in operators if x.type == "Data"], 5: model.outputs}
    for number, expected in ends.items():
        found = [str(data, "utf-8") for data in _blocks(graph, number)]
        if found != [f"{name}:0" for name in expected]:
            raise _DamageError(f"the graph names {found} as its ends where its operators are {expected}")
    return model


def _read_operator(fields: wire.Fields, number: int) -> Operator:
    name, kind = _text(fields, 1), _text(fields, 2)
    if kind not in SIGNATURES:
        raise _DamageError(f"operator {name!r} has type {kind!r}; known are {', '.join(SIGNATURES)}")
    if fields.get(21, [0]) != [number]:
        raise _DamageError(f"operator {name!r} has id {fields.get(21)} in place {number}")
    takes, gives = (tuple(_read_descriptor(wire.read(x)) for x in _blocks(fields, number)) for number in (33, 34))
    sources = _blocks(fields, 5)
    if kind == "Data":
        if sources != [b""] or takes != gives:
            raise _DamageError(f"operator {name!r} (Data) does not give what it is described to take")
        sources, takes = [], ()
    edges = []
    for data in sources:
        source, colon, port = str(data, "utf-8").rpartition(":")
        if not colon or port != "0":
            raise _DamageError(f"operator {name!r} takes {str(data, 'utf-8')!r}, which is no output 0 of an operator")
        edges.append(source)
    attributes = _read_map(fields, 10)
    for key, expected in SIGNATURES[kind].naming(len(edges)).items():
        if attributes.pop(key, None) != expected:
            raise _DamageError(f"operator {name!r} has another {key} than {expected}")
    return Operator(name, kind, tuple(edges), takes, gives, attributes)


def _read_descriptor(fields: wire.Fields) -> Descriptor:
    (dtype,) = fields.get(2, [0])
    if not isinstance(dtype, int) or dtype not in DTYPES:
        raise _DamageError(f"a tensor has type {dtype}, known are {', '.join(map(str, DTYPES))}")
    (shape,) = _blocks(fields, 3) or [b""]
    sizes = [size for data in _blocks(wire.read(shape), 1) for size in wire.integers(data)]
    if any(size < 1 for size in sizes) or math.prod(sizes) > 1 << 31:
        raise _DamageError(f"a tensor has shape {sizes}")
    return Descriptor(DTYPES[dtype], tuple(sizes))


def _read_map(fields: wire.Fields, number: int) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for data in _blocks(fields, number):
        entry = wire.read(data)
        key = _text(entry, 1)
        (value,) = _blocks(entry, 2) or [b""]
        if key in result:
            raise _DamageError(f"attribute {key!r} stands twice")
        result[key] = _read_value(key, wire.read(value))
    return result


def _read_value(key: str, fields: wire.Fields) -> Any:
    if len(fields) != 1 or len(next(iter(fields.values()))) != 1:
        raise _DamageError(f"attribute {key!r} has {len(fields)} values")
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
    raise _DamageError(f"attribute {key!r} has a value of kind {number}, which none has")


def _read_tensor(key: str, fields: wire.Fields) -> Array:
    described, data = _blocks(fields, 1), _blocks(fields, 2)
    if len(described) != 1 or len(data) != 1:
        raise _DamageError(f"tensor {key!r} has {len(described)} descriptions and {len(data)} contents")
    dtype, shape = _read_descriptor(wire.read(described[0]))
    if len(data[0]) != math.prod(shape) * dtype.itemsize:
        raise _DamageError(f"tensor {key!r} of {dtype.name} {shape} has {len(data[0])} bytes")
    return np.frombuffer(data[0], dtype).reshape(shape)


def _blocks(fields: wire.Fields, number: int) -> list[bytes]:
    values = fields.get(number, [])
    if not all(isinstance(value, bytes) for value in values):
        raise _DamageError(f"field {number} is a number where text or a message is expected")
    return [bytes(value) for value in values]  # type: ignore[arg-type]


def _text(fields: wire.Fields, number: int) -> str:
    values = _blocks(fields, number)
    if len(values) != 1 or not values[0]:
        raise _DamageError(f"field {number} stands {len(values)} times, or is empty, where a name is expected")
    return str(values[0], "utf-8")


def _check_operator(operator: Operator, before: Mapping[str, Operator]) -> None:
    """Raise _DamageError unless inputs, types and attributes are those of its signature."""
    signature, who = SIGNATURES[operator.type], f"operator {operator.name!r} ({operator.type})"
    kinds = signature.inputs * (len(operator.inputs) if signature.many else 1)
    if len(operator.inputs) != len(kinds) or len(operator.takes) != len(kinds) or (signature.many and not kinds):
        raise _DamageError(f"{who} has {len(operator.inputs)} inputs and {len(operator.takes)} descriptions of them")
    for source, described, (name, dtype) in zip(operator.inputs, operator.takes, kinds, strict=True):
        if source not in before:
            raise _DamageError(f"{who} takes {source!r}, which is no operator before it")
        if before[source].gives != (described,):
            given = ", ".join(map(str, before[source].gives)) or "nothing"
            raise _DamageError(f"{who} takes {described} where {source!r} gives {given}")
        if dtype not in (None, described.dtype):
            raise _DamageError(f"{who} takes {described.dtype.name} as {name}, which is {dtype}")
    if len(operator.gives) != (operator.type != "NetOutput"):
        raise _DamageError(f"{who} describes {len(operator.gives)} outputs")
    if signature.output is not None and operator.gives[0].dtype != signature.output:
        raise _DamageError(f"{who} gives {operator.gives[0].dtype.name}, not {signature.output.name}")
    if operator.attributes.keys() != signature.attributes.keys():
        raise _DamageError(f"{who} has attributes {sorted(operator.attributes)}, not {sorted(signature.attributes)}")
    for key, expected in signature.attributes.items():
        value = operator.attributes[key]
        fits = expected(value) if callable(expected) else type(value) is type(expected) and value == expected
        if not fits:
            raise _DamageError(f"{who} has {key} {value!r}, which is out of place")


def _check_ends(model: Model) -> None:
    kinds = [operator.type for operator in model.operators]
    if kinds.count("NetOutput") != 1 or kinds[-1] != "NetOutput":
        raise _DamageError("its last operator is no NetOutput, or there are several")
    numbers = [operator.attributes["index"] for operator in model.inputs]
    if not numbers or numbers != list(range(len(numbers))):
        raise _DamageError(f"its inputs are numbered {numbers}")
    for operator in model.inputs:
        if operator.gives[0].dtype != np.uint8 or operator.gives[0].shape[:1] != (1,):
            raise _DamageError(f"its input {operator.name!r} is {operator.gives[0]}, not one image of uint8")


def _check_shapes(model: Model) -> None:
    """Raise _DamageError unless every operator gives what its description says: they are run on no image at all."""
    values = {x.name: np.zeros((0, *x.gives[0].shape[1:]), np.uint8) for x in model.inputs}
    for operator in model.operators[:-1]:
        described, batch = operator.gives[0], () if operator.type == "Const" else (1,)
        if operator.name not in values:
            try:
                with np.errstate(all="ignore"):
                    values[operator.name] = _compute(operator, [values[name] for name in operator.inputs])
            except Exception as error:  # whatever NumPy makes of sizes that do not fit
                raise _DamageError(f"operator {operator.name!r} ({operator.type}): {error}") from None
        made = values[operator.name]
        found = Descriptor(made.dtype, batch + made.shape[len(batch) :])
        if found != described:
            raise _DamageError(f"operator {operator.name!r} gives {found}, but is described as {described}")


# -- running ----------------------------------------------------------------------------------------------------------


def _shapes(model: Model) -> list[Shape]:
    return [tuple(x.gives[0].shape[1:]) for x in model.inputs]


def _infer(path: str | Path, model: Model, names: Sequence[str], pixels: Arrays) -> dict[str, Array]:
    def run(batch: tuple[Array, ...]) -> dict[str, Array]:
        values = _run(model, batch)
        return {name: values[name] for name in names}

    return in_batches(run, pixels, _shapes(model), BATCH, str(path))


def _run(model: Model, images: tuple[Array, ...]) -> dict[str, Array]:
    """What every operator gives, by its name."""
    values = {operator.name: image for operator, image in zip(model.inputs, images, strict=True)}
    with np.errstate(all="ignore"):
        for operator in model.operators:
            if operator.type not in ("Data", "NetOutput"):
                values[operator.name] = _compute(operator, [values[name] for name in operator.inputs])
    return values


def _compute(operator: Operator, inputs: list[Array]) -> Array:
    given = operator.attributes
    match operator.type, inputs:
        case "Const", _:
            value: Array = given["value"]
            return value
        case "Cast", (x,):
            return x.astype(np.float32)
        case "Sub", (a, b):
            return a - b
        case "Mul", (a, b):
            return a * b
        case "Add", (a, b):
            return a + b
        case "AscendQuant", (x,):
            return ascend.quantize(x, given["scale"], given["offset"])
        case "AscendDequant", (x, scale):
            real = ascend.dequantize(x, scale)
            return np.maximum(real, np.float32(0)) if given["relu_flag"] else real
        case "Conv2D", (x, weight, bias):
            stride, dilation = _pair(given["strides"]), _pair(given["dilations"])
            padding: Padding = tuple(given["pads"])
            return ascend.convolve(
                x, weight, bias, stride=stride, padding=padding, dilation=dilation, group=given["groups"]
            )
        case "MatMulV2", (x, weight, bias):
            return ascend.multiply(x, weight, bias)
        case "Relu", (x,):
            return np.maximum(x, np.float32(0))
        case "ClipByValue", (x, low, high):
            return np.clip(x, low, high)
        case (("MaxPool" | "MaxPoolV3"), (x,)):
            padding = tuple(given.get("pads", (0, 0, 0, 0)))
            return ascend.max_pool(x, kernel=_pair(given["ksize"]), stride=_pair(given["strides"]), padding=padding)
        case "Flatten", (x,):
            return x.reshape(len(x), math.prod(x.shape[1:]))
        case "ConcatD", xs:
            return np.concatenate(xs, axis=1)
    raise _DamageError(f"operator {operator.name!r} ({operator.type}) cannot be computed")


def _pair(sizes: Sequence[int]) -> tuple[int, int]:
    return sizes[2], sizes[3]
