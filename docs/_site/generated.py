"""Pages that are made of the code when the site is built: each command with its options, and the API by subject.

They are written to docs/reference/, which git ignores but for its README.md.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.pycode import ModuleAnalyzer
from sphinx.util.typing import ExtensionMetadata
from subjects import SUBJECTS, subject_of

import qat
from qat.cli import command_parser
from qat.commands import COMMANDS

PLACE = Path(__file__).resolve().parent.parent / "reference"


def heading(text: str, line: str = "=") -> str:
    """A title in reStructuredText."""
    return f"{text}\n{line * len(text)}\n"


def plain(text: str) -> str:
    """Text in which no sign means anything to reStructuredText."""
    return re.sub(r"([\\`*_|<])", r"\\\1", text)


def indented(text: str, by: int = 3) -> str:
    """Text that belongs to the directive above it."""
    return "\n".join(" " * by + line if line else "" for line in text.splitlines())


# -- commands -----------------------------------------------------------------------------------------------------------


def command_page(name: str, module_name: str) -> str:
    """A command's usage and options, in reStructuredText."""
    module = importlib.import_module(f"qat.scripts.{module_name}")
    parser = command_parser(name)
    formatter = parser._get_formatter()
    parts = [f".. _qat-{name}:\n", heading(f"qat {name}"), plain(inspect.cleandoc(module.__doc__ or "")), ""]
    parts += [".. code-block:: text\n", indented(usage(parser)), "", f".. program:: qat {name}\n"]
    for group in parser._action_groups:
        shown = [action for action in group._group_actions if action.help != argparse.SUPPRESS]
        if not shown:
            continue
        if group.title not in ("positional arguments", "options"):
            parts += [f".. rubric:: {plain(group.title or '')}\n"]
        for action in shown:
            parts += [option(action, formatter), ""]
    return "\n".join(parts)


def usage(parser: argparse.ArgumentParser) -> str:
    """What has to be given; the list of options follows on the page."""
    formatter = parser._get_formatter()
    needed = [action for action in parser._actions if action.required and action.option_strings]
    places = [action for action in parser._actions if not action.option_strings]
    parts = [f"{x.option_strings[0]} {taken(x, formatter)}" for x in needed] + [taken(x, formatter) for x in places]
    return " ".join([parser.prog, *parts, "[OPTIONS]"])


def taken(action: argparse.Action, formatter: argparse.HelpFormatter) -> str:
    """What an argument takes, as argparse writes it."""
    if action.option_strings:
        return "" if action.nargs == 0 else formatter._format_args(action, action.dest.upper())
    return formatter._format_args(action, action.dest)


def option(action: argparse.Action, formatter: argparse.HelpFormatter) -> str:
    """One option: its names with what it takes, and what its help says."""
    names = ", ".join(f"{name} {taken(action, formatter)}".strip() for name in action.option_strings or [""])
    text = formatter._expand_help(action) if action.help else ""
    if action.required and action.option_strings:
        text = f"{text} (required)".strip()
    return f".. option:: {names}\n\n{indented(plain(text))}"


def command_pages() -> dict[str, str]:
    """Path below PLACE -> content: a page for each command, and one that lists them."""
    pages = {f"commands/{name}.rst": command_page(name, module) for name, (module, _) in COMMANDS.items()}
    rows = [f"* - :ref:`qat {name} <qat-{name}>`\n  - {plain(what)}" for name, (_, what) in COMMANDS.items()]
    table = [".. list-table::", "   :widths: 25 75", "", *(indented(row) for row in rows), ""]
    toctree = [".. toctree::", "   :hidden:", "", *(f"   qat {name} <{name}>" for name in COMMANDS), ""]
    intro = (
        "What ``qat COMMAND --help`` prints. :doc:`/docs/commands` shows the commands at work. Each takes ``--flagfile`` and\n"
        "``--import`` too, which that page explains.\n"
    )
    pages["commands/index.rst"] = "\n".join([heading("Options of commands"), intro, *table, *toctree])
    return pages


# -- the API ------------------------------------------------------------------------------------------------------------


def documented() -> dict[int, str]:
    """id of an object -> its name, of all that the reference has; a name of ``qat`` comes before one of its modules."""
    found = {}
    for module in (*(f"qat.{name}" for name in qat.__all__), *(each for x in SUBJECTS for each in x.interfaces), "qat"):
        value = sys.modules[module] if module in sys.modules else getattr(qat, module.rpartition(".")[2])
        if isinstance(value, ModuleType):
            found |= {id(getattr(value, name)): f"{module}.{name}" for name in public(value)}
    return found


