"""From plain operations to a graph of fused cells, with its parameters."""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import replace
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
from qat.imports.activations import ALL_ACTIVATIONS, activation_of, called
from qat.imports.entry import per_channel
from qat.imports.imported import Imported
from qat.imports.layer import Layer, Use, factor_and_shift, unlike
from qat.imports.program import LostError, Operation, Program, RefusedError, refusal
from qat.imports.repeated import once
from qat.imports.spelled_out import recognised
from qat.imports.windows import NO_PADDING, placed, resolved, with_ceil
from qat.names import is_name
from qat.vocabulary.activations import RELU_BOUNDS
from qat.vocabulary.ops import Padding

REST = ("identity", "dropout")  #: kinds that compute nothing in evaluation


def fuse(program: Program, inputs: Sequence[Input] = ()) -> Imported:
    """Make cells of plain operations.

    - A convolution or dense layer takes what follows it alone: a bias, a constant factor, a batch normalisation, an
      activation. After anything else a batch normalisation is a cell of its own, with an activation; so is an addition.
    - Zeros around an image go into what takes it: a convolution, an average pooling, and a max pooling of numbers that are not
      negative. Before anything else they are a 1x1 depthwise convolution of ones.
    - A constant factor or shift of each channel that no cell takes is a Normalize cell; of a vector, part of the next layer.
    - A layer that is used twice is one cell with two nodes. What computes nothing, or was computed before, is gone.

    Args:
        program: of a front end, channels first.
        inputs: what each input takes (``qat.imports.entry``); by default real numbers.

    Returns:
        The network.

    Raises:
        QatError: operations that no cell computes; all of them are named.
    """
    cells = inputs or [Input(spec.shape, dtype="float32") for spec in program.inputs.values()]
    return _Fusion(recognised(once(program.without(REST))), cells).result()


