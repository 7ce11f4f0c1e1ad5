"""Pictures read as they are needed: images a second beside PyTorch's DataLoader, memory, and a training that is killed.

    python benchmarks/loader.py                       # all three, on 20,000 JPEG files of 256 x 256 pixels that it makes
    python benchmarks/loader.py --parts rate --num_workers 4

Rate: epochs of both loaders alternate within one run, with as many workers and the same function for a picture (Pillow:
decode, resize to 224 x 224); an epoch is timed from its first batch to its last. Memory: PSS of the process and all below it
while it trains (PyTorch, ResNet-20 on 32 x 32), with a tenth of the files and with all. Killed: that training is killed by
SIGKILL at random instants and resumed, and has to end with the same bits; exit status 1 where it does not, or where the
ratio of the rates is below 0.9 or memory reaches 1 GB.
"""

from __future__ import annotations

import argparse
import io
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from statistics import median

import numpy as np
import psutil

import qat
from qat.cli import run_script
from qat.data import Dataset, Split
from qat.data.loader import in_workers
from qat.networks import create
from qat.training.checkpoint import Checkpoint
from qat.training.loop import train
from qat.training.recipe import Recipe
from qat.vocabulary.rows import Rows

PARTS = ("rate", "memory", "killed")


class Jpegs(Rows):
    """JPEG files, each read and resized when it is asked for."""

    def __init__(self, files: list[str], size: int) -> None:
        self.files, self.size = files, size
        self.shape, self.dtype = (len(files), 3, size, size), np.dtype(np.uint8)

    def read(self, number: int) -> np.ndarray:
        from PIL import Image

        with Image.open(self.files[number]) as picture:
            small = picture.convert("RGB").resize((self.size, self.size), Image.Resampling.BILINEAR)
        return np.array(small).transpose(2, 0, 1)

    def __getitem__(self, which: object) -> np.ndarray:  # also one number, as PyTorch's DataLoader asks
        return self.read(int(which)) if isinstance(which, (int, np.integer)) else super().__getitem__(which)  # type: ignore


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="what is measured")
    parser.add_argument("--files", type=int, default=20_000, help="how many pictures")
    parser.add_argument("--folder", help="where they are, or are made (default: a temporary one)")
    parser.add_argument("--num_workers", type=int, default=2, help="processes that read")
    parser.add_argument("--batch_size", type=int, default=64, help="images in a batch")
    parser.add_argument("--rounds", type=int, default=5, help="epochs of each loader")
    parser.add_argument("--images", type=int, default=2000, help="of an epoch that is timed")
    parser.add_argument(
        "--seconds", type=float, default=1e9, help="for how long a training's memory is watched, at most"
    )
    parser.add_argument("--kills", type=int, default=5, help="how often the training is killed")
    parser.add_argument("--save_path", help="train on the pictures and save there: what this program calls itself for")


def make_pictures(folder: Path, count: int) -> list[str]:
    """JPEG files of 256 x 256 pixels with large and small structures, as photographs have."""
    from PIL import Image

    paths = [folder / f"{number % 10}" / f"{number:05d}.jpg" for number in range(count)]
    for number, path in enumerate(paths):
        if not path.exists():
            rng = np.random.default_rng(number)
            coarse = Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8)).resize(
                (256, 256), Image.Resampling.BICUBIC
            )
            pixels = np.asarray(coarse).astype(np.int16) + rng.integers(-12, 13, (256, 256, 3))
            data = io.BytesIO()
            Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(data, "JPEG", quality=85)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data.getvalue())
    return [*map(str, paths)]


def labels_of(files: list[str]) -> np.ndarray:
    return np.array([int(Path(file).parent.name) for file in files])


def rate(args: argparse.Namespace, files: list[str]) -> bool:
    """Whether the loader gives at least 0.9 of DataLoader's images a second."""
    from torch.utils.data import DataLoader

    chosen = files[: args.images]
    rows = Jpegs(chosen, 224)
    split = Split(in_workers(rows, args.num_workers), labels_of(chosen))
    steps = len(split) // args.batch_size

    def ours(epoch: int) -> Iterator[object]:
        return split.batches(args.batch_size, 0, epoch)

    def theirs(epoch: int) -> Iterator[object]:
        order = np.random.default_rng((0, epoch)).permutation(len(chosen)).tolist()
        return iter(DataLoader(rows, args.batch_size, sampler=order, num_workers=args.num_workers, drop_last=True))  # type: ignore

    rates: dict[str, list[float]] = {"qat": [], "DataLoader": []}
    for epoch in range(1, args.rounds + 1):
        for name, loader in (("qat", ours), ("DataLoader", theirs)):
            batches = loader(epoch)
            next(batches)
            start = time.perf_counter()
            assert sum(1 for _ in islice(batches, steps - 1)) == steps - 1  # the end of the workers is not timed
            rates[name].append((steps - 1) * args.batch_size / (time.perf_counter() - start))
            del batches
    ratio = median(a / b for a, b in zip(*rates.values(), strict=True))
    text = ", ".join(f"{name} {median(found):,.0f} images/s" for name, found in rates.items())
    print(f"rate, {args.num_workers} workers: {text}; median of {args.rounds} ratios {ratio:.2f}")
    return ratio >= 0.9


