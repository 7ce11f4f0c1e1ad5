"""JAX: a graph as a function of its parameters, and how it is trained."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from qat.backends.common import Lowered, TrainingStep, own_generator, to_lower
from qat.backends.common import predict as predict
from qat.backends.common import predict_codes as predict_codes
from qat.backends.common import read as read
from qat.backends.common import trace as trace
from qat.backends.common import write as write
from qat.graph import Graph, Network
from qat.training.forward import single
from qat.training.losses import Loss, Objective, cross_entropy, step_terms
from qat.training.optimizer import Optimizer
from qat.vocabulary.ops import Array
from qat_jax.ops import CPU, JaxOps, Tensor

NAME = "jax"  #: under which ``qat.backend`` knows it
PACKAGES = ("jax",)
BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8
SLOTS = {"momentum": ("momentum",), "adam": ("m", "v"), "amsgrad": ("m", "v", "largest")}

_draws = {"seed": np.random.default_rng()}


class LoweredNetwork(Lowered):
    """Parameters and state of a graph as JAX arrays, by name."""

    def __init__(self, graph: Graph, params: Mapping[str, Array], step: int = 0) -> None:
        self.graph = graph
        self.step = step  #: training steps done, which the quant_delay counts
        self._compute_with(JaxOps(), JaxOps())
        self._tensors = {name: self._ops.from_numpy(params[name], param.kind) for name, param in graph.params.items()}

    def _assign(self, values: Mapping[str, Tensor]) -> None:
        self._tensors = {**self._tensors, **values}


def lower(
    network: Network | Graph,
    params: Mapping[str, Array] | None = None,
    *,
    device_target: str | None = None,
    step: int = 0,
) -> LoweredNetwork:
    """The parameters of a network as JAX arrays; arguments as ``qat.deploy.interfaces.TrainingBackend.lower`` has them."""
    graph, params, _ = to_lower(network, params, device_target, devices(), NAME)
    return LoweredNetwork(graph, params, step)


def devices() -> list[str]:
    """The device targets of this backend."""
    return ["CPU"]


def runtime() -> str:
    """The framework that computes, with its version."""
    return f"JAX {jax.__version__}"


def seed(*numbers: int) -> None:
    """Seed what dropout draws from."""
    _draws["seed"] = own_generator(numbers)


class Step(TrainingStep):
    """One training step, compiled once for each phase: ``step(x, y, lr)`` returns the loss before the update."""

    def __init__(
        self,
        model: LoweredNetwork,
        optimizer: Optimizer,
        loss: Loss | Objective = cross_entropy,
        *,
        compile: bool = False,
    ) -> None:
        super().__init__(model, loss, NAME, None, optimizer)
        self._trained = [name for name, param in model.graph.params.items() if param.trainable]
        slots = [(name, slot) for name in self._trained for slot in SLOTS[optimizer.name]]
        self._state = {f"{name}.{slot}": jnp.zeros_like(model.tensors[name]) for name, slot in slots}
        if optimizer.name != "momentum":
            self._state["optimizer.step"] = jax.device_put(np.zeros((), np.float32), CPU)
        self._names: list[str] = []  #: of the terms, known after the first call
        # No fused multiply-add, which rounds once: codes could differ from deployment's. Releases heed one option or the other.
        options = {"xla_backend_optimization_level": 0, "xla_cpu_max_isa": "AVX"}
        self._compiled = jax.jit(self._compute, static_argnums=0, compiler_options=options)
        self._optimize = jax.jit(self._optimized, compiler_options=options)

    def _gradient(self, pixels: tuple[Array, ...], targets: tuple[Array, ...]) -> Any:
        model, key = self.model, jax.random.key(int(_draws["seed"].integers(1 << 31)))
        arguments = jax.device_put((model.tensors, pixels, single(targets), key), CPU)
        terms, gradients, updates = self._compiled(model._pass.phase(model.step), *arguments)
        model._assign(updates)
        model.step += 1
        return terms[0], [gradients[name] for name in self._trained], dict(zip(self._names, terms, strict=True))

    def _apply(self, gradients: Sequence[Tensor | None], lr: float) -> None:
        trained = {name: self.model.tensors[name] for name in self._trained}
        values, self._state = self._optimize(trained, gradients, self._state, jax.device_put(np.float32(lr), CPU))
        self.model._assign(values)

    def _compute(self, phase: int, params: Any, pixels: Any, targets: Any, key: Tensor) -> Any:
        """The terms, the gradients and the new values of the network's state."""
        self.model._ops.key = key
        inputs = tuple(x.astype(jnp.float32) for x in pixels)

        def loss_of(trained: Mapping[str, Tensor]) -> Any:
            terms, updates = step_terms(self.model._pass, self.loss, params | trained, inputs, targets, phase=phase)
            self._names = list(terms)
            return next(iter(terms.values())), (tuple(terms.values()), updates)

        trained = {name: params[name] for name in self._trained}
        gradients, (terms, updates) = jax.grad(loss_of, has_aux=True)(trained)
        return terms, gradients, updates

    def _optimized(self, params: Any, gradients: Any, state: Any, lr: Tensor) -> Any:
        """New parameters and optimizer's state (``qat.training.optimizer.Optimizer``)."""
        new, kept = {}, {name: state[name] + 1.0 for name in state if name == "optimizer.step"}
        settings, factor = self._settings, 1.0
        if settings.clip_norm:
            factor = jnp.minimum(1.0, settings.clip_norm / jnp.sqrt(sum(jnp.sum(g * g) for g in gradients)))
        for name, gradient in zip(self._trained, gradients, strict=True):
            p = params[name]
            g = gradient * factor + (settings.weight_decay * p if p.ndim > 1 else 0.0)
            before = {slot: state[f"{name}.{slot}"] for slot in SLOTS[settings.name]}
            if settings.name == "momentum":
                after = {"momentum": settings.momentum * before["momentum"] + g}
                direction = after["momentum"]
            else:
                corrected1, corrected2 = (-jnp.expm1(kept["optimizer.step"] * math.log(b)) for b in (BETA1, BETA2))
                after = {"m": BETA1 * before["m"] + (1.0 - BETA1) * g, "v": BETA2 * before["v"] + (1.0 - BETA2) * g * g}
                if settings.name == "amsgrad":
                    after["largest"] = jnp.maximum(before["largest"], after["v"])
                second = after.get("largest", after["v"])
                direction = after["m"] / corrected1 / (jnp.sqrt(second / corrected2) + EPSILON)
            new[name] = p - lr * direction
            kept |= {f"{name}.{slot}": value for slot, value in after.items()}
        return new, kept

    def _slots(self) -> dict[str, Tensor]:
        return self._state

    def _set_slots(self, state: Mapping[str, Array]) -> None:
        self._state = jax.device_put(dict(state), CPU)


make_step = Step
