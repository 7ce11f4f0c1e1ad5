"""What a graph promises: validity, printing, parameters, immutability."""

import copy
import dataclasses
import pickle
from dataclasses import replace

import numpy as np
import pytest
from graphs import Traced, chain, conv, graphs, small_quantized_network
from hypothesis import given, settings

import qat
from qat.networks import LeNet5

CHECK = settings(derandomize=True, deadline=None, max_examples=100)


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
    with pytest.raises(qat.QatError, match=r"^f: its input 'nowhere' is not a node before it in net$"):
        qat.Graph((INPUT, flatten("f", "nowhere")), ("f",), "net")


def test_an_input_that_comes_later_is_refused():
    with pytest.raises(qat.QatError, match=r"^f: its input 'g' is not a node before it"):
        qat.Graph((INPUT, flatten("f", "g"), flatten("g", "input")), ("f",))
    with pytest.raises(qat.QatError, match=r"^f: its input 'f' is not a node before it"):
        qat.Graph((INPUT, flatten("f", "f")), ("f",))


def test_a_node_with_too_many_or_too_few_inputs_is_refused():
    for inputs in [(), ("input", "input")]:
        with pytest.raises(qat.QatError, match=rf"^f: a Flatten takes 1 input but gets {len(inputs)}$"):
            qat.Graph((INPUT, qat.Node("f", qat.Flatten(), inputs, "f")), ("f",))


def test_an_output_that_is_no_node_is_refused_and_so_is_none_at_all():
    with pytest.raises(qat.QatError, match=r"^net: its output 'g' is not a node of it$"):
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


# -- printing --------------------------------------------------------------------------------------------------------


def test_a_printed_graph_names_each_node_its_cell_inputs_shape_and_parameters():
    lines = str(LeNet5().graph()).splitlines()
    assert lines[0] == "LeNet5: 61,684 trainable parameters"
    assert lines[1].split() == ["node", "cell", "inputs", "output", "shape", "parameters"]
    assert len([line for line in lines if not line.startswith("    ")]) == 2 + 9
    at = next(number for number, line in enumerate(lines) if line.startswith("fc1 "))
    assert lines[at].split() == ["fc1", "DenseBnAct", "flatten", "120", "48,120"]
    assert lines[at + 1] == "    in_channels=400, out_channels=120, activation='relu'"
    assert lines[2].startswith("input")
    assert lines[2].endswith("1 x 32 x 32"), "a cell without parameters has an empty last column and no trailing blanks"


def test_the_columns_of_a_printed_graph_are_aligned():
    header, *rows = (line for line in str(LeNet5().graph()).splitlines()[1:] if not line.startswith(" "))
    for column in ["cell", "inputs", "output shape"]:
        start = header.index(f"  {column}") + 2
        assert all(row[start - 2 : start] == "  " or len(row) < start for row in rows), column


def test_a_printed_graph_fits_a_terminal_and_breaks_no_quantizer():
    graph = qat.convert_quant_network(LeNet5())
    lines = str(graph).splitlines()
    assert max(map(len, lines)) <= 80
    assert sum("<8 bits, symmetric, per channel>" in line for line in lines) == 5
    assert repr(graph) == "Graph of LeNet5, quantized, 14 nodes, input 1 x 32 x 32"
    page = graph._repr_html_()
    assert page.count("<tr>") == 15, "a row for each node, below the names of the columns"
    assert "&lt;8 bits, affine&gt;" in page


def test_a_printed_integer_graph_is_a_list_of_its_tensors():
    images = np.random.default_rng(0).integers(0, 256, (2, 1, 32, 32), np.uint8)
    calibrated = qat.calibrate(LeNet5(), LeNet5().graph().initial_params(0), images, method="minmax")
    integers = qat.to_integer(calibrated.graph, calibrated.params)
    title, _, *rows = str(integers).splitlines()
    assert title == repr(integers) == "IntegerGraph of LeNet5, 9 nodes, input 1 x 32 x 32, float arithmetic"
    assert [row.split()[0] for row in rows] == [node.output.name for node in integers.nodes]
    assert integers._repr_html_().count("<tr>") == 10


