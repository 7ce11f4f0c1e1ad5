"""Layers that are left in float: what they are in training, in files, and in the certificate."""

from __future__ import annotations

import json
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import test_zoo
from calibrations import calibrate
from every_cell import EXAMPLES, Around
from frameworks import HERE
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

import qat
from qat.analysis.compression import compress
from qat.cells.base import pair
from qat.cells.fake_quant import FakeQuant
from qat.cli import main
from qat.data import Split, load
from qat.deploy.certificate import Certificate
from qat.deploy.verify import Engine, backend_engine, compare, export_verified, file_engine, verify
from qat.errors import QatWarning
from qat.integer import FloatLayer, IntegerGraph, IntegerLinear, trace_codes
from qat.integer.float_layer import TOLERANCE
from qat.networks import LeNet5
from qat.passes.float_layers import may_stay_float
from qat.passes.quant_config import read_quant_config
from qat.vocabulary.arrays import as_arrays, as_tuple

Array = npt.NDArray[Any]
F = np.float32
FLOAT = {"quantize": False}
DIGITS = load("digits")
#: Where the float layers are, what they are called, and the nodes whose outputs they leave in float.
PLACES = {
    "beginning": ({"first": FLOAT}, ["input.dequantize", "first"]),
    "middle": ({"second": FLOAT}, ["first.dequantize", "second"]),
    "two": ({"s*": FLOAT, "first": FLOAT}, ["input.dequantize", "first", "second"]),
    "end": ({"fc2": FLOAT}, ["fc1.dequantize", "fc2"]),
    "apart": ({"second": FLOAT, "fc2": FLOAT}, ["first.dequantize", "second", "fc1.dequantize", "fc2"]),
}
FILES = [("ONNX", "float"), ("TFLITE", "float"), ("TFLITE", "fixed")]
by_place = pytest.mark.parametrize("place", PLACES)
by_file = pytest.mark.parametrize(("file_format", "arithmetic"), FILES, ids=["ONNX", "TFLITE", "TFLITE fixed"])


class Net(qat.Network):
    """A network for the digits, with batch normalisation."""

    def __init__(self) -> None:
        self.inputs = qat.Input((1, 8, 8), mean=0.3, std=0.4)
        self.first = qat.Conv2dBnAct(1, 6, 3, has_bn=True, activation="relu")
        self.second = qat.Conv2dBnAct(6, 6, 3, has_bn=True)
        self.pool = qat.MaxPool2d(2, 2)
        self.fc1 = qat.DenseBnAct(96, 24, activation="relu")
        self.fc2 = qat.DenseBnAct(24, 10)

    def construct(self, x: Any) -> Any:
        x = self.pool(self.second(self.first(x)))
        return self.fc2(self.fc1(qat.Flatten()(x)))


def trained(layers: Mapping[str, Mapping[str, Any]], backend: str = "torch", epochs: int = 2) -> qat.Checkpoint:
    """The network after a short training on the digits, part of it without quantization."""
    graph = qat.convert_quant_network(Net(), layers=layers, quant_delay=10)
    recipe = qat.Recipe(epochs=epochs, batch_size=64, lr=0.01, optimizer=qat.Optimizer("adam"))
    return qat.train(qat.backend(backend), qat.Checkpoint(graph, graph.initial_params()), DIGITS, recipe)


CHECKPOINTS: dict[str, qat.Checkpoint] = {}


def checkpoint_of(place: str) -> qat.Checkpoint:
    if place not in CHECKPOINTS:
        CHECKPOINTS[place] = trained(PLACES[place][0])
    return CHECKPOINTS[place]


def exported(integers: IntegerGraph, folder: Path, file_format: str, arithmetic: str) -> Engine:
    """A file of these integers, as an engine."""
    target = qat.target(file_format)
    path = folder / f"{arithmetic}{target.SUFFIX}"  # engines read it when they run
    target.export(integers, path, **({"arithmetic": arithmetic} if len(target.ARITHMETICS) > 1 else {}))
    return file_engine(path, target, integers, arithmetic)


