"""What a front end reads of a source: plain float operations in order, under the names of the source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from qat import hints
from qat.errors import QatError, shortened
from qat.vocabulary.arrays import ArraySpec
from qat.vocabulary.ops import Array

#: Kinds of operations, and what they have beside inputs. Images are (N, C, H, W) and weights OIHW or OI: front ends of sources
#: that have channels last list theirs and let ``channels_first`` bring them into this form.
KINDS: Mapping[str, str] = {
    "conv2d": "weight[, bias]; stride, padding (top, bottom, left, right), dilation, groups",
    "dense": "weight[, bias]",
    "batch_norm": "gamma, beta, mean, variance; eps",
    "activation": "function, a name of qat.vocabulary.activations[, alpha]",
    "clip": "low, high; None: no bound",
    "add": "two inputs, or other: a constant",
    "mul": "two inputs, or other: a constant",
    "max_pool2d": "kernel, stride, padding",
    "avg_pool2d": "kernel, stride, padding, counts_padding",
    "mean": "axes, keepdims",
    "flatten": "",
    "concat": "axis",
    "pad": "widths, a pair for each axis; value",
    "softmax": "axis",
    "dropout": "rate",
    "identity": "",
    "unknown": "of, the operation's name in its source",
}


@dataclass(frozen=True)
class Operation:
    """One operation of a source.

    Attributes:
        kind: one of ``KINDS``.
        name: that of the source for it, as "layer1.0.conv1".
        inputs: names of the values that it takes.
        output: name of the value that it gives.
        attributes: of its kind.
        constants: arrays by their names in the kind.
        sources: the names of these arrays in the source, as "layer1.0.conv1.weight".
        where: the line of the user's file, or whatever the source knows; "": nothing.
    """

    kind: str
    name: str
    inputs: tuple[str, ...]
    output: str
    attributes: Mapping[str, Any] = field(default_factory=dict)
    constants: Mapping[str, Array] = field(default_factory=dict)
    sources: Mapping[str, str] = field(default_factory=dict)
    where: str = ""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise QatError(f"{self.name}: kind {self.kind!r} is none of {', '.join(KINDS)}")

    def __repr__(self) -> str:
        return f"{self.output} = {self.kind}({', '.join(self.inputs)}) [{self.name}]"


@dataclass(frozen=True)
class Program:
    """A network of a source.

    Attributes:
        name: of the network.
        inputs: what each input takes, by the name of its value.
        operations: in an order in which each follows what it takes.
        outputs: names of the values that leave.
        shapes: of every value, of one sample, as far as the source tells.
    """

    name: str
    inputs: Mapping[str, ArraySpec]
    operations: tuple[Operation, ...]
    outputs: tuple[str, ...]
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def consumers(self, value: str) -> list[Operation]:
        """The operations that take a value."""
        return [each for each in self.operations if value in each.inputs]

    def require_known(self) -> None:
        """Raise QatError, naming all operations that are unknown, with their lines."""
        unknown = [each for each in self.operations if each.kind == "unknown"]
        if not unknown:
            return
        counted: dict[str, list[Operation]] = {}
        for each in unknown:
            counted.setdefault(each.attributes["of"], []).append(each)
        found = "; ".join(f"{kind}: {_listed(them)}" for kind, them in counted.items())
        known = ", ".join(kind for kind in KINDS if kind != "unknown")
        raise QatError(
            f"{self.name}: has {len(unknown)} operations that no cell computes: {found}. Known are {known}; cut the network "
            "before them (outputs=), and compute the rest in float"
        )

    def cut(self, outputs: Sequence[str]) -> Program:
        """The part of the network that gives some values.

        Args:
            outputs: names of operations in the source, as "layer4.1.relu", or of values; of several operations of one name
                the last is meant.

        Returns:
            The program that ends there.

        Raises:
            QatError: there is nothing of that name.
        """
        known = {each.name: each.output for each in self.operations} | {
            each.output: each.output for each in self.operations
        }
        for name in outputs:
            if name not in known:
                raise QatError(
                    f"{self.name}: has no operation {shortened(name)} to end at{hints.perhaps(str(name), known)}; give "
                    f"names of operations in outputs, as {', '.join(dict.fromkeys(each.name for each in self.operations[-3:]))}"
                )
        wanted = tuple(known[name] for name in outputs)
        needed, kept = set(wanted), []
        for each in reversed(self.operations):
            if each.output in needed:
                kept.append(each)
                needed |= set(each.inputs)
        inputs = {name: spec for name, spec in self.inputs.items() if name in needed}
        return replace(self, inputs=inputs, operations=tuple(reversed(kept)), outputs=wanted)

    def with_operations(self, operations: Sequence[Operation]) -> Program:
        """The same network with other operations."""
        return replace(self, operations=tuple(operations))


def _listed(operations: Sequence[Operation]) -> str:
    """The first of them, with their lines, and how many more there are."""
    shown = [f"{each.name or each.output}{f' ({each.where})' if each.where else ''}" for each in operations[:3]]
    more = f" and {len(operations) - 3} more" if len(operations) > 3 else ""
    return ", ".join(shown) + more
