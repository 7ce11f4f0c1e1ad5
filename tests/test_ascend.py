"""The Ascend formats: the codes they compute when emulated, what they refuse, and what their validator finds."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import qat
from qat import wire
from qat.backends.torch.ops import TorchOps
from qat.cli import main
from qat.deploy.verify import export_verified, verify
from qat.integer import IntegerAdd, IntegerGraph, IntegerLinear, IntegerTable, trace_codes
from qat.networks import LeNet5
from qat.networks.resnet import ResNet8
from qat.passes.quant_config import read_quant_config
from qat.targets.ascend import lower as ascend
from qat.targets.ascend import unit
from qat.targets.ascend.air import target as air_target
from qat.targets.ascend.air.file import parse
from qat.targets.ascend.air.model import Descriptor
from qat.targets.ascend.air.writer import write_model
from qat.targets.ascend.onnx import target as ascend_onnx_target
from qat.training.forward import Forward
from qat.vocabulary.numpy_ops import NUMPY_OPS

Array = npt.NDArray[Any]
F = np.float32
TARGETS = {"ASCEND_ONNX": (ascend_onnx_target, ".ascend.onnx"), "AIR": (air_target, ".air")}
BOTH = pytest.mark.parametrize("file_format", TARGETS)
LENET_BYTES = 61_684 + 8_192  #: a byte for each parameter, and for structure and certificate together 8 KiB


def observed(
    network: qat.Network | qat.Graph, seed: int = 0, images: int = 4, **options: Any
) -> tuple[qat.Graph, dict[str, Array], tuple[Array, ...]]:
    """A converted network (profile "ascend") with random parameters and the ranges of some random pixels."""
    graph = qat.convert_quant_network(network, **({"profile": "ascend"} | options))
    rng = np.random.default_rng(seed)
    params = graph.initial_params(seed)
    for name, value in params.items():
        if name.endswith((".bias", ".beta", ".moving_mean")):
            params[name] = rng.normal(0, 0.3, value.shape).astype(F)
        elif name.endswith((".gamma", ".moving_variance")):
            params[name] = rng.uniform(0.5, 1.5, value.shape).astype(F)
    pixels = tuple(rng.integers(0, 256, (images, *graph.shapes[x.name]), np.uint8) for x in graph.inputs)
    return graph, params | ranges(graph, params, pixels), pixels


def ranges(graph: qat.Graph, params: dict[str, Array], pixels: tuple[Array, ...]) -> dict[str, Array]:
    """What the fake quantizers see in one pass."""
    tensors = {name: NUMPY_OPS.from_numpy(params[name], param.kind) for name, param in graph.params.items()}
    inputs = tuple(x.astype(F) for x in pixels)
    _, updates = Forward(graph, NUMPY_OPS)(tensors, inputs, training=True, phase=1 << 30)
    seen = {name: np.asarray(value, F).reshape(params[name].shape) for name, value in updates.items()}
    return {name: value for name, value in seen.items() if name.endswith((".min", ".max"))}


def integers(network: qat.Network, **options: Any) -> tuple[IntegerGraph, tuple[Array, ...]]:
    graph, params, pixels = observed(network, **options)
    return qat.to_integer(graph, params), pixels


def assert_equal_everywhere(graph: IntegerGraph, pixels: tuple[Array, ...], tmp_path: Path) -> None:
    """Every code of every node, and every output, in both formats."""
    images: Any = pixels if len(pixels) > 1 else pixels[0]
    tensors = [node.output for node in graph.nodes]
    expected = trace_codes(graph, images, [x.name for x in tensors])
    entries = {x.name for x in graph.inputs}
    for name, (target, suffix) in TARGETS.items():
        path = tmp_path / f"net{suffix}"
        target.export(graph, path)
        found = target.trace(path, images, tensors)
        assert found.keys() == {x.name for x in tensors} - entries
        for key, codes in found.items():
            np.testing.assert_array_equal(codes, expected[key], err_msg=f"{name}: {key}")
        real = target.predict(path, images)
        for x, numbers in zip(graph.outputs, real if isinstance(real, tuple) else (real,), strict=True):
            assert numbers.dtype == F
            np.testing.assert_array_equal(x.grid.codes_of(numbers), expected[x.name])


class Small(qat.Network):
    """Batch norm on its own and folded, groups, dilation, an uneven pooling, an addition, a concatenation, relu6."""

    def __init__(self) -> None:
        self.inputs = qat.Input((3, 11, 9), mean=0.4, std=0.25)
        self.norm = qat.BatchNorm(3)
        self.conv1 = qat.Conv2dBnAct(3, 8, 3, has_bn=True, activation="relu")
        self.grouped = qat.Conv2dBnAct(8, 8, 3, group=4, dilation=(2, 1), has_bias=True, activation="relu6")
        self.straight = qat.Conv2dBnAct(8, 8, 1, has_bn=True)
        self.add = qat.Add(activation="relu")
        self.plain_add = qat.Add()
        self.pool = qat.MaxPool2d(3, 2, "pad", (1, 0, 1, 1))
        self.concat = qat.Concat()
        self.mean = qat.AvgPool2d(2, 2)
        self.flatten = qat.Flatten()
        self.fc1 = qat.DenseBnAct(16 * 2 * 2, 10, has_bn=True, activation="relu")
        self.fc2 = qat.DenseBnAct(10, 5)

    def construct(self, x):
        x = self.conv1(self.norm(x))
        x = self.add(self.grouped(x), self.straight(x))
        x = self.pool(self.concat(x, self.plain_add(x, self.grouped(x))))
        return self.fc2(self.fc1(self.flatten(self.mean(x))))


class Chain(qat.Network):
    """Cells one after another."""

    def __init__(self, inputs: qat.Input, *cells: qat.Cell) -> None:
        self.inputs, self.cells = inputs, list(cells)

    def construct(self, x):
        for cell in self.cells:
            x = cell(x)
        return x


class TwoEnds(qat.Network):
    """Two inputs and two outputs."""

    def __init__(self) -> None:
        self.inputs = (qat.Input((2, 4, 4), mean=0.5), qat.Input((2, 4, 4), std=0.3))
        self.conv = qat.Conv2dBnAct(2, 3, 3)
        self.add = qat.Add()
        self.pool = qat.MaxPool2d(2)

    def construct(self, a, b):
        y = self.add(self.conv(a), self.conv(b))
        return y, self.pool(y)


def dense(inputs: int = 6, **fields: Any) -> Chain:
    return Chain(qat.Input((inputs, 1, 1)), qat.Flatten(), qat.DenseBnAct(inputs, 4, **fields))


# -- the same codes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("network", [LeNet5, Small, ResNet8, TwoEnds])
def test_every_code_is_equal(network: type[qat.Network], tmp_path: Path) -> None:
    assert_equal_everywhere(*integers(network()), tmp_path)


@pytest.mark.parametrize("options", [{"num_bits": (4, 8)}, {"num_bits": (8, 5)}, {"narrow_range": True}])
def test_fewer_bits_and_a_narrow_range_are_clipped(options: dict[str, Any], tmp_path: Path) -> None:
    assert_equal_everywhere(*integers(Small(), **options), tmp_path)


@settings(max_examples=20)
@given(
    seed=st.integers(0, 1 << 16),
    group=st.sampled_from([1, 2, 4]),
    stride=st.integers(1, 2),
    pad_mode=st.sampled_from(["same", "valid"]),
    activation=st.sampled_from([None, "relu", "relu6"]),
    pooling=st.sampled_from([qat.MaxPool2d, qat.AvgPool2d]),
    pool_mode=st.sampled_from(["same", "valid"]),
    mean=st.floats(0, 1),
    std=st.floats(0.05, 3),
)
def test_small_networks_drawn_at_random(
    tmp_path_factory: pytest.TempPathFactory,
    seed: int,
    group: int,
    stride: int,
    pad_mode: str,
    activation: str | None,
    pooling: Any,
    pool_mode: str,
    mean: float,
    std: float,
) -> None:
    network = Chain(
        qat.Input((4, 9, 8), mean, std),
        qat.Conv2dBnAct(4, 8, 3, stride, pad_mode, group=group, has_bias=True, activation=activation),
        pooling(2, 1, pool_mode),
        qat.Conv2dBnAct(8, 6, (2, 1), has_bn=True, activation=activation),
        qat.GlobalAvgPool2d(),
        qat.Flatten(),
        qat.DenseBnAct(6, 3),
    )
    assert_equal_everywhere(*integers(network, seed=seed), tmp_path_factory.mktemp("random"))


@pytest.mark.parametrize("function", ["relu", "relu6"])
def test_a_rectifier_of_codes_needs_no_table(function: str, tmp_path: Path) -> None:
    cells = qat.Conv2dBnAct(2, 4, 3), qat.Activation(function), qat.MaxPool2d(2), qat.Activation("relu")
    assert_equal_everywhere(*integers(Chain(qat.Input((2, 6, 6), std=0.1), *cells)), tmp_path)


def test_an_input_that_nothing_uses_enters_all_the_same(tmp_path: Path) -> None:
    class Ignores(TwoEnds):
        def construct(self, a, b):
            return self.conv(b)

    assert_equal_everywhere(*integers(Ignores()), tmp_path)


def test_sums_beyond_float32_are_exact(tmp_path: Path) -> None:
    graph, params, pixels = observed(dense(3000))
    name = next(name for name in params if name.endswith(".weight"))
    params[name] = np.full_like(params[name], 1.0)
    pixels = (np.full_like(pixels[0], 255),)
    params |= ranges(graph, params, pixels)
    integer = qat.to_integer(graph, params)
    assert any(isinstance(node, IntegerLinear) and node.wide for node in integer.nodes)
    assert_equal_everywhere(integer, pixels, tmp_path)


def test_every_scale_is_a_power_of_two_and_two_roundings_are_one() -> None:
    """For all accumulators that are not clipped, not only for those that images reach."""
    integer, _ = integers(Small())
    linear = [node for node in integer.nodes if isinstance(node, IntegerLinear)]
    assert len(linear) == 8
    for node in linear:
        for x in (*node.inputs, node.output):
            assert math.frexp(float(x.grid.scale))[0] == 0.5
            assert x.grid.zero_point == 0
        m = node.requantize.multiplier
        reach = min(int(130 / float(m.min())), 200_000)
        acc = np.arange(-reach, reach + 1, dtype=np.int32)[:, None] * np.ones(len(m), np.int32)
        once = np.clip(np.rint(acc.astype(F) * m), -128, 127)
        twice = unit.quantize(unit.dequantize(acc, ascend.dequant_scale(node)), 1 / float(node.output.grid.scale), 0)
        np.testing.assert_array_equal(once, twice)


def test_a_free_scale_would_give_other_codes() -> None:
    """Why the profile asks for powers of two: with s_y = 0.07 the second rounding moves some accumulators across a tie."""
    deq, s_y = F(0.0007), F(0.07)
    acc = np.arange(-13_000, 13_000).astype(np.int32)[:, None]
    once = np.clip(np.rint(acc.astype(F) * F(deq / s_y)), -128, 127)
    bits = np.array([deq]).view(np.uint32).astype(np.uint64)
    assert (once != unit.quantize(unit.dequantize(acc, bits), float(F(1) / s_y), 0.0)).any()


def test_the_first_quantizer_gives_the_table_s_codes_for_every_pixel() -> None:
    for mean, std in [(0.1307, 0.3081), (0.4734, 0.2516), (0.0, 1.0), (1.0, 0.5), (0.5, 1 / 255), (0.3, 2 / 255)]:
        integer, _ = integers(Chain(qat.Input((1, 16, 16), mean, std), qat.Conv2dBnAct(1, 2, 3)))
        (node,) = (node for node in integer.nodes if isinstance(node, IntegerTable))
        multiplier = ascend.input_multiplier(node)
        assert multiplier is not None
        zero = integer.input.grid.zero_point
        centred = np.arange(256, dtype=F) - F(zero)
        np.testing.assert_array_equal(unit.quantize(centred, float(multiplier), 0.0), node.table)


def test_the_ties_of_a_sum_are_left_where_every_scale_is_a_power_of_two() -> None:
    integer, _ = integers(Small())
    sums = [node for node in integer.nodes if isinstance(node, IntegerAdd)]
    assert sums
    for node in sums:
        assert math.frexp(float(node.requantize.multiplier[0]))[0] == 0.5


@pytest.mark.parametrize("ops", [NUMPY_OPS, TorchOps()], ids=["numpy", "torch"])
def test_the_smallest_power_of_two_above(ops: Any) -> None:
    powers = (2.0 ** np.arange(-60, 64)).astype(F)
    for x, expected in [
        (powers, powers),
        (np.nextafter(powers, F(np.inf)), 2 * powers),
        (np.nextafter(powers, F(0)), powers),
    ]:
        found = ops.to_numpy(ops.power_of_two_above(ops.from_numpy(x, "vector")), "vector")
        np.testing.assert_array_equal(found, expected)


# -- the files ------------------------------------------------------------------------------------------------------------


@BOTH
def test_lenet_fits_into_its_parameters_and_eight_kilobytes(
    file_format: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph, params, pixels = observed(LeNet5())
    target, suffix = TARGETS[file_format]
    monkeypatch.chdir(tmp_path)
    path = Path(f"lenet{suffix}")  # as its certificate names it, more than once
    split = qat.data.Split(pixels[0], np.zeros(len(pixels[0]), np.int64))
    backend, checkpoint = qat.backend("torch"), qat.Checkpoint(graph, params)
    certificate = export_verified(path, target, backend, checkpoint, split, data="random pixels")
    assert certificate.passed
    assert "mulat" in certificate.summary()
    assert "not " in target.runtime()
    assert path.stat().st_size <= LENET_BYTES
    assert b"random pixels" in path.read_bytes()


def test_the_onnx_file_is_what_ascend_s_own_tool_writes(tmp_path: Path) -> None:
    integer, _ = integers(LeNet5())
    path = tmp_path / "lenet.ascend.onnx"
    ascend_onnx_target.export(integer, path)
    model = onnx.load(str(path))
    constants = {x.name: onnx.numpy_helper.to_array(x) for x in model.graph.initializer}
    (opset,) = model.opset_import
    assert (opset.domain, opset.version) == ("", 17)
    kinds = [node.op_type for node in model.graph.node]
    assert kinds.count("AscendQuant") == 6
    assert kinds[:9] == [
        "Cast",
        "Sub",
        "AscendQuant",
        "Conv",
        "AscendDequant",
        "Relu",
        "MaxPool",
        "AscendQuant",
        "Conv",
    ]
    for node in model.graph.node:
        if node.op_type in ("Conv", "Gemm"):
            assert [constants[name].dtype for name in node.input[1:]] == [np.int8, np.int32]
        if node.op_type == "AscendDequant":
            scales = constants[node.input[1]]
            assert scales.dtype == np.uint64
            assert (scales >> np.uint64(32) == 0).all()
        if node.op_type == "AscendQuant":
            given = {x.name: onnx.helper.get_attribute_value(x) for x in node.attribute}
            assert given["offset"] == 0.0
            assert given["dst_type"] == b"INT8"
            assert node.domain == ""


@BOTH
def test_one_changed_weight_is_detected(file_format: str, tmp_path: Path) -> None:
    graph, params, pixels = observed(dense(activation="relu"), images=30)
    target, suffix = TARGETS[file_format]
    path = tmp_path / f"net{suffix}"
    integer = qat.to_integer(graph, params)
    target.export(integer, path)
    split = qat.data.Split(pixels[0], np.zeros(len(pixels[0]), np.int64))
    backend, checkpoint = qat.backend("torch"), qat.Checkpoint(graph, params)
    assert verify(path, target, backend, checkpoint, split, data="random").passed
    content = path.read_bytes()
    (weight,) = (node.weight for node in integer.nodes if isinstance(node, IntegerLinear))
    data = weight.tobytes()
    assert content.count(data) == 1
    changed = np.frombuffer(data, np.int8).copy()
    changed[0] = -changed[0] or 100
    path.write_bytes(content.replace(data, changed.tobytes()))
    certificate = verify(path, target, backend, checkpoint, split, data="random")
    assert not certificate.passed
    assert "first at cells.1, image " in certificate.summary()


@BOTH
def test_metadata_leaves_the_rest_as_it_is(file_format: str, tmp_path: Path) -> None:
    integer, pixels = integers(dense())
    target, suffix = TARGETS[file_format]
    path = tmp_path / f"net{suffix}"
    target.export(integer, path)
    before = target.predict(path, pixels[0])
    target.write_metadata(path, {"graph": "a", "certificate": "b"})
    target.write_metadata(path, {"graph": "new one"})
    content = path.read_bytes()
    assert content.count(b"qat.graph") == content.count(b"new one") == content.count(b"qat.certificate") == 1
    np.testing.assert_array_equal(before, target.predict(path, pixels[0]))


@BOTH
def test_the_commands(file_format: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = ["--data_path", "digits", "--epochs", "1"]
    assert main(["train", *common, "--save_path", str(tmp_path / "a.ckpt")]) == 0
    quantize = ["train-quant", *common, "--ckpt_path", str(tmp_path / "a.ckpt"), "--quant_delay", "5"]
    assert main([*quantize, "--profile", "ascend"]) == 0
    checkpoint, model = str(tmp_path / "a_quant.ckpt"), str(tmp_path / "net")
    assert main(["export", "--ckpt_path", checkpoint, "--file_format", file_format, "--file_name", model]) == 0
    model += TARGETS[file_format][1]
    assert main(["verify", "--model", model, "--ckpt_path", checkpoint, "--data_path", "digits"]) == 0
    assert "3,600 codes compared" in capsys.readouterr().out
    arguments = ["export", "--ckpt_path", str(tmp_path / "a.ckpt"), "--float", "--file_format", file_format]
    assert main([*arguments, "--file_name", str(tmp_path / "float")]) == 2
    assert f"{file_format}: it holds quantized networks only" in capsys.readouterr().err


def test_the_profile_is_a_key_of_the_settings_file(tmp_path: Path) -> None:
    (tmp_path / "quant.yaml").write_text("profile: ascend\n", encoding="utf-8")
    settings = read_quant_config(tmp_path / "quant.yaml")
    graph = qat.convert_quant_network(LeNet5(), **settings)
    assert graph == qat.convert_quant_network(LeNet5(), profile="ascend")
    assert qat.Graph.from_json(graph.to_json()) == graph


# -- refusals -------------------------------------------------------------------------------------------------------------


def weights(graph: qat.Graph, **fields: Any) -> qat.Graph:
    """The graph with other weight quantizers."""
    nodes = []
    for node in graph.nodes:
        cell: Any = node.cell
        if getattr(cell, "weight_quantizer", None) is not None:
            cell = replace(cell, weight_quantizer=replace(cell.weight_quantizer, **fields))
        nodes.append(replace(node, cell=cell))
    return qat.Graph(tuple(nodes), graph.outputs, graph.name)


def refused(graph: qat.Graph, file_format: str, tmp_path: Path) -> str:
    """The message of an export."""
    params = graph.initial_params()
    params |= ranges(graph, params, tuple(np.full((1, *graph.shapes[x.name]), 255, np.uint8) for x in graph.inputs))
    target, suffix = TARGETS[file_format]
    path = tmp_path / f"net{suffix}"
    with pytest.raises(qat.QatError) as caught:
        target.export(qat.to_integer(graph, params), path)
    message = str(caught.value)
    assert "\n" not in message
    assert not path.exists()
    return message


@BOTH
def test_a_network_of_the_default_profile_is_refused(file_format: str, tmp_path: Path) -> None:
    message = refused(qat.convert_quant_network(LeNet5()), file_format, tmp_path)
    assert message.startswith(
        f"input: {file_format}: its codes are 0 .. 255 with zero point 33, where Ascend's are int8"
    )
    assert "profile='ascend'" in message


@BOTH
def test_an_asymmetric_activation_is_refused(file_format: str, tmp_path: Path) -> None:
    graph = qat.convert_quant_network(dense(activation=None), profile="ascend")
    nodes = list(graph.nodes)
    nodes[-1] = replace(nodes[-1], cell=qat.FakeQuant(qat.ActivationQuantizer()))
    message = refused(qat.Graph(tuple(nodes), graph.outputs), file_format, tmp_path)
    assert message.startswith(f"cells.1: {file_format}: its codes are 0 .. 255 with zero point ")
    assert "profile='ascend'" in message


@BOTH
def test_a_scale_that_is_no_power_of_two_is_refused(file_format: str, tmp_path: Path) -> None:
    graph = qat.convert_quant_network(dense(), profile="ascend")
    nodes = list(graph.nodes)
    nodes[-1] = replace(nodes[-1], cell=qat.FakeQuant(qat.ActivationQuantizer(symmetric=True)))
    message = refused(qat.Graph(tuple(nodes), graph.outputs), file_format, tmp_path)
    assert message.startswith(f"cells.1: {file_format}: its codes have the scale ")
    assert "no power of two" in message


@BOTH
def test_a_dense_weight_per_channel_is_refused(file_format: str, tmp_path: Path) -> None:
    graph = weights(qat.convert_quant_network(dense(), profile="ascend"), per_channel=True)
    message = refused(graph, file_format, tmp_path)
    assert message.startswith(f"cells.1: {file_format}: its dense weight has 4 scales, one for each channel")


@BOTH
def test_an_affine_weight_is_refused(file_format: str, tmp_path: Path) -> None:
    graph = weights(qat.convert_quant_network(dense(), profile="ascend"), symmetric=False)
    assert f"cells.1: {file_format}: its weight has zero point " in refused(graph, file_format, tmp_path)


@BOTH
@pytest.mark.parametrize("function", ["sigmoid", "tanh", "leaky_relu"])
def test_a_table_is_refused(file_format: str, function: str, tmp_path: Path) -> None:
    message = refused(qat.convert_quant_network(dense(activation=function), profile="ascend"), file_format, tmp_path)
    assert message.startswith(
        f"cells.1.{function}: {file_format}: a table of codes, as of an activation other than relu"
    )
    assert "export to ONNX" in message


@BOTH
def test_a_softmax_is_refused(file_format: str, tmp_path: Path) -> None:
    network = Chain(qat.Input((6, 1, 1)), qat.Flatten(), qat.DenseBnAct(6, 4), qat.Softmax())
    message = refused(qat.convert_quant_network(network, profile="ascend"), file_format, tmp_path)
    assert message.startswith(f"cells.2: {file_format}: a softmax has no form of int8 codes on Ascend; export to ONNX")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"profile": "huawei"}, "profile is 'huawei'; use one of 'default', 'ascend'"),
        ({"symmetric": False}, "symmetric is False for weights"),
        (
            {"layers": {"cells.1": {"symmetric": (True, False)}}},
            "cells.1: profile 'ascend': symmetric is False for act",
        ),
        ({"layers": {"cells.1": {"per_channel": (True, False)}}}, "cells.1: profile 'ascend': per_channel is True"),
        ({"bn_fold": False}, "cells.1: profile 'ascend': bn_fold is False, which gives each channel a scale"),
    ],
)
def test_settings_that_contradict_the_profile_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(qat.QatError) as caught:
        qat.convert_quant_network(dense(has_bn=True), **({"profile": "ascend"} | options))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


# -- the validator --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small_air(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes, Array]:
    """A file, its content, and pixels for it."""
    integer, pixels = integers(
        Chain(qat.Input((2, 5, 5)), qat.Conv2dBnAct(2, 3, 3), qat.MaxPool2d(2, 1), qat.Flatten())
    )
    path = tmp_path_factory.mktemp("air") / "net.air"
    air_target.export(integer, path)
    return path, path.read_bytes(), pixels[0]


def edited(content: bytes, **changes: Any) -> bytes:
    """The file with fields of some operators replaced, by the operator's name (with _ for what stands in no identifier)."""
    model = parse(content, "net.air")
    operators = []
    for operator in model.operators:
        own = changes.get("".join(c if c.isalnum() else "_" for c in operator.name), {})
        operators.append(replace(operator, **(own(operator) if callable(own) else own)))
    return write_model(model.name, operators, {})