def compared(graph: qat.Graph, params: Any, samples: Any, folder: Path) -> Certificate:
    """Files of both formats, and PyTorch."""
    integers = qat.to_integer(graph, params)
    engines = [exported(integers, folder, *each) for each in FILES]
    engines.append(backend_engine(qat.backend("torch"), qat.Checkpoint(graph, params)))
    return compare(engines, integers, Split(samples, None), data="noise")


# -- the graph ---------------------------------------------------------------------------------------------------------


@by_place
def test_what_is_left_in_float(place: str) -> None:
    layers, names = PLACES[place]
    graph = qat.convert_quant_network(Net(), layers=layers)
    assert [node.name for node in graph.nodes if node.name in graph.in_float] == names
    cells: dict[str, Any] = {node.name: node.cell for node in graph.nodes}
    for name in ("first", "second", "fc1", "fc2"):
        assert (cells[name].weight_quantizer is None) == (name in names), name
    last = "fc2" if "fc2" in names else "fc2.fake_quant"
    assert graph.outputs == (last,)
    assert "second.fake_quant" in cells  # which the fully quantized fc1 takes
    assert ("first.fake_quant" in cells) == ("first" not in names or "second" not in names)
    assert qat.Graph.from_json(graph.to_json()) == graph


def test_numbers_move_in_float_between_float_layers() -> None:
    graph = qat.convert_quant_network(Net(), layers={"second": FLOAT, "fc1": FLOAT})
    assert [node.name for node in graph.nodes[4:]] == [
        *("second", "pool", "flatten", "fc1", "fc1.fake_quant", "fc2", "fc2.fake_quant")
    ]
    assert {"pool", "flatten"} <= graph.in_float


class Branches(qat.Network):
    """A convolution whose output a float layer and another one take, and their sum."""

    def __init__(self) -> None:
        self.inputs = qat.Input((2, 6, 6))
        self.stem, self.a, self.b = (qat.Conv2dBnAct(n, 4, 3, has_bias=True) for n in (2, 4, 4))
        self.add, self.concat, self.head = qat.Add("relu"), qat.Concat(), qat.Conv2dBnAct(8, 3, 1)

    def construct(self, x: Any) -> Any:
        x = self.stem(x)
        a = self.a(x)
        return self.head(self.concat(self.add(a, self.b(x)), a))


@pytest.mark.parametrize(
    ("chosen", "floats", "coded"),
    [
        ("stem", ["stem"], ["stem", "a", "b", "add", "head"]),  # its codes are taken, so that it has some
        ("a", ["a"], ["stem", "a", "b", "add", "head"]),
        ("add", ["add"], ["stem", "a", "b", "add", "head"]),
        ("?", ["a", "b"], ["stem", "a", "b", "add", "head"]),
        ("head", ["head", "concat"], ["stem", "a", "b", "add"]),
        ("*", [], []),
    ],
)
def test_a_float_layer_has_codes_where_others_take_them(
    chosen: str, floats: list[str], coded: list[str], tmp_path: Path
) -> None:
    if chosen == "*":
        with pytest.warns(QatWarning, match="nothing is quantized: the result is the float network"):
            assert qat.convert_quant_network(Branches(), layers={"*": FLOAT}) == Branches().graph()
        return
    graph = qat.convert_quant_network(Branches(), layers={chosen: FLOAT})
    fakes = [node.name.removesuffix(".fake_quant") for node in graph.nodes if isinstance(node.cell, FakeQuant)]
    assert sorted(fakes) == sorted(coded)
    integers = qat.to_integer(graph, graph.observed_params(1))
    assert set(integers.float_layers) == set(floats) - {"concat"}
    pixels = np.random.default_rng(0).integers(0, 256, (9, 2, 6, 6), np.uint8)
    assert compared(graph, graph.observed_params(1), pixels, tmp_path).passed


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ({"conv9": FLOAT}, "layers: pattern 'conv9' fits no cell of Net that is quantized"),
        ({"pool": FLOAT}, "pattern 'pool' fits no cell"),
        ({"fc1": {"quantize": 0}}, "quantize is 0"),
        ({"fc1": {"quantise": False}}, "quantize"),
    ],
)
def test_wrong_settings(layers: Any, message: str) -> None:
    with pytest.raises(qat.QatError, match=message):
        qat.convert_quant_network(Net(), layers=layers)


