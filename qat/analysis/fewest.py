"""The search of ``repair``: the fewest candidates that have to be raised, measured on a network's integers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from qat.analysis.candidates import Candidate, Costs, Level, Raising, State
from qat.analysis.deciding import Measure
from qat.analysis.recalibration import Quantize
from qat.analysis.repaired import Raised
from qat.training.checkpoint import Checkpoint

MOST_REFINED = 3  #: evaluations of networks as they are saved, to find how few layers are enough then
ALL_STEPS = (
    8  #: raised layers of which each is measured for the table; of more those are shown that were measured anyway
)
IN_A_ROW = (
    8  #: candidates that are needed one after another, behind which those with more blame are taken to be needed, too
)

Items = list[tuple[Candidate, Level]]


class Search:
    """What is known of the states of a network: which candidates are raised, and what is lost then.

    Args:
        raising: the quantized network.
        measure: what decides.
        quantize: from settings to a network whose loss is measured.
        refine: from settings to the one that is the result; the same function where that is the same network.
        progress: called with a line for each network that is measured.
        shrinks: whether what refines loses less, so that fewer layers may do.

    Attributes:
        evaluations: how many networks were measured.
    """

    def __init__(
        self,
        raising: Raising,
        measure: Measure,
        quantize: Quantize,
        refine: Quantize,
        progress: Callable[[str], None],
        shrinks: bool = False,
    ) -> None:
        self.raising, self.measure = raising, measure
        self._functions, self.progress = {False: quantize, True: refine}, progress
        self.refines, self._shrinks = refine is not quantize, shrinks
        self.found: Sequence[Candidate] = ()
        self.budgets: Mapping[str, int] = {}
        self.costs: Costs | None = None
        self._values: dict[tuple[bool, frozenset[tuple[Candidate, Level]]], float] = {}
        self._states: dict[tuple[bool, frozenset[tuple[Candidate, Level]]], Items] = {}
        self._last: tuple[object, Checkpoint] | None = None

    def given(self, base: Checkpoint) -> None:
        """The network with nothing raised, as the search has it."""
        self._last = self._key({}, False), base

    def plan(self, found: Sequence[Candidate], costs: Costs, budgets: Mapping[str, int]) -> None:
        """What may be raised, what that costs, and how much it may cost."""
        self.found, self.costs, self.budgets = found, costs, budgets

    @property
    def evaluations(self) -> int:
        """How many networks were measured."""
        return len(self._values)

    # -- what is known of a state ---------------------------------------------------------------------------------------

    def _key(self, state: State, refined: bool) -> tuple[bool, frozenset[tuple[Candidate, Level]]]:
        return refined and self.refines and (self._shrinks or bool(state)), frozenset(state.items())

    def checkpoint(self, state: State, *, refined: bool = False) -> Checkpoint:
        """The network with these candidates raised; the last one is kept, others are made anew."""
        key = self._key(state, refined)
        if self._last is None or self._last[0] != key:
            self._last = key, self._functions[key[0]](**self.raising.settings(state))
        return self._last[1]

    def value(self, state: State, *, refined: bool = False) -> float:
        """Its figure, measured once."""
        key = self._key(state, refined)
        if key not in self._values:
            self._values[key] = value = self.measure.value(self.checkpoint(state, refined=refined))
            self._states[key] = [*state.items()]
            how = ", as it is saved" if key[0] else ""
            self.progress(f"{len(state)} raised{how}{self._cost(state)}: {self.measure.words(value)}")
        return self._values[key]

    def met(self, state: State, *, refined: bool = False) -> bool:
        """Whether the target is."""
        return self.measure.met(self.value(state, refined=refined))

    def _cost(self, state: State) -> str:
        return "" if self.costs is None else f", {self.costs.weight_bytes(state):,} bytes"

    def cost(self, what: str, state: State) -> int:
        """``weight_bytes`` or ``bops`` of a state."""
        assert self.costs is not None
        return int(getattr(self.costs, what)(state))

    def _affordable(self, state: State) -> bool:
        return all(self.cost(what, state) <= most for what, most in self.budgets.items())

    def best(self) -> Items:
        """What is raised where the least is lost; of equal ones the first that was measured."""
        return self._states[min(self._values, key=lambda x: self.measure.drop(self._values[x]))]

    # -- the search -----------------------------------------------------------------------------------------------------

    def ranked(self, fewest: str) -> list[Candidate]:
        """The candidates, that first which promises most: blame, over what it costs where that is to be little."""
        if fewest == "layers":
            return [*self.found]
        what = "weight_bytes" if fewest == "bytes" else "bops"
        least = self.cost(what, {})

        def promise(candidate: Candidate) -> float:
            return candidate.blame / max(1, self.cost(what, {candidate: candidate.levels[-1]}) - least)

        return sorted(self.found, key=lambda x: -promise(x))

    def within(self, ranked: Sequence[Candidate]) -> Items:
        """Candidates in their order, each at the highest level with which all before it and itself keep the budgets."""
        chosen: dict[Candidate, Level] = {}
        for candidate in ranked:
            levels = (x for x in reversed(candidate.levels) if self._affordable({**chosen, candidate: x}))
            level = next(levels, None)
            if level is not None:
                chosen[candidate] = level
        return [*chosen.items()]

    def first(self, items: Items) -> Items | None:
        """As few of the first items as meet the target: doubled until they do, then bisected. None: all of them do not."""
        failed, most = 0, min(1, len(items))
        while not self.met(dict(items[:most])):
            if most == len(items):
                return None
            failed, most = most, min(2 * most, len(items))
        while most - failed > 1:
            middle = (most + failed) // 2
            failed, most = (failed, middle) if self.met(dict(items[:middle])) else (middle, most)
        return items[:most]

    def needed(self, items: Items) -> Items:
        """Those without which the target is missed, each at the lowest level that meets it.

        The last ones are tried first, and twice as many at a time after each success, until ``IN_A_ROW`` are needed.
        """
        index, together, in_a_row = len(items) - 1, 1, 0
        while index >= 0 and in_a_row < IN_A_ROW:
            begin = max(0, index - together + 1)
            others = items[:begin] + items[index + 1 :]
            if self.met(dict(others)):
                items, index, together, in_a_row = others, begin - 1, 2 * together, 0
            elif together > 1:
                together = 1
            else:
                index, in_a_row = index - 1, in_a_row + 1
        for index in reversed(range(len(items))):
            candidate, level = items[index]
            for lower in candidate.levels[: candidate.levels.index(level)]:
                others = [*items[:index], (candidate, lower), *items[index + 1 :]]
                if self._affordable(dict(others)) and self.met(dict(others)):
                    items = others
                    break
        return items

    def refined(self, items: Items, further: Items) -> Items | None:
        """The same for what refines: fewer of the items where that is enough, further ones where it is not. None: all of them
        are not.
        """
        if not self.refines:
            return items
        failed, added = 0, 1
        while not self.met(dict(items), refined=True):
            more = [x for x in further if x[0] not in dict(items) and self._affordable(dict([*items, x]))][:added]
            if not more:
                return None
            failed, added = len(items), 2 * added
            items = [*items, *more] if self._affordable(dict([*items, *more])) else [*items, more[0]]
        most = len(items)
        for _ in range(MOST_REFINED if self._shrinks or failed else 0):
            middle = (failed + most) // 2
            if middle > failed:
                met = self.met(dict(items[:middle]), refined=True)
                failed, most = (failed, middle) if met else (middle, most)
        return items[:most]

    # -- the result -----------------------------------------------------------------------------------------------------

    def rows(self, items: Items, refined: bool) -> tuple[Raised, ...]:
        """A row for each raised candidate, with what the network costs and loses with all up to it."""
        few = len(items) <= ALL_STEPS and not (refined and self._shrinks)
        rows = []
        for number, (candidate, level) in enumerate(items, 1):
            state = dict(items[:number])
            last = number == len(items)
            known = few or last or self._key(state, False) in self._values
            drop = self.measure.drop(self.value(state, refined=refined and last)) if known else None
            rows.append(
                Raised(
                    candidate.name,
                    candidate.what,
                    candidate.words(candidate.now, level),
                    candidate.words(level, candidate.now),
                    candidate.blame,
                    self.cost("weight_bytes", state),
                    self.cost("bops", state),
                    drop,
                )
            )
        return tuple(rows)
