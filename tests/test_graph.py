"""Tracing a network, and what a graph promises: validity, JSON, printing, parameters, immutability."""

import copy
import dataclasses
import json
import pickle
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import qat
from qat.cells.base import Cell
from qat.network import as_graph
from qat.networks import LeNet5
from qat.quantizers import ActivationQuantizer, BaseActivationQuantizer, BaseWeightQuantizer, WeightQuantizer
from qat.serial import Serializable, from_json

CHECK = settings(derandomize=True, deadline=None, max_examples=100)
MUTATE = settings(derandomize=True, deadline=None, max_examples=400)


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


# -- tracing: names -----------------------------------------------------------------------------------------------


def test_cells_and_nodes_are_named_by_the_attribute_that_holds_the_cell():
    network = Traced(lambda self, x: self.second(self.first(x)), first=conv(), second=conv(2, 3))
    assert nodes_of(network) == [
        ("input", "input", ()),
        ("first", "first", ("input",)),
        ("second", "second", ("first",)),
    ]
    assert list(network.graph().params) == ["first.weight", "second.weight"]
    assert network.graph().name == "Traced"
    assert network.graph().outputs == ("second",)


def test_nodes_follow_the_order_of_use_and_not_that_of_the_attributes():
    network = Traced(lambda self, x: self.a(self.b(x)), a=qat.Flatten(), b=qat.MaxPool2d(2))
    assert [name for name, _, _ in nodes_of(network)] == ["input", "b", "a"]


def test_a_cell_in_a_list_or_tuple_is_named_by_its_index():
    def construct(self, x):
        for cell in (*self.layers, *self.pair):
            x = cell(x)
        return x

    network = Traced(construct, layers=[conv(1, 2), conv(2, 3)], pair=(conv(3, 4), conv(4, 5)))
    assert [name for name, _, _ in nodes_of(network)[1:]] == ["layers.0", "layers.1", "pair.0", "pair.1"]
    assert list(network.graph().params) == ["layers.0.weight", "layers.1.weight", "pair.0.weight", "pair.1.weight"]


def test_a_cell_in_a_dict_is_named_by_its_key():
    network = Traced(lambda self, x: self.heads["b"](self.heads["a"](x)), heads={"a": conv(1, 2), "b": conv(2, 3)})
    assert [name for name, _, _ in nodes_of(network)[1:]] == ["heads.a", "heads.b"]


def test_a_cell_in_a_nested_block_is_named_by_the_path_to_it():
    def block(inputs, outputs):
        return Traced(lambda self, x: self.pool(self.convs[0](x)), convs=[conv(inputs, outputs)], pool=qat.MaxPool2d(2))

    network = Traced(
        lambda self, x: self.tail["t"](self.stages[1](self.stages[0](x))),
        stages=[block(1, 2), block(2, 3)],
        tail={"t": block(3, 4)},
    )
    assert [name for name, _, _ in nodes_of(network)[1:]] == [
        "stages.0.convs.0",
        "stages.0.pool",
        "stages.1.convs.0",
        "stages.1.pool",
        "tail.t.convs.0",
        "tail.t.pool",
    ]
    assert network.graph().shapes["tail.t.pool"] == (4, 1, 1)


def test_the_inputs_of_a_nested_block_are_not_looked_at():
    block = Traced(lambda self, x: self.c(x), inputs=qat.Input((9, 9, 9)), c=conv())
    graph = Traced(lambda self, x: self.block(x), block=block).graph()
    assert [node.name for node in graph.inputs] == ["input"]
    assert graph.shapes["input"] == (1, 8, 8)


def test_a_cell_held_by_two_attributes_has_the_name_of_the_first():
    shared = conv()
    assert nodes_of(Traced(lambda self, x: self.z(x), z=shared, a=shared))[1][:2] == ("z", "z")


def test_a_cell_used_twice_shares_its_parameters_and_its_nodes_are_numbered():
    network = Traced(lambda self, x: self.c(self.c(self.c(x))), c=conv(1, 1, 3, has_bias=True))
    assert nodes_of(network)[1:] == [("c", "c", ("input",)), ("c_1", "c", ("c",)), ("c_2", "c", ("c_1",))]
    assert list(network.graph().params) == ["c.weight", "c.bias"]
    assert network.graph().count_trainable() == 9 + 1


