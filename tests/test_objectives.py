"""What a loss may ask for beside the outputs: the pass with idle quantizers, the quantizers' bits, a teacher."""

from __future__ import annotations

from dataclasses import replace
from functools import cache, partial
from itertools import product
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from frameworks import HERE, but_long
from test_backends_agree import QAT, distances

import qat
from qat.analysis.metrics import bops, learned_bits, macs
from qat.cli import main
from qat.data import load
from qat.networks import LeNetGTC
from qat.training.distillation import teach
from qat.training.event_file import EventFile
from qat.training.forward import Forward
from qat.training.loop import train
from qat.training.losses import Objective, soft_cross_entropy, step_terms
from qat.training.objectives import BopsBudget, Distillation, GTCLoss, SizeBudget
from qat.training.optimizer import Optimizer
from qat.training.recipe import Recipe
from qat.vocabulary.numpy_ops import NUMPY_OPS

Array = npt.NDArray[np.float32]
RNG = np.random.default_rng(0)
IMAGES, LABELS = RNG.integers(0, 256, (16, 1, 28, 28), np.uint8), RNG.integers(0, 10, 16)
LOGITS = RNG.normal(0, 3, (16, 10)).astype(np.float32)
TORCH = qat.backend("torch")
LEARNED, LEARNED_A = qat.LearnedWidthWeightQuantizer, qat.LearnedWidthActivationQuantizer
GTC = qat.convert_quant_network(
    LeNetGTC(),
    weight_quantizer=qat.GTCWeightQuantizer(),
    layers={"fc1": {"activation_quantizer": qat.GTCActivationQuantizer()}},
)


class Small(qat.Network):
    """Batch normalisation and dropout: state and random numbers."""

    def __init__(self) -> None:
        self.inputs = qat.Input((1, 8, 8), mean=0.3, std=0.3)
        self.conv = qat.Conv2dBnAct(1, 8, 3, has_bn=True, activation="relu")
        self.dropout = qat.Dropout(0.2)
        self.flatten = qat.Flatten()
        self.fc = qat.DenseBnAct(512, 10)

    def construct(self, x):
        return self.fc(self.flatten(self.dropout(self.conv(x))))


# -- the losses, transcribed ------------------------------------------------------------------------------------------


