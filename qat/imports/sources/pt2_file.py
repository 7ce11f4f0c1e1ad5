"""A file that torch.export.save wrote, read without executing anything that it holds.

``torch.export.load`` trusts a file: it unpickles weights, constants and sample inputs, evaluates symbolic sizes as Python,
loads compiled libraries, and makes Python source of the names of values. So it is not given a file of others, but what a
program needs of it, checked and written anew: the bytes of tensors, and the graph as JSON, in which names are identifiers,
operations are those of ``torch.ops``, and sizes are of a small grammar. Anything else is refused by name, or left behind.
"""

from __future__ import annotations

import ast
import io
import json
import keyword
import math
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from qat.errors import QatError, shortened
from qat.graph.graph import MOST_NODES, MOST_PARAMETERS
from qat.reading import LARGEST_JSON, check_zip, open_regular, reading

ADVICE = "save it with torch.export.save(torch.export.export(module.eval(), example), path)"
WEIGHTS, CONSTANTS = ("data/weights/model_weights_config.json", "data/constants/model_constants_config.json")
GRAPH = "models/model.json"
#: Operations: functions of torch.ops, and what Python does with several results and with sizes.
OPERATION = re.compile(r"torch\.ops\.(?!higher_order\b)[a-z]\w*\.\w+\.\w+|_operator\.\w+|torch\.sym_\w+|math\.\w+")
PLAIN_OPERATORS = (
    "getitem",
    "add",
    "sub",
    "mul",
    "floordiv",
    "truediv",
    "mod",
    "neg",
    "eq",
    "ne",
    "lt",
    "le",
    "gt",
    "ge",
)
#: Of which a symbolic size may be made.
SYMBOLIC = (
    "Symbol",
    "Integer",
    "Add",
    "Mul",
    "Pow",
    "Rational",
    "FloorDiv",
    "Mod",
    "CleanDiv",
    "PythonMod",
    "Max",
    "Min",
)
LONGEST = 200  #: characters of a name or a symbolic size
KEPT_METADATA = ("stack_trace", "nn_module_stack")
ELEMENT = 8  #: bytes of a number at most, 16 of a complex one, which is refused later


def read_pt2(path: str | Path) -> Any:
    """The program of a .pt2 file.

    Args:
        path: of the file.

    Returns:
        A ``torch.export.ExportedProgram``.

    Raises:
        QatError: it is no such file, or it holds what reading it would execute.
    """
    with open_regular(path, ADVICE) as file:
        if file.read(2) == b"\x80\x02" or Path(path).suffix.lower() != ".pt2":
            raise _pickled(path)
        file.seek(0)
        check_zip(path, file, ADVICE)
        with reading(path, "a program of torch.export", ADVICE):
            with zipfile.ZipFile(file) as archive:
                clean = _written_anew(path, archive)
            return torch.export.load(clean)


def _pickled(path: str | Path) -> QatError:
    return QatError(
        f"{path}: is a pickle, which executes whatever it holds when it is read, so that it is not; "
        "give the module that it holds to qat.import_model, or save that with torch.export.save"
    )


def _written_anew(path: str | Path, archive: zipfile.ZipFile) -> io.BytesIO:
    """An archive with what a program needs, and nothing that would be executed."""
    names = archive.namelist()
    tops = {name.partition("/")[0] for name in names}
    if any(name.endswith("/data.pkl") for name in names) and not any(name.endswith(GRAPH) for name in names):
        raise _pickled(path)
    if len(names) != len(set(names)) or len(tops) != 1 or f"{min(tops)}/{GRAPH}" not in names:
        raise ValueError("it holds no graph, or several")
    top = min(tops)
    if any(name.startswith(f"{top}/data/aotinductor/") for name in names):
        raise QatError("holds compiled libraries (AOTInductor), which reading would load and execute")
    records: dict[str, bytes] = {}
    graph = _json(archive, f"{top}/{GRAPH}")
    _check_graph(graph)
    records[GRAPH] = json.dumps(graph).encode()
    for config in (WEIGHTS, CONSTANTS):
        folder = config.rpartition("/")[0]
        payloads = _json(archive, f"{top}/{config}")
        for name, payload in payloads["config"].items():
            record = f"{folder}/{_payload(name, payload)}"
            if record not in records:
                records[record] = archive.read(f"{top}/{record}")
            _check_tensor(name, payload["tensor_meta"], len(records[record]))
        records[config] = json.dumps(payloads).encode()
    sample = io.BytesIO()
    torch.save(((), {}), sample)
    records["data/sample_inputs/model.pt"] = sample.getvalue()
    records["archive_format"], records["archive_version"], records["byteorder"] = b"pt2", b"0", b"little"
    clean = io.BytesIO()
    writer = torch._C.PyTorchFileWriter(clean)
    for name, content in records.items():
        if name != "byteorder":
            writer.write_record(name, content, len(content))
    writer.write_end_of_file()
    clean.seek(0)
    return clean


