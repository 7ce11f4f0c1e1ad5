"""The exceptions of this project, and how text of others is shown in one line."""

from __future__ import annotations

import reprlib


class QatError(Exception):
    """A mistake that the user can mend.

    Its text is one line: which object, what was found, why that matters, what to do. The commands print that line and
    exit with ``exit_status``; they never show a traceback for it. Names, paths and other libraries' words come into it as they
    are; ``one_line`` makes them safe here, once.
    """

    exit_status = 2

    def __init__(self, text: object) -> None:
        super().__init__(one_line(text))


class NotFiniteError(QatError):
    """Numbers became infinite or NaN: no mistake in the arguments, but nothing that could be gone on with."""

    exit_status = 1


def one_line(text: object) -> str:
    """A text as a terminal can show it: line breaks, control characters, escape sequences and what turns the direction of
    writing stand as in Python's literals.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in str(text))


def shortened(value: object) -> str:
    """The repr of what a file or a caller gave, cut where it is long or deep."""
    try:
        return _SHORT.repr(value)
    except Exception:  # Python writes no number of more than 4,300 digits, and a class may have a repr of its own
        return f"<{type(value).__name__}>"


_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxother = 3, 60, 60
