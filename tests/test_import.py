"""Importing networks: what inputs take, where a source and its import part, cutting, and messages. Sources are made by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from import_sources import constant, conv, opened, program

import qat
from qat.imports.compare import TOLERANCE
from qat.imports.entry import entered, pixels
from qat.imports.program import Operation, Program

NORMALIZED = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def each(values: tuple[float, ...]) -> np.ndarray:
    return np.array(values, np.float32).reshape(-1, 1, 1)


def begins_with(*normalization: Operation) -> Program:
    last = normalization[-1].output if normalization else "x"
    return program(*normalization, conv("c", last))


def test_real_numbers_are_what_an_input_takes_by_default() -> None:
    entry = entered(begins_with())
    assert entry.cells == entry.taken == (qat.Input((3, 8, 8), dtype="float32"),)
    assert entry.notes == []


@pytest.mark.parametrize(
    ("normalization", "mean", "std"),
    [
        ([constant("mul", "x", "a", 1 / 127.5), constant("add", "a", "b", -1.0)], (0.5,) * 3, (0.5,) * 3),
        ([constant("mul", "x", "a", 1 / 255)], 0.0, 1.0),
        (
            [
                constant("mul", "x", "a", 1 / 255),
                constant("add", "a", "b", -each(NORMALIZED[0])),
                constant("mul", "b", "d", 1 / each(NORMALIZED[1])),
            ],
            *NORMALIZED,
        ),
    ],
)
def test_a_normalization_of_raw_pixels_goes_into_the_input(
    normalization: list[Operation], mean: object, std: object
) -> None:
    source = opened(begins_with(*normalization))
    imported = qat.import_model(source)
    assert imported.graph.inputs[0].cell == qat.Input((3, 8, 8), mean=mean, std=std)
    assert len(imported.graph.nodes) == 2
    assert "takes raw pixels" in imported.notes[0]
    assert imported.difference is not None
    assert imported.difference.relative < 1e-6


def test_a_normalization_of_other_numbers_stays_a_layer() -> None:
    """Factors that make raw pixels huge or tiny were meant for other numbers."""
    for factor in (1.0, 1e-6, 1 / 20, 1 / 100):
        imported = qat.import_model(opened(begins_with(constant("mul", "x", "a", factor))))
        assert imported.graph.input_specs[0].dtype == "float32"
        assert not imported.notes


def test_the_inputs_normalization_and_the_networks_own_become_one() -> None:
    """Pixels are normalised for the source, which then normalises them once more."""
    given = pixels((3, 8, 8), *NORMALIZED)
    source = opened(begins_with(constant("mul", "x", "a", 2.0), constant("add", "a", "b", 0.5)))
    imported = qat.import_model(source, inputs=given)
    (node,) = imported.graph.inputs
    cell = node.cell
    assert isinstance(cell, qat.Input)
    np.testing.assert_allclose(cell.std, np.array(NORMALIZED[1]) / 2, rtol=1e-6)
    np.testing.assert_allclose(cell.mean, np.array(NORMALIZED[0]) - 0.25 * np.array(NORMALIZED[1]), rtol=1e-6)
    assert len(imported.graph.nodes) == 2


def test_a_normalization_that_two_take_stays_where_it_is() -> None:
    shift = constant("mul", "x", "a", 1 / 255)
    source = program(shift, conv("c", "a"), conv("d", "x"), outputs=("c_out", "d_out"))
    assert entered(source).cells[0].dtype == "float32"


def test_a_network_that_only_normalizes_stays_one() -> None:
    imported = qat.import_model(opened(program(constant("mul", "x", "y", 1 / 255))))
    assert [type(node.cell).__name__ for node in imported.graph.nodes] == ["Input", "Activation"]


def test_codes_with_a_scale() -> None:
    cell = qat.Input((3, 8, 8), dtype="int8", scale=0.5, zero_point=3)
    imported = qat.import_model(opened(begins_with()), inputs=cell)
    assert imported.graph.inputs[0].cell == cell
    assert imported.difference is not None
    assert imported.difference.relative < 1e-6


def test_one_mean_for_all_channels_only_where_it_is_a_code() -> None:
    assert pixels((3, 2, 2), [128 / 255], [0.5]).normalizes_channels is False
    assert pixels((3, 2, 2), [0.5], [0.5]).mean == (0.5, 0.5, 0.5)
    assert pixels((3, 2, 2), [0.0, 0.0, 0.2], [1.0]).std == (1.0, 1.0, 1.0)


def test_inputs_that_do_not_fit() -> None:
    with pytest.raises(qat.QatError, match=r"input x takes samples of shape \(3, 8, 8\), but .* \(8, 8, 3\); give"):
        entered(begins_with(), qat.Input((8, 8, 3)))
    with pytest.raises(qat.QatError, match=r"has 1 input \(x\), but 2 are described"):
        entered(begins_with(), [qat.Input((3, 8, 8))] * 2)


def test_where_they_part_is_named() -> None:
    """The source computes something else from its second convolution on."""
    both = program(conv("first", "x"), conv("second", "first_out", given=4), conv("third", "second_out", given=4))
    with pytest.raises(
        qat.QatError, match=r"made: the imported network differs by .*first node that differs is second"
    ):
        qat.import_model(opened(both, wrong="second_out"))
    assert qat.import_model(opened(both, wrong="second_out"), tolerance=10.0).difference is not None


@pytest.mark.parametrize("changed", ["c.weight", "c.bias"])
def test_a_wrong_parameter_is_found(changed: str) -> None:
    imported = qat.import_model(opened(begins_with()))
    assert imported.difference is not None
    assert imported.difference.relative < 1e-6 < TOLERANCE
    imported.params[changed] = imported.params[changed] * np.float32(1 + 20 * TOLERANCE)
    with pytest.raises(qat.QatError, match="first node that differs is c "):
        imported.compare()


def test_numbers_that_are_not_finite_are_no_agreement() -> None:
    imported = qat.import_model(opened(begins_with()))
    imported.params["c.bias"][0] = np.nan
    with pytest.raises(qat.QatError, match="differs by inf"):
        imported.compare()
    source = opened(program(conv("c", "x"), constant("mul", "c_out", "y", np.inf)))
    with pytest.raises(qat.QatError, match=r"its output y is not finite .*give images that it knows"):
        qat.import_model(source)


def test_samples_of_the_user_are_compared() -> None:
    imported = qat.import_model(opened(begins_with(constant("mul", "x", "a", 1 / 255))))
    images = np.full((40, 3, 8, 8), 7, np.uint8)
    assert "on 8 samples" in str(imported.compare(images))
    with pytest.raises(qat.QatError, match="made"):
        imported.compare(images.astype(np.float32))


def test_the_network_can_be_cut() -> None:
    unknown = Operation("unknown", "head", ("second_out",), "head_out", {"of": "aten.gru"}, where="net.py:7")
    both = program(conv("first", "x"), conv("second", "first_out", given=4), unknown)
    with pytest.raises(qat.QatError, match=r"aten.gru: head \(net.py:7\)"):
        qat.import_model(opened(both))
    known = replace(both, operations=both.operations[:2])
    source = replace(opened(known), program=both)
    imported = qat.import_model(source, outputs=["second"])
    assert imported.graph.outputs == ("second",)
    assert [node.name for node in imported.graph.nodes] == ["input", "first", "second"]
    assert len(qat.import_model(source, outputs=("first",)).graph.nodes) == 2
    with pytest.raises(qat.QatError, match=r"no operation 'secnd' to end at, perhaps second is meant; give names"):
        qat.import_model(source, outputs=["secnd"])


def test_outputs_are_compared_where_no_node_computes_them() -> None:
    """An operation that is listed as nothing has no node, so that the last node's value is another."""
    made = program(conv("c", "x"), Operation("identity", "cast", ("c_out",), "y"))
    source = opened(made)
    assert qat.import_model(source).graph.outputs == ("c",)
    with pytest.raises(qat.QatError, match="no node before the outputs differs"):
        qat.import_model(opened(made, wrong="y"))


