"""A checkpoint's C file on an emulated Cortex-M4: codes that differ from the fixed arithmetic's, flash and RAM.

python benchmarks/cortex_m4.py --ckpt_path lenet_quant.ckpt --data_path MNIST_Data --images 300
"""

from __future__ import annotations

import argparse
import importlib
import sys
import tempfile
from pathlib import Path

import numpy as np

import qat
from qat.cli import run_script
from qat.errors import QatError
from qat.scripts.common.files import load_checkpoint, load_data
from qat.scripts.common.flags import add_checkpoint_argument, add_data_argument


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_checkpoint_argument(parser, "quantized network")
    add_data_argument(parser)
    parser.add_argument("--images", type=int, default=300, help="how many of the test images")


def run(args: argparse.Namespace) -> int:
    sys.path.append(str(Path(__file__).parent.parent / "tests"))
    cortex_m = importlib.import_module("cortex_m")
    if cortex_m.MISSING:
        raise QatError(cortex_m.REASON)
    checkpoint = load_checkpoint(args.ckpt_path, quantized=True)
    integers = qat.to_integer(checkpoint.graph, checkpoint.params)
    pixels = load_data(args.data_path, checkpoint, args).test.images[: args.images]
    expected = qat.evaluate(integers, pixels, arithmetic="fixed")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        qat.target("C").export(integers, folder / "network.c")
        outputs, dtype = expected.shape[1], integers.output.grid.dtype
        codes, sizes = cortex_m.run(folder / "network.c", pixels.transpose(0, 2, 3, 1), outputs, dtype, folder)
    differ = int(np.count_nonzero(codes != expected))
    print(
        f"{integers.name} on a Cortex-M4 (mps2-an386, emulated): {codes.size:,} codes compared, {differ:,} differ; "
        f"{sizes.flash:,} bytes of flash, {sizes.ram:,} of RAM"
    )
    return int(differ > 0)


if __name__ == "__main__":
    sys.exit(run_script(add_arguments, run, __doc__))
