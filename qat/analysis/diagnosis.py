"""Where accuracy goes: a quantized network's integers against its float numbers, layer by layer, on the same samples.

A layer is a fake quantizer with the cells between it and those before it. Its float numbers are f, those that its codes
stand for q; sums are over samples and places.

- SQNR = 10 log10(sum f^2 / sum (f - q)^2) in dB; cosine = sum f q / sqrt(sum f^2 sum q^2).
- The same SQNR with other numbers in place of q. *Own*: the layer quantized, all before it float; of that, its *weights*
  alone, without rounding its output, and its *activation* alone, f rounded. *Inherited*: the float layer, given what the
  integers give it.
- Blame: with o the network's outputs in float and o_l those with layer l alone quantized, E_l = sum (o_l - o)^2 / sum o^2 in
  the mean over the outputs, and blame_l = E_l / sum of all E. It is 0 everywhere where no layer moves an output.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, overload

import numpy as np

from qat.analysis.advice import FAR, advice_on, plainly_calibrated
from qat.analysis.agreement import Agreement, Channels, Codes
from qat.analysis.diagnosed import Diagnosis, Layer, Output
from qat.cells.base import Context
from qat.cells.fake_quant import FakeQuant
from qat.cells.linear import LinearCell, WeightedCell
from qat.cells.weight_codes import MASK
from qat.errors import QatError
from qat.graph import Graph, Network, Node, Params, as_graph
from qat.integer import Evaluator, IntegerTensor
from qat.passes.equalize_channels import DEAD
from qat.passes.to_integer import integers_by_node
from qat.registry import backend_of, evaluation_ops
from qat.training.checkpoint import Checkpoint
from qat.training.forward import IDLE, NodeLoop
from qat.training.origin import checkpoint_of, taken
from qat.vocabulary.arrays import Arrays, as_arrays, batches_of, samples_that_fit
from qat.vocabulary.ops import Array, Ops, Tensor
from qat.vocabulary.values import Value

MOST = 32  #: samples at a time, however small they are
SUFFIX = ".fake_quant"  #: of the fake quantizer whose row has the name of the layer before it


@overload
def diagnose(
    network: Network | Graph,
    params: Mapping[str, Array],
    images: Arrays,
    *,
    float_params: Mapping[str, Array] | None = None,
    batch_size: int | None = None,
    ops: Ops | None = None,
) -> Diagnosis: ...


@overload
def diagnose(
    network: Any,
    images: Any,
    /,
    *,
    float_params: Mapping[str, Array] | None = None,
    batch_size: int | None = None,
    ops: Ops | None = None,
) -> Diagnosis: ...


def diagnose(
    network: Any,
    params: Any = None,
    images: Any = None,
    *,
    float_params: Mapping[str, Array] | None = None,
    batch_size: int | None = None,
    ops: Ops | None = None,
) -> Diagnosis:
    """Compare a quantized network's integers with its float numbers, layer by layer: what each costs, and what to do.

    It is called as ``diagnose(network, params, images)``, as ``diagnose(checkpoint, images)`` or ``diagnose(model, images)``,
    since these have parameters of their own. The definitions stand in ``qat.analysis.diagnosis`` and docs/diagnosis.md. Samples
    are streamed.

    Args:
        network: the quantized network; a quantized ``qat.Checkpoint``; or a model that ``qat.prepare`` or a backend's ``lower``
            returned, trained since or not.
        params: its parameters; of a checkpoint and of a model they are not given.
        images: what it takes, (N, ...); a tuple of arrays for several inputs. For a model, as ``qat.prepare`` takes images:
            arrays, tensors, or batches, of which the first 512 samples are taken.
        float_params: of the float network that it came from, to compare with; None: the quantized network's own, with every
            quantizer idle.
        batch_size: samples at a time; None: as many as fit.
        ops: the vocabulary that computes, as ``qat.registry.evaluation_ops("keras")``; None: of the first backend that is
            installed, without any NumPy's.

    Returns:
        A row for each fake quantizer, the outputs, and advice.

    Raises:
        QatError: for a float network, images that it does not take, parameters of another network, a model that was not
            prepared, or float numbers that are not finite.

    >>> import numpy as np
    >>> import qat
    >>> from qat.networks import LeNet5
    >>> images = np.random.default_rng(0).integers(0, 256, (8, 1, 32, 32), np.uint8)
    >>> quantized = qat.calibrate(LeNet5(), LeNet5().graph().initial_params(), images, num_bits=(8, 2))
    >>> found = qat.diagnose(quantized, images)
    >>> [layer.name for layer in found.layers]
    ['conv1', 'conv2', 'fc1', 'fc2', 'fc3']
    >>> all(layer.own < 20 for layer in found.layers)  # dB: activations of 2 bits
    True
    """
    plain = False
    if isinstance(network, (Network, Graph)):
        graph = as_graph(network)
        if params is None or images is None:
            raise QatError(
                f"{graph.name}: a network alone has no parameters: give diagnose(network, params, images), or a checkpoint and "
                "images"
            )
    else:
        checkpoint, images = _checkpoint_and_images(network, params, images)
        graph, params, plain = checkpoint.graph, checkpoint.params, plainly_calibrated(checkpoint)
    if not graph.is_quantized:
        raise QatError(
            f"{graph.name} is a float network, which loses nothing: give the quantized one, from qat.calibrate or training"
        )
    size = samples_that_fit(graph.shapes.values(), MOST) if batch_size is None else batch_size
    batches = batches_of(images, graph.input_specs, size, graph.name)
    graph.check_params(params)
    measured = _Passes(graph, params, params if float_params is None else completed(graph, float_params), ops)
    samples = 0
    for batch in batches:
        measured.add(batch)
        samples += len(batch[0])
    return measured.result(samples, plain=plain)


def _checkpoint_and_images(given: Any, first: Any, second: Any) -> tuple[Checkpoint, Any]:
    """What ``diagnose`` was given in place of a network and parameters, and the images behind it, canonical."""
    checkpoint = given if isinstance(given, Checkpoint) else checkpoint_of(given)
    if (first is None) == (second is None):
        raise QatError(
            f"{checkpoint.graph.name}: a checkpoint and a prepared model have their own parameters: give "
            "diagnose(model, images), with images alone behind it"
        )
    images = second if first is None else first
    if isinstance(given, Checkpoint):
        return checkpoint, images
    own = getattr(given, "own_layout", False)
    return checkpoint, as_arrays(taken(backend_of(given), images, checkpoint.graph, "images", own=own).images)


def completed(graph: Graph, given: Mapping[str, Array]) -> Params:
    """Parameters of a float network for the quantized graph that was made from it. Biases and masks that calibration or pruning
    have added are those that change nothing. Raises QatError for those of another network.
    """
    own = graph.initial_params()
    added = {name: own[name] for name in own if name.rpartition(".")[2] in ("bias", MASK) and name not in given}
    try:
        return graph.params_from({**given, **added})
    except QatError as error:
        raise QatError(f"these are not the float parameters that {graph.name} was made from: {error}") from None


@dataclass
class _Row:
    """A fake quantizer's cell, and what is summed up of it in all its uses."""

    nodes: list[Node] = field(default_factory=list)  # of the layer, fake quantizers among them
    before: set[str] = field(default_factory=set)  # the fake quantizers that it reads, by cell
    downstream: frozenset[str] = frozenset()  # the nodes that change where the layer is quantized
    integers: Agreement = field(default_factory=Agreement)
    own: Agreement = field(default_factory=Agreement)
    weight: Agreement = field(default_factory=Agreement)
    activation: Agreement = field(default_factory=Agreement)
    inherited: Agreement = field(default_factory=Agreement)
    channels: dict[str, tuple[Channels, Channels]] = field(default_factory=dict)  # of integers and float, by use
    codes: Codes | None = None
    outputs: list[Agreement] = field(default_factory=list)

    @property
    def quantized(self) -> list[Any]:
        """The cells with quantized weights, without repetition."""
        cells = {x.cell_name: x.cell for x in self.nodes if isinstance(x.cell, LinearCell) and x.cell.weight_quantizer}
        return list(cells.items())

    @property
    def worst_activation(self) -> float:
        """How many times the largest channel of the float activation is the median one of those that are not 0."""
        return max(_largest_ratio(of_float.largest()) for _, of_float in self.channels.values())


