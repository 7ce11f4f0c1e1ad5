"""MindSpore: a graph as a mindspore.nn.Cell, and how it is trained."""

from __future__ import annotations

import itertools
import tempfile
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from qat.backends.mindspore.ops import ExactOps, MindSporeOps, Tensor
from qat.backends.mindspore.setup import jit_trace, ms, nn, ops
from qat.backends.mindspore.workers import join, means_over_workers, training_ops
from qat.deploy import wire
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
from qat.integer import IntegerGraph
from qat.reading import read_file, reading
from qat.training.devices import choose_device
from qat.training.forward import Forward
from qat.training.losses import Loss, Objective, cross_entropy, step_terms
from qat.training.optimizer import Optimizer, check_state
from qat.training.workers import MSRUN, this_worker, training_worker
from qat.vocabulary.arrays import Arrays, as_arrays, as_tuple, check_pixels
from qat.vocabulary.ops import Array

__all__ = [
    "NAME",
    "LoweredNetwork",
    "MindSporeOps",
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
    "traced",
]

NAME = "mindspore"  #: under which ``qat.backend`` knows it


def traced(function: Callable[..., Any]) -> Callable[..., Any]:
    """``function`` as MindSpore compiles it from one call: tensors in, a flat tuple of tensors out, nothing else.

    Everything that is no argument, parameters too, is a constant from then on. The compiled form can be differentiated
    from outside; a gradient that is taken inside becomes a constant.
    """

    failures: list[BaseException] = []

    def recorded(*tensors: Tensor) -> Any:
        try:
            return function(*tensors)
        except BaseException as error:  # let through, it would leave MindSpore recording whatever runs next
            failures.append(error)
            return tensors

    # MindSpore keeps what it compiled by the function's name and id, and ids are used again.
    recorded.__name__ = f"traced{next(_COUNTER)}"
    compiled = ms.jit(recorded, capture_mode="trace")

    def run(*tensors: Tensor) -> Any:
        with _recording():
            found = compiled(*tensors)
        if failures:
            error = failures[0]
            failures.clear()
            raise error
        return found

    # It keeps them for as long as the process lives, tens of megabytes for a small network.
    weakref.finalize(run, _FORGOTTEN.append, recorded.__name__).atexit = False
    return run


_COUNTER = itertools.count()
_FORGOTTEN: list[str] = []  #: names of functions that nobody can call any more


@contextmanager
def _recording() -> Iterator[None]:
    """MindSpore's recording, without two things that it does for each operation: it looks up the source of the whole stack,
    and fails where a frame has none (under python -m, python -c and at the prompt); and it prints every tensor for a log that
    is off, which takes as long as the rest.
    """
    originals = jit_trace._get_caller_lines, Tensor.__repr__, Tensor.__str__
    jit_trace._get_caller_lines = lambda: ([__file__], [1])
    Tensor.__repr__ = Tensor.__str__ = lambda self: "Tensor of a pass that is being compiled"
    try:
        yield
    finally:
        jit_trace._get_caller_lines, Tensor.__repr__, Tensor.__str__ = originals


def _release_forgotten() -> None:
    """Free what MindSpore compiled of functions that nobody can call any more; not where they end, which may be amid the
    compilation of another one.
    """
    while _FORGOTTEN:
        mark = f".{_FORGOTTEN.pop()}#"
        phases = {phase for phase in jit_trace._trace_compile_cache if mark in phase}
        jit_trace._jit_executor.del_net_res(None, phases)
        jit_trace._trace_compile_cache.difference_update(phases)


class CellModule(nn.Cell):
    """The parameters of one cell; ``print`` shows what the cell is."""

    def __init__(self) -> None:
        super().__init__(auto_prefix=False)
        self.description = ""

    def extend_repr(self) -> str:
        """What ``print`` shows."""
        return self.description


#: What a checkpoint calls its types.
TYPES = {f"{kind}{bits}": f"{kind.lower()}{bits}" for kind in ("Int", "UInt") for bits in (8, 16, 32, 64)}
TYPES |= {f"Float{bits}": f"float{bits}" for bits in (16, 32, 64)} | {"Bool": "bool"}