def entry(name: str, value: object) -> str:
    """The directive that documents one public name, as ``qat.Graph`` or ``qat.data.load``.

    Of a class it shows what no base of it has: the forward pass of each cell is explained once, with ``Cell``.
    """
    if inspect.isclass(value):
        again = {key for base in value.__mro__[1:] if base.__module__.startswith("qat.") for key in vars(base)}
        again |= set(getattr(value, "_fields", ()))  # a tuple's, which its docstring lists
        hidden = ", ".join(sorted(key for key in again & set(vars(value)) if not key.startswith("_")))
        known = documented()
        bases = [":show-inheritance:"] if any(id(base) in known for base in value.__bases__) else []
        options = [":members:", *bases, *([f":exclude-members: {hidden}"] if hidden else [])]
        return f".. autoclass:: {name}\n{indented(chr(10).join(options))}\n"
    if callable(value):
        return f".. autofunction:: {name}\n"
    text = constant_text(name.rpartition(".")[2], "qat")
    return f".. py:data:: {name}\n\n{indented(text)}\n"


def constant_text(name: str, package: str) -> str:
    """What the comment beside a constant says of it, in whichever module defines it."""
    for module in sorted(each for each in sys.modules if each.startswith(f"{package}.")):
        if name in vars(sys.modules[module]):
            lines = ModuleAnalyzer.for_module(module).find_attr_docs().get(("", name))
            if lines:
                return "\n".join(lines)
    return ""


def public(module: ModuleType) -> list[str]:
    """The names of a module that users call: ``__all__``, else the classes and functions that it defines."""
    names = getattr(module, "__all__", None)
    if names is not None:
        return list(names)
    own = {key: value for key, value in vars(module).items() if getattr(value, "__module__", None) == module.__name__}
    return [
        key for key, value in own.items() if not key.startswith("_") and (inspect.isclass(value) or callable(value))
    ]


def module_entries(name: str, module: ModuleType, elsewhere: Mapping[int, str]) -> list[str]:
    """The part of a page that documents a module: what it says of itself, and its public names.

    Args:
        name: as users reach it, ``qat.data``.
        module: the module.
        elsewhere: id of an object -> its name, of those that are documented as names of ``qat``.
    """
    parts = [heading(name, "-"), f".. py:module:: {name}\n", inspect.cleandoc(module.__doc__ or ""), ""]
    same = []
    for key in public(module):
        value = getattr(module, key)
        if id(value) in elsewhere:
            same.append(f":py:obj:`{key} <{elsewhere[id(value)]}>`")
        else:
            parts += [entry(f"{name}.{key}", value)]
    return [*parts, f"Also here: {', '.join(same)}.\n"] if same else parts


def api_pages() -> dict[str, str]:
    """Path below PLACE -> content: a page for each subject, and one that lists them."""
    values = {name: getattr(qat, name) for name in qat.__all__}
    modules = {f"qat.{name}": value for name, value in values.items() if isinstance(value, ModuleType)}
    names = {f"qat.{name}": value for name, value in values.items() if not isinstance(value, ModuleType)}
    elsewhere = {id(value): name for name, value in names.items()}
    pages, rows = {}, []
    for subject in SUBJECTS:
        parts = [heading(subject.title), subject.about, "", ".. py:currentmodule:: qat\n"]
        parts += [entry(name, value) for name, value in names.items() if subject_of(value.__module__) is subject]
        for name, module in modules.items():
            if subject_of(module.__name__) is subject:
                parts += module_entries(name, module, elsewhere)
        for name in subject.interfaces:
            parts += module_entries(name, importlib.import_module(name), elsewhere)
        pages[f"api/{subject.file}.rst"] = "\n".join(parts)
        rows += [f"* - :doc:`{subject.title} <{subject.file}>`\n  - {subject.about}"]
    table = [".. list-table::", "   :widths: 25 75", "", *(indented(row) for row in rows), ""]
    toctree = [".. toctree::", "   :hidden:", "", *(f"   {subject.file}" for subject in SUBJECTS), ""]
    intro = "Every public name of ``qat``, by subject, from its docstring.\n"
    pages["api/index.rst"] = "\n".join([heading("API"), intro, *table, *toctree])
    return pages


