"""LiteRT, as a process of its own runs it (``qat.child``): over a damaged file it may crash."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from qat.vocabulary.ops import Array

_state: dict[str, Any] = {}  #: the interpreter that runs, and for how many samples


def answer(question: Mapping[str, Any], arrays: Sequence[Array]) -> list[Array]:
    """To {"reference": whether by reference kernels} and a file's bytes: nothing, it is loaded; "threads" among the words are
    how many it has. To {} and stored inputs (N, ...): the outputs. To {"repeat": count}: the seconds of that many runs over
    the inputs that came last.
    """
    if "reference" in question:
        resolver = OpResolverType.BUILTIN_REF if question["reference"] else OpResolverType.AUTO
        model = Interpreter(
            model_content=arrays[0].tobytes(),
            experimental_op_resolver_type=resolver,
            num_threads=question.get("threads"),
        )
        _state.update(model=model, rows=None)
        return []
    model = _state["model"]
    if "repeat" in question:
        start = time.perf_counter()
        for _ in range(question["repeat"]):
            model.invoke()
        return [np.array([time.perf_counter() - start])]
    inputs = model.get_input_details()
    if len(arrays[0]) != _state["rows"]:
        _state["rows"] = None
        for entry in inputs:
            model.resize_tensor_input(entry["index"], [len(arrays[0]), *entry["shape"][1:]])
        model.allocate_tensors()
        _state["rows"] = len(arrays[0])
    for entry, x in zip(inputs, arrays, strict=True):
        model.set_tensor(entry["index"], x)
    model.invoke()
    return [model.get_tensor(entry["index"]) for entry in model.get_output_details()]
