"""A Keras 3 model, functional or Sequential, or a file of one (.keras, or Keras 2's .h5), as plain operations.

Keras records the calls of layers on symbolic tensors; this reads the record, models within models included. Values have
channels last there mostly, and are brought into (N, C, H, W) here, where it is known what their axes mean
(``qat.imports.sources.keras_calls.Layout``).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np

from qat.errors import QatError
from qat.imports.program import Operation, Program
from qat.imports.source import Opened
from qat.imports.sources.keras_calls import BEFORE, Call, Layout, Step, Value, own_class, unknown
from qat.imports.sources.keras_file import load
from qat.imports.sources.keras_layers import LAYERS
from qat.imports.sources.keras_moves import OF_SEVERAL
from qat.imports.sources.keras_operations import OPERATIONS
from qat.reading import reason_of
from qat.vocabulary.arrays import ArraySpec
from qat.vocabulary.ops import Array

#: Operations that give an input other axes; the program's input has these axes already.
ARRANGING = ("Reshape", "ExpandDims", "Squeeze")


def open_file(path: str | Path, input_shape: Sequence[int] | None = None, name: str | None = None) -> Opened:
    """Read a .keras or .h5 file. Nothing in it is executed.

    Args:
        path: of the file.
        input_shape: as for ``open_model``.
        name: of the network; that of the file by default.

    Returns:
        Its operations, and the model itself.

    Raises:
        QatError: the file cannot be read, has layers whose code it brings or that are not Keras's own, or as ``open_model``.
    """
    return open_model(load(path), None, input_shape, name or Path(path).stem)


def open_model(
    model: Any, example: Any = None, input_shape: Sequence[int] | None = None, name: str | None = None
) -> Opened:
    """Read a model, in evaluation mode. It is not changed.

    Args:
        model: functional or Sequential, and built.
        example: not needed, as the model knows its inputs; None.
        input_shape: (C, H, W) or (F,) of one sample, where the model leaves sizes open.
        name: of the network; the model's by default.

    Returns:
        Its operations, and the model itself.

    Raises:
        QatError: it is a subclass whose calls Keras does not record, computes in float16, or a size is not known.
    """
    del example
    name = name or str(getattr(model, "name", type(model).__name__))
    recorded = _recorded(model, name)
    _check_precision(recorded, name)
    reader = _Reader(name, Layout(_is_channels_first(recorded)))
    program = reader.program(recorded, None if input_shape is None else tuple(input_shape))
    return Opened(program, reader.trace, tuple(reader.notes))


def _recorded(model: Any, name: str) -> Any:
    """The record of a model's calls."""
    recorded = getattr(model, "_functional", None) if isinstance(model, keras.Sequential) else model
    if recorded is None:
        raise QatError(
            f"{name}: is a Sequential model that is not built yet; begin it with keras.Input(shape), or call "
            "model.build((None, ...))"
        )
    if not isinstance(recorded, keras.Model) or not hasattr(recorded, "_nodes_by_depth"):
        raise QatError(
            f"{name}: is of the class {type(model).__name__}, whose calls of layers Keras does not record; record them: x = "
            "keras.Input(shape), and give keras.Model(x, model.call(x))"
        )
    if own_class(model) is None:
        raise QatError(
            f"{name}: its class {type(model).__name__} has a call of its own, which may compute something else than the layers "
            "that Keras recorded; give keras.Model(model.inputs, model.outputs)"
        )
    return recorded


def _nodes(model: Any) -> Iterator[Any]:
    """The calls that a model records, each after what it takes."""
    for depth in sorted(model._nodes_by_depth, reverse=True):
        yield from model._nodes_by_depth[depth]


def _is_model(operation: Any) -> bool:
    """Whether it is a model within another, whose calls are recorded."""
    inner = getattr(operation, "_functional", None) if isinstance(operation, keras.Sequential) else operation
    return isinstance(inner, keras.Model) and hasattr(inner, "_nodes_by_depth") and own_class(operation) is not None


def _operations(model: Any) -> Iterator[Any]:
    """The layers and operations of a model and of the models within it."""
    for node in _nodes(model):
        if _is_model(node.operation):
            yield from _operations(_recorded(node.operation, node.operation.name))
        else:
            yield node.operation


def _is_channels_first(model: Any) -> bool:
    """By the first layer that says so; Keras's own setting where none does."""
    found = (getattr(each, "data_format", None) for each in _operations(model))
    return bool(next((x for x in found if x is not None), keras.config.image_data_format()) == "channels_first")


def _check_precision(model: Any, name: str) -> None:
    for each in _operations(model):
        dtype = getattr(each, "compute_dtype", None)
        if dtype in ("float16", "bfloat16"):
            raise QatError(
                f"{name}: {each.name} computes in {dtype}, so that its numbers are coarser than those of an imported network; "
                "make the model with keras.config.set_dtype_policy('float32') and load the weights into that"
            )


@dataclass(frozen=True)
class _Called:
    """A layer or operation, called: what Keras recorded, and the names of the values that it takes (by the ids of their
    tensors) and gives.
    """

    node: Any
    taken: dict[int, str]
    given: tuple[str, ...]


