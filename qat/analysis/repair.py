"""Automatic repair: the fewest layers that need more bits, or a finer grid, so that a calibrated network loses no more than
a target.

1. A network quantized as it was asked for is measured. Where it meets the target, nothing is raised.
2. Layers are ranked by their blame (``qat.analysis.diagnosis``): the share of the outputs' error that each causes alone;
   where bytes or bit operations are to be few, by that over what it costs to raise them.
3. The first 1, 2, 4, ... of them are raised, until the target is met; a bisection finds how many of them that needs.
4. Beginning with the least to blame, what is not needed is taken back, wholly or to fewer bits, until eight in a row are
   needed. So of up to eight layers that are left none can be left out alone.

All is measured on the deployed integers, of samples that are no test samples.
"""

from __future__ import annotations

import inspect
import math
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from qat.analysis.calibration import SETTINGS, calibrate
from qat.analysis.candidates import WIDE, Costs, Raising, candidates
from qat.analysis.choosing import NEAREST
from qat.analysis.deciding import AgreementMeasure, Measure, MetricMeasure, OwnMeasure, SqnrMeasure, amount
from qat.analysis.diagnosed import Diagnosis
from qat.analysis.diagnosis import diagnose
from qat.analysis.fewest import Items, Search
from qat.analysis.metrics import macs, total_macs
from qat.analysis.recalibration import Quantize, Recalibration
from qat.analysis.repaired import Raised, Repair, TargetMissedError
from qat.data import Split
from qat.deploy.arithmetics import arithmetic_options, default_arithmetic
from qat.errors import QatError, QatWarning, one_line
from qat.graph import Graph
from qat.integer.widths import BYTE
from qat.passes.to_integer import derived_integers
from qat.registry import evaluation_ops, target
from qat.training.checkpoint import Checkpoint
from qat.vocabulary.arrays import Arrays, as_arrays, as_tuple
from qat.vocabulary.fields import check_type
from qat.vocabulary.ops import Ops

FEWEST = ("layers", "bytes", "bops")
BUDGETS = {"weight_bytes": "size_budget", "bops": "bops_budget"}  #: what they limit, and what they are called
MOST_TO_BLAME_ON = 128  #: samples of the diagnosis
FEWEST_TO_BLAME_ON = 16
WORK = 2e11  #: multiply-accumulates that it may take, about; of large networks it is of fewer samples