def write(app: Sphinx) -> None:
    """Write the pages whose content has changed, and remove those that are not made any more."""
    pages = {**command_pages(), **api_pages()}
    for path, text in pages.items():
        file = PLACE / path
        file.parent.mkdir(parents=True, exist_ok=True)
        if not file.is_file() or file.read_text(encoding="utf-8") != text:
            file.write_text(text, encoding="utf-8")
    for file in PLACE.rglob("*.rst"):
        if str(file.relative_to(PLACE)) not in pages:
            file.unlink()


def public_name(app: Sphinx, env: BuildEnvironment, node: pending_xref, content: nodes.Node) -> nodes.Node | None:
    """A type in a signature is named as the code that defines it names it; link it to where the reference has it."""
    target = node.get("reftarget", "")
    if node.get("refdomain") != "py" or not target:
        return None
    domain, name = env.get_domain("py"), target.rpartition(".")[2]
    for full in (f"qat.{name}", *(f"{known}.{name}" for known in domain.data["modules"])):
        if full in domain.objects and full != target and ("." not in target or target.startswith("qat.")):
            return domain.resolve_xref(env, node["refdoc"], app.builder, "obj", full, node, content)
    return None


def as_written(app: Sphinx, what: str, name: str, thing: object, options: object, lines: list[str]) -> None:
    """Docstrings write |x| for an absolute value and a * b for a product; reStructuredText would take both for markup. The
    pages that they name become links. An indented block behind a colon is a formula, whose lines stay.
    """
    example, formula = False, None
    for number, line in enumerate(lines):
        depth = len(line) - len(line.lstrip())
        if formula is not None and line.strip() and depth <= formula:
            formula = None
        example = line.lstrip().startswith(">>>") or (example and bool(line.strip()))
        if example or formula is not None:
            continue
        text = re.sub(r"(``.*?``)|([|*])", lambda found: found[1] or "\\" + found[2], line)
        lines[number] = re.sub(r"(``.*?``)|(?<![\w/`])(docs/[\w/]+)\.md\b", _page, text)
        after = lines[number + 1 : number + 3]
        if line.endswith(":") and len(after) == 2 and not after[0].strip() and after[1].startswith(" " * (depth + 1)):
            lines[number] += ":"
            formula = depth


def without_types(app: Sphinx, what: str, name: str, thing: object, options: object, lines: list[str]) -> None:
    """Napoleon takes what is before a colon in a property's first line for its type: give it back."""
    found = [number for number, line in enumerate(lines) if line.startswith(":type: ")]
    if what in ("property", "attribute", "data") and found:
        lines[0] = f"{lines[found[0]].removeprefix(':type: ')}: {lines[0]}"
        del lines[found[0]]


def known_bases(app: Sphinx, name: str, thing: object, options: object, bases: list[type]) -> None:
    """Of the classes that one is derived from, those that the reference has."""
    known = documented()
    bases[:] = [base for base in bases if id(base) in known]


def short_signature(
    app: Sphinx, what: str, name: str, thing: object, options: object, arguments: str | None, returns: str | None
) -> tuple[str | None, str | None]:
    """Arrays by their name, and a default that is made anew as ..., since <factory> is no expression."""

    def short(text: str | None) -> str | None:
        text = text and text.replace("<factory>", "...")
        return text and re.sub(
            r"~?numpy\.ndarray\[~?typing\.Any, ~?numpy\.dtype\[~?typing\.Any\]\]", "~numpy.ndarray", text
        )

    return short(arguments), short(returns)


def _page(found: re.Match[str]) -> str:
    """The link in place of a page's path; what is code stays as it is."""
    return found[1] or f":doc:`{found[2]}.md </{found[2]}>`"


def colons(app: Sphinx, doctree: nodes.document) -> None:
    """Between a parameter and what it is; Sphinx writes a dash of two hyphens."""
    for node in list(doctree.findall(nodes.Text)):
        if node == " -- ":
            node.parent.replace(node, nodes.Text(": "))


def setup(app: Sphinx) -> ExtensionMetadata:
    """Called by Sphinx."""
    app.add_config_value("generated_pages", ["commands/index", "api/index"], "env")
    app.connect("builder-inited", write)
    app.connect("autodoc-process-docstring", as_written, priority=400)  # before napoleon
    app.connect("autodoc-process-docstring", without_types, priority=600)  # after it
    app.connect("autodoc-process-bases", known_bases)
    app.connect("autodoc-process-signature", short_signature)
    app.connect("doctree-read", colons)
    app.connect("missing-reference", public_name)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
