"""From plain operations to a graph of fused cells, with its parameters."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from qat.cells import (
    Activation,
    Add,
    AvgPool2d,
    BatchNorm,
    Concat,
    Conv2dBnAct,
    DenseBnAct,
    Flatten,
    GlobalAvgPool2d,
    Input,
    MaxPool2d,
    Normalize,
    Softmax,
)
from qat.cells.base import Cell
from qat.errors import QatError
from qat.graph import Graph, Node, Params
from qat.imports.compare import TOLERANCE, Difference, compared
from qat.imports.entry import per_channel
from qat.imports.program import Operation, Program
from qat.imports.source import Opened
from qat.imports.spelled_out import recognised
from qat.names import is_name
from qat.tasks import Classification, Task
from qat.training.checkpoint import Checkpoint
from qat.vocabulary.arrays import Arrays
from qat.vocabulary.ops import Array

#: How a parameter of a batch normalisation is called in a cell.
OF_NORMALIZATION = {"gamma": "gamma", "beta": "beta", "mean": "moving_mean", "variance": "moving_variance"}
REST = ("identity", "dropout")  #: kinds that compute nothing in evaluation


@dataclass
class Imported:
    """A network that was read.

    Attributes:
        graph: of cells.
        params: its parameters, by full name.
        sources: of each parameter that is one array of the source as it is, the array's name there.
        values: of each node, the value of the source that it gives.
        notes: what a user should know, a line each.
        difference: from the source, where they were compared.
        opened: the source.
        entries: of each input, an Input whose ``real_numbers`` are what the source takes.
    """

    graph: Graph
    params: Params
    sources: dict[str, str] = field(default_factory=dict)
    values: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    difference: Difference | None = None
    opened: Opened | None = None
    entries: tuple[Input, ...] = ()

    def compare(self, images: Arrays | None = None, *, tolerance: float = TOLERANCE) -> Difference:
        """Run the source and the graph on the same samples.

        Args:
            images: What the graph takes, (N, ...), a tuple of arrays for several inputs, of which 32 are used. None, the
                default: 4 random samples.
            tolerance: The largest relative difference between their outputs.

        Returns:
            The difference, which ``difference`` keeps.

        Raises:
            QatError: they differ by more; the first node where they part is named.
        """
        assert self.opened is not None
        self.difference = compared(
            self.opened, self.graph, self.params, self.values, self.entries, images, tolerance=tolerance
        )
        return self.difference

    def checkpoint(self, task: Task | None = None) -> Checkpoint:
        """A checkpoint of the float network, as training would have left it.

        Args:
            task: What the network is for; by default a classification.

        Returns:
            The checkpoint, at step 0.
        """
        return Checkpoint(self.graph, self.params, task=task or Classification())


def fuse(program: Program, inputs: Sequence[Input] = ()) -> Imported:
    """Make cells of plain operations.

    A convolution, dense layer or addition takes what follows it alone: a bias, a constant factor, a batch normalisation, an
    activation. Padding goes into what it pads for. What changes nothing is gone.

    Args:
        program: of a front end, channels first.
        inputs: what each input takes (``qat.imports.entry``); by default real numbers.

    Returns:
        The network.

    Raises:
        QatError: an operation that no cell computes; all of them are named.
    """
    cells = inputs or [Input(spec.shape, dtype="float32") for spec in program.inputs.values()]
    return _Fusion(recognised(_without_rest(program)), cells).result()


def _without_rest(program: Program) -> Program:
    """Without operations that compute nothing."""
    same: dict[str, str] = {}
    kept = []
    for each in program.operations:
        each = replace(each, inputs=tuple(same.get(name, name) for name in each.inputs))
        if each.kind in REST:
            same[each.output] = each.inputs[0]
        else:
            kept.append(each)
    return replace(program, operations=tuple(kept), outputs=tuple(same.get(name, name) for name in program.outputs))


class _Fusion:
    def __init__(self, program: Program, inputs: Sequence[Input]) -> None:
        program.require_known()
        self.program, self.inputs = program, inputs
        self.nodes: list[Node] = []
        self.imported = Imported.__new__(Imported)
        self.params: Params = {}
        self.sources: dict[str, str] = {}
        self.values: dict[str, str] = {}
        self.notes: list[str] = []
        self.node_of: dict[str, str] = {}  #: value -> the node that gives it
        self.done: set[str] = set()  #: outputs of operations that a cell has taken
        self.pads: dict[str, Operation] = {}  #: value -> the padding that gives it
        self.flattened: dict[str, tuple[int, ...]] = {}  #: value of a flatten in the order of HWC -> (C, H, W)
        self.alone: dict[str, Operation] = {}
        for each in program.operations:
            for name in each.inputs:
                takers = program.consumers(name)
                if len(takers) == 1 and name not in program.outputs:
                    self.alone[name] = takers[0]

    def result(self) -> Imported:
        inputs = self.program.inputs
        for number, (name, cell) in enumerate(zip(inputs, self.inputs, strict=True)):
            node = self._name("input" if len(inputs) == 1 else f"input{number}")
            self.nodes.append(Node(node, cell, (), node))
            self._gives(name, node)
        for each in self.program.operations:
            if each.output not in self.done:
                self._cell(each)
        outputs = tuple(self.node_of[name] for name in self.program.outputs)
        graph = Graph(tuple(self.nodes), outputs, self.program.name)
        return Imported(graph, self.params, self.sources, self.values, self.notes)

    # -- one operation ------------------------------------------------------------------------------------------------

    def _cell(self, each: Operation) -> None:
        getattr(self, f"_{each.kind}", self._refuse)(each)

    def _refuse(self, each: Operation, why: str = "") -> None:
        where = f" ({each.where})" if each.where else ""
        raise QatError(
            f"{self.program.name}: {each.name or each.output}{where} is a {each.kind} that no cell computes{why}; cut the "
            "network before it (outputs=), and compute the rest in float"
        )

    def _conv2d(self, each: Operation) -> None:
        weight, options = each.constants["weight"], each.attributes
        source, padding = self._unpadded(each.inputs[0], options["padding"])
        fields: dict[str, Any] = {"pad_mode": "same"} if padding == "same" else {"pad_mode": "pad", "padding": padding}
        group = options["groups"]
        cell = Conv2dBnAct(
            weight.shape[1] * group,
            weight.shape[0],
            weight.shape[2:],
            stride=options["stride"],
            dilation=options["dilation"],
            group=group,
            **fields,
        )
        self._linear(each, cell, source)

    def _dense(self, each: Operation) -> None:
        outputs, inputs = each.constants["weight"].shape
        image = self.flattened.get(each.inputs[0])
        if image is not None:  # its columns stand in the order of a source that has channels last
            channels, height, width = image
            weight = each.constants["weight"].reshape(outputs, height, width, channels).transpose(0, 3, 1, 2)
            each = replace(each, constants={**each.constants, "weight": weight.reshape(outputs, inputs)}, sources={})
        self._linear(each, DenseBnAct(inputs, outputs, has_bias=False), each.inputs[0])

    def _linear(self, each: Operation, cell: Any, source: str) -> None:
        """A convolution or dense layer with all that follows it alone."""
        own: dict[str, Array] = {"weight": each.constants["weight"]}
        sources = {"weight": each.sources.get("weight", "")}
        if "bias" in each.constants:
            own["bias"], sources["bias"] = each.constants["bias"], each.sources.get("bias", "")
        value, eps = each.output, None
        while (after := self.alone.get(value)) is not None:
            channel = per_channel(after, len(own["weight"]))
            if after.kind == "batch_norm" and eps is None:
                eps = after.attributes["eps"]
                for name, local in OF_NORMALIZATION.items():
                    own[local], sources[local] = self._statistic(after, name, len(own["weight"]))
                    sources[local] = after.sources.get(name, "")
            elif after.kind == "add" and channel is not None:
                place = "bias" if eps is None else "beta"
                own[place] = own.get(place, np.zeros(len(own["weight"]), np.float32)) + channel
                sources[place] = ""
            elif after.kind == "mul" and channel is not None and eps is None:
                own["weight"] = own["weight"] * channel.reshape(-1, *(1,) * (own["weight"].ndim - 1))
                sources["weight"] = ""
                if "bias" in own:
                    own["bias"], sources["bias"] = own["bias"] * channel, ""
            elif after.kind == "mul" and channel is not None:
                own["gamma"], own["beta"] = own["gamma"] * channel, own["beta"] * channel
                sources["gamma"] = sources["beta"] = ""
            else:
                break
            value = self._taken(after)
        value, activation = self._activated(value)
        fields = {"has_bias": "bias" in own, "has_bn": eps is not None, **activation}
        cell = replace(cell, **fields, **({} if eps is None else {"eps": eps}))
        node = self._node(each, cell, source, value=value)
        for local, array in own.items():
            self.params[f"{node}.{local}"] = np.array(array, np.float32, order="C")  # a copy
            if sources.get(local):
                self.sources[f"{node}.{local}"] = sources[local]

    def _statistic(self, each: Operation, name: str, channels: int) -> tuple[Array, str]:
        missing = {"gamma": 1.0, "variance": 1.0}.get(name, 0.0)
        found = each.constants.get(name)
        return (np.full(channels, missing, np.float32) if found is None else found), each.sources.get(name, "")

    def _batch_norm(self, each: Operation) -> None:
        channels = self._shape(each.inputs[0])[0]
        value, activation = self._activated(each.output)
        cell = BatchNorm(channels, eps=each.attributes["eps"], **activation)
        node = self._node(each, cell, each.inputs[0], value=value)
        for name, local in OF_NORMALIZATION.items():
            self.params[f"{node}.{local}"], source = self._statistic(each, name, channels)
            if source:
                self.sources[f"{node}.{local}"] = source

    def _add(self, each: Operation) -> None:
        if len(each.inputs) != 2:
            self._affine(each)
            return
        value, activation = self._activated(each.output)
        if activation.get("activation") not in (None, "relu", "relu6"):
            self.done.discard(value)
            value, activation = each.output, {}
        self._node(each, Add(**activation), *each.inputs, value=value)

    def _affine(self, each: Operation) -> None:
        """A constant per channel that no linear cell before takes: a layer of its own."""
        shape = self._shape(each.inputs[0])
        channel = per_channel(each, shape[0])
        if channel is None or len(shape) != 3:
            self._refuse(each, " with that constant")
            return
        factor = channel if each.kind == "mul" else np.ones_like(channel)
        shift = channel if each.kind == "add" else np.zeros_like(channel)
        value = each.output
        while (after := self.alone.get(value)) is not None and after.kind in ("mul", "add"):
            more = per_channel(after, shape[0])
            if more is None:
                break
            factor, shift = (factor * more, shift * more) if after.kind == "mul" else (factor, shift + more)
            value = self._taken(after)
        self._node(each, Normalize(tuple(factor.tolist()), tuple(shift.tolist())), each.inputs[0], value=value)

    def _mul(self, each: Operation) -> None:
        if len(each.inputs) == 2:
            self._refuse(each, " of two values")
        self._affine(each)

    def _clip(self, each: Operation) -> None:
        name = _clip_name(each)
        if name is None:
            self._refuse(each, f" from {each.attributes['low']} to {each.attributes['high']}")
        self._node(each, Activation(str(name)), each.inputs[0])

    def _activation(self, each: Operation) -> None:
        self._node(each, Activation(**_activation_fields(each)), each.inputs[0])

    def _max_pool2d(self, each: Operation) -> None:
        self._pool(each, MaxPool2d)

    def _avg_pool2d(self, each: Operation) -> None:
        padding = each.attributes["padding"]
        if padding != "same" and any(padding) and not each.attributes["counts_padding"]:
            self._refuse(each, " whose padding does not count")
        self._pool(each, AvgPool2d)

    def _pool(self, each: Operation, cell: Any) -> None:
        options = each.attributes
        if tuple(options.get("dilation", (1, 1))) != (1, 1) or options.get("ceil"):
            self._refuse(each, " with that dilation or ceil_mode")
        padding = options["padding"]
        placed = ("same", 0) if padding == "same" else ("pad", padding)
        self._node(each, cell(options["kernel"], options["stride"], *placed), each.inputs[0])

    def _mean(self, each: Operation) -> None:
        if tuple(each.attributes["axes"]) != (2, 3) or len(self._shape(each.inputs[0])) != 3:
            self._refuse(each, f" over axes {each.attributes['axes']}")
        value = each.output if each.attributes["keepdims"] else f"{each.output}.pooled"
        self._node(each, GlobalAvgPool2d(), each.inputs[0], value=value)
        if value != each.output:
            self._node(each, Flatten(), value, value=each.output)

    def _flatten(self, each: Operation) -> None:
        if len(self._shape(each.inputs[0])) == 1:
            self.node_of[each.output] = self.node_of[each.inputs[0]]
            return
        shape = self._shape(each.inputs[0])
        if each.attributes.get("channels_last") and shape[0] > 1 and math.prod(shape[1:]) > 1:
            self.flattened[each.output] = shape
        self._node(each, Flatten(), each.inputs[0])

    def _concat(self, each: Operation) -> None:
        if each.attributes["axis"] != 1:
            self._refuse(each, f" along axis {each.attributes['axis']}")
        first, *others = each.inputs
        for number, other in enumerate(others, 1):
            value = each.output if number == len(others) else f"{each.output}.{number}"
            self._node(each, Concat(), first, other, value=value)
            first = value

    def _softmax(self, each: Operation) -> None:
        if each.attributes["axis"] not in (1, -1) or len(self._shape(each.inputs[0])) != 1:
            self._refuse(each, f" along axis {each.attributes['axis']}")
        self._node(each, Softmax(), each.inputs[0])

    def _pad(self, each: Operation) -> None:
        self.pads[each.output] = each

    # -- what they share ----------------------------------------------------------------------------------------------

    def _unpadded(self, value: str, padding: Any) -> tuple[str, Any]:
        """What a padding before takes, and its widths with those of the operation itself."""
        pad = self.pads.get(value)
        if pad is None:
            return value, padding
        _, _, rows, columns = pad.attributes["widths"]
        if padding == "same" or pad.attributes["value"] != 0.0:
            self._refuse(pad, " before such a convolution")
        return pad.inputs[0], tuple(a + b for a, b in zip((*rows, *columns), padding, strict=True))

    def _activated(self, value: str) -> tuple[str, dict[str, Any]]:
        """The value behind an activation that follows alone, and the cell's fields for it."""
        after = self.alone.get(value)
        if after is None:
            return value, {}
        if after.kind == "clip" and (name := _clip_name(after)) is not None:
            return self._taken(after), {"activation": name}
        if after.kind == "activation":
            return self._taken(after), {"activation": after.attributes["function"]} | (
                {"alpha": after.attributes["alpha"]} if "alpha" in after.attributes else {}
            )
        return value, {}

    def _taken(self, each: Operation) -> str:
        self.done.add(each.output)
        return each.output

    def _shape(self, value: str) -> tuple[int, ...]:
        return self.program.shapes[value]

    def _node(self, each: Operation, cell: Cell, *inputs: str, value: str | None = None) -> str:
        name = self._name(each.name if is_name(each.name) else each.output)
        missing = [given for given in inputs if given not in self.node_of]
        if missing:
            self._refuse(self.pads.get(missing[0], each), " before what follows it")
        self.nodes.append(Node(name, cell, tuple(self.node_of[given] for given in inputs), name))
        self._gives(value or each.output, name)
        return name

    def _gives(self, value: str, node: str) -> None:
        self.node_of[value], self.values[node] = node, value

    def _name(self, wanted: str) -> str:
        """A name that no node has yet."""
        taken = {node.name for node in self.nodes}
        name, number = wanted, 1
        while name in taken:
            number += 1
            name = f"{wanted}_{number}"
        return name


def _clip_name(each: Operation) -> str | None:
    low, high = each.attributes["low"], each.attributes["high"]
    if low != 0.0:
        return None
    if high is None or (isinstance(high, float) and math.isinf(high)):
        return "relu"
    return "relu6" if high == 6.0 else None


def _activation_fields(each: Operation) -> Mapping[str, Any]:
    fields = {"function": each.attributes["function"]}
    return fields | ({"alpha": each.attributes["alpha"]} if "alpha" in each.attributes else {})
