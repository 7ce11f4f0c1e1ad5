"""Accuracy of the integers at 2, 3 and 4 bits: by the defaults of train-quant, and with what is done about oscillations.

    OMP_NUM_THREADS=1 python benchmarks/few_bits.py --data_path CIFAR10 --ckpt_path ic01.ckpt --widths 2/2 3/3 4/4
    OMP_NUM_THREADS=1 python benchmarks/few_bits.py --data_path MNIST_Data --ckpt_path lenet.ckpt --variants defaults minmax

Every training starts from the same float checkpoint, whose accuracy is the first line, and sees the images in the order of its
seed. "defaults" is what ``qat train-quant --num_bits W A`` does (qat.passes.few_bits). The others change one thing: "freeze",
"dampen" and "both" what is done about weights that oscillate, "ema" averages the weights, "mean" and "mse" say where learned
scales of weights start, "all_alike" gives the first and the last layers as many bits as all others, and "reestimate" estimates
the statistics of batch normalisation anew.
"minmax" has min/max quantizers throughout, as at 8 bits. "gain" is to "defaults", seed by seed; "oscillating" the share of the
weights whose frequency is above 0.005 at the end, of variants that count.

What is measured stays in --out, results in results.json as soon as they are there, so that a call that was interrupted goes on.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import qat
from qat.cli import run_script
from qat.console import print_table
from qat.data import Dataset
from qat.files import write_atomically
from qat.passes.few_bits import TABLE
from qat.passes.unit_inputs import unit_inputs
from qat.quantizers.learned import STARTS
from qat.scripts.common.files import load_data
from qat.scripts.common.flags import add_backend_arguments, add_data_argument
from qat.training.checkpoint import Checkpoint
from qat.training.loop import evaluate_accuracy, train
from qat.training.optimizer import Optimizer
from qat.training.oscillations import Oscillations, oscillating
from qat.training.recipe import Recipe

WIDTHS = ("2/2", "3/3", "4/4")
DEFAULTS = "defaults"
VARIANTS = (DEFAULTS, "freeze", "dampen", "both", "ema", "mean", "mse", "all_alike", "reestimate", "minmax")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_data_argument(parser)
    add_backend_arguments(parser)
    parser.add_argument("--ckpt_path", required=True, help="checkpoint file of the float network")
    parser.add_argument("--widths", nargs="+", choices=WIDTHS, default=list(WIDTHS), help="weights/activations")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS[:3]), help="what is compared")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="one run for each")
    parser.add_argument("--epochs", type=int, default=3, help="of quantized training")
    parser.add_argument("--lr", type=float, help="peak rate (default: as train-quant has it)")
    parser.add_argument("--threshold", type=float, default=0.01, help="of freezing, at the end")
    parser.add_argument("--dampen", type=float, default=0.001, help="lambda, at the end")
    parser.add_argument("--ema", type=float, default=0.99, help="decay of averaged weights")
    parser.add_argument("--images", type=int, default=20_000, help="the first so many are trained on")
    parser.add_argument("--test_images", type=int, default=10_000, help="the first so many are tested on")
    parser.add_argument("--out", default="out/few_bits", help="folder for results.json")


def trained(
    args: argparse.Namespace, start: Checkpoint, data: Dataset, width: str, variant: str, seed: int
) -> dict[str, float]:
    """The accuracy, 0 to 1, of one training's integers, and the shares of weights that oscillate and are frozen."""
    bits = tuple(map(int, width.split("/")))
    row, few = TABLE[min(bits)], qat.few_bits_settings(start.graph, bits)
    settings: dict[str, Any] = dict(few)
    if variant == "minmax":
        settings = {"num_bits": bits}
    elif variant in STARTS:
        settings["weight_quantizer"] = replace(few["weight_quantizer"], start=variant)
    elif variant == "all_alike":
        settings |= qat.few_bits_settings(start.graph, bits, edge_bits=bits[0])
    graph = qat.convert_quant_network(start.graph, **settings)
    dampened = args.dampen if variant in ("dampen", "both") else 0.0
    frozen = args.threshold if variant in ("freeze", "both") else None
    recipe = Recipe(
        epochs=args.epochs,
        lr=args.lr or row.lr,
        seed=seed,
        optimizer=Optimizer(ema=args.ema if variant == "ema" else row.ema),
        reestimate_bn=min(2000, len(data.train)) if variant == "reestimate" else row.reestimate_bn,
        oscillations=None if variant == "minmax" else Oscillations(freeze=frozen or row.freeze, dampen=dampened),
    )
    begin = start.derived(graph, graph.params_from(start.params, seed))
    backend = qat.backend(args.backend)
    end = train(backend, begin, data, recipe, device_target=args.device_target)
    counted = oscillating(end.graph, end.params)
    weights = sum(each.weights for each in counted) or 1
    return {
        "accuracy": evaluate_accuracy(backend, end, data.test, device_target=args.device_target),
        "oscillating": sum(each.oscillating for each in counted) / weights,
        "frozen": sum(each.frozen for each in counted) / weights,
    }


