"""The formulas of metrics, in NumPy: no more is needed of scikit-learn than a test that compares with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from qat.errors import QatError
from qat.vocabulary.ops import Array

ROWS = 1024  #: labels that are looked at at a time: they may be read from files


class Table(NamedTuple):
    """Figures of each class.

    Attributes:
        title: above the table.
        what: heading of the first column.
        columns: headings of the others.
        names: in the first column.
        rows: texts.
    """

    title: str
    what: str
    columns: tuple[str, ...]
    names: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


def found_table(title: str, what: str, hits: Array, found: Array, wanted: Array) -> Table:
    """Precision, recall and F1 of each class. hits, found, wanted: as of ``f1``."""
    rows = []
    for hit, guess, want, score in zip(
        *(x.tolist() for x in (hits, found, wanted, f1(hits, found, wanted))), strict=True
    ):
        shares = (hit / guess if guess else 0.0, hit / want if want else 0.0, score)
        rows.append((f"{want:,}", *(f"{share:.4f}" for share in shares)))
    names = tuple(map(str, range(len(rows))))
    return Table(title, what, ("there are", "precision", "recall", "F1"), names, rows)


def ranked_auc(scores: Array, truth: Array) -> float:
    """The area under the ROC curve: how often a positive has a higher score than a negative, ties counting half (the
    statistic of Mann and Whitney; Fawcett, Pattern Recognition Letters 27, 2006, section 7).

    Args:
        scores: (N,).
        truth: booleans (N,), some True and some False.

    Returns:
        0 to 1.
    """
    _, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[place]  # equal scores share their mean rank
    positives = int(truth.sum())
    negatives = len(truth) - positives
    return float((ranks[truth].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def average_precision(scores: Array, truth: Array) -> float:
    """sum_n (R_n - R_(n-1)) P_n over the thresholds, from high to low, with recall R and precision P; no interpolation.

    Args:
        scores: (N,).
        truth: booleans (N,), some of them True.

    Returns:
        0 to 1.
    """
    order = np.argsort(-scores, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))  # of each run of equal scores
    hits = np.cumsum(truth[order])[ends]
    precision, recall = hits / (ends + 1), hits / truth.sum()
    return float((np.diff(recall, prepend=0.0) * precision).sum())


def f1(hits: Array, found: Array, wanted: Array) -> Array:
    """2 TP / (2 TP + FP + FN); 0 where there is nothing to find and nothing was found.

    Args:
        hits: TP.
        found: TP + FP.
        wanted: TP + FN.

    Returns:
        0 to 1, of the arguments' shape.
    """
    both = np.asarray(found + wanted, np.float64)
    scores: Array = np.divide(2.0 * hits, both, out=np.zeros_like(both), where=both > 0)
    return scores


def confusion(truth: Array, found: Array, classes: int) -> Array:
    """How often each class was taken for each: int64 (classes, classes), a row for each true class.

    Args:
        truth: classes from 0.
        found: of the same shape.
        classes: how many.

    Returns:
        Counts.
    """
    cells = truth.astype(np.int64).ravel() * classes + found.astype(np.int64).ravel()
    return np.bincount(cells, minlength=classes * classes).reshape(classes, classes)


def group_means(values: Array, groups: Array | None) -> tuple[Array, Array]:
    """The mean of each group, and the number of its first sample.

    Args:
        values: float64 (N,).
        groups: (N,), as ``Split.groups``; None: each sample stands for itself.

    Returns:
        The means (G,) and indices (G,), in the order of the groups' numbers.
    """
    if groups is None:
        return values, np.arange(len(values))
    _, first, place = np.unique(groups, return_index=True, return_inverse=True)
    return np.bincount(place, weights=values) / np.bincount(place), first


def balanced_weights(labels: Any, classes: int, ignored: int | None = None) -> tuple[float, ...]:
    """n / (classes n_k) for n_k of n labels: each class counts as much as any other, and the mean over the labels is 1.

    Args:
        labels: classes from 0, of any shape; an array or ``Rows``.
        classes: how many.
        ignored: a label that counts for nothing.

    Returns:
        A weight for each class.

    Raises:
        QatError: a class has no labels.
    """
    counts = np.zeros(classes, np.int64)
    for start in range(0, len(labels), ROWS):
        part = labels[start : start + ROWS]
        counts += np.bincount(part.ravel() if ignored is None else part[part != ignored], minlength=classes)
    missing = np.flatnonzero(counts == 0)
    if len(missing):
        raise QatError(
            f"class_weights balanced: no training label is class {missing[0]}, so that it would count without end; give "
            "numbers instead"
        )
    return tuple(float(x) for x in counts.sum() / (classes * counts))
