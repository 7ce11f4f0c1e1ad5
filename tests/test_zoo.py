"""Whole networks drawn at random from all cells and all settings: every code of every node is equal everywhere.

NumPy's integers are the reference; PyTorch and ONNX Runtime (the traced file and the file as it is) must give the same.
"""

from __future__ import annotations

import os
import tempfile
import warnings
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

import qat
from qat.cells.linear import NEVER
from qat.errors import QatWarning
from qat.integer import IntegerGraph, evaluate, trace_codes
from qat.training.forward import Forward
from qat.vocabulary.activations import FUSED
from qat.vocabulary.arrays import as_tuple
from qat.vocabulary.numpy_ops import NUMPY_OPS

Array = npt.NDArray[Any]
Shape = tuple[int, ...]
F = np.float32
TORCH, ONNX = qat.backend("torch"), qat.target("ONNX")

EXAMPLES = 2000 if os.environ.get("QAT_FUZZ") else 200
MOST_CHANNELS = 8
LONGEST = 10  #: side of a picture that may still grow
LONGEST_SERIES = 3  #: steps of a recurrence

ACTIVATIONS = st.sampled_from([None, *FUSED[: FUSED.index("exp")], *FUSED[FUSED.index("exp") + 1 :]])
SMALL_PAIRS = st.tuples(st.integers(1, 2), st.integers(1, 2))


class Zoo(qat.Network):
    """Cells by name, and in which order they are used on which values."""

    def __init__(self, *inputs: qat.Input) -> None:
        self.inputs = inputs
        self.cells: dict[str, qat.Cell | qat.Network] = {}
        self.steps: list[tuple[str, str, tuple[str, ...]]] = []  #: value, cell, the values it takes
        self.entries = [f"input_{i}" if i else "input" for i in range(len(inputs))]
        self.shapes: dict[str, Shape] = {name: x.shape for name, x in zip(self.entries, inputs, strict=True)}
        self.more_outputs: list[str] = []  #: values that leave beside the last
        self.features: set[str] = set()

    def construct(self, *inputs):
        values = dict(zip(self.entries, inputs, strict=True))
        for name, cell, sources in self.steps:
            values[name] = self.cells[cell](*(values[source] for source in sources))
        return (values[name], *(values[name] for name in self.more_outputs))

    def use(self, cell: qat.Cell | str, *sources: str) -> str:
        """Append a step of a new cell, or of one used before, by its name; returns the name of its value."""
        if isinstance(cell, qat.Cell):
            self.cells[f"c{len(self.cells)}"] = cell
            cell = f"c{len(self.cells) - 1}"
        return self._append(cell, self.cells[cell].output_shape(*(self.shapes[source] for source in sources)), *sources)

    def recur(self, block: qat.GRU | qat.LSTM, x: str) -> str:
        """Append a block of steps over a series."""
        name, length = f"c{len(self.cells)}", self.shapes[x][1]
        self.cells[name] = block
        return self._append(name, (block.units, length) if block.return_sequences else (block.units,), x)

    def _append(self, cell: str, shape: Shape, *sources: str) -> str:
        value = f"v{len(self.steps)}"
        self.shapes[value] = shape
        self.steps.append((value, cell, sources))
        return value


# -- cells ------------------------------------------------------------------------------------------------------------