def softmax(z: Array) -> Array:
    e = np.exp(z.astype(np.float64) - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def soft(z: Array, t: Array, temperature: float) -> float:
    """Hinton et al., arXiv 1503.02531, section 2."""
    return float(-(softmax(t / temperature) * np.log(softmax(z / temperature))).sum(axis=1).mean())


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_a_soft_cross_entropy_is_the_paper_s(temperature: float) -> None:
    z = RNG.normal(0, 5, (16, 10)).astype(np.float32)
    found = soft_cross_entropy(NUMPY_OPS, z, LOGITS, temperature)
    np.testing.assert_allclose(found, soft(z, LOGITS, temperature), rtol=2e-6)


def numpy_terms(objective: Objective, graph: qat.Graph, params: dict[str, Array], targets: object) -> dict[str, Array]:
    kinds = {name: param.kind for name, param in graph.params.items()}
    tensors = {name: NUMPY_OPS.from_numpy(array, kinds[name]) for name, array in params.items()}
    forward = Forward(graph, NUMPY_OPS)
    return step_terms(forward, objective, tensors, (IMAGES.astype(np.float32),), targets, phase=0)[0]


def test_the_terms_of_distillation_are_numpy_s() -> None:
    graph = LeNetGTC().graph()
    terms = numpy_terms(Distillation(3.0, 0.25), graph, graph.initial_params(), (LABELS, LOGITS))
    z = TORCH.predict(TORCH.lower(graph), IMAGES)
    hard = -np.log(softmax(z)[np.arange(16), LABELS]).mean()
    divergence = soft(z, LOGITS, 3.0) - soft(LOGITS, LOGITS, 3.0)
    np.testing.assert_allclose(terms["cross_entropy"], hard, rtol=1e-5)
    np.testing.assert_allclose(terms["distillation_loss"], divergence, rtol=1e-5)
    np.testing.assert_allclose(terms["loss"], 0.75 * hard + 0.25 * 9 * divergence, rtol=1e-5)


def test_the_terms_of_gtc_are_the_document_s() -> None:
    objective, params = GTCLoss(0.5, 1e-3, 1e-2, "mended"), started()
    terms = numpy_terms(objective, GTC, params, LABELS)
    high = LeNetGTC().graph()
    z = TORCH.predict(TORCH.lower(high, {name: params[name] for name in high.params}), IMAGES)
    np.testing.assert_allclose(terms["hp_logits"], z, rtol=1e-4, atol=1e-4)
    hard = -np.log(softmax(z)[np.arange(16), LABELS]).mean()
    weights = sum(float((params[f"{name}.weight"].astype(np.float64) ** 2).sum()) / 2 for name in LAYERS)
    bits = {name: float(value[0]) for name, value in terms.items() if name.startswith("bits:")}
    assert bits.keys() == {*(f"bits:{name}.weight" for name in LAYERS), "bits:fc1.fake_quant"}
    expected = {
        "hp_cross_entropy": hard,
        "distillation_loss": soft(terms["lp_logits"], terms["hp_logits"], 1.0),
        "bit_loss": sum(2**each for each in bits.values()),
        "regularization_term": weights,
    }
    for name, value in expected.items():
        np.testing.assert_allclose(terms[name], value, rtol=1e-5, err_msg=name)
    total = hard + 0.5 * expected["distillation_loss"] + 1e-3 * expected["bit_loss"] + 1e-2 * weights
    np.testing.assert_allclose(terms["total_loss"], total, rtol=1e-5)
    other = numpy_terms(GTCLoss(0.5, 1e-3, 1e-2, "document"), GTC, params, LABELS)
    change = 1e-3 * (other["document_bit_loss"] - other["bit_loss"])
    np.testing.assert_allclose(other["total_loss"] - terms["total_loss"], change, rtol=1e-3)


LAYERS = ("conv1", "conv2", "fc1", "fc2", "fc3")


@cache
def started() -> dict[str, Array]:
    """GTC's parameters after some steps, which are more ordinary numbers."""
    model = TORCH.lower(GTC, GTC.initial_params(3))
    step = TORCH.make_step(model, Optimizer("adam"), GTCLoss())
    for _ in range(10):
        step(IMAGES, LABELS, 1e-3)
    return TORCH.read(model)


# -- in a step --------------------------------------------------------------------------------------------------------


class OneLayer(qat.Network):
    """What a compiler is done with in seconds."""

    inputs = qat.Input((1, 28, 28), mean=0.3, std=0.3)

    def __init__(self) -> None:
        self.flatten, self.fc = qat.Flatten(), qat.DenseBnAct(784, 10)

    def construct(self, x):
        return self.fc(self.flatten(x))


WIDTHS = qat.convert_quant_network(LeNetGTC(), weight_quantizer=LEARNED(8), activation_quantizer=LEARNED_A(8))
STEPS = {
    "two heads": (GTC, GTCLoss(1.0, 1e-2, 1e-3, "mended"), LABELS),
    "two heads, the document's bits": (GTC, GTCLoss(1.0, 1e-2, 1e-3, "document"), LABELS),
    "a teacher": (GTC, Distillation(2.0, 0.75), (LABELS, LOGITS)),
    "a size budget": (WIDTHS, SizeBudget(3.0), LABELS),
    "a BOPs budget": (WIDTHS, BopsBudget(1e6, 0.1), LABELS),
    "its own teacher": (GTC, Distillation(2.0, 0.75, own_teacher=True), LABELS),
    "its own teacher, one layer": (
        qat.convert_quant_network(OneLayer(), num_bits=4),
        Distillation(2.0, 0.75, own_teacher=True),
        LABELS,
    ),
}


@cache
def after_one_step(backend_name: str, case: str, compile: bool = False) -> tuple[dict[str, Array], dict[str, Array]]:
    """Parameters after one step of SGD, and the step's terms."""
    graph, objective, targets = STEPS[case]
    backend = qat.backend(backend_name)
    model = backend.lower(graph, started() if graph is GTC else graph.initial_params(3))
    step = backend.make_step(model, Optimizer(), objective, compile=compile)
    loss = step(IMAGES, targets, 0.02)
    terms = step.terms()
    assert loss == next(iter(terms.values()))
    return backend.read(model), terms


def assert_near(case: str, params: dict[str, Array], terms: dict[str, Array]) -> None:
    expected, expected_terms = after_one_step("torch", case)
    far = distances(params, expected)
    assert not {name: distance for name, distance in far.items() if not distance <= QAT}
    assert terms.keys() == expected_terms.keys()
    for name, value in expected_terms.items():
        np.testing.assert_allclose(terms[name], value, rtol=QAT, atol=QAT, err_msg=name)


@pytest.mark.parametrize(
    ("name", "case"),
    but_long(
        product([name for name in HERE if name != "torch"], STEPS),
        lambda name, case: (
            name == "mindspore" and case in ("two heads, the document's bits", "a BOPs budget", "a teacher")
        ),
    ),
)
def test_one_step_is_the_same_on_every_backend(name: str, case: str) -> None:
    assert_near(case, *after_one_step(name, case))


@pytest.mark.parametrize(
    ("case", "generator"),
    [
        ("its own teacher, one layer", "inductor"),
        pytest.param("two heads", "aot_eager", marks=pytest.mark.sweep),
        pytest.param("two heads", "inductor", marks=pytest.mark.sweep),
    ],
)
def test_one_compiled_step_is_the_same(case: str, generator: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch's code generator takes a minute for the formulas of GTC, which are compiled up to there."""
    torch._dynamo.reset()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=generator))
    assert_near(case, *after_one_step.__wrapped__("torch", case, compile=True))


