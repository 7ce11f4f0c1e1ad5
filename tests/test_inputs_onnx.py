"""ONNX files of networks that take any dtype, and files that take and give codes: the codes of NumPy, in ONNX Runtime."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from entering import DTYPES, SHAPE, hard_samples, integers, integers_of, node_of, normalized, ties_in
from frameworks import but_long
from sequential import Chain

import qat
from qat.integer import IntegerGraph, trace_codes
from qat.integer.ends import TYPES, ends_of
from qat.vocabulary.arrays import as_tuple

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
from onnx import helper  # noqa: E402

from qat.targets.onnx.file import load, set_metadata, write  # noqa: E402
from qat.targets.onnx.run import session_of  # noqa: E402

ONNX: Any = qat.target("ONNX")
F = np.float32
REFUSED = {("int16", "float32"), ("uint16", "float32")}  #: dtype of the network, input_type


def assert_equal_codes(graph: IntegerGraph, samples: np.ndarray, path: Path, **options: str) -> None:
    """Every code of every node, and the real outputs."""
    ONNX.export(graph, path, **options)
    assert ONNX.input_specs(path) == [*graph.input_specs]
    tensors = [node.output for node in graph.nodes]
    expected = trace_codes(graph, samples, [x.name for x in tensors])
    found = ONNX.trace(path, samples, tensors)
    missing = {x.name for x in tensors} - found.keys()
    assert missing <= {"input"}
    for name, codes in found.items():
        np.testing.assert_array_equal(codes, expected[name], err_msg=f"{name} {options}")
    for reals in (ONNX.predict(path, samples), ONNX.opened(path)(samples)):
        for output, real in zip(graph.outputs, as_tuple(reals), strict=True):
            assert real.dtype == F
            np.testing.assert_array_equal(real, output.grid.dequantize(expected[output.name]), err_msg=output.name)


@pytest.mark.parametrize("input_type", TYPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_file_of_any_input_type_computes_the_codes_of_numpy(dtype: str, input_type: str, tmp_path: Path) -> None:
    graph, path = integers(dtype), tmp_path / "net.onnx"
    if (dtype, input_type) in REFUSED:
        with pytest.raises(qat.QatError, match="input: --input_type float32, but the network takes codes"):
            ONNX.export(graph, path, input_type=input_type)
        assert not path.exists()
        return
    samples = hard_samples(graph)
    assert_equal_codes(graph, samples, path, input_type=input_type)
    (stored,) = onnx.load(path).graph.input
    kind = helper.tensor_dtype_to_np_dtype(stored.type.tensor_type.elem_type)
    assert kind == (dtype if input_type == "own" else input_type)
    if dtype == "float32" and input_type == "own":
        assert samples.size > 100_000


@pytest.mark.parametrize(
    ("dtype", "limits"),
    [
        ("float32", (-4.0, 3.96875)),
        ("float32", (0.0, 15.9375)),
        ("float32", (-(2.0**-20), 127 * 2.0**-27)),
        ("float32", (-128.0, 127.0)),
        ("uint16", (-4.0, 3.96875)),
    ],
)
def test_numbers_between_two_codes_go_to_the_even_one(dtype: str, limits: tuple[float, float], tmp_path: Path) -> None:
    graph = integers(dtype, limits=limits)
    samples = hard_samples(graph, 1000)
    assert ties_in(graph, samples) >= 250  # the scale is a power of two: every one is met
    assert_equal_codes(graph, samples, tmp_path / "net.onnx")


@pytest.mark.parametrize("shape", [(1, 2, 2), (1, 3, 3), (1, 5, 7)])
def test_the_last_numbers_of_an_array_are_rounded_as_the_first(shape: tuple[int, ...], tmp_path: Path) -> None:
    """Vector instructions leave some over, which a loop of its own computes."""
    graph = integers("float32", limits=(-4.0, 3.96875), shape=shape)
    samples = hard_samples(graph, 10)
    for count in (1, 2, 3, len(samples)):
        assert_equal_codes(graph, samples[:count], tmp_path / "net.onnx")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("types", [{}, {"input_type": "int8", "output_type": "int8"}, {"output_type": "uint8"}])
def test_the_codes_of_an_input_may_go_anywhere(dtype: str, types: dict[str, str], tmp_path: Path) -> None:
    """ONNX Runtime moves quantizations through poolings and reshapes, and merges those that follow one another."""
    graph = integers(dtype, joined="hswish")
    assert_equal_codes(graph, hard_samples(graph, 2000), tmp_path / "net.onnx", **types)


@pytest.mark.parametrize("cell", ["pool", "flatten"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_an_input_that_is_only_pooled_or_reshaped(dtype: str, cell: str, tmp_path: Path) -> None:
    cells = {"pool": [qat.MaxPool2d(2), qat.MaxPool2d(2), qat.Flatten()], "flatten": [qat.Flatten()]}[cell]
    features = 3 * 9 * 8 if cell == "flatten" else 3 * 2 * 2
    network = Chain(
        qat.Input(SHAPE, dtype=dtype, **DTYPES[dtype]),
        **{f"c{i}": own for i, own in enumerate(cells)},
        fc=qat.DenseBnAct(features, 3),
    )
    graph = integers_of(network, (-1.9, 4.7))
    for types in ({}, {"input_type": "int8"}):
        assert_equal_codes(graph, hard_samples(graph, 2000), tmp_path / "net.onnx", **types)


@pytest.mark.filterwarnings("ignore:.*becomes a layer of its own")
@pytest.mark.parametrize("kind", normalized())
@pytest.mark.parametrize("input_type", ["own", "int8", "float32"])
def test_a_mean_and_std_for_each_channel(input_type: str, kind: str, tmp_path: Path) -> None:
    graph, path = integers_of(normalized()[kind], (0.0, 1.0)), tmp_path / "net.onnx"
    assert_equal_codes(graph, hard_samples(graph), path, input_type=input_type)
    pads = [node for node in load(path).graph.node if node.op_type == "Pad"]
    assert len(pads) == (kind == "channel")


@pytest.mark.parametrize("shape", [SHAPE, (5,)])
def test_a_float_file_normalises_each_channel(shape: tuple[int, ...], tmp_path: Path) -> None:
    rng, path = np.random.default_rng(0), tmp_path / "float.onnx"
    mean, std = rng.uniform(0.2, 0.8, shape[0]), rng.uniform(0.1, 0.5, shape[0])
    cells = {"flatten": qat.Flatten()} if len(shape) == 3 else {}
    fc = qat.DenseBnAct(int(np.prod(shape)), 2)
    graph = Chain(qat.Input(shape, mean=tuple(mean), std=tuple(std)), **cells, fc=fc).graph()
    params = graph.initial_params()
    ONNX.export_float(graph, params, path)
    x = rng.integers(0, 256, (5, *shape)).astype(np.uint8)
    column = (-1,) + (1,) * (len(shape) - 1)
    real = (x / 255.0 - mean.reshape(column)) / std.reshape(column)
    expected = real.reshape(5, -1) @ params["fc.weight"].astype(np.float64).T
    np.testing.assert_allclose(ONNX.predict(path, x), expected + params.get("fc.bias", 0), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("change", ["samples", "computed", "short"])
def test_a_pad_that_could_fill_the_memory_is_refused(change: str, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    ONNX.export(integers_of(normalized()["channel"], (0.0, 1.0)), path)
    model = onnx.load(path)
    (pad,) = [node for node in model.graph.node if node.op_type == "Pad"]
    (pads,) = [x for x in model.graph.initializer if x.name == pad.input[1]]
    if change == "samples":
        pads.CopyFrom(onnx.numpy_helper.from_array(np.array([0, 0, 0, 0, 1 << 40, 1, 0, 0]), pads.name))
    elif change == "short":
        pads.CopyFrom(onnx.numpy_helper.from_array(np.array([0, 1, 0]), pads.name))
    else:
        model.graph.node.insert(0, helper.make_node("Identity", [pads.name], ["computed"]))
        pad.input[1] = "computed"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(qat.QatError, match="export it again"):
        ONNX.predict(path, np.zeros((1, *SHAPE), np.uint8))


@pytest.mark.parametrize("limits", [(-3e-37, 3e-37), (-1e33, 2e33)])
def test_products_that_overflow_or_are_denormal_have_the_codes_of_numpy(
    limits: tuple[float, float], tmp_path: Path
) -> None:
    graph = integers("float32", limits=limits)
    assert_equal_codes(graph, hard_samples(graph, 1000), tmp_path / "net.onnx")


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("bits", [4, 2])
@pytest.mark.parametrize("input_type", TYPES)
def test_inputs_of_few_bits_are_clipped(input_type: str, bits: int, symmetric: bool, tmp_path: Path) -> None:
    quantizer = qat.ActivationQuantizer(num_bits=bits, symmetric=symmetric)
    graph = integers("float32", layers={"input": {"activation_quantizer": quantizer}})
    grid = node_of(graph).output.grid
    assert grid.qmax - grid.qmin < 2**bits
    assert_equal_codes(graph, hard_samples(graph, 2000), tmp_path / "net.onnx", input_type=input_type)


@pytest.mark.parametrize("output_type", TYPES)
@pytest.mark.parametrize("options", [{}, {"profile": "ascend"}, {"num_bits": 4}], ids=["default", "signed", "bits"])
def test_a_file_of_any_output_type_gives_the_codes_themselves(
    options: dict[str, Any], output_type: str, tmp_path: Path
) -> None:
    graph, path = integers("float32", **options), tmp_path / "net.onnx"
    samples = hard_samples(graph, 3000)
    assert_equal_codes(graph, samples, path, output_type=output_type)
    (output,) = graph.outputs
    centred = trace_codes(graph, samples, [output.name])[output.name].astype(np.int32) - output.grid.zero_point
    (given,) = session_of(path, load(path)).run(None, {"input": samples})
    if output_type in ("own", "float32"):
        np.testing.assert_array_equal(given, centred.astype(F) * output.grid.scale)
        return
    assert given.dtype == output_type
    first = {"int8": -128 - output.grid.low, "uint8": -output.grid.low, "int16": 0}[output_type]
    np.testing.assert_array_equal(given, centred + first)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_file_of_codes_is_fed_by_the_formula(dtype: str, tmp_path: Path) -> None:
    """Not by ``Ends.encode``, which predict uses: by whoever writes the caller's side from the manual."""
    graph, path = integers(dtype), tmp_path / "net.onnx"
    ONNX.export(graph, path, input_type="int8", output_type="int8")
    node, samples = node_of(graph), hard_samples(graph, 3000)
    centred = samples.astype(F) - F(node.offset if node.requantize else node.output.grid.zero_point)
    if node.requantize:
        with np.errstate(over="ignore"):
            centred = np.clip(np.rint(centred * node.requantize.multiplier), node.requantize.low, node.requantize.high)
    codes = (centred - (128 + node.output.grid.low)).astype(np.int8)
    if dtype == "int8":
        np.testing.assert_array_equal(codes, samples)
    (output,) = graph.outputs
    (given,) = session_of(path, load(path)).run(None, {"input": codes})
    expected = trace_codes(graph, samples, [output.name])[output.name].astype(np.int32)
    np.testing.assert_array_equal(given, expected - output.grid.qmin - 128)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("input_type", TYPES)
