"""Damaged files: whatever is read gives a good result or a QatError of one line; nothing hangs, crashes or writes files.

Each mutant is made from a good file by its seed alone, so that a failure names all that is needed to see it again:
``mutant(kind, seed)``. They are read in a process of its own (this file, run as a script), since the libraries below may
crash. QAT_FUZZ=1 tries 10,000 of them instead of some 300.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import resource
import select
import struct
import subprocess
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import is_dataclass
from functools import cache
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
import onnx
import pytest
import yaml
from ai_edge_litert import schema_py_generated as schema
from onnx import helper

import qat
from qat.cells.linear import NEVER
from qat.data import Split
from qat.data.cifar import read_batches
from qat.data.idx import read_idx
from qat.forward import Forward
from qat.numpy_ops import NUMPY_OPS
from qat.quant_config import read_quant_config
from qat.serial import Serializable
from qat.verify import Certificate, verify

SECONDS = 20.0  #: for one case; the slowest takes less than one
MEMORY = 8 << 30  #: address space of the reading process: what asks for more gets an error, not the machine
LARGEST = (
    200_000  #: numbers of one image, over all nodes, beyond which a graph is a valid one too large to compute here
)

#: Mutants of each kind: in the normal profile and with QAT_FUZZ.
COUNTS = {"idx": (50, 1500), "idx.gz": (20, 500), "cifar": (30, 1000), "safetensors": (70, 2500), "json": (90, 2500)}
COUNTS |= {"onnx": (60, 2000), "tflite": (60, 2000), "yaml": (100, 2000)}
FUZZ = bool(os.environ.get("QAT_FUZZ"))

# -- good files -------------------------------------------------------------------------------------------------------

PIXELS = np.random.default_rng(0).integers(0, 256, (3, 2, 6, 6), np.uint8)
LABELS = np.array([0, 3, 1])


class Small(qat.Network):
    """Most cells."""

    inputs = qat.Input((2, 6, 6), mean=0.5, std=0.25)

    def __init__(self) -> None:
        self.conv = qat.Conv2dBnAct(2, 3, 3, has_bn=True, activation="leaky_relu")
        self.depthwise = qat.Conv2dBnAct(3, 3, (2, 1), pad_mode="pad", padding=(1, 0, 0, 0), group=3, has_bias=True)
        self.add = qat.Add("relu")
        self.concat = qat.Concat()
        self.largest = qat.MaxPool2d(2)
        self.mean = qat.AvgPool2d(2)
        self.drop = qat.Dropout(0.3)
        self.flatten = qat.Flatten()
        self.fc = qat.DenseBnAct(54, 4)

    def construct(self, x):
        x = self.conv(x)
        x = self.add(self.depthwise(x), x)
        return self.fc(self.flatten(self.drop(self.concat(self.largest(x), self.mean(x)))))


@cache
def checkpoint() -> qat.Checkpoint:
    graph = qat.convert_quant_network(Small(), num_bits=(8, 7), freeze_bn=NEVER)
    params = graph.observed_params(1)
    optimizer = {"fc.weight.momentum_buffer": np.ones((4, 54), np.float32)}
    return qat.Checkpoint(graph, params, 17, 2, optimizer, ({"lr": 0.1, "data": "digits"},))


QUANT_CONFIG = b"""num_bits: [8, 7]
per_channel: [true, false]
symmetric: [true, false]
narrow_range: false
quant_delay: 10
bn_fold: true
one_conv_fold: false
freeze_bn: 100
ema_decay: 0.9
layers:
  conv: {num_bits: [4, 7], narrow_range: [true, false]}
  "f*": {num_bits: [6, 8]}
