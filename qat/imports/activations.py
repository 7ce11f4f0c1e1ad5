"""Activations of sources, as cells have them, and what operations are called in messages."""

from __future__ import annotations

import math
from typing import Any

from qat.imports.program import Operation
from qat.imports.spelled_out import described
from qat.vocabulary.activations import RELU_BOUNDS, TABLES

ALL_ACTIVATIONS = frozenset({*RELU_BOUNDS, *TABLES})  #: that cells compute


def activation_of(each: Operation) -> dict[str, Any] | None:
    """The fields of a cell for an activation; None: no cell computes it."""
    if each.kind == "clip":
        low, high = each.attributes["low"], each.attributes["high"]
        unbounded = high is None or math.isinf(high)
        name = "relu" if low == 0.0 and unbounded else "relu6" if low == 0.0 and high == 6.0 else None
        return None if name is None else {"activation": name}
    if each.kind != "activation" or each.attributes["function"] not in ALL_ACTIVATIONS:
        return None
    fields = {"activation": each.attributes["function"]}
    return fields | ({"alpha": each.attributes["alpha"]} if "alpha" in each.attributes else {})


def called(each: Operation) -> str:
    """What an operation is, for messages."""
    if each.kind == "activation":
        return described(each)
    if each.kind == "clip":
        low, high = (
            "none" if bound is None else f"{bound:g}" for bound in (each.attributes["low"], each.attributes["high"])
        )
        return f"a clip from {low} to {high}"
    words = {"add": "an addition", "mul": "a multiplication", "pad": "a padding", "batch_norm": "a batch normalisation"}
    return words.get(each.kind, f"a {each.kind}")
