"""Rearrangements: the steps for channels first and for channels last give the same sample, in as few parts as do."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qat.vocabulary.rearrangement import Rearrangement, Step, reshaping


def through(x, steps):
    """An array's numbers after the steps."""
    for parts, axes in steps:
        x = x.reshape(parts).transpose(axes)
    return x.ravel()


def stored(x):
    """The numbers of a sample whose channels are stored last."""
    return np.moveaxis(x, 0, -1)


def assert_equal_both_ways(how):
    x = np.arange(math.prod(how.source)).reshape(how.source)
    expected = x.reshape(how.step.parts).transpose(how.step.axes).reshape(how.shape)
    np.testing.assert_array_equal(through(x, how.steps()), expected.ravel())
    last = through(stored(x).reshape(-1), how.steps_channels_last())
    np.testing.assert_array_equal(last.reshape((*how.shape[1:], how.shape[0])), stored(expected))


SHAPES = st.lists(st.integers(1, 4), min_size=1, max_size=3)


@given(st.lists(st.integers(1, 3), min_size=1, max_size=6), st.data())
def test_steps_of_any_parts(parts, data):
    """Shapes are products of neighbouring parts, or others."""
    axes = data.draw(st.permutations(range(len(parts))))

    def grouped(sizes):
        ends = sorted(data.draw(st.sets(st.integers(0, len(sizes)), max_size=2)))
        bounds = zip([0, *ends], [*ends, len(sizes)], strict=True)
        return tuple(math.prod(sizes[a:b]) for a, b in bounds)

    how = Rearrangement(grouped(parts), Step(tuple(parts), tuple(axes)), grouped([parts[axis] for axis in axes]))
    assert_equal_both_ways(how)
    assert len(how.steps_channels_last()) <= 1


@given(SHAPES, st.data())
def test_reshaping_to_any_shape(source, data):
    numbers, shape = math.prod(source), []
    for _ in range(data.draw(st.integers(0, 2))):
        shape.append(data.draw(st.sampled_from([n for n in range(1, numbers + 1) if numbers % n == 0])))
        numbers //= shape[-1]
    how = reshaping(tuple(source), (*shape, numbers))
    assert how.steps() == ()
    assert_equal_both_ways(how)


@pytest.mark.parametrize(
    ("source", "shape", "steps"),
    [
        ((2, 3, 4), (24,), (Step((12, 2), (1, 0)),)),
        ((24,), (2, 3, 4), (Step((2, 12), (1, 0)),)),
        ((4, 6), (4, 2, 3), ()),
        ((1, 3, 4), (1, 4, 3), ()),
        ((2, 3, 4), (4, 3, 2), (Step((12, 2), (1, 0)), Step((4, 6), (1, 0)))),
    ],
    ids=str,
)
def test_a_reshaping_of_stored_samples_moves_them_as_little_as_it_can(source, shape, steps):
    assert reshaping(source, shape).steps_channels_last() == steps
