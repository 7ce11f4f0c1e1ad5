"""How the conformance suite drives torch."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from conformance import Adapter, Array, Case, Result

from qat.backends.torch.ops import TorchOps


class TorchAdapter(Adapter):
    """torch eager, and torch.compile without a graph break."""

    def labels(self, array: Array) -> torch.Tensor:
        return torch.from_numpy(array)

    def run(self, cases: Sequence[Case], *, compiled: bool = False) -> list[Result]:
        functions = [case.function for case in cases]
        inputs = [
            [t.requires_grad_(case.cotangent is not None and t.is_floating_point()) for t in self.tensors(case)]
            for case in cases
        ]

        def compute(inputs: list[list[torch.Tensor]]) -> list[torch.Tensor]:
            return [function(self.ops, *tensors) for function, tensors in zip(functions, inputs, strict=True)]

        with warnings.catch_warnings():
            # torch.compile itself instantiates autograd.Function, and warns of doing so.
            warnings.filterwarnings("ignore", "<class 'torch.autograd.function.Function'>", DeprecationWarning)
            outputs = (torch.compile(compute, fullgraph=True) if compiled else compute)(inputs)
        # One backward pass for all cases, as a compiled training step has one.
        leaves = [t for tensors in inputs for t in tensors if t.requires_grad]
        ends = [
            (output, self.ops.from_numpy(case.cotangent, case.output))
            for case, output in zip(cases, outputs, strict=True)
            if output.requires_grad and case.cotangent is not None
        ]
        found: dict[int, torch.Tensor | None] = {}
        if ends:
            gradients = torch.autograd.grad(
                [output for output, _ in ends], leaves, [cotangent for _, cotangent in ends], allow_unused=True
            )
            found = {id(leaf): gradient for leaf, gradient in zip(leaves, gradients, strict=True)}
        return [
            Result(
                self.ops.to_numpy(output, case.output),
                self.gradient_arrays(case, [found.get(id(t)) for t in tensors]) if case.cotangent is not None else (),
            )
            for case, tensors, output in zip(cases, inputs, outputs, strict=True)
        ]


ADAPTER = TorchAdapter(TorchOps())