class LoweredNetwork(nn.Cell):
    """A graph as a MindSpore cell, trainable in PYNATIVE mode (MindSpore's default) with ``mindspore.train.Model`` or any
    loop.

    Parameters are named as in the graph ("conv1.weight"); state does not require a gradient. Called with raw pixels,
    (N, C, H, W), uint8, and nothing else, it returns real outputs (logits). After ``set_train()`` each call is one step of the
    quant_delay. In evaluation a quantized network computes the integers of deployment: they are derived anew whenever a
    parameter has changed, and no gradient flows.
    """

    def __init__(self, graph: Graph, params: Mapping[str, Array], step: int = 0) -> None:
        super().__init__(auto_prefix=False)
        self.graph = graph
        self.step = step  #: training steps done, which the quant_delay counts
        self.tensors: dict[str, ms.Parameter] = {}
        self._pass = Forward(graph, training_ops())
        self._traced: dict[tuple[int, Any], tuple[Callable[..., Any], list[Any], list[str]]] = {}
        self._deployment = Deployment(graph, ExactOps())
        for node in graph.nodes:
            module = self._cell_module(node.cell_name)
            module.description = node.cell.describe
            for local, param in node.cell.params().items():
                name = f"{node.cell_name}.{local}"
                if name not in self.tensors:
                    tensor = Tensor(np.array(params[name], np.float32))
                    self.tensors[name] = ms.Parameter(tensor, name=name, requires_grad=param.trainable)
                    module._params[local] = self.tensors[name]

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
        """As mindspore.nn.Cell's. Raises QatError in GRAPH mode."""
        if ms.get_context("mode") == ms.GRAPH_MODE:
            raise QatError(
                f"{self.graph.name}: computes in PYNATIVE mode, MindSpore's default, and compiles its passes itself; call "
                "mindspore.set_context(mode=mindspore.PYNATIVE_MODE)"
            )
        return super().__call__(*inputs, **options)

    def construct(self, *inputs: Tensor) -> Any:
        """Real outputs: one tensor, or a tuple where the network has several."""
        check_pixels(inputs, self.graph.input_shapes, Tensor, self.graph.name)
        if self.training:
            found, updates = self.run(inputs)
            self.write(updates)
            outputs = tuple(found.values())
        else:
            outputs = tuple(Tensor(y) for y in self.infer(tuple(x.asnumpy() for x in inputs)))
        return outputs[0] if len(outputs) == 1 else outputs

    def run(self, inputs: tuple[Tensor, ...], loss: Loss | Objective | None = None) -> tuple[dict[Any, Tensor], Any]:
        """One training step's forward pass, as one compiled function for each phase: outputs by their numbers, and new
        values of state.

        loss: compute its terms, by name, instead of the outputs (``step_terms``); the last of the inputs are its targets.
        """
        phase = self._pass.phase(self.step)
        function, found_names, state_names = self._phase_function(phase, loss)
        pixels = tuple(x.astype(ms.float32) for x in inputs[: len(self.graph.inputs)])
        try:
            found = function(_next_key(), *pixels, *inputs[len(pixels) :], *self.tensors.values())
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
                self._pass.ops.seed(key)
                if loss is None:
                    outputs, updates = self._pass(params, pixels, training=True, phase=phase)
                    found: dict[Any, Tensor] = dict(enumerate(outputs))
                else:
                    found, updates = step_terms(self._pass, loss, params, pixels, as_arrays(rest), phase=phase)
                found_names[:], state_names[:] = found, updates
                return (*found.values(), *updates.values())

            self._traced[phase, loss] = traced(compute), found_names, state_names
        return self._traced[phase, loss]

    def write(self, updates: Mapping[str, Tensor]) -> None:
        """Set state."""
        for name, value in updates.items():
            ops.assign(self.tensors[name], ops.stop_gradient(value))

    def integers(self) -> IntegerGraph:
        """The integers of deployment, derived in NumPy from the parameters as they are now."""
        return self._deployment.evaluator(read(self)).graph

    def infer(self, pixels: tuple[Array, ...]) -> tuple[Array, ...]:
        """Real outputs in evaluation mode, float32 (N, ...), of raw pixels (N, C, H, W), one array for each input."""
        if self.graph.is_quantized:
            return tuple(y.asnumpy() for y in real_outputs(*self._deployed(pixels)))
        tensors = tuple(Tensor(np.array(x, np.float32)) for x in pixels)
        outputs, _ = self._pass(self.tensors, tensors, training=False, phase=0)
        return tuple(y.asnumpy() for y in outputs)

    def infer_codes(self, pixels: tuple[Array, ...]) -> dict[str, Array]:
        """Centred codes of every node of ``integers()``, whole numbers in float32."""
        return {name: value.asnumpy() for name, value in self._deployed(pixels)[1].items()}

    def _deployed(self, pixels: tuple[Array, ...]) -> tuple[IntegerGraph, dict[str, Tensor]]:
        evaluator = self._deployment.evaluator(read(self))
        return evaluator.graph, evaluator(*(Tensor(np.array(x, np.float32)) for x in pixels))


