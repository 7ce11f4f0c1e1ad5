"""Tracing a network: names, sharing, and mistakes."""

import numpy as np
import pytest
import torch
from graphs import Traced, conv, nodes_of

import qat
from qat.graph import as_graph
from qat.networks import LeNet5
from qat.quantizers import ActivationQuantizer

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
    refused(lambda self, x: self.cell(*[x] * count), rf"^cell: a {kind} takes 1 input but gets {count}$", cell=cell)


def test_an_input_cell_called_on_a_tensor_is_refused():
    refused(lambda self, x: self.cell(x), "cell: a Input takes 0 inputs but gets 1", cell=qat.Input((1, 8, 8)))


@pytest.mark.parametrize("value", [np.zeros((1, 8, 8)), 3, None, "input"], ids=["array", "number", "None", "text"])
def test_something_that_is_no_symbol_is_refused_as_an_input(value):
    refused(
        lambda self, x: self.c(value), rf"c: its input 0 is {type(value).__name__}, not the output of a cell", c=conv()
    )


@pytest.mark.parametrize(
    "use",
    [
        lambda x: x / x,
        lambda x: x @ np.eye(8),
        lambda x: x > 0,
        lambda x: max(x),
        lambda x: x.std(-1),
        lambda x: np.maximum(x, 0),
        lambda x: np.mean(x),
        lambda x: np.array(x),
        lambda x: np.add(x, 1, dtype=np.float32),
        lambda x: abs(x) ** 2,
        lambda x: torch.relu(x),
        lambda x: torch.cat([x, x]),
        lambda x: torch.nn.Conv2d(1, 2, 3)(x),
    ],
)
def test_what_is_no_cell_is_refused(use):
    refused(
        lambda self, x: use(x),
        "in a construct, only calls of cells, a . b, a - b, a . b, a @ b, these with numbers, -a, slices and moves "
        ".'qat help cells'. are known; write ",
    )


@pytest.mark.parametrize(
    ("use", "instead"),
    [
        (lambda x: torch.relu(x), r'qat.Activation\("relu"\)\(x\)'),
        (lambda x: x.hardswish(), r'qat.Activation\("hswish"\)\(x\)'),
        (lambda x: torch.cat([x, x]), r"qat.Concat\(\)\(a, b\)"),
        (lambda x: x.size(0), "x.shape, that of one sample"),
        (lambda x: torch.cumsum(x, 1), "a cell for it"),
    ],
)
def test_a_function_of_pytorch_is_told_what_to_write_in_its_place(use, instead):
    refused(lambda self, x: use(x), f"are known; write {instead}$")


def test_a_number_divides_but_not_zero_and_no_other_output():
    graph = Traced(lambda self, x: self.c(x) / 4, c=conv()).graph()
    assert graph.nodes[-1].cell == qat.Activation("linear", 0.25, 0.0)
    for use in (lambda x: x / 0, lambda x: x / x, lambda x: x / True):
        refused(lambda self, x, use=use: use(x), "are known; write a cell for it")


def test_a_mean_names_its_axes():
    refused(lambda self, x: x.mean(), "input: has no axis None beside that of the samples")


def test_a_list_of_inputs_is_given_one_by_one():
    refused(
        lambda self, x: self.c([x]),
        r"c: its input 0 is list, not the output of a cell; give them one by one, as \(a, b\)",
        c=conv(),
    )


def test_a_flat_gate_is_told_to_reshape():
    gate = qat.GlobalAvgPool2d()
    refused(
        lambda self, x: x * gate(x).flatten(),
        r"multiplies equal shapes, .*; write reshape\(-1, 1, 1, 1\) of the \(1,\)",
    )


def test_a_branch_that_depends_on_a_symbol_is_refused():
    refused(lambda self, x: self.c(x) if x else x, "input: has no value while a construct is traced", c=conv())


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
    refused(
        lambda self, x: (self.c(x), kept[0])[1], "Traced: construct returned .*, not the output of a cell", c=conv()
    )


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


def test_shapes_that_do_not_fit_are_refused_while_tracing_under_the_attributes_name():
    refused(
        lambda self, x: self.fc(x), r"^fc \(DenseBnAct\) takes \(5,\) but gets \(1, 8, 8\)", fc=qat.DenseBnAct(5, 1)
    )
