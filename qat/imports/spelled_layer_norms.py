"""Layer normalisations that a source spells out in several operations, recognised by their numbers.

A run of operations between two values that has means over axes in it is computed on random numbers. Where these are, with one
factor and shift along the axes, those normalised over them, the run is one operation, whichever way it is written.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from qat.imports.program import Operation, Program
from qat.imports.spelled_out import ELEMENTWISE, Runs
from qat.vocabulary.ops import Array

SAMPLES = 4  #: of random numbers
TOLERANCE = 1e-4
MOST = 1 << 18  #: numbers of a sample that is computed on
LARGEST_EPS = 0.1
PARTS = ("add", "mul", "sub", "identity")
OF_TWO = {"add": np.add, "mul": np.multiply, "sub": np.subtract}


def layer_norms_recognised(program: Program) -> Program:
    """The same network with layer normalisations, and those by the mean of squares, as one operation each.

    Args:
        program: of a front end.

    Returns:
        The program.
    """
    means = [each for each in program.operations if each.kind == "mean" and each.attributes["keepdims"]]
    if not means:
        return program
    runs = Runs(program, _is_part)
    changed: dict[str, Operation] = {}
    gone: set[str] = set()
    for each in reversed(program.operations):
        if each.output not in gone and (found := _norm(program, runs, each)) is not None:
            changed[each.output], inner = found
            gone |= inner
    kept = [changed.get(each.output, each) for each in program.operations if each.output not in gone]
    return program.with_operations(kept)


def _is_part(each: Operation) -> bool:
    if each.kind == "mean":
        return bool(each.attributes["keepdims"])
    if each.kind == "elementwise":
        return each.attributes["function"] in ELEMENTWISE
    return each.kind in PARTS or (each.kind == "expand" and len(each.inputs) == 1)


def _norm(program: Program, runs: Runs, each: Operation) -> tuple[Operation, set[str]] | None:
    """The normalisation that ends in an operation, and the values inside of it; None: it ends none."""
    if each.output not in runs.made:
        return None
    for root in reversed(runs.roots(each)):
        inside = runs.between(root, each)
        shape = program.shapes.get(root)
        if inside is None or shape is None:
            continue
        parts = [runs.made[value] for value in inside]
        axes = {tuple(part.attributes["axes"]) for part in parts if part.kind == "mean"}
        if len(axes) != 1 or math.prod(shape) > MOST:
            continue
        (over,) = axes
        steps = [part for part in parts if part.kind == "add" and len(part.inputs) == 1]
        sizes = {float(part.constants["other"].reshape(())) for part in steps if part.constants["other"].size == 1}
        for eps in sorted(size for size in sizes if 0.0 < size <= LARGEST_EPS):
            if (found := _fitted(runs, root, each, shape, over, eps)) is not None:
                kind, constants = found
                attributes = {"axes": over, "eps": eps}
                made = replace(each, kind=kind, inputs=(root,), attributes=attributes, constants=constants, sources={})
                return made, inside - {each.output}
    return None


def _fitted(
    runs: Runs, root: str, each: Operation, shape: tuple[int, ...], over: tuple[int, ...], eps: float
) -> tuple[str, Mapping[str, Array]] | None:
    """The kind, and factor and shift along the axes, with which a run is a normalisation of its root."""
    rng = np.random.default_rng(0)
    x = rng.normal(0.5, 1.0, (SAMPLES, *shape))
    x[SAMPLES // 2 :] *= math.sqrt(eps)  # of which eps is no small part
    with np.errstate(all="ignore"):
        try:
            y = _numbers(runs, each.output, {root: x})
        except (ValueError, KeyError):
            return None
    if y.shape != x.shape or not np.isfinite(y).all():
        return None
    others = tuple(axis for axis in range(len(x.shape)) if axis not in over)
    for kind in ("layer_norm", "rms_norm"):
        centred = x - x.mean(over, keepdims=True) if kind == "layer_norm" else x
        normal = centred / np.sqrt((centred**2).mean(over, keepdims=True) + eps)
        shift = np.zeros(())
        a, b = normal, y
        if kind == "layer_norm":  # least squares, of each place along the axes
            shift = y.mean(others, keepdims=True)
            a, b = normal - normal.mean(others, keepdims=True), y - shift
        factor = (a * b).sum(others, keepdims=True) / (a * a).sum(others, keepdims=True)
        if kind == "layer_norm":
            shift = shift - factor * normal.mean(others, keepdims=True)
        if np.abs(factor * normal + shift - y).max() > TOLERANCE * max(1.0, float(np.abs(y).max())):
            continue
        sizes = tuple(shape[axis - 1] for axis in over)
        constants = {"gamma": factor.reshape(sizes).astype(np.float32)}
        if kind == "layer_norm":
            constants["beta"] = shift.reshape(sizes).astype(np.float32)
        return kind, constants
    return None


def _numbers(runs: Runs, value: str, known: dict[str, Array]) -> Array:
    """What a value is where the root is known, in float64."""
    if value not in known:
        each = runs.made[value]
        given: list[Any] = [_numbers(runs, name, known) for name in each.inputs]
        options = each.attributes
        if each.kind == "mean":
            known[value] = given[0].mean(tuple(options["axes"]), keepdims=True)
        elif each.kind == "identity":
            known[value] = given[0]
        elif each.kind == "expand":
            known[value] = np.broadcast_to(given[0], (len(given[0]), *options["shape"]))
        else:
            constants = [array.astype(np.float64) for array in each.constants.values()]
            every = [*constants, *given] if options.get("constant_first") else [*given, *constants]
            function: Any = OF_TWO[each.kind] if each.kind in OF_TWO else ELEMENTWISE[options["function"]]
            known[value] = np.asarray(function(*every))
    return known[value]
