"""Networks and graphs for tests: traced from a function, chains of cells, and any at random."""

from dataclasses import replace

from hypothesis import strategies as st

import qat
from qat.names import SIGNS, is_name
from qat.quantizers import ActivationQuantizer, WeightQuantizer
from qat.vocabulary.activations import FUSED


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


def small_quantized_network():
    return qat.convert_quant_network(
        Traced(
            lambda self, x: self.fc(qat.Flatten()(qat.MaxPool2d(2)(self.c(x)))),
            c=conv(1, 2, 3, activation="relu", pad_mode="pad", padding=1),
            fc=qat.DenseBnAct(32, 3),
        ),
        quant_delay=(1, 2),
    )


# -- at random ---------------------------------------------------------------------------------------------------------


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
#: Letters, marks and digits of any script, and signs: all that a name may be of.
CHARACTERS = st.characters(categories=["L", "M", "N", "Pc"]) | st.sampled_from(f" {SIGNS}")
NAMES = st.text(CHARACTERS, min_size=1, max_size=6).filter(is_name)


MOST_CHANNELS = 32


@st.composite
def convolutions(draw, shape):
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


def pools(kind):
    more = {"count_include_pad": st.booleans()} if kind is qat.AvgPool2d else {}
    return st.builds(kind, size_or_pair(2), st.none() | size_or_pair(2), st.just("same"), **more)


@st.composite
def transposed_convolutions(draw, shape):
    group, stride = draw(st.sampled_from([n for n in range(1, shape[0] + 1) if shape[0] % n == 0])), draw(sizes(2))
    return qat.ConvTranspose2dBnAct(
        shape[0],
        group * draw(sizes(3)),
        draw(st.tuples(st.integers(2, 3), st.integers(2, 3))),
        stride=stride,
        padding=draw(st.integers(0, 1)) if min(shape[1:]) > 2 else 0,
        output_padding=draw(st.integers(0, stride - 1)),
        group=group,
        has_bias=draw(st.booleans()),
        activation=draw(ACTIVATIONS),
        weight_quantizer=draw(WEIGHT_QUANTIZERS),
    )


@st.composite
def convolutions_of_series(draw, shape):
    group = draw(st.sampled_from([n for n in range(1, shape[0] + 1) if shape[0] % n == 0]))
    mode = draw(st.sampled_from(["same", "causal"]))
    return qat.Conv1dBnAct(
        shape[0],
        group * draw(sizes(3)),
        draw(sizes(3)),
        stride=draw(sizes(2)),
        pad_mode=mode,
        dilation=draw(sizes(2)),
        group=group,
        has_bias=draw(st.booleans()),
        activation=draw(ACTIVATIONS),
        weight_quantizer=draw(WEIGHT_QUANTIZERS),
    )


def pools_of_series(kind):
    return st.builds(kind, sizes(2), st.none() | sizes(2), st.just("same"))


def reductions(kind, shape):
    axes = st.lists(st.integers(0, len(shape) - 1), min_size=1, unique=True).map(tuple)
    return st.builds(kind, axes, st.booleans())


