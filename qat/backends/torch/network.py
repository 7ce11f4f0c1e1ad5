"""PyTorch: a graph as a torch.nn.Module, and how it is trained."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NoReturn

import numpy as np
import torch
from torch.optim.swa_utils import get_ema_multi_avg_fn

from qat.backends.common import Lowered, TrainingStep, own_generator, to_lower
from qat.backends.common import predict as predict
from qat.backends.common import predict_codes as predict_codes
from qat.backends.common import read as read
from qat.backends.common import trace as trace
from qat.backends.common import write as write
from qat.backends.torch.callback import callback as callback
from qat.backends.torch.compiled import compiled
from qat.backends.torch.files import load_params as load_params
from qat.backends.torch.files import save_params as save_params
from qat.backends.torch.ops import ExactOps, Tensor, channels_last
from qat.backends.torch.ops import TorchOps as TorchOps
from qat.backends.torch.workers import means_over_workers, training_ops
from qat.errors import QatError
from qat.graph import Graph, Network
from qat.training.devices import choose_device
from qat.training.forward import single
from qat.training.losses import Loss, Objective, cross_entropy, step_terms
from qat.training.optimizer import Optimizer
from qat.training.workers import TORCHRUN
from qat.vocabulary.arrays import WORKING_BYTES, ArraySpec, check_samples
from qat.vocabulary.ops import Array

NAME = "torch"  #: under which ``qat.backend`` knows it

GPU_WORKING_BYTES = 1 << 30  #: ``working_bytes`` there: small batches would leave it idle
DEVICES = {"CPU": "cpu", "GPU": "cuda"}  #: device target -> torch's name


def _held(x: Tensor, spec: ArraySpec) -> Tensor:
    """The same, in operations that fail where sizes are others: of a trace nothing but operations is left."""
    for axis, size in enumerate(spec.shape, 1):
        (x,) = x.split_with_sizes([size], axis)
    return x


class CellModule(torch.nn.Module):
    """The parameters of one cell; ``print`` shows what the cell is."""

    def __init__(self) -> None:
        super().__init__()
        self.description = ""

    def extra_repr(self) -> str:
        """What ``print`` shows."""
        return self.description


class LoweredNetwork(Lowered, torch.nn.Module):
    """A graph as a torch module, trainable with any torch loop.

    Parameters and buffers are named as in the graph ("conv1.weight"). Called with what the network takes, (N, C, H, W), and
    nothing else, it returns real outputs (logits). In training mode each call is one step of the quant_delay. In evaluation
    mode a quantized network computes the integers of deployment: they are derived anew whenever a parameter has
    changed, and no gradient flows.
    """

    _ops: TorchOps

    def __init__(self, graph: Graph, params: Mapping[str, Array], step: int = 0) -> None:
        super().__init__()
        self.graph = graph
        self.step = step  #: training steps done, which the quant_delay counts
        self._slots: list[tuple[str, torch.nn.Module, str]] = []
        self._use_device()  # before there are cells, so that none can take the name of what this sets
        for node in graph.nodes:
            module = self._cell_module(node.cell_name)
            module.description = node.cell.describe
            for local, param in node.cell.params().items():
                tensor = torch.from_numpy(np.array(params[f"{node.cell_name}.{local}"], np.float32))
                if local in module._modules:
                    raise QatError(f"{node.cell_name}.{local}: is a parameter and a cell in PyTorch; rename the cell")
                if param.trainable:
                    module.register_parameter(local, torch.nn.Parameter(tensor))
                else:
                    module.register_buffer(local, tensor)
        self._slots = [
            (name, self.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2]) for name in graph.params
        ]
        self._use_device()

    def _cell_module(self, name: str) -> CellModule:
        module: torch.nn.Module = self
        for part in name.split("."):
            if part not in module._modules:
                try:
                    module.add_module(part, CellModule())
                except KeyError as error:  # no part, or one that the module has already: its "forward", its "weight"
                    raise QatError(
                        f"{name}: PyTorch has no module of this name ({error.args[0]}); rename the cell"
                    ) from None
            module = module.get_submodule(part)
        assert isinstance(module, CellModule)
        return module

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Parameters and buffers by full name, as they are now: they may be replaced, pruned or parametrized."""
        return {name: getattr(module, local) for name, module, local in self._slots}

    def _use_device(self) -> None:
        self._ops = training_ops(next((tensor.device for tensor in self.tensors.values()), "cpu"))
        self._compute_with(self._ops, ExactOps(self._ops.device))
        self.working_bytes = WORKING_BYTES if self._ops.device.type == "cpu" else GPU_WORKING_BYTES

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        result = super()._apply(fn, recurse)  # type: ignore[no-untyped-call]  # to(), cuda(), double(), ...
        wrong = [tensor.dtype for tensor in self.tensors.values() if tensor.dtype != torch.float32]
        if wrong:
            raise QatError(
                f"{self.graph.name} computes in float32, not in {wrong[0]}: integers are exact in it; lower it anew"
            )
        self._use_device()
        return result

    def get_extra_state(self) -> dict[str, int]:
        """What state_dict keeps beside the tensors: the steps that the quant_delay counts."""
        if torch.onnx.is_in_onnx_export():  # it takes the state first
            self._refuse_export("torch.onnx.export")
        return {"step": self.step}

    @torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]  # called while traced, so that its error is seen
    def _refuse_export(self, what: str) -> NoReturn:
        quantized, floats = "qat.export(model, 'net.onnx')", "qat.target('ONNX').export_float(graph, params, path)"
        raise QatError(
            f"{self.graph.name}: {what} cannot write it, since what it computes is settled in NumPy, outside of what torch "
            f"sees; use {quantized if self.graph.is_quantized else floats}"
        )

    def set_extra_state(self, state: dict[str, int]) -> None:
        """The inverse of ``get_extra_state``."""
        self.step = state["step"]

    def forward(self, *inputs: Tensor) -> Any:
        """Real outputs: one tensor, or a tuple where the network has several."""
        if self.graph.is_quantized and torch.compiler.is_exporting():
            self._refuse_export("torch.export")
        check_samples(inputs, self.graph.input_specs, Tensor, self.graph.name)
        if torch.jit.is_tracing():  # type: ignore[attr-defined,no-untyped-call]
            inputs = tuple(map(_held, inputs, self.graph.input_specs))
        if self.training:
            return self.run(inputs, self.next_phase())
        return self.evaluated(inputs)

    def evaluated(self, inputs: tuple[Tensor, ...]) -> Any:
        """What evaluation mode computes, whatever the mode is."""
        if not self.graph.is_quantized:
            return self.run(inputs, 0, training=False)
        return single(self._deployed(inputs))

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _deployed(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return self._evaluated(tuple(channels_last(x.to(self._ops.device, torch.float32)) for x in inputs))

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        with torch.no_grad(), torch.autocast(self._ops.device.type, enabled=False):
            yield

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def next_phase(self) -> int:
        """Count one training step; returns its phase (see ``Forward.phase``)."""
        self.step += 1
        return self._pass.phase(self.step - 1)

    def run(self, inputs: tuple[Tensor, ...], phase: int, *, training: bool = True) -> Any:
        """The float or fake-quantized pass; in training it also updates the state."""
        state = self._state_copies() if torch.compiler.is_compiling() else {}
        return single(self._updating(partial(self._pass, self.tensors | state, training=training, phase=phase), inputs))

    def terms(
        self,
        tensors: Mapping[str, Tensor],
        inputs: tuple[Tensor, ...],
        targets: Any,
        *,
        phase: int,
        loss: Loss | Objective,
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """One training step's terms, and new values of state (see ``step_terms``); nothing is updated."""
        compute = partial(step_terms, self._pass, loss, tensors, targets=targets, phase=phase)
        found: tuple[dict[str, Tensor], dict[str, Tensor]] = self._computed(compute, inputs)
        return found

    def _updating(self, compute: Callable[..., tuple[Any, dict[str, Tensor]]], inputs: tuple[Tensor, ...]) -> Any:
        """What ``compute(inputs=pixels)`` returns beside new values of state, to which the state is set."""
        found, updates = self._computed(compute, inputs)
        self._assign(updates)
        return found

    def _computed(self, compute: Callable[..., Any], inputs: tuple[Tensor, ...]) -> Any:
        """What ``compute(inputs=pixels)`` returns."""
        device = self._ops.device
        with torch.autocast(device.type, enabled=False):  # integers up to 2^24 need float32
            return compute(inputs=tuple(x.to(device, torch.float32) for x in inputs))

    @torch.no_grad()
    def _assign(self, values: Mapping[str, Tensor]) -> None:
        tensors = self.tensors
        for name, value in values.items():
            tensors[name].copy_(value)

    @torch.compiler.disable  # type: ignore[untyped-decorator]  # else they would be made anew in the backward pass
    def _state_copies(self) -> dict[str, Tensor]:
        """The state as it is now, in memory of its own, for a compiled pass to read. Its backward pass keeps the state itself,
        where an eager one keeps what was computed of it, and would go on with the new values.
        """
        return {name: tensor.clone() for name, tensor in self.tensors.items() if not tensor.requires_grad}


def lower(
    network: Network | Graph,
    params: Mapping[str, Array] | None = None,
    *,
    device_target: str | None = None,
    step: int = 0,
) -> LoweredNetwork:
    """A torch.nn.Module of a network; arguments as ``qat.deploy.interfaces.TrainingBackend.lower`` has them."""
    graph, params, device = to_lower(network, params, device_target, devices(), NAME)
    return LoweredNetwork(graph, params, step).to(DEVICES[device])


def devices() -> list[str]:
    """The device targets that torch can use here, the best first."""
    return ["GPU", "CPU"] if torch.cuda.is_available() else ["CPU"]


def seed(*numbers: int) -> None:
    """Seed what dropout draws from; each worker of a training draws others."""
    torch.manual_seed(int(own_generator(numbers).integers(1 << 63)))


def evaluation_ops(device_target: str | None = None) -> ExactOps:
    """The vocabulary that evaluates."""
    return ExactOps(DEVICES[choose_device(device_target, devices(), NAME)])


def runtime() -> str:
    """The framework that computes, with its version."""
    return f"PyTorch {torch.__version__}"


class Step(TrainingStep):
    """One training step with PyTorch's own optimizer: ``step(x, y, lr)`` returns the loss before the update.

    Args:
        model: what ``lower`` returned.
        optimizer: which one, and its settings.
        loss: written over the vocabulary.
        compile: compile forward pass and loss with torch.compile, once for each phase and size of batch.
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
        super().__init__(model.train(), loss, NAME, TORCHRUN, optimizer, compile=compile)
        self._compile = compile
        self._compute: dict[int, Callable[..., Any]] = {}  #: the current phase's alone
        self._parameters = list(model.parameters())
        decay = [p for p in self._parameters if p.ndim > 1]
        others = [p for p in self._parameters if p.ndim <= 1]
        groups = [{"params": decay, "weight_decay": optimizer.weight_decay}, {"params": others, "weight_decay": 0.0}]
        self.optimizer: torch.optim.Optimizer
        if optimizer.name == "momentum":
            self.optimizer = torch.optim.SGD(groups, lr=0.0, momentum=optimizer.momentum)
            slots = ["momentum_buffer"] if optimizer.momentum else []
        else:
            amsgrad = optimizer.name == "amsgrad"
            self.optimizer = torch.optim.Adam(groups, lr=0.0, amsgrad=amsgrad)
            slots = ["step", "exp_avg", "exp_avg_sq", *["max_exp_avg_sq"] * amsgrad]
        for parameter in (*decay, *others):  # as torch itself would do it, but only with a parameter's first gradient
            self.optimizer.state[parameter] = {
                slot: torch.zeros(()) if slot == "step" else torch.zeros_like(parameter) for slot in slots
            }

    def _computing(self, phase: int) -> Callable[..., tuple[dict[str, Tensor], dict[str, Tensor]]]:
        """The terms of the model and its new state in a phase, of tensors, inputs and targets."""
        if phase not in self._compute:
            terms = partial(self.model.terms, phase=phase, loss=self.loss)
            self._compute = {phase: compiled(terms) if self._compile else terms}
        return self._compute[phase]

    def _gradient(
        self, pixels: tuple[Array, ...], targets: tuple[Array, ...]
    ) -> tuple[Tensor, list[Tensor | None], dict[str, Tensor]]:
        device = self.model._ops.device
        inputs, wanted = (tuple(torch.from_numpy(x).to(device) for x in arrays) for arrays in (pixels, targets))
        compute = self._computing(self.model.next_phase())
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, enabled=False):  # products of a backward pass would be narrowed, too
            terms, updates = compute(self.model.tensors, inputs, single(wanted))
            loss = next(iter(terms.values()))
            torch.autograd.backward(loss)
        self.model._assign(updates)  # no sooner: a compiled pass goes backwards by the state that it was given
        if self._worker.count > 1:
            loss = self._average(loss.detach())
        gradients = [p.grad for p in self._parameters]
        return loss.detach(), gradients, {name: tensor.detach() for name, tensor in terms.items()}

    def _apply(self, gradients: Sequence[Tensor | None], lr: float) -> None:
        for parameter, gradient in zip(self._parameters, gradients, strict=True):
            parameter.grad = gradient
        if self._settings.clip_norm:
            torch.nn.utils.clip_grad_norm_(self._parameters, self._settings.clip_norm)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.step()

    def _mixed(self, averages: list[Tensor], values: list[Tensor], share: float) -> list[Tensor]:
        get_ema_multi_avg_fn(1.0 - share)(averages, values, None)  # type: ignore[no-untyped-call]
        return averages

    def _average(self, loss: Tensor) -> Tensor:
        """Let loss and gradients be their means over the workers, in one exchange; returns the loss."""
        gradients = [p.grad for p in self._parameters if p.grad is not None]
        loss, *means = means_over_workers([loss, *gradients])
        for gradient, mean in zip(gradients, means, strict=True):
            gradient.copy_(mean)
        return loss

    def _means(self, figures: Array) -> Array:
        (means,) = means_over_workers([torch.from_numpy(figures).to(self.model._ops.device)])
        return self.model._ops.to_numpy(means, "vector")

    def _slots(self) -> dict[str, Tensor]:
        names = {id(tensor): name for name, tensor in self.model.tensors.items()}
        return {
            f"{names[id(parameter)]}.{key}": value
            for parameter, values in self.optimizer.state.items()
            for key, value in values.items()
            if isinstance(value, Tensor)
        }

    def _set_slots(self, state: Mapping[str, Array]) -> None:
        slots = self._slots()
        for name, array in state.items():
            slots[name].copy_(torch.from_numpy(np.array(array)))

    def load_state(self, state: Mapping[str, Array]) -> None:
        """The inverse of ``state``. Earlier releases left out the parameters that had no gradient yet: they stay as they are.

        Raises:
            QatError: the state is of another network or optimizer, or not finite.
        """
        owners = {name.rpartition(".")[0] for name in state}
        left_out = {name: a for name, a in self.state().items() if owners and name.rpartition(".")[0] not in owners}
        super().load_state(left_out | dict(state))


make_step = Step
