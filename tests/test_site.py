"""The documentation site: it is built without a warning, a framework or a network, and what it holds is complete."""

from __future__ import annotations

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

import qat
from qat.commands import COMMANDS

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "docs" / "_site"))

BUILD = """
import sys
class NoNetwork:
    def __getattr__(self, name): raise OSError("the site is built without a network")
import socket
socket.create_connection = socket.getaddrinfo = NoNetwork()
sys.modules.update(dict.fromkeys(["torch", "tensorflow", "keras", "mindspore", "onnx", "onnxruntime", "ai_edge_litert"]))
from sphinx.cmd.build import main
sys.exit(main(sys.argv[1:]))
"""


def build(source: Path, out: Path) -> subprocess.CompletedProcess[str]:
    """Build as ``make docs`` does, where no framework can be imported and no address can be found."""
    options = ["-c", "docs", "-q", "-W", "--keep-going", "-j", "2", "-b", "html", ".", str(out)]
    return subprocess.run(
        [sys.executable, "-c", BUILD, *options], cwd=source, capture_output=True, text=True, timeout=900, check=False
    )


def test_the_site_is_built_without_a_warning_and_is_complete(tmp_path: Path) -> None:
    """One test, since building takes seconds: the workers of pytest-xdist would build it again."""
    site = tmp_path / "html"
    done = build(ROOT, site)
    assert (done.returncode, done.stderr) == (0, "")
    nothing_is_loaded_from_elsewhere_and_every_link_leads_somewhere(site)
    every_command_has_its_options_and_every_public_name_its_place(site)
    names_and_commands_in_code_style_lead_to_the_reference(site)
    a_link_to_a_folder_that_is_no_page_is_plain_text(site)
    the_search_knows_the_pages(site)


class Addresses(HTMLParser):
    """What a page refers to: ``loaded`` by the browser on its own, and ``linked``; and its ``ids``."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.linked: list[str] = []
        self.ids: set[str] = set()
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.ids |= {values.get("id") or ""}
        address = values.get("src") or values.get("href") or ""
        if tag in ("script", "img", "iframe") or (
            tag == "link" and values.get("rel") in ("stylesheet", "icon", "preload")
        ):
            self.loaded.append(address)
        elif tag == "a":
            self.linked.append(address)


def nothing_is_loaded_from_elsewhere_and_every_link_leads_somewhere(site: Path) -> None:
    pages = {page: Addresses(page) for page in site.rglob("*.html") if "_downloads" not in page.parts}
    assert len(pages) > 80
    elsewhere = {address for page in pages.values() for address in page.loaded if re.match(r"(\w+:)?//", address)}
    assert elsewhere == set()
    dead = []
    for page, addresses in pages.items():
        for address in {*addresses.loaded, *addresses.linked}:
            place, _, anchor = address.partition("#")
            if not address or re.match(r"(\w+:)?//|mailto:|data:", address):
                continue
            target = (page.parent / place.partition("?")[0]).resolve() if place else page
            if not target.exists() or (anchor and target in pages and anchor not in pages[target].ids):
                dead.append((str(page.relative_to(site)), address))
    assert dead == []
    styles = "".join(file.read_text(encoding="utf-8") for file in site.rglob("*.css"))
    assert re.findall(r"url\(\s*['\"]?(?:https?:)?//", styles) == []


def every_command_has_its_options_and_every_public_name_its_place(site: Path) -> None:
    for name in COMMANDS:
        page = (site / "docs" / "reference" / "commands" / f"{name}.html").read_text(encoding="utf-8")
        assert 'class="std option"' in page, name
    ids = set().union(*(Addresses(page).ids for page in (site / "docs" / "reference" / "api").glob("*.html")))
    checkpoint = (site / "docs" / "reference" / "api" / "training.html").read_text(encoding="utf-8")
    assert "under which --" in (site / "docs" / "reference" / "api" / "tasks.html").read_text(encoding="utf-8")
    assert "~" not in re.sub("<[^>]*>", "", checkpoint)
    assert {f"qat.{name}" for name in qat.__all__} - {id_.removeprefix("module-") for id_ in ids} == set()


def names_and_commands_in_code_style_lead_to_the_reference(site: Path) -> None:
    library = (site / "docs" / "library.html").read_text(encoding="utf-8")
    assert 'href="reference/api/' in library
    assert 'href="reference/commands/train-quant.html' in (site / "docs" / "commands.html").read_text(encoding="utf-8")


def a_link_to_a_folder_that_is_no_page_is_plain_text(site: Path) -> None:
    page = site / "docs" / "benchmarks.html"
    assert "The scripts are in benchmarks/ and run" in " ".join(
        re.sub("<[^>]*>", "", page.read_text(encoding="utf-8")).split()
    )


def the_search_knows_the_pages(site: Path) -> None:
    index = (site / "searchindex.js").read_text(encoding="utf-8")
    assert all(word in index for word in ("requantiz", "train-quant", "certif"))


def test_a_dead_link_or_anchor_is_an_error(tmp_path: Path) -> None:
    """Of a small source with this one's settings: two pages with a wrong link and a wrong anchor."""
    docs = tmp_path / "docs"
    docs.mkdir()
    own = ["myst_heading_anchors = 4", "extensions = ['myst_parser']", "root_doc = 'docs/README'"]
    settings = (ROOT / "docs" / "conf.py").read_text(encoding="utf-8")
    assert own[0] in settings
    (docs / "conf.py").write_text("\n".join(own), encoding="utf-8")
    (docs / "README.md").write_text("# A\n\n[b](b.md#none) [c](c.md) [d](b.md#two-words)\n", encoding="utf-8")
    (docs / "b.md").write_text("---\norphan: true\n---\n# B\n\n## Two words\n", encoding="utf-8")
    done = build(tmp_path, tmp_path / "out")
    assert done.returncode != 0
    warnings = [line for line in done.stderr.splitlines() if "WARNING" in line]
    assert len(warnings) == 2
    assert "c.md" in done.stderr
    assert "none" in done.stderr