IMAGES, SERIES, ROWS, ANY = (3,), (2,), (1,), (1, 3)
#: Cells with any of their fields changed: the ranks of shapes that they take, and how they are drawn for a shape.
OF_ONE = {
    qat.Flatten: (ANY, lambda shape: st.just(qat.Flatten())),
    qat.FakeQuant: (ANY, lambda shape: st.builds(qat.FakeQuant, ACTIVATION_QUANTIZERS, st.booleans())),
    qat.Dequantize: (ANY, lambda shape: st.just(qat.Dequantize())),
    qat.Dropout: (ANY, lambda shape: st.builds(qat.Dropout, st.floats(0, 0.9))),
    qat.Softmax: (ANY, lambda shape: st.builds(qat.Softmax, st.integers(0, len(shape) - 1))),
    qat.Activation: (ANY, lambda shape: st.builds(qat.Activation, st.sampled_from(sorted(FUSED)), st.floats(0, 2))),
    qat.PReLU: (ANY, lambda shape: st.just(qat.PReLU(shape[0]))),
    qat.LayerNorm: (ANY, lambda shape: st.builds(qat.LayerNorm, st.just(shape[0]), st.floats(1e-9, 1))),
    qat.RMSNorm: (ANY, lambda shape: st.builds(qat.RMSNorm, st.just(shape[0]), st.floats(1e-9, 1))),
    qat.GroupNorm: (
        ANY,
        lambda shape: st.sampled_from([1, shape[0]]).map(lambda groups: qat.GroupNorm(shape[0], groups)),
    ),
    qat.Slice: (
        ANY,
        lambda shape: st.integers(0, len(shape) - 1).flatmap(
            lambda axis: st.builds(qat.Slice, st.just(axis), st.integers(0, shape[axis] - 1), step=sizes(3))
        ),
    ),
    qat.ZeroState: (ROWS, lambda shape: st.builds(qat.ZeroState, sizes(9))),
    qat.DenseBnAct: (
        ROWS,
        lambda shape: st.builds(
            qat.DenseBnAct,
            st.just(shape[0]),
            sizes(9),
            has_bias=st.booleans(),
            activation=ACTIVATIONS,
            after_fake=st.booleans(),
            weight_quantizer=WEIGHT_QUANTIZERS,
        ),
    ),
    qat.Conv2dBnAct: (IMAGES, convolutions),
    qat.ConvTranspose2dBnAct: (
        IMAGES,
        lambda shape: (
            transposed_convolutions(shape) if max(shape[1:]) <= MOST_CHANNELS // 2 else st.just(qat.Flatten())
        ),
    ),
    qat.ConstantChannel: (
        IMAGES,
        lambda shape: (
            st.builds(qat.ConstantChannel, st.floats(-2, 2)) if shape[0] < MOST_CHANNELS else st.just(qat.Flatten())
        ),
    ),
    qat.Normalize: (
        IMAGES,
        lambda shape: st.builds(
            qat.Normalize, *[st.tuples(*[st.floats(-2, 2)] * shape[0]) for _ in range(2)], after_fake=st.booleans()
        ),
    ),
    qat.BatchNorm: (IMAGES, lambda shape: st.builds(qat.BatchNorm, st.just(shape[0]), activation=ACTIVATIONS)),
    qat.Reshape: (
        ANY,
        lambda shape: st.sampled_from([qat.Reshape((-1,)), qat.Reshape((shape[0], -1)), qat.Reshape(shape)]),
    ),
    qat.Transpose: (IMAGES, lambda shape: st.builds(qat.Transpose, st.permutations(range(3)).map(tuple))),
    qat.Pad: (IMAGES, lambda shape: st.builds(qat.Pad, size_or_pair(2))),
    qat.Upsample: (
        IMAGES,
        lambda shape: (
            st.builds(qat.Upsample, size_or_pair(2)) if max(shape) <= MOST_CHANNELS else st.just(qat.Flatten())
        ),
    ),
    qat.UpsampleBilinear: (
        IMAGES,
        lambda shape: (
            st.builds(qat.UpsampleBilinear, size_or_pair(2), st.booleans())
            if max(shape) <= MOST_CHANNELS
            else st.just(qat.Flatten())
        ),
    ),
    qat.ChannelShuffle: (IMAGES, lambda shape: st.just(qat.ChannelShuffle(shape[0]))),
    qat.PixelShuffle: (
        IMAGES,
        lambda shape: st.builds(qat.PixelShuffle, st.just(1 if shape[0] % 4 else 2), st.sampled_from(["crd", "dcr"])),
    ),
    qat.PixelUnshuffle: (
        IMAGES,
        lambda shape: st.builds(
            qat.PixelUnshuffle,
            st.just(2 if shape[1] % 2 == shape[2] % 2 == 0 and shape[0] * 4 <= MOST_CHANNELS else 1),
        ),
    ),
    qat.MaxPool2d: (IMAGES, lambda shape: pools(qat.MaxPool2d)),
    qat.AvgPool2d: (IMAGES, lambda shape: pools(qat.AvgPool2d)),
    qat.AdaptiveAvgPool2d: (IMAGES, lambda shape: st.builds(qat.AdaptiveAvgPool2d, size_or_pair(4))),
    qat.Mean: (ANY, lambda shape: reductions(qat.Mean, shape)),
    qat.Max: (ANY, lambda shape: reductions(qat.Max, shape)),
    qat.GlobalAvgPool2d: (IMAGES, lambda shape: st.just(qat.GlobalAvgPool2d())),
    qat.Conv1dBnAct: (SERIES, convolutions_of_series),
    qat.MaxPool1d: (SERIES, lambda shape: pools_of_series(qat.MaxPool1d)),
    qat.AvgPool1d: (SERIES, lambda shape: pools_of_series(qat.AvgPool1d)),
    qat.GlobalMaxPool2d: (IMAGES, lambda shape: st.just(qat.GlobalMaxPool2d())),
    qat.GlobalMaxPool1d: (SERIES, lambda shape: st.just(qat.GlobalMaxPool1d())),
    qat.GlobalAvgPool1d: (SERIES, lambda shape: st.just(qat.GlobalAvgPool1d())),
}


