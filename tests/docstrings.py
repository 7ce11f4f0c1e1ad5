"""What is wrong with the docstrings of a package: read from its text, nothing of it is imported."""

from __future__ import annotations

import ast
import doctest
import re
import textwrap
from collections.abc import Iterator, Mapping

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
Functions = (ast.FunctionDef, ast.AsyncFunctionDef)
Found = tuple[str, ast.AST]  #: the module in which a definition stands, and the definition (or the module itself)

HEADINGS = ("Args", "Attributes", "Returns", "Yields", "Raises", "Examples")


class Package:
    """The definitions of a package's modules.

    Args:
        texts: the source of each module by its dotted name.
    """

    def __init__(self, texts: Mapping[str, str]) -> None:
        self.trees = {name: ast.parse(text) for name, text in texts.items()}
        self._names = {name: {**_imports(tree), **_own(tree)} for name, tree in self.trees.items()}

    def find(self, dotted: str) -> Found | None:
        """The module, class, function or variable that a dotted name stands for, through re-exports.

        None where the package does not define it.
        """
        if dotted in self.trees:
            return dotted, self.trees[dotted]
        module, _, name = dotted.rpartition(".")
        if module not in self.trees:
            return None
        target = self._names[module].get(name)
        return self.find(target) if isinstance(target, str) else None if target is None else (module, target)

    def bases(self, module: str, cls: ast.ClassDef) -> Iterator[tuple[str, ast.ClassDef]]:
        """The direct bases of a class that the package defines."""
        for base in cls.bases:
            base = base.value if isinstance(base, ast.Subscript) else base
            head, *rest = ast.unparse(base).split(".")
            target = self._names[module].get(head)
            dotted = target if isinstance(target, str) else f"{module}.{head}"
            found = self.find(".".join((dotted, *rest)))
            if found is not None and isinstance(found[1], ast.ClassDef):
                yield found[0], found[1]

    def exported(self, module: str) -> list[str]:
        """The names in a module's ``__all__``, or of its public functions and classes where it has none."""
        tree = self.trees[module]
        for node in tree.body:
            if isinstance(node, ast.Assign) and any(
                isinstance(t, ast.Name) and t.id == "__all__" for t in node.targets
            ):
                return list(ast.literal_eval(node.value))
        return [node.name for node in _definitions(tree) if not node.name.startswith("_")]

    # -- public names without a docstring -----------------------------------------------------------------------------

    def undocumented(self) -> list[str]:
        """The public modules, classes, functions, methods and properties without a docstring.

        A method may inherit that of a base class.
        """
        missing = []
        for module, tree in self.trees.items():
            if not ast.get_docstring(tree):
                missing.append(module)
            missing += self._undocumented_in(module, module, tree, ())
        return missing

    def _undocumented_in(
        self, module: str, prefix: str, parent: ast.AST, bases: tuple[ast.ClassDef, ...]
    ) -> Iterator[str]:
        for node in _definitions(parent):
            if node.name.startswith("_") or _is_setter_or_overload(node):
                continue
            name = f"{prefix}.{node.name}"
            inherited = (other for base in bases for other in _definitions(base) if other.name == node.name)
            if not any(ast.get_docstring(each) for each in (node, *inherited)):
                yield name
            if isinstance(node, ast.ClassDef):
                yield from self._undocumented_in(module, name, node, tuple(self._all_bases(module, node)))

    def _all_bases(self, module: str, cls: ast.ClassDef) -> Iterator[ast.ClassDef]:
        for where, base in self.bases(module, cls):
            yield base
            yield from self._all_bases(where, base)

    # -- sections -----------------------------------------------------------------------------------------------------

    def faults(self, dotted: str) -> Iterator[str]:
        """What is wrong with the sections of a function's or a class's docstring.

        A class lists the fields that it declares, and inherited ones where the docstring of no public base does: that of a
        private one no user sees.
        """
        found = self.find(dotted)
        assert found is not None, f"{dotted} is defined nowhere"
        module, node = found
        if isinstance(node, ast.ClassDef):
            own, bases = _fields(node), tuple(self._all_bases(module, node))
            told = {name for base in bases if not base.name.startswith("_") for name in _listed(base)} - {*own}
            fields = dict.fromkeys([name for cls in (*reversed(bases), node) for name in _fields(cls)])
            if any(each.name == "__init__" for each in _definitions(node)):
                fields = dict.fromkeys(own)
            attributes = {name for cls in (node, *bases) for name in _attributes(cls)}
            yield from _faults_of(f"{module}.{node.name}", node, [n for n in fields if n not in told], attributes)
        elif isinstance(node, Functions):
            yield from _faults_of(f"{module}.{node.name}", node, _parameters(node), set())

    # -- examples -----------------------------------------------------------------------------------------------------

    def examples(self) -> dict[str, list[str]]:
        """The source of the examples in each module that has some."""
        found = {}
        for module, tree in self.trees.items():
            documented = [n for n in ast.walk(tree) if isinstance(n, (ast.Module, ast.ClassDef, *Functions))]
            parser = doctest.DocTestParser()
            sources = [
                example.source
                for node in documented
                for example in parser.get_examples(ast.get_docstring(node) or "", module)
            ]
            if sources:
                found[module] = sources
        return found


def sections(docstring: str) -> dict[str, list[str]]:
    """The lines of each section in Google's style by its heading, and under "" what comes before the first."""
    found: dict[str, list[str]] = {"": []}
    heading = ""
    for line in docstring.splitlines():
        if line.rstrip().removesuffix(":") in HEADINGS and line.rstrip().endswith(":"):
            heading = line.rstrip().removesuffix(":")
            found[heading] = []
        else:
            if line.strip() and not line.startswith(" "):  # a paragraph that is not indented ends the section
                heading = ""
            found[heading].append(line)
    return found


