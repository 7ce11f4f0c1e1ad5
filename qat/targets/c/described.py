"""What the header says of how its file is fed and read: comments, constants, and the names of classes."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from qat.deploy.recipe import in_words

BEGIN, END = "/* ---- how to feed it ---- */", "/* ---- end of how to feed it ---- */"
WIDTH = 100  #: of lines of comments
PLACE = "#include <stdint.h>\n\n"  #: behind which it stands


def described(header: str, name: str, recipe: Mapping[str, Any], names: Sequence[str]) -> str:
    """A header that says how its file is fed and read; nothing else in it changes.

    Args:
        header: the text, which may say it already.
        name: with which the file's functions begin.
        recipe: as ``qat.deploy.recipe.recipe_of`` gives it.
        names: of the classes; none where they are not known.

    Returns:
        The text.
    """
    if BEGIN in header:
        header = re.sub(rf"{re.escape(BEGIN)}.*?{re.escape(END)}\n\n", "", header, flags=re.DOTALL)
    before, _, after = header.partition(PLACE)
    return f"{before}{PLACE}{block(name, recipe, names)}\n{after}"


def block(name: str, recipe: Mapping[str, Any], names: Sequence[str]) -> str:
    """The lines, between their marks.

    Args:
        name, recipe, names: as in ``described``.

    >>> tensor = {"name": "x", "shape": [1, 2], "layout": "NC", "dtype": "uint8"}
    >>> print(block("net", {"inputs": [tensor], "outputs": [tensor]}, ['say "*/"']))
    /* ---- how to feed it ---- */
    /* Input x: uint8 1 x 2 NC, as it is.
     * Output x: uint8 1 x 2 NC, as it is. */
    #define NET_CLASSES 1
    #ifdef NET_CLASS_NAMES /* define it before the #include to have them */
    static const char *const net_class_names[NET_CLASSES] = {
        "say \\"*/\\"",
    };
    #endif
    /* ---- end of how to feed it ---- */
    <BLANKLINE>
    """
    upper = name.upper()
    text = [line for words in in_words(recipe) for line in textwrap.wrap(_in_comment(words), WIDTH)]
    lines = [BEGIN, "/* " + "\n * ".join(text) + " */"]
    for i, x in enumerate(recipe["inputs"]):
        key = f"{upper}_INPUT{i if len(recipe['inputs']) > 1 else ''}"
        offset = x.get("encode", {}).get("offset") if "multiplier" not in x.get("encode", {}) else None
        if offset is not None:
            lines.append(f"#define {key}_SUBTRACT ({offset}) /* from what the network takes, before anything else */")
    if names:
        lines += [
            f"#define {upper}_CLASSES {len(names)}",
            f"#ifdef {upper}_CLASS_NAMES /* define it before the #include to have them */",
            f"static const char *const {name}_class_names[{upper}_CLASSES] = {{",
            *(f"    {c_string(each)}," for each in names),
            "};",
            "#endif",
        ]
    return "\n".join([*lines, END, ""])


def _in_comment(text: str) -> str:
    """A text that a comment can hold, in ASCII."""
    return text.encode("ascii", "replace").decode().replace("*/", "* /").replace("/*", "/ *").replace("\\", "/")


def c_string(text: str) -> str:
    """A literal of C whose bytes are the text's in UTF-8. All but plain ASCII is written by octal digits, of which three are
    always read, and so are quotation marks' and trigraphs' signs where they would mean something.

    >>> c_string('a"b?é')
    '"a\\\\"b\\\\077\\\\303\\\\251"'
    """
    escapes = {ord('"'): '\\"', ord("\\"): "\\\\"}
    plain = {*range(0x20, 0x7F)} - {ord("?"), *escapes}
    found = (
        escapes.get(byte, chr(byte) if byte in plain else f"\\{byte:03o}") for byte in text.encode(errors="replace")
    )
    return f'"{"".join(found)}"'
