"""ResNet-18 and MobileNetV2 on a GPU: time and memory of a training step, codes that differ from NumPy's, images a second.

    python benchmarks/gpu.py                                                                  # 224x224, batches of 128
    python benchmarks/gpu.py --device_target CPU --size 32 --batch_size 4 --blocks 2 --images 2    # does it run?

Steps alternate within one run, in blocks, and each waits for the device; printed are medians over the blocks, and the medians
of the ratios of neighbouring blocks. Memory is the peak of a step of its own, of what PyTorch has allocated on the GPU. The
codes are those of every node, with each setting that lets PyTorch compute less exactly or in other ways: TF32, cuDNN's choice
of an algorithm by trying, bfloat16. Exit status 1 where one differs.
"""

from __future__ import annotations

import argparse
import gc
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path

import numpy as np
import plain_torch
import torch
from larger_networks import NETWORKS

import qat
from qat.analysis.timing import Times, alternate
from qat.cli import run_script
from qat.console import print_table
from qat.graph import Graph
from qat.integer import trace_codes
from qat.training.devices import choose_device
from qat.training.optimizer import Optimizer

BACKEND = qat.backend("torch")
MIB = 2.0**20
Step = Callable[[np.ndarray, np.ndarray, float], float]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device_target", choices=("GPU", "CPU"), default="GPU", help="where it is measured")
    parser.add_argument("--networks", nargs="+", choices=tuple(NETWORKS), default=list(NETWORKS), help="which")
    parser.add_argument("--size", type=int, default=224, help="pixels of an image's side")
    parser.add_argument("--batch_size", type=int, default=128, help="images a step, and in an evaluated batch")
    parser.add_argument("--blocks", type=int, default=30, help="how often each step is timed")
    parser.add_argument("--modes", nargs="*", choices=("eager", "compiled"), default=["eager", "compiled"])
    parser.add_argument("--images", type=int, default=16, help="whose codes are compared with NumPy's")


def sized(name: str, size: int) -> Graph:
    """A network for images of another size."""
    network = NETWORKS[name]
    (pixels,) = network.inputs
    other = qat.Input((3, size, size), mean=pixels.mean, std=pixels.std)
    return type(network.__name__, (network,), {"inputs": (other,)})().graph()


def random_batch(count: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Random pixels and labels."""
    generator = np.random.default_rng(0)
    return generator.integers(0, 256, (count, 3, size, size), np.uint8), generator.integers(0, 1000, count)


def measure_steps(args: argparse.Namespace, name: str, graphs: dict[str, Graph]) -> None:
    """Print the times of a step, and its memory where there is a GPU."""
    device = BACKEND.DEVICES[args.device_target]
    batch = random_batch(args.batch_size, args.size)
    for mode in args.modes:
        compile = mode == "compiled"
        steps: dict[str, Step] = {"plain": plain_torch.make_step(name, compile=compile, device=device)}
        for title, graph in graphs.items():
            model = BACKEND.lower(graph, device_target=args.device_target)
            steps[title] = BACKEND.make_step(model, Optimizer(), compile=compile)
        calls = {title: partial(step, *batch, 1e-4) for title, step in steps.items()}
        times = alternate(calls, blocks=args.blocks, warm_up=3)
        peaks = {title: peak(call) for title, call in calls.items()} if device == "cuda" else {}
        print_table(
            f"{name}, {args.size}x{args.size}, batch {args.batch_size}, {device_name(device)}, {mode}: one training step",
            ("step", "median", "over plain", *(("its own memory", "over plain") if peaks else ())),
            [row(title, times, peaks) for title in times],
        )


def row(title: str, times: dict[str, Times], peaks: dict[str, float]) -> tuple[str, ...]:
    """A line of the table of steps."""
    own = times[title]
    found = (title, f"{1000.0 * own.median:.2f} ms", f"{own.over(times['plain']).median:.2f}")
    return (*found, f"{peaks[title]:.0f} MiB", f"{peaks[title] / peaks['plain']:.2f}") if peaks else found


def peak(call: Callable[[], object]) -> float:
    """MiB that a step allocates beyond what was allocated before it: activations and gradients."""
    gc.collect()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    call()
    return (torch.cuda.max_memory_allocated() - before) / MIB


@contextmanager
def tf32() -> Iterator[None]:
    """Factors of products may be rounded to 10 bits."""
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("medium")
    torch.backends.cudnn.allow_tf32 = True
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


def count_codes(args: argparse.Namespace, name: str, graph: Graph) -> int:
    """Print, and return, how many codes of all nodes differ from NumPy's, and the speed of evaluation."""
    model = BACKEND.lower(graph, device_target=args.device_target)
    step = BACKEND.make_step(model, Optimizer())
    for _ in range(3):
        step(*random_batch(args.batch_size, args.size), 1e-3)
    device = BACKEND.DEVICES[args.device_target]
    settings: dict[str, AbstractContextManager[object]] = {
        "as it is": nullcontext(),
        "TF32": tf32(),
        "cudnn.benchmark": torch.backends.cudnn.flags(enabled=True, benchmark=True, allow_tf32=True),
        "bfloat16 autocast": torch.autocast(device, torch.bfloat16),
    }
    images, _ = random_batch(args.images, args.size)
    tensors = [node.output for node in model.integers().nodes]
    expected = trace_codes(model.integers(), images, [tensor.name for tensor in tensors])
    codes, differ = sum(array.size for array in expected.values()), {}
    for setting, context in settings.items():
        with context:
            found = BACKEND.trace(model, images, tensors, batch_size=args.batch_size)
        differ[setting] = sum(int((found[each] != expected[each]).sum()) for each in expected)
    many, _ = random_batch(args.batch_size, args.size)
    call = partial(BACKEND.predict_codes, model, many, batch_size=args.batch_size)
    seconds = alternate({"": call}, blocks=5)[""].median
    print_table(
        f"{name}: codes of all nodes that differ from NumPy's; evaluation of {args.batch_size / seconds:.0f} images a second",
        ("PyTorch's setting", "codes", "differ"),
        [(setting, f"{codes:,}", f"{count:,}") for setting, count in differ.items()],
    )
    return sum(differ.values())


def device_name(device: str) -> str:
    """The GPU, or how many threads compute."""
    return torch.cuda.get_device_name() if device == "cuda" else f"{torch.get_num_threads()} threads of a CPU"


def run(args: argparse.Namespace) -> int:
    choose_device(args.device_target, BACKEND.devices(), BACKEND.NAME)  # refuses where there is none
    wrong = 0
    for name in args.networks:
        graph = sized(name, args.size)
        quantized = qat.convert_quant_network(graph)
        measure_steps(args, name, {"float": graph, "QAT": quantized})
        wrong += count_codes(args, name, quantized)
    return int(wrong > 0)


if __name__ == "__main__":
    sys.path.append(str(Path(__file__).parent))
    sys.exit(run_script(add_arguments, run, __doc__))
