"""Few bits in both arithmetics: what training reports, and what C computes of it.

    python benchmarks/arithmetics.py

LeNet-5 with batch normalisation is trained in PyTorch on the bundled digits, then, with weights and activations of 2 bits
(LSQ, outputs of 8), once in each arithmetic. Each seed is another order of the images. Of every network: the accuracy that
the backend reports, that of its C file in the fixed arithmetic, and the codes in which that file differs from the backend.
Exit status 1 where it differs from a network that was trained in fixed.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

import qat
from qat.cli import run_script
from qat.console import print_table
from qat.graph import Graph, Params
from qat.integer.fixed_point import ARITHMETICS
from qat.networks import create

FLOAT_STEPS, STEPS, BATCH = 200, 150, 32
FEW_BITS = {
    "weight_quantizer": qat.LSQWeightQuantizer(2, per_channel=True),
    "activation_quantizer": qat.LSQActivationQuantizer(2),
    "layers": {"fc3": {"activation_quantizer": None}},
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seeds", type=int, default=10, help="orders of the images; default: 10")


def run(args: argparse.Namespace) -> int:
    torch.set_num_threads(1)
    digits = qat.data.load("digits").resized((1, 32, 32))
    backend, network = qat.backend("torch"), create("lenet_bn")
    rows, wrong, found = [], 0, {name: np.zeros((args.seeds, 2)) for name in ARITHMETICS}
    for seed in range(args.seeds):
        start = trained(network.graph(), network.graph().initial_params(0), digits, FLOAT_STEPS, 2e-3, seed)
        for arithmetic in ARITHMETICS:
            graph = qat.convert_quant_network(network, arithmetic=arithmetic, **FEW_BITS)
            params = trained(graph, graph.initial_params(0) | start, digits, STEPS, 1e-3, seed)
            integers = qat.to_integer(graph, params)
            reported = backend.predict_codes(backend.lower(graph, params), digits.test.images)
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "network.c"
                qat.target("C").export(integers, path, arithmetic="fixed")
                deployed = integers.output.grid.codes_of(qat.target("C").predict(path, digits.test.images))
            differ = int(np.count_nonzero(reported != deployed))
            wrong += differ if arithmetic == "fixed" else 0
            both = [100 * float(np.mean(x.argmax(axis=1) == digits.test.labels)) for x in (reported, deployed)]
            found[arithmetic][seed] = both
            rows.append((str(seed), arithmetic, *(f"{x:.1f} %" for x in both), f"{differ:,} of {deployed.size:,}"))
    for arithmetic, both in found.items():
        means = [f"{mean:.1f} ± {std:.1f} %" for mean, std in zip(both.mean(axis=0), both.std(axis=0), strict=True)]
        rows.append(("mean ± std", arithmetic, *means, ""))
    print_table("2 bits", ("seed", "trained in", "reported", "C, fixed", "codes that differ"), rows)
    return int(wrong > 0)


def trained(graph: Graph, params: Params, digits: qat.data.Dataset, steps: int, rate: float, seed: int) -> Params:
    """Parameters after so many steps of Adam."""
    backend = qat.backend("torch")
    model = backend.lower(graph, params).train()
    optimizer = torch.optim.Adam(model.parameters(), rate)
    for step in range(steps):
        order = np.random.default_rng((seed, step)).integers(0, len(digits.train), BATCH)
        images, labels = (torch.from_numpy(x[order]) for x in (digits.train.images, digits.train.labels))
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
    return backend.read(model)


if __name__ == "__main__":
    sys.exit(run_script(add_arguments, run, __doc__))