def _json(archive: zipfile.ZipFile, name: str) -> Any:
    if archive.getinfo(name).file_size > 4 * LARGEST_JSON:
        raise ValueError(f"{name} is larger than {4 * LARGEST_JSON:,} bytes")
    return json.loads(archive.read(name))


def _payload(name: str, payload: Any) -> str:
    """The record of a tensor. Raises QatError where it is pickled."""
    record = str(payload["path_name"])
    if payload["use_pickle"] or not re.fullmatch(r"(weight|tensor)_\d+", record):
        raise QatError(
            f"its {shortened(name)} is pickled, which executes whatever it holds when it is read; "
            "only plain tensors are read"
        )
    return record


def _check_tensor(name: str, meta: Any, held: int) -> None:
    """Raise ValueError where a tensor is no part of its record."""
    if meta["device"]["type"] != "cpu":
        meta["device"] = {"type": "cpu", "index": None}
    sizes, strides = ([size["as_int"] for size in meta[key]] for key in ("sizes", "strides"))
    offset = meta["storage_offset"]["as_int"]
    numbers = (*sizes, *strides, offset)
    if any(isinstance(number, bool) or not isinstance(number, int) or number < 0 for number in numbers):
        raise ValueError(f"{shortened(name)} has sizes {sizes} and strides {strides}")
    last = offset + sum((size - 1) * stride for size, stride in zip(sizes, strides, strict=True))
    if math.prod(sizes) > MOST_PARAMETERS or (math.prod(sizes) and last >= max(held, 1)):
        raise ValueError(f"{shortened(name)} has {math.prod(sizes):,} numbers up to place {last:,} in {held:,} bytes")


def _check_graph(graph: Any) -> None:
    """Raise QatError or ValueError where a graph holds what reading it would execute, and drop what nothing needs."""
    module = graph["graph_module"]
    if len(module["graph"]["nodes"]) > MOST_NODES:
        raise ValueError(f"it has {len(module['graph']['nodes']):,} nodes, but {MOST_NODES:,} are the most")
    for node in module["graph"]["nodes"]:
        target = str(node["target"])
        if target.startswith("torch.ops.higher_order."):
            raise QatError(
                f"holds {shortened(target.rpartition('.')[2])}, control flow, so that no one graph is there; "
                "write that part otherwise, or export the module without it"
            )
        known = OPERATION.fullmatch(target)
        if not known or (target.startswith("_operator.") and target.partition(".")[2] not in PLAIN_OPERATORS):
            raise QatError(f"calls {shortened(target)}, which is no operation of torch.ops, so that it is not read")
        metadata = node["metadata"]
        node["metadata"] = {key: metadata[key] for key in KEPT_METADATA if isinstance(metadata.get(key), str)}
    graph["guards_code"] = []
    for key, value in _items(graph, 0):
        if key == "expr_str":
            _check_size(value)
        elif key in ("name", "as_name") and value is not None:
            _check_name(value)
        elif key in ("as_graph", "as_custom_obj", "as_operator"):
            raise QatError(f"holds {key.removeprefix('as_')}s beside plain operations, which are not read")
    values = module["graph"]
    for name in (*values["tensor_values"], *values["sym_int_values"], *values["sym_bool_values"]):
        _check_name(name)


def _items(value: Any, depth: int) -> Iterator[tuple[str, Any]]:
    """All keys with their values, at any depth."""
    if depth > 60:
        raise ValueError("it is nested too deeply")
    if isinstance(value, dict):
        for key, inner in value.items():
            yield key, inner
            yield from _items(inner, depth + 1)
    elif isinstance(value, list):
        for inner in value:
            yield from _items(inner, depth + 1)


def _check_name(name: Any) -> None:
    """Raise QatError unless it is a Python identifier: PyTorch makes source code of names."""
    fits = (
        isinstance(name, str)
        and len(name) <= LONGEST
        and (not name or (name.isidentifier() and not keyword.iskeyword(name)))
    )
    if not fits:
        raise QatError(f"names a value {shortened(name)}, which no export does; it may want to be executed")


def _check_size(text: Any) -> None:
    """Raise QatError unless a symbolic size is made of symbols and whole numbers: PyTorch evaluates it as Python."""
    try:
        tree = ast.parse(text, mode="eval") if isinstance(text, str) and len(text) <= LONGEST else None
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        tree = None
    if tree is None or not _is_size(tree.body):
        raise QatError(f"has a symbolic size {shortened(text)}, which no export writes; it may want to be executed")


def _is_size(node: ast.AST) -> bool:
    if isinstance(node, ast.Constant):
        return isinstance(node.value, (int, bool)) or (isinstance(node.value, str) and node.value.isidentifier())
    if isinstance(node, ast.Name):
        return bool(re.fullmatch(r"[su]\d+", node.id))
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in SYMBOLIC
        and all(_is_size(each) for each in node.args)
        and all(each.arg is not None and isinstance(each.value, ast.Constant) for each in node.keywords)
        and all(isinstance(each.value, ast.Constant) and isinstance(each.value.value, bool) for each in node.keywords)
    )
