"""GRU and LSTM: as other frameworks compute them, one grid for all steps, and the same codes step by step."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from calibrations import calibrate
from frameworks import FILES, HERE, but_long

import qat
from qat.cells.fake_quant import FakeQuant
from qat.graph import Graph
from qat.integer import IntegerGraph, evaluate, trace_codes
from qat.pruning import l1_importance, prune_channels
from qat.registry import TARGETS
from qat.training.checkpoint import Checkpoint
from qat.training.forward import Forward
from qat.training.loop import evaluate_accuracy, train
from qat.training.recipe import Recipe
from qat.vocabulary.numpy_ops import NUMPY_OPS

Array = npt.NDArray[Any]
F = np.float32
FEATURES, UNITS, STEPS = 5, 6, 4
KINDS = [qat.GRU, qat.LSTM]


class Series(qat.Network):
    """A recurrent block over a series of codes, and a dense layer behind it."""

    def __init__(self, rnn: qat.GRU | qat.LSTM, *inputs: qat.Input) -> None:
        self.inputs = inputs or qat.Input((FEATURES, STEPS), dtype="int8", scale=1 / 32)
        self.rnn = rnn
        self.head = qat.DenseBnAct(UNITS, 3)

    def construct(self, x):
        return self.head(self.rnn(x))


class Step(Series):
    """One step of it: states are inputs and outputs."""

    def __init__(self, rnn: qat.GRU | qat.LSTM) -> None:
        states = (qat.Input((UNITS,), dtype="float32") for _ in range(rnn.states))
        super().__init__(rnn, qat.Input((FEATURES,), dtype="int8", scale=1 / 32), *states)

    def construct(self, x, *state):
        h, *others = self.rnn.step(x, *state)
        return (self.head(h), h, *others)


def codes(samples: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).integers(-128, 128, (samples, FEATURES, STEPS), np.int8)


def calibrated(kind: Any, seed: int = 0, **options: Any) -> Checkpoint:
    graph = Series(kind(FEATURES, UNITS, **options)).graph()
    params = graph.initial_params(seed)
    rng = np.random.default_rng(seed)
    params |= {
        name: rng.normal(0, 0.5, array.shape).astype(F) for name, array in params.items() if name.endswith("bias")
    }
    return calibrate(graph, params, codes(50, seed))


def stepped(kind: Any, checkpoint: Checkpoint, **options: Any) -> IntegerGraph:
    graph = qat.convert_quant_network(Step(kind(FEATURES, UNITS, **options)))
    return qat.to_integer(graph, qat.step_params(graph, checkpoint.graph, checkpoint.params))


# -- real numbers ------------------------------------------------------------------------------------------------------


def outputs_and_gradients(graph: Graph, params: dict[str, Array], x: Array) -> tuple[Array, dict[str, Array]]:
    """In PyTorch: the output, and the gradients of the sum of its squares."""
    import torch

    from qat.backends.torch.ops import TorchOps

    tensors = {name: torch.tensor(array, requires_grad=True) for name, array in params.items()}
    (y,), _ = Forward(graph, TorchOps())(tensors, (torch.tensor(x),), training=True, phase=0)
    (y * y).sum().backward()
    return y.detach().numpy(), {name: tensor.grad.numpy() for name, tensor in tensors.items()}


def real_series(rnn: qat.GRU | qat.LSTM) -> Graph:
    class Real(qat.Network):
        inputs = qat.Input((FEATURES, STEPS), dtype="float32")

        def __init__(self) -> None:
            self.rnn = rnn

        def construct(self, x):
            return self.rnn(x)

    return Real().graph()


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("kind", KINDS)
def test_outputs_and_gradients_are_those_of_pytorch(kind: Any, bias: bool) -> None:
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    theirs = getattr(torch.nn, kind.__name__)(FEATURES, UNITS, batch_first=True, bias=bias)
    ours = kind(FEATURES, UNITS, return_sequences=True, bias=bias)
    names = ["weight_ih_l0", "weight_hh_l0"] + ["bias_ih_l0", "bias_hh_l0"] * bias
    params = ours.params_of("rnn", *(getattr(theirs, name).detach().numpy() for name in names))
    x = np.random.default_rng(0).normal(size=(7, FEATURES, STEPS)).astype(F)
    y, gradients = outputs_and_gradients(real_series(ours), params, x)
    expected, _ = theirs(torch.tensor(x.transpose(0, 2, 1)))
    (expected * expected).sum().backward()
    np.testing.assert_allclose(y, expected.detach().numpy().transpose(0, 2, 1), rtol=0, atol=1e-5)
    wanted = ours.params_of("rnn", *(getattr(theirs, name).grad.numpy() for name in names))
    assert gradients.keys() == wanted.keys()
    for name, gradient in gradients.items():
        np.testing.assert_allclose(gradient, wanted[name], rtol=1e-5, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("reverse", [True, False], ids=["backwards", "forwards"])
@pytest.mark.parametrize("name", ["GRU", "GRU, reset before", "LSTM"])
def test_outputs_are_those_of_keras(name: str, reverse: bool) -> None:
    keras = pytest.importorskip("keras")
    options = {"reset_after": name == "GRU"} if name != "LSTM" else {}
    kind = name.split(",")[0]
    ours = getattr(qat, kind)(FEATURES, UNITS, reverse=reverse, **options)
    keras.utils.set_random_seed(1)
    theirs = (
        getattr(keras.layers, kind)(
            UNITS, go_backwards=reverse, bias_initializer="glorot_uniform", unit_forget_bias=False, **options
        )
        if kind == "LSTM"
        else keras.layers.GRU(UNITS, go_backwards=reverse, bias_initializer="random_normal", **options)
    )
    x = np.random.default_rng(0).normal(size=(7, FEATURES, STEPS)).astype(F)
    expected = np.asarray(theirs(x.transpose(0, 2, 1)))
    kernel, recurrent, bias = map(np.asarray, theirs.weights)
    biases = bias if bias.ndim == 2 else [bias]
    params = ours.params_of("rnn", kernel, recurrent, *biases, layout="keras")
    (y,), _ = Forward(real_series(ours), NUMPY_OPS)(params, (x,), training=False, phase=0)
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("name", "before"), [("GRU", False), ("GRU", True), ("LSTM", False)])
def test_outputs_are_those_of_onnx(name: str, before: bool) -> None:
    onnx = pytest.importorskip("onnx")
    from onnx.reference import ReferenceEvaluator

    rng = np.random.default_rng(0)
    ours = getattr(qat, name)(FEATURES, UNITS, **({"reset_after": not before} if name == "GRU" else {}))
    rows = len(ours.gates["onnx"]) * UNITS
    w, r, b = rng.normal(size=(rows, FEATURES)), rng.normal(size=(rows, UNITS)), rng.normal(size=2 * rows)
    x = rng.normal(size=(3, FEATURES, STEPS)).astype(F)
    helper, options = onnx.helper, {"linear_before_reset": int(not before)} if name == "GRU" else {}
    node = helper.make_node(name, ["x", "w", "r", "b"], ["", "y"], hidden_size=UNITS, **options)
    floats = onnx.TensorProto.FLOAT
    infos = [helper.make_tensor_value_info(each, floats, None) for each in ("x", "w", "r", "b", "y")]
    model = helper.make_model(helper.make_graph([node], "g", infos[:4], infos[4:]))
    feeds = {"x": x.transpose(2, 0, 1), "w": w[None].astype(F), "r": r[None].astype(F), "b": b[None].astype(F)}
    (expected,) = ReferenceEvaluator(model).run(None, feeds)
    params = ours.params_of("rnn", w, r, b[:rows], b[rows:], layout="onnx")
    (y,), _ = Forward(real_series(ours), NUMPY_OPS)(params, (x,), training=False, phase=0)
    np.testing.assert_allclose(y, expected[0], rtol=0, atol=1e-5)


def test_parameters_that_do_not_fit_are_refused() -> None:
    gru, good = qat.GRU(2, 3), (np.zeros((9, 2)), np.zeros((9, 3)))
    assert sorted(gru.params_of("g", *good))[:2] == ["g.hh.n.bias", "g.hh.n.weight"]
    for arguments, options, message in [
        (good, {"layout": "caffe"}, "g: layout 'caffe' is unknown"),
        ((good[0].T, good[1]), {}, r"g: ih gets a weight \(2, 9\)"),
        ((*good, np.zeros(8)), {}, r"a bias \(8,\), but needs"),
    ]:
        with pytest.raises(qat.QatError, match=message):
            gru.params_of("g", *arguments, **options)
    with pytest.raises(qat.QatError, match="has bias=False, but a bias is given"):
        qat.GRU(2, 3, bias=False).params_of("g", *good, np.zeros(9))


def test_what_is_no_series_or_no_state_is_refused() -> None:
    with pytest.raises(qat.QatError, match=r"GRU: takes a series \(C, L\), but input is \(5,\)"):
        Series(qat.GRU(FEATURES, UNITS), qat.Input((5,))).graph()

    class Without(Step):
        def construct(self, x, *state):
            return self.rnn.step(x)

    with pytest.raises(qat.QatError, match="LSTM: a step takes 2 states, but gets 0"):
        Without(qat.LSTM(FEATURES, UNITS)).graph()


# -- one fake quantizer for all steps ----------------------------------------------------------------------------------


def test_all_steps_have_one_fake_quantizer() -> None:
    graph = qat.convert_quant_network(Series(qat.GRU(FEATURES, UNITS)))
    state = [node for node in graph.nodes if node.cell_name == "rnn.h.fake_quant"]
    assert [node.name for node in state] == ["rnn.h.fake_quant", *(f"rnn.h_{i}.fake_quant" for i in range(1, STEPS))]
    assert {node.cell.shares for node in state if isinstance(node.cell, FakeQuant)} == {("rnn.start.0.fake_quant",)}
    longer = qat.convert_quant_network(
        Series(qat.GRU(FEATURES, UNITS), qat.Input((FEATURES, 9), dtype="int8", scale=1 / 32))
    )
    assert list(longer.params) == list(graph.params)  # steps cost no parameters
    assert Graph.from_json(graph.to_json()) == graph
    bits = qat.convert_quant_network(Series(qat.GRU(FEATURES, UNITS)), layers={"rnn.add.r": {"num_bits": 4}})
    found = {n.cell.quantizer.num_bits for n in bits.nodes if n.cell_name == "rnn.add.r.fake_quant"}  # type: ignore[attr-defined]
    assert found == {4}


def test_a_graph_whose_recurs_is_no_truth_value_is_refused() -> None:
    text = Series(qat.GRU(FEATURES, UNITS)).graph().to_json()
    with pytest.raises(qat.QatError, match="where true or false is expected"):
        Graph.from_json(text.replace('"recurs": true', '"recurs": 1', 1))


@pytest.mark.parametrize("ema_decay", [0.0, 0.9])
def test_a_pass_observes_all_steps_as_one_batch(ema_decay: float) -> None:
    """Also the extreme numbers of the first step; and a range from before counts once, not once for each step."""
    graph = qat.convert_quant_network(Series(qat.GRU(FEATURES, UNITS)), ema_decay=ema_decay, quant_delay=5)
    params = graph.initial_params()
    first, second = (codes(20, seed).astype(F) for seed in (1, 2))
    loop = Forward(graph, NUMPY_OPS)
    names = [node.inputs[0] for node in graph.nodes if node.cell_name == "rnn.z.fake_quant"]
    assert len(names) == STEPS
    ends = []
    for x in (first, second):
        with np.errstate(invalid="ignore"):  # 0 times infinity, of a range that has observed nothing: not chosen
            _, updates = loop(params, (x,), training=True, phase=0)
        params = params | updates
        probe = replace(graph, outputs=tuple(names))
        values, _ = Forward(probe, NUMPY_OPS)(params, (x,), training=False, phase=-1)
        ends.append(max(float(np.max(v)) for v in values))
    expected = ema_decay * ends[0] + (1 - ema_decay) * ends[1]
    assert params["rnn.z.fake_quant.max"] == pytest.approx(expected, rel=1e-6)


# -- step by step ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_network_of_one_step_has_the_grids_of_all_steps(kind: Any) -> None:
    """Also where products would be ties, so that scales give way; in both arithmetics."""
    for seed in range(6):
        checkpoint = calibrated(kind, seed)
        whole, one = qat.to_integer(checkpoint.graph, checkpoint.params), stepped(kind, checkpoint)
        grids = {node.name: node.output.grid for node in whole.nodes}
        assert {
            n.name: n.output.grid for n in one.nodes if n.name in grids and "input" not in n.name
        }.items() <= grids.items()
        assert [x.grid for x in one.inputs[1:]] == [x.grid for x in one.outputs[1:]]
        x = codes(20, seed + 100)
        for arithmetic in ("float", "fixed"):
            expected = evaluate(whole, x, arithmetic=arithmetic)
            state = [np.zeros((20, UNITS), F)] * kind(1, 1).states
            for step in range(STEPS):
                y, *found = evaluate(one, (x[:, :, step], *state), arithmetic=arithmetic)
                state = [out.grid.dequantize(each) for out, each in zip(one.outputs[1:], found, strict=True)]
            np.testing.assert_array_equal(y, expected, err_msg=f"seed {seed}, {arithmetic}")


def test_parameters_of_another_network_are_no_step() -> None:
    checkpoint = calibrated(qat.GRU)
    graph = qat.convert_quant_network(Step(qat.LSTM(FEATURES, UNITS)))
    with pytest.raises(qat.QatError, match=r"has no such parameter of shape .*, so that Step is no step of it"):
        qat.step_params(graph, checkpoint.graph, checkpoint.params)


def onnx_steps(path: Path, x: Array, state: list[Array]) -> Array:
    """The first output after the last step; what else leaves the file enters it again, codes as they are."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]
    for step in range(STEPS):
        y, *state = session.run(None, dict(zip(names, (x[:, :, step], *state), strict=True)))
    return y