_draws: dict[str, np.random.Generator] = {"key": np.random.default_rng()}


def _next_key() -> Tensor:
    return Tensor(np.int32(_draws["key"].integers(-(2**31), 2**31)))


def seed(*numbers: int) -> None:
    """Seed what ``ops.drop`` draws from; every worker draws its own."""
    _draws["key"] = np.random.default_rng(this_worker().own(numbers))


def lower(
    network: Network | Graph,
    params: Mapping[str, Array] | None = None,
    *,
    device_target: str | None = None,
    step: int = 0,
) -> LoweredNetwork:
    """A mindspore.nn.Cell of a network.

    params: canonical arrays (default: fresh ones). device_target: one of ``devices()`` (default: the first); it is
    MindSpore's own setting for the whole process. step: training steps done so far.
    """
    _release_forgotten()
    graph = as_graph(network)
    params = params_to_lower(graph, params)
    device = choose_device(device_target, devices(), "mindspore")
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
    return LoweredNetwork(graph, params, step)


def devices() -> list[str]:
    """The device targets that MindSpore can use here, the best first."""
    special = {"Ascend": ms.device_context.ascend, "GPU": ms.device_context.gpu}
    return [name for name, device in special.items() if device.is_available()] + ["CPU"]


def read(model: LoweredNetwork) -> Params:
    """The parameters and state of a lowered network, canonical NumPy arrays by full name."""
    return {name: np.array(tensor.asnumpy()) for name, tensor in model.tensors.items()}


def write(model: LoweredNetwork, params: Mapping[str, Array]) -> None:
    """Set some parameters or state of a lowered network, canonical arrays by full name."""
    arrays = params_to_write(model.graph, params)
    model.write({name: Tensor(array) for name, array in arrays.items()})


def load_params(path: str | Path) -> dict[str, Array]:
    """The arrays of a file that ``mindspore.save_checkpoint`` wrote, by name."""
    advice = "give what mindspore.save_checkpoint wrote"
    content = read_file(path, advice)
    with reading(path, "a checkpoint of MindSpore", advice):
        return _arrays(content)


def _arrays(content: bytes) -> dict[str, Array]:
    """The arrays of a checkpoint, read directly: over a damaged one MindSpore itself tells of it in many lines, and may
    crash. Format (mindspore/train/checkpoint.proto): values (1) of a name (1) and a tensor (2) of sizes (1), a type as
    Float32 (2) and its bytes (3); a large one stands in several values that follow one another.
    """
    found: dict[str, tuple[list[int], str, list[bytes]]] = {}
    for value in wire.read(content)[1]:
        ((name,), (tensor,)) = (wire.read(_block(value))[number] for number in (1, 2))
        fields = wire.read(_block(tensor))
        sizes = [
            size for x in fields.get(1, []) for size in (wire.integers(x) if isinstance(x, bytes) else [wire.signed(x)])
        ]
        (kind,), (data,) = fields[2], fields[3]
        found.setdefault(_block(name).decode(), (sizes, _block(kind).decode(), []))[2].append(_block(data))
    return {
        name: np.frombuffer(b"".join(parts), TYPES[kind]).reshape(sizes).copy()
        for name, (sizes, kind, parts) in found.items()
    }


def _block(value: int | bytes) -> bytes:
    if not isinstance(value, bytes):
        raise ValueError("a number stands where text or a message is expected")
    return value


def save_params(params: Mapping[str, Array], path: str | Path) -> None:
    """The inverse of ``load_params``."""
    with tempfile.TemporaryDirectory() as folder:  # it leaves half a file where it fails
        file = Path(folder) / "params.ckpt"
        ms.save_checkpoint([{"name": name, "data": Tensor(array)} for name, array in params.items()], str(file))
        write_atomically(path, file.read_bytes())