def test_the_last_pattern_counts_and_a_file_says_the_same(tmp_path: Path) -> None:
    layers = {"*": FLOAT, "fc*": {"quantize": True, "num_bits": 4}, "fc2": FLOAT}
    graph = qat.convert_quant_network(Net(), layers=layers)
    cells: dict[str, Any] = {node.name: node.cell for node in graph.nodes}
    assert {name for name, cell in cells.items() if getattr(cell, "weight_quantizer", None)} == {"fc1"}
    text = 'layers:\n  "*": {quantize: false}\n  "fc*": {quantize: true, num_bits: 4}\n  fc2: {quantize: no}\n'
    (tmp_path / "quant.yaml").write_text(text, encoding="utf-8")
    assert qat.convert_quant_network(Net(), **read_quant_config(tmp_path / "quant.yaml")) == graph


def test_a_quantized_weight_behind_real_numbers_is_an_error() -> None:
    class Bare(qat.Network):
        inputs = qat.Input((4,))

        def __init__(self) -> None:
            self.a, self.b = qat.DenseBnAct(4, 4, after_fake=False), qat.DenseBnAct(4, 4)

        def construct(self, x: Any) -> Any:
            return self.b(self.a(x))

    graph = qat.convert_quant_network(Bare(), layers={"a": FLOAT})
    with pytest.raises(qat.QatError, match=r"b: its weight has a quantizer, but its input a is left in float"):
        qat.to_integer(graph, graph.observed_params())


# -- training, files and certificates -----------------------------------------------------------------------------------


@by_file
@by_place
def test_certificates_of_digits(place: str, file_format: str, arithmetic: str, tmp_path: Path) -> None:
    checkpoint = checkpoint_of(place)
    integers = qat.to_integer(checkpoint.graph, checkpoint.params)
    target, backend = qat.target(file_format), qat.backend("torch")
    path = tmp_path / f"net{target.SUFFIX}"
    certificate = export_verified(
        path, target, backend, checkpoint, DIGITS.test, data="digits", arithmetic=arithmetic, required=True
    )
    assert certificate.passed
    assert certificate.float_layers == integers.float_layers
    entering = {"middle": 6 * 64, "end": 24, "apart": 6 * 64 + 24}.get(place, 0)
    outputs = 0 if "fc2" in integers.float_layers else 10
    numbers = (6 * 64 if place != "end" else 0) + (10 if outputs == 0 else 0)
    for each in certificate.comparisons:
        assert each.differ == 0
        assert each.codes == 360 * (entering + outputs)
        assert each.floats is not None
        assert each.floats.compared == 360 * numbers
        assert each.floats.beyond == 0
        assert each.floats.largest < TOLERANCE / 50
        assert each.metrics["top-1"] > 0.5
    said = certificate.summary().splitlines()[len(certificate.arithmetic_statements)]
    assert said.startswith(f"left in float: {', '.join(integers.float_layers)}. Behind them equality is not promised")
    kept = json.loads(target.read_metadata(path)["certificate"])
    assert kept["not_promised"] == said
    assert kept["float_layers"] == list(integers.float_layers)
    assert verify(path, target, backend, checkpoint, DIGITS.test, data="digits").passed
    if outputs == 0:
        (real,) = as_tuple(target.predict(path, DIGITS.test.images[:3], **options_of(target, arithmetic)))
        expected = qat.evaluate(integers, DIGITS.test.images[:3], arithmetic=arithmetic)
        assert expected.dtype == real.dtype == F
        np.testing.assert_allclose(real, expected, atol=1e-5)


def options_of(target: Any, arithmetic: str) -> dict[str, str]:
    return {"arithmetic": arithmetic} if len(target.ARITHMETICS) > 1 else {}