class _Reader:
    def __init__(self, name: str, layout: Layout) -> None:
        self.name, self.layout = name, layout
        self.operations: list[Operation] = []
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.sizes: dict[str, tuple[int, ...]] = {}  #: of values that Keras has
        self.calls: list[_Called] = []
        self.inputs: dict[str, ArraySpec] = {}
        self.open = False  #: whether the model leaves sizes open, so that its symbolic tensors do not tell them
        self.notes: list[str] = []

    def program(self, model: Any, input_shape: tuple[int, ...] | None) -> Program:
        scope: dict[int, Value] = {}
        skipped = set()
        for number, (tensor, sizes) in enumerate(zip(model.inputs, self._input_sizes(model, input_shape), strict=True)):
            name = self._new("input" if len(model.inputs) == 1 else f"input{number}")
            arranged = self._arranged(model, tensor, name, sizes)
            if arranged is not None:
                skipped.add(id(arranged))
                sizes = tuple(arranged.outputs[0].shape[1:])
                scope[id(arranged.outputs[0])] = Value(name, sizes)
            scope[id(tensor)] = self._value(name, sizes)
            self.inputs[name] = ArraySpec(self.shapes[name], "float32")
        self._model(model, "", scope, skipped)
        outputs = tuple(scope[id(tensor)].name for tensor in model.outputs)
        return Program(self.name, self.inputs, tuple(self._used(outputs)), outputs, self.shapes, ties=True)

    def trace(self, samples: tuple[Array, ...], values: Collection[str]) -> dict[str, Array]:
        """What the model's own layers compute; names of values that are none of Keras's are left out."""
        wanted = set(values)
        found: dict[str, Any] = {}
        for x, name in zip(samples, self.inputs, strict=True):
            original = self.layout.original(np.asarray(x, np.float32), self.sizes[name])
            found[name] = keras.ops.convert_to_tensor(original)
        for call in self.calls:
            args, kwargs = call.node.arguments.fill_in({key: found[name] for key, name in call.taken.items()})
            if isinstance(call.node.operation, keras.layers.Layer):
                kwargs["training"] = False  # as in evaluate and predict, whatever the call says
            given = keras.tree.flatten(call.node.operation(*args, **kwargs))
            found.update(zip(call.given, given, strict=True))
        return {name: self._canonical(name, found[name]) for name in wanted if name in found}

    def _canonical(self, name: str, tensor: Any) -> Array:
        array = np.asarray(keras.ops.convert_to_numpy(tensor), np.float32)
        return self.layout.canonical(array.reshape(len(array), *self.sizes[name]))

    # -- inputs and sizes ---------------------------------------------------------------------------------------------

    def _input_sizes(self, model: Any, input_shape: tuple[int, ...] | None) -> list[tuple[int, ...]]:
        """Of each input, in Keras."""
        found = [tuple(tensor.shape[1:]) for tensor in model.inputs]
        if input_shape is None:
            if any(None in sizes for sizes in found):
                raise QatError(
                    f"{self.name}: its input has shape {found[0] if len(found) == 1 else found}, and None is any size, but a "
                    "network for deployment has one; give input_shape, (C, H, W) of one sample"
                )
            return found
        if len(found) > 1:
            raise QatError(
                f"{self.name}: has {len(found)} inputs, and input_shape is that of one; give each its size in keras.Input"
            )
        (sizes,), first = found, self.layout.channels_first
        given = input_shape[:2] if len(sizes) == 2 and len(input_shape) == 3 else input_shape
        given = given if first or len(given) < 2 else (*given[1:], given[0])
        if len(given) != len(sizes) or any(a not in (None, b) for a, b in zip(sizes, given, strict=True)):
            raise QatError(
                f"{self.name}: takes samples of shape {sizes} as Keras orders them, but input_shape {input_shape} (channels "
                f"first) is {given} there; give a shape that fits, or leave it out"
            )
        self.open = None in sizes
        return [given]

    def _arranged(self, model: Any, tensor: Any, name: str, sizes: tuple[int, ...]) -> Any:
        """The call that does nothing but give an input other axes, and alone takes it; None where there is none."""
        taking = [node for node in _nodes(model) if any(each is tensor for each in node.arguments.keras_tensors)]
        if len(taking) != 1 or any(each is tensor for each in model.outputs):
            return None
        (node,) = taking
        after = tuple(node.outputs[0].shape[1:])
        cls = own_class(node.operation)
        if cls is None or cls.__name__ not in ARRANGING or None in after or len(after) not in (2, 3) or after == sizes:
            return None
        self.notes.append(
            f"{name} takes what {node.operation.name} makes of it, {self.layout.shape(after)} channels first, instead of "
            f"{sizes}"
        )
        return node

    def _new(self, wanted: str) -> str:
        name, number = wanted, 1
        while name in self.shapes:
            number += 1
            name = f"{wanted}_{number}"
        self.shapes[name] = ()
        return name

    def _value(self, name: str, sizes: tuple[Any, ...]) -> Value:
        """A value that Keras has, of a new name."""
        if None in sizes:
            raise QatError(
                f"{self.name}: what {name} gives has shape {sizes}, and None is any size, but a network for deployment has "
                "one; give input_shape, (C, H, W) of one sample, or say the size in the layer"
            )
        self.sizes[name], self.shapes[name] = sizes, self.layout.shape(sizes)
        return Value(name, sizes)

    # -- calls --------------------------------------------------------------------------------------------------------

    def _model(self, model: Any, prefix: str, scope: dict[int, Value], skipped: Collection[int] = ()) -> None:
        for node in _nodes(model):
            operation = node.operation
            name = f"{prefix}{operation.name}"
            if not node.arguments.keras_tensors or id(node) in skipped:  # inputs, which are in scope
                continue
            if _is_model(operation):
                inner = _recorded(operation, name)
                taken = (scope[id(each)] for each in node.arguments.keras_tensors)
                within = dict(zip(map(id, inner.inputs), taken, strict=True))
                self._model(inner, f"{name}/", within)
                for outer, tensor in zip(node.outputs, inner.outputs, strict=True):
                    scope[id(outer)] = within[id(tensor)]
            else:
                self._call(node, name, scope)

    def _call(self, node: Any, name: str, scope: dict[int, Value]) -> None:
        operation = node.operation
        taken = {id(each): scope[id(each)] for each in node.arguments.keras_tensors}
        given = [self._value(self._new(name), sizes) for sizes in self._output_sizes(node, name, taken)]
        scope.update(zip(map(id, node.outputs), given, strict=True))
        names = {key: value.name for key, value in taken.items()}
        self.calls.append(_Called(node, names, tuple(value.name for value in given)))
        values = tuple(taken[id(each)] for each in node.arguments.keras_tensors)
        args, kwargs = node.arguments.fill_in(taken)
        call = Call(operation, values, given[0].sizes, (*args, *kwargs.values()), self.layout)
        cls = own_class(operation)
        part = OF_SEVERAL.get(cls.__name__) if cls is not None else None
        several = [unknown(f"{call.name} with {len(given)} outputs")]
        for place, value in enumerate(given):
            if part is not None:
                steps = list(part(replace(call, given=value.sizes), place)) or [Step("identity")]
            else:
                steps = several if len(given) > 1 else _steps(call)
            self._emit(name, tuple(each.name for each in values), value, steps)

    def _output_sizes(self, node: Any, name: str, taken: dict[int, Value]) -> list[tuple[int, ...]]:
        if not self.open:
            return [tuple(each.shape[1:]) for each in node.outputs]
        dtypes = {id(each): each.dtype for each in node.arguments.keras_tensors}
        specs = {key: keras.KerasTensor((None, *value.sizes), dtypes[key]) for key, value in taken.items()}
        args, kwargs = node.arguments.fill_in(specs)
        try:
            given = node.operation.compute_output_spec(*args, **kwargs)
        except Exception as error:  # of many kinds
            raise QatError(
                f"{self.name}: {name} cannot take what that input_shape gives it ({reason_of(error)}); give another input_shape"
            ) from None
        return [tuple(each.shape[1:]) for each in keras.tree.flatten(given)]

    def _emit(self, name: str, taken: tuple[str, ...], result: Value, steps: list[Step]) -> None:
        before, made = "", dict[str, str]()
        for number, step in enumerate(steps):
            last = number == len(steps) - 1
            value = result.name if last else self._new(f"{name}/{step.part or step.kind}")
            if not last:
                self.shapes[value] = step.shape or self.layout.shape(result.sizes)
            given = (before,) if step.inputs is None and before else step.inputs or taken
            self.operations.append(
                Operation(
                    step.kind,
                    f"{name}/{step.part}" if step.part else name,
                    tuple(before if each == BEFORE else made.get(each, each) for each in given),
                    value,
                    dict(step.attributes),
                    {local: array for local, (_, array) in step.constants.items()},
                    {local: f"{name}/{source}" for local, (source, _) in step.constants.items() if source},
                )
            )
            before = made[step.part] = value

    def _used(self, outputs: Collection[str]) -> list[Operation]:
        """The operations whose results matter, in order."""
        needed, kept = set(outputs), []
        for each in reversed(self.operations):
            if each.output in needed:
                kept.append(each)
                needed |= set(each.inputs)
        return kept[::-1]


def _steps(call: Call) -> list[Step]:
    """What a call computes; an "unknown" step where that is not known."""
    operation = call.operation
    cls = own_class(operation)
    table = LAYERS if isinstance(operation, keras.layers.Layer) else OPERATIONS
    reader = table.get(cls.__name__) if cls is not None else None
    if reader is None:
        return [unknown(call.name)]
    if getattr(operation, "quantization_mode", None) is not None:
        return [unknown(f"{call.name} quantized by Keras")]
    data_format = getattr(operation, "data_format", None)
    matters = data_format is not None and call.taken[0].rank > 2 and call.name != "Flatten"
    if matters and (data_format == "channels_first") != call.layout.channels_first:
        return [unknown(f"{call.name} with data_format {data_format} in a network of the other")]
    return list(reader(call)) or [Step("identity")]
