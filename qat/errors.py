"""The one exception of this project, and how text of others is shown in one line."""

from __future__ import annotations

SHORT = 80  #: characters of a text that is only quoted


class QatError(Exception):
    """A mistake that the user can mend.

    Its text is one line: which object, what was found, why that matters, what to do. The commands print that line and
    exit with status 2; they never show a traceback for it. Names, paths and other libraries' words come into it as they are;
    ``one_line`` makes them safe here, once.
    """

    def __init__(self, text: object) -> None:
        super().__init__(one_line(text))


def one_line(text: object) -> str:
    """A text as a terminal can show it: line breaks, control characters, escape sequences and what turns the direction of
    writing stand as in Python's literals.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in str(text))


def shortened(value: object) -> str:
    """The repr of what a file or a caller gave, in ASCII, cut where it is long."""
    text = ascii(value)
    return text if len(text) <= SHORT else f"{text[: SHORT - 3]}..."
