"""What a quantized network is judged by where settings are chosen: a metric of its task, its agreement with float, its SQNR.

Outputs are those of the float network, and of the deployed integers, on samples that the choice may look at.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from qat.analysis.agreement import Agreement
from qat.data import Split
from qat.deploy.inference import real_outputs
from qat.errors import QatError
from qat.graph import Graph
from qat.integer import Evaluator
from qat.passes.to_integer import derived_integers
from qat.tasks import main
from qat.tasks.base import output_names
from qat.training.checkpoint import Checkpoint
from qat.training.forward import IDLE, NodeLoop
from qat.vocabulary.arrays import WORKING_BYTES, Arrays, as_arrays, as_tuple, in_batches, samples_that_fit
from qat.vocabulary.ops import Array, Ops, Tensor

MOST = 128  #: samples at a time, however small they are
RESAMPLES = 200  #: of a bootstrap, which gives a standard error to about 5 % of itself
MOST_NUMBERS = 1 << 22  #: outputs of more are not resampled
ROUNDING = 1e-9  #: that a drop may be above its limit: 88 % minus 87.5 % is a little more than 0.5


def outputs_of(checkpoint: Checkpoint, images: Arrays, ops: Ops) -> tuple[Array, ...]:
    """Real outputs: of a float network its own, of a quantized one those of its deployed integers.

    Args:
        checkpoint: float or quantized.
        images: what it takes, (N, ...); a tuple of arrays for several inputs.
        ops: the vocabulary that computes.

    Returns:
        float32 (N, ...), one array for each output.
    """
    graph = checkpoint.graph
    run = _integers(checkpoint, ops) if graph.is_quantized else _floats(checkpoint, ops)
    size = samples_that_fit(graph.shapes.values(), MOST, 2 * WORKING_BYTES)

    def batch(samples: tuple[Array, ...]) -> dict[int, Array]:
        tensors = run(tuple(ops.from_numpy(x.astype(np.float32), "activation") for x in samples))
        return {number: ops.to_numpy(x, "activation") for number, x in enumerate(tensors)}

    return tuple(in_batches(batch, images, graph.input_specs, size, graph.name).values())


Run = Callable[[tuple[Tensor, ...]], tuple[Tensor, ...]]


def _floats(checkpoint: Checkpoint, ops: Ops) -> Run:
    loop = NodeLoop(checkpoint.graph, ops)
    context = loop.load(checkpoint.params, IDLE)
    return lambda inputs: loop.run(context, inputs)


def _integers(checkpoint: Checkpoint, ops: Ops) -> Run:
    integers = derived_integers(checkpoint.graph, checkpoint.params)
    evaluator, names = Evaluator(integers, ops), [x.name for x in integers.outputs]
    return lambda inputs: real_outputs(integers, evaluator(*inputs, names=names))


def amount(drop: float, unit: str) -> str:
    """What is lost, as a number without its unit; 0 where a network is no worse in what is shown."""
    text = f"{drop:.2f}" if unit else f"{drop:.4g}"
    return text.removeprefix("-") if float(text) == 0.0 else text


class Measure(ABC):
    """A figure of a quantized network beside that of the float network.

    Attributes:
        name: of the figure, as "top-1".
        unit: of what is lost: "points", "dB", or "" for the figure's own.
        limit: the most that may be lost.
        baseline: the float network's figure.
        samples: on how many.
    """

    name: str
    unit: str
    limit: float
    baseline: float
    samples: int

    @property
    def target(self) -> str:
        """What was asked for, as it is called."""
        return f"target_drop {self.limit:g}"

    @abstractmethod
    def value(self, checkpoint: Checkpoint) -> float:
        """The figure of a quantized network."""

    @abstractmethod
    def drop(self, value: float) -> float:
        """What is lost where a network has that figure, in ``unit``; negative where it is better than float."""

    @abstractmethod
    def text(self, value: float) -> str:
        """A figure as text."""

    def met(self, value: float) -> bool:
        """Whether no more than ``limit`` is lost."""
        return self.drop(value) <= self.limit + ROUNDING

    def words(self, value: float) -> str:
        """A figure with its name, and what is lost."""
        return f"{self.name} {self.text(value)}, drop {amount(self.drop(value), self.unit)} {self.unit}".rstrip()

    def standard_error(self, checkpoint: Checkpoint) -> float | None:
        """Of the drop of a network, from other samples of the same kind; None where it is not known."""
        return None


class MetricMeasure(Measure):
    """The main metric of the task, on labelled samples; of a share in percent a drop is in points, else in its own unit."""

    def __init__(self, checkpoint: Checkpoint, split: Split, limit: float, ops: Ops) -> None:
        self._ops, self._split, self._task = ops, split, checkpoint.task
        self._task.check(checkpoint.graph, split, "the samples to decide on")
        self._float = outputs_of(checkpoint, split.images, ops)
        self.name, self.baseline = main(self._metrics(checkpoint.graph, self._float, split))
        percent = self._task.is_percent(self.name)
        self._factor, self.unit = (100.0, "points") if percent else (1.0, "")
        self.limit, self.samples = limit, len(split)
        self._known: tuple[Checkpoint, tuple[Array, ...]] | None = None

    def _metrics(self, graph: Graph, outputs: tuple[Array, ...], split: Split) -> dict[str, float]:
        return self._task.metrics(graph, as_arrays(outputs), split)

    def value(self, checkpoint: Checkpoint) -> float:
        outputs = outputs_of(checkpoint, self._split.images, self._ops)
        self._known = checkpoint, outputs
        return self._metrics(checkpoint.graph, outputs, self._split)[self.name]

    def drop(self, value: float) -> float:
        return self._factor * self._task.lost(self.name, self.baseline, value)

    def text(self, value: float) -> str:
        return self._task.value(self.name, value)

    def standard_error(self, checkpoint: Checkpoint) -> float | None:
        """By bootstrap (Efron, "Bootstrap methods", 1979): both networks on the same samples, drawn with replacement."""
        if self._known is None or self._known[0] is not checkpoint:
            self.value(checkpoint)
        assert self._known is not None
        if sum(x.size for x in self._float) > MOST_NUMBERS:
            return None
        rng, drops, light = np.random.default_rng(0), [], self._split
        if not self._task.uses_images:  # which take long to copy
            light = replace(light, images=np.zeros((self.samples, 1), np.uint8))
        for _ in range(RESAMPLES):
            chosen = rng.integers(0, self.samples, self.samples)
            split = light.chosen(chosen)
            before, after = (
                self._metrics(checkpoint.graph, tuple(x[chosen] for x in outputs), split)[self.name]
                for outputs in (self._float, self._known[1])
            )
            drops.append(self._factor * self._task.lost(self.name, before, after))
        return float(np.std(drops))


class AgreementMeasure(Measure):
    """The share of places whose largest output is the float network's, in the mean over the outputs: no labels are needed.

    What an accuracy loses is never more than what the agreement does.
    """

    name, unit, baseline = "agreement", "points", 1.0

    def __init__(self, checkpoint: Checkpoint, images: Arrays, limit: float, ops: Ops) -> None:
        graph = checkpoint.graph
        for name, shape in zip(output_names(graph), (graph.shapes[x] for x in graph.outputs), strict=True):
            if shape[0] < 2:
                raise QatError(
                    f"{name}: has one number, so that there is no largest one to agree about; give labels, a measure, or "
                    "target_sqnr"
                )
        self._ops, self._images, self.limit = ops, images, limit
        self._float = [x.argmax(axis=1) for x in outputs_of(checkpoint, images, ops)]
        self.samples = len(as_tuple(images)[0])

    def value(self, checkpoint: Checkpoint) -> float:
        found = outputs_of(checkpoint, self._images, self._ops)
        same = [(x.argmax(axis=1) == own).mean() for x, own in zip(found, self._float, strict=True)]
        return float(np.mean(same))

    def drop(self, value: float) -> float:
        return 100.0 * (1.0 - value)

    def text(self, value: float) -> str:
        return f"{100 * value:.2f} %"


class SqnrMeasure(Measure):
    """The SQNR of the outputs, of the worst one where there are several; what is missing to a target is lost."""

    name, unit, baseline, limit = "SQNR", "dB", np.inf, 0.0

    def __init__(self, checkpoint: Checkpoint, images: Arrays, target: float, ops: Ops) -> None:
        self._ops, self._images, self._asked = ops, images, target
        self._float = outputs_of(checkpoint, images, ops)
        self.samples = len(as_tuple(images)[0])

    def value(self, checkpoint: Checkpoint) -> float:
        worst = np.inf
        for f, q in zip(self._float, outputs_of(checkpoint, self._images, self._ops), strict=True):
            agreement = Agreement()
            agreement.add(f, q)
            worst = min(worst, agreement.sqnr)
        return worst

    def drop(self, value: float) -> float:
        return self._asked - value

    @property
    def target(self) -> str:
        return f"target_sqnr {self._asked:g}"

    def text(self, value: float) -> str:
        return f"{value:.1f} dB"

    def words(self, value: float) -> str:
        return f"{self.name} {self.text(value)}"


class OwnMeasure(Measure):
    """What a function of the user's says of a checkpoint, in its own unit."""

    name, unit = "measure", ""

    def __init__(
        self, checkpoint: Checkpoint, function: Callable[[Checkpoint], Any], limit: float, higher_is_better: bool
    ) -> None:
        self._function, self._sign, self.limit = function, 1.0 if higher_is_better else -1.0, limit
        self.name = getattr(function, "__name__", self.name).strip("<>")
        self.baseline, self.samples = self.value(checkpoint), 0

    def value(self, checkpoint: Checkpoint) -> float:
        found = float(self._function(checkpoint))
        if not np.isfinite(found):
            raise QatError(f"measure: gives {found} for {checkpoint.graph.name}; return a finite number")
        return found

    def drop(self, value: float) -> float:
        return self._sign * (self.baseline - value)

    def text(self, value: float) -> str:
        return f"{value:.6g}"