def test_a_softmax_hides_no_error() -> None:
    """Where its outputs are 0 and 1, they are the same for other weights."""
    layers = conv("c", "x"), Operation("mean", "m", ("c_out",), "m", {"axes": (2, 3), "keepdims": False})
    made = program(*layers, Operation("softmax", "s", ("m",), "s", {"axis": 1}))
    imported = qat.import_model(opened(made))
    imported.params["c.weight"] *= np.float32(1e3)
    imported.params["c.bias"] *= np.float32(1e3)
    large = replace(layers[0], constants={name: array * np.float32(1e3) for name, array in layers[0].constants.items()})
    imported.opened = opened(replace(made, operations=(large, *made.operations[1:])))
    assert imported.compare().relative < 1e-5
    imported.params["c.bias"] *= np.float32(1.01)
    with pytest.raises(qat.QatError, match="the first node that differs is c"):
        imported.compare()


def test_outputs_that_the_source_does_not_tell() -> None:
    made = program(conv("c", "x"), conv("d", "c_out", given=4))
    source = opened(made)
    hiding = replace(source, trace=lambda x, names: {k: v for k, v in source.trace(x, names).items() if k != "c_out"})
    with pytest.raises(qat.QatError, match=r"c_out is within an operation of the source.*elsewhere"):
        qat.import_model(hiding, outputs=["c"])


def test_a_cut_that_leaves_an_input_out() -> None:
    both = program(conv("c", "x"), conv("d", "x"), outputs=("c_out", "d_out"))
    spec, (c, d) = both.inputs["x"], both.operations
    two = replace(both, inputs={"x": spec, "z": spec}, shapes={**both.shapes, "z": spec.shape})
    two = two.with_operations([c, replace(d, inputs=("z",))])
    imported = qat.import_model(opened(two), outputs=["d"])
    assert [node.name for node in imported.graph.nodes] == ["input", "d"]
    assert imported.compare(np.ones((2, *spec.shape), np.float32)).relative < 1e-6


