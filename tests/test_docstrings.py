"""Every public name has a docstring, those that users call say what they take and give, and the examples in them are true."""

from __future__ import annotations

import ast
import doctest
import importlib
import re
from itertools import chain
from pathlib import Path

import pytest
from docstrings import Package
from test_structure import ROOT, modules

PACKAGE = Package({name: path.read_text(encoding="utf-8") for name, path in modules(ROOT).items()})
EXAMPLES = PACKAGE.examples()


def called() -> list[str]:
    """The functions and classes that ``qat`` exports, and those of the modules among its names, as qat.data.load."""
    names = []
    for name in (f"qat.{name}" for name in PACKAGE.exported("qat")):
        module, node = found(name)
        names += [f"{module}.{each}" for each in PACKAGE.exported(module)] if isinstance(node, ast.Module) else [name]
    return [name for name in names if isinstance(found(name)[1], (ast.ClassDef, ast.FunctionDef))]


def found(name: str) -> tuple[str, ast.AST]:
    """Where a name is defined, and its definition."""
    definition = PACKAGE.find(name)
    assert definition is not None, f"{name} is defined nowhere"
    return definition


def test_every_public_name_has_a_docstring() -> None:
    assert PACKAGE.undocumented() == []


@pytest.mark.parametrize("name", called())
def test_what_users_call_says_what_it_takes_gives_and_raises(name: str) -> None:
    assert list(PACKAGE.faults(name)) == []


@pytest.mark.parametrize("module", EXAMPLES)
def test_examples_give_what_they_show(module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # some write files
    options = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    result = doctest.testmod(importlib.import_module(module), optionflags=options)
    assert (result.failed, result.attempted) == (0, len(EXAMPLES[module]))


def test_all_that_qat_exports_is_shown_in_an_example() -> None:
    """In a docstring, or on one of the pages whose Python tests/test_readme.py runs."""
    pages = [(Path(__file__).resolve().parents[1] / page).read_text() for page in ("README.md", "docs/library.md")]
    shown = [code for page in pages for code in re.findall(r"```python\n(.*?)```", page, re.DOTALL)]
    words = {word for source in chain(shown, *EXAMPLES.values()) for word in re.findall(r"\w+", source)}
    assert {name for name in called() if name.count(".") == 1 and name.removeprefix("qat.") not in words} == set()


BAD = {
    "house": '''"""A package."""
from typing import TYPE_CHECKING
from house.rooms import Door, Window
if TYPE_CHECKING:
    from house.rooms import knock
''',
    "house.rooms": '''
from dataclasses import dataclass

@dataclass
class _Opening:
    """Private.

    Args:
        width: in metres.
    """

    width: float
    def close(self): ...
    def open(self):
        """Open it."""

@dataclass
class Door(_Opening):
    """A door.

    Args:
        lock: closes it.
        handel: opens it.
    """

    lock: str
    handle: str = "brass"
    def open(self): ...
    def _oil(self): ...
    @property
    def is_open(self): ...
    def __post_init__(self):
        if not self.lock:
            raise ValueError("no lock")

class Window(Door):
    """A window."""

def knock(times, *, door: Door) -> int:
    """Knock.

    Args:
        times: how many; the next line, which is indented,
            belongs to it.
    """
    def inner():
        raise ValueError
    if times:
        raise ValueError(times)

def ring():
    def inner(): ...
''',
}


def test_what_is_missing_is_found() -> None:
    package = Package(BAD)
    rooms = "house.rooms"
    assert package.undocumented() == [rooms, f"{rooms}.Door.is_open", f"{rooms}.ring"]
    door = [
        f"{rooms}.Door: Args does not say what width is",
        f"{rooms}.Door: Args does not say what handle is",
        f"{rooms}.Door: Args names handel, which it does not have",
        f"{rooms}.Door: Raises is missing",
    ]
    assert list(package.faults("house.Door")) == door
    assert list(package.faults("house.Window")) == [  # Door says what a lock is, a private class does not count
        f"{rooms}.Window: Args does not say what width is",
        f"{rooms}.Window: Args does not say what handle is",
    ]
    assert list(package.faults("house.knock")) == [
        f"{rooms}.knock: Args does not say what door is",
        f"{rooms}.knock: Returns is missing",
        f"{rooms}.knock: Raises is missing",
    ]


def test_what_is_complete_passes() -> None:
    text = '''"""A room."""

class Shelf:
    """A shelf.

    Attributes:
        boards, nails: how many.
        wood: what it is made of,
            as a word.
        weight: of all boards, kg.

    >>> Shelf(3)
    Shelf(3)
    """

    boards: int
    wood: str = "oak"
    def __init__(self, boards: int, nails: int, wood: str = "oak"):
        self.weight = 3.0 * boards

def fill(shelf: Shelf, *books: str) -> int:
    """Put books on a shelf.

    Args:
        shelf: where they go.
        *books: their titles.

    Returns:
        How many fit.

    Raises:
        ValueError: where none does.
    """
    raise ValueError
'''
    package = Package({"room": text})
    assert package.undocumented() == []
    assert [*package.faults("room.Shelf"), *package.faults("room.fill")] == []
    assert package.examples() == {"room": ["Shelf(3)\n"]}