def test_a_block_used_twice_shares_its_parameters():
    block = Traced(lambda self, x: self.c(x), c=conv(1, 1))
    graph = Traced(lambda self, x: self.block(self.block(x)), block=block).graph()
    assert [node.name for node in graph.nodes] == ["input", "block.c", "block.c_1"]
    assert list(graph.params) == ["block.c.weight"]


def test_equal_cells_under_two_names_have_parameters_of_their_own():
    network = Traced(lambda self, x: self.b(self.a(x)), a=conv(1, 1), b=conv(1, 1))
    assert list(network.graph().params) == ["a.weight", "b.weight"]


def test_a_number_appended_to_a_node_never_takes_the_name_of_another_cell():
    network = Traced(lambda self, x: self.c_1(self.c(self.c(x))), c=conv(1, 1), c_1=conv(1, 1, 3))
    assert [(name, cell) for name, cell, _ in nodes_of(network)[1:]] == [("c", "c"), ("c_1", "c"), ("c_1_1", "c_1")]
    assert network.graph().params["c_1.weight"].shape == (1, 1, 3, 3)


def test_a_cell_without_parameters_may_be_made_inside_construct_and_is_named_by_its_class():
    network = Traced(lambda self, x: qat.Flatten()(qat.MaxPool2d(2)(qat.MaxPool2d(2)(x))))
    assert [name for name, _, _ in nodes_of(network)[1:]] == ["max_pool2d", "max_pool2d_1", "flatten"]


def test_a_cell_made_inside_construct_does_not_collide_with_an_attribute_of_the_same_name():
    network = Traced(lambda self, x: self.max_pool2d(qat.MaxPool2d(2)(x)), max_pool2d=qat.MaxPool2d(4))
    assert network.graph().shapes[network.graph().outputs[0]] == (1, 1, 1)


def test_several_inputs_and_outputs_are_kept_in_order():
    network = Traced(
        lambda self, x, y: (self.b(y), self.a(x)),
        inputs=(qat.Input((1, 4, 4)), qat.Input((2, 4, 4))),
        a=conv(1, 3),
        b=conv(2, 3),
    )
    graph = network.graph()
    assert [node.name for node in graph.inputs] == ["input", "input_1"]
    assert graph.outputs == ("b", "a")


def test_a_symbol_knows_its_shape_while_it_is_traced():
    seen = []

    def construct(self, x):
        seen.append(x.shape)
        x = self.c(x)
        seen.append(x.shape)
        return x

    Traced(construct, c=conv(1, 5, 3, pad_mode="valid")).graph()
    assert seen == [(1, 8, 8), (5, 6, 6)]


def test_tracing_twice_gives_equal_graphs():
    network = LeNet5()
    assert network.graph() == network.graph() == LeNet5().graph()
    assert network.graph().digest == LeNet5().graph().digest


def test_as_graph_takes_networks_and_graphs_and_refuses_a_class():
    graph = LeNet5().graph()
    assert as_graph(graph) is graph
    assert as_graph(LeNet5()) == graph
    with pytest.raises(qat.QatError, match=r"neither a qat.Network nor a qat.Graph; give an instance"):
        as_graph(LeNet5)


# -- tracing: mistakes ----------------------------------------------------------------------------------------------


def refused(construct, match, **cells):
    with pytest.raises(qat.QatError, match=match) as caught:
        Traced(construct, **cells).graph()
    assert "\n" not in str(caught.value)


def test_a_cell_with_parameters_made_inside_construct_is_refused():
    refused(
        lambda self, x: qat.DenseBnAct(64, 3)(qat.Flatten()(x)),
        r"DenseBnAct\(in_channels=64, out_channels=3\) is made inside construct.*make it in __init__",
    )


def test_a_call_outside_construct_is_refused():
    with pytest.raises(qat.QatError, match=r"Flatten\(\) was called outside Network.construct"):
        qat.Flatten()(None)
    with pytest.raises(qat.QatError, match=r"LeNet5 is a description and computes nothing by itself"):
        LeNet5()(np.zeros((1, 1, 32, 32)))


