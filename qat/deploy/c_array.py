"""A file as C source: for microcontrollers, which have no file system."""

from __future__ import annotations

import re
from pathlib import Path

from qat.errors import QatError
from qat.names import check_included

ALIGNMENT = 16  #: bytes; TensorFlow Lite Micro reads a model in place and wants it aligned so
ROW = 12  #: bytes a line, as ``xxd -i`` has them


def c_identifier(file_name: str) -> str:
    """The name that ``xxd -i`` gives: "mnist_cnn.tflite" -> "mnist_cnn_tflite"."""
    name = re.sub(r"\W", "_", file_name, flags=re.ASCII)
    return f"__{name}" if name[:1].isdigit() else name


def c_array(content: bytes, file_name: str, header_name: str) -> tuple[str, str]:
    """C++ source that defines an aligned array ``<identifier>`` and its ``<identifier>_len``, as ``xxd -i`` does.

    The header is the same for all content, so that a source and a header of one name always belong together.

    Args:
        content: The bytes.
        file_name: Of the file that has them, which gives the identifier.
        header_name: As the source includes it.

    Returns:
        The header and the source.

    Raises:
        QatError: there are no bytes, or C cannot include a file of that name.
    """
    for name in (file_name, header_name):
        check_included(name)
    if not content:
        raise QatError(f"{file_name}: is empty, and C has no empty arrays; export it again")
    name = c_identifier(file_name)
    guard = f"{c_identifier(header_name).upper()}_"
    rows = (content[at : at + ROW] for at in range(0, len(content), ROW))
    lines = ",\n".join("  " + ", ".join(f"0x{byte:02x}" for byte in row) for row in rows)
    header = (
        f"#ifndef {guard}\n#define {guard}\n\n"
        f"extern const unsigned char {name}[];\nextern const unsigned int {name}_len;\n\n#endif  // {guard}\n"
    )
    source = (
        f'#include "{header_name}"\n// {file_name}, {len(content):,} bytes\n'
        f"alignas({ALIGNMENT}) const unsigned char {name}[] = {{\n{lines}}};\n"
        f"const unsigned int {name}_len = {len(content)};\n"
    )
    return header, source


def is_c_array(path: Path, file_name: str, header_name: str) -> bool:
    """Whether a file is what ``c_array`` gives for some content, to the byte.

    Args:
        path: Of the file, a source or a header.
        file_name: As in ``c_array``.
        header_name: As in ``c_array``.
    """
    text = path.read_text("utf-8", "replace")
    content = bytes(int(byte, 16) for byte in re.findall(r"\b0x([0-9a-f]{2})\b", text))
    return text in c_array(content or b"\0", file_name, header_name)
