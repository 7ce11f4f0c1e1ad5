"""PyTorch: a graph as a torch.nn.Module, and how it is trained."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from qat.backends.torch.ops import ExactOps, Tensor, TorchOps
from qat.backends.torch.workers import means_over_workers, training_ops
from qat.cells.base import Shape
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
from qat.files import write_atomically
from qat.graph import Graph, Network, Params, as_graph
from qat.integer import Evaluator, IntegerGraph
from qat.reading import check_zip, open_regular, reading, without_warnings
from qat.training.devices import choose_device
from qat.training.forward import Forward
from qat.training.losses import Loss, Objective, cross_entropy, step_terms
from qat.training.optimizer import Optimizer, check_state
from qat.training.workers import TORCHRUN, this_worker, training_worker
from qat.vocabulary.arrays import Arrays, as_arrays, as_tuple, check_pixels
from qat.vocabulary.ops import Array

__all__ = [
    "NAME",
    "LoweredNetwork",
    "TorchOps",
    "devices",
    "load_params",
    "lower",
    "make_step",
    "predict",
    "predict_codes",
    "read",
    "runtime",
    "save_params",
    "seed",
    "trace",
    "write",
]

NAME = "torch"  #: under which ``qat.backend`` knows it

DEVICES = {"CPU": "cpu", "GPU": "cuda"}  #: device target -> torch's name


def _held(x: Tensor, shape: Shape) -> Tensor:
    """The same, in operations that fail where sizes are others: of a trace nothing but operations is left."""
    for axis, size in enumerate(shape, 1):
        (x,) = x.split_with_sizes([size], axis)
    return x


class CellModule(torch.nn.Module):
    """The parameters of one cell; ``print`` shows what the cell is."""

    def __init__(self) -> None:
        super().__init__()
        self.description = ""

    def extra_repr(self) -> str:
        return self.description


class LoweredNetwork(torch.nn.Module):
    """A graph as a torch module, trainable with any torch loop.

    Parameters and buffers are named as in the graph ("conv1.weight"). Called with raw pixels, (N, C, H, W), uint8, and
    nothing else, it returns real outputs (logits). In training mode each call is one step of the quant_delay. In evaluation
    mode a quantized network computes the integers of deployment: they are derived anew whenever a parameter has
    changed, and no gradient flows.
    """

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
        self._pass = Forward(self.graph, self._ops)
        self._deployment = Deployment(self.graph, ExactOps(self._ops.device))

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        result = super()._apply(fn, recurse)  # to(), cuda(), double(), ...
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
            raise self._not_exported("torch.onnx.export")
        return {"step": self.step}

    def _not_exported(self, what: str) -> QatError:
        use = "export(model.integers(), path)" if self.graph.is_quantized else "export_float(graph, params, path)"
        return QatError(
            f"{self.graph.name}: {what} cannot write it, since what it computes is settled in NumPy, outside of what torch "
            f"sees; use qat.target('ONNX').{use}"
        )

    def set_extra_state(self, state: dict[str, int]) -> None:
        """The inverse of ``get_extra_state``."""
        self.step = state["step"]

    def forward(self, *inputs: Tensor) -> Any:
        """Real outputs: one tensor, or a tuple where the network has several."""
        check_pixels(inputs, self.graph.input_shapes, Tensor, self.graph.name)
        if torch.jit.is_tracing():
            inputs = tuple(map(_held, inputs, self.graph.input_shapes))
        if self.training:
            return self.run(inputs, self.next_phase())
        return self.evaluated(inputs)

    def evaluated(self, inputs: tuple[Tensor, ...]) -> Any:
        """What evaluation mode computes, whatever the mode is."""
        if not self.graph.is_quantized:
            return self.run(inputs, 0, training=False)
        if torch.compiler.is_exporting():
            raise self._not_exported("torch.export")
        outputs = real_outputs(*self.deployed(*inputs))
        return outputs[0] if len(outputs) == 1 else outputs

    @torch.compiler.disable
    def next_phase(self) -> int:
        """Count one training step; returns its phase (see ``Forward.phase``)."""
        self.step += 1
        return self._pass.phase(self.step - 1)

    def run(self, inputs: tuple[Tensor, ...], phase: int, *, training: bool = True) -> Any:
        """The float or fake-quantized pass; in training it also updates the state."""
        state = self._state_copies() if torch.compiler.is_compiling() else {}
        outputs = self._updating(partial(self._pass, self.tensors | state, training=training, phase=phase), inputs)
        return outputs[0] if len(outputs) == 1 else outputs

    def terms(self, inputs: tuple[Tensor, ...], targets: Any, phase: int, loss: Loss | Objective) -> dict[str, Tensor]:
        """One training step's terms (see ``step_terms``); it also updates the state."""
        state = self._state_copies() if torch.compiler.is_compiling() else {}
        compute = partial(step_terms, self._pass, loss, self.tensors | state, targets=targets, phase=phase)
        return self._updating(compute, inputs)

    def _updating(self, compute: Callable[..., tuple[Any, dict[str, Tensor]]], inputs: tuple[Tensor, ...]) -> Any:
        """What ``compute(pixels)`` gives beside the new values of state, which are set."""
        tensors, device = self.tensors, self._ops.device
        with torch.autocast(device.type, enabled=False):  # integers up to 2^24 need float32
            pixels = tuple(x.to(device, torch.float32) for x in inputs)
            found, updates = compute(inputs=pixels)
        with torch.no_grad():
            for name, value in updates.items():
                tensors[name].copy_(value)
        return found

    @torch.compiler.disable  # else they would be made anew in the backward pass
    def _state_copies(self) -> dict[str, Tensor]:
        """The state as it is now, in memory of its own, for a compiled pass to read. Its backward pass keeps the state itself,
        where an eager one keeps what was computed of it, and would go on with the new values.
        """
        return {name: tensor.clone() for name, tensor in self.tensors.items() if not tensor.requires_grad}

    def evaluator(self) -> Evaluator:
        """The integers of deployment, derived in NumPy from the parameters as they are now."""
        return self._deployment.evaluator(read(self))

    @torch.compiler.disable
    @torch.no_grad()
    def deployed(self, *pixels: Tensor) -> tuple[IntegerGraph, dict[str, Tensor]]:
        """The deployed network, and its codes less their zero point, of every node: whole numbers in float32."""
        device, evaluator = self._ops.device, self.evaluator()
        with torch.autocast(device.type, enabled=False):
            return evaluator.graph, evaluator(*(x.to(device, torch.float32) for x in pixels))

    def integers(self) -> IntegerGraph:
        """The integers of deployment, of the parameters as they are now."""
        return self.evaluator().graph

    @torch.no_grad()
    def infer(self, pixels: tuple[Array, ...]) -> tuple[Array, ...]:
        """Real outputs in evaluation mode, canonical, of raw pixels (see ``qat.deploy.inference``)."""
        outputs = self.evaluated(tuple(torch.tensor(x) for x in pixels))
        return tuple(y.cpu().numpy() for y in (outputs if isinstance(outputs, tuple) else (outputs,)))

    def infer_codes(self, pixels: tuple[Array, ...]) -> dict[str, Array]:
        """Centred codes of every node, canonical."""
        _, codes = self.deployed(*(torch.tensor(x) for x in pixels))
        return {name: values.cpu().numpy() for name, values in codes.items()}


