"""What each operation of PyTorch's ATen is among the plain operations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from qat.imports.sources import torch_moves, torch_products
from qat.imports.sources.torch_call import Call, Constant, Reader, Step, UnknownOperationError, same, shown
from qat.vocabulary.ops import Array

LINEAR = 15.0  #: from here on a softplus is x in float32, but for 3e-7


def _pair(call: Call, value: Any, along: int = 1) -> tuple[int, int]:
    """Of rows and columns; of a series, whose rows are one, ``along`` for those."""
    values = list(value) if isinstance(value, Sequence) else [value]
    return (along if len(call.input_shape) == 3 else int(values[0])), int(values[-1])


def _around(call: Call, value: Any) -> tuple[int, int, int, int]:
    rows, columns = _pair(call, value, 0)
    return rows, rows, columns, columns


def _image(call: Call) -> None:
    """Raise UnknownOperationError for what is no image and no series."""
    if len(call.input_shape) not in (3, 4):
        raise UnknownOperationError(f"aten.{call.target} of {shown(call.input_shape)}")


def _kernel(call: Call, place: int) -> int | Constant:
    """The weight; of a series with one row."""
    array, source = call.constants[place]
    return (array[:, :, None, :], source) if array.ndim == 3 else place


def _conv2d(call: Call) -> Step:
    _image(call)
    call.needs(1, 2)
    padding = call[4]
    attributes = {
        "stride": _pair(call, call[3]),
        "padding": "same" if padding == "same" else (0, 0, 0, 0) if padding == "valid" else _around(call, padding),
        "dilation": _pair(call, call[5]),
        "groups": int(call[6]),
    }
    return Step("conv2d", attributes, {"weight": _kernel(call, 1), "bias": 2})


def _convolution(call: Call) -> Step:
    if call[6]:
        return _transposed(call, output_padding=7, groups=8, dilation=5)
    arguments = (*call.arguments[:6], call[8])
    return _conv2d(Call(call.target, arguments, call.shapes, call.shape, call.constants))


def _conv_transpose2d(call: Call) -> Step:
    return _transposed(call, output_padding=5, groups=6, dilation=7)


def _transposed(call: Call, *, output_padding: int, groups: int, dilation: int) -> Step:
    """A transposed convolution; where its arguments have these."""
    _image(call)
    call.needs(1, 2)
    attributes = {
        "stride": _pair(call, call[3]),
        "padding": _around(call, call[4]),
        "output_padding": _pair(call, call[output_padding], 0),
        "dilation": _pair(call, call[dilation]),
        "groups": int(call[groups]),
    }
    return Step("conv_transpose2d", attributes, {"weight": _kernel(call, 1), "bias": 2})


def _batch_norm(call: Call) -> Step:
    call.needs(1, 2, 3, 4)
    legit = call.target == "_native_batch_norm_legit_no_training"
    momentum, eps = (call[5], call[6]) if legit else (call[6], call[7])
    if (not legit and call[5]) or call[3] is None or call[4] is None:
        raise UnknownOperationError("aten.batch_norm by the statistics of the batch (track_running_stats=False)")
    attributes = {"eps": float(eps)} | ({} if momentum is None else {"momentum": 1.0 - float(momentum)})
    return Step("batch_norm", attributes, {"gamma": 1, "beta": 2, "mean": 3, "variance": 4})


def _max_pool2d(call: Call) -> Step:
    _image(call)
    kernel = _pair(call, call[1])
    attributes = {
        "kernel": kernel,
        "stride": _pair(call, call[2]) if call[2] else kernel,
        "padding": _around(call, call[3]),
        "dilation": _pair(call, call[4]),
        "ceil": bool(call[5]),
    }
    return Step("max_pool2d", attributes)


def _avg_pool2d(call: Call) -> Step:
    _image(call)
    kernel = _pair(call, call[1])
    divisor = call[6] if len(call.arguments) > 6 else None
    if divisor is not None and divisor != kernel[0] * kernel[1]:
        raise UnknownOperationError(f"aten.{call.target} with divisor_override")
    attributes = {
        "kernel": kernel,
        "stride": _pair(call, call[2]) if call[2] else kernel,
        "padding": _around(call, call[3]),
        "ceil": bool(call[4]),
        "counts_padding": bool(call[5]),
    }
    return Step("avg_pool2d", attributes)


def _adaptive_pool2d(call: Call) -> Step:
    """Equal windows, where the size is a multiple of the wanted one; of other sizes means alone."""
    _image(call)
    sizes, wanted = call.input_shape[2:], call.shape[2:]
    if tuple(sizes) == tuple(wanted):
        return Step("identity")
    average = "avg" in call.target
    if set(wanted) == {1}:
        axes = tuple(range(2, len(call.input_shape)))
        return Step("mean" if average else "max", {"axes": axes, "keepdims": True})
    if any(size % parts for size, parts in zip(sizes, wanted, strict=True)):
        if average and len(wanted) == 2:
            return Step("adaptive_avg_pool2d", {"size": tuple(int(size) for size in wanted)})
        raise UnknownOperationError(f"aten.{call.target} from {tuple(sizes)} to {tuple(wanted)}, in unequal windows")
    kernel = tuple(size // parts for size, parts in zip(sizes, wanted, strict=True))
    kernel = (1, *kernel) if len(kernel) == 1 else kernel
    attributes: dict[str, Any] = {"kernel": kernel, "stride": kernel, "padding": (0, 0, 0, 0)}
    return Step("avg_pool2d", attributes | {"counts_padding": True}) if average else Step("max_pool2d", attributes)


def _over_axes(kind: str) -> Reader:
    """A mean or maximum over some axes, but not that of the samples."""

    def read(call: Call) -> Step:
        rank = len(call.input_shape)
        given = call[1] if isinstance(call[1], Sequence) else () if call[1] is None else (call[1],)
        axes = tuple(sorted(int(axis) % rank for axis in given or range(rank)))
        if axes[0] == 0 or (len(axes) == rank - 1 and not call[2]):
            raise UnknownOperationError(f"aten.{call.target} of {shown(call.input_shape)} over axes {axes}")
        return Step(kind, {"axes": axes, "keepdims": bool(call[2])})

    return read


def _arithmetic(function: str) -> Reader:
    """add, sub, mul, div: of two values, or of a value and a constant."""

    def read(call: Call) -> Step:
        alpha = 1.0
        if function in ("add", "sub") and len(call.arguments) > 2:
            alpha = float(call[2] or 1.0) if call[2] is not False else 0.0
        if function == "div" and len(call.arguments) > 2 and call[2] is not None:
            raise UnknownOperationError(f"aten.div, rounded ({call[2]})")
        first, second = (_given(call, place) for place in (0, 1))
        if call.target.startswith("rsub"):
            first, second = second, first
        if first is None and second is None:
            if alpha != 1.0:
                raise UnknownOperationError(f"aten.{function} with alpha")
            return Step(function) if function in ("add", "mul") else Step("elementwise", {"function": function})
        constant = second if second is not None else first
        assert constant is not None
        if second is None and alpha != 1.0:  # it is the factor of the value
            raise UnknownOperationError(f"aten.{function} with alpha")
        (array, source), shape = constant, call.shapes[1 if call.shapes[0] is None or 0 in call.constants else 0]
        array = _spread(call, array, shape or ())
        if second is None and function in ("sub", "div"):
            return Step("elementwise", {"function": function, "constant_first": True}, {"other": (array, source)})
        if function == "div":
            return Step("mul", {}, {"other": (np.float32(1.0) / array, "")})
        factor = np.float32(-alpha if function == "sub" else alpha)
        kind = "add" if function == "sub" else function
        return Step(kind, {}, {"other": (array, source) if factor == 1.0 else (array * factor, "")})

    return read


def _given(call: Call, place: int) -> Constant | None:
    """A constant argument, a tensor or a number; None: it is a value."""
    if place in call.constants:
        return call.constants[place]
    value = call[place]
    return (np.asarray(value, np.float32), "") if isinstance(value, (bool, int, float)) else None


def _spread(call: Call, array: Array, shape: tuple[Any, ...]) -> Array:
    """A constant as it is spread over one sample. Raises UnknownOperationError where samples have other constants."""
    if array.size == 1 and array.ndim <= len(shape):
        return array.reshape(()).astype(np.float32)
    aligned = (1,) * (len(shape) - array.ndim) + array.shape
    if len(aligned) != len(shape) or aligned[0] != 1 or not same(shape, call.shape):
        raise UnknownOperationError(f"aten.{call.target} of {shown(shape)} and a constant {tuple(array.shape)}")
    return array.reshape(aligned[1:]).astype(np.float32)


def _elementwise(function: str) -> Reader:
    """Of one value; or of two, of which one may be a constant."""

    def read(call: Call) -> Step:
        places = [place for place in range(min(2, len(call.arguments))) if call.shapes[place] or _given(call, place)]
        constants = [(place, found) for place in places if (found := _given(call, place)) is not None]
        if not constants:
            return Step("elementwise", {"function": function})
        ((place, (array, source)),) = constants
        if array.size != 1:
            raise UnknownOperationError(f"aten.{call.target} by a constant {array.shape}")
        attributes = {"function": function} | ({"constant_first": True} if place == 0 else {})
        return Step("elementwise", attributes, {"other": (array.reshape(()), source)})

    return read


def _clamp(call: Call) -> Step:
    low = call.number(1) if call.target != "clamp_max" else None
    high = (
        call.number(2) if call.target in ("clamp", "clip") else call.number(1) if call.target == "clamp_max" else None
    )
    return Step("clip", {"low": low, "high": high})


def _activation(name: str) -> Reader:
    return lambda call: Step("activation", {"function": name})


def _clip(low: float, high: float | None) -> Reader:
    return lambda call: Step("clip", {"low": low, "high": high})


def _elu(call: Call) -> Step:
    if any(float(scale) != 1.0 for scale in call.arguments[2:]):
        raise UnknownOperationError(f"aten.{call.target} of other scales")
    alpha = float(call[1])
    return Step("activation", {"function": call.target} | ({} if alpha == 1.0 else {"alpha": alpha}))


def _gelu(call: Call) -> Step:
    return Step("activation", {"function": "gelu_tanh" if call[1] == "tanh" else "gelu"})


def _softplus(call: Call) -> Step:
    if float(call[1]) * float(call[2]) < LINEAR:  # no random sample may be there
        raise UnknownOperationError(f"aten.softplus that is x above {call[2]}")
    return Step("activation", {"function": "softplus"} | ({"alpha": float(call[1])} if float(call[1]) != 1.0 else {}))


def _prelu(call: Call) -> Step:
    call.needs(1)
    return Step("prelu", {}, {"slope": 1})


def _leaky_relu(call: Call) -> Step:
    return Step("activation", {"function": "leaky_relu", "alpha": float(call[1])})


def _dropout(call: Call) -> Step:
    if call[2]:
        raise UnknownOperationError(f"aten.{call.target} that is active in evaluation (training=True)")
    return Step("dropout", {"rate": float(call[1])})


def _softmax(call: Call) -> Step:
    return Step("softmax", {"axis": int(call[1])})


def _cast(call: Call) -> Step:
    """``to`` and the like: nothing, as long as numbers stay float32."""
    for each in call.arguments[1:]:
        if isinstance(each, torch.dtype) and each != torch.float32:
            raise UnknownOperationError(f"aten.{call.target} {each}")
    return Step("identity")


#: By the operation's name without its overload; in-place variants go by the same.
READERS: Mapping[str, Reader] = {
    **torch_moves.READERS,
    **torch_products.READERS,
    "conv1d": _conv2d,
    "conv2d": _conv2d,
    "convolution": _convolution,
    "conv_transpose1d": _conv_transpose2d,
    "conv_transpose2d": _conv_transpose2d,
    "batch_norm": _batch_norm,
    "_native_batch_norm_legit_no_training": _batch_norm,
    "relu": _clip(0.0, None),
    "relu6": _clip(0.0, 6.0),
    "hardtanh": lambda call: Step("clip", {"low": call.number(1), "high": call.number(2)}),
    "clamp": _clamp,
    "clip": _clamp,
    "clamp_min": _clamp,
    "clamp_max": _clamp,
    "sigmoid": _activation("sigmoid"),
    "tanh": _activation("tanh"),
    "hardsigmoid": _activation("hsigmoid"),
    "hardswish": _activation("hswish"),
    "leaky_relu": _leaky_relu,
    "silu": _activation("silu"),
    "gelu": _gelu,
    "mish": _activation("mish"),
    "elu": _elu,
    "celu": _elu,
    "selu": _activation("selu"),
    "softplus": _softplus,
    "prelu": _prelu,
    "add": _arithmetic("add"),
    "sub": _arithmetic("sub"),
    "rsub": _arithmetic("sub"),
    "mul": _arithmetic("mul"),
    "div": _arithmetic("div"),
    "pow": _elementwise("pow"),
    "maximum": _elementwise("maximum"),
    "minimum": _elementwise("minimum"),
    "neg": _elementwise("neg"),
    "abs": _elementwise("abs"),
    "exp": _elementwise("exp"),
    "log": _elementwise("log"),
    "log1p": _elementwise("log1p"),
    "sqrt": _elementwise("sqrt"),
    "square": _elementwise("square"),
    "reciprocal": _elementwise("reciprocal"),
    "erf": _elementwise("erf"),
    "max_pool1d": _max_pool2d,
    "max_pool2d": _max_pool2d,
    "max_pool2d_with_indices": _max_pool2d,
    "avg_pool1d": _avg_pool2d,
    "avg_pool2d": _avg_pool2d,
    "adaptive_avg_pool1d": _adaptive_pool2d,
    "adaptive_avg_pool2d": _adaptive_pool2d,
    "_adaptive_avg_pool2d": _adaptive_pool2d,
    "adaptive_max_pool2d": _adaptive_pool2d,
    "mean": _over_axes("mean"),
    "amax": _over_axes("max"),
    "glu": lambda call: Step("glu", {"axis": int(call[1])}),
    "softmax": _softmax,
    "_softmax": _softmax,
    "dropout": _dropout,
    "feature_dropout": _dropout,
    "alpha_dropout": _dropout,
    "to": _cast,
    "_to_copy": _cast,
    "type_as": lambda call: Step("identity"),
    "contiguous": lambda call: Step("identity"),
    "clone": lambda call: Step("identity"),
    "alias": lambda call: Step("identity"),
    "detach": lambda call: Step("identity"),
    "lift_fresh": lambda call: Step("identity"),
    "lift_fresh_copy": lambda call: Step("identity"),
}

#: Whose result is the same memory as what they take.
VIEWS = {
    "flatten", "view", "reshape", "_unsafe_view", "squeeze", "unsqueeze", "expand", "expand_as", "transpose",
    "permute", "t", "to", "type_as", "contiguous", "alias", "detach", "dropout", "feature_dropout", "alpha_dropout",
    "chunk", "split", "split_with_sizes", "tensor_split", "unbind", "slice", "select", "narrow", "unflatten", "view_as",
    "swapaxes", "swapdims",
}  # fmt: skip

#: What is computed at once where it depends on no input, as a weight that is standardised.
FOLDED = frozenset(READERS) - {"dropout", "feature_dropout", "alpha_dropout"} | {
    "permute", "t", "transpose", "unsqueeze", "stack", "repeat", "select", "slice", "index", "zeros", "ones", "full",
    "zeros_like", "ones_like", "full_like", "arange", "scalar_tensor", "rsqrt", "sum", "var", "std", "var_mean",
    "norm", "linalg_vector_norm", "_weight_norm", "bitwise_not", "cumsum", "sin", "cos", "sign", "floor_divide", "remainder",
    "ne", "eq", "lt", "gt", "masked_fill", "where", "flip", "linspace", "meshgrid", "index_select", "new_zeros", "new_ones",
    "repeat_interleave", "log2", "outer", "unbind", "chunk", "split", "fill",
}  # fmt: skip
