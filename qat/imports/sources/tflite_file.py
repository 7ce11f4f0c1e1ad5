"""A float .tflite file as plain operations, channels first; constants behind a DEQUANTIZE are real numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from qat.child import Child, ChildError
from qat.errors import QatError, shortened
from qat.imports.program import Program
from qat.imports.source import Opened
from qat.imports.sources.listing import Listing
from qat.imports.sources.step_moves import transposed
from qat.imports.sources.steps import (
    Call,
    Shape,
    Step,
    Steps,
    first_shape,
    shown,
    to_file,
    unknown,
)
from qat.imports.sources.tflite_data import (
    CODES,
    DTYPES,
    IDENTIFIER,
    NAMES,
    Type,
    common_prefix,
    layer_of,
    packed,
    text_of,
    unpacked,
    vector_of,
)
from qat.imports.sources.tflite_operations import CONTROL, FOLDED, OF_SEVERAL, RESHAPES, results, steps_of
from qat.reading import read_file, reading, reason_of
from qat.tables import counted
from qat.vocabulary.arrays import ArraySpec
from qat.vocabulary.ops import Array

_LITERT = Child("qat.imports.sources.tflite_run")


def open_file(path: str | Path, input_shape: Sequence[int] | None = None, name: str | None = None) -> Opened:
    """Open a float .tflite file.

    Args:
        path: of the file.
        input_shape: (C, H, W) or (F,) of one sample, where the file leaves sizes open.
        name: of the network; that of the file by default.

    Returns:
        Its operations, and LiteRT to compute the same.

    Raises:
        QatError: it is no .tflite file, is quantized, or has sizes that are not known.
    """
    content = read_file(path, "give a .tflite file")
    if content[4:8] != IDENTIFIER:
        raise QatError(
            f"{path}: is no .tflite file: bytes 4 to 7 are {content[4:8]!r}, not {IDENTIFIER!r}; convert it again"
        )
    with reading(path, "a .tflite file", "convert it again"):
        shape = None if input_shape is None else tuple(int(size) for size in input_shape)
        reader = _Reader(path, content, unpacked(path, content), shape)
        program = reader.program(name or Path(path).stem)
    return Opened(program, reader.trace, tuple(reader.notes))


class _Reader:
    """Lists the operations of a model, one after the other."""

    def __init__(self, path: str | Path, content: bytes, model: Any, input_shape: Shape | None) -> None:
        self.path, self.content, self.model, self.graph = path, content, model, model.subgraphs[0]
        self.input_shape = input_shape
        self.notes: list[str] = []
        self.codes = [NAMES.get(max(code.builtinCode, code.deprecatedBuiltinCode), "?") for code in model.operatorCodes]
        self.shapes: list[Shape] = [
            tuple(int(size) for size in vector_of(tensor.shape)) for tensor in self.graph.tensors
        ]
        self.listing = Listing()
        self.constants: dict[int, Array] = {}
        self.stored: dict[int, str] = {}  #: the names of constants that the file holds as they are
        self.real: set[int] = set()  #: constants of codes that are taken as real numbers
        for index, tensor in enumerate(self.graph.tensors):
            data = model.buffers[tensor.buffer].data
            if data is not None and len(data) and tensor.type in DTYPES:
                self.constants[index] = np.frombuffer(bytes(data), DTYPES[tensor.type]).reshape(self.shapes[index])
                self.stored[index] = text_of(tensor.name)
        self.prefix = common_prefix(
            [text_of(self.graph.tensors[i].name) for each in self.graph.operators for i in each.outputs]
        )
        self.values: dict[int, str] = {}
        self.known: dict[str, Shape | None] = {}

    def program(self, name: str) -> Program:
        self._refuse_codes()
        entering = self._entering()
        self._sizes(entering)
        names = self._signature()
        inputs = {}
        for index in self.graph.inputs:
            shape = self.shapes[index]
            if len(shape) < 2 or shape[0] != 1:
                raise QatError(
                    f"{self.path}: its input {self._named(index)} has shape {shown(shape)}, not one sample; convert it with a "
                    "batch of 1, or of any size"
                )
            value = self._value(index, names.get(int(index), ""))
            dtype = DTYPES[self.graph.tensors[index].type]
            inputs[value] = ArraySpec(first_shape(shape, len(shape) == 4)[1:], np.dtype(dtype).name)
        for operator in self.graph.operators:
            self._operator(operator)
        outputs = tuple(self.values.get(int(index), "") for index in self.graph.outputs)
        if not outputs or not inputs or not all(outputs):
            raise ValueError("it has no inputs or outputs, or one that nothing computes")
        if self.real:
            self.notes.append(
                f"{Path(self.path).name} has int8 weights in {counted(len(self.real), 'layer')} (dynamic range quantization): "
                "they are the real numbers that they stand for, here and in the copy of the file that was compared. From the "
                "file itself LiteRT computes other numbers, because it quantizes activations too, for each sample anew"
            )
        self.listing.check_outputs(self.path, outputs)
        return Program(name, inputs, self.listing.needed(outputs), outputs, self.listing.shapes(self.known), ties=True)

    # -- inputs -------------------------------------------------------------------------------------------------------

    def _refuse_codes(self) -> None:
        """A file that computes with codes is of no use: its network is another tool's."""
        pixels = {
            int(index)
            for index in self.graph.inputs
            if all(self._kind(each) == "CAST" for each in self.graph.operators if index in each.inputs)
        }
        found = [
            self._named(int(index))
            for each in self.graph.operators
            for index in (*each.inputs, *each.outputs)
            if index >= 0 and index not in self.constants and index not in pixels
            if self.graph.tensors[index].type in CODES
        ]
        kinds = Counter(self._kind(each) for each in self.graph.operators if self._kind(each) == "QUANTIZE")
        if found or kinds:
            first = f", first {found[0]}" if found else ""
            raise QatError(
                f"{self.path}: is a quantized file: {len(set(found))} of its values are integers{first}; give the float one "
                "that it was made of"
            )
        taken = [DTYPES.get(self.graph.tensors[index].type) for index in self.graph.inputs]
        if any(dtype not in (np.float32, np.uint8, np.int8) for dtype in taken):
            raise QatError(
                f"{self.path}: takes what are neither real numbers nor pixels; cut off what comes before them"
            )

    def _entering(self) -> list[list[int]]:
        """The sizes of the inputs, with one sample; those of ``input_shape`` where they are open."""
        found = []
        for index in self.graph.inputs:
            tensor, shape = self.graph.tensors[index], list(self.shapes[index])
            signature = [int(size) for size in vector_of(tensor.shapeSignature)] or shape
            is_open = len(signature) != len(shape) or any(size < 1 for size in signature[1:])
            if is_open and (self.input_shape is None or len(self.graph.inputs) != 1):
                advice = "give input_shape" if len(self.graph.inputs) == 1 else "convert it with fixed ones"
                raise QatError(
                    f"{self.path}: leaves the sizes of its input {self._named(index)} open {shown(signature)}, and a network "
                    f"has fixed ones; {advice}"
                )
            if self.input_shape is not None:
                channels, *rest = self.input_shape
                wanted = [1, *rest, channels] if len(rest) == 2 else [1, *self.input_shape]
                fits = len(signature) == len(wanted) and all(
                    size in (given, -1) for size, given in zip(signature[1:], wanted[1:], strict=True)
                )
                if not fits:
                    raise QatError(
                        f"{self.path}: its input {self._named(index)} has sizes {shown(signature)} (-1: open), which "
                        f"input_shape {shown(self.input_shape)} does not fit; give one that does, channels first, without "
                        "the samples"
                    )
                shape = wanted
            found.append(shape)
        return found

    def _sizes(self, entering: list[list[int]]) -> None:
        """Let LiteRT find the sizes of all tensors, where those of the inputs are others than in the file."""
        self.entering = entering
        if any(sizes != list(self.shapes[index]) for index, sizes in zip(self.graph.inputs, entering, strict=True)):
            with _LITERT.session():
                found = self._load(self.content)
            self.shapes = [tuple(int(size) for size in sizes) for sizes in found]

    def _load(self, content: bytes) -> list[Array]:
        question = {"inputs": self.entering, "count": len(self.graph.tensors)}
        try:
            return _LITERT.ask(question, [np.frombuffer(content, np.uint8)])
        except ChildError as error:
            raise QatError(f"{self.path}: LiteRT cannot run it ({reason_of(error)}); convert it again") from None

    def _signature(self) -> dict[int, str]:
        """What the signature calls the inputs."""
        definitions = self.model.signatureDefs or []
        return (
            {int(each.tensorIndex): text_of(each.name) for each in vector_of(definitions[0].inputs)}
            if definitions
            else {}
        )

    # -- operators ----------------------------------------------------------------------------------------------------

    def _kind(self, operator: Any) -> str:
        found: str = self.codes[operator.opcodeIndex]
        return found

    def _operator(self, operator: Any) -> None:
        kind, outputs = self._kind(operator), [int(index) for index in operator.outputs if index >= 0]
        taken = [int(index) for index in operator.inputs]
        computed = [index for index in taken if index >= 0 and index not in self.constants]
        for index in computed:
            if index not in self.values:
                raise ValueError(f"its {kind} takes {self._named(index)}, which nothing before it gives")
        for index in outputs:
            if index in self.values or index in self.constants:
                raise ValueError(f"it gives {self._named(index)} twice")
        if not outputs or self._folded(kind, operator, taken, computed, outputs[0]):
            return
        for place, index in enumerate(outputs if kind in OF_SEVERAL else outputs[:1]):
            self._listed(kind, operator, taken, computed, place, index)
        if len(outputs) > 1 and kind not in OF_SEVERAL:
            self.values |= dict.fromkeys(outputs[1:], self.values[outputs[0]])

    def _listed(self, kind: str, operator: Any, taken: list[int], computed: list[int], place: int, result: int) -> None:
        """Note an operator, or one of its results. place: which."""
        enters = not any(len(self.shapes[index]) == 4 for index in computed)
        last = any(self.values[index] in self.listing.last for index in computed)
        call = Call(
            kind,
            tuple(self._constant(index, result) for index in taken),
            tuple(self._named(index) if index >= 0 else "" for index in taken),
            tuple("" if index in self.real else self.stored.get(index, "") for index in taken),
            tuple(self.shapes[index] if index >= 0 else None for index in taken),
            self.shapes[result],
            last,
            operator.builtinOptions,
            gives_last=last or enters or kind in RESHAPES,
        )
        layer = layer_of(
            kind, [text_of(self.graph.tensors[index].name) for index in (*taken[1:2], result) if index >= 0]
        )
        inputs = tuple(self.values[index] for index in computed)
        output = self._value(result, first=not call.gives_last)
        steps, inputs = self._steps(call, operator, inputs, output)
        if kind in OF_SEVERAL:
            steps = results(call, place)
        elif len(operator.outputs) > 1:
            steps = unknown(f"{kind} with {len(operator.outputs)} results")
        self.listing.add(layer.removeprefix(self.prefix), steps, inputs, output, self.known)

    def _steps(self, call: Call, operator: Any, inputs: tuple[str, ...], output: str) -> tuple[Steps, tuple[str, ...]]:
        layouts = {value in self.listing.last for value in inputs if len(self.known[value] or ()) == 4}
        if call.of == "CUSTOM":
            code = text_of(self.model.operatorCodes[operator.opcodeIndex].customCode)
            return unknown(f"{code} (a custom operation)"), inputs
        if call.of in CONTROL:
            return unknown(f"{call.of} (control flow)"), inputs
        if not inputs:
            return unknown(f"{call.of} of constants"), inputs
        if len(layouts) > 1:
            return unknown(f"{call.of} of values in two layouts"), inputs
        if call.of in RESHAPES:
            steps, first = self.listing.reshape(call, inputs[0], output, self.known)
            return steps, (first,)
        if call.of == "TRANSPOSE" and (order := call.constant(1)) is not None:
            steps, last = transposed(call, np.ravel(order).tolist())
            (self.listing.last.add if last else self.listing.last.discard)(output)
            return steps, inputs
        if call.of == "CAST":
            real = self.graph.tensors[operator.outputs[0]].type == Type.FLOAT32
            return [Step("identity")] if real else unknown("CAST to whole numbers"), inputs
        return steps_of(call), inputs

    def _folded(self, kind: str, operator: Any, taken: list[int], computed: list[int], output: int) -> bool:
        """Compute what depends on constants alone; whether it was that."""
        if kind == "SHAPE" and taken[0] >= 0:
            self.constants[output] = np.asarray(self.shapes[taken[0]], np.int64)
            return True
        if computed or not taken or min(taken) < 0:
            return False
        if kind == "DEQUANTIZE":
            source = taken[0]
            half = self.graph.tensors[source].type == Type.FLOAT16
            self.constants[output] = self.constants[source].astype(np.float32) if half else self._dequantized(source)
            self.stored[output] = self.stored.get(source, "") if half else ""
            return True
        if kind in FOLDED:
            self.constants[output] = np.asarray(
                FOLDED[kind](operator.builtinOptions, *(self.constants[i] for i in taken))
            )
            return True
        return False

    def _constant(self, index: int, output: int) -> Array | None:
        """A constant; codes that a float operator takes ("dynamic range quantization") as real numbers."""
        array = self.constants.get(index)
        coded = array is not None and array.dtype == np.int8 and self.graph.tensors[output].type == Type.FLOAT32
        if not coded:
            return array
        self.real.add(index)
        return self._dequantized(index)

    def _dequantized(self, index: int) -> Array:
        array, found = self.constants[index], self.graph.tensors[index].quantization
        scale = np.asarray(vector_of(found.scale) if found is not None else (), np.float32)
        zero = np.asarray(vector_of(found.zeroPoint) if found is not None else (), np.float32)
        if not len(scale) or len(zero) not in (1, len(scale)):
            raise ValueError(f"its constant {self._named(index)} has codes, but no scale")
        shape = [1] * array.ndim
        if len(scale) > 1:
            shape[found.quantizedDimension] = len(scale)
            scale = scale.reshape(shape)
            zero = zero.reshape(shape if len(zero) > 1 else [1] * array.ndim)
        real: Array = ((array.astype(np.float32) - zero) * scale).astype(np.float32)
        if real.shape != array.shape:
            raise ValueError(f"its constant {self._named(index)} has {scale.size} scales")
        return real

    # -- values -------------------------------------------------------------------------------------------------------

    def _named(self, index: int) -> str:
        return shortened(text_of(self.graph.tensors[index].name) or f"tensor {index}")

    def _value(self, index: int, name: str = "", *, first: bool = False) -> str:
        """The name of a value: that of its tensor, or another one; it is new. first: an image of it has channels first."""
        wanted = name or text_of(self.graph.tensors[index].name) or f"tensor{index}"
        value, number = wanted, 1
        while value in self.known:
            number += 1
            value = f"{wanted}_{number}"
        self.values[int(index)], self.known[value] = value, self.shapes[index]
        if len(self.shapes[index]) == 4 and not first:
            self.listing.last.add(value)
        return value

    def trace(self, samples: tuple[Array, ...], values: Collection[str]) -> dict[str, Array]:
        """What LiteRT computes; of values that the file has."""
        indices = {value: index for index, value in reversed(self.values.items()) if value in set(values)}
        tensors = [self.graph.tensors[index] for index in self.graph.inputs]
        taken = [
            to_file(x, len(self.shapes[index]) == 4, np.dtype(DTYPES[tensor.type]))
            for x, index, tensor in zip(samples, self.graph.inputs, tensors, strict=True)
        ]
        with _LITERT.session():
            self._load(self._in_float() if self.real else self.content)
            try:
                found = _LITERT.ask({"tensors": list(indices.values())}, taken)
            except ChildError as error:
                raise QatError(f"{self.path}: LiteRT cannot run it ({reason_of(error)}); convert it again") from None
        return {value: self.listing.canonical(value, x) for value, x in zip(indices, found, strict=True)}

    def _in_float(self) -> bytes:
        """The file with real numbers in place of codes."""
        model = schema.ModelT.InitFromPackedBuf(self.content)
        for index in self.real:
            tensor = model.subgraphs[0].tensors[index]
            tensor.type, tensor.quantization, tensor.buffer = Type.FLOAT32, None, len(model.buffers)
            model.buffers.append(schema.BufferT(data=self._dequantized(index).tobytes()))
        return packed(model)
