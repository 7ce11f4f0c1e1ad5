"""Normalisations that a source spells out in several operations: a vector divided by its length."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from qat.imports.program import Operation, Program


def lengths_recognised(program: Program) -> Program:
    """The same network with every ``x / max(|x|, eps)`` over some axes as one normalisation by the mean of squares.

    That is x / sqrt(mean(x^2)) / sqrt(C), and eps / sqrt(C) squared is what it adds to the mean: they differ where |x| is near
    eps alone, 1e-12.
    """
    made = {each.output: each for each in program.operations}
    operations = []
    for each in program.operations:
        found = _unit(each, made, program)
        operations.append(each if found is None else found)
    return program.with_operations(operations).needed()


def _unit(each: Operation, made: dict[str, Operation], program: Program) -> Operation | None:
    """A division by a length as a normalisation."""
    if each.kind != "elementwise" or each.attributes.get("function") != "div" or len(each.inputs) != 2:
        return None
    x, divisor = each.inputs
    eps = 0.0
    while (before := made.get(divisor)) is not None and before.kind in ("expand", "clip"):
        if before.kind == "clip":
            low = before.attributes["low"]
            if before.attributes["high"] is not None or low is None or not 0.0 < low <= 1e-6:
                return None
            eps = max(eps, low)
        divisor = before.inputs[0]
    if before is None or before.kind != "length" or before.inputs != (x,) or not eps:
        return None
    axes = before.attributes["axes"]
    count = math.prod(program.shapes[x][axis - 1] for axis in axes)
    attributes = {"axes": axes, "eps": max(eps * eps / count, 1e-30)}
    gamma = np.full(count, count**-0.5, np.float32)
    return replace(each, kind="rms_norm", inputs=(x,), attributes=attributes, constants={"gamma": gamma}, sources={})
