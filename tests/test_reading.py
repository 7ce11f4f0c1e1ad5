"""What a few bytes may ask for: limits, pipes and devices, and processes of their own, each refused in one line at once."""

from __future__ import annotations

import gc
import gzip
import io
import json
import os
import sqlite3
import struct
import subprocess
import sys
import threading
import time
import tracemalloc
import warnings
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import qat
from qat import reading
from qat.child import Child, ChildError
from qat.cli import main
from qat.data.cifar import read_batches
from qat.data.idx import read_idx
from qat.data.pictures import find_pictures, read_class_names, read_picture
from qat.data.svhn import read_source_images, read_svhn
from qat.graph.graph import MOST_NODES
from qat.networks import LeNet5
from qat.passes.quant_config import read_quant_config
from qat.registry import BACKENDS, TARGETS, installed
from qat.study import Study, Task
from qat.study.search import Search
from qat.study.training import read_result

SMALL = 100 << 20  #: bytes that a refusal may take
HANG = 60  #: seconds; traced, beside another test on a busy machine, a refusal of milliseconds has taken 16


def refused(read: Callable[[], object], message: str) -> None:
    """In one line, within a second or so, and without much memory; the first time may import what it needs."""
    with pytest.raises(qat.QatError):
        read()
    tracemalloc.start()
    begin = time.monotonic()
    try:
        with pytest.raises(qat.QatError, match=message) as caught:
            read()
        assert tracemalloc.get_traced_memory()[1] < SMALL
    finally:
        tracemalloc.stop()
    assert len(str(caught.value).splitlines()) == 1
    assert time.monotonic() - begin < HANG


READERS: dict[str, Callable[[Path], object]] = {
    "idx": lambda path: read_idx(path, 3),
    "cifar": lambda path: read_batches([path]),
    "mat": read_svhn,
    "picture": lambda path: read_picture(path, (1, 4, 4)),
    "class names": read_class_names,
    "quant_config": read_quant_config,
    "checkpoint": qat.Checkpoint.load,
    "result": read_result,
    **{
        f"{name} file": qat.target(name).input_shapes
        for name, entry in TARGETS.items()
        if installed(entry) and name != "C"
    },
    **{
        f"parameters of {name}": lambda path, name=name: qat.backend(name).load_params(path)
        for name, entry in BACKENDS.items()
        if entry.suffix and installed(entry)
    },
}


@pytest.mark.parametrize("what", ["pipe", "/dev/zero", "folder", "nothing", "name\0"])
@pytest.mark.parametrize("reader", READERS)
def test_only_regular_files_are_read(reader: str, what: str, tmp_path: Path) -> None:
    path = tmp_path / "x"
    if what == "pipe":
        os.mkfifo(path)
    elif what == "folder":
        path.mkdir()
    elif what != "nothing":
        path = Path(what)
    refused(lambda: READERS[reader](path), "cannot be read|is no file|there is no such")