@cache
def three_steps(backend: str) -> tuple[list[float], dict[str, Array]]:
    """Losses and parameters of one step in float and two quantized; the certificate of the result has passed."""
    graph = qat.convert_quant_network(Net(), layers=PLACES["apart"][0], quant_delay=1)
    x, y = DIGITS.train.images[:32], DIGITS.train.labels[:32]
    own = qat.backend(backend)
    model = own.lower(graph, graph.initial_params())
    step = own.make_step(model, qat.Optimizer())
    losses, params = [step(x, y, 0.05) for _ in range(3)], own.read(model)
    engine = backend_engine(own, qat.Checkpoint(graph, params), "CPU")
    assert compare([engine], qat.to_integer(graph, params), Split(x, y), data="digits").passed
    start = graph.initial_params()
    for name in ("second.moving_mean", "second.weight", "fc2.bias"):
        assert (params[name] != start[name]).any()
    return losses, params


@pytest.mark.parametrize("backend", HERE)
def test_every_backend_trains_and_evaluates(backend: str) -> None:
    (losses, params), (expected, others) = three_steps(backend), three_steps("torch")
    np.testing.assert_allclose(losses, expected, rtol=1e-3)
    for name, array in params.items():
        np.testing.assert_allclose(array, others[name], rtol=2e-2, atol=2e-3, err_msg=name)


def test_in_training_it_is_not_quantized() -> None:
    """The pass gives what the float layer gives of the real numbers before it, in float32."""
    graph = qat.convert_quant_network(Net(), layers={"fc2": FLOAT})
    params = graph.observed_params()
    whole = qat.to_integer(graph, params)
    codes = trace_codes(whole, DIGITS.test.images[:5], ["fc1"])["fc1"]
    real = next(node.output.grid for node in whole.nodes if node.name == "fc1").dequantize(codes)
    own = qat.evaluate(whole, DIGITS.test.images[:5])
    np.testing.assert_allclose(own, real @ params["fc2.weight"].T + params["fc2.bias"], atol=1e-5)


def test_batch_normalisation_of_a_float_layer_is_frozen_with_the_others() -> None:
    graph = qat.convert_quant_network(Net(), layers={"second": FLOAT}, freeze_bn=7)
    cells: dict[str, Any] = {node.name: node.cell for node in graph.nodes}
    assert cells["second"].freeze_bn == cells["first"].freeze_bn == 7


def test_checkpoints_keep_it(tmp_path: Path) -> None:
    checkpoint = checkpoint_of("middle")
    checkpoint.save(tmp_path / "net.ckpt")
    again = qat.Checkpoint.load(tmp_path / "net.ckpt")
    assert again.graph == checkpoint.graph
    assert again.graph.in_float
    integers = [qat.to_integer(each.graph, each.params) for each in (checkpoint, again)]
    codes = [qat.evaluate(each, DIGITS.test.images[:20]) for each in integers]
    np.testing.assert_array_equal(*codes)


def test_calibration_without_training(tmp_path: Path) -> None:
    graph = Net().graph()
    images = DIGITS.train.images[:64]
    for method in ("minmax", "mse"):
        found = calibrate(graph, graph.initial_params(), images, method=method, layers={"second": FLOAT})
        assert compared(found.graph, found.params, DIGITS.test.images[:50], tmp_path).passed


# -- wrong files --------------------------------------------------------------------------------------------------------


def changed(integers: IntegerGraph, name: str, **arrays: Any) -> IntegerGraph:
    """The integers with other fields in one node."""
    nodes = tuple(replace(node, **arrays) if node.name == name else node for node in integers.nodes)
    return replace(integers, nodes=nodes)


