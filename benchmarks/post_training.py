"""Post-training quantization beside other tools: ONNX Runtime's and Sony's Model Compression Toolkit.

    python benchmarks/post_training.py --ckpt_path lite0.ckpt --photographs ImageNetSample
    python benchmarks/post_training.py --ckpt_path kws01.ckpt --data_path kws01.npz --widths 8/8 4/8

--ckpt_path is a float network, as ``qat import`` saves it. All tools get the same: its layers as PyTorch's own
(``plain_module``), for ONNX Runtime exported by torch.onnx, with a softmax at the end left out; --images training images to
calibrate with, and the test images to evaluate. With --photographs, a folder with labels.csv, --images of them are chosen by
--seed to calibrate with, and all others are evaluated.

A row for each tool, setting and width (bits of weights/activations): the metric of the network's task, how often the
largest output is that of the float network, the SQNR of the outputs, the bytes of the file, and the CPU seconds of the
calibration, imports left out, over those of qat's with default settings at the same width. The Model Compression Toolkit's
file holds float numbers, so its bytes are left out. A tool that is not installed has a row that says so.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import importlib.util
import io
import logging
import math
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from plain_module import plain_module

import qat
from qat.analysis.agreement import Agreement
from qat.cli import run_script
from qat.console import print_table
from qat.errors import QatError
from qat.graph import Graph
from qat.passes.logits_graph import logits_graph
from qat.scripts.common.files import load_checkpoint, load_data
from qat.scripts.common.flags import add_backend_arguments, add_data_argument
from qat.training.checkpoint import Checkpoint
from qat.training.devices import threads_in_use

WIDTHS = {"8/8": ((8, 8), True), "8/8 per tensor": ((8, 8), False), "4/8": ((4, 8), True)}  #: bits, per_channel
BATCH = 16  #: images at a time that other tools are given
COLUMNS = ("tool", "settings", "width", "metric", "agrees", "SQNR", "bytes", "calibration")
PACKAGES = {"onnxruntime": ("onnxruntime", "onnx"), "mct": ("model_compression_toolkit",)}  #: of each tool
INSTALL = {"onnxruntime": "onnxruntime onnx onnxscript", "mct": "model-compression-toolkit"}


class Task(NamedTuple):
    """What all tools are given.

    Attributes:
        graph, params: the float network, without a softmax at the end.
        module: the same as PyTorch's layers.
        images, real: to calibrate with, as the network takes them, and their real numbers, float32.
        out: a folder for files.
        args: the command's.
    """

    graph: Graph
    params: dict[str, np.ndarray]
    module: torch.nn.Module
    images: np.ndarray
    real: np.ndarray
    out: Path
    args: argparse.Namespace


class Result(NamedTuple):
    """A quantized network: from images as the float network takes them to its outputs; bytes of its file, None without one."""

    predict: Callable[[np.ndarray], np.ndarray]
    bytes: int | None


#: A way to quantize: what it is called, and the function that calibrates. The function that this one returns is not timed.
Way = tuple[str, Callable[[], Callable[[], Result]]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--ckpt_path", required=True, help="a float network with one input and one output")
    add_data_argument(parser, required=False, otherwise="--photographs")
    parser.add_argument("--photographs", help="a folder with labels.csv (file, class_index) and images/")
    add_backend_arguments(parser)
    parser.add_argument("--tools", nargs="+", choices=list(TOOLS), default=list(TOOLS), help="which")
    parser.add_argument("--widths", nargs="+", choices=list(WIDTHS), default=list(WIDTHS), help="weights/activations")
    parser.add_argument("--only", default="", help="ways whose settings begin so")
    parser.add_argument("--images", type=int, default=128, help="to calibrate with")
    parser.add_argument("--evaluated", type=int, help="test images at most, evenly chosen (default: all)")
    parser.add_argument("--seed", type=int, default=0, help="chooses the images")
    parser.add_argument("--epochs", type=int, default=20, help="of the toolkit's gradient-based quantization")


def run(args: argparse.Namespace) -> None:
    torch.set_num_threads(threads_in_use() or 1)
    with tempfile.TemporaryDirectory() as folder:
        compare(args, Path(folder))


def compare(args: argparse.Namespace, out: Path) -> None:
    """Print the table."""
    checkpoint = load_checkpoint(args.ckpt_path, quantized=False)
    if args.photographs:
        split_photographs(Path(args.photographs), out, args.images, args.seed)
    elif not args.data_path:
        raise QatError("there are no images: give --data_path or --photographs")
    dataset = load_data(str(out) if args.photographs else args.data_path, checkpoint, args)
    chosen = np.sort(np.random.default_rng(args.seed).permutation(len(dataset.train))[: args.images])
    images, test = np.asarray(dataset.train.images[chosen]), dataset.test
    if args.evaluated:
        test = test.chosen(np.linspace(0, len(test) - 1, min(args.evaluated, len(test))).astype(int))
    tested = np.asarray(test.images[:])
    graph = logits_graph(checkpoint.graph)
    params = {name: checkpoint.params[name] for name in graph.params}
    entry: Any = graph.inputs[0].cell
    module = plain_module(graph, params)
    task = Task(graph, params, module, images, entry.real_numbers(images), out, args)
    backend = qat.backend(args.backend)
    floats = backend.predict(backend.lower(graph, params), tested)
    plain = in_batches(module, entry.real_numbers(tested))
    if sqnr(floats, plain) < 80.0:
        raise QatError(f"{graph.name}: PyTorch's layers give other outputs, {sqnr(floats, plain):.1f} dB")

    def row(tool: str, settings: str, width: str, outputs: np.ndarray, size: int | None, time_taken: str) -> None:
        name, value = next(iter(checkpoint.task.metrics(graph, outputs, test).items()))
        metric = f"{value:.4f} {name}" if name != "top-1" else f"{100 * value:.2f} %"
        same = f"{100 * np.mean(outputs.argmax(1) == floats.argmax(1)):.2f} %" if name == "top-1" else "-"
        decibels = sqnr(floats, outputs)
        error = "-" if math.isinf(decibels) else f"{decibels:.2f} dB"
        rows.append((tool, settings, width, metric, same, error, "-" if size is None else f"{size:,}", time_taken))
        print(" | ".join(rows[-1]), flush=True)

    rows: list[tuple[str, ...]] = []
    row("float", "", "32/32", floats, sum(4 * array.size for array in params.values()), "")
    for width in args.widths:
        ours = 0.0
        for tool in args.tools:
            missing = [name for name in PACKAGES.get(tool, ()) if importlib.util.find_spec(name) is None]
            if missing:
                rows.append((tool, f"not installed: pip install {INSTALL[tool]}", width, *["-"] * 5))
                print(" | ".join(rows[-1]), flush=True)
                continue
            for settings, calibrate in TOOLS[tool](task, *WIDTHS[width]):
                if not settings.startswith(args.only):
                    continue
                begin = time.process_time()
                finish = calibrate()
                seconds = time.process_time() - begin
                if tool == "qat" and settings == DEFAULTS:
                    ours = seconds
                result = finish()
                taken = f"{seconds / ours:.2f}" if ours else f"{seconds:.1f} s"
                row(tool, settings, width, result.predict(tested), result.bytes, taken)
    title = f"{graph.name}: {len(images)} images calibrate, {len(tested)} are evaluated; times over qat's defaults"
    print_table(title, COLUMNS, rows)


def split_photographs(folder: Path, out: Path, count: int, seed: int) -> None:
    """Lists of photographs: ``count`` to calibrate with in train.csv, the others in test.csv."""
    pictures = folder / "images" if (folder / "images").is_dir() else folder
    with open(folder / "labels.csv", encoding="utf-8", newline="") as file:
        lines = [f"{(pictures / row['file']).resolve()},{row['class_index']}" for row in csv.DictReader(file)]
    chosen = set(np.random.default_rng(seed).permutation(len(lines))[:count].tolist())
    for name, calibrates in (("train", True), ("test", False)):
        part = [line for number, line in enumerate(lines) if (number in chosen) == calibrates]
        (out / f"{name}.csv").write_text("\n".join(["file,class", *part]) + "\n", encoding="utf-8")


def sqnr(floats: np.ndarray, outputs: np.ndarray) -> float:
    agreement = Agreement()
    agreement.add(floats, outputs)
    return agreement.sqnr


def in_batches(module: torch.nn.Module, real: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        parts = [module(torch.from_numpy(real[i : i + BATCH])).numpy() for i in range(0, len(real), BATCH)]
    return np.concatenate(parts)


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Without what other tools print, log and warn of."""
    level = logging.root.level
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        logging.root.setLevel(logging.ERROR)
        try:
            yield
        finally:
            logging.root.setLevel(level)


