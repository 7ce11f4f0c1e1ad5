"""MindSpore: a graph as a mindspore.nn.Cell, and how it is trained."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np

from qat.backends.common import Lowered, TrainingStep, own_generator, to_lower
from qat.backends.common import predict as predict
from qat.backends.common import predict_codes as predict_codes
from qat.backends.common import read as read
from qat.backends.common import trace as trace
from qat.backends.common import write as write
from qat.backends.mindspore.callback import callback as callback
from qat.backends.mindspore.compiled import CompiledStep, clipped
from qat.backends.mindspore.files import load_params as load_params
from qat.backends.mindspore.files import save_params as save_params
from qat.backends.mindspore.ops import ExactOps, Tensor
from qat.backends.mindspore.ops import MindSporeOps as MindSporeOps
from qat.backends.mindspore.setup import ms, nn, ops
from qat.backends.mindspore.tracing import in_place, release_forgotten, traced
from qat.backends.mindspore.workers import join, means_over_workers, training_ops
from qat.errors import QatError
from qat.graph import Graph, Network
from qat.training.devices import choose_device
from qat.training.forward import single
from qat.training.losses import Loss, Objective, cross_entropy, step_terms
from qat.training.optimizer import Optimizer
from qat.training.workers import MSRUN, this_worker, training_worker
from qat.vocabulary.arrays import check_samples
from qat.vocabulary.ops import Array

NAME = "mindspore"  #: under which ``qat.backend`` knows it


class CellModule(nn.Cell):  # type: ignore[misc]
    """The parameters of one cell; ``print`` shows what the cell is."""

    def __init__(self) -> None:
        super().__init__(auto_prefix=False)
        self.description = ""

    def extend_repr(self) -> str:
        """What ``print`` shows."""
        return self.description


class LoweredNetwork(Lowered, nn.Cell):  # type: ignore[misc]
    """A graph as a MindSpore cell, trainable in PYNATIVE mode (MindSpore's default) with ``mindspore.train.Model`` or any
    loop, and in either mode, faster, as a ``TrainOneStepCell``.

    Parameters are named as in the graph ("conv1.weight"); state does not require a gradient. Called with what the network
    takes, (N, C, H, W), and nothing else, it returns real outputs (logits). After ``set_train()`` each call is one step of the
    quant_delay. In evaluation a quantized network computes the integers of deployment: they are derived anew whenever a
    parameter has changed, and no gradient flows.
    """

    _ops: MindSporeOps

    def __init__(self, graph: Graph, params: Mapping[str, Array], step: int = 0) -> None:
        super().__init__(auto_prefix=False)
        self.graph = graph
        self.step = step  #: training steps done, which the quant_delay counts
        self._tensors: dict[str, ms.Parameter] = {}
        self._compute_with(training_ops(), ExactOps())
        self._traced: dict[tuple[int, Any], tuple[Callable[..., Any], list[Any], list[str]]] = {}
        for node in graph.nodes:
            module = self._cell_module(node.cell_name)
            module.description = node.cell.describe
            for local, param in node.cell.params().items():
                name = f"{node.cell_name}.{local}"
                if name not in self._tensors:
                    tensor = self._ops.from_numpy(params[name], param.kind)
                    self._tensors[name] = in_place(ms.Parameter(tensor, name=name, requires_grad=param.trainable))
                    module._params[local] = self._tensors[name]

    def _cell_module(self, name: str) -> CellModule:
        cell: nn.Cell = self
        for part in name.split("."):
            if part not in cell._cells:
                if part in vars(cell):
                    raise QatError(
                        f"{name}: the lowered network has a {part!r} of its own in MindSpore; rename the cell"
                    )
                cell._cells[part] = CellModule()  # insert_child_to_cell refuses names that Cell itself uses
            cell = cell._cells[part]
        assert isinstance(cell, CellModule)
        return cell

    def __call__(self, *inputs: Any, **options: Any) -> Any:
        """As mindspore.nn.Cell's. Raises QatError in GRAPH mode while it is trained."""
        if ms.get_context("mode") == ms.GRAPH_MODE:
            if not self.training:
                return self.construct(*inputs, **options)  # whose integers are derived in NumPy, and not parsed
            raise QatError(
                f"{self.graph.name}: a loop of your own trains it in PYNATIVE mode, MindSpore's default; in GRAPH mode give "
                "mindspore.train.Model a qat.backend('mindspore').TrainOneStepCell of it, or call "
                "mindspore.set_context(mode=mindspore.PYNATIVE_MODE)"
            )
        return super().__call__(*inputs, **options)

    def construct(self, *inputs: Tensor) -> Any:
        """Real outputs: one tensor, or a tuple where the network has several."""
        check_samples(inputs, self.graph.input_specs, Tensor, self.graph.name)
        if self.training:
            found, updates = self.run(inputs)
            self._assign(updates)
            return single(tuple(found.values()))
        return single(tuple(Tensor(y) for y in self.infer(tuple(x.asnumpy() for x in inputs))))

    def follow(self, graph: Graph) -> None:
        """As ``Lowered``'s."""
        super().follow(graph)
        self._traced.clear()

    def run(
        self, inputs: tuple[Tensor, ...], loss: Loss | Objective | None = None, key: Tensor | None = None
    ) -> tuple[dict[Any, Tensor], Any]:
        """One training step's forward pass, as one compiled function for each phase: outputs by their numbers, and new
        values of state.

        loss: compute its terms, by name, instead of the outputs (``step_terms``); the last of the inputs are its targets.
        key: what dropout draws from; by default the next one.
        """
        phase = self._pass.phase(self.step)
        function, found_names, state_names = self._phase_function(phase, loss)
        pixels = tuple(x.astype(ms.float32) for x in inputs[: len(self.graph.inputs)])
        try:
            found = function(
                _next_key() if key is None else key, *pixels, *inputs[len(pixels) :], *self.tensors.values()
            )
        except BaseException:
            del self._traced[phase, loss]  # what was compiled of a failure is no use to the next call
            raise
        self.step += 1
        count = len(found_names)
        return dict(zip(found_names, found[:count], strict=True)), dict(zip(state_names, found[count:], strict=True))

    def _phase_function(
        self, phase: int, loss: Loss | Objective | None
    ) -> tuple[Callable[..., Any], list[Any], list[str]]:
        """The compiled pass, and the names of what it returns and of the state that it updates: known after the first call."""
        if (phase, loss) not in self._traced:
            found_names: list[Any] = []
            state_names: list[str] = []

            def compute(key: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
                count = len(self.tensors)
                given, params = tensors[:-count], dict(zip(self.tensors, tensors[-count:], strict=True))
                pixels, rest = given[: len(self.graph.inputs)], given[len(self.graph.inputs) :]
                self._ops.seed(key)
                if loss is None:
                    outputs, updates = self._pass(params, pixels, training=True, phase=phase)
                    found: dict[Any, Tensor] = dict(enumerate(outputs))
                else:
                    found, updates = step_terms(self._pass, loss, params, pixels, single(rest), phase=phase)
                found_names[:], state_names[:] = found, updates
                return (*found.values(), *updates.values())

            self._traced[phase, loss] = traced(compute), found_names, state_names
        return self._traced[phase, loss]

    def _assign(self, values: Mapping[str, Tensor]) -> None:
        for name, value in values.items():
            ops.assign(self.tensors[name], ops.stop_gradient(value))


_draws: dict[str, np.random.Generator] = {"key": np.random.default_rng()}


def _next_key() -> Tensor:
    return Tensor(np.int32(_draws["key"].integers(-(2**31), 2**31)))


def seed(*numbers: int) -> None:
    """Seed what dropout draws from; each worker of a training draws others."""
    _draws["key"] = own_generator(numbers)


def lower(
    network: Network | Graph,
    params: Mapping[str, Array] | None = None,
    *,
    device_target: str | None = None,
    step: int = 0,
) -> LoweredNetwork:
    """A mindspore.nn.Cell of a network; arguments as ``qat.deploy.interfaces.TrainingBackend.lower`` has them.

    The device target is MindSpore's own setting for the whole process. Raises QatError where MindSpore refuses to change it.
    """
    release_forgotten()
    graph, params, device = to_lower(network, params, device_target, devices(), NAME)
    _use_device(device)
    return LoweredNetwork(graph, params, step)


def devices() -> list[str]:
    """The device targets that MindSpore can use here, the best first."""
    return [*_special_devices(), "CPU"]


@cache
def _special_devices() -> tuple[str, ...]:
    """MindSpore found out when it was imported. Asked for one that is missing, it logs two warnings each time."""
    special = {"Ascend": ms.device_context.ascend, "GPU": ms.device_context.gpu}
    before = logging.root.manager.disable
    logging.disable(max(before, logging.WARNING))  # GLOG_v of ``setup`` is too late where MindSpore was imported first
    try:
        return tuple(name for name, device in special.items() if device.is_available())
    finally:
        logging.disable(before)


def _use_device(device: str) -> None:
    if ms.get_context("device_target") != device:
        try:
            ms.set_device(device)
        except RuntimeError as error:
            reason = str(error).strip().partition("\n")[0]
            raise QatError(
                f"device_target {device!r}: MindSpore refuses it ({reason}); choose it in a new process"
            ) from None
    if this_worker().started_by(MSRUN):  # before there is any tensor
        join()


def evaluation_ops(device_target: str | None = None) -> ExactOps:
    """The vocabulary that evaluates."""
    _use_device(choose_device(device_target, devices(), NAME))
    return ExactOps()


def data_sink() -> str:
    """What becomes of ``--dataset_sink_mode true``."""
    return "MindSpore's data sink is for its own loop on an Ascend; batches come from NumPy, as they do without it"


def runtime() -> str:
    """The framework that computes, with its version."""
    return f"MindSpore {ms.__version__}"


class AMSGrad(nn.Optimizer):  # type: ignore[misc]
    """Reddi et al., arXiv 1904.09237, algorithm 2, with Adam's correction of bias, as PyTorch has it.

    nn.Adam(use_amsgrad=True) has no kernel on the CPU for a parameter that is a single number, as a learned scale is.
    """

    BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8

    def __init__(self, groups: list[dict[str, Any]]) -> None:
        super().__init__(0.0, groups)
        self.moment1 = self._parameters.clone(prefix="moment1", init="zeros")
        self.moment2 = self._parameters.clone(prefix="moment2", init="zeros")
        self.largest = self._parameters.clone(prefix="largest", init="zeros")
        self.beta1_power = ms.Parameter(Tensor(np.float32(1.0)), name="beta1_power")
        self.beta2_power = ms.Parameter(Tensor(np.float32(1.0)), name="beta2_power")

    @ms.jit  # type: ignore[untyped-decorator]
    def construct(self, gradients: tuple[Tensor, ...]) -> bool:
        """Update the parameters, as mindspore.nn.Optimizer's."""
        gradients = self.decay_weight(gradients)
        rate = self.get_lr()
        power1 = self.beta1_power * self.BETA1
        power2 = self.beta2_power * self.BETA2
        ops.assign(self.beta1_power, power1)
        ops.assign(self.beta2_power, power2)
        for i in range(len(gradients)):
            first = self.moment1[i] * self.BETA1 + gradients[i] * (1.0 - self.BETA1)
            second = self.moment2[i] * self.BETA2 + gradients[i] * gradients[i] * (1.0 - self.BETA2)
            largest = ops.maximum(self.largest[i], second)
            step = first / (1.0 - power1) / (ops.sqrt(largest / (1.0 - power2)) + self.EPSILON)
            ops.assign(self._parameters[i], self._parameters[i] - rate * step)
            ops.assign(self.moment1[i], first)
            ops.assign(self.moment2[i], second)
            ops.assign(self.largest[i], largest)
        return True


class TrainOneStepCell(nn.Cell):  # type: ignore[misc]
    """A training step as mindspore.train.Model takes it in place of a network, in GRAPH and in PYNATIVE mode:
    ``Model(TrainOneStepCell(network, optimizer)).train(epochs, dataset)``. Called with a batch, first what the network takes
    and then the targets, it trains a step and returns the loss before it.

    Args:
        network: what ``lower`` returned.
        optimizer: one of mindspore.nn, over ``network.trainable_params()``, with its own rate or schedule.
        loss: written over the vocabulary; by default the cross entropy.
    """

    def __init__(
        self, network: LoweredNetwork, optimizer: nn.Optimizer, loss: Loss | Objective = cross_entropy
    ) -> None:
        super().__init__(auto_prefix=False)
        self.network, self.optimizer = network, optimizer
        training_worker(None, NAME)
        for own in optimizer.get_parameters():
            in_place(own)
        self._compiled = CompiledStep(network, loss, optimizer, optimizer.parameters, sets_rate=False)

    def __call__(self, *batch: Tensor) -> Tensor:
        """A training step on a batch. Raises QatError where samples are not what the network takes."""
        graph, count = self.network.graph, len(self.network.graph.inputs)
        check_samples(batch[:count], graph.input_specs, Tensor, graph.name)
        targets = tuple(x.astype(ms.float32 if x.is_floating_point() else ms.int32) for x in batch[count:])
        self.network.set_train()
        terms, gradients = self._compiled(_next_key(), (*batch[:count], *targets), 0.0)
        if gradients:
            self.optimizer(gradients)
        return next(iter(terms.values()))


class Step(TrainingStep):
    """One training step with MindSpore's own optimizer: ``step(x, y, lr)`` returns the loss before the update.

    All of it is one compiled graph for each phase (``compiled.StepGraph``), or all up to the gradient where the batch is
    computed in parts or by several workers.

    Args:
        model: what ``lower`` returned.
        optimizer: which one, and its settings.
        loss: written over the vocabulary.
        compile: changes nothing, since the step is compiled anyway.
    """

    model: LoweredNetwork

    def __init__(
        self,
        model: LoweredNetwork,
        optimizer: Optimizer,
        loss: Loss | Objective = cross_entropy,
        *,
        compile: bool = False,
    ) -> None:
        super().__init__(model.set_train(), loss, NAME, MSRUN, optimizer)
        parameters = model.trainable_params()
        groups = [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": optimizer.weight_decay},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ]
        groups = [group for group in groups if group["params"]]
        if optimizer.name == "momentum":
            self.optimizer = nn.Momentum(groups, 0.0, optimizer.momentum)
        elif optimizer.name == "adam":
            self.optimizer = nn.Adam(groups, 0.0)
        else:
            self.optimizer = AMSGrad(groups)
        for own in self.optimizer.get_parameters():
            in_place(own)
        alone = self._worker.count == 1 and optimizer.accumulate == 1
        #: All of a step, or its gradient where that is joined with others.
        self._compiled = CompiledStep(
            self.model,
            loss,
            self.optimizer if alone else None,
            self.optimizer.parameters,
            clip_norm=optimizer.clip_norm if alone else 0.0,
        )
        self._whole = alone

    def _gradient(
        self, pixels: tuple[Array, ...], targets: tuple[Array, ...]
    ) -> tuple[Tensor, tuple[Tensor, ...], dict[str, Tensor]]:
        terms, gradients = self._compiled(_next_key(), _given(pixels, targets), 0.0)
        loss = next(iter(terms.values()))
        if self._worker.count > 1:
            loss, *means = means_over_workers([loss, *gradients])
            gradients = tuple(means)
        return loss, gradients, terms

    def _update(
        self, pixels: tuple[Array, ...], targets: tuple[Array, ...], lr: float
    ) -> tuple[float, Mapping[str, Tensor]]:
        if not self._whole:
            return super()._update(pixels, targets, lr)
        terms, gradients = self._compiled(_next_key(), _given(pixels, targets), lr)
        if gradients:
            self._apply(gradients, lr)
        return float(next(iter(terms.values())).asnumpy()), terms

    def _apply(self, gradients: Sequence[Tensor], lr: float) -> None:
        if self._settings.clip_norm:
            gradients = clipped(gradients, self._settings.clip_norm)
        ops.assign(self.optimizer.learning_rate, Tensor(np.float32(lr)))
        self.optimizer(tuple(gradients))

    def _means(self, figures: Array) -> Array:
        (means,) = means_over_workers([Tensor(figures)])
        return self.model._ops.to_numpy(means, "vector")

    def _slots(self) -> dict[str, ms.Parameter]:
        names = self.model.tensors
        found = {}
        for own in self.optimizer.get_parameters():
            if own.name in names or own.name == "learning_rate":
                continue
            slot, _, name = own.name.partition(".")
            found[f"{name or 'optimizer'}.{slot}"] = own
        return found

    def _set_slots(self, state: Mapping[str, Array]) -> None:
        slots = self._slots()
        for name, array in state.items():
            ops.assign(slots[name], Tensor(np.array(array)))


def _given(pixels: tuple[Array, ...], targets: tuple[Array, ...]) -> tuple[Tensor, ...]:
    wanted = (array.astype(np.int32 if array.dtype.kind in "iu" else np.float32) for array in targets)
    return (*map(Tensor, pixels), *map(Tensor, wanted))


make_step = Step