def test_a_call_after_a_construct_that_failed_is_outside_again():
    """The failed trace must not stay open, or the next call would silently add to it."""

    def fails(self, x):
        raise RuntimeError("of the user's own")

    with pytest.raises(RuntimeError, match="of the user's own"):
        Traced(fails).graph()
    with pytest.raises(qat.QatError, match=r"outside Network\.construct"):
        qat.Flatten()(None)
    assert LeNet5().graph().outputs == ("fc3",)


@pytest.mark.parametrize(
    "cell",
    [qat.Flatten(), qat.FakeQuant(ActivationQuantizer()), qat.MaxPool2d(2), conv()],
    ids=lambda c: type(c).__name__,
)
@pytest.mark.parametrize("count", [0, 2, 3])
def test_a_wrong_number_of_inputs_is_refused_with_the_cell_and_both_numbers(cell, count):
    kind = type(cell).__name__
    refused(lambda self, x: self.cell(*[x] * count), rf"^cell: a {kind} takes 1 inputs but gets {count}$", cell=cell)


def test_an_input_cell_called_on_a_tensor_is_refused():
    refused(lambda self, x: self.cell(x), "cell: a Input takes 0 inputs but gets 1", cell=qat.Input((1, 8, 8)))


@pytest.mark.parametrize("value", [np.zeros((1, 8, 8)), 3, None, "input"], ids=["array", "number", "None", "text"])
def test_something_that_is_no_symbol_is_refused_as_an_input(value):
    refused(
        lambda self, x: self.c(value), rf"c: its input 0 is {type(value).__name__}, not the output of a cell", c=conv()
    )


def test_a_symbol_of_another_trace_is_refused_as_an_input():
    kept = []
    Traced(lambda self, x: kept.append(x) or self.c(x), c=conv()).graph()
    refused(lambda self, x: self.c(kept[0]), r"c: its input 0 is .*, not the output of a cell", c=conv())


@pytest.mark.parametrize(
    "value", [None, 3, np.zeros(2), [], (1, 2)], ids=["None", "number", "array", "list", "pair of numbers"]
)
def test_a_construct_that_returns_no_symbol_is_refused(value):
    refused(lambda self, x: value, "Traced: construct returned .*, not the output of a cell")


def test_a_construct_that_returns_nothing_at_all_is_refused():
    refused(lambda self, x: (), "Traced: its output")


def test_a_symbol_of_another_trace_is_refused_as_an_output():
    """Both traces have a node "input": taken by its name, the stale symbol would silently become another output."""
    kept = []
    Traced(lambda self, x: kept.append(x) or self.c(x), c=conv()).graph()
    refused(lambda self, x: self.c(x) and kept[0], "Traced: construct returned .*, not the output of a cell", c=conv())


def test_a_network_that_does_not_say_what_enters_is_refused():
    for inputs in [(), "x", [qat.Input((1, 8, 8))], (qat.Input((1, 8, 8)), None)]:
        with pytest.raises(qat.QatError, match=r"Traced does not say what enters it: set inputs = qat\.Input"):
            Traced(lambda self, x: x, inputs=inputs).graph()


def test_a_network_without_construct_is_refused():
    class Empty(qat.Network):
        inputs = qat.Input((1, 8, 8))

    with pytest.raises(qat.QatError, match="Empty has no construct method"):
        Empty().graph()


def test_graph_called_inside_construct_is_refused():
    inner = Traced(lambda self, x: self.c(x), c=conv())
    refused(lambda self, x: self.inner.graph(), r"Traced: graph\(\) was called inside a construct", inner=inner)


# -- validation ------------------------------------------------------------------------------------------------------

INPUT = qat.Node("input", qat.Input((1, 8, 8)), (), "input")


def flatten(name, source, cell_name=None):
    return qat.Node(name, qat.Flatten(), (source,), cell_name or name)


def test_two_nodes_of_one_name_are_refused():
    with pytest.raises(qat.QatError, match=r"^f: two nodes of net have this name; names must be unique$"):
        qat.Graph((INPUT, flatten("f", "input"), flatten("f", "input", "g")), ("f",), "net")


def test_two_different_cells_of_one_name_are_refused():
    nodes = (INPUT, qat.Node("a", conv(1, 2), ("input",), "c"), qat.Node("b", conv(2, 3), ("a",), "c"))
    with pytest.raises(qat.QatError, match=r"^c: two different cells have this name; names must be unique$"):
        qat.Graph(nodes, ("b",))