def repair(
    checkpoint: Checkpoint,
    images: Arrays,
    *,
    target_drop: float | None = None,
    target_sqnr: float | None = None,
    decide_on: Split | None = None,
    measure: Callable[[Checkpoint], float] | None = None,
    higher_is_better: bool = True,
    size_budget: int | None = None,
    bops_budget: int | None = None,
    fewest: str = "layers",
    targets: Sequence[str] = (),
    quantize: Quantize | None = None,
    refine: Quantize | None = None,
    ops: Ops | None = None,
    progress: Callable[[str], None] | None = None,
    **settings: Any,
) -> Repair:
    """Calibrate a network, and give the fewest layers more bits, or a scale for each channel, so that it loses no more than a
    target.

    Weights get up to 8 bits, activations up to 8, or up to 16 where every file format of ``targets`` takes that network so. It
    is decided on ``decide_on``; take training images, or others that no accuracy is reported of.

    Args:
        checkpoint: the float network, with its task.
        images: that calibrate, (N, ...) as the network takes them; a tuple of arrays for several inputs.
        target_drop: the most that may be lost against the float network: of a metric in percent and of the agreement in
            percentage points, of other metrics in their own unit. Give this or ``target_sqnr``.
        target_sqnr: the least SQNR of every output, in dB.
        decide_on: samples to decide on. With labels, the main metric of the checkpoint's task decides; without, the agreement:
            the share of samples whose largest output is the float network's. None: ``images``, without labels.
        measure: called with a checkpoint, the float one first; what it returns decides in place of these.
        higher_is_better: of ``measure``; True by default.
        size_budget: bytes of all weights with their scales at most (``qat.analysis.compression.weight_sizes``); None: any.
        bops_budget: bit operations for one sample at most (``qat.metrics.bops``); None: any.
        fewest: what is to be few: "layers", the default, "bytes" of weights or "bops". Where the fewest layers do not keep a
            budget, what it limits is to be few.
        targets: names of the file formats that the network is for, as ("C",).
        quantize: called with settings of ``convert_quant_network``; returns a checkpoint that ``images`` have calibrated. None:
            ``calibrate``.
        refine: the same, with more effort: makes the result. None: ``quantize``; where that is
            None too, ``calibrate`` with its ``rounding``, while the search rounds to the nearest code.
        ops: the vocabulary that computes, as of ``calibrate``.
        progress: called with a line for each network that was measured.
        **settings: those of ``calibrate`` and ``convert_quant_network``.

    Returns:
        The quantized checkpoint, its settings, and what was raised.

    Raises:
        TargetMissedError: no choice within the budgets meets the target; it holds the best one.
        QatError: for arguments that contradict one another, a network that is over a budget with nothing raised, and whatever
            ``calibrate`` refuses.

    >>> import numpy as np
    >>> import qat
    >>> from qat.networks import LeNet5
    >>> graph = LeNet5().graph()
    >>> images = np.random.default_rng(0).integers(0, 256, (16, 1, 32, 32), np.uint8)
    >>> found = qat.repair(qat.Checkpoint(graph, graph.initial_params(0)), images, target_sqnr=30.0, num_bits=(4, 8))
    >>> found.after >= 30.0, found.weight_bytes <= found.weight_bytes_most
    (True, True)
    """
    graph = checkpoint.graph
    budgets = {"weight_bytes": size_budget, "bops": bops_budget}
    _check(target_drop, target_sqnr, measure, fewest, budgets)
    if graph.is_quantized:
        raise QatError(f"{graph.name} is quantized already: give the float network it was made from")
    ops = evaluation_ops() if ops is None else ops
    own = {name: settings.pop(name) for name in list(settings) if name not in SETTINGS}
    ours = quantize is None  # else its record has to say how it calibrates
    if quantize is None and refine is not None:
        raise QatError("repair: refine is given without quantize, which the search needs; give both, or rounding alone")
    if quantize is not None and own:
        raise QatError(f"repair: {next(iter(own))} is of calibrate, which quantize replaces; leave one of the two out")
    if quantize is None:
        quantize, refine = _calibrations(checkpoint, images, ops, own)
    samples = images if decide_on is None else decide_on.images
    if measure is not None:
        assert target_drop is not None
        judge: Measure = OwnMeasure(checkpoint, measure, target_drop, higher_is_better)
    elif target_sqnr is not None:
        judge = SqnrMeasure(checkpoint, samples, target_sqnr, ops)
    elif decide_on is not None and (decide_on.labels is not None or checkpoint.task.uses_images):
        judge = MetricMeasure(checkpoint, decide_on, float(target_drop or 0.0), ops)
    else:
        judge = AgreementMeasure(checkpoint, samples, float(target_drop or 0.0), ops)

    def told(first: Checkpoint) -> dict[str, Any] | None:
        chosen = chosen_in(first)
        return own | chosen if ours or chosen else None

    found = Recalibration(quantize, checkpoint, images, told, ops)
    base = found(**settings)
    if not base.graph.is_quantized:
        raise QatError(f"{graph.name}: quantize is False for all of its layers, so that there is nothing to repair")
    search = Search(
        Raising(graph, base.graph, settings),
        judge,
        found,
        refine or quantize,
        progress or (lambda line: None),
        shrinks=refine is not None,
    )
    search.given(base)
    known = {what: most for what, most in budgets.items() if most is not None}
    return _repaired(search, _few(samples, graph), fewest, known, targets, ops)


