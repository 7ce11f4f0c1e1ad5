"""Weights of 4 bits and fewer: stored several to a byte, and computed with the same integers."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from ai_edge_litert import schema_py_generated as schema
from hypothesis import given
from hypothesis import strategies as st
from sequential import Chain, calibrated
from test_cells import Everything
from test_tflite import everything

import qat
from qat.integer import trace_codes
from qat.integer.widths import pack, storage_bits
from qat.networks import LeNet5

ONNX, TFLITE = qat.target("ONNX"), qat.target("TFLITE")
Op, Type = schema.BuiltinOperator, schema.TensorType
BINARY, TERNARY = qat.BinaryWeightQuantizer(per_channel=True), qat.TernaryWeightQuantizer(per_channel=True)


def weights_of(graph) -> int:
    """Their number."""
    return sum(node.weight.size for node in graph.nodes if hasattr(node, "weight"))


@given(st.lists(st.integers(-8, 7), min_size=1), st.sampled_from([1, 2, 4]))
def test_packed_codes_lie_lowest_first(codes: list[int], bits: int) -> None:
    data = pack(np.array(codes), bits)
    assert len(data) == -(-len(codes) * bits // 8)
    everything = int.from_bytes(data, "little")
    for i, code in enumerate(codes):
        assert everything >> (bits * i) & ((1 << bits) - 1) == code % (1 << bits)


def test_the_smallest_width_that_holds_the_codes() -> None:
    assert storage_bits(np.array([-8, 7], np.int8), (2, 4)) == 4
    assert storage_bits(np.array([-8, 8], np.int8), (2, 4)) == 8
    assert storage_bits(np.array([-2, 1], np.int8), (4, 2)) == 2
    assert storage_bits(np.array([0, 3], np.uint8), (2, 4)) == 2
    assert storage_bits(np.array([1, 1], np.int8), (2, 4)) == 8  # an average pooling
    assert storage_bits(np.array([-300, 7], np.int16), (2, 4)) == 16


def assert_onnx_equal(setup, folder: Path, **options) -> onnx.ModelProto:
    graph = setup.integer
    path = folder / "net.onnx"
    ONNX.export(graph, path, **options)
    names = [node.name for node in graph.nodes]
    expected = trace_codes(graph, setup.pixels, names)
    for name, codes in ONNX.trace(path, setup.pixels, [node.output for node in graph.nodes]).items():
        np.testing.assert_array_equal(codes, expected[name], err_msg=name)
    return onnx.load(path)


def kernels(path: Path, folder: Path) -> dict[str, int]:
    """The operators of the file as the default session computes it."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    options.log_severity_level = 4
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    found: dict[str, int] = {}
    for node in onnx.load(options.optimized_model_filepath).graph.node:
        found[node.op_type] = found.get(node.op_type, 0) + 1
    return found


SETTINGS = {
    "4 bits": {"num_bits": (4, 8)},
    "3 bits, whole layers": {"num_bits": (3, 4), "per_channel": False},
    "2 bits": {"num_bits": (2, 8)},
    "affine, 4 bits": {"num_bits": (4, 8), "symmetric": False},
    "affine, 2 bits": {"num_bits": (2, 8), "symmetric": False},
    "ternary": {"weight_quantizer": TERNARY},
    "binary": {"weight_quantizer": BINARY},
}


@pytest.mark.parametrize("weights", ["int8", "uint8"])
@pytest.mark.parametrize("case", SETTINGS)
def test_onnx_runtime_computes_packed_weights_in_integers(case: str, weights: str, tmp_path: Path) -> None:
    setup = calibrated(LeNet5(), images=8, **SETTINGS[case])
    assert_onnx_equal(setup, tmp_path, weights=weights)
    found = kernels(tmp_path / "net.onnx", tmp_path)
    assert found["QLinearConv"] == 2
    assert found["QGemm"] == 3
    assert not {"Conv", "Gemm", "MatMul", "Cast"} & set(found)
    sizes = {}
    for packing in ("packed", "bytes"):
        path = tmp_path / f"{packing}.onnx"
        ONNX.export(setup.integer, path, weights=weights, packing=packing)
        sizes[packing] = path.stat().st_size
    bits = 4 if "4" in case or "3" in case else 2
    saved = weights_of(setup.integer) * (8 - bits) // 8
    assert abs(sizes["bytes"] - sizes["packed"] - saved) < 500, sizes


@pytest.mark.parametrize("case", ["4 bits", "2 bits", "ternary", "binary"])
def test_every_kind_of_cell_in_onnx_runtime(case: str, tmp_path: Path) -> None:
    model = assert_onnx_equal(everything(Everything("hswish"), bn_fold=True, **SETTINGS[case]), tmp_path)
    assert model.opset_import[0].version == (21 if case == "4 bits" else 25)


