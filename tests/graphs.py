"""Networks and graphs for tests: traced from a function, chains of cells, and any at random."""

from dataclasses import replace

from hypothesis import strategies as st

import qat
from qat.names import SIGNS, is_name
from qat.quantizers import ActivationQuantizer, WeightQuantizer


def conv(inputs=1, outputs=2, kernel=1, **fields):
    return qat.Conv2dBnAct(inputs, outputs, kernel, **fields)


class Traced(qat.Network):
    """A network whose cells and construct are given by the test."""

    def __init__(self, construct, inputs=None, **cells):
        self.inputs = qat.Input((1, 8, 8)) if inputs is None else inputs
        self._construct = construct
        for name, cell in cells.items():
            setattr(self, name, cell)

    def construct(self, *inputs):
        return self._construct(self, *inputs)


def nodes_of(network):
    return [(node.name, node.cell_name, node.inputs) for node in network.graph().nodes]


def chain(*cells, shape=(1, 8, 8)):
    """A graph of an input and the given cells, one after the other, called c0, c1, ..."""
    nodes = [qat.Node("input", qat.Input(shape), (), "input")]
    for index, cell in enumerate(cells):
        nodes.append(qat.Node(f"c{index}", cell, (nodes[-1].name,), f"c{index}"))
    return qat.Graph(tuple(nodes), (nodes[-1].name,))


def small_quantized_network():
    return qat.convert_quant_network(
        Traced(
            lambda self, x: self.fc(qat.Flatten()(qat.MaxPool2d(2)(self.c(x)))),
            c=conv(1, 2, 3, activation="relu", pad_mode="pad", padding=1),
            fc=qat.DenseBnAct(32, 3),
        ),
        quant_delay=(1, 2),
    )


# -- at random ---------------------------------------------------------------------------------------------------------


def sizes(high):
    return st.integers(1, high)


def size_or_pair(high):
    return sizes(high) | st.tuples(sizes(high), sizes(high))


WEIGHT_QUANTIZERS = st.none() | st.builds(
    WeightQuantizer, st.integers(2, 8), st.booleans(), st.booleans(), st.integers(0, 9), st.booleans()
)
ACTIVATION_QUANTIZERS = st.builds(
    ActivationQuantizer, st.integers(2, 8), st.booleans(), st.booleans(), st.integers(0, 9), st.floats(0, 0.999)
)
ACTIVATIONS = st.sampled_from([None, "relu", "relu6"])
#: Letters, marks and digits of any script, and signs: all that a name may be of.
CHARACTERS = st.characters(categories=["L", "M", "N", "Pc"]) | st.sampled_from(f" {SIGNS}")
NAMES = st.text(CHARACTERS, min_size=1, max_size=6).filter(is_name)


@st.composite
def cells_for(draw, shape):
    """A cell that takes this shape, with any of its fields changed."""
    kinds = ["flatten", "fake_quant", "dense" if len(shape) == 1 else "pool", "conv" if len(shape) == 3 else "dense"]
    kind = draw(st.sampled_from(kinds))
    if kind == "dense" and len(shape) == 1:
        fields = {"activation": draw(ACTIVATIONS), "weight_quantizer": draw(WEIGHT_QUANTIZERS)}
        flags = {"has_bias": draw(st.booleans()), "after_fake": draw(st.booleans())}
        return qat.DenseBnAct(shape[0], draw(sizes(9)), **fields, **flags)
    if kind == "conv":
        group = draw(st.sampled_from([n for n in range(1, shape[0] + 1) if shape[0] % n == 0]))
        mode = draw(st.sampled_from(["same", "valid", "pad"]))
        cell = qat.Conv2dBnAct(
            shape[0],
            group * draw(sizes(3)),
            draw(size_or_pair(3)),
            stride=draw(size_or_pair(2)),
            pad_mode=mode,
            padding=draw(st.integers(0, 2) | st.tuples(*[st.integers(0, 2)] * 4)) if mode == "pad" else 0,
            dilation=draw(size_or_pair(2)),
            group=group,
            has_bias=draw(st.booleans()),
            activation=draw(ACTIVATIONS),
            after_fake=draw(st.booleans()),
            weight_quantizer=draw(WEIGHT_QUANTIZERS),
        )
        fits = min(shape[1:]) >= 5  # the largest reach: a kernel of 3 dilated by 2
        return cell if fits else replace(cell, pad_mode="same", padding=0)
    if kind == "pool":
        return qat.MaxPool2d(draw(size_or_pair(2)), draw(st.none() | size_or_pair(2)), draw(st.sampled_from(["same"])))
    if kind == "fake_quant":
        return qat.FakeQuant(draw(ACTIVATION_QUANTIZERS), draw(st.booleans()))
    return qat.Flatten()


@st.composite
def graphs(draw):
    """Any tree of cells: each node takes any node before it, cells may be used again, outputs are any nodes."""
    shape = draw(st.tuples(sizes(4), sizes(12), sizes(12)))
    mean, std = draw(st.floats(0, 1)), draw(st.floats(0.01, 4))
    names = draw(st.lists(NAMES, min_size=1, max_size=8, unique=True))
    nodes, shapes = [qat.Node(names[0], qat.Input(shape, mean, std), (), names[0])], [shape]
    for name in names[1:]:
        source = draw(st.integers(0, len(nodes) - 1))
        again = [
            node
            for node, takes in zip(nodes[1:], sources_shapes(nodes, shapes), strict=True)
            if takes == shapes[source]
        ]
        if again and draw(st.booleans()):
            cell, cell_name = again[0].cell, again[0].cell_name
        else:
            cell, cell_name = draw(cells_for(shapes[source])), name
        nodes.append(qat.Node(name, cell, (nodes[source].name,), cell_name))
        shapes.append(cell.output_shape(shapes[source]))
    outputs = draw(st.lists(st.sampled_from(names), min_size=1, max_size=3))
    return qat.Graph(tuple(nodes), tuple(outputs), draw(NAMES))


def sources_shapes(nodes, shapes):
    by_name = dict(zip((node.name for node in nodes), shapes, strict=True))
    return [by_name[node.inputs[0]] for node in nodes[1:]]
