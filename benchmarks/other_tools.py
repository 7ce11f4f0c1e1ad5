"""Post-training quantization by other tools, of a network that they can read: what benchmarks/post_training.py compares."""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import math
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from qat.graph import Graph
from qat.training.devices import threads_in_use

BATCH = 16  #: images at a time that other tools are given


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
