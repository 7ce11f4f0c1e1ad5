"""MindSpore's training step as one compiled graph: the same as in several, and what happens where it cannot be."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conformance import assert_conforms
from test_ops_conformance import CASES as CASES_OF_OPS

import qat
from qat.cli import main
from qat.networks import LeNet5
from qat.quantizers import FAMILY
from qat.training.losses import Loss, Objective, cross_entropy
from qat.training.objectives import SizeBudget
from qat.training.optimizer import Optimizer

ms = pytest.importorskip("mindspore")
compiled = pytest.importorskip("qat.backends.mindspore.compiled")
ADAPTER = pytest.importorskip("conformance_mindspore").ADAPTER
MINDSPORE = qat.backend("mindspore")
CLOSE = 1e-4  #: |a - b| / |b|, norms of a whole parameter: sums in another order
IMAGES = np.random.default_rng(0).integers(0, 256, (16, 1, 32, 32), np.uint8)
SMALL_IMAGES = IMAGES[:, :, 8:20, 8:20]
LABELS = np.random.default_rng(1).integers(0, 10, 16).astype(np.int32)


class Small(qat.Network):
    """Batch normalisation, groups, a sum, average pooling and dropout."""

    inputs = qat.Input((1, 12, 12))

    def __init__(self) -> None:
        self.conv1 = qat.Conv2dBnAct(1, 4, 3, has_bn=True, activation="relu")
        self.conv2 = qat.Conv2dBnAct(4, 4, 3, group=2, has_bn=True)
        self.add, self.pool, self.drop = qat.Add("relu"), qat.GlobalAvgPool2d(), qat.Dropout(0.3)
        self.flatten, self.fc = qat.Flatten(), qat.DenseBnAct(4, 10)

    def construct(self, x):
        x = self.conv1(x)
        x = self.add(self.conv2(x), x)
        return self.fc(self.flatten(self.drop(self.pool(x))))


class OneParameter(qat.Network):
    """A single thing to train."""

    inputs = qat.Input((1, 12, 12))

    def __init__(self) -> None:
        self.flatten, self.fc = qat.Flatten(), qat.DenseBnAct(144, 10, has_bias=False)

    def construct(self, x):
        return self.fc(self.flatten(x))


def quantized_by(name: str) -> qat.Graph:
    pair = FAMILY[name]
    return qat.convert_quant_network(LeNet5(activation=pair.activation), **pair.settings("fc3"))


CASES: dict[str, tuple[Callable[[], qat.Graph], Optimizer, Loss | Objective]] = {
    "delay, momentum, decay, clipped": (
        lambda: qat.convert_quant_network(LeNet5(), quant_delay=2),
        Optimizer(weight_decay=1e-2, clip_norm=0.5),
        cross_entropy,
    ),
    "one parameter": (lambda: OneParameter().graph(), Optimizer(), cross_entropy),
    "freeze_bn, Adam, average": (
        lambda: qat.convert_quant_network(Small(), freeze_bn=2),
        Optimizer("adam", weight_decay=1e-2, ema=0.9),
        cross_entropy,
    ),
    "one convolution, AMSGrad, clipped": (
        lambda: qat.convert_quant_network(Small(), one_conv_fold=True),
        Optimizer("amsgrad", clip_norm=0.5),
        cross_entropy,
    ),
    "objective, in parts": (lambda: quantized_by("learned width"), Optimizer(accumulate=2), SizeBudget(3.0)),
    "LSQ": (lambda: quantized_by("LSQ"), Optimizer(), cross_entropy),
}
QUICK = ("delay, momentum, decay, clipped", "one parameter")


def trained(graph: qat.Graph, optimizer: Optimizer, loss: Loss | Objective, *, one_graph: bool) -> dict[str, Any]:
    """Losses, terms, parameters and the optimizer's state of four steps."""
    images = IMAGES if graph.input_specs[0].shape[-1] == 32 else SMALL_IMAGES
    step = MINDSPORE.make_step(MINDSPORE.lower(graph, graph.initial_params(3)), optimizer, loss)
    step._compiled.runs = one_graph
    MINDSPORE.seed(5)
    losses = [step(images, LABELS, 0.01 / (1 + number)) for number in range(4)]
    assert step._compiled.runs is one_graph
    assert step.model.step == 4
    return MINDSPORE.read(step.model) | step.state() | step.averages() | step.terms() | {"losses": np.array(losses)}