class _Passes:
    """The passes over each batch, and what they leave."""

    def __init__(self, graph: Graph, params: Mapping[str, Array], floats: Mapping[str, Array], ops: Ops | None) -> None:
        integers, self._tensors = integers_by_node(graph, params)
        self._graph, self._ops = graph, evaluation_ops() if ops is None else ops
        self._loop, self._evaluator = NodeLoop(graph, self._ops), Evaluator(integers, self._ops)
        self._idle = self._loop.load(floats, IDLE)
        self._quantizing = self._loop.load(params, max(graph.phase_starts))
        self._rows = _rows(graph, self._tensors)
        self._outputs = [Agreement() for _ in graph.outputs]
        self._same = [0] * len(graph.outputs)

    def add(self, batch: tuple[Array, ...]) -> None:
        """Run one batch."""
        pixels = self._loop.pixels(batch)
        with np.errstate(over="ignore", invalid="ignore"):  # numbers that are not finite get an error of their own
            floats = self._run(self._idle, pixels)
        codes = self._evaluator(*pixels)
        real = {name: self._numpy(floats[name].real(self._ops)) for name in self._wanted()}
        for name, numbers in real.items():
            if not np.isfinite(numbers).all():
                raise QatError(
                    f"{name}: gives numbers that are not finite in the float network, with which nothing can be compared; "
                    "train it anew"
                )
        self._compare_integers(codes, real)
        self._compare_own(pixels, floats, real)
        self._compare_inherited(pixels, codes, real)
        self._compare_outputs(codes, floats, real)

    def _wanted(self) -> Iterable[str]:
        uses = (node.name for row in self._rows.values() for node in row.nodes if isinstance(node.cell, FakeQuant))
        return dict.fromkeys([*uses, *self._graph.outputs])

    def _numpy(self, tensor: Tensor) -> Array:
        return self._ops.to_numpy(tensor, "activation")

    def _uses(self) -> Iterable[tuple[_Row, Node]]:
        """Each fake quantizer of the network, with its row."""
        for row in self._rows.values():
            yield from ((row, node) for node in row.nodes if isinstance(node.cell, FakeQuant))

    def _run(
        self, context: Context, pixels: tuple[Tensor, ...], given: Mapping[str, Value] | None = None
    ) -> dict[str, Value]:
        """The values of all nodes; given: those with which what reads them goes on, while the node's own are returned."""
        taken = given or {}
        values = self._loop.begin(pixels)
        own: dict[str, Value] = {}
        for step in self._loop.steps:
            name = step.node.name
            self._loop.advance(step, context, values)
            own[name] = values[name]
            values[name] = taken.get(name, values[name])
        return own

    def _grid_numbers(self, codes: Mapping[str, Tensor], name: str) -> Array:
        """The real numbers of a node's integers."""
        tensor = self._tensors[name]
        numbers = self._numpy(codes[tensor.name])
        return numbers if tensor.grid.real else numbers * tensor.grid.scale

    def _compare_integers(self, codes: Mapping[str, Tensor], real: Mapping[str, Array]) -> None:
        for row, node in self._uses():
            tensor, f = self._tensors[node.name], real[node.name]
            centred = self._numpy(codes[tensor.name])
            q = centred * tensor.grid.scale
            row.integers.add(f, q)
            assert row.codes is not None
            row.codes.add(f, centred)
            of_integers, of_float = row.channels.setdefault(node.name, (Channels(), Channels()))
            of_integers.add(f, q)
            of_float.add(f, f)

    def _compare_own(self, pixels: tuple[Tensor, ...], floats: Mapping[str, Value], real: Mapping[str, Array]) -> None:
        before = {node.name: floats[node.name] for _, node in self._uses()}
        self._quantizing.quantized.clear()
        own = self._run(self._quantizing, pixels, before)
        steps = {step.node.name: step for step in self._loop.steps}
        for row, node in self._uses():
            f = real[node.name]
            row.own.add(f, self._numpy(own[node.name].real(self._ops)))
            row.weight.add(f, self._numpy(own[node.inputs[0]].real(self._ops)))
            alone = {node.inputs[0]: floats[node.inputs[0]]}
            self._loop.advance(steps[node.name], self._quantizing, alone)
            row.activation.add(f, self._numpy(alone[node.name].real(self._ops)))

    def _compare_inherited(
        self, pixels: tuple[Tensor, ...], codes: Mapping[str, Tensor], real: Mapping[str, Array]
    ) -> None:
        given = {}
        for _, node in self._uses():
            tensor = self._tensors[node.name]
            given[node.name] = Value(codes[tensor.name] * float(tensor.grid.scale))
        inherited = self._run(self._idle, pixels, given)
        for row, node in self._uses():
            row.inherited.add(real[node.name], self._numpy(inherited[node.name].real(self._ops)))

    def _compare_outputs(
        self, codes: Mapping[str, Tensor], floats: Mapping[str, Value], real: Mapping[str, Array]
    ) -> None:
        for index, name in enumerate(self._graph.outputs):
            f, q = real[name], self._grid_numbers(codes, name)
            self._outputs[index].add(f, q)
            self._same[index] += int((f.argmax(axis=1) == q.argmax(axis=1)).sum()) if f.ndim == 2 else 0
        for row in self._rows.values():
            own, values = {node.name for node in row.nodes}, dict(floats)
            for step in self._loop.steps:
                if step.node.name in row.downstream:
                    context = self._quantizing if step.node.name in own else self._idle
                    self._loop.advance(step, context, values)
            for agreement, name in zip(row.outputs, self._graph.outputs, strict=True):
                agreement.add(real[name], self._numpy(values[name].real(self._ops)))

    def result(self, samples: int, *, plain: bool) -> Diagnosis:
        """What all batches came to."""
        errors = {name: float(np.mean([x.relative for x in row.outputs])) for name, row in self._rows.items()}
        layers = tuple(
            self._layer(name, row, _share(errors[name], sum(errors.values()))) for name, row in self._rows.items()
        )
        outputs = tuple(
            Output(
                name.removesuffix(SUFFIX),
                x.sqnr,
                x.cosine,
                same / samples if _is_vector(self._graph.shapes[name]) else None,
            )
            for name, x, same in zip(self._graph.outputs, self._outputs, self._same, strict=True)
        )
        codes = {name.removesuffix(SUFFIX): row.codes for name, row in self._rows.items() if row.codes is not None}
        return Diagnosis(self._graph.name, samples, layers, outputs, advice_on(layers, outputs, plain=plain), codes)

    def _layer(self, name: str, row: _Row, blame: float) -> Layer:
        quantizers = [cell.weight_quantizer for _, cell in row.quantized]
        ratios = [self._ratios(cell_name, cell) for cell_name, cell in row.quantized if isinstance(cell, WeightedCell)]
        apart = np.concatenate([np.ones(1), *ratios])
        of_integers, of_float = zip(*row.channels.values(), strict=True)
        before = [self._rows[cell_name] for cell_name in row.before if cell_name in self._rows]
        fake_quant: Any = next(node.cell for node in row.nodes if node.cell_name == name)
        assert row.codes is not None
        ranged = fake_quant.quantizer.uniform and not fake_quant.quantizer.by_sign and bool(fake_quant.params())
        error = row.activation.error
        return Layer(
            name=name.removesuffix(SUFFIX),
            weights=tuple(cell_name for cell_name, _ in row.quantized),
            weight_bits=min((quantizer.num_bits for quantizer in quantizers), default=0),
            activation_bits=fake_quant.code_bits,
            per_channel=all(quantizer.per_channel for quantizer in quantizers),
            blame=blame,
            sqnr=row.integers.sqnr,
            cosine=row.integers.cosine,
            own=row.own.sqnr,
            weight=row.weight.sqnr,
            activation=row.activation.sqnr,
            inherited=row.inherited.sqnr,
            clipped=row.codes.clipped / row.codes.numbers,
            codes_used=row.codes.used,
            far=int((apart > FAR).sum()),
            worst=float(apart.max()),
            worst_activation=row.worst_activation,
            worst_input=max((x.worst_activation for x in before), default=1.0),
            dead=sum(x.dead for x in of_integers),
            dead_in_float=sum(x.dead for x in of_float),
            weight_share=_share(row.weight.error, row.weight.error + error),
            halved=row.codes.halved_error(error) / error if ranged and error > 0.0 else 1.0,
            doubled=row.codes.doubled_error(error) / error if ranged and error > 0.0 else 1.0,
            bias_share=_share(sum(x.bias for x in of_integers), row.integers.error),
        )

    def _ratios(self, cell_name: str, cell: Any) -> Array:
        """Of each output channel, how many times its max |w| is the median one's, or the reverse, as it is quantized."""
        weight = self._ops.to_numpy(self._quantizing.quantized[f"{cell_name}.weight"].x, cell.weight_kind)
        largest = np.abs(weight.astype(np.float64)).reshape(len(weight), -1).max(axis=1)
        largest = largest[largest > DEAD * largest.max()]
        if not largest.size:
            return np.ones(1)
        ratio = largest / np.median(largest)
        found: Array = np.maximum(ratio, 1.0 / ratio)
        return found