def wrong_weight(integers: IntegerGraph, name: str) -> IntegerGraph:
    """One weight of one channel is a code larger or smaller."""
    (node,) = (node for node in integers.nodes if node.name == name)
    assert isinstance(node, IntegerLinear)
    weight = node.weight.copy()
    weight[0].flat[weight[0].size // 2] -= np.sign(weight[0].flat[weight[0].size // 2]) or -1
    return changed(integers, name, weight=weight)


def wrong_float(integers: IntegerGraph, name: str, factor: float) -> IntegerGraph:
    """All weights are larger by a factor."""
    (node,) = (node for node in integers.nodes if node.name == name)
    assert isinstance(node, FloatLayer)
    params = {local: (array * F(factor), kind) for local, (array, kind) in node.params.items()}
    return changed(integers, name, params=params)


@by_file
def test_codes_before_and_behind_a_float_layer_have_to_be_equal(
    file_format: str, arithmetic: str, tmp_path: Path
) -> None:
    checkpoint = checkpoint_of("middle")
    integers = qat.to_integer(checkpoint.graph, checkpoint.params)
    for name in ("first", "fc1"):
        engine = exported(wrong_weight(integers, name), tmp_path, file_format, arithmetic)
        certificate = compare([engine], integers, DIGITS.test, data="digits", arithmetic=arithmetic)
        (found,) = certificate.comparisons
        assert not certificate.passed
        assert found.differ > 0
        assert found.floats is not None
        assert found.floats.beyond == 0
        assert found.divergence is not None
        assert found.divergence.startswith(f"first at {name}, image ")


@by_file
@pytest.mark.parametrize("place", ["middle", "end"])
def test_numbers_of_a_float_layer_have_to_be_within_the_tolerance(
    place: str, file_format: str, arithmetic: str, tmp_path: Path
) -> None:
    checkpoint = checkpoint_of(place)
    integers = qat.to_integer(checkpoint.graph, checkpoint.params)
    (name,) = integers.float_layers
    for factor, passes in ((1.0 + 20 * TOLERANCE, False), (1.0 + TOLERANCE / 4, True)):
        engine = exported(wrong_float(integers, name, factor), tmp_path, file_format, arithmetic)
        certificate = compare([engine], integers, DIGITS.test, data="digits", arithmetic=arithmetic)
        (found,) = certificate.comparisons
        assert found.differ == 0  # what follows is right, of what the layer gave
        assert found.floats is not None
        assert certificate.passed == passes == (found.floats.beyond == 0)
        if not passes:
            where = "second.fake_quant" if place == "middle" else name
            assert found.divergence is not None
            assert found.divergence.startswith(f"first at {where}, image ")
            assert "beyond the tolerance" in certificate.summary()


def test_rounding_may_change_codes_behind_a_float_layer_and_nothing_else() -> None:
    """An engine whose float layer is off by a quarter of the tolerance has other codes beside boundaries, and passes."""
    checkpoint = checkpoint_of("middle")
    integers = qat.to_integer(checkpoint.graph, checkpoint.params)
    other = wrong_float(integers, "second", 1.0 + TOLERANCE / 4)

    def trace(samples: Any, tensors: Any) -> dict[str, Array]:
        return trace_codes(other, samples, [x.name for x in tensors])

    engine = Engine("another order", lambda x: (qat.evaluate(other, x).astype(np.int32),), trace)
    certificate = compare([engine], integers, DIGITS.test, data="digits")
    assert certificate.passed
    assert certificate.comparisons[0].differ == 0
    assert certificate.matrix[0][1] > 0  # output codes that differ from the network's, behind that layer
    lying = replace(engine, codes=lambda x: (qat.evaluate(integers, x).astype(np.int32),))
    assert not compare([lying], integers, DIGITS.test, data="digits").passed


def test_a_file_of_another_network_is_none(tmp_path: Path) -> None:
    checkpoint = checkpoint_of("end")
    integers = qat.to_integer(checkpoint.graph, checkpoint.params)
    graph = qat.convert_quant_network(Net(), layers={"second": FLOAT, "fc2": FLOAT})
    engine = exported(qat.to_integer(graph, graph.observed_params()), tmp_path, "ONNX", "float")
    certificate = compare([engine], integers, DIGITS.test, data="digits")
    assert not certificate.passed
    other = qat.to_integer(graph, graph.observed_params())
    engine = exported(integers, tmp_path, "ONNX", "float")
    with pytest.raises(qat.QatError, match=r"has no codes named second.fake_quant, so it was not exported from this"):
        compare([engine], other, DIGITS.test, data="digits")


# -- other cells, quantizers and inputs ---------------------------------------------------------------------------------

COMPUTING = [cls for cls, cell in EXAMPLES.items() if cell.arity and (cell.wants_quantizer or cls is qat.Softmax)]


@pytest.mark.parametrize("cls", [cls for cls in COMPUTING if cls is not qat.Dequantize], ids=lambda cls: cls.__name__)
def test_every_cell_that_computes_may_stay_in_float(cls: type[qat.Cell], tmp_path: Path) -> None:
    """Between quantized ones: in both files and in PyTorch."""
    graph = qat.convert_quant_network(Around(EXAMPLES[cls]), layers={"cell": FLOAT})
    params = graph.observed_params(3)
    assert qat.to_integer(graph, params).float_layers == ("cell",)
    (spec,) = graph.input_specs
    pixels = np.random.default_rng(1).integers(0, 256, (6, *spec.shape), np.uint8)
    certificate = compared(graph, params, pixels, tmp_path)
    assert certificate.passed, certificate.summary()


@pytest.mark.parametrize("number", [0, *(pytest.param(number, marks=pytest.mark.sweep) for number in range(1, 5))])
def test_any_layers_of_random_networks_may_stay_in_float(number: int) -> None:
    """Files are right in all that is not such a layer, and within the tolerance in these; or refused by the layer's name."""
    passed = 0

    def check(zoo: test_zoo.Zoo, data: st.DataObject) -> None:
        nonlocal passed
        names = sorted({setting_name(node) for node in zoo.graph().nodes if may_stay_float(node)})
        chosen = data.draw(st.lists(st.sampled_from(names), min_size=1, max_size=4, unique=True))
        rng = np.random.default_rng(number)
        pixels = tuple(test_zoo.samples_for(x, 4, rng) for x in zoo.inputs)
        with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
            warnings.simplefilter("ignore", QatWarning)
            try:
                graph = qat.convert_quant_network(zoo, layers=dict.fromkeys(chosen, FLOAT))
            except qat.QatError as error:
                if "two different cells have this name" in str(error):  # a use of a cell that has others
                    return
                raise
            params = test_zoo.random_params(graph, rng, frozenset())
            params = test_zoo.after_numpy_step(graph, params, pixels)
            if not graph.is_quantized:  # all were chosen
                return
            integers = qat.to_integer(graph, params)
            if not integers.float_layers:  # that of a cell without effect
                return
            engines = [backend_engine(qat.backend("torch"), qat.Checkpoint(graph, params))]
            for each in FILES:
                try:
                    engines.append(exported(integers, Path(folder), *each))
                except qat.QatError as error:
                    if not ("has no operation" in str(error) or "XNNPACK takes" in str(error)):
                        raise
            certificate = compare(engines, integers, Split(as_arrays(pixels), None), data="noise")
        assert certificate.passed, f"{certificate.summary()}\n{chosen}\n{graph}"
        passed += 1

    limits = settings(max_examples=20, database=None, suppress_health_check=list(HealthCheck))
    seed(number)(limits(given(test_zoo.networks().filter(runs_in_float), st.data())(check)))()
    assert passed >= 3


def setting_name(node: qat.Node) -> str:
    return node.cell_name if node.recurs else node.name


def runs_in_float(zoo: test_zoo.Zoo) -> bool:
    """ONNX Runtime's ConvTranspose takes no output_padding of the stride or more."""
    transposed = [cell for cell in zoo.cells.values() if isinstance(cell, qat.ConvTranspose2dBnAct)]
    return all(np.less(pair(cell.output_padding), pair(cell.stride)).all() for cell in transposed)


@pytest.mark.parametrize(
    "quantizer",
    [qat.BinaryActivationQuantizer(), qat.GTCActivationQuantizer(), qat.LSQActivationQuantizer(2)],
    ids=lambda quantizer: type(quantizer).__name__,
)
def test_codes_of_any_quantizer_follow_a_float_layer(quantizer: Any, tmp_path: Path) -> None:
    layers = {"second": {**FLOAT, "activation_quantizer": quantizer}}
    graph = qat.convert_quant_network(Net(), layers=layers)
    backend = qat.backend("torch")
    model = backend.lower(graph, graph.initial_params())
    backend.make_step(model, qat.Optimizer())(DIGITS.train.images[:64], DIGITS.train.labels[:64], 0.01)
    certificate = compared(graph, backend.read(model), DIGITS.test.images[:60], tmp_path)
    assert certificate.passed, certificate.summary()


@pytest.mark.parametrize("dtype", ["float32", "int16", "int8"])
def test_inputs_of_real_numbers_stay_such(dtype: str, tmp_path: Path) -> None:
    """Where the first layer is left in float and the input too; codes of 8 bits are codes in any case."""
    numbers = {} if dtype == "float32" else {"scale": 0.001, "zero_point": -7}

    class Sensor(qat.Network):
        inputs = qat.Input((12,), dtype=dtype, **numbers)

        def __init__(self) -> None:
            self.fc1, self.fc2 = qat.DenseBnAct(12, 8, activation="relu"), qat.DenseBnAct(8, 4)

        def construct(self, x: Any) -> Any:
            return self.fc2(self.fc1(x))

    graph = qat.convert_quant_network(Sensor(), layers={"fc1": FLOAT, **({} if dtype == "int8" else {"input": FLOAT})})
    assert [node.name for node in graph.nodes][:3] == ["input", "input.dequantize", "fc1"]
    rng = np.random.default_rng(0)
    samples = (
        rng.normal(size=(50, 12)).astype(F) if dtype == "float32" else rng.integers(-100, 100, (50, 12)).astype(dtype)
    )
    certificate = compared(graph, graph.observed_params(), samples, tmp_path)
    assert certificate.passed, certificate.summary()
    integers = qat.to_integer(graph, graph.observed_params())
    if dtype != "int8":
        for name in ("ONNX", "TFLITE"):
            with pytest.raises(qat.QatError, match="input: --input_type int8: its numbers are left in float"):
                qat.target(name).export(integers, tmp_path / f"other{qat.target(name).SUFFIX}", input_type="int8")


@pytest.mark.parametrize("output_type", ["float32", "int8", "int16"])
def test_a_float_output_has_no_codes(output_type: str, tmp_path: Path) -> None:
    integers = qat.to_integer(checkpoint_of("end").graph, checkpoint_of("end").params)
    for name in ("ONNX", "TFLITE"):
        target = qat.target(name)
        path = tmp_path / f"net{target.SUFFIX}"
        if output_type == "float32":
            target.export(integers, path, output_type=output_type)
            (real,) = as_tuple(target.predict(path, DIGITS.test.images[:3]))
            np.testing.assert_allclose(real, qat.evaluate(integers, DIGITS.test.images[:3]), atol=1e-5)
            continue
        with pytest.raises(qat.QatError, match=f"fc2: --output_type {output_type}: this output is left in float"):
            target.export(integers, path, output_type=output_type)
        assert not path.exists()


@pytest.mark.parametrize(("name", "profile"), [("C", "default"), ("MINDIR", "default"), ("AIR", "ascend")])
def test_other_formats_refuse_it_by_name(name: str, profile: str, tmp_path: Path) -> None:
    pytest.importorskip("mindspore" if name == "MINDIR" else "numpy")
    graph = qat.convert_quant_network(Net(), layers={"second": FLOAT}, profile=profile)
    target = qat.target(name)
    with pytest.raises(qat.QatError, match=r"^second: .*a layer that is left in float \(quantize: false\)"):
        target.export(qat.to_integer(graph, graph.observed_params()), tmp_path / f"net{target.SUFFIX}")
    assert list(tmp_path.iterdir()) == []


def test_onnx_runtime_leaves_it_in_float(tmp_path: Path) -> None:
    """Of a convolution between DequantizeLinear and QuantizeLinear it would make weights of 8 bits: TOLERANCE shows that."""
    onnx = pytest.importorskip("onnx")
    graph = qat.convert_quant_network(Branches(), layers={"a": FLOAT})
    params = graph.observed_params()
    integers = qat.to_integer(graph, params)
    path = tmp_path / "net.onnx"
    qat.target("ONNX").export(integers, path)
    operators = [node.op_type for node in onnx.load(path).graph.node]
    first = operators.index("DequantizeLinear", operators.index("QuantizeLinear"))
    assert {"Conv", "Round", "Cast"} <= set(operators[first:])
    assert operators.count("QuantizeLinear") == len([node for node in integers.nodes if node.name != "input"]) - 2


# -- what it costs ------------------------------------------------------------------------------------------------------


def test_metrics_take_it_for_float() -> None:
    graph = qat.convert_quant_network(Net(), layers={"second": FLOAT, "fc2": FLOAT})
    rows = {row.name: row for row in qat.metrics.measure(graph)}
    assert [*rows] == ["input", "first", "second", "pool", "flatten", "fc1", "fc2"]
    assert [rows[name].weight_bits for name in ("first", "second", "fc1", "fc2")] == [8, 32, 8, 32]
    assert [rows[name].activation_bits for name in ("first", "second", "fc1", "fc2")] == [8, 8, 8, 32]
    macs = qat.metrics.macs(Net())
    assert qat.metrics.bops(graph) == {
        name: macs[name] * (8 * 8 if name in ("first", "fc1") else 32 * 32) for name in macs
    }
    integers = qat.to_integer(graph, graph.observed_params())
    information = qat.metrics.information_bits(integers)
    assert information["second"] == 32 * (6 * 6 * 9 + 6)
    assert information["fc2"] == 32 * 250
    assert information["fc1"] < 9 * (96 * 24 + 24)
    alone = integers.without_float_layers
    assert {node.name for node in alone.nodes} == {"input", "first", "second.fake_quant", "pool", "flatten", "fc1"}
    assert [x.name for x in alone.inputs] == ["input", "second.fake_quant"]
    assert {x.name for x in alone.outputs} == {"first", "fc1"}


def test_memory_counts_four_bytes_of_a_real_number() -> None:
    fully, partly = (qat.convert_quant_network(Net(), layers=layers) for layers in ({}, {"second": FLOAT}))
    sizes = [
        qat.memory.activation_memory(qat.to_integer(graph, graph.observed_params())).size for graph in (fully, partly)
    ]
    assert sizes == [2 * 6 * 64, 5 * 6 * 64]


def test_weights_of_few_bits_leave_it_alone() -> None:
    checkpoint = checkpoint_of("middle")
    found = compress(checkpoint, qat.WeightQuantizer(3))
    cells: dict[str, Any] = {node.name: node.cell for node in found.graph.nodes}
    assert cells["second"].weight_quantizer is None
    assert cells["first"].weight_quantizer.num_bits == 3


# -- the commands -------------------------------------------------------------------------------------------------------


def test_the_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ckpt, quant, config = (str(tmp_path / name) for name in ("a.ckpt", "q.ckpt", "quant.yaml"))
    Path(config).write_text("layers:\n  conv2: {quantize: false}\n  fc3: {quantize: false}\n", encoding="utf-8")
    data = ["--data_path", "digits"]
    float_graph = LeNet5().graph()
    qat.Checkpoint(float_graph, float_graph.initial_params()).save(ckpt)
    args = ["--ckpt_path", ckpt, "--quant_config", config, "--epochs", "1", "--quant_delay", "5", "--save_path", quant]
    assert main(["train-quant", *data, *args]) == 0
    for file_format, name in (("ONNX", "net.onnx"), ("TFLITE", "net.tflite")):
        capsys.readouterr()
        out = ["--file_format", file_format, "--file_name", str(tmp_path / "net")]
        assert main(["export", "--ckpt_path", quant, *out, *data]) == 0
        said = capsys.readouterr().out
        assert "left in float: conv2, fc3. Behind them equality is not promised" in said
        assert main(["verify", "--model", str(tmp_path / name), "--ckpt_path", quant, *data]) == 0
    out = ["--file_format", "C", "--file_name", str(tmp_path / "net")]
    assert main(["export", "--ckpt_path", quant, *out, *data]) == 2
    assert "conv2: C has no form for a layer that is left in float" in capsys.readouterr().err
    assert not (tmp_path / "net.c").exists()
    assert main(["summary", "--ckpt_path", quant]) == 0
    assert main(["eval-quant", *data, "--ckpt_path", quant]) == 0
    Path(config).write_text("layers: {conv9: {quantize: false}}\n", encoding="utf-8")
    assert main(["train-quant", *data, *args]) == 2
    assert "pattern 'conv9' fits no cell of LeNet5" in capsys.readouterr().err
