"""Activations of sources, as cells have them, and what operations are called in messages."""

from __future__ import annotations

import math
from typing import Any

from qat.cells import Activation
from qat.imports.program import Operation
from qat.imports.spelled_out import described
from qat.vocabulary.activations import FUSED, PARAMETERS, RELU_BOUNDS, TABLES


def activation_of(each: Operation) -> Activation | None:
    """The cell of an activation; None: none computes it."""
    if each.kind == "clip":
        low, high = (_bound(each.attributes[name]) for name in ("low", "high"))
        if low == 0.0 and high in (None, 6.0):
            return Activation("relu" if high is None else "relu6")
        return None if low is None and high is None else Activation("clip", low=low, high=high)
    function = each.attributes.get("function") if each.kind == "activation" else None
    if function not in TABLES and function not in RELU_BOUNDS:
        return None
    given = {name: value for name, value in each.attributes.items() if name in ("alpha", "beta", "low", "high")}
    if unknown := given.keys() - PARAMETERS.get(function, {}):
        return None if any(given[name] != 1.0 for name in unknown) else Activation(function)
    return Activation(function, **given)


def fused(each: Operation) -> dict[str, Any] | None:
    """The fields of a linear cell for an activation behind it; None: it is none, or has parameters that linear cells lack."""
    cell = activation_of(each)
    if cell is None or cell.function not in FUSED or cell.beta is not None:
        return None
    return {"activation": cell.function} | ({} if cell.alpha is None else {"alpha": cell.alpha})


def _bound(value: float | None) -> float | None:
    """None for a bound that is infinite."""
    return None if value is None or math.isinf(value) else value


#: How operations are called that are not "a" and their kind.
WORDS = {
    "add": "an addition", "sub": "a difference", "mul": "a multiplication", "pad": "a padding", "unpad": "a crop",
    "batch_norm": "a batch normalisation", "dense": "a dense layer", "conv2d": "a convolution", "concat": "a concatenation",
    "max_pool2d": "a max pooling", "avg_pool2d": "an average pooling", "expand": "an expansion", "upsample": "an upsampling",
    "layer_norm": "a layer normalisation", "transpose": "a transposition", "select": "a part", "slice": "a part",
}  # fmt: skip


def called(each: Operation) -> str:
    """What an operation is, for messages."""
    if each.kind == "activation":
        return described(each)
    if each.kind == "clip":
        low, high = (
            "none" if bound is None else f"{bound:g}" for bound in (each.attributes["low"], each.attributes["high"])
        )
        return f"a clip from {low} to {high}"
    return WORDS.get(each.kind, f"a {each.kind}")
