"""What PyTorch's products and normalisations are among the plain operations."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from qat.imports.sources.torch_call import Call, Constant, Reader, Step, UnknownOperationError, shown


def _linear(call: Call) -> Step:
    call.needs(1, 2)
    if len(call.input_shape) < 2:
        raise UnknownOperationError(f"aten.{call.target} of {shown(call.input_shape)}")
    return Step("dense", {}, {"weight": 1, "bias": 2})


def _product(x: int, weight: int, bias: int | None = None) -> Reader:
    """x W, as decompositions write a dense layer."""

    def read(call: Call) -> Step:
        found = call.constants.get(weight)
        shape = call.shapes[x]
        scaled = any(isinstance(other, (int, float)) and other != 1 for other in call.arguments[3:])
        if found is None or x in call.constants or shape is None or len(shape) < 2 or found[0].ndim != 2 or scaled:
            raise UnknownOperationError(f"aten.{call.target}")
        constants: dict[str, int | Constant] = {
            "weight": (np.ascontiguousarray(found[0].T), found[1] and f"{found[1]}.T")
        }
        if bias is not None:
            call.needs(bias)
            constants["bias"] = bias
        return Step("dense", {}, constants)

    return read


def _layer_norm(call: Call) -> Step:
    """Over the last axes."""
    call.needs(2, 3)
    rank = len(call.input_shape)
    axes = tuple(range(rank - len(call[1]), rank))
    if axes[0] < 1:
        raise UnknownOperationError(f"aten.{call.target} over the samples")
    return Step("layer_norm", {"axes": axes, "eps": float(call[4])}, {"gamma": 2, "beta": 3})


def _rms_norm(call: Call) -> Step:
    call.needs(2)
    rank = len(call.input_shape)
    axes = tuple(range(rank - len(call[1]), rank))
    if axes[0] < 1:
        raise UnknownOperationError(f"aten.{call.target} over the samples")
    eps = float(torch.finfo(torch.float32).eps if call[3] is None else call[3])
    return Step("rms_norm", {"axes": axes, "eps": eps}, {"gamma": 2})


def _group_norm(call: Call) -> Step:
    call.needs(2, 3)
    return Step("group_norm", {"groups": int(call[1]), "eps": float(call[4])}, {"gamma": 2, "beta": 3})


def _matmul(call: Call) -> Step:
    """Of two values, or of one and a weight."""
    if any(place in call.constants for place in (0, 1)):
        return _product(0, 1)(call)
    if any(len(shape or ()) < 3 for shape in call.shapes[:2]):
        raise UnknownOperationError(f"aten.{call.target} of vectors")
    return Step("matmul")


def _einsum(call: Call) -> Step:
    """One that is a product of matrices."""
    unknown = UnknownOperationError(f"aten.einsum {call[0]!r}")
    given, _, wanted = str(call[0]).replace(" ", "").partition("->")
    a, _, b = given.partition(",")
    if not wanted or "." in given or "," in b or min(len(a), len(b)) < 3 or call.constants:
        raise unknown
    batch = a[:-2]
    if b[:-2] != batch or wanted[:-2] != batch:
        raise unknown
    for transpose_a, left in ((False, a[-2:]), (True, a[:-3:-1])):
        for transpose_b, right in ((False, b[-2:]), (True, b[:-3:-1])):
            if left[0] + right[1] == wanted[-2:] and left[1] == right[0]:
                return Step("matmul", {"transpose_a": transpose_a, "transpose_b": transpose_b})
    raise unknown


def _attention(call: Call) -> Step:
    if call[5] or (len(call.arguments) > 7 and call[7]):
        raise UnknownOperationError("aten.scaled_dot_product_attention that is causal, or of groups")
    if any(place in call.constants for place in (0, 1, 2)):
        raise UnknownOperationError("aten.scaled_dot_product_attention of constants")
    given = call[6] if len(call.arguments) > 6 else None
    attributes = {"scale": float(call.input_shape[-1] ** -0.5 if given is None else given)}
    if 3 not in call.constants:
        return Step("attention", attributes)
    array, _ = call.constants[3]
    if not np.isfinite(array).all() or len(array.reshape((1,) * (4 - array.ndim) + array.shape)) != 1:
        raise UnknownOperationError(
            "aten.scaled_dot_product_attention with a mask that has no numbers, or is of samples"
        )
    return Step("attention", attributes, {"mask": (array[0] if array.ndim == len(call.input_shape) else array, "")})


def _length(call: Call) -> Step:
    """The root of the sum of squares."""
    if call[1] not in (2, 2.0) or not call[2] or not call[3]:
        raise UnknownOperationError(f"aten.{call.target}")
    rank = len(call.input_shape)
    return Step("length", {"axes": tuple(int(axis) % rank for axis in call[2])})


READERS: Mapping[str, Reader] = {
    "linear": _linear,
    "addmm": _product(1, 2, 0),
    "mm": _product(0, 1),
    "matmul": _matmul,
    "bmm": _matmul,
    "einsum": _einsum,
    "scaled_dot_product_attention": _attention,
    "layer_norm": _layer_norm,
    "rms_norm": _rms_norm,
    "group_norm": _group_norm,
    "linalg_vector_norm": _length,
}
