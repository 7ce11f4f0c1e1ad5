"""TFLite files: every code equal in LiteRT, in both arithmetics; their form, size and refusals."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from hypothesis import HealthCheck, given, settings
from sequential import Chain, calibrated
from test_cells import Everything
from test_zoo import Setup, after_numpy_step, random_params, setups

import qat
from qat.data import Split
from qat.deploy.verify import export_verified, verify
from qat.integer import (
    Grid,
    IntegerAdd,
    IntegerConv2d,
    IntegerDense,
    IntegerGraph,
    IntegerInput,
    IntegerNode,
    IntegerTensor,
    Requantize,
    evaluate,
    trace_codes,
)
from qat.networks import LeNet5
from qat.targets.common import to_chw, to_hwc
from qat.targets.tflite import target as tflite_target
from qat.targets.tflite.writer import offset_of
from qat.vocabulary.arrays import Arrays, as_tuple

F = np.float32
TORCH, ONNX, TFLITE = qat.backend("torch"), qat.target("ONNX"), qat.target("TFLITE")
ARITHMETICS = TFLITE.ARITHMETICS


def differences(graph: IntegerGraph, path: Path, pixels: Arrays, arithmetic: str) -> list[str]:
    """Nodes and outputs of the file that differ from NumPy's integers in that arithmetic, with how many codes."""
    tensors = [node.output for node in graph.nodes]
    reference = trace_codes(graph, pixels, [x.name for x in tensors], arithmetic=arithmetic)
    traced = TFLITE.trace(path, pixels, tensors, arithmetic=arithmetic)
    made = {node.name for node in graph.nodes if not isinstance(node, IntegerInput)}
    assert made <= set(traced) <= set(reference)
    real = as_tuple(TFLITE.predict(path, pixels, arithmetic=arithmetic))
    found = list(traced.items())
    found += [(x.name, x.grid.codes_of(y)) for x, y in zip(graph.outputs, real, strict=True)]
    result = []
    for name, codes in found:
        assert codes.shape == reference[name].shape, name
        differ = np.count_nonzero(codes != reference[name])
        if differ:
            result.append(f"{arithmetic}, {name}: {differ} of {codes.size}")
    return result


def assert_equal(graph: IntegerGraph, pixels: Arrays, folder: Path) -> None:
    """No code of any node differs in either arithmetic."""
    for arithmetic in ARITHMETICS:
        path = folder / f"{arithmetic}.tflite"
        TFLITE.export(graph, path, arithmetic=arithmetic)
        assert differences(graph, path, pixels, arithmetic) == []


def model_of(path: Path) -> Any:
    return schema.ModelT.InitFromPackedBuf(path.read_bytes())


def operators(path: Path) -> Counter[str]:
    """How often each operator stands in a file."""
    names = {value: name for name, value in vars(schema.BuiltinOperator).items()}
    model = model_of(path)
    return Counter(names[model.operatorCodes[op.opcodeIndex].builtinCode] for op in model.subgraphs[0].operators)


# -- whole networks ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("symmetric", [True, False], ids=["signed", "unsigned"])
@pytest.mark.parametrize("bits", [8, 5])
def test_lenet5(symmetric: bool, bits: int, tmp_path: Path) -> None:
    setup = calibrated(LeNet5(), images=24, symmetric=(True, symmetric), num_bits=(8, bits))
    assert_equal(setup.integer, setup.pixels, tmp_path)


def random_pixels(graph: qat.Graph, images: int) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(4)
    return tuple(rng.integers(0, 256, (images, *graph.shapes[x.name]), np.uint8) for x in graph.inputs)


def everything(
    network: qat.Network,
    samples: Callable[[qat.Graph, int], Any] = random_pixels,
    *,
    images: int = 6,
    **options: Any,
) -> Setup:
    graph = qat.convert_quant_network(network, **options)
    rng, pixels = np.random.default_rng(3), samples(graph, images)
    params = after_numpy_step(graph, random_params(graph, rng, frozenset()), pixels)
    return Setup(graph, params, pixels, frozenset())