def command(args: argparse.Namespace, files: int, folder: Path, path: Path) -> list[str]:
    """This program as a training."""
    numbers = ["--files", str(files), "--num_workers", str(args.num_workers), "--batch_size", str(args.batch_size)]
    return [sys.executable, __file__, "--folder", str(folder), *numbers, "--save_path", str(path)]


def tree_pss(process: psutil.Process) -> int:
    """Bytes of a process and all below it, what several share counted once."""
    total = 0
    for one in [process, *process.children(recursive=True)]:
        try:
            total += one.memory_full_info().pss
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return total


def memory(args: argparse.Namespace, folder: Path, scratch: Path) -> bool:
    """Whether a training takes less than 1 GB, whatever the number of files."""
    most = {}
    for count in (args.files // 10, args.files):
        training = subprocess.Popen(command(args, count, folder, scratch / f"{count}.ckpt"), stdout=subprocess.DEVNULL)
        process, most[count] = psutil.Process(training.pid), 0
        end = time.monotonic() + args.seconds
        while training.poll() is None and time.monotonic() < end:
            most[count] = max(most[count], tree_pss(process))
            time.sleep(0.1)
        if training.returncode:
            raise SystemExit(training.returncode)
        training.kill()  # where it was watched for long enough
        training.wait()
    print("memory: " + ", ".join(f"{count:,} files {found / 1e6:,.0f} MB" for count, found in most.items()))
    return max(most.values()) < 1e9


def killed(args: argparse.Namespace, folder: Path, scratch: Path) -> bool:
    """Whether a training that is killed and resumed ends with the bits of one left alone."""
    instants, count = random.Random(0), args.files // 10
    alone, other = scratch / "alone.ckpt", scratch / "killed.ckpt"
    start = time.monotonic()
    subprocess.run(command(args, count, folder, alone), check=True, stdout=subprocess.DEVNULL)
    takes, steps = time.monotonic() - start, []
    for _ in range(args.kills):
        training = subprocess.Popen(
            command(args, count, folder, other), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        time.sleep(instants.uniform(0.0, takes))
        workers = psutil.Process(training.pid).children(recursive=True)
        training.kill()
        training.wait()
        assert not psutil.wait_procs(workers, timeout=5)[1], "workers are left"
        steps.append(Checkpoint.load(other).step if other.exists() else 0)
    subprocess.run(command(args, count, folder, other), check=True, stdout=subprocess.DEVNULL)
    one, two = Checkpoint.load(alone), Checkpoint.load(other)
    equal = one.step == two.step and all(
        np.array_equal(array, theirs[name])
        for mine, theirs in ((one.params, two.params), (one.optimizer, two.optimizer))
        for name, array in mine.items()
    )
    print(
        f"killed {args.kills} times, resumed at steps {steps} of {one.step}, no worker left: "
        f"{'equal, bit for bit' if equal else 'the results DIFFER'}"
    )
    return equal


def train_on(args: argparse.Namespace, files: list[str]) -> None:
    """A training on the pictures, from --save_path on where it exists."""
    path, graph = Path(args.save_path), create("resnet20").graph()
    start = Checkpoint.load(path) if path.exists() else Checkpoint(graph, graph.initial_params(0))
    split = Split(in_workers(Jpegs(files, 32), args.num_workers), labels_of(files))
    recipe = Recipe(epochs=1, batch_size=args.batch_size, augment_flip=True, augment=("crop", "color"))
    dataset = Dataset("JPEG files", args.folder, split, split)
    train(qat.backend("torch"), start, dataset, recipe, save=lambda x: x.save(path), save_every=5)


def run(args: argparse.Namespace) -> int:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(args.folder or scratch) / "pictures"
        if args.save_path:
            folder = Path(args.folder)
        files = make_pictures(folder, args.files)
        if args.save_path:
            train_on(args, files)
            return 0
        good = [rate(args, files)] if "rate" in args.parts else []
        good += [memory(args, folder, Path(scratch))] if "memory" in args.parts else []
        good += [killed(args, folder, Path(scratch))] if "killed" in args.parts else []
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(run_script(add_arguments, run, __doc__))
