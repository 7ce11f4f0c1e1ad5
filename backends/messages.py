"""What is in a message of a protocol buffer, at any depth."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

from google.protobuf.message import Message

M = TypeVar("M", bound=Message)


def messages(message: Message, kind: type[M]) -> Iterator[M]:
    """All messages of a kind in another one, those of attributes, subgraphs and functions among them; not within such a one."""
    if isinstance(message, kind):
        yield message
        return
    for field, value in message.ListFields():
        if field.message_type is not None:
            parts = (value,) if isinstance(value, Message) else value
            for part in parts:
                if isinstance(part, Message):  # the keys of a map are none
                    yield from messages(part, kind)