@pytest.mark.parametrize("case", [pytest.param(c, marks=[] if c in QUICK else pytest.mark.sweep) for c in CASES])
def test_the_step_as_one_graph_is_the_step_in_several(case: str) -> None:
    make, optimizer, loss = CASES[case]
    graph = make()
    one, several = (trained(graph, optimizer, loss, one_graph=one_graph) for one_graph in (True, False))
    assert one.keys() == several.keys()
    for name, expected in several.items():
        off = np.linalg.norm(one[name] - expected)
        assert off <= CLOSE * np.linalg.norm(expected), f"{name}: {off}"


def set_data(model: Any, params: dict[str, np.ndarray]) -> None:
    for name, array in params.items():
        model.tensors[name].set_data(ms.Tensor(array))


def load(model: Any, params: dict[str, np.ndarray]) -> None:
    found = {name: ms.Parameter(ms.Tensor(array), name=name) for name, array in params.items()}
    assert ms.load_param_into_net(model, found) == ([], [])


@pytest.mark.parametrize("put", [set_data, load, MINDSPORE.write], ids=lambda put: put.__name__)
@pytest.mark.parametrize("one_graph", [True, False])
def test_training_goes_on_from_what_mindspore_sets_parameters_to(one_graph: bool, put: Callable[..., None]) -> None:
    """What is compiled would go on in the memory that the parameters had before."""
    graph = LeNet5().graph()
    params = graph.initial_params(3)
    step = MINDSPORE.make_step(MINDSPORE.lower(graph, params), Optimizer(momentum=0.0))
    step._compiled.runs = one_graph
    losses = [step(IMAGES, LABELS, 0.05) for _ in range(2)]
    after = {name: array.copy() for name, array in MINDSPORE.read(step.model).items()}
    put(step.model, params)
    assert [step(IMAGES, LABELS, 0.05) for _ in range(2)] == losses
    for name, array in MINDSPORE.read(step.model).items():
        np.testing.assert_array_equal(array, after[name], err_msg=name)


def test_what_is_set_needs_the_parameter_s_shape() -> None:
    model = MINDSPORE.lower(LeNet5())
    before = model.fc3.bias.asnumpy().copy()
    with pytest.raises(Exception, match=r"(?i)shape"):
        model.fc3.bias.set_data(ms.Tensor(np.zeros(3, np.float32)))
    np.testing.assert_array_equal(model.fc3.bias.asnumpy(), before)


@pytest.fixture
def _warnings_of_ours() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        yield


@pytest.mark.usefixtures("_warnings_of_ours")
def test_a_loss_that_only_computes_eagerly_trains_in_several_graphs_and_says_so() -> None:
    """MindSpore stays usable."""
    calls = []

    def fails_while_it_is_compiled(ops, logits, labels):
        calls.append(1)
        if len(calls) == 2:
            raise RuntimeError("this needs a number\nhere")
        return cross_entropy(ops, logits, labels)

    graph = LeNet5().graph()
    step = MINDSPORE.make_step(MINDSPORE.lower(graph, graph.initial_params(3)), Optimizer(), fails_while_it_is_compiled)
    with pytest.warns(UserWarning, match=r"LeNet5: MindSpore does not compile .* \(this needs a number\)"):
        losses = [step(IMAGES, LABELS, 0.05)]
    losses.append(step(IMAGES, LABELS, 0.05))
    other = MINDSPORE.make_step(MINDSPORE.lower(graph, graph.initial_params(3)), Optimizer())
    assert [other(IMAGES, LABELS, 0.05) for _ in range(2)] == losses
    assert other._compiled.runs


@pytest.mark.usefixtures("_warnings_of_ours")
def test_another_release_of_mindspore_trains_in_several_graphs_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled.ms, "__version__", "2.11.0")
    with pytest.warns(UserWarning, match=r"LeNet5: .* known of MindSpore 2\.10\.x only, and this is 2\.11\.0"):
        step = MINDSPORE.make_step(MINDSPORE.lower(LeNet5()), Optimizer())
    assert not step._compiled.runs
    assert np.isfinite(step(IMAGES, LABELS, 0.05))


