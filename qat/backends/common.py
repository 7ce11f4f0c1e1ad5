"""What all backends of training share: the arguments of ``lower``, evaluation, parameters, the frame of a step, seeds.

Nothing here knows a framework. It is the supported frame for backends of other packages too, their methods with an underscore
included: these are the names that a subclass defines. A backend is two modules:

- ``ops``: a subclass of ``qat.vocabulary.ops.Ops`` over the framework's tensors.
- ``network``: the module that ``qat.backend`` returns (``qat.deploy.interfaces.TrainingBackend``). It defines ``NAME``,
  ``lower``, ``devices``, ``runtime``, ``seed`` and ``make_step``, which is its class ``Step``, and imports ``predict``,
  ``predict_codes``, ``trace``, ``read`` and ``write`` from here. In it:

  - ``LoweredNetwork``, a subclass of ``Lowered`` and of the framework's model class, if that has one. Its ``__init__`` sets
    ``graph``, calls ``_compute_with`` with the vocabularies of training and of evaluation, and sets ``_tensors`` to the
    parameters (``_ops.from_numpy``), or it overrides ``tensors``. It defines ``_assign``; ``_values`` and ``_evaluating`` where
    the framework needs them. In training it runs ``_pass``, the loop over the graph's nodes.
  - ``lower``, which gives its arguments to ``to_lower`` and the result to ``LoweredNetwork``.
  - ``seed``, which may draw from ``own_generator``.
  - ``Step``, a subclass of ``TrainingStep``. It defines ``_gradient``, ``_apply``, ``_slots`` and ``_set_slots``, and
    ``_means`` where several processes may train one network; ``qat.training.losses.step_terms`` is what it differentiates.
    It may override ``_update``, which is both, and ``_mixed``, where the framework has something faster.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any

import numpy as np

from qat.cells.normalization import STATISTICS
from qat.deploy.inference import (
    Deployment,
    params_to_lower,
    params_to_write,
    predict,
    predict_codes,
    real_outputs,
    trace,
)
from qat.errors import QatError
from qat.graph import Graph, Network, Params, as_graph
from qat.integer import Evaluator, IntegerGraph
from qat.training.devices import choose_device
from qat.training.forward import Forward
from qat.training.losses import Loss, Objective
from qat.training.optimizer import Optimizer, check_state, ema_decay
from qat.training.workers import this_worker, training_worker
from qat.vocabulary.arrays import WORKING_BYTES, Arrays, as_tuple, check_finite, check_samples
from qat.vocabulary.ops import Array, Kind, Ops, Tensor

__all__ = [
    "Lowered",
    "TrainingStep",
    "own_generator",
    "predict",
    "predict_codes",
    "read",
    "to_lower",
    "trace",
    "write",
]

LAST = "last"  #: the slot with what a parameter is, where the checkpoint has its average


#: The model that ``unchanged`` is about, and its integers: of each thread its own, since another one that ends later would
#: leave them behind.
_UNCHANGED: ContextVar[tuple[Any, Evaluator | None]] = ContextVar("_UNCHANGED", default=(None, None))


class Lowered:
    """Evaluation and parameters of a lowered network. A backend's class inherits this and its framework's model class.

    What a subclass overrides has a leading underscore, since some frameworks make cells attributes of the network.

    Attributes:
        graph: the network.
        own_layout: whether its methods take and give images as the framework's own models do, where that is not (N, C, H, W).
    """

    graph: Graph
    own_layout: bool = False
    #: That the largest tensor of a batch may take where nobody says how many samples.
    working_bytes: int = WORKING_BYTES
    _tensors: Mapping[str, Tensor]  #: where the framework's model does not keep them itself
    _ops: Ops
    _pass: Forward
    _deployment: Deployment

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        """The framework's parameters and state by full name ("conv1.weight"), as they are now."""
        return self._tensors

    def _compute_with(self, training: Ops, evaluation: Ops) -> None:
        """Set the vocabularies over which the graph is trained and evaluated."""
        self._ops = training
        self._pass = Forward(self.graph, training)
        self._deployment = Deployment(self.graph, evaluation)

    def follow(self, graph: Graph) -> None:
        """Train as another graph says, which differs from this one in the steps at which its training changes its form alone
        (``qat.passes.delays``). What was compiled for the phases of before is made anew.
        """
        self.graph = graph
        self._compute_with(self._ops, self._deployment.ops)

    def _assign(self, values: Mapping[str, Tensor]) -> None:
        """Set some of ``tensors`` to tensors in the backend's layout."""
        raise NotImplementedError

    def _values(self) -> Mapping[str, Tensor]:
        """``tensors``, as the vocabulary takes them."""
        return self.tensors

    def _evaluating(self) -> AbstractContextManager[Any]:
        """The framework's context in which evaluation runs."""
        return nullcontext()

    def _evaluator(self) -> Evaluator:
        """The integers of deployment, derived in NumPy from the parameters as they are now."""
        model, evaluator = _UNCHANGED.get()
        return evaluator if model is self and evaluator else self._deployment.evaluator(read(self))

    @contextmanager
    def unchanged(self) -> Iterator[None]:
        """Within it nothing changes a parameter: what was derived from them is not compared with them anew."""
        token = _UNCHANGED.set((self, self._evaluator() if self.graph.is_quantized else None))
        try:
            yield
        finally:
            _UNCHANGED.reset(token)

    def _evaluated(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Real outputs in evaluation mode; inputs: what the network takes, held in float32. Both in the backend's layout."""
        with self._evaluating():
            if self.graph.is_quantized:
                evaluator = self._evaluator()
                names = [x.name for x in evaluator.graph.outputs]
                return real_outputs(evaluator.graph, evaluator(*inputs, names=names))
            outputs, _ = self._pass(self._values(), inputs, training=False, phase=0)
            return outputs

    def _pixels(self, pixels: tuple[Array, ...]) -> tuple[Tensor, ...]:
        return tuple(self._deployment.ops.from_numpy(x, "activation") for x in pixels)

    def integers(self) -> IntegerGraph:
        """The integer graph of deployment, of the parameters as they are now."""
        return self._evaluator().graph

    def infer(self, pixels: tuple[Array, ...]) -> tuple[Array, ...]:
        """Real outputs in evaluation mode, float32 (N, ...), of what the network takes, one array for each input."""
        with self._evaluating():
            outputs = self._evaluated(self._pixels(pixels))
        return tuple(self._ops.to_numpy(y, "activation") for y in outputs)

    def infer_codes(self, pixels: tuple[Array, ...], names: Collection[str] | None = None) -> dict[str, Array]:
        """Codes less their zero point of nodes of ``integers()``, whole numbers in float32 (N, ...); by default of all."""
        with self._evaluating():
            codes = self._evaluator()(*self._pixels(pixels), names=names)
        return {name: self._ops.to_numpy(tensor, "activation") for name, tensor in codes.items()}


def to_lower(
    network: Network | Graph,
    params: Mapping[str, Array] | None,
    device_target: str | None,
    available: Sequence[str],
    backend: str,
) -> tuple[Graph, Mapping[str, Array], str]:
    """Graph, parameters and device target from the arguments of a backend's ``lower``, checked, with defaults filled in.

    Raises:
        QatError: the parameters are not those of the graph, or the backend has no such device here.
    """
    graph = as_graph(network)
    return graph, params_to_lower(graph, params), choose_device(device_target, available, backend)


def read(model: Lowered) -> Params:
    """The parameters and state of a lowered network, canonical NumPy arrays by full name."""
    kinds = model.graph.params
    return {name: model._ops.to_numpy(tensor, kinds[name].kind) for name, tensor in model.tensors.items()}


def write(model: Lowered, params: Mapping[str, Array]) -> None:
    """Set some parameters or state of a lowered network.

    Args:
        model: what ``lower`` returned.
        params: canonical arrays by full name.

    Raises:
        QatError: a name or a shape is not the graph's; nothing is written.
    """
    kinds, arrays = model.graph.params, params_to_write(model.graph, params)
    model._assign({name: model._ops.from_numpy(array, kinds[name].kind) for name, array in arrays.items()})


def own_generator(numbers: tuple[int, ...]) -> np.random.Generator:
    """Random numbers from the arguments of a backend's ``seed``: each worker of a training draws others."""
    return np.random.default_rng(this_worker().own(numbers))


class TrainingStep:
    """The frame of a backend's ``Step``: ``step(x, y, lr)`` is one training step and returns the loss before the update.

    Args:
        model: the lowered network.
        loss: written over the vocabulary.
        backend: its name, for messages.
        launcher: what starts its workers when several processes train one network (``qat.training.workers``); None: the
            backend trains in one process only.
        optimizer: its settings.
        compile: whether the step is to be compiled by the framework.

    Raises:
        QatError: this process is one of several workers, and this backend does not train with those.
    """

    def __init__(
        self,
        model: Any,
        loss: Loss | Objective,
        backend: str,
        launcher: str | None,
        optimizer: Optimizer,
        *,
        compile: bool = False,
    ) -> None:
        self.model, self.loss, self._settings = model, loss, optimizer
        self._worker = training_worker(launcher, backend, compile=compile)
        self._terms: Mapping[str, Tensor] = {}
        self._averages: dict[str, Tensor] = {}
        if optimizer.ema:
            kinds, averaged = model.graph.params, self._averaged()
            self._averages = {name: model._ops.from_numpy(a, kinds[name].kind) for name, a in averaged.items()}

    def __call__(self, x: Arrays, y: Arrays, lr: float) -> float:
        """One training step on a batch; of several workers each is given the joint batch and takes its share.

        Args:
            x: what the network takes, (N, ...); a tuple of arrays where the network has several inputs.
            y: integer labels (N,), or a tuple of them and further targets.
            lr: learning rate.

        Returns:
            The loss of the joint batch, before the update.
        """
        graph = self.model.graph
        check_samples(as_tuple(x), graph.input_specs, np.ndarray, graph.name)
        for samples, spec in zip(as_tuple(x), graph.input_specs, strict=True):
            check_finite(samples, spec, graph.name)
        pixels, targets = as_tuple(self._worker.share(x)), as_tuple(self._worker.share(y))
        update = self._update if self._settings.accumulate == 1 else self._update_in_parts
        loss, self._terms = update(pixels, targets, lr)
        if self._averages:
            self._follow()
        return loss

    def _update(
        self, pixels: tuple[Array, ...], targets: tuple[Array, ...], lr: float
    ) -> tuple[float, Mapping[str, Tensor]]:
        """One step on this worker's share: the joint loss, and this worker's terms (``qat.training.losses.step_terms``)."""
        loss, gradients, terms = self._gradient(pixels, targets)
        self._apply(gradients, lr)
        return float(loss), terms

    def _update_in_parts(
        self, pixels: tuple[Array, ...], targets: tuple[Array, ...], lr: float
    ) -> tuple[float, Mapping[str, Tensor]]:
        """As ``_update``, but the share is computed in several parts; the terms are those of the last one."""
        count, samples = self._settings.accumulate, len(pixels[0])
        size = samples // count
        if size * count != samples:
            raise QatError(
                f"a batch of {samples} samples cannot be computed in {count} equal parts, whose mean gradient would not be "
                f"that of the batch; use a batch_size that is a multiple of {count * self._worker.count}"
            )
        begun, loss = self.model.step, 0.0
        sums: Sequence[Tensor | None] = []
        terms: Mapping[str, Tensor] = {}
        for part in range(count):
            self.model.step = begun  # all parts are of the same step, and so of the same phase
            own = slice(part * size, (part + 1) * size)
            found, gradients, terms = self._gradient(tuple(x[own] for x in pixels), tuple(y[own] for y in targets))
            loss += float(found) / count
            sums = gradients if part == 0 else [_sum(*pair) for pair in zip(sums, gradients, strict=True)]
        self._apply([None if g is None else g / count for g in sums], lr)
        return loss, terms

    def _gradient(
        self, pixels: tuple[Array, ...], targets: tuple[Array, ...]
    ) -> tuple[Tensor, Sequence[Tensor | None], Mapping[str, Tensor]]:
        """One forward and backward pass of training, which also updates the state and counts a step: the loss, the gradients in
        an order that ``_apply`` knows, both means over the workers, and the terms. None: a parameter that the loss does not
        depend on.
        """
        raise NotImplementedError

    def _apply(self, gradients: Sequence[Tensor | None], lr: float) -> None:
        """Clip the gradients and let the optimizer update the parameters."""
        raise NotImplementedError

    def _averaged(self) -> Params:
        """What has averages (``Optimizer.ema``), as it is now, in memory of its own."""
        model = self.model
        return {
            name: np.array(model._ops.to_numpy(tensor, model.graph.params[name].kind))
            for name, tensor in model.tensors.items()
            if model.graph.params[name].trainable or name.rpartition(".")[2] in STATISTICS
        }

    def _follow(self) -> None:
        """Let the averages follow what they are averages of."""
        with self.model._evaluating():
            values, share = self.model._values(), 1.0 - ema_decay(self._settings.ema, self.model.step)
            mixed = self._mixed([*self._averages.values()], [values[name] for name in self._averages], share)
            self._averages = dict(zip(self._averages, mixed, strict=True))

    def _mixed(self, averages: list[Tensor], values: list[Tensor], share: float) -> Sequence[Tensor]:
        """average + (value - average) share, of each."""
        return [old + (new - old) * share for old, new in zip(averages, values, strict=True)]

    def averages(self) -> dict[str, Array]:
        """The averages of parameters and statistics (``Optimizer.ema``), canonical, by full name; empty without ema."""
        kinds = self.model.graph.params
        return {name: self.model._ops.to_numpy(tensor, kinds[name].kind) for name, tensor in self._averages.items()}

    def _means(self, figures: Array) -> Array:
        """Means over the workers of this worker's figures, float32 (K,)."""
        raise NotImplementedError

    def _slots(self) -> Mapping[str, Tensor]:
        """The optimizer's tensors by "<parameter>.<slot>"; those that belong to no parameter as "optimizer.<slot>"."""
        raise NotImplementedError

    def _set_slots(self, state: Mapping[str, Array]) -> None:
        """Set all of the optimizer's tensors from canonical arrays."""
        raise NotImplementedError

    def _kind(self, slot: str) -> Kind:
        param = self.model.graph.params.get(slot.rpartition(".")[0])
        return param.kind if param else "scalar"

    def terms(self) -> dict[str, Array]:
        """The terms of the last step's loss, of this worker's share (``qat.training.losses.step_terms``)."""
        return {name: self.model._ops.to_numpy(tensor, "vector") for name, tensor in self._terms.items()}

    def means(self, figures: Sequence[float]) -> list[float]:
        """The mean of each figure over the workers; the figures themselves where there is one worker."""
        if self._worker.count == 1:
            return list(figures)
        return [float(mean) for mean in self._means(np.asarray(figures, np.float32))]

    def state(self) -> dict[str, Array]:
        """The optimizer's state, canonical, by "<parameter>.<slot>"; what all parameters share is "optimizer.<slot>"."""
        slots = {name: self.model._ops.to_numpy(tensor, self._kind(name)) for name, tensor in self._slots().items()}
        last = self._averaged() if self._averages else {}  # since a checkpoint's parameters are the averages
        return slots | {f"{name}.{LAST}": array for name, array in last.items()}

    def load_state(self, state: Mapping[str, Array]) -> None:
        """The inverse of ``state``.

        Raises:
            QatError: the state is of another network or optimizer, or not finite.
        """
        check_state(state, self.state())
        last = {name.rpartition(".")[0]: array for name, array in state.items() if name.endswith(f".{LAST}")}
        self._set_slots({name: array for name, array in state.items() if not name.endswith(f".{LAST}")})
        if last:
            write(self.model, last)


def _sum(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    return b if a is None else a if b is None else a + b
