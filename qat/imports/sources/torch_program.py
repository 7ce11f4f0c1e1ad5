"""What torch.export captured, as plain operations, and computed value by value.

``torch.export`` without decompositions keeps convolutions, normalisations and activations whole, and the name of the module and
the line of the user's file of each.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from qat.errors import QatError
from qat.imports.program import Operation, Program
from qat.imports.source import Opened
from qat.imports.sources.places import FIRST, Place
from qat.imports.sources.torch_call import Call, Constant, Reader, Step, UnknownOperationError
from qat.imports.sources.torch_constants import OF_SIZES, Constants
from qat.imports.sources.torch_layout import PERMUTES, RESHAPES, order_of, placed
from qat.imports.sources.torch_moves import OF_SEVERAL
from qat.imports.sources.torch_node import (
    arguments_of,
    dtype_of,
    first_of,
    is_in_place,
    line_of,
    name_of,
    namespace_of,
    nodes_of,
    target_of,
)
from qat.imports.sources.torch_operations import FOLDED, READERS, VIEWS
from qat.imports.sources.torch_recurrent import RECURRENT, Recurrence
from qat.vocabulary.arrays import ArraySpec
from qat.vocabulary.ops import Array

BATCH = 16  #: samples that a program of any batch size computes at once


def opened(exported: Any, name: str) -> Opened:
    """A captured program as a source.

    Args:
        exported: a ``torch.export.ExportedProgram``.
        name: of the network.

    Returns:
        Its operations, and how it computes them.

    Raises:
        QatError: it takes or holds what is no float32, its sizes are not fixed, or it gives no tensor.
    """
    reader = _Reader(exported, name)
    return Opened(reader.program(), reader.trace)


class _Reader:
    def __init__(self, exported: Any, name: str) -> None:
        self.name, self.nodes = name, list(exported.graph.nodes)
        self.signature = exported.graph_signature
        self.constants = Constants(exported, name)
        self.tensors, self.sources = self.constants.tensors, self.constants.sources
        self.inputs: dict[str, ArraySpec] = {}
        self.batch: int | None = None  #: that it was captured with; None: any
        self.shapes: dict[str, tuple[Any, ...]] = {}  #: with the batch
        self.places: dict[str, Place] = {}  #: of the samples, where they are not in front
        self.operations: dict[str, Operation] = {}
        self.now: dict[str, str] = {}  #: value -> what it is since an operation changed it in place
        self.base: dict[str, str] = {}  #: value -> the one whose memory it is a view of
        self.spoiled: set[str] = set()  #: values that were changed in place through another one of their memory

    # -- the program ----------------------------------------------------------------------------------------------------

    def program(self) -> Program:
        self._check()
        outputs: tuple[str, ...] = ()
        for node in self.nodes:
            value = first_of(node.meta.get("val"))
            if isinstance(value, torch.Tensor):
                self.shapes[node.name] = tuple(value.shape)
            if node.op == "placeholder":
                self._input(node, value)
            elif node.op == "output":
                outputs = self._outputs(node)
            elif node.op == "call_function":
                self._operation(node)
        shapes = {name: self._sizes(name) for name in (*self.inputs, *self.operations)}
        operations = tuple(self.operations.values())
        return Program(self.name, self.inputs, operations, outputs, shapes, ties=True)

    def _check(self) -> None:
        """Raise QatError where it changes its own state, or holds other numbers than float32."""
        for spec in self.signature.output_specs:
            if spec.kind.name not in ("USER_OUTPUT", "LOSS_OUTPUT"):
                raise QatError(
                    f"{self.name}: forward changes {spec.target or 'its input'}, which a graph of cells cannot; leave that out"
                )
        for node, tensor in self.tensors.items():
            if (tensor.is_floating_point() or tensor.is_complex()) and tensor.dtype != torch.float32:
                raise QatError(
                    f"{self.name}: {self.sources[node]} is {dtype_of(tensor)}, but networks are imported in float32; call "
                    "module.float() first"
                )

    def _input(self, node: Any, value: Any) -> None:
        if node.name in self.tensors or node.name not in self.signature.user_inputs:
            return
        if not isinstance(value, torch.Tensor):
            return  # a number, which is part of the program
        if value.dtype != torch.float32:
            raise QatError(
                f"{self.name}: its input {node.name} is {dtype_of(value)}, but networks take real numbers, float32, here; give "
                "an example as float32 (pixels too: x.float()), and leave integer or complex inputs to the code around it"
            )
        if value.ndim < 2:
            raise QatError(
                f"{self.name}: its input {node.name} has shape {tuple(value.shape)}; give a batch of samples, (N, C, H, W) or "
                "(N, F)"
            )
        fixed = isinstance(value.shape[0], int)
        if fixed and self.batch not in (None, value.shape[0]):
            raise QatError(
                f"{self.name}: its inputs have other batch sizes than one another; give equally many samples of each"
            )
        self.batch = value.shape[0] if fixed else self.batch
        self.inputs[node.name] = ArraySpec(self._sizes(node.name), "float32")

    def _sizes(self, name: str) -> tuple[int, ...]:
        """The shape of one sample."""
        sizes = self.shapes.get(name, ())[1:]
        if name in self.places and self.batch is not None:
            sizes = self.places[name].canonical_shape(self.shapes[name], self.batch)[1:]
        for axis, size in enumerate(sizes, 1):
            if not isinstance(size, int):
                raise QatError(
                    f"{self.name}: the size of {name} along axis {axis} is not fixed ({size}), but cells need sizes; export it "
                    "with that axis fixed: the batch alone may be dynamic"
                )
        return tuple(sizes)

    def _outputs(self, node: Any) -> tuple[str, ...]:
        given = [each for each in node.args[0] if each is not None]
        for each in given:
            if not isinstance(each, torch.fx.Node) or each.name not in self.shapes or each.name in self.tensors:
                raise QatError(
                    f"{self.name}: one of its outputs is {getattr(each, 'name', each)!r}, which depends on no input; return "
                    "computed tensors only"
                )
            if (place := self.places.get(self._current(each))) is not None:
                raise QatError(
                    f"{self.name}: one of its outputs is {each.name} {self.shapes[each.name]}, whose samples are along axis "
                    f"{place.axis}; return tensors whose first axis is that of the samples alone"
                )
        return tuple(self._current(each) for each in given)

    # -- one operation --------------------------------------------------------------------------------------------------

    def _operation(self, node: Any) -> None:
        taken = list(nodes_of(node.args)) + list(nodes_of(node.kwargs))
        if node.target is operator.getitem:
            self._item(node)
            return
        if node.name not in self.shapes:  # a size, or a check of one
            return
        target = target_of(node)
        fixed = all(each.name in self.tensors for each in taken)
        if target in OF_SIZES and not fixed and namespace_of(node) == "aten.":
            fixed = self.constants.sized(node)
        if fixed and node.name in self.tensors:
            return
        if fixed and self.constants.fold(node, target):
            return
        known = namespace_of(node) == "aten." and not fixed
        if known and target in RECURRENT:
            self._recurrent(node, target)
        elif not (known and target in OF_SEVERAL):  # else each result is an operation
            self._add(node, node, READERS.get(target) if known else None)

    def _add(self, node: Any, called: Any, reader: Reader | None) -> None:
        """Note an operation, whose value is that of a node. called: the node that calls it."""
        taken, target = [*nodes_of(called.args), *nodes_of(called.kwargs)], target_of(called)
        inputs, constants, what = [], {}, f"{namespace_of(called)}{target}"
        arguments = arguments_of(called)
        try:
            for each in taken:
                if each.name not in self.tensors and each.name in self.shapes:
                    inputs.append(self._current(each))
            if set(inputs) & self.spoiled:
                raise UnknownOperationError(f"{what} of what was changed in place through a view of it")
            if reader is None:
                raise UnknownOperationError(what)
            step = self._step(reader, self._call(target, arguments, node.name), inputs, node.name)
            if (given := first_of(node.meta["val"]).dtype) != torch.float32:
                raise UnknownOperationError(f"{what} giving {str(given).removeprefix('torch.')}")
            kind, attributes = step.kind, step.attributes
            if kind == "concat" and len(inputs) < len(taken):
                constants = self._parts(taken, what)
            for local, given in step.constants.items():
                found = given if isinstance(given, tuple) else self.constants.constant(arguments[given])
                if found is not None:
                    constants[local] = found
        except UnknownOperationError as unknown:
            kind, attributes, constants = "unknown", {"of": str(unknown)}, {}
        self.operations[node.name] = Operation(
            kind,
            name_of(called, target),
            tuple(inputs),
            node.name,
            attributes,
            {local: array for local, (array, _) in constants.items()},
            {local: source for local, (_, source) in constants.items() if source},
            line_of(called.meta.get("stack_trace") or ""),
        )
        if target in VIEWS and inputs:
            self.base[node.name] = self.base.get(inputs[0], inputs[0])
        if is_in_place(called) and inputs:
            self._changed(inputs[0], node.name)

    def _recurrent(self, node: Any, kind: str) -> None:
        """Note the layers of a GRU or LSTM, and the states that are taken of it."""
        arguments = arguments_of(node)
        x, where = self._current(arguments[0]), line_of(node.meta.get("stack_trace") or "")
        whole = Operation(kind, name_of(node, kind), (x,), node.name, where=where)
        place = self.places.get(x, FIRST)
        shape = self.shapes[x] if place == FIRST else place.canonical_shape(self.shapes[x], self.batch or 1)
        found = Recurrence(whole, arguments, shape, place)
        try:
            if len(arguments) != 9 or isinstance(arguments[1], bool):
                raise UnknownOperationError(f"aten.{kind} of packed sequences")
            listed = found.listed(lambda each: self.constants.constant(each) if self._is_constant(each) else None)
        except UnknownOperationError as unknown:
            self.operations[node.name] = replace(whole, kind="unknown", attributes={"of": str(unknown)})
            return
        for value, (operation, sizes) in listed.items():
            self.operations[value] = operation
            if value != node.name:
                self.shapes[value] = sizes
        if found.steps_first:
            self.places[node.name] = found.result_place
        for item in node.users:
            if item.target is operator.getitem and item.args[1] == 1:
                self.operations[item.name] = found.final(whole.name, item.name)
                self.places[item.name] = Place(1)

    def _is_constant(self, each: Any) -> bool:
        return isinstance(each, torch.fx.Node) and each.name in self.tensors

    def _step(self, reader: Reader, call: Call, inputs: Sequence[str], value: str) -> Step:
        """What a call is, wherever it has its samples; where the result has them is noted."""
        if self.batch is None or not inputs:
            return reader(call)
        ranks = {len(self.shapes[name]) for name in inputs}
        places = {self.places.get(name, FIRST) for name in inputs}
        moves = call.target in PERMUTES or call.target in RESHAPES
        if places == {FIRST} and not (moves and self._moves_samples(call)):
            return reader(call)
        if len(places) > 1 or len(ranks) > 1:
            raise UnknownOperationError(f"aten.{call.target} of values whose samples are along unlike axes")
        (place,) = places
        found, after = placed(call, place, self.batch)
        if after != FIRST:
            self.places[value] = after
        return found if isinstance(found, Step) else reader(found)

    def _parts(self, taken: Sequence[Any], what: str) -> dict[str, Constant]:
        """The constants among what is joined, of one sample."""
        found: dict[str, Constant] = {}
        for place, each in enumerate(taken):
            if (tensor := self.tensors.get(each.name)) is None:
                continue
            if each.name in self.places or not bool((tensor == tensor[:1]).all()):
                raise UnknownOperationError(f"{what} with a constant of the samples")
            found[str(place)] = (tensor[0].detach().cpu().numpy().astype(np.float32), self.sources.get(each.name, ""))
        if any(name in self.places for name in (self._current(each) for each in taken)):
            raise UnknownOperationError(f"{what} with a constant")
        return found

    def _moves_samples(self, call: Call) -> bool:
        """Whether samples that are in front are elsewhere in what a move gives."""
        if call.target in PERMUTES:
            return order_of(call)[0] != 0
        return math.prod(call.shape) == math.prod(call.input_shape) and call.shape[:1] != call.input_shape[:1]

    def _changed(self, value: str, by: str) -> None:
        """Note that an operation changed a value in place, and with it all values of its memory."""
        root = self.base.get(value, value)
        for other in [name for name in self.shapes if self.base.get(name, name) == root and name != by]:
            if self.shapes[other] == self.shapes[by]:
                self.now[other] = by
            else:
                self.spoiled.add(other)
        self.base[by] = root

    def _current(self, node: Any) -> str:
        """The value of a node, as the operations before have left it."""
        name = str(node.name)
        while name in self.now and self.now[name] != name:
            name = self.now[name]
        return name

    def _item(self, node: Any) -> None:
        """A result of several: the first stands for the operation itself."""
        whole, place = node.args
        if whole.name in self.tensors:
            self.tensors[node.name] = self.tensors[whole.name][place]
            return
        if namespace_of(whole) == "aten." and (part := OF_SEVERAL.get(target_of(whole))) is not None:
            self._add(node, whole, lambda call: part(call, place))
            return
        made = self.operations.get(whole.name)
        if node.name in self.operations:  # of a recurrence
            return
        if made is not None and place and made.kind != "unknown" and node.users:
            self.operations[node.name] = Operation(
                "unknown", made.name, made.inputs, node.name, {"of": f"result {place} of {made.kind}"}, where=made.where
            )
            return
        self.now[node.name] = whole.name

    def _call(self, target: str, arguments: Sequence[Any], name: str) -> Call:
        shapes: list[tuple[Any, ...] | None] = []
        constants: dict[int, Constant] = {}
        for place, each in enumerate(arguments):
            of_tensor = isinstance(each, torch.fx.Node) and each.name in self.shapes
            shapes.append(self.shapes[each.name] if of_tensor else None)
            if of_tensor and each.name in self.tensors and (found := self.constants.constant(each)) is not None:
                constants[place] = found
        return Call(target, tuple(arguments), tuple(shapes), self.shapes[name], constants)

    # -- computing ------------------------------------------------------------------------------------------------------

    def trace(self, samples: tuple[Array, ...], values: Collection[str]) -> dict[str, Array]:
        """Values of the program for samples, as the captured operations compute them."""
        count, size = len(samples[0]), self.batch or BATCH
        parts = [self._batch(batch, values) for batch in _batches(samples, size, full=self.batch is not None)]
        return {name: np.concatenate([part[name] for part in parts])[:count] for name in values if name in parts[0]}

    def _batch(self, samples: tuple[Array, ...], values: Collection[str]) -> dict[str, Array]:
        wanted = set(values)
        for node in reversed(self.nodes):
            if node.name in wanted and node.op == "call_function":
                wanted |= {each.name for each in node.all_input_nodes}
                wanted |= set(self.operations[node.name].inputs) if node.name in self.operations else set()
        device = next((tensor.device for tensor in self.tensors.values()), torch.device("cpu"))
        known: dict[str, Any] = dict(self.tensors)
        known |= {name: torch.from_numpy(x.copy()).to(device) for name, x in zip(self.inputs, samples, strict=True)}
        found: dict[str, Array] = {}
        with torch.no_grad():
            for node in self.nodes:
                if node.name in wanted and node.op == "call_function" and node.name not in known:
                    self._check_run(node)
                    arguments, options = torch.fx.node.map_arg((node.args, node.kwargs), lambda each: known[each.name])
                    known[node.name] = node.target(*arguments, **options)
                if node.name in values:
                    array = first_of(known[node.name]).detach().cpu().numpy().astype(np.float32, copy=True)
                    place = self.places.get(node.name)
                    found[node.name] = array if place is None else place.canonical(array, self.batch or 1)
        return found

    def _check_run(self, node: Any) -> None:
        """Raise QatError where an operation could do more than compute."""
        if node.target is operator.getitem or not isinstance(node.meta.get("val"), (torch.Tensor, tuple, list)):
            return
        target = target_of(node)
        if namespace_of(node) != "aten." or not (
            target in READERS or target in FOLDED or target in OF_SEVERAL or target in RECURRENT
        ):
            raise QatError(
                f"{self.name}: {node.name} is {node.target}, which is not computed here; end before it (--outputs, or outputs=)"
            )


def _batches(samples: tuple[Array, ...], size: int, *, full: bool) -> Iterator[tuple[Array, ...]]:
    """Samples by ``size``; full: the last batch is filled up with its last sample."""
    for at in range(0, len(samples[0]), size):
        batch = tuple(x[at : at + size] for x in samples)
        missing = size - len(batch[0]) if full else 0
        yield tuple(np.concatenate([x, np.repeat(x[-1:], missing, axis=0)]) if missing else x for x in batch)