def test_a_wrong_batch_after_good_ones_leaves_the_step_usable() -> None:
    steps = [MINDSPORE.make_step(MINDSPORE.lower(LeNet5()), Optimizer()) for _ in range(2)]
    losses = [step(IMAGES, LABELS, 0.05) for step in steps]
    with pytest.raises(Exception, match=r"."):  # MindSpore's own: as many labels as images
        steps[0](IMAGES, LABELS[:7], 0.05)
    assert steps[0]._compiled.runs
    assert losses[0] == losses[1]
    assert steps[0](IMAGES, LABELS, 0.05) == steps[1](IMAGES, LABELS, 0.05)
    assert steps[0](IMAGES[:8], LABELS[:8], 0.05) == steps[1](IMAGES[:8], LABELS[:8], 0.05)


@pytest.mark.sweep
def test_every_operation_conforms_within_one_graph() -> None:
    """In several graphs, so that a failure stays small."""
    failures = []
    for start in range(0, len(CASES_OF_OPS), 40):
        cases = CASES_OF_OPS[start : start + 40]
        for case, result in zip(cases, ADAPTER.run(cases, compiled=True), strict=True):
            try:
                assert_conforms(case, result, differentiates=True)
            except AssertionError as error:
                failures.append(str(error))
    assert not failures, "\n".join(failures)


@pytest.mark.sweep
def test_the_page_s_example_of_mindspore_s_own_loop(request: pytest.FixtureRequest) -> None:
    request.addfinalizer(partial(ms.set_context, mode=ms.PYNATIVE_MODE))
    text = (Path(__file__).parent.parent / "docs" / "library.md").read_text()
    (code,) = re.findall(r"```python\n(import mindspore.*?)```", text, re.DOTALL)
    found: dict[str, Any] = {}
    exec(code, found)
    assert found["network"].step == 6
    np.testing.assert_array_equal(found["codes"], qat.evaluate(found["network"].integers(), found["pixels"]))


@pytest.mark.parametrize(
    ("mode", "sink"),
    [
        ("GRAPH_MODE", True),
        pytest.param("PYNATIVE_MODE", False, marks=pytest.mark.sweep),
    ],
)
def test_model_train_runs_the_step_in_either_mode(mode: str, sink: bool, request: pytest.FixtureRequest) -> None:
    """Its losses are those of ``make_step``, with the optimizer's own rate."""
    request.addfinalizer(partial(ms.set_context, mode=ms.PYNATIVE_MODE))
    ms.set_context(mode=getattr(ms, mode))
    graph = qat.convert_quant_network(LeNet5(), quant_delay=2)
    model = MINDSPORE.lower(graph, graph.initial_params(3))
    optimizer = ms.nn.Momentum(model.trainable_params(), ms.nn.piecewise_constant_lr([2, 100], [0.05, 0.02]), 0.9)
    losses = []

    class Losses(ms.train.Callback):
        def step_end(self, run_context):
            losses.append(float(run_context.original_args().net_outputs.asnumpy()))

    data = ms.dataset.GeneratorDataset(list(zip(IMAGES, LABELS, strict=True)), ["x", "y"], shuffle=False)
    trainer = ms.train.Model(MINDSPORE.TrainOneStepCell(model, optimizer))
    trainer.train(4, data.batch(16), callbacks=[Losses()], dataset_sink_mode=sink)
    step = MINDSPORE.make_step(MINDSPORE.lower(graph, graph.initial_params(3)), Optimizer())
    assert losses == [step(IMAGES, LABELS, rate) for rate in (0.05, 0.05, 0.02, 0.02)]
    assert model.step == 4
    model.set_train(False)
    np.testing.assert_array_equal(model(ms.Tensor(IMAGES)).asnumpy(), MINDSPORE.predict(model, IMAGES))
    np.testing.assert_array_equal(
        MINDSPORE.predict_codes(model, IMAGES), qat.evaluate(qat.to_integer(graph, MINDSPORE.read(model)), IMAGES)
    )


def test_a_command_trains_where_it_is_asked_for_a_data_sink(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "net.ckpt"
    command = ["train", "--backend", "mindspore", "--data_path", "digits", "--epochs", "1", "--batch_size", "1024"]
    assert main([*command, "--dataset_sink_mode", "true", "--save_path", str(path)]) == 0
    assert path.exists()
    assert "note: --dataset_sink_mode true: MindSpore's data sink" in capfd.readouterr().err
