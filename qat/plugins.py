"""What installed packages add to this one: backends, targets, networks and data readers, found by their entry points.

A package names what it adds in its own metadata, and nothing here has to be changed for it:

    [project.entry-points."qat.backends"]
    jax = "qat_jax.network"

The metadata of all packages are read once, when names are first needed, and a package is imported when what it adds is asked
for by name. So one that is broken disturbs nobody who uses something else.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import sys
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from qat.errors import QatError, QatWarning, one_line

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint


@dataclass(frozen=True)
class Group:
    """One kind of thing that packages add.

    Attributes:
        name: The group of their entry points.
        what: What one of them is called in messages.
        own: The names of this package's own, which come before all others.
    """

    name: str
    what: str
    own: tuple[str, ...] = ()

    def names(self) -> list[str]:
        """Every name: our own, then those that packages add and that are none of ours."""
        return [
            *self.own,
            *(points[0].name for word, points in _found(self.name).items() if word not in _words(self.own)),
        ]

    def meant(self, name: str) -> str | None:
        """The name as it is written where it is defined, whatever its capitals; None where there is no such name.

        Warns where it is one of our own that a package adds too.
        """
        if not isinstance(name, str):
            return None
        known = next((each for each in self.names() if each.lower() == name.lower()), None)
        if known in self.own:
            for point in _found(self.name).get(name.lower(), ()):
                warnings.warn(
                    f"{self.what} {known!r}: {_package(point)} adds another of that name, which is not used, since "
                    "qat-engine's own come first; that package has to choose another name",
                    QatWarning,
                    stacklevel=2,
                )
        return known

    def version(self, name: str) -> str:
        """The package that adds it, with its version."""
        dist = _found(self.name)[name.lower()][0].dist
        return f"{dist.name} {dist.version}" if dist else "a package without metadata"

    def load(self, name: str) -> Any:
        """The object that a package adds under a name.

        Raises:
            QatError: it cannot be imported, or two packages have one of that name.
        """
        point, *others = _found(self.name)[name.lower()]
        if others:
            raise QatError(
                f"{self.what} {name!r} is added by {_package(point)} and by {_package(others[0])}, and which one is meant "
                "cannot be told; uninstall one of them"
            )
        try:
            return point.load()
        except Exception as error:  # whatever a package of others may raise while it is imported
            raise QatError(
                f"{self.what} {name!r} of {_package(point)} cannot be imported ({type(error).__name__}: {one_line(error)}); "
                "install what it needs, or another release of it"
            ) from error


@functools.cache
def _found(group: str) -> dict[str, list[EntryPoint]]:
    """The entry points of a group by their names in small letters."""
    from importlib.metadata import entry_points  # here, since it takes longer to import than all of this module's users

    found: dict[str, list[EntryPoint]] = {}
    for point in entry_points(group=group):
        found.setdefault(point.name.lower(), []).append(point)
    return found


@contextlib.contextmanager
def working_directory_last() -> Iterator[None]:
    """Imports look there at the end, unless Python itself was told to look there anyway: a file there never stands in for a
    library.
    """
    folder = str(Path.cwd())
    if folder in sys.path or "" in sys.path:
        yield
        return
    sys.path.append(folder)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):  # the module may have changed the path itself
            sys.path.remove(folder)


def import_own(module: str) -> None:
    """Import a user's module, and so run it, that cells, quantizers and objectives in it are known.

    Raises:
        QatError: it cannot be imported.
    """
    _imported(
        module,
        f"--import {module}:",
        "give the name of a module that is installed or in the working directory, as mynet or package.cells",
    )


def own_object(name: str, what: str, form: str) -> Any:
    """Something in a module of the user's own, which is imported, and so run.

    The module is looked up in the working directory too, after all other places, and only while it is imported.

    Args:
        name: "package.module:object".
        what: It is, for messages, as "network".
        form: It is to be given in, for messages, as "package.module:Class".

    Returns:
        The object.

    Raises:
        QatError: it cannot be imported, or there is nothing of that name in it.
    """
    module_name, _, object_name = name.partition(":")
    module = _imported(module_name, f"{what} {name!r}", f"give it as {form}")
    if not hasattr(module, object_name):
        where = getattr(module, "__file__", None) or "a part of Python"
        raise QatError(
            f"{what} {name!r}: {module_name} is {where}, which has no {object_name!r}; if another file is meant, rename that, "
            "since installed modules go before the working directory"
        )
    return getattr(module, object_name)


def _imported(module: str, subject: str, advice: str) -> ModuleType:
    """A user's module. Raises QatError that begins with the subject where it cannot be imported."""
    try:
        with working_directory_last():
            return importlib.import_module(module)
    except Exception as error:  # whatever the code of the module may raise, a SyntaxError among it
        raise QatError(f"{subject} cannot be imported ({type(error).__name__}: {error}); {advice}") from error


def _words(names: Iterable[str]) -> set[str]:
    return {name.lower() for name in names}


def _package(point: EntryPoint) -> str:
    return f"the package {point.dist.name}" if point.dist else "a package without metadata"
