"""What a cell is: parameters, a forward pass, a shape rule and an integer form, each written once."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from qat.cells.facts import OutputChannels, OutputNumbers, check_facts
from qat.cells.tracing import Traced, tracers
from qat.errors import QatError
from qat.vocabulary.activations import RELU_BOUNDS
from qat.vocabulary.ops import Array, Ops, Tensor
from qat.vocabulary.param import Initializer, Param, Shape, constant, he_uniform
from qat.vocabulary.serial import Serializable
from qat.vocabulary.values import Value

__all__ = [
    "Cell",
    "Context",
    "Initializer",
    "Param",
    "Scope",
    "Shape",
    "check_counts",
    "constant",
    "he_uniform",
    "pair",
]

if TYPE_CHECKING:
    from qat.integer import IntegerBuilder, IntegerTensor, Pending
    from qat.quantizers import Quantizer


class Quantized(NamedTuple):
    """What a quantizer was given in a pass: a weight, with whatever is folded into it, or the Value of an activation.

    own: the quantizer's parameters and state; shared: those of the fake quantizers with the same grid. numbers: of the
    weight, or of the activation of one sample.
    """

    quantizer: Quantizer
    x: Any
    own: Mapping[str, Tensor]
    numbers: int
    shared: Sequence[Mapping[str, Tensor]] = ()

    def bits(self, ops: Ops) -> Tensor | None:
        """The bits that training has come to, a scalar, with gradient; None: it decides nothing, they are num_bits."""
        return self.quantizer.bits(ops, self.x, self.own, self.shared)


@dataclass
class Context:
    """What one forward pass knows: the vocabulary, the parameters, and which of its forms to compute."""

    ops: Ops
    params: Mapping[str, Tensor]
    training: bool
    phase: int  #: see ``Forward.phase``; a quantizer is idle while phase < its quant_delay
    updates: dict[str, Tensor]  #: new values of state, written back by the backend after the pass
    quantizes: bool = True  #: False: every quantizer is idle, and observes nothing
    quantized: dict[str, Quantized] = field(default_factory=dict)  #: what a loss may look at, by the quantizer's name
    arithmetic: str = "float"  #: the graph's, in which accumulators become codes
    drop: float = 0.0  #: the share of each activation's numbers that its fake quantizer lets through as they are


@dataclass(frozen=True)
class Scope:
    """A context seen from one cell: its parameters go by their local names."""

    context: Context
    prefix: str
    names: tuple[str, ...]  #: of its parameters and state
    input_shapes: tuple[Shape, ...]

    @property
    def ops(self) -> Ops:
        """The vocabulary that the pass computes with."""
        return self.context.ops

    def param(self, name: str) -> Tensor:
        """A parameter or state of this cell. State that this pass has set already is what it was set to, so that a cell
        that is used twice sees its first use.
        """
        full = self.prefix + name
        updated = self.context.updates.get(full)
        return self.context.params[full] if updated is None else updated

    def params(self) -> dict[str, Tensor]:
        """All its parameters and state, by local name."""
        return {name: self.param(name) for name in self.names}

    @property
    def has_updated(self) -> bool:
        """Whether this pass has set a state of this cell already: it is used again."""
        return any(self.prefix + name in self.context.updates for name in self.names)

    def params_before(self) -> dict[str, Tensor]:
        """All its parameters and state as they were when the pass began."""
        return {name: self.context.params[self.prefix + name] for name in self.names}

    def param_of(self, cell_name: str, name: str) -> Tensor | None:
        """A parameter or state of another cell, as this pass has left it so far; None where it has none of that name."""
        full = f"{cell_name}.{name}"
        return self.context.updates.get(full, self.context.params.get(full))

    def quantizes(self, quantizer: Quantizer) -> bool:
        """True unless the quantizer is idle in this pass."""
        return self.context.quantizes and self.context.phase >= quantizer.quant_delay

    def note(self, name: str, quantized: Quantized) -> None:
        """Let a loss see what this cell quantized; ``name``: of the quantizer in this cell, "" where it is the only one."""
        self.context.quantized[self.prefix + name if name else self.prefix[:-1]] = quantized

    def update(self, name: str, value: Tensor) -> None:
        """Set a state of this cell, from the next pass on."""
        self.context.updates[self.prefix + name] = value


class Cell(Serializable):
    """Base of all cells. A subclass is a frozen dataclass: fields only, no parameters inside.

    Calling a cell inside ``Network.construct`` adds a node to the graph that is being traced.

    A subclass states the facts below, and defines ``output_shape``, ``forward`` and, to be deployed, ``to_integer``; one with
    parameters also defines ``float_params``, ``macs``, ``deployed_parameters``, ``with_channels`` and ``sliced``. None of the
    facts has a default: a class that leaves one out is refused where it is defined, and so is one that computes something
    else than the cell it is derived from (``qat.cells.facts.COMPUTING``) and does not state them anew. A base class that is
    not a cell itself is defined with ``abstract=True``.

    Attributes:
        arity: how many inputs it takes; None: any number, of at least one. Default: 1.
        output_numbers: where the numbers of its output come from, one of ``qat.cells.facts.OutputNumbers``.
        output_channels: how channels pass through it, one of ``qat.cells.facts.OutputChannels``.
        non_negative: True where no number of its output is ever negative; a fake quantizer then tracks no lower end.
        random: True where its forward pass draws random numbers in training.
        one_grid: of a cell with several inputs, True where their codes must have one scale and zero point.
        is_abstract: True for a base of cells, which is not a cell itself.
    """

    arity: ClassVar[int | None] = 1
    is_abstract: ClassVar[bool] = True

    output_numbers: OutputNumbers
    output_channels: OutputChannels
    non_negative: bool
    random: bool
    one_grid: bool

    def __init_subclass__(cls, *, abstract: bool = False, **options: Any) -> None:
        cls.is_abstract = abstract
        if not abstract:  # before it is registered, so that what is refused is not known either
            check_facts(cls, Cell)
        super().__init_subclass__(**options)

    def __call__(self, *inputs: Traced) -> Traced:
        if not tracers:
            raise QatError(
                f"{self.describe} was called outside Network.construct: cells only describe a graph; lower the network with "
                "qat.backend('torch').lower(network) to compute"
            )
        return tracers[-1].add(self, inputs, type(self).snake_name())

    @classmethod
    def takes(cls, count: int) -> bool:
        """Whether it takes so many inputs."""
        return count >= 1 if cls.arity is None else count == cls.arity

    @property
    def keeps_grid(self) -> bool:
        """Its output's codes are codes of its inputs: of the same grid, and as wide."""
        return self.output_numbers == "moved"

    @property
    def keeps_sign(self) -> bool:
        """Its output is not negative where no input is, and f(s x) = s f(x) for s > 0."""
        return self.output_numbers in ("moved", "averaged")

    @property
    def keeps_scale(self) -> bool:
        """Where every input has a channel multiplied by s > 0, so is that channel of its output, up to ``bound``."""
        return self.keeps_sign

    @property
    def bound(self) -> float:
        """No number of its output is larger, by its activation."""
        return RELU_BOUNDS.get(getattr(self, "activation", None) or "", math.inf)

    @property
    def wants_fake_quant(self) -> bool:
        """convert_quant_network puts a fake quantizer after it."""
        return self.output_numbers in ("averaged", "computed")

    @property
    def wants_quantizer(self) -> bool:
        """convert_quant_network gives it a quantizer: of its weight, or a fake quantizer after it."""
        return self.wants_fake_quant

    @property
    def code_bits(self) -> int:
        """How wide the codes are that it makes, where ``output_numbers`` is "coded"."""
        raise NotImplementedError(f"{type(self).__name__} makes no codes of its own")

    def params(self) -> dict[str, Param]:
        """Its parameters and state, by local name. Subclasses define the two parts of it."""
        return self.float_params() | self.quantizer_params()

    def float_params(self) -> dict[str, Param]:
        """Those that the float network has too."""
        return {}

    def quantizer_params(self) -> dict[str, Param]:
        """Those of its quantizers."""
        return {}

    def macs(self, output: Shape, *, with_bias: bool) -> int:
        """Multiply-accumulates of one sample (``qat.analysis.metrics.macs``); output: the shape of its output."""
        return 0

    def products(self, inputs: Sequence[Shape], output: Shape, *, with_bias: bool) -> int:
        """As ``macs``, of a cell whose sums are as long as its inputs are; inputs: their shapes."""
        return self.macs(output, with_bias=with_bias)

    def deployed_parameters(self) -> int:
        """Numbers that are left of its parameters once batch normalisation is folded in."""
        return 0

    @property
    def constants(self) -> tuple[float, ...]:
        """Numbers that it puts beside those of its input, on their grid."""
        return ()

    @property
    def of_channels(self) -> bool:
        """It has numbers of single channels, parameters or fixed ones, of which some go where channels are pruned."""
        return bool(self.float_params())

    def only(self, outputs: Array, inputs: Array) -> Cell:
        """The same cell with some channels of its output and its first input alone, bool (C,), True where one stays."""
        return self.with_channels(int(outputs.sum()), int(inputs.sum()))

    def with_channels(self, outputs: int, inputs: int) -> Cell:
        """The same cell with so many channels in its output and its first input."""
        return self

    def sliced(self, local: str, array: Array, outputs: Array, inputs: Array) -> Array:
        """A parameter without the channels that are pruned; outputs, inputs: bool (C,), True where a channel stays."""
        return array

    def output_shape(self, *shapes: Shape) -> Shape:
        """The shape of its output, of one sample.

        Args:
            shapes: of its inputs, (C, H, W), (C, L) or (F,).

        Raises:
            QatError: the inputs do not fit.
        """
        raise NotImplementedError(f"{type(self).__name__} must define output_shape")

    def forward(self, scope: Scope, *inputs: Value) -> Value:
        """The forward pass over any backend's tensors.

        Args:
            scope: the vocabulary, and the parameters of this cell.
            inputs: what the nodes before gave, with a batch axis.
        """
        raise NotImplementedError(f"{type(self).__name__} must define forward")

    def to_integer(
        self, builder: IntegerBuilder, name: str, params: Mapping[str, Array], *inputs: Any
    ) -> IntegerTensor | Pending:
        """Its integer form: appended to the builder, or pending until the fake quantizer after it says which codes.

        Args:
            builder: gathers the integer graph.
            name: of the node.
            params: of this cell, canonical, by local name.
            inputs: the integer forms of the nodes before.

        Raises:
            QatError: the cell has none.
        """
        raise QatError(
            f"{name}: a {type(self).__name__} has no integer form, so that the network cannot be evaluated or exported "
            "as integers; replace the cell, or give it a to_integer method"
        )

    @property
    def describe(self) -> str:
        """Its class and the fields that differ from their defaults, for printing."""
        shown = {k: f"<{v}>" if isinstance(v, Serializable) else repr(v) for k, v in self.changed_fields().items()}
        return f"{type(self).__name__}({', '.join(f'{k}={v}' for k, v in shown.items())})"

    @classmethod
    def snake_name(cls) -> str:
        """``MaxPool2d`` -> ``max_pool2d``: how nodes are called whose cell has no name of its own."""
        return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", cls.__name__).lower()


def check_counts(owner: str, **counts: int) -> None:
    """Raise QatError unless all are at least 1."""
    for name, value in counts.items():
        if value < 1:
            raise QatError(f"{owner}: {name} is {value!r}; give a whole number of at least 1")


def image_sizes(shape: Shape) -> tuple[int, int, int]:
    """Channels, height and width. Raises QatError for other samples."""
    if len(shape) != 3:
        raise QatError(f"takes (C, H, W) but gets {shape}; move it before the Flatten")
    channels, height, width = shape
    return channels, height, width


def pair(value: int | tuple[int, int]) -> tuple[int, int]:
    """(v, v) for one number, the pair itself for a pair."""
    return (value, value) if isinstance(value, int) else value