def tflite_steps(path: Path, x: Array, state: list[Array]) -> Array:
    from ai_edge_litert.interpreter import Interpreter

    runner = Interpreter(str(path)).get_signature_runner()
    inputs = sorted(runner.get_input_details())
    outputs = [name for name in ("head", "rnn.h", "rnn.c") if name in runner.get_output_details()]
    found = []
    for sample in range(len(x)):
        own = [each[sample : sample + 1] for each in state]
        for step in range(STEPS):
            given = runner(**dict(zip(inputs, (x[sample : sample + 1, :, step], *own), strict=True)))
            y, *own = (given[name] for name in outputs)
        found.append(y)
    return np.concatenate(found)


def c_steps(path: Path, x: Array, state: list[Array]) -> Array:
    """A program in which each state has one buffer, that goes in and comes out."""
    buffers = [f"static int8_t s{i}[{UNITS}];" for i in range(len(state))]
    starts = [f"memset(s{i}, {int(each.ravel()[0])}, sizeof s{i});" for i, each in enumerate(state)]
    states = ", ".join(f"s{i}" for i in range(len(state)))
    (path.parent / "main.c").write_text(f"""
#include <stdio.h>
#include <string.h>
#include "{path.stem}.h"
{" ".join(buffers)}
int main(void)
{{
    int8_t x[{FEATURES}], y[3];
    int step;
    while (1) {{
        {" ".join(starts)}
        for (step = 0; step < {STEPS}; step++) {{
            if (fread(x, 1, sizeof x, stdin) != sizeof x)
                return 0;
            {path.stem}_run(x, {states}, y, {states});
        }}
        fwrite(y, 1, sizeof y, stdout);
    }}
}}
""")
    subprocess.run(["cc", "-O1", "-o", "steps", "main.c", path.name], cwd=path.parent, check=True)
    given = np.ascontiguousarray(x.transpose(0, 2, 1)).tobytes()
    done = subprocess.run(["./steps"], cwd=path.parent, input=given, capture_output=True, check=True)
    return np.frombuffer(done.stdout, np.int8).reshape(len(x), 3)


