"""The exceptions of this project."""

from __future__ import annotations


class QatError(Exception):
    """A mistake that the user can mend.

    Its text is one line: which object, what was found, why that matters, what to do. The commands print that line and
    exit with ``exit_status``; they never show a traceback for it.
    """

    exit_status = 2


class NotFiniteError(QatError):
    """Numbers became infinite or NaN: no mistake in the arguments, but nothing that could be gone on with."""

    exit_status = 1
