"""What each layer of Keras computes in evaluation: plain operations, channels first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import keras
import numpy as np

from qat.imports.sources import keras_moves, keras_recurrent
from qat.imports.sources.keras_calls import BEFORE, Call, Reader, Step, Steps, array_of, own_class, unknown
from qat.imports.windows import transposed_window
from qat.vocabulary.ops import Array

#: Functions of keras.activations and keras.ops that are clips, and those that have a name among ours.
CLIPS = {"relu": (0.0, None), "relu6": (0.0, 6.0), "hard_tanh": (-1.0, 1.0)}
FUNCTIONS = {
    **{name: name for name in ("sigmoid", "tanh", "silu", "gelu", "mish", "softplus", "softsign", "elu", "selu")},
    "hard_sigmoid": "hsigmoid",
    "hard_silu": "hswish",
    "hard_swish": "hswish",
    "swish": "silu",
    "exponential": "exp",
}


# -- activations ------------------------------------------------------------------------------------------------------


def relu(call_name: str, slope: float, largest: Any, threshold: float) -> Step:
    """A ReLU with Keras's options; unknown where no activation of ours has them."""
    if threshold or (slope and largest is not None):
        return unknown(f"{call_name} with threshold {threshold:g}, slope {slope:g} and max_value {largest}")
    if slope:
        return Step("activation", {"function": "leaky_relu", "alpha": float(slope)})
    return Step("clip", {"low": 0.0, "high": None if largest is None else float(largest)})


def elu(alpha: float) -> Step:
    """An ELU."""
    return Step("activation", {"function": "elu", "alpha": float(alpha)})


def function_of(name: str) -> Step | None:
    """An activation function of Keras by its name there, with its defaults."""
    if name in CLIPS:
        low, high = CLIPS[name]
        return Step("clip", {"low": low, "high": high})
    if name == "leaky_relu":
        return Step("activation", {"function": name, "alpha": 0.2})
    return Step("activation", {"function": FUNCTIONS[name]}) if name in FUNCTIONS else None


def _activation(call: Call, function: Any) -> Steps:
    """What a layer's ``activation`` does to its output."""
    if isinstance(function, keras.layers.Layer):
        cls = own_class(function)
        reader = None if cls is None else LAYERS.get(cls.__name__)
        yield from reader(replace(call, operation=function)) if reader else iter([unknown(type(function).__name__)])
        return
    name = getattr(function, "__name__", str(function))
    own = function in (getattr(keras.activations, name, None), getattr(keras.ops, name, None))
    if own and name == "linear":
        return
    if own and name == "softmax":
        yield from softmax(call, -1)
    elif function is keras.ops.gelu:  # approximate by default, as keras.activations.gelu is not
        yield Step("activation", {"function": "gelu_tanh"})
    else:
        yield (function_of(name) if own else None) or unknown(f"activation {name}")


def softmax(call: Call, axis: Any) -> Steps:
    """A softmax along one axis."""
    rank = len(call.given) + 1
    if isinstance(axis, int) and axis % rank:
        yield Step("softmax", {"axis": call.layout.axis(axis, rank)})
    else:
        yield unknown(f"softmax along axis {axis} of {rank}")


# -- layers with weights ----------------------------------------------------------------------------------------------


def _image(layer: Any, kernel: Array) -> tuple[Array, dict[str, Any]]:
    """A kernel, and its layer's stride, padding and dilation, as those of images: of one axis, images are one pixel wide."""
    if kernel.ndim == 3:
        kernel = kernel[:, None]
    stride, dilation = ((*each, 1)[:2] for each in (layer.strides, layer.dilation_rate))
    padding: Any = "same" if layer.padding == "same" else (0, 0, 0, 0)
    if layer.padding == "causal":
        padding = (dilation[0] * (kernel.shape[0] - 1), 0, 0, 0)
    return kernel, {"stride": stride, "padding": padding, "dilation": dilation}


def _depthwise_weight(kernel: Array) -> Array:
    height, width, channels, multiplier = kernel.shape
    return kernel.reshape(height, width, 1, channels * multiplier).transpose(3, 2, 0, 1)


def _bias(layer: Any) -> dict[str, tuple[str, Array]]:
    return {"bias": ("bias", array_of(layer.bias))} if layer.use_bias else {}


def _conv(call: Call) -> Steps:
    layer = call.operation
    kernel, options = _image(layer, array_of(layer.kernel))
    constants = {"weight": ("kernel", kernel.transpose(3, 2, 0, 1)), **_bias(layer)}
    yield Step("conv2d", options | {"groups": layer.groups}, constants)
    yield from _activation(call, layer.activation)


