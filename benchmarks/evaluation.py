"""What evaluation and calibration cost: each backend beside NumPy, the reference.

    python benchmarks/evaluation.py --threads 1
    python benchmarks/evaluation.py --networks --ckpt_path lite0.ckpt --data_path Photographs --images 128

The first table has milliseconds an image of output codes in either arithmetic, as medians of alternating runs, over random
pixels, and how many codes differ from NumPy's (none). With --ckpt_path, a float network, the second one has what a calibration
with --method and bias correction on --images training images takes: the CPU seconds of a process of its own, imports included,
and the most memory that it held. NumPy's is slow, and left out unless --numpy asks for it.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from larger_networks import MobileNetV2, ResNet18

import qat
from qat.analysis.ranges import METHODS
from qat.analysis.timing import alternate
from qat.cli import run_script
from qat.console import print_table
from qat.integer.fixed_point import ARITHMETICS
from qat.networks import LeNet5
from qat.registry import BACKENDS, evaluation_ops, installed
from qat.scripts.common.calibration import AUTO
from qat.scripts.common.files import load_checkpoint, load_data
from qat.training.checkpoint import Checkpoint
from qat.training.devices import use_threads
from qat.vocabulary.numpy_ops import NUMPY_OPS

NETWORKS = {
    "lenet": (LeNet5, 256),
    "resnet18": (ResNet18, 64),
    "mobilenetv2": (MobileNetV2, 32),
}  #: and how many images
FEW = 8  #: images that ranges are found on before an evaluation


def add_arguments(parser: argparse.ArgumentParser) -> None:
    here = [name for name, entry in BACKENDS.items() if installed(entry)]
    parser.add_argument(
        "--networks", nargs="*", choices=list(NETWORKS), default=list(NETWORKS), help="that are evaluated"
    )
    parser.add_argument("--backends", nargs="+", choices=here, default=here, help="beside NumPy")
    parser.add_argument("--threads", type=int, default=1, help="of each framework")
    parser.add_argument("--blocks", type=int, default=3, help="runs of each")
    parser.add_argument("--ckpt_path", help="a float network that is calibrated, and evaluated too")
    parser.add_argument("--data_path", help="its data set")
    parser.add_argument("--images", type=int, default=128, help="training images to calibrate with")
    parser.add_argument(
        "--method",
        choices=(AUTO, *METHODS),
        default="mse",
        help="of the calibration, with bias correction; auto: all is chosen",
    )
    parser.add_argument("--numpy", action="store_true", help="calibrate in NumPy too")


def run(args: argparse.Namespace) -> None:
    use_threads(args.threads)
    rows = [row for name in args.networks for row in evaluated(name, args)]
    if rows:
        columns = ("network", "arithmetic", "engine", "ms an image", "over NumPy", "codes that differ")
        print_table(f"output codes, {args.threads} threads", columns, rows)
    if args.ckpt_path:
        checkpoint = load_checkpoint(args.ckpt_path, quantized=False)
        images = load_data(args.data_path, checkpoint, args).train.images
        chosen = np.sort(np.random.default_rng(0).permutation(len(images))[: args.images])
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "images.npy"
            np.save(path, images[chosen])
            rows = [calibrated(name, path, args) for name in (*args.backends, *["numpy"] * args.numpy)]
        title = (
            f"{checkpoint.graph.name}, {args.method} and bias correction, {len(chosen)} images, {args.threads} threads"
        )
        print_table(title, ("engine", "CPU seconds", "peak memory"), rows)


def evaluated(name: str, args: argparse.Namespace) -> list[tuple[str, ...]]:
    """One row for each engine and arithmetic."""
    network, count = NETWORKS[name]
    graph = network().graph()
    images = np.random.default_rng(0).integers(0, 256, (count, *graph.input_specs[0].shape), np.uint8)
    rows = []
    for arithmetic in ARITHMETICS:
        found = qat.calibrate(graph, graph.initial_params(0), images[:FEW], arithmetic=arithmetic)
        integers = qat.to_integer(found.graph, found.params)
        expected, differing = qat.evaluate(integers, images), {}
        calls = {"NumPy": partial(qat.evaluate, integers, images)}
        for key in args.backends:
            backend = qat.backend(key)
            model = backend.lower(found.graph, found.params)
            calls[key] = partial(backend.predict_codes, model, images)
            differing[key] = str(int((calls[key]() != expected).sum()))
        times = alternate(calls, blocks=args.blocks, warm_up=0)
        for key, taken in times.items():
            ratio = f"{taken.over(times['NumPy']).median:.2f}"
            rows.append((name, arithmetic, key, f"{1e3 * taken.median / count:.2f}", ratio, differing.get(key, "")))
            print(" | ".join(rows[-1]), flush=True)
    return rows


def calibrated(engine: str, path: Path, args: argparse.Namespace) -> tuple[str, ...]:
    """One row, of a process of its own."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        seconds, peak = pool.submit(cost, engine, args.ckpt_path, str(path), args.method).result()
    row = (engine, f"{seconds:.1f}", f"{peak / 2**20:,.0f} MiB")
    print(" | ".join(row), flush=True)
    return row


def cost(engine: str, ckpt_path: str, images_path: str, method: str) -> tuple[float, int]:
    """CPU seconds of this process so far, and the bytes that it held at most, after a calibration."""
    import resource  # not everywhere

    checkpoint, images = Checkpoint.load(ckpt_path), np.load(images_path)
    ops = NUMPY_OPS if engine == "numpy" else evaluation_ops(engine)
    settings = {} if method == AUTO else {"method": method, "equalize": False, "bias_correction": True}
    qat.calibrate(checkpoint.graph, checkpoint.params, images, ops=ops, **settings)
    return time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


if __name__ == "__main__":
    sys.exit(run_script(add_arguments, run, __doc__))
