"""Learned rounding: whether each weight is rounded up or down, by what blocks of the network give (AdaRound, BRECQ, QDrop)."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from qat.analysis.choosing import LEARNED, MOMENTS, NEAREST, SHARE
from qat.analysis.moment_rounding import MOST_IMAGES, Moment, compensated, places_of
from qat.cells.base import Context
from qat.cells.chosen_codes import weight_grid, with_codes, with_kept_scale, with_least_error
from qat.cells.linear import LinearCell
from qat.errors import QatError, QatWarning
from qat.graph import Graph, Node, Params
from qat.passes.blocks import Block, block_graph, blocks
from qat.registry import training_backend
from qat.training.forward import IDLE, NodeLoop
from qat.training.optimizer import Optimizer
from qat.training.soft_rounding import WARMUP, Reconstruction, SoftWeight, beta_at, factor_at, start_of
from qat.vocabulary.arrays import WORKING_BYTES, Arrays, as_arrays, as_tuple, batches_of, samples_that_fit
from qat.vocabulary.fields import check_fields
from qat.vocabulary.ops import Array, Kind, Ops
from qat.vocabulary.rows import watched
from qat.vocabulary.values import Value

KEPT_BYTES = 1 << 30  #: that activations may take while they wait; of more images the first ones are taken
MOST = 100  #: images at a time, however small they are
FEWEST = 4  #: images of a batch, however large they are
PLACES = 1 << 13  #: of a batch: what so many outputs of a channel ask for is enough for one step
RATE = 0.1  #: of Adam
CHECKED = 20  #: iterations between two looks at the penalty
SMALLEST_ERROR = 1e-30  #: by which an output's error is divided
CLIPPED = f"{NEAREST}, clipped"  #: the nearest codes of a range with the least error
SETTLED = 1e-3  #: the mean penalty below which all weights are at one of their codes


@dataclass(frozen=True)
class LearnedRounding:
    """How ``qat.calibrate`` learns which weights are rounded up and which down.

    Args:
        iterations: of each block, at most; 1000 by default.
        batch_size: images in an iteration, at most; fewer where the pictures are large. 32 by default.
        drop: the probability with which a number of an activation is not quantized while rounding is learned; 0.5 by default.
        seed: of the choice of images and of what is dropped; 0 by default.
        backend: the framework that learns, as "torch"; None, the default: the first one that is installed.

    Raises:
        QatError: where a field is out of its range.

    >>> import qat
    >>> qat.LearnedRounding(iterations=500).batch_size
    32
    """

    iterations: int = 1000
    batch_size: int = 32
    drop: float = 0.5
    seed: int = 0
    backend: str | None = None

    def __post_init__(self) -> None:
        check_fields(self)
        for name in ("iterations", "batch_size"):
            if getattr(self, name) < 1:
                raise QatError(f"LearnedRounding: {name} is {getattr(self, name)}; use a whole number of at least 1")
        if not 0.0 <= self.drop <= 1.0:
            raise QatError(f"LearnedRounding: drop is {self.drop}; use a probability, from 0 to 1")
        if self.seed < 0:
            raise QatError(f"LearnedRounding: seed is {self.seed}; use a whole number of at least 0")


@dataclass(frozen=True)
class RoundedBlock:
    """What became of a block.

    Attributes:
        name: its layer, or the first and the last one.
        before: the squared error of its outputs, in shares of what they are squared, with the nearest codes, on images that are
            held back.
        after: the same with those that are kept.
        kept: "learned", or what is better there: those at which learning begins, by "moments" or, without any, the nearest
            ones of a range with the least error, "nearest, clipped"; or the "nearest" ones.
        changed: the share of its weights whose code is not the nearest one.
        iterations: that were needed.
    """

    name: str
    before: float
    after: float
    kept: str
    changed: float
    iterations: int


def learn_rounding(
    graph: Graph, params: Mapping[str, Array], images: Arrays, settings: LearnedRounding, ops: Ops
) -> tuple[Params, list[RoundedBlock]]:
    """Choose for each weight the code below or above it, so that blocks give what they give in the float network.

    Block after block (``qat.passes.blocks``): its layers get codes and ranges by moments (``qat.analysis.moment_rounding``),
    and h(V) between 0 and 1 is added to the code below what these rounded. V begins there, and is trained with Adam until all
    are 0 or 1 (``qat.training.soft_rounding``). What enters a block comes from the quantized network so far, each number of
    it, and of the activations within the block, with probability ``drop`` from the float network instead. Then the float
    weight is moved to the middle of its code, so that nothing else has to know of it. A layer without moments begins at its
    nearest codes in the range with the least squared error of its weights.

    A quarter of the images is held back; a block keeps the codes whose error on these is the smallest: those learned, those by
    moments, or the nearest ones.

    Args:
        graph: quantized.
        params: of it, ranges known; the weights are those of the float network.
        images: what the network takes, (N, ...), a tuple of arrays for several inputs.
        settings: how.
        ops: the vocabulary that evaluates.

    Returns:
        The parameters, weights moved, and what became of each block.

    Raises:
        QatError: there are fewer than two images, no weight's rounding can be learned, or no backend is installed.
    """
    return _Learning(graph, params, images, settings, ops).run()


def rounding_record(settings: LearnedRounding, found: Sequence[RoundedBlock]) -> dict[str, Any]:
    """What a checkpoint's history keeps of it."""
    return {"rounding": {**asdict(settings), "blocks": [asdict(block) for block in found]}}


