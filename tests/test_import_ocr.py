"""Importing networks as Paddle's exporter writes them for OCR: a text detector and a classifier of directions, in small.

All sizes of the pictures are open, constants are nodes, factors and shifts of one number each stand behind activations, hard
sigmoids have the slope 0.2, features of several sizes are joined, the map is made by transposed convolutions, and a shape is
computed from that of a value.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from calibrations import calibrate
from command import run
from onnx import TensorProto, helper, numpy_helper

import qat

ROUNDING = 1e-5  #: relative to the largest output, of sums in other orders
HALF = (0.5, 0.5, 0.5)


class Builder:
    """A model, node by node; what a node gives is called after it and its number."""

    def __init__(self, seed: int = 0) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.rng = np.random.default_rng(seed)

    def constant(self, array: np.ndarray) -> str:
        return self("Constant", value=numpy_helper.from_array(np.asarray(array)))

    def numbers(self, *shape: int) -> str:
        return self.constant(self.rng.normal(0, 0.4, shape).astype(np.float32))

    def __call__(self, op: str, *taken: str, **attributes: object) -> str:
        name = f"{op}@{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, taken, [f"{name}.tmp_0"], name, **attributes))
        return f"{name}.tmp_0"

    def conv(self, x: str, given: int, channels: int, size: int = 1, *, bias: bool = True, **attributes: object) -> str:
        others = [self.numbers(channels, given, size, size), *([self.numbers(channels)] if bias else [])]
        options = {"kernel_shape": [size] * 2, "pads": [size // 2] * 4, "dilations": [1, 1]} | attributes
        return self("Conv", x, *others, **options)

    def batch_norm(self, x: str, channels: int) -> str:
        variance = self.constant(self.rng.uniform(0.5, 1.5, channels).astype(np.float32))
        return self("BatchNormalization", x, *(self.numbers(channels) for _ in range(3)), variance, epsilon=1e-5)

    def number(self, op: str, x: str, number: float) -> str:
        return self(op, x, self.constant(np.array([number], np.float32)))

    def learned(self, x: str, factor: float, shift: float) -> str:
        """A factor and a shift, one number each, the factor first."""
        times = self("Mul", self.constant(np.array([factor], np.float32)), x)
        return self.number("Add", times, shift)

    def hard_swish(self, x: str) -> str:
        clipped = self("Clip", self.number("Add", x, 3.0), *(self.constant(np.float32(each)) for each in (0, 6)))
        return self.number("Div", self("Mul", x, clipped), 6.0)

    def gate(self, x: str, channels: int) -> str:
        """A squeeze and excitation, of slope 0.2."""
        inner = self("Relu", self.conv(self("GlobalAveragePool", x), channels, 2))
        return self("Mul", x, self("HardSigmoid", self.conv(inner, 2, channels), alpha=0.2, beta=0.5))

    def model(self, output: str, opset: int) -> onnx.ModelProto:
        graph = helper.make_graph(
            self.nodes,
            "paddle-onnx",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ("n", 3, "?", "?"))],
            [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)],
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def detector() -> onnx.ModelProto:
    """A map of a picture, of its size."""
    add = Builder()

    def block(x: str, given: int, channels: int, stride: int) -> str:
        deep = add.conv(x, 1, given, 3, strides=[stride] * 2, group=given)
        deep = add.learned(add.hard_swish(add.learned(deep, 1.3, 0.5)), 0.5, -0.3)
        return add.learned(add.hard_swish(add.conv(deep, given, channels)), 0.9, -0.9)

    def lateral(x: str, given: int, channels: int, size: int) -> str:
        found = add.conv(x, given, channels, size, bias=False)
        return add("Add", found, add.gate(found, channels))

    def larger(x: str, factor: float) -> str:
        options = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
        others = (add.constant(np.zeros(0, np.float32)), add.constant(np.array([1, 1, factor, factor], np.float32)))
        return add("Resize", x, *others, **options)

    def spread(x: str, given: int, channels: int) -> str:
        found = add("ConvTranspose", x, add.numbers(given, channels, 2, 2), kernel_shape=[2, 2], strides=[2, 2])
        return add("Add", found, add.numbers(1, channels, 1, 1))

    stem = add.batch_norm(add.conv("x", 3, 8, 3, bias=False, strides=[2, 2]), 8)
    fine = block(stem, 8, 8, 2)
    coarse = block(fine, 8, 12, 2)
    below = lateral(coarse, 12, 8, 1)
    above = add("Add", lateral(fine, 8, 8, 1), larger(below, 2))
    both = add("Concat", larger(lateral(below, 8, 4, 3), 2), lateral(above, 8, 4, 3), axis=1)
    head = add("Relu", add.batch_norm(add.conv(both, 8, 4, 3, bias=False), 4))
    head = add("Relu", add.batch_norm(spread(head, 4, 4), 4))
    return add.model(add("Sigmoid", spread(head, 4, 1)), 12)


def classifier() -> onnx.ModelProto:
    """Two probabilities."""
    add = Builder(1)
    found = add.hard_swish(add.batch_norm(add.conv("x", 3, 8, 3, bias=False, strides=[2, 1]), 8))
    found = add.gate(found, 8)
    pooled = add("GlobalAveragePool", add("MaxPool", found, kernel_shape=[2, 2], strides=[2, 2]))
    shape = add("Cast", add("Shape", pooled), to=TensorProto.INT32)
    first = add("Slice", shape, *(add.constant(np.array([each], np.int32)) for each in (0, 1)))
    rest = add("Cast", add.constant(np.array([-1], np.int32)), to=TensorProto.INT64)
    sizes = add("Concat", add("Cast", first, to=TensorProto.INT64), rest, axis=0)
    row = add("Add", add("MatMul", add("Reshape", pooled, sizes), add.numbers(8, 2)), add.numbers(2))
    return add.model(add("Identity", add("Softmax", row, axis=1)), 11)


NETWORKS = {"detector": (detector, (3, 32, 48), (1, 32, 48)), "classifier": (classifier, (3, 16, 24), (2,))}


@pytest.fixture(params=NETWORKS)
def network(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, tuple[int, int, int], tuple[int, ...]]:
    make, shape, given = NETWORKS[request.param]
    path = tmp_path / f"ch_PP-OCRv4.0_{request.param}.onnx"
    onnx.save(make(), path)
    return path, shape, given


Network = tuple[Path, tuple[int, int, int], tuple[int, ...]]


def test_it_is_imported_whole_and_deployed(network: Network, tmp_path: Path) -> None:
    path, shape, given = network
    images = np.random.default_rng(0).integers(0, 256, (8, *shape), np.uint8)
    found = qat.import_model(path, input_shape=shape, inputs=qat.Input(shape, mean=HALF, std=HALF), images=images)
    assert found.difference.relative < ROUNDING
    assert found.graph.shapes[found.graph.outputs[0]] == given
    quantized = calibrate(found.graph, found.params, images)
    for ending in ("onnx", "tflite", "c"):  # each raises where a code differs
        certificate = qat.export(quantized, tmp_path / f"net.{ending}", images=images[:4])
        assert certificate.comparisons[0].codes == 4 * np.prod(given)


def test_factors_and_bounds_go_where_they_are_computed_in_one_step(network: Network) -> None:
    path, shape, _ = network
    graph = qat.import_model(path, input_shape=shape).graph
    kinds = [type(node.cell).__name__ for node in graph.nodes]
    functions = [node.cell.function for node in graph.nodes if isinstance(node.cell, qat.Activation)]
    if "detector" in path.name:
        assert functions == ["linear"] * 4 + ["hard_sigmoid"] * 4  # those before an activation are in the convolutions
        assert kinds.count("ConvTranspose2dBnAct") == 2
        assert graph.nodes[-1].cell.activation == "sigmoid"
        assert [node.cell.factor for node in graph.nodes if isinstance(node.cell, qat.Upsample)] == [(2, 2)] * 2
    else:
        assert functions == ["hard_sigmoid"]
        assert kinds[-3:] == ["Flatten", "DenseBnAct", "Softmax"]
    assert not {"Normalize", "BatchNorm", "Pad", "Reshape"} & set(kinds)


def test_open_sizes_are_asked_for(network: Network) -> None:
    path, _, _ = network
    with pytest.raises(
        qat.QatError, match=r"leaves the sizes of its input .x. open \(n, 3, \?, \?\).*give input_shape"
    ):
        qat.import_model(path)


def test_the_command_says_the_same(network: Network, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, shape, _ = network
    checkpoint = str(tmp_path / "net.ckpt")
    flags = ["--input_shape", *map(str, shape), "--mean", *["0.5"] * 3, "--std", *["0.5"] * 3]
    status, out, err = run(capsys, "import", "--model", path, *flags, "--ckpt_path", checkpoint)
    assert (status, err) == (0, "")
    assert f"takes uint8 (N, {', '.join(map(str, shape))})" in out
    assert qat.Checkpoint.load(checkpoint).graph.name == path.stem.replace(".", "_")