def test_the_gradient_flows_into_both_heads() -> None:
    """Without the distillation the slopes learn nothing but the bits."""
    before = started()
    for factor, moves in ((0.0, False), (1.0, True)):
        model = TORCH.lower(GTC, before)
        TORCH.make_step(model, Optimizer(), GTCLoss(factor, 0.0, 0.0))(IMAGES, LABELS, 0.02)
        after = TORCH.read(model)
        assert (after["fc2.weight_slope"] != before["fc2.weight_slope"]) == moves
        assert (after["fc2.weight"] != before["fc2.weight"]).any()


@pytest.mark.parametrize("name", HERE)
def test_the_pass_with_idle_quantizers_leaves_the_state_alone(name: str) -> None:
    """Running statistics and ranges after a step with two heads are those after a step with one."""
    graph = qat.convert_quant_network(Small(), layers={})
    backend, small = qat.backend(name), RNG.integers(0, 256, (16, 1, 8, 8), np.uint8)
    found = []
    for loss in (Distillation(own_teacher=True), Distillation()):
        model = backend.lower(graph)
        backend.seed(1)
        targets = LABELS if loss.own_teacher else (LABELS, LOGITS)
        backend.make_step(model, Optimizer(), loss)(small, targets, 0.01)
        found.append(backend.read(model))
    state = [name for name, param in graph.params.items() if not param.trainable]
    assert {"conv.moving_mean", "conv.fake_quant.max"} <= set(state)
    for each in state:
        np.testing.assert_array_equal(found[0][each], found[1][each], err_msg=each)


# -- learned widths ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize(("width", "bits"), [(8.0, 8), (3.4, 3), (3.6, 4), (2.5, 2), (-1.0, 2), (99.0, 8)])
def test_a_learned_width_has_the_value_and_gradients_of_the_formula(width: float, bits: int, per_channel: bool) -> None:
    """Uhlich et al., arXiv 1905.11452, section 2: d rint(w / d), d = max|w| / (2^(b-1) - 1)."""
    w, g = RNG.normal(size=(4, 30)), RNG.normal(size=(4, 30))
    largest = (
        np.abs(w.astype(np.float32)).max(axis=1, keepdims=True) if per_channel else np.abs(w.astype(np.float32)).max()
    )
    d = largest.astype(np.float64) / (2 ** (bits - 1) - 1)
    value = np.rint(w / d) * d
    of_width = (g * (np.rint(w / d) - w / d) * -d * np.log(2) * 2 ** (bits - 1) / (2 ** (bits - 1) - 1)).sum()
    tensors = {"share": torch.tensor(width / 8, requires_grad=True)}
    weight = torch.tensor(w, dtype=torch.float32, requires_grad=True)
    quantizer, ops = LEARNED(per_channel=per_channel), TORCH.TorchOps()
    codes = quantizer.quantize(ops, weight, None, tensors)
    found = codes.centred * ops.on_output(codes.scale, weight)
    (found * torch.tensor(g, dtype=torch.float32)).sum().backward()
    np.testing.assert_allclose(found.detach().numpy(), value, rtol=0, atol=2e-6 * np.abs(value).max())
    np.testing.assert_allclose(weight.grad.numpy(), g, rtol=0, atol=1e-5)
    np.testing.assert_allclose(tensors["share"].grad.item(), 8 * of_width, rtol=0, atol=1e-3 * max(1.0, abs(of_width)))
    assert np.abs(codes.centred.detach().numpy()).max() == 2 ** (bits - 1) - 1
    assert quantizer.bits(ops, weight, tensors) == bits