def _transposed(call: Call) -> Steps:
    layer = call.operation
    if set(layer.dilation_rate) != {1}:
        yield unknown(f"{call.name} with dilation_rate {layer.dilation_rate}")
        return
    kernel, options = _image(layer, array_of(layer.kernel))
    taken, made = (call.layout.shape(sizes)[1:] for sizes in (call.taken[0].sizes, call.given))
    window = transposed_window(
        (taken[0], taken[1]), (made[0], made[1]), kernel.shape[:2], options["stride"], layer.padding
    )
    constants = {"weight": ("kernel", kernel.transpose(3, 2, 0, 1)), **_bias(layer)}
    yield Step("conv_transpose2d", window, constants)
    yield from _activation(call, layer.activation)


def _depthwise(call: Call) -> Steps:
    layer = call.operation
    kernel, options = _image(layer, array_of(layer.kernel))
    constants = {"weight": ("kernel", _depthwise_weight(kernel)), **_bias(layer)}
    yield Step("conv2d", options | {"groups": kernel.shape[2]}, constants)
    yield from _activation(call, layer.activation)


def _separable(call: Call) -> Steps:
    layer = call.operation
    kernel, options = _image(layer, array_of(layer.depthwise_kernel))
    weight = _depthwise_weight(kernel)
    pointwise = array_of(layer.pointwise_kernel)
    pointwise = (pointwise[:, None] if pointwise.ndim == 3 else pointwise).transpose(3, 2, 0, 1)
    yield Step(
        "conv2d",
        options | {"groups": kernel.shape[2]},
        {"weight": ("depthwise_kernel", weight)},
        part="depthwise",
        shape=(len(weight), *call.layout.shape(call.given)[1:]),
    )
    one = {"stride": (1, 1), "padding": (0, 0, 0, 0), "dilation": (1, 1), "groups": 1}
    yield Step("conv2d", one, {"weight": ("pointwise_kernel", pointwise), **_bias(layer)}, part="pointwise")
    yield from _activation(call, layer.activation)


def _dense(call: Call) -> Steps:
    layer, rank = call.operation, call.taken[0].rank
    kernel = array_of(layer.kernel).T
    if rank == 2:
        yield Step("dense", {}, {"weight": ("kernel", kernel), **_bias(layer)})
    elif rank in (3, 4) and not call.layout.channels_first:
        one = {"stride": (1, 1), "padding": (0, 0, 0, 0), "dilation": (1, 1), "groups": 1}
        yield Step("conv2d", one, {"weight": ("kernel", kernel[:, :, None, None]), **_bias(layer)})
    elif rank == 4:
        yield Step("dense", {}, {"weight": ("kernel", kernel), **_bias(layer)})
    else:
        yield unknown(f"Dense along the last axis of {rank}, not the channels,")
    yield from _activation(call, layer.activation)


def _batch_norm(call: Call) -> Steps:
    layer = call.operation
    if call.layout.axis(layer.axis, call.taken[0].rank) != 1:
        yield unknown(f"BatchNormalization along axis {layer.axis}, not the channels,")
        return
    names = {"mean": "moving_mean", "variance": "moving_variance"}
    names |= {"gamma": "gamma"} if layer.scale else {}
    names |= {"beta": "beta"} if layer.center else {}
    constants = {local: (name, array_of(getattr(layer, name))) for local, name in names.items()}
    yield Step("batch_norm", {"eps": float(layer.epsilon), "momentum": float(layer.momentum)}, constants)


def _layer_norm(call: Call) -> Steps:
    """Over the last axis, or others."""
    layer, rank = call.operation, call.taken[0].rank
    axes = tuple(call.layout.axis(axis, rank) for axis in np.ravel(layer.axis).tolist())
    given = {"gamma": getattr(layer, "gamma", None) if layer.scale else None}
    given |= {"beta": getattr(layer, "beta", None) if layer.center else None}
    if getattr(layer, "rms_scaling", False):
        yield unknown(f"{call.name} with rms_scaling")
    elif len(axes) > 1 and not call.layout.channels_first:
        yield unknown(f"{call.name} over axes {layer.axis}")
    else:
        constants = {local: (local, array_of(x)) for local, x in given.items() if x is not None}
        yield Step("layer_norm", {"axes": axes, "eps": float(layer.epsilon)}, constants)