@pytest.mark.parametrize(
    "options",
    [{}, {"per_channel": False}, {"symmetric": True}, {"num_bits": (4, 6)}, {"symmetric": False, "num_bits": (7, 8)}],
    ids=str,
)
@pytest.mark.parametrize("activation", ["hswish", "relu6", "leaky_relu"])
def test_every_kind_of_cell(activation: str, options: dict[str, Any], tmp_path: Path) -> None:
    """Affine weights of up to 7 bits fit into int8 without their zero point."""
    setup = everything(Everything(activation), **options)
    assert_equal(setup.integer, setup.pixels, tmp_path)


class Windows(qat.Network):
    """Groups, dilations, uneven padding, and a softmax; an output that is an input, and one that is flattened."""

    inputs = (qat.Input((4, 9, 7), mean=0.5, std=0.25), qat.Input((5,)))

    def __init__(self) -> None:
        self.grouped = qat.Conv2dBnAct(4, 6, 3, group=2, dilation=2, activation="relu")
        self.doubled = qat.Conv2dBnAct(6, 12, (2, 3), group=6, stride=(1, 2), has_bias=True)
        self.uneven = qat.Conv2dBnAct(12, 5, 3, pad_mode="pad", padding=(2, 0, 1, 3), activation="relu6")
        self.largest = qat.MaxPool2d(3, 2, pad_mode="pad", padding=(2, 1, 0, 2))
        self.mean = qat.AvgPool2d(2, 1, pad_mode="same")
        self.flatten, self.fc, self.other = qat.Flatten(), qat.DenseBnAct(5, 5), qat.DenseBnAct(5, 3)
        self.concat, self.softmax, self.add = qat.Concat(), qat.Softmax(), qat.Add()

    def construct(self, x, y):
        image = self.largest(self.uneven(self.doubled(self.grouped(x))))
        image = self.mean(image)
        flat = self.flatten(image)
        row = self.concat(self.add(self.fc(y), y), self.other(y))
        return flat, self.softmax(row), self.softmax(image), x


def test_every_window_and_two_inputs_and_four_outputs(tmp_path: Path) -> None:
    setup = everything(Windows())
    assert_equal(setup.integer, setup.pixels, tmp_path)


def test_random_networks(tmp_path: Path) -> None:
    """Drawn from all cells and settings; what TFLite cannot store is refused, and that is seldom."""
    counts: Counter[str] = Counter()

    @settings(max_examples=40, suppress_health_check=list(HealthCheck))
    @given(setups())
    def check(setup: Setup) -> None:
        graph = setup.integer
        for arithmetic in ARITHMETICS:
            path = tmp_path / "network.tflite"
            try:
                TFLITE.export(graph, path, arithmetic=arithmetic)
            except qat.QatError as error:
                reasons = ("its weights have zero point", "would overflow int32")
                counts["refused" if any(reason in str(error) for reason in reasons) else str(error)] += 1
            else:
                found = differences(graph, path, setup.pixels, arithmetic)
                assert not found, "\n".join([*found, setup.note])
                counts[arithmetic] += 1

    check()
    assert {*ARITHMETICS} <= set(counts) <= {*ARITHMETICS, "refused"}
    assert counts["refused"] < 0.4 * counts.total(), counts


# -- single nodes, with numbers that networks seldom have --------------------------------------------------------------

PIXEL = Grid(F(0.0123), 0, 0, 255)


def one_node(kind: str, outputs: int, largest: int, *, per_channel: bool = True) -> tuple[IntegerGraph, np.ndarray]:
    """Accumulators up to ``largest``, all codes of the output in use; 256 samples."""
    rng = np.random.default_rng(largest)
    channels = outputs if kind == "depthwise" else 1
    shape = (channels,) if kind == "dense" else (channels, 1, 1)
    x = IntegerTensor("x", shape, PIXEL)
    y = IntegerTensor("y", (outputs, *shape[1:]), Grid(F(0.0371), 3, -128, 127))
    scale = (rng.uniform(0.5, 1, outputs if per_channel else 1) * 300 / largest).repeat(1 if per_channel else outputs)
    multiplier = ((PIXEL.scale * scale.astype(F)) / y.grid.scale).astype(F)
    fields: dict[str, Any] = {
        "name": "y",
        "inputs": (x,),
        "output": y,
        "weight": rng.integers(1, 128, (outputs, 1, *shape[1:])).astype(np.int8),
        "bias": rng.integers(-largest, largest, outputs).astype(np.int32),
        "weight_scale": scale.astype(F),
        "weight_zero_point": np.zeros(outputs, np.int32),
        "requantize": Requantize(multiplier, y.grid.low, y.grid.high),
    }
    node: IntegerNode = IntegerDense(**fields) if kind == "dense" else IntegerConv2d(**fields, group=channels)
    pixels = np.arange(256).astype(np.uint8).reshape(256, *(1 for _ in shape)).repeat(channels, axis=1)
    return IntegerGraph((IntegerInput("x", (), x), node), (x,), (y,)), pixels


