"""What the pages for readers name exists: links and their anchors, files, Python names, commands and their flags."""

from __future__ import annotations

import ast
import importlib
import re
import shlex
from collections.abc import Iterator
from functools import cache, reduce
from pathlib import Path

import pytest

from qat.cli import Parser, add_command_arguments
from qat.commands import COMMANDS
from qat.data.download import SOURCES
from qat.quantizers import FAMILY
from qat.registry import TARGETS
from qat.scripts.help import pages

ROOT = Path(__file__).parent.parent
DOCS = sorted((ROOT / "docs").rglob("*.md"))
PAGES = [*sorted(ROOT.glob("*.md")), *DOCS, *sorted(ROOT.glob("examples/*/*.md"))]
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
FOLDERS = ("qat", "tests", "benchmarks", "scripts", "networks", "backends", "docs", "examples")


def without_code(text: str) -> str:
    """A page without its blocks of code and its code within lines."""
    text = re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"^ {4}(?![-*\d]).*$", "", text, flags=re.MULTILINE)
    return re.sub(r"`[^`\n]*`", "", text)


def anchors(text: str) -> set[str]:
    """Those that GitHub makes of the headings: small letters, digits and hyphens; of equal ones the second gets -1."""
    found: list[str] = []
    for heading in re.findall(r"^#+ +(.*)$", re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE), re.M):
        shown = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        found.append(re.sub(r"[^\w -]", "", shown).strip().replace(" ", "-"))
    return {f"{name}-{n}" if (n := found[:index].count(name)) else name for index, name in enumerate(found)}


def dead_links(page: Path, text: str) -> list[str]:
    """The relative links of a page that lead nowhere."""
    dead = []
    for link in re.findall(r"\]\(([^)\s]+)\)", without_code(text)):
        place, _, anchor = link.partition("#")
        if re.match(r"[a-z]+:", place):
            continue
        target = (page.parent / place).resolve() if place else page
        there = target == page or (target.exists() and target.is_relative_to(ROOT))
        if there and anchor and target.suffix == ".md":
            there = anchor in anchors(text if target == page else target.read_text(encoding="utf-8"))
        if not there:
            dead.append(link)
    return dead


def missing_paths(text: str, beside: Path = ROOT) -> list[str]:
    """Files and folders that a text names and that are neither in this repository nor beside the page, in ``beside``."""
    named = re.findall(rf"(?<![\w./<-])(?:{'|'.join(FOLDERS)})/[\w./-]*[\w/]", text)
    return [path for path in named if not ((ROOT / path).exists() or (beside / path).exists())]


def unknown_names(text: str) -> list[str]:
    """Python names below qat, as `qat.pruning`, that do not exist. Code that calls them is looked at up to the bracket. In
    quotation marks they are keys of a file's metadata, as "qat.recipe".
    """
    unknown = []
    for name in dict.fromkeys(re.findall(r"(?<![\w./\"-])qat(?:\.[A-Za-z_]\w*)+", text)):
        parts = name.split(".")
        try:
            reduce(getattr, parts[1:], importlib.import_module("qat"))
        except AttributeError:
            if not _is_module(parts):
                unknown.append(name)
    return unknown


def _is_module(parts: list[str]) -> bool:
    """True where a module of that name has what stands behind it."""
    for length in range(len(parts), 1, -1):
        try:
            module = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        try:
            return reduce(getattr, parts[length:], module) is not None
        except AttributeError:
            return False
    return False


@cache
def flags_of(module: str) -> frozenset[str]:
    parser = Parser()
    add_command_arguments(parser, importlib.import_module(f"qat.scripts.{module}").add_arguments)
    return frozenset({*parser._option_string_actions, "--flagfile"})


def command_lines(text: str) -> Iterator[tuple[str, list[str]]]:
    """The module and the arguments of each command, in blocks and in lines."""
    text = text.replace("\\\n", " ")
    for line in re.findall(r"(?:^ *|`|\" )((?:qat [a-z]|python scripts/)[^`\n]*)", text, re.MULTILINE):
        program, *rest = shlex.split(re.sub(r"(?<=[\w)}\"'])'(?=s\b)", "", line), comments=True)
        if program == "python":
            yield Path(rest[0]).stem, rest[1:]
        else:
            yield COMMANDS[rest[0]][0] if rest[0] in COMMANDS else f"no command {rest[0]}", rest[1:]


