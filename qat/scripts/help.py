"""Read a page of the documentation; without a name, list the pages."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import qat
from qat import hints
from qat.cli import run_script
from qat.console import make_console, print_whole, result
from qat.errors import QatError
from qat.reading import read_text


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's flags."""
    parser.add_argument("page", nargs="?", help="its name, as quantizers or tutorials/pytorch")


def pages() -> dict[str, Path]:
    """The pages that come with the package, by name.

    Returns:
        Their files, in the order of their names, those in folders after the others.
    """
    folder = Path(qat.__file__).parent / "docs"
    found = {path.relative_to(folder).with_suffix("").as_posix(): path for path in sorted(folder.glob("*.md"))}
    found |= {path.relative_to(folder).with_suffix("").as_posix(): path for path in sorted(folder.glob("[!_]*/*.md"))}
    return {name.removesuffix("/README"): path for name, path in found.items() if name != "README"}


def run(args: argparse.Namespace) -> None:
    """Run the command."""
    known = pages()
    if args.page is None:
        for name, path in known.items():
            title = read_text(path, "install qat again").partition("\n")[0].lstrip("# ")
            result(f"  {name:<26} {title}", pages=[{"name": name, "title": title}])
        result("'qat help NAME' shows one; 'qat COMMAND --help' the flags of a command")
        return
    name = args.page.removeprefix("docs/").removesuffix(".md")
    if name not in known:
        inside = [page for page in known if page.endswith(f"/{name}")]  # as keras for tutorials/keras
        name = inside[0] if len(inside) == 1 else name
    if name not in known:
        raise QatError(f"there is no page {args.page!r}{hints.perhaps(name, known)}; 'qat help' lists them")
    text = read_text(known[name], "install qat again")
    result(page=name, markdown=text)
    console = make_console()
    if args.json or args.quiet or not console.is_terminal:
        print_whole(text, end="")
        return
    from rich.markdown import Markdown

    console.print(Markdown(text))


if __name__ == "__main__":
    sys.exit(run_script(add_arguments, run, __doc__))