def test_the_terms_of_a_size_budget_are_numpy_s() -> None:
    graph = qat.convert_quant_network(
        LeNetGTC(), weight_quantizer=LEARNED(6), layers={"fc3": {"weight_quantizer": qat.WeightQuantizer(3)}}
    )
    params = graph.initial_params() | {"fc1.weight_share": np.float32(2.6 / 6)}
    terms = numpy_terms(SizeBudget(2.0, 0.5), graph, params, LABELS)
    bits = ((150 + 1500 + 16384) * 6 + 62720 * 3 + 1280 * 3) / 82034
    np.testing.assert_allclose(terms["bits_per_weight"], bits, rtol=1e-6)
    expected = float(terms["cross_entropy"][0]) + 0.5 * (bits / 2.0 - 1.0) ** 2
    np.testing.assert_allclose(terms["loss"], expected, rtol=1e-6)


def test_the_terms_of_a_bops_budget_are_numpy_s() -> None:
    """Those that the reports print, and their gradients by differences."""
    settings = {"weight_quantizer": qat.WeightQuantizer(3), "activation_quantizer": None}
    graph = qat.convert_quant_network(
        LeNetGTC(), weight_quantizer=LEARNED(6), activation_quantizer=LEARNED_A(8), layers={"fc3": settings}
    )
    shares = {"conv1.weight_share": 2.6 / 6, "conv1.fake_quant.share": 4.8 / 8, "fc1.fake_quant.share": 3.3 / 8}
    params = graph.initial_params() | {name: np.float32(share) for name, share in shares.items()}
    terms = numpy_terms(BopsBudget(5e6, 0.5), graph, params, LABELS)
    counts = macs(graph)
    bits = {"conv1": 3 * 8, "conv2": 6 * 5, "fc1": 6 * 8, "fc2": 6 * 3, "fc3": 3 * 8}
    expected = sum(counts[name] * each for name, each in bits.items())
    assert sum(bops(graph, params).values()) == expected
    np.testing.assert_allclose(terms["bops"], expected, rtol=1e-6)
    loss = float(terms["cross_entropy"][0]) + 0.5 * (expected / 5e6 - 1.0) ** 2
    np.testing.assert_allclose(terms["loss"], loss, rtol=1e-6)
    assert numpy_terms(BopsBudget(1e9), graph, params, LABELS)["loss"] == terms["cross_entropy"]
    tensors = {name: torch.tensor(array, requires_grad=True) for name, array in params.items()}
    ops = TORCH.TorchOps()
    found, _ = step_terms(
        Forward(graph, ops),
        BopsBudget(5e6, 0.5),
        tensors,
        (torch.tensor(IMAGES).float(),),
        torch.tensor(LABELS),
        phase=0,
    )
    found["bops"].backward()
    for name, (layer, other, most) in {
        "conv1.weight_share": ("conv1", 8, 6),
        "conv1.fake_quant.share": ("conv2", 6, 8),
        "fc1.fake_quant.share": ("fc2", 6, 8),
    }.items():
        np.testing.assert_allclose(tensors[name].grad.item(), counts[layer] * other * most, rtol=1e-5, err_msg=name)