def test_the_first_convolution_stays_one_integer_kernel(dtype: str, input_type: str, tmp_path: Path) -> None:
    import onnxruntime

    if (dtype, input_type) in REFUSED:
        return
    path, optimized = tmp_path / "net.onnx", tmp_path / "optimized.onnx"
    ONNX.export(integers(dtype), path, input_type=input_type, output_type="int8")
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(optimized)
    options.log_severity_level = 4
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    kinds = [node.op_type for node in onnx.load(optimized).graph.node]
    assert kinds.count("QLinearConv") == 1
    assert kinds.count("QGemm") == 1
    assert not {"Conv", "Gemm", "DequantizeLinear"} & set(kinds)
    assert kinds.count("QuantizeLinear") == (input_type != "uint8" and not (dtype == "uint8" and input_type == "own"))


def test_the_metadata_say_what_the_file_takes_only_where_the_network_takes_something_else(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    for dtype in DTYPES:
        graph = integers(dtype)
        ONNX.export(graph, path)
        assert not onnx.load(path).metadata_props
        ONNX.export(graph, path, input_type="int8", output_type="uint8")
        entries = {entry.key: json.loads(entry.value) for entry in onnx.load(path).metadata_props}
        assert entries["qat.ends"]["outputs"][0]["stored"] == "uint8"
        ONNX.write_metadata(path, {"graph": "x"})
        assert ONNX.input_specs(path) == [*graph.input_specs]


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_float_file_takes_what_the_network_takes(dtype: str, tmp_path: Path) -> None:
    network = Chain(qat.Input((3, 4, 4), dtype=dtype, **DTYPES[dtype]), flatten=qat.Flatten(), fc=qat.DenseBnAct(48, 2))
    graph, path = network.graph(), tmp_path / "float.onnx"
    params = graph.initial_params()
    ONNX.export_float(graph, params, path)
    assert ONNX.input_specs(path) == [*graph.input_specs]
    rng = np.random.default_rng(0)
    x = rng.normal(size=(5, 3, 4, 4)).astype(F)
    if dtype != "float32":
        x = rng.integers(np.iinfo(dtype).min, np.iinfo(dtype).max, (5, 3, 4, 4)).astype(dtype)
    cell: Any = graph.inputs[0].cell
    real = x if dtype == "float32" else cell.grid.dequantize(x)
    expected = real.reshape(5, 48).astype(np.float64) @ params["fc.weight"].astype(np.float64).T
    np.testing.assert_allclose(ONNX.predict(path, x), expected + params.get("fc.bias", 0), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda data: data["inputs"][0] | {"stored": "int16"}, "it should have int16"),
        (lambda data: data["inputs"][0] | {"shape": [3, 9, 9]}, "it should have int8"),
        (lambda data: data["inputs"][0] | {"dtype": "float64"}, "float64"),
        (lambda data: data["inputs"][0] | {"zero_point": 300}, "are no int8"),
        (lambda data: data["inputs"][0] | {"scale": "1"}, "scale"),
        (lambda data: data["inputs"][0] | {"scale": 1e300}, "a scale is no positive float32"),
        (lambda data: data["inputs"][0] | {"multiplier": -1.0}, "a scale is no positive float32"),
        (lambda data: data["inputs"][0] | {"more": 1}, "more"),
        (lambda data: [], "there is no shape"),
    ],
)
def test_metadata_that_do_not_fit_the_file_are_refused(change: Any, reason: str, tmp_path: Path) -> None:
    graph, path = integers("float32"), tmp_path / "net.onnx"
    ONNX.export(graph, path, input_type="int8")
    model = load(path)
    data = json.loads({entry.key: entry.value for entry in model.metadata_props}["qat.ends"])
    set_metadata(model, {"ends": json.dumps(data | {"inputs": [change(data)]})})
    write(model, path)
    for read in (ONNX.input_specs, ONNX.opened, lambda file: ONNX.predict(file, hard_samples(graph, 10))):
        with pytest.raises(qat.QatError, match=reason) as refusal:
            read(path)
        assert str(path) in str(refusal.value)
        assert "export it again" in str(refusal.value)


def test_an_unknown_type_is_refused_by_the_name_of_its_flag(tmp_path: Path) -> None:
    for flag in ("input_type", "output_type"):
        with pytest.raises(qat.QatError, match=f"--{flag} 'int4' is unknown: choose one of own, float32"):
            ONNX.export(integers("float32"), tmp_path / "net.onnx", **{flag: "int4"})


@pytest.mark.parametrize("seed", but_long(range(40), lambda seed: seed >= 4))
def test_many_ranges(seed: int, tmp_path: Path) -> None:
    """Scales of any size: 0 codes differ."""
    rng = np.random.default_rng(seed)
    width = 10.0 ** rng.uniform(-30, 30)
    low = -width * rng.uniform()
    graph = integers("float32", limits=(low, low + width))
    assert ends_of(graph).inputs[0].stored == "float32"
    assert_equal_codes(graph, hard_samples(graph), tmp_path / "net.onnx")
