"""Weights of 4 bits and fewer: stored several to a byte, and computed with the same integers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_cells import Everything
from test_integer import calibrated
from test_tflite import everything

import qat
from qat.integer import trace_codes
from qat.networks import LeNet5
from qat.widths import pack, storage_bits

ONNX = qat.target("ONNX")
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
