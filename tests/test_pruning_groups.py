"""Channels that go together: on graphs made by hand, on the networks, and on random ones."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_zoo import Zoo, networks, random_params

import qat
from qat.analysis.metrics import total_macs
from qat.cells.base import Context, Scope
from qat.integer import evaluate
from qat.networks import NETWORKS, create
from qat.pruning import channel_groups, drop_blocks, prune_channels, remove_channels, residual_blocks
from qat.vocabulary.numpy_ops import NUMPY_OPS
from qat.vocabulary.values import Value

Array = npt.NDArray[Any]
F = np.float32


def widths(graph: qat.Graph) -> dict[str, int]:
    return {group.name: len(group) for group in channel_groups(graph)}


def masked_outputs(
    graph: qat.Graph, params: Mapping[str, Array], pixels: tuple[Array, ...], removed: list[dict[str, tuple[int, ...]]]
) -> list[Array]:
    """Evaluation of a float network with these channels set to 0 wherever they appear: what pruning promises."""
    tensors = {name: NUMPY_OPS.from_numpy(params[name], param.kind) for name, param in graph.params.items()}
    context = Context(NUMPY_OPS, tensors, training=False, phase=0, updates={})
    values: dict[str, Value] = {}
    entering = dict(zip((node.name for node in graph.inputs), pixels, strict=True))
    for node in graph.nodes:
        shapes = tuple(graph.shapes[name] for name in node.inputs)
        scope = Scope(context, f"{node.cell_name}.", tuple(node.cell.params()), shapes)
        inputs = [values[name] for name in node.inputs] or [Value(entering[node.name].astype(F))]
        y = node.cell.forward(scope, *inputs)
        positions = [p for unit in removed for p in unit.get(node.name, ())]
        if positions:
            data = np.array(y.real(NUMPY_OPS))
            data[:, positions] = 0
            y = Value(data)
        values[node.name] = y
    return [np.asarray(values[name].real(NUMPY_OPS)) for name in graph.outputs]


def close(found: Array, expected: Array) -> None:
    """Sums of fewer float32 numbers: 1e-4 of the largest, which random gammas make large inside."""
    assert np.abs(found - expected).max(initial=0) <= 1e-4 * max(1.0, np.abs(expected).max(initial=0))


# -- by hand ----------------------------------------------------------------------------------------------------------


def test_a_chain_has_a_group_for_each_layer_but_the_last() -> None:
    assert widths(create("lenet").graph()) == {"conv1": 6, "conv2": 16, "fc1": 120, "fc2": 84}


def test_a_flattening_takes_all_the_places_of_a_channel_along() -> None:
    (unit, *_) = channel_groups(create("lenet"))[1].units
    assert unit["flatten"] == tuple(range(25))
    assert unit["conv2"] == unit["max_pool2d_1"] == (0,)


def test_residual_additions_join_a_stage() -> None:
    assert widths(create("resnet8").graph()) == {
        "conv": 16,
        "blocks.0.conv1": 16,
        "blocks.1.conv1": 32,
        "blocks.1.conv2": 32,
        "blocks.2.conv1": 64,
        "blocks.2.conv2": 64,
    }
    stem = channel_groups(create("resnet8"))[0].units[3]
    assert {"conv", "blocks.0.conv2", "blocks.0.add"} <= set(stem)
    assert "blocks.1.add" not in stem


def test_depthwise_convolutions_join_their_input_and_output() -> None:
    groups = channel_groups(create("compact_residual"))
    assert {group.name: len(group) for group in groups}["blocks.0.expand"] == 32
    by_name = {group.name: group for group in groups}
    assert set(by_name["blocks.0.expand"].units[5]) == {"blocks.0.expand", "blocks.0.depthwise"}


def made(*steps: tuple[Any, ...], inputs: tuple[qat.Input, ...] = (qat.Input((1, 4, 4)),)) -> qat.Graph:
    """A network of cells and the values they take: v0, v1, ..."""
    zoo = Zoo(*inputs)
    for cell, *sources in steps:
        zoo.use(cell, *sources)
    return zoo.graph()


def test_a_depthwise_multiplier_has_several_outputs_to_a_channel() -> None:
    graph = made(
        (qat.Conv2dBnAct(1, 3, 1), "input"),
        (qat.Conv2dBnAct(3, 6, 3, group=3), "v0"),
        (qat.Conv2dBnAct(6, 2, 1), "v1"),
    )
    (group,) = channel_groups(graph)
    assert [unit["cells.c1"] for unit in group.units] == [(0, 1), (2, 3), (4, 5)]
    smaller, _ = remove_channels(graph, graph.initial_params(), [group.units[1]])
    assert smaller.nodes[2].cell.group == 2
    assert smaller.shapes["cells.c1"] == (4, 4, 4)


def test_a_grouped_convolution_keeps_its_groups_equal() -> None:
    graph = made(
        (qat.Conv2dBnAct(1, 6, 1), "input"),
        (qat.Conv2dBnAct(6, 8, 1, group=2), "v0"),
        (qat.Conv2dBnAct(8, 2, 1), "v1"),
    )
    first, second = channel_groups(graph)
    assert [unit["cells.c0"] for unit in first.units] == [(0, 3), (1, 4), (2, 5)]
    assert [unit["cells.c1"] for unit in second.units] == [(0, 4), (1, 5), (2, 6), (3, 7)]
    smaller, params = remove_channels(graph, graph.initial_params(), [first.units[1], second.units[0]])
    assert params["cells.c1.weight"].shape == (6, 2, 1, 1)
    np.testing.assert_array_equal(
        params["cells.c1.weight"], graph.initial_params()["cells.c1.weight"][[1, 2, 3, 5, 6, 7]][:, [0, 2]]
    )
    assert smaller.nodes[2].cell.group == 2


def test_a_concatenation_keeps_its_inputs_apart_until_something_adds_to_it() -> None:
    concat = [
        (qat.Conv2dBnAct(1, 2, 1), "input"),
        (qat.Conv2dBnAct(1, 3, 1), "input"),
        (qat.Concat(), "v0", "v1"),
    ]
    graph = made(*concat, (qat.Conv2dBnAct(5, 2, 1), "v2"))
    assert widths(graph) == {"cells.c0": 2, "cells.c1": 3}
    graph = made(
        *concat, (qat.Conv2dBnAct(1, 5, 1), "input"), (qat.Add(), "v2", "v3"), (qat.Conv2dBnAct(5, 2, 1), "v4")
    )
    assert widths(graph) == {"cells.c0": 5}
    with_input = made(
        (qat.Conv2dBnAct(1, 2, 1), "input"), (qat.Concat(), "input", "v0"), (qat.Conv2dBnAct(3, 2, 1), "v1")
    )
    assert widths(with_input) == {"cells.c0": 2}
    (group,) = channel_groups(with_input)
    assert [unit["concat"] if "concat" in unit else unit["cells.c1"] for unit in group.units] == [(1,), (2,)]


def test_a_cell_used_twice_loses_the_same_channels_in_both_uses() -> None:
    graph = made(
        (qat.Conv2dBnAct(1, 3, 1), "input"),
        (qat.Conv2dBnAct(3, 3, 3), "v0"),
        ("c1", "v1"),
        (qat.Conv2dBnAct(3, 2, 1), "v2"),
    )
    (group,) = channel_groups(graph)
    assert len(group) == 3
    assert set(group.units[0]) == {"cells.c0", "cells.c1", "cells.c1_1"}


def test_fixed_numbers_of_channels_go_with_their_channels() -> None:
    """A Normalize amid a network, as an import makes it, used twice, too: its numbers are fields, no parameters."""
    rng = np.random.default_rng(0)
    factor, shift = (tuple(each.tolist()) for each in rng.normal(1, 0.5, (2, 4)))
    graph = made(
        (qat.Conv2dBnAct(1, 4, 3), "input"),
        (qat.Normalize(factor, shift), "v0"),
        (qat.Conv2dBnAct(4, 4, 3), "v1"),
        ("c1", "v2"),
        (qat.Conv2dBnAct(4, 2, 1), "v3"),
    )
    (group,) = channel_groups(graph)
    assert [set(unit) for unit in group.units] == [{"cells.c0", "cells.c1", "cells.c2", "cells.c1_1"}] * 4
    params = random_params(graph, rng, frozenset())
    removed = [group.units[0], group.units[2]]
    smaller, kept = remove_channels(graph, params, removed)
    cells: list[Any] = [node.cell for node in smaller.nodes if isinstance(node.cell, qat.Normalize)]
    assert [cell.factor for cell in cells] == [(factor[1], factor[3])] * 2
    assert [cell.shift for cell in cells] == [(shift[1], shift[3])] * 2
    pixels = (rng.integers(0, 256, (2, *graph.shapes["input"]), np.uint8),)
    close(masked_outputs(smaller, kept, pixels, [])[0], masked_outputs(graph, params, pixels, removed)[0])


@pytest.mark.parametrize(
    "end",
    [(), ((qat.Add(), "v0", "v0"),), ((qat.Softmax(), "v0"), (qat.Conv2dBnAct(3, 2, 1), "v1"))],
    ids=["output", "output through an addition", "softmax"],
)
def test_outputs_and_what_a_softmax_sums_are_never_removed(end: tuple[Any, ...]) -> None:
    graph = made((qat.Conv2dBnAct(1, 3, 1), "input"), *end)
    assert channel_groups(graph) == ()
    with pytest.raises(qat.QatError, match="no channel can be removed"):
        prune_channels(graph, graph.initial_params(), {"cells.c0": np.ones(3)}, ratio=0.5)


@dataclass(frozen=True)
class Reversed(qat.Cell):
    """A user's cell, of which nothing is known."""

    output_numbers = "computed"
    output_channels = "fixed"
    non_negative = False
    random = False

    def output_shape(self, *shapes: Any) -> Any:
        return shapes[0]


