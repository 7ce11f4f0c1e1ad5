"""Instructions of an inference in C on emulated Cortex-M processors, counted exactly; flash, RAM, stack, and codes that differ.

    python benchmarks/cortex_m.py                                     # six networks on a Cortex-M4 and a Cortex-M55
    python benchmarks/cortex_m.py --networks ds_cnn --cores m4 --layers
    python benchmarks/cortex_m.py --weight_bits 4
    python benchmarks/cortex_m.py --pin tests/instructions.json       # what tests/test_instructions.py holds
    python benchmarks/cortex_m.py --ckpt_path lenet_quant.ckpt --data_path MNIST_Data --images 300

The six networks have fresh weights and ranges of random images; with trained ones an inference takes about as many
instructions. Exit status 1 where a code differs from those of the arithmetic.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

import qat
from qat.cli import run_script
from qat.console import print_table
from qat.deploy.measuring import Measured
from qat.integer import IntegerGraph
from qat.integer.fixed_point import ARITHMETICS
from qat.networks import create
from qat.scripts.common.files import load_checkpoint, load_data
from qat.scripts.common.flags import add_data_argument
from qat.targets.c.cortex_m.cores import CORES, emulator
from qat.targets.c.cortex_m.measure import measure
from qat.vocabulary.ops import Array

NETWORKS = ("lenet", "mnist_cnn", "resnet8", "ds_cnn", "mobilenet", "autoencoder")


def add_network_arguments(parser: argparse.ArgumentParser) -> None:
    """Which networks are run on which cores, and how they are compiled."""
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), help=f"default: {' '.join(NETWORKS)}")
    parser.add_argument("--cores", nargs="+", default=["m4", "m55"], choices=[*CORES], help="default: m4 m55")
    parser.add_argument("--images", type=int, default=1, help="how many are computed; default: 1")
    parser.add_argument("--cflags", default="", help="of the compiler, after -std=c99 -O2; as in --cflags=-O3")
    parser.add_argument("--layers", action="store_true", help="the instructions of each layer and each function too")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_network_arguments(parser)
    parser.add_argument("--arithmetic", default="fixed", choices=ARITHMETICS, help="of the files; default: fixed")
    parser.add_argument("--weight_bits", type=int, default=8, help="of the networks' weights; default: 8")
    parser.add_argument("--ckpt_path", help="a quantized checkpoint in place of --networks; with --data_path")
    parser.add_argument("--pin", metavar="FILE", help="write what was measured of the networks in this file to it anew")
    add_data_argument(parser, required=False)


def networks(args: argparse.Namespace) -> Iterator[tuple[str, IntegerGraph, Array]]:
    """The name and the integers of each network, and the images that it is run on."""
    if getattr(args, "ckpt_path", None):
        checkpoint = load_checkpoint(args.ckpt_path, quantized=True)
        integers = qat.to_integer(checkpoint.graph, checkpoint.params)
        yield args.ckpt_path, integers, load_data(args.data_path, checkpoint, args).test.images[: args.images]
        return
    for name in args.networks:
        yield name, *fresh(name, args.images, getattr(args, "arithmetic", "fixed"), getattr(args, "weight_bits", 8))


def fresh(name: str, images: int, arithmetic: str = "fixed", weight_bits: int = 8) -> tuple[IntegerGraph, Array]:
    """A network of ``qat.networks`` with fresh weights and ranges of random images, and random images."""
    quantized = qat.convert_quant_network(create(name).graph(), arithmetic=arithmetic, num_bits=(weight_bits, 8))
    integers = qat.to_integer(quantized, quantized.observed_params())
    x = np.random.default_rng(0).integers(0, 256, (images, *integers.input.shape), np.uint8)
    return integers, x


def run(args: argparse.Namespace) -> int:
    pins = json.loads(Path(args.pin).read_text(encoding="utf-8")) if args.pin else {}
    if pins:
        args.networks = list(pins["networks"])
        args.cores = list(next(iter(pins["networks"].values())))
    rows, wrong = [], 0
    for name, integers, x in networks(args):
        expected = qat.evaluate(integers, x, arithmetic=args.arithmetic)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "network.c"
            qat.target("C").export(integers, path, arithmetic=args.arithmetic)
            for core in args.cores:
                found = measure(path, x, core, options=args.cflags.split(), layers=args.layers)
                differ = int(np.count_nonzero(found.outputs[0] != expected))
                wrong += differ
                rows.append((integers.name, CORES[core].name, *map("{:,}".format, (*figures(found).values(), differ))))
                if pins:
                    pins["networks"][name][core] = figures(found)
                if args.layers:
                    print_layers(f"{integers.name} on a {CORES[core].name}", found)
    columns = ("network", "core", "instructions", "flash", "RAM", "stack", "codes that differ")
    by = f"{emulator()}, {' '.join(['-O2', args.cflags]).strip()}"
    print_table(f"C in the {args.arithmetic} arithmetic on emulated processors, {by}; bytes", columns, rows)
    if pins and not wrong:
        pins["by"] = emulator()
        Path(args.pin).write_text(json.dumps(pins, indent=2) + "\n", encoding="utf-8")
    return int(wrong > 0)


def figures(found: Measured) -> dict[str, int]:
    """Of the first image, by name."""
    return {"instructions": found.instructions[0], "flash": found.flash, "ram": found.ram, "stack": found.stack}


def print_layers(title: str, found: Measured) -> None:
    """The instructions of each layer, and of each function."""
    for what, counts in (("layer", found.layers), ("function", found.functions)):
        total = sum(counts.values())
        rows = [(name, f"{count:,}", f"{100 * count / total:.1f} %") for name, count in counts.items()]
        print_table(f"{title}: {total:,} instructions", (what, "instructions", "share"), rows)


if __name__ == "__main__":
    sys.exit(run_script(add_arguments, run, __doc__))