@pytest.mark.parametrize(
    ("name", "steps"), [("ONNX", onnx_steps), ("TFLITE", tflite_steps), ("C", c_steps)], ids=["ONNX", "TFLITE", "C"]
)
@pytest.mark.parametrize("kind", KINDS)
def test_codes_of_the_state_go_straight_back_into_a_file(kind: Any, name: str, steps: Any, tmp_path: Path) -> None:
    checkpoint = calibrated(kind)
    whole, one = qat.to_integer(checkpoint.graph, checkpoint.params), stepped(kind, checkpoint)
    path = tmp_path / f"step{TARGETS[name].suffix}"
    qat.target(name).export(one, path, input_type="int8", output_type="int8")
    x = codes(64, seed=3)
    zeros = [x.grid.zero_point - x.grid.qmin - 128 for x in one.inputs[1:]]
    state = [np.full((len(x), UNITS), zero, np.int8) for zero in zeros]
    expected = evaluate(whole, x)
    found = steps(path, x, state) + (whole.output.grid.qmin + 128)
    np.testing.assert_array_equal(found, expected)


# -- codes everywhere --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "arithmetic"), FILES)
@pytest.mark.parametrize("kind", KINDS)
def test_files_have_the_codes_of_numpy(kind: Any, name: str, arithmetic: str, tmp_path: Path) -> None:
    checkpoint = calibrated(kind)
    integers = qat.to_integer(checkpoint.graph, checkpoint.params)
    target, path, x = qat.target(name), tmp_path / f"net{TARGETS[name].suffix}", codes(100, seed=3)
    options = {"arithmetic": arithmetic} if len(target.ARITHMETICS) > 1 else {}
    target.export(integers, path, **options)
    found = integers.output.grid.codes_of(target.predict(path, x, **options))
    np.testing.assert_array_equal(found, evaluate(integers, x, arithmetic=arithmetic))