@pytest.mark.parametrize("arithmetic", ARITHMETICS)
@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("kind", ["dense", "convolution", "depthwise"])
def test_accumulators_of_every_size(kind: str, per_channel: bool, arithmetic: str, tmp_path: Path) -> None:
    for bits in (10, 14, 20, 23):
        graph, pixels = one_node(kind, 256, 2**bits, per_channel=per_channel)
        TFLITE.export(graph, tmp_path / "net.tflite", arithmetic=arithmetic)
        assert differences(graph, tmp_path / "net.tflite", pixels, arithmetic) == []


def test_the_two_arithmetics_differ_and_a_file_of_one_is_refused_in_the_other(tmp_path: Path) -> None:
    """LiteRT's reference kernel of dense layers rounds once, that of convolutions twice."""
    graph, pixels = one_node("dense", 256, 2**12)
    by_float, by_fixed = (evaluate(graph, pixels, arithmetic=arithmetic) for arithmetic in ARITHMETICS)
    assert 0 < np.count_nonzero(by_float != by_fixed) < 0.02 * by_float.size
    path = tmp_path / "net.tflite"
    TFLITE.export(graph, path, arithmetic="float")
    assert operators(path) == {"FULLY_CONNECTED": 1}
    with pytest.raises(qat.QatError, match=r"net\.tflite: was exported for the float arithmetic: its dense layers"):
        TFLITE.predict(path, pixels, arithmetic="fixed")
    TFLITE.export(graph, path, arithmetic="fixed")
    assert operators(path) == {"RESHAPE": 2, "CONV_2D": 1}
    assert differences(graph, path, pixels, "float") == [], "a file for the fixed arithmetic serves both"


def addition(ratio: float, relu: bool = False) -> tuple[IntegerGraph, tuple[np.ndarray, np.ndarray]]:
    """All pairs of codes of two inputs, whose scale is ``ratio`` times the output's."""
    entries = tuple(IntegerTensor(name, (65536,), PIXEL._replace(zero_point=128)) for name in ("a", "b"))
    y = IntegerTensor("y", (65536,), Grid(F(PIXEL.scale / F(ratio)), 0, -128, 127))
    multiplier = np.full(1, PIXEL.scale / y.grid.scale, F)
    node = IntegerAdd("y", entries, y, Requantize(multiplier, 0 if relu else -128, 127))
    a, b = np.meshgrid(np.arange(256, dtype=np.uint8), np.arange(256, dtype=np.uint8))
    nodes = tuple(IntegerInput(x.name, (), x) for x in entries)
    return IntegerGraph((*nodes, node), entries, (y,)), (a.reshape(1, -1), b.reshape(1, -1))


@pytest.mark.parametrize("ratio", [2.0**-12, 0.0023, 0.0313, 0.503, 1.017, 3.71, 100.3, 256.3, 3000.7, 2.0**17])
def test_additions_of_every_pair_of_codes(ratio: float, tmp_path: Path) -> None:
    """In and beyond the range of multipliers that XNNPACK takes."""
    for relu in (False, True):
        graph, pixels = addition(ratio, relu)
        assert_equal(graph, pixels, tmp_path)


def test_dead_inputs_and_outputs(tmp_path: Path) -> None:
    """Their scale is 2^-60: multipliers of 10^15 and of 10^-20, which no runtime takes, and the codes they give."""
    setup = calibrated(LeNet5(), images=4)
    params = setup.params | {"conv2.fake_quant.max": np.zeros((), F)}
    graph = qat.to_integer(setup.graph, params)
    assert (
        max(float(node.requantize.multiplier.max()) for node in graph.nodes if getattr(node, "requantize", None)) > 1e9
    )
    TFLITE.export(graph, tmp_path / "net.tflite")
    assert differences(graph, tmp_path / "net.tflite", setup.pixels, "float") == []
    assert len(np.unique(trace_codes(graph, setup.pixels, ["conv2"])["conv2"])) == 2


