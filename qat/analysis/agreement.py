"""How far numbers are from those that they stand for, gathered batch by batch: memory does not grow with the samples."""

from __future__ import annotations

import math

import numpy as np

from qat.vocabulary.ops import Array

FEW = 8  #: numbers of which a mean says little


def decibels(signal: float, error: float) -> float:
    """10 log10(signal / error), of powers: infinite without an error, minus infinite where there is nothing but an error."""
    if error == 0.0:
        return math.inf
    return -math.inf if signal == 0.0 else 10.0 * math.log10(signal / error)


class Agreement:
    """Sums over numbers f and the q that are compared with them, in float64.

    Attributes:
        signal: sum f^2.
        error: sum (f - q)^2.
    """

    def __init__(self) -> None:
        self.signal, self.error = 0.0, 0.0
        self._other, self._product = 0.0, 0.0

    def add(self, f: Array, q: Array) -> None:
        """Count the numbers of a batch."""
        f, q = (x.ravel().astype(np.float64) for x in (f, q))
        difference = f - q
        self.signal += float(f @ f)
        self.error += float(difference @ difference)
        self._other += float(q @ q)
        self._product += float(f @ q)

    @property
    def sqnr(self) -> float:
        """10 log10(signal / error), in dB."""
        return decibels(self.signal, self.error)

    @property
    def cosine(self) -> float:
        """sum f q / sqrt(sum f^2 sum q^2); 1 where all of both are 0, and 0 where all of one are."""
        if self.signal == 0.0 or self._other == 0.0:
            return float(self.signal == self._other)
        return self._product / math.sqrt(self.signal * self._other)

    @property
    def relative(self) -> float:
        """error / signal; infinite where there is nothing but an error."""
        return 0.0 if self.error == 0.0 else math.inf if self.signal == 0.0 else self.error / self.signal


class Channels:
    """The ends of each channel's numbers, and the mean of what each differs by.

    Attributes:
        samples: numbers of a channel.
    """

    def __init__(self) -> None:
        self.samples = 0
        self._low = self._high = self._errors = np.zeros(0)

    def add(self, f: Array, q: Array) -> None:
        """Count a batch, (N, C, ...)."""
        axes = (0, *range(2, q.ndim))
        low, high = q.min(axis=axes), q.max(axis=axes)
        errors = (q.astype(np.float64) - f).sum(axis=axes)
        if self.samples:
            low, high = np.minimum(self._low, low), np.maximum(self._high, high)
            errors = self._errors + errors
        self._low, self._high, self._errors = low, high, errors
        self.samples += q.size // q.shape[1]

    @property
    def dead(self) -> int:
        """Channels in which all numbers are one and the same, as 0; none where a channel has a single number."""
        return int(np.equal(self._low, self._high).sum()) if self.samples > 1 else 0

    @property
    def bias(self) -> float:
        """The sum of squared errors that is due to the mean error of each channel, which a bias could take out; 0 where there
        are too few numbers for a mean.
        """
        return 0.0 if self.samples < FEW else float((self._errors**2).sum()) / self.samples

    def largest(self) -> Array:
        """max |.| of each channel, (C,)."""
        found: Array = np.maximum(np.abs(self._low), np.abs(self._high))
        return found


class Codes:
    """How the float numbers of an activation, and its integers, lie on the grid.

    Args:
        scale: of the grid.
        low: the lowest centred code.
        high: the highest centred code.

    Attributes:
        scale, low, high: as given.
        given: how often a float number is rounded to each code, from the lowest to the highest, int64.
        made: how often the integers have it.
        least: the smallest float number.
        largest: the largest one.
        clipped: float numbers that lie beyond the grid by more than half a step.
        clip_error: the sum of squares of what is clipped off them.
        numbers: all of them.
    """

    def __init__(self, scale: float, low: int, high: int) -> None:
        self.scale, self.low, self.high = scale, low, high
        self.given, self.made = np.zeros(high - low + 1, np.int64), np.zeros(high - low + 1, np.int64)
        self.least, self.largest = math.inf, -math.inf
        self.clipped, self.numbers, self.clip_error = 0, 0, 0.0

    def add(self, f: Array, codes: Array) -> None:
        """Count a batch: float numbers, and the integers' centred codes."""
        self.least, self.largest = min(self.least, float(f.min())), max(self.largest, float(f.max()))
        steps = f.ravel().astype(np.float64) / self.scale
        inside = np.clip(steps, self.low, self.high)
        beyond = np.abs(steps - inside)
        self.clipped += int((beyond > 0.5).sum())
        self.clip_error += float(beyond @ beyond) * self.scale**2
        self.numbers += steps.size
        size = len(self.given)
        self.given += np.bincount(np.rint(inside).astype(np.int64) - self.low, minlength=size)
        self.made += np.bincount(np.rint(codes.ravel()).astype(np.int64) - self.low, minlength=size)

    @property
    def used(self) -> float:
        """The share of the codes that the integers have at least once."""
        return float((self.made > 0).mean())

    def halved_error(self, error: float) -> float:
        """What ``error``, the sum of squared errors of rounding and clipping, would be with a range half as wide.

        A step half as wide leaves a quarter of the rounding's error, and numbers beyond the new range lose what lies beyond.
        """
        codes = np.arange(self.low, self.high + 1, dtype=np.float64)
        beyond = codes - np.clip(codes, self.low / 2.0, self.high / 2.0)
        clipped = float((self.given * beyond**2).sum()) * self.scale**2
        return max(error - self.clip_error, 0.0) / 4.0 + self.clip_error + clipped

    def doubled_error(self, error: float) -> float:
        """What it would be with a range twice as wide: four times the rounding's error, and nothing clipped."""
        return 4.0 * max(error - self.clip_error, 0.0)