@pytest.mark.parametrize("name", HERE)
@pytest.mark.parametrize("kind", KINDS)
def test_backends_have_the_codes_of_numpy(kind: Any, name: str) -> None:
    checkpoint = calibrated(kind)
    integers = qat.to_integer(checkpoint.graph, checkpoint.params)
    backend, x = qat.backend(name), codes(100, seed=3)
    tensors = [node.output for node in integers.nodes]
    found = backend.trace(backend.lower(checkpoint.graph, checkpoint.params), x, tensors)
    for tensor, array in trace_codes(integers, x, [t.name for t in tensors]).items():
        np.testing.assert_array_equal(found[tensor], array, err_msg=tensor)


@pytest.mark.parametrize(
    ("kind", "name"), but_long([(kind, name) for kind in KINDS for name in HERE], lambda kind, name: name != "torch")
)
def test_backends_train_it_alike(kind: Any, name: str) -> None:
    """Before the delay and after it: losses and ranges are those of NumPy's first pass, and codes those of its integers."""
    graph = qat.convert_quant_network(Series(kind(FEATURES, UNITS)), quant_delay=1)
    params, x = graph.initial_params(), codes(32, seed=4)
    backend, labels = qat.backend(name), np.arange(32) % 3
    step = backend.make_step(backend.lower(graph, params), qat.Optimizer("adam"))
    losses = [step(x, labels, 0.01)]
    _, observed = Forward(graph, NUMPY_OPS)(params, (x.astype(F),), training=True, phase=0)
    found = backend.read(step.model)
    for state, expected in observed.items():
        np.testing.assert_allclose(found[state], np.ravel(expected)[0], rtol=1e-4, atol=1e-5, err_msg=state)
    losses += [step(x, labels, 0.01) for _ in range(3)]
    assert losses[-1] < losses[0]
    integers = qat.to_integer(graph, backend.read(step.model))
    np.testing.assert_array_equal(backend.predict_codes(step.model, x), evaluate(integers, x))