def _rows(graph: Graph, tensors: Mapping[str, IntegerTensor]) -> dict[str, _Row]:
    """A row for each fake quantizer that the integers have, by its cell's name, in the order of the network."""
    nodes = {node.name: node for node in graph.nodes}
    rows: dict[str, _Row] = {}
    for node in graph.nodes:
        if not isinstance(node.cell, FakeQuant) or node.name not in tensors:
            continue
        row = rows.setdefault(node.cell_name, _Row(outputs=[Agreement() for _ in graph.outputs]))
        known = {x.name for x in row.nodes}
        waiting = [node]
        while waiting:
            found = waiting.pop()
            if found.name not in known:
                known.add(found.name)
                row.nodes.append(found)
                read = [nodes[x] for x in found.inputs]
                row.before |= {x.cell_name for x in read if isinstance(x.cell, FakeQuant)}
                waiting += [x for x in read if not isinstance(x.cell, FakeQuant)]
        grid = tensors[node.name].grid
        row.codes = row.codes or Codes(float(grid.scale), grid.low, grid.high)
    for row in rows.values():
        changed: set[str] = set()
        own = {node.name for node in row.nodes if _is_quantized(node)}
        for node in graph.nodes:
            if node.name in own or changed.intersection(node.inputs):
                changed.add(node.name)
        row.downstream = frozenset(changed)
    return rows


def _is_quantized(node: Node) -> bool:
    return isinstance(node.cell, FakeQuant) or (
        isinstance(node.cell, LinearCell) and node.cell.weight_quantizer is not None
    )


def _largest_ratio(largest: Array) -> float:
    """Of the largest channel to the median of those that are not 0."""
    alive = largest[largest > 0.0]
    return float(alive.max() / np.median(alive)) if alive.size else 1.0


def _is_vector(shape: tuple[int, ...]) -> bool:
    return len(shape) == 1 and shape[0] > 1


def _share(part: float, whole: float) -> float:
    if whole == 0.0:
        return 0.0
    return part / whole if math.isfinite(whole) else float(part == whole)