def test_a_file_that_is_written_anew_is_the_same(small_air: tuple[Path, bytes, Array]) -> None:
    assert edited(small_air[1]) == small_air[1]


def attribute(**values: Any) -> Any:
    return lambda operator: {"attributes": dict(operator.attributes) | values}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cells_0_real": {"name": "cells.0/acc"}}, "two operators are called 'cells.0/acc'"),
        ({"cells_0_real": {"inputs": ("nowhere", "cells.0/real/scale")}}, "takes 'nowhere', which is no operator before"),
        ({"cells_0_acc": {"inputs": ("input/centred", "cells.0/acc/weight", "cells.0/acc/bias")}}, "takes int8 [1, 2, 5, 5]"),
        ({"cells_0_acc": lambda x: {"inputs": x.inputs[:2], "takes": x.takes[:2]}}, "has 2 inputs"),
        ({"cells_0_acc": attribute(strides=[1, 1, 0, 1])}, "has strides [1, 1, 0, 1], which is out of place"),
        ({"cells_0_acc": attribute(strides=[1, 1, 2, 2])}, "gives int32 [1, 3, 3, 3], but is described as int32 [1, 3, 5, 5]"),
        ({"cells_0_acc": attribute(pads=[1 << 62, 1, 1, 1])}, "is no AIR file of qat export"),
        ({"cells_0_acc": attribute(groups=2)}, "is no AIR file of qat export"),
        ({"cells_0_acc": attribute(offset_x=True)}, "has offset_x True, which is out of place"),
        ({"cells_0_acc": attribute(more=1)}, "has attributes ["),
        ({"cells_1_quant": attribute(dst_type=3)}, "has dst_type 3"),
        ({"cells_1_quant": attribute(scale=0.0)}, "has scale 0.0"),
        ({"cells_1_quant": attribute(offset=1.0)}, "has offset 1.0"),
        ({"cells_0_acc_bias": lambda x: attribute(value=x.attributes["value"][:2])(x)},
         "gives int32 [2], but is described as int32 [3]"),
        ({"cells_0_acc_bias": lambda x: attribute(value=x.attributes["value"].astype(F))(x)},
         "gives float32 [3], but"),
        ({"cells_2_quant": lambda x: {"gives": (Descriptor(np.dtype("<f4"), (1, 48)),)}}, "gives float32, not int8"),
        ({"input": attribute(index=1)}, "its inputs are numbered [1]"),
    ],
)  # fmt: skip
def test_the_validator_finds(changes: dict[str, Any], message: str, small_air: tuple[Path, bytes, Array]) -> None:
    path, content, pixels = small_air
    path.write_bytes(edited(content, **changes))
    with pytest.raises(qat.QatError) as caught:
        air_target.predict(path, pixels)
    assert message in str(caught.value)
    assert str(caught.value).startswith(f"{path}: is no AIR file of qat export, or a damaged one (")
    assert "\n" not in str(caught.value)


