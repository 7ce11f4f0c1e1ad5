"""Which networks of torchvision, timm and Keras are imported, and whether everything after that is exact.

    python benchmarks/import_coverage.py --of torchvision --quick          # import, and float outputs alone
    python benchmarks/import_coverage.py --of timm --models resnet18 repvgg_a0
    python benchmarks/import_coverage.py                                   # all columns of all networks that are installed

Each network has random weights, normalisations and factors, and small inputs where it allows them; it is imported, its float
outputs are compared with the original's (the largest relative difference), one step of quantization-aware training is done in
PyTorch, and the calibrated network is exported. Then the output codes of NumPy, PyTorch, ONNX Runtime and, where the target
has all cells, LiteRT are compared: how many of them differ. The networks are measured in a process beside, so that one which
fails, or takes too long, does not end the table. torchvision is in the extra dev, timm in none: install it beside PyTorch.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import math
import multiprocessing
import os
import re
import sys
import tempfile
import warnings
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import numpy as np

import qat
from qat.cli import run_script
from qat.console import print_table
from qat.errors import QatError
from qat.imports.compare import Difference
from qat.integer import IntegerGraph
from qat.registry import TARGETS, installed
from qat.training.checkpoint import Checkpoint
from qat.training.optimizer import Optimizer

#: timm's networks that are in use on edge devices: compact ones, and backbones of detectors.
TIMM = [
    "cs3darknet_m", "darknet53", "densenet121", "dla34", "dla46_c", "dla60x", "dpn68", "edgenext_xx_small",
    "efficientformer_l1", "efficientnet_b0", "efficientnet_es", "efficientnet_lite0", "efficientnet_lite2",
    "efficientnet_lite4", "efficientnetv2_rw_t", "efficientvit_b0", "ese_vovnet19b_dw", "fasternet_t0", "fastvit_t8",
    "fbnetc_100", "fbnetv3_b", "gernet_s", "ghostnet_100", "hardcorenas_a", "hgnet_tiny", "hgnetv2_b0",
    "hrnet_w18_small", "inception_v3", "inception_v4", "lcnet_050", "lcnet_100", "mixnet_s", "mnasnet_100",
    "mobilenet_edgetpu_v2_s", "mobilenetv1_100", "mobilenetv2_100", "mobilenetv2_140", "mobilenetv3_large_100",
    "mobilenetv3_small_100", "mobilenetv4_conv_small", "mobilenetv4_conv_medium", "mobileone_s0", "mobilevit_xxs",
    "regnetx_002", "regnetx_008", "regnety_002", "repghostnet_100", "repvgg_a0", "repvit_m1", "resnet18", "resnet26d",
    "resnext50_32x4d", "rexnet_100", "selecsls42b", "semnasnet_100", "spnasnet_100", "tf_efficientnetv2_b0",
    "tinynet_a", "vovnet39a", "xception41",
]  # fmt: skip
SIZES = (64, 96, 128, 224, 299)  #: of square images, the first that a network allows
TIMEOUT, SAMPLES = 1800, 2  #: seconds for one network; images that codes are compared on
ENGINES = ("PyTorch", "ONNX", "TFLITE")


def torchvision_names() -> list[str]:
    import torchvision

    return list(torchvision.models.list_models(module=torchvision.models))


def keras_names() -> list[str]:
    import keras

    return sorted(name for name, each in vars(keras.applications).items() if name[0].isupper() and callable(each))


def timm_names() -> list[str]:
    import timm

    return [name for name in TIMM if name in timm.list_models()]


NAMES = {"torchvision": torchvision_names, "timm": timm_names, "keras": keras_names}


def torch_model(family: str, name: str) -> Any:
    """With random weights, and normalisations and factors that are not the identity."""
    import torch

    torch.manual_seed(0)
    if family == "timm":
        import timm

        module = timm.create_model(name)
    else:
        import torchvision

        module = torchvision.models.get_model(name, weights=None)
    for each in module.modules():
        if isinstance(each, torch.nn.modules.batchnorm._BatchNorm) and each.affine:
            torch.nn.init.uniform_(each.weight, 0.5, 1.5)
            torch.nn.init.normal_(each.bias, std=0.1)
    for tensor in module.parameters():
        if tensor.numel() > 1 and bool(
            (tensor == tensor.flatten()[0]).all()
        ):  # a network begins without what these compute
            if tensor.flatten()[0] == 0.0:
                torch.nn.init.normal_(tensor, std=0.1)
            else:
                torch.nn.init.uniform_(tensor, 0.5, 1.5)
    return module.eval()


def settle(module: Any, size: int) -> None:
    """Give its batch normalisations the statistics of random images.

    With others, numbers grow from layer to layer, until float32 itself is far from what the network computes.
    """
    import torch

    norms = [each for each in module.modules() if isinstance(each, torch.nn.modules.batchnorm._BatchNorm)]
    kept = [each.momentum for each in norms]
    for each in norms:
        each.train().momentum = 1.0
    with torch.no_grad(), contextlib.suppress(RuntimeError):  # of a size that it does not allow: the import says so
        module(torch.randn(8, 3, size, size))
    for each, momentum in zip(norms, kept, strict=True):
        each.eval().momentum = momentum


def keras_model(name: str, size: int) -> Any:
    """Likewise. Raises ValueError where it does not allow the size."""
    import keras

    keras.utils.set_random_seed(0)
    model = getattr(keras.applications, name)(weights=None, input_shape=(size, size, 3), classifier_activation=None)
    rng = np.random.default_rng(0)
    norms = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    kept = [layer.momentum for layer in norms]
    for layer in norms:
        for variable in layer.trainable_variables:
            shape = tuple(variable.shape)
            variable.assign(rng.uniform(0.5, 1.5, shape) if "gamma" in variable.path else rng.normal(0.0, 0.1, shape))
        layer.momentum = 0.0
    scaled = any(isinstance(layer, keras.layers.Rescaling) for layer in model.layers)  # which takes pixels
    images = rng.uniform(0, 255, (8, size, size, 3)) if scaled else rng.normal(size=(8, size, size, 3))
    model(images.astype(np.float32), training=True)  # statistics, as ``settle`` gives them
    for layer, momentum in zip(norms, kept, strict=True):
        layer.momentum = momentum
    return model


def imported(family: str, name: str) -> Any:
    """The imported network, of the smallest images that it allows."""
    errors: list[Exception] = []
    module = None if family == "keras" else torch_model(family, name)
    for size in SIZES:
        try:
            if family == "keras":
                found = qat.import_model(keras_model(name, size))
            else:
                settle(module, size)
                found = qat.import_model(module, input_shape=(3, size, size))
        except (QatError, ValueError) as error:
            errors.append(error)
            if "no cell computes" in str(error) and "unequal windows" not in str(error):
                break
            continue
        return found
    raise max(
        errors, key=lambda error: "no cell computes" in str(error)
    )  # which says more than that an image is too small


def measured(family: str, name: str, quick: bool) -> dict[str, Any]:
    """One row."""
    found = imported(family, name)
    difference: Difference = found.difference
    graph = found.graph
    row: dict[str, Any] = {
        "size": graph.input_specs[0].shape[-1],
        "nodes": len(graph.nodes),
        "float": difference.relative,
    }
    if quick:
        return row
    numbers = np.random.default_rng(1).standard_normal((8, *graph.input_specs[0].shape)).astype(np.float32)
    images = (
        numbers if graph.input_specs[0].dtype == "float32" else np.clip(128 + 60 * numbers, 0, 255).astype(np.uint8)
    )
    backend = qat.backend("torch")
    quantized = qat.calibrate(graph, found.params, images)
    model = backend.lower(quantized.graph, quantized.params)
    loss = backend.make_step(model, Optimizer())(images, np.arange(8) % 2, 1e-5)
    row["step"] = "done" if math.isfinite(loss) else f"loss {loss}"
    integers = qat.to_integer(quantized.graph, quantized.params)
    return row | differing(quantized, integers, images[:SAMPLES])


def differing(quantized: Checkpoint, integers: IntegerGraph, images: np.ndarray) -> dict[str, Any]:
    """How many codes of each engine differ from NumPy's."""
    backend, row = qat.backend("torch"), {}
    wanted = as_codes(qat.evaluate(integers, images))
    row["PyTorch"] = count(
        as_codes(backend.predict_codes(backend.lower(quantized.graph, quantized.params), images)), wanted
    )
    real = [output.grid.dequantize(codes) for output, codes in zip(integers.outputs, wanted, strict=True)]
    for name in ENGINES[1:]:
        if not installed(TARGETS[name]):
            row[name] = "not installed"
            continue
        target = qat.target(name)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / ("net.onnx" if name == "ONNX" else "net.tflite")
            try:
                target.export(integers, path)
                row[name] = count(as_codes(target.predict(path, images)), real)
            except QatError as error:
                row[name] = f"refused: {str(error)[:80]}"
    return row