def runtime() -> str:
    """What the passes run in, with its version."""
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

    @ms.jit
    def construct(self, gradients: tuple[Tensor, ...]) -> bool:
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


class Step:
    """One training step of a lowered network: ``step(x, y, lr)`` returns the loss before the update.

    loss: written over the vocabulary. Forward pass and loss are one compiled function for each phase, whose gradient
    MindSpore derives from it; the optimizer is MindSpore's own. ``compile`` changes nothing: it is so either way.
    Started by msrun, each worker is given the joint batch and takes its share of it; the loss is the joint one.
    """

    def __init__(
        self,
        model: LoweredNetwork,
        optimizer: Optimizer,
        loss: Loss | Objective = cross_entropy,
        *,
        compile: bool = False,
    ) -> None:
        self.model, self.loss = model.set_train(), loss
        self._worker = training_worker(MSRUN, "mindspore")
        self._terms: dict[str, Tensor] = {}
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
        self._error: BaseException | None = None
        self._gradient = ms.value_and_grad(self._forward, None, self.optimizer.parameters, has_aux=True)

    def _forward(self, *inputs: Tensor) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
        try:
            terms, updates = self.model.run(inputs, self.loss)
        except BaseException as error:  # let through, it would leave MindSpore differentiating whatever runs next
            self._error = error
            return Tensor(np.float32(0.0)), {}, {}
        return next(iter(terms.values())), terms, updates

    def __call__(self, x: Arrays, y: Arrays, lr: float) -> float:
        """x: raw pixels (N, C, H, W). y: integer labels (N,), or a tuple of them and further targets."""
        check_pixels(as_tuple(x), self.model.graph.input_shapes, np.ndarray, self.model.graph.name)
        targets = (
            array.astype(np.int32 if array.dtype.kind in "iu" else np.float32)
            for array in as_tuple(self._worker.share(y))
        )
        pixels = tuple(Tensor(array) for array in as_tuple(self._worker.share(x)))
        # set_data would give the parameter other memory, which the compiled optimizer does not look at.
        ops.assign(self.optimizer.learning_rate, Tensor(np.float32(lr)))
        (loss, terms, updates), gradients = self._gradient(*pixels, *map(Tensor, targets))
        if self._error is not None:
            error, self._error = self._error, None
            raise error
        if self._worker.count > 1:
            loss, *means = means_over_workers([loss, *gradients])
            gradients = tuple(means)
        self.optimizer(gradients)
        self.model.write(updates)
        self._terms = terms
        return float(loss.asnumpy())

    def terms(self) -> dict[str, Array]:
        """The terms of the last step's loss (see ``step_terms``)."""
        return {name: tensor.asnumpy() for name, tensor in self._terms.items()}

    def _slots(self) -> dict[str, ms.Parameter]:
        """The optimizer's own tensors by "<parameter>.<slot>"."""
        names = self.model.tensors
        found = {}
        for own in self.optimizer.get_parameters():
            if own.name in names or own.name == "learning_rate":
                continue
            slot, _, name = own.name.partition(".")
            found[f"{name or 'optimizer'}.{slot}"] = own
        return found

    def means(self, figures: Sequence[float]) -> list[float]:
        """Of each figure over the workers; the figures themselves where there is one."""
        if self._worker.count == 1:
            return list(figures)
        (means,) = means_over_workers([Tensor(np.asarray(figures, np.float32))])
        return [float(mean) for mean in means.asnumpy()]

    def state(self) -> dict[str, Array]:
        """The optimizer's state, by "<parameter>.<name of the state>"; what all parameters share is "optimizer.<name>"."""
        return {name: np.array(tensor.asnumpy()) for name, tensor in self._slots().items()}

    def load_state(self, state: Mapping[str, Array]) -> None:
        """The inverse of ``state``."""
        slots = self._slots()
        check_state(state, self.state())
        for name, array in state.items():
            ops.assign(slots[name], Tensor(np.array(array)))


def make_step(
    model: LoweredNetwork, optimizer: Optimizer, loss: Loss | Objective = cross_entropy, *, compile: bool = False
) -> Step:
    """One training step with the framework's own optimizer. compile: nothing more to do, the pass is compiled anyway."""
    return Step(model, optimizer, loss, compile=compile)
