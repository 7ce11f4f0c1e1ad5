"""Damage to files, by a seed alone: to their bytes, and to their fields where their format is known."""

from __future__ import annotations

import io
import json
import sqlite3
import struct
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
import onnx
from ai_edge_litert import schema_py_generated as schema
from onnx import helper

import qat  # noqa: F401 (its cells are known once it is imported)
from qat import wire
from qat.vocabulary.serial import Serializable

Change = Callable[[np.random.Generator, bytes], bytes]

CELLS = [cls for cls in Serializable.registry.values() if cls.__module__.startswith("qat.") and is_dataclass(cls)]
NUMBERS = (-1, 0, 1, 2, 7, 300, 4096, 2**31, 2**62)
ODD_VALUES: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    1,
    2,
    7,
    300,
    2**31,
    2**70,
    0.5,
    -0.0,
    1e308,
    float("nan"),
    float("inf"),
)
ODD_VALUES += ("", "x", "relu", "input", [], [1], [1, 2], [1, 2, 3], [-1, -1], ["a", "b"], {}, {"type": "Add"})
ODD_VALUES += ("x\ny\x1b[31m", "*/", "../../x", 10**400, "9" * 5000, [[[[]]]], {"": None})

# -- bytes ------------------------------------------------------------------------------------------------------------


def _span(rng: np.random.Generator, content: bytes) -> tuple[int, int]:
    """A piece of the content, often short and often near its beginning, where headers are."""
    start = int(len(content) * rng.random() ** rng.choice([1, 6]))
    return start, min(len(content), start + int(2 ** rng.uniform(0, 9)))


def _flip(rng: np.random.Generator, content: bytes) -> bytes:
    changed = bytearray(content)
    for _ in range(rng.integers(1, 6)):
        if changed:
            changed[_span(rng, changed)[0]] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def _overwrite(rng: np.random.Generator, content: bytes) -> bytes:
    start, end = _span(rng, content)
    return content[:start] + bytes([rng.choice([0, 1, 127, 128, 255])]) * (end - start) + content[end:]


def _cut_end(rng: np.random.Generator, content: bytes) -> bytes:
    return content[: _span(rng, content)[0]]


def _cut_out(rng: np.random.Generator, content: bytes) -> bytes:
    start, end = _span(rng, content)
    return content[:start] + content[end:]


def _insert(rng: np.random.Generator, content: bytes) -> bytes:
    start, end = _span(rng, content)
    return content[:start] + rng.bytes(end - start) + content[start:]


def _repeat(rng: np.random.Generator, content: bytes) -> bytes:
    start, end = _span(rng, content)
    return content[:end] + content[start:end] * int(rng.integers(1, 20)) + content[end:]


def _swap(rng: np.random.Generator, content: bytes) -> bytes:
    (a, b), (c, d) = sorted([_span(rng, content), _span(rng, content)])
    return (
        content[:a] + content[c:d] + content[b:c] + content[a:b] + content[d:] if b <= c else content[:a] + content[c:]
    )


BYTES = (_flip, _flip, _overwrite, _cut_end, _cut_out, _insert, _repeat, _swap)


def damaged(rng: np.random.Generator, content: bytes, fields: Change | None, share: float = 0.6) -> bytes:
    """One to three changes to bytes, or, for that share of the mutants, one or two to fields."""
    if fields is not None and rng.random() < share:
        for _ in range(rng.integers(1, 3)):
            content = fields(rng, content)
        return content
    for _ in range(rng.integers(1, 4)):
        content = BYTES[rng.integers(len(BYTES))](rng, content)
    return content


# -- fields -----------------------------------------------------------------------------------------------------------


def in_json(rng: np.random.Generator, content: bytes) -> bytes:
    """Another value somewhere in a JSON text, taken from elsewhere in it or odd; or an entry less or more."""
    try:
        data = json.loads(content)
        places = list(_places(data))
    except (ValueError, TypeError):
        return content
    if not places:
        return content
    holder, key = places[rng.integers(len(places))]
    other_holder, other_key = places[rng.integers(len(places))]
    what = rng.integers(4)
    if what == 0:
        holder[key] = _odd(rng)
    elif what == 1 and len(json.dumps(data)) < 50_000:
        holder[key] = json.loads(json.dumps(other_holder[other_key]))
    elif what == 2:
        del holder[key]
    elif isinstance(holder, dict):
        fields = sorted({name for cls in CELLS for name in cls.__dataclass_fields__} | {"type"})
        holder[str(rng.choice(fields))] = _odd(rng)
    else:
        holder.insert(key, holder[key])
    return _dumped(data)


def _dumped(data: Any) -> bytes:
    return json.dumps(data).encode()


def _odd(rng: np.random.Generator) -> Any:
    return ODD_VALUES[rng.integers(len(ODD_VALUES))]


