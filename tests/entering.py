"""Networks that take arrays of any dtype, and samples at which runtimes could disagree about the codes of an input."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import numpy.typing as npt
from sequential import Chain

import qat
from qat.errors import QatWarning
from qat.integer import IntegerGraph, IntegerInput
from qat.training.forward import Forward
from qat.vocabulary.arrays import ArraySpec
from qat.vocabulary.numpy_ops import NUMPY_OPS

Array = npt.NDArray[Any]
F = np.float32
SHAPE = (3, 9, 8)
#: dtype of an input -> its further arguments.
DTYPES: dict[str, dict[str, Any]] = {
    "float32": {},
    "uint8": {"mean": 0.4, "std": 0.3},
    "int8": {"scale": 0.0371, "zero_point": -29},
    "int16": {"scale": 0.00113, "zero_point": 777},
    "uint16": {"scale": 2.0**-10, "zero_point": 31234},
}


class Joined(qat.Network):
    """An input whose codes several nodes take, each of another kind, and that leaves the network too."""

    def __init__(self, entry: qat.Input, activation: str) -> None:
        self.inputs = entry
        self.conv, self.pool, self.flatten = qat.Conv2dBnAct(3, 3, 3), qat.MaxPool2d(2), qat.Flatten()
        self.add, self.concat, self.act = qat.Add(), qat.Concat(), qat.Activation(activation)

    def construct(self, x: Any) -> Any:
        y = self.add(self.conv(x), x)
        return self.concat(x, y), self.pool(x), self.flatten(x), self.act(x), x


def integers(
    dtype: str,
    *,
    limits: tuple[float, float] = (-1.9, 4.7),
    shape: tuple[int, ...] = SHAPE,
    joined: str | None = None,
    **options: Any,
) -> IntegerGraph:
    """The integers of a small network that takes arrays of a dtype.

    limits: what the quantizer of its input has seen. joined: that of ``Joined`` with this activation, and not a chain.
    """
    entry = qat.Input(shape, dtype=dtype, **DTYPES[dtype])
    network = (
        Joined(entry, joined)
        if joined
        else Chain(
            entry,
            conv=qat.Conv2dBnAct(shape[0], 5, 3, activation="relu"),
            pool=qat.MaxPool2d(2),
            flatten=qat.Flatten(),
            fc=qat.DenseBnAct(5 * (shape[1] // 2) * (shape[2] // 2), 4),
        )
    )
    return integers_of(network, limits, **options)


def integers_of(network: qat.Network, limits: tuple[float, float], **options: Any) -> IntegerGraph:
    """The integers of a network with one input. limits: what the quantizer of its input has seen."""
    graph = qat.convert_quant_network(network, **options)
    params = graph.initial_params()
    tensors = {name: NUMPY_OPS.from_numpy(params[name], param.kind) for name, param in graph.params.items()}
    (spec,) = graph.input_specs
    samples = 0.8 * _ordinary(spec, np.random.default_rng(0), 4 * np.prod(spec.shape), limits)
    x = samples.reshape(4, *spec.shape).astype(spec.dtype).astype(F)
    _, updates = Forward(graph, NUMPY_OPS)(tensors, (x,), training=True, phase=1 << 30)
    params |= {name: np.asarray(value, F).reshape(params[name].shape) for name, value in updates.items()}
    if "input.fake_quant.min" in params:
        params["input.fake_quant.min"][...], params["input.fake_quant.max"][...] = limits
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", QatWarning)  # ranges that are unlike
        return qat.to_integer(graph, params)


def node_of(graph: IntegerGraph) -> IntegerInput:
    """Where samples enter."""
    (node,) = [node for node in graph.nodes if isinstance(node, IntegerInput)]
    return node


def hard_samples(graph: IntegerGraph, count: int = 100_000) -> Array:
    """All codes of the input's dtype; or, of real numbers: those at all ties and just beside, extremes, and random ones."""
    node = node_of(graph)
    rng = np.random.default_rng(1)
    if node.requantize is None or node.dtype != "float32":
        info = np.iinfo(node.dtype)
        numbers: Array = np.arange(info.min, info.max + 1).astype(node.dtype)
        numbers = np.concatenate([numbers, rng.choice(numbers, 5000)])
    else:
        m, low, high = node.requantize
        exact = np.arange(low - 3, high + 3) + 0.5
        with np.errstate(over="ignore"):
            near = (exact / np.float64(m[0])).astype(F)
        beside = [near]
        for end in (-np.inf, np.inf):
            step = near
            for _ in range(2):
                step = np.nextafter(step, F(end))
                beside.append(step)
        info_f = np.finfo(F)
        extremes = [0.0, -0.0, info_f.max, info_f.tiny, info_f.smallest_subnormal, info_f.tiny * F(0.75), 1.0]
        span = (low / np.float64(m[0]), high / np.float64(m[0]))
        parts = [*beside, np.array(extremes, F), -np.array(extremes, F), _ordinary(node.spec, rng, count, span)]
        numbers = np.concatenate(parts)
        numbers = numbers[np.isfinite(numbers)].astype(F)
    per_sample = int(np.prod(node.spec.shape))
    return np.resize(numbers, (-(-len(numbers) // per_sample), *node.spec.shape))


def ties_in(graph: IntegerGraph, samples: Array) -> int:
    """How many of the numbers lie exactly between two codes."""
    node = node_of(graph)
    assert node.requantize is not None
    with np.errstate(over="ignore"):
        products = (samples.astype(F) - F(node.offset)) * node.requantize.multiplier[0]
    inside = np.abs(products) < 1e6
    return int((np.abs(products[inside] - np.floor(products[inside])) == 0.5).sum())


def _ordinary(spec: ArraySpec, rng: np.random.Generator, count: Any, span: tuple[float, float]) -> Array:
    if spec.dtype == "float32":
        middle, half = (span[0] + span[1]) / 2, (span[1] - span[0]) / 2
        return np.clip(rng.normal(middle, half / 1.5, int(count)), -3e38, 3e38).astype(F)
    info = np.iinfo(spec.dtype)
    return rng.integers(info.min, info.max + 1, int(count))


def normalized(shape: tuple[int, ...] = SHAPE) -> dict[str, qat.Network]:
    """Networks of pixels with a mean and std for each channel, by where these go: weights, a further channel, a layer."""
    entry = qat.Input(shape, mean=(0.485, 0.5, 0.406), std=(0.229, 0.224, 0.3))
    firsts: dict[str, dict[str, qat.Cell]] = {
        "weights": {"conv": qat.Conv2dBnAct(shape[0], 4, 3, pad_mode="valid", activation="relu")},
        "dense": {},
        "channel": {"conv": qat.Conv2dBnAct(shape[0], 4, 3, pad_mode="pad", padding=(1, 0, 2, 1), has_bias=True)},
        "layer": {"pool": qat.MaxPool2d(2)},
    }
    found: dict[str, qat.Network] = {}
    for name, cells in firsts.items():
        size = shape
        for cell in cells.values():
            size = cell.output_shape(size)
        fc = qat.DenseBnAct(int(np.prod(size)), 3)
        found[name] = Chain(entry, **cells, flatten=qat.Flatten(), fc=fc)
    return found