def test_an_input_that_is_no_node_is_refused():
    with pytest.raises(qat.QatError, match=r"^f: its input 'nowhere' is no node before it in net$"):
        qat.Graph((INPUT, flatten("f", "nowhere")), ("f",), "net")


def test_an_input_that_comes_later_is_refused():
    with pytest.raises(qat.QatError, match=r"^f: its input 'g' is no node before it"):
        qat.Graph((INPUT, flatten("f", "g"), flatten("g", "input")), ("f",))
    with pytest.raises(qat.QatError, match=r"^f: its input 'f' is no node before it"):
        qat.Graph((INPUT, flatten("f", "f")), ("f",))


def test_a_node_with_too_many_or_too_few_inputs_is_refused():
    for inputs in [(), ("input", "input")]:
        with pytest.raises(qat.QatError, match=rf"^f: a Flatten takes 1 inputs but gets {len(inputs)}$"):
            qat.Graph((INPUT, qat.Node("f", qat.Flatten(), inputs, "f")), ("f",))


def test_an_output_that_is_no_node_is_refused_and_so_is_none_at_all():
    with pytest.raises(qat.QatError, match=r"^net: its output 'g' is no node of it$"):
        qat.Graph((INPUT, flatten("f", "input")), ("f", "g"), "net")
    with pytest.raises(qat.QatError, match=r"^net: its output"):
        qat.Graph((INPUT,), (), "net")


@pytest.mark.parametrize(
    ("cell", "shape", "expected"),
    [
        (conv(3, 4), (1, 8, 8), ["takes (3, H, W) but gets (1, 8, 8)"]),
        (conv(1, 4), (9,), ["takes (1, H, W) but gets (9,)"]),
        (qat.DenseBnAct(5, 4), (6,), ["takes (5,) but gets (6,)"]),
        (qat.DenseBnAct(64, 4), (1, 8, 8), ["takes (64,) but gets (1, 8, 8)", "Flatten"]),
        (qat.MaxPool2d(2), (6,), ["takes (C, H, W) but gets (6,)"]),
        (qat.MaxPool2d(9), (1, 8, 8), ["(9, 9) window does not fit into its input (1, 8, 8)"]),
        (conv(1, 1, (9, 1), pad_mode="valid"), (1, 8, 8), ["(9, 1) kernel does not fit into its input (1, 8, 8)"]),
    ],
)
def test_shapes_that_do_not_fit_are_refused_with_the_node_its_class_and_both_shapes(cell, shape, expected):
    with pytest.raises(qat.QatError) as caught:
        chain(cell, shape=shape)
    for part in [f"c0 ({type(cell).__name__}) ", *expected]:
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_shapes_that_do_not_fit_are_refused_while_tracing_under_the_attributes_name():
    refused(
        lambda self, x: self.fc(x), r"^fc \(DenseBnAct\) takes \(5,\) but gets \(1, 8, 8\)", fc=qat.DenseBnAct(5, 1)
    )


@pytest.mark.parametrize(
    "make",
    [
        lambda n: conv(n, 2),
        lambda n: conv(1, n),
        lambda n: conv(1, 2, group=n),
        lambda n: qat.DenseBnAct(n, 2),
        lambda n: qat.DenseBnAct(1, n),
        lambda n: qat.Input((n, 8, 8)),
        lambda n: conv(1, 2, kernel=n),
        lambda n: qat.MaxPool2d(n),
        lambda n: qat.MaxPool2d(2, stride=n),
    ],
    ids=["conv in", "conv out", "group", "dense in", "dense out", "input", "kernel", "pool", "pool stride"],
)
@pytest.mark.parametrize("value", [0, -1, 1.0, 2.5, float("inf"), float("nan"), "2"])
def test_a_size_that_is_no_positive_whole_number_is_refused_when_the_cell_is_made(make, value):
    with pytest.raises(qat.QatError):
        make(value)


@pytest.mark.parametrize("shape", [(), 32, "abc", (1, 8, None), (1, 8, 8.0)])
def test_an_input_shape_that_is_no_tuple_of_sizes_is_refused(shape):
    with pytest.raises(qat.QatError, match="Input: shape is"):
        qat.Input(shape)