DEFAULTS = "defaults"


def by_qat(task: Task, bits: tuple[int, int], per_channel: bool) -> Iterator[Way]:
    """Ours: the integers, and the bytes of their ONNX file."""

    def calibrated(**options: Any) -> Callable[[], Result]:
        settings = {"num_bits": bits, "per_channel": (per_channel, False)}
        found = qat.calibrate(task.graph, task.params, task.images, **settings, **options)
        return partial(deployed, found)

    def deployed(found: Checkpoint) -> Result:
        backend, path = qat.backend(task.args.backend), task.out / "qat.onnx"
        if importlib.util.find_spec("onnx"):
            qat.target("onnx").export(qat.to_integer(found.graph, found.params), path)
        predict = partial(backend.predict, backend.lower(found.graph, found.params))
        return Result(predict, path.stat().st_size if path.exists() else None)

    yield DEFAULTS, calibrated
    plain = {"method": "minmax", "equalize": False, "bias_correction": False}
    yield "min/max", partial(calibrated, **plain)
    if hasattr(qat, "LearnedRounding"):
        yield "learned rounding", lambda: calibrated(rounding=qat.LearnedRounding())


def by_onnxruntime(task: Task, bits: tuple[int, int], per_channel: bool) -> Iterator[Way]:
    """ONNX Runtime's quantize_static after its own preparation: QDQ, activations asymmetric, weights symmetric."""
    import onnxruntime
    from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        """Single images; some at a time, since ONNX Runtime holds all activations of a part."""

        def __init__(self) -> None:
            self.set_range(0, len(task.real))

        def __len__(self) -> int:
            return len(task.real)

        def set_range(self, start_index: int, end_index: int) -> None:
            self.rest = iter(task.real[start_index:end_index])

        def get_next(self) -> dict[str, np.ndarray] | None:
            image = next(self.rest, None)
            return None if image is None else {"x": image[np.newaxis]}

    plain, prepared, path = (task.out / f"{name}.onnx" for name in ("float", "prepared", "onnxruntime"))
    with silent():
        torch.onnx.export(
            *(task.module, torch.from_numpy(task.real[:2]), plain),
            input_names=["x"],
            output_names=["y"],
            opset_version=21,
            dynamo=False,
            dynamic_axes={"x": {0: "n"}, "y": {0: "n"}},
        )
        quant_pre_process(plain, prepared, skip_symbolic_shape=True)

    def calibrated(method: CalibrationMethod) -> Callable[[], Result]:
        with silent():
            quantize_static(
                *(prepared, path, Reader()),
                per_channel=per_channel,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8 if bits[0] == 8 else QuantType.QInt4,
                calibrate_method=method,
                extra_options={"CalibStridedMinMax": math.gcd(len(task.real), BATCH)},
            )
        return deployed

    def deployed() -> Result:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads_in_use() or 1
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        entry: Any = task.graph.inputs[0].cell

        def predict(images: np.ndarray) -> np.ndarray:
            real = entry.real_numbers(images)
            return np.concatenate(
                [session.run(None, {"x": real[i : i + BATCH]})[0] for i in range(0, len(real), BATCH)]
            )

        return Result(predict, path.stat().st_size)

    for method in (CalibrationMethod.MinMax, CalibrationMethod.Entropy, CalibrationMethod.Percentile):
        yield method.name, partial(calibrated, method)