# -- the form of a file -----------------------------------------------------------------------------------------------


def test_the_form_of_lenet5(tmp_path: Path) -> None:
    path = tmp_path / "lenet.tflite"
    graph = calibrated(LeNet5()).integer
    TFLITE.export(graph, path)
    assert operators(path) == {"CONV_2D": 2, "MAX_POOL_2D": 2, "RESHAPE": 1, "FULLY_CONNECTED": 3}
    subgraph = model_of(path).subgraphs[0]
    x, y = (subgraph.tensors[index] for index in (subgraph.inputs[0], subgraph.outputs[0]))
    assert (x.name, x.shape.tolist(), x.type) == (b"input", [1, 32, 32, 1], schema.TensorType.INT8)
    assert x.quantization.zeroPoint[0] == graph.input.grid.zero_point - 128
    assert (y.name, y.shape.tolist(), y.type) == (b"fc3", [1, 10], schema.TensorType.INT8)
    kinds = Counter(tensor.type for tensor in subgraph.tensors)
    assert set(kinds) == {schema.TensorType.INT8, schema.TensorType.INT32}


@pytest.mark.parametrize(
    ("window", "expected"),
    [
        ({"pad_mode": "same"}, {"CONV_2D": 1}),
        ({"pad_mode": "same", "stride": 2}, {"CONV_2D": 1}),
        ({"pad_mode": "valid"}, {"CONV_2D": 1}),
        ({"pad_mode": "pad", "padding": 1}, {"CONV_2D": 1}),
        ({"pad_mode": "pad", "padding": 1, "stride": 2}, {"CONV_2D": 1, "PAD": 1}),
        ({"pad_mode": "pad", "padding": (0, 1, 0, 1), "stride": 2}, {"CONV_2D": 1}),
        ({"pad_mode": "pad", "padding": 2}, {"CONV_2D": 1, "PAD": 1}),
        ({"pad_mode": "same", "dilation": 2}, {"CONV_2D": 1}),
        ({"pad_mode": "same", "group": 4}, {"DEPTHWISE_CONV_2D": 1}),
        ({"pad_mode": "same", "group": 2}, {"CONV_2D": 1}),
        ({"pad_mode": "same", "activation": "relu"}, {"CONV_2D": 1}),
        ({"pad_mode": "same", "activation": "hswish"}, {"CONV_2D": 1, "CAST": 1, "ADD": 1, "GATHER": 1}),
    ],
    ids=str,
)
def test_padding_is_explicit_only_where_it_must_be(window: dict[str, Any], expected: object, tmp_path: Path) -> None:
    """8x8: a padding of 1 with stride 2 is not that of SAME, which pads after the image only."""
    setup = calibrated(Chain(qat.Input((4, 8, 8)), conv=qat.Conv2dBnAct(4, 4, 3, **window)), images=2)
    TFLITE.export(setup.integer, tmp_path / "net.tflite")
    assert operators(tmp_path / "net.tflite") == expected


def test_constants_are_aligned_and_the_digest_stands_last(tmp_path: Path) -> None:
    """The schema asks for multiples of 16, which microcontrollers read in place."""
    path = tmp_path / "net.tflite"
    TFLITE.export(calibrated(LeNet5()).integer, path)
    content = path.read_bytes()
    for buffer in model_of(path).buffers:
        if buffer.data is not None:
            data = buffer.data.tobytes()
            assert any(content[at : at + len(data)] == data for at in range(0, len(content), 16))
    assert len(content) % 16 == 0


def test_metadata_is_kept_and_changes_nothing_else(tmp_path: Path) -> None:
    setup = calibrated(LeNet5())
    path = tmp_path / "net.tflite"
    TFLITE.export(setup.integer, path)
    before = TFLITE.predict(path, setup.pixels)
    TFLITE.write_metadata(path, {"graph": "abc", "certificate": json.dumps({"a": "ä"}, ensure_ascii=False)})
    TFLITE.write_metadata(path, {"graph": "def"})
    assert TFLITE.read_metadata(path) == {"graph": "def", "certificate": '{"a": "ä"}', "arithmetic": "float"}
    np.testing.assert_array_equal(TFLITE.predict(path, setup.pixels), before)


