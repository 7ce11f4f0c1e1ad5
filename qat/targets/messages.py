"""What is in a message of a protocol buffer, at any depth."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeVar

M = TypeVar("M")


def messages(message: Any, kind: type[M]) -> Iterator[M]:
    """All messages of a kind in another one, those of attributes, subgraphs and functions among them; not within such a one."""
    if isinstance(message, kind):
        yield message
        return
    for field, value in message.ListFields():
        if field.message_type is not None:
            for part in (value,) if hasattr(value, "ListFields") else value:
                if hasattr(part, "ListFields"):  # the keys of a map are texts
                    yield from messages(part, kind)
