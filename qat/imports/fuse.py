"""From plain operations to a graph of fused cells, with its parameters."""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Mapping, Sequence
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
from qat.cells.window import window_padding
from qat.errors import QatError
from qat.graph import Graph, Node, Params
from qat.imports.compare import TOLERANCE, Difference, compared
from qat.imports.entry import per_channel
from qat.imports.program import Operation, Program, refusal
from qat.imports.source import Opened
from qat.imports.spelled_out import described, recognised
from qat.names import is_name
from qat.tasks import Classification, Task
from qat.training.checkpoint import Checkpoint
from qat.vocabulary.activations import RELU_BOUNDS, TABLES
from qat.vocabulary.arrays import Arrays
from qat.vocabulary.ops import Array

#: How a parameter of a batch normalisation is called in a cell.
OF_NORMALIZATION = {"gamma": "gamma", "beta": "beta", "mean": "moving_mean", "variance": "moving_variance"}
REST = ("identity", "dropout")  #: kinds that compute nothing in evaluation
NO_PADDING = (0, 0, 0, 0)
ALL_ACTIVATIONS = frozenset({*RELU_BOUNDS, *TABLES})  #: that cells compute


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

    - A convolution or dense layer takes what follows it alone: a bias, a constant factor, a batch normalisation, an activation.
    - A batch normalisation that follows nothing of that kind is a cell of its own, which takes an activation; so is an addition,
      which takes a ReLU.
    - Zeros around an image go into what takes it: a convolution, an average pooling, and a max pooling of numbers that are not
      negative.
    - A constant factor or shift of each channel that no cell takes is a Normalize cell; of a vector, it goes into the dense layer
      that follows.
    - A layer that is used twice is one cell with two nodes.
    - What computes nothing is gone.

    Args:
        program: of a front end, channels first.
        inputs: what each input takes (``qat.imports.entry``); by default real numbers.

    Returns:
        The network.

    Raises:
        QatError: operations that no cell computes; all of them are named.
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


class _Refused(Exception):
    """No cell computes an operation."""

    def __init__(self, each: Operation, what: str) -> None:
        super().__init__(what)
        self.each, self.what = each, what


class _Lost(Exception):
    """An operation takes what one that is refused gives."""


@dataclass
class _Layer:
    """A convolution or dense layer, and what it has taken of the operations after it.

    own: its parameters by local name. sources: of those that are arrays of the source as they are. origin: the names of all
    arrays that went into them.
    """

    own: dict[str, Array]
    sources: dict[str, str]
    origin: dict[str, str]
    fields: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, each: Operation) -> _Layer:
        """With weight and bias of an operation."""
        own = {local: array for local, array in each.constants.items() if local in ("weight", "bias")}
        return cls(own, dict(each.sources), dict(each.sources))

    @property
    def channels(self) -> int:
        return len(self.own["weight"])

    @property
    def has_bn(self) -> bool:
        return "gamma" in self.own

    def takes(self, after: Operation) -> bool:
        """Take a batch normalisation, or a constant of each channel, into it. False: it is something else."""
        channel = per_channel(after, self.channels)
        if after.kind == "batch_norm" and not self.has_bn:
            self.normalized(after)
        elif after.kind == "add" and channel is not None:
            place = "beta" if self.has_bn else "bias"
            shift = self.own.get(place, np.zeros(self.channels, np.float32))
            self._changed(**{place: shift + channel})
            if place not in self.origin and (source := after.sources.get("other")):
                self.sources[place] = self.origin[place] = source
        elif after.kind == "mul" and channel is not None and self.has_bn:
            self._changed(gamma=self.own["gamma"] * channel, beta=self.own["beta"] * channel)
        elif after.kind == "mul" and channel is not None:
            weight = self.own["weight"]
            self._changed(weight=weight * channel.reshape(-1, *(1,) * (weight.ndim - 1)))
            if "bias" in self.own:
                self._changed(bias=self.own["bias"] * channel)
        else:
            return False
        return True

    def normalized(self, each: Operation) -> None:
        """Take the parameters of a batch normalisation."""
        missing = {"gamma": 1.0, "variance": 1.0}
        for name, local in OF_NORMALIZATION.items():
            array = each.constants.get(name)
            self.own[local] = np.full(self.channels, missing.get(name, 0.0), np.float32) if array is None else array
            if source := each.sources.get(name):
                self.sources[local] = self.origin[local] = source
        self.fields |= {name: each.attributes[name] for name in ("eps", "momentum") if name in each.attributes}

    def _changed(self, **arrays: Array) -> None:
        """Set parameters to what is no array of the source."""
        for local, array in arrays.items():
            self.own[local] = array
            self.sources.pop(local, None)


