"""Magnitude pruning: the schedule, the masks, and that zero stays zero through training, folding, conversion and export."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx.numpy_helper
import pytest
from calibrations import calibrate
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import qat
from qat import registry
from qat.data import load
from qat.integer import IntegerGraph, IntegerLinear, evaluate
from qat.passes.apply_masks import apply_masks
from qat.passes.fold_batch_norm import fold_batch_norm
from qat.pruning import MagnitudePruner, count_zeros, prune_weights, updated_masks
from qat.pruning.magnitude import smaller_mask, unfinished
from qat.training.loop import train
from qat.training.optimizer import Optimizer
from qat.training.recipe import Recipe
from qat.vocabulary.numpy_ops import NUMPY_OPS

Array = npt.NDArray[Any]
F = np.float32
BACKENDS = {name: qat.backend(name) for name, entry in registry.BACKENDS.items() if registry.installed(entry)}
TORCH = BACKENDS["torch"]
TARGETS = [name for name in ("ONNX", "TFLITE", "C") if registry.installed(registry.TARGETS[name])]


class Small(qat.Network):
    """A convolution, a depthwise one and a dense layer."""

    def __init__(self, *, has_bn: bool = True) -> None:
        self.inputs = qat.Input((1, 8, 8), mean=0.3, std=0.3)
        self.conv = qat.Conv2dBnAct(1, 6, 3, has_bn=has_bn, has_bias=not has_bn, activation="relu")
        self.depthwise = qat.Conv2dBnAct(6, 6, 3, 2, group=6, has_bn=has_bn, has_bias=not has_bn, activation="relu")
        self.flatten = qat.Flatten()
        self.fc = qat.DenseBnAct(96, 10)

    def construct(self, x):
        return self.fc(self.flatten(self.depthwise(self.conv(x))))


NOW = MagnitudePruner(0.6, begin=0, schedule="constant")


def pruned(graph: qat.Graph, pruner: MagnitudePruner = NOW) -> tuple[qat.Graph, dict[str, Array]]:
    """With fresh parameters, and masks as after the schedule."""
    graph, params = prune_weights(graph, graph.initial_params(3), pruner)
    return graph, params | updated_masks(graph, params, pruner.last)


def pixels(count: int) -> tuple[Array, Array]:
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (count, 1, 8, 8), np.uint8), rng.integers(0, 10, count)


# -- the schedule and the masks ---------------------------------------------------------------------------------------


@given(
    st.floats(0, 0.98), st.floats(0, 1), st.integers(0, 50), st.integers(1, 60), st.integers(1, 20), st.integers(0, 150)
)
def test_the_polynomial_schedule_is_the_paper_s(
    s_f: float, share: float, t_0: int, extent: int, frequency: int, t: int
) -> None:
    """Zhu and Gupta, arXiv 1710.01878, equation 1, with n frequency = extent where that divides it."""
    s_i = share * s_f
    pruner = MagnitudePruner(s_f, s_i, t_0, t_0 + extent, frequency)
    expected = s_f + (s_i - s_f) * (1 - min(t - t_0, extent) / extent) ** 3 if t >= t_0 else 0.0
    assert pruner.sparsity(t) == pytest.approx(expected, abs=1e-12)
    assert pruner.prunes_at(t) == (t in {*range(t_0, t_0 + extent, frequency), t_0 + extent})
    assert pruner.sparsity(pruner.last) == s_f


def test_the_document_s_schedule() -> None:
    pruner = MagnitudePruner(0.5, 0.4)
    steps = [t for t in range(10_000) if pruner.prunes_at(t)]
    assert (steps[0], steps[1], steps[-1], len(steps)) == (1000, 1100, 8000, 71)
    assert [pruner.sparsity(t) for t in (999, 1000, 8000, 9999)] == [0.0, 0.4, 0.5, 0.5]
    assert pruner.sparsity(4500) == pytest.approx(0.5 - 0.1 / 8)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"final_sparsity": 1.0}, "final_sparsity is 1.0"),
        ({"final_sparsity": -0.1}, "final_sparsity is -0.1"),
        ({"final_sparsity": float("nan")}, "final_sparsity is nan"),
        ({"final_sparsity": 0.5, "initial_sparsity": 0.6}, "would fall from 0.6 to 0.5"),
        ({"final_sparsity": 0.5, "begin": 10, "end": 10}, "goes from step 10 to 10"),
        ({"final_sparsity": 0.5, "frequency": 0}, "frequency is 0"),
        ({"final_sparsity": 0.5, "schedule": "linear"}, "schedule is 'linear'"),
    ],
)
def test_a_wrong_schedule_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(qat.QatError, match=message):
        MagnitudePruner(**fields)


@given(arrays(F, (3, 7), elements=st.floats(-2, 2, width=32)), st.lists(st.floats(0, 0.99), min_size=1, max_size=5))
def test_masks_only_grow_and_spare_the_largest(weight: Array, sparsities: list[float]) -> None:
    mask, most = np.ones_like(weight), 0
    for sparsity in sparsities:
        new = smaller_mask(weight, mask, sparsity)
        most = max(most, round(sparsity * weight.size))
        assert new.dtype == F
        assert set(np.unique(new)) <= {0.0, 1.0}
        assert (new <= mask).all()
        assert (new == 0).sum() == most
        mask = new
    kept, gone = np.abs(weight[mask == 1]), np.abs(weight[mask == 0])
    assert not kept.size or not gone.size or kept.min() >= gone.max()


def test_only_the_named_layers_are_pruned_and_a_wrong_name_is_refused() -> None:
    graph = Small().graph()
    some, params = prune_weights(graph, graph.initial_params(), NOW, ("fc", "conv*"))
    assert sorted(name for name in params if name.endswith("mask")) == ["conv.weight_mask", "fc.weight_mask"]
    assert set(updated_masks(some, params, 0)) == {
        f"{cell}.{x}" for cell in ("conv", "fc") for x in ("weight", "weight_mask")
    }
    assert unfinished(some, params) == ["conv", "fc"]
    with pytest.raises(qat.QatError, match="'output' fits no convolution or dense cell of Small; those are conv, dep"):
        prune_weights(graph, graph.initial_params(), NOW, ("fc", "output"))


def test_a_graph_with_pruners_goes_through_json() -> None:
    graph, _ = pruned(Small().graph())
    assert qat.Graph.from_json(graph.to_json()) == graph
    assert "MagnitudePruner" not in Small().graph().to_json()
    assert "sparsity 0.6 from step 0" in str(graph)


# -- backends ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS.values(), ids=BACKENDS)
def test_write_is_the_inverse_of_read(backend: ModuleType) -> None:
    graph, params = pruned(Small().graph())
    model = backend.lower(graph, graph.initial_params(8))
    backend.write(model, params)
    for name, array in backend.read(model).items():
        np.testing.assert_array_equal(array, params[name], err_msg=name)
    backend.write(model, {"fc.bias": np.arange(10, dtype=F)})
    found = backend.read(model)
    np.testing.assert_array_equal(found["fc.bias"], np.arange(10))
    np.testing.assert_array_equal(found["conv.weight"], params["conv.weight"])


@pytest.mark.parametrize("quantized", [False, True], ids=["float", "quantized"])
@pytest.mark.parametrize("backend", BACKENDS.values(), ids=BACKENDS)
def test_a_pruned_weight_has_no_gradient_and_no_influence(backend: ModuleType, quantized: bool) -> None:
    graph, params = pruned(Small().graph())
    graph = qat.convert_quant_network(graph) if quantized else graph
    params = graph.params_from(params)
    behind = {n: a + 5 * (1 - params[f"{n}_mask"]) for n, a in params.items() if n.endswith("weight")}
    images, labels = pixels(16)
    results = []
    for own in (params, params | behind):
        step = backend.make_step(backend.lower(graph, own), Optimizer(momentum=0.0))
        losses = [step(images, labels, 0.1) for _ in range(2)]
        results.append((losses, backend.read(step.model)))
    assert results[0][0] == results[1][0]
    for name in behind:
        mask, (_, clean), (_, dirty) = params[f"{name}_mask"], *results
        np.testing.assert_array_equal(clean[name] * mask, dirty[name] * mask)
        assert (clean[name][mask == 1] != params[name][mask == 1]).any()
        np.testing.assert_array_equal(dirty[name][mask == 0], behind[name][mask == 0])


# -- zero stays zero --------------------------------------------------------------------------------------------------

QUANTIZERS = [
    qat.WeightQuantizer(8, per_channel=True),
    qat.WeightQuantizer(4, symmetric=False),
    qat.WeightQuantizer(8, power_of_two=True),
    qat.LSQWeightQuantizer(3, narrow_range=True),
    qat.DoReFaWeightQuantizer(3),
    qat.TernaryWeightQuantizer(per_channel=True),
    qat.BinaryWeightQuantizer(),
    qat.BinaryWeightQuantizer(scale="constant", per_channel=True),
]
FOLDS: dict[str, dict[str, Any]] = {
    "two_conv": {"bn_fold": True, "one_conv_fold": False},
    "one_conv": {"bn_fold": True, "one_conv_fold": True},
    "no fold": {"bn_fold": False},
    "no batch norm": {},
}
CASES = [
    pytest.param(fold, quantizer, id=f"{fold}, {quantizer}{getattr(quantizer, 'scale', '')}")
    for fold in FOLDS
    for quantizer in QUANTIZERS
    if fold == "no batch norm" or not quantizer.refuses_batch_norm(folded=FOLDS[fold]["bn_fold"])
]


def assert_zeros_are_zeros(integers: IntegerGraph, masks: dict[str, Array]) -> None:
    linear = {node.name: node for node in integers.nodes if isinstance(node, IntegerLinear)}
    for name, mask in masks.items():
        node = linear[name.removesuffix(".weight_mask")]
        centred = node.weight.astype(int) - node.weight_zero_point.reshape(-1, *[1] * (node.weight.ndim - 1))
        assert (centred[mask == 0] == 0).all(), name
        assert (centred[mask == 1] != 0).any(), name


@pytest.mark.parametrize(("fold", "quantizer"), CASES)
def test_zero_stays_zero_through_training_and_into_every_file(
    fold: str, quantizer: qat.WeightQuantizer, tmp_path: Path
) -> None:
    graph, params = pruned(Small(has_bn=fold != "no batch norm").graph())
    masks = {name: array for name, array in params.items() if name.endswith("mask")}
    assert [float(np.mean(mask == 0)) for mask in masks.values()] == pytest.approx([0.6] * 3, abs=0.01)
    qgraph = qat.convert_quant_network(graph, weight_quantizer=quantizer, quant_delay=1, **FOLDS[fold])
    model = TORCH.lower(qgraph, qgraph.params_from(params))
    step = TORCH.make_step(model, Optimizer(weight_decay=1e-3))
    images, labels = pixels(32)
    for _ in range(6):
        step(images, labels, 0.05)
    after = TORCH.read(model)
    for name, mask in masks.items():
        np.testing.assert_array_equal(after[name], mask)
    integers = qat.to_integer(qgraph, after)
    assert_zeros_are_zeros(integers, masks)
    expected = evaluate(integers, images)
    np.testing.assert_array_equal(TORCH.predict_codes(model, images), expected)
    for name in TARGETS:
        target = qat.target(name)
        if name == "TFLITE" and not quantizer.symmetric:  # it has no weight zero point
            continue
        path = tmp_path / f"net{registry.TARGETS[name].suffix}"
        target.export(integers, path)
        found = integers.output.grid.codes_of(target.predict(path, images))
        np.testing.assert_array_equal(found, expected, err_msg=name)
    stored = [onnx.numpy_helper.to_array(x) for x in onnx.load(tmp_path / "net.onnx").graph.initializer]
    weights = [x.astype(np.int32) for x in stored if x.size in (54, 960) and x.dtype != F]  # of any width
    assert len(weights) == 3
    if quantizer.symmetric:
        assert all(np.mean(x == 0) > 0.55 for x in weights)


def test_a_scale_that_is_a_mean_is_that_of_the_kept_weights() -> None:
    weight = np.array([[0.5, -1.0, 0.0, 0.0], [3.0, 0.0, 1.0, 2.0]], F)
    mask = (weight != 0).astype(F)
    scale = qat.BinaryWeightQuantizer().quantize(NUMPY_OPS, weight, own={"mask": mask}).scale
    assert float(np.squeeze(scale)) == pytest.approx(7.5 / 5, rel=1e-6)
    per_output = qat.BinaryWeightQuantizer(per_channel=True).quantize(NUMPY_OPS, weight, own={"mask": mask}).scale
    np.testing.assert_allclose(per_output, [0.75, 2.0], rtol=1e-6)
    codes = qat.TernaryWeightQuantizer(per_channel=True).quantize(NUMPY_OPS, weight, own={"mask": mask})
    np.testing.assert_array_equal(codes.centred, [[0, -1, 0, 0], [1, 0, 0, 1]])  # thresholds 0.7 * 0.75, 0.7 * 2
    np.testing.assert_allclose(codes.scale, [1.0, 2.5], rtol=1e-6)
    own = {"initial_scale": np.zeros(2, F), "scale_change": np.zeros(2, F), "mask": mask}
    start = qat.LSQWeightQuantizer(4, per_channel=True).observe(NUMPY_OPS, weight, own)["initial_scale"]
    np.testing.assert_allclose(start, 2 * np.array([0.75, 2.0]) / np.sqrt(7), rtol=1e-6)


def test_an_output_whose_weights_are_all_pruned_is_its_bias() -> None:
    graph, params = pruned(Small(has_bn=False).graph())
    params["fc.weight_mask"][4] = 0
    for quantizer in QUANTIZERS:
        qgraph = qat.convert_quant_network(graph, weight_quantizer=quantizer)
        integers = qat.to_integer(qgraph, qgraph.observed_params() | params | {"fc.bias": np.full(10, 0.5, F)})
        codes = evaluate(integers, pixels(8)[0])[:, 4]
        assert (codes == codes[0]).all()
        assert integers.output.grid.scale * (codes[0] - integers.output.grid.zero_point) == pytest.approx(0.5, abs=0.01)


# -- what reads weights -----------------------------------------------------------------------------------------------


def behind_masks(params: dict[str, Array]) -> dict[str, Array]:
    """As in the middle of a training: numbers behind the masks, which may not matter."""
    masks = {name: array for name, array in params.items() if name.endswith("mask")}
    return params | {n.removesuffix("_mask"): params[n.removesuffix("_mask")] + 9 * (1 - m) for n, m in masks.items()}


def test_folding_calibration_and_the_float_file_see_the_masked_weights(tmp_path: Path) -> None:
    graph, params = pruned(Small().graph())
    dirty, (images, _) = behind_masks(params), pixels(32)
    assert count_zeros(graph, dirty) == count_zeros(graph, params) == (32 + 32 + 576, 54 + 54 + 960)
    for name, array in apply_masks(graph, dirty).items():
        np.testing.assert_array_equal(array, params[name], err_msg=name)
    folded, own = fold_batch_norm(graph, dirty)
    folded.check_params(own)
    assert all((own[f"{n}.weight"][params[f"{n}.weight_mask"] == 0] == 0).all() for n in ("conv", "depthwise", "fc"))
    for options in ({}, {"equalize": True, "bias_correction": True}):
        one, other = (calibrate(graph, p, images, **options) for p in (params, dirty))
        integers = qat.to_integer(other.graph, other.params)
        assert_zeros_are_zeros(integers, {n: a for n, a in params.items() if n.endswith("mask")})
        np.testing.assert_array_equal(
            evaluate(integers, images), evaluate(qat.to_integer(one.graph, one.params), images)
        )
    path, onnx_ = tmp_path / "float.onnx", qat.target("ONNX")
    onnx_.export_float(graph, dirty, path)
    expected = TORCH.predict(TORCH.lower(graph, params), images)
    # Float convolutions add in another order: 1e-4 of outputs of about 10.
    np.testing.assert_allclose(onnx_.predict(path, images), expected, rtol=0, atol=1e-4)


# -- training ---------------------------------------------------------------------------------------------------------

SCHEDULE = MagnitudePruner(0.8, 0.2, begin=3, end=18, frequency=4)


@pytest.mark.parametrize("quantized", [False, True], ids=["float", "quantized"])
@pytest.mark.parametrize("backend", BACKENDS.values(), ids=BACKENDS)
def test_stopped_in_the_middle_of_the_schedule_it_ends_with_the_same_bits(
    backend: ModuleType, quantized: bool, tmp_path: Path
) -> None:
    graph = Small().graph()
    graph = qat.convert_quant_network(graph, quant_delay=12) if quantized else graph
    graph, params = prune_weights(graph, graph.initial_params(), SCHEDULE)
    recipe = Recipe(epochs=2, lr=0.02, optimizer=Optimizer(weight_decay=1e-3), slimming=0.0 if quantized else 0.02)
    dataset, saved = load("digits"), []
    end = train(backend, qat.Checkpoint(graph, params), dataset, recipe, save=saved.append, save_every=9)
    masks = [n for n in graph.params if n.endswith("mask")]
    before = None
    for checkpoint in saved:
        zeros = {n: checkpoint.params[n] == 0 for n in masks}
        assert before is None or all((zeros[n] >= before[n]).all() for n in masks)
        before = zeros
        reached = [t for t in range(checkpoint.step) if SCHEDULE.prunes_at(t)]
        share = SCHEDULE.sparsity(reached[-1]) if reached else 0.0
        assert [z.sum() for z in zeros.values()] == [round(share * z.size) for z in zeros.values()]
    assert unfinished(graph, end.params) == []
    assert all((end.params[n.removesuffix("_mask")][end.params[n] == 0] == 0).all() for n in masks)
    assert [checkpoint.step for checkpoint in saved] == [9, 18, 22, 27, 36, 44]
    saved[0].save(tmp_path / "stopped.ckpt")
    again = train(backend, qat.Checkpoint.load(tmp_path / "stopped.ckpt"), dataset, recipe)
    for mine, theirs in ((again.params, end.params), (again.optimizer, end.optimizer)):
        assert mine.keys() == theirs.keys()
        for name, array in mine.items():
            np.testing.assert_array_equal(array, theirs[name], err_msg=name)


def test_a_quantized_training_keeps_the_masks_of_the_float_one() -> None:
    graph, params = prune_weights(Small().graph(), Small().graph().initial_params(), SCHEDULE)
    dataset = load("digits")
    first = train(TORCH, qat.Checkpoint(graph, params), dataset, Recipe(epochs=1))
    qgraph = qat.convert_quant_network(first.graph, quant_delay=3)
    second = train(TORCH, qat.Checkpoint(qgraph, qgraph.params_from(first.params)), dataset, Recipe(epochs=1))
    for name in (n for n in graph.params if n.endswith("mask")):
        np.testing.assert_array_equal(first.params[name], second.params[name])
    assert count_zeros(qgraph, second.params)[0] == round(0.8 * 54) * 2 + 768
