"""Removing channels: a smaller network that computes what the large one computes with these channels set to 0."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from qat.cells.base import Cell
from qat.errors import QatError
from qat.graph import Graph, Network, Node, Params, as_graph
from qat.pruning.groups import ChannelGroup, Channels, channel_groups, require_float
from qat.vocabulary.ops import Array

SCOPES = ("global", "layer")
Budget = tuple[Callable[[Graph], int], int]  #: a cost of a graph, and its limit


def prune_channels(
    network: Network | Graph,
    params: Mapping[str, Array],
    importance: Mapping[str, Array],
    *,
    ratio: float | None = None,
    keep: Mapping[str, int] | None = None,
    budget: Budget | None = None,
    scope: str = "global",
    minimum: int = 1,
    multiple_of: int = 1,
) -> tuple[Graph, Params]:
    """Remove the least important channels of a float network. Give one of ``ratio``, ``keep`` and ``budget``.

    The importance of a unit (``channel_groups``) is the sum over its channels that have one; a unit without any stays.
    Of equal units the later one is removed first.

    Args:
        network: a float network or graph.
        params: its parameters.
        importance: a number for each output channel, (O,), by cell, as ``l1_importance`` gives it.
        ratio: the share of the ranked channels to remove, 0 to below 1.
        keep: how many channels of a group stay, by group; other groups stay whole.
        budget: a cost of a graph and its limit, as (``qat.metrics.total_macs``, 100_000) or (``Graph.count_trainable``,
            5_000); as many channels go as are needed to meet it.
        scope: "global", the default: rank all channels of the network together, for a budget by importance over saved
            cost; "layer": remove the same share of each group.
        minimum: channels that each group keeps at least; 1 by default.
        multiple_of: round up what each group keeps to a multiple of this number, for kernels that need it; 1 by
            default.

    Returns:
        The smaller graph and its parameters.

    Raises:
        QatError: for a quantized network, where no channel can be removed, for arguments out of range, and where a
            budget cannot be met.

    >>> import qat
    >>> from qat.networks import LeNet5
    >>> graph = LeNet5().graph()
    >>> params = graph.initial_params(0)
    >>> importance = qat.pruning.l1_importance(graph, params)
    >>> smaller, params = qat.pruning.prune_channels(graph, params, importance, ratio=0.5)
    >>> qat.metrics.total_macs(smaller) < qat.metrics.total_macs(graph)
    True
    """
    graph = as_graph(network)
    require_float(graph)
    graph.check_params(params)
    _check_numbers(minimum, multiple_of, scope)
    given = [name for name, value in (("ratio", ratio), ("keep", keep), ("budget", budget)) if value is not None]
    if len(given) != 1:
        raise QatError(f"prune_channels: takes one of ratio, keep and budget, but got {', '.join(given) or 'none'}")
    ranking = _Ranking(graph, importance, minimum, multiple_of)
    if keep is not None:
        removed = ranking.keeping(keep)
    elif ratio is not None:
        if not 0.0 <= ratio < 1.0:
            raise QatError(f"prune_channels: ratio is {ratio!r}; use a share of the channels from 0 to below 1")
        removed = ranking.least(ratio, scope)
    else:
        assert budget is not None
        removed = _within(graph, ranking, budget, scope)
    return remove_channels(graph, params, removed)


def remove_channels(graph: Graph, params: Mapping[str, Array], removed: Sequence[Channels]) -> tuple[Graph, Params]:
    """Remove units of ``channel_groups`` from a float network.

    The outputs are those of the large network with the removed channels set to 0 wherever they appear.

    Args:
        graph: a float graph.
        params: its parameters.
        removed: the units to remove: positions of output channels by node.

    Returns:
        The smaller graph and its parameters.

    Raises:
        QatError: where a node would lose all of its channels.
    """
    kept = _kept(graph, removed)
    result = dict(params)
    for node in graph.nodes:
        for local in node.cell.float_params():
            full = f"{node.cell_name}.{local}"
            array = np.asarray(params[full])
            result[full] = node.cell.sliced(local, array, kept[node.name], kept[node.inputs[0]])
    smaller = _smaller_graph(graph, kept)
    smaller.check_params(result)
    return smaller, result


def _kept(graph: Graph, removed: Sequence[Channels]) -> dict[str, Array]:
    """For each node, which of its output channels stay, bool (C,)."""
    kept = {name: np.ones(shape[0], bool) for name, shape in graph.shapes.items()}
    for unit in removed:
        for name, positions in unit.items():
            kept[name][list(positions)] = False
    return kept


def _smaller_graph(graph: Graph, kept: Mapping[str, Array]) -> Graph:
    nodes = [
        replace(node, cell=_smaller(node, kept[node.name], kept[node.inputs[0]])) if node.inputs else node
        for node in graph.nodes
    ]
    return replace(graph, nodes=tuple(nodes))


def _smaller(node: Node, mine: Array, source: Array) -> Cell:
    """The cell with only the channels that are kept. Raises QatError where none is left."""
    if not mine.any() or not source.any():
        raise QatError(f"{node.name}: all of its channels would be removed; keep at least one")
    return node.cell.only(mine, source)


class _Ranking:
    """The units of a network in the order of importance, the least first, and how many of them may be removed."""

    def __init__(self, graph: Graph, importance: Mapping[str, Array], minimum: int, multiple_of: int) -> None:
        self._graph, self._minimum, self._multiple = graph, minimum, multiple_of
        self.groups = channel_groups(graph)
        self._scores = [self._scored(group, importance) for group in self.groups]
        self.order = sorted(
            (
                (score, -group, -unit)
                for group, scores in enumerate(self._scores)
                for unit, score in enumerate(scores)
                if np.isfinite(score)
            ),
        )
        if not self.order:
            raise QatError(
                f"{graph.name}: no channel can be removed: those of its inputs and outputs have to stay, and no other one "
                "has an importance"
            )

    def _scored(self, group: ChannelGroup, importance: Mapping[str, Array]) -> list[float]:
        cells = {node.name: node.cell_name for node in self._graph.nodes if node.cell.float_params()}
        for name in cells:
            given = importance.get(cells[name])
            if given is not None and np.shape(given) != self._graph.shapes[name][:1]:
                raise QatError(
                    f"{name}: its importance has shape {np.shape(given)} where it has {self._graph.shapes[name][0]} output "
                    "channels; give a number for each"
                )
        scores = []
        for unit in group.units:
            channels = {(cells[name], p) for name, positions in unit.items() if name in cells for p in positions}
            values = [float(importance[cell][p]) for cell, p in channels if cell in importance]
            scores.append(float(np.sum(sorted(values))) if values else np.inf)
        if np.isnan(scores).any():
            raise QatError(
                f"{group.name}: the importance of a channel is missing or not a number; train the network anew"
            )
        return scores

    def by_saving(self, cost: Callable[[Graph], int]) -> None:
        """Rank by importance over what a unit saves of a cost; the units of a group save alike."""
        whole = cost(self._graph)
        savings = [self._saving(group, cost, whole) for group in self.groups]
        self.order = sorted((score / savings[-group], group, unit) for score, group, unit in self.order)

    def _saving(self, group: ChannelGroup, cost: Callable[[Graph], int], whole: int) -> float:
        shapes = self._graph.shapes
        for unit in group.units:
            if all(shapes[name][0] > len(positions) for name, positions in unit.items()):
                return float(max(whole - cost(_smaller_graph(self._graph, _kept(self._graph, [unit]))), 1))
        return 1.0  # none of its units can be removed

    def least(self, ratio: float, scope: str) -> list[Channels]:
        """That share of all units that have an importance, or of those of each group."""
        if scope == "global":
            return self._removed(int(ratio * len(self.order) + 1e-9))
        ranked = [int(np.isfinite(scores).sum()) for scores in self._scores]
        return self._removed(len(self.order), [int(ratio * count + 1e-9) for count in ranked])

    def keeping(self, keep: Mapping[str, int]) -> list[Channels]:
        """So many units of each group that is named."""
        by_name = {group.name: group for group in self.groups}
        for name, count in keep.items():
            if name not in by_name:
                raise QatError(
                    f"keep: {name!r} is not a group of channels of {self._graph.name}; use {', '.join(by_name)}"
                )
            if not 1 <= count <= len(by_name[name]):
                raise QatError(
                    f"keep: {name} cannot keep {count!r} of its {len(by_name[name])} channels; use 1 to {len(by_name[name])}"
                )
        limits = [len(group) - keep.get(group.name, len(group)) for group in self.groups]
        for group, scores, limit in zip(self.groups, self._scores, limits, strict=True):
            ranked = int(np.isfinite(scores).sum())
            if limit > ranked:
                raise QatError(
                    f"keep: {limit} channels of {group.name} would go, but {ranked} of them have an importance; rank them by "
                    "another criterion"
                )
        return self._removed(len(self.order), limits)

    def _removed(self, count: int, limits: Sequence[int] | None = None) -> list[Channels]:
        """Remove from the least important on, ``count`` units at most, within ``limits`` for each group."""
        left = {name: shape[0] for name, shape in self._graph.shapes.items()}
        least = {name: min(self._minimum, width) for name, width in left.items()}
        gone: list[list[int]] = [[] for _ in self.groups]
        for _, group, unit in self.order:
            if sum(map(len, gone)) == count:
                break
            group, unit = -group, -unit
            if limits is not None and len(gone[group]) == limits[group]:
                continue
            members = self.groups[group].units[unit]
            if any(left[name] - len(positions) < max(1, least[name]) for name, positions in members.items()):
                continue
            for name, positions in members.items():
                left[name] -= len(positions)
            gone[group].append(unit)
        for own, group_ in zip(gone, self.groups, strict=True):
            kept = len(group_) - len(own)
            for _ in range(min(-kept % self._multiple, len(own))):
                own.pop()  # keep the most important one after all
        return [group.units[unit] for own, group in zip(gone, self.groups, strict=True) for unit in own]


def _within(graph: Graph, ranking: _Ranking, budget: Budget, scope: str) -> list[Channels]:
    """The fewest removals that meet the budget. Bisection finds them, because more steps never remove less."""
    cost, limit = budget
    most = len(ranking.order)
    if scope == "global":
        ranking.by_saving(cost)

    def removed(step: int) -> list[Channels]:
        return ranking.least(step / most, scope)

    def fits(step: int) -> bool:
        return cost(_smaller_graph(graph, _kept(graph, removed(step)))) <= limit

    if not fits(most):
        least = cost(_smaller_graph(graph, _kept(graph, removed(most))))
        raise QatError(
            f"{graph.name}: the budget is {limit:,}, but with all removable channels removed it is still {least:,}; allow "
            "more, or a smaller minimum"
        )
    low, high = 0, most  # removing ``high`` fits
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(middle) else (middle + 1, high)
    return removed(high)


def _check_numbers(minimum: int, multiple_of: int, scope: str) -> None:
    for name, value in (("minimum", minimum), ("multiple_of", multiple_of)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise QatError(f"prune_channels: {name} is {value!r}; use a whole number of at least 1")
    if scope not in SCOPES:
        raise QatError(f"prune_channels: scope is {scope!r}; use one of {', '.join(map(repr, SCOPES))}")