def failure(target: Any, path: Path, pixels: Array) -> str | None:
    """The message of a prediction, None where it gives numbers."""
    try:
        target.predict(path, pixels)
    except qat.QatError as error:
        return str(error)
    return None


def test_a_port_that_is_not_there_and_missing_bytes_are_found(small_air: tuple[Path, bytes, Array]) -> None:
    path, content, pixels = small_air
    for old, new, message in [
        (b"cells.0/acc:0", b"cells.0/acc:1", "is no output 0 of an operator"),
        (b"cells.0/acc:0", b"cells.0/acc.0", "is no output 0 of an operator"),
        (b"Conv2D", b"Conv3D", "has type 'Conv3D'; known are Data, Const"),
    ]:
        assert content.count(old) == 1
        path.write_bytes(content.replace(old, new))
        with pytest.raises(qat.QatError, match=message):
            air_target.predict(path, pixels)
    path.write_bytes(wire.block(1, "x"))
    with pytest.raises(qat.QatError, match="it holds 0 graphs"):
        air_target.predict(path, pixels)


@settings(max_examples=300)
@given(data=st.data())
def test_a_damaged_file_gives_one_line(small_air: tuple[Path, bytes, Array], data: st.DataObject) -> None:
    """Bytes changed, left out or put in, or the end cut off: numbers, or one line of QatError."""
    path, content, pixels = small_air
    damaged = bytearray(content)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(damaged) - 1))
        match data.draw(st.sampled_from(["change", "cut", "leave out", "put in"])):
            case "change":
                damaged[at] = data.draw(st.integers(0, 255))
            case "cut":
                del damaged[at + 1 :]
            case "leave out":
                del damaged[at]
            case "put in":
                damaged.insert(at, data.draw(st.integers(0, 255)))
        damaged = damaged or bytearray(b"0")
    path.write_bytes(bytes(damaged))
    message = failure(air_target, path, pixels)
    assert message is None or ("\n" not in message and str(path) in message)