def _places(data: Any) -> Iterator[tuple[Any, Any]]:
    for key in list(data) if isinstance(data, dict) else range(len(data)):
        yield data, key
        if isinstance(data[key], (dict, list)) and data[key]:
            yield from _places(data[key])


def in_safetensors(rng: np.random.Generator, content: bytes) -> bytes:
    """The header of a safetensors file, or the JSON texts in it."""
    size = struct.unpack("<Q", content[:8])[0]
    try:
        header = json.loads(content[8 : 8 + size])
    except ValueError:
        return content
    metadata = header.get("__metadata__") if isinstance(header, dict) else None
    texts = [
        name for name in ("graph", "graph", "progress", "history") if isinstance(metadata, dict) and name in metadata
    ]
    if texts and rng.random() < 0.6 and all(isinstance(metadata[name], str) for name in texts):
        name = texts[rng.integers(len(texts))]
        metadata[name] = in_json(rng, metadata[name].encode()).decode()
    else:
        header = json.loads(in_json(rng, _dumped(header)))
    text = _dumped(header)
    return struct.pack("<Q", len(text)) + text + content[8 + size :]


def in_onnx(rng: np.random.Generator, content: bytes) -> bytes:
    """Nodes and initializers that have each other's fields, odd attributes and sizes."""
    try:
        model = onnx.load_model_from_string(content)
    except Exception:  # an earlier change was to its bytes
        return content
    nodes, initializers = model.graph.node, model.graph.initializer
    if not nodes or not initializers:
        return content
    node, other = nodes[rng.integers(len(nodes))], nodes[rng.integers(len(nodes))]
    one, two = initializers[rng.integers(len(initializers))], initializers[rng.integers(len(initializers))]
    odd = int(rng.choice(NUMBERS))
    what = rng.integers(9)
    if what == 0:
        node.op_type = str(rng.choice([other.op_type, "Relu", "Loop", "Reshape", "NoSuchOp", ""]))
    elif what == 1 and node.input and other.input:
        node.input[rng.integers(len(node.input))] = other.input[rng.integers(len(other.input))]
    elif what == 2 and node.input and other.output:
        node.input[rng.integers(len(node.input))] = str(rng.choice([other.output[0], "", "nowhere", "input"]))
    elif what == 3 and node.output and other.output:
        node.output[0] = str(rng.choice([other.output[0], "output", "input", ""]))
    elif what == 4 and node.attribute:
        attribute = node.attribute[rng.integers(len(node.attribute))]
        if attribute.ints:
            attribute.ints[rng.integers(len(attribute.ints))] = odd
        else:
            attribute.i = odd
    elif what == 5:
        node.attribute.append(helper.make_attribute(str(rng.choice(["axis", "group", "pads", "strides", "to"])), odd))
    elif what == 6:
        one.raw_data, two.raw_data = two.raw_data, one.raw_data
    elif what == 7:
        one.data_type = int(rng.integers(0, 20))
    elif one.dims:
        one.dims[rng.integers(len(one.dims))] = odd
    else:
        del nodes[rng.integers(len(nodes))]
    return model.SerializeToString()


def in_wire(rng: np.random.Generator, content: bytes) -> bytes:
    """A field of a protocol buffer, or of a message within it."""
    try:
        fields = wire.read(content)
    except ValueError:
        return content
    places = [(number, i) for number, values in fields.items() for i in range(len(values))]
    if not places:
        return content
    number, i = places[rng.integers(len(places))]
    value, other = fields[number][i], fields[places[rng.integers(len(places))][0]][0]
    inside = in_wire(rng, value) if isinstance(value, bytes) and rng.random() < 0.8 else value
    what = rng.integers(4)
    if inside != value:
        fields[number][i] = inside
    elif what == 0:
        del fields[number][i]
    elif what == 1:
        fields[number].append(value)
    elif what == 2:
        fields[number][i] = other
    else:
        fields[number][i] = int(rng.choice(NUMBERS)) if isinstance(value, int) else _flip(rng, value)
    parts = []
    for number, values in fields.items():
        parts += [
            wire.integer(number, value) if isinstance(value, int) else wire.block(number, value) for value in values
        ]
    return b"".join(parts)


