"""The graph: an immutable, ordered list of named nodes, without parameters."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np

from qat.cells.base import Cell, Param, Shape
from qat.cells.dequantize import Dequantize
from qat.cells.fake_quant import FakeQuant
from qat.cells.input import Input
from qat.cells.linear import LinearCell
from qat.cells.weight_codes import MASK, OF_QUANTIZER
from qat.errors import QatError, shortened
from qat.integer.fixed_point import ARITHMETICS, check_arithmetic
from qat.names import check_name
from qat.quantizers import Quantizer
from qat.reading import LARGEST_JSON, reason_of
from qat.tables import counted
from qat.vocabulary.arrays import ArraySpec
from qat.vocabulary.fields import check_type
from qat.vocabulary.listing import Listed, Listing, Row, dimensions
from qat.vocabulary.ops import Array
from qat.vocabulary.serial import from_json

Params = dict[str, Array]  #: canonical float32 arrays by full name, as "conv1.weight"
FORMAT = 1  #: of the JSON form
#: Nodes; numbers of one sample over all nodes; parameters. Much beyond any network, and little enough for any computer: a
#: few bytes of a file could declare more than there is memory.
MOST_NODES, MOST_NUMBERS, MOST_PARAMETERS = 10_000, 1 << 27, 1 << 28


@dataclass(frozen=True)
class Node:
    """One use of a cell. Names are those that ``qat.names`` allows.

    Attributes:
        name: unique in its graph.
        cell: what it computes.
        inputs: the names of the nodes whose outputs it takes.
        cell_name: the prefix of its parameters; two nodes of one cell share them.
        recurs: it is a step of a recurrence: all nodes of its cell have one fake quantizer. Default: False, each has its own.
    """

    name: str
    cell: Cell
    inputs: tuple[str, ...]
    cell_name: str
    recurs: bool = False

    def own(self, params: Mapping[str, Array]) -> Params:
        """Its cell's parameters and state by local name, of those of the network by full name."""
        return {local: params[f"{self.cell_name}.{local}"] for local in self.cell.params()}

    def full(self, own: Mapping[str, Array]) -> Params:
        """Its cell's parameters by full name."""
        return {f"{self.cell_name}.{local}": array for local, array in own.items()}

    def follower(self, suffix: str, cell: Cell, source: str) -> Node:
        """A node ``<name>.<suffix>`` that belongs to this one; those of the steps of a recurrence have one cell."""
        owner = self.cell_name if self.recurs else self.name
        return Node(f"{self.name}.{suffix}", cell, (source,), f"{owner}.{suffix}", self.recurs)