"""


@cache
def good(kind: str) -> bytes:
    """The content of a file that is read without complaint."""
    rng = np.random.default_rng(1)
    if kind in ("idx", "idx.gz"):
        content = bytes((0, 0, 8, 3)) + struct.pack(">3I", 5, 4, 3) + rng.bytes(60)
        return content if kind == "idx" else gzip.compress(content, mtime=0)
    if kind == "cifar":
        return b"".join(bytes((label,)) + rng.bytes(3072) for label in (3, 9, 0))
    if kind == "json":
        return checkpoint().graph.to_json().encode()
    if kind == "yaml":
        return QUANT_CONFIG
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"file.{kind}")
        if kind == "safetensors":
            checkpoint().save(path)
        else:
            qat.target(kind.upper()).export(qat.to_integer(checkpoint().graph, checkpoint().params), path)
        return path.read_bytes()


# -- mutants ----------------------------------------------------------------------------------------------------------

CELLS = [cls for cls in Serializable.registry.values() if cls.__module__.startswith("qat.") and is_dataclass(cls)]
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


def mutant(kind: str, seed: int) -> bytes:
    """The content of a damaged file: one to three changes to bytes, or a change to its fields."""
    rng = np.random.default_rng((sum(kind.encode()), seed))
    content = good(kind)
    if kind in FIELDS and rng.random() < 0.6:
        for _ in range(rng.integers(1, 3)):
            content = FIELDS[kind](rng, content)
        return content
    for _ in range(rng.integers(1, 4)):
        content = BYTES[rng.integers(len(BYTES))](rng, content)
    return content


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


def _swap_json(rng: np.random.Generator, content: bytes) -> bytes:
    """Another value somewhere in a JSON text, taken from elsewhere in it or odd; or an entry less or more."""
    try:
        data = json.loads(content)
    except ValueError:
        return content
    places = list(_places(data))
    holder, key = places[rng.integers(len(places))]
    other_holder, other_key = places[rng.integers(len(places))]
    what = rng.integers(4)
    if what == 0:
        holder[key] = ODD_VALUES[rng.integers(len(ODD_VALUES))]
    elif what == 1 and len(json.dumps(data)) < 50_000:
        holder[key] = json.loads(json.dumps(other_holder[other_key]))
    elif what == 2:
        del holder[key]
    elif isinstance(holder, dict):
        fields = sorted({name for cls in CELLS for name in cls.__dataclass_fields__} | {"type"})
        holder[str(rng.choice(fields))] = ODD_VALUES[rng.integers(len(ODD_VALUES))]
    else:
        holder.insert(key, holder[key])
    return json.dumps(data).encode()


def _places(data: Any) -> Iterator[tuple[Any, Any]]:
    for key in list(data) if isinstance(data, dict) else range(len(data)):
        yield data, key
        if isinstance(data[key], (dict, list)) and data[key]:
            yield from _places(data[key])


def _swap_safetensors(rng: np.random.Generator, content: bytes) -> bytes:
    """The same for the header of a safetensors file, and for the graph in it."""
    size = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + size])
    metadata = header.get("__metadata__")
    if rng.random() < 0.6 and isinstance(metadata, dict) and isinstance(metadata.get("graph"), str):
        metadata["graph"] = _swap_json(rng, metadata["graph"].encode()).decode()
    else:
        try:
            header = json.loads(_swap_json(rng, json.dumps(header).encode()))
        except ValueError:
            return content
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + content[8 + size :]


def _swap_onnx(rng: np.random.Generator, content: bytes) -> bytes:
    """Nodes and initializers that have each other's fields, odd attributes and sizes."""
    model = onnx.load_model_from_string(content)
    nodes, initializers = model.graph.node, model.graph.initializer
    node, other = nodes[rng.integers(len(nodes))], nodes[rng.integers(len(nodes))]
    one, two = initializers[rng.integers(len(initializers))], initializers[rng.integers(len(initializers))]
    odd = int(rng.choice([-1, 0, 1, 2, 5, 255, 4096, 2**31, 2**62]))
    what = rng.integers(9)
    if what == 0:
        node.op_type = str(rng.choice([other.op_type, "Relu", "Loop", "Reshape", "NoSuchOp", ""]))
    elif what == 1:
        node.input[rng.integers(len(node.input))] = other.input[rng.integers(len(other.input))]
    elif what == 2:
        node.input[rng.integers(len(node.input))] = str(rng.choice([other.output[0], "", "nowhere", "input"]))
    elif what == 3:
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


