"""MindSpore: a whole training step as one compiled graph."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from qat.backends.mindspore.ops import Tensor
from qat.backends.mindspore.setup import ms, nn, ops
from qat.backends.mindspore.tracing import forget_with, recording
from qat.training.forward import single
from qat.training.losses import Loss, Objective, step_terms

RELEASE = "2.10."  #: of MindSpore, whose behaviour ``StepGraph`` relies on

_COUNTER = itertools.count()


def clipped(gradients: Sequence[Tensor], limit: float) -> list[Tensor]:
    """Gradients, scaled where they are together longer than ``limit``. MindSpore parses this too.

    ops.clip_by_global_norm gives a gradient without axes one, which the optimizer refuses.
    """
    norm = ops.sqrt(ops.addn([(gradient * gradient).sum() for gradient in gradients]))
    scale = limit / ops.maximum(norm, limit)
    return [gradient * scale for gradient in gradients]


class ForwardGraph(nn.Cell):  # type: ignore[misc]
    """The recorded function in a graph.

    Args:
        compute: of the cell, a key, what is given and ``tensors``, each of the latter two a tuple: one flat tuple.
        tensors: parameters and state.
    """

    def __init__(self, compute: Callable[..., tuple[Tensor, ...]], tensors: Sequence[ms.Parameter]) -> None:
        super().__init__(auto_prefix=False)
        compute.__name__ = f"step{next(_COUNTER)}"  # MindSpore keeps what it compiled by the function's name
        self.recorded = ms.jit(compute, capture_mode="trace")
        self.tensors = tuple(tensors)

    def construct(self, key: Tensor, given: tuple[Tensor, ...]) -> Any:
        """What ``compute`` returns."""
        # Without this it takes what only the recorded function uses for unused, and gives 0 in its place.
        key = ops.depend(key, (given, self.tensors))
        return self.recorded(key, given, self.tensors)


class StepGraph(nn.Cell):  # type: ignore[misc]
    """One phase of a training step as one graph: forward pass, gradient, new values of state, and what the optimizer does.

    A function under ``jit(capture_mode="trace")`` that a construct under ``jit(capture_mode="ast")`` calls becomes a part of
    the construct's graph and is differentiated in it (nested the other way, gradients are constants). MindSpore 2.10 does
    so, but does not document it.

    Args:
        forward: gives the terms, the loss first, and behind them the new values of ``states``.
        states: those of them that get new values.
        weights: those of them that are trained, in the optimizer's order.
        optimizer: None: the gradients are returned with the terms.
        sets_rate: whether the optimizer gets the rate of each call, or knows its own.
        clip_norm: how long a gradient may be; 0: as long as it is.
    """

    def __init__(
        self,
        forward: ForwardGraph,
        states: Sequence[ms.Parameter],
        weights: Sequence[ms.Parameter],
        optimizer: Any,
        *,
        sets_rate: bool,
        clip_norm: float,
    ) -> None:
        super().__init__(auto_prefix=False)
        self.forward, self.states = forward, tuple(states)
        self.applies = optimizer is not None
        self.optimizer, self.clip_norm = optimizer, clip_norm
        self.sets_rate = sets_rate and self.applies
        if self.sets_rate:
            self.rate = optimizer.learning_rate

        def loss(key: Tensor, given: tuple[Tensor, ...]) -> Any:
            found = self.forward.construct(key, given)
            return found[0], found

        forget_with(self, f".{self.create_time}")  # a part of the names under which MindSpore keeps it
        self.differentiated = ms.value_and_grad(loss, None, list(weights), has_aux=True)

    @ms.jit(capture_mode="ast")  # type: ignore[untyped-decorator]
    def construct(self, key: Tensor, given: tuple[Tensor, ...], rate: Tensor) -> Any:
        """The terms, and gradients where no optimizer takes them."""
        (_, found), gradients = self.differentiated(key, given)
        count = len(found) - len(self.states)
        for i in range(len(self.states)):
            ops.assign(self.states[i], found[count + i])
        if not self.applies:
            return found[:count], gradients
        if self.clip_norm > 0:
            gradients = tuple(clipped(gradients, self.clip_norm))
        if self.sets_rate:
            gradients = ops.depend(gradients, ops.assign(self.rate, rate))
        return ops.depend(found[:count], self.optimizer(gradients)), ()


class CompiledStep:
    """Training steps of a lowered network, compiled once for each phase: as one graph, or in several where MindSpore does not
    compile that.

    Args:
        model: what ``lower`` returned.
        loss: written over the vocabulary.
        optimizer: and the following as ``StepGraph``'s.
        weights: what is trained, in the optimizer's order.
        sets_rate: False where the optimizer knows its own.
        clip_norm: how long a gradient may be; 0: as long as it is.
    """

    def __init__(
        self,
        model: Any,
        loss: Loss | Objective,
        optimizer: nn.Optimizer | None,
        weights: Sequence[ms.Parameter],
        *,
        sets_rate: bool = True,
        clip_norm: float = 0.0,
    ) -> None:
        self._model, self._loss, self._optimizer, self._weights = model, loss, optimizer, weights
        self._settings: dict[str, Any] = {"sets_rate": sets_rate, "clip_norm": clip_norm}
        self._phase: tuple[Any, int] | None = None  #: of the pass that it is a phase of
        self._graph: StepGraph | None = None
        self._terms: list[str] = []
        self._failures: list[BaseException] = []  #: of passes that MindSpore was compiling
        self.runs = ms.__version__.startswith(RELEASE)  #: whether MindSpore compiles such a step, as far as is known
        if not self.runs:
            self._warn(f"it is known of MindSpore {RELEASE}x only, and this is {ms.__version__}")
        self._differentiated = ms.value_and_grad(self._forward, None, list(weights), has_aux=True)

    def __call__(
        self, key: Tensor, given: tuple[Tensor, ...], rate: float
    ) -> tuple[dict[str, Tensor], tuple[Tensor, ...]]:
        """One step.

        Args:
            key: what dropout draws from.
            given: what the network takes, and the targets.
            rate: the learning rate, where it is set.

        Returns:
            The terms, and the gradients that are still to be applied: none where the optimizer did it in the graph.
        """
        found = self._one_graph(key, given, rate) if self.runs else None
        return self._several_graphs(key, given) if found is None else found

    def _one_graph(
        self, key: Tensor, given: tuple[Tensor, ...], rate: float
    ) -> tuple[dict[str, Tensor], tuple[Tensor, ...]] | None:
        """As ``__call__``; None where MindSpore cannot compile the step: nothing is done then, and ``runs`` is False."""
        phase = self._model._pass.phase(self._model.step)
        self._failures.clear()
        try:
            if self._graph is None or self._phase != (self._model._pass, phase):
                self._graph, self._phase = self._made(phase, key, given), (self._model._pass, phase)
            rates = Tensor(np.float32(rate))
            with recording():
                terms, gradients = self._graph.construct(key, ms.mutable(given), rates)
        except Exception as error:
            self._graph = None
            if self._failures and not isinstance(self._failures[0], Exception):
                raise self._failures[0] from None
            self._computed(phase, key, given)  # raises what is wrong with what was given, if that is it
            self.runs = False
            cause = self._failures[0] if self._failures else error
            self._warn(str(cause).strip().partition("\n")[0] or type(cause).__name__)
            return None
        except BaseException:
            self._graph = None
            raise
        self._model.step += 1
        return dict(zip(self._terms, terms, strict=True)), gradients

    def _several_graphs(self, key: Tensor, given: tuple[Tensor, ...]) -> tuple[dict[str, Tensor], tuple[Tensor, ...]]:
        """As ``__call__``: the forward pass is one compiled function, whose gradient MindSpore derives from it."""
        self._failures.clear()
        (_, terms, updates), gradients = self._differentiated(key, *given)
        if self._failures:
            raise self._failures[0]
        self._model._assign(updates)
        return terms, gradients

    def _forward(self, key: Tensor, *given: Tensor) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
        try:
            terms, updates = self._model.run(given, self._loss, key)
        except BaseException as error:  # let through, it would leave MindSpore differentiating whatever runs next
            self._failures.append(error)
            return Tensor(np.float32(0.0)), {}, {}
        return next(iter(terms.values())), terms, updates

    def _computed(
        self, phase: int, key: Tensor, given: tuple[Tensor, ...]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """One forward pass, not compiled: terms, and new values of state."""
        return self._passed(phase, key, given, tuple(self._model.tensors.values()))

    def _passed(
        self, phase: int, key: Tensor, given: tuple[Tensor, ...], tensors: tuple[Tensor, ...]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        model = self._model
        count = len(model.graph.inputs)
        pixels = tuple(x.astype(ms.float32) for x in given[:count])
        model._ops.seed(key)
        params: Mapping[str, Tensor] = dict(zip(model.tensors, tensors, strict=True))
        return step_terms(model._pass, self._loss, params, pixels, single(given[count:]), phase=phase)

    def _made(self, phase: int, key: Tensor, given: tuple[Tensor, ...]) -> StepGraph:
        """The graph of a phase. A pass that is not compiled finds the names of what it gives, and errors first."""
        terms, updates = self._computed(phase, key, given)
        self._terms = list(terms)

        def compute(_: Any, key: Tensor, given: tuple[Tensor, ...], tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            try:
                terms, updates = self._passed(phase, key, given, tensors)
            except BaseException as error:  # let through, it would leave MindSpore recording whatever runs next
                self._failures.append(error)
                return ()  # has no loss, so that there is no graph
            return (*terms.values(), *updates.values())

        tensors = self._model.tensors
        states = [tensors[name] for name in updates]
        return StepGraph(
            ForwardGraph(compute, [*tensors.values()]), states, self._weights, self._optimizer, **self._settings
        )

    def _warn(self, reason: str) -> None:
        warnings.warn(
            f"{self._model.graph.name}: MindSpore does not compile the training step as one graph ({reason}); it is computed "
            "in several, which takes longer and gives the same",
            stacklevel=2,
        )
