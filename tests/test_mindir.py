"""The MINDIR file: the integers of NumPy, in this process and in a fresh one, and what it says of a damaged file."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import qat
from qat.integer import IntegerGraph, IntegerLinear, trace_codes
from qat.networks import LeNet5
from qat.vocabulary.arrays import as_tuple
from qat.vocabulary.ops import EXACT_INTEGERS

pytest.importorskip("mindspore")
MINDIR, MINDSPORE = qat.target("MINDIR"), qat.backend("mindspore")
IMAGES = np.random.default_rng(0).integers(0, 256, (8, 1, 32, 32), np.uint8)


class Everything(qat.Network):
    """Each kind of integer node, uneven padding, groups, dilation, two outputs."""

    inputs = qat.Input((2, 9, 8))

    def __init__(self) -> None:
        self.conv1 = qat.Conv2dBnAct(
            2, 4, (3, 2), stride=(2, 1), pad_mode="pad", padding=(0, 2, 1, 0), group=2, has_bn=True, activation="relu6"
        )
        self.conv2 = qat.Conv2dBnAct(4, 4, 3, dilation=2, has_bias=True, activation="hswish")
        self.pool1 = qat.MaxPool2d(3, 2, "pad", (1, 0, 0, 2))
        self.pool2 = qat.AvgPool2d(2)
        self.add, self.concat, self.flatten = qat.Add(), qat.Concat(), qat.Flatten()
        self.softmax = qat.Softmax()
        self.fc = qat.DenseBnAct(16, 5)

    def construct(self, x):
        x = self.conv1(x)
        x = self.add(self.conv2(x), x)
        x = self.pool2(self.pool1(self.concat(x, x)))
        x = self.fc(self.flatten(x))
        return self.softmax(x), x


class Wide(qat.Network):
    """Sums beyond 2^24."""

    inputs = qat.Input((40, 6, 6))

    def __init__(self) -> None:
        self.conv = qat.Conv2dBnAct(40, 3, 5, pad_mode="same", has_bias=True)
        self.flatten = qat.Flatten()
        self.fc = qat.DenseBnAct(108, 4)

    def construct(self, x):
        return self.fc(self.flatten(self.conv(x)))


def trained(network: qat.Network, images: np.ndarray, **options: object) -> tuple[object, IntegerGraph]:
    """A quantized network that has seen the images once, and its integers."""
    graph = qat.convert_quant_network(network, **options)
    params = graph.initial_params()
    for name, array in params.items():
        if name == "conv.weight":
            array[0] = np.abs(array).max()  # so that all products have one sign
    model = MINDSPORE.lower(graph, params).set_train()
    model(*(MINDSPORE.ms.Tensor(x) for x in as_tuple(images)))
    return model.set_train(False), model.integers()


def assert_equal_codes(model: object, integers: IntegerGraph, images: np.ndarray, path: Path) -> None:
    """Every code of every node, of the file and of the backend, in batches of any size."""
    MINDIR.export(integers, path)
    tensors = [node.output for node in integers.nodes]
    expected = trace_codes(integers, images, [tensor.name for tensor in tensors])
    for engine, found in (
        ("file", MINDIR.trace(path, images, tensors)),
        ("backend", MINDSPORE.trace(model, images, tensors)),
    ):
        assert set(found) == set(expected)
        for name, codes in expected.items():
            np.testing.assert_array_equal(found[name], codes, err_msg=f"{engine}, {name}")
    for count in (1, len(images)):
        real = as_tuple(MINDIR.predict(path, images[:count]))
        for output, found in zip(integers.outputs, real, strict=True):
            assert found.dtype == np.float32
            np.testing.assert_array_equal(found, output.grid.dequantize(expected[output.name][:count]))


def test_lenet_is_small_and_equal_also_in_a_fresh_process(tmp_path: Path) -> None:
    model, integers = trained(LeNet5(), IMAGES)
    path = tmp_path / "lenet.mindir"
    assert_equal_codes(model, integers, IMAGES, path)
    assert path.stat().st_size <= 61_684 + 16_384
    assert path.stat().st_mode & 0o400
    assert path.stat().st_mode & 0o200
    np.save(tmp_path / "images.npy", IMAGES)
    code = (
        "import mindspore as ms, numpy as np\n"
        "net = ms.nn.GraphCell(ms.load('lenet.mindir'))\n"
        "np.save('real.npy', net(ms.Tensor(np.load('images.npy'))).asnumpy())\n"
    )
    (tmp_path / "run.py").write_text(code)
    subprocess.run([sys.executable, "run.py"], cwd=tmp_path, check=True, env=os.environ | {"GLOG_v": "3"})
    np.testing.assert_array_equal(np.load(tmp_path / "real.npy"), MINDIR.predict(path, IMAGES))


def test_weights_are_stored_as_int8(tmp_path: Path) -> None:
    from mindspore.train import mind_ir_pb2

    _, integers = trained(LeNet5(), IMAGES)
    MINDIR.export(integers, tmp_path / "lenet.mindir")
    model = mind_ir_pb2.ModelProto()
    model.ParseFromString((tmp_path / "lenet.mindir").read_bytes())
    stored = {parameter.name: parameter for parameter in model.graph.parameter}
    for node in integers.nodes:
        if isinstance(node, IntegerLinear):
            weight = stored[f"{node.name}.weight"]
            assert weight.data_type == mind_ir_pb2.TensorProto.INT8
            assert weight.raw_data == node.weight.tobytes()


def test_every_kind_of_node_is_equal(tmp_path: Path) -> None:
    images = np.random.default_rng(1).integers(0, 256, (5, 2, 9, 8), np.uint8)
    assert_equal_codes(*trained(Everything(), images), images, tmp_path / "all.mindir")


def test_affine_weights_are_equal(tmp_path: Path) -> None:
    images = np.random.default_rng(1).integers(0, 256, (5, 2, 9, 8), np.uint8)
    model, integers = trained(Everything(), images, symmetric=(False, False))
    assert_equal_codes(model, integers, images, tmp_path / "affine.mindir")


def test_sums_beyond_float32_are_exact(tmp_path: Path) -> None:
    images = np.random.default_rng(2).integers(200, 256, (3, 40, 6, 6), np.uint8)
    model, integers = trained(Wide(), images)
    assert max(node.accumulator_bound for node in integers.nodes if isinstance(node, IntegerLinear)) > EXACT_INTEGERS
    assert_equal_codes(model, integers, images, tmp_path / "wide.mindir")


def test_metadata_stands_in_the_file_and_changes_nothing_else(tmp_path: Path) -> None:
    from mindspore.train import mind_ir_pb2

    _, integers = trained(LeNet5(), IMAGES)
    path = tmp_path / "lenet.mindir"
    MINDIR.export(integers, path)
    before = MINDIR.predict(path, IMAGES)
    MINDIR.write_metadata(path, {"certificate": "{}", "graph": "abc"})
    MINDIR.write_metadata(path, {"graph": "def"})
    model = mind_ir_pb2.ModelProto()
    model.ParseFromString(path.read_bytes())
    assert (model.user_info["qat.certificate"], model.user_info["qat.graph"]) == ("{}", "def")
    np.testing.assert_array_equal(MINDIR.predict(path, IMAGES), before)


@pytest.mark.parametrize("foreign", ["primitive", "node", "function", "preprocessor"])
def test_a_sealed_file_with_foreign_operations_is_not_run(
    foreign: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A digest is no signature: whoever adds an operation that loads a library seals the file again."""
    from qat.targets.mindir import run
    from qat.targets.mindir.file import load, write

    path = tmp_path / "lenet.mindir"
    MINDIR.export(trained(LeNet5(), IMAGES)[1], path)
    model = load(path)
    if foreign == "primitive":
        model.primitives[0].op_type = "Custom"
    elif foreign == "node":
        model.graph.node[-1].op_type = "Custom"
    elif foreign == "function":
        model.functions.add(name="f")
    else:
        model.preprocessor.SetInParent()
    write(model, path)
    monkeypatch.setattr(run, "runner", lambda model: pytest.fail("it is run"))
    what = "a function or a preprocessor" if foreign in ("function", "preprocessor") else "the operation 'Custom'"
    with pytest.raises(qat.QatError, match=rf"lenet\.mindir: holds {what}, which no export writes"):
        MINDIR.predict(path, IMAGES)


@pytest.mark.parametrize("damage", ["truncated", "garbage", "empty", "swapped", "missing", "other"])
def test_a_damaged_file_is_refused_in_one_line(damage: str, tmp_path: Path) -> None:
    _, integers = trained(LeNet5(), IMAGES)
    path = tmp_path / "lenet.mindir"
    MINDIR.export(integers, path)
    content = bytearray(path.read_bytes())
    if damage == "truncated":
        content = content[: len(content) // 2]
    elif damage == "garbage":
        content = bytearray(np.random.default_rng(3).integers(0, 256, 500, np.uint8).tobytes())
    elif damage == "empty":
        content = bytearray()
    elif damage == "swapped":
        content[len(content) // 2] ^= 0xFF
    elif damage == "other":
        content = bytearray(b"\x12\x09MindSpore")  # a valid one, without a graph
    path.unlink() if damage == "missing" else path.write_bytes(content)
    with pytest.raises(qat.QatError, match=r"lenet\.mindir: [^\n]+$"):
        MINDIR.predict(path, IMAGES)
