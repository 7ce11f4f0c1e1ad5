"""What to type where a package is missing: advice that is right in a checkout and where a wheel was installed."""

from __future__ import annotations

import os
import re
import shlex
import sys
from importlib import metadata
from pathlib import Path

NAME = "qat-engine"  #: of the distribution, which no index has: 'pip install qat-engine[torch]' would find nothing


def how_to_install(*extras: str) -> str:
    """The command that installs what pip extras of this package stand for.

    In a checkout it is the editable installation with these extras. Elsewhere the packages themselves are named, as the
    metadata of the installed package list them.

    Args:
        *extras: names of extras, as "torch".

    Returns:
        A command line for a shell.

    >>> from qat.extras import how_to_install
    >>> how_to_install("torch").startswith("pip install ")
    True
    """
    root, chosen = checkout(), f"[{','.join(extras)}]"
    if root is not None:
        return f"pip install -e {shlex.quote(_shown(root) + chosen)}"
    needed = [requirement for extra in extras for requirement in requirements(extra)]
    return f"pip install {shlex.join(needed or [NAME + chosen])}"


def checkout() -> Path | None:
    """The folder of the checkout that this package is imported from; None where it was installed."""
    root = Path(__file__).resolve().parents[1]
    setup = root / "setup.py"
    try:
        return root if f'name="{NAME}"' in setup.read_text(encoding="utf-8") else None
    except OSError:
        return None


def requirements(extra: str) -> list[str]:
    """The packages of an extra with the versions that they need, as the metadata of the installed package say it.

    Args:
        extra: its name.

    Returns:
        As ["torch>=2.10"]; empty where there are no metadata.
    """
    try:
        listed = metadata.requires(NAME) or []
    except metadata.PackageNotFoundError:
        return []
    found = []
    for line in listed:
        requirement, _, marker = line.partition(";")
        wanted = re.search(r"""extra\s*==\s*["']([^"']+)["']""", marker)
        if wanted and wanted[1].replace("_", "-") == extra.replace("_", "-") and _holds(marker):
            found.append(requirement.strip().replace(" ", ""))
    return found


def _holds(marker: str) -> bool:
    """Whether a marker's conditions on Python's version hold, the only ones that our extras have."""
    own = sys.version_info[:2]
    for sign, text in re.findall(r"""python_version\s*(<|>=)\s*["'](\d+\.\d+)["']""", marker):
        other = tuple(int(part) for part in text.split("."))
        if not (own < other if sign == "<" else own >= other):
            return False
    return True


def _shown(root: Path) -> str:
    """The checkout as one types it: a point where one stands in it."""
    return "." if os.path.realpath(os.curdir) == os.path.realpath(root) else str(root)
