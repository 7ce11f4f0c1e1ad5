"""Values that are joined, by a Concat or an Add: whatever scales they have, they are the numbers that evaluation reads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from calibrations import calibrate
from frameworks import HERE
from hypothesis import given, settings
from hypothesis import strategies as st

import qat
from qat.cells.fake_quant import FakeQuant
from qat.integer import evaluate
from qat.registry import BACKENDS
from qat.training.forward import Forward, _schedule
from qat.training.optimizer import Optimizer
from qat.vocabulary.arrays import as_arrays, as_tuple
from qat.vocabulary.numpy_ops import NUMPY_OPS, NumpyOps

pytestmark = pytest.mark.filterwarnings("ignore::qat.errors.QatWarning")  # ranges that are unlike

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (16, 3, 8, 8), np.uint8)
RELATIVE = 1e-5  #: of float32 sums
GRADIENT = 1e-3  #: of sums of products that cancel
TIES = 0.001  #: of codes that may differ by one
DROPPED = 0.03  #: of means over 60 passes in which half of the numbers are dropped: some five standard deviations


def joined(construct: Callable[..., Any], **cells: qat.Cell) -> qat.Graph:
    """A network of two 3x3 convolutions, ``small`` and ``large``, and some more cells."""

    class Joined(qat.Network):
        inputs = qat.Input((3, 8, 8))

        def __init__(self) -> None:
            self.small = qat.Conv2dBnAct(3, 4, 3, activation="relu")
            self.large = qat.Conv2dBnAct(3, 4, 3, activation="relu")
            for name, cell in cells.items():
                setattr(self, name, cell)

        def construct(self, x):
            return construct(self, x)

    return Joined().graph()


def nested(net, x):
    a, b = net.small(x), net.large(x)
    return net.after(net.outer(net.concat(net.pool(a), net.pool2(net.drop(b))), net.pool3(net.third(x))))


def chain(net, x):
    """What is concatenated first comes before what decides about its grid."""
    a = net.concat(net.small(x), net.large(x))
    return net.after(net.outer(a, net.third(a)))


def early(net, x):
    """Something computes with the codes of ``small`` before ``large`` has its numbers."""
    a = net.small(x)
    c = net.early(a)
    return net.after(net.concat(a, net.large(x))), c


def early_of_three(net, x):
    """Likewise, and with those of a join of the first two before the third has its numbers."""
    a = net.small(x)
    c = net.early(a)
    inner = net.concat(a, net.pool(net.large(x)))
    d = net.early2(inner)
    return net.after(net.outer(inner, net.third(x))), c, d


def early_and_nested(net, x):
    """What has to observe first depends on codes, of another group, for which others have to observe first."""
    a, d = net.small(x), net.third(x)
    c, e = net.early(a), net.early2(d)
    b = net.concat(d, net.fourth(x))
    return net.after(net.concat2(a, net.large(b))), c, e


def chain_of_three(net, x):
    """The second part depends on the first, the third on none."""
    a = net.small(x)
    inner = net.concat(a, net.third(a))
    return net.after(net.outer(inner, net.large(x)))


POOLS = {name: qat.MaxPool2d(2) for name in ("pool", "pool2", "pool3")}
NETWORKS = {
    "concat": joined(
        lambda net, x: net.after(net.concat(net.small(x), net.large(x))),
        concat=qat.Concat(),
        after=qat.Conv2dBnAct(8, 4, 1),
    ),
    "add": joined(
        lambda net, x: net.after(net.add(net.small(x), net.large(x))), add=qat.Add(), after=qat.Conv2dBnAct(4, 4, 1)
    ),
    "flattened": joined(
        lambda net, x: net.after(net.concat(net.flatten(net.small(x)), net.flatten2(net.large(x)))),
        concat=qat.Concat(),
        flatten=qat.Flatten(),
        flatten2=qat.Flatten(),
        after=qat.DenseBnAct(512, 4),
    ),
    "pools, nested": joined(
        nested,
        **POOLS,
        drop=qat.Dropout(0.0),
        concat=qat.Concat(),
        outer=qat.Concat(),
        third=qat.Conv2dBnAct(3, 4, 3),
        after=qat.Conv2dBnAct(12, 4, 1),
    ),
}
EARLY = {
    "asked for early": joined(
        early, concat=qat.Concat(), early=qat.Conv2dBnAct(4, 4, 3), after=qat.Conv2dBnAct(8, 4, 1)
    ),
    "asked for early, three": joined(
        early_of_three,
        concat=qat.Concat(),
        outer=qat.Concat(),
        pool=qat.MaxPool2d(3, 1, pad_mode="same"),
        early=qat.Conv2dBnAct(4, 4, 3),
        early2=qat.Conv2dBnAct(8, 4, 3),
        third=qat.Conv2dBnAct(3, 4, 3),
        after=qat.Conv2dBnAct(12, 4, 1),
    ),
    "asked for early, nested": joined(
        early_and_nested,
        concat=qat.Concat(),
        concat2=qat.Concat(),
        early=qat.Conv2dBnAct(4, 4, 3),
        early2=qat.Conv2dBnAct(1, 4, 3),
        third=qat.Conv2dBnAct(3, 1, 3),
        fourth=qat.Conv2dBnAct(3, 2, 3),
        after=qat.Conv2dBnAct(8, 4, 1),
    ),
}
NETWORKS |= EARLY
CHAINS = {
    "chain": joined(
        chain, concat=qat.Concat(), outer=qat.Concat(), third=qat.Conv2dBnAct(8, 4, 3), after=qat.Conv2dBnAct(12, 4, 1)
    ),
    "chain of three": joined(
        chain_of_three,
        concat=qat.Concat(),
        outer=qat.Concat(),
        third=qat.Conv2dBnAct(4, 4, 3),
        after=qat.Conv2dBnAct(12, 4, 1),
    ),
}


def unequal(graph: qat.Graph) -> dict[str, np.ndarray]:
    """Parameters with a branch whose numbers are 50 times as large."""
    params = graph.initial_params(0)
    params["large.weight"] *= 50
    return params


def training_pass(graph: qat.Graph, params: dict[str, np.ndarray], phase: int = 0) -> tuple[Any, dict[str, Any]]:
    """Outputs and parameters after one pass of training, in NumPy."""
    tensors = {name: NUMPY_OPS.from_numpy(params[name], param.kind) for name, param in graph.params.items()}
    outputs, updates = Forward(graph, NUMPY_OPS)(tensors, (IMAGES.astype(np.float32),), training=True, phase=phase)
    return as_arrays(outputs), params | {
        name: NUMPY_OPS.to_numpy(value, graph.params[name].kind) for name, value in updates.items()
    }


@pytest.mark.parametrize(
    "activations", [qat.ActivationQuantizer(8), qat.LSQActivationQuantizer(8, offset=True)], ids=str
)
@pytest.mark.parametrize("name", NETWORKS)
def test_the_first_step_computes_with_the_codes_of_evaluation(
    name: str, activations: qat.quantizers.BaseActivationQuantizer
) -> None:
    """All that share a grid have observed before codes are made."""
    graph = qat.convert_quant_network(NETWORKS[name], activation_quantizer=activations)
    y, params = training_pass(graph, graph.initial_params() | unequal(NETWORKS[name]))
    integers = qat.to_integer(graph, params)
    for found, codes, output in zip(as_tuple(y), as_tuple(evaluate(integers, IMAGES)), integers.outputs, strict=True):
        expected = (codes.astype(np.float32) - output.grid.zero_point) * output.grid.scale
        differ = np.abs(found - expected) > RELATIVE * np.abs(expected).max()
        # An addition's grid may have moved away from ties, in evaluation.
        assert differ.sum() <= (name == "add") * 0.001 * differ.size, output.name


@pytest.mark.parametrize(
    ("backend_name", "name"),
    [("torch", name) for name in EARLY] + [(name, "asked for early") for name in HERE if name != "torch"],
)
def test_so_it_does_in_every_framework(backend_name: str, name: str) -> None:
    graph = qat.convert_quant_network(NETWORKS[name])
    backend = qat.backend(backend_name)
    model = backend.lower(graph, graph.initial_params() | unequal(NETWORKS[name]))
    found = in_training(backend_name, model)
    for y, expected, output in zip(found, backend.predict(model, IMAGES), model.integers().outputs, strict=True):
        codes_apart = np.abs(y - expected) / output.grid.scale
        # A framework's own scale may differ in its last bit, which moves what is next to a tie by one.
        assert codes_apart.max() < 1.01
        assert (codes_apart > 0.01).mean() < TIES, output.name


def test_those_that_share_a_grid_observe_before_one_makes_codes_unless_they_depend_on_them() -> None:
    for name, network in (NETWORKS | CHAINS).items():
        graph = qat.convert_quant_network(network)
        order = [(node.name, method is FakeQuant.observe) for method, node in _schedule(graph)]
        late = {
            (node.name, other)
            for node in graph.nodes
            if isinstance(node.cell, FakeQuant) and (node.name, False) in order
            for other in node.cell.shares
            if order.index((other, True)) > order.index((node.name, False))
        }
        small, third, large = (f"{cell}.fake_quant" for cell in ("small", "third", "large"))
        dependent = {"chain": {(small, third), (large, third)}, "chain of three": {(small, third)}}
        assert late == dependent.get(name, set()), name


@pytest.mark.parametrize("quantized", [False, True])
@pytest.mark.parametrize(
    ("make", "after"),
    [
        (qat.Flatten, qat.DenseBnAct(256, 2)),
        (lambda: qat.Dropout(0.1), qat.Conv2dBnAct(4, 2, 1)),
        (lambda: qat.MaxPool2d(3, 1, pad_mode="same"), qat.Conv2dBnAct(4, 2, 1)),
    ],
    ids=["flatten", "dropout", "pool"],
)
def test_what_keeps_a_grid_may_follow_one_another_as_often_as_one_likes(
    make: Callable[[], qat.Cell], after: qat.Cell, quantized: bool
) -> None:
    cells = {f"keeps{i}": make() for i in range(1500)}

    def construct(net, x):
        x = net.small(x)
        for name in cells:
            x = getattr(net, name)(x)
        return net.after(x)

    graph = joined(construct, after=after, **cells)
    graph = qat.convert_quant_network(graph) if quantized else graph
    order = [node.name for method, node in _schedule(graph) if method is not FakeQuant.observe]
    assert sorted(order) == sorted(node.name for node in graph.nodes)
    Forward(graph, NUMPY_OPS)


@pytest.mark.parametrize("delay", [0, 1])
@pytest.mark.parametrize("name", [*NETWORKS, *CHAINS])
def test_the_first_quantized_step_observes_what_the_float_network_gives(name: str, delay: int) -> None:
    network = (NETWORKS | CHAINS)[name]
    graph = qat.convert_quant_network(network, num_bits=(8, 16), quant_delay=delay)
    given = graph.initial_params() | unequal(network)
    _, params = training_pass(graph, given)
    if delay:
        _, params = training_pass(graph, params, phase=delay)
    _, seen = training_pass(qat.convert_quant_network(network, num_bits=(8, 16), quant_delay=9), given)
    for end in (end for end in params if end.endswith((".min", ".max"))):
        # Weights of 8 bits move a sum by some percent; a wrong grid did by the branches' ratio of 50.
        assert params[end] == pytest.approx(seen[end], rel=0.05, abs=0.05), end


@st.composite
def trees(draw: st.DrawFn) -> qat.Graph:
    """Branches of any ranges, joined, dropped and pooled in any order."""
    joins = draw(st.lists(st.tuples(*[st.integers(0, 9)] * 2, st.booleans()), min_size=1, max_size=4))
    keeps = draw(st.lists(st.tuples(st.integers(0, 9), st.sampled_from(["drop", "pool"])), max_size=4))
    after = draw(st.booleans())

    class Tree(qat.Network):
        inputs = qat.Input((3, 8, 8))

        def __init__(self) -> None:
            self.branches = [qat.Conv2dBnAct(3, 4, 3, activation="relu") for _ in range(1 + len(joins))]
            self.after = [qat.Conv2dBnAct(4 * parts, 4, 1) for parts in range(1, len(self.branches) + 1)]

        def construct(self, x):
            values = [branch(x) for branch in self.branches]
            for which, kind in keeps:
                cell = qat.Dropout(0.5) if kind == "drop" else qat.MaxPool2d(3, 1, pad_mode="same")
                values[which % len(values)] = cell(values[which % len(values)])
            for which, other, concat in joins:
                a = values.pop(which % len(values))
                b = values.pop(other % len(values))
                alike = a.shape == b.shape and not concat
                values.append(qat.Add()(a, b) if alike else qat.Concat()(a, b))
            (value,) = values
            return self.after[value.shape[0] // 4 - 1](value) if after else value

    return Tree().graph()


class SameDropped(NumpyOps):
    """Dropout leaves out the same places each time."""

    def drop(self, x, rate):
        kept = np.random.default_rng(x.size).random(x.shape) >= rate
        return x * kept.astype(np.float32)


def test_any_joined_values_are_those_of_the_float_network_in_training_and_in_evaluation() -> None:
    ops = SameDropped()

    def outputs(graph: qat.Graph, params: dict[str, Any], *, training: bool) -> Any:
        return Forward(graph, ops)(params, (IMAGES[:4].astype(np.float32),), training=training, phase=0)[0][0]

    def assert_close(found: Any, expected: Any) -> None:
        np.testing.assert_allclose(found, expected, rtol=0, atol=0.001 * np.abs(expected).max())

    @settings(max_examples=50, deadline=None)
    @given(trees(), st.integers(0, 99))
    def check(network: qat.Graph, seed: int) -> None:
        rng = np.random.default_rng(seed)
        weights = network.initial_params(seed)
        weights = {name: (w * 10.0 ** rng.uniform(-1, 1)).astype(np.float32) for name, w in weights.items()}
        graph = qat.convert_quant_network(network, num_bits=16)
        assert_close(
            outputs(graph, graph.initial_params() | weights, training=True), outputs(network, weights, training=True)
        )
        checkpoint = calibrate(network, weights, IMAGES[:4], num_bits=16)
        integers = qat.to_integer(checkpoint.graph, checkpoint.params)
        deployed = integers.output.grid.dequantize(evaluate(integers, IMAGES[:4]))
        assert_close(deployed, outputs(network, weights, training=False))

    check()


@pytest.mark.parametrize(
    ("backend_name", "dropped", "quantized"),
    [("torch", dropped, quantized) for dropped in ("first", "last", "nested") for quantized in (False, True)]
    + [(name, "first", True) for name in HERE if name != "torch"],
)
def test_dropout_before_a_concat_leaves_every_part_its_mean(backend_name: str, dropped: str, quantized: bool) -> None:
    def construct(net, x):
        a, b = net.small(x), net.large(x)
        if dropped == "nested":
            return net.outer(net.concat(net.drop(a), b), net.third(x))
        return net.concat(net.drop(a), b) if dropped == "first" else net.concat(b, net.drop(a))

    third = {"outer": qat.Concat(), "third": qat.Conv2dBnAct(3, 4, 3, activation="relu")}
    graph = joined(construct, drop=qat.Dropout(0.5), concat=qat.Concat(), **(third if dropped == "nested" else {}))
    params = graph.initial_params(0)
    if quantized:
        checkpoint = calibrate(graph, params, IMAGES)
        graph, params = checkpoint.graph, checkpoint.params
    backend = qat.backend(backend_name)
    model = backend.lower(graph, params)
    expected = backend.predict(model, IMAGES).mean((0, 2, 3))
    found = np.mean([in_training(backend_name, model)[0].mean((0, 2, 3)) for _ in range(60)], axis=0)
    parts = slice(0, 4), slice(4, 8), slice(8, 12)
    ratios = [found[part].sum() / expected[part].sum() for part in parts if part.start < len(found)]
    np.testing.assert_allclose(ratios, 1.0, rtol=0, atol=DROPPED)


@dataclass(frozen=True)
class Outputs(qat.Objective):
    """Has the outputs among its terms."""

    def terms(self, passes: Any, targets: Any) -> dict[str, Any]:
        outputs = as_tuple(passes.outputs)
        return {"loss": passes.ops.mean(outputs[0])} | {f"output {i}": y for i, y in enumerate(outputs)}


@cache
def step_of(backend_name: str, model: Any) -> Any:
    return qat.backend(backend_name).make_step(model, Optimizer(), Outputs())


def in_training(backend_name: str, model: Any) -> list[np.ndarray]:
    """Outputs of one pass of training, each framework's own way; of other packages' backends in a step that moves nothing."""
    if backend_name not in BACKENDS:
        step = step_of(backend_name, model)
        step(IMAGES, np.zeros(len(IMAGES), np.int32), 0.0)
        return [y for name, y in step.terms().items() if name != "loss"]
    if backend_name == "torch":
        import torch

        with torch.no_grad():
            return [y.numpy() for y in as_tuple(model.train()(torch.from_numpy(IMAGES)))]
    if backend_name == "keras":
        return [y.numpy() for y in as_tuple(model(IMAGES, training=True))]
    import mindspore as ms

    return [y.asnumpy() for y in as_tuple(model.set_train()(ms.Tensor(IMAGES)))]


def test_images_of_different_normalisations_are_joined_as_numbers() -> None:
    class Two(qat.Network):
        inputs = (qat.Input((3, 8, 8), std=0.25), qat.Input((3, 8, 8), mean=0.5, std=0.5))

        def __init__(self) -> None:
            self.concat = qat.Concat()

        def construct(self, a, b):
            return self.concat(a, b)

    graph = Two().graph()
    x = IMAGES.astype(np.float32)
    (found,), _ = Forward(graph, NUMPY_OPS)({}, (x, x), training=False, phase=0)
    a, b = x / (255 * 0.25), (x - np.rint(255 * 0.5)) / (255 * 0.5)
    np.testing.assert_allclose(found, np.concatenate([a, b], axis=1), rtol=RELATIVE, atol=0)


def test_learned_scales_of_a_concat_have_the_gradients_of_the_real_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the parts have scales of their own, as after a Dropout."""
    torch = qat.backend("torch")
    settings = {"activation_quantizer": qat.LSQActivationQuantizer(4), "weight_quantizer": qat.LSQWeightQuantizer(4)}

    def construct(net, x):
        return net.after(net.concat(net.flatten(net.drop(net.small(x))), net.flatten2(net.large(x))))

    cells = {"concat": qat.Concat(), "drop": qat.Dropout(0.4), "flatten": qat.Flatten(), "flatten2": qat.Flatten()}
    graph = qat.convert_quant_network(joined(construct, after=qat.DenseBnAct(512, 4), **cells), **settings)
    params = graph.initial_params(0)
    labels = RNG.integers(0, 4, len(IMAGES))

    def gradients() -> dict[str, np.ndarray]:
        model = torch.lower(graph, params)
        torch.seed(0)
        torch.make_step(model, Optimizer())(IMAGES, labels, 0.0)
        return {name: p.grad.numpy() for name, p in model.named_parameters() if p.grad is not None}

    found = gradients()
    forward = qat.Concat.forward

    def real(self, scope, *inputs):
        y = forward(self, scope, *inputs)
        assert y.codes
        data = scope.ops.concat([x.real(scope.ops) for x in inputs])
        return y.with_data(data / y.scale)

    monkeypatch.setattr(qat.Concat, "forward", real)
    expected = gradients()
    for name, gradient in expected.items():
        np.testing.assert_allclose(found[name], gradient, rtol=0, atol=GRADIENT * np.abs(gradient).max(), err_msg=name)
    assert any(found[f"{name}.fake_quant.scale_change"] != 0.0 for name in ("small", "large"))