@st.composite
def convolutions(draw: st.DrawFn, shape: Shape, **fixed: Any) -> qat.Conv2dBnAct:
    """Any geometry that fits ``shape``; ``fixed``: fields that are given."""
    channels = shape[0]
    group = draw(st.sampled_from([g for g in (1, 2, channels) if channels % g == 0]))
    pad_mode = draw(st.sampled_from(["same", "valid", "pad"]))
    fields: dict[str, Any] = {
        "out_channels": group * draw(st.integers(1, max(1, MOST_CHANNELS // group // 2))),
        "kernel_size": draw(st.tuples(st.integers(1, 3), st.integers(1, 3))),
        "stride": draw(SMALL_PAIRS),
        "pad_mode": pad_mode,
        "padding": draw(st.tuples(*[st.integers(0, 3)] * 4)) if pad_mode == "pad" else 0,
        "dilation": draw(SMALL_PAIRS),
        "group": group,
        "has_bias": draw(st.booleans()),
        "has_bn": draw(st.booleans()),
        "activation": draw(ACTIVATIONS),
        "alpha": draw(st.sampled_from([0.2, 0.01, 1.5])),
    }
    cell = qat.Conv2dBnAct(channels, **(fields | fixed))
    try:
        cell.output_shape(shape)
    except qat.QatError:  # its kernel, dilated, does not fit; a point-wise one always does
        cell = replace(cell, kernel_size=1)
    return cell


@st.composite
def poolings(draw: st.DrawFn, shape: Shape) -> qat.MaxPool2d | qat.AvgPool2d:
    """Overlapping windows, windows with gaps between them, uneven padding."""
    kernel = (draw(st.integers(1, min(3, shape[1]))), draw(st.integers(1, min(3, shape[2]))))
    pad_mode = draw(st.sampled_from(["valid", "same", "pad"]))
    padding: Any = 0
    if pad_mode == "pad":
        rows, columns = st.integers(0, kernel[0] - 1), st.integers(0, kernel[1] - 1)
        padding = (draw(rows), draw(rows), draw(columns), draw(columns))
    stride = draw(st.none() | st.tuples(st.integers(1, 3), st.integers(1, 3)))
    kind = draw(st.sampled_from([qat.MaxPool2d, qat.AvgPool2d]))
    fields = {"ceil_mode": pad_mode != "same" and draw(st.booleans())}
    if kind is qat.AvgPool2d:
        fields["count_include_pad"] = draw(st.booleans())
    cell = kind(kernel, stride, pad_mode, padding, **fields)
    try:
        cell.output_shape(shape)
    except qat.QatError:  # "same" with a stride beyond the kernel
        cell = kind(1)
    return cell


@st.composite
def parts(draw: st.DrawFn, shape: Shape) -> qat.Slice:
    """Any along any axis; what remains is at least one number wide."""
    axis = draw(st.integers(0, len(shape) - 1))
    start = draw(st.integers(0, shape[axis] - 1))
    stop = draw(st.none() | st.integers(start + 1, shape[axis]))
    return qat.Slice(axis, start, stop, draw(st.integers(1, 3)))


@st.composite
def paddings(draw: st.DrawFn, shape: Shape) -> qat.Pad:
    """Zeros, or pixels reflected; further channels, where there is room."""
    if draw(st.booleans()):
        most = [min(2, size - 1) for size in (shape[1], shape[1], shape[2], shape[2])]
        return qat.Pad(draw(st.tuples(*(st.integers(0, each) for each in most))), mode="reflect")
    channels = draw(SMALL_PAIRS) if shape[0] < MOST_CHANNELS and draw(st.booleans()) else (0, 0)
    return qat.Pad(draw(st.tuples(*[st.integers(0, 2)] * 4)), channels=channels)


@st.composite
def transposed_convolutions(draw: st.DrawFn, shape: Shape) -> qat.ConvTranspose2dBnAct:
    """Any geometry, also one that cuts much of its output."""
    channels = shape[0]
    group = draw(st.sampled_from([g for g in (1, 2, channels) if channels % g == 0]))
    kernel, stride, dilation = (draw(st.tuples(st.integers(1, n), st.integers(1, n))) for n in (4, 3, 2))
    sides = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True) for _ in range(2)]
    more = [st.integers(0, max(s, d) - 1) for s, d in zip(stride, dilation, strict=True)]
    cell = qat.ConvTranspose2dBnAct(
        channels,
        group * draw(st.integers(1, max(1, MOST_CHANNELS // group // 2))),
        kernel,
        stride,
        draw(st.tuples(*(st.integers(0, side) for side in sides))),
        draw(st.tuples(*more)),
        dilation,
        group,
        has_bias=draw(st.booleans()),
        has_bn=draw(st.booleans()),
        activation=draw(ACTIVATIONS),
    )
    try:
        cell.output_shape(shape)
    except qat.QatError:  # nothing is left
        cell = replace(cell, padding=0)
    return cell


@st.composite
def convolutions_of_series(draw: st.DrawFn, shape: Shape, **fixed: Any) -> qat.Conv1dBnAct:
    """Any geometry that fits ``shape``; ``fixed``: fields that are given."""
    channels = shape[0]
    group = draw(st.sampled_from([g for g in (1, 2, channels) if channels % g == 0]))
    pad_mode = draw(st.sampled_from(["same", "valid", "pad", "causal"]))
    fields: dict[str, Any] = {
        "out_channels": group * draw(st.integers(1, max(1, MOST_CHANNELS // group // 2))),
        "kernel_size": draw(st.integers(1, 4)),
        "stride": draw(st.integers(1, 3)),
        "pad_mode": pad_mode,
        "padding": draw(st.tuples(st.integers(0, 3), st.integers(0, 3))) if pad_mode == "pad" else 0,
        "dilation": draw(st.integers(1, 3)),
        "group": group,
        "has_bias": draw(st.booleans()),
        "has_bn": draw(st.booleans()),
        "activation": draw(ACTIVATIONS),
        "alpha": draw(st.sampled_from([0.2, 0.01, 1.5])),
    }
    cell = qat.Conv1dBnAct(channels, **(fields | fixed))
    try:
        cell.output_shape(shape)
    except qat.QatError:  # its kernel, dilated, does not fit; a point-wise one always does
        cell = replace(cell, kernel_size=1)
    return cell


@st.composite
def poolings_of_series(draw: st.DrawFn, shape: Shape) -> qat.Cell:
    kind: Any = draw(st.sampled_from([qat.MaxPool1d, qat.AvgPool1d, qat.GlobalAvgPool1d, qat.GlobalMaxPool1d]))
    if kind in (qat.GlobalAvgPool1d, qat.GlobalMaxPool1d):
        globally: qat.Cell = kind()
        return globally
    kernel, pad_mode = draw(st.integers(1, min(3, shape[1]))), draw(st.sampled_from(["valid", "same", "pad"]))
    side = st.integers(0, kernel - 1)
    fields: dict[str, Any] = {"padding": (draw(side), draw(side)) if pad_mode == "pad" else 0}
    fields["ceil_mode"] = pad_mode != "same" and draw(st.booleans())
    if kind is qat.AvgPool1d:
        fields["count_include_pad"] = draw(st.booleans())
    cell: qat.Cell = kind(kernel, draw(st.none() | st.integers(1, 3)), pad_mode, **fields)
    try:
        cell.output_shape(shape)
    except qat.QatError:  # "same" with a stride beyond the kernel
        cell = kind(1)
    return cell


def upsamplings(shape: Shape) -> st.SearchStrategy[qat.Upsample]:
    return st.builds(qat.Upsample, SMALL_PAIRS)


def transpositions(shape: Shape) -> st.SearchStrategy[qat.Transpose]:
    return st.builds(qat.Transpose, st.permutations(range(len(shape))).map(tuple))


@st.composite
def reshapings(draw: st.DrawFn, shape: Shape) -> qat.Reshape:
    """To one, two or three axes, of which none is long where there are several."""
    numbers, sizes = int(np.prod(shape)), []
    for _ in range(draw(st.integers(0, 2))):
        sizes.append(draw(st.sampled_from([n for n in range(1, 2 * MOST_CHANNELS + 1) if numbers % n == 0])))
        numbers //= sizes[-1]
    return qat.Reshape((*sizes, numbers)) if numbers <= 2 * MOST_CHANNELS else qat.Reshape((-1,))


@st.composite
def shuffles(draw: st.DrawFn, shape: Shape) -> qat.Cell:
    """Of channels and pixels, as far as the numbers of both allow."""
    order = draw(st.sampled_from(["crd", "dcr"]))
    fits: list[qat.Cell] = [qat.ChannelShuffle(g) for g in range(1, shape[0] + 1) if shape[0] % g == 0]
    if shape[0] % 4 == 0 and max(shape[1:]) <= LONGEST:
        fits += [qat.PixelShuffle(2, order)] * 3
    for r in (2, 3):
        if shape[1] % r == shape[2] % r == 0 and shape[0] * r * r <= 4 * MOST_CHANNELS:
            fits += [qat.PixelUnshuffle(r, order)] * 3
    return draw(st.sampled_from(fits))


def keeps_shape(channels: int, out_channels: int | None = None) -> dict[str, Any]:
    """Fields of a convolution whose output is as large as its input, with as many channels as said."""
    return {
        "out_channels": out_channels or channels,
        "stride": 1,
        "pad_mode": "same",
        "padding": 0,
        "group": 1,
    }


#: Convolutions and poolings for samples of so many axes.
OF_RANK: dict[int, Any] = {2: (convolutions_of_series, poolings_of_series), 3: (convolutions, poolings)}

# -- inputs -----------------------------------------------------------------------------------------------------------

INPUTS = ("pixels", "normalised channels", "codes", "words", "real numbers")


@st.composite
def entries(draw: st.DrawFn) -> tuple[qat.Input, str]:
    """Pixels of one normalisation, as most often; of one for each channel; codes of a given grid; words; real numbers."""
    size = st.integers(1, 10)
    shape: Shape = (draw(st.integers(1, 4)), draw(size), draw(size))
    if draw(st.sampled_from([False, False, False, True])):
        shape = (shape[0], shape[1] * shape[2])
    means, stds = st.sampled_from([0.0, 0.1307, 0.5, 1.0]), st.sampled_from([0.05, 0.3081, 1.0])
    kind = draw(st.sampled_from([*INPUTS[:1] * 4, *INPUTS]))
    if kind == "pixels":
        return qat.Input(shape, mean=draw(means), std=draw(stds)), kind
    if kind == "normalised channels":
        mean, std = (draw(st.tuples(*[each] * shape[0])) for each in (means, stds))
        return qat.Input(shape, mean=mean, std=std), kind
    if kind == "real numbers":
        return qat.Input(shape, dtype="float32"), kind
    dtype = draw(st.sampled_from(["uint8", "int8"] if kind == "codes" else ["uint16", "int16"]))
    zero_point = draw(st.sampled_from([0, 3, 83]))
    return qat.Input(shape, dtype=dtype, scale=draw(st.sampled_from([0.0031, 0.25])), zero_point=zero_point), kind


def samples_for(entry: qat.Input, count: int, rng: np.random.Generator) -> Array:
    """Any that an input takes."""
    shape = (count, *entry.shape)
    if entry.dtype == "float32":
        return rng.normal(0.2, 10.0 ** rng.integers(-3, 4), shape).astype(F)
    info = np.iinfo(entry.dtype)
    return rng.integers(info.min, info.max + 1, shape, entry.dtype)


# -- networks ---------------------------------------------------------------------------------------------------------

IMAGE_STEPS = (
    "convolution",
    "depthwise",
    "transposed convolution",
    "batch norm",
    "normalization",
    "constant channel",
    "pooling",
    "pooling",
    "bilinear upsampling",
    "adaptive mean",
    "reduction",
    "global mean",
    "activation",
    "trained slopes",
    "dropout",
    "residual",
    "projected residual",
    "same tensor twice",
    "chain of additions",
    "addition of the input",
    "addition of any two",
    "gate",
    "square",
    "product of any two",
    "difference",
    *("extreme", "extreme"),
    "factor and shift",
    "matrix product",
    "channel norm",
    "concatenation",
    "concatenation of any two",
    *("move", "move", "series", "series"),
    "pixel shuffle",
    "same cell twice",
    "recurrence",
    "softmax",
    *("flatten", "flatten", "flatten"),
)
ELEMENTWISE = ("product of any two", "difference", "extreme", "factor and shift", "channel norm")
ROW_STEPS = (
    *("dense", "dense", "dense"),
    *("activation", "dropout", "same tensor twice", "residual", "concatenation", "softmax", "move"),
    *ELEMENTWISE,
)
SERIES_STEPS = (
    *("convolution", "convolution", "depthwise", "batch norm", "normalization", "pooling", "pooling", "residual"),
    *("reduction", "recurrence", "recurrence", "matrix product", "channel norm"),
    *("activation", "dropout", "same tensor twice", "softmax", "flatten", "move", "move", "move"),
)
ADD_ACTIVATIONS = st.sampled_from([None, "relu", "relu6"])


@st.composite
def networks(draw: st.DrawFn) -> Zoo:
    """One to seven steps from anywhere to anywhere, then perhaps a dense layer."""
    inputs, kinds = zip(*[draw(entries()) for _ in range(draw(st.sampled_from([1, 1, 1, 2])))], strict=True)
    zoo = Zoo(*inputs)
    zoo.features.update(kinds)
    if len(inputs) == 2:
        zoo.features.add("two inputs")
    x = "input"
    for _ in range(draw(st.sampled_from([1, 2, 3, 4, 5, 6, 7]))):
        x = draw(st.sampled_from([x] * 8 + list(zoo.shapes)))
        rank = len(zoo.shapes[x])
        step = draw(st.sampled_from({1: ROW_STEPS, 2: SERIES_STEPS, 3: IMAGE_STEPS}[rank]))
        zoo.features.update([step, "a series"] if rank == 2 else [step])
        x = _row_step(draw, zoo, x, step) if rank == 1 else _image_step(draw, zoo, x, step)
    linear = (qat.Conv1dBnAct, qat.Conv2dBnAct, qat.ConvTranspose2dBnAct, qat.DenseBnAct, qat.BatchNorm)
    if draw(st.booleans()) or not any(isinstance(cell, linear) for cell in zoo.cells.values()):
        if len(zoo.shapes[x]) > 1:
            x = zoo.use(qat.Flatten(), x)
        x = zoo.use(draw(denses(zoo.shapes[x])), x)
    zoo.more_outputs = draw(
        st.sampled_from([[], [], [], draw(st.lists(st.sampled_from(list(zoo.shapes)), max_size=2))])
    )
    if zoo.more_outputs:
        zoo.features.add("several outputs")
    return zoo


@st.composite
def denses(draw: st.DrawFn, shape: Shape) -> qat.DenseBnAct:
    return qat.DenseBnAct(
        shape[0],
        draw(st.integers(1, 6)),
        draw(st.booleans()),
        draw(st.booleans()),
        activation=draw(ACTIVATIONS),
    )


def _image_step(draw: st.DrawFn, zoo: Zoo, x: str, step: str) -> str:
    shape = zoo.shapes[x]
    channels = shape[0]
    convolutions, poolings = OF_RANK[len(shape)]
    add = qat.Add(draw(ADD_ACTIVATIONS)) if "residual" in step or "addition" in step or "twice" in step else qat.Add()
    if step == "convolution":
        return zoo.use(draw(convolutions(shape)), x)
    if step == "depthwise":
        cell = draw(convolutions(shape, group=channels, out_channels=channels))
        return zoo.use(cell, x)
    if step == "transposed convolution" and max(shape[1:]) <= LONGEST:
        return zoo.use(draw(transposed_convolutions(shape)), x)
    if step == "bilinear upsampling" and max(shape[1:]) <= LONGEST:
        factors = draw(
            st.tuples(*[st.sampled_from([1, 2, 3, 4])] * 2) | st.just((7, 2))
        )  # (7, 2) takes two convolutions
        return zoo.use(qat.UpsampleBilinear(factors, draw(st.booleans())), x)
    if step == "adaptive mean":
        return zoo.use(qat.AdaptiveAvgPool2d(draw(st.tuples(*[st.integers(1, 5)] * 2))), x)
    if step == "reduction":
        axes = draw(st.lists(st.integers(0, len(shape) - 1), min_size=1, unique=True))
        return zoo.use(draw(st.sampled_from([qat.Mean, qat.Max]))(tuple(axes), draw(st.booleans())), x)
    if step == "batch norm":
        return zoo.use(qat.BatchNorm(channels, activation=draw(ACTIVATIONS)), x)
    if step == "normalization":
        factors, shifts = (draw(st.tuples(*[st.sampled_from([-1.5, 0.25, 1.0])] * channels)) for _ in range(2))
        return zoo.use(qat.Normalize(factors, shifts), x)
    if step == "constant channel" and channels < MOST_CHANNELS:
        return zoo.use(qat.ConstantChannel(0.0), x)  # of any other number not every grid has a code
    if step == "pooling":
        return zoo.use(draw(poolings(shape)), x)
    if step == "global mean":
        return zoo.use(draw(st.sampled_from([qat.GlobalAvgPool2d, qat.GlobalMaxPool2d]))(), x)
    if step == "activation":
        return zoo.use(qat.Activation(draw(ACTIVATIONS.filter(bool)), draw(st.sampled_from([0.2, 1.5]))), x)
    if step == "trained slopes":
        return zoo.use(qat.PReLU(channels), x)
    if step == "dropout":
        return zoo.use(qat.Dropout(draw(st.sampled_from([0.0, 0.3, 0.9]))), x)
    if step == "softmax":
        return zoo.use(qat.Softmax(draw(st.integers(0, len(shape) - 1))), x)
    if step == "residual":
        y = zoo.use(draw(convolutions(shape, **keeps_shape(channels))), x)
        return zoo.use(add, *draw(st.permutations([x, y])))
    if step == "projected residual":
        out, stride = draw(st.integers(1, MOST_CHANNELS)), draw(SMALL_PAIRS)
        fields = keeps_shape(channels, out) | {"stride": stride}
        y = zoo.use(draw(convolutions(shape, **fields)), x)
        z = zoo.use(draw(convolutions(shape, **fields, kernel_size=1, dilation=1)), x)
        return zoo.use(add, y, z)
    if step == "same tensor twice":
        return zoo.use(add, x, x)
    if step == "chain of additions":
        y = zoo.use(draw(convolutions(shape, **keeps_shape(channels))), x)
        for _ in range(draw(st.integers(2, 3))):
            x, y = y, zoo.use(replace(add), y, x)
        return y
    if step == "addition of the input":
        entry = zoo.shapes["input"]
        y = zoo.use(draw(OF_RANK[len(entry)][0](entry, **keeps_shape(entry[0]))), "input")
        return zoo.use(add, *draw(st.permutations(["input", y])))
    if step in ELEMENTWISE:
        return _elementwise_step(draw, zoo, x, step)
    if step == "series":
        return zoo.use(qat.Reshape((channels, -1)), x)
    if step == "matrix product" and max(shape[-2:]) <= LONGEST:
        return _matrix_product(draw, zoo, x)
    if step == "addition of any two":
        return zoo.use(add, x, draw(st.sampled_from([name for name, s in zoo.shapes.items() if s == shape])))
    if step == "gate":
        gate = zoo.use(draw(convolutions((channels, 1, 1), **keeps_shape(channels))), zoo.use(qat.GlobalAvgPool2d(), x))
        return zoo.use(draw(st.sampled_from([qat.Mul(), add, qat.Sub()])), *draw(st.permutations([x, gate])))
    if step == "square":
        return zoo.use(qat.Mul(), x, x)
    if step == "concatenation" and channels < 2 * MOST_CHANNELS:
        y = zoo.use(draw(convolutions(shape, **keeps_shape(channels, draw(st.integers(1, 4))))), x)
        return zoo.use(qat.Concat(), *draw(st.permutations([x, y, *draw(st.sampled_from([[], [y], [x, y]]))])))
    if step == "concatenation of any two" and channels < 2 * MOST_CHANNELS:
        fits = [name for name, s in zoo.shapes.items() if s[1:] == shape[1:] and s[0] <= MOST_CHANNELS]
        return zoo.use(qat.Concat(), x, draw(st.sampled_from([*fits, x])))
    if step == "move":
        return _move(draw, zoo, x)
    if step == "pixel shuffle" and max(shape[1:]) <= LONGEST:
        orders = st.sampled_from(["crd", "dcr"])
        y = zoo.use(draw(convolutions(shape, **keeps_shape(channels, 4))), x)
        y = zoo.use(qat.PixelShuffle(2, draw(orders)), y)
        return zoo.use(qat.PixelUnshuffle(2, draw(orders)), y) if draw(st.booleans()) else y
    if step == "recurrence":
        return _recurrence(draw, zoo, x)
    if step == "same cell twice":
        y = zoo.use(draw(convolutions(shape, **keeps_shape(channels))), x)
        return zoo.use(zoo.steps[-1][1], y)
    return zoo.use(qat.Flatten(), x)


def _move(draw: st.DrawFn, zoo: Zoo, x: str) -> str:
    """One of the cells that move numbers, as far as its output does not grow beyond what is quick."""
    shape = zoo.shapes[x]
    kinds = ["part", "reshaping"]
    if len(shape) > 1:
        kinds += ["join"] if max(shape[1:]) <= LONGEST else []
        kinds += ["transposition"] if max(shape) <= 2 * MOST_CHANNELS else []
    if len(shape) == 3:
        kinds += ["shuffle", "shuffle"]  # of three cells
        kinds += ["padding", "upsampling"] if max(shape[1:]) <= LONGEST else []
    elif max(shape) <= 2 * MOST_CHANNELS:
        kinds += ["stack"] * 3  # series and rows are rare
    kind = draw(st.sampled_from(kinds))
    if kind in ("join", "stack"):
        fits = [name for name, s in zoo.shapes.items() if s == shape]
        others = draw(st.lists(st.sampled_from(fits), min_size=1, max_size=2))
        axis = st.integers(1, len(shape) - 1) if kind == "join" else st.integers(0, len(shape))
        return zoo.use((qat.Concat if kind == "join" else qat.Stack)(draw(axis)), x, *others)
    drawn = {"part": parts, "shuffle": shuffles, "padding": paddings, "upsampling": upsamplings}
    drawn |= {"reshaping": reshapings, "transposition": transpositions}
    return zoo.use(draw(drawn[kind](shape)), x)


def _matrix_product(draw: st.DrawFn, zoo: Zoo, x: str) -> str:
    """Of any that fits, itself at least, transposed so that it does."""
    shape = zoo.shapes[x]
    transposed = draw(st.booleans())
    k = shape[-2 if transposed else -1]
    fits = [
        (name, s[-2] != k or (draw(st.booleans()) and s[-1] == k))
        for name, s in zoo.shapes.items()
        if len(s) == len(shape) and s[:-2] == shape[:-2] and k in s[-2:] and max(s[-2:]) <= LONGEST
    ]
    other, turned = draw(st.sampled_from(fits))
    return zoo.use(qat.MatMul(transposed, turned), x, other)


def _elementwise_step(draw: st.DrawFn, zoo: Zoo, x: str, step: str) -> str:
    """Of images and rows alike."""
    equal = st.sampled_from([name for name, shape in zoo.shapes.items() if shape == zoo.shapes[x]])
    if step == "product of any two":
        return zoo.use(qat.Mul(), x, draw(equal))
    if step == "channel norm":
        channels = zoo.shapes[x][0]
        groups = [qat.GroupNorm(channels, n) for n in range(1, channels + 1) if channels % n == 0]
        return zoo.use(draw(st.sampled_from([qat.LayerNorm(channels), qat.RMSNorm(channels), *groups])), x)
    if step in ("difference", "extreme"):
        kinds = [qat.Sub()] if step == "difference" else [qat.Maximum(), qat.Minimum()]
        return zoo.use(draw(st.sampled_from(kinds)), x, draw(equal))
    numbers = st.sampled_from([-1.5, 0.25, 1.0])
    return zoo.use(qat.Activation("linear", draw(numbers), draw(numbers)), x)


def _recurrence(draw: st.DrawFn, zoo: Zoo, x: str) -> str:
    """A GRU or LSTM over the first steps of a series, or over the first pixels of a picture."""
    if len(zoo.shapes[x]) == 3:
        x = zoo.use(qat.Reshape((zoo.shapes[x][0], -1)), x)
    if zoo.shapes[x][1] > LONGEST_SERIES:
        x = zoo.use(qat.Slice(1, stop=LONGEST_SERIES), x)
    kind, booleans = draw(st.sampled_from([qat.GRU, qat.LSTM])), st.booleans()
    options = {"return_sequences": draw(booleans), "reverse": draw(booleans), "bias": draw(booleans)}
    if kind is qat.GRU:
        options["reset_after"] = draw(booleans)
    return zoo.recur(kind(zoo.shapes[x][0], draw(st.integers(1, 3)), **options), x)


def _row_step(draw: st.DrawFn, zoo: Zoo, x: str, step: str) -> str:
    shape = zoo.shapes[x]
    if step in ELEMENTWISE:
        return _elementwise_step(draw, zoo, x, step)
    if step == "activation":
        return zoo.use(qat.Activation(draw(ACTIVATIONS.filter(bool))), x)
    if step == "dropout":
        return zoo.use(qat.Dropout(0.3), x)
    if step == "same tensor twice":
        return zoo.use(qat.Add(draw(ADD_ACTIVATIONS)), x, x)
    if step == "softmax":
        return zoo.use(qat.Softmax(), x)
    if step == "residual":
        y = zoo.use(replace(draw(denses(shape)), out_channels=shape[0]), x)
        return zoo.use(qat.Add(draw(ADD_ACTIVATIONS)), x, y)
    if step == "concatenation":
        return zoo.use(qat.Concat(), x, zoo.use(draw(denses(shape)), x))
    if step == "move":
        return _move(draw, zoo, x)
    return zoo.use(draw(denses(shape)), x)


# -- settings and parameters ------------------------------------------------------------------------------------------

FOLDS = {
    "two_conv": {"bn_fold": True, "one_conv_fold": False},
    "one_conv": {"bn_fold": True, "one_conv_fold": True},
    "no fold": {"bn_fold": False},
}
DEGENERATE = (
    "gamma 0",
    "gamma below 0",
    "gamma 1e-9",
    "zero channel",
    "all weights zero",
    "large bias",
    "dead channel",
)
PAIR_OF_BOOLEANS = st.tuples(st.booleans(), st.booleans())


@dataclass(frozen=True)
class Setup:
    """A quantized network with parameters and ranges, and pixels to evaluate it on."""

    graph: qat.Graph
    params: dict[str, Array] = field(repr=False)
    pixels: tuple[Array, ...] = field(repr=False)
    features: frozenset[str]
    note: str = ""  #: how it was made, for whoever sees it fail

    @property
    def integer(self) -> IntegerGraph:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", QatWarning)  # ranges that are unlike
            return qat.to_integer(self.graph, self.params)


@st.composite
def setups(draw: st.DrawFn) -> Setup:
    """A network, quantized in any way, with parameters of any kind and the ranges that one training step observed."""
    zoo = draw(networks())
    fold = draw(st.sampled_from(list(FOLDS)))
    options: dict[str, Any] = {
        "num_bits": (draw(st.integers(2, 8)), draw(st.integers(2, 8))),
        "per_channel": (draw(st.booleans()), False),
        "symmetric": draw(PAIR_OF_BOOLEANS),
        "narrow_range": draw(PAIR_OF_BOOLEANS),
        "freeze_bn": draw(st.sampled_from([NEVER, 0, 1])),
    } | FOLDS[fold]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", QatWarning)  # a normalisation that becomes a layer
        graph = qat.convert_quant_network(zoo, **options)
    kinds = draw(st.frozensets(st.sampled_from(DEGENERATE)))
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    params = random_params(graph, rng, kinds)
    count = draw(st.integers(3, 5))
    pixels = tuple(samples_for(x, count, rng) for x in zoo.inputs)
    by = draw(st.sampled_from(["numpy", "torch"]))
    params = (after_numpy_step if by == "numpy" else after_torch_step)(graph, params, pixels)
    features = zoo.features | {type(cell).__name__ for cell in zoo.cells.values()} | {fold, by} | kinds
    return Setup(graph, params, pixels, frozenset(features), f"{options}, {sorted(kinds)}, {by}\n{graph}")


def random_params(graph: qat.Graph, rng: np.random.Generator, kinds: frozenset[str]) -> dict[str, Array]:
    params = graph.initial_params(int(rng.integers(1000)))
    for name, array in params.items():
        local = name.rpartition(".")[2]
        some = rng.integers(array.shape[0]) if array.ndim else 0
        if local == "weight":
            if "zero channel" in kinds:
                array[some] = 0
            if "all weights zero" in kinds and rng.random() < 0.3:
                array[:] = 0
        elif local == "bias":
            array[:] = rng.normal(0, 0.5, array.shape)
            if "large bias" in kinds:
                array[some] = rng.choice([-1.0, 1.0]) * 10.0 ** rng.integers(2, 7)
        elif local == "slope":
            array[:] = rng.normal(0, 0.7, array.shape)
        elif local == "gamma":
            array[:] = rng.normal(1, 0.4, array.shape)
            for kind, value in (("gamma below 0", -0.7), ("gamma 0", 0.0), ("gamma 1e-9", 1e-9)):
                if kind in kinds:
                    array[rng.integers(len(array))] = value
        elif local in ("beta", "moving_mean"):
            array[:] = rng.normal(0, 0.5, array.shape)
            if "dead channel" in kinds:
                array[some] = -20.0 if local == "beta" else 0.0
        elif local == "moving_variance":
            array[:] = rng.uniform(0.05, 3.0, array.shape)
            if "dead channel" in kinds:
                array[some] = 0.0
    return params


def after_numpy_step(graph: qat.Graph, params: dict[str, Array], pixels: tuple[Array, ...]) -> dict[str, Array]:
    tensors = {name: NUMPY_OPS.from_numpy(params[name], param.kind) for name, param in graph.params.items()}
    run = Forward(graph, NUMPY_OPS)
    _, updates = run(tensors, tuple(x.astype(F) for x in pixels), training=True, phase=run.phase(0))
    return params | {name: np.asarray(value, F).reshape(params[name].shape) for name, value in updates.items()}


def after_torch_step(graph: qat.Graph, params: dict[str, Array], pixels: tuple[Array, ...]) -> dict[str, Array]:
    TORCH.seed(0)
    model = TORCH.lower(graph, params).train()
    with torch.no_grad():
        model(*(torch.from_numpy(x) for x in pixels))
    return TORCH.read(model)


# -- the comparison ---------------------------------------------------------------------------------------------------


def differences(setup: Setup, computed: Setup, folder: Path) -> list[str]:
    """Where engines that compute ``computed`` differ from NumPy's integers of ``setup``: engine, node and how much."""
    graph, deployed = setup.integer, computed.integer
    names = [node.name for node in graph.nodes]
    tensors = [node.output for node in deployed.nodes]
    reference = trace_codes(graph, setup.pixels, names, batch_size=2)
    outputs = {x.name: codes for x, codes in zip(graph.outputs, as_tuple(evaluate(graph, setup.pixels)), strict=True)}
    for name, codes in outputs.items():
        np.testing.assert_array_equal(codes, reference[name])
    path = folder / "network.onnx"
    ONNX.export(deployed, path)
    ONNX.export(deployed, folder / "uint8.onnx", weights="uint8")
    of_uint8 = as_tuple(ONNX.predict(folder / "uint8.onnx", setup.pixels))
    model = TORCH.lower(computed.graph, computed.params)
    by_onnx = ONNX.trace(path, setup.pixels, tensors)
    assert set(by_onnx) >= set(names) - {x.name for x in graph.inputs}
    real = as_tuple(ONNX.predict(path, setup.pixels))
    by_torch = as_tuple(TORCH.predict_codes(model, setup.pixels))
    found = {
        "torch": TORCH.trace(model, setup.pixels, tensors),
        "torch, output": {x.name: codes for x, codes in zip(graph.outputs, by_torch, strict=True)},
        "ONNX Runtime": by_onnx,
        "ONNX Runtime, output": {x.name: x.grid.codes_of(y) for x, y in zip(deployed.outputs, real, strict=True)},
        "ONNX Runtime, uint8 weights": {
            x.name: x.grid.codes_of(y) for x, y in zip(deployed.outputs, of_uint8, strict=True)
        },
    }
    assert set(found["torch"]) == set(names)
    result = []
    for engine, codes in found.items():
        for name, array in codes.items():
            assert array.shape == reference[name].shape, f"{engine}, {name}"
            off = array.astype(np.int64) - reference[name]
            if off.any():
                result.append(f"{engine}, {name}: {(off != 0).sum()} of {off.size}, by up to {np.abs(off).max()}")
    return result


#: What the 200 networks must have in them, one with another.
EVERYTHING = {
    *IMAGE_STEPS,
    *ROW_STEPS,
    "a series",
    *FOLDS,
    *DEGENERATE,
    "numpy",
    "torch",
    *(
        "Activation",
        "Add",
        "AvgPool2d",
        "BatchNorm",
        "Concat",
        "Conv2dBnAct",
        "DenseBnAct",
        "Dropout",
        "Flatten",
        "Mul",
    ),
    *("Sub", "Maximum", "Minimum", "PReLU"),
    *("GlobalAvgPool2d", "MaxPool2d", "Softmax", "Normalize", "ConstantChannel"),
    *INPUTS,
    *("two inputs", "several outputs"),
}


def test_every_node_of_every_network_has_equal_codes_everywhere() -> None:
    seen: set[str] = set()

    def check(setup: Setup) -> None:
        seen.update(setup.features)
        with tempfile.TemporaryDirectory() as folder:
            found = differences(setup, setup, Path(folder))
        assert not found, "\n".join([*found, setup.note])

    limits = settings(max_examples=EXAMPLES, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
    for number in range(4):  # networks that are drawn in a row are alike, so that now and then one run lacks something
        seed(number)(limits(given(setups())(check)))()
        if seen >= EVERYTHING:
            break
    assert seen >= EVERYTHING, f"never drawn: {EVERYTHING - seen}"


@pytest.mark.parametrize("symmetric", [False, True], ids=["unsigned", "signed"])
def test_an_addition_whose_output_was_always_zero_in_training(symmetric: bool, tmp_path: Path) -> None:
    """Its scale is the smallest, 2^-60, and whatever is not 0 in evaluation has the highest code.

    ONNX Runtime's QLinearAdd converts sum * (s / s_y) to int32 before it clips, so that 2^31 and more become the lowest.
    """
    zoo = Zoo(qat.Input((1, 2, 2)))
    x = zoo.use(qat.Conv2dBnAct(1, 1, 1), "input")
    zoo.use(qat.Add("relu"), x, x)
    graph = qat.convert_quant_network(zoo, symmetric=(True, symmetric))
    params = graph.initial_params() | {
        "cells.c0.weight": np.ones((1, 1, 1, 1), F),
        "cells.c0.fake_quant.min": np.array(-1, F),
        "cells.c0.fake_quant.max": np.array(1, F),
        "cells.c1.fake_quant.max": np.array(0, F),
    }
    pixels = np.array([0, 3, 100, 255], np.uint8).reshape(1, 1, 2, 2)
    setup = Setup(graph, params, (pixels,), frozenset())
    highest = 127 if symmetric else 255
    assert evaluate(setup.integer, pixels).ravel().tolist() == [0, highest, highest, highest]
    assert differences(setup, setup, tmp_path) == []


def test_a_network_with_one_weight_changed_is_noticed(tmp_path: Path) -> None:
    """In both engines, at the layer itself and at the output."""
    zoo = Zoo(qat.Input((3, 8, 8), mean=0.5, std=0.25))
    x = zoo.use(qat.Conv2dBnAct(3, 4, 3, has_bn=True, activation="hswish"), "input")
    x = zoo.use(qat.Add("relu"), x, zoo.use(qat.Conv2dBnAct(4, 4, 3, has_bias=True), x))
    zoo.use(qat.DenseBnAct(4 * 8 * 8, 5), zoo.use(qat.Flatten(), x))
    graph = qat.convert_quant_network(zoo)
    rng = np.random.default_rng(0)
    pixels = (rng.integers(0, 256, (4, 3, 8, 8), np.uint8),)
    params = after_numpy_step(graph, random_params(graph, rng, frozenset()), pixels)
    setup = Setup(graph, params, pixels, frozenset())
    assert differences(setup, setup, tmp_path) == []
    name = "cells.c1.weight"
    changed = params[name].copy()
    changed[0, 0, 1, 1] += 2
    found = differences(setup, replace(setup, params=params | {name: changed}), tmp_path)
    assert {line.partition(":")[0] for line in found} >= {
        f"{engine}, {node}" for engine in ("torch", "ONNX Runtime") for node in ("cells.c1", setup.integer.output.name)
    } | {f"{engine}, output, {setup.integer.output.name}" for engine in ("torch", "ONNX Runtime")}
