"""PyTorch: the vocabulary over torch tensors, and a graph as a torch.nn.Module."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from qat.arrays import Arrays, as_arrays, as_tuple
from qat.devices import choose_device
from qat.errors import QatError
from qat.files import write_atomically
from qat.forward import Forward
from qat.graph import Graph, Params
from qat.inference import Deployment, predict, predict_codes, real_outputs, trace
from qat.integer import Evaluator, IntegerGraph
from qat.losses import Loss, Objective, cross_entropy
from qat.network import Network, as_graph
from qat.ops import Array, Kind, Ops, Padding, Pair
from qat.optimizer import Optimizer
from qat.workers import TORCHRUN, this_worker, training_worker

__all__ = [
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

DEVICES = {"CPU": "cpu", "GPU": "cuda"}  #: device target -> torch's name
Tensor = torch.Tensor


class TorchOps(Ops):
    """NCHW, as the canonical layout."""

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)

    def from_numpy(self, array: Array, kind: Kind) -> Tensor:
        return torch.from_numpy(np.array(array, np.float32)).to(self.device)

    def to_numpy(self, tensor: Tensor, kind: Kind) -> Array:
        return tensor.detach().cpu().numpy().copy()

    def on_channel(self, vector: Tensor, activation: Tensor) -> Tensor:
        return vector if vector.ndim == 0 or activation.ndim == 2 else vector.view(-1, 1, 1)

    def on_output(self, vector: Tensor, weight: Tensor) -> Tensor:
        return vector if vector.ndim == 0 else vector.view((-1,) + (1,) * (weight.ndim - 1))

    def _bound(self, value: Tensor | float) -> Tensor:
        return value.detach() if isinstance(value, Tensor) else torch.tensor(value, device=self.device)

    def conv2d(
        self,
        x: Tensor,
        w: Tensor,
        bias: Tensor | None,
        *,
        stride: Pair,
        padding: Padding,
        dilation: Pair,
        group: int,
        wide: bool = False,
    ) -> Tensor:
        top, bottom, left, right = padding
        if top != bottom or left != right:
            x, top, left = F.pad(x, (left, right, top, bottom)), 0, 0
        if wide:
            return (
                F.conv2d(
                    x.double(),
                    w.double(),
                    None if bias is None else bias.double(),
                    stride,
                    (top, left),
                    dilation,
                    group,
                )
                .round()
                .float()
            )  # wide sums are of integers: an algorithm that transforms is put right
        return F.conv2d(x, w, bias, stride, (top, left), dilation, group)

    def dense(self, x: Tensor, w: Tensor, bias: Tensor | None, *, wide: bool = False) -> Tensor:
        if wide:
            return F.linear(x.double(), w.double(), None if bias is None else bias.double()).round().float()
        return F.linear(x, w, bias)

    def max_pool2d(self, x: Tensor, *, kernel: Pair, stride: Pair, padding: Padding) -> Tensor:
        top, bottom, left, right = padding
        if any(padding):
            x = F.pad(x, (left, right, top, bottom), value=-torch.inf)
        halving = kernel == stride == (2, 2) and x.shape[2] % 2 == 0 and x.shape[3] % 2 == 0
        if halving and not x.is_cuda and not torch.compiler.is_compiling():
            return _HalvingMaxPool.apply(x)
        return F.max_pool2d(x, kernel, stride)

    def sum_pool2d(self, x: Tensor, *, kernel: Pair, stride: Pair, padding: Padding) -> Tensor:
        top, bottom, left, right = padding
        if any(padding):
            x = F.pad(x, (left, right, top, bottom))
        return F.avg_pool2d(x, kernel, stride, divisor_override=1)

    def concat(self, xs: Sequence[Tensor]) -> Tensor:
        return torch.cat(list(xs), dim=1)

    def take(self, table: Tensor, index: Tensor) -> Tensor:
        return table[index.long()]

    def drop(self, x: Tensor, rate: float) -> Tensor:
        return x * (torch.rand_like(x) >= rate)

    def flatten(self, x: Tensor) -> Tensor:
        return x.flatten(1)

    def maximum(self, x: Tensor, y: Tensor | float) -> Tensor:
        return torch.maximum(x, y) if isinstance(y, Tensor) else x.clamp_min(y)

    def minimum(self, x: Tensor, y: Tensor | float) -> Tensor:
        return torch.minimum(x, y) if isinstance(y, Tensor) else x.clamp_max(y)

    def sigmoid(self, x: Tensor) -> Tensor:
        return x.sigmoid()

    def tanh(self, x: Tensor) -> Tensor:
        return x.tanh()

    def softmax(self, x: Tensor) -> Tensor:
        return x.softmax(1)

    def sqrt(self, x: Tensor) -> Tensor:
        return x.sqrt()

    def log(self, x: Tensor) -> Tensor:
        return torch.log(x)

    def relu(self, x: Tensor) -> Tensor:
        return F.relu(x)

    def abs(self, x: Tensor) -> Tensor:
        return x.abs()

    def reciprocal(self, x: Tensor) -> Tensor:
        return x.reciprocal()

    def where(self, condition: Tensor, x: Tensor, y: Tensor) -> Tensor:
        return torch.where(condition, x, y)

    def isfinite(self, x: Tensor) -> Tensor:
        return torch.isfinite(x)

    def rint(self, x: Tensor) -> Tensor:
        return x.round()

    def round_ste(self, x: Tensor) -> Tensor:
        return x + (x.round() - x).detach()  # exact: the fraction is, and the sum is an integer

    def power_of_two(self, exponent: Tensor) -> Tensor:
        """By its bits: torch.compile would leave its graph for the table."""
        return ((exponent.detach().to(torch.int32) + 127) << 23).view(torch.float32)

    def stop_gradient(self, x: Tensor) -> Tensor:
        return x.detach()

    def max(self, x: Tensor) -> Tensor:
        return x.amax()

    def min(self, x: Tensor) -> Tensor:
        return x.amin()

    def mean(self, x: Tensor) -> Tensor:
        return x.mean()

    def channel_max(self, x: Tensor) -> Tensor:
        return x.amax(0).flatten(1).amax(1) if x.ndim > 2 else x.amax(0)  # faster than all axes at once

    def channel_min(self, x: Tensor) -> Tensor:
        return x.amin(0).flatten(1).amin(1) if x.ndim > 2 else x.amin(0)

    def channel_mean(self, x: Tensor) -> Tensor:
        return x.mean((0, *range(2, x.ndim)))

    def max_over_channels(self, x: Tensor) -> Tensor:
        return x.amax(1, keepdim=True)

    def sum_over_channels(self, x: Tensor) -> Tensor:
        return x.sum(1, keepdim=True)

    def output_max(self, w: Tensor) -> Tensor:
        return w.flatten(1).amax(1)

    def output_min(self, w: Tensor) -> Tensor:
        return w.flatten(1).amin(1)

    def output_mean(self, w: Tensor) -> Tensor:
        return w.flatten(1).mean(1)

    def output_absmax(self, w: Tensor) -> Tensor:
        return w.flatten(1).abs().amax(1)

    def softmax_cross_entropy(self, logits: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
        return F.cross_entropy(logits, labels, label_smoothing=smoothing)

    def batch_norm(self, x: Tensor, gamma: Tensor, beta: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        y, mean, rsigma = torch.native_batch_norm(x, gamma, beta, None, None, True, 0.0, eps)
        return y, mean.detach(), (rsigma.detach().pow(-2) - eps).clamp_min(0.0)

    def moving_average(self, old: Tensor, new: Tensor, decay: float) -> Tensor:
        finite = (old - old) == 0.0  # what isfinite says, in two operations instead of five
        return torch.where(finite, torch.lerp(new, old, decay), new)

    def requantize(
        self,
        x: Tensor,
        multiplier: Tensor,
        low: Tensor | float | None = None,
        high: Tensor | float | None = None,
        *,
        open_low: bool = False,
    ) -> Tensor:
        """Three passes over the data, and no mask in memory.

        The rounding happens in place behind autograd's back, which is the straight-through gradient. hardtanh masks at
        exclusive bounds, so an inclusive one is moved to the next float32 outside, which rounds back; clamp, which serves
        bounds that are tensors, masks at inclusive ones.
        """
        u = x * multiplier
        if isinstance(low, float) and isinstance(high, float):
            below = low if open_low else float(np.nextafter(np.float32(low), np.float32(-np.inf)))
            u = F.hardtanh(u, below, float(np.nextafter(np.float32(high), np.float32(np.inf))))
        elif low is not None and high is not None:
            low = self._bound(low)
            u = F.relu(u - low) + low if open_low else torch.clamp(u, min=low)
            u = torch.clamp(u, max=self._bound(high))
        with torch.no_grad():
            return u.round_()


class _ExactOps(TorchOps):
    """For evaluation: every sum of integers is exact.

    Left to itself PyTorch may transform a convolution (Winograd, FFT) or round its factors (TF32), which is not exact in
    integers. NNPACK, which it takes where oneDNN is missing, as on ARM, is switched off. A GPU computes in float64, whose
    transforms err by less than half an integer, and rounds back.
    """

    def conv2d(self, x: Tensor, w: Tensor, bias: Tensor | None, *, wide: bool = False, **window: Any) -> Tensor:
        with torch.backends.nnpack.flags(enabled=False):
            return super().conv2d(x, w, bias, wide=wide or x.is_cuda, **window)

    def dense(self, x: Tensor, w: Tensor, bias: Tensor | None, *, wide: bool = False) -> Tensor:
        return super().dense(x, w, bias, wide=wide or x.is_cuda)


class _HalvingMaxPool(torch.autograd.Function):
    """Max pooling of 2x2 windows with stride 2 over even sizes: within each row first, as whole-array operations.

    PyTorch's own kernel for NCHW visits window by window; on a CPU, forward and backward of (64, 6, 28, 28) take twice as
    long with it. Of equal elements the first of the upper row gets the gradient, as there.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        left, right = x[..., 0::2], x[..., 1::2]
        columns = torch.maximum(left, right)
        upper, lower = columns[:, :, 0::2], columns[:, :, 1::2]
        ctx.save_for_backward(left >= right, upper >= lower)
        return torch.maximum(upper, lower)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        left_wins, upper_wins = ctx.saved_tensors
        columns = _spread(grad, upper_wins, -2)
        return _spread(columns, left_wins, -1)


