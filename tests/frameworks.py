"""The training backends and file formats that tests run on, and which tests of them are long."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest

from qat.registry import BACKENDS, TARGETS, backend_names, installed

HERE = [name for name in backend_names() if name not in BACKENDS or installed(BACKENDS[name])]
#: Formats with a runtime here, each with its arithmetics; and those whose packages are installed.
FILES = [
    ("ONNX", "float"),
    ("TFLITE", "float"),
    ("TFLITE", "fixed"),
    ("C", "float"),
    ("C", "fixed"),
    ("MINDIR", "float"),
]
FILES_HERE = [each for each in FILES if installed(TARGETS[each[0]])]


def but_long(cases: Iterable[Any], long: Callable[..., bool]) -> list[Any]:
    """The cases of a test, single values or tuples of them. Those for which ``long`` is true are swept: ``make test-all`` runs
    them. They take a backend tens of seconds, and what they look at others look at too, on this backend or with this case.
    """
    found = [case if isinstance(case, tuple) else (case,) for case in cases]
    return [pytest.param(*case, marks=pytest.mark.sweep if long(*case) else ()) for case in found]
