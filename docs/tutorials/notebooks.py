"""The tutorials as Jupyter notebooks: ``python docs/tutorials/notebooks.py FOLDER``, or ``make notebooks``.

A page stays the source. Its blocks become cells, sh as ``%%sh``, and what it says that a block prints is the cell's output.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import jupytext
import nbformat

PAGES = sorted(page for page in Path(__file__).resolve().parent.glob("*.md") if page.stem != "README")
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
HEADER = """---
jupyter:
  kernelspec:
    display_name: Python 3
    language: python
    name: python3
---

"""
OUTPUT = re.compile(r"\A```text\n(.*?)```\n*", re.DOTALL)


def notebook(page: Path, docs: str = "../docs") -> Any:
    """A page as a notebook.

    Args:
        page: the Markdown file.
        docs: where the pages are, seen from the notebook, for its links.

    Returns:
        The notebook, as nbformat has it.
    """
    found = jupytext.reads(HEADER + page.read_text(encoding="utf-8"), fmt="md")
    cells: list[Any] = []
    for number, cell in enumerate(found.cells):
        if cell.cell_type == "markdown":
            if cells and cells[-1].cell_type == "code" and (said := OUTPUT.match(cell.source)):
                cells[-1].outputs = [nbformat.v4.new_output("stream", name="stdout", text=said[1])]
                cell.source = cell.source[said.end() :]
            cell.source = _linked(cell.source, docs)
        if cell.source:
            cell.id = f"{page.stem}-{number}"  # the same each time
            cells.append(cell)
    found.cells = cells
    found.metadata = {"kernelspec": KERNEL, "language_info": {"name": "python"}}
    return found


def _linked(text: str, docs: str) -> str:
    """Links to other tutorials lead to their notebooks, those to other pages to the pages."""
    text = re.sub(r"\]\((\w+)\.md(#[\w-]*)?\)", r"](\1.ipynb)", text)
    return text.replace("](../", f"]({docs}/")


def main(folder: Path) -> None:
    """Write all of them."""
    folder.mkdir(parents=True, exist_ok=True)
    for page in PAGES:
        path = folder / f"{page.stem}.ipynb"
        nbformat.write(notebook(page), path)
        print(path)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