def test_the_batch_that_litert_runs_changes_no_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    setup = calibrated(LeNet5(), images=7)
    TFLITE.export(setup.integer, tmp_path / "net.tflite")
    expected = TFLITE.predict(tmp_path / "net.tflite", setup.pixels)
    for batch in (1, 3):
        monkeypatch.setattr(tflite_target, "BATCH", batch)
        np.testing.assert_array_equal(TFLITE.predict(tmp_path / "net.tflite", setup.pixels), expected)


@pytest.mark.filterwarnings("ignore")
def test_smaller_and_sooner_than_tensorflows_converter(tmp_path: Path) -> None:
    """Of the same LeNet-5, with the same weights: no more bytes, and less than a tenth of the time."""
    tf = pytest.importorskip("tensorflow")
    setup = calibrated(LeNet5(), images=8)
    params, graph, layers = setup.params, setup.integer, tf.keras.layers
    convolutions = [layers.Conv2D(n, 5, activation="relu", use_bias=False) for n in (6, 16)]
    denses = [layers.Dense(120, activation="relu"), layers.Dense(84, activation="relu"), layers.Dense(10)]
    pools = [layers.MaxPooling2D(2) for _ in range(2)]
    body = [convolutions[0], pools[0], convolutions[1], pools[1], layers.Flatten(), *denses]
    keras = tf.keras.Sequential([layers.Input((32, 32, 1)), *body])
    for layer, name in zip(convolutions, ("conv1", "conv2"), strict=True):
        layer.set_weights([params[f"{name}.weight"].transpose(2, 3, 1, 0)])
    for layer, name in zip(denses, ("fc1", "fc2", "fc3"), strict=True):
        weight = params[f"{name}.weight"]
        if name == "fc1":
            weight = weight.reshape(120, 16, 5, 5).transpose(0, 2, 3, 1).reshape(120, 400)
        layer.set_weights([weight.T, params[f"{name}.bias"]])
    real = graph.input.grid.dequantize(setup.pixels).transpose(0, 2, 3, 1)
    begin = time.perf_counter()
    converter = tf.lite.TFLiteConverter.from_keras_model(keras)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([x[None]] for x in real)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = tf.int8
    converted = converter.convert()
    converting = time.perf_counter() - begin
    path = tmp_path / "net.tflite"
    exports = []
    for _ in range(3):  # the machine has other work
        begin = time.perf_counter()
        TFLITE.export(graph, path)
        exports.append(time.perf_counter() - begin)
    assert operators(path).total() <= len(schema.ModelT.InitFromPackedBuf(converted).subgraphs[0].operators)
    assert path.stat().st_size <= len(converted)
    assert min(exports) < 0.1 * converting


# -- certificates -----------------------------------------------------------------------------------------------------


class Certified(qat.Network):
    inputs = qat.Input((1, 8, 8), mean=0.5, std=0.25)

    def __init__(self) -> None:
        self.conv = qat.Conv2dBnAct(1, 4, 3, has_bias=True, activation="relu")
        self.pool, self.flatten = qat.MaxPool2d(2), qat.Flatten()
        self.hidden, self.fc = qat.DenseBnAct(64, 32, activation="relu"), qat.DenseBnAct(32, 10)

    def construct(self, x):
        return self.fc(self.hidden(self.flatten(self.pool(self.conv(x)))))


@pytest.fixture
def certified() -> tuple[qat.Checkpoint, Split]:
    setup = calibrated(Certified(), images=200)
    labels = np.random.default_rng(0).integers(0, 10, 200)
    return qat.Checkpoint(setup.graph, setup.params, 1, 1, {}, ()), Split(setup.pixels, labels)


@pytest.mark.parametrize("arithmetic", ARITHMETICS)
def test_the_certificate(arithmetic: str, certified: tuple[qat.Checkpoint, Split], tmp_path: Path) -> None:
    checkpoint, split = certified
    path = tmp_path / "net.tflite"
    certificate = export_verified(path, TFLITE, TORCH, checkpoint, split, data="noise", arithmetic=arithmetic)
    assert certificate.passed
    assert certificate.arithmetic == arithmetic
    deployed, trained = certificate.comparisons
    assert (deployed.codes, deployed.differ, deployed.arithmetic) == (2000, 0, arithmetic)
    assert ("XNNPACK" in deployed.engine) == (arithmetic == "float")
    assert ("reference kernels" in deployed.engine) == (arithmetic == "fixed")
    assert (trained.differ, trained.arithmetic) == (
        0,
        "float",
    )  # it computes in the float arithmetic whatever the file does
    assert (certificate.matrix[0][2] == 0) == (arithmetic == "float")
    assert trained.top1 is not None
    assert ("differ from the float arithmetic" in certificate.summary()) == (arithmetic == "fixed")
    kept = TFLITE.read_metadata(path)
    assert kept["graph"] == checkpoint.graph.digest
    assert json.loads(kept["certificate"])["arithmetic"] == arithmetic


