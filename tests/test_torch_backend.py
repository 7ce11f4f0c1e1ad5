"""The lowered network as a torch user meets it."""

from __future__ import annotations

import copy
import io
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.utils.prune

import qat
from qat.data import Split
from qat.deploy.verify import verify
from qat.networks import LeNet5
from qat.training.optimizer import Optimizer

TORCH = qat.backend("torch")
IMAGES = np.random.default_rng(0).integers(0, 256, (32, 1, 32, 32), np.uint8)
LABELS = np.random.default_rng(1).integers(0, 10, 32)


def quantized(quant_delay: int = 0) -> torch.nn.Module:
    return TORCH.lower(qat.convert_quant_network(LeNet5(), quant_delay=quant_delay))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("images", "found"),
    [
        (torch.tensor(IMAGES / 255, dtype=torch.float32), r"torch.float32 \(32, 1, 32, 32\)"),
        (torch.tensor(IMAGES.astype(np.int32)), r"torch.int32 \(32, 1, 32, 32\)"),
        (IMAGES, "a ndarray"),
    ],
)
def test_what_is_no_raw_pixels_is_refused(images: object, found: str, training: bool) -> None:
    """Images that are scaled already would be normalised twice, where no integers stand for them."""
    with pytest.raises(
        qat.QatError, match=rf"^LeNet5: takes raw pixels, uint8 \(N, 1, 32, 32\), but got {found}; give"
    ):
        quantized().train(training)(images)


def plain_loop(model: torch.nn.Module, steps: int, lr: float = 0.01) -> list[float]:
    """The loop that any torch user writes."""
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    losses = []
    for _ in range(steps):
        loss = torch.nn.functional.cross_entropy(model(torch.tensor(IMAGES)), torch.tensor(LABELS))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_it_is_a_module_with_the_graph_s_names() -> None:
    model = quantized()
    assert isinstance(model, torch.nn.Module)
    names = {name for name, _ in model.named_parameters()}
    assert {"conv1.weight", "fc1.weight", "fc1.bias"} <= names
    assert set(model.state_dict()) == {*model.graph.params, "_extra_state"}
    assert "Conv2dBnAct(in_channels=1, out_channels=6" in repr(model)


def test_a_plain_torch_loop_trains_it_and_its_codes_are_those_of_the_integers() -> None:
    model = quantized(quant_delay=5)
    losses = plain_loop(model, 40)
    assert losses[-1] < 0.5 * losses[0]
    integers = qat.to_integer(model.graph, TORCH.read(model))
    np.testing.assert_array_equal(TORCH.predict_codes(model, IMAGES), qat.evaluate(integers, IMAGES))
    real = model.eval()(torch.tensor(IMAGES)).numpy()
    np.testing.assert_array_equal(real, integers.output.grid.dequantize(qat.evaluate(integers, IMAGES)))


def test_the_loop_s_step_is_the_backend_s_step() -> None:
    """make_step does what the plain loop does: equal losses, bit for bit."""
    step = TORCH.make_step(quantized(quant_delay=2), Optimizer())
    assert [step(IMAGES, LABELS, 0.01) for _ in range(5)] == plain_loop(quantized(quant_delay=2), 5)


def test_quantization_sets_in_after_the_delay_and_only_in_training() -> None:
    delayed, never = quantized(quant_delay=3), TORCH.lower(LeNet5())
    plain_loop(delayed, 3)
    plain_loop(never, 3)
    for name, tensor in never.named_parameters():
        assert torch.equal(tensor, delayed.state_dict()[name]), name  # three float steps so far
    plain_loop(delayed, 1)
    plain_loop(never, 1)
    resumed = quantized(quant_delay=3)
    resumed.load_state_dict(delayed.state_dict())
    assert resumed.step == 4  # so that a delay is not waited for twice
    assert not torch.equal(delayed.state_dict()["conv1.weight"], never.state_dict()["conv1.weight"])


@pytest.mark.parametrize("how", ["step", "copy_", "load_state_dict", "assign", "replace", "prune", "data"])
def test_evaluation_follows_every_change_of_a_parameter(how: str) -> None:
    model = quantized()
    plain_loop(model, 2)
    before = TORCH.predict_codes(model, IMAGES)
    if how == "step":
        plain_loop(model, 3, lr=0.1)
    elif how == "copy_":
        with torch.no_grad():
            model.tensors["conv1.weight"].copy_(-model.tensors["conv1.weight"])
    elif how == "load_state_dict":
        state = {name: -t if name == "conv1.weight" else t for name, t in model.state_dict().items()}
        model.load_state_dict(state)
    elif how == "assign":
        model.load_state_dict(
            {name: -t if name == "conv1.weight" else t for name, t in model.state_dict().items()}, assign=True
        )
    elif how == "replace":
        model.conv1.weight = torch.nn.Parameter(-model.conv1.weight.detach())
    elif how == "prune":
        torch.nn.utils.prune.l1_unstructured(model.fc1, "weight", amount=0.9)
    else:
        model.train()
        model.tensors["conv1.weight"].data.mul_(-1.0)
        model.eval()
    after = TORCH.predict_codes(model, IMAGES)
    assert (before != after).any()
    np.testing.assert_array_equal(after, qat.evaluate(qat.to_integer(model.graph, TORCH.read(model)), IMAGES))