def _swap_tflite(rng: np.random.Generator, content: bytes) -> bytes:
    """Other entries of the metadata, which a digest of the file itself seals anew; or fields that no digest seals."""
    import tempfile

    if rng.random() < 0.3:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "file.tflite")
            path.write_bytes(content)
            try:
                qat.target("TFLITE").write_metadata(path, {f"key{rng.integers(9)}": "x" * int(rng.integers(100))})
            except qat.QatError:
                return content
            return path.read_bytes()
    try:
        model = schema.ModelT.InitFromPackedBuf(content)
        graph = model.subgraphs[0]
        tensor = graph.tensors[rng.integers(len(graph.tensors))]
        operator = graph.operators[rng.integers(len(graph.operators))]
        odd = int(rng.choice([-1, 0, 1, 5, 255, 2**20, 2**31 - 1]))
        what = rng.integers(4)
        if what == 0:
            tensor.shape = np.full(len(tensor.shape), odd, np.int32)
        elif what == 1:
            tensor.type = int(rng.integers(0, 18))
        elif what == 2:
            operator.inputs = np.full(len(operator.inputs), odd, np.int32)
        else:
            model.operatorCodes[0].builtinCode = int(rng.integers(0, 200))
        builder = flatbuffers.Builder(1024)
        builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
        return bytes(builder.Output())
    except Exception:  # the content was damaged by an earlier change
        return content


FIELDS: dict[str, Callable[[np.random.Generator, bytes], bytes]] = {
    "json": _swap_json,
    "safetensors": _swap_safetensors,
    "yaml": lambda rng, content: _swap_json(rng, json.dumps(yaml.safe_load(QUANT_CONFIG)).encode()),
    "onnx": _swap_onnx,
    "tflite": _swap_tflite,
}

# -- the reading process ----------------------------------------------------------------------------------------------


def read_one(kind: str, path: Path) -> str:
    """Read a file as the commands do, and check what was read. Returns a word about it."""
    content = path.read_bytes()
    if kind in ("idx", "idx.gz"):
        array = read_idx(path, 3)
        assert array.dtype == np.uint8 and array.ndim == 3  # noqa: PT018
        assert kind != "idx" or array.tobytes() == content[16:]
    elif kind == "cifar":
        images, labels = read_batches([path])
        assert images.dtype == np.uint8 and images.shape == (len(labels), 3, 32, 32)  # noqa: PT018
        assert labels.dtype == np.int64 and set(labels) <= set(range(10))  # noqa: PT018
        assert len(images) * 3073 == len(content)
    elif kind == "json":
        check_graph(qat.Graph.from_json(content.decode(errors="surrogateescape")))
    elif kind == "safetensors":
        loaded = qat.Checkpoint.load(path)
        check_graph(loaded.graph)
        loaded.graph.check_params(loaded.params)
        assert isinstance(loaded.step, int) and isinstance(loaded.epoch, int)  # noqa: PT018
        json.dumps(loaded.history)
        check_integers(loaded.graph, loaded.params)
    elif kind == "yaml":
        graph = qat.convert_quant_network(Small(), **read_quant_config(path))
        check_graph(graph)
    elif kind in ("onnx", "tflite"):
        target = qat.target(kind.upper())
        split = Split(PIXELS, LABELS)
        real = target.predict(path, PIXELS)
        assert isinstance(real, np.ndarray)
        certificate = verify(path, target, qat.backend("torch"), checkpoint(), split, data="noise")
        assert isinstance(certificate, Certificate)
        assert certificate.summary() and json.loads(certificate.to_json())  # noqa: PT018
        return "passed" if certificate.passed else "failed"
    else:
        misbehave(kind, path)
    return "good"


