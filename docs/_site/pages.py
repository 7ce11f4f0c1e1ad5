"""What the Markdown pages need beside Sphinx and MyST, so that they stay plain Markdown:

- the side bar follows the lists in ``README.md`` of docs/ and of the folders below it, each written once, as a list of links;
- a link to a picture or an HTML report opens it, where Sphinx would offer it as a download;
- a link to a folder, which a Git host lists, leads to its README.md or is plain text;
- ``qat.name`` and ``qat command`` in code style lead to their reference;
- ``index.html`` leads to the first page.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from urllib.parse import quote

from docutils import nodes
from sphinx.addnodes import download_reference, pending_xref
from sphinx.application import Sphinx
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util.typing import ExtensionMetadata

ITEM = re.compile(r"^(?:\d+\.|-) +\[([^\]]+)\]\(([^)#\s]+)\.md\)", re.MULTILINE)
OPENED = (".html", ".svg", ".png", ".ipynb")


def listed(text: str) -> list[tuple[str, list[tuple[str, str]]]]:
    """The sections of an index with the pages that their lists name: title -> (text, path without .md).

    Only a link at the beginning of an item counts; what stands before the first ``##`` is a section without a title.
    """
    parts = re.split(r"^## +(.*)$", text, flags=re.MULTILINE)
    titles = ["", *parts[1::2]]
    return [(title, found) for title, body in zip(titles, parts[::2], strict=True) if (found := ITEM.findall(body))]


def add_toctrees(app: Sphinx, docname: str, source: list[str]) -> None:
    """Append the hidden tables of contents that Sphinx makes the side bar of."""
    if not re.fullmatch(r"docs/(\w+/)?README", docname):
        return
    tables = [(title, [f"{text} <{path}>" for text, path in pages], True) for title, pages in listed(source[0])]
    if docname == "docs/reference/README":
        tables.append(("", app.config.generated_pages, False))
    for title, lines, hidden in tables:
        shown = [":hidden:"] if hidden else [":maxdepth: 2", ":includehidden:"]
        options = [*([f":caption: {title}"] if title else []), *shown]
        source[0] += "\n" + "\n".join(["", "```{toctree}", *options, "", *lines, "```", ""])


def open_files(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Make plain links of downloads that a browser shows."""
    for node in list(doctree.findall(download_reference)):
        name = node.get("filename", "")
        if name.endswith(OPENED):
            place = app.builder.get_relative_uri(docname, "index").removesuffix("index.html")
            uri = posixpath.join(place, "_downloads", quote(name))
            node.replace_self(nodes.reference("", "", *node.children, internal=False, refuri=uri))


class LinkedFolders(SphinxPostTransform):
    """A link to a folder leads to its README.md where that is a page; the site has no other pages of folders."""

    default_priority = 4  # before MyST looks for a target of that name

    def run(self, **kwargs: object) -> None:
        for node in list(self.document.findall(pending_xref)):
            if node.get("reftype") != "myst" or node.get("refdomain"):
                continue
            path = (Path(self.env.doc2path(self.env.docname)).parent / node["reftarget"]).resolve()
            if not path.is_dir():
                continue
            readme = (path / "README.md").relative_to(self.env.srcdir).with_suffix("").as_posix()
            if readme in self.env.all_docs:
                node.update({"refdomain": "doc", "reftarget": readme, "reftargetid": None})
            else:
                node.replace_self(node.children)


class LinkedNames(SphinxPostTransform):
    """Links from names in code style to what the reference says of them; a name that is not there stays as it is."""

    default_priority = 5  # before references are resolved

    def run(self, **kwargs: object) -> None:
        if self.env.docname.startswith("docs/reference/"):
            return
        for node in list(self.document.findall(nodes.literal)):
            if isinstance(node.parent, (nodes.reference, pending_xref, nodes.title)):
                continue
            text = node.astext()
            name = re.fullmatch(r"(qat(?:\.\w+)+)(?:\(.*\))?", text)
            command = re.match(r"qat ([a-z][\w-]*)(?= |$)", text)
            page = f"docs/reference/commands/{command[1]}" if command else None
            if name:
                link: nodes.Element = pending_xref(
                    "", refdoc=self.env.docname, refwarn=False, refdomain="py", reftype="obj", reftarget=name[1]
                )
            elif page in self.env.all_docs:
                uri = self.app.builder.get_relative_uri(self.env.docname, page)
                link = nodes.reference("", "", internal=True, refuri=uri)
            else:
                continue
            node.replace_self(link)
            link += node


def write_index(app: Sphinx, exception: Exception | None) -> None:
    """The page that a server or a reader opens first."""
    if exception is None and app.builder.name == "html":
        first = app.builder.get_target_uri(app.config.root_doc)
        text = (
            f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{app.config.html_title}</title>'
            f'<meta http-equiv="refresh" content="0; url={first}"><a href="{first}">{app.config.html_title}</a></html>\n'
        )
        (Path(app.outdir) / "index.html").write_text(text, encoding="utf-8")


def setup(app: Sphinx) -> ExtensionMetadata:
    """Called by Sphinx."""
    app.connect("source-read", add_toctrees)
    app.connect("doctree-resolved", open_files)
    app.connect("build-finished", write_index)
    app.add_post_transform(LinkedFolders)
    app.add_post_transform(LinkedNames)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