def entries(lines: list[str]) -> dict[str, str]:
    """What an Args or Attributes section says of each name, or of several; further lines of an entry are indented more."""
    found: dict[str, str] = {}
    names: list[str] = []
    for line in textwrap.dedent("\n".join(lines)).splitlines():
        match = re.match(r"(\*{0,2}\w+(?:, \w+)*): *(.*)", line)
        if match:
            names = match[1].lstrip("*").split(", ")
            found |= dict.fromkeys(names, match[2])
        elif line.startswith(" ") and names:
            found |= {name: f"{found[name]} {line.strip()}" for name in names}
        elif line.strip():
            found[line.strip()] = ""  # no entry: it is named as one that does not belong here
    return found


def _listed(node: Definition) -> dict[str, str]:
    """What a docstring says of parameters and fields, by name."""
    parts = sections(ast.get_docstring(node) or "")
    return {**entries(parts.get("Args", [])), **entries(parts.get("Attributes", []))}


def _fields(cls: ast.ClassDef) -> list[str]:
    """The parameters of a class's own ``__init__``, else the fields that it declares."""
    for node in _definitions(cls):
        if node.name == "__init__" and isinstance(node, Functions):
            return _parameters(node)
    declared = (n for n in cls.body if isinstance(n, ast.AnnAssign)) if _has_fields(cls) else ()
    instance = [n for n in declared if "ClassVar" not in ast.unparse(n.annotation)]
    names = [n.target.id for n in instance if isinstance(n.target, ast.Name)]
    return [name for name in names if not name.startswith("_")]


def _faults_of(name: str, node: Definition, parameters: list[str], attributes: set[str]) -> Iterator[str]:
    parts, listed = sections(ast.get_docstring(node) or ""), _listed(node)
    for parameter in parameters:
        if not listed.get(parameter):
            yield f"{name}: Args does not say what {parameter} is"
    for unknown in sorted(listed.keys() - {*parameters, *attributes}):
        yield f"{name}: Args names {unknown}, which it does not have"
    if not any(line.strip() for line in parts[""]):
        yield f"{name}: there is no summary before the sections"
    if isinstance(node, Functions):
        returns = ast.unparse(node.returns) if node.returns else "None"
        if returns not in ("None", "NoReturn") and not any(
            "".join(parts.get(h, [])).strip() for h in ("Returns", "Yields")
        ):
            yield f"{name}: Returns is missing"
        bodies: list[ast.AST] = [node]
    else:
        bodies = [each for each in _definitions(node) if each.name in ("__init__", "__post_init__")]
    if any(_raises(body) for body in bodies) and not "".join(parts.get("Raises", [])).strip():
        yield f"{name}: Raises is missing"


def _has_fields(cls: ast.ClassDef) -> bool:
    """Whether annotations in a class declare fields: in dataclasses, named tuples and protocols."""
    words = {word for each in (*cls.decorator_list, *cls.bases) for word in re.findall(r"\w+", ast.unparse(each))}
    return bool(words & {"dataclass", "NamedTuple", "Protocol"})


def _attributes(cls: ast.ClassDef) -> set[str]:
    """Names that a class has beside its parameters: annotated ones, properties, and what ``__init__`` sets."""
    names = {n.target.id for n in cls.body if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)}
    names |= {each.name for each in _definitions(cls)}
    stores = (n for n in ast.walk(cls) if isinstance(n, ast.Attribute) and isinstance(n.ctx, ast.Store))
    return names | {n.attr for n in stores if isinstance(n.value, ast.Name) and n.value.id == "self"}


def _raises(node: ast.AST) -> bool:
    """Whether a body raises in its own lines, not in a function within it."""
    return any(
        isinstance(child, ast.Raise)
        or (not isinstance(child, (*Functions, ast.Lambda, ast.ClassDef)) and _raises(child))
        for child in ast.iter_child_nodes(node)
    )


def _parameters(node: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    arguments = node.args
    plain = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    starred = [each for each in (arguments.vararg, arguments.kwarg) if each is not None]
    return [each.arg for each in (*plain, *starred) if each.arg not in ("self", "cls") and not each.arg.startswith("_")]


def _definitions(parent: ast.AST) -> Iterator[Definition]:
    """The functions and classes of a module or class, also those under a condition, but none within a function."""
    return (node for node in _statements(parent) if isinstance(node, (ast.ClassDef, *Functions)))


def _statements(parent: ast.AST) -> Iterator[ast.AST]:
    for node in ast.iter_child_nodes(parent):
        yield node
        if isinstance(node, (ast.If, ast.Try, ast.With)):
            yield from _statements(node)


def _is_setter_or_overload(node: Definition) -> bool:
    return any(ast.unparse(each).endswith((".setter", ".deleter", "overload")) for each in node.decorator_list)


def _own(tree: ast.Module) -> dict[str, ast.AST]:
    """The classes, functions and variables that a module defines."""
    found: dict[str, ast.AST] = {}
    for node in _statements(tree):
        if isinstance(node, (ast.ClassDef, *Functions)):
            found[node.name] = node
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {target.id: node for target in targets if isinstance(target, ast.Name)}
    return found


def _imports(tree: ast.Module) -> dict[str, str]:
    """What the names that a module imports outside of functions stand for, be it for type checkers alone."""
    found = {}
    for node in _statements(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {
                alias.asname or alias.name: alias.name for alias in node.names if alias.asname or "." not in alias.name
            }
    return found
