"""The figures of a study: accuracy over the folds, ROC curves, weights."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from qat.analysis.figures import COLOURS, Picture, plain_text
from qat.study.layers import Layer
from qat.study.results import LOWEST_RATE, Model, Roc, false_rates
from qat.tables import counted

BINS = 61  #: of a histogram of weights
#: What the letters of ``short_name`` mean, for the axis.
MEANINGS = {"B": "binary", "T": "ternary", "AutoQ": "mixed", "BF": "float"}
LEAST_MAGNITUDE = 2.0**-12  #: of a profile of weights; smaller ones count as 0


def accuracy_picture(models: Sequence[Model], pruned: Sequence[Model] | None = None) -> Picture:
    """Box plots of the accuracy over the folds, one for each model.

    Args:
        models: in the order of the axis.
        pruned: the same models after pruning, drawn beside them, with the ratio of accuracies in each fold below; None
            for none.

    Returns:
        The figure.
    """
    rows = 2 if pruned else 1
    width = max(5.0, 1.6 + (0.85 if pruned else 0.6) * len(models))
    ratios = {"height_ratios": [2.2, 1]} if pruned else {}
    picture = Picture(width, 5.6 if pruned else 4.0, rows, 1, sharex=True, gridspec_kw=ratios)
    with picture:
        upper = picture.axes[0, 0]
        series = [("unpruned", models, -0.19 if pruned else 0.0, COLOURS[0])]
        if pruned:
            series.append(("pruned", pruned, 0.19, COLOURS[1]))
        for name, drawn, shift, colour in series:
            _boxes(upper, [100 * model.accuracies for model in drawn], shift, colour, name)
        folds = len(models[0].folds)
        upper.set_ylabel("Accuracy in %")
        title = f"{plain_text(models[0].data)}, {counted(folds, 'fold')}"
        upper.set_title(title, fontsize=9, color="#555555")
        if pruned:
            picture.figure.legend(*upper.get_legend_handles_labels(), loc="outside upper right", ncols=2)
            lower = picture.axes[1, 0]
            quotients = [p.accuracies / m.accuracies for m, p in zip(models, pruned, strict=True)]
            _boxes(lower, quotients, 0.0, COLOURS[2], "")
            lower.axhline(1.0, color="#555555", linewidth=0.8, linestyle="--")
            lower.set_ylabel("Pruned /\nunpruned")
        bottom = picture.axes[-1, 0]
        bottom.set_xticks(range(len(models)), [plain_text(model.name) for model in models])
        bottom.set_xlim(-0.6, len(models) - 0.4)
        shown = {word for model in models for word in re.findall(r"\w+", model.name)}
        meanings = ", ".join(f"{name}: {what}" for name, what in MEANINGS.items() if name in shown)
        bottom.set_xlabel("Bits of the weights" + (f" ({meanings})" if meanings else ""))
        for axis in picture.axes[:, 0]:
            axis.grid(axis="x", visible=False)
        picture.figure.align_ylabels()
    return picture


def _boxes(axis: Any, values: Sequence[Any], shift: float, colour: str, name: str) -> None:
    """Box plots of median, quartiles and extremes, with the folds as dots."""
    places = np.arange(len(values)) + shift
    parts = axis.boxplot(
        list(values),
        positions=places,
        widths=0.3,
        whis=(0, 100),
        patch_artist=True,
        manage_ticks=False,
        medianprops={"color": colour, "linewidth": 1.6},
        whiskerprops={"color": colour},
        capprops={"color": colour},
        boxprops={"edgecolor": colour, "facecolor": colour, "alpha": 0.25},
    )
    for place, folds in zip(places, values, strict=True):
        axis.plot(np.full(len(folds), place), folds, "o", color=colour, markersize=2.6, alpha=0.8, markeredgewidth=0)
    if name:
        parts["boxes"][0].set_label(name)


def roc_picture(models: Sequence[Model], curves: Sequence[Sequence[Roc]]) -> Picture:
    """ROC curves: a small plot for each class, with every model's mean curve, a band of one sigma over the folds, and
    its area.

    Args:
        models: at most as many as there are colours.
        curves: for each model a curve for each class.

    Returns:
        The figure.
    """
    classes = len(curves[0])
    columns = min(classes, 5)
    rows = -(-classes // columns)
    least = min(float((curve.rates - curve.sigma)[false_rates() >= 1e-2].min()) for own in curves for curve in own)
    # Good curves leave the lower right corner free, poor ones the upper left.
    poor = np.mean([curve.rates[false_rates() <= 1e-1].mean() for own in curves for curve in own]) < 0.5
    picture = Picture(2.35 * columns + 0.4, 2.4 * rows + 0.8, rows, columns, sharex=True, sharey=True)
    with picture:
        for label in range(rows * columns):
            axis = picture.axes.flat[label]
            if label >= classes:
                axis.set_visible(False)
                continue
            for index, own in enumerate(curves):
                curve, colour = own[label], COLOURS[index % len(COLOURS)]
                axis.plot(false_rates(), curve.rates, color=colour, linewidth=1.4)
                low, high = curve.rates - curve.sigma, np.minimum(curve.rates + curve.sigma, 1.0)
                axis.fill_between(false_rates(), low, high, color=colour, alpha=0.2, linewidth=0)
                spread = f" ± {curve.auc_sigma:.4f}" if curve.auc_sigma else ""
                axis.text(
                    0.04 if poor else 0.97,
                    0.9 - 0.1 * index if poor else 0.05 + 0.1 * (len(curves) - 1 - index),
                    f"AUC {curve.auc:.4f}{spread}",
                    transform=axis.transAxes,
                    ha="left" if poor else "right",
                    color=colour,
                    fontsize=7.5,
                    bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.6},
                )
            axis.set_title(f"Class {label}", fontsize=9)
            axis.set_xscale("log")
            axis.set_xlim(LOWEST_RATE, 1.0)
            axis.set_xticks([1e-3, 1e-2, 1e-1])  # without 1, whose label would touch that of the next plot
            axis.set_ylim(max(0.0, np.floor(10 * least - 1) / 10), 1.02)
        _legend(picture, models)
        folds = len(models[0].folds)
        band = f", mean and one sigma over {folds} folds" if folds > 1 else ""
        picture.figure.suptitle(f"{plain_text(models[0].data)}{band}", x=0.01, ha="left", fontsize=9, color="#555555")
        picture.figure.supxlabel("False positive rate", fontsize=10)
        picture.figure.supylabel("True positive rate", fontsize=10)
    return picture


def weights_picture(models: Sequence[Model], layers: Sequence[Sequence[Layer]]) -> Picture:
    """Histograms of the deployed weights of each layer, with the share of zeros.

    Args:
        models: whose weights they are.
        layers: for each model its layers.

    Returns:
        The figure.
    """
    count = max(len(own) for own in layers)
    columns = min(count, 3)
    rows = -(-count // columns)
    picture = Picture(3.3 * columns + 0.3, 2.5 * rows + 0.7, rows, columns)
    with picture:
        for place in range(rows * columns):
            axis = picture.axes.flat[place]
            if place >= count:
                axis.set_visible(False)
                continue
            shown = [(index, own[place]) for index, own in enumerate(layers) if place < len(own)]
            largest = max(float(np.abs(layer.weights).max()) for _, layer in shown) or 1.0
            bins = np.linspace(-1.02 * largest, 1.02 * largest, BINS)
            for index, layer in shown:
                colour = COLOURS[index % len(COLOURS)]
                shares = np.full(layer.weights.size, 1.0 / layer.weights.size)
                axis.hist(layer.weights, bins, weights=shares, histtype="stepfilled", color=colour, alpha=0.2)
                axis.hist(layer.weights, bins, weights=shares, histtype="step", color=colour, linewidth=1.1)
                axis.text(
                    0.98,
                    0.9 - 0.1 * index,
                    f"{100 * layer.zeros:.1f} % zeros",
                    transform=axis.transAxes,
                    ha="right",
                    color=colour,
                    fontsize=8,
                )
            axis.set_yscale("log")
            axis.set_ylim(top=4 * axis.get_ylim()[1])  # room for the shares
            layer = shown[0][1]
            axis.set_title(f"{plain_text(layer.cost.name)} ({counted(layer.weights.size, 'weight')})", fontsize=9)
            if place % columns == 0:
                axis.set_ylabel("Share of the weights")
            if place + columns >= count:
                axis.set_xlabel("Weight")
        _legend(picture, models)
    return picture


def profile_picture(models: Sequence[Model], layers: Sequence[Sequence[Layer]]) -> Picture:
    """The magnitudes of the weights of each layer that are not 0: boxes between the quartiles, whiskers from 5 to 95 %.

    Args:
        models: whose weights they are.
        layers: for each model its layers.

    Returns:
        The figure.
    """
    names = list(dict.fromkeys(layer.cost.name for own in layers for layer in own))
    picture = Picture(7.0, 1.3 + 0.24 * len(names) * max(len(models), 2))
    with picture:
        axis = picture.axes[0, 0]
        height = 0.8 / len(models)
        for index, own in enumerate(layers):
            colour = COLOURS[index % len(COLOURS)]
            for layer in own:
                sizes = np.abs(layer.weights[np.abs(layer.weights) >= LEAST_MAGNITUDE])
                if not len(sizes):
                    continue
                axis.boxplot(
                    [sizes],
                    positions=[names.index(layer.cost.name) - 0.4 + height * (index + 0.5)],
                    widths=0.75 * height,
                    whis=(5, 95),
                    orientation="horizontal",
                    showfliers=False,
                    patch_artist=True,
                    manage_ticks=False,
                    medianprops={"color": colour, "linewidth": 1.6},
                    whiskerprops={"color": colour},
                    capprops={"color": colour},
                    boxprops={"edgecolor": colour, "facecolor": colour, "alpha": 0.25},
                )
        axis.set_xscale("log", base=2)
        axis.set_yticks(range(len(names)), map(plain_text, names))
        axis.set_ylim(len(names) - 0.4, -0.6)
        axis.grid(axis="y", visible=False)
        axis.set_xlabel("|Weight|, of those that are not 0")
        _legend(picture, models)
    return picture


def _legend(picture: Picture, models: Sequence[Model]) -> None:
    from matplotlib.patches import Patch

    handles = [
        Patch(color=COLOURS[i % len(COLOURS)], alpha=0.6, label=plain_text(model.name))
        for i, model in enumerate(models)
    ]
    picture.figure.legend(handles=handles, loc="outside upper right", ncols=len(models))
