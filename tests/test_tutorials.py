"""docs/tutorials/, run from their text: what each block prints is what the page says."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tutorials
from tutorials import FOLDER, PAGES, blocks, difference

from qat.registry import BACKENDS, installed
from qat.targets.c.cortex_m.cores import missing_tools

#: The backend that each page trains with.
BACKEND = {"keras": "keras", "mindspore": "mindspore"}


def missing(page: str) -> str:
    """What the page needs and is not here; "" where all is."""
    backend = BACKEND.get(page, "torch")
    if not installed(BACKENDS[backend]):
        return f"needs {backend}"
    text = PAGES[page].read_text(encoding="utf-8")
    if re.search(r"\.c\b", text) and shutil.which("gcc") is None:
        return "needs gcc, a compiler for this machine"
    return missing_tools() if "--cores" in text else ""


@pytest.mark.parametrize("page", PAGES)
def test_a_tutorial_runs_and_prints_what_it_says(page: str, tmp_path: Path) -> None:
    """In a process of its own: another framework in the same one makes torch train with other roundings."""
    if lacking := missing(page):
        pytest.skip(f"{page}.md was not run: it {lacking}")
    done = subprocess.run(
        [sys.executable, tutorials.__file__, "--check", PAGES[page]],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stderr[-2000:]


@pytest.mark.parametrize("page", PAGES)
def test_every_figure_of_a_tutorial_is_one_that_its_run_is_compared_with(page: str) -> None:
    """Each block of text stands behind the code that prints it, and every page shows codes that were compared."""
    text = PAGES[page].read_text(encoding="utf-8")
    said = [block.printed for block in blocks(text) if block.printed]
    assert len(said) == len(re.findall(r"^```text$", text, re.MULTILINE))
    assert re.search(r"codes compared in .*, 0 differ$", "".join(said), re.MULTILINE)
    assert re.search(r"(?:%|Accuracy: [\d.]+)$", "".join(said), re.MULTILINE)


def test_the_index_lists_every_tutorial() -> None:
    listed = re.findall(
        r"^\d+\. \[.*?\]\((\w+)\.md\)", (FOLDER / "README.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert sorted(listed) == sorted(PAGES)


@pytest.mark.parametrize(
    ("said", "printed"),
    [
        ("3,600 codes compared, 0 differ\n", "3,600 codes compared, 1 differ\n"),
        ("3,600 codes compared, 0 differ\n", "360 codes compared, 0 differ\n"),
        ("float: 96.67 %\n", "float: 91.00 %\n"),
        ("Accuracy: 90.83\n", "Accuracy: 80.00\n"),
        ("fc: 36.8 dB\n", "fc: 20.1 dB\n"),
        ("6,052 bytes of RAM\n", "6,056 bytes of RAM\n"),
        ("one line\n", "one line\nand another\n"),
        ("...\nAccuracy: 90.83\n...\n", "other\nlines\n"),
        ("...\n3,600 codes, 0 differ\n", "saved\n3,600 codes, 2 differ\n"),
        ("...\n5 codes, 0 differ\n6 codes, 0 differ\n", "5 codes, 0 differ\n"),
        ("here: fc\nand there\n", "here: fc\n"),
    ],
)
def test_a_wrong_figure_is_found(said: str, printed: str) -> None:
    assert difference(said, printed) is not None
    assert difference(said, said.replace("...\n", "")) is None


def test_what_may_differ_is_not_found() -> None:
    said = (
        "codes compared in LiteRT 2.3.0 (XNNPACK), PyTorch 2.13.0+cpu, 0 differ\nfloat: 96.67 %\nhere: fc gets 8 bits\n"
    )
    printed = (
        "codes compared in LiteRT 2.4.1 (XNNPACK), PyTorch 2.14.0, 0 differ\nfloat: 94.44 %\nhere: conv gets 8 bits\n"
    )
    assert difference(said, printed) is None
    assert (
        difference("...\nAccuracy: 90.83\n...\n", "Epoch: [1/2], loss: [0.3]\nAccuracy: 92.22 %\nsaved x.ckpt\n")
        is None
    )


def test_a_page_whose_figure_is_wrong_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "page.md"
    python, sh = "```python\nx = 6 * 7\nprint(x, 'codes')\n```\n", "```sh\necho hello\n```\n"
    text = f"{python}\n```text\n42 codes\n```\n\n{sh}\n```text\nhello\n```\n"
    page.write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert tutorials.differences(page) == []
    page.write_text(text.replace("42", "41").replace("\nhello", "\ngoodbye"), encoding="utf-8")
    assert tutorials.differences(page) == [
        "page.md: x = 6 * 7: '42 codes' in place of '41 codes'",
        "page.md: echo hello: 'hello' in place of 'goodbye'",
    ]
    assert tutorials.rewritten(page) == text
    page.write_text("```sh\nfalse\n```\n", encoding="utf-8")
    with pytest.raises(AssertionError, match="exit status 1"):
        tutorials.differences(page)


# -- notebooks ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def notebooks() -> Any:
    pytest.importorskip("jupytext")
    spec = importlib.util.spec_from_file_location("notebooks", FOLDER / "notebooks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", PAGES)
def test_a_notebook_has_the_blocks_of_its_page_and_what_they_print(page: str, notebooks: Any) -> None:
    import nbformat

    found = notebooks.notebook(PAGES[page])
    nbformat.validate(found)
    cells = [cell for cell in found.cells if cell.cell_type == "code"]
    page_blocks = blocks(PAGES[page].read_text(encoding="utf-8"))
    assert len(cells) == len(page_blocks)
    for cell, block in zip(cells, page_blocks, strict=True):
        assert cell.source == ("%%sh\n" if block.language == "sh" else "") + block.code.rstrip("\n")
        assert "".join(output.text for output in cell.outputs) == block.printed
    text = "\n".join(cell.source for cell in found.cells if cell.cell_type == "markdown")
    assert "```text" not in text
    for link in re.findall(r"\]\(([^)#]+)", text):
        source = link.replace("../docs/", "").replace(".ipynb", ".md")
        assert ((FOLDER if link.endswith(".ipynb") else FOLDER.parent) / source).is_file(), link


def test_all_notebooks_are_written(tmp_path: Path, notebooks: Any, capsys: pytest.CaptureFixture[str]) -> None:
    notebooks.main(tmp_path / "out")
    assert sorted(path.stem for path in (tmp_path / "out").glob("*.ipynb")) == sorted(PAGES)
    assert len(capsys.readouterr().out.splitlines()) == len(PAGES)
    first = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    notebooks.main(tmp_path / "out")
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == first