@pytest.mark.parametrize("arithmetic", ARITHMETICS)
def test_a_changed_weight_is_detected_and_named(
    arithmetic: str, certified: tuple[qat.Checkpoint, Split], tmp_path: Path
) -> None:
    checkpoint, split = certified
    integers = qat.to_integer(checkpoint.graph, checkpoint.params)
    (position,) = (i for i, node in enumerate(integers.nodes) if node.name == "hidden")
    node = integers.nodes[position]
    weight = node.weight.copy()
    weight[:, 3] += 5 * (weight[:, 3] < 100)
    nodes = (*integers.nodes[:position], replace(node, weight=weight), *integers.nodes[position + 1 :])
    path = tmp_path / "net.tflite"
    TFLITE.export(replace(integers, nodes=nodes), path, arithmetic=arithmetic)
    certificate = verify(path, TFLITE, TORCH, checkpoint, split, data="noise", arithmetic=arithmetic)
    assert not certificate.passed
    assert certificate.comparisons[0].divergence.startswith("first at hidden, image ")


def test_a_arithmetic_that_a_target_does_not_have_is_refused(
    certified: tuple[qat.Checkpoint, Split], tmp_path: Path
) -> None:
    checkpoint, split = certified
    with pytest.raises(
        qat.QatError, match=r"^arithmetic 'fixed': files of ONNX have no such arithmetic, .*--file_format TFLITE"
    ):
        export_verified(tmp_path / "net.onnx", ONNX, TORCH, checkpoint, split, data="noise", arithmetic="fixed")
    assert not list(tmp_path.iterdir())
    with pytest.raises(qat.QatError, match=r"net\.tflite: arithmetic 'fast' is unknown; use one of float, fixed"):
        TFLITE.export(qat.to_integer(checkpoint.graph, checkpoint.params), tmp_path / "net.tflite", arithmetic="fast")


# -- refusals ---------------------------------------------------------------------------------------------------------


def test_affine_weights_that_do_not_fit_are_refused_by_name(tmp_path: Path) -> None:
    setup = calibrated(LeNet5(), symmetric=(False, False))
    with pytest.raises(qat.QatError) as caught:
        TFLITE.export(setup.integer, tmp_path / "net.tflite")
    message = str(caught.value)
    assert message.startswith("conv1: its weights have zero point ")
    assert message.endswith(
        "but TFLite stores int8 weights without a zero point; train it with symmetric=(True, ...), or export to ONNX"
    )
    assert not list(tmp_path.iterdir())


@pytest.fixture
def good(tmp_path: Path) -> Path:
    TFLITE.export(calibrated(LeNet5()).integer, tmp_path / "net.tflite")
    return tmp_path / "net.tflite"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: b"", "is no .tflite file: bytes 4 to 7 are b'', not b'TFL3'"),
        (lambda content: b"PK\x03\x04" + content, "is no .tflite file"),
        (lambda content: content[:-1], "its content is not what its digest says: it is damaged"),
        (lambda content: content[:5000] + b"\x01" + content[5001:], "its content is not what its digest says"),
        (lambda content: content[:8], "its content is not what its digest says"),
    ],
)
def test_a_damaged_file_is_refused_before_litert_reads_it(change: Any, message: str, good: Path) -> None:
    good.write_bytes(change(good.read_bytes()))
    pixels = np.zeros((1, 1, 32, 32), np.uint8)
    for read in (
        lambda: TFLITE.predict(good, pixels),
        lambda: TFLITE.trace(good, pixels, []),
        lambda: TFLITE.write_metadata(good, {}),
        lambda: TFLITE.read_metadata(good),
    ):
        with pytest.raises(qat.QatError) as caught:
            read()
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(qat.QatError, match=r"none\.tflite: cannot be read \(No such file"):
        TFLITE.predict(tmp_path / "none.tflite", np.zeros((1, 1, 32, 32), np.uint8))