def small(graph: qat.Graph) -> bool:
    sizes = [int(np.prod(shape, dtype=object)) for shape in graph.shapes.values()]
    return sum(sizes) + sum(int(np.prod(param.shape, dtype=object)) for param in graph.params.values()) <= LARGEST


def check_graph(graph: qat.Graph) -> None:
    """A graph that was read can be printed, written again and computed."""
    assert qat.Graph.from_json(graph.to_json()) == graph
    assert str(graph)
    assert len(graph.digest) == 16
    if not small(graph):
        return
    params = graph.initial_params()
    tensors = {name: NUMPY_OPS.from_numpy(params[name], param.kind) for name, param in graph.params.items()}
    pixels = tuple(np.zeros((2, *node.cell.shape), np.float32) for node in graph.inputs)
    run = Forward(graph, NUMPY_OPS)
    outputs, _ = run(tensors, pixels, training=True, phase=run.phase(0))
    for name, output in zip(graph.outputs, outputs, strict=True):
        assert output.shape == (2, *graph.shapes[name]), name
    with contextlib.suppress(qat.QatError):  # a float network, or one that has seen no data
        check_integers(graph, params)


def check_integers(graph: qat.Graph, params: dict[str, Any]) -> None:
    """Codes within their grid; a QatError passes through."""
    if small(graph):
        deployed = qat.to_integer(graph, params)
        codes = qat.evaluate(deployed, np.full((2, *deployed.input.shape), 7, np.uint8))
        assert codes.shape == (2, *deployed.output.shape)
        assert deployed.output.grid.qmin <= codes.min() <= codes.max() <= deployed.output.grid.qmax


def misbehave(kind: str, path: Path) -> None:
    """What the tests of this file's own machinery need."""
    if kind == "abort":
        os.abort()
    elif kind == "hang":
        time.sleep(3600)
    elif kind == "raise":
        raise IndexError("list index out of range")
    elif kind == "no words":
        raise qat.QatError("")
    elif kind == "write beside":
        path.with_name("other").touch()
    elif kind == "write into":
        path.write_bytes(b"changed")
    else:
        assert kind == "behave"


