"""Which names nodes, cells and networks may have: names come from files and go into source code and pages."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path

from qat.errors import QatError, shortened

LONGEST = 200  #: characters
SIGNS = "_.:/+-[]()"  #: allowed beside letters and digits: frameworks and formats use them in names
MARKS = "@#"  #: only in names that targets make, so that these never equal a node's name
#: For messages.
RULE = f"letters, digits, {' '.join(SIGNS)} and single spaces between them, no + or - first, at most {LONGEST}"


def check_name(name: object, what: str) -> None:
    """Raise QatError unless ``name`` is a string of letters, digits and harmless signs. what: whose name it is."""
    found = _fault(name)
    if found:
        raise QatError(f"{what} {shortened(name)}: its name {found}, but a name is of {RULE}; rename it")


def check_stored(path: str | Path, names: Iterable[object]) -> None:
    """Raise QatError where an exported file holds a name with characters that exports never write."""
    for name in names:
        text = name.decode(errors="replace") if isinstance(name, bytes) else name
        if not isinstance(text, str) or not all(_allowed(c) or c in f" {MARKS}" for c in text):
            raise QatError(f"{path}: holds the name {shortened(text)}, which no export writes; export it again")


def check_included(file_name: str) -> None:
    """Raise QatError where a file's name cannot be written in a C #include, which has no escapes."""
    if not is_name(file_name) or "/" in file_name:
        raise QatError(f"{shortened(file_name)}: C cannot include a file of this name; name it by {RULE}")


def is_name(text: object) -> bool:
    """Whether ``check_name`` accepts it."""
    return _fault(text) is None


def fits(name: str, pattern: str) -> bool:
    """Whether a name matches a pattern, as "fc1" matches "fc*": * stands for any text, ? for any character. Brackets
    stand for themselves, as in "blocks[0].*".
    """
    return fnmatchcase(name, pattern.replace("[", "[[]"))


def harmless(text: str) -> str:
    """A text with every character replaced that a name may not have. For comments in source code, which it cannot end
    then.
    """
    return "".join(c if _allowed(c) or c == " " else "_" for c in text)[:LONGEST]


def _fault(name: object) -> str | None:
    if not isinstance(name, str):
        return f"is not a string but {type(name).__name__}"
    if not name or len(name) > LONGEST:
        return f"has {len(name)} characters"
    wrong = next((c for c in name if not _allowed(c) and c != " "), None)
    if wrong is not None:
        return f"holds {wrong!a}"
    if name[0] in "+-":
        return f"begins with {name[0]}"
    if name != name.strip() or "  " in name:
        return "has a space too many"
    return None


def _allowed(character: str) -> bool:
    """Letters and digits of any script, as in Python's identifiers, and SIGNS."""
    return character in SIGNS or (f"_{character}".isidentifier() and character.isprintable())
