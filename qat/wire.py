"""The wire format of protocol buffers: enough to write a message and to read any message's fields.

A message is a sequence of (field number, wire type, value): 0 varint, 1 eight bytes, 2 a length and so many bytes, 5 four
bytes (protobuf.dev/programming-guides/encoding).
"""

from __future__ import annotations

import struct

Fields = dict[int, list[int | bytes]]  #: by field number, in order; a varint is an int, anything else its bytes


def varint(value: int) -> bytes:
    """Seven bits a byte, the lowest first; a negative number as its 64-bit two's complement."""
    value &= (1 << 64) - 1
    result = bytearray()
    while value > 0x7F:
        result.append(value & 0x7F | 0x80)
        value >>= 7
    result.append(value)
    return bytes(result)


def integer(field: int, value: int) -> bytes:
    """A field of wire type 0: whole numbers, truth values and enums."""
    return varint(field << 3) + varint(value)


def block(field: int, value: bytes | str) -> bytes:
    """A field of wire type 2: strings, bytes, messages and packed numbers."""
    content = value.encode() if isinstance(value, str) else value
    return varint(field << 3 | 2) + varint(len(content)) + content


def real(field: int, value: float) -> bytes:
    """A field of wire type 5: a float32."""
    return varint(field << 3 | 5) + struct.pack("<f", value)


def double(field: int, value: float) -> bytes:
    """A field of wire type 1: a float64."""
    return varint(field << 3 | 1) + struct.pack("<d", value)


def read(message: bytes) -> Fields:
    """The fields of a message. Raises ValueError where it is damaged."""
    fields: Fields = {}
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        kind = tag & 7
        value: int | bytes
        if kind == 0:
            value, at = _varint(message, at)
        else:
            if kind == 2:
                length, at = _varint(message, at)
            elif kind in (1, 5):
                length = 8 if kind == 1 else 4
            else:
                raise ValueError(f"wire type {kind} is unknown")
            value, at = message[at : at + length], at + length
            if at > len(message):
                raise ValueError("it ends within a field")
        fields.setdefault(tag >> 3, []).append(value)
    return fields


def integers(packed: bytes) -> list[int]:
    """Packed varints, as signed 64-bit numbers. Raises ValueError where they are damaged."""
    values, at = [], 0
    while at < len(packed):
        value, at = _varint(packed, at)
        values.append(signed(value))
    return values


def signed(value: int) -> int:
    """A varint as a signed 64-bit number."""
    return value - (1 << 64) if value >> 63 else value


def _varint(message: bytes, at: int) -> tuple[int, int]:
    """The number at a place, and the place after it."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(message):
            raise ValueError("it ends within a number")
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            if value >> 64:
                break
            return value, at
    raise ValueError("it holds a number beyond 64 bits")
