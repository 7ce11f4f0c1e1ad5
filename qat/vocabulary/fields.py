"""Checking the fields of frozen dataclasses against their annotations, for all cells, quantizers and settings."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import MISSING, fields
from functools import lru_cache
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np

from qat.errors import QatError, shortened

T = TypeVar("T")
WORDS = {
    bool: "True or False",
    int: "a whole number",
    float: "a finite number",
    str: "a string",
    NoneType: "None",
}
LARGEST = 1 << 63  #: integers are below, so that every framework can hold them


def check_fields(owner: Any) -> None:
    """Check that each field of a dataclass holds what its annotation says; called in ``__post_init__``.

    A bool does not pass for an int, nor NaN or infinity for a float. NumPy's numbers become Python's and lists become
    tuples, as JSON gives them back.

    Args:
        owner: the instance.

    Raises:
        QatError: naming the class and the field, what was found and what is allowed.
    """
    cls: Any = type(owner)
    hints = _hints(cls)
    for field in fields(owner):
        hint = hints.get(field.name, Any)
        given = getattr(owner, field.name)
        value = _plain(given)
        if not _fits(value, hint) and _fits(given, hint):  # a list, in a cell that a user has defined
            value = given
        object.__setattr__(owner, field.name, value)
        if not _fits(value, hint):
            raise QatError(f"{cls.__name__}: {field.name} is {shortened(value)}; use {_words(hint)}")


@lru_cache
def _hints(cls: Any) -> dict[str, Any]:
    try:
        return get_type_hints(cls)
    except (NameError, TypeError, AttributeError):  # annotations of a user's cell may name what only type checkers see
        return {}


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    return tuple(map(_plain, value)) if isinstance(value, (tuple, list)) else value


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value is of an annotated type; of a generic annotation that is not treated here the class alone counts."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return any(_fits(value, option) for option in arguments)
    if origin is Literal:
        return any(value is option or (isinstance(value, str) and value == option) for option in arguments)
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        if arguments[1:] == (...,):
            return all(_fits(item, arguments[0]) for item in value)
        return len(value) == len(arguments) and all(map(_fits, value, arguments))
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool) and abs(value) < LARGEST
    if hint is float:
        whole = _fits(value, int)
        return whole or (isinstance(value, float) and math.isfinite(value))
    cls = origin or hint
    return not isinstance(cls, type) or cls is Any or isinstance(value, cls)


def _words(hint: Any) -> str:
    """An annotated type in words."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return " or ".join(map(_words, arguments))
    if origin is Literal:
        return " or ".join(map(repr, arguments))
    if origin is tuple:
        several = arguments[1:] == (...,)
        what = _words(arguments[0]).removeprefix("a ")
        return f"a tuple of {what}s" if several else f"a tuple of {len(arguments)} {what}s"
    name = getattr(hint, "__name__", str(hint))
    return WORDS.get(hint, f"{'an' if name[:1] in 'AEIOU' else 'a'} {name}")


def check_type(name: str, value: Any, hint: Any) -> None:
    """Raise QatError, naming the value, unless it is of an annotated type."""
    if not (_fits(value, hint) or _fits(_plain(value), hint)):
        raise QatError(f"{name} is {shortened(value)}; use {_words(hint)}")


def build(cls: type[T], data: Mapping[str, Any], *, finite: bool = True) -> T:
    """Make a dataclass from what a file holds.

    Args:
        cls: the dataclass.
        data: values by field name.
        finite: real numbers must be finite, the default; False: they may be NaN or infinite.

    Returns:
        ``cls(**data)``.

    Raises:
        QatError: for an unknown field, a missing one, or one of another type.
    """
    kind: Any = cls
    known = {field.name: field for field in fields(kind) if field.init}
    for name in sorted(map(str, data)):
        if name not in known:
            raise QatError(
                f"{kind.__name__} has no field {shortened(name)}: it has {', '.join(known)}; another release wrote it, or it "
                "is damaged"
            )
    for name, field in known.items():
        if name in data:
            value = data[name]
            odd = not finite and isinstance(value, float) and not math.isfinite(value)
            check_type(f"{kind.__name__}: {name}", 0.0 if odd else value, _hints(kind).get(name, Any))
        elif field.default is MISSING and field.default_factory is MISSING:
            raise QatError(
                f"{kind.__name__} cannot be built from its stored fields (there is no {name}): the file is damaged"
            )
    return cls(**data)
