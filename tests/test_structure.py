"""The tree of modules: what imports what, and how long they are."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MOST_LINES = 450


def modules(root: Path) -> dict[str, Path]:
    """Every module of qat by its dotted name."""
    found = {}
    for path in sorted((root / "qat").rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported(module: str, text: str, known: set[str]) -> set[str]:
    """The modules of ours that one imports anywhere in it, be it in a function or for annotations alone; with a module go the
    packages that it stands in, except those that the importing module stands in itself.
    """
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names = {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names = {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
        else:
            continue
        for name in names:
            parts = name.split(".")
            found |= {".".join(parts[: count + 1]) for count in range(len(parts))} & known
    return {name for name in found if name != module and not module.startswith(f"{name}.")}


def circles(edges: dict[str, set[str]]) -> Iterator[list[str]]:
    """The groups of modules that import one another: Tarjan's strongly connected components of more than one module."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []

    def visit(name: str) -> Iterator[list[str]]:
        index[name] = low[name] = len(index)
        stack.append(name)
        for other in sorted(edges[name]):
            if other not in index:
                yield from visit(other)
                low[name] = min(low[name], low[other])
            elif other in stack:
                low[name] = min(low[name], index[other])
        if low[name] == index[name]:
            at = stack.index(name)
            group, stack[at:] = stack[at:], []
            if len(group) > 1:
                yield sorted(group)

    for name in edges:
        if name not in index:
            yield from visit(name)


def test_no_modules_import_one_another_in_a_circle() -> None:
    found = modules(ROOT)
    edges = {name: imported(name, path.read_text(encoding="utf-8"), set(found)) for name, path in found.items()}
    assert sum(map(len, edges.values())) > len(found)
    assert list(circles(edges)) == []


def test_a_circle_is_found() -> None:
    texts = {
        "qat": "",
        "qat.a": "def f():\n    from qat.b.inner import x",
        "qat.b": "from qat.b import inner",
        "qat.b.inner": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import qat.c",
        "qat.c": "from qat import a",
        "qat.d": "from qat.a import f",
    }
    edges = {name: imported(name, text, set(texts)) for name, text in texts.items()}
    assert list(circles(edges)) == [["qat.a", "qat.b", "qat.b.inner", "qat.c"]]


def test_no_module_is_too_long_to_have_one_subject() -> None:
    lines = {name: path.read_text(encoding="utf-8").count("\n") for name, path in modules(ROOT).items()}
    assert {name: count for name, count in lines.items() if count > MOST_LINES} == {}