def test_an_unknown_cell_keeps_its_channels() -> None:
    graph = made((qat.Conv2dBnAct(1, 3, 1), "input"), (Reversed(), "v0"), (qat.Conv2dBnAct(3, 2, 1), "v1"))
    assert channel_groups(graph) == ()


# -- what stays the same ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_a_pruned_network_is_the_masked_one(name: str) -> None:
    graph = create(name).graph()
    rng = np.random.default_rng(0)
    params = random_params(graph, rng, frozenset())
    removed = [unit for group in channel_groups(graph) for unit in group.units[: len(group) // 3]]
    assert removed
    pixels = tuple(rng.integers(0, 256, (2, *graph.shapes[node.name]), np.uint8) for node in graph.inputs)
    smaller, kept = remove_channels(graph, params, removed)
    found, expected = masked_outputs(smaller, kept, pixels, []), masked_outputs(graph, params, pixels, removed)
    for mine, other, whole in zip(found, expected, masked_outputs(graph, params, pixels, []), strict=True):
        close(mine, other)
        assert np.abs(other - whole).max() > 1e-3  # they did matter
    assert smaller.count_trainable() < graph.count_trainable()
    assert total_macs(smaller) < total_macs(graph)


@st.composite
def pruned_networks(draw: st.DrawFn) -> tuple[qat.Graph, dict[str, Array], tuple[Array, ...], list[Any]]:
    """A random network with random parameters and pixels, and some of its units, not all of any node."""
    zoo = draw(networks())
    last = zoo.steps[-1][0]
    shape = zoo.shapes[last]  # after one more layer, what was the output can be removed
    ends = {
        3: lambda: qat.Conv2dBnAct(shape[0], 2, 1),
        2: lambda: qat.Conv1dBnAct(shape[0], 2, 1),
        1: lambda: qat.DenseBnAct(shape[0], 2),
    }
    zoo.use(ends[len(shape)](), last)
    graph = zoo.graph()
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    params = random_params(graph, rng, frozenset())
    pixels = tuple(rng.integers(0, 256, (2, *graph.shapes[node.name]), np.uint8) for node in graph.inputs)
    left = {name: shape[0] for name, shape in graph.shapes.items()}
    removed = []
    for group in channel_groups(graph):
        for unit in group.units:
            if draw(st.booleans()) and all(left[name] > len(positions) for name, positions in unit.items()):
                removed.append(unit)
                for name, positions in unit.items():
                    left[name] -= len(positions)
    return graph, params, pixels, removed


def test_random_networks_are_the_masked_ones_when_pruned() -> None:
    seen = 0

    @settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
    @given(pruned_networks())
    def check(drawn: tuple[qat.Graph, dict[str, Array], tuple[Array, ...], list[Any]]) -> None:
        nonlocal seen
        graph, params, pixels, removed = drawn
        seen += len(removed)
        smaller, kept = remove_channels(graph, params, removed)
        gone = {name: sum(len(unit.get(name, ())) for unit in removed) for name in graph.shapes}
        assert {n: s[0] for n, s in smaller.shapes.items()} == {n: s[0] - gone[n] for n, s in graph.shapes.items()}
        expected = masked_outputs(graph, params, pixels, removed)
        for y, wanted in zip(masked_outputs(smaller, kept, pixels, []), expected, strict=True):
            close(y, wanted)
        # More where a depthwise convolution of one channel is left, whose output is as good as any convolution's; fewer where
        # groups of several channels are left with one each, so that a grouped convolution has become a depthwise one.
        kinds = [[node.cell.output_channels for node in each.nodes] for each in (graph, smaller)]
        if ("kept", "grouped") not in set(zip(kinds[1], kinds[0], strict=True)):
            assert len(channel_groups(smaller)) >= len(channel_groups(graph))

    check()
    assert seen > 80


def silenced(graph: qat.Graph, params: dict[str, Array], removed: list[Any]) -> dict[str, Array]:
    """Parameters with which these channels are 0 all along, and nothing reads them."""
    result = {name: array.copy() for name, array in params.items()}
    for node in graph.nodes:
        cell: Any = node.cell
        mine = [p for unit in removed for p in unit.get(node.name, ())]
        for local in cell.params():
            if local != "moving_variance":
                result[f"{node.cell_name}.{local}"][mine] = 0
        if isinstance(cell, (qat.Conv2dBnAct, qat.DenseBnAct)) and result[f"{node.cell_name}.weight"].shape[1] > 1:
            source = {p for unit in removed for p in unit.get(node.inputs[0], ())}
            width = result[f"{node.cell_name}.weight"].shape[1]
            result[f"{node.cell_name}.weight"][:, sorted({p % width for p in source})] = 0
    return result


@pytest.mark.parametrize("settings_", [{}, {"bn_fold": True}, {"symmetric": False, "per_channel": False}], ids=str)
@pytest.mark.parametrize("name", ["lenet", "resnet8", "compact_residual", "ds_cnn"])
def test_without_channels_that_are_0_the_codes_are_the_same(name: str, settings_: dict[str, Any]) -> None:
    graph = create(name).graph()
    rng = np.random.default_rng(1)
    removed = [unit for group in channel_groups(graph) for unit in group.units[1::3]]
    params = silenced(graph, random_params(graph, rng, frozenset()), removed)
    smaller, kept = remove_channels(graph, params, removed)
    pixels = rng.integers(0, 256, (3, *graph.shapes["input"]), np.uint8)
    codes = []
    for each, own in ((graph, params), (smaller, kept)):
        quantized = qat.convert_quant_network(each, **settings_)
        codes.append(evaluate(qat.to_integer(quantized, quantized.observed_params() | own), pixels))
    assert len(np.unique(codes[0])) > 1
    np.testing.assert_array_equal(*codes)


# -- how many ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def lenet() -> tuple[qat.Graph, dict[str, Array], dict[str, Array]]:
    """With an importance that grows with the place of a channel, and from layer to layer."""
    graph = create("lenet").graph()
    counts = {"conv1": 6, "conv2": 16, "fc1": 120, "fc2": 84, "fc3": 10}
    return graph, graph.initial_params(), {n: np.arange(c) + 1000.0 * i for i, (n, c) in enumerate(counts.items())}


def test_a_global_ratio_takes_the_least_important_of_all(lenet: Any) -> None:
    graph, params, importance = lenet
    smaller, kept = prune_channels(graph, params, importance, ratio=20 / 226)
    assert widths(smaller) == {"conv1": 1, "conv2": 1, "fc1": 120, "fc2": 84}
    np.testing.assert_array_equal(kept["conv1.weight"], params["conv1.weight"][5:])
    assert widths(prune_channels(graph, params, importance, ratio=0.0)[0]) == widths(graph)


def test_a_ratio_of_each_layer(lenet: Any) -> None:
    smaller, kept = prune_channels(*lenet, ratio=0.5, scope="layer")
    assert widths(smaller) == {"conv1": 3, "conv2": 8, "fc1": 60, "fc2": 42}
    np.testing.assert_array_equal(kept["fc3.weight"], lenet[1]["fc3.weight"][:, 42:])


def test_minimum_and_multiples(lenet: Any) -> None:
    assert widths(prune_channels(*lenet, ratio=20 / 226, minimum=4)[0])["conv1"] == 4
    smaller, kept = prune_channels(*lenet, ratio=0.5, scope="layer", multiple_of=4)
    assert widths(smaller) == {"conv1": 4, "conv2": 8, "fc1": 60, "fc2": 44}
    np.testing.assert_array_equal(kept["conv1.weight"], lenet[1]["conv1.weight"][2:])  # the better one came back


def test_what_is_kept_by_name(lenet: Any) -> None:
    smaller, _ = prune_channels(*lenet, keep={"conv2": 3, "fc1": 20})
    assert widths(smaller) == {"conv1": 6, "conv2": 3, "fc1": 20, "fc2": 84}


@pytest.mark.parametrize("scope", ["global", "layer"])
def test_a_budget_is_met_and_not_by_more_than_it_takes(lenet: Any, scope: str) -> None:
    graph, params, importance = lenet
    for cost, limit in ((total_macs, 100_000), (qat.Graph.count_trainable, 20_000)):
        smaller, _ = prune_channels(graph, params, importance, budget=(cost, limit), scope=scope)
        assert 0.7 * limit < cost(smaller) <= limit


def test_a_budget_takes_channels_that_cost_much_for_what_they_are_worth() -> None:
    """Of equal channels those of conv1, whose removal saves most products, and of parameters those of conv2."""
    graph = create("lenet").graph()
    equal = {"conv1": np.ones(6), "conv2": np.ones(16), "fc1": np.ones(120), "fc2": np.ones(84)}
    products, _ = prune_channels(graph, graph.initial_params(), equal, budget=(total_macs, total_macs(graph) - 100_000))
    assert widths(products) == {"conv1": 4, "conv2": 16, "fc1": 120, "fc2": 84}
    cost = qat.Graph.count_trainable
    numbers, _ = prune_channels(graph, graph.initial_params(), equal, budget=(cost, cost(graph) - 5_000))
    assert widths(numbers) == {"conv1": 6, "conv2": 14, "fc1": 120, "fc2": 84}


def test_of_equals_the_later_one_goes_first() -> None:
    graph = create("lenet").graph()
    params = graph.initial_params()
    _, kept = prune_channels(graph, params, {"conv1": np.ones(6)}, ratio=2 / 6)
    np.testing.assert_array_equal(kept["conv1.weight"], params["conv1.weight"][:4])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "takes one of ratio, keep and budget, but got none"),
        ({"ratio": 0.5, "keep": {}}, "but got ratio, keep"),
        ({"ratio": 1.0}, "ratio is 1.0"),
        ({"ratio": -0.1}, "ratio is -0.1"),
        ({"ratio": float("nan")}, "ratio is nan"),
        ({"ratio": 0.5, "minimum": 0}, "minimum is 0"),
        ({"ratio": 0.5, "multiple_of": 1.5}, "multiple_of is 1.5"),
        ({"ratio": 0.5, "scope": "all"}, "scope is 'all'"),
        ({"keep": {"conv9": 2}}, "'conv9' is not a group of channels of LeNet5; use conv1, conv2, fc1, fc2"),
        ({"keep": {"conv1": 7}}, "conv1 cannot keep 7 of its 6 channels; use 1 to 6"),
        ({"budget": (total_macs, 10)}, "with all removable channels removed it is still"),
    ],
)
def test_mistakes_are_named(lenet: Any, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(qat.QatError, match=message.replace("(", r"\(")):
        prune_channels(*lenet, **arguments)


def test_importances_that_do_not_fit_are_refused(lenet: Any) -> None:
    graph, params, _ = lenet
    with pytest.raises(qat.QatError, match=r"conv1: its importance has shape \(5,\) where it has 6 output channels"):
        prune_channels(graph, params, {"conv1": np.ones(5)}, ratio=0.5)
    with pytest.raises(qat.QatError, match="not a number"):
        prune_channels(graph, params, {"conv1": np.full(6, np.nan)}, ratio=0.5)
    with pytest.raises(qat.QatError, match="2 channels of conv2 would go, but 0 of them have an importance"):
        prune_channels(graph, params, {"conv1": np.ones(6)}, keep={"conv2": 14})
    with pytest.raises(qat.QatError, match="no other one has an importance"):
        prune_channels(graph, params, {"fc3": np.ones(10)}, ratio=0.5)


def test_a_quantized_network_is_refused() -> None:
    graph = qat.convert_quant_network(create("lenet"))
    for function in (channel_groups, lambda g: drop_blocks(g, g.initial_params(), [])):
        with pytest.raises(qat.QatError, match="prune the float network it was made from"):
            function(graph)


# -- blocks -----------------------------------------------------------------------------------------------------------


def test_residual_blocks_are_those_whose_shortcut_is_nothing() -> None:
    names = [block.name for block in residual_blocks(create("resnet20"))]
    assert names == [f"blocks.{i}.add" for i in (0, 1, 2, 4, 5, 7, 8)]
    assert [block.identity for block in residual_blocks(create("compact_residual"))] == ["conv", "blocks.1.project"]
    assert residual_blocks(create("lenet")) == ()


@pytest.mark.parametrize("name", ["resnet20", "compact_residual"])
def test_without_a_block_it_is_the_network_whose_branch_gives_0(name: str) -> None:
    graph = create(name).graph()
    rng = np.random.default_rng(0)
    params = random_params(graph, rng, frozenset())
    pixels = (rng.integers(0, 256, (2, *graph.shapes["input"]), np.uint8),)
    blocks = residual_blocks(graph)[:2]
    smaller, kept = drop_blocks(graph, params, [block.name for block in blocks])
    ends = [next(n for n in graph.consumers(block.identity) if n.name == block.name).inputs for block in blocks]
    branch_ends = [next(x for x in pair if x != b.identity) for pair, b in zip(ends, blocks, strict=True)]
    masked = [{end: tuple(range(graph.shapes[end][0]))} for end in branch_ends]
    (found,), (expected,) = masked_outputs(smaller, kept, pixels, []), masked_outputs(graph, params, pixels, masked)
    np.testing.assert_array_equal(found, expected)
    assert kept.keys() == smaller.params.keys()
    assert len(smaller.nodes) <= len(graph.nodes) - 6


def test_the_relu_of_a_dropped_addition_stays_where_it_does_something() -> None:
    graph = made(
        (qat.Conv2dBnAct(1, 3, 1, has_bn=True), "input"),
        (qat.Conv2dBnAct(3, 3, 1), "v0"),
        (qat.Add("relu"), "v0", "v1"),
        (qat.Conv2dBnAct(3, 2, 1), "v2"),
    )
    (block,) = residual_blocks(graph)
    smaller, _ = drop_blocks(graph, graph.initial_params(), [block.name])
    assert [type(node.cell).__name__ for node in smaller.nodes] == ["Input", "Conv2dBnAct", "Activation", "Conv2dBnAct"]
    with pytest.raises(qat.QatError, match=r"'conv1' is not a residual block of LeNet5 .* it has none"):
        drop_blocks(create("lenet"), create("lenet").graph().initial_params(), ["conv1"])


def test_the_counts_of_a_pruned_network_follow_from_its_widths() -> None:
    graph = create("lenet").graph()
    smaller, params = prune_channels(graph, graph.initial_params(), {"conv1": np.arange(6.0)}, keep={"conv1": 2})
    assert total_macs(smaller) == total_macs(graph) - 4 * (25 * 28 * 28 + 16 * 25 * 100)
    assert sum(math.prod(array.shape) for array in params.values()) == 61_684 - 4 * (25 + 16 * 25)
