"""An ONNX file (opset 9 on) as plain operations: constants folded, sizes known, channels first."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import defs, helper, numpy_helper, shape_inference
from onnx.reference import ReferenceEvaluator

from qat.errors import QatError, shortened
from qat.imports.program import Program
from qat.imports.source import Opened
from qat.imports.sources import onnx_data, onnx_recurrent
from qat.imports.sources.listing import Listing
from qat.imports.sources.onnx_data import attributes_of, is_own, load_model, measured, sizes_of
from qat.imports.sources.onnx_operations import RESHAPES, read, readers
from qat.imports.sources.onnx_places import is_moving, placed, settled
from qat.imports.sources.onnx_run import computed
from qat.imports.sources.places import FIRST, Place
from qat.imports.sources.step_moves import transposed
from qat.imports.sources.steps import (
    TO_FIRST,
    Call,
    Shape,
    Step,
    Steps,
    first_shape,
    shown,
    to_file,
    unknown,
)
from qat.reading import LARGEST_SAMPLE, reading
from qat.vocabulary.arrays import ArraySpec
from qat.vocabulary.ops import Array

OLDEST = 9  #: opset
FREE = 2  #: samples with which a network is read whose number is free: not 1, so that their axis cannot be mistaken for another
BATCH = 8  #: samples in one run of the runtime, of a file that takes any number
SMALL = 1 << 12  #: numbers of a constant that sizes may depend on


def open_file(path: str | Path, input_shape: Sequence[int] | None = None, name: str | None = None) -> Opened:
    """Open an ONNX file.

    Args:
        path: of the file. Data that it has elsewhere are read from its own folder alone.
        input_shape: (C, H, W) or (F,) of one sample, where the file leaves sizes open.
        name: of the network; that of the file by default.

    Returns:
        Its operations, and ONNX Runtime to compute the same.

    Raises:
        QatError: it is no ONNX file, is quantized, needs what is not beside it, or has sizes that are not known.
    """
    model = load_model(path)
    with reading(path, "an ONNX file", "export it again"):
        reader = _Reader(path, model, None if input_shape is None else tuple(int(size) for size in input_shape))
        program = reader.program(name or Path(path).stem)
    return Opened(program, reader.trace, tuple(reader.notes))


class _Reader:
    """Lists the operations of a model, one after the other."""

    def __init__(self, path: str | Path, model: Any, input_shape: Shape | None) -> None:
        self.path, self.model, self.graph, self.input_shape = path, model, model.graph, input_shape
        versions = {entry.domain or "ai.onnx": entry.version for entry in model.opset_import}
        self.opset = versions.get("ai.onnx", 0)
        if self.opset < OLDEST:
            raise QatError(
                f"{path}: is of opset {self.opset}, but {OLDEST} is the oldest that is read; convert it "
                "(onnx.version_converter.convert_version)"
            )
        self.readers = readers(self.opset)
        self.constants: dict[str, Array] = {x.name: numpy_helper.to_array(x) for x in self.graph.initializer}
        self.stored = set(self.constants)  #: the names of those that the file itself holds
        self.types: dict[str, Any] = {}  #: of every value that is computed
        self.shapes: dict[str, Shape | None] = {}  #: likewise, with the samples; None where they are not known
        self.same: dict[str, str] = {}  #: further results of an unknown operation: its first
        self.listing = Listing()
        self.places: dict[str, Place] = {}  #: of the samples, where they are no first axis
        self.fixed, self.batch, self.folded = False, FREE, 0
        self.notes: list[str] = []
        self.used = {value for node in self.graph.node for value in node.input} | {x.name for x in self.graph.output}
        self.inputs: dict[str, ArraySpec] = {}
        self.dtypes: dict[str, Any] = {}

    def program(self, name: str) -> Program:
        self._inputs()
        quantized: list[Any] = []
        for node in self.graph.node:
            self._node(node, quantized)
        if quantized:
            counts = Counter(node.op_type for node in quantized)
            what = ", ".join(f"{kind} ({count})" for kind, count in counts.items())
            first = shortened(quantized[0].name or quantized[0].output[0])
            raise QatError(
                f"{self.path}: is a quantized file, with {what}, first {first}: its integers are those of another tool; give "
                "the float one that it was made of"
            )
        outputs = tuple(self.same.get(x.name, x.name) for x in self.graph.output)
        if not outputs or not self.inputs:
            raise QatError(f"{self.path}: has no inputs or no outputs; export it again")
        for output in outputs:
            if output not in self.types:
                raise QatError(
                    f"{self.path}: its output {shortened(output)} is a constant, or nothing computes it; export it again"
                )
            if (place := self.places.get(output, FIRST)) != FIRST:
                raise QatError(
                    f"{self.path}: its output {shortened(output)} has its samples along axis {place.axis}; end the network "
                    "before they go there (--outputs, or outputs=)"
                )
        shapes = self.listing.shapes(self.shapes)
        self.listing.check_outputs(self.path, outputs)
        return Program(name, self.inputs, self.listing.needed(outputs), outputs, shapes, ties=True)

    # -- inputs -------------------------------------------------------------------------------------------------------

    def _inputs(self) -> None:
        entries = [x for x in self.graph.input if x.name not in self.constants]
        open_sizes = []
        for x in entries:
            kind = x.type.WhichOneof("value")
            dtype = (
                np.dtype(helper.tensor_dtype_to_np_dtype(x.type.tensor_type.elem_type))
                if kind == "tensor_type"
                else None
            )
            if dtype is None or str(dtype) not in onnx_data.TAKEN:
                found = f"{dtype} tensors" if dtype is not None else f"values of type {str(kind).removesuffix('_type')}"
                raise QatError(
                    f"{self.path}: its input {shortened(x.name)} takes {found}, but a network takes real numbers or pixels; "
                    "cut off what comes before them"
                )
            self.dtypes[x.name] = dtype
            sizes = sizes_of(x.type.tensor_type)
            if sizes is None or None in sizes[1:]:
                open_sizes.append(x.name)
        if open_sizes and (self.input_shape is None or len(entries) != 1):
            advice = (
                "give input_shape" if len(entries) == 1 else "fix them (onnxruntime.tools.make_dynamic_shape_fixed)"
            )
            raise QatError(
                f"{self.path}: leaves the sizes of its input {shortened(open_sizes[0])} open"
                f"{self._dimensions(open_sizes[0], entries)}, and a network has fixed ones; {advice}"
            )
        fixed = [sizes[0] for x in entries if (sizes := sizes_of(x.type.tensor_type)) and sizes[0]]
        self.fixed, self.batch = bool(fixed), fixed[0] if fixed else FREE
        for x in entries:
            self._input(x)

    def _dimensions(self, name: str, entries: Sequence[Any]) -> str:
        (found,) = (x.type.tensor_type for x in entries if x.name == name)
        sizes = [size.dim_param or (size.dim_value if size.dim_value > 0 else "?") for size in found.shape.dim]
        return f" ({', '.join(map(str, sizes))})" if sizes else ""

    def _input(self, x: Any) -> None:
        sizes = sizes_of(x.type.tensor_type)
        last = self._enters_last(x.name)
        if self.input_shape is not None:
            channels, *rest = self.input_shape
            wanted = (*rest, channels) if last and len(rest) == 2 else self.input_shape
            if sizes is not None and (
                len(sizes) != len(wanted) + 1
                or any(size not in (None, given) for size, given in zip(sizes[1:], wanted, strict=True))
            ):
                raise QatError(
                    f"{self.path}: its input {shortened(x.name)} has sizes {shown([size or 0 for size in sizes])} (0: open), "
                    f"which input_shape {shown(self.input_shape)} does not fit; give one that does, channels first, without "
                    "the samples"
                )
            sizes = (self.batch, *wanted)
        if sizes is None or len(sizes) < 2 or any(size is None or size < 1 for size in sizes[1:]):
            raise QatError(
                f"{self.path}: its input {shortened(x.name)} has no axis of samples before others; export it with one"
            )
        full = (self.batch, *(int(size or 0) for size in sizes[1:]))
        self.types[x.name] = helper.make_tensor_type_proto(x.type.tensor_type.elem_type, full)
        self.shapes[x.name] = full
        if last:
            self.listing.last.add(x.name)
        self.inputs[x.name] = ArraySpec(first_shape(full, last)[1:], onnx_data.TAKEN[str(self.dtypes[x.name])])

    def _enters_last(self, name: str) -> bool:
        """Whether an input has channels last: all that takes it transposes it at once, or after operations on each number."""
        waiting, seen, found = [name], {name}, False
        while waiting:
            value = waiting.pop()
            if any(x.name == value for x in self.graph.output):
                return False
            for node in self.graph.node:
                if value not in node.input:
                    continue
                if node.op_type == "Transpose":
                    if tuple(attributes_of(node).get("perm", ())) != TO_FIRST:
                        return False
                    found = True
                elif node.op_type in onnx_data.EACH:
                    waiting += [each for each in node.output if each not in seen]
                    seen |= set(node.output)
                else:
                    return False
        return found

    # -- nodes --------------------------------------------------------------------------------------------------------

    def _node(self, node: Any, quantized: list[Any]) -> None:
        options = attributes_of(node)
        taken = [self.same.get(value, value) for value in node.input]
        while taken and not taken[-1]:
            taken.pop()
        for value in taken:
            if value and value not in self.constants and value not in self.types:
                raise ValueError(f"its {node.op_type} takes {shortened(value)}, which nothing before it gives")
        for value in node.output:
            if value in self.types or value in self.constants:
                raise ValueError(f"it gives {shortened(value)} twice")
        own = is_own(node)
        if own and node.op_type == "Constant":
            self._constant(node, options)
        elif own and node.op_type in ("Shape", "Size") and len(taken) == 1 and self._known(taken[0]):
            self._keep(node.output[0], measured(node.op_type, self._known(taken[0]) or (), options))
        elif (
            own
            and taken
            and node.op_type in onnx_data.FOLDED
            and all(not value or value in self.constants for value in taken)
        ):
            self._fold(node, taken)
        else:
            if own and node.op_type in onnx_data.QUANTIZED:
                quantized.append(node)
            self._operation(node, options, taken)

    def _constant(self, node: Any, options: Mapping[str, Any]) -> None:
        ((kind, value),) = options.items()
        if kind == "value":
            array = numpy_helper.to_array(value)
        elif kind in ("value_float", "value_floats"):
            array = np.asarray(value, np.float32)
        elif kind in ("value_int", "value_ints"):
            array = np.asarray(value, np.int64)
        else:
            raise ValueError(f"its Constant {shortened(node.output[0])} has a {kind}")
        self._keep(node.output[0], array)
        self.stored.add(node.output[0])

    def _fold(self, node: Any, taken: Sequence[str]) -> None:
        """Compute what depends on constants alone."""
        for kind in self._inferred(node, taken).values():
            self._count(math.prod(size or 1 for size in sizes_of(kind.tensor_type) or ()))
        proto = helper.make_graph(
            [node],
            "constants",
            [helper.make_value_info(value, self._type(value)) for value in dict.fromkeys(taken) if value],
            [helper.make_value_info(value, onnx.TypeProto()) for value in node.output if value],
        )
        given = {value: self.constants[value] for value in taken if value}
        with np.errstate(all="ignore"):
            found = ReferenceEvaluator(
                proto, opsets={"": max(self.opset, onnx_data.EVALUATED.get(node.op_type, 0))}
            ).run(None, given)
        for value, array in zip([value for value in node.output if value], found, strict=True):
            self._keep(value, np.asarray(array))
            source = taken[0]
            if node.op_type == "Identity" and source in self.stored:
                self.stored.add(value)

    def _keep(self, value: str, array: Array) -> None:
        self._count(array.size)
        self.constants[value] = array

    def _count(self, numbers: int) -> None:
        self.folded += numbers
        if numbers > LARGEST_SAMPLE or self.folded > 4 * LARGEST_SAMPLE:
            raise ValueError("its constants grow beyond what is computed here")

    def _operation(self, node: Any, options: Mapping[str, Any], taken: Sequence[str]) -> None:
        values = self._values(taken)
        results = [value for value in node.output if value]
        self.types |= self._inferred(node, taken) if is_own(node) and values and results else {}
        if node.op_type in onnx_recurrent.KINDS and is_own(node) and values:
            self._recurrent(node, options, taken)
        elif node.op_type == "Split" and is_own(node):  # each result is an operation
            for value in results:
                self._listed(node, options, taken, value, [])
        elif results:
            self._listed(node, options, taken, results[0], results[1:])

    def _listed(
        self, node: Any, options: Mapping[str, Any], taken: Sequence[str], output: str, others: Sequence[str]
    ) -> None:
        """Note an operation. others: its results beside the output."""
        values = self._values(taken)
        call = self._call(node, options, taken, output)
        last = call.last
        steps, inputs, result = self._steps(node, call, values, output)
        if self.used.intersection(others):
            steps, inputs, result = unknown(f"{node.op_type} with {1 + len(others)} results"), values, last
        if call.result is None and steps[0].kind not in ("unknown", "identity"):
            steps, inputs, result = unknown(f"{node.op_type} of a size that is not known"), values, last
        self.same |= dict.fromkeys(others, output)
        self.types.setdefault(output, onnx.TypeProto())
        self.shapes[output] = self._canonical(output)
        if result:
            self.listing.last.add(output)
        self.listing.add(node.name, steps, inputs, output, self.shapes)

    def _call(self, node: Any, options: Mapping[str, Any], taken: Sequence[str], output: str) -> Call:
        values = self._values(taken)
        return Call(
            node.op_type,
            tuple(self.constants.get(value) for value in taken),
            tuple(taken),
            tuple(value if value in self.stored else "" for value in taken),
            tuple(self._known(value) if value else None for value in taken),
            self._known(output),
            any(value in self.listing.last for value in values if len(self._known(value) or ()) == 4),
            options,
        )

    def _values(self, taken: Sequence[str]) -> tuple[str, ...]:
        """What is taken and no constant."""
        return tuple(value for value in taken if value and value not in self.constants)

    def _recurrent(self, node: Any, options: Mapping[str, Any], taken: Sequence[str]) -> None:
        """A GRU or LSTM: an operation for each direction, and what each result is of their states."""
        first = next(value for value in node.output if value)
        call, x = self._call(node, options, taken, first), taken[0]
        found = [(at, value) for at, value in enumerate(node.output) if value in self.used]
        why = onnx_recurrent.why_not(call, self.places.get(x, FIRST))
        if why or any(at > 1 for at, _ in found) or x in self.constants:
            unlisted = unknown(why or f"{node.op_type} whose states c are used")
            for _, value in found:
                self.shapes[value] = None
                self.listing.add(node.name, unlisted, (x,), value, self.shapes)
            return
        names = {}
        for direction, (step, shape) in onnx_recurrent.states(call).items():
            names[direction] = f"{first}/{direction}"
            self.shapes[names[direction]] = (self.batch, *shape)
            self.listing.add(node.name, [step], (x,), names[direction], self.shapes)
        for at, value in found:
            self.places[value] = onnx_recurrent.result_place(call, at)
            for name, steps, inputs, shape in onnx_recurrent.joined(call, at, names):
                self.shapes[name or value] = (self.batch, *shape)
                self.listing.add(node.name, steps, inputs, name or value, self.shapes)

    def _canonical(self, value: str) -> Shape | None:
        """The sizes of a value with the samples in front."""
        shape, place = self._known(value), self.places.get(value, FIRST)
        return shape if shape is None or place == FIRST else place.canonical_shape(shape, self.batch)

    def _steps(
        self, node: Any, call: Call, values: tuple[str, ...], output: str
    ) -> tuple[Steps, tuple[str, ...], bool]:
        """What an operation is, what it takes, and whether its result has channels last."""
        images = {value in self.listing.last for value in values if len(self._known(value) or ()) == 4}
        reader = self.readers.get(node.op_type)
        lost = [value for value in values if self.shapes.get(value) is None]
        if lost and is_own(node) and (reader is not None or node.op_type in ("Split", "Transpose", *RESHAPES)):
            # It comes after an operation that is unknown, or whose size is: that one is named, and fusing leaves out this one.
            return [Step("identity")], (lost[0],), call.last
        if not is_own(node):
            of = f"{node.domain}.{node.op_type} (an operation outside ONNX's own domain)"
        elif node.op_type in onnx_data.CONTROL:
            of = f"{node.op_type} (control flow)"
        elif not values:
            of = f"{node.op_type} of constants"
        elif (places := {self.places.get(value, FIRST) for value in values}) != {FIRST} or is_moving(call):
            if len(places) == 1:
                moved, after = placed(call, places.pop(), self.batch)
                steps = read(self.readers, moved, list(node.output).index(output)) if isinstance(moved, Call) else moved
                steps, self.places[output] = settled(steps, after, call.result, self.batch)
                return steps, values, False
            of = f"{node.op_type} of values whose samples are along unlike axes"
        elif node.op_type == "Transpose":
            rank = len(call.shape())
            steps, result = transposed(call, call.options.get("perm", range(rank)[::-1]))
            return steps, values, result
        elif node.op_type in RESHAPES and len(values) == 1:
            steps, first = self.listing.reshape(call, values[0], output, self.shapes)
            return steps, (first,), output in self.listing.last
        elif node.op_type == "Split":
            return read(self.readers, call, list(node.output).index(output)), values[:1], call.last
        elif reader is None:
            of = node.op_type
        elif len(images) > 1:
            of = f"{node.op_type} of values in two layouts"
        else:
            return reader(call), values, call.last and len(call.result or ()) == 4
        return unknown(of), values, call.last

    # -- types --------------------------------------------------------------------------------------------------------

    def _inferred(self, node: Any, taken: Sequence[str]) -> dict[str, Any]:
        """The types of a node's results, as far as ONNX tells."""
        values = [value for value in taken if value]
        if any(not self._type(value).WhichOneof("value") for value in values) or node.op_type in onnx_data.CONTROL:
            return {}
        plain = onnx.NodeProto()
        plain.CopyFrom(node)
        plain.input[:] = taken
        small = {value: self.constants[value] for value in values if value in self.constants}
        found = shape_inference.infer_node_outputs(
            defs.get_schema(node.op_type, self.opset, ""),
            plain,
            {value: self._type(value) for value in values},
            {value: numpy_helper.from_array(array) for value, array in small.items() if array.size <= SMALL},
            opset_imports=[helper.make_opsetid("", self.opset)],
            ir_version=self.model.ir_version,
        )
        return {value: kind for value, kind in found.items() if value}

    def _type(self, value: str) -> Any:
        if value in self.constants:
            array = self.constants[value]
            return helper.make_tensor_type_proto(helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        return self.types[value]

    def _known(self, value: str) -> Shape | None:
        """The sizes of a value or constant, with the samples; None where they are not all known."""
        if value in self.constants:
            return self.constants[value].shape
        sizes = sizes_of(self.types[value].tensor_type) if value in self.types else None
        return None if sizes is None or None in sizes else tuple(int(size or 0) for size in sizes)

    # -- the file itself ----------------------------------------------------------------------------------------------

    def trace(self, samples: tuple[Array, ...], values: Collection[str]) -> dict[str, Array]:
        """What ONNX Runtime computes; of values that the file has."""
        given = dict(zip(self.inputs, samples, strict=True))
        found = {value: np.asarray(given[value], np.float32) for value in values if value in given}
        wanted = [value for value in values if value in self.types and value not in given]
        if not wanted:
            return found
        feed = {value: to_file(x, value in self.listing.last, self.dtypes[value]) for value, x in given.items()}
        size = self.batch if self.fixed else min(BATCH, len(samples[0]))
        places = [self.places.get(value, FIRST) for value in wanted]
        for value, array in zip(wanted, computed(self.path, self.model, wanted, feed, size, places), strict=True):
            found[value] = self.listing.canonical(value, array)
        return found
