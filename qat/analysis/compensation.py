"""What a weight loses by its rounding is made up for by other weights (GPTQ's update), and then codes are chosen once more."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from qat.vocabulary.ops import Array

COLUMNS = 128  #: of weights between two updates of all that follow
PASSES = 10  #: over a layer's codes once they are chosen, at most


class Compensation:
    """Rounds weights by the moments of what they are multiplied with.

    Args:
        moments: the sum or mean of x x^T of each group, float64 (groups, inputs, inputs).
        damping: in shares of the mean of its diagonal, added to that. What few images show by chance is trusted less with more.
    """

    def __init__(self, moments: Array, damping: float) -> None:
        inputs = moments.shape[1]
        variances = np.diagonal(moments, axis1=1, axis2=2)
        # Those that weigh most come first.
        self._order = np.argsort(-variances, axis=1, kind="stable")[:, np.newaxis, :]
        self._damped = damped(moments, damping)
        ordered = np.take_along_axis(
            np.take_along_axis(self._damped, np.swapaxes(self._order, 1, 2), 1), self._order, 2
        )
        # Upper: its transpose times it is the inverse.
        self._factor = np.swapaxes(np.linalg.cholesky(np.linalg.inv(ordered)), 1, 2)
        self._inputs = inputs

    def chosen(self, position: Array, free: Array, fixed: Array, first: Array, last: Array) -> Rounded:
        """The codes that ``refined`` makes of ``codes``. Args: as there."""
        codes = self.codes(position, free, fixed, first, last).codes
        return self.refined(position, codes, free, first, last)

    def codes(self, position: Array, free: Array, fixed: Array, first: Array, last: Array) -> Rounded:
        """Whole numbers near to weights, such that sum over inputs of (weight - code) x is small.

        Args:
            position: the weights in steps, float64 (groups, outputs, inputs).
            free: whether a weight's code may be chosen, likewise.
            fixed: the codes of the others.
            first: the smallest code of each.
            last: the largest one.

        >>> import numpy as np
        >>> position = np.array([[[0.4, 0.4, 0.4, 0.4]]])  # each rounds to 0
        >>> everything = np.ones((1, 4, 4))  # four inputs that are always alike: only the sum of codes counts, 1.6
        >>> one = np.ones_like(position)
        >>> Compensation(everything, 0.01).codes(position, one > 0, 0 * one, -7 * one, 7 * one).codes.sum()
        2.0
        """
        order = np.broadcast_to(self._order, position.shape)
        left, free, fixed, first, last = (np.take_along_axis(x, order, 2) for x in (position, free, fixed, first, last))
        factor, codes = self._factor, np.empty_like(left)
        for start in range(0, self._inputs, COLUMNS):
            stop = min(start + COLUMNS, self._inputs)
            errors = np.empty((*left.shape[:2], stop - start))
            for j in range(start, stop):
                nearest = np.clip(np.rint(left[:, :, j]), first[:, :, j], last[:, :, j])
                codes[:, :, j] = np.where(free[:, :, j], nearest, fixed[:, :, j])
                error = (left[:, :, j] - codes[:, :, j]) / factor[:, j, j, np.newaxis]
                left[:, :, j + 1 : stop] -= error[:, :, np.newaxis] * factor[:, np.newaxis, j, j + 1 : stop]
                errors[:, :, j - start] = error
            left[:, :, stop:] -= errors @ factor[:, start:stop, stop:]
        found = Rounded(np.empty_like(left), np.empty_like(left))
        for array, ordered in zip(found, (codes, left), strict=True):
            np.put_along_axis(array, order, ordered, 2)
        return found

    def refined(self, position: Array, codes: Array, free: Array, first: Array, last: Array) -> Rounded:
        """The same codes, each chosen once more given all others, until none changes or ten passes are over.

        With e = w - q, e H e^T is smallest over q_j at w_j + sum of e_k H_kj / H_jj over k other than j, so the code nearest to
        that never makes it larger.

        Args:
            position, free, first, last: as ``codes`` takes them.
            codes: those to begin with, float64 (groups, outputs, inputs).

        >>> import numpy as np
        >>> position, codes = np.array([[[0.4, 0.4, 0.4, 0.4]]]), np.array([[[3.0, -2.0, 1.0, 1.0]]])
        >>> everything = np.ones((1, 4, 4))
        >>> one = np.ones_like(position)
        >>> Compensation(everything, 0.01).refined(position, codes, one > 0, -7 * one, 7 * one).codes.sum()
        2.0
        """
        diagonal = np.diagonal(self._damped, axis1=1, axis2=2)
        found, off = Rounded(codes.copy(), position.copy()), position - codes
        for _ in range(PASSES):
            settled = True
            for start in range(0, self._inputs, COLUMNS):
                damped = self._damped[:, :, start : start + COLUMNS]
                slope = off @ damped
                for j, column in enumerate(range(start, start + damped.shape[2])):
                    old = found.codes[:, :, column].copy()
                    best = old + slope[:, :, j] / diagonal[:, column, np.newaxis]
                    nearest = np.clip(np.rint(best), first[:, :, column], last[:, :, column])
                    found.position[:, :, column] = best
                    found.codes[:, :, column] = np.where(free[:, :, column], nearest, old)
                    change = old - found.codes[:, :, column]
                    group, output = np.nonzero(change)  # few after the first pass
                    if len(group):
                        settled = False
                        off[:, :, column] += change
                        slope[group, output] += change[group, output, np.newaxis] * damped[group, column]
            if settled:
                break
        return found


class Rounded(NamedTuple):
    """What ``Compensation`` gives.

    Attributes:
        codes: float64 (groups, outputs, inputs).
        position: what was rounded: the weights in steps, with all that they made up for, likewise.
    """

    codes: Array
    position: Array


def damped(moments: Array, share: float) -> Array:
    """Moments with a share of the mean of their diagonal added to that; of inputs that are always 0 the identity."""
    inputs = moments.shape[1]
    diagonal = np.trace(moments, axis1=1, axis2=2).reshape(-1, 1, 1) / inputs
    found: Array = np.where(diagonal > 0.0, moments + share * diagonal * np.eye(inputs), np.eye(inputs))
    return found
