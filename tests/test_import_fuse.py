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
        "numbers alone are a function": (
            [
                relu("r", "x"),
                constant("mul", "r", "a", 2.0),
                constant("add", "a", "b", 1.0),
                constant("mul", "b", "d", -3.0),
            ],
            ["Activation", "Activation"],
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
        "three are joined at once": (
            [conv("c", "x"), op("concat", "j", "c_out", "x", "c_out", axis=1)],
            ["Conv2dBnAct", "Concat"],
        ),
        "a join along rows": ([op("concat", "j", "x", "x", axis=-2)], ["Concat"]),
        "a product, a difference, extremes": (
            [
                conv("c", "x", 3),
                op("mul", "a", "c_out", "x"),
                op("sub", "b", "a", "x"),
                op("maximum", "d", "b", "x"),
                op("minimum", "e", "d", "c_out"),
            ],
            ["Conv2dBnAct", "Mul", "Sub", "Maximum", "Minimum"],
        ),
        "a gate of channels": (
            [op("mean", "m", "x", axes=(2, 3), keepdims=True), op("mul", "g", "m", "x"), op("add", "h", "g", "m")],
            ["GlobalAvgPool2d", "Mul", "Add"],
        ),
        "a gate of pixels is spread over the channels": (
            [op("slice", "p", "x", axis=1, start=0, stop=1, step=1), op("mul", "g", "p", "x")],
            ["Slice", "Reshape", "Upsample", "Transpose", "Mul"],
        ),
        "both sides of a difference are spread": (
            [
                op("mean", "m", "x", axes=(2,), keepdims=True),
                op("max", "n", "x", axes=(3,), keepdims=True),
                op("sub", "y", "m", "n"),
            ],
            [
                *("Transpose", "Reshape", "GlobalAvgPool2d", "Reshape", "MaxPool2d"),
                *("Reshape", "Upsample", "Reshape", "Upsample", "Sub"),
            ],
        ),
        "a gated linear unit": (
            [conv("c", "x"), op("glu", "g", "c_out", axis=1)],
            ["Conv2dBnAct", "Slice", "Slice", "Activation", "Mul"],
        ),
        "a PReLU": ([op("prelu", "p", "x", constants={"slope": [0.1, -0.3, 1.5]})], ["PReLU"]),
        "a PReLU of one slope": (
            [conv("c", "x"), op("prelu", "p", "c_out", constants={"slope": 0.3})],
            ["Conv2dBnAct", "PReLU"],
        ),
        "activations with parameters": (
            [
                op("activation", "a", "x", function="elu", alpha=0.4),
                op("activation", "b", "a", function="hard_sigmoid", alpha=0.3, beta=0.1),
                op("clip", "d", "b", low=0.25, high=0.75),
                op("clip", "e", "d", low=None, high=0.5),
                op("clip", "f", "e", low=None, high=math.inf),
            ],
            ["Activation"] * 4,
        ),
        "a layer takes no activation that it has no fields for": (
            [
                conv("c", "x"),
                op("clip", "k", "c_out", low=-1.0, high=2.0),
                conv("d", "k", given=4),
                op("activation", "h", "d_out", function="hard_sigmoid", alpha=0.3, beta=0.1),
                conv("e", "h", given=4),
                op("activation", "g", "e_out", function="gelu"),
            ],
            ["Conv2dBnAct", "Activation", "Conv2dBnAct", "Activation", "Conv2dBnAct"],
        ),
        "what other functions say": (
            [
                op("elementwise", "a", "x", function="abs"),
                op("elementwise", "b", "a", function="neg"),
                op("elementwise", "c", "b", function="exp"),
                op("elementwise", "d", "c", "x", function="sub"),
                op("elementwise", "e", "d", "x", function="maximum"),
                op("elementwise", "f", "e", function="square"),
                op("elementwise", "g", "f", function="sub", constants={"other": 2.0}, constant_first=True),
            ],
            ["Activation", "Activation", "Activation", "Sub", "Maximum", "Mul", "Activation"],
        ),
        "a constant of every number": (
            [constant("add", "x", "a", np.arange(192.0).reshape(3, 8, 8)), constant("mul", "a", "b", np.arange(8.0))],
            ["Reshape", "Normalize", "Reshape"],
        ),
        "a padding with a number": ([pad("p", "x", (1, 2), (0, 3), 1.5), conv("c", "p")], ["Pad", "Conv2dBnAct"]),
        "a padding of channels": (
            [op("pad", "p", "x", widths=((0, 0), (1, 2), (0, 0), (0, 1)), value=2.0), conv("c", "p", given=6)],
            ["Pad", "Conv2dBnAct"],
        ),
        "a reflection": (
            [op("pad", "p", "x", widths=((0, 0), (0, 0), (1, 2), (3, 0)), value=0.0, mode="reflect"), conv("c", "p")],
            ["Pad", "Conv2dBnAct"],
        ),
        "a crop": ([op("pad", "p", "x", widths=((0, 0), (0, 0), (-1, -2), (0, -3)), value=0.0)], ["Slice", "Slice"]),
        "zeros that two layers take": (
            [pad("p", "x", (1, 1), (1, 1)), conv("c", "p", 3), relu("r", "p"), op("mul", "y", "c_out", "r")],
            ["Conv2dBnAct", "Pad", "Activation", "Mul"],
        ),
        "a mean that does not count its zeros": (
            [pool("avg_pool2d", "m", "x", 3, 2, 1, counts_padding=False)],
            ["AvgPool2d"],
        ),
        "zeros before such a mean count": (
            [pad("p", "x", (1, 1), (0, 1)), pool("avg_pool2d", "m", "p", 3, 2, 1, counts_padding=False)],
            ["Pad", "AvgPool2d"],
        ),
        "a shuffle of channels": (
            [conv("c", "x"), op("move", "m", "c_out", parts=(2, 2, 8, 8), axes=(1, 0, 2, 3), shape=(4, 8, 8))],
            ["Conv2dBnAct", "ChannelShuffle"],
        ),
        "channels to pixels in three operations": (
            [
                conv("c", "x"),
                op("reshape", "a", "c_out", shape=(2, 2, 1, 8, 8)),
                op("transpose", "b", "a", axes=(2, 3, 0, 4, 1)),
                op("reshape", "d", "b", shape=(1, 16, 16)),
            ],
            ["Conv2dBnAct", "PixelShuffle"],
        ),
        "there and back is nothing": (
            [
                op("transpose", "a", "x", axes=(1, 2, 0)),
                op("reshape", "b", "a", shape=(64, 3)),
                op("transpose", "c", "b", axes=(1, 0)),
                op("reshape", "d", "c", shape=(3, 8, 8)),
                relu("r", "d"),
            ],
            ["Activation"],
        ),
        "any order of any number of axes": (
            [
                op("reshape", "a", "x", shape=(3, 2, 4, 2, 4)),
                op("transpose", "b", "a", axes=(4, 1, 3, 2, 0)),
                op("reshape", "d", "b", shape=(16, 12)),
            ],
            ["Reshape", "Transpose"] * 4 + ["Reshape"],
        ),
        "parts": (
            [
                op("slice", "a", "x", axis=3, start=1, stop=8, step=3),
                op("select", "b", "a", axis=2, index=4),
                op("stack", "c", "b", "b", axis=-1),
                op("slice", "d", "c", axis=1, start=0, stop=3, step=1),
                relu("r", "d"),
            ],
            ["Slice", "Slice", "Reshape", "Stack", "Activation"],
        ),
        "an upsampling": ([op("upsample", "u", "x", factor=(2, 3))], ["Upsample"]),
        "a dense layer of places": (
            [
                op("flatten", "f", "x"),
                op("reshape", "a", "f", shape=(16, 12)),
                dense("d", "a", 12),
                constant("add", "d", "e", np.arange(5.0)),
                relu("r", "e"),
            ],
            ["Reshape", "Transpose", "Reshape", "Conv2dBnAct", "Reshape", "Transpose"],
        ),
        "a series": (
            [
                op("reshape", "a", "x", shape=(3, 64)),
                replace(
                    conv("c", "a"),
                    constants={"weight": conv("c", "a").constants["weight"][:, :, :1]},
                    attributes={"stride": (1, 2), "padding": (0, 0, 1, 0), "dilation": (1, 2), "groups": 1},
                ),
                norm("n", "c_out", 4),
                op("max_pool2d", "m", "n", kernel=(1, 3), stride=(1, 2), padding=(0, 0, 1, 1)),
                op("max", "y", "m", axes=(2,), keepdims=False),
            ],
            ["Reshape", "Conv2dBnAct", "MaxPool2d", "Reshape", "MaxPool2d", "Flatten"],
        ),
        "a softmax along columns": ([op("softmax", "s", "x", axis=-1)], ["Softmax"]),
        "a vector's normalisation by itself": (
            [op("flatten", "f", "x"), norm("n", "f", 192), relu("r", "n")],
            ["Reshape", "BatchNorm", "Flatten"],
        ),
        "an image that was flattened with channels last is put into the source's order": (
            [op("flatten", "f", "x", channels_last=True), constant("mul", "f", "m", np.arange(192.0))],
            ["Flatten", "Reshape", "Transpose", "Reshape", "Normalize", "Flatten"],
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
        op("pad", "p", "x", widths=((0, 0), (0, 0), (1, 1), (1, 1)), value=-math.inf),
        conv("c", "p"),
        op("activation", "h", "c_out", function="softsign"),
        op("mul", "g", "h", "c_out"),
        op("activation", "k", "x", function="softsign"),
        op("elementwise", "l", "k", function="sqrt"),
        op("elementwise", "m", "x", function="sqrt"),
        outputs=("g", "l", "m"),
    )
    said = refused(made)
    assert "has 5 operations" in said
    for what in (
        "a padding with -inf that is before no max pooling: p (net.py:7)",
        "softsign: h (net.py:7), k (net.py:7)",
        "sqrt: l (net.py:7), m (net.py:7)",
    ):
        assert what in said


@pytest.mark.parametrize(
    ("operations", "what"),
    [
        ([op("pad", "p", "x", widths=((1, 0), (0, 0), (0, 0), (0, 0)), value=0.0)], "not of images or series"),
        ([op("pad", "p", "x", widths=((0, 0), (0, 0), (-1, 1), (0, 0)), value=0.0)], "which crops on one side"),
        ([pool("max_pool2d", "m", "x", dilation=(2, 2))], "a max pooling of dilation (2, 2)"),
        ([op("mean", "m", "x", axes=(0,), keepdims=True)], "a mean over the samples"),
        ([op("mean", "m", "x", axes=(1, 2, 3), keepdims=False)], "which leaves no channels"),
        ([op("softmax", "s", "x", axis=0)], "a softmax along the samples"),
        ([op("concat", "s", "x", "x", axis=0)], "a concatenation along the samples"),
        (
            [op("reshape", "r", "x", shape=(3, 2, 4, 8)), relu("y", "r")],
            "giving (3, 2, 4, 8), which has more axes",
        ),
        ([op("select", "r", "f", axis=1, index=0)], "no channels left"),
        ([op("mul", "m", "x", "f")], "a multiplication of (3, 8, 8) and (192,), of other numbers of axes"),
        ([op("sub", "m", "x", "g")], "a difference of (3, 8, 8) and (5, 8, 8), which do not fit"),
        ([op("elementwise", "e", "x", function="sqrt")], "sqrt: e (net.py:7)"),
        ([op("activation", "e", "x", function="softplus", alpha=2.0)], "softplus: e (net.py:7)"),
        ([constant("mul", "x", "m", np.ones((5, 1, 1)))], "a constant (5, 1, 1) to (3, 8, 8), which does not fit"),
        ([pool("max_pool2d", "m", "x", 2, 2, 2)], "is as large as the kernel"),
        ([op("prelu", "p", "x", constants={"slope": np.ones(2)})], "a PReLU of 2 slopes for 3 channels"),
    ],
)
def test_what_no_cell_computes_is_refused_by_name(operations: list[Operation], what: str) -> None:
    values = {"x": (3, 8, 8)} | {each.output: (3, 8, 8) for each in operations} | {"f": (192,), "g": (5, 8, 8)}
    base = program(relu("y", "x"))
    given = [op("flatten", "f", "x"), conv("g", "x", 5)]
    given[1] = replace(given[1], output="g")
    made = replace(base, operations=(*given, *operations), outputs=(operations[-1].output,), shapes=values)
    assert what in refused(made)


@pytest.mark.parametrize(
    "after",
    [[pool("max_pool2d", "m", "p", 3)], [relu("r", "p")], []],
    ids=["a max pooling of numbers that may be less", "an activation", "the end"],
)
def test_zeros_that_no_layer_takes_are_a_cell(after: list[Operation]) -> None:
    made = program(pad("p", "x", (1, 2), (0, 1)), *after)
    imported = qat.import_model(opened(made), tolerance=EQUAL)
    assert imported.graph.nodes[1].cell == qat.Pad((1, 2, 0, 1))


def test_a_same_padding_of_an_average_pooling_does_not_count() -> None:
    same = op("avg_pool2d", "m", "x", kernel=(3, 3), stride=(2, 2), padding="same", counts_padding=False)
    made = replace(program(relu("m", "x")), operations=(same,))
    assert fuse(made).graph.nodes[1].cell == qat.AvgPool2d((3, 3), (2, 2), "same", count_include_pad=False)
    even = replace(made, operations=(replace(same, attributes=same.attributes | {"kernel": (2, 2)}),))
    assert fuse(even).graph.nodes[1].cell == qat.AvgPool2d((2, 2), (2, 2), "same")  # none is there


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.data())
def test_any_moves_are_cells(data: st.DataObject) -> None:
    """Reshapes and transpositions in any number, of any number of axes in between."""
    sizes = st.lists(st.sampled_from([1, 2, 3, 4, 6]), min_size=1, max_size=3)
    shape = tuple(data.draw(sizes))
    x, made = np.zeros((1, *shape), np.float32), []
    for count in range(data.draw(st.integers(1, 4))):
        before = made[-1].output if made else "x"
        if data.draw(st.booleans()):
            parts, left = [], x.size
            while left > 1 and len(parts) < 4:
                parts.append(data.draw(st.sampled_from([size for size in range(1, left + 1) if left % size == 0])))
                left //= parts[-1]
            made.append(op("reshape", f"v{count}", before, shape=(*parts, left)))
        else:
            made.append(op("transpose", f"v{count}", before, axes=data.draw(st.permutations(range(x.ndim - 1)))))
        x = computed(made[-1], [x])
    rest = (x.shape[1], x.size // x.shape[1])
    made.append(op("reshape", "y", made[-1].output, shape=rest))
    imported = qat.import_model(
        opened(program(*made, shape=shape)), inputs=[qat.Input(shape, dtype="float32")], tolerance=0.0
    )
    assert imported.graph.shapes[imported.graph.outputs[0]] == rest


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
            {"function": "hard_sigmoid", "alpha": 0.2, "beta": 0.5},
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
    assert cells(program(*operations), 5e-5) == ["Activation"]  # people write 0.16667


def test_a_hard_swish_of_any_slope_is_two_cells() -> None:
    ramp = [number("mul", "a", "x", 0.2), number("add", "b", "a", 0.5), op("clip", "c", "b", low=0.0, high=1.0)]
    assert cells(program(*ramp, op("mul", "y", "x", "c"))) == ["Activation", "Mul"]
    steep = [number("mul", "a", "x", 1.702), op("activation", "b", "a", function="sigmoid"), op("mul", "y", "x", "b")]
    assert cells(program(*steep)) == ["Activation", "Activation", "Mul"]


def test_an_unknown_activation_is_said_to_be_spelled_out() -> None:
    parts = [op("elementwise", "a", "x", function="abs"), number("add", "b", "a", 1.0), function("y", "div", "x", "b")]
    assert "softsign, spelled out: y" in refused(program(*parts))


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
        elif kind == "shuffle":
            parts, axes = (channels, height, 1, shapes[x][2]), draw(st.permutations(range(4)))
            shape = tuple(np.array(parts)[list(axes)].tolist())
            append(op("move", name, x, parts=parts, axes=axes, shape=(shape[0], shape[1] * shape[2], shape[3])))
        elif kind == "part":
            axis = draw(st.integers(1, 3))
            append(op("slice", name, x, axis=axis, start=0, stop=(shapes[x][axis - 1] + 1) // 2, step=1))
        elif kind == "turn":
            append(op("transpose", name, x, axes=(0, 2, 1)))
        elif kind == "mean":
            append(op("mean", name, x, axes=(draw(st.integers(1, 3)),), keepdims=True))
        elif kind == "prelu":
            append(op("prelu", name, x, constants={"slope": np.random.default_rng(seed).normal(size=channels)}))
        elif kind in ("add", "mul", "sub", "maximum", "concat"):
            others = [
                other
                for other in shapes
                if other not in waiting and shapes[other][kind == "concat" :] == shapes[x][kind == "concat" :]
            ]
            inputs = (x, draw(st.sampled_from(others)))
            append(op("concat", name, *inputs, axis=1) if kind == "concat" else op(kind, name, *inputs))
        elif kind == "pool" and min(shapes[x][1:]) > 3:
            which = draw(st.sampled_from(("max_pool2d", "avg_pool2d")))
            more = {"ceil": draw(st.booleans())} | (
                {"counts_padding": draw(st.booleans())} if which == "avg_pool2d" else {}
            )
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


KINDS = (
    *(
        "conv",
        "padded",
        "norm",
        "number",
        "channel",
        "clip",
        "activation",
        "add",
        "mul",
        "sub",
        "maximum",
        "concat",
        "pool",
    ),
    *("rest", "shuffle", "part", "turn", "mean", "prelu"),
)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(programs())
def test_any_program_gives_the_same_numbers(made: Program) -> None:
    imported = qat.import_model(opened(made), inputs=real(made), tolerance=2e-5)
    assert imported.difference is not None
