"""LiteRT, as a process of its own runs it (``qat.child``): over a damaged file it may crash."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from qat.vocabulary.ops import Array

_state: dict[str, Any] = {}  #: the interpreter that runs


def answer(question: Mapping[str, Any], arrays: Sequence[Array]) -> list[Array]:
    """To {"inputs": sizes of each, "count": of tensors} and a file's bytes: the sizes of its tensors; it is loaded. To
    {"tensors": their numbers} and inputs (N, ...), as the file takes them: what these tensors hold, for each sample.
    """
    if "inputs" in question:
        model = Interpreter(
            model_content=arrays[0].tobytes(),
            experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,  # a delegate keeps no tensors
            experimental_preserve_all_tensors=True,
        )
        for entry, sizes in zip(model.get_input_details(), question["inputs"], strict=True):
            if list(entry["shape"]) != sizes:
                model.resize_tensor_input(entry["index"], sizes)
        model.allocate_tensors()
        _state["model"] = model
        details = {entry["index"]: entry["shape"] for entry in model.get_tensor_details()}
        return [np.asarray(details.get(index, ()), np.int64) for index in range(question["count"])]
    model = _state["model"]
    found: list[list[Array]] = [[] for _ in question["tensors"]]
    for sample in range(len(arrays[0])):
        for entry, x in zip(model.get_input_details(), arrays, strict=True):
            model.set_tensor(entry["index"], x[sample : sample + 1])
        model.invoke()
        for each, index in zip(found, question["tensors"], strict=True):
            each.append(np.array(model.get_tensor(index)))
    return [np.concatenate(each) for each in found]
