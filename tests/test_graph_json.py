"""A graph in JSON: what is read back is equal, and what is no graph is refused."""

import json

import numpy as np
import pytest
from graphs import chain, conv, graphs, small_quantized_network
from hypothesis import given, settings
from hypothesis import strategies as st

import qat
from qat.cells.base import Cell
from qat.networks import LeNet5
from qat.quantizers import ActivationQuantizer, BaseActivationQuantizer, BaseWeightQuantizer
from qat.vocabulary.serial import Serializable, from_json

CHECK = settings(derandomize=True, deadline=None, max_examples=100)
MUTATE = settings(derandomize=True, deadline=None, max_examples=400)


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
    with pytest.raises(qat.QatError, match="not a valid JSON form of a network"):
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
    with pytest.raises(qat.QatError, match="Flatten has no field 'colour': it has "):
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
