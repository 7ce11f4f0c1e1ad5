"""Rounding by second moments: against its formula, kept only where sums err less, and the same codes in every engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from calibrations import PLAIN
from frameworks import HERE

import qat
from qat.analysis.moment_rounding import DAMPING, MOST_INPUTS, Moments, _codes, _error, _taken, round_by_moments
from qat.cells.weight_codes import weight_grid
from qat.data import Split
from qat.deploy.verify import export_verified
from qat.registry import evaluation_ops
from qat.vocabulary.arrays import batches_of
from qat.vocabulary.numpy_ops import NUMPY_OPS
from qat.vocabulary.ops import Array
from qat.vocabulary.values import Value


class Mixed(qat.Network):
    """Kernels of every kind: dense and grouped, depthwise, transposed, folded batch normalisation, a dense layer."""

    inputs = qat.Input((3, 8, 8), mean=0.4, std=0.3)

    def __init__(self) -> None:
        self.stem = qat.Conv2dBnAct(3, 8, 3, has_bn=True, activation="relu")
        self.depthwise = qat.Conv2dBnAct(8, 8, 3, stride=2, group=8, has_bias=True, activation="relu6")
        self.grouped = qat.Conv2dBnAct(8, 6, (1, 3), group=2)
        self.up = qat.ConvTranspose2dBnAct(6, 4, 2, stride=2, activation="relu")
        self.flatten = qat.Flatten()
        self.fc = qat.DenseBnAct(256, 5)

    def construct(self, x: Any) -> Any:
        return self.fc(self.flatten(self.up(self.grouped(self.depthwise(self.stem(x))))))


def smooth(count: int, seed: int = 0) -> Array:
    """Pictures whose neighbouring pixels are alike, as in photographs."""
    coarse = np.random.default_rng(seed).integers(0, 256, (count, 3, 4, 4), np.uint8)
    return np.ascontiguousarray(coarse.repeat(2, axis=2).repeat(2, axis=3))


PARAMS = Mixed().graph().initial_params(2)


def made(count: int = 40, **settings: Any) -> qat.Checkpoint:
    return qat.calibrate(Mixed(), PARAMS, smooth(count), ops=NUMPY_OPS, **(PLAIN | settings))


def test_codes_follow_the_formula() -> None:
    """Weight by weight, as equations 2 and 3 of the source have it: each step with the inverse of what is left of H."""
    generator = np.random.default_rng(0)
    x = generator.normal(size=(6, 50)) + 2.0 * generator.normal(size=(1, 50))
    moments, weights = (x @ x.T)[None], generator.normal(0.0, 3.0, (1, 4, 6))
    free = generator.random((1, 4, 6)) < 0.8
    nearest = np.rint(weights)
    found = _codes(weights, nearest, free, moments)
    h = moments[0] + np.eye(6) * DAMPING * np.trace(moments[0]) / 6
    for row in range(4):
        left = weights[0, row].copy()
        for j in range(6):
            inverse = np.linalg.inv(h[j:, j:])
            code = np.clip(np.rint(left[j]), np.floor(weights[0, row, j]), np.floor(weights[0, row, j]) + 1)
            code = code if free[0, row, j] else nearest[0, row, j]
            assert found[0, row, j] == code
            left[j:] -= (left[j] - code) / inverse[0, 0] * inverse[0]
    assert _error(found - weights, moments) < 0.8 * _error(nearest - weights, moments)
    assert (np.abs(found - weights)[free] <= 1.0).all()


def test_moments_are_of_what_an_output_is_a_sum_over() -> None:
    """W x of the taken numbers is what the cell gives, for every kind of kernel."""
    network, generator = Mixed(), np.random.default_rng(1)
    for cell, shape in (
        (network.depthwise, (8, 8, 8)),
        (network.grouped, (8, 4, 4)),
        (network.up, (6, 4, 4)),
        (network.fc, (256,)),
    ):
        x = generator.normal(size=(1, *shape)).astype(np.float32)
        weight = generator.normal(size=cell.weight_shape).astype(np.float32)
        rows = _taken(NUMPY_OPS, cell, Value(x), shape)
        groups = rows.shape[0]
        found = np.matmul(weight.reshape(groups, -1, rows.shape[1]), rows).reshape(cell.out_channels, -1)
        expected = cell.apply(NUMPY_OPS, x, shape, weight, None).reshape(cell.out_channels, -1)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_a_layer_keeps_its_codes_unless_its_sums_err_less_elsewhere() -> None:
    found, graph = made(num_bits=(4, 8)), made(num_bits=(4, 8)).graph
    known, held = (batches_of(smooth(24, seed), graph.input_specs, 10, "Mixed") for seed in (3, 4))
    params, changed = round_by_moments(graph, found.params, known, held, NUMPY_OPS)
    assert set(changed) <= {node.name for node in graph.nodes}
    assert {"stem", "depthwise"} <= set(changed)
    for name, array in found.params.items():
        same = np.array_equal(array, params[name])
        assert same == (name.rpartition(".")[0] not in changed or not name.endswith(".weight")), name
    opposite = [255 - batch[0] for batch in held]
    spoiled = [(np.where(np.arange(8) % 2, x, 255 - x).astype(np.uint8),) for x in opposite]
    _, others = round_by_moments(graph, found.params, known, spoiled, NUMPY_OPS)
    assert set(others) <= set(changed)


def test_only_weights_change_to_a_neighbouring_code_and_scales_stay() -> None:
    for settings in (
        {},
        {"per_channel": False},
        {"symmetric": (False, False)},
        {"weight_quantizer": qat.LSQWeightQuantizer(4)},
    ):
        plain = made(**({"num_bits": (4, 8)} if "weight_quantizer" not in settings else {}) | settings)
        batches = batches_of(smooth(40), plain.graph.input_specs, 40, "Mixed")
        params, changed = round_by_moments(plain.graph, plain.params, batches, batches, NUMPY_OPS)
        assert changed
        before, after = (qat.to_integer(plain.graph, each) for each in (plain.params, params))
        for one, other in zip(before.nodes, after.nodes, strict=True):
            if hasattr(one, "weight_scale"):
                np.testing.assert_array_equal(one.weight_scale, other.weight_scale)
                assert np.abs(one.weight.astype(int) - other.weight.astype(int)).max() <= 1
        assert any(
            hasattr(x, "weight") and (x.weight != y.weight).any()
            for x, y in zip(before.nodes, after.nodes, strict=True)
        )


def test_what_has_no_such_codes_stays() -> None:
    for quantizer in (qat.BinaryWeightQuantizer(), qat.WeightQuantizer(4, power_of_two=True)):
        plain = made(weight_quantizer=quantizer)
        batches = batches_of(smooth(20), plain.graph.input_specs, 20, "Mixed")
        params, changed = round_by_moments(plain.graph, plain.params, batches, batches, NUMPY_OPS)
        if isinstance(quantizer, qat.BinaryWeightQuantizer):
            assert changed == ()
            assert all(np.array_equal(params[name], array) for name, array in plain.params.items())
    assert MOST_INPUTS >= 1152  # of EfficientNet-Lite0's widest layer but the last


def test_calibration_takes_it_and_outputs_err_less() -> None:
    images = smooth(80, 9)
    plain, found = made(num_bits=(4, 8)), made(num_bits=(4, 8), rounding=None)
    record = found.history[0]["calibration"]
    assert record["rounding"] == "moments"
    assert [each["setting"] for each in record["decisions"]] == ["rounding"]
    before, after = (
        qat.diagnose(x.graph, x.params, images, float_params=PARAMS, ops=NUMPY_OPS) for x in (plain, found)
    )
    assert after.outputs[0].sqnr > before.outputs[0].sqnr + 0.5
    asked = made(num_bits=(4, 8), rounding="moments")
    assert all(np.array_equal(asked.params[name], array) for name, array in found.params.items())
    with pytest.raises(qat.QatError, match="rounding 'up' is unknown: choose one of nearest, moments"):
        made(rounding="up")


@pytest.mark.parametrize("backend", HERE)
def test_every_engine_has_the_chosen_codes(backend: str, tmp_path: Path) -> None:
    ops = evaluation_ops(backend)
    found = qat.calibrate(Mixed(), PARAMS, smooth(24), ops=ops, num_bits=(4, 8), rounding="moments")
    plain = qat.calibrate(Mixed(), PARAMS, smooth(24), ops=ops, num_bits=(4, 8), **PLAIN)
    node = next(node for node in found.graph.nodes if node.name == "depthwise")
    own, nearest = ({key: x.params[f"depthwise.{key}"] for key in node.cell.params()} for x in (found, plain))
    assert (weight_grid(node.cell, own, 1.0).codes != weight_grid(node.cell, nearest, 1.0).codes).any()
    split = Split(smooth(12, 5), np.zeros(12, np.int64))
    certificate = export_verified(
        tmp_path / "net.onnx", qat.target("ONNX"), qat.backend(backend), found, split, data="random"
    )
    assert certificate.passed
    assert [comparison.differ for comparison in certificate.comparisons] == [0, 0]


def test_sums_are_of_all_images_up_to_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    add = Moments.add

    def spy(self: Moments, ops: Any, x: Value, shape: Any, *, known: bool) -> None:
        seen.append((self.node.name, known))
        add(self, ops, x, shape, known=known)

    monkeypatch.setattr(Moments, "add", spy)
    monkeypatch.setattr("qat.analysis.moment_rounding.IMAGES", 7)
    plain = made()
    known, held = (batches_of(smooth(count), plain.graph.input_specs, 5, "Mixed") for count in (12, 4))
    round_by_moments(plain.graph, plain.params, known, held, NUMPY_OPS)
    assert (seen.count(("stem", True)), seen.count(("stem", False))) == (7, 4)
