"""Post-training quantization: find ranges on training images, without training, and save the quantized checkpoint.

With --target_drop, the fewest layers get more bits until no more than that is lost; settings that repeat it are written, too.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import qat
from qat.cli import run_script
from qat.console import result, wrote
from qat.files import write_atomically
from qat.scripts.common.calibration import add_calibration_arguments, calibrated, check_calibration
from qat.scripts.common.files import check_checkpoint_path, load_checkpoint, load_data
from qat.scripts.common.flags import add_backend_arguments, add_checkpoint_argument, add_data_argument, seed
from qat.scripts.common.plan import add_writing_arguments, check_outputs, of_data, of_graph, stop_if_dry
from qat.scripts.common.printing import print_accuracies
from qat.scripts.common.quantization import add_quantization_arguments, quantization_settings
from qat.scripts.common.repair import add_repair_arguments, config_path, repaired, wants_repair
from qat.scripts.common.tasks import add_task_argument, with_task
from qat.tables import counted
from qat.training.loop import check_labels


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's flags."""
    add_data_argument(parser, workers=True)
    add_checkpoint_argument(parser, "float network")
    add_backend_arguments(parser)
    parser.add_argument("--seed", type=seed, default=0, help="seed of the choice of images")
    parser.add_argument("--save_path", help="checkpoint file to write (default: <ckpt_path>_calibrated.ckpt)")
    add_task_argument(parser)
    add_calibration_arguments(parser)
    add_quantization_arguments(parser)
    add_repair_arguments(parser)
    add_writing_arguments(parser)


def run(args: argparse.Namespace) -> None:
    """Run the command."""
    checkpoint = with_task(args, load_checkpoint(args.ckpt_path, quantized=False))
    source = Path(args.ckpt_path)
    path = Path(args.save_path or source.with_name(f"{source.stem}_calibrated{source.suffix}"))
    repairs, written = wants_repair(args), config_path(path)
    check_checkpoint_path(path, {"--ckpt_path": args.ckpt_path}, "--save_path")
    for each in (path, written) if repairs else (path,):
        check_outputs(args, each)
    dataset = load_data(args.data_path, checkpoint, args)
    check_labels(checkpoint.graph, dataset, checkpoint.task)
    settings = quantization_settings(args)
    check_calibration(args, dataset)
    if args.dry_run:
        qat.convert_quant_network(checkpoint.graph, **settings)  # or its QatError
    stop_if_dry(
        args,
        f"calibrate on {counted(args.images, 'training image')}"
        + (", and raise layers until the target is met" if repairs else ""),
        reads=[(args.ckpt_path, of_graph(checkpoint.graph)), (args.data_path, of_data(dataset))],
        writes=[path, written] if repairs else [path],
    )
    if repairs:
        found = repaired(args, checkpoint, dataset, settings)
        quantized = found.checkpoint
        write_atomically(written, found.quant_config().encode())
    else:
        quantized = calibrated(args, checkpoint, dataset, **settings)
    quantized.save(path)
    result(network=quantized.graph.name, task=quantized.task.name, samples=len(dataset.test))
    print_accuracies(args, checkpoint, quantized, dataset)
    if repairs:
        wrote(written, "wrote", ", which repeats it: --quant_config")
    wrote(path)


if __name__ == "__main__":
    sys.exit(run_script(add_arguments, run, __doc__))
