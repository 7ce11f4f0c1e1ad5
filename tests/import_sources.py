"""Sources of imports made by hand: programs whose operations are computed one by one in NumPy."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np

from qat.imports.program import Operation, Program
from qat.imports.source import Opened
from qat.imports.spelled_out import ELEMENTWISE, NAMED
from qat.vocabulary.activations import TABLES, apply_table
from qat.vocabulary.arrays import ArraySpec
from qat.vocabulary.numpy_ops import NUMPY_OPS
from qat.vocabulary.ops import Array


def opened(program: Program, *, wrong: str = "") -> Opened:
    """A source that computes its program. wrong: a value to which it adds 1."""

    def trace(samples: tuple[Array, ...], values: Collection[str]) -> dict[str, Array]:
        found = dict(zip(program.inputs, samples, strict=True))
        for each in program.operations:
            found[each.output] = computed(each, [found[name] for name in each.inputs]) + np.float32(
                each.output == wrong
            )
        return {name: found[name] for name in values}

    return Opened(program, trace)


def computed(each: Operation, given: list[Array]) -> Array:
    """What an operation gives, float32 (N, ...)."""
    x, constants, options = given[0] if given else None, each.constants, each.attributes
    assert x is not None
    if x.ndim == 3 and each.kind in ("conv2d", "max_pool2d", "avg_pool2d"):  # a series is an image of one row
        return computed(each, [x[:, :, None]])[:, :, 0]
    if each.kind == "conv2d":
        top, bottom, left, right = options["padding"]
        padded = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)))
        y: Array = _convolved(padded, constants["weight"], options)
        return y + constants["bias"].reshape(-1, 1, 1) if "bias" in constants else y
    if each.kind == "dense":
        y = x @ constants["weight"].T
        return y + constants["bias"] if "bias" in constants else y
    if each.kind == "batch_norm":
        by_channel = {name: array.reshape(-1, *(1,) * (x.ndim - 2)) for name, array in constants.items()}
        y = (x - by_channel["mean"]) / np.sqrt(by_channel["variance"] + np.float32(options["eps"]))
        return y * by_channel["gamma"] + by_channel["beta"]
    if each.kind == "clip":
        return np.clip(x, options["low"], options["high"])
    if each.kind in OF_TWO:
        return OF_TWO[each.kind](x, given[1] if len(given) == 2 else constants["other"])
    if each.kind == "flatten":
        return (np.moveaxis(x, 1, -1) if options.get("channels_last") else x).reshape(len(x), -1)
    if each.kind in ("mean", "max"):
        return (np.mean if each.kind == "mean" else np.max)(x, axis=options["axes"], keepdims=options["keepdims"])
    if each.kind in MOVES:
        return MOVES[each.kind](x, options)
    if each.kind == "glu":
        a, b = np.split(x, 2, options["axis"])
        return a / (1 + np.exp(-b))
    if each.kind == "stack":
        return np.stack(given, options["axis"])
    if each.kind == "prelu":
        slope = constants["slope"].reshape(-1, *(1,) * (x.ndim - 2))
        return np.where(x > 0, x, slope * x)
    if each.kind in ("dropout", "identity"):
        return x
    if each.kind == "activation":
        function = options["function"]
        return (
            apply_table(NUMPY_OPS, function, x, options) if function in TABLES else NAMED[function](x).astype(x.dtype)
        )
    if each.kind == "elementwise":
        others = [*given[1:], *constants.values()]
        return ELEMENTWISE[options["function"]](*((*others, x) if options.get("constant_first") else (x, *others)))
    if each.kind == "concat":
        return np.concatenate(given, axis=options["axis"])
    if each.kind == "pad":
        if options.get("mode", "constant") != "constant":
            return np.pad(x, options["widths"], mode=options["mode"])
        inside = tuple(
            slice(max(-a, 0), size + min(b, 0)) for size, (a, b) in zip(x.shape, options["widths"], strict=True)
        )
        widths = [(max(a, 0), max(b, 0)) for a, b in options["widths"]]
        return np.pad(x[inside], widths, constant_values=options["value"])
    if each.kind == "softmax":
        powers = np.exp(x - x.max(axis=options["axis"], keepdims=True))
        return powers / powers.sum(axis=options["axis"], keepdims=True)
    if each.kind in ("max_pool2d", "avg_pool2d"):
        return _pooled(x, each.kind == "max_pool2d", options)
    raise NotImplementedError(each.kind)


def _sliced(x: Array, options: Mapping[str, Any]) -> Array:
    key = [slice(None)] * x.ndim
    key[options["axis"]] = slice(options["start"], options["stop"], options["step"])
    return x[tuple(key)]


def _transposed(x: Array, axes: Collection[int]) -> Array:
    return x.transpose(0, *(axis + 1 for axis in axes))


#: What moves numbers, of a batch.
MOVES: Mapping[str, Callable[[Array, Mapping[str, Any]], Array]] = {
    "reshape": lambda x, options: x.reshape(len(x), *options["shape"]),
    "transpose": lambda x, options: _transposed(x, options["axes"]),
    "move": lambda x, options: _transposed(x.reshape(len(x), *options["parts"]), options["axes"]).reshape(
        len(x), *options["shape"]
    ),
    "slice": _sliced,
    "select": lambda x, options: np.take(x, options["index"], axis=options["axis"]),
    "expand": lambda x, options: np.broadcast_to(x, (len(x), *options["shape"])),
    "upsample": lambda x, options: x.repeat(options["factor"][0], 2).repeat(options["factor"][1], 3),
}
OF_TWO: Mapping[str, Callable[..., Array]] = {
    "add": np.add,
    "mul": np.multiply,
    "sub": np.subtract,
    "maximum": np.maximum,
    "minimum": np.minimum,
}


def _pooled(x: Array, is_max: bool, options: Mapping[str, Any]) -> Array:
    """Window by window, as PyTorch defines it."""
    (height, width), (down, right) = options["kernel"], options["stride"]
    top, bottom, left, rest = options["padding"]
    ends = [size + before + after for size, before, after in ((x.shape[2], top, bottom), (x.shape[3], left, rest))]
    counts = []
    for end, size, before, kernel, stride in zip(
        ends, x.shape[2:], (top, left), (height, width), (down, right), strict=True
    ):
        steps = (end - kernel) / stride
        count = int(np.ceil(steps) if options.get("ceil") else np.floor(steps)) + 1
        counts.append(count - 1 if options.get("ceil") and (count - 1) * stride >= size + before else count)
    y = np.empty((*x.shape[:2], *counts), np.float32)
    for i in range(counts[0]):
        for j in range(counts[1]):
            rows = (max(i * down - top, 0), min(i * down - top + height, x.shape[2]))
            columns = (max(j * right - left, 0), min(j * right - left + width, x.shape[3]))
            window = x[:, :, slice(*rows), slice(*columns)]
            held = (min(i * down + height, ends[0]) - i * down) * (min(j * right + width, ends[1]) - j * right)
            area = held if options.get("counts_padding") else window.shape[2] * window.shape[3]
            y[:, :, i, j] = window.max((2, 3)) if is_max else window.sum((2, 3)) / area
    return y


def _convolved(x: Array, weight: Array, options: Mapping[str, Any]) -> Array:
    """The sum over the taps of the window, of a padded picture."""
    (down, right), (rows, columns), groups = options["stride"], options["dilation"], options["groups"]
    height = (x.shape[2] - rows * (weight.shape[2] - 1) - 1) // down + 1
    width = (x.shape[3] - columns * (weight.shape[3] - 1) - 1) // right + 1
    inputs, outputs = weight.shape[1], len(weight) // groups
    y = np.zeros((len(x), len(weight), height, width), np.float32)
    for group in range(groups):
        of = x[:, group * inputs : (group + 1) * inputs]
        own = slice(group * outputs, (group + 1) * outputs)
        for i in range(weight.shape[2]):
            for j in range(weight.shape[3]):
                window = of[:, :, i * rows :: down, j * columns :: right][:, :, :height, :width]
                y[:, own] += np.einsum("nchw,oc->nohw", window, weight[own, :, i, j])
    return y


def program(*operations: Operation, shape: tuple[int, ...] = (3, 8, 8), outputs: tuple[str, ...] = ()) -> Program:
    """A program of one input, "x", with the shapes of its values."""
    samples = {"x": np.zeros((1, *shape), np.float32)}
    for each in operations:
        if each.kind != "unknown":
            samples[each.output] = computed(each, [samples[name] for name in each.inputs])
    shapes = {name: array.shape[1:] for name, array in samples.items()}
    return Program("made", {"x": ArraySpec(shape, "float32")}, operations, outputs or (operations[-1].output,), shapes)


def conv(name: str, x: str, channels: int = 4, *, given: int = 3, seed: int = 0) -> Operation:
    """A 3x3 convolution with a bias."""
    rng = np.random.default_rng(seed)
    constants = {
        "weight": rng.standard_normal((channels, given, 3, 3)).astype(np.float32),
        "bias": rng.standard_normal(channels).astype(np.float32),
    }
    options = {"stride": (1, 1), "padding": (1, 1, 1, 1), "dilation": (1, 1), "groups": 1}
    sources = {local: f"{name}.{local}" for local in constants}
    return Operation("conv2d", name, (x,), f"{name}_out", options, constants, sources, f"net.py:{len(name)}")


def constant(kind: str, x: str, output: str, other: object) -> Operation:
    """An addition of, or a multiplication by, a constant."""
    return Operation(kind, output, (x,), output, {}, {"other": np.asarray(other, np.float32)})