def _spread(grad: Tensor, first_wins: Tensor, axis: int) -> Tensor:
    """Twice as long along ``axis``: each element goes to the first of its pair where that won, else to the second."""
    shape = list(grad.shape)
    shape[axis] *= 2
    result = grad.new_empty(shape)
    first, second = (result[..., i::2] if axis == -1 else result[..., i::2, :] for i in (0, 1))
    torch.mul(grad, first_wins, out=first)
    torch.sub(grad, first, out=second)
    return result


class CellModule(torch.nn.Module):
    """The parameters of one cell; ``print`` shows what the cell is."""

    def __init__(self) -> None:
        super().__init__()
        self.description = ""

    def extra_repr(self) -> str:
        return self.description


class LoweredNetwork(torch.nn.Module):
    """A graph as a torch module, trainable with any torch loop.

    Parameters and buffers are named as in the graph ("conv1.weight"). Called with raw pixels, (N, C, H, W), uint8 or
    float, it returns real outputs (logits). In training mode each call is one step of the quant_delay. In evaluation
    mode a quantized network computes the integers of deployment: they are derived anew whenever a parameter has
    changed, and no gradient flows.
    """

    def __init__(self, graph: Graph, params: Mapping[str, Array], step: int = 0) -> None:
        super().__init__()
        self.graph = graph
        self.step = step  #: training steps done, which the quant_delay counts
        for node in graph.nodes:
            module = self._cell_module(node.cell_name)
            module.description = node.cell.describe
            for local, param in node.cell.params().items():
                tensor = torch.from_numpy(np.array(params[f"{node.cell_name}.{local}"], np.float32))
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
                module.add_module(part, CellModule())
            module = module.get_submodule(part)
        assert isinstance(module, CellModule)
        return module

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Parameters and buffers by full name, as they are now: they may be replaced, pruned or parametrized."""
        return {name: getattr(module, local) for name, module, local in self._slots}

    def _use_device(self) -> None:
        self._ops = _training_ops(next((tensor.device for tensor in self.tensors.values()), "cpu"))
        self._pass = Forward(self.graph, self._ops)
        self._deployment = Deployment(self.graph, _ExactOps(self._ops.device))

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
        return {"step": self.step}

    def set_extra_state(self, state: dict[str, int]) -> None:
        """The inverse of ``get_extra_state``."""
        self.step = state["step"]

    def forward(self, *inputs: Tensor) -> Any:
        """Real outputs: one tensor, or a tuple where the network has several."""
        if self.training:
            return self.run(inputs, self.next_phase())
        return self.evaluated(inputs)

    def evaluated(self, inputs: tuple[Tensor, ...]) -> Any:
        """What evaluation mode computes, whatever the mode is."""
        if not self.graph.is_quantized:
            return self.run(inputs, 0, training=False)
        outputs = real_outputs(*self.deployed(*inputs))
        return outputs[0] if len(outputs) == 1 else outputs

    @torch.compiler.disable
    def next_phase(self) -> int:
        """Count one training step; returns its phase (see ``Forward.phase``)."""
        self.step += 1
        return self._pass.phase(self.step - 1)

    def run(self, inputs: tuple[Tensor, ...], phase: int, *, training: bool = True) -> Any:
        """The float or fake-quantized pass; in training it also updates the state."""
        outputs = self._updating(partial(self._pass, training=training, phase=phase), inputs)
        return outputs[0] if len(outputs) == 1 else outputs

    def terms(self, inputs: tuple[Tensor, ...], targets: Any, phase: int, loss: Loss | Objective) -> dict[str, Tensor]:
        """One training step's terms (see ``Forward.terms``); it also updates the state."""
        return self._updating(partial(self._pass.terms, loss, targets=targets, phase=phase), inputs)

    def _updating(self, compute: Callable[..., tuple[Any, dict[str, Tensor]]], inputs: tuple[Tensor, ...]) -> Any:
        """What ``compute(params, pixels)`` gives beside the new values of state, which are set."""
        tensors, device = self.tensors, self._ops.device
        with torch.autocast(device.type, enabled=False):  # integers up to 2^24 need float32
            pixels = tuple(x.to(device, torch.float32) for x in inputs)
            found, updates = compute(tensors, inputs=pixels)
        with torch.no_grad():
            for name, value in updates.items():
                tensors[name].copy_(value)
        return found

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
        """Real outputs in evaluation mode, canonical, of raw pixels (see ``qat.inference``)."""
        outputs = self.evaluated(tuple(torch.tensor(x) for x in pixels))
        return tuple(y.cpu().numpy() for y in (outputs if isinstance(outputs, tuple) else (outputs,)))

    def infer_codes(self, pixels: tuple[Array, ...]) -> dict[str, Array]:
        """Centred codes of every node, canonical."""
        _, codes = self.deployed(*(torch.tensor(x) for x in pixels))
        return {name: values.cpu().numpy() for name, values in codes.items()}