@pytest.mark.parametrize("reader", READERS)
def test_no_larger_files_are_read(reader: str, tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.touch()
    os.truncate(path, 6 << 30)  # of holes, which take no space
    refused(lambda: READERS[reader](path), r"x: holds 6,442,450,944 bytes, but at most [\d,]+ are read; ")


def test_of_what_lies_beside_a_file_no_more_is_read_either(tmp_path: Path) -> None:
    for name in ("x.source_image.npy", "x.npz"):
        (tmp_path / name).touch()
        os.truncate(tmp_path / name, 3 << 30)
    (tmp_path / "x.json").write_text(json.dumps(RESULT))
    refused(
        lambda: read_source_images(tmp_path / "x.mat", 3),
        "npy: holds 3,221,225,472 bytes, but at most 2,147,483,648 are",
    )
    refused(lambda: read_result(tmp_path / "x.json"), "npz: holds 3,221,225,472 bytes, but at most 2,147,483,648 are")


# -- what is said of a file ---------------------------------------------------------------------------------------------

RESULT: dict[str, Any] = {"name": "x", "label": {"model": "x", "fold": 0}, "data": "x", "source": "x", "accuracy": 0.5}
RESULT |= {"best_epoch": 1, "epochs": [], "codes_differ": 0, "seconds": 1.0, "test_images": 1, "train_images": 1}


def test_what_is_wrong_in_a_file_names_the_file(tmp_path: Path) -> None:
    result = tmp_path / "x.json"
    for changed in ([1], RESULT | {"seconds": "x"}, RESULT | {"label": {}}):
        result.write_text(json.dumps(changed))
        refused(lambda: read_result(result), f"^{result}: .* (is|cannot) .*train it anew$")


@pytest.mark.parametrize(
    ("column", "value"), [("attempts", "many"), ("state", "x"), ("after", "[3]"), ("name", "a/b"), ("settings", "[]")]
)
def test_what_is_wrong_in_a_study_names_the_study(column: str, value: object, tmp_path: Path) -> None:
    with Study(tmp_path) as study:
        study.add([Task("a")])
    with sqlite3.connect(tmp_path / "study.db") as database:
        database.execute(f"UPDATE tasks SET {column} = ?", (value,))
    database.close()
    refused(lambda: Study(tmp_path), f"^{tmp_path / 'study.db'}: .*choose another folder$")


@pytest.mark.parametrize(
    ("key", "value"),
    [("graph", "{}"), ("graph", "[]"), ("step", "x"), ("epoch", "-1"), ("history", "{}"), ("progress", '{"x": 1}')],
)
def test_what_is_wrong_in_a_checkpoint_names_the_checkpoint(key: str, value: str, tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.numpy")
    path, graph = tmp_path / "x.ckpt", LeNet5().graph()
    qat.Checkpoint(graph, graph.initial_params()).save(path)
    with safetensors.safe_open(path, "numpy") as file:
        metadata = file.metadata()
    path.write_bytes(safetensors.save(graph.initial_params(), metadata | {key: value}))
    refused(lambda: qat.Checkpoint.load(path), f"^{path}: .*use another copy$")


def test_what_knows_no_file_gets_its_name_once() -> None:
    for text, shown in (
        ("it is 3; use a dict", "x y: it is 3; use a dict, or leave it"),
        ("it is damaged", "x y: it is damaged; leave it"),
        ("x y: it is 3; use another", "x y: it is 3; use another"),
    ):
        with pytest.raises(qat.QatError, match=f"^{shown}$"), reading.reading("x y", "text", "leave it"):
            raise qat.QatError(text)


def test_only_a_parser_s_own_warnings_are_left_out(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="of another"), reading.reading("x", "text", "leave it"):
        warnings.warn("of another", UserWarning, stacklevel=1)
    buffer = io.BytesIO()
    np.save(buffer, np.arange(3))
    (tmp_path / "y.source_image.npy").write_bytes(
        buffer.getvalue().replace(b"(3,), ", b"(3L,),")
    )  # as Python 2 wrote it
    np.testing.assert_array_equal(read_source_images(tmp_path / "y.mat", 3), np.arange(3))
    scipy = pytest.importorskip("scipy.io")
    scipy.savemat(tmp_path / "x.mat", {"X": np.zeros((32, 32, 3, 2), np.uint8), "y": np.ones((2, 1), np.uint8)})
    content = (tmp_path / "x.mat").read_bytes()
    (tmp_path / "x.mat").write_bytes(content + content[128:])  # each array twice
    assert len(read_svhn(tmp_path / "x.mat")[1]) == 2


def test_a_pipe_in_a_study_s_folder_is_no_database(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    os.mkfifo(tmp_path / "study.db")
    os.mkfifo(tmp_path / "search.db")
    refused(lambda: Study(tmp_path), "cannot be read")
    search = {"sampler": "bayesian", "epochs": 1, "seed": 0, "settings": {}}
    refused(lambda: Search(tmp_path, ["maximize"], **search), "cannot be read")


# -- what unpacks to much -----------------------------------------------------------------------------------------------


def test_a_gz_file_unpacks_to_so_much_and_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "LARGEST_UNPACKED", 1 << 20)
    header = bytes((0, 0, 8, 1))
    for name, size in (("good", 1 << 19), ("bomb", 3 << 20)):
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(header + struct.pack(">I", size) + bytes(size)))
    assert read_idx(tmp_path / "good.gz", 1).shape == (1 << 19,)
    refused(lambda: read_idx(tmp_path / "bomb.gz", 1), "unpacks to more than 1,048,576 bytes")
    refused(lambda: read_batches([tmp_path / "bomb.gz"]), "unpacks to more than 1,048,576 bytes")


def test_a_header_declares_no_more_than_the_file_holds(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(bytes((0, 0, 8, 3)) + struct.pack(">3I", 1 << 31, 1, 2) + bytes(100))
    refused(lambda: read_idx(tmp_path / "x", 3), "announces 4,294,967,296 bytes of data")
    buffer = io.BytesIO()
    np.save(buffer, np.arange(3))
    (tmp_path / "y.source_image.npy").write_bytes(buffer.getvalue().replace(b"(3,)", b"(9999999999,)"))
    refused(lambda: read_source_images(tmp_path / "y.mat", 3), "declares 79,999,999,992 bytes")


def test_a_mat_file_unpacks_to_so_much_and_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scipy = pytest.importorskip("scipy.io")
    monkeypatch.setattr(reading, "LARGEST_UNPACKED", 1 << 20)
    for name, count in (("good", 50), ("bomb", 2000)):
        content = {"X": np.zeros((32, 32, 3, count), np.uint8), "y": np.ones((count, 1), np.uint8)}
        scipy.savemat(tmp_path / f"{name}.mat", content, do_compression=True)
    assert len(read_svhn(tmp_path / "good.mat")[1]) == 50
    refused(lambda: read_svhn(tmp_path / "bomb.mat"), "unpacks to more than 1,048,576 bytes")


def test_an_archive_unpacks_to_so_much_and_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "LARGEST_UNPACKED", 1 << 20)
    for file in (tmp_path / "x.npz", tmp_path / "x.pt"):
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("archive/data.pkl", bytes(3 << 20))
    with (tmp_path / "x.npz").open("rb") as opened:
        refused(lambda: reading.check_zip("x.npz", opened, "leave it"), "unpacks to 3,145,728 bytes")
    if installed(BACKENDS["torch"]):
        refused(lambda: qat.backend("torch").load_params(tmp_path / "x.pt"), "unpacks to 3,145,728 bytes")


@pytest.mark.parametrize("size", [(8000, 7000), (13000, 13000), (20000, 20000)])
def test_a_picture_has_so_many_pixels_and_no_more(size: tuple[int, int], tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    path = tmp_path / "x.png"
    image.new("1", size).save(path)
    assert path.stat().st_size < 200_000
    refused(lambda: read_picture(path, (1, 4, 4)), "at most 50,000,000 are read|exceeds limit")


def test_a_tensor_of_a_file_is_no_larger_than_its_storage(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    torch.save({"x": torch.zeros(1).half().expand(1 << 20, 1 << 20)}, tmp_path / "x.pt")
    refused(lambda: qat.backend("torch").load_params(tmp_path / "x.pt"), "cannot be read as a state_dict")


# -- texts --------------------------------------------------------------------------------------------------------------

ALIASES = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{','.join([f'*{chr(97 + i)}'] * 9)}]\n" for i in range(7)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (ALIASES + "num_bits: *h\n", "alias .a: write out what it stands for"),
        ("layers: &a\n  x: *a\n", "alias .a: write out"),
        ("a: " + "[" * 20_000, "nested too deeply"),
        ("num_bits: " + "[" * 300 + "]" * 300, "nested too deeply|num_bits is"),
        ("#" * 70_000, "holds 70,000 bytes, but at most 65,536 are read"),
        ("num_bits: 8\nnum_bits: 4", "'num_bits' stands twice"),
        ("num_bits: 1" + "0" * 5000, "num_bits is|cannot be read as YAML"),
    ],
    ids=lambda value: value[:20],
)
def test_yaml_neither_expands_nor_nests_without_end(text: str, message: str, tmp_path: Path) -> None:
    assert len(ALIASES) < 400
    (tmp_path / "x.yaml").write_text(text)
    refused(lambda: read_quant_config(tmp_path / "x.yaml"), message)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("bn_fold: x", "bn_fold is 'x'; use True or False"),
        ("bn_fold: 1", "bn_fold is 1; use True or False"),
        ("one_conv_fold: 'true'", "one_conv_fold is 'true'; use True or False"),
        ("num_bits: true", "num_bits is True; use a whole number"),
        ("num_bits: 8.0", "num_bits is 8.0; use a whole number"),
        ("num_bits: [8, '8']", "num_bits is '8'; use a whole number"),
        ("num_bits:", "num_bits is None; use a whole number"),
        ("symmetric: [1, 0]", "symmetric is 1; use True or False"),
        ("ema_decay: .nan", "ema_decay is nan; use a finite number"),
        ("freeze_bn: 1.5", "freeze_bn is 1.5; use a whole number"),
        ("layers: {conv1: {narrow_range: x}}", "layers: 'conv1': narrow_range is 'x'; use True or False"),
        ("layers: {conv1: {num_bit: 4}}", "sets 'num_bit', which is unknown, perhaps num_bits is meant"),
        ("layers: {conv1: null}", "layers must map patterns"),
        ("num_bit: 4", "'num_bit' is not a setting, perhaps num_bits is meant"),
        ("weight_quantizer: {type: WeightQuantizer, symmetric: 1}", "symmetric is 1; use True or False"),
        ("weight_quantizer: x", "weight_quantizer is 'x', which is not a quantizer of weights"),
        ("profile: [ascend]", "profile is ..ascend..; use one of"),
    ],
)
def test_settings_are_of_their_types(settings: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(settings)
    refused(lambda: qat.convert_quant_network(LeNet5(), **read_quant_config(tmp_path / "x.yaml")), message)


@pytest.mark.parametrize("layers", [{"x": None}, {"conv1": 4}, {"conv1": [8]}, {3: {}}, ["conv1"], "conv1", 3])
def test_layers_given_in_python_are_of_their_types(layers: Any) -> None:
    refused(lambda: qat.convert_quant_network(LeNet5(), layers=layers), "layers")


def test_class_names_and_labels_are_short(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("x" * (2 << 20))
    refused(lambda: read_class_names(tmp_path / "names.txt"), "at most 1,048,576 are read")
    (tmp_path / "index.txt").write_text("a.png " + "9" * 5000)
    refused(lambda: find_pictures(tmp_path / "index.txt", []), "is neither a class name nor a number")


def flags(name: str) -> int:
    return main(["train-svhn", "--data_path", "digits", f"--flagfile={name}"])


def test_flag_files_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("absl")
    monkeypatch.chdir(tmp_path)
    Path("self.cfg").write_text("--flagfile=self.cfg\n")
    Path("one.cfg").write_text("--flagfile=two.cfg\n")
    Path("two.cfg").write_text("--flagfile=./one.cfg\n")
    for number in range(30):  # two to the thirtieth lines
        Path(f"n{number}.cfg").write_text(f"--flagfile=n{number + 1}.cfg\n" * 2)
    Path("n30.cfg").touch()
    os.mkfifo("pipe")
    Path("of_pipe.cfg").write_text("--flagfile=pipe\n")
    found = {}
    for name in ("self.cfg", "one.cfg", "n0.cfg", "pipe", "of_pipe.cfg", "/dev/zero", "."):
        begin = time.monotonic()
        assert flags(name) == 2
        assert time.monotonic() - begin < HANG
        found[name] = capsys.readouterr().err
        assert found[name].count("\n") == 1
    assert "includes itself" in found["self.cfg"]
    assert "includes itself" in found["one.cfg"]
    assert "more than 10,000 lines" in found["n0.cfg"]
    assert "it is not a file but a device or a pipe" in found["of_pipe.cfg"]


# -- graphs -------------------------------------------------------------------------------------------------------------


def graph_of(*cells: dict[str, Any], shape: tuple[int, ...] = (1, 8, 8)) -> str:
    """The JSON of a chain of cells."""
    names = ["input", *(f"n{i}" for i in range(len(cells)))]
    nodes = [{"name": "input", "cell": {"type": "Input", "shape": shape}, "inputs": [], "cell_name": "input"}]
    for number, cell in enumerate(cells):
        name = names[number + 1]
        nodes.append({"name": name, "cell": cell, "inputs": [names[number]], "cell_name": name})
    return json.dumps({"format": 1, "name": "x", "nodes": nodes, "outputs": names[-1:]})


PADDED = {"pad_mode": "pad", "stride": 1 << 16}
CONV = {"type": "Conv2dBnAct", "in_channels": 1, "out_channels": 1}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (graph_of({"type": "Flatten"}, shape=(3, 20_000, 20_000)), "takes 2,400,000,000 numbers"),
        (graph_of({"type": "Flatten"}, shape=(1 << 62, 1 << 62, 1 << 62)), "numbers over all nodes"),
        (graph_of({"type": "AvgPool2d", "kernel_size": 1 << 16, "padding": 65_535, **PADDED}), "in the padded input"),
        (graph_of({"type": "MaxPool2d", "kernel_size": 1 << 16, "padding": 65_535, **PADDED}), "in the padded input"),
        (graph_of({**CONV, "kernel_size": 1, "padding": 1 << 30, **PADDED}), "in the padded input"),
        (graph_of({**CONV, "kernel_size": 200}, shape=(1, 1000, 1000)), "in the windows"),
        (
            graph_of({"type": "Flatten"}, {"type": "DenseBnAct", "in_channels": 64, "out_channels": 1 << 26}),
            "parameters",
        ),
        (graph_of(*[{"type": "Flatten"}] * MOST_NODES), "10,001 nodes, but 10,000 are the most"),
        ('{"format": 1, "x": "' + "x" * (17 << 20) + '"}', "characters, but 16,777,216 are the most"),
        (graph_of({"type": "Flatten"}).replace('"x"', "3"), "3 where a name is expected"),
        (graph_of({"type": "Flatten"}).replace('"format": 1', '"format": true'), "has format True"),
    ],
    ids=lambda value: value[:30],
)
def test_a_graph_declares_no_more_than_a_computer_holds(text: str, message: str) -> None:
    refused(lambda: qat.Graph.from_json(text), message)


