"""What the fixed arithmetic rounds in a training pass, and what it does not, though the network is trained in it."""

from __future__ import annotations

import numpy as np
import pytest
from calibrations import calibrate
from every_cell import EXAMPLES, quantized
from sequential import Setup
from test_fixed_evaluation import differing
from test_inputs import INPUTS, Net
from test_quantizer_family import ACTIVATION_CASES, activation_case

import qat
from qat.integer.fixed_point import quantize_multiplier
from qat.quantizers.base import BaseActivationQuantizer
from qat.training.forward import NodeLoop
from qat.vocabulary.numpy_ops import NUMPY_OPS
from qat.vocabulary.values import Value

F = np.float32
UNIFORM = [(q, non_negative) for q, non_negative in ACTIVATION_CASES if q.uniform and not q.by_sign and q.num_bits < 8]


@pytest.mark.parametrize(("quantizer", "non_negative"), UNIFORM, ids=str)
def test_codes_of_accumulators_are_rounded_twice(quantizer: BaseActivationQuantizer, non_negative: bool) -> None:
    """By every quantizer; words that enter are rounded once, to even, as in the float arithmetic."""
    own, _, _ = activation_case(quantizer, non_negative)
    tensors = {name: np.atleast_1d(array) for name, array in own.items()}
    scale, zero_point = quantizer.grid(NUMPY_OPS, tensors, [], non_negative)
    low, high = quantizer.bounds(NUMPY_OPS, tensors, [], non_negative)
    sums, multiplier = np.arange(-60, 61, dtype=F)[None], quantize_multiplier(np.array([0.125]))

    def codes(**options: bool) -> np.ndarray:
        value = Value(sums, scale * F(0.125), **options)
        return np.asarray(quantizer.quantize(NUMPY_OPS, value, tensors, [], non_negative, 1).data)

    low, high = (0.0 if non_negative else low - zero_point), high - zero_point
    twice = multiplier.apply(NUMPY_OPS, multiplier.constants(), sums.astype(np.int64))
    np.testing.assert_array_equal(codes(fixed=True), np.clip(twice, low, high))
    for once in (codes(), codes(fixed=True, entering=True)):
        np.testing.assert_array_equal(once, np.clip(np.rint(sums * F(0.125)), low, high))
    assert (codes() != codes(fixed=True)).any()


@pytest.mark.parametrize("what", ["int16 words", "uint16 words", "real numbers"])
def test_what_enters_is_rounded_as_in_the_float_arithmetic(what: str) -> None:
    """As deployment does it, whatever the arithmetic."""
    options, samples = INPUTS[what]
    checkpoint = calibrate(Net(**options), Net().graph().initial_params(), samples, arithmetic="fixed")
    integers = qat.to_integer(checkpoint.graph, checkpoint.params)
    loop = NodeLoop(checkpoint.graph, NUMPY_OPS)
    values = loop.begin(loop.pixels((samples,)))
    context = loop.load(checkpoint.params, 1 << 30)
    for step in loop.steps[:2]:
        loop.advance(step, context, values)
    assert isinstance(loop.steps[1].node.cell, qat.FakeQuant)
    entry = integers.nodes[0]
    multiplier = F(entry.requantize.multiplier.reshape(()))
    offset = getattr(entry, "offset", 0)
    expected = np.clip(
        np.rint((samples.astype(F) - F(offset)) * multiplier), entry.requantize.low, entry.requantize.high
    )
    np.testing.assert_array_equal(values[loop.steps[1].node.name].data, expected)


UNLIKE = qat.AvgPool2d(3, 2, "pad", 1, count_include_pad=False)  #: a multiplier for each position


@pytest.mark.parametrize("cell", [*EXAMPLES.values(), UNLIKE], ids=lambda cell: type(cell).__name__)
def test_every_cell_s_numbers_become_the_codes_of_deployment(cell: qat.Cell) -> None:
    """Of the codes before them; of a GroupNorm, whose float sums are others in training, a few are off in either arithmetic."""
    graph, params = quantized(cell, num_bits=(8, 4), arithmetic="fixed")
    pixels = np.random.default_rng(1).integers(0, 256, (400, *graph.input_specs[0].shape), np.uint8)
    assert differing(Setup(graph, params, pixels), "fixed") < 0.0005