def _training_ops(device: torch.device | str) -> TorchOps:
    """The vocabulary that trains; with several workers, one that reduces over all of them."""
    if not this_worker().started_by(TORCHRUN):
        return TorchOps(device)
    from qat.backends.torch_workers import WorkerOps, join

    join()
    return WorkerOps(device)


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
    params = graph.initial_params() if params is None else params
    graph.check_params(params)
    return LoweredNetwork(graph, params, step).to(DEVICES[choose_device(device_target, devices(), "torch")])


def read(model: LoweredNetwork) -> Params:
    """The parameters and state of a lowered network, canonical NumPy arrays by full name."""
    return {name: tensor.detach().cpu().numpy().copy() for name, tensor in model.tensors.items()}


def write(model: LoweredNetwork, params: Mapping[str, Array]) -> None:
    """Set some parameters or state of a lowered network, canonical arrays by full name."""
    tensors = model.tensors
    with torch.no_grad():
        for name, array in params.items():
            tensors[name].copy_(torch.from_numpy(np.array(array, np.float32)))


def devices() -> list[str]:
    """The device targets that torch can use here, the best first."""
    return ["GPU", "CPU"] if torch.cuda.is_available() else ["CPU"]


def load_params(path: str | Path) -> dict[str, Array]:
    """The arrays of a file that torch.save wrote of a state_dict, by name. Nothing in the file is executed."""
    try:
        data = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise QatError(f"{path}: cannot be read ({error.strerror}); give a file that torch.save wrote") from None
    except Exception as error:  # pickle, zip and torch each have their own
        reason = " ".join(str(error).split())[:200]
        raise QatError(f"{path}: is no state_dict of PyTorch ({reason}); give a file that torch.save wrote") from None
    data = data.get("state_dict", data) if isinstance(data, dict) else data
    if not isinstance(data, dict) or not any(isinstance(value, Tensor) for value in data.values()):
        raise QatError(f"{path}: holds {type(data).__name__} without tensors; save model.state_dict()")
    return {name: value.detach().float().numpy() for name, value in data.items() if isinstance(value, Tensor)}


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
        else:
            self.optimizer = torch.optim.Adam(groups, lr=0.0, amsgrad=optimizer.name == "amsgrad")

    def __call__(self, x: Arrays, y: Arrays, lr: float) -> float:
        """x: raw pixels (N, C, H, W), a tuple of them where the network has several inputs. y: integer labels (N,), or a
        tuple of them and further targets.
        """
        device = self.model._ops.device
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
        from qat.backends.torch_workers import means_over_workers

        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        loss, *means = means_over_workers([loss, *gradients])
        for gradient, mean in zip(gradients, means, strict=True):
            gradient.copy_(mean)
        return loss

    def terms(self) -> dict[str, Array]:
        """The terms of the last step's loss (see ``Forward.terms``)."""
        return {name: tensor.cpu().numpy() for name, tensor in self._terms.items()}

    def means(self, figures: Sequence[float]) -> list[float]:
        """Of each figure over the workers; the figures themselves where there is one."""
        if self._worker.count == 1:
            return list(figures)
        from qat.backends.torch_workers import means_over_workers

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
