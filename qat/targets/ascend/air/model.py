"""What an AIR file holds: its operators, and how each kind of them must look."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from qat.integer import Shape

VERSION = 1  #: of ModelDef
NCHW = b"NCHW"
FLOAT, INT8, UINT8, INT32, UINT64 = (np.dtype(name) for name in ("<f4", "i1", "u1", "<i4", "<u8"))
INT16, UINT16 = np.dtype("<i2"), np.dtype("<u2")
#: ge.proto.DataType, in descriptors. Integer attributes have another numbering: CAST_TO.
DTYPES: dict[int, np.dtype[Any]] = {1: FLOAT, 3: INT8, 4: UINT8, 5: INT16, 6: UINT16, 7: INT32, 10: UINT64}
ENTERING = (FLOAT, INT8, UINT8, INT16, UINT16)  #: types of inputs
CAST_TO_FLOAT, CAST_TO_INT8 = 0, 2


class DamageError(Exception):
    """What is wrong with a file."""


class Descriptor(NamedTuple):
    """The type and shape of a tensor.

    Args:
        dtype: its type.
        shape: its sizes; the first one is a batch of 1, except for constants.
    """

    dtype: np.dtype[Any]
    shape: Shape

    def __str__(self) -> str:
        return f"{self.dtype.name} {list(self.shape)}"


@dataclass(frozen=True, eq=False)
class Operator:
    """One operator with one output.

    Args:
        name: its name, which is that of its output too.
        type: a key of ``SIGNATURES``.
        inputs: the names of the operators whose outputs it takes.
        takes: the descriptions of these.
        gives: the description of its output; none for the operator that gathers the outputs.
        attributes: by name: bytes, int, float, bool, a list of these, or an array.
    """

    name: str
    type: str
    inputs: tuple[str, ...]
    takes: tuple[Descriptor, ...]
    gives: tuple[Descriptor, ...]
    attributes: Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Model:
    """A checked file.

    Args:
        name: of the network.
        operators: in an order in which they can be run; the last one gathers the outputs.
        attributes: of the model, by name; what ``write_metadata`` sets.
    """

    name: str
    operators: tuple[Operator, ...]
    attributes: dict[str, bytes]

    @property
    def inputs(self) -> list[Operator]:
        """The operators where samples enter, in order."""
        return sorted((x for x in self.operators if x.type == "Data"), key=lambda x: int(x.attributes["index"]))

    @property
    def outputs(self) -> list[str]:
        """The names of the operators whose results leave, in order."""
        return list(self.operators[-1].inputs)


@dataclass(frozen=True)
class Signature:
    """How an operator must look.

    Args:
        inputs: the name and type of each input; None stands for any type.
        output: the type of its output; None for any.
        attributes: by name, what each must be, or a function that tests it.
        optional: the names of inputs that Ascend's operator has and that may be left out.
        many: True where it takes any number of inputs of one kind, "x0", "x1", ...
    """

    inputs: tuple[tuple[str, np.dtype[Any] | None], ...] = ()
    output: np.dtype[Any] | None = None
    attributes: Mapping[str, Any] = field(default_factory=dict)
    optional: tuple[bytes, ...] = ()
    many: bool = False

    def naming(self, count: int) -> dict[str, Any]:
        """The attributes that tell so many inputs apart. The one input or output of an operator needs no telling: Ascend's
        registry of operators has its name."""
        if count < 2:
            return {}
        names: dict[str, Any] = {"_input_name_key": self._names(count), "_input_name_value": list(range(count))}
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
    "ConcatD": Signature((("x", INT8),), INT8, {"concat_dim": _positive, "N": _positive}, many=True),
    "NetOutput": Signature((("x", FLOAT),), many=True),
}