def test_a_cut_ends_at_the_last_operation_of_a_name() -> None:
    first = replace(conv("c", "x"), output="relu")  # a value that is called as the operations after it
    twice = [Operation("clip", "relu", ("relu",), "r", {"low": 0.0, "high": None}), conv("d", "r", given=4)]
    last = Operation("clip", "relu", ("d_out",), "s", {"low": 0.0, "high": None})
    imported = qat.import_model(opened(program(first, *twice, last)), outputs=["relu"])
    assert [node.name for node in imported.graph.nodes] == ["input", "c", "d"]


def test_all_unknown_operations_in_one_message() -> None:
    names = [
        Operation("unknown", f"l{i}", ("x",), f"y{i}", {"of": ("gru", "roll")[i % 2]}, where=f"n.py:{i}")
        for i in range(10)
    ]
    with pytest.raises(qat.QatError) as error:
        qat.import_model(opened(program(conv("c", "x"), *names, outputs=("c_out", *(f"y{i}" for i in range(10))))))
    text = str(error.value)
    assert "has 10 operations that no cell computes" in text
    assert "gru: l0 (n.py:0), l2 (n.py:2), l4 (n.py:4) and 2 more" in text
    assert "roll: l1 (n.py:1)" in text
    assert "Known are conv2d, conv_transpose2d, dense" in text
    assert "outputs" in text
    assert "\n" not in text


def test_a_long_list_of_unknown_operations_is_cut_short() -> None:
    names = [Operation("unknown", f"l{i}", ("x",), f"y{i}", {"of": f"aten.f{i}"}) for i in range(11)]
    with pytest.raises(qat.QatError, match=r"aten\.f7: l7; and 3 more kinds\. Known are") as error:
        qat.import_model(opened(program(*names, outputs=tuple(each.output for each in names))))
    assert "before them (--outputs, or outputs=), and" in str(error.value)


def test_a_known_operation_in_another_form_is_not_told_what_is_known() -> None:
    window = {"kernel": (2, 2), "stride": (2, 2), "padding": (0, 0, 0, 0), "dilation": (2, 2)}
    wide = Operation("max_pool2d", "s", ("x",), "y", window)
    source = replace(
        opened(program(conv("c", "x"))), program=replace(program(conv("c", "x")), operations=(wide,), outputs=("y",))
    )
    with pytest.raises(
        qat.QatError, match="has 1 operation in a form that no cell computes: a max pooling of"
    ) as error:
        qat.import_model(source)
    assert "Known are" not in str(error.value)
    assert "Change it, or cut the network before it (--outputs, or outputs=)" in str(error.value)


@pytest.mark.parametrize("source", ["net.txt", 5, "net"])
def test_what_is_no_source(source: object) -> None:
    with pytest.raises(
        qat.QatError, match=r"no network that can be imported; give a file .pt2, .keras, .h5, .onnx or .tflite"
    ):
        qat.import_model(source)


@pytest.mark.parametrize("shape", [(1, 3, 1), (3,), (1, 1, 3), (3, 3, 1)])
def test_a_constant_along_another_axis_is_not_one_of_channels(shape: tuple[int, ...]) -> None:
    """Heights, widths and channels are 3 each, so that its size does not tell."""
    other = np.arange(math.prod(shape), dtype=np.float32).reshape(shape)
    source = program(conv("c", "x", 3), constant("add", "c_out", "y", other), shape=(3, 3, 3))
    cells = {type(node.cell).__name__ for node in qat.import_model(opened(source), tolerance=1e-6).graph.nodes}
    assert {"Conv2dBnAct", "Normalize"} < cells
    right = program(conv("c", "x", 3), constant("add", "c_out", "y", np.arange(3).reshape(3, 1, 1)), shape=(3, 3, 3))
    assert len(qat.import_model(opened(right)).graph.nodes) == 2


def test_what_training_changes_here_alone_is_said() -> None:
    """A batch normalisation without gamma, and a trained factor that becomes a constant."""
    statistics = {name: np.ones(4, np.float32) for name in ("mean", "variance", "gamma", "beta")}
    norm = Operation("batch_norm", "bn", ("c_out",), "y", {"eps": 1e-5}, statistics, {"beta": "bn.beta"})
    relu = Operation("clip", "r", ("y",), "z", {"low": 0.0, "high": None})
    scale = replace(constant("mul", "z", "s", np.full((4, 1, 1), 2.0)), sources={"other": "scale"})
    notes = qat.import_model(opened(program(conv("c", "x"), norm, relu, scale))).notes
    assert len(notes) == 2
    assert notes[0].startswith("c.gamma: the source's batch normalisations have none")
    assert notes[1].startswith("scale: a factor or shift")


def test_outputs_of_nothing_but_zeros_prove_nothing() -> None:
    below = constant("add", "c_out", "low", -1e6)
    relu = Operation("clip", "r", ("low",), "y", {"low": 0.0, "high": None})
    assert "y is 0 throughout" in str(qat.import_model(opened(program(conv("c", "x"), below, relu))).difference)


@pytest.mark.parametrize("source", ["net.pth", {"fc.weight": np.zeros(3)}])
def test_parameters_are_no_network(source: object) -> None:
    with pytest.raises(qat.QatError, match=r"holds parameters, .* or use import-params"):
        qat.import_model(source)