@dataclass
class _Use:
    """The first use of a layer: its node, its cell and its parameters."""

    node: str
    cell: Cell
    layer: _Layer


class _Fusion:
    def __init__(self, program: Program, inputs: Sequence[Input]) -> None:
        self.program, self.inputs = program, inputs
        self.nodes: list[Node] = []
        self.names: set[str] = set()
        self.imported = Imported(Graph((Node("x", Input((1,)), (), "x"),), ("x",)), {})
        self.node_of: dict[str, str] = {}  #: value -> the node that gives it
        self.taken: set[str] = set()  #: outputs of operations that a cell has taken
        self.lost: set[str] = set()  #: values that nothing computes, because an operation is refused
        self.refused: list[tuple[Operation, str]] = []
        self.non_negative: set[str] = set()  #: nodes
        self.pads: dict[str, Operation] = {}  #: value -> the padding that gives it
        self.affine: dict[str, Operation] = {}  #: value -> the factor or shift of a vector that gives it
        self.flattened: dict[str, tuple[int, ...]] = {}  #: value of a flatten in the order of HWC -> (C, H, W)
        self.uses: dict[str, _Use] = {}  #: name of an array in the source -> the first layer that has it
        self.alone: dict[str, Operation] = {}  #: value -> the one operation that takes it
        takers: dict[str, list[Operation]] = {}
        for each in program.operations:
            for name in dict.fromkeys(each.inputs):
                takers.setdefault(name, []).append(each)
        for name, them in takers.items():
            if len(them) == 1 and name not in program.outputs:
                self.alone[name] = them[0]
        self.cells: Mapping[str, Callable[[Operation], None]] = {
            "conv2d": self._conv2d,
            "dense": self._dense,
            "batch_norm": self._batch_norm,
            "activation": self._activation,
            "clip": self._activation,
            "add": self._add,
            "mul": self._mul,
            "elementwise": self._elementwise,
            "max_pool2d": self._max_pool2d,
            "avg_pool2d": self._avg_pool2d,
            "mean": self._mean,
            "flatten": self._flatten,
            "concat": self._concat,
            "pad": self._pad,
            "softmax": self._softmax,
            "unknown": self._unknown,
        }

    def result(self) -> Imported:
        program = self.program
        for number, (name, cell) in enumerate(zip(program.inputs, self.inputs, strict=True)):
            node = self._name("input" if len(program.inputs) == 1 else f"input{number}")
            self.nodes.append(Node(node, cell, (), node))
            self._gives(name, node)
        for each in program.operations:
            if each.output not in self.taken:
                self._cell(each)
        for name in program.outputs:
            if name not in self.node_of and name in self.pads | self.affine:
                self.refused.append(
                    ((self.pads | self.affine)[name], "something that only a layer after it could take")
                )
        if self.refused:
            raise refusal(program.name, self.refused)
        if wrong := [name for name in program.outputs if name in self.flattened]:
            raise QatError(
                f"{program.name}: its output {wrong[0]} is flattened with channels last, and the graph has channels first; end "
                "the network before the flatten, or after the dense layer behind it (outputs=)"
            )
        outputs = tuple(self.node_of[name] for name in program.outputs)
        self.imported.graph = Graph(tuple(self.nodes), outputs, program.name)
        return self.imported

    # -- one operation ------------------------------------------------------------------------------------------------

    def _cell(self, each: Operation) -> None:
        """Make the cell of an operation, or note why there is none."""
        before = set(self.taken)
        try:
            self.cells[each.kind](each)
        except _Lost:
            pass
        except _Refused as refused:
            if all(refused.each is not other for other, _ in self.refused):
                self.refused.append((refused.each, refused.what))
        except QatError as error:  # a cell's own checks
            self.refused.append((each, str(error)))
        else:
            return
        self.lost |= {each.output} | (self.taken - before)

    def _unknown(self, each: Operation) -> None:
        raise _Refused(each, str(each.attributes["of"]))

    def _elementwise(self, each: Operation) -> None:
        raise _Refused(each, str(each.attributes["function"]))

    def _conv2d(self, each: Operation) -> None:
        weight, options = each.constants["weight"], each.attributes
        source, padding = self._unpadded(each, options["padding"])
        group = options["groups"]
        cell = Conv2dBnAct(
            weight.shape[1] * group,
            weight.shape[0],
            weight.shape[2:],
            stride=options["stride"],
            dilation=options["dilation"],
            group=group,
            **_placed(padding),
        )
        self._linear(each, cell, source, _Layer.of(each))

    def _dense(self, each: Operation) -> None:
        outputs, inputs = each.constants["weight"].shape
        layer, source = _Layer.of(each), each.inputs[0]
        while (before := self.affine.get(source)) is not None:
            factor, shift = self._factor_and_shift(before, inputs)
            weight = layer.own["weight"]
            shifted = layer.own.get("bias", np.zeros(outputs, np.float32)) + weight @ shift
            layer.own |= {"weight": weight * factor, "bias": shifted}
            layer.origin |= before.sources
            layer.sources.clear()
            source = before.inputs[0]
        if len(self._shape(source)) != 1:
            raise _Refused(each, f"a dense layer over {self._shape(source)}: of the last axis alone")
        image = self.flattened.get(source)
        if image is not None:  # its columns stand in the order of a source that has channels last
            channels, height, width = image
            weight = layer.own["weight"].reshape(outputs, height, width, channels).transpose(0, 3, 1, 2)
            layer.own["weight"] = weight.reshape(outputs, inputs)
            layer.sources.pop("weight", None)
        self._linear(each, DenseBnAct(inputs, outputs, has_bias=False), source, layer)

    def _linear(self, each: Operation, cell: Any, source: str, layer: _Layer) -> None:
        """A convolution or dense layer with all that follows it alone."""
        value = each.output
        while (after := self.alone.get(value)) is not None and layer.takes(after):
            value = self._taken(after)
        value, activation = self._activated(value)
        fields = {"has_bias": "bias" in layer.own, "has_bn": layer.has_bn, **layer.fields, **activation}
        self._layer(each, replace(cell, **fields), source, layer, value)

    def _layer(self, each: Operation, cell: Cell, source: str, layer: _Layer, value: str) -> None:
        """The node of a layer with parameters: of one that was used before, a second node."""
        use = _Use("", cell, layer)
        for local, name in layer.origin.items():
            earlier = self.uses.get(name)
            if earlier is not None and self._is_same(earlier, use):
                self._node(each, cell, source, value=value, cell_name=earlier.node)
                return
            if earlier is not None and self.program.ties:
                raise _Refused(
                    each,
                    f"a layer that shares {name} with {earlier.node}, but has another {_unlike(earlier, use)}, so that they are "
                    f"no one cell; make them equal, or give it a {local} of its own",
                )
        use.node = self._node(each, cell, source, value=value)
        for name in layer.origin.values():
            self.uses.setdefault(name, use)
        for local, array in layer.own.items():
            self.imported.params[f"{use.node}.{local}"] = np.ascontiguousarray(array, np.float32)
            if name := layer.sources.get(local):
                self.imported.sources[f"{use.node}.{local}"] = name

    @staticmethod
    def _is_same(a: _Use, b: _Use) -> bool:
        return (
            a.cell == b.cell
            and a.layer.origin == b.layer.origin
            and all(np.array_equal(a.layer.own[local], array) for local, array in b.layer.own.items())
        )

    def _batch_norm(self, each: Operation) -> None:
        shape = self._shape(each.inputs[0])
        if len(shape) != 3:
            self._before_dense(each, "a batch normalisation of a vector that no dense layer stands beside")
            return
        layer = _Layer({"weight": np.ones((shape[0], 1), np.float32)}, {}, {})
        layer.normalized(each)
        del layer.own["weight"]
        value, activation = self._activated(each.output)
        self._layer(each, BatchNorm(shape[0], **layer.fields, **activation), each.inputs[0], layer, value)

    def _add(self, each: Operation) -> None:
        if len(each.inputs) != 2:
            self._affine(each)
            return
        a, b = (self._shape(name) for name in each.inputs)
        if a != b:
            raise _Refused(each, f"an addition of {a} and {b}")
        value, activation = self._activated(each.output, RELU_BOUNDS)
        self._node(each, Add(activation.get("activation")), *each.inputs, value=value)

    def _mul(self, each: Operation) -> None:
        if len(each.inputs) == 2:
            raise _Refused(each, "a multiplication of two values")
        self._affine(each)

    def _affine(self, each: Operation) -> None:
        """A constant for each channel that no layer before takes: a cell of its own, or of a vector, part of the next."""
        shape = self._shape(each.inputs[0])
        if per_channel(each, shape[0]) is None:
            raise _Refused(
                each, f"{_called(each)} of a constant {each.constants['other'].shape}, not one for each channel"
            )
        if len(shape) != 3:
            self._before_dense(each, f"{_called(each)} of a constant to a vector that no dense layer stands beside")
            return
        factor, shift = self._factor_and_shift(each, shape[0])
        value = each.output
        while (after := self.alone.get(value)) is not None and after.kind in ("mul", "add"):
            if per_channel(after, shape[0]) is None:
                break
            more = self._factor_and_shift(after, shape[0])
            factor, shift = factor * more[0], shift * more[0] + more[1]
            value = self._taken(after)
        self._node(each, Normalize(tuple(factor.tolist()), tuple(shift.tolist())), each.inputs[0], value=value)

    def _before_dense(self, each: Operation, otherwise: str) -> None:
        """Let the dense layer that follows alone take it; refuse it where there is none."""
        after, value = self.alone.get(each.output), each.output
        while after is not None and after.kind in ("batch_norm", "add", "mul") and len(after.inputs) == 1:
            value = after.output
            after = self.alone.get(value)
        if after is None or after.kind != "dense":
            raise _Refused(each, otherwise)
        self._given(each, each.inputs[0])
        self.affine[each.output] = each

    def _factor_and_shift(self, each: Operation, channels: int) -> tuple[Array, Array]:
        """What an operation multiplies and adds, of each channel, float32."""
        one, zero = np.ones(channels, np.float32), np.zeros(channels, np.float32)
        if each.kind == "batch_norm":
            own = {"gamma": one, "beta": zero, "mean": zero, "variance": one} | dict(each.constants)
            factor = own["gamma"].astype(np.float64) / np.sqrt(
                own["variance"].astype(np.float64) + each.attributes["eps"]
            )
            return factor.astype(np.float32), (own["beta"] - own["mean"] * factor).astype(np.float32)
        number = per_channel(each, channels)
        assert number is not None
        return (number, zero) if each.kind == "mul" else (one, number)

    def _activation(self, each: Operation) -> None:
        fields = _activation_of(each)
        if fields is None:
            raise _Refused(each, _called(each))
        self._node(each, Activation(fields.pop("activation"), **fields), each.inputs[0])

    def _max_pool2d(self, each: Operation) -> None:
        if tuple(each.attributes.get("dilation", (1, 1))) != (1, 1):
            raise _Refused(each, f"a max pooling of dilation {each.attributes['dilation']}")
        self._pool(each, MaxPool2d)

    def _avg_pool2d(self, each: Operation) -> None:
        own = self._resolved(each, each.attributes["padding"])
        if any(own) and not each.attributes["counts_padding"]:
            raise _Refused(each, "an average pooling whose padding does not count")
        self._pool(each, AvgPool2d)

    def _pool(self, each: Operation, cell: Any) -> None:
        options = each.attributes
        source, padding = self._unpadded(each, options["padding"])
        if options.get("ceil"):
            padding = self._resolved(each, padding)
            _, height, width = self._shape(source)
            ends = [
                _further(size, kernel, stride, first, last)
                for size, kernel, stride, first, last in zip(
                    (height, width), options["kernel"], options["stride"], padding[::2], padding[1::2], strict=True
                )
            ]
            if any(ends) and cell is AvgPool2d:
                raise _Refused(each, "an average pooling with ceil_mode whose last windows are smaller")
            padding = (padding[0], padding[1] + ends[0], padding[2], padding[3] + ends[1])
        self._node(each, cell(options["kernel"], options["stride"], **_placed(padding)), source)

    def _mean(self, each: Operation) -> None:
        if tuple(sorted(each.attributes["axes"])) != (2, 3) or len(self._shape(each.inputs[0])) != 3:
            raise _Refused(each, f"a mean over axes {tuple(each.attributes['axes'])}, not height and width")
        if each.attributes["keepdims"]:
            self._node(each, GlobalAvgPool2d(), each.inputs[0])
            return
        node = self._node(each, GlobalAvgPool2d(), each.inputs[0], value=f"{each.output} before its flatten")
        self._node(each, Flatten(), f"{each.output} before its flatten", value=each.output, name=f"{node}.flatten")

    def _flatten(self, each: Operation) -> None:
        source = each.inputs[0]
        shape = self._shape(source)
        if len(shape) == 1:
            self.node_of[each.output] = self._given(each, source)
            if source in self.flattened:
                self.flattened[each.output] = self.flattened[source]
            return
        self._node(each, Flatten(), source)
        if each.attributes.get("channels_last") and shape[0] > 1 and math.prod(shape[1:]) > 1:
            self.flattened[each.output] = shape

    def _concat(self, each: Operation) -> None:
        rank = len(self._shape(each.inputs[0])) + 1
        if each.attributes["axis"] % rank != 1:
            raise _Refused(each, f"a concatenation along axis {each.attributes['axis']}, not of channels")
        first, *others = each.inputs
        if not others:
            self.node_of[each.output] = self._given(each, first)
        for number, other in enumerate(others, 1):
            value = each.output if number == len(others) else f"{each.output} of the first {number + 1}"
            self._node(each, Concat(), first, other, value=value)
            first = value

    def _softmax(self, each: Operation) -> None:
        rank = len(self._shape(each.inputs[0])) + 1
        if each.attributes["axis"] % rank != 1:
            raise _Refused(each, f"a softmax along axis {each.attributes['axis']}, not of channels")
        self._node(each, Softmax(), each.inputs[0])

    def _pad(self, each: Operation) -> None:
        widths = each.attributes["widths"]
        if len(widths) != 4 or any(map(any, widths[:2])) or min(map(min, widths)) < 0:
            raise _Refused(each, f"a padding of {tuple(map(tuple, widths))}, not only around images")
        if each.inputs[0] not in self.pads:
            self._given(each, each.inputs[0])
        self.pads[each.output] = each

    # -- what they share ----------------------------------------------------------------------------------------------

    def _unpadded(self, each: Operation, padding: Any) -> tuple[str, Any]:
        """What an operation takes before the paddings that it can take too, and all their widths."""
        value = each.inputs[0]
        while (pad := self.pads.get(value)) is not None:
            number, source = pad.attributes["value"], pad.inputs[0]
            if each.kind == "max_pool2d":
                node = self.node_of.get(source) or self.node_of.get(self._source(source))
                harmless = number == -math.inf or (number == 0.0 and node in self.non_negative)
                if not harmless:
                    raise _Refused(pad, f"a padding with {number:g} before a max pooling of numbers that may be less")
            elif number != 0.0:
                raise _Refused(pad, f"a padding with {number:g}, not 0")
            elif (
                each.kind == "avg_pool2d"
                and any(self._resolved(each, padding))
                and not each.attributes["counts_padding"]
            ):
                raise _Refused(pad, "a padding before an average pooling whose own does not count")
            _, _, rows, columns = pad.attributes["widths"]
            own = self._resolved(each, padding)
            padding = tuple(a + b for a, b in zip((*rows, *columns), own, strict=True))
            value = source
        return value, padding

    def _source(self, value: str) -> str:
        """What paddings begin with."""
        while value in self.pads:
            value = self.pads[value].inputs[0]
        return value

    def _resolved(self, each: Operation, padding: Any) -> tuple[int, int, int, int]:
        """A padding in pixels."""
        if padding != "same":
            top, bottom, left, right = padding
            return int(top), int(bottom), int(left), int(right)
        options = each.attributes
        kernel = options["kernel"] if "kernel" in options else each.constants["weight"].shape[2:]
        _, height, width = self._shape(each.inputs[0])
        dilation = options.get("dilation", (1, 1))
        return window_padding(
            (height, width), tuple(kernel), tuple(options["stride"]), tuple(dilation), "same", NO_PADDING
        )

    def _activated(self, value: str, functions: Container[str] = ALL_ACTIVATIONS) -> tuple[str, dict[str, Any]]:
        """The value behind an activation that follows alone, and the cell's fields for it."""
        after = self.alone.get(value)
        fields = None if after is None else _activation_of(after)
        if after is None or fields is None or fields["activation"] not in functions:
            return value, {}
        return self._taken(after), fields

    def _taken(self, each: Operation) -> str:
        self.taken.add(each.output)
        return each.output

    def _shape(self, value: str) -> tuple[int, ...]:
        return self.program.shapes[value]

    def _given(self, each: Operation, value: str) -> str:
        """The node that gives what an operation takes."""
        if value in self.lost:
            raise _Lost
        for waiting in (self.pads, self.affine):
            if value in waiting:
                raise _Refused(waiting[value], f"{_called(waiting[value])} before {_called(each)}")
        return self.node_of[value]

    def _node(
        self, each: Operation, cell: Cell, *inputs: str, value: str | None = None, name: str = "", cell_name: str = ""
    ) -> str:
        """Append a node, and return its name."""
        nodes = tuple(self._given(each, given) for given in inputs)
        value = value or each.output
        ordered = [given for given in inputs if given in self.flattened]
        if ordered and each.kind in ("activation", "clip"):
            self.flattened[value] = self.flattened[ordered[0]]
        elif ordered and each.kind != "dense":
            raise _Refused(each, f"{_called(each)} of what is flattened with channels last")
        name = self._name(
            name or (each.name if is_name(each.name) else each.output if is_name(each.output) else each.kind)
        )
        self.nodes.append(Node(name, cell, nodes, cell_name or name))
        self._gives(value, name)
        if cell.non_negative or (cell.keeps_sign and all(node in self.non_negative for node in nodes)):
            self.non_negative.add(name)
        return name

    def _gives(self, value: str, node: str) -> None:
        self.node_of[value] = node
        if value in self.program.shapes:
            self.imported.values[node] = value

    def _name(self, wanted: str) -> str:
        """A name that no node has yet."""
        name, number = wanted, 1
        while name in self.names:
            number += 1
            name = f"{wanted}_{number}"
        self.names.add(name)
        return name


