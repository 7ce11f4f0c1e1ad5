"""Post-training quantization: ranges of activations from a few images, without training.

The result is the network that convert_quant_network makes, in the state in which training would leave it, so that every
target, verify, eval-quant and train-quant go on from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qat.analysis.bias_correction import correct_biases, float_means, with_biases
from qat.analysis.equalization import equalized
from qat.analysis.ranges import METHODS, find_ranges
from qat.errors import QatError
from qat.graph import Graph, Network, Node, as_graph
from qat.passes.convert_quant_network import convert_quant_network
from qat.passes.unlike_ranges import warn_of_unlike_ranges
from qat.passes.unreached_numbers import warn_of_unreached_numbers
from qat.registry import evaluation_ops
from qat.training.checkpoint import Checkpoint
from qat.training.forward import IDLE, NodeLoop
from qat.vocabulary.arrays import WORKING_BYTES, Arrays, batches_of, samples_that_fit
from qat.vocabulary.fields import check_type
from qat.vocabulary.ops import Array, Ops
from qat.vocabulary.values import Value

MOST = 100  #: images at a time, however small they are
BATCH_BYTES = 2 * WORKING_BYTES  #: that the largest tensor of a batch takes: each batch quantizes the weights anew


def calibrate(
    network: Network | Graph,
    params: Mapping[str, Array],
    images: Arrays,
    *,
    method: str = "minmax",
    percentile: float = 99.99,
    bias_correction: bool = False,
    equalize: bool = False,
    batch_size: int | None = None,
    ops: Ops | None = None,
    **settings: Any,
) -> Checkpoint:
    """Quantize a trained float network with the ranges that its activations have on some images.

    The numbers are those of the float network. A fake quantizer after a ReLU keeps only the upper end of its range, and
    fake quantizers that share a grid take the union of their ranges; a QatWarning says where a Concat thereby leaves few codes
    to one of its parts, or where a Pad's number lies outside them.

    Args:
        network: the float network.
        params: its trained parameters, float32 by full name.
        images: uint8 (N, C, H, W), a tuple of such arrays for several inputs; take training images, a thousand are plenty.
        method: how the range of an activation is found. "minmax": from the smallest to the largest number.
            "percentile": from the (100 - percentile)-th to the percentile-th, interpolated in a histogram of 8,192 bins.
            "mse": the range whose codes have the smallest mean squared error, of 100 candidates for each end in turn.
            "entropy": the range whose codes lose the least information (``qat.analysis.ranges.entropy_range``).
        percentile: for the method of that name, above 50 and up to 100.
        bias_correction: take the mean error that quantization causes in each output channel of each convolution and dense
            cell out of its bias (``correct_biases``). A cell without bias gets one; one with batch normalisation keeps
            it, and its beta takes the correction.
        equalize: first equalize channels, by what they are on these images (``equalize_channels``).
        batch_size: images at a time; None: as many as fit (``samples_that_fit``). Ranges depend on it in the last bits at most.
        ops: the vocabulary that computes, as ``qat.registry.evaluation_ops("keras")``; None: of the first backend that is
            installed, without any NumPy's. Ranges depend on it in the last bits, as float sums do.
        **settings: those of ``convert_quant_network``.

    Returns:
        A quantized checkpoint of step 0, without history: export it, or train it further.

    Raises:
        QatError: for images that the network does not take, for an unknown method, and where the float network is quantized
            already or gives numbers that are not finite.

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
    """
    if method not in METHODS:
        raise QatError(f"method {method!r} is unknown: choose one of {', '.join(METHODS)}")
    check_percentile(percentile)
    graph = as_graph(network)
    size = samples_that_fit(graph.shapes.values(), MOST, BATCH_BYTES) if batch_size is None else batch_size
    batches = batches_of(images, graph.input_specs, size, graph.name)
    graph.check_params(params)
    own = dict(params)
    if bias_correction and not graph.is_quantized:
        graph, own = with_biases(graph, own)
    quantized = convert_quant_network(graph, **settings)
    loop = NodeLoop(quantized, evaluation_ops() if ops is None else ops)
    own = quantized.params_from(own)
    if equalize:
        own = equalized(quantized, own, batches, loop.ops)
    means = float_means(quantized) if bias_correction else {}

    def watch(node: Node, value: Value) -> None:
        if node.name in means:
            means[node.name].add(loop.ops, value)

    own |= find_ranges(loop, loop.load(own, IDLE), batches, method, percentile, watch)
    if bias_correction:
        own = correct_biases(quantized, own, batches, means, loop.ops)
    warn_of_unlike_ranges(quantized, own)
    warn_of_unreached_numbers(quantized, own)
    return Checkpoint(quantized, own)


def check_percentile(percentile: float) -> None:
    """Raise QatError unless a range can end at this percentile."""
    check_type("percentile", percentile, float)
    if not 50.0 < percentile <= 100.0:
        raise QatError(f"percentile is {percentile}; use a number above 50, where a range is empty, and up to 100")
