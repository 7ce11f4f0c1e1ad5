"""The exceptions of this project, and text from elsewhere shown safely on one line."""

from __future__ import annotations

import reprlib


class QatError(Exception):
    """An error that the user can correct.

    Its text is one line: which object, what was found, why it matters, what to do. Commands print that line and exit
    with ``exit_status``, without a traceback. Names, paths and messages of other libraries may be put in unescaped:
    ``one_line`` escapes the whole text here.

    Args:
        text: the message.

    >>> import qat
    >>> try:
    ...     qat.WeightQuantizer(20)
    ... except qat.QatError as error:
    ...     print(error)
    WeightQuantizer: num_bits is 20; use a whole number from 2 to 16
    """

    exit_status = 2

    def __init__(self, text: object) -> None:
        super().__init__(one_line(text))


class NotFiniteError(QatError):
    """Numbers became infinite or NaN, so that the work cannot continue. The arguments were not at fault.

    Commands end with status 1 then, where an ordinary QatError gives 2.

    >>> from qat.errors import NotFiniteError
    >>> NotFiniteError.exit_status
    1
    """

    exit_status = 1


class QatWarning(UserWarning):
    """Something that the user should know of; commands print it as one line, once."""


def one_line(text: object) -> str:
    """A text on one line that is safe to print: line breaks, control characters, escape sequences and characters that
    change the direction of writing are escaped as in Python's literals.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in str(text))


def shortened(value: object) -> str:
    """The repr of a value from a file or a caller, cut where it is long or deep."""
    try:
        return _SHORT.repr(value)
    except Exception:  # Python writes no number of more than 4,300 digits, and a class may have a repr of its own
        return f"<{type(value).__name__}>"


_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxother = 3, 60, 60
