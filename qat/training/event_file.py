"""TensorBoard's event files of scalars, written without TensorBoard, which is a large dependency.

A file is a sequence of records, each with a message Event (tensorboard/compat/proto/event.proto): its length, 8 bytes;
the masked CRC-32C of the length; the message; its masked CRC-32C (tensorflow.org/tutorials/load_data/tfrecord).
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from qat import wire
from qat.errors import QatError

CASTAGNOLI = 0x82F63B78  #: the polynomial of CRC-32C, bits reversed


class EventFile:
    """A new event file.

    Args:
        folder: where to write; it may hold other event files, all of which TensorBoard shows.
    """

    def __init__(self, folder: str | Path) -> None:
        name = f"events.out.tfevents.{time.time_ns():019d}.{os.getpid()}"
        self.path = Path(folder) / name
        self._write(wire.block(3, "brain.Event:2"))

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Append numbers.

        Args:
            step: of the training.
            values: numbers by name.

        Raises:
            QatError: where the file cannot be written.
        """
        summary = b"".join(
            wire.block(1, wire.block(1, name) + wire.real(2, float(value))) for name, value in values.items()
        )
        self._write(wire.integer(2, step) + wire.block(5, summary))

    def text(self, name: str, text: str) -> None:
        """Append a text, which TensorBoard shows as Markdown (tensorboard/plugins/text/summary_v2.py).

        Args:
            name: its tag.
            text: Markdown.

        Raises:
            QatError: where the file cannot be written.
        """
        shown = wire.block(1, wire.block(1, "text"))  # SummaryMetadata.plugin_data.plugin_name
        tensor = wire.integer(1, 7) + wire.block(2, b"") + wire.block(8, text)  # DT_STRING, no axes, the string
        self._write(
            wire.integer(2, 0)
            + wire.block(5, wire.block(1, wire.block(1, name) + wire.block(9, shown) + wire.block(8, tensor)))
        )

    def _write(self, content: bytes) -> None:
        event = wire.double(1, time.time()) + content
        length = struct.pack("<Q", len(event))
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab") as file:
                file.write(length + _checksum(length) + event + _checksum(event))
        except OSError as error:
            raise QatError(f"{self.path}: cannot be written ({error.strerror}); choose another folder") from None


def _checksum(content: bytes) -> bytes:
    """The masked CRC-32C: rotated and shifted, as the format requires for data that may contain a CRC."""
    table, crc = _table(), 0xFFFFFFFF
    for byte in content:
        crc = table[(crc ^ byte) & 0xFF] ^ crc >> 8
    crc ^= 0xFFFFFFFF
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


@lru_cache
def _table() -> list[int]:
    """The CRC of each byte."""
    table = []
    for crc in range(256):
        for _ in range(8):
            crc = crc >> 1 ^ (CASTAGNOLI if crc & 1 else 0)
        table.append(crc)
    return table