@pytest.mark.parametrize("pixels", [np.zeros((1, 1, 28, 28), np.uint8), np.zeros((1, 1, 32, 32), np.float32)])
def test_pixels_of_another_shape_or_type_are_refused(pixels: np.ndarray, good: Path) -> None:
    with pytest.raises(qat.QatError, match=r"takes raw pixels, uint8 \(N, 1, 32, 32\), but got"):
        TFLITE.predict(good, pixels)


# -- float networks ---------------------------------------------------------------------------------------------------


class Named(qat.Network):
    """Two inputs; an output in the middle, one of a dense layer, and one that is an input."""

    inputs = (qat.Input((2, 6, 6)), qat.Input((3,)))

    def __init__(self) -> None:
        self.conv = qat.Conv2dBnAct(2, 4, 3, has_bn=True, activation="relu")
        self.flatten = qat.Flatten()
        self.fc = qat.DenseBnAct(4 * 36, 3)
        self.head = qat.DenseBnAct(3, 3)

    def construct(self, x, y):
        middle = self.conv(x)
        return middle, self.head(self.fc(self.flatten(middle))), y


def _names_of(tensors: Any) -> set[str]:
    """Every tensor has a name of its own, but for an input that leaves as it is."""
    names = [(tensor.name or b"").decode() for tensor in tensors]
    assert all(names)
    assert {name for name in names if names.count(name) > 1} <= {"input_1"}
    return set(names)


@pytest.mark.parametrize("arithmetic", ["float", "fixed"])
def test_names_and_the_signature(arithmetic: str, tmp_path: Path) -> None:
    setup = everything(Named())
    graph, pixels, path = setup.integer, as_tuple(setup.pixels), tmp_path / "net.tflite"
    TFLITE.export(graph, path, arithmetic=arithmetic)
    subgraph = model_of(path).subgraphs[0]
    names = _names_of(subgraph.tensors)
    assert {"conv.weight", "conv.bias", "fc.weight", "fc.bias", "head.weight", "input", "input_1"} <= names
    outputs = [x.name for x in graph.outputs]
    assert [subgraph.tensors[i].name.decode() for i in subgraph.inputs] == [x.name for x in graph.inputs]
    assert [subgraph.tensors[i].name.decode() for i in subgraph.outputs] == outputs
    resolver = OpResolverType.BUILTIN_REF if arithmetic == "fixed" else OpResolverType.AUTO
    interpreter = Interpreter(str(path), experimental_op_resolver_type=resolver)
    assert interpreter.get_signature_list() == {
        "serving_default": {"inputs": [x.name for x in graph.inputs], "outputs": sorted(outputs)}
    }
    stored = [(to_hwc(x) ^ 0x80).view(np.int8) for x in pixels]
    found = interpreter.get_signature_runner()(**dict(zip(["input", "input_1"], stored, strict=True)))
    assert set(found) == set(outputs)
    for x, codes in zip(graph.outputs, qat.evaluate(graph, pixels, arithmetic=arithmetic), strict=True):
        np.testing.assert_array_equal(to_chw(found[x.name]).astype(np.int32) - offset_of(x.grid), codes, x.name)
    traced = TFLITE.trace(path, pixels, graph.outputs, arithmetic=arithmetic)
    assert set(traced) == set(outputs) - {"input_1"}


def test_names_and_the_signature_of_a_float_file(tmp_path: Path) -> None:
    graph, path = Named().graph(), tmp_path / "net.tflite"
    params = graph.initial_params()
    TFLITE.export_float(graph, params, path)
    names = _names_of(model_of(path).subgraphs[0].tensors)
    assert {"conv.weight", "conv.bias", "fc.weight", "head.weight"} <= names
    pixels = tuple(np.random.default_rng(0).integers(0, 256, (2, *spec.shape), np.uint8) for spec in graph.input_specs)
    runner = Interpreter(str(path)).get_signature_runner("serving_default")
    found = runner(input=to_hwc(pixels[0]), input_1=pixels[1])
    assert set(found) == {"conv", "head", "input_1"}
    for name, y in zip(graph.outputs, TFLITE.predict(path, pixels), strict=True):
        np.testing.assert_array_equal(to_chw(found[name]), y)


