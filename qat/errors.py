"""The one exception of this project."""

from __future__ import annotations


class QatError(Exception):
    """A mistake that the user can mend.

    Its text is one line: which object, what was found, why that matters, what to do. The commands print that line and
    exit with status 2; they never show a traceback for it.
    """