def as_codes(outputs: Any) -> list[np.ndarray]:
    return list(outputs) if isinstance(outputs, tuple) else [outputs]


def count(found: list[np.ndarray], wanted: list[np.ndarray]) -> int:
    return sum(int((a != b).sum()) for a, b in zip(found, wanted, strict=True))


class Worker:
    """A process that measures one network after another, and is replaced where it ends or takes too long."""

    def __init__(self, family: str, quick: bool, timeout: int) -> None:
        self.family, self.quick, self.timeout = family, quick, timeout
        self.pool: ProcessPoolExecutor | None = None

    def measure(self, name: str) -> dict[str, Any]:
        """A row, or what went wrong, as "error"."""
        if self.pool is None:
            self.pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), _quiet)
        try:
            return self.pool.submit(row_of, self.family, name, self.quick).result(self.timeout)
        except (TimeoutError, BrokenProcessPool) as error:
            processes = list((self.pool._processes or {}).values())
            for process in processes:
                process.kill()
            self.pool.shutdown(wait=True, cancel_futures=True)
            self.pool = None
            late = isinstance(error, TimeoutError)
            return {
                "error": f"takes more than {self.timeout} s" if late else "its process ended: out of memory, perhaps"
            }


def _quiet() -> None:
    warnings.simplefilter("ignore")


