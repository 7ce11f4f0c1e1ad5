"""What a front end reads of a source: plain float operations in order, under the names of the source."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from qat import hints
from qat.errors import QatError, shortened
from qat.vocabulary.arrays import ArraySpec
from qat.vocabulary.ops import Array

#: Kinds of operations, and what they have beside inputs. Images are (N, C, H, W) and weights OIHW or OI: front ends of sources
#: that have channels last list theirs in this form. Series are (N, C, L), and axes are counted with that of the samples.
KINDS: Mapping[str, str] = {
    "conv2d": "weight[, bias]; stride, padding (top, bottom, left, right) or 'same', dilation, groups",
    "conv_transpose2d": "weight, IOHW[, bias]; stride, padding that is cut off, output_padding, dilation, groups",
    "dense": "weight[, bias]",
    "batch_norm": "gamma, beta, mean, variance; eps[, momentum: the share of a running statistic that a step keeps]",
    "activation": "function, a name of qat.vocabulary.activations or of qat.imports.spelled_out[, its parameters]",
    "prelu": "slope: one number, or one for each channel",
    "clip": "low, high; None: no bound",
    "add": "two inputs, spread as NumPy does; or other: a constant, spread to one sample",
    "mul": "likewise",
    "sub": "two inputs, likewise",
    "maximum": "two inputs, likewise",
    "minimum": "two inputs, likewise",
    "elementwise": "function, a name of qat.imports.spelled_out.ELEMENTWISE; as spelled-out activations hold them",
    "max_pool2d": "kernel, stride, padding[, ceil, dilation]",
    "avg_pool2d": "kernel, stride, padding, counts_padding[, ceil]",
    "adaptive_avg_pool2d": "size: rows, columns",
    "mean": "axes, keepdims",
    "max": "axes, keepdims",
    "flatten": "[channels_last]",
    "reshape": "shape, of one sample, of any number of axes",
    "transpose": "axes: the order of those of one sample, 0 the channels",
    "move": "parts, a reshape; axes, a transposition; shape, a reshape: of one sample, one after another",
    "slice": "axis, start, stop, step; counted from the front",
    "select": "axis, which is gone; index",
    "concat": "axis; constants by their places among the values and them, from 0, of one sample",
    "stack": "axis",
    "expand": "shape, of one sample",
    "upsample": "factor: rows, columns; nearest neighbours",
    "upsample_bilinear": "factor: rows, columns; align_corners",
    "pad": "widths, a pair for each axis; value, or mode: reflect. Below 0: a crop",
    "softmax": "axis",
    "layer_norm": "[gamma, beta: of the axes]; axes, eps",
    "rms_norm": "[gamma: of the axes]; axes, eps",
    "length": "axes, which stay; as normalisations that are spelled out hold it",
    "group_norm": "[gamma, beta: of channels]; groups, eps",
    "matmul": "two inputs, of equally many matrices; transpose_a, transpose_b: of their last two axes"
    "[; channels_last: these are width and channels of images]",
    "attention": "queries, keys, values[, what is added to scores, or mask: a constant]; scale",
    "roll": "axes, shifts",
    "glu": "axis, whose second half is the gate",
    "gru": "input_weight, state_weight[, input_bias, state_bias]; layout, as qat.GRU.params_of has it; units, reset_after, "
    "reverse; axis of the steps, of one sample, before and after",
    "lstm": "likewise, without reset_after",
    "dropout": "rate",
    "identity": "",
    "unknown": "of, the operation's name in its source",
}

#: Kinds of which some operations are computed in no form at all.
UNKNOWN = ("unknown", "elementwise", "activation", "length")
SHOWN = 8  #: kinds of refused operations that a message names


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
        ties: arrays of one source name are one parameter, trained as one. False where exporters merge equal arrays.
    """

    name: str
    inputs: Mapping[str, ArraySpec]
    operations: tuple[Operation, ...]
    outputs: tuple[str, ...]
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    ties: bool = False

    def consumers(self, value: str) -> list[Operation]:
        """The operations that take a value."""
        return [each for each in self.operations if value in each.inputs]

    def single_consumers(self) -> dict[str, Operation]:
        """Of each value that one operation alone takes, and that does not leave, this operation."""
        takers: dict[str, list[Operation]] = {}
        for each in self.operations:
            for name in dict.fromkeys(each.inputs):
                takers.setdefault(name, []).append(each)
        return {name: them[0] for name, them in takers.items() if len(them) == 1 and name not in self.outputs}

    def require_known(self) -> None:
        """Raise QatError, naming all operations that are unknown, with their lines."""
        unknown = [(each, str(each.attributes["of"])) for each in self.operations if each.kind == "unknown"]
        if unknown:
            raise refusal(self.name, unknown)

    def cut(self, outputs: Sequence[str]) -> Program:
        """The part of the network that gives some values.

        Args:
            outputs: names of operations in the source, as "layer4.1.relu", or else of values; of several operations of one
                name the last is meant.

        Returns:
            The program that ends there.

        Raises:
            QatError: there is nothing of that name.
        """
        known = {each.output: each.output for each in self.operations}
        known |= {each.name: each.output for each in self.operations}
        for name in outputs:
            if name not in known:
                raise QatError(
                    f"{self.name}: has no operation {shortened(name)} to end at{hints.perhaps(str(name), known)}; give "
                    f"names of operations in outputs, as {', '.join(dict.fromkeys(each.name for each in self.operations[-3:]))}"
                )
        wanted = tuple(known[name] for name in outputs)
        part = replace(self, outputs=wanted).needed()
        taken = {name for each in part.operations for name in each.inputs} | set(wanted)
        return replace(part, inputs={name: spec for name, spec in self.inputs.items() if name in taken})

    def needed(self) -> Program:
        """The same network without operations that no output depends on, as the parts of a split that nothing takes."""
        needed, kept = set(self.outputs), []
        for each in reversed(self.operations):
            if each.output in needed:
                kept.append(each)
                needed |= set(each.inputs)
        return replace(self, operations=tuple(reversed(kept)))

    def without(self, kinds: Collection[str]) -> Program:
        """The same network without the operations of some kinds, which give what they take."""
        same: dict[str, str] = {}
        kept = []
        for each in self.operations:
            inputs = tuple(same.get(name, name) for name in each.inputs)
            if each.kind in kinds:
                same[each.output] = inputs[0]
            else:
                kept.append(replace(each, inputs=inputs))
        return replace(self, operations=tuple(kept), outputs=tuple(same.get(name, name) for name in self.outputs))

    def with_operations(self, operations: Sequence[Operation]) -> Program:
        """The same network with other operations."""
        return replace(self, operations=tuple(operations))


