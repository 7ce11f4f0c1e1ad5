"""The whole path on real digits: float training, quantization-aware training, export, certificate."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import qat
from qat.cli import run_script
from qat.console import print_table
from qat.deploy.floats import export_float
from qat.deploy.verify import export_verified
from qat.files import check_writable
from qat.networks import create
from qat.scripts.common.files import load_data
from qat.scripts.common.flags import add_backend_arguments
from qat.scripts.common.plan import add_writing_arguments, of_data, stop_if_dry
from qat.scripts.common.printing import main_value, print_certificate
from qat.tables import counted
from qat.training.checkpoint import Checkpoint
from qat.training.loop import evaluate_accuracy, train
from qat.training.recipe import Recipe


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's flags."""
    parser.add_argument(
        "--data_path", default="digits", help="'digits' for scikit-learn's embedded digits, or a folder of MNIST"
    )
    add_backend_arguments(parser)
    parser.add_argument("--out", default="out/demo", help="folder for the checkpoints and the exported files")
    add_writing_arguments(parser, replaces=False)


def run(args: argparse.Namespace) -> int:
    """Run the command. Returns the exit status."""
    out = Path(args.out)
    backend, target = qat.backend(args.backend), qat.target("ONNX")
    graph = create("lenet").graph()
    dataset = load_data(args.data_path, graph)
    names = ("lenet.ckpt", "lenet_quant.ckpt", "lenet_float.onnx", "lenet.onnx")
    stop_if_dry(
        args,
        "train, quantize, evaluate, export and verify",
        reads=[(args.data_path, of_data(dataset))],
        writes=[out / name for name in names],
    )
    check_writable(out / names[0])
    small = len(dataset.train) < 10_000
    recipe = Recipe(epochs=20 if small else 4, lr=0.02)
    print(f"{dataset.name}: {len(dataset.train):,} training and {counted(len(dataset.test), 'test image')}", flush=True)

    print("float training", flush=True)
    checkpoint = train(
        backend, Checkpoint(graph, graph.initial_params()), dataset, recipe, device_target=args.device_target
    )
    checkpoint.save(out / "lenet.ckpt")
    float_top1 = evaluate_accuracy(backend, checkpoint, dataset.test, device_target=args.device_target)

    print("quantization-aware training", flush=True)
    steps = len(dataset.train) // recipe.batch_size
    quantized_graph = qat.convert_quant_network(
        graph, num_bits=8, per_channel=(True, False), symmetric=(True, False), quant_delay=steps
    )
    params = quantized_graph.params_from(checkpoint.params)
    recipe = Recipe(epochs=10 if small else 4, lr=0.01)
    quantized = train(
        backend,
        checkpoint.derived(quantized_graph, params),
        dataset,
        recipe,
        device_target=args.device_target,
    )
    quantized.save(out / "lenet_quant.ckpt")

    float_file, file = out / "lenet_float.onnx", out / "lenet.onnx"
    export_float(target, graph, checkpoint.params, float_file)
    certificate = export_verified(
        file,
        target,
        backend,
        quantized,
        dataset.test,
        data=f"{dataset.name}, test samples",
        device_target=args.device_target,
    )
    sizes = [float_file.stat().st_size, file.stat().st_size]
    print_table(
        f"LeNet-5 on {dataset.name}",
        ("", "test accuracy", "file", "bytes", "smaller"),
        (
            ("float", f"{100 * float_top1:.2f} %", str(float_file), f"{sizes[0]:,}", ""),
            (
                "int8",
                main_value(certificate.task, certificate.reference_metrics),
                str(file),
                f"{sizes[1]:,}",
                f"{sizes[0] / sizes[1]:.2f} x",
            ),
        ),
    )
    print_certificate(certificate)
    return 0 if certificate.passed else 1


if __name__ == "__main__":
    sys.exit(run_script(add_arguments, run, __doc__))