def test_eight_bits_ask_for_no_newer_runtime(tmp_path: Path) -> None:
    assert assert_onnx_equal(everything(Everything("hswish")), tmp_path).opset_import[0].version == 17
    setup = everything(Everything("hswish"), num_bits=(4, 8))
    assert assert_onnx_equal(setup, tmp_path, packing="bytes").opset_import[0].version == 17


def test_an_unknown_packing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(qat.QatError, match=r"^--packing 'zip' is unknown: choose one of packed, bytes$"):
        ONNX.export(calibrated(LeNet5()).integer, tmp_path / "net.onnx", packing="zip")


# -- LiteRT -----------------------------------------------------------------------------------------------------------


def assert_litert_equal(setup, path: Path, arithmetic: str) -> list[int]:
    """Every node, and the types of all weights."""
    graph = setup.integer
    TFLITE.export(graph, path, arithmetic=arithmetic)
    expected = trace_codes(graph, setup.pixels, [node.name for node in graph.nodes], arithmetic=arithmetic)
    for name, codes in TFLITE.trace(path, setup.pixels, [x.output for x in graph.nodes], arithmetic=arithmetic).items():
        np.testing.assert_array_equal(codes, expected[name], err_msg=f"{name}, {arithmetic}")
    model = schema.ModelT.InitFromPackedBuf(path.read_bytes())
    tensors = model.subgraphs[0].tensors
    linear = (Op.CONV_2D, Op.DEPTHWISE_CONV_2D, Op.FULLY_CONNECTED)
    operators = model.subgraphs[0].operators
    return [tensors[x.inputs[1]].type for x in operators if model.operatorCodes[x.opcodeIndex].builtinCode in linear]


@pytest.mark.parametrize("case", ["4 bits", "3 bits, whole layers", "2 bits", "ternary", "binary"])
@pytest.mark.parametrize("arithmetic", ["float", "fixed"])
def test_litert_computes_packed_weights(case: str, arithmetic: str, tmp_path: Path) -> None:
    setup = calibrated(LeNet5(), images=40, **SETTINGS[case])
    types = assert_litert_equal(setup, tmp_path / "net.tflite", arithmetic)
    dense = Type.INT4 if case[0] in "34" else Type.INT2
    assert types == ([Type.INT4] * 5 if arithmetic == "fixed" else [Type.INT8, Type.INT8, *[dense] * 3])
    assert_litert_equal(everything(Everything("hswish"), **SETTINGS[case]), tmp_path / "all.tflite", arithmetic)


@pytest.mark.parametrize("bits", [2, 4])
def test_dense_layers_of_every_length_in_xnnpack(bits: int, tmp_path: Path) -> None:
    """XNNPACK takes rows of whole bytes; with others LiteRT's own kernel would step in, and round otherwise."""
    for inputs in (1, 2, 3, 4, 6, 7, 8, 9, 31, 64, 130):
        network = Chain(qat.Input((inputs, 1, 1)), flatten=qat.Flatten(), fc=qat.DenseBnAct(inputs, 33))
        for per_channel in (True, False):
            setup = calibrated(network, images=200, num_bits=(bits, 8), per_channel=(per_channel, False))
            (found,) = assert_litert_equal(setup, tmp_path / "net.tflite", "float")
            assert found == (Type.INT8 if inputs % 2 else Type.INT4 if bits == 4 or inputs % 4 else Type.INT2)


# -- how large --------------------------------------------------------------------------------------------------------


def test_four_bits_take_half_the_bytes_of_eight(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of LeNet-5, whole files without certificate; what is no weight is in both."""
    formats = {"ONNX": ("onnx", {}), "TFLITE": ("tflite", {"arithmetic": "fixed"}), "C": ("c", {"arithmetic": "fixed"})}
    lines = []
    for name, (suffix, options) in formats.items():
        sizes = []
        for bits in (8, 4):
            path = tmp_path / f"net{bits}.{suffix}"
            qat.target(name).export(calibrated(LeNet5(), num_bits=(bits, 8)).integer, path, **options)
            header = path.with_suffix(".h")  # which says how many bytes of constants the file makes; text has more
            constants = re.search(r"CONSTANT_BYTES (\d+)", header.read_text()) if name == "C" else None
            sizes.append(int(constants[1]) if constants else path.stat().st_size)
        lines.append(f"{name}: LeNet-5 with weights of 8 bits {sizes[0]:,} bytes, of 4 bits {sizes[1]:,}")
        assert abs(sizes[0] - sizes[1] - 61470 // 2) < (400 if name == "C" else 200), lines[-1]
    with capsys.disabled():
        print("\n" + "\n".join(lines))