# -- JSON ----------------------------------------------------------------------------------------------------------


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
NAMES = st.text(min_size=1, max_size=6)  # any Unicode: names come from the keys of users' dicts


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


@CHECK
@given(graphs())
def test_a_graph_read_back_from_json_is_equal_with_equal_hash_and_digest(graph):
    text = graph.to_json()
    again = qat.Graph.from_json(text)
    assert again == graph
    assert hash(again) == hash(graph)
    assert again.digest == graph.digest
    assert again.to_json() == text
    assert "\n" not in text


@CHECK
@given(graphs(), graphs())
def test_different_graphs_have_different_digests(one, other):
    assert (one == other) == (one.digest == other.digest)


@pytest.mark.parametrize(
    "change",
    [
        {"num_class": 11},
        {"channel": 3},
    ],
)
def test_a_digest_tells_networks_apart(change):
    digest = LeNet5(**change).graph().digest
    assert digest != LeNet5().graph().digest
    assert len(digest) == 16
    assert int(digest, 16) >= 0


def test_the_quantized_lenet_survives_json():
    graph = qat.convert_quant_network(LeNet5(), num_bits=(4, 8), quant_delay=(5, 7))
    assert qat.Graph.from_json(graph.to_json()) == graph
    assert qat.Graph.from_json(graph.to_json()).phase_starts == (0, 5, 7)


@pytest.mark.parametrize(
    "cell",
    [
        lambda: conv(1, 2, [3, 3], stride=[1, 2], dilation=[1, 1]),
        lambda: conv(1, 2, 3, pad_mode="pad", padding=(1, 0)),
        lambda: qat.MaxPool2d([2, 2], [1, 1]),
    ],
    ids=["conv, lists", "conv, padding pair", "pool, lists"],
)
def test_a_pair_given_as_a_list_makes_an_equal_hashable_graph(cell):
    """``pair`` takes lists as well as tuples; a graph promises to be hashable and to survive JSON all the same."""
    graph = chain(cell())
    assert qat.Graph.from_json(graph.to_json()) == graph
    assert hash(qat.Graph.from_json(graph.to_json())) == hash(graph)


def test_an_input_shape_given_as_a_list_makes_an_equal_hashable_graph():
    graph = chain(qat.Flatten(), shape=[1, 8, 8])
    assert qat.Graph.from_json(graph.to_json()) == graph
    assert hash(graph) == hash(chain(qat.Flatten(), shape=(1, 8, 8)))


def test_numpy_integers_as_sizes_survive_json():
    """``LeNet5(labels.max() + 1)`` is a natural thing to write; it must not fail hours later, at the first checkpoint."""
    graph = LeNet5(np.int64(10)).graph()
    assert qat.Graph.from_json(graph.to_json()) == graph == LeNet5(10).graph()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 12) | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=4,
)
TYPES = sorted(Serializable.registry)


def paths(value, prefix=()):
    """Every place in a JSON value."""
    yield prefix
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from paths(item, (*prefix, key))


def check_rejected_or_sound(text):
    """The only two things that may come of a changed text. A sound graph works wherever a graph is used."""
    graph = None
    try:
        graph = qat.Graph.from_json(text)
    except qat.QatError as error:
        message = str(error)
    if graph is None:
        assert "\n" not in message
        return
    assert qat.Graph.from_json(graph.to_json()) == graph
    assert str(graph)
    if graph.count_trainable() < 1_000_000:
        graph.check_params(graph.initial_params())
    for node in graph.nodes:
        assert isinstance(getattr(node.cell, "quantizer", ActivationQuantizer()), BaseActivationQuantizer)
        assert isinstance(getattr(node.cell, "weight_quantizer", None), (BaseWeightQuantizer, type(None)))


def small_quantized_network():
    return qat.convert_quant_network(
        Traced(
            lambda self, x: self.fc(qat.Flatten()(qat.MaxPool2d(2)(self.c(x)))),
            c=conv(1, 2, 3, activation="relu", pad_mode="pad", padding=1),
            fc=qat.DenseBnAct(32, 3),
        ),
        quant_delay=(1, 2),
    )


TEXT = small_quantized_network().to_json()


