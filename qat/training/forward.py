"""The forward pass of a graph over any vocabulary: one loop for training, evaluation and calibration, on every backend."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import reduce
from itertools import chain
from operator import or_
from typing import Any, NamedTuple

import numpy as np

from qat.cells.base import Context, Quantized, Scope, Shape
from qat.cells.fake_quant import FakeQuant
from qat.graph import Graph, Node
from qat.integer.evaluation import last_uses
from qat.passes.pool_before_quantize import pool_before_quantize
from qat.vocabulary.ops import Array, Ops, Tensor
from qat.vocabulary.values import Value

IDLE = -1  #: a phase before every quantizer's quant_delay: fake quantizers pass through, weights are real numbers


class NodeStep(NamedTuple):
    """One call of a pass: a method of a node's cell.

    Attributes:
        method: ``forward`` of the cell, or ``observe`` of a fake quantizer.
        node: whose cell it is.
        scope: the prefix of the cell's parameters, their local names, and the shapes of the node's inputs.
    """

    method: Callable[..., Value | None]
    node: Node
    scope: tuple[str, tuple[str, ...], tuple[Shape, ...]]


class NodeLoop:
    """The loop over a graph's nodes, over one vocabulary: as the graph is, and in the order of its nodes.

    Attributes:
        graph: the graph that is run.
        ops: the vocabulary.
        steps: the calls of one pass, in order.
        last_uses: of each step the names of the values that no later one reads, outputs left out.
    """

    def __init__(self, graph: Graph, ops: Ops) -> None:
        self.ops, self.graph = ops, graph
        self.steps = self._prepared(graph, [(type(node.cell).forward, node) for node in graph.nodes])
        self._inputs = [node.name for node in graph.inputs]
        self._outputs = graph.outputs
        self.last_uses = self._last_uses()

    @staticmethod
    def _prepared(graph: Graph, calls: Iterable[tuple[Callable[..., Value | None], Node]]) -> list[NodeStep]:
        """The calls with what a cell's scope is made of, which is the same in every pass."""
        return [
            NodeStep(
                method,
                node,
                (f"{node.cell_name}.", tuple(node.cell.params()), tuple(graph.shapes[name] for name in node.inputs)),
            )
            for method, node in calls
        ]

    def _last_uses(self) -> list[list[str]]:
        reads = [(*step.node.inputs, step.node.name) for step in self.steps]
        return [[name for name in ended if name not in self._outputs] for ended in last_uses(reads)]

    def load(self, params: Mapping[str, Array], phase: int) -> Context:
        """The context of a pass in evaluation mode, of canonical arrays by full name."""
        tensors = {name: self.ops.from_numpy(params[name], param.kind) for name, param in self.graph.params.items()}
        return self.context(tensors, training=False, phase=phase)

    def context(self, params: Mapping[str, Tensor], training: bool, phase: int) -> Context:
        """The context of a pass; params: the vocabulary's tensors by full name."""
        return Context(self.ops, params, training, phase, updates={}, arithmetic=self.graph.arithmetic)

    def pixels(self, batch: tuple[Array, ...]) -> tuple[Tensor, ...]:
        """Raw pixels, uint8 (N, C, H, W), as the vocabulary's tensors."""
        return tuple(self.ops.from_numpy(x.astype(np.float32), "activation") for x in batch)

    def begin(self, inputs: tuple[Tensor, ...]) -> dict[str, Value]:
        """What is known before the first step, by node. inputs: what the network takes, as float32, one tensor for each."""
        return {name: Value(data) for name, data in zip(self._inputs, inputs, strict=True)}

    def advance(self, step: NodeStep, context: Context, values: dict[str, Value]) -> None:
        """Take one step: from the values of its node's inputs to its own."""
        method, node, scope = step
        arguments = [values[name] for name in node.inputs] or [values[node.name]]
        found = method(node.cell, Scope(context, *scope), *arguments)
        if found is not None:
            values[node.name] = found

    def run(self, context: Context, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Real outputs; ``context`` keeps what else the pass leaves."""
        values = self.begin(inputs)
        for step, ended in zip(self.steps, self.last_uses, strict=True):
            self.advance(step, context, values)
            for name in ended:  # memory for what comes
                values.pop(name, None)  # (what only observes gives no value)
        return tuple(values[name].real(self.ops) for name in self._outputs)


class Forward(NodeLoop):
    """The pass in which a backend trains a graph, and evaluates a float one.

    It computes less than the graph as it is (``pool_before_quantize``), and fake quantizers that share a grid observe
    before any of them makes codes.

    Attributes:
        weights: names of the trained parameters that are weights: no biases or other vectors.
    """

    def __init__(self, graph: Graph, ops: Ops) -> None:
        super().__init__(graph, ops)
        pooled = pool_before_quantize(graph)
        self.steps = self._prepared(pooled, _schedule(pooled))
        self._outputs = pooled.outputs
        self.last_uses = self._last_uses()
        self.weights = tuple(name for name, param in graph.params.items() if param.trainable and len(param.shape) > 1)
        self._starts = graph.phase_starts

    def phase(self, step: int) -> int:
        """The first step whose forward pass has the form that it has at ``step``.

        A forward pass depends on the step through this number alone, so that a compiled one is compiled once a phase.
        """
        return max(start for start in self._starts if start <= step)

    def __call__(
        self, params: Mapping[str, Tensor], inputs: tuple[Tensor, ...], *, training: bool, phase: int
    ) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
        """One pass.

        Args:
            params: the backend's tensors by full name.
            inputs: what the network takes, held in float32, one tensor for each input.
            training: whether batch statistics are used and ranges observed.
            phase: of ``phase``.

        Returns:
            Real outputs, and the new values of state by full name (none unless training).
        """
        context = self.context(params, training, phase)
        return self.run(context, inputs), context.updates


class _Call(NamedTuple):
    """Of a node's forward, or of its observe."""

    name: str
    observes: bool = False


def _schedule(graph: Graph) -> list[tuple[Callable[..., Value | None], Node]]:
    """What is called in which order: the cells' ``forward``, and ``FakeQuant.observe``.

    A fake quantizer observes where it stands, but makes codes only when a cell that computes asks for them; so do cells that
    merely move codes. Before it makes codes, those that share its grid observe, wherever they stand, so that all codes are of
    one and the same grid, in the first step too. Left out are those that depend on these codes: by their inputs, or because
    what they depend on has to wait for them likewise.
    """
    nodes = {node.name: node for node in graph.nodes}
    bits = {name: 1 << index for index, name in enumerate(nodes)}  # sets of nodes are integers
    reads: dict[str, int] = {}  # itself and all that it depends on
    quantizers: dict[str, list[str]] = {}  # fake quantizers by cell
    for node in graph.nodes:
        reads[node.name] = reduce(or_, (reads[name] for name in node.inputs), bits[node.name])
        if isinstance(node.cell, FakeQuant):
            quantizers.setdefault(node.cell_name, []).append(node.name)
    computing = 0  # whose forward waits for what is being done

    def before(call: _Call) -> Iterator[_Call]:
        """What has to come first. It is asked for the next one when the one before is done."""
        nonlocal computing
        node = nodes[call.name]
        if call.observes:
            yield _Call(node.inputs[0])
            return
        computing |= bits[node.name]
        if isinstance(node.cell, FakeQuant):
            yield _Call(node.name, observes=True)
            for other in chain.from_iterable(quantizers[cell] for cell in (node.cell_name, *node.cell.shares)):
                if not reads[other] & computing:
                    yield _Call(other, observes=True)
        else:
            yield from map(_Call, node.inputs)
        computing ^= bits[node.name]

    made = [_Call(n.name, isinstance(n.cell, FakeQuant)) for n in graph.nodes if not n.cell.keeps_grid]
    calls = _in_order([*made, *map(_Call, graph.outputs)], before)
    steps = [(call, nodes[call.name]) for call in calls]
    return [(FakeQuant.observe if call.observes else type(node.cell).forward, node) for call, node in steps]


def _in_order(wanted: Iterable[_Call], before: Callable[[_Call], Iterator[_Call]]) -> list[_Call]:
    """The calls, each behind what has to come before it. No recursion: chains may be as long as a graph."""
    done: dict[_Call, None] = {}
    for last in wanted:
        waiting = [] if last in done else [(last, before(last))]
        while waiting:
            call, earlier = waiting[-1]
            following = next((each for each in earlier if each not in done), None)
            if following is None:
                done[call] = None
                waiting.pop()
            else:
                waiting.append((following, before(following)))
    return list(done)


class TrainingPasses:
    """What an ``Objective`` may ask for in one training step. What it does not ask for is not computed.

    Attributes:
        ops: the vocabulary.
        params: the trained parameters, the backend's tensors by full name.
    """

    def __init__(
        self, forward: Forward, params: Mapping[str, Tensor], inputs: tuple[Tensor, ...], phase: int, training: bool
    ) -> None:
        self.ops, self.params = forward.ops, params
        self._forward, self._inputs = forward, inputs
        self._context = forward.context(params, training, phase)
        self._outputs: Any = None
        self._float_outputs: Any = None

    @property
    def outputs(self) -> Any:
        """Real outputs of the training pass: one tensor, or a tuple where the network has several."""
        if self._outputs is None:
            self._outputs = single(self._forward.run(self._context, self._inputs))
        return self._outputs

    @property
    def float_outputs(self) -> Any:
        """As ``outputs``, with every quantizer idle: the float network of the same weights. State stays as it is."""
        if self._float_outputs is None:
            context = replace(self._context, updates={}, quantizes=False, quantized={})
            self._float_outputs = single(self._forward.run(context, self._inputs))
        return self._float_outputs

    def outputs_with(self, params: Mapping[str, Tensor], *, drop: float = 0.0) -> tuple[Tensor, ...]:
        """Real outputs of a quantized pass that observes nothing, by running statistics, with gradients to some tensors alone.

        Args:
            params: these tensors by full name, in place of the parameters; no gradient flows to the others.
            drop: the probability with which a number of an activation is not quantized.
        """
        fixed = {
            name: self.ops.stop_gradient(tensor) for name, tensor in self._context.params.items() if name not in params
        }
        context = replace(
            self._context, params={**fixed, **params}, training=False, updates={}, quantized={}, drop=drop
        )
        return self._forward.run(context, self._inputs)

    @property
    def quantized(self) -> dict[str, Quantized]:
        """The input of each quantizer in the training pass, by name: "conv1.weight", "conv1.fake_quant". Quantizers that are
        idle, before their quant_delay, are left out.
        """
        _ = self.outputs
        return self._context.quantized

    @property
    def graph(self) -> Graph:
        """The trained graph, as it was given to ``Forward``."""
        return self._forward.graph

    @property
    def weights(self) -> Sequence[Tensor]:
        """The trained weights, without biases and other vectors."""
        return [self.params[name] for name in self._forward.weights]

    @property
    def updates(self) -> dict[str, Tensor]:
        """New values of state, by full name, of the training pass."""
        _ = self.outputs
        return self._context.updates


def single(tensors: tuple[Tensor, ...]) -> Any:
    """The one tensor, or all of them where there are several."""
    return tensors[0] if len(tensors) == 1 else tensors
