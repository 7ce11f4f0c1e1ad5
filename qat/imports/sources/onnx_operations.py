"""Operations of ONNX (opset 9 on) as plain operations, by what each is called."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from qat.imports.sources.step_moves import (
    bilinear,
    divided,
    equal_part,
    nearest,
    over_axes,
    parts,
    picked,
    shuffled,
    spread,
)
from qat.imports.sources.steps import (
    Call,
    Reader,
    Step,
    Steps,
    bounded,
    dense,
    elementwise,
    first_axis,
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
    same_padding,
    single,
    unknown,
)
from qat.vocabulary.ops import Array

#: What keeps the order of the numbers.
RESHAPES = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze"})


def _text(options: Mapping[str, Any], name: str, default: str) -> str:
    found = options.get(name, default)
    return found.decode("ascii", "replace") if isinstance(found, bytes) else str(found)


def _sizes(options: Mapping[str, Any], name: str, default: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(int(size) for size in options.get(name, default))


def _window(call: Call, kernel: tuple[int, ...]) -> dict[str, Any] | None:
    """Kernel, stride, padding and dilation, those of a series with one row; None where they are of others."""
    ones, rank = (1,) * len(kernel), len(call.shape())
    stride, dilation = (_sizes(call.options, name, ones) for name in ("strides", "dilations"))
    pads = _sizes(call.options, "pads", (0,) * (2 * len(kernel)))
    auto = _text(call.options, "auto_pad", "NOTSET")
    if rank == 3 and len(kernel) == len(stride) == len(dilation) == 1 and len(pads) == 2:
        kernel, stride, dilation, pads = (1, *kernel), (1, *stride), (1, *dilation), (0, pads[0], 0, pads[1])
        rank = 4
    usual = len(kernel) == len(stride) == len(dilation) == 2 and len(pads) == 4 and rank == 4
    if not usual or call.last or min(*pads, *(size - 1 for size in (*kernel, *stride, *dilation))) < 0:
        return None
    named = {"SAME_UPPER": "same", "SAME_LOWER": "same lower", "VALID": (0, 0, 0, 0)}
    top, left, bottom, right = pads
    padding = named.get(auto, (top, bottom, left, right))
    return {"kernel": kernel, "stride": stride, "padding": padding, "dilation": dilation}


def _conv(call: Call) -> Steps:
    weight, bias = call.constant(1), call.constant(2)
    if weight is None or call.computed(2):
        return unknown(f"{call.of} whose weights are computed")
    if weight.ndim not in (3, 4) or weight.ndim != len(call.shape()):
        return unknown(f"{call.of} of {max(weight.ndim - 2, 0)} dimensions")
    window = _window(call, weight.shape[2:])
    if window is None:
        return unknown(f"{call.of} with negative padding, or of {len(call.shape())} axes")
    del window["kernel"]
    if window["padding"] == "same lower":
        steps = ((1, 1, *weight.shape[2:])[-2:], window["stride"], window["dilation"])
        window["padding"] = same_padding(call.image(), *steps, lower=True)
    constants, sources = {"weight": np.asarray(weight, np.float32)}, {"weight": call.names[1]}
    if weight.ndim == 3:
        constants["weight"] = constants["weight"][:, :, None]
    if bias is not None:
        constants["bias"], sources["bias"] = np.asarray(bias, np.float32), call.names[2]
    return [Step("conv2d", window | {"groups": int(call.options.get("group", 1))}, constants, sources)]


def _conv_transpose(call: Call) -> Steps:
    weight, bias = call.constant(1), call.constant(2)
    if weight is None or call.computed(2):
        return unknown(f"{call.of} whose weights are computed")
    axes = weight.ndim - 2
    if axes not in (1, 2) or weight.ndim != len(call.shape()):
        return unknown(f"{call.of} of {max(axes, 0)} dimensions")
    window = _window(call, weight.shape[2:])
    if window is None or isinstance(window["padding"], str) or "output_shape" in call.options:
        return unknown(f"{call.of} with negative padding, auto_pad or output_shape")
    del window["kernel"]
    further = _sizes(call.options, "output_padding", (0,) * axes)
    constants, sources = {"weight": np.asarray(weight, np.float32)}, {"weight": call.names[1]}
    if axes == 1:
        constants["weight"], further = constants["weight"][:, :, None], (0, *further)
    if bias is not None:
        constants["bias"], sources["bias"] = np.asarray(bias, np.float32), call.names[2]
    attributes = window | {"output_padding": further, "groups": int(call.options.get("group", 1))}
    return [Step("conv_transpose2d", attributes, constants, sources)]


def _gemm(call: Call) -> Steps:
    weight, bias = call.constant(1), call.constant(2)
    if weight is None or weight.ndim != 2 or call.computed(2) or call.options.get("transA", 0):
        return unknown(f"{call.of} of two values, or of a transposed one")
    alpha, beta = (np.float32(call.options.get(name, 1.0)) for name in ("alpha", "beta"))
    placed = weight if call.options.get("transB", 0) else weight.T
    if bias is not None and bias.size != 1 and not bias.size == bias.shape[-1] == len(placed):
        return unknown(f"{call.of} with a constant for each sample")
    sources = {"weight": call.names[1] if alpha == 1.0 else ""}
    if bias is not None:
        sources["bias"] = call.names[2] if beta == 1.0 else ""
        bias = np.asarray(bias, np.float32) * beta
    return dense(call, np.asarray(placed, np.float32) * alpha, bias, sources)


def _matmul(call: Call) -> Steps:
    weight = call.constant(1)
    if weight is None or weight.ndim != 2:
        return multiplied(call)
    return dense(call, weight.T, None, {"weight": call.names[1]})


def _layer_norm(call: Call) -> Steps:
    rank = len(call.shape())
    axis = int(call.options.get("axis", -1)) % max(rank, 1)
    if not rank or (call.last and axis != rank - 1) or any(call.computed(place) for place in (1, 2)):
        return unknown(f"{call.of} over the axes from {axis} on, or whose parameters are computed")
    axes = tuple(first_axis(each, rank, call.last) for each in range(axis, rank))
    named = [(local, place) for local, place in (("gamma", 1), ("beta", 2)) if call.constant(place) is not None]
    constants = {local: np.asarray(call.constant(place), np.float32) for local, place in named}
    options = {"axes": axes, "eps": float(call.options.get("epsilon", 1e-5))}
    return [Step("layer_norm", options, constants, {local: call.names[place] for local, place in named})]


def _instance_norm(call: Call) -> Steps:
    gamma, beta = call.constant(1), call.constant(2)
    if gamma is None or beta is None or call.last or len(call.shape()) < 3:
        return unknown(f"{call.of} along height, or whose parameters are computed")
    constants = {"gamma": np.asarray(gamma, np.float32), "beta": np.asarray(beta, np.float32)}
    options = {"groups": call.shape()[1], "eps": float(call.options.get("epsilon", 1e-5))}
    return [Step("group_norm", options, constants, {"gamma": call.names[1], "beta": call.names[2]})]


def _batch_norm(call: Call) -> Steps:
    local = dict(enumerate(("gamma", "beta", "mean", "variance"), 1))
    arrays = {name: call.constant(place) for place, name in local.items()}
    if any(array is None for array in arrays.values()) or call.options.get("training_mode", 0):
        return unknown(f"{call.of} of a training step, or whose parameters are computed")
    if call.last:
        return unknown(f"{call.of} along height")
    constants = {name: np.asarray(array, np.float32) for name, array in arrays.items()}
    sources = {name: call.names[place] for place, name in local.items()}
    return [Step("batch_norm", {"eps": float(call.options.get("epsilon", 1e-5))}, constants, sources)]


def _clip(call: Call) -> Steps:
    bounds: list[float | None] = []
    for place, name in ((1, "min"), (2, "max")):
        found = call.constant(place)
        if call.computed(place) or (found is not None and found.size != 1):
            return unknown(f"{call.of} to computed bounds")
        given = call.options.get(name) if found is None else found.reshape(())
        bounds.append(None if given is None or abs(float(given)) >= np.finfo(np.float32).max else float(given))
    return [Step("clip", {"low": bounds[0], "high": bounds[1]})]


def _hard_sigmoid(call: Call) -> Steps:
    alpha, beta = float(call.options.get("alpha", 0.2)), float(call.options.get("beta", 0.5))
    if beta == 0.5 and math.isclose(alpha, 1.0 / 6.0, rel_tol=1e-5):
        return function("hsigmoid")(call)
    return function("hard_sigmoid", alpha=alpha, beta=beta)(call)


def _selu(call: Call) -> Steps:
    usual = set(call.options) <= {"alpha", "gamma"} and all(
        math.isclose(call.options.get(name, number), number, rel_tol=1e-5)
        for name, number in (("alpha", 1.67326319), ("gamma", 1.05070102))
    )
    return function("selu")(call) if usual else unknown(f"{call.of} with another alpha or gamma")


def _gelu(call: Call) -> Steps:
    return function("gelu_tanh" if _text(call.options, "approximate", "none") == "tanh" else "gelu")(call)


def _added(call: Call) -> Steps:
    if len(call.given) == 1:
        return [Step("identity")]
    return elementwise("add")(call) if len(call.given) == 2 else unknown(f"{call.of} of {len(call.given)} values")


def _pool(kind: str) -> Reader:
    def read(call: Call) -> Steps:
        window = _window(call, _sizes(call.options, "kernel_shape", ()))
        if window is None or call.options.get("storage_order", 0):
            return unknown(f"{call.of} of {max(len(call.shape()) - 2, 0)} dimensions")
        if kind == "avg_pool2d" and window["dilation"] != (1, 1):
            return unknown(f"{call.of} with dilation")
        counts = bool(call.options.get("count_include_pad", 0))
        return pooled(call, kind, window, ceil=bool(call.options.get("ceil_mode", 0)), counts=counts)

    return read


def _over_image(kind: str) -> Reader:
    def read(call: Call) -> Steps:
        rank = len(call.shape())
        return unknown(f"{call.of} along height") if call.last else over_axes(call, kind, range(2, rank), True)

    return read


def _reduced(kind: str) -> Reader:
    def read(call: Call) -> Steps:
        axes = call.constant(1)
        found = call.options.get("axes") if axes is None else np.ravel(axes).tolist()
        if call.computed(1):
            return unknown(f"{call.of} over computed axes")
        if not found and call.options.get("noop_with_empty_axes", 0):
            return [Step("identity")]
        return over_axes(call, kind, found or range(len(call.shape())), bool(call.options.get("keepdims", 1)))

    return read


def _slice(call: Call) -> Steps:
    if any(call.computed(place) for place in (1, 2, 3, 4)):
        return unknown(f"{call.of} by computed places")

    def numbers(place: int, name: str) -> list[int] | None:
        found = call.constant(place)
        given = call.options.get(name) if found is None else np.ravel(found).tolist()
        return None if given is None else [int(each) for each in given]

    starts, stops = numbers(1, "starts"), numbers(2, "ends")
    if starts is None or stops is None:
        return unknown(f"{call.of} without places")
    axes = numbers(3, "axes") or list(range(len(starts)))
    return parts(call, axes, starts, stops, numbers(4, "steps") or [1] * len(starts))


def split(call: Call, place: int) -> Steps:
    """One of the results of a Split. place: which."""
    sizes, axis = call.constant(1), int(call.options.get("axis", 0))
    if call.computed(1) or not call.shape() or call.result is None:
        return unknown(f"{call.of} by computed sizes")
    given = call.options.get("split") if sizes is None else np.ravel(sizes).tolist()
    if given:
        return divided(call, axis, given, place)
    size, count = call.shape()[axis % len(call.shape())], int(call.options.get("num_outputs", 0))
    return equal_part(call, axis, -(-size // count) if count else call.result[axis % len(call.result)], place)


def _blocks(deep: bool) -> Reader:
    def read(call: Call) -> Steps:
        order = "dcr" if deep else _text(call.options, "mode", "DCR").lower()
        return shuffled(call, int(call.options["blocksize"]), order, deep=deep)

    return read


def _resized(call: Call) -> Steps:
    """Nearest neighbours, as the options place and round them (ONNX's definition of Resize), or bilinear interpolation."""
    mode = _text(call.options, "mode", "nearest")
    old = call.of == "Upsample"
    where = _text(call.options, "coordinate_transformation_mode", "asymmetric" if old else "half_pixel")
    way = _text(call.options, "nearest_mode", "floor" if old else "round_prefer_floor")
    if mode == "linear" and where in ("align_corners", "half_pixel", "pytorch_half_pixel"):
        return bilinear(call, align_corners=where == "align_corners")
    if mode != "nearest":
        return unknown(f"{call.of} with mode {mode}{f' and {where}' if mode == 'linear' else ''}")

    def placed(x: Array, factor: float, size: int) -> Array:
        if where == "asymmetric":
            found = x / factor
        elif where == "align_corners":
            found = x * ((size - 1) / max(size * factor - 1, 1))
        else:
            found = (x + 0.5) / factor - 0.5
        rules: dict[str, Any] = {
            "floor": np.floor,
            "ceil": np.ceil,
            "round_prefer_floor": lambda x: np.ceil(x - 0.5),
            "round_prefer_ceil": lambda x: np.floor(x + 0.5),
        }
        return np.asarray(rules[way](found))

    if where not in ("asymmetric", "align_corners", "half_pixel", "pytorch_half_pixel"):
        return unknown(f"{call.of} with {where}")
    return nearest(call, placed)


def _softmax(opset: int) -> Reader:
    def read(call: Call) -> Steps:
        joins = opset < 13
        return normalised(call, int(call.options.get("axis", 1 if joins else -1)), joins=joins)

    return read


def _pad(call: Call) -> Steps:
    mode = _text(call.options, "mode", "constant")
    pads, value, axes = call.constant(1), call.constant(2), call.constant(3)
    if mode not in ("constant", "reflect"):
        return unknown(f"{call.of} with mode {mode}")
    if any(call.computed(place) for place in (1, 2, 3)):
        return unknown(f"{call.of} by computed widths")
    widths = list(call.options.get("pads", ())) if pads is None else np.ravel(pads).tolist()
    rank = len(call.shape())
    chosen = list(range(rank)) if axes is None else [int(axis) % max(rank, 1) for axis in np.ravel(axes)]
    if not rank or len(widths) != 2 * len(chosen):
        return unknown(f"{call.of} of a size that is not known")
    pairs = [(0, 0)] * rank
    for place, axis in enumerate(chosen):
        pairs[axis] = (int(widths[place]), int(widths[place + len(chosen)]))
    number = call.options.get("value", 0.0) if value is None else value.reshape(())
    return padded(call, pairs, float(number), mode)


def _dropout(call: Call) -> Steps:
    training = call.constant(2)
    if call.computed(2) or (training is not None and training.any()):
        return unknown(f"{call.of} of a training step")
    ratio = call.constant(1)
    return [Step("dropout", {"rate": float(call.options.get("ratio", 0.5) if ratio is None else ratio)})]


def _cast(call: Call) -> Steps:
    """To real numbers: those that shapes are made of are constants before."""
    return [Step("identity")] if call.options.get("to") in (1, 10, 11) else unknown(f"{call.of} to whole numbers")


def readers(opset: int) -> dict[str, Reader]:
    """Of each operation, what makes it steps. opset: of the file."""
    return READERS | {"Softmax": _softmax(opset)}


READERS: dict[str, Reader] = {
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "BatchNormalization": _batch_norm,
    "LayerNormalization": _layer_norm,
    "InstanceNormalization": _instance_norm,
    "Relu": one("clip", low=0.0, high=None),
    "Clip": _clip,
    "Max": bounded("maximum", "low"),
    "Min": bounded("minimum", "high"),
    "Sigmoid": function("sigmoid"),
    "Tanh": function("tanh"),
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": function("hswish"),
    "Gelu": _gelu,
    "Elu": lambda call: function("elu", alpha=float(call.options.get("alpha", 1.0)))(call),
    "Selu": _selu,
    "Mish": function("mish"),
    "Softplus": function("softplus"),
    "Softsign": function("softsign"),
    "Erf": single("erf"),
    "Exp": single("exp"),
    "Log": single("log"),
    "Sqrt": single("sqrt"),
    "Abs": single("abs"),
    "Reciprocal": single("reciprocal"),
    "Pow": power,
    "LeakyRelu": lambda call: function("leaky_relu", alpha=float(call.options.get("alpha", 0.01)))(call),
    "PRelu": prelu,
    "Add": elementwise("add"),
    "Sum": _added,
    "Sub": elementwise("add", "sub"),
    "Mul": elementwise("mul"),
    "Div": elementwise("mul", "div"),
    "Neg": negated,
    "MaxPool": _pool("max_pool2d"),
    "AveragePool": _pool("avg_pool2d"),
    "GlobalAveragePool": _over_image("mean"),
    "GlobalMaxPool": _over_image("max"),
    "ReduceMean": _reduced("mean"),
    "ReduceMax": _reduced("max"),
    "Slice": _slice,
    "Gather": lambda call: picked(call, int(call.options.get("axis", 0))),
    "Expand": spread,
    "DepthToSpace": _blocks(deep=False),
    "SpaceToDepth": _blocks(deep=True),
    "Resize": _resized,
    "Upsample": _resized,
    "Concat": lambda call: joined(call, int(call.options["axis"])),
    "Pad": _pad,
    "Dropout": _dropout,
    "Identity": one("identity"),
    "Cast": _cast,
}


def read(found: dict[str, Reader], call: Call, place: int) -> Steps:
    """What an operation is. found: of this opset; place: which of its results is meant, where it has several."""
    if call.of == "Split":
        return split(call, place)
    return found[call.of](call) if call.of in found else unknown(call.of)
