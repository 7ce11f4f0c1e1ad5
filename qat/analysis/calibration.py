"""Post-training quantization: ranges of activations from a few images, without training.

The result is the network that convert_quant_network makes, in the state in which training would leave it, so that every
target, verify, eval-quant and train-quant go on from it.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from qat.analysis.bias_correction import ChannelMean, correct_biases, float_means, watching, with_biases
from qat.analysis.choosing import (
    CANDIDATES,
    FEWEST,
    LEARNED,
    MOMENTS,
    NEAREST,
    Decision,
    Judge,
    Wanted,
    best,
    held_back,
    options,
    some_of,
    warn_if_ruined,
)
from qat.analysis.equalization import equalized
from qat.analysis.moment_rounding import rounded_by_moments
from qat.analysis.ranges import Batches, Observed
from qat.analysis.rounding import LearnedRounding, learn_rounding, rounding_record
from qat.errors import QatError, QatWarning
from qat.graph import Graph, Network, Params, as_graph
from qat.hints import perhaps
from qat.passes.convert_quant_network import convert_quant_network
from qat.passes.unlike_ranges import warn_of_unlike_ranges
from qat.passes.unreached_numbers import warn_of_unreached_numbers
from qat.registry import evaluation_ops
from qat.training.checkpoint import Checkpoint
from qat.vocabulary.arrays import WORKING_BYTES, Arrays, as_tuple, batches_of, samples_that_fit
from qat.vocabulary.ops import Array, Ops

MOST = 100  #: images at a time, however small they are
BATCH_BYTES = 2 * WORKING_BYTES  #: that the largest tensor of a batch takes: each batch quantizes the weights anew


def calibrate(
    network: Network | Graph,
    params: Mapping[str, Array],
    images: Arrays,
    *,
    method: str | None = None,
    percentile: float = 99.99,
    bias_correction: bool | None = None,
    equalize: bool | None = None,
    rounding: str | LearnedRounding | None = None,
    batch_size: int | None = None,
    ops: Ops | None = None,
    **settings: Any,
) -> Checkpoint:
    """Quantize a trained float network with the ranges that its activations have on some images.

    What is None is chosen, by the SQNR that the network's outputs have on images which are held back from the choice, a quarter
    of all and at most 64 (``qat.analysis.choosing``): first ranges and equalization together, then rounding, then bias
    correction. What was chosen is then done with all images, apart from equalization. With fewer than 16 images nothing is
    chosen: ranges are then "minmax", without the others.

    The numbers are those of the float network. A fake quantizer after a ReLU keeps only the upper end of its range, and
    fake quantizers that share a grid take the union of their ranges; a QatWarning says where a Concat thereby leaves few codes
    to one of its parts, where a Pad's number lies outside them, and where a method that was asked for leaves the outputs
    below 30 dB and 3 dB or more below what "minmax" does.

    Args:
        network: the float network.
        params: its trained parameters, float32 by full name.
        images: uint8 (N, C, H, W), a tuple of such arrays for several inputs; take training images, a thousand are plenty.
        method: how the range of an activation is found. "minmax": from the smallest to the largest number.
            "percentile": from the (100 - percentile)-th to the percentile-th, interpolated in a histogram of 8,192 bins.
            "mse": the range whose codes have the smallest mean squared error, of 100 candidates for each end in turn.
            "entropy": the range whose codes lose the least information (``qat.analysis.ranges.entropy_range``).
            None: that of "minmax", "mse" and "percentile" with the smallest error.
        percentile: for the method of that name, above 50 and up to 100.
        bias_correction: take the mean error that quantization causes in each output channel of each convolution and dense
            cell out of its bias (``correct_biases``). A cell without bias gets one; one with batch normalisation keeps
            it, and its beta takes the correction. None: where the error falls.
        equalize: first equalize channels, by what they are on these images (``qat.analysis.equalization``). None: where the
            error falls.
        rounding: how weights become codes, after the ranges and before the bias correction. "nearest"; "moments": so that
            layers' outputs change least, by the second moments of what they take (``qat.analysis.moment_rounding``); or
            "learned" or as a ``qat.LearnedRounding`` says. None: the first or the second one, where the error
            falls.
        batch_size: images at a time; None: as many as fit (``samples_that_fit``). Ranges depend on it in the last bits at most;
            equalization holds whole batches back, so that of few images it may choose other factors.
        ops: the vocabulary that computes, as ``qat.registry.evaluation_ops("keras")``; None: of the first backend that is
            installed, without any NumPy's. Ranges depend on it in the last bits, as float sums do.
        **settings: those of ``convert_quant_network``.

    Returns:
        A quantized checkpoint of step 0: export it, or train it further. Its history has one record, {"calibration": ...}: the
        settings, those that were chosen among them, how many images there were and were held back, and the ``decisions``
        (``qat.analysis.choosing.Decision``) with the SQNR of each candidate; where rounding was
        learned also {"rounding": ...}, what became of each block (``qat.analysis.rounding.RoundedBlock``).

    Raises:
        QatError: for images that the network does not take, for an unknown method, and where the float network is quantized
            already or gives numbers that are not finite; where rounding is to be learned, as ``learn_rounding``.

    >>> import numpy as np
    >>> import qat
    >>> class Small(qat.Network):
    ...     inputs = qat.Input((1, 4, 4))
    ...     def __init__(self):
    ...         self.conv = qat.Conv2dBnAct(1, 2, 3, activation="relu")
    ...     def construct(self, x):
    ...         return self.conv(x)
    >>> images = np.arange(160, dtype=np.uint8).reshape(10, 1, 4, 4)
    >>> checkpoint = qat.calibrate(Small(), Small().graph().initial_params(), images, method="mse")
    >>> checkpoint.graph.is_quantized, sorted(checkpoint.params)
    (True, ['conv.fake_quant.max', 'conv.weight'])
    >>> {name: checkpoint.history[0]["calibration"][name] for name in ("method", "bias_correction")}  # ten choose nothing
    {'method': 'mse', 'bias_correction': False}
    """
    for name in settings.keys() - SETTINGS:
        raise QatError(f"calibrate has no setting {name!r}{perhaps(name, [*OWN, *SETTINGS])}: leave it out")
    rounding = LearnedRounding() if rounding == LEARNED else rounding
    learning = rounding if isinstance(rounding, LearnedRounding) else None
    of_weights = LEARNED if isinstance(rounding, LearnedRounding) else rounding
    wanted = Wanted(method, percentile, equalize, bias_correction, of_weights)
    graph = as_graph(network)
    size = samples_that_fit(graph.shapes.values(), MOST, BATCH_BYTES) if batch_size is None else batch_size
    batches_of(images, graph.input_specs, size, graph.name)
    graph.check_params(params)
    ops = evaluation_ops() if ops is None else ops
    given = graph, dict(params), ops, settings
    count, held_count, decisions = len(as_tuple(images)[0]), 0, list[Decision]()
    if wanted.undecided and count >= FEWEST:
        used, held = (batches_of(x, graph.input_specs, size, graph.name) for x in held_back(images))
        held_count = sum(len(batch[0]) for batch in held)
        wanted = _Choice(_Work(*given, used, wanted), held, decisions).made()
    wanted = wanted.without_choice()
    assert wanted.method is not None
    work = _Work(*given, batches_of(images, graph.input_specs, size, graph.name), wanted)
    observed, means = work.observed(bool(wanted.equalize))
    own = observed.with_ranges(wanted.method, wanted.percentile)
    if method not in (None, "minmax"):
        some = batches_of(some_of(images), graph.input_specs, size, graph.name)
        warn_if_ruined(work.judge(some), method, own, observed.with_ranges("minmax", wanted.percentile))
    learned: dict[str, Any] = {}
    if learning is not None:
        own, rounded = learn_rounding(work.quantized, own, images, learning, ops)
        learned = rounding_record(learning, rounded)
    elif wanted.rounding == MOMENTS:
        nearest, own = own, work.rounded(own)
        if rounding == MOMENTS and all(own[name] is array for name, array in nearest.items()):
            warnings.warn(
                f"{work.quantized.name}: rounding by moments was asked for, but no layer has codes that it could choose, so "
                "that all keep the nearest ones: use weight quantizers by range or LSQ, or leave rounding out",
                QatWarning,
                stacklevel=2,
            )
    if wanted.bias_correction:
        own = work.corrected(own, means)
    quantized = work.quantized
    warn_of_unlike_ranges(quantized, own)
    warn_of_unreached_numbers(quantized, own)
    record = {"images": count, "held_back": held_count, **asdict(wanted), "decisions": list(map(asdict, decisions))}
    return Checkpoint(quantized, own, history=({"calibration": record} | learned,))


SETTINGS = inspect.signature(convert_quant_network).parameters.keys() - {"network"}
OWN = inspect.signature(calibrate).parameters.keys() - {"network", "params", "images", "settings"}  #: calibrate's


class _Work:
    """A network that is calibrated on some images.

    Attributes:
        quantized: the quantized graph; where biases may be corrected, each cell that had none has one of 0.
        wanted: the settings.
        ops: the vocabulary that computes.
    """

    def __init__(
        self, graph: Graph, params: Params, ops: Ops, settings: Mapping[str, Any], batches: Batches, wanted: Wanted
    ) -> None:
        self.wanted, self.ops, self._batches = wanted, ops, batches
        if wanted.bias_correction is not False and not graph.is_quantized:
            graph, params = with_biases(graph, params)
        self.quantized = convert_quant_network(graph, **settings)
        self._float = self.quantized.params_from(params)

    def judge(self, batches: Batches) -> Judge:
        """Of these images."""
        return Judge(self.quantized, self._float, batches, self.ops)

    def observed(self, equalize: bool) -> tuple[Observed, dict[str, ChannelMean]]:
        """The float network on the images, equalized or not, and the means that biases are corrected by."""
        own = self._float
        if equalize:
            own = equalized(self.quantized, own, self._batches, self.ops)
        observed = Observed(self.quantized, own, self.wanted.method != "minmax")
        means = float_means(self.quantized) if self.wanted.bias_correction is not False else {}
        observed.add(self.ops, self._batches, watching(self.ops, means))
        return observed, means

    def rounded(self, own: Params) -> Params:
        """Codes by the moments of what layers take; own: parameters with ranges."""
        return rounded_by_moments(self.quantized, own, self._batches, self.ops)

    def corrected(self, own: Params, means: Mapping[str, ChannelMean]) -> Params:
        """Biases corrected; means: those that were observed."""
        return correct_biases(self.quantized, own, self._batches, means, self.ops)


class _Choice:
    """What is open among the settings, chosen step by step by the error on images that are held back.

    Args:
        work: on the other images.
        held: the images that are held back.
        decisions: is given what was chosen.
    """

    def __init__(self, work: _Work, held: Batches, decisions: list[Decision]) -> None:
        self._work, self._held, self._judge = work, held, work.judge(held)
        self._decisions, self._wanted = decisions, work.wanted

    def made(self) -> Wanted:
        """The settings, none of them open."""
        own, means = self._with_ranges()
        own = self._rounded(own)
        if self._wanted.bias_correction is None:
            self._choose("bias_correction", {False: own, True: self._work.corrected(own, means)})
        return self._wanted

    def _with_ranges(self) -> tuple[Params, dict[str, ChannelMean]]:
        """Channels equalized or not, and ranges: the best pair of both."""
        wanted = self._wanted
        either, methods = options(wanted.equalize, (False, True)), options(wanted.method, CANDIDATES)
        seen = {each: self._work.observed(each) for each in either}
        tried = {(e, m): seen[e][0].with_ranges(m, wanted.percentile) for e in either for m in methods}
        errors = {key: self._judge.error(own) for key, own in tried.items()} if len(tried) > 1 else {}
        equalize, method = best(errors) if errors else next(iter(tried))
        if wanted.method is None:
            self._decide("method", {m: errors[equalize, m] for m in methods}, method)
        if wanted.equalize is None:
            self._decide("equalize", {e: min(errors[e, m] for m in methods) for e in either}, equalize)
        # Rounding and biases are judged with ranges of all images: a large number that was held back, and is cut off, would
        # hide what they bring.
        observed, means = seen[equalize]
        observed.add(self._work.ops, self._held)
        return observed.with_ranges(method, wanted.percentile), means

    def _rounded(self, own: Params) -> Params:
        """Codes of weights by moments or nearest ones; learned ones, which take long, are stood in for by moments."""
        if self._wanted.rounding == NEAREST:
            return own
        found = self._work.rounded(own)
        if self._wanted.rounding is None:
            return self._choose("rounding", {NEAREST: own, MOMENTS: found})
        return found

    def _choose(self, setting: str, candidates: Mapping[Any, Params]) -> Params:
        """The candidate with the smallest error."""
        errors = {value: self._judge.error(params) for value, params in candidates.items()}
        self._decide(setting, errors, best(errors))
        return candidates[best(errors)]

    def _decide(self, setting: str, errors: Mapping[Any, float], chosen: Any) -> None:
        self._decisions.append(Decision.of(setting, errors, chosen))
        self._wanted = replace(self._wanted, **{setting: chosen})
