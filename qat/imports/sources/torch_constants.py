"""What does not depend on a network's inputs: parameters, and what is computed of them and of sizes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch._subclasses.fake_tensor import DynamicOutputShapeException, FakeTensorMode

from qat.errors import QatError
from qat.imports.sources.torch_call import Constant
from qat.imports.sources.torch_node import is_in_place, namespace_of, nodes_of, target_of
from qat.imports.sources.torch_operations import FOLDED
from qat.imports.sources.torch_params import plain_name
from qat.reading import LARGEST_SAMPLE

#: Operations that take the size of a tensor alone, and the number that fills what they give; None: it is an argument.
OF_SIZES: Mapping[str, int | float | None] = {
    "new_zeros": 0,
    "zeros_like": 0,
    "new_ones": 1,
    "ones_like": 1,
    "full_like": None,
}


class Constants:
    """Of one captured program.

    Args:
        exported: it.
        name: of the network, for messages.

    Attributes:
        tensors: by the node's name.
        sources: of these, the name in the source.
    """

    def __init__(self, exported: Any, name: str) -> None:
        self.name = name
        self.tensors: dict[str, torch.Tensor] = {}
        self.sources: dict[str, str] = {}
        held = {**exported.constants, **exported.state_dict}
        for spec in exported.graph_signature.input_specs:
            if spec.target in held and isinstance(held[spec.target], torch.Tensor):
                self.tensors[spec.arg.name] = held[spec.target].detach()
                self.sources[spec.arg.name] = plain_name(spec.target)
        self.count = 0  #: numbers that were computed

    def sized(self, node: Any) -> bool:
        """Make a tensor of one number that takes its size alone of a value; False: that is not fixed."""
        fake = node.meta["val"]
        number = OF_SIZES[target_of(node)]
        if number is None:
            number = next((each for each in node.args[1:] if isinstance(each, (int, float))), None)
        sizes = tuple(fake.shape)
        if number is None or not all(isinstance(size, int) for size in sizes):
            return False
        self._grown(node, math.prod(sizes))
        self.tensors[node.name] = torch.full(sizes, number, dtype=fake.dtype)
        return True

    def fold(self, node: Any, target: str) -> bool:
        """Compute what depends on no input. Refuses all that could do more than compute: files are of others."""
        if is_in_place(node) and target != "detach" and node.args[0].name in self.sources:
            raise QatError(
                f"{self.name}: forward changes {self.sources[node.args[0].name]}, which a graph of cells cannot; leave that out"
            )
        changes = is_in_place(node) and target != "detach"
        known = namespace_of(node) == "aten." and target in FOLDED
        if changes and known:
            self._check_memory(self.tensors[node.args[0].name])
        if not known or not self._fits(node):
            if changes:  # what takes the constant otherwise would have its old numbers
                raise QatError(
                    f"{self.name}: {node.name} changes a constant in place, which is not computed here; leave it out"
                )
            return False
        arguments, options = torch.fx.node.map_arg((node.args, node.kwargs), lambda each: self.tensors[each.name])
        with torch.no_grad():
            self.tensors[node.name] = node.target(*arguments, **options)
        source = next((self.sources.get(each.name) for each in nodes_of(node.args)), None)
        if source and target in ("detach", "alias", "clone", "contiguous", "lift_fresh", "lift_fresh_copy", "to"):
            self.sources[node.name] = source
        return True

    def _fits(self, node: Any) -> bool:
        """Whether the size of a result is known before it is computed. Raises QatError where it is too large: a few bytes of a
        file ask for any size.
        """
        with FakeTensorMode() as mode, torch.no_grad():  # sizes without numbers
            arguments, options = torch.fx.node.map_arg(
                (node.args, node.kwargs), lambda each: mode.from_tensor(self.tensors[each.name])
            )
            try:
                given = node.target(*arguments, **options)
            except DynamicOutputShapeException:
                return False
        self._grown(node, sum(x.numel() for x in (given if isinstance(given, (tuple, list)) else (given,))))
        return True

    def _check_memory(self, changed: torch.Tensor) -> None:
        """Raise QatError where a tensor that is changed in place is part of a parameter or buffer."""
        memory = changed.untyped_storage().data_ptr()
        for name, source in self.sources.items():
            if self.tensors[name].untyped_storage().data_ptr() == memory:
                raise QatError(f"{self.name}: forward changes {source}, which a graph of cells cannot; leave that out")

    def _grown(self, node: Any, numbers: int) -> None:
        """Count the numbers of a constant. Raises QatError where they are too many."""
        self.count += numbers
        if numbers > LARGEST_SAMPLE or self.count > 4 * LARGEST_SAMPLE:
            raise QatError(
                f"{self.name}: {node.name} makes its constants grow beyond what is computed here; leave it out"
            )

    def constant(self, argument: Any) -> Constant | None:
        """An argument as an array, and its name in the source; None: there is none."""
        if not isinstance(argument, torch.fx.Node):
            return None if argument is None else (np.asarray(argument, np.float32), "")
        tensor = self.tensors[argument.name]
        return tensor.detach().cpu().numpy().astype(np.float32), self.sources.get(argument.name, "")
