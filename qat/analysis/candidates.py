"""What may be raised where a quantized network loses too much: the weights of single layers, and activations.

A candidate's levels are what it may get in place of what it has, in ascending order of bytes: a scale for each channel, 4 bits,
8 bits; activations 4, 8 and, where every file format that is named takes them, 16 bits.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from qat.analysis.compression import weight_sizes
from qat.analysis.diagnosed import Diagnosis
from qat.analysis.diagnosis import SUFFIX
from qat.analysis.metrics import bops_of, learned_bits
from qat.cells.fake_quant import FakeQuant
from qat.cells.linear import WeightedCell
from qat.errors import QatError
from qat.graph import Graph, Node
from qat.integer.widths import BYTE, bits_of
from qat.passes.convert_quant_network import convert_quant_network
from qat.passes.share_grids import grid_groups
from qat.quantizers import Quantizer
from qat.vocabulary.ops import Array

WIDTHS = (4, 8)  #: bits that every file format packs or stores as they are
WIDE = 16  #: bits of an activation that some file formats take
WEIGHTS, ACTIVATIONS = "weights", "activations"

Settings = Mapping[str, Any]  #: keyword arguments of convert_quant_network


class Level(NamedTuple):
    """What a candidate has or may get.

    Attributes:
        bits: of a code.
        per_channel: of weights, whether each output channel has a scale; True of activations, where it says nothing.
    """

    bits: int
    per_channel: bool = True


@dataclass(frozen=True)
class Candidate:
    """Weights of a layer, or the activations that share a grid.

    Args:
        name: of the layer or layers.
        what: ``WEIGHTS`` or ``ACTIVATIONS``.
        cells: whose quantizer changes, by name: one with weights, or fake quantizers.
        nodes: by which ``layers`` of ``convert_quant_network`` knows them.
        now: what it has.
        levels: what it may get, ascending.
        blame: the share of the outputs' error that it causes (``qat.analysis.diagnosis``).
    """

    name: str
    what: str
    cells: tuple[str, ...]
    nodes: tuple[str, ...]
    now: Level
    levels: tuple[Level, ...]
    blame: float

    def quantizers(self, graph: Graph) -> list[Quantizer]:
        """Its quantizers in a quantized graph."""
        own = _quantizers(graph)
        return [own[key] for name in self.cells if (key := (self.what, name)) in own]

    def words(self, level: Level, other: Level) -> str:
        """A level as text; with its grid where that is another one on the other side."""
        grid = "" if level.per_channel == other.per_channel else ", channel" if level.per_channel else ", tensor"
        return f"{level.bits} bits{grid}"


State = Mapping[Candidate, Level]  #: the candidates that are raised


class Raising:
    """A quantized network, and what its settings and its graph become where candidates are raised.

    Args:
        graph: the float network.
        base: what became of it, quantized with ``settings``.
        settings: of ``convert_quant_network``.
    """

    def __init__(self, graph: Graph, base: Graph, settings: Settings) -> None:
        self.floats, self.base, self._settings = graph, base, settings
        self._graphs: dict[frozenset[tuple[Candidate, Level]], Graph] = {frozenset(): base}

    def settings(self, state: State) -> dict[str, Any]:
        """Keyword arguments of ``convert_quant_network``, with the raised levels as further entries of ``layers``."""
        layers = dict(self._settings.get("layers") or {})
        for node, entry in _entries(self.base, state).items():
            # Behind all others, since the last pattern that fits counts; what an entry of this very name said stays.
            layers[node] = {**layers.pop(node, {}), **entry}
        return {**self._settings, "layers": layers} if layers else dict(self._settings)

    def graph(self, state: State) -> Graph:
        """The quantized graph. Raises QatError where the settings cannot be had."""
        key = frozenset(state.items())
        if key not in self._graphs:
            self._graphs[key] = convert_quant_network(self.floats, **self.settings(state))
        return self._graphs[key]

    def gives(self, state: State) -> bool:
        """Whether the settings raise those candidates, and change nothing else."""
        try:
            before, after = _quantizers(self.base), _quantizers(self.graph(state))
        except QatError:
            return False
        wanted = {(x.what, name): level for x, level in state.items() for name in x.cells}

        def right(key: tuple[str, str]) -> bool:
            now, then = before[key], after[key]
            if key not in wanted:
                return now == then
            changed: dict[str, Any] = {"num_bits": wanted[key].bits}
            if key[0] == WEIGHTS:
                changed["per_channel"] = wanted[key].per_channel
            return then == replace(now, **changed)

        return before.keys() == after.keys() and all(map(right, before))

    def accepted(self, found: Sequence[Candidate]) -> list[Candidate]:
        """Those that can be raised to each of their levels; a scale for each channel is left out of the levels where a layer
        cannot have it.
        """
        if not found or all(map(self.gives, together(found))):
            return [*found]
        if len(found) > 1:
            middle = len(found) // 2
            return [*self.accepted(found[:middle]), *self.accepted(found[middle:])]
        (one,) = found
        coarse = tuple(Level(x.bits, one.now.per_channel) for x in one.levels if x.bits > one.now.bits)
        levels = coarse if coarse != one.levels else one.levels[:-1]
        return self.accepted([replace(one, levels=levels)] if levels else [])


def together(found: Sequence[Candidate]) -> list[dict[Candidate, Level]]:
    """All at their first level, all at their second, and so on; those that have no further one stay at their last."""
    most = max((len(x.levels) for x in found), default=0)
    return [{x: x.levels[min(number, len(x.levels) - 1)] for x in found} for number in range(most)]


def candidates(raising: Raising, found: Diagnosis, widest: int = BYTE) -> list[Candidate]:
    """All that may be raised and has something to blame, the most to blame first.

    Args:
        raising: the quantized network.
        found: its diagnosis.
        widest: bits of an activation at most, 8 or 16.

    Returns:
        Those whose levels ``convert_quant_network`` gives them, and to nothing else.
    """
    rough = [*_of_weights(raising.base, found), *_of_activations(raising.floats, raising.base, found, widest)]
    kept = raising.accepted([x for x in rough if x.levels and x.blame > 0.0])
    return sorted(kept, key=lambda x: -x.blame)


def _of_weights(base: Graph, found: Diagnosis) -> Iterable[Candidate]:
    blame: dict[str, float] = {}
    sizes = _numbers(base)
    for row in found.layers:
        own = {name: sizes.get(name, 0) for name in row.weights}
        whole = sum(own.values())
        for name, count in own.items():
            if count:
                blame[name] = blame.get(name, 0.0) + row.blame * row.weight_share * count / whole
    quantizers, nodes = _quantizers(base), _nodes_of_cells(base)
    for name, share in blame.items():
        quantizer: Any = quantizers[WEIGHTS, name]
        now = Level(quantizer.num_bits, quantizer.per_channel)
        wider = [Level(bits) for bits in WIDTHS if bits > now.bits and _fit_a_byte(quantizer, bits)]
        finer = [] if now.per_channel else [Level(now.bits)]
        yield Candidate(name, WEIGHTS, (name,), nodes[name], now, (*finer, *wider), share)


def _of_activations(graph: Graph, base: Graph, found: Diagnosis, widest: int) -> Iterable[Candidate]:
    """Of fake quantizers that have to change together: they share a grid, or one setting is that of both."""
    quantizers = _quantizers(base)
    blame = {row.name: row.blame * (1.0 - row.weight_share) for row in found.layers}
    followed = {node.cell_name: node for node in base.nodes if isinstance(node.cell, FakeQuant)}
    groups: list[set[str]] = []
    by_owner: dict[str, list[str]] = {}
    for name in followed:
        by_owner.setdefault(name.rpartition(".")[0], []).append(name)
    for names in (*grid_groups(base), *by_owner.values()):
        joined = set(names).union(*(group for group in groups if group & set(names)))
        groups = [group for group in groups if not group & joined] + [joined]
    for group in groups:
        cells = [name for name in followed if name in group]
        owners = list(dict.fromkeys(name.rpartition(".")[0] for name in cells))
        now = min(quantizers[ACTIVATIONS, name].num_bits for name in cells)
        widths = (*WIDTHS, WIDE) if widest > BYTE else WIDTHS
        levels = [
            Level(bits)
            for bits in widths
            if bits > now and all(bits > BYTE or _fit_a_byte(quantizers[ACTIVATIONS, name], bits) for name in cells)
        ]
        share = sum(blame.get(name.removesuffix(SUFFIX), 0.0) for name in cells)
        nodes = [each for name in owners for each in _joined(graph, base, name)]
        shown = [name.removesuffix(SUFFIX) for name in cells if name.endswith(SUFFIX)] or cells
        yield Candidate(
            " + ".join(shown), ACTIVATIONS, tuple(cells), tuple(dict.fromkeys(nodes)), Level(now), tuple(levels), share
        )


def _joined(graph: Graph, base: Graph, name: str) -> list[str]:
    """A node, and those of the float network that became a part of it (``join_linear``): all need its settings."""
    floats, kept, found = {node.name: node for node in graph.nodes}, {node.name for node in base.nodes}, [name]
    node = floats.get(name)
    while node is not None and node.inputs and node.inputs[0] not in kept:
        node = floats.get(node.inputs[0])
        found += [] if node is None else [node.name]
    return found


def _fit_a_byte(quantizer: Quantizer, bits: int) -> bool:
    """Whether a quantizer has such codes, and they are of a byte: DoReFa's have a bit more."""
    try:
        wider = replace(quantizer, num_bits=bits)
    except QatError:
        return False
    return bits_of(wider.qmin, wider.qmax) <= BYTE