def test_evaluations_that_overlap_leave_no_integers_behind() -> None:
    """One thread begins to evaluate while another one does, and ends after it."""
    model = quantized()
    plain_loop(model, 2)
    begun, end = threading.Event(), threading.Event()

    def other() -> None:
        with model.unchanged():
            begun.set()
            end.wait()

    thread = threading.Thread(target=other)
    with model.unchanged():
        thread.start()
        begun.wait()
    end.set()
    thread.join()
    before = TORCH.predict_codes(model, IMAGES)
    plain_loop(model, 3, lr=0.1)
    assert (before != TORCH.predict_codes(model, IMAGES)).any()


def test_it_is_copied_and_saved_as_any_module() -> None:
    model = quantized()
    plain_loop(model, 2)
    expected = TORCH.predict_codes(model, IMAGES)
    twin = copy.deepcopy(model)
    np.testing.assert_array_equal(TORCH.predict_codes(twin, IMAGES), expected)
    plain_loop(twin, 2)
    np.testing.assert_array_equal(TORCH.predict_codes(model, IMAGES), expected)
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    buffer.seek(0)
    other = quantized()
    other.load_state_dict(torch.load(buffer))
    np.testing.assert_array_equal(TORCH.predict_codes(other, IMAGES), expected)


def test_moving_it_to_another_dtype_or_device_keeps_its_state_attached() -> None:
    model = quantized().to("cpu", torch.float32)
    plain_loop(model, 1)
    assert torch.isfinite(model.state_dict()["conv1.fake_quant.max"])


def test_autocast_does_not_touch_the_integers() -> None:
    model = quantized()
    plain_loop(model, 2)
    expected = TORCH.predict_codes(model, IMAGES)
    with torch.autocast("cpu", torch.bfloat16):
        np.testing.assert_array_equal(TORCH.predict_codes(model, IMAGES), expected)


def test_autocast_does_not_touch_a_training_step() -> None:
    """Its backward pass included."""

    def trained(narrow: bool) -> dict[str, np.ndarray]:
        step = TORCH.make_step(quantized(), Optimizer())
        with torch.autocast("cpu", torch.bfloat16, enabled=narrow):
            for _ in range(2):
                step(IMAGES, LABELS, 0.02)
        return TORCH.read(step.model)

    expected = trained(False)
    for name, array in trained(True).items():
        np.testing.assert_array_equal(array, expected[name], err_msg=name)


def test_autocast_does_not_touch_a_certificate(tmp_path: Path) -> None:
    model, onnx, path = quantized(), qat.target("ONNX"), tmp_path / "net.onnx"
    plain_loop(model, 2)
    onnx.export(model.integers(), path)
    checkpoint = qat.Checkpoint(model.graph, TORCH.read(model))
    with torch.autocast("cpu", torch.bfloat16):
        certificate = verify(path, onnx, TORCH, checkpoint, Split(IMAGES, LABELS), data="noise")
    assert certificate.passed


def test_other_float_types_are_refused() -> None:
    with pytest.raises(qat.QatError, match=r"computes in float32, not in torch\.bfloat16"):
        quantized().bfloat16()


def test_a_network_that_never_saw_data_cannot_be_evaluated() -> None:
    with pytest.raises(qat.QatError, match=r"conv1\.fake_quant has never seen data"):
        quantized().eval()(torch.tensor(IMAGES))


def test_a_compiled_step_counts_the_delay_and_learns_as_the_eager_one() -> None:
    """Compiled code adds in another order: 1e-3 of losses of about 3, over the delay and past it."""
    step = TORCH.make_step(quantized(quant_delay=2), Optimizer(), compile=True)
    compiled = [step(IMAGES, LABELS, 0.01) for _ in range(4)]
    eager = plain_loop(quantized(quant_delay=2), 4)
    np.testing.assert_allclose(compiled, eager, rtol=0, atol=1e-3)
    assert abs(compiled[3] - plain_loop(TORCH.lower(LeNet5()), 4)[3]) > 0.0
    assert step.model.step == 4


@pytest.mark.parametrize("optimizer", [Optimizer("momentum"), Optimizer("adam"), Optimizer("amsgrad")], ids=str)
def test_the_optimizers_state_is_whole_before_any_gradient(optimizer: Optimizer) -> None:
    """Also that of scales whose quantizers are idle still; a state of earlier releases, which lacked those, is taken."""
    graph = qat.convert_quant_network(LeNet5(), activation_quantizer=qat.LSQActivationQuantizer(8, quant_delay=2))
    images, labels = np.zeros((4, 1, 32, 32), np.uint8), np.arange(4)
    steps = [TORCH.make_step(TORCH.lower(graph), optimizer) for _ in range(2)]
    names = set(steps[0].state())
    trained = {name for name, param in graph.params.items() if param.trainable}
    assert {name.rpartition(".")[0] for name in names} == trained
    steps[0](images, labels, 0.01)
    state = steps[0].state()
    assert set(state) == names
    idle = "conv1.fake_quant.scale_change."
    steps[1].load_state({name: array for name, array in state.items() if not name.startswith(idle)})
    for name, array in steps[1].state().items():
        np.testing.assert_array_equal(array, state[name], err_msg=name)
    for damaged in ({}, state | {"conv1.weight.other": np.zeros(())}):
        with pytest.raises(qat.QatError, match=r"^the optimizer's state (lacks|has) "):
            steps[1].load_state(damaged)
