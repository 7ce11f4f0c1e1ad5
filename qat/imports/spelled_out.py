"""Activations that a source spells out in several operations, recognised: hard sigmoid, hard swish."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from qat.imports.program import Operation, Program

Found = tuple[Operation, list[Operation]]  #: what takes the place of the last operation, and the others that go


def recognised(program: Program) -> Program:
    """The same network with spelled-out activations as one operation each."""
    for rule in (_hard_sigmoid, _hard_swish, _hard_swish_at_the_end):
        program = _applied(program, rule)
    return program


def _applied(program: Program, rule: Callable[[Operation, dict[str, Operation]], Found | None]) -> Program:
    made = {each.output: each for each in program.operations}
    takers: dict[str, int] = {}
    for each in program.operations:
        for name in set(each.inputs):
            takers[name] = takers.get(name, 0) + 1
    for name in program.outputs:
        takers[name] = takers.get(name, 0) + 1
    gone: set[str] = set()
    changed: dict[str, Operation] = {}
    for each in program.operations:
        found = rule(each, made)
        if found is not None and all(takers[other.output] == 1 for other in found[1]):
            changed[each.output] = found[0]
            gone |= {other.output for other in found[1]}
    kept = [changed.get(each.output, each) for each in program.operations if each.output not in gone]
    return program.with_operations(kept)


def _constant(each: Operation | None, kind: str, value: float) -> bool:
    """Whether it adds, or multiplies by, one number."""
    if each is None or each.kind != kind or len(each.inputs) != 1 or "other" not in each.constants:
        return False
    other = each.constants["other"]
    return other.size == 1 and bool(np.isclose(float(other.reshape(())), value, rtol=1e-5))


def _ramp(each: Operation | None, made: dict[str, Operation]) -> tuple[str, list[Operation]] | None:
    """min(max(x + 3, 0), 6): x, and the operations."""
    if each is None or each.kind != "clip" or (each.attributes["low"], each.attributes["high"]) != (0.0, 6.0):
        return None
    shift = made.get(each.inputs[0])
    return (shift.inputs[0], [each, shift]) if shift is not None and _constant(shift, "add", 3.0) else None


def _hard_sigmoid(each: Operation, made: dict[str, Operation]) -> Found | None:
    ramp = _ramp(made.get(each.inputs[0]), made) if _constant(each, "mul", 1.0 / 6.0) else None
    return ramp and (_function(each, "hsigmoid", ramp[0]), ramp[1])


def _hard_swish(each: Operation, made: dict[str, Operation]) -> Found | None:
    if each.kind != "mul" or len(each.inputs) != 2:
        return None
    for x, other in (each.inputs, each.inputs[::-1]):
        gate = made.get(other)
        if (
            gate is not None
            and gate.kind == "activation"
            and gate.attributes["function"] == "hsigmoid"
            and gate.inputs == (x,)
        ):
            return _function(each, "hswish", x), [gate]
    return None


def _hard_swish_at_the_end(each: Operation, made: dict[str, Operation]) -> Found | None:
    """x min(max(x + 3, 0), 6), divided by 6 at last."""
    product = made.get(each.inputs[0]) if _constant(each, "mul", 1.0 / 6.0) else None
    if product is None or product.kind != "mul" or len(product.inputs) != 2:
        return None
    for x, other in (product.inputs, product.inputs[::-1]):
        ramp = _ramp(made.get(other), made)
        if ramp is not None and ramp[0] == x:
            return _function(each, "hswish", x), [product, *ramp[1]]
    return None


def _function(each: Operation, name: str, x: str) -> Operation:
    return replace(each, kind="activation", inputs=(x,), attributes={"function": name}, constants={}, sources={})
