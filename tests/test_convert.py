"""Where convert_quant_network puts quantizers, and where pool_before_quantize moves them."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import qat
from qat.cells.base import Context, Scope
from qat.networks import LeNet5
from qat.passes.pool_before_quantize import pool_before_quantize
from qat.quantizers import ActivationQuantizer, WeightQuantizer
from qat.vocabulary.numpy_ops import NUMPY_OPS
from qat.vocabulary.values import Value

CHECK = settings(derandomize=True, deadline=None, max_examples=150)
LINEAR = ["conv1", "conv2", "fc1", "fc2", "fc3"]


def quantizers(graph):
    """All weight quantizers and all activation quantizers of a graph, each one once."""
    weights = {node.cell.weight_quantizer for node in graph.nodes if hasattr(node.cell, "weight_quantizer")}
    activations = {node.cell.quantizer for node in graph.nodes if isinstance(node.cell, qat.FakeQuant)}
    return weights, activations


def convolution(**fields):
    return qat.Conv2dBnAct(1, 1, 1, **fields)


def chain(*cells, outputs=None, shape=(1, 8, 8)):
    """A float graph: input, then c0, c1, ... one after the other."""
    nodes = [qat.Node("input", qat.Input(shape), (), "input")]
    for index, cell in enumerate(cells):
        nodes.append(qat.Node(f"c{index}", cell, (nodes[-1].name,), f"c{index}"))
    return qat.Graph(tuple(nodes), outputs or (nodes[-1].name,))


def structure(graph):
    return [(node.name, *node.inputs) for node in graph.nodes]


# -- convert_quant_network: where -----------------------------------------------------------------------------------


def test_a_fake_quantizer_follows_every_linear_cell_and_nothing_else():
    graph = qat.convert_quant_network(LeNet5())
    assert structure(graph) == [
        ("input",),
        ("conv1", "input"),
        ("conv1.fake_quant", "conv1"),
        ("max_pool2d", "conv1.fake_quant"),
        ("conv2", "max_pool2d"),
        ("conv2.fake_quant", "conv2"),
        ("max_pool2d_1", "conv2.fake_quant"),
        ("flatten", "max_pool2d_1"),
        ("fc1", "flatten"),
        ("fc1.fake_quant", "fc1"),
        ("fc2", "fc1.fake_quant"),
        ("fc2.fake_quant", "fc2"),
        ("fc3", "fc2.fake_quant"),
        ("fc3.fake_quant", "fc3"),
    ]
    assert graph.outputs == ("fc3.fake_quant",)
    assert graph.name == "LeNet5"
    assert graph.is_quantized


def test_every_linear_cell_gets_a_weight_quantizer_and_is_otherwise_unchanged():
    floats = {node.name: node.cell for node in LeNet5().graph().nodes}
    cells = {node.name: node.cell for node in qat.convert_quant_network(LeNet5()).nodes}
    for name, cell in floats.items():
        if name in LINEAR:
            assert cell.weight_quantizer is None
            assert isinstance(cells[name].weight_quantizer, WeightQuantizer)
            assert replace(cells[name], weight_quantizer=None) == cell
        else:
            assert cells[name] == cell


def test_a_fake_quantizer_after_a_relu_knows_that_its_input_is_not_negative():
    cells = {node.name: node.cell for node in qat.convert_quant_network(LeNet5()).nodes}
    assert [cells[f"{name}.fake_quant"].non_negative for name in LINEAR] == [True, True, True, True, False]
    relu6 = qat.convert_quant_network(chain(convolution(activation="relu6")))
    assert relu6.nodes[-1].cell.non_negative


def test_names_and_shapes_of_parameters_stay_and_only_ranges_are_added():
    floats, graph = LeNet5().graph(), qat.convert_quant_network(LeNet5())
    added = [name for name in graph.params if name not in floats.params]
    assert added == [
        "conv1.fake_quant.max",
        "conv2.fake_quant.max",
        "fc1.fake_quant.max",
        "fc2.fake_quant.max",
        "fc3.fake_quant.min",
        "fc3.fake_quant.max",
    ]
    assert [name for name in graph.params if name in floats.params] == list(floats.params)
    for name, param in floats.params.items():
        assert graph.params[name].shape == param.shape
    assert not any(graph.params[name].trainable for name in added)
    # so parameters trained as floats are taken over by name
    trained = floats.initial_params(3)
    graph.check_params(graph.params_from(trained))


def test_a_cell_with_after_fake_false_has_no_fake_quantizer_but_a_quantized_weight():
    network = LeNet5()
    network.fc3 = replace(network.fc3, after_fake=False)
    network.conv1 = replace(network.conv1, after_fake=False)
    graph = qat.convert_quant_network(network)
    names = [node.name for node in graph.nodes]
    assert "conv1.fake_quant" not in names
    assert "fc3.fake_quant" not in names
    assert "conv2.fake_quant" in names
    assert graph.outputs == ("fc3",)
    assert next(node for node in graph.nodes if node.name == "max_pool2d").inputs == ("conv1",)
    assert quantizers(graph)[0] == {WeightQuantizer(8, True, False, 0, True)}


def test_a_network_without_any_fake_quantizer_is_quantized_by_its_weights():
    graph = qat.convert_quant_network(chain(convolution(after_fake=False)))
    assert [node.name for node in graph.nodes] == ["input", "c0"]
    assert graph.is_quantized, "true after convert_quant_network, says its docstring"


def test_each_use_of_a_shared_cell_has_a_range_of_its_own():
    class Twice(qat.Network):
        inputs = qat.Input((1, 8, 8))

        def __init__(self):
            self.c = convolution(activation="relu")

        def construct(self, x):
            return self.c(self.c(x))

    graph = qat.convert_quant_network(Twice())
    assert structure(graph) == [
        ("input",),
        ("c", "input"),
        ("c.fake_quant", "c"),
        ("c_1", "c.fake_quant"),
        ("c_1.fake_quant", "c_1"),
    ]
    assert list(graph.params) == ["c.weight", "c.fake_quant.max", "c_1.fake_quant.max"]


def test_all_users_of_a_quantized_output_take_the_codes():
    nodes = (
        qat.Node("input", qat.Input((1, 4, 4)), (), "input"),
        qat.Node("c", convolution(), ("input",), "c"),
        qat.Node("f", qat.Flatten(), ("c",), "f"),
        qat.Node("p", qat.MaxPool2d(2), ("c",), "p"),
    )
    graph = qat.convert_quant_network(qat.Graph(nodes, ("c", "f", "p")))
    assert graph.outputs == ("c.fake_quant", "f", "p")
    assert [node.name for node in graph.consumers("c.fake_quant")] == ["f", "p"]
    assert [node.name for node in graph.consumers("c")] == ["c.fake_quant"]


def test_a_network_and_its_graph_convert_alike_and_the_graph_given_is_not_changed():
    graph = LeNet5().graph()
    text = graph.to_json()
    assert qat.convert_quant_network(graph) == qat.convert_quant_network(LeNet5())
    assert graph.to_json() == text
    assert not graph.is_quantized


# -- convert_quant_network: settings --------------------------------------------------------------------------------


def test_the_defaults_are_eight_bits_weights_by_channel_and_symmetric_activations_with_a_zero_point():
    assert quantizers(qat.convert_quant_network(LeNet5())) == (
        {WeightQuantizer(num_bits=8, symmetric=True, narrow_range=False, quant_delay=0, per_channel=True)},
        {ActivationQuantizer(num_bits=8, symmetric=False, narrow_range=False, quant_delay=0, ema_decay=0.99)},
    )


@pytest.mark.parametrize("wrap", [tuple, list])
@pytest.mark.parametrize(
    ("setting", "weight_value", "activation_value"),
    [
        ("num_bits", 4, 6),
        ("symmetric", False, True),
        ("narrow_range", True, False),
        ("narrow_range", False, True),
        ("quant_delay", 900, 1200),
    ],
)
def test_a_pair_is_weights_then_activations(wrap, setting, weight_value, activation_value):
    graph = qat.convert_quant_network(LeNet5(), **{setting: wrap((weight_value, activation_value))})
    (weights,), (activations,) = quantizers(graph)
    assert getattr(weights, setting) == weight_value
    assert getattr(activations, setting) == activation_value


@pytest.mark.parametrize(
    ("setting", "value"),
    [("num_bits", 5), ("symmetric", True), ("symmetric", False), ("narrow_range", True), ("quant_delay", 7)],
)
@pytest.mark.parametrize("wrap", [lambda value: value, lambda value: (value,), lambda value: [value]])
def test_one_value_is_for_both(wrap, setting, value):
    (weights,), (activations,) = quantizers(qat.convert_quant_network(LeNet5(), **{setting: wrap(value)}))
    assert getattr(weights, setting) == getattr(activations, setting) == value


@pytest.mark.parametrize(("setting", "expected"), [(False, False), ((True, False), True), ((False, False), False)])
def test_per_channel_is_a_matter_of_weights(setting, expected):
    (weights,), _ = quantizers(qat.convert_quant_network(LeNet5(), per_channel=setting))
    assert weights.per_channel is expected


def test_ema_decay_is_that_of_activations():
    _, (activations,) = quantizers(qat.convert_quant_network(LeNet5(), ema_decay=0.5))
    assert activations.ema_decay == 0.5


@pytest.mark.parametrize(
    ("delay", "steps"), [(0, (0,)), (900, (0, 900)), ((900, 1200), (0, 900, 1200)), ((5, 0), (0, 5)), ((0, 5), (0, 5))]
)
def test_the_graph_knows_the_steps_at_which_its_quantizers_set_in(delay, steps):
    assert qat.convert_quant_network(LeNet5(), quant_delay=delay).phase_starts == steps


@pytest.mark.parametrize("setting", ["num_bits", "symmetric", "narrow_range", "quant_delay", "ema_decay"])
def test_graphs_that_differ_in_one_setting_have_different_digests(setting):
    """A run is only resumed on the graph it was begun with."""
    value = {"num_bits": 7, "symmetric": (True, True), "narrow_range": True, "quant_delay": 1, "ema_decay": 0.9}[
        setting
    ]
    assert qat.convert_quant_network(LeNet5(), **{setting: value}).digest != qat.convert_quant_network(LeNet5()).digest


# -- convert_quant_network: mistakes -----------------------------------------------------------------------------------


def refused(match, network=None, **settings):
    with pytest.raises(qat.QatError, match=match) as caught:
        qat.convert_quant_network(LeNet5() if network is None else network, **settings)
    assert "\n" not in str(caught.value)


def test_a_quantized_graph_is_refused():
    refused(r"^LeNet5 is quantized already: convert the float network", qat.convert_quant_network(LeNet5()))


def test_a_graph_of_which_only_weights_are_quantized_is_refused_too():
    once = qat.convert_quant_network(chain(convolution(after_fake=False)), num_bits=4)
    refused("is quantized already", once, num_bits=8)


@pytest.mark.parametrize("setting", [True, (True, True), (False, True), [True]])
def test_activations_by_channel_are_refused_and_the_reason_and_remedy_given(setting):
    refused(r"per_channel is True for activations, but .* use per_channel=\(True, False\)$", per_channel=setting)


@pytest.mark.parametrize("setting", ["num_bits", "per_channel", "symmetric", "narrow_range", "quant_delay"])
@pytest.mark.parametrize("value", [(), (1, 2, 3), [True, False, True]])
def test_what_is_neither_a_value_nor_a_pair_is_refused(setting, value):
    refused(r"is not a pair: give one value, or \(weights, activations\)", **{setting: value})


@pytest.mark.parametrize(
    ("bits", "owner", "least"),
    [(1, "Weight", 2), (17, "Weight", 2), ((8, 0), "Activation", 1), ((8, 17), "Activation", 1)],
)
def test_bits_out_of_range_are_refused_by_the_quantizer_concerned(bits, owner, least):
    refused(
        rf"^{owner}Quantizer: num_bits is (0|1|17); use a whole number from {least} to 16(, or Binary.*)?$",
        num_bits=bits,
    )


@pytest.mark.parametrize("bits", ["8", 8.0, None, True, (8, None)])
def test_bits_that_are_no_whole_number_are_refused(bits):
    refused("num_bits is", num_bits=bits)


@pytest.mark.parametrize("delay", [-1, (0, -1), 1.5, "900", (True, 0)])
def test_a_delay_that_is_no_number_of_steps_is_refused(delay):
    refused("quant_delay is", quant_delay=delay)


@pytest.mark.parametrize("decay", [-0.1, 1.5, float("nan"), "slow", None])
def test_a_decay_with_which_a_range_cannot_follow_is_refused(decay):
    """Above 1 the range runs away from what it follows, below 0 it overshoots."""
    refused("ema_decay", ema_decay=decay)


def test_a_class_instead_of_a_network_is_refused():
    refused("neither a qat.Network nor a qat.Graph; give an instance".replace(".", r"\."), LeNet5)


# -- pool_before_quantize -------------------------------------------------------------------------------------------------


def converted(*cells, outputs=None, shape=(1, 8, 8)):
    return qat.convert_quant_network(chain(*cells, outputs=outputs, shape=shape))


def test_a_pooling_after_a_fake_quantizer_goes_before_it():
    graph = pool_before_quantize(converted(convolution(), qat.MaxPool2d(2), qat.Flatten()))
    assert structure(graph) == [
        ("input",),
        ("c0", "input"),
        ("c1", "c0"),
        ("c0.fake_quant", "c1"),
        ("c2", "c0.fake_quant"),
    ]
    assert graph.outputs == ("c2",)


def test_both_poolings_of_lenet_move_and_nothing_else_changes():
    before = qat.convert_quant_network(LeNet5())
    graph = pool_before_quantize(before)
    assert structure(graph) == [
        ("input",),
        ("conv1", "input"),
        ("max_pool2d", "conv1"),
        ("conv1.fake_quant", "max_pool2d"),
        ("conv2", "conv1.fake_quant"),
        ("max_pool2d_1", "conv2"),
        ("conv2.fake_quant", "max_pool2d_1"),
        ("flatten", "conv2.fake_quant"),
        ("fc1", "flatten"),
        ("fc1.fake_quant", "fc1"),
        ("fc2", "fc1.fake_quant"),
        ("fc2.fake_quant", "fc2"),
        ("fc3", "fc2.fake_quant"),
        ("fc3.fake_quant", "fc3"),
    ]
    assert {node.name: node.cell for node in graph.nodes} == {node.name: node.cell for node in before.nodes}
    assert set(graph.params) == set(before.params)
    assert graph.outputs == before.outputs


def test_a_pooling_that_is_the_output_hands_that_over_to_the_quantizer():
    graph = pool_before_quantize(converted(convolution(), qat.MaxPool2d(2)))
    assert structure(graph)[2:] == [("c1", "c0"), ("c0.fake_quant", "c1")]
    assert graph.outputs == ("c0.fake_quant",)
    assert graph.shapes["c0.fake_quant"] == (1, 4, 4)


def test_several_poolings_in_a_row_all_go_first():
    graph = pool_before_quantize(converted(convolution(), qat.MaxPool2d(2), qat.MaxPool2d(2), qat.Flatten()))
    assert structure(graph)[2:] == [("c1", "c0"), ("c2", "c1"), ("c0.fake_quant", "c2"), ("c3", "c0.fake_quant")]


def test_all_users_of_the_pooling_take_the_codes():
    nodes = (
        qat.Node("input", qat.Input((1, 4, 4)), (), "input"),
        qat.Node("c", convolution(), ("input",), "c"),
        qat.Node("p", qat.MaxPool2d(2), ("c",), "p"),
        qat.Node("f", qat.Flatten(), ("p",), "f"),
        qat.Node("g", qat.MaxPool2d(1), ("p",), "g"),
    )
    graph = pool_before_quantize(qat.convert_quant_network(qat.Graph(nodes, ("p", "f", "g"))))
    assert structure(graph)[2:] == [("p", "c"), ("c.fake_quant", "p"), ("f", "c.fake_quant"), ("g", "c.fake_quant")]
    assert graph.outputs == ("c.fake_quant", "f", "g")


def test_nodes_of_another_branch_between_the_two_stay_before_what_uses_them():
    nodes = (
        qat.Node("input", qat.Input((1, 4, 4)), (), "input"),
        qat.Node("c", convolution(), ("input",), "c"),
        qat.Node("d", convolution(), ("input",), "d"),
        qat.Node("p", qat.MaxPool2d(2), ("c",), "p"),
        qat.Node("q", qat.MaxPool2d(2), ("d",), "q"),
    )
    graph = pool_before_quantize(qat.convert_quant_network(qat.Graph(nodes, ("p", "q"))))
    assert {name: inputs for name, *inputs in structure(graph)} == {
        "input": [],
        "c": ["input"],
        "d": ["input"],
        "p": ["c"],
        "q": ["d"],
        "c.fake_quant": ["p"],
        "d.fake_quant": ["q"],
    }
    assert graph.outputs == ("c.fake_quant", "d.fake_quant")


def test_case_1_a_fake_quantizer_that_something_else_uses_too_stays():
    nodes = (
        qat.Node("input", qat.Input((1, 4, 4)), (), "input"),
        qat.Node("c", convolution(), ("input",), "c"),
        qat.Node("p", qat.MaxPool2d(2), ("c",), "p"),
        qat.Node("f", qat.Flatten(), ("c",), "f"),
    )
    graph = qat.convert_quant_network(qat.Graph(nodes, ("p", "f")))
    assert pool_before_quantize(graph) == graph


def test_case_1_a_fake_quantizer_of_two_poolings_stays():
    nodes = (
        qat.Node("input", qat.Input((1, 4, 4)), (), "input"),
        qat.Node("c", convolution(), ("input",), "c"),
        qat.Node("p", qat.MaxPool2d(2), ("c",), "p"),
        qat.Node("q", qat.MaxPool2d(4), ("c",), "q"),
    )
    graph = qat.convert_quant_network(qat.Graph(nodes, ("p", "q")))
    assert pool_before_quantize(graph) == graph


def test_case_1_a_fake_quantizer_that_is_an_output_stays():
    graph = converted(convolution(), qat.MaxPool2d(2), outputs=("c0", "c1"))
    assert graph.outputs == ("c0.fake_quant", "c1")
    assert pool_before_quantize(graph) == graph


@pytest.mark.parametrize(
    ("pool", "shape"),
    [
        (qat.MaxPool2d(2), (1, 5, 4)),
        (qat.MaxPool2d(2), (1, 4, 5)),
        (qat.MaxPool2d(2, stride=3), (1, 8, 8)),
        (qat.MaxPool2d((2, 1), stride=(2, 2)), (1, 4, 4)),
        (qat.MaxPool2d(3, stride=3, pad_mode="pad", padding=(1, 0, 0, 0)), (1, 4, 3)),
    ],
    ids=["odd height", "odd width", "stride beyond the kernel", "beyond it in one axis", "padding at the top only"],
)
def test_case_2_a_pooling_whose_windows_leave_numbers_out_stays(pool, shape):
    graph = converted(convolution(), pool, shape=shape)
    assert pool_before_quantize(graph) == graph


def test_a_fake_quantizer_before_anything_but_a_max_pooling_stays():
    graph = converted(convolution(), qat.Flatten(), qat.DenseBnAct(64, 2))
    assert pool_before_quantize(graph) == graph


def test_a_float_graph_is_left_alone():
    graph = LeNet5().graph()
    assert pool_before_quantize(graph) == graph


def covered(size, kernel, stride, before, outputs):
    """Whether the windows of one axis see every one of its numbers, by looking at each."""
    seen = {start * stride - before + offset for start in range(outputs) for offset in range(kernel)}
    return set(range(size)) <= seen


@CHECK
@given(st.data())
def test_a_pooling_goes_first_exactly_when_every_number_lies_in_a_window(data):
    """Strides beyond the kernel aside, which may stay even where what they skip is only padding."""
    size = data.draw(st.tuples(st.integers(3, 9), st.integers(3, 9)))
    kernel = data.draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    stride = tuple(data.draw(st.integers(1, length)) for length in kernel)
    mode = data.draw(st.sampled_from(["valid", "same", "pad"]))
    ends = [data.draw(st.integers(0, length - 1)) if mode == "pad" else 0 for length in np.repeat(kernel, 2).tolist()]
    pool = qat.MaxPool2d(kernel, stride, mode, tuple(ends))
    graph = converted(convolution(), pool, shape=(1, *size))
    top, _, left, _ = pool.window((1, *size))["padding"]
    height, width = graph.shapes["c1"][1:]
    sees_all = covered(size[0], kernel[0], stride[0], top, height) and covered(
        size[1], kernel[1], stride[1], left, width
    )
    moved = pool_before_quantize(graph) != graph
    assert moved == sees_all


def outputs_of(graph, params, pixels):
    """Real outputs of the graph exactly as it stands (qat.training.forward would move poolings itself), in NumPy."""
    ops = NUMPY_OPS
    tensors = {name: ops.from_numpy(params[name], param.kind) for name, param in graph.params.items()}
    context = Context(ops, tensors, training=False, phase=0, updates={})
    values = {"input": Value(pixels)}
    for node in graph.nodes:
        arguments = [values[name] for name in node.inputs] or [values[node.name]]
        shapes = tuple(graph.shapes[name] for name in node.inputs)
        values[node.name] = node.cell.forward(
            Scope(context, f"{node.cell_name}.", tuple(node.cell.params()), shapes), *arguments
        )
    return values[graph.outputs[0]].real(ops)


@CHECK
@given(
    st.integers(0, 10_000),
    st.sampled_from([None, "relu", "relu6"]),
    st.tuples(st.integers(2, 8), st.integers(2, 8)),
    st.booleans(),
    st.sampled_from([("valid", 0), ("pad", 1)]),
)
def test_the_codes_are_the_same_bit_for_bit(seed, activation, bits, symmetric, padding):
    cells = [qat.Conv2dBnAct(2, 3, 3, activation=activation, has_bias=True), qat.MaxPool2d(2, 2, *padding)]
    graph = qat.convert_quant_network(chain(*cells, shape=(2, 6, 6)), num_bits=bits, symmetric=(True, symmetric))
    moved = pool_before_quantize(graph)
    assert moved != graph
    random = np.random.default_rng(seed)
    params = graph.initial_params(seed)
    params["c0.bias"] = random.normal(size=3).astype(np.float32)
    for name in graph.params:
        if name.endswith((".min", ".max")):
            params[name] = np.float32(random.uniform(0.1, 4) * (1 if name.endswith("max") else -1))
    pixels = random.integers(0, 256, (4, 2, 6, 6)).astype(np.float32)
    before, after = outputs_of(graph, params, pixels), outputs_of(moved, params, pixels)
    np.testing.assert_array_equal(before, after)
    assert before.shape == (4, *graph.shapes["c1"])


# -- what shares a grid must have one --------------------------------------------------------------------------------


class Joined(qat.Network):
    def __init__(self) -> None:
        self.inputs = qat.Input((1, 6, 6), mean=0.5, std=0.5)
        self.a, self.b = qat.Conv2dBnAct(1, 4, 3), qat.Conv2dBnAct(1, 4, 3)
        self.cat, self.flatten, self.fc = qat.Concat(), qat.Flatten(), qat.DenseBnAct(9 * 36, 3)

    def construct(self, x):
        return self.fc(self.flatten(self.cat(self.cat(self.a(x), self.b(x)), x)))


@pytest.mark.parametrize(
    ("first", "second", "field"),
    [
        (qat.BinaryActivationQuantizer(scale="mean"), qat.BinaryActivationQuantizer(), "scale"),
        (qat.LSQActivationQuantizer(4, offset=True), qat.LSQActivationQuantizer(4), "offset"),
        (qat.ActivationQuantizer(4), qat.ActivationQuantizer(8), "num_bits"),
    ],
)
def test_quantizers_that_share_a_grid_must_be_alike(first, second, field):
    layers = {"b": {"activation_quantizer": second}}
    with pytest.raises(qat.QatError, match=rf"shares its grid with .*, but one has {field} .* and the other"):
        qat.convert_quant_network(Joined(), activation_quantizer=first, layers=layers)


def test_signs_of_the_input_are_one_table(tmp_path):
    """The network's input goes into a Concat beside binary codes."""
    layers = {"fc": {"activation_quantizer": None}}
    graph = qat.convert_quant_network(Joined(), activation_quantizer=qat.BinaryActivationQuantizer(), layers=layers)
    integers = qat.to_integer(graph, graph.observed_params())
    names = [node.name for node in integers.nodes]
    assert len(names) == len(set(names))
    pixels = np.random.default_rng(0).integers(0, 256, (20, 1, 6, 6), np.uint8)
    target = qat.target("ONNX")
    target.export(integers, tmp_path / "a.onnx")
    codes = integers.output.grid.codes_of(target.predict(tmp_path / "a.onnx", pixels))
    np.testing.assert_array_equal(codes, qat.evaluate(integers, pixels))


def test_a_long_chain_before_a_concat_is_followed_without_recursion() -> None:
    """And in a time that does not grow with the number of ways that lead to a node."""
    first = qat.Node("input", qat.Input((1, 2, 2)), (), "input")
    nodes = [first, qat.Node("c", qat.Conv2dBnAct(1, 1, 1), ("input",), "c")]
    for i in range(1500):
        nodes.append(qat.Node(f"d{i}", qat.Dropout(0.1), (nodes[-1].name,), f"d{i}"))
    for i in range(12):
        nodes.append(qat.Node(f"j{i}", qat.Concat(), (nodes[-1].name, nodes[-1].name), f"j{i}"))
    graph = qat.convert_quant_network(qat.Graph(tuple(nodes), (nodes[-1].name,)))
    assert [node.name for node in graph.nodes if isinstance(node.cell, qat.FakeQuant)] == ["c.fake_quant"]