def _rms_norm(call: Call) -> Steps:
    layer, rank = call.operation, call.taken[0].rank
    if np.size(layer.axis) != 1:
        yield unknown(f"{call.name} over axes {layer.axis}")
        return
    axes = (call.layout.axis(int(np.ravel(layer.axis)[0]), rank),)
    yield Step("rms_norm", {"axes": axes, "eps": float(layer.epsilon)}, {"gamma": ("scale", array_of(layer.scale))})


def _layer_scale(call: Call) -> Steps:
    """ConvNeXt's: a number for each channel."""
    gamma = call.layout.constant(call.operation.gamma, call.taken[0].rank)
    assert gamma is not None  # one number, or one for each channel
    yield Step("mul", {}, {"other": ("gamma", gamma)})


# -- windows and shapes -----------------------------------------------------------------------------------------------


def pool(kind: str) -> Reader:
    """A reader of a pooling."""

    def read(call: Call) -> Steps:
        layer = call.operation
        sizes = layer.pool_size, layer.pool_size if layer.strides is None else layer.strides
        axes = call.taken[0].rank - 2
        kernel, stride = (((each,) * axes if isinstance(each, int) else tuple(each)) + (1,) for each in sizes)
        padding: Any = "same" if layer.padding == "same" else (0, 0, 0, 0)
        options = {"kernel": kernel[:2], "stride": stride[:2], "padding": padding}
        yield Step(kind, options | ({"counts_padding": False} if kind == "avg_pool2d" else {}))

    return read


def _global_average(call: Call) -> Steps:
    yield Step("mean", {"axes": (2, 3), "keepdims": bool(call.operation.keepdims)})


def _global_max(call: Call) -> Steps:
    channels, *window = call.layout.shape(call.taken[0].sizes)
    options = {"kernel": tuple(window), "stride": tuple(window), "padding": (0, 0, 0, 0)}
    yield Step("max_pool2d", options, shape=(channels, 1, 1))
    if not call.operation.keepdims:
        yield Step("flatten")


def _zero_padding(call: Call) -> Steps:
    padding = call.operation.padding
    rows, columns = (padding, (0, 0)) if isinstance(padding[0], int) else (*padding, (0, 0))[:2]
    yield Step("pad", {"widths": ((0, 0), (0, 0), tuple(rows), tuple(columns)), "value": 0.0})


def _flatten(call: Call) -> Steps:
    """Keras flattens (N, H, W, C) in this order, and brings what it takes for channels first into it."""
    (x,), first = call.taken, call.operation.data_format == "channels_first"
    if x.rank <= 2:
        return
    if x.rank > 4 or (first and not call.layout.channels_first):
        yield unknown(f"Flatten with data_format {call.operation.data_format} of rank {x.rank}")
    else:
        yield Step("flatten", {"channels_last": first or not call.layout.channels_first})


def _prelu(call: Call) -> Steps:
    """Slopes of channels, or one for all."""
    layer = call.operation
    slope = call.layout.constant(layer.alpha, call.taken[0].rank)
    if slope is None or slope.size not in (1, slope.shape[0] if slope.ndim else 1):
        yield unknown("PReLU whose slopes differ from place to place (shared_axes)")
    else:
        yield Step("prelu", {}, {"slope": ("alpha" if slope.size == np.size(layer.alpha) else "", slope.reshape(-1))})


def concatenate(call: Call) -> Steps:
    """A concatenation."""
    axis = call.layout.axis(call.operation.axis, call.taken[0].rank)
    if len(keras.tree.flatten(call.arguments)) != len(call.taken):
        yield unknown(f"{call.name} with a constant")
        return
    yield Step("concat", {"axis": axis}) if len(call.taken) > 1 else Step("identity")


# -- arithmetic -------------------------------------------------------------------------------------------------------


def joined(kind: str) -> Reader:
    """A reader of any number of values, one after another: "add", "mul", "sub", "maximum" or "minimum"."""

    def read(call: Call) -> Steps:
        first, *others = (each.name for each in call.taken)
        if len({each.rank for each in call.taken}) > 1:
            yield unknown(f"{call.name} of different numbers of axes")
            return
        for number, other in enumerate(others):
            yield Step(kind, inputs=(BEFORE if number else first, other))

    return read


total = joined("add")


def _average(call: Call) -> Steps:
    yield from total(call)
    yield Step("mul", {}, {"other": ("", np.float32(1.0 / len(call.taken)).reshape(()))})


def _scaled(call: Call) -> Steps:
    """InceptionResNetV2's: the first, and the second times a number."""
    first, second = call.taken
    scale = np.asarray(call.operation.scale, np.float32).reshape(())
    yield Step("mul", {}, {"other": ("", scale)}, inputs=(second.name,), part="scale")
    yield Step("add", inputs=(first.name, BEFORE))