@pytest.mark.parametrize("network", [LeNet5, Everything, Windows])
def test_a_float_file_computes_the_float_network(network: Any, tmp_path: Path) -> None:
    graph = network().graph()
    rng = np.random.default_rng(0)
    params = random_params(graph, rng, frozenset())
    pixels = tuple(rng.integers(0, 256, (5, *graph.shapes[x.name]), np.uint8) for x in graph.inputs)
    pixels = pixels[0] if len(pixels) == 1 else pixels
    TFLITE.export_float(graph, params, tmp_path / "float.tflite")
    expected = as_tuple(TORCH.predict(TORCH.lower(graph, params), pixels))
    found = as_tuple(TFLITE.predict(tmp_path / "float.tflite", pixels))
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_a_quantized_network_is_no_float_network(tmp_path: Path) -> None:
    setup = calibrated(LeNet5())
    with pytest.raises(qat.QatError, match=r"^LeNet5 is quantized: give the checkpoint of the float network"):
        TFLITE.export_float(setup.graph, setup.params, tmp_path / "float.tflite")


@pytest.mark.parametrize("m", [0.5, 0.25])
def test_sums_that_tie_are_refused_in_the_float_arithmetic(m: float, tmp_path: Path) -> None:
    """With scales that are powers of two they stay; XNNPACK rounds them away from even."""

    class Doubled(qat.Network):
        inputs = qat.Input((1, 4, 4), mean=0.5, std=0.3)

        def __init__(self) -> None:
            self.conv, self.add = qat.Conv2dBnAct(1, 2, 1), qat.Add()

        def construct(self, x):
            x = self.conv(x)
            return self.add(x, x)

    graph = qat.convert_quant_network(Doubled(), profile="ascend")
    params = graph.observed_params() | {
        "add.fake_quant.max": np.float32(1 / m),
        "add.fake_quant.min": np.float32(-1 / m),
    }
    integers = qat.to_integer(graph, params)
    assert float(integers.nodes[-1].requantize.multiplier[0]) == m
    with pytest.raises(
        qat.QatError, match=r"^add: the sums of some codes lie half way .* export with --arithmetic fixed"
    ):
        TFLITE.export(integers, tmp_path / "net.tflite")
    TFLITE.export(integers, tmp_path / "net.tflite", arithmetic="fixed")
    pixels = np.random.default_rng(0).integers(0, 256, (64, 1, 4, 4), np.uint8)
    codes = integers.output.grid.codes_of(TFLITE.predict(tmp_path / "net.tflite", pixels, arithmetic="fixed"))
    np.testing.assert_array_equal(codes, qat.evaluate(integers, pixels, arithmetic="fixed"))


def test_a_file_is_verified_in_the_arithmetic_that_it_was_exported_for(
    certified: tuple[qat.Checkpoint, Split], tmp_path: Path
) -> None:
    checkpoint, split = certified
    for arithmetic in ARITHMETICS:
        TFLITE.export(
            qat.to_integer(checkpoint.graph, checkpoint.params), tmp_path / "net.tflite", arithmetic=arithmetic
        )
        assert TFLITE.arithmetic_of(tmp_path / "net.tflite") == arithmetic
        certificate = verify(tmp_path / "net.tflite", TFLITE, TORCH, checkpoint, split, data="noise")
        assert certificate.passed
        assert [certificate.arithmetic, *(x.arithmetic for x in certificate.comparisons)] == [
            arithmetic,
            arithmetic,
            "float",
        ]


def test_two_threads_may_predict_two_files(tmp_path: Path) -> None:
    """LiteRT runs in one process for both; each thread's pixels are computed from its own file."""
    setups = [calibrated(LeNet5(), seed=seed, images=250) for seed in range(2)]
    pixels, paths = setups[0].pixels, [tmp_path / "0.tflite", tmp_path / "1.tflite"]
    for setup, path in zip(setups, paths, strict=True):
        TFLITE.export(setup.integer, path)
    expected = [TFLITE.predict(path, pixels) for path in paths]
    assert not np.array_equal(*expected)
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda number: TFLITE.predict(paths[number % 2], pixels), range(12)))
    for number, outputs in enumerate(found):
        np.testing.assert_array_equal(outputs, expected[number % 2])