@dataclass(frozen=True)
class Graph(Listed):
    """A network without its parameters. Immutable; equal graphs have equal hashes.

    Attributes:
        nodes: in order of computation, each after its inputs.
        outputs: the names of the nodes that give the network's outputs.
        name: of the network; default "network".
        arithmetic: of a quantized network, how sums become codes in training, evaluation and deployment, "float" or "fixed"
            (docs/numerics.md); default "float".

    Raises:
        QatError: a name is not allowed or used twice, an input or output is missing, or shapes or sizes do not fit.
    """

    nodes: tuple[Node, ...]
    outputs: tuple[str, ...]
    name: str = "network"
    arithmetic: str = "float"

    def __post_init__(self) -> None:
        check_name(self.name, "network")
        check_arithmetic(self.arithmetic, self.name)
        for node in self.nodes:
            check_name(node.name, f"{self.name}: node")
            check_name(node.cell_name, f"{self.name}: cell")
        seen: set[str] = set()
        for node in self.nodes:
            if node.name in seen:
                raise QatError(f"{node.name}: two nodes of {self.name} have this name; names must be unique")
            missing = [name for name in node.inputs if name not in seen]
            if missing:
                raise QatError(f"{node.name}: its input {missing[0]!r} is not a node before it in {self.name}")
            check_inputs(node.name, node.cell, len(node.inputs))
            seen.add(node.name)
        missing = [name for name in self.outputs if name not in seen]
        if missing or not self.outputs:
            raise QatError(f"{self.name}: its output {missing[0] if missing else '(none)'!r} is not a node of it")
        owners: dict[str, Cell] = {}
        for node in self.nodes:
            if owners.setdefault(node.cell_name, node.cell) != node.cell:
                raise QatError(f"{node.cell_name}: two different cells have this name; names must be unique")
        for node in self.nodes:
            if isinstance(node.cell, FakeQuant):
                _check_signs(node.name, node.cell)
            for name in node.cell.shares if isinstance(node.cell, FakeQuant) else ():
                if not isinstance(owners.get(name), FakeQuant):
                    raise QatError(
                        f"{node.name}: shares its grid with {name!r}, which is not a fake quantizer of {self.name}"
                    )
        self._check_sizes()

    def _check_sizes(self) -> None:
        """Raise QatError where shapes do not fit, or there is more of something than any computer should be asked for."""
        if len(self.nodes) > MOST_NODES:
            raise QatError(f"{self.name}: has {len(self.nodes):,} nodes, but {MOST_NODES:,} are the most; use fewer")
        numbers = sum(math.prod(shape) for shape in self.shapes.values())
        if numbers > MOST_NUMBERS:
            raise QatError(
                f"{self.name}: one sample takes {numbers:,} numbers over all nodes, but {MOST_NUMBERS:,} are the most; use "
                "smaller images or fewer channels"
            )
        parameters = sum(math.prod(param.shape) for param in self.params.values())
        if parameters > MOST_PARAMETERS:
            raise QatError(
                f"{self.name}: has {parameters:,} parameters, but {MOST_PARAMETERS:,} are the most; use fewer channels"
            )

    @property
    def inputs(self) -> tuple[Node, ...]:
        """The nodes where data enter."""
        return tuple(node for node in self.nodes if isinstance(node.cell, Input))

    @property
    def is_quantized(self) -> bool:
        """True after convert_quant_network."""
        return any(quantizers_of(node.cell) for node in self.nodes)

    @cached_property
    def in_float(self) -> frozenset[str]:
        """The nodes of a quantized network whose outputs are left in float: from a Dequantize to the next fake quantizer."""
        found: set[str] = set()
        for node in self.nodes:
            behind = not isinstance(node.cell, FakeQuant) and not found.isdisjoint(node.inputs)
            if behind or isinstance(node.cell, Dequantize):
                found.add(node.name)
        return frozenset(found)

    @property
    def is_random(self) -> bool:
        """True where training draws random numbers, as for a Dropout."""
        return any(node.cell.random for node in self.nodes)

    @property
    def quant_delay(self) -> int:
        """The step from which on every quantizer quantizes in training; 0 where there is none."""
        return max((q.quant_delay for node in self.nodes for q in quantizers_of(node.cell)), default=0)

    @cached_property
    def phase_starts(self) -> tuple[int, ...]:
        """The steps at which the forward pass of training changes its form, ascending from 0: where a quantizer begins or
        has begun, and where batch normalisation is frozen.
        """
        starts = {0}
        for node in self.nodes:
            starts |= {start for quantizer in quantizers_of(node.cell) for start in quantizer.phase_starts}
            if isinstance(node.cell, LinearCell) and node.cell.has_bn:
                starts.add(node.cell.freeze_bn)
        return tuple(sorted(starts))

    @cached_property
    def shapes(self) -> dict[str, Shape]:
        """The output shape of each node, of one sample."""
        shapes: dict[str, Shape] = {}
        for node in self.nodes:
            shapes[node.name] = shape_of(node.name, node.cell, *(shapes[name] for name in node.inputs))
        return shapes

    @cached_property
    def input_specs(self) -> tuple[ArraySpec, ...]:
        """Shape and dtype of the arrays that each input takes."""
        return tuple(node.cell.spec for node in self.inputs if isinstance(node.cell, Input))

    @cached_property
    def params(self) -> dict[str, Param]:
        """Every parameter and state by full name, in order."""
        return {
            f"{node.cell_name}.{local}": param for node in self.nodes for local, param in node.cell.params().items()
        }

    @cached_property
    def shared_cells(self) -> frozenset[str]:
        """The cells, by name, that several nodes use."""
        uses = Counter(node.cell_name for node in self.nodes)
        return frozenset(name for name, count in uses.items() if count > 1)

    def consumers(self, name: str) -> list[Node]:
        """The nodes that take the output of the named one."""
        return [node for node in self.nodes if name in node.inputs]

    def initial_params(self, seed: int = 0) -> Params:
        """Fresh parameters, float32 by full name. Each depends on the seed and its own name alone."""
        check_type("seed", seed, int)
        if seed < 0:
            raise QatError(f"seed is {seed}; use a whole number of at least 0")
        return {name: param.create(seed, name) for name, param in self.params.items()}

    def params_from(self, params: Mapping[str, Array], seed: int = 0) -> Params:
        """The parameters with which this network starts from those of another version of it, as a quantized one from float.

        Weights, biases, batch normalisations and masks are taken. What quantizers observe or learn starts anew, whether or not
        the others have it too: the range or scale of 8 bits is not that of 4. So it serves from float to quantized, from
        quantized to quantized with other settings, and back to float.

        Args:
            params: float32 by full name, of the float network or of a quantized one made of it.
            seed: of the parameters of quantizers.

        Returns:
            Parameters of this graph by full name.

        Raises:
            QatError: naming what is missing, unknown or misshapen, where they are those of another network.

        >>> import qat
        >>> from qat.networks import LeNet5
        >>> trained = LeNet5().graph().initial_params(seed=1)
        >>> quantized = qat.convert_quant_network(LeNet5(), num_bits=4)
        >>> params = quantized.params_from(trained)
        >>> len(trained), len(params), bool((params["fc1.weight"] == trained["fc1.weight"]).all())
        (8, 14, True)
        """
        own = self.initial_params(seed)
        if isinstance(params, Mapping):  # ``check_params`` refuses anything else
            taken = {name: array for name, array in params.items() if not _is_quantizers(name)}
            params = {name: array for name, array in own.items() if _is_quantizers(name)} | taken
        self.check_params(params)
        return {name: params[name] for name in own}

    def observed_params(self, seed: int = 0) -> Params:
        """As ``initial_params``, but with ranges as if numbers from -1 to 1 had been observed, or twice as far as the numbers
        reach that a Pad puts beside them, so that few codes have one for these: for trying things out.
        """
        params = self.initial_params(seed)
        reach = np.float32(max((1.0, *(2 * abs(value) for node in self.nodes for value in node.cell.constants))))
        return {name: a if np.isfinite(a).all() else -np.sign(a) * reach for name, a in params.items()}

    def check_params(self, params: Mapping[str, Array], source: str = "params") -> None:
        """Raise QatError unless ``params`` hold exactly what this graph needs: float32 arrays in the right shapes."""
        if not isinstance(params, Mapping):
            raise QatError(
                f"{source}: is a {type(params).__name__}; give a dict of arrays by their names in {self.name}"
            )
        missing = [name for name in self.params if name not in params]
        unknown = [name for name in params if name not in self.params]
        if missing or unknown:
            if all(map(_is_quantizers, (*missing, *unknown))):  # the same network, but for its quantizers
                kind = "quantized" if self.is_quantized else "float"
                found = f"hold {unknown[0]!r}" if unknown else f"lack {missing[0]!r}"
                raise QatError(
                    f"{source}: they {found}, which is of a quantizer, where {self.name} is {kind} with other or no "
                    "quantizers; give graph.params_from(params), which keeps the weights and starts quantizers anew"
                )
            found = f"lack {missing[0]!r}" if missing else f"hold {unknown[0]!r}, which it does not know"
            raise QatError(f"{source}: they {found}, so they belong to another network than {self.name}; give its own")
        for name, param in self.params.items():
            array = params[name]
            if not isinstance(array, (np.ndarray, np.generic)):
                raise QatError(
                    f"{source}: {name!r} is a {type(array).__name__}; give a NumPy array, as np.asarray makes it"
                )
            if array.shape != param.shape:
                raise QatError(
                    f"{source}: {name!r} has shape {array.shape} but {self.name} needs {param.shape}; the parameters "
                    "belong to another network; give its own"
                )
            if array.dtype != np.float32:  # every engine is to derive its integers from the same numbers
                raise QatError(
                    f"{source}: {name!r} is {array.dtype}, not float32; give params[{name!r}].astype(np.float32)"
                )

    def not_finite(self, params: Mapping[str, Array]) -> str | None:
        """What is infinite or NaN among the parameters, in words; None: nothing. The range of a fake quantizer that has
        observed nothing yet, from infinity to -infinity, is left out.
        """
        for name, param in self.params.items():
            if name not in params:  # ``check_params`` says that
                continue
            wrong = ~np.isfinite(params[name])
            if wrong.any() and not param.trainable:
                wrong &= params[name] != param.create(0, name)
            if wrong.any():
                return f"{name!r} holds {params[name][wrong][0]}"
        return None

    def count_trainable(self) -> int:
        """How many numbers are trained."""
        return sum(math.prod(param.shape) for param in self.params.values() if param.trainable)

    def to_json(self) -> str:
        """One line of JSON; ``Graph.from_json`` reads it back to an equal graph."""
        nodes = [
            {"name": node.name, "cell": node.cell.to_json(), "inputs": node.inputs, "cell_name": node.cell_name}
            | ({"recurs": True} if node.recurs else {})
            for node in self.nodes
        ]
        own = {} if self.arithmetic == ARITHMETICS[0] else {"arithmetic": self.arithmetic}
        return json.dumps({"format": FORMAT, "name": self.name, "nodes": nodes, "outputs": self.outputs} | own)

    @classmethod
    def from_json(cls, text: str) -> Graph:
        """The graph that ``to_json`` wrote. Raises QatError where the text is not a valid graph."""
        try:
            if len(text) > LARGEST_JSON:
                raise ValueError(f"it has {len(text):,} characters, but {LARGEST_JSON:,} are the most")
            data: Any = json.loads(text)
            version = data["format"]
            if version != FORMAT or isinstance(version, bool):
                raise QatError(
                    f"the graph has format {shortened(version)} but this release reads {FORMAT}; use a matching release"
                )
            if len(data["nodes"]) > MOST_NODES:
                raise QatError(f"the graph has {len(data['nodes']):,} nodes, but {MOST_NODES:,} are the most")
            nodes = tuple(
                Node(
                    _text(n["name"]),
                    from_json(n["cell"], Cell),
                    _texts(n["inputs"]),
                    _text(n["cell_name"]),
                    _truth(n.get("recurs", False)),
                )
                for n in data["nodes"]
            )
            arithmetic = _text(data.get("arithmetic", ARITHMETICS[0]))
            return cls(nodes, _texts(data["outputs"]), _text(data["name"]), arithmetic)
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            raise QatError(
                f"the graph is not a valid JSON form of a network ({reason_of(error)}): the file is damaged"
            ) from None

    @cached_property
    def digest(self) -> str:
        """Sixteen hexadecimal digits that differ between different graphs."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:16]

    @property
    def _listing(self) -> Listing:
        rows = []
        for node in self.nodes:
            count = sum(math.prod(p.shape) for p in node.cell.params().values() if p.trainable)
            kind, _, given = node.cell.describe.removesuffix(")").partition("(")
            texts = (
                node.name,
                kind,
                ", ".join(node.inputs),
                dimensions(self.shapes[node.name]),
                f"{count:,}" if count else "",
            )
            rows.append(Row(texts, given))
        title = f"{self.name}: {counted(self.count_trainable(), 'trainable parameter')}"
        return Listing(title, ("node", "cell", "inputs", "output shape", "parameters"), tuple(rows))

    def __repr__(self) -> str:
        kind = "quantized" if self.is_quantized else "float"
        shapes = " and ".join(dimensions(x.shape) for x in self.input_specs)
        return f"Graph of {self.name}, {kind}, {counted(len(self.nodes), 'node')}, input {shapes}"


def check_inputs(name: str, cell: Cell, count: int) -> None:
    """Raise QatError unless the cell of the named node takes so many inputs."""
    if not cell.takes(count):
        wanted = "at least one input" if cell.arity is None else counted(cell.arity, "input")
        raise QatError(f"{name}: a {type(cell).__name__} takes {wanted} but gets {count}")


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{shortened(value)} where a name is expected")
    return value


def _truth(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{shortened(value)} where true or false is expected")
    return value


def _texts(values: Any) -> tuple[str, ...]:
    if not isinstance(values, list):
        raise TypeError(f"{shortened(values)} where a list of names is expected")
    return tuple(map(_text, values))


def shape_of(name: str, cell: Cell, *shapes: Shape) -> Shape:
    """What a node makes of such inputs. Raises QatError with its name where they do not fit."""
    try:
        return cell.output_shape(*shapes)
    except QatError as error:
        raise QatError(f"{name} ({type(cell).__name__}) {error}") from None


def _check_signs(name: str, cell: FakeQuant) -> None:
    """Raise QatError where a quantizer cannot take the numbers that come."""
    refusal = cell.quantizer.refuses(cell.non_negative)
    if refusal:
        numbers, bits = "are never negative" if cell.non_negative else "may be negative", cell.quantizer.num_bits
        raise QatError(
            f"{name}: its numbers {numbers}, which a {type(cell.quantizer).__name__} of {bits} bit{'s' * (bits > 1)} cannot "
            f"take: {refusal}; change the activation before it, or give this layer another activation_quantizer"
        )


def _is_quantizers(name: str) -> bool:
    """Whether a parameter is one that a quantizer observes or learns, of an activation or of a weight."""
    cell, _, local = name.rpartition(".")
    return cell.endswith("fake_quant") or (local.startswith(OF_QUANTIZER) and local != MASK)


def quantizers_of(cell: Cell) -> list[Quantizer]:
    """The quantizers among a cell's fields."""
    values = (getattr(cell, field.name) for field in fields(cell))  # type: ignore[arg-type]
    return [value for value in values if isinstance(value, Quantizer)]
