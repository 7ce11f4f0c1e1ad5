"""Networks as users write them, and the tracing that turns one into a graph."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from qat.cells.arithmetic import Mul, Sub
from qat.cells.base import Cell, Shape
from qat.cells.elementwise import Activation, Add
from qat.cells.input import Input
from qat.cells.matmul import MatMul
from qat.cells.part import Slice, indexed, parted
from qat.cells.rearrange import Reshape, Transpose
from qat.cells.reduce import Max, Mean
from qat.cells.shape import Flatten
from qat.cells.tracing import Traced, tracers
from qat.errors import QatError, shortened
from qat.graph.graph import Graph, Node, check_inputs, shape_of
from qat.names import check_name
from qat.tables import counted
from qat.vocabulary.activations import FUSED
from qat.vocabulary.listing import dimensions
from qat.vocabulary.ops import Array

KNOWN = "only calls of cells, a + b, a - b, a * b, a @ b, these with numbers, -a, slices and moves ('qat help cells') are known"

#: What PyTorch has as a function or method, and what to write in its place.
INSTEAD = {
    **{name: f'qat.Activation("{name}")(x)' for name in FUSED},
    "linear": "a qat.DenseBnAct",
    "hardsigmoid": 'qat.Activation("hsigmoid")(x)',
    "hardswish": 'qat.Activation("hswish")(x)',
    "softmax": "qat.Softmax(axis)(x)",
    "cat": "qat.Concat()(a, b)",
    "concat": "qat.Concat()(a, b)",
    "concatenate": "qat.Concat()(a, b)",
    "stack": "qat.Stack()(a, b)",
    "maximum": "qat.Maximum()(a, b)",
    "minimum": "qat.Minimum()(a, b)",
    "matmul": "a @ b",
    "bmm": "a @ b",
    "max": "x.amax(dim)",
    "sum": "x.mean(dim) times the size of that axis",
    "squeeze": "x.reshape(-1, ...)",
    "unsqueeze": "x.reshape(-1, ...)",
    "size": "x.shape, that of one sample",
    "T": "x.transpose(1, 2)",
    "mT": "x.transpose(1, 2)",
}


def _unknown(name: Any) -> str:
    """What is known in a construct, and what to do about this function or method."""
    instead = INSTEAD.get(name)
    return f"in a construct, {KNOWN}; write {instead or 'a cell for it'}"


@dataclass(frozen=True)
class Symbol:
    """What stands for a tensor inside ``construct``: the output of a node.

    Attributes:
        trace: the trace that the node belongs to.
        name: of the node.
    """

    trace: Trace
    name: str

    @property
    def shape(self) -> Shape:
        """Of one sample: (C, H, W), (C, L) or (F,)."""
        return self.trace.shapes[self.name]

    def __add__(self, other: Any) -> Traced:
        return Add()(self, other) if isinstance(other, Symbol) else self._linear("+", other, 1.0, other)

    __radd__ = __add__

    def __sub__(self, other: Any) -> Traced:
        return Sub()(self, other) if isinstance(other, Symbol) else self._linear("-", other, 1.0, other, negative=True)

    def __rsub__(self, other: Any) -> Traced:
        return self._linear("-", other, -1.0, other)

    def __mul__(self, other: Any) -> Traced:
        return Mul()(self, other) if isinstance(other, Symbol) else self._linear("*", other, other, 0.0)

    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> Traced:
        whole = isinstance(other, (int, float, np.integer, np.floating)) and not isinstance(other, bool)
        return self._linear("/", other, 1 / other, 0.0) if whole and other else self._refuse(other)

    def __matmul__(self, other: Any) -> Traced:
        return MatMul()(self, other) if isinstance(other, Symbol) else self._refuse(other)

    def __neg__(self) -> Traced:
        return self._linear("-", 1.0, -1.0, 0.0)

    def _linear(self, sign: str, other: Any, factor: Any, shift: Any, *, negative: bool = False) -> Traced:
        """factor x + shift, or factor x - shift, of which ``other`` is one."""
        if isinstance(other, bool) or not isinstance(other, (int, float, np.integer, np.floating)):
            raise QatError(
                f"{self.name} {sign} {shortened(other)}: a construct computes with outputs of cells and single numbers; for a "
                "number for each channel use qat.Normalize"
            )
        return Activation("linear", float(factor), -float(shift) if negative else float(shift))(self)

    def __getitem__(self, key: Any) -> Traced:
        x: Traced = self
        for cell in indexed(self.name, self.shape, key):
            x = cell(x)
        return x

    def split(self, sizes: int | Sequence[int], dim: int = 1) -> tuple[Traced, ...]:
        """Parts of that size, the last of which may be smaller, or of these sizes; dim: of the batch, as PyTorch's."""
        axis = self._axis(dim)
        return tuple(Slice(axis, *each)(self) for each in parted(self.name, self.shape[axis], sizes))

    def chunk(self, chunks: int, dim: int = 1) -> tuple[Traced, ...]:
        """So many parts, of equal sizes as far as they can be, as PyTorch's."""
        size = self.shape[self._axis(dim)]
        if not 1 <= chunks <= size:
            raise QatError(f"{self.name}.chunk: {chunks} parts of an axis of {size}; use 1 to {size}")
        return self.split(-(-size // chunks), dim)

    def reshape(self, *shape: Any) -> Traced:
        """Another shape of the batch, as PyTorch's: the first size is -1, that of the samples; another one may be -1."""
        sizes = tuple(shape[0]) if len(shape) == 1 and isinstance(shape[0], (tuple, list)) else shape
        if len(sizes) < 2 or sizes[0] != -1:
            raise QatError(
                f"{self.name}.reshape{sizes}: the first size is that of the samples, however many there are; write "
                f"reshape(-1, ...), whose other sizes have the product {math.prod(self.shape)}"
            )
        return Reshape(sizes[1:])(self)

    view = reshape

    def flatten(self, start_dim: int = 1) -> Traced:
        """One row of features; or from a later axis of the batch on."""
        axis = self._axis(start_dim)
        return Flatten()(self) if axis == 0 else Reshape((*self.shape[:axis], -1))(self)

    def transpose(self, *dims: Any) -> Traced:
        """Two axes of the batch exchanged, as PyTorch's; or all of them in another order, as NumPy's."""
        if len(dims) != 2:
            return self.permute(*dims)
        axes = list(range(len(self.shape)))
        a, b = map(self._axis, dims)
        axes[a], axes[b] = b, a
        return Transpose(tuple(axes))(self)

    def permute(self, *dims: Any) -> Traced:
        """All axes of the batch in another order, the samples first."""
        order = tuple(dims[0]) if len(dims) == 1 and isinstance(dims[0], (tuple, list)) else dims
        if order[:1] != (0,):
            raise QatError(f"{self.name}.permute{order}: the samples stay the first axis; write permute(0, ...)")
        return Transpose(tuple(map(self._axis, order[1:])))(self)

    def mean(self, dim: int | Sequence[int] | None = None, keepdim: bool = False) -> Traced:
        """The mean over axes of the batch, as PyTorch's."""
        return Mean(self._axes(dim), keepdim)(self)

    def amax(self, dim: int | Sequence[int] | None = None, keepdim: bool = False) -> Traced:
        """The largest number over axes of the batch, as PyTorch's."""
        return Max(self._axes(dim), keepdim)(self)

    def _axes(self, dim: int | Sequence[int] | None) -> tuple[int, ...]:
        return tuple(map(self._axis, dim if isinstance(dim, (tuple, list)) else (dim,)))

    def _axis(self, dim: Any) -> int:
        """The axis of a sample that is ``dim`` in a batch."""
        rank = len(self.shape) + 1
        if not isinstance(dim, (int, np.integer)) or isinstance(dim, bool) or dim == 0 or not -rank < dim < rank:
            raise QatError(f"{self.name}: has no axis {shortened(dim)} beside that of the samples; use 1 to {rank - 1}")
        return int(dim) % rank - 1

    def _refuse(self, *others: Any, **options: Any) -> Any:
        raise QatError(f"{self.name}: in a construct, {KNOWN}; write a cell for it")

    __rtruediv__ = __rmatmul__ = _refuse
    __lt__ = __le__ = __gt__ = __ge__ = __iter__ = __len__ = __call__ = _refuse
    __pow__ = __rpow__ = __floordiv__ = __mod__ = __abs__ = __float__ = __int__ = _refuse
    __array__ = __array_ufunc__ = __array_function__ = _refuse  # NumPy's functions

    def __bool__(self) -> bool:
        raise QatError(
            f"{self.name}: has no value while a construct is traced, so that nothing can be decided by it; the graph is the "
            "same for every image"
        )

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # what copies and inspects objects asks for
            raise AttributeError(name)
        raise QatError(f"{self.name}.{name}: {_unknown(name)}")

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """What PyTorch calls where one of its functions is given a symbol."""
        name = getattr(function, "__name__", function)
        raise QatError(f"{name}: {_unknown(name)}")


class Network:
    """Base of networks: cells in ``__init__``, their use in ``construct``.

    A cell gets its name from the attribute that holds it, also inside lists, and a cell that is used twice shares its
    parameters. A network may be used as a block inside another one; then its ``inputs`` are ignored.

    Attributes:
        inputs: the network's input, or a tuple of several; of the class, or set in ``__init__``.
        any_size: whether pictures keep the size of the data where the network is fitted to them (``qat.networks.create``);
            False: they are resized to that of its own input.
        recurrent: whether its cells are steps of a recurrence where they are used several times: in the quantized network all
            uses of a cell that it holds have one fake quantizer, so that one step alone computes what each of many does.

    >>> import qat
    >>> class Small(qat.Network):
    ...     inputs = qat.Input((1, 28, 28), mean=0.1307, std=0.3081)
    ...     def __init__(self):
    ...         self.conv = qat.Conv2dBnAct(1, 6, 5, pad_mode="valid", activation="relu")
    ...         self.pool = qat.MaxPool2d(2)
    ...     def construct(self, x):
    ...         return self.pool(self.conv(x))
    >>> graph = Small().graph()
    >>> [node.name for node in graph.nodes], graph.shapes["pool"]
    (['input', 'conv', 'pool'], (6, 12, 12))
    """

    inputs: Input | tuple[Input, ...] | None = None
    any_size: ClassVar[bool] = False
    recurrent: ClassVar[bool] = False

    def construct(self, *inputs: Any, **named: Any) -> Any:
        """The forward pass, in terms of cells. Returns one symbol or a tuple of them."""
        raise QatError(f"{type(self).__name__} has no construct method: define construct(self, x)")

    def __call__(self, *inputs: Traced) -> Any:
        if not tracers:
            raise QatError(
                f"{type(self).__name__} is a description and computes nothing by itself: lower it with "
                "qat.backend('torch').lower(network), or use it inside another network's construct"
            )
        return self.construct(*inputs)

    def __repr__(self) -> str:
        cells = len(dict(_named_cells(self, "")))
        inputs = self.inputs if isinstance(self.inputs, tuple) else (self.inputs,)
        shapes = " and ".join(dimensions(x.shape) for x in inputs if isinstance(x, Input))
        return f"{type(self).__name__} of {counted(cells, 'cell')}" + f", input {shapes}" * bool(shapes)

    def graph(self) -> Graph:
        """The graph that ``construct`` describes.

        Raises:
            QatError: where ``inputs`` is missing, where shapes do not fit (it names the cell), and where ``construct`` does
                anything but call cells and add their outputs.
        """
        entering = self.inputs if isinstance(self.inputs, tuple) else (self.inputs,)
        if not entering or not all(isinstance(cell, Input) for cell in entering):
            raise QatError(
                f"{type(self).__name__} does not say what enters it: set inputs = qat.Input(shape) in the class, as "
                "inputs = qat.Input((1, 32, 32), mean=0.1307, std=0.3081)"
            )
        if tracers:
            raise QatError(f"{type(self).__name__}: graph() was called inside a construct; call the block itself")
        trace = Trace(dict(_named_cells(self, "")))
        tracers.append(trace)
        try:
            symbols = [trace.add(cell, (), "input") for cell in entering if cell is not None]
            _check_arguments(self, len(symbols))
            result = self.construct(*symbols)
        finally:
            tracers.pop()
        outputs = result if isinstance(result, tuple) else (result,)
        if not all(isinstance(output, Symbol) and output.trace is trace for output in outputs):
            raise QatError(f"{type(self).__name__}: construct returned {_what_instead(result)}")
        return Graph(tuple(trace.nodes), tuple(output.name for output in outputs), type(self).__name__)


def _check_arguments(network: Network, inputs: int) -> None:
    """Raise QatError unless ``construct`` takes so many inputs."""
    try:
        inspect.signature(network.construct).bind(*range(inputs))
    except TypeError as error:
        raise QatError(
            f"{type(network).__name__}: inputs says that {inputs} enter{'s' * (inputs == 1)}, but construct cannot be called "
            f"with as many ({error}); give it one argument for each input"
        ) from None


def _what_instead(result: Any) -> str:
    """What a construct returned instead of symbols, and what to do."""
    if result is None:
        return "None, not the output of a cell: has it a return?"
    if isinstance(result, (list, dict)):
        return f"a {type(result).__name__}, not the output of a cell: several outputs are a tuple, as (a, b)"
    if isinstance(result, tuple):
        wrong = next(x for x in result if not isinstance(x, Symbol))
        return f"a tuple with {shortened(wrong)}, not the output of a cell: return outputs of cells alone, as (a, b)"
    return f"{shortened(result)}, not the output of a cell"


class Trace:
    """The nodes gathered while one ``construct`` runs.

    Attributes:
        cells: the names of the network's cells by their ``id``, each with whether it is a step of a recurrence.
        nodes: in the order in which cells were called.
        shapes: of their outputs, of one sample, by node.
    """

    def __init__(self, cells: dict[int, tuple[str, bool]]) -> None:
        self.cells = cells
        self.nodes: list[Node] = []
        self.shapes: dict[str, Shape] = {}

    def add(self, cell: Cell, inputs: tuple[Traced, ...], default_name: str) -> Symbol:
        """Append a node; returns its output. default_name: for a cell that has no name. Raises QatError for unfit inputs."""
        cell_name, recurs = self.cells.get(id(cell), (None, False))
        if cell_name is None and cell.params():
            raise QatError(
                f"{cell.describe} is made inside construct, so that its parameters have no name: make it in __init__ as an "
                "attribute"
            )
        if cell_name is not None:
            check_name(cell_name, "attribute or key")
        name = self._unique(
            cell_name or default_name, taken=set() if cell_name else {each for each, _ in self.cells.values()}
        )
        check_inputs(name, cell, len(inputs))
        for position, symbol in enumerate(inputs):
            if not isinstance(symbol, Symbol) or symbol.trace is not self:
                several = "; give them one by one, as (a, b)" if isinstance(symbol, (list, tuple)) else ""
                raise QatError(
                    f"{name}: its input {position} is {type(symbol).__name__}, not the output of a cell{several}"
                )
        shape = shape_of(name, cell, *(symbol.shape for symbol in inputs))
        self.nodes.append(Node(name, cell, tuple(symbol.name for symbol in inputs), cell_name or name, recurs))
        self.shapes[name] = shape
        return Symbol(self, name)

    def _unique(self, name: str, taken: set[str]) -> str:
        taken, candidate, count = taken | {node.name for node in self.nodes}, name, 1
        while candidate in taken:
            candidate, count = f"{name}_{count}", count + 1
        return candidate


def as_graph(network: Network | Graph) -> Graph:
    """The graph itself, or that of a network. Raises QatError for anything else."""
    if isinstance(network, Graph):
        return network
    if isinstance(network, Network):
        return network.graph()
    found = network.__name__ if isinstance(network, type) else f"a {type(network).__name__}"
    raise QatError(f"{found} is neither a qat.Network nor a qat.Graph; give an instance, as LeNet5()")


def as_float_graph(network: Network | Graph, params: Mapping[str, Array]) -> Graph:
    """The graph of a float network with these parameters. Raises QatError where it is quantized, or they do not fit."""
    graph = as_graph(network)
    if graph.is_quantized:
        raise QatError(f"{graph.name} is quantized: give the checkpoint of the float network it was made from")
    graph.check_params(params)
    return graph


def _named_cells(holder: Any, prefix: str, recurs: bool = False) -> Iterator[tuple[int, tuple[str, bool]]]:
    """(id, (name, recurs)) of the cells that a network holds, later names first so that the first attribute wins in a dict."""
    items: list[tuple[str, Any]]
    if isinstance(holder, Network):
        recurs = holder.recurrent
        items = [(name, value) for name, value in vars(holder).items() if name != "inputs"]
    elif isinstance(holder, dict):
        items = [(str(key), value) for key, value in holder.items()]
    else:
        items = [(str(index), value) for index, value in enumerate(holder)]
    for name, value in reversed(items):
        if isinstance(value, Cell):
            yield id(value), (prefix + name, recurs)
        elif isinstance(value, (Network, list, tuple, dict)):
            yield from _named_cells(value, f"{prefix}{name}.", recurs)