def _quantizers(graph: Graph) -> dict[tuple[str, str], Quantizer]:
    """All quantizers, by what they quantize and the name of their cell."""
    found: dict[tuple[str, str], Quantizer] = {}
    for node in graph.nodes:
        cell: Any = node.cell
        if isinstance(cell, FakeQuant):
            found[ACTIVATIONS, node.cell_name] = cell.quantizer
        elif getattr(cell, "weight_quantizer", None) is not None:
            found[WEIGHTS, node.cell_name] = cell.weight_quantizer
    return found


def _numbers(base: Graph) -> dict[str, int]:
    """The weights of each convolution and dense cell that is quantized."""
    cells = {node.cell_name: node.cell for node in base.nodes if isinstance(node.cell, WeightedCell)}
    return {name: cell.deployed_weights for name, cell in cells.items() if cell.weight_quantizer is not None}


def _setting_name(node: Node) -> str:
    return node.cell_name if node.recurs else node.name


def _nodes_of_cells(base: Graph) -> dict[str, tuple[str, ...]]:
    found: dict[str, dict[str, None]] = {}
    for node in base.nodes:
        if isinstance(node.cell, WeightedCell):
            found.setdefault(node.cell_name, {})[_setting_name(node)] = None
    return {name: tuple(nodes) for name, nodes in found.items()}