class _Kept:
    """What a node gives while it waits, of all images: codes in one byte where they fit, or real numbers."""

    def __init__(self, ops: Ops, values: Sequence[Value]) -> None:
        first, numbers = values[0], [x.data if x.codes else x.real(ops) for x in values]
        data = np.concatenate([ops.to_numpy(x, "activation") for x in numbers])
        self._ops, self._low, self._scale = ops, 0.0, np.float32(1.0)
        self._rest = replace(first, data=None) if first.codes else Value(None)
        if first.codes:
            self._scale = np.float32(ops.to_numpy(first.scale, "scalar").reshape(()))
            low = float(data.min())
            if data.max() - low <= 255.0 and (np.rint(data) == data).all():
                data, self._low = (data - low).astype(np.uint8), low
        self._data = data

    def _numbers(self, which: slice | Array) -> Array:
        data = self._data[which]
        return data if data.dtype == np.float32 else data.astype(np.float32) + np.float32(self._low)

    def value(self, which: slice) -> Value:
        """Of some images, as it was."""
        return replace(self._rest, data=self._ops.from_numpy(self._numbers(which), "activation"))

    def real(self, which: slice | Array) -> Array:
        """Real numbers of some images, float32."""
        found: Array = self._numbers(which) * self._scale
        return found


