"""How the conformance suite drives MindSpore."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import mindspore as ms
import numpy as np
from conformance import Adapter, Array, Case, Result

from qat.backends.mindspore.compiled import ForwardGraph, StepGraph
from qat.backends.mindspore.ops import MindSporeOps
from qat.backends.mindspore.tracing import recording, traced


class MindSporeAdapter(Adapter):
    """PYNATIVE; compiled, the gradient inside one graph, as training runs, or of a traced function, as a loop of a user's own.

    Args:
        ops: the vocabulary.
        one_graph: the first of the two.
    """

    def __init__(self, ops: MindSporeOps, *, one_graph: bool = True) -> None:
        super().__init__(ops)
        self._one_graph = one_graph

    def labels(self, array: Array) -> ms.Tensor:
        return ms.Tensor(array.astype(np.int32))

    def run(self, cases: Sequence[Case], *, compiled: bool = False) -> list[Result]:
        groups = [self.tensors(case) for case in cases]
        flat = [tensor for group in groups for tensor in group]
        cotangents = [
            None if case.cotangent is None else self.ops.from_numpy(case.cotangent, case.output) for case in cases
        ]

        def compute(*tensors: ms.Tensor) -> tuple[ms.Tensor, ...]:
            """The sum of all outputs times their cotangents, and the outputs."""
            left, outputs, total = list(tensors), [], None
            for case, cotangent in zip(cases, cotangents, strict=True):
                arguments, left = left[: len(case.inputs)], left[len(case.inputs) :]
                outputs.append(case.function(self.ops, *arguments))
                if cotangent is not None:
                    part = (outputs[-1] * cotangent).sum()
                    total = part if total is None else total + part
            return ms.ops.zeros((), ms.float32) if total is None else total, *outputs

        wanted = tuple(
            position
            for position, (case, tensor) in enumerate(
                (case, tensor) for case, group in zip(cases, groups, strict=True) for tensor in group
            )
            if case.cotangent is not None and tensor.dtype == ms.float32
        )
        run = traced(compute) if compiled else compute
        if not wanted:
            _, *outputs = run(*flat)
            return [Result(self.ops.to_numpy(y, case.output), ()) for case, y in zip(cases, outputs, strict=True)]
        if compiled and self._one_graph:
            (_, *outputs), gradients = self._in_one_graph(compute, flat, wanted)
        else:
            (_, *outputs), gradients = ms.value_and_grad(run, wanted, None, has_aux=True)(*flat)
        if len(wanted) == 1 and isinstance(gradients, ms.Tensor):
            gradients = (gradients,)  # a single one comes bare
        found = dict(zip(wanted, gradients, strict=True))
        results, position = [], 0
        for case, group, output in zip(cases, groups, outputs, strict=True):
            own = [found.get(position + i) for i in range(len(group))]
            position += len(group)
            results.append(
                Result(
                    self.ops.to_numpy(output, case.output),
                    () if case.cotangent is None else self.gradient_arrays(case, own),
                )
            )
        return results

    @staticmethod
    def _in_one_graph(compute: Callable[..., Any], flat: Sequence[ms.Tensor], wanted: Sequence[int]) -> Any:
        """What is differentiated are parameters there."""
        parameters = {position: ms.Parameter(flat[position], name=f"p{position}") for position in wanted}

        def joined(_: Any, key: ms.Tensor, given: tuple[ms.Tensor, ...], tensors: tuple[ms.Tensor, ...]) -> Any:
            by_position = dict(zip(parameters, tensors, strict=True))
            others = iter(given)
            return compute(*(by_position[i] if i in by_position else next(others) for i in range(len(flat))))

        forward = ForwardGraph(joined, list(parameters.values()))
        graph = StepGraph(forward, [], list(parameters.values()), None, sets_rate=False, clip_norm=0.0)
        given = tuple(tensor for position, tensor in enumerate(flat) if position not in parameters)
        with recording():
            return graph.construct(ms.Tensor(np.int32(0)), ms.mutable(given), ms.Tensor(np.float32(0.0)))


ADAPTER = MindSporeAdapter(MindSporeOps())