def run(args: argparse.Namespace) -> None:
    Path(args.out).mkdir(parents=True, exist_ok=True)
    path = Path(args.out) / "results.json"
    start = Checkpoint.load(args.ckpt_path)
    start = start.derived(*unit_inputs(start.graph, start.params))
    whole = load_data(args.data_path, start, args)
    data = replace(whole, train=whole.train.chosen(slice(args.images)), test=whole.test.chosen(slice(args.test_images)))
    known: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}

    def measured(width: str, variant: str, seed: int) -> dict[str, float]:
        row = TABLE[min(map(int, width.split("/")))]
        options = {
            "freeze": args.threshold,
            "dampen": args.dampen,
            "both": (args.threshold, args.dampen),
            "ema": args.ema,
        }
        name = (
            f"{start.graph.name} {width} {variant} {options.get(variant, '')} seed {seed}; {args.epochs} epochs of "
            f"{len(data.train):,} images at {args.lr or row.lr:g}; {len(data.test):,} tested"
        )
        if name not in known:
            known[name] = trained(args, start, data, width, variant, seed)
            print(f"{name}: {100 * known[name]['accuracy']:.2f} %", flush=True)
            write_atomically(path, json.dumps(known, indent=1).encode())
        found: dict[str, float] = known[name]
        return found

    floats = 100 * evaluate_accuracy(qat.backend(args.backend), start, data.test, device_target=args.device_target)
    print(f"{start.graph.name} in float: {floats:.2f} % of {len(data.test):,} test images", flush=True)
    found: dict[tuple[str, str], list[Mapping[str, float]]] = {}
    for seed in args.seeds:  # all variants of a seed, so that an interrupted call has something of each
        for width in args.widths:
            for variant in args.variants:
                found.setdefault((width, variant), []).append(measured(width, variant, seed))
    for width in args.widths:
        rows = []
        for variant in args.variants:
            own, base = found[width, variant], found.get((width, DEFAULTS))
            top1s = [100 * each["accuracy"] for each in own]
            gains = [100 * (a["accuracy"] - b["accuracy"]) for a, b in zip(own, base, strict=True)] if base else []
            shares = [f"{100 * mean(each[name] for each in own):.2f} %" for name in ("oscillating", "frozen")]
            counted = variant != "minmax"
            rows.append(
                (variant, spread(top1s), spread(gains, "+") if gains else "", *(shares if counted else ("", "")))
            )
        title = f"{start.graph.name} on {data.name}, {width}, {len(args.seeds)} seeds, float {floats:.2f} %"
        print_table(title, ("variant", "top-1 in %", "gain", "oscillating", "frozen"), rows)


def spread(numbers: list[float], sign: str = "") -> str:
    """Mean and standard deviation."""
    return f"{mean(numbers):{sign}.2f} ± {stdev(numbers) if len(numbers) > 1 else 0:.2f}"


if __name__ == "__main__":
    sys.exit(run_script(add_arguments, run, __doc__))