class _Learning:
    """The state of ``learn_rounding``: what flows between two blocks, in the float network and in the quantized one.

    Images up to ``learned`` are learned from, the others are held back.
    """

    def __init__(
        self, graph: Graph, params: Mapping[str, Array], images: Arrays, settings: LearnedRounding, ops: Ops
    ) -> None:
        self.graph, self.settings, self.ops, self.params = graph, settings, ops, dict(params)
        self.backend = training_backend(settings.backend)
        self.random = np.random.default_rng(settings.seed)
        self.loop, self.phase = NodeLoop(graph, ops), max(graph.phase_starts)
        self.steps = {step.node.name: step for step in self.loop.steps}
        self.idle = self.loop.load(params, IDLE)
        self.blocks = blocks(graph)
        self.size = samples_that_fit(graph.shapes.values(), MOST, 2 * WORKING_BYTES)
        samples = self._samples(as_tuple(images))
        self.count = len(samples[0])
        self.learned = self.count - -(-self.count // SHARE)
        self.skipped: dict[str, str] = {}  # layer -> why its rounding cannot be learned
        self.floats: dict[str, Array] = {}
        self.quantized: dict[str, _Kept] = {}
        self._enter(samples)

    def _samples(self, images: tuple[Array, ...]) -> tuple[Array, ...]:
        """As many of the images as there is memory for, in random order."""
        given = len(images[0])
        if given < 2:
            raise QatError(
                f"{self.graph.name}: learned rounding was given {given} image, and none is left to tell whether it helps; give "
                "at least 2, better hundreds"
            )
        shapes = self.graph.shapes
        numbers = max(sum(math.prod(shapes[name]) for name in (*block.inputs, *block.outputs)) for block in self.blocks)
        most = max(2, KEPT_BYTES // (5 * numbers))  # float32, and a byte for a code
        chosen = self.random.permutation(given)[:most]
        return tuple(x[chosen] for x in images)

    def _enter(self, samples: tuple[Array, ...]) -> None:
        """Let the images enter both networks."""
        entered: dict[str, list[Value]] = {node.name: [] for node in self.graph.inputs}
        for batch in batches_of(as_arrays(samples), self.graph.input_specs, self.size, self.graph.name):
            values = self.loop.begin(self.loop.pixels(batch))
            for name, parts in entered.items():
                self.loop.advance(self.steps[name], self.idle, values)
                parts.append(values[name])
        self.quantized = {name: _Kept(self.ops, parts) for name, parts in entered.items()}
        self.floats = {name: kept.real(slice(None)) for name, kept in self.quantized.items()}

    def run(self) -> tuple[Params, list[RoundedBlock]]:
        """Learn block after block."""
        last = {name: at for at, block in enumerate(self.blocks) for name in block.inputs}
        found = []
        name = f"{self.graph.name}, learned rounding"
        for at, block in watched(enumerate(self.blocks), len(self.blocks), lambda _: 1, name, "blocks"):
            self.floats |= self._outputs(block, self.idle, self._float_values)
            rounded = self._rounded(block)
            found += [] if rounded is None else [rounded]
            self.quantized |= self._quantized_outputs(block, self.params, slice(0, self.count))
            for name in [*self.floats]:
                if last.get(name, -1) <= at:  # no later block reads it
                    del self.floats[name], self.quantized[name]
        self._say_what_is_skipped(nothing=not found)
        return self.params, found

    def _say_what_is_skipped(self, *, nothing: bool) -> None:
        if nothing:
            name, reason = next(
                iter(self.skipped.items()), (self.graph.name, "it has no layer with a quantized weight")
            )
            raise QatError(
                f"{name}: {reason}, so that its rounding cannot be learned, and there is no layer where it can; leave rounding "
                "out, or use weight quantizers by range or LSQ ('qat help calibration')"
            )
        if self.skipped:
            (name, reason), *more = self.skipped.items()
            others = f" (and so do {len(more)} others)" if more else ""
            warnings.warn(f"{name}: keeps the nearest codes{others}, since {reason}", QatWarning, stacklevel=5)

    # -- both networks, block by block ------------------------------------------------------------------------------

    def _outputs(
        self, block: Block, context: Context, values_of: Callable[[Block, slice], dict[str, Value]]
    ) -> dict[str, Array]:
        """Of all images the real numbers that a block gives."""
        found: dict[str, list[Array]] = {name: [] for name in block.outputs}
        for which in self._slices(slice(0, self.count)):
            values = values_of(block, which)
            self._advance(block, context, values)
            for name, parts in found.items():
                parts.append(self.ops.to_numpy(values[name].real(self.ops), "activation"))
        return {name: np.concatenate(parts) for name, parts in found.items()}

    def _float_values(self, block: Block, which: slice) -> dict[str, Value]:
        return {name: Value(self.ops.from_numpy(self.floats[name][which], "activation")) for name in block.inputs}

    def _coded_values(self, block: Block, which: slice) -> dict[str, Value]:
        return {name: self.quantized[name].value(which) for name in block.inputs}

    def _quantized_outputs(self, block: Block, params: Params, images: slice) -> dict[str, _Kept]:
        """What a block gives in the quantized network, of some images."""
        context = self.loop.load(params, self.phase)
        found: dict[str, list[Value]] = {name: [] for name in block.outputs}
        for which in self._slices(images):
            values = self._coded_values(block, which)
            self._advance(block, context, values)
            for name, parts in found.items():
                parts.append(values[name])
        return {name: _Kept(self.ops, parts) for name, parts in found.items()}

    def _slices(self, images: slice) -> Iterator[slice]:
        for at in range(images.start, images.stop, self.size):
            yield slice(at, min(at + self.size, images.stop))

    def _advance(self, block: Block, context: Context, values: dict[str, Value]) -> None:
        for node in block.nodes:
            self.loop.advance(self.steps[node.name], context, values)

    def _errors(self, block: Block, params: Params, images: slice) -> tuple[float, ...]:
        """The mean squared error of each output of a block, on some images."""
        outputs = self._quantized_outputs(block, params, images)
        off = (kept.real(slice(None)) - self.floats[name][images] for name, kept in outputs.items())
        return tuple(float(np.mean(each * each, dtype=np.float64)) for each in off)

    def _error(self, block: Block, params: Params, images: slice) -> float:
        """The errors, each in shares of the mean square of its output, added up."""
        squares = (float(np.mean(self.floats[name][images] ** 2, dtype=np.float64)) for name in block.outputs)
        return sum(e / (square or 1.0) for e, square in zip(self._errors(block, params, images), squares, strict=True))

    # -- one block --------------------------------------------------------------------------------------------------

    def _rounded(self, block: Block) -> RoundedBlock | None:
        """Choose the codes of a block, and take them where that helps. None: there are none to choose."""
        layers, begun = self._by_moments(block)
        if not layers:
            return None
        codes, iterations = self._codes(block, begun, layers)
        moved = dict(begun)
        for layer in layers:
            try:
                chosen = with_codes(layer.cell, layer.own, layer.scale, codes[layer.node.name])
            except QatError as error:
                self.skipped[layer.node.name] = str(error)
            else:
                moved |= layer.node.full(chosen)
        start = MOMENTS if any(layer.by_moments for layer in layers) else CLIPPED
        candidates = {NEAREST: self.params, start: begun, LEARNED: moved}
        held = slice(self.learned, self.count)
        errors = {name: self._error(block, params, held) for name, params in candidates.items()}
        kept = min(errors, key=lambda name: errors[name])
        self.params = dict(candidates[kept])
        chosen_codes = {
            NEAREST: [layer.grid.codes for layer in layers],
            start: [layer.codes for layer in layers],
            LEARNED: [codes[layer.node.name] for layer in layers],
        }[kept]
        changed = sum(np.count_nonzero(x != layer.grid.codes) for x, layer in zip(chosen_codes, layers, strict=True))
        share = changed / sum(layer.grid.codes.size for layer in layers)
        return RoundedBlock(block.name, errors[NEAREST], errors[kept], kept, share, iterations)

    def _by_moments(self, block: Block) -> tuple[list[_Layer], Params]:
        """The layers whose rounding can be learned, and parameters with the codes that learning begins at."""
        layers, params = [], dict(self.params)
        for node in block.layers:
            if not (isinstance(node.cell, LinearCell) and "weight" in node.cell.float_params()):
                continue  # a batch normalisation by itself has a weight of 1
            try:
                layer = _Layer(node, node.own(params), self._moment(block, node, params))
                for codes in (layer.down + self.random.integers(0, 2, layer.down.shape), layer.codes):
                    chosen = with_codes(layer.cell, layer.own, layer.scale, codes)  # any choice, before it is learned
            except QatError as error:
                self.skipped[node.name] = str(error)
                continue
            params |= node.full(chosen)
            layers.append(layer)
        return layers, params

    def _moment(self, block: Block, node: Node, params: Params) -> Moment:
        """Of what a layer takes. Raises QatError where its rounding cannot be learned."""
        if node.cell_name in self.graph.shared_cells:
            raise QatError("its cell is used more than once")
        moment, before = Moment(), block.nodes[: block.nodes.index(node)]
        (name,), coding = node.inputs, self.loop.load(params, self.phase)
        count = min(self.learned, MOST_IMAGES)
        for which in self._slices(slice(0, count)):
            real, coded = self._float_values(block, which), self._coded_values(block, which)
            for context, values in ((self.idle, real), (coding, coded)):
                for each in before:
                    self.loop.advance(self.steps[each.name], context, values)
            if not coded[name].codes:
                raise QatError("its input is not quantized")
            moment.add_inputs(node, self.graph.shapes[name], (real[name], coded[name]), places_of(count), self.ops)
        return moment

    def _codes(self, block: Block, params: Params, layers: Sequence[_Layer]) -> tuple[dict[str, Array], int]:
        """Learn which of its two codes each weight gets: by layer, and the number of iterations."""
        in_float = frozenset(layer.node.cell_name for layer in layers)
        graph, own = block_graph(self.graph, params, block, in_float)
        soft = {layer.weight: layer.soft(graph.params[layer.weight].kind) for layer in layers}
        own |= {layer.weight: layer.start for layer in layers}
        errors = self._errors(block, self.params, slice(0, min(self.learned, self.size)))
        objective = Reconstruction(soft, tuple(max(error, SMALLEST_ERROR) for error in errors), self.settings.drop)
        model = self.backend.lower(graph, own, step=self.phase)
        step = self.backend.make_step(model, Optimizer("adam"), objective)
        places = max(math.prod(self.graph.shapes[layer.node.name][1:]) for layer in layers)
        size = min(self.settings.batch_size, self.learned, max(FEWEST, PLACES // places))
        done = 0
        while done < self.settings.iterations:
            share = done / self.settings.iterations
            self.backend.seed(self.settings.seed, done)
            step(*self._batch(block, size, share), RATE)
            done += 1
            if done % CHECKED == 0 and share >= WARMUP and float(step.terms()["penalty"]) < SETTLED:
                break
        values = self.backend.read(model)
        return {layer.node.name: layer.down + (values[layer.weight] > 0.0) for layer in layers}, done

    def _batch(self, block: Block, size: int, share: float) -> tuple[Arrays, Arrays]:
        """What a block takes and should give in one iteration; share: of the iterations before it."""
        which = self.random.choice(self.learned, size, replace=False)
        inputs = []
        for name in block.inputs:
            real, coded = self.floats[name][which], self.quantized[name].real(which)
            drawn = np.frombuffer(self.random.bytes(real.size), np.uint8).reshape(real.shape)
            inputs.append(np.where(drawn < 256.0 * self.settings.drop, real, coded))
        wanted = (self.floats[name][which] for name in block.outputs)
        beta, factor = beta_at(share), factor_at(share)
        annealed = (np.full((size, 1), number, np.float32) for number in (beta, factor))
        return as_arrays(tuple(inputs)), (*wanted, *annealed)


class _Layer:
    """A layer whose rounding is learned.

    Attributes:
        own: its parameters, with the ranges that its codes have.
        weight: the full name of its weight.
        scale: of the codes that it takes.
        by_moments: whether it begins at codes by moments.
        codes: those by moments, or the nearest ones where there are no moments.
        down: the lower code that each weight may have, and of those that are not free their only one.
    """

    def __init__(self, node: Node, own: Mapping[str, Array], moment: Moment) -> None:
        assert isinstance(node.cell, LinearCell)
        self.node, self.cell, self.scale = node, node.cell, moment.scale
        self.weight = f"{node.cell_name}.weight"
        self.by_moments = moment.rows > 0
        if self.by_moments:
            self.own, self.codes, position = compensated(node.cell, own, moment)
            self.grid = weight_grid(node.cell, self.own, self.scale)
        else:
            self.own = with_least_error(node.cell, with_kept_scale(node.cell, own, self.scale), self.scale)
            self.grid = weight_grid(node.cell, self.own, self.scale)
            self.codes, position = self.grid.codes, self.grid.position
        self._position = np.clip(position, self.grid.first, self.grid.last)
        down = np.minimum(np.floor(self._position), self.grid.last - 1.0)
        self.down = np.where(self.grid.free, down, self.grid.codes)

    def soft(self, kind: Kind) -> SoftWeight:
        """The weight between its codes."""
        fixed = np.where(self.grid.step != 0.0, self.down * self.grid.step, self.own["weight"])
        step = np.where(self.grid.free, self.grid.step, 0.0)
        return SoftWeight(fixed.astype(np.float32), step.astype(np.float32), kind)

    @property
    def start(self) -> Array:
        """V, which begins at the weight that moments round, with what it makes up for."""
        return start_of(np.where(self.grid.free, self._position - self.down, 0.5))
