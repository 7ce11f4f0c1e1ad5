"""Reading the results of a study's trainings, and the numbers derived from them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from qat.errors import QatError
from qat.extras import how_to_install
from qat.study.training import read_result
from qat.training.checkpoint import Checkpoint
from qat.vocabulary.ops import Array

PLACES = 201  #: points on the axis of false positive rates, from LOWEST_RATE to 1
LOWEST_RATE = 1e-3
MIXED = "latest_aq"  #: name of the files of the mixed-width model, which is displayed as AutoQ


@dataclass(frozen=True, eq=False)
class Fold:
    """The result of one training.

    Args:
        result: the content of its .json file.
        outputs: of the network for the fold's test images, float32 (N, K).
        labels: of these images, integers (N,).
        checkpoint_path: of the trained network.
    """

    result: dict[str, Any]
    outputs: Array
    labels: Array
    checkpoint_path: Path

    @property
    def accuracy(self) -> float:
        """On the test images, 0 to 1."""
        return float(self.result["accuracy"])

    def checkpoint(self) -> Checkpoint:
        """Read the checkpoint."""
        return Checkpoint.load(self.checkpoint_path)


@dataclass(frozen=True, eq=False)
class Model:
    """The folds of one model.

    Args:
        name: for display.
        folds: its trainings.
    """

    name: str
    folds: tuple[Fold, ...]

    @property
    def accuracies(self) -> Array:
        """The accuracy of each fold, 0 to 1."""
        return np.array([fold.accuracy for fold in self.folds])

    @property
    def data(self) -> str:
        """The data set that it was trained and tested on."""
        return str(self.folds[0].result["data"]).partition(", fold")[0]


def read_model(path: str | Path, name: str, *, all_folds: bool = True) -> Model:
    """Read the results of a model.

    Args:
        path: what its files' names begin with, as models/quant_8bit; or a single fold, as models/full_0.
        name: for display.
        all_folds: read the other folds too where a single one is given; True by default.

    Returns:
        The model.

    Raises:
        QatError: where there is no result, or the folds do not belong together.
    """
    path = Path(path)
    stem, fold = path.name, re.fullmatch(r"(.+)_(\d+)", path.name)
    files = [path.with_name(f"{path.name}.json")]
    if fold is not None and files[0].is_file():
        stem = fold[1]
    if all_folds or not files[0].is_file():
        found = {
            int(match[1]): file
            for file in path.parent.glob("*.json")
            if (match := re.fullmatch(re.escape(stem) + r"_(\d+)\.json", file.name))
        }
        files = [found[number] for number in sorted(found)]
    if not files:
        known = sorted({re.sub(r"_\d+$", "", file.stem) for file in path.parent.glob("*_*.json")})
        there = f"there are {', '.join(known)}" if known else "there are none in that folder; run train_svhn.py first"
        raise QatError(f"{path}: there is no result of such a training; {there}")
    folds = [Fold(*read_result(file), file.with_suffix(".ckpt")) for file in files]
    classes = {fold.outputs.shape[1] for fold in folds}
    if len(classes) > 1:
        raise QatError(f"{path}: its folds have {', '.join(map(str, sorted(classes)))} classes; train it anew")
    return Model(name, tuple(folds))


def models_in(folder: str | Path) -> list[str]:
    """The models with results in a folder, from few bits to many, then those of mixed widths and the float one; none
    that is pruned.
    """
    found = {re.sub(r"_\d+$", "", file.stem) for file in Path(folder).glob("*_*.json")}

    def order(name: str) -> tuple[int, int, str]:
        bits = re.fullmatch(r"quant_(\d+)bit", name)
        return (0, int(bits[1]), name) if bits else (2 if name == "full" else 1, 0, name)

    return sorted((name for name in found if not name.startswith("pruned_")), key=order)


def short_name(model: str) -> str:
    """A label for an axis: B and T for one and two bits, BF for the float baseline, AutoQ for mixed widths."""
    bits = re.fullmatch(r"quant_(\d+)bit", model)
    if bits:
        return {"1": "B", "2": "T"}.get(bits[1], bits[1])
    return {"full": "BF", MIXED: "AutoQ"}.get(model, model)


def table_name(model: str) -> str:
    """A label for a table: the name of the files, which -m takes, with AutoQ where the name does not say so."""
    return f"{model} ({short_name(MIXED)})" if model.removeprefix("pruned_") == MIXED else model


@dataclass(frozen=True, eq=False)
class Roc:
    """The ROC curve of one class against all others, over the folds.

    Args:
        rates: mean true positive rates at ``false_rates()``, float64.
        sigma: their standard deviations; 0 for a single fold.
        auc: the mean area under the curve.
        auc_sigma: its standard deviation.
    """

    rates: Array
    sigma: Array
    auc: float
    auc_sigma: float


def false_rates() -> Array:
    """The false positive rates at which curves are averaged, evenly spaced on a logarithmic axis."""
    return np.geomspace(LOWEST_RATE, 1.0, PLACES)


def softmax(outputs: Array) -> Array:
    """The softmax of each row, in float64."""
    shifted = np.exp(outputs.astype(np.float64) - outputs.max(axis=1, keepdims=True))
    result: Array = shifted / shifted.sum(axis=1, keepdims=True)
    return result


def roc(folds: Sequence[Fold], label: int) -> Roc:
    """The receiver operating characteristic of one class, by the softmax of the outputs; scikit-learn's roc_curve and
    roc_auc_score.

    Args:
        folds: of one model.
        label: of the class.

    Returns:
        Mean and standard deviation over the folds.

    Raises:
        QatError: without scikit-learn, and where a fold has no image of the class or of another one.
    """
    try:
        from sklearn.metrics import roc_auc_score, roc_curve
    except ModuleNotFoundError:
        raise QatError(f"ROC curves need scikit-learn, which is not installed: {how_to_install('study')}") from None
    curves, areas = [], []
    for fold in folds:
        truth, scores = fold.labels == label, softmax(fold.outputs)[:, label]
        if not 0 < truth.sum() < len(truth):
            raise QatError(
                f"{fold.result['name']}: has no test image of class {label}, or none of another; take fewer folds"
            )
        false, true, _ = roc_curve(truth, scores)
        curves.append(np.interp(false_rates(), false, true))
        areas.append(roc_auc_score(truth, scores))
    sigma = np.std(curves, axis=0, ddof=1) if len(curves) > 1 else np.zeros(PLACES)
    spread = float(np.std(areas, ddof=1)) if len(areas) > 1 else 0.0
    return Roc(np.mean(curves, axis=0), sigma, float(np.mean(areas)), spread)