class RefusedError(Exception):
    """No cell computes an operation."""

    def __init__(self, each: Operation, what: str) -> None:
        super().__init__(what)
        self.each, self.what = each, what


class LostError(Exception):
    """An operation takes what one that is refused gives."""


def refusal(name: str, found: Sequence[tuple[Operation, str]]) -> QatError:
    """The error for operations that cannot be imported, all of them.

    Args:
        name: of the network.
        found: each of them, and what it is.

    Returns:
        An error, not raised.
    """
    counted: dict[str, list[Operation]] = {}
    for each, what in found:
        counted.setdefault(what, []).append(each)
    count = "1 operation" if len(found) == 1 else f"{len(found)} operations"
    them = "it" if len(found) == 1 else "them"
    listed = "; ".join(f"{what}: {_listed(places)}" for what, places in [*counted.items()][:SHOWN])
    listed += f"; and {len(counted) - SHOWN} more kinds" if len(counted) > SHOWN else ""
    cut = f"cut the network before {them} (--outputs, or outputs=), and compute the rest in float"
    if all(each.kind not in UNKNOWN for each, _ in found):
        return QatError(f"{name}: has {count} in a form that no cell computes: {listed}. Change {them}, or {cut}")
    known = ", ".join(kind for kind in KINDS if kind not in ("unknown", "elementwise", "length"))
    return QatError(f"{name}: has {count} that no cell computes: {listed}. Known are {known}; {cut}")


def _listed(operations: Sequence[Operation]) -> str:
    """The first of them, with their lines, and how many more there are."""
    shown = [f"{each.name or each.output}{f' ({each.where})' if each.where else ''}" for each in operations[:3]]
    more = f" and {len(operations) - 3} more" if len(operations) > 3 else ""
    return ", ".join(shown) + more
