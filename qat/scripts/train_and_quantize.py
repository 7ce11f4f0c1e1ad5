"""From pixels to a microcontroller: train a float network, quantize it after training, write int8 TensorFlow Lite and C.

As the document of the WE-I Plus board has it, but calibrated on training images, and with every output code of the file
compared with its integers.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import qat
from qat.cli import run_script
from qat.console import print_table, result, wrote
from qat.deploy.c_array import c_array, is_c_array
from qat.deploy.verify import export_verified
from qat.errors import QatError
from qat.integer.memory import activation_memory
from qat.names import check_included
from qat.scripts.common.calibration import add_calibration_arguments, calibrated, check_calibration
from qat.scripts.common.files import load_data, read_data
from qat.scripts.common.flags import add_backend_arguments, add_network_argument, fitted_network, seed
from qat.scripts.common.plan import add_writing_arguments, check_outputs, of_data, of_graph, stop_if_dry
from qat.scripts.common.printing import print_certificate
from qat.scripts.common.quantization import add_quantization_arguments, quantization_settings
from qat.scripts.common.tasks import add_task_argument, with_task
from qat.tables import counted
from qat.tasks import main
from qat.training.checkpoint import Checkpoint
from qat.training.lengths import span_of
from qat.training.loop import evaluate_metrics, train
from qat.training.optimizer import Optimizer
from qat.training.recipe import Recipe

FORMAT = "TFLITE"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's flags."""
    parser.add_argument("--epochs", type=int, default=5, help="passes over the training images")
    parser.add_argument("--batch-size", "--batch_size", type=int, default=64, help="images a step")
    parser.add_argument(
        "--save-model-name", "--save_model_name", default="mnist_cnn", help="name of the files, without an ending"
    )
    parser.add_argument("--data_path", default="MNIST_Data", help="folder of MNIST, as 'qat data mnist' makes it")
    add_network_argument(parser, fitted=True)
    add_backend_arguments(parser)
    parser.add_argument("--lr", type=float, default=0.003, help="peak learning rate of Adam, falling as half a cosine")
    parser.add_argument("--seed", type=seed, default=0, help="seed of weights, of the order and the choice of images")
    parser.add_argument(
        "--qat_epochs", type=int, default=0, help="quantization-aware epochs after calibration; 0: none"
    )
    parser.add_argument("--qat_lr", type=float, default=0.0003, help="peak learning rate of these")
    add_task_argument(parser, "classification")
    add_calibration_arguments(parser)
    add_quantization_arguments(parser)
    add_writing_arguments(parser)
    parser.set_defaults(network="mnist_cnn", arithmetic="fixed")


def run(args: argparse.Namespace) -> int:
    """Run the command. Returns the exit status."""
    name = args.save_model_name.removesuffix(".tflite")
    if not Path(name).name:
        raise QatError(
            f"--save-model-name {args.save_model_name!r}: is a folder, or nothing; give the name of the files"
        )
    if args.qat_epochs < 0:
        raise QatError(f"--qat_epochs is {args.qat_epochs}; use 0 for none, or a positive number")
    files = {ending: Path(f"{name}.{ending}") for ending in ("tflite", "cc", "h", "ckpt")}
    recipe = Recipe(
        epochs=args.epochs,
        batch_size=args.batch_size,
        lr=args.lr,
        seed=args.seed,
        optimizer=Optimizer("adam"),
    )
    backend, target = qat.backend(args.backend), qat.target(FORMAT)
    check_included(files["h"].name)
    check_outputs(args, files["tflite"], files["ckpt"])
    in_c = files["cc"], files["h"]
    check_outputs(args, *in_c, own=lambda path: is_c_array(path, files["tflite"].name, files["h"].name))
    dataset = read_data(args.data_path)
    graph = fitted_network(args, dataset)
    dataset = load_data(dataset, graph)
    check_calibration(args, dataset)
    fine = replace(recipe, epochs=args.qat_epochs, lr=args.qat_lr) if args.qat_epochs else None
    settings = quantization_settings(args, span_of(dataset, fine) if fine else None)
    quantized_graph = qat.convert_quant_network(graph, **settings)  # raises now, where a setting is wrong
    qat.to_integer(quantized_graph, quantized_graph.observed_params())

    stop_if_dry(
        args,
        f"train {counted(args.epochs, 'epoch')}, calibrate, "
        + (f"train {args.qat_epochs} more, " if fine else "")
        + "and export",
        reads=[(args.network, of_graph(graph)), (args.data_path, of_data(dataset))],
        writes=list(files.values()),
    )
    start = with_task(args, Checkpoint(graph, graph.initial_params(args.seed)))
    checkpoint = train(backend, start, dataset, recipe, device_target=args.device_target)
    before = evaluate_metrics(backend, checkpoint, dataset.test, device_target=args.device_target)
    quantized = calibrated(args, checkpoint, dataset, **settings)
    if fine:
        quantized = train(backend, quantized, dataset, fine, device_target=args.device_target)
    quantized.save(files["ckpt"])

    def as_c(content: bytes) -> dict[Path, bytes]:
        header, source = c_array(content, files["tflite"].name, files["h"].name)
        return {files["cc"]: source.encode(), files["h"]: header.encode()}

    certificate = export_verified(
        files["tflite"],
        target,
        backend,
        quantized,
        dataset.test,
        data=f"{dataset.name}, test samples",
        device_target=args.device_target,
        beside=as_c,
    )
    print_certificate(certificate)
    task, after = quantized.task, certificate.comparisons[0].metrics
    metric, value = main(before)
    lost = task.lost(metric, value, after[metric])
    name = task.label(metric, short=True)
    print_table(
        f"{graph.name} on {dataset.name}",
        ("", ""),
        [
            (f"{name} before quantization", task.value(metric, value)),
            (f"{name} of {files['tflite'].name}", task.value(metric, after[metric])),
            (f"{name} lost", f"{100 * lost:.2f} points" if task.is_percent(metric) else f"{lost:.4g}"),
            (f"bytes of {files['tflite'].name}", f"{files['tflite'].stat().st_size:,}"),
            (
                "peak bytes of activations",
                f"{activation_memory(qat.to_integer(quantized.graph, quantized.params)).size:,}",
            ),
        ],
        None,
    )
    for path in files.values():
        wrote(path, "wrote")
    result(metrics_before=before, metrics=after)
    return 0 if certificate.passed else 1


if __name__ == "__main__":
    sys.exit(run_script(add_arguments, run, __doc__))