def _placed(padding: Any) -> dict[str, Any]:
    """The fields of a window's padding."""
    if padding == "same":
        return {"pad_mode": "same"}
    return {"pad_mode": "pad", "padding": tuple(padding)} if any(padding) else {"pad_mode": "valid"}


def _further(size: int, kernel: int, stride: int, first: int, last: int) -> int:
    """How much more padding at the end ``ceil_mode`` amounts to: a last window that begins within the image or the padding
    before it is kept, however much of it lies beyond.
    """
    padded = size + first + last
    count = -(-(padded - kernel) // stride) + 1
    if (count - 1) * stride >= size + first:
        count -= 1
    return max((count - 1) * stride + kernel - padded, 0)


def _activation_of(each: Operation) -> dict[str, Any] | None:
    """The fields of a cell for an activation; None: no cell computes it."""
    if each.kind == "clip":
        low, high = each.attributes["low"], each.attributes["high"]
        unbounded = high is None or math.isinf(high)
        name = "relu" if low == 0.0 and unbounded else "relu6" if low == 0.0 and high == 6.0 else None
        return None if name is None else {"activation": name}
    if each.kind != "activation" or each.attributes["function"] not in ALL_ACTIVATIONS:
        return None
    fields = {"activation": each.attributes["function"]}
    return fields | ({"alpha": each.attributes["alpha"]} if "alpha" in each.attributes else {})


def _called(each: Operation) -> str:
    """What an operation is, for messages."""
    if each.kind == "activation":
        return described(each)
    if each.kind == "clip":
        low, high = (
            "none" if bound is None else f"{bound:g}" for bound in (each.attributes["low"], each.attributes["high"])
        )
        return f"a clip from {low} to {high}"
    words = {"add": "an addition", "mul": "a multiplication", "pad": "a padding", "batch_norm": "a batch normalisation"}
    return words.get(each.kind, f"a {each.kind}")


def _unlike(a: _Use, b: _Use) -> str:
    """In what two layers differ, in words."""
    for local in ("weight", "bias", "gamma"):
        if a.layer.origin.get(local) != b.layer.origin.get(local):
            return "batch normalisation" if local == "gamma" else local
    return (
        "activation"
        if getattr(a.cell, "activation", None) != getattr(b.cell, "activation", None)
        else "stride or padding"
    )
