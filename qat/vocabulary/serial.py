"""Frozen dataclasses to JSON and back, for graphs in checkpoints."""

from __future__ import annotations

from dataclasses import MISSING, fields, is_dataclass
from typing import Any, ClassVar, TypeVar

from qat.errors import QatError, shortened
from qat.vocabulary.fields import build, check_fields

S = TypeVar("S", bound="Serializable")


class Serializable:
    """Base of frozen dataclasses with plain fields: numbers, strings, None, tuples, other Serializables.

    Files name subclasses by their class name. A cell of one's own is known once its module is imported.
    """

    registry: ClassVar[dict[str, type[Serializable]]] = {}

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        known = Serializable.registry.get(cls.__name__)
        if known is not None and known.__module__ != cls.__module__:
            raise QatError(
                f"{cls.__module__}.{cls.__name__}: {known.__module__} has a class of this name, and a graph in a file names "
                "its cells by their class; choose another name"
            )
        Serializable.registry[cls.__name__] = cls

    def __post_init__(self) -> None:
        """Check the types of the fields (``check_fields``); a subclass with a ``__post_init__`` calls this first."""
        check_fields(self)

    def changed_fields(self) -> dict[str, Any]:
        """The fields whose values differ from their defaults."""
        changed = {}
        for field in fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            if field.default is MISSING or value != field.default:
                changed[field.name] = value
        return changed

    def to_json(self) -> dict[str, Any]:
        """A JSON object: the class name under "type", and the changed fields."""
        return {"type": type(self).__name__} | {name: _encode(value) for name, value in self.changed_fields().items()}


def check_steps(owner: Serializable, *names: str) -> None:
    """Raise QatError unless the named fields are numbers of steps, 0 or more."""
    for name in names:
        value = getattr(owner, name)
        if value < 0:
            raise QatError(f"{type(owner).__name__}: {name} is {value}; use a number of steps, 0 or more")


def check_share(owner: object, *names: str) -> None:
    """Raise QatError unless the named fields lie within 0 to 1."""
    for name in names:
        value = getattr(owner, name)
        if not 0.0 <= value <= 1.0:
            raise QatError(f"{type(owner).__name__}: {name} is {value!r}; use a number from 0 to 1")


def from_json(data: Any, base: type[S]) -> S:
    """The inverse of ``to_json``.

    Args:
        data: a JSON value.
        base: the class that it must be a subclass of.

    Returns:
        The instance.

    Raises:
        QatError: for an unknown class, an unknown field or a value of another type.
    """
    name = data.get("type") if isinstance(data, dict) else None
    cls = Serializable.registry.get(name) if isinstance(name, str) else None
    if cls is None or not issubclass(cls, base) or not is_dataclass(cls):
        raise QatError(
            f"{shortened(name)} is not a known {base.__name__.lower()}: import the module that defines it before reading "
            "the graph (commands: --import MODULE), or use the release that wrote the file"
        )
    try:
        return build(cls, {key: _decode(value) for key, value in data.items() if key != "type"})
    except (TypeError, ValueError, OverflowError) as error:  # raised by a user's class
        raise QatError(f"{name} cannot be built from its stored fields ({error}): the graph is damaged") from None


def _encode(value: Any) -> Any:
    if isinstance(value, Serializable):
        return value.to_json()
    return [_encode(item) for item in value] if isinstance(value, tuple) else value


def _decode(value: Any) -> Any:
    if isinstance(value, dict):
        return from_json(value, Serializable)
    return tuple(_decode(item) for item in value) if isinstance(value, list) else value
