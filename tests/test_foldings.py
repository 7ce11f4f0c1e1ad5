"""Where batch normalisation is folded into weights before they are quantized, and that the integers do not depend on it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from calibrations import calibrate
from sequential import Chain

import qat
from qat.analysis.compression import compress, weight_sizes
from qat.integer import IntegerLinear

PIXELS = np.random.default_rng(0).integers(0, 256, (64, 3, 10, 10), np.uint8)


def network() -> qat.Graph:
    """Two normalised layers and one that is not."""
    return Chain(
        qat.Input((3, 10, 10), mean=0.5, std=0.25),
        conv=qat.Conv2dBnAct(3, 16, 3, has_bn=True, has_bias=True, activation="relu"),
        depthwise=qat.Conv2dBnAct(16, 16, 3, group=16, has_bn=True, activation="relu"),
        plain=qat.Conv2dBnAct(16, 8, 3),
    ).graph()


def params(graph: qat.Graph) -> dict[str, np.ndarray]:
    """With statistics and scales of all sizes, and scales of both signs."""
    own, generator = graph.initial_params(0), np.random.default_rng(5)
    for name, array in own.items():
        if name.endswith("gamma"):
            own[name] = generator.normal(0.5, 1.0, array.shape).astype(np.float32)
        elif name.endswith("moving_variance"):
            own[name] = generator.uniform(0.1, 3.0, array.shape).astype(np.float32)
        elif not name.endswith("weight"):
            own[name] = generator.normal(0.0, 0.3, array.shape).astype(np.float32)
    return own


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, None),
        ({"freeze_bn": 0}, None),
        ({"symmetric": False}, None),
        ({"weight_quantizer": qat.LSQWeightQuantizer(4, per_channel=True, narrow_range=True)}, None),
        ({"weight_quantizer": qat.DoReFaWeightQuantizer(4)}, None),  # which cannot be folded
        ({"per_channel": False}, "one_conv"),
        ({"weight_quantizer": qat.LSQWeightQuantizer(4, per_channel=True)}, "one_conv"),  # which can only be folded
        ({"weight_quantizer": qat.WeightQuantizer(per_channel=True, power_of_two=True)}, "one_conv"),
        ({"profile": "ascend"}, None),
        ({"bn_fold": True}, "one_conv"),
        ({"bn_fold": False, "per_channel": False}, None),
        ({"one_conv_fold": True}, "one_conv"),
        ({"one_conv_fold": False}, "two_conv"),
        ({"bn_fold": False, "one_conv_fold": False}, None),
    ],
    ids=str,
)
def test_weights_with_one_scale_are_folded_by_default(settings: dict[str, Any], expected: str | None) -> None:
    graph = qat.convert_quant_network(network(), **settings)
    folds = {node.name: node.cell.bn_fold for node in graph.nodes if hasattr(node.cell, "bn_fold")}
    assert folds == {"conv": expected, "depthwise": expected, "plain": None}


def test_layers_choose_by_their_own_quantizers() -> None:
    graph = qat.convert_quant_network(network(), layers={"conv": {"per_channel": False}})
    assert [node.cell.bn_fold for node in graph.nodes if node.name in ("conv", "depthwise")] == ["one_conv", None]


@pytest.mark.parametrize("settings", [{}, {"num_bits": 4}, {"narrow_range": True}], ids=str)
def test_with_a_scale_for_each_channel_the_codes_of_weights_are_the_same(settings: dict[str, Any]) -> None:
    """And all else, up to the last bits of scales, so that the default may be the fastest; with one scale they are not."""
    graph = network()
    own = params(graph)

    def integers(**folding: Any) -> Any:
        found = calibrate(graph, own, PIXELS, **settings, **folding)
        return qat.to_integer(found.graph, found.params)

    folded, default = integers(bn_fold=True), integers()
    for one, other in zip(folded.nodes, default.nodes, strict=True):
        if isinstance(one, IntegerLinear):
            np.testing.assert_array_equal(one.weight, other.weight, err_msg=one.name)
            np.testing.assert_allclose(one.weight_scale, other.weight_scale, rtol=2.0**-22, err_msg=one.name)
            np.testing.assert_allclose(one.bias, other.bias, rtol=0.0, atol=1.0, err_msg=one.name)  # at a tie
    apart = [integers(bn_fold=fold, per_channel=False).nodes for fold in (True, False)]
    assert any(np.any(a.weight != b.weight) for a, b in zip(*apart, strict=True) if isinstance(a, IntegerLinear))


def test_compressed_weights_with_one_scale_are_folded() -> None:
    """A scale that has to be a power of two could not be deployed otherwise, and one scale would become one a channel."""
    checkpoint = calibrate(network(), params(network()), PIXELS)
    for quantizer in (qat.WeightQuantizer(4), qat.WeightQuantizer(4, power_of_two=True)):
        smaller = compress(checkpoint, quantizer)
        for node in qat.to_integer(smaller.graph, smaller.params).nodes:
            assert not isinstance(node, IntegerLinear) or len(set(node.weight_scale.tolist())) == 1
        assert [size.beside for size in weight_sizes(smaller.graph, smaller.params)] == [1, 1, 1]
    apart = calibrate(network(), params(network()), PIXELS, bn_fold=False, per_channel=False)
    assert [size.beside for size in weight_sizes(apart.graph, apart.params)] == [16, 16, 1]