# -- exported files -----------------------------------------------------------------------------------------------------


def test_operators_that_no_export_writes_are_refused(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    helper = onnx.helper
    big = helper.make_tensor("size", onnx.TensorProto.INT64, [2], [1 << 20, 1 << 20])
    graph = helper.make_graph(
        [helper.make_node("ConstantOfShape", ["size"], ["output"])],
        "x",
        [helper.make_tensor_value_info("input", onnx.TensorProto.UINT8, ["N", 1, 4, 4])],
        [helper.make_tensor_value_info("output", onnx.TensorProto.FLOAT, [1 << 20, 1 << 20])],
        [big],
    )
    for name in ("ONNX", "ASCEND_ONNX"):
        path = tmp_path / f"x{TARGETS[name].suffix}"
        path.write_bytes(helper.make_model(graph).SerializeToString())
        refused(lambda path=path, name=name: qat.target(name).input_shapes(path), "ConstantOfShape")


def test_a_tflite_file_that_declares_much_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("ai_edge_litert")
    from qat.targets.tflite.file import load, pack_model

    quantized = qat.convert_quant_network(LeNet5())
    path = tmp_path / "x.tflite"
    qat.target("TFLITE").export(qat.to_integer(quantized, quantized.observed_params()), path)
    model = load(path).model
    model.subgraphs[0].tensors[0].shape = np.array([1, 1 << 15, 1 << 15, 1], np.int32)
    path.write_bytes(pack_model(model))
    refused(lambda: qat.target("TFLITE").input_specs(path), "at most 268,435,456 are supported")


def test_a_child_that_dies_is_one_line_and_another_one_answers() -> None:
    child = Child("reading_work")
    (doubled,) = child.ask({"do": "double"}, [np.arange(6, dtype=np.int16).reshape(2, 3)])
    np.testing.assert_array_equal(doubled, np.arange(0, 12, 2, np.int16).reshape(2, 3))
    with pytest.raises(ChildError, match="SIGABRT"):
        child.ask({"do": "abort"}, [])
    with pytest.raises(ChildError, match=r"^one two$"):
        child.ask({"do": "raise"}, [])
    with pytest.raises(ChildError, match=r"needs more memory than there is|allocate"):
        child.ask({"do": "grow"}, [])
    (empty,) = child.ask({"do": "double"}, [np.zeros((0, 3), np.float32)])
    assert empty.shape == (0, 3)
    child.close()


IN_A_FOLDER = """
import sys
from qat.child import Child
import numpy as np
for first in ([], ["", "."]):
    sys.path[:0] = first
    child = Child("reading_work")
    print(child.ask({"do": "double"}, [np.arange(3)])[0].tolist())
    child.close()
"""


def test_a_child_imports_nothing_from_the_working_directory(tmp_path: Path) -> None:
    program, here = tmp_path / "elsewhere" / "program.py", tmp_path / "here"
    program.parent.mkdir()
    program.write_text(IN_A_FOLDER)
    here.mkdir()
    for name in ("json", "numpy", "qat", "reading_work", "signal", "subprocess", "resource"):
        (here / f"{name}.py").write_text(f"open({str(tmp_path / name)!r}, 'w')\n")
    tests = Path(__file__).parent
    environment = os.environ | {"PYTHONPATH": f"{tests.parent}{os.pathsep}{tests}"}
    command = [sys.executable, program]
    done = subprocess.run(command, cwd=here, env=environment, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("[0, 2, 4]\n[0, 2, 4]\n", "")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["elsewhere", "here"]


def test_what_belongs_together_is_asked_of_a_child_together() -> None:
    child = Child("reading_work")

    def recalled(number: int) -> int:
        with child.session():
            child.ask({"do": "remember", "number": number}, [])
            time.sleep(0.01)
            return int(child.ask({"do": "recall"}, [])[0][0])

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(recalled, range(20))) == list(range(20))
    child.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # which holds of what other threads hold
def test_a_fork_has_a_child_of_its_own() -> None:
    child = Child("reading_work")

    def process() -> int:
        with child.session():
            child.ask({"do": "remember", "number": 0}, [])
            return int(child.ask({"do": "recall"}, [])[0][1])

    before = process()
    begun, ended = threading.Event(), threading.Event()

    def hold() -> None:
        with child.session():
            begun.set()
            ended.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    begun.wait(60)
    fork = os.fork()
    if fork == 0:
        status = 1
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                own = process()
                gc.collect()
                child.close()
            status = 0 if own not in (before, os.getpid()) and not caught else 2
        finally:
            os._exit(status)
    deadline = time.monotonic() + 30
    while (found := os.waitpid(fork, os.WNOHANG)) == (0, 0) and time.monotonic() < deadline:
        time.sleep(0.01)
    if found == (0, 0):
        os.kill(fork, 9)
        found = os.waitpid(fork, 0)
    ended.set()
    thread.join()
    assert os.waitstatus_to_exitcode(found[1]) == 0
    assert process() == before
    child.close()
