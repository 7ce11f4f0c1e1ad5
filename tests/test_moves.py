"""Cells that move numbers and change none: every engine and every target gives the codes of NumPy, all of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import every_cell
import numpy as np
import onnxruntime
import pytest
from calibrations import calibrate
from every_cell import IMAGE, input_shapes, inputs_of, quantized
from frameworks import HERE
from graphs import Traced

import qat
from qat.integer import evaluate, trace_codes
from qat.passes.equalize_channels import equalize_channels
from qat.passes.unreached_numbers import warn_of_unreached_numbers
from qat.registry import TARGETS, installed
from qat.training.forward import Forward
from qat.training.optimizer import Optimizer
from qat.vocabulary.arrays import as_tuple
from qat.vocabulary.numpy_ops import NUMPY_OPS

NOTHING = qat.Pad(0)  #: which is no node in integers
CELLS: dict[str, qat.Cell] = {
    "concat, channels": qat.Concat(),
    "concat, rows": qat.Concat(1),
    "concat, columns": qat.Concat(2),
    "slice, channels": qat.Slice(0, 1, 3),
    "slice, last channel": qat.Slice(0, -1),
    "slice, rows": qat.Slice(1, step=2),
    "slice, columns": qat.Slice(2, -4, -1, 2),
    "pad, nothing": NOTHING,
    "pad, zeros": qat.Pad((0, 1, 2, 0)),
    "pad, rows": qat.Pad((1, 0)),
    "pad, a number": qat.Pad(1, value=0.5),
    "pad, channels": qat.Pad((1, 0), channels=(1, 2)),
    "pad, reflected": qat.Pad((2, 1, 0, 3), mode="reflect"),
    "upsample": qat.Upsample(2),
    "upsample, columns": qat.Upsample((1, 3)),
    "pixel shuffle": qat.PixelShuffle(2),
    "pixel shuffle, dcr": qat.PixelShuffle(2, "dcr"),
    "pixel unshuffle": qat.PixelUnshuffle(2),
    "pixel unshuffle, dcr": qat.PixelUnshuffle(3, "dcr"),
    "channel shuffle": qat.ChannelShuffle(2),
    "reshape, to a series": qat.Reshape((4, -1)),
    "reshape, to a picture": qat.Reshape((8, 3, 6)),
    "reshape, no side in common": qat.Reshape((9, 16)),
    "reshape, to a row": qat.Reshape((-1,)),
    "transpose": qat.Transpose((2, 0, 1)),
    "transpose, rows and columns": qat.Transpose((0, 2, 1)),
    "stack": qat.Stack(),
    "stack, behind": qat.Stack(1),
}
#: Settings of which codes are unsigned, signed, of few bits.
SETTINGS: dict[str, dict[str, Any]] = {
    "unsigned": {"symmetric": (True, False)},
    "signed": {"symmetric": True},
    "5 bits": {"num_bits": (8, 5)},
}
ON_ASCEND = ("ASCEND_ONNX", "AIR")  #: which have no form for most of them
PIXELS = np.random.default_rng(1).integers(0, 256, (3, *IMAGE), np.uint8)
BACKENDS_HERE = [name for name in ("torch", "keras", "mindspore") if name in HERE]
by_cell = pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)


@by_cell
@pytest.mark.parametrize("name", [name for name, entry in TARGETS.items() if installed(entry)])
def test_every_target_computes_it(cell: qat.Cell, name: str) -> None:
    refused = name in ON_ASCEND and not isinstance(cell, qat.Concat) and cell != NOTHING
    assert every_cell.outcome(cell, name) == ("refused" if refused else "computed")


@by_cell
@pytest.mark.parametrize("backend", BACKENDS_HERE)
def test_every_backend_evaluates_it(cell: qat.Cell, backend: str) -> None:
    graph, params = quantized(cell)
    integers = qat.to_integer(graph, params)
    tensors = [node.output for node in integers.nodes]
    engine = qat.backend(backend)
    found = engine.trace(engine.lower(graph, params), PIXELS, tensors)
    for name, codes in trace_codes(integers, PIXELS, [x.name for x in tensors]).items():
        np.testing.assert_array_equal(found[name], codes, err_msg=name)


@by_cell
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_onnx_runtime_at_every_level_of_optimization(cell: qat.Cell, settings: dict[str, Any], tmp_path: Path) -> None:
    graph, params = quantized(cell, **settings)
    integers = qat.to_integer(graph, params)
    qat.target("ONNX").export(integers, tmp_path / "net.onnx")
    expected = as_tuple(evaluate(integers, PIXELS))[0]
    for level in onnxruntime.GraphOptimizationLevel.__members__.values():
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = level
        session = onnxruntime.InferenceSession(str(tmp_path / "net.onnx"), options, providers=["CPUExecutionProvider"])
        (found,) = session.run(None, {"input": PIXELS})
        np.testing.assert_array_equal(integers.output.grid.codes_of(found), expected, err_msg=str(level))


@by_cell
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_litert_in_both_arithmetics_and_c(cell: qat.Cell, settings: dict[str, Any], tmp_path: Path) -> None:
    """XNNPACK, the reference kernels, and C: every node."""
    integers = qat.to_integer(*quantized(cell, **settings))
    tensors = [node.output for node in integers.nodes]
    for name, arithmetic, options in (
        ("TFLITE", "float", {"arithmetic": "float"}),
        ("TFLITE", "fixed", {"arithmetic": "fixed"}),
        ("C", "float", {"arithmetic": "float"}),
        ("C", "fixed", {"arithmetic": "fixed"}),
    ):
        target = qat.target(name)
        path = tmp_path / f"net{TARGETS[name].suffix}"
        target.export(integers, path, **options)
        found = target.trace(path, PIXELS, tensors, **options)
        expected = trace_codes(integers, PIXELS, [x.name for x in tensors], arithmetic=arithmetic)
        assert ("cell" in found) == (cell != NOTHING), "the last of its nodes"
        for node, codes in found.items():
            np.testing.assert_array_equal(codes, expected[node], err_msg=f"{name}, {arithmetic}, {node}")


WIDE = ("concat, columns", "slice, rows", "pad, a number", "upsample", "pixel shuffle", "stack, behind")


@pytest.mark.parametrize("name", WIDE)
def test_codes_of_12_bits(name: str, tmp_path: Path) -> None:
    """Which C stores in two bytes, and TFLite as int16."""
    integers = qat.to_integer(*quantized(CELLS[name], num_bits=(8, 12)))
    tensors = [node.output for node in integers.nodes]
    expected = trace_codes(integers, PIXELS, [x.name for x in tensors], arithmetic="fixed")
    for target, options in (("C", {"arithmetic": "fixed"}), ("TFLITE", {"arithmetic": "fixed"})):
        path = tmp_path / f"net{TARGETS[target].suffix}"
        qat.target(target).export(integers, path, **options)
        found = qat.target(target).trace(path, PIXELS, tensors, **options)
        assert "cell" in found
        for node, codes in found.items():
            np.testing.assert_array_equal(codes, expected[node], err_msg=f"{target}, {node}")


@by_cell
@pytest.mark.parametrize("name", ["ONNX", "TFLITE"])
def test_float_files_hold_it(cell: qat.Cell, name: str, tmp_path: Path) -> None:
    """Tolerance 1e-5 of outputs of about 1: frameworks add in another order."""
    graph = every_cell.Around(cell).graph()
    params = graph.initial_params()
    target, torch = qat.target(name), qat.backend("torch")
    path = tmp_path / f"net{TARGETS[name].suffix}"
    target.export_float(graph, params, path)
    expected = torch.predict(torch.lower(graph, params), PIXELS)
    np.testing.assert_allclose(target.predict(path, PIXELS), expected, rtol=0, atol=1e-5)


@by_cell
def test_gradients_are_those_of_the_moved_numbers(cell: qat.Cell) -> None:
    """The output is linear: its gradient, of a random sum of it, is what finite differences give, exactly."""
    torch = pytest.importorskip("torch")
    from qat.backends.torch.ops import TorchOps
    from qat.cells.base import Context, Scope
    from qat.vocabulary.values import Value

    rng = np.random.default_rng(3)
    inputs = [rng.integers(-9, 10, (2, *shape)).astype(np.float64) for shape in input_shapes(cell)]
    weight = rng.integers(-9, 10, (2, *cell.output_shape(*input_shapes(cell))))

    def total(*xs: Any) -> Any:
        context = Context(TorchOps(), {}, training=True, phase=0, updates={})
        y = cell.forward(Scope(context, "c.", (), input_shapes(cell)), *(Value(x) for x in xs))
        return (y.real(TorchOps()) * torch.tensor(weight)).sum()

    xs = [torch.tensor(x, requires_grad=True) for x in inputs]
    total(*xs).backward()
    with torch.no_grad():
        base = total(*xs)
        for position in range(inputs_of(cell)):
            assert xs[position].grad is not None
            for place in rng.integers(0, inputs[position].size, 12):
                changed = [x.detach().clone() for x in xs]
                changed[position].view(-1)[place] += 1
                assert float(xs[position].grad.reshape(-1)[place]) == float(total(*changed) - base)


# -- concatenation ----------------------------------------------------------------------------------------------------


class Joining(qat.Network):
    """One Concat that joins two, three and one."""

    def __init__(self) -> None:
        self.inputs = qat.Input((2, 4, 4))
        self.a, self.b = qat.Conv2dBnAct(2, 3, 1), qat.Conv2dBnAct(2, 5, 3)
        self.concat = qat.Concat()

    def construct(self, x):
        a, b = self.a(x), self.b(x)
        return self.concat(self.concat(a, b), self.concat(a, b, a), self.concat(b))


def test_one_cell_joins_any_number() -> None:
    graph = qat.convert_quant_network(Joining())
    assert graph.shapes["concat_3"] == (8 + 11 + 5, 4, 4)
    assert qat.Graph.from_json(graph.to_json()) == graph
    integers = qat.to_integer(graph, graph.observed_params())
    grids = {node.output.grid for node in integers.nodes if "concat" in node.name}
    assert len(grids) == 1
    assert integers.output.shape == (24, 4, 4)


def test_a_graph_of_an_older_release_loads() -> None:
    graph = every_cell.Around(qat.Concat()).graph()
    assert '{"type": "Concat"}' in graph.to_json()


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(qat.QatError, match=r"^Concat: axis is 3; use 0 for the channels"):
        qat.Concat(3)
    with pytest.raises(qat.QatError, match=r"joins along the channels, but gets \(1, 2, 2\) and \(1, 2, 3\)"):
        qat.Concat().output_shape((1, 2, 2), (1, 2, 3))
    with pytest.raises(qat.QatError, match=r"has axis 1, but takes \(4,\), whose axes are 0 to 0"):
        qat.Concat(1).output_shape((4,), (4,))
    node = qat.Node("input", qat.Input((1, 2, 2)), (), "input")
    with pytest.raises(qat.QatError, match=r"^c: a Concat takes at least one input but gets 0"):
        qat.Graph((node, qat.Node("c", qat.Concat(), (), "c")), ("input",))


# -- parts ------------------------------------------------------------------------------------------------------------


def graph_of(construct: Any, shape: tuple[int, ...] = (4, 6, 8)) -> qat.Graph:
    return Traced(lambda self, x: construct(x), qat.Input(shape)).graph()


PARTS: dict[str, tuple[Any, Any]] = {
    "channels": (lambda x: x[:, :3], lambda a: a[:, :3]),
    "one channel": (lambda x: x[:, -1:], lambda a: a[:, -1:]),
    "columns": (lambda x: x[..., ::2], lambda a: a[..., ::2]),
    "rows and columns": (lambda x: x[:, :, 1:-1, 3::3], lambda a: a[:, :, 1:-1, 3::3]),
    "all axes": (lambda x: x[:, 1:2, ..., -3:], lambda a: a[:, 1:2, ..., -3:]),
    "nothing left out": (lambda x: qat.Dropout(0.0)(x[:, :9]), lambda a: a[:, :9]),
    "split": (lambda x: x.split(3)[1], lambda a: a[:, 3:]),
    "split of rows": (lambda x: x.split([1, 3, 2], dim=2)[1], lambda a: a[:, :, 1:4]),
    "chunk": (lambda x: x.chunk(3, dim=-1)[2], lambda a: a[..., 6:]),
}


@pytest.mark.parametrize(("construct", "expected"), PARTS.values(), ids=PARTS)
def test_parts_are_those_of_arrays(construct: Any, expected: Any) -> None:
    graph = graph_of(construct)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 4, 6, 8), np.uint8)
    torch = qat.backend("torch")
    found = torch.predict(torch.lower(graph), pixels)
    np.testing.assert_array_equal(np.rint(found * 255), expected(pixels))


def test_parts_are_nodes_of_their_own_names() -> None:
    graph = graph_of(lambda x: sum(x.chunk(2)[1:], x.split(2)[0]))
    assert [node.name for node in graph.nodes] == ["input", "slice", "slice_1", "slice_2", "slice_3", "add"]
    assert [node.cell for node in graph.nodes[1:5]] == [qat.Slice(0, 0, 2), qat.Slice(0, 2, 4)] * 2


WRONG: dict[str, tuple[Any, str]] = {
    "an index": (lambda x: x[:, 0], r"^input\[\.\.\.\]: an index is 0, but an axis stays one: take parts by slices"),
    "samples": (lambda x: x[:2], r"^input\[\.\.\.\]: the first index is of the samples, all of which stay"),
    "too many": (lambda x: x[:, :, :, :, :1], "has 5 indices, but 4 axes"),
    "backwards": (lambda x: x[:, ::-1], "Slice: step is -1; use a whole number of at least 1"),
    "nothing": (lambda x: x[:, 5:], "takes 4:4:1 along axis 0 of .4, 6, 8., where nothing is"),
    "no number": (lambda x: x[:, :"a"], "a slice is None:a:None; use whole numbers"),
    "sizes": (lambda x: x.split([1, 2]), r"input.split: parts of \[1, 2\], whose axis has 4; give sizes that add up"),
    "size": (lambda x: x.split(0), "input.split: parts of 0; use a size of at least 1"),
    "no sizes": (lambda x: x.split("2"), "input.split: parts of '2'; give a size, or a list of the sizes of all parts"),
    "no whole sizes": (lambda x: x.split([1.5, 2.5]), r"input.split: parts of \[1.5, 2.5\]; give a size, or a list"),
    "chunks": (lambda x: x.chunk(5), "input.chunk: 5 parts of an axis of 4; use 1 to 4"),
    "axis": (lambda x: x.chunk(2, dim=0), "input: has no axis 0 beside that of the samples; use 1 to 3"),
    "no axis": (lambda x: x.mean("rows"), "input: has no axis 'rows' beside that of the samples; use 1 to 3"),
    "no whole axis": (lambda x: x.mean((1.0, 2.0)), "input: has no axis 1.0 beside that of the samples; use 1 to 3"),
}


@pytest.mark.parametrize(("construct", "message"), WRONG.values(), ids=WRONG)
def test_parts_that_are_none_are_refused(construct: Any, message: str) -> None:
    with pytest.raises(qat.QatError, match=message):
        graph_of(construct)


# -- padding, upsampling, shuffles ------------------------------------------------------------------------------------


def moved(cell: qat.Cell, x: np.ndarray) -> np.ndarray:
    """What a cell makes of images of whole numbers, in PyTorch."""
    torch = qat.backend("torch")
    found = torch.predict(torch.lower(graph_of(cell, x.shape[1:])), x)
    return np.rint(found * 255)


IMAGES = np.random.default_rng(4).integers(0, 256, (2, 8, 4, 6), np.uint8)


def test_cells_give_what_those_of_pytorch_give() -> None:
    import torch
    import torch.nn.functional as F

    x = torch.tensor(IMAGES.astype(np.float32))
    expected = {
        qat.Pad((1, 2)): F.pad(x, (2, 2, 1, 1)),
        qat.Pad((0, 1, 2, 3), value=1.0): F.pad(x, (2, 3, 0, 1), value=255.0),
        qat.Pad(0, channels=(1, 2)): F.pad(x, (0, 0, 0, 0, 1, 2)),
        qat.Pad((0, 3, 1, 2), mode="reflect"): F.pad(x, (1, 2, 0, 3), mode="reflect"),
        qat.Upsample((2, 3)): F.interpolate(x, scale_factor=(2, 3), mode="nearest"),
        qat.PixelShuffle(2): F.pixel_shuffle(x, 2),
        qat.PixelUnshuffle(2): F.pixel_unshuffle(x, 2),
        qat.ChannelShuffle(4): F.channel_shuffle(x, 4),
    }
    for cell, y in expected.items():
        np.testing.assert_array_equal(moved(cell, IMAGES), y.numpy(), err_msg=cell.describe)


def test_the_order_dcr_is_that_of_tensorflow() -> None:
    tf = pytest.importorskip("tensorflow")
    last = IMAGES.transpose(0, 2, 3, 1)
    for cell, y in (
        (qat.PixelShuffle(2, "dcr"), tf.nn.depth_to_space(last, 2)),
        (qat.PixelUnshuffle(2, "dcr"), tf.nn.space_to_depth(last, 2)),
    ):
        np.testing.assert_array_equal(moved(cell, IMAGES), y.numpy().transpose(0, 3, 1, 2), err_msg=cell.describe)


@pytest.mark.parametrize("group", [1, 3, 12])
def test_channels_are_equalized_through_a_pixel_unshuffle(group: int) -> None:
    """The function stays, to 1e-5 of outputs of about 1, also where a group has parts of a channel."""
    second = qat.Conv2dBnAct(12, 12, 3, group=group)
    cells = {"first": qat.Conv2dBnAct(8, 3, 1, activation="relu"), "second": second}
    network = Traced(lambda self, x: self.second(qat.PixelUnshuffle(2)(self.first(x))), qat.Input((8, 4, 6)), **cells)
    graph = network.graph()
    params = graph.initial_params()
    params["first.weight"][1] *= 50
    equal = equalize_channels(graph, params)
    torch = qat.backend("torch")
    before, after = (torch.predict(torch.lower(graph, each), IMAGES) for each in (params, equal))
    np.testing.assert_allclose(after, before, rtol=0, atol=1e-5 * np.abs(before).max())
    assert not np.array_equal(equal["first.weight"], params["first.weight"])


UNFIT: dict[str, tuple[Any, str]] = {
    "mode": (lambda x: qat.Pad(1, mode="edge")(x), "^Pad: mode 'edge' is unknown; use one of constant, reflect"),
    "padding": (lambda x: qat.Pad((1, -1))(x), "^Pad: padding is .1, -1. and channels .0, 0.; use numbers of 0 to"),
    "value": (lambda x: qat.Pad(1, 1.0, "reflect")(x), "^Pad: mode 'reflect' repeats pixels, and takes no value"),
    "reflection": (lambda x: qat.Pad((6, 0), mode="reflect")(x), "more than there are beside the edge; use less"),
    "row": (lambda x: qat.Pad(1)(qat.Flatten()(x)), "gets .192,.; move it before the Flatten"),
    "block": (lambda x: qat.PixelShuffle(3)(x), "makes blocks of 3 x 3 pixels of 4 channels; use a multiple of 9"),
    "sides": (
        lambda x: qat.PixelUnshuffle(4)(x),
        "takes blocks of 4 x 4 pixels of 6 x 8; use sides that are multiples of 4",
    ),
    "order": (lambda x: qat.PixelShuffle(2, "rcd")(x), "^PixelShuffle: order is 'rcd'; use one of crd, dcr"),
    "groups": (
        lambda x: qat.ChannelShuffle(3)(x),
        "shuffles 3 groups of 4 channels; use a number of groups that divides",
    ),
    "factor": (lambda x: qat.Upsample((2, 0))(x), "^Upsample: horizontal is 0; give a whole number of at least 1"),
}


@pytest.mark.parametrize(("construct", "message"), UNFIT.values(), ids=UNFIT)
def test_what_a_move_cannot_take_is_refused(construct: Any, message: str) -> None:
    with pytest.raises(qat.QatError, match=message):
        graph_of(construct)


def test_a_number_without_a_code_is_refused() -> None:
    graph, params = quantized(qat.Pad(1, value=100.0))
    qat.to_integer(graph, params)  # ranges that are made up reach it: who has none yet is not refused for it
    dead = {name: np.zeros_like(a) if ".fake_quant." in name else a for name, a in params.items()}
    with pytest.raises(
        qat.QatError, match=r"^cell: 1e\+30 has no code among those of before\.0"
    ):  # it is infinite there
        qat.to_integer(quantized(qat.Pad(1, value=1e30))[0], dead)
    narrow = {name: np.sign(a) if ".fake_quant." in name else a for name, a in params.items()}
    message = r"^cell: 100 has no code among those of before\.0, whose numbers reach from -0\.996078 to 1\.00392; use a"
    with pytest.raises(qat.QatError, match=message):
        qat.to_integer(graph, narrow)


def test_a_number_without_a_code_is_said_at_calibration_and_after_training() -> None:
    network = Traced(
        lambda self, x: self.end(self.pad(self.pool(self.conv(x)))),
        qat.Input((1, 6, 6)),
        conv=qat.Conv2dBnAct(1, 2, 3, activation="relu"),
        pool=qat.MaxPool2d(2),
        pad=qat.Pad(1, value=-3.0),
        end=qat.Conv2dBnAct(2, 2, 1),
    )
    images = np.random.default_rng(0).integers(0, 256, (8, 1, 6, 6), np.uint8)
    said = r"^pad: -3 has no code among those of conv\.fake_quant, whose numbers reach from 0 to "
    with pytest.warns(qat.errors.QatWarning, match=said):
        checkpoint = calibrate(network, network.graph().initial_params(), images)
    with pytest.warns(qat.errors.QatWarning, match=said):
        warn_of_unreached_numbers(checkpoint.graph, checkpoint.params)
    with pytest.raises(qat.QatError, match=r"^pad: -3 has no code among those of pool, whose numbers reach from 0 to "):
        qat.to_integer(checkpoint.graph, checkpoint.params)


def test_a_number_that_pixels_do_not_reach_is_refused_at_once() -> None:
    network = Traced(lambda self, x: self.end(self.pad(x)), pad=qat.Pad(1, value=7.0), end=qat.Conv2dBnAct(1, 2, 1))
    with pytest.raises(qat.QatError, match=r"^pad: 7 has no code among those of input, whose numbers reach from"):
        qat.convert_quant_network(network)


# -- series: samples of two axes ----------------------------------------------------------------------------------------


class Series(qat.Network):
    """All that takes (C, L), which is stored (L, C) where channels are last, behind an input of such samples."""

    def __init__(self, dtype: str = "uint8") -> None:
        self.inputs = qat.Input((4, 9), dtype=dtype)
        self.image, self.conv = qat.Reshape((4, 9, 1)), qat.Conv2dBnAct(4, 6, (3, 1), has_bias=True)
        self.other, self.tanh, self.add = qat.Conv2dBnAct(4, 6, 1), qat.Activation("tanh"), qat.Add("relu")
        self.concat, self.stack, self.softmax = qat.Concat(1), qat.Stack(), qat.Softmax()
        self.fc = qat.DenseBnAct(6 * 9, 5)

    def construct(self, x):
        images = self.image(x)
        a, b = (y.reshape(-1, 6, 9) for y in (self.conv(images), self.other(images)))
        c = self.add(a, self.tanh(b))
        d = self.concat(c[:, :, ::2], qat.Pad(2, mode="reflect")(b), qat.Pad((0, 0, 1, 0), channels=(0, 0))(a))
        e = self.stack(a.transpose(1, 2), c.permute(0, 2, 1), self.softmax(b).transpose(1, 2))
        return self.fc(qat.Dropout(0.1)(c).flatten()), d, e, x, self.softmax(b)


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_series_are_equal_everywhere(dtype: str, tmp_path: Path) -> None:
    graph = qat.convert_quant_network(Series(dtype))
    params = graph.observed_params()
    integers = qat.to_integer(graph, params)
    x = np.random.default_rng(0).integers(0, 256, (5, 4, 9), np.uint8)
    samples = x if dtype == "uint8" else (x / 128.0 - 1.0).astype(np.float32)
    tensors = [node.output for node in integers.nodes]
    expected = {
        arithmetic: trace_codes(integers, samples, [x.name for x in tensors], arithmetic=arithmetic)
        for arithmetic in ("float", "fixed")
    }
    outputs = [x.name for x in integers.outputs]
    for backend in BACKENDS_HERE:
        engine = qat.backend(backend)
        found = engine.trace(engine.lower(graph, params), samples, tensors)
        for name, codes in expected["float"].items():
            np.testing.assert_array_equal(found[name], codes, err_msg=f"{backend}, {name}")
    for name, arithmetic, options in (
        ("ONNX", "float", {}),
        ("MINDIR", "float", {}),
        ("TFLITE", "float", {"arithmetic": "float"}),
        ("TFLITE", "fixed", {"arithmetic": "fixed"}),
        ("C", "float", {"arithmetic": "float"}),
        ("C", "fixed", {"arithmetic": "fixed"}),
    ):
        if not installed(TARGETS[name]):
            continue
        target, path = qat.target(name), tmp_path / f"net{TARGETS[name].suffix}"
        target.export(integers, path, **options)
        for node, codes in target.trace(path, samples, tensors, **options).items():
            np.testing.assert_array_equal(codes, expected[arithmetic][node], err_msg=f"{name}, {arithmetic}, {node}")
        for x, real in zip(integers.outputs, target.predict(path, samples, **options), strict=True):
            codes = x.grid.codes_of(real)
            np.testing.assert_array_equal(codes, expected[arithmetic][x.name], err_msg=f"{name}, {arithmetic}, output")
    assert [len(x.shape) for x in integers.outputs] == [1, 2, 3, 2, 2], outputs


@pytest.mark.parametrize("backend", BACKENDS_HERE)
def test_series_are_trained(backend: str) -> None:
    """As floats and as codes, against targets of their own shape; the loss falls, and backends agree in the first step."""

    class Net(qat.Network):
        def __init__(self) -> None:
            self.inputs = qat.Input((2, 5))
            self.conv, self.tanh = qat.Conv2dBnAct(2, 3, 1), qat.Activation("tanh")

        def construct(self, x):
            return self.tanh(self.conv(x.reshape(-1, 2, 5, 1)).reshape(-1, 3, 5))

    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (16, 2, 5), np.uint8)
    targets = rng.normal(size=(16, 3, 5)).astype(np.float32)
    engine = qat.backend(backend)
    for graph in (Net().graph(), qat.convert_quant_network(Net())):
        step = engine.make_step(
            engine.lower(graph, graph.initial_params()), Optimizer(), lambda ops, y, t: ops.mean((y - t) * (y - t))
        )
        losses = [float(step(x, targets, 0.01)) for _ in range(4)]
        assert losses == sorted(losses, reverse=True)
        forward = Forward(graph, NUMPY_OPS)
        tensors = forward.load(graph.initial_params(), 0).params
        (y,), _ = forward(tensors, forward.pixels((x,)), training=True, phase=0)
        assert losses[0] == pytest.approx(float(np.mean((y - targets) ** 2)), abs=1e-4)


# -- other shapes and orders --------------------------------------------------------------------------------------------

SHAPED: dict[str, tuple[Any, Any]] = {
    "reshape": (lambda x: x.reshape(-1, 8, 24), lambda a: a.reshape(-1, 8, 24)),
    "reshape to what is left": (lambda x: x.reshape((-1, 3, 8, -1)), lambda a: a.reshape(2, 3, 8, 8)),
    "view": (lambda x: x.view(-1, 192), lambda a: a.reshape(2, 192)),
    "flatten": (lambda x: x.flatten(), lambda a: a.reshape(2, -1)),
    "flatten of places": (lambda x: x.flatten(2), lambda a: a.reshape(2, 4, -1)),
    "transpose of two": (lambda x: x.transpose(1, -1), lambda a: a.transpose(0, 3, 2, 1)),
    "transpose of all": (lambda x: x.transpose(0, 2, 3, 1), lambda a: a.transpose(0, 2, 3, 1)),
    "permute": (lambda x: x.permute((0, 3, 1, 2)), lambda a: a.transpose(0, 3, 1, 2)),
    "stack": (
        lambda x: qat.Stack(1)(*x.flatten(2).chunk(2)),
        lambda a: np.stack([a[:, :2], a[:, 2:]], 2).reshape(2, 2, 2, 48),
    ),
    "stack of one": (lambda x: qat.Stack(2)(x.flatten(2)), lambda a: a.reshape(2, 4, 48, 1)),
}


@pytest.mark.parametrize(("construct", "expected"), SHAPED.values(), ids=SHAPED)
def test_shapes_are_those_of_arrays(construct: Any, expected: Any) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 4, 6, 8), np.uint8)
    for backend in BACKENDS_HERE:
        engine = qat.backend(backend)
        found = engine.predict(engine.lower(graph_of(construct)), pixels)
        np.testing.assert_array_equal(np.rint(found * 255), expected(pixels), err_msg=backend)


MISSHAPEN: dict[str, tuple[Any, str]] = {
    "samples": (lambda x: x.reshape(4, 48), r"^input.reshape.4, 48.: the first size is that of the samples"),
    "samples alone": (lambda x: x.view(-1), r"^input.reshape.-1,.: the first size is that of the samples"),
    "product": (lambda x: x.reshape(-1, 5, 5), r"makes .5, 5. of .4, 6, 8., which holds 192 numbers; use sizes whose"),
    "remainder": (lambda x: x.reshape(-1, 5, -1), r"makes .5, -1. of .4, 6, 8., which holds 192 numbers"),
    "two free": (lambda x: x.reshape(-1, -1, -1), "^Reshape: shape is .-1, -1.; give one to 3 sizes"),
    "four axes": (lambda x: x.reshape(-1, 2, 2, 6, 8), "^Reshape: shape is .2, 2, 6, 8.; give one to 3 sizes"),
    "first axis": (lambda x: x.permute(1, 0, 2, 3), r"^input.permute.1, 0, 2, 3.: the samples stay the first axis"),
    "order": (lambda x: x.permute(0, 1, 1, 2), r"^Transpose: axes are .0, 0, 1.; give each axis of a sample once"),
    "rank": (
        lambda x: qat.Transpose((1, 0))(x),
        r"puts 2 axes into another order but gets .4, 6, 8.; use an order of 3",
    ),
    "stack": (lambda x: qat.Stack()(x, x), r"makes axis 0 of 2 inputs .4, 6, 8., but samples have at most 3 axes"),
    "unlike": (
        lambda x: qat.Stack()(x.flatten(), x[:, :1].flatten()),
        r"stacks equal shapes, but gets .192,. and .48,.",
    ),
}


@pytest.mark.parametrize(("construct", "message"), MISSHAPEN.values(), ids=MISSHAPEN)
def test_shapes_that_do_not_fit_are_refused(construct: Any, message: str) -> None:
    with pytest.raises(qat.QatError, match=message):
        graph_of(construct)