def _entries(base: Graph, state: State) -> dict[str, dict[str, Any]]:
    """Settings of ``layers`` by node."""
    quantizers: Any = _quantizers(base)
    weights = {node: name for name, nodes in _nodes_of_cells(base).items() for node in nodes}
    wanted: dict[str, dict[str, Level]] = {}
    for candidate, level in state.items():
        for node in candidate.nodes:
            wanted.setdefault(node, {})[candidate.what] = level
    found = {}
    for node, own in wanted.items():
        now, after = quantizers.get((WEIGHTS, weights.get(node))), quantizers.get((ACTIVATIONS, f"{node}{SUFFIX}"))
        bits = {WEIGHTS: now, ACTIVATIONS: after}
        told = {what: x.num_bits for what, x in bits.items() if x is not None} | {
            what: x.bits for what, x in own.items()
        }
        other = next(iter(told.values()))
        entry: dict[str, Any] = {"num_bits": (told.get(WEIGHTS, other), told.get(ACTIVATIONS, other))}
        if WEIGHTS in own and own[WEIGHTS].per_channel != now.per_channel:
            entry["per_channel"] = (own[WEIGHTS].per_channel, False)
        found[node] = entry
    return found


class Costs:
    """What a network costs with some candidates raised, without converting it each time.

    Args:
        raising: the quantized network.
        params: its parameters, for learned bits.
        found: the candidates.
    """

    def __init__(self, raising: Raising, params: Mapping[str, Array], found: Sequence[Candidate]) -> None:
        self._graph, self._learned = raising.base, learned_bits(raising.base, params)
        self._bits = {x.name: x.total_bits for x in weight_sizes(raising.base, params)}
        self._levels: dict[tuple[str, Level], int] = {}
        for state in together([x for x in found if x.what == WEIGHTS]):
            sizes = {x.name: x.total_bits for x in weight_sizes(raising.graph(state), params)}
            self._levels |= {(x.name, level): sizes[x.name] for x, level in state.items()}

    def weight_bytes(self, state: State) -> int:
        """Of all weights with their scales, packed without gaps and rounded up to whole bytes."""
        raised = {x.name: self._levels[x.name, level] for x, level in state.items() if x.what == WEIGHTS}
        return -(-sum((self._bits | raised).values()) // BYTE)

    def bops(self, state: State) -> int:
        """Bit operations for one sample."""
        told = {
            f"{name}.weight" if x.what == WEIGHTS else name: level.bits
            for x, level in state.items()
            for name in x.cells
        }
        return sum(bops_of(self._graph, self._learned | told).values())