def _check(
    target_drop: float | None,
    target_sqnr: float | None,
    measure: Callable[[Checkpoint], float] | None,
    fewest: str,
    budgets: Mapping[str, int | None],
) -> None:
    """Raise QatError for arguments that say nothing, or contradict one another."""
    if (target_drop is None) == (target_sqnr is None):
        found = "neither" if target_drop is None else "both"
        raise QatError(f"repair: got {found} of target_drop and target_sqnr, but one of them decides; give one")
    if measure is not None and target_drop is None:
        raise QatError("repair: target_sqnr is of the outputs, but a measure is given; give target_drop, in its unit")
    for name, value in (("target_drop", target_drop), ("target_sqnr", target_sqnr)):
        if value is not None:
            check_type(name, value, float)
            if not math.isfinite(value) or (name == "target_drop" and value < 0.0):
                raise QatError(f"{name} is {value}; use a number, of a drop 0 or more")
    if fewest not in FEWEST:
        raise QatError(f"fewest {fewest!r} is unknown: choose one of {', '.join(FEWEST)}")
    for name, most in budgets.items():
        check_type(BUDGETS[name], most, int | None)
        if most is not None and most < 1:
            raise QatError(f"{BUDGETS[name]} is {most}; use a number of at least 1")


def _calibrations(
    checkpoint: Checkpoint, images: Arrays, ops: Ops, own: Mapping[str, Any]
) -> tuple[Quantize, Quantize | None]:
    """``calibrate`` for the search, alike in all that it chooses by itself, with nearest codes; and for the result, as ``own``,
    its settings, say, so that whoever calibrates with these gets the same.
    """
    alike: dict[str, Any] = {**own, "rounding": NEAREST}

    def calibrated(told: Mapping[str, Any], settings: Mapping[str, Any]) -> Checkpoint:
        found = calibrate(checkpoint.graph, checkpoint.params, images, ops=ops, **told, **settings)
        return replace(checkpoint.derived(found.graph, found.params), history=(*found.history, *checkpoint.past))

    def quantize(**settings: Any) -> Checkpoint:
        found = calibrated(alike, settings)
        alike.update(chosen_in(found))
        return found

    def refine(**settings: Any) -> Checkpoint:
        return calibrated(own, settings)

    chooses = any(own.get(name) is None for name in ("method", "equalize", "bias_correction"))
    return quantize, refine if chooses or own.get("rounding") != NEAREST else None


def chosen_in(checkpoint: Checkpoint) -> dict[str, Any]:
    """What a calibration chose of its own arguments but rounding, which takes long and only helps, and so is for the result
    alone, as the checkpoint's history says it; nothing where it does not.
    """
    record: Mapping[str, Any] = next((x["calibration"] for x in checkpoint.history if x.get("calibration")), {})
    own = set(inspect.signature(calibrate).parameters) - {"network", "params", "images", "ops", "rounding"}
    return {name: value for name, value in record.items() if name in own and value is not None}


