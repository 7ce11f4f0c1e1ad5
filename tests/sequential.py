"""Sequential networks, quantized and calibrated, ready for every engine: given ones, and any at random."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st

import qat
from qat.integer import IntegerGraph
from qat.training.forward import Forward
from qat.vocabulary.numpy_ops import NUMPY_OPS

Array = npt.NDArray[Any]
F = np.float32

ALWAYS = 1 << 30  # a phase in which every quantizer works


class Chain(qat.Network):
    """Cells one after another, each known by its keyword."""

    def __init__(self, inputs: qat.Input, **cells: qat.Cell) -> None:
        self.inputs = inputs
        self.order = tuple(cells)
        for name, cell in cells.items():
            setattr(self, name, cell)

    def construct(self, x):
        for name in self.order:
            x = getattr(self, name)(x)
        return x


@dataclass(frozen=True)
class Setup:
    """A quantized network with parameters, ranges and pixels, ready to be computed by every engine."""

    graph: qat.Graph
    params: dict[str, Array]
    pixels: Array

    @property
    def integer(self) -> IntegerGraph:
        return qat.to_integer(self.graph, self.params)


def calibrated(network: qat.Network, seed: int = 0, images: int = 3, shrink: float = 0.8, **options: Any) -> Setup:
    """Random weights and biases, pixels, and the ranges that these pixels have, ``shrink`` times as wide.

    Below 1 the clip is at work too.
    """
    graph = qat.convert_quant_network(network, **options)
    rng = np.random.default_rng(seed)
    params = graph.initial_params(seed)
    for name, value in params.items():
        if name.endswith(".bias"):
            params[name] = rng.normal(0, 0.5, value.shape).astype(F)
    pixels = rng.integers(0, 256, (images, *graph.shapes[graph.inputs[0].name]), np.uint8)
    tensors = {name: NUMPY_OPS.from_numpy(params[name], param.kind) for name, param in graph.params.items()}
    _, ranges = Forward(graph, NUMPY_OPS)(tensors, (pixels.astype(F),), training=True, phase=ALWAYS)
    params |= {name: np.asarray(value, F).reshape(()) * F(shrink) for name, value in ranges.items()}
    return Setup(graph, params, pixels)


# -- random networks --------------------------------------------------------------------------------------------------

ACTIVATIONS = st.sampled_from([None, "relu", "relu6"])
PAIRS = st.tuples(st.integers(1, 3), st.integers(1, 3))


@st.composite
def convolutions(draw: st.DrawFn, channels: int) -> qat.Conv2dBnAct:
    """Any geometry: oblong kernels, strides and dilations, uneven padding (also beyond the kernel), groups, depthwise."""
    group = draw(st.sampled_from([g for g in (1, 2, channels) if channels % g == 0]))
    pad_mode = draw(st.sampled_from(["same", "valid", "pad"]))
    return qat.Conv2dBnAct(
        channels,
        group * draw(st.integers(1, 3)),
        kernel_size=draw(PAIRS),
        stride=draw(st.tuples(st.integers(1, 2), st.integers(1, 2))),
        pad_mode=pad_mode,
        padding=draw(st.tuples(*[st.integers(0, 3)] * 4)) if pad_mode == "pad" else 0,
        dilation=draw(st.tuples(st.integers(1, 2), st.integers(1, 2))),
        group=group,
        has_bias=draw(st.booleans()),
        activation=draw(ACTIVATIONS),
    )


@st.composite
def poolings(draw: st.DrawFn) -> qat.MaxPool2d:
    """Overlapping windows, windows with gaps between them, uneven padding."""
    kernel = draw(st.tuples(st.integers(1, 2), st.integers(1, 2)))
    pad_mode = draw(st.sampled_from(["same", "valid", "pad"]))
    padding: Any = 0
    if pad_mode == "pad":
        rows, columns = st.integers(0, kernel[0] - 1), st.integers(0, kernel[1] - 1)
        padding = (draw(rows), draw(rows), draw(columns), draw(columns))
    return qat.MaxPool2d(kernel, draw(st.none() | PAIRS), pad_mode, padding)


@st.composite
def setups(draw: st.DrawFn, most: int = 8) -> Setup:
    """A convolution, a pooling, a convolution, a dense layer, quantized in any way, to ``most`` bits at most."""
    channels = draw(st.integers(1, 4))
    entry = qat.Input(
        (channels, draw(st.integers(7, 10)), draw(st.integers(7, 10))),
        mean=draw(st.sampled_from([0.0, 0.1307, 0.5, 1.0])),
        std=draw(st.sampled_from([0.05, 0.3081, 1.0])),  # the smallest drives a ReLU6 into its upper bound
    )
    conv1 = draw(convolutions(channels))
    cells: dict[str, qat.Cell] = {"conv1": conv1, "pool": draw(poolings())}
    cells["conv2"] = draw(convolutions(conv1.out_channels))
    cells["flatten"] = qat.Flatten()
    shape = entry.shape
    for name, cell in cells.items():
        try:
            shape = cell.output_shape(shape)
        except qat.QatError:  # its kernel, dilated, does not fit; a point-wise one always does
            assert isinstance(cell, qat.Conv2dBnAct)
            cells[name] = replace(cell, kernel_size=1)
            shape = cells[name].output_shape(shape)
    cells["fc"] = qat.DenseBnAct(shape[0], draw(st.integers(1, 5)), draw(st.booleans()), activation=draw(ACTIVATIONS))
    return calibrated(
        Chain(entry, **cells),
        seed=draw(st.integers(0, 2**16)),
        images=3,
        shrink=draw(st.sampled_from([0.5, 1.0, 1.7])),
        num_bits=(draw(st.integers(2, most)), draw(st.integers(2, most))),
        per_channel=(draw(st.booleans()), False),
        symmetric=(draw(st.booleans()), draw(st.booleans())),
        narrow_range=(draw(st.booleans()), draw(st.booleans())),
    )
