"""Whether a value is what a field's annotation says: of dataclasses that are made of data from a file."""

from __future__ import annotations

import math
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields
from functools import cache
from typing import Any, TypeVar

import numpy as np

from qat.errors import QatError
from qat.reading import shortened

T = TypeVar("T")
LARGEST_INT = 1 << 63  #: below which whole numbers lie, as every array library has it


def build(cls: type[T], data: Mapping[str, Any], name: str = "", *, finite: bool = True) -> T:
    """``cls(**data)`` for a dataclass, whose fields have to be of the types that it declares.

    Strictly: True is no number, 1 is not True, "1" is neither; a whole number is a float. ``finite``: so are real numbers.
    name: what the dataclass is called in a message. Raises QatError for an unknown field, a missing one, or one of another
    type.
    """
    name = name or cls.__name__
    known: dict[str, Field[Any]] = {field.name: field for field in fields(cls) if field.init}  # type: ignore[arg-type]
    for key in sorted(map(str, data)):
        if key not in known:
            raise QatError(f"{name} has no field {shortened(repr(key))}; it has {', '.join(known)}")
    annotations = _annotations(typing.cast(typing.Hashable, cls))
    for key, field in known.items():
        if key in data:
            check_type(f"{name}: {key}", data[key], annotations[key], finite=finite)
        elif field.default is MISSING and field.default_factory is MISSING:
            raise QatError(f"{name} cannot be built from its stored fields (there is no {key}): the file is damaged")
    return cls(**data)


def check_type(name: str, value: Any, annotation: Any, *, finite: bool = True) -> None:
    """Raise QatError, naming it, unless a value is of the type that an annotation says."""
    if not fits(value, annotation, finite=finite):
        raise QatError(f"{name} is {shortened(repr(value))}; use {described(annotation)}")


def fits(value: Any, annotation: Any, *, finite: bool = True) -> bool:
    """Whether it is of that type; True for an annotation that says nothing to be checked. A NumPy scalar is its number."""
    value = value.item() if isinstance(value, np.generic) else value
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, each, finite=finite) for each in arguments)
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        each = arguments[:1] * len(value) if arguments[1:] == (...,) else arguments
        return len(value) == len(each) and all(fits(v, a, finite=finite) for v, a in zip(value, each, strict=True))
    if annotation in (None, type(None)):
        return value is None
    if annotation is bool:
        return isinstance(value, bool)
    if annotation is int:
        return isinstance(value, int) and not isinstance(value, bool) and -LARGEST_INT <= value < LARGEST_INT
    if annotation is float:
        number = isinstance(value, float) or fits(value, int)
        return number and (not finite or math.isfinite(value))
    return isinstance(value, origin or annotation) if isinstance(origin or annotation, type) else True


def described(annotation: Any) -> str:
    """In words."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(dict.fromkeys(map(described, arguments)))
    if origin is tuple:
        return f"a list of {len(arguments)}" if arguments[1:] != (...,) else "a list"
    words = {bool: "True or False", int: "a whole number", float: "a finite number", str: "text", type(None): "None"}
    words |= {dict: "names and values", list: "a list"}
    return words.get(annotation, f"a {getattr(annotation, '__name__', annotation)}")


@cache
def _annotations(cls: Any) -> dict[str, Any]:
    """Of its fields; Any for all where they cannot be resolved, as in a class of a function."""
    try:
        return typing.get_type_hints(cls)
    except (NameError, TypeError):
        return dict.fromkeys((field.name for field in fields(cls)), Any)
