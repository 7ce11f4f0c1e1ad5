"""Operators of TFLite as plain operations, by what each is called."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from qat.imports.sources.step_moves import (
    bilinear,
    divided,
    equal_part,
    nearest,
    over_axes,
    part,
    parts,
    picked,
    selected,
    shuffled,
    spread,
    stacked,
)
from qat.imports.sources.steps import (
    TO_FIRST,
    Call,
    Reader,
    Step,
    Steps,
    bounded,
    dense,
    elementwise,
    function,
    joined,
    multiplied,
    negated,
    normalised,
    one,
    padded,
    pooled,
    power,
    prelu,
    single,
    unknown,
)
from qat.imports.windows import transposed_window
from qat.vocabulary.ops import Array

#: What an operator may compute at its end, by the schema's number.
FUSED: dict[int, Steps] = {
    0: [],
    1: [Step("clip", {"low": 0.0, "high": None})],
    2: [Step("clip", {"low": -1.0, "high": 1.0})],
    3: [Step("clip", {"low": 0.0, "high": 6.0})],
    4: [Step("activation", {"function": "tanh"})],
}


def steps_of(call: Call) -> Steps:
    """An operator as steps, that of its end among them."""
    reader = READERS.get(call.of)
    if reader is None:
        return unknown(call.of)
    end = getattr(call.options, "fusedActivationFunction", 0) or 0
    return [*reader(call), *FUSED[end]] if end in FUSED else unknown(f"{call.of} with the activation {end} at its end")


def _padding(call: Call) -> str | tuple[int, int, int, int]:
    return "same" if call.options.padding == 0 else (0, 0, 0, 0)


def _sliding(call: Call) -> dict[str, Any]:
    options = call.options
    return {
        "stride": (options.strideH, options.strideW),
        "padding": _padding(call),
        "dilation": (options.dilationHFactor, options.dilationWFactor),
    }


def _linear(call: Call) -> str:
    """Why a layer with weights is no plain one; "" where it is."""
    if call.constant(1) is None or call.computed(2):
        return f"{call.of} whose weights are computed"
    if len(call.shape()) != 4 or not call.last or call.given[1] is None or call.given[1].ndim != 4:
        return f"{call.of} of what are no images"
    return ""


def _with_bias(call: Call, weight: Array) -> tuple[dict[str, Array], dict[str, str]]:
    bias = call.constant(2)
    constants, sources = {"weight": np.ascontiguousarray(weight, np.float32)}, {"weight": call.names[1]}
    if bias is not None:
        constants["bias"], sources["bias"] = np.asarray(bias, np.float32), call.names[2]
    return constants, sources


def _conv(call: Call) -> Steps:
    weight = call.constant(1)
    if weight is None or (why := _linear(call)):
        return unknown(why if weight is not None else f"{call.of} whose weights are computed")
    groups = call.shape()[3] // weight.shape[3]
    return [Step("conv2d", _sliding(call) | {"groups": groups}, *_with_bias(call, weight.transpose(TO_FIRST)))]


def _transposed(call: Call) -> Steps:
    """A TRANSPOSE_CONV; it takes the size of what it gives, the weight (O, H, W, I), the image, and a bias perhaps."""
    weight, bias, made = call.constant(1), call.constant(3), call.result
    taken = call.shape(2)
    if weight is None or call.computed(3) or call.computed(0) or made is None or len(taken) != 4 or weight.ndim != 4:
        return unknown(f"{call.of} whose weights or size are computed, or of no images")
    stride = (int(call.options.strideH), int(call.options.strideW))
    mode = "valid" if call.options.padding else "same"
    window = transposed_window((taken[1], taken[2]), (made[1], made[2]), weight.shape[1:3], stride, mode)
    constants = {"weight": np.ascontiguousarray(weight.transpose(3, 0, 1, 2), np.float32)}
    sources = {"weight": call.names[1]}
    if bias is not None:
        constants["bias"], sources["bias"] = np.asarray(bias, np.float32), call.names[3]
    return [Step("conv_transpose2d", window, constants, sources)]


def _depthwise(call: Call) -> Steps:
    weight = call.constant(1)
    if weight is None or (why := _linear(call)):
        return unknown(why if weight is not None else f"{call.of} whose weights are computed")
    attributes = _sliding(call) | {"groups": call.shape()[3]}
    return [Step("conv2d", attributes, *_with_bias(call, weight.transpose(3, 0, 1, 2)))]


def _dense(call: Call) -> Steps:
    weight, shape = call.constant(1), call.shape()
    if weight is None or weight.ndim != 2 or call.computed(2) or call.options.weightsFormat:
        return unknown(f"{call.of} whose weights are computed or shuffled")
    sources = {"weight": call.names[1]}
    bias = call.constant(2)
    if bias is not None:
        sources["bias"] = call.names[2]
    if len(shape) > 2 and not call.options.keepNumDims:
        if math.prod(shape[1:]) != weight.shape[1]:
            return unknown(f"{call.of} over the last axis of several samples")
        constants, sources = _with_bias(call, weight)
        return [Step("flatten"), Step("dense", {}, constants, sources)]
    return dense(call, weight, bias, sources)


def _matmul(call: Call) -> Steps:
    turned = [bool(turn) for turn in (call.options.adjX, call.options.adjY)]
    weight = call.constant(1)
    if weight is not None and weight.ndim == 2 and not turned[0]:
        return dense(call, weight if turned[1] else weight.T, None, {"weight": call.names[1] if turned[1] else ""})
    if weight is not None or not call.computed(0):
        return unknown(f"{call.of} of a constant")
    return multiplied(call, transpose_a=turned[0], transpose_b=turned[1])


def _squared_difference(call: Call) -> Steps:
    steps = elementwise("add", "sub")(call)
    return steps if steps[0].kind == "unknown" else [*steps, Step("elementwise", {"function": "square"})]


def _pool(kind: str) -> Reader:
    def read(call: Call) -> Steps:
        if not call.last:
            return unknown(f"{call.of} of what are no images")
        options = call.options
        kernel, stride = (options.filterHeight, options.filterWidth), (options.strideH, options.strideW)
        if min(*kernel, *stride) < 1:
            raise ValueError(f"its {call.of} has a window of size {kernel} and stride {stride}")
        return pooled(call, kind, {"kernel": kernel, "stride": stride, "padding": _padding(call)})

    return read


def _reduced(kind: str) -> Reader:
    def read(call: Call) -> Steps:
        axes = call.constant(1)
        return over_axes(call, kind, None if axes is None else np.ravel(axes).tolist(), bool(call.options.keepDims))

    return read


def _pad(call: Call) -> Steps:
    widths, value = call.constant(1), call.constant(2)
    if widths is None or call.computed(2) or widths.shape != (len(call.shape()), 2):
        return unknown(f"{call.of} by computed widths")
    return padded(call, [(int(a), int(b)) for a, b in widths], 0.0 if value is None else float(value.reshape(())))


def _mirrored(call: Call) -> Steps:
    widths = call.constant(1)
    if widths is None or call.options.mode != 0:
        return unknown(f"{call.of} by computed widths, or with the edge twice")
    return padded(call, [(int(a), int(b)) for a, b in widths], 0.0, "reflect")


def _slice(call: Call) -> Steps:
    begin, size = call.constant(1), call.constant(2)
    if begin is None or size is None:
        return unknown(f"{call.of} by computed places")
    rank = len(call.shape())
    starts = [int(start) for start in np.ravel(begin)]
    sizes = [int(each) for each in np.ravel(size)]
    stops = [shape if n < 0 else start + n for start, n, shape in zip(starts, sizes, call.shape(), strict=True)]
    return parts(call, range(rank), starts, stops, [1] * rank)


def _strided(call: Call) -> Steps:
    """Parts along axes; one place along an axis where the mask of shrinking says so."""
    options, rank = call.options, len(call.shape())
    bounds = [call.constant(place) for place in (1, 2, 3)]
    if any(each is None for each in bounds) or options.ellipsisMask or options.newAxisMask:
        return unknown(f"{call.of} by computed places, or with new axes")
    begin, end, step = (np.ravel(each).tolist() for each in bounds if each is not None)
    shrunk = [axis for axis in range(len(begin)) if options.shrinkAxisMask >> axis & 1]
    found: Steps = []
    for axis in range(len(begin)):
        if axis in shrunk:
            continue
        width = int(step[axis])
        start = 0 if options.beginMask >> axis & 1 else int(begin[axis])
        stop = call.shape()[axis] if options.endMask >> axis & 1 else int(end[axis])
        if width > 0:
            found += part(call, axis, start, stop, width)
        else:
            return unknown(f"{call.of} backwards")
    found = [each for each in found if each.kind != "identity"]
    if not shrunk:
        return found or [Step("identity")]
    if shrunk[0] == 0 or len(shrunk) == rank - 1:
        return unknown(f"{call.of} of a sample, or of what leaves no channels")
    for axis in reversed(shrunk):
        found += selected(call, axis, int(begin[axis]))
        call = replace(call, shapes=((*call.shape()[:axis], *call.shape()[axis + 1 :]),), last=False)
    return found


def results(call: Call, place: int) -> Steps:
    """One of the results of an operator that has several. place: which."""
    if call.of == "UNPACK":
        return selected(call, call.options.axis, place)
    value, axis = (0, 2) if call.of == "SPLIT_V" else (1, 0)
    found, sizes = call.constant(axis), call.constant(1) if call.of == "SPLIT_V" else None
    shape = call.shape(value)
    if found is None or not shape or (call.of == "SPLIT_V" and sizes is None):
        return unknown(f"{call.of} by computed sizes")
    moved = replace(call, shapes=(shape,), given=(None,), inputs=call.inputs[value : value + 1])
    along = int(found.reshape(())) % len(shape)
    if sizes is None:
        return equal_part(moved, along, shape[along] // int(call.options.numSplits), place)
    given = [int(size) for size in np.ravel(sizes)]
    rest = shape[along] - sum(size for size in given if size >= 0)
    return divided(moved, along, [rest if size < 0 else size for size in given], place)


def _resized(call: Call) -> Steps:
    """As TensorFlow places the pixels."""
    corners, half = call.options.alignCorners, call.options.halfPixelCenters

    def placed(x: Array, factor: float, size: int) -> Array:
        scale = (size - 1) / max(size * factor - 1, 1) if corners else 1 / factor
        found = (x + 0.5) * scale if half else x * scale
        return np.asarray(np.floor(found + 0.5) if corners else np.floor(found))

    return nearest(call, placed)


def _interpolated(call: Call) -> Steps:
    corners, half = call.options.alignCorners, call.options.halfPixelCenters
    if bool(corners) == bool(half):
        return unknown(f"{call.of} that places pixels by their corners (half_pixel_centers=False)")
    return bilinear(call, align_corners=bool(corners))


def _softmax(call: Call) -> Steps:
    if call.options.beta != 1.0:
        return unknown(f"{call.of} with beta {call.options.beta:g}")
    return normalised(call, -1)


def _gelu(call: Call) -> Steps:
    return function("gelu_tanh" if call.options.approximate else "gelu")(call)


READERS: dict[str, Reader] = {
    "CONV_2D": _conv,
    "DEPTHWISE_CONV_2D": _depthwise,
    "TRANSPOSE_CONV": _transposed,
    "FULLY_CONNECTED": _dense,
    "AVERAGE_POOL_2D": _pool("avg_pool2d"),
    "MAX_POOL_2D": _pool("max_pool2d"),
    "ADD": elementwise("add"),
    "SUB": elementwise("add", "sub"),
    "MUL": elementwise("mul"),
    "DIV": elementwise("mul", "div"),
    "NEG": negated,
    "MAXIMUM": bounded("maximum", "low"),
    "MINIMUM": bounded("minimum", "high"),
    "MEAN": _reduced("mean"),
    "REDUCE_MAX": _reduced("max"),
    "SLICE": _slice,
    "STRIDED_SLICE": _strided,
    "GATHER": lambda call: picked(call, call.options.axis),
    "PACK": lambda call: stacked(call, call.options.axis),
    "BROADCAST_TO": spread,
    "DEPTH_TO_SPACE": lambda call: shuffled(call, call.options.blockSize, "dcr", deep=False),
    "SPACE_TO_DEPTH": lambda call: shuffled(call, call.options.blockSize, "dcr", deep=True),
    "RESIZE_NEAREST_NEIGHBOR": _resized,
    "RESIZE_BILINEAR": _interpolated,
    "MIRROR_PAD": _mirrored,
    "PAD": _pad,
    "PADV2": _pad,
    "CONCATENATION": lambda call: joined(call, call.options.axis),
    "SOFTMAX": _softmax,
    "LOGISTIC": function("sigmoid"),
    "TANH": function("tanh"),
    "HARD_SWISH": function("hswish"),
    "GELU": _gelu,
    "ELU": function("elu"),
    "EXP": single("exp"),
    "LOG": single("log"),
    "SQRT": single("sqrt"),
    "SQUARE": single("square"),
    "RSQRT": single("rsqrt"),
    "SQUARED_DIFFERENCE": _squared_difference,
    "BATCH_MATMUL": _matmul,
    "ABS": single("abs"),
    "POW": power,
    "RELU": one("clip", low=0.0, high=None),
    "RELU6": one("clip", low=0.0, high=6.0),
    "RELU_N1_TO_1": one("clip", low=-1.0, high=1.0),
    "RELU_0_TO_1": one("clip", low=0.0, high=1.0),
    "LEAKY_RELU": lambda call: function("leaky_relu", alpha=float(call.options.alpha))(call),
    "PRELU": prelu,
}
#: What gives several values, of which each is a part.
OF_SEVERAL = frozenset({"SPLIT", "SPLIT_V", "UNPACK"})
#: What keeps the order of the numbers.
RESHAPES = frozenset({"RESHAPE", "SQUEEZE", "EXPAND_DIMS"})
CONTROL = frozenset({"IF", "WHILE", "CALL", "CALL_ONCE", "STABLEHLO_WHILE"})


def _sliced(options: Any, x: Array, begin: Array, end: Array, step: Array) -> Array:
    """STRIDED_SLICE of a vector."""
    if x.ndim != 1 or options.ellipsisMask or options.newAxisMask:
        raise ValueError("it slices a constant of several axes")
    start, stop, width = int(begin[0]), int(end[0]), int(step[0])
    if options.shrinkAxisMask & 1:
        return np.asarray(x[start])
    return x[(None if options.beginMask & 1 else start) : (None if options.endMask & 1 else stop) : width]


#: What is computed at once where all that it takes are constants: what shapes are made of, and transposed weights.
FOLDED: dict[str, Callable[..., Array]] = {
    "STRIDED_SLICE": _sliced,
    "PACK": lambda options, *xs: np.stack(xs, options.axis),
    "CONCATENATION": lambda options, *xs: np.concatenate(xs, options.axis),
    "CAST": lambda options, x: x.astype(np.float32 if options is not None and options.outDataType == 0 else np.int64),
    "GATHER": lambda options, x, places: np.take(x, places, axis=options.axis),
    "MUL": lambda options, a, b: a * b,
    "ADD": lambda options, a, b: a + b,
    "SUB": lambda options, a, b: a - b,
    "REDUCE_PROD": lambda options, x, axes: np.prod(x, axis=tuple(np.ravel(axes).tolist()), keepdims=options.keepDims),
    "RESHAPE": lambda options, x, sizes: x.reshape(np.ravel(sizes)),
    "TRANSPOSE": lambda options, x, order: x.transpose(np.ravel(order)),
}