def _few(samples: Arrays, graph: Graph) -> Arrays:
    """The first samples, as many as a diagnosis takes about ``WORK`` for: it computes half the network for each layer."""
    work = total_macs(graph) * len(macs(graph)) // 2
    most = min(MOST_TO_BLAME_ON, max(FEWEST_TO_BLAME_ON, int(WORK // max(work, 1))))
    return as_arrays(tuple(x[:most] for x in as_tuple(samples)))


def _repaired(
    search: Search, few: Arrays, fewest: str, budgets: Mapping[str, int], targets: Sequence[str], ops: Ops
) -> Repair:
    raising = search.raising
    base = search.checkpoint({})
    search.plan([], Costs(raising, base.params, []), budgets)
    for what, most in budgets.items():
        least = search.cost(what, {})
        if least > most:
            raise QatError(
                f"{BUDGETS[what]} {most:,}: with nothing raised {raising.base.name} already has {least:,}; allow more, or "
                "quantize to fewer bits"
            )
    search.value({})
    if search.met({}, refined=True):
        return _told(search, _result(search, [], refined=True))
    found = diagnose(base.graph, base.params, few, ops=ops)
    widest = WIDE if targets and _all_take_wide(search, found, targets) else BYTE
    offered = candidates(raising, found, widest)
    search.plan(offered, Costs(raising, base.params, offered), budgets)
    orders = [fewest, *(x for x, what in (("bytes", "weight_bytes"), ("bops", "bops")) if what in budgets)]
    for order in dict.fromkeys(orders):
        items = search.within(search.ranked(order))
        reached = search.first(items)
        reached = reached and search.refined(search.needed(reached), items)
        if reached is not None:
            result = _result(search, reached, refined=True)
            if widest > BYTE:
                _check_taken(result.checkpoint, targets)
            return _told(search, result)
    best = _result(search, search.best(), refined=True)
    within = "".join(f", within {BUDGETS[what]} {most:,}" for what, most in budgets.items())
    raise TargetMissedError(
        f"{search.measure.target} cannot be met{within}: the nearest is {search.measure.words(best.after)}, with "
        f"{len(best.raised)} raised; allow more, calibrate otherwise, or train it (train-quant)",
        best,
    )


def _result(search: Search, items: Items, refined: bool) -> Repair:
    measure, state = search.measure, dict(items)
    rows = search.rows(items, refined)
    after, before = search.value(state, refined=refined), search.value({}, refined=True)
    checkpoint = search.checkpoint(state, refined=refined)
    error = measure.standard_error(checkpoint)
    everything = {x: x.levels[-1] for x in search.found}
    return Repair(
        checkpoint=_recorded(checkpoint, measure, rows),
        settings=search.raising.settings(state),
        raised=rows,
        measure=measure.name,
        unit=measure.unit,
        limit=measure.limit,
        baseline=measure.baseline,
        before=before,
        after=after,
        drop_before=measure.drop(before),
        drop=measure.drop(after),
        standard_error=error,
        weight_bytes_before=search.cost("weight_bytes", {}),
        weight_bytes=search.cost("weight_bytes", state),
        weight_bytes_most=search.cost("weight_bytes", everything),
        bops_before=search.cost("bops", {}),
        bops=search.cost("bops", state),
        evaluations=search.evaluations,
        samples=measure.samples,
    )


def _told(search: Search, result: Repair) -> Repair:
    """The result; a QatWarning where there are too few samples for so small a drop."""
    error = result.standard_error
    if error is not None and 2.0 * error > result.limit:
        warnings.warn(
            f"{search.measure.target}: {result.samples:,} samples tell a drop to {amount(error, result.unit)} {result.unit} "
            "(standard error), so that others may well lose more; decide on more of them",
            QatWarning,
            stacklevel=4,
        )
    return result


def _recorded(checkpoint: Checkpoint, measure: Measure, rows: Sequence[Raised]) -> Checkpoint:
    """The checkpoint with what was raised, in its history."""
    raised = [[x.layer, x.what, x.before, x.after] for x in rows]
    first, *rest = checkpoint.history or ({},)
    return replace(checkpoint, history=({**first, "repair": {"target": measure.target, "raised": raised}}, *rest))


def _all_take_wide(search: Search, found: Diagnosis, targets: Sequence[str]) -> bool:
    """Whether all targets take the network with every activation of 16 bits."""
    wide = [x for x in candidates(search.raising, found, WIDE) if x.levels[-1].bits > BYTE]
    if not wide:
        return False
    refusal = _refusal(search.checkpoint({x: x.levels[-1] for x in wide}), targets)
    if refusal:
        search.progress(one_line(f"activations get 8 bits at most: {refusal}"))
    return not refusal


def _check_taken(checkpoint: Checkpoint, targets: Sequence[str]) -> None:
    """Raise QatError where a target does not take the result."""
    refusal = _refusal(checkpoint, targets)
    if refusal:
        raise QatError(f"{refusal}; leave that format out of targets, which keeps activations at 8 bits")


def _refusal(checkpoint: Checkpoint, targets: Sequence[str]) -> str | None:
    """What the first target says that does not export a network; None where all do."""
    with tempfile.TemporaryDirectory() as folder:
        for name in targets:
            found = target(name)
            try:
                integers = derived_integers(checkpoint.graph, checkpoint.params)
                options = arithmetic_options(found, default_arithmetic(found, graph=integers))
                found.export(integers, Path(folder) / f"tried{found.SUFFIX}", **options)
            except QatError as error:
                return str(error)
    return None