def test_state_is_not_counted_as_trainable():
    graph = qat.convert_quant_network(LeNet5())
    assert graph.count_trainable() == LeNet5().graph().count_trainable() == 61_684
    assert not graph.params["conv1.fake_quant.max"].trainable
    row = next(line for line in str(graph).splitlines() if line.startswith("fc3.fake_quant"))
    assert row.endswith("  10"), "its output shape comes last, there is nothing in the column of parameters"


@CHECK
@given(graphs())
def test_any_graph_can_be_printed(graph):
    """Its name and those of its nodes are there."""
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


def test_params_lead_from_float_to_quantized_to_other_quantizers_and_back() -> None:
    floats = LeNet5().graph()
    quantized = qat.convert_quant_network(floats)
    learned = qat.convert_quant_network(
        floats, weight_quantizer=qat.LSQWeightQuantizer(4), activation_quantizer=qat.LSQActivationQuantizer(4)
    )
    trained = floats.initial_params(3)
    params = quantized.params_from(trained)
    quantized.check_params(params)
    assert np.isinf(params["fc1.fake_quant.max"])
    params["fc1.fake_quant.max"] = np.float32(7)
    again = quantized.params_from(params)  # a range is of the settings that it was observed with
    assert np.isinf(again["fc1.fake_quant.max"])
    others = learned.params_from(params, seed=5)
    assert list(others) == list(learned.params)
    assert "fc1.fake_quant.max" not in others
    for each in (params, others, floats.params_from(others), quantized.params_from(others)):
        for name, array in trained.items():
            assert each[name] is array
    scale = "fc1.weight_initial_scale"
    assert others[scale] == learned.initial_params(5)[scale]


def test_params_from_refuses_those_of_another_network_and_the_refusal_of_the_others_says_how() -> None:
    floats = LeNet5().graph()
    quantized = qat.convert_quant_network(floats)
    trained = floats.initial_params()
    with pytest.raises(
        qat.QatError, match=r"lack 'conv1.fake_quant.max', which is of a quantizer.*graph.params_from\("
    ):
        quantized.check_params(trained)
    with pytest.raises(
        qat.QatError, match=r"hold 'conv1.fake_quant.max', which is of a quantizer.* is float.*params_from"
    ):
        floats.check_params(quantized.initial_params())
    for change, message in (
        ({"fc1.weight": np.zeros((2, 2), np.float32)}, r"'fc1.weight' has shape \(2, 2\)"),
        ({"fc1.weight": trained["fc1.weight"].astype(np.float64)}, "float64, not float32"),
        ({"fc9.weight": trained["fc1.weight"]}, "hold 'fc9.weight', which it does not know"),
    ):
        with pytest.raises(qat.QatError, match=message):
            quantized.params_from(trained | change)
    with pytest.raises(qat.QatError, match=r"lack 'fc1.bias', so they belong to another network"):
        quantized.params_from({name: array for name, array in trained.items() if name != "fc1.bias"})
    with pytest.raises(qat.QatError, match="is a list; give a dict"):
        quantized.params_from([])  # type: ignore[arg-type]


def test_check_params_names_the_source_and_what_is_missing_unknown_or_misshapen():
    graph = LeNet5().graph()
    params = graph.initial_params()
    lacking = {name: value for name, value in params.items() if name != "fc2.bias"}
    with pytest.raises(
        qat.QatError,
        match=r"^a\.ckpt: they lack 'fc2.bias', so they belong to another network than LeNet5; give its own$",
    ):
        graph.check_params(lacking, "a.ckpt")
    with pytest.raises(
        qat.QatError, match=r"^params: they hold 'fc9.bias', which it does not know, .*than LeNet5; give its own$"
    ):
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
    with pytest.raises(qat.QatError, match="its output 'fc9' is not a node"):
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