def fit(a, b):
    """Equal shapes, or one of a single pixel beside one of as many channels."""
    return a == b or (len(a) == len(b) == 3 and a[0] == b[0] and (1, 1) in (a[1:], b[1:]))


#: Those that join two values.
OF_TWO = {
    qat.Stack: (lambda a, b: a == b and len(a) < 3, st.builds(qat.Stack, sizes(1))),
    qat.Add: (fit, st.builds(qat.Add, ACTIVATIONS)),
    qat.MatMul: (
        lambda a, b: (
            len(a) == len(b) > 1 and a[:-2] == b[:-2] and a[-1] == b[-1] and max(a[-2], b[-2]) <= MOST_CHANNELS
        ),
        st.just(qat.MatMul(transpose_b=True)),
    ),
    qat.OneGrid: (lambda a, b: a == b, st.just(qat.OneGrid())),
    qat.Mul: (fit, st.just(qat.Mul())),
    qat.Sub: (fit, st.just(qat.Sub())),
    qat.Maximum: (fit, st.just(qat.Maximum())),
    qat.Minimum: (fit, st.just(qat.Minimum())),
    qat.Concat: (lambda a, b: a[1:] == b[1:] and a[0] + b[0] <= MOST_CHANNELS, st.just(qat.Concat())),
}


@st.composite
def cells_for(draw, shape):
    """A cell that takes this shape, with any of its fields changed."""
    anywhere = [make for ranks, make in OF_ONE.values() if ranks == ANY]
    here = [make for ranks, make in OF_ONE.values() if ranks == (len(shape),)]
    make = draw(st.sampled_from(draw(st.sampled_from([anywhere, here or anywhere]))))
    return draw(make(shape))


@st.composite
def graphs(draw):
    """Any tree of cells: each node takes any nodes before it, cells may be used again, outputs are any nodes."""
    shape = draw(st.tuples(sizes(4), sizes(12), sizes(12)) | st.tuples(sizes(4), sizes(24)))
    mean, std = draw(st.floats(0, 1)), draw(st.floats(0.01, 4))
    names = draw(st.lists(NAMES, min_size=1, max_size=8, unique=True))
    nodes, shapes = [qat.Node(names[0], qat.Input(shape, mean, std), (), names[0])], {names[0]: shape}
    for name in names[1:]:
        source, other = draw(st.sampled_from(list(shapes))), draw(st.sampled_from(list(shapes)))
        again = [node for node in nodes if [shapes[x] for x in node.inputs] == [shapes[source]]]
        joining = [cells for fits, cells in OF_TWO.values() if fits(shapes[source], shapes[other])]
        inputs, cell_name = (source,), name
        if joining and draw(st.sampled_from([False, False, False, True])):
            inputs, cell = (source, other), draw(draw(st.sampled_from(joining)))
        elif again and draw(st.booleans()):
            cell, cell_name = again[0].cell, again[0].cell_name
        else:
            cell = draw(cells_for(shapes[source]))
        nodes.append(qat.Node(name, cell, inputs, cell_name, recurs=draw(st.booleans())))
        shapes[name] = cell.output_shape(*(shapes[x] for x in inputs))
    outputs = draw(st.lists(st.sampled_from(names), min_size=1, max_size=3))
    return qat.Graph(tuple(nodes), tuple(outputs), draw(NAMES))
