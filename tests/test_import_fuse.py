"""Cells are made of plain operations without changing a number. Programs are written by hand, or drawn, and computed one
operation after another in NumPy (``import_sources``): PyTorch's definition of a pooling, window by window.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from import_sources import computed, constant, conv, opened, program

import qat
from qat.imports.fuse import fuse
from qat.imports.program import Operation, Program
from qat.imports.spelled_out import recognised

EQUAL = 2e-6  #: of the largest relative difference: float32 sums in another order


def op(kind: str, output: str, *inputs: str, constants: dict[str, Any] | None = None, **attributes: Any) -> Operation:
    arrays = {name: np.asarray(array, np.float32) for name, array in (constants or {}).items()}
    sources = {name: f"{output}.{name}" for name in arrays}
    return Operation(kind, output, inputs, output, attributes, arrays, sources, "net.py:7")


def norm(output: str, x: str, channels: int, *, eps: float = 1e-3, seed: int = 5) -> Operation:
    rng = np.random.default_rng(seed)
    arrays = {
        "gamma": rng.uniform(-1.5, 1.5, channels),
        "beta": rng.normal(size=channels),
        "mean": rng.normal(size=channels),
        "variance": rng.uniform(0.5, 2.0, channels),
    }
    return op("batch_norm", output, x, constants=arrays, eps=eps, momentum=0.7)


def dense(output: str, x: str, inputs: int, outputs: int = 5) -> Operation:
    rng = np.random.default_rng(inputs)
    return op(
        "dense", output, x, constants={"weight": rng.normal(size=(outputs, inputs)), "bias": rng.normal(size=outputs)}
    )


def pool(kind: str, output: str, x: str, kernel: int = 2, stride: int = 2, padding: int = 0, **more: Any) -> Operation:
    options = {"kernel": (kernel,) * 2, "stride": (stride,) * 2, "padding": (padding,) * 4, **more}
    return op(kind, output, x, **options)


def pad(output: str, x: str, rows: tuple[int, int], columns: tuple[int, int], value: float = 0.0) -> Operation:
    return op("pad", output, x, widths=((0, 0), (0, 0), rows, columns), value=value)


def relu(output: str, x: str) -> Operation:
    return op("clip", output, x, low=0.0, high=None)


def cells(made: Program, tolerance: float = EQUAL) -> list[str]:
    """The kinds of cells of what a program becomes; its numbers are compared on the way."""
    imported = qat.import_model(opened(made), tolerance=tolerance, inputs=real(made))
    return [type(node.cell).__name__ for node in imported.graph.nodes[1:]]


def real(made: Program) -> list[qat.Input]:
    return [qat.Input(spec.shape, dtype="float32") for spec in made.inputs.values()]


def refused(made: Program) -> str:
    with pytest.raises(qat.QatError, match="no cell computes") as error:
        fuse(made)
    assert "\n" not in str(error.value)
    return str(error.value)


SCALE = constant("mul", "c_out", "s", 0.5)


@pytest.mark.parametrize(
    ("operations", "expected"),
    {
        "a layer takes all that follows it alone": (
            [
                conv("c", "x"),
                SCALE,
                constant("add", "s", "b", 1.5),
                norm("n", "b", 4),
                constant("mul", "n", "m", 2.0),
                relu("r", "m"),
            ],
            ["Conv2dBnAct"],
        ),
        "a second normalisation is a cell": (
            [conv("c", "x"), norm("n", "c_out", 4), norm("k", "n", 4)],
            ["Conv2dBnAct", "BatchNorm"],
        ),
        "a normalisation takes an activation": (
            [norm("n", "x", 3), op("activation", "a", "n", function="leaky_relu", alpha=0.3)],
            ["BatchNorm"],
        ),
        "an addition takes a ReLU": (
            [conv("c", "x", 3), op("add", "a", "c_out", "x"), relu("r", "a")],
            ["Conv2dBnAct", "Add"],
        ),
        "an addition takes no hard swish": (
            [conv("c", "x", 3), op("add", "a", "c_out", "x"), op("activation", "h", "a", function="hswish")],
            ["Conv2dBnAct", "Add", "Activation"],
        ),
        "constants alone are a Normalize cell": (
            [
                constant("mul", "x", "a", 2.0),
                constant("add", "a", "b", 1.0),
                constant("mul", "b", "d", [[[3.0]], [[1.0]], [[0.5]]]),
            ],
            ["Normalize"],
        ),
        "zeros around an image go into a convolution": (
            [pad("p", "x", (1, 2), (0, 3)), conv("c", "p")],
            ["Conv2dBnAct"],
        ),
        "zeros twice": (
            [pad("p", "x", (1, 2), (0, 3)), pad("q", "p", (1, 0), (0, 0)), conv("c", "q")],
            ["Conv2dBnAct"],
        ),
        "zeros around numbers that are not negative go into a max pooling": (
            [relu("r", "x"), pad("p", "r", (1, 1), (1, 1)), pool("max_pool2d", "m", "p", 3)],
            ["Activation", "MaxPool2d"],
        ),
        "minus infinity goes into a max pooling": (
            [pad("p", "x", (1, 1), (0, 1), -math.inf), pool("max_pool2d", "m", "p")],
            ["MaxPool2d"],
        ),
        "zeros count in an average pooling": (
            [pad("p", "x", (0, 1), (1, 1)), pool("avg_pool2d", "m", "p", 3)],
            ["AvgPool2d"],
        ),
        "an average pooling with its own zeros": (
            [pool("avg_pool2d", "m", "x", 3, 2, 1, counts_padding=True)],
            ["AvgPool2d"],
        ),
        "a vector's normalisation goes into the dense layer": (
            [op("flatten", "f", "x"), norm("n", "f", 192), constant("mul", "n", "m", 0.3), dense("d", "m", 192)],
            ["Flatten", "DenseBnAct"],
        ),
        "a mean is a pooling and a flatten": (
            [op("mean", "m", "x", axes=(2, 3), keepdims=False), dense("d", "m", 3), op("softmax", "s", "d", axis=-1)],
            ["GlobalAvgPool2d", "Flatten", "DenseBnAct", "Softmax"],
        ),
        "three are joined two by two": (
            [conv("c", "x"), op("concat", "j", "c_out", "x", "c_out", axis=1)],
            ["Conv2dBnAct", "Concat", "Concat"],
        ),
        "what computes nothing is gone": (
            [op("identity", "i", "x"), conv("c", "i"), op("dropout", "o", "c_out", rate=0.5), relu("r", "o")],
            ["Conv2dBnAct"],
        ),
        "of a flattened vector the flatten is nothing": (
            [op("flatten", "f", "x"), op("flatten", "g", "f"), dense("d", "g", 192)],
            ["Flatten", "DenseBnAct"],
        ),
    }.values(),
)
def test_cells_and_numbers(operations: list[Operation], expected: list[str]) -> None:
    assert cells(program(*operations)) == expected


@pytest.mark.parametrize("size", [7, 8, 9])
@pytest.mark.parametrize(("kernel", "stride", "padding"), [(2, 2, 0), (3, 2, 0), (3, 2, 1), (2, 3, 1), (3, 3, 1)])
def test_ceil_mode_is_more_padding_at_the_end(size: int, kernel: int, stride: int, padding: int) -> None:
    made = program(pool("max_pool2d", "m", "x", kernel, stride, padding, ceil=True), shape=(2, size, size))
    assert cells(made) == ["MaxPool2d"]


def test_what_decides_over_numbers_is_carried() -> None:
    """eps, momentum, slope, stride, dilation and groups."""
    layer = conv("c", "x", 6, given=1)
    layer = replace(layer, attributes={"stride": (2, 1), "padding": (2, 1, 0, 2), "dilation": (1, 2), "groups": 3})
    made = program(
        layer, norm("n", "c_out", 6, eps=0.02), op("activation", "a", "n", function="leaky_relu", alpha=0.03)
    )
    imported = qat.import_model(opened(made), tolerance=EQUAL)
    cell = imported.graph.nodes[1].cell
    assert isinstance(cell, qat.Conv2dBnAct)
    assert (cell.eps, cell.momentum, cell.alpha) == (0.02, 0.7, 0.03)
    assert (cell.stride, cell.padding, cell.dilation, cell.group) == ((2, 1), (2, 1, 0, 2), (1, 2), 3)


def test_every_parameter_decides_over_the_comparison() -> None:
    """A source that has other numbers in any parameter is another network, and the comparison finds it."""
    made = program(conv("c", "x"), norm("n", "c_out", 4), relu("r", "n"), op("flatten", "f", "r"), dense("d", "f", 256))
    imported = qat.import_model(opened(made), tolerance=EQUAL)
    assert set(imported.sources) == set(imported.params)
    for name in imported.params:
        imported.params[name] += 0.02
        with pytest.raises(qat.QatError, match="the first node that differs is"):
            imported.compare(tolerance=1e-4)
        imported.params[name] -= 0.02


def test_arrays_of_the_source_keep_their_names() -> None:
    made = program(conv("c", "x"), norm("n", "c_out", 4), constant("mul", "n", "m", 2.0))
    imported = fuse(made)
    assert imported.sources == {
        "c.weight": "c.weight",
        "c.bias": "c.bias",
        "c.moving_mean": "n.mean",
        "c.moving_variance": "n.variance",
    }  # gamma and beta are doubled
    assert imported.values == {"input": "x", "c": "m"}


def test_a_layer_that_is_used_twice_is_one_cell() -> None:
    layer = conv("c", "x", 3)
    again = replace(layer, inputs=("r",), output="again")
    made = replace(program(layer, relu("r", "c_out"), again, relu("s", "again")), ties=True)
    imported = qat.import_model(opened(made), tolerance=EQUAL)
    first, second = imported.graph.nodes[1:]
    assert (first.name, second.name, first.cell_name, second.cell_name) == ("c", "c_2", "c", "c")
    assert set(imported.params) == {"c.weight", "c.bias"}


@pytest.mark.parametrize(
    ("last", "what"),
    [([], "activation"), ([norm("n", "again", 3), relu("s", "n")], "batch normalisation")],
)
def test_a_layer_that_is_used_in_two_ways_is_refused(last: list[Operation], what: str) -> None:
    layer = conv("c", "x", 3)
    again = replace(layer, inputs=("r",), output="again")
    made = program(layer, relu("r", "c_out"), again, *last)
    said = refused(replace(made, ties=True))
    assert f"shares c.weight with c, but has another {what}" in said
    assert len(fuse(made).params) > 2  # where equal arrays were merged by an exporter, each has its own


@pytest.mark.parametrize(
    ("low", "high"), [(None, 50.0), (-50.0, None), (None, 2e4)], ids=["largest", "smallest", "of float16"]
)
def test_a_bound_far_out_is_no_part_of_an_activation(low: float | None, high: float | None) -> None:
    """Samples hardly get there, so that a comparison would not tell."""
    made = program(relu("r", "x"), op("clip", "y", "r", low=low, high=high))
    leaky = program(
        op("clip", "r", "x", low=low, high=high), op("activation", "y", "r", function="leaky_relu", alpha=0.1)
    )
    assert recognised(leaky).operations == leaky.operations
    if low is None:
        assert recognised(made).operations == made.operations
        assert "a clip from none to" in refused(made)


def test_where_exp_overflows_nothing_is_compared() -> None:
    spelled = [
        op("elementwise", "e", "x", function="exp"),
        constant("add", "e", "o", 1.0),
        op("elementwise", "l", "o", function="log"),
    ]
    (found,) = recognised(program(*spelled)).operations
    assert found.attributes["function"] == "softplus"


def test_refusals_come_together_and_each_once() -> None:
    made = program(
        op("pad", "p", "x", widths=((0, 0), (0, 0), (1, 1), (1, 1)), value=1.0),
        conv("c", "p"),
        op("activation", "h", "c_out", function="tanh"),
        op("mul", "g", "h", "c_out"),
        op("clip", "k", "g", low=-1.0, high=1.0),
        conv("e", "k", given=4),
        op("clip", "l", "e_out", low=-1.0, high=1.0),
    )
    said = refused(made)
    assert "has 4 operations" in said
    for what in (
        "a padding with 1, not 0: p (net.py:7)",
        "a multiplication of two values: g",
        "a clip from -1 to 1: k (net.py:7), l",
    ):
        assert what in said


@pytest.mark.parametrize(
    ("operations", "what"),
    [
        (
            [
                op("pad", "p", "x", widths=((0, 0), (0, 0), (1, 1), (1, 1)), value=1.0),
                pool("max_pool2d", "m", "p", 3),
            ],
            "a padding with 1 before a max pooling",
        ),
        (
            [op("pad", "p", "x", widths=((0, 0), (0, 2), (0, 0), (0, 0)), value=0.0), conv("c", "p", given=5)],
            "not only around images",
        ),
        ([pool("avg_pool2d", "m", "x", 3, 2, 1, counts_padding=False)], "whose padding does not count"),
        ([pool("avg_pool2d", "m", "x", 3, 2, 0, counts_padding=True, ceil=True)], "whose last windows are smaller"),
        ([pool("max_pool2d", "m", "x", dilation=(2, 2))], "a max pooling of dilation (2, 2)"),
        ([op("flatten", "f", "x"), norm("n", "f", 192), relu("r", "n")], "a vector that no dense layer stands beside"),
        ([op("mean", "m", "x", axes=(1,), keepdims=True)], "a mean over axes (1,)"),
        ([op("softmax", "s", "x", axis=3)], "a softmax along axis 3"),
        ([constant("mul", "x", "m", np.ones((8, 8)))], "a constant (8, 8), not one for each channel"),
        ([op("elementwise", "e", "x", function="exp")], "exp: e (net.py:7)"),
        ([pool("max_pool2d", "m", "x", 2, 2, 2)], "is as large as the kernel"),
    ],
)
def test_what_no_cell_computes_is_refused_by_name(operations: list[Operation], what: str) -> None:
    values = {"x": (3, 8, 8)} | {each.output: (3, 8, 8) for each in operations} | {"f": (192,), "n": (192,)}
    base = program(relu("y", "x"))
    made = replace(base, operations=tuple(operations), outputs=(operations[-1].output,), shapes=values)
    assert what in refused(made)


@pytest.mark.parametrize(
    "after",
    [[pool("max_pool2d", "m", "p", 3)], [relu("r", "p")], []],
    ids=["a max pooling of numbers that may be less", "an activation", "the end"],
)
def test_zeros_that_no_layer_takes_are_one_of_ones(after: list[Operation]) -> None:
    operations = (pad("p", "x", (1, 2), (0, 1)), *after)
    shapes = {"x": (3, 8, 8), "p": (3, 11, 9), "r": (3, 11, 9), "m": (3, 9, 7)}
    base = program(relu("y", "x"))
    made = replace(base, operations=operations, outputs=(operations[-1].output,), shapes=shapes)
    imported = fuse(made)
    node = next(node for node in imported.graph.nodes if node.name == "p")
    assert node.cell == qat.Conv2dBnAct(3, 3, 1, pad_mode="pad", padding=(1, 2, 0, 1), group=3)
    assert (imported.params["p.weight"] == 1.0).all()


def test_a_same_padding_of_an_average_pooling_does_not_count() -> None:
    same = op("avg_pool2d", "m", "x", kernel=(3, 3), stride=(2, 2), padding="same", counts_padding=False)
    made = replace(program(relu("m", "x")), operations=(same,))
    assert "whose padding does not count" in refused(made)
    assert fuse(
        replace(made, operations=(replace(same, attributes=same.attributes | {"kernel": (2, 2)}),))
    )  # none is there


# -- spelled-out activations ----------------------------------------------------------------------------------------------


def number(kind: str, output: str, x: str, value: float) -> Operation:
    return constant(kind, x, output, value)


def function(output: str, name: str, *inputs: str, **more: Any) -> Operation:
    return op("elementwise", output, *inputs, function=name, **more)


RAMP = [number("add", "a", "x", 3.0), op("clip", "b", "a", low=0.0, high=6.0)]
TANH = [
    function("a", "pow", "x", constants={"e": 3.0}),
    number("mul", "b", "a", 0.044715),
    op("add", "c", "x", "b"),
    number("mul", "d", "c", 0.7978845608),
    op("activation", "e", "d", function="tanh"),
    number("add", "f", "e", 1.0),
    number("mul", "g", "x", 0.5),
    op("mul", "y", "g", "f"),
]


@pytest.mark.parametrize(
    ("operations", "expected"),
    [
        ([*RAMP, number("mul", "y", "b", 1 / 6)], {"function": "hsigmoid"}),
        ([*RAMP, number("mul", "c", "b", 0.16667), op("mul", "y", "x", "c")], {"function": "hswish"}),
        ([*RAMP, op("mul", "c", "b", "x"), number("mul", "y", "c", 1 / 6)], {"function": "hswish"}),
        ([number("mul", "s", "x", 1 / 6), *RAMP, op("mul", "y", "s", "b")], {"function": "hswish"}),
        (
            [number("mul", "a", "x", 0.2), number("add", "b", "a", 0.5), op("clip", "y", "b", low=0.0, high=1.0)],
            {"function": "hard sigmoid", "slope": 0.2, "offset": 0.5},
        ),
        ([op("activation", "s", "x", function="sigmoid"), op("mul", "y", "s", "x")], {"function": "silu"}),
        (
            [
                number("mul", "a", "x", -1.0),
                function("b", "exp", "a"),
                number("add", "c", "b", 1.0),
                function("y", "div", "x", "c"),
            ],
            {"function": "silu"},
        ),
        (
            [
                number("mul", "a", "x", 2**-0.5),
                function("b", "erf", "a"),
                number("add", "c", "b", 1.0),
                op("mul", "d", "c", "x"),
                number("mul", "y", "d", 0.5),
            ],
            {"function": "gelu"},
        ),
        (TANH, {"function": "gelu_tanh"}),
        ([number("mul", "a", "x", 0.1), function("y", "maximum", "a", "x")], {"function": "leaky_relu", "alpha": 0.1}),
    ],
)
def test_spelled_out_activations_are_recognised_by_their_numbers(
    operations: list[Operation], expected: dict[str, Any]
) -> None:
    (found,) = recognised(program(*operations)).operations
    assert (found.kind, found.inputs, found.output) == ("activation", ("x",), "y")
    assert found.attributes == {"spelled_out": True, **expected}
    if expected["function"] in ("hsigmoid", "hswish", "leaky_relu"):
        assert cells(program(*operations), 5e-5) == ["Activation"]  # people write 0.16667
    else:
        assert ", spelled out: y" in refused(program(*operations))


@pytest.mark.parametrize(
    "operations",
    [
        [*RAMP, number("mul", "y", "b", 0.2)],  # up to 1.2
        [number("add", "a", "x", 2.0), RAMP[1], number("mul", "y", "b", 1 / 6)],  # a hard sigmoid, but another offset
        [op("activation", "s", "x", function="sigmoid"), number("add", "b", "x", 1.0), op("mul", "y", "s", "b")],
    ],
)
def test_what_is_close_to_an_activation_is_none(operations: list[Operation]) -> None:
    found = recognised(program(*operations)).operations[-1]
    assert found.attributes.get("function") not in ("hsigmoid", "hswish", "silu")


def test_a_value_that_is_taken_elsewhere_stays() -> None:
    """The ramp of a hard sigmoid is an output too."""
    made = program(*RAMP, number("mul", "y", "b", 1 / 6), outputs=("y", "b"))
    assert [each.kind for each in recognised(made).operations] == ["add", "clip", "mul"]


def test_a_hard_swish_between_layers_goes_into_the_layer() -> None:
    ramp = [number("add", "a", "c_out", 3.0), RAMP[1], number("mul", "h", "b", 1 / 6), op("mul", "y", "h", "c_out")]
    assert cells(program(conv("c", "x"), *ramp, conv("d", "y", given=4))) == ["Conv2dBnAct", "Conv2dBnAct"]


# -- any program ----------------------------------------------------------------------------------------------------------


@st.composite
def programs(draw: st.DrawFn) -> Program:
    """A program of up to ten operations, all of which cells can compute."""
    made: list[Operation] = []
    shapes = {"x": (3, 6, 6)}
    fresh = iter(f"v{count}" for count in range(99))

    def append(each: Operation) -> None:
        made.append(each)
        given = [np.zeros((1, *shapes[name]), np.float32) for name in each.inputs]
        shapes[each.output] = computed(each, given).shape[1:]

    for _ in range(draw(st.integers(1, 10))):
        waiting = {each.output for each in made if each.kind == "pad"}  # for the convolution that takes it
        x = draw(st.sampled_from([name for name in shapes if name not in waiting][-3:]))
        channels, height = shapes[x][0], shapes[x][1]
        name, seed = next(fresh), draw(st.integers(0, 99))
        kind = draw(st.sampled_from(KINDS))
        if kind == "conv":
            append(replace(conv(name, x, draw(st.sampled_from((channels, 4))), given=channels, seed=seed), output=name))
        elif kind == "padded":
            append(pad(name, x, (draw(st.integers(0, 2)), 1), (0, draw(st.integers(0, 2)))))
            append(replace(conv(next(fresh), name, given=channels, seed=seed), output=f"{name}c"))
        elif kind == "norm":
            append(norm(name, x, channels, seed=seed))
        elif kind == "number":
            append(constant(draw(st.sampled_from(("add", "mul"))), x, name, draw(st.sampled_from((0.5, -1.25, 2.0)))))
        elif kind == "channel":
            each = np.random.default_rng(seed).normal(size=(channels, 1, 1))
            append(constant(draw(st.sampled_from(("add", "mul"))), x, name, each))
        elif kind == "clip":
            append(op("clip", name, x, low=0.0, high=draw(st.sampled_from((None, 6.0)))))
        elif kind == "activation":
            append(
                op("activation", name, x, function=draw(st.sampled_from(("sigmoid", "tanh", "hswish", "leaky_relu"))))
            )
        elif kind in ("add", "concat"):
            others = [
                other
                for other in shapes
                if other not in waiting and shapes[other][kind == "concat" :] == shapes[x][kind == "concat" :]
            ]
            inputs = (x, draw(st.sampled_from(others)))
            append(op("add", name, *inputs) if kind == "add" else op("concat", name, *inputs, axis=1))
        elif kind == "pool" and height > 3:
            which = draw(st.sampled_from(("max_pool2d", "avg_pool2d")))
            more = {"counts_padding": True} if which == "avg_pool2d" else {"ceil": draw(st.booleans())}
            append(pool(which, name, x, draw(st.sampled_from((2, 3))), 2, draw(st.integers(0, 1)), **more))
        elif kind == "rest":
            append(op(draw(st.sampled_from(("identity", "dropout"))), name, x))
    last = made[-1].output if made else "x"
    append(op("flatten", "f", last))
    append(dense("d", "f", int(np.prod(shapes[last]))))
    extra = draw(
        st.lists(
            st.sampled_from([each.output for each in made if each.kind not in ("pad", "identity", "dropout")]),
            max_size=2,
            unique=True,
        )
    )
    return program(*made, shape=(3, 6, 6), outputs=tuple(dict.fromkeys(("d", *extra))))


KINDS = ("conv", "padded", "norm", "number", "channel", "clip", "activation", "add", "concat", "pool", "rest")


@settings(max_examples=40, deadline=None, derandomize=True)
@given(programs())
def test_any_program_gives_the_same_numbers(made: Program) -> None:
    imported = qat.import_model(opened(made), inputs=real(made), tolerance=2e-5)
    assert imported.difference is not None
    assert len(imported.graph.nodes) <= len(made.operations) + 1