def test_fake_quantizers_that_share_a_grid_take_the_most_bits() -> None:
    class Residual(qat.Network):
        inputs = qat.Input((4, 8, 8))

        def __init__(self) -> None:
            self.conv1, self.conv2 = (qat.Conv2dBnAct(4, 4, 3, activation=name) for name in ("relu", None))
            self.add, self.flatten, self.fc = qat.Add("relu"), qat.Flatten(), qat.DenseBnAct(256, 10)

        def construct(self, x):
            x = self.conv1(x)
            return self.fc(self.flatten(self.add(self.conv2(x), x)))

    graph = qat.convert_quant_network(Residual(), activation_quantizer=LEARNED_A(8))
    shares = {"conv1.fake_quant.share": 5 / 8, "conv2.fake_quant.share": 3 / 8, "add.fake_quant.share": 4 / 8}
    params = graph.observed_params() | {name: np.float32(share) for name, share in shares.items()}
    found = learned_bits(graph, params)
    assert {name.removesuffix(".fake_quant"): bits for name, bits in found.items()} == {
        "conv1": 5,
        "conv2": 5,
        "add": 4,
        "fc": 8,
    }
    cells = {node.name: node.cell for node in graph.nodes}
    for name, bits in found.items():
        own = {local: params[f"{name}.{local}"] for local in cells[name].params()}
        grid = cells[name].grid(name, own, params)
        assert (grid.qmin, grid.qmax) == (0, 2**bits - 1)
    counts = macs(graph)
    assert bops(graph, params) == {
        "conv1": counts["conv1"] * 8 * 8,
        "conv2": counts["conv2"] * 8 * 5,
        "fc": counts["fc"] * 8 * 4,
    }