def test_a_residual_sum_with_powers_of_two_begins_with_the_numbers_of_its_own() -> None:
    """One of the two has observed nothing when the first makes codes: its maximum of -infinity says nothing of a grid."""

    def construct(net, x):
        a = net.small(x)
        return net.add(a, net.third(a))

    graph = joined(construct, add=qat.Add(), third=qat.Conv2dBnAct(4, 4, 3, activation="relu"))
    graph = qat.convert_quant_network(graph, activation_quantizer=qat.GTCActivationQuantizer(4))
    y, params = training_pass(graph, graph.initial_params(0))
    assert 0.0 < np.abs(y).max() < 100.0
    assert 0.0 < params["third.fake_quant.max"] < 100.0


@pytest.mark.parametrize(
    "cell", [qat.Add(), qat.Sub(), qat.Maximum(), qat.Concat(), qat.Stack(), qat.OneGrid()], ids=repr
)
def test_codes_of_different_grids_are_not_joined(cell: qat.Cell) -> None:
    """As of a graph whose fake quantizers were made to share nothing."""

    class Joined(qat.Network):
        inputs = qat.Input((3, 8))

        def __init__(self) -> None:
            self.a, self.b, self.join = qat.Conv1dBnAct(3, 4, 1), qat.Conv1dBnAct(3, 4, 1), cell

        def construct(self, x):
            return self.join(self.a(x), self.b(x))

    graph = qat.convert_quant_network(Joined())
    params = graph.observed_params()
    params["b.fake_quant.max"] = np.array(3.0, np.float32)
    qat.to_integer(graph, params)
    alone = tuple(
        replace(node, cell=replace(node.cell, shares=())) if isinstance(node.cell, FakeQuant) else node
        for node in graph.nodes
    )
    message = r"^join: a and b have different grids, so that equal codes of both are different numbers; convert"
    with pytest.raises(qat.QatError, match=message):
        qat.to_integer(replace(graph, nodes=alone), params)