def row_of(family: str, name: str, quick: bool) -> dict[str, Any]:
    """``measured``, with every error as text."""
    try:
        return measured(family, name, quick)
    except Exception as error:
        return {"error": f"{'' if isinstance(error, QatError) else type(error).__name__ + ': '}{error}"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--of", choices=tuple(NAMES), nargs="+", default=list(NAMES), help="whose networks")
    parser.add_argument("--models", nargs="+", help="their names (default: all classifiers, and 60 of timm)")
    parser.add_argument("--quick", action="store_true", help="compare float outputs only")
    parser.add_argument("--timeout", type=int, default=TIMEOUT, help="seconds for one network")


def run(args: argparse.Namespace) -> int:
    os.environ.update(TF_CPP_MIN_LOG_LEVEL="3", KERAS_BACKEND="tensorflow")
    good = True
    for family in args.of:
        if importlib.util.find_spec(family) is None:
            print(f"{family} is not installed, and left out")
            continue
        good = table(family, args) and good
    return 0 if good else 1


def table(family: str, args: argparse.Namespace) -> bool:
    """One family's rows; False where an imported network is not exact."""
    rows, exact, count_imported = [], True, 0
    worker = Worker(family, args.quick, args.timeout)
    for name in args.models or NAMES[family]():
        row = worker.measure(name)
        if "error" in row:
            rows.append((name, "no", missing_of(row["error"]), *([""] * (0 if args.quick else 1 + len(ENGINES)))))
        else:
            count_imported += 1
            columns = [] if args.quick else [row["step"], *(str(row[engine]) for engine in ENGINES)]
            exact = exact and (
                args.quick or (row["PyTorch"] == row["ONNX"] == 0 and row["TFLITE"] in (0, "not installed"))
            )
            rows.append((name, f"{row['size']} px", f"{row['float']:.1e}", *columns))
        print(*rows[-1], sep="\t", flush=True)
    headings = ("network", "imported", "largest difference", *(() if args.quick else ("QAT step", *ENGINES)))
    print_table(f"{family}: {count_imported} of {len(rows)} networks are imported", headings, rows)
    return exact


def missing_of(error: str) -> str:
    """The operations that are missing, without their places."""
    _, found, rest = error.partition("no cell computes: ")
    if not found:
        return error[:160]
    listed = rest.partition(". Known are")[0].split("; ")
    kinds = [re.split(r": | of \(N| over | from ", each)[0] for each in listed]
    return ", ".join(dict.fromkeys(kinds))[:160]


if __name__ == "__main__":
    sys.exit(run_script(add_arguments, run, __doc__))
