"""The lowered network as a MindSpore user meets it."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import qat
from qat.networks import LeNet5
from qat.training.optimizer import Optimizer

ms = pytest.importorskip("mindspore")
jit_trace = pytest.importorskip("mindspore.graph.jit_trace")
jit_api = pytest.importorskip("mindspore.graph.api")
tracing = pytest.importorskip("qat.backends.mindspore.tracing")
MINDSPORE = qat.backend("mindspore")
IMAGES = np.random.default_rng(0).integers(0, 256, (32, 1, 32, 32), np.uint8)
LABELS = np.random.default_rng(1).integers(0, 10, 32).astype(np.int32)


class Small(qat.Network):
    """Batch normalisation, groups, a sum, average pooling and dropout."""

    inputs = qat.Input((1, 12, 12))

    def __init__(self, rate: float = 0.0) -> None:
        self.conv1 = qat.Conv2dBnAct(1, 4, 3, has_bn=True, activation="relu")
        self.conv2 = qat.Conv2dBnAct(4, 4, 3, group=2, has_bn=True)
        self.add = qat.Add("relu")
        self.pool = qat.GlobalAvgPool2d()
        self.drop = qat.Dropout(rate)
        self.flatten = qat.Flatten()
        self.fc = qat.DenseBnAct(4, 10)

    def construct(self, x):
        x = self.conv1(x)
        x = self.add(self.conv2(x), x)
        return self.fc(self.flatten(self.drop(self.pool(x))))


SMALL_IMAGES = IMAGES[:, :, 8:20, 8:20]


@pytest.fixture
def _as_by_default() -> Iterator[None]:
    """Python goes on while an operation is computed (see conftest.py)."""
    ms.set_context(pynative_synchronize=False)
    yield
    ms.set_context(pynative_synchronize=True)


def quantized(quant_delay: int = 0) -> ms.nn.Cell:
    return MINDSPORE.lower(qat.convert_quant_network(LeNet5(), quant_delay=quant_delay))


def assert_codes_are_those_of_the_integers(model: ms.nn.Cell, images: np.ndarray) -> None:
    integers = qat.to_integer(model.graph, MINDSPORE.read(model))
    np.testing.assert_array_equal(MINDSPORE.predict_codes(model, images), qat.evaluate(integers, images))


def test_images_that_are_scaled_already_are_refused() -> None:
    """They would be normalised twice, in training as in evaluation, where no integers stand for them."""
    model = quantized()
    for training in (True, False):
        model.set_train(training)
        with pytest.raises(qat.QatError, match=r"LeNet5: takes raw pixels, uint8 \(N, 1, 32, 32\), but got Float32"):
            model(ms.Tensor((IMAGES / 255).astype(np.float32)))


@pytest.mark.usefixtures("_as_by_default")
def test_model_train_trains_it_and_its_codes_are_those_of_the_integers(tmp_path: Path) -> None:
    model = quantized(quant_delay=5)
    losses = []

    class Losses(ms.train.Callback):
        def step_end(self, run_context):
            losses.append(float(run_context.original_args().net_outputs.asnumpy()))

    optimizer = ms.nn.Momentum(model.trainable_params(), 0.01, 0.9)
    trainer = ms.train.Model(model, ms.nn.SoftmaxCrossEntropyWithLogits(sparse=True, reduction="mean"), optimizer)
    data = ms.dataset.GeneratorDataset([(IMAGES[i], LABELS[i]) for i in range(32)], ["x", "y"])
    trainer.train(25, data.batch(32), callbacks=[Losses()], dataset_sink_mode=False)
    assert model.step == 25
    assert losses[-1] < 0.5 * losses[0]
    model.set_train(False)
    assert_codes_are_those_of_the_integers(model, IMAGES)
    real = model(ms.Tensor(IMAGES)).asnumpy()
    np.testing.assert_array_equal(real, MINDSPORE.predict(model, IMAGES))

    ms.save_checkpoint(model, str(tmp_path / "net.ckpt"))
    other = quantized()
    missing, unused = ms.load_param_into_net(other, ms.load_checkpoint(str(tmp_path / "net.ckpt")))
    assert (missing, unused) == ([], [])
    np.testing.assert_array_equal(MINDSPORE.predict(other, IMAGES), real)


def test_it_is_a_cell_with_the_graph_s_names() -> None:
    model = quantized()
    assert {name for name, _ in model.parameters_and_names()} == set(model.graph.params)
    trainable = {name for name, param in model.graph.params.items() if param.trainable}
    assert {parameter.name for parameter in model.trainable_params()} == trainable
    assert "Conv2dBnAct(in_channels=1, out_channels=6" in repr(model)


def test_evaluation_follows_every_change_of_a_parameter() -> None:
    model = quantized()
    step = MINDSPORE.make_step(model, Optimizer())
    step(IMAGES, LABELS, 0.01)
    before = MINDSPORE.predict_codes(model, IMAGES)
    step(IMAGES, LABELS, 0.1)
    after = MINDSPORE.predict_codes(model, IMAGES)
    assert (before != after).any()
    model.conv1.weight.set_data(-model.conv1.weight)
    assert (MINDSPORE.predict_codes(model, IMAGES) != after).any()
    assert_codes_are_those_of_the_integers(model, IMAGES)


@pytest.mark.usefixtures("_as_by_default")
def test_every_step_reads_new_images_labels_rate_parameters_and_state() -> None:
    """A traced function takes for a constant whatever is not given to it."""
    step = MINDSPORE.make_step(quantized(), Optimizer(momentum=0.0))
    model = step.model
    weight, high = model.tensors["fc3.bias"], model.tensors["conv1.fake_quant.max"]

    def once(images=IMAGES, labels=LABELS, lr=0.01):
        before = weight.asnumpy().copy()
        loss = step(images, labels, lr)
        return loss, weight.asnumpy() - before

    start = MINDSPORE.read(model)

    def restart():
        for name, array in start.items():
            ms.ops.assign(model.tensors[name], ms.Tensor(array.copy()))

    loss, change = once()
    first = high.asnumpy().copy()
    restart()
    again, same = once()
    assert again == loss
    np.testing.assert_array_equal(same, change)
    restart()
    np.testing.assert_allclose(once(lr=0.02)[1], 2 * change, rtol=1e-5)
    restart()
    assert once(labels=(LABELS + 1) % 10)[0] != loss
    restart()
    assert once(images=IMAGES // 2)[0] != loss
    assert high.asnumpy() < first
    restart()
    ms.ops.assign(weight, weight + 0.5 * ms.Tensor(np.arange(10, dtype=np.float32)))
    assert once()[0] != loss
    restart()
    ms.ops.assign(high, ms.Tensor(np.float32(100.0)))
    once()
    assert high.asnumpy() > 50


@pytest.mark.parametrize(
    "optimizer",
    [pytest.param(Optimizer(weight_decay=1e-2), marks=pytest.mark.sweep), Optimizer("adam")],
    ids=lambda o: o.name,
)
def test_a_resumed_training_is_the_same_bit_for_bit(optimizer: Optimizer) -> None:
    graph = qat.convert_quant_network(Small(0.5), quant_delay=2)

    def run(step, first: int, last: int) -> list[float]:
        losses = []
        for number in range(first, last):
            MINDSPORE.seed(7, number)
            losses.append(step(SMALL_IMAGES, LABELS, 0.01 / (1 + number)))
        return losses

    whole = MINDSPORE.make_step(MINDSPORE.lower(graph), optimizer)
    losses = run(whole, 0, 5)
    half = MINDSPORE.make_step(MINDSPORE.lower(graph), optimizer)
    assert run(half, 0, 3) == losses[:3]
    other = MINDSPORE.make_step(MINDSPORE.lower(graph, MINDSPORE.read(half.model), step=3), optimizer)
    other.load_state(half.state())
    assert run(other, 3, 5) == losses[3:]
    for name, array in MINDSPORE.read(whole.model).items():
        np.testing.assert_array_equal(array, MINDSPORE.read(other.model)[name], err_msg=name)
    assert any(name.startswith("fc.weight.") for name in half.state())


def test_seed_decides_what_is_dropped() -> None:
    graph = qat.convert_quant_network(Small(0.5))
    losses = []
    for number in (1, 1, 2):
        step = MINDSPORE.make_step(MINDSPORE.lower(graph), Optimizer())
        MINDSPORE.seed(number)
        losses.append([step(SMALL_IMAGES, LABELS, 0.0) for _ in range(2)])
    assert losses[0] == losses[1] != losses[2]
    assert losses[0][0] != losses[0][1]


def small(kind: str) -> qat.Graph:
    return Small().graph() if kind == "float" else qat.convert_quant_network(Small())


@pytest.mark.parametrize(("kind", "tolerance"), [("float", 1e-5), ("QAT", 1e-4)])
@pytest.mark.parametrize("network", ["lenet", "small"])
def test_one_step_is_torch_s_step(network: str, kind: str, tolerance: float) -> None:
    """Norms of differences over norms, for each parameter and state after one step of SGD with L2."""
    torch = qat.backend("torch")
    graph = small(kind) if network == "small" else LeNet5().graph()
    if network == "lenet" and kind == "QAT":
        graph = qat.convert_quant_network(LeNet5())
    images = SMALL_IMAGES if network == "small" else IMAGES
    optimizer, params = Optimizer(weight_decay=1e-3), graph.initial_params(3)
    found = {}
    for backend in (torch, MINDSPORE):
        step = backend.make_step(backend.lower(graph, params), optimizer)
        loss = step(images, LABELS.astype(np.int64), 0.01)
        found[backend] = backend.read(step.model) | {"loss": np.array(loss)}
    for name, expected in found[torch].items():
        off = np.linalg.norm(found[MINDSPORE][name] - expected)
        assert off <= tolerance * np.linalg.norm(expected), f"{name}: {off}"


def test_the_avx2_kernels_are_chosen_where_the_others_are_slow() -> None:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists() and "avx512" in cpuinfo.read_text():
        assert "ONEDNN_MAX_CPU_ISA" in os.environ


def test_a_device_that_is_not_there() -> None:
    missing = next(name for name in ("Ascend", "GPU") if name not in MINDSPORE.devices())
    with pytest.raises(qat.QatError, match=f"device_target '{missing}' is not there"):
        MINDSPORE.lower(LeNet5(), device_target=missing)


def test_a_network_that_never_saw_data_cannot_be_evaluated() -> None:
    with pytest.raises(qat.QatError, match=r"conv1\.fake_quant has never seen data"):
        MINDSPORE.predict(quantized(), IMAGES)


@pytest.mark.usefixtures("_as_by_default")
def test_an_error_while_a_step_is_traced_leaves_the_step_and_mindspore_usable() -> None:
    """What runs next, of the same step or another, is what it would have been; max pooling has no second gradient."""

    def broken(ops, logits, labels):
        raise qat.QatError("no such loss")

    with pytest.raises(qat.QatError, match="no such loss"):
        MINDSPORE.make_step(MINDSPORE.lower(Small()), Optimizer(), broken)(SMALL_IMAGES, LABELS, 0.1)
    step = MINDSPORE.make_step(MINDSPORE.lower(LeNet5()), Optimizer())
    with pytest.raises(Exception, match=r"."):  # of MindSpore's own
        step(IMAGES[:, :, :30], LABELS, 0.1)
    assert step.model.step == 0
    assert repr(ms.Tensor(np.float32(3.5))).endswith("value= 3.5)")
    other = MINDSPORE.make_step(MINDSPORE.lower(LeNet5()), Optimizer())
    assert [step(IMAGES, LABELS, 0.1) for _ in range(2)] == [other(IMAGES, LABELS, 0.1) for _ in range(2)]


def compile_and_forget() -> None:
    """Raise AssertionError unless what was compiled of a network is freed once it is gone and another one is lowered."""

    def compiled() -> set[str]:
        known = jit_trace._trace_compile_cache | jit_api.ms_compile_cache
        return {phase for phase in known if jit_trace._jit_executor.has_compiled(phase)}

    gc.collect()
    step = MINDSPORE.make_step(MINDSPORE.lower(LeNet5()), Optimizer())
    before = compiled()
    step(IMAGES, LABELS, 0.1)  # one graph, as is the pass of a loop of the user's own
    step.model(ms.Tensor(IMAGES))
    assert len(compiled() - before) == 2
    MINDSPORE.lower(LeNet5())
    assert len(compiled() - before) == 2, "it is in use"
    del step
    gc.collect()
    MINDSPORE.lower(LeNet5())
    assert compiled() == before


def test_what_was_compiled_of_a_network_is_freed_when_another_is_lowered() -> None:
    """In a process of its own: what other tests have compiled, or left in a traceback, is freed at its own time."""
    code = "import test_mindspore_backend as tests; tests.compile_and_forget()"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_a_missing_device_is_no_warning_where_mindspore_was_imported_first() -> None:
    """As in a notebook that begins with it: GLOG_v, which silences them, is read in that import."""
    code = (
        "import mindspore as ms, qat; backend = qat.backend('mindspore')\n"
        "found = [backend.devices() for _ in range(2)]\n"
        "assert found[0] == found[1] and found[0][-1] == 'CPU'\n"
        "ms.log.warning('others are shown')"
    )
    without = {name: value for name, value in os.environ.items() if name != "GLOG_v"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=without)
    assert done.returncode == 0, done.stderr
    assert "others are shown" in done.stderr
    assert "is not available" not in done.stderr


def test_a_release_without_the_private_names_that_are_used_trains_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    def losses() -> list[float]:
        step = MINDSPORE.make_step(MINDSPORE.lower(Small()), Optimizer())
        found = [step(SMALL_IMAGES, LABELS, 0.1) for _ in range(2)]
        del step
        gc.collect()
        MINDSPORE.lower(Small())  # frees what was compiled, where it can
        return found

    expected = losses()
    monkeypatch.setattr(
        jit_trace, "_get_caller_lines", lambda: ([__file__], [1])
    )  # else MindSpore's own fails under python -m
    monkeypatch.setattr(tracing, "jit_trace", None)
    assert losses() == expected
