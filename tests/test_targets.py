"""Every kind of integer node on every target: its file is written, or it is refused by its name."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from graphs import Traced, chain, conv

import qat
import qat.integer
from qat.integer import (
    FloatLayer,
    Grid,
    IntegerAdd,
    IntegerChannelTable,
    IntegerConcat,
    IntegerConv2d,
    IntegerDense,
    IntegerFlatten,
    IntegerGraph,
    IntegerInput,
    IntegerMatMul,
    IntegerMaximum,
    IntegerMaxPool2d,
    IntegerMeans,
    IntegerMinimum,
    IntegerMul,
    IntegerNode,
    IntegerNorm,
    IntegerPad,
    IntegerPick,
    IntegerQuantize,
    IntegerRearrange,
    IntegerSoftmax,
    IntegerSub,
    IntegerTable,
    IntegerTensor,
)
from qat.registry import TARGETS, installed

ON_ASCEND = {
    IntegerTable,
    IntegerChannelTable,
    IntegerSoftmax,
    IntegerPad,
    IntegerPick,
    IntegerRearrange,
    IntegerMul,
    IntegerMatMul,
    IntegerNorm,
    IntegerSub,
    IntegerMaximum,
    IntegerMinimum,
    IntegerMeans,
}
#: Kinds of networks with a layer that is left in float, and the kind by whose node a target refuses such.
OF_FLOATS: dict[type[IntegerNode], type[IntegerNode]] = {FloatLayer: FloatLayer, IntegerQuantize: FloatLayer}
#: The kinds that a target refuses; it writes all others.
REFUSED: dict[str, set[type[IntegerNode]]] = {"C": {*OF_FLOATS}, "MINDIR": {*OF_FLOATS}}
REFUSED |= {"AIR": ON_ASCEND | {*OF_FLOATS}, "ASCEND_ONNX": ON_ASCEND | {*OF_FLOATS}}
#: The profiles of convert_quant_network, of which a target has to take one.
PROFILES = ("default", "ascend")
HERE = pytest.mark.parametrize("name", [name for name, entry in TARGETS.items() if installed(entry)])


def networks() -> dict[type[IntegerNode], qat.Network | qat.Graph]:
    """A network for each kind of node, which its integers have."""
    two = {"a": conv(1, 2), "b": conv(1, 2)}
    return {
        IntegerInput: chain(conv(1, 2)),
        IntegerConv2d: chain(conv(1, 2)),
        FloatLayer: Traced(lambda self, x: self.b(self.a(x)), a=conv(1, 2), b=conv(2, 2)),
        IntegerQuantize: Traced(lambda self, x: self.b(self.a(x)), a=conv(1, 2), b=conv(2, 2)),
        IntegerDense: chain(qat.Flatten(), qat.DenseBnAct(64, 3)),
        IntegerMaxPool2d: chain(conv(1, 2), qat.MaxPool2d(2)),
        IntegerMeans: chain(conv(1, 2), qat.AvgPool2d(3, 1, "pad", 1, count_include_pad=False)),
        IntegerFlatten: chain(conv(1, 2), qat.Flatten()),
        IntegerAdd: Traced(lambda self, x: self.add(self.a(x), self.b(x)), add=qat.Add(), **two),
        IntegerSub: Traced(lambda self, x: self.a(x) - self.b(x), **two),
        IntegerMaximum: Traced(lambda self, x: qat.Maximum()(self.a(x), self.b(x)), **two),
        IntegerMinimum: Traced(lambda self, x: qat.Minimum()(self.a(x), self.b(x)), **two),
        IntegerMul: Traced(lambda self, x: self.a(x) * self.b(x), **two),
        IntegerMatMul: Traced(lambda self, x: self.a(x) @ self.b(x), **two),
        IntegerNorm: chain(conv(1, 2), qat.LayerNorm(2)),
        IntegerPad: chain(conv(1, 2), qat.ConstantChannel(0.0)),
        IntegerPick: chain(conv(1, 2), qat.Slice(1, step=2)),
        IntegerRearrange: chain(conv(1, 4), qat.PixelShuffle(2)),
        IntegerConcat: Traced(lambda self, x: self.join(self.a(x), self.b(x)), join=qat.Concat(), **two),
        IntegerTable: chain(conv(1, 2), qat.Activation("sigmoid")),
        IntegerChannelTable: chain(conv(1, 2), qat.PReLU(2)),
        IntegerSoftmax: chain(qat.Flatten(), qat.DenseBnAct(64, 3), qat.Softmax()),
    }


def integers(kind: type[IntegerNode], profile: str) -> IntegerGraph:
    layers = {"a": {"quantize": False}} if kind in OF_FLOATS else {}
    graph = qat.convert_quant_network(networks()[kind], profile=profile, layers=layers)
    return qat.to_integer(graph, graph.observed_params())


def refusals(target: Any, kind: type[IntegerNode], path: Path) -> Iterator[tuple[IntegerNode, str]]:
    """For each profile under which the target refuses the network of a kind: the last node of the kind, and the message."""
    for profile in PROFILES:
        graph = integers(kind, profile)
        assert any(type(node) is kind for node in graph.nodes)
        node = [node for node in graph.nodes if type(node) is OF_FLOATS.get(kind, kind)][-1]
        try:
            target.export(graph, path)
        except qat.QatError as error:
            assert not path.exists()
            yield node, str(error)
        path.unlink(missing_ok=True)


def test_the_networks_have_every_kind_of_node() -> None:
    kinds = {kind for _, kind in inspect.getmembers(qat.integer, inspect.isclass) if issubclass(kind, IntegerNode)}
    assert set(networks()) == {kind for kind in kinds if not inspect.isabstract(kind)}
    assert [kind.__name__ for kind in networks() if kind.kind == IntegerNode.kind] == [], "without words for messages"
    assert len({kind.kind for kind in networks()}) == len(networks())


@HERE
@pytest.mark.parametrize("kind", networks(), ids=lambda kind: kind.__name__)
def test_a_kind_of_node_is_written_or_refused_by_name(name: str, kind: type[IntegerNode], tmp_path: Path) -> None:
    found = list(refusals(qat.target(name), kind, tmp_path / f"net{TARGETS[name].suffix}"))
    if kind not in REFUSED.get(name, ()):
        assert len(found) < len(PROFILES), found
        return
    assert len(found) == len(PROFILES)
    node, message = found[PROFILES.index("ascend")]
    assert message.startswith(f"{node.name}: {name}"), message
    assert kind.__name__ not in message  # users know cells, not the classes of nodes


class IntegerOdd(IntegerNode):
    """A kind that no target knows."""

    kind = "an odd sum"

    def evaluate(self, ops: Any, constants: Any, *inputs: Any) -> Any:
        return inputs[0]


@HERE
def test_a_kind_of_node_that_no_target_knows_is_refused_by_name(name: str, tmp_path: Path) -> None:
    x = IntegerTensor("x", (4,), Grid(np.float32(1.0), 0, 0, 255))
    y = x._replace(name="y")
    graph = IntegerGraph((IntegerInput("x", (), x), IntegerOdd("y", (x,), y)), (x,), (y,))
    with pytest.raises(qat.QatError, match=rf"^y: {name}\b.* an odd sum\b.*; export to "):
        qat.target(name).export(graph, tmp_path / f"net{TARGETS[name].suffix}")
    assert not list(tmp_path.iterdir())