def test_a_training_comes_down_to_its_budget_and_deploys(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config, paths = tmp_path / "learned.yaml", [str(tmp_path / f"{name}.ckpt") for name in ("float", "quantized")]
    config.write_text("weight_quantizer: {type: LearnedWidthWeightQuantizer, per_channel: true}\n", encoding="utf-8")
    common = ["--data_path", "digits", "--epochs", "4", "--batch_size", "32", "--optimizer", "adam", "--lr", "0.01"]
    assert main(["train", *common, "--save_path", paths[0]]) == 0
    quantize = ["train-quant", *common, "--ckpt_path", paths[0], "--save_path", paths[1], "--quant_delay", "0"]
    assert main([*quantize, "--bits_per_weight", "4"]) == 2
    assert "--bits_per_weight: no quantizer of this network learns its bits" in capsys.readouterr().err
    learn = ["--quant_config", str(config), "--bits_per_weight", "4"]
    assert main([*quantize, *learn, "--lambda_size", "-1"]) == 2
    assert "--lambda_size is -1.0; use a positive number" in capsys.readouterr().err
    assert main([*quantize, *learn, "--teacher_ckpt", "self"]) == 2
    assert "only one at a time" in capsys.readouterr().err
    assert main([*quantize, *learn, "--lambda_size", "3"]) == 0
    out = capsys.readouterr().out
    checkpoint = qat.Checkpoint.load(paths[1])
    assert checkpoint.history[0]["objective"]["bits_per_weight"] == 4.0
    integers = qat.to_integer(checkpoint.graph, checkpoint.params)
    weights = {node.name: node.weight for node in integers.nodes if hasattr(node, "weight")}
    taken = {name: int(np.log2(int(np.abs(w).max()) + 1)) + 1 for name, w in weights.items()}
    assert f"bits learned: {', '.join(f'{name}.weight {bits}' for name, bits in taken.items())}" in out
    assert learned_bits(checkpoint.graph, checkpoint.params) == {f"{name}.weight": bits for name, bits in taken.items()}
    sizes = {name: w.size for name, w in weights.items()}
    mean = sum(taken[name] * sizes[name] for name in sizes) / sum(sizes.values())
    assert mean <= 4.5
    images = load("digits").resized((1, 32, 32)).test.images
    reference = qat.evaluate(integers, images)
    for name in HERE:
        backend = qat.backend(name)
        codes = backend.predict_codes(backend.lower(checkpoint.graph, checkpoint.params), images)
        np.testing.assert_array_equal(codes, reference, err_msg=name)


def test_a_training_comes_down_to_its_bops_and_deploys(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Weights and activations of learned widths: the report, every backend's codes and the exported file."""
    config, float_path, path = tmp_path / "learned.yaml", str(tmp_path / "float.ckpt"), str(tmp_path / "quantized.ckpt")
    config.write_text(
        "weight_quantizer: {type: LearnedWidthWeightQuantizer, per_channel: true}\n"
        "activation_quantizer: {type: LearnedWidthActivationQuantizer}\n",
        encoding="utf-8",
    )
    common = ["--data_path", "digits", "--epochs", "4", "--batch_size", "32", "--optimizer", "adam", "--lr", "0.01"]
    assert main(["train", *common, "--save_path", float_path]) == 0
    quantize = ["train-quant", *common, "--ckpt_path", float_path, "--save_path", path, "--quant_delay", "0"]
    assert main([*quantize, "--max_bops", "8e6"]) == 2
    assert "--max_bops: no quantizer of this network learns its bits" in capsys.readouterr().err
    learn = [*quantize, "--quant_config", str(config), "--max_bops", "8e6"]
    assert main([*learn, "--bits_per_weight", "4"]) == 2
    assert "only one budget at a time" in capsys.readouterr().err
    assert main([*learn, "--max_bops", "0"]) == 2
    assert "--max_bops is 0.0; use a positive number" in capsys.readouterr().err
    assert main([*learn, "--lambda_bops", "0"]) == 2
    assert "--lambda_bops is 0.0; use a positive number" in capsys.readouterr().err
    assert main([*learn, "--lambda_bops", "3"]) == 0
    out = capsys.readouterr().out
    checkpoint = qat.Checkpoint.load(path)
    learned = learned_bits(checkpoint.graph, checkpoint.params)
    assert f"bits learned: {', '.join(f'{name} {bits}' for name, bits in learned.items())}" in out
    assert min(bits for name, bits in learned.items() if name.endswith("fake_quant")) < 8
    taken = sum(bops(checkpoint.graph, checkpoint.params).values())
    assert taken <= 1.1 * 8e6
    assert sum(bops(checkpoint.graph).values()) == sum(macs(checkpoint.graph).values()) * 64
    images = load("digits").resized((1, 32, 32)).test.images
    integers = qat.to_integer(checkpoint.graph, checkpoint.params)
    reference = qat.evaluate(integers, images)
    for name in HERE:
        backend = qat.backend(name)
        codes = backend.predict_codes(backend.lower(checkpoint.graph, checkpoint.params), images)
        np.testing.assert_array_equal(codes, reference, err_msg=name)
    for file_format in ("ONNX", "TFLITE"):
        assert main(["export", "--ckpt_path", path, "--file_format", file_format, "--file_name", path]) == 0
        out = capsys.readouterr().out
        assert f"{taken:,}" in out
        assert out.count(" 0 differ") == 2


# -- teachers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "own"), but_long(product(HERE, [False, True]), lambda name, own: name == "mindspore" and own)
)
def test_a_training_with_a_teacher_resumes_to_the_same_bits(name: str, own: bool, tmp_path: Path) -> None:
    backend, dataset = qat.backend(name), load("digits")
    teacher = Small().graph()
    qat.Checkpoint(teacher, teacher.initial_params(5)).save(tmp_path / "teacher.ckpt")
    graph = qat.convert_quant_network(Small(), num_bits=3)
    start, recipe = qat.Checkpoint(graph, graph.initial_params()), Recipe(epochs=1, lr=0.01)

    def run(start: qat.Checkpoint, **arguments: object) -> qat.Checkpoint:
        path = "self" if own else str(tmp_path / "teacher.ckpt")
        teaching = teach(backend, graph, path, dataset.train, 2.0, 0.5)
        taught = replace(dataset, train=replace(dataset.train, targets=teaching.targets))
        objective, record = teaching.objective, teaching.record
        return train(backend, start, taught, recipe, objective=objective, record=record, **arguments)

    saved: list[qat.Checkpoint] = []
    end = run(start, save=saved.append, save_every=9)
    again = run(saved[0])
    assert again.history == end.history
    assert end.history[0]["teacher"] == ("self" if own else str(tmp_path / "teacher.ckpt"))
    assert ("teacher_sha256" in end.history[0]) != own
    assert end.history[0]["objective"]["weight"] == 0.5
    for parameter, array in end.params.items():
        np.testing.assert_array_equal(again.params[parameter], array, err_msg=parameter)


def test_a_student_comes_nearer_to_its_teacher() -> None:
    dataset, graph = load("digits"), Small().graph()
    images = dataset.test.images
    recipe = Recipe(epochs=3, lr=0.02)
    teacher = train(TORCH, qat.Checkpoint(graph, graph.initial_params(1)), dataset, recipe)
    t = TORCH.predict(TORCH.lower(graph, teacher.params), images)
    logits = TORCH.predict(TORCH.lower(graph, teacher.params), dataset.train.images)
    start, far = qat.Checkpoint(graph, graph.initial_params(2)), []
    for objective, targets in ((None, ()), (Distillation(2.0, 1.0), (logits,))):
        taught = replace(dataset, train=replace(dataset.train, targets=targets))
        end = train(TORCH, start, taught, recipe, objective=objective)
        far.append(soft(TORCH.predict(TORCH.lower(graph, end.params), images), t, 2.0) - soft(t, t, 2.0))
    assert far[1] < 0.9 * far[0]


def test_the_commands_take_a_teacher_and_refuse_a_wrong_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = ["--data_path", "digits", "--epochs", "1"]
    paths = {name: str(tmp_path / f"{name}.ckpt") for name in ("big", "small", "quantized", "again")}
    assert main(["train", *common, "--save_path", paths["big"]]) == 0
    with_teacher = [*common, "--teacher_ckpt", paths["big"], "--distill_temperature", "2"]
    assert main(["train", *with_teacher, "--network", "lenet_gtc", "--save_path", paths["small"]]) == 0
    quantize = ["train-quant", "--ckpt_path", paths["small"], "--quant_delay", "3"]
    assert main([*quantize, *with_teacher, "--save_path", paths["quantized"]]) == 0
    own = ["--teacher_ckpt", "self", "--distill_weight", "0.9"]
    assert main([*quantize, *common, *own, "--save_path", paths["again"]]) == 0
    assert qat.Checkpoint.load(paths["quantized"]).history[0]["teacher"] == paths["big"]
    capsys.readouterr()
    for arguments, message in (
        (["--teacher_ckpt", "self"], "--teacher_ckpt self: LeNet5 has no quantizers"),
        (["--teacher_ckpt", "nowhere"], "nowhere: cannot be read (No such file or directory)"),
        (["--distill_weight", "0.5"], "--distill_weight: there is no teacher"),
        (["--teacher_ckpt", paths["big"], "--distill_weight", "2"], "distill_weight is 2.0; use a number from 0 to 1"),
        (["--teacher_ckpt", paths["big"], "--distill_temperature", "0"], "distill_temperature is 0.0; use a positive"),
    ):
        assert main(["train", *common, *arguments, "--save_path", str(tmp_path / "no.ckpt")]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1


def test_a_teacher_of_other_classes_is_refused(tmp_path: Path) -> None:
    graph = LeNetGTC(num_class=7).graph()
    qat.Checkpoint(graph, graph.initial_params()).save(tmp_path / "seven.ckpt")
    with pytest.raises(qat.QatError, match=r"gives \(7,\) where LeNetGTC gives \(10,\); a teacher has to know"):
        teach(TORCH, LeNetGTC().graph(), str(tmp_path / "seven.ckpt"), None, 1.0, 0.5)


# -- TensorBoard ------------------------------------------------------------------------------------------------------


def test_tensorflow_reads_the_event_files_that_are_written_without_it(tmp_path: Path) -> None:
    """It checks their checksums, too."""
    tf = pytest.importorskip("tensorflow")
    log = EventFile(tmp_path / "logs")
    log.scalars(3, {"train/loss": 0.25, "ü": -1e30})
    log.scalars(2**40, {"train/loss": 0.5})
    events = [tf.compat.v1.Event.FromString(each.numpy()) for each in tf.data.TFRecordDataset(str(log.path))]
    assert events[0].file_version == "brain.Event:2"
    found = [(event.step, {value.tag: value.simple_value for value in event.summary.value}) for event in events[1:]]
    assert found[0] == (3, {"train/loss": 0.25, "ü": float(np.float32(-1e30))})
    assert found[1] == (2**40, {"train/loss": 0.5})
    content = bytearray(log.path.read_bytes())
    content[-6] ^= 1
    log.path.write_bytes(content)
    with pytest.raises(tf.errors.DataLossError):
        list(tf.data.TFRecordDataset(str(log.path)))
