"""Tutorials run from their text: blocks of python and sh in order, in one folder, and what each printed beside what is said.

``python tests/tutorials.py docs/tutorials/pytorch.md`` runs a page and writes what it printed into it; with ``--check`` it
says what differs.
"""

from __future__ import annotations

import contextlib
import io
import linecache
import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from qat.cli import main

FOLDER = Path(__file__).parent.parent / "docs" / "tutorials"
PAGES = {page.stem: page for page in sorted(FOLDER.glob("*.md")) if page.stem != "README"}
POINTS = 5.0  #: by which a figure in percent, points or dB may differ: another processor trains with other roundings
FENCE = re.compile(r"^```(\w+)\n(.*?)^```\n(?:\n```text\n(.*?)^```\n)?", re.DOTALL | re.MULTILINE)
#: What is measured: in percent, points or dB, or an accuracy as commands print it.
MEASURED = re.compile(
    r"(?:(?<=Accuracy: )|(?<=Accuracy before: )|(?<=Accuracy after:  )|(?=-?[\d.]+ ?(?:%|dB|points)))(-?\d+(?:\.\d+)?)(?: ?%)?"
)
NUMBERS = re.compile(r"[\d.,+]+| +|%")
ELLIPSIS = "..."
HERE = "here:"  #: begins a line that tells what one machine found, as which layers a search chose
VERSION = re.compile(r"\d+\.\d+\.\d+[\w.+-]*")  #: of a package that is installed


@dataclass(frozen=True)
class Block:
    """Code of a page.

    Attributes:
        language: python or sh.
        code: what is run.
        printed: what the page says that it prints; "" where it says nothing.
    """

    language: str
    code: str
    printed: str


def blocks(text: str) -> list[Block]:
    """The blocks of a page, in order."""
    return [Block(language, code, printed or "") for language, code, printed in FENCE.findall(text)]


def runs(page: Path) -> Iterator[tuple[Block, str]]:
    """Run a page in the working directory.

    Yields:
        Each block, and what it printed.
    """
    names: dict[str, object] = {"__name__": "tutorial"}
    for number, block in enumerate(blocks(page.read_text(encoding="utf-8"))):
        printed = io.StringIO()
        if block.language == "python":
            name = f"<{page.name}, block {number}>"
            linecache.cache[name] = (len(block.code), None, block.code.splitlines(keepends=True), name)
            with contextlib.redirect_stdout(printed):
                exec(compile(block.code, name, "exec"), names)
        else:
            _shell(block.code, printed)
        yield block, printed.getvalue()


def _shell(code: str, printed: io.StringIO) -> None:
    """Commands of qat in this process, which has imported what they need; all others by the shell."""
    lines = code.replace("\\\n", " ").splitlines()
    if all(line.startswith("qat ") for line in lines):
        for line in lines:
            with contextlib.redirect_stdout(printed):
                status = main(shlex.split(line, comments=True)[1:])
            if status:
                raise AssertionError(f"{line}: exit status {status}")
        return
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["sh", "-e", "-c", code], capture_output=True, text=True, check=False, env=os.environ | {"PATH": path}
    )
    if done.returncode:
        raise AssertionError(f"{code}: exit status {done.returncode}: {done.stderr}")
    printed.write(done.stdout)


def difference(said: str, printed: str) -> str | None:
    """Where what was printed is not what the page says.

    Args:
        said: of the page; a line of "..." stands for any lines.
        printed: when it was run.

    Returns:
        A sentence; None where all is equal but figures that are measured, within ``POINTS``, and versions.
    """
    lines, pattern = _compared(printed), _compared(said)
    if ELLIPSIS in pattern:
        lines = chosen(pattern, lines)
        pattern = [line for line in pattern if line != ELLIPSIS]
    if len(pattern) != len(lines):
        return f"{len(pattern)} lines are said, and {len(lines)} found in: {printed}"
    for ours, theirs in zip(pattern, lines, strict=True):
        if _without_figures(ours) != _without_figures(theirs):
            return f"{theirs!r} in place of {ours!r}"
        pairs = zip(MEASURED.findall(ours), MEASURED.findall(theirs), strict=True)
        if any(abs(float(a) - float(b)) > POINTS for a, b in pairs):
            return f"{theirs!r} is more than {POINTS} from {ours!r}"
    return None


def chosen(pattern: list[str], lines: list[str]) -> list[str]:
    """Of the lines that were printed those that a page shows: each the first that is alike but for its numbers, in order."""
    found, rest = [], iter(lines)
    for line in pattern:
        if line != ELLIPSIS:
            found += [next((x for x in rest if NUMBERS.sub("", x) == NUMBERS.sub("", line)), f"no line as {line!r}")]
    return found


def _compared(text: str) -> list[str]:
    """Its lines, without those that tell of one machine."""
    return [line.rstrip() for line in text.splitlines() if not line.startswith(HERE)]


def _without_figures(line: str) -> str:
    return " ".join(VERSION.sub("VERSION", MEASURED.sub("MEASURED", line)).split())


def rewritten(page: Path) -> str:
    """The page with what its blocks print now."""
    text, printed = page.read_text(encoding="utf-8"), [out for _, out in runs(page)]

    def block(found: re.Match[str]) -> str:
        out = printed.pop(0)
        if found[3] and ELLIPSIS in (pattern := found[3].splitlines()):
            lines = iter(chosen(pattern, out.splitlines()))
            out = "".join(f"{line if line == ELLIPSIS else next(lines)}\n" for line in pattern)
        said = f"\n```text\n{out}```\n" if out and found[3] is not None else ""
        return f"```{found[1]}\n{found[2]}```\n{said}"

    return FENCE.sub(block, text)


def differences(page: Path) -> list[str]:
    """What a run prints otherwise than the page says, a line for each block."""
    found = [(block, difference(block.printed, out)) for block, out in runs(page) if block.printed]
    return [f"{page.name}: {block.code.splitlines()[0]}: {wrong}" for block, wrong in found if wrong]


def in_a_folder_of_its_own(given: str, *, write: bool) -> list[str]:
    """Run a page there, and write what it printed into it or say what differs."""
    page, start = Path(given).resolve(), os.getcwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            text, wrong = (rewritten(page), []) if write else (None, differences(page))
        finally:
            os.chdir(start)
    if text is not None:
        page.write_text(text, encoding="utf-8")
    return wrong


if __name__ == "__main__":
    os.environ["COLUMNS"] = "1000"  # no line of a command is broken
    given = sys.argv[1:]
    found = [
        line
        for name in given
        if name != "--check"
        for line in in_a_folder_of_its_own(name, write="--check" not in given)
    ]
    print(*found, sep="\n", end="\n" if found else "")
    sys.exit(bool(found))