@MUTATE
@given(st.data())
def test_a_json_text_with_changed_characters_gives_a_qaterror_or_a_sound_graph(data):
    text = TEXT
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(text)))
        end = min(len(text), start + data.draw(st.integers(0, 8)))
        new = data.draw(
            st.text(max_size=4)
            | st.text(alphabet='{}[]",:0123456789.eE-nult ', max_size=4)
            | st.just(text[start:end] * 2)
        )
        text = text[:start] + new + text[end:]
    check_rejected_or_sound(text)


@MUTATE
@given(st.data())
def test_a_json_value_replaced_or_removed_gives_a_qaterror_or_a_sound_graph(data):
    tree = json.loads(TEXT)
    path = data.draw(st.sampled_from([path for path in paths(tree) if path]))
    holder = tree
    for key in path[:-1]:
        holder = holder[key]
    if data.draw(st.booleans()):
        holder[path[-1]] = data.draw(
            JSON | st.sampled_from(TYPES) | st.sampled_from(TYPES).map(lambda name: {"type": name})
        )
    else:
        del holder[path[-1]]
    check_rejected_or_sound(json.dumps(tree))


@CHECK
@given(st.text() | JSON.map(json.dumps))
def test_a_text_that_is_no_graph_gives_a_qaterror(text):
    with pytest.raises(qat.QatError, match="the graph"):
        qat.Graph.from_json(text)


def test_deeply_nested_json_gives_a_qaterror():
    with pytest.raises(qat.QatError, match="no valid JSON form of a network"):
        qat.Graph.from_json("[" * 100_000)


def test_another_format_number_is_refused_by_name():
    with pytest.raises(qat.QatError, match=r"the graph has format 99 but this release reads 1; use a matching release"):
        qat.Graph.from_json(TEXT.replace('"format": 1', '"format": 99'))


def changed_cell(kind, **change):
    """TEXT with fields of the first cell of that class changed."""
    tree = json.loads(TEXT)
    cell = next(node["cell"] for node in tree["nodes"] if node["cell"]["type"] == kind)
    cell.update(change)
    return json.dumps(tree)


def test_an_unknown_cell_type_is_refused_by_name():
    with pytest.raises(qat.QatError, match="'Conv9d' is not a known cell: import the module that defines it"):
        qat.Graph.from_json(changed_cell("Conv2dBnAct", type="Conv9d"))


@pytest.mark.parametrize(
    "kind", ["ActivationQuantizer", "Cell", "LinearCell", "Serializable", "object", None, 3, ["Flatten"], {}]
)
def test_a_type_that_is_no_cell_of_a_graph_is_refused(kind):
    with pytest.raises(qat.QatError):
        qat.Graph.from_json(changed_cell("Conv2dBnAct", type=kind))


@pytest.mark.parametrize("kind", ["Cell", "LinearCell", "Conv9d", None])
def test_from_json_refuses_what_is_no_concrete_cell(kind):
    with pytest.raises(qat.QatError):
        from_json({"type": kind}, Cell)


def test_an_unknown_field_is_refused_by_name():
    with pytest.raises(
        qat.QatError, match="Flatten has no field colour, size: the graph was written by another release"
    ):
        qat.Graph.from_json(changed_cell("Flatten", size=1, colour=2))


def test_a_missing_field_is_refused():
    tree = json.loads(TEXT)
    del tree["nodes"][1]["cell"]["in_channels"]
    with pytest.raises(qat.QatError, match=r"Conv2dBnAct cannot be built from its stored fields .*in_channels"):
        qat.Graph.from_json(json.dumps(tree))


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("Conv2dBnAct", {"in_channels": "1"}),
        ("Conv2dBnAct", {"out_channels": None}),
        ("Conv2dBnAct", {"out_channels": [2]}),
        ("Conv2dBnAct", {"kernel_size": 2.5}),
        ("Conv2dBnAct", {"activation": "swish"}),
        ("Conv2dBnAct", {"pad_mode": 3}),
        ("Conv2dBnAct", {"weight_quantizer": 3}),
        ("Conv2dBnAct", {"weight_quantizer": {"type": "ActivationQuantizer"}}),
        ("Conv2dBnAct", {"weight_quantizer": {"type": "WeightQuantizer", "num_bits": 17}}),
        ("FakeQuant", {"quantizer": None}),
        ("FakeQuant", {"quantizer": {"type": "WeightQuantizer"}}),
        ("FakeQuant", {"quantizer": {"type": "ActivationQuantizer", "ema_decay": "slow"}}),
        ("DenseBnAct", {"in_channels": 32.0}),
        ("DenseBnAct", {"out_channels": float("nan")}),
        ("DenseBnAct", {"out_channels": float("inf")}),
        ("Input", {"shape": 8}),
        ("Input", {"shape": []}),
        ("Input", {"mean": "grey"}),
        ("Input", {"std": 0}),
    ],
)
def test_a_field_of_a_wrong_kind_is_refused_when_the_graph_is_read(kind, change):
    with pytest.raises(qat.QatError):
        qat.Graph.from_json(changed_cell(kind, **change))


