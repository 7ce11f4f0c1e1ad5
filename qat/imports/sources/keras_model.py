"""A Keras 3 model, functional or sequential, or a file of one (.keras, or Keras 2's .h5), as plain operations.

Keras has channels last: arrays and axes are brought into (N, C, H, W) here, where it is known what they mean.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np

from qat.errors import QatError
from qat.imports.program import Operation, Program
from qat.reading import reason_of
from qat.vocabulary.arrays import ArraySpec
from qat.vocabulary.ops import Array

ACTIVATIONS = {
    "sigmoid": ("activation", {"function": "sigmoid"}),
    "tanh": ("activation", {"function": "tanh"}),
    "hard_sigmoid": ("activation", {"function": "hsigmoid"}),
    "hard_swish": ("activation", {"function": "hswish"}),
    "hard_silu": ("activation", {"function": "hswish"}),
    "relu": ("clip", {"low": 0.0, "high": None}),
    "relu6": ("clip", {"low": 0.0, "high": 6.0}),
    "softmax": ("softmax", {"axis": 1}),
}


class _DepthwiseConv2D(keras.layers.DepthwiseConv2D):  # type: ignore[misc]
    """As Keras 2 saved it, with a field that Keras 3 does not take."""

    def __init__(self, *args: Any, groups: int = 1, **options: Any) -> None:
        del groups
        super().__init__(*args, **options)


def read_file(path: str | Path, name: str | None = None) -> Program:
    """The operations of a .keras or .h5 file. Nothing in it is executed: Lambda layers are refused by Keras."""
    try:
        model = keras.models.load_model(
            path, compile=False, safe_mode=True, custom_objects={"DepthwiseConv2D": _DepthwiseConv2D}
        )
    except Exception as error:  # of many kinds
        raise QatError(
            f"{path}: cannot be read as a Keras model ({reason_of(error)}); save it again with keras"
        ) from None
    return read_model(model, name or Path(path).stem)


def read_model(model: Any, name: str | None = None) -> Program:
    """The operations of a model in evaluation mode.

    Args:
        model: functional or sequential.
        name: of the network; the model's by default.

    Raises:
        QatError: it is a subclass whose calls Keras does not record, or a size is not known.
    """
    if not isinstance(model, (keras.Sequential, keras.Model)) or not getattr(model, "inputs", None):
        raise QatError(f"{type(model).__name__}: has no recorded layers; give a functional or Sequential Keras model")
    reader = _Reader(name or model.name)
    return reader.program(model)


class _Reader:
    def __init__(self, name: str) -> None:
        self.name = name
        self.operations: list[Operation] = []
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.value: dict[int, str] = {}  #: id of a KerasTensor -> the value's name
        self.kept: list[Any] = []  #: tensors whose ids are keys

    def program(self, model: Any) -> Program:
        inputs = {}
        for number, tensor in enumerate(model.inputs):
            value = self._new(tensor, f"input{number}" if len(model.inputs) > 1 else "input")
            inputs[value] = ArraySpec(self.shapes[value], "float32")
        self._model(model, "")
        outputs = tuple(self.value[id(tensor)] for tensor in model.outputs)
        return Program(self.name, inputs, tuple(self.operations), outputs, self.shapes)

    def _model(self, model: Any, prefix: str) -> None:
        for layer, node in _nodes(model):
            if isinstance(layer, keras.layers.InputLayer):
                continue
            taken = tuple(self.value[id(x)] for x in node.arguments.keras_tensors)
            (given,) = node.outputs
            name = f"{prefix}{layer.name}"
            if isinstance(layer, keras.Model):
                for inner, value in zip(layer.inputs, taken, strict=True):
                    self.value[id(inner)] = value
                self._model(layer, f"{name}.")
                self.value[id(given)] = self.value[id(layer.outputs[0])]
                self.kept.append(given)
                continue
            self._layer(layer, name, taken, given)

    def _layer(self, layer: Any, name: str, taken: tuple[str, ...], given: Any) -> None:
        reader = next((_READERS[cls.__name__] for cls in type(layer).__mro__ if cls.__name__ in _READERS), None)
        steps = [("unknown", {"of": type(layer).__name__}, {})] if reader is None else [*reader(layer)]
        for number, (kind, attributes, constants) in enumerate(steps):
            last = number == len(steps) - 1
            value = self._new(given, name if last else f"{name}.{number}", known=last)
            sources = {local: f"{name}/{source}" for local, (source, _) in constants.items()}
            arrays = {local: array for local, (_, array) in constants.items()}
            self.operations.append(Operation(kind, name, taken, value, attributes, arrays, sources, ""))
            taken = (value,)

    def _new(self, tensor: Any, name: str, *, known: bool = True) -> str:
        while name in self.shapes:
            name += "_"
        sizes = tensor.shape[1:]
        if any(size is None for size in sizes):
            raise QatError(f"{self.name}: {name} has shape {tensor.shape}; give the model inputs of a known size")
        self.shapes[name] = (sizes[2], sizes[0], sizes[1]) if len(sizes) == 3 else tuple(sizes)
        if known:
            self.value[id(tensor)] = name
            self.kept.append(tensor)
        return name


def _nodes(model: Any) -> Iterator[tuple[Any, Any]]:
    """The layers of a model with their calls, each after what it takes."""
    function = model._functional if isinstance(model, keras.Sequential) else model
    by_depth = function._nodes_by_depth
    for depth in sorted(by_depth, reverse=True):
        for node in by_depth[depth]:
            yield node.operation, node


Step = tuple[str, dict[str, Any], dict[str, tuple[str, Array]]]


def _array(variable: Any) -> Array:
    return np.asarray(variable, np.float32)


def _activation(function: Any) -> Iterator[Step]:
    name = getattr(function, "__name__", str(function))
    if name == "linear":
        return
    kind, attributes = ACTIVATIONS.get(name, ("unknown", {"of": f"activation {name}"}))
    yield kind, dict(attributes), {}


def _conv2d(layer: Any) -> Iterator[Step]:
    kernel = _array(layer.kernel)
    depthwise = isinstance(layer, keras.layers.DepthwiseConv2D)
    if depthwise:
        height, width, channels, multiplier = kernel.shape
        weight = kernel.reshape(height, width, 1, channels * multiplier).transpose(3, 2, 0, 1)
        groups = channels
    else:
        weight, groups = kernel.transpose(3, 2, 0, 1), layer.groups
    constants = {"weight": ("kernel", weight)}
    if layer.use_bias:
        constants["bias"] = ("bias", _array(layer.bias))
    if layer.padding not in ("same", "valid"):
        yield "unknown", {"of": f"{type(layer).__name__} with padding {layer.padding}"}, {}
        return
    yield (
        "conv2d",
        {
            "stride": tuple(layer.strides),
            "padding": "same" if layer.padding == "same" else (0, 0, 0, 0),
            "dilation": tuple(layer.dilation_rate),
            "groups": groups,
        },
        constants,
    )
    yield from _activation(layer.activation)


def _separable(layer: Any) -> Iterator[Step]:
    depth = _array(layer.depthwise_kernel)
    height, width, channels, multiplier = depth.shape
    options = {"dilation": tuple(layer.dilation_rate), "padding": "same" if layer.padding == "same" else (0, 0, 0, 0)}
    first = depth.reshape(height, width, 1, channels * multiplier).transpose(3, 2, 0, 1)
    yield (
        "conv2d",
        options | {"stride": tuple(layer.strides), "groups": channels},
        {"weight": ("depthwise_kernel", first)},
    )
    constants = {"weight": ("pointwise_kernel", _array(layer.pointwise_kernel).transpose(3, 2, 0, 1))}
    if layer.use_bias:
        constants["bias"] = ("bias", _array(layer.bias))
    yield "conv2d", {"stride": (1, 1), "padding": (0,) * 4, "dilation": (1, 1), "groups": 1}, constants
    yield from _activation(layer.activation)


def _dense(layer: Any) -> Iterator[Step]:
    constants = {"weight": ("kernel", _array(layer.kernel).T)}
    if layer.use_bias:
        constants["bias"] = ("bias", _array(layer.bias))
    yield "dense", {}, constants
    yield from _activation(layer.activation)


def _batch_norm(layer: Any) -> Iterator[Step]:
    constants = {
        "mean": ("moving_mean", _array(layer.moving_mean)),
        "variance": ("moving_variance", _array(layer.moving_variance)),
    }
    if layer.scale:
        constants["gamma"] = ("gamma", _array(layer.gamma))
    if layer.center:
        constants["beta"] = ("beta", _array(layer.beta))
    yield "batch_norm", {"eps": float(layer.epsilon)}, constants


def _relu(layer: Any) -> Iterator[Step]:
    if layer.threshold:
        yield "unknown", {"of": f"ReLU from {layer.threshold}"}, {}
    elif layer.negative_slope:
        yield "activation", {"function": "leaky_relu", "alpha": float(layer.negative_slope)}, {}
    else:
        yield "clip", {"low": 0.0, "high": None if layer.max_value is None else float(layer.max_value)}, {}


def _pool(kind: str) -> Callable[[Any], Iterator[Step]]:
    def read(layer: Any) -> Iterator[Step]:
        padding = "same" if layer.padding == "same" else (0, 0, 0, 0)
        yield (
            kind,
            {
                "kernel": tuple(layer.pool_size),
                "stride": tuple(layer.strides),
                "padding": padding,
                "counts_padding": False,
            },
            {},
        )

    return read


def _rescaling(layer: Any) -> Iterator[Step]:
    for kind, number in (("mul", layer.scale), ("add", layer.offset)):
        yield kind, {}, {"other": (kind, np.asarray(number, np.float32))}


def _normalization(layer: Any) -> Iterator[Step]:
    mean, variance = (np.asarray(x, np.float64).reshape(-1) for x in (layer.mean, layer.variance))
    std = np.maximum(np.sqrt(variance), keras.backend.epsilon())
    yield "mul", {}, {"other": ("variance", (1.0 / std).astype(np.float32))}
    yield "add", {}, {"other": ("mean", (-mean / std).astype(np.float32))}


def _one(kind: str, **attributes: Any) -> Callable[[Any], Iterator[Step]]:
    return lambda layer: iter([(kind, attributes, {})])


_READERS: dict[str, Callable[[Any], Iterator[Step]]] = {
    "Conv2D": _conv2d,
    "DepthwiseConv2D": _conv2d,
    "SeparableConv2D": _separable,
    "Dense": _dense,
    "BatchNormalization": _batch_norm,
    "Activation": lambda layer: _activation(layer.activation),
    "ReLU": _relu,
    "LeakyReLU": lambda layer: iter(
        [("activation", {"function": "leaky_relu", "alpha": float(layer.negative_slope)}, {})]
    ),
    "Softmax": _one("softmax", axis=1),
    "MaxPooling2D": _pool("max_pool2d"),
    "AveragePooling2D": _pool("avg_pool2d"),
    "GlobalAveragePooling2D": lambda layer: iter([("mean", {"axes": (2, 3), "keepdims": bool(layer.keepdims)}, {})]),
    "Flatten": _one("flatten", channels_last=True),
    "Add": _one("add"),
    "Concatenate": lambda layer: iter([("concat", {"axis": 1 if layer.axis in (-1, 3) else layer.axis}, {})]),
    "Dropout": lambda layer: iter([("dropout", {"rate": float(layer.rate)}, {})]),
    "SpatialDropout2D": lambda layer: iter([("dropout", {"rate": float(layer.rate)}, {})]),
    "ZeroPadding2D": lambda layer: iter([("pad", {"widths": ((0, 0), (0, 0), *layer.padding), "value": 0.0}, {})]),
    "Rescaling": _rescaling,
    "Normalization": _normalization,
    "Identity": _one("identity"),
}