class _Fusion:
    def __init__(self, program: Program, inputs: Sequence[Input]) -> None:
        self.program, self.inputs = program, inputs
        self.nodes: list[Node] = []
        self.names: set[str] = set()
        self.params: Params = {}
        self.sources: dict[str, str] = {}
        self.values: dict[str, str] = {}
        self.node_of: dict[str, str] = {}  #: value -> the node that gives it
        self.taken: set[str] = set()  #: outputs of operations that a cell has taken
        self.lost: set[str] = set()  #: values that nothing computes, because an operation is refused
        self.refused: list[tuple[Operation, str]] = []
        self.non_negative: set[str] = set()  #: nodes
        self.pads: dict[str, Operation] = {}  #: value -> the padding that gives it
        self.affine: dict[str, Operation] = {}  #: value -> the factor or shift of a vector that gives it
        self.flattened: dict[str, tuple[int, ...]] = {}  #: value of a flatten in the order of HWC -> (C, H, W)
        self.uses: dict[str, Use] = {}  #: name of an array in the source -> the first layer that has it
        self.alone = program.single_consumers()
        self.cells: Mapping[str, Callable[[Operation], None]] = {
            "conv2d": self._conv2d,
            "dense": self._dense,
            "batch_norm": self._batch_norm,
            "activation": self._activation,
            "clip": self._activation,
            "add": self._add,
            "mul": self._mul,
            "elementwise": self._unknown,
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
            if name not in self.node_of and name in self.affine:
                self.refused.append((self.affine[name], "something that only a layer after it could take"))
        if self.refused:
            raise refusal(program.name, self.refused)
        if wrong := [name for name in program.outputs if name in self.flattened]:
            raise QatError(
                f"{program.name}: its output {wrong[0]} is flattened with channels last, and the graph has channels first; end "
                "the network before the flatten, or after the dense layer behind it (--outputs, or outputs=)"
            )
        graph = Graph(tuple(self.nodes), tuple(self.node_of[name] for name in program.outputs), program.name)
        return Imported(graph, self.params, self.sources, self.values)

    # -- one operation ------------------------------------------------------------------------------------------------

    def _cell(self, each: Operation) -> None:
        """Make the cell of an operation, or note why there is none."""
        before = set(self.taken)
        try:
            self.cells[each.kind](each)
        except LostError:
            pass
        except RefusedError as refused:
            if all(refused.each is not other for other, _ in self.refused):
                self.refused.append((refused.each, refused.what))
        except QatError as error:  # a cell's own checks
            self.refused.append((each, str(error)))
        else:
            return
        self.lost |= {each.output} | (self.taken - before)

    def _unknown(self, each: Operation) -> None:
        raise RefusedError(each, str(each.attributes["of" if each.kind == "unknown" else "function"]))

    def _conv2d(self, each: Operation) -> None:
        weight, options, group = each.constants["weight"], each.attributes, each.attributes["groups"]
        source, padding = self._unpadded(each, options["padding"])
        cell = Conv2dBnAct(
            weight.shape[1] * group,
            weight.shape[0],
            (weight.shape[2], weight.shape[3]),
            stride=options["stride"],
            dilation=options["dilation"],
            group=group,
            **placed(padding),
        )
        self._linear(each, cell, source, Layer.of(each))

    def _dense(self, each: Operation) -> None:
        outputs, inputs = each.constants["weight"].shape
        layer, source = Layer.of(each), each.inputs[0]
        while (before := self.affine.get(source)) is not None:
            factor, shift = factor_and_shift(before, inputs, 1)
            weight = layer.own["weight"]
            shifted = layer.own.get("bias", np.zeros(outputs, np.float32)) + weight @ shift
            layer.own |= {"weight": weight * factor, "bias": shifted}
            layer.origin |= before.sources
            layer.sources.clear()
            source = before.inputs[0]
        if len(self._shape(source)) != 1:
            raise RefusedError(each, f"a dense layer over {self._shape(source)}: of the last axis alone")
        image = self.flattened.get(source)
        if image is not None:  # its columns stand in the order of a source that has channels last
            channels, height, width = image
            weight = layer.own["weight"].reshape(outputs, height, width, channels).transpose(0, 3, 1, 2)
            layer.own["weight"] = weight.reshape(outputs, inputs)
        self._linear(each, DenseBnAct(inputs, outputs, has_bias=False), source, layer)

    def _linear(self, each: Operation, cell: Any, source: str, layer: Layer) -> None:
        """A convolution or dense layer with all that follows it alone."""
        value = each.output
        while (after := self.alone.get(value)) is not None and layer.takes(after):
            value = self._taken(after)
        value, activation = self._activated(value)
        fields = {"has_bias": "bias" in layer.own, "has_bn": layer.has_bn, **layer.fields, **activation}
        self._layer(each, replace(cell, **fields), source, layer, value)

    def _layer(self, each: Operation, cell: Cell, source: str, layer: Layer, value: str) -> None:
        """The node of a layer with parameters: of one that was used before, a second node."""
        use = Use("", cell, layer)
        for local, name in layer.origin.items():
            earlier = self.uses.get(name)
            if earlier is not None and earlier.is_same(use):
                self._node(each, cell, source, value=value, cell_name=earlier.node)
                return
            if earlier is not None and self.program.ties:
                raise RefusedError(
                    each,
                    f"a layer that shares {name} with {earlier.node}, but has another {unlike(earlier, use)}, so that they are "
                    f"no one cell; make them equal, or give it a {local} of its own",
                )
        use.node = self._node(each, cell, source, value=value)
        for name in layer.origin.values():
            self.uses.setdefault(name, use)
        for local, array in layer.own.items():
            self.params[f"{use.node}.{local}"] = np.array(array, np.float32, order="C")  # a copy
            if source_name := layer.sources.get(local):
                self.sources[f"{use.node}.{local}"] = source_name

    def _batch_norm(self, each: Operation) -> None:
        shape = self._shape(each.inputs[0])
        if len(shape) != 3:
            self._before_dense(each, "a batch normalisation of a vector that no dense layer stands beside")
            return
        layer = Layer({"weight": np.ones((shape[0], 1), np.float32)}, {}, {})
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
            raise RefusedError(each, f"an addition of {a} and {b}")
        value, activation = self._activated(each.output, RELU_BOUNDS)
        self._node(each, Add(activation.get("activation")), *each.inputs, value=value)

    def _mul(self, each: Operation) -> None:
        if len(each.inputs) == 2:
            raise RefusedError(each, "a multiplication of two values")
        self._affine(each)

    def _affine(self, each: Operation) -> None:
        """A constant for each channel that no layer before takes: a cell of its own, or of a vector, part of the next."""
        shape = self._shape(each.inputs[0])
        if per_channel(each, shape[0], len(shape)) is None:
            raise RefusedError(
                each, f"{called(each)} of a constant {each.constants['other'].shape}, not one for each channel"
            )
        if len(shape) != 3:
            self._before_dense(each, f"{called(each)} of a constant to a vector that no dense layer stands beside")
            return
        factor, shift = factor_and_shift(each, shape[0], 3)
        value = each.output
        while (after := self.alone.get(value)) is not None and after.kind in ("mul", "add"):
            if per_channel(after, shape[0], len(shape)) is None:
                break
            more = factor_and_shift(after, shape[0], 3)
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
            raise RefusedError(each, otherwise)
        if each.inputs[0] not in self.affine:
            self._given(each, each.inputs[0])
        self.affine[each.output] = each

    def _activation(self, each: Operation) -> None:
        fields = activation_of(each)
        if fields is None:
            raise RefusedError(each, called(each))
        self._node(each, Activation(fields.pop("activation"), **fields), each.inputs[0])

    def _max_pool2d(self, each: Operation) -> None:
        if tuple(each.attributes.get("dilation", (1, 1))) != (1, 1):
            raise RefusedError(each, f"a max pooling of dilation {each.attributes['dilation']}")
        self._pool(each, MaxPool2d)

    def _avg_pool2d(self, each: Operation) -> None:
        own = self._resolved(each, each.attributes["padding"])
        if any(own) and not each.attributes["counts_padding"]:
            raise RefusedError(each, "an average pooling whose padding does not count")
        self._pool(each, AvgPool2d)

    def _pool(self, each: Operation, cell: Any) -> None:
        options = each.attributes
        source, padding = self._unpadded(each, options["padding"])
        if options.get("ceil"):
            own = self._resolved(each, padding)
            padding = with_ceil(options, self._shape(source), own)
            if padding != own and cell is AvgPool2d:
                raise RefusedError(each, "an average pooling with ceil_mode whose last windows are smaller")
        self._node(each, cell(options["kernel"], options["stride"], **placed(padding)), source)

    def _mean(self, each: Operation) -> None:
        if tuple(sorted(each.attributes["axes"])) != (2, 3) or len(self._shape(each.inputs[0])) != 3:
            raise RefusedError(each, f"a mean over axes {tuple(each.attributes['axes'])}, not height and width")
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
            raise RefusedError(each, f"a concatenation along axis {each.attributes['axis']}, not of channels")
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
            raise RefusedError(each, f"a softmax along axis {each.attributes['axis']}, not of channels")
        self._node(each, Softmax(), each.inputs[0])

    def _pad(self, each: Operation) -> None:
        widths = each.attributes["widths"]
        if len(widths) != 4 or any(map(any, widths[:2])) or min(map(min, widths)) < 0:
            raise RefusedError(each, f"a padding of {tuple(map(tuple, widths))}, not only around images")
        if each.inputs[0] not in self.pads:
            self._given(each, each.inputs[0])
        self.pads[each.output] = each
        if each.output in self.program.outputs:
            self._padded(each)

    def _padded(self, each: Operation) -> None:
        """Zeros that no layer takes: a 1x1 depthwise convolution of ones, which pads."""
        channels = self._shape(each.inputs[0])[0]
        source, padding = self._unpadded(each, NO_PADDING)
        if each.attributes["value"] != 0.0:
            raise RefusedError(each, f"a padding with {each.attributes['value']:g}, not 0")
        _, _, rows, columns = each.attributes["widths"]
        padding = tuple(a + b for a, b in zip((*rows, *columns), padding, strict=True))
        node = self._node(each, Conv2dBnAct(channels, channels, 1, group=channels, **placed(padding)), source)
        self.params[f"{node}.weight"] = np.ones((channels, 1, 1, 1), np.float32)

    # -- what they share ----------------------------------------------------------------------------------------------

    def _unpadded(self, each: Operation, padding: Any) -> tuple[str, Any]:
        """What an operation takes before the paddings that it can take too, and all their widths."""
        value = each.inputs[0]
        while (pad := self.pads.get(value)) is not None:
            number, source = pad.attributes["value"], pad.inputs[0]
            if each.kind == "max_pool2d":
                begins = source
                while begins in self.pads:
                    begins = self.pads[begins].inputs[0]
                if number == 0.0 and self._given(each, begins) not in self.non_negative:
                    return value, padding  # zeros may be the largest numbers
                if number not in (0.0, -math.inf):
                    raise RefusedError(pad, f"a padding with {number:g} before a max pooling")
            elif number != 0.0:
                raise RefusedError(pad, f"a padding with {number:g}, not 0")
            elif (
                each.kind == "avg_pool2d"
                and any(self._resolved(each, padding))
                and not each.attributes["counts_padding"]
            ):
                raise RefusedError(pad, "a padding before an average pooling whose own does not count")
            _, _, rows, columns = pad.attributes["widths"]
            own = self._resolved(each, padding)
            padding = tuple(a + b for a, b in zip((*rows, *columns), own, strict=True))
            value = source
        return value, padding

    def _resolved(self, each: Operation, padding: Any) -> Padding:
        return resolved(each, self._shape(each.inputs[0]), padding)

    def _activated(self, value: str, functions: Container[str] = ALL_ACTIVATIONS) -> tuple[str, dict[str, Any]]:
        """The value behind an activation that follows alone, and the cell's fields for it."""
        after = self.alone.get(value)
        fields = None if after is None else activation_of(after)
        if after is None or fields is None or fields["activation"] not in functions:
            return value, {}
        return self._taken(after), fields

    def _taken(self, each: Operation) -> str:
        self.taken.add(each.output)
        return each.output

    def _shape(self, value: str) -> tuple[int, ...]:
        if value in self.lost:  # it may have no known shape
            raise LostError
        return self.program.shapes[value]

    def _given(self, each: Operation, value: str) -> str:
        """The node that gives what an operation takes."""
        if value in self.lost:
            raise LostError
        if value in self.affine:
            raise RefusedError(self.affine[value], f"{called(self.affine[value])} before {called(each)}")
        if value in self.pads and value not in self.node_of:
            self._padded(self.pads[value])
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
            raise RefusedError(each, f"{called(each)} of what is flattened with channels last")
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
            self.values[node] = value

    def _name(self, wanted: str) -> str:
        """A name that no node has yet."""
        name, number = wanted, 1
        while name in self.names:
            number += 1
            name = f"{wanted}_{number}"
        self.names.add(name)
        return name