def by_mct(task: Task, bits: tuple[int, int], per_channel: bool) -> Iterator[Way]:
    """The Model Compression Toolkit, for its own target (ranges of activations are powers of two), and for the same with any
    range and zero point, as ours; and its gradient-based quantization, of weights and biases over --epochs.
    """
    import model_compression_toolkit as mct
    from mct_quantizers import QuantizationMethod
    from model_compression_toolkit.target_platform_capabilities.tpc_models.imx500_tpc.v1_0 import tpc

    def capabilities(**activations: Any) -> Any:
        base, _, other = tpc.get_op_quantization_configs()
        kernel = {"weights_n_bits": bits[0], "weights_per_channel_threshold": per_channel}
        base = base.clone_and_edit(attr_to_edit={"kernel_attr": kernel}, **activations)
        return tpc.generate_tpc(other.clone_and_edit(**activations), base, [base], "benchmark")

    def data() -> Iterator[list[torch.Tensor]]:
        for start in range(0, len(task.real), BATCH):
            yield [torch.from_numpy(task.real[start : start + BATCH])]

    def calibrated(target: Any, *, learned: bool) -> Callable[[], Result]:
        torch.manual_seed(task.args.seed)
        with silent():
            if learned:
                config = mct.gptq.get_pytorch_gptq_config(task.args.epochs, hessian_batch_size=BATCH)
                found, _ = mct.gptq.pytorch_gradient_post_training_quantization(
                    task.module, data, gptq_config=config, target_platform_capabilities=target
                )
            else:
                found, _ = mct.ptq.pytorch_post_training_quantization(
                    task.module, data, target_platform_capabilities=target
                )
        entry: Any = task.graph.inputs[0].cell
        return lambda: Result(lambda images: in_batches(found.eval(), entry.real_numbers(images)), None)

    uniform = {"activation_quantization_method": QuantizationMethod.UNIFORM}
    yield "its target", partial(calibrated, capabilities(), learned=False)
    yield "any range", partial(calibrated, capabilities(**uniform), learned=False)
    if bits[0] < 8:
        yield (
            f"any range, gradient-based, {task.args.epochs} epochs",
            partial(calibrated, capabilities(**uniform), learned=True),
        )


TOOLS = {"qat": by_qat, "onnxruntime": by_onnxruntime, "mct": by_mct}

if __name__ == "__main__":
    sys.exit(run_script(add_arguments, run, __doc__))