def affine(call: Call, *steps: tuple[str, Any]) -> Steps:
    """Constants that are multiplied and added: kind and constant. None of them is trained, so that they have no names."""
    rank = call.taken[0].rank
    for kind, constant in steps:
        array = call.layout.constant(constant, rank)
        if array is None or call.given != call.taken[0].sizes:
            yield unknown(f"{call.name} with a constant of other numbers for each sample")
        elif array.size > 1 or float(array) != (1.0 if kind == "mul" else 0.0):
            yield Step(kind, {}, {"other": ("", array)})


def _rescaling(call: Call) -> Steps:
    layer = call.operation
    scale = np.asarray(layer.scale, np.float32)
    if scale.ndim and call.layout.channels_first:
        scale = scale.reshape(scale.shape + (1,) * (3 - scale.ndim))
    yield from affine(call, ("mul", scale), ("add", layer.offset))


def _normalization(call: Call) -> Steps:
    layer = call.operation
    mean, variance = (np.asarray(keras.ops.convert_to_numpy(each), np.float64) for each in (layer.mean, layer.variance))
    std = np.maximum(np.sqrt(variance), keras.config.epsilon())
    if layer.invert:
        yield from affine(call, ("mul", std), ("add", mean))
    else:
        yield from affine(call, ("add", -mean), ("mul", 1.0 / std))


def _nothing(call: Call) -> Steps:
    return iter(())


#: Layers that compute nothing in evaluation.
_IDLE = (
    *("Dropout", "SpatialDropout1D", "SpatialDropout2D", "GaussianDropout", "GaussianNoise", "AlphaDropout"),
    *(
        "ActivityRegularization",
        "Identity",
        "InputLayer",
        "RandomBrightness",
        "RandomColorDegeneration",
        "RandomColorJitter",
    ),
    *(
        "RandomContrast",
        "RandomElasticTransform",
        "RandomErasing",
        "RandomFlip",
        "RandomGaussianBlur",
        "RandomGrayscale",
    ),
    *("RandomHue", "RandomInvert", "RandomPerspective", "RandomPosterization", "RandomRotation", "RandomSaturation"),
    *("RandomSharpness", "RandomShear", "RandomTranslation", "RandomZoom"),
)

LAYERS: Mapping[str, Reader] = {
    **dict.fromkeys(("Conv1D", "Conv2D"), _conv),
    **dict.fromkeys(("Conv1DTranspose", "Conv2DTranspose"), _transposed),
    **dict.fromkeys(("DepthwiseConv1D", "DepthwiseConv2D"), _depthwise),
    **dict.fromkeys(("SeparableConv1D", "SeparableConv2D"), _separable),
    **dict.fromkeys(("MaxPooling1D", "MaxPooling2D"), pool("max_pool2d")),
    **dict.fromkeys(("AveragePooling1D", "AveragePooling2D"), pool("avg_pool2d")),
    **dict.fromkeys(("GlobalAveragePooling1D", "GlobalAveragePooling2D"), _global_average),
    **dict.fromkeys(("GlobalMaxPooling1D", "GlobalMaxPooling2D"), _global_max),
    **dict.fromkeys(("ZeroPadding1D", "ZeroPadding2D"), _zero_padding),
    **dict.fromkeys(_IDLE, _nothing),
    "Dense": _dense,
    "BatchNormalization": _batch_norm,
    "Activation": lambda call: _activation(call, call.operation.activation),
    "ReLU": lambda call: iter(
        [relu("ReLU", call.operation.negative_slope, call.operation.max_value, call.operation.threshold)]
    ),
    "LeakyReLU": lambda call: iter([relu("LeakyReLU", call.operation.negative_slope, None, 0.0)]),
    "ELU": lambda call: iter([elu(call.operation.alpha)]),
    "Softmax": lambda call: softmax(call, call.operation.axis),
    "Flatten": _flatten,
    **keras_moves.LAYERS,
    **keras_recurrent.LAYERS,
    "PReLU": _prelu,
    "Add": total,
    "Average": _average,
    "Multiply": joined("mul"),
    "Subtract": joined("sub"),
    "Maximum": joined("maximum"),
    "Minimum": joined("minimum"),
    "Concatenate": concatenate,
    "CustomScaleLayer": _scaled,
    "LayerScale": _layer_scale,
    "LayerNormalization": _layer_norm,
    "RMSNormalization": _rms_norm,
    "Rescaling": _rescaling,
    "Normalization": _normalization,
}