# -- printing --------------------------------------------------------------------------------------------------------


def test_a_printed_graph_names_each_node_its_cell_inputs_shape_and_parameters():
    lines = str(LeNet5().graph()).splitlines()
    assert lines[0] == "LeNet5: 61,684 trainable parameters"
    assert lines[1].split() == ["node", "cell", "inputs", "output", "shape", "parameters"]
    assert len(lines) == 2 + 9
    row = next(line for line in lines if line.startswith("fc1 "))
    for part in [
        "DenseBnAct(in_channels=400, out_channels=120, activation='relu')",
        "  flatten  ",
        "  120  ",
        "48,120",
    ]:
        assert part in row
    assert lines[2].startswith("input")
    assert lines[2].endswith("1 x 32 x 32"), "a cell without parameters has an empty last column and no trailing blanks"


def test_the_columns_of_a_printed_graph_are_aligned():
    header, *rows = str(LeNet5().graph()).splitlines()[1:]
    for column in ["cell", "inputs", "output shape"]:
        start = header.index(f"  {column}") + 2
        assert all(row[start - 2 : start] == "  " or len(row) < start for row in rows), column


def test_state_is_not_counted_as_trainable():
    graph = qat.convert_quant_network(LeNet5())
    assert graph.count_trainable() == LeNet5().graph().count_trainable() == 61_684
    assert not graph.params["conv1.fake_quant.max"].trainable
    row = next(line for line in str(graph).splitlines() if line.startswith("fc3.fake_quant"))
    assert row.endswith("  10"), "its output shape comes last, there is nothing in the column of parameters"


@CHECK
@given(graphs())
def test_any_graph_can_be_printed(graph):
    """Its name and those of its nodes are there, one line for each node (names with line breaks aside)."""
    text = str(graph)
    assert graph.name in text
    assert all(node.name in text for node in graph.nodes)


# -- parameters ------------------------------------------------------------------------------------------------------


def test_initial_parameters_depend_on_the_seed_and_their_own_name_alone():
    def construct(self, x):
        for cell in self.cells:
            x = getattr(self, cell)(x)
        return x

    one = Traced(construct, cells=("a", "b"), a=conv(1, 2), b=conv(2, 3)).graph().initial_params(7)
    # Another cell before it, another graph name, another cell after it: b is the same.
    other = Traced(construct, cells=("x", "b", "y"), x=conv(1, 2, 5), b=conv(2, 3), y=conv(3, 1)).graph()
    np.testing.assert_array_equal(one["b.weight"], other.initial_params(7)["b.weight"])
    assert not np.array_equal(one["b.weight"], other.initial_params(8)["b.weight"])
    renamed = Traced(construct, cells=("a", "c"), a=conv(1, 2), c=conv(2, 3)).graph().initial_params(7)
    assert not np.array_equal(one["b.weight"], renamed["c.weight"])


def test_initial_parameters_of_the_quantized_network_are_those_of_the_float_one():
    floats, quantized = LeNet5().graph().initial_params(3), qat.convert_quant_network(LeNet5()).initial_params(3)
    for name, value in floats.items():
        np.testing.assert_array_equal(value, quantized[name])
    assert set(quantized) > set(floats)


def test_initial_parameters_are_repeatable_fresh_float32_arrays_of_the_declared_shapes():
    graph = qat.convert_quant_network(LeNet5())
    one, two = graph.initial_params(1), graph.initial_params(1)
    for name, param in graph.params.items():
        assert one[name].dtype == np.float32
        assert one[name].shape == param.shape
        np.testing.assert_array_equal(one[name], two[name])
        assert not np.shares_memory(one[name], two[name])
    # state of the NumPy module's own must not matter
    np.random.seed(0)
    np.testing.assert_array_equal(graph.initial_params(1)["fc1.weight"], one["fc1.weight"])