@settings(max_examples=50)
@given(at=st.integers(0, 4000), value=st.integers(0, 255), cut=st.booleans())
def test_a_damaged_onnx_file_gives_one_line(
    tmp_path_factory: pytest.TempPathFactory, at: int, value: int, cut: bool
) -> None:
    integer, pixels = integers(dense())
    path = tmp_path_factory.mktemp("onnx") / "net.ascend.onnx"
    ascend_onnx_target.export(integer, path)
    content = bytearray(path.read_bytes())
    at %= len(content)
    content[at] = value
    path.write_bytes(bytes(content[: at + 1] if cut else content))
    message = failure(ascend_onnx_target, path, pixels[0])
    assert message is None or ("\n" not in message and str(path) in message)


@BOTH
def test_pixels_of_another_shape_are_refused(file_format: str, tmp_path: Path) -> None:
    integer, _ = integers(dense())
    target, suffix = TARGETS[file_format]
    target.export(integer, tmp_path / f"net{suffix}")
    with pytest.raises(qat.QatError):
        target.predict(tmp_path / f"net{suffix}", np.zeros((1, 7, 1, 1), np.uint8))
    with pytest.raises(qat.QatError, match="cannot be read"):
        target.predict(tmp_path / f"none{suffix}", np.zeros((1, 6, 1, 1), np.uint8))


def test_the_wire_format_holds_any_number() -> None:
    for value in (0, 1, 127, 128, 1 << 40, (1 << 63) - 1, -1, -(1 << 63)):
        assert wire.integers(wire.varint(value)) == [value]
    fields = wire.read(wire.integer(3, 300) + wire.block(16, "a") + wire.real(4, 1.5) + wire.integer(3, -2))
    assert fields == {3: [300, (1 << 64) - 2], 16: [b"a"], 4: [b"\x00\x00\xc0?"]}
    for damaged in (b"\x80", b"\x0a\x05ab", b"\x0b", b"\xff" * 11, b"\x0d\x00"):
        with pytest.raises(ValueError):  # noqa: PT011
            wire.read(damaged)