def lower(
    network: Network | Graph,
    params: Mapping[str, Array] | None = None,
    *,
    device_target: str | None = None,
    step: int = 0,
) -> LoweredNetwork:
    """A torch.nn.Module of a network.

    params: canonical arrays (default: fresh ones). device_target: one of ``devices()`` (default: the first). step: training
    steps done so far.
    """
    graph = as_graph(network)
    params = params_to_lower(graph, params)
    return LoweredNetwork(graph, params, step).to(DEVICES[choose_device(device_target, devices(), "torch")])


def read(model: LoweredNetwork) -> Params:
    """The parameters and state of a lowered network, canonical NumPy arrays by full name."""
    return {name: tensor.detach().cpu().numpy().copy() for name, tensor in model.tensors.items()}


def write(model: LoweredNetwork, params: Mapping[str, Array]) -> None:
    """Set some parameters or state of a lowered network, canonical arrays by full name."""
    tensors, arrays = model.tensors, params_to_write(model.graph, params)
    with torch.no_grad():
        for name, array in arrays.items():
            tensors[name].copy_(torch.from_numpy(array))


def devices() -> list[str]:
    """The device targets that torch can use here, the best first."""
    return ["GPU", "CPU"] if torch.cuda.is_available() else ["CPU"]


def load_params(path: str | Path) -> dict[str, Array]:
    """The arrays of a file that torch.save wrote of a state_dict, by name. Nothing in the file is executed."""
    advice = "give a file that torch.save wrote"
    with open_regular(path, advice) as file, reading(path, "a state_dict of PyTorch", advice), without_warnings():
        if zipfile.is_zipfile(file):
            check_zip(path, file, advice)
        file.seek(0)
        try:
            data = torch.load(file, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError:  # PyTorch's own words would have the protection switched off
            raise ValueError("it holds more than tensors, or is another program's file") from None
        data = data.get("state_dict", data) if isinstance(data, dict) else data
        if not isinstance(data, dict) or not any(isinstance(value, Tensor) for value in data.values()):
            raise QatError(f"{path}: holds {type(data).__name__} without tensors; save model.state_dict()")
        return {str(name): _array(value.detach()) for name, value in data.items() if isinstance(value, Tensor)}


def _array(tensor: Tensor) -> Array:
    """A tensor of a file as float32. Raises ValueError where it declares more numbers than the file holds for it."""
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise ValueError(f"a tensor of {tuple(tensor.shape)} has {tensor.untyped_storage().nbytes()} bytes")
    if tensor.is_complex():
        raise ValueError("a tensor holds complex numbers")
    array: Array = tensor.float().numpy()
    return array


def save_params(params: Mapping[str, Array], path: str | Path) -> None:
    """The inverse of ``load_params``: a state_dict."""
    buffer = io.BytesIO()
    torch.save({name: torch.from_numpy(np.array(array)) for name, array in params.items()}, buffer)
    write_atomically(path, buffer.getvalue())


def seed(*numbers: int) -> None:
    """Seed what ``ops.drop`` draws from; every worker draws its own."""
    torch.manual_seed(int(np.random.default_rng(this_worker().own(numbers)).integers(1 << 63)))


def runtime() -> str:
    """What the passes run in, with its version."""
    return f"PyTorch {torch.__version__}"


class Step:
    """One training step of a lowered network: ``step(x, y, lr)`` returns the loss before the update.

    loss: written over the vocabulary. compile: compile forward pass and loss with torch.compile, once for each phase.
    Started by torchrun, each worker is given the joint batch and takes its share of it; the loss is the joint one.
    """

    def __init__(
        self,
        model: LoweredNetwork,
        optimizer: Optimizer,
        loss: Loss | Objective = cross_entropy,
        *,
        compile: bool = False,
    ) -> None:
        self.model = model.train()
        self._worker = training_worker(TORCHRUN, "torch", compile=compile)
        plain = partial(model.terms, loss=loss)
        self._compute = torch.compile(plain) if compile else plain
        self._terms: dict[str, Tensor] = {}
        decay = [p for p in model.parameters() if p.ndim > 1]
        others = [p for p in model.parameters() if p.ndim <= 1]
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

    def __call__(self, x: Arrays, y: Arrays, lr: float) -> float:
        """x: raw pixels (N, C, H, W), a tuple of them where the network has several inputs. y: integer labels (N,), or a
        tuple of them and further targets.
        """
        graph, device = self.model.graph, self.model._ops.device
        check_pixels(as_tuple(x), graph.input_shapes, np.ndarray, graph.name)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        pixels = tuple(torch.from_numpy(array).to(device) for array in as_tuple(self._worker.share(x)))
        targets = tuple(torch.from_numpy(array).to(device) for array in as_tuple(self._worker.share(y)))
        terms = self._compute(pixels, as_arrays(targets), self.model.next_phase())
        loss = next(iter(terms.values()))
        self._terms = {name: tensor.detach() for name, tensor in terms.items()}
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if self._worker.count > 1:
            loss = self._average(loss.detach())
        self.optimizer.step()
        return loss.item()

    def _average(self, loss: Tensor) -> Tensor:
        """Let loss and gradients be their means over the workers, in one exchange; returns the loss."""
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        loss, *means = means_over_workers([loss, *gradients])
        for gradient, mean in zip(gradients, means, strict=True):
            gradient.copy_(mean)
        return loss

    def terms(self) -> dict[str, Array]:
        """The terms of the last step's loss (see ``step_terms``)."""
        return {name: tensor.cpu().numpy() for name, tensor in self._terms.items()}

    def means(self, figures: Sequence[float]) -> list[float]:
        """Of each figure over the workers; the figures themselves where there is one."""
        if self._worker.count == 1:
            return list(figures)
        (means,) = means_over_workers([torch.tensor(figures, device=self.model._ops.device)])
        return [float(mean) for mean in means]

    def state(self) -> dict[str, Array]:
        """The optimizer's state, by "<parameter>.<name of the state>"."""
        names = {id(tensor): name for name, tensor in self.model.tensors.items()}
        return {
            f"{names[id(parameter)]}.{key}": value.detach().cpu().numpy().copy()
            for parameter, values in self.optimizer.state.items()
            for key, value in values.items()
            if isinstance(value, Tensor)
        }

    def load_state(self, state: Mapping[str, Array]) -> None:
        """The inverse of ``state``."""
        owners = {name.rpartition(".")[0] for name in state}  # earlier releases left out what had no gradient yet
        expected = {name: a for name, a in self.state().items() if not owners or name.rpartition(".")[0] in owners}
        check_state(state, expected)
        for full_name, array in state.items():
            name, _, key = full_name.rpartition(".")
            tensor = torch.from_numpy(np.array(array))
            parameter = self.model.tensors[name]
            self.optimizer.state[parameter][key] = tensor if key == "step" else tensor.to(parameter.device)


def make_step(
    model: LoweredNetwork, optimizer: Optimizer, loss: Loss | Objective = cross_entropy, *, compile: bool = False
) -> Step:
    """One training step with the framework's own optimizer."""
    return Step(model, optimizer, loss, compile=compile)
