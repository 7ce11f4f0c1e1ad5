"""What each operation of PyTorch's ATen is among the plain operations."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from qat.imports.sources.torch_call import Call, Constant, Step, UnknownOperationError
from qat.vocabulary.ops import Array

Reader = Callable[[Call], Step]


def _pair(value: Any) -> tuple[int, int]:
    values = list(value) if isinstance(value, Sequence) else [value]
    return int(values[0]), int(values[-1])


def _around(value: Any) -> tuple[int, int, int, int]:
    rows, columns = _pair(value)
    return rows, rows, columns, columns


def _image(call: Call) -> None:
    if len(call.input_shape) != 4:
        raise UnknownOperationError(f"aten.{call.target} of {_shown(call.input_shape)}")


def _shown(shape: Sequence[Any]) -> str:
    return f"({', '.join(['N', *map(str, shape[1:])])})"


def _conv2d(call: Call) -> Step:
    _image(call)
    call.needs(1, 2)
    padding = call[4]
    attributes = {
        "stride": _pair(call[3]),
        "padding": "same" if padding == "same" else (0, 0, 0, 0) if padding == "valid" else _around(padding),
        "dilation": _pair(call[5]),
        "groups": int(call[6]),
    }
    return Step("conv2d", attributes, {"weight": 1, "bias": 2})


def _convolution(call: Call) -> Step:
    if call[6]:
        raise UnknownOperationError("aten.convolution, transposed")
    arguments = (*call.arguments[:6], call[8])
    return _conv2d(Call(call.target, arguments, call.shapes, call.shape, call.constants))


def _linear(call: Call) -> Step:
    call.needs(1, 2)
    if len(call.input_shape) != 2:
        raise UnknownOperationError(f"aten.{call.target} over the last axis of {_shown(call.input_shape)}")
    return Step("dense", {}, {"weight": 1, "bias": 2})


def _product(x: int, weight: int, bias: int | None = None) -> Reader:
    """x W, as decompositions write a dense layer."""

    def read(call: Call) -> Step:
        found = call.constants.get(weight)
        shape = call.shapes[x]
        scaled = any(isinstance(other, (int, float)) and other != 1 for other in call.arguments[3:])
        if found is None or x in call.constants or shape is None or len(shape) != 2 or found[0].ndim != 2 or scaled:
            raise UnknownOperationError(f"aten.{call.target}")
        constants: dict[str, int | Constant] = {
            "weight": (np.ascontiguousarray(found[0].T), found[1] and f"{found[1]}.T")
        }
        if bias is not None:
            call.needs(bias)
            constants["bias"] = bias
        return Step("dense", {}, constants)

    return read


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
    kernel = _pair(call[1])
    attributes = {
        "kernel": kernel,
        "stride": _pair(call[2]) if call[2] else kernel,
        "padding": _around(call[3]),
        "dilation": _pair(call[4]),
        "ceil": bool(call[5]),
    }
    return Step("max_pool2d", attributes)


def _avg_pool2d(call: Call) -> Step:
    _image(call)
    kernel = _pair(call[1])
    if call[6] is not None and call[6] != kernel[0] * kernel[1]:
        raise UnknownOperationError("aten.avg_pool2d with divisor_override")
    attributes = {
        "kernel": kernel,
        "stride": _pair(call[2]) if call[2] else kernel,
        "padding": _around(call[3]),
        "ceil": bool(call[4]),
        "counts_padding": bool(call[5]),
    }
    return Step("avg_pool2d", attributes)


def _adaptive_pool2d(call: Call) -> Step:
    """Equal windows, where the size is a multiple of the wanted one."""
    _image(call)
    sizes, wanted = call.input_shape[2:], call.shape[2:]
    if tuple(sizes) == tuple(wanted):
        return Step("identity")
    average = "avg" in call.target
    if average and tuple(wanted) == (1, 1):
        return Step("mean", {"axes": (2, 3), "keepdims": True})
    if any(size % parts for size, parts in zip(sizes, wanted, strict=True)):
        raise UnknownOperationError(f"aten.{call.target} from {tuple(sizes)} to {tuple(wanted)}, in unequal windows")
    kernel = tuple(size // parts for size, parts in zip(sizes, wanted, strict=True))
    attributes: dict[str, Any] = {"kernel": kernel, "stride": kernel, "padding": (0, 0, 0, 0)}
    return Step("avg_pool2d", attributes | {"counts_padding": True}) if average else Step("max_pool2d", attributes)


def _mean(call: Call) -> Step:
    rank = len(call.input_shape)
    axes = tuple(sorted(int(axis) % rank for axis in call[1] or range(rank)))
    if rank != 4 or axes != (2, 3):
        raise UnknownOperationError(f"aten.{call.target} of {_shown(call.input_shape)} over axes {axes}")
    keepdims = bool(call[2])
    if call.target == "mean":
        return Step("mean", {"axes": axes, "keepdims": keepdims})
    if not keepdims:
        raise UnknownOperationError(
            f"aten.{call.target} of {_shown(call.input_shape)} over axes {axes} without keepdim"
        )
    size = tuple(call.input_shape[2:])
    return Step("max_pool2d", {"kernel": size, "stride": size, "padding": (0, 0, 0, 0)})


def _reshaped(call: Call) -> Step:
    """A view or a squeeze: nothing, or a flatten."""
    before, after = call.input_shape, call.shape
    if _same(before, after):
        return Step("identity")
    if len(after) == 2 and len(before) == 4 and _same(before[:1], after[:1]):
        return Step("flatten")
    shape = f"({', '.join(map(str, after))})"
    raise UnknownOperationError(
        f"aten.{call.target} of {_shown(before)} to {_shown(after) if _same(before[:1], after[:1]) else shape}"
    )


def _same(a: Sequence[Any], b: Sequence[Any]) -> bool:
    """Whether sizes, of which a batch may be symbolic, are equal."""
    return [str(size) for size in a] == [str(size) for size in b]


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
        array = _channels(call, array, shape or ())
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


def _channels(call: Call, array: Array, shape: tuple[Any, ...]) -> Array:
    """A constant as one number, or one for each channel. Raises UnknownOperationError where it broadcasts otherwise."""
    if array.size == 1:
        return array.reshape(()).astype(np.float32)
    aligned = (1,) * (len(shape) - array.ndim) + array.shape
    if (
        len(aligned) != len(shape)
        or aligned[0] != 1
        or any(size != 1 for size in aligned[2:])
        or aligned[1] != shape[1]
    ):
        raise UnknownOperationError(f"aten.{call.target} of {_shown(shape)} and a constant {tuple(array.shape)}")
    return array.reshape(-1, *(1,) * (len(shape) - 2)).astype(np.float32)


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
    plain = (float(call[1]), *(float(a) for a in call.arguments[2:])) == (1.0,) * (len(call.arguments) - 1)
    return Step("activation", {"function": call.target} | ({} if plain else {"alpha": float(call[1])}))


def _gelu(call: Call) -> Step:
    return Step("activation", {"function": "gelu_tanh" if call[1] == "tanh" else "gelu"})


def _softplus(call: Call) -> Step:
    return Step("activation", {"function": "softplus"} | ({"alpha": float(call[1])} if float(call[1]) != 1.0 else {}))


def _prelu(call: Call) -> Step:
    call.needs(1)
    return Step("activation", {"function": "prelu"}, {"alpha": 1})


def _leaky_relu(call: Call) -> Step:
    return Step("activation", {"function": "leaky_relu", "alpha": float(call[1])})


def _pad(call: Call) -> Step:
    mode = "constant" if call.target == "constant_pad_nd" or len(call.arguments) < 3 else call[2]
    if mode != "constant":
        raise UnknownOperationError(f"aten.pad with mode {mode!r}")
    value = call.arguments[2] if call.target == "constant_pad_nd" else call.arguments[3]
    widths = [(0, 0)] * len(call.input_shape)
    for number, start in enumerate(range(0, len(call[1]), 2), 1):
        widths[-number] = (int(call[1][start]), int(call[1][start + 1]))
    return Step("pad", {"widths": tuple(widths), "value": float(value or 0.0)})


def _dropout(call: Call) -> Step:
    if call[2]:
        raise UnknownOperationError(f"aten.{call.target} that is active in evaluation (training=True)")
    return Step("dropout", {"rate": float(call[1])})


def _softmax(call: Call) -> Step:
    return Step("softmax", {"axis": int(call[1])})


def _cat(call: Call) -> Step:
    return Step("concat", {"axis": int(call[1])})


def _cast(call: Call) -> Step:
    """``to`` and the like: nothing, as long as numbers stay float32."""
    for each in call.arguments[1:]:
        if isinstance(each, torch.dtype) and each != torch.float32:
            raise UnknownOperationError(f"aten.{call.target} {each}")
    return Step("identity")


#: By the operation's name without its overload; in-place variants go by the same.
READERS: Mapping[str, Reader] = {
    "conv2d": _conv2d,
    "convolution": _convolution,
    "linear": _linear,
    "addmm": _product(1, 2, 0),
    "mm": _product(0, 1),
    "matmul": _product(0, 1),
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
    "max_pool2d": _max_pool2d,
    "max_pool2d_with_indices": _max_pool2d,
    "avg_pool2d": _avg_pool2d,
    "adaptive_avg_pool2d": _adaptive_pool2d,
    "_adaptive_avg_pool2d": _adaptive_pool2d,
    "adaptive_max_pool2d": _adaptive_pool2d,
    "mean": _mean,
    "amax": _mean,
    "flatten": _reshaped,
    "view": _reshaped,
    "reshape": _reshaped,
    "_unsafe_view": _reshaped,
    "squeeze": _reshaped,
    "expand": _reshaped,
    "expand_as": _reshaped,
    "cat": _cat,
    "concat": _cat,
    "concatenate": _cat,
    "pad": _pad,
    "constant_pad_nd": _pad,
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
    "chunk", "split", "unbind", "slice", "select", "narrow",
}  # fmt: skip

#: What is computed at once where it depends on no input, as a weight that is standardised.
FOLDED = frozenset(READERS) - {"dropout", "feature_dropout", "alpha_dropout"} | {
    "permute", "t", "transpose", "unsqueeze", "stack", "repeat", "select", "slice", "index", "zeros", "ones", "full",
    "zeros_like", "ones_like", "full_like", "arange", "scalar_tensor", "rsqrt", "sum", "var", "std", "var_mean",
    "norm", "linalg_vector_norm", "_weight_norm",
}  # fmt: skip