@pytest.mark.parametrize("page", sorted((ROOT / "docs" / "concepts").glob("*.md")), ids=lambda page: page.stem)
def test_the_code_of_the_concepts_gives_what_it_says(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each print has its output in a comment behind it, up to spaces and to what a colon or a semicolon explains."""
    for code in re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
        exec(compile(code, page.name, "exec"), {"__name__": page.stem})
        printed = capsys.readouterr().out.splitlines()
        said = re.findall(r"^print\(.*\)  # ([^:;]*)", code, re.MULTILINE)
        assert said
        if not said[0].startswith("behind"):
            assert [line.split() for line in printed] == [line.split() for line in said]


def test_the_pictures_of_the_concepts_are_those_of_their_script(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Drawn anew they say the same; digits of coordinates may differ between releases of matplotlib."""
    pytest.importorskip("matplotlib")
    monkeypatch.syspath_prepend(str(ROOT / "docs" / "concepts"))
    import pictures

    monkeypatch.setattr(pictures, "HERE", tmp_path)
    pictures.main()
    kept = {path.name: path for path in (ROOT / "docs" / "concepts").glob("*.svg")}
    assert {path.name for path in tmp_path.glob("*.svg")} == set(kept)
    for name, path in kept.items():
        words = [
            re.findall(r"<text[^>]*>([^<]*)<", each.read_text(encoding="utf-8")) for each in (path, tmp_path / name)
        ]
        assert words[0] == words[1] != [], name
        assert path.stat().st_size < 40_000


def test_the_side_bar_follows_the_lists_of_the_index() -> None:
    from pages import listed

    text = "# T\n\n1. [A](a.md): x [y](y.md)\n\n## Two\n\n- [B b](../b/c.md#d)\n- [C](c/README.md): c\n\n[E](e.md)\n"
    assert listed(text) == [("", [("A", "a")]), ("Two", [("C", "c/README")])]


def test_a_name_without_a_subject_is_an_error() -> None:
    from subjects import subject_of

    assert subject_of("qat.cells.pooling").file == "cells"
    with pytest.raises(ValueError, match=r"no subject .* has qat.cellars"):
        subject_of("qat.cellars")