def serve() -> None:
    """Answer each case on standard input by one JSON line."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        kind, path = json.loads(line)
        try:
            answer = ["read", read_one(kind, Path(path))]
        except qat.QatError as error:
            answer = ["refused" if str(error) and "\n" not in str(error) else "not one line", str(error)]
        except BaseException:
            answer = ["raised", traceback.format_exc()]
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


class Reader:
    """The reading process; started again after it died."""

    def __init__(self, folder: Path, seconds: float = SECONDS) -> None:
        self.folder, self.seconds = folder, seconds
        self.process: subprocess.Popen[bytes] | None = None
        self.errors = folder / "stderr"
        self.place = folder / "place"
        self.place.mkdir()

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
            self.process = None

    def start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, str(Path(__file__).resolve())]
        with self.errors.open("wb") as errors:
            self.process = subprocess.Popen(
                command, cwd=self.place, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors
            )
        behave = self.place / "start"
        behave.touch()
        answer = self._ask("behave", behave, 60.0)
        behave.unlink()
        assert answer == ("read", "good"), f"{answer}\n{self.errors.read_text(errors='replace')}"
        return self.process

    def _ask(self, kind: str, path: Path, seconds: float) -> tuple[str, str]:
        process = self.process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps([kind, str(path)]).encode() + b"\n")
        process.stdin.flush()
        if not select.select([process.stdout], [], [], seconds)[0]:
            self.stop()
            return "hung", f"no answer in {seconds:g} s"
        answer = process.stdout.readline()
        if not answer:
            status = process.wait()
            said = self.errors.read_text(errors="replace")[-2000:]
            self.stop()
            return "crashed", f"exit status {status}: {said}"
        word, text = json.loads(answer)
        return word, text

    def read(self, kind: str, content: bytes) -> tuple[str, str]:
        """("read" or "refused", what), or what went wrong with its details."""
        if self.process is None:
            self.start()
        path = self.place / ("file.idx.gz" if kind == "idx.gz" else f"file.{kind}")
        path.write_bytes(content)
        result = self._ask(kind, path, self.seconds)
        unharmed = path.is_file() and path.read_bytes() == content
        path.unlink(missing_ok=True)
        others = [p.name for p in self.place.iterdir()]
        for name in others:
            (self.place / name).unlink()
        if not unharmed or others:
            return "wrote", f"{others}, the file itself is {'as it was' if unharmed else 'changed'}; {result}"
        return result


def complaint(kind: str, seed: int, content: bytes, word: str, text: str) -> str:
    shown = content.decode() if kind == "json" and content.isascii() else content.hex()
    return f"mutant({kind!r}, {seed}) {word}: {text}\n{shown[:4000]}"


# -- the tests --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", COUNTS)
def test_damaged_files_give_a_good_result_or_a_qaterror(kind: str, tmp_path: Path) -> None:
    findings, words = [], Counter()
    with Reader(tmp_path) as reader:
        assert reader.read(kind, good(kind))[0] == "read"
        for seed in range(COUNTS[kind][FUZZ]):
            content = mutant(kind, seed)
            word, text = reader.read(kind, content)
            words[word] += 1
            if word not in ("read", "refused"):
                findings.append(complaint(kind, seed, content, word, text))
    assert not findings, f"{len(findings)} of {COUNTS[kind][FUZZ]}\n\n" + "\n\n".join(findings[:20])
    assert words["refused"] > 0, "no mutant was damaged enough"
    if kind != "idx.gz":
        assert words["read"] > 0, "no mutant got past the first check"


@pytest.mark.parametrize(
    ("node", "field", "value"),
    [
        *(("conv.leaky_relu", "alpha", value) for value in ("x", None, [1, 2])),
        *(("conv", "freeze_bn", value) for value in ("x", None, [1])),
        *(("add.fake_quant", "shares", value) for value in (3, None, "x", [None], ["nowhere"], ["conv"])),
        ("conv", "dilation", 2**70),
        ("conv.fake_quant", "quantizer", {"type": "ActivationQuantizer", "narrow_range": "x"}),
    ],
    ids=str,
)
def test_a_field_of_a_wrong_type_gives_a_qaterror_when_the_graph_is_read(node: str, field: str, value: Any) -> None:
    """Found among the mutants, one by one."""
    data = json.loads(good("json"))
    (cell,) = (entry["cell"] for entry in data["nodes"] if entry["name"] == node)
    cell[field] = value
    with pytest.raises(qat.QatError, match="(?i)" + ("narrow_range" if field == "quantizer" else field)):
        qat.Graph.from_json(json.dumps(data))


@pytest.mark.parametrize("kind", COUNTS)
def test_mutants_differ_from_the_good_file_and_from_one_another(kind: str) -> None:
    """Or else the test above tries less than it says; the same seed gives the same mutant."""
    mutants = [mutant(kind, seed) for seed in range(40)]
    assert len({*mutants, good(kind)}) > 30
    assert mutant(kind, 7) == mutants[7]


@pytest.mark.parametrize(
    ("kind", "word"),
    [
        ("abort", "crashed"),
        ("hang", "hung"),
        ("raise", "raised"),
        ("no words", "not one line"),
        ("write beside", "wrote"),
        ("write into", "wrote"),
    ],
)
def test_whatever_goes_wrong_is_noticed_and_the_next_case_is_read(kind: str, word: str, tmp_path: Path) -> None:
    with Reader(tmp_path, seconds=1.0 if kind == "hang" else SECONDS) as reader:
        assert reader.read(kind, b"content")[0] == word
        assert reader.read("behave", b"content") == ("read", "good")


if __name__ == "__main__":
    serve()