def test_the_cell_state_of_16_bits(tmp_path: Path) -> None:
    graph = Series(qat.LSTM(FEATURES, UNITS)).graph()
    layers = {f"rnn.{cell}": {"num_bits": (8, 16)} for cell in ("kept", "taken", "c", "start.1")}
    checkpoint = calibrate(graph, graph.initial_params(), codes(50), layers=layers)
    integers = qat.to_integer(checkpoint.graph, checkpoint.params)
    assert next(node.output.grid.wide for node in integers.nodes if node.name == "rnn.c")
    x = codes(100, seed=3)
    qat.target("C").export(integers, tmp_path / "net.c")
    found = integers.output.grid.codes_of(qat.target("C").predict(tmp_path / "net.c", x))
    np.testing.assert_array_equal(found, evaluate(integers, x))
    for name in ("ONNX", "TFLITE"):
        with pytest.raises(qat.QatError, match=r"^rnn\.start\.1: its activations have codes of 16 bits"):
            qat.target(name).export(integers, tmp_path / "refused")


@pytest.mark.parametrize("name", ["ONNX", "TFLITE"])
@pytest.mark.parametrize("kind", KINDS)
def test_float_files_have_the_numbers_of_numpy(kind: Any, name: str, tmp_path: Path) -> None:
    graph = Series(kind(FEATURES, UNITS)).graph()
    params, x = graph.initial_params(), codes(20)
    target, path = qat.target(name), tmp_path / f"net{TARGETS[name].suffix}"
    target.export_float(graph, params, path)
    (expected,), _ = Forward(graph, NUMPY_OPS)(params, (x.astype(F),), training=False, phase=0)
    np.testing.assert_allclose(target.predict(path, x), expected, rtol=0, atol=1e-5)


