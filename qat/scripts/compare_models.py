"""Compare the models of a study: ROC curves, weights, layers, operations; as tables, pictures and one HTML report.

Writes <out>/<prefix>_roc, _weights and _profile as .png and .svg, and the report with all of it.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

from qat.analysis.figures import Picture
from qat.cli import run_script
from qat.console import print_table, wrote
from qat.errors import QatError
from qat.files import check_writable, write_atomically
from qat.reporting.page import Section, html_page
from qat.scripts.training_diagnostics import add_models_arguments, chosen_models, pruned_version
from qat.study.layers import Layer, layers_of
from qat.study.pictures import accuracy_picture, profile_picture, roc_picture, weights_picture
from qat.study.results import Model, models_in, read_model, roc, short_name, table_name


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's flags."""
    add_models_arguments(parser)
    parser.add_argument("--prefix", default="compare", help="beginning of the files' names")
    parser.add_argument(
        "--kFold", dest="all_folds", action="store_true", help="all folds, not only the one that is named"
    )
    parser.add_argument("-w", "--weights", action="store_true", help="also histograms and profiles of the weights")
    parser.add_argument(
        "--doOPS", dest="operations", action="store_true", help="also operations and energy, layer by layer"
    )
    parser.add_argument(
        "--report", metavar="FILE.html", help="also all of it, and every model of the study, in one file"
    )
    parser.add_argument("--command", action="append", default=[], help="a line that made the study, for the report")


def run(args: argparse.Namespace) -> None:
    """Run the command."""
    if args.report:
        check_writable(args.report)
    chosen = chosen_models(args, all_folds=args.all_folds)
    models = [model for _, model in chosen]
    checkpoints = [model.folds[0].checkpoint() for model in models]
    layers = [layers_of(checkpoint) for checkpoint in checkpoints]
    sections = [_models_section(models, layers)]
    classes = models[0].folds[0].outputs.shape[1]
    for path, model in chosen:
        if model.folds[0].outputs.shape[1] != classes:
            raise QatError(
                f"{path}: has {model.folds[0].outputs.shape[1]} classes, the first model {classes}; compare like models"
            )
    curves = [[roc(model.folds, label) for label in range(classes)] for model in models]
    rows = [(str(label), *(_area(own[label].auc, own[label].auc_sigma) for own in curves)) for label in range(classes)]
    means = [np.mean([curve.auc for curve in own]) for own in curves]
    rows.append(("mean", *(f"{mean:.5f}" for mean in means)))
    names = [_flat(model.name) for model in models]
    sections.append(Section("Area under the ROC curve, of each class against all others", "", ("class", *names), rows))
    sections.append(Section("ROC curves", picture=roc_picture(models, curves)))
    if args.weights:
        sections.append(Section("Weights as deployed, first fold", picture=weights_picture(models, layers)))
        sections.append(Section("Sizes of the weights", picture=profile_picture(models, layers)))
    if args.operations:
        sections += [_layers_section(model, own) for model, own in zip(models, layers, strict=True)]
    for section in sections:
        if section.rows:
            print_table(section.title, section.columns, section.rows)
    pictures = {"ROC curves": "roc", "Weights as deployed, first fold": "weights", "Sizes of the weights": "profile"}
    for section in sections:
        if section.picture is not None:
            _save(section.picture, Path(args.out) / f"{args.prefix}_{pictures[section.title]}")
    if args.report:
        sections = [*_study_sections(chosen[0][0].parent), *sections]
        lines = [f"Data: {models[0].data}, from {models[0].folds[0].result['source']}."]
        title = f"{checkpoints[0].graph.name}: widths and pruning"
        write_atomically(args.report, html_page(title, lines, args.command, sections).encode())
        wrote(args.report)


def _save(picture: Picture, stem: Path) -> None:
    for path in picture.save(stem):
        wrote(path)


def _models_section(models: list[Model], layers: list[list[Layer]]) -> Section:
    rows = []
    for model, own in zip(models, layers, strict=True):
        macs, size = sum(layer.cost.macs for layer in own), sum(layer.cost.size for layer in own)
        zeros = sum(layer.zeros * layer.weights.size for layer in own) / sum(layer.weights.size for layer in own)
        rows.append(
            (
                _flat(model.name),
                str(len(model.folds)),
                _mean(model),
                f"{size / 8:,.0f}",
                f"{100 * zeros:.1f}",
                f"{2 * macs:,}",
                f"{sum(layer.cost.bops for layer in own):,}",
                f"{sum(layer.cost.energy for layer in own):.1f}",
            )
        )
    columns = ("model", "folds", "top-1 in %", "bytes of weights", "zeros in %", "FLOPs", "BOPs", "energy in nJ")
    text = "FLOPs: two for each product. BOPs: products times the bits of both factors. Energy: an estimate for 45 nm."
    return Section("Models", text, columns, rows)


def _layers_section(model: Model, layers: list[Layer]) -> Section:
    rows = [
        (
            layer.cost.name,
            f"{layer.cost.weights:,}",
            str(layer.cost.weight_bits),
            str(layer.cost.input_bits),
            f"{100 * layer.zeros:.1f}",
            f"{2 * layer.cost.macs:,}",
            f"{layer.cost.bops:,}",
            f"{layer.cost.energy:.2f}",
        )
        for layer in layers
    ]
    columns = ("layer", "weights", "weight bits", "input bits", "zeros in %", "FLOPs", "BOPs", "energy in nJ")
    return Section(f"Layers of {_flat(model.name)}", "", columns, rows)


def _study_sections(folder: Path) -> list[Section]:
    """The accuracy of every model of the study."""
    models = [(folder / name, read_model(folder / name, short_name(name))) for name in models_in(folder)]
    names = [f"pruned_{fold.result['name']}.json" for _, model in models for fold in model.folds]
    there = all((folder / name).exists() for name in names)
    pruned = [pruned_version(path, model) for path, model in models] if there else None
    rows = []
    for index, (path, model) in enumerate(models):
        row = [table_name(path.name), str(len(model.folds)), _mean(model)]
        rows.append((*row, _mean(pruned[index])) if pruned else tuple(row))
    columns = ("model", "folds", "top-1 in %", *(("pruned, in %",) if pruned else ()))
    picture = accuracy_picture([model for _, model in models], pruned)
    return [Section("Accuracy over the folds", "Mean and sigma over the folds.", columns, rows, picture)]


def _mean(model: Model) -> str:
    top1 = 100 * model.accuracies
    return f"{top1.mean():.2f}" + (f" ± {top1.std(ddof=1):.2f}" if len(top1) > 1 else "")


def _area(auc: float, sigma: float) -> str:
    return f"{auc:.5f}" + (f" ± {sigma:.5f}" if sigma else "")


def _flat(name: str) -> str:
    return " ".join(name.split())


if __name__ == "__main__":
    sys.exit(run_script(add_arguments, run, __doc__))