def unknown_flags(text: str) -> list[str]:
    unknown = []
    for module, arguments in command_lines(text):
        if not (ROOT / "qat" / "scripts" / f"{module}.py").is_file():
            unknown.append(module)
            continue
        flags = [x.partition("=")[0] for x in arguments if re.match(r"--?[A-Za-z]", x)]
        unknown += [f"{module} {flag}" for flag in flags if flag not in flags_of(module)]
    return unknown


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    assert dead_links(page, page.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_every_path_it_names_exists(page: Path) -> None:
    assert missing_paths(page.read_text(encoding="utf-8"), page.parent) == []


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_every_python_name_it_names_exists(page: Path) -> None:
    assert unknown_names(page.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_every_command_it_names_has_its_flags(page: Path) -> None:
    assert unknown_flags(page.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "index", [page for page in DOCS if page.name == "README.md"], ids=lambda page: page.parent.name
)
def test_the_index_of_a_folder_lists_every_page(index: Path) -> None:
    """And those of the folders below it; the site's side bar is made from these lists."""
    below = {
        f"{page.parent.name}/README.md"
        for page in DOCS
        if page.name == "README.md" and page.parent.parent == index.parent
    }
    pages = {page.name for page in index.parent.glob("*.md")} - {"README.md"} | below
    found = re.findall(r"^(?:\d+\.|-) +\[[^\]]+\]\(([\w/]+\.md)\)", index.read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(found) == sorted(pages)


def test_every_folder_of_pages_has_an_index() -> None:
    assert [page for page in DOCS if not (page.parent / "README.md").is_file()] == []


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_every_test_it_names_exists(page: Path) -> None:
    file = ""
    for named, name in re.findall(r"(tests/\w+\.py)?::(test_\w+)", page.read_text(encoding="utf-8")):
        file = named or file  # `::test_that` is of the file named before
        assert f"def {name}(" in (ROOT / file).read_text(encoding="utf-8"), f"{file} has no {name}"


def test_every_quantizer_has_its_place_in_the_docs() -> None:
    text = (ROOT / "docs" / "quantizers.md").read_text(encoding="utf-8")
    known = {type(quantizer).__name__ for pair in FAMILY.values() for quantizer in pair[:2]}
    assert known - set(re.findall(r"\w+", text)) == set()


def test_every_benchmark_has_its_place_in_the_docs() -> None:
    text = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    files = [*(ROOT / "benchmarks").glob("*.py")]
    scripts = {file.name for file in files if "__main__" in file.read_text(encoding="utf-8")}
    assert set(re.findall(r"benchmarks/(\w+\.py)", text)) == scripts


def test_every_file_format_has_its_place_in_the_docs() -> None:
    text = (ROOT / "docs" / "formats.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    assert {name for row in rows for name in re.findall(r"`(\w+)`", row.split("|")[1])} == set(TARGETS)


def test_the_docs_list_every_format_of_compile() -> None:
    (line,) = re.findall(
        r"^ +qat compile .*$", (ROOT / "docs" / "commands.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert {name.lower() for name in TARGETS} - set(re.findall(r"\w+", line)) == set()


def test_every_download_has_its_place_in_the_docs() -> None:
    text = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    assert [name for name in SOURCES if not re.search(rf"`{name}`|qat data {name} ", text)] == []


def test_every_extra_has_its_place_in_the_docs() -> None:
    text = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    (table,) = re.findall(r"^\| extra \|.*\n((?:\|.*\n)+)", text, re.MULTILINE)
    extras = re.search(r"extras_require=\{(.*?)\}", (ROOT / "setup.py").read_text(encoding="utf-8"), re.DOTALL)
    assert extras is not None
    assert {x for row in table.splitlines() for x in re.findall(r"`(\w+)`", row.split("|")[1])} == set(
        re.findall(r'"(\w+)":', extras[1])
    )


def test_every_command_has_its_place_in_the_docs() -> None:
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    named = {module for module, _ in command_lines(text)}
    assert {module for module, _ in COMMANDS.values()} - named == set()


def test_the_table_of_packages_shows_the_layers_that_import_linter_checks() -> None:
    (lines,) = re.findall(
        r"^layers = \[\n(.*?)^\]", (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.DOTALL | re.M
    )
    checked = [set(re.findall(r"(?<!\()\b\w+", line)) for line in re.findall(r'"(.*)"', lines)]
    shown: list[set[str]] = []
    text = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    for layer, package in re.findall(r"^\| (\d*) ?\| `qat/(\w+)(?:/|\.py)` \|", text, re.MULTILINE):
        shown += [set()] if layer else []
        shown[-1].add(package)
    assert shown == checked
    assert set.union(*shown) == {path.stem for path in (ROOT / "qat").iterdir()} - {
        "__init__",
        "__pycache__",
        "py",
        "docs",
    }


def test_every_page_leads_to_the_glossary() -> None:
    pages = [ROOT / "README.md", *DOCS]
    assert [page.name for page in pages if "glossary.md" not in page.read_text(encoding="utf-8")] == ["glossary.md"]


def test_the_glossary_is_in_alphabetical_order() -> None:
    words = re.findall(r"^## (.*)$", (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert words == sorted(words, key=str.lower)
    assert len(words) > 20


def test_every_page_that_the_code_names_exists() -> None:
    files = [*(ROOT / "qat").rglob("*.py"), *(ROOT / "tests").glob("*.py"), ROOT / "setup.py", ROOT / "pyproject.toml"]
    named = {path for file in files for path in re.findall(r"docs/[\w/]+\.md", file.read_text(encoding="utf-8"))}
    assert "docs/numerics.md" in named
    assert [path for path in sorted(named) if not (ROOT / path).is_file()] == []


def test_what_is_printed_names_pages_as_the_command_shows_them() -> None:
    """A wheel brings no folder docs; 'qat help PAGE' works there as in a checkout."""
    named = set()
    for file in (ROOT / "qat").rglob("*.py"):
        source = file.read_text(encoding="utf-8")
        if not re.search(r"docs/\w+\.md|qat help", source):
            continue
        tree = ast.parse(source)
        documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        documents = [node.body[0] for node in ast.walk(tree) if isinstance(node, documented) and node.body]
        docstrings = {id(node.value) for node in documents if isinstance(node, ast.Expr)}
        if file.parent.name == "scripts" and isinstance(tree.body[0], ast.Expr):
            docstrings.discard(id(tree.body[0].value))  # the command's help begins with it
        texts = [
            node.value
            for node in ast.walk(tree)
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings
        ]
        assert [text for text in texts if re.search(r"docs/\w+\.md", text)] == [], file
        named |= {page for text in texts for page in re.findall(r"qat help (\w+)", text)}
    assert {"quantizers", "zoo", "run_config"} <= named <= {*pages(), "NAME"}


def test_help_shows_the_pages_in_folders_too(capsys: pytest.CaptureFixture[str]) -> None:
    from qat.cli import main

    written = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").glob("*/*.md")}
    assert {f"{name}.md" for name in pages()} >= {name for name in written if not name.endswith("README.md")}
    for name in ("tutorials/pytorch", "docs/tutorials/pytorch.md", "pytorch"):
        assert main(["help", name]) == 0
        assert capsys.readouterr().out.startswith("# Your PyTorch network")
    assert main(["help", "tutorials"]) == 0
    assert main(["help", "tutorials/torch"]) == main(["help", "README"]) == 2
    capsys.readouterr()
    assert main(["help", "c"]) == 0  # deploy/c does not hide it
    assert capsys.readouterr().out.startswith("# C\n")


def test_what_does_not_exist_is_found() -> None:
    page = ROOT / "docs" / "made_up.md"
    text = (
        "# A b, c\n[a](numerics.md#softmax) [b](numerics.md#hardmax) [c](nowhere.md) [d](#a-b-c) [e](#a-b) `[f](no.md)`\n"
        "`qat/cells/base.py`, qat/nowhere/attic.py, scripts/train.py and `tests/`\n"
        "qat.Network, `qat.deploy.verify.compare(x)`, qat.Netwrok, qat.deploy.verify.compair\n\n"
        "    qat train --data_path X --epoch 3     # --none\n"
        "    python scripts/train.py --lr=1 \\\n        --rate 2\n    qat trian\n"
    )
    assert dead_links(page, text) == ["numerics.md#hardmax", "nowhere.md", "#a-b"]
    assert missing_paths(text) == ["qat/nowhere/attic.py"]
    assert unknown_names(text) == ["qat.Netwrok", "qat.deploy.verify.compair"]
    assert unknown_flags(text) == ["train --epoch", "train --rate", "no command trian"]