def test_c_writes_the_functions_of_all_steps_once(tmp_path: Path) -> None:
    checkpoint = calibrated(qat.GRU)
    integers = qat.to_integer(checkpoint.graph, checkpoint.params)
    qat.target("C").export(integers, tmp_path / "net.c")
    text = (tmp_path / "net.c").read_text()
    assert text.count("_weight[") == 7, "six dense cells and the head"
    longer = Series(qat.GRU(FEATURES, UNITS), qat.Input((FEATURES, 2 * STEPS), dtype="int8", scale=1 / 32))
    again = qat.to_integer(qat.convert_quant_network(longer), checkpoint.params)
    qat.target("C").export(again, tmp_path / "longer.c")

    def constants(name: str) -> str:
        return next(line.split()[2] for line in (tmp_path / name).read_text().splitlines() if "CONSTANT_BYTES " in line)

    assert constants("net.h") == constants("longer.h")


@pytest.mark.parametrize("kind", KINDS)
def test_digits_row_by_row(kind: Any, tmp_path: Path) -> None:
    """scikit-learn's digits: trained in float, quantized to 8 bits, and the codes of all 1,797 in PyTorch and ONNX."""
    pytest.importorskip("torch")
    data = qat.data.load("digits")

    class Rows(qat.Network):
        inputs = qat.Input((1, 8, 8))

        def __init__(self) -> None:
            self.rnn, self.head = kind(8, 24), qat.DenseBnAct(24, 10)

        def construct(self, x):
            return self.head(self.rnn(x.reshape(-1, 8, 8).transpose(1, 2)))

    torch, graph = qat.backend("torch"), Rows().graph()
    recipe = Recipe(12, lr=0.01, batch_size=32, optimizer=qat.Optimizer("adam"))
    trained = train(torch, Checkpoint(graph, graph.initial_params()), data, recipe)
    accuracy = evaluate_accuracy(torch, trained, data.test)
    checkpoint = calibrate(graph, trained.params, data.train.images[:500])
    assert accuracy > 0.85
    assert evaluate_accuracy(torch, checkpoint, data.test) > accuracy - 0.015
    integers = qat.to_integer(checkpoint.graph, checkpoint.params)
    x = np.concatenate([data.train.images, data.test.images])
    expected = evaluate(integers, x)
    assert expected.size >= 10_000
    qat.target("ONNX").export(integers, tmp_path / "net.onnx")
    found = integers.output.grid.codes_of(qat.target("ONNX").predict(tmp_path / "net.onnx", x))
    np.testing.assert_array_equal(found, expected)
    model = torch.lower(checkpoint.graph, checkpoint.params)
    np.testing.assert_array_equal(torch.predict_codes(model, x), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_units_are_pruned_with_all_their_gates(kind: Any) -> None:
    graph = Series(kind(FEATURES, UNITS)).graph()
    params = graph.initial_params()
    smaller, fewer = prune_channels(graph, params, l1_importance(graph, params), ratio=0.5)
    assert fewer["rnn.hh.n.weight" if kind is qat.GRU else "rnn.hh.g.weight"].shape == (3, 3)
    assert smaller.shapes["rnn.start.0"] == (3,)
    checkpoint = calibrate(smaller, fewer, codes(20))
    assert evaluate(qat.to_integer(checkpoint.graph, checkpoint.params), codes(5)).shape == (5, 3)


def test_the_page_runs() -> None:
    page = Path(__file__).resolve().parents[1] / "docs" / "recurrent.md"
    names: dict[str, Any] = {"__name__": "page"}
    for block in page.read_text(encoding="utf-8").split("```python\n")[1:]:
        exec(block.partition("```")[0], names)

    class OfYourOwn(qat.Network):
        inputs = qat.Input((3, 20), dtype="int8", scale=1 / 64)

        def __init__(self) -> None:
            self.leaky = names["Leaky"](3, 5)

        def construct(self, x):
            return self.leaky(x)

    graph = qat.convert_quant_network(OfYourOwn())
    found = {node.cell_name for node in graph.nodes if isinstance(node.cell, FakeQuant)}
    assert found == {f"leaky.{cell}.fake_quant" for cell in ("ih", "hh", "sum", "tanh", "start")}