def in_tflite(rng: np.random.Generator, content: bytes) -> bytes:
    """Fields of tensors, operators, buffers and metadata."""
    try:
        model = schema.ModelT.InitFromPackedBuf(content)
        graph = model.subgraphs[0]
        tensor, other = (graph.tensors[rng.integers(len(graph.tensors))] for _ in range(2))
        operator = graph.operators[rng.integers(len(graph.operators))]
        odd = int(rng.choice([-1, 0, 1, 5, 255, 2**20, 2**31 - 1]))
        what = rng.integers(11)
        if what == 0:
            tensor.shape = np.full(len(tensor.shape), odd, np.int32)
        elif what == 1:
            tensor.type = int(rng.integers(0, 18))
        elif what == 2:
            operator.inputs = np.full(len(operator.inputs), odd, np.int32)
        elif what == 3:
            model.operatorCodes[rng.integers(len(model.operatorCodes))].builtinCode = int(rng.integers(0, 200))
        elif what == 4:
            operator.outputs = np.full(len(operator.outputs), int(rng.integers(len(graph.tensors))), np.int32)
        elif what == 5:
            tensor.buffer, other.buffer = other.buffer, tensor.buffer
        elif what == 6:
            tensor.quantization, other.quantization = other.quantization, tensor.quantization
        elif what == 7:
            tensor.shape = other.shape
        elif what == 8:
            options = operator.builtinOptions
            names = sorted(name for name in vars(options or tensor) if isinstance(vars(options or tensor)[name], int))
            setattr(options or tensor, str(rng.choice(names)), odd)
        elif what == 9:
            graph.inputs, graph.outputs = graph.outputs, graph.inputs
        else:
            model.metadata[rng.integers(len(model.metadata))].buffer = int(rng.integers(-1, 99) % 2**31)
        builder = flatbuffers.Builder(1024)
        builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
        return bytes(builder.Output())
    except Exception:  # the content was damaged by an earlier change, or has no form with this one
        return content


def in_zip(rng: np.random.Generator, content: bytes) -> bytes:
    """A member of an archive, whose checksum is right again; or one less, or another name."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
    except Exception:  # as above
        return content
    if not members:
        return content
    name = sorted(members)[rng.integers(len(members))]
    what = rng.integers(4)
    if what < 2:
        members[name] = damaged(rng, members[name], None)
    elif what == 2:
        del members[name]
    else:
        members[f"{name}x"] = members.pop(name)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, member in members.items():
            archive.writestr(zipfile.ZipInfo(name, (2026, 1, 1, 0, 0, 0)), member)
    return buffer.getvalue()


def in_sqlite(rng: np.random.Generator, content: bytes) -> bytes:
    """A value, a row, a column or a table of a database; or a view in place of a table."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "file.db")
        path.write_bytes(content)
        database = sqlite3.connect(path, isolation_level=None)
        try:
            tables = [
                row[0] for row in database.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")
            ]
            filled = [name for name in tables if database.execute(f'SELECT 1 FROM "{name}"').fetchone()]
            table = filled[rng.integers(len(filled))]
            columns = [row[1] for row in database.execute(f'PRAGMA table_info("{table}")')]
            column = columns[rng.integers(len(columns))]
            rows = [row[0] for row in database.execute(f'SELECT rowid FROM "{table}"')]
            row = rows[rng.integers(len(rows))]
            what = rng.integers(10)
            if what < 6:
                old = database.execute(f'SELECT "{column}" FROM "{table}" WHERE rowid = ?', (row,)).fetchone()[0]
                new = _odd(rng)
                if isinstance(old, str) and old[:1] in "{[" and rng.random() < 0.8:
                    new = in_json(rng, old.encode()).decode()
                if not isinstance(new, (int, float, str, type(None))) or (isinstance(new, int) and abs(new) >= 2**63):
                    new = b"\xff\x00"
                database.execute(f'UPDATE "{table}" SET "{column}" = ? WHERE rowid = ?', (new, row))
            elif what == 6:
                database.execute(f'DELETE FROM "{table}" WHERE rowid = ?', (row,))
            elif what == 7:
                database.execute(f'ALTER TABLE "{table}" RENAME COLUMN "{column}" TO "{column}x"')
            elif what == 8:
                database.execute(f'DROP TABLE "{table}"')
            else:
                database.execute(f'DROP TABLE "{table}"')
                loop = "WITH RECURSIVE x(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM x) SELECT max(n) FROM x"
                database.execute(f'CREATE VIEW "{table}" AS {loop}')
        except sqlite3.Error:  # as above
            return content
        finally:
            database.close()
        return path.read_bytes()


def in_text(rng: np.random.Generator, content: bytes) -> bytes:
    """A line of a text, or a word of it, that is odd, or stands elsewhere too."""
    lines = content.decode(errors="replace").splitlines() or [""]
    at = rng.integers(len(lines))
    words = lines[at].split(" ")
    odd = str(
        rng.choice(
            ["", "x" * 10_000, "9" * 5000, "\x00", "../../../etc/passwd", "/dev/zero", "-1", "\u2028", "\x1b[2J"]
        )
    )
    what = rng.integers(4)
    if what == 0:
        words[rng.integers(len(words))] = odd
        lines[at] = " ".join(words)
    elif what == 1:
        lines.insert(at, lines[rng.integers(len(lines))])
    elif what == 2:
        lines[at] = odd
    else:
        del lines[at]
    return "\n".join(lines).encode(errors="replace") + b"\n"
