"""Importing ONNX files: each operation in the forms of several opsets, layouts, sizes, external data, and messages."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from calibrations import calibrate
from onnx import TensorProto, helper, numpy_helper

import qat
from qat.data import Split
from qat.deploy.verify import verify
from qat.imports.sources.onnx_file import open_file

#: Float sums of other orders differ by less, relative to the largest output. A wrong parameter by more: the last test.
ROUNDING = 2e-6
RNG = np.random.default_rng(0)
Spec = tuple[Any, ...]  #: of a node: what it is, attributes, constants or names that it takes behind what came before


def numbers(*shape: int) -> np.ndarray:
    return RNG.normal(0, 0.5, shape).astype(np.float32)


def conv(outputs: int = 4, inputs: int = 3, kernel: tuple[int, int] = (3, 3), **attributes: Any) -> Spec:
    return "Conv", attributes, numbers(outputs, inputs, *kernel), numbers(outputs)


def chain(
    *specs: Spec,
    opset: int = 13,
    shape: Sequence[Any] = ("n", 3, 9, 8),
    constants: str = "initializer",
    names: bool = True,
) -> onnx.ModelProto:
    """A model of nodes one after another. A string among what a node takes is the name of a value, as "x" or "v2"; constants:
    "initializer", "input" for those that stand among the inputs too, or "node"."""
    nodes, initializers, inputs, value = [], [], [], "x"
    for number, (op, attributes, *others) in enumerate(specs):
        taken = [value]
        for place, other in enumerate(others):
            if isinstance(other, str):
                taken.append(other)
                continue
            name = f"v{number}.c{place}"
            tensor = numpy_helper.from_array(np.asarray(other), name)
            if constants == "node":
                nodes.append(helper.make_node("Constant", [], [name], value=tensor))
            else:
                initializers.append(tensor)
                if constants == "input":
                    inputs.append(helper.make_tensor_value_info(name, tensor.data_type, tensor.dims))
            taken.append(name)
        if "first" in attributes:  # what came before is not the first that it takes
            place = attributes.pop("first")
            taken = [*taken[1 : place + 1], taken[0], *taken[place + 1 :]]
        domain = attributes.pop("domain", "")
        value = f"v{number}"
        name = f"{op}_{number}" if names else ""
        nodes.append(helper.make_node(op, taken, [value], name=name, domain=domain, **attributes))
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape), *inputs],
        [helper.make_tensor_value_info(value, TensorProto.FLOAT, None)],
        initializers,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def imported(folder: Path, model: onnx.ModelProto, **options: Any) -> Any:
    path = folder / "net.onnx"
    onnx.save(model, path)
    return qat.import_model(path, **options)


def cells(found: Any) -> list[str]:
    return [type(node.cell).__name__ for node in found.graph.nodes[1:]]


I64 = np.int64
FLAT: tuple[Spec, ...] = (conv(), ("Flatten", {}))
BN = ("BatchNormalization", {"epsilon": 0.01}, numbers(4), numbers(4), numbers(4), np.abs(numbers(4)) + 0.5)
TO_FIRST, TO_LAST = ("Transpose", {"perm": [0, 3, 1, 2]}), ("Transpose", {"perm": [0, 2, 3, 1]})
HSIGMOID = [("Add", {}, np.float32(3)), ("Clip", {}, np.float32(0), np.float32(6)), ("Div", {}, np.float32(6))]

TWICE = np.array([1, 1, 2, 2], np.float32)
CASES: dict[str, tuple[list[Spec], int, list[str]]] = {
    "conv": ([conv()], 9, ["Conv2dBnAct"]),
    "conv without bias": ([("Conv", {}, numbers(4, 3, 1, 1))], 13, ["Conv2dBnAct"]),
    "conv asymmetric": ([conv(pads=[0, 1, 2, 0], strides=[2, 1])], 11, ["Conv2dBnAct"]),
    "conv dilated": ([conv(dilations=[2, 1], pads=[1, 1, 1, 1])], 13, ["Conv2dBnAct"]),
    "conv of groups": ([conv(6, 1, group=3)], 17, ["Conv2dBnAct"]),
    "conv SAME_UPPER": ([conv(auto_pad="SAME_UPPER", strides=[2, 2])], 13, ["Conv2dBnAct"]),
    "conv SAME_LOWER": ([conv(auto_pad="SAME_LOWER", strides=[2, 2])], 13, ["Conv2dBnAct"]),
    "conv VALID": ([conv(auto_pad="VALID", strides=[2, 1])], 13, ["Conv2dBnAct"]),
    "batch norm": ([conv(), BN, ("Relu", {})], 9, ["Conv2dBnAct"]),
    "batch norm 15": ([conv(), BN], 15, ["Conv2dBnAct"]),
    "batch norm alone": ([("Relu", {}), conv(), ("Relu", {}), BN], 13, ["Activation", "Conv2dBnAct", "BatchNorm"]),
    "gemm": (
        [*FLAT, ("Gemm", {"transB": 1}, numbers(5, 168), numbers(5))],
        9,
        ["Conv2dBnAct", "Flatten", "DenseBnAct"],
    ),
    "gemm scaled": (
        [*FLAT, ("Gemm", {"alpha": 0.5, "beta": 3.0}, numbers(168, 5), numbers(1, 5))],
        13,
        ["Conv2dBnAct", "Flatten", "DenseBnAct"],
    ),
    "gemm, one number": (
        [*FLAT, ("Gemm", {}, numbers(168, 5), numbers(1))],
        11,
        ["Conv2dBnAct", "Flatten", "DenseBnAct"],
    ),
    "gemm without bias": ([*FLAT, ("Gemm", {}, numbers(168, 5))], 11, ["Conv2dBnAct", "Flatten", "DenseBnAct"]),
    "matmul": (
        [*FLAT, ("MatMul", {}, numbers(168, 5)), ("Add", {}, numbers(5))],
        13,
        ["Conv2dBnAct", "Flatten", "DenseBnAct"],
    ),
    "clip of attributes": ([conv(), ("Clip", {"min": 0.0, "max": 6.0})], 9, ["Conv2dBnAct"]),
    "clip of inputs": ([conv(), ("Clip", {}, np.float32(0), np.float32(6))], 11, ["Conv2dBnAct"]),
    "clip from below": ([conv(), ("Clip", {}, np.float32(0))], 13, ["Conv2dBnAct"]),
    "clip, largest float": ([conv(), ("Clip", {"min": 0.0, "max": 3.4028234663852886e38})], 9, ["Conv2dBnAct"]),
    "max with 0": ([conv(), ("Max", {}, np.float32(0))], 13, ["Conv2dBnAct"]),
    "leaky": ([conv(), ("LeakyRelu", {"alpha": 0.2})], 9, ["Conv2dBnAct"]),
    "prelu": ([conv(), ("PRelu", {}, np.full((4, 1, 1), 0.3, np.float32))], 9, ["Conv2dBnAct"]),
    "prelu of slopes below 0": ([conv(), ("PRelu", {}, np.full((4, 1, 1), -0.7, np.float32))], 9, ["Conv2dBnAct"]),
    "sigmoid": ([conv(), ("Sigmoid", {})], 9, ["Conv2dBnAct"]),
    "tanh": ([conv(), ("Tanh", {})], 9, ["Conv2dBnAct"]),
    "hard sigmoid": ([conv(), ("HardSigmoid", {"alpha": 1 / 6, "beta": 0.5})], 9, ["Conv2dBnAct"]),
    "hard swish": ([conv(), ("HardSwish", {})], 14, ["Conv2dBnAct"]),
    "hard sigmoid spelled out": ([conv(), *HSIGMOID], 13, ["Conv2dBnAct"]),
    "hard swish spelled out": ([conv(), *HSIGMOID, ("Mul", {}, "v0")], 13, ["Conv2dBnAct"]),
    "add": ([conv(), ("Relu", {}), ("Add", {}, "v0"), ("Relu", {})], 9, ["Conv2dBnAct", "Activation", "Add"]),
    "sum": ([conv(), ("Relu", {}), ("Sum", {}, "v0")], 9, ["Conv2dBnAct", "Activation", "Add"]),
    "add of channels": ([conv(), ("Add", {}, numbers(1, 4, 1, 1))], 9, ["Conv2dBnAct"]),
    "sub": ([conv(), ("Sub", {}, numbers(4, 1, 1))], 9, ["Conv2dBnAct"]),
    "a constant less it": ([conv(), ("Sub", {"first": 1}, numbers(4, 1, 1))], 9, ["Conv2dBnAct"]),
    "neg": ([conv(), ("Neg", {})], 9, ["Conv2dBnAct"]),
    "mul": ([conv(), ("Mul", {"first": 1}, np.float32(0.3))], 9, ["Conv2dBnAct"]),
    "div": ([conv(), ("Div", {}, np.abs(numbers(4, 1, 1)) + 0.5)], 9, ["Conv2dBnAct"]),
    "max pool": ([("MaxPool", {"kernel_shape": [3, 2], "strides": [2, 2], "pads": [1, 0, 1, 1]})], 9, ["MaxPool2d"]),
    "max pool ceil": ([("MaxPool", {"kernel_shape": [2, 3], "strides": [2, 2], "ceil_mode": 1})], 11, ["MaxPool2d"]),
    "max pool ceil padded": (
        [("MaxPool", {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1], "ceil_mode": 1})],
        13,
        ["MaxPool2d"],
    ),
    "max pool SAME_UPPER": (
        [("MaxPool", {"kernel_shape": [2, 2], "strides": [2, 2], "auto_pad": "SAME_UPPER"})],
        13,
        ["MaxPool2d"],
    ),
    "max pool SAME_LOWER": (
        [("MaxPool", {"kernel_shape": [2, 2], "strides": [2, 2], "auto_pad": "SAME_LOWER"})],
        13,
        ["MaxPool2d"],
    ),
    "average pool": ([("AveragePool", {"kernel_shape": [2, 2], "strides": [2, 2]})], 9, ["AvgPool2d"]),
    "average pool padded": (
        [("AveragePool", {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "count_include_pad": 1})],
        19,
        ["AvgPool2d"],
    ),
    "average pool ceil": (
        [("AveragePool", {"kernel_shape": [3, 2], "strides": [3, 2], "ceil_mode": 1})],
        19,
        ["AvgPool2d"],
    ),
    "global average": ([("GlobalAveragePool", {})], 9, ["GlobalAvgPool2d"]),
    "global max": ([("GlobalMaxPool", {})], 9, ["MaxPool2d"]),
    "mean": ([("ReduceMean", {"axes": [-1, 2], "keepdims": 0})], 9, ["GlobalAvgPool2d", "Flatten"]),
    "mean 18": ([("ReduceMean", {}, np.array([2, 3], I64))], 18, ["GlobalAvgPool2d"]),
    "flatten": ([conv(), ("Flatten", {"axis": -3})], 13, ["Conv2dBnAct", "Flatten"]),
    "reshape": ([conv(), ("Reshape", {}, np.array([0, -1], I64))], 9, ["Conv2dBnAct", "Flatten"]),
    "squeeze": (
        [("GlobalAveragePool", {}), ("Squeeze", {"axes": [2, 3]})],
        11,
        ["GlobalAvgPool2d", "Flatten"],
    ),
    "squeeze 13": (
        [("GlobalAveragePool", {}), ("Squeeze", {}, np.array([2, 3], I64))],
        13,
        ["GlobalAvgPool2d", "Flatten"],
    ),
    "reshapes one after another": (
        [
            ("GlobalAveragePool", {}),
            ("Squeeze", {"axes": [2, 3]}),
            ("Unsqueeze", {"axes": [2, 3]}),
            conv(2, 3, (1, 1)),
            ("Reshape", {}, np.array([-1, 1, 2], I64)),
            ("Reshape", {}, np.array([0, -1], I64)),
        ],
        11,
        ["GlobalAvgPool2d", "Conv2dBnAct", "Flatten"],
    ),
    "concat": ([conv(), ("Relu", {}), ("Concat", {"axis": -3}, "v0")], 13, ["Conv2dBnAct", "Activation", "Concat"]),
    "softmax 11": ([*FLAT, ("Softmax", {})], 11, ["Conv2dBnAct", "Flatten", "Softmax"]),
    "softmax 13": ([*FLAT, ("Softmax", {"axis": -1})], 13, ["Conv2dBnAct", "Flatten", "Softmax"]),
    "pad of attributes": ([("Pad", {"pads": [0, 0, 1, 2, 0, 0, 0, 1]}), conv()], 9, ["Conv2dBnAct"]),
    "pad of inputs": ([("Pad", {}, np.array([0, 0, 1, 2, 0, 0, 0, 1]), np.float32(0)), conv()], 11, ["Conv2dBnAct"]),
    "pad of axes": (
        [("Pad", {}, np.array([1, 2, 0, 1]), np.float32(0), np.array([-2, 3])), conv()],
        18,
        ["Conv2dBnAct"],
    ),
    "pad by nothing": ([("Pad", {}, np.zeros(8, I64)), conv()], 13, ["Conv2dBnAct"]),
    "dropout": ([conv(), ("Dropout", {"ratio": 0.3})], 9, ["Conv2dBnAct"]),
    "dropout 13": ([conv(), ("Dropout", {}, np.float32(0.3), np.array(False))], 13, ["Conv2dBnAct"]),
    "identity": ([conv(), ("Identity", {}), ("Cast", {"to": 1}), ("Relu", {})], 13, ["Conv2dBnAct"]),
    "transposed and back": ([conv(), TO_LAST, ("Relu", {}), TO_FIRST], 13, ["Conv2dBnAct"]),
    "dense at each place": (
        [conv(), TO_LAST, ("MatMul", {}, numbers(4, 6)), ("Add", {}, numbers(6)), ("Relu", {}), TO_FIRST],
        17,
        ["Conv2dBnAct", "Conv2dBnAct"],
    ),
    "mean with channels last": (
        [conv(), TO_LAST, ("ReduceMean", {"axes": [1, 2], "keepdims": 0})],
        13,
        ["Conv2dBnAct", "GlobalAvgPool2d", "Flatten"],
    ),
    "flatten with channels last": (
        [conv(), TO_LAST, ("Reshape", {}, np.array([0, -1], I64)), ("MatMul", {}, numbers(168, 5))],
        13,
        ["Conv2dBnAct", "Flatten", "DenseBnAct"],
    ),
    "product, difference": (
        [conv(), ("Tanh", {}), ("Mul", {}, "v0"), ("Sub", {}, "v1")],
        13,
        ["Conv2dBnAct", "Activation", "Mul", "Sub"],
    ),
    "a gate": (
        [conv(), ("GlobalAveragePool", {}), ("Sigmoid", {}), ("Mul", {}, "v0")],
        13,
        ["Conv2dBnAct", "GlobalAvgPool2d", "Activation", "Mul"],
    ),
    "extremes of two": (
        [conv(), ("Neg", {}), ("Max", {}, "v0"), ("Min", {}, "v1")],
        13,
        ["Conv2dBnAct", "Activation", "Maximum", "Minimum"],
    ),
    "SiLU spelled out": ([("Sigmoid", {}), ("Mul", {}, "x")], 13, ["Activation"]),
    "functions": (
        [
            ("Gelu", {"approximate": "tanh"}),
            ("Elu", {"alpha": 0.5}),
            ("Selu", {}),
            ("Softplus", {}),
            ("Mish", {}),
            ("Exp", {}),
        ],
        20,
        ["Activation"] * 6,
    ),
    "clips": ([("Clip", {}, np.float32(-1), np.float32(0.5)), ("Min", {}, np.float32(0.25))], 13, ["Activation"] * 2),
    "hard sigmoid of 0.2": ([conv(), ("HardSigmoid", {})], 9, ["Conv2dBnAct", "Activation"]),
    "prelu of channels": ([("PRelu", {}, numbers(3, 1, 1))], 9, ["PReLU"]),
    "constants of columns": (
        [("Mul", {}, numbers(8))],
        13,
        ["Reshape", "Transpose", "Reshape", "Normalize", "Reshape", "Transpose", "Reshape"],
    ),
    "constants of places": ([("Add", {}, numbers(3, 9, 8))], 13, ["Reshape", "Normalize", "Reshape"]),
    "transpose": ([("Transpose", {"perm": [0, 1, 3, 2]})], 13, ["Transpose"]),
    "reshape to a series": ([("Reshape", {}, np.array([0, 3, 72], I64))], 13, ["Reshape"]),
    "series": (
        [
            ("Reshape", {}, np.array([0, 3, 72], I64)),
            ("Conv", {"pads": [1, 0], "strides": [2]}, numbers(4, 3, 3), numbers(4)),
            ("Relu", {}),
            ("MaxPool", {"kernel_shape": [3], "strides": [2], "ceil_mode": 1}),
            ("GlobalAveragePool", {}),
        ],
        13,
        ["Reshape", "Conv2dBnAct", "MaxPool2d", "Reshape", "GlobalAvgPool2d", "Reshape"],
    ),
    "means of channels": (
        [("ReduceMean", {"axes": [1]})],
        13,
        ["Reshape", "Transpose", "Reshape", "GlobalAvgPool2d", "Reshape"],
    ),
    "maxima of rows": ([("ReduceMax", {"axes": [3], "keepdims": 0})], 13, ["Reshape", "MaxPool2d", "Reshape"]),
    "average that counts no zeros": (
        [("AveragePool", {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]})],
        13,
        ["AvgPool2d"],
    ),
    "average beyond the image": (
        [("AveragePool", {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1})],
        19,
        ["AvgPool2d"],
    ),
    "reflection": (
        [("Pad", {"mode": "reflect"}, np.array([0, 0, 1, 1, 0, 0, 1, 1])), conv()],
        13,
        ["Pad", "Conv2dBnAct"],
    ),
    "crop": ([("Pad", {}, np.array([0, 0, -1, 0, 0, 0, 0, -2]))], 13, ["Slice", "Slice"]),
    "slice": (
        [("Slice", {}, np.array([1, -9]), np.array([3, 2**31]), np.array([1, 2]), np.array([1, 2]))],
        13,
        ["Slice", "Slice"],
    ),
    "slice of attributes": ([("Slice", {"starts": [2], "ends": [7], "axes": [3]})], 9, ["Slice"]),
    "gather": (
        [("Gather", {"axis": 2}, np.array(-2)), ("Gather", {"axis": 2}, np.array([0, 2, 4]))],
        13,
        ["Slice", "Reshape", "Slice"],
    ),
    "expand": (
        [("GlobalAveragePool", {}), ("Expand", {}, np.array([1, 3, 2, 4], I64))],
        13,
        ["GlobalAvgPool2d", "Upsample"],
    ),
    "depth to space": (
        [conv(8), ("DepthToSpace", {"blocksize": 2}), ("SpaceToDepth", {"blocksize": 2})],
        11,
        ["Conv2dBnAct"],
    ),
    "depth to space by channels": (
        [conv(8), ("DepthToSpace", {"blocksize": 2, "mode": "CRD"}), ("Relu", {})],
        11,
        ["Conv2dBnAct", "PixelShuffle", "Activation"],
    ),
    "resize": (
        [("Resize", {"nearest_mode": "floor", "coordinate_transformation_mode": "asymmetric"}, "", TWICE)],
        13,
        ["Upsample"],
    ),
    "resize, half pixels": ([("Resize", {}, "", np.array([1, 1, 3, 2], np.float32))], 13, ["Upsample"]),
    "upsample": ([("Upsample", {}, TWICE)], 9, ["Upsample"]),
    "resize, linear": (
        [
            ("Resize", {"mode": "linear"}, "", np.array([1, 1, 3, 2], np.float32)),
            ("Resize", {"mode": "linear", "coordinate_transformation_mode": "align_corners"}, "", TWICE),
        ],
        13,
        ["UpsampleBilinear", "UpsampleBilinear"],
    ),
    "transposed convolution": (
        [
            (
                "ConvTranspose",
                {"strides": [2, 3], "pads": [1, 0, 0, 2], "output_padding": [1, 0]},
                numbers(3, 4, 3, 4),
                numbers(4),
            ),
            ("Relu", {}),
            ("ConvTranspose", {"group": 2, "dilations": [1, 2]}, numbers(4, 3, 2, 2)),
            ("Mul", {}, numbers(6, 1, 1)),
        ],
        13,
        ["ConvTranspose2dBnAct", "ConvTranspose2dBnAct"],
    ),
    "dense of columns": ([("MatMul", {}, numbers(8, 5)), ("Relu", {})], 13, ["Transpose", "Conv2dBnAct", "Transpose"]),
    "softmax of columns": ([("Softmax", {"axis": -1})], 13, ["Softmax"]),
    "product": ([("Transpose", {"perm": [0, 1, 3, 2]}), ("MatMul", {}, "x")], 13, ["MatMul"]),
    "layer normalisation": (
        [("LayerNormalization", {"axis": -1}, numbers(8), numbers(8))],
        17,
        ["Transpose", "LayerNorm", "Transpose"],
    ),
    "layer normalisation over all axes": (
        [("LayerNormalization", {"axis": 1, "epsilon": 0.01}, numbers(3, 9, 8))],
        17,
        ["Flatten", "LayerNorm", "Reshape"],
    ),
    "layer normalisation spelled out": (
        [
            ("ReduceMean", {"axes": [-1]}),
            ("Sub", {"first": 1}, "x"),
            ("Pow", {}, np.float32(2)),
            ("ReduceMean", {"axes": [-1]}),
            ("Add", {}, np.float32(1e-3)),
            ("Sqrt", {}),
            ("Div", {"first": 1}, "v1"),
            ("Mul", {}, numbers(8)),
            ("Add", {}, numbers(8)),
        ],
        13,
        ["Transpose", "LayerNorm", "Transpose"],
    ),
    "samples along another axis": (
        [
            ("Transpose", {"perm": [1, 0, 2, 3]}),
            ("Reshape", {}, np.array([3, 0, -1], I64)),
            ("Tanh", {}),
            ("Slice", {}, np.array([1]), np.array([3]), np.array([0])),
            ("Transpose", {"perm": [1, 0, 2]}),
        ],
        13,
        ["Reshape", "Activation", "Slice"],
    ),
    "a row with channels last goes on": (
        [
            conv(),
            TO_LAST,
            ("Reshape", {}, np.array([0, -1], I64)),
            ("Reshape", {}, np.array([0, 42, 4], I64)),
            ("Relu", {}),
        ],
        13,
        ["Conv2dBnAct", "Activation", "Reshape", "Transpose"],
    ),
    "concat with channels last": (
        [conv(), TO_LAST, ("Concat", {"axis": 3}, "v1"), ("Mul", {}, numbers(8)), TO_FIRST, conv(2, 8)],
        13,
        ["Conv2dBnAct", "Concat", "Normalize", "Conv2dBnAct"],
    ),
}


def test_a_normalisation_of_groups_is_one_of_their_numbers(tmp_path: Path) -> None:
    specs = [("Reshape", {}, np.array([0, 3, 1, -1], I64)), ("InstanceNormalization", {}, numbers(3), numbers(3))]
    found = imported(tmp_path, chain(*specs, opset=13))
    assert {"LayerNorm", "Normalize"} <= set(cells(found))
    assert found.difference.relative < ROUNDING


@pytest.mark.parametrize("case", CASES)
def test_an_operation_is_imported_and_computes_the_same(case: str, tmp_path: Path) -> None:
    specs, opset, wanted = CASES[case]
    found = imported(tmp_path, chain(*specs, opset=opset))
    assert cells(found) == wanted
    assert found.difference.relative < ROUNDING


@pytest.mark.parametrize("constants", ["initializer", "input", "node"])
@pytest.mark.parametrize("opset", [9, 11, 13, 17, 20])
def test_constants_stand_in_initializers_or_nodes(constants: str, opset: int, tmp_path: Path) -> None:
    found = imported(tmp_path, chain(conv(), BN, ("Relu", {}), opset=opset, constants=constants))
    assert cells(found) == ["Conv2dBnAct"]
    assert found.difference.relative < ROUNDING
    assert found.sources["Conv_0.weight"] == "v0.c0"


@pytest.mark.parametrize("opset", [11, 13, 20])
def test_sizes_that_are_computed_are_folded(opset: int, tmp_path: Path) -> None:
    """x.view(x.size(0), -1), as torch.onnx writes it: Shape, Gather, Unsqueeze, Concat, Reshape."""
    axes: dict[str, Any] = {"axes": [0]} if opset < 13 else {}
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node("Shape", ["c"], ["s"]),
        helper.make_node("Gather", ["s", "zero"], ["n"], axis=0),
        helper.make_node("Unsqueeze", ["n", *([] if axes else ["axis"])], ["u"], **axes),
        helper.make_node("Concat", ["u", "rest"], ["sizes"], axis=0),
        helper.make_node("Reshape", ["c", "sizes"], ["f"]),
        helper.make_node("Transpose", ["fc"], ["t"], perm=[1, 0]),
        helper.make_node("MatMul", ["f", "t"], ["y"]),
    ]
    given = {"w": numbers(4, 3, 3, 3), "zero": np.array(0), "axis": np.array([0]), "rest": np.array([-1])}
    given["fc"] = numbers(5, 168)
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ("n", 3, 9, 8))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in given.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    found = imported(tmp_path, model)
    assert cells(found) == ["Conv2dBnAct", "Flatten", "DenseBnAct"]
    assert found.difference.relative < ROUNDING
    assert [node.name for node in found.graph.nodes[1:]] == ["c", "f", "y"], "nodes without a name have their results'"


@pytest.mark.parametrize("preprocessing", [[], [("Sub", {}, np.float32(0.5)), ("Mul", {}, np.float32(2.0))]])
def test_an_input_that_has_channels_last_is_taken_channels_first(preprocessing: list[Spec], tmp_path: Path) -> None:
    """As tf2onnx writes it."""
    specs = [*preprocessing, TO_FIRST, conv(), ("Relu", {}), TO_LAST]
    found = imported(tmp_path, chain(*specs, shape=("n", 9, 8, 3)))
    assert found.graph.inputs[0].cell.shape == (3, 9, 8)
    assert found.difference.relative < ROUNDING
    if not preprocessing:
        images = RNG.normal(size=(2, 3, 9, 8)).astype(np.float32)
        session = onnxruntime.InferenceSession(tmp_path / "net.onnx")
        (wanted,) = session.run(None, {"x": images.transpose(0, 2, 3, 1)})
        backend = qat.backend("torch")
        outputs = backend.predict(backend.lower(found.graph, found.params), images)
        assert np.abs(outputs - wanted.transpose(0, 3, 1, 2)).max() < ROUNDING * np.abs(wanted).max()


@pytest.mark.parametrize("batch", ["n", 1, 3, -1])
def test_the_number_of_samples_is_free_or_not(batch: Any, tmp_path: Path) -> None:
    number = batch if isinstance(batch, int) and batch > 0 else 0
    found = imported(tmp_path, chain(conv(), ("Reshape", {}, np.array([number, 168], I64)), shape=(batch, 3, 9, 8)))
    assert cells(found) == ["Conv2dBnAct", "Flatten"]
    assert found.difference.relative < ROUNDING
    images = RNG.normal(size=(5, 3, 9, 8)).astype(np.float32)
    again = qat.import_model(tmp_path / "net.onnx", images=images)
    assert again.difference.samples == "5 samples"


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_constants_of_other_types_become_float32(dtype: Any, tmp_path: Path) -> None:
    weight = numbers(4, 3, 3, 3).astype(dtype)
    nodes = [helper.make_node("Cast", ["w"], ["real"], to=1), helper.make_node("Conv", ["x", "real"], ["y"])]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ("n", 3, 9, 8))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(weight, "w")],
    )
    found = imported(tmp_path, helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8))
    assert found.difference.relative < ROUNDING


# -- messages ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("specs", "opset", "message"),
    [
        ([("Resize", {"mode": "cubic"}, "", TWICE)], 13, r"1 operation .*Resize with mode cubic: Resize_0"),
        ([("Upsample", {"mode": "linear"}, TWICE)], 9, "Upsample with mode linear and asymmetric: Upsample_0"),
        ([("ConvTranspose", {"output_shape": [18, 16]}, numbers(3, 4, 2, 2))], 13, "auto_pad or output_shape"),
        ([("Resize", {"nearest_mode": "floor"}, "", TWICE)], 13, "Resize .*, which does not repeat each pixel"),
        ([("Resize", {}, "", np.array([1, 1, 1.5, 1], np.float32))], 13, "does not repeat each pixel"),
        ([("Gather", {"axis": 1}, np.array([2, 0]))], 13, r"Gather of places \(2, 0\)"),
        ([("Slice", {}, np.array([-1]), np.array([-9]), np.array([2]), np.array([-1]))], 13, "Slice backwards"),
        ([("Slice", {}, np.array([0]), np.array([1]))], 13, "Slice of the samples"),
        ([("Slice", {}, np.array([0]), np.array([4]))], 13, "Slice of the samples"),
        ([("Mul", {}, numbers(2, 1, 1, 1))], 13, r"Mul with a constant of shape \(2, 1, 1, 1\)"),
        ([("ConvTranspose", {}, "x")], 13, "ConvTranspose whose weights are computed"),
        (
            [("Hardmax", {}), ("LRN", {"size": 3}), ("LRN", {"size": 3})],
            13,
            "3 operations .*Hardmax: Hardmax_0; LRN: LRN_1, L",
        ),
        ([("FusedConv", {"domain": "com.microsoft"}, numbers(4, 3, 3, 3))], 13, "com.microsoft.FusedConv .*own domain"),
        ([("MatMul", {"first": 1}, numbers(2, 3, 9, 9))], 13, "MatMul of two values"),
        ([("Conv", {}, "x")], 13, "Conv whose weights are computed"),
        ([("Div", {"first": 1}, np.float32(2))], 13, "div: Div_0"),
        ([("Reshape", {}, np.array([-1, 3, 9, 4]))], 13, "output 'v0' has its samples along axis 0"),
        ([("Transpose", {"perm": [1, 0, 2, 3]})], 13, "output 'v0' has its samples along axis 1"),
        ([("ReduceMean", {})], 13, r"ReduceMean over axes \(0, 1, 2, 3\)"),
        ([("Softmax", {})], 11, "opset < 13"),
        ([("PRelu", {}, numbers(3, 9, 8))], 9, "slopes differ"),
        ([("Pad", {"mode": "edge"}, np.array([0, 0, 1, 1, 0, 0, 1, 1])), conv()], 13, "Pad with mode edge"),
        ([("Pad", {"mode": "wrap"}, np.array([0, 0, 1, 1, 0, 0, 1, 1])), conv()], 19, "Pad with mode wrap"),
        ([("Dropout", {}, np.float32(0.3), np.array(True))], 13, "Dropout of a training step"),
        ([("Cast", {"to": 6}), ("Cast", {"to": 1})], 13, "Cast to whole numbers"),
        ([("Clip", {}, "x")], 13, "computed bounds"),
        ([("MaxPool", {"kernel_shape": [2, 2], "dilations": [2, 2]})], 13, "dilation"),
        ([("Hardmax", {}), ("Add", {}, "x"), ("Flatten", {})], 13, r"1 operation .*Hardmax: Hardmax_0\. Known"),
        (
            [("A", {"domain": "my"}), ("Add", {}, "x"), ("B", {"domain": "my"})],
            13,
            r"2 operations .*my\.A.*: A_0; my\.B.*: B_2\. ",
        ),
    ],
)
def test_what_no_cell_computes_is_named(specs: list[Spec], opset: int, message: str, tmp_path: Path) -> None:
    with pytest.raises(qat.QatError, match=message) as caught:
        imported(tmp_path, chain(*specs, opset=opset))
    assert "outputs=" in str(caught.value)


def test_control_flow_is_named(tmp_path: Path) -> None:
    body = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["b"])], "b", [], [helper.make_tensor_value_info("b", 1, None)]
    )
    condition = numpy_helper.from_array(np.array(True), "c")
    graph = helper.make_graph(
        [
            helper.make_node("If", ["c"], ["y"], name="branch", then_branch=body, else_branch=body),
            *chain(conv()).graph.node,
        ],
        "g",
        [helper.make_tensor_value_info("x", 1, ("n", 3, 9, 8))],
        [helper.make_tensor_value_info("y", 1, None), helper.make_tensor_value_info("v0", 1, None)],
        [condition, *chain(conv()).graph.initializer],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    with pytest.raises(qat.QatError, match=r"If \(control flow\): branch"):
        imported(tmp_path, model)
    assert cells(imported(tmp_path, model, outputs=["Conv_0"])) == ["Conv2dBnAct"], "the rest is cut off"


def test_a_second_result_is_named(tmp_path: Path) -> None:
    model = chain(conv(), ("MaxPool", {"kernel_shape": [2, 2]}), ("Relu", {}))
    model.graph.node[1].output.append("other")
    model.graph.output.append(helper.make_tensor_value_info("other", 7, None))
    with pytest.raises(qat.QatError, match="MaxPool with 2 results"):
        imported(tmp_path, model)


@pytest.mark.parametrize(
    ("opset", "attributes", "sizes"),
    [
        (9, {"axis": 1}, None),
        (11, {"axis": -3, "split": [1, 3]}, None),
        (13, {"axis": 2}, [3, 4]),
        (18, {"axis": 3, "num_outputs": 2}, None),
    ],
)
def test_parts_of_a_split(opset: int, attributes: dict[str, Any], sizes: list[int] | None, tmp_path: Path) -> None:
    others = () if sizes is None else (np.array(sizes, I64),)
    model = chain(conv(), ("Split", attributes, *others), ("Relu", {}), opset=opset)
    model.graph.node[1].output.append("other")
    model.graph.output.append(helper.make_tensor_value_info("other", 1, None))
    found = imported(tmp_path, model)
    assert sorted(cells(found)) == ["Activation", "Conv2dBnAct", "Slice", "Slice"]
    assert found.difference.relative < ROUNDING


def test_what_no_output_needs_is_not_read(tmp_path: Path) -> None:
    model = chain(conv(), ("Erf", {}))
    model.graph.output[0].name = "v0"
    assert cells(imported(tmp_path, model)) == ["Conv2dBnAct"]


@pytest.mark.parametrize("kind", ["QuantizeLinear", "QLinearConv"])
def test_quantized_files_are_refused(kind: str, tmp_path: Path) -> None:
    scale, zero = np.float32(0.1), np.uint8(3)
    specs: list[Spec] = [("QuantizeLinear", {}, scale, zero)]
    if kind == "QLinearConv":
        specs.append((kind, {}, scale, zero, np.ones((2, 3, 1, 1), np.uint8), scale, zero, scale, zero))
    specs.append(("DequantizeLinear", {}, scale, zero))
    with pytest.raises(qat.QatError, match=rf"is a quantized file, with .*{kind} \(1\).*give the float one"):
        imported(tmp_path, chain(*specs))


def test_weights_that_are_stored_as_codes_are_read_as_real_numbers(tmp_path: Path) -> None:
    codes = RNG.integers(-128, 128, (4, 3, 3, 3)).astype(np.int8)
    model = chain(conv())
    model.graph.initializer[0].name = "unused"
    model.graph.initializer.append(numpy_helper.from_array(codes, "codes"))
    model.graph.initializer.append(numpy_helper.from_array(np.float32(0.01), "scale"))
    model.graph.node.insert(0, helper.make_node("DequantizeLinear", ["codes", "scale"], ["v0.c0"]))
    found = imported(tmp_path, model)
    assert np.array_equal(found.params["Conv_0.weight"], codes.astype(np.float32) * np.float32(0.01))
    assert found.difference.relative < ROUNDING


def test_sizes_have_to_be_known(tmp_path: Path) -> None:
    model = chain(conv(), shape=("n", 3, "h", "w"))
    with pytest.raises(qat.QatError, match=r"sizes of its input 'x' open \(n, 3, h, w\).*give input_shape"):
        imported(tmp_path, model)
    assert imported(tmp_path, model, input_shape=(3, 9, 8)).difference.relative < ROUNDING
    with pytest.raises(qat.QatError, match=r"input_shape \(1, 9, 8\) does not fit"):
        imported(tmp_path, model, input_shape=(1, 9, 8))
    last = chain(TO_FIRST, conv(), shape=("n", "h", "w", 3))
    assert imported(tmp_path, last, input_shape=(3, 9, 8)).graph.inputs[0].cell.shape == (3, 9, 8)
    without = chain(conv())
    without.graph.input[0].type.tensor_type.ClearField("shape")
    assert imported(tmp_path, without, input_shape=(3, 9, 8)).difference.relative < ROUNDING


def test_opset_8_is_refused(tmp_path: Path) -> None:
    with pytest.raises(qat.QatError, match="is of opset 8, but 9 is the oldest"):
        imported(tmp_path, chain(conv(), opset=8))


@pytest.mark.parametrize(
    ("kind", "found"),
    [
        (helper.make_tensor_type_proto(TensorProto.INT64, (1, 8)), "int64 tensors"),
        (helper.make_sequence_type_proto(helper.make_tensor_type_proto(1, (1, 8))), "values of type sequence"),
        (helper.make_optional_type_proto(helper.make_tensor_type_proto(1, (1, 8))), "values of type optional"),
    ],
)
def test_inputs_of_other_kinds_are_refused(kind: Any, found: str, tmp_path: Path) -> None:
    model = chain(conv())
    model.graph.input[0].type.CopyFrom(kind)
    with pytest.raises(qat.QatError, match=f"its input 'x' takes {found}"):
        imported(tmp_path, model)


def test_what_is_no_onnx_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(b"\x00\x01no onnx file")
    with pytest.raises(qat.QatError, match="cannot be read as an ONNX file"):
        qat.import_model(path)


def test_constants_that_grow_are_refused(tmp_path: Path) -> None:
    model = chain(conv(), ("Add", {}, "big"))
    model.graph.initializer.append(numpy_helper.from_array(np.array([1 << 15, 1 << 15]), "sizes"))
    model.graph.node.insert(1, helper.make_node("ConstantOfShape", ["sizes"], ["big"]))
    with pytest.raises(qat.QatError, match="constants grow"):
        imported(tmp_path, model)


def test_a_layer_that_is_used_twice_is_one_cell(tmp_path: Path) -> None:
    """Equal biases that an exporter has merged mean nothing; equal weights do."""
    shared = chain(conv(3), ("Relu", {}), conv(3), ("Relu", {}), conv(3))
    for node in (shared.graph.node[2], shared.graph.node[4]):
        node.input[2] = "v0.c1"
    found = imported(tmp_path, shared)
    assert [node.cell_name for node in found.graph.nodes[1:]] == ["Conv_0", "Conv_2", "Conv_4"]
    assert "Conv_0.bias" not in found.sources
    assert found.sources["Conv_0.weight"] == "v0.c0"
    shared.graph.node[2].input[1] = "v0.c0"
    found = imported(tmp_path, shared)
    assert [node.cell_name for node in found.graph.nodes[1:]] == ["Conv_0", "Conv_0", "Conv_4"]
    assert found.difference.relative < ROUNDING
    shared.graph.node[4].input[1] = "v0.c0"
    with pytest.raises(qat.QatError, match=r"shares v0\.c0 with Conv_0, but has another activation.*Conv_4"):
        imported(tmp_path, shared)


# -- data in other files ----------------------------------------------------------------------------------------------


def with_data(folder: Path, location: str = "weights.bin", **entries: Any) -> Path:
    """A model whose weights are in another file; entries: changed ones of the reference to it."""
    folder.mkdir(exist_ok=True)
    model = chain(conv())
    tensor = model.graph.initializer[0]
    (folder / "weights.bin").write_bytes(b"\0" * 16 + tensor.raw_data)
    given = {"location": location, "offset": 16, "length": len(tensor.raw_data)} | entries
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in given.items():
        entry = tensor.external_data.add()
        entry.key, entry.value = key, str(value)
    path = folder / "net.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def test_data_beside_the_model_are_read(tmp_path: Path) -> None:
    assert qat.import_model(with_data(tmp_path)).difference.relative < ROUNDING


@pytest.mark.parametrize(
    "location", ["../weights.bin", "/etc/hostname", "a/../../weights.bin", "", "..\\weights.bin", "link"]
)
def test_data_outside_the_models_folder_are_refused(location: str, tmp_path: Path) -> None:
    path = with_data(tmp_path / "net", location)
    (tmp_path / "weights.bin").write_bytes((tmp_path / "net" / "weights.bin").read_bytes())
    (tmp_path / "net" / "link").symlink_to(tmp_path / "weights.bin")
    with pytest.raises(qat.QatError, match="outside the model's folder"):
        open_file(path)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"location": "gone.bin"}, "'gone.bin', which is missing"),
        ({"offset": 60}, "weights.bin: ends before the data"),
        ({"length": 4}, "432 bytes, but 4"),
        ({"offset": -1}, "-1|bytes"),
    ],
)
def test_data_that_are_missing_are_named(entries: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(qat.QatError, match=message):
        open_file(with_data(tmp_path, **entries))


# -- whole networks ---------------------------------------------------------------------------------------------------


class Small(qat.Network):
    """Most of what is exported."""

    inputs = qat.Input((3, 12, 12), mean=0.5, std=0.25)

    def __init__(self) -> None:
        self.conv = qat.Conv2dBnAct(3, 8, 3, stride=2, activation="relu6")
        self.depthwise = qat.Conv2dBnAct(8, 8, 3, group=8, activation="relu")
        self.add = qat.Add("relu")
        self.pool = qat.MaxPool2d(2)
        self.flatten = qat.Flatten()
        self.fc = qat.DenseBnAct(72, 5)

    def construct(self, x: Any) -> Any:
        x = self.conv(x)
        return self.fc(self.flatten(self.pool(self.add(self.depthwise(x), x))))


def small() -> tuple[Any, dict[str, np.ndarray]]:
    graph = Small().graph()
    params = graph.initial_params(seed=0)
    for name, array in params.items():
        if name.endswith(("moving_variance", "gamma")):
            params[name] = RNG.uniform(0.5, 2.0, array.shape).astype(np.float32)
        elif name.endswith(("moving_mean", "beta")):
            params[name] = RNG.normal(0, 0.3, array.shape).astype(np.float32)
    return graph, params


@pytest.mark.parametrize(("file_format", "name"), [("ONNX", "net.onnx"), ("TFLITE", "net.tflite")])
def test_a_float_export_is_imported_again_and_deployed(file_format: str, name: str, tmp_path: Path) -> None:
    graph, params = small()
    qat.target(file_format).export_float(graph, params, tmp_path / name)
    found = qat.import_model(tmp_path / name)
    pixels = RNG.integers(0, 256, (16, 3, 12, 12), np.uint8)
    assert found.graph.inputs[0].cell.dtype == "uint8"
    backend = qat.backend("torch")
    before, after = (
        backend.predict(backend.lower(g, p), pixels) for g, p in ((graph, params), (found.graph, found.params))
    )
    assert np.abs(before - after).max() < ROUNDING * np.abs(before).max()
    kinds = ["Conv2dBnAct", "Conv2dBnAct", "Add", "MaxPool2d", "Activation", "Flatten", "DenseBnAct"]
    assert cells(found) == kinds, "the export has the ReLU of the addition behind the pooling, and each ReLU6 twice"
    made = calibrate(found.graph, found.params, pixels)
    path = tmp_path / "integers.onnx"
    integers = qat.to_integer(made.graph, made.params)
    qat.target("ONNX").export(integers, path)
    assert len(np.unique(qat.evaluate(integers, pixels))) > 20, "there is something to compare"
    split = Split(pixels, np.arange(16) % 5)
    checkpoint = qat.Checkpoint(made.graph, made.params)
    certificate = verify(path, qat.target("ONNX"), backend, checkpoint, split, data="noise")
    assert certificate.passed, certificate.summary()


def test_a_wrong_parameter_is_noticed(tmp_path: Path) -> None:
    """An eps of 1e-3 in place of 1e-2 changes more than rounding does, and so does each parameter."""
    model = chain(conv(), BN, ("Flatten", {}))
    path = tmp_path / "net.onnx"
    onnx.save(model, path)
    opened = open_file(path)
    images = RNG.normal(size=(4, 3, 9, 8)).astype(np.float32)
    (wanted,) = opened.trace((images,), opened.program.outputs).values()
    found = qat.import_model(path)
    backend = qat.backend("torch")

    def difference(graph: Any, params: dict[str, np.ndarray]) -> float:
        outputs = backend.predict(backend.lower(graph, params), images)
        return float(np.abs(outputs - wanted).max() / np.abs(wanted).max())

    assert difference(found.graph, found.params) < ROUNDING
    for name in found.params:
        changed = found.params | {name: found.params[name] * np.float32(1.001)}
        assert difference(found.graph, changed) > ROUNDING, name
    model.graph.node[1].attribute[0].f = 0.001
    onnx.save(model, path)
    other = qat.import_model(path)
    assert difference(other.graph, other.params) > ROUNDING