def test_initial_weights_are_he_uniform_and_biases_zero():
    """|w| < b = sqrt(6 / fan_in), and the 48,000 draws of fc1 come within 1 % of b on both sides and average near 0."""
    params = LeNet5().graph().initial_params()
    bound = np.sqrt(6 / 400)
    weight = params["fc1.weight"]
    assert np.abs(weight).max() <= np.float32(bound)
    assert weight.max() > 0.99 * bound
    assert weight.min() < -0.99 * bound
    assert abs(weight.mean()) < 4 * bound / np.sqrt(3 * weight.size), "four standard deviations of the mean"
    assert not params["fc1.bias"].any()


def test_check_params_takes_what_initial_params_gives():
    for graph in [LeNet5().graph(), qat.convert_quant_network(LeNet5())]:
        graph.check_params(graph.initial_params())


def test_check_params_names_the_source_and_what_is_missing_unknown_or_misshapen():
    graph = LeNet5().graph()
    params = graph.initial_params()
    lacking = {name: value for name, value in params.items() if name != "fc2.bias"}
    with pytest.raises(
        qat.QatError, match=r"^a\.ckpt: they lack 'fc2.bias', so they belong to another network than LeNet5$"
    ):
        graph.check_params(lacking, "a.ckpt")
    with pytest.raises(qat.QatError, match=r"^params: they hold 'fc9.bias', which it does not know, .*than LeNet5$"):
        graph.check_params(params | {"fc9.bias": np.zeros(1)})
    with pytest.raises(qat.QatError, match=r"^params: 'fc2.bias' has shape \(83,\) but LeNet5 needs \(84,\)"):
        graph.check_params(params | {"fc2.bias": np.zeros(83)})
    with pytest.raises(qat.QatError, match=r"'fc2.bias' has shape \(\) but"):
        graph.check_params(params | {"fc2.bias": np.float32(0)})


# -- immutability, copies --------------------------------------------------------------------------------------------


def test_a_graph_its_nodes_and_cells_cannot_be_changed():
    graph = LeNet5().graph()
    for owner, field in [(graph, "nodes"), (graph, "name"), (graph.nodes[1], "name"), (graph.nodes[1].cell, "stride")]:
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(owner, field, getattr(owner, field))
    assert isinstance(graph.nodes, tuple)
    assert isinstance(graph.outputs, tuple)
    assert all(isinstance(node.inputs, tuple) for node in graph.nodes)


def test_replace_makes_another_graph_and_validates_it():
    graph = LeNet5().graph()
    other = replace(graph, name="other")
    assert other != graph
    assert other.digest != graph.digest
    assert graph.name == "LeNet5"
    assert replace(graph, outputs=("fc2",)).outputs == ("fc2",)
    with pytest.raises(qat.QatError, match="its output 'fc9' is no node"):
        replace(graph, outputs=("fc9",))


@pytest.mark.parametrize("make", [copy.deepcopy, copy.copy, lambda graph: pickle.loads(pickle.dumps(graph))])
@pytest.mark.parametrize("used", [False, True], ids=["fresh", "after everything cached was computed"])
def test_a_copied_or_pickled_graph_is_equal_and_works(make, used):
    graph = small_quantized_network()
    if used:
        _ = graph.shapes, graph.params, graph.digest, graph.phase_starts, str(graph)
    again = make(graph)
    assert again == graph
    assert hash(again) == hash(graph)
    assert again.digest == graph.digest
    assert again.shapes == graph.shapes
    np.testing.assert_array_equal(again.initial_params(5)["c.weight"], graph.initial_params(5)["c.weight"])


def test_consumers_are_the_nodes_that_take_an_output():
    def construct(self, x):
        x = self.c(x)
        return self.a(x), self.b(x)

    graph = Traced(construct, a=qat.Flatten(), b=qat.MaxPool2d(2), c=conv()).graph()
    assert [node.name for node in graph.consumers("c")] == ["a", "b"]
    assert graph.consumers("b") == []
